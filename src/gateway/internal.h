/* Inside the gateway: the process (gateway.c), its loops, routes (route.c), one request's life (request.c), answers of its own (answer.c). Threads: functions are their loop's, but for
 * those of a whole gateway (gateway.h). */
#ifndef SEKI_GATEWAY_INTERNAL_H
#define SEKI_GATEWAY_INTERNAL_H

#include "base/metrics.h"
#include "gateway/body.h"
#include "gateway/decisions.h"
#include "gateway/dispatch.h"
#include "gateway/feed.h"
#include "gateway/gateway.h"
#include "gateway/journal.h"
#include "gateway/kept_away.h"
#include "gateway/latency.h"
#include "gateway/open_requests.h"
#include "gateway/records.h"
#include "gateway/recount.h"
#include "gateway/refused.h"
#include "gateway/slices.h"
#include "gateway/slo.h"
#include "gateway/trace_export.h"
#include "ledger/audit_log.h"
#include "gateway/usage_scan.h"
#include "loop/thread.h"
#include "net/http_client.h"
#include "net/http_server.h"

struct gateway_metrics {
    struct metric *active;
    struct metric_family *requests;   /* route ("none": refused before it was known whose it is), status, outcome */
    struct metric_family *tokens;     /* project, endpoint, type */
    struct metric_family *duration;   /* operation, model, error */
    struct metric_family *first;      /* likewise */
    struct metric_family *per_token;  /* likewise */
    struct metric_family *upstream_errors; /* reason */
    struct metric_family *limited;         /* scope, unit */
    struct metric_family *hedges;          /* result */
    struct metric_family *recounts;        /* likewise */
    struct metric *put_aside, *fell_over, *queue_seconds, *hold_seconds;
    struct latency_metrics latency; /* by tenant and endpoint */
    struct slo_metrics slo;
};

/* The series that were counted last, for endpoints that share a place: see metric_series_again(). */
struct gateway_series {
    struct metric *requests, *duration, *first, *per_token, *input, *cached, *output;
    struct latency_memo latency;
    struct slo_memo slo;
};
#define SERIES_MEMOS 16

/* One thread with a listening socket of its own. All members are the thread's; other threads only put what is for it into inbox and leases, which have locks, and post to loop. */
struct gateway_loop {
    struct gateway *gateway;
    struct loop_thread *thread;
    struct loop *loop;
    struct http_server *server;
    struct snapshot *snapshot;
    unsigned long long version; /* of snapshot */
    struct map *pools;          /* a target's name → struct http_pool * */
    struct dispatch_inbox inbox;
    struct slices_inbox leases;
    struct gateway_series series[SERIES_MEMOS];
    struct records records; /* of this turn */
    struct recounts recounts;
    struct timer look; /* the first one's: at kept_away */
    bool stopping;
};

struct gateway {
    struct gateway_options o;
    struct net_addr bound;
    struct tls_ctx *upstream_tls; /* for engines behind https:// */
    struct feed *feed;
    struct journal *journal;
    struct open_requests *open; /* NULL: there is no file for them */
    struct slices *slices;
    struct load_report *report;
    struct audit_log *audit; /* refusals */
    struct kept_away *kept_away; /* those that come too often, which are counted */
    struct refused *refused;     /* their usage records */
    struct trace_export *traces; /* NULL: none are made */
    struct decision_log *decisions; /* NULL: there is none */
    char audit_name[64];
    struct gateway_metrics metrics;
    struct gateway_loop *loops;
    int loop_count;
    atomic_size_t connections; /* of all loops: the kernel spreads them unevenly */
    struct conn_shares shares; /* of them */
    pthread_mutex_t lock; /* guards draining */
    pthread_cond_t drained;
    int draining;
    bool handed_over; /* set before loops are told to drain */
    bool impatient; /* under lock: the drain is to end now */
};

/* What a path does. */
struct gateway_route {
    const char *method, *path;
    const char *name;      /* in usage records: "chat.completions" */
    const char *operation; /* OpenTelemetry's gen_ai.operation.name; NULL: no inference */
    const char *prompt;    /* the member that must be there */
    bool embeddings;       /* what is sent is read, and nothing is written */
    enum engine_task task; /* served by endpoints whose engines do this, and only by them */
    enum usage_dialect dialect;
    bool counts_only;      /* no text is made: nothing is charged */
    bool no_isolation;     /* engines take neither a slot nor a salt from its bodies */
    void (*handle)(struct gateway_loop *l, struct http_request *r, const struct snap_key *k); /* routes without inference */
};
extern const struct http_server_ops gateway_server_ops;

/* ---- request.h: from the complete body to the last line ---- */
struct request;
/* Why a key that is known is of no use; false: it is. */
struct key_fault {
    int status;
    const char *code, *rule, *message;
};
bool gateway_key_fault(const struct snap_key *k, struct key_fault *ret); /* k NULL: there is none */
/* On the head, once the key is known; r->user is then the request. */
struct request *request_new(struct gateway_loop *l, struct http_request *r, const struct gateway_route *route, const struct snap_key *key);
bool request_admit(struct request *q); /* on the head; false: answered */
bool request_grow(struct request *q, size_t bytes); /* its body is so long now; likewise */
bool request_hold_answer(struct request *q, size_t bytes); /* its answer, which is no stream, is to be so long; likewise */
void request_begin(struct request *q); /* the body is here */
void request_forget(struct request *q); /* it will never come whole */
void request_drain(struct request *q); /* the client takes bytes again */
void request_abort(struct request *q); /* the client is gone, or the gateway stops */
bool request_has_begun(const struct request *q);

/* ---- answer.c: errors, in OpenAI's shape or Anthropic's ---- */
#define JSON_TYPE "application/json"
/* type and code are OpenAI's words; code and param may be NULL; retry_after: in seconds, NULL: 1 with status 503, else none. */
void answer_error_body(struct sbuf *out, enum usage_dialect d, int status, const char *type, const char *code, const char *param, struct str message, const char *request_id);
/* The dialect that whoever asks for this path speaks. */
enum usage_dialect route_dialect(struct str path);
void answer_error(struct http_request *r, int status, const char *type, const char *code, const char *param, const char *retry_after, const char *message);
/* With the headers that tell what is left of limits; NULL: none. */
void answer_error_limited(struct http_request *r, const struct limit *limits, int status, const char *type, const char *code, const char *param, const char *retry_after, const char *message);
/* The same before there is a struct request; counted here. */
void answer_refusal(struct gateway_loop *l, struct http_request *r, int status, const char *type, const char *code, const char *message);
/* 405; allow: "GET, HEAD". */
void answer_wrong_method(struct gateway_loop *l, struct http_request *r, const char *allow, const char *message);
void answer_server_error(void *ctx, const struct http_request *r, int status, const char *msg, struct sbuf *out, const char **ret_type);
/* Headers that tell what is left of the tightest rate of each unit; values in the arena. Returns how many. */
#define LIMIT_HEADERS_MAX 6
size_t answer_limit_headers(struct arena *a, const struct limit *limits, struct http_out_header ret[LIMIT_HEADERS_MAX]);
/* 429, in OpenAI's words. */
void answer_limited(struct http_request *r, const struct snap_key *k, const struct limit_refusal *why);
/* 429, in OpenAI's words: a budget is used up. In quota.c; request.c has the 503, nobody knows whether it is, and the 403, it cannot be counted. */
void answer_over_budget(struct http_request *r, const struct snap_key *k, const struct budget *b, int64_t wanted, int exponent);
void answer_models(struct gateway_loop *l, struct http_request *r, const struct snap_key *k);
void answer_model(struct gateway_loop *l, struct http_request *r, const struct snap_key *k);

/* Into the audit ledger: who was refused what, and by which rule. k NULL: who has no good key is known by his address. What was asked for is not in it, as it may be anything. */
void gateway_audit_refusal(struct gateway_loop *l, struct http_request *r, const struct snap_key *k, int status, const char *code, const char *rule);
/* Likewise, by a limit: 429. scope, unit: "key", "requests"; unit NULL: by a budget of money. */
void gateway_audit_limited(struct gateway_loop *l, struct http_request *r, const struct snap_key *k, const char *scope, const char *unit);
/* The newest snapshot, and no pools of replicas that are gone. */
void gateway_loop_refresh(struct gateway_loop *l);
/* The connection pool of a replica on this loop, at the address where it is now. */
struct http_pool *gateway_loop_pool(struct gateway_loop *l, const struct snap_replica *replica);

#endif
