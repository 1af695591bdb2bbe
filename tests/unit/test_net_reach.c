/* Whom a tenant may have us connect to. */
#include "unit.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

#include "net/reach.h"

static bool reaches(const char *allow, const char *host, bool tls)
{
    struct reach r;
    struct net_addr a;
    char text[80];
    snprintf(text, sizeof(text), strchr(host, ':') ? "[%s]:1" : "%s:1", host);
    assert_int_equal(reach_parse(allow, &r, NULL), 0);
    assert_int_equal(net_addr_parse(str_of(text), &a, NULL), 0);
    bool is = reach_addr(&r, &a.sa, tls);
    reach_deinit(&r);
    return is;
}

static void only_the_public_internet_over_tls(void **state)
{
    (void)state;
    static const char *const yes[] = {"8.8.8.8", "1.1.1.1", "172.15.255.255", "172.32.0.1", "100.63.0.1", "100.128.0.1", "192.167.0.1", "223.255.255.255", "2606:4700::1111", "2a00:1450::1"};
    static const char *const no[] = {"0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.127.255.255", "127.0.0.1", "127.255.0.1", "169.254.169.254", "172.16.0.1", "172.31.255.255",
                                     "192.0.0.1", "192.0.2.1", "192.88.99.1", "192.168.1.1", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.9", "224.0.0.1", "239.1.1.1", "240.0.0.1",
                                     "255.255.255.255", "::", "::1", "::ffff:10.0.0.1", "::ffff:127.0.0.1", "::127.0.0.1", "64:ff9b::a00:1", "fc00::1", "fd12::1", "fe80::1", "fec0::1", "ff02::1",
                                     "2001::1", "2001:db8::1", "2002:a00:1::1", "3fff::1", "100::1", "5f00::1"};
    for (size_t i = 0; i < ARRAY_LEN(yes); i++)
        if (!reaches("", yes[i], true) || reaches("", yes[i], false))
            fail_msg("%s", yes[i]);
    for (size_t i = 0; i < ARRAY_LEN(no); i++)
        if (reaches("", no[i], true) || reaches("", no[i], false))
            fail_msg("%s", no[i]);
    assert_true(reaches("", "::ffff:8.8.8.8", true));
    struct net_addr a;
    assert_int_equal(net_addr_parse(STR("8.8.8.8:1"), &a, NULL), 0);
    assert_true(reach_addr(NULL, &a.sa, true));
    assert_false(reach_addr(NULL, &a.sa, false));
    assert_int_equal(net_addr_parse(STR("unix:/run/x"), &a, NULL), 0);
    assert_false(reach_addr(NULL, &a.sa, true));
}

static void a_list_opens_what_it_names(void **state)
{
    (void)state;
    static const struct {
        const char *allow, *host;
        bool is;
    } all[] = {
        {"10.1.0.0/16", "10.1.255.1", true},   {"10.1.0.0/16", "10.2.0.1", false}, {"10.1.0.0/16", "127.0.0.1", false}, {"10.1.2.3", "10.1.2.3", true},  {"10.1.2.3", "10.1.2.4", false},
        {"127.0.0.0/8", "127.9.9.9", true},    {"127.0.0.0/8", "::1", false},      {"::1", "::1", true},                {"fd00::/8", "fd99::1", true},  {"fd00::/8", "fc00::1", false},
        {"10.0.0.0/8 , ::1", "::1", true},     {"0.0.0.0/0", "10.0.0.1", true},    {"0.0.0.0/0", "fd00::1", false},     {"::/0", "10.0.0.1", true},     {"10.1.128.0/17", "10.1.128.1", true},
        {"10.1.128.0/17", "10.1.127.1", false}, {"10.0.0.0/8", "::ffff:10.0.0.1", true}, {"unix:/run/x", "10.0.0.1", false},
    };
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        if (reaches(all[i].allow, all[i].host, false) != all[i].is)
            fail_msg("%s with %s", all[i].host, all[i].allow);
    struct reach r;
    assert_int_equal(reach_parse("unix:/run/x.sock,unix:/run/d/", &r, NULL), 0);
    static const char *const yes[] = {"/run/x.sock", "/run/d/a", "/run/d/b/c"};
    static const char *const no[] = {"", "x", "/run/x.soc", "/run/x.sock2", "/run/x.sock/a", "/run/d", "/run/d/", "/run/d/../x", "/run/d/./x", "/run/d//x", "/run/e/a", "/run//x.sock"};
    for (size_t i = 0; i < ARRAY_LEN(yes); i++)
        if (!reach_unix(&r, yes[i]))
            fail_msg("%s", yes[i]);
    for (size_t i = 0; i < ARRAY_LEN(no); i++)
        if (reach_unix(&r, no[i]))
            fail_msg("%s", no[i]);
    assert_false(reach_unix(NULL, "/run/x.sock"));
    assert_false(reach_plain(&r));
    reach_deinit(&r);
}

static void lists_that_are_refused(void **state)
{
    (void)state;
    static const char *const all[] = {"x", ",", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/", "10.0.0.1/8", "::/129", "fd00::1/8", "10.0.0/8", "10.0.0.0/8/9", "example.com", "unix:", "unix:x", "unix:/",
                                      "unix:/a/../b", "unix://a", "10.0.0.0/8,,::1"};
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        struct err err = ERR_INIT;
        struct reach r;
        if (reach_parse(all[i], &r, &err) != ERR_INVALID || !strstr(err.msg, "\""))
            fail_msg("%s: %s", all[i], err.msg);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(only_the_public_internet_over_tls), cmocka_unit_test(a_list_opens_what_it_names), cmocka_unit_test(lists_that_are_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
