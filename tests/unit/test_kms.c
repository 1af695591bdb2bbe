/* The plugin for secrets of clusters: protobuf's form, what it answers, its connections, and its two sockets. */
#include "unit.h"

#include <nghttp2/nghttp2.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "kms/grpc.h"
#include "kms/server.h"
#include "kms/wire.h"

#define SEED STR("0123456789abcdef0123456789abcdef")

static struct kms_keys keys_of(int first, size_t count)
{
    struct kms_keys k = {.count = count, .scope = "0b5ed6b2-7c1c-4a6c-9d52-2f8f7f1d3c11"};
    for (size_t i = 0; i < count; i++) {
        memset(k.key[i].id, first + (int)i, sizeof(k.key[i].id));
        memset(k.key[i].key.bytes, 100 + first + (int)i, sizeof(k.key[i].key.bytes));
    }
    return k;
}

/* ---- protobuf ---- */

static void test_wire(void **state UNUSED)
{
    static const struct {
        const char *bytes;
        size_t len;
    } wrong[] = {{"\x0a", 1}, {"\x0a\x02x", 3}, {"\x00", 1}, {"\x0b", 1}, {"\x0c", 1}, {"\x0e\x01", 2}, {"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 11}, {"\x80", 1}, {"\x09" "1234567", 8}, {"\x0d" "123", 4},
                 {"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", 11}, {"\xf8\xff\xff\xff\xff\x01\x01", 7}};
    struct wire_field f;
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        struct str rest = str_n(wrong[i].bytes, wrong[i].len);
        struct err err = ERR_INIT;
        assert_int_equal(wire_next(&rest, &f, &err), ERR_BAD_REQUEST);
        assert_true(err.msg[0]);
    }
    struct str rest = str_n("\x08\x96\x01\x12\x03" "abc\x19" "12345678\x25" "1234", 22);
    assert_int_equal(wire_next(&rest, &f, NULL), 1);
    assert_true(f.number == 1 && f.type == WIRE_NUMBER && f.value == 150);
    assert_int_equal(wire_next(&rest, &f, NULL), 1);
    assert_true(f.number == 2 && f.type == WIRE_BYTES && str_eqc(f.bytes, "abc"));
    assert_int_equal(wire_next(&rest, &f, NULL), 1);
    assert_int_equal(wire_next(&rest, &f, NULL), 1);
    assert_int_equal(wire_next(&rest, &f, NULL), 0);
    CLEANUP(sbuf_deinit) struct sbuf out = {0};
    sbuf_init(&out, 4096);
    char long_text[300];
    memset(long_text, 'x', sizeof(long_text));
    wire_put_bytes(&out, 3, str_n(long_text, sizeof(long_text)));
    wire_put_bytes(&out, 4, STR(""));
    rest = sbuf_str(&out);
    assert_int_equal(wire_next(&rest, &f, NULL), 1);
    assert_true(f.number == 3 && f.bytes.len == sizeof(long_text) && !rest.len);
}

/* ---- answers ---- */

static struct str field_of(const struct sbuf *message, uint32_t number)
{
    struct str rest = sbuf_str(message), ret = STR_NULL;
    struct wire_field f;
    while (wire_next(&rest, &f, NULL) > 0)
        if (f.number == number)
            ret = f.bytes;
    return ret;
}

static enum grpc_status ask(struct kms_keys *k, const char *method, struct str text, struct str key_id, struct sbuf *out, struct err *why)
{
    CLEANUP(sbuf_deinit) struct sbuf message = {0};
    char path[64];
    sbuf_init(&message, 1 << 20);
    sbuf_init(out, 1 << 20);
    wire_put_bytes(&message, 1, text);
    wire_put_bytes(&message, 2, STR("a-request"));
    wire_put_bytes(&message, 3, key_id);
    snprintf(path, sizeof(path), KMS_METHOD_PREFIX "%s", method);
    return kms_answer(k, str_of(path), sbuf_str(&message), out, why);
}

static void test_seal_and_open(void **state UNUSED)
{
    struct kms_keys k = keys_of(1, 1), rotated = keys_of(1, 2), other = keys_of(1, 1), foreign = keys_of(7, 1);
    struct kms_key first = rotated.key[0];
    struct err why = ERR_INIT;
    CLEANUP(sbuf_deinit) struct sbuf status = {0}, sealed = {0}, plain = {0}, no1 = {0}, no2 = {0}, no3 = {0}, no4 = {0}, again = {0};
    assert_int_equal(ask(&k, "Status", STR_NULL, STR_NULL, &status, &why), GRPC_OK);
    assert_true(str_eqc(field_of(&status, 1), "v2") && str_eqc(field_of(&status, 2), "ok") && str_eqc(field_of(&status, 3), "01010101010101010101010101010101"));
    assert_int_equal(ask(&k, "Encrypt", SEED, STR_NULL, &sealed, &why), GRPC_OK);
    struct str text = field_of(&sealed, 1), id = field_of(&sealed, 2);
    assert_true(str_eqc(id, "01010101010101010101010101010101") && text.len == SEED.len + AEAD_OVERHEAD && k.sealed == 1);
    assert_null(memmem(text.ptr, text.len, SEED.ptr, SEED.len));
    /* After a rotation the old one still opens; the new one does not. */
    rotated.key[0] = rotated.key[1];
    rotated.key[1] = first;
    assert_int_equal(ask(&rotated, "Decrypt", text, id, &plain, &why), GRPC_OK);
    assert_true(str_eq(field_of(&plain, 1), SEED));
    assert_int_equal(ask(&rotated, "Decrypt", text, STR("02020202020202020202020202020202"), &no1, &why), GRPC_INVALID_ARGUMENT);
    /* Another cluster's, a changed one, and a key that there is not: each is told, and nothing is given. */
    snprintf(other.scope, sizeof(other.scope), "another");
    assert_int_equal(ask(&other, "Decrypt", text, id, &no2, &why), GRPC_INVALID_ARGUMENT);
    assert_int_equal(ask(&foreign, "Decrypt", text, id, &no3, &why), GRPC_NOT_FOUND);
    assert_string_equal(why.msg, "key 01010101010101010101010101010101 is none of this cluster's keys");
    assert_int_equal(ask(&foreign, "Decrypt", text, STR("%s\n\"><"), &again, &why), GRPC_NOT_FOUND);
    assert_string_equal(why.msg, "key unknown is none of this cluster's keys");
    ((char *)(uintptr_t)text.ptr)[text.len - 1] ^= 1;
    assert_int_equal(ask(&k, "Decrypt", text, id, &no4, &why), GRPC_INVALID_ARGUMENT);
    assert_true(!no1.len && !no2.len && !no3.len && !no4.len && foreign.refused == 2);
}

static void test_caps_and_no_key(void **state UNUSED)
{
    struct kms_keys none = {.scope = "x"}, k = keys_of(1, 1);
    struct err why = ERR_INIT;
    char big[KMS_PLAIN_MAX + 1] = {0};
    CLEANUP(sbuf_deinit) struct sbuf a = {0}, b = {0}, c = {0}, d = {0}, e = {0};
    assert_int_equal(ask(&none, "Status", STR_NULL, STR_NULL, &a, &why), GRPC_OK);
    assert_true(str_eqc(field_of(&a, 2), "no key was given yet"));
    assert_int_equal(ask(&none, "Encrypt", SEED, STR_NULL, &b, &why), GRPC_UNAVAILABLE);
    assert_int_equal(ask(&k, "Encrypt", str_n(big, sizeof(big)), STR_NULL, &c, &why), GRPC_INVALID_ARGUMENT);
    assert_int_equal(ask(&k, "Encrypt", str_n(big, sizeof(big) - 1), STR_NULL, &d, &why), GRPC_OK);
    assert_true(field_of(&d, 1).len < 1024);
    assert_int_equal(ask(&k, "Rotate", SEED, STR_NULL, &e, &why), GRPC_UNIMPLEMENTED);
    assert_int_equal(kms_answer(&k, STR(KMS_METHOD_PREFIX "Encrypt"), str_n("\x08\x01", 2), &e, &why), GRPC_INVALID_ARGUMENT);
}

/* ---- connections ---- */

static enum grpc_status on_call(void *arg, struct str path, struct str message, struct sbuf *out, struct err *why)
{
    return kms_answer(arg, path, message, out, why);
}

/* A client of nghttp2, which grpc-go is not: what that one expects is tested with it. */
struct caller {
    char status[8], http[8];
    struct sbuf body;
    struct str send;
    bool closed;
};

static int on_head(nghttp2_session *s UNUSED, const nghttp2_frame *f UNUSED, const uint8_t *n, size_t nl, const uint8_t *v, size_t vl, uint8_t flags UNUSED, void *user)
{
    struct caller *c = user;
    if (str_eqc(str_n(n, nl), "grpc-status"))
        (void)!str_to_array(str_n(v, vl), c->status, sizeof(c->status));
    if (str_eqc(str_n(n, nl), ":status"))
        (void)!str_to_array(str_n(v, vl), c->http, sizeof(c->http));
    return 0;
}

static int on_bytes(nghttp2_session *s UNUSED, uint8_t flags UNUSED, int32_t id UNUSED, const uint8_t *data, size_t len, void *user)
{
    sbuf_add(&((struct caller *)user)->body, str_n(data, len));
    return 0;
}

static int on_closed(nghttp2_session *s UNUSED, int32_t id UNUSED, uint32_t code UNUSED, void *user)
{
    ((struct caller *)user)->closed = true;
    return 0;
}

static ssize_t give(nghttp2_session *s UNUSED, int32_t id UNUSED, uint8_t *buf, size_t len, uint32_t *flags, nghttp2_data_source *source UNUSED, void *user)
{
    struct caller *c = user;
    size_t n = MIN(len, c->send.len);
    memcpy(buf, c->send.ptr, n);
    c->send = str_skip(c->send, n);
    if (!c->send.len)
        *flags |= NGHTTP2_DATA_FLAG_EOF;
    return (ssize_t)n;
}

static nghttp2_nv pair(const char *name, const char *value)
{
    return (nghttp2_nv){(uint8_t *)(uintptr_t)name, (uint8_t *)(uintptr_t)value, strlen(name), strlen(value), NGHTTP2_NV_FLAG_NONE};
}

static void call(struct kms_keys *k, const char *verb, const char *type, struct str body, struct caller *c)
{
    nghttp2_session_callbacks *cb;
    nghttp2_session *client;
    struct grpc_conn *server = grpc_conn_new(on_call, k);
    CLEANUP(sbuf_deinit) struct sbuf wire = {0};
    sbuf_init(&wire, 1 << 20);
    sbuf_reset(&c->body);
    *c = (struct caller){.body = c->body, .send = body};
    assert_int_equal(nghttp2_session_callbacks_new(&cb), 0);
    nghttp2_session_callbacks_set_on_header_callback(cb, on_head);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(cb, on_bytes);
    nghttp2_session_callbacks_set_on_stream_close_callback(cb, on_closed);
    assert_int_equal(nghttp2_session_client_new(&client, cb, c), 0);
    nghttp2_session_callbacks_del(cb);
    const nghttp2_nv head[] = {pair(":method", verb), pair(":scheme", "http"), pair(":path", KMS_METHOD_PREFIX "Encrypt"), pair(":authority", "localhost"), pair("content-type", type), pair("te", "trailers")};
    nghttp2_data_provider data = {.read_callback = give};
    nghttp2_submit_settings(client, NGHTTP2_FLAG_NONE, NULL, 0);
    assert_true(nghttp2_submit_request(client, NULL, head, ARRAY_LEN(head), &data, NULL) > 0);
    for (int turn = 0; turn < 200 && !c->closed; turn++) {
        const uint8_t *bytes;
        ssize_t n;
        while ((n = nghttp2_session_mem_send(client, &bytes)) > 0)
            for (ssize_t i = 0; i < n; i += 7) /* in small pieces, as it may come */
                assert_int_equal(grpc_feed(server, str_n(bytes + i, (size_t)MIN(7, n - i)), NULL), 0);
        sbuf_reset(&wire);
        assert_true(grpc_take(server, &wire, 1 << 19));
        if (wire.len)
            assert_true(nghttp2_session_mem_recv(client, (const uint8_t *)wire.ptr, wire.len) == (ssize_t)wire.len);
    }
    assert_true(c->closed);
    nghttp2_session_del(client);
    grpc_conn_free(server);
}

static void test_calls(void **state UNUSED)
{
    struct kms_keys k = keys_of(1, 1);
    static char huge[GRPC_MESSAGE_MAX + 100];
    static const struct {
        const char *verb, *type;
        struct str body;
        const char *http, *status;
    } cases[] = {
        {"POST", "application/grpc", {"\0\0\0\0\x06\x0a\x04seed", 11}, "200", "0"},
        {"POST", "application/grpc+proto", {"\0\0\0\0\x06\x0a\x04seed", 11}, "200", "0"},
        {"POST", "application/grpc", {"\0\0\0\0\x07\x0a\x04seed", 11}, "200", "3"},
        {"POST", "application/grpc", {"\0\0\0\0\x05\x0a\x04seed", 11}, "200", "3"},
        {"POST", "application/grpc", {"\1\0\0\0\x06\x0a\x04seed", 11}, "200", "12"},
        {"POST", "application/grpc", {"\0\0\0", 3}, "200", "3"},
        {"POST", "application/grpc", {"\0\xff\xff\xff\xff", 5}, "200", "3"},
        {"POST", "application/grpc", {huge, sizeof(huge)}, "200", "8"},
        {"POST", "text/plain", {"\0\0\0\0\0", 5}, "415", ""},
        {"GET", "application/grpc", {"\0\0\0\0\0", 5}, "405", ""},
    };
    struct caller c = {0};
    sbuf_init(&c.body, 1 << 16);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        call(&k, cases[i].verb, cases[i].type, cases[i].body, &c);
        if (strcmp(c.http, cases[i].http) != 0 || strcmp(c.status, cases[i].status) != 0)
            fail_msg("case %zu: %s, %s", i, c.http, c.status);
        if (i < 2)
            assert_true(c.body.len > 5 && (size_t)(unsigned char)c.body.ptr[4] == c.body.len - 5);
        else
            assert_int_equal(c.body.len, 0);
    }
    sbuf_deinit(&c.body);
    struct grpc_conn *g = grpc_conn_new(on_call, &k);
    assert_int_equal(grpc_feed(g, STR("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), NULL), ERR_PROTOCOL);
    grpc_conn_free(g);
}

/* ---- the process ---- */

static char dir[64];

static void *serve(void *arg)
{
    struct err err = ERR_INIT;
    if (kms_serve(arg, &err) < 0)
        fprintf(stderr, "%s\n", err.msg);
    return NULL;
}

static void test_keys_come_in_at_the_control_socket(void **state UNUSED)
{
    int stop[2];
    char socket[128], control[128];
    struct kms_keys k = keys_of(1, 2), bad = keys_of(1, 1);
    struct kms_said said = {0};
    struct err err = ERR_INIT;
    pthread_t thread;
    struct stat st;
    snprintf(dir, sizeof(dir), "/tmp/seki-kms-XXXXXX");
    assert_non_null(mkdtemp(dir));
    snprintf(socket, sizeof(socket), "%s/s", dir);
    snprintf(control, sizeof(control), "%s/c", dir);
    assert_int_equal(kms_tell(control, NULL, 1000, &said, &err), ERR_UNAVAILABLE);
    assert_int_equal(pipe(stop), 0);
    const struct kms_server_options o = {.socket = socket, .control = control, .scope = "uid", .stop_fd = stop[0]};
    pthread_create(&thread, NULL, serve, (void *)(uintptr_t)&o);
    for (int i = 0; i < 2000 && kms_tell(control, NULL, 1000, &said, NULL) < 0; i++)
        usleep(5000);
    assert_int_equal(said.count, 0);
    assert_true(stat(control, &st) == 0 && (st.st_mode & 0777) == 0600 && stat(socket, &st) == 0 && (st.st_mode & 0777) == 0600);
    assert_int_equal(kms_tell(control, &k, 10000, &said, &err), 0);
    assert_true(said.count == 2 && !memcmp(said.id[0], k.key[0].id, ENVELOPE_ID_BYTES) && !memcmp(said.id[1], k.key[1].id, ENVELOPE_ID_BYTES));
    assert_int_equal(kms_tell(control, NULL, 10000, &said, &err), 0);
    assert_int_equal(said.count, 2);
    /* Malformed questions end their connection, and change nothing. */
    bad.count = KMS_KEYS_MAX;
    assert_int_equal(kms_question(STR("SEKIKMS2"), &bad, NULL), ERR_BAD_REQUEST);
    assert_int_equal(kms_question(STR("SEKIKMS1\xff"), &bad, NULL), ERR_BAD_REQUEST);
    assert_int_equal(kms_question(str_n("SEKIKMS1\0x", 10), &bad, NULL), ERR_BAD_REQUEST);
    assert_int_equal(kms_question(STR("SEKIKM"), &bad, NULL), 0);
    assert_int_equal(kms_question(str_n("SEKIKMS1\1abc", 12), &bad, NULL), 0);
    /* A process whose paths are another's leaves. */
    assert_int_equal(rename(socket, control), 0);
    pthread_join(thread, NULL);
    close(stop[0]);
    close(stop[1]);
    assert_int_equal(file_remove_tree(dir, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_wire),
        cmocka_unit_test(test_seal_and_open),
        cmocka_unit_test(test_caps_and_no_key),
        cmocka_unit_test(test_calls),
        cmocka_unit_test(test_keys_come_in_at_the_control_socket),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
