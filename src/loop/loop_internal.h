/* What the files of this folder share about struct loop; nothing outside includes it. */
#ifndef SEKI_LOOP_LOOP_INTERNAL_H
#define SEKI_LOOP_LOOP_INTERNAL_H

#include <pthread.h>
#include <uv.h>

#include "base/vec.h"
#include "loop/loop.h"

struct message {
    void (*fn)(void *arg);
    void *arg;
};
struct message_queue {
    struct message *ptr;
    size_t len;
    size_t cap;
};

struct loop {
    uv_loop_t uv;
    uv_timer_t heap_timer; /* fires at the heap's first due time */
    uv_timer_t limit;      /* bounds loop_run_once */
    uv_prepare_t prepare;  /* arms heap_timer once an iteration, whatever was started meanwhile */
    uv_async_t wake;
    pthread_t owner;
    uint64_t now_ms, turn;
    bool stopping;
    bool turn_over; /* turn_end is to run before others that are ready are called */
    void (*turn_end)(void *arg);
    void *turn_end_arg;

    VEC(struct timer *) heap;
    uint64_t next_order;
    uint64_t armed_due_ms; /* 0 = heap_timer is not running */

    pthread_mutex_t lock; /* guards posted */
    struct message_queue posted;
    struct signal_handler *signals;
};

/* Runs the timers that are due. */
void loop_fire_timers(struct loop *l);
/* Makes heap_timer agree with the heap. */
void loop_arm_timer(struct loop *l);

#endif
