#include "crypto/hash.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"

#define SHA256_BLOCK 64
#define PIECE_BYTES (1024 * 1024)

static EVP_MD *fetched;
static pthread_once_t fetch_once = PTHREAD_ONCE_INIT;

static void fetch(void)
{
    fetched = EVP_MD_fetch(NULL, "SHA256", NULL);
    if (!fetched)
        abort();
}

/* Looked up once: with EVP_sha256() OpenSSL would look it up by its name at every hash, under locks. */
static const EVP_MD *sha256(void)
{
    pthread_once(&fetch_once, fetch);
    return fetched;
}

void hash_sha256(struct str data, uint8_t ret[SHA256_BYTES])
{
    unsigned len = 0;
    if (!EVP_Digest(data.ptr ? data.ptr : "", data.len, ret, &len, sha256(), NULL))
        abort(); /* only without memory, or with a broken OpenSSL */
}

struct hash_stream *hash_stream_new(void)
{
    EVP_MD_CTX *md = EVP_MD_CTX_new();
    if (!md || !EVP_DigestInit_ex(md, EVP_sha256(), NULL))
        abort();
    return (struct hash_stream *)md;
}

void hash_stream_add(struct hash_stream *h, struct str piece)
{
    if (piece.len && !EVP_DigestUpdate((EVP_MD_CTX *)h, piece.ptr, piece.len))
        abort();
}

void hash_stream_end(struct hash_stream *h, uint8_t ret[SHA256_BYTES])
{
    unsigned len = 0;
    if (h && !EVP_DigestFinal_ex((EVP_MD_CTX *)h, ret, &len))
        abort();
    EVP_MD_CTX_free((EVP_MD_CTX *)h);
}

/* The hash of the key's block under a mask, and data. */
static void keyed(EVP_MD_CTX *md, const uint8_t block[SHA256_BLOCK], uint8_t mask, struct str data, uint8_t ret[SHA256_BYTES])
{
    uint8_t masked[SHA256_BLOCK];
    for (size_t i = 0; i < sizeof(masked); i++)
        masked[i] = block[i] ^ mask;
    if (!EVP_DigestInit_ex2(md, sha256(), NULL) || !EVP_DigestUpdate(md, masked, sizeof(masked)) || !EVP_DigestUpdate(md, data.ptr ? data.ptr : "", data.len) ||
        !EVP_DigestFinal_ex(md, ret, NULL))
        abort();
    mem_wipe(masked, sizeof(masked));
}

/* RFC 2104, on a hash that was looked up: OpenSSL's HMAC() looks both up at each call, which takes five times as long as the hashing. */
void hash_hmac_sha256(struct str key, struct str data, uint8_t ret[SHA256_BYTES])
{
    uint8_t block[SHA256_BLOCK] = {0}, inner[SHA256_BYTES];
    EVP_MD_CTX *md = EVP_MD_CTX_new();
    if (!md)
        abort();
    if (key.len > sizeof(block))
        hash_sha256(key, block);
    else if (key.len)
        memcpy(block, key.ptr, key.len);
    keyed(md, block, 0x36, data, inner);
    keyed(md, block, 0x5c, str_n(inner, sizeof(inner)), ret);
    EVP_MD_CTX_free(md);
    mem_wipe(block, sizeof(block));
}

void hash_hex(const uint8_t *bytes, size_t len, char *text)
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < len; i++) {
        text[2 * i] = digits[bytes[i] >> 4];
        text[2 * i + 1] = digits[bytes[i] & 15];
    }
    text[2 * len] = 0;
}

static int digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

bool hash_unhex(struct str text, uint8_t *bytes, size_t len)
{
    if (text.len != 2 * len)
        return false;
    for (size_t i = 0; i < len; i++) {
        int high = digit(text.ptr[2 * i]), low = digit(text.ptr[2 * i + 1]);
        if (high < 0 || low < 0)
            return false;
        bytes[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}

static int digest_fd(int fd, const char *path, EVP_MD_CTX *md, bool (*progress)(void *arg, uint64_t done_bytes), void *arg,
                     uint64_t *ret_size, struct err *err)
{
    CLEANUP(mem_freep) char *piece = mem_try(PIECE_BYTES);
    if (!piece)
        return err_set(err, ERR_NO_MEMORY, "out of memory");
    uint64_t total = 0;
    for (;;) {
        ssize_t n = read(fd, piece, PIECE_BYTES);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_sys(err, errno, "reading %s", path);
        if (n == 0)
            break;
        EVP_DigestUpdate(md, piece, (size_t)n);
        total += (uint64_t)n;
        if (progress && !progress(arg, total))
            return err_set(err, ERR_CANCELED, "hashing %s was cancelled", path);
    }
    *ret_size = total;
    return 0;
}

int hash_file_sha256(const char *path, bool (*progress)(void *arg, uint64_t done_bytes), void *arg, char ret_hex[SHA256_HEX_MAX],
                     uint64_t *ret_size, struct err *err)
{
    CLEANUP(file_closep) int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_sys(err, errno, "opening %s", path);
    EVP_MD_CTX *md = EVP_MD_CTX_new();
    if (!md || !EVP_DigestInit_ex(md, EVP_sha256(), NULL)) {
        EVP_MD_CTX_free(md);
        return err_set(err, ERR_NO_MEMORY, "out of memory");
    }
    uint64_t size = 0;
    int rc = digest_fd(fd, path, md, progress, arg, &size, err);
    uint8_t bytes[SHA256_BYTES];
    if (rc == 0) {
        EVP_DigestFinal_ex(md, bytes, NULL);
        hash_hex(bytes, sizeof(bytes), ret_hex);
        if (ret_size)
            *ret_size = size;
    }
    EVP_MD_CTX_free(md);
    return rc;
}

#define BASE64_ALPHABET "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

void base64_encode(struct str in, struct sbuf *out)
{
    static const char alphabet[] = BASE64_ALPHABET;
    const uint8_t *p = (const uint8_t *)in.ptr;
    size_t size = (in.len + 2) / 3 * 4;
    char *to = sbuf_reserve(out, size);
    if (!to || !size)
        return;
    for (size_t i = 0; i < in.len; i += 3, to += 4) {
        size_t left = in.len - i;
        uint32_t v = (uint32_t)p[i] << 16 | (left > 1 ? (uint32_t)p[i + 1] << 8 : 0) | (left > 2 ? p[i + 2] : 0);
        to[0] = alphabet[v >> 18];
        to[1] = alphabet[v >> 12 & 63];
        to[2] = left > 1 ? alphabet[v >> 6 & 63] : '=';
        to[3] = left > 2 ? alphabet[v & 63] : '=';
    }
    sbuf_commit(out, size);
}

/* The digits' values and one; 0: no digit. */
static void make_digits(uint8_t digits[256])
{
    static const char alphabet[] = BASE64_ALPHABET;
    memset(digits, 0, 256);
    for (size_t i = 0; i < 64; i++)
        digits[(unsigned char)alphabet[i]] = (uint8_t)(i + 1);
}

int base64_decode(struct str in, struct sbuf *out, struct err *err)
{
    uint8_t digits[256];
    if (in.len % 4)
        return err_set(err, ERR_BAD_REQUEST, "base64: the length must be a multiple of 4");
    size_t pad = in.len && in.ptr[in.len - 1] == '=' ? (in.ptr[in.len - 2] == '=' ? 2 : 1) : 0, size = in.len / 4 * 3 - pad;
    char *to = sbuf_reserve(out, size);
    if (!to)
        return err_set(err, ERR_TOO_LARGE, "base64: the value is too large");
    make_digits(digits);
    for (size_t i = 0; i < in.len; i += 4, to += 3) {
        uint32_t v = 0;
        for (size_t k = 0; k < 4; k++) {
            uint8_t d = i + k >= in.len - pad ? 1 : digits[(unsigned char)in.ptr[i + k]];
            if (!d)
                return err_set(err, ERR_BAD_REQUEST, "base64: unexpected character at position %zu", i + k);
            v = v << 6 | (uint32_t)(d - 1);
        }
        const char bytes[3] = {(char)(v >> 16), (char)(v >> 8), (char)v};
        memcpy(to, bytes, i + 4 == in.len ? 3 - pad : 3);
    }
    if (size)
        sbuf_commit(out, size);
    return 0;
}

/* ---- base64url ---- */

void base64url_encode(struct str in, struct sbuf *out)
{
    CLEANUP(sbuf_deinit) struct sbuf text = {0};
    sbuf_init(&text, in.len * 2 + 8);
    base64_encode(in, &text);
    for (size_t i = 0; i < text.len && text.ptr[i] != '='; i++)
        sbuf_add_char(out, text.ptr[i] == '+' ? '-' : text.ptr[i] == '/' ? '_' : text.ptr[i]);
}

bool base64url_decode(struct str in, struct sbuf *out)
{
    CLEANUP(sbuf_deinit) struct sbuf text = {0}, again = {0};
    sbuf_init(&text, in.len + 4);
    sbuf_init(&again, in.len + 4);
    for (size_t i = 0; i < in.len; i++) {
        char c = in.ptr[i];
        if (c == '+' || c == '/' || c == '=')
            return false;
        sbuf_add_char(&text, c == '-' ? '+' : c == '_' ? '/' : c);
    }
    while (text.len % 4)
        sbuf_add_char(&text, '=');
    if (!sbuf_ok(&text) || base64_decode(sbuf_str(&text), out, NULL) < 0)
        return false;
    base64url_encode(sbuf_str(out), &again);
    return str_eq(sbuf_str(&again), in);
}
