/* Documents of issuers: over HTTPS only, under a cap, with a deadline. */
#include "base/mem.h"
#include "client/fetch.h"
#include "oidc/issuers.h"

#define TIMEOUT_MS 5000
#define DOCUMENT_MAX JWK_SET_BYTES_MAX
#define WELL_KNOWN "/.well-known/openid-configuration"

/* Exactly one of ret and ret_text is given. */
static int take(char *body, size_t len, json_t **ret, char **ret_text, const char *url, struct err *err)
{
    struct err inner = ERR_INIT;
    if (ret_text) {
        *ret_text = body;
        return 0;
    }
    int rc = json_parse(str_n(body, len), DOCUMENT_MAX, ret, &inner);
    mem_wipe(body, len); /* tokens come this way too */
    mem_free(body);
    return rc < 0 ? err_set(err, ERR_PROTOCOL, "%.256s: no JSON: %.200s", url, inner.msg) : 0;
}

int oidc_fetch(const char *url, const char *form, const char *ca_pem, const atomic_bool *cancel, int *ret_status, json_t **ret, char **ret_text, struct err *err)
{
    char *body = NULL;
    size_t len = 0;
    int status = 0;
    if (strncmp(url, "https://", 8) != 0)
        return err_set(err, ERR_PROTOCOL, "%.256s: issuers are asked over https only", url);
    const char *slash = strchr(url + 8, '/');
    CLEANUP(mem_freep) char *address = slash ? xstrndup(url, (size_t)(slash - url)) : xstrdup(url);
    struct fetch_options o = {.address = address, .path = slash ? slash : "/", .body_form = form, .ca_pem = ca_pem, .timeout_ms = TIMEOUT_MS, .max_body_bytes = DOCUMENT_MAX, .cancel = cancel};
    int rc = fetch(&o, &status, &body, &len, err);
    if (rc < 0)
        return rc;
    if (!ret_status && status != 200) {
        mem_free(body);
        return err_set(err, ERR_PROTOCOL, "%.256s: answered %d", url, status);
    }
    if (ret_status)
        *ret_status = status;
    return take(body, len, ret, ret_text, url, err);
}

int oidc_discover(const char *issuer, const char *from, const char *ca_pem, const atomic_bool *cancel, json_t **ret, struct err *err)
{
    size_t len = strlen(issuer);
    CLEANUP(mem_freep) char *below = xasprintf("%.*s" WELL_KNOWN, (int)(len && issuer[len - 1] == '/' ? len - 1 : len), issuer);
    const char *url = from ? from : below;
    JSON_AUTO doc = NULL;
    int rc = oidc_fetch(url, NULL, ca_pem, cancel, NULL, &doc, NULL, err);
    if (rc < 0)
        return rc;
    const char *said = json_string_value(json_object_get(doc, "issuer"));
    if (!said || strcmp(said, issuer) != 0)
        return err_set(err, ERR_PROTOCOL, "%.200s: is of issuer %.100s, expected %.100s", url, said ? said : "(none)", issuer);
    *ret = json_incref(doc);
    return 0;
}
