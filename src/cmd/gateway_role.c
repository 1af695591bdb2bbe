/* The gateway process: client for its informers, the gateway, its monitoring listener. */
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "cmd/monitor.h"
#include "cmd/roles.h"
#include "cmd/takeover.h"
#include "cmd/vitals.h"
#include "gateway/gateway.h"
#include "gateway/left_requests.h"
#include "gateway/share_file.h"

#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#define TELL_WAIT_MS 1500
#define OWN_DESCRIPTORS 128 /* loops, ledgers, the API (several a kind that is watched), the monitor */

struct gateway_role {
    const struct command_line *cl;
    struct options *options;
    struct arena *arena, *held; /* held: texts of reloaded options */
    struct loop *loop;
    struct client *client;
    struct gateway *gateway;
    struct monitor *monitor;
    struct tls_ctx *tls;
    bool stopping, draining, handed_over;
    struct reach reach, trusted; /* of engines; of proxies */
    const char *writer; /* what its journals are called */
    struct takeover_offer *offer;
    struct timer look; /* for what a killed gateway left under the other name: */
    struct left_requests left;
};

static int check_gateway(void *arg, struct err *err)
{
    struct gateway_role *g = arg;
    return g->gateway ? gateway_ready(g->gateway, err) : err_set(err, ERR_UNAVAILABLE, "starting");
}

static int check_serving(void *arg, struct err *err)
{
    return ((struct gateway_role *)arg)->stopping ? err_set(err, ERR_UNAVAILABLE, "draining") : 0;
}

static const struct monitor_check checks[] = {{"gateway", check_gateway}, {"serving", check_serving}, {NULL, NULL}};

static void drain_work(void *arg)
{
    struct gateway_role *g = arg;
    gateway_drain(g->gateway, (uint64_t)g->options->gateway_drain_ms, g->handed_over);
}

static void drain_done(void *arg)
{
    struct gateway_role *g = arg;
    loop_stop(g->loop);
}

static void left_work(void *arg)
{
    struct gateway_role *g = arg;
    (void)left_requests_look(&g->left);
}

static void left_done(void *arg)
{
    struct gateway_role *g = arg;
    if (!g->stopping)
        timer_start(&g->look, g->left.pause_ms);
}

static void look_for_left(struct timer *t)
{
    struct gateway_role *g = t->arg;
    loop_work(g->loop, left_work, left_done, g);
}

/* Connections that begin from now on see the new certificate. */
static void reload(struct gateway_role *g)
{
    const struct options *o = g->options;
    struct err err = ERR_INIT;
    if (options_reload_logged(g->cl, g->options, &g->held) < 0 || !g->tls || !*o->gateway_tls_cert)
        return;
    if (tls_server_reload(g->tls, o->gateway_tls_cert, o->gateway_tls_key, NULL, &err) < 0)
        log_error("the gateway keeps its certificate: the new one is refused", KVE(&err));
    else
        log_info("the gateway's certificate is read anew", KV("file", o->gateway_tls_cert));
    vitals_certificate("gateway-server", o->gateway_tls_cert);
}

static void on_signal(void *arg, int signo)
{
    struct gateway_role *g = arg;
    if (signo == SIGHUP) {
        reload(g);
        return;
    }
    if (signo == SIGUSR2) {
        role_not_replaced();
        return;
    }
    if (g->draining && g->handed_over && signo == SIGTERM) { /* it does already; asked again it loses patience */
        g->handed_over = false;
        return;
    }
    if (g->draining) { /* asked twice: no more patience; drain_done ends the loop */
        gateway_drain_cancel(g->gateway);
        return;
    }
    g->stopping = true;
    g->draining = g->gateway && signo == SIGTERM;
    if (!g->draining) {
        loop_stop(g->loop);
        return;
    }
    log_info("draining", KVI("timeout_ms", g->options->gateway_drain_ms));
    loop_work(g->loop, drain_work, drain_done, g);
}

/* ---- taking over from another gateway, and being taken over from ---- */

static void what_is_taken(void *arg, struct takeover *ret)
{
    struct gateway_role *g = arg;
    snprintf(ret->writer, sizeof(ret->writer), "%s", g->writer);
    ret->fds[0] = monitor_fd(g->monitor);
    ret->count = 1 + gateway_listeners(g->gateway, ret->fds + 1, TAKEOVER_FDS_MAX - 1);
}

static void on_taken(void *arg)
{
    struct gateway_role *g = arg;
    if (g->draining || g->stopping)
        return;
    g->stopping = g->draining = g->handed_over = true;
    monitor_free(g->monitor);
    g->monitor = NULL;
    log_info("another gateway has taken over; draining", KVI("timeout_ms", g->options->gateway_drain_ms));
    loop_work(g->loop, drain_work, drain_done, g);
}

const char *role_gateway_name(const struct options *o, struct arena *a)
{
    return *o->gateway_name ? arena_printf(a, "gateway-%s", o->gateway_name) : "gateway";
}

/* What was taken is of use where the address is still the same: with another one, or another port, it listens anew. */
static bool still_wanted(int fd, const struct net_addr *wanted)
{
    struct net_addr bound = {.len = sizeof(bound.un)};
    int same;
    char have[NET_ADDR_TEXT_MAX], want[NET_ADDR_TEXT_MAX];
    if (net_adopt(fd, &same, &bound, NULL) < 0)
        return false;
    net_addr_format(&bound, have);
    net_addr_format(wanted, want);
    return !strcmp(have, want);
}

/* Nobody answers at the socket. The one before may drain still, when the one that took over from it was killed: then it is the other name. Else that under which a gateway last ran: control takes
 * this one for the same, and need not wait for a lease to end before it has its share of rates. */
static const char *free_name(struct gateway_role *g, const char *name, const char *next)
{
    const char *ledger = options_path(g->options, g->arena, "ledger");
    const char *shares = options_path(g->options, g->arena, arena_printf(g->arena, "run/%s.shares", name));
    const char *next_shares = options_path(g->options, g->arena, arena_printf(g->arena, "run/%s.shares", next));
    if (left_requests_held(ledger, name))
        return next;
    if (left_requests_held(ledger, next))
        return name;
    return share_file_newest(shares, next_shares) == next_shares ? next : name;
}

/* A gateway that runs here already is asked for its sockets. Its journals are its own until it has gone: this one's get the other name of two. */
static int take_over(struct gateway_role *g, const char *name, struct takeover *t, struct err *err)
{
    const char *path = options_path(g->options, g->arena, arena_printf(g->arena, "run/%s.takeover", name)), *next = arena_printf(g->arena, "%s-next", name);
    int rc = takeover_ask(path, t, err);
    if (rc == ERR_NOT_FOUND) {
        g->writer = free_name(g, name, next);
        return 0;
    }
    g->writer = name;
    if (rc < 0)
        return rc;
    if (!strcmp(t->writer, name))
        g->writer = next;
    log_info("taking over from the gateway that runs", KVI("sockets", t->count), KV("journals", g->writer));
    return 0;
}

static void offer_takeover(struct gateway_role *g, const char *name)
{
    struct err err = ERR_INIT;
    const char *path = options_path(g->options, g->arena, arena_printf(g->arena, "run/%s.takeover", name));
    if (takeover_offer(g->loop, path, what_is_taken, on_taken, g, &g->offer, &err) < 0)
        log_warn("another gateway will not be able to take over from this one", KVE(&err));
}

/* The credentials that control makes at its first start; a gateway that comes first waits for them. */
static int wait_for_credentials(const struct options *o, struct arena *a)
{
    const char *needed[] = {options_path(o, a, "pki/gateway.crt"), options_path(o, a, "pki/gateway.key"),
                            options_path(o, a, "pki/ca.crt"), options_path(o, a, "pki/pepper"),
                            options_path(o, a, "run/api.addr")};
    uint64_t begun = clock_mono_ms(), deadline = begun + 60000;
    bool told = false;
    for (size_t i = 0; i < ARRAY_LEN(needed);) {
        if (file_exists(needed[i])) {
            i++;
            continue;
        }
        if (!told && clock_mono_ms() > begun + TELL_WAIT_MS) {
            told = true;
            log_info("waiting for control, which makes the gateway's credentials and says where the API is", KV("data", o->data), KV("missing", needed[i]));
        }
        if (clock_mono_ms() > deadline) {
            log_error("control has not made the gateway's credentials", KV("missing", needed[i]));
            return ERR_TIMEOUT;
        }
        usleep(20000);
    }
    return 0;
}

static int connect_api(struct gateway_role *g, struct err *err)
{
    const struct options *o = g->options;
    struct arena *a = g->arena;
    CLEANUP(mem_freep) char *text = NULL;
    size_t len = 0;
    int rc = file_read(options_path(o, a, "run/api.addr"), NET_ADDR_TEXT_MAX + 1, &text, &len, err);
    if (rc < 0)
        return rc;
    struct str addr = str_trim(str_n(text, len));
    struct client_http_options c = {.server = arena_printf(a, "https://%.*s", STR_ARG(addr)),
                                    .ca_file = options_path(o, a, "pki/ca.crt"),
                                    .cert_file = options_path(o, a, "pki/gateway.crt"),
                                    .key_file = options_path(o, a, "pki/gateway.key")};
    return client_http(&c, &g->client, err);
}

/* A client's connection and an engine's are two descriptors: who is let in must also get through. */
static size_t connections_that_fit(int64_t wanted)
{
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) < 0 || files.rlim_cur == RLIM_INFINITY)
        return (size_t)wanted;
    int64_t fit = MAX(((int64_t)files.rlim_cur - OWN_DESCRIPTORS) / 2, (int64_t)1);
    if (fit < wanted)
        log_warn("fewer connections are served than gateway.max-connections: each takes two descriptors", KVI("connections", fit), KVI("wanted", wanted), KVI("descriptors", (int64_t)files.rlim_cur));
    return (size_t)MIN(fit, wanted);
}

/* A full disk keeps nobody from serving where he is; whoever looks into the file finds the address before. */
static int tell_addr(struct gateway_role *g, const char *name, const struct net_addr *addr, struct err *err)
{
    struct err why = ERR_INIT;
    int rc = role_write_addr(g->options, g->arena, name, addr, &why);
    if (rc == ERR_NO_SPACE) {
        log_warn("where the gateway listens is not written down", KV("name", name), KVE(&why));
        return 0;
    }
    if (rc < 0)
        *err = why;
    return rc;
}

static int start(struct gateway_role *g, struct takeover *t, struct err *err)
{
    const struct options *o = g->options;
    struct arena *a = g->arena;
    const char *name = role_gateway_name(o, a), *metrics = arena_printf(a, "metrics-%s", name);
    const char *other = strcmp(g->writer, name) != 0 ? name : arena_printf(a, "%s-next", name);
    struct gateway_options go = {.name = g->writer,
                                 .threads = (int)o->gateway_threads,
                                 .snapshot_file = options_path(o, a, arena_printf(a, "run/%s.snapshot", name)),
                                 .shares_file = options_path(o, a, arena_printf(a, "run/%s.shares", g->writer)),
                                 .other_shares_file = options_path(o, a, arena_printf(a, "run/%s.shares", other)),
                                 .open_file = options_path(o, a, arena_printf(a, "run/%s.requests", g->writer)),
                                 .engines = {.socket_dir = options_path(o, a, "run/engines"), .site = o->site, .remote = &g->reach},
                                 .journal_dir = options_path(o, a, "ledger"),
                                 .max_body_bytes = (size_t)o->gateway_max_body,
                                 .bodies_bytes = (size_t)o->gateway_bodies_bytes,
                                 .tenant_bodies_bytes = (size_t)o->gateway_tenant_bodies_bytes,
                                 .max_connections = connections_that_fit(o->gateway_max_connections),
                                 .address_share = (int)o->gateway_address_share,
                                 .trusted = &g->trusted,
                                 .head_timeout_ms = (uint64_t)o->gateway_head_ms,
                                 .body_timeout_ms = (uint64_t)o->gateway_body_ms,
                                 .connect_timeout_ms = 2000,
                                 .first_byte_timeout_ms = (uint64_t)o->gateway_first_byte_ms,
                                 .idle_timeout_ms = (uint64_t)o->gateway_idle_ms,
                                 .routing = (enum pick_policy)o->gateway_routing,
                                 .queue_max = (size_t)o->gateway_queue_max,
                                 .queue_timeout_ms = (uint64_t)o->gateway_queue_ms,
                                 .hold_max = (size_t)o->gateway_hold_max,
                                 .hold_bytes = (size_t)o->gateway_hold_bytes,
                                 .hold_timeout_ms = (uint64_t)o->gateway_hold_ms,
                                 .otlp_endpoint = o->tracing_otlp_endpoint,
                                 .trace_per_million = o->tracing_sample,
                                 .decisions_file = options_path(o, a, arena_printf(a, "log/decisions-%s.jsonl", name)),
                                 .decisions_max_bytes = (size_t)o->gateway_decisions_bytes,
                                 .decisions_per_million = o->gateway_decisions,
                                 .hedging = o->gateway_hedging,
                                 .keepalive_ms = (uint64_t)o->gateway_keepalive_ms};
    struct net_addr addr, monitor_listen;
    int rc;
    if ((rc = file_mkdirs(go.journal_dir, 0700, err)) < 0 ||
        (rc = connect_api(g, err)) < 0 ||
        (rc = token_pepper_ensure(options_path(o, a, "pki/pepper"), &go.pepper, err)) < 0 ||
        (rc = role_listen_addr(o, a, name, o->gateway_listen, t->count > 1 ? t->fds[1] : -1, &go.listen, err)) < 0 ||
        (rc = role_listen_addr(o, a, metrics, o->metrics_gateway_listen, t->count ? t->fds[0] : -1, &monitor_listen,
                               err)) < 0)
        return rc;
    int monitor_taken = t->count && still_wanted(t->fds[0], &monitor_listen) ? t->fds[0] : 0;
    if (t->count > 1 && still_wanted(t->fds[1], &go.listen)) {
        go.listen_fds = t->fds + 1;
        go.listen_count = t->count - 1;
    }
    for (size_t i = 0; i < t->count; i++)
        if (i ? !go.listen_count : !monitor_taken)
            close(t->fds[i]);
    if (*o->gateway_tls_cert &&
        (rc = tls_server_ctx(o->gateway_tls_cert, o->gateway_tls_key, NULL, &g->tls, err)) < 0)
        return rc;
    vitals_ready("seki_gateway_ready", "1 while /readyz of the gateway answers 200, else 0.", checks, g);
    vitals_certificate("gateway-client", options_path(o, a, "pki/gateway.crt"));
    if (g->tls)
        vitals_certificate("gateway-server", o->gateway_tls_cert);
    go.client = g->client;
    go.tls = g->tls;
    if ((rc = gateway_start(&go, &g->gateway, err)) < 0 ||
        (rc = monitor_start(g->loop, &monitor_listen, monitor_taken, checks, g, &g->monitor, err)) < 0)
        return rc;
    if (t->conn >= 0 && (rc = takeover_done(t, err)) < 0)
        return rc;
    monitor_addr(g->monitor, &addr);
    if ((rc = tell_addr(g, metrics, &addr, err)) < 0)
        return rc;
    gateway_addr(g->gateway, &addr);
    if ((rc = tell_addr(g, name, &addr, err)) < 0)
        return rc;
    char text[NET_ADDR_TEXT_MAX];
    net_addr_format(&addr, text);
    log_info("gateway listens", KV("address", text), KV("tls", g->tls ? "on" : "off"));
    offer_takeover(g, name);
    g->left = (struct left_requests){go.journal_dir, other, options_path(o, a, arena_printf(a, "run/%s.requests", other)), LEFT_LOOK_MS};
    timer_init(&g->look, g->loop, look_for_left, g);
    look_for_left(&g->look);
    return 0;
}

int gateway_run(const struct command_line *cl, struct options *o, struct arena *a)
{
    struct gateway_role g = {.cl = cl, .options = o, .arena = a};
    struct err err = ERR_INIT;
    static const int signals[] = {SIGTERM, SIGINT, SIGHUP, SIGUSR2};
    int rc = wait_for_credentials(o, a);
    if (rc == 0)
        rc = loop_new(&g.loop, &err);
    for (size_t i = 0; rc == 0 && i < ARRAY_LEN(signals); i++)
        rc = loop_signal(g.loop, signals[i], on_signal, &g, &err);
    if (rc == 0)
        rc = reach_parse(o->engine_remote_allow, &g.reach, &err);
    if (rc == 0)
        rc = reach_parse(o->gateway_trusted_proxies, &g.trusted, &err);
    struct takeover t = {.conn = -1};
    if (rc == 0)
        rc = take_over(&g, role_gateway_name(o, a), &t, &err);
    if (rc == 0)
        rc = start(&g, &t, &err);
    file_closep(&t.conn);
    if (rc == 0)
        loop_run(g.loop);
    else if (err.code)
        log_error("the gateway cannot start", KVE(&err));
    timer_stop(&g.look);
    takeover_offer_free(g.offer);
    monitor_free(g.monitor);
    if (g.gateway)
        gateway_free(g.gateway);
    if (g.client)
        client_free(g.client);
    tls_ctx_unref(g.tls);
    if (g.loop)
        loop_free(g.loop);
    arena_free(g.held);
    reach_deinit(&g.reach);
    reach_deinit(&g.trusted);
    return rc == 0 ? 0 : 1;
}
