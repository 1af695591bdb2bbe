/* Tables of all clusters on disk: which address is whose. What cannot be read is not empty: an address would be given to two. */
#include "kaas/balancer.h"

#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/mem.h"
#include "node/gate_balance.h"

int balancer_table_read(const char *path, json_t **ret, struct err *err)
{
    JSON_AUTO doc = NULL;
    int rc = json_read_file(path, BALANCE_TABLE_MAX, &doc, err);
    if (rc < 0 && rc != ERR_NOT_FOUND)
        return rc;
    if (rc == 0 && !json_is_object(doc))
        return err_set(err, ERR_CORRUPT, "%s is no table of Services", path);
    *ret = rc == 0 ? TAKE(doc) : json_object();
    return 0;
}

void balancer_collect(struct map *addresses, const json_t *table)
{
    size_t i;
    json_t *row;
    json_array_foreach (json_at(table, "services"), i, row)
        map_set(addresses, str_of(json_str_or(row, "address", "")), addresses);
}

struct taken {
    const char *root, *but;
    struct map *addresses;
    int rc;
    struct err *err;
};

static void collect_table(void *arg, const char *uid, const char *ns UNUSED, const char *name UNUSED)
{
    struct taken *t = arg;
    CLEANUP(mem_freep) char *dir = xasprintf("%s/%s", t->root, uid);
    CLEANUP(mem_freep) char *path = xasprintf("%s/net/" BALANCE_TABLE, dir);
    JSON_AUTO table = NULL;
    struct stat st;
    if (t->rc < 0 || !strcmp(uid, t->but) || (stat(dir, &st) == 0 && !S_ISDIR(st.st_mode)))
        return;
    t->rc = balancer_table_read(path, &table, t->err);
    if (t->rc == 0)
        balancer_collect(t->addresses, table);
}

int balancer_taken(const char *root, const char *but, struct map *addresses, struct err *err)
{
    struct taken t = {root, but, addresses, 0, err};
    int rc = place_each(root, collect_table, &t, err);
    return t.rc < 0 ? t.rc : rc;
}
