/* How many connections each address has, of those that several servers have together, so that one cannot take them all from others.
 *
 * An address is an IPv4 one, or the /64 of an IPv6 one, which one customer has. Those of trusted networks, proxies of the operator's own behind which there are many, and unix sockets have no share.
 * All this is asked when a connection comes and goes, and changes nothing while there is room: see http_server.c. Threads: any.
 */
#ifndef SEKI_NET_CONN_SHARES_H
#define SEKI_NET_CONN_SHARES_H

#include <pthread.h>

#include "base/map.h"
#include "net/reach.h"

struct conn_share {
    uint8_t key[16];
    size_t key_len;
    size_t count; /* connections that hold it */
    size_t idle;  /* scratch of whoever has the lock */
};

struct conn_shares {
    pthread_mutex_t lock; /* guards all below, and what shares hold */
    struct map *by_address;
    const struct reach *trusted; /* the caller's */
    size_t most;                 /* connections of one address, once there is little room */
};

void conn_shares_init(struct conn_shares *s, size_t most, const struct reach *trusted);
void conn_shares_deinit(struct conn_shares *s);
/* One more connection of this address. False: it is not to have one, as there is little room and it has its share. *ret NULL: it needs none. */
bool conn_shares_take(struct conn_shares *s, const struct net_addr *peer, bool crowded, struct conn_share **ret) NODISCARD;
void conn_shares_give(struct conn_shares *s, struct conn_share *share); /* NULL is fine */

#endif
