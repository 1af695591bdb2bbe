/* Access in an emergency: a certificate for system:masters, made on this machine, that ends by itself and does not go unnoticed.
 *
 * `seki break-glass` writes DATA/break-glass/ID.json (who, why, until when) and then makes the certificate, of user "seki:break-glass:ID". Control accepts it only when it has read
 * that record and has it in the audit ledger, on the disk: who, from where, why, until when. Whoever it reads it of is told of by a line in the log, an Event and a metric, too. So there is no
 * such access without an alarm, and none without a record. Records whose time is over are removed once they were told of and their end is recorded as well. A control that starts anew records
 * an access that is still good once more.
 */
#ifndef SEKI_CMD_BREAK_GLASS_H
#define SEKI_CMD_BREAK_GLASS_H

#include "apiserver/apiserver.h"
#include "ledger/audit_log.h"

#define BREAK_GLASS_ID_CHARS 10
#define BREAK_GLASS_REASON_MAX 500

/* ---- control's side; all on the loop's thread ---- */
struct break_glass;
struct break_glass *break_glass_new(struct loop *l, const char *dir);
void break_glass_free(struct break_glass *b); /* once the loop runs no more */
/* Where accesses are recorded; it outlives b. Before there is anybody who asks. Without one nobody is let in. */
void break_glass_record_in(struct break_glass *b, struct audit_log *audit);
/* From here on Events are made, and server (or NULL) is told of each end. */
void break_glass_start(struct break_glass *b, const struct client_local *api, struct apiserver *server);
/* For apiserver_options. */
int break_glass_check(void *b, const char *id);
void break_glass_wait(void *b, struct access_waiter *w);

/* ---- the command's side ---- */
struct break_glass_wish {
    const char *data, *reason, *by;
    const char *source, *agent; /* from which address he came to this machine, or ""; by what, on which machine */
    int64_t life_ms;
};
/* Record and certificate, of the owner of data: who is root is that owner from here on. ret_path: the kubeconfig, in the arena. */
int break_glass_make(const struct break_glass_wish *w, struct arena *a, const char **ret_path, int64_t *ret_until_ms, struct err *err) NODISCARD;

#endif
