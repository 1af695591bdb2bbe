/* Storage and network policy of clusters, as far as they take no node: claims, the driver's answers, files of volumes, rules. */
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "kms/wire.h"
#include "node/claims.h"
#include "node/csi.h"
#include "node/network_policy.h"
#include "node/snapshots.h"
#include "node/volume.h"
#include "node/volume_copy.h"
#include "node/wiper.h"

#define ID "pvc-0b5ed6b2-7c1c-4a6c-9d52-2f8f7f1d3c11"

static json_t *doc(const char *text)
{
    json_t *d = NULL;
    struct err err = ERR_INIT;
    if (json_parse(str_of(text), 1 << 20, &d, &err) < 0)
        fail_msg("%s: %s", err.msg, text);
    return d;
}

static void test_sizes(void **state UNUSED)
{
    static const struct {
        const char *text;
        int64_t bytes; /* -1: refused */
    } cases[] = {{"1", 1}, {"64Mi", 64 << 20}, {"10Gi", 10LL << 30}, {"1.5Gi", 3LL << 29}, {"2k", 2000}, {"1T", 1000000000000}, {"0.5Mi", 1 << 19}, {"", -1}, {"0", -1}, {"-1", -1}, {"1e3", -1},
                 {"10 Gi", -1}, {"10gi", -1}, {"99999999Ti", -1}, {"1.2.3", -1}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        int64_t bytes = -1;
        int rc = claim_bytes(cases[i].text, &bytes, NULL);
        if (rc != (cases[i].bytes < 0 ? ERR_INVALID : 0) || bytes != cases[i].bytes)
            fail_msg("%s: %lld", cases[i].text, (long long)bytes);
    }
    static const struct {
        int64_t bytes;
        const char *text;
    } written[] = {{0, "0"}, {1000, "1000"}, {1536, "1536"}, {2048, "2Ki"}, {64 << 20, "64Mi"}, {3LL << 29, "1536Mi"}, {10LL << 30, "10Gi"}, {1LL << 50, "1024Ti"}};
    for (size_t i = 0; i < ARRAY_LEN(written); i++) {
        char text[CLAIM_QUANTITY_MAX];
        claim_quantity(written[i].bytes, text);
        assert_string_equal(text, written[i].text);
    }
}

#define CLAIM(annotations, spec)                                                                                                                                                                       \
    "{\"metadata\":{\"name\":\"data\",\"namespace\":\"default\",\"uid\":\"0b5ed6b2-7c1c-4a6c-9d52-2f8f7f1d3c11\",\"annotations\":{" annotations "}},\"spec\":{\"accessModes\":[\"ReadWriteOnce\"],"        \
    "\"storageClassName\":\"local\",\"resources\":{\"requests\":{\"storage\":\"64Mi\"}}" spec "}}"
#define OURS "\"volume.kubernetes.io/storage-provisioner\":\"" CSI_DRIVER "\",\"volume.kubernetes.io/selected-node\":\"workers-0\""

static void test_claims_are_taken_by_the_chosen_node_alone(void **state UNUSED)
{
    JSON_AUTO good = doc(CLAIM(OURS, ""));
    JSON_AUTO bound = doc(CLAIM(OURS, ",\"volumeName\":\"x\""));
    JSON_AUTO unchosen = doc(CLAIM("\"volume.kubernetes.io/storage-provisioner\":\"" CSI_DRIVER "\"", ""));
    JSON_AUTO foreign = doc(CLAIM("\"volume.kubernetes.io/storage-provisioner\":\"other\",\"volume.kubernetes.io/selected-node\":\"workers-0\"", ""));
    assert_true(claim_is_ours(good, "workers-0"));
    assert_false(claim_is_ours(good, "workers-1"));
    assert_false(claim_is_ours(bound, "workers-0"));
    assert_false(claim_is_ours(unchosen, "workers-0"));
    assert_false(claim_is_ours(foreign, "workers-0"));
    static const struct {
        const char *text, *field;
    } refused[] = {{CLAIM(OURS, ",\"volumeMode\":\"Block\""), "spec.volumeMode"},
                   {CLAIM(OURS, ",\"dataSource\":{\"kind\":\"VolumeSnapshot\",\"name\":\"x\"}"), "spec.dataSource"},
                   {CLAIM(OURS, ",\"selector\":{}"), "spec.selector"}};
    int64_t bytes;
    assert_int_equal(claim_check(good, &bytes, NULL), 0);
    assert_int_equal(bytes, 64 << 20);
    for (size_t i = 0; i < ARRAY_LEN(refused); i++) {
        JSON_AUTO d = doc(refused[i].text);
        struct err err = ERR_INIT;
        assert_int_equal(claim_check(d, &bytes, &err), ERR_INVALID);
        assert_string_equal(err.field, refused[i].field);
    }
    struct err err = ERR_INIT;
    json_put(good, "spec.accessModes", json_pack("[s, s]", "ReadWriteOnce", "ReadWriteMany"));
    assert_int_equal(claim_check(good, &bytes, &err), ERR_INVALID);
    assert_string_equal(err.field, "spec.accessModes");
}

static void test_a_volume_is_over_when_nobody_claims_it(void **state UNUSED)
{
    JSON_AUTO claim = doc(CLAIM(OURS, ""));
    JSON_AUTO v = claim_volume(claim, "workers-0", "Delete");
    assert_string_equal(json_str_or(v, "spec.csi.volumeHandle", ""), ID);
    assert_string_equal(json_str_or(v, "spec.capacity.storage", ""), "64Mi");
    assert_string_equal(json_str_or(v, "spec.claimRef.name", ""), "data");
    json_put_str(v, "status.phase", "Bound");
    assert_false(volume_is_over(v, "workers-0"));
    json_put_str(v, "metadata.deletionTimestamp", "2026-01-01T00:00:00Z"); /* in use all the same */
    assert_false(volume_is_over(v, "workers-0"));
    json_put_str(v, "status.phase", "Released");
    assert_true(volume_is_over(v, "workers-0"));
    assert_false(volume_is_over(v, "workers-1"));
    json_remove(v, "metadata.deletionTimestamp");
    assert_true(volume_is_over(v, "workers-0"));
    json_put_str(v, "spec.persistentVolumeReclaimPolicy", "Retain");
    assert_false(volume_is_over(v, "workers-0"));
    json_put_str(v, "spec.csi.driver", "other");
    assert_false(volume_is_over(v, "workers-0"));
}

/* Asks as those do who want it gone; the first error, or 0 when it is. */
static int wiped(struct wiper *w, const char *dir, const char *id, struct err *err)
{
    bool done = false;
    int rc = 0;
    int64_t left;
    for (int i = 0; i < 20000 && rc == 0 && !done; i++) {
        rc = id ? wiper_volume(w, dir, id, &done, err) : wiper_all(w, dir, &done, &left, err);
        if (rc == 0 && !done)
            usleep(1000);
    }
    return rc == 0 && !done ? ERR_TIMEOUT : rc;
}

#define LARGE "pvc-0b5ed6b2-7c1c-4a6c-9d52-2f8f7f1d3c99"
static void test_a_wipe_goes_on_where_it_was_interrupted(void **state UNUSED)
{
    char dir[] = "/tmp/seki-volumes-XXXXXX", bytes[4] = "";
    assert_non_null(mkdtemp(dir));
    struct err err = ERR_INIT;
    CLEANUP(mem_freep) char *path = volume_path(dir, LARGE);
    CLEANUP(file_closep) int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    CLEANUP(mem_freep) char *full = xcalloc(1, 1 << 20);
    memset(full, 'x', 1 << 20);
    for (off_t at = 0; at < 3 * (off_t)VOLUME_STEP_BYTES; at += 1 << 20)
        assert_int_equal(pwrite(fd, full, 1 << 20, at), 1 << 20);
    bool done = true;
    off_t at = 0;
    ASSERT_OK(volume_wipe_step(dir, LARGE, false, &at, &done, &err));
    assert_false(done);
    assert_int_equal(at, VOLUME_STEP_BYTES);
    assert_int_equal(pread(fd, bytes, 1, at - 1), 1);
    assert_int_equal(bytes[0], 0);
    assert_int_equal(pread(fd, bytes, 1, at), 1);
    assert_int_equal(bytes[0], 'x');
    /* As after a kill: what is done is not done again. */
    at = 0;
    ASSERT_OK(volume_wipe_step(dir, LARGE, false, &at, &done, &err));
    assert_int_equal(at, 2 * VOLUME_STEP_BYTES);
    assert_false(done);
    struct wiper *w = wiper_new(NULL, NULL);
    ASSERT_OK(wiped(w, dir, LARGE, &err));
    wiper_free(w);
    assert_false(file_exists(path));
    assert_int_equal(pread(fd, bytes, 1, 3 * (off_t)VOLUME_STEP_BYTES - 1), 1);
    assert_int_equal(bytes[0], 0);
    assert_int_equal(file_remove_tree(dir, NULL), 0);
}

static void test_a_large_volume_holds_up_no_small_one(void **state UNUSED)
{
    char dir[] = "/tmp/seki-volumes-XXXXXX";
    assert_non_null(mkdtemp(dir));
    struct err err = ERR_INIT;
    struct wiper *w = wiper_new(NULL, NULL);
    CLEANUP(mem_freep) char *large = volume_path(dir, LARGE);
    CLEANUP(mem_freep) char *small = volume_path(dir, ID);
    CLEANUP(file_closep) int fd = open(large, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_int_equal(posix_fallocate(fd, 0, 12 * (off_t)VOLUME_STEP_BYTES), 0);
    CLEANUP(mem_freep) char *full = xcalloc(1, 1 << 20);
    for (off_t at = 0; at < 12 * (off_t)VOLUME_STEP_BYTES; at += 1 << 20)
        assert_int_equal(pwrite(fd, full, 1 << 20, at), 1 << 20);
    assert_int_equal(file_write(small, STR("secret"), 0600, NULL), 0);
    bool done = true;
    ASSERT_OK(wiper_volume(w, dir, LARGE, &done, &err));
    assert_false(done);
    ASSERT_OK(wiped(w, dir, ID, &err));
    ASSERT_OK(wiper_volume(w, dir, LARGE, &done, &err));
    assert_false(done);
    /* One that is not done stays. */
    wiper_free(w);
    assert_true(file_exists(large));
    assert_int_equal(file_remove_tree(dir, NULL), 0);
}

static void test_files_of_volumes_are_overwritten(void **state UNUSED)
{
    char dir[] = "/tmp/seki-volumes-XXXXXX", bytes[16] = "";
    assert_non_null(mkdtemp(dir));
    struct err err = ERR_INIT;
    assert_true(volume_id_valid(STR(ID)));
    assert_false(volume_id_valid(STR("pvc-0b5ed6b2-7c1c-4a6c-9d52-2f8f7f1d3c1/")));
    assert_false(volume_id_valid(STR("../../../../../../../../../../etc/passwd")));
    assert_int_equal(volume_make(dir, ID, 1, VOLUME_MIN_BYTES - 1, &err), ERR_NO_SPACE);
    ASSERT_OK(volume_make(dir, ID, 1, VOLUME_MIN_BYTES, &err)); /* takes mkfs.ext4, as make test installs it */
    assert_int_equal(volume_make(dir, ID, 1, VOLUME_MIN_BYTES, &err), 0); /* it is there */
    CLEANUP(mem_freep) char *path = xasprintf("%s/" ID ".img", dir);
    CLEANUP(file_closep) int fd = open(path, O_RDWR | O_CLOEXEC);
    assert_int_equal(lseek(fd, 0, SEEK_END), VOLUME_MIN_BYTES);
    struct stat st;
    assert_int_equal(fstat(fd, &st), 0);
    assert_true(st.st_blocks * 512 >= VOLUME_MIN_BYTES); /* allotted, mkfs.ext4 notwithstanding */
    CLEANUP(mem_freep) char *begun = xasprintf("%s/pvc-0b5ed6b2-7c1c-4a6c-9d52-2f8f7f1d3c12.new", dir);
    CLEANUP(mem_freep) char *foreign = xasprintf("%s/other.new", dir);
    assert_int_equal(file_write(begun, STR("x"), 0600, &err), 0);
    assert_int_equal(file_write(foreign, STR("x"), 0600, &err), 0);
    volumes_sweep(dir);
    assert_false(file_exists(begun));
    assert_true(file_exists(foreign));
    assert_true(file_exists(path));
    assert_true(volume_unused(dir, ID));
    assert_int_equal(pwrite(fd, "secret", 6, 3 << 20), 6);
    assert_int_equal(pwrite(fd, "\1", 1, 1024 + 0x34), 1);
    assert_false(volume_unused(dir, ID));
    struct wiper *w = wiper_new(NULL, NULL);
    ASSERT_OK(wiped(w, dir, ID, &err));
    assert_false(file_exists(path));
    assert_int_equal(pread(fd, bytes, 6, 3 << 20), 6);
    assert_memory_equal(bytes, "\0\0\0\0\0\0", 6);
    ASSERT_OK(wiped(w, dir, ID, &err));
    /* What lies in its place is not followed. */
    CLEANUP(mem_freep) char *other = xasprintf("%s/other", dir);
    assert_int_equal(file_write(other, STR("kept"), 0600, NULL), 0);
    assert_int_equal(symlink(other, path), 0);
    ASSERT_OK(wiped(w, dir, ID, &err)); /* that volume alone */
    assert_int_equal(readlink(path, bytes, sizeof(bytes)), -1);
    assert_int_equal(symlink("nowhere", path), 0);
    CLEANUP(mem_freep) char *folder = xasprintf("%s/pvc-00000000-0000-0000-0000-000000000000.img", dir);
    CLEANUP(mem_freep) char *pipe = xasprintf("%s/pvc-00000000-0000-0000-0000-000000000001.img", dir);
    assert_int_equal(mkdir(folder, 0700), 0);
    assert_int_equal(mkfifo(pipe, 0600), 0);
    assert_false(volume_unused(dir, "pvc-00000000-0000-0000-0000-000000000001")); /* nobody waits for a writer */
    ASSERT_OK(wiped(w, dir, NULL, &err));
    wiper_free(w);
    assert_int_equal(readlink(path, bytes, sizeof(bytes)), -1);
    assert_false(file_exists(pipe));
    assert_false(file_exists(folder));
    CLEANUP(mem_freep) char *kept = NULL;
    size_t len;
    assert_int_equal(file_read(other, 100, &kept, &len, NULL), 0);
    assert_string_equal(kept, "kept");
    assert_int_equal(file_remove_tree(dir, NULL), 0);
}

/* ---- snapshots ---- */

#define SNAP "snap-0b5ed6b2-7c1c-4a6c-9d52-2f8f7f1d3caa"
#define OTHER "pvc-0b5ed6b2-7c1c-4a6c-9d52-2f8f7f1d3c77"
static void test_a_snapshot_is_what_the_volume_was(void **state UNUSED)
{
    char dir[] = "/tmp/seki-volumes-XXXXXX", bytes[8] = "";
    if (geteuid() != 0 || access("/dev/loop-control", F_OK) < 0)
        skip(); /* the volume is held by a loop device meanwhile */
    assert_non_null(mkdtemp(dir));
    struct err err = ERR_INIT;
    int64_t size = 0, limit = 3 * VOLUME_MIN_BYTES;
    assert_true(volume_snapshot_id_valid(STR(SNAP)));
    assert_false(volume_id_valid(STR(SNAP))); /* no pod mounts one */
    ASSERT_OK(volume_make(dir, ID, 1, limit, &err));
    CLEANUP(mem_freep) char *path = volume_path(dir, ID);
    CLEANUP(file_closep) int fd = open(path, O_RDWR | O_CLOEXEC);
    assert_int_equal(pwrite(fd, "before", 6, 3 << 20), 6);
    assert_int_equal(volume_snapshot(dir, ID, SNAP, 2 * VOLUME_MIN_BYTES - 1, &size, &err),
                     ERR_NO_SPACE); /* it counts as a volume does */
    ASSERT_OK(volume_snapshot(dir, ID, SNAP, limit, &size, &err));
    assert_int_equal(size, VOLUME_MIN_BYTES);
    assert_int_equal(volumes_bytes(dir), 2 * VOLUME_MIN_BYTES);
    assert_false(volume_attached(dir, ID));
    assert_true(volume_snapshot(dir, ID, SNAP, limit, &size, &err) < 0); /* never over another */
    assert_int_equal(pwrite(fd, "behind", 6, 3 << 20), 6);
    ASSERT_OK(volume_restore(dir, SNAP, OTHER, limit, &err));
    CLEANUP(mem_freep) char *restored = volume_path(dir, OTHER);
    CLEANUP(file_closep) int there = open(restored, O_RDONLY | O_CLOEXEC);
    struct stat st;
    assert_int_equal(fstat(there, &st), 0);
    assert_int_equal(st.st_size, VOLUME_MIN_BYTES);
    assert_true(st.st_blocks * 512 >= VOLUME_MIN_BYTES); /* it has its room, as any volume */
    assert_int_equal(pread(there, bytes, 6, 3 << 20), 6);
    assert_string_equal(bytes, "before");
    /* Held by one, it is not held by another. */
    int held = -1;
    ASSERT_OK(volume_hold(dir, ID, &held, &err));
    assert_int_equal(volume_hold(dir, ID, &(int){-1}, &err), ERR_BUSY);
    close(held);
    assert_false(volume_attached(dir, ID));
    /* What is wiped is not read back, and takes the others along in no way. */
    struct wiper *w = wiper_new(NULL, NULL);
    CLEANUP(mem_freep) char *copy = volume_path(dir, SNAP);
    CLEANUP(file_closep) int kept = open(copy, O_RDONLY | O_CLOEXEC);
    ASSERT_OK(wiped(w, dir, SNAP, &err));
    wiper_free(w);
    assert_false(file_exists(copy));
    assert_int_equal(pread(kept, bytes, 6, 3 << 20), 6);
    assert_memory_equal(bytes, "\0\0\0\0\0\0", 6);
    assert_int_equal(pread(there, bytes, 6, 3 << 20), 6);
    assert_memory_equal(bytes, "before", 6);
    assert_int_equal(volume_restore(dir, SNAP, ID, -1, &err), 0); /* it is there */
    assert_int_equal(file_remove_tree(dir, NULL), 0);
}

static void test_a_thin_one_is_mounted_nowhere_and_grows(void **state UNUSED)
{
    char dir[] = "/tmp/seki-thin-XXXXXX";
    struct err err = ERR_INIT;
    struct stat st;
    struct statvfs has, had;
    int fd = -1;
    if (geteuid() != 0 || access("/dev/loop-control", F_OK) < 0)
        skip();
    assert_non_null(mkdtemp(dir));
    CLEANUP(mem_freep) char *path = volume_path(dir, "disk");
    assert_false(volume_whole(dir, "disk"));
    assert_int_equal(volume_make_thin(dir, "disk", 1LL << 30, &err), 0);
    assert_true(volume_whole(dir, "disk"));
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_size, 1LL << 30);
    assert_in_range(st.st_blocks, 1, (8 << 20) / 512);
    assert_int_equal(volume_mount_apart(dir, "disk", &fd, &err), 0);
    assert_false(volume_whole(dir, "disk")); /* a machine that crashes now leaves it so */
    assert_true(volume_attached(dir, "disk"));
    assert_int_equal(mkdirat(fd, "kept", 0700), 0);
    assert_int_equal(fstatvfs(fd, &had), 0);
    close(fd);
    assert_false(volume_attached(dir, "disk"));
    assert_true(volume_whole(dir, "disk"));
    assert_int_equal(truncate(path, 3LL << 30), 0);
    assert_int_equal(volume_grow_thin(dir, "disk", &err), 0);
    assert_true(volume_whole(dir, "disk"));
    assert_int_equal(volume_mount_apart(dir, "disk", &fd, &err), 0);
    assert_int_equal(fstatvfs(fd, &has), 0);
    assert_true(has.f_blocks > 2 * had.f_blocks);
    assert_int_equal(fstatat(fd, "kept", &st, 0), 0);
    close(fd);
    assert_true(volume_whole(dir, "disk"));
    assert_int_equal(file_remove_tree(dir, NULL), 0);
}

static bool shows(const char *dir, const char *name, const char *file)
{
    CLEANUP(mem_freep) char *path = xasprintf("%s/%s/%s", dir, name, file);
    return file_exists(path);
}

/* Directories of the kubelet are within reach of pods, and that of volumes is not: an agent that
 * follows their links would show it to them. */
static void test_mounts_follow_no_links(void **state UNUSED)
{
    char dir[] = "/tmp/seki-places-XXXXXX";
    struct err err = ERR_INIT;
    if (geteuid() != 0 || access("/dev/loop-control", F_OK) < 0)
        skip();
    assert_non_null(mkdtemp(dir));
    assert_int_equal(unshare(CLONE_NEWNS), 0);
    assert_int_equal(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), 0);
    assert_int_equal(chdir(dir), 0);
    assert_int_equal(mkdir("volumes", 0700) | mkdir("kubelet", 0700), 0);
    assert_int_equal(mount("tmpfs", "volumes", "tmpfs", 0, NULL), 0);
    ASSERT_OK(volume_make("volumes", ID, 1, -1, &err));
    CLEANUP(mem_freep)
    char *stage = xasprintf("%s/kubelet/stage", dir),
         *shown = xasprintf("%s/kubelet/shown", dir), *link = xasprintf("%s/kubelet/link", dir);
    CLEANUP(mem_freep)
    char *below = xasprintf("%s/kubelet/up/volumes", dir),
         *deep = xasprintf("%s/kubelet/up/volumes/new", dir);
    assert_int_equal(symlink("../volumes", "kubelet/link") | symlink("..", "kubelet/up"), 0);
    ASSERT_OK(volume_mount("volumes", ID, stage, &err));
    ASSERT_OK(volume_mount("volumes", ID, stage, &err)); /* it is */
    assert_true(shows(dir, "kubelet/stage", "lost+found"));
    assert_int_equal(volume_bind(link, shown, false, &err), ERR_UNAVAILABLE);
    assert_true(volume_bind(below, shown, false, &err) < 0);
    assert_false(shows(dir, "kubelet/shown", ID ".img"));
    assert_true(volume_bind(stage, link, false, &err) < 0);
    assert_true(volume_bind(stage, below, false, &err) < 0);
    assert_true(volume_bind(stage, deep, false, &err) < 0);
    assert_true(volume_mount("volumes", ID, deep, &err) < 0);
    ASSERT_OK(volume_unmount(link, &err)); /* nothing is mounted there */
    assert_true(volume_unmount(below, &err) < 0);
    assert_true(shows(dir, "volumes", ID ".img"));
    assert_false(shows(dir, "volumes", "new"));
    /* What no link leads to is shown, and taken off again. */
    ASSERT_OK(volume_bind(stage, shown, true, &err));
    assert_int_equal(mkdir("kubelet/shown/made", 0700), -1);
    assert_int_equal(errno, EROFS);
    assert_int_equal(mkdir("kubelet/stage/made", 0700), 0);
    assert_true(shows(dir, "kubelet/shown", "made"));
    ASSERT_OK(volume_unmount(shown, &err));
    ASSERT_OK(volume_bind(stage, shown, false, &err));
    assert_int_equal(rmdir("kubelet/shown/made"), 0);
    ASSERT_OK(volume_unmount(shown, &err));
    assert_false(shows(dir, "kubelet/shown", "lost+found"));
    ASSERT_OK(volume_unmount(stage, &err));
    ASSERT_OK(volume_unmount(stage, &err));
    assert_false(volume_attached("volumes", ID));
    assert_int_equal(umount("volumes") | chdir("/"), 0);
    assert_int_equal(file_remove_tree(dir, NULL), 0);
}

/* As a kill leaves it: frozen, and mounted nowhere any more. */
static void test_a_frozen_volume_is_let_go(void **state UNUSED)
{
    char dir[] = "/tmp/seki-volumes-XXXXXX";
    if (geteuid() != 0 || access("/dev/loop-control", F_OK) < 0)
        skip();
    assert_non_null(mkdtemp(dir));
    struct err err = ERR_INIT;
    int held = -1, root = -1;
    ASSERT_OK(volume_make(dir, ID, 1, -1, &err));
    for (int wipe = 0; wipe < 2; wipe++) {
        ASSERT_OK(volume_hold(dir, ID, &held, &err));
        ASSERT_OK(volume_root(dir, ID, &root, &err));
        assert_int_equal(ioctl(root, FIFREEZE, 0), 0);
        close(root);
        close(held);
        assert_true(volume_attached(dir, ID));
        if (wipe) {
            struct wiper *w = wiper_new(NULL, NULL);
            bool done = false;
            int64_t left;
            while (!done)
                ASSERT_OK(wiper_all(w, dir, &done, &left, &err));
            wiper_free(w);
        } else
            volumes_thaw(dir);
        for (int i = 0; i < 5000 && volume_attached(dir, ID); i++)
            usleep(1000);
        assert_false(volume_attached(dir, ID));
    }
    assert_int_equal(file_remove_tree(dir, NULL), 0);
}

#define SNAPSHOT(uid, status)                                                                      \
    "{\"metadata\":{\"name\":\"s\",\"namespace\":\"default\",\"uid\":\"" uid                       \
    "\"},\"spec\":{\"source\":{\"persistentVolumeClaimName\":\"data\"}}" status "}"
static void test_contents_follow_their_snapshots(void **state UNUSED)
{
    JSON_AUTO snapshot =
        doc(SNAPSHOT("u1", ",\"status\":{\"boundVolumeSnapshotContentName\":\"snapcontent-u1\"}"));
    JSON_AUTO again = doc(SNAPSHOT("u2", ""));
    JSON_AUTO class = doc("{\"metadata\":{\"name\":\"local\"},\"deletionPolicy\":\"Delete\"}");
    JSON_AUTO claim = doc(CLAIM(OURS, ",\"dataSource\":{\"apiGroup\":\"" SNAPSHOT_GROUP
                                      "\",\"kind\":\"VolumeSnapshot\",\"name\":\"s\"}"));
    JSON_AUTO volume = claim_volume(claim, "workers-0", "Delete");
    JSON_AUTO content = snapshot_content(snapshot, class, volume, "workers-0");
    JSON_AUTO with = json_pack("[O]", snapshot);
    JSON_AUTO newer = json_pack("[O]", again); /* of the same name, and another */
    JSON_AUTO contents = json_pack("[O]", content);
    struct claims_seen seen = {.contents = contents, .snapshots = with};
    const json_t *found = NULL;
    int64_t bytes;
    assert_string_equal(json_str_or(content, "metadata.name", ""), "snapcontent-u1");
    assert_string_equal(json_str_or(content, "spec.source.volumeHandle", ""), ID);
    assert_false(snapshot_is_over(content, with, "workers-0"));
    assert_true(snapshot_is_over(content, newer, "workers-0"));
    assert_false(snapshot_is_over(content, newer, "workers-1"));
    assert_int_equal(claim_check(claim, &bytes, NULL), 0);
    assert_true(claim_has_snapshot(claim));
    assert_null(snapshot_of_claim(claim, &seen, &found)); /* it is not ready */
    assert_null(found);
    json_put(content, "status.readyToUse", json_true());
    assert_ptr_equal(snapshot_of_claim(claim, &seen, &found), snapshot);
    assert_ptr_equal(found, content);
    json_put_str(content, "spec.volumeSnapshotRef.uid", "u2"); /* another's */
    assert_null(snapshot_of_claim(claim, &seen, &found));
    json_put_str(content, "spec.deletionPolicy", "Retain");
    assert_false(snapshot_is_over(content, with, "workers-0"));
    json_put_str(content, "metadata.deletionTimestamp", "2026-01-01T00:00:00Z");
    assert_true(snapshot_is_over(content, with, "workers-0"));
    /* A snapshot of another namespace is nobody's to take. */
    json_put(
        claim, "spec.dataSourceRef",
        json_pack("{s:s, s:s, s:s}", "kind", "VolumeSnapshot", "name", "s", "namespace", "other"));
    assert_false(claim_has_snapshot(claim));
    assert_int_equal(claim_check(claim, &bytes, NULL), ERR_INVALID);
}

/* ---- the driver ---- */

static char last[256];
static int on_stage(const char *volumes, const char *id, const char *path, struct err *err UNUSED)
{
    snprintf(last, sizeof(last), "stage %s %s %s", volumes, id, path);
    return 0;
}
static int on_publish(const char *from, const char *to, bool read_only, struct err *err UNUSED)
{
    snprintf(last, sizeof(last), "publish %s %s %d", from, to, read_only);
    return 0;
}
static int on_unmount(const char *path, struct err *err)
{
    snprintf(last, sizeof(last), "unmount %s", path);
    return err_set(err, ERR_BUSY, "later");
}

static enum grpc_status ask(const char *method, const struct sbuf *message, struct sbuf *out)
{
    struct csi_driver d = {"workers-0", "/v", on_stage, on_publish, on_unmount};
    struct err err = ERR_INIT;
    last[0] = 0;
    sbuf_reset(out);
    return csi_answer(&d, str_of(method), sbuf_str(message), out, &err);
}

static void test_the_driver_answers_the_kubelet(void **state UNUSED)
{
    CLEANUP(sbuf_deinit) struct sbuf m = {0}, out = {0}, inner = {0};
    sbuf_init(&m, 4096);
    sbuf_init(&out, 4096);
    sbuf_init(&inner, 100);
    assert_int_equal(ask("/csi.v1.Node/NodeGetInfo", &m, &out), GRPC_OK);
    assert_memory_equal(out.ptr, "\x0a\x09workers-0", 11);
    assert_int_equal(ask("/pluginregistration.Registration/GetInfo", &m, &out), GRPC_OK);
    assert_memory_equal(out.ptr, "\x0a\x09" "CSIPlugin\x12\x18" CSI_DRIVER, 37);
    assert_int_equal(ask("/csi.v1.Controller/CreateVolume", &m, &out), GRPC_UNIMPLEMENTED);
    assert_int_equal(ask("/csi.v1.Node/NodeStageVolume", &m, &out), GRPC_INVALID_ARGUMENT);
    wire_put_bytes(&m, 1, STR(ID));
    wire_put_bytes(&m, 3, STR(CSI_ROOT "plugins/x/globalmount"));
    assert_int_equal(ask("/csi.v1.Node/NodeStageVolume", &m, &out), GRPC_OK);
    assert_string_equal(last, "stage /v " ID " " CSI_ROOT "plugins/x/globalmount");
    wire_put_bytes(&m, 4, STR(CSI_ROOT "pods/y/mount"));
    wire_put_number(&m, 6, 1);
    assert_int_equal(ask("/csi.v1.Node/NodePublishVolume", &m, &out), GRPC_OK);
    assert_string_equal(last, "publish " CSI_ROOT "plugins/x/globalmount " CSI_ROOT "pods/y/mount 1");
    wire_put_bytes(&m, 4, STR(CSI_ROOT "pods/../../../etc"));
    assert_int_equal(ask("/csi.v1.Node/NodePublishVolume", &m, &out), GRPC_INVALID_ARGUMENT);
    assert_string_equal(last, "");
    /* A block device; mount options; what a driver says of later. */
    sbuf_reset(&m);
    wire_put_bytes(&m, 1, STR(ID));
    wire_put_bytes(&m, 3, STR(CSI_ROOT "a"));
    wire_put_bytes(&inner, 1, STR("x"));
    wire_put_bytes(&m, 4, sbuf_str(&inner));
    assert_int_equal(ask("/csi.v1.Node/NodeStageVolume", &m, &out), GRPC_INVALID_ARGUMENT);
    sbuf_reset(&m);
    wire_put_bytes(&m, 1, STR(ID));
    wire_put_bytes(&m, 2, STR(CSI_ROOT "a"));
    assert_int_equal(ask("/csi.v1.Node/NodeUnstageVolume", &m, &out), GRPC_UNAVAILABLE);
    assert_string_equal(last, "unmount " CSI_ROOT "a");
}

/* ---- policies ---- */

static void test_selectors(void **state UNUSED)
{
    static const struct {
        const char *selector;
        bool good;
    } cases[] = {{"{}", true},
                 {"{\"matchLabels\":{\"app\":\"web\"}}", true},
                 {"{\"matchLabels\":{\"app\":\"db\"}}", false},
                 {"{\"matchLabels\":{\"app\":\"web\",\"tier\":\"x\"}}", false},
                 {"{\"matchExpressions\":[{\"key\":\"app\",\"operator\":\"In\",\"values\":[\"db\",\"web\"]}]}", true},
                 {"{\"matchExpressions\":[{\"key\":\"app\",\"operator\":\"NotIn\",\"values\":[\"web\"]}]}", false},
                 {"{\"matchExpressions\":[{\"key\":\"tier\",\"operator\":\"NotIn\",\"values\":[\"x\"]}]}", true},
                 {"{\"matchExpressions\":[{\"key\":\"tier\",\"operator\":\"Exists\"}]}", false},
                 {"{\"matchExpressions\":[{\"key\":\"tier\",\"operator\":\"DoesNotExist\"}]}", true},
                 {"{\"matchExpressions\":[{\"key\":\"app\",\"operator\":\"Like\",\"values\":[\"web\"]}]}", false}};
    JSON_AUTO labels = doc("{\"app\":\"web\"}");
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        JSON_AUTO s = doc(cases[i].selector);
        if (policy_selects(s, labels) != cases[i].good)
            fail_msg("%s", cases[i].selector);
    }
    assert_false(policy_selects(NULL, labels));
}

#define POD(name, ns, node, ip, more)                                                                                                                                                                  \
    "{\"metadata\":{\"name\":\"" name "\",\"namespace\":\"" ns "\",\"labels\":{\"app\":\"" name "\"}},\"spec\":{\"nodeName\":\"" node "\"" more                                                          \
    ",\"containers\":[{\"ports\":[{\"name\":\"http\",\"containerPort\":8080}]}]},\"status\":{\"phase\":\"Running\",\"podIP\":\"" ip "\"}}"

static void compile(const char *policies, struct sbuf *out)
{
    JSON_AUTO pods = doc("[" POD("web", "a", "n0", "10.244.0.2", "") "," POD("db", "a", "n0", "10.244.0.3", "") "," POD("job", "b", "n1", "10.244.1.2", "") ","
                         POD("host", "a", "n0", "10.201.0.10", ",\"hostNetwork\":true") "," POD("odd", "a", "n0", "1;flush ruleset", "") "]");
    JSON_AUTO spaces = doc("[{\"metadata\":{\"name\":\"a\"}},{\"metadata\":{\"name\":\"b\",\"labels\":{\"team\":\"x\"}}}]");
    JSON_AUTO list = doc(policies);
    struct err err = ERR_INIT;
    sbuf_reset(out);
    assert_int_equal(policy_compile(&(struct policy_input){"n0", "10.244.0.0/24", pods, spaces, list}, out, &err), 0);
}

static void has(const struct sbuf *out, const char *text)
{
    if (!strstr(out->ptr, text))
        fail_msg("no \"%s\" in %s", text, out->ptr);
}

static void test_policies_become_rules(void **state UNUSED)
{
    CLEANUP(sbuf_deinit) struct sbuf out = {0};
    sbuf_init(&out, POLICY_TEXT_MAX);
    compile("[]", &out);
    assert_null(strstr(out.ptr, "hook"));
    compile("[{\"metadata\":{\"namespace\":\"a\",\"name\":\"p\"},\"spec\":{\"podSelector\":{\"matchLabels\":{\"app\":\"web\"}},\"policyTypes\":[\"Ingress\"],\"ingress\":["
            "{\"from\":[{\"namespaceSelector\":{\"matchLabels\":{\"team\":\"x\"}}},{\"ipBlock\":{\"cidr\":\"10.0.0.0/8\",\"except\":[\"10.1.0.0/16\"]}},{\"ipBlock\":{\"cidr\":\"fd00::/8\"}}],"
            "\"ports\":[{\"port\":\"http\"},{\"protocol\":\"UDP\",\"port\":53,\"endPort\":60},{\"protocol\":\"ICMP\"}]}]}}]",
            &out);
    has(&out, "set p0i0 {\n  type ipv4_addr\n  elements = { 10.244.1.2 }");
    has(&out, "ip saddr 10.244.0.2 return");
    has(&out, "ip saddr @p0i0 tcp dport 8080 return");
    has(&out, "ip saddr 10.0.0.0/8 ip saddr != 10.1.0.0/16 udp dport 53-60 return");
    has(&out, "10.244.0.2 : goto i0, 10.244.0.3 : return }\n  drop");
    has(&out, "ip saddr 10.244.0.0/24 jump from");
    assert_null(strstr(out.ptr, "flush"));
    assert_null(strstr(out.ptr, "10.201"));
    assert_null(strstr(out.ptr, "fd00"));
    assert_null(strstr(out.ptr, "goto e"));
    compile("[{\"metadata\":{\"namespace\":\"a\",\"name\":\"p\"},\"spec\":{\"podSelector\":{},\"policyTypes\":[\"Egress\"],\"egress\":[{\"to\":[{\"podSelector\":{\"matchLabels\":{\"app\":\"db\"}}}],"
            "\"ports\":[{\"port\":\"http\"}]},{\"ports\":[{\"port\":443}]},{\"to\":[{\"podSelector\":{}}]}]}}]",
            &out);
    has(&out, "ip daddr 10.244.0.3 tcp dport 8080 return");
    has(&out, "\n  tcp dport 443 return");
    has(&out, "ip daddr @p0e2 return");
    has(&out, "goto e1");
    sbuf_reset(&out);
    policy_closed("10.244.0.0/24", &out);
    has(&out, "ip daddr 10.244.0.0/24 drop");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_claims_are_taken_by_the_chosen_node_alone),
        cmocka_unit_test(test_a_volume_is_over_when_nobody_claims_it),
        cmocka_unit_test(test_a_wipe_goes_on_where_it_was_interrupted),
        cmocka_unit_test(test_a_large_volume_holds_up_no_small_one),
        cmocka_unit_test(test_files_of_volumes_are_overwritten),
        cmocka_unit_test(test_a_snapshot_is_what_the_volume_was),
        cmocka_unit_test(test_a_thin_one_is_mounted_nowhere_and_grows),
        cmocka_unit_test(test_mounts_follow_no_links),
        cmocka_unit_test(test_a_frozen_volume_is_let_go),
        cmocka_unit_test(test_contents_follow_their_snapshots),
        cmocka_unit_test(test_the_driver_answers_the_kubelet),
        cmocka_unit_test(test_selectors),
        cmocka_unit_test(test_policies_become_rules),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
