#include "node/gate_balance.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/vec.h"
#include "json/json.h"
#include "kinds/kaas.h"

#define BACKLOG 256
#define EVENTS 64
#define ACCEPTS 64 /* of one listener before others have their turn */

struct endpoint {
    uint32_t address;
    uint16_t port;
};
struct listener {
    uint64_t id; /* never used twice */
    uint32_t address;
    uint16_t port;
    int fd;      /* -1: it could not be had: */
    int error;
    uint32_t turn;
    bool sticky, wanted;
    VEC(struct endpoint) to;
    VEC(struct cluster_network) sources; /* none: anybody */
};
struct balance {
    char *table, *said, *said_new;
    const struct gate_reach *reach;
    int epoll, notify;
    uint64_t ids;
    int64_t generation;
    struct stat seen; /* the table as it was read last */
    VEC(struct listener *) listeners;
};

static char notify_mark; /* what epoll gives back for the file; listeners give themselves */

bool balance_may_reach(const struct gate_reach *r, uint32_t address)
{
    bool node = (address & r->nodes_mask) == r->nodes && address != r->gate && address != r->nodes && address != (r->nodes | ~r->nodes_mask);
    return node || (address & r->pods_mask) == r->pods;
}

/* ---- listeners ---- */

static void listener_free(struct listener *l)
{
    file_closep(&l->fd);
    VEC_DEINIT(&l->to);
    VEC_DEINIT(&l->sources);
    mem_free(l);
}

static void open_listener(struct balance *b, struct listener *l)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(l->port), .sin_addr.s_addr = htonl(l->address)};
    int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd >= 0)
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (fd < 0 || bind(fd, (struct sockaddr *)&at, sizeof(at)) < 0 || listen(fd, BACKLOG) < 0 || epoll_ctl(b->epoll, EPOLL_CTL_ADD, fd, &(struct epoll_event){.events = EPOLLIN, .data.ptr = l}) < 0) {
        l->error = errno;
        if (fd >= 0)
            close(fd);
        return;
    }
    l->fd = fd;
    l->error = 0;
}

/* Without a sync: after a crash of the machine no gate runs, and the next one says it anew. */
static void tell(struct balance *b)
{
    CLEANUP(sbuf_deinit) struct sbuf text = {0};
    JSON_AUTO failed = json_object();
    sbuf_init(&text, BALANCE_TABLE_MAX);
    VEC_FOREACH (&b->listeners, l)
        if ((*l)->fd < 0) {
            char key[32], ip[16];
            struct in_addr in = {htonl((*l)->address)};
            inet_ntop(AF_INET, &in, ip, sizeof(ip));
            snprintf(key, sizeof(key), "%s:%u", ip, (*l)->port);
            json_object_set_new(failed, key, json_string(strerror((*l)->error)));
        }
    JSON_AUTO doc = json_pack("{s:I, s:O}", "generation", (json_int_t)b->generation, "failed", failed);
    json_write(doc, &text);
    FILE *f = fopen(b->said_new, "we");
    bool good = f && fwrite(text.ptr, 1, text.len, f) == text.len;
    if (f && fclose(f) != 0)
        good = false;
    if (!good || rename(b->said_new, b->said) < 0)
        fprintf(stderr, "node-gate: %s: %s\n", b->said, strerror(errno));
}

/* ---- the table ---- */

static struct listener *find(struct balance *b, uint32_t address, uint16_t port)
{
    VEC_FOREACH (&b->listeners, l)
        if ((*l)->address == address && (*l)->port == port)
            return *l;
    return NULL;
}

static bool endpoint_of(const char *text, struct endpoint *ret)
{
    struct str rest = str_of(text), host;
    char dotted[16];
    struct in_addr in;
    int64_t port;
    if (!strchr(text, ':') || !str_cut(&rest, ':', &host) || !str_to_array(host, dotted, sizeof(dotted)) || inet_pton(AF_INET, dotted, &in) != 1 || str_to_i64(rest, 1, 65535, &port) < 0)
        return false;
    *ret = (struct endpoint){ntohl(in.s_addr), (uint16_t)port};
    return true;
}

static void take_port(struct balance *b, const json_t *service, const json_t *row)
{
    struct in_addr in;
    int64_t port = json_int(row, "port", 0);
    struct endpoint to;
    struct cluster_network from;
    size_t i;
    json_t *e;
    if (inet_pton(AF_INET, json_str_or(service, "address", ""), &in) != 1 || port < 1 || port > 65535)
        return;
    struct listener *l = find(b, ntohl(in.s_addr), (uint16_t)port);
    if (!l) {
        l = XNEW(struct listener);
        *l = (struct listener){.id = ++b->ids, .address = ntohl(in.s_addr), .port = (uint16_t)port, .fd = -1, .to = VEC_INIT, .sources = VEC_INIT};
        *VEC_PUSH(&b->listeners) = l;
        open_listener(b, l);
    }
    l->wanted = true;
    l->sticky = json_flag(service, "sticky", false);
    l->to.len = l->sources.len = 0;
    json_array_foreach (json_at(row, "to"), i, e)
        if (json_is_string(e) && endpoint_of(json_string_value(e), &to) && balance_may_reach(b->reach, to.address))
            *VEC_PUSH(&l->to) = to;
    json_array_foreach (json_at(service, "sources"), i, e)
        if (json_is_string(e) && cluster_network_parse(json_string_value(e), &from, NULL) == 0)
            *VEC_PUSH(&l->sources) = from;
    if (json_array_size(json_at(service, "sources")) && !l->sources.len)
        *VEC_PUSH(&l->sources) = (struct cluster_network){0, 32}; /* ranges that nobody understands let nobody in */
}

static void read_table(struct balance *b, const struct balance_ops *ops)
{
    JSON_AUTO doc = NULL;
    struct err err = ERR_INIT;
    size_t i, k;
    json_t *service, *row;
    if (stat(b->table, &b->seen) < 0)
        b->seen = (struct stat){0};
    int rc = json_read_file(b->table, BALANCE_TABLE_MAX, &doc, &err);
    if (rc == ERR_NOT_FOUND)
        return;
    if (rc < 0) {
        fprintf(stderr, "node-gate: %s; what was there stays\n", err.msg);
        return;
    }
    VEC_FOREACH (&b->listeners, l)
        (*l)->wanted = false;
    json_array_foreach (json_at(doc, "services"), i, service)
        json_array_foreach (json_at(service, "ports"), k, row)
            take_port(b, service, row);
    for (size_t n = b->listeners.len; n-- > 0;) {
        struct listener *l = b->listeners.ptr[n];
        if (l->wanted)
            continue;
        ops->ended(ops->arg, l->id);
        b->listeners.ptr[n] = b->listeners.ptr[--b->listeners.len];
        listener_free(l);
    }
    b->generation = json_int(doc, "generation", 0);
    tell(b);
}

/* ---- connections ---- */

static bool welcome(const struct listener *l, uint32_t from)
{
    bool good = !l->sources.len;
    VEC_FOREACH (&l->sources, n)
        good |= cluster_networks_overlap(n, &(struct cluster_network){from, 32});
    return good;
}

static void accept_from(struct listener *l, const struct balance_ops *ops)
{
    for (int i = 0; i < ACCEPTS; i++) {
        struct sockaddr_in from = {0};
        socklen_t size = sizeof(from);
        int fd = accept4(l->fd, (struct sockaddr *)&from, &size, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0)
            return;
        uint32_t client = ntohl(from.sin_addr.s_addr);
        if (!welcome(l, client)) {
            close(fd);
            continue;
        }
        struct balance_pick pick = {.listener = l->id, .start = l->sticky ? client * 2654435761u >> 8 : l->turn++};
        ops->accepted(ops->arg, fd, &pick);
    }
}

bool balance_next(struct balance *b, struct balance_pick *pick, uint32_t *ret_address, uint16_t *ret_port)
{
    VEC_FOREACH (&b->listeners, it) {
        const struct listener *l = *it;
        if (l->id != pick->listener)
            continue;
        if (pick->tried >= l->to.len || pick->tried >= BALANCE_TRIES_MAX)
            return false;
        const struct endpoint *e = &l->to.ptr[(pick->start + pick->tried++) % l->to.len];
        *ret_address = e->address;
        *ret_port = e->port;
        return true;
    }
    return false;
}

void balance_turn(struct balance *b, const struct balance_ops *ops)
{
    struct epoll_event events[EVENTS];
    bool changed = false;
    int n = epoll_wait(b->epoll, events, EVENTS, 0);
    for (int i = 0; i < n; i++)
        if (events[i].data.ptr == &notify_mark)
            changed = true;
        else
            accept_from(events[i].data.ptr, ops);
    if (!changed) /* at last: it may free listeners that events name */
        return;
    char heap[4096] __attribute__((aligned(__alignof__(struct inotify_event))));
    bool ours = false;
    for (ssize_t got; (got = read(b->notify, heap, sizeof(heap))) > 0;)
        for (ssize_t at = 0; at < got;) {
            const struct inotify_event *e = (const struct inotify_event *)(heap + at);
            ours |= e->len && !strcmp(e->name, BALANCE_TABLE);
            at += (ssize_t)(sizeof(*e) + e->len);
        }
    if (ours)
        read_table(b, ops);
}

void balance_tick(struct balance *b, const struct balance_ops *ops)
{
    bool changed = false;
    struct stat now;
    /* A directory that was made anew in the place of the one that is watched. */
    if (stat(b->table, &now) == 0 && (now.st_ino != b->seen.st_ino || now.st_mtim.tv_sec != b->seen.st_mtim.tv_sec || now.st_mtim.tv_nsec != b->seen.st_mtim.tv_nsec))
        read_table(b, ops);
    VEC_FOREACH (&b->listeners, it) {
        struct listener *l = *it;
        if (l->fd >= 0)
            continue;
        int before = l->error;
        open_listener(b, l);
        changed |= l->fd >= 0 || l->error != before;
    }
    if (changed)
        tell(b);
}

/* ---- life ---- */

int balance_fd(const struct balance *b)
{
    return b->epoll;
}

static void nobody_ended(void *arg UNUSED, uint64_t listener UNUSED)
{
}

struct balance *balance_new(const char *dir, const struct gate_reach *reach, struct err *err)
{
    struct balance *b = XNEW(struct balance);
    *b = (struct balance){.table = xasprintf("%s/" BALANCE_TABLE, dir), .said = xasprintf("%s/" BALANCE_SAID, dir), .said_new = xasprintf("%s/" BALANCE_SAID ".new", dir), .reach = reach,
                          .epoll = epoll_create1(EPOLL_CLOEXEC), .notify = inotify_init1(IN_NONBLOCK | IN_CLOEXEC), .listeners = VEC_INIT};
    if (b->epoll < 0 || b->notify < 0 || inotify_add_watch(b->notify, dir, IN_MOVED_TO) < 0 || epoll_ctl(b->epoll, EPOLL_CTL_ADD, b->notify, &(struct epoll_event){.events = EPOLLIN, .data.ptr = &notify_mark}) < 0) {
        err_set(err, ERR_INTERNAL, "watching %s: %s", dir, strerror(errno));
        balance_free(b);
        return NULL;
    }
    read_table(b, &(struct balance_ops){.ended = nobody_ended});
    return b;
}

void balance_free(struct balance *b)
{
    if (!b)
        return;
    VEC_FOREACH (&b->listeners, l)
        listener_free(*l);
    VEC_DEINIT(&b->listeners);
    file_closep(&b->epoll);
    file_closep(&b->notify);
    mem_free(b->table);
    mem_free(b->said);
    mem_free(b->said_new);
    mem_free(b);
}
