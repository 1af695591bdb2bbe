/* What the API server of a cluster writes into its audit log, which is its tenant's. Bodies of Secrets, ConfigMaps and tokens never are, whatever level is asked for. */
#include "kaas/internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"

/* The first that fits counts. Who reads a Secret is always said, whoever it is. */
#define RULES_JSON \
    "[{\"level\":\"None\",\"nonResourceURLs\":[\"/healthz*\",\"/livez*\",\"/readyz*\"]}," \
    "{\"level\":\"None\",\"resources\":[{\"group\":\"coordination.k8s.io\",\"resources\":[\"leases\"]},{\"group\":\"\",\"resources\":[\"events\"]},{\"group\":\"events.k8s.io\",\"resources\":[\"events\"]}]}," \
    "{\"level\":\"Metadata\",\"resources\":[{\"group\":\"\",\"resources\":[\"secrets\",\"configmaps\",\"serviceaccounts/token\"]},{\"group\":\"authentication.k8s.io\"},{\"group\":\"certificates.k8s.io\"}]}," \
    "{\"level\":\"None\",\"users\":[\"system:apiserver\",\"system:kube-scheduler\",\"system:kube-controller-manager\"],\"verbs\":[\"get\",\"list\",\"watch\"]}," \
    "{\"level\":\"None\",\"userGroups\":[\"system:nodes\",\"system:serviceaccounts:kube-system\"],\"verbs\":[\"get\",\"list\",\"watch\"]}," \
    "{\"level\":\"%s\"}]"

/* audit.log, and audit-TIME.log of before. */
int64_t cluster_audit_size(const struct site *s, int *ret_files)
{
    CLEANUP(mem_freep) char *dir = xasprintf("%s/audit", s->dir);
    DIR *d = opendir(dir);
    int64_t bytes = 0;
    *ret_files = 0;
    for (struct dirent *e; d && (e = readdir(d));) {
        struct stat st;
        if (e->d_name[0] == '.' || fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
            continue;
        bytes += st.st_size;
        (*ret_files)++;
    }
    if (d)
        closedir(d);
    return bytes;
}

int cluster_audit_empty(const struct site *s, struct err *err)
{
    CLEANUP(mem_freep) char *path = xasprintf("%s/audit/audit.log", s->dir);
    return truncate(path, 0) < 0 && errno != ENOENT ? err_sys(err, errno, "%s", path) : 0;
}

int cluster_audit_ensure(const struct cluster *c, const struct site *s, struct err *err)
{
    CLEANUP(mem_freep) char *name = xasprintf("audit-%s", cluster_audit_policy(c));
    CLEANUP(mem_freep) char *text = xasprintf(RULES_JSON, cluster_audit_policy(c));
    json_t *rules = NULL;
    int rc = 0;
    for (int m = 0; rc == 0 && m < site_members(s); m++) {
        CLEANUP(arena_freep) struct arena *a = arena_new(16384);
        rc = file_mkdirs(member_audit(s, m, a), 0700, err);
    }
    if (rc == 0)
        rc = json_parse(str_of(text), strlen(text), &rules, err);
    if (rc < 0)
        return rc;
    if (!strcmp(cluster_audit_policy(c), "None")) {
        json_decref(rules);
        rules = json_pack("[{s:s}]", "level", "None");
    }
    return cluster_conf_write(s, name, json_pack("{s:s, s:s, s:[s], s:o}", "apiVersion", "audit.k8s.io/v1", "kind", "Policy", "omitStages", "RequestReceived", "rules", rules), err);
}
