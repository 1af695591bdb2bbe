/* What a request asks for beside its body: lines are Accept, Accept-Encoding, and a query. All are bounded, and whatever they say is one of few answers. */
#include "fuzz.h"

#include "apiserver/accept.h"
#include "net/http.h"

#define INPUT_MAX 8192

static void check_accept(struct str header)
{
    for (unsigned offers = 0; offers < 16; offers++) {
        struct accept a;
        struct err err = ERR_INIT;
        int rc = accept_parse(header, offers, &a, &err);
        if (rc < 0 ? err.code != ERR_NOT_ACCEPTABLE : a.version == NULL)
            abort();
        if (rc < 0)
            continue;
        bool meta = a.as == AS_TABLE || a.as == AS_METADATA || a.as == AS_METADATA_LIST;
        if ((a.form == ACCEPT_YAML && !(offers & OFFER_YAML)) || (meta && !(offers & OFFER_META)) || (a.as == AS_DISCOVERY && !(offers & OFFER_DISCOVERY)) ||
            (a.as != AS_ITSELF) != (*a.version != 0))
            abort();
    }
}

static void check_query(struct str query)
{
    static const char *const names[] = {"labelSelector", "limit", "a", ""};
    struct arena *arena = arena_new((size_t)16 << 20);
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        struct str value;
        struct err err = ERR_INIT;
        int rc = http_query_get(arena, query, names[i], &value, &err);
        if (rc < 0 ? err.code != ERR_BAD_REQUEST : value.len > query.len)
            abort();
        if (rc == 0 && value.ptr && memchr(value.ptr, 0, value.len) && !memchr(query.ptr, 0, query.len))
            abort(); /* NUL is not let in by an escape */
        /* What was found survives being written again. */
        CLEANUP(sbuf_deinit) struct sbuf again = {0};
        struct str twice;
        sbuf_init(&again, 4 * INPUT_MAX);
        sbuf_addc(&again, "x=");
        if (rc == 0 && value.ptr && !memchr(value.ptr, 0, value.len)) {
            http_encode(&again, value);
            if (http_query_get(arena, sbuf_str(&again), "x", &twice, NULL) < 0 || !str_eq(twice, value))
                abort();
        }
    }
    arena_free(arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > INPUT_MAX)
        return 0;
    struct str rest = str_n(data, size), accept = STR_NULL, coding = STR_NULL;
    str_cut(&rest, '\n', &accept);
    str_cut(&rest, '\n', &coding);
    check_accept(accept);
    struct http_header header = {STR("accept-encoding"), coding};
    struct http_head head = {.headers = &header, .header_count = 1};
    if (http_accepts_coding(&head, "gzip") && !coding.len)
        abort();
    check_query(rest);
    return 0;
}
