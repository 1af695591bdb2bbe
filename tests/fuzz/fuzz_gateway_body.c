/* Bodies on their way to the engine: what is sent is JSON again, with the gateway's own members, without those that are not the client's to say, and otherwise equal to what came. */
#include "fuzz.h"

#include "base/mem.h"
#include "gateway/body.h"
#include "json/json.h"

#define INPUT_MAX 65536

static const char *const not_theirs[] = {"id_slot", "cache_prompt", "n_cache_reuse", "lora", "cache_salt", "kv_transfer_params", "priority", "extra_key", "rid", "session_params", "lora_path",
                                         "data_parallel_rank", "bootstrap_host", "bootstrap_port", "bootstrap_room", "custom_logit_processor"};

/* What should be sent. */
static void expect(json_t *doc, const struct request_body *b, const char *engine_model, bool put_in)
{
    for (size_t i = 0; i < ARRAY_LEN(not_theirs); i++)
        json_object_del(doc, not_theirs[i]);
    if (engine_model)
        json_object_set_new(doc, "model", json_string(engine_model));
    if (put_in) {
        json_object_set_new(doc, "id_slot", json_integer(3));
        json_object_set_new(doc, "cache_prompt", json_false());
    }
    if (!b->stream || b->usage_wanted)
        return;
    if (!json_is_object(json_object_get(doc, "stream_options")))
        json_object_set_new(doc, "stream_options", json_object());
    json_object_set_new(json_object_get(doc, "stream_options"), "include_usage", json_true());
}

static void try_one(struct str text, const json_t *came, const struct request_body *b, const char *engine_model, bool put_in)
{
    CLEANUP(sbuf_deinit) struct sbuf out = {0};
    struct iovec pieces[BODY_PIECES_MAX];
    struct arena *a = arena_new(1 << 20);
    JSON_AUTO want = json_deep_copy(came);
    JSON_AUTO got = NULL;
    sbuf_init(&out, 2 * INPUT_MAX + 4096);
    int n = request_body_pieces(b, engine_model, put_in ? STR("\"id_slot\":3,\"cache_prompt\":false") : STR(""), a, pieces);
    if (n < 1 || n > BODY_PIECES_MAX)
        abort();
    for (int i = 0; i < n; i++)
        sbuf_add(&out, str_n(pieces[i].iov_base, pieces[i].iov_len));
    expect(want, b, engine_model, put_in);
    if (json_parse(sbuf_str(&out), 2 * INPUT_MAX + 4096, &got, NULL) < 0 || !json_equal(got, want))
        abort();
    if (!engine_model && !put_in && json_equal(came, want) && !str_eq(sbuf_str(&out), text) && !b->stream)
        abort(); /* nothing was to be changed: not a byte is */
    arena_free(a);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct request_body b = {0};
    JSON_AUTO came = NULL;
    if (size > INPUT_MAX)
        return 0;
    char *copy = xcalloc(1, size + 1); /* its own block: reading on is seen */
    memcpy(copy, data, size);
    struct str text = str_n(copy, size);
    /* What only the scanner accepts (json/span.h), such as a member that is there twice deep inside, cannot be compared. */
    if (request_body_read(text, "messages", true, &b, NULL) == 0 && json_parse(text, INPUT_MAX, &came, NULL) == 0) {
        try_one(text, came, &b, NULL, false);
        try_one(text, came, &b, "e\"ngine", true);
    }
    mem_free(copy);
    return 0;
}
