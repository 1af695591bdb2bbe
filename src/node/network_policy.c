#include "node/network_policy.h"

#include <arpa/inet.h>
#include <stdio.h>

#include "base/mem.h"
#include "kinds/kind.h"

struct pod {
    const json_t *obj;
    const char *ns;
    const json_t *labels, *ns_labels;
    char address[16];
    bool here; /* on this node */
};

struct compiler {
    const struct policy_input *in;
    struct sbuf *out;
    struct pod *pods;
    size_t count;
};

/* One way of the traffic. */
struct direction {
    const char *type, *rules, *peers; /* "Ingress", "spec.ingress", "from" */
    const char *peer, *self;          /* what nft calls the address of the other end, and of this one */
    char letter;
};
static const struct direction ways[] = {{"Ingress", "spec.ingress", "from", "saddr", "daddr", 'i'}, {"Egress", "spec.egress", "to", "daddr", "saddr", 'e'}};

/* ---- selectors ---- */

static bool expression_holds(const json_t *e, const json_t *labels)
{
    const char *op = json_str_or(e, "operator", ""), *key = json_str_or(e, "key", "");
    const char *value = json_string_value(json_object_get(labels, key));
    bool among = false;
    size_t i;
    json_t *v;
    json_array_foreach (json_object_get(e, "values"), i, v)
        among |= value && json_string_value(v) && !strcmp(json_string_value(v), value);
    if (!strcmp(op, "In"))
        return among;
    if (!strcmp(op, "NotIn"))
        return !among;
    if (!strcmp(op, "Exists"))
        return value != NULL;
    return !strcmp(op, "DoesNotExist") && !value;
}

bool policy_selects(const json_t *selector, const json_t *labels)
{
    const char *key;
    json_t *v;
    size_t i;
    if (!json_is_object(selector))
        return false;
    json_object_foreach (json_object_get(selector, "matchLabels"), key, v) {
        const char *have = json_string_value(json_object_get(labels, key));
        if (!have || !json_is_string(v) || strcmp(have, json_string_value(v)) != 0)
            return false;
    }
    json_array_foreach (json_object_get(selector, "matchExpressions"), i, v)
        if (!expression_holds(v, labels))
            return false;
    return true;
}

/* ---- what the cluster has ---- */

/* As nft may read it: nothing of what others wrote goes into the text unparsed. */
static bool address_of(const char *text, char ret[16])
{
    struct in_addr a;
    return text && inet_pton(AF_INET, text, &a) == 1 && inet_ntop(AF_INET, &a, ret, 16);
}

/* "10.0.0.0/8"; false: none of IPv4. */
static bool block_of(const char *text, char ret[24])
{
    char address[16], plain[16];
    const char *slash = text ? strchr(text, '/') : NULL;
    int64_t bits;
    if (!slash || !str_to_array(str_n(text, (size_t)(slash - text)), address, sizeof(address)) || !address_of(address, plain) || str_to_i64(str_of(slash + 1), 0, 32, &bits) < 0)
        return false;
    snprintf(ret, 24, "%s/%d", plain, (int)bits);
    return true;
}

static void find_pods(struct compiler *c)
{
    size_t i;
    json_t *obj;
    c->pods = xcalloc(json_array_size(c->in->pods) + 1, sizeof(*c->pods));
    json_array_foreach (c->in->pods, i, obj) {
        const char *phase = json_str_or(obj, "status.phase", "");
        struct pod p = {.obj = obj, .ns = obj_namespace(obj), .labels = json_at(obj, "metadata.labels")};
        if (json_flag(obj, "spec.hostNetwork", false) || !strcmp(phase, "Succeeded") || !strcmp(phase, "Failed") || !address_of(json_str(obj, "status.podIP"), p.address))
            continue;
        p.here = !strcmp(json_str_or(obj, "spec.nodeName", ""), c->in->node);
        size_t k;
        json_t *ns;
        json_array_foreach (c->in->namespaces, k, ns)
            if (!strcmp(obj_name(ns), p.ns))
                p.ns_labels = json_at(ns, "metadata.labels");
        c->pods[c->count++] = p;
    }
}

static bool policy_has(const json_t *policy, const struct direction *d)
{
    json_t *types = json_at(policy, "spec.policyTypes"), *t;
    size_t i;
    json_array_foreach (types, i, t)
        if (json_string_value(t) && !strcmp(json_string_value(t), d->type))
            return true;
    return !types && (d->letter == 'i' || json_at(policy, "spec.egress"));
}

static bool policy_is_about(const json_t *policy, const struct pod *p)
{
    return !strcmp(obj_namespace(policy), p->ns) && policy_selects(json_at(policy, "spec.podSelector"), p->labels);
}

static bool is_peer(const json_t *policy, const json_t *rule, const struct direction *d, const struct pod *p)
{
    size_t i;
    json_t *peer;
    json_array_foreach (json_object_get(rule, d->peers), i, peer) {
        json_t *pods = json_object_get(peer, "podSelector"), *spaces = json_object_get(peer, "namespaceSelector");
        if (!pods && !spaces)
            continue;
        bool there = spaces ? policy_selects(spaces, p->ns_labels) : !strcmp(p->ns, obj_namespace(policy));
        if (there && (!pods || policy_selects(pods, p->labels)))
            return true;
    }
    return false;
}

/* ---- rules ---- */

static const char *protocol_of(const json_t *port)
{
    const char *said = json_str_or(port, "protocol", "TCP");
    return !strcmp(said, "TCP") ? "tcp" : !strcmp(said, "UDP") ? "udp" : !strcmp(said, "SCTP") ? "sctp" : NULL;
}

/* What a pod calls so; 0: nothing. */
static int named_port(const struct pod *p, const json_t *port)
{
    const char *name = json_str_or(port, "port", ""), *protocol = json_str_or(port, "protocol", "TCP");
    size_t i, k;
    json_t *container, *have;
    json_array_foreach (json_at(p->obj, "spec.containers"), i, container)
        json_array_foreach (json_object_get(container, "ports"), k, have)
            if (!strcmp(json_str_or(have, "name", ""), name) && !strcmp(json_str_or(have, "protocol", "TCP"), protocol))
                return (int)json_int(have, "containerPort", 0);
    return 0;
}

/* "" for all ports. False: no packet. name: of whose port the name is; NULL: of nobody's. */
static bool port_match(const json_t *port, const struct pod *named, char ret[64])
{
    const char *protocol = protocol_of(port);
    const json_t *number = json_object_get(port, "port");
    long long first = json_is_integer(number) ? json_integer_value(number) : 0, last = json_int(port, "endPort", first);
    if (!protocol)
        return false;
    if (json_is_string(number))
        first = last = named ? named_port(named, port) : 0;
    if (!number)
        snprintf(ret, 64, "meta l4proto %s ", protocol);
    else if (first > 0 && first <= last && last <= 65535)
        snprintf(ret, 64, first == last ? "%s dport %lld " : "%s dport %lld-%lld ", protocol, first, last);
    else
        return false;
    return true;
}

/* The whole rule for one port (NULL: all): peers are everybody, a set, blocks. */
static void put_rule(struct compiler *c, const struct direction *d, const json_t *policy, size_t nth, size_t r, const json_t *rule, const struct pod *self, const json_t *port)
{
    char match[64] = "", block[24];
    const json_t *peers = json_object_get(rule, d->peers);
    bool by_name = port && json_is_string(json_object_get(port, "port"));
    bool good = !port || port_match(port, d->letter == 'i' ? self : NULL, match);
    size_t i, k;
    json_t *peer, *except;
    if (by_name && d->letter == 'e') { /* the name is each peer's own */
        for (size_t n = 0; n < c->count; n++)
            if ((!json_array_size(peers) || is_peer(policy, rule, d, &c->pods[n])) && port_match(port, &c->pods[n], match))
                sbuf_addf(c->out, "  ip daddr %s %sreturn\n", c->pods[n].address, match);
        return;
    }
    if (!good)
        return;
    if (!json_array_size(peers)) {
        sbuf_addf(c->out, "  %sreturn\n", match);
        return;
    }
    sbuf_addf(c->out, "  ip %s @p%zu%c%zu %sreturn\n", d->peer, nth, d->letter, r, match);
    json_array_foreach (peers, i, peer) {
        if (!block_of(json_str(peer, "ipBlock.cidr"), block))
            continue;
        sbuf_addf(c->out, "  ip %s %s ", d->peer, block);
        json_array_foreach (json_at(peer, "ipBlock.except"), k, except)
            if (block_of(json_string_value(except), block))
                sbuf_addf(c->out, "ip %s != %s ", d->peer, block);
        sbuf_addf(c->out, "%sreturn\n", match);
    }
}

/* False: no policy is about it. */
static bool put_chain(struct compiler *c, const struct direction *d, const struct pod *p, size_t number)
{
    size_t nth, r, i;
    json_t *policy, *rule, *port;
    bool any = false;
    json_array_foreach (c->in->policies, nth, policy) {
        if (!policy_has(policy, d) || !policy_is_about(policy, p))
            continue;
        if (!any)
            sbuf_addf(c->out, " chain %c%zu {\n  ip %s %s return\n", d->letter, number, d->peer, p->address); /* itself */
        any = true;
        json_array_foreach (json_at(policy, d->rules), r, rule) {
            if (!json_array_size(json_object_get(rule, "ports")))
                put_rule(c, d, policy, nth, r, rule, p, NULL);
            json_array_foreach (json_object_get(rule, "ports"), i, port)
                put_rule(c, d, policy, nth, r, rule, p, port);
        }
    }
    if (any)
        sbuf_addc(c->out, "  drop\n }\n");
    return any;
}

static void put_sets(struct compiler *c, const struct direction *d)
{
    size_t nth, r;
    json_t *policy, *rule;
    json_array_foreach (c->in->policies, nth, policy)
        json_array_foreach (json_at(policy, d->rules), r, rule) {
            const char *before = "elements = { ";
            sbuf_addf(c->out, " set p%zu%c%zu {\n  type ipv4_addr\n  ", nth, d->letter, r);
            for (size_t i = 0; i < c->count; i++)
                if (is_peer(policy, rule, d, &c->pods[i])) {
                    sbuf_addf(c->out, "%s%s", before, c->pods[i].address);
                    before = ", ";
                }
            sbuf_addc(c->out, *before == ',' ? " }\n }\n" : "\n }\n");
        }
}

static void put_way(struct compiler *c, const struct direction *d)
{
    CLEANUP(mem_freep) bool *judged = xcalloc(c->count + 1, sizeof(bool));
    const char *before = "";
    put_sets(c, d);
    for (size_t i = 0; i < c->count; i++)
        judged[i] = c->pods[i].here && put_chain(c, d, &c->pods[i], i);
    sbuf_addf(c->out, " chain %s {\n", d->letter == 'i' ? "to" : "from");
    for (size_t i = 0; i < c->count; i++) {
        if (!c->pods[i].here)
            continue;
        if (!*before)
            sbuf_addf(c->out, "  ip %s vmap { ", d->self);
        if (judged[i])
            sbuf_addf(c->out, "%s%s : goto %c%zu", before, c->pods[i].address, d->letter, i);
        else
            sbuf_addf(c->out, "%s%s : return", before, c->pods[i].address);
        before = ", ";
    }
    sbuf_addc(c->out, *before ? " }\n  drop\n }\n" : "  drop\n }\n");
}

/* ---- the table ---- */

static void begin(struct sbuf *out)
{
    sbuf_addc(out, "table ip " POLICY_TABLE "\ndelete table ip " POLICY_TABLE "\ntable ip " POLICY_TABLE " {\n");
}

static void put_hooks(const char *pod_cidr, const char *from, const char *to, struct sbuf *out)
{
    static const char passes[] = "  ct state related accept\n  ct direction reply ct state established accept\n";
    sbuf_addf(out, " chain forward {\n  type filter hook forward priority filter - 5; policy accept;\n%s  ip saddr %s %s\n  ip daddr %s %s\n }\n", passes, pod_cidr, from, pod_cidr, to);
    sbuf_addf(out, " chain input {\n  type filter hook input priority filter - 5; policy accept;\n  iifname \"lo\" accept\n%s  ip saddr %s %s\n }\n}\n", passes, pod_cidr, from);
}

void policy_closed(const char *pod_cidr, struct sbuf *out)
{
    char block[24];
    begin(out);
    if (block_of(pod_cidr, block))
        put_hooks(block, "drop", "drop", out);
    else
        sbuf_addc(out, "}\n");
}

int policy_compile(const struct policy_input *in, struct sbuf *out, struct err *err)
{
    struct compiler c = {.in = in, .out = out};
    char block[24];
    begin(out);
    if (!json_array_size(in->policies)) {
        sbuf_addc(out, "}\n");
    } else {
        if (!block_of(in->pod_cidr, block))
            return err_set(err, ERR_INVALID, "%s is no network of pods", in->pod_cidr);
        find_pods(&c);
        for (size_t i = 0; i < ARRAY_LEN(ways); i++)
            put_way(&c, &ways[i]);
        put_hooks(block, "jump from", "jump to", out);
        mem_free(c.pods);
    }
    return sbuf_ok(out) ? 0 : err_set(err, ERR_TOO_LARGE, "the rules of this node's pods take more than %zu bytes", out->max);
}
