/* Inside the store: the index (index.c), the front that all members share (store.c, watch.c), and what a member adds (sqlite.c, memory.c).
 *
 * One struct store_version a write, in lists by key, newest first. A version is visible when its revision is at most store.visible_rev; what is newer is accepted but
 * not yet durable. Changes are the same versions in order of revision: the history that watches read.
 */
#ifndef SEKI_STORE_INTERNAL_H
#define SEKI_STORE_INTERNAL_H

#include <pthread.h>
#include <sys/queue.h>

#include "base/vec.h"
#include "base/map.h"
#include "store/store.h"

/* glibc's <sys/queue.h> has no forms that allow freeing the element. */
#define STAILQ_FOREACH_SAFE(var, list, field, next) \
    for ((var) = STAILQ_FIRST(list); (var) && ((next) = STAILQ_NEXT(var, field), 1); (var) = (next))
#define TAILQ_FOREACH_SAFE(var, list, field, next) \
    for ((var) = TAILQ_FIRST(list); (var) && ((next) = TAILQ_NEXT(var, field), 1); (var) = (next))

#define INDEX_LEVELS 24

struct store_version {
    int64_t rev;
    int64_t row_id; /* in the member's log */
    struct store_value *value; /* NULL: deleted */
    struct store_version *older;
};

struct index_node {
    struct str key;
    struct store_version *newest;
    int levels;
    struct index_node *next[]; /* levels of them */
};

struct index {
    struct index_node *head; /* a sentinel with INDEX_LEVELS levels */
    int levels;
    size_t nodes;
    uint64_t random; /* heights of nodes */
};

void index_init(struct index *ix);
void index_deinit(struct index *ix); /* frees nodes, versions, values */
struct index_node *index_find(const struct index *ix, struct str key);
/* The first node whose key is >= key. */
struct index_node *index_seek(const struct index *ix, struct str key);
struct index_node *index_ensure(struct index *ix, struct str key);
void index_remove(struct index *ix, struct index_node *n); /* has no versions */

struct store_value *store_value_new(struct str key, struct str value, int64_t created_rev, int64_t rev);
struct store_version *version_new(struct index_node *n, int64_t rev, int64_t row_id, struct store_value *value);
void version_free(struct store_version *v);

/* One write that became visible. Its version, and the one that it replaced, live at least as long as it. */
struct store_change {
    int64_t rev;
    uint64_t mono_ms;
    struct index_node *node;
    struct store_version *version;
};
static inline struct store_value *change_now(const struct store_change *c)
{
    return c->version->value;
}
static inline struct store_value *change_prev(const struct store_change *c)
{
    return c->version->older ? c->version->older->value : NULL;
}

/* An accepted transaction on its way to being durable. */
struct store_write {
    int64_t row_id;
    struct index_node *node;
    struct store_version *version;
};
struct store_pending {
    STAILQ_ENTRY(store_pending) link;
    struct store *store;
    int64_t rev;
    int64_t at_ms; /* by the store's clock */
    store_done *done;
    void *arg;
    struct str note; /* behind writes; empty: none */
    size_t count;
    struct store_write writes[];
};
STAILQ_HEAD(store_pending_list, store_pending);

/* What a member adds. NULL ops: nothing is kept. */
struct store_member {
    /* Takes over p; later store_committed() or store_failed() is called on the loop's thread. */
    void (*submit)(struct store *s, struct store_pending *p);
    /* Rows that history needs no more, in an order in which they may go; best effort. */
    void (*forget)(struct store *s, const int64_t *row_ids, size_t count, int64_t compacted_rev);
    /* Soon after all that was told to be forgotten: its traces too. NULL: there are none. */
    void (*scrub)(struct store *s);
    /* Waits until all that is accepted is answered, ends threads. Nothing is accepted any more. */
    void (*close)(struct store *s);
};

/* A length that prefixes of watches have, and how many groups have it. */
struct watch_length {
    size_t len, groups;
};

struct store {
    struct loop *loop;
    const struct store_member *member;
    void *member_state;
    struct index index;
    int64_t visible_rev, accepted_rev, first_rev, next_row_id;
    uint64_t retain_ms;
    size_t retain_bytes;

    /* The store's clock, which ages history: wall clock once, then monotonic, and never behind what the log has: a jump of the
     * wall clock must not take history from those who still need it. */
    int64_t base_at_ms, base_newest_ms;
    uint64_t base_mono_ms;

    struct store_change *changes; /* ring */
    size_t change_cap, change_first, change_count, change_bytes;
    struct timer retention;
    int64_t loaded_rev;
    VEC(int64_t) stale; /* found by loading: rows that nobody needs */
    bool closing;

    struct map *watch_groups; /* prefix → struct watch_group: watch.c */
    VEC(struct watch_length) watch_lengths;
    TAILQ_HEAD(, store_watch) behind;
    SLIST_HEAD(, store_watch) gone;
    int64_t fed_rev; /* every group had the revisions up to here */
    struct timer pump; /* delivers events soon, from the loop */
    bool pumping;
    int64_t compact_rev; /* asked for; done as far as watches have had it */
    void (*on_revision)(void *arg, int64_t rev);
    void *on_revision_arg;
    int64_t announced_rev;
    void (*on_accept)(void *arg, struct store_value *prev, struct store_value *now);
    void *on_accept_arg;

    struct err health;
    size_t live_objects, live_bytes;
    struct store_stats stats;
};

struct store *store_new(struct loop *l, const struct store_options *o, const struct store_member *m, void *member_state);
void store_committed(struct store *s, struct store_pending_list *list);
/* Rolls back everything that is accepted and not visible; fails the list's transactions in order. */
void store_failed(struct store *s, struct store_pending_list *list, int code);

/* Loading: first from which revision on there is history, and when the newest row was written; then the rows of the log in
 * order; then the end. A row that contradicts those before it is ERR_CORRUPT. */
struct store_row {
    int64_t id, rev, created_rev, at_ms;
    bool deleted;
    struct str key, value;
};
void store_load_begin(struct store *s, int64_t compacted_rev, int64_t newest_at_ms);
int store_load(struct store *s, const struct store_row *r, struct err *err) NODISCARD;
void store_load_end(struct store *s); /* the member can forget by now */

void store_watches_init(struct store *s);
void store_watches_deinit(struct store *s);
void store_schedule_pump(struct store *s);
void store_pump(struct timer *t);
int64_t store_delivered_rev(const struct store *s); /* every watch had this revision */
struct store_change *store_change_at(struct store *s, size_t i);
size_t store_first_change_after(struct store *s, int64_t rev);

#endif
