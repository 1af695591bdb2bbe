/* Randomness from the kernel, and identifiers made of it. Threads: any. */
#ifndef SEKI_BASE_RND_H
#define SEKI_BASE_RND_H

#include <stdint.h>

#include "base/compiler.h"

void rnd_bytes(void *out, size_t len); /* getrandom; aborts when the kernel has none */
uint64_t rnd_u64(void);
uint64_t rnd_below(uint64_t n); /* uniform in [0, n) */

/* UUID version 4, "xxxxxxxx-xxxx-4xxx-yxxx-xxxxxxxxxxxx". */
#define UUID_TEXT_MAX 37
void rnd_uuid(char text[UUID_TEXT_MAX]);

/* n characters of the alphabet that Kubernetes uses for generated names (bcdfghjklmnpqrstvwxz2456789), then NUL. */
void rnd_name(char *text, size_t n);
/* n characters of [A-Za-z0-9], then NUL: for secrets (5.95 bits each). */
void rnd_secret(char *text, size_t n);

#endif
