#include "client/client.h"

#include <time.h>

#include "base/clock.h"
#include "base/mem.h"
#include "net/http.h"

#define CALL_TIMEOUT_MS 30000
#define WATCH_TIMEOUT_MS (35 * 60 * 1000)
#define WATCH_SECONDS 1800
#define PAGE_OBJECTS 500
#define PAGE_OBJECTS_MIN 8 /* of the largest size (1 MiB) these are far under an answer's cap */
#define LIST_OBJECTS_MAX 1000000
#define PATH_BYTES_MAX 8192
#define TRIES_MAX 5 /* of a call that the server has no room for */
#define RETRY_DEFAULT_MS 1000u
#define STOP_LOOK_MS 100u

struct client {
    const struct client_transport *ops;
    void *transport;
    int (*allow)(void *arg, uint64_t *timeout_ms, struct err *err); /* fenced: the transport is another's */
    void *allow_arg;
    size_t list_bytes; /* 0: no bound */
};

struct client *client_new(const struct client_transport *ops, void *t)
{
    struct client *c = XNEW(struct client);
    *c = (struct client){.ops = ops, .transport = t};
    return c;
}

struct client *client_fenced(struct client *through, int (*allow)(void *arg, uint64_t *timeout_ms, struct err *err), void *arg)
{
    struct client *c = client_new(through->ops, through->transport);
    c->allow = allow;
    c->allow_arg = arg;
    return c;
}

void client_bound_lists(struct client *c, size_t bytes)
{
    c->list_bytes = bytes;
}

void client_free(struct client *c)
{
    if (!c)
        return;
    if (!c->allow)
        c->ops->free(c->transport);
    mem_free(c);
}

/* ---- paths ---- */

static void path_of(const struct client_resource *r, const char *ns, const char *name, const char *sub, struct sbuf *out)
{
    if (*r->group)
        sbuf_addf(out, "/apis/%s/%s", r->group, r->version);
    else
        sbuf_addf(out, "/api/%s", r->version);
    if (r->namespaced && ns && *ns) {
        sbuf_addc(out, "/namespaces/");
        http_encode(out, str_of(ns));
    }
    sbuf_addf(out, "/%s", r->plural);
    if (name) {
        sbuf_add_char(out, '/');
        http_encode(out, str_of(name));
    }
    if (sub)
        sbuf_addf(out, "/%s", sub);
}

/* ---- answers ---- */

/* For an answer without a Status that says more. */
static int code_of_status(int http_status)
{
    static const struct {
        int status, code;
    } codes[] = {{400, ERR_BAD_REQUEST}, {401, ERR_UNAUTHENTICATED}, {403, ERR_FORBIDDEN}, {404, ERR_NOT_FOUND}, {405, ERR_METHOD}, {409, ERR_CONFLICT},
                 {410, ERR_GONE}, {413, ERR_TOO_LARGE}, {415, ERR_MEDIA_TYPE}, {422, ERR_INVALID}, {429, ERR_TOO_MANY}, {503, ERR_UNAVAILABLE}, {504, ERR_TIMEOUT}};
    for (size_t i = 0; i < ARRAY_LEN(codes); i++)
        if (codes[i].status == http_status)
            return codes[i].code;
    return ERR_INTERNAL;
}

/* The server's Status as an error. */
static int status_error(int http_status, const json_t *body, struct err *err)
{
    static const struct {
        const char *reason;
        int code;
    } reasons[] = {{"NotFound", ERR_NOT_FOUND}, {"AlreadyExists", ERR_EXISTS}, {"Conflict", ERR_CONFLICT}, {"Invalid", ERR_INVALID},
                   {"Forbidden", ERR_FORBIDDEN}, {"Unauthorized", ERR_UNAUTHENTICATED}, {"Expired", ERR_GONE}, {"Gone", ERR_GONE},
                   {"BadRequest", ERR_BAD_REQUEST}, {"TooManyRequests", ERR_TOO_MANY}, {"ServiceUnavailable", ERR_UNAVAILABLE},
                   {"Timeout", ERR_TIMEOUT}, {"RequestEntityTooLarge", ERR_TOO_LARGE}, {"UnsupportedMediaType", ERR_MEDIA_TYPE},
                   {"MethodNotAllowed", ERR_METHOD}};
    const char *reason = json_str_or(body, "reason", ""), *message = json_str(body, "message");
    int code = code_of_status(http_status);
    for (size_t i = 0; i < ARRAY_LEN(reasons); i++)
        if (!strcmp(reason, reasons[i].reason))
            code = reasons[i].code;
    const json_t *cause = json_array_get(json_at(body, "details.causes"), 0);
    if (!message)
        return err_set(err, code, "the API answered %d", http_status);
    return err_field(err, code, json_str_or(cause, "field", ""), "%s", message);
}

/* False when *stop became true meanwhile. */
static bool pause_ms(uint64_t ms, atomic_bool *stop)
{
    for (uint64_t part; ms && !(stop && atomic_load(stop)); ms -= part) {
        part = MIN(ms, STOP_LOOK_MS);
        nanosleep(&(struct timespec){.tv_nsec = (long)part * 1000000}, NULL);
    }
    return !stop || !atomic_load(stop);
}

/* Makes the call, again when the server had no room for it: such a call was not carried out. */
static int try_call(struct client *c, struct client_call *k, struct client_answer *ret, struct err *err)
{
    uint64_t deadline = clock_mono_ms() + k->timeout_ms;
    for (int tries = 1;; tries++) {
        uint64_t now = clock_mono_ms();
        k->timeout_ms = deadline > now ? deadline - now : 1;
        int rc = c->allow ? c->allow(c->allow_arg, &k->timeout_ms, err) : 0;
        deadline = MIN(deadline, now + k->timeout_ms); /* what is allowed is for all tries together */
        if (rc == 0)
            rc = c->ops->roundtrip(c->transport, k, ret, err);
        if (rc < 0 || ret->status != 429 || tries == TRIES_MAX)
            return rc;
        int64_t said_s = ret->retry_after_s > 0 ? ret->retry_after_s : json_int(ret->body, "details.retryAfterSeconds", 0);
        uint64_t wait_ms = said_s > 0 && said_s < CALL_TIMEOUT_MS ? (uint64_t)said_s * 1000 : said_s > 0 ? UINT64_MAX : RETRY_DEFAULT_MS;
        now = clock_mono_ms();
        if (wait_ms >= deadline - MIN(deadline, now))
            return 0;
        json_decref(ret->body);
        *ret = (struct client_answer){0};
        if (!pause_ms(wait_ms, k->stop))
            return err_set(err, ERR_CANCELED, "%s %s: canceled", k->method, k->path);
    }
}

/* room: of the answer, less it when it is there; NULL: the transport's cap. */
static int call_within(struct client *c, const char *method, const struct sbuf *path, const char *type, json_t *body, atomic_bool *stop, size_t *room, json_t **ret, struct err *err)
{
    if (!sbuf_ok(path))
        return err_set(err, ERR_TOO_LARGE, "the request path is too long");
    struct client_call k = {.method = method, .path = path->ptr, .content_type = type, .body = body, .timeout_ms = CALL_TIMEOUT_MS, .answer_max = room ? MAX(*room, (size_t)1) : 0, .stop = stop};
    struct client_answer answer = {0};
    int rc = try_call(c, &k, &answer, err);
    if (room)
        *room -= MIN(answer.bytes, *room);
    if (rc < 0)
        return rc;
    if (answer.status < 200 || answer.status > 299)
        rc = status_error(answer.status, answer.body, err);
    else if (ret && !answer.body)
        rc = err_set(err, ERR_PROTOCOL, "%s %s: the API answered %d without a document", method, path->ptr, answer.status);
    if (rc == 0 && ret)
        *ret = answer.body;
    else
        json_decref(answer.body);
    return rc;
}

static int call(struct client *c, const char *method, const struct sbuf *path, const char *type, json_t *body, atomic_bool *stop, json_t **ret, struct err *err)
{
    return call_within(c, method, path, type, body, stop, NULL, ret, err);
}

/* A name that is empty or made of dots would be another path: that of the collection, or of what lies above. */
static bool names_one(const char *name)
{
    return name && *name && strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

static int call_object(struct client *c, const char *method, const struct client_resource *r, const char *ns, const char *name, const char *sub,
                       const char *type, json_t *body, json_t **ret, struct err *err)
{
    CLEANUP(sbuf_deinit) struct sbuf path = {0};
    if (ns && *ns && !names_one(ns))
        return err_field(err, ERR_INVALID, "metadata.namespace", "\"%s\" is no name of a namespace", ns);
    sbuf_init(&path, PATH_BYTES_MAX);
    path_of(r, ns, name, sub, &path);
    return call(c, method, &path, type, body, NULL, ret, err);
}

static int call_named(struct client *c, const char *method, const struct client_resource *r, const char *ns, const char *name, const char *sub,
                      const char *type, json_t *body, json_t **ret, struct err *err)
{
    if (!names_one(name))
        return err_field(err, ERR_INVALID, "metadata.name", "\"%s\" is no name of one of %s", name ? name : "", r->plural);
    return call_object(c, method, r, ns, name, sub, type, body, ret, err);
}

static const char *meta(const json_t *obj, const char *key)
{
    return json_string_value(json_object_get(json_object_get(obj, "metadata"), key));
}

/* ---- verbs ---- */

int client_get(struct client *c, const struct client_resource *r, const char *ns, const char *name, json_t **ret, struct err *err)
{
    return call_named(c, "GET", r, ns, name, NULL, NULL, NULL, ret, err);
}

int client_create(struct client *c, const struct client_resource *r, const char *ns, json_t *obj, json_t **ret, struct err *err)
{
    return call_object(c, "POST", r, ns, NULL, NULL, "application/json", obj, ret, err);
}

int client_update(struct client *c, const struct client_resource *r, json_t *obj, json_t **ret, struct err *err)
{
    return call_named(c, "PUT", r, meta(obj, "namespace"), meta(obj, "name"), NULL, "application/json", obj, ret, err);
}

int client_update_status(struct client *c, const struct client_resource *r, json_t *obj, json_t **ret, struct err *err)
{
    return call_named(c, "PUT", r, meta(obj, "namespace"), meta(obj, "name"), "status", "application/json", obj, ret, err);
}

int client_patch(struct client *c, const struct client_resource *r, const char *ns, const char *name, const char *subresource, json_t *patch,
                 json_t **ret, struct err *err)
{
    return call_named(c, "PATCH", r, ns, name, subresource, "application/merge-patch+json", patch, ret, err);
}

int client_apply(struct client *c, const struct client_resource *r, json_t *obj, const char *manager, bool force, json_t **ret, struct err *err)
{
    CLEANUP(sbuf_deinit) struct sbuf path = {0};
    const char *ns = meta(obj, "namespace"), *name = meta(obj, "name");
    if (!names_one(name))
        return err_field(err, ERR_INVALID, "metadata.name", "\"%s\" is no name of one of %s", name ? name : "", r->plural);
    if (ns && *ns && !names_one(ns))
        return err_field(err, ERR_INVALID, "metadata.namespace", "\"%s\" is no name of a namespace", ns);
    sbuf_init(&path, PATH_BYTES_MAX);
    path_of(r, ns, name, NULL, &path);
    sbuf_addc(&path, "?fieldManager=");
    http_encode(&path, str_of(manager));
    sbuf_addf(&path, "&force=%s", force ? "true" : "false");
    return call(c, "PATCH", &path, "application/apply-patch+yaml", obj, NULL, ret, err); /* JSON is YAML */
}

int client_delete(struct client *c, const struct client_resource *r, const char *ns, const char *name, const char *uid, struct err *err)
{
    JSON_AUTO options = uid ? json_pack("{s:s, s:s, s:{s:s}}", "apiVersion", "v1", "kind", "DeleteOptions", "preconditions", "uid", uid) : NULL;
    return call_named(c, "DELETE", r, ns, name, NULL, "application/json", options, NULL, err);
}

int client_get_path(struct client *c, const char *path, json_t **ret, struct err *err)
{
    CLEANUP(sbuf_deinit) struct sbuf p = {0};
    sbuf_init(&p, PATH_BYTES_MAX);
    sbuf_addc(&p, path);
    return call(c, "GET", &p, NULL, NULL, NULL, ret, err);
}

int client_post(struct client *c, const char *path, json_t *body, json_t **ret, struct err *err)
{
    CLEANUP(sbuf_deinit) struct sbuf p = {0};
    sbuf_init(&p, PATH_BYTES_MAX);
    sbuf_addc(&p, path);
    return call(c, "POST", &p, "application/json", body, NULL, ret, err);
}

/* Items of a list lack apiVersion and kind; whoever keeps one wants them. */
static void take_items(json_t *page, json_t *into)
{
    const char *kind = json_str_or(page, "kind", "");
    size_t len = strlen(kind), i;
    json_t *item;
    JSON_AUTO name = len > 4 && !strcmp(kind + len - 4, "List") ? json_stringn(kind, len - 4) : NULL;
    json_array_foreach (json_object_get(page, "items"), i, item) {
        if (!name || json_object_get(item, "kind")) {
            json_array_append(into, item);
            continue;
        }
        json_t *whole = json_copy(item); /* the item may be the server's own, shared */
        json_object_set(whole, "kind", name);
        json_object_set(whole, "apiVersion", json_object_get(page, "apiVersion"));
        json_array_append_new(into, whole);
    }
}

int client_list(struct client *c, const struct client_resource *r, const char *ns, const char *selector, json_t **ret_items, char ret_rv[32],
                struct err *err)
{
    return client_list_until(c, r, ns, selector, NULL, ret_items, ret_rv, err);
}

int client_list_until(struct client *c, const struct client_resource *r, const char *ns, const char *selector, atomic_bool *stop, json_t **ret_items,
                      char ret_rv[32], struct err *err)
{
    JSON_AUTO items = json_array();
    CLEANUP(mem_freep) char *next = NULL;
    char rv[32] = "";
    int limit = PAGE_OBJECTS;
    size_t room = c->list_bytes;
    for (bool more = true; more;) {
        CLEANUP(sbuf_deinit) struct sbuf path = {0};
        sbuf_init(&path, PATH_BYTES_MAX);
        path_of(r, ns, NULL, NULL, &path);
        sbuf_addf(&path, "?limit=%d", limit);
        if (selector) {
            sbuf_addc(&path, "&labelSelector=");
            http_encode(&path, str_of(selector));
        }
        if (next) {
            sbuf_addc(&path, "&continue=");
            http_encode(&path, str_of(next));
        }
        JSON_AUTO page = NULL;
        struct err why = ERR_INIT;
        int rc = call_within(c, "GET", &path, NULL, NULL, stop, c->list_bytes ? &room : NULL, &page, &why);
        if (rc == ERR_TOO_LARGE && limit > PAGE_OBJECTS_MIN) {
            limit = limit / 4 > PAGE_OBJECTS_MIN ? limit / 4 : PAGE_OBJECTS_MIN;
            continue; /* the same page again, in parts */
        }
        if (rc == ERR_TOO_LARGE && c->list_bytes)
            rc = err_set(&why, ERR_TOO_LARGE, "the list of %s is larger than %zu MiB", r->plural, c->list_bytes >> 20);
        if (rc == 0 && !json_is_array(json_object_get(page, "items")))
            rc = err_field(&why, ERR_PROTOCOL, "items", "the list of %s has no items", r->plural);
        if (rc == 0 && json_array_size(items) + json_array_size(json_object_get(page, "items")) > LIST_OBJECTS_MAX)
            rc = err_set(&why, ERR_TOO_LARGE, "there are more than %d %s", LIST_OBJECTS_MAX, r->plural);
        if (rc < 0) {
            if (err)
                *err = why;
            return rc;
        }
        take_items(page, items);
        snprintf(rv, sizeof(rv), "%s", json_str_or(page, "metadata.resourceVersion", ""));
        mem_free(next);
        const char *token = json_str(page, "metadata.continue");
        next = token && *token ? xstrdup(token) : NULL;
        more = next != NULL;
    }
    *ret_items = TAKE(items);
    if (ret_rv)
        memcpy(ret_rv, rv, sizeof(rv));
    return 0;
}

/* ---- watch ---- */

struct watch {
    bool (*on_event)(void *arg, const char *type, json_t *object);
    void *arg;
    int code;
    struct err *err;
};

static bool on_line(void *arg, json_t *line)
{
    struct watch *w = arg;
    const char *type = json_str(line, "type");
    json_t *object = json_object_get(line, "object");
    if (!type || !json_is_object(object)) {
        w->code = err_set(w->err, ERR_PROTOCOL, "a watch event without type or object");
        return false;
    }
    if (!strcmp(type, "ERROR")) {
        w->code = status_error((int)json_int(object, "code", 500), object, w->err);
        return false;
    }
    return w->on_event(w->arg, type, object);
}

int client_watch(struct client *c, const struct client_resource *r, const char *ns, const char *rv, atomic_bool *stop,
                 bool (*on_event)(void *arg, const char *type, json_t *object), void *arg, struct err *err)
{
    CLEANUP(sbuf_deinit) struct sbuf path = {0};
    sbuf_init(&path, PATH_BYTES_MAX);
    path_of(r, ns, NULL, NULL, &path);
    sbuf_addf(&path, "?watch=1&allowWatchBookmarks=true&timeoutSeconds=%d&resourceVersion=", WATCH_SECONDS);
    http_encode(&path, str_of(rv));
    if (!sbuf_ok(&path))
        return err_set(err, ERR_TOO_LARGE, "the request path is too long");
    struct client_call k = {.method = "GET", .path = path.ptr, .timeout_ms = WATCH_TIMEOUT_MS, .stop = stop};
    struct watch w = {.on_event = on_event, .arg = arg, .err = err};
    struct client_answer answer = {0};
    int rc = c->allow ? c->allow(c->allow_arg, &k.timeout_ms, err) : 0;
    if (rc == 0)
        rc = c->ops->stream(c->transport, &k, on_line, &w, &answer, err);
    JSON_AUTO body = answer.body;
    if (rc < 0)
        return rc;
    if (w.code < 0)
        return w.code;
    return answer.status == 200 || atomic_load(stop) ? 0 : status_error(answer.status, body, err);
}
