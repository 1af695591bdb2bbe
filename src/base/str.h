/* Strings: `struct str` is a borrowed slice, passed by value; `struct sbuf` builds one under a maximum.
 *
 * A str never owns and need not end in NUL. An sbuf is born with the largest size it may reach; once an append
 * would pass it, or memory is short, the buffer turns `failed`, drops the append, and says so in sbuf_ok(): a
 * writer may append many times and check once. Threads: no sharing without a lock.
 */
#ifndef SEKI_BASE_STR_H
#define SEKI_BASE_STR_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"

struct str {
    const char *ptr;
    size_t len;
};

#define STR(literal) ((struct str){"" literal, sizeof(literal) - 1})
#define STR_NULL ((struct str){NULL, 0})
/* For printf: "%.*s", STR_ARG(s) */
#define STR_ARG(s) (int)(s).len, (s).ptr ? (s).ptr : ""

static inline struct str str_of(const char *s)
{
    return (struct str){s, s ? strlen(s) : 0};
}
static inline struct str str_n(const void *p, size_t len)
{
    return (struct str){p, len};
}

bool str_eq(struct str a, struct str b);
bool str_eqc(struct str a, const char *b);
bool str_ieq(struct str a, struct str b); /* ASCII case-insensitively */
int str_cmp(struct str a, struct str b);
bool str_starts(struct str s, struct str prefix);
bool str_ends(struct str s, struct str suffix);
struct str str_trim(struct str s); /* spaces, tabs, CR, LF at both ends */
struct str str_skip(struct str s, size_t n);
ssize_t str_find(struct str s, char c); /* index, or -1 */

/* Cuts the part before the first `sep` off s. Returns false when s is exhausted:
 *   while (str_cut(&rest, ',', &item)) ...                                           */
bool str_cut(struct str *s, char sep, struct str *ret_item);

/* The whole of s as a number; ERR_BAD_REQUEST when it is none or out of range. */
int str_to_i64(struct str s, int64_t min, int64_t max, int64_t *ret) NODISCARD;
int str_to_u64(struct str s, uint64_t *ret) NODISCARD;

/* Well-formed UTF-8 without surrogates and overlong forms. */
bool str_utf8_valid(struct str s);
/* The beginning of s, of at most max bytes, cut between characters. */
struct str str_utf8_head(struct str s, size_t max);

/* Equal length and bytes, in time that depends on the length only. */
bool str_eq_secret(struct str a, struct str b);

/* A NUL-terminated copy in a caller's array; false (and an empty array) when it does not fit. */
bool str_to_array(struct str s, char *array, size_t size);

struct sbuf {
    char *ptr; /* NUL-terminated whenever not NULL */
    size_t len;
    size_t cap;
    size_t max; /* bytes, without the NUL */
    bool failed;
};

void sbuf_init(struct sbuf *b, size_t max_bytes);
void sbuf_deinit(struct sbuf *b); /* also for CLEANUP */
void sbuf_reset(struct sbuf *b);  /* empty again, memory kept */
bool sbuf_ok(const struct sbuf *b);
struct str sbuf_str(const struct sbuf *b);
/* The bytes as an owned NUL-terminated string (mem_free), the buffer empty; NULL when failed. */
char *sbuf_take(struct sbuf *b);

void sbuf_add(struct sbuf *b, struct str s);
void sbuf_addc(struct sbuf *b, const char *s);
void sbuf_add_char(struct sbuf *b, char c);
void sbuf_addf(struct sbuf *b, const char *fmt, ...) PRINTF(2, 3);
void sbuf_addv(struct sbuf *b, const char *fmt, va_list ap);
void sbuf_add_u64(struct sbuf *b, uint64_t v);
void sbuf_add_i64(struct sbuf *b, int64_t v);
void sbuf_add_hex(struct sbuf *b, const void *bytes, size_t len);
/* s as a JSON string with its quotes. Invalid UTF-8 becomes U+FFFD. */
void sbuf_add_json(struct sbuf *b, struct str s);
/* Room for at least n more bytes at the end (ptr + len); NULL when that is over the maximum. Then sbuf_commit. */
char *sbuf_reserve(struct sbuf *b, size_t n);
void sbuf_commit(struct sbuf *b, size_t n);
/* Drops the first n bytes. */
void sbuf_consume(struct sbuf *b, size_t n);

#endif
