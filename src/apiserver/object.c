#include "apiserver/api.h"
#include "base/mem.h"

#define OBJECT_START "{\"metadata\":{"

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
    json_error_t e;
    json_t *obj = json_loadb(v->value.ptr, v->value.len, 0, &e);
    char text[24];
    if (!obj) /* what this program wrote itself: a bug, or a corrupt disk that SQLite did not notice */
        return json_object();
    snprintf(text, sizeof(text), "%lld", (long long)rev);
    json_object_set_new(json_object_get(obj, "metadata"), "resourceVersion", json_string(text));
    return obj;
}

static void cache_free(void *cache)
{
    json_decref(cache);
}

json_t *object_of(struct store_value *v)
{
    if (!v->cache) {
        v->cache = object_decode(v, v->rev);
        v->cache_free = cache_free;
    }
    return json_incref(v->cache);
}

json_t *object_copy(struct store_value *v)
{
    return v->cache ? json_deep_copy(v->cache) : object_decode(v, v->rev);
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

void object_write(const struct store_value *v, int64_t rev, struct sbuf *out)
{
    size_t skip = sizeof(OBJECT_START) - 1;
    sbuf_addc(out, OBJECT_START "\"resourceVersion\":\"");
    sbuf_add_u64(out, (uint64_t)rev);
    sbuf_addc(out, "\",");
    sbuf_add(out, str_skip(v->value, skip));
}

void object_encode(const json_t *obj, struct sbuf *out)
{
    JSON_AUTO first = json_object();
    JSON_AUTO meta = json_copy(json_object_get(obj, "metadata"));
    const char *key;
    json_t *v;
    json_object_del(meta, "resourceVersion");
    json_object_set(first, "metadata", meta);
    json_object_foreach ((json_t *)(uintptr_t)obj, key, v)
        if (strcmp(key, "metadata") != 0)
            json_object_set(first, key, v);
    json_write(first, out);
}
