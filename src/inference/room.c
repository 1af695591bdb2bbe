#include "inference/room.h"

#include <ctype.h>
#include <dirent.h>
#include <stdio.h>
#include <string.h>

#include "base/compiler.h"
#include "inference/cgroup_memory.h"

#define KIB 1024

int64_t room_free_bytes(void)
{
    int64_t machine = number_in_file("/proc/meminfo", "MemAvailable:"), groups = cgroup_memory_free("");
    if (machine < 0)
        return -1;
    return groups < 0 ? machine * KIB : MIN(machine * KIB, groups);
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
        if (number_in_file(path, "NSsid:") == session)
            held += MAX(number_in_file(path, "RssAnon:"), (int64_t)0) * KIB;
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
