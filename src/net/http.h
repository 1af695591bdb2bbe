/* HTTP/1.1 messages: head checks, headers, status texts. Server and client share this.
 *
 * http_head_parse() looks at the raw bytes of a head before llhttp does, because llhttp 8.1 accepts obs-fold and a
 * bare CR inside a header. It refuses (RFC 9112): CR without LF, LF without CR, a line that starts with space or tab, control
 * bytes and NUL, header names that are no token, space before the colon, not exactly one Host (and a sound one) in an HTTP/1.1 request, Transfer-Encoding
 * other than exactly "chunked" (once), Content-Length together with Transfer-Encoding, Content-Length repeated or not a plain
 * number, more than max_headers headers. It is applied to requests and to upstream responses alike.
 */
#ifndef SEKI_NET_HTTP_H
#define SEKI_NET_HTTP_H

#include "base/arena.h"

#define HTTP_HEADERS_MAX 100

struct http_header {
    struct str name;  /* as sent; compare with str_ieq */
    struct str value; /* trimmed */
};

struct http_head {
    bool is_request;
    struct str method;  /* requests */
    struct str target;  /* as sent: path and query */
    struct str path;    /* before '?', not decoded */
    struct str query;   /* after '?', or empty */
    int status;         /* responses */
    struct str reason;
    int minor_version;  /* HTTP/1.x; others are refused */
    struct http_header *headers;
    size_t header_count;
    int64_t content_length; /* -1: none */
    bool chunked;
    bool keep_alive;
    bool expect_continue;
    bool upgrade;
};

/* Finds the end of the head: bytes up to and including the blank line, 0 when it is not there yet. */
size_t http_head_end(struct str bytes);
/* Checks and parses a complete head (bytes end in the blank line). Slices of *ret point into bytes, its headers are in the
 * caller's array. ERR_PROTOCOL or ERR_BAD_REQUEST with what is wrong; ERR_HEADER_TOO_LARGE for too many headers. This is the
 * fuzzed entry. */
int http_head_parse(struct str bytes, bool is_request, struct http_header headers[HTTP_HEADERS_MAX], struct http_head *ret, struct err *err) NODISCARD;
bool http_is_token_char(unsigned char c); /* of names, RFC 9110, 5.6.2 */
struct str http_header_get(const struct http_head *h, const char *name); /* ptr NULL when absent */

/* Incremental body decoder for Content-Length, chunked (strict; extensions and trailers are read and dropped, under caps) and until-close.
 * feed() consumes from in and gives the next slice of payload; call until it returns 0 payload. */
struct http_body;
struct http_body *http_body_new(const struct http_head *h, bool is_response, bool response_to_head);
void http_body_free(struct http_body *b);
/* Consumes some of in; *ret_payload is a slice of in (may be empty). *ret_used: bytes of in consumed. *ret_done: the body is complete. */
int http_body_feed(struct http_body *b, struct str in, struct str *ret_payload, size_t *ret_used, bool *ret_done,
                   struct err *err) NODISCARD;
/* The peer closed: 0 when that ends this body properly, ERR_PROTOCOL when bytes are owed. */
int http_body_eof(struct http_body *b, struct err *err) NODISCARD;

const char *http_status_text(int status);
/* One line of a head, "name: value" and CRLF. */
void http_add_field(struct sbuf *head, struct str name, struct str value);
void http_add_length(struct sbuf *head, uint64_t length); /* Content-Length */

/* Whether the peer takes this content coding: Accept-Encoding names it, or '*', with a q above 0. */
bool http_accepts_coding(const struct http_head *h, const char *coding);
/* in as one gzip member, fast rather than small (http_gzip.c). */
int http_gzip(struct str in, struct sbuf *out, struct err *err) NODISCARD;

/* Percent-decodes a path segment or query value ('+' is a space in queries); ERR_BAD_REQUEST for bad escapes and NUL. */
int http_decode(struct arena *a, struct str in, bool is_query, struct str *ret, struct err *err) NODISCARD;
/* The way back, for both: all but letters, digits and "-._~:" is escaped. */
void http_encode(struct sbuf *out, struct str in);
/* Value of a query parameter, decoded; ptr NULL when absent. */
int http_query_get(struct arena *a, struct str query, const char *name, struct str *ret, struct err *err) NODISCARD;

#endif
