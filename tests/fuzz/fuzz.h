/* The entry point of every fuzz target, called once per input. */
#ifndef SEKI_TESTS_FUZZ_FUZZ_H
#define SEKI_TESTS_FUZZ_FUZZ_H

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
