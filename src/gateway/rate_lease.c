#include "gateway/rate_lease.h"

#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/metrics.h"
#include "base/vec.h"
#include "gateway/share_file.h"

#define ITEMS_MAX 2000 /* of a question */
#define VERDICT_NS 1000000000ull

struct item {
    struct limit_counter *counter;
    enum limit_unit unit;
    bool waited_for;
};
struct rate_lease {
    struct limit_set *set;
    int64_t epoch, parts;
    bool settled, heard, moved; /* moved: the file does not say it yet */
    bool left;                  /* the one before gave all back, and control has not answered this one */
    char *file, *other;
    struct metric *part_of;
    VEC(struct item) next, asked; /* of the next question; of the one that runs. With references */
};

struct rate_lease *rate_lease_new(struct limit_set *set, const char *file, const char *other)
{
    struct rate_lease *r = XNEW(struct rate_lease);
    *r = (struct rate_lease){.set = set, .file = file ? xstrdup(file) : NULL, .other = other ? xstrdup(other) : NULL, .part_of = metric_gauge("seki_gateway_rate_parts", "This gateway has one of so many parts of each limit; 0: control has not said yet.")};
    limit_set_parts(set, 0, false, 0);
    return r;
}

static void forget(struct rate_lease *r)
{
    VEC_FOREACH (&r->asked, i)
        limit_counter_unref(i->counter);
    r->asked.len = 0;
}

void rate_lease_free(struct rate_lease *r)
{
    if (!r)
        return;
    forget(r);
    VEC_FOREACH (&r->next, i)
        limit_counter_unref(i->counter);
    VEC_DEINIT(&r->asked);
    VEC_DEINIT(&r->next);
    mem_free(r->file);
    mem_free(r->other);
    mem_free(r);
}

/* Takes the reference. */
static void add(struct rate_lease *r, struct limit_counter *c, enum limit_unit u, bool waited_for)
{
    *VEC_PUSH(&r->next) = (struct item){c, u, waited_for};
}

void rate_lease_need(struct rate_lease *r, struct limit_counter *c, enum limit_unit u, int64_t n)
{
    if (limit_need(r->set, c, u, n))
        add(r, limit_counter_ref(c), u, true);
    else
        VEC_FOREACH (&r->next, i)
            i->waited_for |= i->counter == c && i->unit == u;
}

static void list(struct rate_lease *r, struct limit_counter *c, enum limit_unit u)
{
    if (limit_list(r->set, c, u))
        add(r, limit_counter_ref(c), u, false);
}

/* ---- the question ---- */

void rate_lease_ask(struct rate_lease *r, json_t *spec, uint64_t now_ns)
{
    json_t *rates = json_array();
    size_t n = MIN(r->next.len, (size_t)ITEMS_MAX), rest = r->next.len - n;
    for (size_t i = 0; i < n; i++) {
        struct item *at = VEC_PUSH(&r->asked);
        *at = r->next.ptr[i];
        struct limit_report p = limit_report(r->set, at->counter, at->unit, now_ns);
        json_t *q = json_pack("{s:s, s:s, s:I, s:I, s:I, s:I}", "name", limit_counter_name(at->counter), "unit", limit_unit_text(at->unit), "max", (json_int_t)p.max, "share", (json_int_t)p.share,
                              "given", (json_int_t)p.given, "left", (json_int_t)p.left);
        if (p.need >= 0 && at->waited_for) {
            json_object_set_new(q, "need", json_integer(p.need));
            json_object_set_new(q, "needLeast", json_integer(p.need_least));
        }
        json_array_append_new(rates, q);
    }
    if (rest)
        memmove(r->next.ptr, r->next.ptr + n, rest * sizeof(*r->next.ptr));
    r->next.len = rest;
    json_object_set_new(spec, "rateEpoch", json_integer(r->epoch));
    json_object_set_new(spec, "rateParts", json_integer(r->parts));
    json_object_set_new(spec, "rateSettled", json_boolean(r->settled));
    json_object_set_new(spec, "rates", rates);
}

/* ---- the answer ---- */

struct beyond {
    VEC(struct limit_counter *) found;
};
static bool on_beyond(void *arg, struct limit_counter *c)
{
    struct beyond *b = arg;
    *VEC_PUSH(&b->found) = limit_counter_ref(c);
    return true;
}

/* What runs beyond one's base is told: it is the others' until it has ended. */
static void list_beyond(struct rate_lease *r)
{
    struct beyond b = {0};
    limit_each_beyond(r->set, on_beyond, &b);
    VEC_FOREACH (&b.found, c) {
        list(r, *c, LIMIT_CONCURRENT);
        limit_counter_unref(*c);
    }
    VEC_DEINIT(&b.found);
}

static void take_parts(struct rate_lease *r, const json_t *status, uint64_t now_ns)
{
    int64_t epoch = json_int(status, "rateEpoch", 0), parts = json_int(status, "rateParts", 0);
    bool settled = json_flag(status, "rateSettled", false);
    enum limit_unit u;
    size_t i;
    json_t *cap;
    if (!epoch || (epoch == r->epoch && parts == r->parts && settled == r->settled))
        return;
    json_array_foreach (json_object_get(status, "rateCaps"), i, cap)
        if (limit_unit_parse(json_str_or(cap, "unit", ""), &u))
            limit_cap(r->set, str_of(json_str_or(cap, "name", "")), u, json_int(cap, "max", 0), json_int(cap, "share", 0));
    limit_set_parts(r->set, parts, !settled, now_ns);
    r->moved = true;
    if (!settled || parts > 1)
        list_beyond(r);
    r->epoch = epoch;
    r->parts = parts;
    r->settled = settled;
    metric_set(r->part_of, settled ? parts : 0);
}

/* False: not the last word. */
static bool take_rate(struct rate_lease *r, const struct item *at, const json_t *a, uint64_t now_ns)
{
    bool final = json_flag(a, "final", false);
    int64_t share = json_int(a, "share", 0), content = json_int(a, "content", 0);
    if (share > 0)
        limit_grow(r->set, at->counter, at->unit, share, content, now_ns);
    if (at->waited_for)
        limit_verdict(at->counter, at->unit, json_int(a, "more", 0), json_flag(a, "over", false) ? now_ns + VERDICT_NS : 0);
    return final || !at->waited_for;
}

static void take_recall(struct rate_lease *r, const json_t *a, uint64_t now_ns)
{
    struct limit_recall recall = {.amount = json_int(a, "amount", 0), .restore = json_int(a, "restore", 0), .large = json_flag(a, "large", false)};
    struct str name = str_of(json_str_or(a, "name", ""));
    enum limit_unit u;
    if (!limit_unit_parse(json_str_or(a, "unit", ""), &u))
        return;
    struct limit_counter *c = limit_bound(r->set, name, u, json_int(a, "max", 0)); /* perhaps nobody has used it here */
    limit_give(r->set, c, u, &recall, now_ns);
    r->moved = true;
    list(r, c, u);
    limit_counter_unref(c);
}

/* Before control hears of it. */
static void save(struct rate_lease *r)
{
    struct err err = ERR_INIT;
    if (!r->moved || !r->file || !r->parts)
        return;
    if (share_file_save(r->file, r->set, r->parts, &err) < 0)
        log_warn("shares of limits are not written down: a gateway that starts while control is away has what the file says", KVE(&err));
    else
        r->moved = false;
}

bool rate_lease_answer(struct rate_lease *r, const json_t *status, uint64_t now_ns)
{
    size_t i;
    json_t *a;
    bool final = true, was_settled = r->settled;
    int64_t was = r->epoch;
    if (!status) { /* what was said may have been heard or not: it is said again */
        VEC_FOREACH (&r->asked, at)
            list(r, at->counter, at->unit);
        forget(r);
        return true;
    }
    if (!json_object_get(status, "rates")) /* a control of the release before, which shares no rates */
        rate_lease_alone(r, now_ns);
    else
        r->heard = true;
    take_parts(r, status, now_ns);
    bool same = was == r->epoch && was_settled && r->settled;
    json_t *rates = json_object_get(status, "rates"), *recalls = json_object_get(status, "recalls");
    for (i = 0; i < r->asked.len; i++) {
        const struct item *at = &r->asked.ptr[i];
        if (same && (a = json_array_get(rates, i)) && !strcmp(json_str_or(a, "name", ""), limit_counter_name(at->counter)))
            final &= take_rate(r, at, a, now_ns);
        else /* it was about shares that are no more */
            final &= !at->waited_for;
    }
    json_array_foreach (recalls, i, a)
        if (same)
            take_recall(r, a, now_ns);
    forget(r);
    save(r);
    return final;
}

bool rate_lease_hurries(const struct rate_lease *r)
{
    return r->heard && (r->next.len > 0 || !r->settled);
}

bool rate_lease_resume(struct rate_lease *r, uint64_t now_ns)
{
    struct err err = ERR_INIT;
    if (r->heard || r->parts || r->left)
        return true;
    const char *file = share_file_newest(r->file, r->other);
    int64_t parts = file ? share_file_load(file, r->set, &err) : 0;
    if (err.code)
        log_warn("what there was of limits cannot be read", KVE(&err));
    if (!parts)
        return false;
    if (parts == SHARE_FILE_LEFT) {
        r->left = true;
        log_warn("control does not answer, and this gateway gave its shares of limits to others when it last ended: until it does, requests that a limit counts are refused");
        return true;
    }
    r->parts = parts;
    r->settled = true;
    metric_set(r->part_of, parts);
    limit_set_parts(r->set, parts, false, now_ns);
    return true;
}

/* The only one's share goes to nobody, and stays written down. */
void rate_lease_leave(struct rate_lease *r, bool succeeded)
{
    struct err err = ERR_INIT;
    if (!r->file)
        return;
    /* Who took over writes its own with control's next answer. Should control be away until then, it has ours. */
    if (succeeded && (!r->other || file_exists(r->other) || rename(r->file, r->other) < 0))
        (void)unlink(r->file);
    else if (succeeded)
        return;
    else if (r->parts > 1 && share_file_save_left(r->file, &err) < 0)
        log_warn("that shares of limits were given back is not written down: should control be away when this gateway starts again, it takes them for its own", KVE(&err));
}

void rate_lease_alone(struct rate_lease *r, uint64_t now_ns)
{
    if (r->heard || r->parts || r->left)
        return;
    r->parts = 1;
    r->settled = true;
    metric_set(r->part_of, 1);
    limit_set_parts(r->set, 1, false, now_ns);
}

bool rate_lease_shares(const struct rate_lease *r)
{
    return r->heard && r->parts != 1;
}
