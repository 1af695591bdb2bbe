#include "billing/report.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/map.h"
#include "base/mem.h"
#include "base/vec.h"
#include "billing/report_write.h"
#include "kinds/borrowed.h"
#include "kinds/inference.h"
#include "ledger/price.h"

/* In one currency. */
struct cost {
    char currency[CURRENCY_MAX];
    int64_t micros;
};
struct item {
    char *tenant, *key, *endpoint, *model;
    int64_t requests, failed, prompt, cached, completion, losers, replayed, unseen, inexact;
    VEC(struct cost) costs;
};

/* One project's UTC day. */
struct day {
    char *project;
    char date[12];
    VEC(struct item) items;
    struct map *index; /* "TENANT\0KEY\0ENDPOINT\0MODEL" → place in items, plus 1 */
    bool changed;
};

struct reports {
    struct map *days; /* "PROJECT/DATE" → struct day * */
};

static void day_free(void *value)
{
    struct day *d = value;
    VEC_FOREACH (&d->items, i) {
        mem_free(i->tenant);
        mem_free(i->key);
        mem_free(i->endpoint);
        mem_free(i->model);
        VEC_DEINIT(&i->costs);
    }
    VEC_DEINIT(&d->items);
    map_free(d->index);
    mem_free(d->project);
    mem_free(d);
}

struct reports *reports_new(void)
{
    struct reports *r = XNEW(struct reports);
    r->days = map_new(day_free);
    return r;
}

void reports_free(struct reports *r)
{
    if (!r)
        return;
    map_free(r->days);
    mem_free(r);
}

/* ---- sums ---- */

static struct day *day_of(struct reports *r, const struct usage *u)
{
    char text[CLOCK_TEXT_MAX], date[12];
    CLEANUP(sbuf_deinit) struct sbuf key = {0};
    clock_format(u->start_ms, text);
    snprintf(date, sizeof(date), "%.10s", text);
    sbuf_init(&key, 64 * 1024);
    sbuf_addf(&key, "%.*s/%s", STR_ARG(u->project), date);
    struct day *d = map_get(r->days, sbuf_str(&key));
    if (d)
        return d;
    d = XNEW(struct day);
    *d = (struct day){.project = xstrndup(u->project.ptr, u->project.len), .index = map_new(NULL)};
    memcpy(d->date, date, sizeof(d->date));
    map_set(r->days, sbuf_str(&key), d);
    return d;
}

static struct item *item_of(struct day *d, const struct usage *u)
{
    CLEANUP(sbuf_deinit) struct sbuf key = {0};
    const struct str parts[] = {u->tenant, u->key, u->endpoint, u->model};
    sbuf_init(&key, 64 * 1024);
    for (size_t n = 0; n < ARRAY_LEN(parts); n++) {
        sbuf_add(&key, parts[n]);
        sbuf_add_char(&key, '\0');
    }
    uintptr_t place = (uintptr_t)map_get(d->index, sbuf_str(&key));
    if (place)
        return &d->items.ptr[place - 1];
    struct item *i = VEC_PUSH(&d->items);
    *i = (struct item){.tenant = xstrndup(u->tenant.ptr, u->tenant.len), .key = xstrndup(u->key.ptr, u->key.len), .endpoint = xstrndup(u->endpoint.ptr, u->endpoint.len),
                       .model = xstrndup(u->model.ptr, u->model.len)};
    map_set(d->index, sbuf_str(&key), (void *)(uintptr_t)d->items.len);
    return i;
}

/* Stays at the largest number: sums of what an engine claims must not run over. */
static void add(int64_t *sum, int64_t n)
{
    if (__builtin_add_overflow(*sum, n, sum))
        *sum = INT64_MAX;
}

static void add_cost(struct item *sum, const char *currency, int64_t micros)
{
    VEC_FOREACH (&sum->costs, c)
        if (!strcmp(c->currency, currency)) {
            c->micros = amount_add(c->micros, micros);
            return;
        }
    struct cost *c = VEC_PUSH(&sum->costs);
    memcpy(c->currency, currency, CURRENCY_MAX);
    c->micros = micros;
}

static void add_item(struct item *sum, const struct item *i)
{
    VEC_FOREACH (&i->costs, c)
        add_cost(sum, c->currency, c->micros);
    add(&sum->requests, i->requests);
    add(&sum->failed, i->failed);
    add(&sum->prompt, i->prompt);
    add(&sum->cached, i->cached);
    add(&sum->completion, i->completion);
    add(&sum->losers, i->losers);
    add(&sum->replayed, i->replayed);
    add(&sum->unseen, i->unseen);
    add(&sum->inexact, i->inexact);
}

void reports_count(struct reports *r, const struct usage *u)
{
    struct day *d = day_of(r, u);
    char currency[CURRENCY_MAX];
    bool failed = u->status >= 400 || !(str_eqc(u->outcome, "ok") || str_eqc(u->outcome, "client_gone"));
    add_item(item_of(d, u), &(struct item){.requests = usage_requests(u), .failed = failed ? usage_requests(u) : 0, .prompt = u->prompt_tokens, .cached = u->cached_tokens, .completion = u->completion_tokens,
                                            .losers = u->hedge_loser_tokens, .replayed = u->replayed_tokens, .unseen = u->unseen_tokens, .inexact = (int64_t)usage_inexact(u)});
    if (u->cost && str_to_array(u->currency, currency, sizeof(currency)) && currency_valid(currency))
        add_cost(item_of(d, u), currency, u->cost);
    d->changed = true;
}

/* ---- documents ---- */

static json_t *numbers(const struct item *i)
{
    json_t *costs = json_array(), *n = json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "requests", (json_int_t)i->requests, "failedRequests", (json_int_t)i->failed, "promptTokens",
                     (json_int_t)i->prompt, "cachedTokens", (json_int_t)i->cached, "completionTokens", (json_int_t)i->completion, "hedgeLoserTokens", (json_int_t)i->losers, "replayedTokens",
                     (json_int_t)i->replayed, "unseenTokens", (json_int_t)i->unseen, "inexactAttempts", (json_int_t)i->inexact);
    VEC_FOREACH (&i->costs, c)
        json_array_append_new(costs, json_pack("{s:s, s:I}", "currency", c->currency, "amountMicros", (json_int_t)c->micros));
    if (json_array_size(costs))
        json_object_set(n, "cost", costs);
    json_decref(costs);
    return n;
}

static void append_item(json_t *items, const struct item *i)
{
    json_t *one = numbers(i);
    json_object_set_new(one, "key", json_string(i->key ? i->key : ""));
    json_object_set_new(one, "endpoint", json_string(i->endpoint ? i->endpoint : ""));
    json_object_set_new(one, "model", json_string(i->model ? i->model : ""));
    json_array_append_new(items, one);
}

static int by_size(const void *a, const void *b)
{
    const struct item *x = *(const struct item *const *)a, *y = *(const struct item *const *)b;
    if (x->requests != y->requests)
        return x->requests < y->requests ? 1 : -1;
    return x < y ? -1 : x > y; /* as they came */
}

static json_t *status_of(const struct day *d, const char *tenant)
{
    struct item total = {0}, rest = {0};
    json_t *items = json_array();
    VEC(const struct item *) mine = VEC_INIT;
    VEC_FOREACH (&d->items, i)
        if (!strcmp(i->tenant, tenant))
            *VEC_PUSH(&mine) = i;
    if (mine.len > REPORT_ITEMS_MAX)
        qsort(mine.ptr, mine.len, sizeof(*mine.ptr), by_size);
    for (size_t n = 0; n < mine.len; n++) {
        add_item(&total, mine.ptr[n]);
        if (n < REPORT_ITEMS_MAX)
            append_item(items, mine.ptr[n]);
        else
            add_item(&rest, mine.ptr[n]);
    }
    if (rest.requests)
        append_item(items, &rest);
    VEC_DEINIT(&mine);
    json_t *status = numbers(&total);
    VEC_DEINIT(&total.costs);
    VEC_DEINIT(&rest.costs);
    json_object_set_new(status, "items", items);
    return status;
}

static int by_place(const void *a, const void *b)
{
    static const char *const names[] = {"project", "date", "tenant"};
    int c = 0;
    for (size_t i = 0; !c && i < ARRAY_LEN(names); i++)
        c = strcmp(json_str_or(*(json_t *const *)a, names[i], ""), json_str_or(*(json_t *const *)b, names[i], ""));
    return c;
}

static void list_day(const struct day *d, json_t *list)
{
    struct map *tenants = map_new(NULL);
    VEC_FOREACH (&d->items, i) {
        if (map_getc(tenants, i->tenant))
            continue;
        map_set(tenants, str_of(i->tenant), i);
        json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:o}", "project", d->project, "date", d->date, "tenant", i->tenant, "status", status_of(d, i->tenant)));
    }
    map_free(tenants);
}

json_t *reports_list(const struct reports *r)
{
    json_t *found = json_array(), *sorted = json_array();
    struct map_iter it = MAP_ITER_INIT;
    VEC(json_t *) all = VEC_INIT;
    while (map_next(r->days, &it))
        list_day(it.value, found);
    for (size_t i = 0; i < json_array_size(found); i++)
        *VEC_PUSH(&all) = json_array_get(found, i);
    if (all.len)
        qsort(all.ptr, all.len, sizeof(*all.ptr), by_place);
    VEC_FOREACH (&all, one)
        json_array_append(sorted, *one);
    VEC_DEINIT(&all);
    json_decref(found);
    return sorted;
}

/* ---- writing ---- */

static int write_day(struct client *c, const struct day *d, struct err *err)
{
    CLEANUP(mem_freep) char *tenant = NULL;
    char name[32];
    int rc = report_tenant(c, d->project, &tenant, err);
    if (rc < 0)
        return rc;
    JSON_AUTO status = status_of(d, tenant);
    if (!json_array_size(json_object_get(status, "items")))
        return 0; /* another tenant's day under this name */
    snprintf(name, sizeof(name), "day-%s", d->date);
    return report_write(c, &(struct report_place){.kind = &kind_usage_report, .project = d->project, .name = name, .field = "date", .period = d->date}, status, err);
}

void reports_write(struct reports *r, struct client *c)
{
    struct map_iter it = MAP_ITER_INIT;
    while (map_next(r->days, &it)) {
        struct day *d = it.value;
        struct err err = ERR_INIT;
        if (!d->changed)
            continue;
        d->changed = report_failed(write_day(c, d, &err)); /* of a project that is gone, the ledger has what it used */
        if (d->changed)
            log_warn("a usage report cannot be written; trying again", KV("project", d->project), KV("date", d->date), KVE(&err));
    }
}

json_t *reports_documents(const struct reports *r, const char *tenant)
{
    struct map_iter it = MAP_ITER_INIT;
    json_t *all = json_array();
    while (map_next(r->days, &it)) {
        const struct day *d = it.value;
        char name[32];
        json_t *status = status_of(d, tenant), *obj;
        if (json_array_size(json_object_get(status, "items"))) {
            snprintf(name, sizeof(name), "day-%s", d->date);
            obj = obj_new(&kind_usage_report, d->project, name);
            json_put_str(obj, "spec.date", d->date);
            json_object_set(obj, "status", status);
            json_array_append_new(all, obj);
        }
        json_decref(status);
    }
    return all;
}
