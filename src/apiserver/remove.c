/* delete and deletecollection. Finalizers hold an object until their owners take them off; what it owns is collected by gc.c. */
#include "apiserver/api.h"
#include "apiserver/audit.h"
#include "apiserver/meta.h"
#include "apiserver/types.h"
#include "base/mem.h"

#define COLLECTION_MAX 10000 /* of one request */

struct delete_options {
    const char *uid; /* or NULL */
    int64_t rev;     /* or 0 */
    const char *finalizer; /* to add: "orphan", "foregroundDeletion", or NULL */
};

static int read_policy(struct api_request *q, struct delete_options *ret, struct err *err)
{
    struct str policy = api_query(q, "propagationPolicy");
    const char *given = json_str(q->body, "propagationPolicy");
    if (given)
        policy = str_of(given);
    const char *shown = arena_strndup(q->arena, str_n(policy.ptr, MIN(policy.len, (size_t)64)));
    if (policy.len && (json_is_boolean(json_object_get(q->body, "orphanDependents")) || api_query(q, "orphanDependents").len))
        return api_bad_option(q, err, "propagationPolicy", "FieldValueInvalid", "Invalid value: \"%s\": orphanDependents and deletionPropagation cannot be both set", shown);
    if (policy.len && !str_eqc(policy, "Background") && !str_eqc(policy, "Foreground") && !str_eqc(policy, "Orphan"))
        return api_bad_option(q, err, "propagationPolicy", "FieldValueNotSupported",
                              "Unsupported value: \"%s\": supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\"", shown);
    bool orphan = str_eqc(policy, "Orphan") || json_flag(q->body, "orphanDependents", api_query_flag(q, "orphanDependents"));
    ret->finalizer = orphan ? "orphan" : str_eqc(policy, "Foreground") ? "foregroundDeletion" : NULL;
    return 0;
}

/* The body's, which was found to be a list of strings. */
static int read_dry_run(struct api_request *q, struct err *err)
{
    json_t *list = json_object_get(q->body, "dryRun"), *v;
    bool all = true;
    size_t i;
    CLEANUP(sbuf_deinit) struct sbuf shown = {0};
    sbuf_init(&shown, 1024);
    json_array_foreach(list, i, v) {
        all = all && !strcmp(json_string_value(v), "All");
        sbuf_addf(&shown, "%s\"%.64s\"", i ? "," : "", json_string_value(v));
    }
    if (!all)
        return api_bad_option(q, err, "dryRun", "FieldValueNotSupported", "Unsupported value: [%.256s]: supported values: \"All\"", sbuf_ok(&shown) ? shown.ptr : "…");
    q->dry_run = q->dry_run || json_array_size(list) > 0;
    return 0;
}

static int read_options(struct api_request *q, struct delete_options *ret, struct err *err)
{
    int rc = api_read_dry_run(q, err);
    if (rc < 0)
        return rc;
    if (!q->body && str_trim(q->text).len && (rc = api_parse_body_of(q, delete_option_fields, err)) < 0)
        return rc;
    if (q->body && !json_is_object(q->body))
        return err_set(err, ERR_BAD_REQUEST, "the body is no JSON object");
    struct field_errors e = {.arena = q->arena};
    if (q->body) {
        field_unknown(delete_option_fields, q->body, "", &e);
        field_validate(delete_option_fields, q->body, "", &e);
    }
    for (size_t i = 0; i < e.count; i++)
        if (strcmp(e.items[i].reason, "FieldValueNotSupported") != 0) /* what is no policy has words of its own */
            return err_field(err, ERR_BAD_REQUEST, e.items[i].path, "%s: %s", e.items[i].path, e.items[i].message);
    if ((rc = read_policy(q, ret, err)) < 0)
        return rc;
    ret->uid = json_str(q->body, "preconditions.uid");
    const char *rev = json_str(q->body, "preconditions.resourceVersion");
    if (rev && str_to_i64(str_of(rev), 1, INT64_MAX, &ret->rev) < 0)
        return err_field(err, ERR_BAD_REQUEST, "preconditions.resourceVersion", "must be a number");
    return read_dry_run(q, err);
}

static bool precondition_fails(struct api_request *q, const struct delete_options *o, const struct store_value *v, const json_t *obj)
{
    if (o->uid && strcmp(o->uid, obj_uid(obj)) != 0)
        api_fail_code(q, ERR_CONFLICT, "Operation cannot be fulfilled on %s \"%s\": Precondition failed: UID in precondition: %.64s, UID in object meta: %s",
                      api_resource_text(q), q->name, o->uid, obj_uid(obj));
    else if (o->rev && o->rev != v->rev)
        api_fail_code(q, ERR_CONFLICT, "Operation cannot be fulfilled on %s \"%s\": Precondition failed: ResourceVersion in precondition: %lld, ResourceVersion in object meta: %lld",
                      api_resource_text(q), q->name, (long long)o->rev, (long long)v->rev);
    else
        return false;
    return true;
}

void api_delete(struct api_request *q)
{
    struct err err = ERR_INIT;
    struct delete_options o = {0};
    CLEANUP(sbuf_deinit) struct sbuf key = {0};
    if (read_options(q, &o, &err) < 0) {
        api_fail(q, &err);
        return;
    }
    sbuf_init(&key, 1024);
    object_key(q->kind, q->ns, q->name, &key);
    struct store_value *v = api_start(q, sbuf_str(&key));
    if (!v) {
        api_fail_code(q, ERR_NOT_FOUND, "%s \"%s\" not found", api_resource_text(q), q->name);
        return;
    }
    struct api_write w = {.q = q, .obj = object_copy_as(q->kind, v), .http_status = 200};
    if (precondition_fails(q, &o, v, w.obj)) {
        json_decref(w.obj);
        return;
    }
    bool was_deleting = obj_deleting(w.obj);
    if (!was_deleting) {
        api_mark_deleted(w.obj);
        if (o.finalizer)
            obj_add_finalizer(w.obj, o.finalizer);
    }
    bool goes = !meta_has_finalizers(w.obj);
    w.answer = goes ? ANSWER_STATUS : ANSWER_OBJECT;
    if (q->dry_run || (was_deleting && !goes))
        api_write_show(&w, v->rev);
    else
        api_write_commit(&w, goes, v->rev);
}

/* ---- deletecollection ---- */

struct collection {
    struct api_request *q;
    const struct selector *selector;
    VEC(struct store_value *) values;
};

static bool collect(void *arg, struct store_value *v)
{
    struct collection *c = arg;
    JSON_AUTO obj = object_of_as(c->q->kind, v);
    if (selector_matches(c->selector, obj))
        *VEC_PUSH(&c->values) = store_value_ref(v);
    return c->values.len < COLLECTION_MAX;
}

/* The writes of one collection; answered when the last of them is done. */
struct collection_done {
    struct api_request *q;
    json_t *items;
    size_t left;
    int code; /* of the first that failed */
};

static void reply_collection(struct api_request *q, json_t *items)
{
    char version[128], kind[160];
    kind_api_version(q->kind, version);
    snprintf(kind, sizeof(kind), "%sList", q->kind->name);
    api_reply(q, 200, json_pack("{s:s, s:s, s:{}, s:o}", "kind", kind, "apiVersion", version, "metadata", "items", items));
}

static void collection_free(struct collection_done *d)
{
    api_request_unref(d->q);
    json_decref(d->items);
    mem_free(d);
}

static void collection_recorded(void *arg, bool recorded)
{
    struct collection_done *d = arg;
    if (recorded)
        reply_collection(d->q, json_incref(d->items));
    collection_free(d);
}

static void collection_committed(void *arg, int code, int64_t rev UNUSED)
{
    struct collection_done *d = arg;
    struct api_request *q = d->q;
    d->code = d->code ? d->code : code;
    if (--d->left > 0)
        return;
    flow_write_ends(q->server->flow, q);
    if (d->code < 0)
        api_fail_code(q, ERR_UNAVAILABLE, "some of the deletions could not be made durable: try again");
    else if (q->dry_run && audit_shown(q, collection_recorded, d))
        return;
    else
        reply_collection(q, json_incref(d->items));
    collection_free(d);
}

/* Marks one object, and deletes it when nothing holds it. */
static int delete_one(struct collection *c, struct store_value *v, const char *finalizer, struct collection_done *d)
{
    struct api_request *q = c->q;
    struct store_value *latest = store_get_pending(q->server->store, v->key);
    JSON_AUTO obj = latest ? object_copy(latest) : NULL;
    CLEANUP(sbuf_deinit) struct sbuf text = {0};
    if (!obj || obj_deleting(obj))
        return 0;
    api_mark_deleted(obj);
    if (finalizer)
        obj_add_finalizer(obj, finalizer);
    bool goes = !meta_has_finalizers(obj);
    sbuf_init(&text, q->server->o.max_object_bytes * 2);
    int rc = goes ? 0 : object_encode(q->server, v->key, obj, &text, NULL);
    if (rc < 0)
        return rc;
    json_array_append_new(d->items, kind_show(q->kind, obj));
    if (q->dry_run)
        return 0;
    struct store_op op = {.type = goes ? STORE_DELETE : STORE_PUT, .key = v->key, .value = sbuf_str(&text), .expect_rev = latest->rev};
    rc = store_txn_noted(q->server->store, &op, 1, audit_note(q, obj_name(obj), obj), collection_committed, d, NULL);
    d->left += rc == 0;
    return rc;
}

/* A transaction each: a watcher that is cut off goes on behind a revision, and must not have had half of one. They share syncs all the same. */
static void delete_all(struct collection *c, const char *finalizer)
{
    struct collection_done *d = XNEW(struct collection_done);
    int rc = 0;
    *d = (struct collection_done){.q = c->q, .items = json_array(), .left = 1};
    c->q->refs++;
    flow_write_begins(c->q->server->flow, c->q);
    VEC_FOREACH (&c->values, v)
        if (rc == 0)
            rc = delete_one(c, *v, finalizer, d);
    collection_committed(d, rc, 0);
}

void api_delete_collection(struct api_request *q)
{
    struct err err = ERR_INIT;
    struct delete_options o = {0};
    struct selector *selector = NULL;
    struct collection c = {.q = q, .values = VEC_INIT};
    CLEANUP(sbuf_deinit) struct sbuf prefix = {0};
    sbuf_init(&prefix, 1024);
    object_prefix(q->kind, q->ns, &prefix);
    if (q->kind->namespaced && !*q->ns)
        err_set(&err, ERR_METHOD, "the server does not allow this method on the requested resource: name a namespace");
    if (err.code || read_options(q, &o, &err) < 0 || selector_parse(q->arena, q->kind, api_query(q, "labelSelector"), api_query(q, "fieldSelector"), &selector, &err) < 0) {
        api_fail(q, &err);
        return;
    }
    c.selector = selector;
    (void)!store_range(q->server->store, sbuf_str(&prefix), STR_NULL, 0, 0, collect, &c, NULL);
    delete_all(&c, o.finalizer);
    VEC_FOREACH (&c.values, v)
        store_value_unref(*v);
    VEC_DEINIT(&c.values);
}
