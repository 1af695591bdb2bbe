#include "crypto/root_key.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/rnd.h"
#include "crypto/hash.h"
#include "crypto/pkcs11.h"

#define FILE_SCHEME "file:"
#define HEX_CHARS (2 * ENVELOPE_KEY_BYTES)

struct root_key {
    const struct root_key_ops *ops;
    void *state;
    char *name;
};

/* ---- a file ---- */

static int file_wrap(void *state, struct str aad, struct str plain, struct sbuf *out, struct err *err)
{
    return aead_seal(state, aad, plain, out, err);
}

static int file_unwrap(void *state, struct str aad, struct str wrapped, struct sbuf *out, struct err *err)
{
    return aead_open(state, aad, wrapped, out, err);
}

static void file_free(void *state)
{
    mem_wipe(state, sizeof(struct envelope_key));
    mem_free(state);
}

static const struct root_key_ops file_ops = {.driver = "file", .wrap = file_wrap, .unwrap = file_unwrap, .free = file_free};

static int make_file(const char *path, struct err *err)
{
    struct envelope_key key;
    char text[HEX_CHARS + 2];
    rnd_bytes(key.bytes, sizeof(key.bytes));
    hash_hex(key.bytes, sizeof(key.bytes), text);
    text[HEX_CHARS] = '\n';
    int rc = file_write(path, str_n(text, HEX_CHARS + 1), 0600, err);
    mem_wipe(&key, sizeof(key));
    mem_wipe(text, sizeof(text));
    return rc;
}

/* A key that others can read is no secret: whoever made it so is told, and not served. */
static int check_file(const char *path, int fd, struct err *err)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return err_sys(err, errno, "%s", path);
    if (!S_ISREG(st.st_mode))
        return err_set(err, ERR_INVALID, "%s: the root key is to be a plain file", path);
    if (st.st_uid != geteuid() && st.st_uid != 0)
        return err_set(err, ERR_FORBIDDEN, "%s: the root key belongs to another user (%u)", path, st.st_uid);
    if (st.st_mode & 077)
        return err_set(err, ERR_FORBIDDEN, "%s: the root key can be read by others (mode %04o): run chmod 600, and think about who may have read it", path, st.st_mode & 07777);
    return 0;
}

static int read_key(const char *path, int fd, struct envelope_key *ret, struct err *err)
{
    char text[HEX_CHARS + 8];
    ssize_t n = read(fd, text, sizeof(text));
    if (n < 0)
        return err_sys(err, errno, "%s", path);
    int rc = hash_unhex(str_trim(str_n(text, (size_t)n)), ret->bytes, sizeof(ret->bytes)) ? 0 : err_set(err, ERR_CORRUPT, "%s: expected %d hexadecimal digits and nothing else", path, HEX_CHARS);
    mem_wipe(text, sizeof(text));
    return rc;
}

static int file_open(const char *path, bool may_create, void **ret_state, struct err *err)
{
    struct envelope_key key;
    CLEANUP(file_closep) int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (fd < 0 && errno == ENOENT && may_create) {
        int rc = make_file(path, err);
        if (rc < 0)
            return rc;
        fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    }
    if (fd < 0)
        return err_sys(err, errno, "the root key %s", path);
    int rc = check_file(path, fd, err);
    if (rc == 0)
        rc = read_key(path, fd, &key, err);
    if (rc < 0)
        return rc;
    *ret_state = xcalloc(1, sizeof(key));
    memcpy(*ret_state, &key, sizeof(key));
    mem_wipe(&key, sizeof(key));
    return 0;
}

/* ---- any ---- */

static bool is_uri(const char *where)
{
    return str_starts(str_of(where), STR(PKCS11_SCHEME));
}

static const char *path_of(const char *where)
{
    return str_starts(str_of(where), STR(FILE_SCHEME)) ? where + strlen(FILE_SCHEME) : where;
}

int root_key_check(const char *where, struct err *err)
{
    struct pkcs11_uri uri;
    if (is_uri(where))
        return pkcs11_uri_parse(str_of(where), &uri, err);
    return *path_of(where) == '/' || !str_starts(str_of(where), STR(FILE_SCHEME)) ? 0 : err_set(err, ERR_INVALID, "expected an absolute path after file:");
}

int root_key_open(const char *where, bool may_create, struct root_key **ret, struct err *err)
{
    struct pkcs11_uri uri;
    void *state = NULL;
    int rc = root_key_check(where, err);
    if (rc == 0 && is_uri(where)) {
        rc = pkcs11_uri_parse(str_of(where), &uri, err);
        if (rc == 0)
            rc = pkcs11_open(&uri, &state, err);
    } else if (rc == 0) {
        rc = file_open(path_of(where), may_create, &state, err);
    }
    if (rc < 0)
        return rc;
    struct root_key *k = XNEW(struct root_key);
    *k = (struct root_key){is_uri(where) ? &pkcs11_ops : &file_ops, state, is_uri(where) ? xstrdup(where) : xasprintf(FILE_SCHEME "%s", path_of(where))};
    *ret = k;
    return 0;
}

void root_key_free(struct root_key *k)
{
    if (!k)
        return;
    k->ops->free(k->state);
    mem_free(k->name);
    mem_free(k);
}

const char *root_key_name(const struct root_key *k)
{
    return k->name;
}

const char *root_key_driver(const struct root_key *k)
{
    return k->ops->driver;
}

int root_key_wrap(struct root_key *k, struct str aad, struct str plain, struct sbuf *out, struct err *err)
{
    return k->ops->wrap(k->state, aad, plain, out, err);
}

int root_key_unwrap(struct root_key *k, struct str aad, struct str wrapped, struct sbuf *out, struct err *err)
{
    return k->ops->unwrap(k->state, aad, wrapped, out, err);
}
