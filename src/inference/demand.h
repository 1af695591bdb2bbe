/* What gateways tell of the load on endpoints, and whether replicas that are to go are still in use: in memory, as told in the last seconds.
 *
 * Each gateway posts a GatewayLoad every second, and at once when a request comes for an endpoint where nothing serves. That is repeated for as long as it is true, so nothing is lost
 * when control restarts. A gateway that has been silent for DEMAND_SILENT_MS counts as gone. Nothing is decided on silence: with no gateway known, loads are not known either.
 * Threads: any.
 */
#ifndef SEKI_INFERENCE_DEMAND_H
#define SEKI_INFERENCE_DEMAND_H

#include "json/json.h"

#define DEMAND_SILENT_MS 10000

struct demand;
struct demand *demand_new(void);
void demand_free(struct demand *d);

/* The sum over gateways. */
struct demand_load {
    int gateways;      /* that were heard of; 0: the rest is not known */
    int64_t held, waiting, running, waiting_tokens, running_tokens;
    double slot_speed; /* tokens a second; 0: not known */
    int64_t idle_ms;   /* the least of all; of a gateway that does not name the endpoint: how long it has been heard of */
};
void demand_of(struct demand *d, const char *ns, const char *name, struct demand_load *ret);

/* A gateway's report. changed: called with each endpoint of which something waits, runs or ended. */
int demand_report(struct demand *d, const json_t *spec, void (*changed)(void *arg, const char *ns, const char *name), void *arg, json_t **ret_status, struct err *err) NODISCARD;

/* A target ("NAMESPACE ADDRESS") is to go. True: every gateway has said that it sends nothing there any more and that nothing runs; *ret_running: what does, as far as known. */
bool demand_may_leave(struct demand *d, const char *target, int64_t *ret_running);
/* Requests that gateways have there, as far as they were told to say: of those that were asked about. */
int64_t demand_running(struct demand *d, const char *target);
/* What a target's engine was found to do; -1: it does not say. Gateways are told, with their next report, of those where requests wait or memory for keys and values is scarce
 * (DEMAND_KV_SCARCE thousandths are used); not of what was found DEMAND_ENGINE_MS ago. */
struct demand_engine {
    int64_t waiting, running, kv_used;
};
#define DEMAND_ENGINE_MS 10000
#define DEMAND_KV_SCARCE 800
void demand_engine(struct demand *d, const char *target, const struct demand_engine *found);
void demand_left(struct demand *d, const char *target); /* it is gone: it is asked about no more */

#endif
