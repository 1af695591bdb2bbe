/* The member that keeps nothing: for tests, and the model that others are compared with. Commits happen from a timer, so that its callers see the same order of
 * things as with a disk. */
#include "base/mem.h"
#include "store/internal.h"

struct memory {
    struct store *store;
    struct store_pending_list queue;
    struct timer commit;
};

static void on_commit(struct timer *t)
{
    struct memory *m = t->arg;
    struct store_pending_list list = STAILQ_HEAD_INITIALIZER(list);
    STAILQ_CONCAT(&list, &m->queue);
    store_committed(m->store, &list);
}

static void memory_submit(struct store *s, struct store_pending *p)
{
    struct memory *m = s->member_state;
    STAILQ_INSERT_TAIL(&m->queue, p, link);
    if (!timer_armed(&m->commit))
        timer_start(&m->commit, 0);
}

static void memory_close(struct store *s)
{
    struct memory *m = s->member_state;
    if (timer_armed(&m->commit)) {
        timer_stop(&m->commit);
        on_commit(&m->commit);
    }
    mem_free(m);
}

static const struct store_member memory_member = {.submit = memory_submit, .close = memory_close};

int store_open_memory(struct loop *l, const struct store_options *o, struct store **ret, struct err *err UNUSED)
{
    struct memory *m = XNEW(struct memory);
    STAILQ_INIT(&m->queue);
    timer_init(&m->commit, l, on_commit, m);
    m->store = store_new(l, o, &memory_member, m);
    *ret = m->store;
    return 0;
}
