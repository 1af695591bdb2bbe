#include "base/log.h"

#include <errno.h>
#include <unistd.h>

#include "base/clock.h"

#define LINES_PER_SECOND 50
#define LINE_MAX_BYTES ((size_t)16 << 10)
#define VALUE_MAX_BYTES 2048
#define COMPONENT_MAX 32

static const char *const level_names[LOG_LEVEL_COUNT] = {"debug", "info", "warn", "error"};
static const char *const level_labels[LOG_LEVEL_COUNT] = {"DEBUG", "INFO ", "WARN ", "ERROR"};

static enum log_level min_level = LOG_INFO;
static enum log_format line_format = LOG_AUTO;
static char component_name[COMPONENT_MAX];

void log_setup(enum log_level level, enum log_format format, const char *component)
{
    snprintf(component_name, sizeof(component_name), "%s", component);
    log_set(level, format);
}

void log_set(enum log_level level, enum log_format format)
{
    if (format == LOG_AUTO)
        format = isatty(STDERR_FILENO) ? LOG_HUMAN : LOG_JSON;
    __atomic_store_n(&line_format, format, __ATOMIC_RELAXED);
    __atomic_store_n(&min_level, level, __ATOMIC_RELAXED);
}

int log_level_parse(struct str text, enum log_level *ret)
{
    for (size_t i = 0; i < LOG_LEVEL_COUNT; i++) {
        if (str_eqc(text, level_names[i])) {
            *ret = (enum log_level)i;
            return 0;
        }
    }
    return ERR_BAD_REQUEST;
}

bool log_enabled(enum log_level level)
{
    return level >= __atomic_load_n(&min_level, __ATOMIC_RELAXED);
}

/* Whether this line goes out. Two threads may both open a window and let a few lines more through:
 * harmless. */
static bool admit(struct log_site *site, uint32_t *ret_dropped)
{
    uint64_t now_s = clock_mono_ms() / 1000;
    uint64_t window = __atomic_load_n(&site->window_s, __ATOMIC_RELAXED);
    if (window != now_s && __atomic_compare_exchange_n(&site->window_s, &window, now_s, false,
                                                       __ATOMIC_RELAXED, __ATOMIC_RELAXED))
        __atomic_store_n(&site->count, 0, __ATOMIC_RELAXED);
    if (__atomic_fetch_add(&site->count, 1, __ATOMIC_RELAXED) >= LINES_PER_SECOND) {
        __atomic_fetch_add(&site->dropped, 1, __ATOMIC_RELAXED);
        return false;
    }
    *ret_dropped = __atomic_exchange_n(&site->dropped, 0, __ATOMIC_RELAXED);
    return true;
}

static struct str value_of(const struct log_kv *kv)
{
    return str_n(kv->s.ptr, MIN(kv->s.len, (size_t)VALUE_MAX_BYTES));
}

static void write_json(struct sbuf *b, enum log_level level, const char *msg,
                       const struct log_kv *kvs, uint32_t dropped)
{
    char time_text[CLOCK_TEXT_MAX];
    clock_format_micro(clock_wall_ms() * 1000, time_text);
    sbuf_addf(b, "{\"ts\":\"%s\",\"level\":\"%s\"", time_text, level_names[level]);
    if (component_name[0]) {
        sbuf_addc(b, ",\"component\":");
        sbuf_add_json(b, str_of(component_name));
    }
    sbuf_addc(b, ",\"msg\":");
    sbuf_add_json(b, str_of(msg));
    for (const struct log_kv *kv = kvs; kv && kv->key; kv++) {
        sbuf_add_char(b, ',');
        sbuf_add_json(b, str_of(kv->key));
        sbuf_add_char(b, ':');
        if (kv->type == LOG_KV_INT)
            sbuf_addf(b, "%lld", (long long)kv->i);
        else
            sbuf_add_json(b, value_of(kv));
    }
    if (dropped)
        sbuf_addf(b, ",\"dropped\":%u", dropped);
    sbuf_addc(b, "}\n");
}

static bool is_plain(struct str s)
{
    if (s.len == 0 || !str_utf8_valid(s))
        return false;
    for (size_t i = 0; i < s.len; i++) {
        unsigned char c = (unsigned char)s.ptr[i];
        if (c <= ' ' || c == '"' || c == '\\' || c == '=' || c == 0x7F)
            return false;
    }
    return true;
}

static void write_human(struct sbuf *b, enum log_level level, const char *msg,
                        const struct log_kv *kvs, uint32_t dropped)
{
    char time_text[CLOCK_TEXT_MAX];
    int64_t now_ms = clock_wall_ms();
    clock_format(now_ms, time_text);
    time_text[19] = '\0'; /* its "Z" comes after the milliseconds */
    sbuf_addf(b, "%s.%03dZ %s ", time_text, (int)(((now_ms % 1000) + 1000) % 1000),
              level_labels[level]);
    if (component_name[0])
        sbuf_addf(b, "%s: ", component_name);
    sbuf_addc(b, msg);
    for (const struct log_kv *kv = kvs; kv && kv->key; kv++) {
        sbuf_addf(b, " %s=", kv->key);
        struct str value = value_of(kv);
        if (kv->type == LOG_KV_INT)
            sbuf_addf(b, "%lld", (long long)kv->i);
        else if (is_plain(value))
            sbuf_add(b, value);
        else
            sbuf_add_json(b, value); /* nothing a terminal would obey */
    }
    if (dropped)
        sbuf_addf(b, " dropped=%u", dropped);
    sbuf_add_char(b, '\n');
}

void log_write(struct log_site *site, enum log_level level, const char *msg,
               const struct log_kv *kvs)
{
    uint32_t dropped = 0;
    if (!log_enabled(level) || (site && !admit(site, &dropped)))
        return;
    int eno = errno;
    CLEANUP(sbuf_deinit) struct sbuf line = {0};
    sbuf_init(&line, LINE_MAX_BYTES);
    bool human = __atomic_load_n(&line_format, __ATOMIC_RELAXED) == LOG_HUMAN;
    void (*write_line)(struct sbuf *, enum log_level, const char *, const struct log_kv *,
                       uint32_t) = human ? write_human : write_json;
    write_line(&line, level, msg, kvs, dropped);
    if (!sbuf_ok(&line)) {
        /* Too long: the sentence alone still tells what happened. */
        static const struct log_kv cut[] = {{"cut", LOG_KV_INT, {NULL, 0}, 1}, {0}};
        sbuf_reset(&line);
        write_line(&line, level, msg, cut, dropped);
    }
    if (sbuf_ok(&line)) {
        ssize_t n;
        do
            n = write(STDERR_FILENO, line.ptr, line.len);
        while (n < 0 && errno == EINTR);
    }
    errno = eno;
}
