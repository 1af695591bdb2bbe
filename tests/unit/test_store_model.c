/* Long random histories against a model that is too simple to be wrong: transactions, reads at old revisions, watches,
 * compactions, reopenings, kills, power losses, failing syncs and full disks. The seed is printed; SEKI_SEED repeats a run. */
#include "store_env.h"

#include "base/clock.h"
#include "base/vec.h"
#include "store_disk.h"

#define KEYS 12
#define STEPS 4000
#define WATCHES 4

static struct store_env env;
static unsigned seed;

static unsigned next_random(unsigned *s)
{
    *s = *s * 1664525u + 1013904223u;
    return *s >> 16;
}
static unsigned below(unsigned n)
{
    return next_random(&seed) % n;
}

/* ---- the model ---- */

/* A key's value: its number, padded so that some take several pages; its revisions. 0: absent. */
struct cell {
    int number;
    int64_t rev, created_rev;
};
struct state {
    struct cell cells[KEYS];
};
struct promise { /* a transaction that was accepted */
    int64_t rev;
    bool answered;
    int code;
};
struct seen { /* a watch and what it must have next */
    struct store_watch *watch;
    char prefix[4];
    int64_t after_rev;
    int key; /* next in the revision after_rev + 1 */
};

static struct model {
    VEC(struct state) at;            /* by revision; accepted ones too */
    VEC(struct promise *) promises;  /* by revision - 1 */
    int64_t acked_rev;               /* all up to here are durable */
    int64_t compacted_rev;
    int number;
    struct seen watches[WATCHES];
    size_t txns, failed, events, reopened, lost;
} m;

static int64_t accepted(void)
{
    return (int64_t)m.at.len - 1;
}

static void key_name(int k, char text[8])
{
    snprintf(text, 8, "%c/%02d", k % 3 ? 'a' : 'b', k);
}

static void value_text(int number, struct sbuf *out)
{
    sbuf_reset(out);
    sbuf_addf(out, "%d:", number);
    for (int i = number % 17 == 0 ? 9000 : number % 5 * 60; i > 0; i--)
        sbuf_add_char(out, (char)('a' + (number + i) % 26));
}

static void assert_same(const struct cell *want, const struct store_value *v, int64_t rev, int k)
{
    static struct sbuf text = {.max = 1 << 16};
    if (!want->number && !v)
        return;
    if (!want->number || !v)
        fail_msg("revision %lld, key %d: %s", (long long)rev, k, v ? "there, and should not be" : "missing");
    value_text(want->number, &text);
    if (!str_eq(v->value, sbuf_str(&text)) || v->rev != want->rev || v->created_rev != want->created_rev)
        fail_msg("revision %lld, key %d: %.12s made at %lld, created at %lld; expected %d, %lld, %lld", (long long)rev, k, v->value.ptr,
                 (long long)v->rev, (long long)v->created_rev, want->number, (long long)want->rev, (long long)want->created_rev);
}

/* ---- reads ---- */

struct listing {
    const struct state *want;
    int64_t rev;
    char prefix;
    int key;
};

static int next_key(char prefix, int k)
{
    while (k < KEYS && (k % 3 ? 'a' : 'b') != prefix)
        k++;
    return k;
}

static bool on_listed(void *arg, struct store_value *v)
{
    struct listing *l = arg;
    char name[8];
    for (l->key = next_key(l->prefix, l->key); l->key < KEYS && !l->want->cells[l->key].number; l->key = next_key(l->prefix, l->key + 1))
        ;
    assert_true(l->key < KEYS);
    key_name(l->key, name);
    assert_true(str_eqc(v->key, name));
    assert_same(&l->want->cells[l->key], v, l->rev, l->key);
    l->key++;
    return true;
}

static void read_revision(int64_t rev)
{
    struct err err = ERR_INIT;
    for (const char *p = "ab"; *p; p++) {
        struct listing l = {&m.at.ptr[rev], rev, *p, 0};
        int rc = store_range(env.store, str_n(p, 1), STR(""), rev, 0, on_listed, &l, &err);
        if (rev && rev < store_first_rev(env.store)) {
            ASSERT_ERR(rc, ERR_GONE);
            continue;
        }
        ASSERT_OK(rc);
        for (l.key = next_key(*p, l.key); l.key < KEYS; l.key = next_key(*p, l.key + 1))
            assert_same(&l.want->cells[l.key], NULL, rev, l.key);
    }
}

static void read_some(void)
{
    int64_t visible = store_rev(env.store);
    char name[8];
    assert_true(visible >= m.acked_rev && visible <= accepted());
    assert_true(store_first_rev(env.store) <= m.compacted_rev);
    if (visible)
        read_revision(visible);
    if (visible > 1)
        read_revision(1 + below((unsigned)visible));
    int k = (int)below(KEYS);
    key_name(k, name);
    assert_same(&m.at.ptr[visible].cells[k], store_get(env.store, str_of(name)), visible, k);
    assert_same(&m.at.ptr[accepted()].cells[k], store_get_pending(env.store, str_of(name)), accepted(), k);
}

/* ---- watches ---- */

static bool changed_by(int64_t rev, int k)
{
    return memcmp(&m.at.ptr[rev].cells[k], &m.at.ptr[rev - 1].cells[k], sizeof(struct cell)) != 0;
}

/* Moves a watch's place over what it need not see; false: nothing up to limit. */
static bool find_due(struct seen *s, int64_t limit)
{
    while (s->after_rev < limit) {
        for (; s->key < KEYS; s->key++)
            if (changed_by(s->after_rev + 1, s->key) && (!*s->prefix || (s->key % 3 ? 'a' : 'b') == *s->prefix))
                return true;
        s->after_rev++;
        s->key = 0;
    }
    return false;
}

static void on_event(void *arg, const struct store_event *e)
{
    struct seen *s = arg;
    char name[8];
    m.events++;
    assert_true(e->rev <= store_rev(env.store));
    assert_true(find_due(s, e->rev)); /* not twice, not one that was none */
    /* The order within a revision is the transaction's, which is that of the keys. */
    assert_int_equal(s->after_rev + 1, e->rev);
    key_name(s->key, name);
    assert_true(str_eqc((e->now ? e->now : e->prev)->key, name));
    assert_same(&m.at.ptr[e->rev].cells[s->key], e->now, e->rev, s->key);
    assert_same(&m.at.ptr[e->rev - 1].cells[s->key], e->prev, e->rev - 1, s->key);
    s->key++;
}

static void begin_watch(struct seen *s, int64_t after)
{
    struct err err = ERR_INIT;
    static const char *const prefixes[] = {"", "a/", "b/"};
    if (s->watch)
        store_watch_stop(s->watch);
    *s = (struct seen){.after_rev = after};
    snprintf(s->prefix, sizeof(s->prefix), "%s", prefixes[below(3)]);
    int rc = store_watch(env.store, str_of(s->prefix), after, on_event, s, &s->watch, &err);
    if (after < store_first_rev(env.store)) {
        ASSERT_ERR(rc, ERR_GONE);
        *s = (struct seen){.watch = NULL};
        return;
    }
    ASSERT_OK(rc);
}

static void watches_are_complete(void)
{
    for (int i = 0; i < WATCHES; i++)
        if (m.watches[i].watch && find_due(&m.watches[i], store_rev(env.store)))
            fail_msg("a watch never had key %d of revision %lld", m.watches[i].key, (long long)m.watches[i].after_rev + 1);
}

/* ---- writes ---- */

static void on_done(void *arg, int code, int64_t rev)
{
    struct promise *p = arg;
    assert_false(p->answered);
    p->answered = true;
    p->code = code;
    if (code == 0) {
        assert_int_equal(rev, p->rev);
        assert_int_equal(m.acked_rev + 1, rev); /* in order */
        assert_true(store_rev(env.store) >= rev);
        m.acked_rev = rev;
    } else {
        m.failed++;
    }
}

static void forget_after(int64_t rev)
{
    while (accepted() > rev) {
        m.at.len--;
        mem_free(m.promises.ptr[--m.promises.len]);
    }
}

/* Failed ones are no part of the history: what was accepted behind the first is gone with it. */
static void drop_failed(void)
{
    for (size_t i = (size_t)m.acked_rev; i < m.promises.len; i++)
        if (m.promises.ptr[i]->answered)
            forget_after((int64_t)i);
}

static int make_ops(struct state *next, struct store_op ops[KEYS], char names[KEYS][8], struct sbuf texts[KEYS])
{
    int count = 0;
    const struct state *now = &m.at.ptr[accepted()];
    int64_t rev = accepted() + 1;
    *next = *now;
    for (int k = (int)below(3); k < KEYS; k += 1 + (int)below(KEYS)) {
        struct cell *c = &next->cells[k];
        const struct cell old = *c;
        int64_t expect = below(2) ? old.rev : -1; /* 0 when it is absent: must not exist */
        key_name(k, names[k]);
        if (old.number && below(3) == 0) {
            *c = (struct cell){0};
            ops[count++] = op_delete(names[k], expect);
            continue;
        }
        *c = (struct cell){++m.number, rev, old.number ? old.created_rev : rev};
        value_text(c->number, &texts[k]);
        ops[count++] = (struct store_op){STORE_PUT, str_of(names[k]), sbuf_str(&texts[k]), expect};
    }
    return count;
}

static void write_one(void)
{
    static struct sbuf texts[KEYS];
    char names[KEYS][8];
    struct store_op ops[KEYS];
    struct state next;
    struct err err = ERR_INIT;
    for (int k = 0; k < KEYS; k++)
        texts[k].max = 1 << 16;
    drop_failed();
    int count = make_ops(&next, ops, names, texts);
    if (!count)
        return;
    struct promise *p = XNEW(struct promise);
    p->rev = accepted() + 1;
    ASSERT_OK(store_txn(env.store, ops, (size_t)count, on_done, p, &err));
    *VEC_PUSH(&m.at) = next;
    *VEC_PUSH(&m.promises) = p;
    m.txns++;
}

static bool all_answered(void)
{
    return !m.promises.len || m.promises.ptr[m.promises.len - 1]->answered;
}

static void settle(void)
{
    RUN_UNTIL(env.loop, all_answered());
    drop_failed();
    assert_int_equal(store_rev(env.store), m.acked_rev);
    for (int i = 0; i < 6; i++) /* the pump, in turns */
        loop_run_once(env.loop, 0);
    watches_are_complete();
}

/* ---- the end of a process, and the next ---- */

static void forget_watches(void)
{
    for (int i = 0; i < WATCHES; i++)
        if (m.watches[i].watch)
            store_watch_stop(m.watches[i].watch);
    for (int i = 0; i < WATCHES; i++)
        m.watches[i] = (struct seen){.watch = NULL};
}

/* What was told is kept, what was answered as failed is not there, and what had no answer may be. */
static void come_back(int64_t answered_failed_from)
{
    env_open(&env);
    int64_t rev = store_rev(env.store);
    if (rev < m.acked_rev || rev > accepted() || (answered_failed_from && rev >= answered_failed_from))
        fail_msg("came back at revision %lld; %lld were acknowledged, %lld accepted, failed from %lld", (long long)rev, (long long)m.acked_rev,
                 (long long)accepted(), (long long)answered_failed_from);
    m.lost += (size_t)(accepted() - rev);
    forget_after(rev);
    m.acked_rev = rev;
    m.reopened++;
    read_some();
    for (int64_t r = MAX(store_first_rev(env.store), (int64_t)1); r <= rev; r += 1 + (int64_t)below(20))
        read_revision(r);
}

static void close_and_reopen(void)
{
    forget_watches();
    env_close(&env);
    drop_failed();
    assert_true(all_answered());
    come_back(0);
}

/* mode 0: killed; 1: the power is lost; 2: killed, come back, read, and then the power is lost. */
static void crash(int mode)
{
    forget_watches();
    drop_failed();
    disk_down();
    /* Answers that come now nobody hears: the process is dead. */
    int64_t acked = m.acked_rev;
    size_t failed = m.failed;
    env_close(&env);
    m.failed = failed;
    m.acked_rev = MAX(acked, m.acked_rev); /* those that were durable by then may have been heard */
    if (mode == 1)
        disk_up_after_power_loss(below(4) * 33, next_random, &seed);
    else
        disk_up_after_kill();
    come_back(0);
    if (mode == 2) {
        disk_down();
        env_close(&env);
        disk_up_after_power_loss(0, next_random, &seed);
        int64_t rev = m.acked_rev;
        come_back(0);
        assert_int_equal(store_rev(env.store), rev);
    }
}

/* A spell of a bad disk: every answer in it is right, and afterwards it goes on. */
static void bad_spell(void)
{
    settle();
    switch (below(3)) {
    case 0: DISK_SET(sync_fails_after, (int)below(3)); break;
    case 1: DISK_SET(write_fails, true); break;
    default: DISK_SET(capacity, disk_used() + below(20000) + 1); break;
    }
    for (int i = 0; i < 5; i++)
        write_one();
    settle();
    read_some();
    DISK_SET(sync_fails_after, -1);
    DISK_SET(write_fails, false);
    DISK_SET(capacity, 0);
    if (below(3) == 0) { /* failed ones do not come back with the next process */
        int64_t rev = m.acked_rev;
        disk_down();
        forget_watches();
        env_close(&env);
        if (below(2))
            disk_up_after_kill();
        else
            disk_up_after_power_loss(50, next_random, &seed);
        come_back(rev + 1);
    }
}

static void compact_some(void)
{
    int64_t visible = store_rev(env.store), to = visible - (int64_t)below(30);
    if (to <= m.compacted_rev)
        return;
    m.compacted_rev = to;
    store_compact(env.store, to);
}

static void step(bool can_reopen, bool can_fail)
{
    unsigned dice = below(1000);
    if (dice < 600)
        write_one();
    else if (dice < 800)
        loop_run_once(env.loop, 0);
    else if (dice < 900)
        read_some();
    else if (dice < 950)
        begin_watch(&m.watches[below(WATCHES)], (int64_t)below((unsigned)store_rev(env.store) + 1));
    else if (dice < 970)
        compact_some();
    else if (dice < 980)
        settle();
    else if (dice < 986 && can_reopen)
        close_and_reopen();
    else if (dice < 994 && can_fail)
        crash((int)below(3));
    else if (can_fail)
        bad_spell();
}

/* ---- */

static void run(bool can_reopen, bool can_fail)
{
    const char *given = getenv("SEKI_SEED");
    seed = given ? (unsigned)strtoul(given, NULL, 10) : (unsigned)real_ms();
    print_message("seed %u\n", seed);
    memset(&m, 0, sizeof(m));
    (void)*VEC_PUSH(&m.at);
    for (int i = 0; i < STEPS; i++) {
        drop_failed();
        step(can_reopen, can_fail);
    }
    settle();
    print_message("%zu transactions, %zu failed, %zu unanswered and lost, %zu events, %zu reopenings\n", m.txns, m.failed, m.lost, m.events, m.reopened);
    assert_true(m.txns > STEPS / 3 && m.events > 100 && (!can_reopen || m.reopened > 3) && (!can_fail || m.failed > 3));
    forget_after(0);
    VEC_DEINIT(&m.at);
    VEC_DEINIT(&m.promises);
}

static void memory(void **state)
{
    (void)state;
    env.open = store_open_memory;
    env_open(&env);
    run(false, false);
}

static void sqlite(void **state)
{
    (void)state;
    env.open = store_open_sqlite;
    env_open(&env);
    run(true, false);
}

static void sqlite_on_a_bad_disk(void **state)
{
    (void)state;
    disk_reset();
    env.open = store_open_sqlite;
    env.options.vfs = DISK_VFS;
    env_open(&env);
    run(true, true);
}

static int setup(void **state)
{
    (void)state;
    env_init(&env);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    env_deinit(&env);
    disk_reset();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(memory, setup, teardown),
        cmocka_unit_test_setup_teardown(sqlite, setup, teardown),
        cmocka_unit_test_setup_teardown(sqlite_on_a_bad_disk, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
