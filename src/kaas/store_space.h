/* Room in a cluster's etcd. Its file grows and never shrinks by itself: what is deleted leaves holes, and at --quota-backend-bytes etcd raises alarm NOSPACE, takes deletions alone, and stays so
 * until somebody has made room and taken the alarm back. Both are done here, for each cluster that is ready.
 *
 * Source of the messages: etcd's JSON gateway, /v3/maintenance. 64-bit numbers are text there. Threads: the cluster's pass. Blocks on etcd, up to the client's deadline where the file is rewritten.
 */
#ifndef SEKI_KAAS_STORE_SPACE_H
#define SEKI_KAAS_STORE_SPACE_H

#include "kaas/internal.h"

/* Speaks JSON with the etcd at one of the cluster's addresses. */
int store_client(const struct site *s, const char *address, struct client **ret, struct err *err) NODISCARD;
/* Drops all older states: who watches from one of them lists again. */
int store_compact_all(struct client *etcd, struct err *err) NODISCARD;
/* Writes the file anew without holes; nothing is taken meanwhile. */
int store_defragment(struct client *etcd, struct err *err) NODISCARD;

#define SPACE_CONDITION "StoreSpace"
#define SPACE_LOOK_PROBES 12 /* looked at every so many intervals of probes */

struct store_space {
    int64_t bytes, used, limit; /* of the file, of it what is no hole, and the quota; limit 0: etcd does not say it */
    bool no_space;              /* this member's alarm */
    char member[24];            /* its number */
};
/* Pure: what two answers of a member say. ERR_PROTOCOL. */
int space_read(const json_t *status, const json_t *alarms, struct store_space *ret, struct err *err) NODISCARD;

enum space_care {
    SPACE_FINE,
    SPACE_DEFRAGMENT, /* most of the file are holes: it is written anew without them */
    SPACE_MAKE_ROOM,  /* the alarm: older states are dropped, too, and it is taken back when there is room */
};
/* Pure. */
enum space_care space_care(const struct store_space *s);
/* Whether a file of so many bytes lets the alarm be taken back: else the next write would raise it again. */
bool space_has_room(const struct store_space *s, int64_t bytes);
/* Pure: the condition's reason; Enough, NearlyFull (both True), Full (False). */
const char *space_reason(const struct store_space *s);

/* Of a cluster that is ready, when a look is due. Condition StoreSpace and an Event say what is so; nothing of Ready changes. */
void space_look(struct kaas *k, json_t *obj, const struct site *s, uint64_t *look_ms);

#endif
