/* A backup as a reader meets it: behind its seal (the entries as they are) and sealed (the bytes of a file, with a key that is known here). What is taken for good has sane paths and the sizes that its
 * manifest says; of a sealed file nothing is, unless it was written with the key. The first byte chooses. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "backup/archive.h"
#include "base/file.h"
#include "base/mem.h"
#include "fuzz.h"

static void must(bool holds)
{
    if (!holds)
        abort();
}

struct input {
    const uint8_t *at, *end;
    uint64_t taken, expected;
    size_t files;
};

static int read_some(void *ctx, void *buf, size_t size, size_t *ret_len, struct err *err UNUSED)
{
    struct input *in = ctx;
    *ret_len = MIN(size, (size_t)(in->end - in->at));
    memcpy(buf, in->at, *ret_len);
    in->at += *ret_len;
    return 0;
}

static int begin(void *ctx, const struct archive_entry *e, struct err *err UNUSED)
{
    struct input *in = ctx;
    must(archive_path_valid(str_of(e->path)) && e->path[0] != '/' && strcmp(e->path, "..") && strncmp(e->path, "../", 3) && !strstr(e->path, "/../") && !(e->mode & ~0777u));
    in->taken = 0;
    in->expected = e->bytes;
    return 0;
}

static int data(void *ctx, struct str bytes, struct err *err UNUSED)
{
    ((struct input *)ctx)->taken += bytes.len;
    return 0;
}

static int end(void *ctx, struct err *err UNUSED)
{
    struct input *in = ctx;
    must(in->taken == in->expected);
    in->files++;
    return 0;
}

static void check_plain(struct input *in)
{
    struct err err = ERR_INIT;
    JSON_AUTO manifest = NULL;
    struct archive_taker t = {in, begin, data, end};
    int rc = archive_read_plain(&(struct archive_source){read_some, in}, &t, &manifest, &err);
    must(rc == 0 ? manifest && json_array_size(json_object_get(manifest, "files")) == in->files && in->at == in->end : !manifest && err.msg[0]);
}

static void check_sealed(const uint8_t *bytes, size_t size)
{
    static const struct sealed_key key = {"0123456789abcdef0123456789abcde"};
    struct err err = ERR_INIT;
    JSON_AUTO manifest = NULL;
    CLEANUP(file_closep) int fd = memfd_create("backup", MFD_CLOEXEC);
    must(fd >= 0 && file_write_all(fd, str_n(bytes, size), NULL) == 0 && lseek(fd, 0, SEEK_SET) == 0);
    int rc = archive_read(fd, &key, NULL, &manifest, &err);
    must(rc == 0 ? manifest != NULL : !manifest && err.msg[0]);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    if (size < 1 || size > 1 << 20)
        return 0;
    if (bytes[0] & 1)
        check_sealed(bytes + 1, size - 1);
    else
        check_plain(&(struct input){.at = bytes + 1, .end = bytes + size});
    return 0;
}
