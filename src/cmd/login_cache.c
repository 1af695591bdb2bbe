#include "cmd/login_cache.h"

#include <errno.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "crypto/hash.h"

#define FILE_MAX 65536
#define LOCK_WAIT_MS (2 * 60 * 1000)
#define NAME_CHARS 32

static int directory(struct arena *a, const char **ret, struct err *err)
{
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    if ((!cache || *cache != '/') && (!home || *home != '/'))
        return err_set(err, ERR_NOT_FOUND, "no place for tokens: neither HOME nor XDG_CACHE_HOME is set");
    *ret = cache && *cache == '/' ? arena_printf(a, "%s/seki/login", cache) : arena_printf(a, "%s/.cache/seki/login", home);
    return file_mkdirs(*ret, 0700, err);
}

static int lock(const char *path, int *ret_fd, struct err *err)
{
    uint64_t end_ms = clock_mono_ms() + LOCK_WAIT_MS;
    for (;;) {
        struct err inner = ERR_INIT;
        int rc = file_lock(path, ret_fd, &inner);
        if (rc != ERR_BUSY)
            return rc < 0 ? err_set(err, rc, "%s", inner.msg) : 0;
        if (clock_mono_ms() >= end_ms)
            return err_set(err, ERR_BUSY, "another login holds %s", path);
        nanosleep(&(struct timespec){0, 50000000}, NULL);
    }
}

int login_cache_open(const struct oidc_client *c, const char *context, struct arena *a, struct login_cache *ret, struct err *err)
{
    uint8_t digest[SHA256_BYTES];
    char name[SHA256_HEX_MAX];
    const char *dir = NULL;
    int rc = directory(a, &dir, err), fd = -1;
    if (rc < 0)
        return rc;
    hash_sha256(str_of(arena_printf(a, "%s\n%s\n%s%s%s", c->issuer, c->id, c->scopes, context ? "\n" : "", context ? context : "")), digest);
    hash_hex(digest, sizeof(digest), name);
    name[NAME_CHARS] = 0;
    if ((rc = lock(arena_printf(a, "%s/%s.lock", dir, name), &fd, err)) < 0)
        return rc;
    *ret = (struct login_cache){.path = arena_printf(a, "%s/%s.json", dir, name), .lock_fd = fd};
    return 0;
}

void login_cache_close(struct login_cache *l)
{
    if (l->path)
        file_closep(&l->lock_fd);
    l->path = NULL;
}

void login_cache_load(const struct login_cache *l, struct oidc_tokens *ret)
{
    CLEANUP(mem_freep) char *text = NULL;
    JSON_AUTO j = NULL;
    struct stat st;
    size_t len = 0;
    *ret = (struct oidc_tokens){0};
    /* Written by somebody else, or for everybody to read: not ours to believe. */
    if (lstat(l->path, &st) < 0 || !S_ISREG(st.st_mode) || st.st_uid != geteuid() || (st.st_mode & 077) || file_read(l->path, FILE_MAX, &text, &len, NULL) < 0)
        return;
    int rc = json_parse(str_n(text, len), FILE_MAX, &j, NULL);
    mem_wipe(text, len);
    const char *token = json_str(j, "idToken"), *refresh = json_str(j, "refreshToken");
    if (rc < 0)
        return;
    *ret = (struct oidc_tokens){.id_token = token ? xstrdup(token) : NULL, .refresh_token = refresh ? xstrdup(refresh) : NULL, .expires_ms = json_int(j, "expiresMs", 0)};
}

int login_cache_save(const struct login_cache *l, const struct oidc_tokens *t, struct err *err)
{
    CLEANUP(sbuf_deinit) struct sbuf out = {0};
    JSON_AUTO j = json_pack("{s:s, s:s*, s:I}", "idToken", t->id_token, "refreshToken", t->refresh_token, "expiresMs", (json_int_t)t->expires_ms);
    sbuf_init(&out, FILE_MAX);
    json_write(j, &out);
    int rc = sbuf_ok(&out) ? file_write(l->path, sbuf_str(&out), 0600, err) : err_set(err, ERR_TOO_LARGE, "tokens over %d bytes", FILE_MAX);
    if (out.ptr)
        mem_wipe(out.ptr, out.len);
    return rc;
}

int login_cache_drop(const struct login_cache *l, struct err *err)
{
    return unlink(l->path) < 0 && errno != ENOENT ? err_sys(err, errno, "%s", l->path) : 0;
}
