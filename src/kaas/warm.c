/* The warm pool: how many places there are, in which state, and whose they become. */
#include "kaas/warm.h"

#include <dirent.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/metrics.h"
#include "base/vec.h"

#define ARENA_MAX (1024 * 1024)
#define MAKE_MS 150000u   /* a place that is not ready after that is thrown away … */
#define AGAIN_MS 30000u   /* … and the next one begun so long after it */
#define OFFER_MS 60000u   /* an offer whose Cluster has not been seen by then was for nothing: its commit failed */
#define LOOK_MS 50u       /* while one is made, or ends */
#define WAIT_MS 500u      /* for Clusters that are made */
#define IDLE_MS 3600000u  /* somebody wakes it */
#define CREATION_MS 600000 /* a Cluster that is not ready for so long is in nobody's way */

struct warm {
    struct kaas *k;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    pthread_t thread;
    bool started, stopping, listed;
    struct arena *arena;
    struct cluster spec; /* what is made */
    size_t wanted;
    uint64_t again_ms;
    VEC(struct warm_place *) places;
    struct metric *ready, *want, *memory;
};

/* ---- which Cluster ---- */

static bool same_words(const char *const *a, const char *const *b)
{
    while (*a && *b && !strcmp(*a, *b)) {
        a++;
        b++;
    }
    return !*a && !*b;
}

bool warm_fits(const struct cluster *want, const struct cluster *have, const struct site *place, const char *programs_dir, struct arena *a)
{
    struct node_network w;
    struct site s = *place;
    if (want->spec.control_plane.replicas != have->spec.control_plane.replicas || node_network_of(want, &w, NULL) < 0 || strcmp(w.nodes_text, place->node_network) != 0)
        return false;
    s.programs = arena_printf(a, "%s/%s", programs_dir, want->spec.version);
    memcpy(s.gate, w.gate, sizeof(s.gate));
    for (enum component c = 0; c < COMPONENTS; c++)
        for (int m = 0; m < component_count(place, c); m++) {
            struct plan its = {0}, of_place = {0};
            plan_component(c, m, want, &s, a, &its);
            plan_component(c, m, have, place, a, &of_place);
            if (!same_words(its.argv, of_place.argv) || !same_words(its.env, of_place.env))
                return false;
        }
    return true;
}

void warm_busy(const json_t *clusters, int64_t now_ms, bool *ret_any, bool *ret_from_nothing)
{
    size_t i;
    json_t *c;
    *ret_any = *ret_from_nothing = false;
    json_array_foreach ((json_t *)(uintptr_t)clusters, i, c) {
        int64_t since = status_time(c, "metadata.creationTimestamp");
        if (obj_deleting(c) || json_at(c, "status.createMilliseconds") || now_ms - since > CREATION_MS)
            continue;
        *ret_any = true;
        *ret_from_nothing = *ret_from_nothing || !cluster_is_claimed(c);
    }
}

static const json_t *with_uid(const json_t *clusters, const char *uid)
{
    size_t i;
    json_t *c;
    json_array_foreach ((json_t *)(uintptr_t)clusters, i, c)
        if (obj_uid(c) && !strcmp(obj_uid(c), uid))
            return c;
    return NULL;
}

/* ---- states; under the lock ---- */

static void become(struct warm_place *p, enum warm_state state)
{
    p->state = state;
    p->since_ms = clock_mono_ms();
}

static struct warm_place *find(struct warm *w, const char *uid)
{
    VEC_FOREACH (&w->places, p)
        if (!strcmp((*p)->site.uid, uid))
            return *p;
    return NULL;
}

/* Of the pool's thread: only if nobody else has changed the state meanwhile. */
static bool turn(struct warm *w, struct warm_place *p, enum warm_state from, enum warm_state to)
{
    pthread_mutex_lock(&w->lock);
    bool is = p->state == from;
    if (is)
        become(p, to);
    pthread_mutex_unlock(&w->lock);
    return is;
}

const char *warm_offer(struct warm *w, struct arena *a, const json_t *cluster)
{
    struct cluster want;
    const char *uid = NULL;
    if (!w || !w->wanted)
        return NULL;
    CLEANUP(arena_freep) struct arena *own = arena_new(ARENA_MAX);
    if (kind_decode(&kind_cluster, cluster, own, &want, NULL) < 0)
        return NULL;
    pthread_mutex_lock(&w->lock);
    for (size_t i = 0; !uid && !w->stopping && i < w->places.len; i++) {
        struct warm_place *p = w->places.ptr[i];
        if (p->state != WARM_READY || !warm_fits(&want, &w->spec, &p->site, w->k->o.programs_dir, own))
            continue;
        uid = arena_strdup(a, p->site.uid);
        become(p, WARM_OFFERED);
    }
    pthread_cond_signal(&w->wake);
    pthread_mutex_unlock(&w->lock);
    return uid;
}

/* ---- the claim; in a Cluster's pass ---- */

/* *ret_key: a copy of the place's, or NULL when nobody knows it. False: the pool's thread is at work on it, or removes it. */
static bool its_key(struct warm *w, const char *uid, json_t **ret_key)
{
    *ret_key = NULL;
    pthread_mutex_lock(&w->lock);
    const struct warm_place *p = find(w, uid);
    bool mine = p && (p->busy || p->state == WARM_ENDING);
    if (p && !mine && p->key)
        *ret_key = json_deep_copy(p->key);
    pthread_mutex_unlock(&w->lock);
    return !mine;
}

bool warm_let_go(struct warm *w, const char *uid)
{
    pthread_mutex_lock(&w->lock);
    struct warm_place *p = find(w, uid);
    bool mine = p && (p->busy || p->state == WARM_ENDING);
    if (p && !mine)
        become(p, WARM_CLAIMED);
    pthread_cond_signal(&w->wake);
    pthread_mutex_unlock(&w->lock);
    return !mine;
}

/* What a place has sealed is the cluster's from the moment that its ClusterKey has the key. Without the key, which died with an earlier sekid, the API server must not go on with what it has sealed: it is ended first, with
 * those that use it, and comes again under the cluster's own key. */
static int take_key(struct kaas *k, struct reconcile *r, const struct site *s, const json_t *key, struct err *err)
{
    unsigned ended = 0;
    if (!key)
        return cluster_end(k, s, APISERVER, &ended) ? 0 : err_set(err, ERR_BUSY, "its place's key is gone with an earlier process of this cloud: the API server is started anew");
    int rc = secrets_key_adopt(r->client, r->obj, s, key, err);
    return rc == ERR_EXISTS ? 0 : rc; /* by an earlier pass, which did not come to its end */
}

int warm_claim(struct kaas *k, struct reconcile *r, const struct cluster *c, const struct site *s, bool *ret_now, struct err *err)
{
    JSON_AUTO key = NULL;
    struct site its = *s;
    *ret_now = false;
    if (!its_key(k->warm, s->uid, &key))
        return err_set(err, ERR_BUSY, "the place that it was offered is being looked at, or removed");
    if (!place_is_warm(s->dir)) {
        (void)!warm_let_go(k->warm, s->uid);
        return 0;
    }
    int rc = place_load(&its, err);
    if (rc == 0)
        rc = take_key(k, r, s, key, err);
    its.claiming = its.with_nodes = true;
    if (rc == 0)
        rc = cluster_pki_ensure(c, &its, k->o.certificate_life_ms, NULL, err);
    if (rc == 0)
        rc = cluster_audit_empty(&its, err);
    if (rc == 0)
        rc = place_keep(&its, err); /* from here on it is this cluster's */
    if (rc < 0)
        return rc;
    (void)!warm_let_go(k->warm, s->uid);
    log_info("a warm control plane was claimed", KV("namespace", s->ns), KV("cluster", s->name), KV("uid", s->uid));
    *ret_now = true;
    return 0;
}

/* ---- what lies and runs there; the pool's thread ---- */

static void add(struct warm *w, struct warm_place *p)
{
    pthread_mutex_lock(&w->lock);
    *VEC_PUSH(&w->places) = p;
    pthread_mutex_unlock(&w->lock);
}

static void look_at_directory(struct warm *w, const json_t *clusters, const char *root, const char *name)
{
    CLEANUP(mem_freep) char *dir = xasprintf("%s/%s", root, name);
    struct err err = ERR_INIT;
    if (str_starts(str_of(name), STR(WARM_RESTS)))
        warm_remove_rests(root, name);
    if (name[0] == '.' || with_uid(clusters, name) || find(w, name))
        return;
    if (!place_is_warm(dir)) {
        (void)!rmdir(dir); /* begun, and not written down */
        return;
    }
    struct warm_place *p = warm_place_new(w->k, &w->spec, name, &err);
    if (p)
        add(w, p);
    else
        log_warn("a warm control plane of before is left as it is", KV("directory", dir), KVE(&err));
}

static void look_at_directories(struct warm *w, const json_t *clusters)
{
    CLEANUP(mem_freep) char *root = xasprintf("%s/clusters", w->k->o.data_dir);
    DIR *d = opendir(root);
    for (struct dirent *e; d && (e = readdir(d));)
        look_at_directory(w, clusters, root, e->d_name);
    if (d)
        closedir(d);
}

struct sweep {
    struct warm *w;
    const json_t *clusters;
    VEC(char *) strays;
};

static bool begins(const char *workload, const struct site *s)
{
    char prefix[WORKLOAD_NAME_MAX];
    component_prefix(s, prefix);
    return !strncmp(workload, prefix, strlen(prefix));
}

static void see_workload(void *arg, const char *name, const struct workload_status *status UNUSED)
{
    struct sweep *x = arg;
    bool known = strncmp(name, WARM_PREFIX, sizeof(WARM_PREFIX) - 1) != 0;
    size_t i;
    json_t *c;
    for (i = 0; !known && i < x->w->places.len; i++)
        known = begins(name, &x->w->places.ptr[i]->site);
    json_array_foreach ((json_t *)(uintptr_t)x->clusters, i, c)
        known = known || (obj_uid(c) && cluster_is_claimed(c) && begins(name, &(struct site){.uid = obj_uid(c), .warm = true}));
    if (!known)
        *VEC_PUSH(&x->strays) = xstrdup(name);
}

/* After each complete list of Clusters. What is nobody's becomes the pool's, or goes. */
static void take_stock(struct warm *w)
{
    JSON_AUTO clusters = informer_list(w->k->clusters, NULL);
    struct sweep x = {w, clusters, VEC_INIT};
    look_at_directories(w, clusters);
    w->k->runtime->ops->each(w->k->runtime, see_workload, &x);
    VEC_FOREACH (&x.strays, name) {
        log_info("a process of a warm control plane that is gone is stopped", KV("workload", *name));
        (void)!w->k->runtime->ops->stop(w->k->runtime, *name, NULL);
        mem_free(*name);
    }
    VEC_DEINIT(&x.strays);
}

/* ---- the pool's thread ---- */

static bool give_up(struct warm *w, struct warm_place *p, const char *why)
{
    if (!turn(w, p, WARM_MAKING, WARM_ENDING) && !turn(w, p, WARM_READY, WARM_ENDING))
        return false;
    log_info("a warm control plane is thrown away", KV("uid", p->site.uid), KV("why", why));
    return true;
}

static void make(struct warm *w, struct warm_place *p, bool others_first)
{
    struct err err = ERR_INIT;
    uint64_t since = p->since_ms;
    if (others_first && !p->was_ready && !p->found) {
        give_up(w, p, "a Cluster is being made, and goes first");
        return;
    }
    int rc = warm_place_step(w->k, &w->spec, p, &err);
    if (rc == 0 && turn(w, p, WARM_MAKING, WARM_READY)) {
        log_info("a control plane is warm", KV("uid", p->site.uid), KVI("milliseconds", (int64_t)(clock_mono_ms() - since)));
        p->was_ready = true;
        p->looked_ms = clock_mono_ms();
    } else if (rc == ERR_STALE || (rc < 0 && clock_mono_ms() - since > MAKE_MS)) {
        give_up(w, p, err.msg);
        w->again_ms = rc == ERR_STALE ? 0 : clock_mono_ms() + AGAIN_MS;
    }
}

static void look(struct warm *w, struct warm_place *p)
{
    struct err err = ERR_INIT;
    if (clock_mono_ms() - p->looked_ms < w->k->o.probe_ms)
        return;
    p->looked_ms = clock_mono_ms();
    int rc = warm_place_look(w->k, &w->spec, p, &err);
    if (rc == ERR_STALE)
        give_up(w, p, err.msg);
    else if (rc < 0 && turn(w, p, WARM_READY, WARM_MAKING))
        log_info("a warm control plane is mended", KV("uid", p->site.uid), KV("why", err.msg));
}

/* Its state, in which it stays while we are at work on it, but for an offer. */
static enum warm_state take_up(struct warm *w, struct warm_place *p)
{
    pthread_mutex_lock(&w->lock);
    enum warm_state s = p->state;
    p->busy = s == WARM_MAKING || s == WARM_READY || s == WARM_ENDING;
    pthread_mutex_unlock(&w->lock);
    return s;
}

static void put_down(struct warm *w, struct warm_place *p)
{
    pthread_mutex_lock(&w->lock);
    p->busy = false;
    pthread_mutex_unlock(&w->lock);
}

/* False: it is to be forgotten. */
static bool work(struct warm *w, struct warm_place *p, enum warm_state state, const json_t *clusters, bool others_first)
{
    switch (state) {
    case WARM_MAKING:
        make(w, p, others_first);
        return true;
    case WARM_READY:
        look(w, p);
        return true;
    case WARM_OFFERED:
        if (clock_mono_ms() - p->since_ms > OFFER_MS && !with_uid(clusters, p->site.uid))
            turn(w, p, WARM_OFFERED, WARM_ENDING);
        return true;
    case WARM_CLAIMED:
        return false;
    case WARM_ENDING:
        return !warm_place_end(w->k, p);
    }
    return true;
}

static bool serve(struct warm *w, struct warm_place *p, const json_t *clusters, bool others_first)
{
    bool stays = work(w, p, take_up(w, p), clusters, others_first);
    if (stays)
        put_down(w, p);
    return stays;
}

struct tally {
    size_t ready, making, offered, ending;
    bool soon; /* one of them changes within moments */
};

static struct tally count(struct warm *w)
{
    struct tally t = {0};
    int64_t memory = 0;
    pthread_mutex_lock(&w->lock);
    VEC_FOREACH (&w->places, p) {
        enum warm_state s = (*p)->state;
        t.ready += s == WARM_READY;
        memory += s == WARM_READY ? (*p)->memory_bytes : 0;
        t.making += s == WARM_MAKING;
        t.offered += s == WARM_CLAIMED || (s == WARM_OFFERED && clock_mono_ms() - (*p)->since_ms < OFFER_MS);
        t.ending += s == WARM_ENDING;
        t.soon = t.soon || s == WARM_ENDING || (s == WARM_MAKING && !(*p)->found && !(*p)->was_ready);
    }
    pthread_mutex_unlock(&w->lock);
    metric_set(w->ready, (int64_t)t.ready);
    metric_set(w->memory, memory);
    return t;
}

/* More than are wanted: the last ones go, which are the least ready. */
static void reduce(struct warm *w, struct tally t)
{
    size_t over = t.ready + t.making > w->wanted ? t.ready + t.making - w->wanted : 0;
    for (size_t i = w->places.len; over && i-- > 0;) {
        struct warm_place *p = w->places.ptr[i];
        if (give_up(w, p, "fewer are wanted"))
            over--;
    }
}

static void begin(struct warm *w)
{
    struct err err = ERR_INIT;
    struct warm_place *p = warm_place_new(w->k, &w->spec, NULL, &err);
    if (p)
        add(w, p);
    else
        log_warn("no control plane can be kept warm", KVE(&err));
    w->again_ms = p ? 0 : clock_mono_ms() + AGAIN_MS;
}

/* One step of each place. Returns until when it may be slept. */
static uint64_t tick(struct warm *w)
{
    JSON_AUTO clusters = informer_list(w->k->clusters, NULL);
    bool any, from_nothing;
    warm_busy(clusters, clock_wall_ms(), &any, &from_nothing);
    reduce(w, count(w));
    for (size_t i = 0; i < w->places.len;) {
        struct warm_place *p = w->places.ptr[i];
        if (serve(w, p, clusters, from_nothing)) {
            i++;
            continue;
        }
        pthread_mutex_lock(&w->lock);
        VEC_REMOVE(&w->places, i);
        pthread_mutex_unlock(&w->lock);
        warm_place_free(p);
    }
    struct tally t = count(w);
    bool may = !any && !t.making && !t.offered && !t.ending && *w->k->o.programs_dir && clock_mono_ms() >= w->again_ms;
    if (may && t.ready < w->wanted) {
        begin(w);
        return LOOK_MS;
    }
    return t.soon ? LOOK_MS : t.offered || t.ready < w->wanted ? WAIT_MS : w->wanted ? w->k->o.probe_ms : IDLE_MS;
}

static void *pool_main(void *arg)
{
    struct warm *w = arg;
    bool known = false; /* until then nobody can say what is nobody's */
    pthread_mutex_lock(&w->lock);
    while (!w->stopping) {
        bool listed = w->listed;
        uint64_t wait_ms = IDLE_MS;
        struct timespec until;
        w->listed = false;
        known = known || listed;
        pthread_mutex_unlock(&w->lock);
        if (listed)
            take_stock(w);
        if (known)
            wait_ms = tick(w);
        clock_gettime(CLOCK_MONOTONIC, &until);
        uint64_t ns = (uint64_t)until.tv_nsec + wait_ms % 1000 * 1000000;
        until.tv_sec += (time_t)(wait_ms / 1000 + ns / 1000000000);
        until.tv_nsec = (long)(ns % 1000000000);
        pthread_mutex_lock(&w->lock);
        if (!w->stopping && !w->listed)
            pthread_cond_timedwait(&w->wake, &w->lock, &until);
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

/* ---- life ---- */

void warm_listed(struct warm *w)
{
    pthread_mutex_lock(&w->lock);
    w->listed = true;
    pthread_cond_signal(&w->wake);
    pthread_mutex_unlock(&w->lock);
}

/* What somebody gets who asks for nothing in particular. */
static int default_spec(struct warm *w, struct err *err)
{
    JSON_AUTO obj = obj_new(&kind_cluster, "", "");
    field_defaults(kind_cluster.fields, obj);
    return kind_decode(&kind_cluster, obj, w->arena, &w->spec, err);
}

int warm_new(struct kaas *k, struct warm **ret, struct err *err)
{
    struct warm *w = XNEW(struct warm);
    pthread_condattr_t attr;
    *w = (struct warm){.k = k, .wanted = k->o.warm_clusters, .arena = arena_new(ARENA_MAX)};
    pthread_mutex_init(&w->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&w->wake, &attr);
    pthread_condattr_destroy(&attr);
    w->want = metric_gauge("seki_clusters_warm_wanted", "Control planes that are to be kept made for Clusters to come.");
    w->ready = metric_gauge("seki_clusters_warm", "Control planes that are made and that no Cluster has claimed.");
    w->memory = metric_gauge("seki_clusters_warm_memory_bytes", "Memory of the processes of those that are ready, what they share with others by their part; looked at once a minute.");
    metric_set(w->want, (int64_t)w->wanted);
    int rc = default_spec(w, err);
    int eno = rc == 0 ? pthread_create(&w->thread, NULL, pool_main, w) : 0;
    if (rc == 0 && eno)
        rc = err_sys(err, eno, "a thread for warm control planes");
    w->started = rc == 0;
    if (rc < 0) {
        warm_free(w);
        return rc;
    }
    *ret = w;
    return 0;
}

void warm_stop(struct warm *w)
{
    if (!w || !w->started)
        return;
    pthread_mutex_lock(&w->lock);
    w->stopping = true;
    pthread_cond_signal(&w->wake);
    pthread_mutex_unlock(&w->lock);
    pthread_join(w->thread, NULL);
    w->started = false;
}

void warm_free(struct warm *w)
{
    if (!w)
        return;
    warm_stop(w);
    VEC_FOREACH (&w->places, p)
        warm_place_free(*p);
    VEC_DEINIT(&w->places);
    arena_free(w->arena);
    pthread_cond_destroy(&w->wake);
    pthread_mutex_destroy(&w->lock);
    mem_free(w);
}
