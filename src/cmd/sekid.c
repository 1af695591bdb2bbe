/* sekid: the daemon. main() reads the command line, loads the configuration and runs a role. */
#include "backup/backup.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "cmd/manifests.h"
#include "cmd/roles.h"
#include "cmd/wrap.h"
#include "node/api_relay.h"
#include "node/node_gate.h"
#include "node/node_init.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

static const char usage[] =
    "Usage: sekid [OPTION]...\n"
    "\n"
    "Runs a Seki cloud on this machine: the resource API, its controllers and the inference gateway.\n"
    "\n"
    "  -c, --config=FILE        read options from FILE (flags win)\n"
    "      --role=ROLE          all (default), control or gateway\n"
    "      --supervise          with --role=gateway: as a child, which SIGUSR2 replaces\n"
    "      --check-config       check the configuration, say what is wrong, and leave\n"
    "      --config-reference   print a commented seki.conf with every option, and leave\n"
    "      --stop-engines       stop the engines that a sekid which is gone has left running, and leave\n"
    "  -V, --version            print the version, and leave\n"
    "  -h, --help               print this help, and leave\n"
    "\n"
    "Options of seki.conf as flags:\n";

#define HELP_COLUMN 43

static void print_usage(void)
{
    size_t count;
    const struct conf_option *schema = options_schema(&count);
    fputs(usage, stdout);
    for (size_t i = 0; i < count; i++) {
        const struct conf_option *o = &schema[i];
        char flag[96], help[512];
        bool def = o->def && *o->def;
        snprintf(flag, sizeof(flag), "--%s%s%s=VALUE", o->section, *o->section ? "-" : "", o->name);
        snprintf(help, sizeof(help), "%s%s%s%s", o->help, def ? " (" : "", def ? o->def : "", def ? ")" : "");
        size_t at = (size_t)printf("      %-36s ", flag);
        wrap_print(str_of(help), MAX(at, (size_t)HELP_COLUMN), HELP_COLUMN);
    }
    fputs("\nSIGTERM drains and leaves engines running, SIGINT stops them too. See sekid(8).\n", stdout);
}

static int print_reference(void)
{
    size_t count;
    const struct conf_option *schema = options_schema(&count);
    CLEANUP(sbuf_deinit) struct sbuf out = {0};
    sbuf_init(&out, 256 * 1024);
    conf_write_reference(schema, count, &out);
    fputs(out.ptr ? out.ptr : "", stdout);
    return 0;
}

/* The word after argv[*index] as its value; NULL when there is none, or another option: a value that begins with a dash is written --name=VALUE. */
static const char *next_word(char **argv, int *index)
{
    const char *word = argv[*index + 1];
    if (!word || word[0] == '-')
        return NULL;
    ++*index;
    return word;
}

/* --name=VALUE or --name VALUE of the schema; *index moves past a separate value. */
static int take_flag(struct command_line *cl, char **argv, int *index, struct arena *a)
{
    size_t count;
    const struct conf_option *schema = options_schema(&count);
    struct str name = str_of(argv[*index] + 2);
    const char *value = NULL;
    ssize_t eq = str_find(name, '=');
    if (eq >= 0) {
        value = name.ptr + eq + 1;
        name.len = (size_t)eq;
    }
    if (!conf_find_flag(schema, count, name)) {
        fprintf(stderr, "sekid: unknown option --%.*s; see sekid --help\n", STR_ARG(name));
        return -1;
    }
    if (!value)
        value = next_word(argv, index);
    if (!value) {
        fprintf(stderr, "sekid: --%.*s needs a value\n", STR_ARG(name));
        return -1;
    }
    if (cl->flag_count == ARRAY_LEN(cl->flags)) {
        fputs("sekid: too many options\n", stderr);
        return -1;
    }
    cl->flags[cl->flag_count++] = (struct conf_flag){arena_strndup(a, name), value};
    return 0;
}

/* An option of the command line itself, as --name=VALUE or --name VALUE. 1: it is this one; 0: it is another; -1: it has no value. */
static int own_value(char **argv, int *index, const char *name, const char *what, const char **ret)
{
    size_t len = strlen(name);
    const char *rest = argv[*index] + len;
    if (strncmp(argv[*index], name, len) != 0 || (*rest && *rest != '='))
        return 0;
    const char *value = *rest ? rest + 1 : next_word(argv, index);
    if (!value) {
        fprintf(stderr, "sekid: %s needs a value: %s\n", name, what);
        return -1;
    }
    *ret = value;
    return 1;
}

static int take_own(struct command_line *cl, char **argv, int *index)
{
    int rc = own_value(argv, index, "--config", "FILE", &cl->config_file);
    if (rc == 0)
        rc = own_value(argv, index, "-c", "FILE", &cl->config_file);
    return rc ? rc : own_value(argv, index, "--role", "ROLE", &cl->role);
}

/* 0: go on; 1: done, leave with success; -1: refused. */
static int parse_command_line(char **argv, struct command_line *cl, struct arena *a)
{
    cl->role = "all";
    for (int i = 1; argv[i]; i++) {
        int own = take_own(cl, argv, &i);
        if (own < 0)
            return -1;
        if (own)
            continue;
        if (!strcmp(argv[i], "-h") || !strcmp(argv[i], "--help")) {
            print_usage();
            return 1;
        } else if (!strcmp(argv[i], "-V") || !strcmp(argv[i], "--version")) {
            puts("sekid " SEKI_RELEASE);
            return 1;
        } else if (!strcmp(argv[i], "--check-config")) {
            cl->check_config = true;
        } else if (!strcmp(argv[i], "--stop-engines")) {
            cl->stop_engines = true;
        } else if (!strcmp(argv[i], SUPERVISE_FLAG)) {
            cl->supervise = true;
        } else if (!strcmp(argv[i], "--config-reference")) {
            print_reference();
            return 1;
        } else if (!strncmp(argv[i], "--", 2)) {
            if (take_flag(cl, argv, &i, a) < 0)
                return -1;
        } else {
            fprintf(stderr, "sekid: %s %s; see sekid --help\n", argv[i][0] == '-' ? "unknown option" : "unexpected argument", argv[i]);
            return -1;
        }
    }
    return 0;
}

/* The leak check of sanitized builds attaches to its own process. */
#if defined(__has_feature)
#define WITH_LEAK_CHECK __has_feature(address_sanitizer)
#elif defined(__SANITIZE_ADDRESS__)
#define WITH_LEAK_CHECK 1
#else
#define WITH_LEAK_CHECK 0
#endif

static void harden(void)
{
    /* Keys and prompts live in this process: no core files, not even into a pipe, and no other process of this user reads its memory. */
    setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
#if !WITH_LEAK_CHECK
    prctl(PR_SET_DUMPABLE, 0);
#endif
    umask(077);
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
}

static bool supervises(const struct command_line *cl)
{
    return !strcmp(cl->role, "all") || cl->supervise;
}

static int run(const struct command_line *cl, struct options *o, char **argv, struct arena *a)
{
    if (cl->stop_engines)
        return supervisor_stop_engines(o, a);
    if (supervises(cl))
        return supervisor_run(cl, o, argv, a);
    if (!strcmp(cl->role, "control"))
        return control_run(cl, o, a);
    return gateway_run(cl, o, a);
}

/* What can be known to be wrong before anything runs. A role of its own takes manifests as they come: the API must not stay away because of one. */
static int check(const struct command_line *cl, const struct options *o, struct err *err)
{
    struct manifests m = {0};
    CLEANUP(mem_freep) char *mark = xasprintf("%s/" RESTORE_MARK, o->data);
    if (!cl->check_config && file_exists(mark))
        return err_set(err, ERR_UNAVAILABLE, "%s holds a restore that was not finished: run seki restore again", o->data);
    if (!*o->manifests || (strcmp(cl->role, "all") != 0 && !cl->check_config))
        return 0;
    int rc = manifests_load_dir(o->manifests, &m, err);
    manifests_deinit(&m);
    return rc;
}

/* A role that the supervisor started goes when the supervisor goes. */
static void follow_parent(void)
{
    const char *text = getenv("SEKI_SUPERVISOR");
    int64_t pid;
    if (!text || str_to_i64(str_of(text), 1, INT32_MAX, &pid) < 0)
        return;
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != (pid_t)pid)
        raise(SIGTERM);
}

int main(int argc UNUSED, char **argv)
{
    if (argv[0] && argv[1] && !strcmp(argv[1], "node"))
        return node_main(argv + 2);
    if (argv[0] && argv[1] && !strcmp(argv[1], "node-gate"))
        return node_gate_main(argv + 2);
    if (argv[0] && argv[1] && !strcmp(argv[1], "api-relay"))
        return api_relay_main(argv + 2);
    struct command_line cl = {0};
    CLEANUP(arena_freep) struct arena *a = arena_new(16 * 1024 * 1024);
    int rc = parse_command_line(argv, &cl, a);
    if (rc != 0)
        return rc > 0 ? 0 : 2;
    if (strcmp(cl.role, "all") && strcmp(cl.role, "control") && strcmp(cl.role, "gateway")) {
        fprintf(stderr, "sekid: --role=%s: expected all, control or gateway\n", cl.role);
        return 2;
    }
    if (cl.supervise && strcmp(cl.role, "gateway") != 0) {
        fprintf(stderr, "sekid: " SUPERVISE_FLAG ": expected with --role=gateway, not with --role=%s\n", cl.role);
        return 2;
    }
    struct options o;
    struct err err = ERR_INIT;
    if (options_load(&cl, a, &o, &err) < 0 || check(&cl, &o, &err) < 0) {
        fprintf(stderr, "sekid: %s\n", err.msg);
        return 2;
    }
    if (cl.check_config) {
        puts("configuration is valid");
        return 0;
    }
    log_setup((enum log_level)o.log_level, (enum log_format)o.log_format,
              supervises(&cl) ? "supervisor" : cl.role);
    harden();
    if (!supervises(&cl))
        follow_parent();
    return run(&cl, &o, argv, a);
}
