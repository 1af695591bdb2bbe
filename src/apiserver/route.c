/* Paths and methods of the Kubernetes API → kind, namespace, name, subresource, verb. */
#include "apiserver/api.h"

#define PARTS_MAX 9
#define PART_BYTES_MAX 253 /* of names: what is longer names nothing, and no key of the store has room for it */

static int verb_of(struct api_request *q, struct err *err)
{
    struct str m = str_of(q->method);
    const struct kind_subresource *sub = kind_subresource(q->kind, q->sub);
    bool one = *q->name != 0, part = sub && !sub->view, post = str_eqc(m, "POST"), get = str_eqc(m, "GET") || str_eqc(m, "HEAD");
    if ((kind_is_virtual(q->kind) && (one || !post)) || (q->kind->read_only && !get) || (part && !post) || (sub && sub->view && !get))
        return err_set(err, ERR_METHOD, "the server does not allow this method on the requested resource");
    if (get)
        q->verb = sub ? "get" : api_query_flag(q, "watch") ? "watch" : one ? "get" : "list";
    else if (post && (!one || part))
        q->verb = "create";
    else if (str_eqc(m, "PUT") && one)
        q->verb = "update";
    else if (str_eqc(m, "PATCH") && one)
        q->verb = "patch";
    else if (str_eqc(m, "DELETE") && !*q->sub)
        q->verb = one ? "delete" : "deletecollection";
    else
        return err_set(err, ERR_METHOD, "the server does not allow this method on the requested resource");
    return 0;
}

static int not_found(struct err *err)
{
    return err_set(err, ERR_NOT_FOUND, "the server could not find the requested resource");
}

static int take_resource(struct api_request *q, const char *const *part, size_t count, struct err *err)
{
    size_t i = 0;
    /* namespaces/NS/PLURAL…, but namespaces[/NAME[/SUB]] is the kind itself. */
    bool inside = count >= 3 && !strcmp(part[0], "namespaces") && kind_find(str_of(q->group), str_of(q->version), str_of(part[2]));
    if (inside) {
        q->ns = part[1];
        i = 2;
    }
    if (i >= count)
        return not_found(err);
    q->kind = kind_find(str_of(q->group), str_of(q->version), str_of(part[i++]));
    if (!q->kind || q->kind->namespaced < inside)
        return not_found(err);
    if (i < count)
        q->name = part[i++];
    if (i < count)
        q->sub = part[i++];
    if (i < count || (q->kind->namespaced && *q->name && !*q->ns))
        return not_found(err);
    bool known = !*q->sub || (!strcmp(q->sub, "status") && q->kind->has_status) || (!strcmp(q->sub, "scale") && q->kind->has_scale) ||
                 kind_subresource(q->kind, q->sub);
    if (!known)
        return not_found(err);
    return verb_of(q, err);
}

int api_route(struct api_request *q, struct err *err)
{
    struct str rest = str_of(q->path), raw;
    const char *part[PARTS_MAX];
    size_t count = 0;
    q->verb = str_eqc(str_of(q->method), "GET") ? "get" : str_eqc(str_of(q->method), "POST") ? "post" : "other";
    while (str_cut(&rest, '/', &raw)) {
        struct str text;
        if (!raw.len)
            continue;
        if (count == PARTS_MAX || http_decode(q->arena, raw, false, &text, err) < 0 || text.len > PART_BYTES_MAX)
            return not_found(err);
        part[count++] = text.ptr;
    }
    if (count >= 3 && !strcmp(part[0], "api")) {
        q->version = part[1];
        return take_resource(q, part + 2, count - 2, err);
    }
    if (count >= 4 && !strcmp(part[0], "apis")) {
        q->group = part[1];
        q->version = part[2];
        return take_resource(q, part + 3, count - 3, err);
    }
    return 0;
}

void api_dispatch(struct api_request *q)
{
    static const struct {
        const char *verb;
        void (*run)(struct api_request *q);
    } verbs[] = {{"get", api_get}, {"list", api_list}, {"create", api_create}, {"update", api_update}, {"patch", api_patch},
                 {"delete", api_delete}, {"deletecollection", api_delete_collection}};
    const struct kind_subresource *sub = q->kind ? kind_subresource(q->kind, q->sub) : NULL;
    if (sub && sub->view == VIEW_AUDIT) {
        api_audit_view(q);
        return;
    }
    if (sub && sub->view == VIEW_TEXT) {
        api_text_view(q);
        return;
    }
    if (sub || (q->kind && kind_is_virtual(q->kind))) {
        api_answer(q);
        return;
    }
    if (q->kind && api_is_apply(q)) {
        api_apply(q);
        return;
    }
    if (q->kind && !strcmp(q->sub, "scale")) {
        api_scale(q);
        return;
    }
    for (size_t i = 0; q->kind && i < ARRAY_LEN(verbs); i++)
        if (!strcmp(q->verb, verbs[i].verb)) {
            verbs[i].run(q);
            return;
        }
    api_fail_code(q, ERR_NOT_FOUND, "the server could not find the requested resource");
}
