/* Protobuf's wire form, as much as flat messages of texts, bytes and numbers need: a reader that cannot leave its input, and a writer.
 *
 * Groups (wire types 3 and 4, which proto3 has not) are refused; fixed32 and fixed64 are skipped. A number of the same field may come again: the caller takes the last one, as protobuf has it.
 * Source: protobuf.dev/programming-guides/encoding. Threads: any. Slices point into what is read.
 */
#ifndef SEKI_KMS_WIRE_H
#define SEKI_KMS_WIRE_H

#include "base/err.h"
#include "base/str.h"

enum wire_type { WIRE_NUMBER = 0, WIRE_FIXED64 = 1, WIRE_BYTES = 2, WIRE_FIXED32 = 5 };

struct wire_field {
    uint32_t number;
    enum wire_type type;
    uint64_t value;   /* of WIRE_NUMBER */
    struct str bytes; /* of WIRE_BYTES */
};
/* Takes the next field off *rest. 1: there is one; 0: the message is over; ERR_BAD_REQUEST: it is cut or no message. */
int wire_next(struct str *rest, struct wire_field *ret, struct err *err) NODISCARD;
/* Absent when empty, as proto3 has it. */
void wire_put_bytes(struct sbuf *out, uint32_t number, struct str bytes);
/* Absent when 0, likewise. */
void wire_put_number(struct sbuf *out, uint32_t number, uint64_t value);

#endif
