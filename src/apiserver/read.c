/* get and list. Reads answer from memory, at the last durable revision or at the one that a page belongs to. */
#include "apiserver/options.h"
#include "base/clock.h"
#include "base/mem.h"
#include "crypto/hash.h"

#define TOKEN_MAX 2048
#define ANY_REVISION (-1)
#define LIST_BYTES_MAX (1024u * 1024 * 1024)
#define LOOK_EVERY 32 /* objects between two looks at the clock */

void api_get(struct api_request *q)
{
    CLEANUP(sbuf_deinit) struct sbuf key = {0};
    sbuf_init(&key, 1024);
    object_key(q->kind, q->ns, q->name, &key);
    struct store_value *v = store_get(q->server->store, sbuf_str(&key));
    if (v)
        api_reply_value(q, 200, v);
    else
        api_fail_code(q, ERR_NOT_FOUND, "%s \"%s\" not found", api_resource_text(q), q->name);
}

struct list {
    struct api_request *q;
    const struct selector *selector;
    int64_t limit, rev;
    struct str start;
    size_t count, bytes; /* of objects, as they are stored */
    /* one of the three */
    struct sbuf *text;
    json_t *items, *table;
    struct str next; /* key of the first object that did not fit; arena */
    /* long lists are made in slices, all at the same revision */
    struct sbuf prefix;
    uint64_t slice_ns; /* when this one began */
    size_t looked;
    bool yielded;
    const char *shut; /* why the object at `start` cannot be shown; NULL: all can */
    size_t remaining; /* objects that did not fit; 0 when selectors make it unknown */
};

static void list_resume(struct api_request *q);

static bool add(void *arg, struct store_value *v)
{
    struct list *l = arg;
    json_t *obj = NULL;
    if (l->looked % LOOK_EVERY == 0)
        flow_hold(l->q, l->bytes);
    if (++l->looked % LOOK_EVERY == 0 && flow_yield(l->q, l->slice_ns, list_resume)) {
        l->start = arena_str(l->q->arena, v->key);
        l->yielded = true;
        return false;
    }
    if (l->remaining) {
        l->remaining++;
        return true;
    }
    const char *shut = object_shut(v);
    if (shut) {
        l->shut = arena_strdup(l->q->arena, shut);
        l->start = arena_str(l->q->arena, v->key);
        return false;
    }
    if (l->selector || l->items || l->table) {
        obj = object_of_as(l->q->kind, v);
        if (!selector_matches(l->selector, obj)) {
            json_decref(obj);
            return true;
        }
    }
    if (l->limit && l->count == (size_t)l->limit) {
        l->next = arena_str(l->q->arena, v->key);
        l->remaining = l->selector ? 0 : 1;
        json_decref(obj);
        return l->remaining > 0;
    }
    if (l->table) {
        table_row(l->table, l->q, obj);
    } else if (l->items) {
        json_array_append_new(l->items, l->q->wants.as == AS_METADATA_LIST ? shape_metadata(l->q->wants.version, obj) : json_incref(obj));
    } else {
        if (l->count)
            sbuf_add_char(l->text, ',');
        object_write(v, v->rev, l->text);
    }
    l->count++;
    l->bytes += v->value.len;
    json_decref(obj);
    return true;
}

/* Continue tokens: base64 of "REVISION KEY"; revision -1 goes on in whatever is there now. Clients treat them as opaque; a made-up one can only start elsewhere in what its
 * sender may list. */
static int read_token(struct api_request *q, struct str token, struct list *l, struct err *err)
{
    CLEANUP(sbuf_deinit) struct sbuf plain = {0}, prefix = {0};
    sbuf_init(&plain, TOKEN_MAX);
    sbuf_init(&prefix, 1024);
    struct str rest, rev;
    object_prefix(q->kind, q->ns, &prefix);
    if (token.len > TOKEN_MAX || base64_decode(token, &plain, NULL) < 0)
        return err_field(err, ERR_BAD_REQUEST, "continue", "continue key is not valid: not a token of this server");
    rest = sbuf_str(&plain);
    int64_t at, now = store_rev(q->server->store);
    if (!str_cut(&rest, ' ', &rev) || str_to_i64(rev, ANY_REVISION, now, &at) < 0 || !at || !str_starts(rest, sbuf_str(&prefix)))
        return err_field(err, ERR_BAD_REQUEST, "continue", "continue key is not valid: not a token for this list");
    l->start = arena_str(q->arena, rest);
    l->rev = at == ANY_REVISION ? now : at;
    return 0;
}

static const char *write_token(struct api_request *q, int64_t rev, struct str next)
{
    CLEANUP(sbuf_deinit) struct sbuf plain = {0}, text = {0};
    if (!next.len)
        return "";
    sbuf_init(&plain, TOKEN_MAX);
    sbuf_init(&text, TOKEN_MAX * 2);
    sbuf_addf(&plain, "%lld %.*s", (long long)rev, STR_ARG(next));
    base64_encode(sbuf_str(&plain), &text);
    return arena_strndup(q->arena, sbuf_str(&text));
}

/* The revision that the list shows. */
static int choose_revision(struct list *l, const struct list_options *o, struct err *err)
{
    int64_t now = store_rev(l->q->server->store);
    l->rev = now;
    l->selector = o->selector;
    l->limit = o->limit;
    if (o->token.len)
        return read_token(l->q, o->token, l, err);
    if (o->match == MATCH_EXACT)
        l->rev = o->rev;
    return 0;
}

static void finish_text(struct list *l, const char *token, struct sbuf *out)
{
    char version[128];
    kind_api_version(l->q->kind, version);
    sbuf_addf(out, "{\"kind\":\"%sList\",\"apiVersion\":\"%s\",\"metadata\":{\"resourceVersion\":\"%lld\"", l->q->kind->name, version, (long long)l->rev);
    if (*token)
        sbuf_addf(out, ",\"continue\":\"%s\"", token);
    if (l->remaining)
        sbuf_addf(out, ",\"remainingItemCount\":%zu", l->remaining);
    sbuf_addc(out, "},\"items\":[");
    sbuf_add(out, sbuf_str(l->text));
    sbuf_addc(out, "]}");
}

static void reply_list(struct list *l)
{
    struct api_request *q = l->q;
    const char *token = write_token(q, l->rev, l->next);
    if (l->text) {
        CLEANUP(sbuf_deinit) struct sbuf out = {0};
        sbuf_init(&out, LIST_BYTES_MAX);
        finish_text(l, token, &out);
        api_reply_json(q, 200, sbuf_str(&out));
        return;
    }
    json_t *list = TAKE(l->table);
    if (!list) {
        char version[128], rev[24], kind[160];
        bool metadata = q->wants.as == AS_METADATA_LIST;
        kind_api_version(q->kind, version);
        if (metadata)
            snprintf(version, sizeof(version), "meta.k8s.io/%s", q->wants.version);
        snprintf(rev, sizeof(rev), "%lld", (long long)l->rev);
        snprintf(kind, sizeof(kind), "%sList", metadata ? "PartialObjectMetadata" : q->kind->name);
        list = json_pack("{s:s, s:s, s:{s:s}, s:o}", "kind", kind, "apiVersion", version, "metadata", "resourceVersion", rev, "items", TAKE(l->items));
    }
    if (*token)
        json_put_str(list, "metadata.continue", token);
    if (l->remaining)
        json_put_int(list, "metadata.remainingItemCount", (int64_t)l->remaining);
    api_reply(q, 200, list);
}

/* The revision is compacted. Who was in the middle of a list may go on in what is there now, if that is good enough. */
static void fail_gone(struct list *l)
{
    if (!l->start.len) {
        api_fail_code(l->q, ERR_GONE, "The resourceVersion for the provided list is too old.");
        return;
    }
    json_t *status = api_status(410, "Failure", err_reason(ERR_GONE),
                                "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the "
                                "continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects "
                                "that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.", NULL);
    json_put_str(status, "metadata.continue", write_token(l->q, ANY_REVISION, l->start));
    l->q->wants.as = AS_ITSELF;
    api_reply(l->q, 410, status);
}

static void choose_form(struct list *l)
{
    struct api_request *q = l->q;
    if (q->wants.as == AS_TABLE) {
        l->table = table_start(q, l->rev, true);
    } else if (q->local_done || q->wants.as == AS_METADATA_LIST || q->kind->view_of) {
        l->items = json_array();
    } else {
        l->text = ARENA_NEW(q->arena, struct sbuf);
        sbuf_init(l->text, LIST_BYTES_MAX);
    }
}

static void list_deinit(void *arg)
{
    struct list *l = arg;
    json_decref(l->table);
    json_decref(l->items);
    if (l->text)
        sbuf_deinit(l->text);
    sbuf_deinit(&l->prefix);
}

/* One slice of the objects. */
static void list_step(struct list *l)
{
    struct err err = ERR_INIT;
    l->slice_ns = clock_mono_ns();
    l->yielded = false;
    int rc = store_range(l->q->server->store, sbuf_str(&l->prefix), l->start, l->rev, 0, add, l, &err);
    if (l->yielded)
        return;
    if (l->shut)
        api_fail_shut(l->q, l->start, l->shut);
    else if (rc == 0)
        reply_list(l);
    else if (err.code == ERR_GONE)
        fail_gone(l);
    else
        api_fail(l->q, &err);
}

static void list_resume(struct api_request *q)
{
    struct err err = ERR_INIT;
    if (flow_check_answer(q->server->flow, q, &err) < 0)
        api_fail(q, &err);
    else
        list_step(q->work);
}

void api_list(struct api_request *q)
{
    struct err err = ERR_INIT;
    struct list *l = ARENA_NEW(q->arena, struct list);
    struct list_options o;
    struct field_errors errors = {0};
    l->q = q;
    if (list_options_read(q, false, &o, &errors, &err) < 0 || choose_revision(l, &o, &err) < 0) {
        list_options_fail(q, &errors, &err);
        return;
    }
    if (o.rev > store_rev(q->server->store)) {
        api_reply(q, 504, list_too_large(o.rev, store_rev(q->server->store)));
        return;
    }
    q->work = l;
    sbuf_init(&l->prefix, 1024);
    object_prefix(q->kind, q->ns, &l->prefix);
    choose_form(l);
    arena_on_free(q->arena, list_deinit, l);
    if (namespace_has_history(q->server, q->ns, l->rev))
        list_step(l);
    else
        fail_gone(l);
}
