/* SPDX-License-Identifier: MIT
 * Facts of the Unicode Character Database, written by tools/mknfc.py.
 */
#ifndef PG_TEXT_NFC_TABLE_H
#define PG_TEXT_NFC_TABLE_H

#include <stdint.h>

/* cp decomposes to a, or to a b; Hangul syllables are not listed. */
struct pg_nfc_pair {
    uint32_t cp, a, b;
};
extern const struct pg_nfc_pair pg_nfc_decomposed[]; /* by cp */
extern const int pg_nfc_n_decomposed;
extern const struct pg_nfc_pair pg_nfc_composed[]; /* by (a, b); without the exclusions */
extern const int pg_nfc_n_composed;

struct pg_nfc_range {
    uint32_t lo, hi, value;
};
extern const struct pg_nfc_range pg_nfc_class[]; /* combining classes that are not 0 */
extern const int pg_nfc_n_class;
extern const struct pg_nfc_range pg_nfc_unplain[]; /* what normalising may change or move */
extern const int pg_nfc_n_unplain;

#endif
