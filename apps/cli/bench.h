/* SPDX-License-Identifier: MIT
 * What `pregate bench` measures, and the writers of its results.
 */
#ifndef PG_CLI_BENCH_H
#define PG_CLI_BENCH_H

#include "cli.h"

#define BENCH_LIST_MAX     16
#define BENCH_PARALLEL_MAX 1024
#define BENCH_ROOFS_MAX    64

/* One repetition of one row; `decode` holds the counters of the decode phase alone. */
struct bench_rep {
    double prefill_seconds, decode_seconds; /* wall time of the steps */
    struct pg_stats decode;
    double *block_seconds; /* [n_layer] of the model, decode phase; NULL: nothing was measured */
    uint64_t tokens_hash;  /* of all that was decoded, in the order of the steps */
};

struct bench_row {
    enum pg_mode mode;
    enum pg_evict evict;
    uint64_t memory_bytes;
    char error[512]; /* why it was not measured; "" if it was */
    int n_reps, n_slots;
    char io_path[64];
    uint64_t peak_rss_bytes; /* largest of the repetitions */
    struct bench_rep *reps;
    /* Made of the repetitions by bench_summarise. */
    double prefill_tps, decode_tps, decode_tps_sd;
    const struct bench_rep *typical; /* the one with the median decode speed */
    double floor_seconds, overlap_efficiency;
};

struct bench {
    const struct cli_args *args;
    struct cli_progress progress;
    pg_routes *routes;
    int n_parallel;  /* texts side by side */
    int32_t *prompt; /* [n_parallel, n_prompt] */
    char *prompt_text;
    size_t n_prompt_text;
    struct bench_row *rows;
    int n_rows, n_before; /* n_before: measurements already made */
    struct pg_machine machine;
    struct pg_model_info model;
    bool model_known;
    bool encodes;   /* the prompt is a source */
    char said[256]; /* the last warning of the library */
    int n_roofs;
    double roof_dram[BENCH_ROOFS_MAX], roof_disk[BENCH_ROOFS_MAX]; /* bytes/s, in order of time */
};

struct bench_spread {
    double min, max;
};
struct bench_spread bench_roof(const double *samples, int n);
double bench_roof_disk(const struct bench *b); /* the best seen; 0 = could not be measured */
double bench_roof_dram(const struct bench *b);

/* Tokens of the decode phase, of all texts. */
int bench_n_decoded(const struct bench *b);
/* Per token of the decode phase, of the typical repetition. */
double bench_per_token(const struct bench *b, double total);
/* Share of the requests, 0 … 1. */
double bench_share(const struct bench_row *row, uint64_t count);

void bench_print_md(const struct bench *b);
void bench_print_csv(const struct bench *b);
int bench_print_json(const struct bench *b);
void bench_print_html(const struct bench *b);

#endif
