#include "base/clock.h"
#include "cmd/cli.h"
#include "kinds/inference.h"
#include "kinds/kaas.h"

#include <unistd.h>

static void add_rows(struct cli *c, struct cli_table *t, json_t *items, const char *kind, const char *path)
{
    size_t i;
    json_t *obj;
    json_array_foreach (items, i, obj) {
        json_t *ready = obj_find_condition(obj, "Ready");
        const char *state = json_str_or(ready, "status", "Unknown");
        const char *reason = json_str_or(ready, "reason", "Pending");
        /* Degraded: it serves, and something is in the way. */
        bool well = !strcmp(state, "True") && strcmp(reason, "Degraded");
        const char *shown = well ? "Ready" : reason;
        const char *message = well ? json_str_or(obj, path, "") : json_str_or(ready, "message", "");
        cli_table_row(t, (const char *const[]){obj_namespace(obj), arena_printf(c->arena, "%s/%s", kind, obj_name(obj)),
                                               shown, cli_age(c->arena, json_str(ready, "lastTransitionTime")), message});
    }
}

int cli_status(struct cli *c)
{
    const char *only = c->ns;
    if (cli_no_more(c))
        return 2;
    if (cli_connect(c))
        return 1;
    static const struct {
        const struct kind *kind;
        const char *path;
    } shown[] = {{&kind_model_endpoint, "spec.model"},
                 {&kind_model_replica, "status.address"},
                 {&kind_model_route, "spec.servedName"},
                 {&kind_cluster, "status.endpoint"},
                 {&kind_node_pool, "spec.clusterName"}};
    static const char *const heads[] = {"PROJECT", "OBJECT", "STATE", "SINCE", "DETAIL", NULL};
    struct cli_table *t = cli_table_new(c->arena, heads);
    JSON_AUTO all = json_array();
    for (size_t i = 0; i < ARRAY_LEN(shown); i++) {
        struct client_resource r = kind_resource(shown[i].kind);
        struct err err = ERR_INIT;
        JSON_AUTO items = NULL;
        int rc = client_list(c->client, &r, only, NULL, &items, NULL, &err);
        if (rc == ERR_FORBIDDEN && i > 0) /* who may look at some of it sees that */
            continue;
        if (rc < 0)
            return cli_fail(&err);
        add_rows(c, t, items, shown[i].kind->singular, shown[i].path);
        json_array_extend(all, items);
    }
    if (only && !json_array_size(all) && cli_check_project(c))
        return 1;
    if (c->json)
        cli_print_json(all);
    else if (cli_table_rows(t))
        cli_table_print(t, c->color);
    else
        fputs("seki: the API answers; no model endpoints and no clusters are defined\n", stderr);
    return 0;
}

static const struct kind *kind_by_any_name(const char *text, size_t len)
{
    size_t count;
    const struct kind *const *kinds = kind_all(&count);
    struct str wanted = str_n(text, len);
    for (size_t i = 0; i < count; i++) {
        struct str rest = str_of(kinds[i]->short_names ? kinds[i]->short_names : ""), name;
        if (str_ieq(wanted, str_of(kinds[i]->singular)) || str_ieq(wanted, str_of(kinds[i]->plural)))
            return kinds[i];
        while (str_cut(&rest, ',', &name))
            if (str_ieq(wanted, name))
                return kinds[i];
    }
    return NULL;
}

struct awaited {
    const struct kind *kind;
    const char *name, *condition;
    const char *unless[8]; /* reasons to give up for */
    size_t unless_count;
    uint64_t deadline_ms;
    char last[ERR_MSG_MAX];
};

static void tell(struct cli *c, struct awaited *w, const char *text)
{
    const char *line = cli_plain(c->arena, text);
    if (!strncmp(line, w->last, sizeof(w->last) - 1))
        return;
    fprintf(stderr, "    %s\n", line);
    snprintf(w->last, sizeof(w->last), "%s", line);
}

static const char *condition_names(struct cli *c, const json_t *obj)
{
    const char *names = "";
    size_t i;
    json_t *cond;
    json_array_foreach (json_at(obj, "status.conditions"), i, cond)
        names = arena_printf(c->arena, "%s%s%s", names, *names ? ", " : "", json_str_or(cond, "type", ""));
    return names;
}

#define WAIT_FAILED 2 /* and the reason is printed */

static bool is_hopeless(const struct awaited *w, const char *reason)
{
    for (size_t i = 0; i < w->unless_count; i++)
        if (!strcmp(w->unless[i], reason))
            return true;
    return false;
}

/* One look: 1 when the condition holds, 0 when not yet, negative on error, or WAIT_FAILED. What has changed is told. */
static int look(struct cli *c, struct awaited *w, struct err *err)
{
    struct client_resource r = kind_resource(w->kind);
    JSON_AUTO obj = NULL;
    int rc = client_get(c->client, &r, w->kind->namespaced ? c->ns : NULL, w->name, &obj, err);
    if (rc < 0 && rc != ERR_NOT_FOUND && !err_retryable(rc) && rc != ERR_CLOSED)
        return rc;
    if (rc == ERR_NOT_FOUND) { /* it may come, but not into a project that is not there */
        if (w->kind->namespaced && !*w->last && cli_check_project(c))
            return WAIT_FAILED;
        const char *where = w->kind->namespaced ? arena_printf(c->arena, "project %s", c->ns) : "Seki";
        tell(c, w, arena_printf(c->arena, "%s has no %s %s yet", where, w->kind->singular, w->name));
        return 0;
    }
    if (rc < 0) {
        tell(c, w, err->msg);
        return 0;
    }
    /* What its conditions say is of the spec before, until its controller has looked at this one. */
    if (json_int(obj, "status.observedGeneration", obj_generation(obj)) < obj_generation(obj)) {
        tell(c, w, "its spec was changed, and is about to be looked at");
        return 0;
    }
    json_t *cond = obj_find_condition(obj, w->condition);
    if (!cond && json_array_size(json_at(obj, "status.conditions"))) {
        tell(c, w, arena_printf(c->arena, "it has no condition %s; it has %s", w->condition, condition_names(c, obj)));
        return 0;
    }
    if (!strcmp(json_str_or(cond, "status", ""), "True")) {
        if (c->json)
            cli_print_json(obj);
        return 1;
    }
    const char *reason = json_str_or(cond, "reason", "Pending"), *message = json_str_or(cond, "message", "not yet looked at");
    tell(c, w, arena_printf(c->arena, "%s: %s", reason, message));
    return is_hopeless(w, reason) ? err_set(err, ERR_CANCELED, "%s is not %s: %s", w->name, w->condition, reason) : 0;
}

int cli_wait(struct cli *c)
{
    const char *condition_name = cli_flag(c, "--for"), *timeout = cli_flag(c, "--timeout");
    const char *target = cli_word(c), *slash = target ? strchr(target, '/') : NULL;
    int64_t timeout_ms = 300000;
    if (!slash || !slash[1])
        return cli_usage_error("expected KIND/NAME, for example modelendpoint/chat");
    const char *reason;
    struct awaited w = {.condition = condition_name ? condition_name : "Ready"};
    while ((reason = cli_flag(c, "--unless"))) {
        if (w.unless_count == ARRAY_LEN(w.unless))
            return cli_usage_error("--unless: at most %zu reasons", ARRAY_LEN(w.unless));
        w.unless[w.unless_count++] = reason;
    }
    if (timeout && clock_parse_duration(str_of(timeout), &timeout_ms) < 0)
        return cli_usage_error("--timeout=%s: expected a duration such as 5m", timeout);
    if (cli_no_more(c))
        return 2;
    w.kind = kind_by_any_name(target, (size_t)(slash - target));
    w.name = slash + 1;
    w.deadline_ms = clock_mono_ms() + (uint64_t)timeout_ms;
    if (!w.kind)
        return cli_usage_error("no such kind: %.*s", (int)(slash - target), target);
    if (cli_connect(c))
        return 1;
    for (;;) {
        struct err err = ERR_INIT;
        int rc = look(c, &w, &err);
        if (rc > 0)
            return rc == WAIT_FAILED ? 1 : 0;
        if (rc < 0)
            return cli_fail(&err);
        if (clock_mono_ms() > w.deadline_ms) {
            char waited[CLOCK_AGE_MAX];
            clock_format_duration(timeout_ms, waited);
            fprintf(stderr, "seki: %s is not %s after %s; last seen: %s\n", target, w.condition, waited, w.last);
            return 1;
        }
        usleep(100000);
    }
}
