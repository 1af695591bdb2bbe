#include "billing/report_write.h"

#include "base/clock.h"
#include "base/mem.h"
#include "json/json.h"
#include "kinds/borrowed.h"

int report_tenant(struct client *c, const char *project, char **ret, struct err *err)
{
    struct client_resource r = kind_resource(&kind_namespace);
    JSON_AUTO ns = NULL;
    int rc = client_get(c, &r, NULL, project, &ns, err);
    if (rc < 0)
        return rc;
    *ret = xstrdup(namespace_tenant(ns, project));
    return 0;
}

static bool says_the_same(const json_t *report, json_t *status)
{
    const char *key;
    json_t *value;
    json_object_foreach (status, key, value)
        if (!json_equal(value, json_object_get(json_object_get(report, "status"), key)))
            return false;
    return true;
}

static int make(struct client *c, const struct client_resource *r, const struct report_place *at, struct err *err)
{
    JSON_AUTO obj = obj_new(at->kind, at->project, at->name);
    json_object_set_new(obj, "spec", json_pack("{s:s}", at->field, at->period));
    if (at->tenant)
        json_object_set_new(json_object_get(obj, "metadata"), "labels", json_pack("{s:s}", LABEL_TENANT, at->tenant));
    int rc = client_create(c, r, at->project, obj, NULL, err);
    return rc == ERR_EXISTS ? 0 : rc;
}

int report_write(struct client *c, const struct report_place *at, json_t *status, struct err *err)
{
    struct client_resource r = kind_resource(at->kind);
    char now[CLOCK_TEXT_MAX];
    JSON_AUTO report = NULL;
    int rc = client_get(c, &r, at->project, at->name, &report, err);
    if (rc == 0 && says_the_same(report, status))
        return 0;
    if (rc == ERR_NOT_FOUND)
        rc = make(c, &r, at, err);
    if (rc < 0)
        return rc;
    clock_format(clock_wall_ms(), now);
    json_object_set_new(status, "updatedAt", json_string(now));
    JSON_AUTO patch = json_pack("{s:O}", "status", status);
    return client_patch(c, &r, at->project, at->name, "status", patch, NULL, err);
}

bool report_failed(int rc)
{
    return rc < 0 && rc != ERR_NOT_FOUND && rc != ERR_FORBIDDEN;
}
