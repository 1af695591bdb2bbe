/* Events: one object a (thing, reason, message), whose count grows; best effort. */
#include "base/clock.h"
#include "base/log.h"
#include "controller/internal.h"
#include "crypto/hash.h"
#include "kinds/borrowed.h"

#define COMPONENT "seki-controllers"
#define NAME_HASH_CHARS 12

/* The same happening always has the same name, so that repeats find it, also after a restart. */
static void event_name(const json_t *obj, const char *reason, const char *message, char *name, size_t size)
{
    CLEANUP(sbuf_deinit) struct sbuf what = {0};
    uint8_t digest[SHA256_BYTES];
    char hex[SHA256_HEX_MAX];
    sbuf_init(&what, 16 * 1024);
    sbuf_addf(&what, "%s\n%s\n%s", obj_uid(obj) ? obj_uid(obj) : "", reason, message);
    hash_sha256(sbuf_str(&what), digest);
    hash_hex(digest, sizeof(digest), hex);
    snprintf(name, size, "%.200s.%.*s", obj_name(obj), NAME_HASH_CHARS, hex);
}

static json_t *make(const json_t *obj, const char *ns, const char *name, const char *type, const char *reason, const char *message, const char *now)
{
    json_t *e = obj_new(&kind_event, ns, name);
    json_t *about = json_pack("{s:O, s:O, s:s}", "apiVersion", json_object_get(obj, "apiVersion"), "kind", json_object_get(obj, "kind"), "name", obj_name(obj));
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

void controller_event(struct client *c, const json_t *obj, const char *type, const char *reason, const char *message)
{
    struct client_resource r = kind_resource(&kind_event);
    struct err err = ERR_INIT;
    char name[253], now[CLOCK_TEXT_MAX], text[1000];
    const char *ns = *obj_namespace(obj) ? obj_namespace(obj) : "default";
    snprintf(text, sizeof(text), "%s", message);
    event_name(obj, reason, text, name, sizeof(name));
    clock_format(clock_wall_ms(), now);
    JSON_AUTO old = NULL;
    int rc = client_get(c, &r, ns, name, &old, &err);
    if (rc == 0) {
        JSON_AUTO patch = json_pack("{s:I, s:s}", "count", (json_int_t)(json_int(old, "count", 1) + 1), "lastTimestamp", now);
        rc = client_patch(c, &r, ns, name, NULL, patch, NULL, &err);
    } else if (rc == ERR_NOT_FOUND) {
        JSON_AUTO e = make(obj, ns, name, type, reason, text, now);
        rc = client_create(c, &r, ns, e, NULL, &err);
    }
    if (rc < 0)
        log_debug("event not recorded", KV("reason", reason), KVE(&err));
}
