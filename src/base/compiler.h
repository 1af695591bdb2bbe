/* Compiler vocabulary: the attributes and ownership macros every file uses.
 *
 * Whatever C23 will rename lives here, so that a move to it is a change of one file.
 */
#ifndef SEKI_BASE_COMPILER_H
#define SEKI_BASE_COMPILER_H

#include <stddef.h>

#include "base/banned.h"

#define NODISCARD __attribute__((warn_unused_result))
#define PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#define UNUSED __attribute__((unused))
#define NORETURN __attribute__((noreturn))
#define UNLIKELY(x) __builtin_expect(!!(x), 0)

/* CLEANUP(f): call f(&variable) when the variable leaves scope. f takes a pointer to the variable. */
#define CLEANUP(f) __attribute__((cleanup(f)))

/* TAKE(p): the value of p, and p is NULL from here on: hands ownership over from a CLEANUP variable. */
#define TAKE(p)                                                                                    \
    __extension__({                                                                                \
        __typeof__(p) take_value_ = (p);                                                           \
        (p) = NULL;                                                                                \
        take_value_;                                                                               \
    })

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

#define CONTAINER_OF(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

/* <sys/param.h> has the same two. */
#ifndef MIN
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#endif
#ifndef MAX
#define MAX(a, b) ((a) > (b) ? (a) : (b))
#endif

#endif
