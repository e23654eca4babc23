/* SPDX-License-Identifier: MIT
 * Two texts written at once by one engine: each step takes one token of each, and an expert that
 * both want is brought once.
 *
 *   generate MODEL "First prompt" "Second prompt" [MEMORY_MIB]
 */
#include <pregate.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N_TEXTS = 2, N_TOKENS = 64 };

struct text {
    pg_session *session;
    struct pg_detok detok;
    int32_t token;
    bool ended;
    char out[64 * 1024];
    size_t n_out;
};

static int text_open(struct text *t, pg_engine *e, const char *prompt, struct pg_err *err)
{
    const pg_vocab *vocab = pg_engine_vocab(e);
    const size_t cap = 3 * strlen(prompt) + 2; /* never more ids than that */
    struct pg_ids ids = {.id = malloc(cap * sizeof(int32_t)), .cap = cap};
    if (!ids.id)
        return PG_ENOMEM;
    int rc = pg_session_open(&t->session, e, NULL, err);
    if (!rc)
        rc = pg_tokenize(vocab, prompt, strlen(prompt), PG_TOKENIZE_BOS, &ids, err);
    if (!rc)
        rc = pg_session_sync(t->session, ids.id, ids.n, err);
    t->detok = (struct pg_detok){.vocab = vocab, .not_first = true};
    free(ids.id);
    return rc;
}

/* Samples the next token of each text; returns how many go on, or an error. */
static int sample_all(struct text *texts, struct pg_row *rows, struct pg_err *err)
{
    const struct pg_sampling how = {PG_SAMPLING_INIT, .temp = 0.8f, .top_p = 0.95f, .seed = 42};
    int n_rows = 0;
    for (int i = 0; i < N_TEXTS; i++) {
        struct text *t = &texts[i];
        if (t->ended)
            continue;
        const int rc = pg_session_sample(t->session, &how, &t->token, err);
        if (rc)
            return rc;
        t->ended =
            pg_vocab_is_end(t->detok.vocab, t->token) || t->n_out + PG_PIECE_MAX > sizeof(t->out);
        if (t->ended)
            continue;
        t->n_out += pg_detokenize(&t->detok, t->token, t->out + t->n_out);
        rows[n_rows++] = (struct pg_row){.session = t->session, .tokens = &t->token, .n = 1};
    }
    return n_rows;
}

static int write_texts(pg_engine *e, struct text *texts, struct pg_err *err)
{
    struct pg_row rows[N_TEXTS];
    for (int step = 0; step < N_TOKENS; step++) {
        const int n_rows = sample_all(texts, rows, err);
        if (n_rows <= 0)
            return n_rows;
        const int rc = pg_step(e, rows, n_rows, err);
        if (rc)
            return rc;
    }
    return 0;
}

int main(int argc, char **argv)
{
    struct pg_err err = {0};
    static struct text texts[N_TEXTS];
    pg_engine *e = NULL;
    if (argc < 2 + N_TEXTS) {
        fprintf(stderr, "usage: %s MODEL PROMPT PROMPT [MEMORY_MIB]\n", argv[0]);
        return 2;
    }
    const struct pg_options opt = {
        PG_OPTIONS_INIT,
        .model = argv[1],
        .memory_bytes = argc > 4 ? strtoull(argv[4], NULL, 10) << 20 : 0,
        .n_ctx = 512,
        .n_sessions = N_TEXTS,
    };
    int rc = pg_engine_open(&e, &opt, &err);
    for (int i = 0; !rc && i < N_TEXTS; i++)
        rc = text_open(&texts[i], e, argv[2 + i], &err);
    if (!rc)
        rc = write_texts(e, texts, &err);
    for (int i = 0; !rc && i < N_TEXTS; i++)
        printf("%s%.*s\n\n", argv[2 + i], (int)texts[i].n_out, texts[i].out);
    if (rc)
        fprintf(stderr, "%s: %s\n", argv[0], err.text[0] ? err.text : pg_error_text(rc));
    for (int i = 0; i < N_TEXTS; i++)
        pg_session_close(texts[i].session);
    pg_engine_close(e);
    return rc ? 1 : 0;
}
