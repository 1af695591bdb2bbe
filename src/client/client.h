/* The client of the resource API: Kubernetes-shaped verbs on documents, blocking, for controllers, the gateway's informers and the CLI.
 *
 * A client is a transport and an identity: http.c talks HTTPS (libcurl) with a client certificate or bearer token; local.c calls the apiserver in the same
 * process. Callers cannot tell which. Calls block up to a deadline (default 30 s): never call them on a loop's thread.
 * Errors carry the server's answer: code by reason (ERR_NOT_FOUND, ERR_CONFLICT …), field of the first cause, message. A call that the server had no room for (429) is
 * made again when it said to, within the deadline. Threads: any; a client may be shared.
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
/* Of a kubeconfig's text that came from elsewhere: no program is run for it, and no file read, so it has its certificates in it. what: for messages. */
int client_kubeconfig_text(struct str text, const char *what, struct client **ret, struct err *err) NODISCARD;
/* A kubeconfig with one context, which is the current one. Takes cluster and user over, what is below those names in it. ns: the context's; may be NULL. NULL: cluster or user is. */
json_t *client_kubeconfig_new(const char *cluster_name, json_t *cluster, const char *user_name, json_t *user, const char *context, const char *ns);
/* Which file that is; mem_free it. */
char *client_kubeconfig_path(const char *file);
/* A client that goes through another's transport (which must outlive it), and asks allow() before each try of a call: it refuses with an error, or shortens *timeout_ms, which
 * comes with the longest time that the call may take, further tries included. Watches are not for fenced clients: allow() is asked once, at their start. */
struct client *client_fenced(struct client *through, int (*allow)(void *arg, uint64_t *timeout_ms, struct err *err), void *arg);
/* Lists that are larger than so many bytes of JSON are ERR_TOO_LARGE: for servers whose objects are a stranger's. 0: no bound but LIST_OBJECTS_MAX. */
void client_bound_lists(struct client *c, size_t bytes);
void client_free(struct client *c);

int client_get(struct client *c, const struct client_resource *r, const char *ns, const char *name, json_t **ret, struct err *err) NODISCARD;
/* One page after the other; items is an array, ret_rv the list's resourceVersion (may be NULL). ns NULL: all namespaces. selector: label selector or NULL. Objects so large that
 * a page would pass the cap of an answer come in smaller pages. */
int client_list(struct client *c, const struct client_resource *r, const char *ns, const char *selector, json_t **ret_items,
                char ret_rv[32], struct err *err) NODISCARD;
/* Likewise, but ERR_CANCELED within 1 s after *stop became true. */
int client_list_until(struct client *c, const struct client_resource *r, const char *ns, const char *selector, atomic_bool *stop, json_t **ret_items,
                      char ret_rv[32], struct err *err) NODISCARD;
/* ret (may be NULL in all of these): the object as stored. */
int client_create(struct client *c, const struct client_resource *r, const char *ns, json_t *obj, json_t **ret, struct err *err) NODISCARD;
int client_update(struct client *c, const struct client_resource *r, json_t *obj, json_t **ret, struct err *err) NODISCARD;
/* The status subresource; obj carries resourceVersion when the caller wants a conflict to show. */
int client_update_status(struct client *c, const struct client_resource *r, json_t *obj, json_t **ret, struct err *err) NODISCARD;
/* Merge patch. subresource NULL or "status". */
int client_patch(struct client *c, const struct client_resource *r, const char *ns, const char *name, const char *subresource,
                 json_t *patch, json_t **ret, struct err *err) NODISCARD;
/* Server-side apply of an object, in whose metadata its name and namespace are. force: fields that others have written become `manager`'s; otherwise ERR_CONFLICT names them. */
int client_apply(struct client *c, const struct client_resource *r, json_t *obj, const char *manager, bool force, json_t **ret, struct err *err) NODISCARD;
/* uid NULL: whatever has that name. ERR_NOT_FOUND when it is gone. */
int client_delete(struct client *c, const struct client_resource *r, const char *ns, const char *name, const char *uid, struct err *err) NODISCARD;

/* What a subresource answers to GET; path with its query. */
int client_get_path(struct client *c, const char *path, json_t **ret, struct err *err) NODISCARD;
/* To a subresource that takes what is no object of the collection, such as `token`: path as kind_path() makes it. */
int client_post(struct client *c, const char *path, json_t *body, json_t **ret, struct err *err) NODISCARD;

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
    size_t answer_max; /* bytes; 0: the transport's cap */
    atomic_bool *stop; /* NULL, or: ERR_CANCELED within 1 s after it became true (streams: a clean end) */
};
struct client_answer {
    int status;
    int64_t retry_after_s; /* what the server asked for; 0: nothing */
    json_t *body;          /* NULL when the answer has none; the caller's */
    size_t bytes;          /* of its text */
};
struct client_transport {
    const char *name;
    /* Blocks. Success on any HTTP answer; an error only when there was none. ERR_TOO_LARGE: the answer is over the transport's cap. */
    int (*roundtrip)(void *t, const struct client_call *call, struct client_answer *ret, struct err *err);
    /* Blocks; calls on_line with each document of the stream. Returns when it ends, on_line returns false, or *call->stop. ret: with a body when the status is not 200. */
    int (*stream)(void *t, const struct client_call *call, bool (*on_line)(void *arg, json_t *line), void *arg, struct client_answer *ret, struct err *err);
    void (*free)(void *t);
};
/* Takes over t. */
struct client *client_new(const struct client_transport *ops, void *t);

#endif
