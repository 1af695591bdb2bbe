/* seki tenant close: a customer's end. Each step can be repeated, and so can the whole: killed at any instant, the same command goes on where it was.
 *
 *   export file: reports so far, statement "Closing" ─► Tenant: Closing ─► its controller deletes ─► Closed ─► export file: reports to the last request, statement "Closed"
 */
#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "cmd/cli.h"
#include "cmd/closing.h"
#include "kinds/borrowed.h"
#include "kinds/inference.h"
#include "kinds/tenancy.h"

#include <unistd.h>

#define CLOSING_AFTER "seki.cloud/closing-after" /* annotation: the audit ledger's last record before a close began */
#define CLOSE_WAIT_MS (10 * 60 * 1000)
#define AWAY_MS (60 * 1000) /* for so long the API may be away, as it is while control starts again */
#define LOOK_EVERY_US 200000
#define DEFAULT_LEDGER "/var/lib/seki/ledger"
#define EXPORT_MAX (256u * 1024 * 1024)

struct closing {
    struct cli *c;
    const char *name, *file;
    json_t *tenant;  /* as it was found */
    json_t *reports; /* usage, as far as it is known */
    const char *ledger; /* the directory; NULL: it cannot be read here */
    uint64_t after;     /* the audit ledger's last record before anything was deleted; 0: not known */
    uint64_t away_ms;   /* since when the API does not answer; 0: it does */
};

static struct client_resource tenants(void)
{
    return kind_resource(&kind_tenant);
}

/* ---- the API, which may be away for a while ---- */

/* After a request: 1: once more, later; 0: it is done; ERR_NOT_FOUND; else it was printed why not. */
static int once_more(struct closing *k, int rc, struct err *err)
{
    struct client *fresh = NULL;
    static const int passing[] = {ERR_UNAVAILABLE, ERR_CLOSED, ERR_TIMEOUT, ERR_IO, ERR_PROTOCOL, ERR_TOO_MANY};
    uint64_t now = clock_mono_ms();
    if (rc == 0 || rc == ERR_NOT_FOUND) {
        k->away_ms = 0;
        return rc;
    }
    for (size_t i = 0; i < ARRAY_LEN(passing); i++)
        if (rc == passing[i] && (!k->away_ms || now - k->away_ms < AWAY_MS)) {
            if (!k->away_ms)
                fprintf(stderr, "seki: the API does not answer (%s); trying again for %d s\n", err->msg, AWAY_MS / 1000);
            k->away_ms = k->away_ms ? k->away_ms : now;
            *err = (struct err){0};
            usleep(LOOK_EVERY_US);
            if (client_kubeconfig(k->c->kubeconfig, &fresh, (char[256]){0}, 256, &(struct err){0}) == 0) { /* it may have another address now */
                client_free(k->c->client);
                k->c->client = fresh;
            }
            return 1;
        }
    cli_fail(err);
    return rc;
}

static int fetch(struct closing *k, json_t **ret)
{
    struct client_resource r = tenants();
    struct err err = ERR_INIT;
    int rc;
    while ((rc = once_more(k, client_get(k->c->client, &r, "", k->name, ret, &err), &err)) == 1)
        ;
    return rc;
}

static int list(struct closing *k, const struct kind *kind, const char *ns, const char *selector, json_t **ret)
{
    struct client_resource r = kind_resource(kind);
    struct err err = ERR_INIT;
    int rc;
    while ((rc = once_more(k, client_list(k->c->client, &r, ns, selector, ret, NULL, &err), &err)) == 1)
        ;
    return rc;
}

/* By its uid: not another Tenant that has the name meanwhile. */
static int begin(struct closing *k)
{
    struct client_resource r = tenants();
    struct err err = ERR_INIT;
    int rc;
    JSON_AUTO patch = json_pack("{s:{s:s}, s:{s:s}}", "metadata", "uid", obj_uid(k->tenant), "spec", "state", "Closing");
    if (k->ledger && k->after)
        json_object_set_new(json_object_get(patch, "metadata"), "annotations", json_pack("{s:s}", CLOSING_AFTER, arena_printf(k->c->arena, "%llu", (unsigned long long)k->after)));
    while ((rc = once_more(k, client_patch(k->c->client, &r, "", k->name, NULL, patch, NULL, &err), &err)) == 1)
        ;
    if (rc == ERR_NOT_FOUND)
        fprintf(stderr, "seki: tenant %s was deleted meanwhile, by somebody else\n", k->name);
    return rc;
}

static bool is_closed(const json_t *tenant)
{
    const char *closed = obj_condition(tenant, "Closed");
    return closed && !strcmp(closed, "True");
}

/* Tells on stderr how many projects are left, whenever that changes. */
static int wait_closed(struct closing *k)
{
    uint64_t end = clock_mono_ms() + CLOSE_WAIT_MS;
    size_t told = SIZE_MAX;
    for (;;) {
        JSON_AUTO obj = NULL;
        int rc = fetch(k, &obj);
        if (rc == ERR_NOT_FOUND || (rc == 0 && (is_closed(obj) || strcmp(obj_uid(obj), obj_uid(k->tenant)) != 0)))
            return 0; /* a Tenant goes when it has no projects */
        if (rc < 0)
            return rc;
        size_t left = json_array_size(json_at(obj, "status.projects"));
        if (left != told)
            fprintf(stderr, left == 1 ? "seki: 1 project is left\n" : "seki: %zu projects are left\n", left);
        told = left;
        if (clock_mono_ms() > end) {
            fprintf(stderr, "seki: still not closed after 10 minutes; see kubectl describe tenant %s, and what holds its namespaces\n", k->name);
            return ERR_TIMEOUT;
        }
        usleep(LOOK_EVERY_US);
    }
}

/* ---- the export ---- */

/* Of two reports on one project's day the one that counts more: they only grow. */
static void keep(json_t *reports, json_t *report)
{
    size_t i;
    json_t *have;
    json_array_foreach (reports, i, have)
        if (!strcmp(obj_namespace(have), obj_namespace(report)) && !strcmp(obj_name(have), obj_name(report))) {
            if (json_int(report, "status.requests", 0) > json_int(have, "status.requests", 0))
                json_array_set(reports, i, report);
            return;
        }
    json_array_append(reports, report);
}

static void keep_all(json_t *reports, const json_t *more)
{
    size_t i;
    json_t *report;
    json_array_foreach (more, i, report)
        keep(reports, report);
}

static int look_at_usage(struct closing *k)
{
    JSON_AUTO projects = NULL;
    const char *selector = arena_printf(k->c->arena, LABEL_TENANT "=%s", k->name);
    json_t *ns;
    size_t i;
    int rc = list(k, &kind_namespace, NULL, selector, &projects);
    json_array_foreach (projects, i, ns) {
        JSON_AUTO items = NULL;
        rc = list(k, &kind_usage_report, obj_name(ns), NULL, &items);
        if (rc < 0 && rc != ERR_NOT_FOUND)
            return rc;
        keep_all(k->reports, items);
    }
    return rc == ERR_NOT_FOUND ? 0 : rc;
}

/* The reports and, last, the statement. */
static int write_export(struct closing *k, json_t *statement)
{
    CLEANUP(sbuf_deinit) struct sbuf text = {0};
    struct err err = ERR_INIT;
    JSON_AUTO all = json_copy(k->reports);
    json_object_set_new(statement, "uid", json_string(obj_uid(k->tenant)));
    json_array_append(all, statement);
    sbuf_init(&text, EXPORT_MAX);
    json_write_pretty(all, &text);
    sbuf_add_char(&text, '\n');
    return !sbuf_ok(&text) ? cli_usage_error("more usage than %u MiB: export it with seki usage -n PROJECT -o json first", EXPORT_MAX >> 20)
           : file_write(k->file, sbuf_str(&text), 0600, &err) < 0 ? cli_fail(&err)
                                                                  : 0;
}

/* A file that is there is gone on with when a close of this very Tenant has written it, and else left alone. */
static int take_up(struct closing *k)
{
    JSON_AUTO doc = NULL;
    if (!file_exists(k->file))
        return 0;
    bool read = json_read_file(k->file, EXPORT_MAX, &doc, NULL) == 0 && json_is_array(doc);
    const json_t *last = read && json_array_size(doc) ? json_array_get(doc, json_array_size(doc) - 1) : NULL;
    if (!last || strcmp(json_str_or(last, "kind", ""), "ClosingStatement") != 0 || strcmp(json_str_or(last, "uid", ""), obj_uid(k->tenant)) != 0) {
        fprintf(stderr, "seki: %s is there already, is not of a close of this tenant, and is not written over: name another file; nothing was closed\n", k->file);
        return 1;
    }
    json_array_remove(doc, json_array_size(doc) - 1);
    keep_all(k->reports, doc);
    fprintf(stderr, "seki: going on with the close that %s tells of\n", k->file);
    return 0;
}

/* Where the ledgers can be read here, and where the audit ledger ended before anything was deleted: now, or when an earlier close began that did not come to its end. */
static void mark_ledger(struct closing *k, const char *flag)
{
    const char *began = obj_annotation(k->tenant, CLOSING_AFTER);
    uint64_t before;
    const char *env = getenv("SEKI_LEDGER_DIR"), *dir = flag ? flag : env && *env ? env : DEFAULT_LEDGER;
    struct err err = ERR_INIT;
    if (closing_mark(dir, &k->after, &err) < 0) {
        fprintf(stderr, "seki: no statement of what is deleted can be made here: %s\n", err.msg);
        return;
    }
    k->ledger = dir;
    if (began && str_to_u64(str_of(began), &before) == 0 && before <= k->after)
        k->after = before;
    else if (!strcmp(tenant_state(k->tenant), "Closing"))
        k->after = 0; /* somebody began it where there was no ledger */
}

/* ---- the end ---- */

static void print_statement(struct cli *c, const json_t *s, const char *dir)
{
    const char *kind;
    json_t *n;
    puts("deleted, by the audit ledger:");
    json_object_foreach (json_object_get((json_t *)(uintptr_t)s, "deleted"), kind, n)
        printf("  %6lld  %s\n", (long long)json_integer_value(n), kind);
    bool usual = !strcmp(dir, DEFAULT_LEDGER);
    printf("its records are %lld to %lld; to check them, now or on a copy of the ledger later:\n  seki audit verify --record %lld:%s%s%s\n", (long long)json_int(s, "ledger.first", 0),
           (long long)json_int(s, "ledger.last", 0), (long long)json_int(s, "ledger.end", 0), json_str_or(s, "ledger.sha256", ""), usual ? "" : " ", usual ? "" : cli_shell_word(c->arena, dir));
}

/* What the ledgers say, where they can be read. New reference. */
static json_t *tell(struct closing *k, bool *ret_proven)
{
    struct err err = ERR_INIT;
    int64_t made = 0;
    json_t *s = NULL;
    JSON_AUTO used = NULL;
    (void)!clock_parse(str_of(json_str_or(k->tenant, "metadata.creationTimestamp", "")), &made);
    if (k->ledger && closing_statement(k->ledger, k->name, obj_uid(k->tenant), k->after, &s, &err) < 0)
        fprintf(stderr, "seki: the tenant is closed, but no statement can be made: %s\n", err.msg);
    *ret_proven = s != NULL;
    err = (struct err){0};
    if (s && closing_usage(k->ledger, k->name, made, &used, &err) < 0)
        fprintf(stderr, "seki: what was used last is not in %s, as the usage ledger cannot be read: %s\n", k->file, err.msg);
    keep_all(k->reports, used);
    return s ? s : json_pack("{s:s, s:s}", "kind", "ClosingStatement", "tenant", k->name);
}

static int finish(struct closing *k)
{
    bool proven;
    JSON_AUTO statement = tell(k, &proven);
    json_object_set_new(statement, "state", json_string("Closed"));
    if (write_export(k, statement))
        return 1;
    size_t reports = json_array_size(k->reports);
    if (k->c->json) {
        JSON_AUTO doc = json_pack("{s:s, s:s, s:I, s:O*}", "tenant", k->name, "state", "Closed", "usageReports", (json_int_t)reports, "statement", proven ? statement : NULL);
        cli_print_json(doc);
        return 0;
    }
    printf("tenant %s is closed: nothing of it is left but %zu usage reports in %s and its audit records (seki audit list --tenant %s)\nkubectl delete tenant %s removes its name too\n", k->name, reports,
           k->file, k->name, k->name);
    if (proven)
        print_statement(k->c, statement, k->ledger);
    return 0;
}

static int run(struct closing *k, const char *ledger)
{
    int rc = fetch(k, &k->tenant);
    if (rc == ERR_NOT_FOUND)
        fprintf(stderr, "seki: there is no tenant %s; `seki tenant list` shows those there are\n", k->name);
    if (rc < 0 || take_up(k) || look_at_usage(k) < 0)
        return 1;
    JSON_AUTO begun = json_pack("{s:s, s:s, s:s}", "kind", "ClosingStatement", "tenant", k->name, "state", "Closing");
    if (write_export(k, begun))
        return 1;
    mark_ledger(k, ledger);
    return begin(k) < 0 || wait_closed(k) < 0 ? 1 : finish(k);
}

int cli_tenant_close(struct cli *c)
{
    const char *file = cli_flag(c, "--export"), *ledger = cli_flag(c, "--ledger"), *name = cli_word(c);
    bool sure = cli_switch(c, "--yes");
    if (!name)
        return cli_usage_error("expected the tenant's NAME");
    if (cli_no_more(c))
        return 2;
    if (!file)
        return cli_usage_error("expected --export FILE: where its usage is kept, for the last bill");
    if (!sure)
        return cli_usage_error("all projects of %s will be deleted for good: add --yes when that is meant", name);
    if (cli_connect(c))
        return 1;
    struct closing k = {.c = c, .name = name, .file = file, .reports = json_array()};
    int rc = run(&k, ledger);
    json_decref(k.tenant);
    json_decref(k.reports);
    return rc;
}
