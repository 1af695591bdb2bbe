/* The usage ledger against the engines' own counters.
 *
 *   reading (what an engine says it has read and written so far) ─┐
 *   attempts of usage records, by replica ────────────────────────┴─► more, fewer, or the same
 *
 * Everything is counted from a first reading on, the baseline; a counter that falls, or an engine
 * that was started anew, begins a new one. Attempts that run while a reading is made may be in its
 * counters, or not, or in part: what is compared is a lowest and a highest sum, and only what lies
 * outside of both is a difference. While an engine works on requests their records are waited for.
 * A difference is told when two comparisons in a row have it (a client that reads slowly is
 * recorded long after its engine has done with it), once.
 *
 * Memory: an attempt is kept by itself (some 50 bytes) for 20 seconds after its end, and for as
 * long as it may be in a reading that waits in part, so as many as an engine works on at once; all
 * others are a sum, however long a reading waits or the gateway's records are behind. There is no
 * bound beside that: who would be put into the sums before that time could be missing in a reading,
 * or be in one that has not made it, and a false difference be told.
 *
 * Pure but for memory: no clock, no I/O. Threads: one.
 */
#ifndef SEKI_BILLING_RECONCILE_H
#define SEKI_BILLING_RECONCILE_H

#include "ledger/usage.h"

#define RECONCILE_SETTLE_MS 2000    /* after a reading, until the records of what it counted are in the ledger */
#define RECONCILE_GIVE_UP_MS 900000 /* what ran then has still not ended: compared anew from that reading on */

struct engine_reading {
    const char *replica; /* "PROJECT/NAME" */
    int64_t from_ms, at_ms; /* wall clock: asked, and answered */
    int64_t started_ms;  /* of the engine; another one is another engine */
    int64_t running;     /* requests that it worked on; -1: it does not say */
    int64_t read, written;
    bool counts_cached;  /* read has what was found in its cache */
};

enum reconcile_outcome { RECONCILE_BEGUN, RECONCILE_EQUAL, RECONCILE_UNSEEN, RECONCILE_DIFFERS, RECONCILE_SKIPPED };
struct reconcile_result {
    const char *replica; /* until the next call */
    enum reconcile_outcome outcome;
    int64_t read, written; /* above 0: the engine's counters have more than the records, and it was told before by so much less */
    size_t inexact;        /* attempts since then whose engine did not tell what it made. UNSEEN: they are why; DIFFERS: there are none, or they are no reason */
};

struct reconcile;
struct reconcile *reconcile_new(void);
void reconcile_free(struct reconcile *r);
/* A record of the usage ledger; each once, in any order. */
void reconcile_count(struct reconcile *r, const struct usage *u, int64_t now_ms);
/* A newer reading of its replica is taken, an older or known one is not. BEGUN is told by the next reconcile_step(). */
void reconcile_reading(struct reconcile *r, const struct engine_reading *e, int64_t now_ms);
/* When all records of before now_ms were counted: the next replica about which there is something to say. */
bool reconcile_step(struct reconcile *r, int64_t now_ms, struct reconcile_result *ret);
/* A replica that is gone. */
void reconcile_forget(struct reconcile *r, bool (*known)(void *arg, const char *replica), void *arg);

#endif
