/* SPDX-License-Identifier: MIT */
#include "data/pieces.h"

#include "base/os.h"

#include <stdlib.h>
#include <string.h>

static int add(struct pg_pieces *p, const struct pg_piece *piece, struct pg_err *err)
{
    if (p->n == INT32_MAX || pg_reserve(&p->at, &p->cap, (size_t)p->n + 1, sizeof(*piece)))
        return pg_fail(err, PG_ENOMEM, "out of memory after %d pieces of text", p->n);
    p->at[p->n++] = *piece;
    p->longest = PG_MAX(p->longest, piece->n);
    return 0;
}

int pg_pieces_cut(struct pg_pieces *p, const struct pg_docs *docs, int doc, struct pg_cut *how,
                  struct pg_err *err)
{
    size_t from = docs->first[doc], end = docs->first[doc + 1];
    bool opens = from < end && docs->token[from] == how->bos && how->n_ctx > 1, opened = false;
    while (from < end && how->left > opened) {
        size_t n = PG_MIN(PG_MIN(end - from, how->n_ctx - opened), how->left - opened);
        struct pg_piece piece = {from, (int)n + opened, opened, from + n < end};
        if (!how->targets || piece.n + piece.more > 1)
            PG_TRY(add(p, &piece, err));
        how->left -= (uint64_t)piece.n;
        from = how->first_only ? end : from + n;
        opened = opens;
    }
    return 0;
}

void pg_pieces_close(struct pg_pieces *p)
{
    free(p->at);
    *p = (struct pg_pieces){0};
}

void pg_piece_tokens(const struct pg_piece *piece, const struct pg_docs *docs, int32_t bos,
                     int32_t *out)
{
    out[0] = bos;
    memcpy(out + piece->opened, docs->token + piece->from,
           (size_t)(piece->n - piece->opened) * sizeof(*out));
}
