/* What lies in a cluster's etcd: read by its JSON gateway, as it is on the disk, since an API server shows everything opened. */
#include "kaas/store_space.h"

#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "crypto/hash.h"
#include "kms/wire.h"

#define PREFIX "/registry/secrets/"
#define PREFIX_END "/registry/secrets0"
#define SEALED_PREFIX STR("k8s:enc:kms:v2:seki:")
#define PAGE 64
#define VALUE_MAX (8 * 1024 * 1024)
#define LOOK_BUDGET_MS 3000u
#define FIELD_KEY_ID 2 /* of EncryptedObject: k8s.io/apiserver, kmstypes/v2 */

static const struct client_resource secrets = {"", "v1", "secrets", true};

bool at_rest_is_under(struct str value, const char *key_id)
{
    struct wire_field f;
    bool is = false;
    if (!str_starts(value, SEALED_PREFIX))
        return false;
    struct str rest = str_skip(value, SEALED_PREFIX.len);
    int rc;
    while ((rc = wire_next(&rest, &f, NULL)) > 0)
        if (f.number == FIELD_KEY_ID && f.type == WIRE_BYTES)
            is = str_eqc(f.bytes, key_id);
    return rc == 0 && is;
}

static json_t *base64_json(struct str text)
{
    CLEANUP(sbuf_deinit) struct sbuf b = {0};
    sbuf_init(&b, 4096);
    base64_encode(text, &b);
    return json_stringn(b.ptr ? b.ptr : "", b.len);
}

/* The page after m->cursor; smaller ones while it does not fit into an answer. */
static int read_page(struct client *etcd, const struct secrets_memory *m, json_t **ret, struct err *err)
{
    char from[SECRETS_CURSOR_MAX + 1];
    size_t n = (size_t)snprintf(from, sizeof(from), "%s", *m->cursor ? m->cursor : PREFIX);
    int rc = ERR_TOO_LARGE;
    for (int limit = PAGE; rc == ERR_TOO_LARGE && limit > 0; limit /= 4) {
        struct err why = ERR_INIT;
        JSON_AUTO ask = json_pack("{s:o, s:o, s:i}", "key", base64_json(str_n(from, n + (*m->cursor != 0))), "range_end", base64_json(STR(PREFIX_END)), "limit", limit);
        rc = client_post(etcd, "/v3/kv/range", ask, ret, &why);
        if (rc < 0)
            (void)!err_set(err, rc, "etcd: %s", why.msg);
    }
    return rc;
}

static int rewrite_one(struct client *api, const char *path, struct err *err)
{
    char ns[128];
    struct str rest = str_skip(str_of(path), strlen(PREFIX)), space;
    struct err why = ERR_INIT;
    if (!str_cut(&rest, '/', &space) || !str_to_array(space, ns, sizeof(ns)))
        return 0; /* no Secret of Kubernetes */
    JSON_AUTO nothing = json_object();
    int rc = client_patch(api, &secrets, ns, rest.ptr, NULL, nothing, NULL, &why);
    if (rc == 0 || rc == ERR_NOT_FOUND || rc == ERR_CONFLICT) /* gone, or being written by somebody else */
        return 0;
    return err_set(err, rc, "Secret %.253s in %s: %s", rest.ptr, ns, why.msg);
}

struct look {
    struct client *etcd, *api;
    const char *key_id;
    bool rewrite;
};

static int look_at(struct look *l, const json_t *kv, struct secrets_memory *m, struct err *err)
{
    CLEANUP(sbuf_deinit) struct sbuf key = {0}, value = {0};
    sbuf_init(&key, SECRETS_CURSOR_MAX - 1);
    sbuf_init(&value, VALUE_MAX);
    if (base64_decode(str_of(json_str_or(kv, "key", "")), &key, NULL) < 0 || base64_decode(str_of(json_str_or(kv, "value", "")), &value, NULL) < 0 || !sbuf_ok(&key) ||
        !str_to_array(sbuf_str(&key), m->cursor, sizeof(m->cursor)) || !str_starts(sbuf_str(&key), STR(PREFIX)))
        return err_set(err, ERR_PROTOCOL, "etcd answers something that was not asked for");
    m->found++;
    if (at_rest_is_under(sbuf_str(&value), l->key_id))
        return 0;
    m->stale++;
    struct err why = ERR_INIT;
    /* One that nobody may write is no reason to leave the others as they are. An API server that does not answer is. */
    int rc = l->rewrite ? rewrite_one(l->api, m->cursor, &why) : 0;
    if (rc == ERR_UNAVAILABLE || rc == ERR_TIMEOUT || rc == ERR_IO)
        return err_set(err, rc, "%s", why.msg);
    if (rc < 0 && !*m->refused)
        snprintf(m->refused, sizeof(m->refused), "%s", why.msg);
    return 0;
}

static int go_on(struct look *l, struct secrets_memory *m, struct err *err)
{
    uint64_t until = clock_mono_ms() + LOOK_BUDGET_MS;
    int rc = 0;
    while (rc == 0) {
        JSON_AUTO page = NULL;
        if ((rc = read_page(l->etcd, m, &page, err)) < 0)
            break;
        const json_t *list = json_object_get(page, "kvs");
        size_t i;
        json_t *kv;
        json_array_foreach ((json_t *)(uintptr_t)list, i, kv)
            if ((rc = look_at(l, kv, m, err)) < 0)
                return rc;
        if (!json_flag(page, "more", false))
            return 1;
        if (clock_mono_ms() >= until)
            return 0;
    }
    return rc;
}

int at_rest_look(const struct site *s, const char *key_id, bool rewrite, struct secrets_memory *m, struct err *err)
{
    struct look l = {.key_id = key_id, .rewrite = rewrite};
    int rc = store_client(s, store_address(s), &l.etcd, err);
    if (rc == 0 && rewrite)
        rc = access_client(s, &l.api, err);
    if (rc == 0)
        rc = go_on(&l, m, err);
    client_free(l.etcd);
    client_free(l.api);
    return rc;
}

int at_rest_forget_history(const struct site *s, struct err *err)
{
    struct client *etcd = NULL;
    int rc = store_client(s, store_address(s), &etcd, err);
    if (rc == 0)
        rc = store_compact_all(etcd, err);
    client_free(etcd);
    for (int m = 0; rc == 0 && m < site_members(s); m++) { /* each member's file by itself */
        etcd = NULL;
        rc = store_client(s, member_address(s, m), &etcd, err);
        if (rc == 0)
            rc = store_defragment(etcd, err);
        client_free(etcd);
    }
    return rc;
}
