/* Answers that the gateway makes itself: errors in OpenAI's shape, the list of models. */
#include "gateway/internal.h"

#define ERROR_MAX (16 * 1024)
#define LIST_MAX (4 * 1024 * 1024)

void answer_error_body(struct sbuf *out, const char *type, const char *code, const char *param, struct str message, const char *request_id)
{
    sbuf_addc(out, "{\"error\":{\"message\":");
    sbuf_add_json(out, message);
    sbuf_addf(out, ",\"type\":\"%s\",\"param\":", type);
    if (param && *param)
        sbuf_add_json(out, str_of(param));
    else
        sbuf_addc(out, "null");
    sbuf_addc(out, ",\"code\":");
    if (code)
        sbuf_add_json(out, str_of(code));
    else
        sbuf_addc(out, "null");
    sbuf_addc(out, ",\"request_id\":");
    sbuf_add_json(out, str_of(request_id ? request_id : ""));
    sbuf_addc(out, "}}");
}

void answer_error(struct http_request *r, int status, const char *type, const char *code, const char *param, const char *message)
{
    CLEANUP(sbuf_deinit) struct sbuf body = {0};
    struct http_out_header headers[2];
    size_t n = 0;
    sbuf_init(&body, ERROR_MAX);
    answer_error_body(&body, type, code, param, str_of(message), r->id);
    if (status == 401)
        headers[n++] = (struct http_out_header){"WWW-Authenticate", STR("Bearer")};
    if (status == 503)
        headers[n++] = (struct http_out_header){"Retry-After", STR("1")};
    http_respond(r, status, JSON_TYPE, headers, n, sbuf_str(&body));
}

/* Counts what ends before it is a request: no route, no key, a broken head. */
static void count_refusal(struct gateway_loop *l, int status)
{
    char text[16];
    snprintf(text, sizeof(text), "%d", status);
    metric_add(metric_series(l->gateway->metrics.requests, (struct str[]){STR("none"), str_of(text), STR("refused")}), 1);
}

void answer_refusal(struct gateway_loop *l, struct http_request *r, int status, const char *type, const char *code, const char *message)
{
    count_refusal(l, status);
    answer_error(r, status, type, code, NULL, message);
}

void answer_server_error(void *ctx, int status, const char *msg, const char *request_id, struct sbuf *out, const char **ret_type)
{
    count_refusal(ctx, status);
    *ret_type = JSON_TYPE;
    answer_error_body(out, status >= 500 ? "server_error" : "invalid_request_error", status == 413 ? "request_too_large" : NULL, NULL, str_of(msg), request_id);
}

static void add_model(struct sbuf *out, const struct snap_endpoint *e)
{
    sbuf_addc(out, "{\"id\":");
    sbuf_add_json(out, str_of(e->served));
    sbuf_addf(out, ",\"object\":\"model\",\"created\":%lld,\"owned_by\":", (long long)(e->created_ms / 1000));
    sbuf_add_json(out, str_of(e->project));
    sbuf_add_char(out, '}');
}

static void add_to_list(void *arg, const struct snap_endpoint *e)
{
    struct sbuf *out = arg;
    if (out->ptr[out->len - 1] != '[')
        sbuf_add_char(out, ',');
    add_model(out, e);
}

void answer_models(struct gateway_loop *l, struct http_request *r, const struct snap_key *k)
{
    CLEANUP(sbuf_deinit) struct sbuf body = {0};
    sbuf_init(&body, LIST_MAX);
    sbuf_addc(&body, "{\"object\":\"list\",\"data\":[");
    snapshot_each(l->snapshot, k, add_to_list, &body);
    sbuf_addc(&body, "]}");
    if (!sbuf_ok(&body))
        answer_error(r, 500, "server_error", NULL, NULL, "the list of models is too long");
    else
        http_respond(r, 200, JSON_TYPE, NULL, 0, sbuf_str(&body));
}

void answer_model(struct gateway_loop *l, struct http_request *r, const struct snap_key *k)
{
    CLEANUP(sbuf_deinit) struct sbuf body = {0};
    struct str name;
    const struct snap_endpoint *e = NULL;
    if (http_decode(r->arena, str_skip(r->head.path, sizeof("/v1/models/") - 1), false, &name, NULL) == 0 && name.len < MODEL_NAME_MAX)
        e = snapshot_find(l->snapshot, k, arena_strndup(r->arena, name));
    if (!e) {
        answer_error(r, 404, "invalid_request_error", "model_not_found", "model", "The model does not exist or you do not have access to it.");
        return;
    }
    sbuf_init(&body, LIST_MAX);
    add_model(&body, e);
    http_respond(r, 200, JSON_TYPE, NULL, 0, sbuf_str(&body));
}
