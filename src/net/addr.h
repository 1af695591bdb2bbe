/* Addresses and sockets: "127.0.0.1:8000", "[::1]:0", "unix:/run/seki/x.sock".
 *
 * Numeric addresses only here ("localhost" counts as 127.0.0.1): names are resolved by whoever configures a peer.
 * All sockets are non-blocking, close-on-exec; TCP ones have TCP_NODELAY. Threads: any.
 */
#ifndef SEKI_NET_ADDR_H
#define SEKI_NET_ADDR_H

#include <sys/socket.h>
#include <sys/un.h>
#include <netinet/in.h>

#include "base/str.h"

struct net_addr {
    union {
        struct sockaddr sa;
        struct sockaddr_in in4;
        struct sockaddr_in6 in6;
        struct sockaddr_un un;
    };
    socklen_t len;
};

#define NET_ADDR_TEXT_MAX 128
int net_addr_parse(struct str text, struct net_addr *ret, struct err *err) NODISCARD;
void net_addr_format(const struct net_addr *a, char text[NET_ADDR_TEXT_MAX]);
bool net_addr_is_loopback(const struct net_addr *a); /* unix sockets count as loopback */
uint16_t net_addr_port(const struct net_addr *a);    /* 0 for unix */
bool net_addr_equal(const struct net_addr *a, const struct net_addr *b);

/* A listening socket. reuse_port: several sockets share the port, the kernel spreads connections. ret_bound (may be
 * NULL) is the address really bound, with the port when 0 was asked. A stale unix socket is replaced, mode 0600.
 * ERR_BUSY when the port is taken; the message names the address. */
int net_listen(const struct net_addr *a, bool reuse_port, int *ret_fd, struct net_addr *ret_bound,
               struct err *err) NODISCARD;
/* A socket that listens already, from another process: its address. ERR_INVALID: it does not. *ret_fd is fd. */
int net_adopt(int fd, int *ret_fd, struct net_addr *ret_bound, struct err *err) NODISCARD;
/* Starts a connect; it is complete when the socket becomes writable and net_connect_result() says 0. */
int net_connect(const struct net_addr *a, int *ret_fd, struct err *err) NODISCARD;
int net_connect_result(int fd, struct err *err) NODISCARD;

#endif
