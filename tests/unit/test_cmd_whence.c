/* From where somebody came, by what the processes above say. */
#include "unit.h"

#include <stdlib.h>

#include "cmd/whence.h"

static void an_address_is_found_in_an_environment(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        size_t len;
        const char *want;
    } cases[] = {
        {"A=b\0SSH_CONNECTION=203.0.113.9 50022 192.0.2.1 22\0C=d", 55, "203.0.113.9"},
        {"SSH_CONNECTION=2001:db8::7 50022 2001:db8::1 22\0", 48, "2001:db8::7"},
        {"XSSH_CONNECTION=203.0.113.9 1 2 3", 33, ""},
        {"SSH_CONNECTION=\0", 16, ""},
        {"SSH_CONNECTION=evil\",\"x\":\"y 1", 30, ""},
        {"SSH_CONNECTION=1111:2222:3333:4444:5555:6666:7777:8888:9999:0000 1", 66, ""},
        {"\0\0\0", 3, ""},
        {"", 0, ""},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        assert_true(str_eqc(whence_in(str_n(cases[i].text, cases[i].len)), cases[i].want));
    assert_int_equal(whence_in(STR_NULL).len, 0);
}

static void a_parent_is_found_behind_any_name(void **state)
{
    (void)state;
    assert_int_equal(whence_parent(STR("4711 (bash) S 4710 4711 4711 0 -1")), 4710);
    assert_int_equal(whence_parent(STR("4711 (a) S 1 (b) R) S 99 4711")), 99);
    assert_int_equal(whence_parent(STR("1 (systemd) S 0 1 1 0")), 0);
    assert_int_equal(whence_parent(STR("no such text")), 0);
    assert_int_equal(whence_parent(STR("1 (x)")), 0);
    assert_int_equal(whence_parent(STR("1 (x) S -4 1")), 0);
    assert_int_equal(whence_parent(STR_NULL), 0);
}

static void this_process_is_asked_first(void **state)
{
    (void)state;
    struct arena *a = arena_new(65536);
    const char *address = whence_address(a);
    assert_non_null(address);
    const char *agent = whence_agent(a, "seki break-glass");
    assert_true(str_starts(str_of(agent), STR("seki break-glass")));
    arena_free(a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_address_is_found_in_an_environment),
        cmocka_unit_test(a_parent_is_found_behind_any_name),
        cmocka_unit_test(this_process_is_asked_first),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
