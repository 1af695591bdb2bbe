/* What a KMS v2 plugin of Kubernetes answers: Status, Encrypt and Decrypt of v2.KeyManagementService, as a pure function of keys, method and message.
 *
 * A plaintext (the seed that an API server derives its data keys from) becomes nonce | ciphertext | tag of AES-256-GCM under the current key, bound to its id and to the cluster: what another
 * cluster wrote does not open here, even under the same key. Decrypt takes the key that it is told; an id that is not among the keys is an answer of its own, not a failure to decrypt.
 * Source: k8s.io/kms, apis/v2/api.proto; limits: k8s.io/apiserver, kmsv2 (ciphertext and key id below 1 KiB). Threads: none of its own; keys are the caller's.
 */
#ifndef SEKI_KMS_SERVICE_H
#define SEKI_KMS_SERVICE_H

#include "crypto/envelope.h"

#define KMS_KEYS_MAX 16
#define KMS_ID_TEXT (2 * ENVELOPE_ID_BYTES)   /* hexadecimal digits */
#define KMS_PLAIN_MAX 960                     /* bytes; ciphertexts are to stay below 1,024 */
#define KMS_SCOPE_MAX 64
#define KMS_METHOD_PREFIX "/v2.KeyManagementService/"

struct kms_key {
    uint8_t id[ENVELOPE_ID_BYTES];
    struct envelope_key key;
};
struct kms_keys {
    size_t count; /* 0: none were given yet. The first one seals */
    struct kms_key key[KMS_KEYS_MAX];
    char scope[KMS_SCOPE_MAX]; /* what ciphertexts belong to: the cluster's uid */
    /* Of the first key, since it became that; and of all calls since the start. */
    uint64_t sealed, opened, refused;
};

/* Codes of gRPC. */
enum grpc_status { GRPC_OK = 0, GRPC_INVALID_ARGUMENT = 3, GRPC_DEADLINE = 4, GRPC_NOT_FOUND = 5, GRPC_EXHAUSTED = 8, GRPC_UNIMPLEMENTED = 12, GRPC_INTERNAL = 13, GRPC_UNAVAILABLE = 14 };

/* path: ":path" of the request. The answer's message is appended to out; on another status than GRPC_OK nothing is, and *why says what is wrong, without what was sent. */
enum grpc_status kms_answer(struct kms_keys *k, struct str path, struct str message, struct sbuf *out, struct err *why);
void kms_id_text(const uint8_t id[ENVELOPE_ID_BYTES], char text[KMS_ID_TEXT + 1]);

#endif
