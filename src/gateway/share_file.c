#include "gateway/share_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "json/json.h"

#define VERSION 1
#define FILE_MAX (64u << 20)
#define PARTS_MAX 100000 /* gateways */

static bool on_less(void *arg, const char *name, enum limit_unit u, int64_t max, int64_t share)
{
    json_array_append_new(arg, json_pack("{s:s, s:s, s:I, s:I}", "name", name, "unit", limit_unit_text(u), "max", (json_int_t)max, "share", (json_int_t)share));
    return true;
}

static int save(const char *path, const json_t *doc, struct err *err)
{
    CLEANUP(sbuf_deinit) struct sbuf text = {0};
    CLEANUP(mem_freep) char *beside = xasprintf("%s.new", path);
    CLEANUP(file_closep) int fd = -1;
    sbuf_init(&text, FILE_MAX);
    json_write(doc, &text);
    if (!sbuf_ok(&text))
        return err_set(err, ERR_TOO_LARGE, "%s would have more than %u MiB", path, FILE_MAX >> 20);
    fd = open(beside, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return err_sys(err, errno, "%s", beside);
    int rc = file_write_all(fd, sbuf_str(&text), err);
    return rc < 0 ? rc : rename(beside, path) < 0 ? err_sys(err, errno, "%s", path) : 0;
}

int share_file_save(const char *path, struct limit_set *s, int64_t parts, struct err *err)
{
    json_t *less = json_array();
    JSON_AUTO doc = json_pack("{s:i, s:I, s:o}", "version", VERSION, "parts", (json_int_t)parts, "less", less);
    limit_each_less(s, on_less, less);
    return save(path, doc, err);
}

int share_file_save_left(const char *path, struct err *err)
{
    JSON_AUTO doc = json_pack("{s:i, s:b}", "version", VERSION, "left", 1);
    return save(path, doc, err);
}

const char *share_file_newest(const char *a, const char *b)
{
    struct stat sa, sb;
    bool has_a = a && stat(a, &sa) == 0, has_b = b && stat(b, &sb) == 0;
    if (!has_a || !has_b)
        return has_a ? a : has_b ? b : NULL;
    bool older = sa.st_mtim.tv_sec != sb.st_mtim.tv_sec ? sa.st_mtim.tv_sec < sb.st_mtim.tv_sec : sa.st_mtim.tv_nsec < sb.st_mtim.tv_nsec;
    return older ? b : a;
}

static bool is_good(const json_t *less)
{
    enum limit_unit u;
    int64_t max = json_int(less, "max", -1), share = json_int(less, "share", -1);
    return *json_str_or(less, "name", "") && limit_unit_parse(json_str_or(less, "unit", ""), &u) && max > 0 && share >= 0 && share <= max;
}

int64_t share_file_load(const char *path, struct limit_set *s, struct err *err)
{
    JSON_AUTO doc = NULL;
    size_t i;
    json_t *less;
    enum limit_unit u;
    if (json_read_file(path, FILE_MAX, &doc, err) < 0)
        return 0;
    if (json_int(doc, "version", 0) == VERSION && json_flag(doc, "left", false))
        return SHARE_FILE_LEFT;
    int64_t parts = json_int(doc, "parts", 0);
    bool good = json_int(doc, "version", 0) == VERSION && parts > 0 && parts <= PARTS_MAX && json_is_array(json_object_get(doc, "less"));
    json_array_foreach (json_object_get(doc, "less"), i, less)
        good &= is_good(less);
    if (!good) {
        (void)!err_set(err, ERR_INVALID, "%s is none of shares of limits", path);
        return 0;
    }
    json_array_foreach (json_object_get(doc, "less"), i, less)
        if (limit_unit_parse(json_str_or(less, "unit", ""), &u))
            limit_cap(s, str_of(json_str_or(less, "name", "")), u, json_int(less, "max", 0), json_int(less, "share", 0));
    return parts;
}
