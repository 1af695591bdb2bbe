/* The file of running requests. The first byte says how many places there are, the rest is what is in them, from the first small one on, then from the first large one on; the head is ours, or
 * the file is the input itself. Whatever is there: each record adds up, can be
 * written and is read again as it was, but for counts that no engine has. */
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/mem.h"
#include "gateway/open_requests.h"

#define HEAD_BYTES 4096
#define LARGE_BYTES (16 * 2048)

static void check(void *arg, const struct usage *u, uint64_t sequence)
{
    struct arena *a = arena_new(1 << 20);
    struct sbuf out = {0};
    struct usage again;
    (void)arg, (void)sequence;
    sbuf_init(&out, LEDGER_BODY_MAX);
    usage_encode(u, &out);
    if (!usage_adds_up(u) || !sbuf_ok(&out))
        abort();
    if (usage_decode(sbuf_str(&out), a, &again, NULL) == 0 && (!str_eq(again.id, u->id) || again.prompt_tokens != MIN(u->prompt_tokens, USAGE_TOKENS_MAX) || again.completion_tokens != MIN(u->completion_tokens, USAGE_TOKENS_MAX)))
        abort();
    sbuf_deinit(&out);
    arena_free(a);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    if (!len)
        return 0;
    uint32_t head[2] = {3, 1u + data[0] % 16};
    size_t small = (size_t)(head[1] * 512 + HEAD_BYTES - 1) / HEAD_BYTES * HEAD_BYTES, size = HEAD_BYTES + small + LARGE_BYTES;
    char *file = xcalloc(1, size);
    memcpy(file, "SEKIOPEN", 8);
    memcpy(file + 8, head, sizeof(head));
    memcpy(file + HEAD_BYTES + (data[0] & 128 ? small : 0), data + 1, MIN(len - 1, data[0] & 128 ? (size_t)LARGE_BYTES : small + LARGE_BYTES));
    open_requests_walk(file, size, check, NULL);
    memset(file, 0, size);
    memcpy(file, data, MIN(len, size));
    open_requests_walk(file, size, check, NULL);
    mem_free(file);
    return 0;
}
