/* The event loop: timers, descriptors, messages from other threads, work on a thread pool, signals.
 *
 * One struct loop belongs to one thread, the one that calls loop_run(). Everything here is called on that thread,
 * but for loop_post() and loop_stop(), which any thread may call. Callbacks run on the loop's thread and never block.
 * libuv is beneath and is hidden: nothing outside this folder includes uv.h.
 */
#ifndef SEKI_LOOP_LOOP_H
#define SEKI_LOOP_LOOP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"

struct loop;

int loop_new(struct loop **ret, struct err *err) NODISCARD;
/* Frees the loop after loop_run has returned. Timers and watches still held by their owners must be gone. Work that is
 * on the pool is waited for and its done() still runs; messages posted but not yet run are dropped. */
void loop_free(struct loop *l);
/* Runs until loop_stop(). */
void loop_run(struct loop *l);
/* Runs what is ready, waiting at most timeout_ms for the first event; for tests. */
void loop_run_once(struct loop *l, uint64_t timeout_ms);
void loop_stop(struct loop *l);
bool loop_is_own_thread(const struct loop *l);
/* Monotonic milliseconds as of this iteration: cheap. */
uint64_t loop_now_ms(const struct loop *l);
/* Counts the loop's waits: what happens between two of them is one turn, in which everybody who is ready is called once. */
uint64_t loop_turn(const struct loop *l);

/* fn(arg) ends every turn: it is called before the loop waits, and after the callback of a descriptor that has called loop_end_turn(). For what is better done once for all that were ready.
 * One a loop; fn NULL: none. A loop that stops may stop without it. */
void loop_at_turn_end(struct loop *l, void (*fn)(void *arg), void *arg);
void loop_end_turn(struct loop *l);

/* Runs fn(arg) on the loop's thread soon; in order of the calls. Any thread. */
void loop_post(struct loop *l, void (*fn)(void *arg), void *arg);

/* Timers: embedded in their owner, one-shot; start again to repeat. Stopping or restarting is immediate and free of
 * callbacks: after timer_stop() returns the owner may free itself. Kept in a heap per loop. They follow the clock of
 * clock.h: a test that sets it advances it, then calls loop_run_once(). */
struct timer {
    void (*fn)(struct timer *t);
    void *arg;
    uint64_t due_ms;
    uint64_t order;  /* equal due times fire in the order they were started */
    size_t heap_pos; /* 1-based; 0 = not armed */
    struct loop *loop;
};
void timer_init(struct timer *t, struct loop *l, void (*fn)(struct timer *t), void *arg);
void timer_start(struct timer *t, uint64_t delay_ms); /* re-arms when armed */
void timer_start_from(struct timer *t, uint64_t now_ms, uint64_t delay_ms); /* for who has just asked clock_mono_ms() */
void timer_stop(struct timer *t);                     /* harmless when not armed */
bool timer_armed(const struct timer *t);

/* Descriptor readiness. The descriptor stays the caller's: free the watch first, then close it. */
enum { FD_READ = 1, FD_WRITE = 2 };
struct fd_watch;
int fd_watch_new(struct loop *l, int fd, void (*fn)(void *arg, int events), void *arg,
                 struct fd_watch **ret, struct err *err) NODISCARD;
void fd_watch_set(struct fd_watch *w, int events); /* which events fn is called for; 0 = none */
/* No callback comes after this, even for events already gathered. NULL is fine. */
void fd_watch_free(struct fd_watch *w);

/* work(arg) on a pool thread, then done(arg) on the loop's thread. The pool has 4 threads: for file work and hashing,
 * never for waiting on peers. */
void loop_work(struct loop *l, void (*work)(void *arg), void (*done)(void *arg), void *arg);

/* Calls fn for each arrival of signo. One handler a signal a process. */
int loop_signal(struct loop *l, int signo, void (*fn)(void *arg, int signo), void *arg,
                struct err *err) NODISCARD;

#endif
