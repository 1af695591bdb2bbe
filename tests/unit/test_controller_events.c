/* The recorder of Events: repeats are counted, floods are cut short, texts fit. */
#include "fake_api.h"

#include "base/clock.h"
#include "base/map.h"
#include "controller/internal.h"
#include "kinds/borrowed.h"

static struct map *stored; /* path → json_t * */
static int calls;

static void decref(void *v)
{
    json_decref(v);
}

static int serve(struct fake_api *f, const struct client_call *k, struct client_answer *ret, struct err *err)
{
    (void)f;
    (void)err;
    char path[600];
    calls++;
    if (!strcmp(k->method, "POST")) {
        assert_non_null(json_str(k->body, "message")); /* valid text */
        snprintf(path, sizeof(path), "%s/%s", k->path, json_str(k->body, "metadata.name"));
        map_set(stored, str_of(path), json_deep_copy(k->body));
        *ret = (struct client_answer){.status = 201, .body = json_deep_copy(k->body)};
        return 0;
    }
    json_t *obj = map_getc(stored, k->path);
    if (!obj)
        return fake_api_status(ret, 404, "NotFound");
    if (!strcmp(k->method, "PATCH"))
        json_object_update(obj, k->body);
    *ret = (struct client_answer){.status = 200, .body = json_deep_copy(obj)};
    return 0;
}

static struct fake_api api = {.roundtrip = serve};
static struct client *client;
static struct recorder *recorder;

static int setup(void **state)
{
    (void)state;
    clock_test_set(1000000, 1700000000000);
    stored = map_new(decref);
    calls = 0;
    client = fake_api_client(&api);
    recorder = recorder_new(client);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    recorder_free(recorder);
    client_free(client);
    map_free(stored);
    clock_test_clear();
    return 0;
}

static void event_of(const char *ns, const char *uid, const char *reason, const char *message)
{
    JSON_AUTO obj = obj_new(&kind_config_map, ns, "thing");
    json_put_str(obj, "metadata.uid", uid);
    recorder_event(recorder, obj, "Warning", reason, message);
}

static const json_t *only(void)
{
    struct map_iter it = MAP_ITER_INIT;
    assert_int_equal(map_len(stored), 1);
    assert_true(map_next(stored, &it));
    return it.value;
}

static void repeats_grow_the_count_of_one_event(void **state)
{
    (void)state;
    for (int i = 0; i < 5; i++) {
        event_of("demo", "u1", "Restarted", "it ended");
        clock_test_advance(1000);
    }
    assert_int_equal(json_int(only(), "count", 0), 5);
    assert_string_equal(json_str_or(only(), "firstTimestamp", ""), "2023-11-14T22:13:20Z");
    assert_string_equal(json_str_or(only(), "lastTimestamp", ""), "2023-11-14T22:13:24Z");
    assert_string_equal(json_str_or(only(), "involvedObject.kind", ""), "ConfigMap");
    assert_string_equal(json_str_or(only(), "involvedObject.uid", ""), "u1");
    assert_string_equal(json_str_or(only(), "type", ""), "Warning");
    /* Also after a restart. */
    recorder_free(recorder);
    recorder = recorder_new(client);
    event_of("demo", "u1", "Restarted", "it ended");
    assert_int_equal(json_int(only(), "count", 0), 6);
    /* Another object, reason or message is another event. */
    event_of("demo", "u2", "Restarted", "it ended");
    event_of("demo", "u1", "Hung", "it ended");
    event_of("demo", "u1", "Restarted", "it was killed");
    assert_int_equal(map_len(stored), 4);
}

static void an_object_without_namespace_has_its_events_in_default(void **state)
{
    (void)state;
    JSON_AUTO obj = obj_new(&kind_namespace, NULL, "demo");
    recorder_event(recorder, obj, "Normal", "Made", "x");
    struct map_iter it = MAP_ITER_INIT;
    assert_true(map_next(stored, &it));
    assert_true(str_starts(it.key, STR("/api/v1/namespaces/default/events/demo.")));
}

static void too_many_texts_share_one_event(void **state)
{
    (void)state;
    char text[64];
    for (int i = 0; i < 20; i++) {
        snprintf(text, sizeof(text), "failed with pid %d", i);
        event_of("demo", "u1", "Failed", text);
        clock_test_advance(RECORDER_REFILL_MS);
    }
    assert_int_equal(map_len(stored), RECORDER_TEXTS_MAX + 1);
    int combined = 0;
    struct map_iter it = MAP_ITER_INIT;
    while (map_next(stored, &it))
        if (!strncmp(json_str_or(it.value, "message", ""), "(combined", 9)) {
            combined++;
            assert_int_equal(json_int(it.value, "count", 0), 20 - RECORDER_TEXTS_MAX);
            assert_string_equal(json_str_or(it.value, "message", ""), "(combined from similar events) failed with pid 19");
        }
    assert_int_equal(combined, 1);
    clock_test_advance(RECORDER_WINDOW_MS);
    event_of("demo", "u1", "Failed", "later");
    assert_int_equal(map_len(stored), RECORDER_TEXTS_MAX + 2);
}

static void a_flood_is_cut_short(void **state)
{
    (void)state;
    for (int i = 0; i < 1000; i++)
        event_of("demo", "u1", "Flood", "again");
    assert_int_equal(json_int(only(), "count", 0), RECORDER_BURST);
    assert_int_equal(calls, 2 * RECORDER_BURST); /* what is dropped costs no call */
    clock_test_advance(RECORDER_REFILL_MS * 3);
    for (int i = 0; i < 1000; i++)
        event_of("demo", "u1", "Flood", "again");
    assert_int_equal(json_int(only(), "count", 0), RECORDER_BURST + 3);
    event_of("demo", "u2", "Flood", "another object is heard");
    assert_int_equal(map_len(stored), 2);
}

static void what_is_remembered_is_bounded(void **state)
{
    (void)state;
    char uid[16];
    for (int i = 0; i < RECORDER_REMEMBERED_MAX * 3; i++) {
        snprintf(uid, sizeof(uid), "u%d", i);
        event_of("demo", uid, "Made", "x");
    }
    assert_int_equal(recorder_remembered(recorder), RECORDER_REMEMBERED_MAX);
}

static void long_and_odd_texts_fit(void **state)
{
    (void)state;
    static const char letter[] = "\xed\x95\x9c"; /* three bytes: no cut may fall into it */
    char text[3 * 700 + 3];
    for (size_t shift = 0; shift < 3; shift++) {
        memset(text, 'a', shift);
        for (size_t i = 0; i < 700; i++)
            memcpy(text + shift + 3 * i, letter, 4);
        event_of("demo", "u1", "Long", text);
    }
    event_of("demo", "u1", "Odd", "bytes \xff\xfe of a program");
    event_of("demo", "u1", "Odd", "");
    assert_int_equal(map_len(stored), 5);
    struct map_iter it = MAP_ITER_INIT;
    while (map_next(stored, &it)) {
        const char *m = json_str(it.value, "message");
        assert_non_null(m);
        assert_true(strlen(m) <= 1024 && str_utf8_valid(str_of(m)));
        if (*m && m[strlen(m) - 1] == letter[2])
            assert_true(strlen(m) > 900);
    }
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {T(repeats_grow_the_count_of_one_event), T(an_object_without_namespace_has_its_events_in_default),
                                       T(too_many_texts_share_one_event),      T(a_flood_is_cut_short),
                                       T(what_is_remembered_is_bounded),       T(long_and_odd_texts_fit)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
