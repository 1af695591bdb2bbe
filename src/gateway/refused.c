#include "gateway/refused.h"

#include <pthread.h>
#include <string.h>

#include "base/map.h"
#include "base/mem.h"
#include "base/metrics.h"

#define NAME_MAX_BYTES 256

/* Requests that were refused alike. */
struct entry {
    struct usage u; /* its texts are below */
    char id[NAME_MAX_BYTES], project[NAME_MAX_BYTES], tenant[NAME_MAX_BYTES], key[NAME_MAX_BYTES], endpoint[NAME_MAX_BYTES], promised[NAME_MAX_BYTES];
    char route[64], outcome[32];
};

struct refused {
    struct journal *journal;
    struct metric *counted;
    pthread_mutex_t lock;
    uint64_t ends_ms;    /* the window; 0: nobody was refused */
    struct map *own;     /* "TENANT" and "TENANT\nPROJECT\nKEY" → size_t *: records of their own in this window */
    struct map *entries; /* what makes two alike → struct entry * */
    struct map *named;   /* tenant → size_t *: how many of its are in there with a key */
};

struct refused *refused_new(struct journal *j)
{
    struct refused *r = XNEW(struct refused);
    *r = (struct refused){.journal = j, .own = map_new(mem_free), .entries = map_new(mem_free), .named = map_new(mem_free)};
    r->counted = metric_counter("seki_gateway_refused_counted_total", "Requests refused before an engine was asked that have no usage record of their own, as their key was refused often: one with a count stands for them.");
    pthread_mutex_init(&r->lock, NULL);
    return r;
}

/* ---- under the lock ---- */

static size_t *count_of(struct map *m, struct str name)
{
    size_t *n = map_get(m, name);
    if (n)
        return n;
    n = XNEW(size_t);
    *n = 0;
    map_set(m, name, n);
    return n;
}

static bool may_have_own(struct refused *r, const struct usage *u)
{
    CLEANUP(sbuf_deinit) struct sbuf key = {0};
    sbuf_init(&key, 4 * NAME_MAX_BYTES);
    sbuf_addf(&key, "%.*s\n%.*s\n%.*s", STR_ARG(u->tenant), STR_ARG(u->project), STR_ARG(u->key));
    size_t *of_tenant = count_of(r->own, u->tenant), *of_key = count_of(r->own, sbuf_str(&key));
    if (*of_key >= REFUSED_OWN || *of_tenant >= REFUSED_OWN_TENANT)
        return false;
    ++*of_key;
    ++*of_tenant;
    return true;
}

static struct str keep(char *to, size_t size, struct str text)
{
    size_t n = MIN(text.len, size - 1);
    if (n)
        memcpy(to, text.ptr, n);
    return str_n(to, n);
}

static bool is_promised(const struct usage *u)
{
    return u->levels.project.len > 0;
}

static void key_of(const struct usage *u, bool named, struct sbuf *out)
{
    sbuf_addf(out, "%.*s\n%.*s\n%d\n%.*s\n", STR_ARG(u->tenant), STR_ARG(u->project), u->status, STR_ARG(u->outcome));
    if (named || is_promised(u))
        sbuf_addf(out, "%.*s\n%.*s\n", STR_ARG(u->levels.project), STR_ARG(u->endpoint));
    if (named)
        sbuf_addf(out, "%.*s\n%.*s", STR_ARG(u->key), STR_ARG(u->route));
}

static struct entry *entry_of(struct refused *r, const struct usage *u)
{
    CLEANUP(sbuf_deinit) struct sbuf key = {0};
    sbuf_init(&key, 8 * NAME_MAX_BYTES);
    key_of(u, true, &key);
    struct entry *e = map_get(r->entries, sbuf_str(&key));
    if (e)
        return e;
    size_t *n = count_of(r->named, u->tenant);
    bool named = *n < REFUSED_NAMED;
    if (!named) {
        sbuf_reset(&key);
        key_of(u, false, &key);
        if ((e = map_get(r->entries, sbuf_str(&key))))
            return e;
    }
    *n += named;
    e = XNEW(struct entry);
    e->u = (struct usage){.levels = u->levels, .status = u->status, .exact = true, .has_work = true, .start_ms = u->start_ms, .ttft_ms = -1};
    e->u.levels.project = keep(e->promised, sizeof(e->promised), u->levels.project);
    e->u.project = keep(e->project, sizeof(e->project), u->project);
    e->u.tenant = keep(e->tenant, sizeof(e->tenant), u->tenant);
    e->u.outcome = keep(e->outcome, sizeof(e->outcome), u->outcome);
    if (named || is_promised(u))
        e->u.endpoint = keep(e->endpoint, sizeof(e->endpoint), u->endpoint);
    if (named) {
        e->u.key = keep(e->key, sizeof(e->key), u->key);
        e->u.route = keep(e->route, sizeof(e->route), u->route);
    }
    map_set(r->entries, sbuf_str(&key), e);
    return e;
}

static void write_all(struct refused *r)
{
    struct map_iter it = MAP_ITER_INIT;
    while (map_next(r->entries, &it))
        journal_add(r->journal, &((struct entry *)it.value)->u);
    map_clear(r->entries);
    map_clear(r->named);
    map_clear(r->own);
    r->ends_ms = 0;
}

/* ---- any thread ---- */

bool refused_take(struct refused *r, const struct usage *u, uint64_t now_ms)
{
    pthread_mutex_lock(&r->lock);
    if (!r->ends_ms)
        r->ends_ms = now_ms + REFUSED_WINDOW_MS;
    bool counted = !may_have_own(r, u);
    if (counted) {
        struct entry *e = entry_of(r, u);
        e->u.id = keep(e->id, sizeof(e->id), u->id);
        e->u.count++;
        e->u.duration_ms = MAX(u->start_ms + u->duration_ms - e->u.start_ms, (int64_t)0);
        metric_add(r->counted, 1);
    }
    pthread_mutex_unlock(&r->lock);
    return counted;
}

void refused_flush(struct refused *r, uint64_t now_ms)
{
    pthread_mutex_lock(&r->lock);
    if (r->ends_ms && now_ms >= r->ends_ms)
        write_all(r);
    pthread_mutex_unlock(&r->lock);
}

void refused_free(struct refused *r)
{
    if (!r)
        return;
    write_all(r);
    map_free(r->own);
    map_free(r->entries);
    map_free(r->named);
    pthread_mutex_destroy(&r->lock);
    mem_free(r);
}
