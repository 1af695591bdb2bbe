/* seki break-glass: access to everything for a while, on the machine itself. */
#include "base/clock.h"
#include "cmd/break_glass.h"
#include "cmd/cli.h"
#include "cmd/whence.h"

#include <pwd.h>
#include <unistd.h>

#define LIFE_MIN_MS 60000
#define LIFE_MAX_MS (8 * 3600 * 1000)
#define LIFE_DEFAULT "30m"

/* Who sits there; behind sudo, who that was. */
static const char *person(struct arena *a)
{
    const char *sudo = getenv("SUDO_USER");
    const struct passwd *pw = getpwuid(getuid());
    const char *name = sudo && *sudo && getuid() == 0 ? sudo : pw ? pw->pw_name : NULL;
    return name && str_utf8_valid(str_of(name)) ? arena_printf(a, "%.64s", name) : arena_printf(a, "uid %d", (int)getuid());
}

int cli_break_glass(struct cli *c)
{
    const char *life = cli_flag(c, "--for"), *reason = cli_flag(c, "--reason"), *path;
    struct break_glass_wish w = {.data = cli_absolute(c->arena, cli_data_directory(c)), .reason = reason, .by = person(c->arena), .source = whence_address(c->arena), .agent = whence_agent(c->arena, "seki break-glass")};
    struct err err = ERR_INIT;
    int64_t until_ms;
    char until[CLOCK_TEXT_MAX];
    if (cli_no_more(c))
        return 2;
    if (!reason || !str_trim(str_of(reason)).len || strlen(reason) > BREAK_GLASS_REASON_MAX)
        return cli_usage_error("--reason: expected a sentence of at most %d bytes that tells why", BREAK_GLASS_REASON_MAX);
    if (clock_parse_duration(str_of(life ? life : LIFE_DEFAULT), &w.life_ms) < 0 || w.life_ms < LIFE_MIN_MS || w.life_ms > LIFE_MAX_MS)
        return cli_usage_error("--for=%s: expected a duration between 1m and 8h", life);
    if (break_glass_make(&w, c->arena, &path, &until_ms, &err) < 0) {
        fprintf(stderr, "seki: %s; this is done as root, or as the user of sekid, on the machine of its data directory (--data)\n", err.msg);
        return 1;
    }
    clock_format(until_ms, until);
    if (c->json) {
        JSON_AUTO j = json_pack("{s:s, s:s}", "kubeconfig", path, "until", until);
        cli_print_json(j);
        return 0;
    }
    printf("export KUBECONFIG=%s\n", cli_shell_word(c->arena, path));
    fprintf(stderr, "Access to everything until %s. The audit ledger, the log, an Event in the namespace default and seki_break_glass_active tell of it; deleting the file's .json ends it.\n", until);
    return 0;
}
