/* The OpenAPI v2 document as protobuf: the only form in which clients of Kubernetes (client-go) ask for it. The messages are those of openapi.v2 as gnostic defines them; the tables
 * name the members that our documents have. A JSON value that may be of any type is carried as text in YAML, and JSON is YAML.
 */
#include "apiserver/openapi.h"

#define PROTO_MAX (16u * 1024 * 1024)
#define WIRE_VARINT 0
#define WIRE_DOUBLE 1
#define WIRE_BYTES 2

enum shape {
    P_STRING, P_BOOL, P_INT, P_DOUBLE, P_ANY, P_MESSAGE,
    P_EACH = 16, /* flag: an array of these */
};

struct message;
struct member {
    const char *name;   /* in JSON */
    unsigned number;
    int shape;
    const struct message *message;
    const char *levels; /* numbers of the members of single-member messages that lie in between ("oneof" wrappers); NULL: none */
};
struct message {
    const struct member *members; /* ends with name NULL; NULL: every member of the object is a pair of name (1) and value (2) … */
    struct member each;           /* … under this number */
    unsigned extensions;          /* number of the list of members that begin with "x-"; 0: none */
};

/* ---- the wire ---- */

static void add_varint(struct sbuf *b, uint64_t v)
{
    for (; v >= 0x80; v >>= 7)
        sbuf_add_char(b, (char)(v | 0x80));
    sbuf_add_char(b, (char)v);
}

static void add_bytes(struct sbuf *b, unsigned number, struct str bytes)
{
    add_varint(b, number << 3 | WIRE_BYTES);
    add_varint(b, bytes.len);
    sbuf_add(b, bytes);
}

static void add_double(struct sbuf *b, unsigned number, double v)
{
    uint64_t bits;
    memcpy(&bits, &v, sizeof(bits));
    add_varint(b, number << 3 | WIRE_DOUBLE);
    for (int i = 0; i < 8; i++)
        sbuf_add_char(b, (char)(bits >> (8 * i)));
}

static void add_any(struct sbuf *b, unsigned number, const json_t *v)
{
    CLEANUP(sbuf_deinit) struct sbuf text = {0}, any = {0};
    sbuf_init(&text, PROTO_MAX);
    sbuf_init(&any, PROTO_MAX);
    json_write(v, &text);
    add_bytes(&any, 2, sbuf_str(&text));
    add_bytes(b, number, sbuf_str(&any));
}

/* ---- messages ---- */

static const struct message schema_message;
static const struct message parameter_message = {0}; /* stands for one of the variants */

static const struct message properties_message = {.each = {.number = 1, .message = &schema_message}};
static const struct member schema_members[] = {
    {"$ref", 1, P_STRING, NULL, NULL}, {"format", 2, P_STRING, NULL, NULL}, {"description", 4, P_STRING, NULL, NULL}, {"default", 5, P_ANY, NULL, NULL},
    {"maximum", 7, P_DOUBLE, NULL, NULL}, {"minimum", 9, P_DOUBLE, NULL, NULL}, {"maxLength", 11, P_INT, NULL, NULL}, {"minLength", 12, P_INT, NULL, NULL},
    {"pattern", 13, P_STRING, NULL, NULL}, {"maxItems", 14, P_INT, NULL, NULL}, {"minItems", 15, P_INT, NULL, NULL}, {"uniqueItems", 16, P_BOOL, NULL, NULL},
    {"maxProperties", 17, P_INT, NULL, NULL}, {"minProperties", 18, P_INT, NULL, NULL}, {"required", 19, P_STRING | P_EACH, NULL, NULL}, {"enum", 20, P_ANY | P_EACH, NULL, NULL},
    {"additionalProperties", 21, P_MESSAGE, &schema_message, "\1"}, {"type", 22, P_STRING, NULL, "\1"}, {"items", 23, P_MESSAGE, &schema_message, "\1"},
    {"properties", 25, P_MESSAGE, &properties_message, NULL}, {"readOnly", 27, P_BOOL, NULL, NULL}, {0},
};
static const struct message schema_message = {.members = schema_members, .extensions = 31};

static const struct member response_members[] = {{"description", 1, P_STRING, NULL, NULL}, {"schema", 2, P_MESSAGE, &schema_message, "\1"}, {0}};
static const struct message response_message = {.members = response_members};
static const struct message responses_message = {.each = {.number = 1, .message = &response_message, .levels = "\1"}};
static const struct member operation_members[] = {
    {"tags", 1, P_STRING | P_EACH, NULL, NULL}, {"description", 3, P_STRING, NULL, NULL}, {"operationId", 5, P_STRING, NULL, NULL}, {"produces", 6, P_STRING | P_EACH, NULL, NULL},
    {"consumes", 7, P_STRING | P_EACH, NULL, NULL}, {"parameters", 8, P_MESSAGE | P_EACH, &parameter_message, NULL}, {"responses", 9, P_MESSAGE, &responses_message, NULL}, {0},
};
static const struct message operation_message = {.members = operation_members, .extensions = 13};
static const struct member path_members[] = {
    {"get", 2, P_MESSAGE, &operation_message, NULL}, {"put", 3, P_MESSAGE, &operation_message, NULL}, {"post", 4, P_MESSAGE, &operation_message, NULL},
    {"delete", 5, P_MESSAGE, &operation_message, NULL}, {"patch", 8, P_MESSAGE, &operation_message, NULL}, {"parameters", 9, P_MESSAGE | P_EACH, &parameter_message, NULL}, {0},
};
static const struct message path_message = {.members = path_members};
static const struct message paths_message = {.each = {.number = 2, .message = &path_message}};
static const struct member info_members[] = {{"title", 1, P_STRING, NULL, NULL}, {"version", 2, P_STRING, NULL, NULL}, {0}};
static const struct message info_message = {.members = info_members};
static const struct member document_members[] = {
    {"swagger", 1, P_STRING, NULL, NULL}, {"info", 2, P_MESSAGE, &info_message, NULL}, {"paths", 8, P_MESSAGE, &paths_message, NULL},
    {"definitions", 9, P_MESSAGE, &properties_message, NULL}, {0},
};
static const struct message document_message = {.members = document_members};

/* Parameters are of different messages, by where they are: each lies in its own wrappers. */
static const struct member body_members[] = {
    {"description", 1, P_STRING, NULL, NULL}, {"name", 2, P_STRING, NULL, NULL}, {"in", 3, P_STRING, NULL, NULL}, {"required", 4, P_BOOL, NULL, NULL},
    {"schema", 5, P_MESSAGE, &schema_message, NULL}, {0},
};
static const struct member query_members[] = {
    {"required", 1, P_BOOL, NULL, NULL}, {"in", 2, P_STRING, NULL, NULL}, {"description", 3, P_STRING, NULL, NULL}, {"name", 4, P_STRING, NULL, NULL}, {"type", 6, P_STRING, NULL, NULL},
    {"format", 7, P_STRING, NULL, NULL}, {"uniqueItems", 20, P_BOOL, NULL, NULL}, {"enum", 21, P_ANY | P_EACH, NULL, NULL}, {0},
};
static const struct member place_members[] = {
    {"required", 1, P_BOOL, NULL, NULL}, {"in", 2, P_STRING, NULL, NULL}, {"description", 3, P_STRING, NULL, NULL}, {"name", 4, P_STRING, NULL, NULL}, {"type", 5, P_STRING, NULL, NULL},
    {"format", 6, P_STRING, NULL, NULL}, {"uniqueItems", 19, P_BOOL, NULL, NULL}, {0},
};
static const struct message body_message = {.members = body_members}, query_message = {.members = query_members}, place_message = {.members = place_members};
static const struct variant {
    const char *in;
    const struct message *message;
    const char *levels;
} variants[] = {{"body", &body_message, "\1\1"}, {"query", &query_message, "\1\2\3"}, {"path", &place_message, "\1\2\4"}};

/* ---- encoding ---- */

static void add_message(struct sbuf *b, const struct message *m, const json_t *v);

static void add_scalar(struct sbuf *b, unsigned number, int shape, const json_t *v)
{
    if (shape == P_STRING && json_is_string(v))
        add_bytes(b, number, str_n(json_string_value(v), json_string_length(v)));
    else if (shape == P_ANY)
        add_any(b, number, v);
    else if (shape == P_DOUBLE)
        add_double(b, number, json_number_value(v));
    else if ((shape == P_BOOL && json_is_true(v)) || shape == P_INT) {
        add_varint(b, number << 3 | WIRE_VARINT);
        add_varint(b, shape == P_BOOL ? 1 : (uint64_t)json_integer_value(v));
    }
}

/* One value under its number, inside of as many wrappers as there are levels. */
static void add_value(struct sbuf *b, unsigned number, int shape, const struct message *m, const char *levels, const json_t *v)
{
    for (size_t i = 0; m == &parameter_message && i < ARRAY_LEN(variants); i++)
        if (!strcmp(json_str_or(v, "in", ""), variants[i].in)) {
            add_value(b, number, shape, variants[i].message, variants[i].levels, v);
            return;
        }
    if (m == &parameter_message)
        return;
    if (shape != P_MESSAGE && !levels) {
        add_scalar(b, number, shape, v);
        return;
    }
    CLEANUP(sbuf_deinit) struct sbuf inner = {0};
    sbuf_init(&inner, PROTO_MAX);
    if (levels && *levels)
        add_value(&inner, (unsigned char)*levels, shape, m, levels[1] ? levels + 1 : NULL, v);
    else
        add_message(&inner, m, v);
    add_bytes(b, number, sbuf_str(&inner));
}

static void add_pair(struct sbuf *b, unsigned number, const char *name, int shape, const struct message *m, const char *levels, const json_t *v)
{
    CLEANUP(sbuf_deinit) struct sbuf pair = {0};
    sbuf_init(&pair, PROTO_MAX);
    add_bytes(&pair, 1, str_of(name));
    add_value(&pair, 2, shape, m, levels, v);
    add_bytes(b, number, sbuf_str(&pair));
}

static void add_message(struct sbuf *b, const struct message *m, const json_t *v)
{
    const char *name;
    json_t *item;
    size_t i;
    if (!m->members) {
        json_object_foreach ((json_t *)(uintptr_t)v, name, item)
            add_pair(b, m->each.number, name, P_MESSAGE, m->each.message, m->each.levels, item);
        return;
    }
    for (const struct member *f = m->members; f->name; f++) {
        const json_t *member = json_object_get(v, f->name);
        if (member && (f->shape & P_EACH))
            json_array_foreach (member, i, item)
                add_value(b, f->number, f->shape & ~P_EACH, f->message, f->levels, item);
        else if (member)
            add_value(b, f->number, f->shape, f->message, f->levels, member);
    }
    json_object_foreach ((json_t *)(uintptr_t)v, name, item)
        if (m->extensions && !strncmp(name, "x-", 2))
            add_pair(b, m->extensions, name, P_ANY, NULL, NULL, item);
}

void openapi_v2_proto(const json_t *v2, struct sbuf *out)
{
    add_message(out, &document_message, v2);
}
