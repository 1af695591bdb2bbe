/* A ledger file as a reader meets it: head, records, chain, and the usage in their bodies. What is taken for good must be, byte for byte, what a writer would have written. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/arena.h"
#include "base/file.h"
#include "base/mem.h"
#include "fuzz.h"
#include "ledger/audit.h"
#include "ledger/files.h"
#include "ledger/usage.h"

static void must(bool holds)
{
    if (!holds)
        abort();
}

/* What is taken for an audit record is the same when it is written and read again, but for texts that are cut. */
static void check_audit(struct arena *a, struct str body)
{
    CLEANUP(sbuf_deinit) struct sbuf text = {0}, again = {0};
    struct audit_event e, f;
    if (audit_decode(body, a, &e, NULL) < 0)
        return;
    sbuf_init(&text, 1 << 20);
    sbuf_init(&again, 1 << 20);
    audit_encode(&e, &text);
    must(audit_decode(sbuf_str(&text), a, &f, NULL) == 0);
    audit_encode(&f, &again);
    must(str_eq(sbuf_str(&text), sbuf_str(&again)));
    json_decref(audit_ocsf(&e, 1, 0, ""));
}

struct check {
    struct str file;
    size_t at;
    uint64_t sequence;
    struct arena *arena;
};

static bool on_record(void *arg, const struct ledger_record *rec)
{
    struct check *c = arg;
    CLEANUP(sbuf_deinit) struct sbuf again = {0};
    struct usage u;
    uint8_t hash[32];
    sbuf_init(&again, LEDGER_HEAD_BYTES + LEDGER_BODY_MAX);
    ledger_encode(rec, &again, hash);
    must(rec->sequence == ++c->sequence);
    must(again.len <= c->file.len - c->at && !memcmp(again.ptr, c->file.ptr + c->at, again.len));
    c->at += again.len;
    arena_reset(c->arena);
    check_audit(c->arena, rec->body);
    if (usage_decode(rec->body, c->arena, &u, NULL) == 0)
        must(u.id.len && u.project.len && u.prompt_tokens >= 0 && u.cached_tokens >= 0 && u.completion_tokens >= 0);
    return true;
}

static void put_crc(uint8_t *at, struct str bytes)
{
    uint32_t crc = ledger_crc32c(bytes);
    for (int i = 0; i < 4; i++)
        at[i] = (uint8_t)(crc >> (8 * i));
}

/* Nobody guesses checksums: they are put right, so that what is behind them is reached. */
static void repair(uint8_t *file, size_t size)
{
    if (size < LEDGER_FILE_HEAD_BYTES)
        return;
    put_crc(file + 28, str_n(file, 28));
    for (size_t at = LEDGER_FILE_HEAD_BYTES; size - at >= LEDGER_HEAD_BYTES;) {
        uint8_t *p = file + at;
        size_t total = LEDGER_HEAD_BYTES + ((size_t)p[0] | (size_t)p[1] << 8 | (size_t)p[2] << 16 | (size_t)p[3] << 24);
        if (total > size - at)
            return;
        put_crc(p + 4, str_n(p + 8, total - 8));
        at += total;
    }
}

static void check_head(struct str file)
{
    struct ledger_file_head head;
    uint8_t again[LEDGER_FILE_HEAD_BYTES];
    if (ledger_read_head(file, &head, NULL) < 0)
        return;
    ledger_write_head(&head, again);
    must(!memcmp(again, file.ptr, sizeof(again)));
}

static void check_records(struct str file)
{
    struct ledger_position pos = {0};
    struct err err = ERR_INIT;
    struct check c = {.file = file, .at = LEDGER_FILE_HEAD_BYTES, .arena = arena_new(1 << 20)};
    CLEANUP(file_closep) int fd = memfd_create("ledger", MFD_CLOEXEC);
    must(fd >= 0 && file_write_all(fd, file, NULL) == 0);
    struct ledger_scan s = {.path = "fuzz", .fd = fd, .offset = LEDGER_FILE_HEAD_BYTES, .size = (off_t)file.len, .pos = &pos, .fn = on_record, .arg = &c};
    int rc = ledger_scan(&s, &err);
    must(s.offset == (off_t)c.at && pos.sequence == c.sequence);
    must(rc == 0 ? !err.code : rc == ERR_CORRUPT && strstr(err.msg, "sequence"));
    arena_free(c.arena);
}

/* The first byte says whether checksums are repaired. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2 || size > 1 << 20)
        return 0;
    uint8_t *file = xcalloc(1, --size);
    memcpy(file, data + 1, size);
    if (data[0] & 1)
        repair(file, size);
    check_head(str_n(file, size));
    if (size >= LEDGER_FILE_HEAD_BYTES)
        check_records(str_n(file, size));
    mem_free(file);
    return 0;
}
