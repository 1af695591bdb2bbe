#include "gateway/recheck.h"

#include "gateway/request.h"

bool recheck_key(struct request *q)
{
    struct key_fault fault;
    if (!gateway_key_fault(snapshot_key(q->loop->snapshot, q->key->hash), &fault))
        return true;
    gateway_audit_refusal(q->loop, q->http, q->key, fault.status, fault.code, fault.rule);
    request_refuse(q, fault.status, OUTCOME_REFUSED_BY_US, fault.status == 403 ? "permission_error" : "invalid_request_error", fault.code, NULL, fault.message);
    return false;
}

enum recheck_result recheck(struct request *q)
{
    const struct snap_endpoint *e = q->endpoint;
    const char *rule;
    gateway_loop_refresh(q->loop);
    if (q->looked == q->loop->version)
        return RECHECK_GO;
    q->looked = q->loop->version;
    if (!recheck_key(q))
        return RECHECK_ANSWERED;
    uint64_t barred = border_barred_now(snapshot_border(q->loop->snapshot), q->key, e, q->body.model, &rule), all = e->replica_count < 64 ? (1ull << e->replica_count) - 1 : UINT64_MAX;
    q->ticket.wish.barred = barred;
    if (!(barred & 1ull << q->ticket.index))
        return RECHECK_GO;
    attempt_release(q, TARGET_NEITHER, 0);
    if ((barred & all) != all)
        return RECHECK_OTHER;
    request_refuse_border(q, rule);
    return RECHECK_ANSWERED;
}
