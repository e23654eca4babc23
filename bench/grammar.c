/* SPDX-License-Identifier: MIT
 * What a mask costs: a text of each grammar is written token by token, and each mask is timed, the
 * first time that the matcher sees the text (cold) and after a reset, when it has seen it (warm).
 * Times are of the processor, so that what else runs does not count.
 *
 *     grammar VOCAB.gguf [ROUNDS]
 */
#include "base/os.h"
#include "base/random.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { TOKENS_MAX = 4096 };

struct grammar {
    const char *name, *gbnf, *schema, *text;
};

static const char expression[] =
    "root ::= (statement)+\n"
    "statement ::= identifier ws \"=\" ws expression \";\" ws\n"
    "expression ::= term (ws [-+] ws term)*\n"
    "term ::= factor (ws [*/%] ws factor)*\n"
    "factor ::= identifier call? | number | \"(\" ws expression ws \")\" | string\n"
    "call ::= \"(\" ws (expression (ws \",\" ws expression)*)? ws \")\"\n"
    "identifier ::= [a-zA-Z_] [a-zA-Z_0-9]*\n"
    "number ::= [0-9]+ (\".\" [0-9]+)?\n"
    "string ::= \"\\\"\" char* \"\\\"\"\n"
    "char ::= [^\"\\\\\\n] | \"\\\\\" [\"\\\\nt]\n"
    "ws ::= [ \\t\\n]*\n";

static const char person[] =
    "{\"type\":\"object\",\"properties\":{"
    "\"name\":{\"type\":\"string\",\"minLength\":1},"
    "\"age\":{\"type\":\"integer\",\"minimum\":0,\"maximum\":150},"
    "\"status\":{\"enum\":[\"active\",\"inactive\",\"banned\"]},"
    "\"tags\":{\"type\":\"array\",\"items\":{\"type\":\"string\"},\"maxItems\":8},"
    "\"score\":{\"type\":\"number\"},"
    "\"code\":{\"type\":\"string\",\"pattern\":\"^[A-Z]{2}-[0-9]{4}$\"},"
    "\"address\":{\"type\":\"object\",\"properties\":{\"street\":{\"type\":\"string\"},"
    "\"city\":{\"type\":\"string\",\"maxLength\":40},\"zip\":{\"type\":\"string\"}},"
    "\"required\":[\"street\",\"city\"]},"
    "\"friends\":{\"type\":\"array\",\"items\":{\"$ref\":\"#\"}}},"
    "\"required\":[\"name\",\"age\",\"status\"]}";

static const char person_text[] =
    "{\"name\": \"Ada Lovelace\", \"age\": 36, \"status\": \"active\", \"tags\": [\"mathematics\", "
    "\"engines\", \"notes\"], \"score\": 9.75, \"code\": \"GB-1815\", \"address\": {\"street\": "
    "\"12 St James's Square\", \"city\": \"London\", \"zip\": \"SW1Y 4JH\"}, \"friends\": "
    "[{\"name\": \"Charles \\\"Bab\\\" Babbage\", \"age\": 79, \"status\": \"inactive\", "
    "\"friends\": []}, {\"name\": \"\xc3\x89variste \xe5\x90\x8d\xe5\x89\x8d\", \"age\": 20, "
    "\"status\": \"banned\"}]}";

static const struct grammar grammars[] = {
    {"JSON object", NULL, "", person_text},
    {"nested schema", NULL, person, person_text},
    {"C-like expressions", expression, NULL,
     "total = price * (1 + tax_rate) - discount(\"spring sale\", 0.15); "
     "average = (first_value + second_value + third_value) / 3;\n"
     "area = width * height + offset(x, y, \"left \\\"edge\\\"\");\n"},
    {"string of at most 200", NULL, "{\"type\":\"string\",\"maxLength\":200}",
     "\"The quick brown fox jumps over the lazy dog, and then there was nothing more to be said "
     "about it, said the dog.\""},
    {".*", "root ::= .*", NULL,
     "The quick brown fox jumps over the lazy dog. \xe4\xbd\xa0\xe5\xa5\xbd, said the dog; 3.14 "
     "times!\n\nAnd then there was nothing more to be said about it."},
};

static uint64_t cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static void print_times(const char *what, double *us, int n)
{
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += us[i];
    qsort(us, (size_t)n, sizeof(*us), by_value);
    printf(" | %s %.1f | %.1f | %.1f | %.1f", what, us[n / 2], us[n * 99 / 100], us[n - 1],
           sum / n);
}

/* Times each mask of the text; returns how many. */
static int write_text(pg_matcher *m, const struct pg_ids *ids, uint32_t *bits, double *us)
{
    struct pg_err err;
    for (size_t i = 0; i < ids->n; i++) {
        uint64_t begin = cpu_ns();
        if (pg_matcher_mask(m, bits, &err)) {
            printf("%s\n", err.text);
            exit(1);
        }
        us[i] = (double)(cpu_ns() - begin) * 1e-3;
        int32_t id = ids->id[i];
        if (!(bits[id / 32] >> (id % 32) & 1) || pg_matcher_accept(m, id, &err)) {
            printf("token %d at %zu is not allowed\n", (int)id, i);
            exit(1);
        }
    }
    return (int)ids->n;
}

static void measure(const pg_vocab *v, const struct grammar *g, int rounds)
{
    int32_t id[TOKENS_MAX];
    double cold[TOKENS_MAX], *warm = calloc((size_t)rounds * TOKENS_MAX, sizeof(*warm));
    uint32_t *bits = calloc(((size_t)pg_vocab_n(v) + 31) / 32, sizeof(*bits));
    struct pg_ids ids = {id, TOKENS_MAX, 0};
    struct pg_err err = {0};
    pg_grammar *grammar = NULL;
    pg_matcher *m = NULL;
    uint64_t begin = cpu_ns();
    int rc = g->gbnf ? pg_grammar_open(&grammar, g->gbnf, strlen(g->gbnf), &err)
                     : pg_grammar_of_schema(&grammar, g->schema, strlen(g->schema), &err);
    uint64_t made = cpu_ns();
    rc = rc || pg_matcher_open(&m, grammar, v, &err) ||
         pg_tokenize(v, g->text, strlen(g->text), 0, &ids, &err);
    if (rc || !warm || !bits) {
        printf("%s: %s\n", g->name, err.text);
        exit(1);
    }
    uint64_t opened = cpu_ns();
    int n_warm = 0, n_cold = write_text(m, &ids, bits, cold);
    for (int i = 0; i < rounds; i++) {
        pg_matcher_reset(m);
        n_warm += write_text(m, &ids, bits, warm + n_warm);
    }
    printf("%s | %d", g->name, n_cold);
    print_times("cold", cold, n_cold);
    print_times("warm", warm, n_warm);
    printf(" | grammar %.2f ms, matcher %.2f ms, %.2f MiB\n", (double)(made - begin) * 1e-6,
           (double)(opened - made) * 1e-6,
           (double)pg_matcher_bytes(grammar, v) / (double)(1 << 20));
    pg_matcher_close(m);
    pg_grammar_close(grammar);
    free(bits);
    free(warm);
}

int main(int argc, char **argv)
{
    struct pg_err err;
    pg_vocab *v;
    int rounds = argc > 2 ? atoi(argv[2]) : 20;
    if (argc < 2 || rounds < 1) {
        fprintf(stderr, "usage: grammar VOCAB.gguf [ROUNDS]\n");
        return 2;
    }
    if (pg_vocab_open(&v, argv[1], &err)) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    uint64_t begin = cpu_ns();
    uint64_t bytes = pg_matcher_bytes(NULL, v);
    printf("%d tokens, as a tree %.2f MiB in %.1f ms\n", pg_vocab_n(v), (double)bytes / (1 << 20),
           (double)(cpu_ns() - begin) * 1e-6);
    printf("grammar | masks | median, p99, largest, mean, us\n");
    for (size_t i = 0; i < PG_COUNT(grammars); i++)
        measure(v, &grammars[i], rounds);
    pg_vocab_close(v);
    return 0;
}
