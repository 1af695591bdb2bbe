/* The audit ledger's view of the API: which requests are recorded, as what (audit.c). Nothing happens when the server has no ledger. Inside the apiserver. */
#ifndef SEKI_APISERVER_AUDIT_H
#define SEKI_APISERVER_AUDIT_H

#include "apiserver/api.h"

void audit_start(struct apiserver *s);
/* At the head of a request over HTTP: what an answer would let go of is kept. */
void audit_arrived(struct api_request *q);
void audit_token_seen(struct api_request *q);
/* Whether it is worth to say which rule allows q. */
bool audit_wants_rule(struct api_request *q);
/* The note of a write by q on an object, for the store's transaction; arena memory; empty when it is not recorded. obj: as it will be, or was. */
struct str audit_note(struct api_request *q, const char *name, const json_t *obj);
/* Of a write that the server does by itself; appended to *ret. */
void audit_note_own(struct apiserver *s, struct str key, bool delete, const json_t *obj, struct sbuf *ret);
/* Of a read of the part of the ledger that belongs to owner; soon, not before the answer. */
void audit_viewed(struct api_request *q, const json_t *owner);
/* At the answer. */
void audit_answered(struct api_request *q, int status);
/* Whether q must be recorded before it is answered; `then` is called when that is done, or (recorded: false) with q answered with a failure. */
bool audit_first(struct api_request *q, void (*then)(void *arg, bool recorded), void *arg);
/* The same for a write that stores nothing (a dry run, or nothing differs) and whose answer shows what is there. */
bool audit_shown(struct api_request *q, void (*then)(void *arg, bool recorded), void *arg);

#endif
