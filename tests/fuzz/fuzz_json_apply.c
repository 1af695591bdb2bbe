/* Apply and strategic merge patch of any documents: input is the live object, the applied document and the former one, with a byte 0x1E between them. */
#include "fuzz.h"

#include "json/apply.h"
#include "json/strategic.h"

#define INPUT_MAX 16384
#define SEPARATOR 0x1E

static const struct field item_rows[] = {
    {.name = "k", .type = FIELD_STRING},
    {.name = "n", .type = FIELD_INT},
    {.name = "s", .type = FIELD_LIST, .elem = FIELD_STRING, .list_type = LIST_SET},
    {0},
};
static const struct field rows[] = {
    {.name = "m", .type = FIELD_MAP},
    {.name = "o", .type = FIELD_OBJECT, .sub = item_rows},
    {.name = "p", .type = FIELD_OBJECT, .flags = FIELD_OPEN, .sub = item_rows},
    {.name = "l", .type = FIELD_LIST, .elem = FIELD_OBJECT, .sub = item_rows, .list_type = LIST_MAP, .list_key = "k"},
    {.name = "d", .type = FIELD_LIST, .elem = FIELD_OBJECT, .sub = item_rows, .list_type = LIST_MAP, .list_key = "k,n"},
    {.name = "s", .type = FIELD_LIST, .elem = FIELD_STRING, .list_type = LIST_SET},
    {.name = "a", .type = FIELD_ANY},
    {.name = "n", .type = FIELD_INT},
    {0},
};

static void check_sets(const json_t *live, const json_t *applied)
{
    JSON_AUTO set = fieldset_of(rows, applied);
    JSON_AUTO v1 = fieldset_encode(set);
    JSON_AUTO again = fieldset_decode(v1);
    JSON_AUTO same = fieldset_union(set, set);
    JSON_AUTO none = fieldset_minus(set, set);
    JSON_AUTO common = fieldset_common(set, set);
    if (!json_equal(set, again) || !json_equal(set, same) || !fieldset_is_empty(none) || !json_equal(set, common))
        abort();
    struct fieldset_diff self = fieldset_compare(rows, live, live), diff = fieldset_compare(rows, live, applied);
    if (!fieldset_is_empty(self.changed) || !fieldset_is_empty(self.removed))
        abort();
    json_decref(self.changed);
    json_decref(self.removed);
    json_decref(diff.changed);
    json_decref(diff.removed);
}

static void check_apply(const json_t *live, const json_t *applied, const json_t *former)
{
    if (apply_check(rows, applied, NULL) < 0 || apply_check(rows, live, NULL) < 0)
        return;
    JSON_AUTO set = fieldset_of(rows, applied);
    JSON_AUTO last = fieldset_of(rows, former);
    JSON_AUTO once = apply_merge(rows, live, applied);
    JSON_AUTO twice = apply_merge(rows, once, applied);
    if (!json_equal(once, twice))
        abort();
    /* What is applied survives the pruning of what was. */
    apply_prune(rows, once, last, set);
    JSON_AUTO after = apply_merge(rows, once, applied);
    if (!json_equal(once, after))
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > INPUT_MAX)
        return 0;
    struct str rest = str_n(data, size), first, second;
    JSON_AUTO live = NULL;
    JSON_AUTO applied = NULL;
    JSON_AUTO former = NULL;
    if (!str_cut(&rest, SEPARATOR, &first) || !str_cut(&rest, SEPARATOR, &second) || json_parse(first, INPUT_MAX, &live, NULL) < 0 || json_parse(second, INPUT_MAX, &applied, NULL) < 0 ||
        json_parse(rest, INPUT_MAX, &former, NULL) < 0 || !json_is_object(live) || !json_is_object(applied) || !json_is_object(former))
        return 0;
    JSON_AUTO before = json_deep_copy(live);
    check_sets(live, applied);
    check_apply(live, applied, former);
    JSON_AUTO patched = NULL;
    struct err err = ERR_INIT;
    int rc = json_strategic_patch(rows, live, applied, &patched, &err);
    if ((rc == 0) != (patched != NULL) || (rc < 0 && rc != ERR_BAD_REQUEST))
        abort();
    JSON_AUTO set = fieldset_decode(former); /* any document may claim to be a set */
    if (set)
        apply_prune(rows, before, set, NULL);
    return 0;
}
