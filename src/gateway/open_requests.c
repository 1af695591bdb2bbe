#include "gateway/open_requests.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/arena.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/map.h"
#include "base/mem.h"

#define PLACES_MAX 65536u
#define MAGIC "SEKIOPEN"
#define LAYOUT 3
#define HEAD_BYTES 4096
#define TIME_MAX (INT64_MAX / 4)

enum { FREE, TAKEN };

/* Most requests fit into a small place; those with long names, or many engines, get a large one, of which there are fewer. */
enum { SMALL, LARGE, SIZES };
static const size_t place_bytes[SIZES] = {512, 2048};
#define LARGE_SHARE 8
#define LARGE_LEAST 16u

struct head {
    char magic[8];
    uint32_t layout, places; /* small ones */
};

struct open_request {
    _Atomic uint32_t state;
    uint32_t len; /* of bytes */
    uint64_t sequence; /* the journal's when it began: its record comes behind that */
    int64_t estimate;  /* of the prompt */
    _Atomic int64_t events, prompt, cached, completion;
    _Atomic int64_t noted_ms; /* wall clock, of the last of them */
    _Atomic uint32_t exact;
    uint32_t has_price;
    struct price price;
    char bytes[]; /* the record as far as it is known: see "what a place has" */
};

/* Places of one size. */
struct area {
    char *base;
    size_t bytes, count, words; /* bytes: of a place */
    _Atomic uint64_t *taken; /* a bit a place */
};

struct open_requests {
    struct journal *journal;
    char *map;
    size_t size;
    struct area areas[SIZES];
};

static size_t room_of(size_t bytes)
{
    return bytes - sizeof(struct open_request);
}

/* Where places lie in a file of so many small ones. Returns its size. */
static size_t lay_out(char *map, size_t places, struct area areas[SIZES])
{
    size_t at = HEAD_BYTES;
    for (int k = 0; k < SIZES; k++) {
        struct area *a = &areas[k];
        *a = (struct area){.base = map + at, .bytes = place_bytes[k], .count = k == SMALL ? places : MAX(places / LARGE_SHARE, (size_t)LARGE_LEAST)};
        at += (a->count * a->bytes + HEAD_BYTES - 1) / HEAD_BYTES * HEAD_BYTES;
    }
    return at;
}

static struct open_request *place_at(const struct area *a, size_t i)
{
    return (struct open_request *)(void *)(a->base + i * a->bytes);
}

/* ---- what a place has ----
 *
 * As it lies in memory: it is written once an attempt, on the path of every request, and read by the same build or not at all. Texts have two bytes of length before them. */

enum { TEXTS = 8, WORK_NUMBERS = 7 };

static void texts_of(struct usage *u, struct str *ret[TEXTS])
{
    struct str *texts[TEXTS] = {&u->id, &u->project, &u->tenant, &u->key, &u->endpoint, &u->model, &u->replica, &u->route};
    memcpy(ret, texts, sizeof(texts));
}

static size_t length_of(const struct usage *from)
{
    struct usage u = *from;
    struct str *texts[TEXTS];
    size_t len = 3 * sizeof(int64_t);
    texts_of(&u, texts);
    for (int i = 0; i < TEXTS; i++)
        len += sizeof(uint16_t) + MIN(texts[i]->len, (size_t)UINT16_MAX);
    for (size_t i = 0; i < u.work_count; i++)
        len += WORK_NUMBERS * sizeof(int64_t) + sizeof(uint16_t) + MIN(u.work[i].replica.len, (size_t)UINT16_MAX);
    return len;
}

static char *put(char *to, const void *from, size_t n)
{
    if (n)
        memcpy(to, from, n);
    return to + n;
}

static char *put_text(char *to, struct str text)
{
    uint16_t n = (uint16_t)MIN(text.len, (size_t)UINT16_MAX);
    return put(put(to, &n, sizeof(n)), text.ptr, n);
}

/* There is room. */
static void write_place(struct open_request *p, const struct usage *from)
{
    struct usage u = *from;
    struct str *texts[TEXTS];
    char *start = (char *)p + offsetof(struct open_request, bytes), *to = start;
    texts_of(&u, texts);
    for (int i = 0; i < TEXTS; i++)
        to = put_text(to, *texts[i]);
    to = put(to, (int64_t[]){u.stream, u.start_ms, (int64_t)u.work_count}, 3 * sizeof(int64_t));
    for (size_t i = 0; i < u.work_count; i++) {
        const struct usage_work *w = &u.work[i];
        to = put(to, (int64_t[WORK_NUMBERS]){w->start_ms, w->end_ms, w->read, w->cached, w->written, w->exact, w->loser}, WORK_NUMBERS * sizeof(int64_t));
        to = put_text(to, w->replica);
    }
    p->len = (uint32_t)(to - start);
}

static bool get(const struct open_request *p, size_t *at, void *to, size_t n)
{
    if (n > p->len - *at)
        return false;
    memcpy(to, p->bytes + *at, n);
    *at += n;
    return true;
}

static bool get_text(const struct open_request *p, size_t *at, struct str *ret)
{
    uint16_t n;
    if (!get(p, at, &n, sizeof(n)) || n > p->len - *at)
        return false;
    *ret = str_n(p->bytes + *at, n);
    *at += n;
    return str_utf8_valid(*ret);
}

static bool is_count(int64_t n)
{
    return n >= 0 && n <= USAGE_TOKENS_MAX;
}

static bool is_time(int64_t ms)
{
    return ms >= 0 && ms <= TIME_MAX;
}

static bool get_work(const struct open_request *p, size_t *at, struct usage_work *w)
{
    int64_t n[WORK_NUMBERS];
    if (!get(p, at, n, sizeof(n)) || !is_time(n[0]) || !is_time(n[1]) || !is_count(n[2]) || !is_count(n[3]) || !is_count(n[4]))
        return false;
    *w = (struct usage_work){.start_ms = n[0], .end_ms = n[1], .read = n[2], .cached = n[3], .written = n[4], .exact = n[5] == 1, .loser = n[6] == 1};
    return get_text(p, at, &w->replica);
}

/* False: none of ours has written that. Texts point into the place. */
static bool read_place(const struct open_request *p, size_t room, struct usage *u, struct usage_work work[USAGE_WORK_MAX])
{
    struct str *texts[TEXTS];
    size_t at = 0;
    int64_t n[3];
    *u = (struct usage){.outcome = STR("killed"), .has_work = true, .ttft_ms = -1};
    if (atomic_load(&p->state) != TAKEN || p->len > room || !is_time(atomic_load(&p->noted_ms)))
        return false;
    if (!is_count(p->estimate) || !is_count(atomic_load(&p->events)) || !is_count(atomic_load(&p->prompt)) || !is_count(atomic_load(&p->cached)) || !is_count(atomic_load(&p->completion)))
        return false;
    texts_of(u, texts);
    for (int i = 0; i < TEXTS; i++)
        if (!get_text(p, &at, texts[i]))
            return false;
    if (!get(p, &at, n, sizeof(n)) || !is_time(n[1]) || n[2] < 1 || n[2] > USAGE_WORK_MAX)
        return false;
    for (int64_t i = 0; i < n[2]; i++)
        if (!get_work(p, &at, &work[i]))
            return false;
    u->stream = n[0] == 1;
    u->start_ms = n[1];
    u->work = work;
    u->work_count = (size_t)n[2];
    return true;
}

/* ---- what a killed gateway left ---- */

struct search {
    struct map *ids; /* of requests that are open */
    struct arena *arena;
    struct journal *journal;
    uint64_t after;
    size_t settled;
};

static bool on_record(void *arg, const struct ledger_record *rec)
{
    struct search *s = arg;
    struct usage u;
    arena_reset(s->arena);
    if (usage_decode(rec->body, s->arena, &u, NULL) == 0)
        map_del(s->ids, u.id);
    return true;
}

/* The counts, as if it had been settled when it was killed: see continuation_counts() and tally_fill(). */
static void fill_counts(const struct open_request *p, struct usage *u, struct usage_work work[USAGE_WORK_MAX])
{
    int64_t made = 0, read = 0, prompt = p->estimate, events = atomic_load(&p->events);
    struct usage_work *last = &work[u->work_count - 1];
    u->exact = atomic_load(&p->exact) != 0;
    for (struct usage_work *w = work; w < last; w++)
        made += w->exact || w->loser ? 0 : w->written;
    if (u->exact)
        prompt = MAX(atomic_load(&p->prompt) - made, (int64_t)0);
    last->written = u->exact ? atomic_load(&p->completion) : events;
    last->read = u->exact || events ? prompt + made : 0;
    last->cached = u->exact ? MIN(atomic_load(&p->cached), prompt) : 0;
    last->end_ms = MAX(atomic_load(&p->noted_ms), last->start_ms);
    last->exact = false;
    u->completion_tokens = made + last->written;
    if (!u->exact && !u->completion_tokens) /* nobody knows whether it was read */
        prompt = 0;
    u->prompt_tokens = prompt;
    u->cached_tokens = last->cached;
    made = 0;
    for (struct usage_work *w = work; w < last; w++) {
        if (w->loser) {
            u->hedge_loser_tokens += w->read + w->written;
        } else if (!w->exact && w->written) {
            w->read = prompt + made;
            made += w->written;
            read += w->read;
        } else {
            u->unseen_tokens += w->read + w->written;
        }
    }
    read += last->read;
    u->replayed_tokens = MAX(read - prompt, (int64_t)0);
}

static bool has_price(const struct open_request *p)
{
    return p->has_price && memchr(p->price.currency, 0, CURRENCY_MAX) && currency_valid(p->price.currency) && p->price.input >= 0 && p->price.cached_input >= 0 && p->price.output >= 0;
}

size_t open_requests_walk(char *file, size_t size, open_requests_fn *fn, void *arg)
{
    const struct head *h = (const struct head *)(const void *)file;
    struct area areas[SIZES];
    struct usage_work work[USAGE_WORK_MAX];
    struct usage u;
    size_t found = 0;
    if (size < HEAD_BYTES || memcmp(h->magic, MAGIC, sizeof(h->magic)) != 0 || h->layout != LAYOUT || h->places > PLACES_MAX || lay_out(file, h->places, areas) != size)
        return 0;
    for (int k = 0; k < SIZES; k++) {
        for (size_t i = 0; i < areas[k].count; i++) {
            const struct open_request *p = place_at(&areas[k], i);
            if (!read_place(p, room_of(areas[k].bytes), &u, work))
                continue;
            fill_counts(p, &u, work);
            u.status = u.stream && u.completion_tokens ? 200 : 0;
            u.duration_ms = MAX(work[u.work_count - 1].end_ms - u.start_ms, (int64_t)0);
            if (has_price(p)) {
                u.cost = price_cost(&p->price, u.prompt_tokens, u.cached_tokens, u.completion_tokens);
                u.currency = str_of(p->price.currency);
            }
            fn(arg, &u, p->sequence);
            found++;
        }
    }
    return found;
}

static void on_taken(void *arg, const struct usage *u, uint64_t sequence)
{
    struct search *s = arg;
    map_set(s->ids, u->id, s);
    s->after = MIN(s->after, sequence);
}

/* A request that was moving to another place is in both: either will do. */
static void on_killed(void *arg, const struct usage *u, uint64_t sequence UNUSED)
{
    struct search *s = arg;
    if (!map_get(s->ids, u->id))
        return;
    map_del(s->ids, u->id);
    journal_add(s->journal, u);
    s->settled++;
}

static int read_journal(const struct open_requests *o, const char *dir, uint64_t after, struct search *s, struct err *err)
{
    struct ledger_reader *r;
    int rc = ledger_reader_open(dir, journal_name(o->journal), &r, err);
    if (rc == 0)
        rc = ledger_read(r, after, on_record, s, err);
    ledger_reader_close(r);
    return rc;
}

/* 0; or why what there is cannot be counted now, and then nothing of it was. */
static int recover(const struct open_requests *o, const char *dir, char *file, size_t size, struct err *err)
{
    struct search s = {.ids = map_new(NULL), .arena = arena_new(1024 * 1024), .journal = o->journal, .after = UINT64_MAX};
    open_requests_walk(file, size, on_taken, &s);
    size_t found = map_len(s.ids);
    int rc = found ? read_journal(o, dir, s.after, &s, err) : 0;
    if (rc < 0) {
        log_error("requests that ran when the gateway was killed are not counted: its journal cannot be read", KVE(err), KVI("requests", found));
    } else if (found) {
        open_requests_walk(file, size, on_killed, &s);
        log_warn("requests that ran when the gateway was killed are counted", KVI("requests", s.settled));
    }
    map_free(s.ids);
    arena_free(s.arena);
    return rc;
}

/* ---- the file ---- */

/* A file of the size that is wanted is emptied where it lies: a full disk might not give its bytes again. */
static int empty(const char *path, int fd, size_t size, size_t wanted, struct err *err)
{
    if (size != wanted || posix_fallocate(fd, 0, (off_t)size) != 0)
        return ftruncate(fd, 0) < 0 ? err_sys(err, errno, "%s", path) : 0;
    char *file = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (file == MAP_FAILED)
        return err_sys(err, errno, "map %s", path);
    memset(file, 0, size);
    munmap(file, size);
    return 0;
}

static int settle_old(const struct open_requests *o, const char *path, const char *dir, int fd, size_t wanted, struct err *err)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return err_sys(err, errno, "%s", path);
    if (!st.st_size)
        return 0;
    char *file = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
    if (file == MAP_FAILED)
        return err_sys(err, errno, "map %s", path);
    int rc = recover(o, dir, file, (size_t)st.st_size, err);
    munmap(file, (size_t)st.st_size);
    if (rc < 0)
        return rc;
    if (journal_sequence(o->journal) < 0)
        return err_set(err, ERR_NO_SPACE, "%s stays as it is, as what it has waits for the disk", path);
    return empty(path, fd, (size_t)st.st_size, wanted, err);
}

/* Requests that cannot be counted do not keep this gateway from noting its own. */
static bool put_aside(const char *path)
{
    CLEANUP(mem_freep) char *aside = xasprintf("%s.uncounted", path);
    if (rename(path, aside) < 0)
        return false;
    log_error("what a killed gateway left was put aside, uncounted", KV("file", aside));
    return true;
}

static int map_file(struct open_requests *o, const char *path, const char *dir, size_t places, struct err *err)
{
    CLEANUP(file_closep) int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    o->size = lay_out(NULL, places, o->areas);
    int rc = fd < 0 ? err_sys(err, errno, "%s", path) : settle_old(o, path, dir, fd, o->size, err);
    if (rc < 0)
        return rc;
    int eno = posix_fallocate(fd, 0, (off_t)o->size); /* a store for which there is no room would kill us */
    if (eno)
        return err_sys(err, eno, "%s", path);
    o->map = mmap(NULL, o->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (o->map == MAP_FAILED) {
        o->map = NULL;
        return err_sys(err, errno, "map %s", path);
    }
    lay_out(o->map, places, o->areas);
    struct head *h = (struct head *)(void *)o->map;
    *h = (struct head){.layout = LAYOUT, .places = (uint32_t)places};
    memcpy(h->magic, MAGIC, sizeof(h->magic));
    return 0;
}

struct open_requests *open_requests_new(const char *path, const char *dir, struct journal *j, size_t places)
{
    struct open_requests *o = XNEW(struct open_requests);
    struct err err = ERR_INIT;
    *o = (struct open_requests){.journal = j};
    int rc = map_file(o, path, dir, MIN(places, (size_t)PLACES_MAX), &err);
    if ((rc == ERR_CORRUPT || rc == ERR_PROTOCOL) && places && put_aside(path))
        rc = map_file(o, path, dir, MIN(places, (size_t)PLACES_MAX), &err);
    if (rc < 0) {
        log_warn("requests that run when this gateway is killed will not be counted", KVE(&err));
        open_requests_free(o);
        return NULL;
    }
    for (struct area *a = o->areas; a < o->areas + SIZES; a++) {
        a->words = (a->count + 63) / 64;
        a->taken = xcalloc(a->words, sizeof(*a->taken));
        for (size_t i = a->count; i < a->words * 64; i++)
            a->taken[i / 64] |= 1ull << (i % 64);
    }
    return o;
}

void open_requests_free(struct open_requests *o)
{
    if (!o)
        return;
    if (o->map)
        munmap(o->map, o->size);
    for (int k = 0; k < SIZES; k++)
        mem_free(o->areas[k].taken);
    mem_free(o);
}

/* ---- places ---- */

static struct area *area_of(struct open_requests *o, const struct open_request *p)
{
    return &o->areas[(const char *)p < o->areas[LARGE].base ? SMALL : LARGE];
}

/* The lowest that is free: what is touched stays small. */
static struct open_request *take(struct area *a)
{
    for (size_t w = 0; w < a->words; w++) {
        uint64_t bits = atomic_load_explicit(&a->taken[w], memory_order_relaxed);
        while (bits != UINT64_MAX) {
            int bit = __builtin_ctzll(~bits);
            if (atomic_compare_exchange_weak(&a->taken[w], &bits, bits | 1ull << bit))
                return place_at(a, w * 64 + (size_t)bit);
        }
    }
    return NULL;
}

void open_request_begin(struct open_requests *o, struct open_request **place, const struct usage *u, const struct price *price, int64_t prompt_estimate)
{
    if (!o)
        return;
    size_t len = length_of(u);
    struct open_request *was = *place, *p = was;
    if (!was || len > room_of(area_of(o, was)->bytes))
        p = len > room_of(place_bytes[LARGE]) ? NULL : take(&o->areas[len > room_of(place_bytes[SMALL]) ? LARGE : SMALL]);
    if (p) {
        p->sequence = was ? was->sequence : journal_written(o->journal); /* its first attempt's */
        atomic_store(&p->state, FREE); /* while it is half written */
        write_place(p, u);
        p->estimate = prompt_estimate;
        p->has_price = price != NULL;
        if (price)
            p->price = *price;
        open_request_note(p, 0, false, 0, 0, 0);
        atomic_store(&p->state, TAKEN);
    }
    if (p != was)
        open_request_end(o, &was);
    *place = p;
}

void open_request_note(struct open_request *p, int64_t events, bool exact, int64_t prompt, int64_t cached, int64_t completion)
{
    if (!p)
        return;
    atomic_store_explicit(&p->events, events, memory_order_relaxed);
    atomic_store_explicit(&p->prompt, prompt, memory_order_relaxed);
    atomic_store_explicit(&p->cached, cached, memory_order_relaxed);
    atomic_store_explicit(&p->completion, completion, memory_order_relaxed);
    atomic_store_explicit(&p->noted_ms, clock_wall_ms(), memory_order_relaxed);
    atomic_store_explicit(&p->exact, exact, memory_order_release);
}

void open_request_end(struct open_requests *o, struct open_request **place)
{
    struct open_request *p = *place;
    if (!p)
        return;
    struct area *a = area_of(o, p);
    size_t i = (size_t)((char *)p - a->base) / a->bytes;
    *place = NULL;
    atomic_store(&p->state, FREE);
    atomic_fetch_and(&a->taken[i / 64], ~(1ull << (i % 64)));
}
