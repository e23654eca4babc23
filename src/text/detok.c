/* SPDX-License-Identifier: MIT
 * Ids to text. Pieces are bytes, and a character may be spread over several of them: a beginning
 * waits in `held` until the bytes that finish it come, or prove that they do not.
 */
#include "text/utf8.h"
#include "text/vocab_impl.h"

#include <string.h>

static const char replacement[3] = {'\xEF', '\xBF', '\xBD'}; /* U+FFFD */

/* Moves what `held` can decide to out; what may still become a character stays. */
static size_t settle(struct pg_detok *d, char *out)
{
    size_t n = 0;
    while (d->n_held > 0) {
        int len = pg_utf8_scan((const char *)d->held, (size_t)d->n_held);
        if (!len)
            break;
        if (len > 0) {
            memcpy(out + n, d->held, (size_t)len);
            n += (size_t)len;
        } else {
            memcpy(out + n, replacement, sizeof(replacement));
            n += sizeof(replacement);
            len = -len;
        }
        d->n_held -= len;
        memmove(d->held, d->held + len, (size_t)d->n_held);
    }
    return n;
}

/* At most four bytes are ever held: the fourth settles. */
static size_t put(struct pg_detok *d, char c, char *out)
{
    d->held[d->n_held++] = (unsigned char)c;
    return settle(d, out);
}

static size_t put_spaced(struct pg_detok *d, struct pg_str s, char *out)
{
    size_t n = 0;
    for (size_t i = 0; i < s.n; i++) {
        bool space = s.n - i >= 3 && !memcmp(s.s + i, "\xE2\x96\x81", 3);
        i += space ? 2 : 0;
        if (i == 2 && space && !d->not_first && d->vocab->space_prefix)
            continue;
        n += put(d, space ? ' ' : s.s[i], out + n);
    }
    return n;
}

size_t pg_detokenize(struct pg_detok *d, int32_t id, char *out)
{
    const struct pg_pieces *p = &d->vocab->pieces;
    size_t n = 0;

    PG_ASSERT(d->n_held >= 0 && d->n_held < 4);
    if (id == -1) {
        if (!d->n_held)
            return 0;
        d->n_held = 0; /* the beginning of one character, or it would have been settled */
        memcpy(out, replacement, sizeof(replacement));
        return sizeof(replacement);
    }
    if (id < 0 || (uint32_t)id >= p->n)
        return 0;
    uint8_t type = p->type[id];
    if (type == PG_PIECE_CONTROL || type == PG_PIECE_UNKNOWN || type == PG_PIECE_UNUSED)
        return 0;
    struct pg_str s = pg_pieces_text(p, (uint32_t)id);
    if (d->vocab->model != PG_VOCAB_GPT2 && (type == PG_PIECE_NORMAL || type == PG_PIECE_UNDEFINED))
        n = put_spaced(d, s, out);
    else
        for (size_t i = 0; i < s.n; i++)
            n += put(d, s.s[i], out + n);
    d->not_first = true;
    return n;
}
