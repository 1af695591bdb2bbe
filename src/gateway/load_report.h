/* Tells control how much is asked of endpoints with spec.scaling, every second and at once when a request is held; and learns which replicas are to go.
 *
 * A GatewayLoad by the gateway's own certificate; nothing of it is stored, and it is repeated for as long as it is true. Of a replica that is to go control wants to hear that nothing
 * more is sent there and that nothing runs: that is said only after every loop has run once since its target was closed (target.h), so that no loop is still sending one.
 * A thread of its own, as the client blocks. At most ten reports a second. Threads: made, started, stopped and freed by the gateway's owner; the rest any.
 */
#ifndef SEKI_GATEWAY_LOAD_REPORT_H
#define SEKI_GATEWAY_LOAD_REPORT_H

#include <stdbool.h>

#include "base/err.h"

struct gateway;
struct load_report;
struct load_report *load_report_new(struct gateway *g); /* before g's loops, who use it */
int load_report_start(struct load_report *r, struct err *err) NODISCARD; /* when they have started */
void load_report_stop(struct load_report *r); /* its thread, before g's loops end */
void load_report_free(struct load_report *r);
/* Reports soon. Any thread, cheap. */
void load_report_wake(struct load_report *r);
/* Control has answered within the last seconds, or was not asked yet. */
bool load_report_heard(struct load_report *r);

#endif
