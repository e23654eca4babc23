/* SPDX-License-Identifier: MIT
 * The options of all commands: one table, from which come the parser, --help and the suggestions.
 *
 * A row says which commands know the option, where in struct cli_args its value goes, and what
 * values are good. One letter may mean two things in two commands (-p is a text in `run` and a
 * number in `bench`): then there are two rows.
 */
#include "cli.h"

#include <errno.h>
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

enum on {
    RUN = 1,
    BENCH = 2,
    INSPECT = 4,
    PLAN = 8,
    TOKENIZE = 16,
    LOGITS = 32,
    SYNTH = 64,
    SIDECAR = 128,
    REPLAY = 256,
    TRAIN = 512,
    TUNE = 1024,
    EVAL = 2048,
    CONVERT = 4096,
    QUANTIZE = 8192,
    PACK = 16384,
    LOAD = 32768,
    CHAT = 65536,
    SERVE = 131072,
    ALL = 262143,
    ENGINE = RUN | CHAT | BENCH | PLAN | LOGITS | EVAL | SERVE,
    MODEL = RUN | CHAT | BENCH | INSPECT | PLAN | TOKENIZE | LOGITS | SIDECAR | TRAIN | TUNE |
            EVAL | QUANTIZE | PACK | SERVE
};

enum kind { FLAG, TEXT, FILES, INTEGER, SEED, REAL, REALS, SIZE, CHOICE };

struct option {
    const char *name;
    char letter; /* 0 = none */
    const char *value;
    unsigned on;
    enum kind kind;
    size_t offset;
    double min, max;
    const char *(*choice)(int i); /* of CHOICE: the i-th name, NULL after the last */
    const char *help;
};

static const char *choice_mode(int i)
{
    return i < PG_MODE_COUNT ? pg_mode_name((enum pg_mode)i) : NULL;
}

static const char *choice_evict(int i)
{
    return i < PG_EVICT_COUNT ? pg_evict_name((enum pg_evict)i) : NULL;
}

static const char *choice_hints(int i)
{
    static const char *const names[] = {"auto", "on", "off"};
    return i < 3 ? names[i] : NULL;
}

static const char *choice_for(int i)
{
    static const char *const names[] = {"hint", "decide"};
    return i < 2 ? names[i] : NULL;
}

static const char *choice_loss(int i)
{
    static const char *const names[] = {"routers", "lm"};
    return i < 2 ? names[i] : NULL;
}

static const char *choice_kv(int i)
{
    static const char *const names[] = {"f16", "f32"};
    return i < 2 ? names[i] : NULL;
}

static const char *choice_io(int i)
{
    static const char *const names[] = {"auto", "uring", "pread"};
    return i < 3 ? names[i] : NULL;
}

static const char *choice_cpu(int i)
{
    static const char *const names[] = {"auto", "ref", "avx2", "avx512", "neon"};
    return i < 5 ? names[i] : NULL;
}

static const char *choice_gate(int i)
{
    static const char *const names[] = {"router", "pregate"};
    return i < 2 ? names[i] : NULL;
}

static const char *choice_recipe(int i)
{
    static const char *const names[] = {"none", "paper"};
    return i < 2 ? names[i] : NULL;
}

static const char *choice_schedule(int i)
{
    static const char *const names[] = {"constant", "cosine", "linear"};
    return i < 3 ? names[i] : NULL;
}

static const char *choice_task(int i)
{
    return pg_eval_task_name((enum pg_eval_task)i);
}

#define AT(field) offsetof(struct cli_args, field)
#define BIG       2147483647.0

// clang-format off
static const struct option options[] = {
{"model", 'm', "FILE", MODEL, TEXT, AT(subject), 0, 0, NULL, "GGUF file; of a split set, its first file"},
/* what to do */
{"prompt", 'p', "TEXT", RUN | TOKENIZE | LOAD, TEXT, AT(prompt), 0, 0, NULL, "text, taken as it is"},
{"file", 'f', "FILE", RUN | TOKENIZE, TEXT, AT(file), 0, 0, NULL, "text from a file; - is standard input"},
{"n-predict", 'n', "N", RUN, INTEGER, AT(n_predict), -1, BIG, NULL, "tokens to write; -1 = until the text or the context ends (128)"},
{"n-predict", 'n', "N", CHAT, INTEGER, AT(n_predict), -1, BIG, NULL, "tokens of an answer at most; -1 = until it or the context ends (-1)"},
{"system", 0, "TEXT", CHAT, TEXT, AT(system), 0, 0, NULL, "what the model is told first"},
{"chat-template", 0, "FILE", CHAT | SERVE, TEXT, AT(chat_template), 0, 0, NULL, "Jinja template instead of the model's; chatml is built in"},
{"think", 0, NULL, CHAT, FLAG, AT(think), 0, 0, NULL, "the template is told to have the model reason (as the template has it)"},
{"no-think", 0, NULL, CHAT, FLAG, AT(no_think), 0, 0, NULL, "the template is told to have it answer at once"},
{"tokens", 0, "IDS", LOGITS, TEXT, AT(tokens), 0, 0, NULL, "token ids with commas between, as 1,2,3"},
{"decoder-tokens", 0, "IDS", LOGITS, TEXT, AT(decoder_tokens), 0, 0, NULL, "of a model with an encoder: --tokens are its source, and these get the logits"},
{"n-prompt", 'p', "N", BENCH, INTEGER, AT(n_prompt), 1, BIG, NULL, "tokens of the prompt (128)"},
{"n-decode", 'n', "N", BENCH, INTEGER, AT(n_predict), 1, BIG, NULL, "tokens to decode (64)"},
{"file", 'f', "FILE", BENCH, TEXT, AT(file), 0, 0, NULL, "prompt from this text, its first -p tokens, instead of random tokens"},
{"reps", 'r', "N", BENCH, INTEGER, AT(reps), 1, 1000, NULL, "repetitions, interleaved over all rows (3)"},
{"parallel", 0, "N", BENCH, INTEGER, AT(n_parallel), 1, 1024, NULL, "texts that are decoded side by side, a token of each in a step (1)"},
{"steady", 0, NULL, BENCH, FLAG, AT(steady), 0, 0, NULL, "wait at fixed points of a step for all that is read, hinted experts included"},
{"modes", 0, "LIST", BENCH | PLAN, TEXT, AT(modes), 0, 0, NULL, "modes with commas between (all six); of plan: those to simulate"},
{"memory", 0, "LIST", BENCH, TEXT, AT(memories), 0, 0, NULL, "budgets with commas between, as 2G,4G,60% (what the machine leaves)"},
{"evict", 0, "LIST", BENCH, TEXT, AT(policies), 0, 0, NULL, "eviction policies with commas between (cycle)"},
{"routes", 0, "FILE", RUN | BENCH | PLAN, TEXT, AT(routes), 0, 0, NULL, "force the routing of a recorded trace (JSON lines)"},
{"format", 'o', "FORMAT", BENCH, TEXT, AT(format), 0, 0, NULL, "md, json, csv or html, on standard output (md)"},
/* how to run it */
{"memory", 0, "SIZE", RUN | CHAT | PLAN | LOGITS | EVAL | SERVE, SIZE, AT(memory), 0, 0, NULL, "bound of the whole process: 8G, 512MiB, 60% (what the machine leaves)"},
{"mode", 0, "MODE", RUN | CHAT | PLAN | LOGITS | EVAL | SERVE, CHOICE, AT(mode), 0, 0, choice_mode, "who decides and what is hinted (auto: resident if it fits, else hint or lookahead where they pay, else ondemand)"},
{"slots", 0, "N", ENGINE, INTEGER, AT(n_slots), 1, BIG, NULL, "expert slots, whatever the budget leaves; without --memory the budget is what that takes"},
{"pregate", 0, "FILE", ENGINE, TEXT, AT(sidecar), 0, 0, NULL, "sidecar with the pre-gates (beside the model)"},
{"evict", 0, "POLICY", RUN | CHAT | PLAN | LOGITS | EVAL | SERVE, CHOICE, AT(evict), 0, 0, choice_evict, "which expert leaves when a slot is needed (cycle)"},
{"hints", 0, "WHEN", RUN | CHAT | BENCH | LOGITS | EVAL | PLAN | SERVE, CHOICE, AT(hints), 0, 0, choice_hints, "hinted reads; auto stops them when they do not pay (auto)"},
{"cache-bias", 0, "X[,X...]", ENGINE, REALS, AT(cache_bias), 0, 1, NULL, "prefer experts that are in memory, by X of the logits' range: fewer bytes, another answer; of all blocks, or one a block (0)"},
{"cache-margin", 0, "M[,M...]", ENGINE, REALS, AT(cache_margin), 0, 1, NULL, "the same over those up to M more probable, a token's first expert but never: better at the same bytes (0)"},
{"lookahead", 0, "K", ENGINE, INTEGER, AT(lookahead), 1, 64, NULL, "blocks ahead that are hinted (1)"},
{"extra", 0, "N", ENGINE, INTEGER, AT(hint_extra), 0, 1023, NULL, "experts that lookahead and hint name beyond those a token uses (0)"},
{"ctx", 'c', "N", ENGINE, INTEGER, AT(n_ctx), 1, BIG, NULL, "tokens of context to make room for"},
{"capacity", 0, "N", ENGINE & ~CHAT, INTEGER, AT(capacity), 1, 65536, NULL, "of a model with an encoder: tokens of a source that an expert takes at most (all)"},
{"experts", 0, "N", ENGINE, INTEGER, AT(n_experts), 1, 4096, NULL, "experts a token and block: another answer (the model's)"},
{"source", 0, "N", RUN | BENCH | PLAN | EVAL, INTEGER, AT(n_source), 1, 65536, NULL, "of a model with an encoder: tokens of a source to make room for (the model's, 512 at most)"},
{"batch", 'b', "N", ENGINE, INTEGER, AT(n_batch), 1, 65536, NULL, "tokens of the prompt a step (the largest that fits well)"},
{"threads", 't', "N", ENGINE | TRAIN | TUNE | CONVERT | QUANTIZE | PACK, INTEGER, AT(n_threads), 1, 256, NULL, "threads that compute (the machine's)"},
{"kv", 0, "TYPE", ENGINE, CHOICE, AT(kv), 0, 0, choice_kv, "KV cache (f16; f32 in logits and eval)"},
{"io", 0, "PATH", RUN | CHAT | BENCH | LOGITS | EVAL | SERVE, CHOICE, AT(io_path), 0, 0, choice_io, "how experts are read (auto)"},
{"cpu", 0, "LEVEL", ENGINE, CHOICE, AT(cpu), 0, 0, choice_cpu, "highest instruction set to use (auto)"},
/* serving */
{"host", 0, "ADDRESS", SERVE, TEXT, AT(host), 0, 0, NULL, "address to listen at; 0.0.0.0 is all of them (127.0.0.1)"},
{"port", 0, "N", SERVE, INTEGER, AT(port), 0, 65535, NULL, "port; 0 = any that is free (8080)"},
{"parallel", 0, "N", SERVE, INTEGER, AT(n_parallel), 1, 256, NULL, "requests that run at once, each with a context of -c tokens (4)"},
{"kv-tokens", 0, "N", SERVE, INTEGER, AT(n_kv), 1, BIG, NULL, "tokens of all contexts together; requests wait for room, and what has ended is kept in it (--parallel x -c)"},
{"api-key", 0, "FILE", SERVE, TEXT, AT(key_file), 0, 0, NULL, "keys that clients have to have, one a line; SIGHUP reads it again"},
{"names", 0, "LIST", SERVE, TEXT, AT(names), 0, 0, NULL, "names that clients may call the server by, beside addresses, localhost and --host"},
{"cors-origins", 0, "LIST", SERVE, TEXT, AT(origins), 0, 0, NULL, "pages that may ask, as https://example.org (none)"},
{"no-webui", 0, NULL, SERVE, FLAG, AT(no_page), 0, 0, NULL, "no page at /"},
{"drain-timeout", 0, "S", SERVE, REAL, AT(drain_seconds), 0, 86400, NULL, "seconds that requests get to finish after SIGTERM (30)"},
{"alias", 0, "NAME", SERVE, TEXT, AT(alias), 0, 0, NULL, "what the model is called (its file's name)"},
{"itl-ms", 0, "N", SERVE, REAL, AT(itl_ms), 1, 60000, NULL, "while others write, prompts take steps of at most so long (200)"},
{"prompt-cache", 0, "DIR", SERVE, TEXT, AT(cache_dir), 0, 0, NULL, "folder where contexts are kept for later (memory alone)"},
{"prompt-cache-size", 0, "SIZE", SERVE, SIZE, AT(cache_bytes), 0, 0, NULL, "of the files there (4G)"},
/* sampling */
{"temp", 0, "T", RUN | CHAT, REAL, AT(temp), 0, 1000, NULL, "temperature; 0 = always the likeliest token (0.8)"},
{"top-k", 0, "K", RUN | CHAT, INTEGER, AT(top_k), 0, BIG, NULL, "of the K likeliest only; 0 = off (40)"},
{"top-p", 0, "P", RUN | CHAT, REAL, AT(top_p), 0, 1, NULL, "of the likeliest that sum to P only; 1 = off (0.95)"},
{"min-p", 0, "P", RUN | CHAT, REAL, AT(min_p), 0, 1, NULL, "of those at least P times as likely as the first; 0 = off (0.05)"},
{"repeat-penalty", 0, "X", RUN | CHAT, REAL, AT(repeat_penalty), 0, 100, NULL, "divides the logits of recent tokens; 1 = off (1)"},
{"presence-penalty", 0, "X", RUN | CHAT, REAL, AT(presence_penalty), -100, 100, NULL, "taken from the logits of recent tokens (0)"},
{"frequency-penalty", 0, "X", RUN | CHAT, REAL, AT(frequency_penalty), -100, 100, NULL, "the same, times how often they came (0)"},
{"repeat-last-n", 0, "N", RUN | CHAT, INTEGER, AT(last_n), 1, BIG, NULL, "how many tokens are recent (64)"},
{"beams", 0, "N", RUN, INTEGER, AT(n_beams), 1, 64, NULL, "beam search over N texts instead of sampling: the likeliest text, shown when it is whole"},
{"seed", 's', "S", RUN | CHAT | BENCH | SYNTH | TRAIN | TUNE | PLAN | LOAD, SEED, AT(seed), 0, 0, NULL, "of the random numbers (run, chat: new each time; else 1)"},
{"grammar", 0, "FILE", RUN | CHAT, TEXT, AT(grammar), 0, 0, NULL, "write only what this grammar (GBNF) allows; a value with ::= in it is the grammar itself"},
{"json-schema", 'j', "FILE", RUN | CHAT, TEXT, AT(json_schema), 0, 0, NULL, "write only JSON that keeps to this schema; a value that begins with { is the schema itself"},
{"ignore-eos", 0, NULL, RUN | LOAD, FLAG, AT(ignore_eos), 0, 0, NULL, "go on after an end-of-text token"},
/* text */
{"special", 0, NULL, RUN | TOKENIZE, FLAG, AT(special), 0, 0, NULL, "special tokens written in the text become those tokens"},
{"echo", 0, NULL, RUN, FLAG, AT(echo), 0, 0, NULL, "print the prompt before the text"},
/* training */
{"data", 0, "FILE...", TRAIN | TUNE, FILES, AT(data), 0, 0, NULL, "text files; may be given again"},
{"gate", 0, "KIND", TRAIN, CHOICE, AT(gate), 0, 0, choice_gate, "what decides in the model that is trained (router)"},
{"level", 0, "L", TRAIN, INTEGER, AT(level), 1, 64, NULL, "blocks from the state that a pre-gate reads to the block it decides (1)"},
{"loss", 0, "WHAT", TUNE, CHOICE, AT(loss), 0, 0, choice_loss, "what they learn from: what routers say, or then the loss of the language model, with --for decide (routers)"},
{"from", 0, "SIDECAR", TUNE, TEXT, AT(from), 0, 0, NULL, "lm: pre-gates to begin with (distilled first, into OUT)"},
{"from", 0, "WHAT", TRAIN, TEXT, AT(from), 0, 0, NULL, "scratch, another model of this shape, or a sidecar with pre-gates (MODEL itself)"},
{"steps", 0, "N", TRAIN, INTEGER, AT(n_steps), 1, BIG, NULL, "optimiser steps (600)"},
{"steps", 0, "N", TUNE, INTEGER, AT(n_steps), 1, BIG, NULL, "lm: optimiser steps (300)"},
{"batch", 'b', "SEQxLEN", TUNE, TEXT, AT(batch), 0, 0, NULL, "lm: rows of a batch and tokens of a row, or SEQxSOURCExLEN (up to 16x256, as memory allows)"},
{"batch", 'b', "SEQxLEN", TRAIN, TEXT, AT(batch), 0, 0, NULL, "rows of a batch and tokens of a row; with an encoder SEQxSOURCExLEN (16x256, or the model's context)"},
{"recipe", 0, "WHOSE", TRAIN, CHOICE, AT(recipe), 0, 0, choice_recipe, "paper: 2048 steps of 256 x 256 tokens at 1e-4, and pre-gates that weigh; what is given beside it counts (none)"},
{"accumulate", 0, "N", TRAIN, INTEGER, AT(n_accumulate), 1, 65536, NULL, "batches whose gradients make one step (1)"},
{"lr", 0, "X", TRAIN, REAL, AT(lr), 1e-30, 1e38, NULL, "learning rate (3e-4)"},
{"schedule", 0, "WHAT", TRAIN, CHOICE, AT(schedule), 0, 0, choice_schedule, "of the learning rate (constant)"},
{"lr-end", 0, "PART", TRAIN, REAL, AT(lr_end), 0, 1, NULL, "where cosine and linear end, as a part of --lr (0.1)"},
{"lr", 0, "X", TUNE, REAL, AT(lr), 1e-30, 1e38, NULL, "lm: learning rate (3e-4)"},
{"warmup", 0, "N", TRAIN, INTEGER, AT(n_warmup), 0, BIG, NULL, "steps in which the learning rate rises (0)"},
{"weight-decay", 0, "X", TRAIN, REAL, AT(weight_decay), 0, 1e6, NULL, "AdamW's, of matrices (0.01)"},
{"dropout", 0, "P", TRAIN, REAL, AT(dropout), 0, 0.99, NULL, "part of what each layer adds that is dropped in a batch (0)"},
{"clip", 0, "X", TRAIN, REAL, AT(clip), 0, 1e30, NULL, "largest norm of the whole gradient; 0 = any (1)"},
{"balance", 0, "X", TRAIN, REAL, AT(balance), 0, 1e6, NULL, "weight of the load-balancing loss (0.01)"},
{"eval-every", 0, "N", TUNE, INTEGER, AT(eval_every), 1, BIG, NULL, "lm: steps from one measurement on held-out text to the next (a tenth of all)"},
{"sticky", 0, "LAMBDA", TRAIN | TUNE, REAL, AT(sticky), 0, 1e6, NULL, "weight of the expected cache misses: gates that are kind to the cache (0)"},
{"sticky-cache", 0, "N", TRAIN | TUNE, INTEGER, AT(sticky_cache), 1, 65536, NULL, "experts a block that this cache is taken to hold (twice what a token uses)"},
{"cache-bias", 0, "X[,X...]", TRAIN | TUNE, REALS, AT(cache_bias), 0, 1, NULL, "prefer experts that this cache holds, as run --cache-bias will (0)"},
{"cache-margin", 0, "M[,M...]", TRAIN | TUNE, REALS, AT(cache_margin), 0, 1, NULL, "the same for run --cache-margin (0)"},
{"weigher", 0, "KIND", TRAIN | TUNE, CHOICE, AT(weigher), 0, 0, choice_gate, "who weighs the experts that a pre-gate has chosen (router)"},
{"runners-up", 0, "N", TRAIN | TUNE, INTEGER, AT(n_runners_up), 0, 65536, NULL, "experts beyond those used that gates learn from, without a say in the answer (0)"},
{"imitate", 0, "W", TRAIN | TUNE, REAL, AT(imitate), 0, 1e6, NULL, "weight of a pre-gate's divergence from the router that weighs what it chooses (10)"},
{"kl", 0, "W", TRAIN | TUNE, REAL, AT(kl), 0, 1e6, NULL, "weight of the divergence from the model that training starts from (0)"},
{"freeze", 0, "LIST", TRAIN, TEXT, AT(freeze), 0, 0, NULL, "tensors that stay as they are, commas between, * for any: token_embd*,*.attn_*"},
{"type", 0, "TYPE", TRAIN, TEXT, AT(type), 0, 0, NULL, "of the matrices in the result: F16, BF16 or F32 (F16)"},
{"checkpoint-every", 0, "N", TRAIN | TUNE, INTEGER, AT(checkpoint_every), 1, BIG, NULL, "steps from one checkpoint to the next (100)"},
{"for", 0, "WHAT", TUNE, CHOICE, AT(trained_for), 0, 0, choice_for, "what the pre-gates are for: to hint, or to decide (hint)"},
{"level", 0, "L", TUNE, INTEGER, AT(level), 1, 64, NULL, "blocks from the state that is read to the block named (1)"},
{"hidden", 0, "N", TUNE, INTEGER, AT(n_hidden), 0, 4096, NULL, "values of the layer beside the matrix; 0 = the matrix alone (64)"},
{"tokens", 0, "N", TUNE, INTEGER, AT(n_tokens), 1, BIG, NULL, "of the text to run at most (200000)"},
{"holdout", 0, "PART", TUNE, REAL, AT(holdout), 0.001, 0.9, NULL, "of the documents that is only measured on (0.1)"},
{"ctx", 'c', "N", TUNE, INTEGER, AT(n_ctx), 1, BIG, NULL, "tokens of a piece of text, or of a source and of a target (512, or the model's context)"},
{"memory", 0, "SIZE", TUNE, SIZE, AT(memory), 0, 0, NULL, "bound of the whole process, kept states included: 8G, 512MiB, 60% (what the machine leaves)"},
{"resume", 0, NULL, TRAIN | TUNE, FLAG, AT(resume), 0, 0, NULL, "go on from the last checkpoint, to the same bits"},
{"csv", 0, "FILE", TRAIN, TEXT, AT(csv), 0, 0, NULL, "metrics of each step (beside the result: OUT.gguf.csv)"},
{"svg", 0, "FILE", TRAIN, TEXT, AT(svg), 0, 0, NULL, "the curve of the loss (beside the result: OUT.gguf.svg)"},
/* evaluation */
{"task", 0, "TASK", EVAL, CHOICE, AT(task), 0, 0, choice_task, "perplexity, agreement of pre-gates with routers, answers, summaries (ppl)"},
{"data", 0, "FILE", EVAL, TEXT, AT(data_file), 0, 0, NULL, "ppl, agree: text, or of a model with an encoder pairs in NAME.jsonl; qa: SQuAD JSON; summarize: JSON lines"},
{"max", 0, "N", EVAL, INTEGER, AT(n_max), 1, BIG, NULL, "documents or questions at most (all)"},
{"windows", 0, NULL, EVAL, FLAG, AT(windows), 0, 0, NULL, "a text longer than the context counts whole, cut into pieces (its beginning only)"},
{"n-predict", 'n', "N", EVAL, INTEGER, AT(n_predict), 1, BIG, NULL, "tokens of an answer at most (32; 128 of a summary)"},
/* other commands */
{"type", 0, "TYPE", SYNTH, TEXT, AT(type), 0, 0, NULL, "of the weights: Q4_K, Q8_0, F16, ... (Q4_K)"},
{"type", 0, "TYPE", CONVERT, TEXT, AT(type), 0, 0, NULL, "of the matrices: keep, F32, F16, BF16, Q8_0, Q4_0, Q4_K, ... (keep)"},
{"type", 0, "TYPE", QUANTIZE, TEXT, AT(type), 0, 0, NULL, "of the matrices: F32, F16, BF16, Q8_0, Q6_K, Q5_K, Q4_K, Q3_K, Q2_K, Q5_1, Q5_0, Q4_1, Q4_0"},
{"experts-only", 0, NULL, QUANTIZE, FLAG, AT(experts_only), 0, 0, NULL, "leave all but the experts as it is"},
{"pack", 0, NULL, CONVERT | QUANTIZE, FLAG, AT(pack), 0, 0, NULL, "lay it out as `pregate pack` does"},
{"undo", 0, NULL, PACK, FLAG, AT(undo), 0, 0, NULL, "the other way: merge the experts' tensors again, as llama.cpp wants them"},
{"layers", 0, "N", SYNTH, INTEGER, AT(n_layers), 1, 1024, NULL, "layers of each stack, instead of the shape's"},
{"list", 0, NULL, SYNTH, FLAG, AT(list), 0, 0, NULL, "print the known shapes"},
{"level", 0, "L", SIDECAR, INTEGER, AT(level), 1, 64, NULL, "blocks from the state that is read to the block chosen for (1)"},
{"slots", 0, "LIST", REPLAY, TEXT, AT(slots), 0, 0, NULL, "numbers of expert slots with commas between"},
{"ratio", 0, "LIST", REPLAY, TEXT, AT(ratios), 0, 0, NULL, "slots as multiples of what one token uses (0.5,1,2,3)"},
{"split", 0, NULL, REPLAY, FLAG, AT(split), 0, 0, NULL, "report the two halves of the trace, too"},
{"keys", 0, NULL, INSPECT, FLAG, AT(keys), 0, 0, NULL, "every key"},
{"tensors", 0, NULL, INSPECT, FLAG, AT(tensors), 0, 0, NULL, "every tensor"},
{"no-measure", 0, NULL, PLAN | BENCH, FLAG, AT(no_measure), 0, 0, NULL, "leave out the bandwidths and the speeds that follow from them"},
{"simulate", 0, "MACHINE", PLAN, TEXT, AT(machine), 0, 0, NULL, "on the machine of this JSON file, in virtual time; MODEL may be a named shape"},
{"batches", 0, "LIST", PLAN, TEXT, AT(batches), 0, 0, NULL, "simulate: rows of a step, with commas between (1)"},
{"steps", 0, "N", PLAN, INTEGER, AT(n_steps), 1, 65536, NULL, "simulate: tokens of each row (64)"},
{"cache", 0, "PART", PLAN, REAL, AT(cache), 1e-6, 1, NULL, "simulate: expert slots as a part of all experts (no cache: what a mode needs at once)"},
{"active", 0, "X", PLAN, REAL, AT(active), 1, 65536, NULL, "simulate: force so many distinct experts in a block's step, on average (as drawn)"},
{"active-source", 0, "X", PLAN, REAL, AT(active_source), 1, 65536, NULL, "simulate: the same of the encoder's blocks"},
{"right", 0, "PART", PLAN, REAL, AT(hint_right), 0.01, 1, NULL, "simulate: of what lookahead and hint name, how much is right (0.75)"},
{"type", 0, "TYPE", PLAN, TEXT, AT(type), 0, 0, NULL, "simulate: of a named shape's matrices (the machine's)"},
/* load */
{"prompts", 0, "FILE", LOAD, TEXT, AT(prompts), 0, 0, NULL, "a prompt a line, or JSON lines with \"prompt\" or \"messages\" (and \"max_tokens\")"},
{"shuffle", 0, NULL, LOAD, FLAG, AT(shuffle), 0, 0, NULL, "prompts in an order drawn from --seed, anew each time all have been sent (in order)"},
{"clients", 0, "LIST", LOAD, TEXT, AT(clients), 0, 0, NULL, "closed loop, a row for each number: so many clients, each of which sends when its last reply has ended (1)"},
{"rate", 0, "LIST", LOAD, TEXT, AT(rates), 0, 0, NULL, "open loop, a row for each number: Poisson arrivals of so many requests a second, sent when they are due"},
{"duration", 0, "S", LOAD, REAL, AT(duration), 0.01, 1e6, NULL, "seconds in which a row sends (30)"},
{"requests", 0, "N", LOAD, INTEGER, AT(n_requests), 1, BIG, NULL, "requests of a row, instead of --duration"},
{"warmup", 0, "N", LOAD, INTEGER, AT(n_warmup), 0, BIG, NULL, "requests before the first row that are not counted (0)"},
{"max-tokens", 'n', "N", LOAD, INTEGER, AT(n_max_tokens), 1, BIG, NULL, "tokens of a reply at most (128)"},
{"chat", 0, NULL, LOAD, FLAG, AT(chat), 0, 0, NULL, "POST /v1/chat/completions (the default)"},
{"completions", 0, NULL, LOAD, FLAG, AT(completions), 0, 0, NULL, "POST /v1/completions"},
{"model", 'm', "NAME", LOAD, TEXT, AT(model_name), 0, 0, NULL, "the server's name of the model (the first that it lists)"},
{"temp", 0, "T", LOAD, REAL, AT(temp), 0, 1000, NULL, "temperature that is asked for (the server's own)"},
{"api-key", 0, "FILE", LOAD, TEXT, AT(api_key), 0, 0, NULL, "key in the first line of a file"},
{"timeout", 0, "S", LOAD, REAL, AT(timeout), 0.001, 1e6, NULL, "seconds after which a request has failed (600)"},
{"metrics", 0, "LIST", LOAD, TEXT, AT(metrics), 0, 0, NULL, "counters of the server's GET /metrics, commas between: what a row adds to them, and a token"},
/* results */
{"out", 'o', "FILE", LOGITS | SYNTH | SIDECAR | TRAIN | TUNE | CONVERT | QUANTIZE | PACK, TEXT, AT(output), 0, 0, NULL, "file to write; appears when it is whole"},
{"format", 'o', "FORMAT", REPLAY, TEXT, AT(format), 0, 0, NULL, "md or json (md)"},
{"json", 0, NULL, RUN | PLAN | INSPECT | REPLAY | TRAIN | TUNE | EVAL | LOAD, FLAG, AT(json), 0, 0, NULL, "one JSON object on standard output instead"},
{"routes-out", 0, "FILE", RUN | EVAL, TEXT, AT(routes_out), 0, 0, NULL, "write which experts each token used, for replay and --routes (JSON lines)"},
{"predictions", 0, "FILE", EVAL, TEXT, AT(predictions), 0, 0, NULL, "qa, summarize: write each answer with its marks (JSON lines)"},
{"out", 'o', "FILE", LOAD, TEXT, AT(output), 0, 0, NULL, "write each request with its times (JSON lines)"},
{"svg", 0, "FILE", LOAD, TEXT, AT(svg), 0, 0, NULL, "draw times and throughput of all rows"},
{"trace", 0, "FILE", RUN, TEXT, AT(trace), 0, 0, NULL, "write what happened when, for ui.perfetto.dev"},
{"verbose", 'v', NULL, ALL, FLAG, AT(verbose), 0, 0, NULL, "say more on standard error"},
{"help", 'h', NULL, ALL, FLAG, AT(help), 0, 0, NULL, "this text"},
};
// clang-format on

#define N_OPTIONS (sizeof(options) / sizeof(options[0]))

/* ---------------------------------------------------------------- suggestions --------------- */

/* Levenshtein's distance; words longer than the row are as far as can be. */
static int distance(const char *a, const char *b)
{
    enum { CAP = 40 };
    int row[CAP + 1];
    const int na = (int)strlen(a), nb = (int)strlen(b);
    if (na > CAP || nb > CAP)
        return CAP;
    for (int j = 0; j <= nb; j++)
        row[j] = j;
    for (int i = 1; i <= na; i++) {
        int diagonal = row[0];
        row[0] = i;
        for (int j = 1; j <= nb; j++) {
            const int change = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            const int grow = (row[j] < row[j - 1] ? row[j] : row[j - 1]) + 1;
            row[j] = change < grow ? change : grow;
        }
    }
    return row[nb];
}

const char *cli_nearest(const char *word, const char *const *names)
{
    const char *best = NULL;
    int best_d = 0;
    for (; *names; names++) {
        const int d = distance(word, *names);
        const bool starts = strlen(word) >= 3 && !strncmp(word, *names, strlen(word));
        const int limit = strlen(word) < 4 ? 1 : (int)strlen(word) / 3 + 1;
        if ((d <= limit || starts) && (!best || d < best_d)) {
            best = *names;
            best_d = d;
        }
    }
    return best;
}

/* ---------------------------------------------------------------- parser -------------------- */

static unsigned command_bit(const char *name)
{
    static const char *const names[] = {
        "run",   "bench", "inspect", "plan",    "tokenize", "logits", "synth", "sidecar", "replay",
        "train", "tune",  "eval",    "convert", "quantize", "pack",   "load",  "chat",    "serve"};
    for (unsigned i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        if (!strcmp(name, names[i]))
            return 1u << i;
    return 0;
}

static void defaults(struct cli_args *a, const char *command)
{
    *a = (struct cli_args){.command = command,
                           .n_predict = 128,
                           .n_prompt = 128,
                           .reps = 3,
                           .level = strcmp(command, "train") ? 1 : 0, /* 0: not given */
                           .temp = 0.8,
                           .top_k = 40,
                           .top_p = 0.95,
                           .min_p = 0.05,
                           .repeat_penalty = 1,
                           .last_n = 64,
                           .seed = 1,
                           .lr = 3e-4,
                           .lr_end = 0.1,
                           .weight_decay = 0.01,
                           .clip = 1,
                           .balance = 0.01,
                           .imitate = -1,
                           .n_hidden = 64,
                           .duration = 30,
                           .timeout = 600,
                           .n_max_tokens = 128,
                           .holdout = 0.1,
                           .host = "127.0.0.1",
                           .port = 8080,
                           .drain_seconds = 30};
    if (!strcmp(command, "tune")) {
        a->lr = 0; /* as the library has it */
        a->level = 0;
    }
    if (!strcmp(command, "serve"))
        a->n_parallel = 4;
    if (!strcmp(command, "chat"))
        a->n_predict = -1;
    if (!strcmp(command, "bench"))
        a->n_predict = 64;
    if (!strcmp(command, "logits") || !strcmp(command, "eval"))
        a->kv = PG_KV_F32;
    if (!strcmp(command, "eval"))
        a->n_predict = 0; /* as the task has it */
}

static int bad_value(const struct option *o, const char *value, const char *wanted)
{
    return cli_usage("--%s: \"%s\" is not %s", o->name, value, wanted);
}

static int set_integer(const struct option *o, const char *value, int *out)
{
    char *end;
    errno = 0;
    const long v = strtol(value, &end, 10);
    if (!errno && *value && !*end && (double)v >= o->min && (double)v <= o->max) {
        *out = (int)v;
        return 0;
    }
    char wanted[80];
    if (o->max >= BIG)
        snprintf(wanted, sizeof(wanted), "a whole number of at least %.0f", o->min);
    else
        snprintf(wanted, sizeof(wanted), "a whole number from %.0f to %.0f", o->min, o->max);
    return bad_value(o, value, wanted);
}

static int set_real(const struct option *o, const char *value, double *out)
{
    char *end;
    const double v = strtod(value, &end);
    if (*value && !*end && isfinite(v) && v >= o->min && v <= o->max) {
        *out = v;
        return 0;
    }
    char wanted[80];
    snprintf(wanted, sizeof(wanted), "a number from %g to %g", o->min, o->max);
    return bad_value(o, value, wanted);
}

/* A number, or some with commas between. */
static int set_reals(const struct option *o, const char *value, struct cli_reals *out)
{
    out->n = 0;
    for (const char *at = value;; at++) {
        char *end;
        const double v = strtod(at, &end);
        const bool good = end != at && isfinite(v) && v >= o->min && v <= o->max;
        if (!good || (*end && *end != ',') || out->n == CLI_REALS) {
            char wanted[80];
            snprintf(wanted, sizeof(wanted),
                     "a number from %g to %g, or up to %d with commas between", o->min, o->max,
                     CLI_REALS);
            return bad_value(o, value, wanted);
        }
        out->v[out->n++] = (float)v;
        at = end;
        if (!*at)
            return 0;
    }
}

static int set_seed(const struct option *o, const char *value, struct cli_args *a)
{
    char *end;
    errno = 0;
    const unsigned long long v = strtoull(value, &end, 10);
    if (errno || *value < '0' || *value > '9' || *end)
        return bad_value(o, value, "a whole number from 0 to 18446744073709551615");
    a->seed = v;
    a->seed_given = true;
    return 0;
}

static int set_size(const struct option *o, const char *value, uint64_t *out)
{
    struct pg_machine machine;
    pg_machine_info(&machine);
    if (cli_size_parse(value, machine.memory_limit, out))
        return 0;
    return bad_value(o, value, "a size such as 8G, 512MiB or 60%");
}

static int set_choice(const struct option *o, const char *value, int *out)
{
    const char *names[16] = {0};
    char wanted[200] = "one of";
    for (int i = 0; i < 15 && (names[i] = o->choice(i)); i++) {
        if (!strcmp(value, names[i])) {
            *out = i;
            return 0;
        }
        const size_t n = strlen(wanted);
        snprintf(wanted + n, sizeof(wanted) - n, "%s %s", i ? "," : "", names[i]);
    }
    const char *near = cli_nearest(value, names);
    if (near)
        return cli_usage("--%s: \"%s\" is not %s; did you mean %s?", o->name, value, wanted, near);
    return bad_value(o, value, wanted);
}

/* The list has room for every word of the command line (cli_args_parse). */
static int add_file(struct cli_files *list, const char *path)
{
    list->path[list->n++] = path;
    return 0;
}

static int set_value(const struct option *o, const char *value, struct cli_args *a)
{
    void *at = (char *)a + o->offset;
    switch (o->kind) {
    case FILES:
        return add_file(at, value);
    case FLAG:
        *(bool *)at = true;
        return 0;
    case TEXT:
        *(const char **)at = value;
        return 0;
    case INTEGER:
        return set_integer(o, value, at);
    case REAL:
        return set_real(o, value, at);
    case REALS:
        return set_reals(o, value, at);
    case SEED:
        return set_seed(o, value, a);
    case SIZE:
        return set_size(o, value, at);
    case CHOICE:
        return set_choice(o, value, at);
    }
    return 0;
}

static const struct option *option_find(unsigned on, const char *name, size_t n, char letter)
{
    for (size_t i = 0; i < N_OPTIONS; i++) {
        const struct option *o = &options[i];
        if (!(o->on & on))
            continue;
        if (letter ? o->letter == letter : strlen(o->name) == n && !memcmp(o->name, name, n))
            return o;
    }
    return NULL;
}

static int option_unknown(const struct cli_command *cmd, const char *arg, size_t n)
{
    const char *names[N_OPTIONS + 1] = {0};
    const unsigned on = command_bit(cmd->name);
    char word[64];
    size_t n_names = 0;
    snprintf(word, sizeof(word), "%.*s", (int)(n < 63 ? n : 63), arg);
    for (size_t i = 0; i < N_OPTIONS; i++)
        if (options[i].on & on)
            names[n_names++] = options[i].name;
    const char *bare = word + strspn(word, "-");
    const char *near = strlen(bare) > 1 ? cli_nearest(bare, names) : NULL;
    if (near)
        return cli_usage("%s: unknown option \"%s\"; did you mean --%s?", cmd->name, word, near);
    return cli_usage("%s: unknown option \"%s\"; `pregate %s --help` lists them", cmd->name, word,
                     cmd->name);
}

/* One option at argv[*i]; *i moves on over a value that stands apart, and over all words up to the
 * next option where the value is a list of files. */
static int option_take(struct cli_args *a, const struct cli_command *cmd, int argc, char **argv,
                       int *i)
{
    const char *arg = argv[*i];
    const unsigned on = command_bit(cmd->name);
    const bool is_long = arg[1] == '-';
    const size_t n = is_long ? strcspn(arg + 2, "=") : 1;
    const struct option *o = option_find(on, arg + 2, n, is_long ? '\0' : arg[1]);
    if (!o)
        return option_unknown(cmd, arg, is_long ? n + 2 : strlen(arg));
    const char *value = is_long ? arg + 2 + n : arg + 2;
    const bool has_value = *value != '\0';
    if (is_long && has_value)
        value++;
    if (!o->value && has_value)
        return cli_usage("%s: --%s takes no value, \"%s\" found", cmd->name, o->name, value);
    if (o->value && !has_value) {
        if (*i + 1 >= argc)
            return cli_usage("%s: --%s needs a value: %s", cmd->name, o->name, o->value);
        value = argv[++*i];
    }
    if (!cli_given(a, o->name) && a->n_given < CLI_GIVEN)
        a->given[a->n_given++] = o->name;
    int rc = set_value(o, value, a);
    while (!rc && o->kind == FILES && *i + 1 < argc && !(argv[*i + 1][0] == '-' && argv[*i + 1][1]))
        rc = set_value(o, argv[++*i], a);
    return rc;
}

bool cli_given(const struct cli_args *args, const char *name)
{
    for (int i = 0; i < args->n_given; i++)
        if (!strcmp(args->given[i], name))
            return true;
    return false;
}

int cli_needs_check(const struct cli_args *args, const struct cli_needs *needs, int n)
{
    for (int i = 0; i < n; i++)
        if (!needs[i].met && cli_given(args, needs[i].option))
            return cli_usage("%s: --%s would do nothing: it is for %s", args->command,
                             needs[i].option, needs[i].what);
    return CLI_OK;
}

int cli_args_parse(struct cli_args *args, const struct cli_command *cmd, int argc, char **argv)
{
    bool only_names = false;
    const char *position = NULL;
    defaults(args, cmd->name);
    args->data.path = calloc((size_t)argc + 1, sizeof(*args->data.path));
    if (!args->data.path)
        return cli_usage("%s: out of memory", cmd->name);
    for (int i = 0; i < argc; i++) {
        if (!only_names && !strcmp(argv[i], "--")) {
            only_names = true;
        } else if (!only_names && argv[i][0] == '-' && argv[i][1]) {
            const int rc = option_take(args, cmd, argc, argv, &i);
            if (rc)
                return rc;
        } else if (position) {
            return cli_usage("%s: unexpected argument \"%s\" after \"%s\"", cmd->name, argv[i],
                             position);
        } else {
            position = argv[i];
        }
    }
    if (args->cache_bias.n && args->cache_margin.n)
        return cli_usage("%s: --cache-bias and --cache-margin are two ways to prefer experts that "
                         "are in memory; one is wanted",
                         cmd->name);
    if (position && args->subject && !args->help)
        return cli_usage("%s: %s is given twice: \"%s\" and \"%s\"", cmd->name, cmd->subject,
                         args->subject, position);
    if (position)
        args->subject = position;
    if (!args->subject && !args->help && !args->list)
        return cli_usage("%s: %s is missing; `pregate %s --help` shows how to call it", cmd->name,
                         cmd->subject, cmd->name);
    return 0;
}

/* ---------------------------------------------------------------- help ---------------------- */

void cli_help_options(const struct cli_command *cmd)
{
    const unsigned on = command_bit(cmd->name);
    for (size_t i = 0; i < N_OPTIONS; i++) {
        const struct option *o = &options[i];
        char left[64];
        if (!(o->on & on))
            continue;
        snprintf(left, sizeof(left), "%c%c%s --%s %s", o->letter ? '-' : ' ',
                 o->letter ? o->letter : ' ', o->letter ? "," : " ", o->name,
                 o->value ? o->value : "");
        printf("  %-27s %s\n", left, o->help);
        if (o->choice) {
            printf("  %-27s ", "");
            for (int c = 0; o->choice(c); c++)
                printf("%s%s", c ? " | " : "", o->choice(c));
            putchar('\n');
        }
    }
}

void cli_help_command(const struct cli_command *cmd)
{
    printf("pregate %s: %s\n\nUsage: pregate %s %s [options]\n\n%s\n\nOptions:\n", cmd->name,
           cmd->synopsis, cmd->name, cmd->subject, cmd->about);
    cli_help_options(cmd);
    printf("\nExamples:\n%s", cmd->examples);
}
