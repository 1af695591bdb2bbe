/* A client whose other side is a function of the test: no server, no thread, no clock of its own. */
#ifndef SEKI_TESTS_UNIT_FAKE_API_H
#define SEKI_TESTS_UNIT_FAKE_API_H

#include "unit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "client/client.h"

struct fake_api {
    void *arg;
    int (*roundtrip)(struct fake_api *f, const struct client_call *k, struct client_answer *ret, struct err *err);
    int (*stream)(struct fake_api *f, const struct client_call *k, bool (*on_line)(void *arg, json_t *line), void *line_arg, struct client_answer *ret, struct err *err);
};

static inline int fake_api_roundtrip(void *t, const struct client_call *k, struct client_answer *ret, struct err *err)
{
    struct fake_api *f = t;
    return f->roundtrip(f, k, ret, err);
}

static inline int fake_api_stream(void *t, const struct client_call *k, bool (*on_line)(void *arg, json_t *line), void *arg, struct client_answer *ret, struct err *err)
{
    struct fake_api *f = t;
    return f->stream(f, k, on_line, arg, ret, err);
}

static inline void fake_api_free(void *t)
{
    (void)t;
}

static inline struct client *fake_api_client(struct fake_api *f)
{
    static const struct client_transport ops = {"fake", fake_api_roundtrip, fake_api_stream, fake_api_free};
    return client_new(&ops, f);
}

static inline int fake_api_status(struct client_answer *ret, int status, const char *reason)
{
    *ret = (struct client_answer){.status = status, .body = json_pack("{s:s, s:s}", "reason", reason, "message", reason)};
    return 0;
}

#endif
