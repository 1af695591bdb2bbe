/* Flow control: whose request is served next when more arrive than can be served.
 *
 * All requests run on one loop, so overload shows as requests that wait for it. A flow is a user. While the loop keeps up, a request is served as it arrives. Once a turn
 * of the loop has spent BUDGET_NS on requests, what arrives is queued by flow, and each turn serves the flows that have had the least of the loop's time lately: who asks
 * little is served before who asks much, however many of those there are, and nothing is withheld while nobody else waits. The server's own users and administrators
 * (system:seki:*, system:masters) come before all others; a part of the writes in flight is theirs alone.
 * Caps: answers that are being made or that their clients have not read, by flow and in all; requests and bytes that wait, writes in flight by flow and in all; beyond them, and after WAIT_MAX_MS, the answer is 429 with Retry-After.
 */
#include "apiserver/api.h"
#include "base/clock.h"
#include "base/mem.h"

#define BUDGET_NS 250000u
#define SLICE_NS 250000u /* long work goes on in another turn */
#define HALF_LIFE_NS 1000000000u /* of what a flow is charged */
#define REQUEST_NS 15000u        /* TLS and parsing, which happen before the clock starts */
#define COMMIT_NS 30000u         /* a write's second half */
#define WAIT_MAX_MS 5000
#define WAITING_MAX 20000
#define WAITING_FLOW_MAX 1000
#define WAITING_BYTES_MAX ((size_t)64 << 20)
#define HELD_FLOW_MAX ((size_t)64 << 20) /* of answers, of one flow */
#define HELD_MAX ((size_t)1 << 30)
#define HELD_LEAST 16384u /* smaller answers are not counted */
#define LEVELS 40 /* by the logarithm of the charge; level 0: the privileged */
#define SWEEP_FLOWS 1000

TAILQ_HEAD(flow_list, flow);
struct flow {
    TAILQ_ENTRY(flow) link; /* among those of its level that have requests waiting */
    char *name;
    bool privileged;
    struct flow_list *listed; /* or NULL */
    uint64_t charged_ns, charged_at_ns;
    size_t writes, count, held;
    TAILQ_HEAD(, api_request) waiting;
};

/* The bytes of one answer, as long as its request lives. */
struct flow_held {
    struct flow_control *control;
    struct flow *flow;
    size_t bytes;
};

struct flow_control {
    struct apiserver *server;
    void (*serve)(struct api_request *q);
    struct map *flows; /* user → struct flow */
    struct flow_list levels[LEVELS];
    struct timer turn;
    uint64_t spent_ns; /* in this turn of the loop */
    size_t waiting, waiting_bytes, writes, held;
    struct metric *waiting_gauge, *refused_total;
    struct metric_family *wait_seconds;
};

/* ---- flows ---- */

static bool is_privileged(const struct api_user *u)
{
    if (str_starts(str_of(u->name), STR("system:seki:")))
        return true;
    for (size_t i = 0; u->groups[i]; i++)
        if (!strcmp(u->groups[i], "system:masters"))
            return true;
    return false;
}

static void flow_free(void *p)
{
    struct flow *f = p;
    mem_free(f->name);
    mem_free(f);
}

/* Forgets flows that nothing hangs on: they are as good as new. */
static void sweep(struct flow_control *fc, uint64_t now_ns)
{
    struct map_iter it = MAP_ITER_INIT;
    while (map_next(fc->flows, &it)) {
        const struct flow *f = it.value;
        if (!f->count && !f->writes && !f->held && now_ns - f->charged_at_ns > (uint64_t)30 * HALF_LIFE_NS)
            map_del(fc->flows, it.key);
    }
}

static struct flow *flow_of(struct flow_control *fc, const struct api_user *u, uint64_t now_ns)
{
    struct flow *f = map_getc(fc->flows, u->name);
    if (f)
        return f;
    if (map_len(fc->flows) >= SWEEP_FLOWS && map_len(fc->flows) % SWEEP_FLOWS == 0)
        sweep(fc, now_ns);
    f = XNEW(struct flow);
    *f = (struct flow){.name = xstrdup(u->name), .privileged = is_privileged(u), .charged_at_ns = now_ns};
    TAILQ_INIT(&f->waiting);
    map_set(fc->flows, str_of(u->name), f);
    return f;
}

static void decay(struct flow *f, uint64_t now_ns)
{
    uint64_t halves = (now_ns - f->charged_at_ns) / HALF_LIFE_NS;
    if (!halves)
        return;
    f->charged_ns = halves < 64 ? f->charged_ns >> halves : 0;
    f->charged_at_ns += halves * HALF_LIFE_NS;
}

static int level_of(const struct flow *f)
{
    if (f->privileged)
        return 0;
    int log = f->charged_ns ? 64 - __builtin_clzll(f->charged_ns) : 1;
    return MIN(log, LEVELS - 1);
}

static void list(struct flow_control *fc, struct flow *f)
{
    if (f->listed)
        TAILQ_REMOVE(f->listed, f, link);
    f->listed = f->count ? &fc->levels[level_of(f)] : NULL;
    if (f->listed)
        TAILQ_INSERT_TAIL(f->listed, f, link);
}

/* ---- serving ---- */

static void charge(struct flow_control *fc, struct flow *f, uint64_t begun_ns)
{
    uint64_t now = clock_mono_ns(), took = now - begun_ns + REQUEST_NS;
    fc->spent_ns += took;
    decay(f, now);
    f->charged_ns += took;
    if (!timer_armed(&fc->turn))
        timer_start(&fc->turn, 0);
}

static void serve(struct flow_control *fc, struct flow *f, struct api_request *q)
{
    uint64_t begun = clock_mono_ns();
    void (*resume)(struct api_request *q) = q->resume;
    q->flow = f;
    q->resume = NULL;
    if (resume)
        resume(q);
    else
        fc->serve(q);
    charge(fc, f, begun);
}

static void refuse(struct flow_control *fc, struct api_request *q, const char *why)
{
    metric_add(fc->refused_total, 1);
    api_fail_code(q, ERR_TOO_MANY, "Too many requests, please try again later: %s", why);
}

static void take_out(struct flow_control *fc, struct flow *f, struct api_request *q)
{
    TAILQ_REMOVE(&f->waiting, q, waiting);
    q->waits = false;
    f->count--;
    fc->waiting--;
    fc->waiting_bytes -= q->text.len;
    metric_set(fc->waiting_gauge, (double)fc->waiting);
}

static struct flow *next_flow(struct flow_control *fc)
{
    for (int i = 0; i < LEVELS; i++)
        if (!TAILQ_EMPTY(&fc->levels[i]))
            return TAILQ_FIRST(&fc->levels[i]);
    return NULL;
}

/* A turn of the loop: its budget is new, and those who wait come first. A flow that was served goes behind the others of its level. */
static void on_turn(struct timer *t)
{
    struct flow_control *fc = t->arg;
    struct flow *f;
    fc->spent_ns = 0;
    while (fc->spent_ns < BUDGET_NS && (f = next_flow(fc))) {
        struct api_request *q = TAILQ_FIRST(&f->waiting);
        uint64_t waited_ms = clock_mono_ms() - q->waits_since_ms;
        take_out(fc, f, q);
        metric_observe(metric_series(fc->wait_seconds, NULL), (double)waited_ms / 1000);
        if (waited_ms > WAIT_MAX_MS && !q->resume)
            refuse(fc, q, "the request has waited too long");
        else
            serve(fc, f, q);
        list(fc, f);
    }
    if (fc->waiting && !timer_armed(t))
        timer_start(t, 0);
}

static bool may_wait(const struct flow_control *fc, const struct flow *f, const struct api_request *q)
{
    return f->privileged || (fc->waiting < WAITING_MAX && f->count < WAITING_FLOW_MAX && fc->waiting_bytes + q->text.len <= WAITING_BYTES_MAX);
}

static void put_in(struct flow_control *fc, struct flow *f, struct api_request *q)
{
    q->flow = f;
    q->waits = true;
    q->waits_since_ms = clock_mono_ms();
    TAILQ_INSERT_TAIL(&f->waiting, q, waiting);
    f->count++;
    fc->waiting++;
    fc->waiting_bytes += q->text.len;
    metric_set(fc->waiting_gauge, (double)fc->waiting);
    if (f->count == 1) { /* else it keeps its place */
        decay(f, clock_mono_ns());
        list(fc, f);
    }
    if (!timer_armed(&fc->turn))
        timer_start(&fc->turn, 0);
}

void flow_admit(struct flow_control *fc, struct api_request *q)
{
    struct flow *f = flow_of(fc, &q->user, clock_mono_ns());
    if (!fc->waiting && fc->spent_ns < BUDGET_NS) {
        serve(fc, f, q);
        return;
    }
    if (may_wait(fc, f, q))
        put_in(fc, f, q);
    else
        refuse(fc, q, "too many of this user's requests are waiting");
}

bool flow_yield(struct api_request *q, uint64_t since_ns, void (*resume)(struct api_request *q))
{
    if (!q->flow || clock_mono_ns() - since_ns < SLICE_NS)
        return false;
    q->resume = resume;
    put_in(q->server->flow, q->flow, q);
    return true;
}
void flow_leave(struct flow_control *fc, struct api_request *q)
{
    if (!q->waits)
        return;
    take_out(fc, q->flow, q);
    if (!q->flow->count)
        list(fc, q->flow);
}

/* ---- answers ---- */

static void set_held(struct flow_held *h, size_t bytes)
{
    h->control->held = h->control->held - h->bytes + bytes;
    h->flow->held = h->flow->held - h->bytes + bytes;
    h->bytes = bytes;
}

static void let_go(void *held)
{
    set_held(held, 0);
}

void flow_hold(struct api_request *q, size_t bytes)
{
    if (!q->http || !q->flow || q->flow->privileged || (!q->held && bytes < HELD_LEAST))
        return;
    if (!q->held) {
        q->held = ARENA_NEW(q->http->arena, struct flow_held);
        *q->held = (struct flow_held){q->server->flow, q->flow, 0};
        arena_on_free(q->http->arena, let_go, q->held);
    }
    set_held(q->held, bytes);
}

int flow_check_answer(const struct flow_control *fc, const struct api_request *q, struct err *err)
{
    const struct flow *f = q->flow;
    size_t own = q->held ? q->held->bytes : 0;
    if (!q->http || !f || f->privileged || (f->held - own < HELD_FLOW_MAX && fc->held - own < HELD_MAX))
        return 0;
    metric_add(fc->refused_total, 1);
    return err_set(err, ERR_TOO_MANY, "Too many requests, please try again later: too much was asked for and is not read yet");
}

/* ---- writes in flight ---- */

int flow_check_write(const struct flow_control *fc, const struct api_request *q, struct err *err)
{
    size_t max = fc->server->o.max_in_flight_writes;
    const struct flow *f = q->flow;
    if (!f || (f->privileged && fc->writes < max))
        return 0;
    if (fc->writes < max - max / 5 && f->writes < MAX(max / 4, (size_t)1))
        return 0;
    metric_add(fc->refused_total, 1);
    return err_set(err, ERR_TOO_MANY, "Too many requests, please try again later: too many writes are in flight");
}

void flow_write_begins(struct flow_control *fc, struct api_request *q)
{
    fc->writes++;
    if (q->flow) {
        q->flow->writes++;
        q->flow->charged_ns += COMMIT_NS;
    }
}

size_t flow_writes(const struct flow_control *fc)
{
    return (size_t)fc->writes;
}

void flow_write_ends(struct flow_control *fc, struct api_request *q)
{
    fc->writes--;
    if (q->flow)
        q->flow->writes--;
}

/* ---- life ---- */

struct flow_control *flow_new(struct apiserver *s, void (*serve_request)(struct api_request *q))
{
    static const double buckets[] = {0.001, 0.005, 0.025, 0.1, 0.5, 1, 5};
    struct flow_control *fc = XNEW(struct flow_control);
    *fc = (struct flow_control){.server = s, .serve = serve_request, .flows = map_new(flow_free)};
    for (int i = 0; i < LEVELS; i++)
        TAILQ_INIT(&fc->levels[i]);
    timer_init(&fc->turn, s->loop, on_turn, fc);
    fc->waiting_gauge = metric_gauge("seki_apiserver_requests_waiting", "Requests that wait for their turn.");
    fc->refused_total = metric_counter("seki_apiserver_requests_refused_total", "Requests answered 429 by flow control.");
    fc->wait_seconds = metric_family("seki_apiserver_request_wait_seconds", "How long requests that had to wait have waited.", METRIC_HISTOGRAM, NULL, 1, buckets, ARRAY_LEN(buckets));
    return fc;
}

void flow_free_all(struct flow_control *fc)
{
    if (!fc)
        return;
    timer_stop(&fc->turn);
    map_free(fc->flows);
    mem_free(fc);
}
