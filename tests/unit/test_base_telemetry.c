/* Logging and metrics: what they write is read by machines. */
#include "unit.h"

#include <math.h>
#include <pthread.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/metrics.h"

static int saved_stderr, capture[2];

static int start_capture(void **state)
{
    (void)state;
    saved_stderr = dup(STDERR_FILENO);
    if (pipe(capture) < 0)
        return -1;
    dup2(capture[1], STDERR_FILENO);
    close(capture[1]);
    clock_test_set(5000, 1795492222123);
    return 0;
}

static int stop_capture(void **state)
{
    (void)state;
    dup2(saved_stderr, STDERR_FILENO);
    close(saved_stderr);
    close(capture[0]);
    clock_test_clear();
    return 0;
}

static char captured[65536];

static const char *read_captured(void)
{
    ssize_t n = read(capture[0], captured, sizeof(captured) - 1);
    captured[MAX(n, 0)] = '\0';
    return captured;
}

static size_t lines_captured(void)
{
    size_t n = 0;
    for (const char *p = read_captured(); *p; p++)
        n += *p == '\n';
    return n;
}

static void log_json(void **state)
{
    (void)state;
    log_setup(LOG_INFO, LOG_JSON, "control");
    log_debug("not this one");
    log_info("replica \"started\"", KV("name", "a\nb\x1b[31m\xFF"), KVI("pid", -12),
             KV("none", NULL));
    assert_string_equal(
        read_captured(),
        "{\"ts\":\"2026-11-24T03:50:22.123000Z\",\"level\":\"info\",\"component\":\"control\","
        "\"msg\":\"replica \\\"started\\\"\",\"name\":\"a\\nb\\u001b[31m\xEF\xBF\xBD\","
        "\"pid\":-12,\"none\":\"\"}\n");
    log_error("alone");
    assert_non_null(strstr(read_captured(), "\"msg\":\"alone\"}\n"));
}

static void log_human(void **state)
{
    (void)state;
    log_setup(LOG_DEBUG, LOG_HUMAN, "gateway");
    log_warn("slow", KV("plain", "a/b"), KV("text", "a b\n"), KVI("ms", 7));
    assert_string_equal(
        read_captured(),
        "2026-11-24T03:50:22.123Z WARN  gateway: slow plain=a/b text=\"a b\\n\" ms=7\n");
}

static void log_limits_a_site(void **state)
{
    (void)state;
    log_setup(LOG_INFO, LOG_JSON, "x");
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < 70; i++)
            log_info("again");
        assert_int_equal(lines_captured(), 50);
        clock_test_advance(1000);
    }
    struct log_site site = {__FILE__, __LINE__, 0, 0, 0};
    for (int i = 0; i < 57; i++)
        log_write(&site, LOG_INFO, "m", NULL);
    assert_int_equal(lines_captured(), 50);
    clock_test_advance(1000);
    log_write(&site, LOG_INFO, "m", NULL);
    assert_non_null(strstr(read_captured(), "\"dropped\":7}"));
}

static void log_cuts_what_is_too_long(void **state)
{
    (void)state;
    char *huge = xcalloc(1, 100001);
    memset(huge, 'x', 100000);
    struct log_kv kvs[21] = {0};
    for (int i = 0; i < 20; i++)
        kvs[i] = KV("k", huge);
    log_setup(LOG_INFO, LOG_JSON, "x");
    log_info("one", KV("k", huge));
    assert_true(strlen(read_captured()) < 4096);
    log_write(NULL, LOG_INFO, "twenty", kvs);
    assert_non_null(strstr(read_captured(), "\"msg\":\"twenty\",\"cut\":1}\n"));
    mem_free(huge);
}

static void log_levels(void **state)
{
    (void)state;
    enum log_level level = LOG_INFO;
    assert_int_equal(log_level_parse(STR("warn"), &level), 0);
    assert_int_equal(level, LOG_WARN);
    ASSERT_ERR(log_level_parse(STR("WARN"), &level), ERR_BAD_REQUEST);
}

static double seven(void *arg)
{
    return *(double *)arg;
}

static void exposition(void **state)
{
    (void)state;
    static const char *const labels[] = {"model", "code", NULL};
    static const double bounds[] = {0.1, 1};
    static double value = 7.25;
    struct metric_family *f = metric_family("t_requests_total", "Requests\nby \\ model.",
                                            METRIC_COUNTER, labels, 2, NULL, 0);
    struct metric *m = metric_series(f, (struct str[]){STR("a\"b\\\n"), STR("200")});
    metric_add(m, 3);
    assert_ptr_equal(metric_series(f, (struct str[]){STR("a\"b\\\n"), STR("200")}), m);
    metric_add(metric_series(f, (struct str[]){STR("ab"), STR("c")}), 1);
    struct metric *other = metric_series(f, (struct str[]){STR("a"), STR("bc")});
    assert_ptr_equal(metric_series(f, (struct str[]){STR("x"), STR("y")}), other);
    struct metric *memo = NULL;
    for (int i = 0; i < 2; i++) {
        assert_ptr_equal(metric_series_again(&memo, f, (struct str[]){STR("a\"b\\\n"), STR("200")}), m);
        assert_ptr_equal(memo, m);
    }
    assert_ptr_equal(metric_series_again(&memo, f, (struct str[]){STR("a\"b\\\n"), STR("20")}), other);
    assert_ptr_equal(metric_series_again(&memo, f, (struct str[]){STR("a\"b\\\n"), STR("200")}), m);
    metric_add(other, 9);
    metric_move(metric_gauge("t_gauge", "A gauge."), -4);
    metric_gauge_fn("t_fn", "Read when scraped.", seven, &value);
    struct metric *h = metric_series(
        metric_family("t_seconds", "Time.", METRIC_HISTOGRAM, NULL, 1, bounds, 2), NULL);
    metric_observe(h, 0.1);
    metric_observe(h, 0.5);
    metric_observe(h, 100);
    assert_int_equal(metric_value(h), 3);

    CLEANUP(sbuf_deinit) struct sbuf b;
    sbuf_init(&b, 1 << 20);
    metrics_write(&b);
    assert_true(sbuf_ok(&b));
    static const char want[] =
        "# HELP t_requests_total Requests\\nby \\\\ model.\n# TYPE t_requests_total counter\n"
        "t_requests_total{model=\"a\\\"b\\\\\\n\",code=\"200\"} 3\n"
        "t_requests_total{model=\"ab\",code=\"c\"} 1\n"
        "t_requests_total{model=\"other\",code=\"other\"} 9\n"
        "# HELP t_gauge A gauge.\n# TYPE t_gauge gauge\nt_gauge -4\n"
        "# HELP t_fn Read when scraped.\n# TYPE t_fn gauge\nt_fn 7.25\n"
        "# HELP t_seconds Time.\n# TYPE t_seconds histogram\n"
        "t_seconds_bucket{le=\"0.1\"} 1\nt_seconds_bucket{le=\"1\"} "
        "2\nt_seconds_bucket{le=\"+Inf\"} 3\n"
        "t_seconds_sum 100.6\nt_seconds_count 3\n";
    assert_memory_equal(b.ptr, want, sizeof(want) - 1);
    static const char *const process[] = {"process_cpu_seconds_total",
                                          "process_resident_memory_bytes", "process_open_fds",
                                          "process_max_fds", "process_start_time_seconds"};
    for (size_t i = 0; i < ARRAY_LEN(process); i++)
        assert_non_null(strstr(b.ptr, process[i]));
    const char *started = strstr(b.ptr, "\nprocess_start_time_seconds ");
    assert_non_null(started);
    double at = strtod(started + strlen("\nprocess_start_time_seconds "), NULL);
    assert_true(fabs(at - (double)clock_wall_ms() / 1000) < 120);
}

/* ---- series that come and go ---- */

static const char *gone_name; /* what is not there */

static bool is_there(void *arg, const char *const *labels)
{
    ++*(int *)arg;
    return !gone_name || strcmp(labels[0], gone_name) != 0;
}

static void count_one(struct metric_family *f, struct metric **memo, const char *name, const char *owner)
{
    metric_add(metric_series_owned(memo, f, (struct str[]){str_of(name)}, str_of(owner)), 1);
}

/* The value of the series of that name; -1: there is none. */
static int shown(const char *family, const char *name)
{
    CLEANUP(sbuf_deinit) struct sbuf b;
    char line[128];
    sbuf_init(&b, 1 << 20);
    metrics_write(&b);
    assert_true(sbuf_ok(&b));
    snprintf(line, sizeof(line), "\n%s{name=\"%s\"} ", family, name);
    const char *at = strstr(b.ptr, line);
    return at ? (int)strtol(at + strlen(line), NULL, 10) : -1;
}

static const char *const name_label[] = {"name", NULL};

static void what_is_gone_is_scraped_for_a_while_and_freed(void **state)
{
    (void)state;
    struct metric_family *f = metric_family("t_gone_total", "x", METRIC_COUNTER, name_label, 10, NULL, 0);
    struct metric *a = NULL, *b = NULL;
    int asked = 0;
    count_one(f, &a, "a", "o");
    count_one(f, &b, "b", "o");
    gone_name = "a";
    metric_family_sweep(f, is_there, &asked, 1000, 500);
    assert_int_equal(asked, 2);
    assert_int_equal(shown("t_gone_total", "a"), 1);
    gone_name = NULL; /* it was made anew */
    metric_family_sweep(f, is_there, &asked, 1400, 500);
    gone_name = "a";
    metric_family_sweep(f, is_there, &asked, 1600, 500);
    metric_family_sweep(f, is_there, &asked, 2099, 500);
    assert_int_equal(shown("t_gone_total", "a"), 1);
    metric_family_sweep(f, is_there, &asked, 2100, 500);
    assert_int_equal(shown("t_gone_total", "a"), -1);
    assert_int_equal(shown("t_gone_total", "b"), 1);
    metric_add(a, 1); /* whoever is in the middle of counting still may */
    count_one(f, &a, "a", "o");
    assert_int_equal(shown("t_gone_total", "a"), 1); /* a new one */
    metric_memo_drop(&a);
    assert_null(a);
    metric_memo_drop(&a);
    metric_memo_drop(&b);
    assert_int_equal(shown("t_gone_total", "b"), 1);
}

static void what_is_gone_makes_room_at_once(void **state)
{
    (void)state;
    struct metric_family *f = metric_family("t_room_total", "x", METRIC_COUNTER, name_label, 3, NULL, 0);
    struct metric *memo = NULL;
    int asked = 0;
    count_one(f, &memo, "a", "");
    count_one(f, &memo, "b", "");
    count_one(f, &memo, "c", "");
    count_one(f, &memo, "d", "");
    assert_int_equal(shown("t_room_total", "d"), -1);
    assert_int_equal(shown("t_room_total", "other"), 1);
    gone_name = "b";
    metric_family_sweep(f, is_there, &asked, 1000, 60000);
    count_one(f, &memo, "d", "");
    assert_int_equal(shown("t_room_total", "b"), -1);
    assert_int_equal(shown("t_room_total", "d"), 1);
    count_one(f, &memo, "e", ""); /* no other one is gone */
    assert_int_equal(shown("t_room_total", "other"), 2);
    assert_int_equal(shown("t_room_total", "a"), 1);
    metric_memo_drop(&memo);
    gone_name = NULL;
}

static void owners_share_the_room(void **state)
{
    (void)state;
    struct metric_family *f = metric_family("t_shared_total", "x", METRIC_COUNTER, name_label, 6, NULL, 0);
    struct metric *memo = NULL, *greedy = NULL;
    char name[8];
    for (int i = 0; i < 9; i++) {
        snprintf(name, sizeof(name), "g%d", i);
        count_one(f, i == 5 ? &greedy : &memo, name, "greedy");
    }
    assert_int_equal(shown("t_shared_total", "other"), 3); /* all the room is his while nobody else wants it, and no more */
    for (int i = 0; i < 4; i++) {
        snprintf(name, sizeof(name), "s%d", i);
        count_one(f, &memo, name, "small");
    }
    assert_int_equal(shown("t_shared_total", "other"), 4);
    for (int i = 0; i < 6; i++) {
        snprintf(name, sizeof(name), "g%d", i);
        assert_int_equal(shown("t_shared_total", name), i < 3 ? 1 : -1); /* his newest went */
        snprintf(name, sizeof(name), "s%d", i);
        assert_int_equal(shown("t_shared_total", name), i < 3 ? 1 : -1);
    }
    count_one(f, &greedy, "g5", "greedy"); /* nobody is pushed out by who has as much */
    assert_int_equal(shown("t_shared_total", "other"), 5);
    count_one(f, &memo, "third", "third");
    assert_int_equal(shown("t_shared_total", "third"), 1);
    metric_memo_drop(&memo);
    metric_memo_drop(&greedy);
}

static void *count_what_comes_and_goes(void *arg)
{
    struct metric *memo = NULL;
    char name[8];
    for (int i = 0; i < 20000; i++) {
        snprintf(name, sizeof(name), "%d", i / 100 % 5);
        count_one(arg, &memo, name, name);
    }
    metric_memo_drop(&memo);
    return NULL;
}

static void series_go_while_others_count(void **state)
{
    (void)state;
    struct metric_family *f = metric_family("t_racing_total", "x", METRIC_COUNTER, name_label, 3, NULL, 0);
    pthread_t t[3];
    int asked = 0;
    for (size_t i = 0; i < ARRAY_LEN(t); i++)
        assert_int_equal(pthread_create(&t[i], NULL, count_what_comes_and_goes, f), 0);
    for (uint64_t i = 0; i < 2000; i++) {
        char name[8];
        snprintf(name, sizeof(name), "%d", (int)(i % 5));
        gone_name = name;
        metric_family_sweep(f, is_there, &asked, 1 + i, 1);
    }
    gone_name = NULL;
    for (size_t i = 0; i < ARRAY_LEN(t); i++)
        pthread_join(t[i], NULL);
}

static void *count_and_observe(void *arg)
{
    struct metric **m = arg;
    for (int i = 0; i < 10000; i++) {
        metric_add(m[0], 1);
        metric_observe(m[1], 0.5);
    }
    return NULL;
}

static void threads_lose_nothing(void **state)
{
    (void)state;
    struct metric *m[2] = {
        metric_counter("t_threads_total", "x"),
        metric_series(metric_family("t_threads_seconds", "x", METRIC_HISTOGRAM, NULL, 1,
                                    metric_latency_buckets, metric_latency_bucket_count),
                      NULL)};
    pthread_t t[4];
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&t[i], NULL, count_and_observe, m), 0);
    for (size_t i = 0; i < 4; i++)
        pthread_join(t[i], NULL);
    assert_int_equal(metric_value(m[0]), 40000);
    CLEANUP(sbuf_deinit) struct sbuf b;
    sbuf_init(&b, 1 << 20);
    metrics_write(&b);
    assert_non_null(strstr(b.ptr, "t_threads_seconds_sum 20000\nt_threads_seconds_count 40000\n"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(log_json, start_capture, stop_capture),
        cmocka_unit_test_setup_teardown(log_human, start_capture, stop_capture),
        cmocka_unit_test_setup_teardown(log_limits_a_site, start_capture, stop_capture),
        cmocka_unit_test_setup_teardown(log_cuts_what_is_too_long, start_capture, stop_capture),
        cmocka_unit_test(log_levels),
        cmocka_unit_test(exposition), cmocka_unit_test(what_is_gone_is_scraped_for_a_while_and_freed), cmocka_unit_test(what_is_gone_makes_room_at_once),
        cmocka_unit_test(owners_share_the_room), cmocka_unit_test(series_go_while_others_count),
        cmocka_unit_test(threads_lose_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
