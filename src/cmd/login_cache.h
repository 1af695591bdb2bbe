/* Tokens of people who logged in on this machine: one file an issuer, client and context, 0600, in ~/.cache/seki/login ($XDG_CACHE_HOME). Whoever changes one holds its lock. */
#ifndef SEKI_CMD_LOGIN_CACHE_H
#define SEKI_CMD_LOGIN_CACHE_H

#include "base/arena.h"
#include "oidc/login.h"

struct login_cache {
    const char *path; /* in the arena */
    int lock_fd;
};
/* context: NULL is the default one; others have tokens of their own, as somebody else may have logged in there. Waits for its lock, at most two minutes. */
int login_cache_open(const struct oidc_client *c, const char *context, struct arena *a, struct login_cache *ret, struct err *err) NODISCARD;
void login_cache_close(struct login_cache *l); /* also for CLEANUP */
/* Nothing kept, or nothing that can be read: *ret is empty. */
void login_cache_load(const struct login_cache *l, struct oidc_tokens *ret);
int login_cache_save(const struct login_cache *l, const struct oidc_tokens *t, struct err *err) NODISCARD;
int login_cache_drop(const struct login_cache *l, struct err *err) NODISCARD;

#endif
