#include "kaas/internal.h"

#include <stdio.h>
#include <sys/stat.h>

#include "apiserver/keyring.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/rnd.h"
#include "crypto/hash.h"
#include "kinds/borrowed.h"

#define TELL_MS 2000u
#define CONF_MAX 16384
#define TENANT_KEY_LOOK_MS 10000u
#define LOOK_MS 60000u        /* at what lies in etcd, when all was well */
#define LOOK_AGAIN_MS 1000u   /* when something was not */
#define TAKEN_MAX_MS 90000u   /* an API server asks for the current key once a minute; after this we do not wait for a sign of it any more */
#define KEY_TEXT 44

/* ---- the API server's configuration ---- */

static json_t *conf_of(const struct site *s, bool identity)
{
    CLEANUP(mem_freep) char *endpoint = xasprintf("unix://%s/kms.sock", s->dir);
    json_t *providers = json_pack("[{s:{s:s, s:s, s:s, s:s}}]", "kms", "apiVersion", "v2", "name", "seki", "endpoint", endpoint, "timeout", "3s");
    if (identity)
        json_array_append_new(providers, json_pack("{s:{}}", "identity"));
    return json_pack("{s:s, s:s, s:[{s:[s], s:o}]}", "apiVersion", "apiserver.config.k8s.io/v1", "kind", "EncryptionConfiguration", "resources", "resources", "secrets", "providers", providers);
}

static json_t *conf_read(const char *path)
{
    json_t *doc = NULL;
    return json_read_file(path, CONF_MAX, &doc, NULL) == 0 ? doc : NULL;
}

static bool has_identity(const json_t *conf)
{
    return json_array_size(json_object_get(json_array_get(json_object_get(conf, "resources"), 0), "providers")) != 1;
}

static int conf_write(const struct site *s, const json_t *old, bool identity, struct err *err)
{
    CLEANUP(mem_freep) char *path = xasprintf("%s/conf/encryption.json", s->dir);
    CLEANUP(sbuf_deinit) struct sbuf text = {0};
    JSON_AUTO want = conf_of(s, identity);
    if (json_equal(old, want))
        return 0;
    sbuf_init(&text, CONF_MAX);
    json_write_pretty(want, &text);
    return file_write(path, sbuf_str(&text), 0600, err);
}

int secrets_conf_ensure(const struct site *s, struct err *err)
{
    CLEANUP(mem_freep) char *path = xasprintf("%s/conf/encryption.json", s->dir);
    CLEANUP(mem_freep) char *store = xasprintf("%s/etcd/member", s->dir);
    JSON_AUTO old = conf_read(path);
    return conf_write(s, old, old ? has_identity(old) : file_exists(store), err);
}

/* ---- keys ---- */

static json_t *key_new(const char *tenant_key)
{
    uint8_t id[ENVELOPE_ID_BYTES], key[ENVELOPE_KEY_BYTES];
    char text[KMS_ID_TEXT + 1], made[CLOCK_TEXT_MAX];
    struct sbuf coded = {0};
    sbuf_init(&coded, 2 * KEY_TEXT);
    (void)!sbuf_reserve(&coded, KEY_TEXT + 1);
    rnd_bytes(id, sizeof(id));
    rnd_bytes(key, sizeof(key));
    kms_id_text(id, text);
    base64_encode(str_n(key, sizeof(key)), &coded);
    clock_format(clock_wall_ms(), made);
    json_t *ret = json_pack("{s:s, s:s%, s:s, s:s}", "id", text, "key", coded.ptr, coded.len, "madeAt", made, "tenantKey", tenant_key);
    mem_wipe(key, sizeof(key));
    mem_wipe(coded.ptr, coded.cap);
    sbuf_deinit(&coded);
    return ret;
}

static int decode(const json_t *obj, struct kms_keys *ret, struct err *err)
{
    json_t *list = json_at(obj, "spec.keys"), *e;
    size_t i;
    *ret = (struct kms_keys){0};
    json_array_foreach (list, i, e) {
        struct kms_key *k = &ret->key[i];
        char room[KEY_TEXT + 4];
        struct str text = str_of(json_str_or(e, "key", ""));
        struct sbuf plain = {0};
        sbuf_init(&plain, sizeof(room));
        bool good = i < KMS_KEYS_MAX && hash_unhex(str_of(json_str_or(e, "id", "")), k->id, sizeof(k->id)) && base64_decode(text, &plain, NULL) == 0 && plain.len == ENVELOPE_KEY_BYTES;
        if (good)
            memcpy(k->key.bytes, plain.ptr, ENVELOPE_KEY_BYTES);
        if (plain.ptr)
            mem_wipe(plain.ptr, plain.cap);
        sbuf_deinit(&plain);
        if (!good)
            return err_set(err, ERR_CORRUPT, "ClusterKey %s is damaged", obj_name(obj));
    }
    ret->count = json_array_size(list);
    return ret->count ? 0 : err_set(err, ERR_CORRUPT, "ClusterKey %s has no key", obj_name(obj));
}

static bool same(const struct kms_keys *k, const struct kms_said *said)
{
    bool is = k->count == said->count;
    for (size_t i = 0; is && i < k->count; i++)
        is = !memcmp(k->key[i].id, said->id[i], ENVELOPE_ID_BYTES);
    return is;
}

static int update(struct kaas *k UNUSED, struct client *c, json_t *obj, struct err *err)
{
    struct client_resource r = kind_resource(&kind_cluster_key);
    struct err why = ERR_INIT;
    int rc = client_update(c, &r, obj, NULL, &why);
    return rc == 0 || rc == ERR_CONFLICT ? rc : err_set(err, rc, "ClusterKey %s: %s", obj_name(obj), why.msg);
}

static int make(struct client *c, const json_t *cluster, const struct site *s, json_t *key, json_t **ret, struct err *err)
{
    struct client_resource r = kind_resource(&kind_cluster_key);
    struct err why = ERR_INIT;
    JSON_AUTO obj = obj_new(&kind_cluster_key, s->ns, s->uid);
    json_object_set_new(obj, "spec", json_pack("{s:[o]}", "keys", key));
    obj_add_owner(obj, cluster);
    int rc = client_create(c, &r, s->ns, obj, ret, &why);
    return rc < 0 ? err_set(err, rc, "its key could not be stored: %s", why.msg) : 0;
}

/* ---- of a place that no cluster has yet ---- */

json_t *secrets_key_new(void)
{
    return key_new("");
}

int secrets_key_give(const struct site *s, const json_t *key, bool *ret_used, struct err *err)
{
    CLEANUP(mem_freep) char *control = xasprintf("%s/kctl.sock", s->dir);
    JSON_AUTO obj = json_pack("{s:{s:[O]}}", "spec", "keys", key);
    struct kms_keys keys;
    struct kms_said said;
    int rc = decode(obj, &keys, err);
    if (rc == 0)
        rc = kms_tell(control, NULL, TELL_MS, &said, err);
    if (rc == 0 && !same(&keys, &said))
        rc = kms_tell(control, &keys, TELL_MS, &said, err);
    mem_wipe(&keys, sizeof(keys));
    if (rc == 0)
        *ret_used = said.sealed > 0;
    return rc;
}

int secrets_key_adopt(struct client *c, const json_t *cluster, const struct site *s, const json_t *key, struct err *err)
{
    return make(c, cluster, s, json_deep_copy(key), NULL, err);
}

static int find(struct kaas *k, struct client *c, const json_t *cluster, const struct site *s, json_t **ret, const char **ret_reason, struct err *err)
{
    struct client_resource r = kind_resource(&kind_cluster_key);
    struct err why = ERR_INIT;
    *ret = informer_get(k->cluster_keys, s->ns, s->uid);
    if (*ret)
        return 0;
    int rc = client_get(c, &r, s->ns, s->uid, ret, &why); /* the cache may not know yet */
    if (rc == 0)
        return 0;
    if (rc != ERR_NOT_FOUND)
        return err_set(err, rc, "%s", why.msg);
    if (obj_condition(cluster, SECRETS_CONDITION)) {
        *ret_reason = "KeyMissing";
        return err_set(err, ERR_NOT_FOUND, "the keys that its secrets were sealed with are gone (ClusterKey %s); others are not made over that: restore them, or delete the cluster", s->uid);
    }
    return make(c, cluster, s, key_new(""), ret, err);
}

/* Another key when the tenant has another. *obj may become another document. */
static int follow_tenant(struct kaas *k, struct client *c, const struct site *s, struct secrets_memory *m, json_t **obj, struct err *err)
{
    uint8_t id[ENVELOPE_ID_BYTES];
    char now[KMS_ID_TEXT + 1];
    uint64_t at = clock_mono_ms();
    if (m->tenant_key_ms && at - m->tenant_key_ms < TENANT_KEY_LOOK_MS)
        return 0;
    m->tenant_key_ms = at;
    JSON_AUTO ns = informer_get(k->namespaces, "", s->ns);
    if (!ns || !keyring_newest(namespace_tenant(ns, s->ns), id))
        return 0;
    kms_id_text(id, now);
    const char *then = json_str_or(json_array_get(json_at(*obj, "spec.keys"), 0), "tenantKey", "");
    m->full = m->full && strcmp(then, now) != 0;
    if (!strcmp(then, now))
        return 0;
    json_t *copy = json_deep_copy(*obj), *list = json_at(copy, "spec.keys");
    if (!*then)
        json_object_set_new(json_array_get(list, 0), "tenantKey", json_string(now));
    else if (!(m->full = json_array_size(list) >= KMS_KEYS_MAX))
        json_array_insert_new(list, 0, key_new(now));
    bool more = *then && json_array_size(list) > json_array_size(json_at(*obj, "spec.keys"));
    int rc = update(k, c, copy, err);
    if (rc == 0 && more)
        log_info("a cluster has another key for secrets, as its tenant has", KV("cluster", s->name), KV("namespace", s->ns));
    json_decref(copy);
    m->tenant_key_ms = rc < 0 ? 0 : at;
    return rc == ERR_CONFLICT ? 0 : rc; /* the changed object comes with the next pass, of which its event is the cause */
}

int secrets_keys_ensure(struct kaas *k, struct client *c, const json_t *cluster, const struct site *s, struct secrets_memory *m, const char **ret_reason, struct err *err)
{
    JSON_AUTO obj = NULL;
    struct kms_keys keys;
    struct kms_said said;
    CLEANUP(mem_freep) char *control = xasprintf("%s/kctl.sock", s->dir);
    *ret_reason = NULL;
    int rc = find(k, c, cluster, s, &obj, ret_reason, err);
    if (rc == 0)
        rc = follow_tenant(k, c, s, m, &obj, err);
    if (rc == 0)
        rc = decode(obj, &keys, err);
    if (rc < 0)
        return rc;
    rc = kms_tell(control, NULL, TELL_MS, &said, err);
    if (rc == 0 && !same(&keys, &said)) {
        rc = kms_tell(control, &keys, TELL_MS, &said, err);
        m->look_ms = 0;
        *m->cursor = 0;
    }
    if (rc == 0) {
        kms_id_text(keys.key[0].id, m->current);
        m->waits_ms = said.sealed ? 0 : m->waits_ms ? m->waits_ms : clock_mono_ms();
    }
    mem_wipe(&keys, sizeof(keys));
    return rc;
}

/* ---- what lies in etcd ---- */

/* Since when the newest of those before key i has held all; 0: none has, as far as it is known. What was known before a restore is not known any more. */
static int64_t superseded_ms(const json_t *keys, size_t i, int64_t restored_ms)
{
    int64_t first = 0;
    for (size_t j = 0; j < i; j++) {
        int64_t at = status_time(json_array_get(keys, j), "sealedAt");
        if (at > restored_ms && (!first || at < first))
            first = at;
    }
    return first;
}

bool secrets_key_is_needed(const json_t *keys, size_t i, const json_t *backups, int64_t restored_ms)
{
    int64_t made = status_time(json_array_get(keys, i), "madeAt"), gone = superseded_ms(keys, i, restored_ms);
    json_t *b;
    size_t k;
    if (i == 0 || !gone)
        return true;
    json_array_foreach ((json_t *)(uintptr_t)backups, k, b) {
        int64_t taken = status_time(b, "takenAt");
        if (!taken || (taken >= made && taken <= gone)) /* madeAt is in whole seconds, and cut off */
            return true;
    }
    return false;
}

/* Nothing lies under an older key, and no API server can seal with one any more: that is written down, and each older key goes that no backup needs. */
static void retire(struct kaas *k, struct client *c, const json_t *cluster, const struct site *s)
{
    struct err err = ERR_INIT;
    JSON_AUTO obj = informer_get(k->cluster_keys, s->ns, s->uid);
    json_t *newest = json_array_get(json_at(obj, "spec.keys"), 0);
    int64_t made = status_time(newest, "madeAt"), restored = status_time(cluster, "status.restore.startedAt"), now = clock_wall_ms();
    if (json_array_size(json_at(obj, "spec.keys")) < 2 || !made || now - made < (int64_t)k->o.key_overlap_ms)
        return;
    JSON_AUTO copy = json_deep_copy(obj);
    json_t *list = json_at(copy, "spec.keys");
    size_t had = json_array_size(list);
    if (status_time(newest, "sealedAt") <= restored) {
        for (size_t i = 1; i < had; i++)
            if (status_time(json_array_get(list, i), "sealedAt") <= restored)
                json_object_del(json_array_get(list, i), "sealedAt");
        status_put_time(json_array_get(list, 0), "sealedAt", now);
    }
    for (size_t i = had; i-- > 1;)
        if (!secrets_key_is_needed(list, i, json_at(cluster, "status.backups"), restored))
            json_array_remove(list, i);
    if (json_equal(copy, obj))
        return;
    if (update(k, c, copy, &err) == 0 && json_array_size(list) < had)
        log_info("older keys of a cluster's secrets are gone: nothing lies under them", KV("cluster", s->name), KV("namespace", s->ns));
    else if (err.code)
        log_warn("older keys of a cluster's secrets could not be removed", KV("cluster", s->name), KV("namespace", s->ns), KVE(&err));
}

static void all_is_sealed(struct kaas *k, struct client *c, json_t *cluster, const struct site *s, const struct secrets_memory *m)
{
    CLEANUP(mem_freep) char *path = xasprintf("%s/conf/encryption.json", s->dir);
    JSON_AUTO conf = conf_read(path);
    struct err err = ERR_INIT;
    /* What there was in clear is in the store's history still. Until that is gone we come here again. */
    if (conf && has_identity(conf)) {
        if (at_rest_forget_history(s, &err) < 0) {
            status_condition(cluster, SECRETS_CONDITION, "False", "Migrating", "all %lld Secrets lie under key %s; older states of the store could not be removed: %s", (long long)m->found, m->current, err.msg);
            return;
        }
        log_info("a cluster's store has forgotten what lay in it in clear", KV("cluster", s->name), KV("namespace", s->ns));
        if (conf_write(s, conf, false, &err) < 0)
            log_warn("a cluster's configuration still takes secrets in clear", KV("cluster", s->name), KV("namespace", s->ns), KVE(&err));
    }
    status_condition(cluster, SECRETS_CONDITION, "True", "Encrypted", "%lld Secrets lie in the store, all under key %s%s", (long long)m->found, m->current,
                     m->full ? "; its tenant has another key, which is followed when backups need fewer of the older ones" : "");
    retire(k, c, cluster, s);
}

void secrets_look(struct kaas *k, struct client *c, json_t *cluster, const struct site *s, struct secrets_memory *m)
{
    struct err err = ERR_INIT;
    const char *status = obj_condition(cluster, SECRETS_CONDITION);
    uint64_t now = clock_mono_ms(), every = status && !strcmp(status, "True") ? LOOK_MS : LOOK_AGAIN_MS;
    bool taken = !m->waits_ms || now - m->waits_ms > TAKEN_MAX_MS;
    if (m->look_ms && now - m->look_ms < MIN(every, k->o.key_overlap_ms))
        return;
    if (!*m->cursor) {
        m->found = m->stale = 0;
        *m->refused = 0;
    }
    int rc = at_rest_look(s, m->current, taken, m, &err);
    if (rc == 0)
        return; /* the next pass goes on */
    *m->cursor = 0;
    m->look_ms = clock_mono_ms();
    if (rc < 0)
        status_condition(cluster, SECRETS_CONDITION, "False", "NotAnswering", "%s", err.msg);
    else if (!m->stale)
        all_is_sealed(k, c, cluster, s, m);
    else
        status_condition(cluster, SECRETS_CONDITION, "False", "Migrating", "%lld of %lld Secrets are written anew under key %s%s%s%s", (long long)m->stale, (long long)m->found, m->current,
            taken ? "" : ", once the API server has taken it", *m->refused ? "; refused: " : "", m->refused);
}
