/* An access in an emergency is good only once its record is in the audit ledger, on the disk. */
#include "unit.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "cmd/break_glass.h"

static char dir[] = "/tmp/seki-break-glass-XXXXXX";
static struct loop *loop;
static struct audit_log *audit;
static struct break_glass *accesses;
static int asked;

static void event_made(void *ctx, const struct local_call *c)
{
    (void)ctx;
    c->done(c->arg, 201, NULL);
}

static void ask_again(void *arg)
{
    (void)arg;
    asked++;
}

static void write_record(const char *id, const char *reason)
{
    char until[CLOCK_TEXT_MAX];
    struct err err = ERR_INIT;
    clock_format(clock_wall_ms() + 600000, until);
    CLEANUP(mem_freep) char *path = xasprintf("%s/%s.json", dir, id);
    CLEANUP(mem_freep) char *text = xasprintf("{\"by\":\"olga\",\"reason\":\"%s\",\"until\":\"%s\",\"source\":\"::1\",\"agent\":\"x\"}", reason, until);
    ASSERT_OK(file_write(path, str_of(text), 0600, &err));
}

static void wait_until(bool (*fn)(const char *), const char *arg)
{
    uint64_t end = clock_mono_ms() + 60000;
    while (!fn(arg)) {
        assert_true(clock_mono_ms() < end);
        loop_run_once(loop, 50);
    }
}

static bool was_asked(const char *arg)
{
    (void)arg;
    return asked > 0;
}

static bool is_good(const char *id)
{
    return break_glass_check(accesses, id) == 0;
}

static int setup(void **state)
{
    struct err err = ERR_INIT;
    (void)state;
    assert_non_null(mkdtemp(dir));
    ASSERT_OK(loop_new(&loop, &err));
    CLEANUP(mem_freep) char *ledger = xasprintf("%s/ledger", dir);
    ASSERT_OK(file_mkdirs(ledger, 0700, &err));
    ASSERT_OK(audit_log_open(&(struct audit_log_options){ledger, AUDIT_LEDGER, NULL}, &audit, &err));
    accesses = break_glass_new(loop, dir);
    break_glass_record_in(accesses, audit);
    break_glass_start(accesses, &(struct client_local){.loop = loop, .call = event_made}, NULL);
    return 0;
}

static int teardown(void **state)
{
    struct err err = ERR_INIT;
    (void)state;
    break_glass_free(accesses);
    audit_log_close(audit);
    loop_free(loop);
    return file_remove_tree(dir, &err);
}

static void it_is_good_once_it_is_recorded(void **state)
{
    struct access_waiter w = {.fn = ask_again};
    (void)state;
    assert_int_equal(break_glass_check(accesses, "aaaaaaaaaa"), ERR_UNAUTHENTICATED);
    write_record("aaaaaaaaaa", "why");
    assert_int_equal(break_glass_check(accesses, "aaaaaaaaaa"), ERR_BUSY);
    break_glass_wait(accesses, &w);
    assert_non_null(w.list);
    wait_until(was_asked, NULL);
    assert_null(w.list);
    assert_int_equal(break_glass_check(accesses, "aaaaaaaaaa"), 0);
    assert_int_equal(break_glass_check(accesses, "../../../x"), ERR_UNAUTHENTICATED);
}

static void what_cannot_be_recorded_lets_nobody_in(void **state)
{
    struct access_waiter w = {.fn = ask_again}, left = {.fn = ask_again};
    struct rlimit old, none;
    (void)state;
    asked = 0;
    write_record("bbbbbbbbbb", "the disk is full");
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    none = old;
    none.rlim_cur = 1;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &none), 0);
    assert_int_equal(break_glass_check(accesses, "bbbbbbbbbb"), ERR_BUSY);
    break_glass_wait(accesses, &w);
    break_glass_wait(accesses, &left);
    TAILQ_REMOVE(left.list, &left, link); /* its client is gone */
    wait_until(was_asked, NULL);
    assert_int_equal(break_glass_check(accesses, "bbbbbbbbbb"), ERR_UNAUTHENTICATED);
    assert_int_equal(asked, 1);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    wait_until(is_good, "bbbbbbbbbb"); /* the next look tries again */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_is_good_once_it_is_recorded),
        cmocka_unit_test(what_cannot_be_recorded_lets_nobody_in),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
