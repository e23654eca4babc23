/* SPDX-License-Identifier: MIT
 * What each number and each enum of the option structs may be. 0 is always good: a field that is
 * not set has its default.
 */
#include "base/ranges.h"

#include "base/pool.h"

#include <string.h>

#define BIG 1e38 /* any float that is a number */

enum kind { INT, FLOAT, BYTES, GIVEN }; /* GIVEN: a pointer that is not NULL */

struct range {
    const char *name;
    size_t offset;
    enum kind kind;
    double lo, hi;
};

struct options {
    const char *init; /* the macro that sets the size */
    size_t bytes;
    struct range range[40]; /* those that are there have a name */
};

// clang-format off
#define AT(field) #field, offsetof(struct STRUCT, field)
static const struct options all[] = {
#define STRUCT pg_options
[PG_OPTIONS_ENGINE] = {"PG_OPTIONS_INIT", sizeof(struct STRUCT), {
    {AT(model), GIVEN, 0, 0},
    {AT(mode), INT, 0, PG_MODE_COUNT - 1},
    {AT(evict), INT, 0, PG_EVICT_COUNT - 1},
    {AT(hints), INT, 0, PG_HINTS_OFF},
    {AT(lookahead), INT, 0, 1023},
    {AT(n_threads), INT, 0, PG_THREADS_MAX},
    {AT(n_ctx), INT, 0, 1 << 24},
    {AT(n_sessions), INT, 0, 4096},
    {AT(n_batch), INT, 0, 1 << 16},
    {AT(kv_type), INT, 0, PG_KV_F32},
    {AT(io_path), INT, 0, PG_IO_PREAD},
    {AT(cpu), INT, 0, PG_CPU_NEON},
    {AT(trace_events), INT, 0, 1 << 28},
    {AT(cache_bias), FLOAT, 0, 1},
    {AT(n_logit_rows), INT, 0, INT32_MAX},
    {AT(caller_bytes), BYTES, 0, 0x1p60}, /* sums of it stay sums */
    {AT(hint_extra), INT, 0, 1023},
    {AT(n_slots), INT, 0, 1 << 24},
    {AT(cache_form), INT, 0, PG_CACHE_MARGIN},
    {AT(n_block_bias), INT, 0, INT32_MAX},
    {AT(n_source), INT, 0, 1 << 16},
    {AT(capacity), INT, 0, 1 << 16},
    {AT(n_expert_used), INT, 0, 4096},
    {AT(n_kv), INT, 0, INT32_MAX}}},
#undef STRUCT
#define STRUCT pg_session_options
[PG_OPTIONS_SESSION] = {"PG_SESSION_OPTIONS_INIT", sizeof(struct STRUCT), {
    {AT(n_ctx), INT, 0, 1 << 24}}},
#undef STRUCT
#define STRUCT pg_scheduler_options
[PG_OPTIONS_SCHEDULER] = {"PG_SCHEDULER_OPTIONS_INIT", sizeof(struct STRUCT), {
    {AT(engine), GIVEN, 0, 0},
    {AT(n_parallel), INT, 0, 4096},
    {AT(n_waiting), INT, 0, 1 << 16},
    {AT(itl_ms), FLOAT, 0, 1e6},
    {AT(cache_bytes), BYTES, 0, 0x1p60}}},
#undef STRUCT
#define STRUCT pg_request
[PG_OPTIONS_REQUEST] = {"PG_REQUEST_INIT", sizeof(struct STRUCT), {
    {AT(tokens), GIVEN, 0, 0},
    {AT(n_predict), INT, 0, 1 << 24},
    {AT(n_top), INT, 0, PG_TOP_LOGPROBS}}},
#undef STRUCT
#define STRUCT pg_sampling
[PG_OPTIONS_SAMPLING] = {"PG_SAMPLING_INIT", sizeof(struct STRUCT), {
    {AT(temp), FLOAT, 0, 1e4},
    {AT(top_k), INT, 0, INT32_MAX},
    {AT(top_p), FLOAT, 0, 1},
    {AT(min_p), FLOAT, 0, 1},
    {AT(repeat_penalty), FLOAT, 0, 1e4},
    {AT(presence_penalty), FLOAT, -1e4, 1e4},
    {AT(frequency_penalty), FLOAT, -1e4, 1e4},
    {AT(penalty_last_n), INT, 0, INT32_MAX},
    {AT(typical_p), FLOAT, 0, 1},
    {AT(n_bias), INT, 0, INT32_MAX}}},
#undef STRUCT
#define STRUCT pg_synth_options
[PG_OPTIONS_SYNTH] = {"PG_SYNTH_OPTIONS_INIT", sizeof(struct STRUCT), {
    {AT(out), GIVEN, 0, 0},
    {AT(n_layer), INT, 0, 1024}}},
#undef STRUCT
#define STRUCT pg_convert_options
[PG_OPTIONS_CONVERT] = {"PG_CONVERT_OPTIONS_INIT", sizeof(struct STRUCT), {
    {AT(folder), GIVEN, 0, 0},
    {AT(out), GIVEN, 0, 0},
    {AT(n_threads), INT, 0, PG_THREADS_MAX}}},
#undef STRUCT
#define STRUCT pg_quantize_options
[PG_OPTIONS_QUANTIZE] = {"PG_QUANTIZE_OPTIONS_INIT", sizeof(struct STRUCT), {
    {AT(model), GIVEN, 0, 0},
    {AT(out), GIVEN, 0, 0},
    {AT(type), GIVEN, 0, 0},
    {AT(n_threads), INT, 0, PG_THREADS_MAX}}},
#undef STRUCT
#define STRUCT pg_pack_options
[PG_OPTIONS_PACK] = {"PG_PACK_OPTIONS_INIT", sizeof(struct STRUCT), {
    {AT(model), GIVEN, 0, 0},
    {AT(out), GIVEN, 0, 0},
    {AT(n_threads), INT, 0, PG_THREADS_MAX}}},
#undef STRUCT
#define STRUCT pg_train_options
[PG_OPTIONS_TRAIN] = {"PG_TRAIN_OPTIONS_INIT", sizeof(struct STRUCT), {
    {AT(model), GIVEN, 0, 0},
    {AT(data), GIVEN, 0, 0},
    {AT(n_data), INT, 1, INT32_MAX},
    {AT(out), GIVEN, 0, 0},
    {AT(gate), INT, 0, PG_GATE_PREGATE},
    {AT(level), INT, 0, 1023},
    {AT(n_steps), INT, 0, INT32_MAX},
    {AT(n_seq), INT, 0, 1 << 16},
    {AT(seq_len), INT, 0, 1 << 20},
    {AT(n_accumulate), INT, 0, 1 << 16},
    {AT(lr), FLOAT, 0, BIG},
    {AT(schedule), INT, 0, PG_LR_LINEAR},
    {AT(lr_end), FLOAT, -BIG, 1},
    {AT(n_warmup), INT, 0, INT32_MAX},
    {AT(beta1), FLOAT, 0, 0.9999999},
    {AT(beta2), FLOAT, 0, 0.9999999},
    {AT(eps), FLOAT, 0, 1},
    {AT(weight_decay), FLOAT, -BIG, 1e6},
    {AT(clip), FLOAT, -BIG, BIG},
    {AT(balance), FLOAT, -BIG, 1e6},
    {AT(sticky), FLOAT, 0, 1e6},
    {AT(sticky_cache), INT, 0, 1 << 16},
    {AT(cache_bias), FLOAT, 0, 1},
    {AT(kl), FLOAT, 0, 1e6},
    {AT(cache_form), INT, 0, PG_CACHE_MARGIN},
    {AT(n_block_bias), INT, 0, INT32_MAX},
    {AT(n_runners_up), INT, 0, 1 << 16},
    {AT(weigher), INT, 0, PG_GATE_PREGATE},
    {AT(imitate), FLOAT, -BIG, 1e6},
    {AT(dropout), FLOAT, 0, (double)0.99f},
    {AT(checkpoint_every), INT, 0, INT32_MAX},
    {AT(n_threads), INT, 0, PG_THREADS_MAX}}},
#undef STRUCT
#define STRUCT pg_tune_options
[PG_OPTIONS_TUNE] = {"PG_TUNE_OPTIONS_INIT", sizeof(struct STRUCT), {
    {AT(model), GIVEN, 0, 0},
    {AT(data), GIVEN, 0, 0},
    {AT(n_data), INT, 1, INT32_MAX},
    {AT(out), GIVEN, 0, 0},
    {AT(level), INT, 0, 1023},
    {AT(n_hidden), INT, INT32_MIN, 4096},
    {AT(holdout), FLOAT, 0, 0.999},
    {AT(n_threads), INT, 0, PG_THREADS_MAX},
    {AT(n_ctx), INT, 0, 1 << 24},
    {AT(loss), INT, 0, PG_TUNE_LM},
    {AT(n_steps), INT, 0, INT32_MAX},
    {AT(n_seq), INT, 0, 1 << 16},
    {AT(seq_len), INT, 0, 1 << 20},
    {AT(lr), FLOAT, 0, BIG},
    {AT(sticky), FLOAT, 0, 1e6},
    {AT(sticky_cache), INT, 0, 1 << 16},
    {AT(eval_every), INT, 0, INT32_MAX},
    {AT(checkpoint_every), INT, 0, INT32_MAX},
    {AT(cache_bias), FLOAT, 0, 1},
    {AT(kl), FLOAT, 0, 1e6},
    {AT(cache_form), INT, 0, PG_CACHE_MARGIN},
    {AT(n_block_bias), INT, 0, INT32_MAX},
    {AT(n_runners_up), INT, 0, 1 << 16},
    {AT(weigher), INT, 0, PG_GATE_PREGATE},
    {AT(imitate), FLOAT, -BIG, 1e6}}},
#undef STRUCT
#define STRUCT pg_eval_options
[PG_OPTIONS_EVAL] = {"PG_EVAL_OPTIONS_INIT", sizeof(struct STRUCT), {
    {AT(data), GIVEN, 0, 0},
    {AT(task), INT, 0, PG_EVAL_COUNT - 1},
    {AT(n_max), INT, 0, INT32_MAX},
    {AT(n_predict), INT, 0, INT32_MAX}}},
#undef STRUCT
#define STRUCT pg_sim_options
[PG_OPTIONS_SIM] = {"PG_SIM_OPTIONS_INIT", sizeof(struct STRUCT), {
    {AT(shape), GIVEN, 0, 0},
    {AT(machine), GIVEN, 0, 0},
    {AT(mode), INT, 0, PG_MODE_COUNT - 1},
    {AT(evict), INT, 0, PG_EVICT_COUNT - 1},
    {AT(hints), INT, 0, PG_HINTS_OFF},
    {AT(level), INT, 0, 1023},
    {AT(n_batch), INT, 0, 1024},
    {AT(n_steps), INT, 0, 1 << 16},
    {AT(n_source), INT, 0, 1 << 14},
    {AT(n_slots), INT, 0, 1 << 24},
    {AT(cache), FLOAT, 0, 1},
    {AT(n_active), FLOAT, 0, 65536},
    {AT(n_active_source), FLOAT, 0, 65536},
    {AT(hint_right), FLOAT, 0, 1}}},
#undef STRUCT
#define STRUCT pg_chat_options
[PG_OPTIONS_CHAT] = {"PG_CHAT_OPTIONS_INIT", sizeof(struct STRUCT), {{0}}},
#undef STRUCT
#define STRUCT pg_reply_options
[PG_OPTIONS_REPLY] = {"PG_REPLY_OPTIONS_INIT", sizeof(struct STRUCT), {
    {AT(part), GIVEN, 0, 0}}},
};
// clang-format on

static bool is_given(const struct range *r, const void *options)
{
    const void *p;

    memcpy(&p, (const char *)options + r->offset, sizeof(p));
    return p != NULL;
}

static double value_of(const struct range *r, const void *options)
{
    const char *at = (const char *)options + r->offset;
    uint64_t bytes;
    int32_t i;
    float f;

    if (r->kind == BYTES) {
        memcpy(&bytes, at, sizeof(bytes));
        return (double)bytes;
    }
    memcpy(&i, at, sizeof(i));
    memcpy(&f, at, sizeof(f));
    return r->kind == INT ? (double)i : (double)f;
}

int pg_options_take(enum pg_options_kind kind, void *whole, const void *given, struct pg_err *err)
{
    const struct options *o = &all[kind];
    size_t size;

    if (!given)
        return pg_fail(err, PG_EARG, "options: none given");
    memcpy(&size, given, sizeof(size));
    /* No struct that begins with a size ends within one: half a pointer would be taken. */
    if (size < sizeof(size) || size > o->bytes || size % sizeof(size))
        return pg_fail(err, PG_EARG,
                       "options: size %zu found, a multiple of %zu up to %zu wanted (use %s)", size,
                       sizeof(size), o->bytes, o->init);
    memset(whole, 0, o->bytes);
    memcpy(whole, given, size);
    memcpy(whole, &o->bytes, sizeof(o->bytes));
    for (const struct range *r = o->range; r < o->range + PG_COUNT(o->range) && r->name; r++) {
        if (r->kind == GIVEN && !is_given(r, whole))
            return pg_fail(err, PG_EARG, "options: %s: none given", r->name);
        if (r->kind == GIVEN)
            continue;
        double v = value_of(r, whole);
        if (!(v >= r->lo && v <= r->hi))
            return pg_fail(err, PG_EARG, "options: %s: %.10g found, %.10g to %.10g wanted", r->name,
                           v, r->lo, r->hi);
    }
    return 0;
}
