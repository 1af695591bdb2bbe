/* Events: one object a (thing, reason, message), whose count grows; best effort. */
#include <pthread.h>
#include <sys/queue.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/map.h"
#include "base/mem.h"
#include "base/metrics.h"
#include "controller/internal.h"
#include "crypto/hash.h"
#include "kinds/borrowed.h"

#define COMPONENT "seki-controllers"
#define NAME_HASH_CHARS 12
#define MESSAGE_MAX 1000
#define COMBINED "(combined from similar events) "

/* What one object has said lately for one reason. */
struct topic {
    TAILQ_ENTRY(topic) link; /* by last use, the oldest first */
    char key[SHA256_HEX_MAX];
    uint64_t tokens_ms; /* the bucket, in milliseconds of refill */
    uint64_t filled_ms, window_ms;
    size_t text_count;
    char texts[RECORDER_TEXTS_MAX][NAME_HASH_CHARS + 1];
};

struct recorder {
    struct client *client;
    pthread_mutex_t lock; /* of all below */
    struct map *topics;
    TAILQ_HEAD(, topic) by_use;
    struct metric *dropped;
};

struct recorder *recorder_new(struct client *c)
{
    struct recorder *r = XNEW(struct recorder);
    *r = (struct recorder){.client = c, .topics = map_new(mem_free)};
    TAILQ_INIT(&r->by_use);
    pthread_mutex_init(&r->lock, NULL);
    r->dropped = metric_counter("seki_controller_events_dropped_total", "Events not recorded because one object had too many.");
    return r;
}

void recorder_free(struct recorder *r)
{
    if (!r)
        return;
    map_free(r->topics);
    pthread_mutex_destroy(&r->lock);
    mem_free(r);
}

size_t recorder_remembered(struct recorder *r)
{
    pthread_mutex_lock(&r->lock);
    size_t count = map_len(r->topics);
    pthread_mutex_unlock(&r->lock);
    return count;
}

static void digest_of(char hex[SHA256_HEX_MAX], const char *a, const char *b, const char *c)
{
    CLEANUP(sbuf_deinit) struct sbuf what = {0};
    uint8_t digest[SHA256_BYTES];
    sbuf_init(&what, 64 * 1024);
    sbuf_addf(&what, "%s\n%s\n%s", a, b, c);
    hash_sha256(sbuf_str(&what), digest);
    hash_hex(digest, sizeof(digest), hex);
}

/* ---- how much an object may say ---- */

static struct topic *topic_of(struct recorder *r, const char *key, uint64_t now)
{
    struct topic *t = map_getc(r->topics, key);
    if (!t && map_len(r->topics) >= RECORDER_REMEMBERED_MAX) {
        struct topic *oldest = TAILQ_FIRST(&r->by_use);
        TAILQ_REMOVE(&r->by_use, oldest, link);
        map_del(r->topics, str_of(oldest->key));
    }
    if (t) {
        TAILQ_REMOVE(&r->by_use, t, link);
    } else {
        t = XNEW(struct topic);
        *t = (struct topic){.tokens_ms = RECORDER_BURST * RECORDER_REFILL_MS, .filled_ms = now, .window_ms = now};
        snprintf(t->key, sizeof(t->key), "%s", key);
        map_set(r->topics, str_of(key), t);
    }
    TAILQ_INSERT_TAIL(&r->by_use, t, link);
    return t;
}

static bool known_text(struct topic *t, const char *hash)
{
    for (size_t i = 0; i < t->text_count; i++)
        if (!strncmp(t->texts[i], hash, NAME_HASH_CHARS))
            return true;
    if (t->text_count == RECORDER_TEXTS_MAX)
        return false;
    snprintf(t->texts[t->text_count++], sizeof(t->texts[0]), "%.*s", NAME_HASH_CHARS, hash);
    return true;
}

enum verdict { RECORD, RECORD_COMBINED, DROP };

static enum verdict judge(struct recorder *r, const char *key, const char *text_hash)
{
    uint64_t now = clock_mono_ms(), full = RECORDER_BURST * RECORDER_REFILL_MS;
    enum verdict v = DROP;
    pthread_mutex_lock(&r->lock);
    struct topic *t = topic_of(r, key, now);
    t->tokens_ms = MIN(full, t->tokens_ms + (now - t->filled_ms));
    t->filled_ms = now;
    if (now - t->window_ms >= RECORDER_WINDOW_MS) {
        t->window_ms = now;
        t->text_count = 0;
    }
    if (t->tokens_ms >= RECORDER_REFILL_MS) {
        t->tokens_ms -= RECORDER_REFILL_MS;
        v = known_text(t, text_hash) ? RECORD : RECORD_COMBINED;
    }
    pthread_mutex_unlock(&r->lock);
    return v;
}

/* ---- writing ---- */

/* Fits, and is UTF-8: messages quote programs, and are cut. */
static void clean_text(const char *message, char *out, size_t size)
{
    size_t len = MIN(strlen(message), size - 1);
    while (len && len < strlen(message) && ((unsigned char)message[len] & 0xc0) == 0x80)
        len--;
    memcpy(out, message, len);
    out[len] = 0;
    if (str_utf8_valid(str_n(out, len)))
        return;
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)out[i] >= 0x80)
            out[i] = '?';
}

static json_t *make(const json_t *obj, const char *ns, const char *name, const char *type, const char *reason, const char *message, const char *now)
{
    json_t *e = obj_new(&kind_event, ns, name);
    json_t *about = json_pack("{s:s, s:s, s:s}", "apiVersion", json_str_or(obj, "apiVersion", ""), "kind", json_str_or(obj, "kind", ""), "name", obj_name(obj));
    if (*obj_namespace(obj))
        json_object_set_new(about, "namespace", json_string(obj_namespace(obj)));
    if (obj_uid(obj))
        json_object_set_new(about, "uid", json_string(obj_uid(obj)));
    json_object_set_new(e, "involvedObject", about);
    json_object_set_new(e, "type", json_string(type));
    json_object_set_new(e, "reason", json_string(reason));
    json_object_set_new(e, "message", json_string(message));
    json_object_set_new(e, "count", json_integer(1));
    json_object_set_new(e, "firstTimestamp", json_string(now));
    json_object_set_new(e, "lastTimestamp", json_string(now));
    json_object_set_new(e, "source", json_pack("{s:s}", "component", COMPONENT));
    json_object_set_new(e, "reportingComponent", json_string(COMPONENT));
    return e;
}

static int record(struct recorder *r, const json_t *obj, const char *hash, const char *type, const char *reason, const char *text, struct err *err)
{
    struct client_resource resource = kind_resource(&kind_event);
    const char *ns = *obj_namespace(obj) ? obj_namespace(obj) : "default";
    char name[253], now[CLOCK_TEXT_MAX];
    JSON_AUTO old = NULL;
    /* The same happening always has the same name, so that repeats find it, also after a restart. */
    snprintf(name, sizeof(name), "%.200s.%.*s", obj_name(obj), NAME_HASH_CHARS, hash);
    clock_format(clock_wall_ms(), now);
    int rc = client_get(r->client, &resource, ns, name, &old, err);
    if (rc == 0) {
        JSON_AUTO patch = json_pack("{s:I, s:s, s:s}", "count", (json_int_t)(json_int(old, "count", 1) + 1), "lastTimestamp", now, "message", text);
        return client_patch(r->client, &resource, ns, name, NULL, patch, NULL, err);
    }
    if (rc != ERR_NOT_FOUND)
        return rc;
    JSON_AUTO e = make(obj, ns, name, type, reason, text, now);
    return client_create(r->client, &resource, ns, e, NULL, err);
}

void recorder_event(struct recorder *r, const json_t *obj, const char *type, const char *reason, const char *message)
{
    struct err err = ERR_INIT;
    char text[MESSAGE_MAX], combined[MESSAGE_MAX], topic[SHA256_HEX_MAX], hash[SHA256_HEX_MAX];
    const char *uid = obj_uid(obj) ? obj_uid(obj) : "";
    if (!obj_name(obj))
        return;
    clean_text(message, text, sizeof(text) - sizeof(COMBINED));
    digest_of(topic, uid, *uid ? "" : obj_name(obj), reason);
    digest_of(hash, uid, reason, text);
    enum verdict v = judge(r, topic, hash);
    if (v == DROP) {
        metric_add(r->dropped, 1);
        return;
    }
    if (v == RECORD_COMBINED)
        digest_of(hash, uid, reason, COMBINED);
    snprintf(combined, sizeof(combined), "%s%s", v == RECORD_COMBINED ? COMBINED : "", text);
    if (record(r, obj, hash, type, reason, combined, &err) < 0)
        log_debug("event not recorded", KV("reason", reason), KVE(&err));
}
