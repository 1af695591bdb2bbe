/* Base64 there and back: what is encoded decodes to the same; what decodes and is encoded anew keeps its length. */
#include "fuzz.h"

#include "crypto/hash.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > 65536)
        return 0;
    struct err err = ERR_INIT;
    struct str in = str_n(data, size);
    CLEANUP(sbuf_deinit) struct sbuf text = {0}, back = {0}, plain = {0}, again = {0};
    sbuf_init(&text, 2 * size + 8);
    sbuf_init(&back, size + 8);
    sbuf_init(&plain, size + 8);
    sbuf_init(&again, size + 8);
    base64_encode(in, &text);
    if (!sbuf_ok(&text) || text.len != (size + 2) / 3 * 4)
        abort();
    if (base64_decode(sbuf_str(&text), &back, &err) < 0 || !str_eq(sbuf_str(&back), in))
        abort();
    if (base64_decode(in, &plain, &err) < 0) {
        if (!err.msg[0])
            abort();
        return 0;
    }
    base64_encode(sbuf_str(&plain), &again);
    if (again.len != size)
        abort();
    return 0;
}
