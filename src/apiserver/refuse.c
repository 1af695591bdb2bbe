/* How a denied request is answered. Whoever belongs to a tenant is told of nothing that is not his tenant's: whether it is another's, the cloud's own or not there at all, it is not
 * found, by every verb and in the same words. Within his tenant, and of what is the whole cloud's, he is told that it is forbidden and whom to ask; so is who runs the cloud. Who else
 * belongs to no tenant is answered as Kubernetes does.
 */
#include "apiserver/api.h"
#include "kinds/borrowed.h"
#include "kinds/tenancy.h"

/* An object of the cluster (a namespace, too) that carries the label of the user's tenant. */
static bool is_own(struct api_request *q, const struct kind *k, const char *name)
{
    struct kind_server server = api_kind_server(q->server);
    JSON_AUTO obj = server.get(server.ctx, k, "", name);
    const char *tenant = obj ? obj_label(obj, LABEL_TENANT) : NULL;
    return tenant && !strcmp(tenant, q->user.tenant);
}

/* True: it is answered as not found. */
static bool hide(struct api_request *q, const struct kind *k, const char *name)
{
    if (!q->user.tenant || !*name || is_own(q, k, name) || tenant_serves_all(q))
        return false;
    const char *text = arena_printf(q->arena, "%s%s%s \"%s\" not found", k->plural, *k->group ? "." : "", k->group, name);
    json_t *details = json_pack("{s:s, s:s*, s:s}", "name", name, "group", *k->group ? k->group : NULL, "kind", k->plural);
    q->hidden = true;
    api_reply(q, 404, api_status(404, "Failure", err_reason(ERR_NOT_FOUND), text, details));
    return true;
}

static bool makes(const struct api_request *q)
{
    return !strcmp(q->verb, "create") && !*q->sub;
}

bool api_hide(struct api_request *q)
{
    if (q->about.kind)
        return hide(q, q->about.kind, q->about.name);
    if (!q->kind)
        return false;
    return q->kind->namespaced ? hide(q, &kind_namespace, q->ns) : !makes(q) && hide(q, q->kind, q->name); /* what is to be made is nobody's yet */
}

/* Who runs the cloud is told whose project ns it is, and what opens that. */
static const char *whom_an_operator_asks(struct api_request *q, const char *ns)
{
    struct kind_server server = api_kind_server(q->server);
    JSON_AUTO obj = *ns ? server.get(server.ctx, &kind_namespace, "", ns) : NULL;
    const char *tenant = obj ? obj_label(obj, LABEL_TENANT) : NULL;
    if (!tenant)
        return ": no role allows it; ask who administers this cloud";
    bool reads = !strcmp(q->verb, "get") || !strcmp(q->verb, "list") || !strcmp(q->verb, "watch");
    return reads && q->kind && q->kind->content ? arena_printf(q->arena, ": no role allows it; ask an admin of tenant \"%s\" for an AccessGrant", tenant)
                                                : arena_printf(q->arena, ": no role allows it; ask the admins of tenant \"%s\"", tenant);
}

/* Whom to ask about something in ns (or ""); own: it is of the user's tenant, if he has one. "" for others who belong to no tenant. */
static const char *whom_to_ask(struct api_request *q, const char *ns, bool own)
{
    if (tenant_serves_all(q))
        return whom_an_operator_asks(q, ns);
    if (!q->user.tenant)
        return "";
    return own ? arena_printf(q->arena, ": no role allows it; ask the admins of tenant \"%s\"", q->user.tenant) : ": no role allows it; ask the operator of this cloud";
}

void api_forbid(struct api_request *q)
{
    if (api_hide(q))
        return;
    if (!q->kind) {
        api_fail_code(q, ERR_FORBIDDEN, "forbidden: User \"%s\" cannot %s path \"%.200s\"%s", q->user.name, q->verb, q->path, whom_to_ask(q, "", false));
        return;
    }
    const char *what = arena_printf(q->arena, "%s%s%s", q->kind->plural, *q->sub ? "/" : "", q->sub);
    const char *named = *q->name ? arena_printf(q->arena, " \"%s\"", q->name) : "";
    const char *where = *q->ns ? arena_printf(q->arena, " in the namespace \"%s\"", q->ns) : " at the cluster scope";
    api_fail_code(q, ERR_FORBIDDEN, "%s%s is forbidden: User \"%s\" cannot %s resource \"%s\" in API group \"%s\"%s%s", api_resource_text(q), named, q->user.name, q->verb, what,
                  q->kind->group, where, whom_to_ask(q, q->ns, *q->ns || (q->kind == &kind_namespace && (*q->name || makes(q)))));
}

void api_forbid_as(struct api_request *q, const struct rbac_request *r)
{
    struct arena *a = q->arena;
    if (*r->namespace && hide(q, &kind_namespace, r->namespace))
        return;
    const char *what = arena_printf(a, "%s%s%s", r->resource, *r->subresource ? "/" : "", r->subresource);
    const char *named = *r->name ? arena_printf(a, " \"%s\"", r->name) : "";
    const char *where = *r->namespace ? arena_printf(a, " in the namespace \"%s\"", r->namespace) : " at the cluster scope";
    const char *text = arena_printf(a, "%s%s%s%s is forbidden: User \"%s\" cannot %s resource \"%s\" in API group \"%s\"%s%s", r->resource, *r->group ? "." : "", r->group, named, r->user, r->verb,
                                    what, r->group, where, whom_to_ask(q, r->namespace, *r->namespace != 0));
    json_t *details = json_pack("{s:s*, s:s*, s:s}", "name", *r->name ? r->name : NULL, "group", *r->group ? r->group : NULL, "kind", r->resource);
    api_reply(q, 403, api_status(403, "Failure", err_reason(ERR_FORBIDDEN), text, details));
}

void api_forbid_because(struct api_request *q, struct str why)
{
    if (api_hide(q))
        return;
    const char *named = *q->name ? arena_printf(q->arena, " \"%s\"", q->name) : "";
    const char *text = arena_printf(q->arena, "%s%s is forbidden: %.*s", api_resource_text(q), named, STR_ARG(why));
    api_reply(q, 403, api_status(403, "Failure", err_reason(ERR_FORBIDDEN), text, api_details(q)));
}
