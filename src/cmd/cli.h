/* The seki command line: a table of verbs (cli_verbs.c), each in a file cli_VERB.c.
 *
 * The table says what a verb takes; parsing (cli_args.c), help and shell completion (cli_help.c) come from it. A verb gets the parsed flags and words, and returns
 * the exit status: 0 done, 1 failed, 2 used wrongly. Results go to stdout, errors to stderr as "seki: …", saying what to do. The API is reached through a kubeconfig
 * as kubectl's ($KUBECONFIG, --kubeconfig), the gateway through OPENAI_BASE_URL, OPENAI_API_KEY and SEKI_MODEL, as OpenAI's SDKs do.
 */
#ifndef SEKI_CMD_CLI_H
#define SEKI_CMD_CLI_H

#include "base/arena.h"
#include "base/vec.h"
#include "client/client.h"
#include "kinds/kind.h"

struct cli_flag {
    const char *name;     /* "--expires" */
    const char *value;    /* "DURATION"; NULL: a switch */
    const char *help;
    const char *complete; /* what completion offers: words, "@file", "@dir"; or NULL */
    char letter;          /* 'n' for -n; 0: none */
    bool many;            /* may be given again */
};

struct cli;
struct cli_verb {
    const char *name; /* "key create" */
    const char *args; /* "NAME" */
    const char *help;
    const char *more; /* paragraphs and examples for its --help; or NULL */
    int (*run)(struct cli *c);
    const struct cli_flag *flags; /* ends with name NULL; or NULL */
    const char *complete;         /* words that its arguments may be, for completion; or NULL */
    bool csv, wide;               /* knows -o csv, -o wide */
};

struct cli_value {
    const struct cli_flag *flag;
    const char *text;
    bool taken;
};

struct cli {
    struct arena *arena;
    const struct cli_verb *verb;
    const char *kubeconfig; /* --kubeconfig, or NULL */
    const char *ns;         /* -n, or after cli_connect the kubeconfig's */
    bool json, csv, wide;   /* -o json, -o csv, -o wide */
    bool color;             /* stdout is a terminal and NO_COLOR is not set */
    struct client *client;  /* after cli_connect */
    VEC(struct cli_value) values;
    VEC(const char *) words; /* what is left for the verb, from next_word on */
    size_t next_word;
};

extern const struct cli_verb cli_verbs[];
extern const size_t cli_verb_count;
extern const struct cli_flag cli_global_flags[]; /* end with name NULL */

int cli_status(struct cli *c);
int cli_wait(struct cli *c);
int cli_chat(struct cli *c);
int cli_adopt(struct cli *c);
int cli_key_create(struct cli *c);
int cli_key_list(struct cli *c);
int cli_key_revoke(struct cli *c);
int cli_cluster_create(struct cli *c);
int cli_cluster_kubeconfig(struct cli *c);
int cli_cluster_delete(struct cli *c);
int cli_cluster_logs(struct cli *c);
int cli_cluster_audit(struct cli *c);
int cli_cluster_backup(struct cli *c);
int cli_cluster_backups(struct cli *c);
int cli_cluster_restore(struct cli *c);
int cli_cluster_upgrade(struct cli *c);
int cli_usage(struct cli *c);
int cli_usage_verify(struct cli *c);
int cli_slo(struct cli *c);
int cli_residency_check(struct cli *c);
int cli_logs(struct cli *c);
int cli_tenant_create(struct cli *c);
int cli_tenant_list(struct cli *c);
int cli_tenant_suspend(struct cli *c);
int cli_tenant_resume(struct cli *c);
int cli_tenant_close(struct cli *c);
int cli_audit_verify(struct cli *c);
int cli_audit_list(struct cli *c);
int cli_audit_export(struct cli *c);
int cli_support_bundle(struct cli *c);
int cli_login(struct cli *c);
int cli_logout(struct cli *c);
int cli_credential(struct cli *c);
int cli_break_glass(struct cli *c);
int cli_secrets_rotate(struct cli *c);
int cli_secrets_status(struct cli *c);
int cli_backup(struct cli *c);
int cli_backup_keygen(struct cli *c);
int cli_backup_verify(struct cli *c);
int cli_restore(struct cli *c);
int cli_upgrade_status(struct cli *c);
int cli_upgrade_finish(struct cli *c);
int cli_rollback(struct cli *c);
int cli_completion(struct cli *c);
int cli_version(struct cli *c);

/* ---- cli_cluster.c ---- */
/* The cluster's NAME, the only word. 0; or 2 with the reason printed. */
int cli_cluster_name(struct cli *c, const char **ret);
/* Prints why a cluster could not be had, or that there is none; returns 1. */
int cli_cluster_missing(struct cli *c, const char *name, const struct err *err);

/* ---- cli_args.c ---- */

/* Sorts argv into verb, flags and words. 0; or 2 with the reason printed. With ret_help, help is wanted: of c->verb, or of all when that is NULL. */
int cli_parse(struct cli *c, char **argv, bool *ret_help);
/* The flag's value, or NULL. For one that may be given again: the next one. */
const char *cli_flag(struct cli *c, const char *name);
bool cli_switch(struct cli *c, const char *name);
/* The next word, or NULL. */
const char *cli_word(struct cli *c);
/* 0 when no word is left; else says which is unexpected and returns 2. */
int cli_no_more(struct cli *c);

/* ---- cli_help.c ---- */
void cli_print_help(void);
void cli_print_verb_help(const struct cli_verb *v);
/* Of the verbs that begin with these words (second: NULL for none). False, and nothing printed, when there are none. */
bool cli_print_help_of(const char *first, const char *second);
/* Says which verbs there are instead; returns 2. */
int cli_no_such_verb(const char *first, const char *second);

/* ---- cli_common.c ---- */

/* Makes c->client; on failure prints and returns 1. */
int cli_connect(struct cli *c);
/* Prints what the API answered, or why it did not, and what to do; returns 1. */
int cli_fail(const struct err *err);
/* The text without what a terminal would obey; for whatever others wrote: servers, engines, other projects. Lines and tabs stay. Lives as long as a. */
const char *cli_plain(struct arena *a, const char *text);
char *cli_make_plain(char *text); /* the same, in its place */
/* --data, $SEKI_DATA, or where the package puts it. */
const char *cli_data_directory(struct cli *c);
/* For what is kept or handed on: the path as seen from anywhere. NULL stays NULL. */
const char *cli_absolute(struct arena *a, const char *path);
/* In quotes where a shell would see more than one plain word. */
const char *cli_shell_word(struct arena *a, const char *text);
int cli_usage_error(const char *fmt, ...) PRINTF(1, 2); /* prints, returns 2 */
/* For an empty list: whether the project is there at all. 0; or 1 with the reason printed. */
int cli_check_project(struct cli *c);
/* An object or an array of them, without metadata.managedFields, as kubectl shows them. These are taken out of j. */
void cli_print_json(json_t *j);

/* Columns aligned by display width (wide CJK characters count two). Control characters of cells are shown as '?'. */
struct cli_table;
struct cli_table *cli_table_new(struct arena *a, const char *const *heads); /* ends in NULL */
void cli_table_row(struct cli_table *t, const char *const *cells);          /* as many as heads; NULL prints as - */
/* Cells of that column lose their middle ("system:serviceacc…e:robot") where rows are else wider
 * than the terminal, or than 120 columns where there is none. */
void cli_table_cut(struct cli_table *t, const char *head);
void cli_table_print(const struct cli_table *t, bool bold_heads);
/* As RFC 4180 has it: commas, quotes where they are needed, CR LF; empty cells are empty. */
void cli_table_print_csv(const struct cli_table *t);
size_t cli_table_rows(const struct cli_table *t);
size_t cli_width(const char *utf8);
/* "12s", "5m", "3h", "2d": the age of an RFC 3339 time. */
const char *cli_age(struct arena *a, const char *time_text);

#endif
