/* The relay of a gate: connections in pairs, on one epoll. */
#include "node/gate_balance.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"

#define BUFFER_BYTES (32 * 1024)
#define PAIRS_MAX 2048
#define BALANCED_MAX (PAIRS_MAX * 3 / 4) /* the rest is kept for the API server's own ways */
#define DIAL_MS 5000u
#define BALANCED_DIAL_MS 2000u /* then another pod is tried, or another API server */
#define HEAD_MS 5000u
#define TICK_MS 1000
#define EVENTS 64
#define DEAD_AFTER_S 60 /* without an answer of the other machine's kernel */

int gate_target(const struct gate_reach *r, struct str head, uint32_t *ret_address, uint16_t *ret_port, struct err *err)
{
    struct str line, method, target, host;
    char dotted[16];
    struct in_addr in;
    int64_t port;
    if (!str_cut(&head, '\n', &line) || !str_cut(&line, ' ', &method) || !str_eqc(method, "CONNECT") || !str_cut(&line, ' ', &target) || !str_starts(line, STR("HTTP/1.")))
        return err_set(err, ERR_INVALID, "expected CONNECT ADDRESS:PORT HTTP/1.1");
    if (!str_cut(&target, ':', &host) || !str_to_array(host, dotted, sizeof(dotted)) || inet_pton(AF_INET, dotted, &in) != 1 || str_to_i64(target, 1, 65535, &port) < 0)
        return err_set(err, ERR_INVALID, "expected an IPv4 address and a port");
    uint32_t address = ntohl(in.s_addr);
    bool node = (address & r->nodes_mask) == r->nodes && address != r->gate && address != r->nodes && address != (r->nodes | ~r->nodes_mask) && port == GATE_KUBELET_PORT;
    bool pod = (address & r->pods_mask) == r->pods;
    if (!node && !pod)
        return err_set(err, ERR_FORBIDDEN, "%s:%d is no kubelet and no pod of this cluster", dotted, (int)port);
    *ret_address = address;
    *ret_port = (uint16_t)port;
    return 0;
}

int relay_next_api(const struct relay_apis *a, unsigned start, unsigned tried)
{
    unsigned ready = a->ready ? *a->ready : ~0u;
    for (int others = 0; others < 2; others++)
        for (size_t i = 0; i < a->count; i++) {
            unsigned n = (unsigned)((start + i) % a->count), bit = 1u << n;
            if (!(tried & bit) && (others || ready & bit))
                return (int)n;
        }
    return -1;
}

/* ---- one pair ---- */

struct side {
    struct pair *pair;
    int fd;
    bool connected, ended, shut; /* ended: nothing comes from it any more; shut: nothing goes to it any more */
    char *buffer;                /* what came from it and is on its way to the other */
    size_t from, len;
    uint32_t events;
};
struct pair {
    struct side side[2]; /* who came, whom we dialled */
    bool head;           /* CONNECT is being read */
    bool dead;
    uint64_t until_ms;   /* of head and dial; 0: none */
    struct balance_pick pick; /* it came for a Service */
    bool to_api;              /* it came for the API */
    unsigned start, tried;    /* of API servers */
    struct pair *next, *prev;
};
struct relay {
    const struct relay_options *o;
    int epoll;
    struct pair *pairs, *graves;
    size_t count;
    unsigned turn; /* of API servers */
    bool paused;
};

static struct side *other(struct side *s)
{
    return &s->pair->side[s == &s->pair->side[0]];
}

static void want(struct relay *r, struct side *s)
{
    const struct side *o = other(s);
    uint32_t events = 0;
    if (s->fd < 0)
        return;
    if (s->connected && !s->ended && s->from + s->len < BUFFER_BYTES)
        events |= EPOLLIN;
    if (!s->connected || o->len)
        events |= EPOLLOUT;
    if (events == s->events)
        return;
    struct epoll_event e = {.events = events, .data.ptr = s};
    epoll_ctl(r->epoll, EPOLL_CTL_MOD, s->fd, &e);
    s->events = events;
}

static int adopt(struct relay *r, struct side *s, int fd, bool connected)
{
    struct epoll_event e = {.events = connected ? EPOLLIN : EPOLLOUT, .data.ptr = s};
    int on = 1, dead = DEAD_AFTER_S;
    s->fd = fd;
    s->connected = connected;
    s->events = e.events;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &dead, sizeof(dead));
    return epoll_ctl(r->epoll, EPOLL_CTL_ADD, fd, &e);
}

static void watch_listeners(struct relay *r, bool on)
{
    const int *const fds[] = {&r->o->api_listener, &r->o->egress_listener};
    if (on != r->paused)
        return;
    for (size_t i = 0; i < ARRAY_LEN(fds); i++)
        epoll_ctl(r->epoll, EPOLL_CTL_MOD, *fds[i], &(struct epoll_event){.events = on ? EPOLLIN : 0, .data.ptr = (void *)(uintptr_t)fds[i]});
    r->paused = !on;
}

static void bury(struct relay *r, struct pair *p)
{
    if (p->dead)
        return;
    p->dead = true; /* events that were already fetched may name it */
    for (int i = 0; i < 2; i++)
        if (p->side[i].fd >= 0)
            close(p->side[i].fd);
    *(p->prev ? &p->prev->next : &r->pairs) = p->next;
    if (p->next)
        p->next->prev = p->prev;
    p->next = r->graves;
    r->graves = p;
    r->count--;
}

static void free_graves(struct relay *r)
{
    while (r->graves) {
        struct pair *p = r->graves;
        r->graves = p->next;
        mem_free(p->side[0].buffer);
        mem_free(p->side[1].buffer);
        mem_free(p);
    }
}

static struct pair *pair_new(struct relay *r, int fd)
{
    struct pair *p = XNEW(struct pair);
    for (int i = 0; i < 2; i++) {
        p->side[i] = (struct side){.pair = p, .fd = -1};
        p->side[i].buffer = xcalloc(1, BUFFER_BYTES);
    }
    p->next = r->pairs;
    if (p->next)
        p->next->prev = p;
    r->pairs = p;
    r->count++;
    if (adopt(r, &p->side[0], fd, true) < 0) {
        bury(r, p);
        return NULL;
    }
    return p;
}

static int dial(struct relay *r, struct pair *p, bool in_hub, uint32_t address, uint16_t port)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(address)};
    in_hub &= r->o->hub >= 0;
    if (in_hub && setns(r->o->hub, CLONE_NEWNET) < 0)
        return -1;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (in_hub && setns(r->o->outside, CLONE_NEWNET) < 0)
        _exit(1); /* nothing may go on in the wrong network */
    if (fd < 0)
        return -1;
    int rc = connect(fd, (struct sockaddr *)&at, sizeof(at));
    if (rc < 0 && errno != EINPROGRESS) {
        close(fd);
        return -1;
    }
    p->until_ms = clock_mono_ms() + (p->pick.listener || (p->to_api && r->o->apis.count > 1) ? BALANCED_DIAL_MS : DIAL_MS);
    return adopt(r, &p->side[1], fd, false);
}

static bool next_api(struct relay *r, struct pair *p, uint32_t *ret_address, uint16_t *ret_port)
{
    int n = relay_next_api(&r->o->apis, p->start, p->tried);
    if (n < 0)
        return false;
    p->tried |= 1u << n;
    *ret_address = r->o->apis.address[n];
    *ret_port = r->o->apis.port;
    return true;
}

/* Dials the next pod of its Service, or the next API server; false: there is none, or it came for something else. Nothing has been relayed yet. */
static bool dial_next(struct relay *r, struct pair *p)
{
    struct side *s = &p->side[1];
    uint32_t address;
    uint16_t port;
    if (s->connected || !(p->pick.listener || p->to_api))
        return false;
    do {
        if (s->fd >= 0)
            close(s->fd);
        s->fd = -1;
        if (!(p->to_api ? next_api(r, p, &address, &port) : balance_next(r->o->balance, &p->pick, &address, &port)))
            return false;
    } while (dial(r, p, !p->to_api, address, port) < 0);
    return true;
}

/* Before anything is relayed: a short answer that surely has room in the socket. */
static bool answer(struct pair *p, const char *text)
{
    size_t len = strlen(text);
    return send(p->side[0].fd, text, len, MSG_NOSIGNAL) == (ssize_t)len;
}

static bool pump(struct relay *r, struct side *s)
{
    struct side *o = other(s);
    while (o->connected && s->len) {
        ssize_t n = send(o->fd, s->buffer + s->from, s->len, MSG_NOSIGNAL);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            break;
        if (n <= 0)
            return false;
        s->from += (size_t)n;
        s->len -= (size_t)n;
    }
    if (!s->len)
        s->from = 0;
    if (s->ended && !s->len && o->connected && !o->shut) {
        shutdown(o->fd, SHUT_WR);
        o->shut = true;
    }
    want(r, s);
    want(r, o);
    return !(s->ended && o->ended && !s->len && !o->len);
}

/* 1: it is whole; 0: more has to come; -1: it is refused. */
static int take_head(struct relay *r, struct pair *p)
{
    struct side *s = &p->side[0];
    uint32_t address;
    uint16_t port;
    const char *end = memmem(s->buffer + s->from, s->len, "\r\n\r\n", 4);
    if (!end)
        return s->len > GATE_HEAD_MAX ? -1 : 0;
    size_t head = (size_t)(end + 4 - (s->buffer + s->from));
    struct err err = ERR_INIT;
    int rc = gate_target(&r->o->reach, str_n(s->buffer + s->from, head), &address, &port, &err);
    s->from += head;
    s->len -= head;
    p->head = false;
    if (rc < 0 || dial(r, p, true, address, port) < 0) {
        (void)!answer(p, rc == ERR_INVALID ? "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n" : rc < 0 ? "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n" : "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n");
        return -1;
    }
    return 1;
}

static bool readable(struct relay *r, struct side *s)
{
    size_t room = BUFFER_BYTES - s->from - s->len;
    ssize_t n = room ? recv(s->fd, s->buffer + s->from + s->len, room, 0) : 1;
    if (n < 0)
        return errno == EAGAIN || errno == EINTR;
    if (n == 0)
        s->ended = true;
    else if (room)
        s->len += (size_t)n;
    if (s->pair->head)
        return !s->ended && take_head(r, s->pair) >= 0;
    return pump(r, s);
}

static bool connected(struct relay *r, struct side *s)
{
    int error = 0;
    socklen_t len = sizeof(error);
    bool egress = s->pair->until_ms && s->pair->head == false && s == &s->pair->side[1];
    if (getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0 || error)
        return false;
    s->connected = true;
    s->pair->until_ms = 0;
    struct sockaddr_storage from;
    socklen_t size = sizeof(from);
    /* Who came by the unix socket has said CONNECT, and waits to hear. */
    if (egress && getsockname(s->pair->side[0].fd, (struct sockaddr *)&from, &size) == 0 && from.ss_family == AF_UNIX && !answer(s->pair, "HTTP/1.1 200 Connection established\r\n\r\n"))
        return false;
    want(r, s);
    return pump(r, other(s));
}

static void accept_from(struct relay *r, int listener)
{
    for (int i = 0; i < EVENTS && r->count < PAIRS_MAX; i++) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0)
            return;
        struct pair *p = pair_new(r, fd);
        if (!p)
            continue;
        p->head = listener == r->o->egress_listener;
        p->until_ms = clock_mono_ms() + HEAD_MS;
        p->to_api = !p->head;
        p->start = r->turn++;
        if (p->to_api && !dial_next(r, p))
            bury(r, p);
    }
    watch_listeners(r, r->count < PAIRS_MAX);
}

static void on_balanced(void *arg, int fd, const struct balance_pick *pick)
{
    struct relay *r = arg;
    struct pair *p = r->count < BALANCED_MAX ? pair_new(r, fd) : NULL;
    if (!p) {
        if (r->count >= BALANCED_MAX)
            close(fd);
        return;
    }
    p->pick = *pick;
    if (!dial_next(r, p))
        bury(r, p);
}

static void on_service_ended(void *arg, uint64_t listener)
{
    struct relay *r = arg;
    for (struct pair *p = r->pairs, *next; p; p = next) {
        next = p->next;
        if (p->pick.listener == listener)
            bury(r, p);
    }
}

static void on_event(struct relay *r, struct side *s, uint32_t events)
{
    bool good = true;
    if (s->pair->dead)
        return;
    if (!s->connected && events & (EPOLLOUT | EPOLLERR | EPOLLHUP))
        good = connected(r, s);
    if (!good && dial_next(r, s->pair))
        return;
    if (good && s->connected && events & EPOLLOUT)
        good = pump(r, other(s));
    if (good && !s->pair->dead && s->connected && !s->ended && events & (EPOLLIN | EPOLLHUP | EPOLLERR))
        good = readable(r, s);
    else if (good && s->ended && events & (EPOLLHUP | EPOLLERR))
        good = false; /* both directions of it are over */
    if (!good)
        bury(r, s->pair);
}

static void expire(struct relay *r)
{
    uint64_t now = clock_mono_ms();
    for (struct pair *p = r->pairs, *next; p; p = next) {
        next = p->next;
        if (p->until_ms && p->until_ms <= now && !dial_next(r, p))
            bury(r, p);
    }
    watch_listeners(r, r->count < PAIRS_MAX);
}

int relay_run(const struct relay_options *o, const atomic_bool *stop, struct err *err)
{
    struct relay r = {.o = o, .epoll = epoll_create1(EPOLL_CLOEXEC)};
    struct epoll_event events[EVENTS];
    uint64_t looked = clock_mono_ms();
    const struct balance_ops balanced = {.accepted = on_balanced, .ended = on_service_ended, .arg = &r};
    if (r.epoll < 0)
        return err_set(err, ERR_INTERNAL, "epoll: %s", strerror(errno));
    epoll_ctl(r.epoll, EPOLL_CTL_ADD, o->api_listener, &(struct epoll_event){.events = EPOLLIN, .data.ptr = (void *)(uintptr_t)&o->api_listener});
    epoll_ctl(r.epoll, EPOLL_CTL_ADD, o->egress_listener, &(struct epoll_event){.events = EPOLLIN, .data.ptr = (void *)(uintptr_t)&o->egress_listener});
    if (o->balance)
        epoll_ctl(r.epoll, EPOLL_CTL_ADD, balance_fd(o->balance), &(struct epoll_event){.events = EPOLLIN, .data.ptr = o->balance});
    while (!atomic_load(stop)) {
        int n = epoll_wait(r.epoll, events, EVENTS, TICK_MS);
        for (int i = 0; i < n; i++) {
            const void *who = events[i].data.ptr;
            if (who == &o->api_listener || who == &o->egress_listener)
                accept_from(&r, *(const int *)who);
            else if (who == o->balance)
                balance_turn(o->balance, &balanced);
            else
                on_event(&r, events[i].data.ptr, events[i].events);
        }
        if (clock_mono_ms() - looked >= TICK_MS) {
            looked = clock_mono_ms();
            expire(&r);
            if (o->balance)
                balance_tick(o->balance, &balanced);
        }
        free_graves(&r);
    }
    while (r.pairs)
        bury(&r, r.pairs);
    free_graves(&r);
    close(r.epoll);
    return 0;
}
