/* The first process of a pod: holds its namespaces, and takes notice of children that end. */
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static void leave(int signo)
{
    (void)signo;
    _exit(0);
}

static void reap(int signo)
{
    (void)signo;
    while (waitpid(-1, NULL, WNOHANG) > 0)
        ;
}

int main(void)
{
    signal(SIGTERM, leave);
    signal(SIGINT, leave);
    signal(SIGCHLD, reap);
    for (;;)
        pause();
}
