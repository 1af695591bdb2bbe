/* Tokens: what is signed verifies, and nothing else does: another key, algorithm, spelling, or a changed byte. */
#include "unit.h"

#include "base/file.h"
#include "base/mem.h"
#include "crypto/jwt.h"

#include <sys/stat.h>
#include <unistd.h>

static char dir[64], path[80], other_path[80];
static struct jwt_key *key, *other;

static int setup(void **state UNUSED)
{
    struct err err = ERR_INIT;
    snprintf(dir, sizeof(dir), "/tmp/seki-jwt-XXXXXX");
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/key", dir);
    snprintf(other_path, sizeof(other_path), "%s/other", dir);
    ASSERT_OK(jwt_key_ensure(path, &key, &err));
    ASSERT_OK(jwt_key_ensure(other_path, &other, &err));
    return 0;
}

static int teardown(void **state UNUSED)
{
    jwt_key_free(key);
    jwt_key_free(other);
    return file_remove_tree(dir, NULL);
}

static char *make(const struct jwt_key *k)
{
    CLEANUP(sbuf_deinit) struct sbuf out = {0};
    struct err err = ERR_INIT;
    JSON_AUTO claims = json_pack("{s:s, s:i}", "sub", "somebody", "exp", 7);
    sbuf_init(&out, JWT_MAX);
    ASSERT_OK(jwt_sign(k, claims, &out, &err));
    return sbuf_take(&out);
}

static int check(const char *token, struct err *err)
{
    CLEANUP(jwt_deinit) struct jwt t = {0};
    int rc = jwt_parse(str_of(token), &t, err);
    return rc < 0 ? rc : jwt_verify(key, &t, err);
}

static void what_is_signed_verifies(void **state UNUSED)
{
    CLEANUP(mem_freep) char *token = make(key);
    CLEANUP(jwt_deinit) struct jwt t = {0};
    struct err err = ERR_INIT;
    ASSERT_OK(jwt_parse(str_of(token), &t, &err));
    assert_string_equal(t.key_id, jwt_key_id(key));
    assert_string_equal(json_str(t.claims, "sub"), "somebody");
    ASSERT_OK(jwt_verify(key, &t, &err));
    for (int i = 0; i < 50; i++) { /* numbers with leading zeros too */
        CLEANUP(mem_freep) char *one = make(key);
        ASSERT_OK(check(one, &err));
    }
}

static void keys_are_kept(void **state UNUSED)
{
    struct err err = ERR_INIT;
    struct stat st;
    struct jwt_key *again = NULL;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    ASSERT_OK(jwt_key_ensure(path, &again, &err));
    assert_string_equal(jwt_key_id(again), jwt_key_id(key));
    assert_string_not_equal(jwt_key_id(other), jwt_key_id(key));
    assert_int_equal(strlen(jwt_key_id(key)), 43);
    jwt_key_free(again);
    char bad[96];
    snprintf(bad, sizeof(bad), "%s/bad", dir);
    ASSERT_OK(file_write(bad, STR("no key"), 0600, &err));
    assert_int_equal(jwt_key_ensure(bad, &again, &err), ERR_CORRUPT);
}

static void another_key_is_refused(void **state UNUSED)
{
    CLEANUP(mem_freep) char *token = make(other);
    CLEANUP(jwt_deinit) struct jwt t = {0};
    struct err err = ERR_INIT;
    assert_int_equal(check(token, &err), ERR_UNAUTHENTICATED);
    /* and when it claims to be ours */
    ASSERT_OK(jwt_parse(str_of(token), &t, &err));
    snprintf(t.key_id, sizeof(t.key_id), "%s", jwt_key_id(key));
    assert_int_equal(jwt_verify(key, &t, &err), ERR_UNAUTHENTICATED);
}

static void every_character_counts(void **state UNUSED)
{
    CLEANUP(mem_freep) char *token = make(key);
    struct err err = ERR_INIT;
    for (size_t i = 0; token[i]; i++) {
        char was = token[i];
        for (const char *c = "A_z.="; *c; c++) {
            if (*c == was)
                continue;
            token[i] = *c;
            assert_int_equal(check(token, &err), ERR_UNAUTHENTICATED);
        }
        token[i] = was;
    }
    for (size_t len = 0; len < strlen(token); len++) {
        CLEANUP(mem_freep) char *cut = xstrndup(token, len);
        assert_int_equal(check(cut, &err), ERR_UNAUTHENTICATED);
    }
    ASSERT_OK(check(token, &err));
}

static void text64(const char *in, char *out, size_t size)
{
    CLEANUP(sbuf_deinit) struct sbuf b = {0};
    sbuf_init(&b, 65536);
    base64_encode(str_of(in), &b);
    snprintf(out, size, "%.*s", (int)strcspn(b.ptr ? b.ptr : "", "="), b.ptr ? b.ptr : "");
    for (char *p = out; *p; p++)
        *p = *p == '+' ? '-' : *p == '/' ? '_' : *p;
}

#define LONG "0123456789012345678901234567890123456789012345678901234567890123" /* four are one more than an id may have */

static void headers(void **state UNUSED)
{
    static const struct {
        const char *header;
        bool ok;
    } cases[] = {{"{\"alg\":\"ES256\",\"kid\":\"k\"}", true}, {"{\"alg\":\"none\",\"kid\":\"k\"}", false}, {"{\"alg\":\"HS256\",\"kid\":\"k\"}", false}, {"{\"alg\":\"RS256\",\"kid\":\"k\"}", false},
                 {"{\"alg\":\"es256\",\"kid\":\"k\"}", false}, {"{\"kid\":\"k\"}", false}, {"{\"alg\":\"ES256\"}", true}, {"{\"alg\":\"ES256\",\"kid\":\"\"}", false}, {"{\"alg\":\"ES256\",\"kid\":7}", false}, {"{\"alg\":\"ES384\",\"kid\":\"k\"}", false}, {"{\"alg\":\"EdDSA\",\"kid\":\"k\"}", true}, {"{\"alg\":[\"ES256\"],\"kid\":\"k\"}", false}, {"[]", false}, {"", false},
                 {"{\"alg\":\"ES256\",\"kid\":\"k\",\"crit\":[\"exp\"]}", false}, {"{\"alg\":\"none\",\"alg\":\"ES256\",\"kid\":\"k\"}", false},
                 {"{\"alg\":\"ES256\",\"kid\":\"" LONG LONG LONG LONG "\"}", false}};
    char signature[JWT_SIGNATURE_BYTES + 1], s[128], h[512], c[64], token[1024];
    memset(signature, 'x', JWT_SIGNATURE_BYTES);
    signature[JWT_SIGNATURE_BYTES] = 0;
    text64(signature, s, sizeof(s));
    text64("{\"a\":1}", c, sizeof(c));
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        CLEANUP(jwt_deinit) struct jwt t = {0};
        struct err err = ERR_INIT;
        text64(cases[i].header, h, sizeof(h));
        snprintf(token, sizeof(token), "%s.%s.%s", h, c, s);
        if ((jwt_parse(str_of(token), &t, &err) == 0) != cases[i].ok)
            fail_msg("%s: %s", cases[i].header, err.msg);
        snprintf(token, sizeof(token), "%s.%s.", h, c); /* no signature */
        assert_int_equal(check(token, &err), ERR_UNAUTHENTICATED);
    }
    static const char *const bodies[] = {"[]", "", "7", "{", "\"x\""};
    text64(cases[0].header, h, sizeof(h));
    for (size_t i = 0; i < ARRAY_LEN(bodies); i++) {
        struct err err = ERR_INIT;
        text64(bodies[i], c, sizeof(c));
        snprintf(token, sizeof(token), "%s.%s.%s", h, c, s);
        assert_int_equal(check(token, &err), ERR_UNAUTHENTICATED);
    }
}

static void sizes_are_bounded(void **state UNUSED)
{
    CLEANUP(sbuf_deinit) struct sbuf out = {0};
    struct err err = ERR_INIT;
    char *big = malloc(JWT_MAX + 2);
    memset(big, 'a', JWT_MAX + 1);
    big[JWT_MAX + 1] = 0;
    assert_int_equal(check(big, &err), ERR_UNAUTHENTICATED);
    sbuf_init(&out, 4 * JWT_MAX);
    JSON_AUTO claims = json_pack("{s:s}", "sub", big);
    assert_int_equal(jwt_sign(key, claims, &out, &err), ERR_TOO_LARGE);
    free(big);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_signed_verifies), cmocka_unit_test(keys_are_kept), cmocka_unit_test(another_key_is_refused), cmocka_unit_test(every_character_counts),
        cmocka_unit_test(headers), cmocka_unit_test(sizes_are_bounded),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
