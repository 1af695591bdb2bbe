#include "inference/cgroup_memory.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/compiler.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/str.h"

#define TEXT_MAX (256u << 10)
#define UNLIMITED (1LL << 60) /* version 1 says a number of pages that nobody has */

/* How a version says it. */
struct version {
    const char *const *mounts; /* where its groups are, under the root */
    const char *const *limits;
    const char *used, *inactive;
};
static const char *const mounts_2[] = {"/sys/fs/cgroup", "/sys/fs/cgroup/unified", NULL}, *const mounts_1[] = {"/sys/fs/cgroup/memory", NULL};
static const char *const limits_2[] = {"memory.max", "memory.high", NULL}, *const limits_1[] = {"memory.limit_in_bytes", NULL};
static const struct version version_2 = {mounts_2, limits_2, "memory.current", "inactive_file "}, version_1 = {mounts_1, limits_1, "memory.usage_in_bytes", "total_inactive_file "};

int64_t number_in_file(const char *path, const char *word)
{
    CLEANUP(mem_freep) char *text = NULL;
    size_t len = 0, n = strlen(word);
    if (file_read(path, TEXT_MAX, &text, &len, NULL) < 0)
        return -1;
    for (const char *line = text; line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL)
        if (!strncmp(line, word, n)) {
            const char *at = line + n + strspn(line + n, " \t:");
            errno = 0;
            int64_t v = isdigit((unsigned char)*at) ? strtoll(at, NULL, 10) : -1;
            return errno ? -1 : v;
        }
    return -1;
}

static int64_t number(const char *dir, const char *file, const char *word)
{
    CLEANUP(mem_freep) char *path = xasprintf("%s/%s", dir, file);
    return number_in_file(path, word);
}

static int64_t lesser(int64_t a, int64_t b)
{
    return a < 0 ? b : b < 0 ? a : MIN(a, b);
}

/* -1: this one is not there, or limits nothing. */
static int64_t free_in(const char *dir, const struct version *v)
{
    int64_t limit = -1, used = number(dir, v->used, ""), inactive = number(dir, "memory.stat", v->inactive);
    for (const char *const *l = v->limits; *l; l++)
        limit = lesser(limit, number(dir, *l, ""));
    if (limit < 0 || limit >= UNLIMITED || used < 0)
        return -1;
    return MAX(limit - used + MAX(inactive, (int64_t)0), (int64_t)0);
}

/* The group's and all above it. */
static int64_t free_up_from(const char *root, struct str path, const struct version *v)
{
    int64_t least = -1;
    for (const char *const *m = v->mounts; *m; m++) {
        struct str at = path;
        for (;;) {
            while (at.len && at.ptr[at.len - 1] == '/')
                at.len--;
            CLEANUP(mem_freep) char *dir = xasprintf("%s%s%.*s", root, *m, STR_ARG(at));
            least = lesser(least, free_in(dir, v));
            if (!at.len)
                break;
            while (at.len && at.ptr[at.len - 1] != '/')
                at.len--;
        }
    }
    return least;
}

static bool names_memory(struct str controllers)
{
    struct str one;
    while (str_cut(&controllers, ',', &one))
        if (str_eq(one, STR("memory")))
            return true;
    return false;
}

int64_t cgroup_memory_free(const char *root)
{
    CLEANUP(mem_freep) char *file = xasprintf("%s/proc/self/cgroup", root), *text = NULL;
    size_t len = 0;
    int64_t least = -1;
    struct str rest, line, number_of, controllers;
    if (file_read(file, TEXT_MAX, &text, &len, NULL) < 0)
        return -1;
    rest = str_n(text, len);
    while (str_cut(&rest, '\n', &line)) {
        if (!str_cut(&line, ':', &number_of) || !str_cut(&line, ':', &controllers) || !line.ptr)
            continue;
        if (memmem(line.ptr, line.len, "..", 2)) /* outside of what is to be seen here */
            line = STR("");
        if (str_eq(number_of, STR("0")) && !controllers.len)
            least = lesser(least, free_up_from(root, line, &version_2));
        else if (names_memory(controllers))
            least = lesser(least, free_up_from(root, line, &version_1));
    }
    return least;
}
