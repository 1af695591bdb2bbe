#include "apiserver/api.h"
#include "apiserver/audit.h"
#include "apiserver/managed.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "json/proto.h"
#include "json/yaml.h"

#define REQUEST_ARENA_MAX (64 * 1024 * 1024)
#define WARNINGS_MAX 8
#define ANSWER_MAX (1024u * 1024 * 1024)

struct api_request *api_request_new(struct apiserver *s)
{
    struct arena *a = arena_new(REQUEST_ARENA_MAX);
    struct api_request *q = ARENA_NEW(a, struct api_request);
    q->server = s;
    q->arena = a;
    q->refs = 1;
    q->ns = q->name = q->sub = q->verb = q->group = q->version = q->content_type = q->user_agent = "";
    q->id = q->source = q->rule = "";
    q->wants.version = "";
    q->started_ns = clock_mono_ns();
    return q;
}

void api_request_unref(struct api_request *q)
{
    if (--q->refs > 0)
        return;
    json_decref(q->body);
    arena_free(q->arena);
}

void api_count(struct api_request *q, int status)
{
    char code[8];
    snprintf(code, sizeof(code), "%d", status);
    struct str resource = str_of(q->kind ? q->kind->plural : "");
    struct metric *m = metric_series(q->server->requests_total, (const struct str[]){str_of(q->verb), resource, str_of(code)});
    metric_add(m, 1);
    m = metric_series(q->server->duration, (const struct str[]){str_of(q->verb)});
    metric_observe(m, (double)(clock_mono_ns() - q->started_ns) / 1e9);
    audit_answered(q, status);
    if (q->http && !str_eqc(q->http->head.method, "GET"))
        log_debug("request", KV("user", q->user.name ? q->user.name : "-"), KV("sender", q->sender ? q->sender : ""), KV("verb", q->verb), KV("resource", q->kind ? q->kind->plural : ""),
                  KV("namespace", q->ns), KV("name", q->name), KVI("status", status), KV("id", q->http->id));
}

/* Warning: 299 - "unknown field \"spec.x\"", as RFC 7234 has it; bytes that a header may not carry are left out. */
static size_t add_warnings(struct api_request *q, struct http_out_header *headers)
{
    size_t count = 0;
    for (size_t i = 0; q->warnings && i < q->warnings->count && count < WARNINGS_MAX; i++) {
        struct sbuf text;
        sbuf_init(&text, 1024);
        sbuf_addc(&text, "299 - \"");
        for (const char *c = q->warnings->items[i].message; *c; c++) {
            if (*c == '"' || *c == '\\')
                sbuf_add_char(&text, '\\');
            if (*c >= 0x20 && *c < 0x7f)
                sbuf_add_char(&text, *c);
        }
        sbuf_add_char(&text, '"');
        headers[count++] = (struct http_out_header){"Warning", arena_str(q->arena, sbuf_str(&text))};
        sbuf_deinit(&text);
    }
    return count;
}

void api_header(struct api_request *q, const char *name, struct str value)
{
    if (q->header_count < API_HEADERS_MAX)
        q->headers[q->header_count++] = (struct http_out_header){name, value};
}

static void answer_http(struct api_request *q, int status, const char *type, struct str text)
{
    struct http_request *r = q->http;
    struct http_out_header headers[WARNINGS_MAX + API_HEADERS_MAX + 1];
    size_t count = add_warnings(q, headers);
    for (size_t i = 0; i < q->header_count; i++)
        headers[count++] = q->headers[i];
    if (status == 429 || status == 503)
        headers[count++] = (struct http_out_header){"Retry-After", STR("1")};
    flow_hold(q, text.len);
    q->http = NULL;
    q->held = NULL;
    r->user = NULL;
    http_respond(r, status, type, headers, count, text);
}

void api_reply_text(struct api_request *q, int status, const char *type, struct str text)
{
    if (q->replied)
        return;
    q->replied = true;
    api_count(q, status);
    if (q->http) {
        answer_http(q, status, type, text);
        api_request_unref(q);
    } else if (q->local_done) {
        json_t *doc = NULL;
        (void)!json_parse(text, ANSWER_MAX, &doc, NULL);
        q->local_done(q->local_arg, status, doc);
        q->local_done = NULL;
        api_request_unref(q);
    }
}

static bool is_plain(const struct api_request *q)
{
    return q->wants.form == ACCEPT_JSON && !q->pretty;
}

void api_reply(struct api_request *q, int status, json_t *body)
{
    if (!q->replied && q->local_done) {
        q->replied = true;
        api_count(q, status);
        q->local_done(q->local_arg, status, body);
        q->local_done = NULL;
        api_request_unref(q);
        return;
    }
    CLEANUP(sbuf_deinit) struct sbuf out = {0};
    const char *type = q->wants.form == ACCEPT_YAML ? "application/yaml" : "application/json";
    sbuf_init(&out, ANSWER_MAX);
    if (is_plain(q))
        json_write(body, &out);
    else if (q->wants.form == ACCEPT_YAML)
        yaml_write(body, &out);
    else
        json_write_pretty(body, &out);
    json_decref(body);
    api_reply_text(q, status, type, sbuf_str(&out));
}

void api_reply_json(struct api_request *q, int status, struct str text)
{
    json_t *doc = NULL;
    if (is_plain(q) || q->local_done || json_parse(text, ANSWER_MAX, &doc, NULL) < 0)
        api_reply_text(q, status, "application/json", text);
    else
        api_reply(q, status, doc);
}

void api_fail_shut(struct api_request *q, struct str key, const char *why)
{
    api_fail_code(q, ERR_CORRUPT, "the secrets of %.*s cannot be read: %s", STR_ARG(key), why);
}

void api_reply_value(struct api_request *q, int status, struct store_value *v)
{
    const char *shut = object_shut(v);
    if (shut) {
        api_fail_shut(q, v->key, shut);
        return;
    }
    if (q->wants.as != AS_ITSELF || q->local_done || q->kind->view_of) {
        JSON_AUTO obj = object_of_as(q->kind, v);
        api_reply(q, status, shape_object(q, obj, v->rev, true));
        return;
    }
    CLEANUP(sbuf_deinit) struct sbuf out = {0};
    sbuf_init(&out, ANSWER_MAX);
    object_write(v, v->rev, &out);
    api_reply_json(q, status, sbuf_str(&out));
}

/* ---- failures: metav1.Status ---- */

json_t *api_status(int http_status, const char *status, const char *reason, const char *message, json_t *details)
{
    json_t *s = json_pack("{s:s, s:s, s:{}, s:s, s:s}", "kind", "Status", "apiVersion", "v1", "metadata", "status", status, "message", message);
    if (!s) /* the message is not UTF-8: somebody's bytes came back in it */
        s = json_pack("{s:s, s:s, s:{}, s:s, s:s}", "kind", "Status", "apiVersion", "v1", "metadata", "status", status, "message", "the request is malformed");
    if (reason && *reason)
        json_object_set_new(s, "reason", json_string(reason));
    if (details)
        json_object_set_new(s, "details", details);
    json_object_set_new(s, "code", json_integer(http_status));
    return s;
}

const char *api_resource_text(const struct api_request *q)
{
    if (!q->kind)
        return "";
    return arena_printf(q->arena, "%s%s%s", q->kind->plural, *q->kind->group ? "." : "", q->kind->group);
}

json_t *api_details(const struct api_request *q)
{
    json_t *d = json_object();
    if (*q->name)
        json_object_set_new(d, "name", json_string(q->name));
    if (q->kind) {
        if (*q->kind->group)
            json_object_set_new(d, "group", json_string(q->kind->group));
        json_object_set_new(d, "kind", json_string(q->kind->plural));
    }
    return d;
}

static const char *options_kind(const struct api_request *q)
{
    static const char *const kinds[][2] = {{"create", "CreateOptions"}, {"update", "UpdateOptions"}, {"patch", "PatchOptions"}};
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++)
        if (!strcmp(q->verb, kinds[i][0]))
            return kinds[i][1];
    return "DeleteOptions";
}

int api_bad_option(struct api_request *q, struct err *err, const char *option, const char *reason, const char *fmt, ...)
{
    char text[ERR_MSG_MAX];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    q->refused_option = ARENA_NEW(q->arena, struct field_errors);
    q->refused_option->arena = q->arena;
    field_errors_add(q->refused_option, option, reason, "%s", text);
    return err_field(err, ERR_INVALID, option, "%s: %s", option, text);
}

void api_fail(struct api_request *q, const struct err *err)
{
    if (err->code == ERR_INVALID && q->refused_option) {
        api_fail_invalid_as(q, options_kind(q), "meta.k8s.io", "", q->refused_option);
        return;
    }
    json_t *details = api_details(q);
    int status = err_http_status(err->code);
    if (err->field[0])
        json_object_set_new(details, "causes", json_pack("[{s:s, s:s, s:s}]", "reason", "FieldValueInvalid", "message", err->msg, "field", err->field));
    if (status == 429 || status == 503)
        json_object_set_new(details, "retryAfterSeconds", json_integer(1));
    api_reply(q, status, api_status(status, "Failure", err_reason(err->code), err->msg, details));
}

void api_fail_code(struct api_request *q, int code, const char *fmt, ...)
{
    struct err err = {.code = code};
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(err.msg, sizeof(err.msg), fmt, ap);
    va_end(ap);
    api_fail(q, &err);
}

/* 'ModelEndpoint.seki.cloud "x" is invalid: spec.replicas: Invalid value: …', as Kubernetes words it. */
void api_fail_invalid_as(struct api_request *q, const char *kind, const char *group, const char *name, const struct field_errors *e)
{
    CLEANUP(sbuf_deinit) struct sbuf text = {0};
    sbuf_init(&text, 64 * 1024);
    json_t *causes = json_array(), *details = json_pack("{s:s*, s:s*, s:s}", "name", *name ? name : NULL, "group", *group ? group : NULL, "kind", kind);
    sbuf_addf(&text, "%s%s%s \"%s\" is invalid: ", kind, *group ? "." : "", group, name);
    if (e->count > 1)
        sbuf_add_char(&text, '[');
    for (size_t i = 0; i < e->count; i++) {
        const struct field_error *f = &e->items[i];
        sbuf_addf(&text, "%s%s: %s", i ? ", " : "", f->path, f->message);
        json_array_append_new(causes, json_pack("{s:s, s:s, s:s}", "reason", f->reason, "message", f->message, "field", f->path));
    }
    if (e->count > 1)
        sbuf_add_char(&text, ']');
    json_object_set_new(details, "causes", causes);
    api_reply(q, 422, api_status(422, "Failure", "Invalid", text.ptr ? text.ptr : "invalid", details));
}

void api_fail_invalid(struct api_request *q, const struct field_errors *e)
{
    api_fail_invalid_as(q, q->kind->name, q->kind->group, q->name, e);
}

/* ---- what was asked ---- */

struct str api_query(struct api_request *q, const char *name)
{
    struct str v;
    if (http_query_get(q->arena, q->query, name, &v, NULL) < 0 || !v.ptr)
        return STR("");
    return v;
}

/* What people's tools send is answered in lines. */
static bool is_for_eyes(struct api_request *q)
{
    static const char *const agents[] = {"curl", "Wget", "Mozilla/5.0"};
    struct str asked = api_query(q, "pretty"), agent = q->http ? http_header_get(&q->http->head, "user-agent") : STR_NULL;
    if (asked.len)
        return str_eqc(asked, "1") || str_ieq(asked, STR("true")) || str_ieq(asked, STR("t"));
    for (size_t i = 0; i < ARRAY_LEN(agents); i++)
        if (str_starts(agent, str_of(agents[i])))
            return true;
    return false;
}

int api_negotiate(struct api_request *q, unsigned offers, struct err *err)
{
    if (!q->http)
        return 0;
    q->pretty = is_for_eyes(q);
    return accept_parse(http_header_get(&q->http->head, "accept"), offers, &q->wants, err);
}

bool api_query_flag(struct api_request *q, const char *name)
{
    struct str v = api_query(q, name);
    return v.len && !str_eqc(v, "0") && !str_ieq(v, STR("false"));
}

/* A media type without its parameters. */
static struct str bare_type(const char *type)
{
    struct str t = str_of(type);
    ssize_t semi = str_find(t, ';');
    if (semi >= 0)
        t.len = (size_t)semi;
    return str_trim(t);
}

static bool is_yaml_type(struct str t)
{
    return str_ieq(t, STR("application/yaml")) || str_ends(t, STR("+yaml"));
}

static bool is_json_type(struct str t)
{
    return !t.len || str_ieq(t, STR("application/json")) || str_ends(t, STR("+json")) || str_ieq(t, STR("application/x-www-form-urlencoded"));
}

int api_parse_body(struct api_request *q, struct err *err)
{
    return api_parse_body_of(q, q->kind && proto_has_table(q->kind->fields) ? managed_all_rows(q->kind, q->arena) : NULL, err);
}

int api_parse_body_of(struct api_request *q, const struct field *proto_rows, struct err *err)
{
    if (q->body)
        return 0;
    struct str type = bare_type(q->content_type);
    struct err inner = ERR_INIT;
    size_t max = q->server->o.max_object_bytes * 3;
    bool yaml = is_yaml_type(type), proto = str_ieq(type, STR(PROTO_TYPE)), readable = proto_rows != NULL;
    if (proto ? !readable : !yaml && !is_json_type(type))
        return err_set(err, ERR_MEDIA_TYPE, "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml%s",
                       readable ? ", " PROTO_TYPE : "");
    int rc = proto  ? proto_parse(proto_rows, q->text, &q->body, &inner)
             : yaml ? yaml_parse(q->text, max, &q->body, &inner)
                    : json_parse(q->text, max, &q->body, &inner);
    if (rc < 0)
        return err_set(err, rc == ERR_TOO_LARGE ? rc : ERR_BAD_REQUEST, "%s", inner.msg);
    return 0;
}
