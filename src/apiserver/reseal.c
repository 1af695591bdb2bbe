/* Seals in the background what is not sealed with its tenant's current key: objects of a release that did not seal, and all objects of a tenant whose key was rotated.
 *
 * Level-triggered: a pass looks at every object of the kinds concerned, a few a turn, and writes those anew as they are, which gives them a new revision; one that somebody else
 * changes meanwhile is sealed by that. When a pass finds nothing left, keys that seal nothing wait until history holds nothing of theirs either, and are forgotten; then the store
 * takes what was deleted off its disk. That goes for the last key of a tenant that has nothing sealed, too: of one that is closed, copies of the disk hold nothing to open it with. Whatever is killed in between is found by the first pass of the next start.
 */
#include "apiserver/api.h"
#include "apiserver/sealing.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"

#define STEP_OBJECTS 64 /* looked at in a turn */
#define STEP_WRITES 16
#define AGAIN_MS 50     /* after a pass that wrote: when its writes are durable */
#define RETRY_MS 1000   /* after one that could not write */
#define WAIT_MS 5000    /* between looks at whether history is gone */
#define IDLE_MS 60000   /* between looks when nothing is to be done */

#define SCRUB_LATER INT64_MAX

struct reseal {
    struct apiserver *server;
    struct timer timer;
    size_t kind;      /* where the pass is */
    char *start;      /* key to go on at; "": the kind's first */
    int64_t rev;      /* at its start */
    size_t left, written, failed, objects, plain; /* of this pass so far */
    bool quiet;       /* at its start nothing was on its way to the disk */
    bool again;       /* somebody asks for a pass that begins now */
    bool told;        /* there was something to do: its end is told */
    int64_t scrub_rev; /* when history up to here is gone, the disk is to forget it; 0: nothing to forget; SCRUB_LATER: as of the next pass that finds nothing */
    bool forget;       /* what was deleted up to now is to leave the disk, too, when its turn comes */
    char *dropped;     /* record of a key that was forgotten, until that is durable; NULL: none */
    struct metric *sealed_gauge, *left_gauge, *keys_gauge;
};

/* The key that opens a value; NULL: it is not sealed, or with a key that is unknown (*ret_sealed). */
static struct tenant_key *key_of(struct keyring *k, struct str text, bool *ret_sealed)
{
    uint8_t id[ENVELOPE_ID_BYTES];
    size_t count;
    *ret_sealed = sealing_is_sealed(text, id);
    struct tenant_key **keys = keyring_all(k, &count);
    for (size_t i = 0; *ret_sealed && i < count; i++)
        if (!memcmp(keys[i]->id, id, sizeof(id)))
            return keys[i];
    return NULL;
}

/* Whether an object of a kind that is concerned should be written anew. */
static bool is_outdated(struct reseal *r, const struct kind *k, struct store_value *v)
{
    bool sealed;
    struct tenant_key *t = key_of(r->server->keyring, v->value, &sealed);
    if (t) {
        t->counted++;
        r->objects++;
        return !t->current && !object_shut(v);
    }
    if (sealed)
        return false; /* nobody can read it: it stays as it is */
    JSON_AUTO obj = object_copy(v);
    JSON_AUTO secrets = sealing_take(k, obj);
    r->plain += secrets != NULL;
    return secrets != NULL;
}

static bool reseal_one(struct reseal *r, struct store_value *v)
{
    struct err err = ERR_INIT;
    struct store_value *latest = store_get_pending(r->server->store, v->key);
    bool sealed;
    struct tenant_key *t = latest ? key_of(r->server->keyring, latest->value, &sealed) : NULL;
    if (!latest || (t && t->current))
        return true; /* somebody was faster */
    JSON_AUTO obj = object_copy(latest);
    int rc = api_write_quietly(r->server, latest, obj, &err);
    if (rc < 0)
        log_warn("an object cannot be sealed anew; it is tried again", KVS("key", v->key), KVE(&err));
    r->written += rc == 0;
    return rc == 0;
}

struct step {
    struct reseal *r;
    const struct kind *kind;
    size_t looked, writes;
    VEC(struct store_value *) outdated;
    bool more;
};

static bool look(void *arg, struct store_value *v)
{
    struct step *s = arg;
    if (s->looked == STEP_OBJECTS || s->outdated.len == STEP_WRITES) {
        mem_free(s->r->start);
        s->r->start = xstrndup(v->key.ptr, v->key.len);
        s->more = true;
        return false;
    }
    s->looked++;
    if (is_outdated(s->r, s->kind, v))
        *VEC_PUSH(&s->outdated) = store_value_ref(v);
    return true;
}

static void begin_pass(struct reseal *r)
{
    size_t count;
    struct tenant_key **keys = keyring_all(r->server->keyring, &count);
    for (size_t i = 0; i < count; i++) {
        keys[i]->counted = 0;
        keys[i]->used = false;
        keys[i]->settled = keyring_is_durable(r->server->keyring, keys[i]);
    }
    /* Gone; or back, because the disk refused: then it stays until the next start. */
    if (r->dropped && (!store_get(r->server->store, str_of(r->dropped)) || store_get_pending(r->server->store, str_of(r->dropped)))) {
        mem_free(r->dropped);
        r->dropped = NULL;
    }
    r->again = false;
    r->left = r->written = r->failed = r->objects = r->plain = 0;
    r->rev = store_rev(r->server->store);
    r->quiet = store_is_quiet(r->server->store);
}

/* Whether all that was sealed with a tenant's earlier keys was durable, and so was looked at, in this pass: what is accepted before a key is durable before it. */
static bool is_settled(struct tenant_key **keys, size_t count, const char *tenant)
{
    for (size_t i = 0; i < count; i++)
        if (keys[i]->current && !strcmp(keys[i]->tenant, tenant))
            return keys[i]->settled;
    return false;
}

/* The only key of a tenant, with which nothing can be sealed but what this pass has looked at. */
static bool is_idle(const struct reseal *r, struct tenant_key **keys, size_t count, const struct tenant_key *t)
{
    size_t versions = 0;
    for (size_t i = 0; i < count; i++)
        versions += !strcmp(keys[i]->tenant, t->tenant);
    return r->quiet && versions == 1 && !t->used;
}

/* Keys that sealed objects before, and seal none now, in history neither, are forgotten. True: some still wait. */
static bool drop_unused(struct reseal *r)
{
    size_t count;
    bool waits = false;
    struct tenant_key **keys = keyring_all(r->server->keyring, &count);
    if (r->dropped) /* one after the other */
        return true;
    for (size_t i = 0; i < count; i++) {
        struct tenant_key *t = keys[i];
        bool unused = t->current ? is_idle(r, keys, count, t) : is_settled(keys, count, t->tenant);
        if (t->objects || !t->usable)
            t->unused_rev = 0;
        else if (unused)
            t->unused_rev = t->unused_rev ? t->unused_rev : r->rev;
        waits |= t->usable && !t->objects;
        if (!unused || !t->unused_rev || store_first_rev(r->server->store) < t->unused_rev)
            continue;
        log_info("a key of a tenant is forgotten: nothing is sealed with it any more", KV("tenant", t->tenant), KVI("version", t->version));
        r->dropped = keyring_drop(r->server->keyring, t);
        r->scrub_rev = SCRUB_LATER;
        return true; /* the list has changed */
    }
    return waits;
}

static void tell_end(struct reseal *r)
{
    if (r->told)
        log_info("all secrets are sealed with their tenants' current keys", KVI("objects", r->objects));
    r->told = false;
}

/* True: history that is to be forgotten is still there. */
static bool scrub(struct reseal *r)
{
    if (r->forget && !r->scrub_rev) {
        r->scrub_rev = store_rev(r->server->store);
        r->forget = false;
    }
    if (r->scrub_rev && store_first_rev(r->server->store) >= r->scrub_rev) {
        store_scrub(r->server->store);
        r->scrub_rev = 0;
    }
    return r->scrub_rev != 0;
}

static void end_pass(struct reseal *r)
{
    size_t count;
    struct tenant_key **keys = keyring_all(r->server->keyring, &count);
    for (size_t i = 0; i < count; i++)
        keys[i]->objects = keys[i]->counted;
    metric_set(r->sealed_gauge, (int64_t)r->objects);
    metric_set(r->left_gauge, (int64_t)r->left);
    metric_set(r->keys_gauge, (int64_t)count);
    if (r->plain)
        r->scrub_rev = SCRUB_LATER;
    else if (r->scrub_rev == SCRUB_LATER && !r->left && !r->dropped)
        r->scrub_rev = r->rev;
    if (r->left) {
        r->told = true;
        timer_start(&r->timer, r->failed ? RETRY_MS : AGAIN_MS); /* a pass that begins later */
        return;
    }
    tell_end(r);
    bool waits = drop_unused(r);
    waits |= scrub(r);
    timer_start(&r->timer, r->again ? 0 : waits ? WAIT_MS : IDLE_MS);
}

static const struct kind *next_kind(struct reseal *r)
{
    size_t count;
    const struct kind *const *kinds = kind_all(&count);
    while (r->kind < count && (kinds[r->kind]->view_of || !sealing_concerns(kinds[r->kind])))
        r->kind++;
    return r->kind < count ? kinds[r->kind] : NULL;
}

static void step(struct timer *timer)
{
    struct reseal *r = timer->arg;
    CLEANUP(sbuf_deinit) struct sbuf prefix = {0};
    if (!r->kind && !*r->start)
        begin_pass(r);
    struct step s = {.r = r, .kind = next_kind(r), .outdated = VEC_INIT};
    if (!s.kind) {
        end_pass(r);
        r->kind = 0;
        return;
    }
    sbuf_init(&prefix, 256);
    object_prefix(s.kind, NULL, &prefix);
    CLEANUP(mem_freep) char *start = xstrdup(r->start);
    (void)!store_range(r->server->store, sbuf_str(&prefix), str_of(start), 0, 0, look, &s, NULL);
    VEC_FOREACH (&s.outdated, v) {
        r->failed += !reseal_one(r, *v);
        r->left++;
        store_value_unref(*v);
    }
    VEC_DEINIT(&s.outdated);
    if (!s.more) {
        r->kind++;
        r->start[0] = 0;
    }
    timer_start(timer, 0);
}

/* ---- the report ---- */

json_t *reseal_report(struct apiserver *s, const char *tenant)
{
    size_t count;
    struct tenant_key **keys = keyring_all(s->keyring, &count);
    json_t *list = json_array();
    for (size_t i = 0; i < count; i++) {
        char created[CLOCK_TEXT_MAX];
        if (*tenant && strcmp(keys[i]->tenant, tenant) != 0)
            continue;
        clock_format(keys[i]->created_ms, created);
        const char *state = !keys[i]->usable ? "Unusable" : !keys[i]->current ? "Retired" : keyring_is_durable(s->keyring, keys[i]) ? "Current" : "Pending";
        json_array_append_new(list, json_pack("{s:s, s:I, s:s, s:s, s:I}", "tenant", keys[i]->tenant, "version", (json_int_t)keys[i]->version, "created", created, "state", state,
                                              "objects", (json_int_t)keys[i]->objects));
    }
    return list;
}

/* ---- life ---- */

void reseal_wake(struct apiserver *s)
{
    struct reseal *r = s->reseal;
    if (!r)
        return;
    r->again = true;
    if (!r->kind && !*r->start)
        timer_start(&r->timer, 0);
}

void reseal_forget(struct apiserver *s)
{
    if (s->reseal)
        s->reseal->forget = true;
}

void reseal_start(struct apiserver *s)
{
    struct reseal *r = XNEW(struct reseal);
    *r = (struct reseal){.server = s, .start = xstrdup(""), .forget = true /* what was deleted before the last end */};
    r->sealed_gauge = metric_gauge("seki_secrets_sealed_objects", "Objects whose secrets are sealed, as of the last look.");
    r->left_gauge = metric_gauge("seki_secrets_outdated_objects", "Objects that were still to be sealed with the current key of their tenant, as of the last look.");
    r->keys_gauge = metric_gauge("seki_secrets_keys", "Keys of tenants, retired ones included.");
    timer_init(&r->timer, s->loop, step, r);
    s->reseal = r;
    timer_start(&r->timer, 0);
}

void reseal_stop(struct apiserver *s)
{
    struct reseal *r = s->reseal;
    if (!r)
        return;
    timer_stop(&r->timer);
    mem_free(r->dropped);
    mem_free(r->start);
    mem_free(r);
    s->reseal = NULL;
}
