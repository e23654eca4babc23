/* SPDX-License-Identifier: MIT
 * Block formats: one traits row each. The numbers are GGUF's.
 *
 * A tensor row of n values is n / block values of `block_bytes` each. `to_float` is the reference
 * that defines what the bytes mean.
 */
#ifndef PG_QUANT_QUANT_H
#define PG_QUANT_QUANT_H

#include "base/err.h"

enum pg_type {
    PG_TYPE_F32 = 0,
    PG_TYPE_F16 = 1,
    PG_TYPE_Q4_0 = 2,
    PG_TYPE_Q4_1 = 3,
    PG_TYPE_Q5_0 = 6,
    PG_TYPE_Q5_1 = 7,
    PG_TYPE_Q8_0 = 8,
    PG_TYPE_Q2_K = 10,
    PG_TYPE_Q3_K = 11,
    PG_TYPE_Q4_K = 12,
    PG_TYPE_Q5_K = 13,
    PG_TYPE_Q6_K = 14,
    PG_TYPE_BF16 = 30,
    PG_TYPE_LIMIT = 40
};

/* What the other side of a dot product with this format is rounded to. */
enum pg_act {
    PG_ACT_F32, /* not at all */
    PG_ACT_Q8,  /* int8, one float scale for 32 values */
    PG_ACT_Q8K, /* int8, one float scale for 256 values */
    PG_ACT_COUNT
};

/* One block of a quantised format as integers. Value i of the block is
 *     d * scale[i / 16] * q[i] - m * min[i / 16]
 * with offsets (the -8 of Q4_0) already in q. Formats without sub-block scales have scale 1;
 * Q4_1 and Q5_1, whose minimum is added, have min -1. */
#define PG_BLOCK_MAX 256
struct pg_unpacked {
    float d, m; /* m: 0 in formats without a minimum */
    int16_t scale[PG_BLOCK_MAX / 16];
    int16_t min[PG_BLOCK_MAX / 16];
    int8_t q[PG_BLOCK_MAX];
};

struct pg_type_traits {
    const char *name; /* "Q4_K"; NULL: not a format we know */
    int block;        /* values */
    int block_bytes;
    enum pg_act act;
    bool has_min; /* m and min are used */
    /* A block's d, m, scale and min; and all of it. NULL: a float format. */
    void (*heads)(const uint8_t *block, struct pg_unpacked *out);
    void (*unpack)(const void *block, struct pg_unpacked *out);
    void (*to_float)(const void *src, float *dst, int64_t n); /* n a multiple of block */
};

/* The largest value that does not become infinite in it. */
float pg_type_most(enum pg_type type);
/* The type itself where a row of n values is whole blocks of it, else the smaller-block format that
 * stands in, or F16. */
enum pg_type pg_type_for_row(enum pg_type type, int64_t n);
/* n finite values, a multiple of the block, to that type: any that has a name. */
void pg_from_float(enum pg_type type, const float *src, void *dst, int64_t n);

/* Never NULL; a row with name NULL for numbers we do not know. */
const struct pg_type_traits *pg_type_traits(uint32_t type);
int pg_type_parse(const char *name); /* case-insensitive; -1 unknown */
/* Bytes of n values; n must be a multiple of the block. */
size_t pg_type_bytes(enum pg_type type, int64_t n);

float pg_f16_to_f32(uint16_t h);
uint16_t pg_f32_to_f16(float f); /* round to nearest even */
float pg_bf16_to_f32(uint16_t h);
uint16_t pg_f32_to_bf16(float f);

#endif
