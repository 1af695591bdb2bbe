/* Server-sent events: endings, fields, sizes, and streams cut anywhere. */
#include "unit.h"

#include "base/mem.h"
#include "net/sse.h"

static struct sbuf found;
static int events;

static void on_event(void *arg, const struct sse_event *e)
{
    assert_ptr_equal(arg, &found);
    events++;
    sbuf_addf(&found, "[%.*s|%.*s%s]", STR_ARG(e->event), STR_ARG(e->data), e->oversized ? "|cut" : "");
}

/* Whole, byte by byte, and in two pieces at every place: always the same events. */
static void expect_max(size_t max, const char *stream, const char *want, bool boundary)
{
    struct str s = str_of(stream);
    for (size_t cut = 0; cut <= s.len + 1; cut++) {
        sbuf_init(&found, 65536);
        struct sse_scanner *scanner = sse_new(max, on_event, &found);
        if (cut > s.len) {
            for (size_t i = 0; i < s.len; i++)
                sse_feed(scanner, str_n(s.ptr + i, 1));
        } else {
            sse_feed(scanner, str_n(s.ptr, cut));
            sse_feed(scanner, str_skip(s, cut));
        }
        if (!str_eqc(sbuf_str(&found), want))
            fail_msg("cut at %zu: %.*s, want %s", cut, STR_ARG(sbuf_str(&found)), want);
        assert_int_equal(sse_at_boundary(scanner), boundary);
        sse_free(scanner);
        sbuf_deinit(&found);
    }
}

static void expect(const char *stream, const char *want, bool boundary)
{
    expect_max(65536, stream, want, boundary);
}

static void line_endings(void **state)
{
    (void)state;
    expect("data: a\n\ndata: b\n\n", "[|a][|b]", true);
    expect("data: a\r\n\r\ndata: b\r\n\r\n", "[|a][|b]", true);
    expect("data: a\r\rdata: b\r\r", "[|a][|b]", true);
    expect("data: a\r\n\ndata: b\n\r\n", "[|a][|b]", true);
    expect("\n\n\r\n", "", true);
}

static void fields(void **state)
{
    (void)state;
    expect("event: done\ndata: a\ndata:b\ndata:  c\nid: 7\nretry: 5\n\n", "[done|a\nb\n c]", true);
    expect("data\ndata\n\n", "[|\n]", true);
    expect("data:\n\n", "[|]", true);
    expect("event: x\n\ndata: y\n\n", "[|y]", true); /* no data, no event; its name is forgotten */
    expect(": keep-alive\n\ndata: {\"a\":1}\n\n", "[|{\"a\":1}]", true);
    expect("datax: n\nDATA: n\ndata : n\n\n", "", true);
}

static void unfinished(void **state)
{
    (void)state;
    expect("data: a\n", "", false);
    expect("data: a\n\nd", "[|a]", false);
    expect(": c\n", "", false);
    expect("", "", true);
}

static void sizes(void **state)
{
    (void)state;
    expect_max(4, "data: 1234\n\n", "[|1234]", true);
    expect_max(4, "data: 12345\n\ndata: ok\n\n", "[|1234|cut][|ok]", true);
    expect_max(4, "data: 12\ndata: 3\n\n", "[|12\n3]", true);
    expect_max(4, "data: 12\ndata: 34\n\n", "[|12\n3|cut]", true);
    /* A comment or an unknown field may be of any length. */
    expect_max(4, ": 0123456789012345678901234567890123456789012345678901234567890123456789012345\ndata: x\n\n", "[|x]", true);
    expect_max(4, "i: 0123456789012345678901234567890123456789012345678901234567890123456789012345\ndata: x\n\n", "[|x]", true);
    expect_max(4, "event: 0123456789012345678901234567890123456789012345678901234567890123456789\ndata: x\n\n",
               "[0123456789012345678901234567890123456789012345678901234567890|x|cut]", true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(line_endings),
        cmocka_unit_test(fields),
        cmocka_unit_test(unfinished),
        cmocka_unit_test(sizes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
