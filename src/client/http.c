/* HTTPS to the API by libcurl: handles are kept in a small stack, so that calls reuse connections; a watch has one of its own. */
#include <curl/curl.h>
#include <pthread.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "client/curl_internal.h"
#include "client/http_internal.h"

#define HANDLES_KEPT 8
#define ANSWER_MAX (64u * 1024 * 1024)
#define BODY_MAX (16u * 1024 * 1024) /* what the API takes is less */
#define WATCH_LINE_MAX (4u * 1024 * 1024)
#define CONNECT_TIMEOUT_MS 5000L
/* A watch that says nothing for so long is dead: the server sends bookmarks. */
#define WATCH_QUIET_MS 180000u
#define CREDENTIAL_MAX (1024u * 1024)
#define TOKEN_MAX (64u * 1024)
#define RETRY_AFTER_MAX_S 86400

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
    curl_easy_setopt(h, CURLOPT_PROTOCOLS_STR, "https");
    curl_easy_setopt(h, CURLOPT_PROXY, "");
    curl_easy_setopt(h, CURLOPT_PATH_AS_IS, 1L); /* a name is a name, also ".." */
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

static int on_call_progress(void *arg, curl_off_t a UNUSED, curl_off_t b UNUSED, curl_off_t c UNUSED, curl_off_t d UNUSED)
{
    const struct client_call *k = arg;
    return k->stop && atomic_load(k->stop);
}

static void set_body(CURL *h, const struct sbuf *body)
{
    if (body) {
        curl_easy_setopt(h, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)body->len);
        curl_easy_setopt(h, CURLOPT_POSTFIELDS, body->ptr);
    } else {
        curl_easy_setopt(h, CURLOPT_HTTPGET, 1L);
    }
}

/* One exchange on h, which keeps nothing of it. */
static int exchange(struct http *t, CURL *h, const char *url, const struct client_call *k, const struct sbuf *body, struct sbuf *answer,
                    struct client_answer *ret, struct err *err)
{
    char text[CURL_ERROR_SIZE] = "";
    struct curl_slist *headers = headers_of(t, k);
    long status = 0;
    curl_off_t retry_after_s = 0;
    curl_easy_setopt(h, CURLOPT_URL, url);
    curl_easy_setopt(h, CURLOPT_ERRORBUFFER, text);
    curl_easy_setopt(h, CURLOPT_TIMEOUT_MS, (long)k->timeout_ms);
    curl_easy_setopt(h, CURLOPT_WRITEFUNCTION, collect);
    curl_easy_setopt(h, CURLOPT_WRITEDATA, answer);
    curl_easy_setopt(h, CURLOPT_XFERINFOFUNCTION, on_call_progress);
    curl_easy_setopt(h, CURLOPT_XFERINFODATA, k);
    curl_easy_setopt(h, CURLOPT_NOPROGRESS, k->stop ? 0L : 1L);
    set_body(h, body);
    curl_easy_setopt(h, CURLOPT_CUSTOMREQUEST, k->method);
    curl_easy_setopt(h, CURLOPT_HTTPHEADER, headers);
    CURLcode code = curl_easy_perform(h);
    curl_easy_getinfo(h, CURLINFO_RESPONSE_CODE, &status);
    curl_easy_getinfo(h, CURLINFO_RETRY_AFTER, &retry_after_s);
    curl_easy_setopt(h, CURLOPT_HTTPHEADER, NULL);
    curl_easy_setopt(h, CURLOPT_ERRORBUFFER, NULL);
    curl_easy_setopt(h, CURLOPT_POSTFIELDS, NULL);
    curl_slist_free_all(headers);
    ret->status = (int)status;
    ret->retry_after_s = retry_after_s > 0 ? MIN(retry_after_s, RETRY_AFTER_MAX_S) : 0;
    return code == CURLE_OK ? 0 : curl_error(code, text, url, answer->failed ? answer->max : 0, err);
}

static int http_roundtrip(void *transport, const struct client_call *k, struct client_answer *ret, struct err *err)
{
    struct http *t = transport;
    CLEANUP(sbuf_deinit) struct sbuf body = {0};
    CLEANUP(sbuf_deinit) struct sbuf answer = {0};
    CLEANUP(mem_freep) char *url = xasprintf("%s%s", t->server, k->path);
    struct client_answer got = {0};
    sbuf_init(&body, BODY_MAX);
    sbuf_init(&answer, k->answer_max ? MIN(k->answer_max, (size_t)ANSWER_MAX) : ANSWER_MAX);
    if (k->body)
        json_write(k->body, &body);
    if (!sbuf_ok(&body))
        return err_set(err, ERR_TOO_LARGE, "%s: the object is larger than %u MiB", url, BODY_MAX >> 20);
    CURL *h = handle_take(t);
    if (!h)
        return err_set(err, ERR_NO_MEMORY, "out of memory");
    int rc = exchange(t, h, url, k, k->body ? &body : NULL, &answer, &got, err);
    handle_give(t, h, rc == 0);
    if (rc < 0)
        return rc;
    bool good = got.status >= 200 && got.status < 300;
    got.bytes = answer.len;
    if (answer.len && json_parse(sbuf_str(&answer), ANSWER_MAX, &got.body, good ? err : NULL) < 0 && good) {
        err_wrap(err, "%s", url);
        return err ? err->code = ERR_PROTOCOL : ERR_PROTOCOL;
    }
    *ret = got;
    return 0;
}

/* ---- streams ---- */

struct stream {
    const struct client_call *call;
    bool (*on_line)(void *arg, json_t *line);
    void *arg;
    CURL *handle;
    struct sbuf rest;
    struct err err;
    bool enough;
    uint64_t last_byte_ms;
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
    s->last_byte_ms = clock_mono_ms();
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
    return atomic_load(s->call->stop) || clock_mono_ms() - s->last_byte_ms > WATCH_QUIET_MS;
}

static int http_stream(void *transport, const struct client_call *k, bool (*on_line)(void *arg, json_t *line), void *arg, struct client_answer *ret, struct err *err)
{
    struct http *t = transport;
    CLEANUP(mem_freep) char *url = xasprintf("%s%s", t->server, k->path);
    char text[CURL_ERROR_SIZE] = "";
    CURL *h = handle_new(t);
    if (!h)
        return err_set(err, ERR_NO_MEMORY, "out of memory");
    struct stream s = {.call = k, .on_line = on_line, .arg = arg, .handle = h, .last_byte_ms = clock_mono_ms()};
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
    } else if (code != CURLE_OK && !s.enough && !atomic_load(k->stop)) {
        rc = curl_error(code, text, url, s.rest.failed ? s.rest.max : 0, err);
    }
    *ret = (struct client_answer){.status = (int)status};
    if (rc == 0 && status != 200 && s.rest.len)
        (void)!json_parse(sbuf_str(&s.rest), WATCH_LINE_MAX, &ret->body, NULL);
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

int client_check_server(const char *server, struct err *err)
{
    const char *host = server + strlen("https://");
    if (!strncmp(server, "https://", strlen("https://")) && *host && *host != '/' && !strpbrk(server, " \t\r\n?#@\\"))
        return 0;
    return err_field(err, ERR_INVALID, "server", "the API's address must be https://HOST:PORT");
}

int client_check_token(const char *token, struct err *err)
{
    const char *c = token;
    while (*c > ' ' && *c < 0x7f)
        c++;
    if (*c)
        return err_field(err, ERR_INVALID, "token", "a bearer token is one word of printable ASCII");
    return *token ? 0 : err_field(err, ERR_INVALID, "token", "the bearer token is empty");
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

static int read_pem(const char *path, size_t max_bytes, char **ret, struct err *err)
{
    size_t len;
    return path ? file_read(path, max_bytes, ret, &len, err) : 0;
}

int client_http(const struct client_http_options *o, struct client **ret, struct err *err)
{
    struct client_credentials c = {0};
    int rc = client_check_server(o->server, err);
    if (rc == 0)
        rc = read_pem(o->ca_file, CREDENTIAL_MAX, &c.ca_pem, err);
    if (rc == 0)
        rc = read_pem(o->cert_file, CREDENTIAL_MAX, &c.cert_pem, err);
    if (rc == 0)
        rc = read_pem(o->key_file, CREDENTIAL_MAX, &c.key_pem, err);
    if (rc == 0)
        rc = read_pem(o->token_file, TOKEN_MAX, &c.token, err);
    if (rc == 0 && (c.cert_pem != NULL) != (c.key_pem != NULL))
        rc = err_set(err, ERR_INVALID, "a client certificate or a key, not both");
    if (rc == 0 && c.token) {
        for (size_t len = strlen(c.token); len && strchr(" \t\r\n", c.token[len - 1]); len--)
            c.token[len - 1] = 0;
        rc = client_check_token(c.token, err);
    }
    if (rc < 0) {
        client_credentials_deinit(&c);
        return rc;
    }
    *ret = client_http_from(o->server, &c);
    return 0;
}
