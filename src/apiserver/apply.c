/* Server-side apply: an applied document is laid over the live object, or makes it. Who owns what is managed.c's. */
#include "apiserver/api.h"
#include "apiserver/managed.h"
#include "apiserver/meta.h"
#include "json/apply.h"
#include "json/yaml.h"

#define LAST_APPLIED "kubectl.kubernetes.io/last-applied-configuration"

static bool is_printable(struct str s)
{
    if (!str_utf8_valid(s))
        return false;
    for (size_t i = 0; i < s.len; i++)
        if ((unsigned char)s.ptr[i] < 0x20 || s.ptr[i] == 0x7f)
            return false;
    return true;
}

int api_read_manager(struct api_request *q, const char **ret, struct err *err)
{
    struct str name = api_query(q, "fieldManager");
    if (name.len > MANAGER_NAME_MAX)
        return api_bad_option(q, err, "fieldManager", "FieldValueTooLong", "Too long: may not be more than %d bytes", MANAGER_NAME_MAX);
    if (!is_printable(name))
        return api_bad_option(q, err, "fieldManager", "FieldValueInvalid", "Invalid value: should only contain printable characters");
    if (name.len) {
        *ret = arena_strndup(q->arena, name);
        return 0;
    }
    struct str agent = str_of(q->http ? q->user_agent : q->user.name), first;
    bool named = str_cut(&agent, '/', &first) && first.len && is_printable(first);
    *ret = named ? arena_strndup(q->arena, str_n(first.ptr, MIN(first.len, (size_t)MANAGER_NAME_MAX))) : "unknown";
    return 0;
}

static int read_options(struct api_request *q, bool *ret_force, struct err *err)
{
    struct str force = api_query(q, "force");
    if (!api_query(q, "fieldManager").len)
        return api_bad_option(q, err, "fieldManager", "FieldValueRequired", "Required value: is required for apply patch");
    if (force.len && !str_eqc(force, "true") && !str_eqc(force, "false") && !str_eqc(force, "1") && !str_eqc(force, "0"))
        return err_field(err, ERR_BAD_REQUEST, "force", "force: Invalid value: \"%.*s\": must be true or false", (int)MIN(force.len, (size_t)32), force.ptr);
    *ret_force = str_eqc(force, "true") || str_eqc(force, "1");
    return api_read_dry_run(q, err);
}

/* The applied document, private. JSON is YAML, but the parser of JSON is the faster and stricter one. */
static json_t *read_body(struct api_request *q, struct err *err)
{
    struct err inner = ERR_INIT;
    size_t max = q->server->o.max_object_bytes * 3;
    if (!q->body) {
        struct str start = str_trim(q->text);
        int rc = start.len && start.ptr[0] == '{' ? json_parse(q->text, max, &q->body, &inner) : yaml_parse(q->text, max, &q->body, &inner);
        if (rc < 0) {
            err_set(err, rc == ERR_TOO_LARGE ? rc : ERR_BAD_REQUEST, "error decoding the applied document: %s", inner.msg);
            return NULL;
        }
    }
    if (!json_is_object(q->body)) {
        err_set(err, ERR_BAD_REQUEST, "the applied document is no object");
        return NULL;
    }
    return json_deep_copy(q->body);
}

/* A Scale as what it says about the object. */
static json_t *from_scale(struct api_request *q, const json_t *scale, struct err *err)
{
    char version[128];
    const json_t *replicas = json_at(scale, "spec.replicas"), *rv = json_at(scale, "metadata.resourceVersion");
    if (!json_is_integer(replicas)) {
        err_field(err, ERR_BAD_REQUEST, "spec.replicas", "a Scale has spec.replicas, a number");
        return NULL;
    }
    kind_api_version(q->kind, version);
    json_t *obj = json_pack("{s:s, s:s, s:{}, s:{s:O}}", "apiVersion", version, "kind", q->kind->name, "metadata", "spec", "replicas", replicas);
    if (rv)
        json_put(obj, "metadata.resourceVersion", json_incref((json_t *)(uintptr_t)rv));
    return obj;
}

static int check_document(struct api_request *q, json_t *obj, struct err *err)
{
    int rc = api_check_shape(q, obj, err);
    if (rc < 0)
        return rc;
    json_t *meta = json_object_get(obj, "metadata");
    const char *name = json_string_value(json_object_get(meta, "name"));
    if (json_object_get(meta, "managedFields") && !json_is_null(json_object_get(meta, "managedFields")))
        return err_field(err, ERR_BAD_REQUEST, "metadata.managedFields", "metadata.managedFields must be nil");
    if (name && strcmp(name, q->name) != 0)
        return err_field(err, ERR_BAD_REQUEST, "metadata.name", "the name of the object (%.64s) does not match the name on the URL (%s)", name, q->name);
    json_object_set_new(meta, "name", json_string(q->name));
    return apply_check(managed_all_rows(q->kind, q->arena), obj, err);
}

static void refuse(struct api_request *q, json_t *causes, const struct sbuf *text)
{
    json_t *details = json_pack("{s:s, s:s, s:o}", "name", q->name, "kind", q->kind->plural, "causes", causes);
    if (*q->kind->group)
        json_object_set_new(details, "group", json_string(q->kind->group));
    api_reply(q, 409, api_status(409, "Failure", "Conflict", text->ptr ? text->ptr : "Apply failed", details));
}

/* Who goes from client-side to server-side apply by kubectl meets the fields of the former as another manager's. They are taken over when the annotation that
 * client-side apply leaves behind names them all, as kube-apiserver does. */
static bool was_applied_by_kubectl(struct api_request *q, const struct managed_by *by, const json_t *live, const json_t *obj)
{
    const char *text = obj_annotation(live, LAST_APPLIED);
    JSON_AUTO last = NULL;
    if (strcmp(by->manager, "kubectl") != 0 || !text || json_parse(str_of(text), q->server->o.max_object_bytes, &last, NULL) < 0)
        return false;
    JSON_AUTO named = managed_applied(q->kind, by->subresource, q->arena, last);
    JSON_AUTO conflicts = managed_conflicting(q->kind, q->arena, live, obj, by);
    JSON_AUTO others = fieldset_minus(conflicts, named);
    return fieldset_is_empty(others);
}

/* Over an object that is there. */
static void apply_over(struct api_write *w, struct store_value *v, const json_t *doc, bool force)
{
    struct api_request *q = w->q;
    CLEANUP(sbuf_deinit) struct sbuf text = {0};
    const struct field *rows = managed_all_rows(q->kind, q->arena);
    const struct managed_by by = {w->manager, q->sub, true};
    JSON_AUTO live = object_of_as(q->kind, v);
    JSON_AUTO last = managed_owned(live, &by);
    JSON_AUTO others = managed_owned_by_others(live, &by);
    JSON_AUTO keep = fieldset_union(others, w->applied);
    sbuf_init(&text, 256 * 1024);
    w->obj = apply_merge(rows, live, doc);
    force |= was_applied_by_kubectl(q, &by, live, w->obj);
    json_t *causes = force ? NULL : managed_conflicts(q->kind, q->arena, live, w->obj, &by, &text);
    if (causes) {
        refuse(q, causes, &text);
        api_write_drop(w);
        return;
    }
    apply_prune(rows, w->obj, last, keep);
    api_write_update(w, v);
}

/* An applied document that makes the object asks for what a create asks for. */
static void apply_new(struct api_write *w, const json_t *doc)
{
    struct api_request *q = w->q;
    const char *verb = q->verb;
    q->verb = "create";
    bool allowed = authz_allows(q->server, q);
    if (!allowed) {
        api_forbid(q);
        api_write_drop(w);
        return;
    }
    q->verb = verb;
    w->http_status = 201;
    w->obj = apply_merge(managed_all_rows(q->kind, q->arena), NULL, doc);
    api_write_create(w);
}

void api_apply(struct api_request *q)
{
    struct err err = ERR_INIT;
    struct api_write w = {.q = q, .http_status = 200, .answer = strcmp(q->sub, "scale") ? ANSWER_OBJECT : ANSWER_SCALE};
    CLEANUP(sbuf_deinit) struct sbuf key = {0};
    bool force = false;
    JSON_AUTO doc = NULL;
    sbuf_init(&key, 1024);
    object_key(q->kind, q->ns, q->name, &key);
    if (read_options(q, &force, &err) < 0 || api_read_manager(q, &w.manager, &err) < 0 || !(doc = read_body(q, &err)))
        goto fail;
    if (w.answer == ANSWER_SCALE) {
        json_t *of_object = from_scale(q, doc, &err);
        json_decref(doc);
        doc = of_object;
    }
    if (!doc || check_document(q, doc, &err) < 0)
        goto fail;
    w.applied = managed_applied(q->kind, q->sub, q->arena, doc);
    struct store_value *v = api_start(q, sbuf_str(&key));
    if (v) {
        apply_over(&w, v, doc, force);
    } else if (*q->sub) {
        err_set(&err, ERR_NOT_FOUND, "%s \"%s\" not found", api_resource_text(q), q->name);
        goto fail;
    } else {
        apply_new(&w, doc);
    }
    return;
fail:
    api_fail(q, &err);
    api_write_drop(&w);
}
