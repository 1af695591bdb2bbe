/* Streams over readiness. Reads and writes go straight to the socket; with TLS, OpenSSL does them on the same descriptor. */
#include "net/conn.h"

#include <arpa/inet.h>
#include <errno.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <unistd.h>

#include "base/mem.h"
#include "net/tls_internal.h"

#define TLS_GATHER_MAX 16384

struct conn {
    int fd;
    SSL *ssl;
    struct fd_watch *watch;
    conn_fn *fn;
    void *arg;
    int want;          /* what the owner asked for */
    int armed;         /* what the loop watches */
    bool handshaking;
    bool spoken;       /* the handshake has begun: OpenSSL knows which way it goes */
    bool read_needs_write, write_needs_read; /* TLS: the other direction must be ready first */
    bool abort_on_free;
    struct timer kick; /* TLS holds bytes that were read already: the socket will not tell */
    struct err *err; /* NULL: nothing went wrong. Most connections never need the half KiB */
};

static struct err *error_of(struct conn *c)
{
    if (!c->err)
        c->err = XNEW(struct err);
    return c->err;
}

static void rearm(struct conn *c)
{
    int events = c->want;
    if (c->handshaking)
        /* A client speaks first, once connected; a server listens. */
        events = (c->spoken ? SSL_want_write(c->ssl) : !SSL_is_server(c->ssl)) ? FD_WRITE : FD_READ;
    else {
        if ((c->want & FD_READ) && c->read_needs_write)
            events |= FD_WRITE;
        if ((c->want & FD_WRITE) && c->write_needs_read)
            events = (events & ~FD_WRITE) | FD_READ;
    }
    if (events != c->armed) {
        c->armed = events;
        fd_watch_set(c->watch, events);
    }
}

static int tls_failed(struct conn *c, int result, const char *what)
{
    char text[160] = "";
    int kind = SSL_get_error(c->ssl, result);
    unsigned long e = ERR_peek_last_error();
    long verify = SSL_get_verify_result(c->ssl);
    if (verify != X509_V_OK && c->handshaking)
        snprintf(text, sizeof(text), "%s", X509_verify_cert_error_string(verify));
    else if (e)
        ERR_error_string_n(e, text, sizeof(text));
    else
        snprintf(text, sizeof(text), "%s", kind == SSL_ERROR_SYSCALL && errno ? strerror(errno) : "closed by the peer");
    ERR_clear_error();
    err_set(error_of(c), ERR_CLOSED, "TLS %s: %s", what, text);
    return CONN_FAILED;
}

/* 0 when done or failed (c->err says), CONN_AGAIN while it goes on. */
static int handshake(struct conn *c)
{
    ERR_clear_error();
    c->spoken = true;
    int rc = SSL_do_handshake(c->ssl);
    if (rc == 1) {
        c->handshaking = false;
        return 0;
    }
    int kind = SSL_get_error(c->ssl, rc);
    if (kind == SSL_ERROR_WANT_READ || kind == SSL_ERROR_WANT_WRITE)
        return CONN_AGAIN;
    tls_failed(c, rc, "handshake");
    c->handshaking = false;
    return 0;
}

static void on_ready(void *arg, int events)
{
    struct conn *c = arg;
    if (c->handshaking) {
        if (handshake(c) == CONN_AGAIN) {
            rearm(c);
            return;
        }
        rearm(c);
        /* The peer's first bytes may be in OpenSSL's buffer already: readiness of the socket would not tell. */
        events = c->want;
        if (events)
            c->fn(c->arg, events);
        return;
    }
    int ready = 0;
    if ((c->want & FD_READ) && ((events & FD_READ) || (c->read_needs_write && (events & FD_WRITE))))
        ready |= FD_READ;
    if ((c->want & FD_WRITE) && ((events & FD_WRITE) || (c->write_needs_read && (events & FD_READ))))
        ready |= FD_WRITE;
    if (ready)
        c->fn(c->arg, ready);
    else if (events)
        rearm(c);
}

static void on_kick(struct timer *t)
{
    struct conn *c = t->arg;
    if (c->want & FD_READ)
        c->fn(c->arg, FD_READ);
}

static int start_tls(struct conn *c, struct tls_ctx *tls, bool server, const char *host, struct err *err)
{
    c->ssl = tls_ctx_connection(tls);
    if (!c->ssl || SSL_set_fd(c->ssl, c->fd) != 1)
        return err_set(err, ERR_NO_MEMORY, "out of memory for TLS");
    if (server) {
        SSL_set_accept_state(c->ssl);
    } else {
        struct in6_addr any;
        SSL_set_connect_state(c->ssl);
        if (host && (inet_pton(AF_INET, host, &any) == 1 || inet_pton(AF_INET6, host, &any) == 1)) {
            X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(c->ssl), host);
        } else if (host) {
            SSL_set_tlsext_host_name(c->ssl, host);
            SSL_set1_host(c->ssl, host);
        }
    }
    c->handshaking = true;
    return 0;
}

int conn_new(struct loop *l, int fd, struct tls_ctx *tls, bool server, const char *host, conn_fn *fn, void *arg, struct conn **ret, struct err *err)
{
    struct conn *c = mem_try(sizeof(*c));
    if (!c) {
        close(fd);
        return err_set(err, ERR_NO_MEMORY, "out of memory");
    }
    *c = (struct conn){.fd = fd, .fn = fn, .arg = arg};
    timer_init(&c->kick, l, on_kick, c);
    int rc = fd_watch_new(l, fd, on_ready, c, &c->watch, err);
    if (rc == 0 && tls)
        rc = start_tls(c, tls, server, host, err);
    if (rc < 0) {
        conn_free(c);
        return rc;
    }
    rearm(c);
    *ret = c;
    return 0;
}

void conn_free(struct conn *c)
{
    if (!c)
        return;
    fd_watch_free(c->watch);
    timer_stop(&c->kick);
    if (c->ssl) {
        SSL_set_quiet_shutdown(c->ssl, 1);
        SSL_free(c->ssl);
    }
    if (c->abort_on_free)
        setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &(struct linger){1, 0}, sizeof(struct linger));
    close(c->fd);
    mem_free(c->err);
    mem_free(c);
}

void conn_set_handler(struct conn *c, conn_fn *fn, void *arg)
{
    c->fn = fn;
    c->arg = arg;
}

void conn_want(struct conn *c, int events)
{
    bool resumes = (events & FD_READ) && !(c->want & FD_READ);
    c->want = events;
    if (resumes && c->ssl && !c->handshaking && SSL_has_pending(c->ssl))
        timer_start(&c->kick, 0);
    rearm(c);
}

static ssize_t tls_result(struct conn *c, int n, bool reading)
{
    if (n > 0) {
        *(reading ? &c->read_needs_write : &c->write_needs_read) = false;
        return n;
    }
    switch (SSL_get_error(c->ssl, n)) {
    case SSL_ERROR_WANT_READ:
        *(reading ? &c->read_needs_write : &c->write_needs_read) = !reading;
        rearm(c);
        return CONN_AGAIN;
    case SSL_ERROR_WANT_WRITE:
        *(reading ? &c->read_needs_write : &c->write_needs_read) = reading;
        rearm(c);
        return CONN_AGAIN;
    case SSL_ERROR_ZERO_RETURN:
        return CONN_EOF;
    default:
        return tls_failed(c, n, reading ? "read" : "write");
    }
}

/* After a write has failed, what the peer said before may still be read; its end is then the failure. */
ssize_t conn_read(struct conn *c, void *buf, size_t len)
{
    if (c->ssl && c->err)
        return CONN_FAILED;
    if (c->handshaking)
        return CONN_AGAIN;
    if (c->ssl) {
        ERR_clear_error();
        return tls_result(c, SSL_read(c->ssl, buf, (int)MIN(len, (size_t)INT32_MAX)), true);
    }
    ssize_t n;
    do
        n = recv(c->fd, buf, len, 0);
    while (n < 0 && errno == EINTR);
    if (n > 0 || (n == 0 && !c->err))
        return n;
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
        return CONN_AGAIN;
    if (!c->err)
        err_sys(error_of(c), errno, "read");
    return CONN_FAILED;
}

/* One TLS record for several small pieces instead of one each. */
static ssize_t tls_writev(struct conn *c, const struct iovec *iov, int count)
{
    char gather[TLS_GATHER_MAX];
    size_t len = 0;
    while (count > 0 && iov->iov_len == 0)
        iov++, count--;
    if (count <= 0)
        return 0;
    const char *bytes = iov->iov_base;
    if (iov->iov_len >= sizeof(gather) || count == 1) {
        len = MIN(iov->iov_len, (size_t)INT32_MAX);
    } else {
        for (int i = 0; i < count && len < sizeof(gather); i++) {
            size_t n = MIN(iov[i].iov_len, sizeof(gather) - len);
            memcpy(gather + len, iov[i].iov_base, n);
            len += n;
        }
        bytes = gather;
    }
    ERR_clear_error();
    return tls_result(c, SSL_write(c->ssl, bytes, (int)len), false);
}

ssize_t conn_writev(struct conn *c, const struct iovec *iov, int count)
{
    if (c->err)
        return CONN_FAILED;
    if (c->handshaking)
        return CONN_AGAIN;
    if (c->ssl)
        return tls_writev(c, iov, count);
    struct msghdr m = {.msg_iov = (struct iovec *)(uintptr_t)iov, .msg_iovlen = (size_t)count};
    ssize_t n;
    do
        n = sendmsg(c->fd, &m, MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    if (n >= 0)
        return n;
    if (errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOTCONN)
        return CONN_AGAIN;
    err_sys(error_of(c), errno, "write");
    return CONN_FAILED;
}

bool conn_is_quiet(const struct conn *c)
{
    char byte;
    return (!c->ssl || !SSL_has_pending(c->ssl)) && recv(c->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 && (errno == EAGAIN || errno == EWOULDBLOCK);
}

const struct err *conn_error(const struct conn *c)
{
    static const struct err none = ERR_INIT;
    return c->err ? c->err : &none;
}

void conn_shutdown(struct conn *c)
{
    if (c->ssl && !c->handshaking && !c->err) {
        ERR_clear_error();
        SSL_shutdown(c->ssl);
    }
    shutdown(c->fd, SHUT_WR);
}

void conn_set_abort(struct conn *c)
{
    c->abort_on_free = true;
}

static bool copy_entry(X509_NAME *name, int index, char *out, size_t size)
{
    ASN1_STRING *s = X509_NAME_ENTRY_get_data(X509_NAME_get_entry(name, index));
    struct str text = str_n(ASN1_STRING_get0_data(s), (size_t)ASN1_STRING_length(s));
    return !memchr(text.ptr, 0, text.len) && str_to_array(text, out, size);
}

static bool time_of(const ASN1_TIME *t, int64_t *ret_ms)
{
    struct tm tm;
    if (!t || ASN1_TIME_to_tm(t, &tm) != 1)
        return false;
    *ret_ms = (int64_t)timegm(&tm) * 1000;
    return true;
}

bool conn_peer_cert(struct conn *c, struct conn_peer *ret)
{
    X509 *cert = c->ssl && !c->handshaking ? SSL_get0_peer_certificate(c->ssl) : NULL;
    if (!cert || SSL_get_verify_result(c->ssl) != X509_V_OK)
        return false;
    X509_NAME *name = X509_get_subject_name(cert);
    int at = X509_NAME_get_index_by_NID(name, NID_commonName, -1);
    ret->org_count = 0;
    if (at < 0 || !copy_entry(name, at, ret->common_name, sizeof(ret->common_name)))
        return false;
    if (!time_of(X509_get0_notBefore(cert), &ret->not_before_ms) || !time_of(X509_get0_notAfter(cert), &ret->not_after_ms))
        return false;
    for (at = -1; (at = X509_NAME_get_index_by_NID(name, NID_organizationName, at)) >= 0 && ret->org_count < CONN_ORGS_MAX;)
        if (copy_entry(name, at, ret->orgs[ret->org_count], sizeof(ret->orgs[0])))
            ret->org_count++;
    return true;
}

bool conn_chose(struct conn *c, const char *protocol)
{
    const unsigned char *name = NULL;
    unsigned len = 0;
    if (c->ssl && !c->handshaking && !c->err)
        SSL_get0_alpn_selected(c->ssl, &name, &len);
    return str_eqc(str_n(name, len), protocol);
}

void conn_peer_addr(struct conn *c, struct net_addr *ret)
{
    *ret = (struct net_addr){.len = sizeof(ret->un)};
    if (getpeername(c->fd, &ret->sa, &ret->len) < 0)
        ret->sa.sa_family = AF_UNSPEC;
}
