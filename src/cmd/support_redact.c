/* What is harmless, and stays. */
#include "base/vec.h"
#include "cmd/support.h"

#define LOG_LINE_MAX (64 * 1024)
#define MESSAGE_MAX 240
#define NAME_MAX_BYTES 253

static bool one_of(struct str s, const char *const *list)
{
    for (; *list; list++)
        if (str_eqc(s, *list))
            return true;
    return false;
}

static bool of_chars(struct str s, size_t max, const char *chars)
{
    if (!s.len || s.len > max)
        return false;
    for (size_t i = 0; i < s.len; i++) {
        char c = s.ptr[i];
        if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || (c && strchr(chars, c))))
            return false;
    }
    return true;
}

/* A word as reasons and types of conditions are: "CrashLoopBackOff". */
static bool is_code(struct str s)
{
    if (!s.len || s.len > 64 || s.ptr[0] < 'A' || s.ptr[0] > 'Z')
        return false;
    for (size_t i = 0; i < s.len; i++)
        if (!((s.ptr[i] >= 'a' && s.ptr[i] <= 'z') || (s.ptr[i] >= 'A' && s.ptr[i] <= 'Z')))
            return false;
    return true;
}

/* As the servers make them: "req-" and hexadecimal digits. */
static bool is_request_id(struct str s)
{
    if (!str_starts(s, STR("req-")) || s.len < 8 || s.len > 40)
        return false;
    for (size_t i = 4; i < s.len; i++)
        if (!s.ptr[i] || !strchr("0123456789abcdef", s.ptr[i]))
            return false;
    return true;
}

/* ---- sekid's log ---- */

static bool log_value_stays(struct str key, struct str value, bool texts)
{
    static const char *const own[] = {"ts", "level", "component", NULL}, *const ids[] = {"request", "id", NULL}, *const sentences[] = {"error", "why", "how", NULL};
    static const char *const names[] = {"workload", "namespace", "project", "replica", "endpoint", "journal", "role", "resource", "controller", "address", "route", "outcome",
                                        "workloads", "verb", "tls", "missing", "tenant", "issuer", NULL};
    if (str_eqc(key, "msg"))
        return value.len <= MESSAGE_MAX; /* a constant of the sources */
    if (one_of(key, own))
        return of_chars(value, 40, "-:.");
    if (one_of(key, ids))
        return is_request_id(value);
    if (one_of(key, names))
        return of_chars(value, NAME_MAX_BYTES, "._:/[]-");
    if (str_eqc(key, "options")) /* names of the schema */
        return of_chars(value, 1024, "., -");
    if (str_eqc(key, "reason")) /* codes; people give reasons too */
        return is_code(value);
    return texts && one_of(key, sentences);
}

void support_log_line(struct str line, bool texts, struct sbuf *out)
{
    JSON_AUTO doc = NULL;
    if (json_parse(line, LOG_LINE_MAX, &doc, NULL) < 0 || !json_is_object(doc) || !json_str(doc, "msg") || !json_str(doc, "ts"))
        return;
    JSON_AUTO kept = json_object();
    const char *key;
    json_t *v;
    json_object_foreach (doc, key, v) {
        bool stays = json_is_integer(v) || json_is_boolean(v) ||
                     (json_is_string(v) && log_value_stays(str_of(key), str_n(json_string_value(v), json_string_length(v)), texts));
        /* The names of members are ours as well. */
        if (stays && of_chars(str_of(key), 40, "_"))
            json_object_set(kept, key, v);
    }
    json_write(kept, out);
    sbuf_add_char(out, '\n');
}

/* ---- engines' logs ---- */

/* How lines begin in which llama.cpp, ggml and the launcher tell of files, memory, devices and their own end. Requests are told of elsewhere. */
static const char *const engine_tags[] = {"ggml_", "llama_model", "llama_context", "llama_kv_cache", "llama_init", "llama_params_fit", "load_tensors", "load_backend", "print_info", "load:",
                                          "main: load", "main: model", "main: exit", "main: server", "system_info", "build:", "build_info", "CUDA error", "GGML_ASSERT", "terminate called",
                                          "srv    load_model", "srv   load_model", "srv  load_model", "common_init", "llamacpp-launcher:", "listening on ", NULL};

bool support_engine_line(struct str line, struct sbuf *out)
{
    bool ours = false;
    for (const char *const *t = engine_tags; *t && !ours; t++)
        ours = str_starts(line, str_of(*t));
    if (!ours || !str_utf8_valid(line))
        return false;
    /* What is quoted may be anything: a file's metadata, a chat template. */
    char quote = 0;
    size_t max = MIN(line.len, (size_t)MESSAGE_MAX);
    for (size_t i = 0; i < max; i++) {
        char c = line.ptr[i];
        if (quote) {
            if (c == quote)
                quote = 0;
            else
                continue;
        } else if (c == '"' || c == '\'' || c == '`') {
            quote = c;
        }
        sbuf_add_char(out, (unsigned char)c < ' ' || (unsigned char)c >= 127 ? '?' : c);
    }
    sbuf_add_char(out, '\n');
    return true;
}

/* ---- monitoring ---- */

void support_metrics(struct str text, struct sbuf *out)
{
    struct str line;
    while (str_cut(&text, '\n', &line)) {
        struct str name = line;
        if (str_starts(line, STR("# HELP ")) || str_starts(line, STR("# TYPE ")))
            name = str_skip(line, 7);
        if (!str_starts(name, STR("seki_")) && !str_starts(name, STR("gen_ai_server_")) && !str_starts(name, STR("process_")))
            continue;
        sbuf_add(out, line);
        sbuf_add_char(out, '\n');
    }
}

void support_ready(struct str text, bool texts, struct sbuf *out)
{
    static const char *const own[] = {"store", "controllers", "gateway", "serving", "audit", NULL};
    struct str line;
    while (str_cut(&text, '\n', &line)) {
        if (str_eqc(line, "ok") || str_eqc(line, "not ready")) {
            sbuf_addf(out, "%.*s\n", STR_ARG(line));
            continue;
        }
        bool well = str_starts(line, STR("[+]"));
        if (!well && !str_starts(line, STR("[-]")))
            continue;
        struct str rest = str_skip(line, 3), name;
        if (!str_cut(&rest, ' ', &name) || !of_chars(name, 40, "-_"))
            continue;
        if (well)
            sbuf_addf(out, "[+]%.*s ok\n", STR_ARG(name));
        else if (texts || one_of(name, own))
            sbuf_addf(out, "%.*s\n", STR_ARG(line));
        else
            sbuf_addf(out, "[-]%.*s failed (the message is left out)\n", STR_ARG(name));
    }
}

/* ---- objects ---- */

bool support_has_kind(const struct kind *k)
{
    if (kind_is_virtual(k) || k->view_of)
        return false;
    for (const struct field *f = k->fields; f && f->name; f++)
        if (f->flags & FIELD_SECRET)
            return false;
    return true;
}

static json_t *keep_object(const struct field *table, const json_t *obj, bool texts);

static bool text_stays(const struct field *table, const struct field *f, struct str s, bool texts)
{
    if (table == condition_fields) /* only controllers write them */
        return str_eqc(str_of(f->name), "message") ? texts : is_code(s);
    if (f->type == FIELD_STRING && f->ref)
        return field_dns_name(s);
    return false;
}

/* Words of closed sets, and texts of which the form says that they say nothing else. */
static bool scalar_stays(const struct field *table, const struct field *f, enum field_type type, const json_t *v, bool texts)
{
    if (!field_has_type(type, v))
        return false;
    switch (type) {
    case FIELD_INT:
    case FIELD_BOOL:
    case FIELD_NUMBER:
        return true;
    case FIELD_ENUM: {
        struct str rest = str_of(f->values), item;
        while (str_cut(&rest, '|', &item))
            if (str_eqc(item, json_string_value(v)))
                return true;
        return false;
    }
    case FIELD_TIME:
    case FIELD_QUANTITY:
        return of_chars(str_n(json_string_value(v), json_string_length(v)), 40, "-:.+");
    case FIELD_STRING:
        return text_stays(table, f, str_n(json_string_value(v), json_string_length(v)), texts);
    default:
        return false;
    }
}

static json_t *keep_list(const struct field *f, const json_t *list, bool texts)
{
    json_t *kept = json_array();
    size_t i;
    json_t *v;
    json_array_foreach (list, i, v) {
        if (f->elem == FIELD_OBJECT && json_is_object(v))
            json_array_append_new(kept, keep_object(f->sub, v, texts));
        else if (f->elem != FIELD_STRING && scalar_stays(NULL, f, f->elem, v, texts))
            json_array_append(kept, v);
    }
    return kept;
}

static json_t *keep_object(const struct field *table, const json_t *obj, bool texts)
{
    json_t *kept = json_object();
    for (const struct field *f = table; f && f->name; f++) {
        json_t *v = json_object_get(obj, f->name);
        if (!v || (f->flags & FIELD_SECRET))
            continue;
        if (f->type == FIELD_OBJECT && f->sub && json_is_object(v))
            json_object_set_new(kept, f->name, keep_object(f->sub, v, texts));
        else if (f->type == FIELD_LIST && json_is_array(v))
            json_object_set_new(kept, f->name, keep_list(f, v, texts));
        else if (scalar_stays(table, f, f->type, v, texts))
            json_object_set(kept, f->name, v);
    }
    return kept;
}

static json_t *keep_metadata(const json_t *meta)
{
    static const char *const members[] = {"name", "namespace", "uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", NULL};
    json_t *kept = json_object(), *labels = json_object(), *owners = json_array(), *v;
    for (const char *const *m = members; *m; m++)
        if ((v = json_object_get(meta, *m)) && (json_is_string(v) || json_is_integer(v)))
            json_object_set(kept, *m, v);
    const char *key;
    json_object_foreach (json_object_get(meta, "labels"), key, v)
        if (str_starts(str_of(key), STR("seki.cloud/")))
            json_object_set(labels, key, v);
    size_t i;
    json_array_foreach (json_object_get(meta, "ownerReferences"), i, v)
        json_array_append_new(owners, json_pack("{s:s*, s:s*, s:s*}", "kind", json_str(v, "kind"), "name", json_str(v, "name"), "uid", json_str(v, "uid")));
    json_object_set_new(kept, "finalizers", json_integer((json_int_t)json_array_size(json_object_get(meta, "finalizers"))));
    json_object_set_new(kept, "labels", labels);
    json_object_set_new(kept, "ownerReferences", owners);
    return kept;
}

json_t *support_object(const struct kind *k, const json_t *obj, bool texts)
{
    char version[128];
    kind_api_version(k, version);
    json_t *kept = json_pack("{s:s, s:s, s:o}", "apiVersion", version, "kind", k->name, "metadata", keep_metadata(json_object_get(obj, "metadata")));
    JSON_AUTO rest = keep_object(k->fields, obj, texts);
    json_object_update(kept, rest);
    return kept;
}

/* ---- options ---- */

void support_options(const struct conf_option *schema, size_t count, const void *values, struct sbuf *out)
{
    static const char *const shown[] = {"api.listen", "api.names", "gateway.listen", "metrics.listen", "metrics.gateway-listen", "engine.remote-allow", "model.dirs", NULL};
    for (size_t i = 0; i < count; i++) {
        const struct conf_option *o = &schema[i];
        const char *at = (const char *)values + o->offset;
        char name[128];
        snprintf(name, sizeof(name), "%s%s%s", o->section, *o->section ? "." : "", o->name);
        sbuf_addf(out, "%s = ", name);
        int64_t number;
        if (o->type == CONF_BOOL) {
            sbuf_addc(out, *(const bool *)at ? "true" : "false");
        } else if (o->type == CONF_STR || o->type == CONF_PATH) {
            const char *text = *(char *const *)(const void *)at;
            bool plain = !text || !*text || (o->type == CONF_PATH && strchr("/.", *text)) || one_of(str_of(name), shown);
            sbuf_addc(out, plain ? (text ? text : "") : "(set)");
        } else if (o->type == CONF_ENUM) {
            struct str rest = str_of(o->values), item = STR_NULL;
            memcpy(&number, at, sizeof(number));
            for (int64_t n = 0; n <= number && str_cut(&rest, '|', &item); n++)
                ;
            sbuf_add(out, item);
        } else {
            memcpy(&number, at, sizeof(number));
            sbuf_addf(out, "%lld%s", (long long)number, o->type == CONF_DURATION ? " ms" : "");
        }
        sbuf_add_char(out, '\n');
    }
}
