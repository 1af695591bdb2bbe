#include "apiserver/options.h"

#define NOT_OLDER "NotOlderThan"
#define EXACT "Exact"

static int read_number(struct api_request *q, const char *name, int64_t *ret, struct err *err)
{
    struct str v = api_query(q, name);
    if (!v.len || str_to_i64(v, INT64_MIN, INT64_MAX, ret) == 0)
        return 0;
    return err_field(err, ERR_BAD_REQUEST, name, "Invalid value: \"%.*s\": must be a number", (int)(v.len > 32 ? 32 : v.len), v.ptr);
}

static void check_list(struct api_request *q, struct str match, struct field_errors *e)
{
    struct str rv = api_query(q, "resourceVersion");
    if (match.len && !rv.len)
        field_errors_add(e, "resourceVersionMatch", "FieldValueForbidden", "Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided");
    if (match.len && api_query(q, "continue").len)
        field_errors_add(e, "resourceVersionMatch", "FieldValueForbidden", "Forbidden: resourceVersionMatch is forbidden when continue is provided");
    if (match.len && !str_eqc(match, EXACT) && !str_eqc(match, NOT_OLDER))
        field_errors_add(e, "resourceVersionMatch", "FieldValueNotSupported", "Unsupported value: \"%.*s\": supported values: \"" EXACT "\", \"" NOT_OLDER "\", \"\"",
                         (int)(match.len > 64 ? 64 : match.len), match.ptr);
    if (str_eqc(match, EXACT) && str_eqc(rv, "0"))
        field_errors_add(e, "resourceVersionMatch", "FieldValueForbidden", "Forbidden: resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"");
    if (api_query(q, "sendInitialEvents").len)
        field_errors_add(e, "sendInitialEvents", "FieldValueForbidden", "Forbidden: sendInitialEvents is forbidden for list");
}

static void check_watch(struct api_request *q, struct str match, struct field_errors *e)
{
    bool initial = api_query(q, "sendInitialEvents").len > 0;
    if (initial && !str_eqc(match, NOT_OLDER))
        field_errors_add(e, "resourceVersionMatch", "FieldValueForbidden", "Forbidden: sendInitialEvents requires setting resourceVersionMatch to " NOT_OLDER);
    if (match.len && !initial)
        field_errors_add(e, "resourceVersionMatch", "FieldValueForbidden", "Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided");
    if (match.len && !str_eqc(match, NOT_OLDER))
        field_errors_add(e, "resourceVersionMatch", "FieldValueNotSupported", "Unsupported value: \"%.*s\": supported values: \"" NOT_OLDER "\"",
                         (int)(match.len > 64 ? 64 : match.len), match.ptr);
    if (match.len && api_query(q, "continue").len)
        field_errors_add(e, "resourceVersionMatch", "FieldValueForbidden", "Forbidden: resourceVersionMatch is forbidden when continue is provided");
}

/* With a limit, a bare version has always meant that version exactly: the next pages are of it. */
static enum list_match match_of(struct str rv, struct str match, const struct list_options *o)
{
    if (!rv.len)
        return MATCH_LATEST;
    if (!o->rev)
        return MATCH_ANY;
    return str_eqc(match, EXACT) || (!match.len && o->limit) ? MATCH_EXACT : MATCH_NOT_OLDER;
}

int list_options_read(struct api_request *q, bool watch, struct list_options *ret, struct field_errors *errors, struct err *err)
{
    struct str match = api_query(q, "resourceVersionMatch"), rv = api_query(q, "resourceVersion");
    struct selector *selector = NULL;
    int rc = selector_parse(q->arena, q->kind, api_query(q, "labelSelector"), api_query(q, "fieldSelector"), &selector, err);
    *ret = (struct list_options){.selector = selector, .token = api_query(q, "continue"), .bookmarks = api_query_flag(q, "allowWatchBookmarks")};
    if (rc < 0 || (rc = read_number(q, "limit", &ret->limit, err)) < 0 || (rc = read_number(q, "timeoutSeconds", &ret->timeout_s, err)) < 0 ||
        (rc = read_number(q, "resourceVersion", &ret->rev, err)) < 0)
        return rc;
    if (ret->rev < 0)
        return err_field(err, ERR_BAD_REQUEST, "resourceVersion", "Invalid value: \"%lld\": must be a number, 0 or more", (long long)ret->rev);
    ret->limit = MAX(ret->limit, 0);
    ret->timeout_s = MIN(MAX(ret->timeout_s, 0), 1000000);
    ret->initial_set = api_query(q, "sendInitialEvents").len > 0;
    ret->initial = api_query_flag(q, "sendInitialEvents");
    errors->arena = q->arena;
    if (watch)
        check_watch(q, match, errors);
    else
        check_list(q, match, errors);
    if (errors->count)
        return err_field(err, ERR_INVALID, errors->items[0].path, "ListOptions.meta.k8s.io \"\" is invalid: %s: %s", errors->items[0].path, errors->items[0].message);
    if (!watch && ret->token.len && ret->rev > 0)
        return err_set(err, ERR_BAD_REQUEST, "specifying resource version is not allowed when using continue");
    ret->match = match_of(rv, match, ret);
    return 0;
}

void list_options_fail(struct api_request *q, const struct field_errors *errors, const struct err *err)
{
    if (errors->count)
        api_fail_invalid_as(q, "ListOptions", "meta.k8s.io", "", errors);
    else
        api_fail(q, err);
}

json_t *list_too_large(int64_t wanted, int64_t current)
{
    char text[128];
    snprintf(text, sizeof(text), "Too large resource version: %lld, current: %lld", (long long)wanted, (long long)current);
    return api_status(504, "Failure", "Timeout", text,
                      json_pack("{s:[{s:s, s:s}], s:i}", "causes", "reason", "ResourceVersionTooLarge", "message", "Too large resource version", "retryAfterSeconds", 1));
}
