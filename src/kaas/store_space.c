#include "kaas/store_space.h"

#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"

#define WORTH_BYTES (64LL << 20) /* a smaller file is left as it is: rewriting holds up all writes for a moment */
#define HOLES 2                  /* it is rewritten when it is so many times as large as what is in it */
#define NEARLY_FULL 80           /* per cent of the quota, of what is no hole */
#define ROOM 90                  /* per cent of the quota, of the file */

static int number(const json_t *o, const char *member, int64_t *ret)
{
    const char *text = json_str_or(o, member, "0");
    return str_to_i64(str_of(text), 0, INT64_MAX, ret);
}

int space_read(const json_t *status, const json_t *alarms, struct store_space *ret, struct err *err)
{
    const json_t *list = json_object_get(alarms, "alarms");
    size_t i;
    json_t *alarm;
    *ret = (struct store_space){0};
    if (!str_to_array(str_of(json_str_or(status, "header.member_id", "")), ret->member, sizeof(ret->member)))
        return err_set(err, ERR_PROTOCOL, "etcd names a member that cannot be");
    if (number(status, "dbSize", &ret->bytes) < 0 || number(status, "dbSizeInUse", &ret->used) < 0 || number(status, "dbSizeQuota", &ret->limit) < 0 || !ret->bytes)
        return err_set(err, ERR_PROTOCOL, "etcd does not say how large its file is");
    json_array_foreach ((json_t *)(uintptr_t)list, i, alarm)
        if (!strcmp(json_str_or(alarm, "alarm", ""), "NOSPACE") && !strcmp(json_str_or(alarm, "memberID", ""), ret->member)) /* each tells of all members' */
            ret->no_space = true;
    return 0;
}

enum space_care space_care(const struct store_space *s)
{
    if (s->no_space)
        return SPACE_MAKE_ROOM;
    return s->bytes >= WORTH_BYTES && s->used < s->bytes / HOLES ? SPACE_DEFRAGMENT : SPACE_FINE;
}

bool space_has_room(const struct store_space *s, int64_t bytes)
{
    return !s->limit || bytes < s->limit / 100 * ROOM;
}

const char *space_reason(const struct store_space *s)
{
    if (s->no_space)
        return "Full";
    return s->limit && s->used >= s->limit / 100 * NEARLY_FULL ? "NearlyFull" : "Enough";
}

/* ---- asking etcd ---- */

int store_client(const struct site *s, const char *address, struct client **ret, struct err *err)
{
    CLEANUP(mem_freep) char *server = xasprintf("https://%s:%d", address, PORT_ETCD);
    CLEANUP(mem_freep) char *ca = xasprintf("%s/pki/etcd-ca.crt", s->dir);
    CLEANUP(mem_freep) char *cert = xasprintf("%s/pki/apiserver-etcd-client.crt", s->dir);
    CLEANUP(mem_freep) char *key = xasprintf("%s/pki/apiserver-etcd-client.key", s->dir);
    return client_http(&(struct client_http_options){.server = server, .ca_file = ca, .cert_file = cert, .key_file = key}, ret, err);
}

static int call(struct client *etcd, const char *path, json_t *body, json_t **ret, struct err *err)
{
    struct err why = ERR_INIT;
    int rc = client_post(etcd, path, body, ret, &why);
    json_decref(body);
    return rc < 0 ? err_set(err, rc, "etcd: %s", why.msg) : 0;
}

int store_compact_all(struct client *etcd, struct err *err)
{
    struct err why = ERR_INIT;
    JSON_AUTO now = NULL;
    int rc = call(etcd, "/v3/maintenance/status", json_object(), &now, err);
    if (rc < 0)
        return rc;
    rc = call(etcd, "/v3/kv/compaction", json_pack("{s:s, s:b}", "revision", json_str_or(now, "header.revision", "0"), "physical", 1), NULL, &why);
    return rc == 0 || strstr(why.msg, "has been compacted") ? 0 : err_set(err, rc, "%s", why.msg);
}

int store_defragment(struct client *etcd, struct err *err)
{
    return call(etcd, "/v3/maintenance/defragment", json_object(), NULL, err);
}

static int ask(struct client *etcd, struct store_space *ret, struct err *err)
{
    JSON_AUTO status = NULL;
    JSON_AUTO alarms = NULL;
    int rc = call(etcd, "/v3/maintenance/status", json_object(), &status, err);
    if (rc == 0)
        rc = call(etcd, "/v3/maintenance/alarm", json_pack("{s:s}", "action", "GET"), &alarms, err);
    return rc < 0 ? rc : space_read(status, alarms, ret, err);
}

static int fill_holes(struct client *etcd, const struct site *s, struct store_space *is, struct err *err)
{
    int64_t before = is->bytes;
    int rc = store_defragment(etcd, err);
    if (rc == 0)
        rc = ask(etcd, is, err);
    if (rc == 0)
        log_info("the store of a cluster is written anew without its holes", KV("namespace", s->ns), KV("cluster", s->name), KVI("before", before), KVI("bytes", is->bytes));
    return rc;
}

/* The API server's own compaction is a write, which the alarm refuses: so it is done here. What is really in use cannot be helped here. */
static int make_room(struct client *etcd, const struct site *s, struct store_space *is, struct err *err)
{
    int rc = store_compact_all(etcd, err);
    if (rc == 0)
        rc = ask(etcd, is, err);
    if (rc == 0 && space_has_room(is, is->used) && !space_has_room(is, is->bytes))
        rc = fill_holes(etcd, s, is, err);
    if (rc < 0 || !is->no_space || !space_has_room(is, is->bytes))
        return rc;
    rc = call(etcd, "/v3/maintenance/alarm", json_pack("{s:s, s:s, s:s}", "action", "DEACTIVATE", "memberID", is->member, "alarm", "NOSPACE"), NULL, err);
    return rc < 0 ? rc : ask(etcd, is, err);
}

static void tell(struct kaas *k, json_t *obj, const struct store_space *s, bool had_no_room)
{
    const char *reason = space_reason(s), *was = obj_condition_reason(obj, SPACE_CONDITION);
    char text[256];
    long long mib = (long long)(s->used >> 20), of = (long long)(s->limit >> 20);
    bool same = was && !strcmp(was, reason);
    if (s->no_space)
        snprintf(text, sizeof(text), "%lld of %lld MiB are in use: deletions alone are taken; delete what is not needed, or give spec.controlPlane.size another class", mib, of);
    else
        snprintf(text, sizeof(text), "%lld of %lld MiB are in use", mib, of);
    /* Not at each look: a status that changes is a look again. */
    if (!same)
        status_condition(obj, SPACE_CONDITION, s->no_space ? "False" : "True", reason, "%s", text);
    if (had_no_room && !s->no_space)
        manager_event(k->manager, obj, "Warning", "StoreWasFull", "its store took no writes: older states were dropped, and it takes them again");
    else if (!same && strcmp(reason, "Enough") != 0)
        manager_event(k->manager, obj, "Warning", s->no_space ? "StoreFull" : "StoreNearlyFull", text);
}

static int look_at(const struct site *s, int member, struct store_space *is, bool *had_no_room, struct err *err)
{
    struct client *etcd = NULL;
    int rc = store_client(s, member_address(s, member), &etcd, err);
    if (rc == 0)
        rc = ask(etcd, is, err);
    enum space_care care = rc == 0 ? space_care(is) : SPACE_FINE;
    *had_no_room = *had_no_room || care == SPACE_MAKE_ROOM;
    if (care == SPACE_DEFRAGMENT)
        rc = fill_holes(etcd, s, is, err);
    else if (care == SPACE_MAKE_ROOM)
        rc = make_room(etcd, s, is, err);
    client_free(etcd);
    return rc;
}

/* One after the other, so that of three two go on. */
void space_look(struct kaas *k, json_t *obj, const struct site *s, uint64_t *look_ms)
{
    struct store_space worst = {0}, is;
    struct err err = ERR_INIT;
    bool had_no_room = false;
    int rc = 0;
    if (*look_ms && clock_mono_ms() - *look_ms < SPACE_LOOK_PROBES * k->o.probe_ms)
        return;
    for (int m = 0; rc == 0 && m < site_members(s); m++) {
        rc = look_at(s, m, &is, &had_no_room, &err);
        if (rc == 0 && (is.no_space > worst.no_space || (is.no_space == worst.no_space && is.used > worst.used)))
            worst = is;
    }
    *look_ms = clock_mono_ms();
    if (rc < 0)
        log_warn("the room in a cluster's store is not known", KV("namespace", s->ns), KV("cluster", s->name), KVE(&err));
    else
        tell(k, obj, &worst, had_no_room);
}
