/* Server-sent events, read in passing: finds event boundaries and data in a byte stream cut anywhere.
 *
 * For who reads a stream (`seki chat`), or passes it on and feeds the same bytes here; the gateway, which does that to every stream, has a scanner of its own (usage_scan.h). Lines end in LF, CRLF or CR; several data lines are joined by LF;
 * comments are skipped; an event larger than max_event_bytes is reported as oversized with its data cut, and the scanner goes
 * on. No allocation an event once its buffer has grown. Threads: one owner.
 */
#ifndef SEKI_NET_SSE_H
#define SEKI_NET_SSE_H

#include "base/str.h"

struct sse_event {
    struct str event; /* the event field, or empty */
    struct str data;  /* valid during the call only */
    bool oversized;
};

struct sse_scanner;
struct sse_scanner *sse_new(size_t max_event_bytes, void (*on_event)(void *arg, const struct sse_event *e), void *arg);
void sse_free(struct sse_scanner *s);
void sse_feed(struct sse_scanner *s, struct str bytes);
/* True when the bytes so far end between two events. */
bool sse_at_boundary(const struct sse_scanner *s);

#endif
