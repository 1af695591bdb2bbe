/* Tokens of pages of a ledger: refused, or what is written of them is the same place. */
#include "fuzz.h"

#include "ledger/files.h"
#include "ledger/piece.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct err err = ERR_INIT;
    struct ledger_place p, again;
    char text[LEDGER_PLACE_TEXT];
    int rc = ledger_place_parse(str_n(data, size), &p, &err);
    if (rc < 0) {
        if (rc != ERR_INVALID || !err.msg[0])
            abort();
        return 0;
    }
    if (!p.file || p.file > 999999 || p.offset < LEDGER_FILE_HEAD_BYTES || p.offset > INT64_MAX)
        abort();
    ledger_place_write(&p, text);
    if (ledger_place_parse(str_of(text), &again, NULL) < 0 || again.file != p.file || again.offset != p.offset || again.sequence != p.sequence)
        abort();
    return 0;
}
