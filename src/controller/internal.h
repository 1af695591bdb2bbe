/* Between the files of this folder. */
#ifndef SEKI_CONTROLLER_INTERNAL_H
#define SEKI_CONTROLLER_INTERNAL_H

#include "controller/controller.h"

/* Records Events: what happens again grows the count of one object; an object that has too much to say is cut short. Per object and reason at most RECORDER_TEXTS_MAX
 * different messages in RECORDER_WINDOW_MS (further ones share one event, with the latest message), and a burst of RECORDER_BURST, then one every RECORDER_REFILL_MS. What is remembered
 * for that is bounded. Best effort: an event that cannot be written is lost. Threads: any; calls block. */
#define RECORDER_BURST 25
#define RECORDER_REFILL_MS 10000u
#define RECORDER_TEXTS_MAX 10
#define RECORDER_WINDOW_MS 600000u
#define RECORDER_REMEMBERED_MAX 1024
struct recorder;
struct recorder *recorder_new(struct client *c);
void recorder_free(struct recorder *r);
void recorder_event(struct recorder *r, const json_t *obj, const char *type, const char *reason, const char *message);
size_t recorder_remembered(struct recorder *r); /* tests */

#endif
