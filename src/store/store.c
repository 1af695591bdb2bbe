/* The front of the store: transactions, reads, history. Members only make things durable. */
#include "base/clock.h"
#include "base/mem.h"
#include "store/internal.h"

#define RETAIN_MS_DEFAULT (5 * 60 * 1000)
#define RETAIN_BYTES_DEFAULT (256u * 1024 * 1024)
#define RETENTION_EVERY_MS 1000
#define RETENTION_STEP 10000 /* changes dropped in one turn of the loop */
#define RING_MIN 1024
#define FORGET_BATCH 512

static void on_retention(struct timer *t);

struct store *store_new(struct loop *l, const struct store_options *o, const struct store_member *m, void *member_state)
{
    struct store *s = XNEW(struct store);
    s->loop = l;
    s->member = m;
    s->member_state = member_state;
    s->retain_ms = o->retain_ms ? o->retain_ms : RETAIN_MS_DEFAULT;
    s->retain_bytes = o->retain_bytes ? o->retain_bytes : RETAIN_BYTES_DEFAULT;
    s->next_row_id = 1;
    index_init(&s->index);
    store_watches_init(s);
    s->base_at_ms = clock_wall_ms();
    s->base_mono_ms = clock_mono_ms();
    timer_init(&s->pump, l, store_pump, s);
    timer_init(&s->retention, l, on_retention, s);
    timer_start(&s->retention, RETENTION_EVERY_MS);
    return s;
}

void store_close(struct store *s)
{
    timer_stop(&s->retention);
    s->closing = true;
    s->member->close(s);
    timer_stop(&s->pump);
    store_watches_deinit(s);
    mem_free(s->changes);
    VEC_DEINIT(&s->stale);
    index_deinit(&s->index);
    mem_free(s);
}

/* ---- history ---- */

struct store_change *store_change_at(struct store *s, size_t i)
{
    return &s->changes[(s->change_first + i) & (s->change_cap - 1)];
}

size_t store_first_change_after(struct store *s, int64_t rev)
{
    size_t low = 0, high = s->change_count;
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (store_change_at(s, mid)->rev <= rev)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

static void ring_resize(struct store *s, size_t cap)
{
    struct store_change *ring = xcalloc(cap, sizeof(*ring));
    for (size_t i = 0; i < s->change_count; i++)
        ring[i] = *store_change_at(s, i);
    mem_free(s->changes);
    s->changes = ring;
    s->change_cap = cap;
    s->change_first = 0;
}

static size_t value_bytes(const struct store_value *v)
{
    return v ? v->key.len + v->value.len : 0;
}

/* What history costs: the replaced version, which only this change keeps. The new one is live, or is another's to account. */
static size_t change_bytes(const struct store_change *c)
{
    const struct store_value *prev = change_prev(c);
    return sizeof(*c) + sizeof(*c->version) + (prev ? sizeof(*prev) + value_bytes(prev) : 0);
}

static void account_live(struct store *s, const struct store_value *prev, const struct store_value *now)
{
    s->live_objects += (now != NULL) - (prev != NULL);
    s->live_bytes += value_bytes(now) - value_bytes(prev);
}

/* A version became visible: account it and add it to the history. */
static void publish(struct store *s, struct index_node *n, struct store_version *v, uint64_t mono_ms)
{
    struct store_change c = {.rev = v->rev, .mono_ms = mono_ms, .node = n, .version = v};
    if (s->change_count == s->change_cap)
        ring_resize(s, s->change_cap ? s->change_cap * 2 : RING_MIN);
    s->change_count++;
    *store_change_at(s, s->change_count - 1) = c;
    s->change_bytes += change_bytes(&c);
    account_live(s, change_prev(&c), v->value);
}

/* Ids of dropped rows, on their way to the member. */
struct forget {
    int64_t ids[FORGET_BATCH];
    size_t count;
};
static void forget_flush(struct store *s, struct forget *f)
{
    if (f->count && s->member->forget)
        s->member->forget(s, f->ids, f->count, s->first_rev);
    f->count = 0;
}
static void forget_row(struct store *s, struct forget *f, int64_t row_id)
{
    if (f->count == FORGET_BATCH)
        forget_flush(s, f);
    f->ids[f->count++] = row_id;
}

/* Tombstones are for history: one that everybody has seen goes, unless something stands on it, and then with that. */
static void drop_tombstone(struct store *s, struct index_node *n, struct forget *f)
{
    struct store_version *v = n->newest;
    if (!v || v->value || v->rev > s->first_rev)
        return;
    forget_row(s, f, v->row_id);
    n->newest = NULL;
    version_free(v);
    index_remove(&s->index, n);
}

/* The oldest change becomes the beginning of time: what it replaced goes. Older versions than that have gone with their changes, so
 * this costs the same however long the history of a key is. */
static void change_drop_first(struct store *s, struct forget *f)
{
    struct store_change c = *store_change_at(s, 0);
    s->change_first = (s->change_first + 1) & (s->change_cap - 1);
    s->change_count--;
    s->change_bytes -= change_bytes(&c);
    s->first_rev = c.rev;
    if (c.version->older) {
        forget_row(s, f, c.version->older->row_id);
        version_free(c.version->older);
        c.version->older = NULL;
    }
    drop_tombstone(s, c.node, f);
}

/* Drops changes up to rev, at most `most` and then the rest of a revision; whether all are gone. */
static bool compact(struct store *s, int64_t rev, size_t most)
{
    struct forget f = {.count = 0};
    int64_t delivered = store_delivered_rev(s);
    size_t dropped = 0;
    rev = MIN(rev, delivered);
    while (s->change_count && store_change_at(s, 0)->rev <= rev && (dropped < most || store_change_at(s, 0)->rev == s->first_rev)) {
        change_drop_first(s, &f);
        dropped++;
    }
    bool all = !s->change_count || store_change_at(s, 0)->rev > rev;
    if (all && rev > s->first_rev)
        s->first_rev = rev;
    forget_flush(s, &f);
    if (s->change_cap > RING_MIN && s->change_count < s->change_cap / 8)
        ring_resize(s, s->change_cap / 4);
    return all;
}

void store_compact(struct store *s, int64_t rev)
{
    s->compact_rev = MAX(s->compact_rev, MIN(rev, s->visible_rev));
    if (!s->pumping) /* it walks the history; what cannot go now goes when it has been delivered */
        (void)compact(s, s->compact_rev, SIZE_MAX);
}

/* The newest revision that is older than history must be, or is over its size. */
static int64_t expired_rev(struct store *s)
{
    uint64_t now = clock_mono_ms();
    size_t bytes = s->change_bytes;
    int64_t rev = 0;
    for (size_t i = 0; i < MIN(s->change_count, (size_t)RETENTION_STEP); i++) {
        const struct store_change *c = store_change_at(s, i);
        bool old = now >= c->mono_ms && now - c->mono_ms > s->retain_ms;
        if (!old && bytes <= s->retain_bytes)
            break;
        rev = c->rev;
        bytes -= change_bytes(c);
    }
    return rev;
}

static void on_retention(struct timer *t)
{
    struct store *s = t->arg;
    int64_t rev = expired_rev(s);
    size_t before = s->change_count;
    bool all = rev == 0 || compact(s, rev, RETENTION_STEP);
    bool more = before - s->change_count >= RETENTION_STEP || !all;
    /* More at once, but not when it is a watch that we wait for: it has its turns first. */
    timer_start(&s->retention, more && s->change_count < before ? 0 : RETENTION_EVERY_MS);
}

/* ---- loading ---- */

void store_load_begin(struct store *s, int64_t compacted_rev, int64_t newest_at_ms)
{
    s->visible_rev = s->accepted_rev = s->announced_rev = s->fed_rev = s->first_rev = compacted_rev;
    s->base_newest_ms = newest_at_ms;
    s->base_at_ms = MAX(s->base_at_ms, newest_at_ms);
}

/* A row from before history: only the newest of each key is of use, and no deletion. */
static void load_old(struct store *s, struct index_node *n, const struct store_row *r)
{
    struct store_version *old = n->newest;
    struct store_value *prev = old ? old->value : NULL;
    struct store_value *now = r->deleted ? NULL : store_value_new(r->key, r->value, r->created_rev, r->rev);
    account_live(s, prev, now);
    if (old) {
        *VEC_PUSH(&s->stale) = old->row_id;
        n->newest = NULL;
        version_free(old);
    }
    if (now) {
        version_new(n, r->rev, r->id, now);
    } else {
        *VEC_PUSH(&s->stale) = r->id;
        index_remove(&s->index, n);
    }
}

int store_load(struct store *s, const struct store_row *r, struct err *err)
{
    bool created_ok = r->deleted || (r->created_rev > 0 && r->created_rev <= r->rev);
    if (r->id < s->next_row_id || r->rev < 1 || r->rev < s->loaded_rev || !r->key.len || !created_ok)
        return err_set(err, ERR_CORRUPT, "row %lld of the store's log does not follow from the rows before it", (long long)r->id);
    struct index_node *n = index_ensure(&s->index, r->key);
    s->loaded_rev = r->rev;
    s->next_row_id = r->id + 1;
    if (r->rev <= s->first_rev) {
        load_old(s, n, r);
        return 0;
    }
    if (n->newest && n->newest->rev == r->rev)
        return err_set(err, ERR_CORRUPT, "row %lld of the store's log writes a key for the second time in one revision", (long long)r->id);
    /* The time that the store was down does not count: who watched could not read on meanwhile. */
    uint64_t age = r->at_ms < s->base_newest_ms ? (uint64_t)(s->base_newest_ms - r->at_ms) : 0;
    struct store_value *value = r->deleted ? NULL : store_value_new(r->key, r->value, r->created_rev, r->rev);
    publish(s, n, version_new(n, r->rev, r->id, value), s->base_mono_ms > age ? s->base_mono_ms - age : 0);
    s->visible_rev = s->accepted_rev = s->announced_rev = s->fed_rev = r->rev;
    return 0;
}

void store_load_end(struct store *s)
{
    struct forget f = {.count = 0};
    VEC_FOREACH (&s->stale, id)
        forget_row(s, &f, *id);
    forget_flush(s, &f);
    VEC_DEINIT(&s->stale);
}

/* ---- transactions ---- */

static void accepted(struct store *s, struct store_value *prev, struct store_value *now)
{
    if (s->on_accept && (prev || now))
        s->on_accept(s->on_accept_arg, prev, now);
}

void store_on_accept(struct store *s, void (*fn)(void *arg, struct store_value *prev, struct store_value *now), void *arg)
{
    s->on_accept = fn;
    s->on_accept_arg = arg;
    for (struct index_node *n = fn ? s->index.head->next[0] : NULL; n; n = n->next[0])
        accepted(s, NULL, n->newest ? n->newest->value : NULL);
}

static struct store_version *visible(const struct store *s, const struct index_node *n)
{
    struct store_version *v = n ? n->newest : NULL;
    while (v && v->rev > s->visible_rev)
        v = v->older;
    return v;
}

static int refuse(const struct store_op *op, int code, const char *why, struct err *err)
{
    char key[ERR_FIELD_MAX];
    snprintf(key, sizeof(key), "%.*s", STR_ARG(op->key));
    return err_field(err, code, key, "%s %s", key, why);
}

static int check(struct store *s, const struct store_op *op, struct err *err)
{
    struct index_node *n = index_find(&s->index, op->key);
    struct store_value *v = n && n->newest ? n->newest->value : NULL;
    if (!op->key.len)
        return err_set(err, ERR_INTERNAL, "a transaction with an empty key");
    if (op->expect_rev == 0 && v)
        return refuse(op, ERR_EXISTS, "already exists", err);
    if (!v && (op->expect_rev > 0 || op->type == STORE_DELETE))
        return refuse(op, ERR_NOT_FOUND, "not found", err);
    if (op->expect_rev > 0 && v->rev != op->expect_rev)
        return refuse(op, ERR_CONFLICT, "has changed", err);
    return 0;
}

static int by_key(const void *a, const void *b)
{
    return str_cmp(((const struct store_op *)a)->key, ((const struct store_op *)b)->key);
}

/* A key twice in one transaction would be two versions of one revision. */
static int check_distinct(const struct store_op *ops, size_t count, struct err *err)
{
    if (count < 2)
        return 0;
    int rc = 0;
    struct store_op *sorted = xcalloc(count, sizeof(*sorted));
    memcpy(sorted, ops, count * sizeof(*sorted));
    qsort(sorted, count, sizeof(*sorted), by_key);
    for (size_t i = 1; rc == 0 && i < count; i++)
        if (str_eq(sorted[i - 1].key, sorted[i].key))
            rc = err_set(err, ERR_INTERNAL, "a transaction names %.*s twice", STR_ARG(sorted[i].key));
    mem_free(sorted);
    return rc;
}

int store_txn(struct store *s, const struct store_op *ops, size_t count, store_done *done, void *arg, struct err *err)
{
    return store_txn_noted(s, ops, count, STR_NULL, done, arg, err);
}

int store_txn_noted(struct store *s, const struct store_op *ops, size_t count, struct str note, store_done *done, void *arg, struct err *err)
{
    if (s->closing)
        return err_set(err, ERR_UNAVAILABLE, "the store is closing");
    if (!count) /* its revision would be on no disk */
        return err_set(err, ERR_INTERNAL, "a transaction that writes nothing");
    for (size_t i = 0; i < count; i++) {
        int rc = check(s, &ops[i], err);
        if (rc < 0)
            return rc;
    }
    int rc = check_distinct(ops, count, err);
    if (rc < 0)
        return rc;
    struct store_pending *p = xcalloc(1, sizeof(*p) + count * sizeof(p->writes[0]) + note.len);
    int64_t at_ms = s->base_at_ms + (int64_t)(clock_mono_ms() - s->base_mono_ms);
    *p = (struct store_pending){.store = s, .rev = ++s->accepted_rev, .at_ms = at_ms, .done = done, .arg = arg, .count = count};
    if (note.len)
        p->note = str_n(memcpy(&p->writes[count], note.ptr, note.len), note.len);
    for (size_t i = 0; i < count; i++) {
        struct index_node *n = index_ensure(&s->index, ops[i].key);
        struct store_value *old = n->newest ? n->newest->value : NULL;
        struct store_value *sv = NULL;
        if (ops[i].type == STORE_PUT)
            sv = store_value_new(ops[i].key, ops[i].value, old ? old->created_rev : p->rev, p->rev);
        p->writes[i] = (struct store_write){s->next_row_id, n, version_new(n, p->rev, s->next_row_id, sv)};
        s->next_row_id++;
        accepted(s, old, sv);
    }
    s->stats.txns++;
    s->member->submit(s, p);
    return 0;
}

void store_committed(struct store *s, struct store_pending_list *list)
{
    struct store_pending *p, *next;
    uint64_t now = clock_mono_ms();
    s->stats.commits++;
    STAILQ_FOREACH (p, list, link) {
        s->visible_rev = p->rev;
        for (size_t i = 0; i < p->count; i++) {
            publish(s, p->writes[i].node, p->writes[i].version, now);
            s->stats.bytes_written += value_bytes(p->writes[i].version->value);
        }
    }
    store_schedule_pump(s);
    /* All are visible before anyone is told: an answered write is in every later read. */
    STAILQ_FOREACH_SAFE (p, list, link, next) {
        if (p->done)
            p->done(p->arg, 0, p->rev);
        mem_free(p);
    }
    STAILQ_INIT(list);
}

/* Newest first, so that what is undone is always the newest version of its key. */
static void roll_back(struct store *s, struct store_pending_list *list)
{
    struct forget f = {.count = 0};
    VEC(struct store_pending *) all = VEC_INIT;
    struct store_pending *p;
    STAILQ_FOREACH (p, list, link)
        *VEC_PUSH(&all) = p;
    while (all.len) {
        p = all.ptr[--all.len];
        for (size_t i = 0; i < p->count; i++) {
            struct index_node *n = p->writes[i].node;
            n->newest = p->writes[i].version->older;
            accepted(s, p->writes[i].version->value, n->newest ? n->newest->value : NULL);
            version_free(p->writes[i].version);
            if (!n->newest)
                index_remove(&s->index, n);
            else
                drop_tombstone(s, n, &f);
        }
    }
    VEC_DEINIT(&all);
    forget_flush(s, &f);
    s->accepted_rev = s->visible_rev;
}

void store_failed(struct store *s, struct store_pending_list *list, int code)
{
    struct store_pending *p, *next;
    roll_back(s, list);
    STAILQ_FOREACH_SAFE (p, list, link, next) {
        if (p->done)
            p->done(p->arg, code, 0);
        mem_free(p);
    }
    STAILQ_INIT(list);
}

/* ---- reads ---- */

struct store_value *store_get_pending(struct store *s, struct str key)
{
    struct index_node *n = index_find(&s->index, key);
    return n && n->newest ? n->newest->value : NULL;
}

struct store_value *store_get(struct store *s, struct str key)
{
    struct store_version *v = visible(s, index_find(&s->index, key));
    return v ? v->value : NULL;
}

int store_range(struct store *s, struct str prefix, struct str start, int64_t at_rev, size_t limit, bool (*fn)(void *arg, struct store_value *v),
                void *arg, struct err *err)
{
    if (at_rev == 0)
        at_rev = s->visible_rev;
    if (at_rev < s->first_rev)
        return err_set(err, ERR_GONE, "revision %lld is compacted; the oldest is %lld", (long long)at_rev, (long long)s->first_rev);
    if (at_rev > s->visible_rev)
        return err_set(err, ERR_BAD_REQUEST, "revision %lld is in the future", (long long)at_rev);
    size_t seen = 0;
    struct str from = start.len && str_cmp(start, prefix) > 0 ? start : prefix;
    for (struct index_node *n = index_seek(&s->index, from); n && str_starts(n->key, prefix); n = n->next[0]) {
        struct store_version *v = n->newest;
        while (v && v->rev > at_rev)
            v = v->older;
        if (!v || !v->value)
            continue;
        if (!fn(arg, v->value) || (limit && ++seen == limit))
            break;
    }
    return 0;
}

size_t store_count(struct store *s, struct str prefix)
{
    size_t count = 0;
    for (struct index_node *n = index_seek(&s->index, prefix); n && str_starts(n->key, prefix); n = n->next[0]) {
        struct store_version *v = visible(s, n);
        count += v && v->value;
    }
    return count;
}

int64_t store_rev(const struct store *s)
{
    return s->visible_rev;
}

bool store_is_quiet(const struct store *s)
{
    return s->accepted_rev == s->visible_rev;
}

int64_t store_first_rev(const struct store *s)
{
    return s->first_rev;
}

int store_health(const struct store *s, struct err *err)
{
    if (s->health.code && err)
        *err = s->health;
    return s->health.code;
}

void store_scrub(struct store *s)
{
    if (s->member->scrub && !s->closing)
        s->member->scrub(s);
}

void store_get_stats(const struct store *s, struct store_stats *ret)
{
    *ret = s->stats;
    ret->live_objects = s->live_objects;
    ret->live_bytes = s->live_bytes;
    ret->history_versions = s->change_count;
    ret->history_bytes = s->change_bytes;
}
