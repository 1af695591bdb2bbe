#include "gateway/journal.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/metrics.h"
#include "base/vec.h"

#define JOURNAL_NAME "usage-%s"
#define RECORD_VERSION 1
#define SYNC_EVERY_MS 100
#define ROOM (16u * 1024 * 1024)
#define ROOM_LOW (ROOM / 2)
#define ROOM_AGAIN_MS 1000 /* a full disk is asked again */
#define RETRY_PART LEDGER_BATCH_MAX /* records that are written while loops wait … */
#define RETRY_PAUSE_NS 100000       /* … and how long they then have the lock */
#define USUAL_BYTES 768 /* more than most records have */

struct waiting {
    int64_t time_ms;
    char *body;
    size_t len;
    void *held;
};

struct journal {
    struct ledger *ledger;
    char name[64], *dir;
    void (*let_go)(void *arg, void *held);
    void *let_go_arg;
    VEC(struct waiting) backlog; /* refused by the disk, oldest first */
    struct metric *records, *failures, *waiting, *room_gauge;
    atomic_size_t waits; /* backlog.len, for who does not take the lock */
    atomic_bool is_low;  /* likewise: the disk gives no more room, and there is little left */
    bool has_room;       /* the file system can give it ahead */
    bool is_full;        /* when it was asked last it had not all of it */
    uint64_t ask_ms;     /* when to ask again */
    char why[ERR_MSG_MAX]; /* it takes or gives nothing */
    pthread_mutex_t lock; /* guards ledger and backlog */
    pthread_cond_t wake;
    pthread_t thread;
    bool started, stop;
    atomic_ullong written; /* the last sequence that journal_add() has written */
};

/* Under the lock. */
static void backlog_changed(struct journal *j)
{
    atomic_store_explicit(&j->waits, j->backlog.len, memory_order_relaxed);
    metric_set(j->waiting, (int64_t)j->backlog.len);
}

/* ---- room; under the lock ---- */

static int64_t free_bytes(const struct journal *j)
{
    struct statvfs v;
    return statvfs(j->dir, &v) < 0 ? -1 : (int64_t)(v.f_bavail * v.f_frsize);
}

/* Told in the log once; and to who asks why requests are refused. */
static void note_trouble(struct journal *j, const char *what, const struct err *err)
{
    int64_t left = free_bytes(j);
    log_error(what, KV("journal", j->name), KV("dir", j->dir), KVE(err), KVI("free_bytes", left), KVI("room_bytes", (int64_t)ledger_room_left(j->ledger)), KVI("waiting", j->backlog.len));
    snprintf(j->why, sizeof(j->why), "%.300s; %lld bytes are free", err->msg, (long long)left);
}

/* A disk that was not asked for a while, as it was slow to sync, is not full for that. */
static void room_changed(struct journal *j)
{
    atomic_store_explicit(&j->is_low, j->is_full && ledger_room_left(j->ledger) < ROOM_LOW, memory_order_relaxed);
}

/* The disk was asked for room. */
static void have_room(struct journal *j, struct ledger_room *r, int rc, const struct err *err)
{
    ledger_room_have(j->ledger, r);
    if (rc < 0 && rc != ERR_NO_SPACE) {
        log_warn("the usage journal gets no room on the disk ahead; should that be full, records wait in memory", KV("dir", j->dir), KVE(err));
        j->has_room = false;
    } else if (rc < 0 && !j->is_full) {
        note_trouble(j, "the disk is full: when the room that the usage journal has there is used, requests are refused", err);
    } else if (rc == 0 && j->is_full) {
        log_info("the usage journal has room on the disk again", KV("dir", j->dir));
    }
    j->is_full = rc == ERR_NO_SPACE;
    j->ask_ms = j->is_full ? clock_mono_ms() + ROOM_AGAIN_MS : 0;
    room_changed(j);
}

/* Gives the lock back while the disk is asked. */
static void keep_room(struct journal *j)
{
    struct err err = ERR_INIT;
    metric_set(j->room_gauge, j->has_room ? (int64_t)ledger_room_left(j->ledger) : -1);
    if (!j->has_room || clock_mono_ms() < j->ask_ms)
        return;
    struct ledger_room r = ledger_room_wish(j->ledger, ROOM);
    bool enough = ledger_room_left(j->ledger) >= ROOM_LOW; /* else it is a descriptor that lacks */
    if (r.fd < 0 && !(j->is_full && enough))
        return;
    pthread_mutex_unlock(&j->lock);
    int rc = ledger_room_ask(&r, &err);
    pthread_mutex_lock(&j->lock);
    have_room(j, &r, rc, &err);
}

/* Before there are threads. What a journal had before, it finds. */
static void first_room(struct journal *j)
{
    struct err err = ERR_INIT;
    struct ledger_room r = ledger_room_wish(j->ledger, ROOM);
    j->has_room = true;
    int rc = ledger_room_ask(&r, &err);
    have_room(j, &r, rc, &err);
}

/* ---- what waits ---- */

/* Under the lock. Writes the first of the backlog, up to PART of them; returns how many. Those of one moment are one write. */
static size_t retry_part(struct journal *j)
{
    struct str bodies[RETRY_PART];
    size_t done = 0, most = MIN(j->backlog.len, (size_t)RETRY_PART), count, written;
    do {
        const struct waiting *w = j->backlog.ptr + done;
        for (count = 0; done + count < most && w[count].time_ms == w->time_ms; count++)
            bodies[count] = str_n(w[count].body, w[count].len);
        (void)!ledger_append_many(j->ledger, w->time_ms, RECORD_VERSION, bodies, count, &written, NULL);
        done += written;
    } while (written == count && done < most);
    for (size_t i = 0; i < done; i++) {
        mem_free(j->backlog.ptr[i].body);
        if (j->backlog.ptr[i].held)
            j->let_go(j->let_go_arg, j->backlog.ptr[i].held);
    }
    memmove(j->backlog.ptr, j->backlog.ptr + done, (j->backlog.len - done) * sizeof(*j->backlog.ptr));
    j->backlog.len -= done;
    backlog_changed(j);
    room_changed(j);
    metric_add(j->records, done);
    return done;
}

/* Under the lock, which it lets go now and then: loops wait for that. Records that the disk refused before, in their order; those that come meanwhile queue up behind them. */
static void retry_backlog(struct journal *j)
{
    size_t done = 0, part;
    while (j->backlog.len && (part = retry_part(j))) {
        done += part;
        pthread_mutex_unlock(&j->lock);
        nanosleep(&(struct timespec){.tv_nsec = RETRY_PAUSE_NS}, NULL); /* whoever unlocks and locks at once is always first */
        pthread_mutex_lock(&j->lock);
    }
    if (done)
        log_warn("usage records that waited for the disk are written", KVI("records", done), KVI("waiting", j->backlog.len));
}

static void sync_unlocked(struct journal *j, int fd)
{
    pthread_mutex_unlock(&j->lock);
    if (fdatasync(fd) < 0) {
        struct err err = ERR_INIT;
        err_sys(&err, errno, "fdatasync");
        log_error("the usage journal could not be made durable", KVE(&err));
    }
    close(fd);
    pthread_mutex_lock(&j->lock);
}

static void *run(void *arg)
{
    struct journal *j = arg;
    pthread_mutex_lock(&j->lock);
    while (!j->stop) {
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_nsec += SYNC_EVERY_MS * 1000000L;
        if (until.tv_nsec >= 1000000000L) {
            until.tv_sec++;
            until.tv_nsec -= 1000000000L;
        }
        pthread_cond_timedwait(&j->wake, &j->lock, &until);
        retry_backlog(j);
        int fd = ledger_take_unsynced(j->ledger);
        if (fd >= 0)
            sync_unlocked(j, fd);
        keep_room(j);
    }
    pthread_mutex_unlock(&j->lock);
    return NULL;
}

int journal_open(const char *dir, const char *gateway, struct journal **ret, struct err *err)
{
    struct journal *j = XNEW(struct journal);
    j->dir = xstrdup(dir);
    struct ledger_options o = {.dir = dir, .name = j->name, .kind = LEDGER_USAGE_JOURNAL};
    pthread_condattr_t attr;
    snprintf(j->name, sizeof(j->name), JOURNAL_NAME, gateway);
    pthread_mutex_init(&j->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&j->wake, &attr);
    pthread_condattr_destroy(&attr);
    j->records = metric_counter("seki_gateway_usage_records_total", "Usage records written to the journal.");
    j->failures = metric_counter("seki_gateway_usage_failures_total", "Usage records that the disk refused at first; they wait and are tried again.");
    j->waiting = metric_gauge("seki_gateway_usage_records_waiting", "Usage records in memory that the disk has not taken yet.");
    j->room_gauge = metric_gauge("seki_gateway_journal_room_bytes", "Bytes of the disk that the usage journal has ahead of its records; below 8 MiB new requests are refused. -1: the file system gives none.");
    int rc = ledger_open(&o, &j->ledger, err);
    if (rc == 0) {
        first_room(j);
        atomic_store(&j->written, ledger_last_sequence(j->ledger));
        int eno = pthread_create(&j->thread, NULL, run, j);
        j->started = eno == 0;
        if (eno)
            rc = err_sys(err, eno, "start the journal's thread");
    }
    if (rc < 0) {
        journal_close(j);
        return rc;
    }
    *ret = j;
    return 0;
}

void journal_close(struct journal *j)
{
    if (!j)
        return;
    if (j->started) {
        pthread_mutex_lock(&j->lock);
        j->stop = true;
        pthread_cond_signal(&j->wake);
        pthread_mutex_unlock(&j->lock);
        pthread_join(j->thread, NULL);
        pthread_mutex_lock(&j->lock);
        retry_backlog(j);
        pthread_mutex_unlock(&j->lock);
        if (j->backlog.len)
            log_error("usage records are lost: the disk did not take them", KVI("records", j->backlog.len));
    }
    VEC_FOREACH (&j->backlog, w)
        mem_free(w->body);
    VEC_DEINIT(&j->backlog);
    ledger_close(j->ledger);
    mem_free(j->dir);
    pthread_cond_destroy(&j->wake);
    pthread_mutex_destroy(&j->lock);
    mem_free(j);
}

/* Under the lock. */
static void keep(struct journal *j, int64_t now, struct str body, void **held)
{
    void *kept = NULL;
    metric_add(j->failures, 1);
    if (held && j->let_go) {
        kept = *held;
        *held = NULL;
    }
    /* Requests that ran when new ones were refused; there are fewer than that. */
    if (j->backlog.len >= JOURNAL_BACKLOG_MAX) {
        log_error(kept ? "too many usage records wait for the disk: one is made of its place among open requests at the next start" : "a usage record is lost: too many wait for the disk");
        return;
    }
    *VEC_PUSH(&j->backlog) = (struct waiting){now, xstrndup(body.ptr, body.len), body.len, kept};
    backlog_changed(j);
}

void journal_add_held(struct journal *j, const struct str *bodies, size_t count, void **held)
{
    struct err err = ERR_INIT;
    int64_t now = clock_wall_ms();
    size_t done = 0;
    pthread_mutex_lock(&j->lock);
    if (!j->backlog.len && ledger_append_many(j->ledger, now, RECORD_VERSION, bodies, count, &done, &err) < 0)
        note_trouble(j, "usage records cannot be written; they wait in memory", &err);
    if (done) {
        metric_add(j->records, done);
        atomic_store_explicit(&j->written, ledger_last_sequence(j->ledger), memory_order_relaxed);
    }
    room_changed(j);
    for (size_t i = done; i < count; i++)
        keep(j, now, bodies[i], held ? &held[i] : NULL);
    pthread_mutex_unlock(&j->lock);
}

void journal_add_many(struct journal *j, const struct str *bodies, size_t count)
{
    journal_add_held(j, bodies, count, NULL);
}

void journal_add_one_held(struct journal *j, const struct usage *u, void **held)
{
    CLEANUP(sbuf_deinit) struct sbuf body = {0};
    sbuf_init(&body, LEDGER_BODY_MAX);
    sbuf_reserve(&body, USUAL_BYTES);
    usage_encode(u, &body);
    struct str text = sbuf_str(&body);
    journal_add_held(j, &text, 1, held);
}

void journal_add(struct journal *j, const struct usage *u)
{
    journal_add_one_held(j, u, NULL);
}

void journal_on_written(struct journal *j, void (*fn)(void *arg, void *held), void *arg)
{
    pthread_mutex_lock(&j->lock);
    j->let_go = fn;
    j->let_go_arg = arg;
    pthread_mutex_unlock(&j->lock);
}

int journal_ready(struct journal *j, struct err *err)
{
    if (!atomic_load_explicit(&j->waits, memory_order_relaxed) && !atomic_load_explicit(&j->is_low, memory_order_relaxed))
        return 0;
    pthread_mutex_lock(&j->lock);
    int rc = err_set(err, ERR_NO_SPACE, "usage cannot be recorded: %s", j->why);
    pthread_mutex_unlock(&j->lock);
    return rc;
}

const char *journal_name(const struct journal *j)
{
    return j->name;
}

void journal_id(const struct journal *j, char ret[LEDGER_ID_TEXT])
{
    ledger_id(j->ledger, ret);
}

uint64_t journal_written(const struct journal *j)
{
    return atomic_load_explicit(&j->written, memory_order_relaxed);
}

int64_t journal_sequence(struct journal *j)
{
    pthread_mutex_lock(&j->lock);
    int64_t sequence = j->backlog.len ? -1 : (int64_t)ledger_last_sequence(j->ledger);
    pthread_mutex_unlock(&j->lock);
    return sequence;
}
