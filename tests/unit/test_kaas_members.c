/* Control planes of three: places, command lines, whom a relay tries, what a store says of its members. */
#include "unit.h"

#include <arpa/inet.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "kaas/recovery.h"
#include "kaas/upgrade.h"
#include "node/api_relay.h"

static char dir[64];
static struct arena *arena;
static struct site three, one;
static struct cluster cluster;

static int set_up(void **state UNUSED)
{
    snprintf(dir, sizeof(dir), "/tmp/seki-kaas-members-XXXXXX");
    if (!mkdtemp(dir))
        return -1;
    arena = arena_new(16 << 20);
    one = (struct site){.ns = "demo", .name = "one", .uid = "0b5ed6b2-7c1c-4a6c-9d52-2f8f7f1d3c11", .dir = dir, .programs = "/k/1.37", .kms = "/k/seki-kms", .self = "/k/sekid", .address = "127.1.0.1"};
    three = one;
    three.members = 3;
    memcpy(three.more, (char[MEMBERS_MAX - 1][16]){"127.1.0.2", "127.1.0.3"}, sizeof(three.more));
    cluster = (struct cluster){.spec = {.version = "1.37", .control_plane = {3, "Small"}, .network = {"10.244.0.0/16", "10.96.0.0/16", "cluster.local", NULL}, .audit = {"Metadata"}}};
    return 0;
}

static int tear_down(void **state UNUSED)
{
    arena_freep(&arena);
    return file_remove_tree(dir, NULL);
}

static const char *line_of(enum component c, int member, const struct site *s)
{
    const char *all = "";
    struct plan p;
    plan_component(c, member, &cluster, s, arena, &p);
    for (const char *const *v = p.argv; *v; v++)
        all = arena_printf(arena, "%s%s\n", all, *v);
    return all;
}

/* ---- command lines ---- */

static void test_each_member_has_its_own_place_and_all_know_of_all(void **state UNUSED)
{
    const struct {
        enum component c;
        int member;
        const struct site *s;
        const char *flag;
        bool there;
    } cases[] = {
        {ETCD, 0, &one, "--initial-cluster=etcd-0=https://127.1.0.1:2380\n", true},
        {ETCD, 0, &one, "election-timeout", false},
        {ETCD, 0, &one, "initial-cluster-state", false},
        {ETCD, 0, &three, "--initial-cluster=etcd-0=https://127.1.0.1:2380,etcd-1=https://127.1.0.2:2380,etcd-2=https://127.1.0.3:2380\n", true},
        {ETCD, 0, &three, "/etcd\n", true},
        {ETCD, 2, &three, "--name=etcd-2\n", true},
        {ETCD, 2, &three, "/etcd-2\n", true},
        {ETCD, 2, &three, "--listen-client-urls=https://127.1.0.3:2379\n", true},
        {APISERVER, 0, &one, "--secure-port=6443\n", true},
        {APISERVER, 0, &one, "shutdown-delay", false},
        {APISERVER, 0, &three, "--secure-port=6444\n", true},
        {APISERVER, 1, &three, "--bind-address=127.1.0.2\n", true},
        {APISERVER, 1, &three, "--etcd-servers=https://127.1.0.1:2379,https://127.1.0.2:2379,https://127.1.0.3:2379\n", true},
        {APISERVER, 1, &three, "/audit-1/audit.log\n", true},
        {CONTROLLERS, 0, &one, "--leader-elect=false\n", true},
        {CONTROLLERS, 0, &three, "--leader-elect=true\n", true},
        {SCHEDULER, 2, &three, "--bind-address=127.1.0.3\n", true},
        {RELAY, 0, &three, "api-relay\n", true},
        {RELAY, 0, &three, "127.1.0.1:6443\n127.1.0.1:6444\n127.1.0.2:6444\n127.1.0.3:6444\n", true},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        if ((strstr(line_of(cases[i].c, cases[i].member, cases[i].s), cases[i].flag) != NULL) != cases[i].there)
            fail_msg("%s %d: %s", component_name(cases[i].c), cases[i].member, cases[i].flag);
    /* Of several none says where the API is: the one that ends would take that away. */
    struct site with = three;
    with.with_nodes = true;
    snprintf(with.gate, sizeof(with.gate), "10.201.0.1");
    assert_non_null(strstr(line_of(APISERVER, 0, &with), "--endpoint-reconciler-type=none\n"));
    assert_non_null(strstr(line_of(APISERVER, 0, &with), "--advertise-address=10.201.0.1\n"));
    assert_int_equal(component_count(&one, RELAY), 0);
    assert_int_equal(component_count(&three, RELAY), 1);
    assert_int_equal(component_count(&three, KMS), 1);
    assert_int_equal(component_count(&three, ETCD), 3);
}

static void test_who_learns_is_asked_by_nobody(void **state UNUSED)
{
    struct site s = three;
    s.replacing = s.joined = 1u << 1;
    assert_non_null(strstr(line_of(ETCD, 1, &s), "--listen-client-urls=https://127.1.0.2:2378\n"));
    assert_non_null(strstr(line_of(ETCD, 1, &s), "--initial-cluster-state=existing\n"));
    assert_non_null(strstr(line_of(ETCD, 0, &s), "--listen-client-urls=https://127.1.0.1:2379\n"));
    assert_null(strstr(line_of(ETCD, 0, &s), "--initial-cluster-state"));
    s.replacing = 0;
    assert_non_null(strstr(line_of(ETCD, 1, &s), "--listen-client-urls=https://127.1.0.2:2379\n"));
}

static void test_names_of_workloads(void **state UNUSED)
{
    char name[WORKLOAD_NAME_MAX];
    component_workload(&three, ETCD, 0, name);
    assert_string_equal(name, "kc-demo-one-0b5ed6b2-etcd");
    assert_true(workload_is_store(name));
    component_workload(&three, ETCD, 2, name);
    assert_string_equal(name, "kc-demo-one-0b5ed6b2-etcd-2");
    assert_true(workload_is_store(name));
    assert_false(workload_is_store("kc-demo-one-0b5ed6b2-node-etcd-1"));
    assert_false(workload_is_store("kc-demo-one-0b5ed6b2-apiserver-1"));
    assert_false(workload_is_store("etcd"));
}

/* ---- upgrades ---- */

static void test_members_have_their_turns(void **state UNUSED)
{
    struct version_record v = {.minor = "1.36", .to = "1.37", .stage = UPGRADE_APISERVER, .at_ms = {0, 1, 2, 3}, .waiting = 5, .backup = "20260131-235959-123"}, is;
    struct site s = three;
    assert_int_equal(version_store(dir, &v, NULL), 0);
    assert_int_equal(version_load(dir, &is, NULL), 0);
    assert_memory_equal(&v, &is, sizeof(v));
    version_apply(&is, "/k", &s, arena);
    const struct {
        enum component c;
        int member;
        const char *folder;
    } cases[] = {{ETCD, 0, "/k/1.37/"}, {ETCD, 2, "/k/1.37/"}, {APISERVER, 0, "/k/1.36/"}, {APISERVER, 1, "/k/1.37/"}, {APISERVER, 2, "/k/1.36/"}, {CONTROLLERS, 1, "/k/1.36/"}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        if (!str_starts(str_of(line_of(cases[i].c, cases[i].member, &s)), str_of(cases[i].folder)))
            fail_msg("%s %d is not of %s", component_name(cases[i].c), cases[i].member, cases[i].folder);
}

/* ---- places ---- */

static bool none_taken(void *arg UNUSED, const char *address UNUSED)
{
    return false;
}

static void test_a_place_of_three(void **state UNUSED)
{
    struct cluster_network n, small;
    struct site s = one, is = {.dir = dir};
    assert_int_equal(cluster_network_parse("127.111.0.0/16", &n, NULL), 0);
    assert_int_equal(cluster_network_parse("127.112.0.0/30", &small, NULL), 0);
    assert_int_equal(place_make(&s, 3, &n, none_taken, NULL, NULL), 0);
    assert_int_equal(s.members, 3);
    assert_string_not_equal(s.address, s.more[0]);
    assert_string_not_equal(s.more[0], s.more[1]);
    s.joined = 4;
    s.replacing = 2;
    assert_int_equal(place_keep(&s, NULL), 0);
    assert_int_equal(place_load(&is, NULL), 0);
    assert_int_equal(is.members, 3);
    assert_string_equal(is.address, s.address);
    assert_string_equal(is.more[0], s.more[0]); /* behind their ends lies what was tried before */
    assert_string_equal(is.more[1], s.more[1]);
    assert_int_equal(is.joined, 4);
    assert_int_equal(is.replacing, 2);
    /* A network with two free addresses has no room for three. */
    assert_int_equal(place_make(&s, 3, &small, none_taken, NULL, NULL), ERR_UNAVAILABLE);
    static const char *const broken[] = {"[]", "[\"127.1.0.1\", \"127.1.0.2\"]", "[\"127.1.0.1\", \"127.1.0.2\", \"10.0.0.1\"]", "[\"127.1.0.1\", 7, {}]"};
    for (size_t i = 0; i < ARRAY_LEN(broken); i++) {
        CLEANUP(mem_freep) char *path = xasprintf("%s/cluster.json", dir);
        CLEANUP(mem_freep) char *text = xasprintf("{\"address\": \"127.1.0.1\", \"members\": %s}", broken[i]);
        assert_int_equal(file_write(path, str_of(text), 0600, NULL), 0);
        if (place_load(&is, NULL) != ERR_CORRUPT)
            fail_msg("%s", broken[i]);
    }
    JSON_AUTO obj = json_pack("{s:{s:s, s:[{s:s}, {s:s}, {s:s}]}}", "status", "address", "127.1.0.1", "members", "address", "127.1.0.1", "address", "127.1.0.2", "address", "127.1.0.3");
    struct site from = {.dir = dir};
    assert_true(place_from_status(&from, obj));
    assert_int_equal(from.members, 3);
    assert_string_equal(from.more[1], "127.1.0.3");
}

/* ---- what the store says ---- */

static void test_what_etcdctl_says(void **state UNUSED)
{
    static const char list[] = "14ad2ad8ded8d6c2, started, etcd-0, https://127.1.0.1:2380, https://127.1.0.1:2379, false\n"
                               "2b6c4c4f4ffb1b23, unstarted, , https://127.1.0.2:2380, , true\n"
                               "e0b5c6a0c5a6a7fd, started, etcd-2, https://127.1.0.3:2380, https://127.1.0.3:2379, true\n";
    struct store_member m;
    assert_true(store_member_find(str_of(list), "https://127.1.0.1:2380", &m));
    assert_string_equal(m.id, "14ad2ad8ded8d6c2");
    assert_true(m.started && !m.learner);
    assert_true(store_member_find(str_of(list), "https://127.1.0.2:2380", &m));
    assert_true(!m.started && m.learner);
    assert_true(store_member_find(str_of(list), "https://127.1.0.3:2380", &m));
    assert_true(m.started && m.learner);
    assert_false(store_member_find(str_of(list), "https://127.1.0.4:2380", &m));
    assert_false(store_member_find(STR("Error: context deadline exceeded\n"), "https://127.1.0.1:2380", &m));
    static const char status[] = "https://127.1.0.1:2379, 14ad2ad8ded8d6c2, 3.6.16, 3.6.0, 1.2 MB, 900 kB, 25%, 2.1 GB, false, false, 3, 900, 900, , , false\n"
                                 "https://127.1.0.3:2379, e0b5c6a0c5a6a7fd, 3.6.16, 3.6.0, 1.2 MB, 900 kB, 25%, 2.1 GB, true, false, 3, 900, 900, , , false\n";
    assert_int_equal(store_leader_find(str_of(status), &three), 2);
    assert_int_equal(store_leader_find(STR(""), &three), -1);
}

/* ---- the relay ---- */

static void test_whom_a_relay_tries(void **state UNUSED)
{
    _Atomic unsigned ready = 0;
    const struct relay_apis a = {.count = 3, .ready = &ready};
    static const struct {
        unsigned ready, start, tried;
        int next;
    } cases[] = {{7, 0, 0, 0}, {7, 1, 0, 1}, {7, 5, 0, 2}, {6, 0, 0, 1}, {4, 0, 0, 2}, {4, 1, 4, 1}, {4, 0, 6, 0}, {0, 2, 0, 2}, {7, 0, 7, -1}, {1, 1, 1, 1}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        ready = cases[i].ready;
        if (relay_next_api(&a, cases[i].start, cases[i].tried) != cases[i].next)
            fail_msg("case %zu", i);
    }
    uint32_t address;
    uint16_t port;
    assert_int_equal(api_relay_place("127.0.0.9:6444", &address, &port, NULL), 0);
    assert_int_equal(address, 0x7f000009);
    assert_int_equal(port, 6444);
    static const char *const wrong[] = {"", ":", "127.0.0.9", "127.0.0.9:", "127.0.0.9:0", "127.0.0.9:65536", "a:1", "127.0.0.9:6444x"};
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++)
        if (api_relay_place(wrong[i], &address, &port, NULL) != ERR_INVALID)
            fail_msg("%s", wrong[i]);
}

static int listen_at(const char *address, uint16_t *port, bool nonblocking)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(*port)};
    socklen_t size = sizeof(at);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | (nonblocking ? SOCK_NONBLOCK : 0), 0);
    assert_int_equal(inet_pton(AF_INET, address, &at.sin_addr), 1);
    assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof(at)), 0);
    assert_int_equal(listen(fd, 8), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &size), 0);
    *port = ntohs(at.sin_port);
    return fd;
}

static atomic_bool stop;
static struct relay_options options;

static void *relay(void *arg UNUSED)
{
    struct err err = ERR_INIT;
    return relay_run(&options, &stop, &err) < 0 ? (void *)"failed" : NULL;
}

/* Who answers a connection to the relay says which it is. */
static char who_answers(uint16_t port, int *keep)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct timeval patience = {.tv_sec = 10};
    char said = 0;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    assert_int_equal(connect(fd, (struct sockaddr *)&at, sizeof(at)), 0);
    if (recv(fd, &said, 1, 0) != 1)
        said = '-';
    if (keep)
        *keep = fd;
    else
        close(fd);
    return said;
}

struct member {
    int fd;
    char name;
};

static void *member(void *arg)
{
    const struct member *m = arg;
    for (int fd; (fd = accept(m->fd, NULL, NULL)) >= 0; close(fd))
        (void)!send(fd, &m->name, 1, MSG_NOSIGNAL);
    return NULL;
}

static void test_one_that_cannot_be_reached_is_passed_over(void **state UNUSED)
{
    _Atomic unsigned ready = 7;
    uint16_t front = 0, port = 0;
    pthread_t thread, first, third;
    void *failed = NULL;
    /* Two of three listen at one port; that of the second is closed. */
    struct member a = {listen_at("127.0.0.1", &port, false), 'a'}, c = {listen_at("127.0.0.3", &port, false), 'c'};
    options = (struct relay_options){.api_listener = listen_at("127.0.0.1", &front, true), .egress_listener = -1, .hub = -1, .outside = -1, .apis = {{0x7f000001, 0x7f000002, 0x7f000003}, 3, port, &ready}};
    atomic_store(&stop, false);
    assert_int_equal(pthread_create(&thread, NULL, relay, NULL), 0);
    assert_int_equal(pthread_create(&first, NULL, member, &a), 0);
    assert_int_equal(pthread_create(&third, NULL, member, &c), 0);
    char seen[7] = "";
    for (int i = 0; i < 6; i++)
        seen[i] = who_answers(front, NULL);
    assert_string_equal(seen, "accacc"); /* in turns, and the closed one's go to who is next */
    ready = 4;
    for (int i = 0; i < 3; i++)
        assert_int_equal(who_answers(front, NULL), 'c');
    ready = 0; /* nobody says so: all are tried */
    assert_int_equal(who_answers(front, NULL), 'a');
    shutdown(c.fd, SHUT_RDWR);
    shutdown(a.fd, SHUT_RDWR);
    close(a.fd);
    close(c.fd);
    pthread_join(first, NULL);
    pthread_join(third, NULL);
    assert_int_equal(who_answers(front, NULL), '-'); /* closed at once, not left to wait */
    atomic_store(&stop, true);
    pthread_join(thread, &failed);
    assert_null(failed);
    close(options.api_listener);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_member_has_its_own_place_and_all_know_of_all),
        cmocka_unit_test(test_who_learns_is_asked_by_nobody),
        cmocka_unit_test(test_names_of_workloads),
        cmocka_unit_test(test_members_have_their_turns),
        cmocka_unit_test(test_a_place_of_three),
        cmocka_unit_test(test_what_etcdctl_says),
        cmocka_unit_test(test_whom_a_relay_tries),
        cmocka_unit_test(test_one_that_cannot_be_reached_is_passed_over),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
