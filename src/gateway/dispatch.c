#include "gateway/dispatch.h"

#include "base/clock.h"
#include "base/mem.h"

#define BLOCK_TOKENS (PREFIX_BLOCK_BYTES / 4)
#define SERVICE_FIRST_MS 2000 /* how long a request takes, while nothing is known */

struct dispatch {
    atomic_uint refs;
    pthread_mutex_t lock;
    struct queue queue;
    uint64_t service_ms; /* how long requests take, a moving mean */
    uint64_t turn;       /* of what was sent */
    size_t running;
    int64_t waiting_tokens, running_tokens;
    double slot_speed;   /* tokens a ms, a moving mean */
    uint64_t busy_ms;    /* when a request last came or ended */
    uint64_t cold_ms;    /* since when there is no replica */
    size_t slots;        /* of all replicas, when last asked */
    struct hedge_stats hedges;
    struct patience patience;
    uint64_t lines;
};

static atomic_size_t waiting;

size_t dispatch_waiting(void)
{
    return atomic_load(&waiting);
}

/* ---- the set ---- */

struct dispatch_set {
    struct map *by_name;
};

void dispatch_unref(struct dispatch *d)
{
    if (!d || atomic_fetch_sub(&d->refs, 1) != 1)
        return;
    queue_deinit(&d->queue);
    pthread_mutex_destroy(&d->lock);
    mem_free(d);
}

static void release(void *value)
{
    dispatch_unref(value);
}

struct dispatch_set *dispatch_set_new(void)
{
    struct dispatch_set *s = XNEW(struct dispatch_set);
    s->by_name = map_new(release);
    return s;
}

void dispatch_set_free(struct dispatch_set *s)
{
    if (!s)
        return;
    map_free(s->by_name);
    mem_free(s);
}

struct dispatch *dispatch_take(struct dispatch_set *s, const char *name)
{
    struct dispatch *d = map_getc(s->by_name, name);
    if (!d) {
        d = XNEW(struct dispatch);
        atomic_store(&d->refs, 1);
        pthread_mutex_init(&d->lock, NULL);
        queue_init(&d->queue);
        d->service_ms = SERVICE_FIRST_MS;
        d->busy_ms = clock_mono_ms();
        map_set(s->by_name, str_of(name), d);
    }
    atomic_fetch_add(&d->refs, 1);
    return d;
}

void dispatch_prune(struct dispatch_set *s)
{
    struct map_iter it = MAP_ITER_INIT;
    while (map_next(s->by_name, &it))
        if (atomic_load(&((struct dispatch *)it.value)->refs) == 1)
            map_del(s->by_name, it.key);
}

/* ---- inboxes ---- */

void dispatch_inbox_init(struct dispatch_inbox *i, struct loop *l)
{
    pthread_mutex_init(&i->lock, NULL);
    TAILQ_INIT(&i->sent);
    i->loop = l;
}

void dispatch_inbox_deinit(struct dispatch_inbox *i)
{
    pthread_mutex_destroy(&i->lock);
}

static struct ticket *open_one(struct dispatch_inbox *i)
{
    pthread_mutex_lock(&i->lock);
    struct ticket *t = TAILQ_FIRST(&i->sent);
    if (t) {
        TAILQ_REMOVE(&i->sent, t, link);
        t->holds = t->index != SIZE_MAX;
        t->state = t->holds ? TICKET_SENT : TICKET_IDLE;
    }
    pthread_mutex_unlock(&i->lock);
    return t;
}

static void deliver(void *arg)
{
    struct ticket *t;
    while ((t = open_one(arg)))
        t->on_sent(t);
}

/* To the loop that the ticket belongs to. */
static void tell(struct ticket *t)
{
    pthread_mutex_lock(&t->inbox->lock);
    bool first = TAILQ_EMPTY(&t->inbox->sent);
    t->state = TICKET_TOLD;
    TAILQ_INSERT_TAIL(&t->inbox->sent, t, link);
    pthread_mutex_unlock(&t->inbox->lock);
    if (first)
        loop_post(t->inbox->loop, deliver, t->inbox);
}

/* ---- under the lock ---- */

static struct target *target_of(const struct ticket *t)
{
    return t->endpoint->replicas[t->index].target;
}

static void claim_slot(struct ticket *t, uint64_t now_ms)
{
    const struct snap_replica *r = &t->endpoint->replicas[t->index];
    t->claimed = r->pins && t->slot != SLOT_NONE;
    t->reached = t->ran = t->ended = false;
    if (t->claimed)
        slots_claim(r->pins, r->slots, t->tenant, t->slot == SLOT_PINNED, t->wish.hashes, t->wish.hash_count, now_ms, &t->claim);
}

static void release_slot(struct ticket *t, uint64_t now_ms)
{
    if (t->claimed)
        slots_release(t->endpoint->replicas[t->index].pins, t->tenant, &t->claim, !t->reached ? SLOTS_NOT_SENT : t->ran ? SLOTS_DONE : t->ended ? SLOTS_REFUSED : SLOTS_UNSURE, now_ms);
    t->claimed = false;
}

static void begin_to_weigh(struct ticket *t)
{
    struct dispatch *d = t->endpoint->dispatch;
    t->weighs = t->entry.cost;
    d->running++;
    d->running_tokens += t->weighs;
}

static void cease_to_weigh(struct ticket *t, uint64_t now_ms)
{
    struct dispatch *d = t->endpoint->dispatch;
    d->busy_ms = now_ms;
    if (!t->weighs)
        return;
    d->running--;
    d->running_tokens -= t->weighs;
    t->weighs = 0;
}

static int64_t unread_of(const struct ticket *t, size_t cached)
{
    return MAX(t->prompt_tokens - (int64_t)cached * BLOCK_TOKENS, (int64_t)1);
}

/* It is read, or never will be. */
static void cease_to_read(struct ticket *t)
{
    if (t->unread)
        atomic_fetch_sub(&target_of(t)->unread, t->unread);
    t->unread = 0;
}

static void assign(struct ticket *t, size_t index, size_t cached, uint64_t now_ms)
{
    begin_to_weigh(t);
    t->index = index;
    t->cached = cached;
    t->sent_ms = now_ms;
    t->read_ms = 0;
    t->unread = unread_of(t, cached);
    atomic_fetch_add(&target_of(t)->unread, t->unread);
    t->tries = target_begin(target_of(t), now_ms);
    atomic_store(&target_of(t)->turn, ++t->endpoint->dispatch->turn);
    claim_slot(t, now_ms);
    if (t->wish.hash_count)
        target_cache(target_of(t), t->wish.hashes, t->wish.hash_count, &t->seen);
}

/* Those who wait are asked. */
struct round {
    uint64_t now_ms;
    struct patience_line line;
};

static bool rather_waits(struct ticket *t, size_t cached, uint64_t since_ms, struct round *r)
{
    const struct dispatch *d = t->endpoint->dispatch;
    return !t->again && r->now_ms < since_ms + t->patience_ms && patience_waits(&d->patience, t->endpoint, &t->wish, &t->home, &r->line, cached, d->service_ms, r->now_ms);
}

/* Tokens that the replica with room that is best has of a waiting prompt; below 0: it waits for another, or where it may go is no room. Who may go nowhere is to be told, and goes. */
static int64_t best_cached(void *arg, struct queue_entry *e)
{
    struct ticket *t = (struct ticket *)e;
    struct round *r = arg;
    size_t index, cached = 0;
    enum pick_result pick = pick_replica(t->endpoint, &t->wish, r->now_ms, &index, &cached);
    if (pick != PICK_ONE)
        return pick == PICK_FULL ? -1 : 0;
    return rather_waits(t, cached, t->since_ms, r) ? -1 : (int64_t)cached * BLOCK_TOKENS;
}

static struct queue_entry *next_to_go(struct dispatch *d, uint64_t now_ms)
{
    struct round r = {.now_ms = now_ms, .line.id = ++d->lines};
    return queue_next(&d->queue, best_cached, &r);
}

/* Whether there is room at all, or nothing left for the first one, who is to be told. Who may go where is asked in turn: one who may not go where room is holds up nobody. */
static bool is_room(const struct ticket *first, uint64_t now_ms)
{
    size_t index;
    struct pick_wish its = {.tried = first->wish.tried, .barred = first->wish.barred};
    return pick_replica(first->endpoint, &(struct pick_wish){0}, now_ms, &index, NULL) != PICK_FULL || pick_replica(first->endpoint, &its, now_ms, &index, NULL) == PICK_NONE;
}

static void send_who_can_be_sent(struct dispatch *d, uint64_t now_ms)
{
    struct queue_entry *e;
    size_t index, cached = 0;
    while ((e = queue_peek(&d->queue)) && is_room((struct ticket *)e, now_ms) && (e = next_to_go(d, now_ms))) {
        struct ticket *t = (struct ticket *)e;
        enum pick_result r = pick_replica(t->endpoint, &t->wish, now_ms, &index, &cached);
        if (r == PICK_FULL)
            return;
        queue_take(&d->queue, e);
        d->waiting_tokens -= e->cost;
        atomic_fetch_sub(&waiting, 1);
        if (r == PICK_ONE)
            assign(t, index, cached, now_ms);
        else
            t->index = SIZE_MAX;
        tell(t);
    }
}

static size_t slots_of(const struct snap_endpoint *e)
{
    size_t n = 0;
    for (size_t i = 0; i < e->replica_count; i++)
        n += (size_t)e->replicas[i].slots;
    return n ? n : 1;
}

static int64_t cost_of(const struct ticket *t, size_t cached)
{
    return unread_of(t, cached) + t->answer_tokens;
}

enum dispatch_result dispatch_ask(struct ticket *t, size_t max_waiting, uint64_t *ret_retry_ms)
{
    struct dispatch *d = t->endpoint->dispatch;
    uint64_t now_ms = clock_mono_ms();
    size_t index, cached = 0;
    enum dispatch_result result = DISPATCH_WAITS;
    pthread_mutex_lock(&d->lock);
    d->busy_ms = now_ms;
    d->slots = slots_of(t->endpoint);
    t->wish.tokens = t->prompt_tokens;
    t->home = (struct patience_home){0};
    enum pick_result r = pick_replica(t->endpoint, &t->wish, now_ms, &index, &cached);
    t->entry.cost = cost_of(t, cached);
    bool has_place = (d->queue.len ? queue_len_of(&d->queue, t->tenant) : 0) < max_waiting;
    if (!has_place)
        t->patience_ms = 0; /* it goes where room is, and waits for none that it would rather have */
    if (r == PICK_NONE) {
        result = DISPATCH_NONE;
    } else if (r == PICK_ONE && !d->queue.len && !rather_waits(t, cached, now_ms, &(struct round){.now_ms = now_ms, .line.id = ++d->lines})) {
        assign(t, index, cached, now_ms);
        t->state = TICKET_SENT;
        t->holds = true;
        result = DISPATCH_SENT;
    } else if (!t->again && r == PICK_FULL && !has_place) {
        *ret_retry_ms = MAX(d->queue.len * d->service_ms / slots_of(t->endpoint), (uint64_t)1000);
        result = DISPATCH_FULL;
    } else {
        t->since_ms = now_ms;
        t->state = TICKET_WAITS;
        queue_add(&d->queue, t->tenant, &t->entry, t->again);
        d->waiting_tokens += t->entry.cost;
        atomic_fetch_add(&waiting, 1);
        send_who_can_be_sent(d, now_ms);
    }
    pthread_mutex_unlock(&d->lock);
    return result;
}

bool dispatch_try(struct ticket *t)
{
    struct dispatch *d = t->endpoint->dispatch;
    uint64_t now_ms = clock_mono_ms();
    size_t index, cached = 0;
    pthread_mutex_lock(&d->lock);
    t->wish.tokens = t->prompt_tokens;
    bool room = !d->queue.len && pick_replica(t->endpoint, &t->wish, now_ms, &index, &cached) == PICK_ONE && !target_rests(t->endpoint->replicas[index].target, now_ms);
    if (room) {
        t->entry.cost = cost_of(t, cached);
        assign(t, index, cached, now_ms);
        t->state = TICKET_SENT;
        t->holds = true;
    }
    pthread_mutex_unlock(&d->lock);
    return room;
}

struct hedge_stats *dispatch_hedges(struct dispatch *d)
{
    return &d->hedges;
}

void dispatch_read(struct ticket *t)
{
    if (t->unread >= PATIENCE_LEARN_TOKENS)
        t->read_ms = MAX(clock_mono_ms() - t->sent_ms, (uint64_t)1);
    cease_to_read(t);
}

void dispatch_learn(const struct ticket *t, size_t bytes, int64_t cached_tokens, int64_t prompt_tokens)
{
    if (t->read_ms) {
        struct dispatch *d = t->endpoint->dispatch;
        pthread_mutex_lock(&d->lock);
        patience_learn(&d->patience, prompt_tokens - cached_tokens, t->read_ms);
        pthread_mutex_unlock(&d->lock);
    }
    if (t->wish.hash_count && t->index < t->endpoint->replica_count && prompt_tokens > 0)
        target_learn(target_of(t), &t->seen, (size_t)((double)bytes / PREFIX_BLOCK_BYTES * (double)MIN(cached_tokens, prompt_tokens) / (double)prompt_tokens + 0.5));
}

bool dispatch_done(struct ticket *t, enum target_outcome outcome, uint64_t busy_ms)
{
    struct dispatch *d = t->endpoint->dispatch;
    uint64_t now_ms = clock_mono_ms();
    t->holds = false;
    pthread_mutex_lock(&d->lock);
    t->state = TICKET_IDLE;
    release_slot(t, now_ms);
    cease_to_read(t);
    cease_to_weigh(t, now_ms);
    bool aside = target_end(target_of(t), t->tries, outcome, busy_ms, now_ms);
    if (aside)
        target_forget(target_of(t));
    if (outcome == TARGET_OK)
        d->service_ms = (d->service_ms * 15 + (now_ms - t->sent_ms)) / 16;
    send_who_can_be_sent(d, now_ms);
    pthread_mutex_unlock(&d->lock);
    return aside;
}

/* Takes it out of wherever it is. True: a replica counts it. */
static bool take_out(struct ticket *t)
{
    bool sent = t->state == TICKET_SENT;
    if (t->state == TICKET_WAITS) {
        queue_remove(&t->endpoint->dispatch->queue, &t->entry);
        t->endpoint->dispatch->waiting_tokens -= t->entry.cost;
        atomic_fetch_sub(&waiting, 1);
    }
    if (t->state == TICKET_TOLD) {
        pthread_mutex_lock(&t->inbox->lock);
        TAILQ_REMOVE(&t->inbox->sent, t, link);
        pthread_mutex_unlock(&t->inbox->lock);
        sent = t->index != SIZE_MAX;
    }
    t->state = TICKET_IDLE;
    return sent;
}

/* One slot among few that are taken is quicker than it will be among many: only what is measured near the load that matters counts. */
static void learn_speed(struct dispatch *d, int64_t tokens, uint64_t ms)
{
    if (tokens <= 0 || !ms || (d->slot_speed > 0 && (d->running + 1) * 2 < d->slots))
        return;
    double speed = (double)tokens / (double)ms;
    d->slot_speed = d->slot_speed > 0 ? (d->slot_speed * 15 + speed) / 16 : speed;
}

void dispatch_end(struct ticket *t, int64_t used_tokens)
{
    if (!t->endpoint)
        return;
    struct dispatch *d = t->endpoint->dispatch;
    uint64_t now_ms = clock_mono_ms();
    pthread_mutex_lock(&d->lock);
    bool counted = t->sent_ms != 0;
    if (take_out(t)) {
        release_slot(t, now_ms);
        cease_to_read(t);
        target_end(target_of(t), t->tries, TARGET_NEITHER, 0, now_ms);
    }
    if (counted)
        learn_speed(d, used_tokens, now_ms - t->sent_ms);
    cease_to_weigh(t, now_ms);
    if (counted)
        queue_settle(&d->queue, t->tenant, t->entry.class, t->entry.paid_by, used_tokens - t->entry.cost);
    send_who_can_be_sent(d, now_ms);
    pthread_mutex_unlock(&d->lock);
}

/* The same replicas as numbers of e: by name and address, as an engine that came in another's place was not tried. */
static uint64_t tried_there(const struct ticket *t, const struct snap_endpoint *e)
{
    uint64_t there = 0;
    for (size_t i = 0; i < t->endpoint->replica_count && t->wish.tried >> i; i++)
        for (size_t j = 0; (t->wish.tried & (1ull << i)) && j < e->replica_count; j++) {
            const struct snap_replica *was = &t->endpoint->replicas[i], *is = &e->replicas[j];
            if (is->target == was->target && !strcmp(is->full_name, was->full_name))
                there |= 1ull << j;
        }
    return there;
}

bool dispatch_move(struct ticket *t, const struct snap_endpoint *e, uint64_t barred)
{
    struct dispatch *d = t->endpoint->dispatch;
    pthread_mutex_lock(&d->lock);
    bool moves = (t->state == TICKET_WAITS || t->state == TICKET_IDLE) && e->dispatch == d;
    if (moves) {
        t->wish.tried = e == t->endpoint ? t->wish.tried : tried_there(t, e);
        t->endpoint = e;
        t->wish.barred = barred;
        t->home = (struct patience_home){0};
    }
    pthread_mutex_unlock(&d->lock);
    return moves;
}

void dispatch_since(struct ticket *t, uint64_t ms)
{
    struct dispatch *d = t->endpoint->dispatch;
    pthread_mutex_lock(&d->lock);
    t->since_ms = ms;
    pthread_mutex_unlock(&d->lock);
}

void dispatch_kick(struct dispatch *d)
{
    pthread_mutex_lock(&d->lock);
    send_who_can_be_sent(d, clock_mono_ms());
    pthread_mutex_unlock(&d->lock);
}

/* ---- how much is asked ---- */

void dispatch_load(struct dispatch *d, struct dispatch_load *ret)
{
    uint64_t now_ms = clock_mono_ms();
    pthread_mutex_lock(&d->lock);
    bool busy = d->queue.len || d->running;
    *ret = (struct dispatch_load){.waiting = d->queue.len, .running = d->running, .waiting_tokens = d->waiting_tokens, .running_tokens = d->running_tokens,
                                  .slot_per_minute = (int64_t)(d->slot_speed * 60000), .idle_ms = busy ? 0 : (int64_t)(now_ms - MIN(d->busy_ms, now_ms))};
    pthread_mutex_unlock(&d->lock);
}

size_t dispatch_waiting_at(struct dispatch *d)
{
    pthread_mutex_lock(&d->lock);
    size_t n = d->queue.len;
    pthread_mutex_unlock(&d->lock);
    return n;
}

uint64_t dispatch_turn_ms(struct dispatch *d)
{
    pthread_mutex_lock(&d->lock);
    uint64_t ms = d->queue.len * d->service_ms / MAX(d->slots, (size_t)1);
    pthread_mutex_unlock(&d->lock);
    return ms;
}

void dispatch_cold_begin(struct dispatch *d, uint64_t now_ms)
{
    pthread_mutex_lock(&d->lock);
    d->cold_ms = d->cold_ms ? d->cold_ms : now_ms;
    d->busy_ms = now_ms;
    pthread_mutex_unlock(&d->lock);
}

void dispatch_cold_end(struct dispatch *d)
{
    pthread_mutex_lock(&d->lock);
    d->cold_ms = 0;
    pthread_mutex_unlock(&d->lock);
}

uint64_t dispatch_cold_since(struct dispatch *d)
{
    pthread_mutex_lock(&d->lock);
    uint64_t ms = d->cold_ms;
    pthread_mutex_unlock(&d->lock);
    return ms;
}
