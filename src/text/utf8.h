/* SPDX-License-Identifier: MIT
 * UTF-8, strictly: no overlong forms, no surrogates, nothing above U+10FFFF.
 */
#ifndef PG_TEXT_UTF8_H
#define PG_TEXT_UTF8_H

#include <stddef.h>
#include <stdint.h>

/* What s[0..n), n > 0, begins with:
 *   > 0   a whole character of that many bytes
 *     0   the beginning of a character, more bytes are needed
 *   < 0   minus the bytes that can begin no character (what one U+FFFD replaces) */
int pg_utf8_scan(const char *s, size_t n);

/* The code point of a whole character of n bytes (as pg_utf8_scan found it). */
uint32_t pg_utf8_decode(const char *s, int n);

/* Writes the character, returns its length (1 to 4). */
int pg_utf8_encode(uint32_t cp, char *out);

#endif
