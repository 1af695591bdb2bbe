/* What may be called by whom: an immutable picture of keys, endpoints and replicas, shared by reference count.
 *
 * Built from documents (informers give them, a file keeps them), read by all loops without locks. What must not be forgotten when a new one comes outlives snapshots, in a
 * `struct snapshot_memory`: targets, the places that requests are sent to, with the number of requests in flight and how they do; the queues of
 * endpoints; and the counters of limits and of bodies. Threads: build on one, read on any.
 */
#ifndef SEKI_GATEWAY_SNAPSHOT_H
#define SEKI_GATEWAY_SNAPSHOT_H

#include <stdatomic.h>

#include "base/map.h"
#include "engine/engine.h"
#include "gateway/body_room.h"
#include "gateway/border.h"
#include "gateway/budget.h"
#include "gateway/limits.h"
#include "gateway/prices.h"
#include "gateway/target.h"
#include "json/json.h"
#include "kinds/slo.h"
#include "net/addr.h"

#define SNAPSHOT_REPLICAS_MAX 64 /* of one endpoint that are looked at: a bit each, in a wish (pick.h) and what bars them (border.h) */
_Static_assert(SNAPSHOT_REPLICAS_MAX <= 64, "sets of replicas are bits of a uint64_t");

struct snap_replica {
    const char *name, *full_name; /* that, and "PROJECT/NAME" */
    struct target *target;
    struct net_addr addr;
    bool tls;
    const char *host;         /* Host header */
    const char *base_path;    /* "/v1" */
    const char *engine_model; /* the name to send, or NULL: as the client wrote it */
    const char *token;        /* bearer token of the engine, or NULL */
    const struct residency_site *site; /* where it stands; NULL: not known */
    int slots;                /* requests that it serves at the same time; 0: it does not say */
    struct slots *pins;       /* its slots are chosen here (slots.h); NULL: they are not. The target's */
    bool can_continue;        /* a text that another engine began: continuation.h */
    const char *continue_members; /* engine_ops' */
    const struct engine_tokenizer *tokenizer; /* likewise; NULL: it has none */
    const char *salt_member;  /* of a body: takes the tenant's salt; NULL: it knows none */
    const char *const *adapters; /* that it was started with, in the order by which its engine numbers them; ends in NULL */
};

struct snap_backend {
    const struct snap_endpoint *endpoint;
    uint64_t weight; /* above 0 */
};

struct snap_endpoint {
    const char *project, *name, *served;
    enum engine_task task;
    int64_t created_ms;
    enum { VISIBLE_PROJECT, VISIBLE_TENANTS, VISIBLE_EVERYONE } visibility;
    const char *const *tenants; /* ends in NULL */
    struct snap_replica *replicas;
    size_t replica_count;
    const struct residency_site **absent; /* sites of replicas that do not serve now; entries may be NULL */
    size_t absent_count;
    bool scaled;             /* spec.scaling: control starts and stops replicas by what is asked */
    bool salted, pinned;     /* what its engines are told of caches, as for snap_replica; also where none is there yet */
    bool usage_by_answer;    /* engine_ops' */
    bool waits_for_replicas; /* requests may wait for the first one: there will be one, as far as is known */
    int64_t load_ms;         /* how long starting one takes; 0: not known */
    int64_t start_timeout_s;
    const char *not_ready; /* why nothing serves, for people */
    bool is_route, sticky; /* is_route: another name for others: model_route.h */
    bool is_adapter;       /* a route that is a LoRA adapter of its backend, by its name */
    struct snap_backend *backends;
    size_t backend_count;
    struct dispatch *dispatch;
    struct snap_prices prices;
    struct slo slo;
};

struct snap_key {
    const char *name, *project, *tenant;
    const char *hash; /* of the secret, by which it is found */
    const char *const *endpoints; /* "NAME" of the key's project, "PROJECT/NAME"; ends in NULL. NULL: all that the project sees */
    int64_t expires_ms;           /* INT64_MAX: never */
    bool disabled, suspended; /* suspended: its tenant is, or is being closed */
    struct limit limits[LIMIT_SCOPES];
    struct body_room *bodies; /* its tenant's */
    struct budget *budgets; /* all that hold for it */
    size_t budget_count;
};

struct snapshot;

/* Documents of the kinds, as the API gives them. */
struct snapshot_source {
    json_t *keys, *endpoints, *replicas, *namespaces, *tenants, *limits, *routes, *sites, *policies, *prices;
};
/* Targets, queues and counters by name, kept from one build to the next. */
struct snapshot_memory;
struct snapshot_memory *snapshot_memory_new(void);
void snapshot_memory_free(struct snapshot_memory *m);
struct budget_set *snapshot_memory_budgets(struct snapshot_memory *m);
struct limit_set *snapshot_memory_limits(struct snapshot_memory *m);

/* Where a replica's engine is, and what its key is, follows from its spec, its uid and files that only the system writes (engine/engine.h); its status says no more than that it
 * serves, and when it names another address it is left out: its controller is behind, or it was not its controller who wrote that. */
struct snapshot *snapshot_build(const struct snapshot_source *s, const struct engine_paths *engines, struct snapshot_memory *memory);
struct snapshot *snapshot_ref(struct snapshot *s);
void snapshot_unref(struct snapshot *s);

/* Owner-only file with the documents: an atomic replacement, and what it gives back. Loading refuses a file that others may read or write, that is cut, of another version or
 * of another shape, with an error that names what; what the documents then say wrongly is left out by snapshot_build(). */
int snapshot_save(const char *path, const struct snapshot_source *s, struct err *err) NODISCARD;
int snapshot_load(const char *path, struct snapshot_source *ret, struct err *err) NODISCARD;
void snapshot_source_deinit(struct snapshot_source *s);

const struct border *snapshot_border(const struct snapshot *s);
const struct snap_key *snapshot_key(const struct snapshot *s, const char *hash_hex);
/* The endpoint that a key means by a served name; its own project's first, a route before an endpoint, then the oldest one shared with it. NULL: none that it may call. */
const struct snap_endpoint *snapshot_find(const struct snapshot *s, const struct snap_key *k, const char *served);
/* The number of an adapter among those of a replica, from 1 on; 0: it has none of that name. */
int snapshot_adapter(const struct snap_replica *r, const char *name);
/* All that a key may call, each name once. */
void snapshot_each(const struct snapshot *s, const struct snap_key *k, void (*fn)(void *arg, const struct snap_endpoint *e), void *arg);
/* Endpoints whose number of replicas follows what is asked of them. */
void snapshot_each_scaled(const struct snapshot *s, void (*fn)(void *arg, const struct snap_endpoint *e), void *arg);
/* All of them, routes too; and all keys. */
void snapshot_each_endpoint(const struct snapshot *s, void (*fn)(void *arg, const struct snap_endpoint *e), void *arg);
void snapshot_each_key(const struct snapshot *s, void (*fn)(void *arg, const struct snap_key *k), void *arg);
/* Once s is what everybody finds: targets that it does not have get nothing any more. The builder's thread. */
void snapshot_close_targets(const struct snapshot *s, struct snapshot_memory *m);
/* See target_tell(). Any thread. */
void snapshot_tell_targets(struct snapshot_memory *m, const json_t *engines, uint64_t now_ms);
/* See target_open(). Any thread. */
bool snapshot_target_open(struct snapshot_memory *m, const char *name, int *ret_running);
bool snapshot_has_target(const struct snapshot *s, const char *name);
size_t snapshot_key_count(const struct snapshot *s);

#endif
