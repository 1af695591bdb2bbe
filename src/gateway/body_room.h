/* Room for the bodies of requests: how many bytes of them are held at once, for each tenant and in
 * all. Answers that are held whole take of the same room, as they grow: engines may be a tenant's
 * own, and his client need not read.
 *
 * A request takes room at its head, for the length that it declares, before a byte of its body is
 * read; where it declares none, as the body grows. It has the room until its body is freed. So what
 * one tenant can make the gateway hold is bounded, however many connections and keys he has and
 * however slowly he sends. Bodies of BODY_ROOM_FREE bytes and less take none: they cost no more
 * than a request does anyway. Counters outlive snapshots, as those of limits do. Threads: any,
 * without locks; body_rooms has one, which requests never take.
 */
#ifndef SEKI_GATEWAY_BODY_ROOM_H
#define SEKI_GATEWAY_BODY_ROOM_H

#include "base/str.h"

#define BODY_ROOM_FREE 4096

struct body_room; /* a tenant's */

/* By tenant, kept from one snapshot to the next. */
struct body_rooms;
struct body_rooms *body_rooms_new(void);
void body_rooms_free(struct body_rooms *s);
struct body_room *body_rooms_take(struct body_rooms *s, const char *tenant); /* a new reference */
void body_rooms_prune(struct body_rooms *s); /* forgets those that nobody refers to */
void body_room_unref(struct body_room *r);

struct body_room_max {
    size_t tenant_bytes, all_bytes;
};

/* What a request has taken; room must stay alive until body_hold_end(). */
struct body_hold {
    struct body_room *room;
    size_t bytes;
};
enum body_room_result { BODY_ROOM_HELD, BODY_ROOM_TENANT_FULL, BODY_ROOM_FULL };
/* From now on it has room for so many bytes; not HELD: it has what it had. */
enum body_room_result body_hold_grow(struct body_hold *h, struct body_room *r, size_t bytes,
                                     const struct body_room_max *max);
/* The body is no longer than that. */
void body_hold_shrink(struct body_hold *h, size_t bytes);
void body_hold_end(struct body_hold *h); /* nothing happens when nothing is held */

double body_room_bytes(void *arg); /* of all, for the gauge */

#endif
