/* Watches: the store's change feed of one prefix, as lines of an HTTP answer or as documents for a client in this process.
 *
 * A watch sends what exists first (when asked to), then every change once and in order, and bookmarks so that a client knows how far it is. What leaves is encoded once a
 * change, however many watch it. A client that does not keep up has no more waiting for it than its buffer holds: then the watch lets go of the feed, and takes it up again
 * at the same change when the client has read. So it may be as far behind as history reaches; when that is gone it gets 410. One that reads nothing is ended by the
 * connection's own deadline.
 */
#include "apiserver/options.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/rnd.h"

#define BOOKMARK_MS 60000
#define EVENT_BYTES_MAX (16u * 1024 * 1024)
#define INITIAL_END "k8s.io/initial-events-end"

struct api_watch {
    TAILQ_ENTRY(api_watch) link;
    struct apiserver *server;
    struct store_watch *feed;
    struct api_request *q; /* HTTP: held until the end. Local: holds the arena */
    const struct selector *selector;
    struct str prefix;   /* arena */
    struct str only_key; /* one object's key, or empty */
    bool bookmarks, columns_sent;
    bool full; /* nothing is sent until the client has read */
    struct timer bookmark, timeout, go_on;
    struct rbac_request question; /* whether it may be; HTTP only */
    uint64_t allowed_by;          /* the roles that said so last, by the number of their building */
    struct { /* what exists, sent first */
        bool left, end; /* end: with a bookmark behind it */
        int64_t rev;
        struct str start; /* where to go on; arena */
    } initial;
    /* The change that was looked at last, by its revision and its place in that; and where to go on: behind what. */
    int64_t rev, resume_rev;
    size_t nth, resume_nth;
    struct local_watch_call local; /* event NULL: HTTP */
};

static const char *const type_names[] = {"ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR"};
enum event_type { ADDED, MODIFIED, DELETED, BOOKMARK, ERROR_EVENT };

/* ---- the end ---- */

static void watch_free(struct api_watch *w)
{
    struct apiserver *s = w->server;
    if (w->feed)
        store_watch_stop(w->feed);
    timer_stop(&w->bookmark);
    timer_stop(&w->timeout);
    timer_stop(&w->go_on);
    TAILQ_REMOVE(&s->watches, w, link);
    metric_move(s->watch_gauge, -1);
    w->q->watch = NULL;
    api_request_unref(w->q);
    mem_free(w);
}

/* A clean end: the client may go on from where it was. */
static void watch_end(struct api_watch *w)
{
    struct http_request *r = w->q->http;
    struct local_watch_call local = w->local;
    w->q->http = NULL;
    w->q->replied = true;
    watch_free(w);
    if (r) {
        r->user = NULL;
        http_respond_end(r);
    } else if (local.event) {
        local.ended(local.arg, 200, NULL);
    }
}

void api_watch_stop(struct api_watch *w)
{
    watch_free(w);
}

void api_watches_end(struct apiserver *s)
{
    while (!TAILQ_EMPTY(&s->watches))
        watch_end(TAILQ_FIRST(&s->watches));
}

void api_watches_end_if(struct apiserver *s, bool (*fn)(struct api_request *q))
{
    struct api_watch *w = TAILQ_FIRST(&s->watches), *next;
    for (; w; w = next) {
        next = TAILQ_NEXT(w, link);
        if (w->q->http && fn(w->q))
            watch_end(w);
    }
}

static void on_go_on(struct timer *t);

static void on_timeout(struct timer *t)
{
    watch_end(t->arg);
}

/* ---- sending ---- */

static void write_line(struct api_watch *w, struct str line)
{
    w->full = !http_write(w->q->http, line); /* the connection's high mark is the watch's buffer */
}

static void send_document(struct api_watch *w, enum event_type type, json_t *object)
{
    json_t *event = json_pack("{s:s, s:o}", "type", type_names[type], "object", object);
    if (w->local.event) {
        w->local.event(w->local.arg, event);
    } else {
        CLEANUP(sbuf_deinit) struct sbuf line = {0};
        sbuf_init(&line, EVENT_BYTES_MAX);
        json_write(event, &line);
        sbuf_add_char(&line, '\n');
        write_line(w, sbuf_str(&line));
    }
    json_decref(event);
}

/* One change as a line; the last one is kept, for all the others who watch it. */
static struct str change_line(struct apiserver *s, enum event_type type, struct store_value *v, int64_t rev)
{
    struct sbuf *line = &s->line.text;
    if (s->line.value == v && s->line.rev == rev && s->line.type == (int)type)
        return sbuf_str(line);
    sbuf_reset(line);
    sbuf_addf(line, "{\"type\":\"%s\",\"object\":", type_names[type]);
    object_write(v, rev, line);
    sbuf_addc(line, "}\n");
    s->line.value = v; /* compared only: the revision makes a reused address harmless */
    s->line.rev = rev;
    s->line.type = type;
    return sbuf_str(line);
}

/* What cannot be shown ends the watch: whoever lists again is told, too. */
static void send_shut(struct api_watch *w, struct str key, const char *why)
{
    struct err err = ERR_INIT;
    err_set(&err, ERR_CORRUPT, "the secrets of %.*s cannot be read: %s", STR_ARG(key), why);
    send_document(w, ERROR_EVENT, api_status(500, "Failure", err_reason(err.code), err.msg, NULL));
    timer_start(&w->timeout, 0);
}

static void send_value(struct api_watch *w, enum event_type type, struct store_value *v, int64_t rev)
{
    const struct kind *k = w->q->kind;
    const char *shut = object_shut(v);
    if (shut) {
        send_shut(w, v->key, shut);
        return;
    }
    if (w->local.event || w->q->wants.as != AS_ITSELF || k->view_of) {
        JSON_AUTO stored = rev == v->rev ? object_of(v) : object_decode(v, rev);
        JSON_AUTO obj = kind_show(k, stored);
        json_t *shown = shape_object(w->q, obj, rev, !w->columns_sent);
        w->columns_sent = true;
        send_document(w, type, shown);
        return;
    }
    write_line(w, change_line(w->server, type, v, rev));
}

static void send_bookmark(struct api_watch *w, int64_t rev, bool initial_end)
{
    char version[128], text[24];
    kind_api_version(w->q->kind, version);
    snprintf(text, sizeof(text), "%lld", (long long)rev);
    JSON_AUTO obj = w->q->wants.as == AS_TABLE
                        ? table_start(w->q, rev, false)
                        : json_pack("{s:s, s:s, s:{s:s, s:n}}", "kind", w->q->kind->name, "apiVersion", version, "metadata", "resourceVersion", text, "creationTimestamp");
    if (initial_end)
        json_object_set_new(json_object_get(obj, "metadata"), "annotations", json_pack("{s:s}", INITIAL_END, "true"));
    send_document(w, BOOKMARK, w->q->wants.as == AS_METADATA ? shape_metadata(w->q->wants.version, obj) : json_incref(obj));
}

static void on_bookmark(struct timer *t)
{
    struct api_watch *w = t->arg;
    timer_start(t, BOOKMARK_MS);
    if (!w->feed || w->full)
        return;
    send_bookmark(w, store_watch_rev(w->feed), false);
    if (w->q->http)
        http_flush(w->q->http);
}

static bool matches(const struct api_watch *w, struct store_value *v)
{
    if (!v || !w->selector)
        return v != NULL;
    JSON_AUTO obj = object_of_as(w->q->kind, v);
    return selector_matches(w->selector, obj);
}

/* Rights that were taken away, or lay in a namespace that is another now, show nothing more. */
static bool is_allowed_still(struct api_watch *w)
{
    struct apiserver *s = w->server;
    if (w->local.event)
        return true;
    (void)authz_current(s);
    if (w->allowed_by == s->rbac_builds)
        return true;
    w->allowed_by = s->rbac_builds;
    return authz_allows_as(s, &w->question);
}

/* As Kubernetes tells a watcher what a new request would be told. */
static void refuse(struct api_watch *w, const struct err *err)
{
    int status = err_http_status(err->code);
    const char *text = status == 401 ? err->msg : arena_printf(w->q->arena, "%s is forbidden: %s", api_resource_text(w->q), err->msg);
    send_document(w, ERROR_EVENT, api_status(status, "Failure", err_reason(err->code), text, NULL));
    watch_end(w);
}

void api_watches_judge(struct apiserver *s, int (*fn)(struct api_request *q, struct err *err))
{
    struct api_watch *w = TAILQ_FIRST(&s->watches), *next;
    for (; w; w = next) {
        struct err err = ERR_INIT;
        next = TAILQ_NEXT(w, link);
        if (!w->q->http)
            continue;
        if (fn(w->q, &err) < 0)
            refuse(w, &err);
        else if (!is_allowed_still(w))
            watch_end(w);
    }
}

/* Lets go of the feed before the change that is looked at. */
static void pause_feed(struct api_watch *w)
{
    store_watch_stop(w->feed);
    w->feed = NULL;
    w->resume_rev = w->rev;
    w->resume_nth = w->nth - 1;
    w->rev = 0;
}

static void on_change(void *arg, const struct store_event *e)
{
    struct api_watch *w = arg;
    struct store_value *any = e->now ? e->now : e->prev;
    if (w->only_key.len && !str_eq(any->key, w->only_key))
        return;
    w->nth = e->rev == w->rev ? w->nth + 1 : 1;
    w->rev = e->rev;
    if (w->rev == w->resume_rev && w->nth <= w->resume_nth)
        return; /* sent before we paused */
    if (w->full) {
        pause_feed(w);
        return;
    }
    if (!is_allowed_still(w)) {
        watch_end(w);
        return;
    }
    bool was = matches(w, e->prev), is = matches(w, e->now);
    if (is)
        send_value(w, was ? MODIFIED : ADDED, e->now, e->rev);
    else if (was)
        send_value(w, DELETED, e->prev, e->rev);
}

/* ---- the start ---- */

/* A watch ends with what proved who watches. */
static uint64_t life_left_ms(const struct api_request *q)
{
    int64_t now_ms = clock_wall_ms(), end_ms = q->credential.expires_ms;
    return !end_ms ? UINT64_MAX : end_ms > now_ms ? (uint64_t)(end_ms - now_ms) : 0;
}

/* The version to watch from, when nothing is sent first. */
static int64_t choose_start(struct api_watch *w, const struct list_options *o)
{
    bool anew = o->match == MATCH_LATEST || o->match == MATCH_ANY; /* no version to go on from: what exists comes first */
    uint64_t timeout_ms = w->server->o.watch_timeout_ms;
    int64_t now = store_rev(w->server->store);
    w->selector = o->selector;
    w->bookmarks = o->bookmarks;
    w->initial.left = o->initial_set ? o->initial : anew;
    w->initial.end = o->initial;
    w->initial.rev = now;
    timer_start(&w->timeout, MIN(o->timeout_s ? (uint64_t)o->timeout_s * 1000 : timeout_ms + rnd_below(timeout_ms), life_left_ms(w->q)));
    return w->initial.left || anew ? now : o->rev;
}

static struct api_watch *watch_new(struct api_request *q)
{
    struct api_watch *w = XNEW(struct api_watch);
    *w = (struct api_watch){.server = q->server, .q = q};
    timer_init(&w->bookmark, q->server->loop, on_bookmark, w);
    timer_init(&w->timeout, q->server->loop, on_timeout, w);
    timer_init(&w->go_on, q->server->loop, on_go_on, w);
    TAILQ_INSERT_TAIL(&q->server->watches, w, link);
    metric_move(q->server->watch_gauge, 1);
    q->watch = w;
    return w;
}

/* History does not reach back that far: says so, and ends w. */
static bool too_old(struct api_watch *w, int64_t rev)
{
    struct err err = ERR_INIT;
    err_set(&err, ERR_GONE, "too old resource version: %lld (%lld)", (long long)rev, (long long)store_first_rev(w->server->store));
    send_document(w, ERROR_EVENT, api_status(410, "Failure", "Expired", err.msg, NULL));
    watch_end(w);
    return false;
}

static bool follow(struct api_watch *w, int64_t after_rev)
{
    if (!namespace_has_history(w->server, w->q->ns, after_rev + 1))
        return too_old(w, after_rev);
    return store_watch(w->server->store, w->prefix, after_rev, on_change, w, &w->feed, NULL) == 0 || too_old(w, after_rev);
}

static bool send_existing(void *arg, struct store_value *v)
{
    struct api_watch *w = arg;
    if (w->full) {
        w->initial.start = arena_str(w->q->arena, v->key);
        return false;
    }
    w->initial.start = STR_NULL;
    if ((!w->only_key.len || str_eq(v->key, w->only_key)) && matches(w, v))
        send_value(w, ADDED, v, v->rev);
    return true;
}

/* What exists, as far as the client takes it; then changes. False: w is gone. */
static bool send_initial(struct api_watch *w)
{
    if (!is_allowed_still(w)) {
        watch_end(w);
        return false;
    }
    if (!namespace_has_history(w->server, w->q->ns, w->initial.rev) || store_range(w->server->store, w->prefix, w->initial.start, w->initial.rev, 0, send_existing, w, NULL) < 0)
        return too_old(w, w->initial.rev);
    if (w->initial.start.len)
        return true;
    w->initial.left = false;
    if (w->initial.end)
        send_bookmark(w, w->initial.rev, true);
    return follow(w, w->initial.rev);
}

/* False: w is gone. */
static bool begin(struct api_watch *w, int64_t rev)
{
    if (w->bookmarks)
        timer_start(&w->bookmark, BOOKMARK_MS);
    return w->initial.left ? send_initial(w) : follow(w, rev);
}

/* The client has read. */
static void on_go_on(struct timer *t)
{
    struct api_watch *w = t->arg;
    if (w->initial.left ? send_initial(w) : follow(w, w->resume_rev - 1))
        http_flush(w->q->http);
}

void api_watch_drained(struct api_watch *w)
{
    w->full = false;
    if (!w->feed)
        timer_start(&w->go_on, 0);
}

static void choose_prefix(struct api_watch *w)
{
    CLEANUP(sbuf_deinit) struct sbuf text = {0};
    struct api_request *q = w->q;
    sbuf_init(&text, 1024);
    if (*q->name)
        object_key(q->kind, q->ns, q->name, &text);
    else
        object_prefix(q->kind, q->ns, &text);
    w->prefix = arena_str(q->arena, sbuf_str(&text));
    if (*q->name)
        w->only_key = w->prefix;
}

void api_watch_http(struct api_request *q)
{
    struct err err = ERR_INIT;
    struct list_options options;
    struct field_errors errors = {0};
    int64_t now = store_rev(q->server->store);
    if (list_options_read(q, true, &options, &errors, &err) < 0) {
        list_options_fail(q, &errors, &err);
        return;
    }
    if (options.rev > now) {
        api_reply(q, 504, list_too_large(options.rev, now));
        return;
    }
    struct api_watch *w = watch_new(q);
    int64_t rev = choose_start(w, &options);
    choose_prefix(w);
    w->question = authz_question(q);
    w->allowed_by = q->server->rbac_builds;
    api_count(q, 200);
    http_respond_start(q->http, 200, "application/json", NULL, 0);
    if (begin(w, rev))
        http_flush(q->http);
}

struct api_watch *api_watch_local(struct api_request *q, const struct local_watch_call *c)
{
    struct err err = ERR_INIT;
    struct list_options options;
    struct field_errors errors = {0};
    int rc = list_options_read(q, true, &options, &errors, &err);
    int64_t now = store_rev(q->server->store);
    if (rc < 0 || options.rev > now) {
        int status = rc < 0 ? err_http_status(err.code) : 504;
        json_t *body = rc < 0 ? api_status(status, "Failure", err_reason(err.code), err.msg, NULL) : list_too_large(options.rev, now);
        api_request_unref(q);
        c->ended(c->arg, status, body);
        return NULL;
    }
    struct api_watch *w = watch_new(q);
    w->local = *c;
    int64_t rev = choose_start(w, &options);
    choose_prefix(w);
    return begin(w, rev) ? w : NULL;
}
