/* Kinds: one `struct kind` a resource kind, made of tables; the apiserver, the client, the CLI and the documentation derive everything from it.
 *
 * A kind is one file: its C struct (in its header, when C code reads it), its field table, its printed columns and a small kind_ops. The
 * registry (registry.c) is one line a kind. The generic machinery calls ops and tests no kind's name.
 *
 * Objects pass through as documents (json_t) of the form {apiVersion, kind, metadata, <fields>}. `fields` describes the members beside those three:
 * "spec" and "status" for our kinds, "data", "rules" … for borrowed ones. kind_decode() fills the kind's struct from a document.
 */
#ifndef SEKI_KINDS_KIND_H
#define SEKI_KINDS_KIND_H

#include "client/client.h"
#include "json/table.h"

#define SEKI_GROUP "seki.cloud"
#define SEKI_VERSION "v1alpha1"
#define LABEL_TENANT "seki.cloud/tenant"

struct kind_column {
    const char *name;   /* "READY" is printed as given */
    const char *type;   /* "string" | "integer" | "boolean" | "date": shown as the time since then */
    const char *format; /* "" or "name" */
    const char *path;   /* dotted, "a|b" for the first that is there; or "condition:Ready" (its status), "reason:Ready", "count:spec.files", "ref:spec.object" for "kind/name" of a
                         * reference, "ready:a,b" for "x/y" of two paths */
    int priority;       /* 0 always, 1 with -o wide */
    const char *help;
};

struct kind;

/* Who asks, or is asked about. */
struct kind_user {
    const char *name, *uid;    /* uid "" when unknown */
    const char *const *groups; /* ends in NULL */
    const json_t *extra;       /* name → list of texts; NULL: none */
};
/* What somebody wants to do. */
struct kind_action {
    const char *verb;
    const char *group, *resource, *subresource, *namespace, *name; /* "" when none */
    const char *path; /* a path instead of a resource, or NULL */
};
/* The server that ops run in: its decisions, its identities, its objects. Calls do not block; what they return lives as long as the context's arena. */
struct kind_server {
    void *ctx;
    bool (*allows)(void *ctx, const struct kind_user *u, const struct kind_action *a);
    /* Calls fn with every rule that u has in a namespace, as Role and ClusterRole have them; wide: it holds everywhere, also for paths. */
    void (*rules)(void *ctx, const struct kind_user *u, const char *ns, void (*fn)(void *arg, const json_t *rule, bool wide), void *arg);
    /* Whose bearer token this is, when it is meant for one of `audiences` (an array of texts; NULL or empty: this server). *ret_audiences: those of them that it is meant for; a new
     * reference. ERR_UNAUTHENTICATED. */
    int (*authenticate)(void *ctx, struct arena *a, struct str token, const json_t *audiences, struct kind_user *ret, json_t **ret_audiences, struct err *err);
    /* The latest version of an object; shared, not to be changed. A new reference; NULL: there is none. */
    json_t *(*get)(void *ctx, const struct kind *k, const char *ns, const char *name);
    /* The first name, in their order, of the objects of a kind of the cluster whose name begins so; in the arena. NULL: there are none. Of what is durable. */
    const char *(*first)(void *ctx, struct arena *a, const struct kind *k, const char *prefix);
    /* The keys that secrets of a tenant ("": of all) are sealed with, an array as KeyRotation has it; rotate: after a new one was made for each, on behalf of the context's asker.
     * ERR_NOT_FOUND: the tenant has none. ERR_UNAVAILABLE: nothing is sealed here. */
    int (*keys)(void *ctx, void *asker, const char *tenant, bool rotate, json_t **ret, struct err *err);
    /* The most that a limit in a namespace may allow of a resource, and who says so ("tenant \"acme\""). INT64_MAX: nobody does. */
    int64_t (*ceiling)(void *ctx, struct arena *a, const char *ns, const char *resource, const char **ret_by);
    /* The rule of residency that bars all requests of a namespace to a model that is served at these addresses (ends in NULL; "": where this cloud's own engines stand). NULL: none does.
     * *ret_keys: NULL: it bars all requests; else those with these API keys ("ward-3, ward-4"). */
    const char *(*barred)(void *ctx, struct arena *a, const char *ns, const char *model, const char *const *addresses, const char **ret_keys);
};

/* What ops may look at and use. */
struct kind_context {
    const struct kind_user *user;
    const char *namespace;
    int64_t now_ms;
    struct arena *arena;
    const struct kind_services *services;
    const struct kind_server *server;
    const struct kind_access *access; /* only in authorize */
    void *asker;                      /* access's */
};
/* Given by whoever wires the apiserver; ops of kinds that need none ignore it. */
struct kind_services {
    void *ctx;
    /* Hash of a fresh bearer secret; text is written to ret_text. */
    void (*make_key)(void *ctx, char *ret_text, size_t size, char *ret_hash_hex, size_t hash_size);
    /* What a gateway tells of its load, and what it is asked in turn; see gateway_load.c. ret: a new reference. */
    int (*load)(void *ctx, const json_t *told, json_t **ret, struct err *err);
    /* What a gateway asks for of budgets; see gateway_lease.c. ret: a new reference. */
    int (*lease)(void *ctx, const json_t *ask, json_t **ret, struct err *err);
    const struct jwt_key *token_key; /* signs tokens of service accounts; NULL: there are none */
    const char *token_issuer;        /* who they say made them, and for whom they are when nobody is named */
    /* A control plane that was made before, for a Cluster that is about to be committed: its uid, in the arena, offered to nobody else; NULL: none. Quick. May be NULL. */
    const char *(*claim)(void *ctx, struct arena *a, const json_t *cluster);
    const char *kubernetes_dir;      /* where the programs of Kubernetes are, MINOR below it; NULL or "": there are none */
};

/* The roles of a project that every Seki has: each may what those after it may. */
enum kind_role { ROLE_NONE, ROLE_ADMIN, ROLE_EDIT, ROLE_VIEW };

/* A part of an object: PATH/NAME/SUB. Either something is sent to it by POST: it takes and answers documents of a kind of its own, in no registry, and stores nothing. Or it is a view,
 * read by GET, of what the server has about the object beside it. */
enum kind_view {
    VIEW_NONE,
    VIEW_AUDIT, /* the part of the audit ledger of the tenant that the object is */
    VIEW_TEXT,  /* text of files beside the object */
};
struct kind_subresource {
    const char *name; /* "token" */
    enum kind_view view; /* then neither of the following */
    enum kind_role readers; /* of a view of a namespaced kind: the least role of the project that may read it */
    const struct kind *kind;
    /* obj, valid and without status, is filled with the answer. owner: the object as it is. */
    int (*create)(const struct kind_context *c, const json_t *owner, json_t *obj, struct err *err);
};

/* What ops may ask about access. It is always the access of the user who writes. */
struct kind_access {
    /* name "": any; ns "": the cluster. */
    bool (*may)(const struct kind_context *c, const char *verb, const char *group, const char *resource, const char *ns, const char *name);
    /* Whether the user may do all that rules (of roles) allow, in the context's namespace. If not, *why is told what is missing. */
    bool (*holds)(const struct kind_context *c, const json_t *rules, struct sbuf *why);
    /* The rules of a role (kind "Role", of the context's namespace, or "ClusterRole"); borrowed; NULL: there is none. */
    const json_t *(*role_rules)(const struct kind_context *c, const char *kind, const char *name);
    /* Before a refusal: it is about this object of the cluster, not about the one that is written. To whom that is not shown it is said not to be there. */
    void (*about)(const struct kind_context *c, const struct kind *k, const char *name);
    /* Before a refusal: the rule that its audit record names. */
    void (*by_rule)(const struct kind_context *c, const char *rule);
};

struct kind_ops {
    /* Rules across fields, on a document that has passed its table. old_obj NULL: creation. May be NULL. */
    void (*validate)(const struct kind_context *c, const json_t *obj, const json_t *old_obj, struct field_errors *errors);
    /* What a writer should know of an object that is valid and will be written all the same: each message becomes a Warning header of the answer; paths are not shown. May be NULL. */
    void (*warn)(const struct kind_context *c, const json_t *obj, struct field_errors *warnings);
    /* Before validation of a creation (old_obj NULL) or update by a client: fills what the server decides (e.g. status of an APIKey). *ret_once may be
     * set to members merged into this one answer and stored nowhere (a fresh secret). Must be idempotent; may be NULL. */
    int (*admit)(const struct kind_context *c, json_t *obj, const json_t *old_obj, json_t **ret_once, struct err *err);
    /* What is made together with an object, in the same transaction: documents are appended to ret (an array), each of a kind of the registry, with a namespace where it needs one. If
     * one of them exists already, nothing is made. The writer needs no right to make them. obj has its uid and has passed validation. May be NULL. */
    int (*companions)(const struct kind_context *c, const json_t *obj, json_t *ret, struct err *err);
    /* A kind with this op is virtual: its objects are questions. They can be created only; obj, valid and without status, is filled with the answer, sent back, and stored nowhere. */
    int (*answer)(const struct kind_context *c, json_t *obj, struct err *err);
    const struct kind_subresource *subresources; /* beside status and scale; ends with name NULL; may be NULL */
    /* Whether the writer may write just that, where the verb on the object does not decide it alone. Last before a creation or update by a client is written, on what has
     * passed validation. Refuses with ERR_FORBIDDEN and the reason in *why, or with another error. May be NULL. */
    int (*authorize)(const struct kind_context *c, const json_t *obj, const json_t *old_obj, struct sbuf *why, struct err *err);
    /* Last of all before a creation is committed, when it is no dry run and nothing refuses it but the store: may give obj the uid of what waits for it, and a status. May be NULL. */
    void (*settle)(const struct kind_context *c, json_t *obj);
    /* An object of a kind with this op limits how many others there may be: fn is called with each number of a resource ("secrets", "models.seki.cloud"; "": all that count). It holds where the
     * object lies; of a cluster-scoped kind in each project whose label seki.cloud/tenant is its name, and there "namespaces" is the number of these projects. Several: the tightest. What
     * the server says of it (used, effective, a condition) is in its status. May be NULL. */
    void (*limits)(const json_t *obj, void (*fn)(void *arg, const char *resource, int64_t max), void *arg);
};

/* A member at the top of an object that a view calls something else. */
struct kind_rename {
    const char *stored, *shown;
};

struct kind {
    const char *group; /* "" is core */
    const char *version;
    const char *name; /* "ModelEndpoint" */
    const char *plural;
    const char *singular;
    const char *short_names;  /* comma-separated, or NULL */
    const char *categories;   /* comma-separated, or NULL; ours are in "seki" */
    bool namespaced;
    bool has_status; /* status subresource: main verbs ignore status, /status ignores the rest */
    bool content;    /* what is in it is the tenant's own, and no business of whoever runs the cloud: the role `operator` does not read it */
    bool uncounted;  /* heartbeats, notes and what the cloud itself keeps: not among the `objects` that a project may have */
    size_t most;     /* so many may be in a namespace, whatever limits say; 0: any number */
    bool unaudited;  /* heartbeats and notes: that they are written is not recorded */
    bool read_only;  /* nobody writes objects: they can be got, listed and watched */
    bool has_scale;  /* spec.replicas, status.replicas, status.selector */
    /* Cluster-scoped, and objects may be a tenant's, by their label seki.cloud/tenant. In rules of roles, resourceNames of such a kind are names of tenants, not of objects: who may `get` "acme" may
     * get each object of tenant acme. What has no such label is for rules without resourceNames alone. */
    bool of_tenants;
    bool listed_by_tenant; /* likewise, but only for lists and watches whose label selector names the tenant */
    bool native; /* borrowed from Kubernetes, and taken as it takes its own: strategic merge patches, bodies that do not say what they are */
    bool label_names; /* names are RFC 1123 labels (63 characters, no dots) … */
    bool path_names;  /* … or any path segment ("system:discovery"); else RFC 1123 subdomains */
    /* The least role of a project that may read objects (get, list, watch, with status and scale), and write them (create, update, patch, delete; scale too, status never). The
     * server's default roles come from these. ROLE_NONE: none of them may. */
    enum kind_role readers, writers;
    const struct field *fields;
    size_t size; /* of the C struct; 0: none */
    const struct kind_column *columns; /* besides NAME (first) and AGE (last unless listed), or, when they list NAME, all; ends with name NULL */
    const struct kind_ops *ops;        /* may be NULL */
    const char *help;
    /* A view shows the stored objects of another kind in its own group, version and words; whoever writes one writes the other. What either can hold, both can: nothing is lost
     * on the way. NULL: objects of its own. */
    const struct kind *view_of;
    const struct kind_rename *renames; /* ends with stored NULL; NULL: none */
    const char *standing; /* an object of this name stands in every namespace: made with it, and anew when it was deleted. NULL: none */
};

/* Its objects are answered and never stored. */
static inline bool kind_is_virtual(const struct kind *k)
{
    return k->ops && k->ops->answer;
}

/* The subresource of that name among the kind's own; NULL: there is none. */
const struct kind_subresource *kind_subresource(const struct kind *k, const char *name);

/* All kinds, in a fixed order. */
const struct kind *const *kind_all(size_t *ret_count);
const struct kind *kind_find(struct str group, struct str version, struct str plural);
const struct kind *kind_by_name(const char *name);
/* The kind whose objects are stored as "PLURAL" or "PLURAL.GROUP"; NULL: there is none. */
const struct kind *kind_by_resource(const char *resource);
/* By a document's apiVersion and kind; NULL: none of ours. */
const struct kind *kind_of_document(const json_t *doc);
/* "v1" or "seki.cloud/v1alpha1" */
void kind_api_version(const struct kind *k, char text[128]);
/* "/apis/seki.cloud/v1alpha1/namespaces/NS/modelendpoints/NAME/SUB"; ns, name, sub may be NULL. */
void kind_path(const struct kind *k, const char *ns, const char *name, const char *sub, struct sbuf *out);

/* The kind whose objects lie in the store: k, or what it is a view of. */
const struct kind *kind_stored(const struct kind *k);
/* A stored object as k shows it, and back. A new reference: obj itself when k is no view, else a document that shares its parts. */
json_t *kind_show(const struct kind *k, json_t *stored);
json_t *kind_unshow(const struct kind *k, json_t *shown);

/* For client verbs: points into k. */
struct client_resource kind_resource(const struct kind *k);

int kind_decode(const struct kind *k, const json_t *obj, struct arena *a, void *out, struct err *err) NODISCARD;

/* Metadata of a document. NULL when absent. */
const char *obj_name(const json_t *obj);
const char *obj_namespace(const json_t *obj); /* "" for cluster-scoped */
const char *obj_uid(const json_t *obj);
const char *obj_label(const json_t *obj, const char *key);
const char *obj_annotation(const json_t *obj, const char *key);
int64_t obj_generation(const json_t *obj);
bool obj_deleting(const json_t *obj); /* has a deletionTimestamp */
bool obj_has_finalizer(const json_t *obj, const char *name);
/* Whether it was not there before, or was. */
bool obj_add_finalizer(json_t *obj, const char *name);
bool obj_drop_finalizer(json_t *obj, const char *name);
/* A new document with apiVersion, kind, metadata.name, namespace. */
json_t *obj_new(const struct kind *k, const char *ns, const char *name);
/* Appends an owner reference (controller: true, blockOwnerDeletion: true). */
void obj_add_owner(json_t *obj, const json_t *owner);
bool obj_owned_by(const json_t *obj, const char *owner_uid);

/* Conditions: status.conditions[] by type. Sets lastTransitionTime only when status changes; returns true when anything changed. */
bool obj_set_condition(json_t *obj, const char *type, const char *status, const char *reason, const char *message, int64_t now_ms);
/* The whole condition; borrowed; NULL when there is none. */
json_t *obj_find_condition(const json_t *obj, const char *type);
/* "True" | "False" | "Unknown" | NULL */
const char *obj_condition(const json_t *obj, const char *type);
const char *obj_condition_reason(const json_t *obj, const char *type);
const char *obj_condition_message(const json_t *obj, const char *type); /* "" when there is none */
/* The shared rows of a conditions list, for tables. */
extern const struct field condition_fields[];

#endif
