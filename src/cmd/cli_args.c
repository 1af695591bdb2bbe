/* argv → verb, flags, words, by the table of verbs. */
#include "cmd/cli.h"

static const struct cli_flag *find_in(const struct cli_flag *flags, struct str name, char letter)
{
    for (; flags && flags->name; flags++)
        if (letter ? flags->letter == letter : str_eqc(name, flags->name))
            return flags;
    return NULL;
}

static const struct cli_flag *find_flag(const struct cli *c, struct str name, char letter)
{
    const struct cli_flag *f = find_in(cli_global_flags, name, letter);
    return f || !c->verb ? f : find_in(c->verb->flags, name, letter);
}

/* The verb of the words so far: of "backup" and "backup verify" the longer one. NULL when there is none, or when one more word is needed. */
static const struct cli_verb *find_verb(struct cli *c)
{
    const char *first = c->words.ptr[0], *second = c->words.len > 1 ? c->words.ptr[1] : NULL;
    const struct cli_verb *found = NULL;
    for (size_t i = 0; i < cli_verb_count; i++) {
        struct str rest = str_of(cli_verbs[i].name), word;
        str_cut(&rest, ' ', &word);
        if (!str_eqc(word, first) || (rest.len && (!second || !str_eqc(rest, second))) || (found && !rest.len))
            continue;
        c->next_word = rest.len ? 2 : 1;
        found = &cli_verbs[i];
    }
    return found;
}

static int take_value(struct cli *c, const struct cli_flag *f, const char *text)
{
    VEC_FOREACH (&c->values, v)
        if (v->flag == f && f->value && !f->many)
            return cli_usage_error("%s is given twice", f->name);
    *VEC_PUSH(&c->values) = (struct cli_value){.flag = f, .text = text};
    return 0;
}

/* --name, --name=VALUE, --name VALUE; *index moves past a separate value. */
static int take_long(struct cli *c, char **argv, size_t *index)
{
    struct str name = str_of(argv[*index]);
    ssize_t eq = str_find(name, '=');
    const char *value = eq >= 0 ? name.ptr + eq + 1 : NULL;
    if (eq >= 0)
        name.len = (size_t)eq;
    const struct cli_flag *f = find_flag(c, name, 0);
    if (!f)
        return cli_usage_error("unknown option %.*s%s%s", STR_ARG(name), c->verb ? " of " : " before a verb", c->verb ? c->verb->name : "");
    if (!f->value && value)
        return cli_usage_error("%s takes no value", f->name);
    if (f->value && !value)
        value = argv[*index + 1];
    if (f->value && (!value || (eq < 0 && !strncmp(value, "--", 2)))) /* an option; as a value it is written --name=--value */
        return cli_usage_error("%s needs a value: %s", f->name, f->value);
    if (f->value && eq < 0)
        ++*index;
    return take_value(c, f, value);
}

/* -x, -xVALUE, -x VALUE, and several switches in one word. */
static int take_short(struct cli *c, char **argv, size_t *index)
{
    for (const char *p = argv[*index] + 1; *p; p++) {
        const struct cli_flag *f = find_flag(c, STR_NULL, *p);
        if (!f)
            return cli_usage_error("unknown option -%c%s%s", *p, c->verb ? " of " : " before a verb", c->verb ? c->verb->name : "");
        if (!f->value) {
            int rc = take_value(c, f, NULL);
            if (rc)
                return rc;
            continue;
        }
        const char *value = p[1] ? p + 1 + (p[1] == '=') : argv[*index + 1];
        if (!value)
            return cli_usage_error("-%c needs a value: %s", *p, f->value);
        if (!p[1])
            ++*index;
        return take_value(c, f, value);
    }
    return 0;
}

static int take_globals(struct cli *c, bool *ret_help)
{
    const char *output = cli_flag(c, "--output");
    c->kubeconfig = cli_flag(c, "--kubeconfig");
    c->ns = cli_flag(c, "--namespace");
    *ret_help = cli_switch(c, "--help");
    if (c->ns && !*c->ns)
        return cli_usage_error("--namespace: expected a project's name");
    bool csv = c->verb && c->verb->csv;
    c->csv = csv && output && !strcmp(output, "csv");
    bool wide = c->verb && c->verb->wide;
    c->wide = wide && output && !strcmp(output, "wide");
    if (output && !c->csv && !c->wide && strcmp(output, "table") != 0 && strcmp(output, "json") != 0)
        return cli_usage_error("--output=%s: expected table%s%s json", output, wide ? ", wide" : "", csv ? ", csv or" : " or");
    c->json = output && !strcmp(output, "json");
    return 0;
}

int cli_parse(struct cli *c, char **argv, bool *ret_help)
{
    bool only_words = false;
    for (size_t i = 0; argv[i]; i++) {
        int rc = 0;
        if (!only_words && !strcmp(argv[i], "--")) {
            only_words = true;
        } else if (!only_words && !strncmp(argv[i], "--", 2)) {
            rc = take_long(c, argv, &i);
        } else if (!only_words && argv[i][0] == '-' && argv[i][1]) {
            rc = take_short(c, argv, &i);
        } else {
            *VEC_PUSH(&c->words) = argv[i];
            if (!c->verb || c->words.len == 2)
                c->verb = find_verb(c);
        }
        if (rc)
            return rc;
    }
    return take_globals(c, ret_help);
}

const char *cli_flag(struct cli *c, const char *name)
{
    VEC_FOREACH (&c->values, v)
        if (!v->taken && !strcmp(v->flag->name, name)) {
            v->taken = true;
            return v->text;
        }
    return NULL;
}

bool cli_switch(struct cli *c, const char *name)
{
    VEC_FOREACH (&c->values, v)
        if (!strcmp(v->flag->name, name))
            return true;
    return false;
}

const char *cli_word(struct cli *c)
{
    return c->next_word < c->words.len ? c->words.ptr[c->next_word++] : NULL;
}

int cli_no_more(struct cli *c)
{
    const char *word = cli_word(c);
    return word ? cli_usage_error("unexpected argument %s", word) : 0;
}
