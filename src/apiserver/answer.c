/* What the ops of kinds see of the server, and the kinds that are answered and never stored. */
#include "apiserver/api.h"
#include "apiserver/border_check.h"
#include "apiserver/audit.h"
#include "apiserver/limits.h"
#include "apiserver/meta.h"
#include "apiserver/sealing.h"
#include "base/clock.h"
#include "base/mem.h"

/* ---- the server, as ops see it ---- */

static struct rbac_request request_of(const struct kind_user *u)
{
    return (struct rbac_request){.user = u->name, .groups = u->groups};
}

static bool allows(void *ctx, const struct kind_user *u, const struct kind_action *a)
{
    struct rbac_request r = request_of(u);
    r.verb = a->verb;
    r.path = a->path;
    if (!a->path) {
        r.group = a->group;
        r.resource = a->resource;
        r.subresource = a->subresource;
        r.namespace = a->namespace;
        r.name = a->name;
    }
    return authz_allows_as(ctx, &r);
}

static void rules(void *ctx, const struct kind_user *u, const char *ns, void (*fn)(void *arg, const json_t *rule, bool wide), void *arg)
{
    struct rbac_request r = request_of(u);
    r.namespace = ns;
    rbac_each_rule(authz_current(ctx), &r, fn, arg);
}

static const struct kind_user *user_of(struct arena *a, const struct api_user *u)
{
    struct kind_user *ret = ARENA_NEW(a, struct kind_user);
    const char **groups = ARENA_ARRAY(a, const char *, API_GROUPS_MAX + 1);
    memcpy(groups, u->groups, sizeof(u->groups));
    *ret = (struct kind_user){.name = u->name ? u->name : "", .uid = u->uid ? u->uid : "", .groups = groups, .extra = u->extra};
    return ret;
}

static int authenticate(void *ctx, struct arena *a, struct str token, const json_t *audiences, struct kind_user *ret, json_t **ret_audiences, struct err *err)
{
    struct api_user u = {0};
    int rc = authn_token(ctx, a, token, audiences, &u, ret_audiences, err);
    if (rc == 0)
        *ret = *user_of(a, &u);
    return rc;
}

static json_t *get(void *ctx, const struct kind *k, const char *ns, const char *name)
{
    struct apiserver *s = ctx;
    CLEANUP(sbuf_deinit) struct sbuf key = {0};
    sbuf_init(&key, 1024);
    object_key(k, ns, name, &key);
    struct store_value *v = sbuf_ok(&key) ? store_get_pending(s->store, sbuf_str(&key)) : NULL;
    return v ? object_of_as(k, v) : NULL;
}

struct first {
    struct arena *arena;
    size_t skip; /* the key's part before the name */
    const char *name;
};

static bool keep_first(void *arg, struct store_value *v)
{
    struct first *f = arg;
    f->name = arena_strndup(f->arena, str_skip(v->key, f->skip));
    return false;
}

static const char *first(void *ctx, struct arena *a, const struct kind *k, const char *prefix)
{
    struct apiserver *s = ctx;
    CLEANUP(sbuf_deinit) struct sbuf key = {0};
    struct first f = {.arena = a};
    sbuf_init(&key, 1024);
    object_key(k, "", prefix, &key);
    if (!sbuf_ok(&key))
        return NULL;
    f.skip = key.len - strlen(prefix);
    (void)!store_range(s->store, sbuf_str(&key), STR_NULL, 0, 1, keep_first, &f, NULL);
    return f.name;
}

/* The tenant's own, too, may see in the ledger who did it. */
static int rotate_key(struct api_request *q, const char *tenant, struct err *err)
{
    JSON_AUTO about = json_pack("{s:{s:{s:s}}}", "metadata", "labels", LABEL_TENANT, tenant);
    return keyring_rotate(q->server->keyring, tenant, audit_note(q, tenant, about), err);
}

static int rotate_keys(struct api_request *q, const char *tenant, struct err *err)
{
    size_t count;
    VEC(char *) tenants = VEC_INIT;
    struct tenant_key **all = keyring_all(q->server->keyring, &count);
    for (size_t i = 0; i < count; i++)
        if (all[i]->current && (!*tenant || !strcmp(all[i]->tenant, tenant)))
            *VEC_PUSH(&tenants) = xstrdup(all[i]->tenant);
    int rc = *tenant && !tenants.len ? err_set(err, ERR_NOT_FOUND, "tenant \"%s\" has no keys: no secret of it is sealed", tenant) : 0;
    VEC_FOREACH (&tenants, t) {
        rc = rc < 0 ? rc : rotate_key(q, *t, err);
        mem_free(*t);
    }
    VEC_DEINIT(&tenants);
    return rc;
}

static int keys(void *ctx, void *asker, const char *tenant, bool rotate, json_t **ret, struct err *err)
{
    struct apiserver *s = ctx;
    struct api_request *q = asker;
    if (!s->keyring)
        return err_set(err, ERR_UNAVAILABLE, "this server seals nothing");
    int rc = rotate && !q->dry_run ? rotate_keys(q, tenant, err) : 0;
    if (rc < 0)
        return rc;
    *ret = reseal_report(s, tenant);
    reseal_wake(s); /* also for whoever asks again */
    return 0;
}

struct kind_server api_kind_server(struct apiserver *s)
{
    return (struct kind_server){.ctx = s, .allows = allows, .rules = rules, .authenticate = authenticate, .get = get, .first = first, .keys = keys, .ceiling = limits_ceiling, .barred = border_check};
}

struct kind_context api_kind_context(struct api_request *q)
{
    struct kind_server *server = ARENA_NEW(q->arena, struct kind_server);
    *server = api_kind_server(q->server);
    return (struct kind_context){.user = user_of(q->arena, &q->user), .namespace = q->ns, .now_ms = clock_wall_ms(), .arena = q->arena, .services = &q->server->o.services,
                                 .server = server, .access = &authz_kind_access, .asker = q};
}

/* ---- virtual kinds, and what is sent to a subresource of a kind's own ---- */

/* The question as its kind takes it: types, the namespace of the path, defaults. */
static int prepare(struct api_request *q, json_t *obj, struct err *err)
{
    int rc = api_check_shape(q, obj, err);
    if (rc < 0)
        return rc;
    const char *ns = json_str_or(obj, "metadata.namespace", "");
    if (*ns && strcmp(ns, q->ns) != 0)
        return err_field(err, ERR_BAD_REQUEST, "metadata.namespace", "the namespace of the provided object does not match the namespace sent on the request");
    if (q->kind->namespaced)
        json_put_str(obj, "metadata.namespace", q->ns);
    json_object_del(obj, "status");
    field_defaults(q->kind->fields, obj);
    return 0;
}

static bool is_valid(struct api_request *q, const struct kind_context *c, const json_t *obj)
{
    struct field_errors errors = {.arena = q->arena};
    field_validate(q->kind->fields, obj, "", &errors);
    if (!errors.count && q->kind->ops && q->kind->ops->validate)
        q->kind->ops->validate(c, obj, NULL, &errors);
    if (errors.count)
        api_fail_invalid(q, &errors);
    return errors.count == 0;
}

/* The object that a subresource belongs to; from here on the request is about the subresource's kind. */
static json_t *take_owner(struct api_request *q, const struct kind_subresource *sub)
{
    json_t *owner = get(q->server, q->kind, q->ns, q->name);
    if (owner)
        q->kind = sub->kind;
    else
        api_fail_code(q, ERR_NOT_FOUND, "%s \"%s\" not found", api_resource_text(q), q->name);
    return owner;
}

void api_answer(struct api_request *q)
{
    struct err err = ERR_INIT;
    const struct kind_subresource *sub = kind_subresource(q->kind, q->sub);
    JSON_AUTO obj = NULL;
    JSON_AUTO owner = NULL;
    if (q->kind->namespaced && !*q->ns)
        err_set(&err, ERR_METHOD, "the server does not allow this method on the requested resource: name a namespace");
    else if (sub && !(owner = take_owner(q, sub)))
        return;
    if (err.code || api_read_dry_run(q, &err) < 0 || api_parse_body(q, &err) < 0) {
        api_fail(q, &err);
        return;
    }
    struct kind_context c = api_kind_context(q);
    obj = json_deep_copy(q->body); /* local callers share theirs */
    if (prepare(q, obj, &err) < 0) {
        api_fail(q, &err);
        return;
    }
    if (!is_valid(q, &c, obj))
        return;
    int rc = sub ? sub->create(&c, owner, obj, &err) : q->kind->ops->answer(&c, obj, &err);
    if (rc == 0)
        api_reply(q, 201, shape_object(q, obj, 0, true));
    else if (rc != ERR_FORBIDDEN || !api_hide(q))
        api_fail(q, &err);
}
