/* What a runtime that is gone has left running, for when no other will adopt it. */
#include <signal.h>

#include "base/file.h"
#include "base/log.h"
#include "runtime/internal.h"

struct left {
    const char *state_dir;
    int ended;
};

static void end_one(void *arg, const struct run_record *recorded)
{
    struct left *l = arg;
    struct run_record r = *recorded;
    if (record_find_process(&r)) {
        l->ended++;
        log_info("workload stopped", KV("workload", r.name), KVI("pid", r.pid));
    } else {
        r.pid = 0; /* perhaps another's by now; its children may still be there, by their marker */
    }
    tree_signal(&r, SIGKILL);
    tree_forget(&r);
    record_remove(l->state_dir, r.name);
}

int runtime_local_end_left(const char *state_dir, int *ret_ended, struct err *err)
{
    struct left l = {.state_dir = state_dir};
    int rc = file_exists(state_dir) ? record_each(state_dir, end_one, &l, err) : 0;
    if (rc == 0)
        *ret_ended = l.ended;
    return rc;
}
