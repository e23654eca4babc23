/* SPDX-License-Identifier: MIT
 *
 * Pregate: Mixture-of-Experts language models whose experts do not fit in fast memory.
 *
 * This header is the manual. Two nouns carry it:
 *
 *   pg_engine    a loaded model, the slots its experts live in, the threads that compute
 *   pg_session   one timeline of tokens with its KV cache
 *
 *     struct pg_err err;
 *     struct pg_options opt = {PG_OPTIONS_INIT, .model = "model.gguf", .memory_bytes = 2ull << 30};
 *     pg_engine *e;
 *     pg_session *s;
 *     if (pg_engine_open(&e, &opt, &err) || pg_session_open(&s, e, NULL, &err))
 *         return puts(err.text);
 *     pg_session_sync(s, prompt, n_prompt, &err);
 *     struct pg_sampling how = {PG_SAMPLING_INIT, .temp = 0.8f};
 *     while (!pg_session_next(s, &how, &token, &err) && token != pg_vocab_eos(pg_engine_vocab(e)))
 *         ...
 *
 * Rules that hold everywhere:
 *  - A function that can fail returns 0 or a negative PG_E... code, and fills *err (which may be
 *    NULL) with a sentence that names the thing, the value found and the value wanted.
 *  - `open` gives, `close` takes; closing NULL is fine. A pointer is borrowed for the call, unless
 *    its comment says more.
 *  - Option structs begin with `size`; write {PG_..._INIT, .field = value}. A zero field means its
 *    default, so that a program built against an older header keeps working. A size of 0 is
 *    refused, as is one that is larger than the library knows.
 *  - NULL: `close` and `free` take it. Options, paths and strings that must be given are PG_EARG
 *    when they are NULL, and the sentence names them. What a call works on, reads and fills (an
 *    engine, tokens, `out`) must be there, which is not looked at, unless its comment says more.
 *  - The library never exits, prints, or reads the environment. Nothing allocates after
 *    pg_session_open on the token path.
 *  - Where an expert is stored, the memory budget, the batch, the thread count and the instruction
 *    set never change a bit of the result. Only PG_MODE_PREGATE computes another function.
 *  - An engine and all its sessions are used by one thread at a time.
 */
#ifndef PREGATE_H
#define PREGATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define PG_API __attribute__((visibility("default")))
#else
#define PG_API
#endif

#define PG_VERSION "0.1.0"

/* ------------------------------------------------------------------ errors ------------------ */

#define PG_ERROR_MAP(X)                                                                            \
    X(PG_ENOMEM, -1, "out of memory")                                                              \
    X(PG_EIO, -2, "input/output error")                                                            \
    X(PG_EFORMAT, -3, "malformed file")                                                            \
    X(PG_ENOTSUP, -4, "not supported")                                                             \
    X(PG_EARG, -5, "bad argument")                                                                 \
    X(PG_EBUDGET, -6, "memory budget too small")                                                   \
    X(PG_ECONTEXT, -7, "context is full")                                                          \
    X(PG_ENUMERIC, -8, "numerical error")                                                          \
    X(PG_ECANCELLED, -9, "cancelled")                                                              \
    X(PG_ESYSTEM, -10, "system call failed")                                                       \
    X(PG_EBUSY, -11, "too much is waiting")

enum pg_error {
#define X(name, value, text) name = value,
    PG_ERROR_MAP(X)
#undef X
};

struct pg_err {
    int code;
    char text[508];
};

/* The generic text of a code, "unknown error" for others. */
PG_API const char *pg_error_text(int code);

/* ------------------------------------------------------------------ options ----------------- */

/* Who decides which experts of block N+1 run, and what hint is given while block N runs. */
enum pg_mode {
    PG_MODE_AUTO,         /* resident if it fits; else hint, lookahead or ondemand, as pays */
    PG_MODE_RESIDENT,     /* everything in fast memory; refused if it does not fit */
    PG_MODE_ONDEMAND,     /* router decides, no hint */
    PG_MODE_PREFETCH_ALL, /* router decides; all experts of the next block are hinted */
    PG_MODE_LOOKAHEAD,    /* router decides; the next one, run early on this block's state, hints */
    PG_MODE_HINT,         /* router decides; the trained pre-gate of this block hints */
    PG_MODE_PREGATE,      /* the trained pre-gate decides, one block early, finally */
    PG_MODE_COUNT
};

/* Which expert leaves when a slot is needed. */
enum pg_evict {
    PG_EVICT_CYCLE,
    PG_EVICT_LRU,
    PG_EVICT_LFU,
    PG_EVICT_LIFO,
    PG_EVICT_RANDOM, /* any, from a fixed seed: the baseline */
    PG_EVICT_COUNT
};

/* How experts that have a slot are preferred (cache_bias). */
enum pg_cache_form {
    PG_CACHE_LOGITS, /* by a part of the range of the token's logits */
    PG_CACHE_MARGIN  /* over those up to so much more probable, but the first, which stays */
};

enum pg_hints { PG_HINTS_AUTO, PG_HINTS_ON, PG_HINTS_OFF };
enum pg_kv_type { PG_KV_F16, PG_KV_F32 };
enum pg_io_path { PG_IO_AUTO, PG_IO_URING, PG_IO_PREAD };
enum pg_cpu_level { PG_CPU_AUTO, PG_CPU_REF, PG_CPU_AVX2, PG_CPU_AVX512, PG_CPU_NEON };
enum pg_log_level { PG_LOG_ERROR, PG_LOG_WARN, PG_LOG_INFO, PG_LOG_DEBUG };

/* Names as the command line spells them; _parse returns -1 for an unknown name and NULL. */
PG_API const char *pg_mode_name(enum pg_mode m);
PG_API int pg_mode_parse(const char *name);
PG_API const char *pg_evict_name(enum pg_evict p);
PG_API int pg_evict_parse(const char *name);

/* A recorded routing that is forced on the model (pg_routes_open). */
typedef struct pg_routes pg_routes;

/* Which tokens may come next in a text that a grammar describes (pg_matcher_open). */
typedef struct pg_matcher pg_matcher;

struct pg_options {
    size_t size;           /* sizeof(struct pg_options); PG_OPTIONS_INIT sets it */
    const char *model;     /* GGUF file; of a split set, its first file */
    const char *sidecar;   /* pre-gates, for hint and pregate; NULL looks beside the model. One that
                            * is named must be there and be this model's in all modes */
    uint64_t memory_bytes; /* bound of the whole process; 0 = what cgroup and machine leave */
    enum pg_mode mode;
    enum pg_evict evict;
    enum pg_hints hints;
    int lookahead;  /* blocks ahead that lookahead hints; 0 = 1 */
    int n_threads;  /* 0 = the machine's; at most 256, here and elsewhere */
    int n_ctx;      /* context the plan makes room for; 0 = min(model's, 4096) */
    int n_sessions; /* sessions the plan makes room for; 0 = 1 */
    int n_batch;    /* tokens a step at most; 0 = the largest of 512 … 8 that fits well */
    enum pg_kv_type kv_type;
    enum pg_io_path io_path;
    enum pg_cpu_level cpu;   /* highest instruction set level to use */
    int trace_events;        /* ring of trace events kept for pg_trace_write; 0 = none */
    const pg_routes *routes; /* forced routing; borrowed until the engine is closed */
    void (*log)(void *user, enum pg_log_level level, const char *text);
    /* Long work (loading, long prefill): done of total bytes or tokens. Non-zero return cancels. */
    int (*progress)(void *user, const char *what, uint64_t done, uint64_t total);
    void *user; /* handed to log and progress */
    /* Above 0: experts that have a slot are preferred. Gates rank those by logit + cache_bias *
     * (largest - smallest logit of the token), or as cache_form below has it; the chosen keep their
     * own weights. Fewer bytes, another answer, and one that depends on the budget (after arXiv
     * 2412.00099). */
    float cache_bias;
    /* What the caller will take of memory_bytes for itself, so that the bound holds: rows of logits
     * (pg_session_eval), of which it never has more than a step's tokens; and other bytes. */
    int n_logit_rows;
    uint64_t caller_bytes;
    int hint_extra; /* experts that lookahead and hint name beyond those a token uses, best first */
    /* Expert slots: exactly so many, whatever the budget leaves. Without memory_bytes the budget is
     * then the least that holds the rest. AUTO is not resident; RESIDENT takes only all. 0 = what
     * the budget leaves. */
    int n_slots;
    /* For measuring: experts are read at fixed points of a step, hinted ones included, and waited
     * for there. What is read, and with cache_bias what is answered, is then a function of the
     * tokens, the steps and n_slots, not of how fast the disk was. PG_HINTS_AUTO is as ON. */
    bool steady;
    /* File for the routes that are run, as pg_routes_open reads them; NULL: none. See
     * pg_routes_finish. */
    const char *routes_out;
    /* With PG_CACHE_MARGIN gates rank by probability (before the chosen are renormalised) +
     * cache_bias for those that have a slot, and each token's first expert is never another. */
    enum pg_cache_form cache_form;
    /* Instead of cache_bias: one for each block with experts, 0 to 1, NULL: none. Borrowed for the
     * call. */
    int n_block_bias;
    const float *block_bias;
    /* Tokens of a source that each session has room for, of a model with an encoder: 0 =
     * min(model's n_ctx_train, 512). A source goes through the encoder in one step, so n_batch is
     * as much at least. */
    int n_source;
    /* Of a model with an encoder: tokens of one source that an expert takes at most, in their
     * order; what is beyond passes that block's experts by (Switch Transformers' expert capacity,
     * which they have from training). 0 = all. */
    int capacity;
    /* Experts a token and block, instead of the model's: the gates choose so many, and a forced
     * routing has to have so many. Another answer. 0 = the model's. */
    int n_expert_used;
    /* Tokens of all sessions' contexts together that the plan makes room for, which may be fewer
     * than n_sessions x n_ctx where not all are full at once. 0 = n_sessions x n_ctx. */
    int n_kv;
};
#define PG_OPTIONS_INIT .size = sizeof(struct pg_options)

struct pg_session_options {
    size_t size;
    int n_ctx; /* tokens; 0 = the engine's n_ctx */
};
#define PG_SESSION_OPTIONS_INIT .size = sizeof(struct pg_session_options)

struct pg_sampling {
    size_t size;
    float temp;           /* 0 = greedy */
    int top_k;            /* 0 = off */
    float top_p;          /* 0 or 1 = off */
    float min_p;          /* 0 = off */
    float repeat_penalty; /* 0 or 1 = off */
    float presence_penalty;
    float frequency_penalty;
    int penalty_last_n; /* tokens the penalties look back on; 0 = 64 */
    uint64_t seed;      /* of the session's random stream; taken at the first sampled token */
    float typical_p;    /* 0 or 1 = off: tokens about as surprising as the distribution on average
                         * (locally typical sampling, arXiv 2202.00666), until they sum to this */
    const int32_t *bias_id; /* [n_bias], added to the logits; borrowed */
    const float *bias;      /* -inf forbids */
    int n_bias;
    pg_matcher *matcher; /* only what its grammar allows; goes on with what was sampled; borrowed.
                          * PG_EFORMAT if that is nothing */
};
#define PG_SAMPLING_INIT .size = sizeof(struct pg_sampling)

/* ------------------------------------------------------------------ engine ------------------ */

typedef struct pg_engine pg_engine;
typedef struct pg_session pg_session;
typedef struct pg_vocab pg_vocab;

/* What the memory budget is spent on, made before anything is loaded. Bytes. */
struct pg_plan {
    uint64_t budget;   /* what was asked for, or found */
    uint64_t minimum;  /* a budget that opens with these options; a little less may do, too */
    uint64_t dense;    /* weights that are always in memory */
    uint64_t kv;       /* all sessions */
    uint64_t scratch;  /* buffers of one step */
    uint64_t overhead; /* vocabulary, tables, program, threads, and a margin for the kernel */
    uint64_t caller;   /* what the options say that the caller takes */
    uint64_t slots;    /* n_slots * slot_bytes, in whole huge pages where there is room */
    uint64_t slot_bytes;
    uint64_t expert_bytes;       /* all experts of the model */
    uint64_t token_expert_bytes; /* experts that one token uses, all blocks */
    uint64_t token_dense_bytes;  /* dense weights that one token reads from memory */
    int n_slots;                 /* whole experts */
    int n_expert_total;          /* experts in the model, all blocks */
    int n_batch;
    enum pg_mode mode;  /* AUTO resolved */
    int n_expert_token; /* experts in the blocks that a token of a timeline goes through: all, or
                         * those of the decoder */
    int n_source;       /* tokens of a source that there is room for; 0: no encoder */
    int n_kv;           /* tokens of all contexts together */
};

struct pg_model_info {
    char arch[32];
    char name[96];
    char file_type[24]; /* the type that most weights have */
    uint64_t file_bytes, n_params, n_params_active;
    int n_layer, n_moe_layer, n_embd, n_head, n_head_kv, n_ff, n_expert, n_expert_used, n_vocab;
    int n_ctx_train;
    int decoder_start; /* the token that a decoder begins with; -1: there is no encoder */
};

/* Counters since open; take two and subtract. Times in seconds, sizes in bytes. */
struct pg_stats {
    /* Tokens evaluated, by row: one of a single token in pg_step, or of pg_session_next, decodes,
     * all others are prompt. And the wall time of their steps, compute + stall; a step that has
     * both kinds is shared out by tokens, here and in the other counters of decoding. */
    uint64_t n_prompt, n_decode;
    double prompt_seconds, decode_seconds;
    double compute_seconds, stall_seconds; /* stall: nothing to compute, waiting for a read */
    uint64_t expert_requests;   /* (block, expert) wanted by a step, counted once a step */
    uint64_t hits;              /* already in a slot, not thanks to a pending hint */
    uint64_t hinted_in_time;    /* arrived through a hint before it was wanted */
    uint64_t hinted_late;       /* hinted, still under way when wanted */
    uint64_t missed;            /* read on demand */
    uint64_t hinted_unused;     /* read through a hint and evicted unused */
    uint64_t expert_bytes_read; /* demand and hinted together */
    uint64_t hint_bytes_read, hint_bytes_used;
    double io_busy_seconds;        /* at least one read under way */
    double io_busy_decode_seconds; /* the same, decode's part */
    uint64_t expert_bytes_read_decode;
    uint64_t read_errors;
    uint64_t peak_rss_bytes; /* VmHWM */
    bool hints_active;       /* false once hinted reads stopped paying */
    const char *io_path; /* "io_uring, direct", "pread x8, buffered", ...; lives with the engine */
    const char *cpu_level; /* likewise */
};

/* The plan for these options without loading weights. PG_EBUDGET still fills *out. */
PG_API int pg_plan_make(struct pg_plan *out, const struct pg_options *opt, struct pg_err *err);

PG_API int pg_engine_open(pg_engine **out, const struct pg_options *opt, struct pg_err *err);
PG_API void pg_engine_close(pg_engine *e); /* its sessions must be closed first */
PG_API void pg_engine_plan(const pg_engine *e, struct pg_plan *out);
PG_API void pg_engine_info(const pg_engine *e, struct pg_model_info *out);
PG_API void pg_engine_stats(const pg_engine *e, struct pg_stats *out);
/* Wall time since open that steps were in this block, waiting for its experts included: attention
 * (and cross attention) and feed-forward or experts. Blocks are counted as in pg_model_info, of all
 * stacks; 0 for others. */
PG_API double pg_engine_block_seconds(const pg_engine *e, int block);
PG_API const pg_vocab *pg_engine_vocab(const pg_engine *e); /* lives with the engine */
/* Writes the event ring as a Chrome/Perfetto trace (JSON), by atomic rename. */
PG_API int pg_trace_write(const pg_engine *e, const char *path, struct pg_err *err);

/* ------------------------------------------------------------------ sessions ---------------- */

/* opt NULL: all defaults. */
PG_API int pg_session_open(pg_session **out, pg_engine *e, const struct pg_session_options *opt,
                           struct pg_err *err);
PG_API void pg_session_close(pg_session *s);

/* Make the session's state that of `tokens`: keep the common prefix, evaluate the rest. */
PG_API int pg_session_sync(pg_session *s, const int32_t *tokens, size_t n, struct pg_err *err);

/* Sample the next token from the last logits, append it and evaluate it; how NULL is greedy.
 * PG_ECONTEXT when full. */
PG_API int pg_session_next(pg_session *s, const struct pg_sampling *how, int32_t *token,
                           struct pg_err *err);

/* Append tokens; logits, if not NULL, receives a row for each: [n, n_vocab]. */
PG_API int pg_session_eval(pg_session *s, const int32_t *tokens, size_t n, float *logits,
                           struct pg_err *err);

/* Forget all tokens from position `n` on. PG_ENOTSUP, and nothing is forgotten, where the model's
 * cache cannot go back that far (none of today's families); 0 always works. */
PG_API int pg_session_truncate(pg_session *s, size_t n);

/* The session's timeline becomes the longest beginning of `tokens` that any session of the engine
 * has, or has had so lately that its memory is not needed yet: returns how many tokens that is. The
 * bits are those of evaluating them, but there are no logits until more is evaluated. Of a model
 * with an encoder nothing is found. */
PG_API size_t pg_session_reuse(pg_session *s, const int32_t *tokens, size_t n);

PG_API size_t pg_session_n_tokens(const pg_session *s);
/* Logits of the last evaluated token, [n_vocab], all finite. Valid until the next step; NULL before
 * the first. */
PG_API const float *pg_session_logits(const pg_session *s);

/* One step over several sessions: each row appends tokens to its session (a decode row has one, a
 * prompt chunk many). Each wanted expert is brought once for all rows, and each row gets the bits
 * that it would get alone. A session may stand in one row only; the sum of n is at most n_batch.
 * Afterwards pg_session_logits of each session is that of its row's last token. PG_ENUMERIC names
 * the first token whose logits are not all finite; no session has grown then, as after any error.
 */
struct pg_row {
    pg_session *session;
    const int32_t *tokens;
    int n;
    bool no_logits; /* they are not computed, and pg_session_logits is NULL until the next */
};
PG_API int pg_step(pg_engine *e, const struct pg_row *rows, int n_rows, struct pg_err *err);

/* Of a model with an encoder: each row's tokens become its session's source, which all later tokens
 * are answers to, and its timeline is empty. n is at most the engine's n_source; else as pg_step,
 * but that there are no logits. What is refused changes nothing; after an error of the step itself
 * the sessions have no source. PG_ENOTSUP where there is no encoder. */
PG_API int pg_encode(pg_engine *e, const struct pg_row *rows, int n_rows, struct pg_err *err);
PG_API int pg_session_encode(pg_session *s, const int32_t *tokens, size_t n, struct pg_err *err);
PG_API size_t pg_session_n_source(const pg_session *s);

/* `to` becomes what `from` is: source, tokens, logits. Both are sessions of one engine. PG_ECONTEXT
 * when the context of `to` is too small. The stream of random numbers stays its own. */
PG_API int pg_session_copy(pg_session *to, const pg_session *from, struct pg_err *err);

/* Sample from the session's last logits without evaluating; for use with pg_step. how NULL is
 * greedy. */
PG_API int pg_session_sample(pg_session *s, const struct pg_sampling *how, int32_t *token,
                             struct pg_err *err);

/* ------------------------------------------------------------------ requests ---------------- */

/* Many requests through one engine. Those that run share each step: a token of each that writes,
 * and a part of the prompts of the others. Those for whose context there is no room wait. Who runs
 * beside whom, the budget and the order change no bit of an answer. What has ended keeps its
 * context until the room is needed, and a request goes on from the longest beginning of any.
 *
 * One thread is in pg_scheduler_run, and the callbacks are on it; the others' calls may come from
 * any thread, callbacks included. */
typedef struct pg_scheduler pg_scheduler;

struct pg_scheduler_options {
    size_t size;
    pg_engine *engine; /* all of its sessions are the scheduler's; none is open */
    int n_parallel;    /* requests that run at once at most; 0 = the engine's n_sessions */
    int n_waiting; /* that wait at most, beside those for whom there is a place among n_parallel;
                      0 = 64. Of one named owner three quarters of it */
    /* While requests write or wait, a step takes no more of prompts than keeps it below this, but
     * 16 tokens; where these take longer, since their experts have to be read, as many as at most
     * double that. 0 = 200. */
    float itl_ms;
    /* A folder, made if it is not there, in which contexts of what has ended are kept, too, when
     * there is nothing else to do: whole and checked, the longest unused removed beyond so many
     * bytes. NULL: none; 0 = 4 GiB. */
    const char *cache_dir;
    uint64_t cache_bytes;
    void (*log)(void *user, enum pg_log_level level, const char *text);
    void *user; /* handed to log */
};
#define PG_SCHEDULER_OPTIONS_INIT .size = sizeof(struct pg_scheduler_options)

/* A token of the vocabulary, and how probable the model held it. */
struct pg_token {
    int32_t id;
    float logprob; /* before penalties and the like; NaN unless asked for */
    int n_top;     /* the most probable, best first */
    const int32_t *top_id;
    const float *top_logprob;
};

enum pg_request_stop {
    PG_STOP_END,       /* an end token, or nothing more may come by its grammar */
    PG_STOP_LENGTH,    /* n_predict tokens */
    PG_STOP_CONTEXT,   /* the context is full */
    PG_STOP_CALLER,    /* the callback said so */
    PG_STOP_CANCELLED, /* pg_scheduler_cancel, _stop, _close */
    PG_STOP_ERROR
};

struct pg_request_report {
    enum pg_request_stop stop;
    struct pg_err err;      /* of PG_STOP_ERROR */
    int n_prompt, n_reused; /* tokens of the prompt; of these, not evaluated but found */
    int n_predicted;
    double queue_seconds;       /* waiting for room */
    double prompt_seconds;      /* from there to the first token */
    double decode_seconds;      /* from there to the end */
    uint64_t expert_bytes_read; /* its share of its steps', by tokens */
};

enum { PG_TOP_LOGPROBS = 20 };

struct pg_request {
    size_t size;
    const int32_t *tokens; /* the prompt [n_tokens], one at least; copied */
    size_t n_tokens;
    int n_predict; /* tokens at most; 0 = as many as the context has room for */
    const struct pg_sampling *sampling; /* NULL: greedy. Copied */
    bool ignore_eos;
    bool no_reuse;     /* the whole prompt is evaluated */
    bool logprobs;     /* of each token */
    int n_top;         /* and of so many most probable ones, up to PG_TOP_LOGPROBS */
    const char *owner; /* requests of different owners take turns; NULL = "". Copied */
    /* `done` of the prompt's `total` tokens are evaluated or found. May be NULL. */
    void (*progress)(void *user, int done, int total);
    /* A token, end tokens aside. Not 0: the request ends here (PG_STOP_CALLER). */
    int (*token)(void *user, const struct pg_token *t);
    /* Once for each request that submit has taken, after all else. */
    void (*end)(void *user, const struct pg_request_report *r);
    void *user;
};
#define PG_REQUEST_INIT .size = sizeof(struct pg_request)

/* What a scheduler takes beside its engine, for `caller_bytes` of pg_options. */
PG_API uint64_t pg_scheduler_bytes(const struct pg_scheduler_options *opt, int n_ctx);
PG_API int pg_scheduler_open(pg_scheduler **out, const struct pg_scheduler_options *opt,
                             struct pg_err *err);
/* Nobody is in pg_scheduler_run. What still runs or waits ends as cancelled. */
PG_API void pg_scheduler_close(pg_scheduler *s);
/* PG_EBUSY: as many wait as may. PG_ECONTEXT: prompt and n_predict are more than a context. */
PG_API int pg_scheduler_submit(pg_scheduler *s, const struct pg_request *r, uint64_t *id,
                               struct pg_err *err);
/* Its `end` comes soon: a step that is long or its alone ends at the next block. Unknown ids are
 * fine. */
PG_API void pg_scheduler_cancel(pg_scheduler *s, uint64_t id);
/* Steps, and sleeps while there is nothing to do, until pg_scheduler_stop. An error that is no
 * single request's ends it, and then all requests end with it. */
PG_API int pg_scheduler_run(pg_scheduler *s, struct pg_err *err);
/* `run` returns after its step, at once if it has not begun; what runs and waits goes on when it is
 * called again. */
PG_API void pg_scheduler_stop(pg_scheduler *s);

/* As they were after some step of the last 100 ms, or after the last one. */
struct pg_scheduler_state {
    struct pg_stats engine; /* since it was opened */
    int n_parallel, n_running, n_waiting;
    int n_kv;      /* tokens of contexts that there is room for */
    int n_kv_used; /* of these of what runs, in whole pages */
    int n_kv_kept; /* and of what has ended */
    uint64_t n_steps;
    uint64_t n_requests, n_done, n_cancelled, n_failed, n_refused, n_preempted;
    uint64_t n_prompt, n_predicted; /* tokens, of all requests */
    uint64_t n_reused;              /* of n_prompt, not evaluated but found */
    uint64_t n_restored;            /* of n_reused, in cache_dir */
};
PG_API void pg_scheduler_state(pg_scheduler *s, struct pg_scheduler_state *out);

struct pg_request_state {
    uint64_t id;
    bool waits;
    int n_prompt, n_done, n_reused; /* of the prompt: all, evaluated or found, found */
    int n_predicted;
    double seconds; /* since it came */
};
/* Those that run and wait: fills at most cap of out, returns how many there are. */
PG_API int pg_scheduler_requests(pg_scheduler *s, struct pg_request_state *out, int cap);

/* Where the experts are, a byte each [n_moe_layer, n_expert] of these bits. */
#define PG_EXPERT_SLOT     1 /* in a slot */
#define PG_EXPERT_ARRIVING 2 /* its read is under way */
#define PG_EXPERT_USED     4 /* wanted since the last look */
/* Copies at most cap bytes, returns how many there are. What is copied is younger than 200 ms while
 * steps are done and looks come faster than once in two seconds. */
PG_API size_t pg_scheduler_look(pg_scheduler *s, uint8_t *out, size_t cap);

/* ------------------------------------------------------------------ text -------------------- */

/* Opens the vocabulary alone; works on files without weights. */
PG_API int pg_vocab_open(pg_vocab **out, const char *path, struct pg_err *err);
PG_API void pg_vocab_close(pg_vocab *v); /* not for one from pg_engine_vocab */

#define PG_TOKENIZE_SPECIAL 1 /* special tokens written in the text become those tokens */
#define PG_TOKENIZE_BOS     2 /* put the beginning-of-text token first if the model wants one */
#define PG_TOKENIZE_EOS     4 /* put the end-of-text token last if the model wants one */

struct pg_ids {
    int32_t *id;
    size_t cap, n; /* room for ids, and how many there are */
};

/* Ids of the bytes: writes at most out->cap of them, and sets out->n to how many there are. With
 * the cap too small returns PG_EARG, and out->n says what is needed. That is never more than
 * 3 * n_text + 3 (but for t5, which may write out abbreviations). Bytes that are no UTF-8 are
 * tokenized as bytes, or as U+FFFD. Threads may share v. */
PG_API int pg_tokenize(const pg_vocab *v, const char *text, size_t n_text, unsigned flags,
                       struct pg_ids *out, struct pg_err *err);

PG_API int pg_vocab_n(const pg_vocab *v);
PG_API int32_t pg_vocab_bos(const pg_vocab *v);             /* -1: none */
PG_API int32_t pg_vocab_eos(const pg_vocab *v);             /* -1: none */
PG_API bool pg_vocab_is_end(const pg_vocab *v, int32_t id); /* eos, end of turn, ... */

/* Ids to text as they come: what is written is always whole UTF-8 characters, the rest waits in
 * `held`. Start zeroed. */
struct pg_detok {
    const pg_vocab *vocab;
    unsigned char held[8];
    int n_held;
    bool not_first; /* the space that a tokenizer put before the text has been dropped */
};
/* Appends the text of `id`; returns its length. A piece is at most PG_PIECE_MAX bytes; out must
 * hold that. id -1 flushes what is held, invalid bytes replaced by U+FFFD. */
#define PG_PIECE_MAX 1024
PG_API size_t pg_detokenize(struct pg_detok *d, int32_t id, char *out);

/* ------------------------------------------------------------------ chat text --------------- */

/* A chat template: the model's own Jinja, by an interpreter of the part of the language that
 * templates use, without access to anything but its input, and bounded in steps, depth and memory
 * (docs/decisions/023-chat-templates.md). Constant once open; threads may share it. */
typedef struct pg_chat pg_chat;

struct pg_chat_options {
    size_t size;
    const char *model;   /* GGUF file that has the template; weights are not needed */
    const char *variant; /* NULL: the default, and "tool_use" for requests with tools where the
                          * file has it */
    const char *source;  /* the template itself, [n_source], instead of the model's; the texts of
                          * its bos and eos tokens still come from `model` if that is given */
    size_t n_source;
};
#define PG_CHAT_OPTIONS_INIT .size = sizeof(struct pg_chat_options)

/* PG_ENOTSUP: the file has no template. */
PG_API int pg_chat_open(pg_chat **out, const struct pg_chat_options *opt, struct pg_err *err);
PG_API void pg_chat_close(pg_chat *c);
PG_API const char *pg_chat_source(const pg_chat *c); /* of the default; lives with c */

/* What a template made of a conversation: markup is the template's own text, content came from the
 * conversation. Content never becomes a special token. */
struct pg_segment {
    const char *text;
    size_t n;
    bool content;
};
struct pg_chat_text {
    const struct pg_segment *segment; /* [n], in order, none empty, neighbours differ in kind */
    int n;
};

/* `request` is a JSON object [n_request]: "messages" (as OpenAI's, content a string, null or text
 * parts), "tools" (OpenAI's; absent, null or [] = none), "add_generation_prompt" (default true),
 * and anything else, which the template sees as variables ("enable_thinking", ...). "now", if it is
 * there, is what the template takes for the present: seconds since 1970, or "YYYY-MM-DD"; the clock
 * is read only without it, and days are those of UTC.
 *
 * Text parts are one string with newlines between, unless the template looks into parts itself.
 * "arguments" of a call that are the text of an object become that object, and null content stays
 * null; the text, and "", where the template fails with these or writes them as Python spells them.
 *
 * Parts that are not text are PG_ENOTSUP. A request of another form, and what the template refuses
 * by raise_exception (with its sentence), is PG_EARG; a template that does not parse, fails, or
 * passes a bound, PG_EFORMAT with line and column. */
PG_API int pg_chat_render(const pg_chat *c, const char *request, size_t n_request,
                          struct pg_chat_text *out, struct pg_err *err);
PG_API void pg_chat_text_free(struct pg_chat_text *t);

/* Ids as pg_tokenize gives them. Special tokens are found in markup only; between two of them
 * markup and content are one text, so that what holds no special token gets the ids that the whole
 * text would get. The beginning-of-text token is put first if the vocabulary wants one and the
 * template has not written it. */
PG_API int pg_chat_tokenize(const pg_vocab *v, const struct pg_chat_text *t, struct pg_ids *out,
                            struct pg_err *err);
/* ------------------------------------------------------------------ grammars ---------------- */

/* What a text may be: a context-free grammar over characters, in GBNF (docs/grammar.md). Constant;
 * threads may share it. What is wrong with it is found here: PG_EFORMAT with line and column,
 * PG_ENOTSUP where it is too large. */
typedef struct pg_grammar pg_grammar;
PG_API int pg_grammar_open(pg_grammar **out, const char *gbnf, size_t n, struct pg_err *err);
/* Of a JSON schema. The subset is in docs/grammar.md; anything else is PG_ENOTSUP and named. n = 0:
 * any JSON object. */
PG_API int pg_grammar_of_schema(pg_grammar **out, const char *schema, size_t n, struct pg_err *err);
PG_API const char *pg_grammar_text(const pg_grammar *g); /* its GBNF; lives with g */
PG_API void pg_grammar_close(pg_grammar *g);

/* Where a text stands in a grammar, and which tokens may come next. Takes all its memory at open.
 * `g` and `v` must outlive it. The text is what pg_detokenize prints of the tokens in the middle of
 * a text; where it drops a space at the beginning of one (space_prefix), a space that the first
 * token begins with need not be in the grammar. Tokens that print nothing never match. */
PG_API int pg_matcher_open(pg_matcher **out, const pg_grammar *g, const pg_vocab *v,
                           struct pg_err *err);
PG_API void pg_matcher_close(pg_matcher *m);
/* What pg_matcher_open takes, as a caller_bytes of pg_options wants to know it. g NULL: what the
 * first one of a vocabulary takes beside that, and `v` keeps. 0 when out of memory. */
PG_API uint64_t pg_matcher_bytes(const pg_grammar *g, const pg_vocab *v);
PG_API void pg_matcher_reset(pg_matcher *m); /* to the beginning of a text */
/* bits [(n_vocab + 31) / 32]: bit id % 32 of word id / 32 is set if the token may come next; end
 * tokens where the text may end. Fails closed: PG_EFORMAT if nothing may come, PG_ENOTSUP if the
 * text stands in more ways at once than there is room for; no bit is set then. */
PG_API int pg_matcher_mask(pg_matcher *m, uint32_t *bits, struct pg_err *err);
PG_API bool pg_matcher_allows(pg_matcher *m, int32_t id);
/* The text goes on with the token; PG_EARG, and nothing changes, if it may not. After an end token
 * nothing may come. */
PG_API int pg_matcher_accept(pg_matcher *m, int32_t id, struct pg_err *err);
PG_API bool pg_matcher_may_end(const pg_matcher *m);
PG_API bool pg_matcher_must_end(const pg_matcher *m); /* nothing but its end may come */

/* ------------------------------------------------------------------ replies ----------------- */

/* Takes a reply apart as it comes: text, reasoning, and calls of tools, in the form that the
 * template's family writes (docs/chat.md has them all). Structure is told by token ids where the
 * vocabulary has a token for a mark, by text elsewhere. What only looked like a call comes out as
 * text: nothing is lost but white space around calls and reasoning. */
typedef struct pg_reply pg_reply;
enum pg_reply_kind {
    PG_REPLY_TEXT,
    PG_REPLY_REASONING,
    PG_REPLY_CALL,     /* text is the tool's name: once, before its arguments */
    PG_REPLY_ARGUMENTS /* the next piece of a JSON object */
};
struct pg_reply_part {
    enum pg_reply_kind kind;
    int call;         /* of the last two: its number, from 0 */
    const char *text; /* whole UTF-8 characters; for the call of `part` only */
    size_t n;
};
struct pg_reply_options {
    size_t size;
    const pg_chat *chat;   /* whose source says which form; NULL: no calls, <think> reasoning */
    const pg_vocab *vocab; /* borrowed until close */
    const char *prompt; /* the end of the prompt's text [n_prompt]: whether it opened a <think> */
    size_t n_prompt;
    bool has_tools;        /* else what looks like a call is text */
    bool inline_reasoning; /* reasoning stays in the text, marks included */
    void (*part)(void *user, const struct pg_reply_part *part);
    void *user;
};
#define PG_REPLY_OPTIONS_INIT .size = sizeof(struct pg_reply_options)
PG_API int pg_reply_open(pg_reply **out, const struct pg_reply_options *opt, struct pg_err *err);
PG_API void pg_reply_close(pg_reply *r);
/* The next token; those that end a text are ignored. */
PG_API int pg_reply_put(pg_reply *r, int32_t id, struct pg_err *err);
/* What was held back comes out; afterwards nothing may be put. */
PG_API int pg_reply_end(pg_reply *r, struct pg_err *err);
PG_API int pg_reply_n_calls(const pg_reply *r);

/* ------------------------------------------------------------------ files ------------------- */

/* The directory of a GGUF file (or split set): keys and tensors, no data. */
typedef struct pg_file pg_file;

struct pg_file_key {
    const char *name;
    const char *type; /* "u32", "string", "array[string]" ... */
    char value[96];   /* as text, shortened, escaped */
    uint64_t n;       /* elements of an array, else 1 */
};
struct pg_file_tensor {
    const char *name;
    const char *type; /* "Q4_K" */
    int n_dims;
    int64_t ne[4];
    uint64_t offset, bytes; /* of the data in its file */
    int part;               /* file of a split set */
};
PG_API int pg_file_open(pg_file **out, const char *path, struct pg_err *err);
PG_API void pg_file_close(pg_file *f);
PG_API int pg_file_n_keys(const pg_file *f);
PG_API int pg_file_n_tensors(const pg_file *f);
/* The i-th; all zero, with a name of NULL, when there is none. */
PG_API void pg_file_key_at(const pg_file *f, int i, struct pg_file_key *out);
PG_API void pg_file_tensor_at(const pg_file *f, int i, struct pg_file_tensor *out);
PG_API uint64_t pg_file_bytes(const pg_file *f);
PG_API int pg_file_version(const pg_file *f);

/* A random-weight GGUF of a real shape, the same bytes for the same seed. */
struct pg_synth_options {
    size_t size;
    const char *shape; /* see pg_synth_shape_name */
    const char *type;  /* "Q4_K" (default), "Q8_0", "F16", ... */
    const char *out;
    uint64_t seed;
    int (*progress)(void *user, const char *what, uint64_t done, uint64_t total);
    void *user;
    int n_layer;  /* of each stack, instead of the shape's; 0 = as it is */
    int reserved; /* 0 */
};
#define PG_SYNTH_OPTIONS_INIT .size = sizeof(struct pg_synth_options)
PG_API int pg_synth(const struct pg_synth_options *opt, struct pg_err *err);
PG_API const char *pg_synth_shape_name(int i); /* NULL after the last */

/* A GGUF of a Hugging Face folder (config.json, model.safetensors in one file or in shards, and the
 * files of its tokenizer), for all families that the engine runs. Memory is that of the vocabulary
 * and some 200 MiB. The file appears when it is whole. */
struct pg_convert_options {
    size_t size;
    const char *folder;
    const char *out;
    const char *type; /* of matrices: "keep" (default: as they are), "F16", "Q8_0", "Q4_K", …; rows
                       * that are no multiple of the type's block get one with a smaller block */
    int (*progress)(void *user, const char *what, uint64_t done, uint64_t total);
    void *user;
    int n_threads; /* that convert; 0: the machine's. The same bytes for any number */
    bool pack;     /* as pg_pack lays it out */
};
#define PG_CONVERT_OPTIONS_INIT .size = sizeof(struct pg_convert_options)
PG_API int pg_convert(const struct pg_convert_options *opt, struct pg_err *err);

/* A GGUF, also in parts, as one with its matrices in another type: gains, biases and routers stay
 * as they are. From one quantised type to another adds the errors of both. */
struct pg_quantize_options {
    size_t size;
    const char *model;
    const char *out;
    const char *type;
    bool experts_only; /* the matrices of experts alone */
    int (*progress)(void *user, const char *what, uint64_t done, uint64_t total);
    void *user;
    int n_threads; /* as of pg_convert */
    bool pack;     /* as pg_pack lays it out; a file that is packed stays so */
};
#define PG_QUANTIZE_OPTIONS_INIT .size = sizeof(struct pg_quantize_options)
PG_API int pg_quantize(const struct pg_quantize_options *opt, struct pg_err *err);

/* A GGUF, also in parts, as one in which the matrices of an expert lie side by side and begin at a
 * page, so that an expert is one read. Each is a tensor of its own then ("blk.3.ffn_up.5.weight"),
 * which programs may not know that want an expert's matrices merged with those of others; `undo`
 * merges them again. The weights are the same. */
struct pg_pack_options {
    size_t size;
    const char *model;
    const char *out;
    bool undo;
    int n_threads;
    int (*progress)(void *user, const char *what, uint64_t done, uint64_t total);
    void *user;
};
#define PG_PACK_OPTIONS_INIT .size = sizeof(struct pg_pack_options)
PG_API int pg_pack(const struct pg_pack_options *opt, struct pg_err *err);

/* A sidecar whose pre-gates are the routers `level` blocks on, gains folded in; where they decide,
 * the routers weigh. */
PG_API int pg_sidecar_write(const char *model, const char *out, int level, struct pg_err *err);

/* ------------------------------------------------------------------ training ---------------- */

/* Text is a file, or a pipe of 1 GiB at most. Documents are separated by a line "<|endoftext|>"; a
 * file without one is one document. Blank lines at a document's ends are not part of it. */

/* What decides in the model that is trained: its routers, or pre-gates `level` MoE blocks early. */
enum pg_gate_kind { PG_GATE_ROUTER, PG_GATE_PREGATE };
/* The last two fall to lr_end. */
enum pg_lr_schedule { PG_LR_CONSTANT, PG_LR_COSINE, PG_LR_LINEAR };

struct pg_train_options {
    size_t size;
    const char *model;       /* shape, vocabulary, and the weights to start from */
    const char *const *data; /* text files */
    int n_data;
    const char *out;          /* OUT.gguf; pre-gates go to OUT.pregate.gguf beside it */
    bool from_scratch;        /* new weights of the model's shape */
    const char *from_model;   /* weights of another model of the same shape */
    const char *from_sidecar; /* pre-gates to start from; NULL: the routers `level` on, folded */
    bool resume;              /* go on from OUT.gguf.checkpoint, to the same bits */
    enum pg_gate_kind gate;
    int level;          /* 0 = 1 */
    int n_steps;        /* 0 = 600 */
    int n_seq, seq_len; /* of one batch; 0 = 16 x min(256, the model's context) */
    int n_accumulate;   /* batches whose gradients make one step; 0 = 1 */
    float lr;           /* 0 = 3e-4 */
    enum pg_lr_schedule schedule;
    float lr_end;            /* as a part of lr; below 0 = none, 0 = 0.1 */
    int n_warmup;            /* steps of linear rise; 0 = none */
    float beta1, beta2, eps; /* AdamW; 0 = 0.9, 0.95, 1e-8 */
    float weight_decay;      /* of matrices; below 0 = none, 0 = 0.01 */
    float clip;              /* norm of the whole gradient; below 0 = none, 0 = 1 */
    float balance;           /* weight of the load-balancing loss; below 0 = none, 0 = 0.01 */
    float sticky;            /* weight of the expected-miss loss */
    int sticky_cache;        /* experts a block that its cache is taken to hold; 0 = 2 n_used */
    const char *freeze;      /* names with commas between, * for any: "token_embd*,*.attn_*" */
    const char *type;        /* of matrices in OUT.gguf: "F16", "BF16", "F32"; NULL = F16 */
    int checkpoint_every;    /* steps; 0 = 100 */
    uint64_t seed;
    int n_threads; /* 0 = the machine's */
    void (*log)(void *user, enum pg_log_level level, const char *text);
    int (*progress)(void *user, const char *what, uint64_t done, uint64_t total);
    void *user;
    /* Above 0: experts are chosen as cache_bias of struct pg_options has it, beside a cache of
     * sticky_cache experts a block, so that the model learns on the routes that it will get. */
    float cache_bias;
    /* Weight of the divergence KL(p_ref || p) of the next token's distribution from that of the
     * model which training starts from, its own routers deciding: a trust region. Takes the weights
     * once more, and a forward pass a step. */
    float kl;
    /* As in struct pg_options. */
    enum pg_cache_form cache_form;
    int n_block_bias;
    const float *block_bias;
    /* Experts of the next ranks that are computed, too, without a say in the answer, so that the
     * gates learn what it would be with them. Costs as many more experts a token. */
    int n_runners_up;
    /* Whose probabilities weigh the experts that a pre-gate has chosen, here and where the result
     * runs: the block's router, which then learns as well, or the pre-gate itself. */
    enum pg_gate_kind weigher;
    /* Where routers weigh: weight of the divergence KL(q || p) of a pre-gate's probabilities from
     * those of the router that it chooses for, on the states that its own choices lead to. Below 0
     * none, 0 = 10; without a weight a pre-gate that does not weigh learns from runners-up alone.
     */
    float imitate;
    /* Of a model with an encoder: tokens of the sources of a row, beside which seq_len are those of
     * the timelines; 0 = min(256, the model's). Such a model learns from pairs of a source and a
     * target: of data whose name ends in .jsonl an object a line with texts "source" and "target";
     * of any other text each piece's first part is the source of the rest. */
    int source_len;
    /* Part of the values that are dropped in each batch, below 1, and the rest made larger: of the
     * embeddings, of what each attention and feed-forward layer adds, and of the last norms. */
    float dropout;
};
#define PG_TRAIN_OPTIONS_INIT .size = sizeof(struct pg_train_options)

struct pg_train_report {
    int step; /* steps done */
    int n_steps;
    double loss;            /* per token, nats, of the step's batch */
    double balance, sticky; /* unweighted */
    double misses;          /* experts that a token's routes find missing in a cache of sticky_cache
                             * experts a block, all blocks together */
    double kl, imitate;     /* nats a token; 0 without a weight for it */
    double grad_norm;       /* before clipping */
    double lr;
    uint64_t n_tokens; /* since the beginning, resumed parts included */
    double seconds;    /* of this step */
};

typedef struct pg_trainer pg_trainer;
PG_API int pg_trainer_open(pg_trainer **out, const struct pg_train_options *opt,
                           struct pg_err *err);
PG_API void pg_trainer_close(pg_trainer *t); /* writes nothing */
/* One step. A loss or gradient that is not finite is PG_ENUMERIC, names the step, and leaves the
 * last checkpoint as it is. Writes a checkpoint when one is due. */
PG_API int pg_trainer_step(pg_trainer *t, struct pg_train_report *out, struct pg_err *err);
PG_API bool pg_trainer_done(const pg_trainer *t);
/* The report of step `step`, 1 to the last one done; resumed parts included. PG_EARG for others. */
PG_API int pg_trainer_report_at(const pg_trainer *t, int step, struct pg_train_report *out);
/* OUT.gguf.checkpoint, whole or not at all. PG_EARG after pg_trainer_finish. */
PG_API int pg_trainer_checkpoint(pg_trainer *t, struct pg_err *err);
/* Writes OUT.gguf and its sidecar and removes the checkpoint. */
PG_API int pg_trainer_finish(pg_trainer *t, struct pg_err *err);

/* What the pre-gates of a model that stays as it is learn from: what its routers say (they are
 * distilled); or, from there on, the loss of the language model itself while they decide. */
enum pg_tune_loss { PG_TUNE_ROUTERS, PG_TUNE_LM };

struct pg_tune_options {
    size_t size;
    const char *model;
    const char *const *data; /* text; of a model with an encoder pairs, as for pg_eval */
    int n_data;
    const char *out;       /* the sidecar */
    bool decide;           /* trained to decide, else to hint */
    int level;             /* 0 = 1 */
    int n_hidden;          /* hidden values beside the matrix; 0 = 64, below 0 = none */
    uint64_t memory_bytes; /* of the whole process, collected states included; 0 as the engine */
    uint64_t n_tokens;     /* of text to run; 0 = 200,000 or all there are */
    float holdout;         /* part of the documents that is only measured on; 0 = 0.1 */
    uint64_t seed;
    bool resume; /* go on from OUT.checkpoint */
    int n_threads;
    int n_ctx; /* tokens of a piece; of a source and of a target. 0 = 512, or the model's */
    void (*log)(void *user, enum pg_log_level level, const char *text);
    int (*progress)(void *user, const char *what, uint64_t done, uint64_t total);
    void *user;
    /* With PG_TUNE_LM, which wants `decide`. n_tokens bounds the text of both losses, if given. */
    enum pg_tune_loss loss;
    int n_steps; /* 0 = 300 */
    const char
        *from_sidecar;    /* pre-gates to begin with; NULL: they are distilled first, into OUT */
    int n_seq, seq_len;   /* of a batch; 0 = as many rows, up to 16, as read the fewest bytes a
                           * token within the memory, x min(256, the model's context) */
    float lr;             /* 0 = 3e-4; falls as a cosine to a tenth */
    float sticky;         /* weight of the expected-miss loss */
    int sticky_cache;     /* 0 = 2 n_used */
    int eval_every;       /* steps from one measurement on held-out text to the next; 0 = a
                           * tenth of all; the weights that were best are written */
    int checkpoint_every; /* steps; 0 = 100 */
    float cache_bias;     /* as in struct pg_train_options */
    float kl;             /* likewise: from the model itself, its own routers deciding */
    enum pg_cache_form cache_form; /* as in struct pg_train_options, and the next three */
    int n_block_bias;
    const float *block_bias;
    int n_runners_up;
    enum pg_gate_kind weigher; /* whatever the loss: as in struct pg_train_options */
    float imitate;             /* of PG_TUNE_LM: as there */
    int source_len;            /* of PG_TUNE_LM: as in struct pg_train_options */
};
#define PG_TUNE_OPTIONS_INIT .size = sizeof(struct pg_tune_options)

/* How well pre-gates name the experts that a block's router chooses, over some text. */
struct pg_agree_block {
    int block; /* MoE block whose router decides; its pre-gate sits `level` before */
    uint64_t n_tokens;
    double recall;        /* of the router's n_used experts, part that the pre-gate names */
    double mass;          /* router probability that the pre-gate's experts cover, of what the
                           * router's own n_used cover; at most all of it */
    double precision[16]; /* by rank of the pre-gate: part that is in the router's set */
    double set_right;     /* part of the tokens of which all n_used are named */
};
struct pg_tune_report {
    uint64_t n_tokens, n_tokens_held;            /* learnt from, measured on */
    int n_blocks, n_used;                        /* blocks with a pre-gate before them */
    const struct pg_agree_block *before, *after; /* [n_blocks] held-out text: the router folded; the
                                                  * pre-gate written. Until pg_tune_report_free */
    /* Of PG_TUNE_LM, which sets none of the last two lines. */
    struct pg_tune_lm {
        int n_steps, best_step; /* best: whose weights were written; 0: those that it began with */
        int n_seq, seq_len, level, n_pregates;
        /* Held-out text, at the beginning and of the best weights: nats a token, and what was
         * least, with the weights of the other losses. */
        double nll_before, nll_after, loss_before, loss_after;
        int n_counted;          /* steps that this call has done itself, and of those: */
        uint64_t bytes_read;    /* of experts */
        uint64_t bytes_missing; /* of experts that have no slot: a step's least is twice that */
        double flop;            /* of matrix products, what is made again included */
        double seconds, cpu_seconds, stall_seconds; /* cpu: of all threads */
    } lm;
};
PG_API int pg_tune(const struct pg_tune_options *opt, struct pg_tune_report *out,
                   struct pg_err *err);
/* NULL is fine, here and in pg_eval_report_free. */
PG_API void pg_tune_report_free(struct pg_tune_report *r);

/* ------------------------------------------------------------------ evaluation -------------- */

enum pg_eval_task { PG_EVAL_PPL, PG_EVAL_AGREE, PG_EVAL_QA, PG_EVAL_SUMMARIZE, PG_EVAL_COUNT };
PG_API const char *pg_eval_task_name(enum pg_eval_task t);

struct pg_eval_options {
    size_t size;
    enum pg_eval_task task;
    const char *data; /* ppl, agree: text; qa: SQuAD JSON; summarize: JSON lines */
    int n_max;        /* documents, lines or questions at most; 0 = all */
    bool windows;     /* ppl, agree: a document longer than the context is cut into pieces,
                       * each from a fresh context; else only its first n_ctx tokens count */
    int n_predict;    /* qa, summarize: tokens of an answer at most; 0 = 32, 128 */
    int (*progress)(void *user, const char *what, uint64_t done, uint64_t total);
    void *user;
    /* qa, summarize: file for what was answered, a JSON object a line in the order of the data, by
     * atomic rename; NULL: none. */
    const char *predictions;
};
#define PG_EVAL_OPTIONS_INIT .size = sizeof(struct pg_eval_options)

struct pg_eval_report {
    enum pg_eval_task task;
    char data_sha256[65];      /* of the data file */
    uint64_t n_docs;           /* documents, questions or summaries */
    uint64_t n_cut;            /* documents longer than the context, prompts that were cut */
    uint64_t n_skipped;        /* qa: questions that have no answer, left out */
    uint64_t n_tokens;         /* scored (ppl), compared (agree) or written */
    double ppl, nll_per_token; /* ppl */
    int n_blocks, n_used;      /* agree */
    const struct pg_agree_block *blocks;
    double exact_match, f1;        /* qa, percent */
    double rouge1, rouge2, rougeL; /* summarize, F-measure, percent */
    int n_named;                   /* agree: experts that a pre-gate names, n_used and extra */
};
/* Over an open engine, in its mode; agree needs one of lookahead or hint. All sessions the engine
 * has room for are used, and none may be open. What the data takes in memory, some times the size
 * of its file, comes on top of the engine's budget.
 *
 * Of a model with an encoder the data of ppl and agree are pairs: a file NAME.jsonl has an object a
 * line with the texts "source" and "target" (or a list of texts, of which the first is taken); all
 * else is text, of whose documents a first part is the source and the rest the target, both of the
 * engine's n_source and n_ctx tokens at most. Scored are the targets. The prompt of qa is the
 * source "question: … context: …", of summarize "summarize: …", without its end if it is too long;
 * an answer ends with the end token. */
PG_API int pg_eval(pg_engine *e, const struct pg_eval_options *opt, struct pg_eval_report *out,
                   struct pg_err *err);
PG_API void pg_eval_report_free(struct pg_eval_report *r);

/* The scores themselves, of UTF-8 text. SQuAD's normalisation, and of its two rules for F1 where
 * nothing is left of a text that of v2.0: 1 if nothing is left of both (v1.1 has 0); ROUGE as in
 * rouge-score without stemming, n at least 1. In [0, 1]; NaN when out of memory. */
struct pg_rouge {
    double precision, recall, f1;
};
PG_API double pg_exact_match(const char *answer, const char *truth);
PG_API double pg_answer_f1(const char *answer, const char *truth);
PG_API struct pg_rouge pg_rouge_n(const char *summary, const char *reference, int n);
PG_API struct pg_rouge pg_rouge_l(const char *summary, const char *reference);

/* ------------------------------------------------------------------ routes and policies ----- */

/* A trace: one JSON object a line, {"tok": n, "layers": [[ids of block 0], [ids of block 1], ...]}.
 * Of a model with an encoder a token goes through the blocks of one stack, and the lists of the
 * others are empty. Forced, the token at position p of a source or a timeline gets the routes of
 * the p-th line of its stack (after the last comes the first). */
PG_API int pg_routes_open(pg_routes **out, const char *path, struct pg_err *err);
PG_API void pg_routes_close(pg_routes *r);
PG_API int pg_routes_n_tokens(const pg_routes *r);
PG_API int pg_routes_n_blocks(const pg_routes *r);
PG_API int pg_routes_n_used(const pg_routes *r);   /* experts a token and block */
PG_API int pg_routes_n_expert(const pg_routes *r); /* 1 + the largest id */
/* Experts that a token uses in all its blocks; of two stacks the larger number. */
PG_API int pg_routes_n_token_experts(const pg_routes *r);

/* The routes that an engine with routes_out has run, a line a token of each step that succeeded, in
 * the order of the steps and of their rows: of one session the order of its text, of several side
 * by side as they were mixed. What decided is in them, a cache's bias included. The file appears
 * here, whole; without this call, or after an error, not at all. */
PG_API int pg_routes_finish(pg_engine *e, struct pg_err *err);

/* For pg_replay only: the optimum, which knows the future. */
#define PG_EVICT_BELADY PG_EVICT_COUNT
struct pg_replay {
    int policy, n_slots;
    int first, end;          /* tokens [0, end) of the trace are run, [first, end) are counted */
    uint64_t requests, hits; /* set by pg_replay_run */
};
PG_API int pg_replay_run(const pg_routes *r, struct pg_replay *x, struct pg_err *err);

/* ------------------------------------------------------------------ simulation -------------- */

/* A model on a machine that need not be there: the store, its policies and the gates are the real
 * ones; copies and computing take virtual time, by what a machine file says (docs/cli.md). Nothing
 * is multiplied and no weight is read. The same numbers for the same seed. A request is run twice,
 * and the second is counted: for each row a source through the encoder where there is one, then
 * n_steps tokens. */
struct pg_sim_options {
    size_t size;
    const char *shape;   /* pg_sim_shape_name, or a GGUF file */
    const char *machine; /* JSON file */
    const char *type;    /* of the matrices of a named shape; NULL: the machine's */
    enum pg_mode mode;   /* not AUTO */
    enum pg_evict evict; /* where slots are given */
    enum pg_hints hints;
    int level;    /* MoE blocks from a pre-gate to what it names; 0 = 1 */
    int n_batch;  /* rows of a step; 0 = 1 */
    int n_steps;  /* tokens of each row; 0 = 64 */
    int n_source; /* tokens of each row's source, or before its first token; 0 = 256 */
    /* Expert slots; 0: no cache, as many as the mode needs at once (all; of one block; 2 x all of a
     * block; of level + 1 blocks), least recently used first. */
    int n_slots;
    float cache; /* the same as a part of all experts; 0: by n_slots */
    /* Distinct experts that a block's step uses on average, forced; 0: each token's are drawn
     * evenly, or are those of `routes`. Of the encoder's blocks n_active_source. */
    float n_active, n_active_source;
    float hint_right;        /* part of what lookahead and hint name that is right; 0 = 0.75 */
    const pg_routes *routes; /* of all MoE blocks; borrowed for the call */
    uint64_t seed;
};
#define PG_SIM_OPTIONS_INIT .size = sizeof(struct pg_sim_options)

/* Seconds and bytes, means over what was counted. A block is a layer with experts of the decoder,
 * or of the only stack, with its attention. A floor is max(compute, bytes / copy bandwidth); a
 * block's leaves out bytes that computing outside of such blocks can hide. */
struct pg_sim_report {
    char shape[64], machine[64], type[16];
    double block, block_first, block_compute, block_floor; /* first: of a step */
    double step, step_compute, step_floor;                 /* a token of each row */
    double encode, encode_compute, encode_floor;           /* the sources of all rows; 0: none */
    double request;                                        /* encode + n_steps steps */
    double tps, tps_floor;                                 /* tokens written / request */
    double copy;   /* of one expert: latency and bytes / bandwidth */
    double window; /* computing from when a block's next is named until that is needed */
    double active; /* distinct experts of a block's step */
    double active_source;
    uint64_t step_bytes, encode_bytes; /* copied */
    /* Of the steps, not of the encoder: as in struct pg_stats. */
    uint64_t requests, hits, hinted_in_time, hinted_late, missed, hinted_unused;
    int n_batch, n_steps, n_source, n_slots, n_blocks, n_expert, n_used, n_expert_total;
    uint64_t expert_bytes;           /* of one */
    uint64_t dense_bytes, all_bytes; /* of the weights: those always in fast memory; all */
    uint64_t peak_bytes;             /* dense, and the slots: weights alone, no KV cache */
    uint64_t memory_bytes;           /* of the machine; 0: not said */
    bool fits;                       /* peak_bytes in memory_bytes */
};
PG_API int pg_simulate(const struct pg_sim_options *opt, struct pg_sim_report *out,
                       struct pg_err *err);
/* The shapes of pg_synth_shape_name, and some that are too large to be written; NULL after the
 * last. */
PG_API const char *pg_sim_shape_name(int i);

/* ------------------------------------------------------------------ machine ----------------- */

/* Measured read bandwidths in bytes/s. Disk: direct expert-sized reads at random places of `path`
 * for about `seconds`. Dram: all threads streaming over a buffer larger than the caches. */
PG_API int pg_roof_disk(const char *path, double seconds, double *bytes_per_s, struct pg_err *err);
PG_API int pg_roof_dram(int n_threads, double seconds, double *bytes_per_s, struct pg_err *err);

struct pg_machine {
    char cpu_model[96];
    char cpu_level[16]; /* best level present */
    int n_cpu;
    uint64_t memory_total, memory_limit; /* limit: smallest of cgroup chain and machine */
};
PG_API void pg_machine_info(struct pg_machine *out);
PG_API uint64_t pg_peak_rss(void); /* VmHWM in bytes */
/* Starts the peak anew, where the kernel allows it; returns whether it did. */
PG_API bool pg_peak_rss_reset(void);

#ifdef __cplusplus
}
#endif
#endif
