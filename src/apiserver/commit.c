/* The end of every write: into the store, and the answer once it is durable. */
#include "apiserver/api.h"
#include "apiserver/audit.h"
#include "apiserver/meta.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "ledger/record.h"

void api_write_drop(const struct api_write *w)
{
    json_decref(w->obj);
    json_decref(w->also);
    json_decref(w->once);
    json_decref(w->applied);
}

static json_t *deleted_status(struct api_request *q, const json_t *obj)
{
    json_t *details = json_pack("{s:s, s:s}", "name", q->name, "kind", q->kind->plural);
    if (*q->kind->group)
        json_object_set_new(details, "group", json_string(q->kind->group));
    if (obj_uid(obj))
        json_object_set_new(details, "uid", json_string(obj_uid(obj)));
    json_t *s = json_pack("{s:s, s:s, s:{}, s:s, s:o}", "kind", "Status", "apiVersion", "v1", "metadata", "status", "Success", "details", details);
    return s;
}

void api_write_answer(const struct api_write *w, int64_t rev)
{
    json_t *body;
    if (rev > 0) {
        char text[24];
        snprintf(text, sizeof(text), "%lld", (long long)rev);
        json_object_set_new(json_object_get(w->obj, "metadata"), "resourceVersion", json_string(text));
    }
    if (w->once)
        json_object_update_recursive(w->obj, w->once);
    if (w->answer == ANSWER_STATUS) {
        body = deleted_status(w->q, w->obj);
    } else if (w->answer == ANSWER_SCALE) {
        body = scale_of(w->obj);
    } else {
        body = shape_object(w->q, w->obj, rev, true);
    }
    api_reply(w->q, w->http_status, body);
    api_write_drop(w);
}

/* What is shown once it is recorded. */
struct showing {
    struct api_write w;
    int64_t rev;
};

static void show(void *arg, bool recorded)
{
    struct showing *k = arg;
    if (recorded)
        api_write_answer(&k->w, k->rev);
    else
        api_write_drop(&k->w);
    mem_free(k);
}

void api_write_show(const struct api_write *w, int64_t rev)
{
    struct showing *k = XNEW(struct showing);
    *k = (struct showing){*w, rev};
    if (w->answer == ANSWER_STATUS || !audit_shown(w->q, show, k))
        show(k, true);
}

static void committed(void *arg, int code, int64_t rev)
{
    struct api_write *w = arg;
    struct api_request *q = w->q;
    flow_write_ends(q->server->flow, q);
    if (code < 0) {
        if (code == ERR_NO_SPACE)
            api_fail_code(q, ERR_UNAVAILABLE, "the disk is full: nothing was written; free space and try again");
        else
            api_fail_code(q, ERR_UNAVAILABLE, "the write could not be made durable and was undone");
        api_write_drop(w);
    } else {
        api_write_answer(w, rev);
    }
    mem_free(w);
    api_request_unref(q);
}

/* Which object a transaction found there already: the request's, or one that is made with it. */
static void already_exists(struct api_request *q, const struct err *err)
{
    struct str ns = STR(""), name = STR("");
    const struct kind *k = object_kind_of_key(str_of(err->field), &ns, &name);
    if (!k || k == kind_stored(q->kind))
        api_fail_code(q, ERR_EXISTS, "%s \"%s\" already exists", api_resource_text(q), q->name);
    else
        api_fail_code(q, ERR_EXISTS, "%s%s%s \"%.*s\" already exists, and is made together with %s \"%s\": nothing was made", k->plural, *k->group ? "." : "", k->group, STR_ARG(name),
                      api_resource_text(q), q->name);
}

static void conflict(struct api_request *q, int code, const struct err *err)
{
    const char *resource = api_resource_text(q);
    if (code == ERR_EXISTS)
        already_exists(q, err);
    else if (code == ERR_NOT_FOUND)
        api_fail_code(q, code, "%s \"%s\" not found", resource, q->name);
    else if (code == ERR_CONFLICT)
        api_fail_code(q, code, "Operation cannot be fulfilled on %s \"%s\": the object has been modified; please apply your changes to the latest version and try again", resource, q->name);
    else
        api_fail(q, err);
}

struct store_value *api_start(struct api_request *q, struct str key)
{
    return q->dry_run || !strcmp(q->verb, "get") ? store_get(q->server->store, key) : store_get_pending(q->server->store, key);
}

/* The operations of a write: its own, and one for each object that is made with it. */
struct batch {
    struct store_op *ops;
    struct sbuf *keys, *texts;
    size_t count;
    struct err err; /* the first thing that cannot be stored */
};

static void add_op(struct batch *b, struct apiserver *s, const struct kind *k, const char *ns, const char *name, const json_t *obj, int64_t expect_rev)
{
    struct sbuf *key = &b->keys[b->count], *text = &b->texts[b->count];
    sbuf_init(key, 1024);
    sbuf_init(text, s->o.max_object_bytes);
    object_key(k, ns, name, key);
    if (!sbuf_ok(key))
        err_set(&b->err, ERR_TOO_LARGE, "a key is too long");
    else if (obj && !b->err.code)
        (void)!object_encode(s, sbuf_str(key), obj, text, &b->err);
    b->ops[b->count++] = (struct store_op){.type = obj ? STORE_PUT : STORE_DELETE, .expect_rev = expect_rev};
}

static void batch_deinit(struct batch *b)
{
    for (size_t i = 0; i < b->count; i++) {
        sbuf_deinit(&b->keys[i]);
        sbuf_deinit(&b->texts[i]);
    }
}

static void batch_close(struct batch *b)
{
    for (size_t i = 0; i < b->count; i++) {
        b->ops[i].key = sbuf_str(&b->keys[i]);
        b->ops[i].value = sbuf_str(&b->texts[i]);
    }
}

static void begin(const struct api_write *w, const struct batch *b)
{
    struct api_request *q = w->q;
    struct apiserver *s = q->server;
    struct err err = ERR_INIT;
    struct api_write *kept = XNEW(struct api_write);
    *kept = *w;
    q->refs++;
    flow_write_begins(s->flow, q);
    int rc = store_txn_noted(s->store, b->ops, b->count, audit_note(q, q->name, w->obj), committed, kept, &err);
    if (rc < 0) {
        flow_write_ends(s->flow, q);
        conflict(q, rc, &err);
        api_write_drop(w);
        mem_free(kept);
        api_request_unref(q);
    }
}

void api_write_commit(const struct api_write *w, bool delete, int64_t expect_rev)
{
    struct api_request *q = w->q;
    struct apiserver *s = q->server;
    size_t n = 1 + json_array_size(w->also), i;
    struct batch b = {ARENA_ARRAY(q->arena, struct store_op, n), ARENA_ARRAY(q->arena, struct sbuf, n), ARENA_ARRAY(q->arena, struct sbuf, n), 0, ERR_INIT};
    JSON_AUTO stored = kind_unshow(q->kind, w->obj);
    json_t *doc;
    q->refs++; /* its arena has the batch, and the answer may be its end */
    add_op(&b, s, q->kind, q->ns, q->name, delete ? NULL : stored, expect_rev);
    json_array_foreach (w->also, i, doc)
        add_op(&b, s, kind_of_document(doc), obj_namespace(doc), obj_name(doc), doc, 0);
    batch_close(&b);
    if (!b.err.code) {
        begin(w, &b);
    } else {
        if (b.err.code == ERR_TOO_LARGE)
            err_set(&b.err, ERR_TOO_LARGE, "Request entity too large: an object may have at most %zu bytes", s->o.max_object_bytes);
        api_fail(q, &b.err);
        api_write_drop(w);
    }
    batch_deinit(&b);
    api_request_unref(q);
}

/* ---- the server's own writes ---- */

void api_mark_deleted(json_t *obj)
{
    char now[CLOCK_TEXT_MAX];
    if (obj_deleting(obj))
        return;
    clock_format(clock_wall_ms(), now);
    json_put_str(obj, "metadata.deletionTimestamp", now);
    json_put_int(obj, "metadata.deletionGracePeriodSeconds", 0);
}

static void quiet_done(void *arg UNUSED, int code, int64_t rev UNUSED)
{
    if (code < 0)
        log_warn("a housekeeping write failed; it is tried again when the object is looked at again", KVI("code", code));
}

static int write_own(struct apiserver *s, struct store_value *v, json_t *obj, bool noted, struct err *err)
{
    CLEANUP(sbuf_deinit) struct sbuf text = {0};
    sbuf_init(&text, s->o.max_object_bytes * 2);
    bool gone = obj_deleting(obj) && !meta_has_finalizers(obj);
    int rc = gone ? 0 : object_encode(s, v->key, obj, &text, err);
    if (rc < 0)
        return rc;
    struct store_op op = {.type = gone ? STORE_DELETE : STORE_PUT, .key = v->key, .value = sbuf_str(&text), .expect_rev = v->rev};
    CLEANUP(sbuf_deinit) struct sbuf note = {0};
    sbuf_init(&note, LEDGER_BODY_MAX);
    if (noted)
        audit_note_own(s, v->key, gone, obj, &note);
    return store_txn_noted(s->store, &op, 1, sbuf_str(&note), quiet_done, s, err);
}

int api_write_quietly(struct apiserver *s, struct store_value *v, json_t *obj, struct err *err)
{
    return write_own(s, v, obj, true, err);
}

int api_write_derived(struct apiserver *s, struct store_value *v, json_t *obj, struct err *err)
{
    return write_own(s, v, obj, false, err);
}

int api_delete_quietly(struct apiserver *s, struct store_value *v, struct err *err)
{
    JSON_AUTO obj = object_copy(v);
    if (obj_deleting(obj))
        return 0;
    api_mark_deleted(obj);
    return api_write_quietly(s, v, obj, err);
}
