/* Impersonation: a request that says Impersonate-User, -Group, -Uid, -Extra-KEY is served as that user, when who sends it may `impersonate` each of them. Nothing of the sender's
 * own access is left then. Who has sent it stays known as the request's `sender`: flow control and logs go by that. */
#include "apiserver/api.h"
#include "json/json.h"

#define PREFIX "impersonate-"
#define EXTRA "extra-"
#define AUTHENTICATION "authentication.k8s.io"
#define ACCOUNTS "system:serviceaccounts"
#define AUTHENTICATED "system:authenticated"
#define UNAUTHENTICATED "system:unauthenticated"
#define ANONYMOUS "system:anonymous"
#define EXTRAS_MAX 64
#define GROUPS_MAX 20

struct mask {
    struct api_request *q;
    struct api_user as;
    size_t group_count, extra_count;
    bool any;
};

/* One thing to be; what: "users" … False: the answer is given. */
static bool may_be(struct mask *m, const char *group, const char *what, const char *sub, const char *ns, const char *name)
{
    struct api_request *q = m->q;
    struct rbac_request r = {.user = q->user.name, .groups = q->user.groups, .verb = "impersonate", .group = group, .resource = what, .subresource = sub, .namespace = ns, .name = name};
    if (authz_allows_as(q->server, &r))
        return true;
    api_forbid_as(q, &r);
    return false;
}

static int too_much(const char *what, size_t max, struct err *err)
{
    return err_set(err, ERR_BAD_REQUEST, "a user may be impersonated with at most %zu %s", max, what);
}

static int add_group(struct mask *m, const char *group, struct err *err)
{
    if (m->group_count == GROUPS_MAX)
        return too_much("groups", GROUPS_MAX - 1, err);
    m->as.groups[m->group_count++] = group;
    return 0;
}

/* "system:serviceaccount:NAMESPACE:NAME" */
static bool is_account(struct mask *m, const char *user, const char **ret_ns, const char **ret_name)
{
    struct str rest = str_of(user), ns;
    if (!str_starts(rest, STR(RBAC_ACCOUNT_USER)))
        return false;
    rest = str_skip(rest, strlen(RBAC_ACCOUNT_USER));
    if (!str_cut(&rest, ':', &ns) || !field_dns_label(ns) || !field_dns_name(rest))
        return false;
    *ret_ns = arena_strndup(m->q->arena, ns);
    *ret_name = arena_strndup(m->q->arena, rest);
    return true;
}

/* False: the answer is given. */
static bool take_user(struct mask *m, const char *user, bool with_groups)
{
    const char *ns, *name;
    struct arena *a = m->q->arena;
    m->as.name = user;
    if (!is_account(m, user, &ns, &name))
        return may_be(m, "", "users", "", "", user);
    if (!may_be(m, "", "serviceaccounts", "", ns, name))
        return false;
    if (!with_groups) {
        m->as.groups[m->group_count++] = ACCOUNTS;
        m->as.groups[m->group_count++] = arena_printf(a, ACCOUNTS ":%s", ns);
    }
    return true;
}

/* False: the answer is given. */
static bool take_extra(struct mask *m, struct str key, const char *value)
{
    struct err err = ERR_INIT;
    struct str text;
    struct api_request *q = m->q;
    char *lower = arena_strndup(q->arena, key);
    for (char *p = lower; *p; p++)
        *p = (char)(*p >= 'A' && *p <= 'Z' ? *p + ('a' - 'A') : *p);
    if (http_decode(q->arena, str_of(lower), false, &text, &err) < 0 || !text.len || !str_utf8_valid(text)) {
        api_fail_code(q, ERR_BAD_REQUEST, "Impersonate-Extra-%.64s: the key is no percent-encoded text", lower);
        return false;
    }
    if (m->extra_count++ == EXTRAS_MAX) {
        (void)!too_much("extra values", EXTRAS_MAX, &err);
        api_fail(q, &err);
        return false;
    }
    const char *name = arena_strndup(q->arena, text);
    if (!may_be(m, AUTHENTICATION, "userextras", name, "", value))
        return false;
    if (!m->as.extra)
        m->as.extra = json_object();
    json_t *values = json_object_get(m->as.extra, name);
    if (!values) {
        values = json_array();
        json_object_set_new(m->as.extra, name, values);
    }
    json_array_append_new(values, json_string(value));
    return true;
}

/* One header; the user came before. False: the answer is given. */
static bool take(struct mask *m, struct str name, const char *value)
{
    struct err err = ERR_INIT;
    if (str_ieq(name, STR("user")))
        return true;
    if (str_ieq(name, STR("uid"))) {
        m->as.uid = value;
        return may_be(m, AUTHENTICATION, "uids", "", "", value);
    }
    if (str_ieq(name, STR("group"))) {
        if (!may_be(m, "", "groups", "", "", value))
            return false;
        if (add_group(m, value, &err) == 0)
            return true;
        api_fail(m->q, &err);
        return false;
    }
    if (name.len > strlen(EXTRA) && str_ieq(str_n(name.ptr, strlen(EXTRA)), STR(EXTRA)))
        return take_extra(m, str_skip(name, strlen(EXTRA)), value);
    /* What is not known here may have narrowed the access. */
    api_fail_code(m->q, ERR_BAD_REQUEST, "Impersonate-%.*s: not a header of impersonation: expected User, Group, Uid or Extra-KEY", (int)MIN(name.len, (size_t)64), name.ptr);
    return false;
}

static bool has_group(const struct mask *m, const char *group)
{
    for (size_t i = 0; i < m->group_count; i++)
        if (!strcmp(m->as.groups[i], group))
            return true;
    return false;
}

/* Who is known is in a group of all who are, unless the groups that were asked for say otherwise. */
static int complete(struct mask *m, struct err *err)
{
    bool anonymous = !strcmp(m->as.name, ANONYMOUS);
    if (has_group(m, UNAUTHENTICATED) || (!anonymous && has_group(m, AUTHENTICATED)))
        return 0;
    return add_group(m, anonymous ? UNAUTHENTICATED : AUTHENTICATED, err);
}

static bool is_ours(struct str name, struct str *ret_rest)
{
    if (name.len <= strlen(PREFIX) || !str_ieq(str_n(name.ptr, strlen(PREFIX)), STR(PREFIX)))
        return false;
    *ret_rest = str_skip(name, strlen(PREFIX));
    return true;
}

/* The user that the headers name, or NULL; whether there is any such header, and any for a group. ERR_BAD_REQUEST for bytes that are no text, and a user named twice. */
static int look(struct mask *m, const char **ret_user, bool *ret_groups, struct err *err)
{
    const struct http_head *head = &m->q->http->head;
    struct str name;
    for (size_t i = 0; i < head->header_count; i++) {
        struct str value = head->headers[i].value;
        if (!is_ours(head->headers[i].name, &name))
            continue;
        m->any = true;
        bool user = str_ieq(name, STR("user"));
        if (!str_utf8_valid(value) || ((user || str_ieq(name, STR("group")) || str_ieq(name, STR("uid"))) && !value.len))
            return err_set(err, ERR_BAD_REQUEST, "Impersonate-%.*s: expected UTF-8 text that is not empty", (int)MIN(name.len, (size_t)64), name.ptr);
        if (user && *ret_user)
            return err_set(err, ERR_BAD_REQUEST, "Impersonate-User: named twice");
        if (user)
            *ret_user = arena_strndup(m->q->arena, value);
        *ret_groups |= str_ieq(name, STR("group"));
    }
    if (m->any && !*ret_user)
        return err_set(err, ERR_BAD_REQUEST, "requested groups, a uid or extra without impersonating a user: expected Impersonate-User");
    return 0;
}

static bool put_on(struct mask *m)
{
    struct err err = ERR_INIT;
    struct api_request *q = m->q;
    const char *user = NULL;
    bool groups = false;
    struct str name;
    if (look(m, &user, &groups, &err) < 0) {
        api_fail(q, &err);
        return false;
    }
    if (!m->any)
        return true;
    if (!take_user(m, user, groups))
        return false;
    /* An answer lets go of the HTTP request; nothing of it is looked at afterwards. */
    for (size_t i = 0; i < q->http->head.header_count; i++)
        if (is_ours(q->http->head.headers[i].name, &name) && !take(m, name, arena_strndup(q->arena, q->http->head.headers[i].value)))
            return false;
    if (complete(m, &err) < 0) {
        api_fail(q, &err);
        return false;
    }
    return true;
}

static void release_extra(void *extra)
{
    json_decref(extra);
}

bool impersonate(struct api_request *q)
{
    struct mask m = {.q = q};
    q->refs++;
    bool done = q->http && put_on(&m);
    if (done && m.any) {
        q->sender = q->user.name;
        q->user = m.as;
        q->user.tenant = authn_tenant(q->server, q->arena, &q->user);
        if (m.as.extra)
            arena_on_free(q->arena, release_extra, m.as.extra);
    } else {
        json_decref(m.as.extra);
    }
    api_request_unref(q);
    return done;
}
