/* Whose prompt an engine's slots hold: no tenant may learn from the engine's speed what another one has sent.
 *
 * llama.cpp keeps in each of its slots what the last request left there, and gives it to whoever begins his prompt alike. So the gateway chooses the slot of a request (`id_slot`), and lets
 * the engine use what is there (`cache_prompt`) only when the slot's last user was the same tenant: the request is *warm*, else *cold*. Engines are started so that a request that says
 * nothing is cold.
 *
 *   claim ─► a free slot: of the tenant's own with the longest equal beginning, else the one that was idle longest ─► warm, when it is the tenant's and nothing speaks against it
 *     └──► (an unpinned request: the engine chooses the slot itself, and nobody learns which)                      release ─► the slot is the tenant's
 *
 * What speaks against it:
 * - An unpinned request (a Message, several answers to one prompt) may run in any slot. Where more than one tenant has used the engine, it is not sent before the warm requests that run
 *   have ended (slots_unpinned_may_go()), and what slots held before it, or get until SLOTS_COLD_MS after it, is not used again. Who has the engine alone loses nothing.
 * - A request that the engine refused, or had nothing to do for, left in the slot what was there: it becomes nobody's.
 * - A request that was given up before the engine had said anything may still be run by it, after the next one: its slot is cold for SLOTS_DIRTY_MS.
 *
 * What is known of slots is in a file beside the engine's socket, mapped by all gateways of the machine (two of them meet in an upgrade); a slot in use is a lock on one byte of
 * it, which ends with the process. When the file cannot be used all is cold. Threads: any, under a lock of its own.
 */
#ifndef SEKI_GATEWAY_SLOTS_H
#define SEKI_GATEWAY_SLOTS_H

#include "base/str.h"

#define SLOTS_MAX 256
#define SLOTS_COLD_MS 600000
#define SLOTS_DIRTY_MS 60000

struct slots;
/* Never fails. path: of the file, which is made when it is not there. */
struct slots *slots_new(const char *path, uint64_t now_ms);
void slots_free(struct slots *s);

struct slots_claim {
    int slot;  /* -1: the engine chooses */
    bool warm; /* what is in it may be used */
    bool unpinned;
    bool begun; /* warm, and in its slot */
    uint64_t before; /* whose it was; 0: nobody's that is known */
};

/* A slot of the first `count`. pinned false: the engine will choose, whatever it is told. hashes: of the prompt's beginnings (prefix.h); may be NULL. */
void slots_claim(struct slots *s, int count, const char *tenant, bool pinned, const uint64_t *hashes, size_t hash_count, uint64_t now_ms, struct slots_claim *ret);
enum slots_end {
    SLOTS_NOT_SENT, /* the request never left */
    SLOTS_DONE,     /* the engine has written something to it: what it read is in the slot now */
    SLOTS_REFUSED,  /* it has ended without that: what was there may still be */
    SLOTS_UNSURE,   /* it was given up before the engine had said anything */
};
/* A request that is warm has begun to be written: it is in its slot, and an unpinned one can do it no harm any more. Harmless with any claim. */
void slots_begun(struct slots *s, struct slots_claim *c);
void slots_release(struct slots *s, const char *tenant, const struct slots_claim *c, enum slots_end how, uint64_t now_ms);

/* Before a request with an unpinned claim is sent. False: somebody's warm request runs; no other begins meanwhile: ask again. */
bool slots_unpinned_may_go(struct slots *s, const char *tenant, uint64_t now_ms);

#endif
