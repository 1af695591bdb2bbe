/* kubeconfig files: what we and kubectl write, and what nobody should have written. */
#include "unit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "client/http_internal.h"

/* Parts of a file: the first is the cluster's, the second the user's, the third the context's. */
static const char form[] = "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters:\n- name: k\n  cluster: {%s}\nusers:\n- name: u\n  user: {%s}\n"
                           "contexts:\n- name: c\n  context: {cluster: k, user: u%s}\n";
#define SERVER "server: 'https://127.0.0.1:6440'"

static int parse(const char *text, char *ns, size_t size, struct err *err)
{
    struct client *c = NULL;
    int rc = client_kubeconfig_parse(str_of(text), "/k/config", "/nonexistent", false, &c, ns, size, err);
    if (rc < 0)
        assert_null(c);
    else
        assert_non_null(c);
    client_free(c);
    return rc;
}

static int parse_parts(const char *cluster, const char *user, const char *context, char *ns, size_t size, struct err *err)
{
    char text[4096];
    snprintf(text, sizeof(text), form, cluster, user, context);
    return parse(text, ns, size, err);
}

static void good_files(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    char ns[64] = "old";
    ASSERT_OK(parse_parts(SERVER, "token: abc", ", namespace: demo", ns, sizeof(ns), &err));
    assert_string_equal(ns, "demo");
    ASSERT_OK(parse_parts(SERVER ", certificate-authority-data: LS0tCg==", "client-certificate-data: LS0tCg==, client-key-data: LS0tCg==", "", ns, sizeof(ns), &err));
    assert_string_equal(ns, "");
    ASSERT_OK(parse_parts(SERVER, "", "", NULL, 0, &err));
    ASSERT_OK(parse("{\"current-context\":\"c\",\"clusters\":[{\"name\":\"k\",\"cluster\":{\"server\":\"https://h\"}}],"
                    "\"contexts\":[{\"name\":\"c\",\"context\":{\"cluster\":\"k\"}}]}", ns, sizeof(ns), &err));
}

static void bad_files_name_what_is_wrong(void **state)
{
    (void)state;
    static const struct {
        const char *cluster, *user, *context;
        int code;
        const char *text; /* in the message or the field */
    } rows[] = {
        {"", "", "", ERR_INVALID, "has no server"},
        {"server: 7", "", "", ERR_INVALID, "server must be a text"},
        {SERVER, "token: [canary]", "", ERR_INVALID, "token must be a text"},
        {SERVER, "", ", namespace: 12", ERR_INVALID, "namespace must be a text"},
        {"server: 'http://127.0.0.1:6440'", "token: abc", "", ERR_INVALID, "must be https://HOST:PORT"},
        {"server: \"https://h\\r\\nX: y\"", "", "", ERR_INVALID, "must be https://HOST:PORT"},
        {SERVER, "token: \"canary\\nX-Evil: 1\"", "", ERR_INVALID, "token"},
        {SERVER, "token: ''", "", ERR_INVALID, "token"},
        {SERVER ", certificate-authority-data: '*'", "", "", ERR_BAD_REQUEST, "certificate-authority-data"},
        {SERVER ", certificate-authority-data: ''", "", "", ERR_INVALID, "certificate-authority-data"},
        {SERVER, "client-certificate-data: AAA=, client-key-data: LS0t", "", ERR_INVALID, "client-certificate-data"},
        {SERVER, "client-certificate-data: LS0t", "", ERR_INVALID, "not both"},
        {SERVER, "client-key-data: LS0t", "", ERR_INVALID, "not both"},
        {SERVER ", certificate-authority: ca.crt", "", "", ERR_NOT_FOUND, "/nonexistent/ca.crt"},
        {SERVER, "", ", namespace: n123456789012345678901234567890123456789012345678901234567890123456789", ERR_INVALID, "namespace"},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct err err = ERR_INIT;
        char ns[64];
        int rc = parse_parts(rows[i].cluster, rows[i].user, rows[i].context, ns, sizeof(ns), &err);
        if (rc != rows[i].code || !(strstr(err.msg, rows[i].text) || strstr(err.field, rows[i].text)) || !strstr(err.msg, "/k/config") || strstr(err.msg, "canary"))
            fail_msg("row %zu: %d %s: %s", i, rc, err.field, err.msg);
    }
}

static void a_text_from_elsewhere_reads_no_file(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct client *c = NULL;
    char text[1024];
    static const char *const users[] = {"client-certificate: /dev/null, client-key: /dev/null", "exec: {command: /bin/true}"};
    for (size_t i = 0; i < ARRAY_LEN(users); i++) {
        snprintf(text, sizeof(text), form, SERVER, users[i], "");
        int rc = client_kubeconfig_text(str_of(text), "it", &c, &err);
        assert_true(rc == (i ? ERR_UNAUTHENTICATED : ERR_INVALID));
        assert_non_null(strstr(err.msg, i ? "not run" : "none is read"));
    }
    snprintf(text, sizeof(text), form, SERVER, "client-certificate-data: LS0tCg==, client-key-data: LS0tCg==", "");
    ASSERT_OK(client_kubeconfig_text(str_of(text), "it", &c, &err));
    client_free(c);
}

static void files_of_another_shape(void **state)
{
    (void)state;
    static const char *const texts[] = {"", "[]", "7", "null", "current-context: c", "current-context: [c]\ncontexts: {}", "current-context: c\ncontexts: [7, null, {name: [c]}]",
                                        "current-context: c\ncontexts: [{name: c, context: 7}]", "current-context: c\ncontexts: [{name: c}]",
                                        "current-context: c\ncontexts: [{name: c, context: {cluster: [k], user: {}}}]\nclusters: 7\nusers: 7", "\t", "a: [", "a: \xff"};
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        struct err err = ERR_INIT;
        int rc = parse(texts[i], NULL, 0, &err);
        if (rc != ERR_INVALID && rc != ERR_BAD_REQUEST)
            fail_msg("text %zu: %d %s", i, rc, err.msg);
        assert_non_null(strstr(err.msg, "/k/config"));
    }
}

static void where_the_file_is(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct client *c = NULL;
    char dir[64] = "/tmp/seki-kubeconfig-XXXXXX", file[96], list[160], text[1024], ns[64];
    assert_non_null(mkdtemp(dir));
    snprintf(file, sizeof(file), "%s/config", dir);
    snprintf(list, sizeof(list), "%s:/nonexistent", file);
    snprintf(text, sizeof(text), form, SERVER ", certificate-authority: ca.crt", "", ", namespace: here");
    ASSERT_OK(file_write(file, str_of(text), 0600, &err));
    setenv("KUBECONFIG", list, 1);
    /* Names in it are relative to its directory. */
    ASSERT_ERR(client_kubeconfig(NULL, &c, ns, sizeof(ns), &err), ERR_NOT_FOUND);
    assert_non_null(strstr(err.msg, dir));
    snprintf(list, sizeof(list), "%s/ca.crt", dir);
    ASSERT_OK(file_write(list, STR("---\n"), 0600, &err));
    ASSERT_OK(client_kubeconfig(NULL, &c, ns, sizeof(ns), &err));
    assert_string_equal(ns, "here");
    client_free(c);
    c = NULL;
    unsetenv("KUBECONFIG");
    setenv("HOME", dir, 1);
    ASSERT_ERR(client_kubeconfig(NULL, &c, ns, sizeof(ns), &err), ERR_NOT_FOUND);
    assert_non_null(strstr(err.msg, "/.kube/config"));
    ASSERT_OK(client_kubeconfig(file, &c, NULL, 0, &err));
    client_free(c);
    ASSERT_OK(file_remove_tree(dir, &err));
}

static void what_we_write_is_read(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    char ns[64] = "old";
    for (int with_namespace = 0; with_namespace < 2; with_namespace++) {
        JSON_AUTO config = client_kubeconfig_new("k", json_pack("{s:s}", "server", "https://127.0.0.1:6440"), "u", json_pack("{s:s}", "token", "t"), "c", with_namespace ? "shop" : NULL);
        char *text = json_dumps(config, 0);
        assert_non_null(text);
        ASSERT_OK(parse(text, ns, sizeof(ns), &err));
        assert_int_equal(with_namespace, strstr(text, "\"namespace\"") != NULL);
        free(text);
    }
    assert_string_equal(ns, "shop");
    assert_null(client_kubeconfig_new("k", NULL, "u", json_object(), "c", NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(what_we_write_is_read),
        cmocka_unit_test(good_files), cmocka_unit_test(bad_files_name_what_is_wrong), cmocka_unit_test(files_of_another_shape), cmocka_unit_test(a_text_from_elsewhere_reads_no_file),
                                       cmocka_unit_test(where_the_file_is)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
