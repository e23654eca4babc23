/* SPDX-License-Identifier: MIT
 * The `gpt2` model: byte-level BPE. A word's bytes are symbols, and of all neighbours that a merge
 * names, those with the lowest rank are joined first.
 *
 * In the file a byte is written as one printable character (the gpt2 alphabet). Pieces are decoded
 * when they are loaded, and merges become triples of ids, so that tokenizing compares numbers only.
 * A byte that the vocabulary has no token for becomes U+FFFD.
 */
#include "text/encoder.h"
#include "text/nfc.h"
#include "text/utf8.h"

#include <stdlib.h>
#include <string.h>

/* Bytes that print in Latin-1 stand for themselves; the others follow from U+0100 on, in order. */
static bool prints(uint32_t c)
{
    return (c > 0x20 && c < 0x7F) || (c > 0xA0 && c <= 0xFF && c != 0xAD);
}

int pg_bpe_alphabet(uint32_t cp)
{
    if (cp < 0x100)
        return prints(cp) ? (int)cp : -1;
    for (uint32_t c = 0, next = 0x100; c < 0x100; c++)
        if (!prints(c) && next++ == cp)
            return (int)c;
    return -1;
}

static const char merges_key[] = "tokenizer.ggml.merges";

/* The strings of the tokens key as the file has them, which is how merges name them. */
struct file_tokens {
    const struct pg_gguf *g;
    const struct pg_gguf_key *key;
    struct pg_strmap map;
};

static struct pg_str file_token_at(const void *owner, uint32_t number)
{
    const struct file_tokens *t = owner;
    return pg_gguf_string_at(t->g, t->key, number);
}

static uint32_t pair_slot(const struct pg_vocab *v, uint32_t left, uint32_t right)
{
    uint32_t i = (uint32_t)pg_mix64(v->seed ^ ((uint64_t)left << 32 | right)) & v->pair_mask;
    for (; v->pair[i]; i = (i + 1) & v->pair_mask) {
        const struct pg_merge *m = &v->merge[v->pair[i] - 1];
        if (m->left == left && m->right == right)
            break;
    }
    return i;
}

static int find_token(const struct file_tokens *t, const char *s, size_t n, uint32_t *id)
{
    int32_t found = pg_strmap_find(&t->map, s, n);
    *id = (uint32_t)found;
    return found < 0 ? -1 : 0;
}

/* Most vocabularies number tokens in the order of the merges that make them. */
static int find_joined(const struct file_tokens *t, const char *s, size_t n, uint32_t guess,
                       uint32_t *id)
{
    if (guess < t->key->n) {
        struct pg_str next = file_token_at(t, guess);
        if (next.n == n && !memcmp(next.s, s, n)) {
            *id = guess;
            return 0;
        }
    }
    return find_token(t, s, n, id);
}

/* One merge, "left right". One that names or makes something that is no token can never apply to a
 * text of this vocabulary, and is passed over: files with a cut-down vocabulary have such. */
static int load_merge(struct pg_vocab *v, const struct file_tokens *t, uint32_t rank,
                      struct pg_str line, struct pg_err *err)
{
    char joined[2 * PG_PIECE_MAX];
    struct pg_merge *m = &v->merge[rank];
    /* A piece may be a space itself in no known file, but it is never empty: look from 1 on. */
    const char *gap = line.n > 1 ? memchr(line.s + 1, ' ', line.n - 1) : NULL;
    size_t n_left = gap ? (size_t)(gap - line.s) : 0;
    size_t n_right = gap ? line.n - n_left - 1 : 0;

    if (!n_right)
        return pg_fail(err, PG_EFORMAT, "%s[%u] is '%s', wanted two pieces with a space between",
                       merges_key, rank, pg_quote(line.s, line.n).s);
    if (line.n > sizeof(joined))
        return pg_fail(err, PG_EFORMAT, "%s[%u] has %zu bytes, wanted at most %zu", merges_key,
                       rank, line.n, sizeof(joined));
    memcpy(joined, line.s, n_left);
    memcpy(joined + n_left, gap + 1, n_right);
    if (find_token(t, line.s, n_left, &m->left) || find_token(t, gap + 1, n_right, &m->right) ||
        find_joined(t, joined, n_left + n_right, rank ? m[-1].id + 1 : 0, &m->id))
        return 0;
    /* Of a merge that is listed twice, the first rank counts. */
    uint32_t slot = pair_slot(v, m->left, m->right);
    if (!v->pair[slot])
        v->pair[slot] = rank + 1;
    return 0;
}

static int load_merges(struct pg_vocab *v, const struct file_tokens *t, struct pg_err *err)
{
    const struct pg_gguf_key *k = pg_gguf_find(t->g, merges_key);
    uint64_t cap = 16;

    if (!k)
        return pg_fail(err, PG_EFORMAT, "%s is missing, the gpt2 tokenizer needs it", merges_key);
    if (k->kind != PG_GGUF_ARRAY || (k->n && k->elem != PG_GGUF_STRING))
        return pg_fail(err, PG_EFORMAT, "%s is not an array of strings", merges_key);
    if (k->n > 1u << 24)
        return pg_fail(err, PG_EFORMAT, "%s has %llu elements, wanted at most %u", merges_key,
                       (unsigned long long)k->n, 1u << 24);
    v->n_merge = (uint32_t)k->n;
    while (cap < k->n + k->n / 2)
        cap *= 2;
    v->pair_mask = (uint32_t)(cap - 1);
    v->merge = pg_vocab_alloc(v, k->n, sizeof(*v->merge), err);
    v->pair = v->merge ? pg_vocab_alloc(v, cap, sizeof(*v->pair), err) : NULL;
    if (!v->pair)
        return PG_ENOMEM;
    for (uint32_t i = 0; i < v->n_merge; i++)
        PG_TRY(load_merge(v, t, i, pg_gguf_string_at(t->g, k, i), err));
    return 0;
}

static int load_tokens_and_merges(struct pg_vocab *v, struct file_tokens *t, struct pg_err *err)
{
    t->map.at = file_token_at;
    t->map.owner = t;
    PG_TRY(pg_strmap_init(&t->map, v->pieces.n, v->seed, err));
    for (uint32_t id = 0; id < v->pieces.n; id++)
        if (file_token_at(t, id).n)
            pg_strmap_add(&t->map, id);
    return load_merges(v, t, err);
}

static int load_whole_words(struct pg_vocab *v, struct pg_err *err)
{
    v->whole.at = pg_vocab_piece_at;
    v->whole.owner = v;
    PG_TRY(pg_strmap_init(&v->whole, v->pieces.n, v->seed, err));
    for (uint32_t id = 0; id < v->pieces.n; id++)
        if (v->pieces.type[id] == PG_PIECE_NORMAL && pg_pieces_text(&v->pieces, id).n)
            pg_strmap_add(&v->whole, id);
    return 0;
}

int pg_bpe_load(struct pg_vocab *v, const struct pg_gguf *g, struct pg_err *err)
{
    struct file_tokens t = {.g = g, .key = pg_gguf_find(g, "tokenizer.ggml.tokens")};
    struct pg_str label = {"default", 7};
    int rc;

    PG_TRY(pg_gguf_get_str(g, "tokenizer.ggml.pre", PG_GGUF_OPTIONAL, &label, err));
    PG_TRY(pg_pretok_open(&v->pretok, label, err));
    rc = load_tokens_and_merges(v, &t, err);
    pg_strmap_fini(&t.map);
    if (rc)
        return rc;
    if (pg_pretok_rule(v->pretok)->whole_words)
        PG_TRY(load_whole_words(v, err));
    v->add_bos = pg_pretok_rule(v->pretok)->add_bos;
    return 0;
}

static void look(const struct pg_joiner *j, struct pg_sym *left, const struct pg_sym *right)
{
    const struct pg_vocab *v = j->vocab;
    if (left->id < 0 || right->id < 0)
        return;
    uint32_t rank = v->pair[pair_slot(v, (uint32_t)left->id, (uint32_t)right->id)];
    if (!rank)
        return;
    left->pair = (int32_t)v->merge[rank - 1].id;
    left->priority = rank - 1;
}

static void put_unknown_byte(struct pg_encoder *e)
{
    static const unsigned char replacement[3] = {0xEF, 0xBF, 0xBD};
    for (size_t i = 0; i < sizeof(replacement); i++)
        if (e->vocab->byte_id[replacement[i]] >= 0)
            pg_ids_put(&e->ids, e->vocab->byte_id[replacement[i]]);
}

static int encode_word(struct pg_encoder *e, struct pg_str word, struct pg_err *err)
{
    const struct pg_vocab *v = e->vocab;
    struct pg_joiner *j = &e->join;
    int32_t id = pg_strmap_find(&v->whole, word.s, word.n);

    if (id >= 0) {
        pg_ids_put(&e->ids, id);
        return 0;
    }
    pg_joiner_start(j, word.s);
    for (size_t i = 0; i < word.n; i++)
        PG_TRY(pg_joiner_add(j, (uint32_t)i, 1, v->byte_id[(unsigned char)word.s[i]], err));
    PG_TRY(pg_joiner_run(j, err));
    for (int32_t i = j->n_sym ? 0 : -1; i >= 0; i = j->sym[i].next)
        if (j->sym[i].id >= 0)
            pg_ids_put(&e->ids, j->sym[i].id);
        else
            put_unknown_byte(e);
    return 0;
}

static int encode_valid(struct pg_encoder *e, struct pg_str text, struct pg_err *err)
{
    struct pg_str word;
    int rc;

    if (pg_pretok_rule(e->vocab->pretok)->nfc && !pg_nfc_is_plain(text.s, text.n)) {
        size_t cap;
        if (__builtin_mul_overflow(text.n, (size_t)PG_NFC_GROWTH, &cap))
            return pg_fail(err, PG_ENOMEM, "out of memory for %zu bytes of text", text.n);
        PG_TRY(pg_encoder_reserve(e, cap, err));
        PG_TRY(pg_nfc(text.s, text.n, e->text, &text.n, err));
        text.s = e->text;
    }
    pg_splitter_start(e->split, text);
    while ((rc = pg_splitter_next(e->split, &word, err)) > 0)
        PG_TRY(encode_word(e, word, err));
    return rc;
}

/* How many bytes from the start of s are whole characters (valid), or are not. */
static size_t run_len(const char *s, size_t n, bool valid)
{
    size_t i = 0;
    while (i < n) {
        int len = pg_utf8_scan(s + i, n - i);
        if ((len > 0) != valid)
            break;
        i += (size_t)PG_MAX(len, 1);
    }
    return i;
}

/* Bytes that are no UTF-8 are words of their own: what they were comes back out. */
int pg_bpe_encode(struct pg_encoder *e, struct pg_str text, struct pg_err *err)
{
    e->join.look = look;
    e->join.vocab = e->vocab;
    for (size_t i = 0; i < text.n;) {
        struct pg_str run = {text.s + i, run_len(text.s + i, text.n - i, true)};
        if (run.n) {
            PG_TRY(encode_valid(e, run, err));
        } else {
            run.n = run_len(run.s, text.n - i, false);
            PG_TRY(encode_word(e, run, err));
        }
        i += run.n;
    }
    return 0;
}
