#include "base/err.h"

#include <errno.h>

static const struct {
    int code;
    int http_status;
    bool retryable;
    const char *reason;
} table[] = {
    {ERR_BAD_REQUEST, 400, false, "BadRequest"},
    {ERR_UNAUTHENTICATED, 401, false, "Unauthorized"},
    {ERR_FORBIDDEN, 403, false, "Forbidden"},
    {ERR_NOT_FOUND, 404, false, "NotFound"},
    {ERR_METHOD, 405, false, "MethodNotAllowed"},
    {ERR_NOT_ACCEPTABLE, 406, false, "NotAcceptable"},
    {ERR_EXISTS, 409, false, "AlreadyExists"},
    {ERR_CONFLICT, 409, true, "Conflict"},
    {ERR_GONE, 410, false, "Expired"},
    {ERR_TOO_LARGE, 413, false, "RequestEntityTooLarge"},
    {ERR_MEDIA_TYPE, 415, false, "UnsupportedMediaType"},
    {ERR_INVALID, 422, false, "Invalid"},
    {ERR_TOO_MANY, 429, true, "TooManyRequests"},
    {ERR_HEADER_TOO_LARGE, 431, false, "BadRequest"},
    {ERR_PAYMENT, 402, false, "Forbidden"},
    {ERR_INTERNAL, 500, false, "InternalError"},
    {ERR_UNAVAILABLE, 503, true, "ServiceUnavailable"},
    {ERR_TIMEOUT, 504, true, "Timeout"},
    {ERR_IO, 500, true, "InternalError"},
    {ERR_NO_SPACE, 507, true, "InternalError"},
    {ERR_NO_MEMORY, 503, true, "ServiceUnavailable"},
    {ERR_CORRUPT, 500, false, "InternalError"},
    {ERR_CLOSED, 502, true, "ServiceUnavailable"},
    {ERR_CANCELED, 499, false, "InternalError"},
    {ERR_PROTOCOL, 502, true, "InternalError"},
    {ERR_BUSY, 503, true, "ServiceUnavailable"},
};

static void fill(struct err *err, int code, const char *field, const char *fmt, va_list ap)
{
    if (!err)
        return;
    err->code = code;
    snprintf(err->field, sizeof(err->field), "%s", field);
    vsnprintf(err->msg, sizeof(err->msg), fmt, ap);
}

int err_set(struct err *err, int code, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fill(err, code, "", fmt, ap);
    va_end(ap);
    return code;
}

int err_field(struct err *err, int code, const char *field, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fill(err, code, field, fmt, ap);
    va_end(ap);
    return code;
}

int err_sys(struct err *err, int eno, const char *fmt, ...)
{
    int code = ERR_IO;
    if (eno == ENOSPC || eno == EDQUOT)
        code = ERR_NO_SPACE;
    else if (eno == ENOENT || eno == ESRCH)
        code = ERR_NOT_FOUND;
    else if (eno == EEXIST)
        code = ERR_EXISTS;
    else if (eno == EACCES || eno == EPERM)
        code = ERR_FORBIDDEN;
    else if (eno == ENOMEM || eno == EMFILE || eno == ENFILE)
        code = ERR_NO_MEMORY;
    else if (eno == ETIMEDOUT)
        code = ERR_TIMEOUT;
    else if (eno == EADDRINUSE || eno == EBUSY)
        code = ERR_BUSY;
    else if (eno == ECONNREFUSED || eno == ECONNRESET || eno == EPIPE)
        code = ERR_CLOSED;
    if (!err)
        return code;
    va_list ap;
    va_start(ap, fmt);
    fill(err, code, "", fmt, ap);
    va_end(ap);
    size_t used = strlen(err->msg);
    char text[128];
    snprintf(err->msg + used, sizeof(err->msg) - used, ": %s", strerror_r(eno, text, sizeof(text)));
    return code;
}

int err_wrap(struct err *err, const char *fmt, ...)
{
    if (!err)
        return ERR_INTERNAL;
    char inner[ERR_MSG_MAX];
    memcpy(inner, err->msg, sizeof(inner));
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(err->msg, sizeof(err->msg), fmt, ap);
    va_end(ap);
    size_t used = strlen(err->msg);
    snprintf(err->msg + used, sizeof(err->msg) - used, ": %.*s", ERR_MSG_MAX - 1, inner);
    return err->code;
}

int err_http_status(int code)
{
    for (size_t i = 0; i < ARRAY_LEN(table); i++)
        if (table[i].code == code)
            return table[i].http_status;
    return 500;
}

const char *err_reason(int code)
{
    for (size_t i = 0; i < ARRAY_LEN(table); i++)
        if (table[i].code == code)
            return table[i].reason;
    return "InternalError";
}

bool err_retryable(int code)
{
    for (size_t i = 0; i < ARRAY_LEN(table); i++)
        if (table[i].code == code)
            return table[i].retryable;
    return false;
}
