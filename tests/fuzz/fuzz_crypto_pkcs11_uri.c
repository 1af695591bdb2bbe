/* URIs of keys in tokens: refused with a reason that shows no PIN, or complete. */
#include "fuzz.h"

#include "crypto/pkcs11.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct err err = ERR_INIT;
    struct pkcs11_uri u;
    int rc = pkcs11_uri_parse(str_n(data, size), &u, &err);
    if (rc < 0) {
        if (rc != ERR_INVALID || !err.msg[0])
            abort();
        return 0;
    }
    if ((!*u.object && !u.id_len) || u.id_len > PKCS11_ID_MAX || u.module_path[0] != '/' || (u.pin_file[0] && u.pin_file[0] != '/'))
        abort();
    if (strlen(u.token) >= sizeof(u.token) || strlen(u.object) >= sizeof(u.object) || strlen(u.module_path) >= sizeof(u.module_path))
        abort();
    return 0;
}
