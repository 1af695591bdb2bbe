/* The stream inside a backup, when somebody who has its key writes what no backup has: nothing of it reaches a disk outside the directory. */
#include "unit.h"

#include "backup/archive.h"

struct bytes {
    char all[4096];
    size_t len, at;
    int files;
};

static void number(struct bytes *b, uint64_t n, int size)
{
    for (int i = 0; i < size; i++)
        b->all[b->len++] = (char)(n >> (8 * i));
}

static void head(struct bytes *b)
{
    *b = (struct bytes){.len = 8};
    memcpy(b->all, "SEKIBACK", 8);
    number(b, ARCHIVE_FORMAT, 4);
}

static void file(struct bytes *b, struct str path, uint64_t mode)
{
    b->all[b->len++] = 'F';
    b->all[b->len++] = 0;
    number(b, path.len, 2);
    number(b, mode, 4);
    number(b, 1, 8);
    memcpy(b->all + b->len, path.ptr, path.len);
    b->len += path.len;
    b->all[b->len++] = 'x';
}

static int take(void *ctx, void *buf, size_t size, size_t *ret_len, struct err *err UNUSED)
{
    struct bytes *b = ctx;
    *ret_len = MIN(size, b->len - b->at);
    memcpy(buf, b->all + b->at, *ret_len);
    b->at += *ret_len;
    return 0;
}

static int begin(void *ctx, const struct archive_entry *entry UNUSED, struct err *err UNUSED)
{
    ((struct bytes *)ctx)->files++;
    return 0;
}

static int read_it(struct bytes *b, struct err *err)
{
    struct archive_source source = {take, b};
    struct archive_taker taker = {.ctx = b, .begin = begin};
    JSON_AUTO manifest = NULL;
    return archive_read_plain(&source, &taker, &manifest, err);
}

static void paths_that_lead_elsewhere(void **state UNUSED)
{
    static const struct str bad[] = {STR("../x"), STR("/etc/x"), STR("a/../../x"), STR("a/.."), STR("./a"), STR("a//b"), STR("a/"), STR(".."), STR("."), STR("/"), STR("a\0b"), STR("a\xff"), STR("")};
    static const struct str good[] = {STR("seki.db"), STR("pki/ca.key"), STR("..a/b.."), STR("a/...")};
    struct err err = ERR_INIT;
    struct bytes b;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        assert_false(archive_path_valid(bad[i]));
        head(&b);
        file(&b, bad[i], 0600);
        err = (struct err){0};
        assert_int_equal(read_it(&b, &err), ERR_CORRUPT);
        assert_int_equal(b.files, 0);
    }
    for (size_t i = 0; i < ARRAY_LEN(good); i++)
        assert_true(archive_path_valid(good[i]));
}

static void no_more_than_permissions_and_nothing_twice(void **state UNUSED)
{
    struct err err = ERR_INIT;
    struct bytes b;
    for (int i = 0; i < 2; i++) {
        head(&b);
        file(&b, STR("a"), i ? 0600 : 04755);
        file(&b, STR("a"), 0600);
        err = (struct err){0};
        assert_int_equal(read_it(&b, &err), ERR_CORRUPT);
        assert_int_equal(b.files, i);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(paths_that_lead_elsewhere),
        cmocka_unit_test(no_more_than_permissions_and_nothing_twice),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
