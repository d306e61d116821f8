/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What `kvengine verify` tells of weights. The rest of it is tests/cli/test_verify.sh. */
#include "engine/verify.h"
#include "tests/unit/engine_model.h"

#include "engine/tokenizer.h"

static const struct kv_config gqa = {"r", LLAMA, 3, 48, 8, 4, 16, .vocab = 300};

static const char *judge(struct fixture *f, int32_t *token, int64_t n)
{
    const char *mechanics = "?";
    struct kv_prompt prompt = {"prompt", token, n};
    open_backend(f, 4, 1 << 24, 1);
    struct kv_host host = {.weights = f->w, .backend = f->b};
    struct kv_verify c = {.host = &host, .prompt = &prompt, .arena = f->a};
    MUST(kv_verify_weights(&c, &mechanics, &f->e));
    assert_int_equal(f->b->ops->use(f->b).pages_live, 0);
    return mechanics;
}

static void random_weights_are_known(void **state)
{
    struct fixture *f = *state;
    for (uint64_t seed = 0; seed < 20; seed++) {
        open_model(f, &gqa, KV_TENSOR_F32, seed);
        const char *said = judge(f, draw_tokens(f, 90, seed), 90);
        assert_non_null(said);
        assert_non_null(strstr(said, "config.json"));
        f->w.config.random = false; /* as of a stranger, who does not say so */
        said = judge(f, draw_tokens(f, 90, seed), 90);
        if (!said || !strstr(said, "no likelier than chance"))
            fail_msg("seed %d: '%s'", (int)seed, said ? said : "trained");
    }
}

static void trained_weights_know_text_and_not_noise(void **state)
{
    struct fixture *f = *state;
    static const char text[] = "The package manager keeps a list of the files that belong to each package, so that it "
                               "can remove them again when the package is no longer wanted by the system.";
    struct kv_tokenizer *tokenizer;
    int32_t *id;
    int64_t n;
    open_recall(f);
    MUST(kv_tokenizer_open(&tokenizer, "models/recall-870k/tokenizer.json", &f->e));
    MUST(kv_tokenizer_encode(tokenizer, text, strlen(text), false, true, &id, &n, &f->e));
    const char *said = judge(f, id, n);
    if (said)
        fail_msg("%d tokens of text: %s", (int)n, said);
    assert_null(judge(f, id, 1)); /* nothing to tell by */
    assert_non_null(judge(f, draw_tokens(f, 90, 3), 90));
    free(id);
    kv_tokenizer_close(tokenizer);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, engine_set_up, engine_tear_down)
    const struct CMUnitTest tests[] = {
        TEST(random_weights_are_known),
        TEST(trained_weights_know_text_and_not_noise),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
