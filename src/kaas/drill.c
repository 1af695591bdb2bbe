/* Rehearsal of a restore: what a real one does, beside the running cluster, up to a store that answers. Its store is a workload, so that it ends as one when this program is killed: it belongs to no
 * Cluster, and such are stopped at the start. */
#include "kaas/recovery.h"

#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"

#define START_MS 60000u
#define LOOK_MS 50u
#define STOP_MS 10000u

void drill_workload(const struct site *s, char name[WORKLOAD_NAME_MAX])
{
    snprintf(name, WORKLOAD_NAME_MAX, WORKLOAD_PREFIX "%.63s-%.63s-%.8s-drill", s->ns, s->name, s->uid);
}

static int start(struct kaas *k, const struct site *s, const char *work, struct arena *a, struct err *err)
{
    char name[WORKLOAD_NAME_MAX];
    const char *clients = arena_printf(a, "https://%s:%d", s->address, PORT_DRILL_ETCD), *peers = arena_printf(a, "https://%s:%d", s->address, PORT_DRILL_PEERS);
    const char *argv[] = {arena_printf(a, "%s/etcd", s->programs),
                          "--name=etcd-0",
                          arena_printf(a, "--data-dir=%s/etcd", work),
                          arena_printf(a, "--listen-client-urls=%s", clients),
                          arena_printf(a, "--advertise-client-urls=%s", clients),
                          arena_printf(a, "--listen-peer-urls=%s", peers),
                          arena_printf(a, "--initial-advertise-peer-urls=%s", peers),
                          arena_printf(a, "--initial-cluster=etcd-0=%s", peers),
                          arena_printf(a, "--initial-cluster-token=%s", s->uid),
                          arena_printf(a, "--cert-file=%s/pki/etcd.crt", s->dir),
                          arena_printf(a, "--key-file=%s/pki/etcd.key", s->dir),
                          arena_printf(a, "--trusted-ca-file=%s/pki/etcd-ca.crt", s->dir),
                          "--client-cert-auth=true",
                          arena_printf(a, "--peer-cert-file=%s/pki/etcd.crt", s->dir),
                          arena_printf(a, "--peer-key-file=%s/pki/etcd.key", s->dir),
                          arena_printf(a, "--peer-trusted-ca-file=%s/pki/etcd-ca.crt", s->dir),
                          "--peer-client-cert-auth=true",
                          NULL};
    const char *env[] = {"GOMEMLIMIT=96MiB", NULL};
    drill_workload(s, name);
    return kaas_ensure(k, s, &(struct workload){.name = name, .argv = argv, .env = env, .stop_timeout_ms = STOP_MS}, err);
}

/* It is gone, or has been told to go for so long that the runtime kills it. */
static void end(struct kaas *k, const struct site *s)
{
    char name[WORKLOAD_NAME_MAX];
    struct workload_status w = {0};
    drill_workload(s, name);
    for (uint64_t until = clock_mono_ms() + 2 * STOP_MS; clock_mono_ms() < until;) {
        k->runtime->ops->get(k->runtime, name, &w);
        if (w.state == WORKLOAD_ABSENT)
            return;
        (void)!k->runtime->ops->stop(k->runtime, name, NULL);
        nanosleep(&(struct timespec){.tv_nsec = LOOK_MS * 1000000L}, NULL);
    }
}

static int wait_for_count(struct kaas *k, const struct site *s, struct arena *a, int64_t *ret_keys, struct err *err)
{
    char name[WORKLOAD_NAME_MAX];
    struct workload_status w = {0};
    struct err why = ERR_INIT;
    drill_workload(s, name);
    for (uint64_t until = clock_mono_ms() + START_MS;;) {
        k->runtime->ops->get(k->runtime, name, &w);
        int rc = w.state == WORKLOAD_RUNNING ? snapshot_count(s, PORT_DRILL_ETCD, 0, a, ret_keys, &why) : ERR_UNAVAILABLE;
        if (rc == 0)
            return 0;
        if (s->pass && reconcile_must_end(s->pass))
            return err_set(err, ERR_CANCELED, "a rehearsal was ended: this program stops");
        if (w.restarts > 0 || clock_mono_ms() >= until)
            return err_set(err, ERR_UNAVAILABLE, "the restored store does not run: %s", *w.message ? w.message : why.msg);
        nanosleep(&(struct timespec){.tv_nsec = LOOK_MS * 1000000L}, NULL);
    }
}

/* What the store is of reads it, as a restore has it; where this cloud has not that any more, what the cluster runs. */
static struct site of_version(const struct kaas *k, const struct site *s, const char *version, struct arena *a)
{
    struct site of = *s;
    const char *programs = arena_printf(a, "%s/%s", k->o.programs_dir, version);
    if (*version && access(arena_printf(a, "%s/etcd", programs), X_OK) == 0) {
        of.minor = arena_strdup(a, version);
        of.programs = programs;
    }
    return of;
}

static int run(struct kaas *k, const struct site *s, const char *dir, const char *id, const struct sealed_key *key, const char *work, struct arena *a, struct drill *ret, struct err *err)
{
    struct snapshot x = {.id = ""};
    uint64_t began = clock_mono_ms();
    int64_t revision;
    int rc = snapshot_open(s, dir, id, key, work, a, &x, err);
    if (rc == 0)
        rc = file_remove_tree(arena_printf(a, "%s/pki", work), err);
    const struct site of = of_version(k, s, x.version, a);
    if (rc == 0)
        rc = snapshot_restore(&of, work, 1, x.revision, 0, PORT_DRILL_PEERS, a, &revision, err);
    if (rc == 0)
        rc = start(k, &of, work, a, err);
    if (rc == 0)
        rc = wait_for_count(k, &of, a, &ret->keys, err);
    ret->milliseconds = (int64_t)(clock_mono_ms() - began);
    if (rc == 0 && x.keys >= 0 && ret->keys != x.keys)
        rc = err_set(err, ERR_CORRUPT, "backup %s: the restored store has %lld keys, and there were %lld", id, (long long)ret->keys, (long long)x.keys);
    return rc;
}

int drill_run(struct kaas *k, const struct site *s, const char *dir, const char *id, const struct sealed_key *key, struct arena *a, struct drill *ret, struct err *err)
{
    const char *work = arena_printf(a, "%s/drill", s->dir);
    *ret = (struct drill){0};
    end(k, s); /* one that was left */
    int rc = run(k, s, dir, id, key, work, a, ret, err);
    end(k, s);
    (void)!file_remove_tree(work, NULL);
    return rc;
}

void drill_clean(struct kaas *k, const struct site *s)
{
    CLEANUP(mem_freep) char *work = xasprintf("%s/drill", s->dir);
    if (!file_exists(work))
        return;
    end(k, s);
    (void)!file_remove_tree(work, NULL);
}
