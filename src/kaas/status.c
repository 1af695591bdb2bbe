/* What the controllers of this folder write into a status, and read again. */
#include "kaas/internal.h"

#include <stdio.h>

#include "base/clock.h"

#define MESSAGE_MAX 1024

void status_put_time(json_t *o, const char *path, int64_t wall_ms)
{
    char text[CLOCK_TEXT_MAX];
    clock_format_micro(wall_ms * 1000, text);
    json_put_str(o, path, text);
}

int64_t status_time(const json_t *o, const char *path)
{
    int64_t ms = 0;
    const char *text = json_str(o, path);
    return text && clock_parse(str_of(text), &ms) == 0 ? ms : 0;
}

void status_condition(json_t *obj, const char *type, const char *status, const char *reason, const char *fmt, ...)
{
    char message[MESSAGE_MAX];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(message, sizeof(message), fmt, ap);
    va_end(ap);
    obj_set_condition(obj, type, status, reason, message, clock_wall_ms());
}
