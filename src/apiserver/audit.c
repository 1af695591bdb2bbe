/* What of the API's work is recorded in the audit ledger, and as what. The decision is here and nowhere else:
 *
 *   every write that is stored, also by this program's own controllers, but those of kinds that say `unaudited` (heartbeats, Events), and what it derives from other objects (statuses of limits);
 *   every read of a tenant's part of the ledger; every read of a kind with secret fields, also by a write that changes nothing or is a dry run and yet shows what is stored, and every token that is
 *   issued, by somebody outside this process: durable before the answer;
 *   every request in someone else's name, everything that is denied (401, 403), every token that is seen for the first time.
 */
#include "apiserver/api.h"
#include "apiserver/audit.h"
#include "base/mem.h"
#include "kinds/borrowed.h"
#include "ledger/audit_log.h"
#include "ledger/record.h"

#define HOUSEKEEPER "system:apiserver"

static bool table_has_secrets(const struct field *table, int depth)
{
    for (const struct field *f = table; f && f->name; f++)
        if ((f->flags & FIELD_SECRET) || (f->sub && depth < 16 && table_has_secrets(f->sub, depth + 1)))
            return true;
    return false;
}

void audit_start(struct apiserver *s)
{
    size_t count;
    const struct kind *const *kinds = kind_all(&count);
    s->secret_kinds = map_new(NULL);
    for (size_t i = 0; i < count; i++)
        if (table_has_secrets(kinds[i]->fields, 0))
            map_set(s->secret_kinds, str_n((const char *)&kinds[i], sizeof(kinds[i])), s);
}

static bool has_secrets(struct apiserver *s, const struct kind *k)
{
    return map_get(s->secret_kinds, str_n((const char *)&k, sizeof(k))) != NULL;
}

static bool reads(const struct api_request *q)
{
    return !strcmp(q->verb, "get") || !strcmp(q->verb, "list") || !strcmp(q->verb, "watch");
}

bool audit_wants_rule(struct api_request *q)
{
    return q->server->o.audit && q->kind && (!reads(q) || q->sender || has_secrets(q->server, q->kind) || kind_subresource(q->kind, q->sub));
}

/* Whose business it is: the tenant of the object's project; of a cluster-scoped object, what its label says. "" is the operator's own. */
static const char *tenant_of(struct apiserver *s, struct arena *a, const char *ns, const json_t *obj)
{
    struct kind_server server = api_kind_server(s);
    JSON_AUTO project = *ns ? server.get(s, &kind_namespace, "", ns) : NULL;
    const char *label = obj && !*ns ? obj_label(obj, LABEL_TENANT) : NULL;
    return *ns ? arena_strdup(a, namespace_tenant(project, ns)) : label ? arena_strdup(a, label) : "";
}

static const char *source_of(struct api_request *q)
{
    struct net_addr addr;
    char text[NET_ADDR_TEXT_MAX];
    if (!q->http)
        return "";
    http_request_addr(q->http, &addr);
    net_addr_format(&addr, text);
    char *colon = strrchr(text, ':');
    if (colon)
        *colon = 0;
    return arena_strdup(q->arena, text);
}

static struct audit_event event_of(struct api_request *q, enum audit_type type, const char *name, const json_t *obj)
{
    const struct kind *k = q->kind;
    return (struct audit_event){.type = type,
                                .id = str_of(q->id),
                                .user = str_of(q->user.name ? q->user.name : ""),
                                .uid = str_of(q->user.uid ? q->user.uid : ""),
                                .groups = q->user.groups,
                                .sender = str_of(q->sender ? q->sender : ""),
                                .source = str_of(q->source),
                                .agent = str_of(q->user_agent),
                                .verb = str_of(q->verb),
                                .group = str_of(k ? k->group : ""),
                                .resource = str_of(k ? k->plural : ""),
                                .subresource = str_of(q->sub),
                                .namespace = str_of(q->ns),
                                .name = str_of(name),
                                .object = str_of(obj && obj_uid(obj) ? obj_uid(obj) : ""),
                                .tenant = str_of(k ? tenant_of(q->server, q->arena, k->namespaced ? q->ns : k == &kind_namespace ? name : "", obj) : ""),
                                .actor_tenant = str_of(q->user.tenant ? q->user.tenant : ""),
                                .rule = str_of(q->rule)};
}

void audit_arrived(struct api_request *q)
{
    if (!q->server->o.audit)
        return;
    q->id = arena_strdup(q->arena, q->http->id);
    q->source = source_of(q);
}

void audit_token_seen(struct api_request *q)
{
    if (!q->server->o.audit || !q->user.new_token)
        return;
    struct audit_event e = event_of(q, AUDIT_TOKEN, "", NULL);
    e.verb = STR("use");
    e.object = str_of(q->user.new_token);
    audit_log_add(q->server->o.audit, &e);
}

struct str audit_note(struct api_request *q, const char *name, const json_t *obj)
{
    CLEANUP(sbuf_deinit) struct sbuf text = {0};
    if (!q->server->o.audit || kind_stored(q->kind)->unaudited)
        return STR_NULL;
    struct audit_event e = event_of(q, AUDIT_WRITE, name, obj);
    sbuf_init(&text, LEDGER_BODY_MAX);
    audit_encode(&e, &text);
    return arena_str(q->arena, sbuf_str(&text));
}

void audit_note_own(struct apiserver *s, struct str key, bool delete, const json_t *obj, struct sbuf *ret)
{
    struct str ns, name;
    const struct kind *k = object_kind_of_key(key, &ns, &name);
    if (!s->o.audit || !k || k->unaudited)
        return;
    CLEANUP(arena_freep) struct arena *a = arena_new(64 * 1024);
    const char *in = arena_strndup(a, ns), *named = arena_strndup(a, name);
    struct audit_event e = {.type = AUDIT_WRITE, .user = STR(HOUSEKEEPER), .verb = str_of(delete ? "delete" : "update"), .group = str_of(k->group), .resource = str_of(k->plural),
                            .namespace = ns, .name = name, .object = str_of(obj && obj_uid(obj) ? obj_uid(obj) : ""),
                            .tenant = str_of(tenant_of(s, a, k->namespaced ? in : k == &kind_namespace ? named : "", obj))};
    audit_encode(&e, ret);
}

void audit_answered(struct api_request *q, int status)
{
    bool denied = status == 401 || status == 403 || q->hidden;
    if (!q->server->o.audit || !q->id[0] || (!denied && !q->sender))
        return;
    struct audit_event e = event_of(q, denied ? AUDIT_DENIED : AUDIT_IMPERSONATION, q->kind ? q->name : q->path, NULL);
    e.status = status;
    if (q->hidden)
        e.rule = STR(AUDIT_FOREIGN);
    e.reason = denied ? str_of(status == 401 ? "Unauthorized" : "Forbidden") : STR("");
    audit_log_add(q->server->o.audit, &e);
}

/* ---- what is recorded first ---- */

struct first {
    struct api_request *q;
    void (*then)(void *arg, bool recorded);
    void *arg;
};

static void recorded(void *arg, int code)
{
    struct first *f = arg;
    struct api_request *q = f->q;
    if (code < 0 && !q->replied)
        api_fail_code(q, ERR_UNAVAILABLE, "the audit ledger takes nothing at present, and this must be recorded before it is answered: try again");
    f->then(f->arg, code == 0 && !q->replied);
    api_request_unref(q);
}

static void record_first(struct api_request *q, enum audit_type type, void (*then)(void *arg, bool recorded), void *arg)
{
    struct audit_event e = event_of(q, type, q->name, NULL);
    struct first *f = ARENA_NEW(q->arena, struct first);
    *f = (struct first){q, then, arg};
    q->refs++;
    audit_log_add_then(q->server->o.audit, &e, &(struct audit_wait){q->server->loop, recorded, f});
}

static bool is_token(const struct api_request *q)
{
    const struct kind_subresource *sub = kind_subresource(q->kind, q->sub);
    return sub && !sub->view;
}

void audit_viewed(struct api_request *q, const json_t *owner)
{
    if (!q->id[0])
        return;
    struct audit_event e = event_of(q, AUDIT_READ, q->name, owner);
    audit_log_add(q->server->o.audit, &e);
}

bool audit_first(struct api_request *q, void (*then)(void *arg, bool recorded), void *arg)
{
    bool token = q->kind && is_token(q);
    if (!q->server->o.audit || !q->http || !q->kind || (!token && !(reads(q) && has_secrets(q->server, q->kind))))
        return false;
    record_first(q, token ? AUDIT_TOKEN : AUDIT_READ, then, arg);
    return true;
}

bool audit_shown(struct api_request *q, void (*then)(void *arg, bool recorded), void *arg)
{
    if (!q->server->o.audit || !q->http || !has_secrets(q->server, q->kind))
        return false;
    record_first(q, AUDIT_READ, then, arg);
    return true;
}
