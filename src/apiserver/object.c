#include "apiserver/api.h"
#include "apiserver/sealing.h"
#include "base/log.h"
#include "base/mem.h"
#include "kinds/borrowed.h"

#define OBJECT_START "{\"metadata\":{"
#define CLEAR_TEXT_MAX (64u * 1024 * 1024)

void object_key(const struct kind *k, const char *ns, const char *name, struct sbuf *out)
{
    object_prefix(k, NULL, out);
    sbuf_addf(out, "%s/%s", k->namespaced ? ns : "", name);
}

void object_prefix(const struct kind *k, const char *ns, struct sbuf *out)
{
    k = kind_stored(k);
    sbuf_addf(out, "%s%s%s/", k->plural, *k->group ? "." : "", k->group);
    if (ns && *ns)
        sbuf_addf(out, "%s/", ns);
}

const struct kind *object_kind_of_key(struct str key, struct str *ret_ns, struct str *ret_name)
{
    struct str rest = key, resource, ns;
    size_t count;
    const struct kind *const *kinds = kind_all(&count);
    if (!str_cut(&rest, '/', &resource) || !str_cut(&rest, '/', &ns))
        return NULL;
    for (size_t i = 0; i < count; i++) {
        size_t len = strlen(kinds[i]->plural);
        bool plain = resource.len == len && !*kinds[i]->group;
        bool grouped = resource.len > len + 1 && resource.ptr[len] == '.' && str_eqc(str_skip(resource, len + 1), kinds[i]->group);
        if ((plain || grouped) && !memcmp(resource.ptr, kinds[i]->plural, len)) {
            *ret_ns = ns;
            *ret_name = rest;
            return kinds[i];
        }
    }
    return NULL;
}

json_t *object_decode(const struct store_value *v, int64_t rev)
{
    json_t *obj = sealing_open(v->key, v->value);
    char text[24];
    if (sealing_shut(obj))
        log_error("an object's sealed text does not open", KVS("key", v->key), KV("why", sealing_shut(obj)));
    snprintf(text, sizeof(text), "%lld", (long long)rev);
    json_object_set_new(json_object_get(obj, "metadata"), "resourceVersion", json_string(text));
    return obj;
}

/* ---- what is kept with a value: the document; of a sealed one its text in clear, too ---- */

struct opened {
    json_t *obj;
    char *text; /* as it would be stored unsealed; NULL until somebody wants it */
    size_t len;
};

static void free_plain(void *cache)
{
    json_decref(cache);
}

static void free_opened(void *cache)
{
    struct opened *o = cache;
    json_decref(o->obj);
    if (o->text)
        mem_wipe(o->text, o->len);
    mem_free(o->text);
    mem_free(o);
}

static bool is_sealed(const struct store_value *v)
{
    return v->cache ? v->cache_free == free_opened : sealing_is_sealed(v->value, NULL);
}

/* Borrowed. */
static json_t *kept(struct store_value *v)
{
    if (!v->cache && is_sealed(v)) {
        struct opened *o = XNEW(struct opened);
        o->obj = object_decode(v, v->rev);
        v->cache = o;
        v->cache_free = free_opened;
    } else if (!v->cache) {
        v->cache = object_decode(v, v->rev);
        v->cache_free = free_plain;
    }
    return is_sealed(v) ? ((struct opened *)v->cache)->obj : v->cache;
}

json_t *object_of(struct store_value *v)
{
    return json_incref(kept(v));
}

json_t *object_copy(struct store_value *v)
{
    return v->cache ? json_deep_copy(kept(v)) : object_decode(v, v->rev);
}

const char *object_shut(struct store_value *v)
{
    return is_sealed(v) ? sealing_shut(kept(v)) : NULL;
}

json_t *object_of_as(const struct kind *k, struct store_value *v)
{
    JSON_AUTO obj = object_of(v);
    return kind_show(k, obj);
}

json_t *object_copy_as(const struct kind *k, struct store_value *v)
{
    JSON_AUTO obj = object_copy(v);
    return kind_show(k, obj);
}

/* Metadata first, no resourceVersion. */
static json_t *stored_form(const json_t *obj)
{
    json_t *first = json_object(), *meta = json_copy(json_object_get(obj, "metadata")), *v;
    const char *key;
    json_object_del(meta, "resourceVersion");
    json_object_set_new(first, "metadata", meta);
    json_object_foreach ((json_t *)(uintptr_t)obj, key, v)
        if (strcmp(key, "metadata") != 0)
            json_object_set(first, key, v);
    return first;
}

/* The text that would be stored if nothing were sealed. */
static struct str clear_text(struct store_value *v)
{
    if (!is_sealed(v))
        return v->value;
    (void)kept(v);
    struct opened *o = v->cache;
    if (!o->text) {
        CLEANUP(sbuf_deinit) struct sbuf text = {0};
        JSON_AUTO stored = stored_form(o->obj);
        sbuf_init(&text, CLEAR_TEXT_MAX);
        json_write(stored, &text);
        o->len = text.len;
        o->text = sbuf_take(&text);
    }
    return o->text ? str_n(o->text, o->len) : STR(OBJECT_START "}}");
}

void object_write(struct store_value *v, int64_t rev, struct sbuf *out)
{
    size_t skip = sizeof(OBJECT_START) - 1;
    struct str text = clear_text(v);
    sbuf_addc(out, OBJECT_START "\"resourceVersion\":\"");
    sbuf_add_u64(out, (uint64_t)rev);
    sbuf_addc(out, "\",");
    sbuf_add(out, str_skip(text, skip));
}

const char *object_tenant(struct apiserver *s, const char *ns, char tenant[OBJECT_TENANT_MAX])
{
    CLEANUP(sbuf_deinit) struct sbuf key = {0};
    sbuf_init(&key, 1024);
    object_key(&kind_namespace, "", ns, &key);
    struct store_value *v = *ns ? store_get_pending(s->store, sbuf_str(&key)) : NULL;
    JSON_AUTO namespace = v ? object_of(v) : NULL;
    snprintf(tenant, OBJECT_TENANT_MAX, "%s", *ns ? namespace_tenant(namespace, ns) : CLUSTER_TENANT);
    return tenant;
}

int object_encode(struct apiserver *s, struct str key, const json_t *obj, struct sbuf *out, struct err *err)
{
    struct str ns, name;
    char text[OBJECT_TENANT_MAX], tenant[OBJECT_TENANT_MAX];
    if (sealing_shut(obj))
        return err_set(err, ERR_CORRUPT, "the object cannot be written, because its secrets cannot be read: %s", sealing_shut(obj));
    const struct kind *k = s->keyring ? object_kind_of_key(key, &ns, &name) : NULL;
    JSON_AUTO stored = stored_form(obj);
    JSON_AUTO secrets = k ? sealing_take(k, stored) : NULL;
    json_write(stored, out);
    if (!sbuf_ok(out))
        return err_set(err, ERR_TOO_LARGE, "object too large");
    if (!secrets)
        return 0;
    if (!str_to_array(ns, text, sizeof(text)))
        return err_set(err, ERR_INTERNAL, "a namespace with a long name");
    return sealing_close(s->keyring, key, object_tenant(s, text, tenant), secrets, out, err);
}
