#include "base/clock.h"
#include "cmd/cli.h"
#include "kinds/inference.h"
#include "ledger/price.h"

/* A duration; days too, as keys live long. */
static int parse_life(const char *text, int64_t *ret_ms)
{
    struct str s = str_of(text);
    int64_t days;
    if (s.len > 1 && s.ptr[s.len - 1] == 'd' && str_to_i64(str_n(s.ptr, s.len - 1), 1, 36500, &days) == 0) {
        *ret_ms = days * 86400000;
        return 0;
    }
    int rc = clock_parse_duration(s, ret_ms);
    return rc == 0 && *ret_ms <= 0 ? ERR_INVALID : rc;
}

/* A key may be made before its endpoints are; a name that is only mistyped should not go unnoticed. */
static void note_missing_endpoints(struct cli *c, const json_t *endpoints)
{
    struct client_resource r = kind_resource(&kind_model_endpoint);
    size_t i;
    json_t *name;
    json_array_foreach (endpoints, i, name) {
        struct err err = ERR_INIT;
        JSON_AUTO obj = NULL;
        if (strchr(json_string_value(name), '/'))
            continue; /* another project's, which need not be shown to whoever makes the key */
        if (client_get(c->client, &r, c->ns, json_string_value(name), &obj, &err) == ERR_NOT_FOUND)
            fprintf(stderr, "note: project %s has no endpoint %s yet\n", c->ns, json_string_value(name));
    }
}

static int create_failed(struct cli *c, const char *name, const struct err *err)
{
    if (err->code == ERR_NOT_FOUND && cli_check_project(c))
        return 1;
    if (err->code != ERR_EXISTS)
        return cli_fail(err);
    fprintf(stderr, "seki: key %s of project %s already exists; `seki -n %s key revoke %s` deletes it\n", name, c->ns, c->ns, name);
    return 1;
}

static const struct {
    const char *flag, *path;
} rate_flags[] = {{"--requests-per-minute", "spec.limits.requestsPerMinute"},
                  {"--tokens-per-minute", "spec.limits.tokensPerMinute"},
                  {"--concurrent-requests", "spec.limits.concurrentRequests"}};

/* 0, or the exit status. */
static int take_rates(struct cli *c, int64_t ret[ARRAY_LEN(rate_flags)])
{
    for (size_t i = 0; i < ARRAY_LEN(rate_flags); i++) {
        const char *text = cli_flag(c, rate_flags[i].flag);
        ret[i] = 0;
        if (text && str_to_i64(str_of(text), 1, INT64_MAX, &ret[i]) < 0)
            return cli_usage_error("%s=%s: expected a number from 1 on", rate_flags[i].flag, text);
    }
    return 0;
}

int cli_key_create(struct cli *c)
{
    int64_t rates[ARRAY_LEN(rate_flags)];
    const char *expires = cli_flag(c, "--expires"), *endpoint;
    bool quiet = cli_switch(c, "--quiet");
    JSON_AUTO endpoints = json_array();
    while ((endpoint = cli_flag(c, "--endpoint")))
        json_array_append_new(endpoints, json_string(endpoint));
    if (take_rates(c, rates))
        return 2;
    const char *name = cli_word(c);
    if (!name)
        return cli_usage_error("expected the key's NAME");
    if (cli_no_more(c))
        return 2;
    int64_t life_ms = 0;
    if (expires && parse_life(expires, &life_ms) < 0)
        return cli_usage_error("--expires=%s: expected a duration such as 24h or 30d", expires);
    if (cli_connect(c))
        return 1;
    JSON_AUTO obj = obj_new(&kind_api_key, c->ns, name);
    JSON_AUTO ret = NULL;
    if (json_array_size(endpoints))
        json_put(obj, "spec.endpoints", json_incref(endpoints));
    for (size_t i = 0; i < ARRAY_LEN(rates); i++)
        if (rates[i])
            json_put_int(obj, rate_flags[i].path, rates[i]);
    if (expires) {
        char text[CLOCK_TEXT_MAX];
        clock_format(clock_wall_ms() + life_ms, text);
        json_put_str(obj, "spec.expiresAt", text);
    }
    struct client_resource r = kind_resource(&kind_api_key);
    struct err err = ERR_INIT;
    if (client_create(c->client, &r, c->ns, obj, &ret, &err) < 0)
        return create_failed(c, name, &err);
    note_missing_endpoints(c, endpoints);
    const char *key = json_str(ret, "status.key");
    if (c->json)
        cli_print_json(ret);
    else if (quiet)
        puts(key ? key : "");
    else
        printf("%s\n\nThis key of project %s is shown this once: keep it now.\n", key ? key : "", c->ns);
    return 0;
}

static const char *key_state(const json_t *key)
{
    int64_t at;
    const char *expires = json_str(key, "spec.expiresAt");
    if (json_flag(key, "spec.disabled", false))
        return "Disabled";
    if (expires && clock_parse(str_of(expires), &at) == 0 && at <= clock_wall_ms())
        return "Expired";
    return "Active";
}

int cli_key_list(struct cli *c)
{
    bool all = cli_switch(c, "--all-namespaces");
    if (cli_no_more(c))
        return 2;
    if (cli_connect(c))
        return 1;
    struct client_resource r = kind_resource(&kind_api_key);
    struct err err = ERR_INIT;
    JSON_AUTO items = NULL;
    if (client_list(c->client, &r, all ? NULL : c->ns, NULL, &items, NULL, &err) < 0)
        return cli_fail(&err);
    if (c->json) {
        cli_print_json(items);
        return 0;
    }
    if (!all && !json_array_size(items) && cli_check_project(c))
        return 1;
    if (!json_array_size(items)) {
        fputs(all ? "seki: no project has keys\n" : arena_printf(c->arena, "seki: project %s has no keys\n", c->ns), stderr);
        return 0;
    }
    static const char *const heads[] = {"PROJECT", "NAME", "KEY", "STATE", "EXPIRES", "AGE", NULL};
    struct cli_table *t = cli_table_new(c->arena, heads);
    size_t i;
    json_t *key;
    json_array_foreach (items, i, key) {
        const char *prefix = json_str(key, "status.prefix");
        cli_table_row(t, (const char *const[]){obj_namespace(key), obj_name(key),
                                               prefix ? arena_printf(c->arena, "%s…", prefix) : NULL,
                                               key_state(key), json_str_or(key, "spec.expiresAt", "never"),
                                               cli_age(c->arena, json_str(key, "metadata.creationTimestamp"))});
    }
    cli_table_print(t, c->color);
    return 0;
}

int cli_key_revoke(struct cli *c)
{
    const char *name = cli_word(c);
    if (!name)
        return cli_usage_error("expected the key's NAME");
    if (cli_no_more(c))
        return 2;
    if (cli_connect(c))
        return 1;
    struct client_resource r = kind_resource(&kind_api_key);
    struct err err = ERR_INIT;
    if (client_delete(c->client, &r, c->ns, name, NULL, &err) < 0) {
        if (err.code != ERR_NOT_FOUND)
            return cli_fail(&err);
        if (!cli_check_project(c))
            fprintf(stderr, "seki: project %s has no key %s; `seki key list` shows those it has\n", c->ns, name);
        return 1;
    }
    if (c->json)
        printf("{\"project\": \"%s\", \"revoked\": \"%s\"}\n", c->ns, name);
    else
        printf("key %s of project %s is revoked\n", name, c->ns);
    return 0;
}

static int say_unused(struct cli *c, bool all, const char *day)
{
    const char *when = day ? arena_printf(c->arena, "on %s", day) : "yet";
    if (all)
        fprintf(stderr, "seki: nothing was used %s\n", when);
    else
        fprintf(stderr, "seki: project %s used nothing %s\n", c->ns, when);
    return 0;
}

/* "12.50 EUR", or of several currencies all. */
static const char *costs_text(struct arena *a, const json_t *costs)
{
    const char *all = "-";
    char text[AMOUNT_TEXT_MAX];
    size_t i;
    json_t *c;
    json_array_foreach (costs, i, c) {
        amount_format(json_int(c, "amountMicros", 0), 2, json_str_or(c, "currency", "?"), text);
        all = i ? arena_printf(a, "%s, %s", all, text) : arena_strdup(a, text);
    }
    return all;
}

int cli_usage(struct cli *c)
{
    const char *day = cli_flag(c, "--day");
    bool all = cli_switch(c, "--all-namespaces");
    int64_t day_ms;
    if (cli_no_more(c))
        return 2;
    if (day && (strlen(day) != 10 || clock_parse(str_of(arena_printf(c->arena, "%sT00:00:00Z", day)), &day_ms) < 0))
        return cli_usage_error("--day=%s: expected YYYY-MM-DD", day);
    if (cli_connect(c))
        return 1;
    struct client_resource r = kind_resource(&kind_usage_report);
    struct err err = ERR_INIT;
    JSON_AUTO items = NULL;
    if (client_list(c->client, &r, all ? NULL : c->ns, NULL, &items, NULL, &err) < 0)
        return cli_fail(&err);
    if (!all && !json_array_size(items) && cli_check_project(c))
        return 1;
    for (size_t n = json_array_size(items); day && n-- > 0;)
        if (strcmp(json_str_or(json_array_get(items, n), "spec.date", ""), day) != 0)
            json_array_remove(items, n);
    if (c->json) {
        cli_print_json(items);
        return 0;
    }
    static const char *const all_heads[] = {"DAY", "PROJECT", "KEY", "MODEL", "REQUESTS", "FAILED", "PROMPT", "CACHED", "COMPLETION", "LOSERS", "REPLAYED", "UNSEEN", "INEXACT", "COST", NULL};
    static const char *const heads[] = {"DAY", "PROJECT", "KEY", "MODEL", "REQUESTS", "FAILED", "PROMPT", "CACHED", "COMPLETION", "COST", NULL}; /* what is billed: for a terminal */
    static const char *const numbers[] = {"requests", "failedRequests", "promptTokens", "cachedTokens", "completionTokens", "hedgeLoserTokens", "replayedTokens", "unseenTokens", "inexactAttempts"};
    size_t shown = ARRAY_LEN(numbers) - (c->wide || c->csv ? 0 : ARRAY_LEN(all_heads) - ARRAY_LEN(heads));
    struct cli_table *t = cli_table_new(c->arena, c->wide || c->csv ? all_heads : heads);
    size_t i, k;
    json_t *report, *item;
    json_array_foreach (items, i, report) {
        const char *date = json_str(report, "spec.date");
        json_array_foreach (json_at(report, "status.items"), k, item) {
            const char *cells[ARRAY_LEN(all_heads) - 1] = {date, obj_namespace(report), json_str(item, "key"), json_str(item, "model")};
            for (size_t n = 0; n < shown; n++)
                cells[4 + n] = arena_printf(c->arena, "%lld", (long long)json_int(item, numbers[n], 0));
            cells[4 + shown] = costs_text(c->arena, json_object_get(item, "cost"));
            cli_table_row(t, cells);
        }
    }
    if (c->csv) {
        cli_table_print_csv(t);
        return 0;
    }
    if (!cli_table_rows(t))
        return say_unused(c, all, day);
    cli_table_print(t, c->color);
    return 0;
}
