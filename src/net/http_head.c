/* Heads of HTTP/1.1 messages: our own checks of the raw bytes first, then llhttp as a second opinion, then our own parse.
 *
 * RFC 9112: what is ambiguous between two implementations is refused, because one of them may be in front of us and the other behind.
 */
#include <ctype.h>
#include <llhttp.h>

#include "net/http_server_internal.h"

size_t http_head_end(struct str bytes)
{
    const char *p = bytes.ptr, *end = bytes.ptr + bytes.len;
    while (p < end) {
        const char *lf = memchr(p, '\n', (size_t)(end - p));
        if (!lf || lf + 1 >= end)
            return 0;
        if (lf[1] == '\n')
            return (size_t)(lf + 2 - bytes.ptr);
        if (lf[1] == '\r' && lf + 2 < end && lf[2] == '\n')
            return (size_t)(lf + 3 - bytes.ptr);
        p = lf + 1;
    }
    return 0;
}

static const bool token_chars[256] = {['0' ... '9'] = true, ['A' ... 'Z'] = true, ['a' ... 'z'] = true, ['!'] = true, ['#'] = true, ['$'] = true, ['%'] = true, ['&'] = true,
                                      ['\''] = true, ['*'] = true, ['+'] = true, ['-'] = true, ['.'] = true, ['^'] = true, ['_'] = true, ['`'] = true, ['|'] = true, ['~'] = true};

bool http_is_token_char(unsigned char c)
{
    return token_chars[c];
}

static bool is_token(struct str s)
{
    for (size_t i = 0; i < s.len; i++)
        if (!token_chars[(unsigned char)s.ptr[i]])
            return false;
    return s.len > 0;
}

/* The next line without its CRLF; only CRLF ends a line. */
static int next_line(struct str *rest, struct str *ret, struct err *err)
{
    const char *lf = memchr(rest->ptr, '\n', rest->len);
    if (!lf || lf == rest->ptr || lf[-1] != '\r')
        return err_set(err, ERR_BAD_REQUEST, "a line of the head does not end in CRLF");
    *ret = str_n(rest->ptr, (size_t)(lf - 1 - rest->ptr));
    *rest = str_skip(*rest, ret->len + 2);
    unsigned bad = 0; /* all bytes are looked at, so that the compiler can take many at a time */
    for (size_t i = 0; i < ret->len; i++) {
        unsigned char c = (unsigned char)ret->ptr[i];
        bad |= (unsigned)(c < 0x20) & (unsigned)(c != '\t');
        bad |= (unsigned)(c == 0x7f);
    }
    return bad ? err_set(err, ERR_BAD_REQUEST, "a control character in the head") : 0;
}

static int parse_version(struct str text, int *ret_minor, struct err *err)
{
    if (text.len == 8 && !memcmp(text.ptr, "HTTP/1.", 7) && (text.ptr[7] == '0' || text.ptr[7] == '1')) {
        *ret_minor = text.ptr[7] - '0';
        return 0;
    }
    return err_set(err, ERR_PROTOCOL, "expected HTTP/1.1");
}

static int parse_request_line(struct str line, struct http_head *h, struct err *err)
{
    struct str rest = line;
    if (!str_cut(&rest, ' ', &h->method) || !str_cut(&rest, ' ', &h->target) || !is_token(h->method) || !h->target.len)
        return err_set(err, ERR_BAD_REQUEST, "the request line is malformed");
    int rc = rest.len ? parse_version(rest, &h->minor_version, err) : err_set(err, ERR_BAD_REQUEST, "the request line has no version");
    return rc < 0 ? rc : http_target_split(h, err);
}

int http_target_split(struct http_head *h, struct err *err)
{
    if (!h->target.len)
        return err_set(err, ERR_BAD_REQUEST, "the request has no target");
    for (size_t i = 0; i < h->target.len; i++)
        if ((unsigned char)h->target.ptr[i] <= 0x20 || (unsigned char)h->target.ptr[i] >= 0x7f)
            return err_set(err, ERR_BAD_REQUEST, "the request target must be printable ASCII");
    struct str target = h->target;
    if (target.ptr[0] != '/') {
        /* absolute-form: only its path matters; Host is checked apart. "*" and authority-form are not for us. */
        struct str after = str_starts(target, STR("http://")) ? str_skip(target, 7) : str_starts(target, STR("https://")) ? str_skip(target, 8) : STR_NULL;
        ssize_t slash = after.ptr ? str_find(after, '/') : -1;
        if (slash < 0)
            return err_set(err, ERR_BAD_REQUEST, "the request target must be a path");
        target = str_skip(after, (size_t)slash);
    }
    ssize_t q = str_find(target, '?');
    h->path = q < 0 ? target : str_n(target.ptr, (size_t)q);
    h->query = q < 0 ? str_n(target.ptr + target.len, 0) : str_skip(target, (size_t)q + 1);
    return 0;
}

static int parse_status_line(struct str line, struct http_head *h, struct err *err)
{
    int rc = line.len >= 12 ? parse_version(str_n(line.ptr, 8), &h->minor_version, err) : err_set(err, ERR_PROTOCOL, "the status line is malformed");
    int64_t status;
    if (rc < 0)
        return rc;
    if (line.ptr[8] != ' ' || str_to_i64(str_n(line.ptr + 9, 3), 100, 599, &status) < 0 || (line.len > 12 && line.ptr[12] != ' '))
        return err_set(err, ERR_PROTOCOL, "the status line is malformed");
    h->status = (int)status;
    h->reason = line.len > 13 ? str_skip(line, 13) : STR_NULL;
    return 0;
}

static int parse_field(struct str line, struct http_head *h, struct err *err)
{
    if (line.ptr[0] == ' ' || line.ptr[0] == '\t')
        return err_set(err, ERR_BAD_REQUEST, "a header line starts with white space");
    ssize_t colon = str_find(line, ':');
    if (colon <= 0 || !is_token(str_n(line.ptr, (size_t)colon)))
        return err_set(err, ERR_BAD_REQUEST, "a header name is malformed");
    if (h->header_count == HTTP_HEADERS_MAX)
        return err_set(err, ERR_HEADER_TOO_LARGE, "more than %d headers", HTTP_HEADERS_MAX);
    h->headers[h->header_count++] = (struct http_header){str_n(line.ptr, (size_t)colon), str_trim(str_skip(line, (size_t)colon + 1))};
    return 0;
}

/* Whether a comma-separated list has the item. */
static bool list_has(struct str list, const char *item)
{
    struct str part;
    while (str_cut(&list, ',', &part))
        if (str_ieq(str_trim(part), str_of(item)))
            return true;
    return false;
}

/* A name or an address, perhaps a port, or nothing (RFC 9110, 7.2). Lists, user information and paths are what confuses routers. */
static bool is_host(struct str value)
{
    for (size_t i = 0; i < value.len; i++) {
        unsigned char c = (unsigned char)value.ptr[i];
        if (!isalnum(c) && !strchr("-._~%!$&'()*+;=:[]", c))
            return false;
    }
    return true;
}

static int judge_framing(struct http_head *h, struct err *err)
{
    int hosts = 0, lengths = 0, codings = 0;
    h->content_length = -1;
    h->keep_alive = h->minor_version == 1;
    for (size_t i = 0; i < h->header_count; i++) {
        struct str name = h->headers[i].name, value = h->headers[i].value;
        if (str_ieq(name, STR("host"))) {
            hosts++;
            if (h->is_request && !is_host(value))
                return err_set(err, ERR_BAD_REQUEST, "the Host header is malformed");
        } else if (str_ieq(name, STR("content-length"))) {
            if (lengths++ || !value.len || value.len > 15 || str_to_i64(value, 0, INT64_MAX, &h->content_length) < 0 || !isdigit((unsigned char)value.ptr[0]))
                return err_set(err, ERR_BAD_REQUEST, "Content-Length must be one plain number");
        } else if (str_ieq(name, STR("transfer-encoding"))) {
            if (codings++ || !str_ieq(value, STR("chunked")))
                return err_set(err, ERR_BAD_REQUEST, "Transfer-Encoding must be exactly chunked");
            h->chunked = true;
        } else if (str_ieq(name, STR("connection"))) {
            if (list_has(value, "close"))
                h->keep_alive = false;
            else if (h->minor_version == 0 && list_has(value, "keep-alive"))
                h->keep_alive = true;
            h->upgrade = h->upgrade || list_has(value, "upgrade");
        } else if (str_ieq(name, STR("expect"))) {
            h->expect_continue = str_ieq(value, STR("100-continue"));
        }
    }
    if (h->chunked && lengths)
        return err_set(err, ERR_BAD_REQUEST, "Content-Length and Transfer-Encoding together");
    if (h->chunked && h->minor_version == 0)
        return err_set(err, ERR_BAD_REQUEST, "Transfer-Encoding in HTTP/1.0");
    if (h->is_request && (hosts > 1 || (hosts == 0 && h->minor_version == 1)))
        return err_set(err, ERR_BAD_REQUEST, "expected exactly one Host header");
    return 0;
}

/* llhttp must agree that this is a message: it knows rules that the checks above do not. */
static int second_opinion(struct str bytes, const struct http_head *h, struct err *err)
{
    static const llhttp_settings_t silent;
    llhttp_t p;
    llhttp_init(&p, h->is_request ? HTTP_REQUEST : HTTP_RESPONSE, &silent);
    llhttp_errno_t e = llhttp_execute(&p, bytes.ptr, bytes.len);
    if (e == HPE_OK || e == HPE_PAUSED_UPGRADE || e == HPE_PAUSED)
        return 0;
    return err_set(err, ERR_BAD_REQUEST, "not HTTP/1.1: %s", llhttp_errno_name(e));
}

int http_head_parse(struct str bytes, bool is_request, struct http_header headers[HTTP_HEADERS_MAX], struct http_head *ret, struct err *err)
{
    struct str rest = bytes, line;
    ret->is_request = is_request;
    ret->headers = headers;
    ret->header_count = 0;
    ret->chunked = ret->expect_continue = ret->upgrade = false;
    int rc = next_line(&rest, &line, err);
    if (rc == 0)
        rc = is_request ? parse_request_line(line, ret, err) : parse_status_line(line, ret, err);
    while (rc == 0 && (rc = next_line(&rest, &line, err)) == 0 && line.len)
        rc = parse_field(line, ret, err);
    if (rc == 0 && rest.len)
        rc = err_set(err, ERR_BAD_REQUEST, "bytes after the head");
    if (rc == 0)
        rc = judge_framing(ret, err);
    return rc == 0 ? second_opinion(bytes, ret, err) : rc;
}

struct str http_header_get(const struct http_head *h, const char *name)
{
    struct str wanted = str_of(name);
    for (size_t i = 0; i < h->header_count; i++)
        if (str_ieq(h->headers[i].name, wanted))
            return h->headers[i].value;
    return STR_NULL;
}
