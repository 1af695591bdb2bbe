/* An HTTPS server (or a plain one) in this process, on a thread of its own, that answers as a test says.
 *
 * Certificates are made once a test program in a directory of its own. The handler runs on the server's thread; what it counts is atomic.
 */
#ifndef SEKI_TESTS_UNIT_TLS_PEER_H
#define SEKI_TESTS_UNIT_TLS_PEER_H

#include "unit.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/file.h"
#include "base/mem.h"
#include "crypto/pki.h"
#include "loop/thread.h"
#include "net/http_server.h"
#include "net/tls.h"

#define TLS_PEER_WAIT_MS 20000

static char peer_dir[64];

static inline const char *peer_path(const char *name)
{
    static char paths[8][160];
    static int next;
    char *p = paths[next++ % 8];
    snprintf(p, sizeof(paths[0]), "%s/%s", peer_dir, name);
    return p;
}

/* Makes ca, other-ca, server (127.0.0.1), elsewhere (192.0.2.1), admin (client, system:masters). */
static inline int tls_peer_setup(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct pki_ca *ca = NULL, *other = NULL;
    snprintf(peer_dir, sizeof(peer_dir), "/tmp/seki-peer-XXXXXX");
    if (!mkdtemp(peer_dir) || pki_ca_ensure(peer_dir, "ca", "test", &ca, &err) < 0 || pki_ca_ensure(peer_dir, "other-ca", "other", &other, &err) < 0)
        return -1;
    const struct pki_leaf server = {.common_name = "server", .ips = (const char *const[]){"127.0.0.1", NULL}, .usage = PKI_SERVER, .days = 2};
    const struct pki_leaf elsewhere = {.common_name = "elsewhere", .ips = (const char *const[]){"192.0.2.1", NULL}, .usage = PKI_SERVER, .days = 2};
    const struct pki_leaf admin = {.common_name = "admin", .orgs = (const char *const[]){"system:masters", NULL}, .usage = PKI_CLIENT, .days = 2};
    int rc = pki_leaf_ensure(ca, peer_dir, "server", &server, NULL, &err);
    rc = rc < 0 ? rc : pki_leaf_ensure(ca, peer_dir, "elsewhere", &elsewhere, NULL, &err);
    rc = rc < 0 ? rc : pki_leaf_ensure(ca, peer_dir, "admin", &admin, NULL, &err);
    pki_ca_free(ca);
    pki_ca_free(other);
    return rc;
}

static inline int tls_peer_teardown(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    return file_remove_tree(peer_dir, &err);
}

struct tls_peer {
    struct loop_thread *thread;
    struct http_server *server;
    const char *cert; /* NULL: plain */
    const char *unix_path;
    char address[NET_ADDR_TEXT_MAX + 16]; /* "https://127.0.0.1:PORT" */
    void (*handle)(struct tls_peer *p, struct http_request *r, int number); /* number: from 1 */
    atomic_int requests, aborted;
    void *arg;
};

static inline void tls_peer_on_request(void *ctx, struct http_request *r)
{
    struct tls_peer *p = ctx;
    p->handle(p, r, atomic_fetch_add(&p->requests, 1) + 1);
}

static inline void tls_peer_on_abort(void *ctx, struct http_request *r)
{
    struct tls_peer *p = ctx;
    (void)r;
    atomic_fetch_add(&p->aborted, 1);
}

static inline int tls_peer_init(struct loop *l, void *arg, struct err *err)
{
    static const struct http_server_ops ops = {.on_request = tls_peer_on_request, .on_abort = tls_peer_on_abort};
    struct tls_peer *p = arg;
    struct http_server_options o = {0};
    char listen[160], key[32];
    if (p->unix_path)
        snprintf(listen, sizeof(listen), "unix:%s", p->unix_path);
    else
        snprintf(listen, sizeof(listen), "127.0.0.1:0");
    int rc = net_addr_parse(str_of(listen), &o.listen, err);
    if (rc == 0 && p->cert) {
        char cert[32];
        snprintf(cert, sizeof(cert), "%s.crt", p->cert);
        snprintf(key, sizeof(key), "%s.key", p->cert);
        rc = tls_server_ctx(peer_path(cert), peer_path(key), peer_path("ca.crt"), &o.tls, err);
    }
    if (rc == 0)
        rc = http_server_start(l, &o, &ops, p, &p->server, err);
    tls_ctx_unref(o.tls);
    if (rc == 0 && !p->unix_path) {
        struct net_addr bound;
        char text[NET_ADDR_TEXT_MAX];
        http_server_addr(p->server, &bound);
        net_addr_format(&bound, text);
        snprintf(p->address, sizeof(p->address), "%s://%s", p->cert ? "https" : "http", text);
    }
    return rc;
}

static inline void tls_peer_deinit(struct loop *l, void *arg)
{
    struct tls_peer *p = arg;
    (void)l;
    http_server_free(p->server);
}

static inline void tls_peer_start(struct tls_peer *p)
{
    static const struct loop_thread_ops ops = {tls_peer_init, tls_peer_deinit};
    struct err err = ERR_INIT;
    ASSERT_OK(loop_thread_start("peer", &ops, p, &p->thread, &err));
}

static inline void tls_peer_stop(struct tls_peer *p)
{
    loop_thread_stop(p->thread);
    p->thread = NULL;
}

static inline void tls_peer_answer(struct http_request *r, int status, const char *body)
{
    http_respond(r, status, "application/json", NULL, 0, str_of(body));
}

static inline uint64_t tls_peer_now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* Waits for what another thread does, with a deadline. */
#define AWAIT(cond)                                                                                                    \
    do {                                                                                                               \
        uint64_t await_end_ = tls_peer_now_ms() + TLS_PEER_WAIT_MS;                                                    \
        while (!(cond)) {                                                                                              \
            if (tls_peer_now_ms() > await_end_)                                                                        \
                fail_msg("still not: %s", #cond);                                                                      \
            nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);                                                   \
        }                                                                                                              \
    } while (0)

#endif
