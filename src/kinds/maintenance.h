/* When an upgrade of a Cluster may begin by itself (spec.maintenanceWindow): on some days of the week, from a time of day on, for so long, by the clocks of a time zone.
 *
 *   maintenanceWindow: {days: [Saturday, Sunday], start: "02:00", durationMinutes: 240, timeZone: Asia/Tokyo}
 *
 * What begins at 23:00 lasts into the next day, and belongs to the day on which it begins. It lasts as long as it says by a stopwatch, also where clocks are put on or back meanwhile. A start that
 * the clocks skip comes an hour later; one that they show twice is the first. Threads: any.
 *
 * Nothing else waits for it. Another size or audit policy restarts components, too, but when it is written: that takes no longer than their restart, the next write takes it back, and it is what
 * mends a full store or looks into an incident. An upgrade takes longer, restarts nodes, and has no way back but a restore.
 */
#ifndef SEKI_KINDS_MAINTENANCE_H
#define SEKI_KINDS_MAINTENANCE_H

#include "base/zone.h"
#include "json/table.h"

struct maintenance_window {
    struct field_list days; /* const char *: "Monday" …; none: every day */
    const char *start;      /* "02:00" */
    int64_t duration_minutes;
    const char *time_zone;  /* "UTC" or an IANA name */
};

extern const struct field maintenance_fields[]; /* of spec.maintenanceWindow */

/* What the table does not see: whether start is a time, and whether this system knows the zone. */
void maintenance_validate(const json_t *obj, struct field_errors *errors);
/* The window that is open at now_ms, or the next one: *ret_begins_ms is at most now_ms when it is open. w is valid. Pure. */
void maintenance_find(const struct maintenance_window *w, const struct zone *z, int64_t now_ms, int64_t *ret_begins_ms, int64_t *ret_ends_ms);

#endif
