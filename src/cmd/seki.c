/* seki: the command line for what kubectl does badly. main() finds the verb in the table and runs it. */
#include "base/mem.h"
#include "cmd/cli.h"

#include <locale.h>
#include <unistd.h>

static int run_version(struct cli *c);
static int run_completion(struct cli *c);

static const struct cli_verb verbs[] = {
    {"status", "", "what runs here: endpoints, replicas, conditions", cli_status, ""},
    {"wait", "KIND/NAME [--for CONDITION] [--timeout DURATION]",
     "wait for a condition (Ready), telling what is awaited", cli_wait, "--for --timeout"},
    {"chat", "[PROMPT] [--model NAME] [--system TEXT] [--max-tokens N] [--raw]",
     "ask a model; without PROMPT, line by line from the terminal", cli_chat,
     "--model --system --max-tokens --raw --base-url"},
    {"key create", "NAME [--expires DURATION] [--endpoint NAME]... [--quiet]",
     "make an API key; it is shown this once", cli_key_create, "--expires --endpoint --quiet"},
    {"key list", "[--all-namespaces]", "the API keys of a project", cli_key_list, "--all-namespaces"},
    {"key revoke", "NAME", "delete an API key; requests with it are refused at once", cli_key_revoke, ""},
    {"usage", "[--day YYYY-MM-DD] [--all-namespaces]", "requests and tokens by key and model", cli_usage,
     "--day --all-namespaces"},
    {"logs", "REPLICA [--lines N] [--follow]", "an engine's log, on the machine where it runs", cli_logs,
     "--lines --follow --log-dir"},
    {"completion", "bash", "print shell completion: source <(seki completion bash)", run_completion, ""},
    {"version", "", "print the version", run_version, ""},
};

static const char global_help[] =
    "\nEverywhere:\n"
    "  -n, --namespace NAME   the project (default: the kubeconfig's)\n"
    "      --kubeconfig FILE  credentials for the API (default: $KUBECONFIG)\n"
    "  -o, --output FORMAT    table (default) or json\n"
    "  -h, --help             help for a verb\n"
    "\nOPENAI_BASE_URL, OPENAI_API_KEY and SEKI_MODEL say where `chat` asks.\n";

static void print_help(void)
{
    puts("Usage: seki VERB [ARGUMENT]... [OPTION]...\n");
    for (size_t i = 0; i < ARRAY_LEN(verbs); i++)
        printf("  %-12s %s\n", verbs[i].name, verbs[i].help);
    fputs(global_help, stdout);
}

static void print_verb_help(const struct cli_verb *v)
{
    printf("Usage: seki %s %s\n\n  %s\n%s", v->name, v->args, v->help, global_help);
}

static int run_version(struct cli *c)
{
    int rc = cli_no_more(c);
    if (rc == 0)
        puts("seki " SEKI_RELEASE);
    return rc;
}

static int run_completion(struct cli *c)
{
    const char *shell = cli_word(c);
    if (!shell || strcmp(shell, "bash") != 0)
        return cli_usage_error("expected a shell: bash");
    puts("_seki() {\n"
         "    local cur=${COMP_WORDS[COMP_CWORD]} verb=${COMP_WORDS[1]} words=\n"
         "    if [ \"$COMP_CWORD\" = 1 ]; then");
    fputs("        words=\"", stdout);
    for (size_t i = 0; i < ARRAY_LEN(verbs); i++) {
        size_t len = strcspn(verbs[i].name, " ");
        if (i && !strncmp(verbs[i - 1].name, verbs[i].name, len + 1))
            continue;
        printf("%s%.*s", i ? " " : "", (int)len, verbs[i].name);
    }
    puts("\"\n    else case \"$verb\" in");
    puts("        key) [ \"$COMP_CWORD\" = 2 ] && words=\"create list revoke\" || words=\"--expires --endpoint --quiet "
         "--all-namespaces\";;");
    for (size_t i = 0; i < ARRAY_LEN(verbs); i++)
        if (*verbs[i].flags && !strchr(verbs[i].name, ' '))
            printf("        %s) words=\"%s\";;\n", verbs[i].name, verbs[i].flags);
    puts("        esac\n"
         "        words=\"$words --namespace --kubeconfig --output --help\"\n"
         "    fi\n"
         "    COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n"
         "}\n"
         "complete -F _seki seki");
    return 0;
}

/* The verb that the first one or two words name; *used says how many. */
static const struct cli_verb *find_verb(char **words, int *used)
{
    for (size_t i = 0; i < ARRAY_LEN(verbs); i++) {
        const char *space = strchr(verbs[i].name, ' ');
        size_t len = space ? (size_t)(space - verbs[i].name) : strlen(verbs[i].name);
        if (strlen(words[0]) != len || strncmp(words[0], verbs[i].name, len) != 0)
            continue;
        if (space && (!words[1] || strcmp(words[1], space + 1) != 0))
            continue;
        *used = space ? 2 : 1;
        return &verbs[i];
    }
    return NULL;
}

static int take_globals(struct cli *c)
{
    const char *v;
    if ((v = cli_flag(c, "--kubeconfig")))
        c->kubeconfig = v;
    if ((v = cli_flag(c, "--namespace")) || (v = cli_flag(c, "-n")))
        c->ns = v;
    if ((v = cli_flag(c, "--output")) || (v = cli_flag(c, "-o")))
        c->output = v;
    if (strcmp(c->output, "table") && strcmp(c->output, "json"))
        return cli_usage_error("--output=%s: expected table or json", c->output);
    return 0;
}

int main(int argc, char **argv)
{
    setlocale(LC_CTYPE, "");
    if (!strcmp(setlocale(LC_CTYPE, NULL), "C"))
        setlocale(LC_CTYPE, "C.UTF-8");
    CLEANUP(arena_freep) struct arena *a = arena_new(64 * 1024 * 1024);
    struct cli c = {.arena = a, .output = "table", .terminal = isatty(STDOUT_FILENO)};
    char **words = ARENA_ARRAY(a, char *, (size_t)argc + 1);
    for (int i = 1; i < argc; i++)
        words[i - 1] = argv[i];
    c.words = words;
    int rc = take_globals(&c);
    if (rc)
        return rc;
    if (words[0] && !strcmp(words[0], "--version")) {
        puts("seki " SEKI_RELEASE);
        return 0;
    }
    if (!words[0] || !strcmp(words[0], "--help") || !strcmp(words[0], "-h") || !strcmp(words[0], "help")) {
        print_help();
        return words[0] ? 0 : 2;
    }
    int used = 0;
    const struct cli_verb *verb = find_verb(words, &used);
    if (!verb)
        return cli_usage_error("no such verb: %s%s%s", words[0], words[1] ? " " : "", words[1] ? words[1] : "");
    c.words = words + used;
    if (cli_switch(&c, "--help") || cli_switch(&c, "-h")) {
        print_verb_help(verb);
        return 0;
    }
    rc = verb->run(&c);
    if (c.client)
        client_free(c.client);
    return rc;
}
