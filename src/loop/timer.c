#include "loop/loop_internal.h"

#include "base/clock.h"

/* A binary heap of pointers; each timer knows its place, so stopping one costs no search. Positions
 * start at 1. */

static bool before(const struct timer *a, const struct timer *b)
{
    return a->due_ms != b->due_ms ? a->due_ms < b->due_ms : a->order < b->order;
}

static void place(struct loop *l, struct timer *t, size_t pos)
{
    l->heap.ptr[pos - 1] = t;
    t->heap_pos = pos;
}

static void sift_up(struct loop *l, struct timer *t, size_t pos)
{
    for (; pos > 1 && before(t, l->heap.ptr[pos / 2 - 1]); pos /= 2)
        place(l, l->heap.ptr[pos / 2 - 1], pos);
    place(l, t, pos);
}

static void sift_down(struct loop *l, struct timer *t, size_t pos)
{
    for (;;) {
        size_t child = pos * 2;
        if (child > l->heap.len)
            break;
        if (child < l->heap.len && before(l->heap.ptr[child], l->heap.ptr[child - 1]))
            child++;
        if (!before(l->heap.ptr[child - 1], t))
            break;
        place(l, l->heap.ptr[child - 1], pos);
        pos = child;
    }
    place(l, t, pos);
}

void timer_init(struct timer *t, struct loop *l, void (*fn)(struct timer *t), void *arg)
{
    *t = (struct timer){.fn = fn, .arg = arg, .loop = l};
}

void timer_start(struct timer *t, uint64_t delay_ms)
{
    /* Not the iteration's time: a callback that computed for long would get a timer that is due too
     * early. */
    timer_start_from(t, clock_mono_ms(), delay_ms);
}

void timer_start_from(struct timer *t, uint64_t now_ms, uint64_t delay_ms)
{
    struct loop *l = t->loop;
    timer_stop(t);
    t->due_ms = delay_ms > UINT64_MAX - now_ms ? UINT64_MAX : now_ms + delay_ms;
    t->order = ++l->next_order;
    *VEC_PUSH(&l->heap) = t;
    sift_up(l, t, l->heap.len);
}

void timer_stop(struct timer *t)
{
    if (!t->heap_pos)
        return;
    struct loop *l = t->loop;
    size_t pos = t->heap_pos;
    t->heap_pos = 0;
    struct timer *moved = l->heap.ptr[--l->heap.len];
    if (moved == t)
        return;
    if (pos > 1 && before(moved, l->heap.ptr[pos / 2 - 1]))
        sift_up(l, moved, pos);
    else
        sift_down(l, moved, pos);
}

bool timer_armed(const struct timer *t)
{
    return t->heap_pos != 0;
}

void loop_fire_timers(struct loop *l)
{
    l->now_ms = clock_mono_ms();
    /* At most as many as there are now: one that starts itself again with no delay must not keep
     * the loop here. */
    for (size_t n = l->heap.len; n && l->heap.len && l->heap.ptr[0]->due_ms <= l->now_ms; n--) {
        struct timer *t = l->heap.ptr[0];
        timer_stop(t);
        t->fn(t);
    }
}

static void on_heap_timer(uv_timer_t *handle)
{
    struct loop *l = handle->data;
    l->armed_due_ms = 0;
    loop_fire_timers(l);
}

void loop_arm_timer(struct loop *l)
{
    uint64_t due = l->heap.len ? MAX(l->heap.ptr[0]->due_ms, (uint64_t)1) : 0;
    if (due == l->armed_due_ms && due > clock_mono_ms())
        return;
    l->armed_due_ms = due;
    if (!due) {
        uv_timer_stop(&l->heap_timer);
        return;
    }
    uint64_t now = clock_mono_ms();
    uv_update_time(&l->uv); /* libuv counts from its own idea of now */
    uv_timer_start(&l->heap_timer, on_heap_timer, due > now ? due - now : 0, 0);
}
