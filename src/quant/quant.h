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

struct pg_type_traits {
    const char *name; /* "Q4_K"; NULL: not a format we know */
    int block;        /* values */
    int block_bytes;
    enum pg_act act;
    void (*to_float)(const void *src, float *dst, int64_t n); /* n a multiple of block */
};

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
