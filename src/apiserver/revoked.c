/* UserRevocations: looked at with each request, and when one is made, for the watches that run. */
#include "apiserver/api.h"
#include "base/clock.h"
#include "base/mem.h"
#include "kinds/borrowed.h"

struct revoked {
    struct map *before; /* "TENANT\nUSER", "\nUSER" for users of any or none → int64_t *: what was made before then counts no longer */
    int64_t rev;        /* as of; -1: nothing yet */
    struct sbuf prefix;
    struct store_watch *feed;
};

static const char *key_of(const char *tenant, const char *user, struct sbuf *text)
{
    sbuf_init(text, 4096);
    sbuf_addf(text, "%s\n%s", tenant, user);
    return sbuf_ok(text) ? text->ptr : "";
}

static bool add(void *arg, struct store_value *v)
{
    struct revoked *r = arg;
    JSON_AUTO obj = object_of(v);
    const char *user = json_str(obj, "spec.username"), *text = json_str(obj, "spec.issuedBefore");
    int64_t at_ms;
    if (!user || !text || clock_parse(str_of(text), &at_ms) < 0)
        return true;
    CLEANUP(sbuf_deinit) struct sbuf text_key = {0};
    const char *key = key_of(json_str_or(obj, "spec.tenant", ""), user, &text_key);
    int64_t *there = map_getc(r->before, key);
    if (!there) {
        there = XNEW(int64_t);
        map_set(r->before, str_of(key), there);
    }
    *there = MAX(*there, at_ms);
    return true;
}

/* As authz_current(): what a write took away is gone from its answer on. */
static void refresh(struct apiserver *s)
{
    struct revoked *r = s->revoked;
    int64_t rev = store_rev(s->store);
    if (r->rev == rev)
        return;
    if (r->rev < 0 || store_changed(s->store, sbuf_str(&r->prefix), r->rev)) {
        map_clear(r->before);
        (void)!store_range(s->store, sbuf_str(&r->prefix), STR_NULL, 0, 0, add, r, NULL);
    }
    r->rev = rev;
}

static bool is_before(const struct revoked *r, const char *tenant, const char *user, int64_t issued_ms)
{
    CLEANUP(sbuf_deinit) struct sbuf text = {0};
    const int64_t *before = map_getc(r->before, key_of(tenant, user, &text));
    return before && issued_ms < *before;
}

bool revoked_user(struct apiserver *s, const char *user, const char *tenant, int64_t issued_ms)
{
    if (!user || !s->revoked)
        return false;
    refresh(s);
    return map_len(s->revoked->before) && (is_before(s->revoked, "", user, issued_ms) || (tenant && is_before(s->revoked, tenant, user, issued_ms)));
}

bool revoked_request(struct api_request *q)
{
    return revoked_user(q->server, q->credential.user, q->credential.tenant, q->credential.issued_ms);
}

static void on_change(void *arg, const struct store_event *e)
{
    if (e->now)
        api_watches_end_if(arg, revoked_request);
}

void revoked_start(struct apiserver *s)
{
    struct revoked *r = XNEW(struct revoked);
    *r = (struct revoked){.before = map_new(mem_free), .rev = -1};
    sbuf_init(&r->prefix, 256);
    object_prefix(&kind_user_revocation, NULL, &r->prefix);
    s->revoked = r;
    (void)!store_watch(s->store, sbuf_str(&r->prefix), store_rev(s->store), on_change, s, &r->feed, NULL);
}

void revoked_stop(struct apiserver *s)
{
    struct revoked *r = s->revoked;
    if (!r)
        return;
    if (r->feed)
        store_watch_stop(r->feed);
    map_free(r->before);
    sbuf_deinit(&r->prefix);
    mem_free(r);
    s->revoked = NULL;
}
