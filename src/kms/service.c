#include "kms/service.h"

#include <stdio.h>

#include "base/mem.h"
#include "crypto/hash.h"
#include "kms/wire.h"

#define UID_MAX 256 /* bytes of what a request calls itself */
#define ANNOTATIONS_MAX (32 * 1024)

void kms_id_text(const uint8_t id[ENVELOPE_ID_BYTES], char text[KMS_ID_TEXT + 1])
{
    hash_hex(id, ENVELOPE_ID_BYTES, text);
}

struct request {
    struct str text;   /* field 1: plaintext or ciphertext */
    struct str uid;    /* 2 */
    struct str key_id; /* 3, of Decrypt */
};

static int read_request(struct str message, struct request *ret, struct err *err)
{
    struct wire_field f;
    size_t annotations = 0;
    int rc;
    *ret = (struct request){STR_NULL, STR_NULL, STR_NULL};
    while ((rc = wire_next(&message, &f, err)) > 0) {
        if (f.number <= 4 && f.type != WIRE_BYTES)
            return err_set(err, ERR_BAD_REQUEST, "field %u has another type than v2 of the API gives it", f.number);
        if (f.number == 1)
            ret->text = f.bytes;
        else if (f.number == 2)
            ret->uid = f.bytes;
        else if (f.number == 3)
            ret->key_id = f.bytes;
        else if (f.number == 4)
            annotations += f.bytes.len;
    }
    if (rc == 0 && (ret->uid.len > UID_MAX || annotations > ANNOTATIONS_MAX))
        rc = err_set(err, ERR_BAD_REQUEST, "uid or annotations are too long");
    return rc;
}

/* Length and order make it unambiguous: an id has a fixed one. */
static struct str aad_of(const struct kms_keys *k, const struct kms_key *key, char text[KMS_SCOPE_MAX + KMS_ID_TEXT + 16])
{
    char id[KMS_ID_TEXT + 1];
    kms_id_text(key->id, id);
    int n = snprintf(text, KMS_SCOPE_MAX + KMS_ID_TEXT + 16, "seki kms 1 %s %s", id, k->scope);
    return str_n(text, (size_t)n);
}

static enum grpc_status answer_status(const struct kms_keys *k, struct sbuf *out)
{
    char id[KMS_ID_TEXT + 1] = "none";
    if (k->count)
        kms_id_text(k->key[0].id, id);
    wire_put_bytes(out, 1, STR("v2"));
    wire_put_bytes(out, 2, k->count ? STR("ok") : STR("no key was given yet"));
    wire_put_bytes(out, 3, str_of(id));
    return GRPC_OK;
}

static enum grpc_status answer_encrypt(struct kms_keys *k, const struct request *r, struct sbuf *out, struct err *why)
{
    char aad[KMS_SCOPE_MAX + KMS_ID_TEXT + 16], id[KMS_ID_TEXT + 1];
    CLEANUP(sbuf_deinit) struct sbuf sealed = {0};
    if (r->text.len > KMS_PLAIN_MAX) {
        (void)!err_set(why, ERR_TOO_LARGE, "a plaintext has %d bytes at most", KMS_PLAIN_MAX);
        return GRPC_INVALID_ARGUMENT;
    }
    sbuf_init(&sealed, KMS_PLAIN_MAX + AEAD_OVERHEAD);
    if (aead_seal(&k->key[0].key, aad_of(k, &k->key[0], aad), r->text, &sealed, why) < 0)
        return GRPC_INTERNAL;
    kms_id_text(k->key[0].id, id);
    wire_put_bytes(out, 1, sbuf_str(&sealed));
    wire_put_bytes(out, 2, str_of(id));
    k->sealed++;
    return GRPC_OK;
}

static const struct kms_key *find(const struct kms_keys *k, struct str id)
{
    for (size_t i = 0; i < k->count; i++) {
        char text[KMS_ID_TEXT + 1];
        kms_id_text(k->key[i].id, text);
        if (str_eqc(id, text))
            return &k->key[i];
    }
    return NULL;
}

static enum grpc_status answer_decrypt(struct kms_keys *k, const struct request *r, struct sbuf *out, struct err *why)
{
    char aad[KMS_SCOPE_MAX + KMS_ID_TEXT + 16];
    struct sbuf plain = {0};
    const struct kms_key *key = find(k, r->key_id);
    if (!key) {
        bool printable = r->key_id.len == KMS_ID_TEXT;
        for (size_t i = 0; i < r->key_id.len; i++)
            printable = printable && strchr("0123456789abcdef", r->key_id.ptr[i]) && r->key_id.ptr[i];
        (void)!err_set(why, ERR_NOT_FOUND, "key %.*s is none of this cluster's keys", printable ? (int)r->key_id.len : 7, printable ? r->key_id.ptr : "unknown");
        return GRPC_NOT_FOUND;
    }
    sbuf_init(&plain, KMS_PLAIN_MAX);
    int rc = r->text.len > KMS_PLAIN_MAX + AEAD_OVERHEAD ? err_set(why, ERR_CORRUPT, "the ciphertext is too long") : aead_open(&key->key, aad_of(k, key, aad), r->text, &plain, why);
    if (rc == 0) {
        wire_put_bytes(out, 1, sbuf_str(&plain));
        k->opened++;
    }
    if (plain.ptr)
        mem_wipe(plain.ptr, plain.cap);
    sbuf_deinit(&plain);
    return rc == 0 ? GRPC_OK : GRPC_INVALID_ARGUMENT;
}

static enum grpc_status answer(struct kms_keys *k, struct str path, struct str message, struct sbuf *out, struct err *why)
{
    const struct str prefix = STR(KMS_METHOD_PREFIX);
    struct str method = str_starts(path, prefix) ? str_skip(path, prefix.len) : STR_NULL;
    struct request r;
    bool encrypt = str_eqc(method, "Encrypt"), decrypt = str_eqc(method, "Decrypt");
    if (!encrypt && !decrypt && !str_eqc(method, "Status")) {
        (void)!err_set(why, ERR_NOT_FOUND, "there is no such method");
        return GRPC_UNIMPLEMENTED;
    }
    if (read_request(message, &r, why) < 0)
        return GRPC_INVALID_ARGUMENT;
    if (!encrypt && !decrypt)
        return answer_status(k, out);
    if (!k->count) {
        (void)!err_set(why, ERR_UNAVAILABLE, "no key was given yet");
        return GRPC_UNAVAILABLE;
    }
    return encrypt ? answer_encrypt(k, &r, out, why) : answer_decrypt(k, &r, out, why);
}

enum grpc_status kms_answer(struct kms_keys *k, struct str path, struct str message, struct sbuf *out, struct err *why)
{
    enum grpc_status status = answer(k, path, message, out, why);
    k->refused += status != GRPC_OK;
    return status;
}
