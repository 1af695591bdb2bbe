/* Requests that run, in a file that outlives a killed gateway: what was made for them is counted up to the last piece that was passed on.
 *
 *   sent to an engine ─► a place: the record as far as it is known │ each piece of the answer ─► a few stores into it │ settled: journal, then the place is free
 *   killed ─► the next gateway of that journal finds the places that are taken ─► records with the outcome "killed", but for those that the journal has already
 *
 * The file is mapped shared, so that a store is with the kernel at once; it is not synced, and power loss may take what it has. It is written on this machine only and read by builds of the
 * same layout: another one is begun anew. A place has 512 bytes, or 2 KiB for long names and many engines, of which there is one for eight. Who finds none, or has no file, counts what ends
 * and nothing else. Threads: taking and freeing from any; the places
 * themselves belong to their requests' loops.
 */
#ifndef SEKI_GATEWAY_OPEN_REQUESTS_H
#define SEKI_GATEWAY_OPEN_REQUESTS_H

#include "gateway/journal.h"
#include "ledger/price.h"

struct open_requests;
struct open_request;

/* Settles what the file has into the journal, whose directory is dir, then begins anew. NULL when there can be none: told in the log. What cannot be counted as the journal is damaged stays as it is with places 0, and
 * is put aside as PATH.uncounted else. */
struct open_requests *open_requests_new(const char *path, const char *dir, struct journal *j, size_t places);
void open_requests_free(struct open_requests *o);

/* What a file has of requests that ran: calls fn for each, with its record as it is written; returns how many. file is aligned as memory is. Fuzzed. */
typedef void open_requests_fn(void *arg, const struct usage *u, uint64_t sequence);
size_t open_requests_walk(char *file, size_t size, open_requests_fn *fn, void *arg);

/* An attempt begins: u has its names and its engines so far, the last of which is this attempt's. *place NULL: one is taken; it may be another afterwards. */
void open_request_begin(struct open_requests *o, struct open_request **place, const struct usage *u, const struct price *price, int64_t prompt_estimate);
/* What has come by of the attempt's answer. exact: the engine has told the other three. */
void open_request_note(struct open_request *place, int64_t events, bool exact, int64_t prompt, int64_t cached, int64_t completion);
/* Its record is in the journal. Any thread. */
void open_request_end(struct open_requests *o, struct open_request **place);

#endif
