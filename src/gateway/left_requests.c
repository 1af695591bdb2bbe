#include "gateway/left_requests.h"

#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "gateway/open_requests.h"

void left_requests_settle(const char *dir, const char *gateway, const char *path)
{
    struct journal *j = NULL;
    struct err err = ERR_INIT;
    if (!file_exists(path))
        return;
    int rc = journal_open(dir, gateway, &j, &err);
    if (rc < 0) {
        if (rc != ERR_BUSY)
            log_warn("requests of a gateway that was killed are not counted yet", KV("gateway", gateway), KVE(&err));
        return;
    }
    struct open_requests *o = open_requests_new(path, dir, j, 0);
    if (o)
        (void)unlink(path); /* while its journal is held: nobody has it open */
    open_requests_free(o);
    journal_close(j);
}

bool left_requests_held(const char *dir, const char *gateway)
{
    CLEANUP(mem_freep) char *path = xasprintf("%s/usage-%s.lock", dir, gateway);
    CLEANUP(file_closep) int fd = -1;
    return file_exists(path) && file_lock(path, &fd, NULL) == ERR_BUSY;
}
