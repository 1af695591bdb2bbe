#include "base/vec.h"

void vec_grow(void **ptr, size_t *cap, size_t need, size_t elem_bytes)
{
    if (need <= *cap)
        return;
    size_t want = MAX(need, MAX(*cap * 2, (size_t)8));
    size_t bytes;
    if (__builtin_mul_overflow(want, elem_bytes, &bytes))
        abort();
    *ptr = xrealloc(*ptr, bytes);
    *cap = want;
}
