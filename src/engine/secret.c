/* Keys of engines elsewhere, on disk between the controller that writes them and the gateway that sends them. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "engine/internal.h"

#define UID_BYTES 36
#define FILE_MAX (ENGINE_SECRET_MAX + 8192)
#define SUFFIX ".token"

bool engine_is_uid(const char *uid)
{
    return uid && strlen(uid) == UID_BYTES && strspn(uid, "0123456789abcdef-") == UID_BYTES;
}

static int path_of(const struct engine_paths *p, const char *uid, char *path, size_t size, struct err *err)
{
    if (!engine_is_uid(uid) || !p->socket_dir || snprintf(path, size, "%s/%s" SUFFIX, p->socket_dir, uid) >= (int)size)
        return err_field(err, ERR_INVALID, "metadata.uid", "expected a uid of %d hexadecimal digits and dashes", UID_BYTES);
    return 0;
}

static int check_file(int fd, const char *path, struct err *err)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return err_sys(err, errno, "%s", path);
    if (!S_ISREG(st.st_mode) || st.st_uid != geteuid() || st.st_mode & 077)
        return err_set(err, ERR_INVALID, "%s: expected a regular file of this user with mode 0600", path);
    return 0;
}

static int read_all(const char *path, char **ret, size_t *ret_len, struct err *err)
{
    CLEANUP(file_closep) int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? err_set(err, ERR_NOT_FOUND, "%s: there is none", path) : err_sys(err, errno, "%s", path);
    int rc = check_file(fd, path, err);
    if (rc < 0)
        return rc;
    char *text = xcalloc(1, FILE_MAX + 1);
    size_t len = 0;
    ssize_t n = 0;
    while (len < FILE_MAX && (n = read(fd, text + len, FILE_MAX - len)) != 0)
        if (n > 0)
            len += (size_t)n;
        else if (errno != EINTR)
            break;
    if (n != 0) {
        rc = n < 0 ? err_sys(err, errno, "%s", path) : err_set(err, ERR_TOO_LARGE, "%s is larger than %d bytes", path, FILE_MAX);
        mem_wipe(text, len);
        mem_free(text);
        return rc;
    }
    *ret = text;
    *ret_len = len;
    return 0;
}

int engine_secret_read(const struct engine_paths *p, const char *replica_uid, const char *address, struct arena *a, char **ret, struct err *err)
{
    char path[4096], *text = NULL;
    size_t len = 0;
    struct str rest, whose;
    int rc = path_of(p, replica_uid, path, sizeof(path), err);
    if (rc == 0)
        rc = read_all(path, &text, &len, err);
    if (rc < 0)
        return rc;
    rest = str_n(text, len);
    if (!str_cut(&rest, '\n', &whose) || !str_eqc(whose, address) || !rest.len)
        rc = err_set(err, ERR_NOT_FOUND, "there is no key for %s", address);
    else
        *ret = arena_strndup(a, rest);
    mem_wipe(text, len);
    mem_free(text);
    return rc;
}

int engine_secret_write(const struct engine_paths *p, const char *replica_uid, const char *address, struct str key, bool *ret_changed, struct err *err)
{
    char path[4096], *now = NULL;
    CLEANUP(sbuf_deinit) struct sbuf text = {0};
    size_t len = 0;
    int rc = path_of(p, replica_uid, path, sizeof(path), err);
    if (rc < 0)
        return rc;
    sbuf_init(&text, FILE_MAX);
    sbuf_addf(&text, "%s\n", address);
    sbuf_add(&text, key);
    if (!sbuf_ok(&text))
        return err_set(err, ERR_TOO_LARGE, "the key is larger than %d bytes", ENGINE_SECRET_MAX);
    bool same = read_all(path, &now, &len, NULL) == 0 && str_eq(str_n(now, len), sbuf_str(&text));
    if (now)
        mem_wipe(now, len);
    mem_free(now);
    if (!same)
        rc = file_write(path, sbuf_str(&text), 0600, err);
    mem_wipe(text.ptr, text.len);
    if (rc == 0 && ret_changed)
        *ret_changed = !same;
    return rc;
}

void engine_secret_remove(const struct engine_paths *p, const char *replica_uid)
{
    char path[4096];
    if (path_of(p, replica_uid, path, sizeof(path), NULL) == 0)
        unlink(path);
}

void engine_files_sweep(const struct engine_paths *p, bool (*known)(void *arg, struct str uid_prefix), void *arg)
{
    DIR *d = p->socket_dir ? opendir(p->socket_dir) : NULL;
    for (struct dirent *e; d && (e = readdir(d));) {
        struct str name = str_of(e->d_name), stem;
        bool ours = str_ends(name, STR(SUFFIX)) || str_ends(name, STR(".sock")) || str_ends(name, STR(".slots"));
        stem = str_n(name.ptr, strspn(name.ptr, "0123456789abcdef-"));
        if (ours && !known(arg, stem))
            unlinkat(dirfd(d), e->d_name, 0);
    }
    if (d)
        closedir(d);
}
