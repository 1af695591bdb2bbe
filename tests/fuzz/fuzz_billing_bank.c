/* The bank's file: refused, or a bank that answers, and gives nothing that the file says is outstanding. */
#include "fuzz.h"

#include <stdlib.h>
#include <unistd.h>

#include "billing/bank.h"

#define AMOUNT 1000

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct err err = ERR_INIT;
    char path[64];
    JSON_AUTO answer = NULL;
    bool behind;
    snprintf(path, sizeof(path), "/tmp/seki-fuzz-bank.%d", (int)getpid());
    struct bank *b = bank_new(path, 30000);
    if (bank_read(b, str_n((const char *)data, size), &err) < 0 && !err.msg[0])
        abort();
    JSON_AUTO ask = json_pack("{s:s, s:s, s:i, s:i, s:[{s:s, s:s, s:s, s:s, s:s, s:s, s:i, s:i, s:i, s:i, s:i, s:i}]}", "gateway", "new", "incarnation", "1", "turn", 1, "sequence", 0, "budgets",
                              "name", "key|a|k|Total|EUR", "scope", "key", "project", "a", "owner", "k", "period", "Total", "currency", "EUR", "number", 0, "amount", AMOUNT, "held", 0, "left", 0,
                              "need", AMOUNT, "needLeast", 1);
    if (bank_lease(b, ask, &answer, &behind, &err) == 0) {
        int64_t grant = json_int(json_array_get(json_object_get(answer, "budgets"), 0), "grant", -1);
        if (grant < 0 || grant > AMOUNT)
            abort();
    }
    bank_free(b);
    (void)unlink(path);
    return 0;
}
