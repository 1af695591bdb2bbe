/* The process's gateway: one loop a core on one port, the journal, the feed of snapshots; starting, draining, ending. */
#include "gateway/gateway.h"

#include <errno.h>
#include <pthread.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "gateway/cold.h"
#include "gateway/internal.h"
#include "gateway/load_report.h"
#include "gateway/series.h"

#define SERIES_MAX 2000
#define MODEL_SERIES_MAX 500
#define AUDIT_ROOM (1024 * 1024) /* of the disk, ahead: refusals are counted together, so that this is thousands of records */
#define THREADS_MAX 256
#define SNAPSHOT_WAIT_MS 30000 /* of a gateway that takes over … */
#define API_WAIT_MS 5000       /* … which has a saved one */

/* The boundaries that OpenTelemetry's conventions for generative AI ask for, seconds. */
static const double duration_buckets[] = {0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92};
static const double first_buckets[] = {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10};
static const double queue_buckets[] = {0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120};
static const double hold_buckets[] = {0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640};
static const double per_token_buckets[] = {0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5};

static void make_metrics(struct gateway *g)
{
    struct gateway_metrics *m = &g->metrics;
    static const char *const request_labels[] = {"route", "status", "outcome", NULL};
    static const char *const token_labels[] = {"project", "endpoint", "type", NULL};
    static const char *const model_labels[] = {"gen_ai_operation_name", "gen_ai_request_model", "error_type", NULL};
    static const char *const reason_labels[] = {"reason", NULL};
    static const char *const limit_labels[] = {"scope", "unit", NULL};
    m->active = metric_gauge("seki_gateway_requests_active", "Inference requests between their complete body and their last byte.");
    m->requests = metric_family("seki_gateway_requests_total", "Inference requests that have ended.", METRIC_COUNTER, request_labels, SERIES_MAX, NULL, 0);
    m->tokens = metric_family("seki_gateway_tokens_total", "Tokens used; cached ones are among the input.", METRIC_COUNTER, token_labels, SERIES_MAX, NULL, 0);
    m->duration = metric_family("gen_ai_server_request_duration_seconds", "From the first byte of a request to the last of its answer.", METRIC_HISTOGRAM, model_labels,
                                MODEL_SERIES_MAX, duration_buckets, ARRAY_LEN(duration_buckets));
    m->first = metric_family("gen_ai_server_time_to_first_token_seconds", "From the first byte of a request to the first of the engine's answer.", METRIC_HISTOGRAM,
                             model_labels, MODEL_SERIES_MAX, first_buckets, ARRAY_LEN(first_buckets));
    m->per_token = metric_family("gen_ai_server_time_per_output_token_seconds", "Of a stream, after its first token.", METRIC_HISTOGRAM, model_labels, MODEL_SERIES_MAX,
                                 per_token_buckets, ARRAY_LEN(per_token_buckets));
    m->upstream_errors = metric_family("seki_gateway_upstream_errors_total", "Attempts that an engine failed.", METRIC_COUNTER, reason_labels, 16, NULL, 0);
    m->put_aside = metric_counter("seki_gateway_replicas_put_aside_total", "Times that a replica was put aside, as it failed.");
    m->fell_over = metric_counter("seki_gateway_fall_overs_total", "Requests to a ModelRoute that another backend got, as no replica of the one before could serve them.");
    m->queue_seconds = metric_series(metric_family("seki_gateway_queue_seconds", "How long requests waited for a replica that had room, of those that had to.", METRIC_HISTOGRAM, NULL, 1,
                                                 queue_buckets, ARRAY_LEN(queue_buckets)), NULL);
    latency_init(&m->latency);
    slo_init(&m->slo);
    m->hold_seconds = metric_series(metric_family("seki_gateway_hold_seconds", "How long requests were held for an endpoint's first replica to serve, of those that were.", METRIC_HISTOGRAM, NULL, 1,
                                                hold_buckets, ARRAY_LEN(hold_buckets)), NULL);
    static const char *const result_labels[] = {"result", NULL};
    m->hedges = metric_family("seki_gateway_hedges_total", "Streams that were sent to a second replica, as the first was slow to write.", METRIC_COUNTER, result_labels, 4, NULL, 0);
    m->recounts = metric_family("seki_gateway_recounts_total", "Streams that ended without their engine's usage, by what its tokenizer said: counted, text (but not the prompt), failed.",
                                METRIC_COUNTER, result_labels, 4, NULL, 0);
    m->limited = metric_family("seki_gateway_limited_total", "Requests that a limit of their key, project or tenant refused.", METRIC_COUNTER, limit_labels, 16, NULL, 0);
}

static double waiting(void *arg UNUSED)
{
    return (double)dispatch_waiting();
}

static double snapshot_age(void *arg)
{
    struct gateway *g = arg;
    return feed_age_seconds(g->feed);
}

/* ---- loops ---- */

static void release_pool(void *value)
{
    http_pool_free(value);
}

struct http_pool *gateway_loop_pool(struct gateway_loop *l, const struct snap_replica *replica)
{
    struct gateway *g = l->gateway;
    struct http_pool *p = map_getc(l->pools, replica->target->name);
    if (p && net_addr_equal(http_pool_addr(p), &replica->addr))
        return p;
    struct http_pool_options o = {.addr = replica->addr, .tls = replica->tls ? g->upstream_tls : NULL, .host = replica->host, .connect_timeout_ms = g->o.connect_timeout_ms};
    p = http_pool_new(l->loop, &o);
    map_set(l->pools, str_of(replica->target->name), p); /* in place of one where the engine's name led before, whose calls go on */
    return p;
}

static void on_look(struct timer *t)
{
    struct gateway_loop *l = t->arg;
    kept_away_flush(l->gateway->kept_away, clock_mono_ms());
    refused_flush(l->gateway->refused, clock_mono_ms());
    timer_start(t, KEPT_AWAY_LOOK_MS);
}

static int loop_init(struct loop *loop, void *arg, struct err *err)
{
    struct gateway_loop *l = arg;
    const struct gateway_options *o = &l->gateway->o;
    size_t index = (size_t)(l - l->gateway->loops);
    struct http_server_options s = {.listen = l->gateway->bound,
                                    .listen_fd = index < o->listen_count ? o->listen_fds[index] : 0,
                                    .reuse_port = true,
                                    .tls = o->tls,
                                    .max_connections = o->max_connections,
                                    .connections = &l->gateway->connections,
                                    .shares = o->address_share < 100 ? &l->gateway->shares : NULL,
                                    .max_body_bytes = o->max_body_bytes,
                                    .head_timeout_ms = o->head_timeout_ms,
                                    .body_timeout_ms = o->body_timeout_ms,
                                    .server_name = "seki"};
    l->loop = loop;
    l->pools = map_new(release_pool);
    dispatch_inbox_init(&l->inbox, loop);
    slices_inbox_init(&l->leases, l->gateway->slices, loop);
    records_init(l);
    TAILQ_INIT(&l->recounts);
    int rc = http_server_start(loop, &s, &gateway_server_ops, l, &l->server, err);
    if (rc < 0) {
        dispatch_inbox_deinit(&l->inbox);
        map_free(l->pools);
        records_deinit(l);
        return rc;
    }
    http_server_addr(l->server, &l->gateway->bound); /* the first one's port is everybody's */
    timer_init(&l->look, loop, on_look, l);
    if (l == l->gateway->loops)
        timer_start(&l->look, KEPT_AWAY_LOOK_MS);
    return 0;
}

static void loop_deinit(struct loop *loop UNUSED, void *arg)
{
    struct gateway_loop *l = arg;
    l->stopping = true;
    timer_stop(&l->look);
    records_flush(l);
    http_server_free(l->server);
    recounts_stop(l);
    records_deinit(l);
    map_free(l->pools);
    series_memos_drop(l->series, SERIES_MEMOS);
    snapshot_unref(l->snapshot);
}

/* SO_REUSEPORT would share the port with a stranger of the same user without a word. */
static int check_port_is_free(const struct net_addr *addr, struct err *err)
{
    int fd = -1;
    int rc = net_addr_port(addr) ? net_listen(addr, false, &fd, NULL, err) : 0;
    if (fd >= 0)
        close(fd);
    return rc;
}

/* Whoever takes over is to serve from his first connection on, and whom the old one served: with the file's snapshot only when the API is down. */
static int wait_for_snapshot(struct gateway *g, struct err *err)
{
    uint64_t begun_ms = clock_mono_ms();
    while (!feed_is_live(g->feed)) {
        uint64_t waited_ms = clock_mono_ms() - begun_ms;
        if (waited_ms > API_WAIT_MS && feed_version(g->feed))
            return 0;
        if (waited_ms > SNAPSHOT_WAIT_MS)
            return err_set(err, ERR_TIMEOUT, "no routing snapshot came within %d s", SNAPSHOT_WAIT_MS / 1000);
        usleep(10000);
    }
    return 0;
}

static int start_loops(struct gateway *g, struct err *err)
{
    static const struct loop_thread_ops ops = {loop_init, loop_deinit};
    int rc = g->o.listen_count ? 0 : check_port_is_free(&g->o.listen, err), count = g->loop_count;
    g->bound = g->o.listen;
    g->loops = xcalloc((size_t)count, sizeof(*g->loops));
    for (int i = 0; i < count && rc == 0; i++) {
        char name[16];
        snprintf(name, sizeof(name), "gateway-%d", i);
        g->loops[i].gateway = g;
        rc = loop_thread_start(name, &ops, &g->loops[i], &g->loops[i].thread, err);
    }
    return rc;
}

/* ---- the whole ---- */

static void fill_defaults(struct gateway_options *o)
{
    if (!o->name)
        o->name = "gateway";
    if (!o->max_body_bytes)
        o->max_body_bytes = 16u << 20;
    if (!o->bodies_bytes)
        o->bodies_bytes = (size_t)1 << 30;
    if (!o->tenant_bodies_bytes)
        o->tenant_bodies_bytes = (size_t)256 << 20;
    o->bodies_bytes = MAX(o->bodies_bytes, o->max_body_bytes);
    o->tenant_bodies_bytes = MAX(o->tenant_bodies_bytes, o->max_body_bytes);
    if (!o->max_connections)
        o->max_connections = 9000;
    if (!o->address_share)
        o->address_share = 50;
    if (!o->connect_timeout_ms)
        o->connect_timeout_ms = 2000;
    if (!o->first_byte_timeout_ms)
        o->first_byte_timeout_ms = 600000;
    if (!o->idle_timeout_ms)
        o->idle_timeout_ms = 300000;
    if (!o->queue_max)
        o->queue_max = 1000;
    if (!o->hold_timeout_ms)
        o->hold_timeout_ms = 300000;
    if (!o->queue_timeout_ms)
        o->queue_timeout_ms = 60000;
}

static void let_place_go(void *arg, void *held)
{
    struct open_request *place = held;
    open_request_end(arg, &place);
}

static int thread_count(const struct gateway_options *o)
{
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    int n = o->threads > 0 ? o->threads : (int)MAX(cores, 1L);
    return o->listen.sa.sa_family == AF_UNIX ? 1 : MIN(n, THREADS_MAX);
}

int gateway_start(const struct gateway_options *o, struct gateway **ret, struct err *err)
{
    if (!o->tls && !net_addr_is_loopback(&o->listen))
        return err_field(err, ERR_INVALID, "gateway-listen", "plain text is served on loopback only; give a certificate");
    struct gateway *g = XNEW(struct gateway);
    pthread_condattr_t attr;
    g->o = *o;
    g->o.tls = tls_ctx_ref(o->tls);
    fill_defaults(&g->o);
    conn_shares_init(&g->shares, g->o.max_connections * (size_t)g->o.address_share / 100, g->o.trusted);
    snprintf(g->audit_name, sizeof(g->audit_name), "audit-%s", g->o.name);
    g->loop_count = MAX(thread_count(o), (int)o->listen_count);
    pthread_mutex_init(&g->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&g->drained, &attr);
    pthread_condattr_destroy(&attr);
    make_metrics(g);
    trace_export_init();
    decision_log_init();
    int rc = tls_client_ctx(NULL, NULL, NULL, &g->upstream_tls, err);
    if (rc == 0)
        rc = journal_open(o->journal_dir, g->o.name, &g->journal, err);
    if (rc == 0 && o->open_file)
        g->open = open_requests_new(o->open_file, o->journal_dir, g->journal, g->o.max_connections);
    if (g->open)
        journal_on_written(g->journal, let_place_go, g->open);
    if (rc == 0)
        rc = audit_log_open(&(struct audit_log_options){o->journal_dir, g->audit_name, NULL}, &g->audit, err);
    if (rc == 0) {
        audit_log_keep_room(g->audit, AUDIT_ROOM);
        g->kept_away = kept_away_new(g->audit);
        g->refused = refused_new(g->journal);
    }
    if (rc == 0)
        rc = feed_start(o->client, o->snapshot_file, &g->o.engines, &g->feed, err);
    if (rc == 0 && o->listen_count)
        rc = wait_for_snapshot(g, err);
    if (rc == 0)
        g->report = load_report_new(g);
    if (rc == 0)
        rc = slices_start(&(struct slices_options){.client = o->client, .gateway = g->o.name, .journal = g->journal, .budgets = feed_budgets(g->feed),
                                                     .limits = feed_limits(g->feed), .shares_file = o->shares_file, .other_shares_file = o->other_shares_file}, &g->slices, err);
    if (rc == 0 && o->otlp_endpoint && *o->otlp_endpoint)
        rc = trace_export_start(&(struct trace_export_options){.endpoint = o->otlp_endpoint, .instance = g->o.name}, &g->traces, err);
    if (rc == 0 && o->decisions_per_million)
        rc = decision_log_start(&(struct decision_log_options){.file = o->decisions_file, .max_bytes = o->decisions_max_bytes}, &g->decisions, err);
    if (rc == 0)
        rc = start_loops(g, err);
    if (rc == 0)
        rc = load_report_start(g->report, err);
    if (rc < 0) {
        gateway_free(g);
        return rc;
    }
    metric_gauge_fn("seki_gateway_requests_waiting", "Requests that wait for a replica with room.", waiting, g);
    metric_gauge_fn("seki_gateway_requests_held", "Requests that wait for an endpoint's first replica to serve.", cold_held, g);
    metric_gauge_fn("seki_gateway_body_bytes", "Bytes of request bodies that are held, or expected, of bodies over 4 KiB, and of whole answers over 64 KiB.", body_room_bytes, g);
    metric_gauge_fn("seki_gateway_snapshot_age_seconds", "Since the routing snapshot was last known to be what the API has; -1: there is none.", snapshot_age, g);
    *ret = g;
    return 0;
}

void gateway_addr(const struct gateway *g, struct net_addr *ret)
{
    *ret = g->bound;
}

size_t gateway_listeners(const struct gateway *g, int *fds, size_t max)
{
    size_t n = 0;
    for (; n < (size_t)g->loop_count && n < max; n++)
        fds[n] = http_server_fd(g->loops[n].server);
    return n;
}

int gateway_ready(struct gateway *g, struct err *err)
{
    if (!feed_version(g->feed))
        return err_set(err, ERR_UNAVAILABLE, "no routing snapshot yet: the API has not answered");
    int rc = journal_ready(g->journal, err);
    return rc < 0 ? rc : audit_log_health(g->audit, err);
}

static void on_drained(void *arg)
{
    struct gateway *g = arg;
    pthread_mutex_lock(&g->lock);
    g->draining--;
    pthread_cond_signal(&g->drained);
    pthread_mutex_unlock(&g->lock);
}

static void drain_loop(void *arg)
{
    struct gateway_loop *l = arg;
    records_flush(l); /* whose head has not said that the connection closes goes on with it */
    (l->gateway->handed_over ? http_server_hand_over : http_server_drain)(l->server, on_drained, l->gateway);
}

void gateway_drain(struct gateway *g, uint64_t timeout_ms, bool handed_over)
{
    uint64_t until_ms = clock_mono_ms() + timeout_ms;
    struct timespec until = {.tv_sec = (time_t)(until_ms / 1000), .tv_nsec = (long)(until_ms % 1000) * 1000000L};
    pthread_mutex_lock(&g->lock);
    g->draining = g->loop_count;
    g->handed_over = handed_over;
    for (int i = 0; i < g->loop_count; i++)
        loop_post(g->loops[i].loop, drain_loop, &g->loops[i]);
    while (g->draining && !g->impatient && pthread_cond_timedwait(&g->drained, &g->lock, &until) != ETIMEDOUT)
        ;
    pthread_mutex_unlock(&g->lock);
}

void gateway_drain_cancel(struct gateway *g)
{
    pthread_mutex_lock(&g->lock);
    g->impatient = true;
    pthread_cond_signal(&g->drained);
    pthread_mutex_unlock(&g->lock);
}

void gateway_free(struct gateway *g)
{
    if (!g)
        return;
    slices_stop(g->slices);
    load_report_stop(g->report);
    for (int i = 0; g->loops && i < g->loop_count; i++)
        loop_thread_stop(g->loops[i].thread);
    trace_export_stop(g->traces);
    decision_log_stop(g->decisions);
    slices_leave(g->slices, g->handed_over);
    load_report_free(g->report);
    slices_free(g->slices);
    feed_stop(g->feed);
    refused_free(g->refused);
    journal_close(g->journal);
    open_requests_free(g->open);
    kept_away_free(g->kept_away);
    audit_log_close(g->audit);
    tls_ctx_unref(g->upstream_tls);
    tls_ctx_unref(g->o.tls);
    mem_wipe(&g->o.pepper, sizeof(g->o.pepper));
    pthread_cond_destroy(&g->drained);
    pthread_mutex_destroy(&g->lock);
    mem_free(g->loops);
    conn_shares_deinit(&g->shares);
    mem_free(g);
}
