/* The laws of the store, held against every member. What only a disk can keep is in test_store_disk.c, long random histories in
 * test_store_model.c, threads in test_store_threads.c. */
#include "store_env.h"

#include "base/clock.h"

#define KEYS 6
#define STEPS 120

static struct store_env env;

static int setup_memory(void **state)
{
    (void)state;
    env_init(&env);
    env.open = store_open_memory;
    env_open(&env);
    return 0;
}

static int setup_sqlite(void **state)
{
    (void)state;
    env_init(&env);
    env.open = store_open_sqlite;
    env_open(&env);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    clock_test_clear();
    env_deinit(&env);
    return 0;
}

/* ---- a model: the state after every revision, and the changes between ---- */

struct model_state {
    int values[KEYS]; /* 0: absent; else the number that was written */
};
struct model_change {
    int64_t rev;
    int key, before, after;
};
struct model {
    struct model_state at[STEPS + 1]; /* by revision */
    struct model_change changes[STEPS * KEYS];
    size_t change_count;
    int64_t rev;
};

static unsigned next_random(unsigned *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return *seed >> 16;
}

static int number_of(struct str s)
{
    int64_t n = 0;
    assert_int_equal(str_to_i64(s, 0, INT32_MAX, &n), 0);
    return (int)n;
}

static int key_number(struct str key)
{
    return number_of(str_skip(key, (size_t)str_find(key, '/') + 1));
}

static void key_name(int k, char text[16])
{
    snprintf(text, 16, "%s/%d", k % 2 ? "odd" : "even", k);
}

/* One transaction on some of the keys, applied to the model and given to the store. */
static void random_step(struct model *m, unsigned *seed, struct ack *ack)
{
    char names[KEYS][16], texts[KEYS][16];
    struct store_op ops[KEYS];
    size_t count = 0;
    struct model_state *now = &m->at[m->rev + 1];
    *now = m->at[m->rev];
    for (int k = 0; k < KEYS; k++) {
        unsigned r = next_random(seed) % 4;
        if (r >= 2 || (r == 1 && !now->values[k]))
            continue;
        key_name(k, names[k]);
        snprintf(texts[k], sizeof(texts[k]), "%d", (int)m->rev + 1);
        ops[count++] = r ? op_delete(names[k], -1) : op_put(names[k], texts[k], -1);
        m->changes[m->change_count++] = (struct model_change){m->rev + 1, k, now->values[k], r ? 0 : (int)m->rev + 1};
        now->values[k] = r ? 0 : (int)m->rev + 1;
    }
    if (!count)
        return;
    struct err err = ERR_INIT;
    ASSERT_OK(store_txn(env.store, ops, count, on_ack, ack, &err));
    m->rev++;
}

static void random_history(struct model *m, unsigned seed)
{
    struct ack acks[STEPS] = {0};
    int64_t steps = STEPS;
    while (m->rev < steps) {
        int64_t before = m->rev;
        random_step(m, &seed, &acks[before]);
        if (m->rev > before && next_random(&seed) % 3 == 0)
            loop_run_once(env.loop, 0);
    }
    RUN_UNTIL(env.loop, acks[STEPS - 1].done);
    for (int64_t i = 0; i < steps; i++) {
        assert_true(acks[i].done);
        assert_int_equal(acks[i].code, 0);
        assert_int_equal(acks[i].rev, i + 1);
    }
}

struct listing {
    struct model_state state;
    size_t count;
    char last[16];
};

static bool into_listing(void *arg, struct store_value *v)
{
    struct listing *l = arg;
    char key[16];
    assert_true(str_to_array(v->key, key, sizeof(key)));
    assert_true(strcmp(key, l->last) > 0); /* in order, none twice */
    snprintf(l->last, sizeof(l->last), "%s", key);
    l->state.values[key_number(v->key)] = number_of(v->value);
    l->count++;
    return true;
}

static void assert_state(const struct model_state *want, int64_t rev)
{
    struct err err = ERR_INIT;
    struct listing l = {.count = 0};
    ASSERT_OK(store_range(env.store, STR(""), STR(""), rev, 0, into_listing, &l, &err));
    for (int k = 0; k < KEYS; k++)
        if (l.state.values[k] != want->values[k])
            fail_msg("revision %lld, key %d: %d instead of %d", (long long)rev, k, l.state.values[k], want->values[k]);
}

/* ---- revisions, transactions, preconditions ---- */

static void revisions_count_up(void **state)
{
    (void)state;
    assert_int_equal(store_rev(env.store), 0);
    for (int i = 1; i <= 20; i++) {
        struct store_op op = op_put("a", "x", -1);
        struct ack a = {0};
        struct err err = ERR_INIT;
        ASSERT_OK(store_txn(env.store, &op, 1, on_ack, &a, &err));
        /* Accepted is not yet visible; writers see it, readers do not. */
        assert_false(a.done);
        assert_int_equal(store_rev(env.store), i - 1);
        assert_int_equal(store_get_pending(env.store, STR("a"))->rev, i);
        RUN_UNTIL(env.loop, a.done);
        assert_int_equal(a.rev, i);
        assert_int_equal(store_rev(env.store), i);
        struct store_value *v = store_get(env.store, STR("a"));
        assert_int_equal(v->rev, i);
        assert_int_equal(v->created_rev, 1);
    }
}

static void a_key_that_comes_back_is_new(void **state)
{
    (void)state;
    assert_int_equal(env_put(&env, "a", "1", 0), 1);
    assert_int_equal(env_delete(&env, "a", 1), 2);
    assert_null(store_get(env.store, STR("a")));
    assert_int_equal(env_put(&env, "a", "2", 0), 3);
    assert_int_equal(store_get(env.store, STR("a"))->created_rev, 3);
    assert_int_equal(env_put(&env, "a", "", 3), 4);
    assert_int_equal(store_get(env.store, STR("a"))->created_rev, 3);
    assert_int_equal(store_get(env.store, STR("a"))->value.len, 0);
}

static void transactions_are_all_or_nothing(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct ack a = {0};
    const struct store_op good[] = {op_put("a", "1", 0), op_put("b", "1", 0), op_put("c", "1", 0)};
    assert_int_equal(env_txn(&env, good, 3), 1);
    const struct store_op bad[] = {op_put("a", "2", 1), op_delete("b", -1), op_put("c", "2", 7)};
    ASSERT_ERR(store_txn(env.store, bad, 3, on_ack, &a, &err), ERR_CONFLICT);
    assert_string_equal(err.field, "c");
    const struct store_op twice[] = {op_put("a", "2", -1), op_put("a", "3", -1)};
    assert_true(store_txn(env.store, twice, 2, on_ack, &a, &err) < 0);
    assert_true(store_txn(env.store, NULL, 0, on_ack, &a, &err) < 0); /* it would be a revision that no disk keeps */
    assert_value(store_get_pending(env.store, STR("a")), "1");
    assert_value(store_get_pending(env.store, STR("b")), "1");
    const struct store_op next[] = {op_put("a", "3", 1), op_delete("b", 1), op_put("d", "1", 0)};
    assert_int_equal(env_txn(&env, next, 3), 2); /* nothing was used up by the refused ones */
    assert_false(a.done);
    assert_int_equal(store_get(env.store, STR("a"))->rev, 2);
    assert_int_equal(store_get(env.store, STR("d"))->rev, 2);
    assert_null(store_get(env.store, STR("b")));
    assert_int_equal(store_count(env.store, STR("")), 3);
}

static void preconditions(void **state)
{
    (void)state;
    assert_int_equal(env_put(&env, "a", "1", 5), ERR_NOT_FOUND);
    assert_int_equal(env_delete(&env, "a", -1), ERR_NOT_FOUND);
    assert_int_equal(env_put(&env, "a", "1", 0), 1);
    assert_int_equal(env_put(&env, "a", "2", 0), ERR_EXISTS);
    assert_int_equal(env_put(&env, "a", "2", 2), ERR_CONFLICT);
    assert_int_equal(env_delete(&env, "a", 2), ERR_CONFLICT);
    assert_int_equal(env_put(&env, "a", "2", 1), 2);
    assert_int_equal(env_put(&env, "a", "3", 1), ERR_CONFLICT);
    assert_int_equal(env_delete(&env, "a", 2), 3);
    assert_int_equal(env_put(&env, "a", "4", 2), ERR_NOT_FOUND);
}

/* Of many writers that saw the same version one wins, although none is durable yet. */
static void preconditions_see_what_is_accepted(void **state)
{
    (void)state;
    struct ack acks[10] = {0};
    struct err err = ERR_INIT;
    assert_int_equal(env_put(&env, "a", "0", 0), 1);
    for (int i = 0; i < 10; i++) {
        struct store_op op = op_put("a", "x", 1);
        int rc = store_txn(env.store, &op, 1, on_ack, &acks[i], &err);
        assert_int_equal(rc, i ? ERR_CONFLICT : 0);
    }
    struct store_op gone = op_delete("a", 2), again = op_put("a", "y", 0), stale = op_put("a", "z", 2);
    ASSERT_OK(store_txn(env.store, &gone, 1, on_ack, &acks[1], &err));
    ASSERT_ERR(store_txn(env.store, &stale, 1, on_ack, &acks[3], &err), ERR_NOT_FOUND);
    ASSERT_OK(store_txn(env.store, &again, 1, on_ack, &acks[2], &err));
    RUN_UNTIL(env.loop, acks[2].done);
    assert_true(acks[0].done && acks[1].done);
    assert_value(store_get(env.store, STR("a")), "y");
    assert_int_equal(store_get(env.store, STR("a"))->created_rev, 4);
}

/* ---- reads ---- */

static void every_revision_can_be_read(void **state)
{
    (void)state;
    static struct model m;
    memset(&m, 0, sizeof(m));
    random_history(&m, 7);
    for (int64_t rev = 1; rev <= STEPS; rev++)
        assert_state(&m.at[rev], rev);
    struct err err = ERR_INIT;
    ASSERT_ERR(store_range(env.store, STR(""), STR(""), STEPS + 1, 0, into_listing, NULL, &err), ERR_BAD_REQUEST);
    /* Compaction takes what is older, and nothing else. */
    store_compact(env.store, STEPS / 2);
    assert_int_equal(store_first_rev(env.store), STEPS / 2);
    for (int64_t rev = STEPS / 2; rev <= STEPS; rev++)
        assert_state(&m.at[rev], rev);
    ASSERT_ERR(store_range(env.store, STR(""), STR(""), STEPS / 2 - 1, 0, into_listing, NULL, &err), ERR_GONE);
    store_compact(env.store, STEPS * 10);
    assert_int_equal(store_first_rev(env.store), STEPS);
    assert_state(&m.at[STEPS], 0);
    assert_state(&m.at[STEPS], STEPS);
}

struct page {
    char keys[8][32];
    size_t count;
};
static bool into_page(void *arg, struct store_value *v)
{
    struct page *p = arg;
    assert_true(p->count < ARRAY_LEN(p->keys) && str_to_array(v->key, p->keys[p->count++], 32));
    return true;
}

static void pages_come_from_one_revision(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    char key[32], next[40] = "";
    for (int i = 0; i < 20; i++) {
        snprintf(key, sizeof(key), "p/%02d", i);
        assert_true(env_put(&env, key, "old", 0) > 0);
    }
    assert_true(env_put(&env, "q", "other", 0) > 0);
    int64_t rev = store_rev(env.store);
    for (int i = 0; i < 20; i += 3) {
        struct page p = {.count = 0};
        ASSERT_OK(store_range(env.store, STR("p/"), str_of(next), rev, 3, into_page, &p, &err));
        assert_int_equal(p.count, i + 3 <= 20 ? 3 : 20 - i);
        for (size_t k = 0; k < p.count; k++) {
            snprintf(key, sizeof(key), "p/%02d", i + (int)k);
            assert_string_equal(p.keys[k], key);
        }
        snprintf(next, sizeof(next), "%s!", p.keys[p.count - 1]);
        /* Between pages: what comes is deleted, and new keys appear in front of and behind the place. */
        snprintf(key, sizeof(key), "p/%02d", 19 - i);
        (void)env_delete(&env, key, -1);
        snprintf(key, sizeof(key), "p/%02d-", i + 1);
        assert_true(env_put(&env, key, "new", 0) > 0);
        snprintf(key, sizeof(key), "p/%02d+", i + 4);
        assert_true(env_put(&env, key, "new", 0) > 0);
    }
    store_compact(env.store, rev + 1);
    ASSERT_ERR(store_range(env.store, STR("p/"), str_of(next), rev, 3, into_page, NULL, &err), ERR_GONE);
}

/* ---- watches ---- */

struct tape {
    struct model_change events[STEPS * KEYS];
    size_t count;
    int64_t last_rev;
};

static int value_of(const struct store_value *v)
{
    return v ? number_of(v->value) : 0;
}

static void on_event(void *arg, const struct store_event *e)
{
    struct tape *t = arg;
    assert_true(e->rev >= t->last_rev);
    assert_true(e->rev <= store_rev(env.store)); /* readers see it already */
    t->last_rev = e->rev;
    const struct store_value *v = e->now ? e->now : e->prev;
    assert_true(!e->now || e->now->rev == e->rev);
    t->events[t->count++] = (struct model_change){e->rev, key_number(v->key), value_of(e->prev), value_of(e->now)};
}

static void assert_tape(const struct tape *t, const struct model *m, int64_t after, int parity)
{
    size_t seen = 0;
    for (size_t i = 0; i < m->change_count; i++) {
        const struct model_change *c = &m->changes[i];
        if (c->rev <= after || (parity >= 0 && c->key % 2 != parity))
            continue;
        if (seen >= t->count || memcmp(&t->events[seen], c, sizeof(*c)) != 0)
            fail_msg("after revision %lld: event %zu is not the change of key %d at revision %lld", (long long)after, seen, c->key,
                     (long long)c->rev);
        seen++;
    }
    assert_int_equal(seen, t->count);
}

static void watches_from_any_retained_revision(void **state)
{
    (void)state;
    static struct model m;
    static struct tape live, tapes[STEPS + 1];
    struct store_watch *w[STEPS + 1], *first;
    struct err err = ERR_INIT;
    memset(&m, 0, sizeof(m));
    memset(&live, 0, sizeof(live));
    memset(tapes, 0, sizeof(tapes));
    ASSERT_OK(store_watch(env.store, STR("odd/"), 0, on_event, &live, &first, &err));
    random_history(&m, 11);
    for (int64_t rev = 0; rev <= STEPS; rev++)
        ASSERT_OK(store_watch(env.store, STR(""), rev, on_event, &tapes[rev], &w[rev], &err));
    RUN_UNTIL(env.loop, tapes[0].last_rev == STEPS && tapes[STEPS - 1].last_rev == STEPS);
    for (int64_t rev = 0; rev <= STEPS; rev++) {
        assert_tape(&tapes[rev], &m, rev, -1);
        store_watch_stop(w[rev]);
    }
    assert_tape(&live, &m, 0, 1);
    store_watch_stop(first);
    store_compact(env.store, STEPS - 10);
    ASSERT_ERR(store_watch(env.store, STR(""), STEPS - 11, on_event, &live, &first, &err), ERR_GONE);
    memset(&live, 0, sizeof(live));
    ASSERT_OK(store_watch(env.store, STR(""), STEPS - 10, on_event, &live, &first, &err));
    RUN_UNTIL(env.loop, live.last_rev == STEPS);
    assert_tape(&live, &m, STEPS - 10, -1);
    struct store_stats st;
    store_get_stats(env.store, &st);
    assert_int_equal(st.watches, 1);
    store_watch_stop(first);
}

struct stopper {
    struct store_watch *own, *other;
    int events;
};
static void on_event_stop_both(void *arg, const struct store_event *e)
{
    struct stopper *s = arg;
    s->events++;
    assert_true(e->rev == 1);
    store_watch_stop(s->own);
    store_watch_stop(s->other);
}
static void on_event_count(void *arg, const struct store_event *e)
{
    (void)e;
    ++*(int *)arg;
}

static void a_handler_may_stop_watches(void **state)
{
    (void)state;
    struct stopper s = {.events = 0};
    struct err err = ERR_INIT;
    int other = 0, third = 0;
    struct store_watch *last;
    /* The oldest is served first: the one that is stopped by another has not had its turn. */
    ASSERT_OK(store_watch(env.store, STR(""), 0, on_event_stop_both, &s, &s.own, &err));
    ASSERT_OK(store_watch(env.store, STR(""), 0, on_event_count, &other, &s.other, &err));
    ASSERT_OK(store_watch(env.store, STR(""), 0, on_event_count, &third, &last, &err));
    const struct store_op two[] = {op_put("a", "1", 0), op_put("b", "1", 0)};
    assert_int_equal(env_txn(&env, two, 2), 1);
    assert_int_equal(env_put(&env, "a", "2", 1), 2);
    RUN_UNTIL(env.loop, third == 3);
    assert_int_equal(s.events, 1);
    assert_int_equal(other, 0);
    store_watch_stop(last);
}

/* From inside a handler: a watch that begins there is served from its revision on, compaction waits for the pump. */
struct nest {
    struct store_watch *inner;
    int64_t begins_after, last_inner;
    int events, inner_events;
};
static void on_inner(void *arg, const struct store_event *e)
{
    struct nest *n = arg;
    assert_true(e->rev > n->begins_after && e->rev >= n->last_inner);
    n->last_inner = e->rev;
    n->inner_events++;
}
static void on_outer(void *arg, const struct store_event *e)
{
    struct nest *n = arg;
    n->events++;
    if (e->rev < 3) /* these may have come with an earlier commit, and compaction with that would be before the watch below begins */
        return;
    store_compact(env.store, e->rev);
    if (!n->inner) /* compaction up to here was asked for, but not while this runs */
        ASSERT_ERR(store_watch(env.store, STR(""), n->begins_after, on_inner, n, &n->inner, NULL), 0);
}

static void a_handler_may_watch_and_compact(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct store_watch *w;
    struct nest n = {.begins_after = 1};
    const struct store_op two[] = {op_put("a", "1", -1), op_put("b", "1", -1)};
    struct ack acks[5] = {0};
    ASSERT_OK(store_watch(env.store, STR(""), 0, on_outer, &n, &w, &err));
    for (int i = 0; i < 5; i++)
        ASSERT_OK(store_txn(env.store, two, 2, on_ack, &acks[i], &err));
    RUN_UNTIL(env.loop, n.events == 10 && n.inner_events == 8);
    RUN_UNTIL(env.loop, store_first_rev(env.store) == 5);
    store_watch_stop(w);
    store_watch_stop(n.inner);
}

struct order {
    int64_t done_rev, event_rev, announced;
    int events;
};
static void order_done(void *arg, int code, int64_t rev)
{
    struct order *o = arg;
    assert_int_equal(code, 0);
    assert_int_equal(rev, o->done_rev + 1); /* answered in order */
    assert_true(store_rev(env.store) >= rev);
    assert_true(store_get(env.store, STR("a"))->rev >= rev);
    o->done_rev = rev;
}
static void order_event(void *arg, const struct store_event *e)
{
    struct order *o = arg;
    assert_int_equal(e->rev, o->event_rev + 1);
    assert_true(o->announced < e->rev); /* the announcement of a revision comes after its events */
    o->event_rev = e->rev;
    o->events++;
}
static void order_announced(void *arg, int64_t rev)
{
    struct order *o = arg;
    assert_true(rev > o->announced);
    assert_int_equal(o->event_rev, rev);
    o->announced = rev;
}

static void nobody_sees_a_later_revision_first(void **state)
{
    (void)state;
    struct order o = {0};
    struct err err = ERR_INIT;
    struct store_watch *w;
    ASSERT_OK(store_watch(env.store, STR("a"), 0, order_event, &o, &w, &err));
    store_on_revision(env.store, order_announced, &o);
    for (int i = 0; i < 300; i++) {
        struct store_op op = op_put("a", "v", -1);
        ASSERT_OK(store_txn(env.store, &op, 1, order_done, &o, &err));
        if (i % 7 == 0)
            loop_run_once(env.loop, 0);
    }
    RUN_UNTIL(env.loop, o.announced == 300);
    assert_int_equal(o.done_rev, 300);
    assert_int_equal(o.events, 300);
    store_on_revision(env.store, NULL, NULL);
    store_watch_stop(w);
}

/* ---- history ---- */

static void compact_at_once(void *arg, int code, int64_t rev)
{
    assert_int_equal(code, 0);
    store_compact(env.store, rev);
    *(bool *)arg = true;
}

/* Events are delivered a moment after the write: history that a watch has not had yet must wait for it. */
static void compaction_waits_for_watches(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct store_watch *w, *late;
    int events = 0, late_events = 0;
    bool done = false;
    ASSERT_OK(store_watch(env.store, STR(""), 0, on_event_count, &events, &w, &err));
    struct store_op op = op_put("a", "1", 0);
    ASSERT_OK(store_txn(env.store, &op, 1, compact_at_once, &done, &err));
    RUN_UNTIL(env.loop, done);
    RUN_UNTIL(env.loop, events == 1);
    assert_true(env_put(&env, "a", "2", -1) > 0);
    ASSERT_OK(store_watch(env.store, STR(""), 1, on_event_count, &late_events, &late, &err));
    store_compact(env.store, 2);
    RUN_UNTIL(env.loop, late_events == 1);
    store_compact(env.store, 2);
    assert_int_equal(store_first_rev(env.store), 2);
    store_watch_stop(w);
    store_watch_stop(late);
}

static void history_is_bounded(void **state)
{
    (void)state;
    static char big[10 * 1024];
    struct err err = ERR_INIT;
    struct store_stats st;
    memset(big, 'x', sizeof(big) - 1);
    env_close(&env);
    env.options.retain_bytes = 100 * 1024;
    env.options.retain_ms = 60000;
    clock_test_set(1000000, 1700000000000);
    env_open(&env);
    for (int i = 1; i <= 50; i++)
        assert_int_equal(env_put(&env, "a", big, -1), i);
    clock_test_advance(1100); /* the timer of retention */
    RUN_UNTIL(env.loop, store_first_rev(env.store) > 0);
    store_get_stats(env.store, &st);
    assert_true(st.history_bytes <= 100 * 1024 && st.history_versions >= 5);
    int64_t first = store_first_rev(env.store);
    ASSERT_ERR(store_range(env.store, STR(""), STR(""), first - 1, 0, into_page, NULL, &err), ERR_GONE);
    /* By age: all of it goes, what is live stays. */
    clock_test_advance(61000);
    RUN_UNTIL(env.loop, store_first_rev(env.store) == 50);
    store_get_stats(env.store, &st);
    assert_int_equal(st.history_versions, 0);
    assert_int_equal(st.live_objects, 1);
    assert_value(store_get(env.store, STR("a")), big);
}

static void group_commit(void **state)
{
    (void)state;
    enum { MANY = 1000 };
    static struct ack acks[MANY];
    struct store_stats st;
    struct err err = ERR_INIT;
    char key[32];
    memset(acks, 0, sizeof(acks));
    for (int i = 0; i < MANY; i++) {
        snprintf(key, sizeof(key), "k/%d", i);
        struct store_op op = op_put(key, "v", 0);
        ASSERT_OK(store_txn(env.store, &op, 1, on_ack, &acks[i], &err));
    }
    RUN_UNTIL(env.loop, acks[MANY - 1].done);
    for (int i = 0; i < MANY; i++)
        assert_true(acks[i].done && acks[i].rev == i + 1);
    store_get_stats(env.store, &st);
    assert_int_equal(st.txns, MANY);
    assert_true(st.commits <= MANY / 10); /* one sync for many */
    assert_int_equal(st.live_objects, MANY);
}

struct echo {
    int acks, refused;
};
static void write_again(void *arg, int code, int64_t rev)
{
    struct echo *e = arg;
    struct store_op op = op_put("echo", "x", -1);
    (void)rev;
    e->acks += code == 0;
    if (store_txn(env.store, &op, 1, write_again, arg, NULL) == ERR_UNAVAILABLE)
        e->refused++;
}

/* Closing answers everything that was accepted, and accepts no more: or it would never end, or lose an answer. */
static void closing_answers_everybody(void **state)
{
    (void)state;
    struct echo e = {0};
    struct err err = ERR_INIT;
    for (int i = 0; i < 50; i++) {
        struct store_op op = op_put("a", "x", -1);
        ASSERT_OK(store_txn(env.store, &op, 1, write_again, &e, &err));
    }
    env_close(&env);
    assert_true(e.acks >= 50);
    assert_int_equal(e.refused, 50);
}

#define WITH(test, member) {#test " (" #member ")", test, setup_##member, teardown, NULL}
#define ALL(test) WITH(test, memory), WITH(test, sqlite)

int main(void)
{
    const struct CMUnitTest tests[] = {
        ALL(revisions_count_up),
        ALL(a_key_that_comes_back_is_new),
        ALL(transactions_are_all_or_nothing),
        ALL(preconditions),
        ALL(preconditions_see_what_is_accepted),
        ALL(every_revision_can_be_read),
        ALL(pages_come_from_one_revision),
        ALL(watches_from_any_retained_revision),
        ALL(a_handler_may_stop_watches),
        ALL(a_handler_may_watch_and_compact),
        ALL(nobody_sees_a_later_revision_first),
        ALL(compaction_waits_for_watches),
        ALL(history_is_bounded),
        ALL(group_commit),
        ALL(closing_answers_everybody),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
