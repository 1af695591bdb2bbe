/* Text of files beside an object (a control plane's logs, a cluster's audit log), as its subresource: a piece of whole lines and where the next one begins, read on a thread of the pool by
 * whoever wired the server (apiserver_options.text). Few are read at once. */
#include "apiserver/api.h"
#include "apiserver/audit.h"
#include "apiserver/types.h"
#include "base/mem.h"

#define READS_MAX 3 /* at once: the pool has four threads */

struct text_view {
    struct api_request *q;
    json_t *owner;
    char *part, *component, *after;
    uint64_t tail;
    struct sbuf text;
    char next[API_TEXT_NEXT_MAX];
    int rc;
    struct err err;
};

static void read_text(void *arg)
{
    struct text_view *v = arg;
    const struct apiserver_options *o = &v->q->server->o;
    const struct api_text ask = {.owner = v->owner, .part = v->part, .component = v->component, .after = v->after, .tail = v->tail};
    v->rc = o->text(o->text_ctx, &ask, &v->text, v->next, &v->err);
}

/* What is no UTF-8 is shown as '?'. */
static json_t *text_of(struct sbuf *text)
{
    json_t *ret = json_stringn(text->ptr ? text->ptr : "", text->len);
    for (size_t i = 0; !ret && i < text->len; i++)
        if ((unsigned char)text->ptr[i] >= 0x80)
            text->ptr[i] = '?';
    return ret ? ret : json_stringn(text->ptr, text->len);
}

static void done(void *arg)
{
    struct text_view *v = arg;
    struct api_request *q = v->q;
    CLEANUP(sbuf_deinit) struct sbuf out = {0};
    q->server->texts--;
    if (!q->replied && v->rc < 0) {
        api_fail(q, &v->err);
    } else if (!q->replied) {
        JSON_AUTO doc = json_pack("{s:s, s:s, s:{s:s}, s:o}", "kind", OBJECT_TEXT, "apiVersion", SEKI_GROUP "/" SEKI_VERSION, "metadata", "continue", v->next, "text", text_of(&v->text));
        sbuf_init(&out, (size_t)8 * API_TEXT_MAX);
        json_write(doc, &out);
        api_reply_json(q, 200, sbuf_str(&out));
    }
    sbuf_deinit(&v->text);
    json_decref(v->owner);
    mem_free(v->part);
    mem_free(v->component);
    mem_free(v->after);
    mem_free(v);
    api_request_unref(q);
}

static char *query_text(struct api_request *q, const char *name)
{
    struct str text = api_query(q, name);
    return xstrndup(text.ptr ? text.ptr : "", text.len);
}

void api_text_view(struct api_request *q)
{
    struct err err = ERR_INIT;
    struct kind_server server = api_kind_server(q->server);
    JSON_AUTO owner = server.get(server.ctx, q->kind, q->ns, q->name);
    struct str tail = api_query(q, "tail");
    uint64_t lines = 0;
    int rc = 0;
    if (!owner)
        rc = err_set(&err, ERR_NOT_FOUND, "%s \"%s\" not found", api_resource_text(q), q->name);
    else if (tail.len && str_to_u64(tail, &lines) < 0)
        rc = err_field(&err, ERR_BAD_REQUEST, "tail", "tail: expected a number, 0 or more");
    else if (!q->server->o.text)
        rc = err_set(&err, ERR_UNAVAILABLE, "this server has no such files");
    else if (q->server->texts >= READS_MAX)
        rc = err_set(&err, ERR_TOO_MANY, "others are reading; try again in a second");
    if (rc < 0) {
        api_fail(q, &err);
        return;
    }
    audit_viewed(q, owner);
    struct text_view *v = XNEW(struct text_view);
    *v = (struct text_view){.q = q, .owner = json_incref(owner), .part = xstrdup(q->sub), .component = query_text(q, "component"), .after = query_text(q, "after"), .tail = lines};
    sbuf_init(&v->text, API_TEXT_MAX);
    q->refs++;
    q->server->texts++;
    loop_work(q->server->loop, read_text, done, v);
}
