/* SPDX-License-Identifier: MIT
 * Normal form C: the cases that the Unicode standard makes a point of, and its own properties.
 */
#include "unit/vocab_check.h"

#include "text/nfc.h"
#include "text/utf8.h"

static struct bytes nfc(const char *s, size_t n)
{
    struct pg_err err = {0};
    struct bytes out = {malloc(PG_NFC_GROWTH * n + 1), 0, 0};
    assert_non_null(out.s);
    must(pg_nfc(s, n, out.s, &out.n, &err), &err);
    assert_true(out.n <= PG_NFC_GROWTH * n);
    out.s[out.n] = 0;
    return out;
}

/* Code points up to a zero, as UTF-8. */
static struct bytes spell(const uint32_t *cp)
{
    struct bytes b = {0};
    bytes_add(&b, "", 0);
    for (; *cp; cp++) {
        char c[4];
        bytes_add(&b, c, (size_t)pg_utf8_encode(*cp, c));
    }
    return b;
}

static void test_cases(void **state)
{
    static const struct {
        uint32_t from[12], to[12];
    } cases[] = {
        {{'a', 'b', 'c'}, {'a', 'b', 'c'}},
        {{'e', 0x301}, {0xE9}},
        {{0xE9, 0x316}, {0xE9, 0x316}}, /* split, sorted, and the acute passes the mark below */
        {{'e', 0x316, 0x301}, {0xE9, 0x316}},
        {{0x1E9B, 0x323}, {0x1E9B, 0x323}},
        {{'s', 0x307, 0x323}, {0x1E69}}, /* marks sorted, then joined one after the other */
        {{'s', 0x323, 0x307}, {0x1E69}},
        {{'a', 0x302, 0x302}, {0xE2, 0x302}}, /* the second is blocked by its equal */
        {{'a', 0x33D, 0x301}, {'a', 0x33D, 0x301}},
        {{0x212B}, {0xC5}}, /* a singleton */
        {{0x2126, 'x'}, {0x3A9, 'x'}},
        {{0x958}, {0x915, 0x93C}}, /* excluded from composition */
        {{0x344}, {0x308, 0x301}},
        {{0x1100, 0x1161, 0x11A8}, {0xAC01}}, /* Hangul */
        {{0xAC00, 0x11A8}, {0xAC01}},
        {{0xAC01, 0x11A8}, {0xAC01, 0x11A8}},
        {{0x1D15E}, {0x1D157, 0x1D165}},
        {{0x301, 'e'}, {0x301, 'e'}}, /* a mark without a starter */
        {{0x9C7, 0x9BE}, {0x9CB}},    /* two starters */
        {{'e', 0x9BE, 0x301}, {'e', 0x9BE, 0x301}},
        {{0x2F800}, {0x4E3D}},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct bytes from = spell(cases[i].from), to = spell(cases[i].to);
        struct bytes have = nfc(from.s, from.n);
        assert_bytes(have, to.s, to.n);
        assert_true(!pg_nfc_is_plain(from.s, from.n) ||
                    (from.n == to.n && !memcmp(from.s, to.s, to.n)));
        free(from.s);
        free(to.s);
        free(have.s);
    }
}

/* Normalising again changes nothing, and plain text does not change at all. */
static void test_properties(void **state)
{
    static const uint32_t base[] = {0x41,   0x300, 0x323, 0xE0,   0x1100,  0x1161, 0x11A7,
                                    0xAC00, 0x915, 0x93C, 0x1E00, 0x1D15E, 0xF71,  0x3099};
    uint64_t seed = 5;
    (void)state;
    for (int round = 0; round < 20000; round++) {
        uint32_t cp[13] = {0};
        for (int i = 0; i < 12; i++) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            cp[i] = base[(seed >> 40) % 14] + (uint32_t)(seed >> 60) % 8;
        }
        struct bytes text = spell(cp);
        struct bytes once = nfc(text.s, text.n);
        struct bytes twice = nfc(once.s, once.n);
        assert_bytes(twice, once.s, once.n);
        if (pg_nfc_is_plain(text.s, text.n))
            assert_bytes(once, text.s, text.n);
        free(text.s);
        free(once.s);
        free(twice.s);
    }
}

/* A hundred thousand marks on one letter, in the worst order, take no quadratic time. */
static void test_many_marks(void **state)
{
    struct bytes text = {0}, want = {0};
    (void)state;
    bytes_add(&text, "x", 1);
    bytes_add(&want, "x", 1);
    for (int i = 0; i < 100000; i++)
        bytes_add(&text, "\xCC\x95\xCC\x96", 4); /* classes 232 and 220 */
    for (int i = 0; i < 100000; i++)
        bytes_add(&want, "\xCC\x96", 2);
    for (int i = 0; i < 100000; i++)
        bytes_add(&want, "\xCC\x95", 2);
    struct bytes have = nfc(text.s, text.n);
    assert_int_equal(have.n, want.n);
    assert_memory_equal(have.s, want.s, want.n);
    free(text.s);
    free(want.s);
    free(have.s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cases),
        cmocka_unit_test(test_properties),
        cmocka_unit_test(test_many_marks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
