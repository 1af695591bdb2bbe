/* The queue: shares, classes, order within a tenant. */
#include "unit.h"

#include "base/mem.h"
#include "gateway/queue.h"

struct item {
    struct queue_entry e;
    int64_t cached;
    char tenant;
};

static struct item *add(struct queue *q, char tenant, int64_t cost, enum queue_class class)
{
    char name[2] = {tenant, 0};
    struct item *i = XNEW(struct item);
    i->tenant = tenant;
    i->e.cost = cost;
    i->e.class = class;
    queue_add(q, name, &i->e, false);
    return i;
}

static int64_t cached(void *arg, struct queue_entry *e)
{
    (void)arg;
    return ((const struct item *)e)->cached;
}

/* Takes one; returns its tenant, 0 when there is none. */
static char take(struct queue *q, int64_t *ret_cost)
{
    struct queue_entry *e = queue_next(q, cached, NULL);
    if (!e)
        return 0;
    char tenant = ((struct item *)e)->tenant;
    if (ret_cost)
        *ret_cost = e->cost;
    queue_take(q, e);
    mem_free(e);
    return tenant;
}

static void drain(struct queue *q)
{
    while (take(q, NULL))
        ;
    assert_int_equal(q->len, 0);
    assert_int_equal(map_len(q->flows), 0);
    queue_deinit(q);
}

static void shares_are_equal_in_tokens(void **state)
{
    (void)state;
    struct queue q;
    int64_t sum[2] = {0}, cost = 0;
    queue_init(&q);
    for (int i = 0; i < 2000; i++) {
        add(&q, 'a', 100, CLASS_INTERACTIVE); /* many small ones */
        if (i % 10 == 0)
            add(&q, 'b', 1500, CLASS_INTERACTIVE); /* few large ones */
    }
    while (sum[0] + sum[1] < 200000) {
        char t = take(&q, &cost);
        sum[t - 'a'] += cost;
    }
    assert_true(llabs(sum[0] - sum[1]) <= 2 * 1500);
    drain(&q);
}

static void what_was_guessed_wrongly_is_settled(void **state)
{
    (void)state;
    struct queue q;
    int64_t real[2] = {0}, cost = 0;
    queue_init(&q);
    for (int i = 0; i < 4000; i++) {
        add(&q, 'a', 10, CLASS_INTERACTIVE); /* says 10, takes 500 */
        add(&q, 'b', 100, CLASS_INTERACTIVE);
    }
    while (real[0] + real[1] < 200000) {
        char t = take(&q, &cost);
        int64_t used = t == 'a' ? 500 : 100;
        char name[2] = {t, 0};
        queue_settle(&q, name, CLASS_INTERACTIVE, 0, used - cost);
        real[t - 'a'] += used;
    }
    assert_true(llabs(real[0] - real[1]) < 200000 / 20);
    drain(&q);
}

static void who_comes_late_has_saved_nothing_and_owes_nothing(void **state)
{
    (void)state;
    struct queue q;
    int taken[2] = {0};
    queue_init(&q);
    for (int i = 0; i < 500; i++)
        add(&q, 'a', 512, CLASS_INTERACTIVE);
    for (int i = 0; i < 300; i++)
        assert_int_equal(take(&q, NULL), 'a'); /* alone: gets all */
    for (int i = 0; i < 100; i++)
        add(&q, 'b', 512, CLASS_INTERACTIVE);
    for (int i = 0; i < 100; i++)
        taken[take(&q, NULL) - 'a']++;
    assert_true(abs(taken[0] - taken[1]) <= 4);
    drain(&q);
}

static void classes_are_strict(void **state)
{
    (void)state;
    struct queue q;
    queue_init(&q);
    add(&q, 'a', 10, CLASS_BATCH);
    add(&q, 'b', 5000, CLASS_INTERACTIVE);
    add(&q, 'a', 10, CLASS_INTERACTIVE);
    assert_int_equal(queue_len_of(&q, "a"), 2);
    assert_int_equal(take(&q, NULL), 'a');
    assert_int_equal(take(&q, NULL), 'b');
    assert_int_equal(take(&q, NULL), 'a');
    assert_int_equal(queue_len_of(&q, "a"), 0);
    drain(&q);
}

static void the_best_cached_goes_first_but_nobody_is_overtaken_for_ever(void **state)
{
    (void)state;
    struct queue q;
    queue_init(&q);
    struct item *patient = add(&q, 'a', 10, CLASS_INTERACTIVE);
    for (int i = 0; i < 20; i++)
        add(&q, 'a', 10, CLASS_INTERACTIVE)->cached = 5;
    int before = 0;
    while (queue_next(&q, cached, NULL) != &patient->e) {
        take(&q, NULL);
        before++;
    }
    assert_int_equal(before, 8);
    drain(&q);
}

static void who_would_rather_wait_holds_up_nobody_and_earns_nothing(void **state)
{
    (void)state;
    struct queue q;
    struct item *waits[4];
    int64_t cost = 0, sum[2] = {0};
    queue_init(&q);
    for (int i = 0; i < 4; i++) {
        waits[i] = add(&q, 'a', 50, CLASS_INTERACTIVE);
        waits[i]->cached = -1;
    }
    add(&q, 'a', 5000, CLASS_INTERACTIVE);
    assert_int_equal(take(&q, &cost), 'a'); /* past those before it, though they cost less */
    assert_int_equal(cost, 5000);
    for (int i = 0; i < 200; i++)
        assert_int_equal(take(&q, NULL), 0);
    for (int i = 0; i < 400; i++)
        add(&q, 'b', 100, CLASS_INTERACTIVE);
    for (int i = 0; i < 100; i++)
        assert_int_equal(take(&q, NULL), 'b');
    for (int i = 0; i < 4; i++)
        waits[i]->cached = 0;
    for (int i = 0; i < 400; i++)
        add(&q, 'a', 100, CLASS_INTERACTIVE);
    while (sum[0] + sum[1] < 20000) {
        char tenant = take(&q, &cost);
        sum[tenant == 'b'] += cost;
    }
    assert_true(sum[0] > 9000 && sum[0] < 11000); /* nothing was saved up, nor is anything owed */
    drain(&q);
}

static void batch_goes_on_while_an_interactive_one_rather_waits(void **state)
{
    (void)state;
    struct queue q;
    queue_init(&q);
    assert_null(queue_peek(&q));
    struct item *waits = add(&q, 'i', 50, CLASS_INTERACTIVE);
    waits->cached = -1;
    struct item *batch = add(&q, 'b', 50, CLASS_BATCH);
    assert_ptr_not_equal(queue_peek(&q), &batch->e);
    assert_int_equal(take(&q, NULL), 'b');
    assert_int_equal(take(&q, NULL), 0);
    waits->cached = 0;
    drain(&q);
}

static void who_leaves_is_gone_and_who_failed_comes_first(void **state)
{
    (void)state;
    struct queue q;
    queue_init(&q);
    struct item *leaves = add(&q, 'a', 10, CLASS_INTERACTIVE), *stays = add(&q, 'a', 10, CLASS_INTERACTIVE), *again = XNEW(struct item);
    again->tenant = 'a';
    again->e.cost = 1;
    queue_add(&q, "a", &again->e, true);
    queue_remove(&q, &leaves->e);
    queue_remove(&q, &leaves->e); /* harmless */
    mem_free(leaves);
    assert_ptr_equal(queue_next(&q, NULL, NULL), &again->e);
    take(&q, NULL);
    assert_ptr_equal(queue_next(&q, NULL, NULL), &stays->e);
    drain(&q);
}

static void a_debt_has_an_end(void **state)
{
    (void)state;
    struct queue q;
    queue_init(&q);
    for (int i = 0; i < 1000; i++)
        add(&q, 'a', 1000, CLASS_INTERACTIVE);
    add(&q, 'b', 1000, CLASS_INTERACTIVE);
    queue_settle(&q, "b", CLASS_INTERACTIVE, 0, INT64_MAX / 2);
    int before = 0;
    while (take(&q, NULL) != 'b')
        before++;
    assert_true(before > 50 && before < 200);
    queue_settle(&q, "nobody", CLASS_INTERACTIVE, 0, 5);
    drain(&q);
}

/* One slot: the next one goes before what the last one really cost is known, and before its tenant asks again. */
static void one_request_after_the_other_is_no_way_around_a_share(void **state)
{
    (void)state;
    struct queue q;
    int64_t real[2] = {0}, cost = 0, paid = 0;
    queue_init(&q);
    for (int i = 0; i < 4000; i++)
        add(&q, 'b', 100, CLASS_INTERACTIVE);
    add(&q, 'a', 10, CLASS_INTERACTIVE);
    for (char runs = 0; real[0] + real[1] < 200000;) {
        char next = take(&q, &cost);
        if (runs) {
            int64_t used = runs == 'a' ? 1000 : 100; /* a says 10, and never has two */
            char name[2] = {runs, 0};
            queue_settle(&q, name, CLASS_INTERACTIVE, 0, used - paid);
            real[runs - 'a'] += used;
            if (runs == 'a')
                add(&q, 'a', 10, CLASS_INTERACTIVE);
        }
        runs = next;
        paid = cost;
    }
    assert_true(llabs(real[0] - real[1]) < 200000 / 20);
    drain(&q);
}

static void a_debt_is_paid_off_while_others_are_served(void **state)
{
    (void)state;
    struct queue q;
    int taken[2] = {0};
    queue_init(&q);
    for (int i = 0; i < 500; i++)
        add(&q, 'b', 100, CLASS_INTERACTIVE);
    queue_settle(&q, "a", CLASS_INTERACTIVE, 0, 5000);
    for (int i = 0; i < 100; i++)
        assert_int_equal(take(&q, NULL), 'b'); /* 10,000 tokens: what others get in that time is its, too */
    assert_int_equal(map_len(q.flows), 1);
    for (int i = 0; i < 100; i++)
        add(&q, 'a', 100, CLASS_INTERACTIVE);
    for (int i = 0; i < 100; i++)
        taken[take(&q, NULL) - 'a']++;
    assert_true(abs(taken[0] - taken[1]) <= 4);
    drain(&q);
}

static void nobody_owes_what_kept_nobody_waiting(void **state)
{
    (void)state;
    struct queue q;
    queue_init(&q);
    queue_settle(&q, "a", CLASS_INTERACTIVE, 0, 5000);
    assert_int_equal(map_len(q.flows), 0);
    add(&q, 'b', 10, CLASS_BATCH);
    queue_settle(&q, "a", CLASS_INTERACTIVE, 0, 5000); /* of another class: it comes before b anyway */
    assert_int_equal(take(&q, NULL), 'b');
    assert_null(queue_peek(&q));
    assert_int_equal(map_len(q.flows), 0);
    drain(&q);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shares_are_equal_in_tokens),
        cmocka_unit_test(what_was_guessed_wrongly_is_settled),
        cmocka_unit_test(who_comes_late_has_saved_nothing_and_owes_nothing),
        cmocka_unit_test(classes_are_strict),
        cmocka_unit_test(the_best_cached_goes_first_but_nobody_is_overtaken_for_ever),
        cmocka_unit_test(who_would_rather_wait_holds_up_nobody_and_earns_nothing),
        cmocka_unit_test(batch_goes_on_while_an_interactive_one_rather_waits),
        cmocka_unit_test(who_leaves_is_gone_and_who_failed_comes_first),
        cmocka_unit_test(a_debt_has_an_end),
        cmocka_unit_test(one_request_after_the_other_is_no_way_around_a_share),
        cmocka_unit_test(a_debt_is_paid_off_while_others_are_served),
        cmocka_unit_test(nobody_owes_what_kept_nobody_waiting),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
