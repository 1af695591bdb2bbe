/* Sealed texts, and root keys: one conformance test for both drivers, the second in a software token. */
#include "unit.h"

#include <spawn.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/rnd.h"
#include "crypto/envelope.h"
#include "crypto/pkcs11.h"
#include "crypto/root_key.h"

#define MODULE "/usr/lib/softhsm/libsofthsm2.so"
#define AAD STR("secrets/red/db")

static char dir[64];

static const char *in_dir(const char *name)
{
    static char paths[4][128];
    static int next;
    char *p = paths[next++ % 4];
    snprintf(p, sizeof(paths[0]), "%s/%s", dir, name);
    return p;
}

static void put(const char *name, const char *text, mode_t mode)
{
    struct err err = ERR_INIT;
    ASSERT_OK(file_write(in_dir(name), str_of(text), mode, &err));
}

static int sh(const char *command)
{
    pid_t pid;
    int status = -1;
    char *argv[] = {"/bin/sh", "-c", (char *)(uintptr_t)command, NULL};
    if (posix_spawn(&pid, argv[0], NULL, NULL, argv, environ) != 0 || waitpid(pid, &status, 0) != pid)
        return -1;
    return status;
}

/* Two tokens with a key "root" each, and one more key in the first. */
static bool make_tokens(void)
{
    char text[1024];
    if (access(MODULE, R_OK) < 0)
        return false;
    snprintf(text, sizeof(text), "directories.tokendir = %s/tokens\nobjectstore.backend = file\nlog.level = ERROR\n", dir);
    put("softhsm2.conf", text, 0600);
    setenv("SOFTHSM2_CONF", in_dir("softhsm2.conf"), 1);
    put("pin", "1234\n", 0600);
    put("wrong-pin", "4321\n", 0600);
    put("key-one", "0123456789abcdef0123456789abcdef", 0600);
    put("key-short", "0123456789abcdef", 0600);
    put("key-two", "fedcba9876543210fedcba9876543210", 0600);
    snprintf(text, sizeof(text),
             "cd %s && mkdir tokens && for t in one two; do softhsm2-util --init-token --free --label $t --so-pin 5678 --pin 1234 && "
             "softhsm2-util --import key-$t --aes --token $t --label root --id 01 --pin 1234 || exit 1; done >/dev/null && "
             "softhsm2-util --import key-two --aes --token one --label other --id 02 --pin 1234 >/dev/null && "
             "softhsm2-util --import key-short --aes --token one --label short --id 03 --pin 1234 >/dev/null",
             dir);
    return sh(text) == 0;
}

static bool have_tokens;

static int setup(void **state)
{
    (void)state;
    snprintf(dir, sizeof(dir), "/tmp/seki-envelope-XXXXXX");
    if (!mkdtemp(dir))
        return -1;
    have_tokens = make_tokens();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    return file_remove_tree(dir, &err);
}

/* ---- sealed texts ---- */

static struct envelope_key a_key(void)
{
    struct envelope_key k;
    rnd_bytes(k.bytes, sizeof(k.bytes));
    return k;
}

static void sealed_texts_open_where_they_belong(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct envelope_key kek = a_key(), other = a_key();
    uint8_t id[ENVELOPE_ID_BYTES] = {7, 8, 9}, found[ENVELOPE_ID_BYTES];
    static const char *const plains[] = {"", "x", "a longer secret, of more than one block of the cipher"};
    for (size_t i = 0; i < ARRAY_LEN(plains); i++) {
        CLEANUP(sbuf_deinit) struct sbuf sealed = {0}, again = {0}, plain = {0};
        sbuf_init(&sealed, 4096);
        sbuf_init(&again, 4096);
        sbuf_init(&plain, 4096);
        ASSERT_OK(envelope_seal(id, &kek, AAD, str_of(plains[i]), &sealed, &err));
        assert_int_equal(sealed.len, strlen(plains[i]) + ENVELOPE_OVERHEAD);
        ASSERT_OK(envelope_seal(id, &kek, AAD, str_of(plains[i]), &again, &err));
        assert_memory_not_equal(sealed.ptr + 1 + ENVELOPE_ID_BYTES, again.ptr + 1 + ENVELOPE_ID_BYTES, sealed.len - 1 - ENVELOPE_ID_BYTES);
        ASSERT_OK(envelope_key_id(sbuf_str(&sealed), found, &err));
        assert_memory_equal(found, id, sizeof(id));
        ASSERT_OK(envelope_open(&kek, AAD, sbuf_str(&sealed), &plain, &err));
        assert_true(str_eqc(sbuf_str(&plain), plains[i]));
        assert_int_equal(envelope_open(&kek, STR("secrets/blue/db"), sbuf_str(&sealed), &plain, &err), ERR_CORRUPT);
        assert_int_equal(envelope_open(&other, AAD, sbuf_str(&sealed), &plain, &err), ERR_CORRUPT);
        assert_int_equal(plain.len, strlen(plains[i]));
    }
}

static void no_byte_can_be_changed_or_cut(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct envelope_key kek = a_key();
    uint8_t id[ENVELOPE_ID_BYTES] = {1};
    CLEANUP(sbuf_deinit) struct sbuf sealed = {0}, plain = {0};
    sbuf_init(&sealed, 4096);
    sbuf_init(&plain, 4096);
    ASSERT_OK(envelope_seal(id, &kek, AAD, STR("not for everybody"), &sealed, &err));
    for (size_t i = 0; i < sealed.len; i++)
        for (int bit = 0; bit < 8; bit++) {
            sealed.ptr[i] = (char)(sealed.ptr[i] ^ 1 << bit);
            assert_int_equal(envelope_open(&kek, AAD, sbuf_str(&sealed), &plain, &err), ERR_CORRUPT);
            sealed.ptr[i] = (char)(sealed.ptr[i] ^ 1 << bit);
        }
    for (size_t len = 0; len < sealed.len; len++)
        assert_int_equal(envelope_open(&kek, AAD, str_n(sealed.ptr, len), &plain, &err), ERR_CORRUPT);
    sbuf_add_char(&sealed, 'x');
    assert_int_equal(envelope_open(&kek, AAD, sbuf_str(&sealed), &plain, &err), ERR_CORRUPT);
    assert_int_equal(plain.len, 0);
}

/* What the first text wraps is not the second's. */
static void halves_of_two_texts_are_no_text(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct envelope_key kek = a_key();
    uint8_t id[ENVELOPE_ID_BYTES] = {1};
    size_t half = 1 + ENVELOPE_ID_BYTES + ENVELOPE_KEY_BYTES + AEAD_OVERHEAD;
    CLEANUP(sbuf_deinit) struct sbuf a = {0}, b = {0}, plain = {0};
    sbuf_init(&a, 4096);
    sbuf_init(&b, 4096);
    sbuf_init(&plain, 4096);
    ASSERT_OK(envelope_seal(id, &kek, AAD, STR("one"), &a, &err));
    ASSERT_OK(envelope_seal(id, &kek, AAD, STR("two"), &b, &err));
    memcpy(a.ptr + half, b.ptr + half, a.len - half);
    assert_int_equal(envelope_open(&kek, AAD, sbuf_str(&a), &plain, &err), ERR_CORRUPT);
}

/* ---- root keys: every driver ---- */

struct member {
    const char *name, *driver;
    char one[512], other[512]; /* two keys */
};

static bool member_init(struct member *m, const char *driver)
{
    m->driver = driver;
    if (!strcmp(driver, "file")) {
        struct root_key *k = NULL;
        snprintf(m->one, sizeof(m->one), "%s/one.key", dir);
        snprintf(m->other, sizeof(m->other), "file:%s/other.key", dir);
        for (int i = 0; i < 2; i++) {
            struct err err = ERR_INIT;
            ASSERT_OK(root_key_open(i ? m->other : m->one, true, &k, &err));
            root_key_free(k);
        }
        return true;
    }
    snprintf(m->one, sizeof(m->one), "pkcs11:token=one;object=root;type=secret-key?module-path=" MODULE "&pin-source=file:%s/pin", dir);
    snprintf(m->other, sizeof(m->other), "pkcs11:token=two;id=%%01?module-path=" MODULE "&pin-source=file:%s/pin", dir);
    return have_tokens;
}

static void conformance(const char *driver)
{
    struct member m;
    struct err err = ERR_INIT;
    struct root_key *k = NULL, *same = NULL, *other = NULL;
    if (!member_init(&m, driver))
        skip();
    CLEANUP(sbuf_deinit) struct sbuf wrapped = {0}, twice = {0}, plain = {0};
    sbuf_init(&wrapped, 4096);
    sbuf_init(&twice, 4096);
    sbuf_init(&plain, 4096);
    struct envelope_key key = a_key();
    struct str text = str_n(key.bytes, sizeof(key.bytes));
    ASSERT_OK(root_key_open(m.one, false, &k, &err));
    ASSERT_OK(root_key_open(m.one, false, &same, &err));
    ASSERT_OK(root_key_open(m.other, false, &other, &err));
    assert_string_equal(root_key_driver(k), driver);
    assert_non_null(strstr(root_key_name(k), driver));

    ASSERT_OK(root_key_wrap(k, AAD, text, &wrapped, &err));
    assert_int_equal(wrapped.len, text.len + AEAD_OVERHEAD);
    ASSERT_OK(root_key_wrap(k, AAD, text, &twice, &err));
    assert_memory_not_equal(wrapped.ptr, twice.ptr, wrapped.len);
    ASSERT_OK(root_key_unwrap(k, AAD, sbuf_str(&wrapped), &plain, &err));
    assert_true(str_eq(sbuf_str(&plain), text));
    sbuf_reset(&plain);
    ASSERT_OK(root_key_unwrap(same, AAD, sbuf_str(&wrapped), &plain, &err));
    assert_true(str_eq(sbuf_str(&plain), text));
    sbuf_reset(&plain);

    assert_int_equal(root_key_unwrap(other, AAD, sbuf_str(&wrapped), &plain, &err), ERR_CORRUPT);
    assert_int_equal(root_key_unwrap(k, STR("another place"), sbuf_str(&wrapped), &plain, &err), ERR_CORRUPT);
    for (size_t i = 0; i < wrapped.len; i++) {
        wrapped.ptr[i] ^= 1;
        assert_int_equal(root_key_unwrap(k, AAD, sbuf_str(&wrapped), &plain, &err), ERR_CORRUPT);
        wrapped.ptr[i] ^= 1;
        assert_int_equal(root_key_unwrap(k, AAD, str_n(wrapped.ptr, i), &plain, &err), ERR_CORRUPT);
    }
    assert_int_equal(plain.len, 0);
    ASSERT_OK(root_key_unwrap(k, AAD, sbuf_str(&wrapped), &plain, &err)); /* a failure breaks nothing */
    root_key_free(other);
    root_key_free(same);
    root_key_free(k);
}

static void root_key_conformance_file(void **state)
{
    (void)state;
    conformance("file");
}

static void root_key_conformance_pkcs11(void **state)
{
    (void)state;
    conformance("pkcs11");
}

/* ---- root keys in files ---- */

static int try_open(const char *where, bool may_create, struct err *err)
{
    struct root_key *k = NULL;
    *err = (struct err){0};
    int rc = root_key_open(where, may_create, &k, err);
    root_key_free(k);
    return rc;
}

static void a_root_key_file_is_made_once_and_private(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct stat st;
    char *first = NULL, *second = NULL;
    size_t len = 0;
    const char *path = in_dir("made.key");
    assert_int_equal(try_open(path, false, &err), ERR_NOT_FOUND);
    assert_non_null(strstr(err.msg, "made.key"));
    assert_false(file_exists(path));
    ASSERT_OK(try_open(path, true, &err));
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    ASSERT_OK(file_read(path, 1000, &first, &len, &err));
    assert_int_equal(len, 65);
    ASSERT_OK(try_open(path, true, &err));
    ASSERT_OK(file_read(path, 1000, &second, &len, &err));
    assert_string_equal(first, second);
    mem_free(first);
    mem_free(second);
}

static void a_root_key_file_that_is_none_is_refused(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    static const char *const bad[] = {"", "\n", "0011", "zz112233445566778899aabbccddeeff00112233445566778899aabbccddeeff", "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff00"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        put("bad.key", bad[i], 0600);
        assert_int_equal(try_open(in_dir("bad.key"), true, &err), ERR_CORRUPT);
        assert_non_null(strstr(err.msg, "bad.key"));
    }
    static const mode_t modes[] = {0640, 0604, 0660, 0700 | 010};
    put("open.key", "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n", 0600);
    ASSERT_OK(try_open(in_dir("open.key"), false, &err));
    for (size_t i = 0; i < ARRAY_LEN(modes); i++) {
        assert_int_equal(chmod(in_dir("open.key"), modes[i]), 0);
        assert_int_equal(try_open(in_dir("open.key"), true, &err), ERR_FORBIDDEN);
        assert_non_null(strstr(err.msg, "chmod 600"));
    }
    assert_int_equal(try_open(dir, true, &err), ERR_INVALID);
}

/* ---- tokens ---- */

static void a_token_that_is_not_as_named_is_refused(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    char uri[512];
    static const struct {
        const char *path, *pin;
        int code;
        const char *says;
    } cases[] = {{"token=three;object=root", "pin", ERR_NOT_FOUND, "three"}, {"token=one;object=nothing", "pin", ERR_NOT_FOUND, "nothing"},
                 {"token=one;object=root", "wrong-pin", ERR_UNAVAILABLE, "PIN is wrong"}, {"token=one;object=root", "no-pin", ERR_NOT_FOUND, "no-pin"}, {"token=one;object=short", "pin", ERR_INVALID, "has 16 bytes"},
                 {"object=root", "pin", ERR_INVALID, "expected one"}};
    if (!have_tokens)
        skip();
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        snprintf(uri, sizeof(uri), "pkcs11:%s?module-path=" MODULE "&pin-source=file:%s/%s", cases[i].path, dir, cases[i].pin);
        assert_int_equal(try_open(uri, true, &err), cases[i].code);
        assert_non_null(strstr(err.msg, cases[i].says));
    }
    assert_int_equal(try_open("pkcs11:object=root?module-path=/nowhere.so", true, &err), ERR_NOT_FOUND);
    assert_int_equal(try_open("pkcs11:object=root?module-path=/etc/passwd", true, &err), ERR_NOT_FOUND);
}

static void uris(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct pkcs11_uri u;
    ASSERT_OK(pkcs11_uri_parse(STR("pkcs11:token=My%20token;object=root;id=%00%FFa;serial=1;type=secret-key?module-path=/lib/x.so&pin-source=file:/etc/pin"), &u, &err));
    assert_string_equal(u.token, "My token");
    assert_string_equal(u.object, "root");
    assert_string_equal(u.serial, "1");
    assert_string_equal(u.module_path, "/lib/x.so");
    assert_string_equal(u.pin_file, "/etc/pin");
    assert_int_equal(u.id_len, 3);
    assert_memory_equal(u.id, "\0\377a", 3);
    static const struct {
        const char *uri, *says;
    } bad[] = {{"pkcs12:object=a", "begins with"}, {"pkcs11:", "NAME=VALUE"}, {"pkcs11:token=a?module-path=/x", "names no key"}, {"pkcs11:object=a", "module-path"},
               {"pkcs11:object=a?module-path=x.so", "module-path"}, {"pkcs11:object=a?module-path=/x&pin-value=1234", "pin-value is refused"},
               {"pkcs11:object=a?module-path=/x&pin-source=|/bin/x", "pin-source"}, {"pkcs11:object=a?module-path=/x&pin-source=file:x", "pin-source"},
               {"pkcs11:object=a;object=b?module-path=/x", "twice"}, {"pkcs11:id=a;id=b?module-path=/x", "twice"}, {"pkcs11:object=a%2?module-path=/x", "hexadecimal"},
               {"pkcs11:object=a%zz?module-path=/x", "hexadecimal"}, {"pkcs11:object=a%00?module-path=/x", "NUL"}, {"pkcs11:object=?module-path=/x", "empty"},
               {"pkcs11:object=a b?module-path=/x", "printable"}, {"pkcs11:colour=red;object=a?module-path=/x", "colour"}, {"pkcs11:type=private;object=a?module-path=/x", "type"},
               {"pkcs11:token=123456789012345678901234567890123;object=a?module-path=/x", "longer than 32"}};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        assert_int_equal(pkcs11_uri_parse(str_of(bad[i].uri), &u, &err), ERR_INVALID);
        assert_non_null(strstr(err.msg, bad[i].says));
        assert_null(strstr(err.msg, "1234"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sealed_texts_open_where_they_belong), cmocka_unit_test(no_byte_can_be_changed_or_cut), cmocka_unit_test(halves_of_two_texts_are_no_text),
        cmocka_unit_test(root_key_conformance_file), cmocka_unit_test(root_key_conformance_pkcs11), cmocka_unit_test(a_root_key_file_is_made_once_and_private),
        cmocka_unit_test(a_root_key_file_that_is_none_is_refused), cmocka_unit_test(a_token_that_is_not_as_named_is_refused), cmocka_unit_test(uris),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
