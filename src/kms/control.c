#include "kms/control.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"

#define MAGIC STR(CONTROL_MAGIC)
#define HEAD 9 /* magic and count */

int kms_question(struct str bytes, struct kms_keys *ret, struct err *err)
{
    size_t known = MIN(bytes.len, MAGIC.len);
    if (memcmp(bytes.ptr ? bytes.ptr : "", CONTROL_MAGIC, known) != 0)
        return err_set(err, ERR_BAD_REQUEST, "no question");
    if (bytes.len < HEAD)
        return 0;
    size_t count = (unsigned char)bytes.ptr[MAGIC.len], whole = HEAD + count * CONTROL_KEY_BYTES;
    if (count > KMS_KEYS_MAX || bytes.len > whole)
        return err_set(err, ERR_BAD_REQUEST, "more than a question");
    if (bytes.len < whole)
        return 0;
    ret->count = count;
    for (size_t i = 0; i < count; i++) {
        const char *at = bytes.ptr + HEAD + i * CONTROL_KEY_BYTES;
        memcpy(ret->key[i].id, at, ENVELOPE_ID_BYTES);
        memcpy(ret->key[i].key.bytes, at + ENVELOPE_ID_BYTES, ENVELOPE_KEY_BYTES);
    }
    return 1;
}

static void put_u64(struct sbuf *out, uint64_t v)
{
    for (int i = 0; i < 8; i++)
        sbuf_add_char(out, (char)(v >> (56 - 8 * i)));
}

static uint64_t get_u64(const char *at)
{
    uint64_t v = 0;
    for (int i = 0; i < 8; i++)
        v = v << 8 | (unsigned char)at[i];
    return v;
}

void control_answer(const struct kms_keys *k, struct sbuf *out)
{
    sbuf_add(out, MAGIC);
    sbuf_add_char(out, (char)k->count);
    put_u64(out, k->sealed);
    put_u64(out, k->opened);
    put_u64(out, k->refused);
    for (size_t i = 0; i < k->count; i++)
        sbuf_add(out, str_n(k->key[i].id, ENVELOPE_ID_BYTES));
}

static int read_answer(struct str a, struct kms_said *ret, struct err *err)
{
    size_t count = a.len >= HEAD + 24 ? (unsigned char)a.ptr[MAGIC.len] : 0;
    if (!str_starts(a, MAGIC) || a.len < HEAD + 24 || count > KMS_KEYS_MAX || a.len != HEAD + 24 + count * ENVELOPE_ID_BYTES)
        return err_set(err, ERR_PROTOCOL, "the plugin's answer is none");
    *ret = (struct kms_said){.count = count, .sealed = get_u64(a.ptr + HEAD), .opened = get_u64(a.ptr + HEAD + 8), .refused = get_u64(a.ptr + HEAD + 16)};
    for (size_t i = 0; i < count; i++)
        memcpy(ret->id[i], a.ptr + HEAD + 24 + i * ENVELOPE_ID_BYTES, ENVELOPE_ID_BYTES);
    return 0;
}

/* ---- the asking side ---- */

static int await(int fd, short events, uint64_t until, struct err *err)
{
    struct pollfd p = {.fd = fd, .events = events};
    for (;;) {
        uint64_t now = clock_mono_ms();
        int n = now < until ? poll(&p, 1, (int)(until - now)) : 0;
        if (n > 0)
            return 0;
        if (n == 0)
            return err_set(err, ERR_TIMEOUT, "the plugin does not answer in time");
        if (errno != EINTR)
            return err_sys(err, errno, "poll");
    }
}

static int send_all(int fd, struct str text, uint64_t until, struct err *err)
{
    while (text.len) {
        ssize_t n = send(fd, text.ptr, text.len, MSG_NOSIGNAL);
        if (n > 0)
            text = str_skip(text, (size_t)n);
        else if (errno != EAGAIN && errno != EINTR)
            return err_set(err, ERR_UNAVAILABLE, "the plugin hung up");
        else if (await(fd, POLLOUT, until, err) < 0)
            return err->code;
    }
    return 0;
}

/* Until the answer is whole: its length is in its ninth byte. */
static int receive(int fd, struct sbuf *in, uint64_t until, struct err *err)
{
    for (;;) {
        char piece[CONTROL_ANSWER_MAX];
        size_t whole = in->len >= HEAD ? HEAD + 24 + (unsigned char)in->ptr[MAGIC.len] * (size_t)ENVELOPE_ID_BYTES : CONTROL_ANSWER_MAX;
        if (in->len >= whole || !sbuf_ok(in))
            return 0;
        int rc = await(fd, POLLIN, until, err);
        if (rc < 0)
            return rc;
        ssize_t n = recv(fd, piece, sizeof(piece), 0);
        if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
            return err_set(err, ERR_UNAVAILABLE, "the plugin hung up");
        if (n > 0)
            sbuf_add(in, str_n(piece, (size_t)n));
    }
}

static void free_wiped(struct sbuf *b)
{
    if (b->ptr)
        mem_wipe(b->ptr, b->cap);
    sbuf_deinit(b);
}

int kms_tell(const char *control, const struct kms_keys *keys, uint64_t timeout_ms, struct kms_said *ret, struct err *err)
{
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    struct err why = ERR_INIT;
    uint64_t until = clock_mono_ms() + timeout_ms;
    CLEANUP(free_wiped) struct sbuf question = {0};
    CLEANUP(sbuf_deinit) struct sbuf answer = {0};
    if (!str_to_array(str_of(control), un.sun_path, sizeof(un.sun_path)))
        return err_set(err, ERR_INVALID, "%s: a socket's path has %zu bytes at most", control, sizeof(un.sun_path) - 1);
    CLEANUP(file_closep) int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&un, sizeof(un)) < 0)
        return err_set(err, ERR_UNAVAILABLE, "the plugin for secrets does not listen yet");
    sbuf_init(&question, CONTROL_QUESTION_MAX);
    sbuf_init(&answer, CONTROL_ANSWER_MAX);
    (void)!sbuf_reserve(&question, CONTROL_QUESTION_MAX); /* it does not grow, and leaves nothing behind that is not wiped */
    sbuf_add(&question, MAGIC);
    sbuf_add_char(&question, (char)(keys ? keys->count : 0));
    for (size_t i = 0; keys && i < keys->count; i++) {
        sbuf_add(&question, str_n(keys->key[i].id, ENVELOPE_ID_BYTES));
        sbuf_add(&question, str_n(keys->key[i].key.bytes, ENVELOPE_KEY_BYTES));
    }
    int rc = send_all(fd, sbuf_str(&question), until, &why);
    if (rc == 0)
        rc = receive(fd, &answer, until, &why);
    if (rc == 0)
        rc = read_answer(sbuf_str(&answer), ret, &why);
    return rc < 0 ? err_set(err, rc, "%s", why.msg) : 0;
}
