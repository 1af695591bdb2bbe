#include "cmd/vitals.h"

#include <sys/statvfs.h>

#include "base/mem.h"
#include "base/metrics.h"
#include "crypto/pki.h"

#define CERTIFICATES_MAX 16

struct readiness {
    const struct monitor_check *checks;
    void *arg;
};

static double is_ready(void *arg)
{
    const struct readiness *r = arg;
    for (const struct monitor_check *c = r->checks; c->name; c++) {
        struct err err = ERR_INIT;
        if (c->check(r->arg, &err) != 0)
            return 0;
    }
    return 1;
}

void vitals_ready(const char *name, const char *help, const struct monitor_check *checks, void *arg)
{
    static struct readiness ready; /* a process has one role */
    ready = (struct readiness){checks, arg};
    metric_gauge_fn(name, help, is_ready, &ready);
}

static char disk_path[4096];

/* Unknown is -1: neither full nor empty. */
static double disk_bytes(bool free_ones)
{
    struct statvfs s;
    if (statvfs(disk_path, &s) < 0)
        return -1;
    return (double)(free_ones ? s.f_bavail : s.f_blocks) * (double)s.f_frsize;
}
static double disk_size(void *arg UNUSED)
{
    return disk_bytes(false);
}
static double disk_free(void *arg UNUSED)
{
    return disk_bytes(true);
}

void vitals_disk(const char *path)
{
    snprintf(disk_path, sizeof(disk_path), "%s", path);
    metric_gauge_fn("seki_data_disk_size_bytes", "Size of the file system of the data directory; -1: unknown.", disk_size, NULL);
    metric_gauge_fn("seki_data_disk_free_bytes", "What Seki may still write there; -1: unknown.", disk_free, NULL);
}

void vitals_certificate(const char *name, const char *path)
{
    static const char *const labels[] = {"certificate", NULL};
    struct metric_family *f = metric_family("seki_certificate_end_timestamp_seconds", "When a certificate ends, since 1970-01-01 UTC; 0: it cannot be read.", METRIC_GAUGE, labels,
                                            CERTIFICATES_MAX, NULL, 0);
    int64_t end_ms = 0;
    if (pki_certificate_end(path, &end_ms, NULL) < 0)
        end_ms = 0;
    metric_set(metric_series(f, (const struct str[]){str_of(name)}), end_ms / 1000);
}

void vitals_control_certificates(const struct options *o)
{
    static const char *const names[] = {"ca", "apiserver", "admin", "gateway"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        CLEANUP(mem_freep) char *path = xasprintf("%s/pki/%s.crt", o->data, names[i]);
        vitals_certificate(names[i], path);
    }
}
