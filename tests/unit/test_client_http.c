/* The HTTPS client against a server that answers well, badly, late, and not at all. */
#include "tls_peer.h"

#include <pthread.h>

#include "base/str.h"
#include "client/client.h"

static const struct client_resource configmaps = {"", "v1", "configmaps", true};

static struct client *client_to(struct tls_peer *p, const char *ca)
{
    struct client *c = NULL;
    struct err err = ERR_INIT;
    ASSERT_OK(client_http(&(struct client_http_options){.server = p->address, .ca_file = peer_path(ca), .cert_file = peer_path("admin.crt"), .key_file = peer_path("admin.key")},
                          &c, &err));
    return c;
}

/* Like ASSERT_OK, for the fixture's err. */
#define OK(call)                                                                                                       \
    do {                                                                                                               \
        int ok_rc_ = (call);                                                                                           \
        if (ok_rc_ < 0)                                                                                                \
            fail_msg("%s: %d: %s", #call, ok_rc_, f.err.msg);                                                          \
    } while (0)

struct fixture {
    struct tls_peer p;
    struct client *c;
    struct err err;
};

static void begin(struct fixture *f, void (*handle)(struct tls_peer *p, struct http_request *r, int number))
{
    *f = (struct fixture){.p = {.cert = "server", .handle = handle}};
    tls_peer_start(&f->p);
    f->c = client_to(&f->p, "ca.crt");
}

static void end(struct fixture *f)
{
    client_free(f->c);
    tls_peer_stop(&f->p);
}

/* ---- answers ---- */

static const struct {
    int status;
    const char *body;
    int code;
    const char *field, *text;
} answers[] = {
    {400, "", ERR_BAD_REQUEST, "", "the API answered 400"},
    {401, "nonsense", ERR_UNAUTHENTICATED, "", "the API answered 401"},
    {403, "{\"message\":\"no\"}", ERR_FORBIDDEN, "", "no"},
    {404, "{\"message\":\"none\",\"reason\":\"NotFound\"}", ERR_NOT_FOUND, "", "none"},
    {409, "{\"message\":\"there\",\"reason\":\"AlreadyExists\"}", ERR_EXISTS, "", "there"},
    {409, "{\"message\":\"changed\",\"reason\":\"Conflict\"}", ERR_CONFLICT, "", "changed"},
    {410, "[]", ERR_GONE, "", "the API answered 410"},
    {413, "", ERR_TOO_LARGE, "", ""},
    {415, "", ERR_MEDIA_TYPE, "", ""},
    {422, "{\"message\":\"bad\",\"reason\":\"Invalid\",\"details\":{\"causes\":[{\"field\":\"spec.x\"}]}}", ERR_INVALID, "spec.x", "bad"},
    {422, "{\"message\":7,\"reason\":[],\"details\":{\"causes\":{}}}", ERR_INVALID, "", "the API answered 422"},
    {503, "", ERR_UNAVAILABLE, "", ""},
    {504, "", ERR_TIMEOUT, "", ""},
    {500, "", ERR_INTERNAL, "", "the API answered 500"},
    {302, "", ERR_INTERNAL, "", "the API answered 302"},
    {200, "nonsense", ERR_PROTOCOL, "", ""},
    {200, "{\"a\":1,\"a\":2}", ERR_PROTOCOL, "", ""},
    {200, "", ERR_PROTOCOL, "", "without a document"},
};

static void answer_by_row(struct tls_peer *p, struct http_request *r, int number)
{
    (void)p;
    tls_peer_answer(r, answers[number - 1].status, answers[number - 1].body);
}

static void answers_become_codes(void **state)
{
    (void)state;
    struct fixture f;
    begin(&f, answer_by_row);
    for (size_t i = 0; i < ARRAY_LEN(answers); i++) {
        struct err err = ERR_INIT;
        json_t *obj = NULL;
        int rc = client_get(f.c, &configmaps, "default", "x", &obj, &err);
        if (rc != answers[i].code || err.code != rc || strcmp(err.field, answers[i].field) || !strstr(err.msg, answers[i].text))
            fail_msg("row %zu: code %d, field %s: %s", i, rc, err.field, err.msg);
        assert_null(obj);
    }
    end(&f);
}

/* ---- paths ---- */

static void echo_target(struct tls_peer *p, struct http_request *r, int number)
{
    (void)p;
    (void)number;
    char body[1024];
    snprintf(body, sizeof(body), "{\"method\":\"%.*s\",\"target\":\"%.*s\"}", STR_ARG(r->head.method), STR_ARG(r->head.target));
    tls_peer_answer(r, 200, body);
}

static void a_name_is_one_segment(void **state)
{
    (void)state;
    static const struct {
        const char *name, *target;
    } rows[] = {{"a.b", "/api/v1/namespaces/default/configmaps/a.b"},
                {"a/../b", "/api/v1/namespaces/default/configmaps/a%2F..%2Fb"},
                {"%2e%2e", "/api/v1/namespaces/default/configmaps/%252e%252e"},
                {"a?x=1#y", "/api/v1/namespaces/default/configmaps/a%3Fx%3D1%23y"},
                {"...", "/api/v1/namespaces/default/configmaps/..."},
                {"system:a", "/api/v1/namespaces/default/configmaps/system:a"},
                {"\xe9\x96\xa2", "/api/v1/namespaces/default/configmaps/%E9%96%A2"},
                {"a\r\nb", "/api/v1/namespaces/default/configmaps/a%0D%0Ab"}};
    static const char *const refused[] = {"", ".", ".."};
    struct fixture f;
    begin(&f, echo_target);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct err err = ERR_INIT;
        JSON_AUTO obj = NULL;
        ASSERT_OK(client_get(f.c, &configmaps, "default", rows[i].name, &obj, &err));
        assert_string_equal(json_str_or(obj, "target", ""), rows[i].target);
    }
    int sent = atomic_load(&f.p.requests);
    for (size_t i = 0; i < ARRAY_LEN(refused); i++) {
        struct err err = ERR_INIT;
        JSON_AUTO patch = json_object();
        JSON_AUTO obj = json_pack("{s:{s:s,s:s}}", "metadata", "name", refused[i], "namespace", "default");
        ASSERT_ERR(client_delete(f.c, &configmaps, "default", refused[i], NULL, &err), ERR_INVALID);
        assert_string_equal(err.field, "metadata.name");
        ASSERT_ERR(client_get(f.c, &configmaps, "default", refused[i], NULL, &err), ERR_INVALID);
        ASSERT_ERR(client_patch(f.c, &configmaps, "default", refused[i], NULL, patch, NULL, &err), ERR_INVALID);
        ASSERT_ERR(client_update(f.c, &configmaps, obj, NULL, &err), ERR_INVALID);
        ASSERT_ERR(client_update_status(f.c, &configmaps, obj, NULL, &err), ERR_INVALID);
        if (*refused[i])
            ASSERT_ERR(client_get(f.c, &configmaps, refused[i], "x", NULL, &err), ERR_INVALID);
    }
    assert_int_equal(atomic_load(&f.p.requests), sent);
    end(&f);
}

/* ---- 429 ---- */

static void busy_twice(struct tls_peer *p, struct http_request *r, int number)
{
    const struct http_out_header after = {"Retry-After", str_of(p->arg)};
    if (number <= 2)
        http_respond(r, 429, "application/json", &after, 1, STR("{\"reason\":\"TooManyRequests\",\"message\":\"full\"}"));
    else
        tls_peer_answer(r, 200, "{\"ok\":true}");
}

static void too_many_is_tried_again_when_told_to(void **state)
{
    (void)state;
    struct fixture f;
    begin(&f, busy_twice);
    f.p.arg = "1";
    JSON_AUTO obj = NULL;
    uint64_t began = tls_peer_now_ms();
    OK(client_get(f.c, &configmaps, "default", "x", &obj, &f.err));
    assert_true(json_flag(obj, "ok", false));
    assert_int_equal(atomic_load(&f.p.requests), 3);
    assert_true(tls_peer_now_ms() - began >= 2000);
    end(&f);
}

static void too_many_beyond_the_deadline_is_an_error_at_once(void **state)
{
    (void)state;
    struct fixture f;
    begin(&f, busy_twice);
    f.p.arg = "3600";
    ASSERT_ERR(client_get(f.c, &configmaps, "default", "x", NULL, &f.err), ERR_TOO_MANY);
    assert_string_equal(f.err.msg, "full");
    assert_int_equal(atomic_load(&f.p.requests), 1);
    end(&f);
}

static void always_busy(struct tls_peer *p, struct http_request *r, int number)
{
    (void)p;
    (void)number;
    http_respond(r, 429, "application/json", NULL, 0, STR("{\"message\":\"full\",\"details\":{\"retryAfterSeconds\":1}}"));
}

static int allow_1500ms(void *arg, uint64_t *timeout_ms, struct err *err)
{
    (void)arg;
    (void)err;
    *timeout_ms = MIN(*timeout_ms, 1500u);
    return 0;
}

static void too_many_ends(void **state)
{
    (void)state;
    struct fixture f;
    begin(&f, always_busy);
    struct client *c = client_fenced(f.c, allow_1500ms, NULL);
    ASSERT_ERR(client_get(c, &configmaps, "default", "x", NULL, &f.err), ERR_TOO_MANY);
    int requests = atomic_load(&f.p.requests);
    assert_in_range(requests, 1, 2); /* in 1,500 ms in all, a second apart */
    client_free(c);
    end(&f);
}

/* ---- connections ---- */

static void note_peer(struct tls_peer *p, struct http_request *r, int number)
{
    (void)number;
    char body[256];
    (void)p;
    snprintf(body, sizeof(body), "{\"peer\":\"%p\"}", (void *)r->conn);
    tls_peer_answer(r, 200, body);
}

static void calls_share_a_connection(void **state)
{
    (void)state;
    struct fixture f;
    begin(&f, note_peer);
    char first[64] = "";
    for (int i = 0; i < 5; i++) {
        JSON_AUTO obj = NULL;
        JSON_AUTO body = json_pack("{s:s}", "kind", "ConfigMap");
        if (i % 2)
            OK(client_create(f.c, &configmaps, "default", body, &obj, &f.err));
        else
            OK(client_get(f.c, &configmaps, "default", "x", &obj, &f.err));
        const char *peer = json_str_or(obj, "peer", "");
        if (!i)
            snprintf(first, sizeof(first), "%s", peer);
        assert_string_equal(peer, first);
    }
    assert_true(*first);
    end(&f);
}

static void a_closed_connection_is_replaced(void **state)
{
    (void)state;
    struct fixture f;
    begin(&f, note_peer);
    OK(client_get(f.c, &configmaps, "default", "x", NULL, &f.err));
    tls_peer_stop(&f.p);
    assert_true(client_get(f.c, &configmaps, "default", "x", NULL, &f.err) == ERR_CLOSED);
    f.err = (struct err){0};
    client_free(f.c);
    tls_peer_start(&f.p);
    f.c = client_to(&f.p, "ca.crt");
    OK(client_get(f.c, &configmaps, "default", "x", NULL, &f.err));
    end(&f);
}

static void an_unknown_server_is_refused(void **state)
{
    (void)state;
    struct fixture f;
    begin(&f, note_peer);
    client_free(f.c);
    f.c = client_to(&f.p, "other-ca.crt");
    ASSERT_ERR(client_get(f.c, &configmaps, "default", "x", NULL, &f.err), ERR_UNAUTHENTICATED);
    assert_non_null(strstr(f.err.msg, "the server's certificate is not accepted"));
    assert_non_null(strstr(f.err.msg, f.p.address));
    assert_int_equal(atomic_load(&f.p.requests), 0);
    end(&f);
    f.p = (struct tls_peer){.cert = "elsewhere", .handle = note_peer};
    tls_peer_start(&f.p);
    f.c = client_to(&f.p, "ca.crt");
    ASSERT_ERR(client_get(f.c, &configmaps, "default", "x", NULL, &f.err), ERR_UNAUTHENTICATED);
    assert_int_equal(atomic_load(&f.p.requests), 0);
    end(&f);
}

static void options_are_checked(void **state)
{
    (void)state;
    static const char *const servers[] = {"http://127.0.0.1:1", "https://", "https:///x", "127.0.0.1:1", "", "https://a b", "https://a\r\nX: y", "https://u:p@h", "ftp://h"};
    struct client *c = NULL;
    struct err err = ERR_INIT;
    for (size_t i = 0; i < ARRAY_LEN(servers); i++) {
        ASSERT_ERR(client_http(&(struct client_http_options){.server = servers[i]}, &c, &err), ERR_INVALID);
        assert_string_equal(err.field, "server");
    }
    ASSERT_OK(file_write(peer_path("token"), STR("canary\nX-Evil: 1\n"), 0600, &err));
    ASSERT_ERR(client_http(&(struct client_http_options){.server = "https://127.0.0.1:1", .token_file = peer_path("token")}, &c, &err), ERR_INVALID);
    assert_string_equal(err.field, "token");
    assert_null(strstr(err.msg, "canary"));
    ASSERT_OK(file_write(peer_path("token"), STR(" \n"), 0600, &err));
    ASSERT_ERR(client_http(&(struct client_http_options){.server = "https://127.0.0.1:1", .token_file = peer_path("token")}, &c, &err), ERR_INVALID);
    ASSERT_ERR(client_http(&(struct client_http_options){.server = "https://127.0.0.1:1", .cert_file = peer_path("admin.crt")}, &c, &err), ERR_INVALID);
    ASSERT_ERR(client_http(&(struct client_http_options){.server = "https://127.0.0.1:1", .ca_file = peer_path("none")}, &c, &err), ERR_NOT_FOUND);
    assert_null(c);
}

static void echo_bearer(struct tls_peer *p, struct http_request *r, int number)
{
    (void)p;
    (void)number;
    char body[256];
    snprintf(body, sizeof(body), "{\"auth\":\"%.*s\"}", STR_ARG(http_header_get(&r->head, "authorization")));
    tls_peer_answer(r, 200, body);
}

static void a_token_is_sent(void **state)
{
    (void)state;
    struct fixture f;
    begin(&f, echo_bearer);
    client_free(f.c);
    OK(file_write(peer_path("token"), STR("abc.def\n"), 0600, &f.err));
    OK(client_http(&(struct client_http_options){.server = f.p.address, .ca_file = peer_path("ca.crt"), .token_file = peer_path("token")}, &f.c, &f.err));
    JSON_AUTO obj = NULL;
    OK(client_get(f.c, &configmaps, "default", "x", &obj, &f.err));
    assert_string_equal(json_str_or(obj, "auth", ""), "Bearer abc.def");
    end(&f);
}

/* ---- deadlines and cancellation ---- */

static void never(struct tls_peer *p, struct http_request *r, int number)
{
    (void)p;
    (void)r;
    (void)number;
}

static int allow_300ms(void *arg, uint64_t *timeout_ms, struct err *err)
{
    atomic_int *asked = arg;
    (void)err;
    assert_true(*timeout_ms <= 30000 && *timeout_ms > 29000);
    atomic_fetch_add(asked, 1);
    *timeout_ms = 300;
    return 0;
}

static int refuse(void *arg, uint64_t *timeout_ms, struct err *err)
{
    (void)arg;
    (void)timeout_ms;
    return err_set(err, ERR_CANCELED, "not the leader any more");
}

static void every_call_has_a_deadline(void **state)
{
    (void)state;
    struct fixture f;
    atomic_int asked = 0;
    begin(&f, never);
    struct client *fenced = client_fenced(f.c, allow_300ms, &asked);
    JSON_AUTO body = json_object();
    uint64_t began = tls_peer_now_ms();
    ASSERT_ERR(client_get(fenced, &configmaps, "default", "x", NULL, &f.err), ERR_TIMEOUT);
    ASSERT_ERR(client_create(fenced, &configmaps, "default", body, NULL, &f.err), ERR_TIMEOUT);
    ASSERT_ERR(client_delete(fenced, &configmaps, "default", "x", NULL, &f.err), ERR_TIMEOUT);
    assert_true(tls_peer_now_ms() - began < 15000);
    assert_int_equal(asked, 3);
    client_free(fenced);
    int sent = atomic_load(&f.p.requests);
    fenced = client_fenced(f.c, refuse, NULL);
    ASSERT_ERR(client_create(fenced, &configmaps, "default", body, NULL, &f.err), ERR_CANCELED);
    assert_string_equal(f.err.msg, "not the leader any more");
    assert_int_equal(atomic_load(&f.p.requests), sent);
    client_free(fenced);
    end(&f);
}

struct listing {
    struct client *c;
    atomic_bool stop;
    int rc;
    struct err err;
};

static void *list_on_thread(void *arg)
{
    struct listing *l = arg;
    json_t *items = NULL;
    l->rc = client_list_until(l->c, &configmaps, NULL, NULL, &l->stop, &items, NULL, &l->err);
    return NULL;
}

static void a_list_is_canceled(void **state)
{
    (void)state;
    struct fixture f;
    begin(&f, never);
    struct listing l = {.c = f.c};
    pthread_t t;
    assert_int_equal(pthread_create(&t, NULL, list_on_thread, &l), 0);
    AWAIT(atomic_load(&f.p.requests) == 1);
    uint64_t began = tls_peer_now_ms();
    atomic_store(&l.stop, true);
    pthread_join(t, NULL);
    assert_int_equal(l.rc, ERR_CANCELED);
    assert_true(tls_peer_now_ms() - began < 10000); /* and not the 30 s of a call */
    end(&f);
}

/* ---- lists ---- */

#define OVER ((size_t)65 << 20)

static void three_pages(struct tls_peer *p, struct http_request *r, int number)
{
    (void)p;
    static const char *const bodies[] = {
        "{\"kind\":\"ConfigMapList\",\"apiVersion\":\"v1\",\"metadata\":{\"resourceVersion\":\"7\",\"continue\":\"a b/+\"},\"items\":[{\"metadata\":{\"name\":\"a\"}}]}",
        "{\"kind\":\"ConfigMapList\",\"apiVersion\":\"v1\",\"metadata\":{\"resourceVersion\":\"7\",\"continue\":\"c\"},\"items\":[]}",
        "{\"kind\":\"ConfigMapList\",\"apiVersion\":\"v1\",\"metadata\":{\"resourceVersion\":\"7\"},\"items\":[{\"kind\":\"Other\",\"metadata\":{\"name\":\"b\"}}]}"};
    if (number == 2 && !strstr(r->head.target.ptr, "continue=a%20b%2F%2B"))
        tls_peer_answer(r, 400, "{}");
    else
        tls_peer_answer(r, 200, bodies[number - 1]);
}

static void a_list_comes_in_pages(void **state)
{
    (void)state;
    struct fixture f;
    begin(&f, three_pages);
    char rv[32];
    JSON_AUTO items = NULL;
    OK(client_list(f.c, &configmaps, NULL, NULL, &items, rv, &f.err));
    assert_int_equal(json_array_size(items), 2);
    assert_string_equal(rv, "7");
    assert_string_equal(json_str_or(json_array_get(items, 0), "kind", ""), "ConfigMap");
    assert_string_equal(json_str_or(json_array_get(items, 0), "apiVersion", ""), "v1");
    assert_string_equal(json_str_or(json_array_get(items, 1), "kind", ""), "Other");
    end(&f);
}

static void large_when_many(struct tls_peer *p, struct http_request *r, int number)
{
    (void)p;
    (void)number;
    if (strstr(r->head.target.ptr, "limit=500")) {
        CLEANUP(sbuf_deinit) struct sbuf b = {0};
        sbuf_init(&b, OVER);
        memset(sbuf_reserve(&b, OVER), ' ', OVER);
        sbuf_commit(&b, OVER);
        http_respond(r, 200, "application/json", NULL, 0, sbuf_str(&b));
    } else if (strstr(r->head.target.ptr, "continue=next")) {
        tls_peer_answer(r, 200, "{\"metadata\":{\"resourceVersion\":\"9\"},\"items\":[{},{}]}");
    } else {
        tls_peer_answer(r, 200, "{\"metadata\":{\"resourceVersion\":\"9\",\"continue\":\"next\"},\"items\":[{}]}");
    }
}

static void large_objects_come_in_smaller_pages(void **state)
{
    (void)state;
    struct fixture f;
    begin(&f, large_when_many);
    JSON_AUTO items = NULL;
    OK(client_list(f.c, &configmaps, NULL, NULL, &items, NULL, &f.err));
    assert_int_equal(json_array_size(items), 3);
    assert_int_equal(atomic_load(&f.p.requests), 3);
    end(&f);
}

static void always_large(struct tls_peer *p, struct http_request *r, int number)
{
    (void)p;
    (void)number;
    CLEANUP(sbuf_deinit) struct sbuf b = {0};
    sbuf_init(&b, OVER);
    memset(sbuf_reserve(&b, OVER), ' ', OVER);
    sbuf_commit(&b, OVER);
    http_respond(r, 200, "application/json", NULL, 0, sbuf_str(&b));
}

static void an_answer_over_the_cap_is_refused(void **state)
{
    (void)state;
    struct fixture f;
    begin(&f, always_large);
    ASSERT_ERR(client_get(f.c, &configmaps, "default", "x", NULL, &f.err), ERR_TOO_LARGE);
    assert_non_null(strstr(f.err.msg, "the answer is larger than 65536 KiB"));
    JSON_AUTO items = NULL;
    ASSERT_ERR(client_list(f.c, &configmaps, NULL, NULL, &items, NULL, &f.err), ERR_TOO_LARGE);
    assert_true(atomic_load(&f.p.requests) <= 6);
    end(&f);
}

#define PART ((size_t)40 << 10)

/* Pages without end. */
static void for_ever(struct tls_peer *p, struct http_request *r, int number)
{
    (void)p;
    (void)number;
    CLEANUP(sbuf_deinit) struct sbuf b = {0};
    sbuf_init(&b, 2 * PART);
    sbuf_addc(&b, "{\"metadata\":{\"resourceVersion\":\"9\",\"continue\":\"next\"},\"items\":[{}]}");
    memset(sbuf_reserve(&b, PART), ' ', PART);
    sbuf_commit(&b, PART);
    http_respond(r, 200, "application/json", NULL, 0, sbuf_str(&b));
}

static void a_strangers_list_has_a_bound(void **state)
{
    (void)state;
    struct fixture f;
    begin(&f, for_ever);
    client_bound_lists(f.c, (size_t)1 << 20);
    JSON_AUTO items = NULL;
    ASSERT_ERR(client_list(f.c, &configmaps, NULL, NULL, &items, NULL, &f.err), ERR_TOO_LARGE);
    assert_string_equal(f.err.msg, "the list of configmaps is larger than 1 MiB");
    assert_true(atomic_load(&f.p.requests) < 40);
    end(&f);
}

static void no_items(struct tls_peer *p, struct http_request *r, int number)
{
    (void)p;
    tls_peer_answer(r, 200, number == 1 ? "{}" : number == 2 ? "[]" : "{\"items\":{}}");
}

static void a_list_without_items_is_no_empty_list(void **state)
{
    (void)state;
    struct fixture f;
    begin(&f, no_items);
    for (int i = 0; i < 3; i++) {
        JSON_AUTO items = NULL;
        ASSERT_ERR(client_list(f.c, &configmaps, NULL, NULL, &items, NULL, &f.err), ERR_PROTOCOL);
        assert_string_equal(f.err.field, "items");
    }
    end(&f);
}

/* ---- watches ---- */

struct seen {
    int events, stop_after;
    char log[512];
};

static bool on_event(void *arg, const char *type, json_t *object)
{
    struct seen *s = arg;
    size_t used = strlen(s->log);
    snprintf(s->log + used, sizeof(s->log) - used, "%s:%s ", type, json_str_or(object, "metadata.name", "-"));
    return ++s->events != s->stop_after;
}

#define EVENT(type, name) "{\"type\":\"" type "\",\"object\":{\"metadata\":{\"name\":\"" name "\"}}}\n"

static void stream_of(struct tls_peer *p, struct http_request *r, int number)
{
    (void)number;
    http_respond_start(r, 200, "application/json", NULL, 0);
    http_write(r, str_of(p->arg));
    http_flush(r);
    http_respond_end(r);
}

static int watch_text(const char *text, struct seen *seen, struct err *err)
{
    struct fixture f;
    atomic_bool stop = false;
    begin(&f, stream_of);
    f.p.arg = (void *)(uintptr_t)text;
    int rc = client_watch(f.c, &configmaps, NULL, "5", &stop, on_event, seen, err);
    end(&f);
    return rc;
}

static void a_watch_delivers_lines(void **state)
{
    (void)state;
    struct seen s = {0};
    struct err err = ERR_INIT;
    ASSERT_OK(watch_text(EVENT("ADDED", "a") "\n" EVENT("MODIFIED", "a") EVENT("BOOKMARK", "b") "{\"type\":\"ADDED\",\"object\":{\"cut", &s, &err));
    assert_string_equal(s.log, "ADDED:a MODIFIED:a BOOKMARK:b ");
    s = (struct seen){.stop_after = 1};
    ASSERT_OK(watch_text(EVENT("ADDED", "a") EVENT("ADDED", "b"), &s, &err));
    assert_string_equal(s.log, "ADDED:a ");
}

static void a_bad_line_ends_a_watch(void **state)
{
    (void)state;
    static const struct {
        const char *line;
        int code;
    } rows[] = {{"nonsense\n", ERR_BAD_REQUEST},
                {"{\"type\":\"ADDED\"}\n", ERR_PROTOCOL},
                {"{\"object\":{}}\n", ERR_PROTOCOL},
                {"{\"type\":7,\"object\":{}}\n", ERR_PROTOCOL},
                {"{\"type\":\"ADDED\",\"object\":[]}\n", ERR_PROTOCOL},
                {"[]\n", ERR_PROTOCOL},
                {"{\"type\":\"ERROR\",\"object\":{\"code\":410,\"reason\":\"Expired\",\"message\":\"old\"}}\n", ERR_GONE},
                {"{\"type\":\"ERROR\",\"object\":{}}\n", ERR_INTERNAL}};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct seen s = {0};
        struct err err = ERR_INIT;
        char text[512];
        snprintf(text, sizeof(text), "%s%s%s", EVENT("ADDED", "a"), rows[i].line, EVENT("ADDED", "b"));
        int rc = watch_text(text, &s, &err);
        if (rc != rows[i].code || err.code != rc || strcmp(s.log, "ADDED:a "))
            fail_msg("row %zu: %d %s, events %s", i, rc, err.msg, s.log);
    }
}

static void a_line_over_the_cap_ends_a_watch(void **state)
{
    (void)state;
    struct seen s = {0};
    struct err err = ERR_INIT;
    size_t len = (size_t)5 << 20;
    char *text = xcalloc(1, len + 1);
    memset(text, 'x', len);
    ASSERT_ERR(watch_text(text, &s, &err), ERR_TOO_LARGE);
    assert_non_null(strstr(err.msg, "larger than 4096 KiB"));
    mem_free(text);
}

static void stream_and_break(struct tls_peer *p, struct http_request *r, int number)
{
    (void)p;
    (void)number;
    http_respond_start(r, 200, "application/json", NULL, 0);
    http_write(r, STR(EVENT("ADDED", "a")));
    http_flush(r);
    http_respond_abort(r);
}

static void a_broken_stream_is_an_error(void **state)
{
    (void)state;
    struct fixture f;
    struct seen s = {0};
    atomic_bool stop = false;
    begin(&f, stream_and_break);
    ASSERT_ERR(client_watch(f.c, &configmaps, NULL, "5", &stop, on_event, &s, &f.err), ERR_CLOSED);
    end(&f);
}

static void stream_forever(struct tls_peer *p, struct http_request *r, int number)
{
    (void)p;
    (void)number;
    http_respond_start(r, 200, "application/json", NULL, 0);
    http_write(r, STR(EVENT("ADDED", "a")));
    http_flush(r);
}

struct watching {
    struct client *c;
    atomic_bool stop;
    atomic_int events;
    int rc;
};

static bool count_event(void *arg, const char *type, json_t *object)
{
    struct watching *w = arg;
    (void)type;
    (void)object;
    atomic_fetch_add(&w->events, 1);
    return true;
}

static void *watch_on_thread(void *arg)
{
    struct watching *w = arg;
    w->rc = client_watch(w->c, &configmaps, NULL, "5", &w->stop, count_event, w, NULL);
    return NULL;
}

static void a_watch_is_stopped(void **state)
{
    (void)state;
    struct fixture f;
    begin(&f, stream_forever);
    struct watching w = {.c = f.c, .rc = -1};
    pthread_t t;
    assert_int_equal(pthread_create(&t, NULL, watch_on_thread, &w), 0);
    AWAIT(atomic_load(&w.events) == 1);
    atomic_store(&w.stop, true);
    pthread_join(t, NULL);
    assert_int_equal(w.rc, 0);
    AWAIT(atomic_load(&f.p.aborted) == 1);
    end(&f);
}

static void refuse_watch(struct tls_peer *p, struct http_request *r, int number)
{
    (void)p;
    tls_peer_answer(r, number == 1 ? 403 : 410, number == 1 ? "{\"message\":\"no\"}" : "");
}

static void a_refused_watch_is_an_error(void **state)
{
    (void)state;
    struct fixture f;
    struct seen s = {0};
    atomic_bool stop = false;
    begin(&f, refuse_watch);
    ASSERT_ERR(client_watch(f.c, &configmaps, NULL, "5", &stop, on_event, &s, &f.err), ERR_FORBIDDEN);
    ASSERT_ERR(client_watch(f.c, &configmaps, NULL, "5", &stop, on_event, &s, &f.err), ERR_GONE);
    end(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_become_codes),
        cmocka_unit_test(a_name_is_one_segment),
        cmocka_unit_test(too_many_is_tried_again_when_told_to),
        cmocka_unit_test(too_many_beyond_the_deadline_is_an_error_at_once),
        cmocka_unit_test(too_many_ends),
        cmocka_unit_test(calls_share_a_connection),
        cmocka_unit_test(a_closed_connection_is_replaced),
        cmocka_unit_test(an_unknown_server_is_refused),
        cmocka_unit_test(options_are_checked),
        cmocka_unit_test(a_token_is_sent),
        cmocka_unit_test(every_call_has_a_deadline),
        cmocka_unit_test(a_list_is_canceled),
        cmocka_unit_test(a_list_comes_in_pages),
        cmocka_unit_test(large_objects_come_in_smaller_pages),
        cmocka_unit_test(an_answer_over_the_cap_is_refused),
        cmocka_unit_test(a_strangers_list_has_a_bound),
        cmocka_unit_test(a_list_without_items_is_no_empty_list),
        cmocka_unit_test(a_watch_delivers_lines),
        cmocka_unit_test(a_bad_line_ends_a_watch),
        cmocka_unit_test(a_line_over_the_cap_ends_a_watch),
        cmocka_unit_test(a_broken_stream_is_an_error),
        cmocka_unit_test(a_watch_is_stopped),
        cmocka_unit_test(a_refused_watch_is_an_error),
    };
    return cmocka_run_group_tests(tests, tls_peer_setup, tls_peer_teardown);
}
