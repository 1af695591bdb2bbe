/* The fake engine of the test suite: spec.engine.options become its flags, camelCase as kebab-case. */
#include <string.h>
#include <unistd.h>

#include "engine/internal.h"

static const char *flag_of(const char *option, struct arena *a)
{
    CLEANUP(sbuf_deinit) struct sbuf text = {0};
    sbuf_init(&text, 256);
    sbuf_addc(&text, "--");
    for (const char *c = option; *c; c++) {
        if (*c >= 'A' && *c <= 'Z') {
            sbuf_add_char(&text, '-');
            sbuf_add_char(&text, (char)(*c + ('a' - 'A')));
        } else {
            sbuf_add_char(&text, *c);
        }
    }
    return arena_strndup(a, sbuf_str(&text));
}

static int plan(const struct engine_paths *p, const struct model_replica *mr, const char *replica_uid, const char *model_file UNUSED, struct arena *a, struct engine_plan *ret,
                struct err *err)
{
    static const char *env[] = {"PATH=/usr/bin:/bin", "ASAN_OPTIONS=detect_leaks=0", NULL};
    const struct field_map *options = &mr->spec.engine.options;
    const char *address;
    struct argv v;
    int rc = engine_socket(p, replica_uid, a, &address, err);
    if (rc < 0)
        return rc;
    if (!p->fake_engine || access(p->fake_engine, X_OK) != 0)
        return err_set(err, ERR_UNAVAILABLE, "the fake engine is not on this machine: it is part of the test suite; give --engine-fake=PROGRAM");
    argv_init(&v, a);
    argv_add(&v, p->fake_engine);
    argv_add(&v, "--listen");
    argv_add(&v, address);
    argv_add(&v, "--model");
    argv_add(&v, mr->spec.served_name);
    for (size_t i = 0; i < options->count; i++) {
        argv_add(&v, flag_of(options->keys[i], a));
        argv_add(&v, options->values[i]);
    }
    *ret = (struct engine_plan){.argv = v.items, .env = env, .address = address, .base_path = "/v1", .engine_model = mr->spec.served_name};
    return 0;
}

const struct engine_ops engine_fake = {
    .name = "fake", .plan = plan, .probe = engine_probe_llama, .poke = engine_poke_openai,
};
