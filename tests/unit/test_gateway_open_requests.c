/* Requests that ran when a gateway was killed: counted once, by the next one, up to what was noted last. */
#include "unit.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "base/arena.h"
#include "base/file.h"
#include "base/mem.h"
#include "gateway/open_requests.h"

static char dir[] = "/tmp/seki-open-XXXXXX", path[64];
static struct journal *journal;

static int setup(void **state UNUSED)
{
    if (!mkdtemp(dir))
        return -1;
    snprintf(path, sizeof(path), "%s/gateway.requests", dir);
    return 0;
}

static int teardown(void **state UNUSED)
{
    struct err err = ERR_INIT;
    return file_remove_tree(dir, &err);
}

static void start(void)
{
    struct err err = ERR_INIT;
    ASSERT_OK(journal_open(dir, "gateway", &journal, &err));
}

struct found {
    const char *id;
    struct usage u;
    struct usage_work work[USAGE_WORK_MAX];
    char outcome[16], currency[4];
    int count, all;
};

static bool on_record(void *arg, const struct ledger_record *rec)
{
    struct found *f = arg;
    struct usage u;
    struct err err = ERR_INIT;
    struct arena *a = arena_new(1 << 20);
    ASSERT_OK(usage_decode(rec->body, a, &u, &err));
    assert_true(usage_adds_up(&u));
    f->all++;
    if (str_eqc(u.id, f->id)) {
        f->count++;
        memcpy(f->work, u.work, u.work_count * sizeof(*u.work));
        assert_true(str_to_array(u.outcome, f->outcome, sizeof(f->outcome)) && str_to_array(u.currency, f->currency, sizeof(f->currency)));
        f->u = u;
    }
    arena_free(a);
    return true;
}

static struct found find(const char *id)
{
    struct found f = {.id = id};
    struct err err = ERR_INIT;
    struct ledger_reader *r;
    ASSERT_OK(ledger_reader_open(dir, "usage-gateway", &r, &err));
    ASSERT_OK(ledger_read(r, 0, on_record, &f, &err));
    ledger_reader_close(r);
    return f;
}

static struct usage usage(const char *id, const struct usage_work *work, size_t count)
{
    return (struct usage){.id = str_of(id), .project = STR("p"), .outcome = STR("killed"), .start_ms = 1000, .ttft_ms = -1, .stream = true, .work = work, .work_count = count, .has_work = true};
}

static void what_was_noted_is_counted_once(void **state UNUSED)
{
    const struct usage_work first = {.replica = STR("p/e-0"), .start_ms = 1000, .end_ms = 1000};
    const struct usage_work second[] = {{.replica = STR("p/e-0"), .start_ms = 1000, .end_ms = 1500, .read = 9, .written = 3}, {.replica = STR("p/e-1"), .start_ms = 1500, .end_ms = 1500}};
    const struct price price = {.currency = "EUR", .exponent = 2, .input = 1000000, .output = 2000000};
    struct open_request *places[7] = {0};
    struct usage u;
    start();
    struct open_requests *o = open_requests_new(path, dir, journal, 100);
    assert_non_null(o);
    u = usage("cut", &first, 1);
    open_request_begin(o, &places[0], &u, &price, 9);
    open_request_note(places[0], 4, false, 0, 0, 0);
    open_request_note(places[0], 5, false, 0, 0, 0);
    u = usage("told", &first, 1);
    open_request_begin(o, &places[1], &u, NULL, 9);
    open_request_note(places[1], 5, true, 12, 2, 6);
    u = usage("silent", &first, 1);
    open_request_begin(o, &places[2], &u, NULL, 9);
    u = usage("ended", &first, 1);
    open_request_begin(o, &places[3], &u, NULL, 9);
    journal_add(journal, &(struct usage){.id = STR("ended"), .project = STR("p")});
    open_request_end(o, &places[3]);
    assert_null(places[3]);
    u = usage("between", &first, 1); /* killed between the journal and the place */
    open_request_begin(o, &places[4], &u, NULL, 9);
    journal_add(journal, &(struct usage){.id = STR("between"), .project = STR("p")});
    u = usage("goes on", &first, 1);
    open_request_begin(o, &places[5], &u, NULL, 9);
    open_request_note(places[5], 3, false, 0, 0, 0);
    u = usage("goes on", second, 2);
    open_request_begin(o, &places[5], &u, NULL, 9);
    open_request_note(places[5], 2, false, 0, 0, 0);
    u = usage("goes on, told", second, 2);
    open_request_begin(o, &places[6], &u, NULL, 9);
    open_request_note(places[6], 2, true, 10, 0, 4);
    journal_close(journal);
    open_requests_free(o); /* as a kill does: the places stay taken */

    for (int i = 0; i < 2; i++) {
        start();
        o = open_requests_new(path, dir, journal, 100);
        assert_non_null(o);
        open_requests_free(o);
        journal_close(journal);
    }
    struct found f = find("cut");
    assert_int_equal(f.all, 7);
    assert_true(f.count == 1 && !f.u.exact && f.u.prompt_tokens == 9 && f.u.completion_tokens == 5 && f.u.status == 200 && f.u.cost == 19 && !strcmp(f.currency, "EUR") && !strcmp(f.outcome, "killed"));
    f = find("told");
    assert_true(f.count == 1 && f.u.exact && f.u.prompt_tokens == 12 && f.u.cached_tokens == 2 && f.u.completion_tokens == 6 && f.u.cost == 0);
    f = find("silent");
    assert_true(f.count == 1 && f.u.prompt_tokens == 0 && f.u.completion_tokens == 0 && f.u.status == 0 && f.u.work_count == 1);
    assert_int_equal(find("ended").count, 1);
    assert_int_equal(find("between").count, 1);
    f = find("goes on");
    assert_true(f.count == 1 && f.u.prompt_tokens == 9 && f.u.completion_tokens == 5 && f.u.replayed_tokens == 12 && f.work[1].read == 12 && f.work[1].written == 2);
    f = find("goes on, told");
    assert_true(f.count == 1 && f.u.prompt_tokens == 7 && f.u.completion_tokens == 7 && f.u.replayed_tokens == 10 && f.work[0].read == 7);
}

static void places_are_used_again(void **state UNUSED)
{
    const struct usage_work first = {.replica = STR("p/e-0")};
    struct usage u = usage("x", &first, 1);
    struct open_request *places[4] = {0};
    start();
    struct open_requests *o = open_requests_new(path, dir, journal, 3);
    assert_non_null(o); /* the file has more */
    open_requests_free(o);
    assert_int_equal(remove(path), 0);
    o = open_requests_new(path, dir, journal, 3);
    for (int i = 0; i < 4; i++)
        open_request_begin(o, &places[i], &u, NULL, 1);
    assert_true(places[0] && places[1] && places[2] && !places[3]);
    open_request_note(places[3], 1, false, 0, 0, 0);
    struct open_request *was = places[1];
    open_request_end(o, &places[1]);
    open_request_begin(o, &places[3], &u, NULL, 1);
    assert_ptr_equal(places[3], was);
    open_request_end(o, &places[1]);
    for (int i = 0; i < 4; i++)
        open_request_end(o, &places[i]);
    open_requests_free(o);
    journal_close(journal);
}

static struct usage long_usage(const char *id, const char *name, const struct usage_work *work, size_t count)
{
    struct usage u = usage(id, work, count);
    u.project = u.tenant = u.key = u.endpoint = u.model = u.replica = str_of(name);
    return u;
}

/* Long names, and attempts that come later, take a large place; who was killed on the way there is counted once; what fits nowhere is counted when it ends. */
static void what_needs_more_room(void **state UNUSED)
{
    struct usage_work work[USAGE_WORK_MAX];
    struct open_request *places[40] = {0};
    char name[64], endless[3000];
    memset(name, 'n', sizeof(name) - 1);
    memset(endless, 'e', sizeof(endless) - 1);
    name[sizeof(name) - 1] = endless[sizeof(endless) - 1] = 0;
    for (size_t i = 0; i < ARRAY_LEN(work); i++)
        work[i] = (struct usage_work){.replica = str_of(name), .start_ms = 1000, .end_ms = 1000, .read = 9, .written = 1};
    start();
    (void)remove(path);
    struct open_requests *o = open_requests_new(path, dir, journal, 100);
    assert_non_null(o);
    struct usage u = long_usage("long", name, work, 1);
    open_request_begin(o, &places[0], &u, NULL, 9);
    open_request_note(places[0], 4, false, 0, 0, 0);
    u = usage("grows", work, 1);
    open_request_begin(o, &places[1], &u, NULL, 9);
    struct open_request *was = places[1];
    u = usage("grows", work, 8);
    open_request_begin(o, &places[1], &u, NULL, 9);
    assert_ptr_not_equal(places[1], was);
    open_request_note(places[1], 3, false, 0, 0, 0);
    open_request_begin(o, &places[2], &(struct usage){.id = STR("free again"), .work = work, .work_count = 1}, NULL, 9);
    assert_ptr_equal(places[2], was);
    open_request_end(o, &places[2]);
    u = long_usage("twice", name, work, 1);
    open_request_begin(o, &places[3], &u, NULL, 9);
    open_request_begin(o, &places[4], &u, NULL, 9);
    u = long_usage("endless", endless, work, 1);
    open_request_begin(o, &places[5], &u, NULL, 9);
    assert_null(places[5]);
    u = usage("outgrows", work, 1);
    open_request_begin(o, &places[6], &u, NULL, 9);
    u.model = str_of(endless);
    open_request_begin(o, &places[6], &u, NULL, 9);
    assert_null(places[6]);
    u = long_usage("many", name, work, 1);
    size_t large = 0;
    for (size_t i = 7; i < ARRAY_LEN(places); i++) {
        open_request_begin(o, &places[i], &u, NULL, 9);
        large += places[i] != NULL;
    }
    assert_int_equal(large, 16 - 4); /* the others are in use */
    for (size_t i = 7; i < ARRAY_LEN(places); i++)
        open_request_end(o, &places[i]);
    open_requests_free(o);
    journal_close(journal);
    int before = find("long").all;
    start();
    open_requests_free(open_requests_new(path, dir, journal, 7)); /* of other places, in number */
    journal_close(journal);
    struct found f = find("long");
    assert_int_equal(f.all, before + 3);
    assert_true(f.count == 1 && f.u.completion_tokens == 4);
    f = find("grows");
    assert_true(f.count == 1 && f.u.completion_tokens == 7 + 3 && f.u.work_count == 8);
    assert_int_equal(find("twice").count, 1);
}

static struct open_requests *shared;
static atomic_int holders[64];

/* Nobody has another's place. */
static void *take_and_free(void *arg)
{
    const struct usage_work first = {.replica = STR("p/e-0")};
    struct usage u = usage("x", &first, 1);
    for (int i = 0; i < 300; i++) {
        struct open_request *place = NULL;
        open_request_begin(shared, &place, &u, NULL, 1);
        if (!place)
            continue;
        atomic_int *holder = &holders[((uintptr_t)place / 512) % ARRAY_LEN(holders)];
        if (atomic_fetch_add(holder, 1) != 0)
            return arg;
        open_request_note(place, i, false, 0, 0, 0);
        atomic_fetch_sub(holder, 1);
        open_request_end(shared, &place);
    }
    return NULL;
}

static void many_threads(void **state UNUSED)
{
    pthread_t threads[4];
    void *failed;
    start();
    assert_int_equal(remove(path), 0);
    shared = open_requests_new(path, dir, journal, 3);
    for (size_t i = 0; i < ARRAY_LEN(threads); i++)
        assert_int_equal(pthread_create(&threads[i], NULL, take_and_free, threads), 0);
    for (size_t i = 0; i < ARRAY_LEN(threads); i++) {
        pthread_join(threads[i], &failed);
        assert_null(failed);
    }
    open_requests_free(shared);
    journal_close(journal);
}

/* Whether it is counted already cannot be known then. */
static void what_cannot_be_counted_is_not_thrown_away(void **state UNUSED)
{
    const struct usage_work first = {.replica = STR("p/e-0"), .start_ms = 1000, .end_ms = 1000};
    struct open_request *place = NULL;
    struct usage u = usage("uncounted", &first, 1);
    struct err err = ERR_INIT;
    CLEANUP(mem_freep) char *aside = xasprintf("%s.uncounted", path);
    CLEANUP(mem_freep) char *text = NULL;
    CLEANUP(mem_freep) char *file = xasprintf("%s/usage-gateway.000001", dir);
    size_t len;
    start();
    struct open_requests *o = open_requests_new(path, dir, journal, 100);
    assert_non_null(o);
    open_request_begin(o, &place, &u, NULL, 9);
    journal_add(journal, &(struct usage){.id = STR("later"), .project = STR("p")});
    journal_close(journal);
    open_requests_free(o);

    start();
    ASSERT_OK(file_read(file, 16 << 20, &text, &len, &err));
    FILE *f = fopen(file, "r+");
    assert_non_null(f);
    assert_int_equal(fseek(f, (long)len - 60, SEEK_SET), 0);
    assert_int_equal(fputs("damaged", f) < 0, 0);
    assert_int_equal(fclose(f), 0);
    assert_null(open_requests_new(path, dir, journal, 0));
    assert_true(file_exists(path) && !file_exists(aside));
    o = open_requests_new(path, dir, journal, 10);
    assert_non_null(o);
    assert_true(file_exists(aside));
    open_requests_free(o);
    ASSERT_OK(file_write(file, str_n(text, len), 0600, &err));
    journal_close(journal);
    assert_int_equal(find("uncounted").count, 0);
    assert_int_equal(rename(aside, path), 0);
    start();
    o = open_requests_new(path, dir, journal, 10);
    assert_non_null(o);
    open_requests_free(o);
    journal_close(journal);
    assert_int_equal(find("uncounted").count, 1);
}

static void other_files_are_begun_anew(void **state UNUSED)
{
    struct err err = ERR_INIT;
    static char text[4096 + 4096 + 16 * 2048];
    int before = find("x").all;
    for (int c = 0; c < 256; c += 51) {
        memset(text, c, sizeof(text));
        for (int ours = 0; ours < 2; ours++) {
            if (ours) /* the head is right, of one small place, and what follows is nothing */
                memcpy(text, "SEKIOPEN\3\0\0\0\1\0\0\0", 16);
            ASSERT_OK(file_write(path, str_n(text, sizeof(text)), 0600, &err));
            start();
            struct open_requests *o = open_requests_new(path, dir, journal, 10);
            assert_non_null(o);
            open_requests_free(o);
            journal_close(journal);
        }
    }
    assert_int_equal(find("x").all, before);
    start();
    assert_null(open_requests_new("/nowhere/x", dir, journal, 10));
    open_request_begin(NULL, &(struct open_request *){NULL}, &(struct usage){0}, NULL, 0);
    open_request_note(NULL, 1, false, 0, 0, 0);
    journal_close(journal);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(what_was_noted_is_counted_once), cmocka_unit_test(places_are_used_again), cmocka_unit_test(what_needs_more_room), cmocka_unit_test(many_threads), cmocka_unit_test(what_cannot_be_counted_is_not_thrown_away), cmocka_unit_test(other_files_are_begun_anew)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
