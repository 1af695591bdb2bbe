#include "apiserver/keyring.h"

#include <pthread.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/map.h"
#include "base/rnd.h"
#include "crypto/hash.h"
#include "crypto/root_key.h"
#include "json/json.h"

#define ROOT_RECORD KEYRING_PREFIX "root"
#define KEY_PREFIX KEYRING_PREFIX "keys/"
#define RECORD_MAX 4096
#define WRAPPED_MAX 256
#define CHECK STR("This is the root key.")
#define ID_HEX_MAX (2 * ENVELOPE_ID_BYTES + 1)

struct keyring {
    struct store *store;
    struct root_key *root;
    VEC(struct tenant_key *) keys; /* by tenant and version */
};

/* ---- keys that this process has opened ---- */

struct opened {
    unsigned refs; /* keyrings that have it */
    struct envelope_key key;
    char *tenant;
    int64_t version;
};

static pthread_mutex_t opened_lock = PTHREAD_MUTEX_INITIALIZER;
static struct map *opened; /* by id */

static struct str id_of(const struct tenant_key *t)
{
    return str_n(t->id, sizeof(t->id));
}

static void opened_add(const struct tenant_key *t)
{
    pthread_mutex_lock(&opened_lock);
    opened = opened ? opened : map_new(NULL);
    struct opened *o = map_get(opened, id_of(t));
    if (!o) {
        o = XNEW(struct opened);
        o->key = t->key;
        o->tenant = xstrdup(t->tenant);
        o->version = t->version;
        map_set(opened, id_of(t), o);
    }
    o->refs++;
    pthread_mutex_unlock(&opened_lock);
}

static void opened_drop(const struct tenant_key *t)
{
    pthread_mutex_lock(&opened_lock);
    struct opened *o = map_get(opened, id_of(t));
    if (o && --o->refs == 0) {
        map_del(opened, id_of(t));
        mem_wipe(&o->key, sizeof(o->key));
        mem_free(o->tenant);
        mem_free(o);
    }
    if (!map_len(opened)) {
        map_free(opened);
        opened = NULL;
    }
    pthread_mutex_unlock(&opened_lock);
}

bool keyring_find(const uint8_t id[ENVELOPE_ID_BYTES], struct envelope_key *ret, char *ret_tenant, size_t size)
{
    pthread_mutex_lock(&opened_lock);
    const struct opened *o = opened ? map_get(opened, str_n(id, ENVELOPE_ID_BYTES)) : NULL;
    bool found = o && str_to_array(str_of(o->tenant), ret_tenant, size);
    if (found)
        *ret = o->key;
    pthread_mutex_unlock(&opened_lock);
    return found;
}

bool keyring_newest(const char *tenant, uint8_t ret_id[ENVELOPE_ID_BYTES])
{
    int64_t best = INT64_MIN;
    struct map_iter it = MAP_ITER_INIT;
    pthread_mutex_lock(&opened_lock);
    while (opened && map_next(opened, &it)) {
        const struct opened *o = it.value;
        if (o->version > best && !strcmp(o->tenant, tenant)) {
            best = o->version;
            memcpy(ret_id, it.key.ptr, ENVELOPE_ID_BYTES);
        }
    }
    pthread_mutex_unlock(&opened_lock);
    return best != INT64_MIN;
}

/* ---- records ---- */

static char *record_key(const char *tenant, int64_t version)
{
    return xasprintf(KEY_PREFIX "%s/%010lld", tenant, (long long)version);
}

/* What a wrapped key belongs to: the record of another tenant, or another version, is not taken for it. */
static char *aad_of(const struct tenant_key *t)
{
    char id[ID_HEX_MAX];
    hash_hex(t->id, sizeof(t->id), id);
    return xasprintf("seki tenant key %s %lld %s", t->tenant, (long long)t->version, id);
}

static int wrap(struct root_key *root, struct str aad, struct str plain, char ret[WRAPPED_MAX], struct err *err)
{
    CLEANUP(sbuf_deinit) struct sbuf wrapped = {0}, text = {0};
    sbuf_init(&wrapped, WRAPPED_MAX);
    sbuf_init(&text, WRAPPED_MAX - 1);
    int rc = root_key_wrap(root, aad, plain, &wrapped, err);
    if (rc < 0)
        return rc;
    base64_encode(sbuf_str(&wrapped), &text);
    return str_to_array(sbuf_str(&text), ret, WRAPPED_MAX) && sbuf_ok(&text) ? 0 : err_set(err, ERR_TOO_LARGE, "the wrapped key is too large");
}

static int unwrap(struct root_key *root, struct str aad, const char *text, struct sbuf *out, struct err *err)
{
    CLEANUP(sbuf_deinit) struct sbuf wrapped = {0};
    sbuf_init(&wrapped, WRAPPED_MAX);
    if (base64_decode(str_of(text), &wrapped, NULL) < 0)
        return err_set(err, ERR_CORRUPT, "no base64");
    return root_key_unwrap(root, aad, sbuf_str(&wrapped), out, err);
}

static void record_done(void *arg UNUSED, int code, int64_t rev UNUSED)
{
    if (code < 0)
        log_warn("a key of a tenant could not be stored, nor what was sealed with it; with the next write it is tried again", KVI("code", code));
}

static int put_record(struct keyring *k, const char *key, const json_t *doc, struct str note, struct err *err)
{
    CLEANUP(sbuf_deinit) struct sbuf text = {0};
    sbuf_init(&text, RECORD_MAX);
    json_write(doc, &text);
    struct store_op op = {.type = STORE_PUT, .key = str_of(key), .value = sbuf_str(&text), .expect_rev = 0};
    return store_txn_noted(k->store, &op, 1, note, record_done, NULL, err);
}

static json_t *encode_key(struct root_key *root, const struct tenant_key *t, struct err *err)
{
    CLEANUP(mem_freep) char *aad = aad_of(t);
    char wrapped[WRAPPED_MAX], id[ID_HEX_MAX], created[CLOCK_TEXT_MAX];
    if (wrap(root, str_of(aad), str_n(t->key.bytes, sizeof(t->key.bytes)), wrapped, err) < 0)
        return NULL;
    hash_hex(t->id, sizeof(t->id), id);
    clock_format(t->created_ms, created);
    return json_pack("{s:s, s:s, s:I, s:s, s:s}", "id", id, "tenant", t->tenant, "version", (json_int_t)t->version, "created", created, "wrapped", wrapped);
}

static json_t *encode_root(struct root_key *root, struct err *err)
{
    char wrapped[WRAPPED_MAX];
    if (wrap(root, STR("seki root key"), CHECK, wrapped, err) < 0)
        return NULL;
    return json_pack("{s:s, s:s}", "root", root_key_name(root), "wrapped", wrapped);
}

/* ---- keys ---- */

static void key_free(struct tenant_key *t)
{
    if (t->usable)
        opened_drop(t);
    mem_wipe(&t->key, sizeof(t->key));
    mem_free(t->tenant);
    mem_free(t);
}

static int key_cmp(const struct tenant_key *a, const struct tenant_key *b)
{
    int by_tenant = strcmp(a->tenant, b->tenant);
    return by_tenant ? by_tenant : a->version < b->version ? -1 : a->version > b->version;
}

static void choose_current(struct keyring *k, const char *tenant)
{
    struct tenant_key *newest = NULL;
    VEC_FOREACH (&k->keys, t)
        if (!strcmp((*t)->tenant, tenant)) {
            (*t)->current = false;
            newest = (*t)->usable ? *t : newest;
        }
    if (newest)
        newest->current = true;
}

static void insert(struct keyring *k, struct tenant_key *t)
{
    size_t at = 0;
    while (at < k->keys.len && key_cmp(k->keys.ptr[at], t) < 0)
        at++;
    (void)VEC_PUSH(&k->keys);
    memmove(&k->keys.ptr[at + 1], &k->keys.ptr[at], (k->keys.len - 1 - at) * sizeof(t));
    k->keys.ptr[at] = t;
    if (t->usable)
        opened_add(t);
    choose_current(k, t->tenant);
}

static int store_key(struct keyring *k, const struct tenant_key *t, struct str note, struct err *err)
{
    CLEANUP(mem_freep) char *key = record_key(t->tenant, t->version);
    JSON_AUTO doc = encode_key(k->root, t, err);
    if (!doc)
        return err ? err->code : ERR_INTERNAL;
    return put_record(k, key, doc, note, err);
}

static int make_key(struct keyring *k, const char *tenant, int64_t version, struct str note, struct err *err)
{
    struct err local = ERR_INIT;
    struct tenant_key *t = XNEW(struct tenant_key);
    *t = (struct tenant_key){.tenant = xstrdup(tenant), .version = version, .created_ms = clock_wall_ms()};
    rnd_bytes(t->id, sizeof(t->id));
    rnd_bytes(t->key.bytes, sizeof(t->key.bytes));
    int rc = store_key(k, t, note, err ? err : &local);
    t->usable = rc == 0;
    if (rc == 0)
        insert(k, t);
    else
        key_free(t);
    return rc;
}

static struct tenant_key *newest_of(struct keyring *k, const char *tenant, bool current)
{
    struct tenant_key *ret = NULL;
    VEC_FOREACH (&k->keys, t)
        if (!strcmp((*t)->tenant, tenant) && ((*t)->current || !current))
            ret = *t;
    return ret;
}

/* A record may be undone by a disk that refuses it, with what was sealed after it. Whoever seals next puts it there again, so that no sealed object ever is without. */
static int ensure_stored(struct keyring *k, const struct tenant_key *t, struct err *err)
{
    CLEANUP(mem_freep) char *key = record_key(t->tenant, t->version);
    return store_get_pending(k->store, str_of(key)) ? 0 : store_key(k, t, STR_NULL, err);
}

int keyring_current(struct keyring *k, const char *tenant, const struct tenant_key **ret, struct err *err)
{
    struct tenant_key *t = newest_of(k, tenant, true), *newest = newest_of(k, tenant, false);
    int rc = t ? ensure_stored(k, t, err) : make_key(k, tenant, newest ? newest->version + 1 : 1, STR_NULL, err);
    if (rc < 0)
        return rc;
    t = newest_of(k, tenant, true);
    t->used = true;
    t->unused_rev = 0;
    *ret = t;
    return 0;
}

int keyring_rotate(struct keyring *k, const char *tenant, struct str note, struct err *err)
{
    struct tenant_key *newest = newest_of(k, tenant, false);
    if (!newest)
        return err_set(err, ERR_NOT_FOUND, "tenant \"%s\" has no keys: nothing of it was ever sealed", tenant);
    return make_key(k, tenant, newest->version + 1, note, err);
}

char *keyring_drop(struct keyring *k, struct tenant_key *t)
{
    CLEANUP(mem_freep) char *key = record_key(t->tenant, t->version), *tenant = xstrdup(t->tenant);
    struct store_op op = {.type = STORE_DELETE, .key = str_of(key), .expect_rev = -1};
    int rc = store_txn(k->store, &op, 1, record_done, NULL, NULL);
    if (rc < 0 && rc != ERR_NOT_FOUND)
        return NULL;
    for (size_t i = 0; i < k->keys.len; i++)
        if (k->keys.ptr[i] == t) {
            VEC_REMOVE(&k->keys, i);
            break;
        }
    key_free(t);
    choose_current(k, tenant);
    return TAKE(key);
}

bool keyring_is_durable(struct keyring *k, const struct tenant_key *t)
{
    CLEANUP(mem_freep) char *key = record_key(t->tenant, t->version);
    return store_get(k->store, str_of(key)) != NULL;
}

struct tenant_key **keyring_all(struct keyring *k, size_t *ret_count)
{
    *ret_count = k->keys.len;
    return k->keys.ptr;
}

/* ---- opening ---- */

struct records {
    json_t *root;                 /* NULL: none */
    VEC(struct store_value *) keys;
    struct store_value *root_value;
};

static bool collect(void *arg, struct store_value *v)
{
    struct records *r = arg;
    if (str_eqc(v->key, ROOT_RECORD)) {
        r->root = json_loadb(v->value.ptr, v->value.len, 0, NULL);
        r->root_value = v;
    } else if (str_starts(v->key, STR(KEY_PREFIX))) {
        *VEC_PUSH(&r->keys) = v;
    }
    return true;
}

static void records_deinit(struct records *r)
{
    json_decref(r->root);
    VEC_DEINIT(&r->keys);
}

static bool is_root(struct root_key *root, const struct records *r, struct err *err)
{
    CLEANUP(sbuf_deinit) struct sbuf plain = {0};
    sbuf_init(&plain, WRAPPED_MAX);
    int rc = unwrap(root, STR("seki root key"), json_str_or(r->root, "wrapped", ""), &plain, err);
    if (rc == 0 && !str_eq(sbuf_str(&plain), CHECK))
        rc = err_set(err, ERR_CORRUPT, "the record of the root key is damaged");
    return rc == 0;
}

/* The root key that the records are wrapped with: ours, or the old one that we were given beside it. */
static int choose_reader(struct keyring *k, const struct keyring_options *o, const struct records *r, struct root_key **ret_old, struct err *err)
{
    struct err why = ERR_INIT;
    bool has_old = o->old_root_key && *o->old_root_key;
    if (is_root(k->root, r, &why)) {
        if (has_old)
            log_info("secrets.old-root-key is not needed any more: all keys are wrapped with secrets.root-key");
        return 0;
    }
    if (why.code != ERR_CORRUPT) {
        *err = why;
        return err_wrap(err, "secrets.root-key");
    }
    if (has_old) {
        int rc = root_key_open(o->old_root_key, false, ret_old, err);
        if (rc < 0)
            return err_wrap(err, "secrets.old-root-key");
        if (is_root(*ret_old, r, &why))
            return 0;
        root_key_free(TAKE(*ret_old));
    }
    return err_set(err, ERR_CORRUPT, "secrets.root-key: %s%s%s not the root key of this store, whose secrets were sealed under %.150s: nothing was changed; give that key back, or restore from a backup",
                   root_key_name(k->root), has_old ? " and secrets.old-root-key are" : " is", "", json_str_or(r->root, "root", "another"));
}

static void load_key(struct keyring *k, struct root_key *reader, const struct store_value *v)
{
    struct err err = ERR_INIT;
    CLEANUP(sbuf_deinit) struct sbuf plain = {0};
    JSON_AUTO doc = json_loadb(v->value.ptr, v->value.len, 0, NULL);
    struct str rest = str_skip(v->key, strlen(KEY_PREFIX)), tenant = STR_NULL;
    struct tenant_key *t = XNEW(struct tenant_key);
    sbuf_init(&plain, WRAPPED_MAX);
    (void)str_cut(&rest, '/', &tenant);
    t->tenant = xstrndup(tenant.ptr, tenant.len); /* by where it lies: what the record says of itself is only told */
    t->version = json_int(doc, "version", 0);
    (void)!clock_parse(str_of(json_str_or(doc, "created", "")), &t->created_ms);
    (void)!hash_unhex(str_of(json_str_or(doc, "id", "")), t->id, sizeof(t->id));
    CLEANUP(mem_freep) char *aad = aad_of(t);
    if (unwrap(reader, str_of(aad), json_str_or(doc, "wrapped", ""), &plain, &err) == 0 && plain.len == sizeof(t->key.bytes)) {
        memcpy(t->key.bytes, plain.ptr, plain.len);
        t->usable = true;
    } else {
        log_error("a key of a tenant does not open: what is sealed with it cannot be read", KV("tenant", t->tenant), KVI("version", t->version), KVE(&err));
    }
    if (plain.ptr)
        mem_wipe(plain.ptr, plain.cap);
    insert(k, t);
}

static void rewrapped(void *arg UNUSED, int code, int64_t rev UNUSED)
{
    if (code < 0)
        log_error("the keys could not be wrapped with the new root key: the old one is still needed", KVI("code", code));
    else
        log_info("all keys are wrapped with secrets.root-key: secrets.old-root-key is not needed any more");
}

/* All in one transaction: a crash leaves all keys to the one root key or to the other. */
static int rewrap(struct keyring *k, const struct records *r, struct err *err)
{
    size_t count = 0;
    struct store_op *ops = xcalloc(k->keys.len + 1, sizeof(*ops));
    VEC(char *) texts = VEC_INIT;
    int rc = 0;
    for (size_t i = 0; rc == 0 && i <= k->keys.len; i++) {
        const struct tenant_key *t = i < k->keys.len ? k->keys.ptr[i] : NULL;
        if (t && !t->usable)
            continue;
        JSON_AUTO doc = t ? encode_key(k->root, t, err) : encode_root(k->root, err);
        CLEANUP(sbuf_deinit) struct sbuf text = {0};
        sbuf_init(&text, RECORD_MAX);
        if (doc)
            json_write(doc, &text);
        char *key = t ? record_key(t->tenant, t->version) : xstrdup(ROOT_RECORD), *value = sbuf_take(&text);
        *VEC_PUSH(&texts) = key;
        *VEC_PUSH(&texts) = value;
        rc = doc && value ? 0 : err_set(err, ERR_INTERNAL, "%s", err->code ? err->msg : "a record of a key is too large");
        ops[count++] = (struct store_op){.type = STORE_PUT, .key = str_of(key), .value = str_of(value), .expect_rev = t ? -1 : r->root_value->rev};
    }
    if (rc == 0)
        rc = store_txn(k->store, ops, count, rewrapped, NULL, err);
    VEC_FOREACH (&texts, text)
        mem_free(*text);
    VEC_DEINIT(&texts);
    mem_free(ops);
    return rc;
}

static int begin(struct keyring *k, struct err *err)
{
    JSON_AUTO doc = encode_root(k->root, err);
    if (!doc)
        return err->code;
    log_info("secrets are sealed from here on: keep the root key, and keep it apart from backups", KV("root_key", root_key_name(k->root)));
    return put_record(k, ROOT_RECORD, doc, STR_NULL, err);
}

static int load(struct keyring *k, const struct keyring_options *o, const struct records *r, struct err *err)
{
    struct root_key *old = NULL;
    int rc = choose_reader(k, o, r, &old, err);
    if (rc < 0)
        return rc;
    VEC_FOREACH (&r->keys, v)
        load_key(k, old ? old : k->root, *v);
    if (old)
        rc = rewrap(k, r, err);
    root_key_free(old);
    return rc;
}

int keyring_open(struct store *s, const struct keyring_options *o, struct keyring **ret, struct err *err)
{
    struct keyring *k = XNEW(struct keyring);
    CLEANUP(records_deinit) struct records r = {.keys = VEC_INIT};
    k->store = s;
    int rc = store_range(s, STR(KEYRING_PREFIX), STR_NULL, 0, 0, collect, &r, err);
    bool fresh = !r.root && !r.keys.len && !o->sealed;
    if (rc == 0 && !fresh && !r.root)
        rc = err_set(err, ERR_CORRUPT, "the store has sealed secrets, but the record of their root key is missing or damaged: restore it from a backup; nothing was changed");
    if (rc == 0 && (rc = root_key_open(o->root_key, fresh, &k->root, err)) < 0)
        err_wrap(err, fresh ? "secrets.root-key" : "secrets.root-key (secrets of this store are sealed under %.150s; nothing was changed)", json_str_or(r.root, "root", ""));
    if (rc == 0)
        rc = fresh ? begin(k, err) : load(k, o, &r, err);
    if (rc < 0)
        keyring_free(k);
    else
        *ret = k;
    return rc;
}

void keyring_free(struct keyring *k)
{
    if (!k)
        return;
    VEC_FOREACH (&k->keys, t)
        key_free(*t);
    VEC_DEINIT(&k->keys);
    root_key_free(k->root);
    mem_free(k);
}
