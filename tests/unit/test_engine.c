/* Engine drivers: command lines, what is read from engines' metrics, and when an engine counts as hung. */
#include "unit.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "engine/internal.h"
#include "kinds/engine_fields.h"

static char dir[64];
static struct arena *arena;
static char *path_before;

static int set_up(void **state UNUSED)
{
    snprintf(dir, sizeof(dir), "/tmp/seki-engine-XXXXXX");
    arena = arena_new(1 << 20);
    path_before = strdup(getenv("PATH") ? getenv("PATH") : "");
    setenv("PATH", "/nowhere", 1);
    return mkdtemp(dir) ? 0 : -1;
}

static int tear_down(void **state UNUSED)
{
    setenv("PATH", path_before, 1);
    free(path_before);
    arena_free(arena);
    return file_remove_tree(dir, NULL);
}

static const char *in_dir(const char *name)
{
    return arena_printf(arena, "%s/%s", dir, name);
}

static const char *make(const char *name, mode_t mode)
{
    const char *path = in_dir(name);
    char *parent = arena_strdup(arena, path);
    *strrchr(parent, '/') = 0;
    assert_int_equal(file_mkdirs(parent, 0700, NULL), 0);
    close(open(path, O_WRONLY | O_CREAT, 0600));
    assert_int_equal(chmod(path, mode), 0);
    return path;
}

static struct model_replica replica(const char *driver)
{
    struct model_replica mr = {0};
    mr.spec.endpoint = "chat";
    mr.spec.served_name = "gemma";
    mr.spec.engine = (struct engine_spec){.driver = driver, .context_length = 2048, .parallel = 4};
    return mr;
}

#define UID "11111111-2222-3333-4444-555555555555"

static int plan_of(const struct engine_paths *p, const struct model_replica *mr, const char *file, struct engine_plan *ret, struct err *err)
{
    const struct engine_ops *e = engine_find(mr->spec.engine.driver);
    assert_non_null(e);
    return e->plan(p, mr, UID, file, arena, ret, err);
}

static const char *joined(const char *const *argv)
{
    const char *text = "";
    for (size_t i = 0; argv[i]; i++)
        text = arena_printf(arena, "%s%s%s", text, i ? " " : "", argv[i]);
    return text;
}

static struct engine_paths paths(void)
{
    return (struct engine_paths){.socket_dir = dir};
}

/* ---- drivers ---- */

static void test_drivers_by_name(void **state)
{
    (void)state;
    char name[32];
    struct str rest = str_of(engine_fields[0].values), item;
    assert_string_equal(engine_fields[0].name, "driver");
    while (str_cut(&rest, '|', &item)) { /* whatever a manifest may name is there */
        assert_true(str_to_array(item, name, sizeof(name)));
        const struct engine_ops *e = engine_find(name);
        assert_non_null(e);
        assert_string_equal(e->name, name);
        assert_non_null(e->plan);
        assert_non_null(e->probe);
        assert_true(e->poke || e->remote); /* nobody makes others pay for our doubts */
    }
    assert_null(engine_find("ollama"));
    assert_null(engine_find(""));
    assert_null(engine_find(NULL));
}

/* ---- llama.cpp ---- */

static void test_llamacpp_command_lines(void **state)
{
    (void)state;
    const char *server = make("llama-server", 0700), *launcher = make("launcher.py", 0600);
    make("venv/bin/python", 0700);
    const char *sock = in_dir("11111111-2222-3333.sock"), *venv = in_dir("venv"), *python = in_dir("venv/bin/python");
    const struct {
        bool server;
        enum engine_task task;
        int64_t threads;
        const char *want;
    } cases[] = {
        {true, TASK_TEXT, 0, arena_printf(arena, "%s --model /m.gguf --ctx-size 8192 --parallel 4 --alias gemma --host %s --metrics --no-webui --log-verbosity 0 --batch-size 512", server, sock)},
        {true, TASK_TEXT, 3, arena_printf(arena, "%s --model /m.gguf --ctx-size 8192 --parallel 4 --alias gemma --threads 3 --host %s --metrics --no-webui --log-verbosity 0 --batch-size 512",
                                      server, sock)},
        {true, TASK_EMBEDDINGS, 0, arena_printf(arena, "%s --model /m.gguf --ctx-size 8192 --parallel 4 --alias gemma --embeddings --host %s --metrics --no-webui --log-verbosity 0 --pooling mean "
                                            "--ubatch-size 2048 --batch-size 2048", server, sock)},
        {false, TASK_TEXT, 0, arena_printf(arena, "%s %s --model /m.gguf --ctx-size 2048 --parallel 4 --alias gemma --listen unix:%s", python, launcher, sock)},
        {false, TASK_EMBEDDINGS, 2, arena_printf(arena, "%s %s --model /m.gguf --ctx-size 2048 --parallel 4 --alias gemma --threads 2 --embeddings --listen unix:%s", python, launcher, sock)},
        {true, TASK_RERANK, 0, arena_printf(arena, "%s --model /m.gguf --ctx-size 8192 --parallel 4 --alias gemma --reranking --host %s --metrics --no-webui --log-verbosity 0 "
                                             "--ubatch-size 2048 --batch-size 2048", server, sock)},
        {false, TASK_RERANK, 0, arena_printf(arena, "%s %s --model /m.gguf --ctx-size 2048 --parallel 4 --alias gemma --reranking --listen unix:%s", python, launcher, sock)},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct err err = ERR_INIT;
        struct engine_plan plan;
        struct engine_paths p = paths();
        struct model_replica mr = replica("llamacpp");
        p.llama_server = cases[i].server ? server : NULL;
        p.engine_venv = venv; /* there, and not used when there is a server */
        p.launcher = launcher;
        mr.spec.engine.embeddings = cases[i].task == TASK_EMBEDDINGS;
        mr.spec.engine.rerank = cases[i].task == TASK_RERANK;
        mr.spec.engine.threads = cases[i].threads;
        ASSERT_OK(plan_of(&p, &mr, "/m.gguf", &plan, &err));
        assert_string_equal(joined(plan.argv), cases[i].want);
        assert_string_equal(plan.address, arena_printf(arena, "unix:%s", sock));
        assert_string_equal(plan.base_path, "/v1");
        assert_string_equal(plan.engine_model, "gemma");
        for (size_t e = 0; plan.env[e]; e++)
            assert_null(strstr(plan.env[e], "SEKI"));
    }
}

static void test_llama_server_on_path_is_used(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct engine_plan plan;
    struct engine_paths p = paths();
    const struct model_replica mr = replica("llamacpp");
    p.launcher = make("launcher.py", 0600);
    make("venv/bin/python", 0700);
    p.engine_venv = in_dir("venv");
    make("bin/llama-server", 0600); /* cannot be executed: looked over */
    setenv("PATH", arena_printf(arena, "/nowhere::%s/bin:%s/more", dir, dir), 1);
    ASSERT_OK(plan_of(&p, &mr, "/m.gguf", &plan, &err));
    assert_string_equal(plan.argv[0], in_dir("venv/bin/python"));
    make("more/llama-server", 0700);
    ASSERT_OK(plan_of(&p, &mr, "/m.gguf", &plan, &err));
    assert_string_equal(plan.argv[0], in_dir("more/llama-server"));
    p.llama_server = make("configured", 0700);
    ASSERT_OK(plan_of(&p, &mr, "/m.gguf", &plan, &err));
    assert_string_equal(plan.argv[0], p.llama_server);
}

static void test_missing_llamacpp_says_what_to_install(void **state)
{
    (void)state;
    struct engine_plan plan;
    const struct model_replica mr = replica("llamacpp");
    struct engine_paths p = paths();
    struct err err = ERR_INIT;
    ASSERT_ERR(plan_of(&p, &mr, "/m.gguf", &plan, &err), ERR_UNAVAILABLE);
    assert_non_null(strstr(err.msg, "scripts/install-engine"));
    p.engine_venv = in_dir("none");
    ASSERT_ERR(plan_of(&p, &mr, "/m.gguf", &plan, &err), ERR_UNAVAILABLE);
    assert_non_null(strstr(err.msg, p.engine_venv));
    p.llama_server = in_dir("gone");
    ASSERT_ERR(plan_of(&p, &mr, "/m.gguf", &plan, &err), ERR_UNAVAILABLE);
    assert_non_null(strstr(err.msg, p.llama_server));
    ASSERT_ERR(plan_of(&p, &mr, NULL, &plan, &err), ERR_INVALID);
}

static void test_socket_paths_are_bounded(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    const char *address;
    char deep[200];
    memset(deep, 'd', sizeof(deep) - 1);
    deep[sizeof(deep) - 1] = 0;
    struct engine_paths p = {.socket_dir = deep};
    ASSERT_ERR(engine_socket(&p, UID, arena, &address, &err), ERR_INVALID);
    assert_non_null(strstr(err.msg, "shorter data directory"));
    deep[107 - strlen("/11111111-2222-3333.sock")] = 0;
    ASSERT_OK(engine_socket(&p, UID, arena, &address, &err));
    assert_int_equal(strlen(address), strlen("unix:") + 107);
    deep[107 - strlen("/11111111-2222-3333.sock")] = 'd';
}

/* ---- fake ---- */

static void test_fake_command_line(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct engine_plan plan;
    struct engine_paths p = paths();
    struct model_replica mr = replica("fake");
    static const char *keys[] = {"tokensPerSecond", "mode", "x"}, *values[] = {"100", "--listen", "a b"};
    mr.spec.engine.options = (struct field_map){.keys = keys, .values = values, .count = 3};
    ASSERT_ERR(plan_of(&p, &mr, NULL, &plan, &err), ERR_UNAVAILABLE);
    assert_non_null(strstr(err.msg, "--engine-fake"));
    p.fake_engine = make("fake", 0700);
    ASSERT_OK(plan_of(&p, &mr, NULL, &plan, &err));
    static const char *const want[] = {"--listen", NULL, "--model", "gemma", "--tokens-per-second", "100", "--mode", "--listen", "--x", "a b"};
    for (size_t i = 0; i < ARRAY_LEN(want); i++)
        if (want[i])
            assert_string_equal(plan.argv[i + 1], want[i]);
    assert_null(plan.argv[ARRAY_LEN(want) + 1]);
}

/* ---- vLLM and SGLang: from their documentation, not from them ---- */

static void test_vllm_command_lines(void **state)
{
    (void)state;
    const char *vllm = make("vllm", 0700), *sock = in_dir("11111111-2222-3333.sock");
    static const char *keys[] = {"tensorParallelSize", "toolCallParser"}, *values[] = {"2", "hermes"};
    static const char *bad_keys[] = {"trustRemoteCode"}, *bad_values[] = {"--middleware=evil"};
    struct {
        const char *file;
        enum engine_task task;
        struct field_map options;
        const char *want, *wrong;
    } cases[] = {
        {"/m/llama/model.safetensors", TASK_TEXT, {0}, "/m/llama --uds %s --served-model-name gemma --max-model-len 2048 --max-num-seqs 4 --disable-uvicorn-access-log", NULL},
        {"/m/llama.gguf", TASK_TEXT, {0}, "/m/llama.gguf --uds %s --served-model-name gemma --max-model-len 2048 --max-num-seqs 4 --disable-uvicorn-access-log", NULL},
        {"/m/e/model.safetensors", TASK_EMBEDDINGS, {0}, "/m/e --uds %s --served-model-name gemma --max-model-len 2048 --max-num-seqs 4 --disable-uvicorn-access-log --runner pooling --convert embed", NULL},
        {"/m/r/model.safetensors", TASK_RERANK, {0}, "/m/r --uds %s --served-model-name gemma --max-model-len 2048 --max-num-seqs 4 --disable-uvicorn-access-log --runner pooling --convert classify", NULL},
        {"/m/t/model.safetensors", TASK_TEXT, {keys, values, 2}, "/m/t --uds %s --served-model-name gemma --max-model-len 2048 --max-num-seqs 4 --disable-uvicorn-access-log --tensor-parallel-size 2 "
         "--tool-call-parser hermes --enable-auto-tool-choice", NULL},
        {"/m/t/model.safetensors", TASK_TEXT, {bad_keys, values, 1}, NULL, "trustRemoteCode"},
        {"/m/t/model.safetensors", TASK_TEXT, {keys, bad_values, 1}, NULL, "a word or a number"},
        {NULL, TASK_TEXT, {0}, NULL, "spec.engine.url"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct err err = ERR_INIT;
        struct engine_plan plan = {0};
        struct engine_paths p = paths();
        struct model_replica mr = replica("vllm");
        p.vllm = vllm;
        mr.spec.engine.embeddings = cases[i].task == TASK_EMBEDDINGS;
        mr.spec.engine.rerank = cases[i].task == TASK_RERANK;
        mr.spec.engine.options = cases[i].options;
        if (cases[i].wrong) {
            assert_true(plan_of(&p, &mr, cases[i].file, &plan, &err) < 0);
            assert_non_null(strstr(err.msg, cases[i].wrong));
            continue;
        }
        ASSERT_OK(plan_of(&p, &mr, cases[i].file, &plan, &err));
        const char *at = strstr(cases[i].want, "%s");
        assert_string_equal(joined(plan.argv), arena_printf(arena, "%s serve %.*s%s%s", vllm, (int)(at - cases[i].want), cases[i].want, sock, at + 2));
        assert_string_equal(plan.address, arena_printf(arena, "unix:%s", sock));
        for (size_t e = 0; plan.env[e]; e++)
            assert_null(strstr(plan.env[e], "SEKI"));
    }
}

static void test_adapters_on_command_lines(void **state)
{
    (void)state;
    static const struct model_adapter adapters[] = {{"north", "n"}, {"org/south", "s"}};
    static const char *const files[] = {"/a/n.gguf", "/a/s/adapter_model.safetensors"};
    struct engine_paths p = paths();
    p.vllm = p.llama_server = make("program", 0700);
    for (int i = 0; i < 2; i++) {
        struct err err = ERR_INIT;
        struct engine_plan plan = {0};
        struct model_replica mr = replica(i ? "vllm" : "llamacpp");
        mr.spec.adapters = (struct field_list){(void *)(uintptr_t)adapters, 2};
        mr.spec.adapter_files = files;
        ASSERT_OK(plan_of(&p, &mr, "/m/x.gguf", &plan, &err));
        assert_non_null(strstr(joined(plan.argv), i ? " --enable-lora --max-loras 2 --lora-modules north=/a/n.gguf org/south=/a/s" : " --lora /a/n.gguf --lora /a/s/adapter_model.safetensors"));
        assert_true(i || strstr(joined(plan.argv), " --lora-init-without-apply"));
    }
}

static void test_vllm_and_sglang_elsewhere(void **state)
{
    (void)state;
    static const char *const drivers[] = {"vllm", "sglang"};
    for (size_t i = 0; i < ARRAY_LEN(drivers); i++) {
        struct err err = ERR_INIT;
        struct engine_plan plan = {0};
        struct engine_tokens own;
        struct engine_paths p = paths();
        struct model_replica mr = replica(drivers[i]);
        mr.spec.engine.url = "https://models.example.com/v1";
        mr.spec.engine.remote_model = "org/model";
        ASSERT_OK(plan_of(&p, &mr, NULL, &plan, &err));
        assert_null(plan.argv);
        assert_string_equal(plan.address, "https://models.example.com");
        assert_string_equal(plan.engine_model, "org/model");
        assert_true(engine_is_remote(&mr.spec.engine));
        assert_string_equal(engine_find(drivers[i])->salt_member, "cache_salt");
        if (engine_find(drivers[i])->poke) /* others' servers are left alone */
            ASSERT_OK(engine_find(drivers[i])->poke(&plan, TASK_TEXT, 1, &own, &err));
    }
    struct err err = ERR_INIT;
    struct engine_plan plan = {0};
    struct engine_paths p = paths();
    struct model_replica mr = replica("sglang");
    ASSERT_ERR(plan_of(&p, &mr, "/m", &plan, &err), ERR_INVALID);
    mr = replica("vllm");
    assert_false(engine_is_remote(&mr.spec.engine));
    ASSERT_ERR(plan_of(&p, &mr, "/m/a.safetensors", &plan, &err), ERR_UNAVAILABLE);
    assert_non_null(strstr(err.msg, "--engine-vllm"));
}

static void test_metrics_of_several_ranks_are_added_up(void **state)
{
    (void)state;
    double v;
    struct str text = STR("# HELP vllm:x x\nvllm:x{engine=\"0\"} 3\nvllm:x_total 9\nvllm:x{engine=\"1\"} 4\nvllm:x{engine=\"2\"} NaN\n");
    assert_true(engine_metric_sum(text, "vllm:x", &v) && v > 6.9 && v < 7.1);
    assert_false(engine_metric_sum(text, "vllm:y", &v));
    assert_false(engine_metric_sum(STR("a 9e17\na 9e17\n"), "a", &v));
}

/* ---- openai ---- */

static void test_openai_addresses(void **state)
{
    (void)state;
    static const struct {
        const char *url, *address, *base;
    } cases[] = {
        {"https://8.8.8.8:8000/v1", "https://8.8.8.8:8000", "/v1"},
        {"http://192.0.2.7:8000/v1", "http://192.0.2.7:8000", "/v1"},
        {"http://192.0.2.7:8000/v1///", "http://192.0.2.7:8000", "/v1"},
        {"http://192.0.2.7:8000", "http://192.0.2.7:8000", "/v1"},
        {"http://192.0.2.7:8000/", "http://192.0.2.7:8000", "/v1"},
        {"https://api.example.com/openai/v1", "https://api.example.com", "/openai/v1"},
        {"https://[2001:4860::1]:8443/x", "https://[2001:4860::1]:8443", "/x"},
        {"unix:/run/other/engine.sock", "unix:/run/other/engine.sock", "/v1"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct err err = ERR_INIT;
        struct engine_plan plan;
        struct reach reach;
        struct engine_paths p = paths();
        struct model_replica mr = replica("openai");
        ASSERT_OK(reach_parse("192.0.2.0/24, unix:/run/other/", &reach, &err));
        p.remote = &reach;
        mr.spec.engine.url = cases[i].url;
        ASSERT_OK(plan_of(&p, &mr, NULL, &plan, &err));
        assert_string_equal(plan.address, cases[i].address);
        assert_string_equal(plan.base_path, cases[i].base);
        assert_string_equal(plan.engine_model, "gemma");
        assert_null(plan.argv);
        mr.spec.engine.remote_model = "big";
        ASSERT_OK(plan_of(&p, &mr, NULL, &plan, &err));
        assert_string_equal(plan.engine_model, "big");
        reach_deinit(&reach);
    }
}

/* What a tenant may not name, with nothing allowed and with one network allowed. */
static void test_openai_addresses_that_are_not_public(void **state)
{
    (void)state;
    static const struct {
        const char *url, *allow, *says;
    } cases[] = {
        {"http://8.8.8.8/v1", "", "engine-remote-allow"},
        {"http://api.example.com/v1", "", "engine-remote-allow"},
        {"https://127.0.0.1:6440", "", "engine-remote-allow"},
        {"https://localhost", "", "engine-remote-allow"},
        {"https://localhost:6440", "", "engine-remote-allow"},
        {"https://169.254.169.254/latest", "", "engine-remote-allow"},
        {"https://10.0.0.1", "", "engine-remote-allow"},
        {"https://[::1]:6440/", "", "engine-remote-allow"},
        {"https://[::ffff:127.0.0.1]", "", "engine-remote-allow"},
        {"https://[fe80::1]", "", "engine-remote-allow"},
        {"unix:/run/docker.sock", "", "engine-remote-allow"},
        {"unix:/run/docker.sock", "unix:/run/other.sock", "engine-remote-allow"},
        {"unix:/run/x/../docker.sock", "unix:/run/x/", "engine-remote-allow"},
        {"http://10.2.0.1", "10.1.0.0/16", "engine-remote-allow"},
        {"http://8.8.8.8", "10.1.0.0/16", "engine-remote-allow"},
        {"https://user@8.8.8.8", "", "base URL"},
        {"https://8.8.8.8\\@10.0.0.1", "", "base URL"},
        {"https://8.8.8.8/?x", "", "base URL"},
        {"https://8.8.8.8/#x", "", "base URL"},
        {"https://8.8.8.8/v1\r\nX: y", "", "base URL"},
        {"https://", "", "base URL"},
        {"https:///v1", "", "base URL"},
        {"https://:443", "", "base URL"},
        {"https://[]", "", "base URL"},
        {"https://8.8.8.8:0", "", "base URL"},
        {"https://8.8.8.8:x", "", "base URL"},
        {"ftp://8.8.8.8", "", "base URL"},
        {"HTTPS://8.8.8.8", "", "base URL"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct err err = ERR_INIT;
        struct engine_plan plan;
        struct reach reach;
        struct engine_paths p = paths();
        struct model_replica mr = replica("openai");
        ASSERT_OK(reach_parse(cases[i].allow, &reach, &err));
        p.remote = &reach;
        mr.spec.engine.url = cases[i].url;
        if (plan_of(&p, &mr, NULL, &plan, &err) != ERR_INVALID || strcmp(err.field, "spec.engine.url") != 0 || !strstr(err.msg, cases[i].says))
            fail_msg("%s with \"%s\": %s: %s", cases[i].url, cases[i].allow, err.field, err.msg);
        reach_deinit(&reach);
    }
}

/* ---- keys of engines elsewhere ---- */

static void test_a_key_is_for_one_address(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    const struct engine_paths p = paths();
    const char *path = in_dir(UID ".token");
    struct stat before, after;
    char *key;
    bool changed;
    ASSERT_ERR(engine_secret_read(&p, UID, "https://a", arena, &key, &err), ERR_NOT_FOUND);
    ASSERT_OK(engine_secret_write(&p, UID, "https://a", STR("s3cret"), &changed, &err));
    assert_true(changed);
    assert_int_equal(stat(path, &before), 0);
    assert_int_equal(before.st_mode & 07777, 0600);
    ASSERT_OK(engine_secret_read(&p, UID, "https://a", arena, &key, &err));
    assert_string_equal(key, "s3cret");
    ASSERT_ERR(engine_secret_read(&p, UID, "https://evil", arena, &key, &err), ERR_NOT_FOUND);
    ASSERT_ERR(engine_secret_read(&p, UID, "https://a\ns3cret", arena, &key, &err), ERR_NOT_FOUND);
    ASSERT_OK(engine_secret_write(&p, UID, "https://a", STR("s3cret"), &changed, &err)); /* not written again */
    assert_false(changed);
    assert_int_equal(stat(path, &after), 0);
    assert_true(before.st_ino == after.st_ino && before.st_mtim.tv_nsec == after.st_mtim.tv_nsec);
    ASSERT_OK(engine_secret_write(&p, UID, "https://a", STR("other"), &changed, &err));
    assert_true(changed);
    engine_secret_remove(&p, UID);
    assert_false(file_exists(path));
}

static void test_no_other_file_is_read_as_a_key(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    const struct engine_paths p = paths();
    const char *path = in_dir(UID ".token");
    static const char *const uids[] = {"", "x", "../../../../etc/passwd", "11111111-2222-3333-4444-55555555555", "11111111-2222-3333-4444-5555555555555", "1111111/-2222-3333-4444-555555555555",
                                       "11111111-2222-3333-4444-55555555555G"};
    char *key;
    for (size_t i = 0; i < ARRAY_LEN(uids); i++) {
        ASSERT_ERR(engine_secret_read(&p, uids[i], "https://a", arena, &key, &err), ERR_INVALID);
        ASSERT_ERR(engine_secret_write(&p, uids[i], "https://a", STR("k"), NULL, &err), ERR_INVALID);
    }
    ASSERT_ERR(engine_secret_read(&p, NULL, "https://a", arena, &key, &err), ERR_INVALID);
    ASSERT_OK(file_write(in_dir("secret"), STR("https://a\nk"), 0600, &err));
    assert_int_equal(symlink(in_dir("secret"), path), 0);
    assert_true(engine_secret_read(&p, UID, "https://a", arena, &key, &err) < 0);
    assert_int_equal(unlink(path), 0);
    ASSERT_OK(file_write(path, STR("https://a\nk"), 0640, &err));
    assert_int_equal(chmod(path, 0640), 0);
    ASSERT_ERR(engine_secret_read(&p, UID, "https://a", arena, &key, &err), ERR_INVALID);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkfifo(path, 0600), 0);
    ASSERT_ERR(engine_secret_read(&p, UID, "https://a", arena, &key, &err), ERR_INVALID);
}

static bool only_this(void *arg, struct str uid_prefix)
{
    return str_starts(str_of(arg), uid_prefix) && uid_prefix.len >= 8;
}

static void test_what_nobody_knows_is_swept(void **state)
{
    (void)state;
    const struct engine_paths p = paths();
    static const char *const names[] = {UID ".token", "11111111-2222-3333.sock", "99999999-2222-3333-4444-555555555555.token", "99999999-2222-3333.sock", UID ".token.tmp", "note"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        make(names[i], 0600);
    engine_files_sweep(&p, only_this, (void *)(uintptr_t)UID);
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        assert_int_equal(file_exists(in_dir(names[i])), i != 2 && i != 3);
}

static void test_openai_is_no_way_around_the_gateway(void **state)
{
    (void)state;
    struct engine_plan plan;
    struct engine_paths p = paths();
    struct reach reach;
    struct model_replica mr = replica("openai");
    assert_int_equal(reach_parse(arena_printf(arena, "unix:%s/", dir), &reach, NULL), 0); /* not even where the operator has named it */
    p.remote = &reach;
    make("other.sock", 0600);
    assert_int_equal(symlink(in_dir("other.sock"), in_dir("link")), 0);
    assert_int_equal(mkdir(in_dir("sub"), 0700), 0);
    const char *const urls[] = {arena_printf(arena, "unix:%s", in_dir("other.sock")), arena_printf(arena, "unix:%s", in_dir("link")), arena_printf(arena, "unix:%s", in_dir("sub/../other.sock"))};
    for (size_t i = 0; i < ARRAY_LEN(urls); i++) {
        struct err err = ERR_INIT;
        mr.spec.engine.url = urls[i];
        ASSERT_ERR(plan_of(&p, &mr, NULL, &plan, &err), ERR_INVALID);
        assert_string_equal(err.field, "spec.engine.url");
    }
    struct err err = ERR_INIT;
    mr.spec.engine.url = NULL;
    ASSERT_ERR(plan_of(&p, &mr, NULL, &plan, &err), ERR_INVALID);
    assert_string_equal(err.field, "spec.engine.url");
    reach_deinit(&reach);
}

/* ---- metrics ---- */

static void test_metrics_are_read_with_care(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        double want; /* -1: not found */
    } cases[] = {
        {"m 5\n", 5},
        {"m 5", 5},
        {"m\t5\n", 5},
        {"m 5 1790000000000\n", 5},
        {"m{a=\"b\",c=\"d\"} 7\n", 7},
        {"# HELP m 3\n# TYPE m counter\nm 4\n", 4},
        {"mm 3\nm_total 4\nm 6\n", 6},
        {"m 1.5e3\n", 1500},
        {"m 0\n", 0},
        {"m NaN\nm 9\n", 9},
        {"m -1\n", -1},
        {"m +Inf\n", -1},
        {"m 1e18\n", -1},
        {"m 1e400\n", -1},
        {"m\n", -1},
        {"m \n", -1},
        {"m x\n", -1},
        {"m{ 5\n", -1},
        {"m{a=\"}\"} 5\n", -1}, /* not understood is not guessed */
        {"m5\n", -1},
        {" m 5\n", -1},
        {"", -1},
        {"m 99999999999999999999999999999999999999999999999999999999999999999999999999999999\n", -1},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        double v = -1;
        bool found = engine_metric(str_of(cases[i].text), "m", &v);
        if (found != (cases[i].want >= 0) || (found && !(v >= cases[i].want && v <= cases[i].want)))
            fail_msg("case %zu, \"%s\": %s %f", i, cases[i].text, found ? "found" : "not found", v);
    }
    double v;
    assert_false(engine_metric(str_n("m 5\0 6\n", 2), "m", &v)); /* cut off */
    assert_false(engine_metric(str_n("\0\0m 5\n", 7), "m", &v));
}

/* ---- liveness: tokens, not answers ---- */

#define STALL 60000
#define IDLE 60000

static struct engine_liveness fresh(uint64_t now)
{
    return (struct engine_liveness){.last_progress_ms = now, .last_poke_ms = now};
}

static struct engine_health health(int64_t running, int64_t tokens)
{
    return (struct engine_health){.serving = true, .requests_running = running, .tokens_total = tokens};
}

static enum engine_verdict feed(struct engine_liveness *l, uint64_t now, int code, int64_t running, int64_t tokens)
{
    const struct engine_health h = health(running, tokens);
    return engine_liveness_feed(l, now, code, &h, STALL, IDLE);
}

static void test_no_answer_three_times_is_hung(void **state)
{
    (void)state;
    struct engine_liveness l = fresh(0);
    assert_int_equal(feed(&l, 1000, ERR_TIMEOUT, -1, -1), ENGINE_OK);
    assert_int_equal(feed(&l, 2000, ERR_TIMEOUT, -1, -1), ENGINE_OK);
    assert_int_equal(feed(&l, 3000, 0, 0, 5), ENGINE_OK); /* it was only slow */
    assert_int_equal(feed(&l, 4000, ERR_CLOSED, -1, -1), ENGINE_OK);
    assert_int_equal(feed(&l, 5000, ERR_TIMEOUT, -1, -1), ENGINE_OK);
    assert_int_equal(feed(&l, 6000, ERR_TIMEOUT, -1, -1), ENGINE_HUNG);
}

static void test_requests_without_tokens_are_hung(void **state)
{
    (void)state;
    struct engine_liveness l = fresh(0);
    assert_int_equal(feed(&l, 500000, 0, 0, 7), ENGINE_OK);
    assert_int_equal(feed(&l, 510000, 0, 1, 7), ENGINE_OK); /* work begins: the idle time before it does not count */
    assert_int_equal(feed(&l, 510000 + STALL - 1, 0, 1, 7), ENGINE_OK);
    assert_int_equal(feed(&l, 510000 + STALL, 0, 1, 7), ENGINE_HUNG);
}

static void test_a_busy_engine_is_never_poked(void **state)
{
    (void)state;
    struct engine_liveness l = fresh(0);
    for (uint64_t now = 0, tokens = 1; now < 3600000; now += 2000)
        assert_int_equal(feed(&l, now, 0, 1, (int64_t)tokens++), ENGINE_OK);
}

/* Requests that come and go between two looks leave their tokens. */
static void test_traffic_between_looks_proves_life(void **state)
{
    (void)state;
    struct engine_liveness l = fresh(0);
    for (uint64_t now = 0, tokens = 1; now < 3600000; now += IDLE / 2)
        assert_int_equal(feed(&l, now, 0, 0, (int64_t)tokens++), ENGINE_OK);
}

static void test_an_idle_engine_is_poked_once_a_minute(void **state)
{
    (void)state;
    struct engine_liveness l = fresh(0);
    unsigned pokes = 0;
    int64_t tokens = 10;
    for (uint64_t now = 0; now < 3600000; now += 2000)
        if (feed(&l, now, 0, 0, tokens) == ENGINE_NEEDS_POKE) {
            pokes++;
            tokens += 2; /* which the poke itself makes */
        }
    assert_in_range(pokes, 55, 60);
    /* An engine that counts nothing is not asked more often. */
    l = fresh(0);
    pokes = 0;
    for (uint64_t now = 0; now < 3600000; now += 2000)
        pokes += feed(&l, now, 0, -1, -1) == ENGINE_NEEDS_POKE;
    assert_in_range(pokes, 55, 60);
}

static void test_without_counters_busy_is_not_hung(void **state)
{
    (void)state;
    struct engine_liveness l = fresh(0);
    assert_int_equal(feed(&l, 0, 0, 1, -1), ENGINE_OK);
    assert_int_equal(feed(&l, 10 * STALL, 0, 1, -1), ENGINE_OK);
}

#define TEST(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

static const struct engine_tokenizer *tokenizer_of(const char *driver)
{
    return engine_find(driver)->tokenizer;
}

/* What is sent, behind its path; "none": it cannot be asked that. */
static const char *question(const char *driver, enum engine_question q, const char *value)
{
    struct sbuf out;
    sbuf_init(&out, 4096);
    const char *path = engine_tokenizer_question(tokenizer_of(driver), q, "m\"x", str_of(value), &out);
    const char *text = path ? arena_printf(arena, "%s %.*s", path, STR_ARG(sbuf_str(&out))) : "none";
    sbuf_deinit(&out);
    return text;
}

static void test_tokenizers_are_asked_in_their_own_words(void **state UNUSED)
{
    assert_string_equal(question("llamacpp", ENGINE_ASK_TEXT, "\"a\""), "/tokenize {\"add_special\":false,\"content\":\"a\"}");
    assert_string_equal(question("llamacpp", ENGINE_ASK_PROMPT, "\"a\""), "/tokenize {\"add_special\":true,\"parse_special\":true,\"content\":\"a\"}");
    assert_string_equal(question("llamacpp", ENGINE_ASK_TEMPLATE, "[1]"), "/apply-template {\"messages\":[1]}");
    assert_string_equal(question("llamacpp", ENGINE_ASK_CHAT, "[1]"), "none");
    assert_string_equal(question("vllm", ENGINE_ASK_TEXT, "\"a\""), "/tokenize {\"model\":\"m\\\"x\",\"add_special_tokens\":false,\"prompt\":\"a\"}");
    assert_string_equal(question("vllm", ENGINE_ASK_PROMPT, "\"a\""), "/tokenize {\"model\":\"m\\\"x\",\"prompt\":\"a\"}");
    assert_string_equal(question("vllm", ENGINE_ASK_CHAT, "[1]"), "/tokenize {\"model\":\"m\\\"x\",\"messages\":[1]}");
    assert_string_equal(question("sglang", ENGINE_ASK_PROMPT, "\"a\""), "/tokenize {\"model\":\"m\\\"x\",\"prompt\":\"a\"}");
    assert_string_equal(question("sglang", ENGINE_ASK_CHAT, "[1]"), "none");
    assert_null(tokenizer_of("openai"));
}

static void test_queues_and_memory_of_engines(void **state UNUSED)
{
    static const struct engine_metric_names names = {.running = "e:running", .waiting = "e:waiting", .kv_used = {"e:kv", "e:old_kv"}};
    struct engine_health h = ENGINE_HEALTH_UNKNOWN;
    engine_read_load(STR("e:other 1\n"), &names, &h);
    assert_true(h.requests_running == -1 && h.requests_waiting == -1 && h.kv_used == -1);
    engine_read_load(STR("e:running 4\ne:waiting{rank=\"0\"} 1\ne:waiting{rank=\"1\"} 2\ne:kv{rank=\"0\"} 0.25\ne:kv{rank=\"1\"} 0.875\ne:old_kv 1\n"), &names, &h);
    assert_true(h.requests_running == 4 && h.requests_waiting == 3 && h.kv_used == 875);
    h = ENGINE_HEALTH_UNKNOWN;
    engine_read_load(STR("e:waiting -1\ne:kv 1.5\ne:old_kv NaN\n"), &names, &h);
    assert_true(h.requests_waiting == -1 && h.kv_used == -1);
    engine_read_load(STR("e:old_kv 1\n"), &names, &h);
    assert_int_equal(h.kv_used, 1000);
}

static void test_only_sound_counts_are_believed(void **state UNUSED)
{
    static const struct {
        const char *driver, *answer;
        int64_t want; /* -1: it is not believed */
    } of[] = {{"llamacpp", "{\"tokens\":[]}", 0}, {"llamacpp", "{\"tokens\":[ 1, 22,\n333 ]}", 3}, {"llamacpp", "{\"tokens\":[1,\"2\"]}", -1}, {"llamacpp", "{\"tokens\":[1,[2,3]]}", -1},
              {"llamacpp", "{\"tokens\":7}", -1}, {"llamacpp", "{\"count\":7}", -1}, {"llamacpp", "{\"error\":{}}", -1}, {"vllm", "{\"count\":7,\"tokens\":[1]}", 7}, {"vllm", "{\"count\":0}", 0},
              {"vllm", "{\"count\":-1}", -1}, {"vllm", "{\"count\":1000000001}", -1}, {"vllm", "{\"count\":1.5}", -1}, {"vllm", "{\"count\":\"7\"}", -1}, {"vllm", "{}", -1}, {"vllm", "", -1}, {"vllm", "[7]", -1}};
    for (size_t i = 0; i < ARRAY_LEN(of); i++) {
        int64_t got = -1;
        assert_int_equal(engine_tokenizer_count(tokenizer_of(of[i].driver), str_of(of[i].answer), &got), of[i].want >= 0);
        assert_int_equal(got, of[i].want);
    }
    struct str prompt;
    assert_true(engine_tokenizer_prompt(STR("{\"prompt\":\"<bos>a\\n\"}"), &prompt) && str_eqc(prompt, "\"<bos>a\\n\""));
    assert_false(engine_tokenizer_prompt(STR("{\"prompt\":[1]}"), &prompt));
    assert_false(engine_tokenizer_prompt(STR("{}"), &prompt));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_drivers_by_name),
        TEST(test_llamacpp_command_lines),
        TEST(test_llama_server_on_path_is_used),
        TEST(test_missing_llamacpp_says_what_to_install),
        TEST(test_socket_paths_are_bounded),
        TEST(test_fake_command_line),
        TEST(test_vllm_command_lines),
        TEST(test_adapters_on_command_lines),
        TEST(test_vllm_and_sglang_elsewhere),
        TEST(test_metrics_of_several_ranks_are_added_up),
        TEST(test_openai_addresses),
        TEST(test_openai_is_no_way_around_the_gateway),
        TEST(test_openai_addresses_that_are_not_public),
        TEST(test_a_key_is_for_one_address),
        TEST(test_no_other_file_is_read_as_a_key),
        TEST(test_what_nobody_knows_is_swept),
        cmocka_unit_test(test_metrics_are_read_with_care),
        cmocka_unit_test(test_no_answer_three_times_is_hung),
        cmocka_unit_test_setup_teardown(test_tokenizers_are_asked_in_their_own_words, set_up, tear_down),
        cmocka_unit_test(test_queues_and_memory_of_engines),
        cmocka_unit_test(test_only_sound_counts_are_believed),
        cmocka_unit_test(test_requests_without_tokens_are_hung),
        cmocka_unit_test(test_a_busy_engine_is_never_poked),
        cmocka_unit_test(test_traffic_between_looks_proves_life),
        cmocka_unit_test(test_an_idle_engine_is_poked_once_a_minute),
        cmocka_unit_test(test_without_counters_busy_is_not_hung),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
