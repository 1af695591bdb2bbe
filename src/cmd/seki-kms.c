/* seki-kms: the KMS v2 plugin of one tenant's cluster. Started by sekid's controllers, and given its keys by them: kms/server.h. */
#include "base/log.h"
#include "kms/server.h"

#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#define FILES_MAX 64

static const char usage[] =
    "Usage: seki-kms SOCKET CONTROL SCOPE\n"
    "\n"
    "Serves the KMS v2 API of Kubernetes at the unix socket SOCKET, with keys that come in at CONTROL, for the cluster SCOPE.\n"
    "sekid starts it; nobody else needs to.\n";

/* No core dump, no debugger, no swap, no other program, few files. What the kernel does not grant is said, and not fatal. */
static void give_up_what_is_not_needed(void)
{
    const struct rlimit none = {0, 0}, files = {FILES_MAX, FILES_MAX};
    setrlimit(RLIMIT_CORE, &none);
    setrlimit(RLIMIT_NOFILE, &files);
    mallopt(M_ARENA_MAX, 1);
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
        log_warn("this process can be looked into by others of the same user");
    if (mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) < 0) {
        munlockall(); /* half of it would end the process at the limit */
        log_info("memory is not locked: keys may reach the swap, should there be one");
    }
}

int main(int argc, char **argv)
{
    struct err err = ERR_INIT;
    sigset_t set;
    if (argc == 2 && (!strcmp(argv[1], "--version") || !strcmp(argv[1], "-V"))) {
        printf("seki-kms %s\n", SEKI_RELEASE);
        return 0;
    }
    if (argc != 4) {
        fputs(usage, argc == 2 && !strcmp(argv[1], "--help") ? stdout : stderr);
        return argc == 2 && !strcmp(argv[1], "--help") ? 0 : 2;
    }
    log_setup(LOG_INFO, LOG_AUTO, "kms");
    give_up_what_is_not_needed();
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigprocmask(SIG_BLOCK, &set, NULL);
    int stop = signalfd(-1, &set, SFD_CLOEXEC);
    const struct kms_server_options o = {.socket = argv[1], .control = argv[2], .scope = argv[3], .stop_fd = stop};
    if (stop < 0 || kms_serve(&o, &err) < 0) {
        log_error("secrets of the cluster are not served", KVE(&err));
        return 1;
    }
    return 0;
}
