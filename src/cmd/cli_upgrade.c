/* seki upgrade, seki rollback: on the machine of the data directory, as its owner; no daemon is asked. */
#include "backup/rollback.h"
#include "base/clock.h"
#include "cmd/cli.h"

#include <pwd.h>
#include <unistd.h>

static int failed(const char *what, const struct err *err)
{
    fprintf(stderr, "seki: %s: %s\n", what, err->msg);
    return 1;
}

int cli_upgrade_status(struct cli *c)
{
    const char *data = cli_data_directory(c);
    struct rollback r = {0};
    struct err err = ERR_INIT;
    char kept[CLOCK_TEXT_MAX] = "";
    if (cli_no_more(c))
        return 2;
    int rc = rollback_look(data, &r, &err);
    if (rc < 0 && (rc != ERR_NOT_FOUND || !c->json))
        return failed("there is no way back", &err);
    if (rc == 0)
        clock_format(r.kept_ms, kept);
    if (c->json) {
        JSON_AUTO doc = rc < 0 ? json_pack("{s:b}", "kept", 0)
                               : json_pack("{s:b, s:s, s:i, s:i, s:I, s:I, s:I}", "kept", 1, "time", kept, "format", r.copy.format, "formatNow", r.format, "revision", (json_int_t)r.copy.rev, "objects",
                                           (json_int_t)r.copy.objects, "bytes", (json_int_t)r.copy.bytes);
        cli_print_json(doc);
        return 0;
    }
    printf("the store as it was at %s is kept: format %d, now %d; revision %lld, %lld objects, %lld bytes\n", kept, r.copy.format, r.format, (long long)r.copy.rev, (long long)r.copy.objects,
           (long long)r.copy.bytes);
    printf("`seki rollback` gives it back to the earlier release; `seki upgrade finish` removes it\n");
    return 0;
}

int cli_upgrade_finish(struct cli *c)
{
    const char *data = cli_data_directory(c);
    struct err err = ERR_INIT;
    if (cli_no_more(c))
        return 2;
    if (rollback_finish(data, &err) < 0)
        return failed("the upgrade is not finished", &err);
    printf("nothing is kept of the store as it was before the upgrade: there is no way back but a backup\n");
    return 0;
}

int cli_rollback(struct cli *c)
{
    const char *data = cli_data_directory(c);
    struct rollback_done d;
    struct err err = ERR_INIT;
    char kept[CLOCK_TEXT_MAX];
    if (cli_no_more(c))
        return 2;
    if (!cli_switch(c, "--yes"))
        return cli_usage_error("what was written since the upgrade will be lost (seki upgrade status says when that was): add --yes when that is meant");
    const struct passwd *p = getpwuid(getuid());
    if (rollback_undo(data, p ? p->pw_name : "", &d, &err) < 0)
        return failed("nothing was rolled back", &err);
    clock_format(d.was.kept_ms, kept);
    if (c->json) {
        JSON_AUTO doc = json_pack("{s:s, s:i, s:I, s:I, s:I}", "time", kept, "format", d.was.copy.format, "lostRevisions", (json_int_t)d.lost, "revision", (json_int_t)d.was.copy.rev, "nextRevision",
                                  (json_int_t)d.next_rev);
        cli_print_json(doc);
        return 0;
    }
    printf("the store is as it was at %s, in format %d, and goes on behind revision %lld\n", kept, d.was.copy.format, (long long)d.next_rev);
    if (d.lost >= 0)
        printf("%lld revisions that were written since are lost; ", (long long)d.lost);
    printf("what was replaced lies in %s/" ROLLBACK_DIR "/replaced.db\ninstall the earlier release now, then start sekid: this one would upgrade the store again\n", data);
    return 0;
}
