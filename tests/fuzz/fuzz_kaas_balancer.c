/* A Service and an EndpointSlice of a tenant's: whatever is in them, a row for the gate comes of it, and an ingress that has the row's address or none. */
#include "fuzz.h"

#include "kaas/balancer.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    JSON_AUTO doc = NULL;
    if (json_parse(str_n((const char *)data, size), 65536, &doc, NULL) < 0 || !json_is_array(doc))
        return 0;
    json_t *service = json_array_get(doc, 0);
    if (!json_is_object(service) || !obj_name(service) || !obj_uid(service)) /* a list of the API has none without */
        return 0;
    CLEANUP(arena_freep) struct arena *a = arena_new(1 << 20);
    static const uint16_t own[] = {22, 0};
    const char *reason, *why;
    JSON_AUTO none = json_object();
    JSON_AUTO row = balancer_row(service, doc, "192.0.2.1", own);
    if (!row)
        abort();
    JSON_AUTO ingress = balancer_ingress(service, row, none, own, a, &reason, &why);
    if (json_array_size(ingress) > 1 || (json_array_size(ingress) && strcmp(json_str_or(json_array_get(ingress, 0), "ip", ""), "192.0.2.1") != 0))
        abort();
    return 0;
}
