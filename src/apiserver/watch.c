/* Watches: the store's change feed of one prefix, as lines of an HTTP answer or as documents for a client in this process.
 *
 * A watch sends what exists first (when asked to), then every change once and in order, and bookmarks so that a client knows how far it is. A client that does not keep
 * up is ended; it resumes from the last revision it saw. What leaves is encoded once a change, however many watch it.
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
    struct str only_key; /* one object's key, or empty */
    bool bookmarks, columns_sent;
    struct timer bookmark, timeout;
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
    TAILQ_REMOVE(&s->watches, w, link);
    metric_move(s->watch_gauge, -1);
    w->q->watch = NULL;
    api_request_unref(w->q);
    mem_free(w);
}

/* clean: the client may go on from where it was; else it sees the connection break. */
static void watch_end(struct api_watch *w, bool clean)
{
    struct http_request *r = w->q->http;
    struct local_watch_call local = w->local;
    w->q->http = NULL;
    w->q->replied = true;
    watch_free(w);
    if (r) {
        r->user = NULL;
        if (clean)
            http_respond_end(r);
        else
            http_respond_abort(r);
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
        watch_end(TAILQ_FIRST(&s->watches), true);
}

static void on_timeout(struct timer *t)
{
    watch_end(t->arg, true);
}

/* ---- sending ---- */

static bool write_line(struct api_watch *w, struct str line)
{
    if (http_write(w->q->http, line) || http_queued(w->q->http) <= w->server->o.watch_buffer_bytes)
        return true;
    log_info("watch ended: the client does not keep up", KV("user", w->q->user.name), KV("resource", w->q->kind->plural));
    watch_end(w, false);
    return false;
}

static bool send_document(struct api_watch *w, enum event_type type, json_t *object)
{
    json_t *event = json_pack("{s:s, s:o}", "type", type_names[type], "object", object);
    bool ok = true;
    if (w->local.event) {
        w->local.event(w->local.arg, event);
    } else {
        CLEANUP(sbuf_deinit) struct sbuf line = {0};
        sbuf_init(&line, EVENT_BYTES_MAX);
        json_write(event, &line);
        sbuf_add_char(&line, '\n');
        ok = write_line(w, sbuf_str(&line));
    }
    json_decref(event);
    return ok;
}

/* One change as a line; the last one is kept, for all the others who watch it. */
static struct str change_line(struct apiserver *s, enum event_type type, const struct store_value *v, int64_t rev)
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

static bool send_value(struct api_watch *w, enum event_type type, struct store_value *v, int64_t rev)
{
    const struct kind *k = w->q->kind;
    if (w->local.event || w->q->wants.as != AS_ITSELF || k->view_of) {
        JSON_AUTO stored = rev == v->rev ? object_of(v) : object_decode(v, rev);
        JSON_AUTO obj = kind_show(k, stored);
        json_t *shown = shape_object(w->q, obj, rev, !w->columns_sent);
        w->columns_sent = true;
        return send_document(w, type, shown);
    }
    return write_line(w, change_line(w->server, type, v, rev));
}

static bool send_bookmark(struct api_watch *w, int64_t rev, bool initial_end)
{
    char version[128], text[24];
    kind_api_version(w->q->kind, version);
    snprintf(text, sizeof(text), "%lld", (long long)rev);
    JSON_AUTO obj = w->q->wants.as == AS_TABLE
                        ? table_start(w->q, rev, false)
                        : json_pack("{s:s, s:s, s:{s:s, s:n}}", "kind", w->q->kind->name, "apiVersion", version, "metadata", "resourceVersion", text, "creationTimestamp");
    if (initial_end)
        json_object_set_new(json_object_get(obj, "metadata"), "annotations", json_pack("{s:s}", INITIAL_END, "true"));
    return send_document(w, BOOKMARK, w->q->wants.as == AS_METADATA ? shape_metadata(w->q->wants.version, obj) : json_incref(obj));
}

static void on_bookmark(struct timer *t)
{
    struct api_watch *w = t->arg;
    timer_start(t, BOOKMARK_MS);
    if (send_bookmark(w, w->server->delivered_rev, false) && w->q->http)
        http_flush(w->q->http);
}

static bool matches(const struct api_watch *w, struct store_value *v)
{
    if (!v || !w->selector)
        return v != NULL;
    JSON_AUTO obj = object_of_as(w->q->kind, v);
    return selector_matches(w->selector, obj);
}

static void on_change(void *arg, const struct store_event *e)
{
    struct api_watch *w = arg;
    struct store_value *any = e->now ? e->now : e->prev;
    if (w->only_key.len && !str_eq(any->key, w->only_key))
        return;
    bool was = matches(w, e->prev), is = matches(w, e->now);
    if (is)
        send_value(w, was ? MODIFIED : ADDED, e->now, e->rev);
    else if (was)
        send_value(w, DELETED, e->prev, e->rev);
}

/* ---- the start ---- */

struct wanted {
    int64_t rev;
    bool initial, initial_end;
    uint64_t timeout_ms;
};

static void choose_start(struct api_watch *w, const struct list_options *o, struct wanted *ret)
{
    bool anew = o->match == MATCH_LATEST || o->match == MATCH_ANY; /* no version to go on from: what exists comes first */
    uint64_t timeout_ms = w->server->o.watch_timeout_ms;
    w->selector = o->selector;
    w->bookmarks = o->bookmarks;
    ret->initial_end = o->initial;
    ret->initial = o->initial_set ? o->initial : anew;
    ret->rev = ret->initial || anew ? store_rev(w->server->store) : o->rev;
    ret->timeout_ms = o->timeout_s ? (uint64_t)o->timeout_s * 1000 : timeout_ms + rnd_below(timeout_ms);
}

struct initial {
    struct api_watch *w;
    bool ok;
};

static bool send_existing(void *arg, struct store_value *v)
{
    struct initial *i = arg;
    if ((!i->w->only_key.len || str_eq(v->key, i->w->only_key)) && matches(i->w, v))
        i->ok = send_value(i->w, ADDED, v, v->rev);
    return i->ok;
}

static struct api_watch *watch_new(struct api_request *q)
{
    struct api_watch *w = XNEW(struct api_watch);
    *w = (struct api_watch){.server = q->server, .q = q};
    timer_init(&w->bookmark, q->server->loop, on_bookmark, w);
    timer_init(&w->timeout, q->server->loop, on_timeout, w);
    TAILQ_INSERT_TAIL(&q->server->watches, w, link);
    metric_move(q->server->watch_gauge, 1);
    q->watch = w;
    return w;
}

/* Subscribes, and sends what exists. False: w is gone. */
static bool begin(struct api_watch *w, const struct wanted *o, struct str prefix)
{
    struct err err = ERR_INIT;
    struct initial i = {w, true};
    if (o->initial) {
        (void)!store_range(w->server->store, prefix, STR_NULL, o->rev, 0, send_existing, &i, NULL);
        if (!i.ok || (o->initial_end && !send_bookmark(w, o->rev, true)))
            return false;
    }
    if (store_watch(w->server->store, prefix, o->rev, on_change, w, &w->feed, &err) < 0) {
        err_set(&err, ERR_GONE, "too old resource version: %lld (%lld)", (long long)o->rev, (long long)store_first_rev(w->server->store));
        if (send_document(w, ERROR_EVENT, api_status(410, "Failure", "Expired", err.msg, NULL)))
            watch_end(w, true);
        return false;
    }
    timer_start(&w->timeout, o->timeout_ms);
    if (w->bookmarks)
        timer_start(&w->bookmark, BOOKMARK_MS);
    return true;
}

static void prefix_of(struct api_watch *w, struct sbuf *out)
{
    struct api_request *q = w->q;
    if (!*q->name) {
        object_prefix(q->kind, q->ns, out);
        return;
    }
    object_key(q->kind, q->ns, q->name, out);
    w->only_key = arena_str(q->arena, sbuf_str(out));
}

void api_watch_http(struct api_request *q)
{
    struct err err = ERR_INIT;
    struct wanted o = {0};
    struct list_options options;
    struct field_errors errors = {0};
    int64_t now = store_rev(q->server->store);
    CLEANUP(sbuf_deinit) struct sbuf prefix = {0};
    if (list_options_read(q, true, &options, &errors, &err) < 0) {
        list_options_fail(q, &errors, &err);
        return;
    }
    if (options.rev > now) {
        api_reply(q, 504, list_too_large(options.rev, now));
        return;
    }
    struct api_watch *w = watch_new(q);
    choose_start(w, &options, &o);
    sbuf_init(&prefix, 1024);
    prefix_of(w, &prefix);
    api_count(q, 200);
    http_respond_start(q->http, 200, "application/json", NULL, 0);
    if (begin(w, &o, sbuf_str(&prefix)))
        http_flush(q->http);
}

struct api_watch *api_watch_local(struct api_request *q, const struct local_watch_call *c)
{
    struct err err = ERR_INIT;
    struct wanted o = {0};
    struct list_options options;
    struct field_errors errors = {0};
    CLEANUP(sbuf_deinit) struct sbuf prefix = {0};
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
    choose_start(w, &options, &o);
    sbuf_init(&prefix, 1024);
    prefix_of(w, &prefix);
    return begin(w, &o, sbuf_str(&prefix)) ? w : NULL;
}
