/* A fake inference engine: OpenAI's API and llama.cpp's /health and /metrics without a model. It streams at a set pace, and can hang, die and lie on demand.
 *
 * For tests: it runs where engines run and is killed like one. Text is "tok0 tok1 …"; prompt tokens are the words of the request's text. With --event-log it writes a line for
 * each thing that happens (monotonic nanoseconds, event, request number), so that tests can look at the order of events instead of clocks: request, first_byte, done,
 * client_closed, died, and with --tick-ms a tick every so often, whatever else goes on.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "crypto/hash.h"
#include "json/json.h"
#include "net/http_server.h"

static struct {
    const char *listen, *model, *mode, *api_key;
    int64_t tokens, tokens_per_second, first_token_delay_ms, hang_after, fail_after, die_after_requests, load_delay_ms, embedding_size, tick_ms;
    int log_fd, token_fd;
} o = {.model = "fake", .mode = "ok", .tokens = 16, .embedding_size = 8, .log_fd = -1, .token_fd = -1};

static struct {
    struct loop *loop;
    struct http_server *server;
    struct timer tick;
    uint64_t started_ms;
    int64_t requests, running, prompt_tokens, predicted_tokens;
} g;

enum route { ROUTE_CHAT, ROUTE_COMPLETION, ROUTE_EMBEDDING, ROUTE_RERANK };

struct work {
    struct http_request *r;
    struct timer timer;
    enum route route;
    bool stream, include_usage, counted, blocked;
    int64_t number, made, wanted, prompt_tokens;
};

static void log_event(const char *event, int64_t number)
{
    char line[128];
    if (o.log_fd < 0)
        return;
    int n = snprintf(line, sizeof(line), "%llu %s %lld\n", (unsigned long long)clock_mono_ns(), event, (long long)number);
    if (write(o.log_fd, line, (size_t)n) < 0)
        _exit(3);
}

/* What was made, for whom: it is on disk, whoever is killed next. */
static void log_tokens(const struct work *w, const char *kind, int64_t count)
{
    char line[256];
    struct str id = http_header_get(&w->r->head, "x-request-id");
    if (o.token_fd < 0)
        return;
    int n = snprintf(line, sizeof(line), "%.*s %s %lld\n", (int)MIN(id.len, (size_t)128), id.len ? id.ptr : "", kind, (long long)count);
    if (write(o.token_fd, line, (size_t)n) < 0)
        _exit(3);
}

static bool mode_is(const char *name)
{
    return !strcmp(o.mode, name);
}

static bool hangs(int64_t number)
{
    return mode_is("hang") && number > o.hang_after;
}

/* ---- answers ---- */

static void respond_json(struct http_request *r, int status, json_t *doc)
{
    CLEANUP(sbuf_deinit) struct sbuf text;
    sbuf_init(&text, 64 * 1024 * 1024);
    json_write(doc, &text);
    json_decref(doc);
    http_respond(r, status, "application/json", NULL, 0, sbuf_str(&text));
}

static void respond_error(struct http_request *r, int status, const char *type, const char *message)
{
    respond_json(r, status, json_pack("{s:{s:s, s:s, s:i}}", "error", "message", message, "type", type, "code", status));
}

static void work_free(struct work *w)
{
    timer_stop(&w->timer);
    if (w->counted)
        g.running--;
    w->r->user = NULL;
    mem_free(w);
}

static json_t *usage_of(const struct work *w)
{
    int64_t lie = mode_is("lie") ? 1000 : 0;
    return json_pack("{s:I, s:I, s:I}", "prompt_tokens", (json_int_t)w->prompt_tokens, "completion_tokens", (json_int_t)(w->made + lie), "total_tokens",
                     (json_int_t)(w->prompt_tokens + w->made + lie));
}

static json_t *envelope(const struct work *w, bool chunk)
{
    char id[48];
    snprintf(id, sizeof(id), "%s-%lld", w->route == ROUTE_CHAT ? "chatcmpl" : "cmpl", (long long)w->number);
    const char *object = w->route == ROUTE_COMPLETION ? "text_completion" : chunk ? "chat.completion.chunk" : "chat.completion";
    return json_pack("{s:s, s:s, s:I, s:s}", "id", id, "object", object, "created", (json_int_t)(clock_wall_ms() / 1000), "model", o.model);
}

static bool send_event(struct work *w, json_t *doc)
{
    CLEANUP(sbuf_deinit) struct sbuf text;
    sbuf_init(&text, 64 * 1024);
    sbuf_addc(&text, "data: ");
    json_write(doc, &text);
    sbuf_addc(&text, "\n\n");
    json_decref(doc);
    bool room = http_write(w->r, sbuf_str(&text));
    http_flush(w->r);
    return room;
}

static json_t *choice_of(const struct work *w, const char *text, const char *finish)
{
    json_t *reason = finish ? json_string(finish) : json_null();
    if (w->route == ROUTE_COMPLETION)
        return json_pack("{s:i, s:s, s:n, s:o}", "index", 0, "text", text ? text : "", "logprobs", "finish_reason", reason);
    return json_pack("{s:i, s:o, s:o}", "index", 0, "delta", text ? json_pack("{s:s}", "content", text) : json_object(), "finish_reason", reason);
}

static bool send_choice(struct work *w, const char *text, const char *finish)
{
    json_t *doc = envelope(w, true);
    json_object_set_new(doc, "choices", json_pack("[o]", choice_of(w, text, finish)));
    return send_event(w, doc);
}

static void end_stream(struct work *w)
{
    struct http_request *r = w->r;
    send_choice(w, NULL, "stop");
    if (w->include_usage) {
        json_t *doc = envelope(w, true);
        json_object_set_new(doc, "choices", json_array());
        json_object_set_new(doc, "usage", usage_of(w));
        send_event(w, doc);
    }
    http_write(r, STR("data: [DONE]\n\n"));
    log_event("done", w->number);
    work_free(w);
    http_respond_end(r);
}

static void end_whole(struct work *w)
{
    struct http_request *r = w->r;
    CLEANUP(sbuf_deinit) struct sbuf text;
    sbuf_init(&text, 16 * 1024 * 1024);
    for (int64_t i = 0; i < w->made; i++)
        sbuf_addf(&text, "%stok%lld", i ? " " : "", (long long)i);
    const char *all = text.ptr ? text.ptr : "";
    json_t *doc = envelope(w, false);
    json_t *choice = w->route == ROUTE_COMPLETION
                         ? json_pack("{s:i, s:s, s:n, s:s}", "index", 0, "text", all, "logprobs", "finish_reason", "stop")
                         : json_pack("{s:i, s:{s:s, s:s}, s:s}", "index", 0, "message", "role", "assistant", "content", all, "finish_reason", "stop");
    json_object_set_new(doc, "choices", json_pack("[o]", choice));
    json_object_set_new(doc, "usage", usage_of(w));
    log_event("done", w->number);
    work_free(w);
    respond_json(r, 200, doc);
}

/* ---- one token after the other ---- */

static void next_token(struct work *w);

static void on_token_timer(struct timer *t)
{
    next_token(t->arg);
}

static void make_token(struct work *w)
{
    char text[48];
    snprintf(text, sizeof(text), "%stok%lld", w->made ? " " : "", (long long)w->made);
    if (w->made == 0)
        log_event("first_byte", w->number);
    w->made++;
    g.predicted_tokens++;
    log_tokens(w, "written", 1);
    if (o.fail_after && w->made > o.fail_after) {
        log_event("died", w->number);
        _exit(9);
    }
    if (w->stream)
        w->blocked = !send_choice(w, text, NULL);
}

/* Without a pace a stream still returns to the loop now and then, so that it notices what the client does. */
#define BURST 32

static void next_token(struct work *w)
{
    for (int i = 0; i < BURST && !w->blocked; i++) {
        if (w->made == w->wanted) {
            if (w->stream)
                end_stream(w);
            else
                end_whole(w);
            return;
        }
        make_token(w);
        if (o.tokens_per_second > 0)
            break;
    }
    if (!w->blocked)
        timer_start(&w->timer, o.tokens_per_second > 0 ? (uint64_t)(1000 / o.tokens_per_second) : 0);
}

/* ---- requests ---- */

static int64_t words_of(const json_t *v)
{
    int64_t n = 0;
    size_t i;
    json_t *item;
    const char *key;
    if (json_is_string(v)) {
        const char *p = json_string_value(v);
        while (*p) {
            p += strspn(p, " \n\t");
            n += *p != 0;
            p += strcspn(p, " \n\t");
        }
    }
    json_array_foreach (v, i, item)
        n += words_of(item);
    json_object_foreach ((json_t *)(uintptr_t)v, key, item)
        n += !strcmp(key, "role") ? 0 : words_of(item);
    return n;
}

static json_t *embedding(int64_t seed, bool base64)
{
    float values[4096];
    int64_t size = o.embedding_size < 4096 ? o.embedding_size : 4096;
    for (int64_t i = 0; i < size; i++)
        values[i] = (float)((seed * 31 + i * 7) % 100) / 100.0f;
    if (base64) {
        CLEANUP(sbuf_deinit) struct sbuf text;
        sbuf_init(&text, 64 * 1024);
        base64_encode(str_n(values, (size_t)size * sizeof(float)), &text);
        return json_stringn(text.ptr, text.len);
    }
    json_t *list = json_array();
    for (int64_t i = 0; i < size; i++)
        json_array_append_new(list, json_real((double)values[i]));
    return list;
}

static void embed(struct work *w, const json_t *body)
{
    struct http_request *r = w->r;
    json_t *input = json_object_get(body, "input"), *data = json_array();
    bool base64 = !strcmp(json_str_or(body, "encoding_format", "float"), "base64");
    size_t count = json_is_array(input) ? json_array_size(input) : 1;
    for (size_t i = 0; i < count; i++)
        json_array_append_new(data, json_pack("{s:s, s:i, s:o}", "object", "embedding", "index", (int)i, "embedding", embedding((int64_t)i + 1, base64)));
    json_t *doc = json_pack("{s:s, s:s, s:o, s:{s:I, s:I}}", "object", "list", "model", o.model, "data", data, "usage", "prompt_tokens", (json_int_t)w->prompt_tokens,
                            "total_tokens", (json_int_t)w->prompt_tokens);
    log_event("done", w->number);
    work_free(w);
    respond_json(r, 200, doc);
}

/* The longer a document the better it is. */
static void rerank(struct work *w, const json_t *body)
{
    struct http_request *r = w->r;
    json_t *results = json_array(), *document;
    size_t i;
    json_array_foreach (json_object_get(body, "documents"), i, document)
        json_array_append_new(results, json_pack("{s:i, s:f}", "index", (int)i, "relevance_score", (double)words_of(document) / 100));
    json_t *doc = json_pack("{s:s, s:s, s:o, s:{s:I, s:I}}", "model", o.model, "object", "list", "results", results, "usage", "prompt_tokens", (json_int_t)w->prompt_tokens,
                            "total_tokens", (json_int_t)w->prompt_tokens);
    log_event("done", w->number);
    work_free(w);
    respond_json(r, 200, doc);
}

static void read_request(struct work *w, const json_t *body)
{
    int64_t most = json_int(body, "max_completion_tokens", json_int(body, "max_tokens", o.tokens));
    w->stream = json_flag(body, "stream", false);
    w->include_usage = json_flag(body, "stream_options.include_usage", false);
    w->wanted = most >= 0 && most < o.tokens ? most : o.tokens;
    w->prompt_tokens = words_of(json_object_get(body, "messages")) + words_of(json_object_get(body, "prompt")) + words_of(json_object_get(body, "input")) +
                       words_of(json_object_get(body, "query")) * (int64_t)json_array_size(json_object_get(body, "documents")) + words_of(json_object_get(body, "documents"));
}

static void begin(struct http_request *r, enum route route)
{
    struct err err = ERR_INIT;
    JSON_AUTO body = NULL;
    if (json_parse(r->body, 64 * 1024 * 1024, &body, &err) < 0) {
        respond_error(r, 400, "invalid_request_error", err.msg);
        return;
    }
    struct work *w = XNEW(struct work);
    *w = (struct work){.r = r, .route = route, .number = ++g.requests, .counted = true};
    r->user = w;
    g.running++;
    timer_init(&w->timer, g.loop, on_token_timer, w);
    read_request(w, body);
    log_event("request", w->number);
    if (o.die_after_requests && w->number > o.die_after_requests)
        _exit(9);
    if (hangs(w->number))
        return; /* accepted, and never answered */
    g.prompt_tokens += w->prompt_tokens;
    log_tokens(w, "read", w->prompt_tokens);
    if (!strncmp(o.mode, "status:", 7)) {
        int status = (int)strtol(o.mode + 7, NULL, 10);
        work_free(w);
        respond_error(r, status, status < 500 ? "invalid_request_error" : "server_error", "as the test wants it");
        return;
    }
    if (route == ROUTE_EMBEDDING) {
        embed(w, body);
        return;
    }
    if (route == ROUTE_RERANK) {
        rerank(w, body);
        return;
    }
    if (w->stream) {
        http_respond_start(r, 200, "text/event-stream", NULL, 0);
        if (mode_is("garbage")) {
            http_write(r, STR("data: {this is no json\n\ndata: \xff\xfe\n\nnonsense\n\n"));
            work_free(w);
            http_respond_abort(r);
            return;
        }
    }
    timer_start(&w->timer, (uint64_t)o.first_token_delay_ms);
}

static void health(struct http_request *r)
{
    if (clock_mono_ms() - g.started_ms < (uint64_t)o.load_delay_ms)
        respond_error(r, 503, "unavailable_error", "Loading model");
    else
        http_respond(r, 200, "application/json", NULL, 0, STR("{\"status\":\"ok\"}"));
}

static void metrics(struct http_request *r)
{
    char text[512];
    snprintf(text, sizeof(text),
             "# HELP llamacpp:prompt_tokens_total Prompt tokens.\nllamacpp:prompt_tokens_total %lld\nllamacpp:tokens_predicted_total %lld\n"
             "llamacpp:requests_processing %lld\nllamacpp:requests_deferred 0\n",
             (long long)g.prompt_tokens, (long long)g.predicted_tokens, (long long)g.running);
    http_respond(r, 200, "text/plain; version=0.0.4", NULL, 0, str_of(text));
}

static bool may_come_in(const struct http_request *r)
{
    struct str given = http_header_get(&r->head, "authorization");
    return !o.api_key || (str_starts(given, STR("Bearer ")) && str_eqc(str_skip(given, strlen("Bearer ")), o.api_key));
}

static void on_request(void *ctx UNUSED, struct http_request *r)
{
    struct str path = r->head.path;
    bool post = str_eqc(r->head.method, "POST");
    if (!may_come_in(r))
        respond_error(r, 401, "invalid_request_error", "Invalid API key");
    else if (str_eqc(path, "/health"))
        health(r);
    else if (str_eqc(path, "/metrics"))
        metrics(r);
    else if (str_eqc(path, "/v1/models"))
        respond_json(r, 200, json_pack("{s:s, s:[{s:s, s:s, s:s}]}", "object", "list", "data", "id", o.model, "object", "model", "owned_by", "fake"));
    else if (post && str_eqc(path, "/v1/chat/completions"))
        begin(r, ROUTE_CHAT);
    else if (post && str_eqc(path, "/v1/completions"))
        begin(r, ROUTE_COMPLETION);
    else if (post && str_eqc(path, "/v1/embeddings"))
        begin(r, ROUTE_EMBEDDING);
    else if (post && str_eqc(path, "/v1/rerank"))
        begin(r, ROUTE_RERANK);
    else
        respond_error(r, 404, "not_found_error", "no such path");
}

static void on_drain(void *ctx UNUSED, struct http_request *r)
{
    struct work *w = r->user;
    if (!w || !w->blocked)
        return;
    w->blocked = false;
    timer_start(&w->timer, 0);
}

static void on_abort(void *ctx UNUSED, struct http_request *r)
{
    struct work *w = r->user;
    if (!w)
        return;
    log_event("client_closed", w->number);
    work_free(w);
}

/* ---- start ---- */

static void usage(FILE *out)
{
    fputs("usage: fake_engine --listen ADDRESS [--model NAME] [--mode ok|hang|lie|garbage|status:NNN] [--tokens N] [--tokens-per-second N]\n"
          "  [--first-token-delay-ms N] [--hang-after REQUESTS] [--fail-after TOKENS] [--die-after-requests N] [--load-delay-ms N] [--embedding-size N] [--api-key KEY] [--event-log FILE]\n"
          "  [--tick-ms N] [--token-log FILE]\n",
          out);
}

static int64_t number(const char *name, const char *text)
{
    int64_t v;
    if (str_to_i64(str_of(text), 0, INT64_MAX / 2, &v) == 0)
        return v;
    fprintf(stderr, "fake_engine: --%s %s: expected a number\n", name, text);
    exit(2);
}

static void read_options(int argc, char **argv)
{
    static const struct {
        const char *name;
        int64_t *value;
    } numbers[] = {{"tokens", &o.tokens}, {"tokens-per-second", &o.tokens_per_second}, {"first-token-delay-ms", &o.first_token_delay_ms}, {"hang-after", &o.hang_after},
                   {"fail-after", &o.fail_after}, {"die-after-requests", &o.die_after_requests}, {"load-delay-ms", &o.load_delay_ms}, {"embedding-size", &o.embedding_size},
                   {"tick-ms", &o.tick_ms}};
    for (int i = 1; i < argc; i += 2) {
        const char *name = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
        bool known = false;
        if (!strcmp(name, "--help")) {
            usage(stdout);
            exit(0);
        }
        if (strncmp(name, "--", 2) != 0 || !value) {
            usage(stderr);
            exit(2);
        }
        name += 2;
        for (size_t n = 0; n < ARRAY_LEN(numbers); n++)
            if (!strcmp(name, numbers[n].name)) {
                *numbers[n].value = number(name, value);
                known = true;
            }
        if (!strcmp(name, "listen"))
            o.listen = value;
        else if (!strcmp(name, "model"))
            o.model = value;
        else if (!strcmp(name, "mode"))
            o.mode = value;
        else if (!strcmp(name, "api-key"))
            o.api_key = value;
        else if (!strcmp(name, "event-log"))
            o.log_fd = open(value, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        else if (!strcmp(name, "token-log"))
            o.token_fd = open(value, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        else if (!known) {
            fprintf(stderr, "fake_engine: unknown option --%s\n", name);
            exit(2);
        }
    }
    if (o.listen)
        return;
    usage(stderr);
    exit(2);
}

static void on_tick(struct timer *t)
{
    log_event("tick", 0);
    timer_start(t, (uint64_t)o.tick_ms);
}

static void on_signal(void *arg UNUSED, int signo UNUSED)
{
    loop_stop(g.loop);
}

int main(int argc, char **argv)
{
    static const struct http_server_ops ops = {.on_request = on_request, .on_drain = on_drain, .on_abort = on_abort};
    struct http_server_options so = {.max_body_bytes = 64 * 1024 * 1024, .server_name = "fake-engine"};
    struct err err = ERR_INIT;
    char text[NET_ADDR_TEXT_MAX];
    read_options(argc, argv);
    umask(077);
    g.started_ms = clock_mono_ms();
    if (net_addr_parse(str_of(o.listen), &so.listen, &err) < 0 || loop_new(&g.loop, &err) < 0 || loop_signal(g.loop, SIGTERM, on_signal, NULL, &err) < 0 ||
        loop_signal(g.loop, SIGINT, on_signal, NULL, &err) < 0 || http_server_start(g.loop, &so, &ops, NULL, &g.server, &err) < 0) {
        fprintf(stderr, "fake_engine: %s\n", err.msg);
        return 1;
    }
    timer_init(&g.tick, g.loop, on_tick, NULL);
    if (o.tick_ms)
        timer_start(&g.tick, (uint64_t)o.tick_ms);
    struct net_addr bound;
    http_server_addr(g.server, &bound);
    net_addr_format(&bound, text);
    printf("listening on %s\n", text);
    fflush(stdout);
    loop_run(g.loop);
    timer_stop(&g.tick);
    http_server_free(g.server);
    loop_free(g.loop);
    return 0;
}
