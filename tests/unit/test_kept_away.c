/* Requests over a limit: told at once, counted afterwards, and never more records than a minute allows. */
#include "gateway/kept_away.h"
#include "ledger/ledger.h"

#include "base/arena.h"
#include "base/file.h"
#include "base/mem.h"
#include "unit.h"

#include <pthread.h>

struct found {
    size_t records;
    int64_t sum;
    size_t unnamed, placed, timed; /* timed: that say when the first and the last came */
};

static bool look(void *arg, const struct ledger_record *rec)
{
    struct found *f = arg;
    struct arena *a = arena_new(1 << 20);
    struct audit_event e;
    struct err err = ERR_INIT;
    assert_int_equal(audit_decode(rec->body, a, &e, &err), 0);
    assert_int_equal(e.type, AUDIT_REFUSED);
    f->records++;
    f->sum += e.count ? e.count : 1;
    f->unnamed += !e.user.len;
    f->placed += e.source.len > 0;
    f->timed += e.first.len && e.last.len;
    arena_free(a);
    return true;
}

static struct found read_all(const char *dir)
{
    struct found f = {0};
    struct ledger_reader *r;
    struct err err = ERR_INIT;
    assert_int_equal(ledger_reader_open(dir, AUDIT_GATEWAY, &r, &err), 0);
    assert_int_equal(ledger_read(r, 0, look, &f, &err), 0);
    ledger_reader_close(r);
    return f;
}

static struct audit_event of(const char *tenant, const char *key, const char *rule)
{
    return (struct audit_event){.user = str_of(key), .namespace = STR("p"), .tenant = str_of(tenant), .source = STR("127.0.0.1"), .status = 429, .reason = STR("rate_limit_exceeded"), .rule = str_of(rule)};
}

struct bench {
    char dir[64];
    struct audit_log *log;
    struct kept_away *k;
};

static void begin(struct bench *b)
{
    struct err err = ERR_INIT;
    snprintf(b->dir, sizeof(b->dir), "/tmp/seki-kept-XXXXXX");
    assert_non_null(mkdtemp(b->dir));
    assert_int_equal(audit_log_open(&(struct audit_log_options){b->dir, AUDIT_GATEWAY, NULL}, &b->log, &err), 0);
    b->k = kept_away_new(b->log);
}

static struct found end(struct bench *b)
{
    kept_away_free(b->k);
    audit_log_close(b->log);
    struct found f = read_all(b->dir);
    assert_int_equal(file_remove_tree(b->dir, NULL), 0);
    return f;
}

static void a_key_and_rule_has_a_record_at_once_and_one_a_minute(void **state UNUSED)
{
    struct bench b;
    uint64_t now = 1000;
    begin(&b);
    struct audit_event e = of("acme", "k", "RateLimit/key/requests"), other = of("acme", "k", "RateLimit/key/tokens");
    for (int second = 0; second < 150; second++, now += 1000) {
        for (int i = 0; i < 100; i++)
            kept_away_limited(b.k, &e, now);
        kept_away_flush(b.k, now);
    }
    kept_away_limited(b.k, &other, now);
    /* at 0, 60, 120 and the end; and the other rule's */
    struct found f = end(&b);
    assert_int_equal(f.records, 5);
    assert_int_equal(f.sum, 15001);
}

static void who_behaves_again_is_forgotten(void **state UNUSED)
{
    struct bench b;
    begin(&b);
    struct audit_event e = of("acme", "k", "RateLimit/key/requests");
    kept_away_limited(b.k, &e, 0);
    kept_away_flush(b.k, KEPT_AWAY_EVERY_MS);
    kept_away_flush(b.k, 2 * KEPT_AWAY_EVERY_MS);
    kept_away_limited(b.k, &e, 3 * KEPT_AWAY_EVERY_MS); /* told at once again */
    struct found f = end(&b);
    assert_int_equal(f.records, 2);
    assert_int_equal(f.sum, 2);
}

static void a_tenant_of_many_keys_has_few_records_and_hides_no_other(void **state UNUSED)
{
    struct bench b;
    char name[32];
    begin(&b);
    for (int round = 0; round < 3; round++)
        for (int i = 0; i < 1000; i++) {
            snprintf(name, sizeof(name), "k%d", i);
            struct audit_event e = of("noisy", name, "RateLimit/tenant/requests");
            kept_away_limited(b.k, &e, 5);
        }
    struct audit_event e = of("quiet", "k", "RateLimit/key/requests");
    kept_away_limited(b.k, &e, 6);
    /* each of KEPT_AWAY_KEYS and of the rest: one at once, one at the end; and the quiet one's */
    struct found f = end(&b);
    assert_int_equal(f.records, 2 * (KEPT_AWAY_KEYS + 1) + 1);
    assert_int_equal(f.sum, 3001);
    assert_int_equal(f.unnamed, 2);
}

static struct audit_event refused(const char *tenant, const char *key, const char *source, const char *rule, const char *id)
{
    return (struct audit_event){.type = AUDIT_REFUSED, .id = str_of(id), .user = str_of(key), .namespace = str_of(*key ? "p" : ""), .tenant = str_of(tenant), .source = str_of(source), .verb = STR("POST"),
                                .resource = STR("gateway"), .name = str_of(id), .status = 403, .reason = STR("residency_denied"), .rule = str_of(rule)};
}

/* What an auditor looks for has a record each, and in a flood none is forgotten. */
static void a_refusal_has_a_record_of_its_own_unless_in_a_flood(void **state UNUSED)
{
    struct bench b;
    char id[32];
    begin(&b);
    for (int i = 0; i < 5000; i++) {
        snprintf(id, sizeof(id), "r%d", i);
        struct audit_event e = refused("acme", "k", "127.0.0.1", "ResidencyPolicy acme/here", id);
        kept_away_refused(b.k, &e, NULL, (uint64_t)i * 10); /* within a minute */
    }
    struct audit_event e = refused("acme", "other", "127.0.0.1", "ResidencyPolicy acme/here", "x");
    kept_away_refused(b.k, &e, NULL, 0);
    struct found f = end(&b);
    assert_int_equal(f.records, KEPT_AWAY_OWN + 1 + 1);
    assert_int_equal(f.sum, 5001);
    assert_int_equal(f.timed, 1);
    assert_int_equal(f.unnamed, 0);
}

static void strangers_are_counted_by_address_and_of_many_together(void **state UNUSED)
{
    struct bench b;
    char id[32], place[32];
    begin(&b);
    for (int i = 0; i < 30000; i++) {
        snprintf(id, sizeof(id), "r%d", i);
        snprintf(place, sizeof(place), "10.0.%d.%d", i % 1000 / 256, i % 256);
        struct audit_event e = refused("", "", place, "KeyUnknown", id);
        kept_away_refused(b.k, &e, place, 7);
    }
    kept_away_flush(b.k, 7 + KEPT_AWAY_EVERY_MS);
    struct found f = end(&b);
    /* each address that is told apart: one at once, one a minute later; and the rest: likewise */
    assert_int_equal(f.records, 2 * KEPT_AWAY_ADDRESSES + 2);
    assert_int_equal(f.sum, 30000);
    assert_int_equal(f.placed, 2 * KEPT_AWAY_ADDRESSES);
}

static void *hammer(void *arg)
{
    struct bench *b = arg;
    struct audit_event e = of("acme", "k", "RateLimit/key/requests");
    for (uint64_t i = 0; i < 5000; i++) {
        kept_away_limited(b->k, &e, i * 100);
        if (i % 10 == 0)
            kept_away_flush(b->k, i * 100);
    }
    return NULL;
}

static void none_is_lost_between_threads(void **state UNUSED)
{
    struct bench b;
    pthread_t threads[4];
    begin(&b);
    for (size_t i = 0; i < ARRAY_LEN(threads); i++)
        assert_int_equal(pthread_create(&threads[i], NULL, hammer, &b), 0);
    for (size_t i = 0; i < ARRAY_LEN(threads); i++)
        pthread_join(threads[i], NULL);
    struct found f = end(&b);
    assert_int_equal(f.sum, 20000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_key_and_rule_has_a_record_at_once_and_one_a_minute),
        cmocka_unit_test(who_behaves_again_is_forgotten),
        cmocka_unit_test(a_tenant_of_many_keys_has_few_records_and_hides_no_other),
        cmocka_unit_test(a_refusal_has_a_record_of_its_own_unless_in_a_flood),
        cmocka_unit_test(strangers_are_counted_by_address_and_of_many_together),
        cmocka_unit_test(none_is_lost_between_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
