/* The members of a store: whom to ask, who leads, and what becomes of one whose files are gone. Each step is found again from cluster.json (joined, replacing), the directories, and what the store
 * itself says of its members, so a kill anywhere leaves something to go on from. */
#include "kaas/recovery.h"

#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "client/fetch.h"

#define ASK_MS 1000u
#define ANSWER_MAX 65536

/* ---- whom to ask ---- */

const char *store_address(const struct site *s)
{
    for (int m = 0; m < site_members(s) && site_members(s) > 1; m++) {
        CLEANUP(mem_freep) char *url = xasprintf("http://%s:%d", member_address(s, m), PORT_ETCD_HEALTH);
        CLEANUP(mem_freep) char *body = NULL;
        const struct fetch_options o = {.address = url, .path = "/readyz", .timeout_ms = ASK_MS, .max_body_bytes = ANSWER_MAX};
        size_t len;
        int status = 0;
        if (!(s->replacing & (1u << m)) && fetch(&o, &status, &body, &len, NULL) == 0 && status == 200)
            return member_address(s, m);
    }
    return s->address;
}

/* The nth of what stands between ", "; "" behind the last. */
static struct str column(struct str line, int n)
{
    struct str value = STR("");
    for (int i = 0; i <= n; i++)
        if (!str_cut(&line, ',', &value))
            return STR("");
    return str_trim(value);
}

bool store_member_find(struct str list, const char *peer, struct store_member *ret)
{
    struct str line;
    while (str_cut(&list, '\n', &line))
        if (str_eqc(column(line, 3), peer) && str_to_array(column(line, 0), ret->id, sizeof(ret->id)) && *ret->id) {
            ret->started = str_eqc(column(line, 1), "started");
            ret->learner = str_eqc(column(line, 5), "true");
            return true;
        }
    return false;
}

/* ENDPOINT, ID, version, storage version, sizes and quotas that differ between versions, then who leads: the first of two truth values. */
static bool leads(struct str line)
{
    for (int n = 2; n < 16; n++) {
        struct str value = column(line, n);
        if (str_eqc(value, "true") || str_eqc(value, "false"))
            return str_eqc(value, "true");
    }
    return false;
}

int store_leader_find(struct str status, const struct site *s)
{
    struct str line;
    while (str_cut(&status, '\n', &line))
        for (int m = 0; m < site_members(s) && leads(line); m++) {
            char url[48];
            snprintf(url, sizeof(url), "https://%s:%d", member_address(s, m), PORT_ETCD);
            if (str_eqc(column(line, 0), url))
                return m;
        }
    return -1;
}

int store_leader(const struct site *s, struct arena *a)
{
    struct err ignored = ERR_INIT;
    const char *status = "";
    if (site_members(s) < 2 || store_tell(s, (const char *const[]){"endpoint", "status", "--cluster", NULL}, false, a, &status, &ignored) < 0)
        return -1;
    return store_leader_find(str_of(status), s);
}

struct site site_of_member(const struct site *s, int member)
{
    struct site one = *s;
    one.members = 1;
    memcpy(one.address, member_address(s, member), sizeof(one.address));
    return one;
}

int store_move_leader(const struct site *s, int from, int to, struct arena *a, struct err *err)
{
    const struct site leader = site_of_member(s, from); /* it must be asked itself */
    struct store_member next;
    const char *answer = "";
    int rc = store_tell(&leader, (const char *const[]){"member", "list", NULL}, false, a, &answer, err);
    if (rc == 0 && !store_member_find(str_of(answer), arena_printf(a, "https://%s:%d", member_address(s, to), PORT_ETCD_PEERS), &next))
        rc = err_set(err, ERR_NOT_FOUND, "the store does not know its member %d", to);
    return rc < 0 ? rc : store_tell(&leader, (const char *const[]){"move-leader", next.id, NULL}, false, a, &answer, err);
}

/* ---- one whose files are gone ---- */

struct replacing {
    struct kaas *k;
    struct site *s;
    struct arena *arena;
    int member;
    const char *peer;
    struct store_member found;
    bool is_member, has_files;
};

static const char *say(struct replacing *x, const char *what)
{
    return arena_printf(x->arena, "etcd of member %d: %s", x->member, what);
}

/* Its log: that is made whole, at its first start. One that is started with an empty directory and told by the others that they know it ends before that, and leaves the rest. */
static bool has_files(const struct site *s, int member, struct arena *a)
{
    return file_exists(arena_printf(a, "%s/member/wal", member_store(s, member, a)));
}

static const char *tell(struct replacing *x, const char *const *words)
{
    struct err err = ERR_INIT;
    const char *answer;
    return store_tell(x->s, words, false, x->arena, &answer, &err) < 0 ? say(x, err.msg) : NULL;
}

static const char *note(struct replacing *x, unsigned joined, unsigned replacing)
{
    struct err err = ERR_INIT;
    struct site next = *x->s;
    next.joined |= joined;
    next.replacing = replacing;
    if (place_keep(&next, &err) < 0)
        return say(x, err.msg);
    *x->s = next;
    return NULL;
}

/* It ends before its place is given away; its directory may be there still, and nothing in it. */
static bool has_ended(struct replacing *x)
{
    char name[WORKLOAD_NAME_MAX];
    struct workload_status w = {0};
    component_workload(x->s, ETCD, x->member, name);
    (void)!x->k->runtime->ops->stop(x->k->runtime, name, NULL);
    x->k->runtime->ops->get(x->k->runtime, name, &w);
    return w.state == WORKLOAD_ABSENT;
}

/* *held: it may not run now. Returns what is being done. */
static const char *step(struct replacing *x, bool *held)
{
    struct err err = ERR_INIT;
    const char *list = "", *wrong;
    *held = !x->has_files;
    if (store_tell(x->s, (const char *const[]){"member", "list", NULL}, false, x->arena, &list, &err) < 0)
        return say(x, arena_printf(x->arena, "its files are gone, and the others cannot be asked: %s", err.msg));
    x->is_member = store_member_find(str_of(list), x->peer, &x->found);
    if (x->has_files && x->is_member && !x->found.learner) {
        log_info("a member of a cluster's store was replaced", KV("cluster", x->s->name), KV("namespace", x->s->ns), KVI("member", x->member));
        wrong = note(x, 0, 0);
        return wrong ? wrong : say(x, "it is a voter again");
    }
    if (x->has_files && x->is_member) {
        wrong = tell(x, (const char *const[]){"member", "promote", x->found.id, NULL});
        return wrong ? wrong : say(x, "it has caught up");
    }
    if (x->has_files) {
        *held = true;
        return say(x, arena_printf(x->arena, "the others do not know it any more: remove %s, and it is made anew", member_store(x->s, x->member, x->arena)));
    }
    if (x->is_member && x->found.learner && !x->found.started) {
        *held = false;
        return say(x, "it is started with an empty directory");
    }
    if (!has_ended(x))
        return say(x, "its files are gone: it is ended first");
    if (x->is_member) {
        wrong = tell(x, (const char *const[]){"member", "remove", x->found.id, NULL});
        return wrong ? wrong : say(x, "its files are gone: the others forget it first");
    }
    if (file_remove_tree(member_store(x->s, x->member, x->arena), &err) < 0)
        return say(x, err.msg);
    if ((wrong = note(x, 1u << x->member, x->s->replacing)))
        return wrong;
    wrong = tell(x, (const char *const[]){"member", "add", arena_printf(x->arena, "etcd-%d", x->member), "--learner", arena_printf(x->arena, "--peer-urls=%s", x->peer), NULL});
    return wrong ? wrong : say(x, "it was added as a learner");
}

unsigned members_step(struct kaas *k, struct site *s, bool made, struct arena *a, const char **ret_what)
{
    unsigned gone = 0;
    *ret_what = NULL;
    for (int m = 0; made && site_members(s) > 1 && m < site_members(s); m++)
        gone |= has_files(s, m, a) ? 0 : 1u << m;
    if (!gone && !s->replacing)
        return 0;
    if (__builtin_popcount(gone | s->replacing) > (site_members(s) - 1) / 2) {
        *ret_what = arena_printf(a, "the files of %d members of the store are gone, and with them its majority: restore a backup", __builtin_popcount(gone));
        return gone; /* an empty one would be another store */
    }
    struct replacing x = {.k = k, .s = s, .arena = a, .member = __builtin_ctz(gone | s->replacing)};
    x.peer = arena_printf(a, "https://%s:%d", member_address(s, x.member), PORT_ETCD_PEERS);
    x.has_files = !(gone & (1u << x.member));
    bool held = false;
    if (!s->replacing) {
        log_warn("a member of a cluster's store has lost its files and is replaced", KV("cluster", s->name), KV("namespace", s->ns), KVI("member", x.member));
        *ret_what = note(&x, 0, 1u << x.member);
        if (*ret_what)
            return gone;
    }
    *ret_what = step(&x, &held);
    return held ? 1u << x.member : 0;
}

/* ---- what is said of them ---- */

#define MEMBER_PARTS (1u << ETCD | 1u << APISERVER | 1u << CONTROLLERS | 1u << SCHEDULER)

bool members_tell(json_t *obj, const struct site *s, const unsigned *up, const char *mending, struct arena *a)
{
    json_t *list = json_array();
    int good = 0, members = site_members(s);
    const char *wrong = "";
    for (int m = 0; m < members; m++) {
        const char *missing = "";
        for (enum component c = 0; c < COMPONENTS; c++)
            if (MEMBER_PARTS & (1u << c) & ~up[m])
                missing = arena_printf(a, "%s%s%s", missing, *missing ? ", " : "", component_name(c));
        json_t *member = json_pack("{s:s, s:s, s:b}", "name", arena_printf(a, "%d", m), "address", member_address(s, m), "ready", !*missing);
        if (*missing) {
            json_put_str(member, "message", arena_printf(a, "not ready: %s", missing));
            wrong = arena_printf(a, "%s%smember %d: %s", wrong, *wrong ? "; " : "", m, missing);
        }
        good += !*missing;
        json_array_append_new(list, member);
    }
    json_put_str(obj, "status.membersReady", arena_printf(a, "%d/%d", good, members));
    if (members < 2) {
        json_decref(list);
        return good == members;
    }
    json_put(obj, "status.members", list);
    if (good == members && !mending)
        status_condition(obj, "MembersReady", "True", "Running", "all members answer");
    else
        status_condition(obj, "MembersReady", "False", mending ? "Replacing" : "NotAnswering", "%s%s%s", wrong, *wrong && mending ? "; " : "", mending ? mending : "");
    return good == members && !mending;
}
