/* Picking and dispatching: room, cache, herds; waiting, telling, leaving. */
#include "unit.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/vec.h"
#include "gateway/dispatch.h"

#define REPLICAS 4

static struct prefix_seen before; /* nobody looks at it */
static struct target_set *targets;
static struct dispatch_set *dispatches;
static struct snap_replica replicas[REPLICAS];
static struct snap_endpoint endpoint;
static struct loop *loop;
static struct dispatch_inbox inbox;
static int told, told_none;

static int setup(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    targets = target_set_new();
    dispatches = dispatch_set_new();
    for (int i = 0; i < REPLICAS; i++) {
        char name[16];
        snprintf(name, sizeof(name), "t%d", i);
        replicas[i] = (struct snap_replica){.name = "r", .full_name = "p/r", .target = target_take(targets, name), .slots = 4};
    }
    endpoint = (struct snap_endpoint){.project = "p", .name = "m", .replicas = replicas, .replica_count = REPLICAS, .dispatch = dispatch_take(dispatches, "p/m")};
    if (loop_new(&loop, &err) < 0)
        return -1;
    dispatch_inbox_init(&inbox, loop);
    told = told_none = 0;
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    for (int i = 0; i < REPLICAS; i++)
        target_unref(replicas[i].target);
    dispatch_unref(endpoint.dispatch);
    dispatch_prune(dispatches);
    dispatch_set_free(dispatches);
    target_set_free(targets);
    dispatch_inbox_deinit(&inbox);
    loop_free(loop);
    return 0;
}

static void set_load(int a, int b, int c, int d)
{
    int loads[] = {a, b, c, d};
    for (int i = 0; i < REPLICAS; i++)
        atomic_store(&replicas[i].target->in_flight, loads[i]);
}

/* ---- picking ---- */

static void cache_wins_over_load_but_not_over_a_herd(void **state)
{
    (void)state;
    uint64_t hashes[8];
    size_t index, cached;
    for (int i = 0; i < 8; i++)
        hashes[i] = 1000 + (uint64_t)i;
    struct pick_wish w = {.hashes = hashes, .hash_count = 8};
    set_load(0, 1, 1, 1);
    assert_int_equal(pick_replica(&endpoint, &w, 1, &index, &cached), PICK_ONE);
    assert_int_equal(index, 0);
    assert_int_equal(cached, 0);
    target_cache(replicas[2].target, hashes, 8, &before);
    set_load(0, 1, 2, 1);
    assert_int_equal(pick_replica(&endpoint, &w, 1, &index, &cached), PICK_ONE);
    assert_int_equal(index, 2);
    assert_int_equal(cached, 8);
    for (int i = 0; i < REPLICAS; i++)
        replicas[i].slots = 100;
    set_load(1, 1, 10, 1); /* all want it: the next one does not get it */
    assert_int_equal(pick_replica(&endpoint, &w, 1, &index, &cached), PICK_ONE);
    assert_int_not_equal(index, 2);
    target_forget(replicas[2].target);
    set_load(0, 1, 2, 1);
    assert_int_equal(pick_replica(&endpoint, &w, 1, &index, &cached), PICK_ONE);
    assert_int_equal(index, 0);
}

/* t0 is said to be busy with others, and it matters only as long as that may be believed. */
static void what_engines_tell_counts_while_it_is_new(void **state)
{
    (void)state;
    size_t index;
    struct pick_wish w = {0};
    JSON_AUTO queue = json_pack("[{s:s, s:i, s:i}, {s:s, s:i}]", "name", "t0", "waiting", 2, "running", 3, "name", "nobody", "waiting", 9);
    JSON_AUTO full = json_pack("[{s:s, s:i, s:I}]", "name", "t0", "kvThousandths", 950, "ageMilliseconds", (json_int_t)TARGET_TOLD_MS - 1000);
    JSON_AUTO old = json_pack("[{s:s, s:i, s:I}]", "name", "t0", "waiting", 2, "ageMilliseconds", (json_int_t)TARGET_TOLD_MS);
    JSON_AUTO lie = json_pack("[{s:s, s:I, s:i, s:I}]", "name", "t0", "waiting", (json_int_t)INT64_MAX, "kvThousandths", -5, "running", (json_int_t)INT64_MIN);
    set_load(0, 1, 1, 1);
    target_tell(targets, queue, 1000);
    assert_int_equal(pick_replica(&endpoint, &w, 1000, &index, NULL), PICK_ONE);
    assert_int_not_equal(index, 0);
    assert_int_equal(pick_replica(&endpoint, &w, 1000 + TARGET_TOLD_MS, &index, NULL), PICK_ONE); /* nothing new came */
    assert_int_equal(index, 0);
    set_load(3, 4, 4, 4); /* three of the five are ours; and others have no room */
    assert_int_equal(pick_replica(&endpoint, &w, 1000, &index, NULL), PICK_ONE);
    assert_int_equal(index, 0);
    set_load(0, 1, 1, 1);
    target_tell(targets, NULL, 1001); /* its queue is empty again */
    assert_int_equal(pick_replica(&endpoint, &w, 1001, &index, NULL), PICK_ONE);
    assert_int_equal(index, 0);
    target_tell(targets, full, 1000);
    assert_int_equal(pick_replica(&endpoint, &w, 1999, &index, NULL), PICK_ONE);
    assert_int_not_equal(index, 0);
    assert_int_equal(pick_replica(&endpoint, &w, 2000, &index, NULL), PICK_ONE);
    assert_int_equal(index, 0);
    target_tell(targets, old, 1000);
    assert_int_equal(pick_replica(&endpoint, &w, 1000, &index, NULL), PICK_ONE);
    assert_int_equal(index, 0);
    target_tell(targets, lie, 1000);
    assert_int_equal(pick_replica(&endpoint, &w, 1000, &index, NULL), PICK_ONE);
    assert_int_not_equal(index, 0);
}

/* For the log of decisions: what was thought of each, and of whom it was not even thought. */
static void a_choice_can_be_told(void **state)
{
    (void)state;
    static struct pick_report report;
    uint64_t hashes[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    size_t index;
    struct pick_wish w = {.report = &report, .hashes = hashes, .hash_count = 8, .tried = 1u << 0, .barred = 1u << 3};
    target_cache(replicas[2].target, hashes, 8, &before);
    set_load(0, 1, 2, 1);
    assert_int_equal(pick_replica(&endpoint, &w, 1, &index, NULL), PICK_ONE);
    assert_int_equal(index, 2);
    assert_int_equal(report.count, REPLICAS);
    assert_int_equal(report.of[0].fate, PICK_TRIED);
    assert_int_equal(report.of[1].fate, PICK_WEIGHED);
    assert_int_equal(report.of[2].fate, PICK_WEIGHED);
    assert_int_equal(report.of[3].fate, PICK_BARRED);
    assert_int_equal(report.of[2].cached, 8);
    assert_int_equal(report.of[2].running, 2);
    assert_true(report.of[2].score > report.of[1].score);
    set_load(0, 4, 2, 1);
    w.barred = 1u << 2;
    w.tried = 1u << 0 | 1u << 3;
    assert_int_equal(pick_replica(&endpoint, &w, 1, &index, NULL), PICK_FULL);
    assert_int_equal(report.of[1].fate, PICK_NO_ROOM);
    assert_int_equal(report.of[2].fate, PICK_BARRED);
    target_forget(replicas[2].target);
}

static void what_is_still_to_be_read_counts(void **state)
{
    (void)state;
    uint64_t hashes[4] = {1, 2, 3, 4};
    size_t index;
    struct pick_wish w = {.hashes = hashes, .hash_count = 4, .tokens = 256};
    set_load(1, 1, 1, 1);
    for (int i = 0; i < REPLICAS; i++)
        atomic_store(&replicas[i].target->unread, i == 1 ? 400 : 1000);
    assert_int_equal(pick_replica(&endpoint, &w, 1, &index, NULL), PICK_ONE);
    assert_int_equal(index, 1);
    target_cache(replicas[3].target, hashes, 4, &before); /* 2 * 256 tokens less to do there, and not yet 600 */
    assert_int_equal(pick_replica(&endpoint, &w, 1, &index, NULL), PICK_ONE);
    assert_int_equal(index, 1);
    atomic_store(&replicas[3].target->unread, 900);
    assert_int_equal(pick_replica(&endpoint, &w, 1, &index, NULL), PICK_ONE);
    assert_int_equal(index, 3);
}

static void who_has_no_room_gets_nothing(void **state)
{
    (void)state;
    size_t index;
    struct pick_wish w = {0};
    set_load(4, 4, 3, 4);
    for (int i = 0; i < 20; i++) {
        assert_int_equal(pick_replica(&endpoint, &w, 1, &index, NULL), PICK_ONE);
        assert_int_equal(index, 2);
    }
    w.tried = 1u << 2;
    assert_int_equal(pick_replica(&endpoint, &w, 1, &index, NULL), PICK_FULL);
    set_load(4, 4, 4, 4);
    w.tried = 0;
    assert_int_equal(pick_replica(&endpoint, &w, 1, &index, NULL), PICK_FULL);
    w.tried = 15;
    assert_int_equal(pick_replica(&endpoint, &w, 1, &index, NULL), PICK_NONE);
    replicas[1].slots = 0; /* does not say: always has */
    w.tried = 0;
    assert_int_equal(pick_replica(&endpoint, &w, 1, &index, NULL), PICK_ONE);
    assert_int_equal(index, 1);
}

static bool is_second(void *arg UNUSED, const char *name)
{
    return !strcmp(name, "t1");
}

static bool is_any(void *arg UNUSED, const char *name UNUSED)
{
    return true;
}

static bool is_none(void *arg UNUSED, const char *name UNUSED)
{
    return false;
}

static void who_goes_gets_nothing_more(void **state)
{
    (void)state;
    size_t index;
    int running;
    struct pick_wish w = {0};
    set_load(0, 2, 0, 0);
    target_close(targets, is_second, NULL); /* a new snapshot has only that */
    for (int i = 0; i < 20; i++) {
        assert_int_equal(pick_replica(&endpoint, &w, 1, &index, NULL), PICK_ONE);
        assert_int_equal(index, 1);
    }
    assert_false(target_open(targets, "t0", &running));
    assert_true(target_open(targets, "t1", &running));
    assert_int_equal(running, 2);
    assert_false(target_open(targets, "never seen", &running));
    target_close(targets, is_none, NULL);
    assert_int_equal(pick_replica(&endpoint, &w, 1, &index, NULL), PICK_NONE);
    endpoint.waits_for_replicas = true; /* there will be others: it waits, it is not turned away */
    assert_int_equal(pick_replica(&endpoint, &w, 1, &index, NULL), PICK_FULL);
    endpoint.replica_count = 0;
    assert_int_equal(pick_replica(&endpoint, &w, 1, &index, NULL), PICK_FULL);
    endpoint.replica_count = REPLICAS;
    w.tried = 15; /* all were tried: that is an end */
    assert_int_equal(pick_replica(&endpoint, &w, 1, &index, NULL), PICK_NONE);
    target_close(targets, is_any, NULL);
    target_unref(target_take(targets, "t0")); /* it is in a snapshot again */
    assert_true(target_open(targets, "t0", &running));
}

static void ties_are_spread(void **state)
{
    (void)state;
    int seen[REPLICAS] = {0};
    size_t index;
    for (int i = 0; i < 400; i++) {
        assert_int_equal(pick_replica(&endpoint, &(struct pick_wish){0}, 1, &index, NULL), PICK_ONE);
        seen[index]++;
    }
    for (int i = 0; i < REPLICAS; i++)
        assert_true(seen[i] > 50);
}

static void what_is_barred_is_never_picked(void **state)
{
    (void)state;
    size_t index;
    uint64_t hash = 7;
    struct pick_wish w = {.barred = 1u << 1 | 1u << 2, .hashes = &hash, .hash_count = 1};
    target_cache(replicas[1].target, &hash, 1, &before);
    set_load(4, 0, 0, 4);
    assert_int_equal(pick_replica(&endpoint, &w, 1, &index, NULL), PICK_FULL);
    set_load(4, 0, 0, 3);
    assert_int_equal(pick_replica(&endpoint, &w, 1, &index, NULL), PICK_ONE);
    assert_int_equal(index, 3);
    w.tried = 1u << 0 | 1u << 3;
    assert_int_equal(pick_replica(&endpoint, &w, 1, &index, NULL), PICK_NONE);
}

static void in_turns_load_and_cache_say_nothing(void **state)
{
    (void)state;
    uint64_t hash = 7;
    size_t index, cached = 1;
    struct pick_wish w = {.policy = PICK_BY_TURNS, .hashes = &hash, .hash_count = 1};
    set_load(3, 0, 0, 0);
    for (int i = 0; i < REPLICAS; i++)
        atomic_store(&replicas[i].target->turn, (unsigned long long)(10 + i));
    target_cache(replicas[3].target, &hash, 1, &before);
    assert_int_equal(pick_replica(&endpoint, &w, 1, &index, &cached), PICK_ONE);
    assert_int_equal(index, 0);
    assert_int_equal(cached, 0);
    atomic_store(&replicas[0].target->turn, 14);
    assert_int_equal(pick_replica(&endpoint, &w, 1, &index, &cached), PICK_ONE);
    assert_int_equal(index, 1);
}

/* ---- dispatching ---- */

static void on_sent(struct ticket *t)
{
    told++;
    told_none += t->index == SIZE_MAX;
}

static struct ticket *ticket(const char *tenant)
{
    struct ticket *t = XNEW(struct ticket);
    t->inbox = &inbox;
    t->endpoint = &endpoint;
    t->tenant = tenant;
    t->prompt_tokens = t->answer_tokens = 100;
    t->patience_ms = PATIENCE_MAX_MS;
    t->on_sent = on_sent;
    return t;
}

static enum dispatch_result ask(struct ticket *t)
{
    uint64_t retry;
    return dispatch_ask(t, 10, &retry);
}

static void turn_loop(void)
{
    for (int i = 0; i < 20; i++)
        loop_run_once(loop, 0);
}

/* One slot, and a ticket in it. */
static struct ticket *fill(void)
{
    endpoint.replica_count = 1;
    replicas[0].slots = 1;
    struct ticket *first = ticket("a");
    assert_int_equal(ask(first), DISPATCH_SENT);
    assert_int_equal(first->index, 0);
    return first;
}

static void end(struct ticket *t)
{
    dispatch_end(t, 200);
    mem_free(t);
}

static void the_next_one_is_told_when_one_ends(void **state)
{
    (void)state;
    struct ticket *first = fill(), *second = ticket("a"), *third = ticket("b");
    assert_int_equal(ask(second), DISPATCH_WAITS);
    assert_int_equal(ask(third), DISPATCH_WAITS);
    assert_int_equal(dispatch_waiting(), 2);
    assert_false(dispatch_done(first, TARGET_OK, 0));
    turn_loop();
    assert_int_equal(told, 1);
    assert_int_equal(second->state, TICKET_SENT);
    end(first);
    end(second); /* it had its replica: that is free again */
    turn_loop();
    assert_int_equal(told, 2);
    assert_int_equal(third->state, TICKET_SENT);
    assert_int_equal(dispatch_waiting(), 0);
    end(third);
    assert_int_equal(atomic_load(&replicas[0].target->in_flight), 0);
}

/* The first in the queue may go to the full replica only; the others may go to the free one. */
static void who_may_not_go_where_room_is_holds_up_nobody(void **state)
{
    (void)state;
    struct ticket *first = fill(), *bound = ticket("a"), *second = ticket("b"), *third = ticket("c");
    endpoint.replica_count = 2;
    replicas[1].slots = 1;
    bound->wish.barred = 1u << 1;
    assert_int_equal(ask(second), DISPATCH_SENT);
    assert_int_equal(second->index, 1);
    assert_int_equal(ask(bound), DISPATCH_WAITS);
    assert_int_equal(ask(third), DISPATCH_WAITS);
    end(second);
    turn_loop();
    assert_int_equal(third->state, TICKET_SENT);
    assert_int_equal(third->index, 1);
    assert_int_equal(bound->state, TICKET_WAITS);
    end(first);
    turn_loop();
    assert_int_equal(bound->state, TICKET_SENT);
    assert_int_equal(bound->index, 0);
    end(bound);
    end(third);
}

static void who_leaves_in_any_state_leaves_nothing_behind(void **state)
{
    (void)state;
    struct ticket *first = fill(), *waits = ticket("a"), *is_told = ticket("a"), *last = ticket("a");
    assert_int_equal(ask(is_told), DISPATCH_WAITS);
    assert_int_equal(ask(waits), DISPATCH_WAITS);
    assert_int_equal(ask(last), DISPATCH_WAITS);
    end(waits);
    end(first);
    assert_int_equal(is_told->state, TICKET_TOLD); /* the loop has not turned */
    end(is_told);
    assert_int_equal(last->state, TICKET_TOLD);
    turn_loop();
    assert_int_equal(told, 1);
    end(last);
    assert_int_equal(atomic_load(&replicas[0].target->in_flight), 0);
    assert_int_equal(dispatch_waiting(), 0);
}

static void a_tenant_has_so_many_places(void **state)
{
    (void)state;
    struct ticket *first = fill(), *waiting[10], *more = ticket("a"), *other = ticket("b");
    uint64_t retry = 0;
    for (int i = 0; i < 10; i++)
        assert_int_equal(ask(waiting[i] = ticket("a")), DISPATCH_WAITS);
    assert_int_equal(dispatch_ask(more, 10, &retry), DISPATCH_FULL);
    assert_true(retry >= 1000);
    assert_int_equal(ask(other), DISPATCH_WAITS);
    more->again = true; /* who failed has been in already */
    assert_int_equal(dispatch_ask(more, 10, &retry), DISPATCH_WAITS);
    end(other);
    end(more);
    for (int i = 0; i < 10; i++)
        end(waiting[i]);
    end(first);
}

static void a_new_snapshot_gives_room(void **state)
{
    (void)state;
    struct ticket *first = fill(), *second = ticket("a");
    struct snap_endpoint next = endpoint;
    assert_int_equal(ask(second), DISPATCH_WAITS);
    next.replica_count = 2;
    assert_true(dispatch_move(second, &next, 0));
    dispatch_kick(endpoint.dispatch);
    assert_false(dispatch_move(second, &endpoint, 0)); /* it has gone */
    turn_loop();
    assert_int_equal(told, 1);
    assert_int_equal(second->index, 1);
    end(second);
    end(first);
}

static void who_has_tried_all_is_told(void **state)
{
    (void)state;
    struct ticket *first = fill(), *second = ticket("a");
    assert_int_equal(ask(second), DISPATCH_WAITS);
    second->wish.tried = 1; /* as if it had been sent there */
    dispatch_kick(endpoint.dispatch);
    turn_loop();
    assert_int_equal(told_none, 1);
    end(second);
    end(first);
}

static void what_was_never_paid_is_not_given_back(void **state)
{
    (void)state;
    struct ticket *large, *small[20];
    int of_a = 0;
    endpoint.replica_count = 1;
    replicas[0].slots = 1;
    large = ticket("a");
    large->prompt_tokens = 1000000; /* sent at once, for nothing: nobody waited */
    assert_int_equal(ask(large), DISPATCH_SENT);
    for (int i = 0; i < 20; i++) {
        uint64_t retry;
        small[i] = ticket(i < 10 ? "a" : "b");
        assert_int_equal(dispatch_ask(small[i], 100, &retry), DISPATCH_WAITS);
    }
    dispatch_end(large, 0); /* its client left */
    mem_free(large);
    for (int n = 0; n < 10; n++) {
        int i = 0;
        turn_loop();
        while (small[i]->state != TICKET_SENT)
            i++;
        dispatch_end(small[i], 200);
        of_a += i < 10;
    }
    for (int i = 0; i < 20; i++)
        end(small[i]);
    assert_true(of_a >= 4 && of_a <= 6);
}

/* ---- patience ---- */

#define LONG_BLOCKS 40

/* One that has a long prompt; its blocks are those from `from` on. */
static struct ticket *long_one(const char *tenant, uint64_t hashes[LONG_BLOCKS], uint64_t from)
{
    struct ticket *t = ticket(tenant);
    for (uint64_t i = 0; i < LONG_BLOCKS; i++)
        hashes[i] = (from + i) * 0x9e3779b97f4a7c15u; /* spread over the index */
    t->wish.hashes = hashes;
    t->wish.hash_count = LONG_BLOCKS;
    t->prompt_tokens = LONG_BLOCKS * 64;
    return t;
}

/* A prompt was read within so long, and is cached at replica 2, all whose slots are taken. 4 slots, and requests are taken to last for 2 s: half a second for a slot. */
static void make_home_read_in(uint64_t hashes[LONG_BLOCKS], uint64_t read_ms)
{
    struct ticket *t = long_one("a", hashes, 100);
    t->wish.barred = 0xb;
    target_forget(replicas[2].target);
    set_load(0, 0, 0, 0);
    assert_int_equal(ask(t), DISPATCH_SENT);
    assert_int_equal(t->index, 2);
    dispatch_read(t);
    assert_true(t->read_ms > 0);
    t->read_ms = read_ms;
    dispatch_learn(t, LONG_BLOCKS * 256, 0, t->prompt_tokens);
    end(t);
    set_load(0, 0, 4, 0);
}

static void make_home(uint64_t hashes[LONG_BLOCKS])
{
    make_home_read_in(hashes, 400);
}

static void who_is_cached_at_a_full_replica_waits_for_it_while_that_is_quicker(void **state)
{
    (void)state;
    uint64_t hashes[LONG_BLOCKS], others[LONG_BLOCKS];
    make_home(hashes);
    struct ticket *waits = long_one("a", hashes, 100), *second = long_one("b", hashes, 100), *other = long_one("a", others, 900);
    assert_int_equal(ask(waits), DISPATCH_WAITS); /* half a second; reading it elsewhere counts as 0.8 s */
    turn_loop();
    assert_int_equal(waits->state, TICKET_WAITS);
    assert_int_equal(ask(other), DISPATCH_WAITS); /* nothing keeps it: it is sent in the same breath */
    turn_loop();
    assert_int_equal(other->state, TICKET_SENT);
    assert_int_equal(waits->state, TICKET_WAITS);
    set_load(0, 0, 3, 0);
    dispatch_kick(endpoint.dispatch);
    turn_loop();
    assert_int_equal(waits->state, TICKET_SENT);
    assert_int_equal(waits->index, 2);
    end(other);
    end(waits);
    set_load(0, 0, 4, 0);
    waits = long_one("a", hashes, 100);
    assert_int_equal(ask(waits), DISPATCH_WAITS);
    assert_int_equal(ask(second), DISPATCH_WAITS); /* a whole second would be too long */
    turn_loop();
    assert_int_equal(second->state, TICKET_SENT);
    assert_int_not_equal(second->index, 2);
    assert_int_equal(waits->state, TICKET_SENT); /* now that it is read there anyhow */
    assert_int_equal(waits->index, second->index);
    end(waits);
    end(second);
}

static void *kick_often(void *arg)
{
    for (int i = 0; i < 2000; i++)
        dispatch_kick(arg);
    return NULL;
}

/* Since when it waits is its own loop's to say, while others look whether its patience has ended: for the thread sanitizer. */
static void a_wait_begins_anew_while_others_look(void **state)
{
    (void)state;
    uint64_t hashes[LONG_BLOCKS], now_ms = 0;
    pthread_t other;
    make_home(hashes);
    struct ticket *t = long_one("a", hashes, 100);
    assert_int_equal(ask(t), DISPATCH_WAITS);
    assert_int_equal(pthread_create(&other, NULL, kick_often, endpoint.dispatch), 0);
    for (int i = 0; i < 2000; i++)
        dispatch_since(t, now_ms = clock_mono_ms());
    pthread_join(other, NULL);
    assert_int_equal(t->since_ms, now_ms);
    assert_int_equal(t->state, TICKET_WAITS);
    end(t);
    set_load(0, 0, 0, 0);
}

static void who_has_no_place_left_to_wait_goes_where_room_is(void **state)
{
    (void)state;
    uint64_t hashes[LONG_BLOCKS], retry = 0;
    make_home_read_in(hashes, 4000);
    struct ticket *waits = long_one("a", hashes, 100), *second = long_one("a", hashes, 100), *third = long_one("a", hashes, 100);
    assert_int_equal(dispatch_ask(waits, 2, &retry), DISPATCH_WAITS);
    assert_int_equal(dispatch_ask(second, 2, &retry), DISPATCH_WAITS);
    turn_loop();
    assert_int_equal(waits->state, TICKET_WAITS);
    assert_int_equal(second->state, TICKET_WAITS); /* two slots of the full one are waited for: reading it elsewhere takes longer */
    assert_int_equal(dispatch_ask(third, 2, &retry), DISPATCH_WAITS);
    turn_loop();
    assert_int_equal(third->state, TICKET_SENT);
    assert_int_not_equal(third->index, 2);
    end(third);
    end(second);
    end(waits);
}

static void patience_has_an_end(void **state)
{
    (void)state;
    uint64_t hashes[LONG_BLOCKS];
    make_home(hashes);
    struct ticket *t = long_one("a", hashes, 100), *failed = long_one("a", hashes, 100);
    assert_int_equal(ask(t), DISPATCH_WAITS);
    t->since_ms -= PATIENCE_MAX_MS;
    dispatch_kick(endpoint.dispatch);
    turn_loop();
    assert_int_equal(t->state, TICKET_SENT);
    assert_int_not_equal(t->index, 2);
    target_forget(replicas[t->index].target);
    failed->again = true; /* it has lost time already */
    assert_int_equal(ask(failed), DISPATCH_SENT);
    end(t);
    end(failed);
}

static void nobody_waits_while_it_is_not_known_how_fast_is_read(void **state)
{
    (void)state;
    uint64_t hashes[LONG_BLOCKS], retry;
    struct ticket *t = long_one("a", hashes, 100);
    target_cache(replicas[2].target, hashes, LONG_BLOCKS, &before);
    set_load(0, 0, 4, 0);
    assert_int_equal(ask(t), DISPATCH_SENT);
    end(t);
    make_home(hashes);
    for (int i = 0; i < REPLICAS; i++)
        if (i != 2)
            target_forget(replicas[i].target);
    t = long_one("a", hashes, 100);
    assert_int_equal(dispatch_ask(t, 0, &retry), DISPATCH_SENT); /* nor where nobody may wait */
    end(t);
}

static void what_is_to_be_read_is_counted_once_on_every_way(void **state)
{
    (void)state;
    struct ticket *t = fill(), *is_told = ticket("a");
    atomic_llong *unread = &replicas[0].target->unread;
    assert_int_equal(atomic_load(unread), 100);
    dispatch_read(t);
    assert_int_equal(atomic_load(unread), 0);
    assert_int_equal(t->read_ms, 0); /* so little says nothing */
    assert_int_equal(ask(is_told), DISPATCH_WAITS);
    (void)dispatch_done(t, TARGET_OK, 0);
    assert_int_equal(atomic_load(unread), 100);
    assert_int_equal(is_told->state, TICKET_TOLD);
    end(is_told);
    end(t);
    assert_int_equal(atomic_load(unread), 0);
    t = ticket("a");
    assert_int_equal(ask(t), DISPATCH_SENT);
    (void)dispatch_done(t, TARGET_FAILED, 0);
    assert_int_equal(atomic_load(unread), 0);
    end(t);
    assert_int_equal(atomic_load(unread), 0);
}

/* Of an engine whose slots are chosen here. Whether a's next request finds its prompt warm after b's was let go. */
static bool warm_after(struct slots *pins, bool reached)
{
    uint64_t retry;
    bool warm = false;
    replicas[0].pins = pins;
    for (int i = 0; i < 3; i++) {
        struct ticket *t = ticket(i == 1 ? "b" : "a");
        t->slot = SLOT_PINNED;
        t->wish.barred = 0xe;
        assert_int_equal(dispatch_ask(t, 0, &retry), DISPATCH_SENT);
        warm = t->claim.warm;
        t->reached = i != 1 || reached;
        t->ran = i != 1;
        (void)dispatch_done(t, i == 1 ? TARGET_NEITHER : TARGET_OK, 0);
        end(t);
    }
    replicas[0].pins = NULL;
    return warm;
}

static void what_was_tried_stays_tried_in_a_new_snapshot(void **state)
{
    (void)state;
    struct snap_replica now[] = {replicas[2], replicas[1], replicas[0]};
    struct snap_endpoint next = endpoint;
    struct ticket *t = ticket("a");
    next.replicas = now;
    next.replica_count = ARRAY_LEN(now);
    t->wish.tried = 0xb; /* 0, 1 and 3, of which the last has gone */
    now[1].full_name = "p/another"; /* at the address of 1 */
    assert_true(dispatch_move(t, &next, 0));
    assert_int_equal(t->wish.tried, 4);
    assert_true(dispatch_move(t, &next, 0));
    assert_int_equal(t->wish.tried, 4);
    end(t);
}

static void what_never_left_has_spoilt_no_slot(void **state)
{
    (void)state;
    char path[] = "/tmp/seki-dispatch-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    replicas[0].slots = 1;
    struct slots *pins = slots_new(path, clock_mono_ms());
    assert_true(warm_after(pins, false));
    assert_false(warm_after(pins, true));
    slots_free(pins);
    unlink(path);
}

/* ---- beside another attempt ---- */

static void a_second_place_is_had_at_once_or_not_at_all_and_never_where_the_border_forbids(void **state)
{
    (void)state;
    struct ticket second = {.inbox = &inbox, .endpoint = &endpoint, .tenant = "a", .wish = {.tried = 1, .barred = 0xa}};
    assert_true(dispatch_try(&second));
    assert_int_equal(second.index, 2); /* 0 was tried, 1 and 3 are barred */
    assert_int_equal(atomic_load(&replicas[2].target->in_flight), 1);
    (void)dispatch_done(&second, TARGET_NEITHER, 0);
    assert_int_equal(atomic_load(&replicas[2].target->in_flight), 0);
    second.wish.barred |= 4;
    assert_false(dispatch_try(&second));
    second.wish.barred = 0;
    set_load(4, 4, 4, 4);
    assert_false(dispatch_try(&second)); /* it does not wait */
    assert_int_equal(dispatch_waiting_at(endpoint.dispatch), 0);
}

static void nobody_is_asked_beside_another_who_asked_to_be_left_alone(void **state)
{
    (void)state;
    struct ticket second = {.inbox = &inbox, .endpoint = &endpoint, .tenant = "a", .wish = {.tried = 0xe}};
    (void)target_end(replicas[0].target, target_begin(replicas[0].target, clock_mono_ms()), TARGET_BUSY, 60000, clock_mono_ms());
    assert_false(dispatch_try(&second));
    second.wish.tried = 0xd;
    (void)target_end(replicas[1].target, target_begin(replicas[1].target, clock_mono_ms()), TARGET_UNREACHABLE, 0, clock_mono_ms());
    assert_true(dispatch_try(&second)); /* who fails comes last, and is tried when there is no other */
    (void)dispatch_done(&second, TARGET_OK, 0);
    assert_true(dispatch_try(&second)); /* likewise when one that was sent there has done well, and its time is not over */
    (void)dispatch_done(&second, TARGET_NEITHER, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_second_place_is_had_at_once_or_not_at_all_and_never_where_the_border_forbids, setup, teardown),
        cmocka_unit_test_setup_teardown(nobody_is_asked_beside_another_who_asked_to_be_left_alone, setup, teardown),
        cmocka_unit_test_setup_teardown(what_was_tried_stays_tried_in_a_new_snapshot, setup, teardown),
        cmocka_unit_test_setup_teardown(what_never_left_has_spoilt_no_slot, setup, teardown),
        cmocka_unit_test_setup_teardown(cache_wins_over_load_but_not_over_a_herd, setup, teardown),
        cmocka_unit_test_setup_teardown(what_engines_tell_counts_while_it_is_new, setup, teardown),
        cmocka_unit_test_setup_teardown(a_choice_can_be_told, setup, teardown),
        cmocka_unit_test_setup_teardown(what_is_still_to_be_read_counts, setup, teardown),
        cmocka_unit_test_setup_teardown(who_has_no_room_gets_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(who_goes_gets_nothing_more, setup, teardown),
        cmocka_unit_test_setup_teardown(ties_are_spread, setup, teardown),
        cmocka_unit_test_setup_teardown(what_is_barred_is_never_picked, setup, teardown),
        cmocka_unit_test_setup_teardown(in_turns_load_and_cache_say_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(the_next_one_is_told_when_one_ends, setup, teardown),
        cmocka_unit_test_setup_teardown(who_may_not_go_where_room_is_holds_up_nobody, setup, teardown),
        cmocka_unit_test_setup_teardown(who_leaves_in_any_state_leaves_nothing_behind, setup, teardown),
        cmocka_unit_test_setup_teardown(a_tenant_has_so_many_places, setup, teardown),
        cmocka_unit_test_setup_teardown(a_new_snapshot_gives_room, setup, teardown),
        cmocka_unit_test_setup_teardown(a_wait_begins_anew_while_others_look, setup, teardown),
        cmocka_unit_test_setup_teardown(who_has_tried_all_is_told, setup, teardown),
        cmocka_unit_test_setup_teardown(what_was_never_paid_is_not_given_back, setup, teardown),
        cmocka_unit_test_setup_teardown(who_is_cached_at_a_full_replica_waits_for_it_while_that_is_quicker, setup, teardown),
        cmocka_unit_test_setup_teardown(who_has_no_place_left_to_wait_goes_where_room_is, setup, teardown),
        cmocka_unit_test_setup_teardown(patience_has_an_end, setup, teardown),
        cmocka_unit_test_setup_teardown(nobody_waits_while_it_is_not_known_how_fast_is_read, setup, teardown),
        cmocka_unit_test_setup_teardown(what_is_to_be_read_is_counted_once_on_every_way, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
