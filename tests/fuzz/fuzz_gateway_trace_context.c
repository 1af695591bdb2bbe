/* traceparent: what is read is written again as it was, but for versions and flags that we do not know. */
#include "fuzz.h"

#include <stdlib.h>

#include "base/mem.h"
#include "gateway/trace_context.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct trace_context c, again;
    char text[TRACEPARENT_LEN + 1];
    char *own = xcalloc(1, size ? size : 1); /* its own block: reading on is seen */
    memcpy(own, data, size);
    if (trace_context_read(str_n(own, size), &c)) {
        trace_context_write(&c, text);
        if (strlen(text) != TRACEPARENT_LEN || memcmp(text + 2, own + 2, 51) != 0 || !trace_context_read(str_of(text), &again) || again.sampled != c.sampled)
            abort();
    }
    mem_free(own);
    return 0;
}
