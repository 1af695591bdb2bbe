/* What control makes at its first start so that others can talk to it: CA, server and client certificates, the key pepper, the admin's kubeconfig. */
#ifndef SEKI_CMD_CREDENTIALS_H
#define SEKI_CMD_CREDENTIALS_H

#include "cmd/options.h"
#include "crypto/jwt.h"
#include "crypto/token.h"

/* Ensures DATA/pki: ca, apiserver, admin, gateway (.crt, .key), pepper, service-accounts.key. Idempotent; renews leaves that are near their end. */
int credentials_ensure(const struct options *o, struct arena *a, struct token_pepper *ret_pepper, struct jwt_key **ret_token_key, struct err *err) NODISCARD;
/* Writes DATA/admin.kubeconfig (0600) for the API at addr, everything inline, so that it can be copied elsewhere. */
int credentials_write_kubeconfig(const struct options *o, struct arena *a, const struct net_addr *addr, struct err *err) NODISCARD;

#endif
