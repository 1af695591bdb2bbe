/* seki audit: the audit ledger. Its files, on the machine where they lie or on a copy of them, without asking a daemon; a tenant's part of it also through the API. */
#include "base/clock.h"
#include "cmd/cli.h"
#include "crypto/hash.h"
#include "kinds/tenancy.h"
#include "ledger/audit.h"
#include "ledger/ledger.h"

#define DEFAULT_DIR "/var/lib/seki/ledger"
#define PAGE 500

/* NULL: none is named. */
static const char *named_directory(struct cli *c)
{
    const char *word = cli_word(c), *env = getenv("SEKI_LEDGER_DIR");
    return word ? word : env && *env ? env : NULL;
}

static const char *directory(struct cli *c)
{
    const char *named = named_directory(c);
    return named ? named : DEFAULT_DIR;
}

static int missing(const char *dir)
{
    fprintf(stderr, "seki: there is no audit ledger in %s; name the directory that has the files %s.000001 …\n", dir, AUDIT_LEDGER);
    return 1;
}

struct walk {
    struct arena *arena; /* of one record */
    int (*show)(struct walk *w, const struct audit_event *e, const struct ledger_record *rec);
    const char *tenant; /* NULL: all */
    bool tenant_shown;  /* whoever sends the records has seen to that */
    uint64_t count;
    int64_t first_ms, last_ms;
    bool json;
    uint64_t wanted; /* the record whose hash is asked for; 0: none */
    char hash[SHA256_HEX_MAX];
    uint64_t end; /* the last record that was read, and its hash: the ledger may have grown since */
    char end_hash[SHA256_HEX_MAX];
    struct err err;
    struct cli_table *table;
    struct arena *table_arena;
};

static bool on_record(void *arg, const struct ledger_record *rec)
{
    struct walk *w = arg;
    struct audit_event e;
    arena_reset(w->arena);
    if (audit_decode(rec->body, w->arena, &e, &w->err) < 0) {
        err_wrap(&w->err, "record %llu", (unsigned long long)rec->sequence);
        return false;
    }
    if (w->wanted && rec->sequence == w->wanted + 1)
        hash_hex(rec->prev_hash, sizeof(rec->prev_hash), w->hash);
    w->first_ms = w->count ? w->first_ms : rec->time_ms;
    w->last_ms = rec->time_ms;
    if (w->tenant && !w->tenant_shown && !str_eqc(e.tenant, w->tenant))
        return true;
    w->count++;
    if (w->show && w->show(w, &e, rec) < 0)
        return false;
    return true;
}

/* 0, or the exit status with the reason printed. */
static int walk_all(struct walk *w, const char *dir, uint64_t after)
{
    struct ledger_reader *r;
    struct err err = ERR_INIT;
    char id[LEDGER_ID_TEXT];
    uint8_t hash[SHA256_BYTES];
    if (ledger_reader_open(dir, AUDIT_LEDGER, &r, &err) < 0)
        return cli_fail(&err);
    int rc = ledger_reader_id(r, id, &err);
    if (rc == ERR_NOT_FOUND) {
        ledger_reader_close(r);
        return missing(dir);
    }
    w->arena = arena_new(1024 * 1024);
    if (rc == 0)
        rc = ledger_read(r, after, on_record, w, &err);
    if (rc == 0 && w->err.code) {
        err = w->err;
        rc = err.code;
    }
    ledger_reader_end(r, &w->end, hash);
    hash_hex(hash, sizeof(hash), w->end_hash);
    arena_free(w->arena);
    ledger_reader_close(r);
    return rc < 0 ? cli_fail(&err) : 0;
}

/* A record as the API shows it, in the form of a ledger's. */
static bool on_item(struct walk *w, json_t *item)
{
    CLEANUP(sbuf_deinit) struct sbuf body = {0};
    struct ledger_record rec = {.sequence = (uint64_t)json_int(item, "sequence", 0)};
    (void)!clock_parse(str_of(json_str_or(item, "time", "")), &rec.time_ms);
    (void)!hash_unhex(str_of(json_str_or(item, "previous_sha256", "")), rec.prev_hash, sizeof(rec.prev_hash));
    static const char *const added[] = {"apiVersion", "kind", "sequence", "time", "previous_sha256"};
    for (size_t i = 0; i < ARRAY_LEN(added); i++)
        json_object_del(item, added[i]);
    sbuf_init(&body, LEDGER_BODY_MAX);
    json_write(item, &body);
    rec.body = sbuf_str(&body);
    return on_record(w, &rec);
}

static int show_page(struct walk *w, const json_t *page, struct err *err)
{
    size_t i;
    json_t *item;
    json_array_foreach (json_object_get(page, "items"), i, item)
        if (!on_item(w, item)) {
            *err = w->err;
            return err->code ? err->code : err_set(err, ERR_IO, "the output takes nothing more");
        }
    return 0;
}

/* Of w->tenant, page by page. 0, or the exit status with the reason printed. */
static int walk_api(struct cli *c, struct walk *w, uint64_t after)
{
    CLEANUP(sbuf_deinit) struct sbuf path = {0};
    struct err err = ERR_INIT;
    char token[256] = "";
    int rc = cli_connect(c);
    if (rc != 0)
        return rc;
    w->tenant_shown = true;
    w->arena = arena_new(1024 * 1024);
    sbuf_init(&path, 2048);
    do {
        JSON_AUTO page = NULL;
        sbuf_reset(&path);
        kind_path(&kind_tenant, NULL, w->tenant, "audit", &path);
        sbuf_addf(&path, "?limit=%d&after=%llu%s%s", PAGE, (unsigned long long)after, *token ? "&continue=" : "", token);
        rc = client_get_path(c->client, path.ptr, &page, &err);
        if (rc == 0)
            rc = show_page(w, page, &err);
        if (rc == 0 && !str_to_array(str_of(json_str_or(page, "metadata.continue", "")), token, sizeof(token)))
            rc = err_set(&err, ERR_INVALID, "the API answers with a token that is too long");
    } while (rc == 0 && *token);
    arena_free(w->arena);
    return rc < 0 ? cli_fail(&err) : 0;
}

/* A tenant's part comes through the API unless files are named on the command line. */
static int walk(struct cli *c, struct walk *w, uint64_t after)
{
    const char *named = w->tenant ? cli_word(c) : named_directory(c);
    int rc = cli_no_more(c);
    if (rc != 0)
        return rc;
    if (w->tenant && !field_dns_label(str_of(w->tenant)))
        return cli_usage_error("--tenant %s: expected the name of a tenant", w->tenant);
    return w->tenant && !named ? walk_api(c, w, after) : walk_all(w, named ? named : DEFAULT_DIR, after);
}

/* "SEQUENCE:SHA256". The hash may have any case. */
static int parse_record(const char *text, uint64_t *ret_sequence, const char **ret_hash)
{
    struct str rest = str_of(text), sequence;
    uint8_t bytes[SHA256_BYTES];
    if (!str_cut(&rest, ':', &sequence) || str_to_u64(sequence, ret_sequence) < 0 || !*ret_sequence || rest.len != 2 * sizeof(bytes) || !hash_unhex(rest, bytes, sizeof(bytes)))
        return cli_usage_error("--record %s: expected a record's sequence and hash, for example 1200:e3b0…", text);
    *ret_hash = rest.ptr;
    return 0;
}

/* The ledger is whole; whether it is the one that the record was in. */
static int check_record(const struct walk *w, const char *dir, const char *hash)
{
    const char *found = w->wanted == w->end ? w->end_hash : w->hash;
    if (!*found)
        fprintf(stderr, "seki: the audit ledger in %s has no record %llu: it was cut off before, or is another ledger\n", dir, (unsigned long long)w->wanted);
    else if (strcasecmp(found, hash) != 0)
        fprintf(stderr, "seki: record %llu of the audit ledger in %s has another hash, %s: this or an earlier record is not what it was\n", (unsigned long long)w->wanted, dir, found);
    return *found && !strcasecmp(found, hash) ? 0 : 1;
}

int cli_audit_verify(struct cli *c)
{
    struct walk w = {0};
    const char *record = cli_flag(c, "--record"), *hash = NULL;
    struct err err = ERR_INIT;
    uint64_t records;
    const char *dir = directory(c);
    char first[CLOCK_TEXT_MAX], last[CLOCK_TEXT_MAX];
    int rc = cli_no_more(c);
    if (rc != 0 || (record && (rc = parse_record(record, &w.wanted, &hash)) != 0))
        return rc;
    if (ledger_verify(dir, AUDIT_LEDGER, &records, &err) < 0) { /* also what is cut off at the end */
        fprintf(stderr, "seki: the audit ledger in %s does not verify: %s\n", dir, err.msg);
        return 1;
    }
    if ((rc = walk_all(&w, dir, 0)) != 0 || (hash && (rc = check_record(&w, dir, hash)) != 0))
        return rc;
    clock_format(w.first_ms, first);
    clock_format(w.last_ms, last);
    const char *end = w.count ? arena_printf(c->arena, "%llu:%s", (unsigned long long)w.end, w.end_hash) : "";
    if (c->json) {
        JSON_AUTO doc = json_pack("{s:b, s:I, s:s, s:s, s:s}", "verified", true, "records", (json_int_t)w.count, "first", first, "last", last, "record", end);
        cli_print_json(doc);
    } else if (!w.count) {
        puts("no records yet; the ledger is whole");
    } else {
        printf("%llu records from %s to %s: each follows on the one before, none is changed or missing\n", (unsigned long long)w.count, first, last);
        printf("whoever writes the files can make them whole again: note the last record "
               "elsewhere; later, or on a copy,\n  seki audit verify --record %s %s\n"
               "tells whether all up to it is still what it was\n",
               end, dir);
    }
    return 0;
}

/* ---- export ---- */

static int print_line(struct walk *w, const struct audit_event *e, const struct ledger_record *rec)
{
    CLEANUP(sbuf_deinit) struct sbuf text = {0};
    char hash[2 * sizeof(rec->prev_hash) + 1], time[CLOCK_TEXT_MAX];
    JSON_AUTO doc = NULL;
    sbuf_init(&text, 256 * 1024);
    hash_hex(rec->prev_hash, sizeof(rec->prev_hash), hash);
    if (w->json) {
        if (json_parse(rec->body, LEDGER_BODY_MAX, &doc, NULL) < 0)
            return 0;
        clock_format(rec->time_ms, time);
        json_object_set_new(doc, "sequence", json_integer((json_int_t)rec->sequence));
        json_object_set_new(doc, "time", json_string(time));
    } else {
        doc = audit_ocsf(e, rec->sequence, rec->time_ms, hash);
    }
    json_write(doc, &text);
    sbuf_add_char(&text, '\n');
    return fwrite(text.ptr, 1, text.len, stdout) == text.len ? 0 : -1;
}

int cli_audit_export(struct cli *c)
{
    struct walk w = {.show = print_line};
    const char *format = cli_flag(c, "--format"), *after = cli_flag(c, "--after");
    uint64_t from = 0;
    w.tenant = cli_flag(c, "--tenant");
    if (format && strcmp(format, "ocsf") != 0 && strcmp(format, "json") != 0)
        return cli_usage_error("--format %s: expected ocsf or json", format);
    if (after && str_to_u64(str_of(after), &from) < 0)
        return cli_usage_error("--after %s: expected the sequence of a record, for example 1200", after);
    w.json = format && !strcmp(format, "json");
    return walk(c, &w, from);
}

/* ---- list ---- */

static const char *text(struct walk *w, struct str s)
{
    return s.len ? arena_strndup(w->table_arena, s) : NULL;
}

/* In the order of the columns; what is for -o wide alone comes last. */
static const char *const all_heads[] = {"SEQUENCE", "TIME",   "TYPE",  "USER", "VERB",
                                        "OBJECT",   "RESULT", "TIMES", "RULE", NULL};
static const char *const heads[] = {"SEQUENCE", "TIME",   "TYPE",   "USER",
                                    "VERB",     "OBJECT", "RESULT", NULL};

static int add_row(struct walk *w, const struct audit_event *e, const struct ledger_record *rec)
{
    struct arena *a = w->table_arena;
    char time[CLOCK_TEXT_MAX];
    clock_format(rec->time_ms, time);
    bool is_path = e->name.len && e->name.ptr[0] == '/';
    const char *object = arena_printf(a, "%.*s%s%.*s%s%.*s", STR_ARG(e->resource), e->namespace.len ? " " : "", STR_ARG(e->namespace), is_path ? " " : e->name.len ? "/" : "", STR_ARG(e->name));
    const char *result = e->status ? arena_printf(a, "%d", e->status) : e->rev ? arena_printf(a, "rev %lld", (long long)e->rev) : "ok";
    cli_table_row(w->table, (const char *const[]){arena_printf(a, "%llu", (unsigned long long)rec->sequence), arena_strdup(a, time), audit_type_name(e->type), text(w, e->user), text(w, e->verb), object,
                                                  result, e->count > 1 ? arena_printf(a, "%lld", (long long)e->count) : "1", text(w, e->rule)});
    return 0;
}

static int print_item(struct walk *w, const struct audit_event *e, const struct ledger_record *rec)
{
    fputs(w->count == 1 ? "[\n" : ",\n", stdout);
    return print_line(w, e, rec);
}

/* An array, written as it is read: a ledger has no end. */
static int list_json(struct cli *c, struct walk *w, uint64_t from)
{
    w->json = true;
    w->show = print_item;
    int rc = walk(c, w, from);
    if (rc == 0)
        puts(w->count ? "]" : "[]");
    return rc;
}

int cli_audit_list(struct cli *c)
{
    struct walk w = {.show = add_row, .tenant = cli_flag(c, "--tenant")};
    const char *after = cli_flag(c, "--after");
    uint64_t from = 0;
    if (after && str_to_u64(str_of(after), &from) < 0)
        return cli_usage_error("--after %s: expected the sequence of a record, for example 1200", after);
    if (c->json)
        return list_json(c, &w, from);
    w.table_arena = arena_new((size_t)1 << 30);
    w.table = cli_table_new(w.table_arena, c->wide ? all_heads : heads);
    if (!c->wide) {
        cli_table_cut(w.table, "USER");
        cli_table_cut(w.table, "OBJECT");
    }
    int rc = walk(c, &w, from);
    if (rc == 0)
        cli_table_print(w.table, c->color);
    arena_free(w.table_arena);
    return rc;
}
