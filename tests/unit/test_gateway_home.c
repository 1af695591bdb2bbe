/* Where a request belongs: what can serve it, what it may reach there, what engines are told of it, and its moves to newer snapshots. */
#include "unit.h"

#include <stdlib.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "gateway/answers.h"
#include "gateway/home.h"
#include "gateway/isolation.h"

#define UID_0 "11111111-2222-3333-4444-555555555555"
#define UID_1 "22222222-2222-3333-4444-555555555555"
#define SOCKET(uid8) "unix:/run/engines/" uid8 "-2222-3333.sock"
#define META(name, more) "\"apiVersion\":\"seki.cloud/v1alpha1\",\"metadata\":{\"name\":\"" name "\",\"namespace\":\"p\"" more "}"
#define ENDPOINT(name, spec) "{" META(name, ",\"creationTimestamp\":\"2026-01-02T00:00:00Z\"") ",\"kind\":\"ModelEndpoint\",\"spec\":{\"model\":\"x\"" spec "}}"
#define REPLICA_AS(name, uid, engine, address, adapters) \
    "{" META(name, ",\"uid\":\"" uid "\"") ",\"kind\":\"ModelReplica\",\"spec\":{\"endpoint\":\"m\",\"servedName\":\"m\",\"engine\":{" engine "},\"adapters\":[" adapters "]}," \
    "\"status\":{\"conditions\":[{\"status\":\"True\",\"type\":\"Ready\",\"reason\":\"Serving\"}],\"address\":\"" address "\"}}"
#define REPLICA(name, uid, uid8, adapters) REPLICA_AS(name, uid, "\"driver\":\"llamacpp\"", SOCKET(uid8), adapters)
#define ADAPTER(name) "{\"name\":\"" name "\",\"model\":\"y\"}"
#define WORLD(endpoints, replicas, routes) \
    "{\"version\":1,\"keys\":[{" META("k", "") ",\"kind\":\"APIKey\",\"spec\":{},\"status\":{\"hash\":\"h\"}}],\"endpoints\":[" endpoints "],\"replicas\":[" replicas "],\"modelroutes\":[" routes "]," \
    "\"namespaces\":[{\"apiVersion\":\"v1\",\"kind\":\"Namespace\",\"metadata\":{\"name\":\"p\",\"labels\":{\"seki.cloud/tenant\":\"tp\"}}}]}"

static char dir[] = "/tmp/seki-home-XXXXXX";
static struct engine_paths engines = {.socket_dir = "/run/engines"};
static struct snapshot_memory *memory;
static const struct gateway_route chat = {.task = TASK_TEXT, .dialect = DIALECT_COMPLETIONS}, messages = {.task = TASK_TEXT, .dialect = DIALECT_MESSAGES, .no_isolation = true};

static int setup(void **state)
{
    (void)state;
    memory = snapshot_memory_new();
    return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    snapshot_memory_free(memory);
    return file_remove_tree(dir, &err);
}

static struct snapshot *build(const char *text)
{
    struct err err = ERR_INIT;
    struct snapshot_source source;
    char path[64];
    snprintf(path, sizeof(path), "%s/s", dir);
    unlink(path);
    ASSERT_OK(file_write(path, str_of(text), 0600, &err));
    ASSERT_OK(snapshot_load(path, &source, &err));
    struct snapshot *s = snapshot_build(&source, &engines, memory);
    snapshot_source_deinit(&source);
    return s;
}

/* A request for a model, as far as request.c has come with it when it is sent. */
static void begin(struct request *q, struct http_request *http, struct snapshot *s, const char *model)
{
    *http = (struct http_request){.arena = arena_new(1 << 20)};
    *q = (struct request){.http = http, .route = &chat, .snapshot = snapshot_ref(s), .routing = snapshot_ref(s), .key = snapshot_key(s, "h")};
    snprintf(q->body.model, sizeof(q->body.model), "%s", model);
    const struct snap_endpoint *asked = home_find(q, s, NULL);
    assert_non_null(asked);
    q->served = asked->served;
    q->adapter = asked->is_adapter;
    q->endpoint = asked->is_route ? asked->backends[0].endpoint : asked;
}

static void finish(struct request *q)
{
    arena_free(q->http->arena);
    snapshot_unref(q->snapshot);
    snapshot_unref(q->routing);
}

static void sent_to(struct request *q, size_t index, const char *members)
{
    q->replica = &q->endpoint->replicas[index];
    assert_string_equal(isolation_members(q).ptr, members);
}

/* The endpoint's list has changed, and one replica still runs with the old one. */
static void an_adapter_is_the_one_that_the_replica_was_started_with(void **state)
{
    (void)state;
    struct http_request http;
    struct request q;
    struct snapshot *s = build(WORLD(ENDPOINT("m", ",\"adapters\":[" ADAPTER("south") "]"),
                                     REPLICA("m-0", UID_0, "11111111", ADAPTER("north") "," ADAPTER("south")) "," REPLICA("m-1", UID_1, "22222222", ADAPTER("south")), ""));
    begin(&q, &http, s, "south");
    assert_int_equal(home_lacking(&q, q.endpoint), 0);
    sent_to(&q, 0, "\"lora\":[{\"id\":1,\"scale\":1.0}]");
    sent_to(&q, 1, "\"lora\":[{\"id\":0,\"scale\":1.0}]");
    finish(&q);
    snapshot_unref(s);
}

static void who_asks_for_none_gets_none_while_a_replica_has_some(void **state)
{
    (void)state;
    struct http_request http;
    struct request q;
    struct snapshot *s = build(WORLD(ENDPOINT("m", ""), REPLICA("m-0", UID_0, "11111111", ADAPTER("north")) "," REPLICA("m-1", UID_1, "22222222", ""), ""));
    begin(&q, &http, s, "m");
    assert_int_equal(home_lacking(&q, q.endpoint), 0);
    sent_to(&q, 0, "\"lora\":[{\"id\":0,\"scale\":0.0}]");
    sent_to(&q, 1, "");
    finish(&q);
    snapshot_unref(s);
}

static void a_replica_without_the_adapter_is_out_of_reach(void **state)
{
    (void)state;
    struct http_request http;
    struct request q;
    struct snapshot *s = build(WORLD(ENDPOINT("m", ",\"adapters\":[" ADAPTER("north") "," ADAPTER("south") "]"),
                                     REPLICA("m-0", UID_0, "11111111", ADAPTER("north")) "," REPLICA("m-1", UID_1, "22222222", ADAPTER("north") "," ADAPTER("south")), ""));
    begin(&q, &http, s, "south");
    assert_int_equal(home_lacking(&q, q.endpoint), 1);
    finish(&q);
    begin(&q, &http, s, "m");
    assert_int_equal(home_lacking(&q, q.endpoint), 0);
    finish(&q);
    snapshot_unref(s);
}

/* The same for the backend that is chosen at first and for one that is fallen over to. */
static void what_cannot_be_served_or_billed_does_not_fit(void **state)
{
    (void)state;
    struct http_request http;
    struct request q;
    struct snapshot *s = build(WORLD(ENDPOINT("m", ",\"engine\":{\"driver\":\"llamacpp\"},\"adapters\":[" ADAPTER("north") "]") "," ENDPOINT("e", ",\"engine\":{\"embeddings\":true}"), "", ""));
    begin(&q, &http, s, "m");
    const struct snap_endpoint *m = q.endpoint, *north = snapshot_find(s, q.key, "north"), *e = snapshot_find(s, q.key, "e");
    assert_int_equal(home_fits(&q, m, m), HOME_FITS);
    assert_int_equal(home_fits(&q, e, e), HOME_OTHER_TASK);
    q.body.several = true;
    assert_int_equal(home_fits(&q, m, m), HOME_NOT_COUNTED); /* n is no number */
    q.body.answers = 2;
    assert_int_equal(home_fits(&q, m, m), HOME_NOT_COUNTED); /* no stream: only the first one's is told */
    q.body.stream = true;
    assert_int_equal(home_fits(&q, m, m), HOME_FITS);
    q.body.several = false;
    q.body.prompts = 2;
    q.body.stream = false;
    assert_int_equal(home_fits(&q, m, m), HOME_NOT_COUNTED);
    q.body.prompts = 1;
    q.route = &messages;
    assert_int_equal(home_fits(&q, m, m), HOME_FITS);
    assert_int_equal(home_fits(&q, north, m), HOME_NOT_APART);
    finish(&q);
    snapshot_unref(s);
}

static void engines_are_told_the_name_that_they_know(void **state)
{
    (void)state;
    struct http_request http;
    struct request q;
    struct snapshot *s = build(WORLD(ENDPOINT("m", ",\"adapters\":[" ADAPTER("north") "]"), REPLICA("m-0", UID_0, "11111111", ADAPTER("north")), ""));
    struct snap_replica elsewhere = {.engine_model = "other"}, same = {.name = "r"};
    begin(&q, &http, s, "m");
    assert_null(home_model_at(&q, &same));
    assert_string_equal(home_model_at(&q, &elsewhere), "other");
    q.served = "route";
    assert_string_equal(home_model_at(&q, &same), "m");
    assert_string_equal(home_model_at(&q, &elsewhere), "other");
    finish(&q);
    begin(&q, &http, s, "north");
    assert_string_equal(home_model_at(&q, &same), "north"); /* vLLM */
    assert_string_equal(home_model_at(&q, &q.endpoint->replicas[0]), "m");
    finish(&q);
    snapshot_unref(s);
}

static void a_move_takes_all_of_the_new_home_and_forgets_the_old_one(void **state)
{
    (void)state;
    struct http_request http;
    struct request q;
    struct snapshot *s = build(WORLD(ENDPOINT("m", ",\"adapters\":[" ADAPTER("north") "]"), REPLICA("m-0", UID_0, "11111111", ADAPTER("north")), ""));
    struct snapshot *now = build(WORLD(ENDPOINT("m", ",\"adapters\":[" ADAPTER("south") "," ADAPTER("north") "]") "," ENDPOINT("other", ""),
                                       REPLICA("m-0", UID_0, "11111111", ADAPTER("north")) "," REPLICA("m-1", UID_1, "22222222", ADAPTER("south") "," ADAPTER("north")), ""));
    begin(&q, &http, s, "north");
    q.replica = &q.endpoint->replicas[0];
    q.rule = "old";
    q.ticket = (struct ticket){.endpoint = q.endpoint, .wish.tried = 1};
    const struct snap_endpoint *asked = home_find(&q, now, NULL), *other = snapshot_find(now, q.key, "other");
    assert_false(home_move(&q, now, other, other)); /* another queue */
    assert_ptr_equal(q.routing, s);
    assert_true(home_move(&q, now, asked, asked->backends[0].endpoint));
    assert_ptr_equal(q.routing, now);
    assert_ptr_equal(q.ticket.endpoint, q.endpoint);
    assert_ptr_equal(q.replica, &q.endpoint->replicas[0]);
    assert_int_equal(q.ticket.wish.tried, 1); /* the same replica, which has failed */
    assert_int_equal(q.ticket.wish.barred, 0);
    assert_null(q.rule);
    assert_true(q.adapter);
    sent_to(&q, 1, "\"lora\":[{\"id\":1,\"scale\":1.0}]");
    finish(&q);
    snapshot_unref(s);
    snapshot_unref(now);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_adapter_is_the_one_that_the_replica_was_started_with),
        cmocka_unit_test(who_asks_for_none_gets_none_while_a_replica_has_some),
        cmocka_unit_test(a_replica_without_the_adapter_is_out_of_reach),
        cmocka_unit_test(what_cannot_be_served_or_billed_does_not_fit),
        cmocka_unit_test(engines_are_told_the_name_that_they_know),
        cmocka_unit_test(a_move_takes_all_of_the_new_home_and_forgets_the_old_one),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
