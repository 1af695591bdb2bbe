/* The seki command line: a table of verbs (seki.c), each in a file cli_VERB.c.
 *
 * A verb gets the words after its name, parses its own flags with cli_flag(), and returns the exit status: 0 done, 1 failed, 2 used wrongly. Results go to stdout,
 * errors to stderr as one line "seki: …" that says what to do. The API is reached through a kubeconfig as kubectl's ($KUBECONFIG, --kubeconfig), the gateway through
 * OPENAI_BASE_URL, OPENAI_API_KEY and SEKI_MODEL, as OpenAI's SDKs do.
 */
#ifndef SEKI_CMD_CLI_H
#define SEKI_CMD_CLI_H

#include "base/arena.h"
#include "client/client.h"
#include "kinds/kind.h"

struct cli {
    struct arena *arena;
    const char *kubeconfig; /* --kubeconfig, or NULL */
    const char *ns;         /* -n, or the kubeconfig's */
    const char *output;     /* "table" | "json" */
    bool terminal;          /* stdout is one: colours are welcome */
    struct client *client;  /* after cli_connect */
    char **words;           /* what is left for the verb; ends in NULL */
};

struct cli_verb {
    const char *name; /* "key create" */
    const char *args; /* "NAME [--expires DURATION]" */
    const char *help;
    int (*run)(struct cli *c);
    const char *flags; /* for completion: "--expires --endpoint" */
};

int cli_status(struct cli *c);
int cli_wait(struct cli *c);
int cli_chat(struct cli *c);
int cli_key_create(struct cli *c);
int cli_key_list(struct cli *c);
int cli_key_revoke(struct cli *c);
int cli_usage(struct cli *c);
int cli_logs(struct cli *c);

/* Takes "--name VALUE" or "--name=VALUE" out of the words; NULL when absent. Leaves with status 2 when the value is missing. */
const char *cli_flag(struct cli *c, const char *name);
/* Takes "--name" out of the words. */
bool cli_switch(struct cli *c, const char *name);
/* Takes the next word that is no flag; NULL when there is none. */
const char *cli_word(struct cli *c);
/* 0 when no word is left; else says which is unexpected and returns 2. */
int cli_no_more(struct cli *c);
/* Makes c->client; on failure prints and returns 1. */
int cli_connect(struct cli *c);
int cli_fail(const struct err *err); /* prints, returns 1 */
int cli_usage_error(const char *fmt, ...) PRINTF(1, 2); /* prints, returns 2 */

/* Columns aligned by display width (wide CJK characters count two). */
struct cli_table;
struct cli_table *cli_table_new(struct arena *a, const char *const *heads); /* ends in NULL */
void cli_table_row(struct cli_table *t, const char *const *cells);          /* as many as heads; NULL prints as - */
void cli_table_print(const struct cli_table *t, bool bold_heads);
size_t cli_width(const char *utf8);
/* "12s", "5m", "3h", "2d": the age of an RFC 3339 time. */
const char *cli_age(struct arena *a, const char *time_text);

#endif
