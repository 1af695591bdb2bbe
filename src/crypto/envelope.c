#include "crypto/envelope.h"

#include <openssl/evp.h>

#include "base/mem.h"
#include "base/rnd.h"

#define VERSION 1
#define NONCE_BYTES 12
#define TAG_BYTES 16
#define HEAD_BYTES (1 + ENVELOPE_ID_BYTES)
#define WRAPPED_BYTES (ENVELOPE_KEY_BYTES + AEAD_OVERHEAD)
#define TEXT_MAX ((size_t)1 << 30) /* OpenSSL counts in int */

static void free_ctx(EVP_CIPHER_CTX **c)
{
    EVP_CIPHER_CTX_free(*c);
}

static const unsigned char *bytes_of(struct str s)
{
    return (const unsigned char *)(s.ptr ? s.ptr : "");
}

/* The context that seals or opens with key, nonce and aad; NULL without memory. */
static EVP_CIPHER_CTX *begin(const struct envelope_key *key, const unsigned char *nonce, struct str aad, bool seal)
{
    int n = 0;
    EVP_CIPHER_CTX *c = EVP_CIPHER_CTX_new();
    if (c && EVP_CipherInit_ex(c, EVP_aes_256_gcm(), NULL, key->bytes, nonce, seal) == 1 && (!aad.len || EVP_CipherUpdate(c, NULL, &n, bytes_of(aad), (int)aad.len) == 1))
        return c;
    EVP_CIPHER_CTX_free(c);
    return NULL;
}

int aead_seal(const struct envelope_key *key, struct str aad, struct str plain, struct sbuf *out, struct err *err)
{
    size_t size = plain.len + AEAD_OVERHEAD;
    char *room = plain.len < TEXT_MAX && aad.len < TEXT_MAX ? sbuf_reserve(out, size) : NULL;
    if (!room)
        return err_set(err, ERR_TOO_LARGE, "too large to be sealed");
    unsigned char *nonce = (unsigned char *)room, *text = nonce + NONCE_BYTES, *tag = text + plain.len;
    int n = 0;
    rnd_bytes(nonce, NONCE_BYTES);
    CLEANUP(free_ctx) EVP_CIPHER_CTX *c = begin(key, nonce, aad, true);
    if (!c || EVP_CipherUpdate(c, text, &n, bytes_of(plain), (int)plain.len) != 1 || EVP_CipherFinal_ex(c, tag, &n) != 1 || EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_GCM_GET_TAG, TAG_BYTES, tag) != 1)
        return err_set(err, ERR_NO_MEMORY, "sealing failed");
    sbuf_commit(out, size);
    return 0;
}

static int refuse(struct err *err)
{
    return err_set(err, ERR_CORRUPT, "the sealed text does not open: it was changed, or belongs elsewhere");
}

int aead_open(const struct envelope_key *key, struct str aad, struct str sealed, struct sbuf *out, struct err *err)
{
    if (sealed.len < AEAD_OVERHEAD || sealed.len >= TEXT_MAX || aad.len >= TEXT_MAX)
        return refuse(err);
    size_t size = sealed.len - AEAD_OVERHEAD;
    char *room = sbuf_reserve(out, size);
    if (!room)
        return err_set(err, ERR_TOO_LARGE, "the sealed text is too large to be opened");
    const unsigned char *nonce = bytes_of(sealed), *text = nonce + NONCE_BYTES;
    unsigned char tag[TAG_BYTES];
    int n = 0, rest = 0;
    memcpy(tag, text + size, sizeof(tag));
    CLEANUP(free_ctx) EVP_CIPHER_CTX *c = begin(key, nonce, aad, false);
    if (!c)
        return err_set(err, ERR_NO_MEMORY, "out of memory");
    if (EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_GCM_SET_TAG, TAG_BYTES, tag) != 1 || EVP_CipherUpdate(c, (unsigned char *)room, &n, text, (int)size) != 1 ||
        EVP_CipherFinal_ex(c, (unsigned char *)room + size, &rest) != 1) {
        mem_wipe(room, size); /* what was not authenticated is nobody's to see */
        return refuse(err);
    }
    sbuf_commit(out, size);
    return 0;
}

/* ---- two keys ---- */

int envelope_seal(const uint8_t id[ENVELOPE_ID_BYTES], const struct envelope_key *kek, struct str aad, struct str plain, struct sbuf *out, struct err *err)
{
    struct envelope_key data_key;
    size_t start = out->len;
    char head[HEAD_BYTES] = {VERSION};
    memcpy(head + 1, id, ENVELOPE_ID_BYTES);
    rnd_bytes(data_key.bytes, sizeof(data_key.bytes));
    sbuf_add(out, str_n(head, sizeof(head)));
    int rc = sbuf_ok(out) ? 0 : err_set(err, ERR_TOO_LARGE, "too large to be sealed");
    if (rc == 0)
        rc = aead_seal(kek, str_n(head, sizeof(head)), str_n(data_key.bytes, sizeof(data_key.bytes)), out, err);
    if (rc == 0)
        rc = aead_seal(&data_key, aad, plain, out, err);
    mem_wipe(&data_key, sizeof(data_key));
    if (rc < 0)
        out->len = start;
    return rc;
}

int envelope_key_id(struct str sealed, uint8_t ret[ENVELOPE_ID_BYTES], struct err *err)
{
    if (sealed.len < ENVELOPE_OVERHEAD)
        return err_set(err, ERR_CORRUPT, "the sealed text is cut");
    if (sealed.ptr[0] != VERSION)
        return err_set(err, ERR_CORRUPT, "the sealed text has form %d, which this program does not know", (unsigned char)sealed.ptr[0]);
    memcpy(ret, sealed.ptr + 1, ENVELOPE_ID_BYTES);
    return 0;
}

static void free_wiped(struct sbuf *b)
{
    if (b->ptr)
        mem_wipe(b->ptr, b->cap);
    sbuf_deinit(b);
}

int envelope_open(const struct envelope_key *kek, struct str aad, struct str sealed, struct sbuf *out, struct err *err)
{
    uint8_t id[ENVELOPE_ID_BYTES];
    int rc = envelope_key_id(sealed, id, err);
    if (rc < 0)
        return rc;
    CLEANUP(free_wiped) struct sbuf unwrapped = {0};
    struct envelope_key data_key;
    sbuf_init(&unwrapped, ENVELOPE_KEY_BYTES);
    rc = aead_open(kek, str_n(sealed.ptr, HEAD_BYTES), str_n(sealed.ptr + HEAD_BYTES, WRAPPED_BYTES), &unwrapped, err);
    if (rc < 0)
        return rc;
    memcpy(data_key.bytes, unwrapped.ptr, sizeof(data_key.bytes));
    rc = aead_open(&data_key, aad, str_skip(sealed, HEAD_BYTES + WRAPPED_BYTES), out, err);
    mem_wipe(&data_key, sizeof(data_key));
    return rc;
}
