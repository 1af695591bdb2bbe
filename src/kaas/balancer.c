#include "kaas/balancer.h"

#include <stdatomic.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "kaas/node.h"
#include "node/gate_balance.h"

#define CONTROLLER "balancer"
#define WORKERS 2
#define SHARE 1
#define LOOK_MS 100u /* while a gate is to take a table */
#define SYNC_MS 250u
#define GATE_MS 2000u /* while there is no gate yet */
#define IDLE_MS 60000u /* the certificate is looked at */

/* Followed by informers only, never stored here. */
static const struct kind kind_service = {.group = "", .version = "v1", .name = "Service", .plural = "services", .namespaced = true};
static const struct kind kind_slice = {.group = "discovery.k8s.io", .version = "v1", .name = "EndpointSlice", .plural = "endpointslices", .namespaced = true};
static const struct client_resource events = {"", "v1", "events", true};

/* One cluster. */
struct followed {
    struct balancers *all;
    char *ns, *name, *uid;
    struct client *client;
    struct timespec certificate; /* when the file was made that the client has read */
    struct informer *services, *slices; /* slices: NULL until there is a Service to serve */
    struct map *told;                   /* uid of a Service → what it was told last */
};
struct balancers {
    struct kaas *k;
    struct cluster_network range;
    bool any; /* there is a range */
    uint16_t own[BALANCER_OWN_MAX]; /* ports that no Service gets */
    atomic_bool stopping;
    pthread_mutex_t lock; /* of `of`, and of all tables on disk */
    struct map *of;       /* "NS/NAME" → struct followed * */
};

struct pass {
    struct balancers *all;
    struct reconcile *r;
    struct site site;
    struct followed *f;
    const char *path;
    json_t *table;  /* as it is on disk now */
    json_t *failed; /* from the gate */
    bool taken;     /* the gate has it */
};

/* ---- following ---- */

static void wake(struct followed *f)
{
    if (!atomic_load(&f->all->stopping))
        manager_enqueue(f->all->k->manager, CONTROLLER, f->ns, f->name);
}

static bool matters(const json_t *service)
{
    return service && (balancer_wants(service) || obj_has_finalizer(service, BALANCER_FINALIZER));
}

static void on_service(void *arg, json_t *prev, json_t *now)
{
    if (matters(prev) || matters(now))
        wake(arg);
}

static void on_slice(void *arg, json_t *prev, json_t *now)
{
    struct followed *f = arg;
    const json_t *slice = now ? now : prev;
    const char *name = obj_label(slice, "kubernetes.io/service-name");
    JSON_AUTO service = name ? informer_get(f->services, obj_namespace(slice), name) : NULL;
    if (matters(service))
        wake(f);
}

static void on_synced(void *arg)
{
    wake(arg);
}

static void followed_free(void *p)
{
    struct followed *f = p;
    if (f->services)
        informer_stop(f->services);
    if (f->slices)
        informer_stop(f->slices);
    informer_free(f->slices);
    informer_free(f->services);
    client_free(f->client);
    map_free(f->told);
    mem_free(f->ns);
    mem_free(f->name);
    mem_free(f->uid);
    mem_free(f);
}

static int follow(struct followed *f, const struct kind *kind, void (*changed)(void *, json_t *, json_t *), struct informer **ret, struct err *err)
{
    struct informer *i = informer_new(f->client, kind);
    informer_add_handler(i, &(struct informer_handler){.changed = changed, .synced = on_synced, .arg = f});
    int rc = informer_start(i, err);
    if (rc < 0) {
        informer_free(i);
        return rc;
    }
    *ret = i;
    return 0;
}

static const char *key_of(const struct pass *p)
{
    return arena_printf(p->r->arena, "%s/%s", p->r->ns, p->r->name);
}

static void drop(struct pass *p)
{
    pthread_mutex_lock(&p->all->lock);
    map_del(p->all->of, str_of(key_of(p)));
    pthread_mutex_unlock(&p->all->lock);
}

/* Only this cluster's pass changes its entry. A client keeps the certificate that it has read, and once that is over it is told nothing any more: with a new one all is followed anew. */
static int find(struct pass *p, struct err *err)
{
    struct followed *f = map_getc(p->all->of, key_of(p));
    const char *certificate = arena_printf(p->r->arena, "%s/pki/super-admin.crt", p->site.dir);
    struct map *told = NULL;
    struct stat st = {0};
    bool there = stat(certificate, &st) == 0;
    if (f && !strcmp(f->uid, p->site.uid)) {
        if (!there || (f->certificate.tv_sec == st.st_mtim.tv_sec && f->certificate.tv_nsec == st.st_mtim.tv_nsec)) {
            p->f = f;
            return 0;
        }
        told = f->told; /* Services do not hear it all again */
        f->told = NULL;
        map_del(p->all->of, str_of(key_of(p)));
    }
    if (atomic_load(&p->all->stopping)) {
        map_free(told);
        return err_set(err, ERR_CANCELED, "sekid stops");
    }
    f = XNEW(struct followed);
    *f = (struct followed){.all = p->all, .ns = xstrdup(p->r->ns), .name = xstrdup(p->r->name), .uid = xstrdup(p->site.uid), .certificate = st.st_mtim, .told = told ? told : map_new(mem_free)};
    int rc = access_client(&p->site, &f->client, err);
    if (rc == 0)
        rc = follow(f, &kind_service, on_service, &f->services, err);
    if (rc < 0) {
        followed_free(f);
        return rc;
    }
    map_set(p->all->of, str_of(key_of(p)), f);
    p->f = f;
    return 0;
}

/* ---- the table, and whose which address is ---- */

static const json_t *row_of(const json_t *table, const char *uid)
{
    size_t i;
    json_t *row;
    json_array_foreach (json_at(table, "services"), i, row)
        if (!strcmp(json_str_or(row, "uid", ""), uid))
            return row;
    return NULL;
}

/* In order, so that a small range is used up; its own address and its last are for networks. */
static bool take_address(const struct pass *p, struct map *taken, char ret[16])
{
    const struct cluster_network *n = &p->all->range;
    uint32_t count = n->bits ? 1u << (32 - n->bits) : 0, first = n->bits < 31, last = count - (n->bits < 31);
    bool found = false;
    for (uint32_t i = first; i < last && !found; i++) {
        cluster_network_address(n, i, ret);
        found = !map_getc(taken, ret);
    }
    if (found)
        map_set(taken, str_of(ret), taken);
    return found;
}

static bool in_range(const struct balancers *b, const char *address)
{
    CLEANUP(mem_freep) char *text = xasprintf("%s/32", address);
    struct cluster_network one;
    return b->any && cluster_network_parse(text, &one, NULL) == 0 && cluster_networks_overlap(&b->range, &one);
}

/* ---- what a Service is told ---- */

/* Once for each new reason. */
static void tell(struct pass *p, const json_t *service, const char *type, const char *reason, const char *message)
{
    char now[CLOCK_TEXT_MAX];
    const char *last = map_getc(p->f->told, obj_uid(service));
    struct err err = ERR_INIT;
    if (last && !strcmp(last, message))
        return;
    map_set(p->f->told, str_of(obj_uid(service)), xstrdup(message));
    clock_format(clock_wall_ms(), now);
    JSON_AUTO event = json_pack("{s:s, s:s, s:{s:s, s:s}, s:{s:s, s:s, s:s, s:s, s:s}, s:s, s:s, s:s, s:{s:s}, s:s, s:s, s:i}", "apiVersion", "v1", "kind", "Event", "metadata", "generateName", "balancer.", "namespace",
                                obj_namespace(service), "involvedObject", "apiVersion", "v1", "kind", "Service", "namespace", obj_namespace(service), "name", obj_name(service), "uid", obj_uid(service), "type", type,
                                "reason", reason, "message", message, "source", "component", "seki-balancer", "firstTimestamp", now, "lastTimestamp", now, "count", 1);
    if (client_create(p->f->client, &events, obj_namespace(service), event, NULL, &err) < 0)
        log_debug("an Event of a Service could not be written", KV("service", obj_name(service)), KVE(&err));
}

static int set_finalizer(struct pass *p, const json_t *service, bool there, struct err *err)
{
    struct client_resource r = kind_resource(&kind_service);
    JSON_AUTO changed = json_deep_copy(service);
    struct err why = ERR_INIT;
    if (there)
        obj_add_finalizer(changed, BALANCER_FINALIZER);
    else
        obj_drop_finalizer(changed, BALANCER_FINALIZER);
    JSON_AUTO patch = json_pack("{s:{s:s, s:O}}", "metadata", "resourceVersion",
                                json_str_or(service, "metadata.resourceVersion", ""), "finalizers",
                                json_at(changed, "metadata.finalizers"));
    int rc = client_patch(p->f->client, &r, obj_namespace(service), obj_name(service), NULL, patch, NULL, &why);
    return rc == 0 || rc == ERR_CONFLICT || rc == ERR_NOT_FOUND ? 0 : err_set(err, rc, "Service %s/%s: %s", obj_namespace(service), obj_name(service), why.msg); /* its event comes */
}

static bool same_ingress(const json_t *is, const json_t *want)
{
    const json_t *a = json_array_get(is, 0), *b = json_array_get(want, 0);
    return json_array_size(is) == json_array_size(want) && (!b || (!strcmp(json_str_or(a, "ip", ""), json_str_or(b, "ip", "")) && json_equal(json_object_get(a, "ports"), json_object_get(b, "ports"))));
}

static int set_ingress(struct pass *p, const json_t *service, json_t *want, struct err *err)
{
    struct client_resource r = kind_resource(&kind_service);
    struct err why = ERR_INIT;
    if (same_ingress(json_at(service, "status.loadBalancer.ingress"), want))
        return 0;
    JSON_AUTO patch = json_pack("{s:{s:{s:O}}}", "status", "loadBalancer", "ingress", want);
    int rc = client_patch(p->f->client, &r, obj_namespace(service), obj_name(service), "status", patch, NULL, &why);
    if (rc < 0 && rc != ERR_NOT_FOUND)
        return err_set(err, rc, "Service %s/%s: %s", obj_namespace(service), obj_name(service), why.msg);
    return 0;
}

/* ---- one pass ---- */

/* Rows of all Services that are to have an address and have the finalizer; the addresses that they had, or others. */
static json_t *make_rows(struct pass *p, const json_t *services, const json_t *slices, struct err *err)
{
    CLEANUP(mem_freep) char *root = xasprintf("%s/clusters", p->all->k->o.data_dir);
    struct map *taken = NULL; /* until the first is to be taken */
    JSON_AUTO table = json_pack("{s:[]}", "services");
    json_t *rows = json_at(table, "services"), *s;
    size_t i;
    /* Those that have one first: nobody takes theirs. */
    for (int round = 0; round < 2; round++)
        json_array_foreach ((json_t *)(uintptr_t)services, i, s) {
            const json_t *old = row_of(p->table, obj_uid(s));
            bool keeps = old && in_range(p->all, json_str_or(old, "address", ""));
            char address[16] = "";
            if (!p->all->any || !balancer_wants(s) || !obj_has_finalizer(s, BALANCER_FINALIZER) || keeps != (round == 0))
                continue;
            if (!keeps && json_array_size(rows) >= BALANCER_SERVICES_MAX)
                continue;
            if (keeps)
                (void)!str_to_array(str_of(json_str_or(old, "address", "")), address, sizeof(address));
            else if (!taken) {
                taken = map_new(NULL);
                if (balancer_taken(root, p->site.uid, taken, err) < 0) {
                    map_free(taken);
                    return NULL;
                }
                balancer_collect(taken, table);
            }
            if (!keeps && !take_address(p, taken, address))
                continue;
            json_array_append_new(rows, balancer_row(s, slices, address, p->all->own));
        }
    map_free(taken);
    return json_incref(rows);
}

static int write_table(struct pass *p, const json_t *services, const json_t *slices, struct err *err)
{
    CLEANUP(sbuf_deinit) struct sbuf text = {0};
    JSON_AUTO rows = make_rows(p, services, slices, err);
    if (!rows)
        return err->code;
    json_t *old = json_at(p->table, "services");
    if (old ? json_equal(old, rows) : !json_array_size(rows))
        return 0;
    json_t *doc = json_pack("{s:I, s:O}", "generation", (json_int_t)json_int(p->table, "generation", 0) + 1, "services", rows);
    json_decref(p->table);
    p->table = doc;
    sbuf_init(&text, BALANCE_TABLE_MAX);
    json_write_pretty(doc, &text);
    if (!sbuf_ok(&text))
        return err_set(err, ERR_TOO_LARGE, "the Services of this cluster have more pods than a table has room for");
    return file_write(p->path, sbuf_str(&text), 0600, err);
}

/* One Service, with the table written. */
static int look_at(struct pass *p, const json_t *service, struct err *err)
{
    struct arena *a = p->r->arena;
    const json_t *row = row_of(p->table, obj_uid(service));
    const char *reason = NULL, *why = NULL;
    if (!balancer_wants(service)) {
        if (!balancer_is_ours(service) || !obj_has_finalizer(service, BALANCER_FINALIZER))
            return 0;
        if (!p->taken) {
            p->r->requeue_ms = LOOK_MS;
            return 0;
        }
        JSON_AUTO none = json_array();
        int rc = set_ingress(p, service, none, err);
        map_del(p->f->told, str_of(obj_uid(service)));
        return rc < 0 ? rc : set_finalizer(p, service, false, err);
    }
    if (!p->all->any) {
        JSON_AUTO none = json_array();
        tell(p, service, "Warning", "NoAddresses", "this cloud has no addresses for Services of type LoadBalancer");
        return set_ingress(p, service, none, err);
    }
    if (!obj_has_finalizer(service, BALANCER_FINALIZER))
        return set_finalizer(p, service, true, err);
    if (!row) {
        JSON_AUTO none = json_array();
        if (json_array_size(json_at(p->table, "services")) >= BALANCER_SERVICES_MAX)
            tell(p, service, "Warning", "QuotaExceeded", arena_printf(a, "%d Services of this cluster have an address, and more may not; one is waited for", BALANCER_SERVICES_MAX));
        else
            tell(p, service, "Warning", "NoAddresses", "all addresses for Services of type LoadBalancer are taken; one is waited for");
        return set_ingress(p, service, none, err);
    }
    if (!p->taken) {
        p->r->requeue_ms = LOOK_MS;
        return 0;
    }
    JSON_AUTO want = balancer_ingress(service, row, p->failed, p->all->own, a, &reason, &why);
    int rc = set_ingress(p, service, want, err);
    if (rc == 0 && why)
        tell(p, service, "Warning", reason, why);
    else if (rc == 0)
        tell(p, service, "Normal", "AddressAssigned", arena_printf(a, "it is reached at %s", json_str_or(row, "address", "")));
    return rc;
}

static int serve(struct pass *p, struct err *err)
{
    JSON_AUTO services = informer_list(p->f->services, NULL);
    JSON_AUTO slices = NULL;
    size_t i, wanted = 0;
    json_t *s;
    int rc = 0;
    json_array_foreach (services, i, s)
        wanted += balancer_wants(s);
    if (wanted && !p->f->slices && (rc = follow(p->f, &kind_slice, on_slice, &p->f->slices, err)) < 0)
        return rc;
    if (p->f->slices && !informer_synced(p->f->slices)) {
        p->r->requeue_ms = SYNC_MS;
        return 0;
    }
    slices = p->f->slices ? informer_list(p->f->slices, NULL) : json_array();
    pthread_mutex_lock(&p->all->lock);
    rc = write_table(p, services, slices, err);
    pthread_mutex_unlock(&p->all->lock);
    JSON_AUTO said = NULL;
    struct err unsaid = ERR_INIT;
    int heard = balancer_table_read(arena_printf(p->r->arena, "%s/net/" BALANCE_SAID, p->site.dir), &said, &unsaid);
    if (heard < 0 && rc == 0)
        rc = err_set(err, heard, "%s", unsaid.msg);
    p->failed = json_at(said, "failed");
    p->taken = json_int(said, "generation", 0) >= json_int(p->table, "generation", 0);
    p->r->requeue_ms = wanted ? p->all->k->o.probe_ms : IDLE_MS;
    json_array_foreach (services, i, s) {
        struct err why = ERR_INIT;
        int one = rc < 0 ? rc : look_at(p, s, &why);
        if (one < 0 && rc == 0)
            rc = err_set(err, one, "%s", why.msg);
    }
    p->failed = NULL;
    return rc;
}

static int balancer_reconcile(void *ctx, struct reconcile *r, struct err *err)
{
    struct balancers *b = ctx;
    struct pass p = {.all = b, .r = r};
    if (!r->obj || !obj_uid(r->obj) || obj_deleting(r->obj) || !json_at(r->obj, "status.createMilliseconds") || *suspended_tenant(b->k, r->ns, r->arena)) {
        drop(&p);
        return 0;
    }
    p.site = (struct site){.ns = r->ns, .name = r->name, .uid = obj_uid(r->obj), .programs = ""};
    p.site.dir = arena_printf(r->arena, "%s/clusters/%s", b->k->o.data_dir, p.site.uid);
    p.path = arena_printf(r->arena, "%s/net/" BALANCE_TABLE, p.site.dir);
    if (!gate_is_there(&p.site, b->k->o.data_dir) || place_load(&p.site, NULL) < 0) {
        r->requeue_ms = GATE_MS;
        return 0;
    }
    pthread_mutex_lock(&b->lock);
    int rc = find(&p, err);
    pthread_mutex_unlock(&b->lock);
    if (rc < 0)
        return rc == ERR_CANCELED ? 0 : rc;
    if (!informer_synced(p.f->services)) {
        r->requeue_ms = SYNC_MS;
        return 0;
    }
    if ((rc = balancer_table_read(p.path, &p.table, err)) < 0)
        return rc;
    rc = serve(&p, err);
    json_decref(p.table);
    return rc;
}

/* ---- life ---- */

int balancers_new(struct kaas *k, const char *range, const char *const *listens, struct balancers **ret, struct err *err)
{
    static const struct controller_ops controller = {.name = CONTROLLER, .primary = &kind_cluster, .workers = WORKERS, .share = SHARE, .reconcile = balancer_reconcile};
    struct cluster_network n = {0};
    if (*range && cluster_network_parse(range, &n, err) < 0)
        return err_wrap(err, "kubernetes-balancer-addresses=%s", range);
    if (*range && (n.bits < 8 || cluster_networks_overlap(&n, &k->addresses)))
        return err_set(err, ERR_INVALID, "kubernetes-balancer-addresses=%s: expected a network of /8 or smaller that shares nothing with kubernetes-addresses", range);
    struct balancers *b = XNEW(struct balancers);
    *b = (struct balancers){.k = k, .range = n, .any = *range != 0, .of = map_new(followed_free)};
    balancer_own_ports(listens, &n, b->own);
    pthread_mutex_init(&b->lock, NULL);
    manager_add(k->manager, &controller, b);
    *ret = b;
    return 0;
}

void balancers_stop(struct balancers *b)
{
    struct map_iter it = MAP_ITER_INIT;
    atomic_store(&b->stopping, true);
    pthread_mutex_lock(&b->lock);
    while (map_next(b->of, &it)) {
        struct followed *f = it.value;
        informer_stop(f->services);
        if (f->slices)
            informer_stop(f->slices);
    }
    pthread_mutex_unlock(&b->lock);
}

void balancers_free(struct balancers *b)
{
    if (!b)
        return;
    map_free(b->of);
    pthread_mutex_destroy(&b->lock);
    mem_free(b);
}
