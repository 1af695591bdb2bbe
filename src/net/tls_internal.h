/* The TLS context's inside, for conn.c. */
#ifndef SEKI_NET_TLS_INTERNAL_H
#define SEKI_NET_TLS_INTERNAL_H

#include <openssl/ssl.h>
#include <stdatomic.h>

#include "net/tls.h"

struct tls_ctx {
    atomic_int refs;
    SSL_CTX *ssl;
};

#endif
