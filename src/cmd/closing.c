#include "cmd/closing.h"

#include <dirent.h>
#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "base/map.h"
#include "base/mem.h"
#include "billing/report.h"
#include "crypto/hash.h"
#include "ledger/audit.h"
#include "ledger/extent.h"
#include "ledger/usage.h"

struct telling {
    const char *tenant, *uid;
    bool from_its_beginning; /* what was before this Tenant was made is another's of its name */
    struct arena *arena; /* of one record */
    json_t *deleted;
    struct map *seen; /* an object that waits for something first has two records: that it is to go, and that it went */
    uint64_t after, first, last, end;
    struct err err;
};

int closing_mark(const char *dir, uint64_t *ret_sequence, struct err *err)
{
    CLEANUP(ledger_extent_deinit) struct ledger_extent x = {0};
    int rc = ledger_extent_find(dir, AUDIT_LEDGER, &x, err);
    if (rc == 0)
        *ret_sequence = x.sequence;
    return rc;
}

static bool on_record(void *arg, const struct ledger_record *rec)
{
    struct telling *t = arg;
    struct audit_event e;
    if (rec->sequence > t->end)
        return false;
    arena_reset(t->arena);
    if (audit_decode(rec->body, t->arena, &e, &t->err) < 0)
        return false;
    if (!str_eqc(e.tenant, t->tenant))
        return true;
    if (t->from_its_beginning && e.type == AUDIT_WRITE && str_eqc(e.verb, "create") && str_eqc(e.resource, "tenants") && str_eqc(e.object, t->uid)) {
        json_object_clear(t->deleted);
        map_free(t->seen);
        t->seen = map_new(NULL);
        t->first = 0;
        t->after = rec->sequence - 1;
    }
    t->first = t->first ? t->first : rec->sequence;
    t->last = rec->sequence;
    if (e.type == AUDIT_WRITE && str_starts(e.verb, STR("delete")) && !e.subresource.len) {
        const char *kind = e.group.len ? arena_printf(t->arena, "%.*s.%.*s", STR_ARG(e.resource), STR_ARG(e.group)) : arena_printf(t->arena, "%.*s", STR_ARG(e.resource));
        struct str one = str_of(arena_printf(t->arena, "%s/%.*s/%.*s/%.*s", kind, STR_ARG(e.namespace), STR_ARG(e.name), STR_ARG(e.object)));
        if (!map_get(t->seen, one)) {
            map_set(t->seen, one, t);
            json_object_set_new(t->deleted, kind, json_integer(json_integer_value(json_object_get(t->deleted, kind)) + 1));
        }
    }
    return true;
}

static int tell(const char *dir, struct telling *t, struct err *err)
{
    struct ledger_reader *r;
    int rc = ledger_reader_open(dir, AUDIT_LEDGER, &r, err);
    if (rc < 0)
        return rc;
    t->arena = arena_new(1024 * 1024);
    t->seen = map_new(NULL);
    rc = ledger_read(r, t->after, on_record, t, err);
    arena_free(t->arena);
    map_free(t->seen);
    ledger_reader_close(r);
    if (rc == 0 && t->err.code) {
        *err = t->err;
        rc = err->code;
    }
    return rc;
}

int closing_statement(const char *dir, const char *tenant, const char *uid, uint64_t after, json_t **ret, struct err *err)
{
    CLEANUP(ledger_extent_deinit) struct ledger_extent x = {0};
    JSON_AUTO deleted = json_object();
    char hash[SHA256_HEX_MAX], now[CLOCK_TEXT_MAX];
    int rc = ledger_extent_find(dir, AUDIT_LEDGER, &x, err);
    struct telling t = {.tenant = tenant, .uid = uid, .deleted = deleted, .after = after, .from_its_beginning = !after, .end = x.sequence};
    if (rc == 0)
        rc = tell(dir, &t, err);
    if (rc == 0 && !json_object_get(deleted, "namespaces"))
        rc = err_set(err, ERR_INVALID, "the ledger in %s knows of no project of %s that was deleted: it is not this cloud's", dir, tenant);
    if (rc < 0)
        return rc;
    hash_hex(x.hash, sizeof(x.hash), hash);
    clock_format(clock_wall_ms(), now);
    *ret = json_pack("{s:s, s:s, s:s, s:O, s:{s:s, s:I, s:I, s:I, s:I, s:s}}", "kind", "ClosingStatement", "tenant", tenant, "time", now, "deleted", deleted, "ledger", "id", x.id, "after",
                     (json_int_t)t.after, "first", (json_int_t)t.first, "last", (json_int_t)t.last, "end", (json_int_t)x.sequence, "sha256", hash);
    return 0;
}

/* ---- usage ---- */

#define USAGE_LEDGER "usage"
#define USAGE_JOURNALS "usage-"

struct counting {
    const char *tenant;
    int64_t since_ms;
    struct reports *reports;
    struct arena *arena;  /* of one record */
    json_t *collected;    /* by journal and its id: the last record of it that the ledger has */
};

static void count_one(struct counting *n, struct str body)
{
    struct usage u;
    if (usage_decode(body, n->arena, &u, NULL) == 0 && str_eqc(u.tenant, n->tenant) && u.start_ms >= n->since_ms)
        reports_count(n->reports, &u);
}

static bool on_usage(void *arg, const struct ledger_record *rec)
{
    struct counting *n = arg;
    JSON_AUTO doc = NULL;
    CLEANUP(sbuf_deinit) struct sbuf text = {0};
    if (json_parse(rec->body, LEDGER_BODY_MAX, &doc, NULL) < 0)
        return true;
    arena_reset(n->arena);
    json_object_set_new(n->collected, arena_printf(n->arena, "%s/%s", json_str_or(doc, "journal", ""), json_str_or(doc, "id", "")), json_integer(json_int(doc, "sequence", 0)));
    sbuf_init(&text, LEDGER_BODY_MAX);
    json_write(json_object_get(doc, "usage"), &text);
    count_one(n, sbuf_str(&text));
    return true;
}

static bool on_journal(void *arg, const struct ledger_record *rec)
{
    struct counting *n = arg;
    arena_reset(n->arena);
    count_one(n, rec->body);
    return true;
}

/* A ledger that is not there has nothing. */
static int read_usage(const char *dir, const char *name, struct counting *n, struct err *err)
{
    struct ledger_reader *r;
    char id[LEDGER_ID_TEXT];
    bool journal = strcmp(name, USAGE_LEDGER) != 0;
    int rc = ledger_reader_open(dir, name, &r, err);
    if (rc < 0)
        return rc;
    rc = ledger_reader_id(r, id, err);
    if (rc == ERR_NOT_FOUND) {
        *err = (struct err){0};
        rc = 0;
    } else if (rc == 0) {
        json_int_t before = journal ? json_integer_value(json_object_get(n->collected, arena_printf(n->arena, "%s/%s", name, id))) : 0;
        rc = ledger_read(r, (uint64_t)before, journal ? on_journal : on_usage, n, err);
    }
    ledger_reader_close(r);
    return rc;
}

/* Each name once, though a journal may have many files. */
static int read_journals(const char *dir, struct counting *n, struct err *err)
{
    JSON_AUTO names = json_object();
    DIR *d = opendir(dir);
    const char *name;
    json_t *one;
    int rc = 0;
    if (!d)
        return err_sys(err, errno, "%s", dir);
    for (struct dirent *e; (e = readdir(d));) {
        char split[LEDGER_NAME_MAX];
        if (ledger_split_name(e->d_name, split) && str_starts(str_of(split), STR(USAGE_JOURNALS)))
            json_object_set_new(names, split, json_true());
    }
    closedir(d);
    json_object_foreach (names, name, one)
        if (rc == 0)
            rc = read_usage(dir, name, n, err);
    return rc;
}

int closing_usage(const char *dir, const char *tenant, int64_t since_ms, json_t **ret, struct err *err)
{
    JSON_AUTO collected = json_object();
    struct counting n = {.tenant = tenant, .since_ms = since_ms, .reports = reports_new(), .arena = arena_new(4 * 1024 * 1024), .collected = collected};
    int rc = read_usage(dir, USAGE_LEDGER, &n, err);
    if (rc == 0)
        rc = read_journals(dir, &n, err);
    if (rc == 0)
        *ret = reports_documents(n.reports, tenant);
    reports_free(n.reports);
    arena_free(n.arena);
    return rc;
}
