/* The lease: one leader at most, whatever clocks and network do; and a leader again when they behave. */
#include "fake_api.h"

#include "base/clock.h"
#include "controller/lease.h"

/* ---- a world with one Lease, two candidates, and a network between ---- */

#define CANDIDATES 2

struct world;
struct candidate {
    struct world *world;
    struct fake_api api;
    struct client *client;
    struct lease *lease;
    double rate;         /* of its clock */
    uint64_t offset_ms;
    uint64_t due_ms;     /* by its clock */
    bool cut, in_call;
    unsigned slow;       /* of 16 calls so many take long */
};

struct world {
    uint64_t now_ms;
    json_t *object;
    int64_t rv;
    unsigned seed, takeovers;
    int last_leader;
    struct candidate c[CANDIDATES];
};

static uint64_t clock_of(void *arg)
{
    struct candidate *c = arg;
    return c->offset_ms + (uint64_t)((double)c->world->now_ms * c->rate);
}

static void check(struct world *w)
{
    int leader = -1;
    for (int i = 0; i < CANDIDATES; i++)
        if (w->c[i].lease && lease_held(w->c[i].lease)) {
            if (leader >= 0)
                fail_msg("two leaders at %llu ms, seed %u", (unsigned long long)w->now_ms, w->seed);
            leader = i;
        }
    if (leader >= 0 && leader != w->last_leader) {
        w->takeovers++;
        w->last_leader = leader;
    }
}

/* Time passes; the candidates that are not in a call do what is due. */
static void pass_time(struct world *w, uint64_t ms)
{
    for (uint64_t end = w->now_ms + ms; w->now_ms < end;) {
        w->now_ms += MIN((uint64_t)250, end - w->now_ms);
        check(w);
        for (int i = 0; i < CANDIDATES; i++) {
            struct candidate *c = &w->c[i];
            if (c->in_call || !c->lease || clock_of(c) < c->due_ms)
                continue;
            c->in_call = true;
            uint64_t next = lease_round(c->lease);
            c->in_call = false;
            c->due_ms = clock_of(c) + next;
            check(w);
        }
    }
}

static void serve(struct world *w, const struct client_call *k, struct client_answer *ret)
{
    if (!strcmp(k->method, "GET")) {
        if (w->object)
            *ret = (struct client_answer){.status = 200, .body = json_deep_copy(w->object)};
        else
            fake_api_status(ret, 404, "NotFound");
        return;
    }
    bool create = !strcmp(k->method, "POST");
    const char *rv = w->object ? json_str_or(w->object, "metadata.resourceVersion", "") : "";
    if (create ? w->object != NULL : !w->object || strcmp(json_str_or(k->body, "metadata.resourceVersion", ""), rv) != 0) {
        fake_api_status(ret, 409, create ? "AlreadyExists" : "Conflict");
        return;
    }
    char text[24];
    json_decref(w->object);
    w->object = json_deep_copy(k->body);
    snprintf(text, sizeof(text), "%lld", (long long)++w->rv);
    json_put_str(w->object, "metadata.resourceVersion", text);
    *ret = (struct client_answer){.status = 200, .body = json_deep_copy(w->object)};
}

static int exchange(struct fake_api *f, const struct client_call *k, struct client_answer *ret, struct err *err)
{
    struct candidate *c = f->arg;
    struct world *w = c->world;
    bool slow = (unsigned)rand_r(&w->seed) % 16 < c->slow;
    uint64_t there = slow ? (uint64_t)rand_r(&w->seed) % 4000 : 1, back = slow ? (uint64_t)rand_r(&w->seed) % 20000 : 1;
    uint64_t patience = (uint64_t)((double)k->timeout_ms / c->rate);
    pass_time(w, MIN(there, patience));
    if (c->cut || there > patience) {
        pass_time(w, patience - MIN(there, patience));
        return err_set(err, ERR_TIMEOUT, "no answer");
    }
    serve(w, k, ret);
    pass_time(w, MIN(back, patience - there));
    if (c->cut || there + back > patience) { /* it was carried out, and nobody hears of it */
        json_decref(ret->body);
        *ret = (struct client_answer){0};
        return err_set(err, ERR_TIMEOUT, "no answer");
    }
    return 0;
}

static void join(struct world *w, int i, const char *name, double rate)
{
    struct candidate *c = &w->c[i];
    *c = (struct candidate){.world = w, .api = {.arg = c, .roundtrip = exchange}, .rate = rate, .offset_ms = (uint64_t)i * 1000000007};
    c->client = fake_api_client(&c->api);
    c->due_ms = clock_of(c);
    c->lease = lease_new(&(struct lease_options){.client = c->client, .identity = name, .now_ms = clock_of, .now_arg = c});
}

/* As when the program ends in order; killed: it just is no more. */
static void leave(struct world *w, int i)
{
    struct candidate *c = &w->c[i];
    struct lease *l = c->lease;
    c->lease = NULL;
    lease_free(l);
    client_free(c->client);
}

static void world_init(struct world *w, unsigned seed)
{
    *w = (struct world){.seed = seed, .last_leader = -1, .now_ms = 1000};
}

static bool leads(struct world *w, int i)
{
    return lease_held(w->c[i].lease);
}

static const char *holder(struct world *w)
{
    return json_str_or(w->object, "spec.holderIdentity", "");
}

/* ---- cases ---- */

static void it_is_taken_and_renewed(void **state)
{
    (void)state;
    struct world w;
    world_init(&w, 1);
    join(&w, 0, "a", 1);
    assert_false(leads(&w, 0));
    pass_time(&w, 500);
    assert_true(leads(&w, 0));
    assert_string_equal(holder(&w), "a");
    for (int i = 0; i < 100; i++) {
        pass_time(&w, 1000);
        assert_true(leads(&w, 0));
    }
    assert_true(w.rv > 15);
    assert_int_equal(json_int(w.object, "spec.leaseTransitions", -1), 0);
    leave(&w, 0);
    json_decref(w.object);
}

static void it_is_given_back_at_the_end(void **state)
{
    (void)state;
    struct world w;
    world_init(&w, 1);
    join(&w, 0, "a", 1);
    pass_time(&w, 500);
    join(&w, 1, "b", 1);
    pass_time(&w, 30000);
    assert_true(leads(&w, 0));
    assert_false(leads(&w, 1));
    leave(&w, 0);
    assert_string_equal(holder(&w), "");
    pass_time(&w, 1500);
    assert_true(leads(&w, 1));
    assert_int_equal(json_int(w.object, "spec.leaseTransitions", -1), 1);
    leave(&w, 1);
    json_decref(w.object);
}

static void a_holder_that_is_cut_off_stops_before_another_takes_over(void **state)
{
    (void)state;
    struct world w;
    world_init(&w, 1);
    join(&w, 0, "a", 1);
    pass_time(&w, 500);
    join(&w, 1, "b", 1);
    pass_time(&w, 5000);
    w.c[0].cut = true;
    uint64_t cut_ms = w.now_ms, ended_ms = 0;
    while (!leads(&w, 1) && w.now_ms - cut_ms < 60000) {
        pass_time(&w, 250);
        if (!ended_ms && !leads(&w, 0))
            ended_ms = w.now_ms;
    }
    assert_true(leads(&w, 1));
    assert_in_range(ended_ms - cut_ms, 5000, 10500);
    assert_in_range(w.now_ms - cut_ms, 10500, 20000);
    /* Back again, it waits for its turn. */
    w.c[0].cut = false;
    pass_time(&w, 60000);
    assert_false(leads(&w, 0));
    assert_true(leads(&w, 1));
    leave(&w, 1);
    pass_time(&w, 2000);
    assert_true(leads(&w, 0));
    leave(&w, 0);
    json_decref(w.object);
}

/* The renewal was carried out, but its answer hangs: holding must end by the clock, not by the answer. */
static void holding_ends_while_a_call_hangs(void **state)
{
    (void)state;
    struct world w;
    world_init(&w, 1);
    join(&w, 0, "a", 1);
    pass_time(&w, 500);
    assert_true(leads(&w, 0));
    w.c[0].in_call = true; /* no round of it comes any more */
    pass_time(&w, 9000);
    assert_true(leads(&w, 0));
    pass_time(&w, 1500);
    assert_false(leads(&w, 0));
    leave(&w, 0);
    json_decref(w.object);
}

static void a_deleted_lease_is_made_anew(void **state)
{
    (void)state;
    struct world w;
    world_init(&w, 1);
    join(&w, 0, "a", 1);
    pass_time(&w, 500);
    json_decref(w.object);
    w.object = NULL;
    pass_time(&w, 6000);
    assert_true(leads(&w, 0));
    assert_string_equal(holder(&w), "a");
    leave(&w, 0);
    json_decref(w.object);
}

static void who_is_robbed_stops(void **state)
{
    (void)state;
    struct world w;
    char rv[24];
    world_init(&w, 1);
    join(&w, 0, "a", 1);
    pass_time(&w, 500);
    json_put_str(w.object, "spec.holderIdentity", "somebody");
    json_put_int(w.object, "spec.leaseDurationSeconds", 86400);
    snprintf(rv, sizeof(rv), "%lld", (long long)++w.rv);
    json_put_str(w.object, "metadata.resourceVersion", rv);
    pass_time(&w, 5000);
    assert_false(leads(&w, 0));
    pass_time(&w, 120000);
    assert_false(leads(&w, 0));
    pass_time(&w, 60000); /* nobody is locked out for a day */
    assert_true(leads(&w, 0));
    leave(&w, 0);
    json_decref(w.object);
}

static void the_same_identity_has_it_at_once(void **state)
{
    (void)state;
    struct world w;
    world_init(&w, 1);
    join(&w, 0, "a", 1);
    pass_time(&w, 500);
    struct lease *killed = w.c[0].lease;
    struct client *its = w.c[0].client;
    w.c[0].lease = NULL;
    join(&w, 0, "a", 1);
    pass_time(&w, 500);
    assert_true(leads(&w, 0));
    leave(&w, 0);
    w.c[0].cut = true; /* what the dead one says reaches nobody */
    lease_free(killed);
    client_free(its);
    json_decref(w.object);
}

/* Partitions, slow and lost answers, clocks of different rates, restarts: never two, and one in the end. */
static void never_two_leaders(void **state)
{
    (void)state;
    static const double rates[] = {0.92, 1, 1.08};
    unsigned takeovers = 0;
    for (unsigned seed = 1; seed <= 200; seed++) {
        struct world w;
        world_init(&w, seed);
        join(&w, 0, "a", rates[seed % 3]);
        join(&w, 1, "b", rates[seed / 3 % 3]);
        for (int step = 0; step < 60; step++) {
            struct candidate *c = &w.c[rand_r(&w.seed) % CANDIDATES];
            c->cut = rand_r(&w.seed) % 3 == 0;
            c->slow = (unsigned)rand_r(&w.seed) % 12;
            if (rand_r(&w.seed) % 16 == 0) {
                int i = (int)(c - w.c);
                leave(&w, i);
                join(&w, i, i ? "b" : "a", rates[rand_r(&w.seed) % 3]);
            }
            pass_time(&w, (uint64_t)rand_r(&w.seed) % 20000);
        }
        w.c[0].cut = w.c[1].cut = false;
        w.c[0].slow = w.c[1].slow = 0;
        pass_time(&w, 60000);
        if (!leads(&w, 0) && !leads(&w, 1))
            fail_msg("no leader in the end, seed %u", seed);
        takeovers += w.takeovers;
        leave(&w, 0);
        leave(&w, 1);
        json_decref(w.object);
    }
    assert_true(takeovers > 400);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(it_is_taken_and_renewed),
                                       cmocka_unit_test(it_is_given_back_at_the_end),
                                       cmocka_unit_test(a_holder_that_is_cut_off_stops_before_another_takes_over),
                                       cmocka_unit_test(holding_ends_while_a_call_hangs),
                                       cmocka_unit_test(a_deleted_lease_is_made_anew),
                                       cmocka_unit_test(who_is_robbed_stops),
                                       cmocka_unit_test(the_same_identity_has_it_at_once),
                                       cmocka_unit_test(never_two_leaders)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
