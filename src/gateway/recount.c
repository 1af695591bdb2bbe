#include "gateway/recount.h"

#include <pthread.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "gateway/continuation.h"
#include "gateway/home.h"

#define ANSWER_MAX ((size_t)8 << 20) /* llama.cpp tells each token of a prompt */
#define NAMES_MAX ((size_t)64 << 10) /* of a record */
#define HEADERS_MAX 4

struct text {
    char *ptr; /* JSON */
    size_t len;
};

struct recount {
    TAILQ_ENTRY(recount) link;
    struct gateway_loop *loop;
    struct snapshot *snapshot, *routing; /* of the key's limits and budgets; of the replica */
    const struct snap_replica *replica;  /* that is asked */
    char model[MODEL_NAME_MAX];          /* as it knows it */
    struct text text, prompt;
    bool chat;

    /* the question that runs */
    enum engine_question asked;
    struct http_call *call;
    struct timer deadline;
    struct sbuf question, answer;
    struct iovec body;
    struct http_header headers[HEADERS_MAX];
    int status;
    int64_t text_tokens, prompt_tokens; /* -1: not known */

    /* the request's */
    struct arena *arena; /* for u's names */
    struct usage u;
    enum outcome outcome;
    struct usage_work work[USAGE_WORK_MAX];
    struct open_request *place;
    struct budget_hold money;
    struct price price;
    const struct limit *limits;
    int64_t charged, reserved;
    int seat;
};

/* ---- those that run ---- */

#define TENANT_BYTES 256

static pthread_mutex_t seats_lock = PTHREAD_MUTEX_INITIALIZER;
static char seats[RECOUNTS_MAX][TENANT_BYTES]; /* whose each is; "": nobody's */

/* -1: the tenant has as many as it may, or all have. */
static int take_seat(const char *tenant)
{
    int free_one = -1, its = 0;
    pthread_mutex_lock(&seats_lock);
    for (int i = 0; i < RECOUNTS_MAX; i++) {
        its += !strcmp(seats[i], tenant);
        free_one = !*seats[i] ? i : free_one;
    }
    if (its >= RECOUNTS_OF_TENANT || strlen(tenant) >= TENANT_BYTES)
        free_one = -1;
    if (free_one >= 0)
        memcpy(seats[free_one], tenant, strlen(tenant) + 1);
    pthread_mutex_unlock(&seats_lock);
    return free_one;
}

static void leave_seat(int seat)
{
    pthread_mutex_lock(&seats_lock);
    *seats[seat] = 0;
    pthread_mutex_unlock(&seats_lock);
}

static void wipe(struct text *t)
{
    if (t->ptr)
        mem_wipe(t->ptr, t->len);
    mem_free(t->ptr);
    *t = (struct text){0};
}

static void wipe_buffer(struct sbuf *b)
{
    if (b->ptr)
        mem_wipe(b->ptr, b->len);
    sbuf_reset(b);
}

/* ---- whether to ask ---- */

/* What a prompt becomes with these is more than its text, or not known here. */
static const char *const OTHER_PROMPT[] = {"tools", "functions", "tool_choice", "response_format", "json_schema", "chat_template", "chat_template_kwargs", "documents", "reasoning_effort",
                                           "add_generation_prompt", "continue_final_message", "add_special_tokens", "truncate_prompt_tokens", "suffix", "echo", "prompt_embeds", "input_prefix",
                                           "input_suffix", "mm_processor_kwargs"};
/* Parts of a message that are no text, as far as engines know any. */
static const char *const OTHER_PARTS[] = {"_url\"", "\"input_audio\"", "\"image\"", "\"file\"", "\"audio\"", "\"video\"", "_embeds\""};

static bool prompt_is_text(const struct request *q, bool chat)
{
    struct span at[ARRAY_LEN(OTHER_PROMPT)];
    struct str prompt = q->body.prompt;
    if (!prompt.len || prompt.len > RECOUNT_PROMPT_MAX || *prompt.ptr != (chat ? '[' : '"') || span_scan(q->body.text, OTHER_PROMPT, ARRAY_LEN(OTHER_PROMPT), at, NULL) < 0)
        return false;
    for (size_t i = 0; i < ARRAY_LEN(OTHER_PROMPT); i++)
        if (at[i].type != SPAN_ABSENT && at[i].type != SPAN_NULL)
            return false;
    for (size_t i = 0; chat && i < ARRAY_LEN(OTHER_PARTS); i++)
        if (memmem(prompt.ptr, prompt.len, OTHER_PARTS[i], strlen(OTHER_PARTS[i])))
            return false;
    return true;
}

/* The counts are one attempt's, which was not counted by its engine, and are all that it did: then another count may take their place on both sides of the equation. */
static bool is_of_one_attempt(const struct usage *u)
{
    const struct usage_work *last = u->work_count ? &u->work[u->work_count - 1] : NULL;
    return last && u->work_count <= USAGE_WORK_MAX && !last->exact && !last->loser && !u->replayed_tokens && !u->cached_tokens && last->read == u->prompt_tokens &&
           last->written == u->completion_tokens;
}

/* Who wrote the text, unless it is he who failed. */
static const struct snap_replica *whom_to_ask(const struct request *q)
{
    const struct snap_endpoint *e = q->endpoint;
    bool failed = q->outcome != OUTCOME_OK && q->outcome != OUTCOME_CLIENT_GONE;
    uint64_t now_ms = clock_mono_ms(), barred = border_barred_now(snapshot_border(q->loop->snapshot), q->key, e, q->body.model, NULL);
    const struct snap_replica *found = NULL;
    for (size_t i = 0; i < e->replica_count; i++) {
        const struct snap_replica *r = &e->replicas[i];
        if (barred & (1ull << i) || !r->tokenizer || atomic_load(&r->target->closing))
            continue;
        if (!failed && r == q->replica) /* it has just answered, whatever it did to others before */
            return r;
        if (failed && !target_is_aside(r->target, now_ms) && r != q->replica && !(q->ticket.wish.tried & (1ull << i)))
            found = r;
    }
    return found;
}

struct recount *recount_new(struct request *q, const struct usage *u)
{
    struct text inside;
    if (u->exact || !q->streaming || q->scan.unread || !u->completion_tokens || q->loop->stopping || !q->replica || !is_of_one_attempt(u))
        return NULL;
    const struct snap_replica *whom = whom_to_ask(q);
    int seat = whom ? take_seat(q->key->tenant) : -1;
    if (seat < 0)
        return NULL;
    if (!continuation_take_text(q, &inside.ptr, &inside.len)) {
        leave_seat(seat);
        return NULL;
    }
    struct recount *r = XNEW(struct recount);
    *r = (struct recount){.loop = q->loop, .replica = whom, .seat = seat, .text_tokens = -1, .prompt_tokens = -1, .chat = q->body.prompt.len && *q->body.prompt.ptr == '['};
    r->text = (struct text){xcalloc(inside.len + 2, 1), inside.len + 2};
    r->text.ptr[0] = r->text.ptr[inside.len + 1] = '"';
    memcpy(r->text.ptr + 1, inside.ptr, inside.len);
    wipe(&inside);
    if (prompt_is_text(q, r->chat)) {
        r->prompt = (struct text){xcalloc(q->body.prompt.len, 1), q->body.prompt.len};
        memcpy(r->prompt.ptr, q->body.prompt.ptr, q->body.prompt.len);
    }
    const char *name = home_model_at(q, whom);
    snprintf(r->model, sizeof(r->model), "%s", name ? name : q->body.model);
    return r;
}

/* ---- the record ---- */

static void mend(struct recount *r)
{
    struct usage *u = &r->u;
    struct usage_work *last = &r->work[u->work_count - 1];
    if (r->text_tokens < 0)
        return;
    u->completion_tokens = last->written = r->text_tokens;
    if (r->prompt_tokens >= 0) {
        u->prompt_tokens = last->read = r->prompt_tokens;
        u->tokenized = true;
    }
    if (u->currency.len)
        u->cost = price_cost(&r->price, u->prompt_tokens, u->cached_tokens, u->completion_tokens);
    if (r->charged < 0)
        return;
    int64_t used = u->prompt_tokens + u->completion_tokens;
    limit_mend(r->limits, (r->outcome == OUTCOME_OK && !u->tokenized ? MAX(used, r->reserved) : used) - r->charged);
}

static void finish(struct recount *r)
{
    struct gateway *g = r->loop->gateway;
    struct usage *u = &r->u;
    timer_stop(&r->deadline);
    TAILQ_REMOVE(&r->loop->recounts, r, link);
    mend(r);
    metric_add(metric_series(g->metrics.recounts, (struct str[]){u->tokenized ? STR("counted") : r->text_tokens >= 0 ? STR("text") : STR("failed")}), 1);
    request_count_tokens(r->loop, NULL, u);
    log_debug("tokens of a stream that ended without its usage", KVS("request", u->id), KVI("prompt_tokens", u->prompt_tokens), KVI("completion_tokens", u->completion_tokens),
              KVI("tokenized", u->tokenized));
    void *place = r->place;
    journal_add_one_held(g->journal, u, &place);
    r->place = place;
    records_end(g, &r->place, &r->money, u->cost, u->start_ms);
    wipe(&r->text);
    wipe(&r->prompt);
    wipe_buffer(&r->question);
    wipe_buffer(&r->answer);
    sbuf_deinit(&r->question);
    sbuf_deinit(&r->answer);
    snapshot_unref(r->snapshot);
    snapshot_unref(r->routing);
    arena_free(r->arena);
    leave_seat(r->seat);
    mem_free(r);
}

/* ---- asking ---- */

static void on_head(void *arg, const struct http_head *head)
{
    struct recount *r = arg;
    r->status = head->status;
}

static void on_body(void *arg, struct str bytes)
{
    struct recount *r = arg;
    sbuf_add(&r->answer, bytes);
    if (sbuf_ok(&r->answer))
        return;
    http_call_cancel(r->call);
    r->call = NULL;
    finish(r);
}

static void on_error(void *arg, const struct err *err UNUSED)
{
    struct recount *r = arg;
    r->call = NULL;
    finish(r);
}

static void on_end(void *arg);

static void ask(struct recount *r, enum engine_question what, const struct text *value)
{
    static const struct http_call_ops ops = {.on_head = on_head, .on_body = on_body, .on_end = on_end, .on_error = on_error};
    size_t n = 0;
    r->asked = what;
    r->status = 0;
    wipe_buffer(&r->question);
    wipe_buffer(&r->answer);
    (void)sbuf_reserve(&r->question, value->len + 1024); /* at once: growing would leave copies behind */
    const char *path = engine_tokenizer_question(r->replica->tokenizer, what, r->model, str_n(value->ptr, value->len), &r->question);
    if (!path || !sbuf_ok(&r->question)) {
        finish(r);
        return;
    }
    r->body = (struct iovec){r->question.ptr, r->question.len};
    r->headers[n++] = (struct http_header){STR("Content-Type"), STR("application/json")};
    r->headers[n++] = (struct http_header){STR("X-Request-Id"), r->u.id};
    r->headers[n++] = (struct http_header){STR("User-Agent"), STR("seki-gateway")};
    if (r->replica->token)
        r->headers[n++] = (struct http_header){STR("Authorization"), str_of(arena_printf(r->arena, "Bearer %s", r->replica->token))};
    struct http_call_options o = {.method = "POST", .target = path, .headers = r->headers, .header_count = n, .body = &r->body, .body_count = 1,
                                  .first_byte_timeout_ms = RECOUNT_MS, .idle_timeout_ms = RECOUNT_MS};
    r->call = http_call_start(gateway_loop_pool(r->loop, r->replica), &o, &ops, r);
    if (!r->call)
        finish(r);
}

static void ask_about_prompt(struct recount *r)
{
    if (!r->prompt.ptr)
        finish(r);
    else if (!r->chat)
        ask(r, ENGINE_ASK_PROMPT, &r->prompt);
    else
        ask(r, r->replica->tokenizer->takes_chats ? ENGINE_ASK_CHAT : ENGINE_ASK_TEMPLATE, &r->prompt);
}

static void on_end(void *arg)
{
    struct recount *r = arg;
    struct str answer = sbuf_str(&r->answer), made;
    r->call = NULL;
    if (r->status != 200) {
        finish(r);
    } else if (r->asked == ENGINE_ASK_TEMPLATE) {
        if (!engine_tokenizer_prompt(answer, &made)) {
            finish(r);
            return;
        }
        wipe(&r->prompt);
        r->prompt = (struct text){xcalloc(made.len, 1), made.len};
        memcpy(r->prompt.ptr, made.ptr, made.len);
        ask(r, ENGINE_ASK_PROMPT, &r->prompt);
    } else if (r->asked == ENGINE_ASK_TEXT && engine_tokenizer_count(r->replica->tokenizer, answer, &r->text_tokens)) {
        ask_about_prompt(r);
    } else {
        if (r->asked != ENGINE_ASK_TEXT && !engine_tokenizer_count(r->replica->tokenizer, answer, &r->prompt_tokens))
            r->prompt_tokens = -1;
        finish(r);
    }
}

static void on_deadline(struct timer *t)
{
    struct recount *r = t->arg;
    http_call_cancel(r->call);
    r->call = NULL;
    finish(r);
}

static void copy_usage(struct recount *r, const struct usage *u)
{
    struct str *names[] = {&r->u.id, &r->u.project, &r->u.tenant, &r->u.key, &r->u.endpoint, &r->u.model, &r->u.replica, &r->u.route, &r->u.outcome, &r->u.currency, &r->u.levels.project};
    r->arena = arena_new(NAMES_MAX);
    r->u = *u;
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        *names[i] = arena_str(r->arena, *names[i]);
    for (size_t i = 0; i < u->work_count; i++) {
        r->work[i] = u->work[i];
        r->work[i].replica = arena_str(r->arena, u->work[i].replica);
    }
    r->u.work = r->work;
}

void recount_start(struct recount *r, struct request *q, const struct usage *u, int64_t charged)
{
    copy_usage(r, u);
    r->outcome = q->outcome;
    r->snapshot = snapshot_ref(q->snapshot);
    r->routing = snapshot_ref(q->routing);
    r->limits = q->hold.limits;
    r->charged = q->hold.limits ? charged : -1;
    r->reserved = q->hold.tokens;
    if (q->price)
        r->price = *q->price;
    r->place = q->tally.place;
    q->tally.place = NULL;
    r->money = q->money;
    q->money.held = false;
    sbuf_init(&r->question, RECOUNT_PROMPT_MAX * 2 + CONTINUATION_TEXT_MAX);
    sbuf_init(&r->answer, ANSWER_MAX);
    TAILQ_INSERT_TAIL(&r->loop->recounts, r, link);
    timer_init(&r->deadline, r->loop->loop, on_deadline, r);
    timer_start(&r->deadline, RECOUNT_MS);
    ask(r, ENGINE_ASK_TEXT, &r->text);
}

void recounts_stop(struct gateway_loop *l)
{
    struct recount *r;
    while ((r = TAILQ_FIRST(&l->recounts))) {
        if (r->call)
            http_call_cancel(r->call);
        r->call = NULL;
        finish(r);
    }
}
