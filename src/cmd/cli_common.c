#include "cmd/cli.h"

#include "base/clock.h"
#include "base/mem.h"
#include "base/vec.h"

#include <wchar.h>

static void drop_word(char **w, int count)
{
    while ((w[0] = w[count]))
        w++;
}

const char *cli_flag(struct cli *c, const char *name)
{
    size_t len = strlen(name);
    for (char **w = c->words; *w; w++) {
        if (!strcmp(*w, "--"))
            return NULL;
        if (strncmp(*w, name, len) != 0)
            continue;
        if ((*w)[len] == '=') {
            const char *value = *w + len + 1;
            drop_word(w, 1);
            return value;
        }
        if ((*w)[len] == 0) {
            if (!w[1])
                exit(cli_usage_error("%s needs a value", name));
            const char *value = w[1];
            drop_word(w, 2);
            return value;
        }
    }
    return NULL;
}

bool cli_switch(struct cli *c, const char *name)
{
    for (char **w = c->words; *w && strcmp(*w, "--") != 0; w++)
        if (!strcmp(*w, name)) {
            drop_word(w, 1);
            return true;
        }
    return false;
}

const char *cli_word(struct cli *c)
{
    for (char **w = c->words; *w; w++) {
        if (!strcmp(*w, "--")) {
            const char *word = w[1];
            if (word)
                drop_word(w + 1, 1);
            return word;
        }
        if ((*w)[0] == '-' && (*w)[1])
            continue;
        const char *word = *w;
        drop_word(w, 1);
        return word;
    }
    return NULL;
}

int cli_no_more(struct cli *c)
{
    char **w = c->words;
    if (*w && !strcmp(*w, "--"))
        w++;
    return *w ? cli_usage_error("unexpected argument %s", *w) : 0;
}

int cli_connect(struct cli *c)
{
    struct err err = ERR_INIT;
    char ns[256] = "";
    if (client_kubeconfig(c->kubeconfig, &c->client, ns, sizeof(ns), &err) < 0) {
        cli_fail(&err);
        fputs("seki: point KUBECONFIG or --kubeconfig at the file that sekid wrote (admin.kubeconfig)\n", stderr);
        return 1;
    }
    if (!c->ns)
        c->ns = arena_strdup(c->arena, *ns ? ns : "default");
    return 0;
}

int cli_fail(const struct err *err)
{
    if (err->field[0] && !strstr(err->msg, err->field))
        fprintf(stderr, "seki: %s: %s\n", err->field, err->msg);
    else
        fprintf(stderr, "seki: %s\n", err->msg);
    return 1;
}

int cli_usage_error(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fputs("seki: ", stderr);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputs("; see seki --help\n", stderr);
    return 2;
}

/* ---- tables ---- */

struct row {
    const char **cells;
};

struct cli_table {
    struct arena *arena;
    size_t columns;
    const char *const *heads;
    VEC(struct row) rows;
};

struct cli_table *cli_table_new(struct arena *a, const char *const *heads)
{
    struct cli_table *t = ARENA_NEW(a, struct cli_table);
    t->arena = a;
    t->heads = heads;
    while (heads[t->columns])
        t->columns++;
    return t;
}

void cli_table_row(struct cli_table *t, const char *const *cells)
{
    const char **row = ARENA_ARRAY(t->arena, const char *, t->columns);
    for (size_t i = 0; i < t->columns; i++)
        row[i] = cells[i] && *cells[i] ? arena_strdup(t->arena, cells[i]) : "-";
    VEC_PUSH(&t->rows)->cells = row;
}

size_t cli_width(const char *utf8)
{
    size_t width = 0, len = strlen(utf8);
    mbstate_t state = {0};
    while (len) {
        wchar_t wc;
        size_t n = mbrtowc(&wc, utf8, len, &state);
        if (n == 0 || n > len) { /* not text in this locale: count the byte */
            memset(&state, 0, sizeof(state));
            n = 1;
            width++;
        } else {
            int w = wcwidth(wc);
            width += w > 0 ? (size_t)w : 0;
        }
        utf8 += n;
        len -= n;
    }
    return width;
}

static void print_row(const char *const *cells, const size_t *widths, size_t columns)
{
    for (size_t i = 0; i < columns; i++) {
        fputs(cells[i], stdout);
        if (i + 1 == columns)
            break;
        for (size_t pad = widths[i] + 3 - cli_width(cells[i]); pad > 0; pad--)
            putchar(' ');
    }
    putchar('\n');
}

void cli_table_print(const struct cli_table *t, bool bold_heads)
{
    size_t *widths = ARENA_ARRAY(t->arena, size_t, t->columns);
    for (size_t i = 0; i < t->columns; i++) {
        widths[i] = cli_width(t->heads[i]);
        VEC_FOREACH (&t->rows, row)
            widths[i] = MAX(widths[i], cli_width(row->cells[i]));
    }
    if (bold_heads)
        fputs("\033[1m", stdout);
    print_row(t->heads, widths, t->columns);
    if (bold_heads)
        fputs("\033[0m", stdout);
    VEC_FOREACH (&t->rows, row)
        print_row(row->cells, widths, t->columns);
}

const char *cli_age(struct arena *a, const char *time_text)
{
    int64_t then;
    if (!time_text || clock_parse(str_of(time_text), &then) < 0)
        return "-";
    char text[CLOCK_AGE_MAX];
    clock_format_age(clock_wall_ms() - then, text);
    return arena_strdup(a, text);
}
