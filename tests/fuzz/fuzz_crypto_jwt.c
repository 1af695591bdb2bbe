/* Tokens: any bytes are refused with a reason or have the form of a token; nothing that is made up here verifies. */
#include "fuzz.h"

#include "base/file.h"
#include "crypto/jwt.h"

#include <stdlib.h>
#include <unistd.h>

static struct jwt_key *a_key(void)
{
    static struct jwt_key *key;
    char dir[] = "/tmp/seki-fuzz-XXXXXX", path[64];
    if (key || !mkdtemp(dir))
        return key;
    snprintf(path, sizeof(path), "%s/key", dir);
    if (jwt_key_ensure(path, &key, NULL) < 0 || file_remove_tree(dir, NULL) < 0)
        abort();
    return key;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct err err = ERR_INIT;
    CLEANUP(jwt_deinit) struct jwt t = {0};
    struct jwt_key *key = a_key();
    if (jwt_parse(str_n(data, size), &t, &err) < 0) {
        if (err.code != ERR_UNAUTHENTICATED || !err.msg[0] || t.claims)
            abort();
        return 0;
    }
    if (size > JWT_MAX || !json_is_object(t.claims) || t.content.len + 1 >= size || (const uint8_t *)t.content.ptr != data)
        abort();
    if (jwt_verify(key, &t, &err) == 0)
        abort();
    snprintf(t.key_id, sizeof(t.key_id), "%s", jwt_key_id(key)); /* the signature alone has to tell */
    if (jwt_verify(key, &t, &err) == 0)
        abort();
    return 0;
}
