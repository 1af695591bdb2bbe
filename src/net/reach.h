/* What may be reached for someone else: whose addresses a tenant may have us connect to.
 *
 * Without more ado that is the public internet over TLS, and nothing else: no loopback, no private, link-local or shared network, no address that only wraps such a one, no unix
 * socket. A list opens more: networks "10.1.0.0/16", "fd00::/8" (one address without a length), to which plain HTTP may be spoken too, and unix paths "unix:/run/x.sock", or
 * "unix:/run/x/" for all below it. Names prove nothing: who connects asks reach_addr() about the very address that he connects to. Threads: a list is immutable, ask on any.
 */
#ifndef SEKI_NET_REACH_H
#define SEKI_NET_REACH_H

#include "net/addr.h"

#define REACH_MAX 256

struct reach_item {
    const char *unix_path; /* NULL: a network */
    uint8_t net[16];       /* IPv4 as ::ffff:a.b.c.d */
    int bits;              /* of the 128 */
};
struct reach {
    struct reach_item *items;
    size_t count;
};

/* Comma-separated; empty: nothing beyond the default. The error says which item is wrong and what was expected. */
int reach_parse(const char *text, struct reach *ret, struct err *err) NODISCARD;
void reach_deinit(struct reach *r);

/* Whether the list itself names its network; r may be NULL: it is empty. */
bool reach_lists(const struct reach *r, const struct sockaddr *sa);
/* r may be NULL: the default. */
bool reach_addr(const struct reach *r, const struct sockaddr *sa, bool tls);
bool reach_unix(const struct reach *r, const char *path); /* no links are followed here; a path with "..", "." or "//" in it is never allowed */
bool reach_plain(const struct reach *r); /* whether plain HTTP may be spoken to anybody at all */

#endif
