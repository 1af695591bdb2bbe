#include "gateway/verdict.h"

#define RETRY_AFTER_MAX_S 86400

static bool is_replicas_own_trouble(int status)
{
    return (status >= 300 && status < 400) || status == 401 || status == 403 || status == 502 || status == 503 || status == 504;
}

int64_t verdict_retry_after(const struct http_head *head)
{
    int64_t seconds;
    return str_to_i64(http_header_get(head, "Retry-After"), 0, RETRY_AFTER_MAX_S, &seconds) == 0 ? seconds : -1;
}

static bool is_coded(const struct http_head *head)
{
    struct str coding = http_header_get(head, "Content-Encoding");
    return coding.len && !str_ieq(coding, STR("identity"));
}

struct verdict verdict_of_head(const struct http_head *head)
{
    bool useless = is_replicas_own_trouble(head->status) || is_coded(head);
    uint64_t busy_ms = head->status == 429 || head->status == 503 ? (uint64_t)MAX(verdict_retry_after(head), (int64_t)0) * 1000 : 0;
    if (head->status == 429)
        return (struct verdict){TARGET_BUSY, busy_ms, useless ? ANSWER_USELESS : ANSWER_LAST};
    if (busy_ms)
        return (struct verdict){TARGET_BUSY, busy_ms, ANSWER_USELESS};
    if (useless)
        return (struct verdict){TARGET_FAILED, 0, ANSWER_USELESS};
    return head->status >= 500 ? (struct verdict){TARGET_NEITHER, 0, ANSWER_DOUBTED} : (struct verdict){TARGET_OK, 0, ANSWER_GOOD};
}

enum target_outcome verdict_of_error(const struct err *err, bool sent, bool spoke)
{
    if (err->code == ERR_NO_MEMORY)
        return TARGET_NEITHER;
    if (err->code == ERR_TIMEOUT && sent)
        return TARGET_FAILED;
    return spoke ? TARGET_FAILED : TARGET_UNREACHABLE;
}

const char *outcome_text(enum outcome o)
{
    static const char *const texts[] = {[OUTCOME_OK] = "ok", [OUTCOME_CLIENT_GONE] = "client_gone", [OUTCOME_SHUTDOWN] = "shutdown", [OUTCOME_TIMEOUT] = "timeout",
                                        [OUTCOME_UPSTREAM_ERROR] = "upstream_error", [OUTCOME_REFUSED_BY_US] = "refused", [OUTCOME_REFUSED_BY_ENGINE] = "refused"};
    return texts[o];
}

enum target_outcome outcome_of_replica(enum outcome o)
{
    return o == OUTCOME_OK || o == OUTCOME_REFUSED_BY_ENGINE ? TARGET_OK : TARGET_NEITHER;
}
