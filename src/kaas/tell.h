/* What a tenant sees of its cluster's control plane: logs of its components, and its audit log. Reads files, and nothing else: any thread. */
#ifndef SEKI_KAAS_TELL_H
#define SEKI_KAAS_TELL_H

#include "json/json.h"

#define TELL_NEXT_MAX 160

struct tell_ask {
    const char *data_dir, *log_dir;
    const json_t *cluster;
    const char *part;      /* "log" or "audit", of all API servers one after the other */
    const char *component; /* of log: "apiserver", "etcd-1" … */
    const char *after;     /* where an earlier answer ended; "": from the beginning, or from `tail` on */
    uint64_t tail;         /* the last so many lines of the newest file; 0: all */
};
/* Whole lines up to what ret has room for (nothing when there are none), and in next what goes on behind them. ERR_BAD_REQUEST names the member. A file that has been removed meanwhile is passed
 * over. */
int kaas_tell(const struct tell_ask *ask, struct sbuf *ret, char next[TELL_NEXT_MAX], struct err *err) NODISCARD;

#endif
