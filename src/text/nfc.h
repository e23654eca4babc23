/* SPDX-License-Identifier: MIT
 * Unicode normal form C, which some models had their text in when they were trained.
 */
#ifndef PG_TEXT_NFC_H
#define PG_TEXT_NFC_H

#include "pregate.h"

/* No text grows by more than this factor. */
#define PG_NFC_GROWTH 3

/* False if normalising might change the text (valid UTF-8). Most text is plain. */
bool pg_nfc_is_plain(const char *s, size_t n);

/* Normalises valid UTF-8 into out, which holds PG_NFC_GROWTH * n bytes. */
int pg_nfc(const char *s, size_t n, char *out, size_t *n_out, struct pg_err *err);

#endif
