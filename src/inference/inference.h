/* The inference product: controllers for Model, ModelEndpoint and ModelReplica.
 *
 * Model: verifies files against their digests (a file that differs is never served). A project's own files lie in models/PROJECT/ of the data directory: nobody
 * else's Model may name them, and one that differs is put aside as NAME.rejected-DIGEST8. What lies in models/ itself and in the operator's model-dirs is for all projects, and is
 * never moved. Nothing else is ever looked at; where symbolic links lead counts as well as how a path is written. ModelEndpoint: makes ModelReplicas NAME-0 … NAME-(n-1), sums up their
 * conditions. ModelReplica: model verified → workload in the runtime → probe → Ready; liveness by token progress; hung engines are restarted.
 */
#ifndef SEKI_INFERENCE_INFERENCE_H
#define SEKI_INFERENCE_INFERENCE_H

#include "controller/controller.h"
#include "engine/engine.h"
#include "runtime/runtime.h"

struct inference;

struct inference_options {
    struct engine_paths paths;
    uint64_t probe_interval_ms; /* default 2 s; 200 ms while loading */
    uint64_t stall_ms;          /* running requests without a token for this long: hung; default 60 s */
    uint64_t idle_ms;           /* an engine without requests makes one token so often, to show that it can; default 60 s */
    uint64_t drain_ms;          /* requests of a replica that goes may go on for so long; default 2 min */
    int64_t memory_reserve_bytes; /* kept free when engines are replaced by others beside them */
    uint64_t counters_ms;       /* how often an engine's own counters are shown in its replica's status; default 1 h */
    const char *model_dirs;     /* in which files of Models may lie, comma-separated; NULL or empty: nowhere but in data_dir/models */
    const char *data_dir;       /* what is secret lies there; NULL: none */
};

/* Adds its controllers to m; the runtime stays the caller's. */
struct inference *inference_new(struct manager *m, struct runtime *rt, const struct inference_options *o);
/* Between runtime_local_new() and manager_start(): statuses that say Ready of an engine that was not adopted are corrected, so that after a start or a reboot nobody is told
 * what was true before. Blocks. */
int inference_settle(struct inference *i, struct client *c, struct err *err) NODISCARD;
/* For runtime_local_options.changed: maps a workload's name back to its replica and enqueues it. */
void inference_workload_changed(struct inference *i, const char *workload);
/* For kind_services.load: what a gateway tells of its load. Any thread. */
int inference_load(struct inference *i, const json_t *told, json_t **ret, struct err *err) NODISCARD;
void inference_free(struct inference *i);

#endif
