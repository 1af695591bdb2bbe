/* Logs and audit logs of clusters: whole lines, from file to file, also when one is turned over or removed meanwhile. */
#include "unit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "kaas/tell.h"

static char dir[64];
static json_t *cluster;

static int set_up(void **state UNUSED)
{
    char path[128];
    snprintf(dir, sizeof(dir), "/tmp/seki-tell-XXXXXX");
    if (!mkdtemp(dir))
        return -1;
    snprintf(path, sizeof(path), "%s/clusters/0123456789abcdef/audit", dir);
    cluster = json_pack("{s:{s:s, s:s, s:s}}", "metadata", "namespace", "demo", "name", "one", "uid", "0123456789abcdef");
    return file_mkdirs(path, 0700, NULL);
}

static int tear_down(void **state UNUSED)
{
    json_decref(cluster);
    return file_remove_tree(dir, NULL);
}

static void put(const char *name, const char *text)
{
    char path[256];
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    FILE *f = fopen(path, "w"); /* in its place: the same inode */
    assert_non_null(f);
    fputs(text, f);
    assert_int_equal(fclose(f), 0);
}

/* What comes behind `next`, which is moved on. */
static void expect(const char *part, const char *component, uint64_t tail, char next[TELL_NEXT_MAX], const char *text)
{
    CLEANUP(sbuf_deinit) struct sbuf got = {0};
    struct err err = ERR_INIT;
    char after[TELL_NEXT_MAX];
    snprintf(after, sizeof(after), "%s", next);
    sbuf_init(&got, 256 * 1024);
    ASSERT_OK(kaas_tell(&(struct tell_ask){.data_dir = dir, .log_dir = dir, .cluster = cluster, .part = part, .component = component, .after = after, .tail = tail}, &got, next, &err));
    assert_string_equal(got.ptr ? got.ptr : "", text);
}

static void test_a_log_is_followed_in_whole_lines(void **state UNUSED)
{
    char next[TELL_NEXT_MAX] = "", again[TELL_NEXT_MAX] = "";
    static const char log[] = "kc-demo-one-01234567-apiserver.log";
    expect("log", "apiserver", 0, next, ""); /* there is none yet */
    put(log, "one\ntwo\nthr");
    expect("log", "apiserver", 0, next, "one\ntwo\n");
    expect("log", "apiserver", 0, next, "");
    put(log, "one\ntwo\nthree\n");
    expect("log", "apiserver", 0, next, "three\n");
    expect("log", "apiserver", 2, again, "two\nthree\n");
    put(log, "new\n"); /* turned over: it was cut off */
    expect("log", "apiserver", 0, next, "new\n");
    expect("log", "scheduler", 0, again, "");
}

static void test_an_audit_log_goes_on_from_file_to_file(void **state UNUSED)
{
    char next[TELL_NEXT_MAX] = "", tail[TELL_NEXT_MAX] = "", path[256], other[256];
    put("clusters/0123456789abcdef/audit/audit-2026-01-01T00-00-00.000.log", "a\nb\n");
    put("clusters/0123456789abcdef/audit/audit.log", "c\n");
    put("clusters/0123456789abcdef/audit/other.txt", "no\n");
    expect("audit", "", 0, next, "a\nb\nc\n");
    expect("audit", "", 1, tail, "c\n");
    snprintf(path, sizeof(path), "%s/clusters/0123456789abcdef/audit/audit.log", dir);
    snprintf(other, sizeof(other), "%s/clusters/0123456789abcdef/audit/audit-2026-01-02T00-00-00.000.log", dir);
    put("clusters/0123456789abcdef/audit/audit.log", "c\nd\n");
    assert_int_equal(rename(path, other), 0);
    put("clusters/0123456789abcdef/audit/audit.log", "e\n");
    expect("audit", "", 0, next, "d\ne\n");
    assert_int_equal(unlink(path), 0); /* what it had read is gone: it begins with what there is */
    expect("audit", "", 0, next, "a\nb\nc\nd\n");
}

static void test_what_nobody_gave_out_is_refused(void **state UNUSED)
{
    static const char *const after[] = {"x", "1", "1:", ":1", "1:-1", "1:1:1", "1:99999999999999999999"};
    struct err err = ERR_INIT;
    char next[TELL_NEXT_MAX];
    CLEANUP(sbuf_deinit) struct sbuf got = {0};
    sbuf_init(&got, 1024);
    for (size_t i = 0; i < ARRAY_LEN(after); i++)
        ASSERT_ERR(kaas_tell(&(struct tell_ask){.data_dir = dir, .log_dir = dir, .cluster = cluster, .part = "audit", .component = "", .after = after[i]}, &got, next, &err), ERR_BAD_REQUEST);
    ASSERT_ERR(kaas_tell(&(struct tell_ask){.data_dir = dir, .log_dir = dir, .cluster = cluster, .part = "log", .component = "../../x", .after = ""}, &got, next, &err), ERR_BAD_REQUEST);
    assert_int_equal(got.len, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test_setup_teardown(test_a_log_is_followed_in_whole_lines, set_up, tear_down),
                                       cmocka_unit_test_setup_teardown(test_an_audit_log_goes_on_from_file_to_file, set_up, tear_down),
                                       cmocka_unit_test_setup_teardown(test_what_nobody_gave_out_is_refused, set_up, tear_down)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
