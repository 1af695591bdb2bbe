#include "kinds/maintenance.h"

#include "base/clock.h"

#define DAYS "Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday"
#define DAY_S 86400
#define DURATION_MIN 30
#define DURATION_MAX 1440

#define WINDOW(member) offsetof(struct maintenance_window, member)
const struct field maintenance_fields[] = {
    {.name = "days", .type = FIELD_LIST, .elem = FIELD_ENUM, .values = DAYS, .list_type = LIST_SET, .offset = WINDOW(days), .max = 7, .help = "days of the week on which it begins; none: every day"},
    {.name = "start", .type = FIELD_STRING, .flags = FIELD_REQUIRED, .offset = WINDOW(start), .min = 5, .max = 5, .help = "when it begins on these days, HH:MM by the clocks of timeZone: \"02:00\""},
    {.name = "durationMinutes", .type = FIELD_INT, .offset = WINDOW(duration_minutes), .min = DURATION_MIN, .max = DURATION_MAX, .def = "240", .help = "how long it lasts, over midnight too; what has begun by then is brought to its end"},
    {.name = "timeZone", .type = FIELD_STRING, .offset = WINDOW(time_zone), .min = 1, .max = ZONE_NAME_MAX, .def = "\"UTC\"", .help = "UTC, or the IANA name of a zone, whose summer time is followed: \"Asia/Tokyo\""},
    {0},
};

static bool read_start(const char *text, int64_t *ret_s)
{
    int64_t hour, minute;
    struct str s = str_of(text);
    if (s.len != 5 || text[2] != ':' || str_to_i64(str_n(text, 2), 0, 23, &hour) < 0 || str_to_i64(str_n(text + 3, 2), 0, 59, &minute) < 0)
        return false;
    *ret_s = hour * 3600 + minute * 60;
    return true;
}

void maintenance_validate(const json_t *obj, struct field_errors *errors)
{
    const char *start = json_str(obj, "spec.maintenanceWindow.start"), *name = json_str(obj, "spec.maintenanceWindow.timeZone");
    int64_t seconds;
    struct err err = ERR_INIT;
    CLEANUP(zone_freep) struct zone *z = NULL;
    if (start && strlen(start) == 5 && !read_start(start, &seconds))
        field_errors_add(errors, "spec.maintenanceWindow.start", "FieldValueInvalid", "Invalid value: \"%.5s\": expected a time of day from \"00:00\" to \"23:59\"", start);
    if (name && *name && strlen(name) <= ZONE_NAME_MAX && zone_load(name, &z, &err) < 0)
        field_errors_add(errors, "spec.maintenanceWindow.timeZone", "FieldValueInvalid", "Invalid value: \"%.64s\": %s", name, err.msg);
}

static bool begins_on(const struct maintenance_window *w, int weekday)
{
    static const char *const names[] = {"Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"};
    bool is = !w->days.count;
    for (size_t i = 0; i < w->days.count; i++)
        is |= !strcmp(((const char *const *)w->days.items)[i], names[weekday]);
    return is;
}

void maintenance_find(const struct maintenance_window *w, const struct zone *z, int64_t now_ms, int64_t *ret_begins_ms, int64_t *ret_ends_ms)
{
    int64_t now = now_ms / 1000, local = now + zone_offset(z, now), start = 0;
    (void)!read_start(w->start, &start);
    /* From the day before yesterday's, which may last until now where clocks are put back, to the same day next week. */
    for (int64_t day = local / DAY_S - 2;; day++) {
        int64_t begins = zone_to_utc(z, day * DAY_S + start), ends = begins + w->duration_minutes * 60;
        if (!begins_on(w, clock_weekday(day)) || ends * 1000 <= now_ms)
            continue;
        *ret_begins_ms = begins * 1000;
        *ret_ends_ms = ends * 1000;
        return;
    }
}
