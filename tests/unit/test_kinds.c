/* Kinds: every table is sane, no name of ours is one of Kubernetes', what kinds admit and validate, metadata and conditions. */
#include "unit.h"

#include <ctype.h>

#include "base/clock.h"
#include "base/map.h"
#include "kinds/borrowed.h"
#include "kinds/inference.h"

static struct arena *arena;

static int setup(void **state UNUSED)
{
    arena = arena_new(64 << 20);
    return 0;
}

static int teardown(void **state UNUSED)
{
    arena_freep(&arena);
    return 0;
}

static json_t *parsed(const char *text)
{
    struct err err = ERR_INIT;
    json_t *j = NULL;
    int rc = json_parse(str_of(text), 1 << 20, &j, &err);
    if (rc < 0)
        fail_msg("%s: %s", text, err.msg);
    return j;
}

static void equal(const json_t *got, const char *want)
{
    JSON_AUTO j = parsed(want);
    CLEANUP(sbuf_deinit) struct sbuf b = {0};
    sbuf_init(&b, 1 << 20);
    json_write(got, &b);
    if (!json_equal(got, j))
        fail_msg("got %s, expected %s", b.ptr ? b.ptr : "nothing", want);
}

static bool is_ours(const struct kind *k)
{
    return !strcmp(k->group, SEKI_GROUP);
}

/* ---- names ---- */

/* What Kubernetes has built in, or had: kind, plural, short names. kubectl resolves a name without its group to these first. */
static const char *const upstream[][3] = {
    {"Binding", "bindings", ""}, {"ComponentStatus", "componentstatuses", "cs"}, {"ConfigMap", "configmaps", "cm"}, {"Endpoints", "endpoints", "ep"}, {"Event", "events", "ev"},
    {"LimitRange", "limitranges", "limits"}, {"Namespace", "namespaces", "ns"}, {"Node", "nodes", "no"}, {"PersistentVolumeClaim", "persistentvolumeclaims", "pvc"}, {"PersistentVolume", "persistentvolumes", "pv"},
    {"Pod", "pods", "po"}, {"PodTemplate", "podtemplates", ""}, {"ReplicationController", "replicationcontrollers", "rc"}, {"ResourceQuota", "resourcequotas", "quota"}, {"Secret", "secrets", ""},
    {"ServiceAccount", "serviceaccounts", "sa"}, {"Service", "services", "svc"},
    {"MutatingWebhookConfiguration", "mutatingwebhookconfigurations", ""}, {"ValidatingWebhookConfiguration", "validatingwebhookconfigurations", ""}, {"ValidatingAdmissionPolicy", "validatingadmissionpolicies", ""},
    {"ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings", ""}, {"MutatingAdmissionPolicy", "mutatingadmissionpolicies", ""}, {"MutatingAdmissionPolicyBinding", "mutatingadmissionpolicybindings", ""},
    {"CustomResourceDefinition", "customresourcedefinitions", "crd,crds"}, {"APIService", "apiservices", ""},
    {"ControllerRevision", "controllerrevisions", ""}, {"DaemonSet", "daemonsets", "ds"}, {"Deployment", "deployments", "deploy"}, {"ReplicaSet", "replicasets", "rs"}, {"StatefulSet", "statefulsets", "sts"},
    {"SelfSubjectReview", "selfsubjectreviews", ""}, {"TokenReview", "tokenreviews", ""}, {"TokenRequest", "tokenrequests", ""}, {"LocalSubjectAccessReview", "localsubjectaccessreviews", ""},
    {"SelfSubjectAccessReview", "selfsubjectaccessreviews", ""}, {"SelfSubjectRulesReview", "selfsubjectrulesreviews", ""}, {"SubjectAccessReview", "subjectaccessreviews", ""},
    {"HorizontalPodAutoscaler", "horizontalpodautoscalers", "hpa"}, {"Scale", "scales", ""}, {"CronJob", "cronjobs", "cj"}, {"Job", "jobs", ""},
    {"CertificateSigningRequest", "certificatesigningrequests", "csr"}, {"ClusterTrustBundle", "clustertrustbundles", ""}, {"PodCertificateRequest", "podcertificaterequests", ""},
    {"Lease", "leases", ""}, {"LeaseCandidate", "leasecandidates", ""}, {"EndpointSlice", "endpointslices", ""},
    {"FlowSchema", "flowschemas", ""}, {"PriorityLevelConfiguration", "prioritylevelconfigurations", ""}, {"StorageVersion", "storageversions", ""}, {"StorageVersionMigration", "storageversionmigrations", ""},
    {"IngressClass", "ingressclasses", ""}, {"Ingress", "ingresses", "ing"}, {"NetworkPolicy", "networkpolicies", "netpol"}, {"IPAddress", "ipaddresses", "ip"}, {"ServiceCIDR", "servicecidrs", ""},
    {"RuntimeClass", "runtimeclasses", ""}, {"Eviction", "evictions", ""}, {"PodDisruptionBudget", "poddisruptionbudgets", "pdb"}, {"PodSecurityPolicy", "podsecuritypolicies", "psp"},
    {"ClusterRoleBinding", "clusterrolebindings", ""}, {"ClusterRole", "clusterroles", ""}, {"RoleBinding", "rolebindings", ""}, {"Role", "roles", ""},
    {"DeviceClass", "deviceclasses", ""}, {"DeviceTaintRule", "devicetaintrules", ""}, {"ResourceClaim", "resourceclaims", ""}, {"ResourceClaimTemplate", "resourceclaimtemplates", ""}, {"ResourceSlice", "resourceslices", ""},
    {"ResourceClass", "resourceclasses", ""}, {"PodSchedulingContext", "podschedulingcontexts", ""}, {"PriorityClass", "priorityclasses", "pc"}, {"Workload", "workloads", "wl"},
    {"CSIDriver", "csidrivers", ""}, {"CSINode", "csinodes", ""}, {"CSIStorageCapacity", "csistoragecapacities", ""}, {"StorageClass", "storageclasses", "sc"}, {"VolumeAttachment", "volumeattachments", ""},
    {"VolumeAttributesClass", "volumeattributesclasses", "vac"}, {"NodeMetrics", "nodes", ""}, {"PodMetrics", "pods", ""}, {"Status", "", ""}, {"Table", "", ""}, {"List", "lists", ""}, {"All", "all", ""},
};

static char *lower(const char *text)
{
    char *copy = arena_strdup(arena, text);
    for (char *p = copy; *p; p++)
        *p = (char)tolower((unsigned char)*p);
    return copy;
}

static bool in_list(const char *list, const char *text)
{
    struct str rest = str_of(list ? list : ""), item;
    while (str_cut(&rest, ',', &item))
        if (item.len && str_eqc(item, text))
            return true;
    return false;
}

/* Whether Kubernetes knows the name in any of its forms. */
static const char *upstream_of(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(upstream); i++)
        if (!strcmp(name, lower(upstream[i][0])) || !strcmp(name, upstream[i][1]) || in_list(upstream[i][2], name))
            return upstream[i][0];
    return NULL;
}

static void our_names_are_none_of_kubernetes(void **state UNUSED)
{
    size_t count, ours = 0;
    const struct kind *const *all = kind_all(&count);
    assert_non_null(upstream_of("po"));
    assert_non_null(upstream_of("crds"));
    for (size_t i = 0; i < count; i++) {
        const struct kind *k = all[i];
        if (!is_ours(k))
            continue;
        ours++;
        struct str rest = str_of(k->short_names ? k->short_names : ""), item;
        const char *taken;
        if ((taken = upstream_of(lower(k->name))) || (taken = upstream_of(k->plural)) || (taken = upstream_of(k->singular)))
            fail_msg("%s has a name of Kubernetes' %s", k->name, taken);
        while (str_cut(&rest, ',', &item))
            if (item.len && (taken = upstream_of(arena_strndup(arena, item))))
                fail_msg("%s: the short name %.*s is of Kubernetes' %s", k->name, STR_ARG(item), taken);
    }
    assert_true(ours >= 5);
}

static void borrowed_kinds_are_named_as_there(void **state UNUSED)
{
    size_t count;
    const struct kind *const *all = kind_all(&count);
    for (size_t i = 0; i < count; i++) {
        const struct kind *k = all[i];
        bool found = is_ours(k);
        for (size_t u = 0; u < ARRAY_LEN(upstream) && !found; u++)
            found = !strcmp(k->name, upstream[u][0]) && !strcmp(k->plural, upstream[u][1]) && !strcmp(k->short_names ? k->short_names : "", upstream[u][2]);
        if (!found)
            fail_msg("%s, %s, %s is not as Kubernetes has it", k->name, k->plural, k->short_names);
    }
}

static void names_are_well_formed_and_unique(void **state UNUSED)
{
    size_t count;
    const struct kind *const *all = kind_all(&count);
    struct map *seen = map_new(NULL);
    for (size_t i = 0; i < count; i++) {
        const struct kind *k = all[i];
        assert_true(isupper((unsigned char)k->name[0]));
        assert_string_equal(k->singular, lower(k->name));
        assert_true(field_dns_label(str_of(k->plural)));
        assert_true(!*k->group || (field_dns_name(str_of(k->group)) && strchr(k->group, '.')));
        assert_true(field_dns_label(str_of(k->version)));
        assert_false(k->label_names && k->path_names);
        assert_int_equal(strncmp(k->help, k->name, strlen(k->name)), 0);
        assert_int_equal(in_list(k->categories, "seki"), is_ours(k) && !kind_is_virtual(k) && !(k->content && k->readers == ROLE_NONE)); /* who gets a category lists all that is in it */
        /* Every way to name one leads to one. */
        const char *names = arena_printf(arena, "%s,%s,%s", k->plural, k->singular, k->short_names ? k->short_names : "");
        struct str rest = str_of(names), item;
        while (str_cut(&rest, ',', &item)) {
            if (item.len && !k->view_of && map_get(seen, item))
                fail_msg("%.*s names two kinds", STR_ARG(item));
            if (item.len)
                map_set(seen, item, (void *)(uintptr_t)k);
        }
        assert_ptr_equal(kind_by_name(k->name), kind_stored(k));
        assert_ptr_equal(kind_find(str_of(k->group), str_of(k->version), str_of(k->plural)), k);
        assert_null(kind_find(str_of("other.group"), str_of(k->version), str_of(k->plural)));
        assert_null(kind_find(str_of(k->group), str_of("v0"), str_of(k->plural)));
        struct client_resource r = kind_resource(k);
        assert_string_equal(r.plural, k->plural);
        assert_string_equal(r.group, k->group);
        assert_int_equal(r.namespaced, k->namespaced);
    }
    map_free(seen);
    assert_null(kind_by_name("model"));
    assert_null(kind_by_name(""));
    assert_null(kind_find(STR(""), STR("v1"), STR("pods")));
}

static void paths_of_kinds(void **state UNUSED)
{
    static const struct {
        const struct kind *kind;
        const char *ns, *name, *sub, *want;
    } cases[] = {
        {&kind_model, "p", "m", "status", "/apis/seki.cloud/v1alpha1/namespaces/p/models/m/status"},
        {&kind_model, "p", NULL, NULL, "/apis/seki.cloud/v1alpha1/namespaces/p/models"},
        {&kind_model, NULL, NULL, NULL, "/apis/seki.cloud/v1alpha1/models"},
        {&kind_model, "", NULL, NULL, "/apis/seki.cloud/v1alpha1/models"},
        {&kind_secret, "p", "s", NULL, "/api/v1/namespaces/p/secrets/s"},
        {&kind_namespace, NULL, "p", NULL, "/api/v1/namespaces/p"},
        {&kind_namespace, "ignored", "p", NULL, "/api/v1/namespaces/p"},
        {&kind_cluster_role, NULL, "system:x", NULL, "/apis/rbac.authorization.k8s.io/v1/clusterroles/system:x"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        CLEANUP(sbuf_deinit) struct sbuf b = {0};
        sbuf_init(&b, 1024);
        kind_path(cases[i].kind, cases[i].ns, cases[i].name, cases[i].sub, &b);
        assert_string_equal(b.ptr, cases[i].want);
    }
    char text[128];
    kind_api_version(&kind_model, text);
    assert_string_equal(text, "seki.cloud/v1alpha1");
    kind_api_version(&kind_secret, text);
    assert_string_equal(text, "v1");
}

/* ---- tables ---- */

static const struct field *row_at(const struct field *table, const char *path)
{
    struct str rest = str_of(path), part;
    const struct field *f = NULL;
    while (str_cut(&rest, '.', &part)) {
        for (f = table; f && f->name && !str_eqc(part, f->name); f++)
            ;
        if (!f || !f->name)
            return NULL;
        table = f->type == FIELD_OBJECT ? f->sub : NULL;
    }
    return f;
}

static size_t extent(const struct field *table);

/* Bytes of the struct that a row writes. */
static size_t row_size(const struct field *f)
{
    switch (f->type) {
    case FIELD_INT:
        return sizeof(int64_t);
    case FIELD_BOOL:
        return sizeof(bool);
    case FIELD_NUMBER:
        return sizeof(double);
    case FIELD_OBJECT:
        return f->flags & FIELD_POINTER ? sizeof(void *) : extent(f->sub);
    case FIELD_LIST:
        return sizeof(struct field_list);
    case FIELD_MAP:
        return sizeof(struct field_map);
    default:
        return sizeof(void *);
    }
}

static size_t extent(const struct field *table)
{
    size_t max = 0;
    for (const struct field *f = table; f->name; f++)
        if (f->offset != FIELD_NO_MEMBER)
            max = MAX(max, f->offset + row_size(f));
    return max;
}

#define BAD(...) fail_msg("%s.%s: %s", where, f->name, arena_printf(arena, __VA_ARGS__))

static void check_default(const struct field *f, const char *where)
{
    static const struct field nothing[] = {{0}};
    struct field row[2] = {*f, {0}};
    struct field_errors e = {.arena = arena};
    JSON_AUTO obj = json_object();
    if (!f->def)
        return;
    JSON_AUTO value = json_loads(f->def, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, NULL);
    if (!value || json_is_null(value))
        BAD("the default is no JSON");
    json_object_set(obj, f->name, value);
    field_defaults(row, obj);
    if (f->flags & FIELD_REQUIRED && f->type == FIELD_OBJECT && f->sub) /* what is required inside is the client's to give */
        row[0].sub = nothing;
    field_validate(row, obj, "", &e);
    if (e.count)
        BAD("the default is refused: %s", e.items[0].message);
}

static void check_table(const struct field *table, const char *where, bool in_struct);

static void check_row(const struct field *table, const struct field *f, const char *where, bool in_struct)
{
    for (const struct field *other = table; other != f; other++) {
        if (!strcmp(other->name, f->name))
            BAD("is there twice");
        if (in_struct && f->offset != FIELD_NO_MEMBER && other->offset != FIELD_NO_MEMBER && f->offset < other->offset + row_size(other) && other->offset < f->offset + row_size(f))
            BAD("shares memory with %s", other->name);
    }
    if (!islower((unsigned char)f->name[0]) || strspn(f->name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789") != strlen(f->name))
        BAD("the name is no camelCase");
    if (!f->help || !*f->help)
        BAD("has no help");
    if (f->max && f->min > f->max)
        BAD("the bounds are crossed");
    if ((f->type == FIELD_ENUM || (f->type == FIELD_LIST && f->elem == FIELD_ENUM)) != (f->values != NULL))
        BAD("values are for enums, and enums have values");
    if ((f->type == FIELD_OBJECT || (f->type == FIELD_LIST && f->elem == FIELD_OBJECT)) != (f->sub != NULL))
        BAD("a table beneath is for objects, and objects have one");
    if (f->type == FIELD_LIST && f->elem != FIELD_STRING && f->elem != FIELD_ENUM && f->elem != FIELD_INT && f->elem != FIELD_OBJECT)
        BAD("a list of what cannot be listed");
    if ((f->list_type == LIST_MAP) != (f->list_key != NULL) || (f->list_type != LIST_ATOMIC && f->type != FIELD_LIST))
        BAD("keys are for lists by key");
    struct str keys = str_of(f->list_key), key;
    while (f->list_key && str_cut(&keys, ',', &key)) {
        const struct field *k = row_at(f->sub, arena_strndup(arena, key));
        if (!k || (k->type != FIELD_STRING && k->type != FIELD_INT))
            BAD("the key %.*s is no member", STR_ARG(key));
    }
    if (f->flags & (FIELD_DNS_LABEL | FIELD_DNS_NAME) && f->type != FIELD_STRING && !(f->type == FIELD_LIST && f->elem == FIELD_STRING))
        BAD("names are strings");
    if (f->ref && !kind_by_name(f->ref))
        BAD("refers to %s, which is no kind", f->ref);
    check_default(f, where);
    bool stored = in_struct && f->offset != FIELD_NO_MEMBER;
    if (stored && f->type == FIELD_LIST && f->elem == FIELD_OBJECT && f->sub_size < extent(f->sub))
        BAD("elements of %zu bytes hold members up to %zu", f->sub_size, extent(f->sub));
    if (stored && f->flags & FIELD_POINTER && f->sub_size < extent(f->sub))
        BAD("%zu bytes hold members up to %zu", f->sub_size, extent(f->sub));
    if (f->sub)
        check_table(f->sub, arena_printf(arena, "%s.%s", where, f->name), stored);
}

static void check_table(const struct field *table, const char *where, bool in_struct)
{
    for (const struct field *f = table; f->name; f++)
        check_row(table, f, where, in_struct);
}

static void check_column_path(const struct kind *k, const char *path)
{
    struct str rest = str_of(path), part;
    if (!strncmp(path, "condition:", 10) || !strncmp(path, "reason:", 7)) {
        rest = STR("status.conditions");
    } else if (!strncmp(path, "count:", 6) || !strncmp(path, "ready:", 6)) {
        rest = str_skip(rest, 6);
    } else if (!strncmp(path, "ref:", 4)) {
        rest = str_skip(rest, 4);
    }
    char separator = strchr(path, '|') ? '|' : ',';
    while (str_cut(&rest, separator, &part))
        if (!str_starts(part, STR("metadata.")) && !row_at(k->fields, arena_strndup(arena, part)))
            fail_msg("%s: a column shows %s, which is no member", k->name, path);
}

/* What either can hold, both can. */
static void views_lose_nothing(void **state UNUSED)
{
    size_t count, views = 0;
    const struct kind *const *all = kind_all(&count);
    for (size_t i = 0; i < count; i++) {
        const struct kind *k = all[i];
        char version[128];
        if (!k->view_of)
            continue;
        views++;
        JSON_AUTO stored = json_object();
        for (const struct field *f = k->view_of->fields; f->name; f++)
            json_object_set_new(stored, f->name, json_string(f->name));
        kind_api_version(k->view_of, version);
        json_object_set_new(stored, "apiVersion", json_string(version));
        json_object_set_new(stored, "kind", json_string(k->view_of->name));
        JSON_AUTO shown = kind_show(k, stored);
        size_t members = 0;
        for (const struct field *f = k->fields; f->name; f++, members++) {
            const struct field *other = row_at(k->view_of->fields, json_str_or(shown, f->name, "-"));
            if (!other || other->type != f->type || other->sub != f->sub || other->max != f->max)
                fail_msg("%s of %s: %s is stored as something else", k->name, k->group, f->name);
        }
        assert_int_equal(json_object_size(shown), members + 2);
        kind_api_version(k, version);
        assert_string_equal(json_str_or(shown, "apiVersion", ""), version);
        JSON_AUTO again = kind_unshow(k, shown);
        assert_true(json_equal(again, stored));
        assert_ptr_equal(kind_stored(k), k->view_of);
        assert_null(k->view_of->view_of);
    }
    assert_int_equal(views, 1);
}

static void need_row(const struct kind *k, const char *path, enum field_type type)
{
    const struct field *f = row_at(k->fields, path);
    if (!f || f->type != type)
        fail_msg("%s needs a row %s of type %s", k->name, path, field_type_name(type));
}

static void tables_are_sane(void **state UNUSED)
{
    size_t count;
    const struct kind *const *all = kind_all(&count);
    for (size_t i = 0; i < count; i++) {
        const struct kind *k = all[i];
        check_table(k->fields, k->name, k->size > 0);
        if (k->size && extent(k->fields) > k->size)
            fail_msg("%s: members up to %zu in %zu bytes", k->name, extent(k->fields), k->size);
        assert_null(row_at(k->fields, "metadata"));
        assert_null(row_at(k->fields, "kind"));
        assert_null(row_at(k->fields, "apiVersion"));
        if (k->has_status)
            need_row(k, "status", FIELD_OBJECT);
        if (k->has_scale) {
            need_row(k, "spec.replicas", FIELD_INT);
            need_row(k, "status.replicas", FIELD_INT);
            need_row(k, "status.selector", FIELD_STRING);
        }
        for (const struct kind_column *c = k->columns; c && c->name; c++) {
            static const char types[] = "string,integer,date,boolean";
            assert_true(in_list(types, c->type));
            assert_true(c->priority == 0 || c->priority == 1);
            assert_string_equal(c->format, strcmp(c->name, "NAME") ? "" : "name");
            assert_true(c->help && *c->help);
            check_column_path(k, c->path);
        }
        JSON_AUTO schema = field_openapi(k->fields, NULL);
        assert_true(json_is_object(schema));
    }
}

/* A document with every member of a table; with_struct: those only that the struct has. */
static json_t *sample(const struct field *table, bool with_struct, int *serial)
{
    json_t *obj = json_object();
    for (const struct field *f = table; f->name; f++) {
        if (with_struct && f->offset == FIELD_NO_MEMBER)
            continue;
        enum field_type type = f->type == FIELD_LIST ? f->elem : f->type;
        int n = ++*serial;
        json_t *v;
        char text[128];
        switch (type) {
        case FIELD_ENUM:
            v = json_stringn(f->values, strcspn(f->values, "|"));
            break;
        case FIELD_TIME:
            v = json_string("2026-11-24T09:00:00Z");
            break;
        case FIELD_QUANTITY:
            v = json_string("1Gi");
            break;
        case FIELD_INT:
            v = json_integer(f->type == FIELD_LIST || !f->max ? n : MIN(f->max, f->min + n));
            break;
        case FIELD_NUMBER:
            v = json_real(f->max ? (double)f->max : n);
            break;
        case FIELD_BOOL:
            v = json_true();
            break;
        case FIELD_OBJECT:
            v = sample(f->sub, with_struct, serial);
            break;
        case FIELD_MAP:
            v = json_pack("{s:s}", "k", "aGk=");
            break;
        case FIELD_ANY:
            v = json_pack("{s:i}", "n", n);
            break;
        default:
            snprintf(text, sizeof(text), "%0*d", f->type == FIELD_STRING && f->min ? (int)f->min : 4, n);
            v = json_string(text);
        }
        json_object_set_new(obj, f->name, f->type == FIELD_LIST ? json_pack("[o]", v) : v);
    }
    return obj;
}

static void documents_with_every_member_pass(void **state UNUSED)
{
    size_t count;
    const struct kind *const *all = kind_all(&count);
    for (size_t i = 0; i < count; i++) {
        int serial = 0;
        JSON_AUTO obj = sample(all[i]->fields, false, &serial);
        struct field_errors e = {.arena = arena};
        field_validate(all[i]->fields, obj, "", &e);
        field_unknown(all[i]->fields, obj, "", &e);
        field_validate_update(all[i]->fields, obj, obj, "", &e);
        if (e.count)
            fail_msg("%s: %s %s", all[i]->name, e.items[0].path, e.items[0].message);
        assert_true(serial > 1);
    }
}

static void structs_hold_every_member(void **state UNUSED)
{
    size_t count, with_struct = 0;
    const struct kind *const *all = kind_all(&count);
    for (size_t i = 0; i < count; i++) {
        const struct kind *k = all[i];
        if (!k->size)
            continue;
        with_struct++;
        struct err err = ERR_INIT;
        int serial = 0;
        JSON_AUTO obj = sample(k->fields, true, &serial);
        /* A struct of just that size, and dirty before. */
        void *exact = malloc(k->size);
        memset(exact, 0xA5, k->size);
        ASSERT_OK(kind_decode(k, obj, arena, exact, &err));
        JSON_AUTO out = field_encode(k->fields, exact);
        free(exact);
        if (!json_equal(obj, out)) {
            CLEANUP(sbuf_deinit) struct sbuf b = {0};
            sbuf_init(&b, 1 << 20);
            json_write(obj, &b);
            sbuf_addc(&b, "\n");
            json_write(out, &b);
            fail_msg("%s:\n%s", k->name, b.ptr);
        }
    }
    assert_true(with_struct >= 5);
}

static void members_arrive_where_their_names_say(void **state UNUSED)
{
    struct err err = ERR_INIT;
    JSON_AUTO m = parsed("{\"spec\":{\"source\":\"file:///m\",\"format\":\"GGUF\",\"contextLength\":4096,\"files\":[{\"name\":\"a\",\"digest\":\"d\",\"sizeBytes\":9}],\"capabilities\":[\"Chat\"],\"instructionTuned\":true,"
                         "\"license\":{\"id\":\"MIT\",\"digest\":\"x\",\"commercialUse\":\"Allowed\",\"url\":\"u\"}}}");
    struct model model;
    ASSERT_OK(kind_decode(&kind_model, m, arena, &model, &err));
    assert_string_equal(model.spec.source, "file:///m");
    assert_int_equal(model.spec.context_length, 4096);
    assert_int_equal(((struct model_file *)model.spec.files.items)[0].size_bytes, 9);
    assert_string_equal(((const char **)model.spec.capabilities.items)[0], "Chat");
    assert_true(model.spec.instruction_tuned);
    assert_string_equal(model.spec.license.commercial_use, "Allowed");
    assert_string_equal(model.spec.license.url, "u");
    JSON_AUTO r = parsed("{\"spec\":{\"endpoint\":\"e\",\"ordinal\":2,\"engine\":{\"driver\":\"fake\",\"parallel\":3,\"remoteModel\":\"rm\",\"options\":{\"a\":\"b\"}}},\"status\":{\"address\":\"unix:/x\",\"basePath\":\"/v1\",\"pid\":7,\"slots\":8}}");
    struct model_replica replica;
    ASSERT_OK(kind_decode(&kind_model_replica, r, arena, &replica, &err));
    assert_string_equal(replica.spec.endpoint, "e");
    assert_int_equal(replica.spec.ordinal, 2);
    assert_string_equal(replica.spec.engine.driver, "fake");
    assert_int_equal(replica.spec.engine.parallel, 3);
    assert_string_equal(replica.spec.engine.remote_model, "rm");
    assert_string_equal(replica.spec.engine.options.values[0], "b");
    assert_string_equal(replica.status.base_path, "/v1");
    assert_int_equal(replica.status.pid, 7);
    assert_int_equal(replica.status.slots, 8);
    JSON_AUTO k = parsed("{\"spec\":{\"displayName\":\"d\",\"expiresAt\":\"2026-11-24T09:00:00Z\",\"endpoints\":[\"e\"],\"disabled\":true},\"status\":{\"hash\":\"h\",\"prefix\":\"p\",\"key\":\"never\"}}");
    struct api_key key;
    ASSERT_OK(kind_decode(&kind_api_key, k, arena, &key, &err));
    assert_string_equal(key.spec.display_name, "d");
    assert_string_equal(key.spec.expires_at, "2026-11-24T09:00:00Z");
    assert_int_equal(key.spec.endpoints.count, 1);
    assert_true(key.spec.disabled);
    assert_string_equal(key.status.hash, "h");
    assert_string_equal(key.status.prefix, "p");
    JSON_AUTO e = parsed("{\"spec\":{\"model\":\"m\",\"servedName\":\"s\",\"replicas\":2,\"engine\":{\"contextLength\":512},\"visibility\":\"Tenants\",\"tenants\":[\"t\"],\"startTimeoutSeconds\":9},\"status\":{\"readyReplicas\":1,\"selector\":\"x=y\"}}");
    struct model_endpoint endpoint;
    ASSERT_OK(kind_decode(&kind_model_endpoint, e, arena, &endpoint, &err));
    assert_string_equal(endpoint.spec.model, "m");
    assert_string_equal(endpoint.spec.served_name, "s");
    assert_int_equal(endpoint.spec.replicas, 2);
    assert_int_equal(endpoint.spec.engine.context_length, 512);
    assert_int_equal(endpoint.spec.start_timeout_seconds, 9);
    assert_int_equal(endpoint.status.ready_replicas, 1);
    assert_string_equal(endpoint.status.selector, "x=y");
}

/* ---- what kinds admit and validate ---- */

static void fake_key(void *ctx, char *text, size_t size, char *hash, size_t hash_size)
{
    ++*(int *)ctx;
    snprintf(text, size, "sk-seki-0123456789abcdef");
    snprintf(hash, hash_size, "cafe");
}

/* As the API server does it: defaults, admission, the table, the kind. The errors as lines "path message". */
static const char *judged(const struct kind *k, json_t *obj, const json_t *old_obj)
{
    const struct kind_context c = {.namespace = "p", .arena = arena};
    struct field_errors e = {.arena = arena};
    struct err err = ERR_INIT;
    json_t *once = NULL;
    field_defaults(k->fields, obj);
    if (k->ops && k->ops->admit) {
        if (k->ops->admit(&c, obj, old_obj, &once, &err) < 0)
            return arena_printf(arena, "%s %s", err.field, err.msg);
        json_decref(once);
    }
    field_validate(k->fields, obj, "", &e);
    if (old_obj)
        field_validate_update(k->fields, old_obj, obj, "", &e);
    if (!e.count && k->ops && k->ops->validate)
        k->ops->validate(&c, obj, old_obj, &e);
    const char *text = "";
    for (size_t i = 0; i < e.count; i++)
        text = arena_printf(arena, "%s%s%s %s", text, *text ? "\n" : "", e.items[i].path, e.items[i].message);
    return text;
}

static const char *judged_text(const struct kind *k, const char *text)
{
    JSON_AUTO obj = parsed(text);
    return judged(k, obj, NULL);
}

#define HEX64 "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

static const char *model_with(const char *source, const char *file, const char *digest, const char *capability)
{
    return judged_text(&kind_model, arena_printf(arena, "{\"spec\":{\"source\":\"%s\",\"files\":[{\"name\":\"ok\",\"digest\":\"sha256:" HEX64 "\",\"sizeBytes\":1},{\"name\":\"%s\",\"digest\":\"%s\",\"sizeBytes\":1}],\"capabilities\":[\"Chat\",\"%s\"],\"license\":{\"id\":\"MIT\"}}}",
                                                 source, file, digest, capability));
}

static void models_name_files_inside_their_source(void **state UNUSED)
{
    static const char good[] = "sha256:" HEX64;
    assert_string_equal(model_with("file:///models/x", "a.gguf", good, "Embedding"), "");
    assert_string_equal(model_with("file:///", "dir/a..b/.c", good, "Completion"), "");
    static const char *const outside[] = {"/etc/passwd", "..", "../x", "a/../../x", "a/..", ".", "./a", "a//b", "a/", "/"};
    for (size_t i = 0; i < ARRAY_LEN(outside); i++)
        assert_string_equal(model_with("file:///m", outside[i], good, "Embedding"), arena_printf(arena, "spec.files[1].name Invalid value: \"%s\": must be a path inside the source directory", outside[i]));
    static const char *const sources[] = {"file://x/y", "/models/xyz", "http://host/x", "FILE:///x", "file://host/models"};
    for (size_t i = 0; i < ARRAY_LEN(sources); i++)
        assert_string_equal(model_with(sources[i], "a", good, "Embedding"), arena_printf(arena, "spec.source Invalid value: \"%s\": must be file:/// and an absolute path", sources[i]));
    static const char *const digests[] = {"sha256:" "0123456789ABCDEF0123456789abcdef0123456789abcdef0123456789abcdef", "sha512:" HEX64, "sha256:" "g123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"};
    for (size_t i = 0; i < ARRAY_LEN(digests); i++)
        assert_string_equal(model_with("file:///m", "a", digests[i], "Embedding"), arena_printf(arena, "spec.files[1].digest Invalid value: \"%s\": must be sha256: and 64 lower-case hexadecimal digits", digests[i]));
    assert_string_equal(model_with("file:///m", "a", "sha256:12", "Embedding"), "spec.files[1].digest Invalid value: \"sha256:12\": must have at least 71 bytes");
    assert_string_equal(model_with("file:///m", "ok", good, "Embedding"), "spec.files[1] Duplicate value: {\"name\":\"ok\",\"digest\":\"" "sha256:" HEX64 "\",\"sizeBytes\":1}");
    assert_string_equal(model_with("file:///m", "a", good, "chat"), "spec.capabilities[1] Unsupported value: \"chat\": supported values: \"Completion\", \"Chat\", \"Embedding\", \"Rerank\"");
    assert_string_equal(model_with("file:///m", "a", good, "Chat"), "spec.capabilities[1] Duplicate value: \"Chat\"");
    assert_string_equal(judged_text(&kind_model, "{\"spec\":{\"source\":\"file:///m\",\"files\":[{\"name\":\"a\"}]}}"),
                        "spec.files[0].digest Required value\nspec.files[0].sizeBytes Required value\nspec.license Required value");
}

static void manifests_of_models_do_not_change(void **state UNUSED)
{
    JSON_AUTO old = parsed("{\"spec\":{\"source\":\"file:///m\",\"files\":[{\"name\":\"ok\",\"digest\":\"sha256:" HEX64 "\",\"sizeBytes\":1}],\"license\":{\"id\":\"MIT\"}}}");
    field_defaults(kind_model.fields, old);
    JSON_AUTO obj = json_deep_copy(old);
    json_put_str(obj, "spec.license.id", "Apache-2.0");
    assert_string_equal(judged(&kind_model, obj, old), "");
    json_put_str(obj, "spec.source", "file:///other");
    json_put_int(json_array_get(json_at(obj, "spec.files"), 0), "sizeBytes", 2);
    const char *text = judged(&kind_model, obj, old);
    assert_non_null(strstr(text, "spec.source Invalid value: \"file:///other\": field is immutable"));
    assert_non_null(strstr(text, "spec.files Invalid value: "));
}

#define UNPRINTABLE "Invalid value: a name in requests has printable characters only"

static void endpoints_need_what_their_driver_needs(void **state UNUSED)
{
    static const char *const cases[][2] = {
        {"{\"model\":\"m\"}", ""},
        {"{}", "spec.model Required value: driver llamacpp runs a Model"},
        {"{\"model\":\"\"}", "spec.model Required value: driver llamacpp runs a Model"},
        {"{\"engine\":{\"driver\":\"fake\"}}", ""},
        {"{\"engine\":{\"driver\":\"openai\",\"url\":\"http://192.0.2.7:8000/v1\"}}", ""},
        {"{\"engine\":{\"driver\":\"openai\",\"url\":\"unix:/run/x\"}}", ""},
        {"{\"engine\":{\"driver\":\"openai\"}}", "spec.engine.url Required value: driver openai needs the server's base URL"},
        {"{\"engine\":{\"driver\":\"openai\",\"url\":\"ftp://x\"}}", "spec.engine.url Invalid value: \"ftp://x\": must begin with http://, https:// or unix:/"},
        {"{\"engine\":{\"driver\":\"fake\",\"url\":\"x\"}}", "spec.engine.url Invalid value: \"x\": must begin with http://, https:// or unix:/"},
        {"{\"model\":\"m\",\"visibility\":\"Tenants\"}", "spec.tenants Required value: visibility Tenants needs at least one tenant"},
        {"{\"model\":\"m\",\"visibility\":\"Tenants\",\"tenants\":[\"t\"]}", ""},
        {"{\"model\":\"m\",\"tenants\":[\"t\"]}", "spec.tenants Forbidden: only with visibility Tenants"},
        {"{\"model\":\"m\",\"visibility\":\"Everyone\",\"tenants\":[\"t\"]}", "spec.tenants Forbidden: only with visibility Tenants"},
        {"{\"model\":\"m\",\"replicas\":0}", ""},
        {"{\"model\":\"m\",\"replicas\":-1}", "spec.replicas Invalid value: -1: must be greater than or equal to 0"},
        {"{\"model\":\"m\",\"replicas\":1001}", "spec.replicas Invalid value: 1001: must be less than or equal to 1000"},
        {"{\"model\":\"m\",\"servedName\":\"\"}", "spec.servedName Required value"},
        {"{\"model\":\"m\",\"servedName\":\"org/Model 7B: \u6f22\"}", ""},
        {"{\"model\":\"m\",\"servedName\":\"a\\nb\"}", "spec.servedName " UNPRINTABLE},
        {"{\"model\":\"m\",\"servedName\":\"a\\u007f\"}", "spec.servedName " UNPRINTABLE},
        {"{\"model\":\"m\",\"servedName\":\"a\\u0085b\"}", "spec.servedName " UNPRINTABLE},
        {"{\"model\":\"m\",\"adapters\":[{\"name\":\"ok\",\"model\":\"m\"},{\"name\":\"a\\tb\",\"model\":\"m\"}]}", "spec.adapters[1].name " UNPRINTABLE},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        assert_string_equal(judged_text(&kind_model_endpoint, arena_printf(arena, "{\"spec\":%s}", cases[i][0])), cases[i][1]);
    const char *unknown = judged_text(&kind_model_endpoint, "{\"spec\":{\"engine\":{\"driver\":\"cuda\"}}}");
    assert_true(str_starts(str_of(unknown), STR("spec.engine.driver Unsupported value: \"cuda\": supported values: \"llamacpp\", ")));
    JSON_AUTO obj = parsed("{\"spec\":{\"model\":\"m\"}}");
    assert_string_equal(judged(&kind_model_endpoint, obj, NULL), "");
    equal(json_at(obj, "spec"), "{\"model\":\"m\",\"replicas\":1,\"engine\":{\"driver\":\"llamacpp\",\"contextLength\":2048,\"parallel\":4,\"embeddings\":false,\"threads\":0},\"visibility\":\"Project\",\"startTimeoutSeconds\":300}");
    assert_string_equal(judged_text(&kind_model_replica, "{\"spec\":{\"endpoint\":\"e\"}}"), "spec.model Required value: driver llamacpp runs a Model");
    assert_string_equal(judged_text(&kind_model_replica, "{\"spec\":{\"endpoint\":\"e\",\"model\":\"m\"}}"), "");
}

/* What no request can ask for, none is served under. */
static void served_names_are_as_requests_can_have_them(void **state UNUSED)
{
    static const struct {
        const struct kind *kind;
        const char *rest;
    } kinds[] = {{&kind_model_endpoint, "\"model\":\"m\""}, {&kind_model_route, "\"backends\":[{\"endpoint\":\"e\"}]"}};
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        for (int len = 255; len <= 256; len++) {
            const char *says = judged_text(kinds[i].kind, arena_printf(arena, "{\"spec\":{%s,\"servedName\":\"%0*d\"}}", kinds[i].rest, len, 1));
            assert_true(len == 255 ? !*says : str_starts(str_of(says), STR("spec.servedName Too long: ")));
        }
        JSON_AUTO stored = parsed(arena_printf(arena, "{\"spec\":{%s,\"servedName\":\"a\\nb\"}}", kinds[i].rest));
        field_defaults(kinds[i].kind->fields, stored);
        JSON_AUTO obj = json_deep_copy(stored);
        assert_string_equal(judged(kinds[i].kind, obj, NULL), "spec.servedName " UNPRINTABLE);
        assert_string_equal(judged(kinds[i].kind, obj, stored), ""); /* of an earlier release: its status is still written */
        json_put_str(obj, "spec.servedName", "a\nc");
        assert_string_equal(judged(kinds[i].kind, obj, stored), "spec.servedName " UNPRINTABLE);
    }
}

/* NAME is the project's own, PROJECT/NAME what another shares. */
static void keys_name_endpoints(void **state UNUSED)
{
    static const char *const good[] = {"writer", "shop/writer", "shop/a.b-c"}, *const bad[] = {"/writer", "shop/", "shop/a/b", "/"};
    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        JSON_AUTO obj = parsed(arena_printf(arena, "{\"spec\":{\"endpoints\":[\"%s\"]}}", good[i]));
        struct field_errors e = {.arena = arena};
        kind_api_key.ops->validate(&(struct kind_context){.arena = arena}, obj, NULL, &e);
        assert_int_equal(e.count, 0);
    }
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        JSON_AUTO obj = parsed(arena_printf(arena, "{\"spec\":{\"endpoints\":[\"a\",\"%s\"]}}", bad[i]));
        struct field_errors e = {.arena = arena};
        kind_api_key.ops->validate(&(struct kind_context){.arena = arena}, obj, NULL, &e);
        assert_int_equal(e.count, 1);
        assert_string_equal(e.items[0].path, "spec.endpoints[1]");
        e.count = 0;
        kind_api_key.ops->validate(&(struct kind_context){.arena = arena}, obj, obj, &e); /* it meant nothing before, either */
        assert_int_equal(e.count, 0);
    }
}

static void keys_are_made_once(void **state UNUSED)
{
    int made = 0;
    const struct kind_services services = {.ctx = &made, .make_key = fake_key};
    const struct kind_context c = {.arena = arena, .services = &services}, without = {.arena = arena};
    struct err err = ERR_INIT;
    JSON_AUTO once = NULL;
    JSON_AUTO obj = obj_new(&kind_api_key, "p", "k");
    json_put_str(obj, "status.hash", "of the client");
    ASSERT_OK(kind_api_key.ops->admit(&c, obj, NULL, &once, &err));
    equal(json_at(obj, "status"), "{\"hash\":\"cafe\",\"prefix\":\"sk-seki-0123\"}");
    equal(once, "{\"status\":{\"key\":\"sk-seki-0123456789abcdef\"}}");
    assert_int_equal(made, 1);
    /* An update makes no other. */
    JSON_AUTO changed = json_deep_copy(obj);
    json_t *none = NULL;
    ASSERT_OK(kind_api_key.ops->admit(&c, changed, obj, &none, &err));
    assert_null(none);
    assert_true(json_equal(changed, obj));
    assert_int_equal(made, 1);
    ASSERT_ERR(kind_api_key.ops->admit(&without, obj, NULL, &none, &err), ERR_UNAVAILABLE);
    /* The client has no say in status, and the secret is nowhere in logs. */
    field_keep_read_only(kind_api_key.fields, NULL, obj);
    assert_null(json_at(obj, "status"));
    JSON_AUTO answer = parsed("{\"spec\":{},\"status\":{\"prefix\":\"p\",\"key\":\"s\"}}");
    field_redact(kind_api_key.fields, answer);
    equal(answer, "{\"spec\":{},\"status\":{\"prefix\":\"p\"}}");
}

static void secrets_take_text(void **state UNUSED)
{
    JSON_AUTO obj = parsed("{\"stringData\":{\"a\":\"hi\",\"b\":\"\",\"c\":\"\xE6\xBC\xA2\"},\"data\":{\"a\":\"b2xk\",\"z\":\"eg==\"}}");
    assert_string_equal(judged(&kind_secret, obj, NULL), "");
    equal(obj, "{\"data\":{\"a\":\"aGk=\",\"b\":\"\",\"c\":\"5ryi\",\"z\":\"eg==\"},\"type\":\"Opaque\"}");
    JSON_AUTO again = json_deep_copy(obj);
    assert_string_equal(judged(&kind_secret, again, obj), "");
    assert_true(json_equal(again, obj));
    JSON_AUTO only_text = parsed("{\"stringData\":{\"a\":\"hi\"},\"data\":null}");
    assert_string_equal(judged(&kind_secret, only_text, NULL), "");
    equal(json_at(only_text, "data"), "{\"a\":\"aGk=\"}");
    /* What is wrong is said, not made into something else. */
    assert_string_equal(judged_text(&kind_secret, "{\"stringData\":{\"a\":1}}"), "stringData[a] Invalid value: \"integer\": must be of type string");
    assert_string_equal(judged_text(&kind_secret, "{\"stringData\":[1]}"), "stringData Invalid value: \"array\": must be of type object");
    assert_string_equal(judged_text(&kind_secret, "{\"stringData\":{\"a\":\"x\"},\"data\":7}"), "data Invalid value: \"integer\": must be of type object");
    assert_string_equal(judged_text(&kind_secret, "{\"data\":{\"a\":\"no base64\"}}"), "data[a] Invalid value: must be base64");
}

static void immutable_values_stay(void **state UNUSED)
{
    JSON_AUTO secret = parsed("{\"data\":{\"a\":\"aGk=\"},\"type\":\"Opaque\",\"immutable\":true}");
    JSON_AUTO same = json_deep_copy(secret);
    assert_string_equal(judged(&kind_secret, same, secret), "");
    json_put_str(same, "data.a", "eW8=");
    json_remove(same, "immutable");
    assert_string_equal(judged(&kind_secret, same, secret), "immutable Forbidden: field is immutable when `immutable` is set\ndata Forbidden: field is immutable when `immutable` is set");
    JSON_AUTO map = parsed("{\"data\":{\"a\":\"x\"},\"binaryData\":{\"b\":\"aGk=\"},\"immutable\":true}");
    JSON_AUTO changed = json_deep_copy(map);
    json_put_str(changed, "binaryData.b", "eW8=");
    assert_string_equal(judged(&kind_config_map, changed, map), "binaryData Forbidden: field is immutable when `immutable` is set");
    json_remove(changed, "binaryData");
    assert_string_equal(judged(&kind_config_map, changed, map), "binaryData Forbidden: field is immutable when `immutable` is set");
    /* Without the flag all may change, and the flag may be set. */
    json_remove(map, "immutable");
    assert_string_equal(judged(&kind_config_map, changed, map), "");
    JSON_AUTO typed = parsed("{\"data\":{},\"type\":\"Opaque\"}");
    JSON_AUTO retyped = parsed("{\"data\":{},\"type\":\"other\"}");
    assert_string_equal(judged(&kind_secret, retyped, typed), "type Invalid value: \"other\": field is immutable");
}

static void namespaces_keep_their_tenant(void **state UNUSED)
{
    JSON_AUTO obj = obj_new(&kind_namespace, NULL, "p");
    assert_string_equal(judged(&kind_namespace, obj, NULL), "");
    assert_string_equal(json_str(obj, "status.phase"), "Active");
    assert_true(obj_has_finalizer(obj, NAMESPACE_FINALIZER));
    /* Once more, and with another finalizer: there is one of ours still. */
    JSON_AUTO again = json_deep_copy(obj);
    json_array_append_new(json_at(again, "metadata.finalizers"), json_string("x"));
    assert_string_equal(judged(&kind_namespace, again, obj), "");
    assert_int_equal(json_array_size(json_at(again, "metadata.finalizers")), 2);
    json_object_del(json_at(again, "metadata"), "finalizers");
    assert_string_equal(judged(&kind_namespace, again, obj), "");
    assert_true(obj_has_finalizer(again, NAMESPACE_FINALIZER));
    /* One that is going may lose it. */
    JSON_AUTO going = json_deep_copy(obj);
    json_put_str(going, "metadata.deletionTimestamp", "2026-11-24T09:00:00Z");
    JSON_AUTO freed = json_deep_copy(going);
    json_object_del(json_at(freed, "metadata"), "finalizers");
    assert_string_equal(judged(&kind_namespace, freed, going), "");
    assert_false(obj_has_finalizer(freed, NAMESPACE_FINALIZER));
    /* A tenant is given at creation, or never; then it is neither changed nor taken away. */
    json_object_set_new(json_at(again, "metadata"), "labels", json_pack("{s:s}", LABEL_TENANT, "t1"));
    assert_string_equal(judged(&kind_namespace, again, obj), "metadata.labels[" LABEL_TENANT "] Invalid value: \"t1\": the tenant of a namespace is set at its creation and cannot be changed");
    JSON_AUTO moved = json_deep_copy(again);
    json_object_set_new(json_at(moved, "metadata.labels"), LABEL_TENANT, json_string("t2"));
    assert_string_equal(judged(&kind_namespace, moved, again), "metadata.labels[" LABEL_TENANT "] Invalid value: \"t2\": the tenant of a namespace is set at its creation and cannot be changed");
    json_object_del(json_at(moved, "metadata"), "labels");
    assert_string_equal(judged(&kind_namespace, moved, again), "metadata.labels[" LABEL_TENANT "] Invalid value: \"\": the tenant of a namespace is set at its creation and cannot be changed");
}

static void bindings_keep_their_role(void **state UNUSED)
{
    JSON_AUTO old = parsed("{\"roleRef\":{\"kind\":\"Role\",\"name\":\"r\"},\"subjects\":[{\"kind\":\"User\",\"name\":\"alice\"}]}");
    JSON_AUTO obj = json_deep_copy(old);
    json_put_str(obj, "roleRef.name", "admin");
    assert_non_null(strstr(judged(&kind_role_binding, obj, old), "roleRef Invalid value: "));
    assert_string_equal(judged_text(&kind_role_binding, "{\"subjects\":[{\"kind\":\"Robot\"}]}"),
                        "subjects[0].kind Unsupported value: \"Robot\": supported values: \"User\", \"Group\", \"ServiceAccount\"\nsubjects[0].name Required value\nroleRef Required value");
}

/* ---- metadata and conditions ---- */

static void metadata_is_read(void **state UNUSED)
{
    JSON_AUTO obj = parsed("{\"metadata\":{\"name\":\"n\",\"namespace\":\"p\",\"uid\":\"u\",\"generation\":3,\"labels\":{\"a.b/c\":\"l\"},\"annotations\":{\"x\":\"y\"},\"finalizers\":[1,\"f\"]}}");
    assert_string_equal(obj_name(obj), "n");
    assert_string_equal(obj_namespace(obj), "p");
    assert_string_equal(obj_uid(obj), "u");
    assert_int_equal(obj_generation(obj), 3);
    assert_string_equal(obj_label(obj, "a.b/c"), "l");
    assert_null(obj_label(obj, "a"));
    assert_string_equal(obj_annotation(obj, "x"), "y");
    assert_false(obj_deleting(obj));
    assert_true(obj_has_finalizer(obj, "f"));
    assert_false(obj_has_finalizer(obj, "g"));
    assert_false(obj_add_finalizer(obj, "f"));
    assert_true(obj_add_finalizer(obj, "g") && obj_has_finalizer(obj, "g"));
    assert_true(obj_drop_finalizer(obj, "f") && !obj_has_finalizer(obj, "f"));
    assert_false(obj_drop_finalizer(obj, "f"));
    assert_int_equal(json_array_size(json_at(obj, "metadata.finalizers")), 2);
    JSON_AUTO bare = parsed("{\"metadata\":{\"name\":\"n\"}}");
    JSON_AUTO none = json_object();
    assert_false(obj_drop_finalizer(bare, "f") || obj_drop_finalizer(none, "f") ||
                 obj_add_finalizer(none, "f"));
    assert_true(obj_add_finalizer(bare, "f") && obj_has_finalizer(bare, "f"));
    static const char *const odd[] = {"{}", "[]", "{\"metadata\":7}", "{\"metadata\":{\"name\":1,\"namespace\":[],\"labels\":7,\"annotations\":[],\"finalizers\":{},\"generation\":\"3\"}}"};
    for (size_t i = 0; i < ARRAY_LEN(odd); i++) {
        JSON_AUTO o = parsed(odd[i]);
        assert_null(obj_name(o));
        assert_string_equal(obj_namespace(o), "");
        assert_null(obj_uid(o));
        assert_null(obj_label(o, "a"));
        assert_null(obj_annotation(o, "a"));
        assert_int_equal(obj_generation(o), 0);
        assert_false(obj_deleting(o));
        assert_false(obj_has_finalizer(o, "f"));
    }
}

static void objects_are_made_and_owned(void **state UNUSED)
{
    JSON_AUTO owner = obj_new(&kind_model_endpoint, "p", "e");
    equal(owner, "{\"apiVersion\":\"seki.cloud/v1alpha1\",\"kind\":\"ModelEndpoint\",\"metadata\":{\"name\":\"e\",\"namespace\":\"p\"}}");
    JSON_AUTO wide = obj_new(&kind_cluster_role, "ignored", "r");
    equal(wide, "{\"apiVersion\":\"rbac.authorization.k8s.io/v1\",\"kind\":\"ClusterRole\",\"metadata\":{\"name\":\"r\"}}");
    json_put_str(owner, "metadata.uid", "uid-1");
    JSON_AUTO obj = obj_new(&kind_model_replica, "p", "e-0");
    assert_false(obj_owned_by(obj, "uid-1"));
    obj_add_owner(obj, owner);
    equal(json_at(obj, "metadata.ownerReferences"), "[{\"apiVersion\":\"seki.cloud/v1alpha1\",\"kind\":\"ModelEndpoint\",\"name\":\"e\",\"uid\":\"uid-1\",\"controller\":true,\"blockOwnerDeletion\":true}]");
    assert_true(obj_owned_by(obj, "uid-1"));
    assert_false(obj_owned_by(obj, "uid-2"));
    assert_false(obj_owned_by(obj, ""));
}

static void conditions_change_when_they_change(void **state UNUSED)
{
    JSON_AUTO obj = obj_new(&kind_model, "p", "m");
    int64_t now = 1764000000000;
    char first[CLOCK_TEXT_MAX], later[CLOCK_TEXT_MAX];
    clock_format(now, first);
    clock_format(now + 60000, later);
    assert_null(obj_condition(obj, "Ready"));
    assert_null(obj_condition_reason(obj, "Ready"));
    assert_string_equal(obj_condition_message(obj, "Ready"), "");
    assert_true(obj_set_condition(obj, "Ready", "False", "Starting", "waits", now));
    assert_string_equal(obj_condition(obj, "Ready"), "False");
    assert_string_equal(obj_condition_reason(obj, "Ready"), "Starting");
    const json_t *c = json_array_get(json_at(obj, "status.conditions"), 0);
    assert_string_equal(json_str(c, "lastTransitionTime"), first);
    /* The same again: nothing. Another message: a change, but no transition. Another status: both. */
    assert_false(obj_set_condition(obj, "Ready", "False", "Starting", "waits", now + 60000));
    assert_true(obj_set_condition(obj, "Ready", "False", "Starting", "still waits", now + 60000));
    assert_string_equal(json_str(c, "lastTransitionTime"), first);
    assert_true(obj_set_condition(obj, "Ready", "True", "Started", "", now + 60000));
    assert_string_equal(json_str(c, "lastTransitionTime"), later);
    assert_true(obj_set_condition(obj, "Verified", "Unknown", "Waiting", "", now));
    assert_int_equal(json_array_size(json_at(obj, "status.conditions")), 2);
    assert_string_equal(obj_condition(obj, "Ready"), "True");
    /* What was made passes the table. */
    struct field_errors e = {.arena = arena};
    static const struct field row[] = {{.name = "conditions", .type = FIELD_LIST, .elem = FIELD_OBJECT, .sub = condition_fields, .list_type = LIST_MAP, .list_key = "type"}, {0}};
    field_validate(row, json_at(obj, "status"), "", &e);
    assert_int_equal(e.count, 0);
}

static void messages_of_conditions_need_not_be_utf8(void **state UNUSED)
{
    JSON_AUTO obj = obj_new(&kind_model, "p", "m");
    assert_true(obj_set_condition(obj, "Ready", "False", "Failed", "engine said \xFF\xC3", 0));
    const char *message = json_str(json_array_get(json_at(obj, "status.conditions"), 0), "message");
    assert_non_null(message);
    assert_int_equal(strncmp(message, "engine said ", 12), 0);
    /* Said again, it is no change: a controller would write for ever. */
    assert_false(obj_set_condition(obj, "Ready", "False", "Failed", "engine said \xFF\xC3", 0));
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(our_names_are_none_of_kubernetes),
        TEST(borrowed_kinds_are_named_as_there),
        TEST(names_are_well_formed_and_unique),
        TEST(paths_of_kinds),
        TEST(tables_are_sane),
        TEST(views_lose_nothing),
        TEST(documents_with_every_member_pass),
        TEST(structs_hold_every_member),
        TEST(members_arrive_where_their_names_say),
        TEST(models_name_files_inside_their_source),
        TEST(manifests_of_models_do_not_change),
        TEST(endpoints_need_what_their_driver_needs),
        TEST(served_names_are_as_requests_can_have_them),
        TEST(keys_name_endpoints),
        TEST(keys_are_made_once),
        TEST(secrets_take_text),
        TEST(immutable_values_stay),
        TEST(namespaces_keep_their_tenant),
        TEST(bindings_keep_their_role),
        TEST(metadata_is_read),
        TEST(objects_are_made_and_owned),
        TEST(conditions_change_when_they_change),
        TEST(messages_of_conditions_need_not_be_utf8),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
