/* The client of the resource API: Kubernetes-shaped verbs on documents, blocking, for controllers, the gateway's informers and the CLI.
 *
 * A client is a transport and an identity: http.c talks HTTPS (libcurl) with a client certificate or bearer token; local.c calls the apiserver in the same
 * process. Callers cannot tell which. Calls block up to a deadline (default 30 s): never call them on a loop's thread.
 * Errors carry the server's answer: code by reason (ERR_NOT_FOUND, ERR_CONFLICT …), field of the first cause, message. Threads: any; a client may be shared.
 */
#ifndef SEKI_CLIENT_CLIENT_H
#define SEKI_CLIENT_CLIENT_H

#include <stdatomic.h>

#include "json/json.h"

struct client;

/* What names a kind on the wire; `struct kind` (kinds/) gives one by kind_resource(). */
struct client_resource {
    const char *group;   /* "" is core */
    const char *version;
    const char *plural;
    bool namespaced;
};

struct client_http_options {
    const char *server;    /* "https://127.0.0.1:6440" */
    const char *ca_file;
    const char *cert_file; /* or NULL */
    const char *key_file;
    const char *token_file; /* bearer token, or NULL */
};
int client_http(const struct client_http_options *o, struct client **ret, struct err *err) NODISCARD;
/* From a kubeconfig file (YAML as we and kubectl write it, or JSON); ERR_INVALID names what is missing. NULL: $KUBECONFIG, then ~/.kube/config. */
int client_kubeconfig(const char *file, struct client **ret, char *ret_namespace, size_t namespace_size, struct err *err) NODISCARD;
void client_free(struct client *c);

int client_get(struct client *c, const struct client_resource *r, const char *ns, const char *name, json_t **ret, struct err *err) NODISCARD;
/* One page after the other; items is an array, ret_rv the list's resourceVersion (may be NULL). ns NULL: all namespaces. selector: label selector or NULL. */
int client_list(struct client *c, const struct client_resource *r, const char *ns, const char *selector, json_t **ret_items,
                char ret_rv[32], struct err *err) NODISCARD;
/* ret (may be NULL in all of these): the object as stored. */
int client_create(struct client *c, const struct client_resource *r, const char *ns, json_t *obj, json_t **ret, struct err *err) NODISCARD;
int client_update(struct client *c, const struct client_resource *r, json_t *obj, json_t **ret, struct err *err) NODISCARD;
/* The status subresource; obj carries resourceVersion when the caller wants a conflict to show. */
int client_update_status(struct client *c, const struct client_resource *r, json_t *obj, json_t **ret, struct err *err) NODISCARD;
/* Merge patch. subresource NULL or "status". */
int client_patch(struct client *c, const struct client_resource *r, const char *ns, const char *name, const char *subresource,
                 json_t *patch, json_t **ret, struct err *err) NODISCARD;
/* uid NULL: whatever has that name. ERR_NOT_FOUND when it is gone. */
int client_delete(struct client *c, const struct client_resource *r, const char *ns, const char *name, const char *uid, struct err *err) NODISCARD;

/* Any request, for the CLI: body and answer are documents or NULL; ret_status may be NULL. Non-2xx is an error. */
int client_raw(struct client *c, const char *method, const char *path, json_t *body, json_t **ret, struct err *err) NODISCARD;

/* Watches from resource version rv until the stream ends, *stop becomes true (noticed within 1 s), or on_event returns false. type: "ADDED" | "MODIFIED" |
 * "DELETED" | "BOOKMARK". ERR_GONE: list again. A clean end (server timeout) is 0. on_event runs on the calling thread. */
int client_watch(struct client *c, const struct client_resource *r, const char *ns, const char *rv, atomic_bool *stop,
                 bool (*on_event)(void *arg, const char *type, json_t *object), void *arg, struct err *err) NODISCARD;

/* The transport: what http.c and local.c implement. */
struct client_call {
    const char *method;
    const char *path; /* with query */
    const char *content_type;
    json_t *body; /* or NULL */
    uint64_t timeout_ms;
};
struct client_transport {
    const char *name;
    /* Blocks. *ret_status and *ret_body (NULL when the answer has none) on any HTTP answer; an error only when there was none. */
    int (*roundtrip)(void *t, const struct client_call *call, int *ret_status, json_t **ret_body, struct err *err);
    /* Blocks; calls on_line with each document of the stream. Returns when it ends, on_line returns false, or *stop. *ret_status: of the answer. */
    int (*stream)(void *t, const struct client_call *call, atomic_bool *stop, bool (*on_line)(void *arg, json_t *line), void *arg,
                  int *ret_status, json_t **ret_error_body, struct err *err);
    void (*free)(void *t);
};
/* Takes over t. */
struct client *client_new(const struct client_transport *ops, void *t);

#endif
