/* What the tests of the store share: a loop, a temporary directory, and writes that are waited for. */
#ifndef SEKI_TESTS_UNIT_STORE_ENV_H
#define SEKI_TESTS_UNIT_STORE_ENV_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/file.h"
#include "loop/loop.h"
#include "store/store.h"
#include "unit.h"

#define WAIT_MS 20000

struct store_env {
    struct loop *loop;
    struct store *store;
    struct store_options options;
    int (*open)(struct loop *l, const struct store_options *o, struct store **ret, struct err *err);
    char dir[64];
    char path[96];
};

/* The kernel's clock, whatever the test has set ours to. */
static inline uint64_t real_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

#define RUN_UNTIL(l, condition)                                                                    \
    do {                                                                                           \
        uint64_t end_ = real_ms() + WAIT_MS;                                                       \
        while (!(condition)) {                                                                     \
            if (real_ms() > end_)                                                                  \
                fail_msg("not within %d ms: %s", WAIT_MS, #condition);                             \
            loop_run_once((l), 20);                                                                \
        }                                                                                          \
    } while (0)

static inline void env_init(struct store_env *e)
{
    struct err err = ERR_INIT;
    memset(e, 0, sizeof(*e));
    ASSERT_OK(loop_new(&e->loop, &err));
    snprintf(e->dir, sizeof(e->dir), "/tmp/seki-store-XXXXXX");
    assert_non_null(mkdtemp(e->dir));
    snprintf(e->path, sizeof(e->path), "%s/seki.db", e->dir);
    e->options = (struct store_options){.path = e->path};
}

static inline void env_open(struct store_env *e)
{
    struct err err = ERR_INIT;
    ASSERT_OK(e->open(e->loop, &e->options, &e->store, &err));
}

static inline void env_close(struct store_env *e)
{
    if (e->store)
        store_close(e->store);
    e->store = NULL;
}

static inline void env_deinit(struct store_env *e)
{
    env_close(e);
    loop_free(e->loop);
    (void)!file_remove_tree(e->dir, NULL);
}

struct ack {
    bool done;
    int code;
    int64_t rev;
};

static inline void on_ack(void *arg, int code, int64_t rev)
{
    struct ack *a = arg;
    assert_false(a->done);
    *a = (struct ack){true, code, rev};
}

static inline struct store_op op_put(const char *key, const char *value, int64_t expect)
{
    return (struct store_op){STORE_PUT, str_of(key), str_of(value), expect};
}
static inline struct store_op op_delete(const char *key, int64_t expect)
{
    return (struct store_op){STORE_DELETE, str_of(key), STR_NULL, expect};
}

/* Writes and waits; the revision, or the code of the refusal. */
static inline int64_t env_txn(struct store_env *e, const struct store_op *ops, size_t count)
{
    struct ack a = {0};
    int rc = store_txn(e->store, ops, count, on_ack, &a, NULL);
    if (rc < 0)
        return rc;
    RUN_UNTIL(e->loop, a.done);
    return a.code ? a.code : a.rev;
}
static inline int64_t env_put(struct store_env *e, const char *key, const char *value, int64_t expect)
{
    struct store_op op = op_put(key, value, expect);
    return env_txn(e, &op, 1);
}
static inline int64_t env_delete(struct store_env *e, const char *key, int64_t expect)
{
    struct store_op op = op_delete(key, expect);
    return env_txn(e, &op, 1);
}

static inline void assert_value(const struct store_value *v, const char *want)
{
    if (!want) {
        assert_null(v);
        return;
    }
    assert_non_null(v);
    if (!str_eqc(v->value, want))
        fail_msg("\"%.*s\" instead of \"%s\"", STR_ARG(v->value), want);
}

#endif
