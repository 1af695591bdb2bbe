/* Streams that go on at another engine: a client's body and what up to three engines say, each cut somewhere (parts are divided by a NUL; the first byte says which route and how the bytes are
 * cut). Whatever they say: how the bytes are cut changes nothing; what the next engine is asked is a JSON body that a request may have, and holds the text that the client was given, all of it
 * and nothing else. */
#include "fuzz.h"

#include <stdlib.h>

#include "base/log.h"
#include "base/mem.h"
#include "gateway/continuation.h"
#include "json/json.h"

#define OUT_MAX ((size_t)16 << 20)
#define PARTS 4

struct play {
    struct request q;
    struct sbuf out;
    struct sbuf sent; /* bodies of continuations */
};

static void collect(void *arg, struct str bytes)
{
    sbuf_add(&CONTAINER_OF((struct request *)arg, struct play, q)->out, bytes);
}

/* ---- what a client reads ---- */

struct reader {
    bool chat;
    struct sbuf text;
};

static bool read_event(void *arg, struct str data, bool keep)
{
    struct reader *r = arg;
    JSON_AUTO doc = NULL;
    if (json_parse(data, USAGE_SCAN_EVENT_MAX * 2, &doc, NULL) < 0)
        return keep;
    const json_t *choice = json_array_get(json_object_get(doc, "choices"), 0);
    const json_t *text = r->chat ? json_object_get(json_object_get(choice, "delta"), "content") : json_object_get(choice, "text");
    if (json_is_string(text))
        sbuf_add(&r->text, str_n(json_string_value(text), json_string_length(text)));
    return keep;
}

static void drop(void *arg UNUSED, struct str bytes UNUSED)
{
}

static void read_text(struct str stream, struct reader *r)
{
    struct usage_scan s;
    usage_scan_init(&s, true, drop, r);
    s.look = read_event;
    usage_scan_feed(&s, stream);
    usage_scan_deinit(&s);
}

/* The text that an engine is told to go on from. */
static void check_sent(struct play *p, struct str body, bool chat)
{
    JSON_AUTO doc = NULL;
    JSON_AUTO first = NULL;
    struct reader r = {.chat = chat};
    if (json_parse(body, OUT_MAX, &doc, NULL) < 0 || !json_is_object(doc))
        abort();
    if (json_parse(p->q.body.text, OUT_MAX, &first, NULL) < 0)
        abort();
    sbuf_init(&r.text, OUT_MAX);
    read_text(sbuf_str(&p->out), &r);
    const json_t *prompt = json_object_get(doc, p->q.route->prompt), *was = json_object_get(first, p->q.route->prompt);
    struct str told = STR("");
    if (chat && json_array_size(prompt) == json_array_size(was) + 1) {
        const json_t *last = json_object_get(json_array_get(prompt, json_array_size(prompt) - 1), "content");
        told = str_n(json_string_value(last), json_string_length(last));
    } else if (!chat) {
        if (json_string_length(prompt) < json_string_length(was))
            abort();
        told = str_skip(str_n(json_string_value(prompt), json_string_length(prompt)), json_string_length(was));
    }
    if (!str_eq(told, sbuf_str(&r.text)))
        abort();
    sbuf_deinit(&r.text);
    sbuf_add(&p->sent, body);
}

/* ---- a request ---- */

static void feed(struct play *p, struct str bytes, unsigned seed)
{
    while (bytes.len && !continuation_broken(&p->q)) {
        seed = seed ? seed * 1103515245 + 12345 : 0;
        size_t n = seed ? MIN(1 + (seed >> 16) % 23, bytes.len) : bytes.len;
        char *piece = xcalloc(1, n); /* its own block: reading on is seen */
        memcpy(piece, bytes.ptr, n);
        usage_scan_feed(&p->q.scan, str_n(piece, n));
        mem_free(piece);
        bytes = str_skip(bytes, n);
    }
}

static void begin(struct play *p)
{
    struct request *q = &p->q;
    request_scan(q, q->body.ask_usage && !q->body.usage_wanted, collect);
    continuation_attach(q);
}

static void play(struct play *p, const struct str parts[PARTS], const struct gateway_route *route, const struct snap_replica *replica, unsigned seed)
{
    static const struct snap_endpoint endpoint = {.name = "e"};
    CLEANUP(arena_freep) struct arena *arena = arena_new((size_t)64 << 20);
    struct http_request http = {.arena = arena, .id = "req"};
    struct request *q = &p->q;
    *p = (struct play){.q = {.http = &http, .route = route, .endpoint = &endpoint, .replica = replica}};
    sbuf_init(&p->out, OUT_MAX);
    sbuf_init(&p->sent, OUT_MAX);
    if (request_body_read(parts[0], route->prompt, true, &q->body, NULL) < 0)
        return;
    for (int i = 1; i < PARTS; i++) {
        begin(p);
        feed(p, parts[i], seed);
        if (!continuation_broken(q) && usage_scan_end(&q->scan))
            break;
        enum continuation_step step = continuation_next(q);
        if (step == CONTINUATION_SEND)
            check_sent(p, continuation_body(q)->text, str_eqc(str_of(route->prompt), "messages"));
        if (step != CONTINUATION_SEND)
            break;
    }
    struct usage u = {0};
    continuation_counts(q, &u, 1);
    if (u.prompt_tokens < 0 || u.completion_tokens < 0 || u.replayed_tokens < 0)
        abort();
    usage_scan_deinit(&q->scan);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct gateway_route routes[] = {{.prompt = "messages"}, {.prompt = "prompt"}};
    static const struct snap_replica replicas[] = {{.name = "r", .can_continue = true}, {.name = "r", .can_continue = true, .continue_members = "\"continue_final_message\":true,"}};
    struct str parts[PARTS] = {{0}}, rest = str_n(data + 1, size ? size - 1 : 0);
    struct play whole, pieces;
    if (size < 1 || size > 65536)
        return 0;
    log_set(LOG_ERROR, LOG_JSON);
    for (int i = 0; i < PARTS && rest.len; i++)
        if (!str_cut(&rest, 0, &parts[i]))
            break;
    play(&whole, parts, &routes[data[0] & 1], &replicas[data[0] >> 1 & 1], 0);
    play(&pieces, parts, &routes[data[0] & 1], &replicas[data[0] >> 1 & 1], data[0] + 1U);
    if (!str_eq(sbuf_str(&whole.out), sbuf_str(&pieces.out)) || !str_eq(sbuf_str(&whole.sent), sbuf_str(&pieces.sent)))
        abort();
    sbuf_deinit(&whole.out);
    sbuf_deinit(&whole.sent);
    sbuf_deinit(&pieces.out);
    sbuf_deinit(&pieces.sent);
    return 0;
}
