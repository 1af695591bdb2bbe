/* Inside the apiserver: one struct a request, and what its files offer each other.
 *
 * A request comes by HTTP or from this process (both in server.c) and is answered exactly once by api_reply*(). It has an arena and a reference count: the transport holds one, a
 * transaction on its way holds another; when the client goes away first, the answer is dropped. Everything runs on the loop's thread.
 */
#ifndef SEKI_APISERVER_API_H
#define SEKI_APISERVER_API_H

#include "apiserver/accept.h"
#include "apiserver/apiserver.h"
#include "apiserver/selector.h"
#include "base/map.h"
#include "base/metrics.h"
#include "base/vec.h"
#include "policy/rbac.h"

#include <sys/queue.h>

#define API_GROUPS_MAX 210
#define API_HOOKS_MAX 16
#define API_HEADERS_MAX 6
#define API_SUBRESOURCES_MAX 4

struct api_user {
    const char *name; /* NULL: nobody */
    const char *groups[API_GROUPS_MAX + 1];
    const char *uid; /* NULL: none is known */
    const char *tenant; /* whose user it is; NULL: of no tenant, so the cloud's own */
    json_t *extra;   /* {key: [text]}, or NULL; the arena's that the rest lives in */
    const char *new_token; /* what names the token it came with, when that is seen for the first time; or NULL */
    int64_t issued_ms, expires_ms; /* what proves it was made, and ends; 0: it does not say */
    bool by_issuer;                /* an issuer elsewhere, as it is configured now */
};

struct apiserver {
    struct loop *loop;
    struct store *store;
    struct apiserver_options o;
    struct http_server *http;
    struct map *tokens; /* hex hash → struct api_user * */
    struct map *secret_kinds; /* audit.c */
    struct map *verified; /* hex hash → claims of tokens whose signature was good */
    struct map *documents; /* document.c; NULL until the first */
    struct arena *arena; /* lives as long as the server */
    struct bootstrap *bootstrap; /* while first objects are made */
    struct rbac *rbac;
    int64_t rbac_rev; /* what rbac was built from; -1: nothing yet */
    uint64_t rbac_builds; /* how often it was built */
    bool draining;
    struct gc *gc;
    struct gather *gather;
    struct namespaces *namespaces;
    struct standing *standing;
    struct revoked *revoked;
    struct expel *expel;
    struct keyring *keyring; /* NULL: nothing is sealed */
    struct reseal *reseal;
    struct flow_control *flow;
    struct limits *limits;
    struct {
        const char *name;
        int (*check)(void *arg, struct err *err);
        void *arg;
    } hooks[API_HOOKS_MAX];
    size_t hook_count;
    TAILQ_HEAD(, api_watch) watches;
    unsigned texts; /* text_view.c: that are being read */
    struct audit_view *audit_views; /* those that are being read, linked */
    struct metric_family *requests_total, *duration;
    struct metric *watch_gauge, *refused_total, *limited_total;
    struct { /* the last change that was sent, encoded: watch.c */
        const struct store_value *value;
        int64_t rev;
        int type;
        struct sbuf text;
    } line;
};

struct api_request {
    struct apiserver *server;
    struct arena *arena;
    int refs;
    bool replied;
    uint64_t started_ns;

    /* what is asked */
    const char *method, *path; /* path decoded by part, not here */
    struct str query;
    const char *content_type, *user_agent;
    struct accept wants; /* filled by api_negotiate */
    struct str include; /* what tables have of each object: includeObject; arena */
    bool pretty;
    struct str text;  /* body as text (HTTP) … */
    json_t *body;     /* … or as a document; parsed lazily from text */
    const char *group, *version;
    const struct kind *kind; /* NULL: no resource */
    const char *ns, *name, *sub; /* "" when none */
    const char *verb; /* as RBAC names it */
    struct api_user user;
    const char *sender; /* who impersonates user; NULL: nobody does */
    const char *id, *source; /* the request's, for the audit ledger; "" of this process's own */
    const char *rule;        /* which binding of which role allows it; "" when nobody needs to know */
    struct { /* of who really sent it; user NULL: this process */
        const char *user, *tenant;
        int64_t issued_ms, expires_ms;
        bool by_issuer;
    } credential;
    struct oidc_waiter keys; /* it waits for keys of its token's issuer */
    struct access_waiter announcing; /* or for the record of the access that its certificate is for */
    bool has_body;
    bool dry_run;
    struct field_errors *warnings; /* unknown fields that were dropped, and what the kind warns of; NULL: none */
    bool warned;                   /* the kind was asked: a write that is tried again is not warned of twice */
    bool hidden; /* it was denied, and answered as not found */
    struct { /* what a refusal is about, when that is not the object of the request: of the cluster; kind NULL: it is */
        const struct kind *kind;
        const char *name;
    } about;
    struct field_errors *refused_option; /* what api_fail answers about, once api_bad_option was called */
    struct api_watch *watch;       /* once a watch runs */
    void *work;                    /* of whoever yields: what resume() goes on with; arena */
    struct http_out_header headers[API_HEADERS_MAX]; /* of the answer */
    size_t header_count;

    struct flow_held *held; /* what its answer takes; NULL: little. Dies with http */
    struct flow *flow; /* whose share of the server it uses; NULL: this process's own */
    TAILQ_ENTRY(api_request) waiting;
    bool waits;
    uint64_t waits_since_ms;
    void (*resume)(struct api_request *q); /* how it goes on when its turn comes again; NULL: from the start */

    /* where the answer goes: one of both */
    struct http_request *http;
    void (*local_done)(void *arg, int status, json_t *body);
    void *local_arg;
};

/* ---- request.c: life and answers ---- */
struct api_request *api_request_new(struct apiserver *s);
void api_request_unref(struct api_request *q);
/* Counts an answered request in the metrics; api_reply does it. */
void api_count(struct api_request *q, int status);
/* Steals body. */
void api_reply(struct api_request *q, int status, json_t *body);
/* A body that is text of another type already. */
void api_reply_text(struct api_request *q, int status, const char *type, struct str text);
/* JSON as text, in the form that the client asked for. */
void api_reply_json(struct api_request *q, int status, struct str text);
/* One more header of the answer; value is borrowed until then, and left out when there are too many. */
void api_header(struct api_request *q, const char *name, struct str value);
/* Reads Accept and `pretty`; offers: enum accept_offer. ERR_NOT_ACCEPTABLE. */
int api_negotiate(struct api_request *q, unsigned offers, struct err *err) NODISCARD;
/* The object of a value, as it is stored, or as a table or metadata when the client asked for that. */
void api_reply_value(struct api_request *q, int status, struct store_value *v);
void api_fail(struct api_request *q, const struct err *err);
void api_fail_code(struct api_request *q, int code, const char *fmt, ...) PRINTF(3, 4);
/* 500: the secrets of an object cannot be read. */
void api_fail_shut(struct api_request *q, struct str key, const char *why);
void api_fail_invalid(struct api_request *q, const struct field_errors *e);
/* Likewise, of something that is not the object of the request. */
void api_fail_invalid_as(struct api_request *q, const char *kind, const char *group, const char *name, const struct field_errors *e);
/* Sets err to ERR_INVALID for an option of a write (dryRun, propagationPolicy …); api_fail then answers as Kubernetes does: about a CreateOptions, DeleteOptions … */
int api_bad_option(struct api_request *q, struct err *err, const char *option, const char *reason, const char *fmt, ...) PRINTF(5, 6);
/* "modelendpoints.seki.cloud" */
const char *api_resource_text(const struct api_request *q);
struct str api_query(struct api_request *q, const char *name); /* "" when absent or malformed */
bool api_query_flag(struct api_request *q, const char *name);  /* anything but "", "0" and "false" */
int api_parse_body(struct api_request *q, struct err *err) NODISCARD;
/* Likewise, of something else than q's kind; proto_rows: its table when it may come as protobuf, or NULL. */
int api_parse_body_of(struct api_request *q, const struct field *proto_rows, struct err *err) NODISCARD;
/* What a failure is about: the details of its Status. */
json_t *api_details(const struct api_request *q);
json_t *api_status(int http_status, const char *status, const char *reason, const char *message, json_t *details);

/* ---- route.c ---- */
/* Fills kind, ns, name, sub, verb from method and path; ERR_NOT_FOUND, ERR_METHOD. A path of no resource leaves kind NULL. */
int api_route(struct api_request *q, struct err *err) NODISCARD;
void api_dispatch(struct api_request *q); /* authorised from here on */

/* ---- auth.c: who asks, and whether they may ---- */
int authn_load_tokens(struct apiserver *s, struct err *err) NODISCARD;
/* 0, also for whoever has no break-glass access; ERR_UNAUTHENTICATED: it is over; ERR_BUSY: it is being recorded. */
int authn_announced(struct apiserver *s, const char *user) NODISCARD;
/* 0; ERR_UNAUTHENTICATED; ERR_BUSY: not yet known, oidc_wait() for keys of *ret_issuer, or, when that is NULL, the record of a break-glass access. */
int authn_http(struct apiserver *s, struct http_request *r, struct arena *a, struct api_user *ret, const char **ret_issuer) NODISCARD;
void authz_start(struct apiserver *s);
bool authz_allows(struct apiserver *s, struct api_request *q);
bool authz_allows_as(struct apiserver *s, const struct rbac_request *r);
/* Whose user it is, by the label of an account's namespace or by the groups of a person; NULL: no tenant's. Lives as long as a. */
const char *authn_tenant(struct apiserver *s, struct arena *a, const struct api_user *u);
struct rbac_request authz_question(struct api_request *q); /* what authz_allows asks; borrows from q */
/* Whose bearer token this is: see struct kind_server. What ret points at lives as long as a. */
int authn_token(struct apiserver *s, struct arena *a, struct str token, const json_t *audiences, struct api_user *ret, json_t **ret_audiences, struct err *err) NODISCARD;

/* ---- answer.c: what ops see of the server; virtual kinds ---- */
struct kind_server api_kind_server(struct apiserver *s);
struct kind_context api_kind_context(struct api_request *q);
void api_answer(struct api_request *q);
/* audit_view.c: a tenant's part of the audit ledger. */
void api_audit_view(struct api_request *q);
/* text_view.c: text of files beside an object. */
void api_text_view(struct api_request *q);
/* The roles as of now; good until the loop goes on. */
const struct rbac *authz_current(struct apiserver *s);
/* Makes q one of the user that its headers impersonate, if any. False: that is refused, and answered. */
bool impersonate(struct api_request *q);
extern const struct kind_access authz_kind_access; /* kind_context.asker is the request */

/* ---- namespaces.c ---- */
/* Whether the tenant of q's namespace may be served: ERR_FORBIDDEN when it is suspended or being closed, and q is not of somebody who may use all tenants. */
int tenant_check(struct api_request *q, struct err *err) NODISCARD;
/* Whether q is of somebody who may use all tenants: an operator. */
bool tenant_serves_all(struct api_request *q);

/* ---- object.c: values and documents ---- */
void object_key(const struct kind *k, const char *ns, const char *name, struct sbuf *out);
void object_prefix(const struct kind *k, const char *ns, struct sbuf *out);
/* The document with its resourceVersion; new reference, shared and immutable; kept with the value. */
json_t *object_of(struct store_value *v);
/* Likewise, but not kept; rev: the resourceVersion to show. */
json_t *object_decode(const struct store_value *v, int64_t rev);
/* A private copy to change. */
json_t *object_copy(struct store_value *v);
/* The same two as a kind shows them, which may be a view of what is stored. */
json_t *object_of_as(const struct kind *k, struct store_value *v);
json_t *object_copy_as(const struct kind *k, struct store_value *v);
/* The value as text with a resourceVersion put in. */
void object_write(struct store_value *v, int64_t rev, struct sbuf *out);
/* Why the secrets of a value cannot be read; NULL: they can, or there are none. Then it is not shown, and nothing is written over it. */
const char *object_shut(struct store_value *v);
/* A document as it is stored under a key: metadata first, no resourceVersion, what is secret sealed. ERR_TOO_LARGE: it would pass out's maximum, but for what sealing adds. */
int object_encode(struct apiserver *s, struct str key, const json_t *obj, struct sbuf *out, struct err *err) NODISCARD;
/* Whose objects those of a namespace are: its label, else its name. ns "": of the cluster. Returns tenant. */
#define OBJECT_TENANT_MAX 256
const char *object_tenant(struct apiserver *s, const char *ns, char tenant[OBJECT_TENANT_MAX]);

/* ---- read.c, watch.c, write.c, remove.c, discovery.c, openapi.c ---- */
void api_get(struct api_request *q);
void api_list(struct api_request *q);
struct api_watch;
void api_watch_http(struct api_request *q); /* takes over q */
struct api_watch *api_watch_local(struct api_request *q, const struct local_watch_call *c); /* takes over q; NULL: refused, c->ended was called */
void api_watch_stop(struct api_watch *w);
void api_watch_drained(struct api_watch *w); /* the client has read what waited for it */
void api_watches_end(struct apiserver *s);
void api_watches_end_if(struct apiserver *s, bool (*fn)(struct api_request *q)); /* those over HTTP */
/* Those over HTTP that fn refuses are told why, and ended; those that roles do not allow any more are ended. */
void api_watches_judge(struct apiserver *s, int (*fn)(struct api_request *q, struct err *err));
void api_create(struct api_request *q);
void api_update(struct api_request *q);
void api_patch(struct api_request *q);
void api_scale(struct api_request *q);
/* The autoscaling/v1 Scale of an object; new reference. */
json_t *scale_of(const json_t *obj);
void api_delete(struct api_request *q);
void api_delete_collection(struct api_request *q);
/* For the server's own housekeeping, on the latest accepted version of an object. Deletes it as a client would: finalizers hold. */
int api_delete_quietly(struct apiserver *s, struct store_value *v, struct err *err) NODISCARD;
/* Writes obj over it (or deletes it, when it is to go and nothing holds it any more). */
int api_write_quietly(struct apiserver *s, struct store_value *v, json_t *obj, struct err *err) NODISCARD;
/* Likewise, of what follows from other objects alone: that it was written is not recorded. */
int api_write_derived(struct apiserver *s, struct store_value *v, json_t *obj, struct err *err) NODISCARD;
/* Marks obj as being deleted. */
void api_mark_deleted(json_t *obj);
/* dryRun=All of the query; ERR_INVALID for other values. */
int api_read_dry_run(struct api_request *q, struct err *err) NODISCARD;

/* Types and unknown members of a document, by the query's fieldValidation. */
int api_check_shape(struct api_request *q, json_t *obj, struct err *err) NODISCARD;
/* Who writes: the query's fieldManager, else the client's name. */
int api_read_manager(struct api_request *q, const char **ret, struct err *err) NODISCARD;
void api_apply(struct api_request *q);
bool api_is_apply(const struct api_request *q);

/* ---- refuse.c: denied ---- */
/* 403, as Kubernetes words it; or 404, for somebody of a tenant and what is not his tenant's. */
void api_forbid(struct api_request *q);
/* Of something that is asked about on the way to what is asked for. */
void api_forbid_as(struct api_request *q, const struct rbac_request *r);
/* With a reason of its own. */
void api_forbid_because(struct api_request *q, struct str why);
/* Answers 404 if that is the answer to a denial of q; else false, and nothing. */
bool api_hide(struct api_request *q);

/* The version that q starts from: a write from the latest that was accepted, so that it queues behind others; what only looks (reads, dry runs) from the latest that is durable, as
 * what it shows must not be undone. NULL: there is none. Borrowed for this turn. */
struct store_value *api_start(struct api_request *q, struct str key);

/* One write on its way to the disk, answered when it is there. */
enum write_answer { ANSWER_OBJECT, ANSWER_SCALE, ANSWER_STATUS };
struct api_write {
    struct api_request *q;
    json_t *obj;  /* as it will be, or as it was last; owned */
    json_t *also; /* what is made with it: documents as they will be stored; owned, or NULL */
    json_t *once; /* merged into this answer, stored nowhere; owned, or NULL */
    json_t *applied; /* by server-side apply: the set of fields; owned, or NULL */
    const char *manager; /* who writes, for managedFields */
    enum write_answer answer;
    int http_status;
};
/* What all creations and updates go through: the object as the client wants it is prepared, admitted, validated, written and answered. They take over w's documents. */
void api_write_create(struct api_write *w);
void api_write_update(struct api_write *w, struct store_value *v);
void api_write_drop(const struct api_write *w);
/* Puts w->obj under q's key (delete: removes it), when the object's version is expect_rev. Takes over w's documents. */
void api_write_commit(const struct api_write *w, bool delete, int64_t expect_rev);
/* The answer of a write. Takes over w's documents. */
void api_write_answer(const struct api_write *w, int64_t rev);
/* Without a write: dry runs, and updates that change nothing. Of what has secrets it is recorded as a read first: it shows them as a get does. Takes over w's documents. */
void api_write_show(const struct api_write *w, int64_t rev);
void api_discovery(struct api_request *q);
void api_openapi(struct api_request *q);

/* ---- flow.c: which request is served next ---- */
struct flow_control *flow_new(struct apiserver *s, void (*serve_request)(struct api_request *q));
void flow_free_all(struct flow_control *fc);
/* Serves q now, or when its turn comes, or answers 429. */
void flow_admit(struct flow_control *fc, struct api_request *q);
void flow_leave(struct flow_control *fc, struct api_request *q); /* its client went away */
/* Long work asks now and then: once it has gone on for a slice of time it is to return, and resume() is called when the request's turn comes again. False: go on. */
bool flow_yield(struct api_request *q, uint64_t since_ns, void (*resume)(struct api_request *q));
/* Writes between acceptance and durability. ERR_TOO_MANY when there are enough. */
/* Answers take memory from when they are made until they are read: flow_hold() says how much this one takes by now. ERR_TOO_MANY when the others of its flow, or of all, take
 * too much already. */
void flow_hold(struct api_request *q, size_t bytes);
int flow_check_answer(const struct flow_control *fc, const struct api_request *q, struct err *err) NODISCARD;
int flow_check_write(const struct flow_control *fc, const struct api_request *q, struct err *err) NODISCARD;
void flow_write_begins(struct flow_control *fc, struct api_request *q);
void flow_write_ends(struct flow_control *fc, struct api_request *q);
size_t flow_writes(const struct flow_control *fc); /* that have begun and not ended */

/* ---- shape.c: objects as a client asked to see them ---- */
/* What q asks for fits a list (is_list) or a single object; ERR_NOT_ACCEPTABLE, and ERR_BAD_REQUEST for a bad includeObject. */
int shape_check(struct api_request *q, bool is_list, struct err *err) NODISCARD;
/* The object itself, a table with it as its only row, or its metadata; new reference. */
json_t *shape_object(const struct api_request *q, const json_t *obj, int64_t rev, bool with_columns);
json_t *shape_metadata(const char *version, const json_t *obj);

/* ---- table.c ---- */
json_t *table_start(const struct api_request *q, int64_t rev, bool with_columns);
void table_row(json_t *table, const struct api_request *q, const json_t *obj);

/* ---- document.c: documents that depend on the program alone ---- */
struct document;
const struct document *document_find(struct apiserver *s, const char *key); /* NULL: not made yet */
const struct document *document_put(struct apiserver *s, const char *key, struct str text);
const struct document *document_put_json(struct apiserver *s, const char *key, json_t *doc); /* steals doc */
const char *document_hash(const struct document *d);
struct str document_text(const struct document *d);
/* Answers 200, or 304 when the client says that it has it. keep: the Cache-Control. */
void document_reply(struct api_request *q, const struct document *d, const char *type, const char *keep);

/* ---- discovery.c ---- */
struct api_subresource {
    const char *name; /* "status" */
    const char *group, *version, *kind; /* of what it answers */
    const char *const *verbs; /* ends in NULL */
    const struct kind *of;    /* its kind, when that is neither the object's nor one of types.h */
};
/* What a kind has beside its objects: for discovery and OpenAPI. */
size_t api_subresources(const struct kind *k, struct api_subresource ret[API_SUBRESOURCES_MAX]);

/* ---- server.c ---- */
void api_serve_health(struct api_request *q, bool ready);

/* ---- gc.c, namespaces.c, gather.c ---- */
void gather_start(struct apiserver *s);
void gather_stop(struct apiserver *s);
void namespaces_start(struct apiserver *s);
void namespaces_stop(struct apiserver *s);
void gc_start(struct apiserver *s);
void gc_stop(struct apiserver *s);
/* revoked.c: users whose tokens and certificates of before count no longer. */
void revoked_start(struct apiserver *s);
void revoked_stop(struct apiserver *s);
bool revoked_user(struct apiserver *s, const char *user, const char *tenant, int64_t issued_ms); /* tenant: whose user it is, or NULL */
bool revoked_request(struct api_request *q); /* who really sent it */
/* expel.c: watches that may not go on. */
void expel_start(struct apiserver *s);
void expel_stop(struct apiserver *s);
/* reseal.c: what is not sealed yet, or with a key that is not current, is written anew. */
void reseal_start(struct apiserver *s);
void reseal_stop(struct apiserver *s);
/* bootstrap.c: forgets what is not made yet; when none of its calls is on its way. */
void bootstrap_stop(struct apiserver *s);
/* Looks again, soon: a key was made. */
void reseal_wake(struct apiserver *s);
/* Keys by tenant, as a KeyRotation answers them. tenant "": all. */
/* Much was deleted for good: when history of it has passed, the disk is to have no traces either. */
void reseal_forget(struct apiserver *s);
json_t *reseal_report(struct apiserver *s, const char *tenant);
/* standing.c: objects that stand in every namespace. */
void standing_start(struct apiserver *s);
void standing_stop(struct apiserver *s);
/* 0 when objects may be created in ns. */
int namespace_check(struct apiserver *s, const char *ns, struct err *err);
/* Whether the namespace that is there now was there at that revision, or none is there. Who may read it may not read what lay in an earlier one of its name. */
bool namespace_has_history(struct apiserver *s, const char *ns, int64_t rev);

/* Finds the kind that a store key belongs to; ns and name point into the key. */
const struct kind *object_kind_of_key(struct str key, struct str *ret_ns, struct str *ret_name);

#endif
