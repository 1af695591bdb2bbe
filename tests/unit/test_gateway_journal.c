/* The usage journal: every record once, in order, from many threads, and again after a restart. */
#include "unit.h"

#include <pthread.h>
#include <stdlib.h>

#include "base/arena.h"
#include "base/file.h"
#include "gateway/journal.h"
#include "ledger/ledger.h"

#define THREADS 4
#define EACH 200

static char dir[] = "/tmp/seki-journal-XXXXXX";

static int setup(void **state)
{
    (void)state;
    return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    return file_remove_tree(dir, &err);
}

struct writer {
    struct journal *journal;
    int number;
};

static void *write_many(void *arg)
{
    const struct writer *w = arg;
    char id[32];
    for (int i = 0; i < EACH; i++) {
        snprintf(id, sizeof(id), "req-%d-%d", w->number, i);
        struct usage u = {.id = str_of(id), .project = STR("p"), .outcome = STR("ok"), .status = 200, .prompt_tokens = w->number, .completion_tokens = i, .exact = true};
        journal_add(w->journal, &u);
    }
    return NULL;
}

struct seen {
    int next[2 * THREADS];
    int count;
};

static bool on_record(void *arg, const struct ledger_record *rec)
{
    struct seen *s = arg;
    struct usage u;
    struct err err = ERR_INIT;
    struct arena *a = arena_new(1 << 20);
    ASSERT_OK(usage_decode(rec->body, a, &u, &err));
    assert_true(u.exact && u.status == 200);
    assert_int_equal(u.completion_tokens, s->next[u.prompt_tokens]++); /* of one writer: in order, none twice, none missing */
    s->count++;
    assert_int_equal(rec->sequence, s->count);
    arena_free(a);
    return true;
}

static void many_writers_and_a_restart(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct seen seen = {0};
    for (int round = 0; round < 2; round++) {
        struct journal *j, *second;
        pthread_t threads[THREADS];
        struct writer writers[THREADS];
        ASSERT_OK(journal_open(dir, "gateway", &j, &err));
        assert_int_equal(journal_open(dir, "gateway", &second, NULL), ERR_BUSY);
        for (int i = 0; i < THREADS; i++) {
            writers[i] = (struct writer){j, round * THREADS + i};
            assert_int_equal(pthread_create(&threads[i], NULL, write_many, &writers[i]), 0);
        }
        for (int i = 0; i < THREADS; i++)
            pthread_join(threads[i], NULL);
        ASSERT_OK(journal_ready(j, &err));
        journal_close(j);
    }
    struct ledger_reader *r;
    uint64_t records;
    ASSERT_OK(ledger_verify(dir, "usage-gateway", &records, &err));
    assert_int_equal(records, 2 * THREADS * EACH);
    ASSERT_OK(ledger_reader_open(dir, "usage-gateway", &r, &err));
    ASSERT_OK(ledger_read(r, 0, on_record, &seen, &err));
    ledger_reader_close(r);
    assert_int_equal(seen.count, 2 * THREADS * EACH);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(many_writers_and_a_restart)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
