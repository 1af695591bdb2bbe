/* Where a cluster lives: its directory, and the loopback address that is its alone. */
#include "kaas/internal.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <sys/stat.h>
#include <errno.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/rnd.h"

#define RECORD_MAX 4096
#define TRIES 64
#define DEPTH_MAX 16

static int record_read(const char *dir, json_t **ret, struct err *err)
{
    CLEANUP(mem_freep) char *path = xasprintf("%s/cluster.json", dir);
    CLEANUP(mem_freep) char *text = NULL;
    size_t len = 0;
    int rc = file_read(path, RECORD_MAX, &text, &len, err);
    if (rc == 0 && json_parse(str_n(text, len), RECORD_MAX, ret, NULL) < 0)
        rc = err_set(err, ERR_CORRUPT, "%s is no record of a cluster", path);
    return rc;
}

int place_load(const char *dir, char address[16], struct err *err)
{
    JSON_AUTO doc = NULL;
    struct in_addr in;
    int rc = record_read(dir, &doc, err);
    if (rc < 0)
        return rc;
    const char *text = json_str_or(doc, "address", "");
    if (inet_pton(AF_INET, text, &in) != 1 || ntohl(in.s_addr) >> 24 != 127 || !str_to_array(str_of(text), address, 16))
        return err_set(err, ERR_CORRUPT, "%s/cluster.json has no loopback address", dir);
    return 0;
}

bool place_has_nodes(const char *dir)
{
    JSON_AUTO doc = NULL;
    return record_read(dir, &doc, NULL) == 0 && json_str(doc, "nodeNetwork");
}

static bool port_in_use(const char *address, uint16_t port)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port)};
    inet_pton(AF_INET, address, &at.sin_addr);
    CLEANUP(file_closep) int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int on = 1;
    if (fd < 0)
        return false;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)); /* connections that end are no listener */
    return bind(fd, (struct sockaddr *)&at, sizeof(at)) < 0 && errno == EADDRINUSE;
}

bool place_in_use(const char *address, uint16_t *ret_port)
{
    for (const uint16_t *p = cluster_ports; *p; p++)
        if (port_in_use(address, *p)) {
            *ret_port = *p;
            return true;
        }
    return false;
}

/* Neither the network's own address nor its last one. */
static void pick(const struct cluster_network *n, char address[16])
{
    uint32_t random, size = UINT32_MAX >> n->bits;
    rnd_bytes(&random, sizeof(random));
    cluster_network_address(n, 1 + random % (size - 1), address);
}

int place_keep(const struct site *s, const char *address, struct err *err)
{
    CLEANUP(mem_freep) char *path = xasprintf("%s/cluster.json", s->dir);
    CLEANUP(sbuf_deinit) struct sbuf text = {0};
    JSON_AUTO doc = json_pack("{s:s, s:s, s:s, s:s}", "namespace", s->ns, "name", s->name, "uid", s->uid, "address", address);
    if (s->node_network)
        json_object_set_new(doc, "nodeNetwork", json_string(s->node_network));
    sbuf_init(&text, RECORD_MAX);
    json_write_pretty(doc, &text);
    int rc = file_mkdirs(s->dir, 0700, err);
    if (rc == 0)
        rc = file_write(path, sbuf_str(&text), 0600, err);
    return rc;
}

int place_make(const struct site *s, const struct cluster_network *addresses, bool (*taken)(void *arg, const char *address), void *arg, char address[16], struct err *err)
{
    char candidate[16] = "";
    uint16_t port;
    bool found = false;
    for (int i = 0; !found && i < TRIES; i++) {
        pick(addresses, candidate);
        found = !taken(arg, candidate) && !place_in_use(candidate, &port);
    }
    if (!found)
        return err_set(err, ERR_UNAVAILABLE, "no free address was found for the cluster in kubernetes-addresses");
    int rc = place_keep(s, candidate, err);
    if (rc == 0)
        memcpy(address, candidate, sizeof(candidate));
    return rc;
}

/* ---- the end ---- */

static int count_files(const char *dir, int depth)
{
    DIR *d = depth < DEPTH_MAX ? opendir(dir) : NULL;
    int n = 0;
    for (struct dirent *e; d && (e = readdir(d));) {
        struct stat st;
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
            continue;
        CLEANUP(mem_freep) char *path = xasprintf("%s/%s", dir, e->d_name);
        if (lstat(path, &st) == 0)
            n += S_ISDIR(st.st_mode) ? count_files(path, depth + 1) : 1;
    }
    if (d)
        closedir(d);
    return n;
}

int place_remove(const char *dir, int *ret_files, struct err *err)
{
    *ret_files = count_files(dir, 0);
    /* Keys first: should the rest be interrupted, nothing can log in any more. */
    CLEANUP(mem_freep) char *pki = xasprintf("%s/pki", dir);
    int rc = file_exists(pki) ? file_remove_tree(pki, err) : 0;
    if (rc == 0 && file_exists(dir))
        rc = file_remove_tree(dir, err);
    return rc;
}

int place_each(const char *root, void (*fn)(void *arg, const char *uid, const char *ns, const char *name), void *arg, struct err *err)
{
    DIR *d = opendir(root);
    if (!d)
        return errno == ENOENT ? 0 : err_sys(err, errno, "%s", root);
    int why;
    for (struct dirent *e; errno = 0, e = readdir(d), why = errno, e;) {
        JSON_AUTO doc = NULL;
        if (e->d_name[0] == '.')
            continue;
        CLEANUP(mem_freep) char *dir = xasprintf("%s/%s", root, e->d_name);
        bool whole = record_read(dir, &doc, NULL) == 0 && !strcmp(json_str_or(doc, "uid", ""), e->d_name);
        fn(arg, e->d_name, whole ? json_str_or(doc, "namespace", "") : "", whole ? json_str_or(doc, "name", "") : "");
    }
    closedir(d);
    return why ? err_sys(err, why, "%s", root) : 0;
}
