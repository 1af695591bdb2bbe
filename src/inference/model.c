/* Model: the files are what the manifest says, or they are not served. */
#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "crypto/hash.h"
#include "inference/internal.h"

#define LOOK_AGAIN_MS 60000u  /* files may be replaced under us */
#define WAIT_FILE_MS 2000u
#define PROGRESS_MS 1000u
#define CONDITION "Verified"

static const char *path_of(struct reconcile *r, const struct model *m, const struct model_file *f)
{
    return arena_printf(r->arena, "%s/%s", m->spec.source + strlen("file://"), f->name);
}

static int64_t modified_ns(const struct stat *st)
{
    return (int64_t)st->st_mtim.tv_sec * 1000000000 + st->st_mtim.tv_nsec;
}

static json_t *find_proof(const json_t *obj, const char *name)
{
    size_t i;
    json_t *p;
    json_array_foreach (json_at(obj, "status.verified"), i, p)
        if (!strcmp(json_str_or(p, "name", ""), name))
            return p;
    return NULL;
}

/* The file was hashed before and has not been touched since. */
static bool proven(const json_t *obj, const struct model_file *f, const struct stat *st)
{
    const json_t *p = find_proof(obj, f->name);
    return p && !strcmp(json_str_or(p, "digest", ""), f->digest) && json_int(p, "sizeBytes", -1) == st->st_size && json_int(p, "modifiedNs", -1) == modified_ns(st) &&
           json_int(p, "inode", -1) == (int64_t)st->st_ino;
}

static void keep_proof(json_t *obj, const struct model_file *f, const char *digest, const struct stat *st)
{
    json_t *proofs = json_at(obj, "status.verified"), *p = find_proof(obj, f->name);
    if (!json_is_array(proofs)) {
        proofs = json_array();
        json_put(obj, "status.verified", proofs);
    }
    if (!p) {
        p = json_pack("{s:s}", "name", f->name);
        json_array_append_new(proofs, p);
    }
    json_object_set_new(p, "digest", json_string(digest));
    json_object_set_new(p, "sizeBytes", json_integer(st->st_size));
    json_object_set_new(p, "modifiedNs", json_integer(modified_ns(st)));
    json_object_set_new(p, "inode", json_integer((json_int_t)st->st_ino));
}

struct progress {
    struct reconcile *r;
    const struct model_file *file;
    uint64_t told_ms;
};

static bool tell_progress(void *arg, uint64_t done_bytes)
{
    struct progress *p = arg;
    struct client_resource resource = kind_resource(&kind_model);
    uint64_t now = clock_mono_ms();
    if (now - p->told_ms < PROGRESS_MS)
        return true;
    p->told_ms = now;
    set_condition(p->r->obj, CONDITION, "Unknown", "Verifying", "hashing %s: %d%% of %lld MB", p->file->name, (int)(done_bytes * 100 / (uint64_t)p->file->size_bytes),
                  (long long)(p->file->size_bytes / 1000000));
    json_t *fresh = NULL;
    if (client_update_status(p->r->client, &resource, p->r->obj, &fresh, NULL) == 0) {
        json_object_set(p->r->obj, "metadata", json_object_get(fresh, "metadata"));
        json_decref(fresh);
    }
    return true;
}

/* Out of the way of every engine, and still there for whoever wants to know what it is. */
static void put_aside(struct reconcile *r, const char *path, const char *digest_hex)
{
    const char *aside = arena_printf(r->arena, "%s.rejected-%.8s", path, digest_hex);
    if (rename(path, aside) == 0)
        manager_event(r->manager, r->obj, "Warning", "DigestMismatch", arena_printf(r->arena, "%s was put aside as %s", path, aside));
}

/* False: the condition says what is wrong. */
static bool verify_file(struct reconcile *r, const struct model *m, const struct model_file *f)
{
    const char *path = path_of(r, m, f);
    const char *reason_now = obj_condition_reason(r->obj, CONDITION);
    char hex[SHA256_HEX_MAX];
    uint64_t size = 0;
    struct stat st, after;
    struct err err = ERR_INIT;
    if (stat(path, &st) != 0) {
        if (!reason_now || strcmp(reason_now, "DigestMismatch") != 0) /* it was we who took it away: say that, until another one is there */
            set_condition(r->obj, CONDITION, "False", "FileMissing", "%s: %s", path, strerror(errno));
        return false;
    }
    if (!S_ISREG(st.st_mode)) {
        set_condition(r->obj, CONDITION, "False", "FileMissing", "%s is no regular file", path);
        return false;
    }
    if (st.st_size < f->size_bytes) {
        set_condition(r->obj, CONDITION, "False", "FileIncomplete", "%s has %lld of %lld bytes", path, (long long)st.st_size, (long long)f->size_bytes);
        return false;
    }
    if (proven(r->obj, f, &st))
        return true;
    struct progress p = {r, f, clock_mono_ms()};
    if (hash_file_sha256(path, tell_progress, &p, hex, &size, &err) < 0) {
        set_condition(r->obj, CONDITION, "False", "FileUnreadable", "%s", err.msg);
        return false;
    }
    if (strcmp(hex, f->digest + strlen("sha256:")) != 0) {
        set_condition(r->obj, CONDITION, "False", "DigestMismatch", "%s has sha256:%s, the manifest says %s; it was put aside and is not served", path, hex, f->digest);
        put_aside(r, path, hex);
        return false;
    }
    if (stat(path, &after) != 0 || modified_ns(&after) != modified_ns(&st) || after.st_ino != st.st_ino) {
        set_condition(r->obj, CONDITION, "Unknown", "Verifying", "%s changed while it was hashed", path);
        return false;
    }
    keep_proof(r->obj, f, f->digest, &st);
    return true;
}

int model_reconcile(void *ctx UNUSED, struct reconcile *r, struct err *err)
{
    struct model m;
    if (!r->obj || obj_deleting(r->obj))
        return 0;
    int rc = kind_decode(&kind_model, r->obj, r->arena, &m, err);
    if (rc < 0)
        return rc;
    JSON_AUTO before = json_deep_copy(json_object_get(r->obj, "status"));
    const struct model_file *files = m.spec.files.items;
    int64_t total = 0;
    size_t good = 0;
    for (size_t i = 0; i < m.spec.files.count; i++)
        total += files[i].size_bytes;
    while (good < m.spec.files.count && verify_file(r, &m, &files[good]))
        good++;
    if (good == m.spec.files.count)
        set_condition(r->obj, CONDITION, "True", "Verified", "%zu file%s, %lld MB, as the manifest says", good, good == 1 ? "" : "s", (long long)(total / 1000000));
    json_put_int(r->obj, "status.totalBytes", total);
    r->requeue_ms = good == m.spec.files.count ? LOOK_AGAIN_MS : WAIT_FILE_MS;
    return save_status(r, &kind_model, before, err);
}
