#include "billing/reconcile_watch.h"

#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/map.h"
#include "base/mem.h"
#include "base/metrics.h"
#include "billing/reconcile.h"
#include "kinds/inference.h"

#define NAME_MAX_BYTES 640 /* "PROJECT/REPLICA" */
#define SERIES_MAX 1000

struct reconcile_watch {
    struct client *client;
    struct manager *manager;
    struct informer *replicas;
    struct reconcile *reconcile;
    struct map *known; /* replica → char *: its endpoint */
    struct metric_family *comparisons, *unseen, *unexplained;
    struct metric *compared_at;
};

static void free_text(void *value)
{
    mem_free(value);
}

struct reconcile_watch *reconcile_watch_new(struct client *c, struct manager *m, struct informer *replicas)
{
    struct reconcile_watch *w = XNEW(struct reconcile_watch);
    *w = (struct reconcile_watch){.client = c, .manager = m, .replicas = replicas, .reconcile = reconcile_new(), .known = map_new(free_text)};
    w->comparisons = metric_family("seki_billing_reconciliations_total", "Comparisons of the usage ledger with an engine's own counters, by result.", METRIC_COUNTER,
                                   (const char *const[]){"result", NULL}, 10, NULL, 0);
    w->unseen = metric_family("seki_billing_unseen_tokens_total", "Tokens that engines made for attempts that were cut off or that they did not count, beyond what usage records tell.", METRIC_COUNTER,
                              (const char *const[]){"project", "endpoint", "type", NULL}, SERIES_MAX, NULL, 0);
    w->unexplained = metric_family("seki_billing_unexplained_tokens_total", "Tokens by which engines' counters and the usage ledger differ without a reason.", METRIC_COUNTER,
                                   (const char *const[]){"project", "endpoint", "type", NULL}, SERIES_MAX, NULL, 0);
    w->compared_at = metric_gauge("seki_billing_reconciled_timestamp_seconds", "When the usage ledger was last compared with an engine's counters, since 1970-01-01 UTC; 0: not yet.");
    return w;
}

void reconcile_watch_free(struct reconcile_watch *w)
{
    if (!w)
        return;
    reconcile_free(w->reconcile);
    map_free(w->known);
    mem_free(w);
}

void reconcile_watch_count(struct reconcile_watch *w, const struct usage *u)
{
    reconcile_count(w->reconcile, u, clock_wall_ms());
}

/* ---- readings ---- */

static void take_reading(struct reconcile_watch *w, const json_t *replica, int64_t now_ms)
{
    char name[NAME_MAX_BYTES];
    const json_t *c = json_at(replica, "status.counters");
    snprintf(name, sizeof(name), "%s/%s", obj_namespace(replica), obj_name(replica));
    map_set(w->known, str_of(name), xstrdup(json_str_or(replica, "spec.endpoint", "")));
    if (!json_is_object(c))
        return;
    int64_t at_ms = json_int(c, "atMilliseconds", 0);
    const struct engine_reading r = {.replica = name, .at_ms = at_ms, .from_ms = at_ms - json_int(c, "tookMilliseconds", 0), .started_ms = json_int(c, "engineNumber", 0),
                                     .running = json_int(c, "requestsRunning", -1), .read = json_int(c, "tokensRead", 0), .written = json_int(c, "tokensWritten", 0),
                                     .counts_cached = json_flag(c, "countsCached", false)};
    reconcile_reading(w->reconcile, &r, now_ms);
}

static bool is_known(void *arg, const char *replica)
{
    return map_getc(arg, replica) != NULL;
}

static void take_readings(struct reconcile_watch *w, int64_t now_ms)
{
    JSON_AUTO all = informer_list(w->replicas, NULL);
    size_t i;
    json_t *replica;
    map_clear(w->known);
    json_array_foreach (all, i, replica)
        if (obj_namespace(replica) && obj_name(replica))
            take_reading(w, replica, now_ms);
    if (informer_synced(w->replicas))
        reconcile_forget(w->reconcile, is_known, w->known);
}

/* ---- what came of it ---- */

static void count_tokens(struct metric_family *f, const char *project, const char *endpoint, const struct reconcile_result *r)
{
    const int64_t n[] = {r->read, r->written};
    static const char *const types[] = {"input", "output"};
    for (size_t i = 0; i < ARRAY_LEN(n); i++)
        if (n[i])
            metric_add(metric_series(f, (struct str[]){str_of(project), str_of(endpoint), str_of(types[i])}), (uint64_t)(n[i] < 0 ? -n[i] : n[i]));
}

static const char *amount(int64_t n, const char *what, char text[64])
{
    snprintf(text, 64, "%lld tokens %s %s", (long long)(n < 0 ? -n : n), what, n < 0 ? "fewer" : "more");
    return text;
}

static void tell(struct reconcile_watch *w, const char *project, const char *endpoint, const struct reconcile_result *r)
{
    struct client_resource resource = kind_resource(&kind_model_endpoint);
    JSON_AUTO obj = NULL;
    char read[64], written[64], message[1024];
    bool differs = r->outcome == RECONCILE_DIFFERS;
    const char *name = strchr(r->replica, '/') + 1;
    snprintf(message, sizeof(message), "replica %s: by its engine's own counters %s and %s than usage records tell; %s", name, amount(r->read, "read", read), amount(r->written, "written", written),
             differs ? "no attempt that was cut off accounts for that" : "of attempts that were cut off or not counted by it, nobody pays them");
    if (differs)
        log_error("an engine's counters and the usage ledger differ", KV("replica", r->replica), KVI("read", r->read), KVI("written", r->written), KVI("inexact", r->inexact));
    if (client_get(w->client, &resource, project, endpoint, &obj, NULL) == 0)
        manager_event(w->manager, obj, differs ? "Warning" : "Normal", differs ? "UsageDiffers" : "UsageUnseen", message);
}

static void take_result(struct reconcile_watch *w, const struct reconcile_result *r)
{
    static const char *const names[] = {[RECONCILE_BEGUN] = "begun", [RECONCILE_EQUAL] = "equal", [RECONCILE_UNSEEN] = "unseen", [RECONCILE_DIFFERS] = "differs", [RECONCILE_SKIPPED] = "skipped"};
    char project[NAME_MAX_BYTES];
    const char *endpoint = map_getc(w->known, r->replica);
    snprintf(project, sizeof(project), "%.*s", (int)strcspn(r->replica, "/"), r->replica);
    metric_add(metric_series(w->comparisons, (struct str[]){str_of(names[r->outcome])}), 1);
    if (r->outcome == RECONCILE_BEGUN || r->outcome == RECONCILE_SKIPPED || !endpoint)
        return;
    metric_set(w->compared_at, clock_wall_ms() / 1000);
    if (r->outcome == RECONCILE_EQUAL)
        return;
    count_tokens(r->outcome == RECONCILE_UNSEEN ? w->unseen : w->unexplained, project, endpoint, r);
    tell(w, project, endpoint, r);
}

void reconcile_watch_round(struct reconcile_watch *w, bool collected)
{
    int64_t now_ms = clock_wall_ms();
    struct reconcile_result result;
    take_readings(w, now_ms);
    while (collected && reconcile_step(w->reconcile, now_ms, &result))
        take_result(w, &result);
}
