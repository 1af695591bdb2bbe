/* Support bundles: a tar.gz that may leave the house. Redaction is by allow-list: what is not known to be harmless is not in it, and nobody has to think of what is secret.
 *
 * Harmless are numbers, times, booleans and words of closed sets; names of objects; what Seki's own sources say (messages of its log, names of its metrics). Free text never
 * is, whoever wrote it. `texts` lifts this for sentences of Seki that may quote somebody: errors in its log, messages of conditions.
 * Threads: one. No function here keeps what it is given.
 */
#ifndef SEKI_CMD_SUPPORT_H
#define SEKI_CMD_SUPPORT_H

#include "base/config.h"
#include "json/table.h"
#include "kinds/kind.h"

/* ---- support_redact.c: foreign bytes in, harmless lines out. Fuzzed. ---- */

/* A line of sekid's log. Nothing is added for one that is not such a line. */
void support_log_line(struct str line, bool texts, struct sbuf *out);
/* A line of an engine's log: those that engines write about themselves, without what they quote. Whether it was one. */
bool support_engine_line(struct str line, struct sbuf *out);
/* An exposition: metrics of Seki, of inference and of the process. */
void support_metrics(struct str text, struct sbuf *out);
/* The answer of /readyz?verbose. The message of a failed check stays only where it cannot quote what a user wrote. */
void support_ready(struct str text, bool texts, struct sbuf *out);
/* Whether objects of a kind are in bundles at all: not those that hold secrets, nor questions. */
bool support_has_kind(const struct kind *k);
/* An object: some of its metadata, and by its table what cannot be content. A new document. */
json_t *support_object(const struct kind *k, const json_t *obj, bool texts);
/* Options with their values; of free texts only whether they are set, but for addresses and directories. values: a struct that the schema describes. */
void support_options(const struct conf_option *schema, size_t count, const void *values, struct sbuf *out);

/* ---- support_tar.c: the archive ---- */

struct support_tar;
/* Makes the file (0600) under a name of its own; it gets its real one when it is whole. ERR_EXISTS: something has that name already. */
int support_tar_new(const char *path, int64_t now_ms, struct support_tar **ret, struct err *err) NODISCARD;
/* name: without a leading slash, at most 99 bytes. */
int support_tar_add(struct support_tar *t, const char *name, struct str data, struct err *err) NODISCARD;
/* Ends and names it; *ret_bytes: its size. */
int support_tar_finish(struct support_tar *t, uint64_t *ret_bytes, struct err *err) NODISCARD;
/* Removes what is not finished. NULL is fine. */
void support_tar_free(struct support_tar *t);

/* ---- support_facts.c: what the machine says ---- */

void support_system(struct sbuf *out);
/* File system, and what each part of the data directory takes. */
void support_disk(const char *data, struct sbuf *out);
/* Limits and use of the services' control groups, where there are some. */
void support_cgroups(struct sbuf *out);
/* Where each ledger stands: files, bytes, last sequence, its time and hash. Never a record. */
int support_ledgers(const char *dir, struct sbuf *out, struct err *err) NODISCARD;
/* What a program prints, up to the buffer's maximum and within 30 s. */
int support_run(const char *const *argv, struct sbuf *out, struct err *err) NODISCARD;

#endif
