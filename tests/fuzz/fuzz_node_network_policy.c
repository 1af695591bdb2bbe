/* Pods, namespaces and policies that anybody has written: the text for nft has no word and no sign of theirs. Input: a document with the three lists. */
#include "fuzz.h"

#include <stdlib.h>

#include "node/network_policy.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    JSON_AUTO doc = NULL;
    CLEANUP(sbuf_deinit) struct sbuf out = {0};
    sbuf_init(&out, 1 << 20);
    if (json_parse(str_n(data, size), 1 << 16, &doc, NULL) < 0)
        return 0;
    const struct policy_input in = {"n0", "10.244.0.0/24", json_object_get(doc, "pods"), json_object_get(doc, "namespaces"), json_object_get(doc, "policies")};
    if (policy_compile(&in, &out, NULL) < 0)
        return 0;
    for (size_t i = 0; i < out.len; i++)
        if (!strchr("abcdefghijklmnopqrstuvwxyz0123456789 \n{}=.,:;/!@-_\"", out.ptr[i]))
            abort();
    return 0;
}
