#include "gateway/kept_away.h"

#include <pthread.h>
#include <string.h>

#include "base/clock.h"
#include "base/map.h"
#include "base/mem.h"

#define TEXT_MAX 512

struct entry {
    uint64_t due_ms; /* the next record may be made then */
    int64_t more;    /* after the last one */
    int64_t first_ms, last_ms; /* of those, by the wall clock */
    int own; /* records of their own, since it came */
    bool named;      /* of one key, or address: counts among its tenant's */
    char user[TEXT_MAX], namespace[TEXT_MAX], tenant[TEXT_MAX], rule[TEXT_MAX], reason[TEXT_MAX], source[TEXT_MAX];
    int status;
};

struct kept_away {
    struct audit_log *audit;
    pthread_mutex_t lock;
    struct map *entries; /* "TENANT\nRULE\nNAMESPACE\nKEY\nPLACE" → struct entry * */
    struct map *named;   /* tenant → size_t *: how many of its keys are in there; "": of addresses */
};

struct kept_away *kept_away_new(struct audit_log *audit)
{
    struct kept_away *k = XNEW(struct kept_away);
    *k = (struct kept_away){.audit = audit, .entries = map_new(mem_free), .named = map_new(mem_free)};
    pthread_mutex_init(&k->lock, NULL);
    return k;
}

static void keep(char ret[TEXT_MAX], struct str text)
{
    snprintf(ret, TEXT_MAX, "%.*s", (int)MIN(text.len, (size_t)TEXT_MAX - 1), text.ptr ? text.ptr : "");
}

static void write_counted(struct kept_away *k, struct entry *e)
{
    struct audit_event event = {.type = AUDIT_REFUSED, .user = str_of(e->user), .namespace = str_of(e->namespace), .tenant = str_of(e->tenant), .source = str_of(e->source), .resource = STR("gateway"),
                                .status = e->status, .reason = str_of(e->reason), .rule = str_of(e->rule), .count = e->more};
    char first[CLOCK_TEXT_MAX], last[CLOCK_TEXT_MAX];
    if (e->more > 1) {
        clock_format(e->first_ms, first);
        clock_format(e->last_ms, last);
        event.first = str_of(first);
        event.last = str_of(last);
    }
    audit_log_add_then(k->audit, &event, NULL);
    e->more = 0;
}

static size_t *count_of(struct kept_away *k, const char *tenant)
{
    size_t *n = map_getc(k->named, tenant);
    if (n)
        return n;
    n = XNEW(size_t);
    *n = 0;
    map_set(k->named, str_of(tenant), n);
    return n;
}

/* *ret_fresh: nobody was counted there since a minute. */
static struct entry *entry_of(struct kept_away *k, const struct audit_event *e, const char *place, bool *ret_fresh)
{
    CLEANUP(sbuf_deinit) struct sbuf key = {0};
    sbuf_init(&key, 8 * TEXT_MAX);
    sbuf_addf(&key, "%.*s\n%.*s\n%.*s\n%.*s\n%s", STR_ARG(e->tenant), STR_ARG(e->rule), STR_ARG(e->namespace), STR_ARG(e->user), place ? place : "");
    struct entry *there = map_get(k->entries, sbuf_str(&key));
    *ret_fresh = !there;
    if (there)
        return there;
    struct entry *made = XNEW(struct entry);
    keep(made->tenant, e->tenant);
    keep(made->rule, e->rule);
    keep(made->reason, e->reason);
    made->status = e->status;
    made->named = *count_of(k, made->tenant) < (place ? KEPT_AWAY_ADDRESSES : KEPT_AWAY_KEYS);
    if (made->named) {
        keep(made->user, e->user);
        keep(made->namespace, e->namespace);
        keep(made->source, place ? str_of(place) : STR(""));
        ++*count_of(k, made->tenant);
    } else {
        sbuf_reset(&key);
        sbuf_addf(&key, "%s\n%s\n\n\n", made->tenant, made->rule);
        if ((there = map_get(k->entries, sbuf_str(&key)))) {
            mem_free(made);
            *ret_fresh = false;
            return there;
        }
    }
    map_set(k->entries, sbuf_str(&key), made);
    return made;
}

/* True: e is to have a record of its own. most: so many may. */
static bool add(struct kept_away *k, const struct audit_event *e, const char *place, int most, uint64_t now_ms)
{
    bool fresh, own;
    pthread_mutex_lock(&k->lock);
    struct entry *entry = entry_of(k, e, place, &fresh);
    if (fresh)
        entry->due_ms = now_ms + KEPT_AWAY_EVERY_MS;
    own = entry->named && entry->own < most;
    entry->own += own;
    if (!own) {
        entry->last_ms = clock_wall_ms();
        if (!entry->more++)
            entry->first_ms = entry->last_ms;
        if (!place)
            keep(entry->source, e->source);
        if (fresh)
            write_counted(k, entry);
    }
    pthread_mutex_unlock(&k->lock);
    return own;
}

void kept_away_limited(struct kept_away *k, const struct audit_event *e, uint64_t now_ms)
{
    struct audit_event own = *e;
    own.type = AUDIT_REFUSED;
    own.resource = STR("gateway");
    if (add(k, e, NULL, 1, now_ms))
        audit_log_add_then(k->audit, &own, NULL);
}

void kept_away_refused(struct kept_away *k, const struct audit_event *e, const char *place, uint64_t now_ms)
{
    if (add(k, e, place, place ? 1 : KEPT_AWAY_OWN, now_ms))
        audit_log_add(k->audit, e);
}

/* Its minute has passed: one more record, or it is forgotten. */
static bool is_over(struct kept_away *k, struct entry *e, uint64_t now_ms)
{
    if (now_ms < e->due_ms)
        return false;
    if (!e->more) {
        size_t *n = count_of(k, e->tenant);
        if (e->named && !--*n)
            map_del(k->named, str_of(e->tenant));
        return true;
    }
    e->due_ms = now_ms + KEPT_AWAY_EVERY_MS;
    write_counted(k, e);
    return false;
}

void kept_away_flush(struct kept_away *k, uint64_t now_ms)
{
    struct map_iter it = MAP_ITER_INIT;
    pthread_mutex_lock(&k->lock);
    while (map_next(k->entries, &it))
        if (is_over(k, it.value, now_ms))
            map_del(k->entries, it.key);
    if (!map_len(k->entries))
        map_clear(k->named);
    pthread_mutex_unlock(&k->lock);
}

void kept_away_free(struct kept_away *k)
{
    struct map_iter it = MAP_ITER_INIT;
    if (!k)
        return;
    while (map_next(k->entries, &it))
        if (((struct entry *)it.value)->more)
            write_counted(k, it.value);
    map_free(k->entries);
    map_free(k->named);
    pthread_mutex_destroy(&k->lock);
    mem_free(k);
}
