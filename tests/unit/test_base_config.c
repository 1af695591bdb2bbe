#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/config.h"
#include "base/file.h"
#include "base/mem.h"

struct options {
    char *name;
    bool verbose;
    int64_t port;
    int64_t body;
    int64_t idle;
    int64_t role;
};

static const struct conf_option schema[] = {
    {"", "name", CONF_STR, offsetof(struct options, name), "seki", 0, 0, NULL, NULL, false,
     "A name."},
    {"", "verbose", CONF_BOOL, offsetof(struct options, verbose), "false", 0, 0, NULL, NULL, true,
     "Says more."},
    {"gateway", "port", CONF_INT, offsetof(struct options, port), "8000", 1, 65535, NULL, NULL,
     false, "Port."},
    {"gateway", "max_body", CONF_SIZE, offsetof(struct options, body), "1M", 0, 0, NULL, "bytes",
     true, "Largest body.\nLarger ones get 413."},
    {"gateway", "idle", CONF_DURATION, offsetof(struct options, idle), "90s", 1000, 3600000, NULL,
     NULL, true, "Idle."},
    {"control", "role", CONF_ENUM, offsetof(struct options, role), "all", 0, 0,
     "all|control|gateway", NULL, false, "Role."},
};

static struct arena *arena;

static int setup(void **state)
{
    (void)state;
    arena = arena_new(1 << 20);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    arena_freep(&arena);
    return 0;
}

static int parse(const char *text, struct options *o, struct err *err)
{
    return conf_parse(schema, ARRAY_LEN(schema), "seki.conf", str_of(text), arena, o, err);
}

static void defaults_and_values(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct options o;
    ASSERT_OK(parse("", &o, &err));
    assert_string_equal(o.name, "seki");
    assert_int_equal(o.port, 8000);
    assert_int_equal(o.body, 1 << 20);
    assert_int_equal(o.idle, 90000);
    ASSERT_OK(parse("# top\r\nname =  a = b \nverbose=yes\n; other\n[ gateway ]\nmax_body = 2G\n"
                    "idle = 1m30s\n[control]\nrole = gateway\n[gateway]\nport = 1",
                    &o, &err));
    assert_string_equal(o.name, "a = b");
    assert_true(o.verbose);
    assert_int_equal(o.port, 1);
    assert_true(o.body == 2LL << 30);
    assert_int_equal(o.role, 2);
}

static void errors_name_the_place_and_change_nothing(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        const char *msg;
    } cases[] = {
        {"[gateway]\nport = 70000",
         "seki.conf:2: gateway.port: expected an integer from 1 to 65535, got \"70000\""},
        {"verbose = maybe", "seki.conf:1: verbose: expected true or false, got \"maybe\""},
        {"[gateway]\nidle = 10ms",
         "seki.conf:2: gateway.idle: expected a duration such as 250ms, 90s or 1h30m "
         "from 1s to 1h, got \"10ms\""},
        {"[gateway]\nmax_body = 9999999999G", "seki.conf:2: gateway.max_body: expected a size such "
                                              "as 64K, 10M or 2G, got \"9999999999G\""},
        {"[control]\nrole = boss",
         "seki.conf:2: control.role: expected one of all|control|gateway, got \"boss\""},
        {"[gateway]\nfoo = 1", "seki.conf:2: unknown option \"foo\" in section [gateway]"},
        {"port = 1", "seki.conf:1: unknown option \"port\" in section []"},
        {"[fleet]", "seki.conf:1: unknown section [fleet]"},
        {"[gateway", "seki.conf:1: expected \"]\" at the end of the section's heading"},
        {"name", "seki.conf:1: expected \"key = value\""},
        {"name = a\nname = b", "seki.conf:2: name is set twice, first in line 1"},
        {"name = a\x01", "seki.conf:1: control character in the line"},
        {"name = \xFF", "seki.conf:1: the line is not UTF-8"},
        {"[", "seki.conf:1: expected \"]\" at the end of the section's heading"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct err err = ERR_INIT;
        struct options o = {.port = 7};
        ASSERT_ERR(parse(cases[i].text, &o, &err), ERR_INVALID);
        assert_string_equal(err.msg, cases[i].msg);
        assert_int_equal(o.port, 7);
        assert_null(o.name);
    }
}

static void file_then_flags(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    char path[] = "/tmp/seki-test-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    ASSERT_OK(file_write(path, STR("name = file\n[gateway]\nport = 1\n"), 0600, &err));
    struct conf_flag flags[] = {
        {"gateway-port", "2"}, {"gateway-max-body", "3K"}, {"verbose", NULL}};
    struct options o;
    ASSERT_OK(conf_load(schema, ARRAY_LEN(schema), path, flags, ARRAY_LEN(flags), arena, &o, &err));
    assert_string_equal(o.name, "file");
    assert_int_equal(o.port, 2);
    assert_int_equal(o.body, 3072);
    assert_true(o.verbose);
    struct conf_flag unknown = {"gateway-ports", "2"}, bare = {"name", NULL};
    ASSERT_ERR(conf_load(schema, ARRAY_LEN(schema), path, &unknown, 1, arena, &o, &err),
               ERR_INVALID);
    assert_string_equal(err.msg, "unknown flag --gateway-ports");
    ASSERT_ERR(conf_load(schema, ARRAY_LEN(schema), path, &bare, 1, arena, &o, &err), ERR_INVALID);
    unlink(path);
    ASSERT_ERR(conf_load(schema, ARRAY_LEN(schema), path, NULL, 0, arena, &o, &err), ERR_NOT_FOUND);
}

static void reference_is_a_config(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct options o;
    CLEANUP(sbuf_deinit) struct sbuf b;
    sbuf_init(&b, 1 << 16);
    conf_write_reference(schema, ARRAY_LEN(schema), &b);
    ASSERT_OK(parse(b.ptr, &o, &err));
    assert_non_null(strstr(b.ptr, "[gateway]"));
    assert_non_null(strstr(b.ptr, "\n#port = 8000\n"));
    assert_non_null(strstr(b.ptr, "# Larger ones get 413.\n"));
}

static void files(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    char dir[] = "/tmp/seki-test-XXXXXX";
    assert_non_null(mkdtemp(dir));
    char *deep = arena_printf(arena, "%s/a//b/c", dir), *path = arena_printf(arena, "%s/x", deep);
    ASSERT_OK(file_mkdirs(deep, 0700, &err));
    ASSERT_OK(file_mkdirs(deep, 0700, &err));
    ASSERT_OK(file_write(path, STR("12345"), 0600, &err));
    ASSERT_OK(file_write(path, STR("1234567890"), 0600, &err));
    ASSERT_ERR(file_mkdirs(path, 0700, &err), ERR_IO);

    char *text = NULL;
    size_t len = 0;
    ASSERT_OK(file_read(path, 10, &text, &len, &err));
    assert_int_equal(len, 10);
    assert_string_equal(text, "1234567890");
    mem_free(text);
    ASSERT_ERR(file_read(path, 9, &text, &len, &err), ERR_TOO_LARGE);
    ASSERT_ERR(file_read(dir, 9, &text, &len, &err), ERR_IO);
    ASSERT_OK(file_read("/proc/self/stat", 4096, &text, &len, &err));
    assert_true(len > 0);
    mem_free(text);

    int lock = -1, second = -1;
    char *lock_path = arena_printf(arena, "%s/lock", dir);
    ASSERT_OK(file_lock(lock_path, &lock, &err));
    ASSERT_ERR(file_lock(lock_path, &second, &err), ERR_BUSY);
    file_closep(&lock);
    ASSERT_OK(file_lock(lock_path, &second, &err));
    file_closep(&second);

    /* Links are removed, not followed. */
    char *victim = arena_printf(arena, "%s-victim", dir);
    ASSERT_OK(file_write(victim, STR("x"), 0600, &err));
    assert_int_equal(symlink(victim, arena_printf(arena, "%s/link", deep)), 0);
    assert_int_equal(symlink("/tmp", arena_printf(arena, "%s/dirlink", deep)), 0);
    ASSERT_OK(file_remove_tree(dir, &err));
    assert_false(file_exists(dir));
    assert_true(file_exists(victim));
    ASSERT_OK(file_remove_tree(dir, &err));
    unlink(victim);
}

/* As somebody makes it who wants it to stay. */
static void make_deep(const char *top, const char *name, int depth)
{
    assert_int_equal(mkdir(top, 0700) < 0 && errno != EEXIST, 0);
    int fd = open(top, O_RDONLY | O_DIRECTORY);
    for (int i = 0; i < depth; i++) {
        assert_int_equal(mkdirat(fd, name, 0700), 0);
        int child = openat(fd, name, O_RDONLY | O_DIRECTORY);
        assert_true(child >= 0);
        close(fd);
        fd = child;
    }
    close(openat(fd, "file", O_CREAT | O_WRONLY, 0600));
    close(fd);
}

static void a_tree_of_any_depth_is_removed(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    char top[] = "/tmp/seki-test-XXXXXX";
    assert_non_null(mkdtemp(top));
    make_deep(top, "a", 63);
    ASSERT_OK(file_remove_tree(top, &err));
    make_deep(top, "a", 300);
    make_deep(top, "b", 300);
    make_deep(arena_printf(arena, "%s/.deep-0", top), "c", 3); /* a name that is wanted then */
    ASSERT_OK(file_remove_tree(top, &err));
    assert_false(file_exists(top));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(defaults_and_values, setup, teardown),
        cmocka_unit_test_setup_teardown(errors_name_the_place_and_change_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(file_then_flags, setup, teardown),
        cmocka_unit_test_setup_teardown(reference_is_a_config, setup, teardown),
        cmocka_unit_test_setup_teardown(files, setup, teardown),
        cmocka_unit_test_setup_teardown(a_tree_of_any_depth_is_removed, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
