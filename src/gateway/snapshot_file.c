#include "gateway/snapshot_internal.h"

#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"

#define SNAPSHOT_MAX (256u * 1024 * 1024)
#define SNAPSHOT_VERSION 1

int snapshot_save(const char *path, const struct snapshot_source *s, struct err *err)
{
    CLEANUP(sbuf_deinit) struct sbuf text = {0};
    JSON_AUTO doc = json_pack("{s:i, s:O, s:O, s:O, s:O, s:O, s:O, s:O}", "version", SNAPSHOT_VERSION, "keys", s->keys, "endpoints", s->endpoints, "replicas", s->replicas, "namespaces",
                              s->namespaces, "tenants", s->tenants, "limits", s->limits, "prices", s->prices);
    sbuf_init(&text, SNAPSHOT_MAX);
    if (s->routes)
        json_object_set(doc, "routes", s->routes);
    if (s->sites)
        json_object_set(doc, "sites", s->sites);
    if (s->policies)
        json_object_set(doc, "policies", s->policies);
    json_write(doc, &text);
    if (!sbuf_ok(&text))
        return err_set(err, ERR_TOO_LARGE, "the snapshot has more than %u MiB", SNAPSHOT_MAX >> 20);
    return file_write(path, sbuf_str(&text), 0600, err);
}

/* A member of the file: a list of objects. */
static int check_list(const json_t *doc, const char *name, struct err *err)
{
    const json_t *list = json_object_get(doc, name), *item;
    size_t i;
    if (!json_is_array(list))
        return err_field(err, ERR_INVALID, name, "%s: expected a list of objects", name);
    json_array_foreach (list, i, item)
        if (!json_is_object(item))
            return err_field(err, ERR_INVALID, name, "%s[%zu]: expected an object", name, i);
    return 0;
}

/* Whoever can write this file says which keys are good. */
static int check_owner(const char *path, struct err *err)
{
    struct stat st;
    if (lstat(path, &st) < 0)
        return err_sys(err, errno, "%s", path);
    if (!S_ISREG(st.st_mode))
        return err_set(err, ERR_INVALID, "%s is no regular file", path);
    if (st.st_uid != geteuid() || st.st_mode & 077)
        return err_set(err, ERR_INVALID, "%s belongs to user %u with mode %04o; expected user %u and mode 0600", path, st.st_uid, st.st_mode & 07777, geteuid());
    return 0;
}

static int read_file(const char *path, json_t **ret, struct err *err)
{
    static const char *const lists[] = {"keys", "endpoints", "replicas", "namespaces", "tenants", "limits", "routes", "sites", "policies", "prices"};
    JSON_AUTO doc = NULL;
    int rc = check_owner(path, err);
    if (rc == 0)
        rc = json_read_file(path, SNAPSHOT_MAX, &doc, err);
    if (rc < 0)
        return rc;
    int64_t version = json_int(doc, "version", 0);
    if (version != SNAPSHOT_VERSION)
        return err_field(err, ERR_INVALID, "version", "version %lld of the file's format; this program reads version %d", (long long)version, SNAPSHOT_VERSION);
    static const char *const later[] = {"tenants", "limits", "routes", "sites", "policies", "prices"}; /* files that were written before there were any lack them */
    for (size_t i = 0; i < ARRAY_LEN(later); i++)
        if (!json_object_get(doc, later[i]))
            json_object_set_new(doc, later[i], json_array());
    for (size_t i = 0; i < ARRAY_LEN(lists); i++)
        if ((rc = check_list(doc, lists[i], err)) < 0)
            return rc;
    *ret = json_incref(doc);
    return 0;
}

int snapshot_load(const char *path, struct snapshot_source *ret, struct err *err)
{
    JSON_AUTO doc = NULL;
    int rc = read_file(path, &doc, err);
    if (rc < 0)
        return rc;
    *ret = (struct snapshot_source){json_incref(json_object_get(doc, "keys")), json_incref(json_object_get(doc, "endpoints")), json_incref(json_object_get(doc, "replicas")),
                                    json_incref(json_object_get(doc, "namespaces")), json_incref(json_object_get(doc, "tenants")), json_incref(json_object_get(doc, "limits")),
                                    json_incref(json_object_get(doc, "routes")), json_incref(json_object_get(doc, "sites")), json_incref(json_object_get(doc, "policies")), json_incref(json_object_get(doc, "prices"))};
    return 0;
}

void snapshot_source_deinit(struct snapshot_source *s)
{
    json_decref(s->keys);
    json_decref(s->endpoints);
    json_decref(s->replicas);
    json_decref(s->namespaces);
    json_decref(s->tenants);
    json_decref(s->limits);
    json_decref(s->routes);
    json_decref(s->sites);
    json_decref(s->policies);
    json_decref(s->prices);
    *s = (struct snapshot_source){.keys = NULL};
}
