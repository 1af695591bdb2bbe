/* seki: the command line for what kubectl does badly. main() finds the verb in the table and runs it. */
#include "base/mem.h"
#include "cmd/cli.h"

#include <locale.h>
#include <unistd.h>

int cli_version(struct cli *c)
{
    if (cli_no_more(c))
        return 2;
    puts(c->json ? "{\"version\": \"" SEKI_RELEASE "\"}" : "seki " SEKI_RELEASE);
    return 0;
}

/* A locale in which UTF-8 has its widths, whatever the environment says. */
static void use_utf8(void)
{
    static const char *const names[] = {"", "C.UTF-8", "C.utf8", "en_US.UTF-8"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (setlocale(LC_CTYPE, names[i]) && MB_CUR_MAX > 1)
            return;
}

static int run(struct cli *c, char **argv)
{
    bool help = false;
    if (argv[0] && !argv[1] && (!strcmp(argv[0], "--version") || !strcmp(argv[0], "-V")))
        return cli_version(c);
    int rc = cli_parse(c, argv, &help);
    if (rc)
        return rc;
    if (c->verb && help) {
        cli_print_verb_help(c->verb);
        return 0;
    }
    if (c->verb)
        return c->verb->run(c);
    const char *first = cli_word(c);
    bool asked = first && !strcmp(first, "help");
    if (asked)
        first = cli_word(c);
    const char *second = first ? cli_word(c) : NULL;
    if (!first) {
        cli_print_help();
        return help || asked ? 0 : 2;
    }
    if ((help || asked) && cli_print_help_of(first, second))
        return 0;
    return cli_no_such_verb(first, second);
}

int main(int argc UNUSED, char **argv)
{
    use_utf8();
    CLEANUP(arena_freep) struct arena *a = arena_new(64 * 1024 * 1024);
    const char *no_color = getenv("NO_COLOR");
    struct cli c = {.arena = a, .color = isatty(STDOUT_FILENO) && !(no_color && *no_color)};
    int rc = run(&c, argv + 1);
    if (c.client)
        client_free(c.client);
    VEC_DEINIT(&c.values);
    VEC_DEINIT(&c.words);
    if (fflush(stdout) != 0 || ferror(stdout)) {
        fputs("seki: the output could not be written\n", stderr);
        return rc ? rc : 1;
    }
    return rc;
}
