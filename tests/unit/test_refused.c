/* Usage records of refused requests: a few of their own, then one a minute with a count; and every one of them in the reports. */
#include "unit.h"

#include <stdlib.h>

#include "base/arena.h"
#include "base/file.h"
#include "billing/report.h"
#include "gateway/refused.h"
#include "json/json.h"

struct bench {
    char dir[64];
    struct journal *j;
    struct refused *r;
    struct arena *arena;
    int asked;
};

struct found {
    struct arena *arena;
    size_t records;
    int64_t sum, most, keyless;
    size_t judged;
    struct reports *reports;
};

static void begin(struct bench *b)
{
    struct err err = ERR_INIT;
    *b = (struct bench){.arena = arena_new(1 << 20)};
    snprintf(b->dir, sizeof(b->dir), "/tmp/seki-refused-XXXXXX");
    assert_non_null(mkdtemp(b->dir));
    ASSERT_OK(journal_open(b->dir, "gateway", &b->j, &err));
    b->r = refused_new(b->j);
}

static bool on_record(void *arg, const struct ledger_record *rec)
{
    struct found *f = arg;
    struct usage u;
    struct err err = ERR_INIT;
    ASSERT_OK(usage_decode(rec->body, f->arena, &u, &err));
    assert_true(usage_adds_up(&u));
    f->records++;
    f->sum += usage_requests(&u);
    f->most = MAX(f->most, usage_requests(&u));
    f->keyless += u.key.len ? 0 : usage_requests(&u);
    f->judged += u.levels.project.len > 0;
    reports_count(f->reports, &u);
    return true;
}

static struct found end(struct bench *b)
{
    struct found f = {.arena = b->arena, .reports = reports_new()};
    struct ledger_reader *r;
    struct err err = ERR_INIT;
    refused_free(b->r);
    journal_close(b->j);
    ASSERT_OK(ledger_reader_open(b->dir, "usage-gateway", &r, &err));
    ASSERT_OK(ledger_read(r, 0, on_record, &f, &err));
    ledger_reader_close(r);
    JSON_AUTO reports = reports_list(f.reports);
    int64_t requests = 0, failed = 0;
    size_t i;
    json_t *one;
    json_array_foreach (reports, i, one) {
        requests += json_int(json_object_get(one, "status"), "requests", 0);
        failed += json_int(json_object_get(one, "status"), "failedRequests", 0);
    }
    assert_int_equal(requests, f.sum);
    assert_int_equal(failed, f.sum);
    reports_free(f.reports);
    arena_free(b->arena);
    ASSERT_OK(file_remove_tree(b->dir, &err));
    return f;
}

static void ask(struct bench *b, const char *tenant, const char *key, int status, bool promised, uint64_t now_ms)
{
    char id[32];
    snprintf(id, sizeof(id), "req-%d", b->asked++);
    struct usage u = {.id = str_of(id), .project = STR("p"), .tenant = str_of(tenant), .key = str_of(key), .outcome = STR("refused"), .route = STR("chat.completions"), .status = status, .exact = true,
                      .has_work = true, .start_ms = 1700000000000 + (int64_t)now_ms, .ttft_ms = -1, .duration_ms = 1};
    if (promised) {
        u.endpoint = STR("m");
        u.levels = (struct levels){.project = STR("p"), .of = {[LEVEL_AVAILABILITY] = {.target = 999000}}};
    }
    assert_true(refused_is(&u));
    if (!refused_take(b->r, &u, now_ms))
        journal_add(b->j, &u);
}

static void a_flood_is_a_few_records_and_all_are_counted(void **state UNUSED)
{
    struct bench b;
    begin(&b);
    for (uint64_t ms = 0; ms < 3 * REFUSED_WINDOW_MS; ms += 10) {
        ask(&b, "acme", "k", ms % 20 ? 404 : 400, false, 1 + ms);
        refused_flush(b.r, 1 + ms);
    }
    struct found f = end(&b);
    assert_int_equal(f.sum, 3 * REFUSED_WINDOW_MS / 10);
    assert_int_equal(f.records, 3 * (REFUSED_OWN + 2));
}

static void who_is_refused_now_and_then_has_records_of_his_own(void **state UNUSED)
{
    struct bench b;
    begin(&b);
    for (uint64_t i = 0; i < 50; i++) {
        ask(&b, "acme", "k", 404, false, 1 + i * 10000);
        refused_flush(b.r, 1 + i * 10000);
    }
    struct found f = end(&b);
    assert_int_equal(f.records, 50);
    assert_int_equal(f.most, 1);
}

static void many_keys_of_a_tenant_are_few_records_and_hide_no_other(void **state UNUSED)
{
    struct bench b;
    char key[32];
    begin(&b);
    for (int round = 0; round < 20; round++)
        for (int i = 0; i < 1000; i++) {
            snprintf(key, sizeof(key), "k%d", i);
            ask(&b, "noisy", key, 404, false, 1);
        }
    ask(&b, "quiet", "k", 404, false, 2);
    struct found f = end(&b);
    assert_int_equal(f.sum, 20001);
    assert_int_equal(f.records, REFUSED_OWN_TENANT + REFUSED_NAMED + 1 + 1);
    assert_true(f.keyless > 0);
}

/* What breaks a promise is counted for that endpoint, also of keys that are not told apart. */
static void promises_are_judged_of_all(void **state UNUSED)
{
    struct bench b;
    char key[32];
    begin(&b);
    for (int i = 0; i < 1000; i++) {
        snprintf(key, sizeof(key), "k%d", i);
        ask(&b, "acme", key, 503, true, 1);
    }
    struct found f = end(&b);
    assert_int_equal(f.sum, 1000);
    assert_int_equal(f.judged, f.records);
}

static void only_what_used_nothing_is_put_together(void **state UNUSED)
{
    struct usage_work work = {.replica = STR("p/r"), .exact = true};
    assert_false(refused_is(&(struct usage){.status = 200, .outcome = STR("ok")}));
    assert_false(refused_is(&(struct usage){.status = 502, .outcome = STR("upstream_error"), .work = &work, .work_count = 1, .has_work = true}));
    assert_false(refused_is(&(struct usage){.status = 499, .outcome = STR("client_gone")}));
    assert_false(refused_is(&(struct usage){.status = 400, .outcome = STR("refused"), .prompt_tokens = 3}));
    struct arena *a = arena_new(1 << 16);
    struct usage u;
    struct err err = ERR_INIT;
    const char *bad[] = {"{\"id\":\"a\",\"project\":\"p\",\"count\":0}", "{\"id\":\"a\",\"project\":\"p\",\"count\":-1}", "{\"id\":\"a\",\"project\":\"p\",\"count\":2,\"prompt_tokens\":1}",
                         "{\"id\":\"a\",\"project\":\"p\",\"count\":2,\"cost\":1}", "{\"id\":\"a\",\"project\":\"p\",\"count\":1000000001}"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_int_equal(usage_decode(str_of(bad[i]), a, &u, NULL), ERR_INVALID);
    ASSERT_OK(usage_decode(STR("{\"id\":\"a\",\"project\":\"p\",\"count\":2}"), a, &u, &err));
    arena_free(a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_flood_is_a_few_records_and_all_are_counted), cmocka_unit_test(who_is_refused_now_and_then_has_records_of_his_own),
        cmocka_unit_test(many_keys_of_a_tenant_are_few_records_and_hide_no_other), cmocka_unit_test(promises_are_judged_of_all), cmocka_unit_test(only_what_used_nothing_is_put_together)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
