#include "base/clock.h"
#include "cmd/cli.h"
#include "kinds/inference.h"
#include "kinds/slo.h"

/* One line: a report's item, or those of a tenant's projects together. */
static json_t *row_of(json_t *rows, const char *month, const char *project, const json_t *item)
{
    const char *endpoint = json_str_or(item, "endpoint", ""), *objective = json_str_or(item, "objective", "");
    size_t i;
    json_t *row;
    json_array_foreach (rows, i, row)
        if (!project && !strcmp(json_str_or(row, "month", ""), month) && !strcmp(json_str_or(row, "endpoint", ""), endpoint) && !strcmp(json_str_or(row, "objective", ""), objective))
            return row;
    row = json_pack("{s:s, s:s*, s:s, s:s, s:s, s:I, s:I, s:I}", "month", month, "project", project, "endpoint", endpoint, "objective", objective, "target", json_str_or(item, "target", "-"),
                    "requests", (json_int_t)0, "bad", (json_int_t)0, "budgetMillionths", (json_int_t)0);
    json_array_append_new(rows, row);
    return row;
}

static void add_up(json_t *row, const json_t *item, const char *name)
{
    int64_t sum;
    if (__builtin_add_overflow(json_int(row, name, 0), json_int(item, name, 0), &sum))
        sum = INT64_MAX;
    json_object_set_new(row, name, json_integer(sum));
}

static void finish(json_t *row)
{
    int64_t requests = json_int(row, "requests", 0), bad = json_int(row, "bad", 0), budget = json_int(row, "budgetMillionths", 0);
    char achieved[SLO_PERCENT_MAX] = "-", left[SLO_PERCENT_MAX] = "-";
    if (requests > 0)
        slo_percent_format(slo_achieved(requests, bad), achieved);
    if (budget > 0)
        slo_percent_format(slo_budget_left(budget, bad), left);
    json_object_set_new(row, "achieved", json_string(achieved));
    json_object_set_new(row, "budgetLeft", json_string(left));
}

/* Each month's, a line an endpoint and objective; a tenant's projects are added up. */
static json_t *rows_of(const json_t *reports, const char *month, bool together)
{
    json_t *rows = json_array(), *report, *item, *row;
    size_t i, k;
    json_array_foreach (reports, i, report) {
        const char *its_month = json_str_or(report, "spec.month", "");
        if (month && strcmp(month, its_month) != 0)
            continue;
        json_array_foreach (json_at(report, "status.items"), k, item) {
            row = row_of(rows, its_month, together ? NULL : obj_namespace(report), item);
            add_up(row, item, "requests");
            add_up(row, item, "bad");
            add_up(row, item, "budgetMillionths");
        }
    }
    json_array_foreach (rows, i, row)
        finish(row);
    return rows;
}

static void print_rows(struct cli *c, const json_t *rows)
{
    static const char *const heads[] = {"MONTH", "PROJECT", "ENDPOINT", "OBJECTIVE", "TARGET", "ACHIEVED", "REQUESTS", "BAD", "BUDGET", NULL};
    struct cli_table *t = cli_table_new(c->arena, heads);
    size_t i;
    json_t *row;
    json_array_foreach (rows, i, row)
        cli_table_row(t, (const char *const[]){json_str(row, "month"), json_str(row, "project"), json_str(row, "endpoint"), json_str(row, "objective"),
                                               arena_printf(c->arena, "%s %%", json_str_or(row, "target", "-")), arena_printf(c->arena, "%s %%", json_str(row, "achieved")),
                                               arena_printf(c->arena, "%lld", (long long)json_int(row, "requests", 0)), arena_printf(c->arena, "%lld", (long long)json_int(row, "bad", 0)),
                                               arena_printf(c->arena, "%s %%", json_str(row, "budgetLeft"))});
    cli_table_print(t, c->color);
}

int cli_slo(struct cli *c)
{
    const char *month = cli_flag(c, "--month"), *tenant = cli_flag(c, "--tenant");
    bool all = cli_switch(c, "--all-namespaces");
    int64_t month_ms;
    if (cli_no_more(c))
        return 2;
    if (month && (strlen(month) != 7 || clock_parse(str_of(arena_printf(c->arena, "%s-01T00:00:00Z", month)), &month_ms) < 0))
        return cli_usage_error("--month=%s: expected YYYY-MM", month);
    if (tenant && !field_label_value(str_of(tenant)))
        return cli_usage_error("--tenant=%s: expected the name of a tenant", tenant);
    if (cli_connect(c))
        return 1;
    struct client_resource r = kind_resource(&kind_slo_report);
    const char *selector = tenant ? arena_printf(c->arena, "%s=%s", LABEL_TENANT, tenant) : NULL;
    struct err err = ERR_INIT;
    JSON_AUTO reports = NULL;
    if (client_list(c->client, &r, all || tenant ? NULL : c->ns, selector, &reports, NULL, &err) < 0)
        return cli_fail(&err);
    JSON_AUTO rows = rows_of(reports, month, tenant != NULL);
    if (c->json)
        cli_print_json(rows);
    else if (json_array_size(rows))
        print_rows(c, rows);
    else if (!all && !tenant && cli_check_project(c))
        return 1;
    else
        fprintf(stderr, "seki: no request counted for a service level%s%s; endpoints promise them in spec.slo\n", month ? " in " : " yet", month ? month : "");
    return 0;
}
