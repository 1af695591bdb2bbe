/* ServiceAccount of core/v1, and its tokens: the subresource "token" (TokenRequest of authentication.k8s.io/v1) makes them, service_account_identify() says whose they are.
 * Claims have the names that Kubernetes gives them.
 */
#include "base/clock.h"
#include "base/rnd.h"
#include "crypto/jwt.h"
#include "kinds/borrowed.h"

#define USER_PREFIX "system:serviceaccount:"
#define CREDENTIAL "authentication.kubernetes.io/credential-id"
#define LIFE_DEFAULT_S 3600
#define LIFE_MIN_S 600
#define LIFE_MAX_S 86400 /* who asks for more gets this */
#define LIFE_REFUSED_S (INT64_C(1) << 32)
#define SKEW_S 10
#define DELETION_LEEWAY_MS 60000 /* an account that is going may clean up behind itself */
#define TIME_MAX_S INT64_C(253402300799) /* the year 9999 */

/* ---- ServiceAccount ---- */

static const struct field fields[] = {
    {.name = "secrets", .type = FIELD_ANY, .help = "kept for clients that send it"},
    {.name = "imagePullSecrets", .type = FIELD_ANY, .help = "kept for clients that send it"},
    {.name = "automountServiceAccountToken", .type = FIELD_BOOL, .proto = 4, .help = "kept for clients that send it"},
    {0},
};

/* ---- TokenRequest ---- */

static const struct field bound_fields[] = {
    {.name = "kind", .type = FIELD_STRING, .proto = 1, .help = "Secret"},
    {.name = "apiVersion", .type = FIELD_STRING, .proto = 2, .help = "v1"},
    {.name = "name", .type = FIELD_STRING, .proto = 3, .help = "of the object"},
    {.name = "uid", .type = FIELD_STRING, .proto = 4, .help = "of the object; empty: whatever it is now"},
    {0},
};
static const struct field token_spec[] = {
    {.name = "audiences", .type = FIELD_LIST, .elem = FIELD_STRING, .flags = FIELD_NULLABLE, .proto = 1, .max = 100, .help = "for whom the token is; empty: this API"},
    {.name = "boundObjectRef", .type = FIELD_OBJECT, .flags = FIELD_NULLABLE, .proto = 3, .sub = bound_fields, .help = "the token ends with this object"},
    {.name = "expirationSeconds", .type = FIELD_INT, .flags = FIELD_NULLABLE, .proto = 4, .help = "how long it is good: 600 or more; over a day is a day"},
    {0},
};
static const struct field token_status[] = {
    {.name = "token", .type = FIELD_STRING, .flags = FIELD_SECRET, .proto = 1, .help = "the token"},
    {.name = "expirationTimestamp", .type = FIELD_TIME, .flags = FIELD_NULLABLE, .proto = 2, .help = "until when it is good"},
    {0},
};
static const struct field token_fields[] = {
    {.name = "spec", .type = FIELD_OBJECT, .flags = FIELD_REQUIRED, .proto = 2, .sub = token_spec, .help = "what is asked for"},
    {.name = "status", .type = FIELD_OBJECT, .proto = 3, .sub = token_status, .help = "the token"},
    {0},
};

static void validate_token(const struct kind_context *c UNUSED, const json_t *obj, const json_t *old_obj UNUSED, struct field_errors *errors)
{
    int64_t life = json_int(obj, "spec.expirationSeconds", LIFE_DEFAULT_S);
    if (life < LIFE_MIN_S)
        field_errors_add(errors, "spec.expirationSeconds", "FieldValueInvalid", "Invalid value: %lld: may not specify a duration less than 10 minutes", (long long)life);
    if (life > LIFE_REFUSED_S)
        field_errors_add(errors, "spec.expirationSeconds", "FieldValueInvalid", "Invalid value: %lld: may not specify a duration larger than 2^32 seconds", (long long)life);
    size_t i;
    json_t *v;
    json_array_foreach (json_at(obj, "spec.audiences"), i, v)
        if (!json_string_length(v))
            field_errors_add(errors, "spec.audiences", "FieldValueInvalid", "Invalid value: \"\": an audience has a name");
}

/* {name, uid} of the Secret that the token shall end with; *ret NULL: none. */
static int find_bound(const struct kind_context *c, const json_t *account, const json_t *obj, json_t **ret, struct err *err)
{
    const json_t *ref = json_at(obj, "spec.boundObjectRef");
    const char *kind = json_str_or(ref, "kind", ""), *version = json_str_or(ref, "apiVersion", ""), *name = json_str_or(ref, "name", ""), *uid = json_str_or(ref, "uid", "");
    *ret = NULL;
    if (!ref)
        return 0;
    if (strcmp(kind, "Secret") != 0 || strcmp(version, "v1") != 0)
        return err_field(err, ERR_BAD_REQUEST, "spec.boundObjectRef", "cannot bind token for serviceaccount \"%s\" to type apiVersion: %.64s, kind: %.64s: expected v1, Secret", obj_name(account),
                         version, kind);
    JSON_AUTO secret = c->server->get(c->server->ctx, &kind_secret, obj_namespace(account), name);
    if (!secret)
        return err_field(err, ERR_NOT_FOUND, "spec.boundObjectRef.name", "secrets \"%.253s\" not found", name);
    if (*uid && strcmp(uid, obj_uid(secret)) != 0)
        return err_field(err, ERR_CONFLICT, "spec.boundObjectRef.uid", "the UID in the bound object reference (%.64s) does not match the UID in record. The object might have been deleted and then recreated", uid);
    *ret = json_pack("{s:s, s:s}", "name", name, "uid", obj_uid(secret));
    return 0;
}

static json_t *claims_of(const struct kind_context *c, const json_t *account, const json_t *audiences, int64_t life_s, const json_t *secret)
{
    char id[UUID_TEXT_MAX];
    const char *ns = obj_namespace(account), *name = obj_name(account);
    json_int_t now = c->now_ms / 1000;
    rnd_uuid(id);
    json_t *claims = json_pack("{s:O, s:I, s:I, s:I, s:s, s:s, s:s, s:{s:s, s:{s:s, s:s}}}", "aud", audiences, "exp", now + (json_int_t)life_s, "iat", now, "nbf", now, "iss",
                               c->services->token_issuer, "jti", id, "sub", arena_printf(c->arena, USER_PREFIX "%s:%s", ns, name), "kubernetes.io", "namespace", ns, "serviceaccount", "name",
                               name, "uid", obj_uid(account));
    if (secret)
        json_object_set(json_object_get(claims, "kubernetes.io"), "secret", (json_t *)(uintptr_t)secret);
    return claims;
}

/* The request names the account again, or says nothing. */
static int check_name(const json_t *account, json_t *obj, struct err *err)
{
    const char *name = obj_name(obj);
    char now[CLOCK_TEXT_MAX];
    if (name && *name && strcmp(name, obj_name(account)) != 0)
        return err_field(err, ERR_BAD_REQUEST, "metadata.name", "the name in the request (%.253s) is not that of the account (%s)", name, obj_name(account));
    clock_format(clock_wall_ms(), now);
    json_put_str(obj, "metadata.name", obj_name(account));
    json_put_str(obj, "metadata.creationTimestamp", now);
    return 0;
}

static int make_token(const struct kind_context *c, const json_t *account, json_t *obj, struct err *err)
{
    CLEANUP(sbuf_deinit) struct sbuf token = {0};
    JSON_AUTO secret = NULL;
    char until[CLOCK_TEXT_MAX];
    int rc;
    if (!c->services || !c->services->token_key)
        return err_set(err, ERR_UNAVAILABLE, "this server makes no tokens");
    int64_t life_s = MIN(json_int(obj, "spec.expirationSeconds", LIFE_DEFAULT_S), LIFE_MAX_S);
    if ((rc = check_name(account, obj, err)) < 0 || (rc = find_bound(c, account, obj, &secret, err)) < 0)
        return rc;
    if (!json_array_size(json_at(obj, "spec.audiences")))
        json_put(obj, "spec.audiences", json_pack("[s]", c->services->token_issuer));
    json_put_int(obj, "spec.expirationSeconds", life_s);
    JSON_AUTO claims = claims_of(c, account, json_at(obj, "spec.audiences"), life_s, secret);
    sbuf_init(&token, JWT_MAX);
    if ((rc = jwt_sign(c->services->token_key, claims, &token, err)) < 0)
        return rc;
    clock_format((c->now_ms / 1000 + life_s) * 1000, until);
    json_put(obj, "status", json_pack("{s:s, s:s}", "token", token.ptr, "expirationTimestamp", until));
    return 0;
}

/* ---- whose token it is ---- */

static int refuse(struct err *err, const char *why)
{
    return err_set(err, ERR_UNAUTHENTICATED, "the token %s", why);
}

static int check_times(const json_t *claims, int64_t now_s, struct err *err)
{
    const json_t *exp = json_object_get(claims, "exp"), *nbf = json_object_get(claims, "nbf");
    if (!json_is_integer(exp) || !json_is_integer(nbf) || json_integer_value(exp) > TIME_MAX_S)
        return refuse(err, "does not say from when to when it is good");
    if (json_integer_value(exp) < now_s - SKEW_S)
        return refuse(err, "has expired");
    return json_integer_value(nbf) > now_s + SKEW_S ? refuse(err, "is not good yet") : 0;
}

/* The object is there, is the one that was meant, and was not deleted a while ago. */
static bool is_alive(const struct kind_server *s, const struct kind *k, const char *ns, const json_t *ref, int64_t now_ms)
{
    const char *name = json_str_or(ref, "name", ""), *uid = json_str_or(ref, "uid", "");
    JSON_AUTO obj = *name ? s->get(s->ctx, k, ns, name) : NULL;
    const char *deleted = json_str(obj, "metadata.deletionTimestamp");
    int64_t at_ms;
    if (!obj || strcmp(obj_uid(obj), uid) != 0)
        return false;
    return !deleted || (clock_parse(str_of(deleted), &at_ms) == 0 && now_ms < at_ms + DELETION_LEEWAY_MS);
}

int service_account_identify(const struct kind_server *s, struct arena *a, const char *issuer, const json_t *claims, int64_t now_ms, struct kind_user *ret, json_t **ret_extra, struct err *err)
{
    const json_t *own = json_object_get(claims, "kubernetes.io"), *account = json_object_get(own, "serviceaccount"), *secret = json_object_get(own, "secret");
    const char *ns = json_str_or(own, "namespace", ""), *name = json_str_or(account, "name", ""), *id = json_str(claims, "jti");
    int rc;
    if (strcmp(json_str_or(claims, "iss", ""), issuer) != 0)
        return refuse(err, "is of another issuer");
    if ((rc = check_times(claims, now_ms / 1000, err)) < 0)
        return rc;
    const char *user = arena_printf(a, USER_PREFIX "%s:%s", ns, name);
    if (!*ns || !*name || strcmp(json_str_or(claims, "sub", ""), user) != 0)
        return refuse(err, "names no service account");
    if (!is_alive(s, &kind_service_account, ns, account, now_ms))
        return refuse(err, "is of a service account that is gone");
    if (secret && !is_alive(s, &kind_secret, ns, secret, now_ms))
        return refuse(err, "is bound to a secret that is gone");
    const char **groups = ARENA_ARRAY(a, const char *, 4);
    groups[0] = "system:serviceaccounts";
    groups[1] = arena_printf(a, "system:serviceaccounts:%s", ns);
    groups[2] = "system:authenticated";
    *ret = (struct kind_user){.name = user, .uid = arena_strdup(a, json_str_or(account, "uid", "")), .groups = groups};
    *ret_extra = id ? json_pack("{s:[o]}", CREDENTIAL, json_sprintf("JTI=%s", id)) : NULL;
    return 0;
}

/* ---- the kinds ---- */

static const struct kind_ops token_ops = {.validate = validate_token};
const struct kind kind_token_request = {
    .group = "authentication.k8s.io", .version = "v1", .name = "TokenRequest", .plural = "tokenrequests", .singular = "tokenrequest", .namespaced = true, .native = true,
    .fields = token_fields, .ops = &token_ops, .help = "TokenRequest asks for a token of a service account.",
};
static const struct kind_subresource parts[] = {{.name = "token", .kind = &kind_token_request, .create = make_token}, {0}};
static const struct kind_ops ops = {.subresources = parts};
const struct kind kind_service_account = {
    .group = "", .version = "v1", .name = "ServiceAccount", .plural = "serviceaccounts", .singular = "serviceaccount", .short_names = "sa", .namespaced = true,
    .native = true, .readers = ROLE_VIEW, .writers = ROLE_EDIT, .fields = fields, .ops = &ops, .standing = "default", .help = "ServiceAccount is an identity for programs.",
};
