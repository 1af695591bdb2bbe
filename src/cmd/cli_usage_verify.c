/* seki usage verify: the usage ledger's files, on the machine where they lie or on a copy of them, without asking a daemon. */
#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "billing/verify.h"
#include "cmd/cli.h"

#define DEFAULT_DIR "/var/lib/seki/ledger"
#define REPORTS_MAX ((size_t)1 << 30)

static int bad(const char *dir, const struct err *err)
{
    fprintf(stderr, "seki: the usage ledger in %s does not verify: %s\n", dir, err->msg);
    return 1;
}

/* 0, or the exit status with the reason printed. */
static int check_reports(const char *file, const struct usage_verdict *v, size_t *ret_count)
{
    JSON_AUTO doc = NULL;
    struct err err = ERR_INIT;
    if (json_read_file(file, REPORTS_MAX, &doc, &err) < 0) {
        fprintf(stderr, "seki: --reports %s\n", err.msg);
        return 1;
    }
    if (billing_verify_reports(v, doc, ret_count, &err) < 0) {
        fprintf(stderr, "seki: %s does not follow from the usage ledger: %s\n", file, err.msg);
        return 1;
    }
    return 0;
}

static void print_table(struct cli *c, const struct usage_verdict *v)
{
    static const char *const heads[] = {"DAY", "PROJECT", "TENANT", "REQUESTS", "FAILED", "PROMPT", "CACHED", "COMPLETION", "LOSERS", "REPLAYED", "UNSEEN", "INEXACT", NULL};
    static const char *const numbers[] = {"requests", "failedRequests", "promptTokens", "cachedTokens", "completionTokens", "hedgeLoserTokens", "replayedTokens", "unseenTokens", "inexactAttempts"};
    struct cli_table *t = cli_table_new(c->arena, heads);
    size_t i;
    json_t *one;
    json_array_foreach (v->reports, i, one) {
        const char *cells[ARRAY_LEN(heads) - 1] = {json_str(one, "date"), json_str(one, "project"), json_str(one, "tenant")};
        for (size_t n = 0; n < ARRAY_LEN(numbers); n++)
            cells[3 + n] = arena_printf(c->arena, "%lld", (long long)json_int(json_object_get(one, "status"), numbers[n], 0));
        cli_table_row(t, cells);
    }
    if (c->csv)
        cli_table_print_csv(t);
    else if (cli_table_rows(t))
        cli_table_print(t, c->color);
}

static void print_verdict(struct cli *c, const struct usage_verdict *v, const char *reports, size_t count)
{
    char first[CLOCK_TEXT_MAX], last[CLOCK_TEXT_MAX];
    clock_format(v->first_ms, first);
    clock_format(v->last_ms, last);
    if (c->json) {
        JSON_AUTO doc = json_pack("{s:b, s:I, s:I, s:I, s:I, s:O}", "verified", true, "records", (json_int_t)v->records, "olderRecords", (json_int_t)v->older, "journals", (json_int_t)v->journals,
                                  "recordsNotCollected", (json_int_t)v->behind, "reports", v->reports);
        if (v->records) {
            json_object_set_new(doc, "first", json_string(first));
            json_object_set_new(doc, "last", json_string(last));
        }
        if (reports)
            json_object_set_new(doc, "reportsCompared", json_integer((json_int_t)count));
        cli_print_json(doc);
        return;
    }
    print_table(c, v);
    if (c->csv)
        return;
    if (!v->records)
        puts("no records yet; the ledger is whole");
    else
        printf("records: %llu, from %s to %s: each follows on the one before, is there once and adds up\n", (unsigned long long)v->records, first, last);
    if (v->older)
        printf("of an earlier release, and without engines to add up: %llu\n", (unsigned long long)v->older);
    if (v->journals)
        printf("journals that say the same: %llu; records of theirs that are not collected yet: %llu\n", (unsigned long long)v->journals, (unsigned long long)v->behind);
    if (reports)
        printf("reports that are what the records give: %zu\n", count);
}

int cli_usage_verify(struct cli *c)
{
    const char *word = cli_word(c), *env = getenv("SEKI_LEDGER_DIR"), *dir = word ? word : env && *env ? env : DEFAULT_DIR, *reports = cli_flag(c, "--reports");
    struct usage_verdict v;
    struct err err = ERR_INIT;
    size_t count = 0;
    int rc = cli_no_more(c);
    if (rc != 0)
        return rc;
    rc = billing_verify(dir, &v, &err);
    if (rc == ERR_NOT_FOUND)
        fprintf(stderr, "seki: there is no usage ledger in %s; name the directory that has the files usage.000001 …\n", dir);
    else if (rc < 0)
        bad(dir, &err);
    else if (!reports || check_reports(reports, &v, &count) == 0)
        print_verdict(c, &v, reports, count);
    else
        rc = -1;
    usage_verdict_deinit(&v);
    return rc < 0 ? 1 : 0;
}
