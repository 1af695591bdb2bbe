/* Access in an emergency: a certificate for system:masters, made on this machine, that ends by itself and does not go unnoticed.
 *
 * `seki break-glass` writes DATA/break-glass/ID.json (who, why, until when) and then makes the certificate, of user "seki:break-glass:ID". Control accepts it only when it has read
 * that record, and whoever it reads it of is told of: a line in the log, an Event, a metric. So there is no such access without an alarm. Records whose time is over
 * are removed once they were told of.
 */
#ifndef SEKI_CMD_BREAK_GLASS_H
#define SEKI_CMD_BREAK_GLASS_H

#include "apiserver/apiserver.h"

#define BREAK_GLASS_ID_CHARS 10
#define BREAK_GLASS_REASON_MAX 500

/* ---- control's side; all on the loop's thread ---- */
struct break_glass;
struct break_glass *break_glass_new(struct loop *l, const char *dir);
void break_glass_free(struct break_glass *b); /* once the loop runs no more */
/* From here on Events are made. */
void break_glass_start(struct break_glass *b, const struct client_local *api);
/* For apiserver_options. */
bool break_glass_announced(void *b, const char *id);

/* ---- the command's side ---- */
struct break_glass_wish {
    const char *data, *reason, *by;
    int64_t life_ms;
};
/* Record and certificate. ret_path: the kubeconfig, in the arena. */
int break_glass_make(const struct break_glass_wish *w, struct arena *a, const char **ret_path, int64_t *ret_until_ms, struct err *err) NODISCARD;

#endif
