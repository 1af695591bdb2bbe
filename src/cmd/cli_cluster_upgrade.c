/* seki cluster upgrade: spec.version, and what becomes of it. */
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/rnd.h"
#include "cmd/cli.h"
#include "kinds/kaas.h"

#define LOOK_US 100000
#define WAIT_DEFAULT_MS 300000
#define REFUSED_MS 3000 /* a refusal that stands for so long after we have asked is the answer to it */

/* Stages that are done, with their times. */
static void tell_stages(struct cli *c, const json_t *obj, size_t *told)
{
    json_t *list = json_at(obj, "status.upgrade.stages"), *s;
    for (; *told < json_array_size(list) && (s = json_array_get(list, *told)) && json_object_get(s, "milliseconds"); ++*told)
        if (!c->json)
            fprintf(stderr, "%-18s %6lld ms\n", cli_plain(c->arena, json_str_or(s, "name", "")), (long long)json_int(s, "milliseconds", 0));
}

/* It waits for the cluster's maintenance window, and we do not wait with it. */
static bool is_waiting(const json_t *obj)
{
    const char *reason = obj_condition_reason(obj, "Upgraded");
    return reason && !strcmp(reason, "WaitingForWindow");
}

/* 0: done, or accepted for later; 1: it was not, -1: it goes on. */
static int judge(struct cli *c, const char *name, const json_t *obj, const char *version, bool now, uint64_t asked_ms)
{
    const char *said = obj_condition(obj, "Upgraded");
    bool seen = json_int(obj, "status.observedGeneration", 0) >= obj_generation(obj);
    if (seen && !strcmp(json_str_or(obj, "status.minor", ""), version) && (!said || !strcmp(said, "True") || !strcmp(obj_condition_reason(obj, "Upgraded"), "NotWanted")))
        return 0;
    if (seen && !now && is_waiting(obj))
        return 0;
    /* That no other version is wanted was said of the spec before, until a pass has judged this one. */
    const char *reason = obj_condition_reason(obj, "Upgraded");
    bool of_before = reason && !strcmp(reason, "NotWanted") && !strcmp(json_str_or(obj, "spec.version", ""), version);
    if (!seen || !said || strcmp(said, "False") != 0 || of_before || clock_mono_ms() - asked_ms < REFUSED_MS)
        return -1;
    fprintf(stderr, "seki: cluster %s: %s\n", name, cli_plain(c->arena, obj_condition_message(obj, "Upgraded")));
    return 1;
}

static int follow(struct cli *c, const char *name, const char *version, bool now, int64_t timeout_ms, json_t **ret)
{
    struct client_resource r = kind_resource(&kind_cluster);
    uint64_t asked = clock_mono_ms(), until = asked + (uint64_t)timeout_ms;
    size_t told = 0;
    for (;; usleep(LOOK_US)) {
        struct err err = ERR_INIT;
        JSON_AUTO obj = NULL;
        if (client_get(c->client, &r, c->ns, name, &obj, &err) < 0)
            return cli_fail(&err);
        const char *to = json_str_or(obj, "status.upgrade.to", "");
        if (!strcmp(to, version))
            tell_stages(c, obj, &told);
        int rc = judge(c, name, obj, version, now, asked);
        if (rc == 0)
            *ret = json_incref(obj);
        if (rc >= 0)
            return rc;
        if (clock_mono_ms() < until)
            continue;
        fprintf(stderr, "seki: cluster %s: not done yet, and goes on: %s\n", name, cli_plain(c->arena, obj_condition_message(obj, "Upgraded")));
        return 1;
    }
}

int cli_cluster_upgrade(struct cli *c)
{
    const char *version = cli_flag(c, "--version"), *text = cli_flag(c, "--timeout"), *name;
    struct client_resource r = kind_resource(&kind_cluster);
    struct err err = ERR_INIT;
    int64_t timeout_ms = WAIT_DEFAULT_MS;
    bool now = cli_switch(c, "--now");
    char unique[UUID_TEXT_MAX];
    JSON_AUTO done = NULL;
    if (text && (clock_parse_duration(str_of(text), &timeout_ms) < 0 || timeout_ms <= 0))
        return cli_usage_error("--timeout=%s: expected a duration such as 5m", text);
    if (!version)
        return cli_usage_error("expected --version MINOR, such as 1.37");
    if (!(name = cli_word(c)))
        return cli_usage_error("expected the cluster's NAME");
    if (cli_no_more(c))
        return 2;
    if (cli_connect(c))
        return 1;
    rnd_uuid(unique);
    JSON_AUTO patch = json_pack("{s:{s:{s:s, s:s?}}, s:{s:s}}", "metadata", "annotations", CLUSTER_UPGRADE_ANNOTATION, unique, CLUSTER_UPGRADE_NOW_ANNOTATION, now ? version : NULL, "spec",
                                "version", version);
    if (client_patch(c->client, &r, c->ns, name, NULL, patch, NULL, &err) < 0) {
        if (err.code != ERR_NOT_FOUND)
            return cli_fail(&err);
        if (!cli_check_project(c))
            fprintf(stderr, "seki: project %s has no cluster %s\n", c->ns, name);
        return 1;
    }
    if (follow(c, name, version, now, timeout_ms, &done))
        return 1;
    bool waits = !now && is_waiting(done);
    if (c->json)
        cli_print_json(waits ? obj_find_condition(done, "Upgraded") : json_at(done, "status.upgrade"));
    else if (waits)
        printf("cluster %s: %s\n", name, cli_plain(c->arena, obj_condition_message(done, "Upgraded")));
    else
        printf("cluster %s runs %s\n", name, cli_plain(c->arena, json_str_or(done, "status.version", version)));
    return 0;
}
