/* What a replica has probably cached: hashes of the beginnings of prompts that went there.
 *
 * A prompt's bytes are cut into blocks; each block's hash continues the one before, so equal hashes mean equal beginnings. The chain starts from a salt that belongs to the tenant: no
 * tenant's prompt ever matches another's, whatever it says. An index is a table of fixed size, eight ways a set, the oldest of a set makes room: its memory is known from the
 * start.
 *
 * An engine's cache is smaller than the table: what was sent long ago is gone. A block's age is how many new blocks went there since it was last used; it is believed to be there
 * while that is within the cache's reach. The reach is learned from what engines say they found (prefix_learn()): a block that was believed to be there and was not shortens it, one that
 * was there against belief lengthens it. Until an engine tells, everything in the table is believed. Without this, each replica that once helped out with a popular beginning would count as
 * its home for ever, and requests spread over all of them would push everything out everywhere. Threads: the caller's lock.
 */
#ifndef SEKI_GATEWAY_PREFIX_H
#define SEKI_GATEWAY_PREFIX_H

#include "base/str.h"

#define PREFIX_BLOCK_BYTES 256 /* some 64 tokens */
#define PREFIX_BLOCKS_MAX 512  /* of a prompt: what follows is taken for new */

struct prefix_salt {
    uint8_t key[16];
};
/* From the process's own secret and the tenant's name. */
void prefix_salt_of(const char *tenant, struct prefix_salt *ret);

/* Hashes of the whole blocks of a prompt. Returns how many. */
size_t prefix_hash(const struct prefix_salt *salt, struct str prompt, uint64_t ret[PREFIX_BLOCKS_MAX]);

struct prefix_index;
struct prefix_index *prefix_index_new(size_t bytes);
void prefix_index_free(struct prefix_index *x);
/* How many of the blocks, from the first on, it is believed to have. */
size_t prefix_match(const struct prefix_index *x, const uint64_t *hashes, size_t count);
/* They are there now, and the newest. */
void prefix_add(struct prefix_index *x, const uint64_t *hashes, size_t count);

/* What was known of a prompt before it was sent: to be handed to prefix_learn(). */
struct prefix_seen {
    uint32_t known, believed; /* blocks in the table; of them within reach */
    uint32_t first_age, last_age; /* of the first and the last that is known */
};
void prefix_look(const struct prefix_index *x, const uint64_t *hashes, size_t count, struct prefix_seen *ret);
/* The engine found so many of its blocks. */
void prefix_learn(struct prefix_index *x, const struct prefix_seen *seen, size_t found);

#endif
