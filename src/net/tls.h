/* TLS contexts on OpenSSL 3: TLS 1.2 and 1.3, AEAD suites, ALPN (servers: h2 before http/1.1; clients: http/1.1), session tickets on the server.
 *
 * A context is shared by reference count. What it holds is immutable; a reload swaps it whole, so that connections that begin
 * later see the new certificate and those that run keep theirs. Private keys must not be readable by others. Threads: any.
 */
#ifndef SEKI_NET_TLS_H
#define SEKI_NET_TLS_H

#include "base/err.h"

struct tls_ctx;

/* client_ca_file NULL: clients' certificates are not asked for; else asked for, verified when given, not required. */
int tls_server_ctx(const char *cert_file, const char *key_file, const char *client_ca_file,
                   struct tls_ctx **ret, struct err *err) NODISCARD;
/* The same from these files for connections to come; on failure nothing changes. */
int tls_server_reload(struct tls_ctx *c, const char *cert_file, const char *key_file, const char *client_ca_file, struct err *err) NODISCARD;
/* ca_file NULL: the system's. cert_file and key_file NULL: no client certificate. */
int tls_client_ctx(const char *ca_file, const char *cert_file, const char *key_file,
                   struct tls_ctx **ret, struct err *err) NODISCARD;
struct tls_ctx *tls_ctx_ref(struct tls_ctx *c);
void tls_ctx_unref(struct tls_ctx *c);

#endif
