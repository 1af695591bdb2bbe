#include "ledger/audit.h"

#include <arpa/inet.h>
#include <string.h>

#include "base/arena.h"
#include "base/clock.h"
#include "ledger/ledger.h"

#define TEXT_MAX 512
#define WRITTEN_MAX 1024 /* bytes of a text as JSON, with its quotation marks */
#define MEMBER_MAX 24    /* the longest name of a member with what is around it, or a number */

static const char *const type_names[] = {"write", "read", "token", "impersonation", "denied", "refused", "undone", "restored", "break_glass", "other"};

const char *audit_type_name(enum audit_type t)
{
    return type_names[t];
}

/* Texts of an event, by the names of their members. */
static const struct {
    const char *name;
    size_t offset;
} texts[] = {
    {"id", offsetof(struct audit_event, id)},
    {"user", offsetof(struct audit_event, user)},
    {"uid", offsetof(struct audit_event, uid)},
    {"sender", offsetof(struct audit_event, sender)},
    {"source", offsetof(struct audit_event, source)},
    {"agent", offsetof(struct audit_event, agent)},
    {"verb", offsetof(struct audit_event, verb)},
    {"group", offsetof(struct audit_event, group)},
    {"resource", offsetof(struct audit_event, resource)},
    {"subresource", offsetof(struct audit_event, subresource)},
    {"namespace", offsetof(struct audit_event, namespace)},
    {"name", offsetof(struct audit_event, name)},
    {"object", offsetof(struct audit_event, object)},
    {"tenant", offsetof(struct audit_event, tenant)},
    {"actor_tenant", offsetof(struct audit_event, actor_tenant)},
    {"rule", offsetof(struct audit_event, rule)},
    {"reason", offsetof(struct audit_event, reason)},
    {"origin", offsetof(struct audit_event, origin)},
    {"until", offsetof(struct audit_event, until)},
    {"first", offsetof(struct audit_event, first)},
    {"last", offsetof(struct audit_event, last)},
};
static const struct {
    const char *name;
    size_t offset;
} numbers[] = {
    {"rev", offsetof(struct audit_event, rev)},
    {"last_rev", offsetof(struct audit_event, last_rev)},
    {"count", offsetof(struct audit_event, count)},
};

static struct str *text_at(const struct audit_event *e, size_t i)
{
    return (struct str *)((char *)(uintptr_t)e + texts[i].offset);
}

static int64_t *number_at(const struct audit_event *e, size_t i)
{
    return (int64_t *)((char *)(uintptr_t)e + numbers[i].offset);
}

_Static_assert((ARRAY_LEN(texts) + AUDIT_GROUPS_MAX) * (WRITTEN_MAX + MEMBER_MAX) +
                           (ARRAY_LEN(numbers) + 3) * 2 * MEMBER_MAX <=
                       AUDIT_ENCODED_MAX &&
                   AUDIT_ENCODED_MAX + 2048 <= LEDGER_BODY_MAX,
               "any event has its record");

static void add_text(struct str s, struct sbuf *written, struct sbuf *out)
{
    s = str_utf8_head(s, TEXT_MAX);
    sbuf_reset(written);
    sbuf_add_json(written, s);
    while (!sbuf_ok(written) && s.len) {
        s = str_utf8_head(s, s.len / 2);
        sbuf_reset(written);
        sbuf_add_json(written, s);
    }
    sbuf_add(out, sbuf_str(written));
}

void audit_encode(const struct audit_event *e, struct sbuf *out)
{
    CLEANUP(sbuf_deinit) struct sbuf written = {0};
    sbuf_init(&written, WRITTEN_MAX);
    sbuf_addf(out, "{\"type\":\"%s\"", audit_type_name(e->type));
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        if (!text_at(e, i)->len)
            continue;
        sbuf_addf(out, ",\"%s\":", texts[i].name);
        add_text(*text_at(e, i), &written, out);
    }
    for (size_t i = 0; e->groups && e->groups[i] && i < AUDIT_GROUPS_MAX; i++) {
        sbuf_addc(out, i ? "," : ",\"groups\":[");
        add_text(str_of(e->groups[i]), &written, out);
    }
    if (e->groups && e->groups[0])
        sbuf_add_char(out, ']');
    if (e->status)
        sbuf_addf(out, ",\"status\":%d", e->status);
    for (size_t i = 0; i < ARRAY_LEN(numbers); i++)
        if (*number_at(e, i))
            sbuf_addf(out, ",\"%s\":%lld", numbers[i].name, (long long)*number_at(e, i));
    sbuf_add_char(out, '}');
}

static int decode_groups(const json_t *list, struct arena *a, struct audit_event *ret, struct err *err)
{
    size_t i;
    json_t *g;
    if (!list)
        return 0;
    if (!json_is_array(list) || json_array_size(list) > AUDIT_GROUPS_MAX)
        return err_set(err, ERR_INVALID, "an audit record whose groups are no list of at most %d", AUDIT_GROUPS_MAX);
    const char **groups = arena_alloc(a, (json_array_size(list) + 1) * sizeof(*groups));
    json_array_foreach (list, i, g) {
        if (!json_is_string(g))
            return err_set(err, ERR_INVALID, "an audit record with a group that is no text");
        groups[i] = arena_strdup(a, json_string_value(g));
    }
    groups[json_array_size(list)] = NULL;
    ret->groups = groups;
    return 0;
}

int audit_decode(struct str body, struct arena *a, struct audit_event *ret, struct err *err)
{
    JSON_AUTO doc = NULL;
    struct audit_event e = {0};
    int rc = json_parse(body, LEDGER_BODY_MAX, &doc, err);
    if (rc < 0)
        return rc;
    const char *type = json_str_or(doc, "type", "");
    size_t t = 0;
    while (t < ARRAY_LEN(type_names) && strcmp(type_names[t], type) != 0)
        t++;
    if (!*type)
        return err_set(err, ERR_INVALID, "an audit record without a type");
    e.type = t == ARRAY_LEN(type_names) ? AUDIT_OTHER : (enum audit_type)t;
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        const json_t *v = json_object_get(doc, texts[i].name);
        if (v && !json_is_string(v))
            return err_set(err, ERR_INVALID, "an audit record whose %s is no text", texts[i].name);
        *text_at(&e, i) = v ? arena_str(a, str_n(json_string_value(v), json_string_length(v))) : STR("");
    }
    for (size_t i = 0; i < ARRAY_LEN(numbers); i++)
        *number_at(&e, i) = json_int(doc, numbers[i].name, 0);
    e.status = (int)json_int(doc, "status", 0);
    if ((rc = decode_groups(json_object_get(doc, "groups"), a, &e, err)) < 0)
        return rc;
    *ret = e;
    return 0;
}

/* ---- what a tenant sees ---- */

bool audit_may_concern(struct str body, struct str tenant)
{
    static const char member[] = "tenant\":\""; /* also of actor_tenant */
    char wanted[sizeof(member) + 256];
    int n = snprintf(wanted, sizeof(wanted), "%s%.*s\"", member, (int)MIN(tenant.len, (size_t)254), tenant.ptr);
    return memmem(body.ptr, body.len, wanted, (size_t)n) || str_starts(body, STR("{\"type\":\"undone\""));
}

static void hide_actor(struct audit_event *e)
{
    e->id = e->user = e->uid = e->sender = e->source = e->agent = e->actor_tenant = STR("");
    e->groups = NULL;
}

bool audit_view(struct audit_event *e, struct str tenant)
{
    bool own = str_eq(e->tenant, tenant), by_own = str_eq(e->actor_tenant, tenant);
    if (e->type == AUDIT_UNDONE)
        return true;
    if (own && !by_own && str_eqc(e->rule, AUDIT_FOREIGN))
        hide_actor(e);
    if (own)
        return true;
    if (!by_own || (e->type != AUDIT_DENIED && e->type != AUDIT_TOKEN && e->type != AUDIT_IMPERSONATION))
        return false;
    e->tenant = e->actor_tenant;
    if (e->type != AUDIT_TOKEN)
        e->object = STR("");
    if (e->type == AUDIT_IMPERSONATION)
        e->rule = STR("");
    return true;
}

void audit_write_item(const struct audit_event *e, uint64_t sequence, int64_t time_ms, const char *chain, struct sbuf *out)
{
    CLEANUP(sbuf_deinit) struct sbuf body = {0};
    char time[CLOCK_TEXT_MAX];
    sbuf_init(&body, LEDGER_BODY_MAX);
    audit_encode(e, &body);
    clock_format_micro(time_ms * 1000, time);
    sbuf_add(out, str_n(body.ptr, body.len - 1));
    sbuf_addf(out, ",\"sequence\":%llu,\"time\":\"%s\"", (unsigned long long)sequence, time);
    if (*chain)
        sbuf_addf(out, ",\"previous_sha256\":\"%s\"", chain);
    sbuf_add_char(out, '}');
}

/* ---- OCSF ---- */

static void put(json_t *o, const char *name, struct str s)
{
    if (s.len)
        json_object_set_new(o, name, json_stringn(s.ptr, s.len));
}

static void put_time(json_t *o, const char *name, struct str s)
{
    int64_t ms;
    if (s.len && clock_parse(s, &ms) == 0)
        json_object_set_new(o, name, json_integer(ms));
}

/* Create 1, read 2, update 3, delete 4, other 99. */
static int activity(const struct audit_event *e)
{
    static const struct {
        const char *verb;
        int id;
    } verbs[] = {{"create", 1}, {"post", 1}, {"get", 2}, {"list", 2}, {"watch", 2}, {"update", 3}, {"patch", 3}, {"delete", 4}, {"deletecollection", 4}};
    for (size_t i = 0; i < ARRAY_LEN(verbs); i++)
        if (str_eqc(e->verb, verbs[i].verb))
            return verbs[i].id;
    return 99;
}

static json_t *actor_of(const struct audit_event *e)
{
    json_t *user = json_object(), *groups = json_array(), *actor = json_pack("{s:o}", "user", user);
    put(user, "name", e->user);
    if (!e->user.len && !e->uid.len) { /* nobody is known, or nobody is to be named */
        json_object_set_new(user, "name", json_string("unknown"));
        json_object_set_new(user, "type_id", json_integer(0));
    }
    put(user, "uid", e->uid);
    if (e->actor_tenant.len)
        json_object_set_new(user, "org", json_pack("{s:s%}", "uid", e->actor_tenant.ptr, e->actor_tenant.len));
    for (size_t i = 0; e->groups && e->groups[i]; i++)
        json_array_append_new(groups, json_pack("{s:s}", "name", e->groups[i]));
    if (json_array_size(groups))
        json_object_set(user, "groups", groups);
    json_decref(groups);
    put(actor, "invoked_by", e->sender);
    return actor;
}

static json_t *resource_of(const struct audit_event *e)
{
    json_t *r = json_object();
    if (e->group.len)
        json_object_set_new(r, "type", json_sprintf("%.*s.%.*s", STR_ARG(e->resource), STR_ARG(e->group)));
    else
        put(r, "type", e->resource);
    put(r, "name", e->name.len || e->object.len ? e->name : STR("*")); /* all that there are */
    put(r, "uid", e->object);
    put(r, "namespace", e->namespace);
    return r;
}

static json_t *api_of(const struct audit_event *e)
{
    json_t *api = json_pack("{s:s%}", "operation", e->verb.len ? e->verb.ptr : audit_type_name(e->type), e->verb.len ? e->verb.len : strlen(audit_type_name(e->type)));
    if (e->id.len)
        json_object_set_new(api, "request", json_pack("{s:s%}", "uid", e->id.ptr, e->id.len));
    if (e->status)
        json_object_set_new(api, "response", json_pack("{s:i}", "code", e->status));
    return api;
}

/* A socket's, or an address with its zone, is none by OCSF's schema. */
static bool is_address(struct str s)
{
    char text[INET6_ADDRSTRLEN];
    unsigned char bytes[sizeof(struct in6_addr)];
    if (!s.len || s.len >= sizeof(text))
        return false;
    memcpy(text, s.ptr, s.len);
    text[s.len] = 0;
    return inet_pton(AF_INET, text, bytes) == 1 || inet_pton(AF_INET6, text, bytes) == 1;
}

json_t *audit_ocsf(const struct audit_event *e, uint64_t sequence, int64_t time_ms, const char *chain)
{
    int id = activity(e);
    bool good = e->type != AUDIT_DENIED && e->type != AUDIT_REFUSED && e->type != AUDIT_UNDONE;
    bool alarm = e->type == AUDIT_BREAK_GLASS && id == 1;
    static const char *const names[] = {"Other", "Create", "Read", "Update", "Delete"};
    json_t *o = json_pack("{s:i, s:s, s:i, s:s, s:i, s:s, s:i, s:s, s:i, s:s, s:i, s:s, s:I, s:I}", "activity_id", id, "activity_name", names[id == 99 ? 0 : id], "category_uid", 6,
                          "category_name", "Application Activity", "class_uid", 6003, "class_name", "API Activity", "severity_id", alarm ? 4 : good ? 1 : 2, "severity", alarm ? "High" : good ? "Informational" : "Low", "status_id",
                          good ? 1 : 2, "status", good ? "Success" : "Failure", "type_uid", 600300 + id, "type_name", "API Activity", "time", (json_int_t)time_ms, "count",
                          (json_int_t)(e->count ? e->count : 1));
    json_t *meta = json_pack("{s:s, s:{s:s, s:s}, s:I, s:[s]}", "version", "1.5.0", "product", "name", "Seki", "vendor_name", "Seki", "sequence", (json_int_t)sequence, "profiles", "cloud");
    json_t *api = api_of(e), *source = json_object(), *unmapped = json_pack("{s:s}", "type", audit_type_name(e->type));
    put(meta, "uid", e->id);
    put(meta, "tenant_uid", e->tenant);
    put(source, is_address(e->source) ? "ip" : "svc_name", e->source.len ? e->source : STR("sekid"));
    put(unmapped, "rule", e->rule);
    put(unmapped, "subresource", e->subresource);
    put(unmapped, "until", e->until);
    if (e->rev)
        json_object_set_new(unmapped, "revision", json_integer(e->rev));
    if (e->last_rev)
        json_object_set_new(unmapped, "last_revision", json_integer(e->last_rev));
    if (*chain)
        json_object_set_new(unmapped, "previous_sha256", json_string(chain));
    put(o, "status_detail", e->reason);
    put_time(o, "start_time", e->first);
    put_time(o, "end_time", e->last);
    json_object_set_new(o, "metadata", meta);
    json_object_set_new(o, "actor", actor_of(e));
    json_object_set_new(o, "api", api);
    json_object_set_new(o, "src_endpoint", source);
    json_object_set_new(o, "cloud", json_pack("{s:s}", "provider", "Seki"));
    if (e->resource.len)
        json_object_set_new(o, "resources", json_pack("[o]", resource_of(e)));
    if (e->agent.len) {
        json_t *http = json_object();
        put(http, "user_agent", e->agent);
        json_object_set_new(o, "http_request", http);
    }
    json_object_set_new(o, "unmapped", unmapped);
    return o;
}
