/* Whether one request kept what its endpoint promises, as part of its usage record: so reports of service levels follow from the ledger, as bills do.
 *
 * Member "slo" of the record, only where something was promised for it: {"project": the endpoint's, "availability": {"target": 999000, "good": true}, "ttft": {…}}; targets in millionths, as
 * they were when the request ended. A level for which the request does not count is not there. Older records have none.
 */
#ifndef SEKI_LEDGER_LEVELS_H
#define SEKI_LEDGER_LEVELS_H

#include "base/arena.h"
#include "json/json.h"

enum level_kind { LEVEL_AVAILABILITY, LEVEL_TTFT, LEVEL_KINDS };
const char *level_name(enum level_kind k); /* "availability", "ttft" */

struct level {
    int64_t target; /* millionths; 0: it does not count */
    bool good;
};

struct levels {
    struct str project; /* the endpoint's; empty: nothing counts */
    struct level of[LEVEL_KINDS];
};

/* `,"slo":{…}`, or nothing. */
void levels_encode(const struct levels *l, struct sbuf *out);
/* From that member, which may be NULL; what has a wrong shape or range does not count. Texts are copied. */
struct levels levels_decode(const json_t *slo, struct arena *a);

#endif
