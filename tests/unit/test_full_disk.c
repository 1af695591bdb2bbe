/* The usage journal on a disk that others have filled: what is answered is recorded, also when the gateway is killed, and before that cannot be kept nothing more is let in. A tmpfs in a mount
 * namespace of its own; where that is not allowed the test is skipped. */
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "gateway/journal.h"
#include "gateway/open_requests.h"
#include "ledger/files.h"
#include "ledger/ledger.h"

#define DISK "size=40m"
#define RUNNING 5000 /* requests that run when new ones are refused */

static char dir[] = "/tmp/seki-full-XXXXXX";

/* Takes all that is free. */
static void fill(void)
{
    char path[64];
    static char block[4096];
    snprintf(path, sizeof(path), "%s/filler", dir);
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND, 0600);
    assert_true(fd >= 0);
    while (write(fd, block, sizeof(block)) > 0)
        ;
    assert_int_equal(errno, ENOSPC);
    close(fd);
}

static void make_room(void)
{
    char path[64];
    snprintf(path, sizeof(path), "%s/filler", dir);
    assert_int_equal(unlink(path), 0);
}

static void wait_until_ready(struct journal *j)
{
    struct err err = ERR_INIT;
    for (int i = 0; i < 20000 && journal_ready(j, &err) < 0; i++)
        usleep(1000);
    ASSERT_OK(journal_ready(j, &err));
}

static void add(struct journal *j, int n)
{
    char id[32];
    snprintf(id, sizeof(id), "request-%d", n);
    journal_add(j, &(struct usage){.id = str_of(id), .project = STR("a-project-with-a-name"), .tenant = STR("a-tenant"), .key = STR("a-key"), .endpoint = STR("an-endpoint"), .model = STR("a-model"),
                                   .route = STR("chat.completions"), .outcome = STR("ok"), .status = 200, .exact = true, .has_work = true});
}

/* A gateway's life on that disk: it serves for as long as it may, and those that run then end. Killed. */
static int serve_until_refused(void)
{
    struct err err = ERR_INIT;
    struct journal *j;
    int n = 0;
    if (journal_open(dir, "gateway", &j, &err) < 0)
        _exit(1);
    fill();
    while (journal_ready(j, &err) == 0 && n < 1000000)
        add(j, n++);
    if (n < 5000 || !strstr(err.msg, "No space left on device") || !strstr(err.msg, "bytes are free"))
        _exit(2);
    for (int i = 0; i < RUNNING; i++)
        add(j, n++);
    if (journal_sequence(j) != n)
        _exit(3);
    return n;
}

static int in_a_process_that_is_killed(int (*fn)(void))
{
    int ends[2], n = 0, status;
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    if (child == 0) {
        n = fn();
        (void)!write(ends[1], &n, sizeof(n));
        kill(getpid(), SIGKILL);
    }
    close(ends[1]);
    (void)!read(ends[0], &n, sizeof(n));
    close(ends[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    if (WIFEXITED(status))
        fail_msg("it ended with %d", WEXITSTATUS(status));
    return n;
}

static void what_is_answered_on_a_full_disk_is_recorded_whoever_is_killed(void **state UNUSED)
{
    struct err err = ERR_INIT;
    struct journal *j;
    uint64_t records;
    int n = in_a_process_that_is_killed(serve_until_refused);
    ASSERT_OK(ledger_verify(dir, "usage-gateway", &records, &err));
    assert_int_equal(records, n);
    /* It starts on the full disk, and says why it lets nobody in. */
    ASSERT_OK(journal_open(dir, "gateway", &j, &err));
    assert_int_equal(journal_ready(j, &err), ERR_NO_SPACE);
    assert_int_equal(journal_sequence(j), n);
    make_room();
    wait_until_ready(j);
    add(j, n);
    assert_int_equal(journal_sequence(j), n + 1);
    journal_close(j);
    /* What it has ahead it has yet after its end, on a disk that has filled meanwhile. */
    fill();
    ASSERT_OK(journal_open(dir, "gateway", &j, &err));
    ASSERT_OK(journal_ready(j, &err));
    add(j, n + 1);
    assert_int_equal(journal_sequence(j), n + 2);
    journal_close(j);
    make_room();
}

static off_t blocks_of(const char *name)
{
    char path[128];
    struct stat st;
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    assert_int_equal(stat(path, &st), 0);
    return st.st_blocks * 512 - (st.st_size + 4095) / 4096 * 4096; /* beyond its end */
}

/* Where there is no room for a new file the last one goes on; afterwards the next one begins, and what lay ahead goes back to the disk. */
static void a_file_goes_on_while_there_is_no_room_for_the_next(void **state UNUSED)
{
    struct ledger_options o = {.dir = dir, .name = "small", .kind = LEDGER_USAGE_JOURNAL, .max_file_bytes = 16384};
    struct err err = ERR_INIT;
    struct ledger *l;
    unsigned first, last;
    uint64_t records;
    char body[1000];
    memset(body, 'x', sizeof(body));
    ASSERT_OK(ledger_open(&o, &l, &err));
    ASSERT_OK(ledger_room(l, 4 << 20, &err));
    assert_in_range(ledger_room_left(l), 4 << 20, 4 << 20);
    fill();
    for (int i = 0; i < 100; i++)
        ASSERT_OK(ledger_append(l, 1, 1, str_n(body, sizeof(body)), NULL, &err));
    ASSERT_OK(ledger_find_files(dir, "small", &first, &last, &err));
    assert_int_equal(last, 1);
    make_room();
    for (int i = 0; i < 1100; i++)
        ASSERT_OK(ledger_append(l, 1, 1, str_n(body, sizeof(body)), NULL, &err));
    ASSERT_OK(ledger_find_files(dir, "small", &first, &last, &err));
    assert_true(last > 1);
    assert_int_equal(blocks_of("small.000001"), 0);
    assert_true(ledger_room_left(l) > 3 << 20);
    ledger_close(l);
    ASSERT_OK(ledger_verify(dir, "small", &records, &err));
    assert_int_equal(records, 1200);
}

/* The disk is asked without the lock: what it gave to a file that has ended meanwhile goes back. */
static void room_for_a_file_that_has_ended_goes_back(void **state UNUSED)
{
    struct ledger_options o = {.dir = dir, .name = "rolls", .kind = LEDGER_USAGE_JOURNAL, .max_file_bytes = 16384};
    struct err err = ERR_INIT;
    struct ledger *l;
    char body[1000];
    memset(body, 'x', sizeof(body));
    ASSERT_OK(ledger_open(&o, &l, &err));
    struct ledger_room r = ledger_room_wish(l, 1 << 20);
    for (int i = 0; i < 20; i++)
        ASSERT_OK(ledger_append(l, 1, 1, str_n(body, sizeof(body)), NULL, &err));
    ASSERT_OK(ledger_room_ask(&r, &err));
    assert_true(blocks_of("rolls.000001") > 0);
    ledger_room_have(l, &r);
    assert_int_equal(blocks_of("rolls.000001"), 0);
    assert_int_equal(ledger_room_left(l), 0);
    ledger_close(l);
}

/* A disk that takes no record at all: what was answered is in the file of requests that run, until it is in the journal. */
static int answer_one_that_waits(void)
{
    struct err err = ERR_INIT;
    struct journal *j;
    char file[64], journal[64];
    struct stat st;
    struct usage_work work = {.replica = STR("p/r"), .start_ms = 1, .end_ms = 1};
    struct usage u = {.id = STR("waits"), .project = STR("p"), .outcome = STR("ok"), .status = 200, .exact = true, .has_work = true, .work = &work, .work_count = 1, .start_ms = 1};
    struct open_request *place = NULL;
    snprintf(file, sizeof(file), "%s/requests", dir);
    snprintf(journal, sizeof(journal), "%s/usage-last.000001", dir);
    if (journal_open(dir, "last", &j, &err) < 0)
        _exit(1);
    struct open_requests *o = open_requests_new(file, dir, j, 16);
    if (!o)
        _exit(2);
    open_request_begin(o, &place, &u, NULL, 5);
    open_request_note(place, 0, true, 5, 0, 7);
    if (stat(journal, &st) < 0 || truncate(journal, st.st_size) < 0) /* somebody takes what lay ahead */
        _exit(3);
    fill();
    for (int i = 0; i < 100 && journal_sequence(j) >= 0; i++) /* the last block has room yet */
        add(j, i);
    int written = (int)journal_written(j);
    journal_add(j, &u);
    if (journal_sequence(j) != -1 || journal_ready(j, &err) != ERR_NO_SPACE)
        _exit(4);
    return written;
}

static void what_waits_for_the_disk_survives_in_its_place(void **state UNUSED)
{
    struct err err = ERR_INIT;
    struct journal *j;
    struct open_requests *o;
    char file[64];
    uint64_t records;
    snprintf(file, sizeof(file), "%s/requests", dir);
    int written = in_a_process_that_is_killed(answer_one_that_waits);
    for (int round = 0; round < 2; round++) { /* killed again before there is room */
        ASSERT_OK(journal_open(dir, "last", &j, &err));
        o = open_requests_new(file, dir, j, 16);
        assert_null(o);
        assert_int_equal(journal_sequence(j), -1);
        assert_int_equal(journal_ready(j, &err), ERR_NO_SPACE);
        journal_close(j);
    }
    make_room();
    ASSERT_OK(journal_open(dir, "last", &j, &err));
    o = open_requests_new(file, dir, j, 16);
    assert_non_null(o);
    assert_int_equal(journal_sequence(j), written + 1);
    open_requests_free(o);
    journal_close(j);
    /* The file is emptied where it lies: a full disk gives it again. */
    fill();
    ASSERT_OK(journal_open(dir, "last", &j, &err));
    o = open_requests_new(file, dir, j, 16);
    assert_non_null(o);
    open_requests_free(o);
    journal_close(j);
    make_room();
    ASSERT_OK(ledger_verify(dir, "usage-last", &records, &err));
    assert_int_equal(records, written + 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(what_is_answered_on_a_full_disk_is_recorded_whoever_is_killed), cmocka_unit_test(a_file_goes_on_while_there_is_no_room_for_the_next),
                                       cmocka_unit_test(room_for_a_file_that_has_ended_goes_back), cmocka_unit_test(what_waits_for_the_disk_survives_in_its_place)};
    if (!mkdtemp(dir))
        return 1;
    if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 || mount("none", dir, "tmpfs", 0, DISK) < 0) {
        rmdir(dir);
        return 77;
    }
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    umount2(dir, MNT_DETACH);
    rmdir(dir);
    return failed;
}
