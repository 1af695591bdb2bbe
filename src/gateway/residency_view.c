#include "gateway/residency_view.h"

#include <string.h>

#include "gateway/internal.h"

#define ANSWER_MAX ((size_t)4 << 20)
#define PLACES_MAX (2 * SNAPSHOT_REPLICAS_MAX) /* of an endpoint: as many as its replicas that are looked at, serving and not */

struct view {
    struct sbuf out;
    const struct border *border;
    const struct snap_key *key;
    const char *asked;
    bool open, served, any; /* a place is allowed; … and serves; one was written */
    const char *rule;       /* the first that bars */
};

/* An endpoint's replicas at one site. */
struct place {
    const struct residency_site *site; /* NULL: none is known */
    size_t replicas, serving;
};

static size_t add_to(struct place *places, size_t count, const struct residency_site *site, bool serves)
{
    size_t i = 0;
    while (i < count && places[i].site != site)
        i++;
    if (i == PLACES_MAX)
        return count;
    if (i == count)
        places[count++] = (struct place){.site = site};
    places[i].replicas++;
    places[i].serving += serves;
    return count;
}

static void write_place(struct view *v, const struct snap_endpoint *e, const struct place *p)
{
    const char *rule = border_rule(v->border, v->key, e, v->asked, p->site);
    CLEANUP(sbuf_deinit) struct sbuf name = {0};
    sbuf_init(&name, 1024);
    sbuf_addf(&name, "%s/%s", e->project, e->name);
    sbuf_addc(&v->out, v->any ? ",{\"endpoint\":" : "{\"endpoint\":");
    v->any = true;
    sbuf_add_json(&v->out, sbuf_str(&name));
    if (p->site) {
        sbuf_addc(&v->out, ",\"site\":");
        sbuf_add_json(&v->out, str_of(p->site->name));
        sbuf_addc(&v->out, ",\"jurisdiction\":");
        sbuf_add_json(&v->out, str_of(p->site->jurisdiction));
    } else {
        sbuf_addc(&v->out, ",\"site\":null,\"jurisdiction\":null");
    }
    sbuf_addf(&v->out, ",\"replicas\":%zu,\"serving\":%zu,\"allowed\":%s", p->replicas, p->serving, rule ? "false" : "true");
    if (rule) {
        sbuf_addc(&v->out, ",\"rule\":");
        sbuf_add_json(&v->out, str_of(rule));
        v->rule = v->rule ? v->rule : rule;
    }
    sbuf_add_char(&v->out, '}');
    v->served |= !rule && p->serving;
}

static void look_at(struct view *v, const struct snap_endpoint *e)
{
    struct place places[PLACES_MAX];
    size_t count = 0;
    const char *rule;
    v->open |= !border_shuts(v->border, v->key, e, v->asked, &rule); /* also where there is no place yet */
    for (size_t i = 0; i < e->replica_count; i++)
        count = add_to(places, count, e->replicas[i].site, true);
    for (size_t i = 0; i < e->absent_count; i++)
        count = add_to(places, count, e->absent[i], false);
    for (size_t i = 0; i < count; i++)
        write_place(v, e, &places[i]);
}

static void answer_it(struct gateway_loop *l, struct http_request *r, const struct snap_key *k, const struct snap_endpoint *e, const char *asked)
{
    struct view v = {.border = snapshot_border(l->snapshot), .key = k, .asked = asked};
    sbuf_init(&v.out, ANSWER_MAX);
    sbuf_addc(&v.out, "{\"model\":");
    sbuf_add_json(&v.out, str_of(asked));
    sbuf_addc(&v.out, ",\"places\":[");
    for (size_t i = 0; e->is_route && i < e->backend_count; i++)
        look_at(&v, e->backends[i].endpoint);
    if (!e->is_route)
        look_at(&v, e);
    bool refused = !v.open && v.rule;
    sbuf_addf(&v.out, "],\"result\":\"%s\"", refused ? "refused" : v.served ? "served" : "not_ready");
    if (refused) {
        sbuf_addc(&v.out, ",\"rule\":");
        sbuf_add_json(&v.out, str_of(v.rule));
    }
    sbuf_add_char(&v.out, '}');
    if (sbuf_ok(&v.out))
        http_respond(r, 200, JSON_TYPE, NULL, 0, sbuf_str(&v.out));
    else
        answer_error(r, 500, "server_error", NULL, NULL, NULL, "there are too many places");
    sbuf_deinit(&v.out);
}

void answer_residency(struct gateway_loop *l, struct http_request *r, const struct snap_key *k)
{
    struct str name;
    const char *asked = NULL;
    const struct snap_endpoint *e = NULL;
    if (http_decode(r->arena, str_skip(r->head.path, sizeof(RESIDENCY_VIEW_PATH) - 1), false, &name, NULL) == 0 && name.len < MODEL_NAME_MAX) {
        asked = arena_strndup(r->arena, name);
        e = snapshot_find(l->snapshot, k, asked);
    }
    if (e) {
        answer_it(l, r, k, e, asked);
        return;
    }
    gateway_audit_refusal(l, r, k, 404, "model_not_found", "ModelNotVisible");
    answer_error(r, 404, "invalid_request_error", "model_not_found", "model", NULL, "The model does not exist or you do not have access to it.");
}
