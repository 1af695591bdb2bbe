/* Watches that may not go on. A request is judged when it comes; a watch runs for as long as its client likes, and sees to it here that it is judged again when something changes that it was
 * allowed by: its tenant's state, the account whose token it came with, the break-glass access that it came by, roles and bindings. (Revoked users: revoked.c. What proved who watches ends: watch.c.)
 */
#include "apiserver/api.h"
#include "base/mem.h"
#include "kinds/borrowed.h"
#include "kinds/tenancy.h"

#define SOON_MS 200 /* roles come many at a time */

struct expel {
    struct apiserver *server;
    struct timer timer;
    VEC(struct store_watch *) feeds;
};

/* Whether a user, if that is an account, is there: of that uid, when it is known. */
static bool is_there(struct api_request *q, const char *user, const char *uid)
{
    struct str rest = str_of(user ? user : ""), ns;
    struct kind_server server = api_kind_server(q->server);
    if (!str_starts(rest, STR(RBAC_ACCOUNT_USER)))
        return true;
    rest = str_skip(rest, strlen(RBAC_ACCOUNT_USER));
    if (!str_cut(&rest, ':', &ns))
        return true;
    JSON_AUTO account = server.get(server.ctx, &kind_service_account, arena_strndup(q->arena, ns), arena_strndup(q->arena, rest));
    return account && (!uid || !*uid || !strcmp(obj_uid(account), uid));
}

static int judge(struct api_request *q, struct err *err)
{
    if (!is_there(q, q->credential.user, NULL) || !is_there(q, q->user.name, q->user.uid))
        return err_set(err, ERR_UNAUTHENTICATED, "Unauthorized");
    if (q->credential.user && authn_announced(q->server, q->credential.user) == ERR_UNAUTHENTICATED)
        return err_set(err, ERR_UNAUTHENTICATED, "Unauthorized");
    return tenant_check(q, err);
}

void apiserver_access_over(struct apiserver *s)
{
    if (s->expel)
        timer_start(&s->expel->timer, 0);
}

static void on_timer(struct timer *t)
{
    struct expel *e = t->arg;
    api_watches_judge(e->server, judge);
}

static void on_role(void *arg, const struct store_event *e UNUSED)
{
    struct expel *x = arg;
    if (!timer_armed(&x->timer))
        timer_start(&x->timer, SOON_MS);
}

static void on_account(void *arg, const struct store_event *e)
{
    struct expel *x = arg;
    if (!e->now)
        timer_start(&x->timer, 0);
}

static void on_tenant(void *arg, const struct store_event *e)
{
    struct expel *x = arg;
    JSON_AUTO now = e->now ? object_of(e->now) : NULL;
    JSON_AUTO prev = e->prev ? object_of(e->prev) : NULL;
    if (now && prev && strcmp(tenant_state(now), tenant_state(prev)) != 0)
        timer_start(&x->timer, 0);
}

static void follow(struct expel *x, const struct kind *k, void (*fn)(void *arg, const struct store_event *e))
{
    CLEANUP(sbuf_deinit) struct sbuf prefix = {0};
    struct store *store = x->server->store;
    struct store_watch *w;
    sbuf_init(&prefix, 256);
    object_prefix(k, NULL, &prefix);
    if (store_watch(store, sbuf_str(&prefix), store_rev(store), fn, x, &w, NULL) == 0)
        *VEC_PUSH(&x->feeds) = w;
}

void expel_start(struct apiserver *s)
{
    static const struct kind *const roles[] = {&kind_role, &kind_cluster_role, &kind_role_binding, &kind_cluster_role_binding};
    struct expel *x = XNEW(struct expel);
    *x = (struct expel){.server = s, .feeds = VEC_INIT};
    s->expel = x;
    timer_init(&x->timer, s->loop, on_timer, x);
    follow(x, &kind_tenant, on_tenant);
    follow(x, &kind_service_account, on_account);
    for (size_t i = 0; i < ARRAY_LEN(roles); i++)
        follow(x, roles[i], on_role);
}

void expel_stop(struct apiserver *s)
{
    struct expel *x = s->expel;
    if (!x)
        return;
    VEC_FOREACH (&x->feeds, w)
        store_watch_stop(*w);
    VEC_DEINIT(&x->feeds);
    timer_stop(&x->timer);
    mem_free(x);
    s->expel = NULL;
}
