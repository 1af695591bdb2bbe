/* libcurl, for the files of this folder. */
#ifndef SEKI_CLIENT_CURL_INTERNAL_H
#define SEKI_CLIENT_CURL_INTERNAL_H

#include "base/err.h"

void curl_once(void); /* before any other use; any thread */
/* A CURLcode as an error. text: the handle's error buffer. over_bytes: the cap that the answer has passed, or 0. */
int curl_error(int code, const char *text, const char *url, size_t over_bytes, struct err *err);

#endif
