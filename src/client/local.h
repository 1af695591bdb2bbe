/* The in-process transport: hands calls to an apiserver on its own loop and waits for the answer.
 *
 * client/ lies above apiserver/ and cannot include it; whoever wires the program gives the two functions here (apiserver_local() does).
 */
#ifndef SEKI_CLIENT_LOCAL_H
#define SEKI_CLIENT_LOCAL_H

#include "client/client.h"
#include "loop/loop.h"

struct local_call {
    const char *method;
    const char *target; /* path?query */
    const char *content_type;
    json_t *body;
    const char *user;
    const char *const *groups; /* ends in NULL */
    void *arg;
    /* Exactly once, on the loop's thread. body: a new reference, or NULL. */
    void (*done)(void *arg, int status, json_t *body);
};
struct local_watch_call {
    const char *target;
    const char *user;
    const char *const *groups;
    void *arg;
    /* {type, object} documents on the loop's thread; object is shared and immutable. */
    void (*event)(void *arg, json_t *event);
    /* The watch has ended or was refused (status != 200, body a Status): the last call. Not called after watch_stop. */
    void (*ended)(void *arg, int status, json_t *body);
};
struct client_local {
    struct loop *loop; /* the apiserver's */
    void *ctx;
    void (*call)(void *ctx, const struct local_call *c);                    /* on the loop's thread; strings are copied if kept */
    void *(*watch)(void *ctx, const struct local_watch_call *c);            /* on the loop's thread; NULL: refused, ended was called */
    void (*watch_stop)(void *ctx, void *watch);                             /* on the loop's thread */
};
/* Acts as user with groups (copied). */
struct client *client_local_new(const struct client_local *server, const char *user, const char *const *groups);

#endif
