/* What a control group leaves of a machine's memory: trees of both versions, made in a directory. */
#include "unit.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "inference/cgroup_memory.h"
#include "inference/room.h"

#define MIB (1 << 20)

static char root[64];

static void put(const char *name, const char *text)
{
    struct err err = ERR_INIT;
    CLEANUP(mem_freep) char *path = xasprintf("%s/%s", root, name), *dir = xstrdup(path);
    *strrchr(dir, '/') = '\0';
    ASSERT_OK(file_mkdirs(dir, 0700, &err));
    ASSERT_OK(file_write(path, str_of(text), 0600, &err));
}

static void put_group(const char *dir, const char *limit_file, const char *limit, const char *used_file, const char *used, const char *stat)
{
    CLEANUP(mem_freep) char *a = xasprintf("%s/%s", dir, limit_file), *b = xasprintf("%s/%s", dir, used_file), *c = xasprintf("%s/memory.stat", dir);
    put(a, limit);
    put(b, used);
    put(c, stat);
}

static void put_2(const char *dir, const char *max, const char *used, const char *stat)
{
    put_group(dir, "memory.max", max, "memory.current", used, stat);
}

static void put_1(const char *dir, const char *max, const char *used, const char *stat)
{
    put_group(dir, "memory.limit_in_bytes", max, "memory.usage_in_bytes", used, stat);
}

static int setup(void **state)
{
    (void)state;
    snprintf(root, sizeof(root), "/tmp/seki-cgroup-XXXXXX");
    return mkdtemp(root) ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    return file_remove_tree(root, NULL);
}

static void where_nothing_limits_nothing_is_said(void **state)
{
    (void)state;
    assert_int_equal(cgroup_memory_free(root), -1);
    put("proc/self/cgroup", "0::/a.slice/b.service\n");
    assert_int_equal(cgroup_memory_free(root), -1);
    put_2("sys/fs/cgroup/a.slice/b.service", "max\n", "5\n", "inactive_file 3\n");
    assert_int_equal(cgroup_memory_free(root), -1);
}

static void a_units_limit_is_seen_and_pages_of_files_are_free(void **state)
{
    (void)state;
    put("proc/self/cgroup", "0::/system.slice/seki-control.service\n");
    put_2("sys/fs/cgroup/system.slice/seki-control.service", "104857600\n", "41943040\n", "file 5\ninactive_file 10485760\n");
    assert_int_equal(cgroup_memory_free(root), 70 * MIB);
    put("sys/fs/cgroup/system.slice/seki-control.service/memory.high", "62914560\n");
    assert_int_equal(cgroup_memory_free(root), 30 * MIB);
}

static void the_least_of_all_above_counts(void **state)
{
    (void)state;
    put("proc/self/cgroup", "0::/a/b/c\n");
    put_2("sys/fs/cgroup/a/b/c", "104857600\n", "0\n", "");
    put_2("sys/fs/cgroup/a/b", "max\n", "0\n", "");
    put_2("sys/fs/cgroup/a", "20971520\n", "10485760\n", "");
    assert_int_equal(cgroup_memory_free(root), 10 * MIB);
    put_2("sys/fs/cgroup", "31457280\n", "31457281\n", "");
    assert_int_equal(cgroup_memory_free(root), 0);
}

static void version_1_is_read_too(void **state)
{
    (void)state;
    put("proc/self/cgroup", "12:pids:/x\n4:cpu,memory:/system.slice/seki:control\n1:name=systemd:/y\n0::/\n");
    put_1("sys/fs/cgroup/memory/system.slice/seki:control", "104857600\n", "41943040\n", "inactive_file 1\ntotal_inactive_file 10485760\n");
    put_1("sys/fs/cgroup/memory/system.slice", "9223372036854771712\n", "0\n", "");
    put_1("sys/fs/cgroup/memory", "9223372036854771712\n", "0\n", "");
    assert_int_equal(cgroup_memory_free(root), 70 * MIB);
}

static void a_container_with_a_view_of_its_own_sees_its_root(void **state)
{
    (void)state;
    put("proc/self/cgroup", "0::/../../host/pod\n");
    put_2("sys/fs/cgroup", "20971520\n", "10485760\n", "");
    assert_int_equal(cgroup_memory_free(root), 10 * MIB);
    put("proc/self/cgroup", "0::/docker/abc\n"); /* not there */
    assert_int_equal(cgroup_memory_free(root), 10 * MIB);
}

static void what_is_no_group_is_passed_over(void **state)
{
    (void)state;
    static const char *const bad[] = {"", "\n", "0", "0:", "0::", "x\n:::\n", "4:memory", "0::/a\n"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        put("proc/self/cgroup", bad[i]);
        put_2("sys/fs/cgroup/a", i ? "99999999999999999999999\n" : "-5\n", "x\n", "inactive_file\n");
        assert_int_equal(cgroup_memory_free(root), -1);
    }
}

static void this_machine_has_room(void **state)
{
    (void)state;
    assert_true(room_free_bytes() > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(where_nothing_limits_nothing_is_said, setup, teardown),
        cmocka_unit_test_setup_teardown(a_units_limit_is_seen_and_pages_of_files_are_free, setup, teardown),
        cmocka_unit_test_setup_teardown(the_least_of_all_above_counts, setup, teardown),
        cmocka_unit_test_setup_teardown(version_1_is_read_too, setup, teardown),
        cmocka_unit_test_setup_teardown(a_container_with_a_view_of_its_own_sees_its_root, setup, teardown),
        cmocka_unit_test_setup_teardown(what_is_no_group_is_passed_over, setup, teardown),
        cmocka_unit_test_setup_teardown(this_machine_has_room, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
