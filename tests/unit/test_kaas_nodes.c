/* Nodes: networks, places, what a gate dials, and its relay. */
#include "fake_api.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "kaas/addons.h"
#include "kaas/node.h"
#include "kaas/storage.h"
#include "node/node_gate.h"
#include "node/node_init.h"

static struct cluster cluster_with(const char *pods, const char *services, const char *nodes)
{
    return (struct cluster){.spec = {.version = "1.37", .control_plane = {1, "Small"}, .network = {.pod_cidr = pods, .service_cidr = services, .service_domain = "cluster.local", .node_cidr = nodes}}};
}

/* With ' for ". */
static json_t *json_of(const char *quoted)
{
    CLEANUP(mem_freep) char *text = xstrdup(quoted);
    json_t *doc = NULL;
    for (char *p = text; *p; p++)
        *p = *p == '\'' ? '"' : *p;
    assert_int_equal(json_parse(str_of(text), 65536, &doc, NULL), 0);
    return doc;
}

static void test_the_network_of_nodes(void **state UNUSED)
{
    static const struct {
        const char *pods, *services, *nodes, *text, *gate;
        uint32_t count;
    } cases[] = {
        {"10.244.0.0/16", "10.96.0.0/16", NULL, "10.201.0.0/24", "10.201.0.1", 64},
        {"10.200.0.0/15", "10.96.0.0/16", NULL, "172.29.201.0/24", "172.29.201.1", 64},
        {"10.0.0.0/8", "172.16.0.0/12", NULL, "192.168.201.0/24", "192.168.201.1", 64},
        {"10.244.0.0/16", "10.96.0.0/16", "10.9.0.0/27", "10.9.0.0/27", "10.9.0.1", 21},
        {"10.244.0.0/22", "10.96.0.0/16", NULL, "10.201.0.0/24", "10.201.0.1", 4},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct cluster c = cluster_with(cases[i].pods, cases[i].services, cases[i].nodes);
        struct node_network w;
        assert_int_equal(node_network_of(&c, &w, NULL), 0);
        assert_string_equal(w.nodes_text, cases[i].text);
        assert_string_equal(w.gate, cases[i].gate);
        assert_int_equal(w.count, cases[i].count);
    }
}

static void test_objects_of_names_follow_from_the_networks(void **state UNUSED)
{
    struct cluster c = cluster_with("10.244.0.0/16", "172.20.0.0/28", NULL), other = cluster_with("10.244.0.0/16", "172.20.0.0/28", NULL);
    struct addon list[ADDONS_MAX];
    char digest[17], again[17];
    size_t n = 0;
    bool service = false, corefile = false, marked = false;
    other.spec.network.service_domain = "corp.example";
    assert_int_equal(addons_render(&other, list, &n, digest, NULL), 0);
    for (size_t i = 0; i < n; i++) {
        const char *kind = json_str(list[i].obj, "kind"), *text = json_str_or(list[i].obj, "data.Corefile", "");
        service |= !strcmp(kind, "Service") && !strcmp(json_str_or(list[i].obj, "spec.clusterIP", ""), "172.20.0.10") && !list[i].yields;
        corefile |= strstr(text, "kubernetes corp.example in-addr.arpa") != NULL && list[i].yields;
        marked |= obj_annotation(list[i].obj, "seki.cloud/applied") && !strcmp(obj_annotation(list[i].obj, "seki.cloud/applied"), digest);
        assert_true(json_str(list[i].obj, "metadata.name") != NULL && !strchr(text, '$'));
    }
    assert_true(service && corefile && marked);
    addons_free(list, n);
    assert_int_equal(addons_render(&c, list, &n, again, NULL), 0);
    addons_free(list, n);
    assert_string_not_equal(digest, again);
}

static void test_names_say_which_nodes_they_wait_for(void **state UNUSED)
{
    static const struct {
        const char *pools, *waits;
        int64_t wanted, ready;
    } cases[] = {
        {"[]", "make a NodePool with spec.clusterName one", 0, 0},
        {"[{'metadata':{'name':'w'},'spec':{'clusterName':'two','count':2}}]",
         "make a NodePool with spec.clusterName one", 0, 0},
        {"[{'metadata':{'name':'w','deletionTimestamp':'2026-01-01T00:00:00Z'},'spec':{'"
         "clusterName':'one','count':2}}]",
         "make a NodePool with spec.clusterName one", 0, 0},
        {"[{'metadata':{'name':'w'},'spec':{'clusterName':'one','count':0}}]",
         "NodePool w wants none: set its spec.count", 0, 0},
        {"[{'metadata':{'name':'w'},'spec':{'clusterName':'one','count':2}}]",
         "NodePool w has none of 2 ready", 2, 0},
        {"[{'metadata':{'name':'w'},'spec':{'clusterName':'one','count':1},'status':{'conditions':["
         "{'type':'Ready','status':'False','message':'w-0: no room'}]}}]",
         "NodePool w: w-0: no room", 1, 0},
        {"[{'metadata':{'name':'v'},'spec':{'clusterName':'one','count':0}},{'metadata':{'name':'w'"
         "},'spec':{'clusterName':'one','count':2},'status':{'readyCount':1}}]",
         "", 2, 1},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        CLEANUP(sbuf_deinit) struct sbuf waits = {0};
        JSON_AUTO pools = json_of(cases[i].pools);
        int64_t ready = -1;
        sbuf_init(&waits, ADDONS_TEXT_MAX);
        assert_int_equal(addons_nodes(pools, "one", &ready, &waits), cases[i].wanted);
        assert_int_equal(ready, cases[i].ready);
        assert_string_equal(waits.len ? waits.ptr : "", cases[i].waits);
    }
}

static void test_names_say_what_their_pods_wait_for(void **state UNUSED)
{
#define READY                                                                                      \
    "{'metadata':{'name':'a'},'status':{'conditions':[{'type':'Ready','status':'True'}]}},"
#define GOING                                                                                      \
    "{'metadata':{'name':'b','deletionTimestamp':'2026-01-01T00:00:00Z'},'status':{'phase':'"      \
    "Pending'}},"
    static const struct {
        const char *deployment, *pods, *waits;
    } cases[] = {
        {"{}", "[]", "none of its pods has been made yet"},
        {"{'status':{'conditions':[{'type':'ReplicaFailure','status':'True','reason':'FailedCreate'"
         ",'message':'exceeded quota'}]}}",
         "[]", "no pod is made: FailedCreate: exceeded quota"},
        {"{}", "[" READY GOING "{'metadata':{'name':'c'},'status':{'phase':'Pending'}}]",
         "pod c: Pending"},
        {"{}",
         "[{'metadata':{'name':'c'},'status':{'phase':'Pending','conditions':[{'type':'"
         "PodScheduled','status':'False','reason':'Unschedulable','message':'0/1 nodes are "
         "available'}]}}]",
         "pod c: Unschedulable: 0/1 nodes are available"},
        {"{}",
         "[{'metadata':{'name':'c'},'status':{'phase':'Failed','reason':'Evicted','message':'low "
         "on memory'}}]",
         "pod c: Evicted: low on memory"},
        {"{}",
         "[{'metadata':{'name':'c'},'status':{'phase':'Pending','containerStatuses':[{'name':'"
         "coredns','state':{'waiting':{'reason':'ErrImageNeverPull'}}}]}}]",
         "pod c: ErrImageNeverPull"},
        {"{}",
         "[{'metadata':{'name':'c'},'status':{'containerStatuses':[{'name':'coredns','state':{'"
         "waiting':{'reason':'CrashLoopBackOff','message':'back-off 10s'}},"
         "'lastState':{'terminated':{'reason':'Error','exitCode':1,'message':'Corefile:3'}}}]}}]",
         "pod c: CrashLoopBackOff: back-off 10s; it ended with 1 (Error: Corefile:3)"},
        {"{}",
         "[{'metadata':{'name':'c'},'status':{'containerStatuses':[{'name':'coredns','state':{'"
         "terminated':{'reason':'OOMKilled','exitCode':137}}}]}}]",
         "pod c: it ended with 137 (OOMKilled)"},
        {"{}",
         "[{'metadata':{'name':'c'},'status':{'containerStatuses':[{'name':'coredns','state':{'"
         "running':{}}}],"
         "'conditions':[{'type':'Ready','status':'False','reason':'ContainersNotReady','message':'"
         "containers with unready status: [coredns]'}]}}]",
         "pod c: ContainersNotReady: containers with unready status: [coredns]"},
        {"{}", "[" READY "7]", ""},
        {"{}", "[7,{}]", "pod ?: its status says nothing yet"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        CLEANUP(sbuf_deinit) struct sbuf waits = {0};
        JSON_AUTO deployment = json_of(cases[i].deployment);
        JSON_AUTO pods = json_of(cases[i].pods);
        sbuf_init(&waits, ADDONS_TEXT_MAX);
        addons_pods(deployment, pods, &waits);
        assert_string_equal(waits.len ? waits.ptr : "", cases[i].waits);
    }
    /* The pods are the tenant's to write: what is too long is cut, between characters. */
    CLEANUP(sbuf_deinit) struct sbuf waits = {0};
    char text[3 * 1000 + 1] = "";
    for (size_t i = 0; i < 1000; i++)
        memcpy(text + 3 * i, "関", 3);
    JSON_AUTO pods = json_pack("[{s:{s:s}, s:{s:s, s:s}}]", "metadata", "name", "c", "status",
                               "reason", "Evicted", "message", text);
    sbuf_init(&waits, ADDONS_TEXT_MAX);
    addons_pods(NULL, pods, &waits);
    assert_true(sbuf_ok(&waits) && waits.len > 200 && str_utf8_valid(sbuf_str(&waits)));
}

static void test_places_are_kept_and_taken_once(void **state UNUSED)
{
    char dir[] = "/tmp/seki-nodes-XXXXXX";
    assert_non_null(mkdtemp(dir));
    CLEANUP(arena_freep) struct arena *a = arena_new(1 << 20);
    struct cluster c = cluster_with("10.244.0.0/23", "10.96.0.0/16", NULL);
    struct site s = {.ns = "demo", .name = "one", .uid = "0b5ed6b2-7c1c-4a6c-9d52-2f8f7f1d3c11", .dir = dir};
    struct node_network w;
    struct node n;
    struct err err = ERR_INIT;
    assert_int_equal(node_network_of(&c, &w, NULL), 0);
    for (int round = 0; round < 2; round++) {
        node_named(&s, "workers", 0, a, &n);
        assert_int_equal(node_place(&n, &w, &err), 0);
        assert_string_equal(n.address, "10.201.0.10");
        assert_string_equal(n.pod_cidr, "10.244.0.0/24");
        node_named(&s, "gpus", 7, a, &n);
        assert_int_equal(node_place(&n, &w, &err), 0);
        assert_string_equal(n.address, "10.201.0.11");
        assert_string_equal(n.pod_cidr, "10.244.1.0/24");
        assert_string_equal(n.cgroup, "seki-node-0b5ed6b2-gpus-7");
    }
    node_named(&s, "workers", 1, a, &n);
    assert_int_equal(node_place(&n, &w, &err), ERR_UNAVAILABLE);
    char name[WORKLOAD_NAME_MAX];
    node_workload(&n, name);
    assert_string_equal(name, "kc-demo-one-0b5ed6b2-node-workers-1");
    assert_true(node_workload_is_of(&s, name));
    assert_false(node_workload_is_of(&s, "kc-demo-one-0b5ed6b2-etcd"));
    assert_false(node_workload_is_of(&s, "kc-demo-one-11111111-node-workers-1"));
    assert_int_equal(file_remove_tree(dir, NULL), 0);
}

static void test_who_has_no_certificate_yet_has_not_joined(void **state UNUSED)
{
    char dir[] = "/tmp/seki-nodes-XXXXXX";
    assert_non_null(mkdtemp(dir));
    CLEANUP(arena_freep) struct arena *a = arena_new(1 << 20);
    struct site s = {.ns = "demo", .name = "one", .uid = "0b5ed6b2-7c1c-4a6c-9d52-2f8f7f1d3c11", .dir = dir};
    struct node n;
    struct err err = ERR_INIT;
    node_named(&s, "workers", 0, a, &n);
    const char *disk = arena_printf(a, "%s/disk", n.dir);
    assert_int_equal(file_mkdirs(arena_printf(a, "%s/kubelet/pki", disk), 0700, &err), 0);
    int fd = open(disk, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    /* A kubelet writes this one when it begins to ask; killed then, it needs a token again. */
    assert_int_equal(
        file_write(arena_printf(a, "%s/kubelet/kubeconfig", disk), STR("x"), 0600, &err), 0);
    assert_false(node_disk_tell(n.dir, fd, true));
    assert_false(node_has_joined(&n));
    assert_int_equal(symlink("/var/lib/kubelet/pki/kubelet-client-2026.pem",
                             arena_printf(a, "%s/kubelet/pki/kubelet-client-current.pem", disk)),
                     0);
    assert_false(node_disk_tell(n.dir, fd, false));
    assert_true(node_has_joined(&n) && !node_has_serving(&n));
    assert_int_equal(symlink("/var/lib/kubelet/pki/kubelet-server-2026.pem",
                             arena_printf(a, "%s/kubelet/pki/kubelet-server-current.pem", disk)),
                     0);
    assert_true(node_disk_tell(n.dir, fd, false));
    assert_true(node_has_joined(&n) && node_has_serving(&n));
    /* A disk that was made anew has neither, nor one where somebody has put a link. */
    assert_int_equal(
        rename(arena_printf(a, "%s/kubelet", disk), arena_printf(a, "%s/elsewhere", disk)), 0);
    assert_int_equal(symlink("elsewhere", arena_printf(a, "%s/kubelet", disk)), 0);
    assert_false(node_disk_tell(n.dir, fd, true));
    assert_false(node_has_joined(&n) || node_has_serving(&n));
    close(fd);
    assert_int_equal(file_remove_tree(dir, NULL), 0);
}

static void test_disks_of_all_nodes_have_a_bound(void **state UNUSED)
{
    char data[] = "/tmp/seki-nodes-XXXXXX";
    assert_non_null(mkdtemp(data));
    CLEANUP(arena_freep) struct arena *a = arena_new(1 << 20);
    const struct site one = {.ns = "demo",
                             .name = "one",
                             .uid = "1",
                             .dir = arena_printf(a, "%s/clusters/1", data)},
                      two = {.ns = "demo",
                             .name = "two",
                             .uid = "2",
                             .dir = arena_printf(a, "%s/clusters/2", data)};
    struct node first, second;
    struct err err = ERR_INIT;
    const int64_t gib = 1LL << 30;
    struct stat st;
    node_named(&one, "workers", 0, a, &first);
    node_named(&two, "workers", 0, a, &second);
    assert_int_equal(file_mkdirs(first.dir, 0700, &err), 0);
    assert_int_equal(file_mkdirs(second.dir, 0700, &err), 0);
    assert_int_equal(node_disk_promise(&first, data, 4, 6 * gib, &err), 0);
    assert_int_equal(node_disk_promise(&second, data, 3, 6 * gib, &err), ERR_NO_SPACE);
    assert_string_equal(err.msg,
                        "the disks of all nodes may have 6144 MiB together "
                        "(kubernetes-node-disks), and have 4096; this one asks for 3072 more");
    assert_int_equal(node_disk_promise(&second, data, 2, 6 * gib, &err), 0);
    /* What is there is counted once, grows within the bound, and does not shrink. */
    assert_int_equal(node_disk_promise(&first, data, 4, 6 * gib, &err), 0);
    assert_int_equal(node_disk_promise(&first, data, 5, 6 * gib, &err), ERR_NO_SPACE);
    assert_int_equal(node_disk_promise(&first, data, 5, 7 * gib, &err), 0);
    assert_int_equal(node_disk_promise(&first, data, 1, 7 * gib, &err), 0);
    assert_int_equal(stat(arena_printf(a, "%s/disk.img", first.dir), &st), 0);
    assert_int_equal(st.st_size, 5 * gib);
    assert_int_equal(st.st_blocks, 0);
    assert_int_equal(node_disk_promise(&second, data, 100, 0, &err), 0);
    assert_int_equal(file_remove_tree(data, NULL), 0);
    /* As the options and NodePools say where nobody has said otherwise: room for 16. */
    for (int i = 0; i <= 16; i++) {
        node_named(i % 2 ? &one : &two, "workers", i, a, &first);
        assert_int_equal(file_mkdirs(first.dir, 0700, &err), 0);
        assert_int_equal(node_disk_promise(&first, data, 4, 64 * gib, &err),
                         i < 16 ? 0 : ERR_NO_SPACE);
    }
    assert_int_equal(file_remove_tree(data, NULL), 0);
}

/* An API that has every object with that digest ("": objects of somebody else's; NULL: none), and
 * takes what is applied. */
struct objects {
    struct fake_api api;
    const char *digest;
    int applied, forced;
};

static int objects_answer(struct fake_api *f, const struct client_call *k,
                          struct client_answer *ret, struct err *err UNUSED)
{
    struct objects *o = f->arg;
    if (strcmp(k->method, "GET") != 0) {
        assert_string_equal(k->method, "PATCH");
        assert_string_equal(k->content_type,
                            "application/apply-patch+yaml"); /* a merge patch would leave what the
                                                                object has no more */
        assert_non_null(obj_annotation(k->body, "seki.cloud/written"));
        o->applied++;
        o->forced += strstr(k->path, "&force=true") != NULL;
        *ret = (struct client_answer){.status = 200, .body = json_incref(k->body)};
        return 0;
    }
    if (!o->digest)
        return fake_api_status(ret, 404, "NotFound");
    *ret = (struct client_answer){
        .status = 200,
        .body = json_pack("{s:{s:s, s:{}}}", "metadata", "name", "x", "annotations")};
    if (*o->digest)
        json_object_set_new(json_at(ret->body, "metadata.annotations"), "seki.cloud/written",
                            json_string(o->digest));
    return 0;
}

static void test_objects_of_an_earlier_release_are_applied_anew(void **state UNUSED)
{
    struct objects o = {.api = {.arg = &o, .roundtrip = objects_answer}};
    struct client *c = fake_api_client(&o.api);
    struct err err = ERR_INIT;
    assert_int_equal(storage_objects_ensure(c, true, &err), 0);
    assert_true(o.applied >= 8 && !o.forced);
    const int all = o.applied;
    o.applied = 0;
    o.digest = "0123456789abcdef";
    assert_int_equal(storage_objects_ensure(c, true, &err), 0);
    assert_true(o.applied == all && o.forced == all);
    o.applied = 0;
    o.digest = ""; /* kinds that somebody else has made are as good */
    assert_int_equal(storage_objects_ensure(c, true, &err), 0);
    assert_int_equal(o.applied, all - 3);
    client_free(c);
}

static void test_what_a_node_is_drained_of(void **state UNUSED)
{
    static const struct {
        const char *pod;
        bool waits;
    } cases[] = {
        {"{}", true},
        {"{'status':{'phase':'Running'}}", true},
        {"{'status':{'phase':'Pending'},'metadata':{'deletionTimestamp':'2026-01-01T00:00:00Z'}}", true},
        {"{'status':{'phase':'Succeeded'}}", false},
        {"{'status':{'phase':'Failed'}}", false},
        {"{'status':{'phase':'Failed'},'metadata':{'deletionTimestamp':'2026-01-01T00:00:00Z'}}", true},
        {"{'metadata':{'annotations':{'kubernetes.io/config.mirror':'x'}}}", false},
        {"{'metadata':{'ownerReferences':[{'kind':'DaemonSet','controller':true}]}}", false},
        {"{'metadata':{'ownerReferences':[{'kind':'DaemonSet'}]}}", true},
        {"{'metadata':{'ownerReferences':[{'kind':'ReplicaSet','controller':true}]}}", true},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char text[256];
        JSON_AUTO pod = NULL;
        snprintf(text, sizeof(text), "%s", cases[i].pod);
        for (char *c = text; *c; c++)
            *c = *c == '\'' ? '"' : *c;
        assert_int_equal(json_parse(str_of(text), sizeof(text), &pod, NULL), 0);
        if (drain_waits_for(pod) != cases[i].waits)
            fail_msg("%s", cases[i].pod);
    }
    assert_true(node_look_ms(0) < 200 && node_look_ms(60000) >= 500);
}

static void test_a_directory_of_no_pool_is_nobodys(void **state UNUSED)
{
#define LONG "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz"
    JSON_AUTO pools = json_pack("[{s:{s:s}, s:{s:s}}, {s:{s:s}, s:{s:s}}]", "metadata", "name", "pool", "spec", "clusterName", "one", "metadata", "name", LONG, "spec", "clusterName", "one");
    static const struct {
        const char *cluster, *node;
        bool there;
    } cases[] = {{"one", "pool-0", true}, {"one", "pool-11", true}, {"two", "pool-0", false}, {"one", "poo-0", false}, {"one", "pool-a-0", false}, {"one", "pool", false}, {"one", "-0", false}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        if (node_pool_is_there(pools, cases[i].cluster, cases[i].node) != cases[i].there)
            fail_msg("%s of %s", cases[i].node, cases[i].cluster);
    struct node n;
    CLEANUP(arena_freep) struct arena *a = arena_new(65536);
    node_named(&(struct site){.uid = "0b5ed6b2", .dir = "/nowhere"}, LONG, 3, a, &n);
    assert_true(node_pool_is_there(pools, "one", n.name));
    assert_false(node_pool_is_there(NULL, "one", n.name));
}

/* Whole pages of finished pods may come before one that runs. */
static void test_all_pages_of_pods_are_looked_at(void **state UNUSED)
{
    CLEANUP(sbuf_deinit) struct sbuf path = {0};
    JSON_AUTO more = json_pack("{s:{s:s}, s:[]}", "metadata", "continue", "ab+/=", "items");
    JSON_AUTO last = json_pack("{s:{s:s}, s:[]}", "metadata", "continue", "", "items");
    sbuf_init(&path, 4096);
    assert_true(drain_next_page(NULL, "pool-0", &path));
    assert_string_equal(path.ptr, "/api/v1/pods?fieldSelector=spec.nodeName%3Dpool-0&limit=500");
    assert_true(drain_next_page(more, "pool-0", &path));
    assert_string_equal(path.ptr, "/api/v1/pods?fieldSelector=spec.nodeName%3Dpool-0&limit=500&continue=ab%2B%2F%3D");
    assert_false(drain_next_page(last, "pool-0", &path));
}

static void test_what_a_gate_dials(void **state UNUSED)
{
    static const struct gate_reach reach = {0x0ac90000, 0xffffff00, 0x0af40000, 0xffff0000, 0x0ac90001};
    static const struct {
        const char *target;
        int rc;
    } cases[] = {
        {"10.201.0.10:10250", 0},          {"10.244.1.7:8080", 0},   {"10.201.0.10:22", ERR_FORBIDDEN},   {"10.201.0.1:10250", ERR_FORBIDDEN},   {"10.201.0.0:10250", ERR_FORBIDDEN},
        {"10.201.0.255:10250", ERR_FORBIDDEN}, {"10.201.1.10:10250", ERR_FORBIDDEN}, {"127.0.0.1:10250", ERR_FORBIDDEN}, {"10.245.0.1:80", ERR_FORBIDDEN}, {"localhost:10250", ERR_INVALID},
        {"10.201.0.10", ERR_INVALID},      {"10.201.0.10:0", ERR_INVALID}, {"10.201.0.10:65536", ERR_INVALID}, {"[::1]:10250", ERR_INVALID},  {"10.201.0.010:10250", ERR_INVALID},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        CLEANUP(mem_freep) char *head = xasprintf("CONNECT %s HTTP/1.1\r\nHost: x\r\n\r\n", cases[i].target);
        uint32_t address;
        uint16_t port;
        struct err err = ERR_INIT;
        if (gate_target(&reach, str_of(head), &address, &port, &err) != cases[i].rc)
            fail_msg("%s: %s", cases[i].target, err.msg);
    }
    uint32_t address;
    uint16_t port;
    assert_int_equal(gate_target(&reach, STR("GET 10.244.1.7:80 HTTP/1.1\r\n\r\n"), &address, &port, NULL), ERR_INVALID);
    assert_int_equal(gate_target(&reach, STR(""), &address, &port, NULL), ERR_INVALID);
}

/* ---- the relay, all of it in this network namespace ---- */

static atomic_bool stop;
static struct relay_options options;

static void *relay_thread(void *arg UNUSED)
{
    struct err err = ERR_INIT;
    if (relay_run(&options, &stop, &err) < 0)
        fprintf(stderr, "%s\n", err.msg);
    return NULL;
}

static int listen_on_loopback(uint16_t *ret_port)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(at);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof(at)), 0);
    assert_int_equal(listen(fd, 16), 0);
    getsockname(fd, (struct sockaddr *)&at, &len);
    *ret_port = ntohs(at.sin_port);
    return fd;
}

static int connect_to(uint16_t port)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons(port)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&at, sizeof(at)), 0);
    return fd;
}

static void read_exactly(int fd, char *to, size_t len)
{
    for (size_t got = 0; got < len;) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        assert_int_equal(poll(&p, 1, 60000), 1);
        ssize_t n = read(fd, to + got, len - got);
        assert_true(n > 0);
        got += (size_t)n;
    }
}

#define BULK (4 * 1024 * 1024)

static void *push(void *arg)
{
    int fd = *(int *)arg;
    char *bulk = xcalloc(1, BULK);
    for (size_t i = 0; i < BULK; i++)
        bulk[i] = (char)(i * 31 >> 3);
    (void)!file_write_all(fd, str_n(bulk, BULK), NULL);
    shutdown(fd, SHUT_WR);
    mem_free(bulk);
    return NULL;
}

static void test_bytes_go_both_ways_and_end(void **state UNUSED)
{
    uint16_t egress_port, api_port, target_port;
    int target = listen_on_loopback(&target_port);
    CLEANUP(file_closep) int here = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    pthread_t thread, pusher;
    char head[128], answer[64] = "";
    struct err err = ERR_INIT;
    /* The pods' network is the loopback one here, and the hub is where we are. */
    options = (struct relay_options){.api_listener = listen_on_loopback(&api_port), .egress_listener = listen_on_loopback(&egress_port), .hub = -1, .outside = here, .apis = {{INADDR_LOOPBACK}, 1, GATE_API_PORT, NULL},
                                     .reach = {0x0ac90000, 0xffffff00, 0x7f000000, 0xff000000, 0x0ac90001}};
    fcntl(options.api_listener, F_SETFL, O_NONBLOCK);
    fcntl(options.egress_listener, F_SETFL, O_NONBLOCK);
    atomic_store(&stop, false);
    pthread_create(&thread, NULL, relay_thread, NULL);
    int client = connect_to(egress_port);
    int n = snprintf(head, sizeof(head), "CONNECT 127.0.0.1:%d HTTP/1.1\r\nHost: x\r\n\r\n", target_port);
    assert_int_equal(file_write_all(client, str_n(head, (size_t)n), &err), 0);
    struct pollfd p = {.fd = target, .events = POLLIN};
    assert_int_equal(poll(&p, 1, 60000), 1);
    int server = accept4(target, NULL, NULL, SOCK_CLOEXEC);
    assert_true(server >= 0);
    /* Bulk one way with a slow reader, a few bytes the other, then both ends. */
    pthread_create(&pusher, NULL, push, &client);
    assert_int_equal(file_write_all(server, STR("back"), &err), 0);
    char *got = xcalloc(1, BULK);
    read_exactly(server, got, BULK);
    for (size_t i = 0; i < BULK; i++)
        if (got[i] != (char)(i * 31 >> 3))
            fail_msg("byte %zu", i);
    mem_free(got);
    char byte;
    assert_int_equal(read(server, &byte, 1), 0); /* its end has come through */
    read_exactly(client, answer, 4);
    assert_memory_equal(answer, "back", 4);
    close(server);
    assert_int_equal(read(client, &byte, 1), 0);
    pthread_join(pusher, NULL);
    close(client);
    /* Refused, and ended. */
    client = connect_to(egress_port);
    assert_int_equal(file_write_all(client, STR("CONNECT 10.1.1.1:80 HTTP/1.1\r\n\r\n"), &err), 0);
    read_exactly(client, answer, 12);
    assert_memory_equal(answer, "HTTP/1.1 403", 12);
    close(client);
    atomic_store(&stop, true);
    pthread_join(thread, NULL);
    close(options.api_listener);
    close(options.egress_listener);
    close(target);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_network_of_nodes),
        cmocka_unit_test(test_objects_of_names_follow_from_the_networks),
        cmocka_unit_test(test_names_say_which_nodes_they_wait_for),
        cmocka_unit_test(test_names_say_what_their_pods_wait_for),
        cmocka_unit_test(test_places_are_kept_and_taken_once),
        cmocka_unit_test(test_who_has_no_certificate_yet_has_not_joined),
        cmocka_unit_test(test_disks_of_all_nodes_have_a_bound),
        cmocka_unit_test(test_what_a_gate_dials),
        cmocka_unit_test(test_objects_of_an_earlier_release_are_applied_anew),
        cmocka_unit_test(test_what_a_node_is_drained_of),
        cmocka_unit_test(test_all_pages_of_pods_are_looked_at),
        cmocka_unit_test(test_a_directory_of_no_pool_is_nobodys),
        cmocka_unit_test(test_bytes_go_both_ways_and_end)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
