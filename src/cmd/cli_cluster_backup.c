/* seki cluster backup | backups | restore: annotations that ask once, and their answers in the Cluster's status. */
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/rnd.h"
#include "cmd/cli.h"
#include "kinds/kaas.h"

#define LOOK_US 100000
#define WAIT_DEFAULT_MS 300000

struct asking {
    struct cli *c;
    const char *name;
    int64_t timeout_ms;
    json_t *obj; /* as it was seen last */
};

static int start(struct cli *c, struct asking *q)
{
    const char *text = cli_flag(c, "--timeout");
    *q = (struct asking){.c = c, .timeout_ms = WAIT_DEFAULT_MS};
    if (text && (clock_parse_duration(str_of(text), &q->timeout_ms) < 0 || q->timeout_ms <= 0))
        return cli_usage_error("--timeout=%s: expected a duration such as 5m", text);
    q->name = cli_word(c);
    if (!q->name)
        return cli_usage_error("expected the cluster's NAME");
    if (cli_no_more(c))
        return 2;
    return cli_connect(c) ? 1 : 0;
}

static int look(struct asking *q)
{
    struct client_resource r = kind_resource(&kind_cluster);
    struct err err = ERR_INIT;
    json_decref(q->obj);
    q->obj = NULL;
    if (client_get(q->c->client, &r, q->c->ns, q->name, &q->obj, &err) == 0)
        return 0;
    if (err.code != ERR_NOT_FOUND)
        return cli_fail(&err);
    if (!cli_check_project(q->c))
        fprintf(stderr, "seki: project %s has no cluster %s\n", q->c->ns, q->name);
    return 1;
}

/* Sets the annotation; 0, or the exit status. */
static int ask(struct asking *q, const char *annotation, const char *value)
{
    struct client_resource r = kind_resource(&kind_cluster);
    struct err err = ERR_INIT;
    JSON_AUTO patch = json_pack("{s:{s:{s:s}}}", "metadata", "annotations", annotation, value);
    return client_patch(q->c->client, &r, q->c->ns, q->name, NULL, patch, NULL, &err) < 0 ? cli_fail(&err) : 0;
}

/* Until the status says value at path and `also` is so. */
static int wait_for(struct asking *q, const char *path, const char *value, bool (*also)(const json_t *obj), const char *condition)
{
    for (uint64_t until = clock_mono_ms() + (uint64_t)q->timeout_ms;; usleep(LOOK_US)) {
        if (look(q))
            return 1;
        if (!strcmp(json_str_or(q->obj, path, ""), value) && also(q->obj))
            return 0;
        if (clock_mono_ms() < until)
            continue;
        fprintf(stderr, "seki: cluster %s: not done yet, and goes on: %s\n", q->name, cli_plain(q->c->arena, obj_condition_message(q->obj, condition)));
        return 1;
    }
}

static bool always(const json_t *obj UNUSED)
{
    return true;
}

/* It was refused, or the cluster is ready again. */
static bool is_over(const json_t *obj)
{
    const char *said = obj_condition(obj, "Restored");
    return said && strcmp(said, "Unknown") != 0;
}

static int print_result(struct asking *q, const char *condition)
{
    const char *said = obj_condition(q->obj, condition);
    if (said && !strcmp(said, "True"))
        return 0;
    fprintf(stderr, "seki: cluster %s: %s\n", q->name, cli_plain(q->c->arena, obj_condition_message(q->obj, condition)));
    return 1;
}

int cli_cluster_backup(struct cli *c)
{
    struct asking q;
    char value[UUID_TEXT_MAX];
    int rc = start(c, &q);
    if (rc)
        return rc;
    rnd_uuid(value);
    rc = ask(&q, CLUSTER_BACKUP_ANNOTATION, value);
    if (!rc)
        rc = wait_for(&q, "status.backupRequest", value, always, "BackedUp");
    if (!rc)
        rc = print_result(&q, "BackedUp");
    json_t *newest = json_array_get(json_at(q.obj, "status.backups"), 0);
    if (!rc && c->json)
        cli_print_json(newest);
    else if (!rc)
        printf("cluster %s is backed up: %s, %lld keys, %lld bytes\n", q.name, cli_plain(c->arena, json_str_or(newest, "id", "")), (long long)json_int(newest, "keys", 0),
               (long long)json_int(newest, "bytes", 0));
    json_decref(q.obj);
    return rc;
}

int cli_cluster_backups(struct cli *c)
{
    struct asking q;
    size_t i;
    json_t *b;
    int rc = start(c, &q);
    if (!rc)
        rc = look(&q);
    if (rc)
        return rc;
    json_t *list = json_at(q.obj, "status.backups");
    if (c->json) {
        JSON_AUTO none = json_array();
        cli_print_json(list ? list : none);
    } else {
        printf("%-20s %-20s %12s %10s\n", "ID", "TAKEN", "BYTES", "KEYS");
        json_array_foreach (list, i, b)
            printf("%-20s %-20.19s %12lld %10lld\n", cli_plain(c->arena, json_str_or(b, "id", "")), cli_plain(c->arena, json_str_or(b, "takenAt", "")), (long long)json_int(b, "bytes", 0),
                   (long long)json_int(b, "keys", -1));
    }
    json_decref(q.obj);
    return 0;
}

int cli_cluster_restore(struct cli *c)
{
    struct asking q;
    char unique[UUID_TEXT_MAX];
    const char *from = cli_flag(c, "--from");
    int rc = start(c, &q);
    if (rc)
        return rc;
    rnd_uuid(unique);
    const char *value = arena_printf(c->arena, "%s %s", from ? from : "latest", unique);
    rc = ask(&q, CLUSTER_RESTORE_ANNOTATION, value);
    if (!rc)
        rc = wait_for(&q, "status.restore.request", value, is_over, "Restored");
    if (!rc)
        rc = print_result(&q, "Restored");
    if (!rc && c->json)
        cli_print_json(json_at(q.obj, "status.restore"));
    else if (!rc)
        printf("cluster %s is as it was in backup %s; ready again after %lld ms\n", q.name, cli_plain(c->arena, json_str_or(q.obj, "status.restore.backup", "")),
               (long long)json_int(q.obj, "status.restore.milliseconds", 0));
    json_decref(q.obj);
    return rc;
}
