/* What the parts of the snapshot share: snapshot.c builds it from endpoints and routes and answers questions, snapshot_keys.c reads keys and all that limits them, snapshot_replicas.c
 * where engines are and how they are spoken to, snapshot_file.c keeps the objects for the next start. Threads: the builder's, one at a time; a snapshot that is built is only read.
 */
#ifndef SEKI_GATEWAY_SNAPSHOT_INTERNAL_H
#define SEKI_GATEWAY_SNAPSHOT_INTERNAL_H

#include "base/vec.h"
#include "gateway/snapshot.h"

struct snapshot {
    atomic_uint refs;
    struct arena *arena;
    struct border *border;
    struct map *keys;      /* hash → snap_key */
    struct map *own;       /* "PROJECT/SERVED" → snap_endpoint */
    VEC(struct snap_endpoint *) endpoints; /* oldest first */
    VEC(struct target *) targets;
    VEC(struct limit_counter *) counters;
    VEC(struct budget_counter *) budgets;
    VEC(struct dispatch *) dispatches;
    VEC(struct body_room *) bodies;
};

/* What outlives snapshots. */
struct snapshot_memory {
    struct target_set *targets;
    struct limit_set *limits;
    struct budget_set *budgets;
    struct dispatch_set *dispatches;
    struct body_rooms *bodies;
};

struct field_list;

/* A copy of a list of texts, ended by NULL, in a. */
const char *const *snapshot_copy_list(struct arena *a, const struct field_list *l);
/* Who may see an endpoint or a route, from its spec; visibility NULL: its project. */
void snapshot_set_visibility(struct snap_endpoint *e, struct arena *a, const char *visibility, const struct field_list *tenants);

/* Limits and budgets of projects and tenants, by "project NAME" and "tenant NAME"; the caller's, map_free(). */
struct map *snapshot_read_allowances(const struct snapshot_source *src);
/* One more ApiKey. tenants: what is known by now of which project is whose. */
void snapshot_add_key(struct snapshot *s, struct snapshot_memory *memory, struct map *allowances, const struct snapshot_source *src, struct map *tenants, const json_t *obj);

/* A ModelReplica that serves e; one that cannot be reached, or whose key cannot be read, is left out. */
void snapshot_add_replica(struct snapshot *s, const struct engine_paths *engines, struct snapshot_memory *memory, struct snap_endpoint *e, const json_t *obj);
/* One that does not serve: all that matters is where it stands. */
void snapshot_add_absent(struct snapshot *s, const struct engine_paths *engines, struct snap_endpoint *e, const json_t *obj);

#endif
