#include "net/conn_shares.h"

#include "base/mem.h"

#define NETWORK6_BYTES 8 /* a /64 */

void conn_shares_init(struct conn_shares *s, size_t most, const struct reach *trusted)
{
    *s = (struct conn_shares){.by_address = map_new(NULL), .trusted = trusted, .most = MAX(most, (size_t)1)};
    pthread_mutex_init(&s->lock, NULL);
}

void conn_shares_deinit(struct conn_shares *s)
{
    if (!s->by_address)
        return;
    map_free(s->by_address);
    pthread_mutex_destroy(&s->lock);
    s->by_address = NULL;
}

/* 0: it has no share. */
static size_t key_of(const struct conn_shares *s, const struct net_addr *a, uint8_t key[16])
{
    if ((a->sa.sa_family != AF_INET && a->sa.sa_family != AF_INET6) || reach_lists(s->trusted, &a->sa))
        return 0;
    if (a->sa.sa_family == AF_INET) {
        memcpy(key, &a->in4.sin_addr, sizeof(a->in4.sin_addr));
        return sizeof(a->in4.sin_addr);
    }
    const uint8_t *bytes = a->in6.sin6_addr.s6_addr;
    bool is4 = IN6_IS_ADDR_V4MAPPED(&a->in6.sin6_addr);
    size_t len = is4 ? 4 : NETWORK6_BYTES;
    memcpy(key, is4 ? bytes + 12 : bytes, len);
    return len;
}

bool conn_shares_take(struct conn_shares *s, const struct net_addr *peer, bool crowded, struct conn_share **ret)
{
    uint8_t key[16];
    size_t len = key_of(s, peer, key);
    *ret = NULL;
    if (!len)
        return true;
    struct str name = str_n((const char *)key, len);
    pthread_mutex_lock(&s->lock);
    struct conn_share *share = map_get(s->by_address, name);
    bool may = !crowded || !share || share->count < s->most;
    if (may && !share) {
        share = XNEW(struct conn_share);
        memcpy(share->key, key, len);
        share->key_len = len;
        map_set(s->by_address, name, share);
    }
    if (may) {
        share->count++;
        *ret = share;
    }
    pthread_mutex_unlock(&s->lock);
    return may;
}

void conn_shares_give(struct conn_shares *s, struct conn_share *share)
{
    if (!share)
        return;
    pthread_mutex_lock(&s->lock);
    if (--share->count == 0) {
        map_del(s->by_address, str_n((const char *)share->key, share->key_len));
        mem_free(share);
    }
    pthread_mutex_unlock(&s->lock);
}
