/* SPDX-License-Identifier: MIT */
#include "text/charsmap.h"
#include "base/err.h"

#include <stdlib.h>
#include <string.h>

static const char key[] = "tokenizer.ggml.precompiled_charsmap";

int pg_charsmap_init(struct pg_charsmap *m, const struct pg_gguf *g, struct pg_err *err)
{
    const struct pg_gguf_key *k = pg_gguf_find(g, key);
    uint32_t bytes;

    if (!k)
        return 0;
    if (k->kind != PG_GGUF_ARRAY || (k->elem != PG_GGUF_U8 && k->elem != PG_GGUF_I8))
        return pg_fail(err, PG_EFORMAT, "%s is not an array of bytes", key);
    if (k->n < sizeof(bytes) + 1 || k->n > 1u << 28)
        return pg_fail(err, PG_EFORMAT, "%s has %llu bytes, wanted 5 to %u", key,
                       (unsigned long long)k->n, 1u << 28);
    memcpy(&bytes, k->data, sizeof(bytes));
    if (bytes % sizeof(*m->unit) || bytes > k->n - sizeof(bytes) - 1)
        return pg_fail(err, PG_EFORMAT,
                       "%s has a trie of %u bytes, wanted a multiple of 4 below %llu", key, bytes,
                       (unsigned long long)(k->n - sizeof(bytes)));
    m->n_unit = bytes / (uint32_t)sizeof(*m->unit);
    m->n_text = (uint32_t)(k->n - sizeof(bytes) - bytes);
    m->unit = malloc(PG_MAX(bytes, 1));
    m->text = malloc(m->n_text);
    if (!m->unit || !m->text)
        return pg_fail(err, PG_ENOMEM, "out of memory for %s", key);
    memcpy(m->unit, (const char *)k->data + sizeof(bytes), bytes);
    memcpy(m->text, (const char *)k->data + sizeof(bytes) + bytes, m->n_text);
    if (m->text[m->n_text - 1])
        return pg_fail(err, PG_EFORMAT, "%s ends with byte %d, wanted 0", key,
                       (unsigned char)m->text[m->n_text - 1]);
    return 0;
}

void pg_charsmap_fini(struct pg_charsmap *m)
{
    free(m->unit);
    free(m->text);
    m->unit = NULL;
    m->text = NULL;
}

uint64_t pg_charsmap_heap_bytes(const struct pg_charsmap *m)
{
    return m->unit ? (uint64_t)m->n_unit * sizeof(*m->unit) + m->n_text : 0;
}

static uint32_t children_of(uint32_t unit)
{
    return (unit >> 10) << ((unit & 1u << 9) >> 6);
}

size_t pg_charsmap_match(const struct pg_charsmap *m, const char *s, size_t n, struct pg_str *out)
{
    size_t best = 0;
    uint32_t at;

    if (!m->n_unit)
        return 0;
    at = children_of(m->unit[0]);
    for (size_t i = 0; i < n; i++) {
        at ^= (unsigned char)s[i];
        if (at >= m->n_unit || (m->unit[at] & 0x800000FFu) != (unsigned char)s[i])
            break;
        bool has_value = m->unit[at] >> 8 & 1;
        at ^= children_of(m->unit[at]);
        if (!has_value || at >= m->n_unit || (m->unit[at] & 0x7FFFFFFFu) >= m->n_text)
            continue;
        best = i + 1;
        out->s = m->text + (m->unit[at] & 0x7FFFFFFFu);
    }
    if (best)
        out->n = strlen(out->s);
    return best;
}
