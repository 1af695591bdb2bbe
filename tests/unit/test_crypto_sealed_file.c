/* Sealed files: what is written is read; a wrong key and every change, cut, swap or repetition is found and named. */
#include "unit.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/rnd.h"
#include "crypto/sealed_file.h"

#define SEALED (SEALED_CHUNK_BYTES + SEALED_TAG_BYTES)

static const struct sealed_key key = {"0123456789abcdef0123456789abcde"};

struct bytes {
    char *ptr;
    size_t len;
};

static struct bytes make(size_t size)
{
    struct bytes b = {xcalloc(1, size + 1), size};
    for (size_t i = 0; i < size; i++)
        b.ptr[i] = (char)(i * 7 + i / 251);
    return b;
}

static struct bytes seal(struct bytes plain, size_t piece)
{
    struct err err = ERR_INIT;
    struct sealed_writer *w;
    CLEANUP(file_closep) int fd = memfd_create("sealed", MFD_CLOEXEC);
    ASSERT_OK(sealed_writer_new(fd, &key, &w, &err));
    for (size_t at = 0; at < plain.len; at += piece)
        ASSERT_OK(sealed_write(w, str_n(plain.ptr + at, MIN(piece, plain.len - at)), &err));
    ASSERT_OK(sealed_finish(w, &err));
    sealed_writer_free(w);
    off_t size = lseek(fd, 0, SEEK_END);
    struct bytes b = {xcalloc(1, (size_t)size + 1), (size_t)size};
    assert_int_equal(pread(fd, b.ptr, b.len, 0), size);
    return b;
}

/* Reads it all; the plain text is in *ret, as far as it was handed out. */
static int unseal(struct bytes sealed, const struct sealed_key *k, struct sbuf *ret, struct err *err)
{
    struct sealed_reader *r;
    char buf[1000];
    size_t n = 1;
    CLEANUP(file_closep) int fd = memfd_create("sealed", MFD_CLOEXEC);
    assert_int_equal(write(fd, sealed.ptr, sealed.len), sealed.len);
    lseek(fd, 0, SEEK_SET);
    int rc = sealed_reader_new(fd, k, &r, err);
    if (rc < 0)
        return rc;
    while (rc == 0 && n) {
        rc = sealed_read(r, buf, sizeof(buf), &n, err);
        if (rc == 0)
            sbuf_add(ret, str_n(buf, n));
    }
    sealed_reader_free(r);
    return rc;
}

static void test_round_trip(void **state)
{
    (void)state;
    const size_t sizes[] = {0, 1, 16, 65535, 65536, 65537, 131072, 200000};
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        struct err err = ERR_INIT;
        struct sbuf out;
        struct bytes plain = make(sizes[i]), sealed = seal(plain, 777);
        size_t chunks = sizes[i] ? (sizes[i] + SEALED_CHUNK_BYTES - 1) / SEALED_CHUNK_BYTES : 1;
        assert_int_equal(sealed.len, SEALED_HEAD_BYTES + sizes[i] + chunks * SEALED_TAG_BYTES);
        sbuf_init(&out, 1 << 20);
        ASSERT_OK(unseal(sealed, &key, &out, &err));
        assert_int_equal(out.len, plain.len);
        assert_true(!plain.len || !memcmp(out.ptr, plain.ptr, plain.len));
        sbuf_deinit(&out);
        mem_free(plain.ptr);
        mem_free(sealed.ptr);
    }
}

static void expect_corrupt(struct bytes sealed, const char *text)
{
    struct err err = ERR_INIT;
    struct sbuf out;
    sbuf_init(&out, 1 << 20);
    int rc = unseal(sealed, &key, &out, &err);
    assert_true(rc < 0);
    if (!strstr(err.msg, text))
        fail_msg("\"%s\" does not say \"%s\"", err.msg, text);
    sbuf_deinit(&out);
}

static void test_every_changed_byte_is_found(void **state)
{
    (void)state;
    struct bytes plain = make(66000), sealed = seal(plain, 66000);
    for (size_t at = 0; at < sealed.len; at += at < 200 || sealed.len - at < 600 ? 1 : 997) {
        sealed.ptr[at] ^= 4;
        expect_corrupt(sealed, "");
        sealed.ptr[at] ^= 4;
    }
    sealed.ptr[SEALED_HEAD_BYTES + 5] ^= 1;
    expect_corrupt(sealed, "chunk 1 is altered");
    sealed.ptr[SEALED_HEAD_BYTES + 5] ^= 1;
    sealed.ptr[8] = 2;
    expect_corrupt(sealed, "newer release");
    mem_free(plain.ptr);
    mem_free(sealed.ptr);
}

static void test_every_cut_is_found(void **state)
{
    (void)state;
    struct bytes plain = make(3 * SEALED_CHUNK_BYTES), sealed = seal(plain, 5000);
    for (size_t len = 0; len < sealed.len; len += len < 200 ? 1 : 1009)
        expect_corrupt((struct bytes){sealed.ptr, len}, "");
    for (size_t n = 0; n < 3; n++)
        expect_corrupt((struct bytes){sealed.ptr, SEALED_HEAD_BYTES + n * SEALED}, "cut off");
    expect_corrupt((struct bytes){sealed.ptr, 30}, "cut off in its head");
    mem_free(plain.ptr);
    mem_free(sealed.ptr);
}

static void test_chunks_cannot_be_moved_repeated_or_left_out(void **state)
{
    (void)state;
    struct bytes plain = make(3 * SEALED_CHUNK_BYTES), sealed = seal(plain, 5000), other = seal(plain, 5000);
    struct bytes copy = {xcalloc(1, sealed.len + SEALED), sealed.len};
    char *chunks = copy.ptr + SEALED_HEAD_BYTES;
    memcpy(copy.ptr, sealed.ptr, sealed.len);
    memcpy(chunks, sealed.ptr + SEALED_HEAD_BYTES + SEALED, SEALED); /* the second twice */
    expect_corrupt(copy, "chunk 1 is altered");
    memcpy(copy.ptr, sealed.ptr, sealed.len);
    memmove(chunks + SEALED, chunks + 2 * SEALED, SEALED); /* without the second */
    expect_corrupt((struct bytes){copy.ptr, sealed.len - SEALED}, "chunk 2");
    memcpy(copy.ptr, sealed.ptr, sealed.len);
    memcpy(copy.ptr + sealed.len, chunks + 2 * SEALED, SEALED); /* the last one twice */
    expect_corrupt((struct bytes){copy.ptr, sealed.len + SEALED}, "chunk 3 is altered");
    memcpy(chunks + SEALED, other.ptr + SEALED_HEAD_BYTES + SEALED, SEALED); /* from another file of the same key and text */
    expect_corrupt(copy, "chunk 2 is altered");
    memcpy(copy.ptr, sealed.ptr, sealed.len);
    copy.ptr[sealed.len] = 'x';
    expect_corrupt((struct bytes){copy.ptr, sealed.len + 1}, "");
    mem_free(plain.ptr);
    mem_free(sealed.ptr);
    mem_free(other.ptr);
    mem_free(copy.ptr);
}

static void test_another_key_is_named(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct sealed_key other = key;
    struct sbuf out;
    struct bytes plain = make(10), sealed = seal(plain, 10);
    other.bytes[31] ^= 1;
    sbuf_init(&out, 100);
    ASSERT_ERR(unseal(sealed, &other, &out, &err), ERR_INVALID);
    assert_non_null(strstr(err.msg, "another key"));
    assert_int_equal(out.len, 0);
    sbuf_deinit(&out);
    mem_free(plain.ptr);
    mem_free(sealed.ptr);
}

static void test_key_files(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct sealed_key a, b;
    struct stat st;
    char dir[] = "/tmp/seki-key-XXXXXX";
    assert_non_null(mkdtemp(dir));
    CLEANUP(mem_freep) char *path = xasprintf("%s/key", dir);
    ASSERT_OK(sealed_key_make(path, &err));
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    ASSERT_OK(sealed_key_load(path, &a, &err));
    ASSERT_ERR(sealed_key_make(path, &err), ERR_EXISTS);
    ASSERT_OK(sealed_key_load(path, &b, &err));
    assert_memory_equal(&a, &b, sizeof(a));
    assert_int_equal(chmod(path, 0640), 0);
    ASSERT_ERR(sealed_key_load(path, &b, &err), ERR_FORBIDDEN);
    ASSERT_OK(file_write(path, STR("seki-key-1 00"), 0600, &err));
    ASSERT_ERR(sealed_key_load(path, &b, &err), ERR_INVALID);
    assert_non_null(strstr(err.msg, path));
    ASSERT_OK(file_remove_tree(dir, &err));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_every_changed_byte_is_found),
        cmocka_unit_test(test_every_cut_is_found),
        cmocka_unit_test(test_chunks_cannot_be_moved_repeated_or_left_out),
        cmocka_unit_test(test_another_key_is_named),
        cmocka_unit_test(test_key_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
