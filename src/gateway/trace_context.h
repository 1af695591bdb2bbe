/* The header traceparent of W3C Trace Context: which trace a request is part of, under which span, and whether that is recorded.
 *
 *   00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01      version, trace, span, flags (1: sampled)
 *
 * Read strictly, as the standard has it: lower case, no zero ids, version ff is none, a later version may have more behind a hyphen. What cannot be read counts as absent.
 * Pure functions; threads: any. Fuzzed.
 */
#ifndef SEKI_GATEWAY_TRACE_CONTEXT_H
#define SEKI_GATEWAY_TRACE_CONTEXT_H

#include "base/str.h"

#define TRACE_ID_BYTES 16
#define SPAN_ID_BYTES 8
#define TRACEPARENT_LEN 55

struct trace_context {
    uint8_t trace[TRACE_ID_BYTES], span[SPAN_ID_BYTES];
    bool sampled;
};

bool trace_context_read(struct str header, struct trace_context *ret);
void trace_context_write(const struct trace_context *c, char text[TRACEPARENT_LEN + 1]);

#endif
