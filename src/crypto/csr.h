/* Requests for certificates (PKCS #10): those of somebody else, checked against what they may have; and our own. Threads: any. */
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

#define CSR_NAME_MAX 64 /* bytes of a common name or an organisation, as X.509 has it */

/* A new EC P-256 key and a request of its, both PEM, mem_free'd by the caller, who wipes the key. orgs: ends in NULL; may be NULL. ERR_INVALID: a name is empty or longer than CSR_NAME_MAX. */
int csr_make(const char *common_name, const char *const *orgs, char **ret_request_pem, char **ret_key_pem, struct err *err) NODISCARD;
/* When the first certificate of a PEM text ends. ERR_INVALID: there is none. */
int csr_certificate_end(struct str pem, int64_t *ret_ms, struct err *err) NODISCARD;

#endif
