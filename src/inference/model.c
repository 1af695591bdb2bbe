/* Model: the files are what the manifest says, or they are not served. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
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

bool model_files_proven(const json_t *model)
{
    const char *source = json_str_or(model, "spec.source", "file://") + strlen("file://");
    size_t i;
    json_t *f;
    json_array_foreach (json_at(model, "spec.files"), i, f) {
        char path[8192];
        struct stat st;
        const struct model_file file = {.name = json_str_or(f, "name", ""), .digest = json_str_or(f, "digest", "")};
        snprintf(path, sizeof(path), "%s/%s", source, file.name);
        if (stat(path, &st) != 0 || !proven(model, &file, &st))
            return false;
    }
    return i > 0;
}

/* ---- where files may lie ---- */

/* Below dir, when that exists; both without links. */
static bool is_below(const char *real, struct str dir)
{
    char name[4096], *root;
    if (!str_to_array(dir, name, sizeof(name)) || !(root = realpath(name, NULL)))
        return false;
    size_t len = strlen(root);
    bool below = !strncmp(real, root, len) && (len == 1 || real[len] == '/');
    free(root);
    return below;
}

bool model_may_read(const char *real, const char *model_dirs, const char *data_dir)
{
    struct str rest = str_of(model_dirs), dir;
    char models[4096];
    snprintf(models, sizeof(models), "%s/models", data_dir ? data_dir : "");
    if (data_dir && is_below(real, str_of(data_dir)))
        return is_below(real, str_of(models));
    if (!rest.len)
        return true;
    while (str_cut(&rest, ',', &dir))
        if (str_trim(dir).len && is_below(real, str_trim(dir)))
            return true;
    return false;
}

static bool check_place(struct inference *i, struct reconcile *r, const char *path)
{
    char *real = realpath(path, NULL);
    bool may = real && model_may_read(real, i->o.model_dirs, i->o.data_dir);
    if (!real)
        set_condition(r->obj, CONDITION, "False", "FileMissing", "%s: %s", path, strerror(errno));
    else if (!may)
        set_condition(r->obj, CONDITION, "False", "SourceForbidden", "%s lies where no Model's files may lie: %s", path,
                      i->o.model_dirs && *i->o.model_dirs ? "option model-dirs says where they may" : "in the data directory, and not in its models/");
    free(real);
    return may;
}

/* ---- verifying ---- */

struct progress {
    struct inference *i;
    struct reconcile *r;
    const struct model_file *file;
    uint64_t told_ms;
};

static bool tell_progress(void *arg, uint64_t done_bytes)
{
    struct progress *p = arg;
    struct client_resource resource = kind_resource(&kind_model);
    uint64_t now = clock_mono_ms();
    if (atomic_load(&p->i->stopping))
        return false;
    if (now - p->told_ms < PROGRESS_MS)
        return true;
    p->told_ms = now;
    set_condition(p->r->obj, CONDITION, "Unknown", "Verifying", "hashing %s: %d%% of %lld MB", p->file->name, (int)((double)done_bytes * 100 / (double)p->file->size_bytes),
                  (long long)(p->file->size_bytes / 1000000));
    json_t *fresh = NULL;
    int rc = client_update_status(p->r->client, &resource, p->r->obj, &fresh, NULL);
    if (rc == 0) {
        json_object_set(p->r->obj, "metadata", json_object_get(fresh, "metadata"));
        json_decref(fresh);
    }
    return rc != ERR_NOT_FOUND; /* deleted meanwhile: nobody waits for the rest */
}

/* Out of the way of every engine, and still there for whoever wants to know what it is. Only what is named like a model: a manifest is no means to move other files. */
static bool put_aside(struct reconcile *r, const char *path, const char *digest_hex)
{
    static const char *const suffixes[] = {".gguf", ".safetensors", ".bin", ".json", ".model", ".txt", ".part"};
    bool moved = false;
    for (size_t i = 0; i < ARRAY_LEN(suffixes); i++)
        moved |= str_ends(str_of(path), str_of(suffixes[i]));
    const char *aside = arena_printf(r->arena, "%s.rejected-%.8s", path, digest_hex);
    moved = moved && rename(path, aside) == 0;
    if (moved)
        manager_event(r->manager, r->obj, "Warning", "DigestMismatch", arena_printf(r->arena, "%s was put aside as %s", path, aside));
    return moved;
}

static bool refuse_digest(struct reconcile *r, const struct model_file *f, const char *path, const char *hex)
{
    bool aside = put_aside(r, path, hex);
    set_condition(r->obj, CONDITION, "False", "DigestMismatch", "%s has sha256:%s, the manifest says %s; it %sis not served", path, hex, f->digest, aside ? "was put aside and " : "");
    return false;
}

/* It may be there, and is of the right size. */
static bool look_at_file(struct inference *i, struct reconcile *r, const struct model_file *f, const char *path, struct stat *st)
{
    const char *reason_now = obj_condition_reason(r->obj, CONDITION);
    if (stat(path, st) != 0) {
        if (!reason_now || strcmp(reason_now, "DigestMismatch") != 0) /* it was we who took it away: say that, until another one is there */
            set_condition(r->obj, CONDITION, "False", "FileMissing", "%s: %s", path, strerror(errno));
        return false;
    }
    if (!check_place(i, r, path))
        return false;
    if (!S_ISREG(st->st_mode))
        set_condition(r->obj, CONDITION, "False", "FileMissing", "%s is no regular file", path);
    else if (st->st_size < f->size_bytes)
        set_condition(r->obj, CONDITION, "False", "FileIncomplete", "%s has %lld of %lld bytes", path, (long long)st->st_size, (long long)f->size_bytes);
    else if (st->st_size > f->size_bytes)
        set_condition(r->obj, CONDITION, "False", "SizeMismatch", "%s has %lld bytes, the manifest says %lld; it is not served", path, (long long)st->st_size, (long long)f->size_bytes);
    else
        return true;
    return false;
}

/* False: the condition says what is wrong. */
static bool verify_file(struct inference *i, struct reconcile *r, const struct model *m, const struct model_file *f)
{
    const char *path = path_of(r, m, f);
    char hex[SHA256_HEX_MAX];
    uint64_t size = 0;
    struct stat st, after;
    struct err err = ERR_INIT;
    if (!look_at_file(i, r, f, path, &st))
        return false;
    if (proven(r->obj, f, &st))
        return true;
    struct progress p = {i, r, f, clock_mono_ms()};
    int rc = hash_file_sha256(path, tell_progress, &p, hex, &size, &err);
    if (rc == ERR_CANCELED)
        return false;
    if (rc < 0) {
        set_condition(r->obj, CONDITION, "False", "FileUnreadable", "%s", err.msg);
        return false;
    }
    /* Whoever writes it is not done: its digest says nothing yet. */
    if (stat(path, &after) != 0 || modified_ns(&after) != modified_ns(&st) || after.st_ino != st.st_ino || after.st_size != st.st_size || (int64_t)size != st.st_size) {
        set_condition(r->obj, CONDITION, "Unknown", "Verifying", "%s changed while it was hashed", path);
        return false;
    }
    if (strcmp(hex, f->digest + strlen("sha256:")) != 0)
        return refuse_digest(r, f, path, hex);
    keep_proof(r->obj, f, f->digest, &st);
    return true;
}

/* A pass that hashed for an hour must not lose that because somebody has labelled the Model meanwhile; nor why a file was put aside, which no later pass can see. The rest of what
 * it found is found again. */
static int save_proofs(struct reconcile *r, const json_t *before, struct err *err)
{
    struct client_resource resource = kind_resource(&kind_model);
    const char *reason = obj_condition_reason(r->obj, CONDITION), *reason_before = NULL;
    const json_t *proofs = json_at(r->obj, "status.verified");
    int rc = save_status(r, &kind_model, before, err);
    if (rc != ERR_CONFLICT)
        return rc;
    JSON_AUTO was = json_pack("{s:O*}", "status", before);
    reason_before = obj_condition_reason(was, CONDITION);
    JSON_AUTO status = json_object();
    if (proofs && !json_equal(proofs, json_object_get(before, "verified")))
        json_object_set(status, "verified", json_at(r->obj, "status.verified"));
    if (reason && !strcmp(reason, "DigestMismatch") && (!reason_before || strcmp(reason, reason_before) != 0))
        json_object_set(status, "conditions", json_at(r->obj, "status.conditions"));
    JSON_AUTO patch = json_pack("{s:{s:O}, s:O}", "metadata", "uid", json_at(r->obj, "metadata.uid"), "status", status);
    if (json_object_size(status) && client_patch(r->client, &resource, r->ns, r->name, "status", patch, NULL, NULL) < 0)
        log_debug("what was hashed is hashed again", KV("model", r->name), KV("namespace", r->ns));
    return rc;
}

int model_reconcile(void *ctx, struct reconcile *r, struct err *err)
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
        if (__builtin_add_overflow(total, files[i].size_bytes, &total))
            total = INT64_MAX;
    while (good < m.spec.files.count && verify_file(ctx, r, &m, &files[good]))
        good++;
    if (good == m.spec.files.count)
        set_condition(r->obj, CONDITION, "True", "Verified", "%zu file%s, %lld MB, as the manifest says", good, good == 1 ? "" : "s", (long long)(total / 1000000));
    json_put_int(r->obj, "status.totalBytes", total);
    r->requeue_ms = good == m.spec.files.count ? LOOK_AGAIN_MS : WAIT_FILE_MS;
    return save_proofs(r, before, err);
}
