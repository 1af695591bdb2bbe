#include "billing/verify.h"

#include <dirent.h>
#include <errno.h>
#include <string.h>

#include "base/map.h"
#include "base/vec.h"
#include "billing/report.h"
#include "crypto/hash.h"
#include "ledger/ledger.h"

#define LEDGER_NAME "usage"
#define JOURNAL_PREFIX "usage-"

/* One journal, as the ledger has it. */
struct origin {
    char *journal;
    char id[LEDGER_ID_TEXT];
    VEC(uint64_t) prints; /* of its records, from the first on */
};

struct check {
    struct usage_verdict *v;
    struct reports *reports;
    struct map *ids;     /* of requests */
    struct map *origins; /* "JOURNAL ID" → struct origin * */
    struct arena *arena; /* of one record */
    struct err err;
};

static void origin_free(void *value)
{
    struct origin *o = value;
    mem_free(o->journal);
    VEC_DEINIT(&o->prints);
    mem_free(o);
}

/* Not secret: two records of the same bytes have the same. */
static uint64_t print_of(struct str bytes)
{
    static const uint8_t key[16] = "usage records";
    return siphash13(key, bytes.ptr, bytes.len);
}

static struct origin *origin_of(struct check *c, const char *journal, const char *id)
{
    CLEANUP(sbuf_deinit) struct sbuf key = {0};
    sbuf_init(&key, LEDGER_BODY_MAX);
    sbuf_addf(&key, "%s %s", journal, id);
    struct origin *o = map_get(c->origins, sbuf_str(&key));
    if (o)
        return o;
    o = XNEW(struct origin);
    o->journal = xstrdup(journal);
    snprintf(o->id, sizeof(o->id), "%s", id);
    map_set(c->origins, sbuf_str(&key), o);
    return o;
}

/* ---- the ledger's records ---- */

/* Where it came from. *ret_body: the journal's record in it. */
static int check_origin(struct check *c, const struct ledger_record *rec, const json_t *doc, struct str *ret_body)
{
    CLEANUP(sbuf_deinit) struct sbuf head = {0};
    const char *journal = json_str_or(doc, "journal", ""), *id = json_str_or(doc, "id", "");
    int64_t sequence = json_int(doc, "sequence", 0);
    sbuf_init(&head, LEDGER_BODY_MAX);
    sbuf_addf(&head, "{\"journal\":\"%s\",\"id\":\"%s\",\"sequence\":%lld,\"usage\":", journal, id, (long long)sequence);
    if (!str_starts(rec->body, sbuf_str(&head)) || rec->body.ptr[rec->body.len - 1] != '}')
        return err_set(&c->err, ERR_INVALID, "it does not say which journal it came from");
    *ret_body = str_n(rec->body.ptr + head.len, rec->body.len - head.len - 1);
    struct origin *o = origin_of(c, journal, id);
    int64_t due = (int64_t)o->prints.len + 1;
    if (sequence < due)
        return err_set(&c->err, ERR_INVALID, "record %lld of journal %s is there twice", (long long)sequence, journal);
    if (sequence > due)
        return err_set(&c->err, ERR_INVALID, "record %lld of journal %s is missing before it", (long long)due, journal);
    *VEC_PUSH(&o->prints) = print_of(*ret_body);
    return 0;
}

static int check_usage(struct check *c, struct str body)
{
    struct usage u;
    int rc = usage_decode(body, c->arena, &u, &c->err);
    if (rc < 0)
        return rc;
    if (map_get(c->ids, u.id))
        return err_set(&c->err, ERR_INVALID, "request %.*s is counted twice", STR_ARG(u.id));
    map_set(c->ids, u.id, c);
    if (!usage_adds_up(&u))
        return err_set(&c->err, ERR_INVALID, "request %.*s does not add up: engines made %lld tokens, %lld are billed and %lld told of beside that", STR_ARG(u.id), (long long)usage_made(&u),
                       (long long)(u.prompt_tokens + u.completion_tokens), (long long)(u.hedge_loser_tokens + u.replayed_tokens + u.unseen_tokens));
    c->v->older += !u.has_work;
    reports_count(c->reports, &u);
    return 0;
}

static bool on_record(void *arg, const struct ledger_record *rec)
{
    struct check *c = arg;
    struct str body;
    JSON_AUTO doc = NULL;
    arena_reset(c->arena);
    int rc = json_parse(rec->body, LEDGER_BODY_MAX, &doc, &c->err);
    if (rc == 0)
        rc = check_origin(c, rec, doc, &body);
    if (rc == 0)
        rc = check_usage(c, body);
    if (rc < 0) {
        err_wrap(&c->err, "record %llu", (unsigned long long)rec->sequence);
        return false;
    }
    c->v->first_ms = c->v->records ? c->v->first_ms : rec->time_ms;
    c->v->last_ms = rec->time_ms;
    c->v->records++;
    return true;
}

/* ---- journals beside it ---- */

struct beside {
    struct check *c;
    const struct origin *o;
};

static bool on_journal_record(void *arg, const struct ledger_record *rec)
{
    struct beside *b = arg;
    if (rec->sequence > b->o->prints.len) {
        b->c->v->behind++;
        return true;
    }
    if (print_of(rec->body) == b->o->prints.ptr[rec->sequence - 1])
        return true;
    err_set(&b->c->err, ERR_INVALID, "record %llu of journal %s is not what the ledger says it was", (unsigned long long)rec->sequence, b->o->journal);
    return false;
}

static int check_journal(struct check *c, const char *dir, const char *name, struct err *err)
{
    struct ledger_reader *r;
    char id[LEDGER_ID_TEXT];
    int rc = ledger_reader_open(dir, name, &r, err);
    if (rc < 0)
        return rc;
    rc = ledger_reader_id(r, id, err);
    if (rc == 0) {
        struct beside b = {c, origin_of(c, name, id)};
        rc = ledger_read(r, 0, on_journal_record, &b, err);
        c->v->journals++;
    } else if (rc == ERR_NOT_FOUND) { /* it was being made */
        rc = 0;
    }
    if (rc == 0 && c->err.code) {
        *err = c->err;
        rc = err->code;
    }
    ledger_reader_close(r);
    return rc;
}

static int check_journals(struct check *c, const char *dir, struct err *err)
{
    struct map *seen = map_new(NULL);
    DIR *d = opendir(dir);
    int rc = d ? 0 : err_sys(err, errno, "%s", dir);
    for (struct dirent *e; rc == 0 && (e = readdir(d));) {
        const char *dot = strrchr(e->d_name, '.');
        char name[256];
        uint64_t n;
        if (!str_starts(str_of(e->d_name), STR(JOURNAL_PREFIX)) || !dot || str_to_u64(str_of(dot + 1), &n) < 0)
            continue;
        snprintf(name, sizeof(name), "%.*s", (int)(dot - e->d_name), e->d_name);
        if (map_getc(seen, name))
            continue;
        map_set(seen, str_of(name), c);
        rc = check_journal(c, dir, name, err);
    }
    if (d)
        closedir(d);
    map_free(seen);
    return rc;
}

static int check_all(struct check *c, const char *dir, struct err *err)
{
    struct ledger_reader *r;
    uint64_t records;
    char id[LEDGER_ID_TEXT];
    int rc = ledger_reader_open(dir, LEDGER_NAME, &r, err);
    if (rc < 0)
        return rc;
    rc = ledger_reader_id(r, id, err);
    if (rc == 0)
        rc = ledger_read(r, 0, on_record, c, err);
    if (rc == 0 && c->err.code) {
        *err = c->err;
        rc = err->code;
    }
    ledger_reader_close(r);
    if (rc == 0)
        rc = ledger_verify(dir, LEDGER_NAME, &records, err); /* also what is cut off at the end */
    return rc == 0 ? check_journals(c, dir, err) : rc;
}

int billing_verify(const char *dir, struct usage_verdict *ret, struct err *err)
{
    *ret = (struct usage_verdict){0};
    struct check c = {.v = ret, .reports = reports_new(), .ids = map_new(NULL), .origins = map_new(origin_free), .arena = arena_new(4 * 1024 * 1024)};
    int rc = check_all(&c, dir, err);
    if (rc == 0)
        ret->reports = reports_list(c.reports);
    reports_free(c.reports);
    map_free(c.ids);
    map_free(c.origins);
    arena_free(c.arena);
    return rc;
}

void usage_verdict_deinit(struct usage_verdict *v)
{
    json_decref(v->reports);
    v->reports = NULL;
}

/* ---- reports ---- */

/* Totals that differ, for people; the items when none of them does. */
static int differs(const char *project, const char *date, const json_t *says, const json_t *is, struct err *err)
{
    const char *name;
    json_t *v;
    json_object_foreach ((json_t *)(uintptr_t)is, name, v)
        if (json_is_integer(v) && !json_equal(v, json_object_get(says, name)))
            return err_set(err, ERR_INVALID, "the report of project %s for %s says %s %lld; by the records it is %lld", project, date, name, (long long)json_int(says, name, 0),
                           (long long)json_integer_value(v));
    return err_set(err, ERR_INVALID, "the report of project %s for %s has other items than the records", project, date);
}

/* The same but for when it was written. */
static bool is_equal(const json_t *says, const json_t *is)
{
    JSON_AUTO copy = json_copy((json_t *)(uintptr_t)says);
    json_object_del(copy, "updatedAt");
    return json_equal(copy, is);
}

static int check_report(const struct usage_verdict *v, const json_t *report, struct err *err)
{
    const char *project = json_str_or(report, "metadata.namespace", ""), *date = json_str_or(report, "spec.date", "");
    const json_t *says = json_object_get(report, "status"), *best = NULL;
    size_t i;
    json_t *one;
    json_array_foreach (v->reports, i, one) {
        const json_t *is = json_object_get(one, "status");
        if (strcmp(json_str_or(one, "project", ""), project) != 0 || strcmp(json_str_or(one, "date", ""), date) != 0)
            continue;
        if (is_equal(says, is))
            return 0;
        best = is;
    }
    if (best)
        return differs(project, date, says, best, err);
    return err_set(err, ERR_INVALID, "there is a report of project %s for %s, and no record of that day", project, date);
}

int billing_verify_reports(const struct usage_verdict *v, const json_t *reports, size_t *ret_count, struct err *err)
{
    size_t i;
    json_t *report;
    *ret_count = 0;
    if (json_is_object(reports))
        reports = json_object_get(reports, "items");
    if (!json_is_array(reports))
        return err_set(err, ERR_INVALID, "expected UsageReports, as `seki usage -A -o json` prints them");
    json_array_foreach (reports, i, report) {
        int rc = check_report(v, report, err);
        if (rc < 0)
            return rc;
        ++*ret_count;
    }
    return 0;
}
