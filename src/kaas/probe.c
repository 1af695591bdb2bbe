#include "kaas/internal.h"

#include "base/mem.h"
#include "client/fetch.h"

#define ANSWER_MAX (64 * 1024)
#define SAID_MAX 160

/* What has failed is in the lines that begin with [-]. */
struct str probe_failing(struct str answer)
{
    struct str line, said = STR("");
    while (!said.len && str_cut(&answer, '\n', &line))
        if (str_starts(line, STR("[-]")))
            said = line;
    if (said.len > SAID_MAX)
        said.len = SAID_MAX;
    return said;
}

int probe(const struct plan *p, const char *path, const struct site *s, uint64_t timeout_ms, struct err *err)
{
    struct kms_said plugin;
    if (!strncmp(p->health, "unix:", 5))
        return kms_tell(p->health + 5, NULL, timeout_ms, &plugin, err);
    CLEANUP(mem_freep) char *ca = xasprintf("%s/pki/ca.crt", s->dir);
    CLEANUP(mem_freep) char *body = NULL;
    bool tls = !strncmp(p->health, "https:", 6);
    struct fetch_options o = {.address = p->health, .path = path, .ca_file = tls ? ca : NULL, .timeout_ms = timeout_ms, .max_body_bytes = ANSWER_MAX};
    size_t len = 0;
    int status = 0, rc = fetch(&o, &status, &body, &len, err);
    if (rc < 0)
        return rc;
    if (status == 200)
        return 0;
    struct str said = probe_failing(str_n(body, len));
    return err_set(err, ERR_UNAVAILABLE, "%s answers %d%s%.*s", path, status, said.len ? ": " : "", STR_ARG(said));
}

int probe_certificate(const struct plan *p, const struct site *s, uint64_t timeout_ms, struct err *err)
{
    CLEANUP(mem_freep) char *ca = xasprintf("%s/pki/ca.crt", s->dir);
    char pin[PKI_PIN_MAX];
    int rc = cluster_pki_pin(s, pin, err);
    if (rc < 0)
        return rc;
    const struct fetch_options o = {.address = p->health, .path = p->alive_path, .ca_file = ca, .pinned = pin, .timeout_ms = timeout_ms, .max_body_bytes = ANSWER_MAX};
    return fetch(&o, NULL, NULL, NULL, err);
}
