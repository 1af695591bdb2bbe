#include "base/mem.h"

#include <stdarg.h>

static NORETURN void die(void)
{
    static const char msg[] = "seki: out of memory\n";
    fwrite(msg, 1, sizeof(msg) - 1, stderr);
    abort();
}

void *xcalloc(size_t count, size_t size_bytes)
{
    void *p = calloc(count ? count : 1, size_bytes ? size_bytes : 1);
    if (!p)
        die();
    return p;
}

void *xrealloc(void *p, size_t size_bytes)
{
    void *q = realloc(p, size_bytes ? size_bytes : 1);
    if (!q)
        die();
    return q;
}

char *xstrdup(const char *s)
{
    return xstrndup(s, strlen(s));
}

char *xstrndup(const char *s, size_t len)
{
    char *p = xcalloc(1, len + 1);
    if (len)
        memcpy(p, s, len);
    return p;
}

char *xasprintf(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n < 0)
        die();
    char *p = xcalloc(1, (size_t)n + 1);
    va_start(ap, fmt);
    vsnprintf(p, (size_t)n + 1, fmt, ap);
    va_end(ap);
    return p;
}

void *mem_try(size_t size_bytes)
{
    return calloc(1, size_bytes ? size_bytes : 1);
}

void mem_free(void *p)
{
    free(p);
}

void mem_wipe(void *p, size_t len)
{
    if (p && len)
        explicit_bzero(p, len);
}

void mem_freep(void *p)
{
    void **pp = p;
    free(*pp);
    *pp = NULL;
}
