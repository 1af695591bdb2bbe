/* The warm pool (option kubernetes-warm-clusters): control planes that are made before anybody asks for them, and given to Clusters whose command lines would be the same. The whole is in docs/internals/kaas-warm.md.
 *
 * A place of the pool is clusters/UID with a uid that no object has. The creation of a Cluster that it fits gives the object that uid: so the commit decides whose it is, and nothing is renamed. A place is used once.
 * Threads: one of the pool's own makes, looks after and removes places; it alone adds and frees them, and works on them without the lock. Under the lock others change a place's state: from READY to
 * OFFERED (whoever creates a Cluster, on the API's thread), and to CLAIMED (the passes of cluster.c, of that Cluster). While the pool's thread is at work on a place it says so (busy), and those passes wait: one
 * that is OFFERED or CLAIMED it does not begin to work on.
 */
#ifndef SEKI_KAAS_WARM_H
#define SEKI_KAAS_WARM_H

#include "kaas/node.h"

enum warm_state {
    WARM_MAKING,  /* or mended, or taken over from an earlier sekid */
    WARM_READY,
    WARM_OFFERED, /* its uid was given to a Cluster that is being committed */
    WARM_CLAIMED, /* it is a cluster's: to be forgotten */
    WARM_ENDING,
};

struct warm_place {
    struct arena *arena; /* of the site's texts */
    struct site site;    /* of nobody: ns and name are "" */
    enum warm_state state;
    bool busy;           /* the pool's thread is at work on it */
    json_t *key;         /* for secrets, as in a ClusterKey; in memory only. NULL: not yet */
    bool used;           /* its API server has sealed with that key */
    bool found;          /* it lay there at our start, with a key that nobody knows any more */
    bool was_ready, files, bound;
    uint64_t since_ms;   /* when the state began */
    uint64_t looked_ms, files_ms, weighed_ms;
    uint64_t stuck_ms;   /* when it was last said that it cannot be removed */
    int64_t memory_bytes; /* of its processes when they were weighed last */
};

/* ---- warm.c ---- */

struct warm;
/* Its thread begins, and waits for the list. */
int warm_new(struct kaas *k, struct warm **ret, struct err *err) NODISCARD;
void warm_stop(struct warm *w); /* joins the thread; places stay as they are; idempotent */
void warm_free(struct warm *w);
/* The list of Clusters is complete. */
void warm_listed(struct warm *w);
/* kaas_claim() */
const char *warm_offer(struct warm *w, struct arena *a, const json_t *cluster);

/* A part of the passes of cluster.c, while a Cluster that has claimed a place is made: the place becomes its, if that has not been yet. *ret_now: by this call. An error says what is waited for. Where
 * there is no such place, 0: it is made like any other. */
int warm_claim(struct kaas *k, struct reconcile *r, const struct cluster *c, const struct site *s, bool *ret_now, struct err *err) NODISCARD;

/* The place of that uid, if it is known here, is a cluster's, or goes with it. False: the pool's thread is at work on it still. */
bool warm_let_go(struct warm *w, const char *uid);

/* Whether a Cluster may have the place, which was made for `have`: its components would have the same command lines, in the same network of nodes. Pure. */
bool warm_fits(const struct cluster *want, const struct cluster *have, const struct site *place, const char *programs_dir, struct arena *a);
/* Whether Clusters (an array) are being made: any that a refill would slow down; and any that has claimed nothing, for whom what is begun is given up. What is not ready for long waits for something else. Pure. */
void warm_busy(const json_t *clusters, int64_t now_ms, bool *ret_any, bool *ret_from_nothing);

/* ---- warm_place.c: one place; on the pool's thread ---- */

/* A new one, or one that was found with that uid. Sets all of its site but the address. */
struct warm_place *warm_place_new(struct kaas *k, const struct cluster *spec, const char *uid, struct err *err);
void warm_place_free(struct warm_place *p);
/* One step of its making; 0: it is as a cluster that is ready. An error says what is waited for; ERR_STALE: it will never be. */
int warm_place_step(struct kaas *k, const struct cluster *spec, struct warm_place *p, struct err *err) NODISCARD;
/* Of one that is ready: 0: it is so still. ERR_STALE: it is not what would be made today; others: to be mended. */
int warm_place_look(struct kaas *k, const struct cluster *spec, struct warm_place *p, struct err *err) NODISCARD;
/* One step of its end; true: nothing is left. */
bool warm_place_end(struct kaas *k, struct warm_place *p);
/* What a kill has left of an end: removed. */
void warm_remove_rests(const char *root, const char *name);
#define WARM_RESTS ".warm-" /* a directory that is being removed: it is nobody's any more */
#define ERR_STALE ERR_CORRUPT

#endif
