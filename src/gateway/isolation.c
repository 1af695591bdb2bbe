#include "gateway/isolation.h"

static void add_slot(struct sbuf *out, const struct ticket *t)
{
    if (t->claimed && t->claim.slot >= 0)
        sbuf_addf(out, "\"id_slot\":%d,", t->claim.slot);
    if (t->claimed)
        sbuf_addf(out, "\"cache_prompt\":%s", t->claim.warm ? "true" : "false");
}

static void add_salt(struct sbuf *out, const struct request *q)
{
    char text[600], hex[SHA256_HEX_MAX];
    snprintf(text, sizeof(text), "cache-salt %s", q->key->tenant);
    token_hash(&q->loop->gateway->o.pepper, str_of(text), hex);
    sbuf_addf(out, "%s\"%s\":\"%s\"", out->len ? "," : "", q->replica->salt_member, hex);
}

struct str isolation_members(const struct request *q)
{
    CLEANUP(sbuf_deinit) struct sbuf out = {0};
    sbuf_init(&out, 512);
    add_slot(&out, &q->ticket);
    if (q->replica->salt_member)
        add_salt(&out, q);
    if (q->replica->pins && *q->replica->adapters) { /* whatever is asked for, as it would go on with what another request left */
        int number = q->adapter ? snapshot_adapter(q->replica, q->served) : 0;
        sbuf_addf(&out, "%s\"lora\":[{\"id\":%d,\"scale\":%s}]", out.len ? "," : "", MAX(number - 1, 0), number ? "1.0" : "0.0");
    }
    return arena_str(q->http->arena, sbuf_str(&out));
}

bool isolation_possible(const struct request *q, const struct snap_endpoint *e, bool shared, bool adapter)
{
    if (!q->route->no_isolation || q->route->counts_only)
        return true;
    if ((shared && e->salted) || (adapter && e->pinned)) /* whoever waits for the first engine is not asked again */
        return false;
    for (size_t i = 0; i < e->replica_count; i++)
        if ((shared && e->replicas[i].salt_member) || (adapter && e->replicas[i].pins))
            return false;
    return true;
}
