/* What etcd, its tools and the components of a cluster print and serve: each scanner reads all of it. What they find lies within what they were given, and is what its place takes. */
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "kaas/recovery.h"
#include "kaas/store_space.h"
#include "kaas/upgrade.h"

#define INPUT_MAX 65536
#define CONDITION_MAX 512 /* what a condition has room for, roughly */

#define MUST(what)                                                                                                                                                                                     \
    do {                                                                                                                                                                                               \
        if (!(what))                                                                                                                                                                                   \
            abort();                                                                                                                                                                                   \
    } while (0)

static bool within(struct str part, struct str whole)
{
    return !part.len || (part.ptr >= whole.ptr && part.ptr + part.len <= whole.ptr + whole.len);
}

/* Lines of text, as metrics and the tools' simple form are. */
static void scan_lines(struct str text, struct arena *a)
{
    static const struct site three = {.members = 3, .address = "127.1.0.1", .more = {"127.1.0.2", "127.1.0.3"}};
    struct store_member m = {.id = ""};
    int64_t revision = 0;
    const char *gone = preflight_deprecated(text, 37, a);
    int minor = preflight_etcd_program(text), leader = store_leader_find(text, &three);
    struct str failing = probe_failing(text), last = tool_last_line(text);
    MUST(!gone || strlen(gone) < CONDITION_MAX);
    MUST(minor == -1 || (minor >= 0 && minor <= 999999));
    MUST(leader >= -1 && leader < three.members);
    MUST(within(failing, text) && failing.len < CONDITION_MAX && !memchr(failing.len ? failing.ptr : "", '\n', failing.len));
    MUST(within(last, text) && last.len < CONDITION_MAX && !memchr(last.len ? last.ptr : "", '\n', last.len));
    if (store_member_find(text, "https://127.1.0.2:2380", &m))
        MUST(*m.id && strlen(m.id) < sizeof(m.id) && !strpbrk(m.id, ",\n")); /* it becomes an argument */
    if (snapshot_revision_parse(text, &revision, NULL) == 0)
        MUST(revision > 0);
}

/* What is kept as a string that ends. */
static void scan_text(const char *text, struct arena *a)
{
    static const char *const members[] = {"version", "storageVersion"};
    for (size_t i = 0; i < ARRAY_LEN(members); i++) {
        const char *is = preflight_member(text, members[i], a);
        MUST(!strchr(is, '"') && (!*is || strstr(text, is)));
        MUST(preflight_etcd(is) >= -1 && preflight_kubelet(is) >= -1 && preflight_kubelet(is) <= 999);
    }
    (void)preflight_alarm(text);
}

/* [status, alarms, webhook] */
static void scan_json(struct str text)
{
    JSON_AUTO doc = NULL;
    struct store_space s;
    if (json_parse(text, INPUT_MAX, &doc, NULL) < 0)
        return;
    (void)preflight_webhook_blocks(json_array_get(doc, 2));
    if (space_read(json_array_get(doc, 0), json_array_get(doc, 1), &s, NULL) < 0)
        return;
    MUST(s.bytes > 0 && s.used >= 0 && s.limit >= 0 && strlen(s.member) < sizeof(s.member));
    MUST(!s.no_space || space_care(&s) == SPACE_MAKE_ROOM);
    MUST(*space_reason(&s) && (space_has_room(&s, 0) || s.limit < 100)); /* a quota of next to nothing has room for nothing */
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > INPUT_MAX)
        return 0;
    CLEANUP(arena_freep) struct arena *a = arena_new(1 << 20);
    char *exact = xcalloc(1, size + 1), *ended = xcalloc(1, size + 1); /* blocks of their own: reading on is seen */
    memcpy(ended, data, size);
    scan_text(ended, a);
    mem_free(ended);
    struct str text = str_n(exact + 1, size);
    memcpy(exact + 1, data, size);
    scan_lines(text, a);
    scan_json(text);
    mem_free(exact);
    return 0;
}
