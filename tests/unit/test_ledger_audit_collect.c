/* Records of other processes' audit journals: each is copied once, whatever happens in between. */
#include "unit.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "ledger/audit_collect.h"
#include "ledger/ledger.h"

static char dir[64];

/* The log that they are copied into. */
static struct {
    struct sbuf text; /* its records, with a line's end between */
    int refuses;      /* records from now on that it takes before it takes none; -1: it takes all */
    bool is_open, is_broken;
} copies;

static int begin(void *arg UNUSED, struct err *err)
{
    assert_false(copies.is_open);
    copies.is_open = true;
    return copies.is_broken ? err_set(err, ERR_IO, "the log takes nothing") : 0;
}

static int append(void *arg UNUSED, int64_t time_ms UNUSED, struct str body, struct err *err)
{
    assert_true(copies.is_open && !copies.is_broken);
    if (copies.refuses == 0)
        return err_set(err, ERR_NO_SPACE, "the disk is full");
    copies.refuses -= copies.refuses > 0;
    sbuf_addc(&copies.text, copies.text.len ? "\n" : "");
    sbuf_add(&copies.text, body);
    return 0;
}

static void end(void *arg UNUSED)
{
    assert_true(copies.is_open);
    copies.is_open = false;
}

static const struct audit_collect_ops ops = {begin, append, end};

static int make_dir(void **state UNUSED)
{
    snprintf(dir, sizeof(dir), "/tmp/seki-collect-XXXXXX");
    copies.refuses = -1;
    copies.is_broken = false;
    sbuf_init(&copies.text, 1 << 16);
    return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state UNUSED)
{
    sbuf_deinit(&copies.text);
    return file_remove_tree(dir, NULL);
}

static struct ledger *journal(const char *name)
{
    const struct ledger_options o = {.dir = dir, .name = name, .kind = LEDGER_AUDIT};
    struct err err = ERR_INIT;
    struct ledger *l;
    ASSERT_OK(ledger_open(&o, &l, &err));
    return l;
}

static void add(struct ledger *l, const char *body)
{
    struct err err = ERR_INIT;
    ASSERT_OK(ledger_append(l, 1000, 1, str_of(body), NULL, &err));
    ASSERT_OK(ledger_sync(l, &err));
}

static void expect(const char *records)
{
    CLEANUP(sbuf_deinit) struct sbuf bare = {0};
    sbuf_init(&bare, 1 << 16);
    for (struct str rest = sbuf_str(&copies.text), line; str_cut(&rest, '\n', &line);) {
        const char *origin = memmem(line.ptr, line.len, ",\"origin\":\"", 11);
        assert_non_null(origin);
        sbuf_add(&bare, str_n(line.ptr, (size_t)(origin - line.ptr)));
        sbuf_addc(&bare, "}");
    }
    assert_string_equal(bare.len ? bare.ptr : "", records);
}

static void each_record_is_copied_once(void **state UNUSED)
{
    struct ledger *a = journal("audit-g"), *b = journal("audit-g-next"),
                  *other = journal("audit-go");
    struct audit_collection *x = audit_collection_new(dir, "audit-g", &ops, NULL);
    add(a, "{\"n\":1}");
    add(other, "{\"n\":9}"); /* its name only begins alike */
    audit_collect(x);
    audit_collect(x);
    expect("{\"n\":1}");
    add(a, "{\"n\":2}");
    audit_collect(x);
    add(b, "{\"n\":3}");
    audit_collect(x);
    expect("{\"n\":1}{\"n\":2}{\"n\":3}");
    audit_collection_free(x);
    ledger_close(a);
    ledger_close(b);
    ledger_close(other);
}

/* What the log has says how far each was copied. */
static void a_log_that_is_opened_anew_goes_on(void **state UNUSED)
{
    struct ledger *a = journal("audit-g");
    struct audit_collection *x = audit_collection_new(dir, "audit-g", &ops, NULL);
    add(a, "{\"n\":1}");
    add(a, "{\"n\":2}");
    audit_collect(x);
    audit_collection_free(x);
    x = audit_collection_new(dir, "audit-g", &ops, NULL);
    for (struct str rest = sbuf_str(&copies.text), line; str_cut(&rest, '\n', &line);) {
        audit_collection_saw(x, line);
        audit_collection_saw(NULL, line);
    }
    audit_collection_saw(x, STR("{\"n\":7}"));
    audit_collection_saw(x, STR("{\"n\":7,\"origin\":\"audit-go/id/9\"}"));
    add(a, "{\"n\":3}");
    audit_collect(x);
    expect("{\"n\":1}{\"n\":2}{\"n\":3}");
    audit_collection_free(x);
    ledger_close(a);
}

/* As long as a journal takes them, so without room for where they came from. */
static void what_is_too_long_is_copied_shortened(void **state UNUSED)
{
    struct ledger *a = journal("audit-g");
    struct audit_collection *x = audit_collection_new(dir, "audit-g", &ops, NULL);
    CLEANUP(sbuf_deinit) struct sbuf body = {0};
    static const char *const begins[] = {"{\"type\":\"denied\",\"id\":\"q\",\"tenant\":\"acme\","
                                         "\"verb\":\"get\",\"status\":403,\"more\":\"",
                                         "{\"n\":\""};
    sbuf_init(&body, LEDGER_BODY_MAX);
    for (size_t i = 0; i < ARRAY_LEN(begins); i++) {
        sbuf_reset(&body);
        sbuf_addc(&body, begins[i]);
        while (body.len < LEDGER_BODY_MAX - 2)
            sbuf_add_char(&body, 'x');
        sbuf_addc(&body, "\"}");
        add(a, body.ptr);
    }
    add(a, "{\"n\":3}");
    audit_collect(x);
    audit_collect(x);
    expect("{\"type\":\"denied\",\"id\":\"q\",\"verb\":\"get\",\"tenant\":\"acme\",\"status\":403}{"
           "\"type\":\"other\",\"reason\":\"RecordUnreadable\"}{\"n\":3}");
    audit_collection_free(x);
    ledger_close(a);
}

static void what_the_log_refused_is_copied_later(void **state UNUSED)
{
    struct ledger *a = journal("audit-g");
    struct audit_collection *x = audit_collection_new(dir, "audit-g", &ops, NULL);
    add(a, "{\"n\":1}");
    add(a, "{\"n\":2}");
    copies.is_broken = true;
    audit_collect(x);
    expect("");
    copies.is_broken = false;
    copies.refuses = 1;
    audit_collect(x);
    expect("{\"n\":1}");
    copies.refuses = -1;
    audit_collect(x);
    expect("{\"n\":1}{\"n\":2}");
    audit_collection_free(x);
    ledger_close(a);
}

static void another_journal_of_that_name_is_read_from_its_beginning(void **state UNUSED)
{
    struct err err = ERR_INIT;
    struct ledger *a = journal("audit-g");
    struct audit_collection *x = audit_collection_new(dir, "audit-g", &ops, NULL);
    add(a, "{\"n\":1}");
    add(a, "{\"n\":2}");
    audit_collect(x);
    ledger_close(a);
    ASSERT_OK(file_remove_tree(dir, &err));
    ASSERT_OK(file_mkdirs(dir, 0700, &err));
    a = journal("audit-g");
    add(a, "{\"n\":3}");
    audit_collect(x);
    expect("{\"n\":1}{\"n\":2}{\"n\":3}");
    audit_collection_free(x);
    ledger_close(a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(each_record_is_copied_once, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(a_log_that_is_opened_anew_goes_on, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(what_is_too_long_is_copied_shortened, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(what_the_log_refused_is_copied_later, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(another_journal_of_that_name_is_read_from_its_beginning,
                                        make_dir, remove_dir),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
