/* Cluster: what a Kubernetes of a tenant's own shall be. Its controller is src/kaas. */
#include "kinds/kaas.h"

#include "kinds/cluster_oidc.h"

#include <arpa/inet.h>
#include <sys/stat.h>

#define SPEC(member) offsetof(struct cluster, spec.member) - offsetof(struct cluster, spec)
#define PLANE(member) offsetof(struct cluster, spec.control_plane.member) - offsetof(struct cluster, spec.control_plane)
#define NETWORK(member) offsetof(struct cluster, spec.network.member) - offsetof(struct cluster, spec.network)
#define BACKUP(member) offsetof(struct cluster, spec.backup.member) - offsetof(struct cluster, spec.backup)
#define AUDIT(member) offsetof(struct cluster, spec.audit.member) - offsetof(struct cluster, spec.audit)
#define ENDPOINT_NAMES_MAX 16

/* ---- networks ---- */

int cluster_network_parse(const char *text, struct cluster_network *ret, struct err *err)
{
    struct str rest = str_of(text), address;
    char dotted[16];
    struct in_addr in;
    int64_t bits;
    if (!strchr(text, '/') || !str_cut(&rest, '/', &address) || !str_to_array(address, dotted, sizeof(dotted)) || inet_pton(AF_INET, dotted, &in) != 1 ||
        rest.len > 2 || str_to_i64(rest, 0, 32, &bits) < 0)
        return err_set(err, ERR_INVALID, "expected an IPv4 network such as 10.96.0.0/16");
    uint32_t first = ntohl(in.s_addr);
    if (bits < 32 && (first & (UINT32_MAX >> bits)))
        return err_set(err, ERR_INVALID, "has bits behind its prefix: a network of /%d ends in zeros", (int)bits);
    *ret = (struct cluster_network){first, (int)bits};
    return 0;
}

bool cluster_networks_overlap(const struct cluster_network *a, const struct cluster_network *b)
{
    int bits = a->bits < b->bits ? a->bits : b->bits;
    return !bits || !((a->first ^ b->first) >> (32 - bits));
}

void cluster_network_address(const struct cluster_network *n, uint32_t nth, char text[16])
{
    text[0] = 0;
    if (n->bits && n->bits < 32 && nth > (UINT32_MAX >> n->bits))
        return;
    struct in_addr in = {htonl(n->first + nth)};
    inet_ntop(AF_INET, &in, text, 16);
}

/* Two of three networks in different parts of what is nobody's cannot both be in the way. */
static const char *const node_networks[] = {"10.201.0.0/24", "172.29.201.0/24", "192.168.201.0/24"};

int cluster_node_network(const struct cluster *c, struct cluster_network *ret, struct err *err)
{
    struct cluster_network pods, services, nodes;
    if (c->spec.network.node_cidr)
        return cluster_network_parse(c->spec.network.node_cidr, ret, err);
    int rc = cluster_network_parse(c->spec.network.pod_cidr, &pods, err);
    if (rc == 0)
        rc = cluster_network_parse(c->spec.network.service_cidr, &services, err);
    for (size_t i = 0; rc == 0 && i < ARRAY_LEN(node_networks); i++) {
        rc = cluster_network_parse(node_networks[i], &nodes, err);
        if (rc == 0 && !cluster_networks_overlap(&nodes, &pods) && !cluster_networks_overlap(&nodes, &services)) {
            *ret = nodes;
            return 0;
        }
    }
    return rc < 0 ? rc : err_set(err, ERR_INVALID, "spec.network.nodeCIDR: no network is free for nodes; name one");
}

/* ---- rows ---- */

static const struct field plane_fields[] = {
    {.name = "replicas", .type = FIELD_INT, .flags = FIELD_IMMUTABLE, .offset = PLANE(replicas), .min = 1, .max = 3, .def = "1", .help = "how many of each component there are: 1, or 3, of which any may fail; it cannot change later"},
    {.name = "size", .type = FIELD_ENUM, .offset = PLANE(size), .values = "Small|Medium|Large", .def = "\"Small\"", .help = "how much memory its components keep to, how much its store may hold (2, 4, 8 GiB) and how many requests it takes at a time. Another one restarts its components at once"},
    {0},
};
static const struct field network_fields[] = {
    {.name = "podCIDR", .type = FIELD_STRING, .flags = FIELD_IMMUTABLE, .offset = NETWORK(pod_cidr), .min = 9, .max = 18, .def = "\"10.244.0.0/16\"", .help = "addresses of pods; each node gets a /24 of it"},
    {.name = "serviceCIDR", .type = FIELD_STRING, .flags = FIELD_IMMUTABLE, .offset = NETWORK(service_cidr), .min = 9, .max = 18, .def = "\"10.96.0.0/16\"", .help = "addresses of Services"},
    {.name = "serviceDomain", .type = FIELD_STRING, .flags = FIELD_IMMUTABLE | FIELD_DNS_NAME, .offset = NETWORK(service_domain), .min = 1, .max = 64, .def = "\"cluster.local\"", .help = "DNS name that names of Services end in"},
    {.name = "nodeCIDR", .type = FIELD_STRING, .flags = FIELD_IMMUTABLE, .offset = NETWORK(node_cidr), .min = 9, .max = 18, .help = "addresses of its nodes; by default the first of 10.201.0.0/24, 172.29.201.0/24 and 192.168.201.0/24 that overlaps no other network of the cluster"},
    {0},
};
static const struct field backup_fields[] = {
    {.name = "intervalSeconds", .type = FIELD_INT, .offset = BACKUP(interval_seconds), .min = 0, .max = 604800, .def = "900", .help = "a backup so often: what was written since the newest is lost when its store is; 0: only when asked for"},
    {.name = "keep", .type = FIELD_INT, .offset = BACKUP(keep), .min = 1, .max = CLUSTER_BACKUPS_MAX, .def = "24", .help = "how many of the newest backups are kept"},
    {0},
};
static const struct field audit_fields[] = {
    {.name = "policy", .type = FIELD_ENUM, .offset = AUDIT(policy), .values = "None|Metadata|Request|RequestResponse", .def = "\"Metadata\"", .help = "how much its API server writes of each request; of Secrets, ConfigMaps and tokens never more than Metadata. Another one restarts the API server at once"},
    {0},
};
static const struct field spec_fields[] = {
    {.name = "version", .type = FIELD_ENUM, .offset = SPEC(version), .values = CLUSTER_VERSIONS, .def = "\"1.37\"", .help = "minor version of Kubernetes, of those that this cloud has; the next one upgrades the cluster"},
    {.name = "controlPlane", .type = FIELD_OBJECT, .offset = SPEC(control_plane), .sub = plane_fields, .sub_size = sizeof(((struct cluster *)0)->spec.control_plane), .def = "{}", .help = "how its control plane is made"},
    {.name = "network", .type = FIELD_OBJECT, .offset = SPEC(network), .sub = network_fields, .sub_size = sizeof(((struct cluster *)0)->spec.network), .def = "{}", .help = "its networks; they cannot change later"},
    {.name = "endpointNames", .type = FIELD_LIST, .elem = FIELD_STRING, .offset = SPEC(endpoint_names), .list_type = LIST_SET, .max = ENDPOINT_NAMES_MAX, .help = "further DNS names and addresses under which clients reach its API server"},
    {.name = "audit", .type = FIELD_OBJECT, .offset = SPEC(audit), .sub = audit_fields, .sub_size = sizeof(((struct cluster *)0)->spec.audit), .def = "{}", .help = "its audit log"},
    {.name = "oidc", .type = FIELD_OBJECT, .offset = FIELD_NO_MEMBER, .sub = cluster_oidc_fields, .help = "an issuer of people's tokens of the cluster's own, beside those of its tenant; nothing restarts when it changes"},
    {.name = "maintenanceWindow", .type = FIELD_OBJECT, .flags = FIELD_POINTER, .offset = SPEC(maintenance_window), .sub = maintenance_fields, .sub_size = sizeof(struct maintenance_window), .help = "when an upgrade may begin that spec.version asks for; absent: at any time. `seki cluster upgrade --now` does not wait for it, nor does another size or audit policy"},
    {.name = "backup", .type = FIELD_OBJECT, .offset = SPEC(backup), .sub = backup_fields, .sub_size = sizeof(((struct cluster *)0)->spec.backup), .def = "{}", .help = "how its store is backed up"},
    {0},
};
static const struct field stage_fields[] = {
    {.name = "name", .type = FIELD_STRING, .flags = FIELD_REQUIRED, .offset = FIELD_NO_MEMBER, .help = "as the condition"},
    {.name = "startedAt", .type = FIELD_TIME, .flags = FIELD_MICRO, .offset = FIELD_NO_MEMBER, .help = "when its attempt began"},
    {.name = "deadline", .type = FIELD_TIME, .flags = FIELD_MICRO, .offset = FIELD_NO_MEMBER, .help = "until when this attempt may take"},
    {.name = "attempt", .type = FIELD_INT, .offset = FIELD_NO_MEMBER, .help = "the first is 1"},
    {.name = "milliseconds", .type = FIELD_INT, .offset = FIELD_NO_MEMBER, .help = "how long it took, once it is done"},
    {0},
};
static const struct field made_fields[] = {
    {.name = "id", .type = FIELD_STRING, .flags = FIELD_REQUIRED, .offset = FIELD_NO_MEMBER, .help = "its name"},
    {.name = "takenAt", .type = FIELD_TIME, .flags = FIELD_MICRO, .offset = FIELD_NO_MEMBER, .help = "what was written before is in it"},
    {.name = "bytes", .type = FIELD_INT, .offset = FIELD_NO_MEMBER, .help = "size of its file"},
    {.name = "revision", .type = FIELD_INT, .offset = FIELD_NO_MEMBER, .help = "of the cluster's store"},
    {.name = "keys", .type = FIELD_INT, .offset = FIELD_NO_MEMBER, .help = "how many the store had"},
    {0},
};
static const struct field drill_fields[] = {
    {.name = "backup", .type = FIELD_STRING, .offset = FIELD_NO_MEMBER, .help = "which was restored beside the cluster"},
    {.name = "at", .type = FIELD_TIME, .flags = FIELD_MICRO, .offset = FIELD_NO_MEMBER, .help = "when that ended"},
    {.name = "milliseconds", .type = FIELD_INT, .offset = FIELD_NO_MEMBER, .help = "from the file to a store that answered"},
    {.name = "keys", .type = FIELD_INT, .offset = FIELD_NO_MEMBER, .help = "how many that store had: as many as the backup says"},
    {.name = "ageSeconds", .type = FIELD_INT, .offset = FIELD_NO_MEMBER, .help = "how old the backup was: so much would have been lost"},
    {.name = "failures", .type = FIELD_INT, .offset = FIELD_NO_MEMBER, .help = "rehearsals that failed one after the other, this one included"},
    {0},
};
static const struct field restore_fields[] = {
    {.name = "request", .type = FIELD_STRING, .offset = FIELD_NO_MEMBER, .help = "the annotation seki.cloud/restore that was answered last"},
    {.name = "backup", .type = FIELD_STRING, .offset = FIELD_NO_MEMBER, .help = "which backup"},
    {.name = "startedAt", .type = FIELD_TIME, .flags = FIELD_MICRO, .offset = FIELD_NO_MEMBER, .help = "when it began"},
    {.name = "milliseconds", .type = FIELD_INT, .offset = FIELD_NO_MEMBER, .help = "from its beginning until the cluster was ready again"},
    {.name = "revision", .type = FIELD_INT, .offset = FIELD_NO_MEMBER, .help = "where resourceVersions go on: behind all that were ever given out"},
    {0},
};
static const struct field people_fields[] = {
    {.name = "url", .type = FIELD_STRING, .flags = FIELD_REQUIRED, .offset = FIELD_NO_MEMBER, .help = "the issuer"},
    {.name = "audiences", .type = FIELD_LIST, .elem = FIELD_STRING, .list_type = LIST_SET, .offset = FIELD_NO_MEMBER, .help = "for whom tokens must be"},
    {.name = "usernamePrefix", .type = FIELD_STRING, .offset = FIELD_NO_MEMBER, .help = "begins the names of its users"},
    {.name = "groupsPrefix", .type = FIELD_STRING, .offset = FIELD_NO_MEMBER, .help = "begins the names of its groups; absent: it has none"},
    {0},
};
static const struct field upgrade_stage_fields[] = {
    {.name = "name", .type = FIELD_STRING, .flags = FIELD_REQUIRED, .offset = FIELD_NO_MEMBER, .help = "Backup, Store, APIServer, Controllers, Scheduler or Nodes"},
    {.name = "startedAt", .type = FIELD_TIME, .flags = FIELD_MICRO, .offset = FIELD_NO_MEMBER, .help = "when it began"},
    {.name = "milliseconds", .type = FIELD_INT, .offset = FIELD_NO_MEMBER, .help = "how long it took, once it is done"},
    {0},
};
static const struct field upgrade_fields[] = {
    {.name = "from", .type = FIELD_STRING, .offset = FIELD_NO_MEMBER, .help = "minor version that it had"},
    {.name = "to", .type = FIELD_STRING, .offset = FIELD_NO_MEMBER, .help = "minor version that it gets"},
    {.name = "stage", .type = FIELD_STRING, .offset = FIELD_NO_MEMBER, .help = "where it is; Done at its end, and RolledBack or Cancelled where it was ended before"},
    {.name = "backup", .type = FIELD_STRING, .offset = FIELD_NO_MEMBER, .help = "the backup that goes back to before it"},
    {.name = "startedAt", .type = FIELD_TIME, .flags = FIELD_MICRO, .offset = FIELD_NO_MEMBER, .help = "when it began"},
    {.name = "milliseconds", .type = FIELD_INT, .offset = FIELD_NO_MEMBER, .help = "how long all of it took, once it is done"},
    {.name = "stages", .type = FIELD_LIST, .elem = FIELD_OBJECT, .sub = upgrade_stage_fields, .list_type = LIST_MAP, .list_key = "name", .offset = FIELD_NO_MEMBER, .help = "its steps"},
    {0},
};
static const struct field member_fields[] = {
    {.name = "name", .type = FIELD_STRING, .flags = FIELD_REQUIRED, .offset = FIELD_NO_MEMBER, .help = "0, 1 or 2"},
    {.name = "address", .type = FIELD_STRING, .offset = FIELD_NO_MEMBER, .help = "where its components listen"},
    {.name = "ready", .type = FIELD_BOOL, .offset = FIELD_NO_MEMBER, .help = "whether its etcd, API server, controllers and scheduler answer"},
    {.name = "message", .type = FIELD_STRING, .offset = FIELD_NO_MEMBER, .help = "what does not"},
    {0},
};
static const struct field status_fields[] = {
    {.name = "version", .type = FIELD_STRING, .offset = FIELD_NO_MEMBER, .help = "what its API server says it is"},
    {.name = "minor", .type = FIELD_STRING, .offset = FIELD_NO_MEMBER, .help = "minor version that it runs; while it is upgraded, the one that it comes from"},
    {.name = "upgrade", .type = FIELD_OBJECT, .sub = upgrade_fields, .offset = FIELD_NO_MEMBER, .help = "the newest upgrade"},
    {.name = "address", .type = FIELD_STRING, .offset = FIELD_NO_MEMBER, .help = "the address that its components listen at"},
    {.name = "endpoint", .type = FIELD_STRING, .offset = FIELD_NO_MEMBER, .help = "URL of its API server"},
    {.name = "members", .type = FIELD_LIST, .elem = FIELD_OBJECT, .sub = member_fields, .list_type = LIST_MAP, .list_key = "name", .offset = FIELD_NO_MEMBER, .help = "those of a control plane of three"},
    {.name = "membersReady", .type = FIELD_STRING, .offset = FIELD_NO_MEMBER, .help = "how many of its members answer, of how many"},
    {.name = "certificateAuthority", .type = FIELD_STRING, .offset = FIELD_NO_MEMBER, .help = "who signed the certificate of its API server; PEM"},
    {.name = "people", .type = FIELD_LIST, .elem = FIELD_OBJECT, .sub = people_fields, .list_type = LIST_MAP, .list_key = "url", .offset = FIELD_NO_MEMBER, .help = "whose tokens its API server takes"},
    {.name = "kubeconfigSecret", .type = FIELD_STRING, .offset = FIELD_NO_MEMBER, .ref = "Secret", .help = "where its administrator's kubeconfig is"},
    {.name = "claimed", .type = FIELD_BOOL, .offset = FIELD_NO_MEMBER, .help = "its control plane had been made before it was asked for, and was given to it"},
    {.name = "createMilliseconds", .type = FIELD_INT, .offset = FIELD_NO_MEMBER, .help = "from its creation until it was ready for the first time"},
    {.name = "stages", .type = FIELD_LIST, .elem = FIELD_OBJECT, .sub = stage_fields, .list_type = LIST_MAP, .list_key = "name", .offset = FIELD_NO_MEMBER, .help = "the steps of its creation"},
    {.name = "backups", .type = FIELD_LIST, .elem = FIELD_OBJECT, .sub = made_fields, .list_type = LIST_MAP, .list_key = "id", .offset = FIELD_NO_MEMBER, .help = "its backups, newest first"},
    {.name = "backupRequest", .type = FIELD_STRING, .offset = FIELD_NO_MEMBER, .help = "the annotation seki.cloud/backup that was answered last"},
    {.name = "drill", .type = FIELD_OBJECT, .sub = drill_fields, .offset = FIELD_NO_MEMBER, .help = "the newest rehearsal of a restore"},
    {.name = "restore", .type = FIELD_OBJECT, .sub = restore_fields, .offset = FIELD_NO_MEMBER, .help = "the newest restore"},
    {.name = "observedGeneration", .type = FIELD_INT, .offset = FIELD_NO_MEMBER, .help = "generation that the controller has acted on"},
    {.name = "conditions", .type = FIELD_LIST, .elem = FIELD_OBJECT, .sub = condition_fields, .list_type = LIST_MAP, .list_key = "type", .offset = FIELD_NO_MEMBER, .help = "CertificatesReady, StoreReady, APIServerReady, ControllersReady, AccessReady, Ready, MembersReady, SecretsEncrypted, DNSReady, StoreSpace, OIDCConfigured; BackedUp, Rehearsed, Restored, Upgraded"},
    {0},
};
static const struct field fields[] = {
    {.name = "spec", .type = FIELD_OBJECT, .offset = offsetof(struct cluster, spec), .sub = spec_fields, .def = "{}", .help = "what is wanted"},
    {.name = "status", .type = FIELD_OBJECT, .offset = FIELD_NO_MEMBER, .sub = status_fields, .help = "what is"},
    {0},
};
static const struct kind_column columns[] = {
    {"VERSION", "string", "", "status.version|spec.version", 0, "the version of Kubernetes"},
    {"READY", "string", "", "condition:Ready", 0, "whether it can be used"},
    {"STATUS", "string", "", "reason:Ready", 0, "why it is ready or not"},
    {"ENDPOINT", "string", "", "status.endpoint", 0, "where its API server is"},
    {"MEMBERS", "string", "", "status.membersReady", 0, "how many members of its control plane answer, of how many"},
    {"SIZE", "string", "", "spec.controlPlane.size", 1, "the size of its control plane"},
    {"PODS", "string", "", "spec.network.podCIDR", 1, "addresses of pods"},
    {"SERVICES", "string", "", "spec.network.serviceCIDR", 1, "addresses of Services"},
    {0},
};

/* ---- ops ---- */

/* What no network of pods or Services may touch: a machine keeps these to itself. */
static const char *const kept[] = {"0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3"};

static bool check_network(const json_t *obj, const char *path, int least, int most, struct cluster_network *ret, struct field_errors *errors)
{
    const char *text = json_str(obj, path);
    struct err err = ERR_INIT;
    if (!text)
        return false;
    if (cluster_network_parse(text, ret, &err) < 0) {
        field_errors_add(errors, path, "FieldValueInvalid", "Invalid value: \"%.32s\": %s", text, err.msg);
        return false;
    }
    if (ret->bits < least || ret->bits > most) {
        field_errors_add(errors, path, "FieldValueInvalid", "Invalid value: \"%.32s\": expected a prefix of %d to %d bits", text, least, most);
        return false;
    }
    for (size_t i = 0; i < ARRAY_LEN(kept); i++) {
        struct cluster_network n;
        if (cluster_network_parse(kept[i], &n, NULL) == 0 && cluster_networks_overlap(ret, &n)) {
            field_errors_add(errors, path, "FieldValueInvalid", "Invalid value: \"%.32s\": overlaps %s, which is not for networks of a cluster", text, kept[i]);
            return false;
        }
    }
    return true;
}

static void check_nodes(const json_t *obj, bool others_good, const struct cluster_network *pods, const struct cluster_network *services, struct field_errors *errors)
{
    static const char path[] = "spec.network.nodeCIDR";
    struct cluster_network nodes;
    if (!json_str(obj, path) || !check_network(obj, path, 16, 27, &nodes, errors) || !others_good)
        return;
    bool with_pods = cluster_networks_overlap(&nodes, pods);
    if (with_pods || cluster_networks_overlap(&nodes, services))
        field_errors_add(errors, path, "FieldValueInvalid", "Invalid value: \"%.32s\": overlaps spec.network.%s", json_str(obj, path), with_pods ? "podCIDR" : "serviceCIDR");
}

static bool is_address(const char *text)
{
    unsigned char bytes[16];
    return inet_pton(AF_INET, text, bytes) == 1 || inet_pton(AF_INET6, text, bytes) == 1;
}

/* Digits and dots alone are an address with a mistake, not a name. */
static bool is_name(const char *text)
{
    return field_dns_name(str_of(text)) && strspn(text, "0123456789.") != strlen(text);
}

/* ---- versions ---- */

int cluster_minor(const char *version)
{
    int64_t minor;
    return version && !strncmp(version, "1.", 2) && str_to_i64(str_of(version + 2), 0, 999, &minor) == 0 ? (int)minor : -1;
}

bool cluster_may_become(const char *from, const char *to, char what[160])
{
    int have = cluster_minor(from), want = cluster_minor(to);
    *what = 0;
    if (want < have)
        snprintf(what, 160, "the cluster runs %.8s, and goes to no older version: a backup of that version can be restored", from);
    else if (want > have + 1)
        snprintf(what, 160, "the cluster runs %.8s, and is upgraded one minor version at a time: 1.%d next", from, have + 1);
    return !*what;
}

static bool is_there(const char *dir, const char *version)
{
    char path[4096];
    struct stat st;
    return snprintf(path, sizeof(path), "%s/%s", dir, version) < (int)sizeof(path) && stat(path, &st) == 0;
}

/* Where there are no programs at all a Cluster may be declared, and waits for them. */
static void check_offered(const char *dir, const char *want, struct field_errors *errors)
{
    struct str rest = STR(CLUSTER_VERSIONS), one;
    char have[160] = "", version[16];
    if (!dir || !*dir || is_there(dir, want))
        return;
    while (str_cut(&rest, '|', &one))
        if (str_to_array(one, version, sizeof(version)) && is_there(dir, version))
            snprintf(have + strlen(have), sizeof(have) - strlen(have), "%s\"%s\"", *have ? ", " : "", version);
    if (*have)
        field_errors_add(errors, "spec.version", "FieldValueNotSupported", "Unsupported value: \"%.16s\": this cloud has: %s", want, have);
}

/* What an upgrade that has changed the store already cannot do any more is to be given up. */
static bool is_upgrading(const json_t *obj)
{
    const char *stage = json_str_or(obj, "status.upgrade.stage", "");
    static const char *const over[] = {"", "Backup", "Done", "RolledBack", "Cancelled"};
    for (size_t i = 0; i < ARRAY_LEN(over); i++)
        if (!strcmp(stage, over[i]))
            return false;
    return true;
}

static void check_version(const struct kind_context *c, const json_t *obj, const json_t *old_obj, struct field_errors *errors)
{
    static const char path[] = "spec.version";
    const char *want = json_str(obj, path), *old = old_obj ? json_str(old_obj, path) : NULL;
    char what[160];
    if (!want || cluster_minor(want) < 0 || (old && !strcmp(old, want)))
        return; /* what stands is not asked again */
    check_offered(c->services ? c->services->kubernetes_dir : NULL, want, errors);
    if (!old)
        return;
    if (is_upgrading(old_obj))
        field_errors_add(errors, path, "FieldValueInvalid", "Invalid value: \"%.16s\": an upgrade to %.16s is at stage %.16s and goes on; the way back is to restore backup %.24s", want,
                         json_str_or(old_obj, "status.upgrade.to", ""), json_str_or(old_obj, "status.upgrade.stage", ""), json_str_or(old_obj, "status.upgrade.backup", ""));
    else if (!cluster_may_become(json_str_or(old_obj, "status.minor", old), want, what))
        field_errors_add(errors, path, "FieldValueInvalid", "Invalid value: \"%.16s\": %s", want, what);
}

/* What stands is not asked of the list again: the operator may take an issuer off it, and the cluster is changed in other ways all the same. */
static void check_issuer(const struct kind_context *c, const json_t *obj, const json_t *old_obj, struct field_errors *errors)
{
    static const char path[] = "spec.oidc.issuer.url";
    const char *url = json_str(obj, path), *old = old_obj ? json_str(old_obj, path) : NULL;
    struct oidc_issuer issuer;
    struct err err = ERR_INIT;
    if (errors->count)
        return; /* it reads only what has passed its table */
    if (cluster_oidc_read(obj, c->arena, &issuer, &err) < 0)
        field_errors_add(errors, err.field, "FieldValueInvalid", "Invalid value: %s", err.msg);
    else if (url && (!old || strcmp(old, url) != 0) && !cluster_oidc_listed(cluster_oidc_allowed(), url))
        field_errors_add(errors, path, "FieldValueForbidden", "Forbidden: API servers would fetch from it, and this cloud's operator has not listed it: ask for that");
}

static void validate(const struct kind_context *c, const json_t *obj, const json_t *old_obj, struct field_errors *errors)
{
    struct cluster_network pods, services;
    check_version(c, obj, old_obj, errors);
    bool both = check_network(obj, "spec.network.podCIDR", 8, 24, &pods, errors);
    both = check_network(obj, "spec.network.serviceCIDR", 12, 28, &services, errors) && both;
    if (both && cluster_networks_overlap(&pods, &services))
        field_errors_add(errors, "spec.network.serviceCIDR", "FieldValueInvalid", "Invalid value: \"%.32s\": overlaps spec.network.podCIDR %.32s", json_str(obj, "spec.network.serviceCIDR"),
                         json_str(obj, "spec.network.podCIDR"));
    check_nodes(obj, both, &pods, &services, errors);
    maintenance_validate(obj, errors);
    check_issuer(c, obj, old_obj, errors);
    int64_t replicas = json_int(obj, "spec.controlPlane.replicas", 1);
    if (replicas != 1 && replicas != 3)
        field_errors_add(errors, "spec.controlPlane.replicas", "FieldValueNotSupported", "Unsupported value: %lld: supported values: \"1\", \"3\"", (long long)replicas);
    size_t i;
    json_t *name;
    json_array_foreach (json_at(obj, "spec.endpointNames"), i, name) {
        const char *text = json_string_value(name);
        char path[64];
        snprintf(path, sizeof(path), "spec.endpointNames[%zu]", i);
        if (text && !is_address(text) && !is_name(text))
            field_errors_add(errors, path, "FieldValueInvalid", "Invalid value: \"%.100s\": expected a DNS name or an address", text);
    }
}

/* From its first moment on it cannot go before what was made for it. */
static int admit(const struct kind_context *c UNUSED, json_t *obj, const json_t *old_obj, json_t **ret_once UNUSED, struct err *err UNUSED)
{
    if (!old_obj)
        obj_add_finalizer(obj, CLUSTER_FINALIZER);
    return 0;
}
/* A cluster stands on this cloud's machines, with all that its tenant puts into it. */
static int authorize(const struct kind_context *c, const json_t *obj UNUSED, const json_t *old_obj, struct sbuf *why, struct err *err)
{
    static const char *const here[] = {"", NULL};
    const char *keys = NULL, *rule = old_obj ? NULL : c->server->barred(c->server->ctx, c->arena, c->namespace, "", here, &keys);
    if (!rule || keys) /* a rule for some API keys is about models */
        return 0;
    c->access->by_rule(c, rule);
    sbuf_addf(why, "metadata.namespace: this cloud stands at no site that %s allows to project \"%s\": ask whoever made that rule", rule, c->namespace);
    return err_set(err, ERR_FORBIDDEN, "no allowed site");
}
/* Its uid is that of the place that it gets: whether it has it is one with whether it is there. */
static void settle(const struct kind_context *c, json_t *obj)
{
    const char *uid = c->services && c->services->claim ? c->services->claim(c->services->ctx, c->arena, obj) : NULL;
    if (!uid)
        return;
    json_put_str(obj, "metadata.uid", uid);
    json_put(obj, CLUSTER_CLAIMED, json_true());
}
static const struct kind_subresource parts[] = {{.name = "audit", .view = VIEW_TEXT, .readers = ROLE_ADMIN}, {.name = "log", .view = VIEW_TEXT, .readers = ROLE_VIEW}, {0}};
static const struct kind_ops ops = {.validate = validate, .admit = admit, .authorize = authorize, .settle = settle, .subresources = parts};

const struct kind kind_cluster = {
    .group = SEKI_GROUP, .version = SEKI_VERSION, .name = "Cluster", .plural = "clusters", .singular = "cluster",
    .categories = "seki", .namespaced = true, .has_status = true, .label_names = true,
    .readers = ROLE_VIEW, .writers = ROLE_EDIT, .fields = fields, .size = sizeof(struct cluster), .columns = columns, .ops = &ops,
    .help = "Cluster is a Kubernetes of its own; the Secret NAME-kubeconfig has its administrator's credentials.",
};
