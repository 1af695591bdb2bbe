/* Help and shell completion, from the table of verbs. */
#include "cmd/cli.h"
#include "cmd/wrap.h"

#define FLAG_COLUMN 31

static void print_flags(const struct cli_flag *flags)
{
    for (; flags && flags->name; flags++) {
        char text[80];
        snprintf(text, sizeof(text), "%s%s%s", flags->name, flags->value ? " " : "", flags->value ? flags->value : "");
        int at = printf("  %c%c%c %-24s ", flags->letter ? '-' : ' ',
                        flags->letter ? flags->letter : ' ', flags->letter ? ',' : ' ', text);
        wrap_print(str_of(flags->help), (size_t)MAX(at, FLAG_COLUMN), FLAG_COLUMN);
    }
}

void cli_print_help(void)
{
    int width = 0;
    for (size_t i = 0; i < cli_verb_count; i++)
        width = MAX(width, (int)strlen(cli_verbs[i].name));
    puts("Usage: seki VERB [ARGUMENT]... [OPTION]...\n");
    for (size_t i = 0; i < cli_verb_count; i++) {
        int at = printf("  %-*s  ", width, cli_verbs[i].name);
        wrap_print(str_of(cli_verbs[i].help), (size_t)at, (size_t)at);
    }
    puts("\nEverywhere:");
    print_flags(cli_global_flags);
    puts("\nseki VERB --help tells more. OPENAI_BASE_URL, OPENAI_API_KEY and SEKI_MODEL say where `chat` asks.");
}

static void print_own_help(const struct cli_verb *v)
{
    printf("Usage: seki %s%s%s%s\n\n  ", v->name, *v->args ? " " : "", v->args,
           v->flags ? " [OPTION]..." : "");
    wrap_print(str_of(v->help), 2, 2);
    if (v->more) {
        putchar('\n');
        wrap_print_paragraphs(str_of(v->more));
    }
    if (v->flags)
        puts("\nOptions:");
    print_flags(v->flags);
}

/* How many verbs begin with these words; with `print` their help. */
static size_t verbs_of(const char *first, const char *second, bool print)
{
    size_t found = 0;
    for (size_t i = 0; i < cli_verb_count; i++) {
        struct str rest = str_of(cli_verbs[i].name), word;
        str_cut(&rest, ' ', &word);
        if (!str_eqc(word, first) || (second && !str_eqc(rest, second)))
            continue;
        if (print && found)
            putchar('\n');
        if (print)
            print_own_help(&cli_verbs[i]);
        found++;
    }
    return found;
}

bool cli_print_help_of(const char *first, const char *second)
{
    if (!verbs_of(first, second, true))
        return false;
    puts("\nEverywhere:");
    print_flags(cli_global_flags);
    return true;
}

/* Of "backup" also those of "backup verify". */
void cli_print_verb_help(const struct cli_verb *v)
{
    if (!strchr(v->name, ' ')) {
        (void)cli_print_help_of(v->name, NULL);
        return;
    }
    print_own_help(v);
    puts("\nEverywhere:");
    print_flags(cli_global_flags);
}

/* The first words of verbs, each once; or with `first` the verbs of two words that begin with it: all of both words, or only the second. */
static void list_verbs(struct sbuf *out, const char *first, bool second_only)
{
    struct str last = STR_NULL;
    for (size_t i = 0; i < cli_verb_count; i++) {
        struct str rest = str_of(cli_verbs[i].name), word, name = rest;
        str_cut(&rest, ' ', &word);
        if (first ? !rest.len || !str_eqc(word, first) : str_eq(word, last))
            continue;
        last = word;
        sbuf_addf(out, "%s%.*s", out->len ? ", " : "", STR_ARG(!first ? word : second_only ? rest : name));
    }
}

int cli_no_such_verb(const char *first, const char *second)
{
    CLEANUP(sbuf_deinit) struct sbuf there = {0};
    sbuf_init(&there, 1024);
    bool begun = verbs_of(first, NULL, false) > 0;
    list_verbs(&there, begun ? first : NULL, begun && !second);
    if (begun && !second)
        return cli_usage_error("%s needs one more word: one of %s", first, there.ptr);
    return cli_usage_error("no such verb: %s%s%s; there are %s", first, begun ? " " : "", begun ? second : "", there.ptr);
}

/* ---- completion ---- */

/* The first words of verbs, each once; or the second words of verbs that begin with `first`. */
static void print_words(const char *first)
{
    const char *gap = "";
    struct str last = STR_NULL;
    for (size_t i = 0; i < cli_verb_count; i++) {
        struct str rest = str_of(cli_verbs[i].name), word;
        str_cut(&rest, ' ', &word);
        bool again = str_eq(word, last);
        last = word;
        if ((again && !first) || (first && (!rest.len || !str_eqc(word, first))))
            continue;
        printf("%s%.*s", gap, STR_ARG(first ? rest : word));
        gap = " ";
    }
}

static void print_bash_pattern(const struct cli_flag *f, const char *gap)
{
    printf("%s%s", gap, f->name);
    if (f->letter)
        printf("|-%c", f->letter);
}

/* case $prev in: the values of flags. which: "@file", "@dir", NULL for those without a list, "" for lists of words. */
static void print_bash_values(const struct cli_flag *flags)
{
    for (; flags && flags->name; flags++) {
        const char *what = flags->complete;
        if (!flags->value)
            continue;
        print_bash_pattern(flags, "        ");
        if (!what)
            puts(") return;;");
        else if (!strcmp(what, "@file"))
            puts(") compopt -o filenames; COMPREPLY=($(compgen -f -- \"$cur\")); return;;");
        else if (!strcmp(what, "@dir"))
            puts(") compopt -o filenames; COMPREPLY=($(compgen -d -- \"$cur\")); return;;");
        else
            printf(") COMPREPLY=($(compgen -W \"%s\" -- \"$cur\")); return;;\n", what);
    }
}

static void print_flag_names(const struct cli_flag *flags)
{
    for (; flags && flags->name; flags++)
        printf(" %s", flags->name);
}

static void print_valued_flags(void)
{
    const char *gap = "            ";
    for (const struct cli_flag *f = cli_global_flags; f->name; f++)
        if (f->value) {
            print_bash_pattern(f, gap);
            gap = "|";
        }
    for (size_t i = 0; i < cli_verb_count; i++)
        for (const struct cli_flag *f = cli_verbs[i].flags; f && f->name; f++)
            if (f->value)
                print_bash_pattern(f, gap);
}

static void print_bash(void)
{
    puts("_seki() {\n"
         "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} verb= words= "
         "files= i\n"
         "    COMPREPLY=()\n"
         "    # \"--name=value\" comes as three words.\n"
         "    if [ \"$cur\" = = ]; then cur=; elif [ \"$prev\" = = ]; then "
         "prev=${COMP_WORDS[COMP_CWORD-2]}; fi\n"
         "    for ((i = 1; i < COMP_CWORD; i++)); do\n"
         "        case ${COMP_WORDS[i]} in");
    print_valued_flags();
    puts(") i=$((i + 1)); [ \"${COMP_WORDS[i]}\" != = ] || i=$((i + 1));;\n"
         "            -*|=) ;;\n"
         "            help) [ -z \"$verb\" ] || verb=\"$verb help\";;\n"
         "            *) verb=\"${verb:+$verb }${COMP_WORDS[i]}\";;\n"
         "        esac\n"
         "    done\n"
         "    case $verb in");
    for (size_t i = 0; i < cli_verb_count; i++) {
        if (!cli_verbs[i].flags && !cli_verbs[i].csv && !cli_verbs[i].wide)
            continue;
        printf("    \"%s\"|\"%s \"*) case $prev in\n", cli_verbs[i].name, cli_verbs[i].name);
        if (cli_verbs[i].csv || cli_verbs[i].wide)
            printf("        --output|-o) COMPREPLY=($(compgen -W \"table %sjson%s\" -- \"$cur\")); "
                   "return;;\n",
                   cli_verbs[i].wide ? "wide " : "", cli_verbs[i].csv ? " csv" : "");
        print_bash_values(cli_verbs[i].flags);
        puts("        esac;;");
    }
    puts("    esac\n    case $prev in");
    print_bash_values(cli_global_flags);
    fputs("    esac\n    case $verb in\n    \"\") words=\"", stdout);
    print_words(NULL);
    puts("\";;");
    for (size_t i = 0; i < cli_verb_count; i++) {
        struct str rest = str_of(cli_verbs[i].name), word;
        str_cut(&rest, ' ', &word);
        if (rest.len && (i == 0 || !str_starts(str_of(cli_verbs[i - 1].name), str_n(word.ptr, word.len + 1)))) {
            char first[32];
            str_to_array(word, first, sizeof(first));
            printf("    %s) words=\"", first);
            print_words(first);
            puts("\";;");
        }
        if (cli_verbs[i].complete && *cli_verbs[i].complete != '@')
            printf("    \"%s\") words=\"%s\";;\n", cli_verbs[i].name, cli_verbs[i].complete);
    }
    puts("    esac\n    case $verb in");
    /* Beside words: a file's name may follow "backup" as well as "keygen". */
    for (size_t i = 0; i < cli_verb_count; i++)
        if (cli_verbs[i].complete && *cli_verbs[i].complete == '@')
            printf("    \"%s\") files=%s;;\n", cli_verbs[i].name,
                   !strcmp(cli_verbs[i].complete, "@dir") ? "-d" : "-f");
    puts("    esac\n    case $cur in -*) files=; case $verb in");
    for (size_t i = 0; i < cli_verb_count; i++) {
        printf("        \"%s\"|\"%s \"*) words=\"", cli_verbs[i].name, cli_verbs[i].name);
        print_flag_names(cli_verbs[i].flags);
        puts("\";;");
    }
    fputs("        *) words=;;\n        esac\n        words=\"$words", stdout);
    print_flag_names(cli_global_flags);
    puts("\";;\n    esac\n    COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n"
         "    if [ \"$files\" ]; then compopt -o filenames; COMPREPLY+=($(compgen $files -- "
         "\"$cur\")); fi\n}\ncomplete -F _seki seki");
}

/* " -d 'text'", with the quotes that fish wants. */
static void print_fish_help(const char *text)
{
    fputs(" -d '", stdout);
    for (; *text; text++) {
        if (*text == '\'' || *text == '\\')
            putchar('\\');
        putchar(*text);
    }
    puts("'");
}

/* One line a word or flag; a verb of two words is known by both having been seen. */
static void print_fish_condition(struct str verb)
{
    struct str word;
    const char *gap = " -n '";
    while (str_cut(&verb, ' ', &word)) {
        printf("%s__fish_seen_subcommand_from %.*s", gap, STR_ARG(word));
        gap = "; and ";
    }
    putchar('\'');
}

static void print_fish_flags(const struct cli_verb *v, const struct cli_flag *flags)
{
    for (; flags && flags->name; flags++) {
        fputs("complete -c seki", stdout);
        if (v)
            print_fish_condition(str_of(v->name));
        printf(" -l %s", flags->name + 2);
        if (flags->letter)
            printf(" -s %c", flags->letter);
        if (flags->value)
            fputs(flags->complete && *flags->complete == '@' ? " -r -F" : " -x", stdout);
        if (flags->value && flags->complete && *flags->complete != '@')
            printf(" -a '%s'", flags->complete);
        print_fish_help(flags->help);
    }
}

static void print_fish(void)
{
    puts("complete -c seki -f");
    for (size_t i = 0; i < cli_verb_count; i++) {
        const struct cli_verb *v = &cli_verbs[i];
        struct str rest = str_of(v->name), word;
        str_cut(&rest, ' ', &word);
        printf("complete -c seki -n __fish_use_subcommand -a %.*s", STR_ARG(word));
        print_fish_help(rest.len ? "" : v->help);
        if (rest.len) {
            fputs("complete -c seki", stdout);
            print_fish_condition(word);
            printf(" -a %.*s", STR_ARG(rest));
            print_fish_help(v->help);
        }
        if (v->complete) {
            fputs("complete -c seki", stdout);
            print_fish_condition(str_of(v->name));
            if (*v->complete == '@')
                puts(" -F");
            else
                printf(" -a '%s'\n", v->complete);
        }
        print_fish_flags(v, v->flags);
    }
    print_fish_flags(NULL, cli_global_flags);
}

int cli_completion(struct cli *c)
{
    const char *shell = cli_word(c);
    if (cli_no_more(c))
        return 2;
    if (shell && !strcmp(shell, "bash")) {
        print_bash();
    } else if (shell && !strcmp(shell, "zsh")) {
        puts("autoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit");
        print_bash();
    } else if (shell && !strcmp(shell, "fish")) {
        print_fish();
    } else {
        return cli_usage_error("expected a shell: bash, zsh or fish");
    }
    return 0;
}
