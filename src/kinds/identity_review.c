/* SelfSubjectReview and TokenReview of authentication.k8s.io/v1: who am I, and whose token is this. Virtual kinds. */
#include "kinds/borrowed.h"

#define GROUP "authentication.k8s.io"
#define TOKEN_MAX 16384

static const struct field user_fields[] = {
    {.name = "username", .type = FIELD_STRING, .help = "name of the user"},
    {.name = "uid", .type = FIELD_STRING, .help = "tells apart users who had the same name"},
    {.name = "groups", .type = FIELD_LIST, .elem = FIELD_STRING, .help = "of the user"},
    {.name = "extra", .type = FIELD_ANY, .help = "more about the user: lists of texts by name"},
    {0},
};
static const struct field self_status[] = {
    {.name = "userInfo", .type = FIELD_OBJECT, .sub = user_fields, .help = "who asks"},
    {0},
};
static const struct field self_fields[] = {
    {.name = "status", .type = FIELD_OBJECT, .proto = 2, .sub = self_status, .help = "the answer"},
    {0},
};
static const struct field token_spec[] = {
    {.name = "token", .type = FIELD_STRING, .proto = 1, .flags = FIELD_SECRET, .max = TOKEN_MAX, .help = "the bearer token"},
    {.name = "audiences", .type = FIELD_LIST, .proto = 2, .elem = FIELD_STRING, .flags = FIELD_NULLABLE, .max = 100, .help = "for whom the token should be; empty: this API"},
    {0},
};
static const struct field token_status[] = {
    {.name = "authenticated", .type = FIELD_BOOL, .help = "whether the token is somebody's"},
    {.name = "user", .type = FIELD_OBJECT, .sub = user_fields, .help = "whose it is"},
    {.name = "audiences", .type = FIELD_LIST, .elem = FIELD_STRING, .help = "those of the audiences in question that the token is for"},
    {.name = "error", .type = FIELD_STRING, .help = "why it is nobody's"},
    {0},
};
static const struct field token_fields[] = {
    {.name = "spec", .type = FIELD_OBJECT, .proto = 2, .flags = FIELD_REQUIRED, .sub = token_spec, .help = "the question"},
    {.name = "status", .type = FIELD_OBJECT, .proto = 3, .sub = token_status, .help = "the answer"},
    {0},
};

static json_t *info_of(const struct kind_user *u)
{
    json_t *info = json_pack("{s:s}", "username", u->name), *groups = json_array();
    if (*u->uid)
        json_object_set_new(info, "uid", json_string(u->uid));
    for (size_t i = 0; u->groups && u->groups[i]; i++)
        json_array_append_new(groups, json_string(u->groups[i]));
    if (json_array_size(groups))
        json_object_set(info, "groups", groups);
    json_decref(groups);
    if (json_object_size(u->extra))
        json_object_set(info, "extra", (json_t *)(uintptr_t)u->extra);
    return info;
}

static int answer_self(const struct kind_context *c, json_t *obj, struct err *err UNUSED)
{
    json_put(obj, "status.userInfo", info_of(c->user));
    return 0;
}

static void validate_token(const struct kind_context *c UNUSED, const json_t *obj, const json_t *old_obj UNUSED, struct field_errors *errors)
{
    review_check_metadata(obj, false, errors);
}

static int answer_token(const struct kind_context *c, json_t *obj, struct err *err)
{
    const char *token = json_str_or(obj, "spec.token", "");
    struct kind_user u = {0};
    JSON_AUTO audiences = NULL;
    struct err why = ERR_INIT;
    if (!*token)
        return err_field(err, ERR_BAD_REQUEST, "spec.token", "token is required for TokenReview in authentication");
    if (c->server->authenticate(c->server->ctx, c->arena, str_of(token), json_at(obj, "spec.audiences"), &u, &audiences, &why) < 0) {
        json_put(obj, "status", json_pack("{s:b, s:{}, s:s}", "authenticated", 0, "user", "error", why.msg));
        return 0;
    }
    json_put(obj, "status", json_pack("{s:b, s:o}", "authenticated", 1, "user", info_of(&u)));
    if (json_array_size(audiences))
        json_put(obj, "status.audiences", json_incref(audiences));
    return 0;
}

static const struct kind_ops self_ops = {.answer = answer_self}, token_ops = {.validate = validate_token, .answer = answer_token};

const struct kind kind_self_subject_review = {
    .group = GROUP, .version = "v1", .name = "SelfSubjectReview", .plural = "selfsubjectreviews", .singular = "selfsubjectreview", .native = true, .fields = self_fields,
    .ops = &self_ops, .help = "SelfSubjectReview asks who the one who asks is.",
};
const struct kind kind_token_review = {
    .group = GROUP, .version = "v1", .name = "TokenReview", .plural = "tokenreviews", .singular = "tokenreview", .native = true, .fields = token_fields, .ops = &token_ops,
    .help = "TokenReview asks whose bearer token this is.",
};
