#include "cmd/options.h"

#include "base/log.h"

#include <unistd.h>

#include "crypto/root_key.h"
#include "gateway/trace_export.h"
#include "kinds/cluster_oidc.h"
#include "net/reach.h"
#include "oidc/config.h"

#define GATEWAY_NAME_MAX 32
#define OPT(member) offsetof(struct options, member)

static const struct conf_option schema[] = {
    {"", "data", CONF_PATH, OPT(data), "/var/lib/seki", 0, 0, NULL, NULL, false,
     "data directory: database, certificates, ledgers, logs"},
    {"", "manifests", CONF_PATH, OPT(manifests), "", 0, 0, NULL, NULL, true,
     "directory of .yaml and .json manifests, applied at start and on reload"},
    {"", "site", CONF_STR, OPT(site), "", 0, 0, NULL, NULL, false,
     "the Site where this cloud's own engines stand; without it nothing that a residency rule holds for is sent to them"},
    {"", "log-level", CONF_ENUM, OPT(log_level), "info", 0, 0, "debug|info|warn|error", NULL, true,
     "least severity that is logged"},
    {"", "log-format", CONF_ENUM, OPT(log_format), "auto", 0, 0, "auto|human|json", NULL, true,
     "auto: human on a terminal, else JSON"},
    {"api", "listen", CONF_STR, OPT(api_listen), "127.0.0.1:6440", 0, 0, NULL, NULL, false,
     "address of the resource API (TLS always); port 0 takes a free one"},
    {"api", "names", CONF_STR, OPT(api_names), "", 0, 0, NULL, NULL, false,
     "further DNS names and addresses for the API's certificate, comma-separated"},
    {"api", "token-file", CONF_PATH, OPT(api_token_file), "", 0, 0, NULL, NULL, false,
     "hashed bearer tokens: lines of SHA-256, user, groups"},
    {"authentication", "config", CONF_PATH, OPT(authentication_config), "", 0, 0, NULL, NULL, true,
     "who may log in: a file with an AuthenticationConfiguration (apiserver.config.k8s.io/v1) that names issuers of tokens"},
    {"authentication", "clock-skew", CONF_DURATION, OPT(authentication_skew_ms), "10s", 0, 600000, NULL, NULL, true,
     "how far an issuer's clock may be from ours"},
    {"authentication", "key-refresh", CONF_DURATION, OPT(authentication_refresh_ms), "10m", 1000, 86400000, NULL, NULL, true,
     "how often the issuers' keys are fetched; besides, when a token names one that is not known"},
    {"gateway", "name", CONF_STR, OPT(gateway_name), "", 0, 0, NULL, NULL, false,
     "tells several gateways on one data directory apart: lower-case letters, digits and hyphens, 32 at most; empty: there is one"},
    {"gateway", "listen", CONF_STR, OPT(gateway_listen), "127.0.0.1:8000", 0, 0, NULL, NULL, false,
     "address of the inference gateway; other than loopback needs tls-cert"},
    {"gateway", "tls-cert", CONF_PATH, OPT(gateway_tls_cert), "", 0, 0, NULL, NULL, true,
     "PEM certificate chain of the gateway"},
    {"gateway", "tls-key", CONF_PATH, OPT(gateway_tls_key), "", 0, 0, NULL, NULL, true,
     "PEM key of that certificate"},
    {"gateway", "threads", CONF_INT, OPT(gateway_threads), "0", 0, 256, NULL, NULL, false,
     "event loops; 0: one a core"},
    {"gateway", "max-connections", CONF_INT, OPT(gateway_max_connections), "9000", 1, 1000000, NULL,
     NULL, false, "client connections; more are answered 503"},
    {"gateway", "address-share", CONF_INT, OPT(gateway_address_share), "50", 1, 100, NULL, NULL, false,
     "percent of max-connections that one client's address (of IPv6, its /64) may have once three quarters are in use; 100: no bound"},
    {"gateway", "trusted-proxies", CONF_STR, OPT(gateway_trusted_proxies), "127.0.0.0/8,::1", 0, 0, NULL, NULL, false,
     "networks and addresses, comma-separated, behind which there are many clients: address-share does not hold for them"},
    {"gateway", "max-body", CONF_SIZE, OPT(gateway_max_body), "16M", 1024, 1 << 30, NULL, "bytes",
     false, "largest request body; larger ones are answered 413"},
    {"gateway", "bodies-bytes", CONF_SIZE, OPT(gateway_bodies_bytes), "1G", 1 << 20, INT64_C(1) << 40, NULL, "bytes", false,
     "request bodies, and answers that are no streams, that are held in memory at once, of all tenants; more are answered 503, bodies before they are read"},
    {"gateway", "tenant-bodies-bytes", CONF_SIZE, OPT(gateway_tenant_bodies_bytes), "256M", 1 << 20, INT64_C(1) << 40, NULL, "bytes", false,
     "those of one tenant; more are answered 429 likewise"},
    {"gateway", "head-timeout", CONF_DURATION, OPT(gateway_head_ms), "10s", 100, 3600000, NULL, NULL,
     false, "longest time for the head of a request to come"},
    {"gateway", "body-timeout", CONF_DURATION, OPT(gateway_body_ms), "30s", 100, 3600000, NULL, NULL,
     false, "longest gap between two pieces of a request's body"},
    {"gateway", "drain", CONF_DURATION, OPT(gateway_drain_ms), "10m", 0, 86400000, NULL, NULL, true,
     "how long running requests may go on after SIGTERM"},
    {"gateway", "first-byte-timeout", CONF_DURATION, OPT(gateway_first_byte_ms), "10m", 100, 86400000,
     NULL, NULL, false, "longest wait for an engine's first byte"},
    {"gateway", "idle-timeout", CONF_DURATION, OPT(gateway_idle_ms), "5m", 100, 86400000, NULL, NULL,
     false, "longest gap between two pieces of an engine's answer"},
    {"gateway", "routing", CONF_ENUM, OPT(gateway_routing), "prefix", 0, 0, "prefix|load|turns", NULL, false,
     "how an endpoint's replica is chosen: by what it has cached of the prompt and its load, by its load, or in turns"},
    {"gateway", "queue-max", CONF_INT, OPT(gateway_queue_max), "1000", 1, 100000, NULL, NULL, false,
     "requests of one tenant that may wait for an endpoint whose replicas are all busy; more are answered 429"},
    {"gateway", "queue-timeout", CONF_DURATION, OPT(gateway_queue_ms), "1m", 100, 3600000, NULL, NULL, false,
     "how long a request may wait for a replica; then it is answered 503"},
    {"gateway", "hold-max", CONF_INT, OPT(gateway_hold_max), "1000", 0, 100000, NULL, NULL, false,
     "requests that may wait for an endpoint without replicas to start one; more are answered 503; 0: none wait"},
    {"gateway", "hold-bytes", CONF_SIZE, OPT(gateway_hold_bytes), "256M", 0, INT64_C(1) << 40, NULL, "bytes", false,
     "bodies of all requests that wait for engines to start; more are answered 503"},
    {"gateway", "hold-timeout", CONF_DURATION, OPT(gateway_hold_ms), "5m", 100, 86400000, NULL, NULL, false,
     "how long a request may wait for the first engine to start; then it is answered 503"},
    {"gateway", "keepalive", CONF_DURATION, OPT(gateway_keepalive_ms), "15s", 0, 3600000, NULL, NULL, false,
     "a stream whose first content is long in coming gets a comment this often, so that proxies keep it; 0: none"},
    {"gateway", "hedging", CONF_BOOL, OPT(gateway_hedging), "true", 0, 0, NULL, NULL, false,
     "a stream whose first token is late is sent to a second replica too: one of twenty at most"},
    {"gateway", "decision-log-per-million", CONF_INT, OPT(gateway_decisions), "0", 0, 1000000, NULL, NULL, false,
     "of a million requests, how many have a line in log/decisions-NAME.jsonl: which replicas were weighed, and how; 0: there is no such file"},
    {"gateway", "decision-log-size", CONF_SIZE, OPT(gateway_decisions_bytes), "64M", 1 << 16, INT64_C(1) << 40, NULL, "bytes", false,
     "that file is renamed to NAME.jsonl.1 before it would be larger"},
    {"metrics", "listen", CONF_STR, OPT(metrics_listen), "127.0.0.1:9440", 0, 0, NULL, NULL, false,
     "metrics, /livez and /readyz of the control process"},
    {"metrics", "gateway-listen", CONF_STR, OPT(metrics_gateway_listen), "127.0.0.1:9441", 0, 0, NULL,
     NULL, false, "metrics, /livez and /readyz of the gateway process"},
    {"tracing", "otlp-endpoint", CONF_STR, OPT(tracing_otlp_endpoint), "", 0, 0, NULL, NULL, false,
     "OpenTelemetry collector on this machine that gets the gateway's traces, by OTLP over HTTP: http://127.0.0.1:4318; empty: none are made"},
    {"tracing", "sample-per-million", CONF_INT, OPT(tracing_sample), "0", 0, 1000000, NULL, NULL, false,
     "of a million requests whose client does not say, how many are traced; where the client sends a traceparent, its sampled flag decides"},
    {"store", "retain", CONF_DURATION, OPT(store_retain_ms), "5m", 300000, 86400000, NULL, NULL, false,
     "history kept for watches and paged lists"},
    {"store", "rollback-keep", CONF_DURATION, OPT(store_rollback_keep_ms), "168h", 0, 31536000000, NULL, NULL, true,
     "how long the copy is kept that an upgrade made before it changed the store's format; 0: until `seki upgrade finish`"},
    {"limits", "objects-per-project", CONF_INT, OPT(limits_objects), "10000", 0, 100000000, NULL, NULL, true,
     "how many objects a project may have, of all kinds together but Events, Leases, UsageReports and SLOReports, where its tenant's limits do not say; 0: any number"},
    {"limits", "lease", CONF_DURATION, OPT(limits_lease_ms), "30s", 1000, 600000, NULL, NULL, false,
     "how long a gateway may spend its slice of a budget without hearing from control"},
    {"usage", "reconcile-interval", CONF_DURATION, OPT(usage_reconcile_ms), "1h", 200, 86400000, NULL, NULL, false,
     "how often the usage ledger is compared with the engines' own counters"},
    {"secrets", "root-key", CONF_STR, OPT(secrets_root_key), "", 0, 0, NULL, NULL, false,
     "what wraps the keys that seal secrets: a file, or a pkcs11: URI with module-path and pin-source; empty: secrets/root.key of the data directory, made at the first start"},
    {"secrets", "old-root-key", CONF_STR, OPT(secrets_old_root_key), "", 0, 0, NULL, NULL, false,
     "the root key before, for one start: keys that it wraps are wrapped with root-key instead"},
    {"engine", "llama-server", CONF_PATH, OPT(engine_llama_server), "", 0, 0, NULL, NULL, false,
     "llama.cpp's server; empty: look on PATH, then use engine-venv"},
    {"engine", "vllm", CONF_PATH, OPT(engine_vllm), "", 0, 0, NULL, NULL, false,
     "vLLM's program; empty: look on PATH"},
    {"engine", "venv", CONF_PATH, OPT(engine_venv), "", 0, 0, NULL, NULL, false,
     "virtual environment with the xllamacpp wheel"},
    {"engine", "launcher", CONF_PATH, OPT(engine_launcher), "", 0, 0, NULL, NULL, false,
     "llamacpp-launcher.py; empty: ../share/seki beside the program's directory"},
    {"engine", "fake", CONF_PATH, OPT(engine_fake), "", 0, 0, NULL, NULL, false,
     "the fake engine, for tests; empty: driver fake is refused"},
    {"engine", "probe-interval", CONF_DURATION, OPT(engine_probe_ms), "2s", 20, 60000, NULL, NULL, false,
     "how often a running engine's counters are read"},
    {"engine", "stall-timeout", CONF_DURATION, OPT(engine_stall_ms), "60s", 100, 3600000, NULL, NULL,
     false, "requests running without a token for this long: the engine is restarted"},
    {"engine", "idle-probe-interval", CONF_DURATION, OPT(engine_idle_ms), "60s", 100, 86400000, NULL, NULL,
     false, "how often an engine without requests must make one token, which nobody pays"},
    {"engine", "drain", CONF_DURATION, OPT(engine_drain_ms), "2m", 100, 86400000, NULL, NULL, false,
     "how long requests of an engine that is to go may run on before it is stopped"},
    {"engine", "memory-reserve", CONF_SIZE, OPT(engine_memory_reserve), "256M", 0, INT64_C(1) << 50, NULL, "bytes", false,
     "memory that stays free when engines start beside those that they replace; where there is less, they are replaced one at a time, in their places"},
    {"engine", "remote-allow", CONF_STR, OPT(engine_remote_allow), "", 0, 0, NULL, NULL, false,
     "where engines of driver openai may be besides public https addresses: networks such as 10.1.0.0/16 (there plain HTTP too) and unix:/paths, comma-separated"},
    {"kubernetes", "dir", CONF_PATH, OPT(kubernetes_dir), "", 0, 0, NULL, NULL, false,
     "where the programs of Kubernetes are, in a folder a minor version: 1.37/kube-apiserver …; empty: there are none, and Clusters wait"},
    {"kubernetes", "addresses", CONF_STR, OPT(kubernetes_addresses), "127.96.0.0/12", 0, 0, NULL, NULL, false,
     "part of the loopback network; each Cluster's control plane takes an address of it"},
    {"kubernetes", "balancer-addresses", CONF_STR, OPT(kubernetes_balancer_addresses), "", 0, 0, NULL, NULL, false,
     "network whose addresses reach this machine: each Service of type LoadBalancer in a cluster with nodes takes one of it; empty: there are none"},
    {"kubernetes", "issuers", CONF_STR, OPT(kubernetes_issuers), "", 0, 0, NULL, NULL, false,
     "issuers of tokens that Clusters may name as their own (spec.oidc), URLs such as https://id.example/realms, comma-separated, each with what is below it: API servers fetch from them; empty: none"},
    {"kubernetes", "warm-clusters", CONF_INT, OPT(kubernetes_warm_clusters), "0", 0, 8, NULL, NULL, false,
     "control planes that are kept made for Clusters to come, of the default version, size and networks: whoever creates such a Cluster has it within a second; each takes the memory of a Cluster"},
    {"kubernetes", "probe-interval", CONF_DURATION, OPT(kubernetes_probe_ms), "5s", 100, 600000, NULL, NULL, false,
     "how often the components of a Cluster that is ready are asked whether they are"},
    {"kubernetes", "certificate-life", CONF_DURATION, OPT(kubernetes_certificate_life_ms), "8760h", 160000, 63072000000, NULL, NULL, false,
     "how long certificates in Clusters are good; they are made anew when a third of that is left"},
    {"kubernetes", "key-overlap", CONF_DURATION, OPT(kubernetes_key_overlap_ms), "15m", 1000, 86400000, NULL, NULL, false,
     "how long a Cluster's older key for secrets stays beside the newer one at least; API servers may use it for some minutes"},
    {"kubernetes", "drill-interval", CONF_DURATION, OPT(kubernetes_drill_ms), "24h", 0, 31536000000, NULL, NULL, false,
     "how often the newest backup of each Cluster is restored for trial, beside it; 0: never"},
    {"kubernetes", "node-storage", CONF_SIZE, OPT(kubernetes_node_storage), "16G", 0, INT64_C(1) << 50, NULL, "bytes", false,
     "what the volumes of one node may take of this machine's disk together; 0: Clusters that have their nodes from now on get no StorageClass"},
    {"kubernetes", "node-disks", CONF_SIZE, OPT(kubernetes_node_disks), "64G", 0, INT64_C(1) << 50, NULL, "bytes", false,
     "what the disks of all nodes of all Clusters may have of this machine together (each spec.machine.diskGiB of its NodePool, 4 GiB where that does not say, volumes not counted): with 64G and "
     "4 GiB each the 17th node waits (NodePool: NoSpace); 0: as much as NodePools ask for"},
    {"model", "dirs", CONF_STR, OPT(model_dirs), "", 0, 0, NULL, NULL, false,
     "directories with files for Models of all projects, comma-separated; besides, a project has models/PROJECT/ of the data directory"},
};

const struct conf_option *options_schema(size_t *ret_len)
{
    *ret_len = ARRAY_LEN(schema);
    return schema;
}

/* plain: NULL, or what to do about an address other than loopback. */
static int check_listen(const char *option, const char *text, const char *plain, struct err *err)
{
    struct net_addr a;
    struct err inner = ERR_INIT;
    if (net_addr_parse(str_of(text), &a, &inner) < 0)
        return err_field(err, ERR_INVALID, option, "%s: %s", option, inner.msg);
    if (plain && !net_addr_is_loopback(&a))
        return err_field(err, ERR_INVALID, option,
                         "%s: %s is not a loopback address, and plain text is served on loopback only%s",
                         option, text, plain);
    return 0;
}

/* Engines listen on sockets below the data directory, and the system limits their paths: "/run/engines/01234567-0123-4567.sock". */
static int check_data(const char *data, struct err *err)
{
    enum { DATA_PATH_MAX = 107 - 36 };
    if (!*data)
        return err_field(err, ERR_INVALID, "data", "data: expected a directory");
    if (strlen(data) > DATA_PATH_MAX)
        return err_field(err, ERR_INVALID, "data", "data: %s is too long by %zu bytes: engines have sockets below it, expected at most %d bytes", data,
                         strlen(data) - DATA_PATH_MAX, DATA_PATH_MAX);
    return 0;
}

static int check_reach(const char *option, const char *text, struct err *err)
{
    struct err inner = ERR_INIT;
    struct reach r;
    if (reach_parse(text, &r, &inner) < 0)
        return err_field(err, ERR_INVALID, option, "%s: %s", option, inner.msg);
    reach_deinit(&r);
    return 0;
}

static int check_issuers(const char *option, const char *text, struct err *err)
{
    struct err inner = ERR_INIT;
    return cluster_oidc_list_check(text, &inner) < 0 ? err_field(err, ERR_INVALID, option, "%s: %s", option, inner.msg) : 0;
}

static int check_authentication(const char *path, struct err *err)
{
    CLEANUP(arena_freep) struct arena *a = arena_new(16 * 1024 * 1024);
    struct oidc_config config;
    struct err inner = ERR_INIT;
    if (*path && oidc_config_load(path, a, &config, &inner) < 0)
        return err_field(err, ERR_INVALID, "authentication-config", "authentication-config: %s", inner.msg);
    return 0;
}

static int check_root_key(const char *option, const char *text, struct err *err)
{
    struct err inner = ERR_INIT;
    if (*text && root_key_check(text, &inner) < 0)
        return err_field(err, ERR_INVALID, option, "%s: %s", option, inner.msg);
    return 0;
}

/* It is part of names of files. */
static int check_gateway_name(const char *name, struct err *err)
{
    size_t len = strlen(name);
    if (len > GATEWAY_NAME_MAX || strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-") != len)
        return err_field(err, ERR_INVALID, "gateway-name", "gateway-name: expected at most %d lower-case letters, digits and hyphens, not \"%s\"", GATEWAY_NAME_MAX, name);
    return 0;
}

static int check_otlp(const char *option, const char *text, struct err *err)
{
    struct net_addr addr;
    char path[256];
    struct err inner = ERR_INIT;
    if (*text && trace_export_parse(text, &addr, path, &inner) < 0)
        return err_field(err, ERR_INVALID, option, "%s: %s", option, inner.msg);
    return 0;
}

static int check_readable(const char *option, const char *path, struct err *err)
{
    if (*path && access(path, R_OK) < 0)
        return err_field(err, ERR_INVALID, option, "%s: cannot read %s", option, path);
    return 0;
}

int options_load(const struct command_line *cl, struct arena *a, struct options *ret, struct err *err)
{
    struct options o = {0};
    int rc = conf_load(schema, ARRAY_LEN(schema), cl->config_file, cl->flags, cl->flag_count, a, &o, err);
    if (rc < 0)
        return rc;
    bool has_tls = *o.gateway_tls_cert != 0;
    if (has_tls != (*o.gateway_tls_key != 0))
        return err_field(err, ERR_INVALID, "gateway-tls-key",
                         "gateway-tls-cert and gateway-tls-key must be given together");
    if (check_data(o.data, err) < 0 || check_gateway_name(o.gateway_name, err) < 0 || check_listen("api-listen", o.api_listen, NULL, err) < 0 ||
        check_listen("gateway-listen", o.gateway_listen, has_tls ? NULL : "; for TLS set gateway-tls-cert and gateway-tls-key", err) < 0 ||
        check_listen("metrics-listen", o.metrics_listen, "", err) < 0 ||
        check_listen("metrics-gateway-listen", o.metrics_gateway_listen, "", err) < 0 ||
        check_reach("engine-remote-allow", o.engine_remote_allow, err) < 0 ||
        check_reach("gateway-trusted-proxies", o.gateway_trusted_proxies, err) < 0 ||
        check_issuers("kubernetes-issuers", o.kubernetes_issuers, err) < 0 ||
        check_otlp("tracing-otlp-endpoint", o.tracing_otlp_endpoint, err) < 0 ||
        check_root_key("secrets-root-key", o.secrets_root_key, err) < 0 ||
        check_root_key("secrets-old-root-key", o.secrets_old_root_key, err) < 0 ||
        check_readable("gateway-tls-cert", o.gateway_tls_cert, err) < 0 ||
        check_readable("gateway-tls-key", o.gateway_tls_key, err) < 0 ||
        check_readable("api-token-file", o.api_token_file, err) < 0 ||
        check_readable("manifests", o.manifests, err) < 0 || check_authentication(o.authentication_config, err) < 0)
        return ERR_INVALID;
    *ret = o;
    return 0;
}

static size_t size_of(enum conf_type type)
{
    return type == CONF_STR || type == CONF_PATH ? sizeof(char *) : type == CONF_BOOL ? sizeof(bool) : sizeof(int64_t);
}

static bool same_value(const struct conf_option *s, const struct options *a, const struct options *b)
{
    const char *in_a = (const char *)a + s->offset, *in_b = (const char *)b + s->offset;
    if (s->type == CONF_STR || s->type == CONF_PATH)
        return !strcmp(*(char *const *)(const void *)in_a, *(char *const *)(const void *)in_b);
    return !memcmp(in_a, in_b, size_of(s->type));
}

int options_reload(const struct command_line *cl, struct options *o, struct arena **held, struct sbuf *restart, struct err *err)
{
    struct options fresh;
    struct arena *a = arena_new(1024 * 1024);
    int rc = options_load(cl, a, &fresh, err);
    if (rc < 0) {
        arena_free(a);
        return rc;
    }
    for (size_t i = 0; i < ARRAY_LEN(schema); i++) {
        const struct conf_option *s = &schema[i];
        if (s->reloadable)
            memcpy((char *)o + s->offset, (const char *)&fresh + s->offset, size_of(s->type));
        else if (!same_value(s, o, &fresh))
            sbuf_addf(restart, "%s%s%s%s", restart->len ? ", " : "", s->section, *s->section ? "." : "", s->name);
    }
    arena_free(*held);
    *held = a;
    return 0;
}

int options_reload_logged(const struct command_line *cl, struct options *o, struct arena **held)
{
    CLEANUP(sbuf_deinit) struct sbuf restart = {0};
    struct err err = ERR_INIT;
    sbuf_init(&restart, 4096);
    int rc = options_reload(cl, o, held, &restart, &err);
    if (rc < 0) {
        log_error("the configuration is refused; everything stays as it was", KVE(&err));
        return rc;
    }
    log_set((enum log_level)o->log_level, (enum log_format)o->log_format);
    log_info("configuration reloaded");
    if (restart.len)
        log_warn("changed options need a restart to take effect", KVS("options", sbuf_str(&restart)));
    return 0;
}

char *options_path(const struct options *o, struct arena *a, const char *sub)
{
    return arena_printf(a, "%s/%s", o->data, sub);
}
