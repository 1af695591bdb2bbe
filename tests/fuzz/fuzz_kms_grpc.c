/* A connection of the plugin for secrets: what anybody sends, first byte 0, or one message to a method, or a question at the control socket. Nothing that was made up opens. */
#include "fuzz.h"

#include <stdlib.h>

#include "kms/grpc.h"
#include "kms/server.h"

static enum grpc_status on_call(void *arg, struct str path, struct str message, struct sbuf *out, struct err *why)
{
    return kms_answer(arg, path, message, out, why);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const paths[] = {KMS_METHOD_PREFIX "Status", KMS_METHOD_PREFIX "Encrypt", KMS_METHOD_PREFIX "Decrypt"};
    struct kms_keys k = {.count = 1, .key[0] = {{1, 2}, {{3, 4}}}, .scope = "uid"}, told;
    struct err why = ERR_INIT;
    CLEANUP(sbuf_deinit) struct sbuf out = {0};
    sbuf_init(&out, 1 << 20);
    if (size < 1 || size > 1 << 17)
        return 0;
    struct str rest = str_n(data + 1, size - 1);
    if (data[0] == 0) {
        struct grpc_conn *c = grpc_conn_new(on_call, &k);
        if (grpc_feed(c, rest, NULL) == 0)
            (void)grpc_take(c, &out, 1 << 19);
        grpc_conn_free(c);
    } else if (data[0] == 1) {
        (void)!kms_question(rest, &told, NULL);
    } else {
        size_t method = data[0] % 3;
        enum grpc_status status = kms_answer(&k, str_of(paths[method]), rest, &out, &why);
        if (status != GRPC_OK ? out.len || !why.msg[0] : method == 2)
            abort();
    }
    return k.opened ? abort(), 0 : 0;
}
