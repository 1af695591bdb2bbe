/* The TLS context's inside, for conn.c. */
#ifndef SEKI_NET_TLS_INTERNAL_H
#define SEKI_NET_TLS_INTERNAL_H

#include <openssl/ssl.h>
#include <pthread.h>
#include <stdatomic.h>

#include "net/tls.h"

struct tls_ctx {
    atomic_int refs;
    pthread_mutex_t lock;
    SSL_CTX *ssl; /* under lock: tls_server_reload() swaps it */
};

/* A connection on what the context is now. NULL when memory is short. */
SSL *tls_ctx_connection(struct tls_ctx *c);

#endif
