#include "gateway/trace.h"

#include <string.h>

#include "base/clock.h"
#include "base/rnd.h"
#include "gateway/slo.h"
#include "gateway/trace_export.h"

#define TEXT_MAX ((size_t)32 << 10) /* of one trace */
#define MILLION 1000000

/* As OTLP numbers them. */
enum span_kind { SPAN_KIND_INTERNAL = 1, SPAN_KIND_SERVER = 2, SPAN_KIND_CLIENT = 3 };

struct span_record {
    uint8_t id[SPAN_ID_BYTES];
    uint64_t start_ns, end_ns; /* end 0: it runs */
    const char *why;           /* of a wait; NULL: it is an attempt */
    const char *replica, *site, *failed;
    int status;
};

struct trace {
    struct trace_export *to;
    struct arena *arena;
    struct trace_context context; /* span: the request's own */
    uint8_t parent[SPAN_ID_BYTES];
    bool has_parent;
    uint64_t start_ns;
    struct span_record spans[TRACE_SPANS_MAX];
    int count, attempts;
    struct span_record *wait, *attempt; /* that run */
};

/* ---- while it runs ---- */

struct trace *trace_begin(struct trace_export *to, int64_t per_million, const struct http_head *head, struct arena *a, uint64_t start_ns)
{
    struct trace_context parent;
    if (!to)
        return NULL;
    bool has_parent = trace_context_read(http_header_get(head, "traceparent"), &parent);
    if (has_parent ? !parent.sampled : (int64_t)rnd_guessable_below(MILLION) >= per_million)
        return NULL;
    struct trace *t = ARENA_NEW(a, struct trace);
    t->to = to;
    t->arena = a;
    t->start_ns = start_ns;
    t->has_parent = has_parent;
    t->context.sampled = true;
    rnd_bytes(t->context.trace, sizeof(t->context.trace));
    rnd_bytes(t->context.span, sizeof(t->context.span));
    if (has_parent) {
        memcpy(t->context.trace, parent.trace, sizeof(parent.trace));
        memcpy(t->parent, parent.span, sizeof(parent.span));
    }
    return t;
}

/* NULL: there are too many. */
static struct span_record *new_span(struct trace *t)
{
    if (t->count == TRACE_SPANS_MAX)
        return NULL;
    struct span_record *s = &t->spans[t->count++];
    rnd_bytes(s->id, sizeof(s->id));
    s->start_ns = clock_mono_ns();
    return s;
}

void trace_wait(struct trace *t, const char *why)
{
    if (t && !t->wait && (t->wait = new_span(t)))
        t->wait->why = why;
}

void trace_waited(struct trace *t)
{
    if (t && t->wait)
        t->wait->end_ns = clock_mono_ns();
    if (t)
        t->wait = NULL;
}

void trace_attempt(struct trace *t, const char *replica, const char *site)
{
    if (!t)
        return;
    trace_waited(t);
    trace_attempt_end(t, 0);
    t->attempts++;
    if (!(t->attempt = new_span(t)))
        return;
    t->attempt->replica = arena_strdup(t->arena, replica);
    t->attempt->site = site ? arena_strdup(t->arena, site) : NULL;
}

const char *trace_parent(const struct trace *t)
{
    struct trace_context c = t->context;
    char *text = arena_alloc(t->arena, TRACEPARENT_LEN + 1);
    if (t->attempt)
        memcpy(c.span, t->attempt->id, sizeof(c.span));
    trace_context_write(&c, text);
    return text;
}

bool trace_has_parent(const struct trace *t)
{
    return t->has_parent;
}

void trace_failed(struct trace *t, const char *reason)
{
    if (t && t->attempt)
        t->attempt->failed = reason;
}

void trace_attempt_end(struct trace *t, int status)
{
    if (!t || !t->attempt)
        return;
    t->attempt->end_ns = clock_mono_ns();
    t->attempt->status = status;
    t->attempt = NULL;
}

/* ---- as text ---- */

struct writer {
    struct sbuf *out;
    const struct trace *trace;
    int64_t wall_of_zero_ns; /* what the wall clock said when the monotonic one said 0 */
    bool first; /* the next attribute is */
};

static void add_key(struct writer *w, const char *key)
{
    sbuf_addf(w->out, "%s{\"key\":\"%s\",\"value\":{", w->first ? "" : ",", key);
    w->first = false;
}

static void add_text(struct writer *w, const char *key, struct str value)
{
    if (!value.len)
        return;
    add_key(w, key);
    sbuf_addc(w->out, "\"stringValue\":");
    sbuf_add_json(w->out, value);
    sbuf_addc(w->out, "}}");
}

static void add_int(struct writer *w, const char *key, int64_t value)
{
    add_key(w, key);
    sbuf_addf(w->out, "\"intValue\":\"%lld\"}}", (long long)value);
}

static void add_flag(struct writer *w, const char *key, bool value)
{
    add_key(w, key);
    sbuf_addf(w->out, "\"boolValue\":%s}}", value ? "true" : "false");
}

static void add_seconds(struct writer *w, const char *key, uint64_t ns)
{
    add_key(w, key);
    sbuf_addf(w->out, "\"doubleValue\":%llu.%09llu}}", (unsigned long long)ns / 1000000000, (unsigned long long)ns % 1000000000);
}

/* Up to its attributes. parent: NULL: none. end_ns 0: ends when the request does. */
static void open_span(struct writer *w, const uint8_t *id, const uint8_t *parent, enum span_kind kind, uint64_t start_ns, uint64_t end_ns)
{
    sbuf_addc(w->out, "{\"traceId\":\"");
    sbuf_add_hex(w->out, w->trace->context.trace, TRACE_ID_BYTES);
    sbuf_addc(w->out, "\",\"spanId\":\"");
    sbuf_add_hex(w->out, id, SPAN_ID_BYTES);
    if (parent) {
        sbuf_addc(w->out, "\",\"parentSpanId\":\"");
        sbuf_add_hex(w->out, parent, SPAN_ID_BYTES);
    }
    sbuf_addf(w->out, "\",\"kind\":%d,\"startTimeUnixNano\":\"%lld\",\"endTimeUnixNano\":\"%lld\",\"name\":", (int)kind, (long long)(w->wall_of_zero_ns + (int64_t)start_ns),
              (long long)(w->wall_of_zero_ns + (int64_t)end_ns));
}

static void begin_attributes(struct writer *w)
{
    sbuf_addc(w->out, ",\"attributes\":[");
    w->first = true;
}

static void close_span(struct writer *w, bool failed)
{
    sbuf_addc(w->out, failed ? "],\"status\":{\"code\":2}}" : "]}");
}

static void write_child(struct writer *w, const struct span_record *s, int number, uint64_t end_ns)
{
    sbuf_addc(w->out, ",");
    open_span(w, s->id, w->trace->context.span, s->why ? SPAN_KIND_INTERNAL : SPAN_KIND_CLIENT, s->start_ns, s->end_ns ? s->end_ns : end_ns);
    sbuf_addc(w->out, s->why ? "\"queue\"" : "\"attempt\"");
    begin_attributes(w);
    if (s->why) {
        add_text(w, "seki.wait", str_of(s->why));
    } else {
        add_int(w, "seki.attempt", number);
        add_text(w, "seki.replica", str_of(s->replica));
        add_text(w, "seki.site", str_of(s->site));
        if (s->status)
            add_int(w, "http.response.status_code", s->status);
        add_text(w, "error.type", str_of(s->failed));
    }
    close_span(w, s->failed);
}

static void write_request(struct writer *w, const struct usage *u, const struct trace_facts *f)
{
    const struct trace *t = w->trace;
    CLEANUP(sbuf_deinit) struct sbuf name = {0};
    bool failed = slo_is_failure(u); /* a SERVER span fails by ours, not by the client's */
    sbuf_init(&name, 2048);
    sbuf_addf(&name, "%s%s%.*s", f->operation, u->model.len ? " " : "", STR_ARG(u->model));
    open_span(w, t->context.span, t->has_parent ? t->parent : NULL, SPAN_KIND_SERVER, t->start_ns, f->end_ns);
    sbuf_add_json(w->out, sbuf_str(&name));
    begin_attributes(w);
    add_text(w, "gen_ai.operation.name", str_of(f->operation));
    add_text(w, "gen_ai.provider.name", STR("seki"));
    add_text(w, "gen_ai.request.model", u->model);
    if (u->stream)
        add_flag(w, "gen_ai.request.stream", true);
    if (f->max_tokens)
        add_int(w, "gen_ai.request.max_tokens", f->max_tokens);
    if (f->first_ns) {
        add_int(w, "gen_ai.usage.input_tokens", u->prompt_tokens);
        add_int(w, "gen_ai.usage.output_tokens", u->completion_tokens);
        add_int(w, "gen_ai.usage.cache_read.input_tokens", u->cached_tokens);
        add_seconds(w, "gen_ai.response.time_to_first_chunk", f->first_ns - t->start_ns);
    }
    add_text(w, "http.request.method", STR("POST"));
    add_text(w, "http.route", str_of(f->path));
    add_int(w, "http.response.status_code", u->status);
    if (failed || u->status >= 400)
        add_text(w, "error.type", u->outcome);
    add_text(w, "seki.outcome", u->outcome);
    add_text(w, "seki.request.id", u->id);
    add_text(w, "seki.tenant", u->tenant);
    add_text(w, "seki.project", u->project);
    add_text(w, "seki.key", u->key);
    add_text(w, "seki.endpoint", u->endpoint);
    add_text(w, "seki.endpoint.project", str_of(f->endpoint_project));
    add_text(w, "seki.residency.rule", str_of(f->rule));
    add_int(w, "seki.attempts", t->attempts);
    close_span(w, failed);
}

void trace_write(const struct trace *t, const struct usage *u, const struct trace_facts *f, int64_t wall_ns, struct sbuf *out)
{
    struct writer w = {.out = out, .trace = t, .wall_of_zero_ns = wall_ns - (int64_t)f->end_ns};
    int number = 0;
    write_request(&w, u, f);
    for (int i = 0; i < t->count; i++) {
        number += !t->spans[i].why;
        write_child(&w, &t->spans[i], number, f->end_ns);
    }
}

void trace_end(struct trace *t, const struct usage *u, const struct trace_facts *f)
{
    CLEANUP(sbuf_deinit) struct sbuf text = {0};
    if (!t)
        return;
    sbuf_init(&text, TEXT_MAX);
    trace_write(t, u, f, clock_wall_ns(), &text);
    trace_export_add(t->to, sbuf_ok(&text) ? sbuf_str(&text) : STR_NULL);
}
