#include "gateway/snapshot_internal.h"

#include <netdb.h>

#include "base/clock.h"
#include "kinds/inference.h"

/* Host names are looked up here, on the builder's thread. What is found is what is connected to, so it is judged here too. Of several addresses it stays the one that it was. */
static bool resolve(const struct engine_paths *engines, const char *host_port, bool tls, const struct net_addr *was, struct net_addr *ret)
{
    char host[256], port[8];
    const char *colon = strrchr(host_port, ':');
    bool has_port = colon && !strchr(colon, ']'), good = false;
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found = NULL;
    snprintf(host, sizeof(host), "%.*s", has_port ? (int)(colon - host_port) : (int)strlen(host_port), host_port);
    snprintf(port, sizeof(port), "%s", has_port ? colon + 1 : tls ? "443" : "80");
    if (host[0] == '[' && strlen(host) > 2) {
        memmove(host, host + 1, strlen(host));
        host[strlen(host) - 1] = 0;
    }
    if (getaddrinfo(host, port, &hints, &found) != 0)
        return false;
    for (const struct addrinfo *f = found; f; f = f->ai_next) {
        struct net_addr at = {.len = f->ai_addrlen};
        memcpy(&at.sa, f->ai_addr, f->ai_addrlen);
        if (!reach_addr(engines->remote, f->ai_addr, tls))
            continue;
        if (!good || (was && net_addr_equal(&at, was)))
            *ret = at;
        good = true;
    }
    freeaddrinfo(found);
    return good;
}

/* Goes into a request's head: nothing there may end a line or a word. */
static bool is_plain(const char *text)
{
    for (const unsigned char *c = (const unsigned char *)text; *c; c++)
        if (*c <= 0x20 || *c >= 0x7f)
            return false;
    return true;
}

static bool read_address(const struct engine_paths *engines, struct arena *a, const char *text, const struct target *known, struct snap_replica *r)
{
    if (!strncmp(text, "unix:", 5)) {
        r->host = "localhost";
        return net_addr_parse(str_of(text), &r->addr, NULL) == 0;
    }
    r->tls = !strncmp(text, "https://", 8);
    const char *host = strstr(text, "://");
    r->host = arena_strdup(a, host ? host + 3 : text);
    return host && is_plain(host) && !strchr(host + 3, '/') && resolve(engines, host + 3, r->tls, known ? &known->addr : NULL, &r->addr);
}

/* False: there should be a key, and there is none that can be sent. */
static bool read_token(const struct engine_paths *engines, struct arena *a, const struct model_replica *mr, const char *uid, const char *address, struct snap_replica *r)
{
    char *token = NULL;
    if (!mr->spec.engine.secret || !*mr->spec.engine.secret)
        return true;
    if (engine_secret_read(engines, uid, address, a, &token, NULL) < 0 || !is_plain(token))
        return false;
    r->token = token;
    return true;
}

/* How its cache is kept apart by tenants. */
static void isolate(const struct engine_paths *engines, struct arena *a, const struct model_replica *mr, const char *uid, struct snap_replica *r)
{
    const struct engine_ops *ops = engine_find(mr->spec.engine.driver);
    r->can_continue = ops->can_continue;
    r->continue_members = ops->continue_members;
    r->tokenizer = ops->tokenizer;
    r->salt_member = engine_task_of(&mr->spec.engine) == TASK_TEXT ? ops->salt_member : NULL;
    if (!ops->has_slots || engine_task_of(&mr->spec.engine) != TASK_TEXT) /* what is only read leaves nothing */
        return;
    if (!r->target->slots)
        r->target->slots = slots_new(engine_slots_file(engines, uid, a), clock_mono_ms());
    r->pins = r->target->slots;
}

/* Of its own spec, which is older than its endpoint's while that one's replicas are replaced. */
static const char *const *read_adapters(struct arena *a, const struct field_list *l)
{
    const char **names = ARENA_ARRAY(a, const char *, l->count + 1);
    for (size_t i = 0; i < l->count; i++)
        names[i] = arena_strdup(a, ((const struct model_adapter *)l->items)[i].name);
    return names;
}

void snapshot_add_replica(struct snapshot *s, const struct engine_paths *engines, struct snapshot_memory *memory, struct snap_endpoint *e, const json_t *obj)
{
    struct model_replica mr;
    struct engine_plan where = {.argv = NULL};
    struct arena *a = s->arena;
    struct snap_replica *r = &e->replicas[e->replica_count];
    if (e->replica_count == SNAPSHOT_REPLICAS_MAX || !obj_name(obj) || kind_decode(&kind_model_replica, obj, a, &mr, NULL) < 0 || !mr.status.address ||
        engine_where(engines, &mr, obj_uid(obj), a, &where, NULL) < 0 || strcmp(where.address, mr.status.address) != 0)
        return;
    *r = (struct snap_replica){.name = arena_strdup(a, obj_name(obj)), .full_name = arena_printf(a, "%s/%s", e->project, obj_name(obj)), .base_path = where.base_path};
    const char *target = arena_printf(a, "%s %s", e->project, where.address);
    if (!read_address(engines, a, where.address, target_find(memory->targets, target), r) || !is_plain(r->base_path))
        return;
    r->engine_model = where.engine_model && *where.engine_model && strcmp(where.engine_model, e->served) != 0 ? where.engine_model : NULL;
    if (!read_token(engines, a, &mr, obj_uid(obj), where.address, r))
        return;
    r->slots = engine_is_remote(&mr.spec.engine) ? (int)mr.spec.engine.max_concurrent_requests : (int)mr.spec.engine.parallel;
    *VEC_PUSH(&s->targets) = r->target = target_take(memory->targets, target);
    r->target->addr = r->addr;
    isolate(engines, a, &mr, obj_uid(obj), r);
    r->adapters = read_adapters(a, &mr.spec.adapters);
    r->site = border_site(s->border, where.address);
    e->replica_count++;
}

void snapshot_add_absent(struct snapshot *s, const struct engine_paths *engines, struct snap_endpoint *e, const json_t *obj)
{
    struct model_replica mr;
    struct engine_plan where = {.argv = NULL};
    if (obj_deleting(obj) || e->absent_count == SNAPSHOT_REPLICAS_MAX || kind_decode(&kind_model_replica, obj, s->arena, &mr, NULL) < 0 ||
        engine_where(engines, &mr, obj_uid(obj), s->arena, &where, NULL) < 0)
        return;
    e->absent[e->absent_count++] = border_site(s->border, where.address);
}
