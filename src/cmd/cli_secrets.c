/* seki secrets: the keys that secrets are sealed with in the store, and their rotation. */
#include "base/clock.h"
#include "cmd/cli.h"

#include <unistd.h>

#define LOOK_EVERY_US 300000
#define DEFAULT_WAIT_MS (5 * 60 * 1000)

/* The keys of a tenant (NULL: of all) as the API has them, after new ones were made; NULL: err says why. */
static json_t *ask(struct cli *c, const char *tenant, bool rotate, struct err *err)
{
    const struct kind *k = kind_by_name("KeyRotation");
    struct client_resource r = kind_resource(k);
    JSON_AUTO obj = json_pack("{s:s, s:s, s:{s:b}}", "apiVersion", SEKI_GROUP "/" SEKI_VERSION, "kind", k->name, "spec", "reportOnly", !rotate);
    JSON_AUTO ret = NULL;
    if (tenant)
        json_put_str(obj, "spec.tenant", tenant);
    if (client_create(c->client, &r, NULL, obj, &ret, err) < 0)
        return NULL;
    json_t *keys = json_at(ret, "status.keys");
    return keys ? json_incref(keys) : json_array();
}

static void print_keys(struct cli *c, json_t *keys)
{
    static const char *const heads[] = {"TENANT", "KEY", "STATE", "OBJECTS", "AGE", NULL};
    struct cli_table *t = cli_table_new(c->arena, heads);
    size_t i;
    json_t *k;
    if (c->json) {
        cli_print_json(keys);
        return;
    }
    json_array_foreach (keys, i, k)
        cli_table_row(t, (const char *const[]){json_str(k, "tenant"), arena_printf(c->arena, "%lld", (long long)json_int(k, "version", 0)), json_str(k, "state"),
                                               arena_printf(c->arena, "%lld", (long long)json_int(k, "objects", 0)), cli_age(c->arena, json_str(k, "created"))});
    cli_table_print(t, c->color);
}

int cli_secrets_status(struct cli *c)
{
    struct err err = ERR_INIT;
    const char *tenant = cli_flag(c, "--tenant");
    if (cli_no_more(c))
        return 2;
    if (cli_connect(c))
        return 1;
    JSON_AUTO keys = ask(c, tenant, false, &err);
    if (!keys)
        return cli_fail(&err);
    print_keys(c, keys);
    return 0;
}

/* Objects that older keys still seal, and keys that are not on the disk yet. */
static int64_t left(const json_t *keys)
{
    int64_t n = 0;
    size_t i;
    json_t *k;
    json_array_foreach (keys, i, k) {
        const char *state = json_str_or(k, "state", "");
        n += !strcmp(state, "Retired") ? json_int(k, "objects", 0) : !strcmp(state, "Pending");
    }
    return n;
}

int cli_secrets_rotate(struct cli *c)
{
    struct err err = ERR_INIT;
    const char *tenant = cli_flag(c, "--tenant"), *timeout = cli_flag(c, "--timeout");
    int64_t wait_ms = DEFAULT_WAIT_MS, told = -1;
    if (timeout && (clock_parse_duration(str_of(timeout), &wait_ms) < 0 || wait_ms < 0))
        return cli_usage_error("--timeout=%s: expected a duration such as 30s or 10m", timeout);
    if (cli_no_more(c))
        return 2;
    if (cli_connect(c))
        return 1;
    JSON_AUTO keys = ask(c, tenant, true, &err);
    uint64_t end_ms = clock_mono_ms() + (uint64_t)wait_ms;
    bool looked = false; /* what the answer to the rotation says of objects is from before it */
    while (keys && (!looked || left(keys) > 0)) {
        if (clock_mono_ms() >= end_ms) {
            fprintf(stderr, "seki: the new keys are made, but objects are still sealed with older ones; that goes on: see `seki secrets status`\n");
            return 1;
        }
        usleep(LOOK_EVERY_US);
        json_decref(keys);
        keys = ask(c, tenant, false, &err);
        looked = true;
        if (keys && left(keys) != told)
            fprintf(stderr, "%lld objects left\n", (long long)(told = left(keys)));
    }
    if (!keys)
        return cli_fail(&err);
    print_keys(c, keys);
    return 0;
}
