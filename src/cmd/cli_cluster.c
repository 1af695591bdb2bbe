#include <unistd.h>

#include "base/clock.h"
#include "cmd/cli.h"
#include "kinds/kaas.h"

#define LOOK_US 100000
#define WAIT_DEFAULT_MS 300000

/* ---- what they share ---- */

int cli_cluster_name(struct cli *c, const char **ret)
{
    *ret = cli_word(c);
    return *ret ? cli_no_more(c) : cli_usage_error("expected the cluster's NAME");
}

static int take_timeout(struct cli *c, int64_t *ret_ms)
{
    const char *text = cli_flag(c, "--timeout");
    *ret_ms = WAIT_DEFAULT_MS;
    if (text && (clock_parse_duration(str_of(text), ret_ms) < 0 || *ret_ms <= 0))
        return cli_usage_error("--timeout=%s: expected a duration such as 5m", text);
    return 0;
}

int cli_cluster_missing(struct cli *c, const char *name, const struct err *err)
{
    if (err->code != ERR_NOT_FOUND)
        return cli_fail(err);
    if (!cli_check_project(c))
        fprintf(stderr, "seki: project %s has no cluster %s\n", c->ns, name);
    return 1;
}

static int too_late(const char *name, int64_t timeout_ms, const char *last)
{
    char waited[CLOCK_AGE_MAX];
    clock_format_duration(timeout_ms, waited);
    fprintf(stderr, "seki: cluster %s: not done after %s, and goes on; last seen: %s\n", name, waited, last);
    return 1;
}

/* ---- create ---- */

static const struct {
    const char *flag, *path;
} texts[] = {{"--version", "spec.version"}, {"--size", "spec.controlPlane.size"}, {"--pod-cidr", "spec.network.podCIDR"}, {"--service-cidr", "spec.network.serviceCIDR"}};

/* Each stage once it is done, and what stands in the way when that changes. Returns the reason of Ready; "" none yet. */
static const char *tell_stages(struct cli *c, const json_t *obj, size_t *told, const char **last)
{
    json_t *list = json_at(obj, "status.stages"), *s;
    for (; *told < json_array_size(list) && (s = json_array_get(list, *told)) && json_object_get(s, "milliseconds"); ++*told)
        if (!c->json)
            fprintf(stderr, "%-18s %6lld ms\n", cli_plain(c->arena, json_str_or(s, "name", "")), (long long)json_int(s, "milliseconds", 0));
    const char *reason = obj_condition_reason(obj, "Ready");
    if (!reason || !strcmp(reason, "Creating") || !strcmp(reason, "Running"))
        return reason ? reason : "";
    const char *message = cli_plain(c->arena, obj_condition_message(obj, "Ready"));
    if (strcmp(message, *last) != 0)
        fprintf(stderr, "%s\n", message);
    *last = arena_strdup(c->arena, message);
    return reason;
}

/* 0 once it is ready, the object in *ret. */
static int wait_until_ready(struct cli *c, const char *name, int64_t timeout_ms, json_t **ret)
{
    struct client_resource r = kind_resource(&kind_cluster);
    uint64_t until = clock_mono_ms() + (uint64_t)timeout_ms;
    const char *last = "";
    size_t told = 0;
    for (;;) {
        struct err err = ERR_INIT;
        JSON_AUTO obj = NULL;
        if (client_get(c->client, &r, c->ns, name, &obj, &err) < 0)
            return cli_cluster_missing(c, name, &err);
        const char *reason = tell_stages(c, obj, &told, &last), *ready = obj_condition(obj, "Ready");
        if (ready && !strcmp(ready, "True")) {
            *ret = json_incref(obj);
            return 0;
        }
        if (clock_mono_ms() >= until)
            return too_late(name, timeout_ms, *last ? last : reason);
        usleep(LOOK_US);
    }
}

int cli_cluster_create(struct cli *c)
{
    const char *name, *endpoint;
    int64_t timeout_ms;
    bool no_wait = cli_switch(c, "--no-wait");
    JSON_AUTO spec = json_object();
    JSON_AUTO names = json_array();
    JSON_AUTO ret = NULL;
    JSON_AUTO ready = NULL;
    struct err err = ERR_INIT;
    JSON_AUTO holder = json_pack("{s:O}", "spec", spec);
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        const char *text = cli_flag(c, texts[i].flag);
        if (text)
            json_put_str(holder, texts[i].path, text);
    }
    const char *replicas = cli_flag(c, "--replicas");
    int64_t n;
    if (replicas && str_to_i64(str_of(replicas), 1, INT32_MAX, &n) < 0)
        return cli_usage_error("--replicas=%s: expected 1 or 3", replicas);
    if (replicas)
        json_put_int(holder, "spec.controlPlane.replicas", n);
    while ((endpoint = cli_flag(c, "--endpoint-name")))
        json_array_append_new(names, json_string(endpoint));
    if (take_timeout(c, &timeout_ms) || cli_cluster_name(c, &name))
        return 2;
    if (cli_connect(c))
        return 1;
    if (json_array_size(names))
        json_object_set(spec, "endpointNames", names);
    JSON_AUTO obj = obj_new(&kind_cluster, c->ns, name);
    json_object_set(obj, "spec", spec);
    struct client_resource r = kind_resource(&kind_cluster);
    int rc = client_create(c->client, &r, c->ns, obj, &ret, &err);
    if (rc < 0)
        return rc == ERR_NOT_FOUND && cli_check_project(c) ? 1 : cli_fail(&err);
    if (!no_wait && wait_until_ready(c, name, timeout_ms, &ready))
        return 1;
    if (c->json)
        cli_print_json(ready ? ready : ret);
    else if (ready)
        printf("cluster %s of project %s is ready: %s\nits kubeconfig: seki -n %s cluster kubeconfig %s --out %s.kubeconfig\n", name, c->ns, cli_plain(c->arena, json_str_or(ready, "status.endpoint", "")),
               c->ns, name, name);
    else
        printf("cluster %s of project %s is being made\n", name, c->ns);
    return 0;
}

/* ---- delete ---- */

int cli_cluster_delete(struct cli *c)
{
    const char *name, *last = "";
    int64_t timeout_ms;
    struct client_resource r = kind_resource(&kind_cluster);
    struct err err = ERR_INIT;
    JSON_AUTO first = NULL;
    if (take_timeout(c, &timeout_ms) || cli_cluster_name(c, &name))
        return 2;
    if (cli_connect(c))
        return 1;
    if (client_get(c->client, &r, c->ns, name, &first, &err) < 0 || client_delete(c->client, &r, c->ns, name, obj_uid(first), &err) < 0)
        return cli_cluster_missing(c, name, &err);
    for (uint64_t until = clock_mono_ms() + (uint64_t)timeout_ms;;) {
        JSON_AUTO obj = NULL;
        int rc = client_get(c->client, &r, c->ns, name, &obj, &err);
        if (rc == ERR_NOT_FOUND || (rc == 0 && strcmp(obj_uid(obj), obj_uid(first)) != 0))
            break;
        if (rc < 0)
            return cli_fail(&err);
        last = cli_plain(c->arena, obj_condition_message(obj, "Ready"));
        if (clock_mono_ms() >= until)
            return too_late(name, timeout_ms, last);
        usleep(LOOK_US);
    }
    if (c->json)
        printf("{\"project\": \"%s\", \"deleted\": \"%s\"}\n", c->ns, name);
    else
        printf("cluster %s of project %s is deleted; nothing of it is left\n", name, c->ns);
    return 0;
}
