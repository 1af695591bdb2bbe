/* The resource API server: generic REST machinery for all kinds, under the Kubernetes API conventions.
 *
 * Owns the HTTPS listener, authentication, authorisation, and the mapping of verbs onto the store. Objects live in the store under
 * "PLURAL.GROUP/NAMESPACE/NAME" as JSON without resourceVersion; the revision becomes metadata.resourceVersion when an object leaves. The decoded form is
 * cached with the store's value, so that a get, a list and a watch event cost no parse. Everything runs on the loop's thread.
 * Life of a write: authenticate (at the head) → its turn (flow.c) → route → authorise → decode (strict) → defaults, read-only and immutable fields, admit → validate →
 * store_txn → answer when durable. Creations of virtual kinds end after validation: the kind's op answers, the store is not touched. Reads answer from memory at once.
 */
#ifndef SEKI_APISERVER_APISERVER_H
#define SEKI_APISERVER_APISERVER_H

#include "client/local.h"
#include "kinds/kind.h"
#include "ledger/audit_log.h"
#include "net/http_server.h"
#include "oidc/issuers.h"
#include "store/store.h"

struct apiserver;

#define BREAK_GLASS_USER "seki:break-glass:" /* ID */

TAILQ_HEAD(access_waiters, access_waiter);
/* A request that waits until it is known whether a break-glass access is good. */
struct access_waiter {
    void (*fn)(void *arg); /* ask again; once */
    void *arg;
    TAILQ_ENTRY(access_waiter) link;
    struct access_waiters *list; /* NULL: does not wait */
};

#define API_TEXT_MAX ((size_t)256 * 1024) /* of one answer */
#define API_TEXT_NEXT_MAX 160
/* What somebody wants to read of an object's files. */
struct api_text {
    const json_t *owner;
    const char *part;                     /* the subresource */
    const char *component, *after;        /* of the query; "" when not there */
    uint64_t tail;                        /* likewise; 0 */
};

struct apiserver_options {
    struct net_addr listen;
    struct tls_ctx *tls;              /* required */
    const char *token_file;           /* hashed static tokens, or NULL: lines "sha256hex user group,group" ('#' comments) */
    /* Certificates of users "seki:break-glass:ID" are good only while this says so of the ID: 0. ERR_UNAUTHENTICATED: not; ERR_BUSY: not yet, it is being recorded. NULL: never. */
    int (*break_glass)(void *ctx, const char *id);
    void (*break_glass_wait)(void *ctx, struct access_waiter *w); /* after ERR_BUSY; whoever leaves takes himself off the list */
    void *break_glass_ctx;
    struct oidc *issuers;             /* of people's tokens; borrowed; NULL: none */
    struct kind_services services;
    /* Fills views of text: whole lines into ret, what goes on behind them into next. On a thread of the pool. NULL: there are none. */
    int (*text)(void *ctx, const struct api_text *ask, struct sbuf *ret, char next[API_TEXT_NEXT_MAX], struct err *err);
    void *text_ctx;
    struct audit_log *audit;          /* where what happens is recorded; NULL: nowhere. The store's journal is to be its */
    const char *site;                 /* the Site where this cloud's own engines stand; NULL or "": not said */
    size_t max_object_bytes;          /* default 1 MiB */
    uint64_t watch_timeout_ms;        /* a watch ends cleanly after 30..60 min at random by default; clients may ask for less */
    size_t watch_buffer_bytes;        /* no more waits for a watcher that does not read; default 4 MiB */
    size_t max_in_flight_writes;      /* default 1,000; then 429 */
    int64_t objects_per_project;      /* where neither a Limit nor a Tenant says; 0: any number */
    const char *root_key;             /* what seals secrets (crypto/root_key.h); NULL: they are stored as they are, for tests */
    const char *old_root_key;         /* the one before: keys are wrapped anew; NULL or "": none */
};

/* With a root key: the errors of keyring_open(), before anything is served or written. */
int apiserver_start(struct loop *l, struct store *s, const struct apiserver_options *o, struct apiserver **ret, struct err *err) NODISCARD;
void apiserver_addr(const struct apiserver *a, struct net_addr *ret);
/* Ends watches, takes no new connections, fails /readyz, lets running requests end; then done. */
void apiserver_drain(struct apiserver *a, void (*done)(void *arg), void *arg);
/* Runs the loop until accepted writes are answered: whoever began one may be gone, but its end comes back here. Before store_close(). */
void apiserver_free(struct apiserver *a);
/* From now on. What is there beyond stays; nothing is added. */
void apiserver_set_objects_per_project(struct apiserver *a, int64_t max);
/* The issuers were configured anew: watches of people who came by one end, and whoever is still known takes his up again. */
void apiserver_issuers_changed(struct apiserver *a);
/* A break-glass access has ended: watches of whoever came by it do, too. */
void apiserver_access_over(struct apiserver *a);
/* For client_local_new(). */
struct client_local apiserver_local(struct apiserver *a);
/* /readyz of the API itself also fails while this returns non-zero (err->msg says why). One hook, several calls add hooks. */
void apiserver_add_ready_check(struct apiserver *a, const char *name, int (*check)(void *arg, struct err *err), void *arg);
/* Creates what must exist: namespaces default and kube-system, cluster-admin, admin, edit, view, system roles. Idempotent; done is called on the loop, or never when the server is freed before. Once a server. */
void apiserver_bootstrap(struct apiserver *a, void (*done)(void *arg, int code, const struct err *err), void *arg);

#endif
