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

/* Of series of one family. */
struct owner {
    char *name;
    size_t count;
};

struct metric {
    struct metric_family *family;
    char **label_values;
    struct owner *owner; /* NULL: nobody's */
    uint64_t gone_ms;    /* since when what it speaks of is not there; 0: it is */
    size_t memos;        /* that point here */
    bool dead;           /* it is in its family no more; atomic, all above is under the lock or never changes */
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
    VEC(struct metric *) series; /* oldest first */
    struct metric *other;
    struct map *owners; /* name → struct owner * */
    size_t most;        /* series of the owner that has most */
    size_t gone;        /* series whose subject is not there */
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
    f->owners = map_new(NULL);
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

#define KEY_MAX_BYTES (LABELS_MAX * (LABEL_VALUE_MAX_BYTES + 8))

/* Each value is cut and carries its length, so that no two sets of values make one key. */
static void make_key(const struct metric_family *f, const struct str *label_values, struct str values[LABELS_MAX], struct sbuf *key)
{
    sbuf_init(key, KEY_MAX_BYTES);
    for (size_t i = 0; i < f->label_count; i++) {
        values[i] = str_n(label_values[i].ptr, MIN(label_values[i].len, (size_t)LABEL_VALUE_MAX_BYTES));
        sbuf_add_u64(key, values[i].len);
        sbuf_add_char(key, ':');
        sbuf_add(key, values[i]);
    }
}

/* ---- whose series are, and how they go; under the lock ---- */

static struct owner *owner_of(const struct metric_family *f, struct str name)
{
    return name.len ? map_get(f->owners, name) : NULL;
}

static void own(struct metric_family *f, struct metric *m, struct str name)
{
    if (!name.len)
        return;
    struct owner *o = owner_of(f, name);
    if (!o) {
        o = XNEW(struct owner);
        o->name = xstrndup(name.ptr, name.len);
        map_set(f->owners, name, o);
    }
    m->owner = o;
    o->count++;
    f->most = MAX(f->most, o->count);
}

static void disown(struct metric_family *f, struct metric *m)
{
    struct owner *o = m->owner;
    if (!o)
        return;
    m->owner = NULL;
    bool had_most = o->count-- == f->most;
    if (!o->count) {
        map_del(f->owners, str_of(o->name));
        mem_free(o->name);
        mem_free(o);
    }
    if (!had_most)
        return;
    f->most = 0;
    struct map_iter it = MAP_ITER_INIT;
    while (map_next(f->owners, &it))
        f->most = MAX(f->most, ((struct owner *)it.value)->count);
}

static void free_series(struct metric *m)
{
    for (size_t i = 0; i < m->family->label_count; i++)
        mem_free(m->label_values[i]);
    mem_free(m->label_values);
    mem_free(m->buckets);
    mem_free(m);
}

/* Its family has it no more; memos that point to it look anew, and the last one frees it. */
static void retire(struct metric_family *f, size_t index)
{
    struct metric *m = f->series.ptr[index];
    struct str labels[LABELS_MAX], values[LABELS_MAX];
    CLEANUP(sbuf_deinit) struct sbuf key = {0};
    for (size_t i = 0; i < f->label_count; i++)
        labels[i] = str_of(m->label_values[i]);
    make_key(f, labels, values, &key);
    map_del(f->by_labels, sbuf_str(&key));
    memmove(&f->series.ptr[index], &f->series.ptr[index + 1], (--f->series.len - index) * sizeof(*f->series.ptr));
    f->gone -= m->gone_ms != 0;
    disown(f, m);
    __atomic_store_n(&m->dead, true, __ATOMIC_RELAXED);
    if (!m->memos)
        free_series(m);
}

static void forget_memo(struct metric *m)
{
    if (m && --m->memos == 0 && m->dead)
        free_series(m);
}

/* Which series makes room for a new one of this owner; SIZE_MAX: none does. */
static size_t find_victim(const struct metric_family *f, struct str owner)
{
    size_t found = SIZE_MAX;
    for (size_t i = 0; f->gone && i < f->series.len; i++) {
        const struct metric *m = f->series.ptr[i];
        if (m->gone_ms && (found == SIZE_MAX || m->gone_ms < f->series.ptr[found]->gone_ms))
            found = i;
    }
    const struct owner *o = owner_of(f, owner);
    if (found != SIZE_MAX || !owner.len || (o ? o->count : 0) + 1 >= f->most)
        return found;
    for (size_t i = f->series.len; i-- > 0;) {
        const struct metric *m = f->series.ptr[i];
        if (m->owner && m->owner->count == f->most)
            return i;
    }
    return SIZE_MAX;
}

static bool make_room(struct metric_family *f, struct str owner)
{
    if (f->label_count == 0 || map_len(f->by_labels) < f->max_series)
        return true;
    size_t victim = find_victim(f, owner);
    if (victim == SIZE_MAX)
        return false;
    retire(f, victim);
    return true;
}

static struct metric *find_or_make(struct metric_family *f, const struct str *label_values, struct str owner)
{
    struct str values[LABELS_MAX];
    CLEANUP(sbuf_deinit) struct sbuf key = {0};
    make_key(f, label_values, values, &key);
    struct metric *m = sbuf_ok(&key) ? map_get(f->by_labels, sbuf_str(&key)) : NULL;
    if (!m && sbuf_ok(&key) && make_room(f, owner)) {
        m = make_series(f, values);
        map_set(f->by_labels, sbuf_str(&key), m);
        own(f, m, owner);
    } else if (!m) {
        if (!f->other)
            f->other = make_series(f, NULL);
        m = f->other;
    }
    return m;
}

struct metric *metric_series(struct metric_family *f, const struct str *label_values)
{
    pthread_mutex_lock(&lock);
    struct metric *m = find_or_make(f, label_values, STR_NULL);
    pthread_mutex_unlock(&lock);
    return m;
}

struct metric *metric_series_owned(struct metric **memo, struct metric_family *f, const struct str *label_values, struct str owner)
{
    bool same = *memo && (*memo)->family == f && !__atomic_load_n(&(*memo)->dead, __ATOMIC_RELAXED);
    for (size_t i = 0; same && i < f->label_count; i++)
        same = str_eqc(label_values[i], (*memo)->label_values[i]);
    if (same)
        return *memo;
    pthread_mutex_lock(&lock);
    struct metric *before = *memo;
    *memo = find_or_make(f, label_values, owner);
    (*memo)->memos++;
    forget_memo(before);
    pthread_mutex_unlock(&lock);
    return *memo;
}

struct metric *metric_series_again(struct metric **memo, struct metric_family *f, const struct str *label_values)
{
    return metric_series_owned(memo, f, label_values, STR_NULL);
}

void metric_memo_drop(struct metric **memo)
{
    if (!*memo)
        return;
    pthread_mutex_lock(&lock);
    forget_memo(*memo);
    pthread_mutex_unlock(&lock);
    *memo = NULL;
}

void metric_family_sweep(struct metric_family *f, bool (*there)(void *arg, const char *const *label_values), void *arg, uint64_t now_ms, uint64_t grace_ms)
{
    pthread_mutex_lock(&lock);
    for (size_t i = f->series.len; i-- > 0;) {
        struct metric *m = f->series.ptr[i];
        if (m == f->other)
            continue;
        f->gone -= m->gone_ms != 0;
        if (there(arg, (const char *const *)m->label_values))
            m->gone_ms = 0;
        else if (!m->gone_ms)
            m->gone_ms = MAX(now_ms, (uint64_t)1);
        f->gone += m->gone_ms != 0;
        if (m->gone_ms && now_ms - m->gone_ms >= grace_ms)
            retire(f, i);
    }
    pthread_mutex_unlock(&lock);
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
