/* Errors: a stack value that says what failed, in which field, and what was expected.
 *
 * A fallible function returns 0, or a negative enum err_code, and takes `struct err *err` last. On failure it
 * has set err once; on success err is untouched. err may be NULL where the caller only wants the code.
 * An error costs no allocation and needs no release. Library code never logs: the boundary does, once.
 */
#ifndef SEKI_BASE_ERR_H
#define SEKI_BASE_ERR_H

#include <stdarg.h>
#include <stdbool.h>

#include "base/compiler.h"

enum err_code {
    ERR_NONE = 0,
    /* Requests that cannot be served, each with its HTTP status and Kubernetes reason (err.c has the table). */
    ERR_BAD_REQUEST = -1000,  /* malformed: not parseable, wrong shape */
    ERR_UNAUTHENTICATED = -1001,
    ERR_FORBIDDEN = -1002,
    ERR_NOT_FOUND = -1003,
    ERR_METHOD = -1004,
    ERR_NOT_ACCEPTABLE = -1005,
    ERR_EXISTS = -1006,
    ERR_CONFLICT = -1007,     /* a precondition (resourceVersion, uid) no longer holds */
    ERR_GONE = -1008,         /* that revision is compacted; list again */
    ERR_TOO_LARGE = -1009,    /* body over its cap */
    ERR_MEDIA_TYPE = -1010,
    ERR_INVALID = -1011,      /* well-formed, but a field's value is refused */
    ERR_TOO_MANY = -1012,     /* rate or concurrency limit; retry later */
    ERR_HEADER_TOO_LARGE = -1013,
    ERR_PAYMENT = -1014,      /* a money budget is used up */
    /* The program's own trouble. */
    ERR_INTERNAL = -1100,
    ERR_UNAVAILABLE = -1101,  /* not now: starting, draining, no healthy replica */
    ERR_TIMEOUT = -1102,
    ERR_IO = -1103,
    ERR_NO_SPACE = -1104,     /* disk full */
    ERR_NO_MEMORY = -1105,    /* or no descriptor is left */
    ERR_CORRUPT = -1106,      /* stored bytes fail their checksum or digest */
    ERR_CLOSED = -1107,       /* the peer or this side has closed */
    ERR_CANCELED = -1108,
    ERR_PROTOCOL = -1109,     /* a peer broke its protocol */
    ERR_BUSY = -1110,         /* locked by another process */
};

#define ERR_FIELD_MAX 160
#define ERR_MSG_MAX 512

struct err {
    int code;                  /* enum err_code, or 0 */
    char field[ERR_FIELD_MAX]; /* "spec.replicas", or empty */
    char msg[ERR_MSG_MAX];     /* one sentence for a person, no trailing newline */
};

#define ERR_INIT {0}

/* Fills err (if not NULL) and returns code, so that `return err_set(...)` reads well. */
int err_set(struct err *err, int code, const char *fmt, ...) PRINTF(3, 4);
int err_field(struct err *err, int code, const char *field, const char *fmt, ...) PRINTF(4, 5);
/* From errno: the message is "fmt: strerror(eno)"; the code is ERR_NO_SPACE, ERR_NOT_FOUND ... or ERR_IO. */
int err_sys(struct err *err, int eno, const char *fmt, ...) PRINTF(3, 4);
/* Puts "context: " before the message that err has; returns err's code. */
int err_wrap(struct err *err, const char *fmt, ...) PRINTF(2, 3);

int err_http_status(int code);          /* 404 for ERR_NOT_FOUND ... 500 when unknown */
const char *err_reason(int code);       /* Kubernetes reason: "NotFound" ... "InternalError" */
bool err_retryable(int code);

#endif
