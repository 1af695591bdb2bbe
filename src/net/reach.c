#include "net/reach.h"

#include <arpa/inet.h>

#include "base/mem.h"
#include "base/vec.h"

struct net {
    uint8_t prefix[16];
    uint8_t bits;
};

/* What is no host of the public internet, of the addresses that look like one; RFC 6890 and its successors. */
static const struct net not_public4[] = {
    {{0}, 8},           {{10}, 8},          {{100, 64}, 10}, {{127}, 8},         {{169, 254}, 16},    {{172, 16}, 12}, {{192, 0, 0}, 24},  {{192, 0, 2}, 24},
    {{192, 31, 196}, 24}, {{192, 52, 193}, 24}, {{192, 88, 99}, 24}, {{192, 168}, 16}, {{192, 175, 48}, 24}, {{198, 18}, 15}, {{198, 51, 100}, 24}, {{203, 0, 113}, 24},
    {{224}, 4},         {{240}, 4},
};
static const struct net not_public6[] = {
    {{0x20, 0x01, 0x00}, 23},                   /* protocol assignments; Teredo, which wraps IPv4 */
    {{0x20, 0x01, 0x0d, 0xb8}, 32},             /* documentation */
    {{0x20, 0x02}, 16},                         /* 6to4, which wraps IPv4 */
    {{0x26, 0x20, 0x00, 0x4f, 0x80, 0x00}, 48}, /* AS112 */
    {{0x3f, 0xff}, 20},                         /* documentation */
};
static const struct net global6 = {{0x20}, 3};

static bool within(const uint8_t *addr, const uint8_t *prefix, int bits)
{
    int bytes = bits / 8, rest = bits % 8;
    return !memcmp(addr, prefix, (size_t)bytes) && (!rest || !((addr[bytes] ^ prefix[bytes]) >> (8 - rest)));
}

static bool in_any(const uint8_t *addr, const struct net *nets, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (within(addr, nets[i].prefix, nets[i].bits))
            return true;
    return false;
}

static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};

static bool as_bytes(const struct sockaddr *sa, uint8_t ret[16])
{
    if (sa->sa_family == AF_INET) {
        memcpy(ret, mapped, sizeof(mapped));
        memcpy(ret + 12, &((const struct sockaddr_in *)(const void *)sa)->sin_addr, 4);
    } else if (sa->sa_family == AF_INET6) {
        memcpy(ret, &((const struct sockaddr_in6 *)(const void *)sa)->sin6_addr, 16);
    }
    return sa->sa_family == AF_INET || sa->sa_family == AF_INET6;
}

static bool is_public(const uint8_t addr[16])
{
    if (!memcmp(addr, mapped, sizeof(mapped)))
        return !in_any(addr + 12, not_public4, ARRAY_LEN(not_public4));
    return within(addr, global6.prefix, global6.bits) && !in_any(addr, not_public6, ARRAY_LEN(not_public6));
}

static bool is_listed(const struct reach *r, const uint8_t addr[16])
{
    for (size_t i = 0; r && i < r->count; i++)
        if (!r->items[i].unix_path && within(addr, r->items[i].net, r->items[i].bits))
            return true;
    return false;
}

bool reach_lists(const struct reach *r, const struct sockaddr *sa)
{
    uint8_t addr[16];
    return as_bytes(sa, addr) && is_listed(r, addr);
}

bool reach_addr(const struct reach *r, const struct sockaddr *sa, bool tls)
{
    uint8_t addr[16];
    return as_bytes(sa, addr) && (is_listed(r, addr) || (tls && is_public(addr)));
}

/* Absolute, and each part a name. */
static bool is_straight(struct str path)
{
    struct str part;
    if (!path.len || path.ptr[0] != '/')
        return false;
    path = str_skip(path, 1);
    while (str_cut(&path, '/', &part))
        if (!part.len || str_eqc(part, ".") || str_eqc(part, ".."))
            return false;
    return true;
}

bool reach_unix(const struct reach *r, const char *path)
{
    if (!is_straight(str_of(path)))
        return false;
    for (size_t i = 0; r && i < r->count; i++) {
        const char *allowed = r->items[i].unix_path;
        size_t len = allowed ? strlen(allowed) : 0;
        if (allowed && (allowed[len - 1] == '/' ? !strncmp(path, allowed, len) && path[len] : !strcmp(path, allowed)))
            return true;
    }
    return false;
}

bool reach_plain(const struct reach *r)
{
    for (size_t i = 0; r && i < r->count; i++)
        if (!r->items[i].unix_path)
            return true;
    return false;
}

/* ---- the list ---- */

static int parse_network(struct str text, struct reach_item *ret, struct err *err)
{
    struct str rest = text, host;
    char name[INET6_ADDRSTRLEN];
    int64_t bits = -1;
    bool ok = str_cut(&rest, '/', &host) && str_to_array(host, name, sizeof(name)), v4 = ok && inet_pton(AF_INET, name, ret->net + 12) == 1;
    ok = ok && (v4 || inet_pton(AF_INET6, name, ret->net) == 1);
    if (ok && host.len < text.len)
        ok = str_to_i64(rest, 0, v4 ? 32 : 128, &bits) == 0;
    if (!ok)
        return err_set(err, ERR_INVALID, "\"%.*s\": expected a network such as 10.1.0.0/16 or fd00::/8, or unix:/absolute/path", STR_ARG(text));
    if (v4)
        memcpy(ret->net, mapped, sizeof(mapped));
    ret->bits = bits < 0 ? 128 : (int)bits + (v4 ? 96 : 0);
    for (int b = ret->bits; b < 128; b++)
        if (ret->net[b / 8] & (0x80 >> b % 8))
            return err_set(err, ERR_INVALID, "\"%.*s\": bits are set beyond the network's length", STR_ARG(text));
    return 0;
}

static int parse_item(struct str text, struct reach_item *ret, struct err *err)
{
    *ret = (struct reach_item){.bits = 0};
    if (!str_starts(text, STR("unix:")))
        return parse_network(text, ret, err);
    struct str path = str_skip(text, 5), names = path;
    if (names.len > 1 && names.ptr[names.len - 1] == '/')
        names.len--;
    if (names.len < 2 || !is_straight(names))
        return err_set(err, ERR_INVALID, "\"%.*s\": expected unix: and an absolute path without \".\", \"..\" and \"//\"", STR_ARG(text));
    ret->unix_path = xstrndup(path.ptr, path.len);
    return 0;
}

int reach_parse(const char *text, struct reach *ret, struct err *err)
{
    struct reach r = {xcalloc(REACH_MAX, sizeof(*r.items)), 0};
    struct str rest = str_of(text), item;
    int rc = 0;
    while (rc == 0 && str_trim(rest).len && str_cut(&rest, ',', &item)) {
        if (r.count == REACH_MAX)
            rc = err_set(err, ERR_INVALID, "more than %d items", REACH_MAX);
        else if ((rc = parse_item(str_trim(item), &r.items[r.count], err)) == 0)
            r.count++;
    }
    if (rc < 0)
        reach_deinit(&r);
    else
        *ret = r;
    return rc;
}

void reach_deinit(struct reach *r)
{
    for (size_t i = 0; i < r->count; i++)
        mem_free((char *)(uintptr_t)r->items[i].unix_path);
    mem_free(r->items);
    *r = (struct reach){NULL, 0};
}
