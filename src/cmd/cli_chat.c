/* seki chat: asks a model through the gateway and prints the answer as it comes, with its speed. */
#include "base/clock.h"
#include "base/mem.h"
#include "cmd/cli.h"
#include "json/span.h"
#include "net/http_client.h"
#include "net/sse.h"

#include <unistd.h>

#define ANSWER_MAX (4 * 1024 * 1024)
#define IDLE_MS 300000

struct chat {
    struct cli *cli;
    struct loop *loop;
    struct http_pool *pool;
    const char *base_path, *key, *model, *system;
    int64_t max_tokens;
    bool raw; /* completions, for base models: the prompt is continued */
    json_t *messages;

    /* one answer */
    struct sse_scanner *sse;
    struct sbuf answer;
    struct sbuf error_body;
    int status;
    uint64_t sent_ms, first_ms, end_ms;
    int64_t tokens;
    struct err err;
};

static void on_event(void *arg, const struct sse_event *e)
{
    struct chat *c = arg;
    if (str_eqc(e->data, "[DONE]"))
        return;
    JSON_AUTO doc = NULL;
    if (json_parse(e->data, ANSWER_MAX, &doc, NULL) < 0)
        return;
    const char *message = json_str(doc, "error.message");
    if (message) {
        err_set(&c->err, ERR_UNAVAILABLE, "%s", message);
        return;
    }
    json_t *choice = json_array_get(json_at(doc, "choices"), 0);
    const char *text = c->raw ? json_str(choice, "text") : json_str(choice, "delta.content");
    c->tokens = json_int(doc, "usage.completion_tokens", c->tokens);
    if (!text || !*text)
        return;
    if (!c->first_ms)
        c->first_ms = clock_mono_ms();
    sbuf_addc(&c->answer, text);
    fputs(text, stdout);
    fflush(stdout);
}

static void on_head(void *arg, const struct http_head *head)
{
    ((struct chat *)arg)->status = head->status;
}

static void on_body(void *arg, struct str bytes)
{
    struct chat *c = arg;
    if (c->status == 200)
        sse_feed(c->sse, bytes);
    else
        sbuf_add(&c->error_body, bytes);
}

static void on_end(void *arg)
{
    struct chat *c = arg;
    loop_stop(c->loop);
}

static void on_error(void *arg, const struct err *err)
{
    struct chat *c = arg;
    c->err = *err;
    loop_stop(c->loop);
}

static void build_body(struct chat *c, const char *prompt, struct sbuf *out)
{
    JSON_AUTO body = json_pack("{s:s, s:b, s:{s:b}}", "model", c->model, "stream", 1, "stream_options",
                               "include_usage", 1);
    if (c->max_tokens > 0)
        json_put_int(body, "max_tokens", c->max_tokens);
    if (c->raw)
        json_put_str(body, "prompt", prompt);
    else
        json_object_set(body, "messages", c->messages);
    json_write(body, out);
}

/* Sends one question; 0, or the exit status. The answer is on stdout and in c->answer. */
static int ask(struct chat *c, const char *prompt)
{
    static const struct http_call_ops ops = {on_head, on_body, on_end, on_error};
    CLEANUP(sbuf_deinit) struct sbuf body = {0};
    sbuf_init(&body, ANSWER_MAX);
    if (!c->raw)
        json_array_append_new(c->messages, json_pack("{s:s, s:s}", "role", "user", "content", prompt));
    build_body(c, prompt, &body);
    struct iovec iov = {body.ptr, body.len};
    struct http_header headers[] = {
        {STR("Content-Type"), STR("application/json")},
        {STR("Authorization"), str_of(arena_printf(c->cli->arena, "Bearer %s", c->key))}};
    struct http_call_options o = {
        .method = "POST",
        .target = arena_printf(c->cli->arena, "%s/%s", c->base_path, c->raw ? "completions" : "chat/completions"),
        .headers = headers,
        .header_count = ARRAY_LEN(headers),
        .body = &iov,
        .body_count = 1,
        .first_byte_timeout_ms = IDLE_MS,
        .idle_timeout_ms = IDLE_MS};
    c->status = 0;
    c->tokens = -1;
    c->first_ms = 0;
    c->err.code = 0;
    sbuf_reset(&c->answer);
    sbuf_reset(&c->error_body);
    c->sse = sse_new(ANSWER_MAX, on_event, c);
    c->sent_ms = clock_mono_ms();
    if (!http_call_start(c->pool, &o, &ops, c))
        return 1;
    loop_run(c->loop);
    c->end_ms = clock_mono_ms();
    sse_free(c->sse);
    if (c->err.code) {
        putchar('\n');
        return cli_fail(&c->err);
    }
    if (c->status != 200) {
        JSON_AUTO doc = NULL;
        const char *message = NULL;
        if (json_parse(sbuf_str(&c->error_body), ANSWER_MAX, &doc, NULL) == 0)
            message = json_str(doc, "error.message");
        fprintf(stderr, "seki: the gateway answered %d: %s\n", c->status, message ? message : "no explanation");
        return 1;
    }
    if (!c->raw)
        json_array_append_new(c->messages,
                              json_pack("{s:s, s:s}", "role", "assistant", "content", c->answer.ptr ? c->answer.ptr : ""));
    return 0;
}

static void print_speed(const struct chat *c)
{
    if (c->answer.len && c->answer.ptr[c->answer.len - 1] != '\n')
        putchar('\n');
    uint64_t span = c->first_ms ? c->end_ms - c->first_ms : 0;
    if (c->tokens < 0 || !c->first_ms)
        return;
    fprintf(stderr, "%s[%lld tokens, first after %llu ms, %.1f tokens/s]%s\n", c->cli->terminal ? "\033[2m" : "",
            (long long)c->tokens, (unsigned long long)(c->first_ms - c->sent_ms),
            span ? (double)(c->tokens - 1) * 1000.0 / (double)span : 0.0, c->cli->terminal ? "\033[0m" : "");
}

/* "http://127.0.0.1:8000/v1" → address, host and path of a pool. */
static int open_gateway(struct chat *c, const char *url, struct err *err)
{
    struct str rest = str_of(url), host;
    struct http_pool_options po = {0};
    bool tls = str_starts(rest, STR("https://"));
    if (!tls && !str_starts(rest, STR("http://")))
        return err_set(err, ERR_INVALID, "%s: expected http://ADDRESS:PORT/v1", url);
    rest = str_skip(rest, tls ? 8 : 7);
    if (!str_cut(&rest, '/', &host) || net_addr_parse(host, &po.addr, err) < 0)
        return err_set(err, ERR_INVALID, "%s: expected a numeric address and port", url);
    while (rest.len && rest.ptr[rest.len - 1] == '/')
        rest.len--;
    c->base_path = arena_printf(c->cli->arena, "%s%.*s", rest.len ? "/" : "", STR_ARG(rest));
    po.host = arena_strndup(c->cli->arena, host);
    if (tls && tls_client_ctx(getenv("SSL_CERT_FILE"), NULL, NULL, &po.tls, err) < 0)
        return err->code;
    c->pool = http_pool_new(c->loop, &po);
    tls_ctx_unref(po.tls);
    return 0;
}

static int converse(struct chat *c)
{
    char line[16384];
    bool prompts = isatty(STDIN_FILENO) && c->cli->terminal;
    if (prompts)
        fprintf(stderr, "Asking %s. An empty line or Ctrl-D ends.\n", c->model);
    for (;;) {
        if (prompts)
            fputs("> ", stderr);
        if (!fgets(line, sizeof(line), stdin))
            return 0;
        struct str text = str_trim(str_of(line));
        if (!text.len)
            return 0;
        int rc = ask(c, arena_strndup(c->cli->arena, text));
        if (rc)
            return rc;
        print_speed(c);
    }
}

int cli_chat(struct cli *cli)
{
    struct chat c = {.cli = cli};
    const char *url = cli_flag(cli, "--base-url"), *max_tokens = cli_flag(cli, "--max-tokens");
    c.model = cli_flag(cli, "--model");
    c.system = cli_flag(cli, "--system");
    c.raw = cli_switch(cli, "--raw");
    const char *prompt = cli_word(cli);
    if (max_tokens && str_to_i64(str_of(max_tokens), 1, 1000000, &c.max_tokens) < 0)
        return cli_usage_error("--max-tokens=%s: expected a number", max_tokens);
    if (cli_no_more(cli))
        return 2;
    if (!url)
        url = getenv("OPENAI_BASE_URL");
    if (!c.model)
        c.model = getenv("SEKI_MODEL");
    c.key = getenv("OPENAI_API_KEY");
    if (!url || !c.model || !c.key)
        return cli_usage_error("set OPENAI_BASE_URL, OPENAI_API_KEY and SEKI_MODEL (source var/seki.env)");
    struct err err = ERR_INIT;
    if (loop_new(&c.loop, &err) < 0 || open_gateway(&c, url, &err) < 0)
        return cli_fail(&err);
    c.messages = json_array();
    if (c.system)
        json_array_append_new(c.messages, json_pack("{s:s, s:s}", "role", "system", "content", c.system));
    sbuf_init(&c.answer, ANSWER_MAX);
    sbuf_init(&c.error_body, ANSWER_MAX);
    int rc = prompt ? ask(&c, prompt) : converse(&c);
    if (rc == 0 && prompt)
        print_speed(&c);
    json_decref(c.messages);
    sbuf_deinit(&c.answer);
    sbuf_deinit(&c.error_body);
    http_pool_free(c.pool);
    loop_free(c.loop);
    return rc;
}
