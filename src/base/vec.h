/* Growable array of one type: a struct with ptr, len and cap, and macros.
 *
 *   VEC(struct str) names = VEC_INIT;
 *   *VEC_PUSH(&names) = s;             a zeroed slot at the end; aborts when memory is short
 *   VEC_FOREACH(&names, n) ...         n is a pointer to each element
 *   VEC_DEINIT(&names);
 * The array moves when it grows: keep indices, not pointers. Whoever pushes what a peer can size checks a cap first.
 */
#ifndef SEKI_BASE_VEC_H
#define SEKI_BASE_VEC_H

#include "base/mem.h"

#define VEC(type)                                                                                  \
    struct {                                                                                       \
        type *ptr;                                                                                 \
        size_t len;                                                                                \
        size_t cap;                                                                                \
    }
#define VEC_INIT {NULL, 0, 0}

void vec_grow(void **ptr, size_t *cap, size_t need, size_t elem_bytes);

#define VEC_PUSH(v)                                                                                \
    (vec_grow((void **)&(v)->ptr, &(v)->cap, (v)->len + 1, sizeof(*(v)->ptr)),                     \
     memset(&(v)->ptr[(v)->len], 0, sizeof(*(v)->ptr)), &(v)->ptr[(v)->len++])
#define VEC_FOREACH(v, it)                                                                         \
    for (__typeof__(*(v)->ptr) *it = (v)->ptr; it && it < (v)->ptr + (v)->len; it++)
#define VEC_REMOVE(v, index)                                                                       \
    (memmove(&(v)->ptr[index], &(v)->ptr[(index) + 1],                                             \
             ((v)->len - (size_t)(index)-1) * sizeof(*(v)->ptr)),                                  \
     (v)->len--)
#define VEC_DEINIT(v) (mem_free((v)->ptr), (v)->ptr = NULL, (v)->len = (v)->cap = 0)

#endif
