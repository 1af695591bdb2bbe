/* llama.cpp: llama-server where it is configured or on PATH, else the wheel xllamacpp through our launcher. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "engine/internal.h"

#define BATCH_TOKENS 512LL

const char *engine_on_path(const char *name, struct arena *a)
{
    struct str rest = str_of(getenv("PATH")), dir;
    while (str_cut(&rest, ':', &dir)) {
        const char *path = arena_printf(a, "%.*s/%s", STR_ARG(dir), name);
        if (dir.len && access(path, X_OK) == 0)
            return path;
    }
    return NULL;
}

static void add_common(struct argv *v, const struct model_replica *mr, const char *model_file, long long ctx_size)
{
    argv_add(v, "--model");
    argv_add(v, model_file);
    argv_add(v, "--ctx-size");
    argv_addf(v, "%lld", ctx_size);
    argv_add(v, "--parallel");
    argv_addf(v, "%lld", (long long)mr->spec.engine.parallel);
    argv_add(v, "--alias");
    argv_add(v, mr->spec.served_name);
    if (mr->spec.engine.threads > 0) {
        argv_add(v, "--threads");
        argv_addf(v, "%lld", (long long)mr->spec.engine.threads);
    }
    if (mr->spec.engine.embeddings)
        argv_add(v, "--embeddings");
    if (mr->spec.engine.rerank)
        argv_add(v, "--reranking");
    /* Their numbers, by which requests name them, are their order. None is in effect without a word. */
    for (size_t i = 0; i < mr->spec.adapters.count; i++) {
        argv_add(v, "--lora");
        argv_add(v, mr->spec.adapter_files[i]);
    }
}

static void plan_server(const char *server, const struct model_replica *mr, const char *model_file, const char *address, struct argv *v)
{
    argv_add(v, server);
    /* llama-server counts the context of all slots together. */
    add_common(v, mr, model_file, (long long)(mr->spec.engine.context_length * mr->spec.engine.parallel));
    argv_add(v, "--host");
    argv_add(v, address + strlen("unix:"));
    argv_add(v, "--metrics");
    argv_add(v, "--no-webui");
    argv_add(v, "--log-verbosity"); /* errors only: more shows prompts */
    argv_add(v, "0");
    if (mr->spec.adapters.count)
        argv_add(v, "--lora-init-without-apply");
    bool whole = engine_task_of(&mr->spec.engine) != TASK_TEXT;
    if (mr->spec.engine.embeddings) {
        argv_add(v, "--pooling");
        argv_add(v, "mean");
    }
    if (whole) {
        argv_add(v, "--ubatch-size");
        argv_addf(v, "%lld", (long long)mr->spec.engine.context_length);
    }
    /* A batch is the step in which progress shows: a long prompt in one step would look like an engine that hangs. What is not written on needs its whole text in one. */
    argv_add(v, "--batch-size");
    argv_addf(v, "%lld", whole ? (long long)mr->spec.engine.context_length : BATCH_TOKENS);
}

static void plan_launcher(const struct engine_paths *p, const char *python, const struct model_replica *mr, const char *model_file, const char *address, struct argv *v)
{
    argv_add(v, python);
    argv_add(v, p->launcher);
    add_common(v, mr, model_file, (long long)mr->spec.engine.context_length);
    argv_add(v, "--listen");
    argv_add(v, address);
}

static int plan(const struct engine_paths *p, const struct model_replica *mr, const char *replica_uid, const char *model_file, struct arena *a, struct engine_plan *ret,
                struct err *err)
{
    /* Prompts are not kept beyond the slot that they are in, and not used again without a word (gateway/slots.h). llama-server reads this from its environment, where an older one
     * that has no such cache does not mind; the launcher sets it itself. */
    static const char *env[] = {"PATH=/usr/local/bin:/usr/bin:/bin", "LC_ALL=C.UTF-8", "PYTHONUNBUFFERED=1", "PYTHONDONTWRITEBYTECODE=1",
                                "LLAMA_ARG_CACHE_RAM=0", "LLAMA_ARG_CACHE_PROMPT=0", NULL};
    struct argv v;
    const char *address, *server = p->llama_server, *python = p->engine_venv ? arena_printf(a, "%s/bin/python", p->engine_venv) : NULL;
    int rc = engine_socket(p, replica_uid, a, &address, err);
    if (rc < 0)
        return rc;
    if (!model_file)
        return err_set(err, ERR_INVALID, "driver llamacpp runs a Model");
    if (server && access(server, X_OK) != 0)
        return err_set(err, ERR_UNAVAILABLE, "the configured llama-server %s is not there or cannot be executed", server);
    if (!server)
        server = engine_on_path("llama-server", a);
    argv_init(&v, a);
    if (server)
        plan_server(server, mr, model_file, address, &v);
    else if (python && access(python, X_OK) == 0 && p->launcher && file_exists(p->launcher))
        plan_launcher(p, python, mr, model_file, address, &v);
    else
        return err_set(err, ERR_UNAVAILABLE, "llama.cpp is missing from this machine: put llama-server on PATH, or install the wheel with scripts/install-engine %s",
                       p->engine_venv ? p->engine_venv : "DIRECTORY and give --engine-venv=DIRECTORY");
    *ret = (struct engine_plan){.argv = v.items, .env = env, .address = address, .base_path = "/v1", .engine_model = mr->spec.served_name};
    return 0;
}

/* A chat becomes a text as it does for an answer, and both are taken apart as there: with what begins a prompt, and with the template's marks as tokens. */
static const struct engine_tokenizer tokenizer = {.path = "/tokenize", .template_path = "/apply-template", .text = "content",
                                                  .prompt_members = "\"add_special\":true,\"parse_special\":true,", .text_members = "\"add_special\":false,"};

const struct engine_ops engine_llamacpp = {
    .name = "llamacpp", .tokenizer = &tokenizer, .has_slots = true, .can_continue = true, .usage_by_answer = true, .plan = plan, .probe = engine_probe_llama, .poke = engine_poke_openai,
};
