/* Answers that the gateway makes itself: errors in OpenAI's shape, or in Anthropic's for those who ask for Messages; the list of models. */
#include "base/clock.h"
#include "gateway/internal.h"

#define ERROR_MAX (16 * 1024)
#define LIST_MAX (4 * 1024 * 1024)

static const char *anthropic_type(int status)
{
    static const struct {
        int status;
        const char *type;
    } types[] = {{400, "invalid_request_error"}, {401, "authentication_error"}, {403, "permission_error"}, {404, "not_found_error"},
                 {413, "request_too_large"},     {429, "rate_limit_error"},     {503, "overloaded_error"}};
    for (size_t i = 0; i < ARRAY_LEN(types); i++)
        if (types[i].status == status)
            return types[i].type;
    return status < 500 ? "invalid_request_error" : "api_error";
}

void answer_error_body(struct sbuf *out, enum usage_dialect d, int status, const char *type, const char *code, const char *param, struct str message, const char *request_id)
{
    if (d == DIALECT_MESSAGES) {
        sbuf_addf(out, "{\"type\":\"error\",\"error\":{\"type\":\"%s\",\"message\":", anthropic_type(status));
        sbuf_add_json(out, message);
        sbuf_addc(out, "},\"request_id\":");
        sbuf_add_json(out, str_of(request_id ? request_id : ""));
        sbuf_addc(out, "}");
        return;
    }
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

void answer_error_limited(struct http_request *r, const struct limit *limits, int status, const char *type, const char *code, const char *param, const char *retry_after, const char *message)
{
    CLEANUP(sbuf_deinit) struct sbuf body = {0};
    struct http_out_header headers[LIMIT_HEADERS_MAX + 2];
    size_t n = limits ? answer_limit_headers(r->arena, limits, headers) : 0;
    sbuf_init(&body, ERROR_MAX);
    answer_error_body(&body, route_dialect(r->head.path), status, type, code, param, str_of(message), r->id);
    if (status == 401)
        headers[n++] = (struct http_out_header){"WWW-Authenticate", STR("Bearer")};
    if (retry_after || status == 503)
        headers[n++] = (struct http_out_header){"Retry-After", str_of(retry_after ? retry_after : "1")};
    http_respond(r, status, JSON_TYPE, headers, n, sbuf_str(&body));
}

void answer_error(struct http_request *r, int status, const char *type, const char *code, const char *param, const char *retry_after, const char *message)
{
    answer_error_limited(r, NULL, status, type, code, param, retry_after, message);
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
    answer_error(r, status, type, code, NULL, NULL, message);
}

void answer_wrong_method(struct gateway_loop *l, struct http_request *r, const char *allow, const char *message)
{
    CLEANUP(sbuf_deinit) struct sbuf body = {0};
    struct http_out_header header = {"Allow", str_of(allow)};
    count_refusal(l, 405);
    sbuf_init(&body, ERROR_MAX);
    answer_error_body(&body, route_dialect(r->head.path), 405, "invalid_request_error", "method_not_allowed", NULL, str_of(message), r->id);
    http_respond(r, 405, JSON_TYPE, &header, 1, sbuf_str(&body));
}

void answer_server_error(void *ctx, const struct http_request *r, int status, const char *msg, struct sbuf *out, const char **ret_type)
{
    count_refusal(ctx, status);
    *ret_type = JSON_TYPE;
    answer_error_body(out, route_dialect(r->head.path), status, status >= 500 ? "server_error" : "invalid_request_error", status == 413 ? "request_too_large" : NULL, NULL, str_of(msg), r->id);
}

/* ---- limits ---- */

static struct str number_text(struct arena *a, int64_t n)
{
    CLEANUP(sbuf_deinit) struct sbuf text = {0};
    sbuf_init(&text, 32);
    sbuf_add_i64(&text, n);
    return arena_str(a, sbuf_str(&text));
}

/* As OpenAI writes it: "17ms", "1.5s", "2m30s". */
static const char *duration_text(struct arena *a, uint64_t ns)
{
    uint64_t ms = (ns + 999999) / 1000000;
    CLEANUP(sbuf_deinit) struct sbuf text = {0};
    sbuf_init(&text, 64);
    sbuf_add_u64(&text, ms < 1000 ? ms : ms < 60000 ? ms / 1000 : ms / 60000);
    if (ms < 1000) {
        sbuf_add(&text, STR("ms"));
    } else {
        sbuf_add_char(&text, ms < 60000 ? '.' : 'm');
        sbuf_add_u64(&text, ms < 60000 ? ms % 1000 / 100 : ms % 60000 / 1000);
        sbuf_add_char(&text, 's');
    }
    return arena_strndup(a, sbuf_str(&text));
}

size_t answer_limit_headers(struct arena *a, const struct limit *limits, struct http_out_header ret[LIMIT_HEADERS_MAX])
{
    static const char *const names[][3] = {{"x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"},
                                           {"x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"}};
    static const enum limit_unit units[] = {LIMIT_REQUESTS, LIMIT_TOKENS};
    struct limit_state s;
    size_t n = 0;
    uint64_t now_ns = clock_mono_ns();
    for (size_t i = 0; i < ARRAY_LEN(units); i++) {
        if (!limit_state(limits, units[i], now_ns, &s))
            continue;
        ret[n++] = (struct http_out_header){names[i][0], number_text(a, s.max)};
        ret[n++] = (struct http_out_header){names[i][1], number_text(a, s.left)};
        ret[n++] = (struct http_out_header){names[i][2], str_of(duration_text(a, s.reset_ns))};
    }
    return n;
}

/* Whose limit it is, and who can change it. */
static const char *limit_owner(struct arena *a, const struct snap_key *k, enum limit_scope scope)
{
    if (scope == LIMIT_KEY)
        return arena_printf(a, "API key `%s`", k->name);
    return scope == LIMIT_PROJECT ? arena_printf(a, "project `%s`", k->project) : arena_printf(a, "tenant `%s`", k->tenant);
}

static const char *limited_message(struct http_request *r, const struct snap_key *k, const struct limit_refusal *why)
{
    static const char *const ask[] = {"whoever made the key", "the project's admin", "the operator of this cloud"};
    const char *owner = limit_owner(r->arena, k, why->scope);
    if (why->unit == LIMIT_CONCURRENT)
        return arena_printf(r->arena, "Rate limit reached for %s: %lld requests may run at the same time, and do. Try again when one has ended; %s can change the limit.", owner,
                            (long long)why->max, ask[why->scope]);
    if (!why->retry_ns)
        return arena_printf(r->arena, "Request too large for %s: it may use %lld tokens a minute, and this request needs %lld. Shorten the prompt, or have %s raise the limit.", owner,
                            (long long)why->max, (long long)why->wanted, ask[why->scope]);
    return arena_printf(r->arena, "Rate limit reached for %s on %s a minute: limit %lld, left %lld, requested %lld. Try again in %s; %s can change the limit.", owner,
                        limit_unit_text(why->unit), (long long)why->max, (long long)why->left, (long long)why->wanted, duration_text(r->arena, why->retry_ns), ask[why->scope]);
}

void answer_limited(struct http_request *r, const struct snap_key *k, const struct limit_refusal *why)
{
    CLEANUP(sbuf_deinit) struct sbuf body = {0};
    struct http_out_header headers[LIMIT_HEADERS_MAX + 2];
    size_t n = answer_limit_headers(r->arena, k->limits, headers);
    if (why->retry_ns) {
        headers[n++] = (struct http_out_header){"Retry-After", str_of(arena_printf(r->arena, "%llu", (unsigned long long)(why->retry_ns + 999999999) / 1000000000))};
        headers[n++] = (struct http_out_header){"retry-after-ms", str_of(arena_printf(r->arena, "%llu", (unsigned long long)(why->retry_ns + 999999) / 1000000))};
    } else {
        headers[n++] = (struct http_out_header){"x-should-retry", STR("false")};
    }
    sbuf_init(&body, ERROR_MAX);
    answer_error_body(&body, route_dialect(r->head.path), 429, why->unit == LIMIT_TOKENS ? "tokens" : "requests", "rate_limit_exceeded", NULL, str_of(limited_message(r, k, why)), r->id);
    http_respond(r, 429, JSON_TYPE, headers, n, sbuf_str(&body));
}

/* ---- models ---- */

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
        answer_error(r, 500, "server_error", NULL, NULL, NULL, "the list of models is too long");
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
        gateway_audit_refusal(l, r, k, 404, "model_not_found", "ModelNotVisible");
        answer_error(r, 404, "invalid_request_error", "model_not_found", "model", NULL, "The model does not exist or you do not have access to it.");
        return;
    }
    sbuf_init(&body, LIST_MAX);
    add_model(&body, e);
    http_respond(r, 200, JSON_TYPE, NULL, 0, sbuf_str(&body));
}
