/* The relay before several API servers: who may be asked is looked at by a thread each, connections are the gate's relay's. */
#include "node/api_relay.h"

#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "base/file.h"
#include "base/mem.h"
#include "client/fetch.h"

#define BACKLOG 1024
#define LOOK_TIMEOUT_MS 2000u
#define ANSWER_MAX (64 * 1024)

static atomic_bool stop; /* set by a signal, read by all threads */
static _Atomic unsigned ready;

static void on_stop(int signo UNUSED)
{
    atomic_store(&stop, true);
}

int api_relay_place(const char *text, uint32_t *ret_address, uint16_t *ret_port, struct err *err)
{
    struct str port = str_of(text), host;
    char dotted[16];
    struct in_addr in;
    int64_t n;
    if (!strchr(text, ':') || !str_cut(&port, ':', &host) || !str_to_array(host, dotted, sizeof(dotted)) || inet_pton(AF_INET, dotted, &in) != 1 || str_to_i64(port, 1, 65535, &n) < 0)
        return err_set(err, ERR_INVALID, "\"%.64s\": expected an IPv4 address and a port such as 127.0.0.1:6443", text);
    *ret_address = ntohl(in.s_addr);
    *ret_port = (uint16_t)n;
    return 0;
}

/* ---- who may be asked ---- */

struct looked_at {
    const char *ca;
    char url[48];
    unsigned bit;
};

static void *look(void *arg)
{
    const struct looked_at *l = arg;
    while (!atomic_load(&stop)) {
        const struct fetch_options o = {.address = l->url, .path = "/readyz", .ca_file = l->ca, .timeout_ms = LOOK_TIMEOUT_MS, .max_body_bytes = ANSWER_MAX};
        CLEANUP(mem_freep) char *body = NULL;
        size_t len;
        int status = 0;
        if (fetch(&o, &status, &body, &len, NULL) == 0 && status == 200)
            ready |= l->bit;
        else
            ready &= ~l->bit;
        nanosleep(&(struct timespec){.tv_nsec = RELAY_LOOK_MS * 1000000L}, NULL);
    }
    return NULL;
}

/* ---- the listener ---- */

static int listen_at(uint32_t address, uint16_t port, struct err *err)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(address)};
    int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd >= 0)
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (fd < 0 || bind(fd, (struct sockaddr *)&at, sizeof(at)) < 0 || listen(fd, BACKLOG) < 0) {
        err_set(err, ERR_INTERNAL, "port %d: %s", port, strerror(errno));
        file_closep(&fd);
        return -1;
    }
    return fd;
}

static int serve(char **argv, struct err *err)
{
    struct relay_options o = {.egress_listener = -1, .hub = -1, .outside = -1, .apis = {.ready = &ready}};
    struct looked_at looked[RELAY_APIS_MAX];
    pthread_t threads[RELAY_APIS_MAX];
    uint32_t address;
    uint16_t port;
    size_t started = 0;
    if (!argv[0] || !argv[1])
        return err_set(err, ERR_INVALID, "expected CA ADDRESS:PORT MEMBER:PORT …");
    int rc = api_relay_place(argv[1], &address, &port, err);
    for (size_t i = 2; rc == 0 && argv[i]; i++) {
        uint16_t of;
        if (o.apis.count == RELAY_APIS_MAX)
            return err_set(err, ERR_INVALID, "more than %d members", RELAY_APIS_MAX);
        rc = api_relay_place(argv[i], &o.apis.address[o.apis.count], &of, err);
        if (rc == 0 && o.apis.count && of != o.apis.port)
            return err_set(err, ERR_INVALID, "%s: expected the port of the first member, %d", argv[i], o.apis.port);
        o.apis.port = rc == 0 ? of : 0;
        if (rc == 0) {
            looked[o.apis.count] = (struct looked_at){.ca = argv[0], .bit = 1u << o.apis.count};
            snprintf(looked[o.apis.count].url, sizeof(looked[0].url), "https://%.21s", argv[i]);
            o.apis.count++;
        }
    }
    if (rc < 0)
        return rc;
    CLEANUP(file_closep) int listener = listen_at(address, port, err);
    if (listener < 0)
        return ERR_INTERNAL;
    o.api_listener = listener;
    for (; rc == 0 && started < o.apis.count; started++)
        if (pthread_create(&threads[started], NULL, look, &looked[started]) != 0) {
            rc = err_set(err, ERR_INTERNAL, "no thread could be made");
            atomic_store(&stop, true);
            break;
        }
    if (rc == 0)
        rc = relay_run(&o, &stop, err);
    atomic_store(&stop, true);
    for (size_t i = 0; i < started; i++)
        pthread_join(threads[i], NULL);
    return rc;
}

int api_relay_main(char **argv)
{
    struct err err = ERR_INIT;
    signal(SIGPIPE, SIG_IGN);
    sigaction(SIGTERM, &(struct sigaction){.sa_handler = on_stop}, NULL);
    sigaction(SIGINT, &(struct sigaction){.sa_handler = on_stop}, NULL);
    if (serve(argv, &err) < 0) {
        fprintf(stderr, "api-relay: %s\n", err.msg);
        return 1;
    }
    return 0;
}
