#include "gateway/recheck.h"

#include "gateway/home.h"

const struct snap_endpoint *recheck_access(struct request *q, const struct snap_key **ret_key)
{
    struct key_fault fault;
    const struct snap_endpoint *asked = home_find(q, q->loop->snapshot, ret_key);
    if (gateway_key_fault(*ret_key, &fault)) {
        gateway_audit_refusal(q->loop, q->http, q->key, fault.status, fault.code, fault.rule);
        request_refuse(q, fault.status, OUTCOME_REFUSED_BY_US, fault.status == 403 ? "permission_error" : "invalid_request_error", fault.code, NULL, fault.message);
        return NULL;
    }
    if (!asked)
        request_refuse_unknown(q);
    return asked;
}

bool recheck_beside(const struct request *q, uint64_t *ret_barred)
{
    const struct snap_key *k;
    struct key_fault fault;
    *ret_barred = q->ticket.wish.barred;
    gateway_loop_refresh(q->loop);
    if (q->looked == q->loop->version)
        return true;
    const struct snap_endpoint *asked = home_find(q, q->loop->snapshot, &k);
    if (!asked || gateway_key_fault(k, &fault))
        return false;
    *ret_barred = border_barred_now(snapshot_border(q->loop->snapshot), k, q->endpoint, q->body.model, NULL) | home_lacking(q, q->endpoint);
    return true;
}

enum recheck_result recheck(struct request *q)
{
    const struct snap_endpoint *e = q->endpoint;
    const struct snap_key *k;
    const char *rule;
    gateway_loop_refresh(q->loop);
    if (q->looked == q->loop->version)
        return RECHECK_GO;
    q->looked = q->loop->version;
    if (!recheck_access(q, &k))
        return RECHECK_ANSWERED;
    uint64_t barred = border_barred_now(snapshot_border(q->loop->snapshot), k, e, q->body.model, &rule), all = e->replica_count < 64 ? (1ull << e->replica_count) - 1 : UINT64_MAX;
    q->ticket.wish.barred = barred | home_lacking(q, e);
    if (!(barred & 1ull << q->ticket.index))
        return RECHECK_GO;
    attempt_release(q, TARGET_NEITHER, 0);
    if ((barred & all) != all)
        return RECHECK_OTHER;
    request_refuse_border(q, rule);
    return RECHECK_ANSWERED;
}
