/* SPDX-License-Identifier: MIT
 * pregate inspect: what a GGUF file holds.
 */
#include "cli.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define TYPES_MAX 48

struct type_tally {
    const char *type;
    int count;
    uint64_t bytes;
};

static int tally_types(const pg_file *f, struct type_tally *tally)
{
    int n = 0;
    for (int i = 0; i < pg_file_n_tensors(f); i++) {
        struct pg_file_tensor t;
        int at = 0;
        pg_file_tensor_at(f, i, &t);
        while (at < n && strcmp(tally[at].type, t.type))
            at++;
        if (at == TYPES_MAX)
            continue;
        if (at == n)
            tally[n++] = (struct type_tally){.type = t.type};
        tally[at].count++;
        tally[at].bytes += t.bytes;
    }
    return n;
}

/* Keys of the file come from anywhere: nothing of them reaches a terminal raw. */
static void print_padded(const char *text, int width)
{
    const size_t n = strlen(text);
    cli_print_safe(stdout, text, n);
    for (int i = (int)n; i < width; i++)
        putchar(' ');
}

static void print_keys(const pg_file *f, bool all)
{
    int width = 0;
    struct pg_file_key k;
    for (int i = 0; i < pg_file_n_keys(f); i++) {
        pg_file_key_at(f, i, &k);
        if (strlen(k.name) > (size_t)width && strlen(k.name) < 60)
            width = (int)strlen(k.name);
    }
    for (int i = 0; i < pg_file_n_keys(f); i++) {
        pg_file_key_at(f, i, &k);
        const bool is_array = !strncmp(k.type, "array", 5);
        if (!all && is_array)
            continue;
        fputs("  ", stdout);
        print_padded(k.name, width + 2);
        if (all)
            print_padded(k.type, 16);
        cli_print_safe(stdout, k.value, strlen(k.value));
        if (is_array)
            printf("  (%" PRIu64 " elements)", k.n);
        putchar('\n');
    }
}

static void print_tensors(const pg_file *f)
{
    for (int i = 0; i < pg_file_n_tensors(f); i++) {
        struct pg_file_tensor t;
        char size[16], shape[96] = "";
        pg_file_tensor_at(f, i, &t);
        for (int d = 0; d < t.n_dims && d < 4; d++) {
            const size_t n = strlen(shape);
            snprintf(shape + n, sizeof(shape) - n, d ? " x %" PRId64 : "%" PRId64, t.ne[d]);
        }
        fputs("  ", stdout);
        print_padded(t.name, 34);
        printf(" %-5s %-24s %10s  at %" PRIu64, t.type, shape, cli_size_text(t.bytes, size),
               t.offset);
        if (t.part)
            printf(" of part %d", t.part + 1);
        putchar('\n');
    }
}

static void print_text(const pg_file *f, const struct cli_args *args)
{
    struct type_tally tally[TYPES_MAX];
    char size[16];
    const int n = tally_types(f, tally);
    printf("%s: GGUF version %d, %s, %d keys, %d tensors\n", args->subject, pg_file_version(f),
           cli_size_text(pg_file_bytes(f), size), pg_file_n_keys(f), pg_file_n_tensors(f));
    const bool summary = !args->keys && !args->tensors;
    if (args->keys || summary) {
        puts(summary ? "\nKeys (without the lists):" : "\nKeys:");
        print_keys(f, args->keys);
    }
    if (n) {
        puts("\nWeights by type:");
        for (int i = 0; i < n; i++)
            printf("  %-6s %5d tensors %12s\n", tally[i].type, tally[i].count,
                   cli_size_text(tally[i].bytes, size));
    }
    if (args->tensors) {
        puts("\nTensors:");
        print_tensors(f);
    }
    if (summary)
        puts("\n--keys and --tensors list everything.");
}

static json_t *json_of_text(const char *text)
{
    return cli_json_text(text, strlen(text));
}

static json_t *json_keys(const pg_file *f)
{
    json_t *list = json_array();
    for (int i = 0; i < pg_file_n_keys(f); i++) {
        struct pg_file_key k;
        pg_file_key_at(f, i, &k);
        json_t *o = json_object();
        json_object_set_new(o, "name", json_of_text(k.name));
        json_object_set_new(o, "type", json_of_text(k.type));
        json_object_set_new(o, "value", json_of_text(k.value));
        json_object_set_new(o, "n", json_integer((json_int_t)k.n));
        json_array_append_new(list, o);
    }
    return list;
}

static json_t *json_tensors(const pg_file *f)
{
    json_t *list = json_array();
    for (int i = 0; i < pg_file_n_tensors(f); i++) {
        struct pg_file_tensor t;
        pg_file_tensor_at(f, i, &t);
        json_t *o = json_object(), *shape = json_array();
        for (int d = 0; d < t.n_dims && d < 4; d++)
            json_array_append_new(shape, json_integer((json_int_t)t.ne[d]));
        json_object_set_new(o, "name", json_of_text(t.name));
        json_object_set_new(o, "type", json_of_text(t.type));
        json_object_set_new(o, "shape", shape);
        json_object_set_new(o, "bytes", json_integer((json_int_t)t.bytes));
        json_object_set_new(o, "offset", json_integer((json_int_t)t.offset));
        json_object_set_new(o, "part", json_integer(t.part));
        json_array_append_new(list, o);
    }
    return list;
}

static json_t *json_types(const pg_file *f)
{
    struct type_tally tally[TYPES_MAX];
    json_t *list = json_array();
    const int n = tally_types(f, tally);
    for (int i = 0; i < n; i++) {
        json_t *o = json_object();
        json_object_set_new(o, "type", json_of_text(tally[i].type));
        json_object_set_new(o, "n_tensors", json_integer(tally[i].count));
        json_object_set_new(o, "bytes", json_integer((json_int_t)tally[i].bytes));
        json_array_append_new(list, o);
    }
    return list;
}

static int print_json(const pg_file *f, const struct cli_args *args)
{
    json_t *o = json_object();
    json_object_set_new(o, "path", json_of_text(args->subject));
    json_object_set_new(o, "version", json_integer(pg_file_version(f)));
    json_object_set_new(o, "bytes", json_integer((json_int_t)pg_file_bytes(f)));
    json_object_set_new(o, "types", json_types(f));
    json_object_set_new(o, "keys", json_keys(f));
    json_object_set_new(o, "tensors", json_tensors(f));
    return cli_json_print(o);
}

int cli_inspect(const struct cli_args *args)
{
    struct pg_err err = {0};
    pg_file *f = NULL;
    if (pg_file_open(&f, args->subject, &err))
        return cli_failed(&err);
    int code = CLI_OK;
    if (args->json)
        code = print_json(f, args);
    else
        print_text(f, args);
    pg_file_close(f);
    return code;
}
