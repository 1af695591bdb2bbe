#include "crypto/sealed_file.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/rnd.h"
#include "crypto/hash.h"

#define MAGIC "SEKISEAL"
#define FORMAT 1
#define AT_FORMAT 8
#define AT_CHUNK 12
#define AT_KEY_ID 16
#define AT_SALT 24
#define SALT_BYTES 32
#define AT_ZERO 56
#define NONCE_BYTES 12
#define SEALED_BYTES (SEALED_CHUNK_BYTES + SEALED_TAG_BYTES)
#define CHUNKS_MAX (UINT64_C(1) << 32) /* far below what one key of AES-GCM may seal */

/* ---- keys ---- */

#define KEY_PREFIX "seki-key-1 "
#define KEY_FILE_MAX 256

static struct str bytes_of(const struct sealed_key *k)
{
    return str_n(k->bytes, sizeof(k->bytes));
}

int sealed_key_make(const char *path, struct err *err)
{
    struct sealed_key k;
    char text[sizeof(KEY_PREFIX) + 2 * sizeof(k.bytes) + 1] = KEY_PREFIX;
    size_t len = strlen(text);
    CLEANUP(file_closep) int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return errno == EEXIST ? err_set(err, ERR_EXISTS, "%s is there already; a key is never written over", path) : err_sys(err, errno, "%s", path);
    rnd_bytes(k.bytes, sizeof(k.bytes));
    hash_hex(k.bytes, sizeof(k.bytes), text + len);
    len += 2 * sizeof(k.bytes);
    text[len++] = '\n';
    int rc = fchmod(fd, 0600) < 0 ? err_sys(err, errno, "chmod %s", path) : file_write_all(fd, str_n(text, len), err);
    if (rc == 0 && fsync(fd) < 0)
        rc = err_sys(err, errno, "fsync %s", path);
    mem_wipe(&k, sizeof(k));
    mem_wipe(text, sizeof(text));
    if (rc < 0)
        unlink(path);
    return rc;
}

static int hex_value(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool parse_key(struct str text, struct sealed_key *ret)
{
    text = str_trim(text);
    if (!str_starts(text, STR(KEY_PREFIX)) || text.len != strlen(KEY_PREFIX) + 2 * sizeof(ret->bytes))
        return false;
    const char *digits = text.ptr + strlen(KEY_PREFIX);
    for (size_t i = 0; i < sizeof(ret->bytes); i++) {
        int high = hex_value(digits[2 * i]), low = hex_value(digits[2 * i + 1]);
        if (high < 0 || low < 0)
            return false;
        ret->bytes[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}

int sealed_key_load(const char *path, struct sealed_key *ret, struct err *err)
{
    struct stat st;
    char *text = NULL;
    size_t len = 0;
    if (stat(path, &st) < 0)
        return err_sys(err, errno, "the key %s", path);
    if (st.st_mode & 077)
        return err_set(err, ERR_FORBIDDEN, "the key %s may be read by others (mode %03o): chmod 600 it, or make another", path, (unsigned)st.st_mode & 0777);
    int rc = file_read(path, KEY_FILE_MAX, &text, &len, err);
    if (rc < 0)
        return rc == ERR_TOO_LARGE ? err_set(err, ERR_INVALID, "%s is no key that was made by keygen", path) : rc;
    if (!parse_key(str_n(text, len), ret))
        rc = err_set(err, ERR_INVALID, "%s is no key that was made by keygen", path);
    mem_wipe(text, len);
    mem_free(text);
    return rc;
}

void sealed_key_id(const struct sealed_key *k, uint8_t ret[SEALED_KEY_ID_BYTES])
{
    uint8_t mac[SHA256_BYTES];
    hash_hmac_sha256(bytes_of(k), STR("seki sealed file: name of the key"), mac);
    memcpy(ret, mac, SEALED_KEY_ID_BYTES);
}

/* HKDF with one block of output. */
static void file_key(const struct sealed_key *k, const uint8_t salt[SALT_BYTES], uint8_t ret[SHA256_BYTES])
{
    uint8_t extracted[SHA256_BYTES];
    hash_hmac_sha256(str_n(salt, SALT_BYTES), bytes_of(k), extracted);
    hash_hmac_sha256(str_n(extracted, sizeof(extracted)), STR("seki sealed file 1: chunks\x01"), ret);
    mem_wipe(extracted, sizeof(extracted));
}

/* ---- chunks ---- */

struct cipher {
    EVP_CIPHER_CTX *ctx;
    uint8_t head[SEALED_HEAD_BYTES];
    uint64_t chunks;
};

static int cipher_init(struct cipher *c, const struct sealed_key *k, bool seal, struct err *err)
{
    uint8_t key[SHA256_BYTES];
    file_key(k, c->head + AT_SALT, key);
    c->ctx = EVP_CIPHER_CTX_new();
    bool good = c->ctx && EVP_CipherInit_ex(c->ctx, EVP_aes_256_gcm(), NULL, key, NULL, seal) == 1;
    mem_wipe(key, sizeof(key));
    return good ? 0 : err_set(err, ERR_INTERNAL, "OpenSSL has no AES-256-GCM");
}

/* Nonce and head of the next chunk. */
static bool begin_chunk(struct cipher *c, bool last)
{
    uint8_t nonce[NONCE_BYTES] = {0};
    int n;
    for (int i = 0; i < 8; i++)
        nonce[i] = (uint8_t)(c->chunks >> (8 * (7 - i)));
    nonce[NONCE_BYTES - 1] = last;
    return EVP_CipherInit_ex(c->ctx, NULL, NULL, NULL, nonce, -1) == 1 && EVP_CipherUpdate(c->ctx, NULL, &n, c->head, SEALED_HEAD_BYTES) == 1;
}

static bool unseal(struct cipher *c, bool last, const uint8_t *sealed, size_t len, uint8_t *out)
{
    int n = 0, rest = 0;
    size_t plain = len - SEALED_TAG_BYTES;
    return begin_chunk(c, last) && EVP_CipherUpdate(c->ctx, out, &n, sealed, (int)plain) == 1 && EVP_CIPHER_CTX_ctrl(c->ctx, EVP_CTRL_GCM_SET_TAG, SEALED_TAG_BYTES, (void *)(uintptr_t)(sealed + plain)) == 1 &&
           EVP_CipherFinal_ex(c->ctx, out + n, &rest) == 1;
}

/* ---- writing ---- */

struct sealed_writer {
    int fd;
    struct cipher cipher;
    size_t len; /* of plain */
    uint8_t plain[SEALED_CHUNK_BYTES], sealed[SEALED_BYTES];
};

void sealed_writer_free(struct sealed_writer *w)
{
    if (!w)
        return;
    EVP_CIPHER_CTX_free(w->cipher.ctx);
    mem_wipe(w->plain, sizeof(w->plain));
    mem_free(w);
}

bool sealed_file_begins(struct str head)
{
    return !memcmp(head.ptr, MAGIC, MIN(head.len, (size_t)8));
}

int sealed_writer_new(int fd, const struct sealed_key *k, struct sealed_writer **ret, struct err *err)
{
    struct sealed_writer *w = XNEW(struct sealed_writer);
    uint8_t *head = w->cipher.head;
    w->fd = fd;
    memcpy(head, MAGIC, 8);
    head[AT_FORMAT] = FORMAT;
    for (int i = 0; i < 4; i++)
        head[AT_CHUNK + i] = (uint8_t)((uint32_t)SEALED_CHUNK_BYTES >> (8 * i));
    sealed_key_id(k, head + AT_KEY_ID);
    rnd_bytes(head + AT_SALT, SALT_BYTES);
    int rc = cipher_init(&w->cipher, k, true, err);
    if (rc == 0)
        rc = file_write_all(fd, str_n(head, SEALED_HEAD_BYTES), err);
    if (rc < 0) {
        sealed_writer_free(w);
        return rc;
    }
    *ret = w;
    return 0;
}

static int write_chunk(struct sealed_writer *w, bool last, struct err *err)
{
    int n = 0, rest = 0;
    EVP_CIPHER_CTX *ctx = w->cipher.ctx;
    if (w->cipher.chunks >= CHUNKS_MAX)
        return err_set(err, ERR_TOO_LARGE, "too much for one file");
    if (!begin_chunk(&w->cipher, last) || EVP_CipherUpdate(ctx, w->sealed, &n, w->plain, (int)w->len) != 1 || EVP_CipherFinal_ex(ctx, w->sealed + n, &rest) != 1 ||
        EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_GCM_GET_TAG, SEALED_TAG_BYTES, w->sealed + w->len) != 1)
        return err_set(err, ERR_INTERNAL, "encryption failed");
    int rc = file_write_all(w->fd, str_n(w->sealed, w->len + SEALED_TAG_BYTES), err);
    w->cipher.chunks++;
    w->len = 0;
    return rc;
}

/* A full chunk waits until it is known that it is not the last. */
int sealed_write(struct sealed_writer *w, struct str bytes, struct err *err)
{
    while (bytes.len) {
        int rc = w->len == SEALED_CHUNK_BYTES ? write_chunk(w, false, err) : 0;
        if (rc < 0)
            return rc;
        size_t n = MIN(bytes.len, SEALED_CHUNK_BYTES - w->len);
        memcpy(w->plain + w->len, bytes.ptr, n);
        w->len += n;
        bytes = str_skip(bytes, n);
    }
    return 0;
}

int sealed_finish(struct sealed_writer *w, struct err *err)
{
    return write_chunk(w, true, err);
}

/* ---- reading ---- */

struct sealed_reader {
    int fd;
    struct cipher cipher;
    size_t ahead; /* bytes of the next chunk that are in raw already */
    bool end;
    size_t at, len; /* of plain */
    uint8_t plain[SEALED_CHUNK_BYTES], raw[SEALED_BYTES + 1];
};

void sealed_reader_free(struct sealed_reader *r)
{
    if (!r)
        return;
    EVP_CIPHER_CTX_free(r->cipher.ctx);
    mem_wipe(r->plain, sizeof(r->plain));
    mem_free(r);
}

static int read_full(int fd, uint8_t *buf, size_t size, size_t *ret_len, struct err *err)
{
    size_t len = 0;
    while (len < size) {
        ssize_t n = read(fd, buf + len, size - len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_sys(err, errno, "read");
        if (n == 0)
            break;
        len += (size_t)n;
    }
    *ret_len = len;
    return 0;
}

static uint32_t number_at(const uint8_t *p)
{
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static int check_head(const uint8_t *head, size_t len, const struct sealed_key *k, struct err *err)
{
    uint8_t id[SEALED_KEY_ID_BYTES];
    char made_with[2 * SEALED_KEY_ID_BYTES + 1], this_one[2 * SEALED_KEY_ID_BYTES + 1];
    if (len < 8 || memcmp(head, MAGIC, 8) != 0)
        return err_set(err, ERR_CORRUPT, "this is no sealed file of Seki: its first bytes are wrong");
    if (len < SEALED_HEAD_BYTES)
        return err_set(err, ERR_CORRUPT, "cut off in its head, after %zu bytes", len);
    if (number_at(head + AT_FORMAT) != FORMAT)
        return err_set(err, ERR_INVALID, "sealed in format %u, which a newer release writes; this one reads format %d", number_at(head + AT_FORMAT), FORMAT);
    if (number_at(head + AT_CHUNK) != SEALED_CHUNK_BYTES)
        return err_set(err, ERR_CORRUPT, "its head is altered: chunks of %u bytes", number_at(head + AT_CHUNK));
    sealed_key_id(k, id);
    if (memcmp(id, head + AT_KEY_ID, sizeof(id)) == 0)
        return 0;
    hash_hex(head + AT_KEY_ID, SEALED_KEY_ID_BYTES, made_with);
    hash_hex(id, sizeof(id), this_one);
    return err_set(err, ERR_INVALID, "sealed with another key: it wants the key %s, this one is %s", made_with, this_one);
}

int sealed_reader_new(int fd, const struct sealed_key *k, struct sealed_reader **ret, struct err *err)
{
    struct sealed_reader *r = XNEW(struct sealed_reader);
    size_t len = 0;
    r->fd = fd;
    int rc = read_full(fd, r->cipher.head, SEALED_HEAD_BYTES, &len, err);
    if (rc == 0)
        rc = check_head(r->cipher.head, len, k, err);
    if (rc == 0)
        rc = cipher_init(&r->cipher, k, false, err);
    if (rc < 0) {
        sealed_reader_free(r);
        return rc;
    }
    *ret = r;
    return 0;
}

/* The byte behind a full chunk tells whether it is the last. */
static int read_chunk(struct sealed_reader *r, struct err *err)
{
    size_t len = 0;
    int rc = read_full(r->fd, r->raw + r->ahead, sizeof(r->raw) - r->ahead, &len, err);
    if (rc < 0)
        return rc;
    len += r->ahead;
    bool last = len <= SEALED_BYTES;
    size_t sealed = last ? len : SEALED_BYTES;
    unsigned long long number = r->cipher.chunks + 1;
    if (sealed < SEALED_TAG_BYTES || !unseal(&r->cipher, last, r->raw, sealed, r->plain)) {
        mem_wipe(r->plain, sizeof(r->plain));
        if (sealed < SEALED_TAG_BYTES || (last && sealed == SEALED_BYTES && unseal(&r->cipher, false, r->raw, sealed, r->plain)))
            return err_set(err, ERR_CORRUPT, "cut off at chunk %llu: its end is missing", number);
        return err_set(err, ERR_CORRUPT, last ? "chunk %llu, the last one here, is altered or cut off" : "chunk %llu is altered", number);
    }
    r->cipher.chunks++;
    r->end = last;
    r->at = 0;
    r->len = sealed - SEALED_TAG_BYTES;
    r->ahead = len - sealed;
    r->raw[0] = r->raw[SEALED_BYTES];
    return 0;
}

int sealed_read(struct sealed_reader *r, void *buf, size_t size, size_t *ret_len, struct err *err)
{
    while (r->at == r->len && !r->end) {
        int rc = read_chunk(r, err);
        if (rc < 0)
            return rc;
    }
    *ret_len = MIN(size, r->len - r->at);
    memcpy(buf, r->plain + r->at, *ret_len);
    r->at += *ret_len;
    return 0;
}
