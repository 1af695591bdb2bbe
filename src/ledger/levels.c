#include "ledger/levels.h"

#define WHOLE 1000000

const char *level_name(enum level_kind k)
{
    static const char *const names[] = {[LEVEL_AVAILABILITY] = "availability", [LEVEL_TTFT] = "ttft"};
    return names[k];
}

void levels_encode(const struct levels *l, struct sbuf *out)
{
    if (!l->project.len)
        return;
    sbuf_addc(out, ",\"slo\":{\"project\":");
    sbuf_add_json(out, l->project);
    for (int k = 0; k < LEVEL_KINDS; k++)
        if (l->of[k].target)
            sbuf_addf(out, ",\"%s\":{\"target\":%lld,\"good\":%s}", level_name((enum level_kind)k), (long long)l->of[k].target, l->of[k].good ? "true" : "false");
    sbuf_add_char(out, '}');
}

struct levels levels_decode(const json_t *slo, struct arena *a)
{
    struct levels l = {.project = STR("")};
    const char *project = json_str(slo, "project");
    if (!project)
        return l;
    l.project = arena_str(a, str_of(project));
    for (int k = 0; k < LEVEL_KINDS; k++) {
        const json_t *one = json_object_get(slo, level_name((enum level_kind)k));
        int64_t target = json_int(one, "target", 0);
        if (target > 0 && target < WHOLE)
            l.of[k] = (struct level){.target = target, .good = json_flag(one, "good", false)};
    }
    return l;
}
