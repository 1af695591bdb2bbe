#include "apiserver/accept.h"

#define FULL_QUALITY 1000

/* "0.8" → 800. What is no number counts as 1, as clients mean it. */
static int quality(struct str text)
{
    int value = 0, scale = FULL_QUALITY;
    if (!text.len || (text.ptr[0] != '0' && text.ptr[0] != '1'))
        return FULL_QUALITY;
    value = (text.ptr[0] - '0') * FULL_QUALITY;
    for (size_t i = 2; i < text.len && i < 5 && text.ptr[1] == '.' && text.ptr[i] >= '0' && text.ptr[i] <= '9'; i++)
        value += (text.ptr[i] - '0') * (scale /= 10);
    return value > FULL_QUALITY ? FULL_QUALITY : value;
}

static bool take_form(struct str type, unsigned offers, enum accept_form *ret)
{
    if (str_ieq(type, STR("application/json")) || str_ieq(type, STR("*/*")) || str_ieq(type, STR("application/*")))
        *ret = ACCEPT_JSON;
    else if ((offers & OFFER_YAML) && str_ieq(type, STR("application/yaml")))
        *ret = ACCEPT_YAML;
    else if ((offers & OFFER_OPENAPI_V2) && (str_ieq(type, STR(ACCEPT_OPENAPI_V2)) || str_ieq(type, STR(ACCEPT_OPENAPI_V2_OLD))))
        *ret = ACCEPT_PROTOBUF;
    else if ((offers & OFFER_NDJSON) && str_ieq(type, STR("application/x-ndjson")))
        *ret = ACCEPT_NDJSON;
    else
        return false;
    return true;
}

/* as=, g= and v= of one clause name a form that there is. */
static bool take_as(struct str as, struct str group, struct str version, unsigned offers, struct accept *ret)
{
    static const struct {
        enum accept_offer offer;
        const char *group, *version, *name;
        enum accept_as as;
    } known[] = {
        {OFFER_META, "meta.k8s.io", "v1", "Table", AS_TABLE},
        {OFFER_META, "meta.k8s.io", "v1beta1", "Table", AS_TABLE},
        {OFFER_META, "meta.k8s.io", "v1", "PartialObjectMetadata", AS_METADATA},
        {OFFER_META, "meta.k8s.io", "v1beta1", "PartialObjectMetadata", AS_METADATA},
        {OFFER_META, "meta.k8s.io", "v1", "PartialObjectMetadataList", AS_METADATA_LIST},
        {OFFER_META, "meta.k8s.io", "v1beta1", "PartialObjectMetadataList", AS_METADATA_LIST},
        {OFFER_DISCOVERY, "apidiscovery.k8s.io", "v2", "APIGroupDiscoveryList", AS_DISCOVERY},
        {OFFER_DISCOVERY, "apidiscovery.k8s.io", "v2beta1", "APIGroupDiscoveryList", AS_DISCOVERY},
    };
    for (size_t i = 0; i < ARRAY_LEN(known); i++)
        if ((offers & known[i].offer) && str_eqc(as, known[i].name) && str_eqc(group, known[i].group) && str_eqc(version, known[i].version)) {
            ret->as = known[i].as;
            ret->version = known[i].version;
            return true;
        }
    return false;
}

/* One clause; false when it asks for what there is not. */
static bool take_clause(struct str clause, unsigned offers, struct accept *ret, int *ret_quality)
{
    struct str part, type = STR_NULL, as = STR_NULL, group = STR_NULL, version = STR_NULL;
    *ret = (struct accept){.version = ""};
    *ret_quality = FULL_QUALITY;
    if (!str_cut(&clause, ';', &type) || !take_form(str_trim(type), offers, &ret->form))
        return false;
    while (str_cut(&clause, ';', &part)) {
        struct str name;
        part = str_trim(part);
        if (!str_cut(&part, '=', &name))
            continue;
        name = str_trim(name);
        part = str_trim(part);
        if (str_eqc(name, "as"))
            as = part;
        else if (str_eqc(name, "g"))
            group = part;
        else if (str_eqc(name, "v"))
            version = part;
        else if (str_ieq(name, STR("q")))
            *ret_quality = quality(part);
    }
    return *ret_quality > 0 && (!as.len || take_as(as, group, version, offers, ret));
}

int accept_parse(struct str header, unsigned offers, struct accept *ret, struct err *err)
{
    struct str clause;
    int best = 0, q;
    *ret = (struct accept){.version = ""};
    if (!str_trim(header).len)
        return 0;
    while (str_cut(&header, ',', &clause)) {
        struct accept found;
        clause = str_trim(clause);
        if (clause.len && take_clause(clause, offers, &found, &q) && q > best) {
            *ret = found;
            best = q;
        }
    }
    if (best)
        return 0;
    return err_set(err, ERR_NOT_ACCEPTABLE, "only the following media types are accepted: application/json%s%s%s%s", offers & OFFER_YAML ? ", application/yaml" : "",
                   offers & OFFER_NDJSON ? ", application/x-ndjson" : "",
                   offers & OFFER_META ? ", application/json;as=Table;v=v1;g=meta.k8s.io, application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io, "
                                         "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io" : "",
                   offers & OFFER_DISCOVERY ? ", application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList" : "");
}
