/* Service levels that a ModelEndpoint promises (spec.slo): which part of its requests is served, and which part of its streams begins in time.
 *
 *   slo: {availability: "99.9", ttft: {percent: "95", milliseconds: 500}}
 *
 * A percentage is a text with at most three decimals, above 0 and below 100; inside it is a count of millionths, so that nothing is rounded. Pure functions; threads: any.
 */
#ifndef SEKI_KINDS_SLO_H
#define SEKI_KINDS_SLO_H

#include "json/table.h"

#define SLO_WHOLE 1000000 /* millionths */
#define SLO_PERCENT_MAX 16

struct slo {
    int64_t availability; /* millionths of requests that are to be served; 0: nothing is promised */
    int64_t ttft;         /* millionths of streams that are to begin within … ; 0: likewise */
    int64_t ttft_ms;
};

extern const struct field slo_fields[]; /* of spec.slo */

bool slo_percent_read(struct str text, int64_t *ret_millionths);
/* "99.9"; below zero too: "-12.5". Rounded down to a thousandth. */
void slo_percent_format(int64_t millionths, char text[SLO_PERCENT_MAX]);
/* Of requests, of which some were bad; and what is left of a budget, which is given in millionths of requests: both in millionths. Sums above 0. */
int64_t slo_achieved(int64_t requests, int64_t bad);
int64_t slo_budget_left(int64_t budget, int64_t bad);
/* From an endpoint's spec; what cannot be read is not promised. */
void slo_read(const json_t *spec, struct slo *ret);
void slo_validate(const json_t *spec, struct field_errors *errors);

#endif
