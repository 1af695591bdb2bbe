/* Leases of budgets and of rates: this gateway's side of GatewayLease (billing/bank.h and billing/shares.h are control's).
 *
 * A thread asks control once a second, and at once when a request waits: it says what is held, what is wanted, and up to which usage record; the answer grants slices of budgets until
 * the lease's end, counted from before the question was sent. Who asked for none of a budget for IDLE gives its slice back. With control down, what was leased is spent until the
 * lease's end and nothing after it; of rates each gateway goes on with the shares that it has (rate_lease.h), and nobody waits.
 *
 * A request that a slice cannot pay waits here while control is asked; then it reserves again. A timer of its own ends that after WAIT in all, however long control takes. (With control
 * down it waits for money all the same, as control may be back by then, and nothing else can pay.) What is refused at once is what control has said there is no more of, a second ago at
 * most. Threads: any; slices_wait's callback runs on its own loop.
 */
#ifndef SEKI_GATEWAY_SLICES_H
#define SEKI_GATEWAY_SLICES_H

#include <sys/queue.h>

#include "client/client.h"
#include "gateway/budget.h"
#include "gateway/journal.h"
#include "loop/loop.h"

struct slices;
struct slices_options {
    struct client *client; /* stays the caller's */
    const char *gateway;   /* its name */
    struct journal *journal;
    struct budget_set *budgets;
    struct limit_set *limits;
    const char *shares_file, *other_shares_file; /* share_file.h; NULL: none */
};
int slices_start(const struct slices_options *o, struct slices **ret, struct err *err) NODISCARD;
/* Asks no more; who waits is called once more, and does not wait again. Before the loops end, which still settle and cancel. */
void slices_stop(struct slices *l);
/* Gives all back: after the loops have ended, while the journal is open. succeeded: another gateway has taken over. Waits for control, half a second at most. */
void slices_leave(struct slices *l, bool succeeded);
void slices_free(struct slices *l);

/* One a loop. */
struct slices_inbox {
    TAILQ_HEAD(, slices_wait) woken;
    struct loop *loop;
    struct slices *slices;
};
void slices_inbox_init(struct slices_inbox *i, struct slices *l, struct loop *loop);

struct slices_wait {
    TAILQ_ENTRY(slices_wait) link;
    struct slices_inbox *inbox;
    enum { SLICES_IDLE, SLICES_WAITS, SLICES_WOKEN } state;
    const struct budget *budgets; /* what it wants to reserve of */
    size_t count;
    int64_t amount;
    struct limit_counter *counter; /* or of a limit: so many of its unit. NULL: of the budgets */
    enum limit_unit unit;
    uint64_t since_ns; /* when it first waited; 0: it has not */
    struct timer end;   /* the loop's: runs while it waits */
    bool is_over;      /* it has waited long enough */
    void (*again)(struct slices_wait *w);
};
/* It waits until control has answered, and then is called again; false: it has waited long enough. On its loop's thread. */
bool slices_park(struct slices_wait *w, struct slices_inbox *i);
void slices_cancel(struct slices_wait *w);

#endif
