/* What http.c and kubeconfig.c share. */
#ifndef SEKI_CLIENT_HTTP_INTERNAL_H
#define SEKI_CLIENT_HTTP_INTERNAL_H

#include "client/client.h"

/* Owned PEM texts and token; wiped when freed. */
struct client_credentials {
    char *ca_pem, *cert_pem, *key_pem, *token;
};
void client_credentials_deinit(struct client_credentials *c);
/* Takes over what cred points to. */
struct client *client_http_from(const char *server, const struct client_credentials *cred);

#endif
