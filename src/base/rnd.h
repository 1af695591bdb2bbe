/* Randomness from the kernel, and identifiers made of it. Threads: any. */
#ifndef SEKI_BASE_RND_H
#define SEKI_BASE_RND_H

#include <stdint.h>

#include "base/compiler.h"

void rnd_bytes(void *out, size_t len); /* getrandom; aborts when the kernel has none */
uint64_t rnd_u64(void);
uint64_t rnd_below(uint64_t n); /* uniform in [0, n) */
/* The same as rnd_bytes(), of which the kernel is asked for 4 KiB at a time, a thread: for names that must not be guessed and that many are needed of. Never for secrets, as what was given out stays in
 * memory for a while, nor in a child of fork(). len: 4 KiB at most. */
void rnd_bytes_ahead(void *out, size_t len);
/* In [0, n), from a generator of the thread's own that the kernel seeds once: whoever sees enough of it can tell what comes next. For ties, never for secrets. */
uint64_t rnd_guessable_below(uint64_t n);

/* UUID version 4, "xxxxxxxx-xxxx-4xxx-yxxx-xxxxxxxxxxxx". */
#define UUID_TEXT_MAX 37
void rnd_uuid(char text[UUID_TEXT_MAX]);

/* n characters of the alphabet that Kubernetes uses for generated names (bcdfghjklmnpqrstvwxz2456789), then NUL. */
void rnd_name(char *text, size_t n);
/* n characters of [A-Za-z0-9], then NUL: for secrets (5.95 bits each). */
void rnd_secret(char *text, size_t n);

#endif
