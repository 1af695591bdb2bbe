#include "net/tls_internal.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <stdatomic.h>
#include <sys/stat.h>

#include "base/mem.h"

static int ssl_fail(struct err *err, int code, const char *what)
{
    char text[160] = "";
    unsigned long e = ERR_peek_last_error();
    if (e)
        ERR_error_string_n(e, text, sizeof(text));
    ERR_clear_error();
    return err_set(err, code, "%s%s%s", what, e ? ": " : "", text);
}

static const unsigned char alpn_http11[] = "\x08http/1.1", alpn_server[] = "\x02h2\x08http/1.1";

static int select_alpn(SSL *ssl UNUSED, const unsigned char **out, unsigned char *out_len, const unsigned char *in, unsigned in_len, void *arg UNUSED)
{
    if (SSL_select_next_proto((unsigned char **)(uintptr_t)out, out_len, alpn_server, sizeof(alpn_server) - 1, in, in_len) == OPENSSL_NPN_NEGOTIATED)
        return SSL_TLSEXT_ERR_OK;
    return SSL_TLSEXT_ERR_NOACK;
}

static SSL_CTX *new_ctx(const SSL_METHOD *method)
{
    SSL_CTX *ctx = SSL_CTX_new(method);
    if (!ctx)
        return NULL;
    SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION);
    SSL_CTX_set_cipher_list(ctx, "ECDHE+AESGCM:ECDHE+CHACHA20");
    SSL_CTX_set_options(ctx, SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION);
    SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS);
    return ctx;
}

static int use_pair(SSL_CTX *ctx, const char *cert_file, const char *key_file, struct err *err)
{
    struct stat st;
    if (stat(key_file, &st) < 0)
        return err_sys(err, errno, "%s", key_file);
    if (st.st_mode & (S_IROTH | S_IWOTH))
        return err_set(err, ERR_INVALID, "%s: others may read or write this private key; expected mode 0600", key_file);
    if (SSL_CTX_use_certificate_chain_file(ctx, cert_file) != 1)
        return ssl_fail(err, ERR_INVALID, cert_file);
    if (SSL_CTX_use_PrivateKey_file(ctx, key_file, SSL_FILETYPE_PEM) != 1)
        return ssl_fail(err, ERR_INVALID, key_file);
    if (SSL_CTX_check_private_key(ctx) != 1)
        return err_set(err, ERR_INVALID, "%s is not the key of %s", key_file, cert_file);
    return 0;
}

static int finish(SSL_CTX *ctx, int rc, struct tls_ctx **ret)
{
    if (rc < 0) {
        SSL_CTX_free(ctx);
        return rc;
    }
    struct tls_ctx *c = XNEW(struct tls_ctx);
    c->refs = 1;
    pthread_mutex_init(&c->lock, NULL);
    c->ssl = ctx;
    *ret = c;
    return 0;
}

/* A client certificate is optional here: the handler decides what a request without one may do. */
static int accept_any_chain_result(int ok, X509_STORE_CTX *store UNUSED)
{
    return ok;
}

int tls_server_ctx(const char *cert_file, const char *key_file, const char *client_ca_file, struct tls_ctx **ret, struct err *err)
{
    SSL_CTX *ctx = new_ctx(TLS_server_method());
    if (!ctx)
        return ssl_fail(err, ERR_NO_MEMORY, "making a TLS context");
    SSL_CTX_set_options(ctx, SSL_OP_CIPHER_SERVER_PREFERENCE);
    SSL_CTX_set_alpn_select_cb(ctx, select_alpn, NULL);
    SSL_CTX_set_session_id_context(ctx, (const unsigned char *)"seki", 4);
    int rc = use_pair(ctx, cert_file, key_file, err);
    if (rc == 0 && client_ca_file) {
        STACK_OF(X509_NAME) *names = SSL_load_client_CA_file(client_ca_file);
        if (!names || SSL_CTX_load_verify_file(ctx, client_ca_file) != 1)
            rc = ssl_fail(err, ERR_INVALID, client_ca_file);
        SSL_CTX_set_client_CA_list(ctx, names);
        SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, accept_any_chain_result);
        /* OpenSSL purposes: a client's certificate must say clientAuth. */
        SSL_CTX_set_purpose(ctx, X509_PURPOSE_SSL_CLIENT);
    }
    return finish(ctx, rc, ret);
}

int tls_server_reload(struct tls_ctx *c, const char *cert_file, const char *key_file, const char *client_ca_file, struct err *err)
{
    struct tls_ctx *fresh = NULL;
    int rc = tls_server_ctx(cert_file, key_file, client_ca_file, &fresh, err);
    if (rc < 0)
        return rc;
    pthread_mutex_lock(&c->lock);
    SSL_CTX *old = c->ssl;
    c->ssl = fresh->ssl;
    pthread_mutex_unlock(&c->lock);
    fresh->ssl = old; /* connections that run hold references of their own */
    tls_ctx_unref(fresh);
    return 0;
}

SSL *tls_ctx_connection(struct tls_ctx *c)
{
    pthread_mutex_lock(&c->lock);
    SSL *ssl = SSL_new(c->ssl);
    pthread_mutex_unlock(&c->lock);
    return ssl;
}

int tls_client_ctx(const char *ca_file, const char *cert_file, const char *key_file, struct tls_ctx **ret, struct err *err)
{
    SSL_CTX *ctx = new_ctx(TLS_client_method());
    if (!ctx)
        return ssl_fail(err, ERR_NO_MEMORY, "making a TLS context");
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
    SSL_CTX_set_alpn_protos(ctx, alpn_http11, sizeof(alpn_http11) - 1);
    int rc = 0;
    if (ca_file ? SSL_CTX_load_verify_file(ctx, ca_file) != 1 : SSL_CTX_set_default_verify_paths(ctx) != 1)
        rc = ssl_fail(err, ERR_INVALID, ca_file ? ca_file : "the system's certificate authorities");
    if (rc == 0 && cert_file)
        rc = use_pair(ctx, cert_file, key_file, err);
    return finish(ctx, rc, ret);
}

struct tls_ctx *tls_ctx_ref(struct tls_ctx *c)
{
    if (c)
        atomic_fetch_add(&c->refs, 1);
    return c;
}

void tls_ctx_unref(struct tls_ctx *c)
{
    if (!c || atomic_fetch_sub(&c->refs, 1) > 1)
        return;
    SSL_CTX_free(c->ssl);
    pthread_mutex_destroy(&c->lock);
    mem_free(c);
}
