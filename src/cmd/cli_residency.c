#include "client/fetch.h"
#include "base/mem.h"
#include "cmd/cli.h"
#include "json/json.h"
#include "net/http.h"

#include <stdlib.h>

#define ANSWER_MS 15000
#define ANSWER_MAX ((size_t)4 << 20)

/* Asks the gateway; 0, or the exit status with the reason printed. */
static int ask(struct cli *c, const char *base, const char *key, const char *model, json_t **ret)
{
    const char *scheme = strstr(base, "://"), *path = scheme ? strchr(scheme + 3, '/') : NULL;
    CLEANUP(mem_freep) char *body = NULL;
    CLEANUP(sbuf_deinit) struct sbuf where = {0};
    struct err err = ERR_INIT;
    int status = 0;
    size_t len = 0;
    if (!scheme || !path)
        return cli_usage_error("the gateway's URL %s: expected one such as http://127.0.0.1:8000/v1", base);
    struct str prefix = str_of(path);
    while (prefix.len && prefix.ptr[prefix.len - 1] == '/')
        prefix.len--;
    sbuf_init(&where, 16384);
    sbuf_addf(&where, "%.*s/residency/", STR_ARG(prefix));
    http_encode(&where, str_of(model));
    struct fetch_options o = {.address = arena_strndup(c->arena, str_n(base, (size_t)(path - base))), .path = where.ptr, .bearer = key, .ca_file = getenv("SSL_CERT_FILE"), .timeout_ms = ANSWER_MS, .max_body_bytes = ANSWER_MAX};
    if (fetch(&o, &status, &body, &len, &err) < 0)
        return cli_fail(&err);
    if (json_parse(str_n(body, len), ANSWER_MAX, ret, &err) < 0 && status == 200)
        return cli_fail(&err);
    if (status == 200)
        return 0;
    fprintf(stderr, "seki: the gateway answers with status %d: %s\n", status, cli_plain(c->arena, json_str_or(*ret, "error.message", "it does not say why")));
    return 1;
}

static void print_places(struct cli *c, const json_t *answer)
{
    static const char *const heads[] = {"ENDPOINT", "SITE", "LAW", "REPLICAS", "SERVING", "ALLOWED", "RULE", NULL};
    struct cli_table *t = cli_table_new(c->arena, heads);
    size_t i;
    json_t *p;
    json_array_foreach (json_object_get(answer, "places"), i, p)
        cli_table_row(t, (const char *const[]){json_str(p, "endpoint"), json_str_or(p, "site", "unknown"), json_str(p, "jurisdiction"), arena_printf(c->arena, "%lld", (long long)json_int(p, "replicas", 0)),
                                               arena_printf(c->arena, "%lld", (long long)json_int(p, "serving", 0)), json_flag(p, "allowed", false) ? "yes" : "no", json_str(p, "rule")});
    if (cli_table_rows(t))
        cli_table_print(t, c->color);
}

int cli_residency_check(struct cli *c)
{
    const char *base = cli_flag(c, "--base-url"), *model = cli_word(c), *key = getenv("OPENAI_API_KEY");
    JSON_AUTO answer = NULL;
    base = base ? base : getenv("OPENAI_BASE_URL");
    model = model ? model : getenv("SEKI_MODEL");
    if (cli_no_more(c))
        return 2;
    if (!base || !*base || !key || !*key || !model || !*model)
        return cli_usage_error("OPENAI_BASE_URL (or --base-url), OPENAI_API_KEY and a MODEL (or SEKI_MODEL) are needed: rules may differ by key, so it is the key's requests that are asked about");
    int rc = ask(c, base, key, model, &answer);
    if (rc)
        return rc;
    const char *result = json_str_or(answer, "result", "");
    bool refused = !strcmp(result, "refused");
    if (c->json) {
        cli_print_json(answer);
        return refused;
    }
    print_places(c, answer);
    if (refused)
        fprintf(stderr, "seki: a request of this key to %s is refused, by rule %s\n", cli_plain(c->arena, model), cli_plain(c->arena, json_str_or(answer, "rule", "?")));
    else if (strcmp(result, "served") != 0)
        fprintf(stderr, "seki: %s may be served, and nothing that is allowed serves it now\n", cli_plain(c->arena, model));
    return refused;
}
