/* SPDX-License-Identifier: MIT
 * Text to ids. Tokens that stand for themselves are cut out first, at each place the longest that
 * begins there: user-defined ones always, control tokens only if the caller says that the text is
 * markup. What lies between goes to the model's own algorithm.
 */
#include "text/encoder.h"

#include <stdlib.h>

int pg_encoder_reserve(struct pg_encoder *e, size_t n, struct pg_err *err)
{
    if (n <= e->cap_text)
        return 0;
    free(e->text);
    e->cap_text = 0;
    e->text = malloc(n);
    if (!e->text)
        return pg_fail(err, PG_ENOMEM, "out of memory for %zu bytes of text", n);
    e->cap_text = n;
    return 0;
}

/* The longest special token that s[0..n), n > 0, begins with, or -1. */
static int32_t match_special(const pg_vocab *v, const char *s, size_t n, bool markup, size_t *len)
{
    struct pg_sorted_range r = pg_sorted_begin(&v->special, s[0]);
    int32_t best = -1, id;

    while (r.lo < r.hi) {
        bool found = false;
        while ((id = pg_sorted_take(&v->special, v, &r)) >= 0) {
            if (!found && (markup || v->pieces.type[id] == PG_PIECE_USER)) {
                best = id;
                *len = r.depth;
                found = true;
            }
        }
        if (r.depth == n)
            break;
        pg_sorted_step(&v->special, v, &r, s[r.depth]);
    }
    return best;
}

static int encode_between(struct pg_encoder *e, struct pg_str text, struct pg_err *err)
{
    if (!text.n)
        return 0;
    /* A space comes first at the start of the text and after each token that was cut out. */
    if (e->vocab->model == PG_VOCAB_LLAMA)
        return pg_spm_encode(e, text, true, err);
    if (e->vocab->model == PG_VOCAB_T5)
        return pg_unigram_encode(e, text, err);
    return pg_bpe_encode(e, text, err);
}

static int encode(struct pg_encoder *e, struct pg_str text, unsigned flags, struct pg_err *err)
{
    const pg_vocab *v = e->vocab;
    size_t from = 0;

    if (v->model == PG_VOCAB_GPT2)
        PG_TRY(pg_splitter_open(&e->split, v->pretok, err));
    if (flags & PG_TOKENIZE_BOS && v->add_bos && v->bos >= 0)
        pg_ids_put(&e->ids, v->bos);
    for (size_t i = 0; i < text.n;) {
        size_t len = 1;
        int32_t id = match_special(v, text.s + i, text.n - i, flags & PG_TOKENIZE_SPECIAL, &len);
        if (id >= 0) {
            PG_TRY(encode_between(e, (struct pg_str){text.s + from, i - from}, err));
            pg_ids_put(&e->ids, id);
            from = i + len;
        }
        i += len;
    }
    PG_TRY(encode_between(e, (struct pg_str){text.s + from, text.n - from}, err));
    if (flags & PG_TOKENIZE_EOS && v->add_eos && v->eos >= 0)
        pg_ids_put(&e->ids, v->eos);
    return 0;
}

int pg_tokenize(const pg_vocab *v, const char *text, size_t n_text, unsigned flags,
                struct pg_ids *out, struct pg_err *err)
{
    struct pg_encoder e = {.vocab = v, .ids = {out->id, out->cap, 0}};
    int rc;

    out->n = 0;
    if (v->model == PG_VOCAB_NONE)
        return pg_fail(err, PG_ENOTSUP, "%s: has no vocabulary, text cannot be tokenized", v->path);
    if (n_text > INT32_MAX / 4)
        return pg_fail(err, PG_EARG, "text has %zu bytes, wanted at most %d", n_text,
                       INT32_MAX / 4);
    rc = encode(&e, (struct pg_str){n_text ? text : "", n_text}, flags, err);
    pg_joiner_fini(&e.join);
    pg_splitter_close(e.split);
    free(e.text);
    free(e.path);
    if (rc)
        return rc;
    out->n = e.ids.n;
    if (out->n > out->cap)
        return pg_fail(err, PG_EARG, "the text has %zu tokens, room is for %zu", out->n, out->cap);
    return 0;
}
