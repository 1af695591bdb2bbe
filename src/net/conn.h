/* A byte stream: TCP or unix socket, plain or TLS, non-blocking, on one loop.
 *
 * The owner asks for readiness with conn_want() and is called back; then it reads or writes until CONN_AGAIN. TLS
 * handshakes, and TLS's wish to read while writing, happen inside. Nothing is buffered here beyond TLS records: what
 * conn_writev did not take is still the caller's. Threads: the loop's.
 */
#ifndef SEKI_NET_CONN_H
#define SEKI_NET_CONN_H

#include <sys/uio.h>

#include "loop/loop.h"
#include "net/addr.h"
#include "net/tls.h"

enum { CONN_AGAIN = -1, CONN_EOF = 0, CONN_FAILED = -2 };

struct conn;

/* fn(arg, events): events of FD_READ and FD_WRITE that are ready. Called also when the handshake has failed: then
 * conn_read answers CONN_FAILED. */
typedef void conn_fn(void *arg, int events);

/* Takes over fd. tls NULL: plain. server: which side of the handshake; host: SNI and verified name, for clients. */
int conn_new(struct loop *l, int fd, struct tls_ctx *tls, bool server, const char *host, conn_fn *fn,
             void *arg, struct conn **ret, struct err *err) NODISCARD;
void conn_free(struct conn *c); /* closes at once; no callback afterwards; may be called inside fn */
/* From here on fn(arg) is called instead: a kept connection changes hands. */
void conn_set_handler(struct conn *c, conn_fn *fn, void *arg);
void conn_want(struct conn *c, int events);
/* > 0 bytes read, CONN_EOF, CONN_AGAIN or CONN_FAILED (conn_error says why). */
ssize_t conn_read(struct conn *c, void *buf, size_t len);
/* > 0 bytes taken (may be fewer), CONN_AGAIN or CONN_FAILED. */
ssize_t conn_writev(struct conn *c, const struct iovec *iov, int count);
/* Nothing has come that was not read, the peer's end included. */
bool conn_is_quiet(const struct conn *c);
const struct err *conn_error(const struct conn *c);
/* Sends what is to be sent (TLS close_notify, FIN): half-close of our side. */
void conn_shutdown(struct conn *c);
/* Closes with RST instead of FIN, when freed. */
void conn_set_abort(struct conn *c);

/* The verified client certificate: common name and organisations (the Kubernetes user and groups); false when none. */
#define CONN_ORGS_MAX 16
struct conn_peer {
    char common_name[256];
    char orgs[CONN_ORGS_MAX][128];
    int org_count;
    int64_t not_before_ms, not_after_ms; /* wall clock */
};
bool conn_peer_cert(struct conn *c, struct conn_peer *ret);
/* Whether the TLS handshake is over and its ALPN chose this protocol. */
bool conn_chose(struct conn *c, const char *protocol);
void conn_peer_addr(struct conn *c, struct net_addr *ret);

#endif
