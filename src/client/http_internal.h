/* What http.c and kubeconfig.c share. */
#ifndef SEKI_CLIENT_HTTP_INTERNAL_H
#define SEKI_CLIENT_HTTP_INTERNAL_H

#include "client/client.h"

/* Owned PEM texts and token; wiped when freed. */
struct client_credentials {
    char *ca_pem, *cert_pem, *key_pem, *token;
};
void client_credentials_deinit(struct client_credentials *c);
/* What goes to the wire as it is: https only, and no bytes that would end a line. ERR_INVALID names the field, and never shows a token. */
int client_check_server(const char *server, struct err *err);
int client_check_token(const char *token, struct err *err);
/* What the program of a kubeconfig's `exec` gives; runs it. dir: the kubeconfig's. */
int client_exec(const json_t *exec, const char *dir, struct client_credentials *ret, struct err *err) NODISCARD;
/* A kubeconfig's text. path: for errors; dir: where the files that it names lie; may_run: the program of `exec`, else ERR_UNAUTHENTICATED is its answer. */
int client_kubeconfig_parse(struct str text, const char *path, const char *dir, bool may_run, struct client **ret, char *ret_namespace, size_t namespace_size, struct err *err) NODISCARD;
/* Takes over what cred points to; server and token were checked. */
struct client *client_http_from(const char *server, const struct client_credentials *cred);

#endif
