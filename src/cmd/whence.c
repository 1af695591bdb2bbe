#include "cmd/whence.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"

#define TEXT_MAX (256 * 1024)
#define GENERATIONS_MAX 16

struct str whence_in(struct str environment)
{
    struct str one, text = STR_NULL;
    char address[INET6_ADDRSTRLEN];
    unsigned char bytes[sizeof(struct in6_addr)];
    while (!text.ptr && str_cut(&environment, 0, &one)) {
        if (str_starts(one, STR("SSH_CONNECTION=")))
            text = str_skip(one, strlen("SSH_CONNECTION="));
    }
    if (!text.ptr || !str_cut(&text, ' ', &one) || !str_to_array(one, address, sizeof(address)))
        return STR("");
    return inet_pton(AF_INET, address, bytes) == 1 || inet_pton(AF_INET6, address, bytes) == 1 ? one : STR("");
}

/* "PID (NAME) STATE PARENT …": the name may have spaces and parentheses in it. */
int whence_parent(struct str stat)
{
    const char *end = stat.len ? memrchr(stat.ptr, ')', stat.len) : NULL;
    struct str rest = end ? str_n(end, stat.len - (size_t)(end - stat.ptr)) : STR_NULL, word;
    int64_t parent;
    for (int i = 0; i < 3; i++) /* ") ", "S ", "PARENT " */
        if (!str_cut(&rest, ' ', &word))
            return 0;
    return str_to_i64(word, 1, INT32_MAX, &parent) < 0 ? 0 : (int)parent;
}

/* A file of /proc, which has no size. */
static struct str read_proc(int pid, const char *name, char *buffer)
{
    CLEANUP(mem_freep) char *path = xasprintf("/proc/%d/%s", pid, name);
    CLEANUP(file_closep) int fd = open(path, O_RDONLY | O_CLOEXEC);
    size_t len = 0;
    for (ssize_t n; fd >= 0 && len < TEXT_MAX && (n = read(fd, buffer + len, TEXT_MAX - len)) > 0;)
        len += (size_t)n;
    return str_n(buffer, len);
}

const char *whence_address(struct arena *a)
{
    CLEANUP(mem_freep) char *buffer = xcalloc(1, TEXT_MAX);
    int pid = getpid();
    for (int i = 0; i < GENERATIONS_MAX && pid > 0; i++) {
        struct str found = whence_in(read_proc(pid, "environ", buffer));
        if (found.len)
            return arena_strndup(a, found);
        pid = whence_parent(read_proc(pid, "stat", buffer));
    }
    return "";
}

const char *whence_agent(struct arena *a, const char *command)
{
    char host[128] = "?", tty[64];
    (void)!gethostname(host, sizeof(host) - 1);
    bool terminal = ttyname_r(STDERR_FILENO, tty, sizeof(tty)) == 0 || ttyname_r(STDIN_FILENO, tty, sizeof(tty)) == 0;
    const char *text = arena_printf(a, "%s on %s%s%s", command, host, terminal ? ", " : "", terminal ? tty : "");
    return str_utf8_valid(str_of(text)) ? text : command;
}
