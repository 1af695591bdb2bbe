#include "billing/bank.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/map.h"
#include "base/mem.h"
#include "base/metrics.h"
#include "base/vec.h"
#include "billing/budget_gauges.h"
#include "billing/shares.h"
#include "ledger/price.h"

#define LINGER_MS (15 * 60 * 1000u) /* a request may run that long behind its gateway's lease */
#define WANTS_MS 3000u              /* so long others give back what a gateway could not get */
#define GATEWAYS_MAX 256
#define FILE_MAX (16u << 20)
#define FILE_VERSION 1
#define NAME_BYTES 1024
#define SLICE 4 /* of what is free, the part that a gateway gets at a time */

/* What a gateway has of one budget. */
struct lease {
    int64_t number, outstanding, left, durable;
    uint64_t wants_ms; /* when it last got nothing; 0: never */
};
struct gateway {
    char *name, *incarnation;
    int64_t turn;
    uint64_t heard_ms;
    struct map *leases;
    char *last_journal, *last_id; /* it has left: when the ledger has this record, nothing of it is outstanding. NULL: it has not */
    uint64_t last_sequence;
};
struct journal {
    char id[64];
    uint64_t sequence;
};
struct sum {
    int64_t micros;
};

struct bank {
    pthread_mutex_t lock;
    char *file;
    uint64_t lease_ms, began_ms, blind_until_ms;
    struct map *sums;     /* "scope|project|owner|period|number|currency" → struct sum */
    struct map *journals; /* name → struct journal */
    VEC(struct gateway *) gateways;
    struct shares *shares; /* of rates */
    struct budget_gauges *gauges;
    struct metric *refused;
    bool dirty;
};

static void gateway_free(struct gateway *g)
{
    map_free(g->leases);
    mem_free(g->name);
    mem_free(g->incarnation);
    mem_free(g->last_journal);
    mem_free(g->last_id);
    mem_free(g);
}

static struct gateway *add_gateway(struct bank *b, const char *name, const char *incarnation)
{
    struct gateway *g = XNEW(struct gateway);
    *g = (struct gateway){.name = xstrdup(name), .incarnation = xstrdup(incarnation), .heard_ms = clock_mono_ms(), .turn = -1, .leases = map_new(mem_free)};
    *VEC_PUSH(&b->gateways) = g;
    return g;
}

static struct lease *lease_of(struct gateway *g, const char *name)
{
    struct lease *l = map_getc(g->leases, name);
    if (!l) {
        l = XNEW(struct lease);
        map_set(g->leases, str_of(name), l);
    }
    return l;
}

/* ---- the file ---- */

static int write_file(struct bank *b, struct err *err)
{
    CLEANUP(sbuf_deinit) struct sbuf text = {0};
    JSON_AUTO gateways = json_array();
    VEC_FOREACH (&b->gateways, at) {
        json_t *leases = json_array();
        struct map_iter it = MAP_ITER_INIT;
        while (map_next((*at)->leases, &it)) {
            struct lease *l = it.value;
            l->durable = l->outstanding;
            if (l->outstanding)
                json_array_append_new(leases, json_pack("{s:s%, s:I, s:I}", "budget", it.key.ptr, it.key.len, "number", (json_int_t)l->number, "outstanding", (json_int_t)l->outstanding));
        }
        json_array_append_new(gateways, json_pack("{s:s, s:s, s:o}", "name", (*at)->name, "incarnation", (*at)->incarnation, "leases", leases));
    }
    JSON_AUTO doc = json_pack("{s:i, s:O}", "version", FILE_VERSION, "gateways", gateways);
    sbuf_init(&text, FILE_MAX);
    json_write(doc, &text);
    if (!sbuf_ok(&text))
        return err_set(err, ERR_TOO_LARGE, "leases of budgets take more than %u MiB", FILE_MAX >> 20);
    return file_write(b->file, sbuf_str(&text), 0600, err);
}

int bank_read(struct bank *b, struct str text, struct err *err)
{
    JSON_AUTO doc = NULL;
    size_t i, k;
    json_t *g, *l;
    int rc = json_parse(text, FILE_MAX, &doc, err);
    if (rc == 0 && (json_int(doc, "version", 0) != FILE_VERSION || !json_is_array(json_object_get(doc, "gateways"))))
        rc = err_set(err, ERR_INVALID, "%s: expected version %d", b->file, FILE_VERSION);
    if (rc < 0)
        return rc;
    json_array_foreach (json_object_get(doc, "gateways"), i, g) {
        struct gateway *gateway = add_gateway(b, json_str_or(g, "name", "?"), json_str_or(g, "incarnation", "?"));
        json_array_foreach (json_object_get(g, "leases"), k, l) {
            struct lease *lease = lease_of(gateway, json_str_or(l, "budget", "?"));
            *lease = (struct lease){.number = json_int(l, "number", 0), .outstanding = MAX(json_int(l, "outstanding", 0), (int64_t)0)};
            lease->durable = lease->outstanding;
        }
    }
    return 0;
}

static int read_file(struct bank *b, struct err *err)
{
    CLEANUP(mem_freep) char *text = NULL;
    size_t len = 0;
    int rc = file_read(b->file, FILE_MAX, &text, &len, err);
    return rc == ERR_NOT_FOUND ? 0 : rc < 0 ? rc : bank_read(b, str_n(text, len), err);
}

struct bank *bank_new(const char *file, uint64_t lease_ms)
{
    struct bank *b = XNEW(struct bank);
    struct err err = ERR_INIT;
    *b = (struct bank){.file = xstrdup(file), .lease_ms = lease_ms, .began_ms = clock_mono_ms(), .sums = map_new(mem_free), .journals = map_new(mem_free)};
    pthread_mutex_init(&b->lock, NULL);
    b->shares = shares_new(lease_ms, b->began_ms, clock_wall_ms());
    b->gauges = budget_gauges_new();
    b->refused = metric_counter("seki_budget_grants_refused_total", "Times that a gateway wanted more of a budget than there was.");
    int rc = read_file(b, &err);
    VEC_FOREACH (&b->gateways, g)
        shares_expect(b->shares, (*g)->name, b->began_ms);
    if (rc < 0) {
        b->blind_until_ms = b->began_ms + lease_ms + LINGER_MS;
        log_error("outstanding leases of budgets cannot be read: nothing is granted until they are over", KV("file", b->file), KVI("milliseconds", lease_ms + LINGER_MS), KVE(&err));
    }
    return b;
}

void bank_free(struct bank *b)
{
    if (!b)
        return;
    VEC_FOREACH (&b->gateways, g)
        gateway_free(*g);
    VEC_DEINIT(&b->gateways);
    shares_free(b->shares);
    budget_gauges_free(b->gauges);
    map_free(b->sums);
    map_free(b->journals);
    pthread_mutex_destroy(&b->lock);
    mem_free(b->file);
    mem_free(b);
}

/* ---- what was used ---- */

static void sum_name(char name[NAME_BYTES], const char *scope, struct str project, struct str owner, enum budget_period p, int64_t number, struct str currency)
{
    bool key = !strcmp(scope, "key"), tenant = !strcmp(scope, "tenant");
    snprintf(name, NAME_BYTES, "%s|%.*s|%.*s|%s|%lld|%.*s", scope, STR_ARG(tenant ? STR("") : project), STR_ARG(key || tenant ? owner : STR("")), budget_period_text(p), (long long)number,
             STR_ARG(currency));
}

/* Days and months that are over are of no more use: whoever asks, asks about now. */
static void forget_old(struct bank *b)
{
    struct map_iter it = MAP_ITER_INIT;
    int64_t now = clock_wall_ms();
    while (map_next(b->sums, &it)) {
        char text[NAME_BYTES];
        struct str rest = it.key, part[6] = {STR_NULL};
        for (size_t i = 0; i < ARRAY_LEN(part) && str_cut(&rest, '|', &part[i]); i++)
            ;
        int64_t number;
        if (!str_to_array(part[3], text, sizeof(text)) || str_to_i64(part[4], INT64_MIN, INT64_MAX, &number) < 0)
            continue;
        if (number + 1 < budget_period_number(budget_period_of(text), now))
            map_del(b->sums, it.key);
    }
}

static void add_sum(struct bank *b, const char *scope, const struct usage *u, struct str owner, enum budget_period p)
{
    char name[NAME_BYTES];
    int64_t number = budget_period_number(p, u->start_ms);
    if (number + 1 < budget_period_number(p, clock_wall_ms()))
        return;
    sum_name(name, scope, u->project, owner, p, number, u->currency);
    struct sum *s = map_getc(b->sums, name);
    if (!s) {
        if (map_len(b->sums) % 4096 == 4095)
            forget_old(b);
        s = XNEW(struct sum);
        map_set(b->sums, str_of(name), s);
    }
    s->micros = amount_add(s->micros, u->cost);
}

void bank_count(struct bank *b, const struct usage *u)
{
    if (!u->cost || !u->currency.len)
        return;
    pthread_mutex_lock(&b->lock);
    for (int p = 0; p < BUDGET_PERIODS; p++) {
        add_sum(b, "key", u, u->key, (enum budget_period)p);
        add_sum(b, "project", u, STR(""), (enum budget_period)p);
        add_sum(b, "tenant", u, u->tenant, (enum budget_period)p);
    }
    pthread_mutex_unlock(&b->lock);
}

/* Those who have left and whose last record is there. */
static void forget_left(struct bank *b)
{
    struct err err = ERR_INIT;
    bool any = false;
    for (size_t i = b->gateways.len; i-- > 0;) {
        struct gateway *g = b->gateways.ptr[i];
        const struct journal *j = g->last_journal ? map_getc(b->journals, g->last_journal) : NULL;
        if (!g->last_journal || (g->last_sequence && (!j || strcmp(j->id, g->last_id) != 0 || j->sequence < g->last_sequence)))
            continue;
        log_info("a gateway has left, and given back what it held of budgets", KV("gateway", g->name));
        gateway_free(g);
        VEC_REMOVE(&b->gateways, i);
        any = true;
    }
    if (any && write_file(b, &err) < 0)
        log_warn("leases of budgets cannot be written", KVE(&err));
}

void bank_collected(struct bank *b, const char *journal, const char *id, uint64_t sequence)
{
    pthread_mutex_lock(&b->lock);
    struct journal *j = map_getc(b->journals, journal);
    if (!j) {
        j = XNEW(struct journal);
        map_set(b->journals, str_of(journal), j);
    }
    snprintf(j->id, sizeof(j->id), "%s", id);
    j->sequence = sequence;
    forget_left(b);
    pthread_mutex_unlock(&b->lock);
}

/* Whether the ledger has all that the gateway no longer holds. */
static bool has_come(const struct bank *b, const json_t *ask)
{
    const struct journal *j = map_getc(b->journals, json_str_or(ask, "journal", ""));
    int64_t sequence = json_int(ask, "sequence", -1);
    if (!sequence)
        return true;
    return j && sequence > 0 && !strcmp(j->id, json_str_or(ask, "journalID", "")) && j->sequence >= (uint64_t)sequence;
}

/* ---- gateways ---- */

static bool is_live(const struct bank *b, const struct gateway *g)
{
    return clock_mono_ms() < g->heard_ms + b->lease_ms;
}

/* Those who have been silent for so long that nothing of them is left. */
static void forget_gone(struct bank *b)
{
    for (size_t i = b->gateways.len; i-- > 0;) {
        struct gateway *g = b->gateways.ptr[i];
        if (clock_mono_ms() < g->heard_ms + b->lease_ms + LINGER_MS)
            continue;
        log_warn("a gateway is gone, and what it held of budgets with it", KV("gateway", g->name));
        gateway_free(g);
        VEC_REMOVE(&b->gateways, i);
        b->dirty = true;
    }
}

static int find_gateway(struct bank *b, const json_t *ask, struct gateway **ret, struct err *err)
{
    const char *name = json_str_or(ask, "gateway", ""), *incarnation = json_str_or(ask, "incarnation", "");
    int64_t turn = json_int(ask, "turn", 0);
    struct gateway *g = NULL;
    VEC_FOREACH (&b->gateways, at)
        if (!strcmp((*at)->name, name))
            g = *at;
    if (!g && b->gateways.len >= GATEWAYS_MAX)
        return err_set(err, ERR_TOO_MANY, "there are %d gateways already", GATEWAYS_MAX);
    if (!g) {
        g = add_gateway(b, name, incarnation);
        b->dirty = true;
        log_info("a gateway leases budgets", KV("gateway", name));
    }
    if (strcmp(g->incarnation, incarnation) != 0) {
        mem_free(g->incarnation);
        g->incarnation = xstrdup(incarnation);
        g->turn = -1;
        b->dirty = true;
    } else if (turn <= g->turn) {
        return err_set(err, ERR_CONFLICT, "an older question of the gateway");
    }
    mem_free(g->last_journal);
    mem_free(g->last_id);
    g->last_journal = g->last_id = NULL;
    g->turn = turn;
    g->heard_ms = clock_mono_ms();
    *ret = g;
    return 0;
}

/* ---- money ---- */

static void settle_held(struct gateway *g, const json_t *asked, bool complete)
{
    struct map_iter it = MAP_ITER_INIT;
    size_t i;
    json_t *q;
    while (complete && map_next(g->leases, &it))
        ((struct lease *)it.value)->outstanding = ((struct lease *)it.value)->left = 0;
    json_array_foreach (asked, i, q) {
        struct lease *l = lease_of(g, json_str_or(q, "name", "?"));
        int64_t held = MAX(json_int(q, "held", 0), (int64_t)0), number = json_int(q, "number", 0);
        l->outstanding = complete || l->number != number ? held : MAX(l->outstanding, held);
        l->number = number;
        l->left = json_int(q, "left", 0);
    }
}

/* What others hold of a budget. */
struct others {
    int64_t outstanding, left;
    bool want;
};
static struct others others_of(const struct bank *b, const struct gateway *me, const char *name, int64_t number)
{
    struct others o = {0};
    VEC_FOREACH (&b->gateways, at) {
        const struct lease *l = *at == me ? NULL : map_getc((*at)->leases, name);
        if (!l || l->number != number)
            continue;
        o.outstanding = amount_add(o.outstanding, l->outstanding);
        if (is_live(b, *at) && l->left > 0)
            o.left = amount_add(o.left, l->left);
        o.want |= is_live(b, *at) && l->wants_ms && clock_mono_ms() < l->wants_ms + WANTS_MS;
    }
    return o;
}

static json_t *answer_budget(struct bank *b, struct gateway *g, const json_t *q, bool may_grant)
{
    char sum[NAME_BYTES];
    const char *name = json_str_or(q, "name", "?");
    struct lease *l = lease_of(g, name);
    struct others o = others_of(b, g, name, l->number);
    sum_name(sum, json_str_or(q, "scope", ""), str_of(json_str_or(q, "project", "")), str_of(json_str_or(q, "owner", "")), budget_period_of(json_str_or(q, "period", "")), l->number,
             str_of(json_str_or(q, "currency", "")));
    const struct sum *s = map_getc(b->sums, sum);
    int64_t used = s ? s->micros : 0, free = amount_add(amount_add(amount_add(json_int(q, "amount", 0), -used), -l->outstanding), -o.outstanding), grant = 0;
    budget_gauges_see(b->gauges, q, used, clock_mono_ms());
    int64_t need = json_int(q, "need", -1), least = amount_add(json_int(q, "needLeast", 0), -l->left);
    if (need >= 0) {
        need = amount_add(need, -l->left);
        if (may_grant && free > 0 && least <= free)
            grant = MIN(free, MAX(need, free / SLICE));
        l->wants_ms = least > grant ? clock_mono_ms() : 0;
        if (l->wants_ms)
            metric_add(b->refused, 1);
    }
    l->outstanding += grant;
    l->left += grant;
    b->dirty |= l->outstanding > l->durable;
    return json_pack("{s:s, s:I, s:I, s:I, s:b, s:b}", "name", name, "grant", (json_int_t)grant, "free", (json_int_t)MAX(free - grant, (int64_t)0), "used", (json_int_t)used, "final",
                     may_grant && o.left <= 0, "recall", l->left > 0 && ((o.want && !l->wants_ms) || free < 0));
}

/* ---- answers ---- */

/* What it still holds is in records that may be on their way. */
static int part(struct bank *b, struct gateway *g, const json_t *ask, json_t **ret, bool *ret_behind)
{
    shares_leave(b->shares, g->name);
    int64_t sequence = json_int(ask, "sequence", -1);
    *ret = json_pack("{s:I}", "leaseMilliseconds", (json_int_t)b->lease_ms);
    if (sequence < 0)
        return 0; /* nobody knows which: it goes as who is silent */
    g->last_journal = xstrdup(json_str_or(ask, "journal", ""));
    g->last_id = xstrdup(json_str_or(ask, "journalID", ""));
    g->last_sequence = (uint64_t)sequence;
    *ret_behind = true;
    forget_left(b);
    return 0;
}

static int answer(struct bank *b, const json_t *ask, json_t **ret, bool *ret_behind, struct err *err)
{
    struct gateway *g = NULL;
    size_t i;
    json_t *q, *asked = json_object_get(ask, "budgets");
    JSON_AUTO budgets = json_array();
    bool come = has_come(b, ask), blind = clock_mono_ms() < b->blind_until_ms;
    forget_gone(b);
    int rc = find_gateway(b, ask, &g, err);
    if (rc < 0)
        return rc;
    if (json_flag(ask, "leaving", false))
        return part(b, g, ask, ret, ret_behind);
    settle_held(g, asked, come);
    json_array_foreach (asked, i, q)
        json_array_append_new(budgets, answer_budget(b, g, q, come && !blind));
    if (b->dirty && (rc = write_file(b, err)) < 0)
        return rc; /* what was granted stays outstanding until the gateway says again what it holds */
    b->dirty = false;
    *ret_behind = !come;
    *ret = json_pack("{s:I, s:O}", "leaseMilliseconds", (json_int_t)b->lease_ms, "budgets", budgets);
    shares_answer(b->shares, g->name, g->incarnation, ask, clock_mono_ms(), *ret);
    return 0;
}

void bank_awake(struct bank *b)
{
    pthread_mutex_lock(&b->lock);
    shares_awake(b->shares, clock_mono_ms());
    budget_gauges_look(b->gauges, clock_wall_ms(), clock_mono_ms());
    pthread_mutex_unlock(&b->lock);
}

int bank_lease(struct bank *b, const json_t *ask, json_t **ret, bool *ret_behind, struct err *err)
{
    pthread_mutex_lock(&b->lock);
    int rc = answer(b, ask, ret, ret_behind, err);
    pthread_mutex_unlock(&b->lock);
    return rc;
}
