/* The end of a cluster: what uses a store goes before the store, and nothing is said to be gone that was not looked for. */
#include "kaas/node.h"
#include "kaas/recovery.h"

#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"

/* Returns whether it is gone. */
static bool end_part(struct kaas *k, const struct site *s, enum component c, int member, unsigned *ended)
{
    char name[WORKLOAD_NAME_MAX];
    struct workload_status w;
    component_workload(s, c, member, name);
    k->runtime->ops->get(k->runtime, name, &w);
    if (w.state == WORKLOAD_ABSENT)
        return true;
    *ended |= 1u << (c + member * COMPONENTS);
    if (k->runtime->ops->stop(k->runtime, name, NULL) < 0)
        return false;
    k->runtime->ops->get(k->runtime, name, &w);
    return w.state == WORKLOAD_ABSENT;
}

static bool end_component(struct kaas *k, const struct site *s, enum component c, unsigned *ended)
{
    bool gone = true;
    for (int m = 0; m < component_count(s, c); m++)
        gone = end_part(k, s, c, m, ended) && gone;
    return gone;
}

bool cluster_end(struct kaas *k, const struct site *s, enum component last, unsigned *ended)
{
    static const enum component order[] = {SCHEDULER, CONTROLLERS, RELAY, APISERVER, KMS, ETCD};
    bool gone = true;
    for (size_t i = 0; i < ARRAY_LEN(order) && (gone || order[i] == CONTROLLERS); i++) {
        gone = end_component(k, s, order[i], ended) && gone;
        if (order[i] == last)
            break;
    }
    return gone;
}

static void remove_logs(struct kaas *k, const struct site *s, int *files)
{
    static const char *const ends[] = {".log", ".log.1"};
    for (enum component c = 0; c < COMPONENTS; c++)
        for (int member = 0; member < component_count(s, c); member++)
            for (size_t i = 0; i < ARRAY_LEN(ends); i++) {
                char name[WORKLOAD_NAME_MAX];
                component_workload(s, c, member, name);
                CLEANUP(mem_freep) char *path = xasprintf("%s/%s%s", k->o.log_dir, name, ends[i]);
                *files += unlink(path) == 0;
            }
}

int control_plane_remove(struct kaas *k, const struct site *s, unsigned *ended, int *files, bool *ret_done, struct err *err)
{
    int removed = 0;
    uint16_t port;
    *ret_done = false;
    if (!cluster_end(k, s, ETCD, ended))
        return 0;
    for (int i = 0; i < site_members(s); i++)
        if (*member_address(s, i) && place_in_use(member_address(s, i), &port))
            return err_set(err, ERR_BUSY, "something listens on %s:%d still", member_address(s, i), port);
    remove_logs(k, s, files); /* first: without the directory nobody would come again for them */
    int rc = place_remove(s->dir, &removed, err);
    if (rc < 0)
        return rc;
    *files += removed;
    if (file_exists(s->dir))
        return err_set(err, ERR_INTERNAL, "%s is there still", s->dir);
    *ret_done = true;
    return 0;
}

int cluster_remove(struct kaas *k, const struct site *s, struct cluster_memory *m, bool *ret_done, struct err *err)
{
    *ret_done = false;
    bool without_nodes = false;
    int rc = recovery_remove(k, s, &m->files, err); /* first: a backup without its store would wait for it */
    if (rc == 0)
        rc = node_pools_remove(k, s, m, &without_nodes, err);
    if (rc < 0 || !without_nodes)
        return rc;
    return control_plane_remove(k, s, &m->ended, &m->files, ret_done, err);
}
