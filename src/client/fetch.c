#include "client/fetch.h"

#include <curl/curl.h>
#include <pthread.h>

#include "base/mem.h"
#include "client/curl_internal.h"

#define BODY_MAX_DEFAULT (1024 * 1024)

static pthread_once_t once = PTHREAD_ONCE_INIT;
static void init(void)
{
    curl_global_init(CURL_GLOBAL_DEFAULT);
}
void curl_once(void)
{
    pthread_once(&once, init);
}

int curl_error(int code, const char *text, const char *url, struct err *err)
{
    int mine = code == CURLE_OPERATION_TIMEDOUT                                                        ? ERR_TIMEOUT
               : code == CURLE_WRITE_ERROR                                                             ? ERR_TOO_LARGE
               : code == CURLE_COULDNT_CONNECT || code == CURLE_GOT_NOTHING || code == CURLE_RECV_ERROR ? ERR_CLOSED
               : code == CURLE_ABORTED_BY_CALLBACK                                                     ? ERR_CANCELED
                                                                                                       : ERR_IO;
    return err_set(err, mine, "%s: %s", url, *text ? text : curl_easy_strerror((CURLcode)code));
}

static size_t on_data(char *data, size_t size, size_t count, void *arg)
{
    struct sbuf *b = arg;
    sbuf_add(b, str_n(data, size * count));
    return sbuf_ok(b) ? size * count : 0;
}

static void set_address(CURL *h, const char *address, struct sbuf *url, const char *path)
{
    if (!strncmp(address, "unix:", 5)) {
        curl_easy_setopt(h, CURLOPT_UNIX_SOCKET_PATH, address + 5);
        sbuf_addf(url, "http://localhost%s", path);
    } else {
        sbuf_addf(url, "%s%s", address, path);
    }
    curl_easy_setopt(h, CURLOPT_URL, url->ptr);
}

int fetch(const struct fetch_options *o, int *ret_status, char **ret_body, size_t *ret_len, struct err *err)
{
    curl_once();
    CURL *h = curl_easy_init();
    if (!h)
        return err_set(err, ERR_NO_MEMORY, "out of memory");
    char text[CURL_ERROR_SIZE] = "";
    CLEANUP(sbuf_deinit) struct sbuf url = {0};
    CLEANUP(sbuf_deinit) struct sbuf body = {0};
    sbuf_init(&url, 8192);
    sbuf_init(&body, o->max_body_bytes ? o->max_body_bytes : BODY_MAX_DEFAULT);
    set_address(h, o->address, &url, o->path);
    curl_easy_setopt(h, CURLOPT_ERRORBUFFER, text);
    curl_easy_setopt(h, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(h, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(h, CURLOPT_PROXY, "");
    curl_easy_setopt(h, CURLOPT_TIMEOUT_MS, (long)o->timeout_ms);
    curl_easy_setopt(h, CURLOPT_WRITEFUNCTION, on_data);
    curl_easy_setopt(h, CURLOPT_WRITEDATA, &body);
    if (o->method)
        curl_easy_setopt(h, CURLOPT_CUSTOMREQUEST, o->method);
    if (o->ca_file)
        curl_easy_setopt(h, CURLOPT_CAINFO, o->ca_file);
    struct curl_slist *headers = NULL;
    if (o->body_json) {
        curl_easy_setopt(h, CURLOPT_POSTFIELDS, o->body_json);
        headers = curl_slist_append(headers, "Content-Type: application/json");
    }
    headers = curl_slist_append(headers, "Expect:");
    if (o->bearer) {
        CLEANUP(mem_freep) char *line = xasprintf("Authorization: Bearer %s", o->bearer);
        headers = curl_slist_append(headers, line);
        mem_wipe(line, strlen(line));
    }
    curl_easy_setopt(h, CURLOPT_HTTPHEADER, headers);
    CURLcode code = curl_easy_perform(h);
    long status = 0;
    curl_easy_getinfo(h, CURLINFO_RESPONSE_CODE, &status);
    curl_slist_free_all(headers);
    curl_easy_cleanup(h);
    if (code != CURLE_OK)
        return curl_error(code, text, url.ptr, err);
    if (ret_status)
        *ret_status = (int)status;
    if (ret_len)
        *ret_len = body.len;
    if (ret_body) {
        char *bytes = sbuf_take(&body);
        *ret_body = bytes ? bytes : xstrdup("");
    }
    return 0;
}
