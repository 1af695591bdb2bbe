#include "gateway/schema_refs.h"

#define NONE SIZE_MAX

enum state { NEW, BEING_WEIGHED, WEIGHED };

struct schema_definition {
    struct str name;
    int64_t alternatives; /* with what its references come to, once it is weighed */
    size_t first;         /* of its references */
    size_t same;          /* another definition of that name */
    enum state state;
};

struct schema_reference {
    int64_t in;
    struct str to; /* a definition's name; empty: elsewhere */
    size_t next;   /* in the same definition */
    bool among_alternatives;
};

static struct str unquoted(struct str s)
{
    return str_n(s.ptr + 1, s.len - 2);
}

int64_t schema_refs_define(struct schema_refs *r, struct str name)
{
    *VEC_PUSH(&r->definitions) = (struct schema_definition){
        .name = unquoted(name), .alternatives = 1, .first = NONE, .same = NONE};
    return (int64_t)r->definitions.len - 1;
}

void schema_refs_alternative(struct schema_refs *r, int64_t in)
{
    if (in >= 0)
        r->definitions.ptr[in].alternatives++;
}

/* The last part of a reference, when the one before it is where definitions are. */
static struct str name_of(struct str to)
{
    static const struct str places[] = {{"/$defs/", 7}, {"/definitions/", 13}};
    size_t at = to.len;
    while (at && to.ptr[at - 1] != '/')
        at--;
    for (size_t i = 0; i < ARRAY_LEN(places); i++)
        if (at >= places[i].len &&
            str_eq(str_n(to.ptr + at - places[i].len, places[i].len), places[i]))
            return str_skip(to, at);
    return STR_NULL;
}

void schema_refs_add(struct schema_refs *r, int64_t in, bool among_alternatives, struct str to)
{
    struct str target = unquoted(to);
    size_t own = r->references.len;
    if (str_eqc(target, "#") || (in < 0 && !among_alternatives))
        return; /* whoever refers to the whole from its own place is refused by engines */
    *VEC_PUSH(&r->references) = (struct schema_reference){
        .in = in, .to = name_of(target), .next = NONE, .among_alternatives = among_alternatives};
    if (in < 0)
        return;
    r->references.ptr[own].next = r->definitions.ptr[in].first;
    r->definitions.ptr[in].first = own;
}

struct weighing {
    struct schema_refs *r;
    struct map *names; /* → the first definition of that name */
    size_t elsewhere;
    bool is_circle;
};

static int64_t weigh(struct weighing *w, struct schema_definition *d);

static int64_t weigh_target(struct weighing *w, const struct schema_reference *ref)
{
    struct schema_definition *d = ref->to.len ? map_get(w->names, ref->to) : NULL;
    int64_t heaviest = 1;
    if (!d)
        w->elsewhere += ref->among_alternatives;
    for (; d; d = d->same == NONE ? NULL : &w->r->definitions.ptr[d->same])
        heaviest = MAX(heaviest, weigh(w, d));
    return heaviest;
}

/* As deep as there are references, of which there are SCHEMA_REFERENCES_MAX. */
static int64_t weigh(struct weighing *w, struct schema_definition *d)
{
    if (d->state == BEING_WEIGHED)
        w->is_circle = true;
    if (d->state != NEW)
        return d->alternatives;
    d->state = BEING_WEIGHED;
    int64_t sum = d->alternatives;
    for (size_t i = d->first; i != NONE; i = w->r->references.ptr[i].next)
        sum = MIN(sum + weigh_target(w, &w->r->references.ptr[i]),
                  (int64_t)SCHEMA_ALTERNATIVES_MAX + 1);
    d->alternatives = sum;
    d->state = WEIGHED;
    return sum;
}

static void name_all(struct weighing *w)
{
    for (size_t i = 0; i < w->r->definitions.len; i++) {
        struct schema_definition *d = &w->r->definitions.ptr[i],
                                 *there = map_get(w->names, d->name);
        if (there) {
            d->same = there->same;
            there->same = i;
        } else {
            map_set(w->names, d->name, d);
        }
    }
}

enum schema_refs_fault schema_refs_end(struct schema_refs *r)
{
    int64_t sum = 0;
    struct weighing w = {.r = r};
    if (r->references.len) {
        w.names = map_new(NULL);
        name_all(&w);
        VEC_FOREACH (&r->definitions, d)
            if (weigh(&w, d) > SCHEMA_ALTERNATIVES_MAX)
                sum = SCHEMA_ALTERNATIVES_MAX + 1;
        VEC_FOREACH (&r->references, ref)
            if (ref->in < 0)
                sum += weigh_target(&w, ref);
        map_free(w.names);
    }
    VEC_DEINIT(&r->definitions);
    VEC_DEINIT(&r->references);
    return w.is_circle                          ? SCHEMA_REFS_CIRCLE
           : sum > SCHEMA_ALTERNATIVES_MAX      ? SCHEMA_REFS_TOO_MANY
           : w.elsewhere > SCHEMA_ELSEWHERE_MAX ? SCHEMA_REFS_ELSEWHERE
                                                : SCHEMA_REFS_FINE;
}
