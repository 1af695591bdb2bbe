/* The issuers of tokens, with their keys: whose is a token?
 *
 * Everything here is called on the loop's thread and answers from memory. Each issuer has a thread of its own, which fetches its discovery document and its keys: at the start, every
 * refresh_ms, sooner after a failure, and when a token names a key that is not known, but then at most once in OIDC_ASK_EVERY_MS. A slow issuer delays nobody else. Keys
 * once fetched are used until their issuer replaces them, also while it cannot be reached.
 */
#ifndef SEKI_OIDC_ISSUERS_H
#define SEKI_OIDC_ISSUERS_H

#include <stdatomic.h>
#include <sys/queue.h>

#include "crypto/jwk.h"
#include "loop/loop.h"
#include "oidc/claims.h"

#define OIDC_ASK_EVERY_MS 10000
#define OIDC_WAITERS_MAX 64 /* of one issuer */

struct oidc;

struct oidc_options {
    const char *file; /* NULL or "": there are no issuers */
    int64_t skew_ms;
    uint64_t refresh_ms;
};

struct oidc *oidc_new(struct loop *l);
/* Once the loop runs no more. */
void oidc_free(struct oidc *o);
/* Reads the file and takes what it says instead of what was; issuers that stay keep their keys. On failure nothing changes. */
int oidc_configure(struct oidc *o, const struct oidc_options *opt, struct err *err) NODISCARD;
size_t oidc_issuers(const struct oidc *o);
size_t oidc_unreachable(const struct oidc *o); /* those whose keys could not be fetched last time */
/* Whether tokens of this issuer are its concern. */
bool oidc_knows(const struct oidc *o, const char *issuer);

/* The person of a token. hash: of the token, by which it is known when it comes again. t: the token, parsed; NULL: only one that is known will do (then ERR_NOT_FOUND is its answer to
 * others). ERR_UNAUTHENTICATED; ERR_BUSY: its issuer's keys are being fetched, ask again after oidc_wait(). What ret points at lives in a. */
int oidc_identify(struct oidc *o, const char *hash, const struct jwt *t, struct arena *a, struct oidc_person *ret, struct err *err) NODISCARD;

struct oidc_waiter {
    void (*fn)(void *arg); /* the keys have come, or will not; once */
    void *arg;
    TAILQ_ENTRY(oidc_waiter) link;
    void *issuer; /* NULL: does not wait */
};
/* False: nothing is being fetched from this issuer, or too many wait. */
bool oidc_wait(struct oidc *o, const char *issuer, struct oidc_waiter *w, void (*fn)(void *arg), void *arg) NODISCARD;
void oidc_wait_cancel(struct oidc_waiter *w); /* harmless when it does not wait */

/* For readiness: always 0; err tells, without names, of issuers that cannot be reached. */
int oidc_check(void *o, struct err *err);

/* ---- discovery, also for whoever logs in ---- */

/* GET of the issuer's discovery document, checked to be of that issuer. Blocks. from NULL: below issuer. */
int oidc_discover(const char *issuer, const char *from, const char *ca_pem, const atomic_bool *cancel, json_t **ret, struct err *err) NODISCARD;
/* One document over HTTPS. Blocks. url: whole. Any status but 200 is an error unless ret_status is given. form: POST this; or NULL. */
int oidc_fetch(const char *url, const char *form, const char *ca_pem, const atomic_bool *cancel, int *ret_status, json_t **ret, char **ret_text, struct err *err) NODISCARD;

#endif
