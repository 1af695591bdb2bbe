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

void model_file_path(const char *source, const char *name, char path[MODEL_PATH_MAX])
{
    struct str dir = str_skip(str_of(source), strlen("file://"));
    while (dir.len && dir.ptr[dir.len - 1] == '/')
        dir.len--;
    snprintf(path, MODEL_PATH_MAX, "%.*s/%s", STR_ARG(dir), name);
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

/* What was found when the file was hashed, when it has not been touched since; NULL: it must be hashed. */
static const char *known_digest(const json_t *obj, const char *name, const struct stat *st)
{
    const json_t *p = find_proof(obj, name);
    bool same = p && json_int(p, "sizeBytes", -1) == st->st_size && json_int(p, "modifiedNs", -1) == modified_ns(st) && json_int(p, "inode", -1) == (int64_t)st->st_ino;
    return same ? json_str(p, "digest") : NULL;
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

bool model_files_proven(const struct inference *i, const json_t *model)
{
    size_t n;
    json_t *f;
    json_array_foreach (json_at(model, "spec.files"), n, f) {
        char path[MODEL_PATH_MAX];
        struct stat st;
        const char *name = json_str_or(f, "name", ""), *known;
        model_file_path(json_str_or(model, "spec.source", ""), name, path);
        if (model_place(path, obj_namespace(model), i->o.model_dirs, i->o.data_dir) < MODEL_SHARED || stat(path, &st) != 0)
            return false;
        known = known_digest(model, name, &st);
        if (!known || strcmp(known, json_str_or(f, "digest", "")) != 0)
            return false;
    }
    return n > 0;
}

/* ---- where files may lie ---- */

/* What is left of path below dir, both as they are written; NULL: it lies elsewhere. */
static const char *below(const char *path, const char *dir)
{
    size_t len = strlen(dir);
    while (len && dir[len - 1] == '/')
        len--;
    return !strncmp(path, dir, len) && path[len] == '/' && path[len + 1] ? path + len + 1 : NULL;
}

/* The same; dir as it is written, or what its links lead to. Nothing of path itself is looked up. */
static const char *below_either(const char *path, const char *dir)
{
    const char *rest = below(path, dir);
    char *real = rest ? NULL : realpath(dir, NULL);
    if (real)
        rest = below(path, real);
    free(real);
    return rest;
}

static enum model_place place_by_text(const char *path, const char *ns, const char *model_dirs, const char *data_dir)
{
    struct str all = str_of(model_dirs), dir;
    char name[MODEL_PATH_MAX];
    snprintf(name, sizeof(name), "%s/models", data_dir ? data_dir : "");
    const char *rest = data_dir ? below_either(path, name) : NULL, *slash = rest ? strchr(rest, '/') : NULL;
    if (slash) /* a directory there is the project's of that name, and nobody else's */
        return str_eqc(str_n(rest, (size_t)(slash - rest)), ns) ? MODEL_OWN : MODEL_FORBIDDEN;
    if (rest)
        return MODEL_SHARED;
    if (data_dir && below_either(path, data_dir))
        return MODEL_FORBIDDEN;
    while (str_cut(&all, ',', &dir))
        if (str_trim(dir).len && str_to_array(str_trim(dir), name, sizeof(name)) && below_either(path, name))
            return MODEL_SHARED;
    return MODEL_FORBIDDEN;
}

/* No way up: "..", "." and empty parts have no place in what is compared as text. */
static bool is_straight(const char *path)
{
    struct str rest = str_skip(str_of(path), 1), part;
    while (str_cut(&rest, '/', &part))
        if (!part.len || str_eqc(part, ".") || str_eqc(part, ".."))
            return false;
    return *path == '/';
}

enum model_place model_place(const char *path, const char *ns, const char *model_dirs, const char *data_dir)
{
    if (!is_straight(path) || place_by_text(path, ns, model_dirs, data_dir) == MODEL_FORBIDDEN)
        return MODEL_FORBIDDEN;
    char *real = realpath(path, NULL);
    enum model_place place = real ? place_by_text(real, ns, model_dirs, data_dir) : MODEL_MISSING;
    free(real);
    return place;
}

/* ---- verifying ---- */

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
    if (reconcile_must_end(p->r))
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

/* Out of the way of every engine, and still there for whoever wants to know what it is. Only in the project's own directory: what others use too is not moved by one's manifest. */
static bool put_aside(struct reconcile *r, const char *path, const char *digest_hex)
{
    const char *aside = arena_printf(r->arena, "%s.rejected-%.8s", path, digest_hex);
    if (rename(path, aside) != 0)
        return false;
    manager_event(r->manager, r->obj, "Warning", "DigestMismatch", arena_printf(r->arena, "%s was put aside as %s", path, aside));
    return true;
}

/* digest: with "sha256:". What stays where it is is not hashed again until it changes. */
static bool refuse_digest(struct reconcile *r, const struct model_file *f, const char *path, enum model_place place, const char *digest, const struct stat *st)
{
    bool aside = place == MODEL_OWN && put_aside(r, path, digest + strlen("sha256:"));
    if (!aside)
        keep_proof(r->obj, f, digest, st);
    set_condition(r->obj, CONDITION, "False", "DigestMismatch", "%s has %s, the manifest says %s; it %sis not served", path, digest, f->digest, aside ? "was put aside and " : "");
    return false;
}

/* It may be there, and is of the right size. Nothing outside the places for models is looked up: who may not read a file does not learn whether it exists. */
static bool look_at_file(struct inference *i, struct reconcile *r, const struct model_file *f, const char *path, enum model_place *place, struct stat *st)
{
    const char *reason_now = obj_condition_reason(r->obj, CONDITION);
    *place = model_place(path, r->ns, i->o.model_dirs, i->o.data_dir);
    if (*place == MODEL_FORBIDDEN) {
        set_condition(r->obj, CONDITION, "False", "SourceForbidden",
                      "%s lies where no file of this project's Models may lie: they lie in models/%s/ of the data directory, or where the operator's option model-dirs says", path, r->ns);
        return false;
    }
    if (*place == MODEL_MISSING || stat(path, st) != 0) {
        if (!reason_now || strcmp(reason_now, "DigestMismatch") != 0) /* it was we who took it away: say that, until another one is there */
            set_condition(r->obj, CONDITION, "False", "FileMissing", "%s: %s", path, strerror(errno));
        return false;
    }
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

/* Its digest, or NULL: the condition says why there is none. */
static const char *hash_file(struct reconcile *r, const struct model_file *f, const char *path, const struct stat *st)
{
    char hex[SHA256_HEX_MAX];
    uint64_t size = 0;
    struct stat after;
    struct err err = ERR_INIT;
    struct progress p = {r, f, clock_mono_ms()};
    int rc = hash_file_sha256(path, tell_progress, &p, hex, &size, &err);
    if (rc == ERR_CANCELED)
        return NULL;
    if (rc < 0) {
        set_condition(r->obj, CONDITION, "False", "FileUnreadable", "%s", err.msg);
        return NULL;
    }
    /* Whoever writes it is not done: its digest says nothing yet. */
    if (stat(path, &after) != 0 || modified_ns(&after) != modified_ns(st) || after.st_ino != st->st_ino || after.st_size != st->st_size || (int64_t)size != st->st_size) {
        set_condition(r->obj, CONDITION, "Unknown", "Verifying", "%s changed while it was hashed", path);
        return NULL;
    }
    return arena_printf(r->arena, "sha256:%s", hex);
}

/* False: the condition says what is wrong. */
static bool verify_file(struct inference *i, struct reconcile *r, const struct model *m, const struct model_file *f)
{
    char path[MODEL_PATH_MAX];
    struct stat st;
    enum model_place place;
    model_file_path(m->spec.source, f->name, path);
    if (!look_at_file(i, r, f, path, &place, &st))
        return false;
    const char *digest = known_digest(r->obj, f->name, &st);
    bool known = digest != NULL;
    digest = known ? arena_strdup(r->arena, digest) : hash_file(r, f, path, &st);
    if (!digest)
        return false;
    if (strcmp(digest, f->digest) != 0)
        return refuse_digest(r, f, path, place, digest, &st);
    if (!known)
        keep_proof(r->obj, f, digest, &st);
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
