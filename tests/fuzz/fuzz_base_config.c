/* The configuration parser, and the number and time parsers beneath it. */
#include "fuzz.h"

#include "base/config.h"

struct options {
    char *name;
    bool on;
    int64_t port, body, idle, role;
};

static const struct conf_option schema[] = {
    {"", "name", CONF_STR, offsetof(struct options, name), "x", 0, 0, NULL, NULL, false, ""},
    {"", "on", CONF_BOOL, offsetof(struct options, on), "true", 0, 0, NULL, NULL, false, ""},
    {"a", "port", CONF_INT, offsetof(struct options, port), "1", 1, 65535, NULL, NULL, false, ""},
    {"a", "body", CONF_SIZE, offsetof(struct options, body), "1K", 0, 0, NULL, NULL, false, ""},
    {"b", "idle", CONF_DURATION, offsetof(struct options, idle), "1s", 0, 0, NULL, NULL, false, ""},
    {"b", "role", CONF_ENUM, offsetof(struct options, role), "all", 0, 0, "all|one", NULL, false,
     ""},
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > 65536)
        return 0;
    CLEANUP(arena_freep) struct arena *arena = arena_new((size_t)64 << 20);
    struct options o = {.port = -1};
    struct err err = ERR_INIT;
    int rc = conf_parse(schema, ARRAY_LEN(schema), "fuzz", str_n(data, size), arena, &o, &err);
    /* Refused: nothing was stored. Accepted: everything is in its range. */
    if (rc < 0 ? o.port != -1 || !err.msg[0]
               : o.port < 1 || o.port > 65535 || !o.name || o.role > 1)
        abort();
    return 0;
}
