/* Rules of roles as sets: whether some rules allow all that others allow, and what is missing.
 *
 * Rules are documents as they lie in roles: {verbs, apiGroups, resources, resourceNames, nonResourceURLs}. Members of a wrong type count as empty; a rule that is
 * broken so allows nothing. Pure functions; threads: any.
 */
#ifndef SEKI_POLICY_RULES_H
#define SEKI_POLICY_RULES_H

#include "json/json.h"

struct rbac_request;

/* user, groups and namespace of q do not matter here. */
bool rule_allows(const json_t *rule, const struct rbac_request *q);

/* What of `wanted` (a list of rules) no rule of `held` allows, one resource or path a rule, verbs joined; a new list, empty when held covers wanted. Each thing that is wanted
 * must be allowed by one rule of held as a whole: "*" is covered by "*" alone, a rule for all names by none that has names. Lists too large to be compared in a
 * bounded time are taken for missing. */
json_t *rules_missing(const json_t *held, const json_t *wanted);

/* One rule a line, sorted, as Kubernetes writes them in its messages: {APIGroups:["a"], Resources:["b"], Verbs:["get" "list"]}. */
void rules_text(const json_t *rules, struct sbuf *out);

/* Appends the rules that are not in the list yet. */
void rules_add(json_t *list, const json_t *rules);

/* A LabelSelector (matchLabels, matchExpressions) on labels. An empty one selects everything, as Kubernetes has it; a broken one nothing. */
bool rules_select(const json_t *selector, const json_t *labels);

#endif
