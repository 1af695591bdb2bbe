/* Root keys in PKCS#11 tokens: the driver of root_key.h, and the URIs of RFC 7512 that name them. */
#ifndef SEKI_CRYPTO_PKCS11_H
#define SEKI_CRYPTO_PKCS11_H

#include "crypto/root_key.h"

#define PKCS11_SCHEME "pkcs11:"
#define PKCS11_ID_MAX 64

/* Attributes that are "" select nothing. */
struct pkcs11_uri {
    char token[33], manufacturer[33], serial[17], model[17]; /* of the token */
    char object[256];                                        /* CKA_LABEL */
    uint8_t id[PKCS11_ID_MAX];                               /* CKA_ID */
    size_t id_len;
    char module_path[1024];
    char pin_file[1024];
};
/* ERR_INVALID names what is wrong: an attribute that is unknown or twice, no object and no id, a pin-value, no absolute module-path. */
int pkcs11_uri_parse(struct str text, struct pkcs11_uri *ret, struct err *err) NODISCARD;

/* Opens a session and finds the one key. */
int pkcs11_open(const struct pkcs11_uri *uri, void **ret_state, struct err *err) NODISCARD;
extern const struct root_key_ops pkcs11_ops;

#endif
