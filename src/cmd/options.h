/* The options of sekid: one schema table (options.c) for seki.conf, flags, `--help` and the reference. */
#ifndef SEKI_CMD_OPTIONS_H
#define SEKI_CMD_OPTIONS_H

#include "base/config.h"
#include "net/addr.h"

struct options {
    /* [] */
    char *data;       /* data directory */
    char *manifests;  /* directory applied at start, or empty */
    char *site;
    int64_t log_level, log_format;
    /* [api] */
    char *api_listen, *api_token_file, *api_names;
    /* [authentication] */
    char *authentication_config;
    int64_t authentication_skew_ms, authentication_refresh_ms;
    /* [gateway] */
    char *gateway_name, *gateway_listen, *gateway_trusted_proxies, *gateway_tls_cert, *gateway_tls_key;
    int64_t gateway_threads, gateway_max_connections, gateway_address_share, gateway_max_body, gateway_bodies_bytes, gateway_tenant_bodies_bytes, gateway_head_ms, gateway_body_ms, gateway_drain_ms, gateway_first_byte_ms, gateway_idle_ms, gateway_keepalive_ms, gateway_queue_max, gateway_routing, gateway_queue_ms;
    bool gateway_hedging;
    int64_t gateway_decisions, gateway_decisions_bytes;
    int64_t gateway_hold_max, gateway_hold_bytes, gateway_hold_ms;
    /* [metrics] */
    char *metrics_listen, *metrics_gateway_listen;
    /* [tracing] */
    char *tracing_otlp_endpoint;
    int64_t tracing_sample;
    /* [store] */
    int64_t store_retain_ms, store_rollback_keep_ms;
    /* [limits] */
    int64_t limits_objects, limits_lease_ms, usage_reconcile_ms;
    /* [secrets] */
    char *secrets_root_key, *secrets_old_root_key;
    /* [engine] */
    char *engine_remote_allow;
    char *engine_llama_server, *engine_vllm, *engine_venv, *engine_launcher, *engine_fake;
    int64_t engine_probe_ms, engine_stall_ms, engine_idle_ms, engine_drain_ms, engine_memory_reserve;
    /* [model] */
    char *model_dirs;
    char *kubernetes_dir, *kubernetes_addresses, *kubernetes_balancer_addresses, *kubernetes_issuers;
    int64_t kubernetes_warm_clusters;
    int64_t kubernetes_probe_ms, kubernetes_certificate_life_ms, kubernetes_key_overlap_ms, kubernetes_drill_ms, kubernetes_node_storage, kubernetes_node_disks;
};

/* What main() read from the command line besides options. */
struct command_line {
    const char *config_file;
    const char *role; /* "all" | "control" | "gateway" */
    bool check_config, print_reference, stop_engines, supervise;
    struct conf_flag flags[64];
    size_t flag_count;
};

const struct conf_option *options_schema(size_t *ret_len);
/* Loads defaults, file and flags, then checks what the table cannot say (plain text only on loopback …). */
int options_load(const struct command_line *cl, struct arena *a, struct options *ret, struct err *err) NODISCARD;

/* Loads anew for SIGHUP. Options that take effect on reload are changed in *o; of the others the names of those that differ are written to restart, separated by
 * ", ". Changed texts live in *held, which this replaces (NULL at first; arena_free at the end). On failure nothing changes. */
int options_reload(const struct command_line *cl, struct options *o, struct arena **held, struct sbuf *restart, struct err *err) NODISCARD;
/* The same for a role's SIGHUP: logs what came of it and sets the log's level and format. */
int options_reload_logged(const struct command_line *cl, struct options *o, struct arena **held) NODISCARD;

/* DATA/sub/…, in the arena. */
char *options_path(const struct options *o, struct arena *a, const char *sub);

#endif
