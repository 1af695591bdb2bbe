/* vLLM: `vllm serve` on this machine, on a unix socket, or a server elsewhere when spec.engine.url is given.
 *
 * Unproven: written from vLLM's published documentation (0.10 and later), and run against neither a GPU nor a server of theirs, but as a server elsewhere against a simulator (tests/gateway/test_vllm.py). Command lines are tested as text.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "client/fetch.h"
#include "engine/internal.h"

#define METRICS_MAX (1024 * 1024)

/* spec.engine.options that go on to the command line. Not all of vLLM's: some of them load code, or files of the host. */
static const struct {
    const char *option, *flag;
} passed_on[] = {{"dtype", "--dtype"},
                 {"gpuMemoryUtilization", "--gpu-memory-utilization"},
                 {"kvCacheDtype", "--kv-cache-dtype"},
                 {"maxNumBatchedTokens", "--max-num-batched-tokens"},
                 {"pipelineParallelSize", "--pipeline-parallel-size"},
                 {"quantization", "--quantization"},
                 {"reasoningParser", "--reasoning-parser"},
                 {"tensorParallelSize", "--tensor-parallel-size"},
                 {"toolCallParser", "--tool-call-parser"}};

/* A word or a number, and no flag. */
static bool is_simple(const char *value)
{
    return *value && *value != '-' && strspn(value, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == strlen(value);
}

static int add_options(struct argv *v, const struct field_map *options, struct err *err)
{
    for (size_t i = 0; i < options->count; i++) {
        const char *flag = NULL;
        for (size_t n = 0; n < ARRAY_LEN(passed_on); n++)
            if (!strcmp(passed_on[n].option, options->keys[i]))
                flag = passed_on[n].flag;
        if (!flag)
            return err_field(err, ERR_INVALID, "spec.engine.options", "spec.engine.options: driver vllm knows no \"%s\"; expected one of dtype, gpuMemoryUtilization, kvCacheDtype, maxNumBatchedTokens, "
                             "pipelineParallelSize, quantization, reasoningParser, tensorParallelSize, toolCallParser", options->keys[i]);
        if (!is_simple(options->values[i]))
            return err_field(err, ERR_INVALID, "spec.engine.options", "spec.engine.options: %s: expected a word or a number", options->keys[i]);
        argv_add(v, flag);
        argv_add(v, options->values[i]);
        if (!strcmp(flag, "--tool-call-parser"))
            argv_add(v, "--enable-auto-tool-choice");
    }
    return 0;
}

/* A GGUF file is served as a file, anything else as the directory that it lies in. */
static const char *what_to_serve(const char *model_file, struct arena *a)
{
    const char *slash = strrchr(model_file, '/');
    if (str_ends(str_of(model_file), STR(".gguf")) || !slash)
        return model_file;
    return arena_strndup(a, str_n(model_file, (size_t)(slash - model_file)));
}

static void add_task(struct argv *v, enum engine_task task)
{
    if (task == TASK_TEXT)
        return;
    argv_add(v, "--runner");
    argv_add(v, "pooling");
    argv_add(v, "--convert");
    argv_add(v, task == TASK_EMBEDDINGS ? "embed" : "classify");
}

static void add_adapters(struct argv *v, const struct model_replica *mr, struct arena *a)
{
    const struct field_list *l = &mr->spec.adapters;
    if (!l->count)
        return;
    argv_add(v, "--enable-lora");
    argv_add(v, "--max-loras");
    argv_addf(v, "%zu", l->count);
    argv_add(v, "--lora-modules");
    for (size_t i = 0; i < l->count; i++)
        argv_addf(v, "%s=%s", ((const struct model_adapter *)l->items)[i].name, what_to_serve(mr->spec.adapter_files[i], a));
}

static int plan_here(const struct engine_paths *p, const struct model_replica *mr, const char *model_file, struct arena *a, struct engine_plan *ret, struct err *err)
{
    /* Nothing is fetched, nothing is reported, and errors are all that is logged: more would show prompts. */
    static const char *env[] = {"PATH=/usr/local/bin:/usr/bin:/bin", "LC_ALL=C.UTF-8", "PYTHONUNBUFFERED=1", "HF_HUB_OFFLINE=1", "TRANSFORMERS_OFFLINE=1", "VLLM_NO_USAGE_STATS=1",
                                "DO_NOT_TRACK=1", "VLLM_LOGGING_LEVEL=ERROR", NULL};
    const struct engine_spec *e = &mr->spec.engine;
    struct argv v;
    if (!model_file)
        return err_set(err, ERR_INVALID, "driver vllm runs a Model, or is given the server's spec.engine.url");
    const char *program = p->vllm ? p->vllm : engine_on_path("vllm", a);
    if (!program || access(program, X_OK) != 0)
        return err_set(err, ERR_UNAVAILABLE, "vLLM is missing from this machine: put vllm on PATH, or give --engine-vllm=PROGRAM");
    argv_init(&v, a);
    argv_add(&v, program);
    argv_add(&v, "serve");
    argv_add(&v, what_to_serve(model_file, a));
    argv_add(&v, "--uds");
    argv_add(&v, ret->address + strlen("unix:"));
    argv_add(&v, "--served-model-name");
    argv_add(&v, mr->spec.served_name);
    argv_add(&v, "--max-model-len");
    argv_addf(&v, "%lld", (long long)e->context_length);
    argv_add(&v, "--max-num-seqs");
    argv_addf(&v, "%lld", (long long)e->parallel);
    argv_add(&v, "--disable-uvicorn-access-log");
    add_task(&v, engine_task_of(e));
    add_adapters(&v, mr, a);
    int rc = add_options(&v, &e->options, err);
    if (rc < 0)
        return rc;
    ret->argv = v.items;
    ret->env = env;
    return 0;
}

static int plan(const struct engine_paths *p, const struct model_replica *mr, const char *replica_uid, const char *model_file, struct arena *a, struct engine_plan *ret,
                struct err *err)
{
    struct engine_plan made = {.remote = p->remote};
    int rc = engine_where(p, mr, replica_uid, a, &made, err);
    if (rc == 0 && !engine_is_remote(&mr->spec.engine))
        rc = plan_here(p, mr, model_file, a, &made, err);
    if (rc == 0)
        *ret = made;
    return rc;
}

int engine_probe_served(const struct engine_plan *plan, const struct engine_metric_names *names, uint64_t timeout_ms, struct engine_health *ret, struct err *err)
{
    CLEANUP(mem_freep) char *body = NULL;
    size_t len = 0;
    int status = 0;
    double prompt, written;
    int rc = engine_openai.probe(plan, timeout_ms, ret, err);
    if (rc < 0)
        return rc;
    /* Metrics are beside the API: there is one root, whatever its prefix. */
    const struct fetch_options o = {.address = plan->address, .path = "/metrics", .bearer = plan->token, .timeout_ms = timeout_ms, .max_body_bytes = METRICS_MAX,
                                    .guarded = !plan->argv, .reach = plan->remote};
    if (fetch(&o, &status, &body, &len, NULL) < 0 || status != 200)
        return 0;
    struct str text = str_n(body, len);
    engine_read_load(text, names, ret);
    if (engine_metric_sum(text, names->read, &prompt) && engine_metric_sum(text, names->written_tokens, &written)) {
        ret->tokens_read = (int64_t)prompt;
        ret->tokens_written = (int64_t)written;
    }
    if (engine_metric_sum(text, names->prompt_tokens, &prompt) && engine_metric_sum(text, names->written_tokens, &written))
        ret->tokens_total = (int64_t)prompt + (int64_t)written;
    return 0;
}

static int probe(const struct engine_plan *plan, uint64_t timeout_ms, struct engine_health *ret, struct err *err)
{
    /* Of the steps, each of which works on a part of a long prompt, vLLM tells the tokens as the sum of a histogram. */
    static const struct engine_metric_names names = {"vllm:num_requests_running", "vllm:iteration_tokens_total_sum", "vllm:generation_tokens_total",
                                                      "vllm:prompt_tokens_total", "vllm:num_requests_waiting", {"vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"}};
    return engine_probe_served(plan, &names, timeout_ms, ret, err);
}

static int poke(const struct engine_plan *plan, enum engine_task task, uint64_t timeout_ms, struct engine_tokens *ret, struct err *err)
{
    *ret = (struct engine_tokens){0};
    return plan->argv ? engine_poke_openai(plan, task, timeout_ms, ret, err) : 0; /* nobody makes others pay for our doubts */
}

static const struct engine_tokenizer tokenizer = {ENGINE_TOKENIZER_OPENAI, .takes_chats = true};

const struct engine_ops engine_vllm = {
    .name = "vllm", .tokenizer = &tokenizer, .remote_by_url = true, .counts_cached = true, .salt_member = "cache_salt", .can_continue = true,
    .continue_members = "\"continue_final_message\":true,\"add_generation_prompt\":false,", .plan = plan, .probe = probe, .poke = poke,
};
