#include "crypto/token.h"

#include "base/file.h"
#include "base/mem.h"
#include "base/rnd.h"

#define SECRET_CHARS 40

int token_pepper_ensure(const char *path, struct token_pepper *ret, struct err *err)
{
    if (!file_exists(path)) {
        uint8_t fresh[sizeof(ret->bytes)];
        rnd_bytes(fresh, sizeof(fresh));
        int rc = file_write(path, str_n(fresh, sizeof(fresh)), 0600, err);
        mem_wipe(fresh, sizeof(fresh));
        if (rc < 0)
            return rc;
    }
    char *bytes = NULL;
    size_t len = 0;
    int rc = file_read(path, 4096, &bytes, &len, err);
    if (rc < 0)
        return rc;
    if (len == sizeof(ret->bytes))
        memcpy(ret->bytes, bytes, len);
    else
        rc = err_set(err, ERR_CORRUPT, "%s: expected %zu bytes, found %zu", path, sizeof(ret->bytes), len);
    mem_wipe(bytes, len);
    mem_free(bytes);
    return rc;
}

void token_make(char text[TOKEN_TEXT_MAX])
{
    memcpy(text, TOKEN_PREFIX, sizeof(TOKEN_PREFIX) - 1);
    rnd_secret(text + sizeof(TOKEN_PREFIX) - 1, SECRET_CHARS);
}

void token_hash(const struct token_pepper *p, struct str token, char ret_hex[SHA256_HEX_MAX])
{
    uint8_t mac[SHA256_BYTES];
    hash_hmac_sha256(str_n(p->bytes, sizeof(p->bytes)), token, mac);
    hash_hex(mac, sizeof(mac), ret_hex);
}
