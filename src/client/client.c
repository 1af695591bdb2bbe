#include "client/client.h"

#include "base/mem.h"

#define CALL_TIMEOUT_MS 30000
#define WATCH_TIMEOUT_MS (35 * 60 * 1000)
#define WATCH_SECONDS 1800
#define PAGE_OBJECTS 500
#define PATH_BYTES_MAX 8192

struct client {
    const struct client_transport *ops;
    void *transport;
};

struct client *client_new(const struct client_transport *ops, void *t)
{
    struct client *c = XNEW(struct client);
    *c = (struct client){ops, t};
    return c;
}

void client_free(struct client *c)
{
    if (!c)
        return;
    c->ops->free(c->transport);
    mem_free(c);
}

/* ---- paths ---- */

static void encode(struct sbuf *out, const char *text)
{
    for (; *text; text++) {
        unsigned char ch = (unsigned char)*text;
        bool plain = (ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z') || (ch >= '0' && ch <= '9') || strchr("-._~:", ch);
        if (plain)
            sbuf_add_char(out, (char)ch);
        else
            sbuf_addf(out, "%%%02X", ch);
    }
}

static void path_of(const struct client_resource *r, const char *ns, const char *name, const char *sub, struct sbuf *out)
{
    if (*r->group)
        sbuf_addf(out, "/apis/%s/%s", r->group, r->version);
    else
        sbuf_addf(out, "/api/%s", r->version);
    if (r->namespaced && ns && *ns) {
        sbuf_addc(out, "/namespaces/");
        encode(out, ns);
    }
    sbuf_addf(out, "/%s", r->plural);
    if (name) {
        sbuf_add_char(out, '/');
        encode(out, name);
    }
    if (sub)
        sbuf_addf(out, "/%s", sub);
}

/* ---- answers ---- */

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
    int code = http_status == 404 ? ERR_NOT_FOUND : http_status == 410 ? ERR_GONE : http_status == 503 ? ERR_UNAVAILABLE : http_status == 429 ? ERR_TOO_MANY : ERR_INTERNAL;
    for (size_t i = 0; i < ARRAY_LEN(reasons); i++)
        if (!strcmp(reason, reasons[i].reason))
            code = reasons[i].code;
    const json_t *cause = json_array_get(json_at(body, "details.causes"), 0);
    if (!message)
        return err_set(err, code, "the API answered %d", http_status);
    return err_field(err, code, json_str_or(cause, "field", ""), "%s", message);
}

static int call(struct client *c, const char *method, const struct sbuf *path, const char *type, json_t *body, json_t **ret, struct err *err)
{
    if (!sbuf_ok(path))
        return err_set(err, ERR_TOO_LARGE, "the request path is too long");
    const struct client_call k = {.method = method, .path = path->ptr, .content_type = type, .body = body, .timeout_ms = CALL_TIMEOUT_MS};
    int status = 0;
    json_t *answer = NULL;
    int rc = c->ops->roundtrip(c->transport, &k, &status, &answer, err);
    if (rc < 0)
        return rc;
    if (status < 200 || status > 299)
        rc = status_error(status, answer, err);
    if (rc == 0 && ret)
        *ret = answer;
    else
        json_decref(answer);
    return rc;
}

static int call_object(struct client *c, const char *method, const struct client_resource *r, const char *ns, const char *name, const char *sub,
                       const char *type, json_t *body, json_t **ret, struct err *err)
{
    CLEANUP(sbuf_deinit) struct sbuf path = {0};
    sbuf_init(&path, PATH_BYTES_MAX);
    path_of(r, ns, name, sub, &path);
    return call(c, method, &path, type, body, ret, err);
}

static const char *meta(const json_t *obj, const char *key)
{
    return json_string_value(json_object_get(json_object_get(obj, "metadata"), key));
}

/* ---- verbs ---- */

int client_get(struct client *c, const struct client_resource *r, const char *ns, const char *name, json_t **ret, struct err *err)
{
    return call_object(c, "GET", r, ns, name, NULL, NULL, NULL, ret, err);
}

int client_create(struct client *c, const struct client_resource *r, const char *ns, json_t *obj, json_t **ret, struct err *err)
{
    return call_object(c, "POST", r, ns, NULL, NULL, "application/json", obj, ret, err);
}

int client_update(struct client *c, const struct client_resource *r, json_t *obj, json_t **ret, struct err *err)
{
    return call_object(c, "PUT", r, meta(obj, "namespace"), meta(obj, "name"), NULL, "application/json", obj, ret, err);
}

int client_update_status(struct client *c, const struct client_resource *r, json_t *obj, json_t **ret, struct err *err)
{
    return call_object(c, "PUT", r, meta(obj, "namespace"), meta(obj, "name"), "status", "application/json", obj, ret, err);
}

int client_patch(struct client *c, const struct client_resource *r, const char *ns, const char *name, const char *subresource, json_t *patch,
                 json_t **ret, struct err *err)
{
    return call_object(c, "PATCH", r, ns, name, subresource, "application/merge-patch+json", patch, ret, err);
}

int client_delete(struct client *c, const struct client_resource *r, const char *ns, const char *name, const char *uid, struct err *err)
{
    JSON_AUTO options = uid ? json_pack("{s:s, s:s, s:{s:s}}", "apiVersion", "v1", "kind", "DeleteOptions", "preconditions", "uid", uid) : NULL;
    return call_object(c, "DELETE", r, ns, name, NULL, "application/json", options, NULL, err);
}

int client_raw(struct client *c, const char *method, const char *path, json_t *body, json_t **ret, struct err *err)
{
    CLEANUP(sbuf_deinit) struct sbuf p = {0};
    sbuf_init(&p, PATH_BYTES_MAX);
    sbuf_addc(&p, path);
    return call(c, method, &p, "application/json", body, ret, err);
}

/* Items of a list lack apiVersion and kind; whoever keeps one wants them. */
static void take_items(json_t *page, json_t *into)
{
    const char *kind = json_str_or(page, "kind", "");
    size_t len = strlen(kind), i;
    json_t *item;
    JSON_AUTO name = len > 4 && !strcmp(kind + len - 4, "List") ? json_stringn(kind, len - 4) : NULL;
    json_array_foreach (json_object_get(page, "items"), i, item) {
        if (name && !json_object_get(item, "kind")) {
            json_object_set(item, "kind", name);
            json_object_set(item, "apiVersion", json_object_get(page, "apiVersion"));
        }
        json_array_append(into, item);
    }
}

int client_list(struct client *c, const struct client_resource *r, const char *ns, const char *selector, json_t **ret_items, char ret_rv[32],
                struct err *err)
{
    JSON_AUTO items = json_array();
    CLEANUP(mem_freep) char *next = NULL;
    do {
        CLEANUP(sbuf_deinit) struct sbuf path = {0};
        sbuf_init(&path, PATH_BYTES_MAX);
        path_of(r, ns, NULL, NULL, &path);
        sbuf_addf(&path, "?limit=%d", PAGE_OBJECTS);
        if (selector) {
            sbuf_addc(&path, "&labelSelector=");
            encode(&path, selector);
        }
        if (next) {
            sbuf_addc(&path, "&continue=");
            encode(&path, next);
        }
        JSON_AUTO page = NULL;
        int rc = call(c, "GET", &path, NULL, NULL, &page, err);
        if (rc < 0)
            return rc;
        take_items(page, items);
        if (ret_rv)
            snprintf(ret_rv, 32, "%s", json_str_or(page, "metadata.resourceVersion", ""));
        mem_free(next);
        const char *token = json_str(page, "metadata.continue");
        next = token && *token ? xstrdup(token) : NULL;
    } while (next);
    *ret_items = TAKE(items);
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
    encode(&path, rv);
    const struct client_call k = {.method = "GET", .path = path.ptr, .timeout_ms = WATCH_TIMEOUT_MS};
    struct watch w = {.on_event = on_event, .arg = arg, .err = err};
    int status = 0;
    JSON_AUTO body = NULL;
    int rc = c->ops->stream(c->transport, &k, stop, on_line, &w, &status, &body, err);
    if (rc < 0)
        return rc;
    if (w.code < 0)
        return w.code;
    return status == 200 ? 0 : status_error(status, body, err);
}
