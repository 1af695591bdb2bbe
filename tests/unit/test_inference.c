/* Where a Model's files may lie. */
#include "unit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "inference/internal.h"

static char dir[64];

static int set_up(void **state UNUSED)
{
    static const char *const made[] = {"data", "data/models", "data/models/p", "data/models/p/sub", "data/models/q", "data/models/pp", "data/models2", "data/pki", "a", "a/b", "ab"};
    char path[128];
    snprintf(dir, sizeof(dir), "/tmp/seki-models-XXXXXX");
    if (!mkdtemp(dir))
        return -1;
    for (size_t i = 0; i < ARRAY_LEN(made); i++) {
        snprintf(path, sizeof(path), "%s/%s", dir, made[i]);
        if (mkdir(path, 0700) < 0)
            return -1;
    }
    return 0;
}

static int tear_down(void **state UNUSED)
{
    return file_remove_tree(dir, NULL);
}

static void touch(const char *name)
{
    char path[256];
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    assert_int_equal(file_write(path, STR("x"), 0600, NULL), 0);
}

static void link_to(const char *target, const char *name)
{
    char path[256], to[256];
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    snprintf(to, sizeof(to), "%s/%s", dir, target);
    assert_int_equal(symlink(to, path), 0);
}

static void test_where_models_may_lie(void **state)
{
    (void)state;
    static const struct {
        const char *file, *dirs; /* below dir; dirs: comma-separated */
        enum model_place place;
    } cases[] = {
        {"data/models/p/m.gguf", "", MODEL_OWN},
        {"data/models/p/sub/m.gguf", "", MODEL_OWN},
        {"data/models/p/none.gguf", "", MODEL_MISSING},
        {"data/models/m.gguf", "", MODEL_SHARED},
        {"data/models/q/m.gguf", "", MODEL_FORBIDDEN}, /* another project's */
        {"data/models/q/none.gguf", "", MODEL_FORBIDDEN},
        {"data/models/p/../q/m.gguf", "", MODEL_FORBIDDEN},
        {"data/models/p//m.gguf", "", MODEL_FORBIDDEN},
        {"data/models/p/./m.gguf", "", MODEL_FORBIDDEN},
        {"data/models/p/to-q", "", MODEL_FORBIDDEN},
        {"data/models/p/to-key", "", MODEL_FORBIDDEN},
        {"data/models/p/to-a", "", MODEL_FORBIDDEN},
        {"data/models/p/to-a", "a", MODEL_SHARED}, /* where it leads counts: not moved */
        {"data/models/pp/m.gguf", "", MODEL_FORBIDDEN},
        {"data/models", "", MODEL_FORBIDDEN},
        {"data/models/p", "", MODEL_SHARED}, /* no regular file: found later */
        {"data/models2/m.gguf", "", MODEL_FORBIDDEN},
        {"data/pki/ca.key", "", MODEL_FORBIDDEN},
        {"data/pki/ca.key", "data", MODEL_FORBIDDEN}, /* whatever the option says */
        {"data/models/q/m.gguf", "data", MODEL_FORBIDDEN},
        {"a/m.gguf", "", MODEL_FORBIDDEN},
        {"a/none.gguf", "", MODEL_FORBIDDEN}, /* that it is not there is nobody's business */
        {"a/m.gguf", "a", MODEL_SHARED},
        {"a/b/m.gguf", "a", MODEL_SHARED},
        {"a/none.gguf", "a", MODEL_MISSING},
        {"a/to-key", "a", MODEL_FORBIDDEN},
        {"ab/m.gguf", "a", MODEL_FORBIDDEN},
        {"ab/m.gguf", "a, ab", MODEL_SHARED},
        {"a/m.gguf", "missing", MODEL_FORBIDDEN},
        {"a/m.gguf", ",", MODEL_FORBIDDEN},
        {"a/m.gguf", "way", MODEL_SHARED}, /* the option names a link, the Model what it leads to, or the other way round */
        {"way/m.gguf", "a", MODEL_FORBIDDEN},
        {"way/m.gguf", "way", MODEL_SHARED},
    };
    static const char *const files[] = {"data/models/p/m.gguf", "data/models/p/sub/m.gguf", "data/models/m.gguf", "data/models/q/m.gguf", "data/models/pp/m.gguf", "data/models2/m.gguf",
                                        "data/pki/ca.key", "a/m.gguf", "a/b/m.gguf", "ab/m.gguf"};
    for (size_t i = 0; i < ARRAY_LEN(files); i++)
        touch(files[i]);
    link_to("data/models/q/m.gguf", "data/models/p/to-q");
    link_to("data/pki/ca.key", "data/models/p/to-key");
    link_to("data/pki/ca.key", "a/to-key");
    link_to("a/m.gguf", "data/models/p/to-a");
    link_to("a", "way");
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char path[256], data[128], dirs[512] = "", one[128];
        struct str rest = str_of(cases[i].dirs), part;
        snprintf(path, sizeof(path), "%s/%s", dir, cases[i].file);
        snprintf(data, sizeof(data), "%s/data", dir);
        while (rest.len && str_cut(&rest, ',', &part)) {
            size_t used = strlen(dirs);
            snprintf(one, sizeof(one), "%s/%.*s", dir, STR_ARG(str_trim(part)));
            snprintf(dirs + used, sizeof(dirs) - used, "%s%s", used ? " , " : "", str_trim(part).len ? one : " ,");
        }
        enum model_place place = model_place(path, "p", dirs, data);
        if (place != cases[i].place)
            fail_msg("case %zu: %s with \"%s\": %d", i, cases[i].file, cases[i].dirs, (int)place);
    }
    assert_int_equal(model_place("relative", "p", "/", NULL), MODEL_FORBIDDEN);
    assert_int_equal(model_place("", "p", "/", NULL), MODEL_FORBIDDEN);
    assert_int_equal(model_place("/etc/passwd", "p", NULL, NULL), MODEL_FORBIDDEN);
    assert_int_equal(model_place("/etc/passwd", "p", "/", NULL), MODEL_SHARED); /* the operator's word */
}

static void test_the_path_of_a_file(void **state)
{
    (void)state;
    char path[MODEL_PATH_MAX];
    model_file_path("file:///a/b", "m.gguf", path);
    assert_string_equal(path, "/a/b/m.gguf");
    model_file_path("file:///a/b//", "s/m.gguf", path);
    assert_string_equal(path, "/a/b/s/m.gguf");
    model_file_path("file:///", "m.gguf", path);
    assert_string_equal(path, "/m.gguf");
    model_file_path("", "", path);
    assert_string_equal(path, "/");
}

static void test_a_server_that_is_away_is_asked_less_and_less(void **state UNUSED)
{
    static const uint64_t most[] = {200, 400, 800, 1600, 3200, 6400, 10000, 10000};
    for (size_t i = 0; i < ARRAY_LEN(most); i++) {
        uint64_t least_seen = UINT64_MAX, most_seen = 0;
        for (int n = 0; n < 1000; n++) {
            uint64_t ms = away_pause_ms((unsigned)i);
            least_seen = MIN(least_seen, ms);
            most_seen = MAX(most_seen, ms);
        }
        assert_true(least_seen >= most[i] / 2 && most_seen <= most[i]);
        assert_true(most_seen - least_seen > most[i] / 4); /* not all at once */
    }
    assert_true(away_pause_ms(UINT32_MAX) <= 10000 && away_pause_ms(UINT32_MAX) >= 5000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_where_models_may_lie, set_up, tear_down),
        cmocka_unit_test(test_the_path_of_a_file),
        cmocka_unit_test(test_a_server_that_is_away_is_asked_less_and_less),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
