/* The disk of a node: all that its programs and pods write, volumes not counted, lies in one file
 * of fixed size.
 *
 * It has no journal, and nothing in it is written through to the machine's disk: what is in it is
 * worth no more than the node, whose pods are started anew wherever they are, and so a node starts
 * as fast as one that syncs nothing. The kernel unmounts it with the node's last process, however
 * that ends. Only if the machine itself crashes while it is mounted can nobody say what is in it:
 * then it is made anew, and the node joins its cluster again. */
#include "node/node_init.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "node/volume.h"

#define FREE_TRIES 400 /* the node before this one may be on its way out */
#define FREE_LOOK_MS 25

static const char *const own[] = {"kubelet", "containerd", "ipam", "log"};

/* A name that no other file has: one that is held by a device that cannot be asked is told by it
 * (volume.h). */
static char *name_of(const char *dir)
{
    return xasprintf("%s/disk", dir + (*dir == '/'));
}

static int prepare(const char *root, const char *id, struct err *err)
{
    CLEANUP(mem_freep) char *path = volume_path(root, id);
    struct stat st;
    for (int i = 0; i < FREE_TRIES && volume_attached(root, id); i++)
        nanosleep(&(struct timespec){.tv_nsec = FREE_LOOK_MS * 1000000L}, NULL);
    if (volume_attached(root, id))
        return err_set(err, ERR_BUSY, "a node that was here before still has its disk");
    if (volume_whole(root, id))
        return volume_grow_thin(root, id, err);
    if (lstat(path, &st) < 0)
        return err_sys(err, errno, "%s", path);
    if (st.st_blocks)
        fprintf(stderr, "node: its disk was not unmounted, or has errors: it is made anew\n");
    return volume_make_thin(root, id, st.st_size, err);
}

int node_disk_open(const char *dir, int *ret_fd)
{
    const char *root = *dir == '/' ? "" : ".";
    CLEANUP(mem_freep) char *id = name_of(dir);
    struct err err = ERR_INIT;
    int rc = prepare(root, id, &err);
    rc = rc == 0 ? volume_mount_apart(root, id, ret_fd, &err) : rc;
    for (size_t i = 0; rc == 0 && i < ARRAY_LEN(own); i++) {
        CLEANUP(mem_freep)
        char *before =
            xasprintf("%s/%s", dir, own[i]); /* of a node that had no disk of its own yet */
        if (mkdirat(*ret_fd, own[i], 0700) < 0 && errno != EEXIST)
            rc = err_sys(&err, errno, "disk/%s", own[i]);
        else if (file_exists(before))
            rc = file_remove_tree(before, &err);
    }
    if (rc < 0)
        fprintf(stderr, "node: its disk: %s\n", err.msg);
    return rc < 0 ? -1 : 0;
}

void node_disk_mark(const char *dir)
{
    const char *root = *dir == '/' ? "" : ".";
    CLEANUP(mem_freep) char *id = name_of(dir);
    CLEANUP(file_closep) int fd = volume_open(root, id, O_RDONLY, NULL);
    if (fd < 0 || fdatasync(fd) < 0)
        fprintf(stderr, "node: its disk is not marked as mounted: %s\n", strerror(errno));
}

/* Links of the kubelet lead to where it sees them. Its kubeconfig says nothing: a kubelet writes
 * that before it has what it names. */
static bool there(int fd, const char *name)
{
    struct stat st;
    CLEANUP(file_closep)
    int kubelet = openat(fd, "kubelet", O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    CLEANUP(file_closep)
    int pki =
        kubelet < 0 ? -1 : openat(kubelet, "pki", O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    return pki >= 0 && fstatat(pki, name, &st, AT_SYMLINK_NOFOLLOW) == 0;
}

bool node_disk_tell(const char *dir, int fd, bool anew)
{
    static const char *const told[][2] = {{"kubelet-client-current.pem", "joined"},
                                          {"kubelet-server-current.pem", "serving"}};
    bool all = true;
    for (size_t i = 0; i < ARRAY_LEN(told); i++) {
        CLEANUP(mem_freep) char *path = xasprintf("%s/%s", dir, told[i][1]);
        bool has = there(fd, told[i][0]);
        if (has && !file_exists(path) && file_write(path, STR(""), 0600, NULL) < 0)
            has = false; /* again, soon */
        if (!has && anew)
            (void)unlink(path);
        all = all && has;
    }
    return all;
}
