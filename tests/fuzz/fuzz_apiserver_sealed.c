/* Stored texts: whatever they are they become a document; a sealed part that was made up shuts it, and shows nothing. */
#include "fuzz.h"

#include "apiserver/sealing.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t id[ENVELOPE_ID_BYTES];
    struct str text = str_n(data, size);
    bool sealed = sealing_is_sealed(text, id);
    JSON_AUTO obj = sealing_open(STR("secrets/red/db"), text);
    if (!obj)
        abort();
    if (sealed != sealing_is_sealed(text, NULL) || (sealed && (!sealing_shut(obj) || !*sealing_shut(obj))))
        abort();
    if (!json_is_object(obj))
        return 0;
    JSON_AUTO secrets = sealing_take(kind_by_name("Secret"), obj);
    JSON_AUTO meta = json_copy(json_object_get(obj, "metadata"));
    if (json_object_get(obj, "data") || json_object_get(obj, "stringData"))
        abort();
    sealing_put(obj, secrets);
    return 0;
}
