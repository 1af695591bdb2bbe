#include "cmd/cli.h"

#include "base/clock.h"
#include "base/mem.h"

#include <sys/ioctl.h>
#include <unistd.h>
#include <wchar.h>
#include <wctype.h>

#define JSON_OUT_MAX (64 * 1024 * 1024)
#define DEFAULT_DATA "/var/lib/seki"
/* Of a table with columns that may be cut, where no terminal says otherwise; and of such a column,
 * at the least. */
#define CUT_WIDTH 120
#define CUT_MIN 12

int cli_connect(struct cli *c)
{
    struct err err = ERR_INIT;
    char ns[256] = "";
    if (client_kubeconfig(c->kubeconfig, &c->client, ns, sizeof(ns), &err) < 0) {
        fprintf(stderr, "seki: %s; point KUBECONFIG or --kubeconfig at the file that sekid wrote (DATA/admin.kubeconfig)\n", err.msg);
        return 1;
    }
    if (!c->ns)
        c->ns = arena_strdup(c->arena, *ns ? ns : "default");
    return 0;
}

/* What to do about an error of the API's client. */
static const char *advice(const struct err *err)
{
    if (strstr(err->msg, "certificate") || strstr(err->msg, "SSL"))
        return "; is the kubeconfig of this Seki? (DATA/admin.kubeconfig is written anew at each start)";
    switch (err->code) {
    case ERR_CLOSED:
    case ERR_IO:
    case ERR_TIMEOUT:
        return "; is sekid running? (systemctl status seki-control, or make run)";
    case ERR_UNAUTHENTICATED:
        return "; the kubeconfig's certificate or token is not accepted here: use the one that sekid wrote (DATA/admin.kubeconfig)";
    default:
        return "";
    }
}

/* In UTF-8: C0 and DEL are a byte, C1 is C2 80 to C2 9F. */
char *cli_make_plain(char *text)
{
    char *to = text;
    for (const unsigned char *c = (const unsigned char *)text; *c; c++) {
        bool wide = c[0] == 0xC2 && c[1] >= 0x80 && c[1] < 0xA0;
        bool order = (*c < 0x20 && *c != '\n' && *c != '\t') || *c == 0x7f;
        *to++ = wide || order ? '?' : (char)*c;
        c += wide;
    }
    *to = 0;
    return text;
}

const char *cli_data_directory(struct cli *c)
{
    const char *flag = cli_flag(c, "--data"), *env = getenv("SEKI_DATA");
    return flag ? flag : env && *env ? env : DEFAULT_DATA;
}

const char *cli_absolute(struct arena *a, const char *path)
{
    char cwd[4096];
    return !path || *path == '/' || !getcwd(cwd, sizeof(cwd)) ? path : arena_printf(a, "%s/%s", cwd, path);
}

const char *cli_shell_word(struct arena *a, const char *text)
{
    CLEANUP(sbuf_deinit) struct sbuf out = {0};
    if (*text && strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./:") == strlen(text))
        return text;
    sbuf_init(&out, 4 * strlen(text) + 2);
    sbuf_add_char(&out, '\'');
    for (const char *p = text; *p; p++)
        sbuf_add(&out, *p == '\'' ? STR("'\\''") : str_n(p, 1));
    sbuf_add_char(&out, '\'');
    return arena_strndup(a, sbuf_str(&out));
}

const char *cli_plain(struct arena *a, const char *text)
{
    return cli_make_plain(arena_strdup(a, text));
}

int cli_fail(const struct err *err)
{
    struct err plain = *err;
    bool named = !err->field[0] || strstr(err->msg, err->field);
    fprintf(stderr, "seki: %s%s%s%s\n", named ? "" : cli_make_plain(plain.field), named ? "" : ": ", cli_make_plain(plain.msg), advice(err));
    return 1;
}

int cli_check_project(struct cli *c)
{
    const struct kind *k = kind_by_name("Namespace");
    struct client_resource r = kind_resource(k);
    struct err err = ERR_INIT;
    JSON_AUTO ns = NULL;
    if (client_get(c->client, &r, NULL, c->ns, &ns, &err) != ERR_NOT_FOUND)
        return 0; /* it is there, or one may not look */
    fprintf(stderr, "seki: there is no project %s; `kubectl get namespaces` lists them, -n chooses one\n", c->ns);
    return 1;
}

static void drop_managed_fields(json_t *obj)
{
    json_object_del(json_object_get(obj, "metadata"), "managedFields");
}

void cli_print_json(json_t *j)
{
    size_t i;
    json_t *item;
    drop_managed_fields(j);
    json_array_foreach (j, i, item)
        drop_managed_fields(item);
    CLEANUP(sbuf_deinit) struct sbuf out = {0};
    sbuf_init(&out, JSON_OUT_MAX);
    json_write_pretty(j, &out);
    puts(out.ptr ? out.ptr : "");
}

int cli_usage_error(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fputs("seki: ", stderr);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputs("; seki --help and seki VERB --help tell more\n", stderr);
    return 2;
}

/* ---- tables ---- */

struct cli_table {
    struct arena *arena;
    size_t columns, rows, room;
    const char *const *heads;
    const char **cells; /* row by row */
    uint64_t cut;       /* columns that may be cut, a bit each */
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

/* Nothing that a terminal would obey. */
static const char *printable(struct arena *a, const char *text)
{
    size_t len = strlen(text), i = 0;
    char *copy = arena_strdup(a, text);
    mbstate_t state = {0};
    while (i < len) {
        wchar_t wc;
        size_t n = mbrtowc(&wc, text + i, len - i, &state);
        bool bad = n == 0 || n > len - i;
        if (bad)
            memset(&state, 0, sizeof(state)), n = 1;
        if (bad || iswcntrl((wint_t)wc))
            memset(copy + i, '?', n);
        i += n;
    }
    return copy;
}

void cli_table_row(struct cli_table *t, const char *const *cells)
{
    if (t->rows == t->room) {
        t->room = MAX(t->room * 2, (size_t)16);
        const char **more = ARENA_ARRAY(t->arena, const char *, t->room * t->columns);
        if (t->rows)
            memcpy(more, t->cells, t->rows * t->columns * sizeof(*more));
        t->cells = more;
    }
    const char **row = t->cells + t->rows++ * t->columns;
    for (size_t i = 0; i < t->columns; i++)
        row[i] = cells[i] && *cells[i] ? printable(t->arena, cells[i]) : "-";
}

size_t cli_table_rows(const struct cli_table *t)
{
    return t->rows;
}

void cli_table_cut(struct cli_table *t, const char *head)
{
    for (size_t i = 0; i < t->columns; i++)
        if (!strcmp(t->heads[i], head))
            t->cut |= UINT64_C(1) << i;
}

/* The bytes of the first character, and its width. */
static size_t first_char(const char *utf8, size_t len, size_t *ret_width)
{
    mbstate_t state = {0};
    wchar_t wc;
    size_t n = mbrtowc(&wc, utf8, len, &state);
    bool known = n > 0 && n <= len; /* else not text in this locale: count the byte */
    int w = known ? wcwidth(wc) : 1;
    *ret_width = w > 0 ? (size_t)w : 0;
    return known ? n : 1;
}

size_t cli_width(const char *utf8)
{
    size_t width = 0, len = strlen(utf8), w, n;
    for (; len; utf8 += n, len -= n) {
        n = first_char(utf8, len, &w);
        width += w;
    }
    return width;
}

/* Without its middle: both ends of a name say most, and the first one more. */
static const char *without_middle(struct arena *a, const char *text, size_t width)
{
    size_t left = cli_width(text), len = strlen(text), w = 0, taken = 0, head = 0, n;
    if (left <= width)
        return text;
    for (; (n = first_char(text + head, len - head, &w)) && taken + w <= (width - 1) * 2 / 3;
         head += n)
        taken += w;
    const char *tail = text + head;
    for (left -= taken; left > width - 1 - taken; tail += n) {
        n = first_char(tail, strlen(tail), &w);
        left -= w;
    }
    return arena_printf(a, "%.*s…%s", (int)head, text, tail);
}

static void print_row(const struct cli_table *t, const char *const *cells, const size_t *widths,
                      size_t gap)
{
    for (size_t i = 0; i < t->columns; i++) {
        const char *cell =
            t->cut >> i & 1 ? without_middle(t->arena, cells[i], widths[i]) : cells[i];
        fputs(cell, stdout);
        if (i + 1 == t->columns)
            break;
        for (size_t pad = widths[i] + gap, w = cli_width(cell); pad > w; pad--)
            putchar(' ');
    }
    putchar('\n');
}

/* That a row may have; SIZE_MAX: any. */
static size_t width_of_output(const struct cli_table *t)
{
    struct winsize size;
    if (isatty(STDOUT_FILENO) && ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col)
        return size.ws_col;
    return t->cut ? CUT_WIDTH : SIZE_MAX;
}

/* Columns with what is between them, as kubectl has it; closer where there is not room for that,
 * and then with the widest of those cut that may be. */
static size_t fit(const struct cli_table *t, size_t *widths)
{
    size_t gap = 3, all = 0, most = width_of_output(t);
    for (size_t i = 0; i < t->columns; i++)
        all += widths[i];
    while (gap > 1 && all + gap * (t->columns - 1) > most)
        gap--;
    for (; all + gap * (t->columns - 1) > most; all--) {
        size_t widest = t->columns;
        for (size_t i = 0; i < t->columns; i++)
            if ((t->cut >> i & 1) && widths[i] > CUT_MIN &&
                (widest == t->columns || widths[i] > widths[widest]))
                widest = i;
        if (widest == t->columns)
            break;
        widths[widest]--;
    }
    return gap;
}

void cli_table_print(const struct cli_table *t, bool bold_heads)
{
    size_t *widths = ARENA_ARRAY(t->arena, size_t, t->columns);
    for (size_t i = 0; i < t->columns; i++) {
        widths[i] = cli_width(t->heads[i]);
        for (size_t r = 0; r < t->rows; r++)
            widths[i] = MAX(widths[i], cli_width(t->cells[r * t->columns + i]));
    }
    size_t gap = fit(t, widths);
    if (bold_heads)
        fputs("\033[1m", stdout);
    print_row(t, t->heads, widths, gap);
    if (bold_heads)
        fputs("\033[0m", stdout);
    for (size_t r = 0; r < t->rows; r++)
        print_row(t, t->cells + r * t->columns, widths, gap);
}

static void print_csv(const char *const *cells, size_t columns)
{
    for (size_t i = 0; i < columns; i++) {
        const char *cell = strcmp(cells[i], "-") != 0 ? cells[i] : "";
        bool quoted = strpbrk(cell, ",\"") != NULL;
        if (i)
            putchar(',');
        if (quoted)
            putchar('"');
        for (; *cell; cell++) {
            if (*cell == '"')
                putchar('"');
            putchar(*cell);
        }
        if (quoted)
            putchar('"');
    }
    fputs("\r\n", stdout);
}

void cli_table_print_csv(const struct cli_table *t)
{
    print_csv(t->heads, t->columns);
    for (size_t r = 0; r < t->rows; r++)
        print_csv(t->cells + r * t->columns, t->columns);
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
