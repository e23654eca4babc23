/* SPDX-License-Identifier: MIT
 * The working memory of one pg_tokenize call.
 */
#ifndef PG_TEXT_ENCODER_H
#define PG_TEXT_ENCODER_H

#include "text/merge.h"
#include "text/pretok.h"
#include "text/vocab_impl.h"

/* How the best cut of a text up to some byte ends. */
struct pg_path {
    float score;
    int32_t id;    /* of the last piece; -1: nothing ends here */
    uint32_t from; /* where that piece begins */
};

struct pg_encoder {
    const pg_vocab *vocab;
    struct pg_ids ids;
    struct pg_joiner join;
    struct pg_splitter *split; /* gpt2 */
    char *text;                /* a changed copy of the text: spaces escaped, or in normal form C */
    size_t cap_text;
    struct pg_path *path; /* t5: by end */
    size_t cap_path;
};

/* Room for n bytes in e->text; what was there is lost. */
int pg_encoder_reserve(struct pg_encoder *e, size_t n, struct pg_err *err);

#endif
