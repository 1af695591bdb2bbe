#include "json/yaml.h"

#include <yaml.h>

static int on_bytes(void *arg, unsigned char *bytes, size_t len)
{
    sbuf_add(arg, str_n(bytes, len));
    return sbuf_ok(arg);
}

/* Some reader would take the plain text for something else than a string. */
static bool needs_quotes(const char *s)
{
    static const char *const words[] = {"~", "null", "true", "false", "yes", "no", "on", "off", "y", "n", "<<", "="};
    if (!*s || strchr("0123456789+-.", *s))
        return true;
    for (size_t i = 0; i < ARRAY_LEN(words); i++)
        if (str_ieq(str_of(s), str_of(words[i])))
            return true;
    return false;
}

static bool emit_text(yaml_emitter_t *e, const char *text, size_t len, yaml_scalar_style_t style)
{
    yaml_event_t event;
    return yaml_scalar_event_initialize(&event, NULL, NULL, (const unsigned char *)text, (int)len, 1, 1, style) && yaml_emitter_emit(e, &event);
}

static bool emit_string(yaml_emitter_t *e, const char *text, size_t len)
{
    yaml_scalar_style_t style = YAML_ANY_SCALAR_STYLE;
    if (needs_quotes(text))
        style = YAML_DOUBLE_QUOTED_SCALAR_STYLE;
    else if (memchr(text, '\n', len))
        style = YAML_LITERAL_SCALAR_STYLE;
    return emit_text(e, text, len, style);
}

static bool emit(yaml_emitter_t *e, const json_t *j);

static bool emit_object(yaml_emitter_t *e, const json_t *j)
{
    yaml_event_t event;
    const char *key;
    json_t *value;
    if (!yaml_mapping_start_event_initialize(&event, NULL, NULL, 1, json_object_size(j) ? YAML_BLOCK_MAPPING_STYLE : YAML_FLOW_MAPPING_STYLE) || !yaml_emitter_emit(e, &event))
        return false;
    json_object_foreach ((json_t *)(uintptr_t)j, key, value)
        if (!emit_string(e, key, strlen(key)) || !emit(e, value))
            return false;
    return yaml_mapping_end_event_initialize(&event) && yaml_emitter_emit(e, &event);
}

static bool emit_array(yaml_emitter_t *e, const json_t *j)
{
    yaml_event_t event;
    size_t i;
    json_t *value;
    if (!yaml_sequence_start_event_initialize(&event, NULL, NULL, 1, json_array_size(j) ? YAML_BLOCK_SEQUENCE_STYLE : YAML_FLOW_SEQUENCE_STYLE) || !yaml_emitter_emit(e, &event))
        return false;
    json_array_foreach (j, i, value)
        if (!emit(e, value))
            return false;
    return yaml_sequence_end_event_initialize(&event) && yaml_emitter_emit(e, &event);
}

static bool emit(yaml_emitter_t *e, const json_t *j)
{
    CLEANUP(sbuf_deinit) struct sbuf text = {0};
    if (json_is_object(j))
        return emit_object(e, j);
    if (json_is_array(j))
        return emit_array(e, j);
    if (json_is_string(j))
        return emit_string(e, json_string_value(j), json_string_length(j));
    sbuf_init(&text, 64);
    json_write(j, &text);
    return sbuf_ok(&text) && emit_text(e, text.ptr, text.len, YAML_PLAIN_SCALAR_STYLE);
}

void yaml_write(const json_t *j, struct sbuf *out)
{
    yaml_emitter_t e;
    yaml_event_t event;
    if (!yaml_emitter_initialize(&e)) {
        out->failed = true;
        return;
    }
    yaml_emitter_set_output(&e, on_bytes, out);
    yaml_emitter_set_unicode(&e, 1);
    yaml_emitter_set_width(&e, -1);
    bool ok = yaml_stream_start_event_initialize(&event, YAML_UTF8_ENCODING) && yaml_emitter_emit(&e, &event) &&
              yaml_document_start_event_initialize(&event, NULL, NULL, NULL, 1) && yaml_emitter_emit(&e, &event) && emit(&e, j) &&
              yaml_document_end_event_initialize(&event, 1) && yaml_emitter_emit(&e, &event) && yaml_stream_end_event_initialize(&event) && yaml_emitter_emit(&e, &event);
    yaml_emitter_delete(&e);
    if (!ok)
        out->failed = true;
}
