/* Services of type LoadBalancer: what is served of them, what they are told, and the gate's part: listeners that follow a table, pods that are tried one after the other. */
#include "unit.h"

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

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "kaas/balancer.h"
#include "node/gate_balance.h"

static json_t *doc(const char *text)
{
    json_t *j = NULL;
    struct err err = ERR_INIT;
    if (json_parse(str_of(text), 1 << 20, &j, &err) < 0)
        fail_msg("%s: %s", text, err.msg);
    return j;
}

static const uint16_t no_port[] = {0};
static const char service_text[] = "{\"metadata\":{\"name\":\"web\",\"namespace\":\"shop\",\"uid\":\"u1\"},\"spec\":{\"type\":\"LoadBalancer\",\"sessionAffinity\":\"ClientIP\",\"loadBalancerSourceRanges\":[\"10.0.0.0/8\"],"
                                   "\"ports\":[{\"name\":\"a\",\"port\":80},{\"name\":\"b\",\"port\":53,\"protocol\":\"UDP\"}]}}";

static json_t *slice(const char *ns, const char *service, const char *endpoints)
{
    CLEANUP(mem_freep) char *text = xasprintf("{\"metadata\":{\"name\":\"s\",\"namespace\":\"%s\",\"labels\":{\"kubernetes.io/service-name\":\"%s\"}},\"addressType\":\"IPv4\",\"ports\":[{\"name\":\"b\",\"port\":53,\"protocol\":\"UDP\"},{\"name\":\"a\",\"port\":8080}],\"endpoints\":[%s]}",
                                              ns, service, endpoints);
    return doc(text);
}

static void rows(const char *endpoints, const char *expected)
{
    JSON_AUTO service = doc(service_text);
    JSON_AUTO slices = json_pack("[o, o, o]", slice("shop", "web", endpoints), slice("other", "web", "{\"addresses\":[\"10.244.9.9\"]}"), slice("shop", "else", "{\"addresses\":[\"10.244.9.9\"]}"));
    JSON_AUTO row = balancer_row(service, slices, "192.0.2.1", no_port);
    JSON_AUTO want = doc(expected);
    assert_int_equal(json_array_size(json_at(row, "ports")), 1); /* TCP alone */
    assert_int_equal(json_int(json_array_get(json_at(row, "ports"), 0), "port", 0), 80);
    assert_true(json_equal(json_at(json_array_get(json_at(row, "ports"), 0), "to"), want));
    assert_true(json_flag(row, "sticky", false));
    assert_string_equal(json_string_value(json_array_get(json_at(row, "sources"), 0)), "10.0.0.0/8");
}

static void test_pods_that_are_ready_are_asked(void **state UNUSED)
{
    rows("{\"addresses\":[\"10.244.0.5\"]},{\"addresses\":[\"10.244.0.6\"],\"conditions\":{\"ready\":true}},{\"addresses\":[\"10.244.0.7\"],\"conditions\":{\"ready\":false,\"serving\":true,\"terminating\":true}}",
         "[\"10.244.0.5:8080\",\"10.244.0.6:8080\"]");
    /* Those that are about to go, when there are no others. */
    rows("{\"addresses\":[\"10.244.0.7\"],\"conditions\":{\"ready\":false,\"serving\":true,\"terminating\":true}},{\"addresses\":[\"10.244.0.8\"],\"conditions\":{\"ready\":false,\"serving\":false}}", "[\"10.244.0.7:8080\"]");
    rows("", "[]");
}

static void test_whose_a_service_is(void **state UNUSED)
{
    static const struct {
        const char *text;
        bool ours, wanted;
    } cases[] = {
        {"{\"metadata\":{},\"spec\":{\"type\":\"LoadBalancer\"}}", true, true},
        {"{\"metadata\":{},\"spec\":{\"type\":\"LoadBalancer\",\"loadBalancerClass\":\"seki.cloud/balancer\"}}", true, true},
        {"{\"metadata\":{},\"spec\":{\"type\":\"LoadBalancer\",\"loadBalancerClass\":\"example.com/x\"}}", false, false},
        {"{\"metadata\":{},\"spec\":{\"type\":\"ClusterIP\"}}", true, false},
        {"{\"metadata\":{\"deletionTimestamp\":\"2026-01-01T00:00:00Z\"},\"spec\":{\"type\":\"LoadBalancer\"}}", true, false},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        JSON_AUTO s = doc(cases[i].text);
        assert_int_equal(balancer_is_ours(s), cases[i].ours);
        assert_int_equal(balancer_wants(s), cases[i].wanted);
    }
}

static void test_what_is_not_served_is_said(void **state UNUSED)
{
    CLEANUP(arena_freep) struct arena *a = arena_new(1 << 20);
    JSON_AUTO service = doc(service_text);
    JSON_AUTO none = json_array();
    JSON_AUTO row = balancer_row(service, none, "192.0.2.1", no_port);
    JSON_AUTO failed = json_pack("{s:s}", "192.0.2.1:80", "Address already in use");
    JSON_AUTO nothing = json_object();
    const char *reason, *why;
    JSON_AUTO good = balancer_ingress(service, row, nothing, no_port, a, &reason, &why);
    assert_string_equal(reason, "ProtocolNotSupported");
    assert_string_equal(json_str(json_array_get(good, 0), "ip"), "192.0.2.1");
    assert_int_equal(json_array_size(json_at(json_array_get(good, 0), "ports")), 2);
    JSON_AUTO bad = balancer_ingress(service, row, failed, no_port, a, &reason, &why);
    assert_string_equal(reason, "PortUnavailable");
    assert_non_null(strstr(why, "already in use"));
    assert_int_equal(json_array_size(bad), 0);
}

static void test_a_service_has_so_many_ports(void **state UNUSED)
{
    CLEANUP(arena_freep) struct arena *a = arena_new(1 << 20);
    JSON_AUTO service = doc(service_text);
    JSON_AUTO none = json_array();
    JSON_AUTO nothing = json_object();
    json_t *ports = json_array();
    const char *reason, *why;
    for (int i = 0; i < BALANCER_PORTS_MAX + 1; i++)
        json_array_append_new(ports, json_pack("{s:i}", "port", 1000 + i));
    json_put(service, "spec.ports", ports);
    JSON_AUTO row = balancer_row(service, none, "192.0.2.1", no_port);
    assert_int_equal(json_array_size(json_at(row, "ports")), BALANCER_PORTS_MAX);
    JSON_AUTO ingress = balancer_ingress(service, row, nothing, no_port, a, &reason, &why);
    assert_string_equal(reason, "QuotaExceeded");
    assert_non_null(strstr(why, "1064"));
    assert_string_equal(json_str_or(json_array_get(json_at(json_array_get(ingress, 0), "ports"), BALANCER_PORTS_MAX), "error", ""), "seki.cloud/QuotaExceeded");
    json_array_remove(ports, 0);
    JSON_AUTO all = balancer_ingress(service, row, nothing, no_port, a, &reason, &why);
    assert_null(why);
}

static void test_ports_of_the_cloud_itself_are_nobodys(void **state UNUSED)
{
    static const char *const listens[] = {"0.0.0.0:443", "[::]:6440", "192.0.2.9:8000", "127.0.0.1:9440", "unix:/run/x.sock", NULL};
    static const uint16_t want[] = {22, 443, 6440, 8000, 0};
    CLEANUP(arena_freep) struct arena *a = arena_new(1 << 20);
    struct cluster_network range;
    uint16_t own[BALANCER_OWN_MAX];
    const char *reason, *why;
    assert_int_equal(cluster_network_parse("192.0.2.0/28", &range, NULL), 0);
    balancer_own_ports(listens, &range, own);
    assert_memory_equal(own, want, sizeof(want)); /* who listens elsewhere is in nobody's way */
    JSON_AUTO service = doc(service_text);
    JSON_AUTO none = json_array();
    JSON_AUTO nothing = json_object();
    json_put(service, "spec.ports", json_pack("[{s:i}, {s:i}]", "port", 443, "port", 80));
    JSON_AUTO row = balancer_row(service, none, "192.0.2.1", own);
    assert_int_equal(json_array_size(json_at(row, "ports")), 1);
    assert_int_equal(json_int(json_array_get(json_at(row, "ports"), 0), "port", 0), 80);
    JSON_AUTO ingress = balancer_ingress(service, row, nothing, own, a, &reason, &why);
    assert_string_equal(reason, "PortUnavailable");
    assert_string_equal(json_str(json_array_get(ingress, 0), "ip"), "192.0.2.1");
}

static void test_what_may_be_reached(void **state UNUSED)
{
    static const struct gate_reach reach = {0x0ac90000, 0xffffff00, 0x0af40000, 0xffff0000, 0x0ac90001};
    assert_true(balance_may_reach(&reach, 0x0af40105));  /* a pod */
    assert_true(balance_may_reach(&reach, 0x0ac9000a));  /* a node: pods of its own network */
    assert_false(balance_may_reach(&reach, 0x0ac90001)); /* the gate itself */
    assert_false(balance_may_reach(&reach, 0x7f000001));
    assert_false(balance_may_reach(&reach, 0xc0000201));
}

/* ---- the gate ---- */

static atomic_bool stop;
static struct relay_options options;

static void *relay_thread(void *arg UNUSED)
{
    struct err err = ERR_INIT;
    if (relay_run(&options, &stop, &err) < 0)
        fail_msg("%s", err.msg);
    return NULL;
}

static int listen_at(const char *address, uint16_t *port)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(*port)};
    socklen_t size = sizeof(at);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    inet_pton(AF_INET, address, &at.sin_addr);
    assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof(at)), 0);
    assert_int_equal(listen(fd, 8), 0);
    getsockname(fd, (struct sockaddr *)&at, &size);
    *port = ntohs(at.sin_port);
    return fd;
}

static int connect_to(uint16_t port)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(fd, (struct sockaddr *)&at, sizeof(at)) == 0)
        return fd;
    close(fd);
    return -1;
}

static void put_table(const char *dir, int generation, const char *services)
{
    CLEANUP(mem_freep) char *path = xasprintf("%s/" BALANCE_TABLE, dir);
    CLEANUP(mem_freep) char *text = xasprintf("{\"generation\":%d,\"services\":[%s]}", generation, services);
    assert_int_equal(file_write(path, str_of(text), 0600, NULL), 0);
}

static json_t *wait_said(const char *dir, int generation)
{
    CLEANUP(mem_freep) char *path = xasprintf("%s/" BALANCE_SAID, dir);
    for (uint64_t until = clock_mono_ms() + 60000; clock_mono_ms() < until; usleep(5000)) {
        CLEANUP(mem_freep) char *text = NULL;
        size_t len;
        json_t *said = NULL;
        if (file_read(path, 1 << 20, &text, &len, NULL) == 0 && json_parse(str_n(text, len), 1 << 20, &said, NULL) == 0 && json_int(said, "generation", 0) >= generation)
            return said;
        json_decref(said);
    }
    fail_msg("no answer to generation %d", generation);
    return NULL;
}

static void test_connections_go_to_a_pod_that_answers(void **state UNUSED)
{
    char dir[] = "/tmp/seki-balance-XXXXXX", byte = 0;
    uint16_t port = 0, dead = 0, balanced = 0, api = 0, egress = 0;
    struct err err = ERR_INIT;
    pthread_t thread;
    assert_non_null(mkdtemp(dir));
    /* Ports that are free: one has nobody who answers, one is the Service's. */
    int target = listen_at("127.0.0.1", &port), gone = listen_at("127.0.0.1", &dead), holder = listen_at("127.0.0.1", &balanced);
    close(gone);
    CLEANUP(mem_freep) char *service = xasprintf("{\"address\":\"127.0.0.1\",\"ports\":[{\"port\":%d,\"to\":[\"127.0.0.1:%d\",\"192.0.2.1:80\",\"127.0.0.1:%d\"]}]", balanced, dead, port);
    CLEANUP(mem_freep) char *open_to_all = xasprintf("%s}", service);
    CLEANUP(mem_freep) char *closed = xasprintf("%s,\"sources\":[\"192.0.2.0/24\"]}", service);
    put_table(dir, 1, open_to_all);
    options = (struct relay_options){.api_listener = listen_at("127.0.0.1", &api), .egress_listener = listen_at("127.0.0.1", &egress), .hub = -1, .outside = -1, .apis = {{INADDR_LOOPBACK}, 1, GATE_API_PORT, NULL}, .reach = {0x0ac90000, 0xffffff00, 0x7f000000, 0xff000000, 0x0ac90001}};
    fcntl(options.api_listener, F_SETFL, O_NONBLOCK);
    fcntl(options.egress_listener, F_SETFL, O_NONBLOCK);
    options.balance = balance_new(dir, &options.reach, &err);
    assert_non_null(options.balance);
    /* Another program has the port, which is said, and tried again. */
    CLEANUP(mem_freep) char *key = xasprintf("127.0.0.1:%d", balanced);
    json_t *said = wait_said(dir, 1);
    assert_non_null(json_object_get(json_at(said, "failed"), key));
    json_decref(said);
    close(holder);
    atomic_store(&stop, false);
    pthread_create(&thread, NULL, relay_thread, NULL);
    int client = -1;
    for (uint64_t until = clock_mono_ms() + 60000; client < 0 && clock_mono_ms() < until; usleep(5000))
        client = connect_to(balanced);
    assert_true(client >= 0);
    /* Several, so that each pod was the first once: those that do not answer cost nobody his connection. */
    for (int i = 0; i < 4; i++) {
        if (i)
            client = connect_to(balanced);
        assert_int_equal(file_write_all(client, STR("x"), &err), 0);
        assert_int_equal(poll(&(struct pollfd){.fd = target, .events = POLLIN}, 1, 60000), 1);
        int server = accept4(target, NULL, NULL, SOCK_CLOEXEC);
        assert_int_equal(read(server, &byte, 1), 1);
        close(server);
        assert_int_equal(read(client, &byte, 1), 0);
        close(client);
    }
    /* Nobody from there is let in; a Service that goes takes its connections along. */
    put_table(dir, 2, closed);
    json_decref(wait_said(dir, 2));
    client = connect_to(balanced);
    assert_true(read(client, &byte, 1) <= 0);
    close(client);
    put_table(dir, 3, open_to_all);
    json_decref(wait_said(dir, 3));
    client = connect_to(balanced);
    assert_int_equal(file_write_all(client, STR("x"), &err), 0);
    int server = accept4(target, NULL, NULL, SOCK_CLOEXEC);
    put_table(dir, 4, "");
    json_decref(wait_said(dir, 4));
    assert_true(read(client, &byte, 1) <= 0);
    assert_int_equal(connect_to(balanced), -1);
    close(server);
    close(client);
    /* Another directory in its place is found without a watch. */
    CLEANUP(mem_freep) char *aside = xasprintf("%s.old", dir);
    assert_int_equal(rename(dir, aside), 0);
    assert_int_equal(mkdir(dir, 0700), 0);
    put_table(dir, 5, open_to_all);
    json_decref(wait_said(dir, 5));
    assert_int_equal(file_remove_tree(aside, NULL), 0);
    atomic_store(&stop, true);
    pthread_join(thread, NULL);
    balance_free(options.balance);
    close(options.api_listener);
    close(options.egress_listener);
    close(target);
    assert_int_equal(file_remove_tree(dir, NULL), 0);
}

static void test_addresses_of_a_table_that_cannot_be_read_are_not_free(void **state UNUSED)
{
    char dir[] = "/tmp/seki-balancer.XXXXXX";
    struct err err = ERR_INIT;
    assert_non_null(mkdtemp(dir));
    CLEANUP(mem_freep) char *root = xasprintf("%s/clusters", dir);
    CLEANUP(mem_freep) char *net = xasprintf("%s/u1/net", root);
    CLEANUP(mem_freep) char *table = xasprintf("%s/" BALANCE_TABLE, net);
    CLEANUP(mem_freep) char *stray = xasprintf("%s/stray", root);
    struct map *all = map_new(NULL);
    assert_int_equal(balancer_taken(root, "u0", all, &err), 0); /* no cluster yet */
    assert_int_equal(file_mkdirs(net, 0700, &err), 0);
    assert_int_equal(file_write(stray, STR("x"), 0600, &err), 0);
    assert_int_equal(balancer_taken(root, "u0", all, &err), 0); /* none that serves */
    assert_int_equal(file_write(table, STR("{\"services\":[{\"address\":\"192.0.2.1\"}]}"), 0600, &err), 0);
    assert_int_equal(balancer_taken(root, "u0", all, &err), 0);
    assert_non_null(map_getc(all, "192.0.2.1"));
    assert_int_equal(file_write(table, STR("{\"serv"), 0600, &err), 0);
    assert_int_equal(balancer_taken(root, "u0", all, &err), ERR_CORRUPT);
    assert_int_equal(balancer_taken(root, "u1", all, &err), 0); /* its own is not asked */
    assert_int_equal(unlink(table), 0);
    assert_int_equal(symlink(BALANCE_TABLE, table), 0);
    assert_true(balancer_taken(root, "u0", all, &err) < 0);
    assert_true(balancer_taken(stray, "u0", all, &err) < 0); /* what is no directory */
    map_free(all);
    assert_int_equal(file_remove_tree(dir, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_pods_that_are_ready_are_asked), cmocka_unit_test(test_whose_a_service_is), cmocka_unit_test(test_what_is_not_served_is_said),
                                       cmocka_unit_test(test_what_may_be_reached),
                                       cmocka_unit_test(test_a_service_has_so_many_ports), cmocka_unit_test(test_ports_of_the_cloud_itself_are_nobodys), cmocka_unit_test(test_connections_go_to_a_pod_that_answers),
                                       cmocka_unit_test(test_addresses_of_a_table_that_cannot_be_read_are_not_free)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
