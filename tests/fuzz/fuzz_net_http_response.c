/* A response: the same laws as for a request. */
#define IS_REQUEST false
#include "fuzz_net_http_request.c"
