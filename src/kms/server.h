/* The plugin's process: two unix sockets in one poll loop, one thread.
 *
 *   socket   gRPC, for API servers: service.h
 *   control  keys come in here, and numbers go out: one question a connection
 *              question  "SEKIKMS1", count (1 byte), count × (id 16, key 32): replaces all keys, the first one seals; count 0 only asks
 *              answer    "SEKIKMS1", count (1 byte), sealed, opened, refused (8 bytes each, big-endian), count × id 16
 *            Given again, the same keys change nothing. Keys are in memory only: never in a file, an argument, the environment or a log.
 * Both are made with mode 0600, and answer peers of the same user only. Caps: KMS_CONNS_MAX connections, the oldest one without a call makes room; calls and questions have 5 s.
 */
#ifndef SEKI_KMS_SERVER_H
#define SEKI_KMS_SERVER_H

#include "kms/service.h"

#define KMS_CONNS_MAX 32
#define KMS_CALL_MS 5000

struct kms_server_options {
    const char *socket, *control; /* paths; a socket that lies there is replaced */
    const char *scope;            /* the cluster's uid */
    int stop_fd;                  /* the loop ends when it can be read */
};
/* Serves until stop_fd, or until another process has taken the paths over. Blocks. */
int kms_serve(const struct kms_server_options *o, struct err *err) NODISCARD;

/* ---- the other side of `control` ---- */

struct kms_said {
    size_t count;
    uint8_t id[KMS_KEYS_MAX][ENVELOPE_ID_BYTES];
    uint64_t sealed, opened, refused;
};
/* Blocks for timeout_ms at most. keys NULL, or without any: only asks. ERR_UNAVAILABLE: nobody answers there. Any thread. */
int kms_tell(const char *control, const struct kms_keys *keys, uint64_t timeout_ms, struct kms_said *ret, struct err *err) NODISCARD;

/* Parses a question as far as it came. 1: whole, and *ret has keys (scope is left); 0: more is to come; ERR_BAD_REQUEST. */
int kms_question(struct str bytes, struct kms_keys *ret, struct err *err) NODISCARD;

#endif
