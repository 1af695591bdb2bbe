/* X.509 issuing: certificate authorities, server and client certificates, EC P-256, SHA-256, version 3.
 *
 * Made for Go's and OpenSSL's verifiers alike: random positive serials of 16 bytes, critical basicConstraints and keyUsage, EKU, SKI and
 * AKI, SANs always on servers, a leaf ends no later than its CA. Keys are written 0600 as PKCS#8 PEM. Threads: any.
 */
#ifndef SEKI_CRYPTO_PKI_H
#define SEKI_CRYPTO_PKI_H

#include <stdint.h>

#include "base/str.h"

#define PKI_BACKDATE_S 300 /* certificates are good from this long before they are made: clocks of peers may be a little behind */

struct pki_ca;

/* Loads dir/NAME.crt and dir/NAME.key, or makes them (10 years). */
int pki_ca_ensure(const char *dir, const char *name, const char *common_name, struct pki_ca **ret, struct err *err) NODISCARD;
void pki_ca_free(struct pki_ca *ca);
const char *pki_ca_pem(const struct pki_ca *ca); /* the certificate */

enum pki_usage { PKI_SERVER = 1, PKI_CLIENT = 2 };
struct pki_leaf {
    const char *common_name;
    const char *const *orgs;      /* Kubernetes groups; ends in NULL; may be NULL */
    const char *const *dns_names; /* ends in NULL; may be NULL */
    const char *const *ips;
    int usage;                    /* pki_usage flags */
    int days;
    int seconds; /* instead, when not 0 */
    bool anew;   /* pki_leaf_ensure(): a good one that is there is replaced, too */
};
/* Loads dir/NAME.crt and .key when they are there, chain to ca, cover what `leaf` asks for, and have a third of their life left; else makes new
 * ones (the key first, then the certificate, each atomically). ret_made may be NULL. */
int pki_leaf_ensure(const struct pki_ca *ca, const char *dir, const char *name, const struct pki_leaf *leaf, bool *ret_made,
                    struct err *err) NODISCARD;
/* Loads nothing: makes dir/NAME.key and dir/NAME.pub (PKCS#8 and SubjectPublicKeyInfo, in PEM) when there is no key, and NAME.pub when only that is missing. A key that cannot be read is
 * ERR_CORRUPT, and stays. */
int pki_key_pair_ensure(const char *dir, const char *name, struct err *err) NODISCARD;
/* Whether a text is certificates in PEM, one at least, and no other PEM among them. ERR_INVALID. */
int pki_certificates_check(struct str pem) NODISCARD;
/* The hash of its public key, "sha256//…" as curl takes it. */
#define PKI_PIN_MAX 64
int pki_certificate_pin(const char *path, char ret[PKI_PIN_MAX], struct err *err) NODISCARD;
/* When the first certificate of a PEM file ends. */
int pki_certificate_end(const char *path, int64_t *ret_ms, struct err *err) NODISCARD;

/* Makes one that is kept nowhere, with its key, both in PEM; mem_free'd by the caller, who wipes the key. */
int pki_leaf_make(const struct pki_ca *ca, const struct pki_leaf *leaf, char **ret_cert_pem, char **ret_key_pem, struct err *err) NODISCARD;

#endif
