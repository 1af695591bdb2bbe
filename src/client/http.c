/* HTTPS to the API by libcurl: handles are kept in a small stack, so that calls reuse connections; a watch has one of its own. */
#include <curl/curl.h>
#include <pthread.h>
#include <time.h>

#include "base/file.h"
#include "base/mem.h"
#include "client/curl_internal.h"
#include "client/http_internal.h"

#define HANDLES_KEPT 8
#define ANSWER_MAX (64u * 1024 * 1024)
#define WATCH_LINE_MAX (4u * 1024 * 1024)
#define CONNECT_TIMEOUT_MS 5000L
/* A watch that says nothing for so long is dead: the server sends bookmarks. */
#define WATCH_QUIET_S 180

struct http {
    char *server;
    struct client_credentials cred;
    pthread_mutex_t lock;
    CURL *kept[HANDLES_KEPT];
    int kept_count;
};

void client_credentials_deinit(struct client_credentials *c)
{
    char *all[] = {c->ca_pem, c->cert_pem, c->key_pem, c->token};
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        if (all[i])
            mem_wipe(all[i], strlen(all[i]));
        mem_free(all[i]);
    }
}

static void set_blob(CURL *h, CURLoption option, const char *pem)
{
    struct curl_blob b = {(void *)(uintptr_t)pem, strlen(pem), CURL_BLOB_COPY};
    curl_easy_setopt(h, option, &b);
}

static CURL *handle_new(struct http *t)
{
    CURL *h = curl_easy_init();
    if (!h)
        return NULL;
    curl_easy_setopt(h, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(h, CURLOPT_PROTOCOLS_STR, "https,http");
    curl_easy_setopt(h, CURLOPT_PROXY, "");
    curl_easy_setopt(h, CURLOPT_CONNECTTIMEOUT_MS, CONNECT_TIMEOUT_MS);
    curl_easy_setopt(h, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(h, CURLOPT_TCP_NODELAY, 1L);
    if (t->cred.ca_pem)
        set_blob(h, CURLOPT_CAINFO_BLOB, t->cred.ca_pem);
    if (t->cred.cert_pem) {
        set_blob(h, CURLOPT_SSLCERT_BLOB, t->cred.cert_pem);
        set_blob(h, CURLOPT_SSLKEY_BLOB, t->cred.key_pem);
    }
    return h;
}

static CURL *handle_take(struct http *t)
{
    pthread_mutex_lock(&t->lock);
    CURL *h = t->kept_count ? t->kept[--t->kept_count] : NULL;
    pthread_mutex_unlock(&t->lock);
    return h ? h : handle_new(t);
}

static void handle_give(struct http *t, CURL *h, bool good)
{
    pthread_mutex_lock(&t->lock);
    bool keep = good && t->kept_count < HANDLES_KEPT;
    if (keep)
        t->kept[t->kept_count++] = h;
    pthread_mutex_unlock(&t->lock);
    if (!keep)
        curl_easy_cleanup(h);
}

static struct curl_slist *headers_of(struct http *t, const struct client_call *k)
{
    struct curl_slist *l = curl_slist_append(NULL, "Accept: application/json");
    l = curl_slist_append(l, "Expect:");
    if (k->content_type) {
        CLEANUP(mem_freep) char *line = xasprintf("Content-Type: %s", k->content_type);
        l = curl_slist_append(l, line);
    }
    if (t->cred.token) {
        CLEANUP(mem_freep) char *line = xasprintf("Authorization: Bearer %s", t->cred.token);
        l = curl_slist_append(l, line);
        mem_wipe(line, strlen(line));
    }
    return l;
}

static size_t collect(char *data, size_t size, size_t count, void *arg)
{
    struct sbuf *b = arg;
    sbuf_add(b, str_n(data, size * count));
    return sbuf_ok(b) ? size * count : 0;
}

static int http_roundtrip(void *transport, const struct client_call *k, int *ret_status, json_t **ret_body, struct err *err)
{
    struct http *t = transport;
    CLEANUP(sbuf_deinit) struct sbuf body = {0};
    CLEANUP(sbuf_deinit) struct sbuf answer = {0};
    CLEANUP(mem_freep) char *url = xasprintf("%s%s", t->server, k->path);
    char text[CURL_ERROR_SIZE] = "";
    sbuf_init(&body, ANSWER_MAX);
    sbuf_init(&answer, ANSWER_MAX);
    if (k->body)
        json_write(k->body, &body);
    CURL *h = handle_take(t);
    if (!h)
        return err_set(err, ERR_NO_MEMORY, "out of memory");
    struct curl_slist *headers = headers_of(t, k);
    curl_easy_setopt(h, CURLOPT_URL, url);
    curl_easy_setopt(h, CURLOPT_ERRORBUFFER, text);
    curl_easy_setopt(h, CURLOPT_TIMEOUT_MS, (long)k->timeout_ms);
    curl_easy_setopt(h, CURLOPT_WRITEFUNCTION, collect);
    curl_easy_setopt(h, CURLOPT_WRITEDATA, &answer);
    if (k->body) {
        curl_easy_setopt(h, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)body.len);
        curl_easy_setopt(h, CURLOPT_POSTFIELDS, body.ptr);
    } else {
        curl_easy_setopt(h, CURLOPT_HTTPGET, 1L);
    }
    curl_easy_setopt(h, CURLOPT_CUSTOMREQUEST, k->method);
    curl_easy_setopt(h, CURLOPT_HTTPHEADER, headers);
    CURLcode code = curl_easy_perform(h);
    long status = 0;
    curl_easy_getinfo(h, CURLINFO_RESPONSE_CODE, &status);
    curl_easy_setopt(h, CURLOPT_HTTPHEADER, NULL);
    curl_easy_setopt(h, CURLOPT_ERRORBUFFER, NULL);
    curl_easy_setopt(h, CURLOPT_POSTFIELDS, NULL);
    curl_slist_free_all(headers);
    int rc = code == CURLE_OK ? 0 : curl_error(code, text, url, err);
    handle_give(t, h, code == CURLE_OK);
    if (rc < 0)
        return rc;
    json_t *doc = NULL;
    if (answer.len && json_parse(sbuf_str(&answer), ANSWER_MAX, &doc, err) < 0 && status < 300)
        return err_wrap(err, "%s", url);
    *ret_status = (int)status;
    *ret_body = doc;
    return 0;
}

/* ---- streams ---- */

struct stream {
    atomic_bool *stop;
    bool (*on_line)(void *arg, json_t *line);
    void *arg;
    CURL *handle;
    struct sbuf rest;
    struct err err;
    bool enough;
    time_t last_byte;
    int status;
};

static bool take_line(struct stream *s, struct str line)
{
    JSON_AUTO doc = NULL;
    if (!str_trim(line).len)
        return true;
    if (json_parse(line, WATCH_LINE_MAX, &doc, &s->err) < 0)
        return false;
    s->enough = !s->on_line(s->arg, doc);
    return !s->enough;
}

static size_t on_stream(char *data, size_t size, size_t count, void *arg)
{
    struct stream *s = arg;
    struct str bytes = str_n(data, size * count);
    s->last_byte = time(NULL);
    if (!s->status) {
        long status = 0;
        curl_easy_getinfo(s->handle, CURLINFO_RESPONSE_CODE, &status);
        s->status = (int)status;
    }
    if (s->status != 200) {
        sbuf_add(&s->rest, bytes);
        return sbuf_ok(&s->rest) ? bytes.len : 0;
    }
    struct str left = bytes;
    ssize_t lf;
    while ((lf = str_find(left, '\n')) >= 0) {
        struct str line = str_n(left.ptr, (size_t)lf);
        if (s->rest.len) {
            sbuf_add(&s->rest, line);
            line = sbuf_str(&s->rest);
        }
        if (!sbuf_ok(&s->rest) || !take_line(s, line))
            return 0;
        sbuf_reset(&s->rest);
        left = str_skip(left, (size_t)lf + 1);
    }
    sbuf_add(&s->rest, left);
    return sbuf_ok(&s->rest) ? bytes.len : 0;
}

static int on_progress(void *arg, curl_off_t a UNUSED, curl_off_t b UNUSED, curl_off_t c UNUSED, curl_off_t d UNUSED)
{
    struct stream *s = arg;
    return atomic_load(s->stop) || time(NULL) - s->last_byte > WATCH_QUIET_S;
}

static int http_stream(void *transport, const struct client_call *k, atomic_bool *stop, bool (*on_line)(void *arg, json_t *line), void *arg,
                       int *ret_status, json_t **ret_error_body, struct err *err)
{
    struct http *t = transport;
    CLEANUP(mem_freep) char *url = xasprintf("%s%s", t->server, k->path);
    char text[CURL_ERROR_SIZE] = "";
    CURL *h = handle_new(t);
    if (!h)
        return err_set(err, ERR_NO_MEMORY, "out of memory");
    struct stream s = {.stop = stop, .on_line = on_line, .arg = arg, .handle = h, .last_byte = time(NULL)};
    sbuf_init(&s.rest, WATCH_LINE_MAX);
    struct curl_slist *headers = headers_of(t, k);
    curl_easy_setopt(h, CURLOPT_URL, url);
    curl_easy_setopt(h, CURLOPT_ERRORBUFFER, text);
    curl_easy_setopt(h, CURLOPT_TIMEOUT_MS, (long)k->timeout_ms);
    curl_easy_setopt(h, CURLOPT_WRITEFUNCTION, on_stream);
    curl_easy_setopt(h, CURLOPT_WRITEDATA, &s);
    curl_easy_setopt(h, CURLOPT_XFERINFOFUNCTION, on_progress);
    curl_easy_setopt(h, CURLOPT_XFERINFODATA, &s);
    curl_easy_setopt(h, CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(h, CURLOPT_HTTPHEADER, headers);
    CURLcode code = curl_easy_perform(h);
    long status = 0;
    curl_easy_getinfo(h, CURLINFO_RESPONSE_CODE, &status);
    curl_slist_free_all(headers);
    curl_easy_cleanup(h);
    int rc = 0;
    if (s.err.code) {
        if (err)
            *err = s.err;
        rc = s.err.code;
    } else if (code != CURLE_OK && !s.enough && !atomic_load(stop)) {
        rc = curl_error(code, text, url, err);
    }
    *ret_status = (int)status;
    if (rc == 0 && status != 200 && s.rest.len)
        (void)!json_parse(sbuf_str(&s.rest), WATCH_LINE_MAX, ret_error_body, NULL);
    sbuf_deinit(&s.rest);
    return rc;
}

static void http_free(void *transport)
{
    struct http *t = transport;
    while (t->kept_count)
        curl_easy_cleanup(t->kept[--t->kept_count]);
    pthread_mutex_destroy(&t->lock);
    client_credentials_deinit(&t->cred);
    mem_free(t->server);
    mem_free(t);
}

struct client *client_http_from(const char *server, const struct client_credentials *cred)
{
    static const struct client_transport ops = {"http", http_roundtrip, http_stream, http_free};
    curl_once();
    struct http *t = XNEW(struct http);
    t->server = xstrdup(server);
    for (size_t len = strlen(t->server); len && t->server[len - 1] == '/'; len--)
        t->server[len - 1] = 0;
    t->cred = *cred;
    pthread_mutex_init(&t->lock, NULL);
    return client_new(&ops, t);
}

static int read_pem(const char *path, char **ret, struct err *err)
{
    size_t len;
    return path ? file_read(path, 1024 * 1024, ret, &len, err) : 0;
}

int client_http(const struct client_http_options *o, struct client **ret, struct err *err)
{
    struct client_credentials c = {0};
    int rc = read_pem(o->ca_file, &c.ca_pem, err);
    if (rc == 0)
        rc = read_pem(o->cert_file, &c.cert_pem, err);
    if (rc == 0)
        rc = read_pem(o->key_file, &c.key_pem, err);
    if (rc == 0)
        rc = read_pem(o->token_file, &c.token, err);
    if (rc < 0) {
        client_credentials_deinit(&c);
        return rc;
    }
    if (c.token)
        for (size_t len = strlen(c.token); len && strchr(" \t\r\n", c.token[len - 1]); len--)
            c.token[len - 1] = 0;
    *ret = client_http_from(o->server, &c);
    return 0;
}
