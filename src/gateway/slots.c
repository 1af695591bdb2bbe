#include "gateway/slots.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/map.h"
#include "base/mem.h"
#include "base/rnd.h"

#define MAGIC 0x31736c6f74736b73ull
#define MANY UINT64_MAX /* more than one tenant */
/* Bytes of the file that are locked; none of them is read or written for it. */
#define LOCK_INIT 1000000
#define LOCK_SLOT 2000000 /* and the slot's number */
#define LOCK_WARM 3000000 /* likewise: by a warm request */
#define LIKE_PART 8       /* of a prompt, one in so many blocks: less is not worth leaving the idle slot for */

struct record {
    _Atomic uint64_t tag;  /* of the tenant whose prompt is in it; 0: unknown */
    _Atomic uint64_t used_ms;
    _Atomic uint64_t dirty_ms; /* cold until then */
    _Atomic uint64_t busy;     /* still set under a free lock: whoever used it has died */
};

struct file {
    _Atomic uint64_t magic;
    uint8_t key[16];             /* tags are keyed hashes of tenants' names */
    _Atomic uint64_t only;       /* the tag of the one tenant that has used the engine; 0: none has; MANY */
    _Atomic uint64_t unpinned_ms; /* when an unpinned request was last sent, or ended; 0: none was */
    struct record slot[SLOTS_MAX];
};

struct slots {
    pthread_mutex_t lock;
    int fd;         /* -1: all is cold */
    struct file *f; /* NULL likewise */
    int warm;       /* requests of this process */
    struct {
        bool held;
        uint64_t *hashes; /* of what this process sent there last */
        size_t count;
    } at[SLOTS_MAX];
};

/* ---- the file ---- */

static bool set_lock(int fd, off_t at, short type)
{
    struct flock l = {.l_type = type, .l_whence = SEEK_SET, .l_start = at, .l_len = 1};
    return fcntl(fd, F_OFD_SETLK, &l) == 0;
}

/* Whether another process holds one of the bytes. */
static bool others_hold(int fd, off_t at, off_t len)
{
    struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = at, .l_len = len};
    return fcntl(fd, F_OFD_GETLK, &l) < 0 || l.l_type != F_UNLCK;
}

static bool is_ours(int fd)
{
    struct stat st;
    return fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_uid == geteuid() && !(st.st_mode & 077);
}

/* The clock is all processes' until the machine starts anew: times to come are from before that, and so are the engines that they tell of. */
static bool is_of_another_start(const struct file *f, uint64_t now_ms)
{
    bool is = atomic_load(&f->unpinned_ms) > now_ms;
    for (int i = 0; i < SLOTS_MAX; i++)
        is = is || atomic_load(&f->slot[i].used_ms) > now_ms;
    return is;
}

static void make_content(int fd, struct file *f, uint64_t now_ms)
{
    struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = LOCK_INIT, .l_len = 1};
    if (fcntl(fd, F_OFD_SETLKW, &l) < 0)
        return;
    if (atomic_load(&f->magic) != MAGIC || is_of_another_start(f, now_ms)) {
        memset(f, 0, sizeof(*f));
        rnd_bytes(f->key, sizeof(f->key));
        atomic_store(&f->magic, MAGIC);
    }
    set_lock(fd, LOCK_INIT, F_UNLCK);
}

static struct file *map_file(int fd, uint64_t now_ms)
{
    struct stat st;
    if (!is_ours(fd) || fstat(fd, &st) < 0 || (st.st_size < (off_t)sizeof(struct file) && ftruncate(fd, sizeof(struct file)) < 0))
        return NULL;
    struct file *f = mmap(NULL, sizeof(*f), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (f == MAP_FAILED)
        return NULL;
    make_content(fd, f, now_ms);
    if (atomic_load(&f->magic) == MAGIC)
        return f;
    munmap(f, sizeof(*f));
    return NULL;
}

struct slots *slots_new(const char *path, uint64_t now_ms)
{
    struct slots *s = XNEW(struct slots);
    pthread_mutex_init(&s->lock, NULL);
    s->fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0600);
    s->f = s->fd >= 0 ? map_file(s->fd, now_ms) : NULL;
    return s;
}

void slots_free(struct slots *s)
{
    if (!s)
        return;
    for (int i = 0; i < SLOTS_MAX; i++)
        mem_free(s->at[i].hashes);
    if (s->f)
        munmap(s->f, sizeof(*s->f));
    if (s->fd >= 0)
        close(s->fd);
    pthread_mutex_destroy(&s->lock);
    mem_free(s);
}

static uint64_t tag_of(const struct file *f, const char *tenant)
{
    uint64_t tag = siphash13(f->key, tenant, strlen(tenant));
    return tag && tag != MANY ? tag : 1;
}

/* ---- who else is there ---- */

static void note_tenant(struct file *f, uint64_t tag)
{
    uint64_t only = 0;
    if (!atomic_compare_exchange_strong(&f->only, &only, tag) && only != tag)
        atomic_store(&f->only, MANY);
}

/* An unpinned request may have run in this slot since the tenant used it, or may do so yet, and it may be another tenant's. */
static bool is_doubtful(const struct file *f, const struct record *r)
{
    uint64_t unpinned_ms = atomic_load(&f->unpinned_ms);
    return atomic_load(&f->only) == MANY && unpinned_ms && atomic_load(&r->used_ms) <= unpinned_ms + SLOTS_COLD_MS;
}

static bool is_dirty(const struct record *r, uint64_t now_ms)
{
    return now_ms < atomic_load(&r->dirty_ms);
}

/* ---- choosing ---- */

static size_t alike(const struct slots *s, int i, const uint64_t *hashes, size_t count)
{
    size_t n = 0;
    while (n < count && n < s->at[i].count && s->at[i].hashes[n] == hashes[n])
        n++;
    return n;
}

/* The best slot that is not among the tried; -1: none is left. */
static int best_of(const struct slots *s, int count, uint64_t tag, const uint64_t *hashes, size_t hash_count, const bool *tried)
{
    int best = -1;
    size_t best_alike = 0;
    for (int i = 0; i < count; i++) {
        if (s->at[i].held || tried[i])
            continue;
        size_t n = atomic_load(&s->f->slot[i].tag) == tag ? alike(s, i, hashes, hash_count) : 0;
        n = n * LIKE_PART < hash_count ? 0 : n;
        if (best < 0 || n > best_alike || (n == best_alike && atomic_load(&s->f->slot[i].used_ms) < atomic_load(&s->f->slot[best].used_ms))) {
            best = i;
            best_alike = n;
        }
    }
    return best;
}

static int take_slot(struct slots *s, int count, uint64_t tag, const uint64_t *hashes, size_t hash_count)
{
    bool tried[SLOTS_MAX] = {false};
    for (;;) {
        int i = best_of(s, MIN(count, SLOTS_MAX), tag, hashes, hash_count, tried);
        if (i < 0 || set_lock(s->fd, LOCK_SLOT + i, F_WRLCK))
            return i;
        tried[i] = true; /* another gateway uses it */
    }
}

static void remember(struct slots *s, int i, const uint64_t *hashes, size_t count)
{
    mem_free(s->at[i].hashes);
    s->at[i].hashes = NULL;
    s->at[i].count = count;
    if (!count)
        return;
    s->at[i].hashes = xcalloc(count, sizeof(*hashes));
    memcpy(s->at[i].hashes, hashes, count * sizeof(*hashes));
}

/* It is told first and asked then, as slots_unpinned_may_go() does the other way round: one of the two sees the other. */
static bool become_warm(struct slots *s, int i)
{
    s->warm++;
    if (set_lock(s->fd, LOCK_WARM + i, F_WRLCK) && !is_doubtful(s->f, &s->f->slot[i]))
        return true;
    s->warm--;
    set_lock(s->fd, LOCK_WARM + i, F_UNLCK);
    return false;
}

static void claim_slot(struct slots *s, int i, uint64_t tag, uint64_t now_ms, struct slots_claim *ret)
{
    struct record *r = &s->f->slot[i];
    if (atomic_exchange(&r->busy, 1)) { /* left by a process that died: who knows what the engine still does for it */
        atomic_store(&r->tag, 0);
        atomic_store(&r->dirty_ms, now_ms + SLOTS_DIRTY_MS);
    }
    ret->slot = i;
    ret->before = atomic_exchange(&r->tag, 0); /* a process that dies leaves it nobody's */
    ret->warm = ret->before == tag && !is_dirty(r, now_ms) && become_warm(s, i);
    s->at[i].held = true;
}

void slots_claim(struct slots *s, int count, const char *tenant, bool pinned, const uint64_t *hashes, size_t hash_count, uint64_t now_ms, struct slots_claim *ret)
{
    *ret = (struct slots_claim){.slot = -1};
    if (!s->f)
        return;
    uint64_t tag = tag_of(s->f, tenant);
    pthread_mutex_lock(&s->lock);
    note_tenant(s->f, tag);
    int i = pinned ? take_slot(s, count, tag, hashes, hash_count) : -1;
    if (i >= 0) {
        claim_slot(s, i, tag, now_ms, ret);
        remember(s, i, hashes, hash_count);
    } else { /* or there are more requests than slots: of several gateways, or of one whose engine has fewer now */
        ret->unpinned = true;
        atomic_store(&s->f->unpinned_ms, now_ms);
    }
    pthread_mutex_unlock(&s->lock);
}

static void end_warmth(struct slots *s, const struct slots_claim *c)
{
    if (!c->warm || c->begun)
        return;
    s->warm--;
    set_lock(s->fd, LOCK_WARM + c->slot, F_UNLCK);
}

void slots_begun(struct slots *s, struct slots_claim *c)
{
    if (!s->f || !c->warm || c->begun)
        return;
    pthread_mutex_lock(&s->lock);
    end_warmth(s, c);
    c->begun = true;
    pthread_mutex_unlock(&s->lock);
}

void slots_release(struct slots *s, const char *tenant, const struct slots_claim *c, enum slots_end how, uint64_t now_ms)
{
    if (!s->f)
        return;
    pthread_mutex_lock(&s->lock);
    if (c->unpinned) {
        atomic_store(&s->f->unpinned_ms, now_ms);
    } else {
        struct record *r = &s->f->slot[c->slot];
        uint64_t mine = tag_of(s->f, tenant);
        if (how == SLOTS_UNSURE)
            atomic_store(&r->dirty_ms, now_ms + SLOTS_DIRTY_MS);
        if (how == SLOTS_DONE || how == SLOTS_UNSURE) /* else what is there is as old as it was */
            atomic_store(&r->used_ms, now_ms);
        atomic_store(&r->tag, how == SLOTS_NOT_SENT ? c->before : is_dirty(r, now_ms) ? 0 : how == SLOTS_DONE || c->before == mine ? mine : 0);
        atomic_store(&r->busy, 0);
        s->at[c->slot].held = false;
        end_warmth(s, c);
        set_lock(s->fd, LOCK_SLOT + c->slot, F_UNLCK);
    }
    pthread_mutex_unlock(&s->lock);
}

bool slots_unpinned_may_go(struct slots *s, const char *tenant, uint64_t now_ms)
{
    if (!s->f)
        return true;
    pthread_mutex_lock(&s->lock);
    uint64_t tag = tag_of(s->f, tenant);
    note_tenant(s->f, tag);
    atomic_store(&s->f->unpinned_ms, now_ms);
    bool may = atomic_load(&s->f->only) == tag || (!s->warm && !others_hold(s->fd, LOCK_WARM, SLOTS_MAX));
    pthread_mutex_unlock(&s->lock);
    return may;
}
