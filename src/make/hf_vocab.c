/* SPDX-License-Identifier: MIT */
#include "make/hf_vocab.h"

#include "base/os.h"
#include "format/json.h"
#include "make/hf_impl.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FILE_MAX = 1 << 28 };

int pg_hf_vocab_put(struct pg_hf_vocab *v, const char *path, const struct pg_hf_token *t,
                    struct pg_err *err)
{
    if (t->id < 0 || t->id >= v->n)
        return pg_fail(err, PG_EFORMAT, "%s: token %lld, the model has %d", path, (long long)t->id,
                       v->n);
    if (memchr(t->text.s, 0, t->text.n) || !isfinite(t->score))
        return pg_fail(err, PG_EFORMAT, "%s: token %lld: a zero byte in it, or no score", path,
                       (long long)t->id);
    char *copy = malloc(t->text.n + 1);
    if (!copy)
        return pg_fail(err, PG_ENOMEM, "out of memory");
    memcpy(copy, t->text.s, t->text.n);
    copy[t->text.n] = 0;
    free(v->text[t->id]);
    v->text[t->id] = copy;
    v->score[t->id] = t->score;
    v->type[t->id] = t->type;
    return 0;
}

/* ------------------------------------------------------------------ files ------------------- */

static int read_whole(const char *path, uint8_t **data, size_t *n, struct pg_err *err)
{
    FILE *in;
    size_t cap = 0;
    int rc = pg_open_text(&in, path, NULL, err);
    *data = NULL;
    *n = 0;
    while (!rc) {
        if (*n > FILE_MAX)
            rc = pg_fail(err, PG_EFORMAT, "%s: more than %d bytes", path, FILE_MAX);
        else if (pg_reserve(data, &cap, *n + 65536, 1))
            rc = pg_fail(err, PG_ENOMEM, "%s: out of memory", path);
        if (rc)
            break;
        size_t got = fread(*data + *n, 1, 65536, in);
        *n += got;
        if (!got) {
            rc = ferror(in) ? pg_fail(err, PG_EIO, "%s: cannot be read", path) : 0;
            break;
        }
    }
    if (in)
        fclose(in);
    return rc;
}

/* ------------------------------------------------------------------ added tokens ------------ */

static int add_token(struct pg_hf_vocab *v, const char *path, int64_t id, const json_t *t,
                     struct pg_err *err)
{
    const json_t *content = json_object_get(t, "content");
    const bool special = json_is_true(json_object_get(t, "special"));
    if (!json_is_string(content))
        return pg_fail(err, PG_EFORMAT, "%s: added token %lld has no content", path, (long long)id);
    if (id >= 0 && id < v->n && v->text[id] && v->type[id] == PG_HF_UNKNOWN)
        return 0;
    const struct pg_hf_token put = {
        .id = id,
        .text = {json_string_value(content), json_string_length(content)},
        .score = id >= 0 && id < v->n ? v->score[id] : 0,
        .type = special ? PG_HF_CONTROL : PG_HF_USER};
    return pg_hf_vocab_put(v, path, &put, err);
}

static int add_list(struct pg_hf_vocab *v, const char *path, const json_t *list, struct pg_err *err)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *t = json_array_get(list, i), *id = json_object_get(t, "id");
        PG_TRY(add_token(v, path, json_is_integer(id) ? json_integer_value(id) : -1, t, err));
    }
    return 0;
}

/* tokenizer_config.json: {"32000": {"content": …}} */
static int add_map(struct pg_hf_vocab *v, const char *path, json_t *map, struct pg_err *err)
{
    const char *key;
    json_t *t;
    json_object_foreach(map, key, t) PG_TRY(add_token(v, path, strtoll(key, NULL, 10), t, err));
    return 0;
}

static int read_added(struct pg_hf_vocab *v, const struct pg_hf *f, struct pg_err *err)
{
    char path[PG_HF_PATH];
    json_t *root;
    int rc;
    if (pg_hf_path(f, "tokenizer.json", path)) {
        PG_TRY(pg_json_load(&root, path, err));
        rc = add_list(v, path, json_object_get(root, "added_tokens"), err);
    } else if (pg_hf_path(f, "tokenizer_config.json", path)) {
        PG_TRY(pg_json_load(&root, path, err));
        rc = add_map(v, path, json_object_get(root, "added_tokens_decoder"), err);
    } else {
        return 0;
    }
    json_decref(root);
    return rc;
}

/* ------------------------------------------------------------------ byte-level BPE ---------- */

static int put_merge(struct pg_hf_vocab *v, const char *path, const json_t *m, struct pg_err *err)
{
    char *text = NULL;
    if (json_is_string(m))
        text = strdup(json_string_value(m));
    else if (json_array_size(m) == 2 && json_is_string(json_array_get(m, 0)) &&
             json_is_string(json_array_get(m, 1)) &&
             asprintf(&text, "%s %s", json_string_value(json_array_get(m, 0)),
                      json_string_value(json_array_get(m, 1))) < 0)
        text = NULL;
    if (!text)
        return pg_fail(err, PG_EFORMAT, "%s: merge %zu is no pair of texts", path, v->n_merges);
    v->merges[v->n_merges++] = (struct pg_str){text, strlen(text)};
    return 0;
}

/* A step of one kind, alone or among those of a sequence; NULL: none. */
static const json_t *step_of(const json_t *steps, const char *list, const char *kind)
{
    const json_t *many = json_object_get(steps, list);
    const char *type = json_string_value(json_object_get(steps, "type"));
    if (type && !strcmp(type, kind))
        return steps;
    for (size_t i = 0; i < json_array_size(many); i++) {
        const json_t *one = json_array_get(many, i);
        type = json_string_value(json_object_get(one, "type"));
        if (type && !strcmp(type, kind))
            return one;
    }
    return NULL;
}

/* Which of the rules that the engine knows cuts text into words: by what they differ in. */
static int find_rule(struct pg_hf_vocab *v, const char *path, const json_t *root,
                     struct pg_err *err)
{
    const json_t *pre = json_object_get(root, "pre_tokenizer");
    const json_t *split = step_of(pre, "pretokenizers", "Split");
    const json_t *bytes = step_of(pre, "pretokenizers", "ByteLevel");
    const bool nfc = step_of(json_object_get(root, "normalizer"), "normalizers", "NFC");
    const char *regex =
        json_string_value(json_object_get(json_object_get(split, "pattern"), "Regex"));
    const char *rule = NULL;
    if (!bytes || json_is_true(json_object_get(json_object_get(root, "model"), "byte_fallback")))
        return pg_fail(err, PG_ENOTSUP,
                       "%s: no byte-level BPE; a vocabulary of SentencePiece's kind is read from "
                       "tokenizer.model or spiece.model",
                       path);
    if (!split && !json_is_false(json_object_get(bytes, "use_regex")))
        rule = nfc ? "olmo" : "gpt-2";
    else if (regex && strstr(regex, "(?i:'s|'t|'re|'ve|'m|'ll|'d)"))
        rule = strstr(regex, "\\p{N}{1,3}") ? "llama-bpe"
               : strstr(regex, "\\p{N}|")   ? "qwen2"
                                            : NULL;
    if (!rule)
        return pg_fail(err, PG_ENOTSUP,
                       "%s: pre_tokenizer: a way to cut text that is not known (those of GPT-2, "
                       "OLMo, Llama 3 and Qwen2 are)",
                       path);
    snprintf(v->rule, sizeof(v->rule), "%s", rule);
    return 0;
}

static int read_bpe(struct pg_hf_vocab *v, const char *path, const json_t *model,
                    struct pg_err *err)
{
    json_t *vocab = json_object_get(model, "vocab"), *merges = json_object_get(model, "merges"),
           *id;
    const char *text;
    const json_t *type = json_object_get(model, "type");
    if (json_is_string(type) && strcmp(json_string_value(type), "BPE") != 0)
        return pg_fail(err, PG_ENOTSUP,
                       "%s: model of type '%s': its spiece.model or tokenizer.model is wanted",
                       path, pg_quote(json_string_value(type), json_string_length(type)).s);
    json_object_foreach(vocab, text, id)
    {
        const struct pg_hf_token t = {.id = json_is_integer(id) ? json_integer_value(id) : -1,
                                      .text = {text, strlen(text)},
                                      .type = PG_HF_NORMAL};
        PG_TRY(pg_hf_vocab_put(v, path, &t, err));
    }
    v->merges = pg_calloc(json_array_size(merges) + 1, sizeof(*v->merges));
    if (!v->merges)
        return pg_fail(err, PG_ENOMEM, "out of memory");
    for (size_t i = 0; i < json_array_size(merges); i++)
        PG_TRY(put_merge(v, path, json_array_get(merges, i), err));
    if (!json_object_size(vocab) || !v->n_merges)
        return pg_fail(err, PG_EFORMAT, "%s: %zu tokens and %zu merges found", path,
                       json_object_size(vocab), v->n_merges);
    strcpy(v->model, "gpt2");
    return 0;
}

/* ------------------------------------------------------------------ all --------------------- */

static int vocab_open(struct pg_hf_vocab *v, const struct pg_hf *f, struct pg_err *err)
{
    *v = (struct pg_hf_vocab){
        .model = "none", .n = (int)f->d.n_vocab, .bos = -1, .eos = -1, .unk = -1, .pad = -1};
    v->text = pg_calloc((size_t)v->n, sizeof(*v->text));
    v->score = pg_calloc((size_t)v->n, sizeof(*v->score));
    v->type = pg_calloc((size_t)v->n, sizeof(*v->type));
    return v->text && v->score && v->type ? 0 : pg_fail(err, PG_ENOMEM, "out of memory");
}

static int read_model(struct pg_hf_vocab *v, const struct pg_hf *f, struct pg_err *err)
{
    char path[PG_HF_PATH];
    if (pg_hf_path(f, "tokenizer.model", path) || pg_hf_path(f, "spiece.model", path)) {
        uint8_t *data;
        size_t n;
        int rc = read_whole(path, &data, &n, err);
        rc = rc ? rc : pg_hf_spm_parse(v, path, data, n, err);
        free(data);
        return rc;
    }
    if (pg_hf_path(f, "tokenizer.json", path)) {
        json_t *root;
        PG_TRY(pg_json_load(&root, path, err));
        int rc = read_bpe(v, path, json_object_get(root, "model"), err);
        rc = rc ? rc : find_rule(v, path, root, err);
        json_decref(root);
        return rc;
    }
    return pg_hf_bpe_read(v, f, err);
}

/* Ids that the configuration names are said there for the model as a whole. */
static int read_ids(struct pg_hf_vocab *v, const struct pg_hf *f, struct pg_err *err)
{
    const struct {
        const char *key;
        int64_t *id;
    } ids[] = {{"bos_token_id", &v->bos}, {"eos_token_id", &v->eos}, {"pad_token_id", &v->pad}};
    for (size_t i = 0; i < PG_COUNT(ids); i++) {
        const json_t *of = pg_hf_value(f, ids[i].key);
        if (json_is_array(of)) /* several ends: the first is the one that is written */
            of = json_array_get(of, 0);
        if (json_is_integer(of))
            *ids[i].id = json_integer_value(of);
        if (*ids[i].id < -1 || *ids[i].id >= v->n)
            return pg_fail(err, PG_EFORMAT, "%s: %s: %lld found, the model has %d tokens",
                           f->config_path, ids[i].key, (long long)*ids[i].id, v->n);
    }
    return 0;
}

/* Whether text begins with bos. Where nothing says so the key is left out: the rule that cuts text
 * has a default. */
static int read_add_bos(struct pg_hf_vocab *v, const struct pg_hf *f, struct pg_err *err)
{
    char path[PG_HF_PATH];
    json_t *root;
    v->add_bos = strcmp(v->model, "gpt2") ? !strcmp(v->model, "llama") : -1;
    if (!pg_hf_path(f, "tokenizer_config.json", path))
        return 0;
    PG_TRY(pg_json_load(&root, path, err));
    const json_t *add = json_object_get(root, "add_bos_token");
    if (json_is_boolean(add))
        v->add_bos = json_is_true(add);
    json_decref(root);
    return 0;
}

int pg_hf_vocab_read(struct pg_hf_vocab *v, const struct pg_hf *f, struct pg_err *err)
{
    PG_TRY(vocab_open(v, f, err));
    PG_TRY(read_model(v, f, err));
    if (strcmp(v->model, "none") != 0)
        PG_TRY(read_added(v, f, err));
    PG_TRY(read_ids(v, f, err));
    PG_TRY(read_add_bos(v, f, err));
    for (int i = 0; i < v->n; i++) { /* tables are often longer than vocabularies */
        char text[32];
        snprintf(text, sizeof(text), "[PAD%d]", i);
        const struct pg_hf_token t = {
            .id = i, .text = {text, strlen(text)}, .score = -1000, .type = PG_HF_UNUSED};
        if (!v->text[i])
            PG_TRY(pg_hf_vocab_put(v, f->folder, &t, err));
    }
    return 0;
}

void pg_hf_vocab_free(struct pg_hf_vocab *v)
{
    for (int i = 0; v->text && i < v->n; i++)
        free(v->text[i]);
    for (size_t i = 0; i < v->n_merges; i++)
        free((char *)(uintptr_t)v->merges[i].s);
    free(v->text);
    free(v->score);
    free(v->type);
    free(v->merges);
    free(v->charsmap);
    *v = (struct pg_hf_vocab){0};
}

/* ------------------------------------------------------------------ to a GGUF --------------- */

static int write_ids(const struct pg_hf_vocab *v, struct pg_gguf_writer *w, struct pg_err *err)
{
    const struct {
        const char *key;
        int64_t id;
    } ids[] = {{"tokenizer.ggml.bos_token_id", v->bos},
               {"tokenizer.ggml.eos_token_id", v->eos},
               {"tokenizer.ggml.unknown_token_id", v->unk},
               {"tokenizer.ggml.padding_token_id", v->pad}};
    for (size_t i = 0; i < PG_COUNT(ids); i++)
        if (ids[i].id >= 0 && ids[i].id < v->n)
            PG_TRY(pg_gguf_writer_u32(w, ids[i].key, (uint32_t)ids[i].id, err));
    return 0;
}

static int write_tokens(const struct pg_hf_vocab *v, struct pg_gguf_writer *w, struct pg_err *err)
{
    const bool scores = strcmp(v->model, "gpt2") != 0;
    struct pg_str *text = pg_calloc((size_t)v->n, sizeof(*text));
    if (!text)
        return pg_fail(err, PG_ENOMEM, "out of memory");
    for (int i = 0; i < v->n; i++)
        text[i] = (struct pg_str){v->text[i], strlen(v->text[i])};
    int rc = pg_gguf_writer_strs(w, "tokenizer.ggml.tokens", text, (uint64_t)v->n, err);
    if (!rc && scores)
        rc = pg_gguf_writer_f32s(w, "tokenizer.ggml.scores", v->score, (uint64_t)v->n, err);
    rc =
        rc ? rc : pg_gguf_writer_i32s(w, "tokenizer.ggml.token_type", v->type, (uint64_t)v->n, err);
    if (!rc && v->n_merges)
        rc = pg_gguf_writer_strs(w, "tokenizer.ggml.merges", v->merges, v->n_merges, err);
    free(text);
    return rc;
}

int pg_hf_vocab_write(const struct pg_hf_vocab *v, struct pg_gguf_writer *w, struct pg_err *err)
{
    const bool t5 = !strcmp(v->model, "t5");
    PG_TRY(pg_gguf_writer_str(w, "tokenizer.ggml.model", v->model, err));
    if (!strcmp(v->model, "none"))
        return 0;
    if (!strcmp(v->model, "gpt2"))
        PG_TRY(pg_gguf_writer_str(w, "tokenizer.ggml.pre", v->rule, err));
    PG_TRY(write_tokens(v, w, err));
    PG_TRY(write_ids(v, w, err));
    if (t5) {
        PG_TRY(pg_gguf_writer_bool(w, "tokenizer.ggml.add_space_prefix", v->space_prefix, err));
        PG_TRY(pg_gguf_writer_bool(w, "tokenizer.ggml.remove_extra_whitespaces", v->trim, err));
    }
    if (v->n_charsmap) {
        const struct pg_gguf_key k = {"tokenizer.ggml.precompiled_charsmap", PG_GGUF_ARRAY,
                                      PG_GGUF_U8, v->n_charsmap, v->charsmap};
        PG_TRY(pg_gguf_writer_copy(w, &k, err));
    }
    if (v->add_bos >= 0)
        PG_TRY(pg_gguf_writer_bool(w, "tokenizer.ggml.add_bos_token", v->add_bos, err));
    return pg_gguf_writer_bool(w, "tokenizer.ggml.add_eos_token", t5, err);
}
