#include "gateway/left_requests.h"

#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/metrics.h"
#include "gateway/open_requests.h"

/* 0: there is nothing more to be done now. */
static int settle(const struct left_requests *l, struct err *err)
{
    struct journal *j = NULL;
    if (!file_exists(l->path))
        return 0;
    int rc = journal_open(l->dir, l->gateway, &j, err);
    if (rc < 0)
        return rc == ERR_BUSY ? 0 : rc;
    struct open_requests *o = open_requests_new(l->path, l->dir, j, 0);
    if (o)
        (void)unlink(l->path); /* while its journal is held: nobody has it open */
    open_requests_free(o);
    journal_close(j);
    return o ? 0 : err_set(err, ERR_IO, "%s cannot be read or written", l->path);
}

uint64_t left_requests_look(struct left_requests *l)
{
    struct err err = ERR_INIT;
    int rc = settle(l, &err);
    metric_set(metric_gauge("seki_gateway_left_requests_failing", "1 while requests that ran when a gateway was killed cannot be counted."), rc < 0);
    l->pause_ms = rc < 0 ? MIN(l->pause_ms * 2, (uint64_t)LEFT_LOOK_MAX_MS) : LEFT_LOOK_MS;
    if (rc < 0)
        log_error("requests of a gateway that was killed are not counted yet", KV("gateway", l->gateway), KVI("again_ms", (int64_t)l->pause_ms), KVE(&err));
    return l->pause_ms;
}

bool left_requests_held(const char *dir, const char *gateway)
{
    CLEANUP(mem_freep) char *path = xasprintf("%s/usage-%s.lock", dir, gateway);
    CLEANUP(file_closep) int fd = -1;
    return file_exists(path) && file_lock(path, &fd, NULL) == ERR_BUSY;
}
