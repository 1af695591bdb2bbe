/* Between the files of this folder. */
#ifndef SEKI_INFERENCE_INTERNAL_H
#define SEKI_INFERENCE_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/map.h"
#include "inference/demand.h"
#include "inference/inference.h"
#include "kinds/inference.h"

#define WORKLOAD_FINALIZER "seki.cloud/workload"
#define LABEL_ENDPOINT "seki.cloud/endpoint"
#define WORKLOAD_PREFIX "mr-"

#define CONTROLLER_MODEL "model"
#define CONTROLLER_ENDPOINT "modelendpoint"
#define CONTROLLER_REPLICA "modelreplica"
#define CONTROLLER_ROUTE "modelroute"

/* A server elsewhere that did not answer. */
struct away {
    uint64_t look_ms;   /* not before this time, monotonic; 0: at once */
    unsigned looks;     /* in vain, one after the other */
    int64_t generation; /* of the replica that they were for … */
    char secret[24];    /* … and its key's version */
};

/* What a replica's controller remembers between passes; lost at a restart and found again by probing. */
struct replica_memory {
    struct engine_liveness liveness;
    uint64_t generation;    /* of the workload that it is about */
    uint64_t begun_ms;      /* when the wait for the first answer began */
    uint64_t ended, ended_ms; /* generation of the process that was killed, and when: it may be there for a moment more */
    bool was_ready, load_counted;
    uint64_t counters_ms;   /* when its counters were last shown, monotonic; 0: not yet */
    struct engine_tokens own; /* what it did for us, which nobody is billed for */
    uint64_t leaving_ms;    /* since when it waits for its requests to end */
    struct away away;
};

/* How long until the next look after so many in vain: twice as long each time, ten seconds at most, and between half of that and all of it, so that those which lost one server do not all come back to
 * it at once. */
uint64_t away_pause_ms(unsigned looks);

struct inference {
    struct manager *manager;
    struct runtime *runtime;
    struct inference_options o;
    struct informer *models, *endpoints, *replicas, *routes, *secrets;
    pthread_mutex_t lock;
    struct map *workloads; /* name → char *: "NS/NAME" of the replica */
    struct map *memory;    /* replica uid → struct replica_memory * */
    struct map *scales;    /* endpoint uid → struct autoscale_memory * */
    struct demand *demand; /* what gateways tell */
};

/* ---- counters.c ---- */
/* Into the replica's status, at first and then so often: what its engine says it did for others so far. from_ms: wall clock, before it was asked. */
void counters_show(struct inference *i, json_t *replica, struct replica_memory *m, const struct engine_ops *ops, const struct engine_health *h, int64_t from_ms);

/* Counts endpoints and replicas by state; before the informers start. */
void census_start(struct inference *i);

/* ---- scaling.c ---- */
void scaling_start(struct inference *i);
void scaling_stop(struct inference *i);
/* Sets spec.replicas of an endpoint with spec.scaling, when another number is right, in e and in the store; r->obj is what is stored then. */
int scaling_step(struct inference *i, struct reconcile *r, struct model_endpoint *e, const json_t *replicas, struct err *err) NODISCARD;
/* The condition ScalingActive. */
void scaling_show(struct inference *i, struct reconcile *r, const struct model_endpoint *e);
void scaling_loaded(int64_t milliseconds); /* into the histogram */
/* Into the endpoint's status.load, once a start of an engine. */
void scaling_learn(json_t *endpoint, const json_t *replica, struct arena *a);
/* How gateways call a replica: "NAMESPACE ADDRESS"; NULL: they have never known it. */
const char *scaling_target(const json_t *replica, struct arena *a);
/* Not Ready for this reason: it is on its way. Else it has failed, as far as anybody can tell. */
bool reason_is_progress(const char *reason);

int model_reconcile(void *ctx, struct reconcile *r, struct err *err);
/* Each file of the Model may be read, is there and looks as it did when it was hashed with the right digest. */
bool model_files_proven(const struct inference *i, const json_t *model);
/* The path of a Model's file. */
#define MODEL_PATH_MAX 8192
void model_file_path(const char *source, const char *name, char path[MODEL_PATH_MAX]);
/* Whose a file is, for Models of the project ns: by its path as written, which is judged before anything is looked up, and by where its links lead. */
enum model_place { MODEL_FORBIDDEN, MODEL_MISSING, MODEL_SHARED, MODEL_OWN };
enum model_place model_place(const char *path, const char *ns, const char *model_dirs, const char *data_dir);
int endpoint_reconcile(void *ctx, struct reconcile *r, struct err *err);
int replica_reconcile(void *ctx, struct reconcile *r, struct err *err);
int route_reconcile(void *ctx, struct reconcile *r, struct err *err);
/* An endpoint's change is its routes' business. */
void route_on_endpoint(void *arg, json_t *prev, json_t *now);

/* Its key and the socket of an engine that was killed. */
void replica_remove_files(struct inference *i, const json_t *replica);

/* "mr-NS-NAME-UID8": a replica that is made anew under the same name is another workload. */
#define WORKLOAD_NAME_MAX 384
void replica_workload_name(const json_t *replica, char name[WORKLOAD_NAME_MAX]);

/* Writes the status when it differs from what it was before the pass. */
int save_status(struct reconcile *r, const struct kind *k, const json_t *before, struct err *err) NODISCARD;
bool set_condition(json_t *obj, const char *type, const char *status, const char *reason, const char *fmt, ...) PRINTF(5, 6);

#endif
