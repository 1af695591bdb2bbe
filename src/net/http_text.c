#include "net/http.h"

const char *http_status_text(int status)
{
    static const struct {
        int status;
        const char *text;
    } all[] = {{100, "Continue"}, {101, "Switching Protocols"}, {200, "OK"}, {201, "Created"}, {202, "Accepted"}, {204, "No Content"},
               {301, "Moved Permanently"}, {304, "Not Modified"}, {400, "Bad Request"}, {401, "Unauthorized"}, {402, "Payment Required"}, {403, "Forbidden"},
               {404, "Not Found"}, {405, "Method Not Allowed"}, {406, "Not Acceptable"}, {408, "Request Timeout"}, {409, "Conflict"},
               {410, "Gone"}, {411, "Length Required"}, {413, "Content Too Large"}, {414, "URI Too Long"}, {415, "Unsupported Media Type"},
               {417, "Expectation Failed"}, {422, "Unprocessable Content"}, {429, "Too Many Requests"}, {431, "Request Header Fields Too Large"},
               {500, "Internal Server Error"}, {501, "Not Implemented"}, {502, "Bad Gateway"}, {503, "Service Unavailable"},
               {504, "Gateway Timeout"}, {505, "HTTP Version Not Supported"}, {507, "Insufficient Storage"}};
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        if (all[i].status == status)
            return all[i].text;
    return "Status";
}

void http_add_field(struct sbuf *head, struct str name, struct str value)
{
    sbuf_add(head, name);
    sbuf_add(head, STR(": "));
    sbuf_add(head, value);
    sbuf_add(head, STR("\r\n"));
}

void http_add_length(struct sbuf *head, uint64_t length)
{
    sbuf_add(head, STR("Content-Length: "));
    sbuf_add_u64(head, length);
    sbuf_add(head, STR("\r\n"));
}

/* "q=0", "q=0.000" */
static bool is_zero_quality(struct str q)
{
    if (!str_starts(q, STR("q=0")))
        return false;
    for (size_t i = 2; i < q.len; i++)
        if (q.ptr[i] != '0' && q.ptr[i] != '.')
            return false;
    return true;
}

bool http_accepts_coding(const struct http_head *h, const char *coding)
{
    struct str rest = http_header_get(h, "accept-encoding"), item;
    bool any = false, named = false, named_ok = false;
    while (str_cut(&rest, ',', &item)) {
        struct str name, q;
        if (!str_cut(&item, ';', &name))
            continue;
        name = str_trim(name);
        q = str_trim(item);
        bool refused = is_zero_quality(q);
        if (str_ieq(name, str_of(coding))) {
            named = true;
            named_ok = !refused;
        } else if (str_eqc(name, "*")) {
            any = !refused;
        }
    }
    return named ? named_ok : any;
}

static int hex(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The character at *at, which is moved behind it. */
static int decode_one(struct str in, size_t *at, bool is_query, char *ret, struct err *err)
{
    size_t i = *at;
    char c = in.ptr[i];
    if (c == '%') {
        int high = i + 2 < in.len ? hex(in.ptr[i + 1]) : -1, low = i + 2 < in.len ? hex(in.ptr[i + 2]) : -1;
        if (high < 0 || low < 0 || (high == 0 && low == 0))
            return err_set(err, ERR_BAD_REQUEST, "bad percent escape in the request target");
        c = (char)(high << 4 | low);
        i += 2;
    } else if (c == '+' && is_query) {
        c = ' ';
    }
    *at = i + 1;
    *ret = c;
    return 0;
}

int http_decode(struct arena *a, struct str in, bool is_query, struct str *ret, struct err *err)
{
    char *out = arena_try(a, in.len + 1);
    size_t len = 0;
    if (!out)
        return err_set(err, ERR_NO_MEMORY, "out of memory");
    for (size_t i = 0; i < in.len; len++) {
        int rc = decode_one(in, &i, is_query, &out[len], err);
        if (rc < 0)
            return rc;
    }
    *ret = str_n(out, len);
    return 0;
}

/* Whether the encoded text is that name; nothing is allocated, as most names in a query are not the one. */
static int is_encoded(struct str in, const char *name, bool *ret, struct err *err)
{
    size_t len = 0, wanted = strlen(name);
    bool same = true;
    for (size_t i = 0; i < in.len; len++) {
        char c = 0;
        int rc = decode_one(in, &i, true, &c, err);
        if (rc < 0)
            return rc;
        same = same && len < wanted && name[len] == c;
    }
    *ret = same && len == wanted;
    return 0;
}

void http_encode(struct sbuf *out, struct str in)
{
    static const char digits[] = "0123456789ABCDEF";
    for (size_t i = 0; i < in.len; i++) {
        unsigned char c = (unsigned char)in.ptr[i];
        bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || (c && strchr("-._~:", c));
        if (plain) {
            sbuf_add_char(out, (char)c);
        } else {
            sbuf_add_char(out, '%');
            sbuf_add_char(out, digits[c >> 4]);
            sbuf_add_char(out, digits[c & 15]);
        }
    }
}

int http_query_get(struct arena *a, struct str query, const char *name, struct str *ret, struct err *err)
{
    struct str pair;
    *ret = STR_NULL;
    while (str_cut(&query, '&', &pair)) {
        ssize_t eq = str_find(pair, '=');
        struct str raw = eq < 0 ? pair : str_n(pair.ptr, (size_t)eq);
        bool is = false;
        int rc = is_encoded(raw, name, &is, err);
        if (rc < 0)
            return rc;
        if (!is)
            continue;
        return http_decode(a, eq < 0 ? STR("") : str_skip(pair, (size_t)eq + 1), true, ret, err);
    }
    return 0;
}
