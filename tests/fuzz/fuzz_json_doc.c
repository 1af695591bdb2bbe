/* Documents: what is accepted keeps its caps and survives being written and read again. */
#include "fuzz.h"

#include "base/mem.h"
#include "json/json.h"

#define INPUT_MAX 65536
#define OUTPUT_MAX ((size_t)16 << 20)
#define DEPTH_MAX 64

static int depth_of(const json_t *j)
{
    int deepest = 0;
    size_t i;
    const char *key;
    json_t *v;
    if (!json_is_object(j) && !json_is_array(j))
        return 0;
    json_object_foreach ((json_t *)(uintptr_t)j, key, v) {
        int depth = depth_of(v);
        deepest = MAX(deepest, depth);
    }
    json_array_foreach (j, i, v) {
        int depth = depth_of(v);
        deepest = MAX(deepest, depth);
    }
    return deepest + 1;
}

static void read_again(const json_t *j, void (*write)(const json_t *j, struct sbuf *out))
{
    CLEANUP(sbuf_deinit) struct sbuf out = {0};
    JSON_AUTO again = NULL;
    sbuf_init(&out, OUTPUT_MAX);
    write(j, &out);
    if (!sbuf_ok(&out) || json_parse(sbuf_str(&out), OUTPUT_MAX, &again, NULL) < 0 || !json_equal(j, again))
        abort();
}

/* The input as a path into itself, and into what is made by it. */
static void use_path(json_t *j, const uint8_t *data, size_t size)
{
    char path[300];
    if (!str_utf8_valid(str_n(data, size)) || !str_to_array(str_n(data, size), path, sizeof(path)))
        return;
    (void)json_at(j, path);
    (void)json_int(j, path, 0);
    JSON_AUTO obj = json_object();
    json_put_int(obj, path, 7);
    bool fits = true; /* a part of 128 bytes and more leads nowhere */
    struct str rest = str_of(path), part;
    while (str_cut(&rest, '.', &part))
        fits = fits && part.len < 128;
    if (json_int(obj, path, fits ? 0 : 7) != 7)
        abort();
    json_remove(obj, path);
    if (json_at(obj, path))
        abort();
    json_put_int(j, path, 7);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > INPUT_MAX)
        return 0;
    struct err err = ERR_INIT;
    JSON_AUTO j = NULL;
    int rc = json_parse(str_n(data, size), INPUT_MAX, &j, &err);
    if (rc < 0 ? j || err.code != rc || !err.msg[0] : !j || depth_of(j) > DEPTH_MAX || !str_utf8_valid(str_n(data, size)))
        abort();
    if (j) {
        read_again(j, json_write);
        read_again(j, json_write_pretty);
    }
    use_path(j, data, size);
    return 0;
}
