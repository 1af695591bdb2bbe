/* Nodes that end: one that is not wanted any more, or all of a cluster with its gate. What is gone is looked for on disk and in the runtime, not remembered. */
#include "kaas/node.h"

#include <dirent.h>
#include <errno.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "kaas/storage.h"
#include "node/node_init.h"
#include "node/wiper.h"

bool node_workload_end(struct kaas *k, const char *name)
{
    struct workload_status w;
    k->runtime->ops->get(k->runtime, name, &w);
    if (w.state != WORKLOAD_ABSENT && k->runtime->ops->stop(k->runtime, name, NULL) == 0)
        k->runtime->ops->get(k->runtime, name, &w);
    return w.state == WORKLOAD_ABSENT;
}

static int remove_logs(struct kaas *k, const char *workload)
{
    static const char *const ends[] = {".log", ".log.1"};
    int n = 0;
    for (size_t i = 0; i < ARRAY_LEN(ends); i++) {
        CLEANUP(mem_freep) char *path = xasprintf("%s/%s%s", k->o.log_dir, workload, ends[i]);
        n += unlink(path) == 0;
    }
    return n;
}

/* Its volumes are wiped in the background: that takes as long as the disk does, and no other cluster's pass waits for it. *ret_done: none is left. */
static int wipe(struct kaas *k, const struct node *n, bool *ret_done, const char **ret_why, struct err *err)
{
    CLEANUP(mem_freep) char *volumes = xasprintf("%s/volumes", n->dir);
    int64_t left = 0;
    int rc = wiper_all(k->wiper, volumes, ret_done, &left, err);
    if (rc == 0 && !*ret_done && ret_why)
        *ret_why = arena_printf(n->site->pass->arena, "%s: its volumes are wiped, %lld MiB are left", n->name, (long long)(left >> 20));
    return rc;
}

int node_remove(struct kaas *k, struct client *client, const struct node *n, bool *ret_done, const char **ret_why, int *files, struct err *err)
{
    char name[WORKLOAD_NAME_MAX];
    *ret_done = false;
    node_workload(n, name);
    if (!node_workload_end(k, name))
        return 0;
    struct err why = ERR_INIT;
    int rc = client ? join_forget(client, n->name, &why) : 0;
    if (rc == 0 && client)
        rc = storage_forget(client, n->name, &why);
    if (rc < 0 && rc != ERR_UNAVAILABLE && rc != ERR_TIMEOUT) /* one that does not answer keeps a Node of that name, which is not ready */
        return err_set(err, rc, "%s", why.msg);
    if (geteuid() == 0 && node_cgroups_remove(n->cgroup) < 0)
        return err_set(err, ERR_BUSY, "control groups of node %s cannot be removed", n->name);
    bool wiped = false;
    if ((rc = wipe(k, n, &wiped, ret_why, err)) < 0 || !wiped)
        return rc;
    if (file_exists(n->dir) && (rc = file_remove_tree(n->dir, err)) < 0)
        return rc;
    *files += 1 + remove_logs(k, name);
    *ret_done = true;
    return 0;
}

size_t nodes_list(const struct site *s, const char *pool, int from, struct arena *a, struct node *ret, size_t max)
{
    CLEANUP(mem_freep) char *root = xasprintf("%s/nodes", s->dir);
    size_t len = pool ? strlen(pool) : 0, n = 0;
    DIR *d = opendir(root);
    for (struct dirent *e; d && n < max && (e = readdir(d));) {
        const char *last = strrchr(e->d_name, '-');
        int64_t ordinal;
        if (e->d_name[0] == '.' || !last || str_to_i64(str_of(last + 1), 0, 100000, &ordinal) < 0)
            continue;
        if (pool && ((size_t)(last - e->d_name) != len || strncmp(e->d_name, pool, len) != 0 || ordinal < from))
            continue;
        const char *name = arena_strndup(a, str_n(e->d_name, (size_t)(last - e->d_name)));
        node_named(s, name, (int)ordinal, a, &ret[n++]);
    }
    if (d)
        closedir(d);
    return n;
}

/* ---- what was forced away ---- */

struct orphans {
    struct kaas *k;
    const struct site *alive;
    const char *root, *pool;
    struct arena *arena;
    size_t left;
    const char *stuck; /* a node whose control groups cannot be removed */
};

static void end_orphans_of(void *arg, const char *uid, const char *ns, const char *name)
{
    struct orphans *o = arg;
    if (!strcmp(uid, o->alive->uid) || strcmp(ns, o->alive->ns) != 0 ||
        strcmp(name, o->alive->name) != 0)
        return;
    const struct site s = {.uid = arena_strdup(o->arena, uid),
                           .ns = o->alive->ns,
                           .name = o->alive->name,
                           .dir = arena_printf(o->arena, "%s/%s", o->root, uid)};
    struct node nodes[NODES_MAX];
    size_t n = nodes_list(&s, o->pool, 0, o->arena, nodes, ARRAY_LEN(nodes));
    for (size_t i = 0; i < n; i++) {
        char workload[WORKLOAD_NAME_MAX];
        node_workload(&nodes[i], workload);
        if (!node_workload_end(o->k, workload))
            o->left++;
        else if (geteuid() == 0 && node_cgroups_remove(nodes[i].cgroup) < 0)
            o->stuck = arena_strdup(o->arena, nodes[i].name);
    }
}

int nodes_end_orphans(struct kaas *k, const struct site *s, const char *pool, struct arena *a,
                      size_t *ret_left, struct err *err)
{
    struct orphans o = {.k = k,
                        .alive = s,
                        .root = arena_printf(a, "%s/clusters", k->o.data_dir),
                        .pool = pool,
                        .arena = a};
    int rc = place_each(o.root, end_orphans_of, &o, err);
    if (rc == 0 && o.stuck)
        rc = err_set(err, ERR_BUSY, "control groups of node %s cannot be removed", o.stuck);
    if (rc == 0)
        *ret_left = o.left;
    return rc;
}

bool nodes_end_strays(struct kaas *k, const struct site *s, struct arena *a)
{
    struct node nodes[NODES_MAX];
    size_t n = nodes_list(s, NULL, 0, a, nodes, ARRAY_LEN(nodes));
    bool left = false;
    if (!n || !informer_synced(k->node_pools))
        return false;
    JSON_AUTO pools = informer_list(k->node_pools, s->ns);
    for (size_t i = 0; i < n; i++) {
        char workload[WORKLOAD_NAME_MAX];
        if (node_pool_is_there(pools, s->name, nodes[i].name))
            continue;
        node_workload(&nodes[i], workload);
        if (!node_workload_end(k, workload))
            left = true;
        else if (geteuid() == 0 && node_cgroups_remove(nodes[i].cgroup) < 0)
            log_warn("control groups of a node without a pool cannot be removed",
                     KV("node", nodes[i].name), KV("cluster", s->name));
    }
    return left;
}

/* ---- a cluster's end ---- */

/* The hub goes with its name, and the last one in it. */
static int remove_hub(const struct site *s, const char *data_dir, struct arena *a, struct err *err)
{
    const char *hub = arena_printf(a, "%s/net/hub", s->dir);
    while (umount2(hub, MNT_DETACH) == 0)
        ;
    if (errno != EINVAL && errno != ENOENT && errno != EPERM)
        return err_set(err, ERR_INTERNAL, "%s: %s", hub, strerror(errno));
    unlink(gate_socket(s, data_dir, a));
    return 0;
}

void node_network_release(const struct kaas *k, const char *uid)
{
    CLEANUP(mem_freep) char *hub = xasprintf("%s/clusters/%s/net/hub", k->o.data_dir, uid);
    while (umount2(hub, MNT_DETACH) == 0)
        ;
}

static void release_hub(void *arg, const char *uid, const char *ns UNUSED, const char *name UNUSED)
{
    node_network_release(arg, uid);
}

void node_pools_release(struct kaas *k)
{
    CLEANUP(mem_freep) char *root = xasprintf("%s/clusters", k->o.data_dir);
    place_each(root, release_hub, k, NULL);
}

int node_pools_remove(struct kaas *k, const struct site *s, struct cluster_memory *m, bool *ret_done, struct err *err)
{
    CLEANUP(arena_freep) struct arena *a = arena_new(1024 * 1024);
    struct node nodes[NODES_MAX];
    char name[WORKLOAD_NAME_MAX];
    size_t n = nodes_list(s, NULL, 0, a, nodes, ARRAY_LEN(nodes)), left = n;
    *ret_done = false;
    for (size_t i = 0; i < n; i++) {
        bool done = false;
        if (left < n) { /* one a pass has its files removed; the others end meanwhile */
            node_workload(&nodes[i], name);
            (void)node_workload_end(k, name);
            continue;
        }
        int rc = node_remove(k, NULL, &nodes[i], &done, NULL, &m->files, err);
        if (rc < 0)
            return rc;
        left -= done;
    }
    gate_workload(s, name);
    if (left || !node_workload_end(k, name))
        return 0;
    m->files += remove_logs(k, name);
    int rc = remove_hub(s, k->o.data_dir, a, err);
    *ret_done = rc == 0;
    return rc;
}
