/* The smallest web server and client for images of tests: web serve PORT TEXT | web get ADDRESS PORT. Addresses only: a static program cannot look up names everywhere. */
#include <arpa/inet.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#define WAIT_S 5

static int make(struct sockaddr_in *at, const char *address, const char *port)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    struct timeval wait = {.tv_sec = WAIT_S};
    *at = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((unsigned short)strtoul(port, NULL, 10))};
    if (fd < 0 || inet_pton(AF_INET, address, &at->sin_addr) != 1)
        exit(2);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait));
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof(wait)); /* of connect(), too */
    return fd;
}

static int serve(const char *port, const char *text)
{
    struct sockaddr_in at;
    int listener = make(&at, "0.0.0.0", port);
    struct timeval none = {0};
    setsockopt(listener, SOL_SOCKET, SO_RCVTIMEO, &none, sizeof(none));
    if (bind(listener, (struct sockaddr *)&at, sizeof(at)) < 0 || listen(listener, 64) < 0)
        return 1;
    puts("serving");
    fflush(stdout);
    for (;;) {
        char head[4096], answer[4096];
        int fd = accept(listener, NULL, NULL);
        if (fd < 0)
            continue;
        struct timeval wait = {.tv_sec = WAIT_S};
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait));
        if (recv(fd, head, sizeof(head), 0) > 0) {
            int n = snprintf(answer, sizeof(answer), "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n%s", strlen(text), text);
            if (n > 0 && n < (int)sizeof(answer))
                (void)!write(fd, answer, (size_t)n);
        }
        close(fd);
    }
}

static int get(const char *address, const char *port)
{
    struct sockaddr_in at;
    char buffer[4096];
    int fd = make(&at, address, port);
    if (connect(fd, (struct sockaddr *)&at, sizeof(at)) < 0) {
        perror("connect");
        return 1;
    }
    int n = snprintf(buffer, sizeof(buffer), "GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", address);
    if (write(fd, buffer, (size_t)n) != n)
        return 1;
    ssize_t got;
    int rc = 1;
    while ((got = read(fd, buffer, sizeof(buffer))) > 0) {
        (void)!write(1, buffer, (size_t)got);
        rc = 0;
    }
    return rc;
}

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    if (argc == 4 && !strcmp(argv[1], "serve"))
        return serve(argv[2], argv[3]);
    if (argc == 4 && !strcmp(argv[1], "get"))
        return get(argv[2], argv[3]);
    fputs("usage: web serve PORT TEXT | web get ADDRESS PORT\n", stderr);
    return 2;
}
