/* NodePool: machines of one shape that belong to a Cluster. Its controller is src/kaas/node_pool.c. */
#include "kinds/kaas.h"

#define SPEC(member) offsetof(struct node_pool, spec.member) - offsetof(struct node_pool, spec)
#define MACHINE(member) offsetof(struct node_pool, spec.machine.member) - offsetof(struct node_pool, spec.machine)
#define KUBELET(member) offsetof(struct node_pool, spec.kubelet.member) - offsetof(struct node_pool, spec.kubelet)
#define LABELS_MAX 32

static const struct field machine_fields[] = {
    {.name = "cpus", .type = FIELD_INT, .offset = MACHINE(cpus), .min = 1, .max = 1024, .def = "1", .help = "processors that its pods share; what the machine below has is the most that there can be"},
    {.name = "memoryMiB", .type = FIELD_INT, .offset = MACHINE(memory_mib), .min = 512, .max = 16777216, .def = "2048", .help = "memory of the node, its own programs included"},
    {.name = "diskGiB", .type = FIELD_INT, .offset = MACHINE(disk_gib), .min = 1, .max = 16384, .def = "4", .help = "what the node, its images and its pods may write, volumes not counted; it may grow later, not shrink"},
    {0},
};
static const struct field taint_fields[] = {
    {.name = "key", .type = FIELD_STRING, .flags = FIELD_REQUIRED, .offset = offsetof(struct node_taint, key), .min = 1, .max = 316, .help = "as a label's key"},
    {.name = "value", .type = FIELD_STRING, .offset = offsetof(struct node_taint, value), .max = 63, .help = "as a label's value"},
    {.name = "effect", .type = FIELD_ENUM, .flags = FIELD_REQUIRED, .offset = offsetof(struct node_taint, effect), .values = "NoSchedule|PreferNoSchedule|NoExecute", .help = "what happens to pods that do not tolerate it"},
    {0},
};
static const struct field kubelet_fields[] = {
    {.name = "maxPods", .type = FIELD_INT, .offset = KUBELET(max_pods), .min = 1, .max = 250, .def = "110", .help = "pods of one node at most"},
    {.name = "podPidsLimit", .type = FIELD_INT, .offset = KUBELET(pod_pids), .min = 64, .max = 1048576, .def = "4096", .help = "processes and threads of one pod at most"},
    {0},
};
static const struct field spec_fields[] = {
    {.name = "clusterName", .type = FIELD_STRING, .flags = FIELD_REQUIRED | FIELD_IMMUTABLE | FIELD_DNS_LABEL, .offset = SPEC(cluster_name), .min = 1, .max = 63, .help = "the Cluster of this project that its nodes join"},
    {.name = "count", .type = FIELD_INT, .offset = SPEC(count), .min = 0, .max = NODE_POOL_COUNT_MAX, .def = "1", .help = "how many nodes there are"},
    {.name = "machine", .type = FIELD_OBJECT, .offset = SPEC(machine), .sub = machine_fields, .sub_size = sizeof(((struct node_pool *)0)->spec.machine), .def = "{}", .help = "the shape of one node"},
    {.name = "labels", .type = FIELD_MAP, .offset = SPEC(labels), .max = LABELS_MAX, .help = "labels that its nodes are registered with"},
    {.name = "taints", .type = FIELD_LIST, .elem = FIELD_OBJECT, .sub = taint_fields, .sub_size = sizeof(struct node_taint), .offset = SPEC(taints), .max = 16, .help = "taints that its nodes are registered with"},
    {.name = "kubelet", .type = FIELD_OBJECT, .offset = SPEC(kubelet), .sub = kubelet_fields, .sub_size = sizeof(((struct node_pool *)0)->spec.kubelet), .def = "{}", .help = "settings of the nodes' kubelets"},
    {.name = "drainSeconds", .type = FIELD_INT, .offset = SPEC(drain_seconds), .max = 3600, .def = "300", .help = "how long a node that is not wanted any more waits for its pods to be evicted, within their disruption budgets; 0: not at all"},
    {0},
};
static const struct field node_fields[] = {
    {.name = "name", .type = FIELD_STRING, .flags = FIELD_REQUIRED, .offset = FIELD_NO_MEMBER, .help = "of the node in its cluster"},
    {.name = "address", .type = FIELD_STRING, .offset = FIELD_NO_MEMBER, .help = "in the cluster's network of nodes"},
    {.name = "podCIDR", .type = FIELD_STRING, .offset = FIELD_NO_MEMBER, .help = "addresses of its pods"},
    {.name = "ready", .type = FIELD_BOOL, .offset = FIELD_NO_MEMBER, .help = "whether its kubelet says so"},
    {.name = "message", .type = FIELD_STRING, .offset = FIELD_NO_MEMBER, .help = "what it waits for"},
    {.name = "startedAt", .type = FIELD_TIME, .flags = FIELD_MICRO, .offset = FIELD_NO_MEMBER, .help = "when its making began"},
    {.name = "deadline", .type = FIELD_TIME, .flags = FIELD_MICRO, .offset = FIELD_NO_MEMBER, .help = "until when this attempt may take"},
    {.name = "attempt", .type = FIELD_INT, .offset = FIELD_NO_MEMBER, .help = "the first is 1"},
    {.name = "milliseconds", .type = FIELD_INT, .offset = FIELD_NO_MEMBER, .help = "from the beginning until it was ready for the first time"},
    {0},
};
static const struct field status_fields[] = {
    {.name = "nodes", .type = FIELD_LIST, .elem = FIELD_OBJECT, .sub = node_fields, .list_type = LIST_MAP, .list_key = "name", .offset = FIELD_NO_MEMBER, .help = "its nodes, one by one"},
    {.name = "count", .type = FIELD_INT, .offset = FIELD_NO_MEMBER, .help = "nodes that there are"},
    {.name = "readyCount", .type = FIELD_INT, .offset = FIELD_NO_MEMBER, .help = "nodes that are ready"},
    {.name = "observedGeneration", .type = FIELD_INT, .offset = FIELD_NO_MEMBER, .help = "generation that the controller has acted on"},
    {.name = "conditions", .type = FIELD_LIST, .elem = FIELD_OBJECT, .sub = condition_fields, .list_type = LIST_MAP, .list_key = "type", .offset = FIELD_NO_MEMBER, .help = "NetworkReady, Ready"},
    {0},
};
static const struct field fields[] = {
    {.name = "spec", .type = FIELD_OBJECT, .offset = offsetof(struct node_pool, spec), .sub = spec_fields, .flags = FIELD_REQUIRED, .help = "what is wanted"},
    {.name = "status", .type = FIELD_OBJECT, .offset = FIELD_NO_MEMBER, .sub = status_fields, .help = "what is"},
    {0},
};
static const struct kind_column columns[] = {
    {"CLUSTER", "string", "", "spec.clusterName", 0, "the Cluster that its nodes join"},
    {"COUNT", "integer", "", "spec.count", 0, "how many nodes are wanted"},
    {"NODES READY", "integer", "", "status.readyCount", 0, "how many are ready"},
    {"READY", "string", "", "condition:Ready", 0, "whether all are ready"},
    {"STATUS", "string", "", "reason:Ready", 0, "why it is ready or not"},
    {"CPUS", "integer", "", "spec.machine.cpus", 1, "processors of a node"},
    {"MEMORY", "integer", "", "spec.machine.memoryMiB", 1, "memory of a node in MiB"},
    {"DISK", "integer", "", "spec.machine.diskGiB", 1, "disk of a node in GiB"},
    {0},
};

/* ---- ops ---- */

static bool label_text(struct str s, bool may_be_empty)
{
    if (!s.len)
        return may_be_empty;
    if (s.len > 63)
        return false;
    for (size_t i = 0; i < s.len; i++) {
        char c = s.ptr[i];
        bool alnum = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        if (!alnum && (i == 0 || i == s.len - 1 || (c != '-' && c != '_' && c != '.')))
            return false;
    }
    return true;
}

static bool label_key(const char *key)
{
    struct str rest = str_of(key), prefix;
    if (!strchr(key, '/'))
        return label_text(rest, false);
    return str_cut(&rest, '/', &prefix) && field_dns_name(prefix) && label_text(rest, false);
}

/* What a kubelet may say about itself: of the names that upstream keeps, few. */
static bool kept_key(const char *key)
{
    struct str rest = str_of(key), prefix;
    if (!strchr(key, '/') || !str_cut(&rest, '/', &prefix))
        return false;
    if (str_eqc(prefix, "node.kubernetes.io") || str_ends(prefix, STR(".node.kubernetes.io")) || str_eqc(prefix, "kubelet.kubernetes.io") || str_ends(prefix, STR(".kubelet.kubernetes.io")))
        return false;
    return str_eqc(prefix, "kubernetes.io") || str_ends(prefix, STR(".kubernetes.io")) || str_eqc(prefix, "k8s.io") || str_ends(prefix, STR(".k8s.io"));
}

static void validate(const struct kind_context *c UNUSED, const json_t *obj, const json_t *old_obj, struct field_errors *errors)
{
    const char *key;
    json_t *value, *taint;
    size_t i;
    if (obj_name(obj) && strlen(obj_name(obj)) > NODE_POOL_NAME_MAX)
        field_errors_add(errors, "metadata.name", "FieldValueInvalid", "Invalid value: expected %d characters at most: names of nodes begin with it", NODE_POOL_NAME_MAX);
    if (old_obj && json_int(obj, "spec.machine.diskGiB", 0) < json_int(old_obj, "spec.machine.diskGiB", 0))
        field_errors_add(errors, "spec.machine.diskGiB", "FieldValueInvalid", "Invalid value: expected %lld or more: a disk does not shrink, make another pool", (long long)json_int(old_obj, "spec.machine.diskGiB", 0));
    json_object_foreach (json_at(obj, "spec.labels"), key, value) {
        const char *text = json_string_value(value);
        char path[400];
        snprintf(path, sizeof(path), "spec.labels[%.320s]", key);
        if (!label_key(key))
            field_errors_add(errors, path, "FieldValueInvalid", "Invalid value: expected a label's key");
        else if (kept_key(key))
            field_errors_add(errors, path, "FieldValueForbidden", "Forbidden: a node may not give itself this label");
        else if (text && !label_text(str_of(text), true))
            field_errors_add(errors, path, "FieldValueInvalid", "Invalid value: \"%.64s\": expected a label's value", text);
    }
    json_array_foreach (json_at(obj, "spec.taints"), i, taint) {
        const char *name = json_str_or(taint, "key", "x"), *text = json_str_or(taint, "value", "");
        char path[64];
        snprintf(path, sizeof(path), "spec.taints[%zu].%s", i, label_key(name) ? "value" : "key");
        if (!label_key(name) || !label_text(str_of(text), true))
            field_errors_add(errors, path, "FieldValueInvalid", "Invalid value: expected what a label may have there");
    }
}

static int admit(const struct kind_context *c UNUSED, json_t *obj, const json_t *old_obj, json_t **ret_once UNUSED, struct err *err UNUSED)
{
    if (!old_obj)
        obj_add_finalizer(obj, NODE_POOL_FINALIZER);
    return 0;
}
static const struct kind_ops ops = {.validate = validate, .admit = admit};

const struct kind kind_node_pool = {
    .group = SEKI_GROUP, .version = SEKI_VERSION, .name = "NodePool", .plural = "nodepools", .singular = "nodepool",
    .categories = "seki", .namespaced = true, .has_status = true, .label_names = true,
    .readers = ROLE_VIEW, .writers = ROLE_EDIT, .fields = fields, .size = sizeof(struct node_pool), .columns = columns, .ops = &ops,
    .help = "NodePool is a number of nodes of one shape that belong to a Cluster.",
};
