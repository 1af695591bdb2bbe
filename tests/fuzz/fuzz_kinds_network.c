/* Networks of a Cluster. What is taken is written back as it was, and lies where it says; the second line is another, and overlapping has no side. */
#include "fuzz.h"

#include "kinds/kaas.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > 256)
        return 0;
    char text[257], again[24], first[16];
    memcpy(text, data, size);
    text[size] = 0;
    char *second = strchr(text, '\n');
    if (second)
        *second++ = 0;
    struct cluster_network a, b;
    struct err err = ERR_INIT;
    int rc = cluster_network_parse(text, &a, &err);
    if (rc < 0 ? rc != ERR_INVALID || !err.msg[0] : err.code != 0)
        abort();
    if (rc < 0)
        return 0;
    cluster_network_address(&a, 0, first);
    snprintf(again, sizeof(again), "%s/%d", first, a.bits);
    if (cluster_network_parse(again, &b, NULL) < 0 || a.first != b.first || a.bits != b.bits || !cluster_networks_overlap(&a, &b))
        abort();
    if (second && cluster_network_parse(second, &b, NULL) == 0 && cluster_networks_overlap(&a, &b) != cluster_networks_overlap(&b, &a))
        abort();
    return 0;
}
