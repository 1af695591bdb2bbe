/* Several answers or prompts in one request, of engines that tell what each of them used on its own (engine_ops.usage_by_answer): llama.cpp.
 *
 * In a stream each answer ends with a usage of its own, and their sum is what was used; of answers to one prompt each tells of the prompt, which was read once. An answer that is no
 * stream tells of the first one only, and nothing tells of the others: it is refused, as it could not be billed. Threads: the loop's.
 */
#ifndef SEKI_GATEWAY_ANSWERS_H
#define SEKI_GATEWAY_ANSWERS_H

#include <stdbool.h>

struct request;
struct snap_endpoint;
/* Why what is asked could not be counted where e served it, for people; NULL: it can be. */
const char *answers_uncountable(const struct request *q, const struct snap_endpoint *e);
/* 400 with that reason. */
void answers_refuse(struct request *q);
/* A stream of q's begins; its scan has just been begun. */
void answers_scan(struct request *q);

#endif
