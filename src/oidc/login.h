/* Logging in at an issuer, for programs in people's hands: device flow (RFC 8628), authorization code with PKCE and a listener on loopback (RFC 8252, RFC 7636), refresh.
 *
 * All calls block, each request of theirs for at most 5 s, a flow until the person is done or OIDC_FLOW_MS have passed. What an issuer says that is shown to a person has
 * no control characters left. Threads: one at a time.
 */
#ifndef SEKI_OIDC_LOGIN_H
#define SEKI_OIDC_LOGIN_H

#include "json/json.h"

#define OIDC_FLOW_MS (10 * 60 * 1000)

struct oidc_client {
    const char *issuer, *id;
    const char *secret; /* or NULL: a public client */
    const char *ca_pem; /* or NULL: the system's */
    const char *scopes; /* "openid …" */
    json_t *doc;        /* the issuer's discovery document, after oidc_client_open() */
};
struct oidc_tokens {
    char *id_token;      /* what the API is shown */
    char *refresh_token; /* or NULL */
    int64_t expires_ms;  /* of the former */
};
void oidc_tokens_deinit(struct oidc_tokens *t); /* wipes; also for CLEANUP */

int oidc_client_open(struct oidc_client *c, struct err *err) NODISCARD;
void oidc_client_close(struct oidc_client *c);
bool oidc_client_has_device_flow(const struct oidc_client *c);

/* show: tells the person to open uri and enter code; full: with the code in it, or NULL. */
int oidc_login_device(struct oidc_client *c, void (*show)(void *arg, const char *uri, const char *full, const char *code), void *arg, struct oidc_tokens *ret, struct err *err) NODISCARD;
/* show: opens the URL in a browser on this machine. */
int oidc_login_browser(struct oidc_client *c, void (*show)(void *arg, const char *url), void *arg, struct oidc_tokens *ret, struct err *err) NODISCARD;
/* ERR_UNAUTHENTICATED: the refresh token is good no longer, log in anew. When the issuer gives no new refresh token, ret has the old one. */
int oidc_refresh(struct oidc_client *c, const char *refresh_token, struct oidc_tokens *ret, struct err *err) NODISCARD;
/* Asks the issuer to forget the refresh token; 0 also when it has no way to. */
int oidc_revoke(struct oidc_client *c, const char *refresh_token, struct err *err) NODISCARD;

#endif
