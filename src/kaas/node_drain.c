/* Before a node ends: nothing is placed there any more, and what is there is evicted, as its disruption budgets allow, until a deadline. Then it ends as it is.
 * A file in the node's directory has the time of its beginning, so that a restart of ours goes on, and the node is given back when it is wanted after all. */
#include "kaas/node.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "net/http.h"

#define CALL_MS 3000u /* a refusal by a budget asks for another try in 10 s: the next look is that */
#define PODS_MAX 500    /* a page */
#define PAGES_MAX 20    /* a look; what is behind them counts as there */
#define PATH_MAX_BYTES 4096

static const struct client_resource nodes = {"", "v1", "nodes", false};

static int shortly(void *arg UNUSED, uint64_t *timeout_ms, struct err *err UNUSED)
{
    *timeout_ms = MIN(*timeout_ms, (uint64_t)CALL_MS);
    return 0;
}

static char *mark_of(const struct node *n)
{
    return xasprintf("%s/draining", n->dir);
}

static int64_t begun_ms(const struct node *n)
{
    CLEANUP(mem_freep) char *path = mark_of(n);
    CLEANUP(mem_freep) char *text = NULL;
    size_t len = 0;
    int64_t ms;
    return file_read(path, 32, &text, &len, NULL) == 0 && str_to_i64(str_n(text, len), 1, INT64_MAX, &ms) == 0 ? ms : 0;
}

/* Asked for, kept, and done by this program alone. */
static int cordon(struct client *c, const struct node *n, bool on, struct err *err)
{
    JSON_AUTO patch = json_pack("{s:{s:o}}", "spec", "unschedulable", on ? json_true() : json_null());
    return client_patch(c, &nodes, NULL, n->name, NULL, patch, NULL, err);
}

bool drain_waits_for(const json_t *pod)
{
    const char *phase = json_str_or(pod, "status.phase", "");
    json_t *owners = json_at(pod, "metadata.ownerReferences"), *owner;
    size_t i;
    if (obj_annotation(pod, "kubernetes.io/config.mirror"))
        return false;
    json_array_foreach (owners, i, owner)
        if (json_flag(owner, "controller", false) && !strcmp(json_str_or(owner, "kind", ""), "DaemonSet"))
            return false;
    /* A finished one that is deleted is there until its kubelet has cleaned up. */
    return json_str(pod, "metadata.deletionTimestamp") || (strcmp(phase, "Succeeded") != 0 && strcmp(phase, "Failed") != 0);
}

static int evict(struct client *c, const json_t *pod, struct err *err)
{
    const char *ns = json_str_or(pod, "metadata.namespace", ""), *name = json_str_or(pod, "metadata.name", "");
    CLEANUP(mem_freep) char *path = xasprintf("/api/v1/namespaces/%s/pods/%s/eviction", ns, name);
    JSON_AUTO body = json_pack("{s:s, s:s, s:{s:s, s:s}}", "apiVersion", "policy/v1", "kind", "Eviction", "metadata", "namespace", ns, "name", name);
    struct err why = ERR_INIT;
    int rc = client_post(c, path, body, NULL, &why);
    return rc == 0 || rc == ERR_NOT_FOUND ? 0 : err_set(err, rc, "pod %s in %s: %s", name, ns, why.msg);
}

static void look_at_page(struct client *c, const json_t *doc, struct arena *a, size_t *ret_left, const char **ret_why)
{
    json_t *pod;
    size_t i;
    json_array_foreach (json_at(doc, "items"), i, pod) {
        struct err why = ERR_INIT;
        if (!drain_waits_for(pod))
            continue;
        ++*ret_left;
        if (!json_str(pod, "metadata.deletionTimestamp") && !**ret_why && evict(c, pod, &why) < 0)
            *ret_why = arena_strdup(a, why.msg); /* the others have their turn at the next look: a try may take a while */
    }
}

bool drain_next_page(const json_t *doc, const char *node, struct sbuf *path)
{
    const char *next = doc ? json_str_or(doc, "metadata.continue", "") : "";
    if (doc && !*next)
        return false;
    sbuf_reset(path);
    sbuf_addf(path, "/api/v1/pods?fieldSelector=spec.nodeName%%3D%s&limit=%d", node, PODS_MAX);
    if (*next) {
        sbuf_addc(path, "&continue=");
        http_encode(path, str_of(next));
    }
    return true;
}

/* *ret_left: pods that are there still; *ret_why: what holds one up. Finished ones may fill whole pages. */
static int look(struct client *c, const struct node *n, struct arena *a, size_t *ret_left, const char **ret_why, struct err *err)
{
    CLEANUP(sbuf_deinit) struct sbuf path = {0};
    JSON_AUTO doc = NULL;
    sbuf_init(&path, PATH_MAX_BYTES);
    for (int i = 0; drain_next_page(doc, n->name, &path); i++) {
        json_decref(doc);
        doc = NULL;
        if (i == PAGES_MAX || !sbuf_ok(&path)) {
            ++*ret_left;
            return 0;
        }
        int rc = client_get_path(c, path.ptr, &doc, err);
        if (rc < 0)
            return rc;
        look_at_page(c, doc, a, ret_left, ret_why);
    }
    return 0;
}

bool node_drained(struct client *through, const struct node *n, int64_t limit_s, struct arena *a, const char **ret_why)
{
    CLEANUP(mem_freep) char *mark = mark_of(n);
    struct err err = ERR_INIT;
    const char *held = "";
    size_t left = 0;
    int64_t began = begun_ms(n), now = clock_wall_ms();
    if (limit_s <= 0 || !file_exists(n->dir))
        return true;
    if (!began) {
        char text[24];
        snprintf(text, sizeof(text), "%lld", (long long)now);
        if (file_write(mark, str_of(text), 0600, &err) < 0)
            return true; /* a disk that takes nothing is no reason to keep it */
        began = now;
    }
    if (now - began >= limit_s * 1000 || now < began - limit_s * 1000)
        return true;
    struct client *c = client_fenced(through, shortly, NULL);
    int rc = cordon(c, n, true, &err);
    if (rc == 0)
        rc = look(c, n, a, &left, &held, &err);
    client_free(c);
    if (rc == ERR_NOT_FOUND || (rc == 0 && !left))
        return true;
    *ret_why = arena_printf(a, "%s is drained for %lld s at most: %s", n->name, (long long)(limit_s - (now - began) / 1000), rc < 0 ? err.msg : *held ? held : arena_printf(a, "%zu pods end", left));
    return false;
}

int node_undrain(struct client *c, const struct node *n, struct err *err)
{
    CLEANUP(mem_freep) char *mark = mark_of(n);
    if (!file_exists(mark))
        return 0;
    int rc = cordon(c, n, false, err);
    if (rc < 0 && rc != ERR_NOT_FOUND)
        return rc;
    return unlink(mark) < 0 && errno != ENOENT ? err_sys(err, errno, "%s", mark) : 0;
}
