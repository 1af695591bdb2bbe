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
    struct str to; /* a definition's name; empty: elsewhere */
    size_t next;   /* in the same definition */
    bool among_alternatives, is_whole;
};

static struct str unquoted(struct str s)
{
    return str_n(s.ptr + 1, s.len - 2);
}

int64_t schema_refs_define(struct schema_refs *r, struct str name)
{
    *VEC_PUSH(&r->definitions) = (struct schema_definition){
        .name = name.len ? unquoted(name) : STR_NULL, .first = NONE, .same = NONE};
    return (int64_t)r->definitions.len - 1;
}

void schema_refs_alternatives(struct schema_refs *r, int64_t in, int64_t n)
{
    r->definitions.ptr[in].alternatives += n;
}

int64_t schema_refs_mark(const struct schema_refs *r, int64_t in)
{
    return r->definitions.ptr[in].alternatives + (int64_t)r->references.len;
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
    *VEC_PUSH(&r->references) = (struct schema_reference){.to = name_of(target),
                                                          .next = r->definitions.ptr[in].first,
                                                          .among_alternatives = among_alternatives,
                                                          .is_whole = str_eqc(target, "#")};
    r->definitions.ptr[in].first = r->references.len - 1;
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
    if (!d && !ref->is_whole) /* engines refuse those that stand in the whole's own place */
        w->elsewhere += ref->among_alternatives;
    for (; d; d = d->same == NONE ? NULL : &w->r->definitions.ptr[d->same]) {
        int64_t weight = weigh(w, d);
        heaviest = MAX(heaviest, weight);
    }
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
    for (size_t i = d->first; i != NONE; i = w->r->references.ptr[i].next) {
        sum += weigh_target(w, &w->r->references.ptr[i]);
        sum = MIN(sum, (int64_t)SCHEMA_ALTERNATIVES_MAX + 1);
    }
    d->alternatives = sum;
    d->state = WEIGHED;
    return sum;
}

static void name_all(struct weighing *w)
{
    for (size_t i = 0; i < w->r->definitions.len; i++) {
        struct schema_definition *d = &w->r->definitions.ptr[i], *there;
        if (!d->name.ptr)
            continue;
        there = map_get(w->names, d->name);
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
    struct weighing w = {.r = r};
    bool too_many = false;
    if (r->definitions.len) {
        w.names = map_new(NULL);
        name_all(&w);
        VEC_FOREACH (&r->definitions, d)
            too_many |= weigh(&w, d) > SCHEMA_ALTERNATIVES_MAX;
        map_free(w.names);
    }
    VEC_DEINIT(&r->definitions);
    VEC_DEINIT(&r->references);
    return w.is_circle                          ? SCHEMA_REFS_CIRCLE
           : too_many                           ? SCHEMA_REFS_TOO_MANY
           : w.elsewhere > SCHEMA_ELSEWHERE_MAX ? SCHEMA_REFS_ELSEWHERE
                                                : SCHEMA_REFS_FINE;
}
