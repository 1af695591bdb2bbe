#include "client/fetch.h"

#include <curl/curl.h>
#include <pthread.h>

#include "base/mem.h"
#include "client/curl_internal.h"
#include "client/http_internal.h"

#define BODY_MAX_DEFAULT (1024 * 1024)
#define URL_MAX 8192

static pthread_once_t once = PTHREAD_ONCE_INIT;
static void init(void)
{
    curl_global_init(CURL_GLOBAL_DEFAULT);
}
void curl_once(void)
{
    pthread_once(&once, init);
}

int curl_error(int code, const char *text, const char *url, size_t over_bytes, struct err *err)
{
    static const struct {
        CURLcode curl;
        int code;
        const char *what; /* put before curl's own words */
    } codes[] = {{CURLE_OPERATION_TIMEDOUT, ERR_TIMEOUT, ""},
                 {CURLE_COULDNT_CONNECT, ERR_CLOSED, ""},
                 {CURLE_GOT_NOTHING, ERR_CLOSED, ""},
                 {CURLE_SEND_ERROR, ERR_CLOSED, ""},
                 {CURLE_RECV_ERROR, ERR_CLOSED, ""},
                 {CURLE_PARTIAL_FILE, ERR_CLOSED, ""},
                 {CURLE_WEIRD_SERVER_REPLY, ERR_PROTOCOL, ""},
                 {CURLE_UNSUPPORTED_PROTOCOL, ERR_PROTOCOL, ""},
                 {CURLE_PEER_FAILED_VERIFICATION, ERR_UNAUTHENTICATED, "the server's certificate is not accepted: "},
                 {CURLE_SSL_PINNEDPUBKEYNOTMATCH, ERR_UNAUTHENTICATED, "the server's certificate is not the one that is expected: "},
                 {CURLE_SSL_CACERT_BADFILE, ERR_INVALID, "the certificate authority cannot be read: "},
                 {CURLE_SSL_CERTPROBLEM, ERR_INVALID, "the client certificate or its key cannot be used: "},
                 {CURLE_SSL_CONNECT_ERROR, ERR_PROTOCOL, "no TLS with the server: "}};
    if (over_bytes)
        return err_set(err, ERR_TOO_LARGE, "%s: the answer is larger than %zu KiB", url, over_bytes >> 10);
    if (code == CURLE_ABORTED_BY_CALLBACK)
        return err_set(err, ERR_CANCELED, "%s: canceled", url);
    const char *words = *text ? text : curl_easy_strerror((CURLcode)code);
    for (size_t i = 0; i < ARRAY_LEN(codes); i++)
        if ((int)codes[i].curl == code)
            return err_set(err, codes[i].code, "%s: %s%s", url, codes[i].what, words);
    return err_set(err, ERR_IO, "%s: %s", url, words);
}

static size_t on_data(char *data, size_t size, size_t count, void *arg)
{
    struct sbuf *b = arg;
    sbuf_add(b, str_n(data, size * count));
    return sbuf_ok(b) ? size * count : 0;
}

/* ---- guarded requests ---- */

struct guard {
    const struct reach *reach;
    bool tls, is_unix, refused;
};

/* Here and nowhere else is known where a name leads this time. */
static curl_socket_t open_socket(void *arg, curlsocktype purpose UNUSED, struct curl_sockaddr *a)
{
    struct guard *g = arg;
    if (a->family == AF_UNIX ? !g->is_unix : !reach_addr(g->reach, &a->addr, g->tls)) {
        g->refused = true;
        return CURL_SOCKET_BAD;
    }
    return socket(a->family, a->socktype | SOCK_CLOEXEC, a->protocol);
}

static int set_guard(CURL *h, const struct fetch_options *o, struct guard *g, struct err *err)
{
    *g = (struct guard){.reach = o->reach, .tls = !strncmp(o->address, "https://", 8), .is_unix = !strncmp(o->address, "unix:", 5)};
    if (!o->guarded)
        return 0;
    if (g->is_unix && !reach_unix(o->reach, o->address + 5))
        return err_set(err, ERR_FORBIDDEN, "%s may not be called", o->address);
    curl_easy_setopt(h, CURLOPT_OPENSOCKETFUNCTION, open_socket);
    curl_easy_setopt(h, CURLOPT_OPENSOCKETDATA, g);
    return 0;
}

static void set_url(CURL *h, const char *address, const struct sbuf *url)
{
    if (!strncmp(address, "unix:", 5))
        curl_easy_setopt(h, CURLOPT_UNIX_SOCKET_PATH, address + 5);
    curl_easy_setopt(h, CURLOPT_URL, url->ptr);
    curl_easy_setopt(h, CURLOPT_PATH_AS_IS, 1L);
    curl_easy_setopt(h, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(h, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(h, CURLOPT_PROXY, "");
}

/* Called at least once a second. */
static int on_progress(void *arg, curl_off_t total UNUSED, curl_off_t now UNUSED, curl_off_t up_total UNUSED, curl_off_t up_now UNUSED)
{
    return atomic_load((const atomic_bool *)arg);
}

static struct curl_slist *set_request(CURL *h, const struct fetch_options *o)
{
    struct curl_slist *headers = curl_slist_append(NULL, "Expect:");
    if (o->body_json) {
        curl_easy_setopt(h, CURLOPT_POSTFIELDS, o->body_json);
        headers = curl_slist_append(headers, "Content-Type: application/json");
    }
    if (o->body_form)
        curl_easy_setopt(h, CURLOPT_POSTFIELDS, o->body_form); /* its content type is the one that curl says */
    if (o->bearer) {
        CLEANUP(mem_freep) char *line = xasprintf("Authorization: Bearer %s", o->bearer);
        headers = curl_slist_append(headers, line);
        mem_wipe(line, strlen(line));
    }
    curl_easy_setopt(h, CURLOPT_HTTPHEADER, headers);
    if (o->method)
        curl_easy_setopt(h, CURLOPT_CUSTOMREQUEST, o->method);
    if (o->ca_file)
        curl_easy_setopt(h, CURLOPT_CAINFO, o->ca_file);
    if (o->ca_pem) {
        struct curl_blob pem = {(void *)(uintptr_t)o->ca_pem, strlen(o->ca_pem), CURL_BLOB_COPY};
        curl_easy_setopt(h, CURLOPT_CAINFO_BLOB, &pem);
    }
    if (o->cert_file) {
        curl_easy_setopt(h, CURLOPT_SSLCERT, o->cert_file);
        curl_easy_setopt(h, CURLOPT_SSLKEY, o->key_file);
    }
    if (o->pinned)
        curl_easy_setopt(h, CURLOPT_PINNEDPUBLICKEY, o->pinned);
    if (o->cancel) {
        curl_easy_setopt(h, CURLOPT_NOPROGRESS, 0L);
        curl_easy_setopt(h, CURLOPT_XFERINFOFUNCTION, on_progress);
        curl_easy_setopt(h, CURLOPT_XFERINFODATA, (void *)(uintptr_t)o->cancel);
    }
    return headers;
}

static int check(const struct fetch_options *o, const struct sbuf *url, struct err *err)
{
    if (!sbuf_ok(url) || strpbrk(url->ptr, " \r\n\t"))
        return err_field(err, ERR_INVALID, "url", "expected an address and a path without spaces, at most %d bytes", URL_MAX);
    if (!o->timeout_ms)
        return err_field(err, ERR_INVALID, "timeout_ms", "every request has a deadline");
    return o->bearer ? client_check_token(o->bearer, err) : 0;
}

int fetch(const struct fetch_options *o, int *ret_status, char **ret_body, size_t *ret_len, struct err *err)
{
    char text[CURL_ERROR_SIZE] = "";
    CLEANUP(sbuf_deinit) struct sbuf url = {0};
    CLEANUP(sbuf_deinit) struct sbuf body = {0};
    sbuf_init(&url, URL_MAX);
    sbuf_init(&body, o->max_body_bytes ? o->max_body_bytes : BODY_MAX_DEFAULT);
    sbuf_addf(&url, "%s%s", strncmp(o->address, "unix:", 5) ? o->address : "http://localhost", o->path);
    int rc = check(o, &url, err);
    if (rc < 0)
        return rc;
    curl_once();
    CURL *h = curl_easy_init();
    if (!h)
        return err_set(err, ERR_NO_MEMORY, "out of memory");
    struct guard guard;
    if ((rc = set_guard(h, o, &guard, err)) < 0) {
        curl_easy_cleanup(h);
        return rc;
    }
    set_url(h, o->address, &url);
    curl_easy_setopt(h, CURLOPT_ERRORBUFFER, text);
    curl_easy_setopt(h, CURLOPT_TIMEOUT_MS, (long)o->timeout_ms);
    curl_easy_setopt(h, CURLOPT_WRITEFUNCTION, on_data);
    curl_easy_setopt(h, CURLOPT_WRITEDATA, &body);
    struct curl_slist *headers = set_request(h, o);
    CURLcode code = curl_easy_perform(h);
    long status = 0;
    curl_easy_getinfo(h, CURLINFO_RESPONSE_CODE, &status);
    curl_slist_free_all(headers);
    curl_easy_cleanup(h);
    if (ret_status && (code == CURLE_OK || body.failed))
        *ret_status = (int)status;
    if (code == CURLE_COULDNT_CONNECT && guard.refused)
        return err_set(err, ERR_FORBIDDEN, "%s leads where nothing may be called", o->address);
    if (code != CURLE_OK)
        return curl_error(code, text, url.ptr, body.failed ? body.max : 0, err);
    if (ret_len)
        *ret_len = body.len;
    if (ret_body) {
        char *bytes = sbuf_take(&body);
        *ret_body = bytes ? bytes : xstrdup("");
    }
    return 0;
}
