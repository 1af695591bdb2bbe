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

#define PLACE_BYTES 2048
#define PLACES_MAX 65536u
#define MAGIC "SEKIOPEN"
#define LAYOUT 2

enum { FREE, TAKEN };

struct head {
    char magic[8];
    uint32_t layout, place_bytes;
};

struct open_request {
    _Atomic uint32_t state;
    uint32_t len; /* of bytes; more than there is room for: it does not fit */
    uint64_t sequence; /* the journal's when it began: its record comes behind that */
    int64_t estimate;  /* of the prompt */
    _Atomic int64_t events, prompt, cached, completion;
    _Atomic int64_t noted_ms; /* wall clock, of the last of them */
    _Atomic uint32_t exact;
    uint32_t has_price;
    struct price price;
    char bytes[]; /* the record as far as it is known: see "what a place has" */
};
#define BYTES_MAX (PLACE_BYTES - sizeof(struct open_request))

struct open_requests {
    struct journal *journal;
    char *map;
    size_t size, places, words;
    _Atomic uint64_t *taken; /* a bit a place */
};

static struct open_request *place_at(const struct open_requests *o, size_t i)
{
    return (struct open_request *)(void *)(o->map + (i + 1) * PLACE_BYTES);
}

/* ---- what a place has ----
 *
 * As it lies in memory: it is written once an attempt, on the path of every request, and read by the same build or not at all. Texts have two bytes of length before them. */

enum { TEXTS = 8 };

static void texts_of(struct usage *u, struct str *ret[TEXTS])
{
    struct str *texts[TEXTS] = {&u->id, &u->project, &u->tenant, &u->key, &u->endpoint, &u->model, &u->replica, &u->route};
    memcpy(ret, texts, sizeof(texts));
}

/* When there is no room, len is beyond the end from then on. */
static void put(struct open_request *p, size_t *len, const void *from, size_t n)
{
    if (*len > BYTES_MAX || n > BYTES_MAX - *len) {
        *len = BYTES_MAX + 1;
        return;
    }
    if (n)
        memcpy((char *)p + offsetof(struct open_request, bytes) + *len, from, n);
    *len += n;
}

static void put_text(struct open_request *p, size_t *len, struct str text)
{
    uint16_t n = (uint16_t)MIN(text.len, (size_t)UINT16_MAX);
    put(p, len, &n, sizeof(n));
    put(p, len, text.ptr, n);
}

/* False: it does not fit. */
static bool write_place(struct open_request *p, const struct usage *from)
{
    struct usage u = *from;
    struct str *texts[TEXTS];
    size_t len = 0;
    texts_of(&u, texts);
    for (int i = 0; i < TEXTS; i++)
        put_text(p, &len, *texts[i]);
    put(p, &len, (int64_t[]){u.stream, u.start_ms, (int64_t)u.work_count}, 3 * sizeof(int64_t));
    for (size_t i = 0; i < u.work_count; i++) {
        const struct usage_work *w = &u.work[i];
        put(p, &len, (int64_t[]){w->start_ms, w->end_ms, w->read, w->cached, w->written, w->exact, w->loser}, 7 * sizeof(int64_t));
        put_text(p, &len, w->replica);
    }
    p->len = (uint32_t)len;
    return len <= BYTES_MAX;
}

static bool get(const struct open_request *p, size_t *at, void *to, size_t n)
{
    if (p->len > BYTES_MAX || n > p->len - *at)
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

static bool get_work(const struct open_request *p, size_t *at, struct usage_work *w)
{
    int64_t n[7];
    if (!get(p, at, n, sizeof(n)) || !is_count(n[2]) || !is_count(n[3]) || !is_count(n[4]))
        return false;
    *w = (struct usage_work){.start_ms = n[0], .end_ms = n[1], .read = n[2], .cached = n[3], .written = n[4], .exact = n[5] == 1, .loser = n[6] == 1};
    return get_text(p, at, &w->replica);
}

/* False: none of ours has written that. Texts point into the place. */
static bool read_place(const struct open_request *p, struct usage *u, struct usage_work work[USAGE_WORK_MAX])
{
    struct str *texts[TEXTS];
    size_t at = 0;
    int64_t n[3];
    *u = (struct usage){.outcome = STR("killed"), .has_work = true, .ttft_ms = -1};
    if (atomic_load(&p->state) != TAKEN)
        return false;
    texts_of(u, texts);
    for (int i = 0; i < TEXTS; i++)
        if (!get_text(p, &at, texts[i]))
            return false;
    if (!get(p, &at, n, sizeof(n)) || n[2] < 1 || n[2] > USAGE_WORK_MAX)
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

static bool is_killed(const struct search *s, const struct usage *u)
{
    return map_get(s->ids, u->id) != NULL;
}

static size_t settle(const struct open_requests *o, const struct search *s)
{
    struct usage_work work[USAGE_WORK_MAX];
    struct usage u;
    size_t count = 0;
    for (size_t i = 0; i < o->places; i++) {
        struct open_request *p = place_at(o, i);
        if (!read_place(p, &u, work) || !is_killed(s, &u))
            continue;
        fill_counts(p, &u, work);
        u.status = u.stream && u.completion_tokens ? 200 : 0;
        u.duration_ms = MAX(work[u.work_count - 1].end_ms - u.start_ms, (int64_t)0);
        if (p->has_price && memchr(p->price.currency, 0, CURRENCY_MAX) && currency_valid(p->price.currency)) {
            u.cost = price_cost(&p->price, u.prompt_tokens, u.cached_tokens, u.completion_tokens);
            u.currency = str_of(p->price.currency);
        }
        journal_add(o->journal, &u);
        count++;
    }
    return count;
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

static void recover(const struct open_requests *o, const char *dir)
{
    struct search s = {map_new(NULL), arena_new(1024 * 1024)};
    struct usage_work work[USAGE_WORK_MAX];
    struct usage u;
    struct err err = ERR_INIT;
    uint64_t after = UINT64_MAX;
    for (size_t i = 0; i < o->places; i++) {
        struct open_request *p = place_at(o, i);
        if (!read_place(p, &u, work))
            continue;
        map_set(s.ids, u.id, p);
        after = MIN(after, p->sequence);
    }
    size_t found = map_len(s.ids);
    if (found && read_journal(o, dir, after, &s, &err) < 0)
        log_error("requests that ran when the gateway was killed are not counted: its journal cannot be read", KVE(&err), KVI("requests", found));
    else if (found)
        log_warn("requests that ran when the gateway was killed are counted", KVI("requests", settle(o, &s)));
    map_free(s.ids);
    arena_free(s.arena);
}

/* ---- the file ---- */

static bool is_ours(const struct open_requests *o)
{
    const struct head *h = (const struct head *)(const void *)o->map;
    return !memcmp(h->magic, MAGIC, sizeof(h->magic)) && h->layout == LAYOUT && h->place_bytes == PLACE_BYTES;
}

static int map_file(struct open_requests *o, const char *path, struct err *err)
{
    CLEANUP(file_closep) int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) < 0)
        return err_sys(err, errno, "%s", path);
    size_t had = (size_t)st.st_size / PLACE_BYTES;
    o->places = MAX(o->places, MIN(had ? had - 1 : 0, (size_t)PLACES_MAX)); /* it may have had more */
    o->size = (o->places + 1) * PLACE_BYTES;
    int eno = posix_fallocate(fd, 0, (off_t)o->size); /* a store for which there is no room would kill us */
    if (eno)
        return err_sys(err, eno, "%s", path);
    o->map = mmap(NULL, o->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (o->map == MAP_FAILED) {
        o->map = NULL;
        return err_sys(err, errno, "map %s", path);
    }
    return 0;
}

struct open_requests *open_requests_new(const char *path, const char *dir, struct journal *j, size_t places)
{
    struct open_requests *o = XNEW(struct open_requests);
    struct err err = ERR_INIT;
    *o = (struct open_requests){.journal = j, .places = MIN(places, (size_t)PLACES_MAX)};
    if (map_file(o, path, &err) < 0) {
        log_warn("requests that run when this gateway is killed will not be counted", KVE(&err));
        open_requests_free(o);
        return NULL;
    }
    if (is_ours(o))
        recover(o, dir);
    for (size_t i = 0; i < o->places; i++)
        if (atomic_load(&place_at(o, i)->state) != FREE)
            atomic_store(&place_at(o, i)->state, FREE);
    (void)!madvise(o->map, o->size, MADV_DONTNEED); /* what was only looked at need not stay in our memory */
    struct head *h = (struct head *)(void *)o->map;
    *h = (struct head){.layout = LAYOUT, .place_bytes = PLACE_BYTES};
    memcpy(h->magic, MAGIC, sizeof(h->magic));
    o->words = (o->places + 63) / 64;
    o->taken = xcalloc(o->words, sizeof(*o->taken));
    for (size_t i = o->places; i < o->words * 64; i++)
        o->taken[i / 64] |= 1ull << (i % 64);
    return o;
}

void open_requests_free(struct open_requests *o)
{
    if (!o)
        return;
    if (o->map)
        munmap(o->map, o->size);
    mem_free(o->taken);
    mem_free(o);
}

/* ---- places ---- */

/* The lowest that is free: what is touched stays small. */
static struct open_request *take(struct open_requests *o)
{
    for (size_t w = 0; w < o->words; w++) {
        uint64_t bits = atomic_load_explicit(&o->taken[w], memory_order_relaxed);
        while (bits != UINT64_MAX) {
            int bit = __builtin_ctzll(~bits);
            if (atomic_compare_exchange_weak(&o->taken[w], &bits, bits | 1ull << bit))
                return place_at(o, w * 64 + (size_t)bit);
        }
    }
    return NULL;
}

void open_request_begin(struct open_requests *o, struct open_request **place, const struct usage *u, const struct price *price, int64_t prompt_estimate)
{
    if (!o || (!*place && !(*place = take(o))))
        return;
    struct open_request *p = *place;
    if (atomic_load(&p->state) == FREE) /* not its second attempt */
        p->sequence = journal_written(o->journal);
    atomic_store(&p->state, FREE); /* while it is half written */
    if (!write_place(p, u))
        return;
    p->estimate = prompt_estimate;
    p->has_price = price != NULL;
    if (price)
        p->price = *price;
    open_request_note(p, 0, false, 0, 0, 0);
    atomic_store(&p->state, TAKEN);
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
    size_t i = ((size_t)((char *)p - o->map)) / PLACE_BYTES - 1;
    *place = NULL;
    atomic_store(&p->state, FREE);
    atomic_fetch_and(&o->taken[i / 64], ~(1ull << (i % 64)));
}
