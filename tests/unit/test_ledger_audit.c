/* Audit records, and their writer on a store: no transaction is committed before its note is durable, and what is not committed is said to be undone. */
#include "store_env.h"

#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "ledger/audit_log.h"
#include "ledger/ledger.h"
#include "store_disk.h"

static struct store_env env;
static struct audit_log *audit;
static struct arena *arena;

static int setup(void **state)
{
    struct err err = ERR_INIT;
    (void)state;
    disk_reset();
    arena = arena_new(16 * 1024 * 1024);
    env_init(&env);
    env.open = store_open_sqlite;
    ASSERT_OK(audit_log_open(&(struct audit_log_options){env.dir, AUDIT_LEDGER, AUDIT_GATEWAY}, &audit, &err));
    env.options.journal = audit_log_journal(audit);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    env_close(&env);
    audit_log_close(audit);
    audit = NULL;
    env_deinit(&env);
    arena_free(arena);
    disk_reset();
    return 0;
}

/* ---- records ---- */

static struct str encoded(const struct audit_event *e)
{
    CLEANUP(sbuf_deinit) struct sbuf text = {0};
    sbuf_init(&text, LEDGER_BODY_MAX);
    audit_encode(e, &text);
    assert_true(sbuf_ok(&text));
    return arena_str(arena, sbuf_str(&text));
}

static void what_is_written_is_read(void **state)
{
    const char *const groups[] = {"a", "b \" c", NULL};
    struct audit_event out, in = {.type = AUDIT_DENIED, .id = STR("req-1"), .user = STR("u\n"), .sender = STR("s"), .source = STR("::1"), .groups = groups, .verb = STR("get"), .resource = STR("secrets"),
                                  .namespace = STR("n"), .name = STR("関"), .tenant = STR("t"), .rule = STR("r"), .reason = STR("Forbidden"), .status = 403, .rev = 7, .last_rev = 9, .count = 12};
    struct err err = ERR_INIT;
    (void)state;
    ASSERT_OK(audit_decode(encoded(&in), arena, &out, &err));
    assert_int_equal(out.type, AUDIT_DENIED);
    assert_true(str_eq(out.user, in.user) && str_eq(out.name, in.name) && str_eq(out.reason, in.reason) && str_eq(out.tenant, in.tenant) && str_eq(out.agent, STR("")));
    assert_string_equal(out.groups[1], "b \" c");
    assert_null(out.groups[2]);
    assert_true(out.status == 403 && out.rev == 7 && out.last_rev == 9 && out.count == 12);
    assert_true(str_eq(encoded(&out), encoded(&in)));
}

static struct audit_event viewed(struct audit_event e, const char *tenant, bool *ret)
{
    assert_true(audit_may_concern(encoded(&e), str_of(tenant)) || !audit_view(&(struct audit_event){.type = e.type, .tenant = e.tenant, .actor_tenant = e.actor_tenant}, str_of(tenant)));
    *ret = audit_view(&e, str_of(tenant));
    return e;
}

static void a_tenant_sees_what_is_its_and_no_more(void **state)
{
    const char *const groups[] = {"seki:tenant:b", NULL};
    struct audit_event e = {.type = AUDIT_DENIED, .id = STR("r"), .user = STR("bob"), .uid = STR("i"), .groups = groups, .source = STR("::1"), .agent = STR("x"), .sender = STR("s"), .verb = STR("get"),
                            .resource = STR("secrets"), .namespace = STR("a-lab"), .name = STR("n"), .object = STR("o"), .tenant = STR("a"), .actor_tenant = STR("b"), .rule = STR(AUDIT_FOREIGN), .status = 404};
    bool shown;
    (void)state;
    /* Whose it is: that it was tried, not by whom. */
    struct audit_event seen = viewed(e, "a", &shown);
    assert_true(shown && str_eqc(seen.tenant, "a") && str_eqc(seen.namespace, "a-lab") && str_eqc(seen.rule, AUDIT_FOREIGN));
    struct str text = encoded(&seen);
    assert_null(memmem(text.ptr, text.len, "bob", 3));
    assert_true(!seen.id.len && !seen.uid.len && !seen.source.len && !seen.agent.len && !seen.sender.len && !seen.actor_tenant.len && !seen.groups);
    /* Who tried: by whom, not whose it is. */
    seen = viewed(e, "b", &shown);
    text = encoded(&seen);
    assert_true(shown && str_eqc(seen.user, "bob") && str_eqc(seen.tenant, "b") && !seen.object.len);
    assert_null(memmem(text.ptr, text.len, "\"a\"", 3));
    for (size_t i = 0; i < 4; i++) {
        static const char *const others[] = {"c", "", "a-lab", "ab"};
        (void)viewed(e, others[i], &shown);
        assert_false(shown);
    }
    /* What was allowed: whole for whose it is, nothing for others. */
    e.type = AUDIT_WRITE;
    e.rule = STR("RoleBinding/a-lab/bob → ClusterRole/edit");
    seen = viewed(e, "a", &shown);
    assert_true(shown && str_eqc(seen.user, "bob") && seen.groups && str_eqc(seen.object, "o"));
    (void)viewed(e, "b", &shown);
    assert_false(shown);
    /* Its own people's tokens and those who act in their names; and of all, that writes were undone. */
    e = (struct audit_event){.type = AUDIT_TOKEN, .user = STR("bob"), .object = STR("jti"), .actor_tenant = STR("b")};
    seen = viewed(e, "b", &shown);
    assert_true(shown && str_eqc(seen.object, "jti"));
    e = (struct audit_event){.type = AUDIT_IMPERSONATION, .user = STR("bob"), .sender = STR("olga"), .resource = STR("tenants"), .rule = STR("x"), .actor_tenant = STR("b")};
    seen = viewed(e, "b", &shown);
    assert_true(shown && str_eqc(seen.sender, "olga") && !seen.rule.len);
    (void)viewed((struct audit_event){.type = AUDIT_UNDONE, .rev = 3, .last_rev = 4}, "a", &shown);
    assert_true(shown);
    (void)viewed((struct audit_event){.type = AUDIT_RESTORED, .user = STR("olga"), .rev = 3}, "a", &shown);
    assert_false(shown);
    (void)viewed((struct audit_event){.type = AUDIT_BREAK_GLASS, .user = STR("seki:break-glass:x"), .sender = STR("root"), .verb = STR("create")}, "a", &shown);
    assert_false(shown);
}

static void strangers_texts_are_cut_between_characters(void **state)
{
    char text[3 * 400 + 1];
    struct audit_event out;
    struct err err = ERR_INIT;
    (void)state;
    for (int i = 0; i < 400; i++)
        memcpy(text + 3 * i, "関", 3);
    ASSERT_OK(audit_decode(encoded(&(struct audit_event){.agent = str_n(text, sizeof(text) - 1)}), arena, &out, &err));
    assert_int_equal(out.agent.len, 510);
}

/* The worst that can come: every text is there, long, and written as escapes or replaced. */
static void whatever_strangers_send_has_a_record(void **state)
{
    static const unsigned char bytes[] = {1, '"', 0x80, 'x'};
    char text[2000 + 1] = "";
    const char *groups[AUDIT_GROUPS_MAX + 1] = {NULL};
    (void)state;
    for (size_t i = 0; i < AUDIT_GROUPS_MAX; i++)
        groups[i] = text;
    for (size_t i = 0; i < ARRAY_LEN(bytes); i++) {
        struct err err = ERR_INIT;
        memset(text, bytes[i], sizeof(text) - 1);
        struct str s = str_of(text);
        struct audit_event out, in = {.type = AUDIT_IMPERSONATION,
                                      .id = s,
                                      .user = s,
                                      .uid = s,
                                      .sender = s,
                                      .source = s,
                                      .agent = s,
                                      .groups = groups,
                                      .verb = s,
                                      .group = s,
                                      .resource = s,
                                      .subresource = s,
                                      .namespace = s,
                                      .name = s,
                                      .object = s,
                                      .tenant = s,
                                      .actor_tenant = s,
                                      .rule = s,
                                      .reason = s,
                                      .origin = s,
                                      .until = s,
                                      .first = s,
                                      .last = s,
                                      .status = INT32_MIN,
                                      .rev = INT64_MIN,
                                      .last_rev = INT64_MIN,
                                      .count = INT64_MIN};
        struct str body = encoded(&in);
        assert_true(body.len <= AUDIT_ENCODED_MAX);
        ASSERT_OK(audit_decode(body, arena, &out, &err));
        assert_true(out.user.len >= 100 && out.last.len >= 100 && out.rev == in.rev &&
                    strlen(out.groups[AUDIT_GROUPS_MAX - 1]) >= 100);
    }
}

static void a_type_of_a_later_release_is_another(void **state)
{
    struct audit_event e;
    struct err err = ERR_INIT;
    (void)state;
    ASSERT_OK(audit_decode(STR("{\"type\":\"invented\",\"user\":\"me\",\"rev\":7,\"shape\":{}}"), arena, &e, &err));
    assert_int_equal(e.type, AUDIT_OTHER);
    assert_string_equal(audit_type_name(e.type), "other");
    assert_true(str_eqc(e.user, "me") && e.rev == 7);
}

static void what_is_no_record_is_refused_by_name(void **state)
{
    static const char *const bodies[] = {"", "{}", "[]", "{\"type\":7}", "{\"type\":\"write\",\"user\":1}", "{\"type\":\"write\",\"groups\":\"x\"}", "{\"type\":\"write\",\"groups\":[1]}"};
    struct audit_event e;
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bodies); i++) {
        struct err err = ERR_INIT;
        assert_true(audit_decode(str_of(bodies[i]), arena, &e, &err) < 0);
        assert_true(err.msg[0]);
    }
}

static void ocsf_has_what_its_class_requires(void **state)
{
    static const char *const required[] = {"activity_id", "category_uid", "class_uid", "severity_id", "time", "type_uid", "metadata", "actor", "api", "src_endpoint", "cloud"};
    static const struct {
        const char *verb;
        int id;
    } verbs[] = {{"create", 1}, {"list", 2}, {"patch", 3}, {"deletecollection", 4}, {"use", 99}};
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(verbs); i++) {
        JSON_AUTO o = audit_ocsf(&(struct audit_event){.type = AUDIT_WRITE, .verb = str_of(verbs[i].verb), .user = STR("u")}, 5, 1000, "");
        for (size_t r = 0; r < ARRAY_LEN(required); r++)
            assert_non_null(json_object_get(o, required[r]));
        assert_int_equal(json_int(o, "activity_id", 0), verbs[i].id);
        assert_int_equal(json_int(o, "type_uid", 0), 600300 + verbs[i].id);
        assert_int_equal(json_int(o, "status_id", 0), 1);
    }
    JSON_AUTO denied = audit_ocsf(&(struct audit_event){.type = AUDIT_DENIED, .verb = STR("get")}, 5, 1000, "ab");
    assert_int_equal(json_int(denied, "status_id", 0), 2);
    assert_string_equal(json_str_or(denied, "unmapped.previous_sha256", ""), "ab");
}

/* ---- the writer ---- */

struct seen {
    struct str all[64];
    size_t count;
};

static bool keep(void *arg, const struct ledger_record *rec)
{
    struct seen *s = arg;
    assert_true(s->count < ARRAY_LEN(s->all));
    s->all[s->count++] = arena_str(arena, rec->body);
    return true;
}

static struct seen read_all(void)
{
    struct ledger_reader *r;
    struct seen s = {.count = 0};
    struct err err = ERR_INIT;
    ASSERT_OK(ledger_reader_open(env.dir, AUDIT_LEDGER, &r, &err));
    ASSERT_OK(ledger_read(r, 0, keep, &s, &err));
    ledger_reader_close(r);
    return s;
}

static void assert_records(const char *const *want)
{
    struct seen s = read_all();
    size_t i = 0;
    for (; want[i]; i++) {
        if (i >= s.count)
            fail_msg("\"%s\" is missing", want[i]);
        if (!str_eqc(s.all[i], want[i]))
            fail_msg("\"%.*s\" instead of \"%s\"", STR_ARG(s.all[i]), want[i]);
    }
    assert_int_equal(s.count, i);
}

static int64_t put_noted(const char *key, const char *note)
{
    struct ack a = {0};
    struct store_op op = op_put(key, "v", -1);
    struct err err = ERR_INIT;
    int rc = store_txn_noted(env.store, &op, 1, str_of(note), on_ack, &a, &err);
    if (rc < 0)
        return rc;
    RUN_UNTIL(env.loop, a.done);
    return a.code ? a.code : a.rev;
}

static void a_note_is_there_before_the_answer_and_has_the_revision(void **state)
{
    (void)state;
    env_open(&env);
    assert_int_equal(put_noted("a", "{\"type\":\"write\",\"name\":\"a\"}"), 1);
    assert_int_equal(env_put(&env, "b", "v", -1), 2); /* without a note */
    assert_int_equal(put_noted("c", "{\"type\":\"write\",\"name\":\"c\"}"), 3);
    assert_records((const char *const[]){"{\"type\":\"write\",\"name\":\"a\",\"rev\":1}", "{\"type\":\"write\",\"name\":\"c\",\"rev\":3}", NULL});
}

static void what_the_disk_does_not_take_is_said_to_be_undone(void **state)
{
    (void)state;
    env.options.vfs = DISK_VFS;
    env_open(&env);
    assert_int_equal(put_noted("a", "{\"type\":\"write\"}"), 1);
    disk.sync_fails = true;
    assert_true(put_noted("b", "{\"type\":\"write\"}") < 0);
    disk.sync_fails = false;
    RUN_UNTIL(env.loop, store_health(env.store, NULL) == 0);
    assert_int_equal(put_noted("c", "{\"type\":\"write\"}"), 2);
    assert_records((const char *const[]){"{\"type\":\"write\",\"rev\":1}", "{\"type\":\"write\",\"rev\":2}", "{\"type\":\"undone\",\"rev\":2,\"last_rev\":2}", "{\"type\":\"write\",\"rev\":2}", NULL});
}

static int refuse(void *ctx, const struct store_note *notes, size_t count, struct err *err)
{
    int *refusals = ctx;
    (void)notes;
    (void)count;
    return --*refusals >= 0 ? err_set(err, ERR_NO_SPACE, "no room for notes") : 0;
}

static void never_undone(void *ctx, const struct store_note *notes, size_t count)
{
    (void)ctx;
    (void)notes;
    (void)count;
    fail();
}

static void without_its_note_nothing_is_written(void **state)
{
    int refusals = 1;
    struct store_journal journal = {&refusals, refuse, never_undone};
    (void)state;
    env.options.journal = &journal;
    env_open(&env);
    assert_int_equal(put_noted("a", "{\"type\":\"write\"}"), ERR_NO_SPACE);
    assert_null(store_get(env.store, STR("a")));
    assert_true(store_health(env.store, NULL) < 0);
    RUN_UNTIL(env.loop, store_health(env.store, NULL) == 0);
    assert_int_equal(put_noted("a", "{\"type\":\"write\"}"), 1);
}

static void records_of_a_lost_future_are_settled(void **state)
{
    struct err err = ERR_INIT;
    (void)state;
    env_open(&env);
    for (int i = 0; i < 3; i++)
        put_noted("a", "{\"type\":\"write\",\"name\":\"\\\"rev\\\":99\"}");
    ASSERT_OK(audit_log_settle(audit, 3, &err));
    assert_int_equal(read_all().count, 3);
    env_close(&env);
    audit_log_close(audit);
    ASSERT_OK(audit_log_open(&(struct audit_log_options){env.dir, AUDIT_LEDGER, NULL}, &audit, &err));
    ASSERT_OK(audit_log_settle(audit, 1, &err)); /* as after a kill between the two */
    ASSERT_OK(audit_log_settle(audit, 1, &err));
    struct seen s = read_all();
    assert_int_equal(s.count, 4);
    assert_true(str_eqc(s.all[3], "{\"type\":\"undone\",\"rev\":2,\"last_rev\":3}"));
}

static void reopen_audit(void)
{
    struct err err = ERR_INIT;
    audit_log_close(audit);
    ASSERT_OK(audit_log_open(&(struct audit_log_options){env.dir, AUDIT_LEDGER, AUDIT_GATEWAY}, &audit, &err));
}

static void write_as(const char *journal, const char *name)
{
    struct audit_log *other;
    struct err err = ERR_INIT;
    ASSERT_OK(audit_log_open(&(struct audit_log_options){env.dir, journal, NULL}, &other, &err));
    audit_log_add(other, &(struct audit_event){.type = AUDIT_REFUSED, .name = str_of(name), .status = 401});
    audit_log_close(other);
}

static void write_elsewhere(const char *name)
{
    write_as(AUDIT_GATEWAY, name);
}

static void several_journals_of_the_name_are_copied_once(void **state)
{
    (void)state;
    write_as(AUDIT_GATEWAY "-next", "a");
    write_elsewhere("b");
    write_as(AUDIT_GATEWAY "x", "not ours");
    reopen_audit();
    write_as(AUDIT_GATEWAY "-next", "c");
    write_elsewhere("d");
    reopen_audit();
    reopen_audit();
    audit_log_close(audit);
    audit = NULL;
    struct seen s = read_all();
    int names = 0;
    assert_int_equal(s.count, 4);
    for (size_t i = 0; i < 4; i++) {
        struct audit_event e;
        struct err err = ERR_INIT;
        ASSERT_OK(audit_decode(s.all[i], arena, &e, &err));
        names |= 1 << (e.name.ptr[0] - 'a');
    }
    assert_int_equal(names, 15);
}

static void records_of_another_process_are_copied_once(void **state)
{
    (void)state;
    write_elsewhere("a");
    write_elsewhere("b");
    reopen_audit(); /* copies at its end at the latest */
    reopen_audit();
    write_elsewhere("c");
    reopen_audit();
    audit_log_close(audit);
    audit = NULL;
    struct seen s = read_all();
    assert_int_equal(s.count, 3);
    for (size_t i = 0; i < 3; i++) {
        struct audit_event e;
        struct err err = ERR_INIT;
        char end[16];
        ASSERT_OK(audit_decode(s.all[i], arena, &e, &err));
        snprintf(end, sizeof(end), "/%zu", i + 1);
        assert_true(str_starts(e.origin, STR(AUDIT_GATEWAY "/")) && str_ends(e.origin, str_of(end)));
        assert_int_equal(e.name.ptr[0], "abc"[i]);
    }
}

static void another_journal_under_the_name_is_read_from_its_beginning(void **state)
{
    CLEANUP(mem_freep) char *path = xasprintf("%s/" AUDIT_GATEWAY ".000001", env.dir);
    (void)state;
    write_elsewhere("a");
    reopen_audit();
    assert_int_equal(unlink(path), 0);
    write_elsewhere("b");
    reopen_audit();
    audit_log_close(audit);
    audit = NULL;
    assert_int_equal(read_all().count, 2);
}

static void on_durable(void *arg, int code)
{
    *(struct ack *)arg = (struct ack){true, code, 0};
}

static void who_waits_is_told_when_it_is_durable(void **state)
{
    struct ack a = {0};
    (void)state;
    audit_log_add_then(audit, &(struct audit_event){.type = AUDIT_READ, .name = STR("s")}, &(struct audit_wait){env.loop, on_durable, &a});
    RUN_UNTIL(env.loop, a.done);
    assert_int_equal(a.code, 0);
    assert_records((const char *const[]){"{\"type\":\"read\",\"name\":\"s\"}", NULL});
}

struct sums {
    int64_t same, others, records;
};

static bool sum_up(void *arg, const struct ledger_record *rec)
{
    struct sums *s = arg;
    struct audit_event e;
    struct err err = ERR_INIT;
    ASSERT_OK(audit_decode(rec->body, arena, &e, &err));
    *(str_eqc(e.name, "same") ? &s->same : &s->others) += e.count ? e.count : 1;
    s->records++;
    return true;
}

static void the_same_is_counted_and_too_many_different_are_bounded(void **state)
{
    char name[16];
    struct sums s = {0};
    struct ledger_reader *r;
    struct err err = ERR_INIT;
    (void)state;
    for (int i = 0; i < 1000; i++)
        audit_log_add(audit, &(struct audit_event){.type = AUDIT_DENIED, .name = STR("same"), .status = 403});
    for (int i = 0; i < 2000; i++) {
        snprintf(name, sizeof(name), "n%d", i);
        audit_log_add(audit, &(struct audit_event){.type = AUDIT_DENIED, .name = str_of(name), .status = 403});
    }
    audit_log_close(audit);
    audit = NULL;
    ASSERT_OK(ledger_reader_open(env.dir, AUDIT_LEDGER, &r, &err));
    ASSERT_OK(ledger_read(r, 0, sum_up, &s, &err));
    ledger_reader_close(r);
    assert_int_equal(s.same, 1000);
    assert_int_equal(s.others, 2000);
    assert_true(s.records < 1600);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_is_written_is_read, setup, teardown),
        cmocka_unit_test_setup_teardown(a_tenant_sees_what_is_its_and_no_more, setup, teardown),
        cmocka_unit_test_setup_teardown(strangers_texts_are_cut_between_characters, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(whatever_strangers_send_has_a_record, setup, teardown),
        cmocka_unit_test_setup_teardown(a_type_of_a_later_release_is_another, setup, teardown),
        cmocka_unit_test_setup_teardown(what_is_no_record_is_refused_by_name, setup, teardown),
        cmocka_unit_test_setup_teardown(ocsf_has_what_its_class_requires, setup, teardown),
        cmocka_unit_test_setup_teardown(a_note_is_there_before_the_answer_and_has_the_revision,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(what_the_disk_does_not_take_is_said_to_be_undone, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(without_its_note_nothing_is_written, setup, teardown),
        cmocka_unit_test_setup_teardown(records_of_a_lost_future_are_settled, setup, teardown),
        cmocka_unit_test_setup_teardown(records_of_another_process_are_copied_once, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(several_journals_of_the_name_are_copied_once, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(another_journal_under_the_name_is_read_from_its_beginning,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(who_waits_is_told_when_it_is_durable, setup, teardown),
        cmocka_unit_test_setup_teardown(the_same_is_counted_and_too_many_different_are_bounded,
                                        setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
