/* A real API server in this process: memory store, TLS, a thread of its own; with clients over HTTPS and in process. */
#ifndef SEKI_TESTS_UNIT_API_PEER_H
#define SEKI_TESTS_UNIT_API_PEER_H

#include "tls_peer.h"

#include "apiserver/api.h"
#include "client/local.h"
#include "kinds/borrowed.h"

struct api_peer {
    struct loop_thread *thread;
    struct store *store;
    struct apiserver *api;
    struct client_local local;
    struct net_addr addr;    /* kept over restarts */
    const char *db;          /* NULL: memory */
    size_t watch_buffer_bytes;
    char address[NET_ADDR_TEXT_MAX + 16];
    atomic_bool done;
    int code;
};

static inline void api_peer_bootstrapped(void *arg, int code, const struct err *err)
{
    struct api_peer *p = arg;
    (void)err;
    p->code = code;
    atomic_store(&p->done, true);
}

static inline int api_peer_init(struct loop *l, void *arg, struct err *err)
{
    struct api_peer *p = arg;
    struct apiserver_options o = {.listen = p->addr, .watch_buffer_bytes = p->watch_buffer_bytes};
    struct store_options so = {.path = p->db};
    char text[NET_ADDR_TEXT_MAX];
    int rc = p->db ? store_open_sqlite(l, &so, &p->store, err) : store_open_memory(l, &so, &p->store, err);
    if (rc == 0 && !p->addr.len)
        rc = net_addr_parse(STR("127.0.0.1:0"), &o.listen, err);
    if (rc == 0)
        rc = tls_server_ctx(peer_path("server.crt"), peer_path("server.key"), peer_path("ca.crt"), &o.tls, err);
    if (rc == 0)
        rc = apiserver_start(l, p->store, &o, &p->api, err);
    tls_ctx_unref(o.tls);
    if (rc < 0)
        return rc;
    apiserver_addr(p->api, &p->addr);
    net_addr_format(&p->addr, text);
    snprintf(p->address, sizeof(p->address), "https://%s", text);
    p->local = apiserver_local(p->api);
    apiserver_bootstrap(p->api, api_peer_bootstrapped, p);
    return 0;
}

static inline void api_peer_deinit(struct loop *l, void *arg)
{
    struct api_peer *p = arg;
    (void)l;
    apiserver_free(p->api);
    store_close(p->store);
}

static inline void api_peer_start(struct api_peer *p)
{
    static const struct loop_thread_ops ops = {api_peer_init, api_peer_deinit};
    struct err err = ERR_INIT;
    atomic_store(&p->done, false);
    ASSERT_OK(loop_thread_start("api", &ops, p, &p->thread, &err));
    AWAIT(atomic_load(&p->done));
    assert_int_equal(p->code, 0);
}

static inline void api_peer_stop(struct api_peer *p)
{
    loop_thread_stop(p->thread);
    p->thread = NULL;
}

static inline struct client *api_peer_local(struct api_peer *p)
{
    return client_local_new(&p->local, "test", (const char *const[]){"system:masters", NULL});
}

static inline struct client *api_peer_http(struct api_peer *p)
{
    struct client *c = NULL;
    struct err err = ERR_INIT;
    ASSERT_OK(client_http(&(struct client_http_options){.server = p->address, .ca_file = peer_path("ca.crt"), .cert_file = peer_path("admin.crt"), .key_file = peer_path("admin.key")},
                          &c, &err));
    return c;
}

/* fn(p) on the server's thread, waited for. */
struct api_peer_job {
    struct api_peer *p;
    void (*fn)(struct api_peer *p);
    atomic_bool done;
};
static inline void api_peer_run_job(void *arg)
{
    struct api_peer_job *j = arg;
    j->fn(j->p);
    atomic_store(&j->done, true);
}
static inline void api_peer_do(struct api_peer *p, void (*fn)(struct api_peer *p))
{
    struct api_peer_job j = {.p = p, .fn = fn};
    loop_post(loop_thread_loop(p->thread), api_peer_run_job, &j);
    AWAIT(atomic_load(&j.done));
}
static inline void api_peer_end_watches(struct api_peer *p)
{
    api_watches_end(p->api);
}
static inline void api_peer_compact(struct api_peer *p)
{
    store_compact(p->store, store_rev(p->store));
}

#endif
