/* A tenant's part of the audit ledger, as the subresource of its object: a page of records in their order, read from the ledger's files on a thread of the pool.
 *
 * One request reads a bounded piece of the ledger, whatever it finds there: a page may be empty and yet tell where to go on. Few are read at once, one of a tenant. What lies
 * before the tenant was made is not shown: it is of an earlier one of its name.
 */
#include "apiserver/api.h"
#include "apiserver/audit.h"
#include "apiserver/types.h"
#include "base/clock.h"
#include "base/mem.h"
#include "crypto/hash.h"
#include "ledger/piece.h"
#include "ledger/record.h"

#define VIEWS_MAX 3 /* read at once: the pool has four threads */
#define LIMIT_DEFAULT 500
#define LIMIT_MAX 1000
#define PIECE_BYTES ((size_t)8 * 1024 * 1024) /* of the ledger, for one page */
#define PAGE_BYTES ((size_t)2 * 1024 * 1024)  /* then the page is full … */
#define PAGE_BYTES_MAX (PAGE_BYTES + (size_t)8 * LEDGER_BODY_MAX) /* … but for its last record */
#define READ_MS 3000
#define ANSWER_MS 15000
#define RECORD_ARENA (1024 * 1024)

struct audit_view {
    struct apiserver *server;
    struct audit_view *next;
    struct api_request *q; /* NULL: it was too late, and is answered */
    struct timer late;
    char *tenant, *dir, *name;
    uint64_t after, until_ms; /* until_ms: by the monotonic clock */
    int64_t since_ms;
    size_t limit, count;
    bool ocsf, found; /* found: at says where to begin */
    /* of the thread, until it is done */
    struct ledger_place at;
    struct arena *arena; /* of one record */
    struct sbuf out;
    bool end;
    int rc;
    struct err err;
};

/* ---- on the pool ---- */

static void add_record(struct audit_view *v, const struct audit_event *e, const struct ledger_record *rec)
{
    char hash[2 * sizeof(rec->prev_hash) + 1];
    hash_hex(rec->prev_hash, sizeof(rec->prev_hash), hash);
    if (v->ocsf) {
        JSON_AUTO doc = audit_ocsf(e, rec->sequence, rec->time_ms, hash);
        json_write(doc, &v->out);
        sbuf_add_char(&v->out, '\n');
    } else {
        if (v->count)
            sbuf_add_char(&v->out, ',');
        audit_write_item(e, rec->sequence, rec->time_ms, hash, &v->out);
    }
    v->count++;
}

static bool on_record(void *arg, const struct ledger_record *rec)
{
    struct audit_view *v = arg;
    struct audit_event e;
    struct str tenant = str_of(v->tenant);
    if (rec->sequence > v->after && rec->time_ms >= v->since_ms && audit_may_concern(rec->body, tenant)) {
        arena_reset(v->arena);
        if (audit_decode(rec->body, v->arena, &e, &v->err) < 0) {
            err_wrap(&v->err, "record %llu", (unsigned long long)rec->sequence);
            return false;
        }
        if (audit_view(&e, tenant))
            add_record(v, &e, rec);
    }
    return v->count < v->limit && v->out.len < PAGE_BYTES && (rec->sequence % 64 || clock_mono_ms() < v->until_ms);
}

static void read_page(void *arg)
{
    struct audit_view *v = arg;
    v->until_ms = clock_mono_ms() + READ_MS;
    v->rc = v->found ? 0 : ledger_place_find(v->dir, v->name, v->after, v->since_ms, &v->at, &v->err);
    if (v->rc == ERR_NOT_FOUND) { /* nothing was recorded yet */
        v->rc = 0;
        v->end = true;
        return;
    }
    if (v->rc == 0)
        v->rc = ledger_piece_read(v->dir, v->name, &v->at, PIECE_BYTES, on_record, v, &v->end, &v->err);
    if (v->rc == 0 && v->err.code)
        v->rc = v->err.code;
    if (v->rc == 0 && !sbuf_ok(&v->out))
        v->rc = err_set(&v->err, ERR_NO_MEMORY, "no memory for a page of the audit ledger");
}

/* ---- on the loop ---- */

static void view_free(struct audit_view *v)
{
    timer_stop(&v->late);
    arena_free(v->arena);
    sbuf_deinit(&v->out);
    mem_free(v->tenant);
    mem_free(v->dir);
    mem_free(v->name);
    mem_free(v);
}

/* Of the tokens of pages, their sequence alone is looked at by whoever follows a ledger; the rest is where that is. */
static void reply(struct audit_view *v)
{
    struct api_request *q = v->q;
    CLEANUP(sbuf_deinit) struct sbuf text = {0};
    char token[LEDGER_PLACE_TEXT] = "";
    if (!v->end)
        ledger_place_write(&v->at, token);
    if (v->ocsf) {
        if (*token)
            api_header(q, "Link", str_of(arena_printf(q->arena, "<%s?limit=%zu&after=%llu&continue=%s>; rel=\"next\"", q->path, v->limit, (unsigned long long)v->after, token)));
        api_reply_text(q, 200, "application/x-ndjson", sbuf_str(&v->out));
        return;
    }
    sbuf_init(&text, PAGE_BYTES_MAX + 1024);
    sbuf_addf(&text, "{\"kind\":\"" AUDIT_RECORD_LIST "\",\"apiVersion\":\"" SEKI_GROUP "/" SEKI_VERSION "\",\"metadata\":{");
    if (*token)
        sbuf_addf(&text, "\"continue\":\"%s\"", token);
    sbuf_addc(&text, "},\"items\":[");
    sbuf_add(&text, sbuf_str(&v->out));
    sbuf_addc(&text, "]}");
    api_reply_json(q, 200, sbuf_str(&text));
}

static void done(void *arg)
{
    struct audit_view *v = arg, **at = &v->server->audit_views;
    struct api_request *q = v->q;
    while (*at != v)
        at = &(*at)->next;
    *at = v->next;
    if (q && !q->replied && v->rc < 0)
        api_fail(q, &v->err);
    else if (q && !q->replied)
        reply(v);
    if (q)
        api_request_unref(q);
    view_free(v);
}

static void too_late(struct timer *t)
{
    struct audit_view *v = t->arg;
    struct api_request *q = v->q;
    v->q = NULL;
    if (!q->replied)
        api_fail_code(q, ERR_TIMEOUT, "the audit ledger could not be read in time; try again");
    api_request_unref(q);
}

static int check_room(const struct api_request *q, struct err *err)
{
    size_t count = 0;
    bool own = false;
    for (const struct audit_view *v = q->server->audit_views; v; v = v->next, count++)
        own = own || !strcmp(v->tenant, q->name);
    return own || count >= VIEWS_MAX ? err_set(err, ERR_TOO_MANY, "the audit ledger is being read %s; try again in a second", own ? "for this tenant already" : "for others") : 0;
}

static int read_count(struct api_request *q, const char *name, uint64_t *ret, struct err *err)
{
    struct str text = api_query(q, name);
    if (text.len && str_to_u64(text, ret) < 0)
        return err_field(err, ERR_BAD_REQUEST, name, "%s: expected a number, 0 or more", name);
    return 0;
}

static int read_options(struct api_request *q, struct audit_view *v, struct err *err)
{
    uint64_t limit = 0;
    struct str token = api_query(q, "continue");
    int rc = read_count(q, "limit", &limit, err);
    if (rc == 0)
        rc = read_count(q, "after", &v->after, err);
    if (rc == 0 && token.len && ledger_place_parse(token, &v->at, NULL) < 0)
        rc = err_field(err, ERR_BAD_REQUEST, "continue", "continue key is not valid: not a token of this server");
    v->found = token.len > 0;
    v->limit = !limit ? LIMIT_DEFAULT : (size_t)MIN(limit, (uint64_t)LIMIT_MAX);
    v->ocsf = q->wants.form == ACCEPT_NDJSON;
    if (v->ocsf)
        q->wants.form = ACCEPT_JSON; /* of failures */
    return rc;
}

static void begin(struct api_request *q, struct audit_view *v, const json_t *owner)
{
    const char *dir, *name;
    audit_log_files(q->server->o.audit, &dir, &name);
    audit_viewed(q, owner);
    (void)!clock_parse(str_of(json_str_or(owner, "metadata.creationTimestamp", "")), &v->since_ms);
    v->server = q->server;
    v->tenant = xstrdup(q->name);
    v->dir = xstrdup(dir);
    v->name = xstrdup(name);
    v->arena = arena_new(RECORD_ARENA);
    sbuf_init(&v->out, PAGE_BYTES_MAX);
    v->q = q;
    q->refs++;
    v->next = q->server->audit_views;
    q->server->audit_views = v;
    timer_init(&v->late, q->server->loop, too_late, v);
    timer_start(&v->late, ANSWER_MS);
    loop_work(q->server->loop, read_page, done, v);
}

void api_audit_view(struct api_request *q)
{
    struct err err = ERR_INIT;
    struct kind_server server = api_kind_server(q->server);
    struct audit_view *v = XNEW(struct audit_view);
    JSON_AUTO owner = server.get(server.ctx, q->kind, "", q->name);
    int rc = read_options(q, v, &err);
    if (rc == 0 && !owner)
        rc = err_set(&err, ERR_NOT_FOUND, "%s \"%s\" not found", api_resource_text(q), q->name);
    else if (rc == 0 && !q->server->o.audit)
        rc = err_set(&err, ERR_UNAVAILABLE, "this server keeps no audit ledger");
    else if (rc == 0)
        rc = check_room(q, &err);
    if (rc == 0) {
        begin(q, v, owner);
        return;
    }
    mem_free(v);
    api_fail(q, &err);
}
