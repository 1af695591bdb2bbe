#include "oidc/login.h"

#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/rnd.h"
#include "crypto/jwk.h"
#include "net/http_server.h"
#include "oidc/issuers.h"

#define FORM_MAX 65536
#define TEXT_MAX 400 /* of what an issuer says to a person */
#define INTERVAL_DEFAULT_S 5
#define INTERVAL_MAX_S 60
#define SLOW_DOWN_S 5
#define CALLBACK "/callback"

/* ---- tokens ---- */

void oidc_tokens_deinit(struct oidc_tokens *t)
{
    char *all[] = {t->id_token, t->refresh_token};
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        if (all[i])
            mem_wipe(all[i], strlen(all[i]));
        mem_free(all[i]);
    }
    *t = (struct oidc_tokens){0};
}

/* What came straight from the issuer, over TLS, need not be verified by its signature; but it must be for us. */
static int check_token(const struct oidc_client *c, const char *token, const char *nonce, int64_t *ret_expires_ms, struct err *err)
{
    CLEANUP(jwt_deinit) struct jwt t = {0};
    struct err inner = ERR_INIT;
    if (jwt_parse(str_of(token), &t, &inner) < 0)
        return err_set(err, ERR_PROTOCOL, "the issuer's answer: %s", inner.msg);
    const json_t *aud = json_object_get(t.claims, "aud"), *v, *exp = json_object_get(t.claims, "exp");
    bool ours = json_is_string(aud) && !strcmp(json_string_value(aud), c->id);
    size_t i;
    json_array_foreach (aud, i, v)
        ours = ours || (json_is_string(v) && !strcmp(json_string_value(v), c->id));
    const char *iss = json_string_value(json_object_get(t.claims, "iss")), *said = json_string_value(json_object_get(t.claims, "nonce"));
    if (!ours || !iss || strcmp(iss, c->issuer) != 0 || !json_is_number(exp))
        return err_set(err, ERR_PROTOCOL, "the issuer's answer: a token that is not for this client");
    if (nonce && (!said || strcmp(said, nonce) != 0))
        return err_set(err, ERR_PROTOCOL, "the issuer's answer: a token that is not for this login");
    *ret_expires_ms = (int64_t)(json_number_value(exp) * 1000);
    return 0;
}

static int take_tokens(const struct oidc_client *c, const json_t *answer, const char *nonce, struct oidc_tokens *ret, struct err *err)
{
    const char *token = json_str(answer, "id_token"), *refresh = json_str(answer, "refresh_token");
    struct oidc_tokens t = {0};
    if (!token)
        return err_set(err, ERR_PROTOCOL, "the issuer's answer has no id_token: is openid among the scopes?");
    int rc = check_token(c, token, nonce, &t.expires_ms, err);
    if (rc < 0)
        return rc;
    t.id_token = xstrdup(token);
    t.refresh_token = refresh ? xstrdup(refresh) : NULL;
    *ret = t;
    return 0;
}

/* ---- requests ---- */

static void add(struct sbuf *form, const char *name, const char *value)
{
    if (!value)
        return;
    sbuf_addf(form, "%s%s=", form->len ? "&" : "", name);
    http_encode(form, str_of(value));
}

/* Text of an issuer as it may be shown. */
static void plain(const char *in, char out[TEXT_MAX])
{
    size_t n = 0;
    for (; in && *in && n < TEXT_MAX - 1; in++)
        out[n++] = (unsigned char)*in < ' ' || *in == 0x7f || (unsigned char)*in >= 0x80 ? '?' : *in;
    out[n] = 0;
}

/* Why an answer is none: {error, error_description}. */
static int refusal(const json_t *answer, int status, struct err *err)
{
    char code[TEXT_MAX], text[TEXT_MAX];
    const char *name = json_str_or(answer, "error", "");
    plain(name, code);
    plain(json_str_or(answer, "error_description", ""), text);
    int rc = !strcmp(name, "invalid_grant") || !strcmp(name, "expired_token") ? ERR_UNAUTHENTICATED : !strcmp(name, "access_denied") ? ERR_FORBIDDEN : ERR_PROTOCOL;
    return err_set(err, rc, "the issuer refuses: %s%s%s (HTTP %d)", *code ? code : "no reason given", *text ? ": " : "", text, status);
}

static int endpoint(const struct oidc_client *c, const char *name, const char **ret, struct err *err)
{
    const char *url = json_string_value(json_object_get(c->doc, name));
    if (!url || strncmp(url, "https://", 8) != 0 || strpbrk(url, " \t\r\n\"'<>\\`"))
        return err_set(err, ERR_PROTOCOL, "the issuer has no usable %s", name);
    *ret = url;
    return 0;
}

/* The answer of an endpoint, whatever it says. */
static int post(const struct oidc_client *c, const char *name, struct sbuf *form, int *ret_status, json_t **ret, struct err *err)
{
    const char *url = NULL;
    add(form, "client_id", c->id);
    add(form, "client_secret", c->secret);
    int rc = endpoint(c, name, &url, err);
    if (rc == 0 && !sbuf_ok(form))
        rc = err_set(err, ERR_TOO_LARGE, "a request over %d bytes", FORM_MAX);
    if (rc == 0)
        rc = oidc_fetch(url, form->ptr, c->ca_pem, NULL, ret_status, ret, NULL, err);
    if (form->ptr)
        mem_wipe(form->ptr, form->len);
    return rc;
}

int oidc_client_open(struct oidc_client *c, struct err *err)
{
    return oidc_discover(c->issuer, NULL, c->ca_pem, NULL, &c->doc, err);
}

void oidc_client_close(struct oidc_client *c)
{
    json_decref(c->doc);
    c->doc = NULL;
}

bool oidc_client_has_device_flow(const struct oidc_client *c)
{
    return json_object_get(c->doc, "device_authorization_endpoint");
}

int oidc_refresh(struct oidc_client *c, const char *refresh_token, struct oidc_tokens *ret, struct err *err)
{
    CLEANUP(sbuf_deinit) struct sbuf form = {0};
    JSON_AUTO answer = NULL;
    int status = 0;
    sbuf_init(&form, FORM_MAX);
    add(&form, "grant_type", "refresh_token");
    add(&form, "refresh_token", refresh_token);
    int rc = post(c, "token_endpoint", &form, &status, &answer, err);
    if (rc < 0)
        return rc;
    if (status != 200)
        return refusal(answer, status, err);
    if ((rc = take_tokens(c, answer, NULL, ret, err)) == 0 && !ret->refresh_token)
        ret->refresh_token = xstrdup(refresh_token);
    return rc;
}

int oidc_revoke(struct oidc_client *c, const char *refresh_token, struct err *err)
{
    CLEANUP(sbuf_deinit) struct sbuf form = {0};
    CLEANUP(mem_freep) char *text = NULL;
    const char *url = NULL;
    int status = 0;
    if (!json_object_get(c->doc, "revocation_endpoint"))
        return 0;
    sbuf_init(&form, FORM_MAX);
    add(&form, "token", refresh_token);
    add(&form, "token_type_hint", "refresh_token");
    add(&form, "client_id", c->id);
    add(&form, "client_secret", c->secret);
    int rc = endpoint(c, "revocation_endpoint", &url, err);
    if (rc == 0)
        rc = oidc_fetch(url, form.ptr, c->ca_pem, NULL, &status, NULL, &text, err);
    mem_wipe(form.ptr, form.len);
    return rc == 0 && status != 200 ? err_set(err, ERR_PROTOCOL, "the issuer answered %d", status) : rc;
}

/* ---- device flow ---- */

/* 1: not yet; *interval_s may grow. */
static int poll_once(struct oidc_client *c, const char *device_code, int64_t *interval_s, struct oidc_tokens *ret, struct err *err)
{
    CLEANUP(sbuf_deinit) struct sbuf form = {0};
    JSON_AUTO answer = NULL;
    int status = 0;
    sbuf_init(&form, FORM_MAX);
    add(&form, "grant_type", "urn:ietf:params:oauth:grant-type:device_code");
    add(&form, "device_code", device_code);
    int rc = post(c, "token_endpoint", &form, &status, &answer, err);
    if (rc < 0)
        return err_retryable(rc) ? 1 : rc; /* the network may come back; the code ends by itself */
    if (status == 200)
        return take_tokens(c, answer, NULL, ret, err);
    const char *code = json_str_or(answer, "error", "");
    if (!strcmp(code, "slow_down"))
        *interval_s = MIN(*interval_s + SLOW_DOWN_S, (int64_t)INTERVAL_MAX_S);
    else if (strcmp(code, "authorization_pending") != 0)
        return refusal(answer, status, err);
    return 1;
}

int oidc_login_device(struct oidc_client *c, void (*show)(void *arg, const char *uri, const char *full, const char *code), void *arg, struct oidc_tokens *ret, struct err *err)
{
    CLEANUP(sbuf_deinit) struct sbuf form = {0};
    JSON_AUTO answer = NULL;
    char uri[TEXT_MAX], full[TEXT_MAX], code[TEXT_MAX];
    int status = 0;
    sbuf_init(&form, FORM_MAX);
    add(&form, "scope", c->scopes);
    int rc = post(c, "device_authorization_endpoint", &form, &status, &answer, err);
    if (rc < 0)
        return rc;
    const char *device_code = json_str(answer, "device_code");
    if (status != 200)
        return refusal(answer, status, err);
    plain(json_str(answer, "verification_uri"), uri);
    plain(json_str(answer, "verification_uri_complete"), full);
    plain(json_str(answer, "user_code"), code);
    if (!device_code || !*uri || !*code)
        return err_set(err, ERR_PROTOCOL, "the issuer's answer has no device_code, user_code or verification_uri");
    show(arg, uri, *full ? full : NULL, code);
    int64_t interval_s = MAX(MIN(json_int(answer, "interval", INTERVAL_DEFAULT_S), (int64_t)INTERVAL_MAX_S), (int64_t)1);
    uint64_t life_ms = (uint64_t)MAX(MIN(json_int(answer, "expires_in", OIDC_FLOW_MS / 1000), (int64_t)OIDC_FLOW_MS / 1000), (int64_t)1) * 1000, end_ms = clock_mono_ms() + life_ms;
    do {
        sleep((unsigned)interval_s);
        rc = poll_once(c, device_code, &interval_s, ret, err);
    } while (rc == 1 && clock_mono_ms() < end_ms);
    return rc == 1 ? err_set(err, ERR_TIMEOUT, "nobody has entered the code in time") : rc;
}

/* ---- browser flow ---- */

struct browser {
    struct loop *loop;
    const char *state;
    char *code;
    bool answered;
    struct err err;
    struct timer timer;
};

static const char page_good[] = "<!doctype html><meta charset=utf-8><title>Seki</title><p>You are logged in. This page can be closed.";
static const char page_bad[] = "<!doctype html><meta charset=utf-8><title>Seki</title><p>The login has failed; the terminal says why. This page can be closed.";

static void answer_page(struct http_request *r, int status, const char *page)
{
    static const struct http_out_header headers[] = {{"Cache-Control", {"no-store", 8}}, {"Referrer-Policy", {"no-referrer", 11}}};
    http_respond(r, status, "text/html; charset=utf-8", headers, ARRAY_LEN(headers), str_of(page));
}

/* Anybody on this machine may come here; who does not know the state is not the issuer's answer, and changes nothing. */
static void on_request(void *ctx, struct http_request *r)
{
    struct browser *b = ctx;
    struct str state = STR_NULL, code = STR_NULL, error = STR_NULL;
    if (!str_eqc(r->head.method, "GET") || !str_eqc(r->head.path, CALLBACK) || http_query_get(r->arena, r->head.query, "state", &state, NULL) < 0 || !state.ptr ||
        !str_eq_secret(state, str_of(b->state)) || b->answered) {
        answer_page(r, 404, page_bad);
        return;
    }
    if (http_query_get(r->arena, r->head.query, "code", &code, NULL) < 0 || http_query_get(r->arena, r->head.query, "error", &error, NULL) < 0)
        code = error = STR_NULL;
    b->answered = true;
    if (code.ptr && code.len && !error.ptr) {
        b->code = xstrndup(code.ptr, code.len);
    } else {
        char text[TEXT_MAX];
        plain(error.ptr ? arena_strndup(r->arena, error) : "no code", text);
        err_set(&b->err, !strcmp(text, "access_denied") ? ERR_FORBIDDEN : ERR_PROTOCOL, "the issuer refuses: %s", text);
    }
    answer_page(r, 200, b->code ? page_good : page_bad);
}

static void leave_when_answered(void *ctx, struct http_request *r UNUSED)
{
    struct browser *b = ctx;
    if (b->answered)
        loop_stop(b->loop);
}

static void on_timeout(struct timer *t)
{
    struct browser *b = t->arg;
    err_set(&b->err, ERR_TIMEOUT, "nobody has logged in in time");
    b->answered = true;
    loop_stop(b->loop);
}

static void random_text(char text[64])
{
    uint8_t bytes[32];
    CLEANUP(sbuf_deinit) struct sbuf out = {0};
    rnd_bytes(bytes, sizeof(bytes));
    sbuf_init(&out, 63);
    base64url_encode(str_n(bytes, sizeof(bytes)), &out);
    snprintf(text, 64, "%s", out.ptr);
    mem_wipe(out.ptr, out.len);
}

struct pkce {
    char verifier[64], challenge[64], state[64], nonce[64];
};

static void make_pkce(struct pkce *p)
{
    uint8_t digest[SHA256_BYTES];
    CLEANUP(sbuf_deinit) struct sbuf out = {0};
    random_text(p->verifier);
    random_text(p->state);
    random_text(p->nonce);
    hash_sha256(str_of(p->verifier), digest);
    sbuf_init(&out, 63);
    base64url_encode(str_n(digest, sizeof(digest)), &out);
    snprintf(p->challenge, sizeof(p->challenge), "%s", out.ptr);
}

static int add_url(const struct oidc_client *c, const struct pkce *p, const char *redirect, struct sbuf *out, struct err *err)
{
    CLEANUP(sbuf_deinit) struct sbuf query = {0};
    const char *url = NULL;
    int rc = endpoint(c, "authorization_endpoint", &url, err);
    if (rc < 0)
        return rc;
    sbuf_init(&query, FORM_MAX);
    add(&query, "response_type", "code");
    add(&query, "client_id", c->id);
    add(&query, "redirect_uri", redirect);
    add(&query, "scope", c->scopes);
    add(&query, "state", p->state);
    add(&query, "nonce", p->nonce);
    add(&query, "code_challenge", p->challenge);
    add(&query, "code_challenge_method", "S256");
    sbuf_addf(out, "%s%c%s", url, strchr(url, '?') ? '&' : '?', query.ptr);
    return sbuf_ok(out) && sbuf_ok(&query) ? 0 : err_set(err, ERR_TOO_LARGE, "a request over %d bytes", FORM_MAX);
}

/* Until the issuer has sent the browser here with the code. */
static int await_code(struct oidc_client *c, const struct pkce *p, char redirect[96], void (*show)(void *arg, const char *url), void *arg, char **ret_code, struct err *err)
{
    static const struct http_server_ops ops = {.on_request = on_request, .on_done = leave_when_answered, .on_abort = leave_when_answered};
    struct browser b = {.state = p->state};
    struct http_server_options o = {.max_connections = 16, .max_head_bytes = 16384, .max_body_bytes = 1024};
    CLEANUP(sbuf_deinit) struct sbuf url = {0};
    struct http_server *server = NULL;
    struct net_addr addr;
    int rc;
    sbuf_init(&url, FORM_MAX);
    if ((rc = net_addr_parse(STR("127.0.0.1:0"), &o.listen, err)) < 0 || (rc = loop_new(&b.loop, err)) < 0)
        return rc;
    timer_init(&b.timer, b.loop, on_timeout, &b);
    if ((rc = http_server_start(b.loop, &o, &ops, &b, &server, err)) == 0) {
        http_server_addr(server, &addr);
        snprintf(redirect, 96, "http://127.0.0.1:%u" CALLBACK, net_addr_port(&addr));
        rc = add_url(c, p, redirect, &url, err);
    }
    if (rc == 0) {
        timer_start(&b.timer, OIDC_FLOW_MS);
        show(arg, url.ptr);
        loop_run(b.loop);
        timer_stop(&b.timer);
    }
    if (server)
        http_server_free(server);
    loop_free(b.loop);
    if (rc == 0 && !b.code)
        rc = err_set(err, b.err.code ? b.err.code : ERR_CANCELED, "%s", b.err.code ? b.err.msg : "canceled");
    if (rc == 0)
        *ret_code = b.code;
    return rc;
}

int oidc_login_browser(struct oidc_client *c, void (*show)(void *arg, const char *url), void *arg, struct oidc_tokens *ret, struct err *err)
{
    CLEANUP(sbuf_deinit) struct sbuf form = {0};
    CLEANUP(mem_freep) char *code = NULL;
    JSON_AUTO answer = NULL;
    struct pkce p;
    char redirect[96];
    int status = 0, rc;
    make_pkce(&p);
    if ((rc = await_code(c, &p, redirect, show, arg, &code, err)) < 0)
        return rc;
    sbuf_init(&form, FORM_MAX);
    add(&form, "grant_type", "authorization_code");
    add(&form, "code", code);
    add(&form, "redirect_uri", redirect);
    add(&form, "code_verifier", p.verifier);
    rc = post(c, "token_endpoint", &form, &status, &answer, err);
    if (rc == 0)
        rc = status == 200 ? take_tokens(c, answer, p.nonce, ret, err) : refusal(answer, status, err);
    mem_wipe(&p, sizeof(p));
    mem_wipe(code, strlen(code));
    return rc;
}
