/* A ledger read piece by piece: together the pieces are the whole, wherever they are cut; what is no place of it is refused. */
#include "unit.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/file.h"
#include "ledger/files.h"
#include "ledger/piece.h"

#define NAME "t"
#define FILE_BYTES (64 * 1024)

static char dir[64];
static struct ledger *ledger;
static char *filler; /* records of which a piece has few */

static int setup(void **state)
{
    const struct ledger_options o = {.dir = dir, .name = NAME, .kind = LEDGER_AUDIT, .max_file_bytes = FILE_BYTES};
    struct err err = ERR_INIT;
    (void)state;
    snprintf(dir, sizeof(dir), "/tmp/seki-piece-XXXXXX");
    if (!mkdtemp(dir))
        return -1;
    filler = calloc(1, 4001);
    memset(filler, 'x', 4000);
    ASSERT_OK(ledger_open(&o, &ledger, &err));
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    ledger_close(ledger);
    free(filler);
    return file_remove_tree(dir, NULL);
}

static void append(unsigned from, unsigned to)
{
    struct err err = ERR_INIT;
    char body[4200];
    uint64_t sequence;
    for (unsigned n = from; n <= to; n++) {
        snprintf(body, sizeof(body), "{\"n\":%u,\"x\":\"%s\"}", n, filler);
        ASSERT_OK(ledger_append(ledger, 1000 * (int64_t)n, 1, str_of(body), &sequence, &err));
        assert_int_equal(sequence, n);
    }
}

struct seen {
    uint64_t last, count, stop_after;
};

static bool see(void *arg, const struct ledger_record *rec)
{
    struct seen *s = arg;
    assert_int_equal(rec->sequence, s->last + 1);
    assert_int_equal(rec->time_ms, 1000 * (int64_t)rec->sequence);
    s->last = rec->sequence;
    s->count++;
    return !s->stop_after || s->count % s->stop_after;
}

static unsigned files(void)
{
    struct err err = ERR_INIT;
    unsigned first, last;
    ASSERT_OK(ledger_find_files(dir, NAME, &first, &last, &err));
    return last;
}

/* All that comes after s->last, by pieces; through texts as a client has them. */
static unsigned read_all(struct seen *s, struct ledger_place at, size_t piece)
{
    struct err err = ERR_INIT;
    unsigned pieces = 0;
    bool end = false;
    while (!end) {
        char text[LEDGER_PLACE_TEXT];
        ledger_place_write(&at, text);
        ASSERT_OK(ledger_place_parse(str_of(text), &at, &err));
        ASSERT_OK(ledger_piece_read(dir, NAME, &at, piece, see, s, &end, &err));
        assert_true(at.sequence == s->last);
        assert_true(++pieces < 10000);
    }
    return pieces;
}

static void pieces_are_the_whole(void **state)
{
    struct err err = ERR_INIT;
    struct ledger_place at;
    (void)state;
    append(1, 200);
    assert_true(files() > 8);
    ASSERT_OK(ledger_place_find(dir, NAME, 0, 0, &at, &err));
    for (unsigned stop = 0; stop < 5; stop++) {
        struct seen s = {.stop_after = stop};
        unsigned pieces = read_all(&s, at, 0);
        assert_int_equal(s.last, 200);
        assert_true(pieces > 8 && (!stop || pieces >= 200 / stop));
    }
    struct seen s = {0};
    assert_int_equal(read_all(&s, at, 1 << 30), 1);
    assert_int_equal(s.count, 200);
}

static void what_comes_later_follows(void **state)
{
    struct err err = ERR_INIT;
    struct ledger_place at;
    struct seen s = {0};
    bool end;
    (void)state;
    ASSERT_OK(ledger_place_find(dir, NAME, 0, 0, &at, &err));
    for (unsigned n = 0; n < 60; n += 3) {
        append(n + 1, n + 3);
        ASSERT_OK(ledger_piece_read(dir, NAME, &at, 1 << 20, see, &s, &end, &err));
        assert_true(end && s.last == n + 3);
    }
    ASSERT_OK(ledger_piece_read(dir, NAME, &at, 1 << 20, see, &s, &end, &err));
    assert_true(end && s.count == 60);
}

static void the_file_is_found_where_it_begins(void **state)
{
    struct err err = ERR_INIT;
    struct ledger_place at;
    (void)state;
    assert_int_equal(ledger_place_find(dir, "none", 0, 0, &at, NULL), ERR_NOT_FOUND);
    ASSERT_OK(ledger_place_find(dir, NAME, 7, 7, &at, &err)); /* nothing is written yet */
    assert_true(at.file == 1 && at.sequence == 0);
    append(1, 200);
    for (uint64_t after = 0; after < 300; after += 7) {
        ASSERT_OK(ledger_place_find(dir, NAME, after, 0, &at, &err));
        struct seen s = {.last = at.sequence};
        assert_true(at.sequence <= after && after < at.sequence + 20 + (after > 200 ? 100 : 0)); /* of its file, or of the last */
        read_all(&s, at, 1 << 20);
        assert_int_equal(s.last, 200);
        struct ledger_place by_time;
        ASSERT_OK(ledger_place_find(dir, NAME, 0, (int64_t)after * 1000 + 1, &by_time, &err));
        assert_true(by_time.file == at.file && by_time.sequence == at.sequence);
    }
    ASSERT_OK(ledger_place_find(dir, NAME, 3, 150000, &at, &err));
    assert_true(at.sequence > 100 && at.sequence < 150);
}

static void no_place_of_it_is_refused(void **state)
{
    struct err err = ERR_INIT;
    struct ledger_place good, at;
    bool end;
    (void)state;
    append(1, 40);
    ASSERT_OK(ledger_place_find(dir, NAME, 0, 0, &good, &err));
    struct seen s = {.stop_after = 5};
    ASSERT_OK(ledger_piece_read(dir, NAME, &good, 1 << 20, see, &s, &end, &err));
    assert_false(end);
    const struct ledger_place bad[] = {{good.file, good.offset + 1, good.sequence}, {good.file, good.offset - 1, good.sequence}, {good.file, good.offset, good.sequence + 1}, {good.file, good.offset, 0},
                                       {good.file + 1, good.offset, good.sequence}, {9999, good.offset, good.sequence}, {good.file, INT64_MAX, good.sequence}};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct seen none = {.last = bad[i].sequence};
        at = bad[i];
        assert_int_equal(ledger_piece_read(dir, NAME, &at, 1 << 20, see, &none, &end, NULL), ERR_GONE);
        assert_int_equal(none.count, 0);
        assert_true(at.offset == bad[i].offset);
    }
    static const char *const texts[] = {"", "1", "1-32", "1-32-", "0-32-0", "1-31-0", "1-32-0-0", "-1-32-0", "1-32-x", "1000000-32-0", "1-99999999999999999999-0", "1-32-18446744073709551615", " 1-32-0"};
    for (size_t i = 0; i < ARRAY_LEN(texts); i++)
        assert_int_equal(ledger_place_parse(str_of(texts[i]), &at, NULL), ERR_INVALID);
}

static void what_is_damaged_is_named(void **state)
{
    struct err err = ERR_INIT;
    struct ledger_place at;
    struct seen s = {0};
    char path[LEDGER_PATH_MAX];
    bool end;
    (void)state;
    append(1, 40);
    ledger_path(dir, NAME, 2, path);
    FILE *f = fopen(path, "r+");
    assert_non_null(f);
    assert_int_equal(fseek(f, 9000, SEEK_SET), 0);
    assert_int_equal(fputc('!', f), '!');
    fclose(f);
    ASSERT_OK(ledger_place_find(dir, NAME, 0, 0, &at, &err));
    assert_int_equal(ledger_piece_read(dir, NAME, &at, 1 << 20, see, &s, &end, &err), ERR_CORRUPT);
    assert_non_null(strstr(err.msg, "t.000002"));
}

#define CASE(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {CASE(pieces_are_the_whole), CASE(what_comes_later_follows), CASE(the_file_is_found_where_it_begins), CASE(no_place_of_it_is_refused), CASE(what_is_damaged_is_named)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
