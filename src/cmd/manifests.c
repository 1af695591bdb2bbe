#include "cmd/manifests.h"

#include "apiserver/meta.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "json/yaml.h"
#include "kinds/inference.h"

#include <dirent.h>
#include <errno.h>

#define MANIFEST_MAX (4 * 1024 * 1024)
#define SECRET_NAME_MAX 512

/* ---- loading and checking ---- */

static const struct kind *kind_of(const json_t *obj, struct err *err)
{
    const char *name = json_str(obj, "kind"), *version = json_str(obj, "apiVersion");
    if (!name || !version) {
        err_field(err, ERR_INVALID, name ? "apiVersion" : "kind", "expected an object with apiVersion and kind");
        return NULL;
    }
    const struct kind *k = kind_by_name(name);
    char expected[128] = "";
    if (k)
        kind_api_version(k, expected);
    if (!k || strcmp(expected, version) != 0) {
        err_field(err, ERR_INVALID, "kind", "no such kind here: %s in %s%s%s", name, version, k ? "; it is in " : "", expected);
        return NULL;
    }
    return k;
}

/* By the rules that the API has for a creation, as far as they need no API. */
static int check_object(const struct kind *k, const json_t *obj, struct err *err)
{
    CLEANUP(arena_freep) struct arena *a = arena_new(16 * 1024 * 1024);
    JSON_AUTO copy = json_deep_copy(obj);
    struct field_errors *errors = ARENA_NEW(a, struct field_errors);
    errors->arena = a;
    int rc = meta_check_shape(k, copy, META_STRICT, errors, err);
    if (rc == 0)
        rc = meta_prepare_create(k, copy, k->namespaced ? obj_namespace(obj) : "", err);
    if (rc < 0)
        return rc;
    static const char *const no_groups[] = {NULL};
    const struct kind_user nobody = {.name = "", .uid = "", .groups = no_groups};
    struct kind_context c = {.user = &nobody, .namespace = obj_namespace(obj), .now_ms = clock_wall_ms(), .arena = a};
    if (k->has_status)
        json_object_del(copy, "status");
    field_defaults(k->fields, copy);
    field_keep_read_only(k->fields, NULL, copy);
    meta_validate(k, copy, NULL, errors);
    field_validate(k->fields, copy, "", errors);
    if (!errors->count && k->ops && k->ops->validate)
        k->ops->validate(&c, copy, NULL, errors);
    if (errors->count)
        return err_field(err, ERR_INVALID, errors->items[0].path, "%s: %s", errors->items[0].path, errors->items[0].message);
    return 0;
}

static int add_object(struct manifests *m, json_t *obj, const char *where, struct err *err)
{
    struct err inner = ERR_INIT;
    const struct kind *k = kind_of(obj, &inner);
    const char *name = obj_name(obj);
    if (k && k->namespaced && !*obj_namespace(obj))
        json_put_str(obj, "metadata.namespace", "default");
    CLEANUP(mem_freep) char *origin = xasprintf("%s: %s %s", where, k ? k->name : "object", name ? name : "without a name");
    int rc = k ? check_object(k, obj, &inner) : inner.code;
    if (rc < 0) {
        if (err)
            *err = inner;
        return err_wrap(err, "%s", origin);
    }
    *VEC_PUSH(&m->items) = (struct manifest){.kind = k, .object = json_incref(obj), .origin = TAKE(origin)};
    return 0;
}

int manifests_load_text(const char *name, struct str text, struct manifests *m, struct err *err)
{
    JSON_AUTO docs = NULL;
    struct err inner = ERR_INIT;
    int rc = yaml_parse_all(text, MANIFEST_MAX, &docs, &inner);
    if (rc < 0) {
        if (err)
            *err = inner;
        return err_wrap(err, "%s", name);
    }
    size_t index, i;
    json_t *doc, *item;
    json_array_foreach (docs, index, doc) {
        json_t *items = json_object_get(doc, "items");
        CLEANUP(mem_freep) char *where = xasprintf("%s: document %zu", name, index + 1);
        if (json_is_null(doc))
            continue;
        if (!json_is_array(items)) {
            if ((rc = add_object(m, doc, where, err)) < 0)
                return rc;
            continue;
        }
        json_array_foreach (items, i, item) { /* a List */
            CLEANUP(mem_freep) char *place = xasprintf("%s, item %zu", where, i + 1);
            if ((rc = add_object(m, item, place, err)) < 0)
                return rc;
        }
    }
    return 0;
}

static int is_manifest(const struct dirent *d)
{
    struct str n = str_of(d->d_name);
    return d->d_name[0] != '.' &&
           (str_ends(n, STR(".yaml")) || str_ends(n, STR(".yml")) || str_ends(n, STR(".json")));
}

int manifests_load_dir(const char *dir, struct manifests *m, struct err *err)
{
    struct dirent **names = NULL;
    int found = scandir(dir, &names, is_manifest, alphasort);
    if (found < 0)
        return err_sys(err, errno, "cannot read directory %s", dir);
    int rc = 0;
    for (int i = 0; i < found; i++) {
        CLEANUP(mem_freep) char *path = xasprintf("%s/%s", dir, names[i]->d_name);
        CLEANUP(mem_freep) char *text = NULL;
        size_t len = 0;
        if (rc == 0 && (rc = file_read(path, MANIFEST_MAX, &text, &len, err)) == 0)
            rc = manifests_load_text(path, str_n(text, len), m, err);
        mem_free(names[i]);
    }
    mem_free(names);
    return rc;
}

void manifests_deinit(struct manifests *m)
{
    VEC_FOREACH (&m->items, i) {
        json_decref(i->object);
        mem_free(i->origin);
    }
    VEC_DEINIT(&m->items);
}

/* ---- applying ---- */

static char *key_path(const char *dir, const struct manifest *m)
{
    return xasprintf("%s/%s/%s", dir, obj_namespace(m->object), obj_name(m->object));
}

/* The one time that the secret is known. */
static int keep_key(struct client *c, const struct manifest *m, const char *dir, const json_t *made, struct err *err)
{
    CLEANUP(mem_freep) char *path = key_path(dir, m);
    CLEANUP(mem_freep) char *parent = xasprintf("%s/%s", dir, obj_namespace(m->object));
    char line[SECRET_NAME_MAX];
    struct client_resource r = kind_resource(m->kind);
    int n = snprintf(line, sizeof(line), "%s\n", json_str_or(made, "status.key", ""));
    int rc = file_mkdirs(parent, 0700, err);
    if (rc == 0)
        rc = file_write(path, str_n(line, (size_t)n), 0600, err);
    mem_wipe(line, sizeof(line));
    if (rc < 0 && client_delete(c, &r, obj_namespace(m->object), obj_name(m->object), obj_uid(made), NULL) < 0)
        log_warn("a key was made whose secret nobody has; revoke it", KV("key", m->origin));
    return rc;
}

static int apply_one(struct client *c, const struct manifest *m, const char *keys_dir, struct manifests_result *ret, struct err *err)
{
    const char *ns = m->kind->namespaced ? obj_namespace(m->object) : NULL;
    struct client_resource r = kind_resource(m->kind);
    bool is_key = m->kind == &kind_api_key && keys_dir;
    JSON_AUTO made = NULL;
    int rc = client_create(c, &r, ns, m->object, &made, err);
    if (rc == 0) {
        ret->created++;
        return is_key ? keep_key(c, m, keys_dir, made, err) : 0;
    }
    if (rc != ERR_EXISTS)
        return rc;
    CLEANUP(mem_freep) char *path = is_key ? key_path(keys_dir, m) : NULL;
    if (path && !file_exists(path))
        log_warn("the key of a manifest exists, but its secret is in no file; revoke it, and a reload makes another", KV("key", m->origin), KV("file", path));
    ret->present++;
    return client_patch(c, &r, ns, obj_name(m->object), NULL, m->object, NULL, err);
}

int manifests_apply(struct client *c, const struct manifests *m, const char *keys_dir, struct manifests_result *ret, struct err *err)
{
    struct manifests_result local = {0};
    for (int namespaced = 0; namespaced < 2; namespaced++)
        VEC_FOREACH (&m->items, i) {
            struct err inner = ERR_INIT;
            if (i->kind->namespaced != (namespaced == 1) || apply_one(c, i, keys_dir, &local, &inner) == 0)
                continue;
            if (err)
                *err = inner;
            return err_wrap(err, "%s", i->origin);
        }
    if (ret)
        *ret = local;
    return 0;
}
