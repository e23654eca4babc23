/* SPDX-License-Identifier: MIT
 * What an engine says about its steps: the trace's events, and whose tokens they were.
 */
#include "helpers.h"

#include <jansson.h>
#include <math.h>
#include <string.h>

#define MIXED PG_TEST_DATA "/gen_moe/mixed.gguf" /* four blocks, of which the second is dense */

/* Bit b: an event of this name says block b. */
static unsigned blocks_of(const json_t *events, const char *name)
{
    unsigned set = 0;
    size_t i;
    json_t *e;
    json_array_foreach(events, i, e)
    {
        const json_t *block = json_object_get(json_object_get(e, "args"), "block");
        if (block && !strcmp(json_string_value(json_object_get(e, "name")), name))
            set |= 1u << json_integer_value(block);
    }
    return set;
}

/* What the events of this name and block took together. */
static double seconds_of(const json_t *events, const char *name, int block)
{
    double sum = 0;
    size_t i;
    json_t *e;
    json_array_foreach(events, i, e)
    {
        const json_t *at = json_object_get(json_object_get(e, "args"), "block");
        if (at && json_integer_value(at) == block &&
            !strcmp(json_string_value(json_object_get(e, "name")), name))
            sum += json_number_value(json_object_get(e, "dur")) * 1e-6;
    }
    return sum;
}

static pg_engine *open_mixed(struct pg_options *opt)
{
    struct pg_err err;
    pg_engine *e;
    opt->size = sizeof(*opt);
    opt->model = MIXED;
    opt->memory_bytes = 256u << 20;
    opt->n_threads = 1;
    must(pg_engine_open(&e, opt, &err), &err);
    return e;
}

/* Blocks are the model's in all events, those of the store included, which knows MoE blocks only.
 */
static void test_trace_numbers_blocks_one_way(void **state)
{
    (void)state;
    struct pg_err err;
    pg_engine *e =
        open_mixed(&(struct pg_options){.mode = PG_MODE_PREFETCH_ALL, .trace_events = 10000});
    pg_session *s;
    int32_t tokens[4] = {5, 6, 7, 8};
    must(pg_session_open(&s, e, NULL, &err), &err);
    must(pg_session_eval(s, tokens, 4, NULL, &err), &err);
    must(pg_trace_write(e, IN_DIR("trace.json"), &err), &err);
    json_error_t why;
    json_t *all = json_load_file(IN_DIR("trace.json"), 0, &why);
    assert_non_null(all);
    const json_t *events = json_object_get(all, "traceEvents");
    assert_int_equal(blocks_of(events, "attention"), 0xf);
    assert_int_equal(blocks_of(events, "experts"), 0xd);
    assert_int_equal(blocks_of(events, "demand") | blocks_of(events, "hint"), 0xd);
    assert_int_equal(blocks_of(events, "stall") & ~0xdu, 0);
    assert_int_equal(blocks_of(events, "block"), 0xf);
    for (int i = 0; i < 4; i++) /* the trace has microseconds with three decimals */
        assert_true(fabs(pg_engine_block_seconds(e, i) - seconds_of(events, "block", i)) < 2e-9);
    assert_true(pg_engine_block_seconds(e, -1) == 0 && pg_engine_block_seconds(e, 4) == 0);
    json_decref(all);
    pg_session_close(s);
    pg_engine_close(e);
}

/* Rows of one token decode, also beside the chunk of a prompt, and the step's cost is shared out.
 */
static void test_mixed_steps_count_by_row(void **state)
{
    (void)state;
    enum { N = 3 };
    struct pg_err err;
    struct pg_stats st, before;
    pg_engine *e = open_mixed(&(struct pg_options){
        .mode = PG_MODE_LOOKAHEAD, .n_sessions = N, .evict = PG_EVICT_LRU, .n_batch = 16});
    int32_t tokens[8] = {5, 6, 7, 8, 9, 10, 11, 12};
    struct pg_row row[N];
    for (int i = 0; i < N; i++) {
        pg_session *s;
        must(pg_session_open(&s, e, NULL, &err), &err);
        row[i] = (struct pg_row){.session = s, .tokens = tokens + i, .n = i ? 1 : 8};
    }
    row[0].tokens = tokens;
    must(pg_step(e, row, N, &err), &err);
    pg_engine_stats(e, &st);
    assert_int_equal(st.n_prompt, 8);
    assert_int_equal(st.n_decode, 2);
    assert_true(st.prompt_seconds > 0 && st.decode_seconds > 0);
    double ratio = st.prompt_seconds / st.decode_seconds;
    assert_true(ratio > 3.999 && ratio < 4.001);
    assert_true(st.expert_bytes_read > 0);
    assert_int_equal(st.expert_bytes_read_decode, st.expert_bytes_read / 5);
    before = st;
    must(pg_step(e, row + 1, N - 1, &err), &err);                       /* decode alone */
    must(pg_session_eval(row[0].session, tokens, 1, NULL, &err), &err); /* a prompt, though short */
    must(pg_session_next(row[0].session, &(struct pg_sampling){PG_SAMPLING_INIT}, tokens, &err),
         &err);
    pg_engine_stats(e, &st);
    assert_int_equal(st.n_prompt - before.n_prompt, 1);
    assert_int_equal(st.n_decode - before.n_decode, 3);
    for (int i = 0; i < N; i++)
        pg_session_close(row[i].session);
    pg_engine_close(e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_trace_numbers_blocks_one_way),
        cmocka_unit_test(test_mixed_steps_count_by_row),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
