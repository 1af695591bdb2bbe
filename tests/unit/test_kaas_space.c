/* Room in a cluster's store: what etcd says of it, and what is done. */
#include "unit.h"

#include <string.h>

#include "kaas/store_space.h"

#define MIB (1LL << 20)

static int parsed(const char *status, const char *alarms, struct store_space *ret)
{
    JSON_AUTO s = NULL;
    JSON_AUTO a = NULL;
    assert_int_equal(json_parse(str_of(status), 65536, &s, NULL), 0);
    assert_int_equal(json_parse(str_of(alarms), 65536, &a, NULL), 0);
    return space_read(s, a, ret, NULL);
}

static void test_what_etcd_says(void **state UNUSED)
{
    struct store_space s;
    assert_int_equal(parsed("{\"header\":{\"revision\":\"7\"},\"dbSize\":\"20480\",\"dbSizeInUse\":\"16384\",\"dbSizeQuota\":\"2147483648\"}", "{\"header\":{}}", &s), 0);
    assert_true(s.bytes == 20480 && s.used == 16384 && s.limit == 2048 * MIB && !s.no_space);
    /* One that does not tell its quota; an alarm of another kind, and ours. Members' numbers do not fit into 63 bits. */
    assert_int_equal(parsed("{\"dbSize\":\"20480\",\"dbSizeInUse\":\"16384\"}", "{\"alarms\":[{\"memberID\":\"1\",\"alarm\":\"CORRUPT\"}]}", &s), 0);
    assert_true(!s.limit && !s.no_space);
    static const char mine[] = "{\"header\":{\"member_id\":\"12418672204160889912\"},\"dbSize\":\"20480\",\"dbSizeInUse\":\"16384\"}";
    assert_int_equal(parsed(mine, "{\"alarms\":[{\"memberID\":\"7\",\"alarm\":\"NOSPACE\"}]}", &s), 0);
    assert_false(s.no_space); /* another member's */
    assert_int_equal(parsed(mine, "{\"alarms\":[{\"memberID\":\"7\",\"alarm\":\"NOSPACE\"},{\"memberID\":\"12418672204160889912\",\"alarm\":\"NOSPACE\"}]}", &s), 0);
    assert_true(s.no_space);
    assert_string_equal(s.member, "12418672204160889912");
    static const char *const bad[] = {"{}", "[]", "{\"dbSize\":20480}", "{\"dbSize\":\"-1\"}", "{\"dbSize\":\"20480\",\"dbSizeInUse\":\"x\"}", "{\"dbSize\":\"99999999999999999999\"}"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_int_equal(parsed(bad[i], "{}", &s), ERR_PROTOCOL);
    assert_int_equal(parsed("{\"header\":{\"member_id\":\"124186722041608899121241867220416088\"},\"dbSize\":\"20480\"}", "{}", &s), ERR_PROTOCOL);
}

static void test_what_is_done(void **state UNUSED)
{
    static const struct {
        struct store_space is;
        enum space_care care;
        const char *reason;
    } cases[] = {
        {{.bytes = 30 * MIB, .used = 1 * MIB, .limit = 2048 * MIB}, SPACE_FINE, "Enough"}, /* not worth it */
        {{.bytes = 100 * MIB, .used = 60 * MIB, .limit = 2048 * MIB}, SPACE_FINE, "Enough"},
        {{.bytes = 100 * MIB, .used = 40 * MIB, .limit = 2048 * MIB}, SPACE_DEFRAGMENT, "Enough"},
        {{.bytes = 1800 * MIB, .used = 1700 * MIB, .limit = 2048 * MIB}, SPACE_FINE, "NearlyFull"},
        {{.bytes = 1800 * MIB, .used = 1700 * MIB}, SPACE_FINE, "Enough"}, /* of what is not known */
        {{.bytes = 2048 * MIB, .used = 40 * MIB, .limit = 2048 * MIB, .no_space = true}, SPACE_MAKE_ROOM, "Full"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        if (space_care(&cases[i].is) != cases[i].care || strcmp(space_reason(&cases[i].is), cases[i].reason) != 0)
            fail_msg("case %zu", i);
    }
    assert_true(space_has_room(&cases[5].is, 40 * MIB));
    assert_false(space_has_room(&cases[5].is, 2048 * MIB));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_what_etcd_says), cmocka_unit_test(test_what_is_done)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
