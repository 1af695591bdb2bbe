/* The log of decisions: whole lines, bounded files, nothing waits for it. */
#include "unit.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "gateway/decisions.h"

static char dir[] = "/tmp/seki-decisions-XXXXXX";

static size_t lines_of(const char *path, size_t *ret_size)
{
    struct err err = ERR_INIT;
    char *text = NULL;
    size_t len = 0, n = 0;
    if (file_read(path, 1 << 24, &text, &len, &err) < 0)
        return 0;
    *ret_size = len;
    for (size_t i = 0; i < len; i++)
        n += text[i] == '\n';
    assert_true(!len || text[len - 1] == '\n');
    mem_free(text);
    return n;
}

/* More waits than a file may hold: whole lines go to the file, older ones are put aside, and none of the files is too large. */
static void lines_stay_whole_and_files_small(void **state UNUSED)
{
    struct err err = ERR_INIT;
    struct decision_log *l = NULL;
    char file[256], older[256], line[1000];
    size_t size = 0, older_size = 0;
    snprintf(file, sizeof(file), "%s/a.jsonl", dir);
    snprintf(older, sizeof(older), "%s/a.jsonl.1", dir);
    memset(line, 'x', sizeof(line));
    assert_int_equal(decision_log_start(&(struct decision_log_options){.file = file, .max_bytes = 65536}, &l, &err), 0);
    for (int i = 0; i < 300; i++)
        decision_log_add(l, str_n(line, sizeof(line)));
    decision_log_stop(l);
    size_t n = lines_of(file, &size), before = lines_of(older, &older_size);
    assert_true(size <= 65536 && older_size <= 65536 && size % 1001 == 0);
    assert_int_equal(before, 65);
    assert_int_equal(n, 300 % 65);
    struct stat st;
    assert_true(stat(file, &st) == 0 && (st.st_mode & 0777) == 0600);
}

/* A directory that is not there: dropped, and nobody waits. */
static void a_file_that_cannot_be_written(void **state UNUSED)
{
    struct err err = ERR_INIT;
    struct decision_log *l = NULL;
    assert_int_equal(decision_log_start(&(struct decision_log_options){.file = "/nowhere/at/all", .max_bytes = 65536}, &l, &err), 0);
    decision_log_add(l, STR("{}"));
    decision_log_stop(l);
}

/* More than the queue holds. */
static void what_finds_no_room_is_dropped(void **state UNUSED)
{
    struct err err = ERR_INIT;
    struct decision_log *l = NULL;
    char file[256], *line = xcalloc(1, 1 << 20);
    size_t size = 0;
    memset(line, 'y', 1 << 20);
    snprintf(file, sizeof(file), "%s/b.jsonl", dir);
    assert_int_equal(decision_log_start(&(struct decision_log_options){.file = file, .max_bytes = 1 << 24}, &l, &err), 0);
    for (int i = 0; i < 64; i++)
        decision_log_add(l, str_n(line, 1 << 20));
    decision_log_stop(l);
    assert_true(lines_of(file, &size) < 64);
    mem_free(line);
}

/* What is not logged costs nothing, and needs nothing. */
static void none_is_fine(void **state UNUSED)
{
    struct decision *d = decision_begin(NULL, 1000000, NULL, 0);
    assert_true(!d && !decision_report(d));
    decision_sent(d, NULL, 0, "first", "load");
    decision_refused(d, "x");
    decision_end(d, NULL, NULL);
    decision_log_stop(NULL);
}

static int setup(void **state UNUSED)
{
    decision_log_init();
    return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state UNUSED)
{
    struct err err = ERR_INIT;
    return file_remove_tree(dir, &err);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lines_stay_whole_and_files_small),
        cmocka_unit_test(a_file_that_cannot_be_written),
        cmocka_unit_test(what_finds_no_room_is_dropped),
        cmocka_unit_test(none_is_fine),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
