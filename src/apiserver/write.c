/* create, update, patch, and the subresources status and scale. */
#include "apiserver/api.h"
#include "apiserver/limits.h"
#include "apiserver/managed.h"
#include "apiserver/meta.h"
#include "base/clock.h"
#include "json/patch.h"
#include "json/strategic.h"

/* An option's value, as an answer may show it. */
static const char *shown(struct api_request *q, struct str v)
{
    return arena_strndup(q->arena, str_n(v.ptr, MIN(v.len, (size_t)64)));
}

int api_read_dry_run(struct api_request *q, struct err *err)
{
    struct str v = api_query(q, "dryRun");
    if (v.len && !str_eqc(v, "All"))
        return api_bad_option(q, err, "dryRun", "FieldValueNotSupported", "Unsupported value: [\"%s\"]: supported values: \"All\"", shown(q, v));
    q->dry_run = v.len > 0;
    return 0;
}

static int read_field_validation(struct api_request *q, enum meta_unknown *ret, struct err *err)
{
    struct str v = api_query(q, "fieldValidation");
    if (!v.len || str_eqc(v, "Strict"))
        *ret = META_STRICT;
    else if (str_eqc(v, "Warn"))
        *ret = META_WARN;
    else if (str_eqc(v, "Ignore"))
        *ret = META_IGNORE;
    else
        return api_bad_option(q, err, "fieldValidation", "FieldValueNotSupported", "Unsupported value: \"%s\": supported values: \"\", \"Ignore\", \"Strict\", \"Warn\"", shown(q, v));
    return 0;
}

int api_check_shape(struct api_request *q, json_t *obj, struct err *err)
{
    enum meta_unknown how = META_STRICT;
    int rc = read_field_validation(q, &how, err);
    if (rc < 0)
        return rc;
    struct field_errors *unknown = ARENA_NEW(q->arena, struct field_errors);
    unknown->arena = q->arena;
    rc = meta_check_shape(q->kind, obj, how, unknown, err);
    if (rc == 0 && how == META_WARN && unknown->count)
        q->warnings = unknown;
    return rc;
}

/* False: the answer is given. */
static bool authorize(struct api_request *q, const struct kind_context *c, const json_t *obj, const json_t *old_obj)
{
    struct err err = ERR_INIT;
    CLEANUP(sbuf_deinit) struct sbuf why = {0};
    sbuf_init(&why, 64 * 1024);
    int rc = q->kind->ops && q->kind->ops->authorize ? q->kind->ops->authorize(c, obj, old_obj, &why, &err) : 0;
    if (rc == ERR_FORBIDDEN)
        api_forbid_because(q, sbuf_str(&why));
    else if (rc < 0)
        api_fail(q, &err);
    return rc == 0;
}

static void warn(struct api_request *q, const struct kind_context *c, const json_t *obj)
{
    if (!q->http || q->warned || !q->kind->ops || !q->kind->ops->warn)
        return;
    q->warned = true;
    if (!q->warnings) {
        q->warnings = ARENA_NEW(q->arena, struct field_errors);
        q->warnings->arena = q->arena;
    }
    q->kind->ops->warn(c, obj, q->warnings);
}

/* What the kind decides, then all rules. False: the answer is given. */
static bool admit_and_validate(struct api_request *q, struct api_write *w, const json_t *old_obj)
{
    const struct kind *k = q->kind;
    struct kind_context c = api_kind_context(q);
    struct err err = ERR_INIT;
    if (k->ops && k->ops->admit && k->ops->admit(&c, w->obj, old_obj, &w->once, &err) < 0) {
        api_fail(q, &err);
        return false;
    }
    struct field_errors errors = {.arena = q->arena};
    meta_validate(k, w->obj, old_obj, &errors);
    field_validate(k->fields, w->obj, "", &errors);
    if (old_obj)
        field_validate_update(k->fields, old_obj, w->obj, "", &errors);
    if (!errors.count && k->ops && k->ops->validate)
        k->ops->validate(&c, w->obj, old_obj, &errors);
    if (errors.count) {
        api_fail_invalid(q, &errors);
        return false;
    }
    if (!authorize(q, &c, w->obj, old_obj))
        return false;
    warn(q, &c, w->obj);
    return true;
}

/* managedFields as the client sent them; a new reference, or NULL. */
static json_t *sent_managers(const json_t *obj)
{
    return json_incref(json_object_get(json_object_get(obj, "metadata"), "managedFields"));
}

static void record(struct api_write *w, const json_t *live, const json_t *sent)
{
    struct api_request *q = w->q;
    const struct managed_by by = {w->manager, q->sub, w->applied != NULL};
    managed_record(q->kind, q->arena, live, w->obj, &by, w->applied, sent, clock_wall_ms());
}

/* The body as a private document. Local callers' documents are shared. */
static json_t *take_body(struct api_request *q, struct err *err)
{
    if (api_parse_body(q, err) < 0)
        return NULL;
    return q->local_done ? json_deep_copy(q->body) : json_incref(q->body);
}

/* ---- create ---- */

static int prepare_create(struct api_request *q, json_t *obj, struct err *err)
{
    int rc;
    if ((rc = api_check_shape(q, obj, err)) < 0 || (rc = meta_prepare_create(q->kind, obj, q->ns, err)) < 0)
        return rc;
    q->name = arena_strdup(q->arena, obj_name(obj));
    if (q->kind->has_status)
        json_object_del(obj, "status");
    field_defaults(q->kind->fields, obj);
    field_keep_read_only(q->kind->fields, NULL, obj);
    return q->kind->namespaced ? namespace_check(q->server, q->ns, err) : 0;
}

/* An error of the metadata as one of the object's fields. */
static void fail_create(struct api_request *q, const struct err *err)
{
    if (err->code != ERR_INVALID || q->refused_option) {
        api_fail(q, err);
        return;
    }
    struct field_errors e = {.arena = q->arena};
    field_errors_add(&e, err->field, "FieldValueRequired", "%s", err->msg);
    api_fail_invalid(q, &e);
}

/* One of the objects that are made with another: as if it were sent, but nobody is asked whether it may be. */
static int prepare_companion(struct api_write *w, const struct kind_context *c, json_t *doc, struct err *err)
{
    const struct kind *k = kind_of_document(doc);
    struct kind_context own = *c;
    JSON_AUTO once = NULL;
    own.namespace = obj_namespace(doc);
    field_defaults(k->fields, doc);
    int rc = meta_prepare_create(k, doc, own.namespace, err);
    if (rc == 0 && k->ops && k->ops->admit)
        rc = k->ops->admit(&own, doc, NULL, &once, err);
    if (rc < 0)
        return rc;
    struct field_errors errors = {.arena = w->q->arena};
    meta_validate(k, doc, NULL, &errors);
    field_validate(k->fields, doc, "", &errors);
    if (errors.count)
        return err_set(err, ERR_INTERNAL, "%s %s: %s: %s", k->plural, obj_name(doc), errors.items[0].path, errors.items[0].message);
    const struct managed_by by = {w->manager, "", false};
    managed_record(k, w->q->arena, NULL, doc, &by, NULL, NULL, clock_wall_ms());
    return 0;
}

static int add_companions(struct api_write *w, struct err *err)
{
    struct api_request *q = w->q;
    if (!q->kind->ops || !q->kind->ops->companions)
        return 0;
    struct kind_context c = api_kind_context(q);
    size_t i;
    json_t *doc;
    w->also = json_array();
    int rc = q->kind->ops->companions(&c, w->obj, w->also, err);
    json_array_foreach (w->also, i, doc)
        if (rc == 0)
            rc = prepare_companion(w, &c, doc, err);
    return rc;
}

/* What a write to what the request names starts from; NULL: it is not there. */
static struct store_value *start_of(struct api_request *q)
{
    CLEANUP(sbuf_deinit) struct sbuf key = {0};
    sbuf_init(&key, 1024);
    object_key(q->kind, q->ns, q->name, &key);
    return api_start(q, sbuf_str(&key));
}

static void settle(struct api_write *w)
{
    struct api_request *q = w->q;
    if (!q->kind->ops || !q->kind->ops->settle || start_of(q)) /* of one that is there already the store will say so */
        return;
    struct kind_context c = api_kind_context(q);
    q->kind->ops->settle(&c, w->obj);
}

void api_write_create(struct api_write *w)
{
    struct api_request *q = w->q;
    struct err err = ERR_INIT;
    const char *why;
    JSON_AUTO sent = sent_managers(w->obj);
    if (prepare_create(q, w->obj, &err) < 0) {
        fail_create(q, &err);
        api_write_drop(w);
        return;
    }
    if (!admit_and_validate(q, w, NULL)) {
        api_write_drop(w);
        return;
    }
    record(w, NULL, sent);
    if (add_companions(w, &err) < 0) {
        api_fail(q, &err);
        api_write_drop(w);
    } else if (limits_check(q, w, &why) < 0) {
        api_forbid_because(q, str_of(why));
        api_write_drop(w);
    } else if (!q->dry_run) {
        settle(w);
        api_write_commit(w, false, 0);
    } else if (start_of(q)) { /* of a real one the store would say so */
        api_fail_code(q, ERR_EXISTS, "%s \"%s\" already exists", api_resource_text(q), q->name);
        api_write_drop(w);
    } else {
        api_write_answer(w, 0);
    }
}

void api_create(struct api_request *q)
{
    struct err err = ERR_INIT;
    struct api_write w = {.q = q, .http_status = 201};
    if (q->kind->namespaced && !*q->ns)
        err_set(&err, ERR_METHOD, "the server does not allow this method on the requested resource: name a namespace");
    if (err.code || api_read_dry_run(q, &err) < 0 || api_read_manager(q, &w.manager, &err) < 0 || !(w.obj = take_body(q, &err)))
        api_fail(q, &err);
    else
        api_write_create(&w);
}

/* ---- update ---- */

static struct store_value *find_start(struct api_request *q)
{
    struct store_value *v = start_of(q);
    if (!v)
        api_fail_code(q, ERR_NOT_FOUND, "%s \"%s\" not found", api_resource_text(q), q->name);
    return v;
}

static int check_version(struct api_request *q, const json_t *obj, const struct store_value *v, struct err *err)
{
    const json_t *rv = json_object_get(json_object_get(obj, "metadata"), "resourceVersion");
    int64_t n;
    if (!rv || json_is_null(rv) || (json_is_string(rv) && !json_string_length(rv)) || (json_is_string(rv) && !strcmp(json_string_value(rv), "0")))
        return 0;
    if (!json_is_string(rv) || str_to_i64(str_of(json_string_value(rv)), 1, INT64_MAX, &n) < 0)
        return err_field(err, ERR_BAD_REQUEST, "metadata.resourceVersion", "resourceVersion is a number in a string, as the server gave it");
    if (n != v->rev)
        return err_set(err, ERR_CONFLICT, "Operation cannot be fulfilled on %s \"%s\": the object has been modified; please apply your changes to the latest version and try again",
                       api_resource_text(q), q->name);
    return 0;
}

/* What the client sent, made into what shall be: members that this verb does not write are those of old_obj. */
static int prepare_update(struct api_request *q, json_t *obj, const json_t *old_obj, const struct store_value *v, struct err *err)
{
    int rc;
    if ((rc = api_check_shape(q, obj, err)) < 0 || (rc = check_version(q, obj, v, err)) < 0 || (rc = meta_prepare_update(q->kind, obj, old_obj, err)) < 0)
        return rc;
    json_t *old_status = json_object_get(old_obj, "status");
    if (!strcmp(q->sub, "status")) {
        JSON_AUTO status = json_incref(json_object_get(obj, "status"));
        JSON_AUTO meta = q->kind->native ? json_incref(json_object_get(obj, "metadata")) : json_copy(json_object_get(old_obj, "metadata")); /* as Kubernetes does with its own */
        json_object_clear(obj);
        json_object_update(obj, (json_t *)(uintptr_t)old_obj);
        json_object_set(obj, "metadata", meta);
        if (status)
            json_object_set(obj, "status", status);
        return 0;
    }
    field_defaults(q->kind->fields, obj);
    field_keep_read_only(q->kind->fields, old_obj, obj);
    if (q->kind->has_status && old_status)
        json_object_set(obj, "status", old_status);
    else if (q->kind->has_status)
        json_object_del(obj, "status");
    return 0;
}

void api_write_update(struct api_write *w, struct store_value *v)
{
    struct api_request *q = w->q;
    struct err err = ERR_INIT;
    const char *shut = object_shut(v);
    if (shut) {
        api_fail_shut(q, v->key, shut);
        api_write_drop(w);
        return;
    }
    JSON_AUTO old_obj = object_of_as(q->kind, v);
    JSON_AUTO sent = sent_managers(w->obj);
    if (prepare_update(q, w->obj, old_obj, v, &err) < 0) {
        api_fail(q, &err);
        api_write_drop(w);
        return;
    }
    if (!admit_and_validate(q, w, old_obj)) {
        api_write_drop(w);
        return;
    }
    record(w, old_obj, sent);
    bool durable = v->rev <= store_rev(q->server->store);
    if (q->dry_run || (durable && meta_same_object(w->obj, old_obj)))
        api_write_show(w, v->rev);
    else
        api_write_commit(w, obj_deleting(w->obj) && !meta_has_finalizers(w->obj), v->rev);
}

void api_update(struct api_request *q)
{
    struct err err = ERR_INIT;
    struct api_write w = {.q = q, .http_status = 200};
    if (api_read_dry_run(q, &err) < 0 || api_read_manager(q, &w.manager, &err) < 0 || !(w.obj = take_body(q, &err))) {
        api_fail(q, &err);
        return;
    }
    struct store_value *v = find_start(q);
    if (v)
        api_write_update(&w, v);
    else
        api_write_drop(&w);
}

/* ---- patch ---- */

enum patch_type { PATCH_NONE, PATCH_MERGE, PATCH_JSON, PATCH_STRATEGIC, PATCH_APPLY };

static enum patch_type patch_type(const struct api_request *q)
{
    static const struct {
        const char *media_type;
        enum patch_type type;
    } types[] = {{"application/merge-patch+json", PATCH_MERGE}, {"application/json-patch+json", PATCH_JSON},
                 {"application/strategic-merge-patch+json", PATCH_STRATEGIC}, {"application/apply-patch+yaml", PATCH_APPLY}};
    struct str type = str_of(q->content_type), name = STR_NULL;
    if (str_cut(&type, ';', &name))
        for (size_t i = 0; i < ARRAY_LEN(types); i++)
            if (str_ieq(str_trim(name), str_of(types[i].media_type)))
                return types[i].type == PATCH_STRATEGIC && !q->kind->native ? PATCH_NONE : types[i].type;
    return PATCH_NONE;
}

static int media_type_error(const struct api_request *q, struct err *err)
{
    return err_set(err, ERR_MEDIA_TYPE, "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, %sapplication/apply-patch+yaml",
                   q->kind->native ? "application/strategic-merge-patch+json, " : "");
}

bool api_is_apply(const struct api_request *q)
{
    return !strcmp(q->verb, "patch") && patch_type(q) == PATCH_APPLY;
}

/* target with the request's patch on it, a private document; NULL: err says why. */
static json_t *patched(struct api_request *q, const json_t *target, struct err *err)
{
    enum patch_type type = patch_type(q);
    json_t *ret = NULL;
    if (type == PATCH_NONE) {
        (void)!media_type_error(q, err);
        return NULL;
    }
    if (api_query(q, "force").len) {
        api_bad_option(q, err, "force", "FieldValueForbidden", "Forbidden: may not be specified for non-apply patch");
        return NULL;
    }
    if (api_parse_body(q, err) < 0)
        return NULL;
    int rc = type == PATCH_MERGE  ? json_merge_patch(target, q->body, &ret, err)
             : type == PATCH_JSON ? json_apply_patch(target, q->body, q->server->o.max_object_bytes * 2, &ret, err)
                                  : json_strategic_patch(managed_all_rows(q->kind, q->arena), target, q->body, &ret, err);
    return rc < 0 ? NULL : ret;
}

void api_patch(struct api_request *q)
{
    struct err err = ERR_INIT;
    struct api_write w = {.q = q, .http_status = 200};
    if (api_read_dry_run(q, &err) < 0 || api_read_manager(q, &w.manager, &err) < 0) {
        api_fail(q, &err);
        return;
    }
    struct store_value *v = find_start(q);
    if (!v)
        return;
    JSON_AUTO old_obj = object_copy_as(q->kind, v);
    w.obj = patched(q, old_obj, &err);
    if (!w.obj) {
        api_fail(q, &err);
        return;
    }
    api_write_update(&w, v);
}

/* ---- scale ---- */

json_t *scale_of(const json_t *obj)
{
    const char *selector = json_str(obj, "status.selector");
    json_t *s = json_pack("{s:s, s:s, s:{s:s}, s:{s:I}, s:{s:I}}", "apiVersion", "autoscaling/v1", "kind", "Scale", "metadata", "name", obj_name(obj),
                          "spec", "replicas", (json_int_t)json_int(obj, "spec.replicas", 0), "status", "replicas", (json_int_t)json_int(obj, "status.replicas", 0));
    static const char *const kept[] = {"namespace", "uid", "resourceVersion", "creationTimestamp"};
    for (size_t i = 0; i < ARRAY_LEN(kept); i++) {
        json_t *v = json_object_get(json_object_get(obj, "metadata"), kept[i]);
        if (v)
            json_object_set(json_object_get(s, "metadata"), kept[i], v);
    }
    if (selector)
        json_put_str(s, "status.selector", selector);
    return s;
}

void api_scale(struct api_request *q)
{
    struct err err = ERR_INIT;
    struct api_write w = {.q = q, .http_status = 200, .answer = ANSWER_SCALE};
    if (api_read_dry_run(q, &err) < 0) {
        api_fail(q, &err);
        return;
    }
    struct store_value *v = find_start(q);
    if (!v)
        return;
    JSON_AUTO old_obj = object_of(v);
    if (!strcmp(q->verb, "get")) {
        api_reply(q, 200, scale_of(old_obj));
        return;
    }
    JSON_AUTO old_scale = scale_of(old_obj);
    JSON_AUTO scale = !strcmp(q->verb, "patch") ? patched(q, old_scale, &err) : take_body(q, &err);
    if (scale && api_read_manager(q, &w.manager, &err) == 0) {
        const json_t *replicas = json_at(scale, "spec.replicas"), *rv = json_at(scale, "metadata.resourceVersion");
        if (!json_is_integer(replicas))
            err_field(&err, ERR_BAD_REQUEST, "spec.replicas", "a Scale has spec.replicas, a number");
        w.obj = object_copy(v);
        json_put_int(w.obj, "spec.replicas", json_integer_value(replicas));
        if (rv)
            json_put(w.obj, "metadata.resourceVersion", json_incref((json_t *)(uintptr_t)rv));
        else
            json_remove(w.obj, "metadata.resourceVersion");
    }
    if (err.code) {
        api_fail(q, &err);
        api_write_drop(&w);
        return;
    }
    api_write_update(&w, v);
}
