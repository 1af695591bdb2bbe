/* The usage journal: every record once, in order, from many threads, and again after a restart. */
#include "unit.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

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

#define BATCH 5

struct ids {
    char ids[BATCH + 2][16];
    uint64_t last;
};

static bool on_id(void *arg, const struct ledger_record *rec)
{
    struct ids *s = arg;
    struct usage u;
    struct err err = ERR_INIT;
    struct arena *a = arena_new(1 << 20);
    ASSERT_OK(usage_decode(rec->body, a, &u, &err));
    assert_in_range(rec->sequence, 1, BATCH + 1);
    assert_true(str_to_array(u.id, s->ids[s->last = rec->sequence], sizeof(s->ids[0])));
    arena_free(a);
    return true;
}

static void limit_files(rlim_t bytes)
{
    struct rlimit r;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &r), 0);
    r.rlim_cur = bytes;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &r), 0);
}

/* Whoever follows the journal may have what a full disk took of a batch: it stays what it is, though the gateway is killed before the rest is written. */
static void what_a_full_disk_took_of_a_batch_stays(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct journal *j;
    struct ledger_reader *r;
    struct ids seen = {0};
    struct stat st;
    CLEANUP(sbuf_deinit) struct sbuf text = {0};
    struct str bodies[BATCH];
    size_t ends[BATCH];
    struct rlimit before;
    char path[128];
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    signal(SIGXFSZ, SIG_IGN);
    sbuf_init(&text, 65536);
    sbuf_reserve(&text, 65536 - 1);
    for (int i = 0; i < BATCH; i++) {
        char id[16];
        snprintf(id, sizeof(id), "batch-%d", i + 1);
        usage_encode(&(struct usage){.id = str_of(id), .project = STR("p"), .outcome = STR("ok"), .status = 200, .exact = true}, &text);
        ends[i] = text.len;
    }
    for (int i = 0; i < BATCH; i++)
        bodies[i] = str_n(text.ptr + (i ? ends[i - 1] : 0), ends[i] - (i ? ends[i - 1] : 0));
    ASSERT_OK(journal_open(dir, "full", &j, &err));
    ASSERT_OK(ledger_reader_open(dir, "usage-full", &r, &err));
    snprintf(path, sizeof(path), "%s/usage-full.000001", dir);
    assert_int_equal(stat(path, &st), 0);
    limit_files((rlim_t)st.st_size + ends[1] + 2 * LEDGER_HEAD_BYTES + 7);
    journal_add_many(j, bodies, BATCH);
    assert_int_equal(journal_sequence(j), -1);
    assert_int_equal(journal_written(j), 2);
    ASSERT_OK(ledger_read(r, 0, on_id, &seen, &err));
    assert_int_equal(seen.last, 2);
    journal_close(j); /* as when it is killed: what waited is lost */
    limit_files(before.rlim_cur);
    ASSERT_OK(journal_open(dir, "full", &j, &err));
    journal_add(j, &(struct usage){.id = STR("later"), .project = STR("p"), .outcome = STR("ok"), .status = 200, .exact = true});
    ASSERT_OK(ledger_read(r, seen.last, on_id, &seen, &err));
    assert_int_equal(seen.last, 3);
    assert_string_equal(seen.ids[1], "batch-1");
    assert_string_equal(seen.ids[2], "batch-2");
    assert_string_equal(seen.ids[3], "later");
    ledger_reader_close(r);
    journal_close(j);
}

#define MANY (3 * LEDGER_BATCH_MAX + 5)

static void add_number(struct journal *j, int n)
{
    journal_add(j, &(struct usage){.id = STR("r"), .project = STR("p"), .outcome = STR("ok"), .status = 200, .prompt_tokens = 0, .completion_tokens = n, .exact = true});
}

/* What waited is written some at a time, and what comes meanwhile comes after it. */
static void what_waited_is_written_in_its_order(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct journal *j;
    struct ledger_reader *r;
    struct seen seen = {0};
    struct rlimit before;
    int added = 0;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    signal(SIGXFSZ, SIG_IGN);
    ASSERT_OK(journal_open(dir, "waits", &j, &err));
    limit_files(1);
    while (added < MANY)
        add_number(j, added++);
    assert_int_equal(journal_sequence(j), -1);
    limit_files(before.rlim_cur);
    for (int i = 0; i < 5000 && journal_sequence(j) < 0; i++) {
        if (added < 2 * MANY)
            add_number(j, added++);
        usleep(1000);
    }
    assert_int_equal(journal_sequence(j), added);
    limit_files(1);
    for (int i = 0; i < MANY; i++)
        add_number(j, added++);
    limit_files(before.rlim_cur);
    journal_close(j); /* tries once more */
    ASSERT_OK(ledger_reader_open(dir, "usage-waits", &r, &err));
    ASSERT_OK(ledger_read(r, 0, on_record, &seen, &err));
    ledger_reader_close(r);
    assert_int_equal(seen.count, added);
}

static void count_let_go(void *arg, void *held)
{
    (*(int *)arg)++;
    (*(int *)held)++;
}

/* What is to live until a record is written is let go then, and not before; what is written at once stays its owner's. */
static void what_is_held_is_let_go_when_its_record_is_written(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct journal *j;
    struct rlimit before;
    struct usage u = {.id = STR("r"), .project = STR("p"), .outcome = STR("ok"), .status = 200, .exact = true};
    int gone = 0, things[2] = {0};
    void *held[2] = {&things[0], &things[1]};
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    signal(SIGXFSZ, SIG_IGN);
    ASSERT_OK(journal_open(dir, "held", &j, &err));
    journal_on_written(j, count_let_go, &gone);
    journal_add_one_held(j, &u, &held[0]);
    assert_ptr_equal(held[0], &things[0]);
    limit_files(1);
    journal_add_one_held(j, &u, &held[1]);
    assert_null(held[1]);
    assert_int_equal(journal_ready(j, &err), ERR_NO_SPACE);
    assert_non_null(strstr(err.msg, "usage cannot be recorded"));
    assert_non_null(strstr(err.msg, "File too large"));
    limit_files(before.rlim_cur);
    for (int i = 0; i < 5000 && journal_sequence(j) < 0; i++)
        usleep(1000);
    assert_int_equal(journal_sequence(j), 2);
    assert_int_equal(gone, 1);
    assert_int_equal(things[1], 1);
    ASSERT_OK(journal_ready(j, &err));
    journal_close(j);
}

/* Whoever has a place for a record that is too many keeps the place: what it has is counted at the next start. */
static void what_is_held_outlives_a_record_that_is_too_many(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct journal *j;
    struct rlimit before;
    struct usage u = {.id = STR("r"), .project = STR("p"), .outcome = STR("ok"), .status = 200, .exact = true};
    int gone = 0, thing = 0;
    void *held = &thing;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    signal(SIGXFSZ, SIG_IGN);
    ASSERT_OK(journal_open(dir, "too-many", &j, &err));
    journal_on_written(j, count_let_go, &gone);
    limit_files(1);
    for (int i = 0; i < JOURNAL_BACKLOG_MAX; i++)
        add_number(j, i);
    journal_add_one_held(j, &u, &held);
    assert_null(held);
    limit_files(before.rlim_cur);
    for (int i = 0; i < 20000 && journal_sequence(j) < 0; i++)
        usleep(1000);
    assert_int_equal(journal_sequence(j), JOURNAL_BACKLOG_MAX);
    assert_int_equal(gone, 0);
    journal_close(j);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(many_writers_and_a_restart), cmocka_unit_test(what_a_full_disk_took_of_a_batch_stays), cmocka_unit_test(what_waited_is_written_in_its_order),
                                       cmocka_unit_test(what_is_held_is_let_go_when_its_record_is_written),
                                       cmocka_unit_test(what_is_held_outlives_a_record_that_is_too_many)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
