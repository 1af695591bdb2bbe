/* The front of the store: transactions, reads, history. Members only make things durable. */
#include "base/clock.h"
#include "base/mem.h"
#include "store/internal.h"

#define RETAIN_MS_DEFAULT (5 * 60 * 1000)
#define RETAIN_BYTES_DEFAULT (256u * 1024 * 1024)
#define RETENTION_EVERY_MS 1000
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
    LIST_INIT(&s->watches);
    timer_init(&s->pump, l, store_pump, s);
    timer_init(&s->retention, l, on_retention, s);
    timer_start(&s->retention, RETENTION_EVERY_MS);
    return s;
}

void store_close(struct store *s)
{
    timer_stop(&s->retention);
    s->member->close(s);
    timer_stop(&s->pump);
    while (!LIST_EMPTY(&s->watches))
        store_watch_stop(LIST_FIRST(&s->watches));
    for (size_t i = 0; i < s->change_count; i++) {
        store_value_unref(store_change_at(s, i)->prev);
        store_value_unref(store_change_at(s, i)->now);
    }
    mem_free(s->changes);
    index_deinit(&s->index);
    mem_free(s);
}

/* ---- history ---- */

struct store_change *store_change_at(struct store *s, size_t i)
{
    return &s->changes[(s->change_first + i) % s->change_cap];
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

static void change_push(struct store *s, struct store_change c)
{
    if (s->change_count == s->change_cap) {
        size_t cap = s->change_cap ? s->change_cap * 2 : 64;
        struct store_change *ring = xcalloc(cap, sizeof(*ring));
        for (size_t i = 0; i < s->change_count; i++)
            ring[i] = *store_change_at(s, i);
        mem_free(s->changes);
        s->changes = ring;
        s->change_cap = cap;
        s->change_first = 0;
    }
    s->change_count++;
    *store_change_at(s, s->change_count - 1) = c;
    s->change_bytes += c.bytes;
}

/* A version became visible: account it and add it to the history. */
static void publish(struct store *s, struct index_node *n, struct store_version *v, uint64_t mono_ms)
{
    struct store_value *prev = v->older ? v->older->value : NULL;
    if (prev) {
        s->live_objects--;
        s->live_bytes -= prev->key.len + prev->value.len;
    }
    if (v->value) {
        s->live_objects++;
        s->live_bytes += v->value->key.len + v->value->value.len;
    }
    s->versions++;
    struct store_change c = {.rev = v->rev, .mono_ms = mono_ms, .node = n};
    c.prev = prev ? store_value_ref(prev) : NULL;
    c.now = v->value ? store_value_ref(v->value) : NULL;
    c.bytes = sizeof(c) + sizeof(*v) + (v->value ? v->value->key.len + v->value->value.len + sizeof(*v->value) : 0);
    change_push(s, c);
}

/* Drops what nobody at a revision after `rev` can see of a key; ids of dropped rows go to the member. */
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
static void forget_version(struct store *s, struct forget *f, struct store_version *v)
{
    if (f->count == FORGET_BATCH)
        forget_flush(s, f);
    f->ids[f->count++] = v->row_id;
    s->versions--;
    version_free(v);
}
static void trim(struct store *s, struct index_node *n, int64_t rev, struct forget *f)
{
    struct store_version **link = &n->newest;
    while (*link && (*link)->rev > rev)
        link = &(*link)->older;
    if (!*link)
        return;
    struct store_version *v = (*link)->older;
    (*link)->older = NULL;
    while (v) {
        struct store_version *older = v->older;
        forget_version(s, f, v);
        v = older;
    }
    if (!(*link)->value) { /* a tombstone that everyone has seen */
        v = *link;
        *link = NULL;
        forget_version(s, f, v);
    }
    if (!n->newest)
        index_remove(&s->index, n);
}

static void change_drop_first(struct store *s, struct forget *f)
{
    struct store_change c = *store_change_at(s, 0);
    s->change_first = (s->change_first + 1) % s->change_cap;
    s->change_count--;
    s->change_bytes -= c.bytes;
    s->first_rev = c.rev;
    store_value_unref(c.prev);
    store_value_unref(c.now);
    trim(s, c.node, c.rev, f);
}

void store_compact(struct store *s, int64_t rev)
{
    struct forget f = {.count = 0};
    if (rev > s->visible_rev)
        rev = s->visible_rev;
    while (s->change_count && store_change_at(s, 0)->rev <= rev)
        change_drop_first(s, &f);
    if (rev > s->first_rev)
        s->first_rev = rev;
    forget_flush(s, &f);
}

static void on_retention(struct timer *t)
{
    struct store *s = t->arg;
    struct forget f = {.count = 0};
    uint64_t now = clock_mono_ms();
    while (s->change_count) {
        struct store_change *c = store_change_at(s, 0);
        bool old = now >= c->mono_ms && now - c->mono_ms > s->retain_ms;
        if (!old && s->change_bytes <= s->retain_bytes)
            break;
        int64_t rev = c->rev; /* a revision goes whole */
        while (s->change_count && store_change_at(s, 0)->rev == rev)
            change_drop_first(s, &f);
    }
    forget_flush(s, &f);
    timer_start(&s->retention, RETENTION_EVERY_MS);
}

void store_load(struct store *s, int64_t row_id, int64_t rev, struct str key, int64_t created_rev, bool deleted, struct str value, uint64_t age_ms)
{
    struct index_node *n = index_ensure(&s->index, key);
    struct store_value *sv = deleted ? NULL : store_value_new(key, value, created_rev, rev);
    struct store_version *v = version_new(n, rev, row_id, sv);
    uint64_t now = clock_mono_ms();
    publish(s, n, v, now > age_ms ? now - age_ms : 0);
    s->visible_rev = s->accepted_rev = s->announced_rev = rev;
    s->next_row_id = row_id + 1;
}

/* ---- transactions ---- */

static struct store_version *visible(const struct store *s, const struct index_node *n)
{
    struct store_version *v = n ? n->newest : NULL;
    while (v && v->rev > s->visible_rev)
        v = v->older;
    return v;
}

static int check(struct store *s, const struct store_op *op, struct err *err)
{
    struct index_node *n = index_find(&s->index, op->key);
    struct store_value *v = n && n->newest ? n->newest->value : NULL;
    char key[ERR_FIELD_MAX];
    snprintf(key, sizeof(key), "%.*s", STR_ARG(op->key));
    if (op->expect_rev == 0 && v)
        return err_field(err, ERR_EXISTS, key, "%s already exists", key);
    if (op->expect_rev > 0 && !v)
        return err_field(err, ERR_NOT_FOUND, key, "%s not found", key);
    if (op->expect_rev > 0 && v->rev != op->expect_rev)
        return err_field(err, ERR_CONFLICT, key, "%s has changed", key);
    if (op->type == STORE_DELETE && !v)
        return err_field(err, ERR_NOT_FOUND, key, "%s not found", key);
    return 0;
}

int store_txn(struct store *s, const struct store_op *ops, size_t count, store_done *done, void *arg, struct err *err)
{
    for (size_t i = 0; i < count; i++) {
        int rc = check(s, &ops[i], err);
        if (rc < 0)
            return rc;
        for (size_t k = 0; k < i; k++)
            if (str_eq(ops[k].key, ops[i].key))
                return err_set(err, ERR_INTERNAL, "a transaction names %.*s twice", STR_ARG(ops[i].key));
    }
    struct store_pending *p = xcalloc(1, sizeof(*p) + count * sizeof(p->writes[0]));
    *p = (struct store_pending){.store = s, .rev = ++s->accepted_rev, .wall_ms = clock_wall_ms(), .done = done, .arg = arg, .count = count};
    for (size_t i = 0; i < count; i++) {
        struct index_node *n = index_ensure(&s->index, ops[i].key);
        struct store_value *old = n->newest ? n->newest->value : NULL;
        struct store_value *sv = NULL;
        if (ops[i].type == STORE_PUT)
            sv = store_value_new(ops[i].key, ops[i].value, old ? old->created_rev : p->rev, p->rev);
        p->writes[i] = (struct store_write){s->next_row_id, n, version_new(n, p->rev, s->next_row_id, sv)};
        s->next_row_id++;
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
    s->health = (struct err){0};
    STAILQ_FOREACH (p, list, link) {
        s->visible_rev = p->rev;
        for (size_t i = 0; i < p->count; i++)
            publish(s, p->writes[i].node, p->writes[i].version, now);
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

static void roll_back(struct store *s, struct store_pending *p)
{
    for (size_t i = 0; i < p->count; i++) {
        struct index_node *n = p->writes[i].node;
        struct store_version **link = &n->newest;
        while (*link && *link != p->writes[i].version)
            link = &(*link)->older;
        if (*link) {
            *link = p->writes[i].version->older;
            version_free(p->writes[i].version);
        }
        if (!n->newest) {
            /* Later writes of the list may name the node too. */
            for (struct store_pending *q = STAILQ_NEXT(p, link); q; q = STAILQ_NEXT(q, link))
                for (size_t k = 0; k < q->count; k++)
                    if (q->writes[k].node == n)
                        goto keep;
            index_remove(&s->index, n);
        }
    keep:;
    }
}

void store_failed(struct store *s, struct store_pending_list *list, const struct err *why)
{
    struct store_pending *p, *next;
    s->health = *why;
    STAILQ_FOREACH (p, list, link)
        roll_back(s, p);
    s->accepted_rev = s->visible_rev;
    STAILQ_FOREACH_SAFE (p, list, link, next) {
        if (p->done)
            p->done(p->arg, why->code, 0);
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

void store_get_stats(const struct store *s, struct store_stats *ret)
{
    *ret = s->stats;
    ret->live_objects = s->live_objects;
    ret->live_bytes = s->live_bytes;
    ret->history_versions = s->change_count;
    ret->history_bytes = s->change_bytes;
    ret->watches = store_watch_count(s);
}
