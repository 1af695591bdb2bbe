#include "ledger/audit_collect.h"

#include <ctype.h>
#include <dirent.h>
#include <string.h>

#include "base/arena.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/vec.h"
#include "ledger/audit.h"
#include "ledger/ledger.h"

/* A journal that is copied. */
struct collecting {
    const struct audit_collection *of;
    char *name;
    struct ledger_reader *reader;
    char id[LEDGER_ID_TEXT]; /* of the journal that was read last; empty: not known */
    uint64_t copied;         /* sequence of its last record that is here */
    uint64_t shortened;      /* records of this round that were too long */
    struct err err;          /* of one record */
};

struct audit_collection {
    char *dir, *prefix;
    const struct audit_collect_ops *ops;
    void *arg;
    VEC(struct collecting *) from;
};

struct audit_collection *audit_collection_new(const char *dir, const char *prefix,
                                              const struct audit_collect_ops *ops, void *arg)
{
    struct audit_collection *x = XNEW(struct audit_collection);
    *x = (struct audit_collection){
        .dir = xstrdup(dir), .prefix = xstrdup(prefix), .ops = ops, .arg = arg};
    return x;
}

void audit_collection_free(struct audit_collection *x)
{
    if (!x)
        return;
    VEC_FOREACH (&x->from, c) {
        if ((*c)->reader)
            ledger_reader_close((*c)->reader);
        mem_free((*c)->name);
        mem_free(*c);
    }
    VEC_DEINIT(&x->from);
    mem_free(x->dir);
    mem_free(x->prefix);
    mem_free(x);
}

static bool fits(struct str body, const char *origin, struct sbuf *ret)
{
    sbuf_reset(ret);
    sbuf_add(ret, str_n(body.ptr, body.len - 1));
    sbuf_addf(ret, ",\"origin\":\"%s\"}", origin);
    return sbuf_ok(ret);
}

/* What of a record is too long for the ledger with its origin: who, what, to what, with what
 * result, in texts of a length that fits. Of one that says none of it, that it was there. */
static void shorten(struct collecting *c, const struct ledger_record *rec, const char *origin,
                    struct sbuf *ret)
{
    CLEANUP(sbuf_deinit) struct sbuf body = {0};
    CLEANUP(arena_freep) struct arena *a = arena_new(8 * LEDGER_BODY_MAX);
    struct audit_event e;
    if (audit_decode(rec->body, a, &e, NULL) < 0)
        e = (struct audit_event){.type = AUDIT_OTHER, .reason = STR("RecordUnreadable")};
    sbuf_init(&body, LEDGER_BODY_MAX);
    audit_encode(&e, &body);
    (void)fits(sbuf_str(&body), origin, ret);
    c->shortened++;
}

/* The body with where it came from. */
static bool copy(void *arg, const struct ledger_record *rec)
{
    struct collecting *c = arg;
    const struct audit_collection *x = c->of;
    CLEANUP(sbuf_deinit) struct sbuf body = {0};
    CLEANUP(mem_freep)
    char *origin = xasprintf("%s/%s/%llu", c->name, c->id, (unsigned long long)rec->sequence);
    sbuf_init(&body, LEDGER_BODY_MAX);
    if (rec->body.len > 2 && !fits(rec->body, origin, &body))
        shorten(c, rec, origin, &body);
    if (rec->body.len > 2 && x->ops->append(x->arg, rec->time_ms, sbuf_str(&body), &c->err) < 0)
        return false;
    c->copied = rec->sequence;
    return true;
}

/* Another journal under the same name (that process lost its disk) is read from its beginning. */
static int identify(struct collecting *c, const char *dir, struct err *err)
{
    char id[LEDGER_ID_TEXT];
    int rc = c->reader ? 0 : ledger_reader_open(dir, c->name, &c->reader, err);
    if (rc == 0)
        rc = ledger_reader_id(c->reader, id, err);
    if (rc < 0 || !strcmp(id, c->id))
        return rc;
    if (*c->id) {
        log_warn("an audit journal was replaced by another one", KV("journal", c->name), KVI("copied", c->copied));
        ledger_reader_close(c->reader);
        c->reader = NULL;
        rc = ledger_reader_open(dir, c->name, &c->reader, err);
    }
    c->copied = 0;
    memcpy(c->id, id, sizeof(c->id));
    return rc;
}

static struct collecting *collecting_of(struct audit_collection *x, struct str name)
{
    VEC_FOREACH (&x->from, have)
        if (str_eqc(name, (*have)->name))
            return *have;
    struct collecting *c = XNEW(struct collecting);
    c->name = xstrndup(name.ptr, name.len);
    c->of = x;
    *VEC_PUSH(&x->from) = c;
    return c;
}

static bool is_collected(const struct audit_collection *x, struct str name)
{
    struct str prefix = str_of(x->prefix);
    return str_starts(name, prefix) && (name.len == prefix.len || name.ptr[prefix.len] == '-');
}

/* Journals are found by their names: NAME.NNNNNN. */
static void find_journals(struct audit_collection *x)
{
    DIR *d = opendir(x->dir);
    struct dirent *e;
    while (d && (e = readdir(d))) {
        struct str name = str_of(e->d_name);
        ssize_t dot = str_find(name, '.');
        if (dot <= 0 || name.len - (size_t)dot != sizeof(".000001") - 1 || !isdigit((unsigned char)name.ptr[dot + 1]))
            continue;
        name.len = (size_t)dot;
        if (is_collected(x, name))
            (void)collecting_of(x, name);
    }
    if (d)
        closedir(d);
}

static void collect_one(const struct audit_collection *x, struct collecting *c)
{
    struct err err = ERR_INIT;
    int rc = identify(c, x->dir, &err);
    if (rc == ERR_NOT_FOUND)
        return; /* it has written nothing yet */
    c->err = (struct err){0};
    c->shortened = 0;
    int usable = x->ops->begin(x->arg, rc == 0 ? &err : NULL);
    if (rc == 0)
        rc = usable;
    if (rc == 0)
        rc = ledger_read(c->reader, c->copied, copy, c, &err);
    if (rc == 0 && c->err.code)
        err = c->err;
    x->ops->end(x->arg);
    if (c->shortened)
        log_warn("audit records were too long for the ledger and are there shortened",
                 KV("journal", c->name), KVI("records", c->shortened), KVI("upto", c->copied));
    if (err.code)
        log_warn("audit records cannot be collected; trying again", KV("journal", c->name), KVE(&err));
}

void audit_collect(struct audit_collection *x)
{
    find_journals(x);
    VEC_FOREACH (&x->from, c)
        collect_one(x, *c);
}

void audit_collection_saw(struct audit_collection *x, struct str body)
{
    static const char member[] = ",\"origin\":\"";
    const char *found = memmem(body.ptr, body.len, member, sizeof(member) - 1);
    struct str rest, name, id;
    uint64_t n;
    if (!x || !found || body.len < 2)
        return;
    rest = str_skip(body, (size_t)(found - body.ptr) + sizeof(member) - 1);
    rest.len -= 2; /* "} */
    if (str_cut(&rest, '/', &name) && is_collected(x, name) && str_cut(&rest, '/', &id) && id.len < LEDGER_ID_TEXT && str_to_u64(rest, &n) == 0) {
        struct collecting *c = collecting_of(x, name);
        snprintf(c->id, sizeof(c->id), "%.*s", STR_ARG(id));
        c->copied = n;
    }
}
