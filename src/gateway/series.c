#include "gateway/series.h"

struct names {
    struct map *tenants, *projects;
    struct map *endpoints; /* "PROJECT/NAME" */
    struct map *names, *served; /* of endpoints, whosever; served: of routes, too */
};

static void put(struct map *m, const char *name)
{
    map_set(m, str_of(name), m);
}

static bool has(const struct map *m, const char *name)
{
    return map_getc(m, name) != NULL;
}

static struct str full_name(char to[600], const char *project, const char *name)
{
    snprintf(to, 600, "%s/%s", project, name);
    return str_of(to);
}

static void add_endpoint(void *arg, const struct snap_endpoint *e)
{
    struct names *n = arg;
    char full[600];
    put(n->served, e->served);
    put(n->projects, e->project);
    if (e->is_route)
        return;
    put(n->names, e->name);
    map_set(n->endpoints, full_name(full, e->project, e->name), n->endpoints);
}

static void add_key(void *arg, const struct snap_key *k)
{
    struct names *n = arg;
    put(n->tenants, k->tenant);
    put(n->projects, k->project);
}

/* ---- by what labels a family has ---- */

static bool has_endpoint(const struct names *n, const char *project, const char *name)
{
    char full[600];
    return map_get(n->endpoints, full_name(full, project, name)) != NULL;
}

static bool tenant_and_endpoint(void *arg, const char *const *labels)
{
    return has(((struct names *)arg)->tenants, labels[0]) && has_endpoint(arg, labels[1], labels[2]);
}

static bool endpoint(void *arg, const char *const *labels)
{
    return has_endpoint(arg, labels[0], labels[1]);
}

/* The project is the caller's, the endpoint may be another one's. */
static bool project_and_name(void *arg, const char *const *labels)
{
    const struct names *n = arg;
    return has(n->projects, labels[0]) && has(n->names, labels[1]);
}

static bool model(void *arg, const char *const *labels)
{
    return has(((struct names *)arg)->served, labels[1]);
}

void series_sweep(const struct gateway_metrics *m, const struct snapshot *s, uint64_t now_ms)
{
    struct names n = {map_new(NULL), map_new(NULL), map_new(NULL), map_new(NULL), map_new(NULL)};
    const struct {
        struct metric_family *family;
        bool (*there)(void *arg, const char *const *labels);
    } all[] = {{m->latency.queue, tenant_and_endpoint}, {m->latency.first, tenant_and_endpoint}, {m->latency.per_token, tenant_and_endpoint}, {m->latency.duration, tenant_and_endpoint},
               {m->slo.requests, tenant_and_endpoint}, {m->slo.budget, endpoint}, {m->tokens, project_and_name}, {m->duration, model}, {m->first, model}, {m->per_token, model}};
    snapshot_each_endpoint(s, add_endpoint, &n);
    snapshot_each_key(s, add_key, &n);
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        metric_family_sweep(all[i].family, all[i].there, &n, now_ms, SERIES_KEEP_MS);
    map_free(n.tenants);
    map_free(n.projects);
    map_free(n.endpoints);
    map_free(n.names);
    map_free(n.served);
}

void series_memos_drop(struct gateway_series *memos, size_t count)
{
    _Static_assert(sizeof(*memos) % sizeof(struct metric *) == 0, "pointers to series, and nothing else");
    struct metric **at = (struct metric **)memos;
    for (size_t i = 0; i < count * sizeof(*memos) / sizeof(*at); i++)
        metric_memo_drop(&at[i]);
}
