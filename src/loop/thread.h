/* A thread that runs a loop of its own: gateways have one per core.
 *
 * loop_thread_start: makes the loop, starts the thread, runs `init(loop, arg)` on it and returns its result; then the
 * thread runs the loop until loop_thread_stop, which runs `deinit(loop, arg)` on it and joins.
 */
#ifndef SEKI_LOOP_THREAD_H
#define SEKI_LOOP_THREAD_H

#include "loop/loop.h"

struct loop_thread;

struct loop_thread_ops {
    int (*init)(struct loop *l, void *arg, struct err *err); /* on the new thread */
    void (*deinit)(struct loop *l, void *arg);               /* on the new thread, at the end */
};

int loop_thread_start(const char *name, const struct loop_thread_ops *ops, void *arg,
                      struct loop_thread **ret, struct err *err) NODISCARD;
struct loop *loop_thread_loop(struct loop_thread *t);
void loop_thread_stop(struct loop_thread *t); /* any other thread; frees t */

#endif
