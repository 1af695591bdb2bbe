#include "policy/rules.h"

#include "base/mem.h"
#include "base/vec.h"
#include "policy/rbac.h"

#define STEPS_MAX 5000000u /* comparisons of texts in one call: the loop waits for it */
#define MISSING_MAX 1000

/* ---- lists of a rule ---- */

static bool list_names(const json_t *list, const char *wanted)
{
    size_t i;
    json_t *v;
    json_array_foreach (list, i, v) {
        const char *s = json_string_value(v);
        if (s && !strcmp(s, wanted))
            return true;
    }
    return false;
}

static bool list_has(const json_t *list, const char *wanted)
{
    return list_names(list, "*") || list_names(list, wanted);
}

/* "plural", "plural/sub", "* /sub" and "*". */
static bool has_resource(const json_t *list, const char *resource)
{
    const char *sub = strchr(resource, '/');
    char any[300];
    if (list_has(list, resource))
        return true;
    int len = sub ? snprintf(any, sizeof(any), "*%s", sub) : 0;
    return sub && len < (int)sizeof(any) && list_names(list, any);
}

static bool has_path(const json_t *list, const char *path)
{
    size_t i;
    json_t *v;
    json_array_foreach (list, i, v) {
        const char *s = json_string_value(v);
        size_t len = s ? strlen(s) : 0;
        if (len && s[len - 1] == '*' ? !strncmp(path, s, len - 1) : s && !strcmp(path, s))
            return true;
    }
    return false;
}

static bool has_name(const json_t *rule, const char *name)
{
    const json_t *names = json_object_get(rule, "resourceNames");
    return !json_array_size(names) || (*name && list_names(names, name));
}

bool rule_allows(const json_t *rule, const struct rbac_request *q)
{
    char resource[300];
    if (!list_has(json_object_get(rule, "verbs"), q->verb))
        return false;
    if (!q->resource)
        return has_path(json_object_get(rule, "nonResourceURLs"), q->path);
    int len = snprintf(resource, sizeof(resource), "%s%s%s", q->resource, *q->subresource ? "/" : "", q->subresource);
    return len < (int)sizeof(resource) && list_has(json_object_get(rule, "apiGroups"), q->group) && has_resource(json_object_get(rule, "resources"), resource) && has_name(rule, q->name);
}

/* ---- covering ---- */

/* One thing that a rule allows: a verb on a resource, of a name or of all ("*" among others is no name), or a verb on a path. */
struct grain {
    const char *verb, *group, *resource, *name; /* name "": all */
    const char *path; /* NULL: a resource */
};

struct cover {
    const json_t *held;
    json_t *missing;
    size_t steps;
};

static bool allows_grain(const json_t *rule, const struct grain *g)
{
    if (!list_has(json_object_get(rule, "verbs"), g->verb))
        return false;
    if (g->path)
        return has_path(json_object_get(rule, "nonResourceURLs"), g->path);
    return list_has(json_object_get(rule, "apiGroups"), g->group) && has_resource(json_object_get(rule, "resources"), g->resource) && has_name(rule, g->name);
}

static size_t size_of(const json_t *rule)
{
    return 1 + json_array_size(json_object_get(rule, "verbs")) + json_array_size(json_object_get(rule, "apiGroups")) + json_array_size(json_object_get(rule, "resources")) +
           json_array_size(json_object_get(rule, "resourceNames")) + json_array_size(json_object_get(rule, "nonResourceURLs"));
}

static bool is_held(struct cover *c, const struct grain *g)
{
    size_t i;
    json_t *rule;
    json_array_foreach (c->held, i, rule) {
        c->steps += size_of(rule);
        if (c->steps > STEPS_MAX)
            return false;
        if (allows_grain(rule, g))
            return true;
    }
    c->steps++;
    return false;
}

static bool is_list_of(const json_t *list, const char *only)
{
    return only ? json_array_size(list) == 1 && list_names(list, only) : json_array_size(list) == 0;
}

static bool is_of_grain(const json_t *rule, const struct grain *g)
{
    return is_list_of(json_object_get(rule, "apiGroups"), g->path ? NULL : g->group) && is_list_of(json_object_get(rule, "resources"), g->path ? NULL : g->resource) &&
           is_list_of(json_object_get(rule, "resourceNames"), g->path || !*g->name ? NULL : g->name) && is_list_of(json_object_get(rule, "nonResourceURLs"), g->path);
}

static void add_missing(struct cover *c, const struct grain *g)
{
    size_t i;
    json_t *rule;
    json_array_foreach (c->missing, i, rule) {
        if (!is_of_grain(rule, g))
            continue;
        json_t *verbs = json_object_get(rule, "verbs");
        if (!list_names(verbs, g->verb))
            json_array_append_new(verbs, json_string(g->verb));
        return;
    }
    c->steps += json_array_size(c->missing);
    if (json_array_size(c->missing) == MISSING_MAX) /* one is enough to refuse; the rest is for the eye */
        return;
    if (g->path) {
        rule = json_pack("{s:[s], s:[s]}", "nonResourceURLs", g->path, "verbs", g->verb);
    } else {
        rule = json_pack("{s:[s], s:[s], s:[s]}", "apiGroups", g->group, "resources", g->resource, "verbs", g->verb);
        if (*g->name)
            json_object_set_new(rule, "resourceNames", json_pack("[s]", g->name));
    }
    json_array_append_new(c->missing, rule);
}

static void look(struct cover *c, const struct grain *g)
{
    if (!is_held(c, g) && c->steps <= STEPS_MAX)
        add_missing(c, g);
}

static const char *text_at(const json_t *list, size_t i)
{
    const char *s = json_string_value(json_array_get(list, i));
    return s ? s : "";
}

/* False: it takes too long. */
static bool look_at_names(struct cover *c, struct grain g, const json_t *names)
{
    size_t count = json_array_size(names);
    if (!count)
        look(c, &g);
    for (size_t i = 0; i < count && c->steps <= STEPS_MAX; i++) {
        g.name = text_at(names, i);
        look(c, &g);
    }
    return c->steps <= STEPS_MAX;
}

static bool look_at_rule(struct cover *c, const json_t *rule)
{
    const json_t *verbs = json_object_get(rule, "verbs"), *groups = json_object_get(rule, "apiGroups"), *resources = json_object_get(rule, "resources");
    const json_t *paths = json_object_get(rule, "nonResourceURLs"), *names = json_object_get(rule, "resourceNames");
    struct grain g = {.name = ""};
    for (size_t i = 0; i < json_array_size(groups); i++)
        for (size_t k = 0; k < json_array_size(resources); k++)
            for (size_t n = 0; n < json_array_size(verbs); n++) {
                g = (struct grain){.verb = text_at(verbs, n), .group = text_at(groups, i), .resource = text_at(resources, k), .name = ""};
                if (!look_at_names(c, g, names))
                    return false;
            }
    for (size_t i = 0; i < json_array_size(paths); i++)
        for (size_t n = 0; n < json_array_size(verbs); n++) {
            g = (struct grain){.verb = text_at(verbs, n), .path = text_at(paths, i)};
            look(c, &g);
            if (c->steps > STEPS_MAX)
                return false;
        }
    return true;
}

json_t *rules_missing(const json_t *held, const json_t *wanted)
{
    struct cover c = {.held = held, .missing = json_array()};
    size_t i;
    json_t *rule;
    json_array_foreach (wanted, i, rule)
        if (!look_at_rule(&c, rule)) {
            json_array_append(c.missing, rule);
            break;
        }
    return c.missing;
}

void rules_add(json_t *list, const json_t *rules)
{
    size_t i, k;
    json_t *rule, *have;
    json_array_foreach (rules, i, rule) {
        bool known = false;
        json_array_foreach (list, k, have)
            known |= json_equal(have, rule);
        if (!known)
            json_array_append(list, rule);
    }
}

/* ---- words ---- */

static void write_list(struct sbuf *out, const char *title, const json_t *list, bool *first)
{
    if (!json_array_size(list))
        return;
    sbuf_addf(out, "%s%s:[", *first ? "" : ", ", title);
    *first = false;
    for (size_t i = 0; i < json_array_size(list); i++) {
        if (i)
            sbuf_add_char(out, ' ');
        sbuf_add_json(out, str_of(text_at(list, i)));
    }
    sbuf_add_char(out, ']');
}

static void write_rule(const json_t *rule, struct sbuf *out)
{
    static const char *const members[][2] = {{"APIGroups", "apiGroups"}, {"Resources", "resources"}, {"NonResourceURLs", "nonResourceURLs"}, {"ResourceNames", "resourceNames"}, {"Verbs", "verbs"}};
    bool first = true;
    sbuf_add_char(out, '{');
    for (size_t i = 0; i < ARRAY_LEN(members); i++)
        write_list(out, members[i][0], json_object_get(rule, members[i][1]), &first);
    sbuf_add_char(out, '}');
}

static int compare(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

void rules_text(const json_t *rules, struct sbuf *out)
{
    VEC(char *) lines = VEC_INIT;
    size_t i;
    json_t *rule;
    json_array_foreach (rules, i, rule) {
        CLEANUP(sbuf_deinit) struct sbuf line = {0};
        sbuf_init(&line, 4 * 1024 * 1024);
        write_rule(rule, &line);
        char *text = sbuf_take(&line);
        if (text)
            *VEC_PUSH(&lines) = text;
    }
    if (lines.len)
        qsort(lines.ptr, lines.len, sizeof(*lines.ptr), compare);
    VEC_FOREACH (&lines, line) {
        if (line == lines.ptr || strcmp(line[-1], *line) != 0)
            sbuf_addf(out, "%s%s", line == lines.ptr ? "" : "\n", *line);
    }
    VEC_FOREACH (&lines, line)
        mem_free(*line);
    VEC_DEINIT(&lines);
}

/* ---- selectors ---- */

static bool expression_holds(const json_t *e, const json_t *labels)
{
    const char *key = json_str_or(e, "key", ""), *op = json_str_or(e, "operator", "");
    const json_t *label = json_object_get(labels, key), *values = json_object_get(e, "values");
    bool listed = json_is_string(label) && list_names(values, json_string_value(label));
    if (!strcmp(op, "In"))
        return listed;
    if (!strcmp(op, "NotIn"))
        return json_array_size(values) && !listed;
    if (!strcmp(op, "Exists"))
        return label != NULL;
    return !strcmp(op, "DoesNotExist") && *key && !label;
}

bool rules_select(const json_t *selector, const json_t *labels)
{
    const json_t *equal = json_object_get(selector, "matchLabels"), *expressions = json_object_get(selector, "matchExpressions");
    const char *key;
    json_t *v;
    size_t i;
    if (!json_is_object(selector) || (equal && !json_is_null(equal) && !json_is_object(equal)) || (expressions && !json_is_null(expressions) && !json_is_array(expressions)))
        return false;
    json_object_foreach ((json_t *)(uintptr_t)equal, key, v)
        if (!json_is_string(v) || !json_equal(json_object_get(labels, key), v))
            return false;
    json_array_foreach (expressions, i, v)
        if (!expression_holds(v, labels))
            return false;
    return true;
}
