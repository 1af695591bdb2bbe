/* What a gateway that was killed left under the other name: settled as soon as it can be; what cannot be is tried again less and less often, and is to be seen. */
#include "unit.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/metrics.h"
#include "gateway/left_requests.h"
#include "gateway/open_requests.h"

static char dir[] = "/tmp/seki-left-XXXXXX", path[64];
static struct left_requests left;

static int setup(void **state UNUSED)
{
    if (!mkdtemp(dir))
        return -1;
    snprintf(path, sizeof(path), "%s/gateway-next.requests", dir);
    left = (struct left_requests){.dir = dir, .gateway = "gateway-next", .path = path, .pause_ms = LEFT_LOOK_MS};
    return 0;
}

static int teardown(void **state UNUSED)
{
    return file_remove_tree(dir, NULL);
}

static bool is_failing(void)
{
    CLEANUP(sbuf_deinit) struct sbuf out = {0};
    sbuf_init(&out, 1 << 20);
    metrics_write(&out);
    return memmem(out.ptr, out.len, "\nseki_gateway_left_requests_failing 1\n", 38) != NULL;
}

static void leave_one(void)
{
    struct err err = ERR_INIT;
    struct journal *j;
    struct open_request *place = NULL;
    const struct usage_work work = {.replica = STR("p/e-0"), .start_ms = 1000, .end_ms = 1000};
    ASSERT_OK(journal_open(dir, "gateway-next", &j, &err));
    struct open_requests *o = open_requests_new(path, dir, j, 8);
    assert_non_null(o);
    open_request_begin(o, &place, &(struct usage){.id = STR("r"), .project = STR("p"), .outcome = STR("killed"), .start_ms = 1000, .ttft_ms = -1, .work = &work, .work_count = 1, .has_work = true}, NULL, 1);
    assert_int_equal(left_requests_look(&left), LEFT_LOOK_MS); /* it runs */
    assert_true(file_exists(path));
    open_requests_free(o);
    journal_close(j);
}

static void it_is_settled_once_nobody_holds_its_journal(void **state UNUSED)
{
    assert_int_equal(left_requests_look(&left), LEFT_LOOK_MS);
    leave_one();
    assert_int_equal(left_requests_look(&left), LEFT_LOOK_MS);
    assert_false(file_exists(path));
    assert_false(is_failing());
}

static void what_cannot_be_settled_is_tried_less_and_less_often_and_is_seen(void **state UNUSED)
{
    struct err err = ERR_INIT;
    leave_one();
    CLEANUP(mem_freep) char *journal = xasprintf("%s/usage-gateway-next.lock", dir);
    assert_int_equal(unlink(journal), 0);
    ASSERT_OK(file_mkdirs(journal, 0700, &err)); /* no journal can be opened */
    assert_int_equal(left_requests_look(&left), 2 * LEFT_LOOK_MS);
    assert_int_equal(left_requests_look(&left), 4 * LEFT_LOOK_MS);
    assert_true(is_failing());
    for (int i = 0; i < 10; i++)
        (void)left_requests_look(&left);
    assert_int_equal(left_requests_look(&left), LEFT_LOOK_MAX_MS);
    assert_int_equal(rmdir(journal), 0);
    assert_int_equal(left_requests_look(&left), LEFT_LOOK_MS);
    assert_false(file_exists(path));
    assert_false(is_failing());
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_is_settled_once_nobody_holds_its_journal),
        cmocka_unit_test(what_cannot_be_settled_is_tried_less_and_less_often_and_is_seen),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
