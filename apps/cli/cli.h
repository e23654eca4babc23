/* SPDX-License-Identifier: MIT
 * What the commands of the program `pregate` share: the parsed command line, messages, progress.
 *
 *   main.c      picks the command
 *   options.c   one table of options: parser, --help
 *   sizes.c     8G, 512MiB, 60 %: bytes to and from text; lists
 *   term.c      progress, interrupts, safe printing
 *   files.c     whole files in, atomic files out
 *   grammars.c  what a text may be
 *   report.c    statistics as JSON, rates, model and plan
 *   chat_X.c    parts of cmd_chat.c
 *   cmd_X.c     the command X: int cli_X(const struct cli_args *), which returns the exit code
 */
#ifndef PG_CLI_H
#define PG_CLI_H

#include <pregate.h>

#include <jansson.h>
#include <stdio.h>

/* Ended by a signal: cli_interrupt_code. */
enum cli_exit { CLI_OK = 0, CLI_FAILED = 1, CLI_USAGE = 2 };

/* ---------------------------------------------------------------- command line -------------- */

struct cli_files {
    const char **path;
    int n;
};

enum { CLI_REALS = 256 };
struct cli_reals {
    float v[CLI_REALS];
    int n; /* 0: not given */
};

enum { CLI_GIVEN = 128 }; /* more than there are options */

/* Everything that the options of any command can say. options.c fills it, defaults first. */
struct cli_args {
    const char *command;
    const char *subject; /* the argument by position or -m: MODEL, SHAPE or TRACE */
    const char *prompt, *file, *output, *format, *trace, *sidecar, *routes, *tokens,
        *decoder_tokens;
    const char *routes_out, *predictions;
    const char *grammar, *json_schema;  /* files, or what would be in them */
    const char *system, *chat_template; /* of chat */
    const char *from, *batch, *freeze, *csv, *svg;
    const char *machine, *batches;                                          /* of plan */
    const char *prompts, *clients, *rates, *metrics, *model_name, *api_key; /* of load */
    double duration, timeout;
    int n_requests, n_max_tokens;
    bool chat, completions, shuffle;
    double cache, active, active_source, hint_right;
    const char *modes, *memories, *policies, *type, *slots, *ratios;
    struct cli_files data; /* its array is freed by main */
    const char *data_file; /* of eval, which takes one */
    int task, n_max;
    bool windows;
    uint64_t memory, seed;
    bool seed_given;
    int mode, evict, hints, kv, io_path, cpu, gate, schedule;
    int n_source, capacity, n_beams, n_experts, n_parallel, n_layers;
    int trained_for, n_hidden, n_tokens, loss, eval_every; /* of tune */
    double holdout;
    int n_slots; /* 0: not given */
    int n_steps, n_accumulate, n_warmup, sticky_cache, n_runners_up, weigher, recipe,
        checkpoint_every;
    int n_predict, n_prompt, n_ctx, n_batch, n_threads, lookahead, reps, level, top_k, last_n;
    int hint_extra;
    struct cli_reals cache_bias, cache_margin; /* of them one at most; a value, or one a block */
    double temp, top_p, min_p, repeat_penalty, presence_penalty, frequency_penalty;
    double lr, lr_end, weight_decay, dropout, clip, balance, sticky, kl;
    double imitate; /* below 0: not given */
    bool json, special, echo, ignore_eos, keys, tensors, list, split, no_measure, verbose,
        experts_only, pack, undo, steady, think, no_think;
    const char *host, *key_file, *names, *origins, *alias, *cache_dir; /* of serve */
    int port, n_kv;
    double drain_seconds, itl_ms;
    uint64_t cache_bytes;
    bool no_page;
    bool help, resume;
    const char *given[CLI_GIVEN]; /* names of options */
    int n_given;
};

struct cli_command {
    const char *name, *subject; /* subject: what the argument by position is called, "" = none */
    const char *synopsis;       /* one line for the list of commands */
    const char *about;          /* a paragraph for --help */
    const char *examples;
    int (*run)(const struct cli_args *);
};

/* Fills *args from argv[first..argc). Returns 0, or CLI_USAGE after a message on stderr. */
int cli_args_parse(struct cli_args *args, const struct cli_command *cmd, int argc, char **argv);
/* Whether the option was on the command line, whatever its value. */
bool cli_given(const struct cli_args *args, const char *name);
/* An option that would do nothing: CLI_USAGE after a message that says what it needs. */
struct cli_needs {
    const char *option;
    bool met;
    const char *what;
};
int cli_needs_check(const struct cli_args *args, const struct cli_needs *needs, int n);
void cli_help_command(const struct cli_command *cmd);
void cli_help_options(const struct cli_command *cmd);

/* The name in `names` (ends with NULL) that is most like `word`, or NULL when none is near. */
const char *cli_nearest(const char *word, const char *const *names);

int cli_run(const struct cli_args *args);
int cli_chat(const struct cli_args *args);
int cli_bench(const struct cli_args *args);
int cli_inspect(const struct cli_args *args);
int cli_plan(const struct cli_args *args);
int cli_simulate(const struct cli_args *args); /* plan --simulate */
int cli_tokenize(const struct cli_args *args);
int cli_logits(const struct cli_args *args);
int cli_synth(const struct cli_args *args);
int cli_convert(const struct cli_args *args);
int cli_quantize(const struct cli_args *args);
int cli_pack(const struct cli_args *args);
int cli_sidecar(const struct cli_args *args);
int cli_replay(const struct cli_args *args);
int cli_tune(const struct cli_args *args);
int cli_train(const struct cli_args *args);
int cli_eval(const struct cli_args *args);
int cli_load(const struct cli_args *args);
int cli_serve(const struct cli_args *args);

/* ---------------------------------------------------------------- messages ------------------ */

#define CLI_PRINTF(fmt, first) __attribute__((format(printf, fmt, first)))

/* "pregate: text" on stderr, after clearing the progress line. */
void cli_error(const char *fmt, ...) CLI_PRINTF(1, 2);
int cli_usage(const char *fmt, ...) CLI_PRINTF(1, 2); /* the same; returns CLI_USAGE */
/* Says what err says, and what to do next where that is known. Returns the exit code. */
int cli_failed(const struct pg_err *err);

/* ---------------------------------------------------------------- terminal ------------------ */

/* Progress of long work: a line on stderr, only on a terminal and only after two seconds. */
struct cli_progress {
    uint64_t start_ns, shown_ns;
    uint64_t last_done;
    char what[64];
    const char *prefix; /* shown instead of `what`; may be NULL */
    bool verbose;       /* informational messages are printed, not only warnings */
};
/* For the `progress` and `log` of pg_options; user is a struct cli_progress. The progress returns
 * non-zero once the user has interrupted. */
int cli_progress_step(void *user, const char *what, uint64_t done, uint64_t total);
void cli_progress_log(void *user, enum pg_log_level level, const char *text);
void cli_progress_clear(void);

/* SIGINT, SIGTERM and SIGHUP are noted, and the same one again ends the program. */
void cli_signals_install(void);
bool cli_interrupted(void);
int cli_interrupt_code(void); /* exit code after that: 128 and the number of the signal */
/* If it was this one, it is as if it had not come, and the next is noted again. */
bool cli_interrupt_forget(int number);
uint64_t cli_now_ns(void);

/* Text that a file or a model made, with control characters other than \n and \t made visible
 * when `out` is a terminal: an escape sequence must not reach it. */
void cli_print_safe(FILE *out, const char *text, size_t n);
/* After a write to it has failed: fills *err from errno and returns PG_EIO. */
int cli_stdout_failed(struct pg_err *err);
/* Flushes stdout; CLI_FAILED with a message when what was printed could not be written. */
int cli_stdout_finish(int code);

/* ---------------------------------------------------------------- sizes --------------------- */

/* 4096, 8G, 1.5GiB, 512MiB, 1500M, 60% (of `whole`). K, M, G, T are powers of 1024, with or
 * without "B" or "iB". Returns whether it was understood and is not 0. */
bool cli_size_parse(const char *text, uint64_t whole, uint64_t *out);
/* "16x256": rows and tokens of a row; "16x256x64": tokens of its sources between them. Returns
 * whether it was understood. */
struct cli_batch {
    int n_seq, source_len, seq_len;
};
bool cli_batch_parse(const char *text, struct cli_batch *out);
/* "1.46 GiB" in a caller's buffer, which it returns. */
char *cli_size_text(uint64_t bytes, char out[16]);

/* Cuts `text` at commas into at most `cap` items of `item_cap` bytes. Returns how many, or -1 when
 * there are more, one is empty, or one is too long. */
#define CLI_ITEM 48
int cli_list_split(const char *text, char (*items)[CLI_ITEM], int cap);

/* ---------------------------------------------------------------- files --------------------- */

/* The ids of a text in a malloced array, with room for out->cap more after them. */
int cli_ids_make(struct pg_ids *out, const pg_vocab *vocab, const char *text, size_t n_text,
                 unsigned flags, struct pg_err *err);

/* The whole of `path` ("-" is stdin) in malloc'ed memory with a 0 behind it. */
int cli_file_read(const char *path, char **data, size_t *n, struct pg_err *err);

/* A file that appears whole or not at all. path NULL or "-" is stdout. */
struct cli_outfile {
    FILE *stream;
    const char *name; /* borrowed */
    char *temp;       /* NULL: stdout, a device or a pipe */
    char *target;     /* what temp becomes: `name`, or where that link leads */
};
/* No file that is written may be one that is read, written by another option, or where standard
 * output goes: CLI_FAILED after a message, or 0. */
int cli_outputs_check(const struct cli_args *args);
/* Whether both names are of one file, there or to come. */
bool cli_same_target(const char *a, const char *b);
/* After a write to the stream has failed: names it, fills *err from errno, returns PG_EIO. */
int cli_outfile_failed(const struct cli_outfile *f, struct pg_err *err);
int cli_outfile_open(struct cli_outfile *f, const char *path, struct pg_err *err);
/* Whether it could be opened, before work of which it will be the last; it stays as it is. */
int cli_outfile_check(const char *path, bool device, struct pg_err *err);
int cli_outfile_commit(struct cli_outfile *f, struct pg_err *err);
void cli_outfile_abandon(struct cli_outfile *f); /* fine after commit */

int cli_fail(struct pg_err *err, int code, const char *fmt, ...) CLI_PRINTF(3, 4);

/* ---------------------------------------------------------------- engine and reports -------- */

/* What --cache-bias and --cache-margin say, as the options of the library have it. */
struct cli_bias {
    enum pg_cache_form form;
    float one;
    const float *each;
    int n;
};
struct cli_bias cli_bias_of(const struct cli_args *args);
/* In options of the library 0 is the default, and "none" lies below it. */
float cli_or_none(double v);
float cli_imitate_of(const struct cli_args *args);

/* The engine's options that the command line gives; progress and log go to *progress. */
void cli_engine_options(struct pg_options *opt, const struct cli_args *args,
                        struct cli_progress *progress);

/* How the command line has tokens sampled. */
struct pg_sampling cli_sampling_of(const struct cli_args *args, uint64_t seed);

/* The prompt into a fresh session: its timeline, or, where the model has an encoder, its source, to
 * which a timeline begins. */
int cli_prompt_run(pg_engine *e, pg_session *s, const struct pg_ids *prompt, struct pg_err *err);
/* The template of --chat-template, or the model's own. */
int cli_template_open(pg_chat **out, const struct cli_args *args, struct pg_err *err);
/* How text becomes a prompt of this model: flags of pg_tokenize. */
unsigned cli_prompt_flags(const pg_engine *e);

/* --grammar and --json-schema, of which one at most may be given. All zero: any text. */
struct cli_grammar {
    pg_grammar *grammar;
    pg_matcher *matcher;
};
int cli_grammar_check(const struct cli_args *args); /* CLI_USAGE after a message for both */
/* Before the model is opened, so that a bad one costs no waiting. *bytes: what matching will take.
 */
int cli_grammar_open(struct cli_grammar *g, const struct cli_args *args, uint64_t *bytes,
                     struct pg_err *err);
/* A text begins. */
int cli_grammar_begin(struct cli_grammar *g, const pg_engine *e, struct pg_err *err);
/* Whether it is whole: nothing more may come. */
bool cli_grammar_ends(const struct cli_grammar *g);
void cli_grammar_close(struct cli_grammar *g); /* before the engine */

enum { CLI_BEAMS_MAX = 64 };
struct cli_beams {
    pg_engine *engine;   /* has room for n_beams sessions, and n_beams tokens in a step */
    pg_session *session; /* the prompt's, with its logits; what it has afterwards is undefined */
    int n_beams, n_predict;
    bool ignore_eos;
    struct cli_progress *progress;
};
struct cli_beams_found {
    int32_t *ids; /* [n_predict], the caller's */
    size_t n;     /* without the token that ended it */
    double score; /* log probability a token */
    bool ended;   /* by itself */
    bool full;    /* the context is */
};
/* The best text that beam search finds. */
int cli_beams_run(const struct cli_beams *opt, struct cli_beams_found *out, struct pg_err *err);

/* b - a for the counters; the other fields are b's. */
struct pg_stats cli_stats_since(const struct pg_stats *a, const struct pg_stats *b);
/* Whether hints were given, and their reads stopped because they did not pay. */
bool cli_hints_stopped(enum pg_mode mode, const struct pg_stats *s, const struct cli_args *args);
/* Wall time of all steps, whatever their kind. */
double cli_stats_seconds(const struct pg_stats *s);
double cli_ratio(double a, double b); /* a / b, 0 when b is not positive */

json_t *cli_json_real(double v);                   /* null when not finite */
json_t *cli_json_text(const char *text, size_t n); /* invalid UTF-8 replaced by U+FFFD */
void cli_put_size(json_t *o, const char *key, uint64_t v);
void cli_put_real(json_t *o, const char *key, double v); /* null when not finite */
json_t *cli_json_plan(const struct pg_plan *p);
json_t *cli_json_model(const struct pg_model_info *m);
/* hinted_in_time, hinted_late and hinted_unused, and for one more release the old names warned_*.
 */
void cli_put_hinted(json_t *o, const struct pg_stats *s);
json_t *cli_json_stats(const struct pg_stats *s); /* counters, as the header names them */
int cli_json_print(json_t *j);                    /* to stdout, takes j; returns the exit code */

#endif
