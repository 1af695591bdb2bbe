/* Heads of requests to a gate: any bytes are refused with a reason, or name a kubelet or a pod of the cluster. */
#include "fuzz.h"

#include "node/node_gate.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct gate_reach reach = {0x0ac90000, 0xffffff00, 0x0af40000, 0xffff0000, 0x0ac90001};
    struct err err = ERR_INIT;
    uint32_t address = 0;
    uint16_t port = 0;
    int rc = gate_target(&reach, str_n((const char *)data, size), &address, &port, &err);
    if (rc < 0) {
        if (!err.msg[0] || (rc != ERR_INVALID && rc != ERR_FORBIDDEN))
            abort();
        return 0;
    }
    if (!port || !((address >> 16 == 0x0af4) || (address >> 8 == 0x0ac900 && address != 0x0ac90001 && port == GATE_KUBELET_PORT)))
        abort();
    return 0;
}
