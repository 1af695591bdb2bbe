#include "base/arena.h"
#include "base/mem.h"
#include "base/str.h"
#include "runtime/runtime.h"

#define TAIL_BYTES 2048
#define LINE_MAX_BYTES 200

const char *runtime_last_line(struct runtime *r, const char *name, struct arena *a)
{
    CLEANUP(mem_freep) char *text = NULL;
    if (r->ops->log_tail(r, name, TAIL_BYTES, &text, NULL) < 0 || !text)
        return "";
    struct str rest = str_of(text), line, last = STR("");
    while (str_cut(&rest, '\n', &line))
        if (str_trim(line).len)
            last = str_trim(line);
    last.len = MIN(last.len, (size_t)LINE_MAX_BYTES);
    while (last.len && !str_utf8_valid(last)) /* cut within a character */
        last.len--;
    return arena_strndup(a, last);
}
