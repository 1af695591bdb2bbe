/* Requests for certificates (PKCS #10) of somebody else: what they ask for, checked against what they may have. Threads: any. */
#ifndef SEKI_CRYPTO_CSR_H
#define SEKI_CRYPTO_CSR_H

#include "base/err.h"
#include "base/str.h"

struct csr_allowed {
    const char *common_name, *org;    /* exactly these, and nothing else in the subject */
    const char *const *dns_names;     /* of these, any; ends in NULL */
    const char *const *ips;
};
#define CSR_BYTES_MAX (16 * 1024)

/* pem: one request. 0: it is whole, its signature is its own key's, and it asks for nothing but what is allowed, with at least one name. ERR_INVALID: it is no such thing; ERR_FORBIDDEN: it asks for
 * more, and the message says for what. */
int csr_check(struct str pem, const struct csr_allowed *allowed, struct err *err) NODISCARD;

#endif
