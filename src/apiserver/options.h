/* What a list or a watch is asked for (Kubernetes' ListOptions), read and checked as a whole. */
#ifndef SEKI_APISERVER_OPTIONS_H
#define SEKI_APISERVER_OPTIONS_H

#include "apiserver/api.h"

/* How resourceVersion is meant. */
enum list_match {
    MATCH_LATEST,    /* none was given: everything that was acknowledged */
    MATCH_ANY,       /* "0" */
    MATCH_NOT_OLDER, /* at least that new */
    MATCH_EXACT,     /* as it was then */
};

struct list_options {
    const struct selector *selector; /* NULL: all */
    int64_t limit;                   /* 0: none */
    struct str token;                /* `continue`, or empty */
    int64_t rev;                     /* 0: none */
    enum list_match match;
    bool bookmarks;
    bool initial_set, initial;       /* sendInitialEvents */
    int64_t timeout_s;               /* 0: none */
};

/* On failure the answer can be given by list_options_fail(), with all that is wrong. */
int list_options_read(struct api_request *q, bool watch, struct list_options *ret, struct field_errors *errors, struct err *err) NODISCARD;
void list_options_fail(struct api_request *q, const struct field_errors *errors, const struct err *err);
/* A version that is not there yet: clients know this Timeout by its cause, and ask again. */
json_t *list_too_large(int64_t wanted, int64_t current);

#endif
