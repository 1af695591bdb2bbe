/* What goes into support bundles: whatever comes, nothing under an unknown name leaves, and lines stay lines. */
#include "fuzz.h"

#include "cmd/support.h"

static void check_log(struct str out)
{
    JSON_AUTO doc = NULL;
    const char *key;
    json_t *v;
    if (!out.len)
        return;
    if (out.ptr[out.len - 1] != '\n' || memchr(out.ptr, '\n', out.len - 1) || json_parse(out, 1 << 20, &doc, NULL) < 0)
        abort();
    json_object_foreach (doc, key, v)
        if (json_is_object(v) || json_is_array(v) || json_is_real(v) || (json_is_string(v) && !strcmp(key, "error")))
            abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    CLEANUP(sbuf_deinit) struct sbuf out = {0};
    struct str rest = str_n(data + (size > 0), size - (size > 0)), line;
    sbuf_init(&out, 1 << 20);
    switch (size ? data[0] : 0) {
    case 'L':
        support_log_line(rest, false, &out);
        check_log(sbuf_str(&out));
        break;
    case 'E':
        if (!support_engine_line(rest, &out) && out.len)
            abort();
        for (size_t i = 0; i + 1 < out.len; i++)
            if ((unsigned char)out.ptr[i] < ' ' || (unsigned char)out.ptr[i] > 126)
                abort();
        break;
    case 'M':
        support_metrics(rest, &out);
        rest = sbuf_str(&out);
        while (str_cut(&rest, '\n', &line))
            if (line.len && !str_starts(line, STR("# ")) && !str_starts(line, STR("seki_")) && !str_starts(line, STR("gen_ai_server_")) && !str_starts(line, STR("process_")))
                abort();
        break;
    case 'R':
        support_ready(rest, false, &out);
        break;
    default:
        break;
    }
    return 0;
}
