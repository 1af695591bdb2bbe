#include "ledger/checkpoint.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "crypto/hash.h"

#define MAGIC 0x31504b43494b4553ull /* "SEKICKP1" */
#define RECENT_NS 50000000ll /* a file system's clock may stand still for so long */

/* As it is in the file, of this machine. */
struct stored {
    uint64_t magic, number, sequence;
    uint8_t id[16], hash[32], files[32], check[32];
};

static int64_t ns_of(struct timespec t)
{
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* What the files look like. ret_changed_ns: when one of them was changed last. */
static bool look_at(const char *dir, const char *name, unsigned first, unsigned number, uint8_t ret[32], int64_t *ret_changed_ns)
{
    struct hash_stream *h = hash_stream_new();
    struct stat st;
    bool good = true;
    *ret_changed_ns = 0;
    for (unsigned n = first; n <= number && good; n++) {
        char path[LEDGER_PATH_MAX];
        ledger_path(dir, name, n, path);
        good = lstat(path, &st) == 0 && S_ISREG(st.st_mode);
        if (!good)
            break;
        int64_t what[] = {n, st.st_size, (int64_t)st.st_ino, (int64_t)st.st_dev, ns_of(st.st_ctim)};
        hash_stream_add(h, str_n((const char *)what, sizeof(what)));
        *ret_changed_ns = MAX(*ret_changed_ns, what[4]);
    }
    hash_stream_end(h, ret);
    return good;
}

static void check_of(const struct stored *s, uint8_t ret[32])
{
    hash_sha256(str_n((const char *)s, offsetof(struct stored, check)), ret);
}

void ledger_checkpoint_save(const char *dir, const char *name, unsigned first, const struct ledger_checkpoint *c)
{
    CLEANUP(mem_freep) char *path = xasprintf("%s/%s.checkpoint", dir, name), *beside = xasprintf("%s.new", path);
    struct stored s = {.magic = MAGIC, .number = c->number, .sequence = c->end.sequence};
    int64_t changed_ns;
    memcpy(s.id, c->id, sizeof(c->id));
    memcpy(s.hash, c->end.hash, sizeof(s.hash));
    if (!look_at(dir, name, first, c->number, s.files, &changed_ns))
        return;
    check_of(&s, s.check);
    CLEANUP(file_closep) int fd = open(beside, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0 || file_write_all(fd, str_n((const char *)&s, sizeof(s)), NULL) < 0 || rename(beside, path) < 0)
        (void)unlink(beside);
}

bool ledger_checkpoint_load(const char *dir, const char *name, unsigned first, unsigned last, struct ledger_checkpoint *ret)
{
    CLEANUP(mem_freep) char *path = xasprintf("%s/%s.checkpoint", dir, name);
    CLEANUP(file_closep) int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    struct stored s;
    struct stat st;
    uint8_t check[32], files[32];
    int64_t changed_ns;
    if (fd < 0 || fstat(fd, &st) < 0 || st.st_size != (off_t)sizeof(s) || pread(fd, &s, sizeof(s), 0) != (ssize_t)sizeof(s))
        return false;
    check_of(&s, check);
    if (s.magic != MAGIC || memcmp(check, s.check, sizeof(check)) != 0 || !s.sequence || s.number < first || s.number >= last)
        return false;
    if (!look_at(dir, name, first, (unsigned)s.number, files, &changed_ns) || memcmp(files, s.files, sizeof(files)) != 0 || changed_ns + RECENT_NS > ns_of(st.st_mtim))
        return false;
    *ret = (struct ledger_checkpoint){.number = (unsigned)s.number, .end.sequence = s.sequence};
    memcpy(ret->id, s.id, sizeof(ret->id));
    memcpy(ret->end.hash, s.hash, sizeof(s.hash));
    return true;
}
