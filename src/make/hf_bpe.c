/* SPDX-License-Identifier: MIT
 * Byte-level BPE as it was before tokenizer.json: vocab.json (texts to ids), merges.txt (a pair a
 * line, the first is merged first) and added_tokens.json. None of them says how text is cut into
 * words, so that is known from the kind of the tokenizer, or of the model.
 */
#include "make/hf_vocab.h"

#include "base/os.h"
#include "format/json.h"
#include "make/hf_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------ how text is cut --------- */

static const struct {
    const char *class, *rule; /* tokenizer_config.json's, llama.cpp's name */
} rules[] = {
    {"Qwen2Tokenizer", "qwen2"},
    {"Qwen2TokenizerFast", "qwen2"},
    {"GPT2Tokenizer", "gpt-2"},
    {"GPT2TokenizerFast", "gpt-2"},
};

static int rule_of_class(struct pg_hf_vocab *v, const char *path, const json_t *class,
                         struct pg_err *err)
{
    const char *name = json_is_string(class) ? json_string_value(class) : "no text";
    for (size_t i = 0; i < PG_COUNT(rules); i++)
        if (!strcmp(name, rules[i].class)) {
            snprintf(v->rule, sizeof(v->rule), "%s", rules[i].rule);
            return 0;
        }
    return pg_fail(
        err, PG_ENOTSUP,
        "%s: tokenizer_class: '%s' found; how text is cut is known of Qwen2Tokenizer and "
        "GPT2Tokenizer, of others a tokenizer.json is wanted",
        path, pg_quote(name, strlen(name)).s);
}

static int rule_of_family(struct pg_hf_vocab *v, const struct pg_hf *f, struct pg_err *err)
{
    if (strncmp(f->family->model_type, "qwen", 4) != 0)
        return pg_fail(
            err, PG_ENOTSUP,
            "%s: vocab.json and merges.txt: how text is cut is not known of '%s' models; "
            "a tokenizer.json, or tokenizer_class in tokenizer_config.json, is wanted",
            f->folder, f->family->model_type);
    strcpy(v->rule, "qwen2");
    return 0;
}

static int find_rule(struct pg_hf_vocab *v, const struct pg_hf *f, struct pg_err *err)
{
    char path[PG_HF_PATH];
    json_t *root;
    if (!pg_hf_path(f, "tokenizer_config.json", path))
        return rule_of_family(v, f, err);
    PG_TRY(pg_json_load(&root, path, err));
    const json_t *class = json_object_get(root, "tokenizer_class");
    int rc = class ? rule_of_class(v, path, class, err) : rule_of_family(v, f, err);
    json_decref(root);
    return rc;
}

/* ------------------------------------------------------------------ texts ------------------- */

/* A file {"text": id}; type 0: of what it looks like. */
static int put_texts(struct pg_hf_vocab *v, const char *path, json_t *map, int type,
                     struct pg_err *err)
{
    const char *text;
    json_t *id;
    if (!json_is_object(map))
        return pg_fail(err, PG_EFORMAT, "%s: {\"text\": id, ...} is wanted", path);
    json_object_foreach(map, text, id)
    {
        const size_t n = strlen(text);
        const long long at = json_integer_value(id); /* 0 where it is none */
        if (!json_is_integer(id))
            return pg_fail(err, PG_EFORMAT, "%s: the id of '%s' is no whole number", path,
                           pg_quote(text, n).s);
        if (at >= 0 && at < v->n && v->text[at] && strcmp(v->text[at], text) != 0)
            return pg_fail(err, PG_EFORMAT, "%s: '%s' has the id %lld, which is that of '%s'", path,
                           pg_quote(text, n).s, at, pg_quote(v->text[at], strlen(v->text[at])).s);
        const bool control = n > 4 && !strncmp(text, "<|", 2) && !strcmp(text + n - 2, "|>");
        const struct pg_hf_token t = {.id = at,
                                      .text = {text, n},
                                      .type = type      ? type
                                              : control ? PG_HF_CONTROL
                                                        : PG_HF_USER};
        PG_TRY(pg_hf_vocab_put(v, path, &t, err));
    }
    return 0;
}

static int read_texts(struct pg_hf_vocab *v, const char *path, int type, struct pg_err *err)
{
    json_t *root;
    PG_TRY(pg_json_load(&root, path, err));
    int rc = put_texts(v, path, root, type, err);
    if (!rc && type == PG_HF_NORMAL && !json_object_size(root))
        rc = pg_fail(err, PG_EFORMAT, "%s: has no tokens", path);
    json_decref(root);
    return rc;
}

/* ------------------------------------------------------------------ merges ------------------ */

static int put_line(struct pg_hf_vocab *v, const char *path, size_t *cap, struct pg_str line,
                    struct pg_err *err)
{
    const char *space = memchr(line.s, ' ', line.n);
    const size_t left = space ? (size_t)(space - line.s) : 0;
    if (!left || left + 1 == line.n || memchr(space + 1, ' ', line.n - left - 1) ||
        memchr(line.s, 0, line.n))
        return pg_fail(err, PG_EFORMAT,
                       "%s: merge %zu is '%s', two texts with a space between wanted", path,
                       v->n_merges, pg_quote(line.s, line.n).s);
    char *copy = strndup(line.s, line.n);
    if (!copy || pg_reserve(&v->merges, cap, v->n_merges + 1, sizeof(*v->merges))) {
        free(copy);
        return pg_fail(err, PG_ENOMEM, "%s: out of memory", path);
    }
    v->merges[v->n_merges++] = (struct pg_str){copy, line.n};
    return 0;
}

static int read_lines(struct pg_hf_vocab *v, const char *path, FILE *in, struct pg_err *err)
{
    char *line = NULL;
    size_t room = 0, cap = 0;
    ssize_t n;
    int rc = 0;
    for (int i = 0; !rc && (n = getline(&line, &room, in)) >= 0; i++) {
        while (n > 0 && (line[n - 1] == '\n' || line[n - 1] == '\r'))
            n--;
        if (n > 0 && (i || strncmp(line, "#version", 8) != 0))
            rc = put_line(v, path, &cap, (struct pg_str){line, (size_t)n}, err);
    }
    free(line);
    if (!rc && ferror(in))
        rc = pg_fail(err, PG_EIO, "%s: cannot be read", path);
    return !rc && !v->n_merges ? pg_fail(err, PG_EFORMAT, "%s: has no merges", path) : rc;
}

static int read_merges(struct pg_hf_vocab *v, const char *path, struct pg_err *err)
{
    FILE *in;
    PG_TRY(pg_open_text(&in, path, NULL, err));
    int rc = read_lines(v, path, in, err);
    fclose(in);
    return rc;
}

/* ------------------------------------------------------------------ all --------------------- */

int pg_hf_bpe_read(struct pg_hf_vocab *v, const struct pg_hf *f, struct pg_err *err)
{
    char vocab[PG_HF_PATH], merges[PG_HF_PATH], added[PG_HF_PATH];
    const bool one = pg_hf_path(f, "vocab.json", vocab), two = pg_hf_path(f, "merges.txt", merges);
    if (!one && !two)
        return 0;
    if (!one || !two)
        return pg_fail(err, PG_EIO, "%s: is missing; %s alone is no vocabulary",
                       one ? merges : vocab, one ? "vocab.json" : "merges.txt");
    PG_TRY(find_rule(v, f, err));
    PG_TRY(read_texts(v, vocab, PG_HF_NORMAL, err));
    PG_TRY(read_merges(v, merges, err));
    if (pg_hf_path(f, "added_tokens.json", added))
        PG_TRY(read_texts(v, added, 0, err));
    strcpy(v->model, "gpt2");
    return 0;
}
