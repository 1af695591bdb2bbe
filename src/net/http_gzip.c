#include "net/http.h"

#include <zlib.h>

#define LEVEL 1         /* of 9: the others cost several times the CPU for a tenth of the bytes */
#define GZIP_WINDOW 31  /* 15 bits, and 16: with gzip's header */
#define MEMORY_LEVEL 8
#define STEP (16 * 1024)

int http_gzip(struct str in, struct sbuf *out, struct err *err)
{
    z_stream z = {.next_in = (unsigned char *)(uintptr_t)in.ptr, .avail_in = (unsigned)in.len};
    int rc = Z_OK;
    if (in.len > INT32_MAX)
        return err_set(err, ERR_TOO_LARGE, "too large to compress in one piece");
    if (deflateInit2(&z, LEVEL, Z_DEFLATED, GZIP_WINDOW, MEMORY_LEVEL, Z_DEFAULT_STRATEGY) != Z_OK)
        return err_set(err, ERR_NO_MEMORY, "out of memory");
    while (rc == Z_OK) {
        char *room = sbuf_reserve(out, STEP);
        if (!room)
            break;
        z.next_out = (unsigned char *)room;
        z.avail_out = STEP;
        rc = deflate(&z, Z_FINISH);
        sbuf_commit(out, STEP - z.avail_out);
    }
    deflateEnd(&z);
    return rc == Z_STREAM_END && sbuf_ok(out) ? 0 : err_set(err, ERR_TOO_LARGE, "compressed, it is no smaller");
}
