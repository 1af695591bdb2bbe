/* seki tenant: customers of the cloud, from the operator's side. */
#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "cmd/cli.h"
#include "cmd/closing.h"
#include "json/yaml.h"
#include "kinds/borrowed.h"
#include "kinds/inference.h"
#include "kinds/tenancy.h"

#include <unistd.h>

#define CLOSING_AFTER "seki.cloud/closing-after" /* the audit ledger's last record before a close began */
#define CLOSE_WAIT_MS (10 * 60 * 1000)
#define LOOK_EVERY_US 200000
#define TOKEN_LIFE_S 86400
#define DEFAULT_LEDGER "/var/lib/seki/ledger"
#define EXPORT_MAX (256u * 1024 * 1024)

static struct client_resource tenants(void)
{
    return kind_resource(&kind_tenant);
}

/* ---- the first admin's kubeconfig ---- */

static json_t *first_named(const json_t *list, const char *name)
{
    size_t i;
    json_t *v;
    json_array_foreach (list, i, v)
        if (!name || !strcmp(json_str_or(v, "name", ""), name))
            return v;
    return NULL;
}

/* The cluster that the operator's own kubeconfig names; new reference. */
static json_t *own_cluster(struct cli *c, struct err *err)
{
    CLEANUP(mem_freep) char *text = NULL;
    JSON_AUTO doc = NULL;
    size_t len = 0;
    CLEANUP(mem_freep) char *path = client_kubeconfig_path(c->kubeconfig);
    if (file_read(path, 1024 * 1024, &text, &len, err) < 0 || yaml_parse(str_n(text, len), 1024 * 1024, &doc, err) < 0)
        return NULL;
    json_t *context = first_named(json_object_get(doc, "contexts"), json_str_or(doc, "current-context", ""));
    json_t *cluster = first_named(json_object_get(doc, "clusters"), context ? json_str_or(context, "context.cluster", "") : NULL);
    if (!cluster)
        err_set(err, ERR_INVALID, "%s names no cluster", path);
    return json_incref(json_object_get(cluster, "cluster"));
}

static int write_kubeconfig(struct cli *c, const char *tenant, const char *file, struct err *err)
{
    CLEANUP(sbuf_deinit) struct sbuf path = {0}, text = {0};
    JSON_AUTO request = json_pack("{s:s, s:s, s:{s:i}}", "apiVersion", "authentication.k8s.io/v1", "kind", "TokenRequest", "spec", "expirationSeconds", TOKEN_LIFE_S);
    JSON_AUTO answer = NULL;
    JSON_AUTO cluster = own_cluster(c, err);
    if (!cluster)
        return err->code;
    sbuf_init(&path, 1024);
    kind_path(&kind_service_account, tenant, TENANT_ADMIN, "token", &path);
    int rc = client_post(c->client, path.ptr, request, &answer, err);
    if (rc < 0)
        return rc;
    JSON_AUTO config = json_pack("{s:s, s:s, s:s, s:[{s:s, s:O}], s:[{s:s, s:{s:s}}], s:[{s:s, s:{s:s, s:s, s:s}}]}", "apiVersion", "v1", "kind", "Config", "current-context", tenant, "clusters", "name",
                                 "seki", "cluster", cluster, "users", "name", TENANT_ADMIN, "user", "token", json_str_or(answer, "status.token", ""), "contexts", "name", tenant, "context", "cluster",
                                 "seki", "user", TENANT_ADMIN, "namespace", tenant);
    sbuf_init(&text, 1024 * 1024);
    yaml_write(config, &text);
    return file_write(file, sbuf_str(&text), 0600, err);
}

/* ---- verbs ---- */

/* spec.limits from --limit KEY=N; 0, or 2 with the reason printed. */
static int read_limits(struct cli *c, json_t **ret)
{
    JSON_AUTO limits = json_object();
    JSON_AUTO counts = json_array();
    const char *text;
    while ((text = cli_flag(c, "--limit"))) {
        struct str rest = str_of(text), key;
        int64_t n;
        if (!strchr(text, '=') || !str_cut(&rest, '=', &key) || !key.len || str_to_i64(rest, 0, INT32_MAX, &n) < 0)
            return cli_usage_error("--limit %s: expected KEY=N, such as projects=5, objects=2000, secrets=100 or tokensPerMinute=100000", text);
        static const char *const singles[] = {"projects", "objects", "requestsPerMinute", "tokensPerMinute", "concurrentRequests"};
        bool single = false;
        for (size_t i = 0; i < ARRAY_LEN(singles); i++)
            single |= str_eqc(key, singles[i]);
        const char *name = arena_strndup(c->arena, key);
        if (single)
            json_object_set_new(limits, name, json_integer(n));
        else
            json_array_append_new(counts, json_pack("{s:s, s:I}", "resource", name, "max", (json_int_t)n));
    }
    if (json_array_size(counts))
        json_object_set(limits, "counts", counts);
    *ret = json_object_size(limits) ? json_incref(limits) : NULL;
    return 0;
}

int cli_tenant_create(struct cli *c)
{
    const char *name = cli_word(c), *display = cli_flag(c, "--display-name"), *billing = cli_flag(c, "--billing-account"), *file = cli_flag(c, "--kubeconfig-out"), *admin;
    JSON_AUTO admins = json_array();
    JSON_AUTO ret = NULL;
    JSON_AUTO limits = NULL;
    struct err err = ERR_INIT;
    if (read_limits(c, &limits))
        return 2;
    while ((admin = cli_flag(c, "--admin")))
        json_array_append_new(admins, json_string(admin));
    if (!name)
        return cli_usage_error("expected the tenant's NAME");
    if (cli_no_more(c))
        return 2;
    if (cli_connect(c))
        return 1;
    JSON_AUTO obj = obj_new(&kind_tenant, "", name);
    json_object_set_new(obj, "spec", json_pack("{s:O, s:s*, s:s*, s:O*}", "admins", admins, "displayName", display, "billingAccount", billing, "limits", limits));
    struct client_resource r = tenants();
    if (client_create(c->client, &r, "", obj, &ret, &err) < 0)
        return cli_fail(&err);
    if (file && write_kubeconfig(c, name, file, &err) < 0) {
        fprintf(stderr, "seki: tenant %s is made, but %s could not be written: %s\n", name, file, err.msg);
        return 1;
    }
    if (c->json) {
        cli_print_json(ret);
        return 0;
    }
    printf("tenant %s is made, with project %s and its admins: group %s%s:admins%s\n", name, name, TENANT_GROUP, name, json_array_size(admins) ? ", and the users named" : "");
    if (file)
        printf("%s has the credentials of its first admin, good for a day:\n\n  kubectl --kubeconfig %s create namespace %s-two --dry-run=client -o json |\n"
               "    kubectl label -f - --local -o json %s=%s | kubectl --kubeconfig %s create -f -\n",
               file, file, name, LABEL_TENANT, name, file);
    else
        printf("give its first admin credentials with --kubeconfig-out, or with: kubectl -n %s create token %s\n", name, TENANT_ADMIN);
    return 0;
}

/* "2", or "2/5" when there is a limit. */
static const char *projects_text(struct cli *c, const json_t *tenant)
{
    size_t count = json_array_size(json_at(tenant, "status.projects"));
    int64_t max = json_int(tenant, "spec.limits.projects", 0);
    return max ? arena_printf(c->arena, "%zu/%lld", count, (long long)max) : arena_printf(c->arena, "%zu", count);
}

int cli_tenant_list(struct cli *c)
{
    struct client_resource r = tenants();
    struct err err = ERR_INIT;
    JSON_AUTO items = NULL;
    static const char *const heads[] = {"NAME", "STATE", "PROJECTS", "COMPANY", "BILLING", "AGE", NULL};
    if (cli_no_more(c))
        return 2;
    if (cli_connect(c))
        return 1;
    if (client_list(c->client, &r, NULL, NULL, &items, NULL, &err) < 0)
        return cli_fail(&err);
    if (c->json) {
        cli_print_json(items);
        return 0;
    }
    struct cli_table *t = cli_table_new(c->arena, heads);
    size_t i;
    json_t *obj;
    json_array_foreach (items, i, obj)
        cli_table_row(t, (const char *const[]){obj_name(obj), tenant_state(obj), projects_text(c, obj), json_str(obj, "spec.displayName"),
                                               json_str(obj, "spec.billingAccount"), cli_age(c->arena, json_str(obj, "metadata.creationTimestamp"))});
    cli_table_print(t, c->color);
    return 0;
}

/* began: an annotation to set with it, or NULL. */
static int set_state(struct cli *c, const char *name, const char *state, const char *began)
{
    struct client_resource r = tenants();
    struct err err = ERR_INIT;
    JSON_AUTO patch = json_pack("{s:{s:s}}", "spec", "state", state);
    if (began)
        json_object_set_new(patch, "metadata", json_pack("{s:{s:s}}", "annotations", CLOSING_AFTER, began));
    if (client_patch(c->client, &r, "", name, NULL, patch, NULL, &err) == 0)
        return 0;
    if (err.code == ERR_NOT_FOUND)
        fprintf(stderr, "seki: there is no tenant %s; `seki tenant list` shows those there are\n", name);
    else
        return cli_fail(&err);
    return 1;
}

static int change_state(struct cli *c, const char *state, const char *said)
{
    const char *name = cli_word(c);
    if (!name)
        return cli_usage_error("expected the tenant's NAME");
    if (cli_no_more(c))
        return 2;
    if (cli_connect(c) || set_state(c, name, state, NULL))
        return 1;
    if (c->json)
        printf("{\"tenant\": \"%s\", \"state\": \"%s\"}\n", name, state);
    else
        printf("tenant %s %s\n", name, said);
    return 0;
}

int cli_tenant_suspend(struct cli *c)
{
    return change_state(c, "Suspended", "is suspended: new requests are refused, nothing is lost; seki tenant resume undoes it");
}

int cli_tenant_resume(struct cli *c)
{
    return change_state(c, "Active", "is active");
}

/* The usage reports of all its projects. New reference; NULL: printed why. */
static json_t *usage_of(struct cli *c, const json_t *tenant)
{
    struct client_resource r = kind_resource(&kind_usage_report);
    json_t *all = json_array(), *ns;
    size_t i;
    json_array_foreach (json_at(tenant, "status.projects"), i, ns) {
        struct err err = ERR_INIT;
        JSON_AUTO items = NULL;
        if (client_list(c->client, &r, json_string_value(ns), NULL, &items, NULL, &err) < 0) {
            cli_fail(&err);
            json_decref(all);
            return NULL;
        }
        json_array_extend(all, items);
    }
    return all;
}

static int write_export(const json_t *documents, const char *file)
{
    CLEANUP(sbuf_deinit) struct sbuf text = {0};
    struct err err = ERR_INIT;
    sbuf_init(&text, EXPORT_MAX);
    json_write_pretty(documents, &text);
    sbuf_add_char(&text, '\n');
    return !sbuf_ok(&text) ? cli_usage_error("more usage than %u MiB: export it with seki usage -n PROJECT -o json first", EXPORT_MAX >> 20)
           : file_write(file, sbuf_str(&text), 0600, &err) < 0 ? cli_fail(&err)
                                                               : 0;
}

static json_t *get_tenant(struct cli *c, const char *name)
{
    struct client_resource r = tenants();
    struct err err = ERR_INIT;
    json_t *obj = NULL;
    if (client_get(c->client, &r, "", name, &obj, &err) == 0)
        return obj;
    if (err.code == ERR_NOT_FOUND)
        fprintf(stderr, "seki: there is no tenant %s; `seki tenant list` shows those there are\n", name);
    else
        cli_fail(&err);
    return NULL;
}

static bool is_closed(const json_t *tenant)
{
    const char *closed = obj_condition(tenant, "Closed");
    return closed && !strcmp(closed, "True");
}

/* Tells on stderr how many projects are left, whenever that changes. */
static int wait_closed(struct cli *c, const char *name)
{
    uint64_t end = clock_mono_ms() + CLOSE_WAIT_MS;
    size_t told = SIZE_MAX;
    for (;;) {
        JSON_AUTO obj = get_tenant(c, name);
        if (!obj)
            return 1;
        size_t left = json_array_size(json_at(obj, "status.projects"));
        if (is_closed(obj))
            return 0;
        if (left != told)
            fprintf(stderr, "seki: %zu projects are left\n", left);
        told = left;
        if (clock_mono_ms() > end) {
            fprintf(stderr, "seki: still not closed after 10 minutes; see kubectl describe tenant %s, and what holds its namespaces\n", name);
            return 1;
        }
        usleep(LOOK_EVERY_US);
    }
}

/* Where the ledger can be read here: *ret_dir, and where it ended before anything was deleted: now, or when an earlier close began that did not come to its end. */
static void mark_ledger(const char *flag, const json_t *tenant, const char **ret_dir, uint64_t *ret_after)
{
    const char *began = obj_annotation(tenant, CLOSING_AFTER);
    uint64_t before;

    const char *env = getenv("SEKI_LEDGER_DIR"), *dir = flag ? flag : env && *env ? env : DEFAULT_LEDGER;
    struct err err = ERR_INIT;
    *ret_dir = closing_mark(dir, ret_after, &err) == 0 ? dir : NULL;
    if (*ret_dir && began && str_to_u64(str_of(began), &before) == 0 && before <= *ret_after)
        *ret_after = before;
    if (!*ret_dir)
        fprintf(stderr, "seki: no statement of what is deleted can be made here: %s\n", err.msg);
}

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

/* New reference; NULL: there is no ledger, or it was said why not. */
static json_t *statement_of(const char *dir, const char *name, uint64_t after)
{
    struct err err = ERR_INIT;
    json_t *s = NULL;
    if (dir && closing_statement(dir, name, after, &s, &err) < 0)
        fprintf(stderr, "seki: the tenant is closed, but no statement can be made: %s\n", err.msg);
    return s;
}

int cli_tenant_close(struct cli *c)
{
    const char *file = cli_flag(c, "--export"), *ledger = cli_flag(c, "--ledger"), *name = cli_word(c), *dir;
    bool sure = cli_switch(c, "--yes");
    uint64_t after = 0;
    if (!name)
        return cli_usage_error("expected the tenant's NAME");
    if (cli_no_more(c))
        return 2;
    if (!file)
        return cli_usage_error("expected --export FILE: where its usage is kept, for the last bill");
    if (!sure)
        return cli_usage_error("all projects of %s will be deleted for good: add --yes when that is meant", name);
    if (file_exists(file)) { /* perhaps the last bill, of a close that did not come to its end */
        fprintf(stderr, "seki: %s is there already, and is not written over: name another file; nothing was closed\n", file);
        return 1;
    }
    if (cli_connect(c))
        return 1;
    JSON_AUTO tenant = get_tenant(c, name);
    JSON_AUTO documents = tenant ? usage_of(c, tenant) : NULL;
    size_t reports = json_array_size(documents);
    if (!documents || write_export(documents, file))
        return 1;
    mark_ledger(ledger, tenant, &dir, &after);
    if (set_state(c, name, "Closing", dir ? arena_printf(c->arena, "%llu", (unsigned long long)after) : NULL) || wait_closed(c, name))
        return 1;
    JSON_AUTO statement = statement_of(dir, name, after);
    if (statement) {
        json_array_append(documents, statement);
        if (write_export(documents, file))
            return 1;
    }
    if (c->json) {
        JSON_AUTO doc = json_pack("{s:s, s:s, s:I, s:O*}", "tenant", name, "state", "Closed", "usageReports", (json_int_t)reports, "statement", statement);
        cli_print_json(doc);
        return 0;
    }
    printf("tenant %s is closed: nothing of it is left but %zu usage reports in %s and its audit records (seki audit list --tenant %s)\nkubectl delete tenant %s removes its name too\n", name, reports,
           file, name, name);
    if (statement)
        print_statement(c, statement, dir);
    return 0;
}
