/* What a role tells of itself for alerts, beside what its parts count: readiness, the disk under the data directory, ends of certificates.
 *
 * Threads: metrics are read on the role's loop thread, so readiness checks run there.
 */
#ifndef SEKI_CMD_VITALS_H
#define SEKI_CMD_VITALS_H

#include "cmd/monitor.h"
#include "cmd/options.h"

/* A gauge that is 1 while all checks pass. checks and arg must outlive the last scrape. */
void vitals_ready(const char *name, const char *help, const struct monitor_check *checks, void *arg);
/* Size and free bytes of the file system of a directory; path is copied. */
void vitals_disk(const char *path);
/* The end of a certificate in PEM, under a name; again when the file has changed. One that cannot be read has ended. */
void vitals_certificate(const char *name, const char *path);
/* Of those that control makes and renews. */
void vitals_control_certificates(const struct options *o);

#endif
