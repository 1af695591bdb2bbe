#include "gateway/home.h"

#include "gateway/answers.h"
#include "gateway/isolation.h"

const struct snap_endpoint *home_find(const struct request *q, const struct snapshot *s, const struct snap_key **ret_key)
{
    const struct snap_key *k = snapshot_key(s, q->key->hash);
    if (ret_key)
        *ret_key = k;
    return k ? snapshot_find(s, k, q->body.model) : NULL;
}

enum home_fit home_fits(const struct request *q, const struct snap_endpoint *asked, const struct snap_endpoint *e)
{
    bool shared = asked->visibility != VISIBLE_PROJECT || e->visibility != VISIBLE_PROJECT;
    if (e->task != q->route->task)
        return HOME_OTHER_TASK;
    if (!isolation_possible(q, e, shared, asked->is_adapter))
        return HOME_NOT_APART;
    return answers_uncountable(q, e) ? HOME_NOT_COUNTED : HOME_FITS;
}

static uint64_t lacking(const struct snap_endpoint *e, const char *adapter)
{
    uint64_t bits = 0;
    for (size_t i = 0; adapter && i < e->replica_count; i++)
        if (!snapshot_adapter(&e->replicas[i], adapter))
            bits |= 1ull << i;
    return bits;
}

uint64_t home_lacking(const struct request *q, const struct snap_endpoint *e)
{
    return lacking(e, q->adapter ? q->served : NULL);
}

/* The replica that the last attempt was at, as e knows it; NULL: it is gone. */
static const struct snap_replica *the_same(const struct snap_endpoint *e, const struct snap_replica *old)
{
    for (size_t i = 0; old && i < e->replica_count; i++)
        if (!strcmp(e->replicas[i].full_name, old->full_name))
            return &e->replicas[i];
    return NULL;
}

bool home_move(struct request *q, struct snapshot *s, const struct snap_endpoint *asked, const struct snap_endpoint *e)
{
    const char *rule;
    uint64_t barred = border_barred(snapshot_border(s), q->key, e, q->body.model, &rule) | lacking(e, asked->is_adapter ? asked->served : NULL);
    if (!q->ticket.endpoint)
        q->ticket.wish.barred = barred; /* it has no place yet */
    else if (!dispatch_move(&q->ticket, e, barred))
        return false;
    struct snapshot *old = q->routing;
    q->replica = the_same(e, q->replica);
    q->routing = snapshot_ref(s);
    q->endpoint = e;
    q->adapter = asked->is_adapter;
    q->rule = rule;
    snapshot_unref(old);
    return true;
}

const char *home_model_at(const struct request *q, const struct snap_replica *r)
{
    if (q->adapter && !r->pins)
        return q->served; /* vLLM knows adapters by name; llama.cpp is told their number */
    if (r->engine_model || !strcmp(q->served, q->endpoint->served))
        return r->engine_model;
    return q->endpoint->served; /* it was asked for by a route's name */
}
