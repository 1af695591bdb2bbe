#include "base/metrics.h"

#include <fcntl.h>
#include <dirent.h>
#include <math.h>
#include <pthread.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/map.h"
#include "base/mem.h"
#include "base/vec.h"

#define LABELS_MAX 6
#define LABEL_VALUE_MAX_BYTES 256
#define PROC_FILE_MAX_BYTES 4096

struct metric {
    struct metric_family *family;
    char **label_values;
    uint64_t value;    /* counter, gauge (as int64_t), histogram: count */
    uint64_t *buckets; /* not cumulative; one more than the bounds, for +Inf */
    uint64_t sum_bits; /* a double */
};

struct metric_family {
    struct metric_family *next;
    const char *name;
    const char *help;
    enum metric_type type;
    char *label_names[LABELS_MAX];
    size_t label_count;
    size_t max_series;
    double *bounds;
    size_t bound_count;
    double (*fn)(void *arg);
    void *fn_arg;
    struct map *by_labels;
    VEC(struct metric *) series;
    struct metric *other;
};

const double metric_latency_buckets[] = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25,
                                         0.5,   1,      2.5,   5,    10,    30,   60};
const size_t metric_latency_bucket_count = ARRAY_LEN(metric_latency_buckets);

/* The lock guards the lists; values are atomics. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct metric_family *first, **last = &first;

static NORETURN void bug(const char *name, const char *what)
{
    fprintf(stderr, "seki: metric %s: %s\n", name, what);
    abort();
}

static struct metric_family *find_family(const char *name)
{
    for (struct metric_family *f = first; f; f = f->next)
        if (strcmp(f->name, name) == 0)
            return f;
    return NULL;
}

static struct metric_family *make_family(const char *name, const char *help, enum metric_type type,
                                         const char *const *label_names, size_t max_series,
                                         const double *buckets, size_t bucket_count)
{
    struct metric_family *f = XNEW(struct metric_family);
    f->name = xstrdup(name);
    f->help = xstrdup(help);
    f->type = type;
    f->max_series = max_series;
    for (; label_names && label_names[f->label_count]; f->label_count++) {
        if (f->label_count == LABELS_MAX)
            bug(name, "too many labels");
        f->label_names[f->label_count] = xstrdup(label_names[f->label_count]);
    }
    f->bounds = xcalloc(bucket_count, sizeof(*f->bounds));
    f->bound_count = bucket_count;
    if (bucket_count)
        memcpy(f->bounds, buckets, bucket_count * sizeof(*f->bounds));
    f->by_labels = map_new(NULL);
    *last = f;
    last = &f->next;
    return f;
}

struct metric_family *metric_family(const char *name, const char *help, enum metric_type type,
                                    const char *const *label_names, size_t max_series,
                                    const double *buckets, size_t bucket_count)
{
    pthread_mutex_lock(&lock);
    struct metric_family *f = find_family(name);
    if (f && f->type != type)
        bug(name, "made twice, with two types");
    if (!f)
        f = make_family(name, help, type, label_names, max_series, buckets, bucket_count);
    pthread_mutex_unlock(&lock);
    return f;
}

static struct metric *make_series(struct metric_family *f, const struct str *label_values)
{
    struct metric *m = XNEW(struct metric);
    m->family = f;
    m->label_values = xcalloc(f->label_count, sizeof(*m->label_values));
    for (size_t i = 0; i < f->label_count; i++)
        m->label_values[i] =
            label_values ? xstrndup(label_values[i].ptr, label_values[i].len) : xstrdup("other");
    m->buckets = xcalloc(f->bound_count + 1, sizeof(*m->buckets));
    *VEC_PUSH(&f->series) = m;
    return m;
}

struct metric *metric_series(struct metric_family *f, const struct str *label_values)
{
    /* Each value is cut and carries its length, so that no two sets of values make one key. */
    struct str values[LABELS_MAX];
    CLEANUP(sbuf_deinit) struct sbuf key = {0};
    sbuf_init(&key, LABELS_MAX * (LABEL_VALUE_MAX_BYTES + 8));
    for (size_t i = 0; i < f->label_count; i++) {
        values[i] =
            str_n(label_values[i].ptr, MIN(label_values[i].len, (size_t)LABEL_VALUE_MAX_BYTES));
        sbuf_add_u64(&key, values[i].len);
        sbuf_add_char(&key, ':');
        sbuf_add(&key, values[i]);
    }
    pthread_mutex_lock(&lock);
    struct metric *m = sbuf_ok(&key) ? map_get(f->by_labels, sbuf_str(&key)) : NULL;
    if (!m && sbuf_ok(&key) && (f->label_count == 0 || map_len(f->by_labels) < f->max_series)) {
        m = make_series(f, values);
        map_set(f->by_labels, sbuf_str(&key), m);
    } else if (!m) {
        if (!f->other)
            f->other = make_series(f, NULL);
        m = f->other;
    }
    pthread_mutex_unlock(&lock);
    return m;
}

struct metric *metric_series_again(struct metric **memo, struct metric_family *f, const struct str *label_values)
{
    bool same = *memo && (*memo)->family == f;
    for (size_t i = 0; same && i < f->label_count; i++)
        same = str_eqc(label_values[i], (*memo)->label_values[i]);
    if (!same)
        *memo = metric_series(f, label_values);
    return *memo;
}

struct metric *metric_counter(const char *name, const char *help)
{
    return metric_series(metric_family(name, help, METRIC_COUNTER, NULL, 1, NULL, 0), NULL);
}

struct metric *metric_gauge(const char *name, const char *help)
{
    return metric_series(metric_family(name, help, METRIC_GAUGE, NULL, 1, NULL, 0), NULL);
}

void metric_gauge_fn(const char *name, const char *help, double (*fn)(void *arg), void *arg)
{
    struct metric_family *f = metric_family(name, help, METRIC_GAUGE, NULL, 1, NULL, 0);
    pthread_mutex_lock(&lock);
    f->fn = fn;
    f->fn_arg = arg;
    pthread_mutex_unlock(&lock);
}

void metric_add(struct metric *m, uint64_t n)
{
    __atomic_fetch_add(&m->value, n, __ATOMIC_RELAXED);
}

void metric_set(struct metric *m, int64_t value)
{
    __atomic_store_n(&m->value, (uint64_t)value, __ATOMIC_RELAXED);
}

void metric_move(struct metric *m, int64_t delta)
{
    __atomic_fetch_add(&m->value, (uint64_t)delta, __ATOMIC_RELAXED);
}

void metric_observe(struct metric *m, double value)
{
    const struct metric_family *f = m->family;
    size_t i = 0;
    while (i < f->bound_count && !(value <= f->bounds[i]))
        i++;
    __atomic_fetch_add(&m->buckets[i], 1, __ATOMIC_RELAXED);
    uint64_t before = __atomic_load_n(&m->sum_bits, __ATOMIC_RELAXED), after;
    do {
        double sum;
        memcpy(&sum, &before, sizeof(sum));
        sum += value;
        memcpy(&after, &sum, sizeof(after));
    } while (!__atomic_compare_exchange_n(&m->sum_bits, &before, after, true, __ATOMIC_RELAXED,
                                          __ATOMIC_RELAXED));
    __atomic_fetch_add(&m->value, 1, __ATOMIC_RELAXED);
}

uint64_t metric_value(const struct metric *m)
{
    return __atomic_load_n(&m->value, __ATOMIC_RELAXED);
}

static void write_number(struct sbuf *out, double v)
{
    if (isnan(v)) {
        sbuf_addc(out, "NaN");
    } else if (isinf(v)) {
        sbuf_addc(out, v > 0 ? "+Inf" : "-Inf");
    } else {
        char text[40];
        snprintf(text, sizeof(text), "%.15g", v);
        if (strtod(text, NULL) != v)
            snprintf(text, sizeof(text), "%.17g", v);
        sbuf_addc(out, text);
    }
}

static void write_escaped(struct sbuf *out, struct str s, bool quotes)
{
    /* The exposition is UTF-8; one bad label must not cost the whole scrape. */
    if (!str_utf8_valid(s)) {
        sbuf_addc(out, "invalid-utf8");
        return;
    }
    for (size_t i = 0; i < s.len; i++) {
        if (s.ptr[i] == '\n')
            sbuf_addc(out, "\\n");
        else if (s.ptr[i] == '\\')
            sbuf_addc(out, "\\\\");
        else if (s.ptr[i] == '"' && quotes)
            sbuf_addc(out, "\\\"");
        else
            sbuf_add_char(out, s.ptr[i]);
    }
}

/* name{labels,le="..."} and a space; le NULL: without. */
static void write_name(struct sbuf *out, const struct metric *m, const char *suffix, const char *le)
{
    const struct metric_family *f = m->family;
    sbuf_addf(out, "%s%s", f->name, suffix);
    const char *separator = "{";
    for (size_t i = 0; i < f->label_count; i++) {
        sbuf_addf(out, "%s%s=\"", separator, f->label_names[i]);
        write_escaped(out, str_of(m->label_values[i]), true);
        sbuf_add_char(out, '"');
        separator = ",";
    }
    if (le) {
        sbuf_addf(out, "%sle=\"%s\"", separator, le);
        separator = ",";
    }
    sbuf_addc(out, separator[0] == ',' ? "} " : " ");
}

static void write_histogram(struct sbuf *out, const struct metric *m)
{
    const struct metric_family *f = m->family;
    uint64_t total = 0;
    for (size_t i = 0; i <= f->bound_count; i++) {
        char le[40] = "+Inf";
        if (i < f->bound_count)
            snprintf(le, sizeof(le), "%.15g", f->bounds[i]);
        total += __atomic_load_n(&m->buckets[i], __ATOMIC_RELAXED);
        write_name(out, m, "_bucket", le);
        sbuf_add_u64(out, total);
        sbuf_add_char(out, '\n');
    }
    uint64_t bits = __atomic_load_n(&m->sum_bits, __ATOMIC_RELAXED);
    double sum;
    memcpy(&sum, &bits, sizeof(sum));
    write_name(out, m, "_sum", NULL);
    write_number(out, sum);
    sbuf_add_char(out, '\n');
    /* The buckets' total, not `value`: a scrape in the middle of an observation must agree with
     * itself. */
    write_name(out, m, "_count", NULL);
    sbuf_add_u64(out, total);
    sbuf_add_char(out, '\n');
}

static void write_head(struct sbuf *out, const char *name, const char *help, const char *type)
{
    sbuf_addf(out, "# HELP %s ", name);
    write_escaped(out, str_of(help), false);
    sbuf_addf(out, "\n# TYPE %s %s\n", name, type);
}

static void write_family(struct sbuf *out, struct metric_family *f)
{
    static const char *const types[] = {"counter", "gauge", "histogram"};
    write_head(out, f->name, f->help, types[f->type]);
    if (f->fn) {
        sbuf_addf(out, "%s ", f->name);
        write_number(out, f->fn(f->fn_arg));
        sbuf_add_char(out, '\n');
        return;
    }
    VEC_FOREACH (&f->series, it) {
        const struct metric *m = *it;
        if (f->type == METRIC_HISTOGRAM) {
            write_histogram(out, m);
            continue;
        }
        write_name(out, m, "", NULL);
        if (f->type == METRIC_COUNTER)
            sbuf_add_u64(out, metric_value(m));
        else
            sbuf_addf(out, "%lld", (long long)(int64_t)metric_value(m));
        sbuf_add_char(out, '\n');
    }
}

static void write_simple(struct sbuf *out, const char *name, const char *help, const char *type,
                         double value)
{
    write_head(out, name, help, type);
    sbuf_addf(out, "%s ", name);
    write_number(out, value);
    sbuf_add_char(out, '\n');
}

/* Field `number` (from 1) of a line of /proc, after the command's name, which may contain anything.
 */
static bool proc_field(const char *line, int number, uint64_t *ret)
{
    const char *p = strrchr(line, ')');
    struct str rest = str_of(p ? p + 1 : line), item;
    rest = str_trim(rest);
    for (int i = p ? 3 : 1; str_cut(&rest, ' ', &item); i++)
        if (i == number)
            return str_to_u64(str_trim(item), ret) == 0;
    return false;
}

static uint64_t proc_value(const char *path, int number)
{
    CLEANUP(mem_freep) char *text = NULL;
    size_t len;
    uint64_t v = 0;
    if (file_read(path, PROC_FILE_MAX_BYTES, &text, &len, NULL) == 0)
        proc_field(text, number, &v);
    return v;
}

static size_t count_descriptors(void)
{
    DIR *d = opendir("/proc/self/fd");
    size_t n = 0;
    if (!d)
        return 0;
    struct dirent *e;
    while ((e = readdir(d)))
        n += e->d_name[0] != '.';
    closedir(d);
    return n ? n - 1 : 0; /* without the one of this listing */
}

static void write_process(struct sbuf *out)
{
    struct rusage u;
    if (getrusage(RUSAGE_SELF, &u) == 0)
        write_simple(out, "process_cpu_seconds_total", "User and system CPU time.", "counter",
                     (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
                         (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6);
    double page = (double)sysconf(_SC_PAGESIZE);
    write_simple(out, "process_virtual_memory_bytes", "Virtual memory.", "gauge",
                 (double)proc_value("/proc/self/statm", 1) * page);
    write_simple(out, "process_resident_memory_bytes", "Resident memory.", "gauge",
                 (double)proc_value("/proc/self/statm", 2) * page);
    write_simple(out, "process_open_fds", "Open descriptors.", "gauge",
                 (double)count_descriptors());
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0)
        write_simple(out, "process_max_fds", "Largest number of open descriptors.", "gauge",
                     (double)limit.rlim_cur);
    struct timespec boot;
    if (clock_gettime(CLOCK_BOOTTIME, &boot) == 0) {
        double started = (double)proc_value("/proc/self/stat", 22) / (double)sysconf(_SC_CLK_TCK);
        double age = (double)boot.tv_sec + (double)boot.tv_nsec / 1e9 - started;
        double now = (double)clock_wall_ms() / 1000;
        write_simple(out, "process_start_time_seconds", "Start time since 1970-01-01 UTC.", "gauge",
                     round((now - age) * 100) / 100);
    }
}

void metrics_write(struct sbuf *out)
{
    pthread_mutex_lock(&lock);
    for (struct metric_family *f = first; f; f = f->next)
        write_family(out, f);
    pthread_mutex_unlock(&lock);
    write_process(out);
}
