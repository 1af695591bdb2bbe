/* seki adopt: puts servers that run already behind the gateway, as they are. It asks them which models they serve, makes a ModelEndpoint of each, a Secret of their key and an API key, waits
 * until the endpoints are ready, and says what clients change. What is there already as it should be is left alone, so it may be run again.
 */
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "client/fetch.h"
#include "cmd/cli.h"
#include "crypto/hash.h"
#include "kinds/borrowed.h"
#include "kinds/inference.h"

#define ASK_MS 10000
#define READY_MS 60000
#define HOPELESS_MS 3000
#define LISTED_MS 20000 /* until the gateway knows the key and the models */
#define LOOK_EVERY_US 200000
#define KEY_FILE_MAX (16 * 1024)
#define URLS_MAX 64

struct adoption {
    struct cli *cli;
    const char *urls[URLS_MAX];
    size_t url_count;
    const char *driver;     /* NULL: as the servers say who they are */
    char *server_key;       /* or NULL */
    const char *secret;     /* name of its Secret, or NULL */
    json_t *wanted;         /* names; empty: all */
    json_t *embeddings;     /* names of those */
    json_t *models;         /* name → {"urls": […], "driver": …} */
    const char *key;        /* that was made, or NULL */
};

/* ---- what the servers say ---- */

/* "http://host:8000/v1/" → address and path of the list of models. */
static const char *models_path(struct cli *c, const char *url, const char **ret_address)
{
    const char *host = strstr(url, "://") + 3, *slash = strchr(host, '/');
    *ret_address = slash ? arena_strndup(c->arena, str_n(url, (size_t)(slash - url))) : url;
    return arena_printf(c->arena, "%s/models", slash ? slash : "/v1");
}

/* The base URL as ModelEndpoints have it. NULL: none. */
static const char *base_url(struct cli *c, const char *text)
{
    struct str u = str_of(text);
    if (strncmp(text, "http://", 7) && strncmp(text, "https://", 8))
        return NULL;
    while (u.len && u.ptr[u.len - 1] == '/')
        u.len--;
    const char *url = arena_strndup(c->arena, u), *host = strstr(url, "://");
    if (!host || !host[3] || host[3] == '/')
        return NULL;
    return strchr(host + 3, '/') ? url : arena_printf(c->arena, "%s/v1", url);
}

static bool is_in(const json_t *names, const char *name)
{
    size_t i;
    json_t *n;
    json_array_foreach (names, i, n)
        if (!strcmp(json_string_value(n), name))
            return true;
    return false;
}

static void note_model(struct adoption *a, const char *url, const json_t *model)
{
    const char *name = json_str(model, "id"), *owner = json_str_or(model, "owned_by", "");
    if (!name || !*name || (json_array_size(a->wanted) && !is_in(a->wanted, name)))
        return;
    json_t *m = json_object_get(a->models, name);
    if (!m) {
        const char *driver = a->driver ? a->driver : !strcmp(owner, "vllm") || !strcmp(owner, "sglang") ? owner : "openai";
        m = json_pack("{s:[], s:s}", "urls", "driver", driver);
        json_object_set_new(a->models, name, m);
    }
    json_array_append_new(json_object_get(m, "urls"), json_string(url));
}

static int ask_server(struct adoption *a, const char *url)
{
    struct cli *c = a->cli;
    struct err err = ERR_INIT;
    CLEANUP(mem_freep) char *body = NULL;
    JSON_AUTO doc = NULL;
    const char *address;
    size_t len = 0, i;
    int status = 0;
    json_t *model;
    const char *path = models_path(c, url, &address);
    const struct fetch_options o = {.address = address, .path = path, .bearer = a->server_key, .timeout_ms = ASK_MS};
    if (fetch(&o, &status, &body, &len, &err) < 0) {
        fprintf(stderr, "seki: %s%s: %s\n", address, path, cli_plain(c->arena, err.msg));
        return 1;
    }
    if (status == 401 || status == 403) {
        fprintf(stderr, "seki: %s%s: the server refuses %s (it answers %d); give its key with --server-key-file\n", address, path, a->server_key ? "this key" : "us without a key", status);
        return 1;
    }
    if (status != 200 || json_parse(str_n(body, len), len + 1, &doc, NULL) < 0 || !json_is_array(json_object_get(doc, "data"))) {
        fprintf(stderr, "seki: %s%s: expected a list of models in OpenAI's shape (it answers %d); is this the base URL, as clients have it?\n", address, path, status);
        return 1;
    }
    json_array_foreach (json_object_get(doc, "data"), i, model)
        note_model(a, url, model);
    return 0;
}

/* Every model that was asked for is there. */
static int check_models(const struct adoption *a)
{
    size_t i;
    json_t *name;
    json_array_foreach (a->wanted, i, name)
        if (!json_object_get(a->models, json_string_value(name))) {
            fprintf(stderr, "seki: no server has a model %s\n", cli_plain(a->cli->arena, json_string_value(name)));
            return 1;
        }
    json_array_foreach (a->embeddings, i, name)
        if (!json_object_get(a->models, json_string_value(name))) {
            fprintf(stderr, "seki: no server has a model %s, which --embeddings names\n", cli_plain(a->cli->arena, json_string_value(name)));
            return 1;
        }
    if (json_object_size(a->models))
        return 0;
    fputs("seki: the servers list no models\n", stderr);
    return 1;
}

/* ---- what is made of it ---- */

/* An object's name: "meta-llama/Llama-3.1-8B" → "meta-llama-llama-3.1-8b". */
static const char *object_name(struct cli *c, const char *model)
{
    char *name = arena_strdup(c->arena, model);
    size_t n = 0;
    for (const char *p = model; *p && n < 200; p++) {
        bool letter = (*p >= 'a' && *p <= 'z') || (*p >= '0' && *p <= '9'), upper = *p >= 'A' && *p <= 'Z';
        char one = letter ? *p : upper ? (char)(*p + ('a' - 'A')) : *p == '.' ? '.' : '-';
        bool word = letter || upper;
        if (word || (n && name[n - 1] != '-' && name[n - 1] != '.'))
            name[n++] = one;
    }
    while (n && (name[n - 1] == '-' || name[n - 1] == '.'))
        n--;
    name[n] = 0;
    return n ? name : "model";
}

static json_t *endpoint_spec(const struct adoption *a, const char *model, json_t *m)
{
    json_t *urls = json_object_get(m, "urls"), *url;
    json_t *engine = json_pack("{s:O}", "driver", json_object_get(m, "driver")), *spec = json_pack("{s:s, s:o}", "servedName", model, "engine", engine);
    size_t i;
    if (is_in(a->embeddings, model))
        json_object_set_new(engine, "embeddings", json_true());
    if (a->secret)
        json_object_set_new(engine, "secret", json_string(a->secret));
    if (json_array_size(urls) == 1) {
        json_object_set(engine, "url", json_array_get(urls, 0));
        return spec;
    }
    json_t *servers = json_array();
    json_array_foreach (urls, i, url)
        json_array_append_new(servers, json_pack("{s:O}", "url", url));
    json_object_set_new(spec, "servers", servers);
    json_object_set_new(spec, "replicas", json_integer((json_int_t)json_array_size(urls)));
    return spec;
}

/* Every member that is wanted is there with the same value; defaults may be there besides. */
static bool has_all(json_t *have, json_t *want)
{
    const char *key;
    json_t *v;
    size_t i;
    if (json_is_array(want)) {
        json_array_foreach (want, i, v)
            if (!has_all(json_array_get(have, i), v))
                return false;
        return json_array_size(have) == json_array_size(want);
    }
    if (!json_is_object(want))
        return json_equal(have, want);
    json_object_foreach (want, key, v)
        if (!has_all(json_object_get(have, key), v))
            return false;
    return true;
}

/* 0 made, 1 was there, negative: printed. */
static int make_object(const struct adoption *a, const struct kind *k, const char *name, const char *member, json_t *content)
{
    struct cli *c = a->cli;
    struct client_resource r = kind_resource(k);
    struct err err = ERR_INIT;
    JSON_AUTO obj = obj_new(k, c->ns, name);
    JSON_AUTO old = NULL;
    json_object_set(obj, member, content);
    int rc = client_create(c->client, &r, c->ns, obj, NULL, &err);
    if (rc == 0)
        return 0;
    if (rc == ERR_NOT_FOUND && cli_check_project(c))
        return -1;
    if (rc != ERR_EXISTS || (rc = client_get(c->client, &r, c->ns, name, &old, &err)) < 0) {
        cli_fail(&err);
        return -1;
    }
    if (has_all(json_object_get(old, member), content))
        return 1;
    fprintf(stderr, "seki: project %s has a %s %s already, which is something else; rename or delete it, or choose another project with -n\n", c->ns, k->name, name);
    return -1;
}

static int make_secret(struct adoption *a)
{
    CLEANUP(sbuf_deinit) struct sbuf text = {0};
    if (!a->server_key)
        return 0;
    const char *host = strstr(a->urls[0], "://") + 3;
    a->secret = arena_printf(a->cli->arena, "adopted-%s", object_name(a->cli, arena_strndup(a->cli->arena, str_n(host, strcspn(host, "/")))));
    sbuf_init(&text, 2 * KEY_FILE_MAX);
    base64_encode(str_of(a->server_key), &text);
    JSON_AUTO data = json_pack("{s:s%}", "apiKey", text.ptr, text.len);
    int rc = make_object(a, &kind_secret, a->secret, "data", data);
    mem_wipe(text.ptr, text.len);
    return rc < 0 ? 1 : 0;
}

static int make_endpoints(const struct adoption *a)
{
    const char *model;
    json_t *m;
    json_object_foreach (a->models, model, m) {
        JSON_AUTO spec = endpoint_spec(a, model, m);
        const char *name = object_name(a->cli, model);
        int rc = make_object(a, &kind_model_endpoint, name, "spec", spec);
        if (rc < 0)
            return 1;
        json_object_set_new(m, "name", json_string(name));
        fprintf(stderr, "modelendpoint %s %s: model %s, driver %s, %zu server%s\n", name, rc ? "is there" : "is made", cli_plain(a->cli->arena, model), json_str_or(m, "driver", ""),
                json_array_size(json_object_get(m, "urls")), json_array_size(json_object_get(m, "urls")) == 1 ? "" : "s");
    }
    return 0;
}

/* Waits, tells what is awaited, and says of each that does not come why. What only another configuration mends is not awaited, but for a moment: it may be from before. */
static int wait_for_endpoints(const struct adoption *a, uint64_t timeout_ms)
{
    struct client_resource r = kind_resource(&kind_model_endpoint);
    uint64_t until_ms = clock_mono_ms() + timeout_ms;
    const char *model;
    json_t *m;
    int failed = 0;
    json_object_foreach (a->models, model, m) {
        const char *name = json_str_or(m, "name", ""), *why = "nobody has looked at it yet";
        uint64_t hopeless_ms = 0;
        for (;;) {
            struct err err = ERR_INIT;
            JSON_AUTO obj = NULL;
            if (client_get(a->cli->client, &r, a->cli->ns, name, &obj, &err) < 0)
                return cli_fail(&err);
            const char *ready = obj_condition(obj, "Ready");
            if (ready && !strcmp(ready, "True"))
                break;
            uint64_t now_ms = clock_mono_ms();
            const char *said = ready ? arena_printf(a->cli->arena, "%s: %s", obj_condition_reason(obj, "Ready"), obj_condition_message(obj, "Ready")) : why;
            if (strcmp(said, why) != 0) {
                why = said;
                fprintf(stderr, "    %s: %s\n", name, cli_plain(a->cli->arena, why));
            }
            bool hopeless = ready && !strcmp(obj_condition_reason(obj, "Ready"), "EngineInvalid");
            hopeless_ms = !hopeless ? 0 : hopeless_ms ? hopeless_ms : now_ms;
            if (now_ms > until_ms || (hopeless && now_ms - hopeless_ms > HOPELESS_MS)) {
                fprintf(stderr, "seki: modelendpoint %s does not serve: %s\n", name, cli_plain(a->cli->arena, why));
                failed = 1;
                break;
            }
            usleep(LOOK_EVERY_US);
        }
    }
    return failed;
}

static int make_key(struct adoption *a, const char *name)
{
    struct cli *c = a->cli;
    struct client_resource r = kind_resource(&kind_api_key);
    struct err err = ERR_INIT;
    JSON_AUTO obj = obj_new(&kind_api_key, c->ns, name);
    JSON_AUTO ret = NULL;
    int rc = client_create(c->client, &r, c->ns, obj, &ret, &err);
    if (rc == ERR_EXISTS) {
        fprintf(stderr, "apikey %s is there; it was shown when it was made\n", name);
        return 0;
    }
    if (rc < 0)
        return cli_fail(&err);
    a->key = arena_strdup(c->arena, json_str_or(ret, "status.key", ""));
    return 0;
}

/* ---- does it work ---- */

static bool lists_all(const struct adoption *a, const char *body, size_t len)
{
    JSON_AUTO doc = NULL;
    size_t i, found = 0;
    json_t *m;
    if (json_parse(str_n(body, len), len + 1, &doc, NULL) < 0)
        return false;
    json_array_foreach (json_object_get(doc, "data"), i, m)
        found += json_object_get(a->models, json_str_or(m, "id", "")) != NULL;
    return found == json_object_size(a->models);
}

static int check_gateway(const struct adoption *a, const char *url)
{
    const char *address, *path = models_path(a->cli, url, &address);
    uint64_t until_ms = clock_mono_ms() + LISTED_MS;
    struct err err = ERR_INIT;
    for (;;) {
        CLEANUP(mem_freep) char *body = NULL;
        size_t len = 0;
        int status = 0;
        const struct fetch_options o = {.address = address, .path = path, .bearer = a->key, .timeout_ms = ASK_MS};
        int rc = fetch(&o, &status, &body, &len, &err);
        if (rc == 0 && status == 200 && lists_all(a, body, len)) {
            fprintf(stderr, "the gateway lists %zu adopted model%s\n", json_object_size(a->models), json_object_size(a->models) == 1 ? "" : "s");
            return 0;
        }
        if (clock_mono_ms() > until_ms) {
            fprintf(stderr, "seki: %s%s does not list them (%s); is this the gateway's URL?\n", address, path, rc < 0 ? err.msg : arena_printf(a->cli->arena, "it answers %d", status));
            return 1;
        }
        usleep(LOOK_EVERY_US);
    }
}

static void tell(const struct adoption *a, const char *url)
{
    const char *model = json_object_iter_key(json_object_iter(a->models));
    if (a->cli->json) {
        JSON_AUTO out = json_pack("{s:s, s:o?, s:O}", "baseURL", url ? url : "", "key", a->key ? json_string(a->key) : NULL, "models", a->models);
        cli_print_json(out);
        return;
    }
    printf("export OPENAI_BASE_URL=%s\n", url ? url : "http://127.0.0.1:8000/v1 # the gateway's, as your clients see it");
    if (a->key)
        printf("export OPENAI_API_KEY=%s # shown this once\n", a->key);
    printf("# try it: seki chat --model %s hello\n", cli_shell_word(a->cli->arena, model));
}

/* ---- the verb ---- */

static int read_server_key(struct adoption *a, const char *file)
{
    struct err err = ERR_INIT;
    char *text = NULL;
    size_t len = 0;
    if (!file)
        return 0;
    if (file_read(file, KEY_FILE_MAX, &text, &len, &err) < 0)
        return cli_fail(&err);
    struct str key = str_trim(str_n(text, len));
    a->server_key = arena_strndup(a->cli->arena, key);
    mem_wipe(text, len);
    mem_free(text);
    return key.len ? 0 : cli_usage_error("--server-key-file=%s: it is empty", file);
}

static int take_words(struct adoption *a)
{
    const char *word;
    while ((word = cli_word(a->cli))) {
        if (a->url_count == URLS_MAX)
            return cli_usage_error("at most %d servers", URLS_MAX);
        if (!(a->urls[a->url_count++] = base_url(a->cli, word)))
            return cli_usage_error("%s: expected the base URL of a server, such as http://10.0.0.5:8000/v1", word);
    }
    return a->url_count ? 0 : cli_usage_error("expected the base URL of a server, such as http://10.0.0.5:8000/v1");
}

static int adopt(struct adoption *a, const char *key, const char *gateway, uint64_t timeout_ms)
{
    for (size_t i = 0; i < a->url_count; i++)
        if (ask_server(a, a->urls[i]))
            return 1;
    if (check_models(a) || cli_connect(a->cli) || make_secret(a) || make_endpoints(a))
        return 1;
    int rc = wait_for_endpoints(a, timeout_ms);
    if (rc || make_key(a, key))
        return 1;
    if (gateway && a->key)
        rc = check_gateway(a, gateway);
    tell(a, gateway);
    return rc;
}

int cli_adopt(struct cli *c)
{
    struct adoption a = {.cli = c, .wanted = json_array(), .embeddings = json_array(), .models = json_object()};
    const char *key = cli_flag(c, "--key"), *gateway = cli_flag(c, "--base-url"), *file = cli_flag(c, "--server-key-file"), *timeout = cli_flag(c, "--timeout"), *name;
    int64_t timeout_ms = READY_MS;
    a.driver = cli_flag(c, "--driver");
    while ((name = cli_flag(c, "--model")))
        json_array_append_new(a.wanted, json_string(name));
    while ((name = cli_flag(c, "--embeddings")))
        json_array_append_new(a.embeddings, json_string(name));
    if (!gateway)
        gateway = getenv("OPENAI_BASE_URL");
    int rc = 0;
    if (a.driver && strcmp(a.driver, "openai") && strcmp(a.driver, "vllm") && strcmp(a.driver, "sglang"))
        rc = cli_usage_error("--driver=%s: expected openai, vllm or sglang", a.driver);
    else if (timeout && clock_parse_duration(str_of(timeout), &timeout_ms) < 0)
        rc = cli_usage_error("--timeout=%s: expected a duration such as 5m", timeout);
    else if (gateway && *gateway && !(gateway = base_url(c, gateway)))
        rc = cli_usage_error("--base-url: expected the gateway's URL, such as http://127.0.0.1:8000/v1");
    else
        rc = take_words(&a);
    if (!rc)
        rc = read_server_key(&a, file);
    if (!rc)
        rc = adopt(&a, key ? key : "adopted", gateway && *gateway ? gateway : NULL, (uint64_t)timeout_ms);
    if (a.server_key)
        mem_wipe(a.server_key, strlen(a.server_key));
    json_decref(a.wanted);
    json_decref(a.embeddings);
    json_decref(a.models);
    return rc;
}
