/* One blocking HTTP request with a deadline, by libcurl: for engine probes and other control-plane calls to foreign servers. TCP, TLS and unix sockets.
 * Never on a loop's thread. Threads: any.
 */
#ifndef SEKI_CLIENT_FETCH_H
#define SEKI_CLIENT_FETCH_H

#include <stdatomic.h>

#include "net/reach.h"

struct fetch_options {
    const char *method;      /* NULL: GET */
    const char *address;     /* "http://127.0.0.1:9000" | "https://host" | "unix:/path" */
    const char *path;        /* "/health" */
    const char *bearer;      /* or NULL */
    const char *body_json;   /* or NULL */
    const char *body_form;   /* or NULL: application/x-www-form-urlencoded */
    const char *ca_file;     /* or NULL */
    const char *ca_pem;      /* likewise as text; or NULL */
    const char *cert_file, *key_file; /* of a client; or NULL */
    const char *pinned;      /* pki_certificate_pin() of whom is answered alone, else ERR_UNAUTHENTICATED; or NULL */
    uint64_t timeout_ms;     /* of the whole request; required */
    size_t max_body_bytes;   /* default 1 MiB; ERR_TOO_LARGE, and *ret_status is set */
    bool guarded;            /* the address is a stranger's wish: only what net/reach.h allows is connected to, else ERR_FORBIDDEN */
    const struct reach *reach; /* guarded: or NULL */
    const atomic_bool *cancel; /* once it is true the request ends within a second: ERR_CANCELED; or NULL */
};
/* ret_body: mem_free'd by the caller, NUL-terminated. Any HTTP status is success here; redirects are not followed. */
int fetch(const struct fetch_options *o, int *ret_status, char **ret_body, size_t *ret_len, struct err *err) NODISCARD;

#endif
