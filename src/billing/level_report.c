#include "billing/level_report.h"

#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/map.h"
#include "base/mem.h"
#include "base/vec.h"
#include "billing/report_write.h"
#include "kinds/borrowed.h"
#include "kinds/inference.h"
#include "kinds/slo.h"

/* One endpoint's promise of one kind, to one tenant. */
struct item {
    char *tenant, *endpoint; /* "PROJECT/NAME" */
    enum level_kind kind;
    int64_t requests, bad;
    int64_t budget; /* millionths of requests that may be bad */
    int64_t target; /* of the last request */
};

struct month {
    char *project;
    char name[8]; /* "2026-11" */
    VEC(struct item) items;
    struct map *index; /* "TENANT\0ENDPOINT\0KIND" → place in items, plus 1 */
    bool changed;
};

struct level_reports {
    struct map *months; /* "PROJECT/MONTH" → struct month * */
};

static void month_free(void *value)
{
    struct month *m = value;
    VEC_FOREACH (&m->items, i) {
        mem_free(i->tenant);
        mem_free(i->endpoint);
    }
    VEC_DEINIT(&m->items);
    map_free(m->index);
    mem_free(m->project);
    mem_free(m);
}

struct level_reports *level_reports_new(void)
{
    struct level_reports *r = XNEW(struct level_reports);
    r->months = map_new(month_free);
    return r;
}

void level_reports_free(struct level_reports *r)
{
    if (!r)
        return;
    map_free(r->months);
    mem_free(r);
}

/* ---- sums ---- */

static struct month *month_of(struct level_reports *r, const struct usage *u)
{
    char text[CLOCK_TEXT_MAX];
    CLEANUP(sbuf_deinit) struct sbuf key = {0};
    clock_format(u->start_ms, text);
    sbuf_init(&key, 64 * 1024);
    sbuf_addf(&key, "%.*s/%.7s", STR_ARG(u->project), text);
    struct month *m = map_get(r->months, sbuf_str(&key));
    if (m)
        return m;
    m = XNEW(struct month);
    *m = (struct month){.project = xstrndup(u->project.ptr, u->project.len), .index = map_new(NULL)};
    snprintf(m->name, sizeof(m->name), "%.7s", text);
    map_set(r->months, sbuf_str(&key), m);
    return m;
}

/* NULL: there are too many. */
static struct item *item_of(struct month *m, const struct usage *u, enum level_kind kind)
{
    CLEANUP(sbuf_deinit) struct sbuf key = {0}, endpoint = {0};
    sbuf_init(&key, 64 * 1024);
    sbuf_init(&endpoint, 16 * 1024);
    sbuf_addf(&endpoint, "%.*s/%.*s", STR_ARG(u->levels.project), STR_ARG(u->endpoint));
    sbuf_add(&key, u->tenant);
    sbuf_add_char(&key, '\0');
    sbuf_add(&key, sbuf_str(&endpoint));
    sbuf_add_char(&key, '\0');
    sbuf_add_u64(&key, kind);
    uintptr_t place = (uintptr_t)map_get(m->index, sbuf_str(&key));
    if (place)
        return &m->items.ptr[place - 1];
    if (m->items.len == LEVEL_ITEMS_MAX)
        return NULL;
    struct item *i = VEC_PUSH(&m->items);
    *i = (struct item){.tenant = xstrndup(u->tenant.ptr, u->tenant.len), .endpoint = sbuf_take(&endpoint), .kind = kind};
    map_set(m->index, sbuf_str(&key), (void *)(uintptr_t)m->items.len);
    return i;
}

void level_reports_count(struct level_reports *r, const struct usage *u)
{
    for (int k = 0; k < LEVEL_KINDS && u->levels.project.len; k++) {
        const struct level *l = &u->levels.of[k];
        struct month *m = l->target ? month_of(r, u) : NULL;
        struct item *i = m ? item_of(m, u, (enum level_kind)k) : NULL;
        if (!i)
            continue;
        int64_t n = usage_requests(u);
        i->requests += n;
        i->bad += l->good ? 0 : n;
        i->budget += (SLO_WHOLE - l->target) * n;
        i->target = l->target;
        m->changed = true;
    }
}

/* ---- documents ---- */

static json_t *describe(const struct item *i)
{
    char target[SLO_PERCENT_MAX], achieved[SLO_PERCENT_MAX], left[SLO_PERCENT_MAX];
    slo_percent_format(i->target, target);
    slo_percent_format(slo_achieved(i->requests, i->bad), achieved);
    slo_percent_format(slo_budget_left(i->budget, i->bad), left);
    return json_pack("{s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:I}", "endpoint", i->endpoint, "objective", level_name(i->kind), "target", target, "achieved", achieved, "budgetLeft", left, "requests",
                     (json_int_t)i->requests, "bad", (json_int_t)i->bad, "budgetMillionths", (json_int_t)i->budget);
}

static json_t *items_of(const struct month *m, const char *tenant)
{
    json_t *items = json_array();
    VEC_FOREACH (&m->items, i)
        if (!strcmp(i->tenant, tenant))
            json_array_append_new(items, describe(i));
    return items;
}

/* ---- writing ---- */

static int write_month(struct client *c, const struct month *m, struct err *err)
{
    CLEANUP(mem_freep) char *tenant = NULL;
    char name[32];
    int rc = report_tenant(c, m->project, &tenant, err);
    if (rc < 0)
        return rc;
    JSON_AUTO status = json_pack("{s:o}", "items", items_of(m, tenant));
    if (!json_array_size(json_object_get(status, "items")))
        return 0; /* another tenant's month under this name */
    snprintf(name, sizeof(name), "month-%s", m->name);
    return report_write(c, &(struct report_place){.kind = &kind_slo_report, .project = m->project, .name = name, .field = "month", .period = m->name, .tenant = tenant}, status, err);
}

void level_reports_write(struct level_reports *r, struct client *c)
{
    struct map_iter it = MAP_ITER_INIT;
    while (map_next(r->months, &it)) {
        struct month *m = it.value;
        struct err err = ERR_INIT;
        if (!m->changed)
            continue;
        m->changed = report_failed(write_month(c, m, &err));
        if (m->changed)
            log_warn("a report of service levels cannot be written; trying again", KV("project", m->project), KV("month", m->name), KVE(&err));
    }
}
