/* Records of other processes' audit journals, copied into the audit log of this one (audit_log.h).
 *
 * Journals are found by their names in the log's directory: the prefix, or the prefix, "-" and more
 * (gateways that take over from each other write two). A copy is the record with one member more,
 * its last one: "origin", JOURNAL/ID/SEQUENCE. By that who opens the log anew knows how far each
 * was copied, and no record is there twice. A journal with another id under the same name, as of a
 * process that lost its disk, is read from its beginning. A record that has no room for that member
 * (none is written so long any more) comes with its texts cut as audit_encode() does, what else it
 * had left out, and is logged; so none is missing. Threads: the log's.
 */
#ifndef SEKI_LEDGER_AUDIT_COLLECT_H
#define SEKI_LEDGER_AUDIT_COLLECT_H

#include "base/str.h"

/* The log that they are copied into. */
struct audit_collect_ops {
    /* Before the records of one journal, whether it succeeds or not; else why none may be written.
     */
    int (*begin)(void *arg, struct err *err);
    int (*append)(void *arg, int64_t time_ms, struct str body, struct err *err);
    void (*end)(void *arg); /* after each begin: what was appended becomes durable */
};

struct audit_collection;

struct audit_collection *audit_collection_new(const char *dir, const char *prefix,
                                              const struct audit_collect_ops *ops, void *arg);
void audit_collection_free(struct audit_collection *x); /* NULL is fine */
/* body: of a record that the log has already; x NULL: nobody wants to know. Before the first
 * audit_collect(). */
void audit_collection_saw(struct audit_collection *x, struct str body);
/* Copies what is new. Blocks on the disk. What fails is logged, and tried again the next time. */
void audit_collect(struct audit_collection *x);

#endif
