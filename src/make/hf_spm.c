/* SPDX-License-Identifier: MIT
 * SentencePiece's model file, a protocol buffer: fields of a number and a wire type, of which a
 * few are wanted and the others are passed over.
 *
 *   1   a piece: 1 text, 2 score, 3 type
 *   2   how it was trained: 3 kind (1 unigram, 2 BPE), 40 unk, 41 bos, 42 eos, 43 pad
 *   3   normalisation: 2 table of replacements, 3 a space before the text, 4 spaces trimmed
 */
#include "make/hf_vocab.h"

#include "base/os.h"

#include <stdlib.h>
#include <string.h>

enum { UNIGRAM = 1, BPE = 2 };

struct field {
    uint32_t number;
    uint64_t value;      /* of a varint or of fixed bytes */
    struct pg_str bytes; /* of a length-delimited one */
};

struct message {
    const uint8_t *p, *end;
    const char *path;
    struct pg_err *err;
};

static int bad(const struct message *m, const char *what)
{
    return pg_fail(m->err, PG_EFORMAT, "%s: %s: no SentencePiece model", m->path, what);
}

static int varint(struct message *m, uint64_t *out)
{
    *out = 0;
    for (int shift = 0; shift < 64 && m->p < m->end; shift += 7) {
        const uint8_t b = *m->p++;
        *out |= (uint64_t)(b & 127) << shift;
        if (!(b & 128))
            return 0;
    }
    return bad(m, "a number has no end");
}

/* 1: *f is the next field; 0: the message is over. */
static int next(struct message *m, struct field *f)
{
    uint64_t tag;
    *f = (struct field){0};
    if (m->p == m->end)
        return 0;
    PG_TRY(varint(m, &tag));
    f->number = (uint32_t)(tag >> 3);
    size_t fixed = (tag & 7) == 1 ? 8 : (tag & 7) == 5 ? 4 : 0;
    if ((tag & 7) == 0) {
        PG_TRY(varint(m, &f->value));
        return 1;
    }
    if (fixed) {
        if (fixed > (size_t)(m->end - m->p))
            return bad(m, "a field is cut off");
        memcpy(&f->value, m->p, fixed);
        m->p += fixed;
        return 1;
    }
    if ((tag & 7) != 2)
        return bad(m, "a field of a kind that is not known");
    uint64_t n;
    PG_TRY(varint(m, &n));
    if (n > (uint64_t)(m->end - m->p))
        return bad(m, "a field is cut off");
    f->bytes = (struct pg_str){(const char *)m->p, (size_t)n};
    m->p += n;
    return 1;
}

static struct message inside(const struct message *m, struct pg_str bytes)
{
    const uint8_t *p = (const uint8_t *)bytes.s;
    return (struct message){p, p + bytes.n, m->path, m->err};
}

static int read_piece(const struct message *m, struct pg_str bytes, struct pg_hf_vocab *v,
                      int64_t id)
{
    struct message in = inside(m, bytes);
    struct field f;
    struct pg_hf_token t = {.id = id, .text = {"", 0}, .type = PG_HF_NORMAL};
    int rc;
    while ((rc = next(&in, &f)) > 0) {
        uint32_t bits = (uint32_t)f.value;
        if (f.number == 1)
            t.text = f.bytes;
        else if (f.number == 2)
            memcpy(&t.score, &bits, sizeof(t.score));
        else if (f.number == 3)
            t.type = (int)PG_MIN(f.value, (uint64_t)99);
    }
    if (rc)
        return rc;
    if (t.type < PG_HF_NORMAL || t.type > PG_HF_BYTE)
        return bad(m, "a piece of a type that is not known");
    return pg_hf_vocab_put(v, m->path, &t, m->err);
}

static int read_trainer(const struct message *m, struct pg_str bytes, struct pg_hf_vocab *v)
{
    struct message in = inside(m, bytes);
    struct field f;
    int kind = UNIGRAM, rc;
    while ((rc = next(&in, &f)) > 0) {
        const int64_t id = (int32_t)f.value; /* -1 as 64 bits */
        if (f.number == 3)
            kind = (int)PG_MIN(f.value, (uint64_t)99);
        else if (f.number == 40)
            v->unk = id;
        else if (f.number == 41)
            v->bos = id;
        else if (f.number == 42)
            v->eos = id;
        else if (f.number == 43)
            v->pad = id;
    }
    if (rc)
        return rc;
    if (kind != UNIGRAM && kind != BPE)
        return bad(m, "pieces by words or characters");
    strcpy(v->model, kind == UNIGRAM ? "t5" : "llama");
    return 0;
}

static int read_normalizer(const struct message *m, struct pg_str bytes, struct pg_hf_vocab *v)
{
    struct message in = inside(m, bytes);
    struct field f;
    int rc;
    while ((rc = next(&in, &f)) > 0) {
        if (f.number == 3) {
            v->space_prefix = f.value;
        } else if (f.number == 4) {
            v->trim = f.value;
        } else if (f.number == 2 && f.bytes.n && !v->charsmap) {
            v->charsmap = malloc(f.bytes.n);
            if (!v->charsmap)
                return pg_fail(m->err, PG_ENOMEM, "out of memory");
            memcpy(v->charsmap, f.bytes.s, f.bytes.n);
            v->n_charsmap = f.bytes.n;
        }
    }
    return rc;
}

int pg_hf_spm_parse(struct pg_hf_vocab *v, const char *path, const uint8_t *data, size_t n,
                    struct pg_err *err)
{
    struct message m = {data, data + n, path, err};
    struct field f;
    int64_t id = 0;
    int rc;
    strcpy(v->model, "t5");
    v->unk = 0;
    v->bos = 1;
    v->eos = 2;
    v->space_prefix = v->trim = true;
    while ((rc = next(&m, &f)) > 0)
        if (f.number == 1)
            PG_TRY(read_piece(&m, f.bytes, v, id++));
        else if (f.number == 2)
            PG_TRY(read_trainer(&m, f.bytes, v));
        else if (f.number == 3)
            PG_TRY(read_normalizer(&m, f.bytes, v));
    if (!rc && id == 0)
        return bad(&m, "it has no pieces");
    return rc;
}
