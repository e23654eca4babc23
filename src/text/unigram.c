/* SPDX-License-Identifier: MIT
 * The `t5` model: SentencePiece's unigram. The text is normalised (a table of replacements,
 * spaces), and of all ways to cut it into pieces the one with the highest sum of scores is taken. A
 * character that no piece covers is unknown, at a score below every piece's; neighbours of that
 * kind are one token.
 */
#include "text/encoder.h"
#include "text/utf8.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define SPACE       "\xE2\x96\x81" /* U+2581 */
#define SPACE_LEN   3
#define UNK_PENALTY 10.0f

/* Where the next space begins, from `at` on; n: nowhere. */
static size_t next_space(const char *s, size_t at, size_t n)
{
    const char *found = at < n ? memmem(s + at, n - at, SPACE, SPACE_LEN) : NULL;
    return found ? (size_t)(found - s) : n;
}

/* Whether a piece goes on behind a space. T5's do not, so that no cut crosses a word's end. */
static bool piece_crosses(const struct pg_vocab *v)
{
    for (uint32_t id = 0; id < v->pieces.n; id++) {
        struct pg_str s = pg_pieces_text(&v->pieces, id);
        if (next_space(s.s, 1, s.n) < s.n)
            return true;
    }
    return false;
}

int pg_unigram_load(struct pg_vocab *v, const struct pg_gguf *g, struct pg_err *err)
{
    float lowest = INFINITY;

    PG_TRY(pg_vocab_scores(v, g, err));
    for (uint32_t id = 0; id < v->pieces.n; id++)
        if (v->pieces.type[id] == PG_PIECE_NORMAL)
            lowest = fminf(lowest, v->score[id]);
    v->unk_score = (isfinite(lowest) ? lowest : 0.0f) - UNK_PENALTY;
    v->crosses_spaces = piece_crosses(v);
    v->space_prefix = v->trim = true;
    PG_TRY(pg_gguf_get_bool(g, "tokenizer.ggml.add_space_prefix", PG_GGUF_OPTIONAL,
                            &v->space_prefix, err));
    PG_TRY(pg_gguf_get_bool(g, "tokenizer.ggml.remove_extra_whitespaces", PG_GGUF_OPTIONAL,
                            &v->trim, err));
    PG_TRY(pg_charsmap_init(&v->charsmap, g, err));
    return pg_sorted_init(
        &v->list, v, 1u << PG_PIECE_UNDEFINED | 1u << PG_PIECE_NORMAL | 1u << PG_PIECE_USER, err);
}

/* What the first bytes of s become: returns how many bytes. Never nothing. */
static size_t normal_prefix(const pg_vocab *v, const char *s, size_t n, struct pg_str *out)
{
    static const char replacement[] = "\xEF\xBF\xBD";
    size_t len = pg_charsmap_match(&v->charsmap, s, n, out);
    if (len)
        return len;
    int whole = pg_utf8_scan(s, n);
    *out = whole > 0 ? (struct pg_str){s, (size_t)whole} : (struct pg_str){replacement, 3};
    return whole > 0 ? (size_t)whole : 1;
}

/* Writes normalised text; with out NULL only counts. */
struct writer {
    char *out;
    size_t n;
    bool after_space; /* spaces are dropped now */
};

static void put(struct writer *w, const char *s, size_t n)
{
    if (w->out)
        memcpy(w->out + w->n, s, n);
    w->n += n;
}

static void put_normal(struct writer *w, const pg_vocab *v, struct pg_str s)
{
    while (w->after_space && s.n && *s.s == ' ') {
        s.s++;
        s.n--;
    }
    for (size_t i = 0; i < s.n; i++) {
        bool space = s.s[i] == ' ';
        put(w, space ? SPACE : s.s + i, space ? SPACE_LEN : 1);
    }
    if (s.n)
        w->after_space = v->trim && s.s[s.n - 1] == ' ';
}

/* The length that the text has at most, or with out its length. */
static size_t normalise(const pg_vocab *v, struct pg_str text, char *out)
{
    struct writer w = {.out = out, .after_space = v->trim};
    bool begun = !v->trim;

    for (size_t i = 0; i < text.n;) {
        struct pg_str s;
        i += normal_prefix(v, text.s + i, text.n - i, &s);
        if (!begun && s.n == 1 && *s.s == ' ')
            continue;
        if (!w.n && v->space_prefix)
            put(&w, SPACE, SPACE_LEN);
        begun = true;
        put_normal(&w, v, s);
    }
    while (out && v->trim && w.n >= SPACE_LEN && !memcmp(out + w.n - SPACE_LEN, SPACE, SPACE_LEN))
        w.n -= SPACE_LEN;
    return w.n;
}

/* Lets a piece of this score end at path[to], if that is better than what ends there. Sums are
 * compared in double and kept in float, as SentencePiece does: it decides between cuts that differ
 * in the order of their pieces only. */
static void offer(struct pg_path *path, uint32_t from, uint32_t to, int32_t id, float score)
{
    double sum = (double)score + (double)path[from].score;
    if (path[to].id < 0 || sum > (double)path[to].score)
        path[to] = (struct pg_path){(float)sum, id, from};
}

static void find_path(const pg_vocab *v, const char *s, uint32_t n, struct pg_path *path)
{
    const int32_t unk = PG_MAX(v->unk, 0);

    for (uint32_t at = 0; at < n;) {
        int scan = pg_utf8_scan(s + at, n - at);
        uint32_t len = (uint32_t)PG_MAX(scan, 1);
        bool single = false;
        struct pg_sorted_range r = pg_sorted_begin(&v->list, s[at]);
        while (r.lo < r.hi) {
            int32_t id = pg_sorted_take(&v->list, v, &r);
            if (id >= 0) {
                offer(path, at, at + (uint32_t)r.depth, id, v->score[id]);
                single |= r.depth == len;
            } else if (at + r.depth < n) {
                pg_sorted_step(&v->list, v, &r, s[at + r.depth]);
            } else {
                break;
            }
        }
        if (!single)
            offer(path, at, at + len, unk, v->unk_score);
        at += len;
    }
}

static int reserve_path(struct pg_encoder *e, size_t n, struct pg_err *err)
{
    if (n <= e->cap_path)
        return 0;
    n = PG_MAX(n, 2 * e->cap_path);
    free(e->path);
    e->cap_path = 0;
    e->path = calloc(n, sizeof(*e->path));
    if (!e->path)
        return pg_fail(err, PG_ENOMEM, "out of memory for %zu bytes of text", n);
    e->cap_path = n;
    return 0;
}

/* Puts the best cut of s, behind a text of this score; returns that of both. */
static float put_part(struct pg_encoder *e, const char *s, uint32_t n, float score, int32_t *before)
{
    uint32_t next = 0;
    for (uint32_t i = 0; i <= n; i++)
        e->path[i] = (struct pg_path){.id = -1};
    e->path[0].score = score;
    find_path(e->vocab, s, n, e->path);
    score = e->path[n].score;
    /* The path is known from its end: turn it around, `from` now naming where each piece ends. */
    for (uint32_t at = n; at > 0;) {
        uint32_t from = e->path[at].from;
        e->path[at].from = next;
        next = at;
        at = from;
    }
    for (uint32_t at = next; at > 0; at = e->path[at].from) {
        int32_t id = e->path[at].id;
        if (id != e->vocab->unk || id != *before)
            pg_ids_put(&e->ids, id);
        *before = id;
    }
    return score;
}

/* Word by word where no piece crosses a space, since then the best cut of a text is that of each of
 * its words, and a long text takes no more room than its longest word. */
int pg_unigram_encode(struct pg_encoder *e, struct pg_str text, struct pg_err *err)
{
    const pg_vocab *v = e->vocab;
    size_t n = normalise(v, text, NULL);
    int32_t before = -1;
    float score = 0;

    if (n > INT32_MAX)
        return pg_fail(err, PG_EARG, "text has %zu bytes when normalised, wanted at most %d", n,
                       INT32_MAX);
    PG_TRY(pg_encoder_reserve(e, n + 8, err));
    n = normalise(v, text, e->text);
    for (size_t at = 0, end; at < n; at = end) {
        end = v->crosses_spaces ? n : next_space(e->text, at + 1, n);
        PG_TRY(reserve_path(e, end - at + 1, err));
        score = put_part(e, e->text + at, (uint32_t)(end - at), score, &before);
    }
    return 0;
}
