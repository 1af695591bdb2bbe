/* The form of what goes over the control socket (server.h). Between the files of this folder. */
#ifndef SEKI_KMS_CONTROL_H
#define SEKI_KMS_CONTROL_H

#include "kms/server.h"

#define CONTROL_MAGIC "SEKIKMS1"
#define CONTROL_KEY_BYTES (ENVELOPE_ID_BYTES + ENVELOPE_KEY_BYTES)
#define CONTROL_QUESTION_MAX (9 + KMS_KEYS_MAX * CONTROL_KEY_BYTES)
#define CONTROL_ANSWER_MAX (9 + 3 * 8 + KMS_KEYS_MAX * ENVELOPE_ID_BYTES)

void control_answer(const struct kms_keys *k, struct sbuf *out);

#endif
