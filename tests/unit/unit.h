/* What every unit test includes first: cmocka, after the headers that it silently needs. */
#ifndef SEKI_TESTS_UNIT_UNIT_H
#define SEKI_TESTS_UNIT_UNIT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/err.h"

/* The call must succeed; shows the error's text where it does not. `err` is the caller's struct
 * err. */
#define ASSERT_OK(call)                                                                            \
    do {                                                                                           \
        int assert_rc_ = (call);                                                                   \
        if (assert_rc_ < 0)                                                                        \
            fail_msg("%s: %d: %s", #call, assert_rc_, err.msg);                                    \
    } while (0)
#define ASSERT_ERR(call, want) assert_int_equal((call), (want))

#endif
