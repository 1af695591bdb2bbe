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
    static const char *const made[] = {"data", "data/models", "data/models2", "data/pki", "a", "a/b", "ab"};
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

static void test_where_models_may_lie(void **state)
{
    (void)state;
    static const struct {
        const char *file, *dirs; /* below dir; dirs: comma-separated */
        bool may;
    } cases[] = {
        {"a/m.gguf", "", true},
        {"data/models/m.gguf", "", true},
        {"data/models/x/m.gguf", "", true},
        {"data/seki.db", "", false},
        {"data/pki/ca.key", "", false},
        {"data/models2/m.gguf", "", false},
        {"a/m.gguf", "a", true},
        {"a/b/m.gguf", "a", true},
        {"ab/m.gguf", "a", false},
        {"ab/m.gguf", "a, ab", true},
        {"a/m.gguf", "missing", false},
        {"a/m.gguf", ",", false},
        {"data/pki/ca.key", "data", false}, /* whatever the option says */
        {"data/models/m.gguf", "a", true},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char real[256], data[128], dirs[512] = "", one[128];
        struct str rest = str_of(cases[i].dirs), part;
        snprintf(real, sizeof(real), "%s/%s", dir, cases[i].file);
        snprintf(data, sizeof(data), "%s/data", dir);
        while (rest.len && str_cut(&rest, ',', &part)) {
            size_t used = strlen(dirs);
            snprintf(one, sizeof(one), "%s/%.*s", dir, STR_ARG(str_trim(part)));
            snprintf(dirs + used, sizeof(dirs) - used, "%s%s", used ? " , " : "", str_trim(part).len ? one : " ,");
        }
        if (model_may_read(real, dirs, data) != cases[i].may)
            fail_msg("case %zu: %s with \"%s\"", i, cases[i].file, cases[i].dirs);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_where_models_may_lie, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
