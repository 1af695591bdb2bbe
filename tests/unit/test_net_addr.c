/* Addresses: texts there and back, listening, connecting. */
#include "net_peer.h"

#include <sys/stat.h>

static void texts(void **state)
{
    (void)state;
    static const struct {
        const char *text, *back; /* back NULL: refused */
        bool loopback;
        int port;
    } all[] = {
        {"127.0.0.1:8000", "127.0.0.1:8000", true, 8000},
        {"127.9.9.9:1", "127.9.9.9:1", true, 1},
        {"localhost:0", "127.0.0.1:0", true, 0},
        {"0.0.0.0:65535", "0.0.0.0:65535", false, 65535},
        {"10.0.0.1:80", "10.0.0.1:80", false, 80},
        {"[::1]:443", "[::1]:443", true, 443},
        {"[2001:DB8::1]:9", "[2001:db8::1]:9", false, 9},
        {"unix:/run/x.sock", "unix:/run/x.sock", true, 0},
        {"", NULL, false, 0},
        {":80", NULL, false, 0},
        {"127.0.0.1", NULL, false, 0},
        {"127.0.0.1:", NULL, false, 0},
        {"127.0.0.1:65536", NULL, false, 0},
        {"127.0.0.1:-1", NULL, false, 0},
        {"127.0.0.1: 80", NULL, false, 0},
        {"127.0.0:80", NULL, false, 0},
        {"example.com:80", NULL, false, 0},
        {"::1:80", NULL, false, 0},
        {"[]:80", NULL, false, 0},
        {"[::1:80", NULL, false, 0},
        {"[127.0.0.1]:80", NULL, false, 0},
        {"unix:", NULL, false, 0},
        {"unix:relative", NULL, false, 0},
    };
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        struct err err = ERR_INIT;
        struct net_addr a;
        char text[NET_ADDR_TEXT_MAX];
        int rc = net_addr_parse(str_of(all[i].text), &a, &err);
        if ((rc == 0) != (all[i].back != NULL))
            fail_msg("%s: %d %s", all[i].text, rc, err.msg);
        if (rc < 0) {
            assert_int_equal(rc, ERR_INVALID);
            assert_true(err.msg[0]);
            continue;
        }
        net_addr_format(&a, text);
        assert_string_equal(text, all[i].back);
        assert_int_equal(net_addr_is_loopback(&a), all[i].loopback);
        assert_int_equal(net_addr_port(&a), all[i].port);
    }
}

static void longest_unix_path(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct net_addr a;
    char text[200] = "unix:/", back[NET_ADDR_TEXT_MAX];
    memset(text + 6, 'p', 106); /* 107 bytes with the slash: all that fits with its NUL */
    ASSERT_OK(net_addr_parse(str_of(text), &a, &err));
    net_addr_format(&a, back);
    assert_string_equal(back, text);
    text[112] = 'p';
    ASSERT_ERR(net_addr_parse(str_of(text), &a, &err), ERR_INVALID);
}

static void listening(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct net_addr any, bound;
    int a = -1, b = -1;
    ASSERT_OK(net_addr_parse(STR("127.0.0.1:0"), &any, &err));
    ASSERT_OK(net_listen(&any, false, &a, &bound, &err));
    assert_int_not_equal(net_addr_port(&bound), 0);
    ASSERT_ERR(net_listen(&bound, false, &b, NULL, &err), ERR_BUSY);
    char text[NET_ADDR_TEXT_MAX];
    net_addr_format(&bound, text);
    assert_non_null(strstr(err.msg, text)); /* the message names the address */
    struct peer *p = peer_connect(&bound);
    peer_close(p);
    close(a);
    ASSERT_OK(net_listen(&any, true, &a, &bound, &err));
    ASSERT_OK(net_listen(&bound, true, &b, NULL, &err)); /* shared on purpose */
    close(a);
    close(b);
}

static void unix_sockets(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct net_addr a;
    struct stat st;
    char dir[] = "/tmp/seki-addr-XXXXXX", text[64];
    int first = -1, second = -1;
    assert_non_null(mkdtemp(dir));
    snprintf(text, sizeof(text), "unix:%s/s", dir);
    ASSERT_OK(net_addr_parse(str_of(text), &a, &err));
    ASSERT_OK(net_listen(&a, false, &first, NULL, &err));
    assert_int_equal(stat(text + 5, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    ASSERT_ERR(net_listen(&a, false, &second, NULL, &err), ERR_BUSY);
    close(first); /* leaves the file, as a killed process does */
    ASSERT_OK(net_listen(&a, false, &second, NULL, &err));
    close(second);
    ASSERT_OK(file_remove_tree(dir, &err));
}

static void refused(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct net_addr a;
    int fd = peer_listen(&a);
    close(fd);
    int rc = net_connect(&a, &fd, &err);
    if (rc == 0) {
        struct pollfd ready = {.fd = fd, .events = POLLOUT};
        assert_int_equal(poll(&ready, 1, PEER_WAIT_MS), 1);
        rc = net_connect_result(fd, &err);
        close(fd);
    }
    assert_true(rc < 0);
    assert_non_null(strstr(err.msg, "refused"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(texts),
        cmocka_unit_test(longest_unix_path),
        cmocka_unit_test(listening),
        cmocka_unit_test(unix_sockets),
        cmocka_unit_test(refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
