/* How many objects a project may have: counts, what limits them, and the refusal. Inside the apiserver.
 *
 * Counted is what is accepted, durable or not, as the store's preconditions are judged: a creation on its way counts until it has failed, a deletion on its way has given back. All of it
 * happens in the turn of the loop that hands the transaction over, so that the numbers are exact however many write at once. What limits (kind_ops.limits) holds from its acceptance on, too.
 */
#ifndef SEKI_APISERVER_LIMITS_H
#define SEKI_APISERVER_LIMITS_H

#include "apiserver/api.h"

#define LIMIT_NONE INT64_MAX

/* Before the first write of the server. */
void limits_start(struct apiserver *s);
void limits_stop(struct apiserver *s);
/* The server's default is another. */
void limits_changed(struct apiserver *s);

/* Whether all that w makes, with what is made with it, finds room. ERR_FORBIDDEN: *ret_why says what is full, by which rule, and whom to ask; q->rule is that rule. */
int limits_check(struct api_request *q, const struct api_write *w, const char **ret_why) NODISCARD;

/* The most that an object in ns may allow of a resource (see kind_ops.limits), and who says so: "tenant \"acme\"". LIMIT_NONE: nobody does. For struct kind_server. */
int64_t limits_ceiling(void *ctx, struct arena *a, const char *ns, const char *resource, const char **ret_by);

/* ---- for limits_status.c ---- */

/* A resource of a project, as it is now. */
struct limits_figure {
    const char *resource; /* "" of all that counts */
    int64_t used, max;    /* max: the tightest of all; LIMIT_NONE */
    const struct store_value *by; /* who says so; NULL: the server's default, or nobody */
};
/* Calls fn for the whole, then for each kind that is limited in ns. */
void limits_figures(struct apiserver *s, const char *ns, void (*fn)(void *arg, const struct limits_figure *f), void *arg);
/* Objects in ns that limit it; borrowed until the next write. */
struct store_value *const *limits_sayers(struct apiserver *s, const char *ns, size_t *ret_count);
/* limits_status.c: what limits say of themselves. */
struct limits_status *limits_status_new(struct apiserver *s);
void limits_status_free(struct limits_status *ls);
/* The figures of ns have changed; soon: within a moment, else within a second or so. */
void limits_status_mark(struct limits_status *ls, struct str ns, bool soon);

#endif
