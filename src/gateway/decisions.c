#include "gateway/decisions.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/metrics.h"
#include "base/rnd.h"
#include "gateway/snapshot.h"

#define EVERY_MS 1000

struct decision_log {
    char *file, *older;
    size_t max_bytes;
    pthread_t thread;
    bool failing; /* the thread's */
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct sbuf waiting; /* whole lines; under lock, as is what follows */
    bool stopping;
};

struct decision {
    struct decision_log *to;
    uint64_t start_ns;
    struct pick_report report;
    struct sbuf sent; /* objects, separated by commas */
    const char *rule;
    struct arena *arena;
};

static struct metric *written_total;
static struct metric_family *dropped_total;

static void drop(const char *reason, uint64_t count)
{
    metric_add(metric_series(dropped_total, (struct str[]){str_of(reason)}), count);
}

void decision_log_init(void)
{
    static const char *const labels[] = {"reason", NULL};
    written_total = metric_counter("seki_gateway_decisions_written_total", "Lines of the log of decisions.");
    dropped_total = metric_family("seki_gateway_decisions_dropped_total", "Requests that were to be in the log of decisions and are not.", METRIC_COUNTER, labels, 2, NULL, 0);
    drop("full", 0);
    drop("disk", 0);
}

/* ---- writing ---- */

/* The file with room for so many bytes more, and how much it has; its descriptor, or -1. */
static int open_with_room(struct decision_log *l, size_t bytes, size_t *ret_room)
{
    struct stat st;
    for (int again = 0; again < 2; again++) {
        int fd = open(l->file, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
        *ret_room = l->max_bytes;
        if (fd < 0 || fstat(fd, &st) < 0 || !st.st_size)
            return fd;
        *ret_room = (size_t)st.st_size < l->max_bytes ? l->max_bytes - (size_t)st.st_size : 0;
        if (*ret_room >= bytes)
            return fd;
        close(fd);
        if (rename(l->file, l->older) < 0)
            return -1;
    }
    errno = EFBIG;
    return -1;
}

/* Of these the whole lines that fit. */
static struct str lines_within(struct str lines, size_t room, uint64_t *ret_count)
{
    size_t len = 0;
    const char *end;
    *ret_count = 0;
    while (len < lines.len && (end = memchr(lines.ptr + len, '\n', lines.len - len)) && (size_t)(end + 1 - lines.ptr) <= room) {
        len = (size_t)(end + 1 - lines.ptr);
        (*ret_count)++;
    }
    return str_n(lines.ptr, len);
}

static size_t line_len(struct str lines)
{
    return (size_t)str_find(lines, '\n') + 1;
}

/* Returns how much of them is done with. */
static size_t write_some(struct decision_log *l, struct str lines)
{
    struct err err = ERR_INIT;
    size_t room = 0;
    uint64_t count = 1;
    int fd = open_with_room(l, line_len(lines), &room);
    struct str some = fd < 0 ? str_n(lines.ptr, line_len(lines)) : lines_within(lines, room, &count);
    bool ok = fd >= 0 && file_write_all(fd, some, &err) == 0;
    if (!ok && !l->failing)
        log_warn("the log of decisions cannot be written", KV("file", l->file), KV("error", fd < 0 ? strerror(errno) : err.msg));
    l->failing = !ok;
    if (fd >= 0)
        close(fd);
    if (ok)
        metric_add(written_total, count);
    else
        drop("disk", count);
    return some.len;
}

static void *run(void *arg)
{
    struct decision_log *l = arg;
    struct sbuf lines;
    sbuf_init(&lines, DECISION_QUEUE_BYTES);
    pthread_mutex_lock(&l->lock);
    for (bool last = false; !last;) {
        uint64_t until_ms = clock_mono_ms() + EVERY_MS;
        struct timespec until = {.tv_sec = (time_t)(until_ms / 1000), .tv_nsec = (long)(until_ms % 1000) * 1000000L};
        while (!l->stopping && pthread_cond_timedwait(&l->wake, &l->lock, &until) != ETIMEDOUT)
            ;
        last = l->stopping;
        struct sbuf taken = l->waiting;
        l->waiting = lines; /* empty, with its room */
        lines = taken;
        pthread_mutex_unlock(&l->lock);
        for (struct str rest = sbuf_str(&lines); rest.len;)
            rest = str_skip(rest, write_some(l, rest));
        sbuf_reset(&lines);
        pthread_mutex_lock(&l->lock);
    }
    pthread_mutex_unlock(&l->lock);
    sbuf_deinit(&lines);
    return NULL;
}

int decision_log_start(const struct decision_log_options *o, struct decision_log **ret, struct err *err)
{
    struct decision_log *l = XNEW(struct decision_log);
    struct sbuf older;
    pthread_condattr_t attr;
    *l = (struct decision_log){.max_bytes = o->max_bytes, .file = xstrdup(o->file)};
    sbuf_init(&older, 8192);
    sbuf_addf(&older, "%s.1", o->file);
    l->older = xstrdup(sbuf_str(&older).ptr);
    sbuf_deinit(&older);
    sbuf_init(&l->waiting, DECISION_QUEUE_BYTES);
    pthread_mutex_init(&l->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&l->wake, &attr);
    pthread_condattr_destroy(&attr);
    int rc = pthread_create(&l->thread, NULL, run, l);
    if (rc) {
        pthread_cond_destroy(&l->wake);
        pthread_mutex_destroy(&l->lock);
        sbuf_deinit(&l->waiting);
        mem_free(l->file);
        mem_free(l->older);
        mem_free(l);
        return err_set(err, ERR_UNAVAILABLE, "the log of decisions has no thread: %s", strerror(rc));
    }
    *ret = l;
    return 0;
}

void decision_log_add(struct decision_log *l, struct str line)
{
    pthread_mutex_lock(&l->lock);
    bool fits = l->waiting.len + line.len + 1 < DECISION_QUEUE_BYTES;
    if (fits) {
        sbuf_add(&l->waiting, line);
        sbuf_add_char(&l->waiting, '\n');
    }
    pthread_mutex_unlock(&l->lock);
    if (!fits)
        drop("full", 1);
}

void decision_log_stop(struct decision_log *l)
{
    if (!l)
        return;
    pthread_mutex_lock(&l->lock);
    l->stopping = true;
    pthread_cond_signal(&l->wake);
    pthread_mutex_unlock(&l->lock);
    pthread_join(l->thread, NULL);
    pthread_cond_destroy(&l->wake);
    pthread_mutex_destroy(&l->lock);
    sbuf_deinit(&l->waiting);
    mem_free(l->file);
    mem_free(l->older);
    mem_free(l);
}

/* ---- one request ---- */

static void cleanup(void *arg)
{
    struct decision *d = arg;
    sbuf_deinit(&d->sent);
}

struct decision *decision_begin(struct decision_log *to, int64_t per_million, struct arena *a, uint64_t start_ns)
{
    if (!to || (int64_t)rnd_guessable_below(1000000) >= per_million)
        return NULL;
    struct decision *d = ARENA_NEW(a, struct decision);
    d->to = to;
    d->start_ns = start_ns;
    d->arena = a;
    sbuf_init(&d->sent, DECISION_SENT_MAX);
    arena_on_free(a, cleanup, d);
    return d;
}

struct pick_report *decision_report(struct decision *d)
{
    return d ? &d->report : NULL;
}

static void add_text(struct sbuf *out, const char *name, const char *value)
{
    sbuf_addf(out, "\"%s\":", name);
    if (value)
        sbuf_add_json(out, str_of(value));
    else
        sbuf_addc(out, "null");
}

static void add_candidate(struct sbuf *out, const struct snap_replica *r, const struct pick_candidate *c, bool chosen)
{
    static const char *const fates[] = {[PICK_UNSEEN] = "unseen", [PICK_WEIGHED] = "weighed", [PICK_TRIED] = "tried", [PICK_BARRED] = "barred", [PICK_CLOSING] = "closing", [PICK_ASIDE] = "aside",
                                        [PICK_NO_ROOM] = "full"};
    add_text(out, "replica", r->name);
    sbuf_add_char(out, ',');
    add_text(out, "site", r->site ? r->site->name : NULL);
    sbuf_addf(out, ",\"fate\":\"%s\"", chosen ? "chosen" : fates[c->fate]);
    if (c->fate == PICK_WEIGHED)
        sbuf_addf(out, ",\"score\":%.4f,\"cached\":%zu", c->score, c->cached);
    if (c->fate == PICK_WEIGHED || c->fate == PICK_NO_ROOM)
        sbuf_addf(out, ",\"running\":%lld,\"slots\":%lld", (long long)c->running, (long long)r->slots);
    if (c->others || c->waiting || c->kv_used)
        sbuf_addf(out, ",\"others\":%lld,\"others_waiting\":%lld,\"kv_thousandths\":%lld", (long long)c->others, (long long)c->waiting, (long long)c->kv_used);
}

void decision_sent(struct decision *d, const struct snap_endpoint *e, size_t chosen, const char *why, const char *by)
{
    if (!d)
        return;
    struct sbuf *out = &d->sent;
    size_t left_out = 0;
    if (out->len > DECISION_SENT_MAX / 2)
        return;
    sbuf_addf(out, "%s{\"at_ms\":%lld,\"why\":\"%s\",\"by\":\"%s\",", out->len ? "," : "", (long long)((clock_mono_ns() - d->start_ns) / 1000000), why, by);
    add_text(out, "chosen", chosen < e->replica_count ? e->replicas[chosen].name : NULL);
    sbuf_addc(out, ",\"candidates\":[");
    for (size_t i = 0, n = 0; i < e->replica_count && i < d->report.count; i++) {
        if (out->len > DECISION_SENT_MAX * 3 / 4) {
            left_out++;
            continue;
        }
        sbuf_addc(out, n++ ? ",{" : "{");
        add_candidate(out, &e->replicas[i], &d->report.of[i], i == chosen);
        sbuf_add_char(out, '}');
    }
    sbuf_addf(out, "],\"left_out\":%zu}", left_out);
}

void decision_refused(struct decision *d, const char *rule)
{
    if (d)
        d->rule = arena_strdup(d->arena, rule);
}

void decision_end(struct decision *d, const struct usage *u, const struct decision_facts *f)
{
    CLEANUP(sbuf_deinit) struct sbuf line = {0};
    char when[CLOCK_TEXT_MAX];
    if (!d)
        return;
    sbuf_init(&line, DECISION_LINE_MAX);
    clock_format(u->start_ms, when);
    sbuf_addf(&line, "{\"time\":\"%s\",\"request\":", when);
    sbuf_add_json(&line, u->id);
    sbuf_addc(&line, ",\"tenant\":");
    sbuf_add_json(&line, u->tenant);
    sbuf_addc(&line, ",\"project\":");
    sbuf_add_json(&line, u->project);
    sbuf_addc(&line, ",\"model\":");
    sbuf_add_json(&line, u->model);
    sbuf_add_char(&line, ',');
    add_text(&line, "endpoint_project", f->endpoint_project);
    sbuf_addc(&line, ",\"endpoint\":");
    sbuf_add_json(&line, u->endpoint);
    sbuf_addc(&line, ",\"route\":");
    sbuf_add_json(&line, u->route);
    sbuf_addf(&line, ",\"class\":\"%s\",", f->batch ? "batch" : "interactive");
    add_text(&line, "rule", d->rule ? d->rule : f->rule);
    sbuf_addf(&line, ",\"blocks\":%zu,\"waited_ms\":%lld,\"status\":%d,\"outcome\":", f->blocks, (long long)f->waited_ms, u->status);
    sbuf_add_json(&line, u->outcome);
    sbuf_addf(&line, ",\"duration_ms\":%lld,\"sent\":[", (long long)u->duration_ms);
    sbuf_add(&line, sbuf_str(&d->sent));
    sbuf_addc(&line, "]}");
    if (sbuf_ok(&line) && sbuf_ok(&d->sent))
        decision_log_add(d->to, sbuf_str(&line));
    else
        drop("full", 1);
}
