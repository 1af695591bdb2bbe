/* Logging: one line an event to stderr; human on a terminal, JSON otherwise (or as the configuration says).
 *
 *   log_info("replica started", KV("replica", name), KVI("pid", pid));
 * The message is a constant sentence; facts are key-value pairs. Secrets and tenants' content are never values.
 * Library code does not log; handlers, reconcilers and main do, once an event. Each call site is limited to
 * 50 lines a second; what was dropped is counted on its next line. Threads: any; a line is one write(2).
 */
#ifndef SEKI_BASE_LOG_H
#define SEKI_BASE_LOG_H

#include <stdbool.h>
#include <stdint.h>

#include "base/str.h"

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR, LOG_LEVEL_COUNT };
enum log_format { LOG_AUTO, LOG_HUMAN, LOG_JSON };

struct log_kv {
    const char *key; /* NULL ends the list */
    enum { LOG_KV_STR, LOG_KV_INT } type;
    struct str s;
    int64_t i;
};

struct log_site {
    const char *file;
    int line;
    uint64_t window_s;
    uint32_t count;
    uint32_t dropped;
};

/* component: "control", "gateway" ...: a field of every line. Call once from main. */
void log_setup(enum log_level level, enum log_format format, const char *component);
/* Changes both while running. */
void log_set(enum log_level level, enum log_format format);
int log_level_parse(struct str text, enum log_level *ret) NODISCARD;
bool log_enabled(enum log_level level);
void log_write(struct log_site *site, enum log_level level, const char *msg,
               const struct log_kv *kvs);

#define KV(k, v) ((struct log_kv){(k), LOG_KV_STR, str_of(v), 0})
#define KVS(k, v) ((struct log_kv){(k), LOG_KV_STR, (v), 0}) /* a struct str */
#define KVI(k, v) ((struct log_kv){(k), LOG_KV_INT, STR_NULL, (int64_t)(v)})
#define KVE(e) KV("error", (e)->msg) /* a struct err * */

#define LOG_AT(level, message, ...)                                                                \
    do {                                                                                           \
        static struct log_site log_site_ = {__FILE__, __LINE__, 0, 0, 0};                          \
        if (log_enabled(level))                                                                    \
            log_write(&log_site_, (level), (message),                                              \
                      (const struct log_kv[]){__VA_ARGS__ __VA_OPT__(, ){NULL, LOG_KV_STR, {NULL, 0}, 0}}); \
    } while (0)
#define log_debug(...) LOG_AT(LOG_DEBUG, __VA_ARGS__)
#define log_info(...) LOG_AT(LOG_INFO, __VA_ARGS__)
#define log_warn(...) LOG_AT(LOG_WARN, __VA_ARGS__)
#define log_error(...) LOG_AT(LOG_ERROR, __VA_ARGS__)

#endif
