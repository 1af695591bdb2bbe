/* The inference kinds as C structs: Model, ModelEndpoint, ModelReplica, ModelRoute, APIKey, UsageReport. Their tables are in model.c, model_endpoint.c,
 * model_replica.c, model_route.c, api_key.c, usage_report.c; member names in JSON are the camelCase of these (size_bytes → sizeBytes).
 */
#ifndef SEKI_KINDS_INFERENCE_H
#define SEKI_KINDS_INFERENCE_H

#include "kinds/kind.h"
#include "kinds/rate_limits.h"

extern const struct kind kind_model, kind_model_endpoint, kind_model_replica, kind_model_route, kind_api_key, kind_usage_report, kind_gateway_load, kind_price, kind_gateway_lease;
extern const struct kind kind_slo_report;

#define SERVED_NAME_MAX 255 /* bytes of a name under which a model is asked for */

/* Model: a manifest of files with digests. Plural "models", no short name. Status: conditions[Verified], observedGeneration, totalBytes. */
struct model_file {
    const char *name;   /* path below the source directory, no "..": "gemma.gguf" */
    const char *digest; /* "sha256:" + 64 hex; required */
    int64_t size_bytes; /* required, >= 1 */
};
struct model {
    struct {
        const char *source;          /* directory as "file:///abs/path"; required; immutable */
        const char *format;          /* GGUF | Safetensors */
        int64_t context_length;      /* tokens the model was trained for */
        struct field_list files;     /* struct model_file, map by name; 1..1000; immutable */
        struct field_list capabilities; /* set of: Completion | Chat | Embedding | Rerank */
        bool instruction_tuned;      /* instructionTuned */
        struct {
            const char *id;          /* SPDX id or the licence's own name; required */
            const char *digest;      /* sha256 of the licence text, optional */
            const char *commercial_use; /* commercialUse: Allowed | AllowedWithTerms | Forbidden | Unknown (default) */
            const char *url;
        } license;                   /* required */
    } spec;
};

/* How an engine runs; shared by endpoint and replica ("spec.engine"). */
struct engine_spec {
    const char *driver;        /* llamacpp (default) | openai | vllm | sglang | fake */
    int64_t context_length;    /* tokens per slot; default 2048, 64..1048576 */
    int64_t parallel;          /* slots; default 4, 1..256 */
    bool embeddings;           /* serve embeddings instead of completions */
    bool rerank;               /* score documents by a query instead */
    int64_t threads;           /* 0 (default): the engine decides */
    const char *url;           /* openai: base URL of the remote server, "https://host:port[/v1]"; "http://…" and "unix:/path" where the operator allows it */
    const char *remote_model;  /* remoteModel; openai: model name there, default the served name */
    int64_t max_concurrent_requests; /* maxConcurrentRequests; openai: what the server is sent at a time; 0 (default): any number */
    const char *secret;        /* openai: name of a Secret in the namespace with key "apiKey" */
    struct field_map options;  /* fake: behaviour, e.g. {"tokensPerSecond": "100"} */
};

enum engine_task { TASK_TEXT, TASK_EMBEDDINGS, TASK_RERANK };
static inline enum engine_task engine_task_of(const struct engine_spec *e)
{
    return e->rerank ? TASK_RERANK : e->embeddings ? TASK_EMBEDDINGS : TASK_TEXT;
}

/* A LoRA adapter that an engine has loaded besides its model. */
struct model_adapter {
    const char *name;  /* the name in OpenAI requests */
    const char *model; /* a Model of the same namespace: its first file, or for vLLM the directory of that */
};

/* Sets replicas by what is asked of an endpoint ("spec.scaling"); see inference/autoscale.h. */
struct endpoint_scaling {
    int64_t min_replicas; /* minReplicas: default 1; 0: none while nobody asks */
    int64_t max_replicas; /* maxReplicas: required, 1..1000 */
    int64_t idle_seconds; /* idleSeconds: default 300; until the last one stops, with minReplicas 0 */
    int64_t target_queue_seconds; /* targetQueueSeconds: default 5 */
    int64_t scale_down_seconds;   /* scaleDownSeconds: default 300 */
};

/* ModelEndpoint (mep). Conditions: ModelVerified, EngineStarted, Ready. has_status, has_scale. */
struct model_endpoint {
    struct {
        const char *model;         /* a Model of the same namespace; required unless engine.driver is openai or fake */
        const char *served_name;   /* servedName: the OpenAI model name; default: metadata.name (filled by the gateway and controllers, not stored) */
        int64_t replicas;          /* default 1, 0..1000 */
        struct field_list adapters; /* struct model_adapter, map by name; at most 16 */
        const struct endpoint_scaling *scaling; /* NULL: replicas are whatever somebody writes */
        struct engine_spec engine;
        struct field_list servers; /* of const char *, map by url; driver openai: engine.url of replica N is that of servers[N % count] */
        const char *visibility;    /* Project (default) | Tenants | Everyone */
        struct field_list tenants; /* set of tenant names, for Tenants */
        int64_t start_timeout_seconds; /* startTimeoutSeconds: default 300 */
    } spec;
    struct {
        int64_t replicas, ready_replicas; /* readyReplicas */
        int64_t observed_generation;
        const char *selector;
        /* conditions */
    } status;
};

/* ModelReplica (mr): one running engine. Named ENDPOINT-ORDINAL, owned by the endpoint. Spec is written by the endpoint's controller. */
struct model_replica {
    struct {
        const char *endpoint;    /* immutable */
        int64_t ordinal;         /* immutable */
        const char *model;       /* may be empty */
        const char *served_name; /* servedName, resolved */
        struct field_list adapters;
        const char *const *adapter_files; /* of them, in order; no field: whoever plans an engine sets it */
        struct engine_spec engine;
        int64_t start_timeout_seconds;
    } spec;
    struct {
        const char *address;      /* where the gateway sends requests: "unix:/…" | "http://127.0.0.1:1234" | "https://…"; set when started */
        const char *base_path;    /* basePath: prefix before "/chat/completions": "/v1" */
        const char *engine_model; /* engineModel: the name to send in "model", when it differs from the served name; may be empty */
        int64_t pid;
        int64_t restarts;
        int64_t slots;
        /* conditions: ModelVerified, EngineStarted, Ready */
    } status;
};

/* ModelRoute: another name for endpoints of its namespace. Status: conditions[Ready], observedGeneration. */
struct model_backend {
    const char *endpoint;
    int64_t weight; /* default 1; 0: gets nothing */
};
struct model_route {
    struct {
        const char *served_name;     /* servedName; default: metadata.name */
        struct field_list backends;  /* struct model_backend, map by endpoint */
        bool sticky;
        const char *visibility;      /* as of an endpoint */
        struct field_list tenants;
    } spec;
};

/* APIKey. The secret is in the answer to its creation, as status.key, once; stored are status.hash (HMAC, hex) and status.prefix (the first 12 characters). */
struct api_key {
    struct {
        const char *display_name; /* displayName */
        const char *expires_at;   /* expiresAt: RFC 3339, or absent: never */
        struct field_list endpoints; /* set of names of ModelEndpoints and ModelRoutes it may call; empty: all that the project sees */
        bool disabled;
        struct rate_limits limits;
    } spec;
    struct {
        const char *hash;
        const char *prefix;
    } status;
};

/* UsageReport: what a project used on one UTC day, derived from the usage ledger. Named "day-2026-11-24". Read-only for tenants (only status). */
struct usage_item {
    const char *key;      /* APIKey */
    const char *endpoint;
    const char *model;    /* served name */
    int64_t requests, failed_requests, prompt_tokens, cached_tokens, completion_tokens; /* camelCase in JSON */
    int64_t hedge_loser_tokens, replayed_tokens, unseen_tokens, inexact_attempts; /* ledger/usage.h */
};
struct usage_report {
    struct {
        const char *date; /* "2026-11-24" */
    } spec;
    struct {
        struct field_list items; /* struct usage_item, atomic */
        int64_t requests, failed_requests, prompt_tokens, cached_tokens, completion_tokens, hedge_loser_tokens, replayed_tokens, unseen_tokens, inexact_attempts;
        const char *updated_at; /* updatedAt */
    } status;
};

#endif
