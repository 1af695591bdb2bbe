#include "ledger/audit_log.h"

#include <inttypes.h>
#include <pthread.h>
#include <string.h>
#include <sys/queue.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/map.h"
#include "base/mem.h"
#include "base/metrics.h"
#include "base/vec.h"
#include "ledger/audit_collect.h"
#include "ledger/ledger.h"

#define WINDOW_MS 1000          /* the same within it is one record with a count */
#define DIFFERENT_MAX 500       /* different ones of audit_log_add within a window; more are counted together */
#define WAITING_MAX 20000
#define RETRY_MS 1000
#define COLLECT_MS 1000

struct entry {
    STAILQ_ENTRY(entry) link;
    int64_t time_ms;
    struct audit_wait wait;
    size_t len;
    char body[];
};
STAILQ_HEAD(entries, entry);

/* What came in this window, by what makes two events the same. */
struct repeat {
    int64_t more; /* after the first */
    size_t len;
    char body[]; /* of the first, without its closing brace */
};

struct audit_log {
    struct store_journal journal;
    char *dir, *name;
    struct audit_collection *collection; /* NULL: nothing is copied */
    struct metric *records, *lost, *waiting_gauge;

    pthread_mutex_t ledger_lock; /* taken before lock */
    struct ledger *ledger;
    size_t room; /* that it keeps ahead; 0: none */
    int64_t undone_first, undone_last; /* writes to be called undone before anything else is written; 0: none */
    int64_t last_rev;                  /* of the writes that were here at the start */
    struct err broken;                 /* a sync failed: what is on the disk is not known any more, until it is read anew */

    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct entries queue;
    size_t waiting;
    struct map *window; /* key → struct repeat * */
    int64_t too_many;   /* in this window */
    uint64_t window_ends_ms;
    struct err trouble;
    bool stop, started;
    pthread_t thread;
};

/* ---- the ledger; under ledger_lock ---- */

static int append(struct audit_log *l, int64_t time_ms, struct str body, struct err *err)
{
    int rc = ledger_append(l->ledger, time_ms, AUDIT_RECORD_VERSION, body, NULL, err);
    if (rc == 0)
        metric_add(l->records, 1);
    return rc;
}

static int say_undone(struct audit_log *l, struct err *err)
{
    CLEANUP(sbuf_deinit) struct sbuf body = {0};
    if (!l->undone_first)
        return 0;
    sbuf_init(&body, LEDGER_BODY_MAX);
    audit_encode(&(struct audit_event){.type = AUDIT_UNDONE, .rev = l->undone_first, .last_rev = l->undone_last}, &body);
    int rc = append(l, clock_wall_ms(), sbuf_str(&body), err);
    if (rc == 0)
        l->undone_first = l->undone_last = 0;
    return rc;
}

static int sync_all(struct audit_log *l, struct err *err)
{
    struct err why = ERR_INIT;
    int rc = ledger_sync(l->ledger, &why);
    if (rc < 0) {
        if (err)
            *err = why;
        err_set(&l->broken, ERR_IO, "the audit ledger could not be synced (%s); restart when the disk is well", why.msg);
        log_error("the audit ledger could not be synced; nothing is written any more", KVE(&l->broken));
    }
    return rc;
}

static int check_usable(const struct audit_log *l, struct err *err)
{
    if (l->broken.code && err)
        *err = l->broken;
    return l->broken.code;
}

static void set_trouble(struct audit_log *l, const struct err *err)
{
    pthread_mutex_lock(&l->lock);
    l->trouble = *err;
    pthread_mutex_unlock(&l->lock);
}

static int before(void *ctx, const struct store_note *notes, size_t count, struct err *err)
{
    struct audit_log *l = ctx;
    struct err inner = ERR_INIT;
    int64_t now = clock_wall_ms();
    size_t done = 0;
    CLEANUP(sbuf_deinit) struct sbuf body = {0};
    sbuf_init(&body, LEDGER_BODY_MAX);
    pthread_mutex_lock(&l->ledger_lock);
    int rc = check_usable(l, &inner);
    if (rc == 0)
        rc = say_undone(l, &inner);
    for (; rc == 0 && done < count; done += rc == 0) {
        struct str text = notes[done].text;
        sbuf_reset(&body);
        sbuf_add(&body, str_n(text.ptr, text.len - 1));
        sbuf_addf(&body, ",\"rev\":%" PRId64 "}", notes[done].rev);
        rc = append(l, now, sbuf_str(&body), &inner);
    }
    if (rc == 0)
        rc = sync_all(l, &inner);
    if (rc < 0 && done) {
        l->undone_first = notes[0].rev;
        l->undone_last = notes[done - 1].rev;
    }
    pthread_mutex_unlock(&l->ledger_lock);
    set_trouble(l, &inner);
    return rc < 0 ? err_set(err, rc, "the audit ledger takes nothing: %s", inner.msg) : 0;
}

static void undone(void *ctx, const struct store_note *notes, size_t count)
{
    struct audit_log *l = ctx;
    struct err err = ERR_INIT;
    pthread_mutex_lock(&l->ledger_lock);
    l->undone_first = notes[0].rev;
    l->undone_last = notes[count - 1].rev;
    if (!l->broken.code && (say_undone(l, &err) < 0 || sync_all(l, &err) < 0))
        log_warn("that writes were undone is recorded later", KVE(&err));
    pthread_mutex_unlock(&l->ledger_lock);
}

/* ---- what waits; under lock ---- */

static void enqueue(struct audit_log *l, int64_t time_ms, struct str body, const struct audit_wait *w)
{
    if (l->waiting >= WAITING_MAX && !w) {
        metric_add(l->lost, 1);
        return;
    }
    struct entry *e = xcalloc(1, sizeof(*e) + body.len);
    *e = (struct entry){.time_ms = time_ms, .len = body.len};
    if (w)
        e->wait = *w;
    memcpy(e->body, body.ptr, body.len);
    STAILQ_INSERT_TAIL(&l->queue, e, link);
    metric_set(l->waiting_gauge, (int64_t)++l->waiting);
    pthread_cond_signal(&l->wake);
}

static void key_of(const struct audit_event *e, struct sbuf *key)
{
    const struct str parts[] = {e->user, e->sender, e->source, e->verb, e->group, e->resource, e->subresource, e->namespace, e->name, e->tenant, e->reason, e->rule};
    sbuf_addf(key, "%d %d", e->type, e->status);
    for (size_t i = 0; i < ARRAY_LEN(parts); i++) {
        sbuf_add_char(key, 0);
        sbuf_add(key, str_n(parts[i].ptr, MIN(parts[i].len, (size_t)256)));
    }
}

/* The window's end: what was counted is written. */
static void close_window(struct audit_log *l)
{
    struct map_iter it = MAP_ITER_INIT;
    int64_t now = clock_wall_ms();
    CLEANUP(sbuf_deinit) struct sbuf body = {0};
    sbuf_init(&body, LEDGER_BODY_MAX);
    while (map_next(l->window, &it)) {
        const struct repeat *r = it.value;
        if (!r->more)
            continue;
        sbuf_reset(&body);
        sbuf_add(&body, str_n(r->body, r->len));
        sbuf_addf(&body, ",\"count\":%" PRId64 "}", r->more);
        enqueue(l, now, sbuf_str(&body), NULL);
    }
    map_clear(l->window);
    if (l->too_many) {
        sbuf_reset(&body);
        audit_encode(&(struct audit_event){.type = AUDIT_DENIED, .reason = STR("TooManyDifferent"), .count = l->too_many}, &body);
        enqueue(l, now, sbuf_str(&body), NULL);
    }
    l->too_many = 0;
    l->window_ends_ms = 0;
}

void audit_log_add(struct audit_log *l, const struct audit_event *e)
{
    CLEANUP(sbuf_deinit) struct sbuf key = {0}, body = {0};
    if (!l)
        return;
    sbuf_init(&key, 8192);
    sbuf_init(&body, LEDGER_BODY_MAX);
    key_of(e, &key);
    audit_encode(e, &body);
    pthread_mutex_lock(&l->lock);
    struct repeat *r = map_get(l->window, sbuf_str(&key));
    if (r) {
        r->more++;
    } else if (map_len(l->window) >= DIFFERENT_MAX) {
        l->too_many++;
    } else {
        r = xcalloc(1, sizeof(*r) + body.len);
        r->len = body.len - 1;
        memcpy(r->body, body.ptr, r->len);
        map_set(l->window, sbuf_str(&key), r);
        enqueue(l, clock_wall_ms(), sbuf_str(&body), NULL);
    }
    if (!l->window_ends_ms) {
        l->window_ends_ms = clock_mono_ms() + WINDOW_MS;
        pthread_cond_signal(&l->wake);
    }
    pthread_mutex_unlock(&l->lock);
}

void audit_log_add_then(struct audit_log *l, const struct audit_event *e, const struct audit_wait *w)
{
    CLEANUP(sbuf_deinit) struct sbuf body = {0};
    sbuf_init(&body, LEDGER_BODY_MAX);
    audit_encode(e, &body);
    pthread_mutex_lock(&l->lock);
    enqueue(l, clock_wall_ms(), sbuf_str(&body), w);
    pthread_mutex_unlock(&l->lock);
}

/* ---- the thread ---- */

struct told {
    struct audit_wait wait;
    int code;
};

static void tell(void *arg)
{
    struct told *t = arg;
    t->wait.done(t->wait.arg, t->code);
    mem_free(t);
}

/* Writes and syncs them; those that could not be written are in *list still. */
static int write_list(struct audit_log *l, struct entries *list, struct entries *ret_written, struct err *err)
{
    pthread_mutex_lock(&l->ledger_lock);
    int rc = check_usable(l, err);
    if (rc == 0)
        rc = say_undone(l, err);
    for (struct entry *e; rc == 0 && (e = STAILQ_FIRST(list));) {
        rc = append(l, e->time_ms, str_n(e->body, e->len), err);
        if (rc == 0) {
            STAILQ_REMOVE_HEAD(list, link);
            STAILQ_INSERT_TAIL(ret_written, e, link);
        }
    }
    int synced = l->broken.code ? l->broken.code : sync_all(l, rc == 0 ? err : NULL);
    if (l->room)
        (void)!ledger_room(l->ledger, l->room, NULL); /* a full disk has none: then there is what there is */
    pthread_mutex_unlock(&l->ledger_lock);
    return rc < 0 ? rc : synced;
}

static size_t answer(struct entries *list, int code)
{
    size_t n = 0;
    for (struct entry *e; (e = STAILQ_FIRST(list)); n++) {
        STAILQ_REMOVE_HEAD(list, link);
        if (e->wait.done) {
            struct told *t = XNEW(struct told);
            *t = (struct told){e->wait, code};
            loop_post(e->wait.loop, tell, t);
        }
        mem_free(e);
    }
    return n;
}

/* Those who wait are told at once; the others are tried again. */
static void split_waiting(struct entries *list, struct entries *ret_waiting)
{
    struct entries rest = STAILQ_HEAD_INITIALIZER(rest);
    for (struct entry *e; (e = STAILQ_FIRST(list));) {
        STAILQ_REMOVE_HEAD(list, link);
        if (e->wait.done)
            STAILQ_INSERT_TAIL(ret_waiting, e, link);
        else
            STAILQ_INSERT_TAIL(&rest, e, link);
    }
    STAILQ_CONCAT(list, &rest);
}

/* Under lock, which it gives back while it writes. */
static void turn(struct audit_log *l)
{
    struct entries list = STAILQ_HEAD_INITIALIZER(list), written = STAILQ_HEAD_INITIALIZER(written), waiting = STAILQ_HEAD_INITIALIZER(waiting);
    struct err err = ERR_INIT;
    STAILQ_CONCAT(&list, &l->queue);
    pthread_mutex_unlock(&l->lock);
    int rc = write_list(l, &list, &written, &err);
    size_t done = answer(&written, l->broken.code ? rc : 0);
    split_waiting(&list, &waiting);
    done += answer(&waiting, rc);
    pthread_mutex_lock(&l->lock);
    l->trouble = err;
    metric_set(l->waiting_gauge, (int64_t)(l->waiting -= done));
    STAILQ_CONCAT(&list, &l->queue);
    STAILQ_CONCAT(&l->queue, &list);
}

/* ---- another process's records ---- */

static int begin_collected(void *arg, struct err *err)
{
    struct audit_log *l = arg;
    pthread_mutex_lock(&l->ledger_lock);
    return check_usable(l, err);
}

static int append_collected(void *arg, int64_t time_ms, struct str body, struct err *err)
{
    return append(arg, time_ms, body, err);
}

static void end_collected(void *arg)
{
    struct audit_log *l = arg;
    if (!l->broken.code)
        (void)sync_all(l, NULL);
    pthread_mutex_unlock(&l->ledger_lock);
}

static const struct audit_collect_ops collect_ops = {begin_collected, append_collected,
                                                     end_collected};

static struct timespec at(uint64_t mono_ms)
{
    return (struct timespec){.tv_sec = (time_t)(mono_ms / 1000), .tv_nsec = (long)(mono_ms % 1000) * 1000000};
}

static void *run(void *arg)
{
    struct audit_log *l = arg;
    uint64_t retry_ms = 0, collect_ms = 0;
    pthread_setname_np(pthread_self(), "audit");
    pthread_mutex_lock(&l->lock);
    for (;;) {
        uint64_t now = clock_mono_ms();
        if (l->window_ends_ms && (now >= l->window_ends_ms || l->stop))
            close_window(l);
        if (!STAILQ_EMPTY(&l->queue) && (now >= retry_ms || l->stop)) {
            turn(l);
            retry_ms = l->trouble.code ? clock_mono_ms() + RETRY_MS : 0;
            if (!l->stop || l->trouble.code == 0)
                continue;
        }
        if (l->collection && (now >= collect_ms || l->stop)) {
            pthread_mutex_unlock(&l->lock);
            audit_collect(l->collection);
            pthread_mutex_lock(&l->lock);
            collect_ms = clock_mono_ms() + COLLECT_MS;
            if (!l->stop)
                continue;
        }
        if (l->stop)
            break;
        uint64_t until = l->window_ends_ms;
        if (l->collection && (!until || collect_ms < until))
            until = collect_ms;
        if (!STAILQ_EMPTY(&l->queue) && (!until || retry_ms < until))
            until = retry_ms;
        if (until) {
            struct timespec t = at(until);
            pthread_cond_timedwait(&l->wake, &l->lock, &t);
        } else {
            pthread_cond_wait(&l->wake, &l->lock);
        }
    }
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

int audit_log_health(struct audit_log *l, struct err *err)
{
    pthread_mutex_lock(&l->lock);
    int code = l->trouble.code;
    if (code)
        err_set(err, code, "%s", l->trouble.msg);
    pthread_mutex_unlock(&l->lock);
    return code;
}

/* ---- life ---- */

static int64_t number_in(struct str body, struct str name)
{
    const char *found = memmem(body.ptr, body.len, name.ptr, name.len);
    int64_t n = 0;
    if (!found)
        return 0;
    for (struct str rest = str_skip(body, (size_t)(found - body.ptr) + name.len); rest.len && *rest.ptr >= '0' && *rest.ptr <= '9' && n < INT64_MAX / 16; rest = str_skip(rest, 1))
        n = n * 10 + (*rest.ptr - '0');
    return n;
}

struct looking {
    int64_t last; /* write that stands */
    struct audit_collection *from;
};

/* Without parsing what may be many records: within texts a quotation mark has a backslash before it. */
static bool look_at(void *arg, const struct ledger_record *rec)
{
    struct looking *x = arg;
    int64_t *last = &x->last, rev = number_in(rec->body, STR("\"rev\":"));
    audit_collection_saw(x->from, rec->body);
    if (str_starts(rec->body, STR("{\"type\":\"write\"")))
        *last = MAX(*last, rev);
    else if (str_starts(rec->body, STR("{\"type\":\"undone\"")) && rev <= *last)
        *last = rev - 1;
    return true;
}

int audit_log_settle(struct audit_log *l, int64_t store_rev, struct err *err)
{
    if (l->last_rev <= store_rev)
        return 0;
    pthread_mutex_lock(&l->ledger_lock);
    l->undone_first = store_rev + 1;
    l->undone_last = l->last_rev;
    l->last_rev = store_rev;
    int rc;
    rc = say_undone(l, err);
    if (rc == 0)
        rc = sync_all(l, err);
    pthread_mutex_unlock(&l->ledger_lock);
    return rc;
}

static int append_event(struct ledger *l, const struct audit_event *e, struct err *err)
{
    CLEANUP(sbuf_deinit) struct sbuf body = {0};
    sbuf_init(&body, LEDGER_BODY_MAX);
    audit_encode(e, &body);
    return ledger_append(l, clock_wall_ms(), AUDIT_RECORD_VERSION, sbuf_str(&body), NULL, err);
}

static int find_last_write(const char *dir, int64_t *ret, struct err *err)
{
    struct ledger_reader *r;
    struct looking x = {0, NULL};
    int rc = ledger_reader_open(dir, AUDIT_LEDGER, &r, err);
    if (rc < 0)
        return rc;
    rc = ledger_read(r, 0, look_at, &x, err);
    ledger_reader_close(r);
    *ret = x.last;
    return rc;
}

/* The ledger, for who adds to it before a control runs; and its last write that stands. */
static int open_at_rest(const char *dir, struct ledger **ret, int64_t *ret_last, struct err *err)
{
    struct ledger_options o = {.dir = dir, .name = AUDIT_LEDGER, .kind = LEDGER_AUDIT};
    int rc = find_last_write(dir, ret_last, err);
    return rc < 0 ? rc : ledger_open(&o, ret, err);
}

int audit_log_restored(const char *dir, int64_t store_rev, int64_t next_rev, const char *user, const char *backup, struct err *err)
{
    struct ledger *l;
    int64_t last;
    int rc = open_at_rest(dir, &l, &last, err);
    if (rc < 0)
        return rc;
    if (last > store_rev)
        rc = append_event(l, &(struct audit_event){.type = AUDIT_UNDONE, .rev = store_rev + 1, .last_rev = last}, err);
    if (rc == 0)
        rc = append_event(l, &(struct audit_event){.type = AUDIT_RESTORED, .user = str_of(user), .name = str_of(backup), .rev = next_rev, .last_rev = store_rev}, err);
    if (rc == 0)
        rc = ledger_sync(l, err);
    ledger_close(l);
    return rc;
}

int audit_log_rolled_back(const char *dir, int64_t store_rev, const char *user, const char *text, struct err *err)
{
    struct ledger *l;
    int64_t last;
    int rc = open_at_rest(dir, &l, &last, err);
    if (rc < 0)
        return rc;
    rc = append_event(l, &(struct audit_event){.type = AUDIT_UNDONE, .user = str_of(user), .name = str_of(text), .rev = store_rev + 1, .last_rev = MAX(last, store_rev)}, err);
    if (rc == 0)
        rc = ledger_sync(l, err);
    ledger_close(l);
    return rc;
}

/* What is in it already: the last write that stands, and how far the other journal was copied. */
static int look_back(struct audit_log *l, struct err *err)
{
    struct ledger_reader *r;
    struct looking x = {0, l->collection};
    int rc = ledger_reader_open(l->dir, l->name, &r, err);
    if (rc < 0)
        return rc;
    rc = ledger_read(r, 0, look_at, &x, err);
    ledger_reader_close(r);
    l->last_rev = x.last;
    return rc;
}

int audit_log_open(const struct audit_log_options *options, struct audit_log **ret, struct err *err)
{
    struct ledger_options o = {.dir = options->dir, .name = options->name, .kind = LEDGER_AUDIT};
    struct audit_log *l = XNEW(struct audit_log);
    pthread_condattr_t monotonic;
    *l = (struct audit_log){.dir = xstrdup(options->dir), .name = xstrdup(options->name), .window = map_new(mem_free), .queue = STAILQ_HEAD_INITIALIZER(l->queue)};
    l->journal = (struct store_journal){l, before, undone};
    if (options->collect)
        l->collection = audit_collection_new(options->dir, options->collect, &collect_ops, l);
    l->records = metric_counter("seki_audit_records_total", "Records written to the audit ledger.");
    l->waiting_gauge = metric_gauge("seki_audit_records_waiting", "Records that the disk has not taken yet.");
    l->lost = metric_counter("seki_audit_records_lost_total", "Records of denied requests that are lost: too many waited for the disk.");
    pthread_mutex_init(&l->ledger_lock, NULL);
    pthread_mutex_init(&l->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&l->wake, &monotonic);
    pthread_condattr_destroy(&monotonic);
    int rc = ledger_open(&o, &l->ledger, err);
    if (rc == 0)
        rc = look_back(l, err);
    if (rc == 0) {
        int eno = pthread_create(&l->thread, NULL, run, l);
        rc = eno ? err_sys(err, eno, "start the audit ledger's thread") : 0;
        l->started = !eno;
    }
    if (rc < 0) {
        audit_log_close(l);
        return rc;
    }
    *ret = l;
    return 0;
}

void audit_log_keep_room(struct audit_log *l, size_t bytes)
{
    pthread_mutex_lock(&l->ledger_lock);
    l->room = bytes;
    (void)!ledger_room(l->ledger, bytes, NULL);
    pthread_mutex_unlock(&l->ledger_lock);
}

void audit_log_files(const struct audit_log *l, const char **ret_dir, const char **ret_name)
{
    *ret_dir = l->dir;
    *ret_name = l->name;
}

const struct store_journal *audit_log_journal(struct audit_log *l)
{
    return &l->journal;
}

void audit_log_close(struct audit_log *l)
{
    if (!l)
        return;
    pthread_mutex_lock(&l->lock);
    l->stop = true;
    pthread_cond_signal(&l->wake);
    pthread_mutex_unlock(&l->lock);
    if (l->started)
        pthread_join(l->thread, NULL);
    if (l->waiting)
        log_error("audit records are lost: the disk did not take them", KVI("records", l->waiting));
    (void)answer(&l->queue, ERR_UNAVAILABLE);
    ledger_close(l->ledger);
    map_free(l->window);
    pthread_cond_destroy(&l->wake);
    pthread_mutex_destroy(&l->lock);
    pthread_mutex_destroy(&l->ledger_lock);
    audit_collection_free(l->collection);
    mem_free(l->dir);
    mem_free(l->name);
    mem_free(l);
}
