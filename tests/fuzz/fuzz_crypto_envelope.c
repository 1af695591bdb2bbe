/* Sealed texts: nothing that was made up opens; what is sealed opens as it was, and not when the input changes a byte of it. */
#include "fuzz.h"

#include "crypto/envelope.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct err err = ERR_INIT;
    struct envelope_key kek = {{1, 2, 3}};
    uint8_t id[ENVELOPE_ID_BYTES] = {4};
    CLEANUP(sbuf_deinit) struct sbuf plain = {0}, sealed = {0};
    struct str input = str_n(data, size);
    sbuf_init(&plain, 1 << 20);
    sbuf_init(&sealed, 1 << 20);
    if (size > 1 << 16)
        return 0;
    if (envelope_open(&kek, STR("place"), input, &plain, &err) != ERR_CORRUPT || !err.msg[0] || plain.len)
        abort();
    if (envelope_seal(id, &kek, input, input, &sealed, &err) < 0 || envelope_open(&kek, input, sbuf_str(&sealed), &plain, &err) < 0 || !str_eq(sbuf_str(&plain), input))
        abort();
    if (size < 3 || !data[2])
        return 0;
    sealed.ptr[(data[0] << 8 | data[1]) % sealed.len] ^= (char)data[2];
    if (envelope_open(&kek, input, sbuf_str(&sealed), &plain, &err) != ERR_CORRUPT || !str_eq(sbuf_str(&plain), input))
        abort();
    return 0;
}
