/* Who asks, and whether they may: client certificates, hashed static tokens, tokens of service accounts, RBAC. */
#include "apiserver/api.h"
#include "apiserver/audit.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "crypto/jwt.h"
#include "crypto/pki.h"
#include "kinds/borrowed.h"
#include "kinds/tenancy.h"
#include "policy/rules.h"

#define TOKEN_FILE_MAX (16 * 1024 * 1024)
#define AUTHENTICATED "system:authenticated"
#define VERIFIED_MAX 2000 /* tokens whose signature is remembered */

/* ---- authentication ---- */

static void add_group(struct api_user *u, const char *group)
{
    for (size_t i = 0; i < API_GROUPS_MAX; i++)
        if (!u->groups[i]) {
            u->groups[i] = group;
            return;
        }
}

static void drop_claims(void *claims)
{
    json_decref(claims);
}

int authn_load_tokens(struct apiserver *s, struct err *err)
{
    s->tokens = map_new(NULL);
    s->verified = map_new(drop_claims);
    if (!s->o.token_file)
        return 0;
    CLEANUP(mem_freep) char *text = NULL;
    size_t len = 0;
    int rc = file_read(s->o.token_file, TOKEN_FILE_MAX, &text, &len, err), line_no = 0;
    if (rc < 0)
        return rc;
    struct str rest = str_n(text, len), line;
    while (str_cut(&rest, '\n', &line)) {
        struct str fields = str_trim(line), hash, user, group;
        line_no++;
        if (!fields.len || fields.ptr[0] == '#')
            continue;
        if (!str_cut(&fields, ' ', &hash) || hash.len != 64 || !str_cut(&fields, ' ', &user) || !user.len)
            return err_set(err, ERR_INVALID, "%s:%d: expected SHA-256 in hex, user, groups separated by commas", s->o.token_file, line_no);
        struct api_user *u = ARENA_NEW(s->arena, struct api_user);
        u->name = arena_strndup(s->arena, user);
        struct str groups = str_trim(fields);
        while (str_cut(&groups, ',', &group))
            if (group.len)
                add_group(u, arena_strndup(s->arena, group));
        add_group(u, AUTHENTICATED);
        map_set(s->tokens, hash, u);
    }
    return 0;
}

static bool list_has(const json_t *list, const char *text)
{
    size_t i;
    json_t *v;
    json_array_foreach (list, i, v)
        if (json_is_string(v) && text && !strcmp(json_string_value(v), text))
            return true;
    return false;
}

/* Which of the audiences asked for (NULL or empty: this API) the token is meant for; NULL: none. has: a text, or a list of them. */
static json_t *common_audiences(struct apiserver *s, const json_t *asked, const json_t *has)
{
    json_t *own = json_pack("[s]", s->o.services.token_issuer), *ret = json_array(), *v;
    size_t i;
    json_array_foreach (json_array_size(asked) ? asked : own, i, v)
        if (json_is_array(has) ? list_has(has, json_string_value(v)) : json_equal(has, v))
            json_array_append(ret, v);
    json_decref(own);
    if (json_array_size(ret))
        return ret;
    json_decref(ret);
    return NULL;
}

static void release(void *extra)
{
    json_decref(extra);
}

/* Looks at everything that costs little first: a stranger cannot make up the uid of an account, and so never has a signature checked. */
static int by_account(struct apiserver *s, struct arena *a, const json_t *claims, const json_t *audiences, struct api_user *ret, json_t **ret_audiences, struct err *err)
{
    struct kind_server server = api_kind_server(s);
    struct kind_user u = {0};
    json_t *extra = NULL, *meant;
    int rc = service_account_identify(&server, a, s->o.services.token_issuer, claims, clock_wall_ms(), &u, &extra, err);
    if (rc < 0)
        return rc;
    if (extra)
        arena_on_free(a, release, extra);
    if (!(meant = common_audiences(s, audiences, json_object_get(claims, "aud"))))
        return err_set(err, ERR_UNAUTHENTICATED, "the token is meant for other audiences");
    *ret = (struct api_user){.name = u.name, .uid = u.uid, .extra = extra, .issued_ms = json_int(claims, "iat", 0) * 1000, .expires_ms = json_int(claims, "exp", 0) * 1000};
    for (size_t i = 0; u.groups[i]; i++)
        add_group(ret, u.groups[i]);
    *ret_audiences = meant;
    return 0;
}

/* Forgets those that have expired; all, when that is not enough. */
static void make_room(struct apiserver *s)
{
    struct map_iter it = MAP_ITER_INIT;
    if (map_len(s->verified) < VERIFIED_MAX)
        return;
    while (map_next(s->verified, &it))
        if (json_int(it.value, "exp", 0) < clock_wall_ms() / 1000)
            map_del(s->verified, it.key);
    if (map_len(s->verified) >= VERIFIED_MAX)
        map_clear(s->verified);
}

/* A person of an issuer elsewhere. Like static tokens, what they show is for this API; that it is meant for us, by the issuer's names, the configuration has said. */
static int by_person(struct apiserver *s, struct arena *a, const char *hash, const struct jwt *t, const json_t *audiences, struct api_user *ret, json_t **ret_audiences, struct err *err)
{
    JSON_AUTO own = json_string(s->o.services.token_issuer);
    struct oidc_person p;
    json_t *meant;
    int rc = oidc_identify(s->o.issuers, hash, t, a, &p, err);
    if (rc < 0)
        return rc;
    if (!(meant = common_audiences(s, audiences, own)))
        return err_set(err, ERR_UNAUTHENTICATED, "the token is meant for other audiences");
    *ret = (struct api_user){.name = p.name, .uid = p.uid, .issued_ms = p.issued_ms, .expires_ms = p.expires_ms, .by_issuer = true};
    for (size_t i = 0; p.groups[i]; i++)
        add_group(ret, p.groups[i]);
    add_group(ret, AUTHENTICATED);
    if (t)
        ret->new_token = arena_strdup(a, json_str_or(t->claims, "jti", hash));
    *ret_audiences = meant;
    return 0;
}

static int by_web_token(struct apiserver *s, struct arena *a, struct str token, const char *hash, const json_t *audiences, struct api_user *ret, json_t **ret_audiences, const char **ret_issuer,
                        struct err *err)
{
    const json_t *known = map_getc(s->verified, hash);
    CLEANUP(jwt_deinit) struct jwt t = {0};
    JSON_AUTO meant = NULL;
    struct api_user u = {0};
    int rc;
    if (!known && s->o.issuers && (rc = by_person(s, a, hash, NULL, audiences, ret, ret_audiences, err)) != ERR_NOT_FOUND)
        return rc;
    if (!known && (rc = jwt_parse(token, &t, err)) < 0)
        return rc;
    const char *issuer = json_str(t.claims, "iss");
    if (!known && issuer && oidc_knows(s->o.issuers, issuer)) {
        *ret_issuer = arena_strdup(a, issuer);
        return by_person(s, a, hash, &t, audiences, ret, ret_audiences, err);
    }
    if (!s->o.services.token_key)
        return err_set(err, ERR_UNAUTHENTICATED, "the token is not known here");
    if ((rc = by_account(s, a, known ? known : t.claims, audiences, &u, &meant, err)) < 0)
        return rc;
    if (!known) {
        if ((rc = jwt_verify(s->o.services.token_key, &t, err)) < 0)
            return rc;
        make_room(s);
        map_set(s->verified, str_of(hash), json_incref(t.claims));
        u.new_token = arena_strdup(a, json_str_or(t.claims, "jti", ""));
    }
    *ret = u;
    *ret_audiences = json_incref(meant);
    return 0;
}

static int check_token(struct apiserver *s, struct arena *a, struct str token, const json_t *audiences, struct api_user *ret, json_t **ret_audiences, const char **ret_issuer, struct err *err)
{
    uint8_t digest[SHA256_BYTES];
    char hex[SHA256_HEX_MAX];
    if (token.len > JWT_MAX)
        return err_set(err, ERR_UNAUTHENTICATED, "the token is too long");
    hash_sha256(token, digest);
    hash_hex(digest, sizeof(digest), hex);
    const struct api_user *u = map_getc(s->tokens, hex);
    if (!u)
        return by_web_token(s, a, token, hex, audiences, ret, ret_audiences, ret_issuer, err);
    JSON_AUTO own = json_string(s->o.services.token_issuer); /* static tokens are for this API and nobody else */
    json_t *meant = common_audiences(s, audiences, own);
    if (!meant)
        return err_set(err, ERR_UNAUTHENTICATED, "the token is meant for other audiences");
    *ret = *u;
    *ret_audiences = meant;
    return 0;
}

int authn_token(struct apiserver *s, struct arena *a, struct str token, const json_t *audiences, struct api_user *ret, json_t **ret_audiences, struct err *err)
{
    struct api_user u = {0};
    JSON_AUTO meant = NULL;
    const char *issuer = NULL;
    int rc = check_token(s, a, token, audiences, &u, &meant, &issuer, err);
    if (rc == ERR_BUSY) /* whoever asks about a token asks again */
        return err_set(err, ERR_UNAUTHENTICATED, "keys of the token's issuer are being fetched");
    if (rc < 0)
        return rc;
    if (revoked_user(s, u.name, authn_tenant(s, a, &u), u.issued_ms))
        return err_set(err, ERR_UNAUTHENTICATED, "the user's tokens of before are revoked");
    *ret = u;
    *ret_audiences = json_incref(meant);
    return 0;
}

const char *authn_tenant(struct apiserver *s, struct arena *a, const struct api_user *u)
{
    struct str rest = str_of(u->name), name;
    if (str_starts(rest, STR(RBAC_ACCOUNT_USER))) {
        struct kind_server server = api_kind_server(s);
        rest = str_skip(rest, strlen(RBAC_ACCOUNT_USER));
        JSON_AUTO project = str_cut(&rest, ':', &name) ? server.get(server.ctx, &kind_namespace, "", arena_strndup(a, name)) : NULL;
        const char *tenant = project ? obj_label(project, LABEL_TENANT) : NULL;
        return tenant && *tenant ? arena_strdup(a, tenant) : NULL;
    }
    for (size_t i = 0; u->groups[i]; i++)
        if (str_starts(str_of(u->groups[i]), STR(TENANT_GROUP))) {
            rest = str_skip(str_of(u->groups[i]), strlen(TENANT_GROUP));
            return str_cut(&rest, ':', &name) && name.len ? arena_strndup(a, name) : NULL;
        }
    return NULL;
}

static int by_header(struct apiserver *s, struct str header, struct arena *a, struct api_user *ret, const char **ret_issuer)
{
    struct str scheme;
    JSON_AUTO audiences = NULL;
    if (!str_cut(&header, ' ', &scheme) || !str_ieq(scheme, STR("bearer")))
        return ERR_UNAUTHENTICATED;
    return check_token(s, a, str_trim(header), NULL, ret, &audiences, ret_issuer, NULL);
}

/* TLS looked at the certificate when the connection began; that may be long ago. */
int authn_announced(struct apiserver *s, const char *user)
{
    struct str name = str_of(user), prefix = STR(BREAK_GLASS_USER);
    if (!str_starts(name, prefix))
        return 0;
    return s->o.break_glass ? s->o.break_glass(s->o.break_glass_ctx, name.ptr + prefix.len) : ERR_UNAUTHENTICATED;
}

static int by_certificate(struct apiserver *s, struct http_request *r, struct arena *a, struct api_user *ret)
{
    struct conn_peer peer;
    if (!http_request_peer(r, &peer) || peer.not_after_ms <= clock_wall_ms())
        return ERR_UNAUTHENTICATED;
    int rc = authn_announced(s, peer.common_name);
    if (rc < 0)
        return rc;
    ret->name = arena_strdup(a, peer.common_name);
    ret->issued_ms = peer.not_before_ms + PKI_BACKDATE_S * 1000;
    ret->expires_ms = peer.not_after_ms;
    for (int i = 0; i < peer.org_count; i++)
        add_group(ret, arena_strdup(a, peer.orgs[i]));
    add_group(ret, AUTHENTICATED);
    return 0;
}

int authn_http(struct apiserver *s, struct http_request *r, struct arena *a, struct api_user *ret, const char **ret_issuer)
{
    memset(ret, 0, sizeof(*ret));
    struct str header = http_header_get(&r->head, "authorization");
    int rc = header.ptr ? by_header(s, header, a, ret, ret_issuer) : by_certificate(s, r, a, ret);
    if (rc < 0)
        return rc;
    ret->tenant = authn_tenant(s, a, ret);
    return revoked_user(s, ret->name, ret->tenant, ret->issued_ms) ? ERR_UNAUTHENTICATED : 0;
}

/* ---- authorisation ---- */

static const struct kind *const rbac_kinds[] = {&kind_role, &kind_cluster_role, &kind_role_binding, &kind_cluster_role_binding};

void authz_start(struct apiserver *s)
{
    s->rbac_rev = -1;
}

struct docs {
    VEC(const json_t *) list;
};

static bool collect(void *arg, struct store_value *v)
{
    struct docs *d = arg;
    *VEC_PUSH(&d->list) = object_of(v);
    return true;
}

static void rebuild(struct apiserver *s)
{
    struct docs d = {.list = VEC_INIT};
    for (size_t i = 0; i < ARRAY_LEN(rbac_kinds); i++) {
        CLEANUP(sbuf_deinit) struct sbuf prefix = {0};
        sbuf_init(&prefix, 256);
        object_prefix(rbac_kinds[i], NULL, &prefix);
        (void)!store_range(s->store, sbuf_str(&prefix), STR_NULL, 0, 0, collect, &d, NULL);
    }
    rbac_free(s->rbac);
    s->rbac_builds++;
    s->rbac = rbac_build(d.list.ptr, d.list.len, clock_wall_ms());
    VEC_FOREACH (&d.list, doc)
        json_decref((json_t *)(uintptr_t)*doc);
    VEC_DEINIT(&d.list);
}

static bool has_changed(struct apiserver *s)
{
    for (size_t i = 0; i < ARRAY_LEN(rbac_kinds); i++) {
        CLEANUP(sbuf_deinit) struct sbuf prefix = {0};
        sbuf_init(&prefix, 256);
        object_prefix(rbac_kinds[i], NULL, &prefix);
        if (store_changed(s->store, sbuf_str(&prefix), s->rbac_rev))
            return true;
    }
    return false;
}

/* The roles as of now. Not by a watch: its events come a turn of the loop later than the answer to the write, and what was taken away is gone from that answer on. */
const struct rbac *authz_current(struct apiserver *s)
{
    int64_t rev = store_rev(s->store);
    bool over = s->rbac && rbac_good_until(s->rbac) != INT64_MAX && rbac_good_until(s->rbac) <= clock_wall_ms();
    if (s->rbac_rev == rev && !over)
        return s->rbac;
    if (over || s->rbac_rev < 0 || has_changed(s))
        rebuild(s);
    s->rbac_rev = rev;
    return s->rbac;
}

bool authz_allows_as(struct apiserver *s, const struct rbac_request *r)
{
    return rbac_allows(authz_current(s), r);
}

/* Of whose objects a list or watch is, when its label selector says so. */
static const char *only_tenant(struct api_request *q)
{
    struct selector *selector = NULL;
    bool many = !strcmp(q->verb, "list") || !strcmp(q->verb, "watch");
    if (!many || selector_parse(q->arena, q->kind, api_query(q, "labelSelector"), STR(""), &selector, NULL) < 0)
        return "";
    const char *tenant = selector_only_label(selector, LABEL_TENANT);
    return tenant ? tenant : "";
}

/* Whose the object is; "": nobody's, or it is not there. */
static const char *tenant_of(struct api_request *q)
{
    struct kind_server server = api_kind_server(q->server);
    JSON_AUTO obj = server.get(server.ctx, q->kind, "", q->name);
    const char *tenant = obj ? obj_label(obj, LABEL_TENANT) : NULL;
    return tenant ? arena_strdup(q->arena, tenant) : "";
}

/* A list or watch that shows one object at most is of that object, as Kubernetes has it: whoever may list it by resourceNames, may. */
static const char *only_name(struct api_request *q)
{
    struct selector *selector = NULL;
    struct str fields = api_query(q, "fieldSelector");
    bool many = !strcmp(q->verb, "list") || !strcmp(q->verb, "watch");
    if (!many || !fields.len || selector_parse(q->arena, q->kind, STR(""), fields, &selector, NULL) < 0)
        return "";
    const char *name = selector_only_name(selector);
    return name && !strpbrk(name, "/%") && strcmp(name, ".") != 0 && strcmp(name, "..") != 0 ? name : "";
}

struct rbac_request authz_question(struct api_request *q)
{
    struct rbac_request r = {.user = q->user.name, .groups = q->user.groups, .verb = q->verb, .path = q->path};
    if (q->kind) {
        bool whole_namespace = !strcmp(q->kind->plural, "namespaces") && !*q->kind->group; /* a namespace object lies in its own scope */
        r.group = q->kind->group;
        r.resource = q->kind->plural;
        r.subresource = q->sub;
        r.namespace = whole_namespace ? q->name : q->ns;
        const char *tenant = q->kind->listed_by_tenant && !*q->name ? only_tenant(q) : "";
        r.name = *q->name ? (q->kind->of_tenants ? tenant_of(q) : q->name) : *tenant ? tenant : q->kind->of_tenants ? "" : only_name(q);
    }
    return r;
}

bool authz_allows(struct apiserver *s, struct api_request *q)
{
    struct rbac_request r = authz_question(q);
    if (!audit_wants_rule(q))
        return authz_allows_as(s, &r);
    struct rbac_rule rule;
    bool allowed = rbac_decide(authz_current(s), &r, &rule);
    q->rule = !allowed ? "" : *rule.role ? arena_printf(q->arena, "%s/%s%s%s → %s/%s", rule.kind, rule.namespace, *rule.namespace ? "/" : "", rule.name, rule.role_kind, rule.role)
                         : arena_printf(q->arena, "%s/%s", rule.kind, rule.name);
    return allowed;
}

/* ---- for the kinds ---- */

static bool kind_may(const struct kind_context *c, const char *verb, const char *group, const char *resource, const char *ns, const char *name)
{
    const struct api_request *q = c->asker;
    struct rbac_request r = {.user = q->user.name, .groups = q->user.groups, .verb = verb, .group = group, .resource = resource, .subresource = "", .namespace = ns, .name = name};
    return authz_allows_as(q->server, &r);
}

static bool kind_holds(const struct kind_context *c, const json_t *rules, struct sbuf *why)
{
    const struct api_request *q = c->asker;
    JSON_AUTO held = rbac_rules(authz_current(q->server), q->user.name, q->user.groups, q->ns);
    JSON_AUTO missing = rules_missing(held, rules);
    if (!json_array_size(missing))
        return true;
    sbuf_addc(why, "user ");
    sbuf_add_json(why, str_of(q->user.name));
    sbuf_addc(why, " (groups=[");
    for (size_t i = 0; q->user.groups[i]; i++) {
        sbuf_addc(why, i ? " " : "");
        sbuf_add_json(why, str_of(q->user.groups[i]));
    }
    sbuf_addc(why, "]) is attempting to grant RBAC permissions not currently held:\n");
    rules_text(missing, why);
    return false;
}

/* One that was made with another tenant. */
static bool is_foreign_role(const struct api_request *q, const char *name)
{
    struct kind_server server = api_kind_server(q->server);
    JSON_AUTO role = q->user.tenant ? server.get(server.ctx, &kind_cluster_role, "", name) : NULL;
    const char *tenant = role ? obj_label(role, LABEL_TENANT) : NULL;
    return tenant && strcmp(tenant, q->user.tenant) != 0;
}

static const json_t *kind_role_rules(const struct kind_context *c, const char *kind, const char *name)
{
    const struct api_request *q = c->asker;
    if (!strcmp(kind, "ClusterRole") && is_foreign_role(q, name))
        return NULL;
    return rbac_role_rules(authz_current(q->server), kind, q->ns, name);
}

static void kind_about(const struct kind_context *c, const struct kind *k, const char *name)
{
    struct api_request *q = c->asker;
    q->about.kind = k;
    q->about.name = arena_strdup(q->arena, name);
}

static void kind_by_rule(const struct kind_context *c, const char *rule)
{
    struct api_request *q = c->asker;
    q->rule = arena_strdup(q->arena, rule);
}

const struct kind_access authz_kind_access = {.may = kind_may, .holds = kind_holds, .role_rules = kind_role_rules, .about = kind_about, .by_rule = kind_by_rule};
