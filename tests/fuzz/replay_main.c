/* Runs a fuzz target over files: saved inputs are a regression test that needs no fuzzer.
 *
 * Usage: fuzz_NAME PATH...   where a directory stands for every file beneath it.
 */
#include <errno.h>
#include <ftw.h>

#include "base/file.h"
#include "base/mem.h"
#include "fuzz.h"

#define INPUT_MAX_BYTES ((size_t)16 << 20)
#define OPEN_DIRECTORIES 16

static size_t inputs;

static int replay(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)ftw;
    if (type != FTW_F)
        return 0;
    char *data = NULL;
    size_t len = 0;
    struct err err = ERR_INIT;
    if (file_read(path, INPUT_MAX_BYTES, &data, &len, &err) < 0) {
        fprintf(stderr, "%s: %s\n", path, err.msg);
        return -1;
    }
    /* A block of exactly that size, so that a sanitizer sees the first byte read past its end. */
    uint8_t *exact = xcalloc(1, len);
    if (len)
        memcpy(exact, data, len);
    mem_free(data);
    fprintf(stderr, "%s (%zu bytes)\n", path, len);
    LLVMFuzzerTestOneInput(exact, len);
    mem_free(exact);
    inputs++;
    return 0;
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: %s FILE|DIRECTORY...\n", argv[0]);
        return 2;
    }
    for (int i = 1; i < argc; i++) {
        if (nftw(argv[i], replay, OPEN_DIRECTORIES, FTW_PHYS) != 0) {
            fprintf(stderr, "%s: %s\n", argv[i], strerror(errno));
            return 1;
        }
    }
    printf("%zu inputs replayed\n", inputs);
    return inputs ? 0 : 1;
}
