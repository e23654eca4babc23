/* SPDX-License-Identifier: MIT
 * The GGUF reader and writer: what is written is read back, every malformed file is refused with a
 * sentence that says what is wrong, and no byte outside the given ones is looked at.
 */
#include "helpers.h"

#include "base/os.h"
#include "format/gguf.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- files made in memory, byte by byte --------------------------------------------------------
 */

struct image {
    char *b;
    size_t n, cap;
};

static void put(struct image *m, const void *p, size_t n)
{
    if (m->n + n > m->cap) {
        m->cap = (m->n + n) * 2;
        m->b = realloc(m->b, m->cap);
        assert_non_null(m->b);
    }
    memcpy(m->b + m->n, p, n);
    m->n += n;
}

static void put_u8(struct image *m, uint8_t v)
{
    put(m, &v, 1);
}

static void put_u32(struct image *m, uint32_t v)
{
    put(m, &v, 4);
}

static void put_u64(struct image *m, uint64_t v)
{
    put(m, &v, 8);
}

static void put_bytes(struct image *m, const char *s, size_t n)
{
    put_u64(m, n);
    put(m, s, n);
}

static void put_str(struct image *m, const char *s)
{
    put_bytes(m, s, strlen(s));
}

static void head(struct image *m, uint32_t version, uint64_t n_tensors, uint64_t n_keys)
{
    put(m, "GGUF", 4);
    put_u32(m, version);
    put_u64(m, n_tensors);
    put_u64(m, n_keys);
}

static void key(struct image *m, const char *name, uint32_t kind)
{
    put_str(m, name);
    put_u32(m, kind);
}

static void key_u32(struct image *m, const char *name, uint32_t v)
{
    key(m, name, PG_GGUF_U32);
    put_u32(m, v);
}

static void key_array(struct image *m, const char *name, uint32_t elem, uint64_t n)
{
    key(m, name, PG_GGUF_ARRAY);
    put_u32(m, elem);
    put_u64(m, n);
}

static void tensor(struct image *m, const char *name, uint32_t type, uint64_t ne0, uint64_t ne1,
                   uint64_t offset)
{
    put_str(m, name);
    put_u32(m, ne1 ? 2 : 1);
    put_u64(m, ne0);
    if (ne1)
        put_u64(m, ne1);
    put_u32(m, type);
    put_u64(m, offset);
}

static void pad(struct image *m, size_t unit)
{
    while (m->n % unit)
        put_u8(m, 0);
}

static void data(struct image *m, size_t n)
{
    pad(m, 32);
    while (n--)
        put_u8(m, 0x5a);
}

/* Parses an exact-size copy, so that the address sanitizer sees a read beyond it. */
static int parse(struct pg_gguf **g, const struct image *m, size_t n, uint64_t file_bytes,
                 struct pg_err *err)
{
    char *copy = malloc(n ? n : 1);
    assert_non_null(copy);
    if (n)
        memcpy(copy, m->b, n);
    int rc = pg_gguf_parse(g, copy, n, file_bytes, "x.gguf", err);
    free(copy);
    return rc;
}

/* ---- malformed files ---------------------------------------------------------------------------
 */

static void bad_magic(struct image *m)
{
    put(m, "GGML\3\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 24);
}
static void binary_magic(struct image *m)
{
    put(m,
        "\x7f"
        "ELF\2\1\1\0",
        8);
}
static void version_0(struct image *m)
{
    head(m, 0, 0, 0);
}
static void version_1(struct image *m)
{
    head(m, 1, 0, 0);
}
static void version_4(struct image *m)
{
    head(m, 4, 0, 0);
}
static void big_endian(struct image *m)
{
    head(m, 0x03000000, 0, 0);
}
static void only_magic(struct image *m)
{
    put(m, "GGUF", 4);
}
static void tensors_2_63(struct image *m)
{
    head(m, 3, 1ull << 63, 0);
}
static void tensors_minus_1(struct image *m)
{
    head(m, 3, UINT64_MAX, 0);
}
static void keys_2_63(struct image *m)
{
    head(m, 3, 0, 1ull << 63);
}
static void keys_too_many(struct image *m)
{
    head(m, 3, 0, 3);
    key_u32(m, "a", 1);
    key_u32(m, "b", 1);
}
static void string_2_63(struct image *m)
{
    head(m, 3, 0, 1);
    key(m, "general.name", PG_GGUF_STRING);
    put_u64(m, 1ull << 63);
    data(m, 64);
}
static void string_too_long(struct image *m)
{
    head(m, 3, 0, 1);
    key(m, "general.name", PG_GGUF_STRING);
    put_u64(m, 100);
    put(m, "short", 5);
}
static void array_2_62(struct image *m)
{
    head(m, 3, 0, 1);
    key_array(m, "scores", PG_GGUF_F32, 1ull << 62);
    data(m, 64);
}
static void array_too_long(struct image *m)
{
    head(m, 3, 0, 1);
    key_array(m, "scores", PG_GGUF_F64, 9);
    data(m, 64);
    m->n = 24 + 8 + 6 + 4 + 4 + 8 + 71;
}
static void array_of_arrays(struct image *m)
{
    head(m, 3, 0, 1);
    key_array(m, "deep", PG_GGUF_ARRAY, 1);
    data(m, 64);
}
static void strings_too_many(struct image *m)
{
    head(m, 3, 0, 1);
    key_array(m, "tokens", PG_GGUF_STRING, 9);
    for (int i = 0; i < 8; i++)
        put_u64(m, 0);
}
static void strings_2_61(struct image *m)
{
    head(m, 3, 0, 1);
    key_array(m, "tokens", PG_GGUF_STRING, 1ull << 61);
    data(m, 64);
}
static void key_twice(struct image *m)
{
    head(m, 3, 0, 3);
    key_u32(m, "a.b", 1);
    key_u32(m, "a.c", 1);
    key_u32(m, "a.b", 2);
}
static void tensor_twice(struct image *m)
{
    head(m, 3, 2, 0);
    tensor(m, "blk.0.x", PG_TYPE_F32, 8, 0, 0);
    tensor(m, "blk.0.x", PG_TYPE_F32, 8, 0, 32);
    data(m, 64);
}
static void key_empty(struct image *m)
{
    head(m, 3, 0, 2);
    key_u32(m, "fine", 1);
    key_u32(m, "", 1);
    data(m, 8);
}
static void key_long(struct image *m)
{
    char *name = malloc(65537);
    memset(name, 'k', 65536);
    name[65536] = 0;
    head(m, 3, 0, 1);
    key_u32(m, name, 1);
    free(name);
}
static void key_not_ascii(struct image *m)
{
    head(m, 3, 0, 1);
    key_u32(m, "g\xc3\xa9n\xc3\xa9ral", 1);
}
static void key_nul(struct image *m)
{
    head(m, 3, 0, 1);
    put_bytes(m, "a\0b", 3);
    put_u32(m, PG_GGUF_U32);
    put_u32(m, 1);
}
static void tensor_name_64(struct image *m)
{
    head(m, 3, 1, 0);
    tensor(m, "0123456789012345678901234567890123456789012345678901234567890123", PG_TYPE_F32, 8, 0,
           0);
    data(m, 32);
}
static void tensor_name_nul(struct image *m)
{
    head(m, 3, 1, 0);
    put_bytes(m, "t\0u", 3);
    put_u32(m, 1);
    put_u64(m, 8);
    put_u32(m, PG_TYPE_F32);
    put_u64(m, 0);
    data(m, 32);
}
static void kind_13(struct image *m)
{
    head(m, 3, 0, 1);
    key(m, "a.b", 13);
    put_u64(m, 0);
}
static void elem_kind_99(struct image *m)
{
    head(m, 3, 0, 1);
    key_array(m, "a.b", 99, 0);
}
static void bool_2(struct image *m)
{
    head(m, 3, 0, 1);
    key(m, "a.flag", PG_GGUF_BOOL);
    put_u8(m, 2);
}
static void bool_array_255(struct image *m)
{
    head(m, 3, 0, 1);
    key_array(m, "a.flags", PG_GGUF_BOOL, 2);
    put_u8(m, 1);
    put_u8(m, 255);
}
static void dims(struct image *m, uint32_t n)
{
    head(m, 3, 1, 0);
    put_str(m, "t.w");
    put_u32(m, n);
    for (uint32_t i = 0; i < PG_MIN(n, 5u); i++)
        put_u64(m, 1);
    put_u32(m, PG_TYPE_F32);
    put_u64(m, 0);
    data(m, 32);
}
static void dims_0(struct image *m)
{
    dims(m, 0);
}
static void dims_5(struct image *m)
{
    dims(m, 5);
}
static void dims_many(struct image *m)
{
    dims(m, UINT32_MAX);
}
static void dim_zero(struct image *m)
{
    head(m, 3, 1, 0);
    tensor(m, "t.w", PG_TYPE_F32, 0, 4, 0);
    data(m, 32);
}
static void dim_negative(struct image *m)
{
    head(m, 3, 1, 0);
    tensor(m, "t.w", PG_TYPE_F32, 8, (uint64_t)-4, 0);
    data(m, 32);
}
static void dims_overflow(struct image *m)
{
    head(m, 3, 1, 0);
    tensor(m, "t.w", PG_TYPE_F32, 1ull << 32, 1ull << 32, 0);
    data(m, 32);
}
static void dims_huge(struct image *m)
{
    head(m, 3, 1, 0);
    tensor(m, "t.w", PG_TYPE_F32, 1ull << 30, 1ull << 31, 0);
    data(m, 32);
}
static void half_block(struct image *m)
{
    head(m, 3, 1, 0);
    tensor(m, "t.w", PG_TYPE_Q4_K, 384, 2, 0);
    data(m, 1024);
}
static void type_unknown(struct image *m)
{
    head(m, 3, 1, 0);
    tensor(m, "blk.3.ffn_down_exps.weight", 23, 256, 2, 0);
    data(m, 1024);
}
static void type_removed(struct image *m)
{
    head(m, 3, 1, 0);
    tensor(m, "t.w", 4, 256, 2, 0);
    data(m, 1024);
}
static void type_huge(struct image *m)
{
    head(m, 3, 1, 0);
    tensor(m, "t.w", UINT32_MAX, 256, 2, 0);
    data(m, 1024);
}
static void offset_odd(struct image *m)
{
    head(m, 3, 1, 0);
    tensor(m, "t.w", PG_TYPE_F32, 8, 0, 4);
    data(m, 64);
}
static void offset_beyond(struct image *m)
{
    head(m, 3, 1, 0);
    tensor(m, "t.w", PG_TYPE_F32, 8, 0, 4096);
    data(m, 64);
}
static void end_beyond(struct image *m)
{
    head(m, 3, 1, 0);
    tensor(m, "t.w", PG_TYPE_F32, 17, 0, 0);
    data(m, 64);
}
static void offset_wraps(struct image *m)
{
    head(m, 3, 1, 0);
    tensor(m, "t.w", PG_TYPE_F32, 8, 0, UINT64_MAX - 31);
    data(m, 64);
}
static void overlap(struct image *m)
{
    head(m, 3, 3, 0);
    tensor(m, "t.c", PG_TYPE_F32, 8, 0, 64);
    tensor(m, "t.b", PG_TYPE_F32, 8, 0, 32);
    tensor(m, "t.a", PG_TYPE_F32, 9, 0, 0);
    data(m, 96);
}
static void same_place(struct image *m)
{
    head(m, 3, 2, 0);
    tensor(m, "t.a", PG_TYPE_F32, 8, 0, 32);
    tensor(m, "t.b", PG_TYPE_F32, 8, 0, 32);
    data(m, 96);
}
static void alignment(struct image *m, uint32_t v)
{
    head(m, 3, 1, 1);
    key_u32(m, "general.alignment", v);
    tensor(m, "t.w", PG_TYPE_F32, 8, 0, 0);
    data(m, 64);
}
static void alignment_0(struct image *m)
{
    alignment(m, 0);
}
static void alignment_3(struct image *m)
{
    alignment(m, 3);
}
static void alignment_2_31(struct image *m)
{
    alignment(m, 1u << 31);
}
static void alignment_u64(struct image *m)
{
    head(m, 3, 0, 1);
    key(m, "general.alignment", PG_GGUF_U64);
    put_u64(m, 32);
}
static void alignment_text(struct image *m)
{
    head(m, 3, 0, 1);
    key(m, "general.alignment", PG_GGUF_STRING);
    put_str(m, "32");
}

static const struct malformed {
    const char *label;
    void (*build)(struct image *m);
    int code;
    const char *words[3];
} malformed[] = {
    {"magic of another format", bad_magic, PG_EFORMAT, {"GGML", "\"GGUF\" is wanted"}},
    {"magic with control bytes", binary_magic, PG_EFORMAT, {"\\x7fELF"}},
    {"version 0", version_0, PG_ENOTSUP, {"version 0", "2 or 3"}},
    {"version 1", version_1, PG_ENOTSUP, {"version 1", "2 or 3"}},
    {"version 4", version_4, PG_ENOTSUP, {"version 4", "2 or 3"}},
    {"big-endian", big_endian, PG_ENOTSUP, {"big-endian"}},
    {"nothing but the magic", only_magic, PG_EFORMAT, {"the version", "0 left"}},
    {"2^63 tensors", tensors_2_63, PG_EFORMAT, {"9223372036854775808 tensors", "at most 0"}},
    {"-1 tensors", tensors_minus_1, PG_EFORMAT, {"18446744073709551615 tensors"}},
    {"2^63 keys", keys_2_63, PG_EFORMAT, {"9223372036854775808 keys"}},
    {"more keys than fit", keys_too_many, PG_EFORMAT, {"3 keys", "at most 2"}},
    {"string of 2^63", string_2_63, PG_EFORMAT, {"key general.name", "9223372036854775808"}},
    {"string beyond the end", string_too_long, PG_EFORMAT, {"general.name", "100", "5 left"}},
    {"array of 2^62", array_2_62, PG_EFORMAT, {"key scores", "4611686018427387904"}},
    {"array beyond the end", array_too_long, PG_EFORMAT, {"key scores", "9 array", "at most 8"}},
    {"array of arrays", array_of_arrays, PG_EFORMAT, {"key deep", "array of arrays"}},
    {"more strings than fit", strings_too_many, PG_EFORMAT, {"tokens", "9 strings", "at most 8"}},
    {"2^61 strings", strings_2_61, PG_EFORMAT, {"tokens", "2305843009213693952 strings"}},
    {"key twice", key_twice, PG_EFORMAT, {"key a.b", "occurs twice"}},
    {"tensor twice", tensor_twice, PG_EFORMAT, {"tensor blk.0.x", "occurs twice"}},
    {"empty key", key_empty, PG_EFORMAT, {"key number 1", "0 bytes", "1 to 65535"}},
    {"long key", key_long, PG_EFORMAT, {"65536 bytes", "1 to 65535"}},
    {"key beyond ASCII", key_not_ascii, PG_EFORMAT, {"g\\xc3\\xa9n", "ASCII"}},
    {"key with NUL", key_nul, PG_EFORMAT, {"a\\x00b", "ASCII"}},
    {"tensor name of 64", tensor_name_64, PG_EFORMAT, {"tensor number 0", "64 bytes", "1 to 63"}},
    {"tensor name with NUL", tensor_name_nul, PG_EFORMAT, {"t\\x00u", "ASCII"}},
    {"value type 13", kind_13, PG_EFORMAT, {"key a.b", "number 13", "0 to 12"}},
    {"element type 99", elem_kind_99, PG_EFORMAT, {"key a.b", "number 99"}},
    {"bool of 2", bool_2, PG_EFORMAT, {"key a.flag", "value 2", "0 or 1"}},
    {"bool of 255 in an array", bool_array_255, PG_EFORMAT, {"a.flags", "element 1", "255"}},
    {"no dimension", dims_0, PG_EFORMAT, {"tensor t.w", "0 dimensions", "1 to 4"}},
    {"5 dimensions", dims_5, PG_EFORMAT, {"tensor t.w", "5 dimensions", "1 to 4"}},
    {"2^32 - 1 dimensions", dims_many, PG_EFORMAT, {"tensor t.w", "4294967295 dimensions"}},
    {"dimension 0", dim_zero, PG_EFORMAT, {"tensor t.w", "dimension 0 is 0"}},
    {"dimension -4", dim_negative, PG_EFORMAT, {"tensor t.w", "dimension 1 is -4"}},
    {"2^64 values", dims_overflow, PG_EFORMAT, {"tensor t.w", "overflows"}},
    {"2^63 bytes", dims_huge, PG_EFORMAT, {"tensor t.w", "beyond any file"}},
    {"row of one and a half blocks", half_block, PG_EFORMAT, {"t.w", "384", "Q4_K's block of 256"}},
    {"a type we do not know",
     type_unknown,
     PG_ENOTSUP,
     {"tensor blk.3.ffn_down_exps.weight", "type number 23", "not supported"}},
    {"a type that was removed", type_removed, PG_ENOTSUP, {"tensor t.w", "type number 4 "}},
    {"type 2^32 - 1", type_huge, PG_ENOTSUP, {"tensor t.w", "type number 4294967295"}},
    {"offset not aligned", offset_odd, PG_EFORMAT, {"tensor t.w", "offset 4", "alignment 32"}},
    {"offset beyond the file", offset_beyond, PG_EFORMAT, {"tensor t.w", "4096", "beyond"}},
    {"end beyond the file", end_beyond, PG_EFORMAT, {"tensor t.w", "68 bytes", "beyond"}},
    {"offset that wraps", offset_wraps, PG_EFORMAT, {"t.w", "18446744073709551584", "beyond"}},
    {"overlap", overlap, PG_EFORMAT, {"tensor t.b", "inside t.a"}},
    {"the same place", same_place, PG_EFORMAT, {"inside t."}},
    {"alignment 0", alignment_0, PG_EFORMAT, {"general.alignment", "is 0", "power of two"}},
    {"alignment 3", alignment_3, PG_EFORMAT, {"general.alignment", "is 3", "power of two"}},
    {"alignment 2^31", alignment_2_31, PG_EFORMAT, {"general.alignment", "is 2147483648"}},
    {"alignment as u64", alignment_u64, PG_EFORMAT, {"alignment", "type u64", "u32 is wanted"}},
    {"alignment as text", alignment_text, PG_EFORMAT, {"alignment", "type string"}},
};

static void test_malformed(void **state)
{
    (void)state;
    for (size_t i = 0; i < PG_COUNT(malformed); i++) {
        const struct malformed *c = &malformed[i];
        struct image m = {0};
        struct pg_gguf *g;
        struct pg_err err = {0};
        c->build(&m);
        int rc = parse(&g, &m, m.n, m.n, &err);
        if (rc != c->code || err.code != rc)
            fail_msg("%s: code %d, sentence \"%s\"", c->label, rc, err.text);
        assert_null(g);
        assert_non_null(strstr(err.text, "x.gguf: "));
        for (size_t w = 0; w < PG_COUNT(c->words) && c->words[w]; w++)
            if (!strstr(err.text, c->words[w]))
                fail_msg("%s: \"%s\" is not in \"%s\"", c->label, c->words[w], err.text);
        /* The same without somebody who wants the sentence. */
        assert_int_equal(parse(&g, &m, m.n, m.n, NULL), c->code);
        free(m.b);
    }
}

/* ---- a good file with everything in it ---------------------------------------------------------
 */

static void scalar(struct image *m, const char *name, uint32_t kind, uint64_t bits, size_t n)
{
    key(m, name, kind);
    put(m, &bits, n);
}

static size_t good(struct image *m)
{
    const float half = 0.5f;
    const double third = 1.0 / 3;

    head(m, 3, 3, 17);
    scalar(m, "k.u8", PG_GGUF_U8, 200, 1);
    scalar(m, "k.i8", PG_GGUF_I8, (uint64_t)-5, 1);
    scalar(m, "k.u16", PG_GGUF_U16, 60000, 2);
    scalar(m, "k.i16", PG_GGUF_I16, (uint64_t)-300, 2);
    scalar(m, "k.u32", PG_GGUF_U32, 4000000000u, 4);
    scalar(m, "k.i32", PG_GGUF_I32, (uint64_t)-70000, 4);
    scalar(m, "k.u64", PG_GGUF_U64, UINT64_MAX, 8);
    scalar(m, "k.i64", PG_GGUF_I64, (uint64_t)INT64_MIN, 8);
    scalar(m, "k.true", PG_GGUF_BOOL, 1, 1);
    key(m, "k.f32", PG_GGUF_F32);
    put(m, &half, 4);
    key(m, "k.f64", PG_GGUF_F64);
    put(m, &third, 8);
    key(m, "k.text", PG_GGUF_STRING);
    put_bytes(m, "a\0\xff", 3);
    key_array(m, "k.strings", PG_GGUF_STRING, 3);
    put_str(m, "one");
    put_str(m, "");
    put_str(m, "three");
    key_array(m, "k.none", PG_GGUF_STRING, 0);
    key_array(m, "k.i16s", PG_GGUF_I16, 3);
    put(m, "\1\0\2\0\xff\xff", 6);
    key_array(m, "k.bools", PG_GGUF_BOOL, 2);
    put(m, "\0\1", 2);
    key(m, "k.nan", PG_GGUF_F32);
    put_u32(m, 0x7fc00000);
    /* Not in the order of their data, and with a hole. */
    tensor(m, "t.last", PG_TYPE_F16, 16, 3, 352);
    tensor(m, "t.first", PG_TYPE_Q4_K, 512, 0, 0);
    tensor(m, "t.middle", PG_TYPE_F32, 1, 1, 288);
    size_t header = m->n;
    data(m, 352 + 96);
    return header;
}

static void check_int(const struct pg_gguf *g, const char *name, int64_t want)
{
    int64_t v = 42;

    assert_int_equal(
        pg_gguf_get_int(g, name, PG_GGUF_REQUIRED, (int64_t[]){INT64_MIN, INT64_MAX}, &v, NULL), 0);
    assert_true(v == want);
    if (want < INT64_MAX)
        assert_int_equal(
            pg_gguf_get_int(g, name, PG_GGUF_REQUIRED, (int64_t[]){want + 1, INT64_MAX}, &v, NULL),
            PG_EFORMAT);
}

static void check_good_values(const struct pg_gguf *g)
{
    struct pg_str s;
    float f;
    bool b = false;

    check_int(g, "k.u8", 200);
    check_int(g, "k.i8", -5);
    check_int(g, "k.u16", 60000);
    check_int(g, "k.i16", -300);
    check_int(g, "k.u32", 4000000000);
    check_int(g, "k.i32", -70000);
    check_int(g, "k.i64", INT64_MIN);
    assert_int_equal(pg_gguf_get_f32(g, "k.f32", PG_GGUF_REQUIRED, (double[]){0, 1}, &f, NULL), 0);
    assert_true(f == 0.5f);
    assert_int_equal(pg_gguf_get_f32(g, "k.f64", PG_GGUF_REQUIRED, (double[]){0, 1}, &f, NULL), 0);
    assert_true(fabsf(f - 1 / 3.0f) < 1e-7f);
    assert_int_equal(pg_gguf_get_bool(g, "k.true", PG_GGUF_REQUIRED, &b, NULL), 0);
    assert_true(b);
    assert_int_equal(pg_gguf_get_str(g, "k.text", PG_GGUF_REQUIRED, &s, NULL), 0);
    assert_int_equal(s.n, 3);
    assert_memory_equal(s.s, "a\0\xff", 3);
    const struct pg_gguf_key *k = pg_gguf_find(g, "k.strings");
    assert_int_equal(k->n, 3);
    assert_int_equal(pg_gguf_string_at(g, k, 1).n, 0);
    assert_memory_equal(pg_gguf_string_at(g, k, 2).s, "three", 5);
    k = pg_gguf_find(g, "k.i16s");
    assert_true(k->kind == PG_GGUF_ARRAY && k->elem == PG_GGUF_I16 && k->n == 3);
    assert_memory_equal(k->data, "\1\0\2\0\xff\xff", 6);
    assert_null(pg_gguf_find(g, "k.absent"));
}

static void check_good_tensors(const struct pg_gguf *g, size_t header)
{
    const struct pg_gguf_tensor *t = pg_gguf_find_tensor(g, "t.last");
    size_t begin = (header + 31) / 32 * 32;

    assert_int_equal(pg_gguf_n_tensors(g), 3);
    assert_ptr_equal(t, pg_gguf_tensor_at(g, 0));
    assert_int_equal(t->offset, begin + 352);
    assert_int_equal(t->bytes, 96);
    assert_int_equal(t->n_dims, 2);
    assert_true(t->ne[0] == 16 && t->ne[1] == 3 && t->ne[2] == 1 && t->ne[3] == 1);
    assert_int_equal(pg_gguf_find_tensor(g, "t.first")->bytes, 288);
    assert_string_equal(pg_gguf_tensor_at(g, 1)->name, "t.first");
    assert_null(pg_gguf_find_tensor(g, "t"));
}

static void test_good(void **state)
{
    (void)state;
    struct image m = {0};
    struct pg_gguf *g;
    struct pg_err err;
    size_t header = good(&m);

    assert_int_equal(parse(&g, &m, m.n, m.n, &err), 0);
    assert_int_equal(pg_gguf_version(g), 3);
    assert_int_equal(pg_gguf_n_keys(g), 17);
    assert_int_equal(pg_gguf_file_bytes(g), m.n);
    assert_string_equal(pg_gguf_key_at(g, 0)->name, "k.u8");
    check_good_values(g);
    check_good_tensors(g, header);
    assert_true(pg_gguf_heap_bytes(g) >= header && pg_gguf_heap_bytes(g) < 16384);
    pg_gguf_close(g);

    /* Version 2 has the same layout. */
    m.b[4] = 2;
    assert_int_equal(parse(&g, &m, m.n, m.n, &err), 0);
    assert_int_equal(pg_gguf_version(g), 2);
    check_good_values(g);
    pg_gguf_close(g);
    pg_gguf_close(NULL);
    free(m.b);
}

/* ---- typed values that do not fit (what a caller asks for against what the file has) ------------
 */

static void refuses(const struct pg_err *err, int rc, const char *a, const char *b)
{
    assert_int_equal(rc, PG_EFORMAT);
    assert_int_equal(err->code, PG_EFORMAT);
    if (!strstr(err->text, a) || !strstr(err->text, b))
        fail_msg("\"%s\" and \"%s\" are not both in \"%s\"", a, b, err->text);
}

static void test_typed_values(void **state)
{
    (void)state;
    const enum pg_gguf_want must = PG_GGUF_REQUIRED, may = PG_GGUF_OPTIONAL;
    struct image m = {0};
    struct pg_gguf *g;
    struct pg_err e;
    struct pg_str s = {"kept", 4};
    int64_t v = 7;
    float f = 7;
    bool b = true;

    good(&m);
    assert_int_equal(parse(&g, &m, m.n, m.n, &e), 0);
    refuses(&e, pg_gguf_get_int(g, "k.text", must, (int64_t[]){0, 9}, &v, &e), "key k.text",
            "type string");
    refuses(&e, pg_gguf_get_int(g, "k.f32", must, (int64_t[]){0, 9}, &v, &e), "type f32",
            "an integer is wanted");
    refuses(&e, pg_gguf_get_int(g, "k.true", must, (int64_t[]){0, 9}, &v, &e), "type bool",
            "integer");
    refuses(&e, pg_gguf_get_int(g, "k.i16s", must, (int64_t[]){0, 9}, &v, &e), "array of i16s",
            "integer");
    refuses(&e, pg_gguf_get_int(g, "k.i8", must, (int64_t[]){1, 9}, &v, &e), "is -5",
            "1 to 9 is wanted");
    refuses(&e, pg_gguf_get_int(g, "k.u64", must, (int64_t[]){0, INT64_MAX}, &v, &e),
            "is 18446744073709551615", "wanted");
    refuses(&e, pg_gguf_get_int(g, "k.absent", must, (int64_t[]){0, 9}, &v, &e), "k.absent",
            "missing");
    refuses(&e, pg_gguf_get_f32(g, "k.nan", must, (double[]){-1e9, 1e9}, &f, &e), "key k.nan",
            "nan");
    refuses(&e, pg_gguf_get_f32(g, "k.f32", must, (double[]){1, 2}, &f, &e), "is 0.5",
            "1 to 2 is wanted");
    refuses(&e, pg_gguf_get_f32(g, "k.u8", must, (double[]){0, 1e9}, &f, &e), "type u8",
            "a float is wanted");
    refuses(&e, pg_gguf_get_bool(g, "k.u8", must, &b, &e), "type u8", "a bool is wanted");
    refuses(&e, pg_gguf_get_str(g, "k.strings", must, &s, &e), "array of strings", "a string is");
    assert_int_equal(pg_gguf_get_int(g, "k.absent", may, (int64_t[]){0, 9}, &v, &e), 0);
    assert_int_equal(pg_gguf_get_f32(g, "k.absent", may, (double[]){0, 9}, &f, &e), 0);
    assert_int_equal(pg_gguf_get_bool(g, "k.absent", may, &b, &e), 0);
    assert_int_equal(pg_gguf_get_str(g, "k.absent", may, &s, &e), 0);
    assert_true(v == 7 && f == 7 && b && s.n == 4);
    pg_gguf_close(g);
    free(m.b);
}

static void test_tensor_shapes(void **state)
{
    (void)state;
    struct image m = {0};
    struct pg_gguf *g;
    struct pg_err e;
    const struct pg_gguf_tensor *t;
    int rc;

    good(&m);
    assert_int_equal(parse(&g, &m, m.n, m.n, &e), 0);
    assert_int_equal(pg_gguf_get_tensor(g, "t.last", PG_GGUF_REQUIRED, (int64_t[4]){16, 3}, &t, &e),
                     0);
    assert_string_equal(t->name, "t.last");
    /* A dimension of 1 at the end may be there or not. */
    assert_int_equal(pg_gguf_get_tensor(g, "t.middle", PG_GGUF_REQUIRED, (int64_t[4]){1}, &t, &e),
                     0);
    assert_int_equal(
        pg_gguf_get_tensor(g, "t.first", PG_GGUF_REQUIRED, (int64_t[4]){512, 1, 1, 1}, &t, &e), 0);
    rc = pg_gguf_get_tensor(g, "t.last", PG_GGUF_REQUIRED, (int64_t[4]){16, 4}, &t, &e);
    refuses(&e, rc, "tensor t.last: shape [16, 3]", "[16, 4] is wanted");
    assert_null(t);
    rc = pg_gguf_get_tensor(g, "t.none", PG_GGUF_REQUIRED, (int64_t[4]){16}, &t, &e);
    refuses(&e, rc, "tensor t.none", "missing");
    assert_int_equal(pg_gguf_get_tensor(g, "t.none", PG_GGUF_OPTIONAL, (int64_t[4]){16}, &t, &e),
                     0);
    assert_null(t);
    pg_gguf_close(g);
    free(m.b);
}

/* ---- prefixes ----------------------------------------------------------------------------------
 */

static void test_every_prefix(void **state)
{
    (void)state;
    struct image m = {0};
    struct pg_gguf *g;
    struct pg_err err;
    size_t header = good(&m);

    for (size_t n = 0; n < m.n; n++) {
        /* A file that ends here. */
        assert_true(parse(&g, &m, n, n, &err) < 0);
        assert_null(g);
        /* The beginning of the whole file: enough once it holds the header. */
        int rc = parse(&g, &m, n, m.n, &err);
        assert_int_equal(rc, n < header ? PG_EFORMAT : 0);
        if (rc)
            assert_non_null(strstr(err.text, "goes on"));
        pg_gguf_close(g);
    }
    free(m.b);
}

static void test_prefixes_of_models(void **state)
{
    (void)state;
    static const char *const paths[] = {PG_TEST_DATA "/gguf_moe/qwen_moe_tiny.gguf",
                                        PG_TEST_DATA "/stories260K/stories260K.gguf"};

    for (size_t i = 0; i < PG_COUNT(paths); i++) {
        static char bytes[40000];
        FILE *f = fopen(paths[i], "rb");
        assert_non_null(f);
        struct image m = {.b = bytes, .n = fread(bytes, 1, sizeof(bytes), f)};
        fclose(f);
        int n_good = 0;
        for (size_t n = 0; n < m.n; n += 61) {
            struct pg_gguf *g;
            n_good += parse(&g, &m, n, 1u << 30, NULL) == 0;
            pg_gguf_close(g);
        }
        assert_true(n_good > 0);
    }
}

/* ---- a million names ---------------------------------------------------------------------------
 */

#define MANY 1000000

static void many_tensors(struct image *m, bool twice)
{
    char name[32];

    head(m, 3, MANY + (twice ? 1 : 0), 0);
    for (int i = 0; i < MANY; i++) {
        snprintf(name, sizeof(name), "t%d", i);
        tensor(m, name, PG_TYPE_F32, 8, 0, (uint64_t)i * 32);
    }
    if (twice)
        tensor(m, "t0", PG_TYPE_F32, 8, 0, (uint64_t)MANY * 32);
}

static void test_many_names(void **state)
{
    (void)state;
    struct image m = {0};
    struct pg_gguf *g;
    struct pg_err err;

    many_tensors(&m, true);
    assert_int_equal(parse(&g, &m, m.n, m.n + MANY * 33ull, &err), PG_EFORMAT);
    assert_non_null(strstr(err.text, "tensor t0: occurs twice"));
    m.n = 0;
    many_tensors(&m, false);
    assert_int_equal(parse(&g, &m, m.n, m.n + MANY * 33ull, &err), 0);
    assert_int_equal(pg_gguf_n_tensors(g), MANY);
    assert_non_null(pg_gguf_find_tensor(g, "t999999"));
    assert_true(pg_gguf_heap_bytes(g) < 8 * m.n);
    pg_gguf_close(g);
    free(m.b);
}

/* ---- files on disk -----------------------------------------------------------------------------
 */

static void fill(char *p, size_t n, unsigned seed)
{
    for (size_t i = 0; i < n; i++)
        p[i] = (char)(seed = seed * 1103515245 + 12345);
}

static void check_written(const char *path, const char *want_a, const char *want_b)
{
    struct pg_gguf *g;
    struct pg_err err;
    char bytes[4096];
    float f = 0;
    bool b = false;

    assert_int_equal(pg_gguf_open(&g, path, &err), 0);
    check_int(g, "w.u32", 77);
    assert_int_equal(pg_gguf_get_f32(g, "w.f32", PG_GGUF_REQUIRED, (double[]){0, 2}, &f, &err), 0);
    assert_int_equal(pg_gguf_get_bool(g, "w.bool", PG_GGUF_REQUIRED, &b, &err), 0);
    assert_true(f == 1.5f && b);
    const struct pg_gguf_key *k = pg_gguf_find(g, "w.strs");
    assert_int_equal(k->n, 2);
    assert_int_equal(pg_gguf_string_at(g, k, 0).n, 2);
    assert_memory_equal(pg_gguf_string_at(g, k, 1).s, "xyz", 3);
    assert_memory_equal(pg_gguf_find(g, "w.i32s")->data, ((int32_t[]){-1, 2, 3}), 12);
    assert_memory_equal(pg_gguf_find(g, "w.f32s")->data, ((float[]){0.25f, -4}), 8);

    FILE *file = fopen(path, "rb");
    const struct pg_gguf_tensor *t = pg_gguf_find_tensor(g, "a.weight");
    assert_int_equal(t->bytes, 84);
    assert_int_equal(t->offset % 32, 0);
    fseek(file, (long)t->offset, SEEK_SET);
    assert_int_equal(fread(bytes, 1, 84, file), 84);
    assert_memory_equal(bytes, want_a, 84);
    t = pg_gguf_find_tensor(g, "b.weight");
    assert_int_equal(t->bytes, 34 * 2 * 3);
    fseek(file, (long)t->offset, SEEK_SET);
    assert_int_equal(fread(bytes, 1, t->bytes, file), t->bytes);
    assert_memory_equal(bytes, want_b, t->bytes);
    fclose(file);
    pg_gguf_close(g);
}

static void write_keys(struct pg_gguf_writer *w)
{
    const struct pg_str strs[] = {{"\0\1", 2}, {"xyz", 3}};
    struct pg_err err;

    assert_int_equal(pg_gguf_writer_u32(w, "w.u32", 77, &err), 0);
    assert_int_equal(pg_gguf_writer_f32(w, "w.f32", 1.5f, &err), 0);
    assert_int_equal(pg_gguf_writer_bool(w, "w.bool", true, &err), 0);
    assert_int_equal(pg_gguf_writer_str(w, "w.str", "text", &err), 0);
    assert_int_equal(pg_gguf_writer_strs(w, "w.strs", strs, 2, &err), 0);
    assert_int_equal(pg_gguf_writer_i32s(w, "w.i32s", (int32_t[]){-1, 2, 3}, 3, &err), 0);
    assert_int_equal(pg_gguf_writer_f32s(w, "w.f32s", (float[]){0.25f, -4}, 2, &err), 0);
}

static void test_round_trip(void **state)
{
    (void)state;
    const char *path = IN_DIR("round.gguf");
    struct pg_gguf_writer *w;
    struct pg_err err;
    char bytes[84 + 204];

    fill(bytes, sizeof(bytes), 1);
    for (size_t piece = 1; piece <= sizeof(bytes); piece = piece * 3 + 1) {
        assert_int_equal(pg_gguf_writer_open(&w, path, &err), 0);
        write_keys(w);
        assert_int_equal(
            pg_gguf_writer_tensor(w, "a.weight", PG_TYPE_F32, 1, (int64_t[]){21}, &err), 0);
        assert_int_equal(
            pg_gguf_writer_tensor(w, "b.weight", PG_TYPE_Q8_0, 3, (int64_t[]){32, 2, 3}, &err), 0);
        for (size_t at = 0; at < sizeof(bytes); at += piece)
            assert_int_equal(
                pg_gguf_writer_data(w, bytes + at, PG_MIN(piece, sizeof(bytes) - at), &err), 0);
        assert_int_equal(pg_gguf_writer_commit(w, &err), 0);
        check_written(path, bytes, bytes + 84);
    }
    unlink(path);
}

/* The same by the image of the data: each tensor and the zeros behind it, begun at any multiple. */
static void test_round_trip_streamed(void **state)
{
    (void)state;
    const char *path = IN_DIR("streamed.gguf");
    char bytes[84 + 204];

    fill(bytes, sizeof(bytes), 2);
    for (uint32_t align = 32; align <= PG_PAGE; align *= 2) {
        const size_t second = (84 + align - 1) / align * align;
        const size_t n = second + (204 + align - 1) / align * align;
        struct pg_gguf_writer *w;
        struct pg_err err;
        uint64_t at;
        char *image = calloc(1, n);
        memcpy(image, bytes, 84);
        memcpy(image + second, bytes + 84, 204);
        assert_int_equal(pg_gguf_writer_open(&w, path, &err), 0);
        write_keys(w);
        assert_int_equal(pg_gguf_writer_align(w, align, &err), 0);
        assert_int_equal(
            pg_gguf_writer_tensor(w, "a.weight", PG_TYPE_F32, 1, (int64_t[]){21}, &err), 0);
        assert_int_equal(
            pg_gguf_writer_tensor(w, "b.weight", PG_TYPE_Q8_0, 3, (int64_t[]){32, 2, 3}, &err), 0);
        assert_int_equal(pg_gguf_writer_start(w, &at, &err), 0);
        assert_int_equal(at % align, 0);
        assert_int_equal(pg_gguf_writer_image(w, image, 100, &err), 0);
        assert_int_equal(pg_gguf_writer_image(w, image + 100, n - 100, &err), 0);
        assert_int_equal(pg_gguf_writer_commit(w, &err), 0);
        check_written(path, bytes, bytes + 84);
        free(image);
        /* Cut short: no file. */
        assert_int_equal(pg_gguf_writer_open(&w, path, &err), 0);
        assert_int_equal(
            pg_gguf_writer_tensor(w, "a.weight", PG_TYPE_F32, 1, (int64_t[]){21}, &err), 0);
        assert_int_equal(pg_gguf_writer_start(w, &at, &err), 0);
        assert_int_equal(pg_gguf_writer_image(w, bytes, 84, &err), 0);
        assert_int_equal(pg_gguf_writer_commit(w, &err), PG_EARG);
    }
    unlink(path);
}

static void test_copied_keys(void **state)
{
    (void)state;
    const char *path = IN_DIR("copy.gguf");
    struct image m = {0};
    struct pg_gguf *g;
    struct pg_gguf_writer *w;
    struct pg_err err;

    good(&m);
    assert_int_equal(parse(&g, &m, m.n, m.n, &err), 0);
    assert_int_equal(pg_gguf_writer_open(&w, path, &err), 0);
    for (int i = 0; i < pg_gguf_n_keys(g); i++)
        assert_int_equal(pg_gguf_writer_copy(w, pg_gguf_key_at(g, i), &err), 0);
    assert_int_equal(pg_gguf_writer_copy(w, pg_gguf_key_at(g, 0), &err), PG_EARG); /* twice */
    assert_int_equal(pg_gguf_writer_commit(w, &err), 0);
    pg_gguf_close(g);
    assert_int_equal(pg_gguf_open(&g, path, &err), 0);
    assert_int_equal(pg_gguf_n_keys(g), 17);
    check_good_values(g);
    pg_gguf_close(g);
    unlink(path);
    free(m.b);
}

static void test_writer_refuses(void **state)
{
    (void)state;
    const char *path = IN_DIR("refused.gguf");
    struct pg_gguf_writer *w;
    struct pg_err e;
    char long_name[80] = {0};

    memset(long_name, 'n', 64);
    assert_int_equal(pg_gguf_writer_open(&w, path, &e), 0);
    assert_int_equal(pg_gguf_writer_u32(w, "a", 1, &e), 0);
    assert_int_equal(pg_gguf_writer_u32(w, "a", 1, &e), PG_EARG);
    assert_non_null(strstr(e.text, "a: is added twice"));
    assert_int_equal(pg_gguf_writer_str(w, "with space", "", &e), PG_EARG);
    assert_int_equal(pg_gguf_writer_u32(w, "general.alignment", 64, &e), PG_EARG);
    int64_t ne[] = {32, 1, 1, 1, 1};
    assert_int_equal(pg_gguf_writer_tensor(w, long_name, PG_TYPE_F32, 1, ne, &e), PG_EARG);
    assert_int_equal(pg_gguf_writer_tensor(w, "t", PG_TYPE_F32, 5, ne, &e), PG_EARG);
    assert_int_equal(pg_gguf_writer_tensor(w, "t", PG_TYPE_Q4_K, 1, ne, &e), PG_EFORMAT);
    assert_int_equal(pg_gguf_writer_tensor(w, "t", (enum pg_type)23, 1, ne, &e), PG_ENOTSUP);
    assert_int_equal(pg_gguf_writer_tensor(w, "t", PG_TYPE_Q8_0, 1, ne, &e), 0);
    assert_int_equal(pg_gguf_writer_tensor(w, "t", PG_TYPE_Q8_0, 1, ne, &e), PG_EARG);
    assert_int_equal(pg_gguf_writer_data(w, long_name, 33, &e), 0);
    assert_int_equal(pg_gguf_writer_u32(w, "late", 1, &e), PG_EARG);
    assert_int_equal(pg_gguf_writer_data(w, long_name, 2, &e), PG_EARG);
    pg_gguf_writer_abandon(w);
    assert_int_not_equal(access(path, F_OK), 0);

    /* Data that is missing at the end: no file, and no temporary file. */
    assert_int_equal(pg_gguf_writer_open(&w, path, &e), 0);
    assert_int_equal(pg_gguf_writer_tensor(w, "t", PG_TYPE_Q8_0, 1, ne, &e), 0);
    assert_int_equal(pg_gguf_writer_data(w, long_name, 33, &e), 0);
    assert_int_equal(pg_gguf_writer_commit(w, &e), PG_EARG);
    assert_non_null(strstr(e.text, "33 bytes"));
    assert_int_equal(rmdir(test_dir), 0);
    assert_int_equal(mkdir(test_dir, 0700), 0);
    assert_int_equal(pg_gguf_writer_open(&w, IN_DIR("none/x.gguf"), &e), PG_EIO);
    assert_non_null(strstr(e.text, "No such file"));
    pg_gguf_writer_abandon(NULL);
}

static void open_fails(const char *path, int code, const char *words)
{
    struct pg_gguf *g;
    struct pg_err err;

    assert_int_equal(pg_gguf_open(&g, path, &err), code);
    assert_null(g);
    says(err.text, words);
}

static void test_open(void **state)
{
    (void)state;
    const char *path = IN_DIR("file.gguf");
    struct image m = {0};
    struct pg_gguf *g;
    struct pg_err err;
    size_t header = good(&m);

    open_fails(path, PG_EIO, "cannot be opened: No such file");
    open_fails(test_dir, PG_EARG, "not a regular file");
    assert_int_equal(mkfifo(path, 0600), 0);
    open_fails(path, PG_EARG, "not a regular file");
    unlink(path);
    put_file(path, "", 0);
    open_fails(path, PG_EFORMAT, "is empty");
    put_file(path, m.b, m.n - 1);
    open_fails(path, PG_EFORMAT, "t.last: 96 bytes");
    put_file(path, m.b, header);
    open_fails(path, PG_EFORMAT, "reach beyond");
    put_file(path, m.b, m.n);
    assert_int_equal(pg_gguf_open(&g, path, &err), 0);
    check_good_values(g);
    check_good_tensors(g, header);
    assert_string_equal(pg_gguf_part_path(g, 0), path);
    pg_gguf_close(g);
    free(m.b);

    /* A header that is longer than the first read, with a string across each border. */
    m = (struct image){0};
    head(&m, 3, 0, 1);
    key_array(&m, "tokens", PG_GGUF_STRING, 200000);
    for (int i = 0; i < 200000; i++)
        put_str(&m, "seven b");
    put_file(path, m.b, m.n);
    assert_int_equal(pg_gguf_open(&g, path, &err), 0);
    assert_memory_equal(pg_gguf_string_at(g, pg_gguf_find(g, "tokens"), 199999).s, "seven b", 7);
    assert_true(pg_gguf_heap_bytes(g) < 3 * m.n);
    pg_gguf_close(g);
    free(m.b);
    unlink(path);
}

/* A sparse file may claim gigabytes of strings: it is refused before memory is spent on it. */
static void test_sparse_claim(void **state)
{
    (void)state;
    const char *path = IN_DIR("sparse.gguf");
    struct image m = {0};

    head(&m, 3, 0, 1);
    key(&m, "general.name", PG_GGUF_STRING);
    put_u64(&m, 1ull << 36);
    put_file(path, m.b, m.n);
    assert_int_equal(truncate(path, 1ll << 37), 0);
    open_fails(path, PG_EFORMAT, "a header of at most 268435456");
    unlink(path);
    free(m.b);
}

/* ---- split sets --------------------------------------------------------------------------------
 */

struct shard {
    int no, count, n_tensors; /* what its keys say; n_tensors -1: no key */
    const char *model, *tensor[3];
};

static void write_shard(const char *name, const struct shard *s)
{
    struct pg_gguf_writer *w;
    struct pg_err err;
    char bytes[32];

    fill(bytes, sizeof(bytes), (unsigned)s->no);
    assert_int_equal(pg_gguf_writer_open(&w, IN_DIR(name), &err), 0);
    if (s->model)
        assert_int_equal(pg_gguf_writer_str(w, "general.name", s->model, &err), 0);
    assert_int_equal(pg_gguf_writer_u32(w, "split.no", (uint32_t)s->no, &err), 0);
    assert_int_equal(pg_gguf_writer_u32(w, "split.count", (uint32_t)s->count, &err), 0);
    if (s->n_tensors >= 0)
        assert_int_equal(pg_gguf_writer_u32(w, "split.tensors.count", (uint32_t)s->n_tensors, &err),
                         0);
    for (int i = 0; i < 3 && s->tensor[i]; i++)
        assert_int_equal(
            pg_gguf_writer_tensor(w, s->tensor[i], PG_TYPE_F32, 1, (int64_t[]){8}, &err), 0);
    for (int i = 0; i < 3 && s->tensor[i]; i++)
        assert_int_equal(pg_gguf_writer_data(w, bytes, 32, &err), 0);
    assert_int_equal(pg_gguf_writer_commit(w, &err), 0);
}

static const struct shard shard_1 = {0, 3, 5, "alpha", {"a", "b"}};
static const struct shard shard_2 = {1, 3, 5, NULL, {"c"}};
static const struct shard shard_3 = {2, 3, 5, "alpha", {"d", "e"}};

static void write_set(void)
{
    write_shard("m-00001-of-00003.gguf", &shard_1);
    write_shard("m-00002-of-00003.gguf", &shard_2);
    write_shard("m-00003-of-00003.gguf", &shard_3);
}

static void test_split_good(void **state)
{
    (void)state;
    struct pg_gguf *g;
    struct pg_err err;
    char byte;

    write_set();
    assert_int_equal(pg_gguf_open(&g, IN_DIR("m-00001-of-00003.gguf"), &err), 0);
    assert_int_equal(pg_gguf_n_parts(g), 3);
    assert_int_equal(pg_gguf_n_tensors(g), 5);
    assert_int_equal(pg_gguf_find_tensor(g, "b")->part, 0);
    assert_int_equal(pg_gguf_find_tensor(g, "c")->part, 1);
    assert_string_equal(pg_gguf_part_path(g, 2), IN_DIR("m-00003-of-00003.gguf"));
    const struct pg_gguf_tensor *t = pg_gguf_find_tensor(g, "e");
    assert_int_equal(t->part, 2);
    uint64_t sum = 0;
    for (int i = 0; i < 3; i++) {
        struct stat st;
        assert_int_equal(stat(pg_gguf_part_path(g, i), &st), 0);
        sum += (uint64_t)st.st_size;
    }
    assert_int_equal(pg_gguf_file_bytes(g), sum);
    char want[32];
    fill(want, 32, 2);
    FILE *f = fopen(pg_gguf_part_path(g, 2), "rb");
    fseek(f, (long)t->offset, SEEK_SET);
    assert_int_equal(fread(&byte, 1, 1, f), 1);
    assert_int_equal(byte, want[0]);
    fclose(f);
    pg_gguf_close(g);
    /* One from elsewhere, and one of the old version. */
    assert_int_equal(
        pg_gguf_open(&g, PG_TEST_DATA "/gguf_moe/split_qwen-00001-of-00003.gguf", &err), 0);
    assert_int_equal(pg_gguf_n_parts(g), 3);
    pg_gguf_close(g);
    assert_int_equal(pg_gguf_open(&g, PG_TEST_DATA "/gguf_moe/single_mixtral.gguf", &err), 0);
    assert_int_equal(pg_gguf_version(g), 2);
    pg_gguf_close(g);
}

static void test_split_bad(void **state)
{
    (void)state;
    const char *first = "m-00001-of-00003.gguf", *second = "m-00002-of-00003.gguf";
    struct shard s;
    char path[160];

    snprintf(path, sizeof(path), "%s", IN_DIR(first));
    write_set();
    open_fails(IN_DIR(second), PG_EARG, "is file 2 of a set of 3; the first is wanted");
    unlink(IN_DIR(second));
    open_fails(path, PG_EIO, "file 2 of a set of 3: ");
    open_fails(path, PG_EIO, "m-00002-of-00003.gguf: cannot be opened");
    s = shard_2, s.count = 4;
    write_shard(second, &s);
    open_fails(path, PG_EFORMAT, "m-00002-of-00003.gguf: key split.count: is 4");
    s = shard_2, s.no = 2;
    write_shard(second, &s);
    open_fails(path, PG_EFORMAT, "m-00002-of-00003.gguf: key split.no: is 2; 1 is wanted");
    s = shard_2, s.tensor[0] = "b";
    write_shard(second, &s);
    open_fails(path, PG_EFORMAT, "m-00002-of-00003.gguf: tensor b: is already in ");
    s = shard_2, s.model = "beta";
    write_shard(second, &s);
    open_fails(path, PG_EFORMAT, "m-00002-of-00003.gguf: belongs to another model");
    s = shard_2, s.n_tensors = 6;
    write_shard(second, &s);
    open_fails(path, PG_EFORMAT, "m-00002-of-00003.gguf: belongs to another model");
    s = shard_2, s.n_tensors = -1, s.tensor[1] = "f";
    write_shard(second, &s);
    open_fails(path, PG_EFORMAT, "the set has 6 tensors; split.tensors.count wants 5");
    put_file(IN_DIR(second), "GGUF", 4);
    open_fails(path, PG_EFORMAT, "file 2 of a set of 3: ");
    write_set();
    assert_int_equal(rename(path, IN_DIR("m.gguf")), 0);
    open_fails(IN_DIR("m.gguf"), PG_EFORMAT, "does not end in \"-00001-of-00003.gguf\"");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_malformed),           cmocka_unit_test(test_good),
        cmocka_unit_test(test_typed_values),        cmocka_unit_test(test_tensor_shapes),
        cmocka_unit_test(test_every_prefix),        cmocka_unit_test(test_prefixes_of_models),
        cmocka_unit_test(test_many_names),          cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_round_trip_streamed), cmocka_unit_test(test_copied_keys),
        cmocka_unit_test(test_writer_refuses),      cmocka_unit_test(test_open),
        cmocka_unit_test(test_sparse_claim),        cmocka_unit_test(test_split_good),
        cmocka_unit_test(test_split_bad),
    };

    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
