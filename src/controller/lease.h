/* Holds the Lease kube-system/seki-controllers: only who holds it reconciles.
 *
 * A holder that could not renew in time stops, also while a call hangs: holding ends by the clock. Another takes the lease when it has seen no renewal for the whole duration
 * by its own clock, so that clocks need not agree, and may differ in rate by a sixth. Identities of candidates differ; who comes back under the same identity has the lease at once.
 * Threads: lease_held() any; lease_round() one at a time.
 */
#ifndef SEKI_CONTROLLER_LEASE_H
#define SEKI_CONTROLLER_LEASE_H

#include "client/client.h"

#define LEASE_NAMESPACE "kube-system"
#define LEASE_NAME "seki-controllers"

struct lease;

struct lease_options {
    struct client *client;          /* stays the caller's */
    const char *identity;
    uint64_t (*now_ms)(void *arg);  /* NULL: the monotonic clock; tests give each candidate its own */
    void *now_arg;
};
struct lease *lease_new(const struct lease_options *o);
/* Rounds on a thread of its own, until lease_free. */
int lease_start(struct lease *l, struct err *err) NODISCARD;
/* Tries to take or to renew, once; returns in how many ms to try again. The thread calls it; tests call it instead of starting one. */
uint64_t lease_round(struct lease *l);
bool lease_held(struct lease *l);
void lease_free(struct lease *l); /* gives it back */

#endif
