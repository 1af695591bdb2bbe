/* The keys of tenants: what the data keys of sealed objects are wrapped with (crypto/envelope.h). Each tenant has versions of its own, made by rotation; the newest one seals.
 *
 * They lie, wrapped by the root key, in records of the store whose keys ("seki:keys/TENANT/VERSION") are no kind's: no request reaches them. "seki:root" tells whether a root key is
 * the one. A store that has records, or sealed objects, is opened with that root key or not at all, and no other is made.
 * Threads: the loop's. Opened keys are also found by their ids, which are random, from anywhere in the process: values of the store can be decoded by whoever holds them.
 */
#ifndef SEKI_APISERVER_KEYRING_H
#define SEKI_APISERVER_KEYRING_H

#include "base/vec.h"
#include "crypto/envelope.h"
#include "store/store.h"

struct keyring;

#define KEYRING_PREFIX "seki:"

struct tenant_key {
    uint8_t id[ENVELOPE_ID_BYTES];
    struct envelope_key key;
    bool usable;          /* false: the root key does not open it */
    char *tenant;
    int64_t version, created_ms;
    bool current;         /* seals; exactly one usable key of a tenant does */
    /* Kept by who seals anew (reseal.c). */
    size_t objects, counted; /* sealed with it, as of the last pass; and in this one so far */
    bool settled;         /* durable when the pass began */
    bool used;            /* something was sealed with it since the pass began */
    int64_t unused_rev;   /* no object is, since this revision; 0: some are, or nobody has looked */
};

struct keyring_options {
    const char *root_key;     /* crypto/root_key.h */
    const char *old_root_key; /* keys that this one wraps are wrapped anew; NULL or "": none */
    bool sealed;              /* the store has sealed objects */
};

/* Opens the root key, and with it all keys. ERR_NOT_FOUND, ERR_FORBIDDEN, ERR_CORRUPT …: the root key is missing, or another one than the store's: the message says which is wanted.
 * Nothing is written then. */
int keyring_open(struct store *s, const struct keyring_options *o, struct keyring **ret, struct err *err) NODISCARD;
void keyring_free(struct keyring *k);

/* The key that seals for a tenant; made when there is none. What is written next after this is durable only when the key is. Borrowed. */
int keyring_current(struct keyring *k, const char *tenant, const struct tenant_key **ret, struct err *err) NODISCARD;
/* A new version for a tenant that has one; note: for the journal of the store. ERR_NOT_FOUND. */
int keyring_rotate(struct keyring *k, const char *tenant, struct str note, struct err *err) NODISCARD;
/* Forgets a key that opens nothing any more; the current one when it is the tenant's only: the next to seal makes another. Returns the store's key of its record, which is on its way out (mem_free); NULL: the store takes nothing now, and the key stays. */
char *keyring_drop(struct keyring *k, struct tenant_key *key) NODISCARD;
/* Whether its record is. */
bool keyring_is_durable(struct keyring *k, const struct tenant_key *key);
/* All keys, by tenant and version. Good until one is made or dropped. */
struct tenant_key **keyring_all(struct keyring *k, size_t *ret_count);

/* A copy of the key with that id, of any keyring of this process; tenant: at most size bytes. False: there is none that can be used. */
bool keyring_find(const uint8_t id[ENVELOPE_ID_BYTES], struct envelope_key *ret, char *ret_tenant, size_t size);

/* The id of a tenant's newest key that can be used, of any keyring of this process. False: it has none. Any thread. */
bool keyring_newest(const char *tenant, uint8_t ret_id[ENVELOPE_ID_BYTES]);

#endif
