/* Services and EndpointSlices → what the gate serves, and what a Service is told. Documents are a tenant's: anything may be in them. */
#include "kaas/balancer.h"

#include <string.h>

#include "net/addr.h"

#define PODS_MAX 256 /* of one port of one Service */
#define SOURCES_MAX 64
#define PORT_SSH 22

bool balancer_is_ours(const json_t *service)
{
    const char *class = json_str(service, "spec.loadBalancerClass");
    return !class || !strcmp(class, BALANCER_CLASS);
}

bool balancer_wants(const json_t *service)
{
    return !strcmp(json_str_or(service, "spec.type", ""), "LoadBalancer") && balancer_is_ours(service) && !obj_deleting(service);
}

static bool is_tcp(const json_t *port)
{
    return !strcmp(json_str_or(port, "protocol", "TCP"), "TCP");
}

static int64_t port_in_slice(const json_t *slice, const char *name)
{
    size_t i;
    json_t *p;
    json_array_foreach (json_at(slice, "ports"), i, p)
        if (!strcmp(json_str_or(p, "name", ""), name) && is_tcp(p))
            return json_int(p, "port", 0);
    return 0;
}

static bool is_of(const json_t *slice, const json_t *service)
{
    const char *name = obj_label(slice, "kubernetes.io/service-name");
    return name && !strcmp(name, obj_name(service)) && !strcmp(obj_namespace(slice), obj_namespace(service)) && !strcmp(json_str_or(slice, "addressType", ""), "IPv4");
}

/* Pods that are ready; draining ones only where there is no other. */
static json_t *pods_of(const json_t *service, const json_t *slices, const char *port, bool draining)
{
    json_t *to = json_array(), *slice, *e;
    bool unready = json_flag(service, "spec.publishNotReadyAddresses", false);
    size_t i, k;
    json_array_foreach ((json_t *)(uintptr_t)slices, i, slice) {
        int64_t number = is_of(slice, service) ? port_in_slice(slice, port) : 0;
        if (number < 1 || number > 65535)
            continue;
        json_array_foreach (json_at(slice, "endpoints"), k, e) {
            const char *address = json_string_value(json_array_get(json_object_get(e, "addresses"), 0));
            bool ready = json_flag(e, "conditions.ready", true), serving = json_flag(e, "conditions.serving", ready);
            if (!address || json_array_size(to) >= PODS_MAX || !(unready || ready || (draining && serving)))
                continue;
            json_array_append_new(to, json_sprintf("%s:%lld", address, (long long)number));
        }
    }
    return to;
}

void balancer_own_ports(const char *const *listens, const struct cluster_network *range, uint16_t ret[BALANCER_OWN_MAX])
{
    size_t n = 0;
    ret[n++] = PORT_SSH;
    for (; *listens && n < BALANCER_OWN_MAX - 1; listens++) {
        struct net_addr a;
        if (net_addr_parse(str_of(*listens), &a, NULL) < 0 || !net_addr_port(&a))
            continue;
        if (a.sa.sa_family == AF_INET6 ? IN6_IS_ADDR_UNSPECIFIED(&a.in6.sin6_addr)
                                       : !a.in4.sin_addr.s_addr || cluster_networks_overlap(range, &(struct cluster_network){ntohl(a.in4.sin_addr.s_addr), 32}))
            ret[n++] = net_addr_port(&a);
    }
    ret[n] = 0;
}

/* Why a port has no row whatever the gate says; NULL: it has one. served: how many before it have. */
static const char *refusal(const json_t *port, const uint16_t *own, size_t served, const char **ret_reason)
{
    *ret_reason = "ProtocolNotSupported";
    if (!is_tcp(port))
        return "only TCP is relayed";
    *ret_reason = "PortUnavailable";
    for (; *own; own++)
        if (json_int(port, "port", 0) == *own)
            return "it is kept for this machine itself";
    *ret_reason = "QuotaExceeded";
    return served >= BALANCER_PORTS_MAX ? "a Service is served at 64 ports at most" : NULL;
}

json_t *balancer_row(const json_t *service, const json_t *slices, const char *address, const uint16_t *own)
{
    const char *reason;
    json_t *ports = json_array(), *sources = json_array(), *p, *s;
    size_t i;
    json_array_foreach (json_at(service, "spec.ports"), i, p) {
        if (refusal(p, own, json_array_size(ports), &reason))
            continue;
        json_t *to = pods_of(service, slices, json_str_or(p, "name", ""), false);
        if (!json_array_size(to)) {
            json_decref(to);
            to = pods_of(service, slices, json_str_or(p, "name", ""), true);
        }
        json_array_append_new(ports, json_pack("{s:I, s:o}", "port", (json_int_t)json_int(p, "port", 0), "to", to));
    }
    json_array_foreach (json_at(service, "spec.loadBalancerSourceRanges"), i, s)
        if (json_array_size(sources) < SOURCES_MAX)
            json_array_append(sources, s);
    return json_pack("{s:s, s:s, s:s, s:s, s:b, s:o, s:o}", "uid", obj_uid(service), "namespace", obj_namespace(service), "name", obj_name(service), "address", address, "sticky",
                     !strcmp(json_str_or(service, "spec.sessionAffinity", ""), "ClientIP"), "sources", sources, "ports", ports);
}

json_t *balancer_ingress(const json_t *service, const json_t *row, const json_t *failed, const uint16_t *own, struct arena *a, const char **ret_reason, const char **ret_why)
{
    const char *address = json_str_or(row, "address", "");
    json_t *list = json_array(), *ports = json_array(), *p;
    size_t i, good = 0, bad = 0, served = 0;
    *ret_reason = *ret_why = NULL;
    json_array_foreach (json_at(service, "spec.ports"), i, p) {
        long long port = json_int(p, "port", 0);
        const char *reason, *why = refusal(p, own, served, &reason);
        if (!why) {
            served++;
            reason = "PortUnavailable";
            why = json_string_value(json_object_get(failed, arena_printf(a, "%s:%lld", address, port)));
        }
        json_t *one = json_pack("{s:I, s:s}", "port", (json_int_t)port, "protocol", json_str_or(p, "protocol", "TCP"));
        if (why) {
            json_object_set_new(one, "error", json_sprintf("seki.cloud/%s", reason));
            bad++;
            if (!*ret_why) {
                *ret_reason = reason;
                *ret_why = arena_printf(a, "port %lld of %s is not served: %s", port, address, why);
            }
        } else {
            good++;
        }
        json_array_append_new(ports, one);
    }
    if (good) {
        json_t *ingress = json_pack("{s:s}", "ip", address);
        if (bad)
            json_object_set(ingress, "ports", ports);
        json_array_append_new(list, ingress);
    }
    json_decref(ports);
    return list;
}
