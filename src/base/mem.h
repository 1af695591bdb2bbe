/* Memory: the only callers of malloc and free outside this folder's containers.
 *
 * x*() abort when memory is short: for start-up and for small bounded control-plane objects. Where a
 * peer can size the request, and everywhere in the gateway's request path, use mem_try() and answer 503.
 * Threads: any. Ownership: the caller owns what is returned and gives it to mem_free().
 */
#ifndef SEKI_BASE_MEM_H
#define SEKI_BASE_MEM_H

#include "base/compiler.h"

void *xcalloc(size_t count, size_t size_bytes) NODISCARD;
void *xrealloc(void *p, size_t size_bytes) NODISCARD;
char *xstrdup(const char *s) NODISCARD;
char *xstrndup(const char *s, size_t len) NODISCARD;
char *xasprintf(const char *fmt, ...) PRINTF(1, 2) NODISCARD;

/* Zeroed memory, or NULL when there is none. */
void *mem_try(size_t size_bytes) NODISCARD;
void mem_free(void *p);

/* Overwrites a secret in a way the compiler keeps. */
void mem_wipe(void *p, size_t len);

/* For CLEANUP(mem_freep): frees the pointer that p points to. */
void mem_freep(void *p);

#define XNEW(type) ((type *)xcalloc(1, sizeof(type)))

#endif
