/* kubeconfig texts: an error or a client, and never a secret in the error. Files that a text names are not there. */
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>

#include "client/http_internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct client *c = NULL;
    struct err err = ERR_INIT;
    char ns[64] = "";
    if (size > 65536 || (size && memmem(data, size, "/dev/", 5)))
        return 0;
    int rc = client_kubeconfig_parse(str_n(data, size), "config", "/nonexistent", false, &c, ns, sizeof(ns), &err);
    if ((rc == 0) != (c != NULL) || (rc < 0 && (err.code != rc || !*err.msg || strstr(err.msg, "canary"))))
        abort();
    client_free(c);
    return 0;
}
