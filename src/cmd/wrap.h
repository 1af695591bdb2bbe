/* Text of --help, broken at spaces so that it fits a terminal of WRAP_WIDTH columns.
 *
 * Writes to stdout. Threads: one, as stdout has no other writer then. No errors: who prints looks
 * at stdout when all is said.
 */
#ifndef SEKI_CMD_WRAP_H
#define SEKI_CMD_WRAP_H

#include "base/str.h"

#define WRAP_WIDTH 100 /* columns; a word that is longer than a line stands out */

/* The line has `at` columns already; further ones begin at column `indent`. Ends the line. Columns
 * are code points. */
void wrap_print(struct str text, size_t at, size_t indent);
/* Paragraphs: lines that follow on each other are one text, and broken anew; those that begin with
 * a space (examples), and empty ones, stay as they are. */
void wrap_print_paragraphs(struct str text);

#endif
