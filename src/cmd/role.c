#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "cmd/roles.h"

#include <arpa/inet.h>
#include <unistd.h>

void role_not_replaced(void)
{
    log_warn("SIGUSR2 is for the supervisor, which has another gateway take over", KVI("supervisor", getppid()));
}

int role_write_addr(const struct options *o, struct arena *a, const char *name, const struct net_addr *addr,
                    struct err *err)
{
    char text[NET_ADDR_TEXT_MAX + 1];
    net_addr_format(addr, text);
    size_t len = strlen(text);
    text[len] = '\n';
    const char *path = options_path(o, a, arena_printf(a, "run/%s.addr", name));
    CLEANUP(mem_freep) char *before = NULL;
    size_t before_len;
    if (file_read(path, sizeof(text), &before, &before_len, NULL) == 0 && str_eq(str_n(before, before_len), str_n(text, len + 1)))
        return 0; /* also on a full disk */
    return file_write(path, str_n(text, len + 1), 0600, err);
}

/* Whether the address can be bound right now: the recorded port may be in someone else's hands. */
static bool is_free(const struct net_addr *addr)
{
    int fd = -1;
    struct net_addr bound;
    if (net_listen(addr, false, &fd, &bound, NULL) < 0)
        return false;
    close(fd);
    return true;
}

int role_listen_addr(const struct options *o, struct arena *a, const char *name, const char *listen, int taken,
                     struct net_addr *ret, struct err *err)
{
    struct net_addr wanted, last;
    int rc = net_addr_parse(str_of(listen), &wanted, err);
    if (rc < 0)
        return rc;
    *ret = wanted;
    if (wanted.sa.sa_family == AF_UNIX || net_addr_port(&wanted) != 0)
        return 0;
    CLEANUP(mem_freep) char *text = NULL;
    size_t len = 0;
    const char *path = options_path(o, a, arena_printf(a, "run/%s.addr", name));
    if (file_read(path, NET_ADDR_TEXT_MAX, &text, &len, NULL) < 0 ||
        net_addr_parse(str_trim(str_n(text, len)), &last, NULL) < 0)
        return 0;
    uint16_t port = net_addr_port(&last);
    if (last.sa.sa_family != wanted.sa.sa_family || port == 0)
        return 0;
    if (wanted.sa.sa_family == AF_INET)
        wanted.in4.sin_port = htons(port);
    else
        wanted.in6.sin6_port = htons(port);
    struct net_addr have;
    int fd;
    bool ours = taken >= 0 && net_adopt(taken, &fd, &have, NULL) == 0 && net_addr_port(&have) == port;
    if (ours || is_free(&wanted))
        *ret = wanted;
    return 0;
}
