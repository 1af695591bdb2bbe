/* Informers against servers that repeat themselves, go back in time, break off, and talk nonsense. */
#include "fake_api.h"

#include <pthread.h>
#include <time.h>

#include "base/clock.h"
#include "controller/informer.h"
#include "kinds/borrowed.h"

#define WAIT_MS 20000
#define AWAIT(cond)                                                                                                    \
    do {                                                                                                               \
        for (uint64_t end_ = clock_mono_ms() + WAIT_MS; !(cond);) {                                                    \
            if (clock_mono_ms() > end_)                                                                                \
                fail_msg("still not: %s", #cond);                                                                      \
            nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);                                                   \
        }                                                                                                              \
    } while (0)

/* The server's answers in order: lists, then watches; the last of each is repeated. */
struct script {
    const char *lists[8];   /* "7 a/1 b/2": revision, then name/revision[/uid]; "hang": until stopped */
    const char *watches[8]; /* "+a/8 -b/9 !10 E" …: see line_of(); a watch that ends in "." goes on until it is stopped, "G" answers 410, "B" breaks off */
};

struct env {
    const struct script *s;
    struct fake_api api;
    struct client *client;
    struct informer *i;
    atomic_int lists, watches, synced, heard;
    pthread_mutex_t lock;
    char log[2048];   /* what handlers heard: "+a/1 ~a/2 -a/2 "; of what went: as it was last */
    char asked[512];  /* resourceVersions that watches began from */
};

static json_t *object_of(const char *text)
{
    char name[32] = "", uid[32] = "u";
    long long rev = 0;
    sscanf(text, "%31[^/]/%lld/%31s", name, &rev, uid);
    char rv[24];
    snprintf(rv, sizeof(rv), "%lld", rev);
    return json_pack("{s:s, s:s, s:{s:s, s:s, s:s, s:s}}", "apiVersion", "v1", "kind", "ConfigMap", "metadata", "name", name, "namespace", "default", "uid", uid,
                     "resourceVersion", rv);
}

static bool hang(const struct client_call *k)
{
    while (!(k->stop && atomic_load(k->stop)))
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    return true;
}

static int on_list(struct fake_api *f, const struct client_call *k, struct client_answer *ret, struct err *err)
{
    struct env *e = f->arg;
    int n = atomic_fetch_add(&e->lists, 1);
    while (n && !e->s->lists[n])
        n--;
    char text[512], *rest = text, *word;
    snprintf(text, sizeof(text), "%s", e->s->lists[n]);
    if (!strcmp(text, "hang")) {
        hang(k);
        return err_set(err, ERR_CANCELED, "canceled");
    }
    json_t *items = json_array();
    const char *rv = strsep(&rest, " ");
    while ((word = strsep(&rest, " ")))
        json_array_append_new(items, object_of(word));
    *ret = (struct client_answer){.status = 200, .body = json_pack("{s:s, s:{s:s}, s:o}", "kind", "ConfigMapList", "metadata", "resourceVersion", rv, "items", items)};
    return 0;
}

/* "+a/8" "~a/9" "-a/9": added, modified, deleted. "!10": a bookmark. Nonsense: "?t" a type nobody knows, "?n" no name, "?v" no version, "?o" no object. */
static json_t *line_of(const char *word)
{
    const char *type = word[0] == '+' ? "ADDED" : word[0] == '~' ? "MODIFIED" : word[0] == '-' ? "DELETED" : "BOOKMARK";
    if (!strcmp(word, "?o"))
        return json_pack("{s:s}", "type", "ADDED");
    if (word[0] == '?') {
        json_t *obj = object_of("odd/50"), *line = json_pack("{s:s, s:o}", "type", word[1] == 't' ? "SIDEWAYS" : "ADDED", "object", obj);
        json_object_del(json_object_get(obj, "metadata"), word[1] == 'n' ? "name" : word[1] == 'v' ? "resourceVersion" : "-");
        return line;
    }
    if (word[0] == '!')
        return json_pack("{s:s, s:{s:{s:s}}}", "type", type, "object", "metadata", "resourceVersion", word + 1);
    return json_pack("{s:s, s:o}", "type", type, "object", object_of(word + 1));
}

static int on_watch(struct fake_api *f, const struct client_call *k, bool (*on_line)(void *arg, json_t *line), void *arg, struct client_answer *ret, struct err *err)
{
    struct env *e = f->arg;
    int n = atomic_load(&e->watches);
    char text[512], *rest = text, *word;
    while (n && !e->s->watches[n])
        n--;
    snprintf(text, sizeof(text), "%s", e->s->watches[n]);
    pthread_mutex_lock(&e->lock);
    snprintf(e->asked + strlen(e->asked), sizeof(e->asked) - strlen(e->asked), "%s ", strstr(k->path, "resourceVersion=") + strlen("resourceVersion="));
    pthread_mutex_unlock(&e->lock);
    atomic_fetch_add(&e->watches, 1);
    *ret = (struct client_answer){.status = 200};
    while ((word = strsep(&rest, " "))) {
        if (!strcmp(word, "."))
            hang(k);
        else if (!strcmp(word, "B"))
            return err_set(err, ERR_CLOSED, "broken off");
        else if (!strcmp(word, "G"))
            return fake_api_status(ret, 410, "Expired");
        else if (*word) {
            JSON_AUTO line = line_of(word);
            if (!on_line(arg, line))
                return 0;
        }
    }
    return 0;
}

static void changed(void *arg, json_t *prev, json_t *now)
{
    struct env *e = arg;
    json_t *obj = now ? now : prev;
    pthread_mutex_lock(&e->lock);
    snprintf(e->log + strlen(e->log), sizeof(e->log) - strlen(e->log), "%c%s/%s ", !prev ? '+' : now ? '~' : '-', json_str_or(obj, "metadata.name", ""),
             json_str_or(obj, "metadata.resourceVersion", ""));
    pthread_mutex_unlock(&e->lock);
    atomic_fetch_add(&e->heard, 1);
}

static void synced(void *arg)
{
    struct env *e = arg;
    atomic_fetch_add(&e->synced, 1);
}

static void start(struct env *e, const struct script *s)
{
    struct err err = ERR_INIT;
    *e = (struct env){.s = s, .api = {.arg = e, .roundtrip = on_list, .stream = on_watch}};
    pthread_mutex_init(&e->lock, NULL);
    e->client = fake_api_client(&e->api);
    e->i = informer_new(e->client, &kind_config_map);
    informer_add_handler(e->i, &(struct informer_handler){.changed = changed, .synced = synced, .arg = e});
    ASSERT_OK(informer_start(e->i, &err));
}

static void end(struct env *e)
{
    informer_free(e->i);
    client_free(e->client);
    pthread_mutex_destroy(&e->lock);
}

static int words(const char *text)
{
    int n = 0;
    for (; *text; text++)
        n += *text == ' ';
    return n;
}

/* Runs the script until its watch number `watches` has begun and as much was heard as should be, and compares. */
static void plays(const struct script *s, int watches, const char *log, const char *asked)
{
    struct env e;
    start(&e, s);
    AWAIT(atomic_load(&e.watches) >= watches && atomic_load(&e.heard) >= words(log));
    informer_stop(e.i);
    assert_string_equal(e.log, log);
    if (asked)
        assert_string_equal(e.asked, asked);
    end(&e);
}

static void bookmarks_move_the_start_of_the_next_watch(void **state)
{
    (void)state;
    plays(&(struct script){{"5 a/3"}, {"!9", "!12 !11", "."}}, 3, "+a/3 ", "5 9 12 ");
}

/* One revision may change several objects (a collection is deleted at once): a watch cut between them must not lose the rest. */
static void a_revision_that_was_cut_in_two_is_seen_whole(void **state)
{
    (void)state;
    plays(&(struct script){{"5 a/3 b/4"}, {"-a/6", "-a/6 -b/6 !6", "."}}, 3, "+a/3 +b/4 -a/3 -b/4 ", "5 5 6 ");
}

static void repeated_events_are_heard_once(void **state)
{
    (void)state;
    plays(&(struct script){{"5 a/3"}, {"~a/6 ~a/6 +a/3 ~a/5 +b/4 ~a/7 -b/7", "~a/7 +c/8 +c/8 -c/9 -c/9 ~a/6 ."}}, 2, "+a/3 ~a/6 ~a/7 +c/8 -c/8 ", NULL);
}

/* The end of an earlier object of that name says nothing about the one that is there. */
static void another_uid_is_another_object(void **state)
{
    (void)state;
    plays(&(struct script){{"5 a/3/old"}, {"+a/7/new -a/8/old ~a/9/new ."}}, 1, "+a/3 -a/3 +a/7 ~a/9 ", NULL);
    plays(&(struct script){{"5 a/3/old", "9 a/8/new"}, {"G", "."}}, 2, "+a/3 -a/3 +a/8 ", NULL);
}

static void what_a_list_lacks_is_deleted(void **state)
{
    (void)state;
    plays(&(struct script){{"5 a/3 b/4", "9 b/8"}, {"G", "."}}, 2, "+a/3 +b/4 -a/3 ~b/8 ", "5 9 ");
}

static void nonsense_is_gone_around_by_a_list(void **state)
{
    (void)state;
    static const char *const nonsense[] = {"?t", "?n", "?v", "?o"};
    for (size_t n = 0; n < ARRAY_LEN(nonsense); n++) {
        char first[64];
        snprintf(first, sizeof(first), "+b/6 %s +never/7", nonsense[n]);
        plays(&(struct script){{"5 a/3", "9 a/3 b/6"}, {first, "~b/10 ."}}, 2, "+a/3 +b/6 ~b/10 ", "5 9 ");
    }
}

/* The server's data were restored from a backup, or a replica of it lags behind: nothing is taken back. */
static void a_list_from_the_past_is_refused(void **state)
{
    (void)state;
    struct env e;
    start(&e, &(struct script){{"50 a/40 b/41", "20 a/10"}, {"G"}});
    AWAIT(atomic_load(&e.lists) >= 3);
    JSON_AUTO all = informer_list(e.i, NULL);
    assert_int_equal(json_array_size(all), 2);
    informer_stop(e.i);
    assert_string_equal(e.log, "+a/40 +b/41 ");
    assert_int_equal(e.synced, 1);
    end(&e);
}

/* Catching up may be too much for the server's buffers, each time. */
static void watches_that_break_before_they_bring_anything_end_in_a_list(void **state)
{
    (void)state;
    plays(&(struct script){{"5 a/3", "9 a/3 b/9"}, {"+x/6 B", "+x/6 B", "+x/6 B", "+x/6 B", "."}}, 5, "+a/3 +x/6 -x/6 +b/9 ", "5 5 5 5 9 ");
}

static void a_server_that_always_says_410_is_not_asked_all_the_time(void **state)
{
    (void)state;
    struct env e;
    start(&e, &(struct script){{"5 a/3"}, {"G"}});
    uint64_t began = clock_mono_ms();
    AWAIT(atomic_load(&e.lists) >= 5);
    assert_true(clock_mono_ms() - began >= 1500 / 2); /* 200 + 400 + 800 + …, half of it by chance */
    end(&e);
}

static void it_stops_while_a_list_hangs(void **state)
{
    (void)state;
    struct env e;
    struct err err = ERR_INIT;
    start(&e, &(struct script){{"hang"}, {"."}});
    AWAIT(atomic_load(&e.lists) == 1);
    ASSERT_ERR(informer_wait(e.i, 10, &err), ERR_TIMEOUT);
    assert_non_null(strstr(err.msg, "configmaps could not be listed within 10 ms"));
    informer_stop(e.i);
    assert_false(informer_synced(e.i));
    end(&e);
}

static void a_list_without_version_is_refused(void **state)
{
    (void)state;
    struct env e;
    struct err err = ERR_INIT;
    start(&e, &(struct script){{"none a/3"}, {"."}});
    AWAIT(atomic_load(&e.lists) >= 2);
    ASSERT_ERR(informer_wait(e.i, 10, &err), ERR_TIMEOUT);
    assert_non_null(strstr(err.msg, "no usable resourceVersion"));
    end(&e);
    assert_string_equal(e.log, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(bookmarks_move_the_start_of_the_next_watch),
                                       cmocka_unit_test(a_revision_that_was_cut_in_two_is_seen_whole),
                                       cmocka_unit_test(repeated_events_are_heard_once),
                                       cmocka_unit_test(another_uid_is_another_object),
                                       cmocka_unit_test(what_a_list_lacks_is_deleted),
                                       cmocka_unit_test(nonsense_is_gone_around_by_a_list),
                                       cmocka_unit_test(a_list_from_the_past_is_refused),
                                       cmocka_unit_test(watches_that_break_before_they_bring_anything_end_in_a_list),
                                       cmocka_unit_test(a_server_that_always_says_410_is_not_asked_all_the_time),
                                       cmocka_unit_test(it_stops_while_a_list_hangs),
                                       cmocka_unit_test(a_list_without_version_is_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
