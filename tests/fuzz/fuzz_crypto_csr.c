/* Requests for certificates: any bytes are refused with a reason, or ask for nothing but what is allowed. */
#include "fuzz.h"

#include "crypto/csr.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const names[] = {"workers-0", NULL}, *const ips[] = {"10.201.0.10", NULL};
    static const struct csr_allowed allowed = {"system:node:workers-0", "system:nodes", names, ips};
    struct err err = ERR_INIT;
    int rc = csr_check(str_n((const char *)data, size), &allowed, &err);
    if (rc < 0 && (!err.msg[0] || (rc != ERR_INVALID && rc != ERR_FORBIDDEN)))
        abort();
    return 0;
}
