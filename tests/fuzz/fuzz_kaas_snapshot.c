/* Names of backups, which come from an annotation, and what etcdctl says of a number of keys. A name that is taken has no way out of its directory and is a time. */
#include "fuzz.h"

#include "kaas/recovery.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char text[257];
    int64_t count = -1;
    if (size > 256)
        return 0;
    memcpy(text, data, size);
    text[size] = 0;
    if (snapshot_id_valid(text)) {
        if (strchr(text, '/') || strchr(text, '.') || strlen(text) >= BACKUP_ID_MAX || snapshot_id_ms(text) < 0)
            abort();
    } else if (snapshot_id_ms(text)) {
        abort();
    }
    if (snapshot_count_parse(str_n(text, size), &count) && count < 0)
        abort();
    return 0;
}
