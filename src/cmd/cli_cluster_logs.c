/* seki cluster logs and seki cluster audit: what a cluster's control plane says, and who did what in it; through the API. */
#include <unistd.h>

#include "base/mem.h"
#include "base/str.h"
#include "cmd/cli.h"
#include "kinds/kaas.h"

#define FOLLOW_US 500000
#define PATH_MAX_BYTES 2048
#define TAIL_DEFAULT 20

struct reading {
    const char *name, *part, *component;
    int64_t tail;
    bool follow;
};

/* One piece: *ret_more, when there may be another at once. 0, or 1 with the reason printed. */
static int print_piece(struct cli *c, const struct reading *r, char after[256], bool *ret_more)
{
    CLEANUP(sbuf_deinit) struct sbuf path = {0};
    JSON_AUTO doc = NULL;
    struct err err = ERR_INIT;
    sbuf_init(&path, PATH_MAX_BYTES);
    kind_path(&kind_cluster, c->ns, r->name, r->part, &path);
    sbuf_addf(&path, "?component=%s&after=%s", r->component, after);
    if (r->tail && !*after)
        sbuf_addf(&path, "&tail=%lld", (long long)r->tail);
    if (client_get_path(c->client, path.ptr, &doc, &err) < 0)
        return cli_cluster_missing(c, r->name, &err);
    const char *text = json_str_or(doc, "text", ""), *next = json_str_or(doc, "metadata.continue", "");
    CLEANUP(mem_freep) char *plain = xstrdup(text); /* there is no end to pieces: not in the arena */
    fputs(cli_make_plain(plain), stdout);
    *ret_more = *text != 0;
    if (!str_to_array(str_of(next), after, 256)) {
        fputs("seki: the API answers with a token that is too long\n", stderr);
        return 1;
    }
    return fflush(stdout) == 0 && !ferror(stdout) ? 0 : 1;
}

static int print_all(struct cli *c, const struct reading *r)
{
    char after[256] = "";
    for (;;) {
        bool more = false;
        int rc = print_piece(c, r, after, &more);
        if (rc || (!more && !r->follow))
            return rc;
        if (!more)
            usleep(FOLLOW_US);
    }
}

static int read_tail(struct cli *c, int64_t *ret)
{
    const char *text = cli_flag(c, "--lines");
    if (text && str_to_i64(str_of(text), 1, INT32_MAX, ret) < 0)
        return cli_usage_error("--lines=%s: expected a number from 1", text);
    return 0;
}

static int run(struct cli *c, struct reading *r)
{
    r->follow = cli_switch(c, "--follow");
    if (c->json)
        return cli_usage_error("lines are printed as they were written: --output=json is not for them");
    if (read_tail(c, &r->tail) || cli_cluster_name(c, &r->name))
        return 2;
    if (cli_connect(c))
        return 1;
    return print_all(c, r);
}

int cli_cluster_logs(struct cli *c)
{
    static const char *const known[] = {"apiserver", "controllers", "scheduler", "etcd", "kms", "relay"};
    const char *component = cli_flag(c, "--component");
    struct reading r = {.part = "log", .component = component ? component : "apiserver", .tail = TAIL_DEFAULT};
    for (size_t i = 0; i < ARRAY_LEN(known); i++) {
        size_t n = strlen(known[i]);
        const char *member = r.component + n;
        if (!strncmp(r.component, known[i], n) && (!*member || (*member == '-' && strspn(member + 1, "12") == 1 && !member[2]))) /* which members there are the API knows */
            return run(c, &r);
    }
    return cli_usage_error("--component=%s: expected apiserver, controllers, scheduler, etcd, kms or relay, or a further member such as etcd-1", component);
}

int cli_cluster_audit(struct cli *c)
{
    struct reading r = {.part = "audit", .component = ""};
    return run(c, &r);
}
