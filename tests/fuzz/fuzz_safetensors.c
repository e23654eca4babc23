/* SPDX-License-Identifier: MIT
 * Any bytes as the header of a safetensors file; of what is accepted each tensor lies in the file,
 * and none over another.
 */
#include "format/safetensors.h"

#include <stdint.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    struct pg_st *s;
    struct pg_err err;
    /* The first two bytes are how many bytes of data the file has. */
    const uint64_t data = n < 2 ? 0 : (uint64_t)(bytes[0] | bytes[1] << 8), begin = 8 + n - 2;
    if (n < 2 || pg_st_parse(&s, (const char *)bytes + 2, n - 2, begin + data, "fuzz", &err))
        return 0;
    uint64_t sum = 0;
    for (int i = 0; i < pg_st_n_tensors(s); i++) {
        const struct pg_st_tensor *t = pg_st_at(s, i);
        PG_ASSERT(t->offset >= begin && t->bytes <= begin + data - t->offset);
        PG_ASSERT(t->n_dims >= 0 && t->n_dims <= PG_ST_DIMS && pg_st_find(s, t->name) == t);
        PG_ASSERT(pg_st_type(t) >= -1 && strlen(t->dtype) > 0);
        sum += t->bytes;
    }
    PG_ASSERT(sum == data && pg_st_bytes(s) == data);
    pg_st_close(s);
    return 0;
}
