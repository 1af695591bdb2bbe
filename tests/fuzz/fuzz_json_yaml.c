/* YAML: what comes out is a document that could have been JSON and can be written as YAML again; JSON objects come out as they are. */
#include "fuzz.h"

#include "json/yaml.h"

#define INPUT_MAX 65536
#define OUTPUT_MAX ((size_t)16 << 20)

static void check_document(const json_t *j)
{
    CLEANUP(sbuf_deinit) struct sbuf out = {0};
    JSON_AUTO again = NULL;
    sbuf_init(&out, OUTPUT_MAX);
    json_write(j, &out);
    if (!sbuf_ok(&out) || json_parse(sbuf_str(&out), OUTPUT_MAX, &again, NULL) < 0 || !json_equal(j, again))
        abort();
    /* Written as YAML it is read back the same. */
    CLEANUP(sbuf_deinit) struct sbuf yaml = {0};
    JSON_AUTO reread = NULL;
    sbuf_init(&yaml, OUTPUT_MAX);
    yaml_write(j, &yaml);
    if (!sbuf_ok(&yaml) || yaml_parse(sbuf_str(&yaml), OUTPUT_MAX, &reread, NULL) < 0 || !json_equal(j, reread))
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > INPUT_MAX)
        return 0;
    struct err err = ERR_INIT;
    struct str text = str_n(data, size);
    JSON_AUTO all = NULL;
    JSON_AUTO one = NULL;
    JSON_AUTO json = NULL;
    int rc = yaml_parse_all(text, INPUT_MAX, &all, &err);
    if (rc < 0 ? all || err.code != rc || !err.msg[0] : !json_is_array(all))
        abort();
    size_t i;
    json_t *doc;
    json_array_foreach (all, i, doc)
        check_document(doc);
    if ((yaml_parse(text, INPUT_MAX, &one, NULL) == 0) != (json_array_size(all) == 1))
        abort();
    if (json_parse(text, INPUT_MAX, &json, NULL) == 0 && json_is_object(json) && !json_equal(json, one))
        abort();
    return 0;
}
