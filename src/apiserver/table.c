/* meta.k8s.io/v1 Tables: what kubectl prints. */
#include "apiserver/api.h"

#include "base/clock.h"

static json_t *definition(const char *name, const char *type, const char *format, int priority, const char *help)
{
    return json_pack("{s:s, s:s, s:s, s:s, s:i}", "name", name, "type", type, "format", format, "description", help ? help : "", "priority", priority);
}

static bool lists(const struct kind *k, const char *name)
{
    for (const struct kind_column *c = k->columns; c && c->name; c++)
        if (!strcmp(c->name, name))
            return true;
    return false;
}

/* Columns that name NAME are all there are. */
static bool is_complete(const struct kind *k)
{
    return lists(k, "NAME");
}

static bool adds_age(const struct kind *k)
{
    return !is_complete(k) && !lists(k, "AGE");
}

/* kubectl upper-cases names; the API conventions have them in title case ("Created At"). */
static json_t *column_definition(const struct kind_column *c)
{
    char title[64];
    bool first = true;
    snprintf(title, sizeof(title), "%s", c->name);
    for (char *p = title; *p; p++) {
        if (*p >= 'A' && *p <= 'Z' && !first)
            *p = (char)(*p + ('a' - 'A'));
        first = *p == ' ';
    }
    return definition(title, c->type, c->format, c->priority, c->help);
}

json_t *table_start(const struct api_request *q, int64_t rev, bool with_columns)
{
    const struct kind *k = q->kind;
    char text[24], version[64];
    snprintf(text, sizeof(text), "%lld", (long long)rev);
    snprintf(version, sizeof(version), "meta.k8s.io/%s", q->wants.version);
    json_t *table = json_pack("{s:s, s:s, s:{s:s}, s:[], s:[]}", "kind", "Table", "apiVersion", version, "metadata", "resourceVersion", text, "columnDefinitions", "rows");
    json_t *columns = json_object_get(table, "columnDefinitions");
    if (!with_columns)
        return table;
    if (!is_complete(k))
        json_array_append_new(columns, definition("Name", "string", "name", 0, "name of the object"));
    for (const struct kind_column *c = k->columns; c && c->name; c++)
        json_array_append_new(columns, column_definition(c));
    if (adds_age(k))
        json_array_append_new(columns, definition("Age", "date", "", 0, "time since it was made"));
    return table;
}

static json_t *count_of(const json_t *v)
{
    return json_integer((json_int_t)(json_is_array(v) ? json_array_size(v) : json_object_size(v)));
}

static json_t *ready_of(const json_t *obj, const char *paths)
{
    char first[128], text[64];
    const char *comma = strchr(paths, ',');
    snprintf(first, sizeof(first), "%.*s", comma ? (int)(comma - paths) : 0, paths);
    snprintf(text, sizeof(text), "%lld/%lld", (long long)json_int(obj, first, 0), (long long)json_int(obj, comma ? comma + 1 : paths, 0));
    return json_string(text);
}

/* Columns of type date are ages: clients print cells as they come. */
static json_t *age_of(const char *time_text)
{
    char text[CLOCK_AGE_MAX];
    int64_t then;
    if (!time_text || clock_parse(str_of(time_text), &then) < 0)
        return json_string("<unknown>");
    clock_format_age(clock_wall_ms() - then, text);
    return json_string(text);
}

/* The first of several paths that leads to something. */
static json_t *first_of(const json_t *obj, const char *paths)
{
    struct str rest = str_of(paths), path;
    char text[128];
    while (str_cut(&rest, '|', &path)) {
        json_t *v = str_to_array(path, text, sizeof(text)) ? json_at(obj, text) : NULL;
        if (v && !(json_is_string(v) && !json_string_length(v)))
            return v;
    }
    return NULL;
}

/* "modelendpoint/chat" */
static json_t *reference_of(const json_t *ref)
{
    char text[512];
    snprintf(text, sizeof(text), "%.200s/%.253s", json_str_or(ref, "kind", ""), json_str_or(ref, "name", ""));
    for (char *p = text; *p && *p != '/'; p++)
        if (*p >= 'A' && *p <= 'Z')
            *p = (char)(*p + ('a' - 'A'));
    return json_string(text);
}

static json_t *cell(const struct kind_column *c, const json_t *obj)
{
    const char *colon = strchr(c->path, ':'), *text = NULL;
    if (colon && !strncmp(c->path, "condition:", 10))
        text = obj_condition(obj, colon + 1);
    else if (colon && !strncmp(c->path, "reason:", 7))
        text = obj_condition_reason(obj, colon + 1);
    else if (colon && !strncmp(c->path, "count:", 6))
        return count_of(json_at(obj, colon + 1));
    else if (colon && !strncmp(c->path, "ready:", 6))
        return ready_of(obj, colon + 1);
    else if (colon && !strncmp(c->path, "ref:", 4))
        return reference_of(json_at(obj, colon + 1));
    else if (!strcmp(c->type, "date"))
        return age_of(json_string_value(first_of(obj, c->path)));
    else {
        json_t *v = first_of(obj, c->path);
        return v ? json_incref(v) : !strcmp(c->type, "string") ? json_string("") : json_null();
    }
    return json_string(text ? text : "");
}

void table_row(json_t *table, const struct api_request *q, const json_t *obj)
{
    const struct kind *k = q->kind;
    struct str include = q->include;
    const json_t *meta = json_object_get(obj, "metadata");
    json_t *cells = json_array(), *row = json_pack("{s:o}", "cells", cells);
    if (!is_complete(k))
        json_array_append(cells, json_object_get(meta, "name"));
    for (const struct kind_column *c = k->columns; c && c->name; c++)
        json_array_append_new(cells, cell(c, obj));
    if (adds_age(k))
        json_array_append_new(cells, age_of(json_str(meta, "creationTimestamp")));
    if (str_eqc(include, "Object"))
        json_object_set(row, "object", (json_t *)(uintptr_t)obj);
    else
        json_object_set_new(row, "object", str_eqc(include, "None") ? json_null() : shape_metadata(q->wants.version, obj));
    json_array_append_new(json_object_get(table, "rows"), row);
}
