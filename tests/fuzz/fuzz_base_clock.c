/* Times and durations: what is accepted survives being written and read again. */
#include "fuzz.h"

#include "base/clock.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int64_t ms, again;
    struct str text = str_n(data, size);
    if (clock_parse(text, &ms) == 0) {
        char written[CLOCK_TEXT_MAX];
        clock_format(ms, written);
        /* An offset can lead out of the years that have four digits; those are shown as the
         * nearest. */
        bool in_range = ms >= -62167219200000 && ms < 253402300800000;
        if (clock_parse(str_of(written), &again) < 0 ||
            (in_range && (ms - again < 0 || ms - again > 999)))
            abort();
    }
    if (clock_parse_duration(text, &ms) == 0 && ms == INT64_MIN)
        abort();
    return 0;
}
