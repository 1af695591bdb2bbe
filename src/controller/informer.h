/* Informer: a cache of all objects of one kind, kept current by list and watch through a client; with handlers for changes.
 *
 * One thread an informer runs list → watch → (on end or error, with back-off 0.2 … 5 s) watch again from where it was, or list again on 410, after an event that
 * cannot be read, and when watches break off again and again without bringing anything. A re-list
 * tells the handlers what went meanwhile. The cache never goes back in time: what was seen before is dropped when it comes again, and a list that is older than what was seen is refused
 * (a server whose data were restored from a backup is followed after a restart only). An object with another uid under the same name is another object: the handlers hear of
 * the end of the first, then of the second. Handlers run on the informer's thread, one at a time, and only enqueue or copy.
 * Documents are immutable and shared: json_incref to keep.
 */
#ifndef SEKI_CONTROLLER_INFORMER_H
#define SEKI_CONTROLLER_INFORMER_H

#include "client/client.h"
#include "kinds/kind.h"

struct informer;

struct informer_handler {
    /* now NULL: deleted; prev NULL: new to the cache. */
    void (*changed)(void *arg, json_t *prev, json_t *now);
    /* After the first complete list, and after each re-list. May be NULL. */
    void (*synced)(void *arg);
    void *arg;
};

struct informer *informer_new(struct client *c, const struct kind *k);
void informer_add_handler(struct informer *i, const struct informer_handler *h); /* before informer_start; copied */
int informer_start(struct informer *i, struct err *err) NODISCARD;
void informer_stop(struct informer *i); /* joins its thread; idempotent */
void informer_free(struct informer *i);
bool informer_synced(struct informer *i);
/* Waits for the first sync. */
int informer_wait(struct informer *i, uint64_t timeout_ms, struct err *err) NODISCARD;
json_t *informer_get(struct informer *i, const char *ns, const char *name); /* new reference or NULL */
/* New array of all; ns NULL: every namespace. */
json_t *informer_list(struct informer *i, const char *ns);
/* Wall time of the last proof that the cache is current (event, bookmark or list). */
int64_t informer_fresh_ms(struct informer *i);
const struct kind *informer_kind(const struct informer *i);

#endif
