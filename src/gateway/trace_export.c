#include "gateway/trace_export.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/metrics.h"
#include "loop/thread.h"
#include "net/http_client.h"

#define EVERY_MS 1000
#define WAKE_BYTES ((size_t)256 << 10)  /* sooner, when so much waits */
#define BATCH_BYTES ((size_t)1 << 20)
#define ANSWER_MS 5000
#define TRIES_MAX 4                     /* of a batch … */
#define AGAIN_MS 1000                   /* … doubled each time, unless the collector says when … */
#define AGAIN_MAX_MS 10000              /* … and never longer */
#define FLUSH_MS 2000
#define DEFAULT_PATH "/v1/traces"

/* Spans of one trace. */
struct finished {
    struct finished *next;
    size_t len;
    char text[];
};

struct trace_export {
    char *path, *host, *prefix; /* prefix: of each batch, up to the spans */
    struct loop_thread *thread;
    _Atomic(struct finished *) added; /* newest first */
    atomic_size_t bytes;              /* added, and not yet sent or dropped */
    struct metric *dropped_full, *dropped_large;
    /* The thread's: */
    struct http_pool *pool;
    struct http_call *call;
    struct timer timer;
    struct finished *waiting, **last; /* oldest first */
    struct sbuf batch;                /* what is being sent; empty: nothing */
    size_t batch_count, batch_bytes;
    int tries, status;
    uint64_t again_ms; /* the collector's wish; 0: none */
    struct iovec pieces[3];
    struct net_addr addr;
    bool failing;
    bool stopping; /* batches are tried once */
    /* Under lock: */
    pthread_mutex_t lock;
    pthread_cond_t empty;
    bool is_empty;
};

static struct metric *sent_total;
static struct metric_family *dropped_total;

static struct metric *dropped(const char *reason)
{
    return metric_series(dropped_total, (struct str[]){str_of(reason)});
}

void trace_export_init(void)
{
    static const char *const labels[] = {"reason", NULL};
    sent_total = metric_counter("seki_gateway_traces_sent_total", "Traces that the collector took.");
    dropped_total = metric_family("seki_gateway_traces_dropped_total", "Traces that were recorded and not sent.", METRIC_COUNTER, labels, 4, NULL, 0);
    dropped("full");
    dropped("large");
    dropped("refused");
    dropped("unreachable");
}

int trace_export_parse(const char *endpoint, struct net_addr *ret_addr, char ret_path[256], struct err *err)
{
    struct str text = str_of(endpoint), scheme = STR("http://");
    if (!str_starts(text, scheme))
        return err_set(err, ERR_INVALID, "expected http://ADDRESS:PORT of a collector on this machine, not \"%.100s\"", endpoint);
    text = str_skip(text, scheme.len);
    ssize_t slash = str_find(text, '/');
    struct str authority = slash < 0 ? text : str_n(text.ptr, (size_t)slash), path = slash < 0 ? STR_NULL : str_skip(text, (size_t)slash);
    int rc = net_addr_parse(authority, ret_addr, err);
    if (rc < 0)
        return rc;
    if (!net_addr_is_loopback(ret_addr) || ret_addr->sa.sa_family == AF_UNIX || !net_addr_port(ret_addr))
        return err_set(err, ERR_INVALID, "expected a loopback address with a port, not \"%.*s\": traces name tenants and keys, and go there in plain text", (int)MIN(authority.len, (size_t)100), authority.ptr);
    if (path.len < 2)
        path = STR(DEFAULT_PATH);
    for (size_t i = 0; i < path.len; i++)
        if (path.ptr[i] <= ' ' || path.ptr[i] == '#' || path.ptr[i] >= 0x7f)
            return err_set(err, ERR_INVALID, "a path with spaces, '#' or other than ASCII");
    if (!str_to_array(path, ret_path, 256))
        return err_set(err, ERR_INVALID, "a path of more than 255 bytes");
    return 0;
}

/* ---- the queue ---- */

static void on_timer(struct timer *t);

static void look(void *arg)
{
    struct trace_export *x = arg;
    if (!x->call && !x->tries)
        on_timer(&x->timer);
}

void trace_export_add(struct trace_export *x, struct str spans)
{
    if (!spans.len) {
        metric_add(x->dropped_large, 1);
        return;
    }
    size_t before = atomic_fetch_add(&x->bytes, spans.len);
    if (before + spans.len > TRACE_EXPORT_QUEUE_BYTES) {
        atomic_fetch_sub(&x->bytes, spans.len);
        metric_add(x->dropped_full, 1);
        return;
    }
    struct finished *f = xcalloc(1, sizeof(*f) + spans.len);
    f->len = spans.len;
    memcpy(f->text, spans.ptr, spans.len);
    f->next = atomic_load(&x->added);
    while (!atomic_compare_exchange_weak(&x->added, &f->next, f))
        ;
    if (before < WAKE_BYTES && before + spans.len >= WAKE_BYTES)
        loop_post(loop_thread_loop(x->thread), look, x);
}

/* What was added, in its order, goes behind what waits. */
static void take_added(struct trace_export *x)
{
    struct finished *newest = atomic_exchange(&x->added, NULL), *oldest = NULL;
    while (newest) {
        struct finished *f = newest;
        newest = f->next;
        f->next = oldest;
        oldest = f;
    }
    for (*x->last = oldest; *x->last; x->last = &(*x->last)->next)
        ;
}

static bool make_batch(struct trace_export *x)
{
    sbuf_reset(&x->batch);
    x->batch_count = x->batch_bytes = 0;
    while (x->waiting && x->batch.len + x->waiting->len < BATCH_BYTES) {
        struct finished *f = x->waiting;
        if (x->batch_count++)
            sbuf_add_char(&x->batch, ',');
        sbuf_add(&x->batch, str_n(f->text, f->len));
        x->batch_bytes += f->len;
        x->waiting = f->next;
        mem_free(f);
    }
    if (!x->waiting)
        x->last = &x->waiting;
    return x->batch_count;
}

static void tell_empty(struct trace_export *x)
{
    pthread_mutex_lock(&x->lock);
    x->is_empty = true;
    pthread_cond_signal(&x->empty);
    pthread_mutex_unlock(&x->lock);
}

/* ---- sending ---- */

static void send_batch(struct trace_export *x);

static void next_batch(struct trace_export *x)
{
    x->tries = 0;
    take_added(x);
    if (make_batch(x)) {
        send_batch(x);
        return;
    }
    if (x->stopping)
        tell_empty(x);
    timer_start(&x->timer, EVERY_MS);
}

/* The batch is done with: sent (reason NULL), or dropped. Small ones are not sent one after the other, but gathered. */
static void end_batch(struct trace_export *x, const char *reason, const char *why)
{
    metric_add(reason ? dropped(reason) : sent_total, x->batch_count);
    atomic_fetch_sub(&x->bytes, x->batch_bytes);
    if (reason && !x->failing)
        log_warn("traces are dropped: the collector does not take them", KV("host", x->host), KV("reason", why));
    else if (!reason && x->failing)
        log_info("the collector takes traces again");
    x->failing = reason != NULL;
    x->tries = 0;
    sbuf_reset(&x->batch);
    if (x->stopping || atomic_load(&x->bytes) >= WAKE_BYTES)
        next_batch(x);
    else
        timer_start(&x->timer, EVERY_MS);
}

static void try_again(struct trace_export *x, const char *reason, const char *why)
{
    if (x->stopping || x->tries >= TRIES_MAX) {
        end_batch(x, reason, why);
        return;
    }
    uint64_t wait_ms = x->again_ms ? x->again_ms : (uint64_t)AGAIN_MS << (x->tries - 1);
    timer_start(&x->timer, MIN(wait_ms, (uint64_t)AGAIN_MAX_MS));
}

static void on_head(void *arg, const struct http_head *head)
{
    struct trace_export *x = arg;
    int64_t seconds;
    x->status = head->status;
    if (str_to_i64(http_header_get(head, "Retry-After"), 1, 3600, &seconds) == 0)
        x->again_ms = (uint64_t)seconds * 1000;
}

static void on_body(void *arg UNUSED, struct str bytes UNUSED)
{
}

/* As OTLP has it: these mean that the same may be sent again. */
static bool may_repeat(int status)
{
    return status == 429 || status == 502 || status == 503 || status == 504;
}

static void on_end(void *arg)
{
    struct trace_export *x = arg;
    char why[64];
    x->call = NULL;
    if (x->status >= 200 && x->status < 300) {
        end_batch(x, NULL, NULL);
        return;
    }
    snprintf(why, sizeof(why), "it answers with status %d", x->status);
    if (may_repeat(x->status))
        try_again(x, "refused", why);
    else
        end_batch(x, "refused", why);
}

static void on_error(void *arg, const struct err *err)
{
    struct trace_export *x = arg;
    x->call = NULL;
    try_again(x, "unreachable", err->msg);
}

static void send_batch(struct trace_export *x)
{
    static const struct http_call_ops ops = {.on_head = on_head, .on_body = on_body, .on_end = on_end, .on_error = on_error};
    static const struct http_header headers[] = {{{"Content-Type", 12}, {"application/json", 16}}, {{"User-Agent", 10}, {"seki-gateway", 12}}};
    static const char suffix[] = "]}]}]}";
    x->pieces[0] = (struct iovec){x->prefix, strlen(x->prefix)};
    x->pieces[1] = (struct iovec){x->batch.ptr, x->batch.len};
    x->pieces[2] = (struct iovec){(char *)(uintptr_t)suffix, sizeof(suffix) - 1};
    struct http_call_options o = {.method = "POST", .target = x->path, .headers = headers, .header_count = ARRAY_LEN(headers), .body = x->pieces, .body_count = ARRAY_LEN(x->pieces),
                                  .first_byte_timeout_ms = ANSWER_MS, .idle_timeout_ms = ANSWER_MS};
    x->tries++;
    x->status = 0;
    x->again_ms = 0;
    x->call = http_call_start(x->pool, &o, &ops, x);
    if (!x->call)
        try_again(x, "unreachable", "memory is short");
}

static void on_timer(struct timer *t)
{
    struct trace_export *x = t->arg;
    timer_stop(t);
    if (x->call)
        return;
    if (x->tries)
        send_batch(x);
    else
        next_batch(x);
}

/* ---- the whole ---- */

static int init(struct loop *l, void *arg, struct err *err UNUSED)
{
    struct trace_export *x = arg;
    struct http_pool_options o = {.addr = x->addr, .host = x->host, .max_idle = 1, .connect_timeout_ms = ANSWER_MS};
    x->pool = http_pool_new(l, &o);
    timer_init(&x->timer, l, on_timer, x);
    timer_start(&x->timer, EVERY_MS);
    return 0;
}

static void deinit(struct loop *l UNUSED, void *arg)
{
    struct trace_export *x = arg;
    timer_stop(&x->timer);
    if (x->call)
        http_call_cancel(x->call);
    http_pool_free(x->pool);
    take_added(x);
    uint64_t left = x->batch.len ? x->batch_count : 0;
    for (struct finished *f; (f = x->waiting); left++) {
        x->waiting = f->next;
        mem_free(f);
    }
    metric_add(dropped("unreachable"), left);
}

static void free_export(struct trace_export *x)
{
    sbuf_deinit(&x->batch);
    pthread_cond_destroy(&x->empty);
    pthread_mutex_destroy(&x->lock);
    mem_free(x->prefix);
    mem_free(x->path);
    mem_free(x->host);
    mem_free(x);
}

static char *make_prefix(const char *instance)
{
    struct sbuf b = {0};
    sbuf_init(&b, 4096);
    sbuf_addc(&b, "{\"resourceSpans\":[{\"resource\":{\"attributes\":[{\"key\":\"service.name\",\"value\":{\"stringValue\":\"seki-gateway\"}},{\"key\":\"service.version\",\"value\":"
                  "{\"stringValue\":\"" SEKI_RELEASE "\"}},{\"key\":\"service.instance.id\",\"value\":{\"stringValue\":");
    sbuf_add_json(&b, str_of(instance));
    sbuf_addc(&b, "}}]},\"scopeSpans\":[{\"scope\":{\"name\":\"seki.gateway\",\"version\":\"" SEKI_RELEASE "\"},\"spans\":[");
    return sbuf_take(&b);
}

int trace_export_start(const struct trace_export_options *o, struct trace_export **ret, struct err *err)
{
    struct trace_export *x = XNEW(struct trace_export);
    char path[256], host[NET_ADDR_TEXT_MAX];
    pthread_condattr_t attr;
    int rc = trace_export_parse(o->endpoint, &x->addr, path, err);
    if (rc < 0) {
        mem_free(x);
        return rc;
    }
    net_addr_format(&x->addr, host);
    x->path = xstrdup(path);
    x->host = xstrdup(host);
    x->prefix = make_prefix(o->instance);
    x->last = &x->waiting;
    x->dropped_full = dropped("full");
    x->dropped_large = dropped("large");
    sbuf_init(&x->batch, BATCH_BYTES + 1024);
    pthread_mutex_init(&x->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&x->empty, &attr);
    pthread_condattr_destroy(&attr);
    static const struct loop_thread_ops ops = {init, deinit};
    rc = loop_thread_start("traces", &ops, x, &x->thread, err);
    if (rc < 0) {
        free_export(x);
        return rc;
    }
    *ret = x;
    return 0;
}

static void begin_to_stop(void *arg)
{
    struct trace_export *x = arg;
    x->stopping = true;
    if (!x->call)
        on_timer(&x->timer);
}

void trace_export_stop(struct trace_export *x)
{
    if (!x)
        return;
    uint64_t until_ms = clock_mono_ms() + FLUSH_MS;
    struct timespec until = {.tv_sec = (time_t)(until_ms / 1000), .tv_nsec = (long)(until_ms % 1000) * 1000000L};
    loop_post(loop_thread_loop(x->thread), begin_to_stop, x);
    pthread_mutex_lock(&x->lock);
    while (!x->is_empty && pthread_cond_timedwait(&x->empty, &x->lock, &until) != ETIMEDOUT)
        ;
    pthread_mutex_unlock(&x->lock);
    loop_thread_stop(x->thread);
    free_export(x);
}
