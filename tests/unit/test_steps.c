/* SPDX-License-Identifier: MIT
 * What an engine says about its steps: the trace's events.
 */
#include "helpers.h"

#include <jansson.h>
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

/* Blocks are the model's in all events, those of the store included, which knows MoE blocks only.
 */
static void test_trace_numbers_blocks_one_way(void **state)
{
    (void)state;
    struct pg_err err;
    struct pg_options opt = {PG_OPTIONS_INIT,
                             .model = MIXED,
                             .memory_bytes = 256u << 20,
                             .mode = PG_MODE_PREFETCH_ALL,
                             .n_threads = 1,
                             .trace_events = 10000};
    pg_engine *e;
    pg_session *s;
    int32_t tokens[4] = {5, 6, 7, 8};
    must(pg_engine_open(&e, &opt, &err), &err);
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
    json_decref(all);
    pg_session_close(s);
    pg_engine_close(e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_trace_numbers_blocks_one_way),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
