/* seki logs: the tail of an engine's log file, and what is added to it. */
#include "base/file.h"
#include "cmd/cli.h"
#include "kinds/inference.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#define BLOCK 65536
#define FOLLOW_US 100000
#define NAMED_MAX 20
#define KIND_PREFIX "modelreplica/" /* as `seki status` names it */

/* Where the last `lines` lines begin; -1 when the file cannot be read. */
static off_t tail_start(int fd, off_t size, int64_t lines)
{
    char buf[BLOCK];
    int64_t seen = 0;
    for (off_t end = size; end > 0;) {
        off_t at = end > BLOCK ? end - BLOCK : 0;
        ssize_t n = pread(fd, buf, (size_t)(end - at), at);
        if (n < end - at)
            return -1;
        for (ssize_t i = n; i-- > 0;)
            if (buf[i] == '\n' && at + i + 1 < size && ++seen == lines)
                return at + i + 1;
        end = at;
    }
    return 0;
}

/* Prints what there is from the descriptor's place on. */
static int copy(int fd)
{
    char buf[BLOCK];
    ssize_t n;
    while ((n = read(fd, buf, sizeof(buf))) > 0)
        fwrite(buf, 1, (size_t)n, stdout);
    fflush(stdout);
    return n < 0 || ferror(stdout) ? -1 : 0;
}

static int follow(int fd)
{
    struct stat st;
    while (copy(fd) == 0) {
        /* Rotation copies the file and truncates it. */
        if (fstat(fd, &st) == 0 && st.st_size < lseek(fd, 0, SEEK_CUR))
            lseek(fd, 0, SEEK_SET);
        usleep(FOLLOW_US);
    }
    return 1;
}

/* "there is no replica x in project demo; there are: chat-0, chat-1" */
static int fail_unknown(struct cli *c, const char *name)
{
    struct client_resource r = kind_resource(&kind_model_replica);
    struct err err = ERR_INIT;
    JSON_AUTO items = NULL;
    if (cli_check_project(c))
        return 1;
    if (client_list(c->client, &r, c->ns, NULL, &items, NULL, &err) < 0)
        return cli_fail(&err);
    fprintf(stderr, "seki: project %s has no replica %s; it has", c->ns, name);
    size_t count = json_array_size(items);
    for (size_t i = 0; i < MIN(count, (size_t)NAMED_MAX); i++)
        fprintf(stderr, "%s %s", i ? "," : "", obj_name(json_array_get(items, i)));
    fputs(count == 0 ? " none\n" : count > NAMED_MAX ? " …\n" : "\n", stderr);
    return 1;
}

int cli_logs(struct cli *c)
{
    const char *lines_text = cli_flag(c, "--lines"), *dir = cli_flag(c, "--log-dir"), *name = cli_word(c);
    int64_t lines = 20;
    if (!name)
        return cli_usage_error("expected the REPLICA's name, for example chat-0");
    if (!strncmp(name, KIND_PREFIX, strlen(KIND_PREFIX)))
        name += strlen(KIND_PREFIX);
    if (lines_text && str_to_i64(str_of(lines_text), 1, INT32_MAX, &lines) < 0)
        return cli_usage_error("--lines=%s: expected a number from 1", lines_text);
    if (c->json)
        return cli_usage_error("logs are printed as the engine wrote them: --output=json is not for them");
    if (cli_no_more(c))
        return 2;
    if (cli_connect(c))
        return 1;
    struct client_resource r = kind_resource(&kind_model_replica);
    struct err err = ERR_INIT;
    JSON_AUTO obj = NULL;
    int rc = client_get(c->client, &r, c->ns, name, &obj, &err);
    if (rc < 0)
        return rc == ERR_NOT_FOUND ? fail_unknown(c, name) : cli_fail(&err);
    if (!dir)
        dir = getenv("SEKI_LOG_DIR");
    if (!dir || !*dir)
        dir = "/var/lib/seki/log";
    char *path = arena_printf(c->arena, "%s/mr-%s-%s-%.8s.log", dir, c->ns, name, obj_uid(obj));
    CLEANUP(file_closep) int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st;
    off_t start = fd >= 0 && fstat(fd, &st) == 0 ? tail_start(fd, st.st_size, lines) : -1;
    if (start < 0 || lseek(fd, start, SEEK_SET) < 0 || copy(fd) < 0) {
        fprintf(stderr, "seki: cannot read %s; logs are on the machine where the engine runs, in its data directory: --log-dir or SEKI_LOG_DIR names it\n", path);
        return 1;
    }
    return cli_switch(c, "--follow") ? follow(fd) : 0;
}
