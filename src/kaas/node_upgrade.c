/* Nodes come to another version one after the other. Who has it is read from their directories and from the cluster, so nothing of it is lost with a restart of ours. */
#include "kaas/upgrade.h"

#include <dirent.h>

#include "base/file.h"
#include "base/mem.h"

#define SETTINGS_MAX 65536

static const struct client_resource nodes = {"", "v1", "nodes", false};

/* "1.36": which programs a node of that directory was made with; "": it was not yet. */
static void made_with(const char *dir, char ret[8])
{
    CLEANUP(mem_freep) char *path = xasprintf("%s/node.json", dir);
    JSON_AUTO doc = NULL;
    *ret = 0;
    if (json_read_file(path, SETTINGS_MAX, &doc, NULL) < 0)
        return;
    const char *last = strrchr(json_str_or(doc, "programs", ""), '/');
    if (last && cluster_minor(last + 1) >= 0)
        (void)!str_to_array(str_of(last + 1), ret, 8);
}

static bool is_ready(const json_t *node)
{
    size_t i;
    json_t *c;
    json_array_foreach (json_at(node, "status.conditions"), i, c)
        if (!strcmp(json_str_or(c, "type", ""), "Ready"))
            return !strcmp(json_str_or(c, "status", ""), "True");
    return false;
}

static const json_t *node_of(const json_t *list, const char *name)
{
    size_t i;
    json_t *node;
    json_array_foreach ((json_t *)(uintptr_t)list, i, node)
        if (!strcmp(obj_name(node), name))
            return node;
    return NULL;
}

/* Each node that there is on disk and has a pool (a pool that was torn away leaves directories that no pass brings anywhere; preflight looks at what such nodes are in the cluster): is it ready, with the kubelet that its directory says (minor NULL) or minor? */
static const char *first_not_so(struct kaas *k, const struct site *s, const json_t *list, const char *minor, struct arena *a)
{
    CLEANUP(mem_freep) char *root = xasprintf("%s/nodes", s->dir);
    JSON_AUTO pools = informer_list(k->node_pools, s->ns);
    const char *why = NULL;
    DIR *d = opendir(root);
    for (struct dirent *e; d && !why && (e = readdir(d));) {
        char has[8];
        if (e->d_name[0] == '.' || !node_pool_is_there(pools, s->name, e->d_name))
            continue;
        CLEANUP(mem_freep) char *dir = xasprintf("%s/%s", root, e->d_name);
        made_with(dir, has);
        const json_t *found = node_of(list, e->d_name);
        const char *runs = found ? json_str_or(found, "status.nodeInfo.kubeletVersion", "") : "";
        if (!found || !is_ready(found))
            why = arena_printf(a, "node %s is not ready", e->d_name);
        else if (preflight_kubelet(runs) != cluster_minor(minor ? minor : has))
            why = arena_printf(a, "node %s runs %s", e->d_name, runs);
    }
    if (d)
        closedir(d);
    return why;
}

int nodes_count(struct kaas *k, const struct site *s)
{
    CLEANUP(mem_freep) char *root = xasprintf("%s/nodes", s->dir);
    JSON_AUTO pools = informer_list(k->node_pools, s->ns);
    DIR *d = opendir(root);
    int n = 0;
    for (struct dirent *e; d && (e = readdir(d));)
        n += e->d_name[0] != '.' && node_pool_is_there(pools, s->name, e->d_name);
    if (d)
        closedir(d);
    return n;
}

int nodes_run(struct kaas *k, const struct site *s, struct client *c, const char *minor, struct arena *a, const char **ret_why, struct err *err)
{
    JSON_AUTO list = NULL;
    int rc = client_list(c, &nodes, NULL, NULL, &list, NULL, err);
    if (rc == 0)
        *ret_why = first_not_so(k, s, list, minor, a);
    return rc;
}

/* The turn is somebody's until he runs the new version, or is gone. */
static bool take_turn(const struct site *s, const json_t *list, const char *to, const char *name, struct arena *a)
{
    const char *path = arena_printf(a, "%s/turn", s->dir);
    CLEANUP(mem_freep) char *holder = NULL;
    size_t len = 0;
    if (file_read(path, NODE_NAME_MAX, &holder, &len, NULL) == 0 && strcmp(holder, name) != 0 && file_exists(arena_printf(a, "%s/nodes/%s", s->dir, holder))) {
        const json_t *node = node_of(list, holder);
        if (!node || !is_ready(node) || preflight_kubelet(json_str_or(node, "status.nodeInfo.kubeletVersion", "")) != cluster_minor(to))
            return false;
    }
    return file_write(path, str_of(name), 0600, NULL) == 0;
}

static const struct site *with(const struct kaas *k, const struct site *s, const char *minor, struct arena *a)
{
    struct site *copy = ARENA_ARRAY(a, struct site, 1);
    *copy = *s;
    copy->programs = arena_printf(a, "%s/%s", k->o.programs_dir, minor);
    return copy;
}

const struct site *node_site(struct kaas *k, const struct site *s, const struct version_record *v, struct client *c, const char *node, struct arena *a, struct err *err)
{
    char has[8];
    if (v->stage < UPGRADE_NODES)
        return with(k, s, v->minor, a);
    made_with(arena_printf(a, "%s/nodes/%s", s->dir, node), has);
    if (!*has || !strcmp(has, v->to))
        return with(k, s, v->to, a); /* a new one needs no turn */
    JSON_AUTO list = NULL;
    if (client_list(c, &nodes, NULL, NULL, &list, NULL, err) < 0)
        return NULL;
    bool turn = !first_not_so(k, s, list, NULL, a);
    /* Passes of other pools ask the same at the same time. */
    pthread_mutex_lock(&k->lock);
    turn = turn && take_turn(s, list, v->to, node, a);
    pthread_mutex_unlock(&k->lock);
    return with(k, s, turn ? v->to : has, a);
}
