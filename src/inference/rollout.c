#include "inference/rollout.h"

#include "base/compiler.h"

static int64_t within(int64_t n, int64_t most)
{
    return MAX(MIN(n, most), (int64_t)0);
}

void rollout_decide(const struct rollout_facts *f, struct rollout_step *ret)
{
    int64_t there = f->old + f->fresh;
    *ret = (struct rollout_step){0};
    if (!f->surge) {
        ret->remove = within(there - f->wanted, f->old);
        ret->change = f->fresh == f->fresh_up && !f->leaving ? within(1, f->old - ret->remove) : 0;
        return;
    }
    /* Too many in any case, when fewer are wanted now; else one for each new one that serves. */
    ret->remove = within(MAX(there - f->wanted - f->surge, f->old + f->fresh_up - f->wanted), f->old);
    ret->make = within(MIN(f->wanted - f->fresh, f->wanted + f->surge - there - f->leaving), f->surge);
}
