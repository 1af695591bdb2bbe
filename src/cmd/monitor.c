#include "cmd/monitor.h"

#include "base/mem.h"
#include "base/metrics.h"

#define EXPOSITION_MAX (8 * 1024 * 1024)

struct monitor {
    struct http_server *server;
    const struct monitor_check *checks;
    void *arg;
};

static void answer_text(struct http_request *r, int status, const char *text)
{
    http_respond(r, status, "text/plain; charset=utf-8", NULL, 0, str_of(text));
}

static void answer_metrics(struct http_request *r)
{
    CLEANUP(sbuf_deinit) struct sbuf out = {0};
    sbuf_init(&out, EXPOSITION_MAX);
    metrics_write(&out);
    if (!sbuf_ok(&out)) {
        answer_text(r, 503, "the exposition is over its maximum size\n");
        return;
    }
    http_respond(r, 200, "text/plain; version=0.0.4; charset=utf-8", NULL, 0, sbuf_str(&out));
}

static void answer_ready(struct monitor *m, struct http_request *r)
{
    CLEANUP(sbuf_deinit) struct sbuf text = {0};
    bool verbose = str_starts(r->head.query, STR("verbose")), failed = false;
    sbuf_init(&text, 64 * 1024);
    for (const struct monitor_check *c = m->checks; c->name; c++) {
        struct err err = ERR_INIT;
        int rc = c->check(m->arg, &err);
        failed |= rc != 0;
        if (rc != 0)
            sbuf_addf(&text, "[-]%s failed: %s\n", c->name, err.msg);
        else if (verbose)
            sbuf_addf(&text, "[+]%s ok%s%s\n", c->name, *err.msg ? ": " : "", err.msg);
    }
    sbuf_addc(&text, failed ? "not ready\n" : "ok\n");
    http_respond(r, failed ? 503 : 200, "text/plain; charset=utf-8", NULL, 0, sbuf_str(&text));
}

static void on_request(void *ctx, struct http_request *r)
{
    struct monitor *m = ctx;
    if (!str_eqc(r->head.method, "GET") && !str_eqc(r->head.method, "HEAD")) {
        answer_text(r, 405, "only GET\n");
    } else if (str_eqc(r->head.path, "/metrics")) {
        answer_metrics(r);
    } else if (str_eqc(r->head.path, "/livez")) {
        answer_text(r, 200, "ok\n");
    } else if (str_eqc(r->head.path, "/readyz")) {
        answer_ready(m, r);
    } else {
        answer_text(r, 404, "not found; try /metrics, /livez or /readyz\n");
    }
}

static void on_abort(void *ctx UNUSED, struct http_request *r UNUSED)
{
}

int monitor_start(struct loop *l, const struct net_addr *listen, int listen_fd, const struct monitor_check *checks,
                  void *arg, struct monitor **ret, struct err *err)
{
    static const struct http_server_ops ops = {.on_request = on_request, .on_abort = on_abort};
    struct http_server_options o = {.listen = *listen,
                                    .listen_fd = listen_fd,
                                    .max_connections = 64,
                                    .max_head_bytes = 8192,
                                    .max_body_bytes = 1024};
    struct monitor *m = XNEW(struct monitor);
    m->checks = checks;
    m->arg = arg;
    int rc = http_server_start(l, &o, &ops, m, &m->server, err);
    if (rc < 0) {
        mem_free(m);
        return rc;
    }
    *ret = m;
    return 0;
}

int monitor_fd(const struct monitor *m)
{
    return http_server_fd(m->server);
}

void monitor_addr(const struct monitor *m, struct net_addr *ret)
{
    http_server_addr(m->server, ret);
}

void monitor_free(struct monitor *m)
{
    if (!m)
        return;
    http_server_free(m->server);
    mem_free(m);
}
