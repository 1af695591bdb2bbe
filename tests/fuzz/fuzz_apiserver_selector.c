/* Selectors: the first line as labels, the rest as fields. What is understood can be matched, and means the same however it is spaced. */
#include "fuzz.h"

#include "apiserver/selector.h"
#include "kinds/borrowed.h"

#define INPUT_MAX 8192

static const char *const objects[] = {
    "{\"metadata\": {\"name\": \"a\", \"namespace\": \"n\", \"labels\": {\"a\": \"b\", \"n\": \"5\", \"example.com/x\": \"\"}}, \"type\": \"Normal\", \"involvedObject\": {\"kind\": \"K\"}}",
    "{\"metadata\": {\"labels\": null}, \"type\": 7}",
    "{}",
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > INPUT_MAX)
        return 0;
    struct arena *arena = arena_new((size_t)64 << 20);
    struct str rest = str_n(data, size), labels;
    struct selector *s = NULL, *wide = NULL;
    struct err err = ERR_INIT;
    if (!str_cut(&rest, '\n', &labels))
        labels = STR("");
    int rc = selector_parse(arena, &kind_event, labels, rest, &s, &err);
    if (rc < 0 ? s != NULL || err.code != ERR_BAD_REQUEST || !err.msg[0] : err.code != 0)
        abort();
    /* Blanks around labels change nothing. */
    struct str spaced = str_of(arena_printf(arena, " %.*s ", STR_ARG(labels)));
    bool whole = !memchr(data, 0, size);
    if (whole && (selector_parse(arena, &kind_event, spaced, rest, &wide, NULL) == 0) != (rc == 0))
        abort();
    for (size_t i = 0; i < ARRAY_LEN(objects); i++) {
        JSON_AUTO obj = json_loads(objects[i], 0, NULL);
        bool yes = selector_matches(s, obj);
        if (whole && rc == 0 && yes != selector_matches(wide, obj))
            abort();
        if (rc == 0 && !s && !yes)
            abort();
    }
    arena_free(arena);
    return 0;
}
