/* What must exist before anybody asks is made, or brought up to date, at each start: missing parts are added, an operator's own stay. Objects one after the other: looked at, then
 * created or updated, as a client would, so that all rules hold. */
#include "apiserver/api.h"
#include "apiserver/defaults.h"
#include "base/mem.h"

#define TRIES_MAX 5 /* for one object that somebody else changes all the time */

struct bootstrap {
    struct apiserver *server;
    json_t *objects;
    size_t next;
    int tries;
    void (*done)(void *arg, int code, const struct err *err);
    void *arg;
};

static void look(void *arg);

void bootstrap_stop(struct apiserver *a)
{
    struct bootstrap *b = a->bootstrap;
    if (!b)
        return;
    a->bootstrap = NULL;
    json_decref(b->objects);
    mem_free(b);
}

static void finish(struct bootstrap *b, const struct err *err)
{
    b->done(b->arg, err ? err->code : 0, err);
    bootstrap_stop(b->server);
}

static void fail(struct bootstrap *b, const json_t *obj, const json_t *body)
{
    struct err err = ERR_INIT;
    err_set(&err, ERR_INTERNAL, "first objects cannot be made: %s \"%s\": %s", json_str_or(obj, "kind", ""), obj_name(obj), json_str_or(body, "message", "no answer"));
    finish(b, &err);
}

/* Steals body. */
static void call(struct bootstrap *b, const char *method, json_t *body, void (*done)(void *arg, int status, json_t *body))
{
    static const char *const groups[] = {"system:masters", NULL};
    const json_t *obj = json_array_get(b->objects, b->next);
    CLEANUP(sbuf_deinit) struct sbuf path = {0};
    sbuf_init(&path, 1024);
    kind_path(kind_by_name(json_str_or(obj, "kind", "")), NULL, strcmp(method, "POST") ? obj_name(obj) : NULL, NULL, &path);
    struct client_local local = apiserver_local(b->server);
    struct local_call c = {.method = method, .target = path.ptr, .content_type = "application/json", .body = body, .user = "system:bootstrap", .groups = groups, .arg = b, .done = done};
    local.call(local.ctx, &c);
    json_decref(body);
}

static void again(struct bootstrap *b)
{
    loop_post(b->server->loop, look, b);
}

static void written(void *arg, int status, json_t *body)
{
    struct bootstrap *b = arg;
    if (status == 200 || status == 201) {
        b->next++;
        b->tries = 0;
        again(b);
    } else if ((status == 409 || status == 404) && ++b->tries < TRIES_MAX) {
        again(b); /* somebody was faster */
    } else {
        fail(b, json_array_get(b->objects, b->next), body);
    }
    json_decref(body);
}

static void removed(void *arg, int status, json_t *body)
{
    struct bootstrap *b = arg;
    if ((status == 200 || status == 404) && ++b->tries < TRIES_MAX)
        again(b);
    else
        fail(b, json_array_get(b->objects, b->next), body);
    json_decref(body);
}

static void looked(void *arg, int status, json_t *body)
{
    struct bootstrap *b = arg;
    json_t *wanted = json_array_get(b->objects, b->next), *merged = NULL;
    if (status == 404) {
        call(b, "POST", json_incref(wanted), written);
    } else if (status != 200) {
        fail(b, wanted, body);
    } else if (default_rebinds(body, wanted)) {
        call(b, "DELETE", NULL, removed);
    } else if ((merged = default_merge(body, wanted))) {
        call(b, "PUT", merged, written);
    } else {
        b->next++;
        again(b);
    }
    json_decref(body);
}

static void look(void *arg)
{
    struct bootstrap *b = arg;
    if (b->next == json_array_size(b->objects))
        finish(b, NULL);
    else
        call(b, "GET", NULL, looked);
}

void apiserver_bootstrap(struct apiserver *a, void (*done)(void *arg, int code, const struct err *err), void *arg)
{
    struct bootstrap *b = XNEW(struct bootstrap);
    *b = (struct bootstrap){.server = a, .objects = default_objects(), .done = done, .arg = arg};
    a->bootstrap = b;
    look(b);
}
