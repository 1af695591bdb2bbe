/* Inference engines: how to start one, where it listens, whether it lives and makes progress.
 *
 * One ops struct a driver: llamacpp (llama-server, or the xllamacpp wheel through tools/engine/llamacpp-launcher.py), openai (a remote OpenAI-compatible server), vllm
 * (started here, or remote), sglang (remote), fake (tests/tools/fake_engine).
 * Drivers are pure but for probe() and poke(). Threads: any; those two block up to their deadline.
 */
#ifndef SEKI_ENGINE_ENGINE_H
#define SEKI_ENGINE_ENGINE_H

#include "base/arena.h"
#include "kinds/inference.h"
#include "net/reach.h"

struct engine_paths {
    const char *llama_server;   /* path or NULL: look on PATH */
    const char *vllm;           /* likewise */
    const char *engine_venv;    /* directory of the private virtual environment, or NULL */
    const char *launcher;       /* llamacpp-launcher.py */
    const char *fake_engine;    /* path of the fake engine, or NULL */
    const char *socket_dir;     /* 0700: engines' sockets and the keys of remote ones; only the system writes there */
    const char *site;           /* the Site where engines of this cloud stand; NULL or "": not said */
    const struct reach *remote; /* where engines elsewhere may be, besides the public internet; or NULL */
};

/* What to run. */
struct engine_plan {
    const char **argv;  /* NULL: nothing runs here (openai) */
    const char **env;
    const char *address;   /* "unix:/…" | "http://host:port" | "https://…" */
    const char *base_path; /* "/v1" */
    const char *engine_model;
    const char *token; /* openai: the server's bearer token, or NULL; filled in by the caller */
    const struct reach *remote; /* openai: as in engine_paths */
};

/* Where the engine of a replica listens: address, base_path and engine_model, and nothing else of the plan. It follows from the replica's spec and uid alone, whatever its status says;
 * gateway and controller ask the same. ERR_INVALID with the field when the spec names a place where no engine may be. Pure but for looking at links. */
int engine_where(const struct engine_paths *p, const struct model_replica *mr, const char *replica_uid, struct arena *a, struct engine_plan *ret, struct err *err) NODISCARD;

/* The file in which gateways keep whose the slots of a replica's engine are: DIR/REPLICA-UID.slots; it goes with the replica. */
const char *engine_slots_file(const struct engine_paths *p, const char *replica_uid, struct arena *a);

/* ---- secret.c: keys of engines elsewhere ----
 * DIR/REPLICA-UID.token, 0600: the address that the key is for, then the key. A key is never read for another address. */
#define ENGINE_SECRET_MAX (16 * 1024)
/* Writes when it is not there already. *ret_changed may be NULL. */
int engine_secret_write(const struct engine_paths *p, const char *replica_uid, const char *address, struct str key, bool *ret_changed, struct err *err) NODISCARD;
/* *ret in the arena. ERR_NOT_FOUND: there is none for this address. ERR_INVALID: no regular file of ours, or others may read it. */
int engine_secret_read(const struct engine_paths *p, const char *replica_uid, const char *address, struct arena *a, char **ret, struct err *err) NODISCARD;
void engine_secret_remove(const struct engine_paths *p, const char *replica_uid);
/* Removes the files of all that known() does not know. */
void engine_files_sweep(const struct engine_paths *p, bool (*known)(void *arg, struct str uid_prefix), void *arg);

/* Whether it is a server elsewhere. */
bool engine_is_remote(const struct engine_spec *e);

/* Token counts and running requests of a Prometheus text, by their names; false when a name is not there, or its value is no number from 0 to below 1e18. */
bool engine_metric(struct str text, const char *name, double *ret);
/* The same of all series of that name together. */
bool engine_metric_sum(struct str text, const char *name, double *ret);

/* The largest of them. */
bool engine_metric_max(struct str text, const char *name, double *ret);

#define ENGINE_HEALTH_UNKNOWN ((struct engine_health){.requests_running = -1, .requests_waiting = -1, .kv_used = -1, .tokens_read = -1, .tokens_written = -1, .tokens_total = -1})
/* What a probe found. Counters grow over the life of one engine process. */
struct engine_health {
    bool serving;             /* loaded, answers */
    int64_t requests_running; /* -1: unknown */
    int64_t tokens_read, tokens_written; /* its own count of what it did; -1: unknown */
    int64_t requests_waiting; /* in its own queue; -1: unknown */
    int64_t kv_used;          /* thousandths of its memory for keys and values, as far as it cannot be had at once; -1: unknown */
    int64_t tokens_total;     /* progress: tokens read and generated so far, and batches worked on, which shows a long prompt's progress; -1: unknown */
};

struct engine_tokens {
    int64_t read, written;
};

/* ---- tokenizer.c: asking an engine how many tokens a text has, where it did not tell by itself. Pure: who asks is the gateway ---- */
struct engine_tokenizer {
    const char *path;           /* of a POST, at the server's root; also of a chat, where takes_chats */
    const char *template_path;  /* makes a chat's messages the text that the model reads; NULL: there is none */
    bool takes_chats;
    bool named;                 /* questions name the model */
    const char *text;           /* the question's member with the text … */
    const char *prompt_members; /* … and further ones, with a prompt: "\"a\":1,"; or NULL … */
    const char *text_members;   /* … with the middle of an answer, where nothing may be put in front */
    const char *count;          /* the answer's member with the number; NULL: those of the list "tokens" are counted */
};
enum engine_question { ENGINE_ASK_TEXT, ENGINE_ASK_PROMPT, ENGINE_ASK_CHAT, ENGINE_ASK_TEMPLATE };
/* Into *out; value: JSON, a string or a chat's messages. Returns the path; NULL: it cannot be asked that. */
const char *engine_tokenizer_question(const struct engine_tokenizer *t, enum engine_question q, const char *model, struct str value, struct sbuf *out);
/* False: the answer is none that can be believed. */
bool engine_tokenizer_count(const struct engine_tokenizer *t, struct str answer, int64_t *ret);
/* The text, as a JSON string, from the answer to ENGINE_ASK_TEMPLATE. */
bool engine_tokenizer_prompt(struct str answer, struct str *ret);

struct engine_ops {
    const char *name;
    bool has_slots;          /* bodies may say which slot is used ("id_slot") and whether what is in it may be ("cache_prompt"); without a word it may not */
    bool can_continue;       /* an answer that has begun: a last message of the assistant, a prompt with text behind it. Only what follows is sent */
    const char *continue_members; /* of a chat's body, by which it is told so: "\"a\":1,"; NULL: it needs none */
    bool counts_cached;      /* its count of tokens read has those that it found in its cache */
    const struct engine_tokenizer *tokenizer; /* for streams that end without their usage; NULL: it has none */
    bool usage_by_answer;    /* of several answers or prompts each has a usage of its own in a stream, and a whole answer tells the first one's only */
    const char *salt_member; /* of a body: prompts with different ones share no cache; NULL: there is none */
    bool remote; /* runs elsewhere: at spec.engine.url, under the name spec.engine.remoteModel */
    bool remote_by_url; /* runs elsewhere when spec.engine.url is given */
    /* The command line for a replica, with mr->spec.adapter_files set; model_file is the first file's path (NULL for openai, fake). ERR_UNAVAILABLE with what to install when the engine is missing
     * from the machine. Pure but for looking at the file system. */
    int (*plan)(const struct engine_paths *p, const struct model_replica *mr, const char *replica_uid, const char *model_file,
                struct arena *a, struct engine_plan *ret, struct err *err);
    /* Health and progress counters; blocks up to timeout_ms. ERR_UNAVAILABLE: still loading; ERR_NOT_FOUND: a server elsewhere that
     * does not have the model; ERR_TIMEOUT, ERR_CLOSED: does not answer. */
    int (*probe)(const struct engine_plan *plan, uint64_t timeout_ms, struct engine_health *ret, struct err *err);
    /* One token of work, to prove liveness of an idle engine; never billed. *ret: how much it was, as far as the engine says. Blocks. */
    int (*poke)(const struct engine_plan *plan, enum engine_task task, uint64_t timeout_ms, struct engine_tokens *ret, struct err *err);
};

const struct engine_ops *engine_find(const char *driver); /* NULL: no such driver */

/* Liveness is token progress: feeds on probes and says when an engine is hung. Pure state machine; times are monotonic ms. */
struct engine_liveness {
    uint64_t last_progress_ms;
    uint64_t last_poke_ms;
    uint64_t busy_since_ms; /* requests run since then, as far as we saw; 0: none */
    int64_t tokens_total;
    int failed_probes;
};
enum engine_verdict { ENGINE_OK, ENGINE_NEEDS_POKE, ENGINE_HUNG };
/* probe_code: 0 or the probe's error. HUNG: no answer to 3 probes in a row, or requests running for stall_ms without a token.
 * NEEDS_POKE: idle for idle_ms, at most once in that time. */
enum engine_verdict engine_liveness_feed(struct engine_liveness *l, uint64_t now_ms, int probe_code, const struct engine_health *h, uint64_t stall_ms,
                                         uint64_t idle_ms);

#endif
