/* Where a cluster lives: its directory, and the loopback addresses that are its alone. */
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
    return json_read_file(path, RECORD_MAX, ret, err);
}

static bool is_loopback(const char *text, char to[16])
{
    struct in_addr in;
    return inet_pton(AF_INET, text, &in) == 1 && ntohl(in.s_addr) >> 24 == 127 && str_to_array(str_of(text), to, 16);
}

int place_load(struct site *s, struct err *err)
{
    JSON_AUTO doc = NULL;
    struct site found = *s;
    int rc = record_read(s->dir, &doc, err);
    if (rc < 0)
        return rc;
    const json_t *members = json_at(doc, "members");
    size_t n = json_array_size(members);
    bool good = is_loopback(json_str_or(doc, "address", ""), found.address) && (!members || n == MEMBERS_MAX);
    for (size_t i = 1; good && i < n; i++)
        good = is_loopback(json_string_value(json_array_get(members, i)) ? json_string_value(json_array_get(members, i)) : "", found.more[i - 1]);
    if (!good)
        return err_set(err, ERR_CORRUPT, "%s/cluster.json has no loopback address%s", s->dir, members ? " for each member" : "");
    found.members = n ? (int)n : 1;
    found.joined = (unsigned)json_int(doc, "joined", 0);
    found.replacing = (unsigned)json_int(doc, "replacing", 0);
    *s = found;
    return 0;
}

bool place_from_status(struct site *s, const json_t *cluster)
{
    const json_t *members = json_at(cluster, "status.members");
    struct site found = *s;
    size_t n = json_array_size(members);
    bool good = is_loopback(json_str_or(cluster, "status.address", ""), found.address) && n <= MEMBERS_MAX;
    for (size_t i = 1; good && i < n; i++)
        good = is_loopback(json_str_or(json_array_get(members, i), "address", ""), found.more[i - 1]);
    if (!good)
        return false;
    found.members = n ? (int)n : 1;
    *s = found;
    return true;
}

bool place_is_warm(const char *dir)
{
    JSON_AUTO doc = NULL;
    return record_read(dir, &doc, NULL) == 0 && json_flag(doc, "warm", false);
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

int place_keep(const struct site *s, struct err *err)
{
    CLEANUP(mem_freep) char *path = xasprintf("%s/cluster.json", s->dir);
    CLEANUP(sbuf_deinit) struct sbuf text = {0};
    JSON_AUTO doc = json_pack("{s:s, s:s, s:s, s:s}", "namespace", s->ns, "name", s->name, "uid", s->uid, "address", s->address);
    if (site_members(s) > 1) {
        json_t *list = json_array();
        for (int m = 0; m < site_members(s); m++)
            json_array_append_new(list, json_string(member_address(s, m)));
        json_object_set_new(doc, "members", list);
    }
    if (s->joined)
        json_object_set_new(doc, "joined", json_integer(s->joined));
    if (s->replacing)
        json_object_set_new(doc, "replacing", json_integer(s->replacing));
    if (s->node_network)
        json_object_set_new(doc, "nodeNetwork", json_string(s->node_network));
    if (s->warm && !*s->name)
        json_object_set_new(doc, "warm", json_true());
    sbuf_init(&text, RECORD_MAX);
    json_write_pretty(doc, &text);
    int rc = file_mkdirs(s->dir, 0700, err);
    if (rc == 0)
        rc = file_write(path, sbuf_str(&text), 0600, err);
    return rc;
}

/* None that one of ours has already. */
static bool is_free(const struct site *s, int have, const char *candidate)
{
    uint16_t port;
    for (int m = 0; m < have; m++)
        if (!strcmp(m ? s->more[m - 1] : s->address, candidate))
            return false;
    return !place_in_use(candidate, &port);
}

int place_make(struct site *s, int members, const struct cluster_network *addresses, bool (*taken)(void *arg, const char *address), void *arg, struct err *err)
{
    char candidate[16] = "";
    struct site found = *s;
    int have = 0;
    for (int i = 0; have < members && i < TRIES * members; i++) {
        pick(addresses, candidate);
        if (!taken(arg, candidate) && is_free(&found, have, candidate)) {
            memcpy(have ? found.more[have - 1] : found.address, candidate, sizeof(candidate));
            have++;
        }
    }
    if (have < members)
        return err_set(err, ERR_UNAVAILABLE, "no free address was found for the cluster in kubernetes-addresses");
    found.members = members;
    int rc = place_keep(&found, err);
    if (rc == 0)
        *s = found;
    return rc;
}

/* ---- among all of ours ---- */

static bool is_taken(void *arg, const char *address)
{
    struct kaas *k = arg;
    struct map_iter it = MAP_ITER_INIT;
    bool taken = false;
    while (map_next(k->memory, &it))
        for (int m = 0; m < MEMBERS_MAX; m++)
            taken |= !strcmp(((const struct cluster_memory *)it.value)->address[m], address);
    JSON_AUTO all = informer_list(k->clusters, NULL);
    size_t i;
    json_t *c;
    json_array_foreach (all, i, c) {
        const json_t *members = json_at(c, "status.members");
        taken |= !strcmp(json_str_or(c, "status.address", ""), address);
        for (size_t m = 0; m < json_array_size(members); m++)
            taken |= !strcmp(json_str_or(json_array_get(members, m), "address", ""), address);
    }
    return taken;
}

void place_remember(const struct site *s, struct cluster_memory *memory)
{
    for (int m = 0; m < site_members(s); m++)
        memcpy(memory->address[m], member_address(s, m), sizeof(memory->address[m]));
}

int place_take(struct kaas *k, struct site *s, int members, struct err *err)
{
    pthread_mutex_lock(&k->lock);
    int rc = place_make(s, members, &k->addresses, is_taken, k, err);
    if (rc == 0) {
        struct cluster_memory *m = XNEW(struct cluster_memory);
        place_remember(s, m);
        map_set(k->memory, str_of(s->uid), m);
    }
    pthread_mutex_unlock(&k->lock);
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
