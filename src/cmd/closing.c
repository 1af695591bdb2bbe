#include "cmd/closing.h"

#include "base/clock.h"
#include "base/map.h"
#include "base/mem.h"
#include "crypto/hash.h"
#include "ledger/audit.h"
#include "ledger/extent.h"

struct telling {
    const char *tenant;
    struct arena *arena; /* of one record */
    json_t *deleted;
    struct map *seen; /* an object that waits for something first has two records: that it is to go, and that it went */
    uint64_t first, last, end;
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

static int tell(const char *dir, struct telling *t, uint64_t after, struct err *err)
{
    struct ledger_reader *r;
    int rc = ledger_reader_open(dir, AUDIT_LEDGER, &r, err);
    if (rc < 0)
        return rc;
    t->arena = arena_new(1024 * 1024);
    t->seen = map_new(NULL);
    rc = ledger_read(r, after, on_record, t, err);
    arena_free(t->arena);
    map_free(t->seen);
    ledger_reader_close(r);
    if (rc == 0 && t->err.code) {
        *err = t->err;
        rc = err->code;
    }
    return rc;
}

int closing_statement(const char *dir, const char *tenant, uint64_t after, json_t **ret, struct err *err)
{
    CLEANUP(ledger_extent_deinit) struct ledger_extent x = {0};
    JSON_AUTO deleted = json_object();
    char hash[SHA256_HEX_MAX], now[CLOCK_TEXT_MAX];
    int rc = ledger_extent_find(dir, AUDIT_LEDGER, &x, err);
    struct telling t = {.tenant = tenant, .deleted = deleted, .end = x.sequence};
    if (rc == 0)
        rc = tell(dir, &t, after, err);
    if (rc < 0)
        return rc;
    hash_hex(x.hash, sizeof(x.hash), hash);
    clock_format(clock_wall_ms(), now);
    *ret = json_pack("{s:s, s:s, s:s, s:O, s:{s:s, s:I, s:I, s:I, s:I, s:s}}", "kind", "ClosingStatement", "tenant", tenant, "time", now, "deleted", deleted, "ledger", "id", x.id, "after",
                     (json_int_t)after, "first", (json_int_t)t.first, "last", (json_int_t)t.last, "end", (json_int_t)x.sequence, "sha256", hash);
    return 0;
}
