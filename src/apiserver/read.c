/* get and list. Reads answer from memory, at the last durable revision or at the one that a page belongs to. */
#include "apiserver/api.h"
#include "base/mem.h"
#include "crypto/hash.h"

#define TOKEN_MAX 2048
#define LIST_BYTES_MAX (1024u * 1024 * 1024)

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
    size_t count;
    /* one of the three */
    struct sbuf *text;
    json_t *items, *table;
    struct str next; /* key of the first object that did not fit; arena */
};

static bool add(void *arg, struct store_value *v)
{
    struct list *l = arg;
    json_t *obj = NULL;
    if (l->selector || l->items || l->table) {
        obj = object_of_as(l->q->kind, v);
        if (!selector_matches(l->selector, obj)) {
            json_decref(obj);
            return true;
        }
    }
    if (l->limit && l->count == (size_t)l->limit) {
        l->next = arena_str(l->q->arena, v->key);
        json_decref(obj);
        return false;
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
    json_decref(obj);
    return true;
}

/* Continue tokens: base64 of "REVISION KEY". Clients treat them as opaque; a made-up one can only start elsewhere in what its sender may list. */
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
    if (!str_cut(&rest, ' ', &rev) || str_to_i64(rev, 1, INT64_MAX, &l->rev) < 0 || !str_starts(rest, sbuf_str(&prefix)))
        return err_field(err, ERR_BAD_REQUEST, "continue", "continue key is not valid: not a token for this list");
    l->start = arena_str(q->arena, rest);
    return 0;
}

static const char *write_token(struct list *l)
{
    CLEANUP(sbuf_deinit) struct sbuf plain = {0}, text = {0};
    if (!l->next.len)
        return "";
    sbuf_init(&plain, TOKEN_MAX);
    sbuf_init(&text, TOKEN_MAX * 2);
    sbuf_addf(&plain, "%lld %.*s", (long long)l->rev, STR_ARG(l->next));
    base64_encode(sbuf_str(&plain), &text);
    return arena_strndup(l->q->arena, sbuf_str(&text));
}

static int read_options(struct api_request *q, struct list *l, struct err *err)
{
    struct str limit = api_query(q, "limit"), token = api_query(q, "continue"), rv = api_query(q, "resourceVersion"), match = api_query(q, "resourceVersionMatch");
    struct selector *selector;
    int rc = selector_parse(q, api_query(q, "labelSelector"), api_query(q, "fieldSelector"), &selector, err);
    if (rc < 0)
        return rc;
    l->selector = selector;
    if (limit.len && str_to_i64(limit, 0, INT64_MAX, &l->limit) < 0)
        return err_field(err, ERR_BAD_REQUEST, "limit", "limit must be a number, 0 or more");
    l->rev = store_rev(q->server->store);
    if (token.len)
        return read_token(q, token, l, err);
    int64_t wanted = 0;
    if (rv.len && str_to_i64(rv, 0, INT64_MAX, &wanted) < 0)
        return err_field(err, ERR_BAD_REQUEST, "resourceVersion", "Invalid value: \"%.*s\": must be a number", (int)(rv.len > 32 ? 32 : rv.len), rv.ptr);
    if (wanted > l->rev)
        return err_set(err, ERR_TIMEOUT, "Too large resource version: %lld, current: %lld", (long long)wanted, (long long)l->rev);
    if (str_eqc(match, "Exact") && wanted > 0)
        l->rev = wanted;
    return 0;
}

static void finish_text(struct list *l, const char *token, struct sbuf *out)
{
    char version[128];
    kind_api_version(l->q->kind, version);
    sbuf_addf(out, "{\"kind\":\"%sList\",\"apiVersion\":\"%s\",\"metadata\":{\"resourceVersion\":\"%lld\"", l->q->kind->name, version, (long long)l->rev);
    if (*token)
        sbuf_addf(out, ",\"continue\":\"%s\"", token);
    sbuf_addc(out, "},\"items\":[");
    sbuf_add(out, sbuf_str(l->text));
    sbuf_addc(out, "]}");
}

static void reply_list(struct list *l)
{
    struct api_request *q = l->q;
    const char *token = write_token(l);
    if (l->text) {
        CLEANUP(sbuf_deinit) struct sbuf out = {0};
        sbuf_init(&out, LIST_BYTES_MAX);
        finish_text(l, token, &out);
        api_reply_json(q, 200, sbuf_str(&out));
        return;
    }
    json_t *list = l->table;
    if (!list) {
        char version[128], rev[24], kind[160];
        bool metadata = q->wants.as == AS_METADATA_LIST;
        kind_api_version(q->kind, version);
        if (metadata)
            snprintf(version, sizeof(version), "meta.k8s.io/%s", q->wants.version);
        snprintf(rev, sizeof(rev), "%lld", (long long)l->rev);
        snprintf(kind, sizeof(kind), "%sList", metadata ? "PartialObjectMetadata" : q->kind->name);
        list = json_pack("{s:s, s:s, s:{s:s}, s:o}", "kind", kind, "apiVersion", version, "metadata", "resourceVersion", rev, "items", l->items);
    }
    if (*token)
        json_put_str(list, "metadata.continue", token);
    api_reply(q, 200, list);
}

void api_list(struct api_request *q)
{
    struct err err = ERR_INIT;
    struct list l = {.q = q};
    CLEANUP(sbuf_deinit) struct sbuf prefix = {0}, text = {0};
    sbuf_init(&prefix, 1024);
    sbuf_init(&text, LIST_BYTES_MAX);
    if (read_options(q, &l, &err) < 0) {
        api_fail(q, &err);
        return;
    }
    if (q->wants.as == AS_TABLE) {
        l.table = table_start(q, l.rev, true);
    } else if (q->local_done || q->wants.as == AS_METADATA_LIST || q->kind->view_of) {
        l.items = json_array();
    } else {
        l.text = &text;
    }
    object_prefix(q->kind, q->ns, &prefix);
    if (store_range(q->server->store, sbuf_str(&prefix), l.start, l.rev, 0, add, &l, &err) < 0) {
        if (err.code == ERR_GONE)
            err_set(&err, ERR_GONE, "%s", l.start.len ? "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter."
                                                      : "The resourceVersion for the provided list is too old.");
        json_decref(l.table);
        json_decref(l.items);
        api_fail(q, &err);
        return;
    }
    reply_list(&l);
}
