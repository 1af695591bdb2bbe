/* How many ways a grammar's rules may begin at once.
 *
 * An engine that writes by a grammar (GBNF: "root ::= item+") keeps at each point all ways in which
 * the text may go on. Rules that begin with each other, or with what may be empty, multiply those:
 * "r0 ::= r1 | r1" and so on to r40 is less than a kilobyte, and no engine ever has all of its
 * ways. So they are counted, for each place where something begins, as an engine would write them
 * out: of alternatives the sum, of elements in a row those of the first, and of the next one as
 * often as all before it may be empty. A rule that begins with itself counts once: engines refuse
 * those. What has no "::=", such as a grammar of Lark, is not looked at: its engines do not write
 * out. Pure; threads: any. Costs one copy of the text and some passes over it; only requests with a
 * grammar pay.
 */
#ifndef SEKI_GATEWAY_GRAMMAR_BOUND_H
#define SEKI_GATEWAY_GRAMMAR_BOUND_H

#include "base/str.h"

#define GRAMMAR_WAYS_MAX                                                                           \
    1000 /* of 1,024, by ten rules in a row, llama.cpp takes two seconds a token */
#define GRAMMAR_DEPTH_MAX 400 /* rules and groups within each other at their beginnings */

/* text: unescaped. More than GRAMMAR_WAYS_MAX: too many; -1: nested too deeply to tell. */
int64_t grammar_ways(struct str text);
/* The same of a regular expression, of which engines make such rules. */
int64_t pattern_ways(struct str text);

#endif
