/* An access in an emergency is good only once its record is in the audit ledger, on the disk. */
#include "unit.h"

#include <dirent.h>
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
    loop_run_once(loop, 0); /* what it answered at its end */
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

static bool has_ended(const char *id)
{
    CLEANUP(mem_freep) char *ledger = xasprintf("%s/ledger", dir), *user = xasprintf("break-glass:%s", id);
    DIR *d = opendir(ledger);
    bool found = false;
    for (const struct dirent *e; d && !found && (e = readdir(d));) {
        CLEANUP(mem_freep) char *path = xasprintf("%s/%s", ledger, e->d_name), *text = NULL;
        size_t len = 0;
        if (file_read(path, 1u << 20, &text, &len, NULL) < 0)
            continue;
        for (const char *at = memmem(text, len, user, strlen(user)); at && !found; at = memmem(at + 1, len - (size_t)(at + 1 - text), user, strlen(user)))
            found = memmem(at, MIN(len - (size_t)(at - text), (size_t)500), "its record was removed", 22);
    }
    if (d)
        closedir(d);
    return found;
}

static void what_is_removed_while_nothing_can_be_recorded_has_its_end_recorded_later(void **state)
{
    struct access_waiter w = {.fn = ask_again};
    struct rlimit old, none;
    (void)state;
    asked = 0;
    write_record("cccccccccc", "never let in");
    write_record("dddddddddd", "let in");
    CLEANUP(mem_freep) char *c = xasprintf("%s/cccccccccc.json", dir), *d = xasprintf("%s/dddddddddd.json", dir), *aside = xasprintf("%s/aside", dir);
    assert_int_equal(rename(c, aside), 0);
    wait_until(is_good, "dddddddddd");
    assert_int_equal(rename(aside, c), 0);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    none = old;
    none.rlim_cur = 1;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &none), 0);
    assert_int_equal(break_glass_check(accesses, "cccccccccc"), ERR_BUSY);
    break_glass_wait(accesses, &w);
    assert_int_equal(unlink(c), 0);
    assert_int_equal(unlink(d), 0);
    wait_until(was_asked, NULL);
    uint64_t until = clock_mono_ms() + 3000; /* its end is tried to be recorded in that */
    while (clock_mono_ms() < until)
        loop_run_once(loop, 50);
    assert_int_equal(break_glass_check(accesses, "cccccccccc"), ERR_UNAUTHENTICATED);
    assert_int_equal(break_glass_check(accesses, "dddddddddd"), ERR_UNAUTHENTICATED);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    wait_until(has_ended, "cccccccccc");
    wait_until(has_ended, "dddddddddd");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_is_good_once_it_is_recorded),
        cmocka_unit_test(what_cannot_be_recorded_lets_nobody_in),
        cmocka_unit_test(what_is_removed_while_nothing_can_be_recorded_has_its_end_recorded_later),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
