#include "billing/billing.h"

#include <dirent.h>
#include <pthread.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/map.h"
#include "base/mem.h"
#include "base/metrics.h"
#include "base/vec.h"
#include "kinds/inference.h"
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
    uint64_t collected; /* sequence of the last record that is in the ledger */
};

struct item {
    char *key, *endpoint, *model;
    int64_t requests, failed, prompt, cached, completion;
};

/* One project's UTC day. */
struct day {
    char *project;
    char date[12];
    VEC(struct item) items;
    bool changed;
};

struct billing {
    struct client *client;
    char *journal_dir, *ledger_dir;
    struct ledger *ledger;
    VEC(struct source) sources;
    struct map *days; /* "PROJECT/DATE" → struct day * */
    struct arena *arena; /* of one record */
    struct metric *records;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool stop, started;
};

/* ---- reports: sums over the ledger ---- */

static void day_free(void *value)
{
    struct day *d = value;
    VEC_FOREACH (&d->items, i) {
        mem_free(i->key);
        mem_free(i->endpoint);
        mem_free(i->model);
    }
    VEC_DEINIT(&d->items);
    mem_free(d->project);
    mem_free(d);
}

static struct day *day_of(struct billing *b, const struct usage *u)
{
    char text[CLOCK_TEXT_MAX], date[12];
    CLEANUP(sbuf_deinit) struct sbuf key = {0};
    clock_format(u->start_ms, text);
    snprintf(date, sizeof(date), "%.10s", text);
    sbuf_init(&key, 1024);
    sbuf_addf(&key, "%.*s/%s", STR_ARG(u->project), date);
    struct day *d = map_get(b->days, sbuf_str(&key));
    if (d)
        return d;
    d = XNEW(struct day);
    d->project = xstrndup(u->project.ptr, u->project.len);
    snprintf(d->date, sizeof(d->date), "%s", date);
    map_set(b->days, sbuf_str(&key), d);
    return d;
}

static struct item *item_of(struct day *d, const struct usage *u)
{
    VEC_FOREACH (&d->items, i)
        if (str_eqc(u->key, i->key) && str_eqc(u->endpoint, i->endpoint) && str_eqc(u->model, i->model))
            return i;
    struct item *i = VEC_PUSH(&d->items);
    i->key = xstrndup(u->key.ptr, u->key.len);
    i->endpoint = xstrndup(u->endpoint.ptr, u->endpoint.len);
    i->model = xstrndup(u->model.ptr, u->model.len);
    return i;
}

static void count(struct billing *b, const struct usage *u)
{
    struct day *d = day_of(b, u);
    struct item *i = item_of(d, u);
    i->requests++;
    i->failed += u->status >= 400 || !(str_eqc(u->outcome, "ok") || str_eqc(u->outcome, "client_gone"));
    i->prompt += u->prompt_tokens;
    i->cached += u->cached_tokens;
    i->completion += u->completion_tokens;
    d->changed = true;
}

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

/* A ledger record is the journal's record with where it came from: {"journal", "sequence", "usage": {…}}. */
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
        count(b, &u);
    find_source(b, json_str_or(doc, "journal", ""))->collected = (uint64_t)json_int(doc, "sequence", 0);
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
    sbuf_addf(&body, "{\"journal\":\"%s\",\"sequence\":%llu,\"usage\":%.*s}", c->s->name, (unsigned long long)rec->sequence, STR_ARG(rec->body));
    if (!sbuf_ok(&body))
        err_set(&c->err, ERR_TOO_LARGE, "usage record too large");
    else
        (void)!ledger_append(c->b->ledger, rec->time_ms, RECORD_VERSION, sbuf_str(&body), NULL, &c->err);
    if (c->err.code)
        return false;
    c->s->collected = rec->sequence;
    metric_add(c->b->records, 1);
    count(c->b, &u);
    return true;
}

static void collect(struct billing *b, struct source *s)
{
    struct collecting c = {.b = b, .s = s};
    struct err err = ERR_INIT;
    if (!s->reader && ledger_reader_open(b->journal_dir, s->name, &s->reader, &err) < 0)
        return;
    int rc = ledger_read(s->reader, s->collected, on_journal_record, &c, &err);
    if (rc == 0 && c.err.code)
        err = c.err;
    if (err.code && err.code != ERR_CORRUPT)
        log_warn("usage cannot be collected; trying again", KV("journal", s->name), KVE(&err));
    else if (err.code) {
        /* Perhaps a record that is being written; perhaps not. */
        log_error("a usage journal is damaged", KV("journal", s->name), KVE(&err));
        ledger_reader_close(s->reader);
        s->reader = NULL;
    }
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

/* ---- UsageReport ---- */

static json_t *numbers(const struct item *i)
{
    return json_pack("{s:I, s:I, s:I, s:I, s:I}", "requests", (json_int_t)i->requests, "failedRequests", (json_int_t)i->failed, "promptTokens", (json_int_t)i->prompt,
                     "cachedTokens", (json_int_t)i->cached, "completionTokens", (json_int_t)i->completion);
}

static json_t *status_of(const struct day *d)
{
    struct item total = {0};
    json_t *items = json_array();
    char now[CLOCK_TEXT_MAX];
    VEC_FOREACH (&d->items, i) {
        json_t *one = numbers(i);
        json_object_set_new(one, "key", json_string(i->key));
        json_object_set_new(one, "endpoint", json_string(i->endpoint));
        json_object_set_new(one, "model", json_string(i->model));
        json_array_append_new(items, one);
        total.requests += i->requests;
        total.failed += i->failed;
        total.prompt += i->prompt;
        total.cached += i->cached;
        total.completion += i->completion;
    }
    json_t *status = numbers(&total);
    clock_format(clock_wall_ms(), now);
    json_object_set_new(status, "updatedAt", json_string(now));
    json_object_set_new(status, "items", items);
    return status;
}

static int write_report(struct billing *b, struct day *d, struct err *err)
{
    struct client_resource r = kind_resource(&kind_usage_report);
    char name[32];
    snprintf(name, sizeof(name), "day-%s", d->date);
    JSON_AUTO status = status_of(d);
    JSON_AUTO patch = json_pack("{s:O}", "status", status);
    int rc = client_patch(b->client, &r, d->project, name, "status", patch, NULL, err);
    if (rc != ERR_NOT_FOUND)
        return rc;
    JSON_AUTO obj = obj_new(&kind_usage_report, d->project, name);
    json_put_str(obj, "spec.date", d->date);
    rc = client_create(b->client, &r, d->project, obj, NULL, err);
    if (rc == ERR_NOT_FOUND || rc == ERR_FORBIDDEN)
        return 0; /* the project is gone, or going; the ledger keeps what it used */
    return rc < 0 && rc != ERR_EXISTS ? rc : client_patch(b->client, &r, d->project, name, "status", patch, NULL, err);
}

static void write_reports(struct billing *b)
{
    struct map_iter it = MAP_ITER_INIT;
    while (map_next(b->days, &it)) {
        struct day *d = it.value;
        struct err err = ERR_INIT;
        if (!d->changed)
            continue;
        d->changed = false;
        if (write_report(b, d, &err) < 0) {
            d->changed = true;
            log_warn("a usage report cannot be written; trying again", KV("project", d->project), KV("date", d->date), KVE(&err));
        }
    }
}

/* ---- the thread ---- */

static void round_of(struct billing *b)
{
    struct err err = ERR_INIT;
    find_journals(b);
    for (size_t i = 0; i < b->sources.len; i++)
        collect(b, &b->sources.ptr[i]);
    if (ledger_sync(b->ledger, &err) < 0)
        log_error("the usage ledger cannot be synced", KVE(&err));
    write_reports(b);
}

static void *run(void *arg)
{
    struct billing *b = arg;
    pthread_mutex_lock(&b->lock);
    while (!b->stop) {
        pthread_mutex_unlock(&b->lock);
        round_of(b);
        uint64_t until = clock_mono_ms() + ROUND_MS;
        struct timespec t = {.tv_sec = (time_t)(until / 1000), .tv_nsec = (long)(until % 1000) * 1000000};
        pthread_mutex_lock(&b->lock);
        while (!b->stop && pthread_cond_timedwait(&b->wake, &b->lock, &t) == 0)
            ;
    }
    pthread_mutex_unlock(&b->lock);
    return NULL;
}

int billing_start(struct client *c, const struct billing_options *o, struct billing **ret, struct err *err)
{
    struct ledger_options lo = {.dir = o->ledger_dir, .name = LEDGER_NAME, .kind = LEDGER_USAGE};
    struct billing *b = XNEW(struct billing);
    pthread_condattr_t attr;
    *b = (struct billing){.client = c, .journal_dir = xstrdup(o->journal_dir), .ledger_dir = xstrdup(o->ledger_dir), .sources = VEC_INIT, .days = map_new(day_free),
                          .arena = arena_new(4 * 1024 * 1024)};
    b->records = metric_counter("seki_billing_records_total", "Usage records copied from journals into the ledger.");
    pthread_mutex_init(&b->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&b->wake, &attr);
    pthread_condattr_destroy(&attr);
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
    VEC_FOREACH (&b->sources, s) {
        ledger_reader_close(s->reader);
        mem_free(s->name);
    }
    VEC_DEINIT(&b->sources);
    map_free(b->days);
    arena_free(b->arena);
    pthread_cond_destroy(&b->wake);
    pthread_mutex_destroy(&b->lock);
    mem_free(b->journal_dir);
    mem_free(b->ledger_dir);
    mem_free(b);
}
