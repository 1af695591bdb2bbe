/* Which series of the gateway's metrics speak of what is gone, so that who makes and deletes endpoints does not use up the room for everybody's (base/metrics.h).
 *
 * A tenant is there while a key names it, a project while it has a key or an endpoint, an endpoint or a model while the routing snapshot has it. What is gone is scraped for
 * SERIES_KEEP_MS more, or until its place is needed. Threads: any one.
 */
#ifndef SEKI_GATEWAY_SERIES_H
#define SEKI_GATEWAY_SERIES_H

#include "gateway/internal.h"

#define SERIES_LOOK_MS 10000
#define SERIES_KEEP_MS (15 * 60 * 1000) /* several scrapes, however seldom they are */

void series_sweep(const struct gateway_metrics *m, const struct snapshot *s, uint64_t now_ms);
/* What a thread has counted last is of no use to it any more. */
void series_memos_drop(struct gateway_series *memos, size_t count);

#endif
