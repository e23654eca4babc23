/* SPDX-License-Identifier: MIT */
#include "text/utf8.h"

int pg_utf8_scan(const char *s, size_t n)
{
    const unsigned char *u = (const unsigned char *)s;
    unsigned char lo = 0x80, hi = 0xBF; /* what the second byte may be */
    int len;

    if (u[0] < 0x80)
        return 1;
    if (u[0] < 0xC2 || u[0] > 0xF4)
        return -1;
    if (u[0] < 0xE0)
        len = 2;
    else if (u[0] < 0xF0)
        len = 3;
    else
        len = 4;
    if (u[0] == 0xE0)
        lo = 0xA0;
    else if (u[0] == 0xED)
        hi = 0x9F;
    else if (u[0] == 0xF0)
        lo = 0x90;
    else if (u[0] == 0xF4)
        hi = 0x8F;
    for (int i = 1; i < len; i++) {
        if ((size_t)i == n)
            return 0;
        if (u[i] < lo || u[i] > hi)
            return -i;
        lo = 0x80;
        hi = 0xBF;
    }
    return len;
}

uint32_t pg_utf8_decode(const char *s, int n)
{
    static const unsigned char mask[5] = {0, 0x7F, 0x1F, 0x0F, 0x07};
    uint32_t cp = (unsigned char)s[0] & mask[n];
    for (int i = 1; i < n; i++)
        cp = cp << 6 | ((unsigned char)s[i] & 0x3F);
    return cp;
}

int pg_utf8_encode(uint32_t cp, char *out)
{
    static const unsigned char lead[5] = {0, 0, 0xC0, 0xE0, 0xF0};
    int n = cp < 0x80 ? 1 : cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;
    for (int i = n - 1; i > 0; i--) {
        out[i] = (char)(0x80 | (cp & 0x3F));
        cp >>= 6;
    }
    out[0] = (char)(lead[n] | cp);
    return n;
}
