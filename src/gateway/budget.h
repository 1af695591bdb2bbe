/* Budgets of money: a request reserves what it may cost before it is sent, and settles what it did cost when its record is in the journal.
 *
 * What is left of a budget is known to control alone, which derives it from the usage ledger; a gateway holds a slice of it, leased (slices.h) until a moment. Here is the gateway's side:
 *
 *   granted ─► held = left + reserved by running requests          reserve: left -= n       settle: left += n - cost, held -= cost
 *
 * A reservation is one atomic operation a budget. What a slice cannot pay is asked for (BUDGET_ASK: slices.h parks the request), and refused only when control has said that there is no
 * more (BUDGET_OVER), or has answered and in no time granted enough. Past the lease's end nothing more is spent of it. A request that costs more than was reserved makes `left` negative: the next ones pay.
 * Slices are of a period: what was reserved in one that is over is settled there. Threads: any, without locks, but for the set, which has one.
 */
#ifndef SEKI_GATEWAY_BUDGET_H
#define SEKI_GATEWAY_BUDGET_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/map.h"
#include "gateway/limits.h"
#include "json/json.h"
#include "ledger/price.h"

struct budget_slot {
    atomic_llong period; /* its number, plus 1; 0: none yet */
    atomic_llong left, held;
};
struct budget_counter {
    atomic_uint refs;
    char *name;
    atomic_llong amount;              /* as the newest snapshot has it */
    struct budget_slot slots[2];      /* by the period's last bit */
    atomic_ullong expires_ns;         /* of the lease */
    atomic_ullong verdict_until_ns;   /* so long control's last word holds: there are no more than … */
    atomic_llong more;                /* … these beside what is here */
    atomic_ullong told_ns;            /* when control last answered a question about requests that wait */
    atomic_ullong asked_for_ns;       /* when a request last reserved of it, or wished to */
    int64_t need, need_least;         /* of the requests that wait: slices.c's */
    bool listed;                      /* likewise */
};

/* One budget of a key, in a snapshot: its own, one of its project's Limits', or its tenant's. */
struct budget {
    struct budget_counter *counter;
    enum limit_scope scope;
    const char *project, *owner; /* the key's, Limit's or tenant's name */
    int64_t amount;
    enum budget_period period;
    char currency[CURRENCY_MAX];
};
/* From an object with a member `budget`; false: there is none that is sound. */
bool budget_read(const json_t *obj, struct budget *ret);

/* Counters by name, kept from one snapshot to the next. */
struct budget_set {
    pthread_mutex_t lock;
    struct map *by_name;
};
struct budget_set *budget_set_new(void);
void budget_set_free(struct budget_set *s);
/* Gives b its counter, with a reference. */
void budget_take(struct budget_set *s, struct budget *b);
void budget_prune(struct budget_set *s);
void budget_counter_unref(struct budget_counter *c);

struct budget_hold {
    const struct budget *budgets; /* alive until it is settled */
    size_t count;
    int64_t amount, wall_ms;
    bool held;
};
enum budget_result { BUDGET_HELD, BUDGET_ASK, BUDGET_OVER };
/* Not HELD: nothing is, and *ret_why is the budget that has no room. */
enum budget_result budget_reserve(struct budget_hold *h, const struct budget *budgets, size_t count, int64_t amount, int64_t wall_ms, uint64_t now_ns, const struct budget **ret_why);
/* Once its record is in the journal. started_ms: as in the record, which names the period that pays. */
void budget_settle(struct budget_hold *h, int64_t cost, int64_t started_ms);

/* ---- slices.c's: one thread ---- */
/* What is held of a period, with what is owed, and what of it is free. */
int64_t budget_held(const struct budget_counter *c, int64_t period, int64_t *ret_left);
void budget_grant(struct budget_counter *c, int64_t period, int64_t amount);
/* Gives back what no request has reserved. */
void budget_return(struct budget_counter *c, int64_t period);

#endif
