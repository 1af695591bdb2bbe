#include "backup/archive.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/map.h"
#include "base/mem.h"
#include "crypto/hash.h"

#define MAGIC "SEKIBACK"
#define HEAD_BYTES 12
#define ENTRY_BYTES 16
#define PIECE_BYTES ((size_t)256 * 1024)

static void put_number(uint8_t *p, int bytes, uint64_t n)
{
    for (int i = 0; i < bytes; i++)
        p[i] = (uint8_t)(n >> (8 * i));
}

static uint64_t get_number(const uint8_t *p, int bytes)
{
    uint64_t n = 0;
    for (int i = 0; i < bytes; i++)
        n |= (uint64_t)p[i] << (8 * i);
    return n;
}

bool archive_path_valid(struct str path)
{
    struct str rest = path, part;
    if (!path.len || path.len > ARCHIVE_PATH_MAX || memchr(path.ptr, 0, path.len) || path.ptr[path.len - 1] == '/')
        return false;
    while (str_cut(&rest, '/', &part))
        if (!part.len || str_eqc(part, ".") || str_eqc(part, ".."))
            return false;
    return str_utf8_valid(path); /* as JSON has it */
}

/* ---- writing ---- */

struct archive_writer {
    struct sealed_writer *sealed;
    json_t *files;
    uint64_t bytes;
    char *buf;
};

void archive_writer_free(struct archive_writer *w)
{
    if (!w)
        return;
    sealed_writer_free(w->sealed);
    json_decref(w->files);
    mem_free(w->buf);
    mem_free(w);
}

static int put(struct archive_writer *w, struct str bytes, struct err *err)
{
    int rc = sealed_write(w->sealed, bytes, err);
    return rc < 0 ? err_wrap(err, "the file of the backup") : 0;
}

int archive_writer_new(int fd, const struct sealed_key *k, struct archive_writer **ret, struct err *err)
{
    struct archive_writer *w = XNEW(struct archive_writer);
    uint8_t head[HEAD_BYTES];
    *w = (struct archive_writer){.files = json_array(), .buf = xcalloc(1, PIECE_BYTES)};
    memcpy(head, MAGIC, 8);
    put_number(head + 8, 4, ARCHIVE_FORMAT);
    int rc = sealed_writer_new(fd, k, &w->sealed, err);
    if (rc == 0)
        rc = put(w, str_n(head, sizeof(head)), err);
    if (rc < 0) {
        archive_writer_free(w);
        return rc;
    }
    *ret = w;
    return 0;
}

static int write_entry(struct archive_writer *w, char tag, const struct archive_entry *e, struct err *err)
{
    uint8_t head[ENTRY_BYTES] = {(uint8_t)tag};
    size_t len = strlen(e->path);
    put_number(head + 2, 2, len);
    put_number(head + 4, 4, e->mode & 0777);
    put_number(head + 8, 8, e->bytes);
    int rc = put(w, str_n(head, sizeof(head)), err);
    return rc < 0 ? rc : put(w, str_n(e->path, len), err);
}

static int write_bytes(struct archive_writer *w, const struct archive_entry *e, int from, struct hash_stream *hash, struct err *err)
{
    for (uint64_t at = 0; at < e->bytes;) {
        ssize_t n = pread(from, w->buf, MIN(PIECE_BYTES, e->bytes - at), (off_t)at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_sys(err, errno, "%s", e->path);
        if (n == 0)
            return err_set(err, ERR_IO, "%s became shorter while it was read", e->path);
        hash_stream_add(hash, str_n(w->buf, (size_t)n));
        int rc = put(w, str_n(w->buf, (size_t)n), err);
        if (rc < 0)
            return rc;
        at += (uint64_t)n;
    }
    return 0;
}

int archive_add(struct archive_writer *w, const struct archive_entry *e, int from, struct err *err)
{
    uint8_t digest[SHA256_BYTES];
    char hex[SHA256_HEX_MAX];
    if (!archive_path_valid(str_of(e->path)))
        return err_set(err, ERR_INVALID, "%s: a file of this name cannot be backed up", e->path);
    if (json_array_size(w->files) >= ARCHIVE_FILES_MAX)
        return err_set(err, ERR_TOO_LARGE, "more than %d files", ARCHIVE_FILES_MAX);
    struct hash_stream *hash = hash_stream_new();
    int rc = write_entry(w, 'F', e, err);
    if (rc == 0)
        rc = write_bytes(w, e, from, hash, err);
    hash_stream_end(hash, digest);
    if (rc < 0)
        return rc;
    hash_hex(digest, sizeof(digest), hex);
    json_array_append_new(w->files, json_pack("{s:s, s:I, s:i, s:s}", "path", e->path, "bytes", (json_int_t)e->bytes, "mode", (int)(e->mode & 0777), "sha256", hex));
    w->bytes += e->bytes;
    return 0;
}

int archive_finish(struct archive_writer *w, json_t *manifest, struct err *err)
{
    CLEANUP(sbuf_deinit) struct sbuf text = {0};
    sbuf_init(&text, ARCHIVE_MANIFEST_MAX);
    json_object_set(manifest, "files", w->files);
    json_write(manifest, &text);
    if (!sbuf_ok(&text))
        return err_set(err, ERR_TOO_LARGE, "the manifest is over %u bytes", ARCHIVE_MANIFEST_MAX);
    int rc = write_entry(w, 'M', &(struct archive_entry){.path = "", .bytes = text.len}, err);
    if (rc == 0)
        rc = put(w, sbuf_str(&text), err);
    return rc < 0 ? rc : sealed_finish(w->sealed, err);
}

uint64_t archive_bytes(const struct archive_writer *w)
{
    return w->bytes;
}

/* ---- reading ---- */

struct seen {
    uint64_t bytes;
    char sha256[SHA256_HEX_MAX];
};

struct reading {
    const struct archive_source *source;
    const struct archive_taker *taker;
    struct map *seen; /* path → struct seen */
    char path[ARCHIVE_PATH_MAX + 1];
    char *buf;
};

/* All of them, or the error that it ends too early. */
static int read_exactly(struct reading *r, void *buf, size_t size, struct err *err)
{
    for (size_t at = 0; at < size;) {
        size_t n;
        int rc = r->source->read(r->source->ctx, (char *)buf + at, size - at, &n, err);
        if (rc < 0)
            return rc;
        if (!n)
            return err_set(err, ERR_CORRUPT, "it ends in the middle of %s", *r->path ? r->path : "its head");
        at += n;
    }
    return 0;
}

static int take_bytes(struct reading *r, uint64_t bytes, struct hash_stream *hash, struct err *err)
{
    while (bytes) {
        size_t n = MIN(PIECE_BYTES, bytes);
        int rc = read_exactly(r, r->buf, n, err);
        if (rc < 0)
            return rc;
        hash_stream_add(hash, str_n(r->buf, n));
        if (r->taker->data && (rc = r->taker->data(r->taker->ctx, str_n(r->buf, n), err)) < 0)
            return rc;
        bytes -= n;
    }
    return 0;
}

static int take_file(struct reading *r, const uint8_t *head, struct err *err)
{
    struct archive_entry e = {.path = r->path, .mode = (mode_t)get_number(head + 4, 4), .bytes = get_number(head + 8, 8)};
    size_t len = (size_t)get_number(head + 2, 2);
    uint8_t digest[SHA256_BYTES];
    if (!len || len > ARCHIVE_PATH_MAX || (e.mode & ~(mode_t)0777) || e.bytes > INT64_MAX || map_len(r->seen) >= ARCHIVE_FILES_MAX)
        return err_set(err, ERR_CORRUPT, "an impossible entry behind %s", *r->path ? r->path : "its head");
    int rc = read_exactly(r, r->path, len, err);
    if (rc < 0)
        return rc;
    r->path[len] = 0;
    if (!archive_path_valid(str_n(r->path, len)))
        return err_set(err, ERR_CORRUPT, "an entry whose path leads elsewhere");
    if (map_get(r->seen, str_of(r->path)))
        return err_set(err, ERR_CORRUPT, "%s is in it twice", r->path);
    if (r->taker->begin && (rc = r->taker->begin(r->taker->ctx, &e, err)) < 0)
        return rc;
    struct hash_stream *hash = hash_stream_new();
    rc = take_bytes(r, e.bytes, hash, err);
    hash_stream_end(hash, digest);
    if (rc == 0 && r->taker->end)
        rc = r->taker->end(r->taker->ctx, err);
    if (rc < 0)
        return rc;
    struct seen *s = XNEW(struct seen);
    s->bytes = e.bytes;
    hash_hex(digest, sizeof(digest), s->sha256);
    map_set(r->seen, str_of(r->path), s);
    return 0;
}

static int compare(struct reading *r, const json_t *manifest, struct err *err)
{
    const json_t *files = json_object_get(manifest, "files"), *f;
    size_t i;
    int64_t format = json_int(manifest, "format", 0);
    if (format > ARCHIVE_FORMAT)
        return err_set(err, ERR_INVALID, "made by a newer release (format %lld, this one knows %d)", (long long)format, ARCHIVE_FORMAT);
    if (!json_is_array(files) || json_array_size(files) != map_len(r->seen))
        return err_set(err, ERR_CORRUPT, "its manifest lists other files than are in it");
    json_array_foreach (files, i, f) {
        const char *path = json_str_or(f, "path", "");
        const struct seen *s = map_get(r->seen, str_of(path));
        if (!s || (int64_t)s->bytes != json_int(f, "bytes", -1) || strcmp(s->sha256, json_str_or(f, "sha256", "")) != 0)
            return err_set(err, ERR_CORRUPT, "%s is not what its manifest says", path);
    }
    return 0;
}

static int take_manifest(struct reading *r, const uint8_t *head, json_t **ret, struct err *err)
{
    uint64_t bytes = get_number(head + 8, 8);
    CLEANUP(mem_freep) char *text = NULL;
    JSON_AUTO doc = NULL;
    size_t more = 0;
    snprintf(r->path, sizeof(r->path), "its manifest");
    if (get_number(head + 2, 2) || bytes > ARCHIVE_MANIFEST_MAX)
        return err_set(err, ERR_CORRUPT, "an impossible manifest");
    if (!(text = mem_try((size_t)bytes + 1)))
        return err_set(err, ERR_NO_MEMORY, "no memory for its manifest");
    int rc = read_exactly(r, text, (size_t)bytes, err);
    if (rc == 0 && (rc = r->source->read(r->source->ctx, r->buf, 1, &more, err)) == 0 && more)
        rc = err_set(err, ERR_CORRUPT, "something follows on its manifest");
    if (rc < 0)
        return rc;
    if (json_parse(str_n(text, (size_t)bytes), ARCHIVE_MANIFEST_MAX, &doc, NULL) < 0 || !json_is_object(doc))
        return err_set(err, ERR_CORRUPT, "its manifest cannot be read");
    if ((rc = compare(r, doc, err)) == 0)
        *ret = TAKE(doc);
    return rc;
}

static int read_entries(struct reading *r, json_t **ret, struct err *err)
{
    uint8_t head[ENTRY_BYTES];
    int rc = read_exactly(r, head, HEAD_BYTES, err);
    if (rc < 0)
        return rc;
    if (memcmp(head, MAGIC, 8) != 0)
        return err_set(err, ERR_CORRUPT, "this is no backup of Seki");
    if (get_number(head + 8, 4) != ARCHIVE_FORMAT)
        return err_set(err, ERR_INVALID, "made by a newer release (format %llu, this one knows %d)", (unsigned long long)get_number(head + 8, 4), ARCHIVE_FORMAT);
    for (;;) {
        if ((rc = read_exactly(r, head, ENTRY_BYTES, err)) < 0)
            return rc;
        if (head[0] == 'M' && !head[1])
            return take_manifest(r, head, ret, err);
        if (head[0] != 'F' || head[1])
            return err_set(err, ERR_CORRUPT, "an impossible entry behind %s", *r->path ? r->path : "its head");
        if ((rc = take_file(r, head, err)) < 0)
            return rc;
    }
}

int archive_read_plain(const struct archive_source *s, const struct archive_taker *t, json_t **ret_manifest, struct err *err)
{
    static const struct archive_taker nobody;
    struct reading *r = XNEW(struct reading);
    *r = (struct reading){.source = s, .taker = t ? t : &nobody, .seen = map_new(mem_free), .buf = xcalloc(1, PIECE_BYTES)};
    int rc = read_entries(r, ret_manifest, err);
    map_free(r->seen);
    mem_free(r->buf);
    mem_free(r);
    return rc;
}

static int read_sealed(void *ctx, void *buf, size_t size, size_t *ret_len, struct err *err)
{
    return sealed_read(ctx, buf, size, ret_len, err);
}

int archive_read(int fd, const struct sealed_key *k, const struct archive_taker *t, json_t **ret_manifest, struct err *err)
{
    struct sealed_reader *sealed;
    int rc = sealed_reader_new(fd, k, &sealed, err);
    if (rc < 0)
        return rc;
    rc = archive_read_plain(&(struct archive_source){read_sealed, sealed}, t, ret_manifest, err);
    sealed_reader_free(sealed);
    return rc;
}
