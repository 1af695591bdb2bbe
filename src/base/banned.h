/* Functions that are compile errors here, each because a safe one exists.
 *
 * strcpy, strcat, sprintf, strncpy: sbuf or snprintf.  strtok: str_cut.  atoi and family: str_to_i64.
 * gmtime, localtime: the _r forms.  system, popen: posix_spawn.  alloca: arena_alloc.
 * The headers that declare them come first, so that the macros never meet a declaration. A call names an
 * identifier that exists nowhere, and the compiler prints it.
 */
#ifndef SEKI_BASE_BANNED_H
#define SEKI_BASE_BANNED_H

#include <alloca.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define BANNED(function) sorry_##function##_is_a_banned_function

#undef strcpy
#define strcpy(to, from) BANNED(strcpy)
#undef strcat
#define strcat(to, from) BANNED(strcat)
#undef strncpy
#define strncpy(to, from, n) BANNED(strncpy)
#undef strncat
#define strncat(to, from, n) BANNED(strncat)
#undef strtok
#define strtok(s, delimiters) BANNED(strtok)
#undef sprintf
#define sprintf(...) BANNED(sprintf)
#undef vsprintf
#define vsprintf(...) BANNED(vsprintf)
#undef gets
#define gets(buffer) BANNED(gets)
#undef atoi
#define atoi(s) BANNED(atoi)
#undef atol
#define atol(s) BANNED(atol)
#undef atoll
#define atoll(s) BANNED(atoll)
#undef atof
#define atof(s) BANNED(atof)
#undef gmtime
#define gmtime(t) BANNED(gmtime)
#undef localtime
#define localtime(t) BANNED(localtime)
#undef system
#define system(command) BANNED(system)
#undef popen
#define popen(command, mode) BANNED(popen)
#undef alloca
#define alloca(size) BANNED(alloca)

#endif
