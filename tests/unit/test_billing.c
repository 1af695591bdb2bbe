/* Billing: journals into the ledger exactly once, and reports that are their sums. The API is a map of documents. */
#include "unit.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/map.h"
#include "base/mem.h"
#include "billing/billing.h"
#include "billing/report.h"
#include "ledger/ledger.h"

#define REPORTS "/apis/seki.cloud/v1alpha1/namespaces/demo/usagereports/"
#define NOON 1790000000000 /* 2026-09-21, 14:13:20 UTC */
#define TODAY "day-2026-09-21"
#define OBJECT_MAX (1024 * 1024)
#define WAIT_S 30

/* ---- an API of four verbs ---- */

static struct {
    pthread_mutex_t lock;
    struct map *docs; /* path → json_t * */
    unsigned writes;
    size_t biggest;
} api = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void free_doc(void *doc)
{
    json_decref(doc);
}

static int answer(int status, json_t *doc, struct client_answer *ret)
{
    ret->status = status;
    ret->body = doc ? json_deep_copy(doc) : json_pack("{s:s, s:i, s:s}", "kind", "Status", "code", status, "message", "no");
    return 0;
}

static int write_doc(const struct client_call *call, const char *path, json_t *doc, struct client_answer *ret)
{
    char *text = json_dumps(call->body, 0);
    if (strlen(text) > api.biggest)
        api.biggest = strlen(text);
    free(text);
    api.writes++;
    map_set(api.docs, str_of(path), doc);
    return answer(200, doc, ret);
}

static int roundtrip(void *t UNUSED, const struct client_call *call, struct client_answer *ret, struct err *err UNUSED)
{
    char path[512], parent[512];
    snprintf(path, sizeof(path), "%.500s", call->path);
    char *sub = strstr(path, "/status");
    if (sub)
        *sub = 0;
    int rc;
    pthread_mutex_lock(&api.lock);
    json_t *old = map_getc(api.docs, path);
    if (!strcmp(call->method, "POST")) {
        const char *project = strstr(path, "/namespaces/") + strlen("/namespaces/");
        snprintf(parent, sizeof(parent), "/api/v1/namespaces/%.*s", (int)strcspn(project, "/"), project);
        size_t len = strlen(path);
        snprintf(path + len, sizeof(path) - len, "/%s", json_str_or(call->body, "metadata.name", "?"));
        if (!map_getc(api.docs, parent))
            rc = answer(404, NULL, ret);
        else
            rc = write_doc(call, path, json_deep_copy(call->body), ret);
    } else if (!old) {
        rc = answer(404, NULL, ret);
    } else if (!strcmp(call->method, "PATCH")) {
        json_t *doc = json_deep_copy(old);
        json_object_set(doc, "status", json_object_get(call->body, "status"));
        rc = write_doc(call, path, doc, ret);
    } else {
        rc = answer(200, old, ret);
    }
    pthread_mutex_unlock(&api.lock);
    return rc;
}

static int stream(void *t UNUSED, const struct client_call *call UNUSED, bool (*on_line)(void *arg, json_t *line) UNUSED, void *arg UNUSED,
                  struct client_answer *ret UNUSED, struct err *err)
{
    return err_set(err, ERR_INTERNAL, "billing watches nothing");
}

static void no_free(void *t UNUSED)
{
}

static const struct client_transport transport = {.name = "test", .roundtrip = roundtrip, .stream = stream, .free = no_free};

static void put_project(const char *name, const char *tenant)
{
    char path[256];
    snprintf(path, sizeof(path), "/api/v1/namespaces/%s", name);
    pthread_mutex_lock(&api.lock);
    map_set(api.docs, str_of(path), json_pack("{s:{s:s, s:{s:s}}}", "metadata", "name", name, "labels", "seki.cloud/tenant", tenant));
    pthread_mutex_unlock(&api.lock);
}

static void remove_project(const char *name)
{
    char path[256], report[256];
    snprintf(path, sizeof(path), "/api/v1/namespaces/%s", name);
    snprintf(report, sizeof(report), "/apis/seki.cloud/v1alpha1/namespaces/%s/usagereports/" TODAY, name);
    pthread_mutex_lock(&api.lock);
    map_del(api.docs, str_of(path));
    map_del(api.docs, str_of(report));
    pthread_mutex_unlock(&api.lock);
}

/* -1: no such report. */
static int64_t report_value(const char *day, const char *member)
{
    char path[256];
    snprintf(path, sizeof(path), REPORTS "%s", day);
    pthread_mutex_lock(&api.lock);
    const json_t *doc = map_getc(api.docs, path);
    int64_t v = doc ? json_int(doc, member, -1) : -1;
    pthread_mutex_unlock(&api.lock);
    return v;
}

static void wait_value(const char *day, const char *member, int64_t want)
{
    uint64_t until = clock_mono_ms() + WAIT_S * 1000;
    while (report_value(day, member) != want) {
        if (clock_mono_ms() > until)
            fail_msg("%s of %s is %lld, not %lld", member, day, (long long)report_value(day, member), (long long)want);
        usleep(2000);
    }
}

/* ---- records ---- */

static char dir[64], ledger_dir[80];
static struct client *client;
static unsigned next_id;

static int set_up(void **state UNUSED)
{
    snprintf(dir, sizeof(dir), "/tmp/seki-billing-XXXXXX");
    if (!mkdtemp(dir))
        return -1;
    snprintf(ledger_dir, sizeof(ledger_dir), "%s/ledger", dir);
    api.docs = map_new(free_doc);
    api.writes = 0;
    api.biggest = 0;
    client = client_new(&transport, NULL);
    put_project("demo", "acme");
    return 0;
}

static int tear_down(void **state UNUSED)
{
    client_free(client);
    map_free(api.docs);
    return file_remove_tree(dir, NULL);
}

static struct usage usage_at(int64_t start_ms, const char *key)
{
    return (struct usage){.id = STR("x"), .project = STR("demo"), .tenant = STR("acme"), .key = str_of(key), .endpoint = STR("chat"), .model = STR("m"), .replica = STR("chat-0"),
                          .route = STR("chat.completions"), .outcome = STR("ok"), .status = 200, .prompt_tokens = 3, .cached_tokens = 1, .completion_tokens = 5, .start_ms = start_ms};
}

static struct ledger *open_journal(void)
{
    struct err err = ERR_INIT;
    struct ledger *l;
    const struct ledger_options o = {.dir = dir, .name = "usage-gateway", .kind = LEDGER_USAGE_JOURNAL, .max_file_bytes = 4096};
    ASSERT_OK(ledger_open(&o, &l, &err));
    return l;
}

static void journal(struct ledger *l, unsigned records)
{
    while (records--) {
        struct err err = ERR_INIT;
        CLEANUP(sbuf_deinit) struct sbuf body = {0};
        char id[32];
        struct usage u = usage_at(NOON, "k");
        snprintf(id, sizeof(id), "req-%u", ++next_id);
        u.id = str_of(id);
        sbuf_init(&body, LEDGER_BODY_MAX);
        usage_encode(&u, &body);
        ASSERT_OK(ledger_append(l, NOON, 1, sbuf_str(&body), NULL, &err));
    }
}

static struct billing *start_billing(void)
{
    struct err err = ERR_INIT;
    struct billing *b;
    const struct billing_options o = {.journal_dir = dir, .ledger_dir = ledger_dir, .round_ms = 2};
    ASSERT_OK(billing_start(client, &o, &b, &err));
    return b;
}

static uint64_t records_in_ledger(void)
{
    struct err err = ERR_INIT;
    uint64_t n;
    ASSERT_OK(ledger_verify(ledger_dir, "usage", &n, &err));
    return n;
}

/* ---- exactly once ---- */

static void test_copied_exactly_once_over_restarts(void **state)
{
    (void)state;
    struct ledger *j = open_journal();
    journal(j, 10);
    for (int64_t want = 10; want <= 50; want += 10) {
        struct billing *b = start_billing();
        wait_value(TODAY, "status.requests", want);
        billing_stop(b);
        assert_int_equal(records_in_ledger(), want);
        journal(j, 10);
    }
    ledger_close(j);
    assert_int_equal(report_value(TODAY, "status.promptTokens"), 150);
    assert_int_equal(report_value(TODAY, "status.cachedTokens"), 50);
    assert_int_equal(report_value(TODAY, "status.completionTokens"), 250);
}

/* Killed between the ledger's write and its sync, the ledger has a part of the last record: what is cut off there is copied again. */
static void test_a_torn_ledger_is_filled_up(void **state)
{
    (void)state;
    struct ledger *j = open_journal();
    char path[128];
    journal(j, 10);
    ledger_close(j);
    for (off_t cut = 1; cut < 900; cut += 97) {
        map_del(api.docs, STR(REPORTS TODAY));
        struct billing *b = start_billing();
        wait_value(TODAY, "status.requests", 10);
        billing_stop(b);
        assert_int_equal(records_in_ledger(), 10);
        snprintf(path, sizeof(path), "%s/usage.000001", ledger_dir);
        char *text;
        size_t len;
        assert_int_equal(file_read(path, 1 << 20, &text, &len, NULL), 0);
        mem_free(text);
        assert_int_equal(truncate(path, (off_t)len - cut), 0);
    }
}

/* A gateway that lost its disk begins a journal of the same name: nothing of it is taken for what was counted before. */
static void test_a_new_journal_of_the_same_name(void **state)
{
    (void)state;
    struct ledger *j = open_journal();
    char path[128];
    journal(j, 10);
    ledger_close(j);
    struct billing *b = start_billing();
    wait_value(TODAY, "status.requests", 10);
    for (unsigned n = 1; n <= 3; n++) {
        snprintf(path, sizeof(path), "%s/usage-gateway.%06u", dir, n);
        unlink(path);
    }
    j = open_journal();
    journal(j, 4);
    wait_value(TODAY, "status.requests", 14);
    billing_stop(b);
    b = start_billing(); /* and it is remembered */
    journal(j, 1);
    wait_value(TODAY, "status.requests", 15);
    billing_stop(b);
    ledger_close(j);
    assert_int_equal(records_in_ledger(), 15);
}

static void test_ledger_disk_full(void **state)
{
    (void)state;
    struct rlimit before, limit;
    struct ledger *j = open_journal();
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    journal(j, 40);
    limit = before;
    limit.rlim_cur = 3000; /* some records fit */
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    struct billing *b = start_billing();
    uint64_t until = clock_mono_ms() + WAIT_S * 1000;
    while (report_value(TODAY, "status.requests") < 1 && clock_mono_ms() < until)
        usleep(2000);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    wait_value(TODAY, "status.requests", 40);
    billing_stop(b);
    ledger_close(j);
    assert_int_equal(records_in_ledger(), 40);
}

static void test_bad_records_do_not_stop_the_rest(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct ledger *j = open_journal();
    ASSERT_OK(ledger_append(j, NOON, 1, STR("{\"id\":\"x\"}"), NULL, &err));
    ASSERT_OK(ledger_append(j, NOON, 1, STR("no json"), NULL, &err));
    journal(j, 1);
    struct billing *b = start_billing();
    wait_value(TODAY, "status.requests", 1);
    billing_stop(b);
    ledger_close(j);
}

/* ---- reports ---- */

static void count(struct reports *r, struct usage u)
{
    reports_count(r, &u);
}

static void test_days_end_at_midnight_utc(void **state)
{
    (void)state;
    struct reports *r = reports_new();
    const int64_t midnight = 1790035200000; /* 2026-09-22, 00:00 UTC */
    count(r, usage_at(midnight - 1, "k"));
    count(r, usage_at(midnight, "k"));
    count(r, usage_at(midnight, "k"));
    count(r, usage_at(1772323199999, "k")); /* 2026-02-28, the last millisecond */
    reports_write(r, client);
    assert_int_equal(report_value("day-2026-09-21", "status.requests"), 1);
    assert_int_equal(report_value("day-2026-09-22", "status.requests"), 2);
    assert_int_equal(report_value("day-2026-02-28", "status.requests"), 1);
    reports_free(r);
}

static void test_items_are_by_key_endpoint_and_model(void **state)
{
    (void)state;
    struct reports *r = reports_new();
    struct usage u = usage_at(NOON, "a");
    count(r, u);
    count(r, u);
    count(r, usage_at(NOON, "b")); /* a key that no longer exists is counted like any */
    u.status = 502;
    u.outcome = STR("upstream_error");
    count(r, u);
    reports_write(r, client);
    const json_t *items = json_at(map_getc(api.docs, REPORTS TODAY), "status.items");
    assert_int_equal(json_array_size(items), 2);
    assert_string_equal(json_str_or(json_array_get(items, 0), "key", ""), "a");
    assert_int_equal(json_int(json_array_get(items, 0), "requests", 0), 3);
    assert_int_equal(json_int(json_array_get(items, 0), "failedRequests", 0), 1);
    assert_int_equal(json_int(json_array_get(items, 1), "requests", 0), 1);
    reports_free(r);
}

static void test_what_is_not_billed_is_told(void **state)
{
    (void)state;
    struct reports *r = reports_new();
    const struct usage_work work[] = {{.read = 1, .written = 2}, {.read = 3, .exact = true}};
    struct usage u = usage_at(NOON, "a");
    u.hedge_loser_tokens = 5;
    u.replayed_tokens = 7;
    u.unseen_tokens = 11;
    u.work = work;
    u.work_count = ARRAY_LEN(work);
    count(r, u);
    count(r, u);
    count(r, usage_at(NOON, "b"));
    reports_write(r, client);
    assert_int_equal(report_value(TODAY, "status.hedgeLoserTokens"), 10);
    assert_int_equal(report_value(TODAY, "status.replayedTokens"), 14);
    assert_int_equal(report_value(TODAY, "status.unseenTokens"), 22);
    assert_int_equal(report_value(TODAY, "status.inexactAttempts"), 2);
    const json_t *items = json_at(map_getc(api.docs, REPORTS TODAY), "status.items");
    assert_int_equal(json_int(json_array_get(items, 0), "unseenTokens", -1), 22);
    assert_int_equal(json_int(json_array_get(items, 1), "unseenTokens", -1), 0);
    reports_free(r);
}

static void test_reports_are_bounded_and_exact(void **state)
{
    (void)state;
    struct reports *r = reports_new();
    const int keys = REPORT_ITEMS_MAX + 500;
    char key[260];
    for (int n = 0; n < keys; n++) {
        snprintf(key, sizeof(key), "key-%d-%0240d", n, 0);
        struct usage u = usage_at(NOON, key);
        u.endpoint = u.model = u.key;
        count(r, u);
        if (n == keys - 1)
            count(r, u); /* the last one is the largest */
    }
    reports_write(r, client);
    const json_t *items = json_at(map_getc(api.docs, REPORTS TODAY), "status.items");
    assert_int_equal(json_array_size(items), REPORT_ITEMS_MAX + 1);
    assert_int_equal(json_int(json_array_get(items, 0), "requests", 0), 2);
    const json_t *rest = json_array_get(items, REPORT_ITEMS_MAX);
    assert_string_equal(json_str_or(rest, "key", "?"), "");
    assert_int_equal(json_int(rest, "requests", 0), 500);
    assert_int_equal(report_value(TODAY, "status.requests"), keys + 1);
    assert_true(api.biggest < OBJECT_MAX);
    reports_free(r);
}

static void test_sums_do_not_run_over(void **state)
{
    (void)state;
    struct reports *r = reports_new();
    struct usage u = usage_at(NOON, "k");
    u.completion_tokens = INT64_MAX;
    count(r, u);
    count(r, u);
    reports_write(r, client);
    assert_true(report_value(TODAY, "status.completionTokens") == INT64_MAX);
    reports_free(r);
}

static void test_what_did_not_change_is_not_written(void **state)
{
    (void)state;
    struct reports *r = reports_new();
    count(r, usage_at(NOON, "k"));
    reports_write(r, client);
    unsigned writes = api.writes;
    assert_true(writes > 0);
    reports_write(r, client);
    reports_free(r);
    r = reports_new(); /* after a restart */
    count(r, usage_at(NOON, "k"));
    reports_write(r, client);
    assert_int_equal(api.writes, writes);
    reports_free(r);
}

static void test_deleted_project_and_its_successor(void **state)
{
    (void)state;
    struct reports *r = reports_new();
    struct usage u = usage_at(NOON, "k");
    count(r, u);
    reports_write(r, client);
    remove_project("demo");
    count(r, u);
    reports_write(r, client); /* nobody to tell */
    assert_int_equal(report_value(TODAY, "status.requests"), -1);
    put_project("demo", "rival");
    reports_write(r, client);
    assert_int_equal(report_value(TODAY, "status.requests"), -1);
    u.tenant = STR("rival");
    count(r, u);
    reports_write(r, client);
    assert_int_equal(report_value(TODAY, "status.requests"), 1); /* not the three of both */
    assert_int_equal(json_array_size(json_at(map_getc(api.docs, REPORTS TODAY), "status.items")), 1);
    reports_free(r);
}

#define TEST(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_copied_exactly_once_over_restarts),
        TEST(test_a_torn_ledger_is_filled_up),
        TEST(test_a_new_journal_of_the_same_name),
        TEST(test_ledger_disk_full),
        TEST(test_bad_records_do_not_stop_the_rest),
        TEST(test_days_end_at_midnight_utc),
        TEST(test_items_are_by_key_endpoint_and_model),
        TEST(test_what_is_not_billed_is_told),
        TEST(test_reports_are_bounded_and_exact),
        TEST(test_sums_do_not_run_over),
        TEST(test_what_did_not_change_is_not_written),
        TEST(test_deleted_project_and_its_successor),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
