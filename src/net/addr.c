#include "net/addr.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <sys/stat.h>
#include <unistd.h>

#define BACKLOG 4096

static int parse_unix(struct str path, struct net_addr *ret, struct err *err)
{
    struct net_addr a = {.un.sun_family = AF_UNIX};
    if (!path.len || path.len >= sizeof(a.un.sun_path) || path.ptr[0] != '/')
        return err_set(err, ERR_INVALID, "unix:%.*s: expected an absolute path of at most %zu bytes", STR_ARG(path), sizeof(a.un.sun_path) - 1);
    memcpy(a.un.sun_path, path.ptr, path.len);
    a.len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + path.len + 1);
    *ret = a;
    return 0;
}

int net_addr_parse(struct str text, struct net_addr *ret, struct err *err)
{
    if (str_starts(text, STR("unix:")))
        return parse_unix(str_skip(text, 5), ret, err);
    const char *colon = text.len ? memrchr(text.ptr, ':', text.len) : NULL;
    int64_t port;
    struct str host = colon ? str_n(text.ptr, (size_t)(colon - text.ptr)) : text;
    if (!colon || str_to_i64(str_skip(text, host.len + 1), 0, 65535, &port) < 0)
        return err_set(err, ERR_INVALID, "%.*s: expected ADDRESS:PORT", STR_ARG(text));
    struct net_addr a = {.len = 0};
    char name[INET6_ADDRSTRLEN];
    if (host.len > 2 && host.ptr[0] == '[' && host.ptr[host.len - 1] == ']') {
        a.in6.sin6_family = AF_INET6;
        a.in6.sin6_port = htons((uint16_t)port);
        a.len = sizeof(a.in6);
        if (str_to_array(str_n(host.ptr + 1, host.len - 2), name, sizeof(name)) && inet_pton(AF_INET6, name, &a.in6.sin6_addr) == 1) {
            *ret = a;
            return 0;
        }
    } else {
        a.in4.sin_family = AF_INET;
        a.in4.sin_port = htons((uint16_t)port);
        a.len = sizeof(a.in4);
        if (str_eqc(host, "localhost"))
            host = STR("127.0.0.1");
        if (str_to_array(host, name, sizeof(name)) && inet_pton(AF_INET, name, &a.in4.sin_addr) == 1) {
            *ret = a;
            return 0;
        }
    }
    return err_set(err, ERR_INVALID, "%.*s: expected a numeric address, such as 127.0.0.1:8000 or [::1]:8000", STR_ARG(text));
}

bool net_addr_equal(const struct net_addr *a, const struct net_addr *b)
{
    return a->len == b->len && !memcmp(&a->sa, &b->sa, a->len);
}

void net_addr_format(const struct net_addr *a, char text[NET_ADDR_TEXT_MAX])
{
    char host[INET6_ADDRSTRLEN] = "";
    if (a->sa.sa_family == AF_INET) {
        inet_ntop(AF_INET, &a->in4.sin_addr, host, sizeof(host));
        snprintf(text, NET_ADDR_TEXT_MAX, "%s:%u", host, ntohs(a->in4.sin_port));
    } else if (a->sa.sa_family == AF_INET6) {
        inet_ntop(AF_INET6, &a->in6.sin6_addr, host, sizeof(host));
        snprintf(text, NET_ADDR_TEXT_MAX, "[%s]:%u", host, ntohs(a->in6.sin6_port));
    } else {
        snprintf(text, NET_ADDR_TEXT_MAX, "unix:%s", a->sa.sa_family == AF_UNIX ? a->un.sun_path : "");
    }
}

bool net_addr_is_loopback(const struct net_addr *a)
{
    if (a->sa.sa_family == AF_INET)
        return ntohl(a->in4.sin_addr.s_addr) >> 24 == 127;
    if (a->sa.sa_family == AF_INET6)
        return IN6_IS_ADDR_LOOPBACK(&a->in6.sin6_addr);
    return a->sa.sa_family == AF_UNIX;
}

uint16_t net_addr_port(const struct net_addr *a)
{
    if (a->sa.sa_family == AF_INET)
        return ntohs(a->in4.sin_port);
    return a->sa.sa_family == AF_INET6 ? ntohs(a->in6.sin6_port) : 0;
}

static int new_socket(const struct net_addr *a, struct err *err)
{
    int fd = socket(a->sa.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return err_sys(err, errno, "making a socket");
    if (a->sa.sa_family != AF_UNIX)
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    return fd;
}

/* A socket file that nobody listens on any more. */
static void remove_stale(const struct net_addr *a)
{
    struct stat st;
    if (stat(a->un.sun_path, &st) < 0 || !S_ISSOCK(st.st_mode))
        return;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return;
    if (connect(fd, &a->sa, a->len) < 0 && errno == ECONNREFUSED)
        unlink(a->un.sun_path);
    close(fd);
}

int net_listen(const struct net_addr *a, bool reuse_port, int *ret_fd, struct net_addr *ret_bound, struct err *err)
{
    char text[NET_ADDR_TEXT_MAX];
    net_addr_format(a, text);
    int fd = new_socket(a, err);
    if (fd < 0)
        return fd;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    if (reuse_port)
        setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &(int){1}, sizeof(int));
    if (a->sa.sa_family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &(int){1}, sizeof(int));
    if (a->sa.sa_family == AF_UNIX)
        remove_stale(a);
    if (bind(fd, &a->sa, a->len) < 0 || (a->sa.sa_family == AF_UNIX && chmod(a->un.sun_path, 0600) < 0) || listen(fd, BACKLOG) < 0) {
        int rc = err_sys(err, errno, "cannot listen on %s", text);
        close(fd);
        return rc;
    }
    if (ret_bound) {
        *ret_bound = *a;
        if (a->sa.sa_family != AF_UNIX) {
            ret_bound->len = sizeof(ret_bound->un);
            getsockname(fd, &ret_bound->sa, &ret_bound->len);
        }
    }
    *ret_fd = fd;
    return 0;
}

int net_adopt(int fd, int *ret_fd, struct net_addr *ret_bound, struct err *err)
{
    struct net_addr bound = {.len = sizeof(bound.un)};
    int listens = 0;
    socklen_t len = sizeof(listens);
    if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &len) < 0 || !listens || getsockname(fd, &bound.sa, &bound.len) < 0)
        return err_set(err, ERR_INVALID, "descriptor %d does not listen", fd);
    *ret_fd = fd;
    *ret_bound = bound;
    return 0;
}

int net_connect(const struct net_addr *a, int *ret_fd, struct err *err)
{
    int fd = new_socket(a, err);
    if (fd < 0)
        return fd;
    if (connect(fd, &a->sa, a->len) < 0 && errno != EINPROGRESS) {
        char text[NET_ADDR_TEXT_MAX];
        net_addr_format(a, text);
        int rc = err_sys(err, errno, "connecting to %s", text);
        close(fd);
        return rc;
    }
    *ret_fd = fd;
    return 0;
}

int net_connect_result(int fd, struct err *err)
{
    int eno = 0;
    socklen_t len = sizeof(eno);
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &eno, &len) < 0)
        eno = errno;
    return eno ? err_sys(err, eno, "connecting") : 0;
}
