/* seki chat: asks a model through the gateway and prints the answer as it comes, with its speed. */
#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "client/fetch.h"
#include "cmd/cli.h"
#include "net/http_client.h"
#include "net/sse.h"

#include <errno.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#define ANSWER_MAX (4 * 1024 * 1024)
#define SPEED_MS 10 /* a shorter answer has no speed that means something */
#define IDLE_MS 300000
#define MODELS_MS 3000
#define INTERRUPTED 130 /* exit status of what Ctrl-C ends, by custom */

struct chat {
    struct cli *cli;
    struct loop *loop;
    struct http_pool *pool;
    const char *origin, *base_path, *key, *model, *system;
    int64_t max_tokens;
    bool raw; /* completions, for base models: the prompt is continued */
    json_t *messages;

    /* one answer */
    struct http_call *call;
    bool interrupted;
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
    if (c->cli->json)
        return;
    CLEANUP(mem_freep) char *plain = isatty(STDOUT_FILENO) ? cli_make_plain(xstrdup(text)) : NULL;
    fputs(plain ? plain : text, stdout);
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
    c->call = NULL;
    loop_stop(c->loop);
}

static void on_error(void *arg, const struct err *err)
{
    struct chat *c = arg;
    c->err = *err;
    c->call = NULL;
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

/* ---- Ctrl-C ----
 * While an answer comes, SIGINT is blocked and read from a descriptor: it ends the answer. Otherwise it ends the program, as everywhere. */

struct interrupt {
    sigset_t set;
    int fd;
    struct fd_watch *watch;
};

static void on_interrupt(void *arg, int events UNUSED)
{
    struct chat *c = arg;
    if (!c->call) /* it has just ended */
        return;
    c->interrupted = true;
    http_call_cancel(c->call);
    c->call = NULL;
    loop_stop(c->loop);
}

static int interrupt_begin(struct interrupt *i, struct chat *c, struct err *err)
{
    sigemptyset(&i->set);
    sigaddset(&i->set, SIGINT);
    i->fd = signalfd(-1, &i->set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (i->fd < 0)
        return err_sys(err, errno, "cannot watch for Ctrl-C");
    int rc = fd_watch_new(c->loop, i->fd, on_interrupt, c, &i->watch, err);
    if (rc < 0) {
        file_closep(&i->fd);
        return rc;
    }
    sigprocmask(SIG_BLOCK, &i->set, NULL);
    fd_watch_set(i->watch, FD_READ);
    return 0;
}

static void interrupt_end(struct interrupt *i)
{
    struct signalfd_siginfo seen;
    fd_watch_free(i->watch);
    while (read(i->fd, &seen, sizeof(seen)) > 0)
        ;
    file_closep(&i->fd);
    sigprocmask(SIG_UNBLOCK, &i->set, NULL);
}

/* ---- one question ---- */

/* "; this key may call: a, b": what there is, when the model asked for is not there. Silent when it cannot be had. */
static void print_models(const struct chat *c)
{
    struct fetch_options o = {.address = c->origin, .path = arena_printf(c->cli->arena, "%s/models", c->base_path), .bearer = c->key,
                              .ca_file = getenv("SSL_CERT_FILE"), .timeout_ms = MODELS_MS};
    CLEANUP(mem_freep) char *text = NULL;
    JSON_AUTO doc = NULL;
    size_t len = 0, i;
    int status = 0;
    json_t *model;
    if (fetch(&o, &status, &text, &len, NULL) < 0 || status != 200 || json_parse(str_n(text, len), ANSWER_MAX, &doc, NULL) < 0)
        return;
    const char *gap = "seki: this key may call: ";
    json_array_foreach (json_object_get(doc, "data"), i, model) {
        fprintf(stderr, "%s%s", gap, cli_plain(c->cli->arena, json_str_or(model, "id", "?")));
        gap = ", ";
    }
    fputs(i ? "\n" : "seki: this key may call no model: its project has no ready ModelEndpoint (seki status)\n", stderr);
}

/* What the gateway answered instead of tokens; returns the exit status. */
static int explain_refusal(const struct chat *c)
{
    JSON_AUTO doc = NULL;
    const char *message = NULL;
    if (json_parse(sbuf_str(&c->error_body), ANSWER_MAX, &doc, NULL) == 0)
        message = json_str(doc, "error.message");
    const char *advice = c->status == 401   ? "; `seki -n PROJECT key create NAME` makes a key, OPENAI_API_KEY takes it"
                         : c->status == 503 ? "; `seki status` tells what is awaited"
                                            : "";
    struct str said =
        message ? str_of(cli_plain(c->cli->arena, message)) : str_of("no explanation");
    if (*advice && str_ends(said, str_of("."))) /* a sentence that goes on */
        said.len--;
    fprintf(stderr, "seki: the gateway answered %d: %.*s%s\n", c->status, STR_ARG(said), advice);
    if (c->status == 404)
        print_models(c);
    return 1;
}

static int explain_failure(const struct chat *c)
{
    if (c->status == 0)
        fprintf(stderr, "seki: the gateway at %s does not answer: %s; is sekid running, and is OPENAI_BASE_URL right?\n", c->origin, c->err.msg);
    else
        fprintf(stderr, "%sseki: the answer broke off: %s\n", c->answer.len ? "\n" : "", cli_plain(c->cli->arena, c->err.msg));
    return 1;
}

static void reset_answer(struct chat *c)
{
    c->status = 0;
    c->tokens = -1;
    c->first_ms = 0;
    c->err.code = 0;
    c->interrupted = false;
    sbuf_reset(&c->answer);
    sbuf_reset(&c->error_body);
}

/* Sends the body and runs until the answer has ended, in whichever way. */
static int exchange(struct chat *c, const struct sbuf *body, struct err *err)
{
    static const struct http_call_ops ops = {on_head, on_body, on_end, on_error};
    struct iovec iov = {body->ptr, body->len};
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
    struct interrupt interrupt;
    int rc = interrupt_begin(&interrupt, c, err);
    if (rc < 0)
        return rc;
    reset_answer(c);
    c->sse = sse_new(ANSWER_MAX, on_event, c);
    c->sent_ms = clock_mono_ms();
    c->call = http_call_start(c->pool, &o, &ops, c);
    if (c->call)
        loop_run(c->loop);
    else
        rc = err_set(err, ERR_NO_MEMORY, "out of memory");
    c->end_ms = clock_mono_ms();
    sse_free(c->sse);
    interrupt_end(&interrupt);
    return rc;
}

/* Asks one question; 0, or the exit status. The answer is on stdout and in c->answer. */
static int ask(struct chat *c, const char *prompt)
{
    CLEANUP(sbuf_deinit) struct sbuf body = {0};
    struct err err = ERR_INIT;
    sbuf_init(&body, ANSWER_MAX);
    if (!c->raw)
        json_array_append_new(c->messages, json_pack("{s:s, s:s}", "role", "user", "content", prompt));
    build_body(c, prompt, &body);
    if (!sbuf_ok(&body)) {
        fputs("seki: the conversation is too long\n", stderr);
        return 1;
    }
    if (exchange(c, &body, &err) < 0)
        return cli_fail(&err);
    if (c->interrupted)
        fputs(c->cli->json ? "" : "\n", stdout);
    else if (c->err.code)
        return explain_failure(c);
    else if (c->status != 200)
        return explain_refusal(c);
    if (!c->raw && c->answer.len)
        json_array_append_new(c->messages, json_pack("{s:s, s:s}", "role", "assistant", "content", c->answer.ptr));
    else if (!c->raw)
        json_array_remove(c->messages, json_array_size(c->messages) - 1);
    return c->interrupted ? INTERRUPTED : 0;
}

static void print_result_json(const struct chat *c)
{
    JSON_AUTO doc = json_pack("{s:s, s:s}", "model", c->model, "answer", c->answer.len ? c->answer.ptr : "");
    if (c->tokens >= 0)
        json_put_int(doc, "completionTokens", c->tokens);
    if (c->first_ms)
        json_put_int(doc, "firstTokenMilliseconds", (int64_t)(c->first_ms - c->sent_ms));
    json_put_int(doc, "totalMilliseconds", (int64_t)(c->end_ms - c->sent_ms));
    cli_print_json(doc);
}

static void print_speed(const struct chat *c)
{
    if (c->cli->json) {
        print_result_json(c);
        return;
    }
    if (c->answer.len && c->answer.ptr[c->answer.len - 1] != '\n')
        putchar('\n');
    fflush(stdout);
    bool dim = c->cli->color && isatty(STDERR_FILENO);
    uint64_t span = c->first_ms ? c->end_ms - c->first_ms : 0;
    if (c->tokens < 0 || !c->first_ms)
        return;
    char speed[32] = ""; /* of what came at once there is none */
    if (c->tokens > 1 && span >= SPEED_MS)
        snprintf(speed, sizeof(speed), ", %.1f tokens/s", (double)(c->tokens - 1) * 1000.0 / (double)span);
    fprintf(stderr, "%s[%lld tokens, first after %llu ms%s]%s\n", dim ? "\033[2m" : "", (long long)c->tokens, (unsigned long long)(c->first_ms - c->sent_ms), speed, dim ? "\033[0m" : "");
}

/* "http://127.0.0.1:8000/v1" → address, host and path of a pool. */
static int open_gateway(struct chat *c, const char *url, struct err *err)
{
    struct str rest = str_of(url), host;
    struct http_pool_options po = {0};
    bool tls = str_starts(rest, STR("https://"));
    if (!tls && !str_starts(rest, STR("http://")))
        return err_set(err, ERR_INVALID, "OPENAI_BASE_URL=%s: expected http://ADDRESS:PORT/v1", url);
    rest = str_skip(rest, tls ? 8 : 7);
    if (!str_cut(&rest, '/', &host) || net_addr_parse(host, &po.addr, err) < 0)
        return err_set(err, ERR_INVALID, "OPENAI_BASE_URL=%s: expected a numeric address and port, for example http://127.0.0.1:8000/v1", url);
    c->origin = arena_strndup(c->cli->arena, str_n(url, (size_t)(host.ptr + host.len - url)));
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
    bool prompts = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
    if (prompts)
        fprintf(stderr, "Asking %s. An empty line or Ctrl-D ends; Ctrl-C ends an answer.\n", c->model);
    for (;;) {
        if (prompts)
            fputs("> ", stderr);
        if (!fgets(line, sizeof(line), stdin))
            return 0;
        struct str text = str_trim(str_of(line));
        if (!text.len)
            return 0;
        int rc = ask(c, arena_strndup(c->cli->arena, text));
        if (rc == INTERRUPTED && prompts)
            continue;
        if (rc)
            return rc;
        print_speed(c);
    }
}

/* What is asked where; 0, or 2 with the reason printed. */
static int read_environment(struct chat *c, const char **url)
{
    static const char *const names[] = {"OPENAI_BASE_URL", "OPENAI_API_KEY", "SEKI_MODEL"};
    const char **values[] = {url, &c->key, &c->model};
    CLEANUP(sbuf_deinit) struct sbuf missing = {0};
    sbuf_init(&missing, 256);
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        if (!*values[i])
            *values[i] = getenv(names[i]);
        if (!*values[i] || !**values[i])
            sbuf_addf(&missing, "%s%s", missing.len ? ", " : "", names[i]);
    }
    return missing.len ? cli_usage_error("%s not set: after `make run`, source var/seki.env; elsewhere set the gateway's URL (or --base-url), a key that `seki key create` made, a model's name (or --model)", missing.ptr) : 0;
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
        return cli_usage_error("--max-tokens=%s: expected a number from 1 to 1000000", max_tokens);
    if (cli_no_more(cli))
        return 2;
    int rc = read_environment(&c, &url);
    if (rc)
        return rc;
    struct err err = ERR_INIT;
    if (loop_new(&c.loop, &err) < 0 || open_gateway(&c, url, &err) < 0)
        return cli_fail(&err);
    c.messages = json_array();
    if (c.system)
        json_array_append_new(c.messages, json_pack("{s:s, s:s}", "role", "system", "content", c.system));
    sbuf_init(&c.answer, ANSWER_MAX);
    sbuf_init(&c.error_body, ANSWER_MAX);
    rc = prompt ? ask(&c, prompt) : converse(&c);
    if (rc == 0 && prompt)
        print_speed(&c);
    json_decref(c.messages);
    sbuf_deinit(&c.answer);
    sbuf_deinit(&c.error_body);
    http_pool_free(c.pool);
    loop_free(c.loop);
    return rc;
}
