/* Ledger files: what is written is read, whatever is cut off or changed is found and named. */
#include "unit.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/arena.h"
#include "base/file.h"
#include "base/mem.h"
#include "ledger/checkpoint.h"
#include "ledger/extent.h"
#include "ledger/usage.h"

#define NAME "t"

static char dir[64];

static int make_dir(void **state)
{
    (void)state;
    snprintf(dir, sizeof(dir), "/tmp/seki-ledger-XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
    (void)state;
    return file_remove_tree(dir, NULL);
}

static int open_ledger(size_t max_file_bytes, struct ledger **ret, struct err *err)
{
    const struct ledger_options o = {.dir = dir, .name = NAME, .kind = LEDGER_USAGE, .max_file_bytes = max_file_bytes};
    return ledger_open(&o, ret, err);
}

static struct str body_of(unsigned n, char text[64])
{
    snprintf(text, 64, "{\"id\":\"r%u\"%.*s}", n, (int)(n % 7), "       ");
    return str_of(text);
}

static void append(struct ledger *l, unsigned from, unsigned to)
{
    struct err err = ERR_INIT;
    char text[64];
    for (unsigned n = from; n <= to; n++) {
        uint64_t sequence = 0;
        ASSERT_OK(ledger_append(l, 1000 + n, 1, body_of(n, text), &sequence, &err));
        assert_int_equal(sequence, n);
    }
}

static void make_ledger(unsigned records, size_t max_file_bytes)
{
    struct err err = ERR_INIT;
    struct ledger *l;
    ASSERT_OK(open_ledger(max_file_bytes, &l, &err));
    append(l, 1, records);
    ledger_close(l);
}

struct seen {
    unsigned count, last, stop_at;
};

static bool see(void *arg, const struct ledger_record *rec)
{
    struct seen *s = arg;
    char text[64];
    s->count++;
    s->last = (unsigned)rec->sequence;
    assert_true(str_eq(rec->body, body_of(s->last, text)));
    assert_int_equal(rec->time_ms, 1000 + s->last);
    assert_int_equal(rec->version, 1);
    return s->last != s->stop_at;
}

static struct str slurp(unsigned number)
{
    struct err err = ERR_INIT;
    char path[LEDGER_PATH_MAX], *text;
    size_t len;
    ledger_path(dir, NAME, number, path);
    ASSERT_OK(file_read(path, 1 << 20, &text, &len, &err));
    return str_n(text, len);
}

static void put(unsigned number, struct str bytes)
{
    char path[LEDGER_PATH_MAX];
    ledger_path(dir, NAME, number, path);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(file_write_all(fd, bytes, NULL), 0);
    close(fd);
}

/* Offset of each record in a file; the last entry is its end. */
static unsigned offsets_of(struct str file, size_t *at, unsigned max)
{
    unsigned n = 0;
    size_t pos = LEDGER_FILE_HEAD_BYTES, used;
    for (; pos < file.len && n < max; pos += used, n++) {
        struct ledger_record rec;
        uint8_t hash[32];
        at[n] = pos;
        assert_int_equal(ledger_decode(str_skip(file, pos), &rec, &used, hash, NULL), 0);
        assert_true(used > 0);
    }
    at[n] = pos;
    return n;
}

/* ---- records ---- */

static void test_record_round_trip(void **state)
{
    (void)state;
    static char big[LEDGER_BODY_MAX];
    const struct ledger_record cases[] = {
        {.sequence = 1, .time_ms = 0, .version = 0, .body = STR("")},
        {.sequence = UINT64_MAX, .time_ms = -1, .version = UINT16_MAX, .prev_hash = {1, 2, 3, [31] = 255}, .body = STR("{}")},
        {.sequence = 7, .time_ms = INT64_MAX, .version = 1, .body = str_n(big, sizeof(big))},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        CLEANUP(sbuf_deinit) struct sbuf out = {0};
        uint8_t hash[32], again[32];
        struct ledger_record r;
        size_t used;
        struct err err = ERR_INIT;
        sbuf_init(&out, LEDGER_HEAD_BYTES + LEDGER_BODY_MAX);
        ledger_encode(&cases[i], &out, hash);
        assert_int_equal(out.len, LEDGER_HEAD_BYTES + cases[i].body.len);
        ASSERT_OK(ledger_decode(sbuf_str(&out), &r, &used, again, &err));
        assert_int_equal(used, out.len);
        assert_memory_equal(hash, again, 32);
        assert_true(r.sequence == cases[i].sequence && r.time_ms == cases[i].time_ms && r.version == cases[i].version);
        assert_memory_equal(r.prev_hash, cases[i].prev_hash, 32);
        assert_true(str_eq(r.body, cases[i].body));
        /* Each part of it is incomplete, and no error. */
        for (size_t len = 0; len < out.len; len += out.len > 4096 ? 997 : 1) {
            ASSERT_OK(ledger_decode(str_n(out.ptr, len), &r, &used, again, &err));
            assert_int_equal(used, 0);
        }
    }
}

static void test_checksum_is_castagnoli(void **state)
{
    (void)state;
    assert_int_equal(ledger_crc32c(STR("123456789")), 0xE3069283u);
    for (size_t n = 0; n <= 26; n++)
        assert_int_equal(ledger_crc32c(str_n("abcdefghijklmnopqrstuvwxyz", n)), ledger_crc32c_portable(str_n("abcdefghijklmnopqrstuvwxyz", n)));
    assert_int_equal(ledger_crc32c(str_n("\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 32)), 0x8A9136AAu); /* RFC 3720, B.4 */
}

static void test_bodies_are_capped(void **state)
{
    (void)state;
    static char big[LEDGER_BODY_MAX + 1];
    struct err err = ERR_INIT;
    struct ledger *l;
    ASSERT_OK(open_ledger(0, &l, &err));
    ASSERT_ERR(ledger_append(l, 1, 1, str_n(big, sizeof(big)), NULL, &err), ERR_TOO_LARGE);
    ASSERT_OK(ledger_append(l, 1, 1, str_n(big, sizeof(big) - 1), NULL, &err));
    assert_int_equal(ledger_last_sequence(l), 1);
    ledger_close(l);
}

/* ---- crashes ---- */

/* The file ends at any byte: whole records stay, the rest is cut off, and it goes on. */
static void test_torn_at_every_byte(void **state)
{
    (void)state;
    size_t at[8];
    make_ledger(4, 0);
    struct str file = slurp(1);
    assert_int_equal(offsets_of(file, at, 7), 4);
    for (size_t cut = 0; cut <= file.len; cut++) {
        struct err err = ERR_INIT;
        struct ledger *l;
        uint64_t records;
        unsigned whole = 0;
        while (whole < 4 && at[whole + 1] <= cut)
            whole++;
        put(1, str_n(file.ptr, cut));
        bool clean = cut >= LEDGER_FILE_HEAD_BYTES && cut == at[whole];
        if (cut > 0)
            ASSERT_ERR(ledger_verify(dir, NAME, &records, &err), clean ? 0 : ERR_CORRUPT);
        err = (struct err){0};
        ASSERT_OK(open_ledger(0, &l, &err));
        assert_int_equal(ledger_last_sequence(l), whole);
        append(l, whole + 1, 5);
        ledger_close(l);
        ASSERT_OK(ledger_verify(dir, NAME, &records, &err));
        assert_int_equal(records, 5);
    }
    mem_free((char *)(uintptr_t)file.ptr);
}

/* The size reached the disk and the bytes did not. */
static void test_blank_tail_is_torn(void **state)
{
    (void)state;
    static const char zeros[200];
    struct err err = ERR_INIT;
    struct ledger *l;
    char path[LEDGER_PATH_MAX];
    make_ledger(2, 0);
    ledger_path(dir, NAME, 1, path);
    int fd = open(path, O_WRONLY | O_APPEND);
    assert_int_equal(write(fd, zeros, sizeof(zeros)), sizeof(zeros));
    close(fd);
    ASSERT_OK(open_ledger(0, &l, &err));
    assert_int_equal(ledger_last_sequence(l), 2);
    append(l, 3, 3);
    ledger_close(l);
}

static void test_killed_writer_loses_nothing(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct ledger *l;
    uint64_t records;
    pid_t pid = fork();
    if (!pid) {
        char text[64];
        if (open_ledger(400, &l, NULL) < 0)
            _exit(1);
        for (unsigned n = 1; n <= 20; n++)
            if (ledger_append(l, 1000 + n, 1, body_of(n, text), NULL, NULL) < 0)
                _exit(1);
        kill(getpid(), SIGKILL);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status));
    ASSERT_OK(open_ledger(400, &l, &err));
    assert_int_equal(ledger_last_sequence(l), 20);
    ledger_close(l);
    ASSERT_OK(ledger_verify(dir, NAME, &records, &err));
    assert_int_equal(records, 20);
}

/* ---- tampering ---- */

static void check_flip(struct str file, size_t i, uint8_t mask, const size_t *at, unsigned records)
{
    struct err err = ERR_INIT;
    struct ledger *l;
    uint64_t n;
    char want[64];
    unsigned hit = 0;
    char *copy = xstrndup(file.ptr, file.len);
    copy[i] = (char)((uint8_t)copy[i] ^ mask);
    put(1, str_n(copy, file.len));
    mem_free(copy);
    int rc = ledger_verify(dir, NAME, &n, &err);
    if (rc == 0)
        fail_msg("byte %zu changed by %02x is not noticed", i, mask);
    if (i < LEDGER_FILE_HEAD_BYTES) {
        assert_non_null(strstr(err.msg, NAME ".000001"));
        return;
    }
    while (at[hit + 1] <= i)
        hit++;
    snprintf(want, sizeof(want), NAME ".000001, offset %zu, after sequence %u: ", at[hit], hit);
    if (!strstr(err.msg, want))
        fail_msg("byte %zu changed by %02x: \"%s\" does not name offset %zu, sequence %u", i, mask, err.msg, at[hit], hit);
    err = (struct err){0};
    rc = open_ledger(0, &l, &err);
    if (hit + 1 < records) /* the last one may look like one that was being written */
        ASSERT_ERR(rc, ERR_CORRUPT);
    if (rc == 0) {
        assert_int_equal(ledger_last_sequence(l), hit);
        ledger_close(l);
    }
}

static void test_any_changed_byte_is_found_and_named(void **state)
{
    (void)state;
    size_t at[8];
    make_ledger(5, 0);
    struct str file = slurp(1);
    unsigned records = offsets_of(file, at, 7);
    for (size_t i = 0; i < file.len; i++) {
        check_flip(file, i, 0x01, at, records);
        check_flip(file, i, 0x80, at, records);
    }
    mem_free((char *)(uintptr_t)file.ptr);
}

/* A record that somebody wrote anew, checksum and all, does not fit the next one's hash. */
static void test_rewritten_record_breaks_the_chain(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    size_t at[8], used;
    struct ledger_record rec;
    uint8_t hash[32];
    uint64_t records;
    CLEANUP(sbuf_deinit) struct sbuf out = {0};
    make_ledger(4, 0);
    struct str file = slurp(1);
    (void)offsets_of(file, at, 7);
    ASSERT_OK(ledger_decode(str_skip(file, at[1]), &rec, &used, hash, &err));
    rec.time_ms++;
    sbuf_init(&out, 1024);
    ledger_encode(&rec, &out, hash);
    memcpy((char *)(uintptr_t)file.ptr + at[1], out.ptr, out.len);
    put(1, file);
    ASSERT_ERR(ledger_verify(dir, NAME, &records, &err), ERR_CORRUPT);
    assert_non_null(strstr(err.msg, "sequence 3: the chain is broken"));
    mem_free((char *)(uintptr_t)file.ptr);
}

static void test_removed_record_is_found(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    size_t at[8];
    uint64_t records;
    make_ledger(4, 0);
    struct str file = slurp(1);
    (void)offsets_of(file, at, 7);
    memmove((char *)(uintptr_t)file.ptr + at[1], file.ptr + at[2], file.len - at[2]);
    put(1, str_n(file.ptr, file.len - (at[2] - at[1])));
    ASSERT_ERR(ledger_verify(dir, NAME, &records, &err), ERR_CORRUPT);
    assert_non_null(strstr(err.msg, "sequence 3 where 2 was expected"));
    mem_free((char *)(uintptr_t)file.ptr);
}

/* ---- several files ---- */

static void test_chain_goes_over_files(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    unsigned first, last;
    uint64_t records;
    struct ledger *l;
    make_ledger(30, 400);
    ASSERT_OK(ledger_find_files(dir, NAME, &first, &last, &err));
    assert_int_equal(first, 1);
    assert_true(last > 3);
    ASSERT_OK(ledger_verify(dir, NAME, &records, &err));
    assert_int_equal(records, 30);
    for (unsigned n = 1; n <= last; n++) {
        struct str file = slurp(n);
        assert_true(file.len <= 400);
        mem_free((char *)(uintptr_t)file.ptr);
    }
    ASSERT_OK(open_ledger(400, &l, &err));
    append(l, 31, 35);
    ledger_close(l);
    ASSERT_OK(ledger_verify(dir, NAME, &records, &err));
    assert_int_equal(records, 35);
}

static void expect_corrupt(const char *want)
{
    struct err err = ERR_INIT;
    struct ledger *l;
    uint64_t records;
    ASSERT_ERR(ledger_verify(dir, NAME, &records, &err), ERR_CORRUPT);
    if (!strstr(err.msg, want))
        fail_msg("\"%s\" lacks \"%s\"", err.msg, want);
    ASSERT_ERR(open_ledger(0, &l, &err), ERR_CORRUPT);
}

static void test_damage_between_files_is_found(void **state)
{
    (void)state;
    char path[LEDGER_PATH_MAX], other[LEDGER_PATH_MAX];
    struct err err = ERR_INIT;
    struct ledger *l;
    uint64_t records;
    make_ledger(30, 400);
    struct str one = slurp(1), two = slurp(2);
    put(1, str_n(one.ptr, one.len - 1)); /* the end of a file that is not the last */
    expect_corrupt("000001, offset");
    put(1, one);
    put(2, one); /* one file in place of another */
    expect_corrupt("000002");
    put(2, two);
    ((char *)(uintptr_t)two.ptr)[20] ^= 1; /* another ledger's */
    put(2, two);
    expect_corrupt("000002");
    ((char *)(uintptr_t)two.ptr)[20] ^= 1;
    put(2, two);
    ASSERT_OK(ledger_verify(dir, NAME, &records, &err));
    ledger_path(dir, NAME, 2, path);
    ledger_path(dir, NAME, 99, other);
    assert_int_equal(unlink(path), 0);
    assert_true(ledger_verify(dir, NAME, &records, &err) < 0);
    assert_non_null(strstr(err.msg, "000002"));
    assert_true(open_ledger(0, &l, &err) < 0);
    mem_free((char *)(uintptr_t)one.ptr);
    mem_free((char *)(uintptr_t)two.ptr);
}

/* ---- what was verified before ---- */

static unsigned open_and_close(unsigned *ret_last)
{
    struct err err = ERR_INIT;
    struct ledger *l;
    ASSERT_OK(open_ledger(400, &l, &err));
    unsigned from = ledger_verified_from(l);
    *ret_last = (unsigned)ledger_last_sequence(l);
    ledger_close(l);
    return from;
}

/* A file system's times tell nothing of what has just been changed. */
static void wait_for_checkpoint(void)
{
    unsigned last;
    for (int i = 0; i < 10000 && open_and_close(&last) == 1; i++)
        usleep(10000);
}

static void put_checkpoint(struct str bytes)
{
    struct err err = ERR_INIT;
    char path[LEDGER_PATH_MAX];
    snprintf(path, sizeof(path), "%s/%s.checkpoint", dir, NAME);
    ASSERT_OK(file_write(path, bytes, 0600, &err));
}

static struct str slurp_checkpoint(void)
{
    struct err err = ERR_INIT;
    char path[LEDGER_PATH_MAX], *text;
    size_t len;
    snprintf(path, sizeof(path), "%s/%s.checkpoint", dir, NAME);
    ASSERT_OK(file_read(path, 1 << 20, &text, &len, &err));
    return str_n(text, len);
}

static void test_what_was_verified_is_not_read_again(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct ledger *l;
    unsigned first, last, end;
    uint64_t records;
    make_ledger(30, 400);
    ASSERT_OK(ledger_find_files(dir, NAME, &first, &last, &err));
    wait_for_checkpoint();
    assert_int_equal(open_and_close(&end), last);
    assert_int_equal(end, 30);
    ASSERT_OK(open_ledger(400, &l, &err)); /* and goes on */
    append(l, 31, 90);
    ledger_close(l);
    assert_true(open_and_close(&end) >= 1);
    assert_int_equal(end, 90);
    ASSERT_OK(ledger_verify(dir, NAME, &records, &err));
    assert_int_equal(records, 90);
}

static void test_what_has_changed_since_is_read_again(void **state)
{
    (void)state;
    unsigned last;
    make_ledger(30, 400);
    wait_for_checkpoint();
    struct str one = slurp(1), changed = slurp(1);
    ((char *)(uintptr_t)changed.ptr)[changed.len / 2] ^= 1;
    put(1, changed);
    expect_corrupt("000001, offset");
    put(1, one);
    assert_int_equal(open_and_close(&last), 1);
    assert_int_equal(last, 30);
    mem_free((char *)(uintptr_t)one.ptr);
    mem_free((char *)(uintptr_t)changed.ptr);
}

static void test_a_checkpoint_that_is_wrong_changes_nothing(void **state)
{
    (void)state;
    unsigned last;
    make_ledger(30, 400);
    wait_for_checkpoint();
    struct str good = slurp_checkpoint();
    char *bytes = xstrndup(good.ptr, good.len);
    for (size_t i = 0; i < good.len; i += 3) { /* a byte of it */
        bytes[i] = (char)(bytes[i] ^ 1);
        put_checkpoint(str_n(bytes, good.len));
        assert_int_equal(open_and_close(&last), 1);
        assert_int_equal(last, 30);
        bytes[i] = (char)(bytes[i] ^ 1);
    }
    put_checkpoint(str_n(good.ptr, good.len / 2));
    assert_int_equal(open_and_close(&last), 1);
    mem_free(bytes);
    mem_free((char *)(uintptr_t)good.ptr);
}

/* One that was made for another ledger, or by somebody: it is whole, and says what is not so. Nothing is cut off for its sake. */
static void test_a_checkpoint_that_lies_changes_nothing(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    unsigned first, last, end;
    struct ledger_checkpoint c = {.end.sequence = 7};
    uint64_t records;
    make_ledger(30, 400);
    wait_for_checkpoint();
    ASSERT_OK(ledger_find_files(dir, NAME, &first, &last, &err));
    struct str file = slurp(1);
    memcpy(c.id, file.ptr + 16, sizeof(c.id));
    for (c.number = 1; c.number < last; c.number++) {
        ledger_checkpoint_save(dir, NAME, 1, &c);
        assert_int_equal(open_and_close(&end), 1);
        assert_int_equal(end, 30);
    }
    ASSERT_OK(ledger_verify(dir, NAME, &records, &err));
    assert_int_equal(records, 30);
    mem_free((char *)(uintptr_t)file.ptr);
}

static void test_who_reads_late_records_reads_late_files(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct ledger_checkpoint c = {.end.sequence = 3};
    unsigned first, last;
    make_ledger(30, 400);
    wait_for_checkpoint();
    ASSERT_OK(ledger_find_files(dir, NAME, &first, &last, &err));
    for (uint64_t after = 0; after <= 30; after++) {
        struct ledger_reader *r;
        struct seen seen = {0};
        ASSERT_OK(ledger_reader_open(dir, NAME, &r, &err));
        ASSERT_OK(ledger_read(r, after, see, &seen, &err));
        assert_int_equal(seen.count, 30 - after);
        if (after < 20 || after == 30)
            assert_int_equal(ledger_reader_began(r), after == 30 ? last : 1);
        ledger_reader_close(r);
    }
    struct str file = slurp(1);
    memcpy(c.id, file.ptr + 16, sizeof(c.id));
    for (c.number = 1; c.number < last; c.number++) { /* one that lies */
        struct ledger_reader *r;
        struct seen seen = {0};
        ledger_checkpoint_save(dir, NAME, 1, &c);
        ASSERT_OK(ledger_reader_open(dir, NAME, &r, &err));
        ASSERT_OK(ledger_read(r, 20, see, &seen, &err));
        assert_int_equal(seen.count, 10);
        assert_int_equal(ledger_reader_began(r), 1);
        ledger_reader_close(r);
    }
    mem_free((char *)(uintptr_t)file.ptr);
}

/* Killed while a file was made: it holds nothing, and is made anew. */
static void test_a_file_that_was_being_made(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    unsigned first, last;
    make_ledger(30, 400);
    ASSERT_OK(ledger_find_files(dir, NAME, &first, &last, &err));
    for (size_t len = 0; len < LEDGER_FILE_HEAD_BYTES; len++) {
        struct ledger *l;
        put(last + 1, str_n("SEKILEDG\1\0\0\0\2\0\0\0aaaaaaaaaaaaaaaa", len));
        ASSERT_OK(open_ledger(400, &l, &err));
        assert_int_equal(ledger_last_sequence(l), 30);
        ledger_close(l);
    }
}

/* ---- one writer, many readers ---- */

static void test_one_writer(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct ledger *l, *other;
    ASSERT_OK(open_ledger(0, &l, &err));
    ASSERT_ERR(open_ledger(0, &other, &err), ERR_BUSY);
    ledger_close(l);
    ASSERT_OK(open_ledger(0, &l, &err));
    ledger_close(l);
}

static void test_another_kind_is_refused(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct ledger *l;
    const struct ledger_options o = {.dir = dir, .name = NAME, .kind = LEDGER_AUDIT};
    make_ledger(1, 0);
    ASSERT_ERR(ledger_open(&o, &l, &err), ERR_INVALID);
    assert_non_null(strstr(err.msg, "another kind"));
}

static void test_reader_follows(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct ledger *l;
    struct ledger_reader *r;
    struct seen s = {0};
    ASSERT_OK(ledger_reader_open(dir, NAME, &r, &err));
    ASSERT_OK(ledger_read(r, 0, see, &s, &err)); /* nothing there yet */
    assert_int_equal(s.count, 0);
    ASSERT_OK(open_ledger(400, &l, &err));
    for (unsigned n = 1; n <= 30; n++) {
        append(l, n, n);
        ASSERT_OK(ledger_read(r, s.last, see, &s, &err));
        assert_int_equal(s.count, n);
    }
    s = (struct seen){.stop_at = 12};
    ASSERT_OK(ledger_read(r, 10, see, &s, &err)); /* back, and only two */
    assert_int_equal(s.count, 2);
    s.stop_at = 0;
    ASSERT_OK(ledger_read(r, 12, see, &s, &err));
    assert_int_equal(s.last, 30);
    assert_int_equal(s.count, 20);
    ledger_reader_close(r);
    ledger_close(l);
}

/* The end of what was read, whatever was written since. */
static void test_reader_tells_its_end(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    CLEANUP(ledger_extent_deinit) struct ledger_extent x = {0};
    struct ledger *l;
    struct ledger_reader *r;
    struct seen s = {0};
    uint64_t end;
    uint8_t hash[32];
    ASSERT_OK(ledger_reader_open(dir, NAME, &r, &err));
    ledger_reader_end(r, &end, hash);
    assert_int_equal(end, 0);
    ASSERT_OK(open_ledger(400, &l, &err));
    append(l, 1, 30);
    ASSERT_OK(ledger_extent_find(dir, NAME, &x, &err));
    ASSERT_OK(ledger_read(r, 0, see, &s, &err));
    append(l, 31, 40);
    ledger_reader_end(r, &end, hash);
    assert_int_equal(end, 30);
    assert_memory_equal(hash, x.hash, sizeof(hash));
    ledger_reader_close(r);
    ledger_close(l);
}

/* A part of a record is one that is being written: nothing is said of it, and it is read when it is whole. */
static void test_reader_waits_for_the_whole_record(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct ledger_reader *r;
    struct seen s = {0};
    make_ledger(3, 0);
    struct str file = slurp(1);
    ASSERT_OK(ledger_reader_open(dir, NAME, &r, &err));
    for (size_t len = 0; len <= file.len; len++) {
        put(1, str_n(file.ptr, len));
        if (len)
            ASSERT_OK(ledger_read(r, s.last, see, &s, &err));
    }
    assert_int_equal(s.count, 3);
    put(1, str_n(file.ptr, file.len - 1)); /* and it does not shrink */
    ASSERT_ERR(ledger_read(r, s.last, see, &s, &err), ERR_CORRUPT);
    ledger_reader_close(r);
    mem_free((char *)(uintptr_t)file.ptr);
}

static void test_a_ledger_has_an_id(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct ledger_reader *r;
    char a[LEDGER_ID_TEXT], b[LEDGER_ID_TEXT];
    ASSERT_OK(ledger_reader_open(dir, NAME, &r, &err));
    ASSERT_ERR(ledger_reader_id(r, a, &err), ERR_NOT_FOUND);
    make_ledger(30, 400);
    ASSERT_OK(ledger_reader_id(r, a, &err));
    ASSERT_OK(file_remove_tree(dir, &err));
    make_ledger(1, 0);
    ASSERT_OK(ledger_reader_id(r, b, &err));
    assert_string_not_equal(a, b);
    ledger_reader_close(r);
}

/* ---- the disk is full ---- */

/* A limit on the size of files stands for the disk: a write is taken in part, then refused. */
static void limit_files(rlim_t bytes)
{
    struct rlimit r;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &r), 0);
    r.rlim_cur = bytes;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &r), 0);
}

static void test_disk_full(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct ledger *l;
    uint64_t records;
    char text[64];
    struct rlimit before;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    signal(SIGXFSZ, SIG_IGN);
    ASSERT_OK(open_ledger(0, &l, &err));
    append(l, 1, 3);
    struct str file = slurp(1);
    for (size_t room = 0; room < 60; room += 7) {
        limit_files(file.len + room);
        int rc = ledger_append(l, 1004, 1, body_of(4, text), NULL, &err);
        limit_files(before.rlim_cur);
        assert_true(rc < 0);
        assert_int_equal(ledger_last_sequence(l), 3);
        ASSERT_OK(ledger_verify(dir, NAME, &records, &err)); /* no half record stays */
        assert_int_equal(records, 3);
    }
    append(l, 4, 6); /* and when there is room again it goes on */
    ledger_close(l);
    ASSERT_OK(ledger_verify(dir, NAME, &records, &err));
    assert_int_equal(records, 6);
    mem_free((char *)(uintptr_t)file.ptr);
}

struct followed {
    uint64_t last;
    char text[64];
};
static bool on_followed(void *arg, const struct ledger_record *rec)
{
    struct followed *f = arg;
    assert_int_equal(rec->sequence, ++f->last);
    struct str want = body_of((unsigned)rec->sequence, f->text);
    assert_true(str_eq(rec->body, want));
    return true;
}

/* In one chain with those that come alone. What the disk takes whole before it is full stays, as a reader may have it; no part of a record does. */
static void test_several_at_once(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct ledger *l;
    struct ledger_reader *r;
    struct followed f = {0};
    uint64_t records;
    char text[LEDGER_BATCH_MAX][64];
    struct str bodies[LEDGER_BATCH_MAX];
    struct rlimit before;
    size_t at = 0, done, partly = 0;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    signal(SIGXFSZ, SIG_IGN);
    for (unsigned i = 0; i < LEDGER_BATCH_MAX; i++)
        bodies[i] = body_of(i + 2, text[i]);
    ASSERT_OK(open_ledger(0, &l, &err));
    ASSERT_OK(ledger_reader_open(dir, NAME, &r, &err));
    append(l, 1, 1);
    for (size_t room = 0; room < 400; room += 39) {
        struct str file = slurp(1);
        limit_files(file.len + room);
        int rc = ledger_append_many(l, 1002, 1, bodies + at, LEDGER_BATCH_MAX - at, &done, &err);
        limit_files(before.rlim_cur);
        mem_free((char *)(uintptr_t)file.ptr);
        assert_true(rc < 0);
        at += done;
        partly += done > 0;
        assert_int_equal(ledger_last_sequence(l), 1 + at);
        ASSERT_OK(ledger_verify(dir, NAME, &records, &err));
        assert_int_equal(records, 1 + at);
        ASSERT_OK(ledger_read(r, f.last, on_followed, &f, &err));
        assert_int_equal(f.last, 1 + at);
    }
    assert_true(partly > 3);
    ASSERT_OK(ledger_append_many(l, 1002, 1, bodies + at, LEDGER_BATCH_MAX - at, &done, &err));
    assert_int_equal(done, LEDGER_BATCH_MAX - at);
    append(l, LEDGER_BATCH_MAX + 2, LEDGER_BATCH_MAX + 2);
    ledger_close(l);
    ASSERT_OK(ledger_verify(dir, NAME, &records, &err));
    assert_int_equal(records, LEDGER_BATCH_MAX + 2);
    ASSERT_OK(ledger_read(r, f.last, on_followed, &f, &err));
    assert_int_equal(f.last, LEDGER_BATCH_MAX + 2);
    ledger_reader_close(r);
}

static void test_disk_full_when_a_file_is_rolled(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct ledger *l;
    uint64_t records;
    char text[64];
    struct rlimit before;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    signal(SIGXFSZ, SIG_IGN);
    ASSERT_OK(open_ledger(150, &l, &err));
    append(l, 1, 1);
    limit_files(10); /* not even the new file's head */
    int rc = ledger_append(l, 1002, 1, body_of(2, text), NULL, &err);
    limit_files(before.rlim_cur);
    assert_true(rc < 0);
    append(l, 2, 4);
    ledger_close(l);
    ASSERT_OK(ledger_verify(dir, NAME, &records, &err));
    assert_int_equal(records, 4);
}

/* ---- bodies of usage ---- */

static void test_usage_round_trip(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct arena *a = arena_new(1 << 20);
    CLEANUP(sbuf_deinit) struct sbuf text = {0};
    const struct usage u = {.id = STR("req-1"), .project = STR("demo"), .tenant = STR("t"), .key = STR("k\"\\"), .endpoint = STR("e"), .model = STR("日本語"), .replica = STR("e-0"),
                            .route = STR("chat.completions"), .outcome = STR("ok"), .stream = true, .exact = true, .status = 200, .prompt_tokens = 12, .cached_tokens = 3,
                            .completion_tokens = INT64_C(1) << 39, .start_ms = 1790000000000, .ttft_ms = -1, .duration_ms = 17};
    struct usage got;
    sbuf_init(&text, LEDGER_BODY_MAX);
    usage_encode(&u, &text);
    ASSERT_OK(usage_decode(sbuf_str(&text), a, &got, &err));
    assert_true(str_eq(got.id, u.id) && str_eq(got.project, u.project) && str_eq(got.tenant, u.tenant) && str_eq(got.key, u.key) && str_eq(got.endpoint, u.endpoint) &&
                str_eq(got.model, u.model) && str_eq(got.replica, u.replica) && str_eq(got.route, u.route) && str_eq(got.outcome, u.outcome));
    assert_true(got.stream && got.exact && got.status == 200 && got.prompt_tokens == 12 && got.cached_tokens == 3 && got.completion_tokens == INT64_C(1) << 39 &&
                got.start_ms == u.start_ms && got.ttft_ms == -1 && got.duration_ms == 17);
    arena_free(a);
}

/* Engines and columns come back, and the equation holds of them; of older records nothing is asked. */
static void test_usage_adds_up(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct arena *a = arena_new(1 << 20);
    CLEANUP(sbuf_deinit) struct sbuf text = {0};
    const struct usage_work work[] = {{.replica = STR("p/e-0"), .start_ms = 1000, .end_ms = 1500, .read = 10, .written = 3},
                                      {.replica = STR("p/e-1"), .start_ms = 1400, .end_ms = 1600, .read = 10, .written = 1, .loser = true, .exact = true},
                                      {.replica = STR("p/e-2"), .start_ms = 1500, .end_ms = 1900, .read = 13, .cached = 4, .written = 5, .exact = true}};
    struct usage u = {.id = STR("req-1"), .project = STR("demo"), .prompt_tokens = 10, .completion_tokens = 8, .hedge_loser_tokens = 11, .replayed_tokens = 13, .work = work,
                      .work_count = ARRAY_LEN(work), .has_work = true};
    struct usage got;
    sbuf_init(&text, LEDGER_BODY_MAX);
    usage_encode(&u, &text);
    ASSERT_OK(usage_decode(sbuf_str(&text), a, &got, &err));
    assert_true(got.has_work && got.work_count == 3 && usage_made(&got) == 42 && usage_inexact(&got) == 1 && usage_adds_up(&got));
    assert_true(got.hedge_loser_tokens == 11 && got.replayed_tokens == 13 && got.unseen_tokens == 0);
    assert_true(str_eqc(got.work[1].replica, "p/e-1") && got.work[1].loser && got.work[1].start_ms == 1400 && got.work[2].cached == 4 && got.work[2].end_ms == 1900 && got.work[2].exact);
    got.unseen_tokens = 1;
    assert_false(usage_adds_up(&got));
    ASSERT_OK(usage_decode(STR("{\"id\":\"a\",\"project\":\"p\",\"prompt_tokens\":7,\"completion_tokens\":1,\"exact\":true}"), a, &got, &err));
    assert_true(!got.has_work && usage_adds_up(&got) && usage_inexact(&got) == 0 && !got.tokenized);
    struct sbuf told;
    sbuf_init(&told, 4096);
    usage_encode(&(struct usage){.id = STR("a"), .project = STR("p"), .tokenized = true}, &told);
    ASSERT_OK(usage_decode(sbuf_str(&told), a, &got, &err));
    assert_true(got.tokenized && !got.exact);
    sbuf_deinit(&told);
    arena_free(a);
}

static void test_bad_usage_is_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "", "{", "[]", "null", "{}", "{\"id\":\"a\"}", "{\"project\":\"p\"}", "{\"id\":1,\"project\":\"p\"}", "{\"id\":\"a\",\"project\":\"p\",\"prompt_tokens\":-1}",
        "{\"id\":\"a\",\"project\":\"p\",\"completion_tokens\":-1}", "{\"id\":\"a\",\"project\":\"p\",\"cached_tokens\":-1}",
        "{\"id\":\"a\",\"project\":\"p\",\"prompt_tokens\":9223372036854775807}", "{\"id\":\"a\",\"project\":\"p\",\"cached_tokens\":1000000000001}",
        "{\"id\":\"a\",\"project\":\"p\",\"unseen_tokens\":-1}", "{\"id\":\"a\",\"project\":\"p\",\"hedge_loser_tokens\":-1}", "{\"id\":\"a\",\"project\":\"p\",\"engines\":[{\"read\":-1}]}",
        "{\"id\":\"a\",\"project\":\"p\",\"engines\":[{},{},{},{},{},{},{},{},{}]}",
    };
    struct arena *a = arena_new(1 << 20);
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct err err = ERR_INIT;
        struct usage u;
        if (usage_decode(str_of(bad[i]), a, &u, &err) == 0)
            fail_msg("accepted: %s", bad[i]);
        assert_true(err.msg[0] != 0);
    }
    arena_free(a);
}

#define IN_DIR(test) cmocka_unit_test_setup_teardown(test, make_dir, remove_dir)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_record_round_trip),
        cmocka_unit_test(test_checksum_is_castagnoli),
        IN_DIR(test_bodies_are_capped),
        IN_DIR(test_torn_at_every_byte),
        IN_DIR(test_blank_tail_is_torn),
        IN_DIR(test_killed_writer_loses_nothing),
        IN_DIR(test_any_changed_byte_is_found_and_named),
        IN_DIR(test_rewritten_record_breaks_the_chain),
        IN_DIR(test_removed_record_is_found),
        IN_DIR(test_chain_goes_over_files),
        IN_DIR(test_damage_between_files_is_found),
        IN_DIR(test_what_was_verified_is_not_read_again),
        IN_DIR(test_what_has_changed_since_is_read_again),
        IN_DIR(test_a_checkpoint_that_is_wrong_changes_nothing),
        IN_DIR(test_a_checkpoint_that_lies_changes_nothing),
        IN_DIR(test_who_reads_late_records_reads_late_files),
        IN_DIR(test_a_file_that_was_being_made),
        IN_DIR(test_one_writer),
        IN_DIR(test_another_kind_is_refused),
        IN_DIR(test_reader_follows),
        IN_DIR(test_reader_tells_its_end),
        IN_DIR(test_reader_waits_for_the_whole_record),
        IN_DIR(test_a_ledger_has_an_id),
        IN_DIR(test_disk_full),
        IN_DIR(test_several_at_once),
        IN_DIR(test_disk_full_when_a_file_is_rolled),
        cmocka_unit_test(test_usage_round_trip),
        cmocka_unit_test(test_usage_adds_up),
        cmocka_unit_test(test_bad_usage_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
