/* Key sets: any bytes are refused with a reason or are a bounded set that is equal to itself. */
#include "fuzz.h"

#include "crypto/jwk.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct err err = ERR_INIT;
    struct jwk_set *s = NULL, *again = NULL;
    if (jwk_set_parse(str_n(data, size), &s, &err) < 0) {
        if (err.code != ERR_PROTOCOL || !err.msg[0] || s)
            abort();
        return 0;
    }
    if (size > JWK_SET_BYTES_MAX || !jwk_set_count(s) || jwk_set_count(s) > JWK_KEYS_MAX || !jwk_set_has(s, ""))
        abort();
    if (jwk_set_parse(str_n(data, size), &again, &err) < 0 || !jwk_set_equal(s, again))
        abort();
    jwk_set_unref(s);
    jwk_set_unref(again);
    return 0;
}
