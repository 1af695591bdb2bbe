/* The drivers by name, and what they share. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "client/fetch.h"
#include "engine/internal.h"
#include "json/span.h"

#define METRICS_MAX (1024 * 1024)
#define SOCKET_PATH_MAX 107
#define POKE_TOKENS_MAX 1000000
#define METRIC_MAX 1e18 /* a few of them can be added up in an int64_t */

const struct engine_ops *engine_find(const char *driver)
{
    static const struct engine_ops *const all[] = {&engine_llamacpp, &engine_openai, &engine_vllm, &engine_sglang, &engine_fake};
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        if (driver && !strcmp(driver, all[i]->name))
            return all[i];
    return NULL;
}

void argv_init(struct argv *v, struct arena *a)
{
    *v = (struct argv){ARENA_ARRAY(a, const char *, ARGV_MAX + 1), 0, a};
}

void argv_add(struct argv *v, const char *text)
{
    if (v->count < ARGV_MAX)
        v->items[v->count++] = arena_strdup(v->arena, text);
}

void argv_addf(struct argv *v, const char *fmt, ...)
{
    char text[4096];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    argv_add(v, text);
}

int engine_socket(const struct engine_paths *p, const char *replica_uid, struct arena *a, const char **ret, struct err *err)
{
    if (!engine_is_uid(replica_uid))
        return err_field(err, ERR_INVALID, "metadata.uid", "metadata.uid: expected 36 hexadecimal digits and dashes");
    *ret = arena_printf(a, "unix:%s/%.18s.sock", p->socket_dir, replica_uid);
    if (strlen(*ret) - strlen("unix:") > SOCKET_PATH_MAX)
        return err_set(err, ERR_INVALID, "%s is too long for a socket's path (%d bytes); choose a shorter data directory", *ret + strlen("unix:"), SOCKET_PATH_MAX);
    return 0;
}

bool engine_is_remote(const struct engine_spec *e)
{
    const struct engine_ops *ops = engine_find(e->driver);
    return ops && (ops->remote || (ops->remote_by_url && e->url && *e->url));
}

const char *engine_slots_file(const struct engine_paths *p, const char *replica_uid, struct arena *a)
{
    return arena_printf(a, "%s/%.36s.slots", p->socket_dir, replica_uid);
}

int engine_where(const struct engine_paths *p, const struct model_replica *mr, const char *replica_uid, struct arena *a, struct engine_plan *ret, struct err *err)
{
    const struct engine_ops *e = engine_find(mr->spec.engine.driver);
    const char *there = mr->spec.engine.remote_model;
    if (!e)
        return err_field(err, ERR_INVALID, "spec.engine.driver", "there is no such engine driver");
    ret->base_path = "/v1";
    bool remote = engine_is_remote(&mr->spec.engine);
    ret->engine_model = remote && there && *there ? there : mr->spec.served_name;
    return remote ? engine_remote_url(p, mr->spec.engine.url, a, ret, err) : engine_socket(p, replica_uid, a, &ret->address, err);
}

/* ---- Prometheus text ---- */

/* The value of the first series of that name; text goes on behind it. */
static bool next_value(struct str *text, const char *name, double *ret)
{
    size_t len = strlen(name);
    struct str line;
    while (str_cut(text, '\n', &line)) {
        if (!str_starts(line, str_n(name, len)) || line.len == len)
            continue;
        struct str rest = str_skip(line, len);
        char number[64], *end;
        if (rest.ptr[0] == '{') { /* labels: which do not matter here */
            ssize_t close = str_find(rest, '}');
            if (close < 0)
                continue;
            rest = str_skip(rest, (size_t)close + 1);
        }
        if (!rest.len || (rest.ptr[0] != ' ' && rest.ptr[0] != '\t') || !str_to_array(str_trim(rest), number, sizeof(number)))
            continue;
        double v = strtod(number, &end);
        if (end == number || !(v >= 0 && v < METRIC_MAX)) /* NaN and infinity too; what we read never falls below 0 */
            continue;
        *ret = v;
        return true;
    }
    return false;
}

bool engine_metric(struct str text, const char *name, double *ret)
{
    return next_value(&text, name, ret);
}

bool engine_metric_sum(struct str text, const char *name, double *ret)
{
    double sum = 0, v;
    bool any = false;
    while (next_value(&text, name, &v)) {
        sum += v;
        any = true;
    }
    if (!any || sum >= METRIC_MAX)
        return false;
    *ret = sum;
    return true;
}

bool engine_metric_max(struct str text, const char *name, double *ret)
{
    double v;
    bool any = false;
    while (next_value(&text, name, &v)) {
        *ret = any ? MAX(*ret, v) : v;
        any = true;
    }
    return any;
}

void engine_read_load(struct str metrics, const struct engine_metric_names *names, struct engine_health *ret)
{
    double v;
    if (engine_metric_sum(metrics, names->running, &v))
        ret->requests_running = (int64_t)v;
    if (engine_metric_sum(metrics, names->waiting, &v))
        ret->requests_waiting = (int64_t)v;
    for (size_t i = 0; i < ARRAY_LEN(names->kv_used) && ret->kv_used < 0; i++)
        if (names->kv_used[i] && engine_metric_max(metrics, names->kv_used[i], &v) && v <= 1)
            ret->kv_used = (int64_t)(v * 1000 + 0.5);
}

/* ---- probes ---- */

static int get(const struct engine_plan *plan, const char *path, uint64_t timeout_ms, int *ret_status, char **ret_body, size_t *ret_len, struct err *err)
{
    const struct fetch_options o = {.address = plan->address, .path = path, .timeout_ms = timeout_ms, .max_body_bytes = METRICS_MAX};
    return fetch(&o, ret_status, ret_body, ret_len, err);
}

int engine_probe_llama(const struct engine_plan *plan, uint64_t timeout_ms, struct engine_health *ret, struct err *err)
{
    CLEANUP(mem_freep) char *health = NULL;
    CLEANUP(mem_freep) char *metrics = NULL;
    size_t len = 0;
    int status = 0;
    static const struct engine_metric_names names = {.running = "llamacpp:requests_processing", .waiting = "llamacpp:requests_deferred", .kv_used = {"llamacpp:kv_cache_usage_ratio"}};
    double prompt, predicted, decodes = 0;
    *ret = ENGINE_HEALTH_UNKNOWN;
    int rc = get(plan, "/health", timeout_ms, &status, &health, &len, err);
    if (rc < 0)
        return rc;
    if (status == 503)
        return err_set(err, ERR_UNAVAILABLE, "the engine loads the model");
    if (status != 200)
        return err_set(err, ERR_PROTOCOL, "the engine's /health says %d", status);
    ret->serving = true;
    if (get(plan, "/metrics", timeout_ms, &status, &metrics, &len, NULL) < 0 || status != 200)
        return 0; /* health is what counts; progress is then unknown */
    struct str text = str_n(metrics, len);
    engine_read_load(text, &names, ret);
    if (engine_metric(text, "llamacpp:prompt_tokens_total", &prompt) && engine_metric(text, "llamacpp:tokens_predicted_total", &predicted)) {
        ret->tokens_read = (int64_t)prompt;
        ret->tokens_written = (int64_t)predicted;
        /* A prompt's tokens are counted when all of them are done, an embedding's perhaps never; the calls that work on them are counted as they end. */
        (void)engine_metric(text, "llamacpp:n_decode_total", &decodes);
        ret->tokens_total = (int64_t)prompt + (int64_t)predicted + (int64_t)decodes;
    }
    return 0;
}

/* What the answer says. */
static void read_usage(struct str body, struct engine_tokens *ret)
{
    static const char *const paths[] = {"usage.prompt_tokens", "usage.completion_tokens", "usage.prompt_tokens_details.cached_tokens"};
    struct span at[ARRAY_LEN(paths)];
    int64_t n[ARRAY_LEN(paths)] = {0};
    if (span_scan(body, paths, ARRAY_LEN(paths), at, NULL) < 0)
        return;
    for (size_t i = 0; i < ARRAY_LEN(paths); i++)
        if (!span_int(&at[i], &n[i]) || n[i] < 0 || n[i] > POKE_TOKENS_MAX)
            n[i] = 0;
    *ret = (struct engine_tokens){MAX(n[0] - n[2], (int64_t)0), n[1]};
}

int engine_poke_openai(const struct engine_plan *plan, enum engine_task task, uint64_t timeout_ms, struct engine_tokens *ret, struct err *err)
{
    static const struct {
        const char *path, *ask;
    } work[] = {[TASK_TEXT] = {"completions", "\"prompt\":\"a\",\"max_tokens\":1"}, [TASK_EMBEDDINGS] = {"embeddings", "\"input\":\"a\""},
                [TASK_RERANK] = {"rerank", "\"query\":\"a\",\"documents\":[\"a\"]"}};
    CLEANUP(mem_freep) char *body = NULL;
    CLEANUP(sbuf_deinit) struct sbuf question = {0};
    char path[256];
    size_t len = 0;
    int status = 0;
    *ret = (struct engine_tokens){0};
    sbuf_init(&question, 4096);
    sbuf_addc(&question, "{\"model\":");
    sbuf_add_json(&question, str_of(plan->engine_model ? plan->engine_model : ""));
    sbuf_addf(&question, ",%s}", work[task].ask);
    snprintf(path, sizeof(path), "%s/%s", plan->base_path, work[task].path);
    const struct fetch_options o = {.method = "POST", .address = plan->address, .path = path, .body_json = question.ptr, .timeout_ms = timeout_ms, .max_body_bytes = METRICS_MAX};
    int rc = fetch(&o, &status, &body, &len, err);
    if (rc < 0)
        return rc;
    if (status == 200)
        read_usage(str_n(body, len), ret);
    return status == 200 ? 0 : err_set(err, ERR_PROTOCOL, "the engine answers %d to one token's work", status);
}
