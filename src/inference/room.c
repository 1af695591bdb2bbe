#include "inference/room.h"

#include <ctype.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/compiler.h"
#include "base/file.h"
#include "base/mem.h"

#define TEXT_MAX (256u << 10)
#define KIB 1024

/* The number behind a word at the beginning of a line; -1: it is not there. */
static int64_t number_of(const char *path, const char *word)
{
    CLEANUP(mem_freep) char *text = NULL;
    size_t len = 0, n = strlen(word);
    if (file_read(path, TEXT_MAX, &text, &len, NULL) < 0)
        return -1;
    for (const char *line = text; line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL)
        if (!strncmp(line, word, n)) {
            const char *at = line + n + strspn(line + n, " \t:");
            return isdigit((unsigned char)*at) ? strtoll(at, NULL, 10) : -1;
        }
    return -1;
}

int64_t room_free_bytes(void)
{
    int64_t machine = number_of("/proc/meminfo", "MemAvailable:"), max = number_of("/sys/fs/cgroup/memory.max", ""), used = number_of("/sys/fs/cgroup/memory.current", "");
    int64_t cached = number_of("/sys/fs/cgroup/memory.stat", "inactive_file");
    if (machine < 0)
        return -1;
    machine *= KIB;
    if (max < 0 || used < 0)
        return machine;
    return MIN(machine, MAX(max - used + MAX(cached, (int64_t)0), (int64_t)0));
}

int64_t room_held_bytes(int64_t session)
{
    int64_t held = 0;
    DIR *d = opendir("/proc");
    for (struct dirent *e; d && (e = readdir(d));) {
        char path[64];
        if (!isdigit((unsigned char)e->d_name[0]) || strlen(e->d_name) > 20)
            continue;
        snprintf(path, sizeof(path), "/proc/%.20s/status", e->d_name);
        if (number_of(path, "NSsid:") == session)
            held += MAX(number_of(path, "RssAnon:"), (int64_t)0) * KIB;
    }
    if (d)
        closedir(d);
    return held;
}

int64_t room_for(int64_t wanted, int64_t loading, int64_t need_bytes, int64_t free_bytes, int64_t reserve_bytes)
{
    if (need_bytes <= 0 || free_bytes < 0)
        return wanted;
    int64_t fit = (free_bytes - reserve_bytes) / need_bytes - loading;
    return free_bytes < reserve_bytes ? 0 : MAX(MIN(wanted, fit), (int64_t)0);
}
