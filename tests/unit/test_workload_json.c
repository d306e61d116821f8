/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Mooncake's JSON lines, vLLM's results and logs. */
#include "tests/unit/workload_case.h"

/* ---- Mooncake ---- */

static void mooncake_is_read_however_it_is_written(void **state)
{
    struct fixture *f = *state;
    static const uint64_t blocks[] = {0, 7, 123456789012};
    static const char *const lines[] = {
        "{\"timestamp\": 27000, \"input_length\": 1025, \"output_length\": 9, \"hash_ids\": [0, 7, 123456789012]}",
        "{\"timestamp\":27000,\"input_length\":1025,\"output_length\":9,\"hash_ids\":[0,7,123456789012]}",
        "{\"hash_ids\": [0, 7,\t123456789012], \"output_length\": 9, \"timestamp\": 27000.0, \"input_length\": 1025}",
        "  {\"timestamp\": 27e3, \"input_length\": 1025, \"output_length\": 9, \"hash_ids\": [0, 7, 123456789012], "
        "\"x\": "
        "{\"y\": [1]}}  ",
    };
    for (int i = 0; i < 4; i++) {
        const char *text = kv_format(f->arena, "%s\n%s\n\n%s\n", lines[0], lines[i], lines[i]);
        assert_true(open_text(f, text, ""));
        assert_string_equal(kv_workload_format(f->w), "mooncake");
        for (int row = 0; row < 3; row++) {
            check_blocks(f, 3, blocks, 512);
        }
        check_end(f);
        assert_true(kv_workload_rewind(f->w, &f->e));
        check_next(f, 27, 1025, 9);
    }
}

static void bad_json_is_said_with_its_place(void **state)
{
    struct fixture *f = *state;
    static const struct {
        const char *line, *message;
    } known[] = {
        {"{\"timestamp\": 1, \"input_length\": 512, \"output_length\": 1, \"hash_ids\": [1, 2]}",
         ":1:1: 2 block hashes for a prompt of 512 tokens, which in blocks of 512 takes 1; if the blocks are of "
         "another "
         "size, set [workload] block_tokens (--block-tokens)"},
        {"{\"timestamp\": 1, \"input_length\": 0, \"output_length\": 1}",
         ":1:18: \"input_length\" is 0; expected 1 .. 1073741824 tokens (a request that failed? leave such rows out "
         "with --skip-bad)"},
        {"{\"timestamp\": 1, \"input_length\": 1e30, \"output_length\": 1}",
         ":1:18: \"input_length\" is 1e+30; expected 1 .. 1073741824 tokens"},
        {"{\"timestamp\": 1, \"input_length\": \"12\", \"output_length\": 1}",
         ":1:18: \"input_length\" is not a whole number"},
        {"{\"timestamp\": 1, \"input_length\": 12}", ":1:1: no \"output_length\""},
        {"{\"timestamp\": -1, \"input_length\": 12, \"output_length\": 1}",
         ":1:2: \"timestamp\" is no time from 0 to 4e9 s"},
        {"{\"timestamp\": 1, \"input_length\": 12, \"output_length\": 1, \"hash_ids\": [\"a\"]}",
         ":1:58: \"hash_ids\" holds, as number 1, what is no whole number from 0 on"},
        {"{\"timestamp\": 1, \"input_length\": 12, \"output_length\": 1, \"hash_ids\": [[[1]]]}",
         ":1:58: \"hash_ids\" holds, as number 1, what is no whole number from 0 on"},
        {"{\"timestamp\": 1, \"input_length\": 12, \"output_length\": 1, \"hash_ids\": 3}",
         ":1:58: \"hash_ids\" is no list"},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        check_refused(f, known[i].line, "", known[i].message);
    char deep[5000] = "{\"timestamp\": 1, \"input_length\": ";
    memset(deep + strlen(deep), '[', 4000);
    struct kv_arrival r;
    assert_true(open_text(f, deep, ""));
    assert_int_equal(kv_workload_next(f->w, &r, &f->e), KV_NEXT_BAD);
    assert_non_null(strstr(f->e.text, "maximum parsing depth reached"));
}

static void lengths_alone_may_be_json(void **state)
{
    struct fixture *f = *state;
    static const char text[] = "{\"input_length\": 5, \"output_length\": 1}\n";
    check_refused(
        f, text, "",
        ":1: no times of arrival (a column arrival_s, timestamp, ...); give them, or set [workload] arrivals and rate");
    check_refused(f, "\n{\"input_length\": 5, \"output_length\": 1}\n", "format = mooncake",
                  ":2:1: no time of arrival; give one, or set [workload] arrivals and rate");
    assert_true(open_text(f, text, "arrivals = closed"));
    assert_false(kv_workload_has_blocks(f->w));
    check_next(f, 0, 5, 1);
}

static void rows_that_lack_what_the_first_has_are_refused(void **state)
{
    struct fixture *f = *state;
    assert_true(open_text(f,
                          "{\"timestamp\": 1, \"input_length\": 5, \"output_length\": 1, \"hash_ids\": [1]}\n"
                          "{\"timestamp\": 1, \"input_length\": 5, \"output_length\": 1}\n"
                          "{\"input_length\": 5, \"output_length\": 1, \"hash_ids\": [1]}\n",
                          ""));
    check_next(f, 0.001, 5, 1);
    check_bad(f, ":2:1: has no \"hash_ids\", unlike the first row");
    check_bad(f, ":3:1: has no \"timestamp\", unlike the first row");
}

static void blocks_of_whole_size_alone_are_fine_when_said(void **state)
{
    struct fixture *f = *state;
    static const uint64_t blocks[] = {4, 5};
    static const char text[] =
        "{\"arrival_ns\": 46926808, \"input_length\": 40, \"output_length\": 1, \"hash_ids\": [4, 5]}\n";
    check_refused(
        f, text, "",
        ":1:1: 2 block hashes for a prompt of 40 tokens, which in blocks of 512 takes 1; if the blocks are of "
        "another size, set [workload] block_tokens (--block-tokens)");
    assert_true(open_text(f, text, "block_tokens = 16"));
    check_blocks(f, 2, blocks, 16);
}

/* ---- vLLM ---- */

static void results_of_vllms_benchmark_are_read(void **state)
{
    struct fixture *f = *state;
    assert_true(
        open_text(f,
                  "{\"date\": \"20260120-1\", \"num_prompts\": 3, \"input_lens\": [6000, 5, 70], \"output_lens\": "
                  "[500, 0, 8],\n\"ttfts\": [0.1, 0.2, 0.3], \"start_times\": [353399.725848632, 353400.0, "
                  "353400.485208009], \"generated_texts\": [\"a\", \"\", \"c\"]}",
                  ""));
    assert_string_equal(kv_workload_format(f->w), "vllm");
    check_next(f, 0, 6000, 500);
    check_bad(f, ":1:1: output_lens[1] is not 1 .. 1073741824 (a request that failed? leave such rows out with "
                 "--skip-bad)");
    struct kv_arrival r;
    assert_int_equal(kv_workload_next(f->w, &r, &f->e), KV_NEXT_ROW);
    assert_true(fabs(r.arrival_s - 0.759359377) < 1e-9);
    check_end(f);
    check_refused(f, "{\"input_lens\": [1, 2], \"output_lens\": [1]}", "",
                  ":1:1: input_lens, output_lens and start_times are not equally long");
    check_refused(f, "{\"completed\": 3}", "",
                  ":1:1: no lists input_lens and output_lens; write the result with vllm bench serve --save-result "
                  "--save-detailed");
    check_refused(
        f, "{\"input_lens\": [1], \"output_lens\": [1]}", "",
        ":1: no times of arrival (a column arrival_s, timestamp, ...); give them, or set [workload] arrivals and rate");
}

static void logs_of_vllms_server_are_read(void **state)
{
    struct fixture *f = *state;
    static const char text[] =
        "INFO 02-28 23:59:58 [api_server.py:1] vLLM API server version 0.11\n"
        "(APIServer pid=90458) DEBUG 02-28 23:59:59 [logger.py:40] Request chatcmpl-a details: prompt: 'x "
        "prompt_token_ids: [9, 9]', prompt_token_ids: [1, 22, 333], prompt_embeds shape: None.\n"
        "(APIServer pid=90458) INFO 02-28 23:59:59 [logger.py:49] Received request chatcmpl-a: params: "
        "SamplingParams(n=1, max_tokens=100), lora_request: None.\n"
        "INFO 02-29 00:00:01 logger.py:36] Received request cmpl-b-0: prompt: 'How', params: SamplingParams(n=1, "
        "stop=[], max_tokens=16), prompt_token_ids: [128000, 4438], lora_request: None.\n"
        "INFO 02-29 00:00:01 logger.py:60] Generated response cmpl-b: output: ' to', output_token_ids: [311], "
        "finish_reason: length\n"
        "INFO 02-29 00:00:02 [logger.py:60] Generated response chatcmpl-a (streaming delta): output: 'a', "
        "output_token_ids: [1, 2], finish_reason: None\n"
        "INFO 02-29 00:00:02 [logger.py:60] Generated response chatcmpl-a (streaming delta): output: 'a', "
        "output_token_ids: [3], finish_reason: None\n"
        "INFO 02-29 00:00:02 [logger.py:60] Generated response chatcmpl-a (streaming complete): output: 'aa', "
        "output_token_ids: None, finish_reason: stop\n"
        "INFO 02-29 00:00:03 logger.py:36] Received request cmpl-c-0: prompt: 'How', params: SamplingParams(n=1), "
        "prompt_token_ids: [128000, 4438], lora_request: None.\n";
    assert_true(open_text(f, text, ""));
    assert_string_equal(kv_workload_format(f->w), "vllm");
    check_next(f, 0, 3, 3);
    check_next(f, 2, 2, 1);
    check_bad(f, ":9:1: the request was not answered in the log; start vLLM with --enable-log-outputs, or leave such "
                 "rows out with --skip-bad");
    check_end(f);
    check_refused(f, "INFO 02-28 23:59:58 [x.py:1] hello\n", "",
                  ":1: no \"Received request\" in it; start vLLM with --enable-log-requests");
}

static void a_log_of_many_open_requests_is_held(void **state)
{
    struct fixture *f = *state;
    enum { REQUESTS = 3000 };
    char *text = malloc((size_t)REQUESTS * 300), *end = text;
    assert_non_null(text);
    for (int i = 0; i < REQUESTS; i++)
        end += sprintf(end,
                       "INFO 01-01 00:%02d:%02d logger.py:36] Received request cmpl-%d: prompt_token_ids: [1, 2], x\n",
                       i / 60, i % 60, i);
    for (int i = REQUESTS - 1; i >= 0; i--)
        end += sprintf(end, "INFO 01-01 01:00:00 logger.py:60] Generated response cmpl-%d: output_token_ids: [1%s]\n",
                       i, i % 2 ? ", 5" : "");
    assert_true(open_bytes(f, text, (size_t)(end - text), ""));
    for (int i = 0; i < REQUESTS; i++)
        check_next(f, i, 2, i % 2 ? 2 : 1);
    check_end(f);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(mooncake_is_read_however_it_is_written, set_up, tear_down),
        cmocka_unit_test_setup_teardown(bad_json_is_said_with_its_place, set_up, tear_down),
        cmocka_unit_test_setup_teardown(lengths_alone_may_be_json, set_up, tear_down),
        cmocka_unit_test_setup_teardown(rows_that_lack_what_the_first_has_are_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(blocks_of_whole_size_alone_are_fine_when_said, set_up, tear_down),
        cmocka_unit_test_setup_teardown(results_of_vllms_benchmark_are_read, set_up, tear_down),
        cmocka_unit_test_setup_teardown(logs_of_vllms_server_are_read, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_log_of_many_open_requests_is_held, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
