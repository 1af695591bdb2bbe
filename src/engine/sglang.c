/* SGLang, as a server elsewhere. It listens on TCP only, where others on the machine would reach it around the gateway: so it is not started here.
 *
 * Unproven: written from SGLang's published documentation. Metrics are there when it was started with --enable-metrics.
 */
#include "engine/internal.h"

static int plan(const struct engine_paths *p, const struct model_replica *mr, const char *replica_uid, const char *model_file UNUSED, struct arena *a, struct engine_plan *ret,
                struct err *err)
{
    struct engine_plan made = {.remote = p->remote};
    int rc = engine_where(p, mr, replica_uid, a, &made, err);
    if (rc == 0)
        *ret = made;
    return rc;
}

static int probe(const struct engine_plan *plan, uint64_t timeout_ms, struct engine_health *ret, struct err *err)
{
    static const struct engine_metric_names names = {"sglang:num_running_reqs", "sglang:prompt_tokens_total", "sglang:generation_tokens_total", "sglang:prompt_tokens_total",
                                                      "sglang:num_queue_reqs", {"sglang:token_usage"}};
    return engine_probe_served(plan, &names, timeout_ms, ret, err);
}

/* It takes texts only: what a chat's template makes of its messages is not to be had. */
static const struct engine_tokenizer tokenizer = {ENGINE_TOKENIZER_OPENAI};

const struct engine_ops engine_sglang = {
    .name = "sglang", .tokenizer = &tokenizer, .remote = true, .counts_cached = true, .salt_member = "cache_salt", .can_continue = true, .continue_members = "\"continue_final_message\":true,", .plan = plan, .probe = probe,
};
