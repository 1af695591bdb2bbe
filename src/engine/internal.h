/* Shared by the drivers of servers that speak as llama.cpp's does. */
#ifndef SEKI_ENGINE_INTERNAL_H
#define SEKI_ENGINE_INTERNAL_H

#include "engine/engine.h"

extern const struct engine_ops engine_llamacpp, engine_openai, engine_vllm, engine_sglang, engine_fake;

/* vLLM's question of a text, which SGLang takes too. */
#define ENGINE_TOKENIZER_OPENAI .path = "/tokenize", .named = true, .text = "prompt", .text_members = "\"add_special_tokens\":false,", .count = "count"

/* A uid as the API server makes them: nothing in it leads out of a directory. */
bool engine_is_uid(const char *uid);
/* Address and base path of spec.engine.url; whether we may go there, as far as its text says. */
int engine_remote_url(const struct engine_paths *p, const char *url, struct arena *a, struct engine_plan *ret, struct err *err) NODISCARD;
/* "unix:DIR/UID.sock", short enough for a socket's address. */
int engine_socket(const struct engine_paths *p, const char *replica_uid, struct arena *a, const char **ret, struct err *err) NODISCARD;
/* A program on PATH, or NULL. */
const char *engine_on_path(const char *name, struct arena *a);
/* The list of models, and /metrics by these names. */
struct engine_metric_names {
    const char *running, *prompt_tokens, *written_tokens; /* progress */
    const char *read;                                     /* tokens of prompts, as they are billed */
    const char *waiting, *kv_used[2];                     /* requests; a part of 1, by its name of now and of before */
};
/* Of a server that others may use as well: what waits there and how full it is. */
void engine_read_load(struct str metrics, const struct engine_metric_names *names, struct engine_health *ret);
int engine_probe_served(const struct engine_plan *plan, const struct engine_metric_names *names, uint64_t timeout_ms, struct engine_health *ret, struct err *err) NODISCARD;
/* /health and /metrics. */
int engine_probe_llama(const struct engine_plan *plan, uint64_t timeout_ms, struct engine_health *ret, struct err *err) NODISCARD;
int engine_poke_openai(const struct engine_plan *plan, enum engine_task task, uint64_t timeout_ms, struct engine_tokens *ret, struct err *err) NODISCARD;

struct argv {
    const char **items;
    size_t count;
    struct arena *arena;
};
#define ARGV_MAX 192
void argv_init(struct argv *v, struct arena *a);
void argv_add(struct argv *v, const char *text);
void argv_addf(struct argv *v, const char *fmt, ...) PRINTF(2, 3);

#endif
