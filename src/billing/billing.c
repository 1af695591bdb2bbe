#include "billing/billing.h"

#include <dirent.h>
#include <pthread.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/metrics.h"
#include "base/vec.h"
#include "billing/bank.h"
#include "billing/level_report.h"
#include "billing/reconcile_watch.h"
#include "billing/report.h"
#include "json/json.h"
#include "ledger/ledger.h"
#include "ledger/usage.h"

#define ROUND_MS 1000u
#define LEDGER_NAME "usage"
#define JOURNAL_PREFIX "usage-"
#define RECORD_VERSION 1
#define BODY_MAX LEDGER_BODY_MAX

/* How far a journal has been copied. */
struct source {
    char *name;
    struct ledger_reader *reader;
    char id[LEDGER_ID_TEXT]; /* of the journal that was read under this name; empty: not known */
    uint64_t collected;      /* sequence of its last record that is in the ledger */
    bool damaged;
};

struct billing {
    struct client *client;
    char *journal_dir, *ledger_dir;
    struct ledger *ledger;
    VEC(struct source) sources;
    struct reports *reports;
    struct level_reports *levels;
    struct bank *bank; /* NULL: none */
    struct reconcile_watch *reconcile; /* NULL: none */
    struct arena *arena; /* of one record */
    struct metric *records, *damaged, *collected_at;
    uint64_t round_ms;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool stop, started, hurry; /* hurry: a bank's answer waits for records */
};

/* ---- the ledger ---- */

static struct source *find_source(struct billing *b, const char *name)
{
    VEC_FOREACH (&b->sources, s)
        if (!strcmp(s->name, name))
            return s;
    struct source *s = VEC_PUSH(&b->sources);
    s->name = xstrdup(name);
    return s;
}

static void count_usage(struct billing *b, const struct usage *u)
{
    reports_count(b->reports, u);
    level_reports_count(b->levels, u);
    if (b->bank)
        bank_count(b->bank, u);
    if (b->reconcile)
        reconcile_watch_count(b->reconcile, u);
}

/* A ledger record is the journal's record with where it came from: {"journal", "id", "sequence", "usage": {…}}. */
static bool on_ledger_record(void *arg, const struct ledger_record *rec)
{
    struct billing *b = arg;
    JSON_AUTO doc = NULL;
    struct usage u;
    if (json_parse(rec->body, BODY_MAX, &doc, NULL) < 0)
        return true;
    CLEANUP(sbuf_deinit) struct sbuf text = {0};
    sbuf_init(&text, BODY_MAX);
    json_write(json_object_get(doc, "usage"), &text);
    arena_reset(b->arena);
    if (usage_decode(sbuf_str(&text), b->arena, &u, NULL) == 0)
        count_usage(b, &u);
    struct source *s = find_source(b, json_str_or(doc, "journal", ""));
    s->collected = (uint64_t)json_int(doc, "sequence", 0);
    snprintf(s->id, sizeof(s->id), "%s", json_str_or(doc, "id", ""));
    return true;
}

static int rebuild(struct billing *b, struct err *err)
{
    struct ledger_reader *r;
    int rc = ledger_reader_open(b->ledger_dir, LEDGER_NAME, &r, err);
    if (rc < 0)
        return rc;
    rc = ledger_read(r, 0, on_ledger_record, b, err);
    ledger_reader_close(r);
    return rc;
}

struct collecting {
    struct billing *b;
    struct source *s;
    struct err err;
};

static bool on_journal_record(void *arg, const struct ledger_record *rec)
{
    struct collecting *c = arg;
    CLEANUP(sbuf_deinit) struct sbuf body = {0};
    struct usage u;
    sbuf_init(&body, BODY_MAX);
    arena_reset(c->b->arena);
    if (usage_decode(rec->body, c->b->arena, &u, &c->err) < 0) {
        log_error("a usage record cannot be read and is left out", KV("journal", c->s->name), KVI("sequence", rec->sequence), KVE(&c->err));
        c->err = (struct err){0};
        c->s->collected = rec->sequence;
        return true;
    }
    sbuf_addf(&body, "{\"journal\":\"%s\",\"id\":\"%s\",\"sequence\":%llu,\"usage\":%.*s}", c->s->name, c->s->id, (unsigned long long)rec->sequence, STR_ARG(rec->body));
    if (!sbuf_ok(&body))
        err_set(&c->err, ERR_TOO_LARGE, "usage record too large");
    else
        (void)!ledger_append(c->b->ledger, rec->time_ms, RECORD_VERSION, sbuf_str(&body), NULL, &c->err);
    if (c->err.code)
        return false;
    c->s->collected = rec->sequence;
    metric_add(c->b->records, 1);
    count_usage(c->b, &u);
    return true;
}

/* The journal under a name may be another one than before: its gateway lost its disk. That one is read from its beginning. */
static int identify(struct billing *b, struct source *s, struct err *err)
{
    char id[LEDGER_ID_TEXT];
    if (!s->reader && ledger_reader_open(b->journal_dir, s->name, &s->reader, err) < 0)
        return err->code;
    int rc = ledger_reader_id(s->reader, id, err);
    if (rc < 0 || !strcmp(id, s->id))
        return rc;
    if (*s->id) {
        log_warn("a usage journal was replaced by another one", KV("journal", s->name), KVI("collected", s->collected));
        s->collected = 0;
        ledger_reader_close(s->reader);
        s->reader = NULL;
        rc = ledger_reader_open(b->journal_dir, s->name, &s->reader, err);
    }
    memcpy(s->id, id, sizeof(s->id));
    return rc;
}

/* Whether all that the journal holds is in the ledger. */
static bool collect(struct billing *b, struct source *s)
{
    struct collecting c = {.b = b, .s = s};
    struct err err = ERR_INIT;
    bool was_damaged = s->damaged;
    int rc = identify(b, s, &err);
    if (rc == ERR_NOT_FOUND)
        return true; /* its first file is being made, or all are gone */
    if (rc == 0)
        rc = ledger_read(s->reader, s->collected, on_journal_record, &c, &err);
    if (rc == 0 && c.err.code)
        err = c.err;
    s->damaged = err.code == ERR_CORRUPT; /* or a record is being taken back by a writer without room: then it is well the next time */
    if (s->damaged && !was_damaged)
        log_error("a usage journal is damaged; what follows in it is not counted", KV("journal", s->name), KVE(&err));
    else if (err.code && !s->damaged)
        log_warn("usage cannot be collected; trying again", KV("journal", s->name), KVE(&err));
    return !err.code;
}

/* Journals are found by their names: usage-GATEWAY.NNNNNN. The ledger itself is "usage.NNNNNN". */
static void find_journals(struct billing *b)
{
    DIR *d = opendir(b->journal_dir);
    if (!d)
        return;
    for (struct dirent *e; (e = readdir(d));) {
        const char *dot = strrchr(e->d_name, '.');
        uint64_t n;
        char name[256];
        if (strncmp(e->d_name, JOURNAL_PREFIX, sizeof(JOURNAL_PREFIX) - 1) != 0 || !dot || str_to_u64(str_of(dot + 1), &n) < 0)
            continue;
        snprintf(name, sizeof(name), "%.*s", (int)(dot - e->d_name), e->d_name);
        if (!strpbrk(name, "\"\\"))
            (void)find_source(b, name);
    }
    closedir(d);
}

/* ---- the thread ---- */

static void round_of(struct billing *b)
{
    struct err err = ERR_INIT;
    find_journals(b);
    int64_t damaged = 0;
    bool whole = true;
    VEC_FOREACH (&b->sources, s) {
        whole &= collect(b, s);
        if (b->bank)
            bank_collected(b->bank, s->name, s->id, s->collected);
        damaged += s->damaged;
    }
    if (b->bank)
        bank_awake(b->bank);
    metric_set(b->damaged, damaged);
    if (ledger_sync(b->ledger, &err) < 0)
        log_error("the usage ledger cannot be synced", KVE(&err));
    else if (whole)
        metric_set(b->collected_at, clock_wall_ms() / 1000);
    reports_write(b->reports, b->client);
    level_reports_write(b->levels, b->client);
    if (b->reconcile)
        reconcile_watch_round(b->reconcile, whole);
}

static void *run(void *arg)
{
    struct billing *b = arg;
    pthread_mutex_lock(&b->lock);
    while (!b->stop) {
        pthread_mutex_unlock(&b->lock);
        round_of(b);
        uint64_t until = clock_mono_ms() + b->round_ms;
        struct timespec t = {.tv_sec = (time_t)(until / 1000), .tv_nsec = (long)(until % 1000) * 1000000};
        pthread_mutex_lock(&b->lock);
        while (!b->stop && !b->hurry && pthread_cond_timedwait(&b->wake, &b->lock, &t) == 0)
            ;
        b->hurry = false;
    }
    pthread_mutex_unlock(&b->lock);
    return NULL;
}

int billing_start(struct client *c, const struct billing_options *o, struct billing **ret, struct err *err)
{
    struct ledger_options lo = {.dir = o->ledger_dir, .name = LEDGER_NAME, .kind = LEDGER_USAGE};
    struct billing *b = XNEW(struct billing);
    pthread_condattr_t attr;
    *b = (struct billing){.client = c, .journal_dir = xstrdup(o->journal_dir), .ledger_dir = xstrdup(o->ledger_dir), .sources = VEC_INIT, .reports = reports_new(), .levels = level_reports_new(), .round_ms = o->round_ms ? o->round_ms : ROUND_MS,
                          .arena = arena_new(4 * 1024 * 1024)};
    b->records = metric_counter("seki_billing_records_total", "Usage records copied from journals into the ledger.");
    b->damaged = metric_gauge("seki_billing_journals_damaged", "Usage journals that cannot be read on, because a record in them is damaged.");
    b->collected_at = metric_gauge("seki_billing_collected_timestamp_seconds", "When all usage in the journals was last in the ledger, since 1970-01-01 UTC.");
    metric_set(b->collected_at, clock_wall_ms() / 1000); /* the first round is due */
    pthread_mutex_init(&b->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&b->wake, &attr);
    pthread_condattr_destroy(&attr);
    if (o->lease_file)
        b->bank = bank_new(o->lease_file, o->lease_ms);
    if (o->manager)
        b->reconcile = reconcile_watch_new(c, o->manager, o->replicas);
    int rc = ledger_open(&lo, &b->ledger, err);
    if (rc == 0)
        rc = rebuild(b, err);
    if (rc == 0) {
        int eno = pthread_create(&b->thread, NULL, run, b);
        rc = eno ? err_sys(err, eno, "cannot start a thread") : 0;
        b->started = !eno;
    }
    if (rc < 0) {
        billing_stop(b);
        return rc;
    }
    *ret = b;
    return 0;
}

void billing_stop(struct billing *b)
{
    if (!b)
        return;
    pthread_mutex_lock(&b->lock);
    b->stop = true;
    pthread_cond_signal(&b->wake);
    pthread_mutex_unlock(&b->lock);
    if (b->started)
        pthread_join(b->thread, NULL);
    ledger_close(b->ledger);
    bank_free(b->bank);
    reconcile_watch_free(b->reconcile);
    VEC_FOREACH (&b->sources, s) {
        ledger_reader_close(s->reader);
        mem_free(s->name);
    }
    VEC_DEINIT(&b->sources);
    reports_free(b->reports);
    level_reports_free(b->levels);
    arena_free(b->arena);
    pthread_cond_destroy(&b->wake);
    pthread_mutex_destroy(&b->lock);
    mem_free(b->journal_dir);
    mem_free(b->ledger_dir);
    mem_free(b);
}

int billing_lease(struct billing *b, const json_t *ask, json_t **ret, struct err *err)
{
    bool behind = false;
    int rc = b->bank ? bank_lease(b->bank, ask, ret, &behind, err) : err_set(err, ERR_UNAVAILABLE, "there is no bank");
    if (rc < 0 || !behind)
        return rc;
    pthread_mutex_lock(&b->lock);
    b->hurry = true;
    pthread_cond_signal(&b->wake);
    pthread_mutex_unlock(&b->lock);
    return 0;
}
