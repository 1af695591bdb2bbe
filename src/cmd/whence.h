/* From where somebody sits at this command: what the login server told his shell of the address he came from, and his terminal.
 *
 * SSH_CONNECTION of this process, or, where sudo left it out, of the nearest process above it that has it and may be read (/proc/PID/environ). It is what the session says of itself:
 * who is root here can make it say anything. Threads: any. No errors: what is not known is "".
 */
#ifndef SEKI_CMD_WHENCE_H
#define SEKI_CMD_WHENCE_H

#include "base/arena.h"

/* An address without its port, or "". */
const char *whence_address(struct arena *a);
/* "seki break-glass on HOST, TERMINAL". */
const char *whence_agent(struct arena *a, const char *command);
/* Of an environment as /proc shows it: NAME=VALUE, each ended by NUL. An address, or empty. */
struct str whence_in(struct str environment);
/* The parent of the process whose /proc/PID/stat this is; 0: none, or it is no such text. */
int whence_parent(struct str stat);

#endif
