/* seki tenant: customers of the cloud, from the operator's side. */
#include "base/file.h"
#include "base/mem.h"
#include "cmd/cli.h"
#include "json/yaml.h"
#include "kinds/borrowed.h"
#include "kinds/inference.h"
#include "kinds/tenancy.h"

#define TOKEN_LIFE_S 86400

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
    JSON_AUTO config = client_kubeconfig_new("seki", json_incref(cluster), TENANT_ADMIN, json_pack("{s:s}", "token", json_str_or(answer, "status.token", "")), tenant, tenant);
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

static int set_state(struct cli *c, const char *name, const char *state)
{
    struct client_resource r = tenants();
    struct err err = ERR_INIT;
    JSON_AUTO patch = json_pack("{s:{s:s}}", "spec", "state", state);
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
    if (cli_connect(c) || set_state(c, name, state))
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
