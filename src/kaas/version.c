/* The record of what a cluster runs. */
#include "kaas/upgrade.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"

#define RECORD_MAX 4096

static const char *const stage_names[] = {"", "Backup", "Store", "APIServer", "Controllers", "Scheduler", "Nodes", "Done"};

const char *upgrade_stage_name(enum upgrade_stage s)
{
    return stage_names[s];
}

static bool take(const json_t *doc, const char *key, char *to, size_t size)
{
    return str_to_array(str_of(json_str_or(doc, key, "")), to, size);
}

int version_load(const char *dir, struct version_record *ret, struct err *err)
{
    CLEANUP(mem_freep) char *path = xasprintf("%s/version.json", dir);
    JSON_AUTO doc = NULL;
    *ret = (struct version_record){.stage = UPGRADE_NONE};
    int rc = json_read_file(path, RECORD_MAX, &doc, err);
    if (rc < 0)
        return rc;
    if (!take(doc, "minor", ret->minor, sizeof(ret->minor)) || cluster_minor(ret->minor) < 0 ||
        !take(doc, "to", ret->to, sizeof(ret->to)) || (*ret->to && cluster_minor(ret->to) < 0) ||
        !take(doc, "backup", ret->backup, sizeof(ret->backup)) ||
        !take(doc, "held", ret->held, sizeof(ret->held)) ||
        !take(doc, "heldRequest", ret->held_request, sizeof(ret->held_request)))
        return err_set(err, ERR_CORRUPT, "%s is no record of a version", path);
    const char *stage = json_str_or(doc, "stage", "");
    ret->waiting = (unsigned)json_int(doc, "waiting", 0);
    for (enum upgrade_stage s = UPGRADE_BACKUP; s <= UPGRADE_DONE; s++) {
        char key[32];
        snprintf(key, sizeof(key), "stages.%s", stage_names[s]);
        ret->at_ms[s] = json_int(doc, key, 0);
        if (!strcmp(stage_names[s], stage))
            ret->stage = s;
    }
    if ((*stage != 0) != (ret->stage != UPGRADE_NONE) || (*ret->to != 0) != (ret->stage != UPGRADE_NONE))
        return err_set(err, ERR_CORRUPT, "%s has a stage %.16s of no upgrade", path, stage);
    return 0;
}

int version_store(const char *dir, const struct version_record *v, struct err *err)
{
    CLEANUP(mem_freep) char *path = xasprintf("%s/version.json", dir);
    CLEANUP(sbuf_deinit) struct sbuf text = {0};
    JSON_AUTO doc = json_pack("{s:s}", "minor", v->minor);
    if (v->stage != UPGRADE_NONE) {
        json_put_str(doc, "to", v->to);
        json_put_str(doc, "stage", stage_names[v->stage]);
        json_put_str(doc, "backup", v->backup);
        if (v->waiting)
            json_put_int(doc, "waiting", v->waiting);
        for (enum upgrade_stage s = UPGRADE_BACKUP; s <= v->stage; s++) {
            char key[32];
            snprintf(key, sizeof(key), "stages.%s", stage_names[s]);
            json_put_int(doc, key, v->at_ms[s]);
        }
    }
    if (*v->held) {
        json_put_str(doc, "held", v->held);
        json_put_str(doc, "heldRequest", v->held_request);
    }
    sbuf_init(&text, RECORD_MAX);
    json_write_pretty(doc, &text);
    return file_write(path, sbuf_str(&text), 0600, err);
}

/* "1.37" of "v1.37.2"; "" */
static void minor_of_release(const char *release, char ret[8])
{
    int minor = preflight_kubelet(release);
    *ret = 0;
    if (minor >= 0)
        snprintf(ret, 8, "1.%d", minor);
}

int version_of(const json_t *cluster, const char *spec_version, const char *dir, struct version_record *ret, struct err *err)
{
    struct err why = ERR_INIT;
    int rc = version_load(dir, ret, &why);
    if (rc == 0)
        return 0;
    if (rc != ERR_NOT_FOUND)
        return err_set(err, rc, "%s", why.msg);
    *ret = (struct version_record){.stage = UPGRADE_NONE};
    if (str_to_array(str_of(json_str_or(cluster, "status.minor", "")), ret->minor, sizeof(ret->minor)) && cluster_minor(ret->minor) >= 0)
        return 0;
    minor_of_release(json_str_or(cluster, "status.version", ""), ret->minor);
    return *ret->minor || str_to_array(str_of(spec_version), ret->minor, sizeof(ret->minor)) ? 0 : err_set(err, ERR_INVALID, "spec.version is too long");
}

void version_apply(const struct version_record *v, const char *programs_dir, struct site *s, struct arena *a)
{
    static const enum upgrade_stage stage_of[COMPONENTS] = {[ETCD] = UPGRADE_STORE, [APISERVER] = UPGRADE_APISERVER, [CONTROLLERS] = UPGRADE_CONTROLLERS, [SCHEDULER] = UPGRADE_SCHEDULER};
    bool newer = v->stage >= UPGRADE_STORE;
    s->behind = s->waiting = 0;
    s->older = "";
    s->minor = arena_strdup(a, newer ? v->to : v->minor);
    s->programs = *programs_dir ? arena_printf(a, "%s/%s", programs_dir, s->minor) : "";
    if (!newer || !*programs_dir)
        return;
    s->older = arena_printf(a, "%s/%s", programs_dir, v->minor);
    for (enum component c = 0; c < COMPONENTS; c++) {
        if (stage_of[c] > v->stage)
            s->behind |= 1u << c;
        if (stage_of[c] == v->stage) {
            s->turning = c;
            s->waiting = v->waiting;
        }
    }
}

int version_restored(const json_t *cluster, const char *minor, const char *wanted, const char *dir, struct err *err)
{
    struct version_record v;
    int rc = version_of(cluster, wanted, dir, &v, err);
    if (rc < 0 || (!strcmp(v.minor, minor) && v.stage == UPGRADE_NONE))
        return rc;
    if (v.stage >= UPGRADE_STORE && !strcmp(v.to, minor))
        return 0; /* one that was taken behind the store's stage: the upgrade goes on where it is, and nodes keep to their turns */
    const char *request = obj_annotation(cluster, CLUSTER_UPGRADE_ANNOTATION);
    struct version_record now = {.stage = UPGRADE_NONE};
    if (!str_to_array(str_of(minor), now.minor, sizeof(now.minor)))
        return err_set(err, ERR_CORRUPT, "the backup is of no version that there is: %.16s", minor);
    if (strcmp(minor, wanted) != 0) {
        (void)!str_to_array(str_of(wanted), now.held, sizeof(now.held));
        snprintf(now.held_request, sizeof(now.held_request), "%.63s", request ? request : "");
    }
    return version_store(dir, &now, err);
}

bool version_wants_backup(const char *dir, int64_t *ret_ms)
{
    struct version_record v;
    if (version_load(dir, &v, NULL) < 0 || v.stage != UPGRADE_BACKUP)
        return false;
    *ret_ms = v.at_ms[UPGRADE_BACKUP];
    return true;
}
