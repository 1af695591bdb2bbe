/* The files of a data directory that go into a backup as they are. */
#ifndef SEKI_BACKUP_TREE_H
#define SEKI_BACKUP_TREE_H

#include <sys/stat.h>

#include "base/vec.h"
#include "backup/backup.h"

struct tree_file {
    char *path; /* relative */
    struct stat st;
};
struct tree {
    VEC(struct tree_file) files; /* in the order of their paths */
};

/* root_key: with the directory of the key that all secrets hang on. */
int tree_read(const char *dir, bool root_key, struct tree *ret, struct err *err) NODISCARD;
void tree_deinit(struct tree *t); /* also for CLEANUP */
/* NULL; or the path of the first file that is new, gone or changed. */
const char *tree_difference(const struct tree *a, const struct tree *b);
/* 0; or ERR_EXISTS with the name of something in the directory, beside RESTORE_MARK. */
int tree_check_empty(const char *dir, struct err *err) NODISCARD;

#endif
