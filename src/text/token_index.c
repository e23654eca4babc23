/* SPDX-License-Identifier: MIT
 * Tokens sorted by what they print; neighbours share the nodes of their common beginning.
 */
#include "text/token_index.h"

#include "base/os.h"
#include "text/utf8.h"
#include "text/vocab_impl.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct pg_token_home {
    pthread_mutex_t lock;
    struct pg_token_index index;
    bool made;
};

/* Kinds: letters, small and large; digits; the characters that a quoted text is made of besides;
 * control characters; those that grammars treat one by one; and bytes of longer characters. */
// clang-format off
const uint8_t pg_byte_kind[256] = {
    [0x00 ... 0x08] = 1, ['\t'] = 2, ['\n'] = 3, [0x0B ... 0x0C] = 1, ['\r'] = 4,
    [0x0E ... 0x1F] = 1, [' '] = 5, ['!'] = 6, ['"'] = 7, ['#' ... '&'] = 6, ['\''] = 8,
    ['('] = 9, [')'] = 10, ['*'] = 11, ['+'] = 12, [','] = 13, ['-'] = 14, ['.'] = 15,
    ['/'] = 16, ['0' ... '9'] = 17, [':'] = 18, [';'] = 19, ['<'] = 6, ['='] = 20,
    ['>' ... '@'] = 6, ['A' ... 'Z'] = 21, ['['] = 22, ['\\'] = 23, [']'] = 24, ['^'] = 6,
    ['_'] = 25, ['`'] = 6, ['a' ... 'z'] = 26, ['{'] = 27, ['|'] = 6, ['}'] = 28, ['~'] = 6,
    [0x7F] = 1, [0x80 ... 0xFF] = 31,
};
// clang-format on

/* ------------------------------------------------------------------ texts ------------------- */

static bool prints(const pg_vocab *v, int32_t id)
{
    uint8_t type = v->pieces.type[id];
    return type != PG_PIECE_CONTROL && type != PG_PIECE_UNKNOWN && type != PG_PIECE_UNUSED &&
           !pg_vocab_is_end(v, id);
}

size_t pg_token_text(const pg_vocab *v, int32_t id, char *out)
{
    uint8_t type = v->pieces.type[id];
    struct pg_str s = pg_pieces_text(&v->pieces, (uint32_t)id);
    bool spaced =
        v->model != PG_VOCAB_GPT2 && (type == PG_PIECE_NORMAL || type == PG_PIECE_UNDEFINED);
    size_t n = 0;
    if (!prints(v, id))
        return 0;
    for (size_t i = 0; i < s.n; i++) {
        bool space = spaced && s.n - i >= 3 && !memcmp(s.s + i, "\xE2\x96\x81", 3);
        out[n++] = space ? ' ' : s.s[i];
        i += space ? 2 : 0;
    }
    return n;
}

/* A token, and where what it prints is. `key` is its first bytes, which decide nearly always. */
struct word {
    uint64_t key;
    uint32_t at, n;
    int32_t id;
};

static int by_text(const void *a, const void *b, void *text)
{
    const struct word *x = a, *y = b;
    if (x->key != y->key)
        return x->key < y->key ? -1 : 1;
    int diff = memcmp((char *)text + x->at, (char *)text + y->at, PG_MIN(x->n, y->n));
    if (diff)
        return diff;
    if (x->n != y->n)
        return x->n < y->n ? -1 : 1;
    return x->id < y->id ? -1 : 1;
}

static uint64_t key_of(const char *s, size_t n)
{
    uint64_t key = 0;
    for (size_t i = 0; i < sizeof(key); i++)
        key = key << 8 | (i < n ? (unsigned char)s[i] : 0);
    return key;
}

struct words {
    struct word *word;
    char *text;
    uint32_t n;
};

static int list_words(struct words *w, const pg_vocab *v)
{
    uint32_t at = 0;
    w->word = pg_calloc(v->pieces.n, sizeof(*w->word));
    w->text = pg_calloc((size_t)v->pieces.at[v->pieces.n] + PG_PIECE_MAX, 1);
    if (!w->word || !w->text)
        return PG_ENOMEM;
    for (uint32_t id = 0; id < v->pieces.n; id++) {
        size_t n = pg_token_text(v, (int32_t)id, w->text + at);
        if (!n)
            continue;
        w->word[w->n++] = (struct word){key_of(w->text + at, n), at, (uint32_t)n, (int32_t)id};
        at += (uint32_t)n;
    }
    qsort_r(w->word, w->n, sizeof(*w->word), by_text, w->text);
    return 0;
}

/* ------------------------------------------------------------------ the tree ---------------- */

static uint32_t common(const struct words *w, uint32_t i)
{
    const struct word *a = &w->word[i - 1], *b = &w->word[i];
    uint32_t n = 0;
    while (n < a->n && n < b->n && w->text[a->at + n] == w->text[b->at + n])
        n++;
    return n;
}

static int take_memory(struct pg_token_index *x, const struct words *w)
{
    uint32_t n = 1;
    for (uint32_t i = 0; i < w->n; i++) {
        n += w->word[i].n - (i ? common(w, i) : 0);
        x->max_depth = PG_MAX(x->max_depth, w->word[i].n);
    }
    x->n_node = n;
    x->n_token = w->n;
    x->end = pg_calloc(n, sizeof(*x->end));
    x->first = pg_calloc((size_t)n + 1, sizeof(*x->first));
    x->kinds = pg_calloc(n, sizeof(*x->kinds));
    x->depth = pg_calloc(n, sizeof(*x->depth));
    x->height = pg_calloc(n, 1);
    x->byte = pg_calloc(n, 1);
    x->token = pg_calloc(w->n, sizeof(*x->token));
    x->bytes = (uint64_t)n * (sizeof(*x->end) + sizeof(*x->first) + sizeof(*x->kinds) +
                              sizeof(*x->depth) + 2) +
               (uint64_t)w->n * sizeof(*x->token);
    return x->end && x->first && x->kinds && x->depth && x->height && x->byte && x->token
               ? 0
               : PG_ENOMEM;
}

static void free_index(struct pg_token_index *x)
{
    free(x->end);
    free(x->first);
    free(x->kinds);
    free(x->depth);
    free(x->height);
    free(x->byte);
    free(x->token);
    *x = (struct pg_token_index){0};
}

/* The node of each depth on the way to a word, and where the character begins that it is in. */
struct path {
    uint32_t node, begin;
};

/* The nodes of the path deeper than `to`, down to `from`, have no more descendants than there are.
 */
static void close_nodes(struct pg_token_index *x, const struct path *path, uint32_t from,
                        uint32_t to, uint32_t n)
{
    for (uint32_t d = from; d > to; d--) {
        const uint32_t i = path[d].node, parent = path[d - 1].node;
        x->end[i] = n;
        x->height[parent] = (uint8_t)PG_MAX(x->height[parent], PG_MIN(x->height[i] + 1, 255));
        x->kinds[parent] |= x->kinds[i] & ~(uint32_t)PG_KINDS_WITHIN;
        if (d == 1 && x->byte[i] == ' ')
            x->space = i;
    }
}

/* The kinds of the node at path[depth] for its own byte; finds where the next character begins. */
static uint32_t own_kinds(const char *text, struct path *path, uint32_t depth)
{
    const uint32_t begin = path[depth - 1].begin;
    const int len = pg_utf8_scan(text + begin, depth - begin);
    uint32_t kinds = 1u << pg_byte_kind[(unsigned char)text[depth - 1]];
    path[depth].begin = len > 0 ? depth : begin;
    kinds |= begin < depth - 1 ? PG_KINDS_WITHIN : 0;
    return kinds | (len < 0 ? PG_KINDS_ILL : 0);
}

/* Nodes in the order of the words. `path` has room for all depths. */
static void fill(struct pg_token_index *x, const struct words *w, struct path *path)
{
    uint32_t n = 1, depth = 0;
    for (uint32_t i = 0; i < w->n; i++) {
        const struct word *word = &w->word[i];
        const char *text = w->text + word->at;
        uint32_t same = i ? common(w, i) : 0;
        close_nodes(x, path, depth, same, n);
        for (depth = same; depth < word->n; n++) {
            x->byte[n] = (uint8_t)text[depth];
            x->depth[n] = (uint16_t)++depth;
            x->first[n] = i;
            x->kinds[n] = own_kinds(text, path, depth);
            path[depth].node = n;
        }
        x->token[i] = word->id;
    }
    close_nodes(x, path, depth, 0, n);
    x->end[0] = n;
    x->first[n] = w->n;
}

static int make(struct pg_token_index *x, const pg_vocab *v)
{
    struct words w = {0};
    struct path *path = NULL;
    int rc = list_words(&w, v);
    rc = rc ? rc : take_memory(x, &w);
    if (!rc)
        path = pg_calloc((size_t)x->max_depth + 1, sizeof(*path));
    rc = path ? 0 : PG_ENOMEM;
    if (!rc)
        fill(x, &w, path);
    else
        free_index(x);
    free(path);
    free(w.word);
    free(w.text);
    return rc;
}

/* ------------------------------------------------------------------ its home ---------------- */

struct pg_token_home *pg_token_home_open(void)
{
    struct pg_token_home *h = calloc(1, sizeof(*h));
    if (h)
        pthread_mutex_init(&h->lock, NULL);
    return h;
}

void pg_token_home_close(struct pg_token_home *h)
{
    if (!h)
        return;
    free_index(&h->index);
    pthread_mutex_destroy(&h->lock);
    free(h);
}

const struct pg_token_index *pg_token_index_of(const pg_vocab *v)
{
    struct pg_token_home *h = v->tokens;
    pthread_mutex_lock(&h->lock);
    if (!h->made)
        h->made = make(&h->index, v) == 0;
    bool made = h->made;
    pthread_mutex_unlock(&h->lock);
    return made ? &h->index : NULL;
}
