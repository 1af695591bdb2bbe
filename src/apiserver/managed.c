#include "apiserver/managed.h"
#include "apiserver/meta.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/vec.h"
#include "json/fieldset.h"

#define ROWS_MAX 64
#define MANAGERS_MAX 100   /* that a client may send */
#define UPDATERS_MAX 10    /* older ones become one, as in Kubernetes */
#define ANCIENT "ancient-changes"
#define BEFORE "before-first-apply"
#define CONFLICTS_MAX 100

/* ---- rows ---- */

static const char *const ownable_metadata[] = {"labels", "annotations", "finalizers", "ownerReferences"};

static const struct field *ownable_meta_rows(struct arena *a)
{
    struct field *rows = ARENA_ARRAY(a, struct field, ARRAY_LEN(ownable_metadata) + 1);
    for (size_t i = 0; i < ARRAY_LEN(ownable_metadata); i++)
        rows[i] = *field_find(meta_fields, ownable_metadata[i]);
    return rows;
}

const struct field *managed_rows(const struct kind *k, const char *subresource, struct arena *a)
{
    struct field *rows = ARENA_ARRAY(a, struct field, ROWS_MAX);
    bool only_status = !strcmp(subresource, "status");
    size_t count = 0;
    if (!only_status)
        rows[count++] = (struct field){.name = "metadata", .type = FIELD_OBJECT, .sub = ownable_meta_rows(a)};
    for (const struct field *f = k->fields; f && f->name && count < ROWS_MAX - 1; f++) {
        bool status = k->has_status && !strcmp(f->name, "status");
        if (status == only_status)
            rows[count++] = *f;
    }
    return rows;
}

const struct field *managed_all_rows(const struct kind *k, struct arena *a)
{
    struct field *rows = ARENA_ARRAY(a, struct field, ROWS_MAX);
    size_t count = 0;
    rows[count++] = (struct field){.name = "apiVersion", .type = FIELD_STRING};
    rows[count++] = (struct field){.name = "kind", .type = FIELD_STRING};
    rows[count++] = (struct field){.name = "metadata", .type = FIELD_OBJECT, .sub = meta_fields, .proto = 1};
    for (const struct field *f = k->fields; f && f->name && count < ROWS_MAX - 1; f++)
        rows[count++] = *f;
    return rows;
}

/* live NULL: an object with nothing but metadata, which is always there and belongs to nobody. */
static struct fieldset_diff diff_of(const struct kind *k, const char *subresource, struct arena *a, const json_t *live, const json_t *obj)
{
    JSON_AUTO nothing = live ? NULL : json_pack("{s:{}}", "metadata");
    return fieldset_compare(managed_rows(k, subresource, a), live ? live : nothing, obj);
}

json_t *managed_applied(const struct kind *k, const char *subresource, struct arena *a, const json_t *doc)
{
    JSON_AUTO metadata = json_pack("{s:{s:{}}}", "f:metadata", ".");
    JSON_AUTO all = fieldset_of(managed_rows(k, subresource, a), doc);
    return fieldset_minus(all, metadata);
}

/* ---- entries ---- */

struct manager {
    const char *name, *operation, *subresource, *version, *time; /* borrowed from the entry; time NULL: now */
    json_t *set;                                                 /* owned */
};
struct managers {
    VEC(struct manager) list;
};

static void managers_deinit(struct managers *m)
{
    VEC_FOREACH (&m->list, e)
        json_decref(e->set);
    VEC_DEINIT(&m->list);
}

static int read_entries(const json_t *entries, struct managers *ret)
{
    size_t i;
    json_t *e;
    if (!json_is_array(entries) || json_array_size(entries) > MANAGERS_MAX)
        return -1;
    json_array_foreach (entries, i, e) {
        struct manager m = {json_str(e, "manager"), json_str(e, "operation"), json_str_or(e, "subresource", ""), json_str(e, "apiVersion"), json_str(e, "time"), NULL};
        if (!m.operation || (strcmp(m.operation, "Apply") != 0 && strcmp(m.operation, "Update") != 0) || !m.version)
            return -1;
        m.name = m.name ? m.name : "";
        m.set = fieldset_decode(json_object_get(e, "fieldsV1"));
        if (!m.set)
            return -1;
        *VEC_PUSH(&ret->list) = m;
    }
    return 0;
}

static const json_t *entries_of(const json_t *obj)
{
    return json_object_get(json_object_get(obj, "metadata"), "managedFields");
}

static bool is_by(const struct manager *m, const struct managed_by *by)
{
    return !strcmp(m->name, by->manager) && !strcmp(m->subresource, by->subresource) && !strcmp(m->operation, by->apply ? "Apply" : "Update");
}

static json_t *owned(const json_t *obj, const struct managed_by *by, bool others)
{
    CLEANUP(managers_deinit) struct managers all = {.list = VEC_INIT};
    json_t *set = json_object();
    (void)!read_entries(entries_of(obj), &all);
    VEC_FOREACH (&all.list, m)
        if (is_by(m, by) != others) {
            json_t *more = fieldset_union(set, m->set);
            json_decref(set);
            set = more;
        }
    return set;
}

json_t *managed_owned(const json_t *obj, const struct managed_by *by)
{
    return owned(obj, by, false);
}

json_t *managed_owned_by_others(const json_t *obj, const struct managed_by *by)
{
    return owned(obj, by, true);
}

/* ---- conflicts ---- */

struct causes {
    json_t *list;
    const char *message; /* of this manager's causes */
    const char *field;   /* of the last one */
    struct sbuf *lines;
};

static bool add_cause(void *arg, const char *path)
{
    struct causes *c = arg;
    json_array_append_new(c->list, json_pack("{s:s, s:s, s:s}", "reason", "FieldManagerConflict", "message", c->message, "field", path));
    sbuf_addf(c->lines, "\n- %s", path);
    return json_array_size(c->list) < CONFLICTS_MAX;
}

static void describe(const struct manager *m, struct sbuf *out)
{
    sbuf_add_json(out, str_of(m->name));
    if (*m->subresource)
        sbuf_addf(out, " with subresource \"%s\"", m->subresource);
    if (!strcmp(m->operation, "Update"))
        sbuf_addf(out, " using %s", m->version);
}

json_t *managed_conflicting(const struct kind *k, struct arena *a, const json_t *live, const json_t *obj, const struct managed_by *by)
{
    struct fieldset_diff diff = diff_of(k, by->subresource, a, live, obj);
    JSON_AUTO others = managed_owned_by_others(live, by);
    json_t *both = fieldset_common(others, diff.changed);
    json_decref(diff.changed);
    json_decref(diff.removed);
    return both;
}

json_t *managed_conflicts(const struct kind *k, struct arena *a, const json_t *live, const json_t *obj, const struct managed_by *by, struct sbuf *text)
{
    CLEANUP(managers_deinit) struct managers all = {.list = VEC_INIT};
    CLEANUP(sbuf_deinit) struct sbuf lines = {0}, one = {0};
    struct fieldset_diff diff = diff_of(k, by->subresource, a, live, obj);
    struct causes causes = {.list = json_array(), .lines = &lines};
    sbuf_init(&lines, 64 * 1024);
    sbuf_init(&one, 1024);
    (void)!read_entries(entries_of(live), &all);
    VEC_FOREACH (&all.list, m) {
        JSON_AUTO both = is_by(m, by) ? NULL : fieldset_common(m->set, diff.changed);
        if (fieldset_is_empty(both))
            continue;
        sbuf_reset(&one);
        describe(m, &one);
        causes.message = arena_printf(a, "conflict with %s", one.ptr);
        sbuf_addf(&lines, "%sconflicts with %s:", lines.len ? "\n" : " ", one.ptr);
        fieldset_each(both, add_cause, &causes);
    }
    json_decref(diff.changed);
    json_decref(diff.removed);
    size_t count = json_array_size(causes.list);
    if (count == 1) {
        const json_t *only = json_array_get(causes.list, 0);
        sbuf_addf(text, "Apply failed with 1 conflict: %s: %s", json_str_or(only, "message", ""), json_str_or(only, "field", ""));
    } else {
        sbuf_addf(text, "Apply failed with %zu conflicts:%s", count, lines.ptr ? lines.ptr : "");
    }
    if (count)
        return causes.list;
    json_decref(causes.list);
    return NULL;
}

/* ---- recording a write ---- */

/* Steals set. */
static void replace_set(struct manager *m, json_t *set)
{
    if (json_equal(m->set, set)) {
        json_decref(set);
        return;
    }
    json_decref(m->set);
    m->set = set;
}

static struct manager *manager_of(struct managers *all, const struct managed_by *by, const char *version)
{
    VEC_FOREACH (&all->list, m)
        if (is_by(m, by))
            return m;
    struct manager *m = VEC_PUSH(&all->list);
    *m = (struct manager){by->manager, by->apply ? "Apply" : "Update", by->subresource, version, NULL, json_object()};
    return m;
}

static int compare_managers(const void *left, const void *right)
{
    const struct manager *a = left, *b = right;
    int n = strcmp(a->operation, b->operation);
    if (n == 0 && strcmp(a->time ? a->time : "~", b->time ? b->time : "~") != 0)
        n = strcmp(a->time ? a->time : "~", b->time ? b->time : "~");
    if (n == 0)
        n = strcmp(a->name, b->name);
    return n ? n : strcmp(a->subresource, b->subresource);
}

/* The oldest managers by Update become one, so that the list does not grow with every program that ever wrote. The list is sorted. */
static void cap_updaters(struct managers *all)
{
    size_t updaters = 0, first = 0;
    VEC_FOREACH (&all->list, m)
        updaters += !strcmp(m->operation, "Update");
    first = all->list.len - updaters;
    if (updaters <= UPDATERS_MAX)
        return;
    size_t joined = updaters - UPDATERS_MAX + 1;
    struct manager *into = &all->list.ptr[first];
    for (size_t i = 1; i < joined; i++) {
        struct manager *m = &all->list.ptr[first + i];
        json_t *both = fieldset_union(into->set, m->set);
        json_decref(into->set);
        json_decref(m->set);
        into->set = both;
        into->time = m->time;
    }
    into->name = ANCIENT;
    into->subresource = "";
    memmove(into + 1, into + joined, (all->list.len - first - joined) * sizeof(*into));
    all->list.len -= joined - 1;
}

static json_t *write_entries(struct managers *all, const char *now)
{
    json_t *out = json_array();
    if (!all->list.len)
        return out;
    qsort(all->list.ptr, all->list.len, sizeof(struct manager), compare_managers);
    cap_updaters(all);
    VEC_FOREACH (&all->list, m) {
        json_t *e = json_pack("{s:s, s:s, s:s, s:s, s:s, s:o}", "manager", m->name, "operation", m->operation, "apiVersion", m->version, "time", m->time ? m->time : now,
                              "fieldsType", "FieldsV1", "fieldsV1", fieldset_encode(m->set));
        if (*m->subresource)
            json_object_set_new(e, "subresource", json_string(m->subresource));
        json_array_append_new(out, e);
    }
    return out;
}

static void drop_empty(struct managers *all)
{
    size_t kept = 0;
    for (size_t i = 0; i < all->list.len; i++) {
        struct manager m = all->list.ptr[i];
        if (fieldset_is_empty(m.set))
            json_decref(m.set);
        else
            all->list.ptr[kept++] = m;
    }
    all->list.len = kept;
}

static bool clears(const json_t *sent)
{
    return json_array_size(sent) == 1 && json_is_object(json_array_get(sent, 0)) && !json_object_size(json_array_get(sent, 0));
}

/* The managers to start from; the list that they were read from. */
static const json_t *base_managers(const struct kind *k, struct arena *a, const json_t *live, const json_t *sent, const struct managed_by *by, const char *version,
                                   struct managers *ret)
{
    if (json_array_size(sent)) {
        if (read_entries(sent, ret) == 0)
            return sent;
        managers_deinit(ret);
        *ret = (struct managers){.list = VEC_INIT};
    }
    const json_t *entries = entries_of(live);
    if (read_entries(entries, ret) == 0)
        return entries;
    managers_deinit(ret);
    *ret = (struct managers){.list = VEC_INIT};
    if (live && by->apply) { /* somebody set what is there, before anybody kept book */
        struct fieldset_diff all = diff_of(k, "", a, NULL, live);
        json_decref(all.removed);
        *VEC_PUSH(&ret->list) = (struct manager){BEFORE, "Update", "", version, NULL, all.changed};
    }
    return NULL;
}

static void record_update(struct managers *all, const struct managed_by *by, const char *version, const struct fieldset_diff *diff)
{
    JSON_AUTO touched = fieldset_union(diff->changed, diff->removed);
    VEC_FOREACH (&all->list, m)
        if (!is_by(m, by))
            replace_set(m, fieldset_minus(m->set, touched));
    if (fieldset_is_empty(touched))
        return;
    struct manager *me = manager_of(all, by, version);
    JSON_AUTO rest = fieldset_minus(me->set, diff->removed);
    replace_set(me, fieldset_union(rest, diff->changed));
    me->version = version;
    me->time = NULL;
}

static void record_apply(struct managers *all, const struct managed_by *by, const char *version, const struct fieldset_diff *diff, const json_t *applied)
{
    JSON_AUTO touched = fieldset_union(diff->changed, diff->removed);
    VEC_FOREACH (&all->list, m)
        if (!is_by(m, by))
            replace_set(m, fieldset_minus(m->set, touched));
    struct manager *me = manager_of(all, by, version);
    if (!json_equal(me->set, applied) || strcmp(me->version, version) != 0 || !fieldset_is_empty(touched))
        me->time = NULL;
    replace_set(me, json_incref((json_t *)(uintptr_t)applied));
    me->version = version;
}

void managed_record(const struct kind *k, struct arena *a, const json_t *live, json_t *obj, const struct managed_by *by, const json_t *applied, const json_t *sent, int64_t now_ms)
{
    CLEANUP(managers_deinit) struct managers all = {.list = VEC_INIT};
    char version[128], now[CLOCK_TEXT_MAX];
    json_t *meta = json_object_get(obj, "metadata");
    JSON_AUTO keep_sent = json_incref((json_t *)(uintptr_t)sent); /* entries point into it */
    if (clears(sent)) {
        json_object_del(meta, "managedFields");
        return;
    }
    kind_api_version(k, version);
    clock_format(now_ms, now);
    const json_t *before = base_managers(k, a, live, sent, by, version, &all);
    struct fieldset_diff diff = diff_of(k, by->subresource, a, live, obj);
    if (applied)
        record_apply(&all, by, version, &diff, applied);
    else
        record_update(&all, by, version, &diff);
    json_decref(diff.changed);
    json_decref(diff.removed);
    drop_empty(&all);
    JSON_AUTO entries = write_entries(&all, now);
    if (!json_array_size(entries))
        json_object_del(meta, "managedFields");
    else if (before && json_equal(before, entries)) /* shared, so that equal objects compare fast */
        json_object_set(meta, "managedFields", (json_t *)(uintptr_t)before);
    else
        json_object_set(meta, "managedFields", entries);
}
