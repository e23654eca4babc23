/* SPDX-License-Identifier: MIT
 * Text to ids. Tokens that stand for themselves are cut out first, at each place the longest that
 * begins there: user-defined ones always, control tokens only if the caller says that the text is
 * markup. What lies between goes to the model's own algorithm.
 */
#include "text/encoder.h"

#include <stdlib.h>
#include <string.h>

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

/* The longest token that stands for itself and begins s[0..n), n > 0; -1: none. Control tokens lie
 * in the first n_markup bytes, whole. */
static int32_t match_special(const pg_vocab *v, const char *s, size_t n, size_t n_markup,
                             size_t *len)
{
    struct pg_sorted_range r = pg_sorted_begin(&v->special, s[0]);
    int32_t best = -1, id;

    while (r.lo < r.hi) {
        bool found = false;
        while ((id = pg_sorted_take(&v->special, v, &r)) >= 0) {
            if (!found && (r.depth <= n_markup || v->pieces.type[id] == PG_PIECE_USER)) {
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

/* A text in pieces that lie one behind the other and are markup or content by turns. */
struct marked {
    struct pg_str text;
    const struct pg_segment *piece; /* [n] none empty */
    int n;
};

/* Whether the text begins with the beginning-of-text token, written out. */
static bool has_bos(const pg_vocab *v, const struct marked *m)
{
    size_t len, n_markup = m->n && !m->piece[0].content ? m->piece[0].n : 0;
    return m->text.n && match_special(v, m->text.s, m->text.n, n_markup, &len) == v->bos;
}

static int encode_marked(struct pg_encoder *e, const struct marked *m, struct pg_err *err)
{
    const pg_vocab *v = e->vocab;
    const char *s = m->text.s;
    size_t from = 0, end = 0;

    for (size_t i = 0, at = 0; i < m->text.n;) {
        size_t len = 1;
        while (i >= end)
            end += m->piece[at++].n;
        int32_t id =
            match_special(v, s + i, m->text.n - i, m->piece[at - 1].content ? 0 : end - i, &len);
        if (id >= 0) {
            PG_TRY(encode_between(e, (struct pg_str){s + from, i - from}, err));
            pg_ids_put(&e->ids, id);
            from = i + len;
        }
        i += len;
    }
    return encode_between(e, (struct pg_str){s + from, m->text.n - from}, err);
}

static int encode(struct pg_encoder *e, const struct marked *m, unsigned flags, struct pg_err *err)
{
    const pg_vocab *v = e->vocab;

    if (v->model == PG_VOCAB_GPT2)
        PG_TRY(pg_splitter_open(&e->split, v->pretok, err));
    if (flags & PG_TOKENIZE_BOS && v->add_bos && v->bos >= 0)
        pg_ids_put(&e->ids, v->bos);
    PG_TRY(encode_marked(e, m, err));
    if (flags & PG_TOKENIZE_EOS && v->add_eos && v->eos >= 0)
        pg_ids_put(&e->ids, v->eos);
    return 0;
}

static int tokenize(const pg_vocab *v, const struct marked *m, unsigned flags, struct pg_ids *out,
                    struct pg_err *err)
{
    struct pg_encoder e = {.vocab = v, .ids = {out->id, out->cap, 0}};
    int rc = encode(&e, m, flags, err);

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

static int check(const pg_vocab *v, size_t n_text, struct pg_err *err)
{
    if (v->model == PG_VOCAB_NONE)
        return pg_fail(err, PG_ENOTSUP, "%s: has no vocabulary, text cannot be tokenized", v->path);
    if (n_text > INT32_MAX / 4)
        return pg_fail(err, PG_EARG, "text has %zu bytes, wanted at most %d", n_text,
                       INT32_MAX / 4);
    return 0;
}

int pg_tokenize(const pg_vocab *v, const char *text, size_t n_text, unsigned flags,
                struct pg_ids *out, struct pg_err *err)
{
    struct pg_segment all = {n_text ? text : "", n_text, !(flags & PG_TOKENIZE_SPECIAL)};
    struct marked m = {{all.text, n_text}, &all, n_text > 0};

    out->n = 0;
    PG_TRY(check(v, n_text, err));
    return tokenize(v, &m, flags, out, err);
}

/* The segments as one text, for free(). */
static int join_segments(const struct pg_chat_text *t, char **text, size_t *n, struct pg_err *err)
{
    size_t at = 0;
    *n = 0;
    for (int i = 0; i < t->n; i++)
        if (!t->segment[i].n || __builtin_add_overflow(*n, t->segment[i].n, n))
            return pg_fail(err, PG_EARG, "segment %d of %d has %zu bytes", i, t->n,
                           t->segment[i].n);
    *text = malloc(PG_MAX(*n, 1u));
    if (!*text)
        return pg_fail(err, PG_ENOMEM, "out of memory for %zu bytes of text", *n);
    for (int i = 0; i < t->n; at += t->segment[i++].n)
        memcpy(*text + at, t->segment[i].text, t->segment[i].n);
    return 0;
}

int pg_chat_tokenize(const pg_vocab *v, const struct pg_chat_text *t, struct pg_ids *out,
                     struct pg_err *err)
{
    char *text;
    size_t n;

    out->n = 0;
    PG_TRY(join_segments(t, &text, &n, err));
    struct marked m = {{text, n}, t->segment, t->n};
    int rc = check(v, n, err);
    if (!rc)
        rc = tokenize(v, &m, has_bos(v, &m) ? 0 : PG_TOKENIZE_BOS, out, err);
    free(text);
    return rc;
}
