/* Patches of any documents: input is the target and the patch, with a byte 0x1E between them. */
#include "fuzz.h"

#include "json/patch.h"

#define INPUT_MAX 65536
#define RESULT_MAX ((size_t)128 << 10)
#define OUTPUT_MAX ((size_t)16 << 20)
#define SEPARATOR 0x1E

/* A result is a document as any other: it can be written and is accepted when it is read. */
static void check_result(const json_t *j)
{
    CLEANUP(sbuf_deinit) struct sbuf out = {0};
    JSON_AUTO again = NULL;
    sbuf_init(&out, OUTPUT_MAX);
    json_write(j, &out);
    if (!sbuf_ok(&out) || json_parse(sbuf_str(&out), OUTPUT_MAX, &again, NULL) < 0 || !json_equal(j, again))
        abort();
}

static void check_merge(const json_t *target, const json_t *patch)
{
    struct err err = ERR_INIT;
    JSON_AUTO once = NULL;
    JSON_AUTO twice = NULL;
    if (json_merge_patch(target, patch, &once, &err) < 0) {
        if (once || err.code != ERR_TOO_LARGE)
            abort();
        return;
    }
    check_result(once);
    if (json_merge_patch(once, patch, &twice, &err) < 0 || !json_equal(once, twice))
        abort();
}

static void check_operations(const json_t *target, const json_t *ops)
{
    struct err err = ERR_INIT;
    JSON_AUTO out = NULL;
    int rc = json_apply_patch(target, ops, RESULT_MAX, &out, &err);
    if (rc == 0)
        check_result(out);
    else if (out || (rc != ERR_INVALID && rc != ERR_TOO_LARGE && rc != ERR_BAD_REQUEST) || json_is_array(ops) != (rc != ERR_BAD_REQUEST))
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > INPUT_MAX)
        return 0;
    struct str rest = str_n(data, size), text;
    JSON_AUTO target = NULL;
    JSON_AUTO patch = NULL;
    if (!str_cut(&rest, SEPARATOR, &text) || json_parse(text, INPUT_MAX, &target, NULL) < 0 || json_parse(rest, INPUT_MAX, &patch, NULL) < 0)
        return 0;
    JSON_AUTO target_before = json_deep_copy(target);
    JSON_AUTO patch_before = json_deep_copy(patch);
    check_merge(target, patch);
    check_operations(target, patch);
    if (!json_equal(target, target_before) || !json_equal(patch, patch_before))
        abort();
    return 0;
}
