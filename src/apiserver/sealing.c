#include "apiserver/sealing.h"

#include "base/mem.h"
#include "crypto/hash.h"

#define SEALED_START ",\"" SEALED_MEMBER "\":\""
#define SEALED_END "\"}"
#define TABLE_DEPTH_MAX 8
#define SECRETS_MAX (16u * 1024 * 1024)

/* ---- which members ---- */

static bool writable_secret(const struct field *table, int depth)
{
    for (const struct field *f = table; f && f->name; f++)
        if (!(f->flags & FIELD_READ_ONLY) && ((f->flags & FIELD_SECRET) || (depth < TABLE_DEPTH_MAX && writable_secret(f->sub, depth + 1))))
            return true;
    return false;
}

bool sealing_concerns(const struct kind *k)
{
    return !kind_is_virtual(k) && writable_secret(k->fields, 0);
}

static json_t *take(const struct field *table, json_t *obj);

static json_t *take_each(const struct field *f, json_t *list)
{
    json_t *item, *all = json_array();
    size_t i, found = 0;
    json_array_foreach (list, i, item) {
        json_t *own = json_copy(item);
        json_t *secrets = json_is_object(own) ? take(f->sub, own) : NULL;
        json_array_set_new(list, i, own);
        found += secrets != NULL;
        json_array_append_new(all, secrets ? secrets : json_object());
    }
    if (found)
        return all;
    json_decref(all);
    return NULL;
}

/* obj is the caller's own at its top; what is below is shared. */
static json_t *take(const struct field *table, json_t *obj)
{
    json_t *ret = NULL;
    for (const struct field *f = table; f && f->name; f++) {
        json_t *v = json_object_get(obj, f->name), *found = NULL;
        if (!v)
            continue;
        if (f->flags & FIELD_SECRET) {
            found = json_incref(v);
            json_object_del(obj, f->name);
        } else if (f->sub && (json_is_object(v) || json_is_array(v))) {
            JSON_AUTO own = json_copy(v);
            found = json_is_object(v) ? take(f->sub, own) : take_each(f, own);
            if (found)
                json_object_set(obj, f->name, own);
        }
        if (found) {
            ret = ret ? ret : json_object();
            json_object_set_new(ret, f->name, found);
        }
    }
    return ret;
}

json_t *sealing_take(const struct kind *k, json_t *obj)
{
    json_t *ret = take(k->fields, obj), *meta = json_object_get(obj, "metadata");
    json_t *annotations = sealing_concerns(k) ? json_object_get(meta, "annotations") : NULL;
    if (json_object_size(annotations)) {
        ret = ret ? ret : json_object();
        json_object_set_new(ret, "metadata", json_pack("{s:O}", "annotations", annotations));
        json_object_del(meta, "annotations");
    }
    return ret;
}

void sealing_put(json_t *obj, const json_t *secrets)
{
    const char *key;
    json_t *v, *there;
    size_t i;
    json_array_foreach (secrets, i, v)
        sealing_put(json_array_get(obj, i), v);
    json_object_foreach ((json_t *)(uintptr_t)secrets, key, v) {
        there = json_object_get(obj, key);
        if ((json_is_object(there) && json_is_object(v)) || (json_is_array(there) && json_is_array(v)))
            sealing_put(there, v);
        else
            json_object_set(obj, key, v);
    }
}

/* ---- texts ---- */

/* The sealed part's base64, and how much of the text comes before its member; false: there is none. Only the last member of the object itself can be it. */
static bool find_sealed(struct str text, size_t *ret_before, struct str *ret_base64)
{
    size_t start = strlen(SEALED_START), end = strlen(SEALED_END);
    if (!str_ends(text, STR(SEALED_END)))
        return false;
    const char *quote = memrchr(text.ptr, '"', text.len - end);
    if (!quote || (size_t)(quote + 1 - text.ptr) < start || memcmp(quote + 1 - start, SEALED_START, start) != 0)
        return false;
    *ret_before = (size_t)(quote + 1 - text.ptr) - start;
    *ret_base64 = str_n(quote + 1, text.len - end - (size_t)(quote + 1 - text.ptr));
    return true;
}

static void wipe(struct sbuf *b)
{
    if (b->ptr)
        mem_wipe(b->ptr, b->cap);
    sbuf_deinit(b);
}

static void write_aad(struct str key, const char *tenant, struct str rest, struct sbuf *out)
{
    sbuf_init(out, rest.len + key.len + SEALED_TENANT_MAX + 64);
    sbuf_addf(out, "seki object %zu:%.*s %zu:%s ", key.len, STR_ARG(key), strlen(tenant), tenant);
    sbuf_add(out, rest);
}

int sealing_close(struct keyring *k, struct str key, const char *tenant, const json_t *secrets, struct sbuf *text, struct err *err)
{
    const struct tenant_key *t = NULL;
    CLEANUP(wipe) struct sbuf plain = {0};
    CLEANUP(sbuf_deinit) struct sbuf aad = {0}, sealed = {0}, base64 = {0};
    int rc = keyring_current(k, tenant, &t, err);
    if (rc < 0)
        return rc;
    sbuf_init(&plain, SECRETS_MAX);
    json_write(secrets, &plain);
    if (!sbuf_ok(&plain) || text->len + plain.len > text->max)
        return err_set(err, ERR_TOO_LARGE, "object too large");
    write_aad(key, tenant, sbuf_str(text), &aad);
    sbuf_init(&sealed, plain.len + ENVELOPE_OVERHEAD);
    rc = envelope_seal(t->id, &t->key, sbuf_str(&aad), sbuf_str(&plain), &sealed, err);
    if (rc < 0)
        return rc;
    sbuf_init(&base64, 2 * sealed.len + 8);
    base64_encode(sbuf_str(&sealed), &base64);
    text->max += base64.len + strlen(SEALED_START SEALED_END);
    text->len--; /* the last brace */
    sbuf_addc(text, SEALED_START);
    sbuf_add(text, sbuf_str(&base64));
    sbuf_addc(text, SEALED_END);
    return sbuf_ok(text) ? 0 : err_set(err, ERR_TOO_LARGE, "object too large");
}

static int decode_sealed(struct str base64, struct sbuf *out, struct err *err)
{
    sbuf_init(out, base64.len);
    return base64_decode(base64, out, err) < 0 ? err_set(err, ERR_CORRUPT, "the sealed text is no base64") : 0;
}

bool sealing_is_sealed(struct str text, uint8_t ret_id[ENVELOPE_ID_BYTES])
{
    size_t before;
    struct str base64;
    if (!find_sealed(text, &before, &base64))
        return false;
    if (ret_id) { /* it is in the first bytes */
        CLEANUP(sbuf_deinit) struct sbuf head = {0};
        size_t need = ENVELOPE_OVERHEAD / 3 * 4;
        memset(ret_id, 0, ENVELOPE_ID_BYTES);
        if (base64.len >= need && decode_sealed(str_n(base64.ptr, need), &head, NULL) == 0 && head.len > ENVELOPE_ID_BYTES)
            memcpy(ret_id, head.ptr + 1, ENVELOPE_ID_BYTES);
    }
    return true;
}

static int open_part(struct str key, struct str rest, struct str base64, json_t **ret, struct err *err)
{
    uint8_t id[ENVELOPE_ID_BYTES];
    struct envelope_key kek;
    char tenant[SEALED_TENANT_MAX];
    CLEANUP(sbuf_deinit) struct sbuf sealed = {0}, aad = {0};
    CLEANUP(wipe) struct sbuf plain = {0};
    int rc;
    if ((rc = decode_sealed(base64, &sealed, err)) < 0 || (rc = envelope_key_id(sbuf_str(&sealed), id, err)) < 0)
        return rc;
    if (!keyring_find(id, &kek, tenant, sizeof(tenant)))
        return err_set(err, ERR_CORRUPT, "there is no key for its sealed text");
    write_aad(key, tenant, rest, &aad);
    sbuf_init(&plain, sealed.len);
    rc = envelope_open(&kek, sbuf_str(&aad), sbuf_str(&sealed), &plain, err);
    mem_wipe(&kek, sizeof(kek));
    if (rc < 0)
        return rc;
    *ret = json_loadb(plain.ptr, plain.len, 0, NULL);
    return json_is_object(*ret) ? 0 : err_set(err, ERR_CORRUPT, "its sealed text is no document");
}

json_t *sealing_open(struct str key, struct str text)
{
    size_t before;
    struct str base64;
    struct err err = ERR_INIT;
    if (!find_sealed(text, &before, &base64)) {
        json_t *obj = json_loadb(text.ptr, text.len, 0, NULL);
        return obj ? obj : json_object(); /* what this program wrote itself: a bug, or a corrupt disk that SQLite did not notice */
    }
    CLEANUP(sbuf_deinit) struct sbuf rest = {0};
    sbuf_init(&rest, before + 1);
    sbuf_add(&rest, str_n(text.ptr, before));
    sbuf_add_char(&rest, '}');
    json_t *obj = json_loadb(rest.ptr, rest.len, 0, NULL);
    JSON_AUTO secrets = NULL;
    if (!obj)
        obj = json_pack("{s:{}}", "metadata");
    if (open_part(key, sbuf_str(&rest), base64, &secrets, &err) == 0)
        sealing_put(obj, secrets);
    else
        json_object_set_new(obj, SEALED_MEMBER, json_string(err.msg));
    return obj;
}

const char *sealing_shut(const json_t *obj)
{
    return json_string_value(json_object_get(obj, SEALED_MEMBER));
}
