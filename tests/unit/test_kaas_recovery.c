/* Backups of clusters, without programs of Kubernetes: names, what is listed, what is refused, programs that fail. tests/kaas/test_recovery.py has the rest. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backup/archive.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "kaas/recovery.h"
#include "kaas/upgrade.h"

#define ID "20260131-235959-123"

static char dir[64];
static struct arena *arena;
static struct site site;
static const struct sealed_key key = {{7}};

static int set_up(void **state UNUSED)
{
    snprintf(dir, sizeof(dir), "/tmp/seki-recovery-XXXXXX");
    if (!mkdtemp(dir))
        return -1;
    arena = arena_new(16 << 20);
    site = (struct site){.ns = "demo", .name = "one", .uid = "0b5ed6b2-7c1c-4a6c-9d52-2f8f7f1d3c11", .dir = dir, .programs = "/nowhere", .address = "127.96.3.4"};
    return 0;
}

static int tear_down(void **state UNUSED)
{
    arena_freep(&arena);
    return file_remove_tree(dir, NULL);
}

static void test_names_are_times(void **state UNUSED)
{
    static const char *const bad[] = {"", "latest", "20260131-235959-12", ID "0", "20260131-235959-12x", "../../../etc/passwd", "2026/131-235959-123"};
    char text[CLOCK_TEXT_MAX];
    assert_true(snapshot_id_valid(ID));
    clock_format(snapshot_id_ms(ID), text);
    assert_int_equal(strncmp(text, "2026-01-31T23:59:59", 19), 0);
    assert_int_equal(snapshot_id_ms(ID) % 1000, 123);
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        if (snapshot_id_valid(bad[i]) || snapshot_id_ms(bad[i]))
            fail_msg("%s", bad[i]);
}

static void test_the_number_of_keys(void **state UNUSED)
{
    int64_t n = -1;
    assert_true(snapshot_count_parse(STR("\"ClusterID\" : 5\n\"Count\" : 246\n\"More\" : false\n"), &n));
    assert_int_equal(n, 246);
    assert_false(snapshot_count_parse(STR("\"Count\" : many\n"), &n));
    assert_false(snapshot_count_parse(STR("Error: deadline\n"), &n));
}

static void test_what_tools_say(void **state UNUSED)
{
    int64_t n = -1;
    assert_int_equal(snapshot_revision_parse(STR("{\"hash\":2785120571,\"revision\":412,\"totalKey\":246}\n"), &n, NULL), 0);
    assert_int_equal(n, 412);
    assert_int_equal(snapshot_revision_parse(STR("{\"revision\":0}"), &n, NULL), ERR_CORRUPT);
    assert_int_equal(snapshot_revision_parse(STR("{\"revision\":\"412\"}"), &n, NULL), ERR_CORRUPT);
    assert_int_equal(snapshot_revision_parse(STR("[]"), &n, NULL), ERR_CORRUPT);
    assert_int_equal(snapshot_revision_parse(STR("Error: no such file"), &n, NULL), ERR_PROTOCOL);
    assert_int_equal(n, 412);
    assert_true(str_eqc(tool_last_line(STR("one\n two \n\n \t\n")), "two"));
    assert_int_equal(tool_last_line(STR("\n")).len, 0);
    char *much = arena_alloc(arena, 1000);
    memset(much, 'x', 999);
    much[999] = 'y';
    struct str end = tool_last_line(str_n(much, 1000));
    assert_true(end.len < 300 && end.ptr + end.len == much + 1000);
    assert_true(str_eqc(probe_failing(STR("[+]ping ok\n[-]etcd failed: reason withheld\n[-]log failed\n")), "[-]etcd failed: reason withheld"));
    assert_int_equal(probe_failing(STR("unhealthy")).len, 0);
}

static void test_newest_first_and_what_was_begun_goes(void **state UNUSED)
{
    static const char *const files[] = {"20260101-000000-000", "20260301-000000-000", "20260201-000000-000", "20260401-000000-000.tmp-backup", "notes"};
    const char *at = arena_printf(arena, "%s/list", dir);
    struct snapshot x[2];
    assert_int_equal(file_mkdirs(at, 0700, NULL), 0);
    for (size_t i = 0; i < ARRAY_LEN(files); i++)
        assert_int_equal(file_write(arena_printf(arena, "%s/%s", at, files[i]), STR("x"), 0600, NULL), 0);
    assert_int_equal(snapshot_list(at, x, 2, true), 2);
    assert_string_equal(x[0].id, "20260301-000000-000");
    assert_string_equal(x[1].id, "20260201-000000-000");
    assert_false(file_exists(arena_printf(arena, "%s/20260401-000000-000.tmp-backup", at)));
    assert_true(file_exists(arena_printf(arena, "%s/notes", at)));
    int gone = 0;
    assert_int_equal(snapshot_remove_all(at, &gone, NULL), 0);
    assert_int_equal(gone, 4);
    assert_int_equal(snapshot_list(at, x, 2, false), 0);
}

/* A backup with these files, as id says it is. */
static void write_backup(const char *id, const char *uid, const char *says, const char *path)
{
    struct archive_writer *w = NULL;
    JSON_AUTO manifest = json_pack("{s:s, s:s, s:s, s:s, s:i, s:i}", "what", "cluster", "name", "one", "uid", uid, "id", says, "revision", 5, "keys", 2);
    const char *content = arena_printf(arena, "%s/content", dir);
    assert_int_equal(file_write(content, STR("store"), 0600, NULL), 0);
    int from = open(content, O_RDONLY | O_CLOEXEC), fd = open(arena_printf(arena, "%s/%s", dir, id), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_int_equal(archive_writer_new(fd, &key, &w, NULL), 0);
    assert_int_equal(archive_add(w, &(struct archive_entry){path, 0600, 5}, from, NULL), 0);
    assert_int_equal(archive_finish(w, manifest, NULL), 0);
    archive_writer_free(w);
    close(from);
    close(fd);
}

static int open_backup(const struct sealed_key *k, struct snapshot *ret, struct err *err)
{
    *err = (struct err)ERR_INIT;
    return snapshot_open(&site, dir, ID, k, arena_printf(arena, "%s/into", dir), arena, ret, err);
}

static void test_what_is_no_backup_of_this_cluster_is_refused_by_name(void **state UNUSED)
{
    static const struct sealed_key other = {{8}};
    struct snapshot x;
    struct err err;
    write_backup(ID, site.uid, ID, "etcd.db");
    assert_int_equal(open_backup(&key, &x, &err), 0);
    assert_int_equal(x.revision, 5);
    assert_int_equal(x.keys, 2);
    assert_true(file_exists(arena_printf(arena, "%s/into/etcd.db", dir)));
    assert_int_equal(open_backup(&other, &x, &err), ERR_INVALID);
    assert_non_null(strstr(err.msg, "backup " ID));
    static const struct {
        const char *uid, *says, *path, *why;
    } cases[] = {
        {"another", ID, "etcd.db", "of another cluster"},
        {NULL, "20260131-235959-124", "etcd.db", "was renamed"},
        {NULL, ID, "pki/sa.key", "is no backup of a cluster"},
        {NULL, ID, "pki/deeper/sa.key", "is not of a cluster"},
        {NULL, ID, "cluster.json", "is not of a cluster"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        write_backup(ID, cases[i].uid ? cases[i].uid : site.uid, cases[i].says, cases[i].path);
        if (open_backup(&key, &x, &err) == 0 || !strstr(err.msg, cases[i].why) || !strstr(err.msg, "backup " ID))
            fail_msg("%s: %s", cases[i].why, err.msg);
    }
    assert_int_equal(truncate(arena_printf(arena, "%s/" ID, dir), 100), 0);
    assert_true(open_backup(&key, &x, &err) < 0);
    assert_non_null(strstr(err.msg, "backup " ID));
    assert_int_equal(unlink(arena_printf(arena, "%s/" ID, dir)), 0);
    assert_int_equal(open_backup(&key, &x, &err), ERR_NOT_FOUND);
}

static int run(const char *script, uint64_t timeout_ms, struct sbuf *out, struct err *err)
{
    const char *argv[] = {"/bin/sh", "-c", script, NULL};
    *err = (struct err)ERR_INIT;
    return tool_run(argv, timeout_ms, NULL, out, err);
}

static void test_programs(void **state UNUSED)
{
    CLEANUP(sbuf_deinit) struct sbuf out = {0};
    struct err err;
    const char *none[] = {"/nowhere/etcdctl", NULL};
    sbuf_init(&out, 4096);
    assert_int_equal(run("echo said; echo not this >&2", 60000, &out, &err), 0);
    assert_string_equal(out.ptr, "said\n");
    assert_int_equal(run("echo first >&2; echo why >&2; exit 3", 60000, NULL, &err), ERR_IO);
    assert_string_equal(err.msg, "sh: why");
    assert_int_equal(run("kill -9 $$", 60000, NULL, &err), ERR_IO);
    assert_int_equal(run("head -c 1000000 /dev/zero; exit 0", 60000, NULL, &err), 0); /* more than is kept holds nobody up */
    assert_int_equal(run("sleep 600", 50, NULL, &err), ERR_TIMEOUT);
    assert_int_equal(tool_run(none, 1000, NULL, NULL, &err), ERR_UNAVAILABLE);
    assert_non_null(strstr(err.msg, "no etcdctl"));
}

static void test_backups_are_known_by_their_names(void **state UNUSED)
{
    struct snapshot there[2] = {{.id = "20260301-000000-000"}, {.id = "20260201-000000-000"}};
    JSON_AUTO same = json_pack("[{s:s}, {s:s}]", "id", there[0].id, "id", there[1].id);
    JSON_AUTO other = json_pack("[{s:s}, {s:s}]", "id", there[0].id, "id", "20260101-000000-000");
    assert_true(backups_are(same, there, 2));
    assert_false(backups_are(other, there, 2));
    assert_false(backups_are(same, there, 1));
    assert_true(backups_are(NULL, there, 0));
}

static void test_the_way_back_from_an_upgrade_is_kept(void **state UNUSED)
{
    const int64_t hour = 3600000, then = snapshot_id_ms(ID);
    struct version_record v = {.minor = "1.36", .to = "1.37", .stage = UPGRADE_NODES, .backup = ID};
    JSON_AUTO none = json_object();
    JSON_AUTO done = json_pack("{s:{s:{s:s}}}", "status", "upgrade", "backup", ID);
    assert_true(backup_way_back(ID, &v, none, then + 9000 * hour));
    assert_false(backup_way_back("20260131-235959-124", &v, none, then));
    v.stage = UPGRADE_NONE;
    assert_false(backup_way_back(ID, &v, none, then));
    assert_true(backup_way_back(ID, &v, done, then + 71 * hour));
    assert_false(backup_way_back(ID, &v, done, then + 73 * hour));
}

/* After a clock was put back the first of the list is of a time that has not come. */
static void test_backups_of_a_time_to_come_count_for_nothing(void **state UNUSED)
{
    const struct snapshot there[] = {{.taken_ms = 900}, {.taken_ms = 300}, {.taken_ms = 200}};
    assert_int_equal(backup_within(there, 3, 0, 1000), 0);
    assert_int_equal(backup_within(there, 3, 0, 400), 1);
    assert_int_equal(backup_within(there, 3, 250, 400), 1);
    assert_int_equal(backup_within(there, 3, 350, 400), -1);
    assert_int_equal(backup_within(there, 0, 0, 400), -1);
}

#define AHEAD "20260302-000000-000" /* taken before the clock was put back to February */
static void test_the_newest_is_what_the_store_says_and_not_the_clock(void **state UNUSED)
{
    static const struct {
        const char *there[4], *told, *order[4]; /* "": none */
    } cases[] = {
        /* The clock was put back between the first and the second. */
        {{AHEAD, "20260201-000000-000", "20260201-001500-000"}, "[{'id':'" AHEAD "','revision':10},{'id':'20260201-000000-000','revision':20},{'id':'20260201-001500-000','revision':30}]", {"20260201-001500-000", "20260201-000000-000", AHEAD}},
        /* Nobody knows anything but names. */
        {{AHEAD, "20260201-000000-000", "20260201-001500-000"}, "{}", {"20260201-001500-000", "20260201-000000-000", AHEAD}},
        /* Nothing was written between two: of two that are equal the one with a time that has come. */
        {{AHEAD, "20260201-000000-000"}, "[{'id':'" AHEAD "','revision':10},{'id':'20260201-000000-000','revision':10}]", {"20260201-000000-000", AHEAD}},
        /* One that the status does not know stands where its time says. */
        {{AHEAD, "20260201-000000-000", "20260201-001500-000", "20260201-003000-000"}, "[{'id':'" AHEAD "','revision':10},{'id':'20260201-000000-000','revision':20},{'id':'20260201-003000-000','revision':30}]", {"20260201-003000-000", "20260201-001500-000", "20260201-000000-000", AHEAD}},
        {{"20260201-000000-000", AHEAD}, "[{'id':'20260201-000000-000','revision':'20'},{'id':7},7]", {"20260201-000000-000", AHEAD}},
        {{""}, "[]", {""}},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct snapshot there[4] = {{.id = ""}};
        char *text = arena_strdup(arena, cases[i].told);
        json_t *told = NULL;
        size_t count = 0;
        for (char *c = text; *c; c++)
            *c = *c == '\'' ? '"' : *c;
        assert_int_equal(json_parse(str_of(text), 1 << 16, &told, NULL), 0);
        for (size_t k = 0; k < 4 && cases[i].there[k] && *cases[i].there[k]; k++, count++) {
            there[k] = (struct snapshot){.taken_ms = snapshot_id_ms(cases[i].there[k]), .revision = -1};
            memcpy(there[k].id, cases[i].there[k], sizeof(AHEAD));
        }
        backups_order(there, count, told, snapshot_id_ms("20260201-010000-000"));
        for (size_t k = 0; k < count; k++)
            if (strcmp(there[k].id, cases[i].order[k]) != 0)
                fail_msg("case %zu: %s stands where %s should", i, there[k].id, cases[i].order[k]);
        json_decref(told);
    }
}

static void test_a_rehearsal_that_failed_comes_again_soon(void **state UNUSED)
{
    static const struct {
        int failures;
        int64_t minutes;
    } cases[] = {{0, 1440}, {1, 10}, {2, 20}, {7, 640}, {8, 1280}, {9, 1440}, {15, 1440}, {1000, 1440}};
    const int64_t day = 86400000, minute = 60000;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        JSON_AUTO obj = json_pack("{s:{s:s}, s:{s:{s:s, s:i}}}", "metadata", "creationTimestamp", "2026-01-01T00:00:00Z", "status", "drill", "at", "2026-01-02T00:00:00.000000Z", "failures", cases[i].failures);
        int64_t then = 0;
        assert_int_equal(clock_parse(STR("2026-01-02T00:00:00Z"), &then), 0);
        assert_int_equal((drill_due_ms(obj, day) - then) / minute, cases[i].minutes);
        assert_true(drill_due_ms(obj, minute) == then + minute); /* never later than the others */
    }
}

static void test_a_restore_is_asked_for_once(void **state UNUSED)
{
    JSON_AUTO obj = json_pack("{s:{s:{s:s}}, s:{}}", "metadata", "annotations", CLUSTER_RESTORE_ANNOTATION, "latest 1", "status");
    assert_true(restore_wanted(obj));
    json_put_str(obj, "status.restore.request", "latest 0");
    assert_true(restore_wanted(obj));
    json_put_str(obj, "status.restore.request", "latest 1");
    assert_false(restore_wanted(obj));
    assert_false(restore_ended(obj, 1000)); /* it was refused */
    json_put_str(obj, "status.restore.startedAt", "2026-01-31T23:59:59.000000Z");
    assert_true(restore_ended(obj, snapshot_id_ms("20260131-235959-250")));
    assert_int_equal(json_int(obj, "status.restore.milliseconds", 0), 250);
    assert_false(restore_ended(obj, snapshot_id_ms(ID)));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names_are_times),
        cmocka_unit_test(test_the_number_of_keys),
        cmocka_unit_test(test_what_tools_say),
        cmocka_unit_test(test_newest_first_and_what_was_begun_goes),
        cmocka_unit_test(test_what_is_no_backup_of_this_cluster_is_refused_by_name),
        cmocka_unit_test(test_programs),
        cmocka_unit_test(test_backups_are_known_by_their_names),
        cmocka_unit_test(test_a_rehearsal_that_failed_comes_again_soon),
        cmocka_unit_test(test_a_restore_is_asked_for_once),
        cmocka_unit_test(test_the_way_back_from_an_upgrade_is_kept),
        cmocka_unit_test(test_backups_of_a_time_to_come_count_for_nothing),
        cmocka_unit_test(test_the_newest_is_what_the_store_says_and_not_the_clock),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
