#include "cmd/manifests.h"

#include "base/file.h"
#include "base/mem.h"
#include "json/yaml.h"
#include "kinds/kind.h"

#include <dirent.h>
#include <errno.h>

#define MANIFEST_MAX (4 * 1024 * 1024)

static const struct kind *kind_of(const json_t *obj, struct err *err)
{
    const char *name = json_str(obj, "kind"), *version = json_str(obj, "apiVersion");
    if (!name || !version) {
        err_field(err, ERR_INVALID, name ? "apiVersion" : "kind", "expected apiVersion and kind");
        return NULL;
    }
    const struct kind *k = kind_by_name(name);
    char expected[128] = "";
    if (k)
        kind_api_version(k, expected);
    if (!k || strcmp(expected, version) != 0) {
        err_field(err, ERR_INVALID, "kind", "no such kind here: %s in %s", name, version);
        return NULL;
    }
    return k;
}

static int apply_object(struct client *c, json_t *obj, struct err *err)
{
    const struct kind *k = kind_of(obj, err);
    if (!k)
        return ERR_INVALID;
    const char *name = obj_name(obj);
    const char *ns = k->namespaced ? obj_namespace(obj) : NULL;
    if (k->namespaced && (!ns || !*ns))
        ns = "default";
    if (!name || !*name)
        return err_field(err, ERR_INVALID, "metadata.name", "expected a name");
    struct client_resource r = kind_resource(k);
    struct err inner = ERR_INIT;
    int rc = client_create(c, &r, ns, obj, NULL, &inner);
    if (rc == ERR_EXISTS)
        rc = client_patch(c, &r, ns, name, NULL, obj, NULL, &inner);
    if (rc < 0) {
        if (err)
            *err = inner;
        return err_wrap(err, "%s %s", k->name, name);
    }
    return 0;
}

int manifests_apply_text(struct client *c, const char *name, struct str text, size_t *ret_count,
                         struct err *err)
{
    JSON_AUTO docs = NULL;
    int rc = yaml_parse_all(text, MANIFEST_MAX, &docs, err);
    if (rc < 0)
        return err_wrap(err, "%s", name);
    size_t index, count = 0;
    json_t *doc;
    json_array_foreach (docs, index, doc) {
        if (json_is_null(doc))
            continue;
        json_t *items = json_object_get(doc, "items"), *item;
        size_t i;
        if (json_is_array(items)) { /* a List */
            json_array_foreach (items, i, item) {
                if ((rc = apply_object(c, item, err)) < 0)
                    return err_wrap(err, "%s: document %zu, item %zu", name, index + 1, i + 1);
                count++;
            }
            continue;
        }
        if ((rc = apply_object(c, doc, err)) < 0)
            return err_wrap(err, "%s: document %zu", name, index + 1);
        count++;
    }
    if (ret_count)
        *ret_count += count;
    return 0;
}

static int is_manifest(const struct dirent *d)
{
    struct str n = str_of(d->d_name);
    return d->d_name[0] != '.' &&
           (str_ends(n, STR(".yaml")) || str_ends(n, STR(".yml")) || str_ends(n, STR(".json")));
}

int manifests_apply_dir(struct client *c, const char *dir, size_t *ret_count, struct err *err)
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
            rc = manifests_apply_text(c, path, str_n(text, len), ret_count, err);
        mem_free(names[i]);
    }
    mem_free(names);
    return rc;
}
