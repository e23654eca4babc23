/* SPDX-License-Identifier: MIT
 * The checkpoint of pg_tune: which run it is, how far it has come, and all weights and moments.
 *
 *   "pgtune 2", two hashes of 16 hex digits, the numbers of the head, each 8 bytes
 *   for each gate its numbers, then w, m, v and best
 *   8 bytes: a checksum of all that is before it
 *
 * The file is as long as the head says it must be, or it is refused; numbers are those of the
 * machine that wrote it.
 */
#include "base/hash.h"
#include "distil/distil.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char magic[8] = {'p', 'g', 't', 'u', 'n', 'e', ' ', '2'};

/* The head's numbers: what was asked for, what followed from the memory, how far it has come. */
enum kind { ASKED, FOLLOWED, PLACE };
static const struct {
    const char *name;
    size_t at;
    enum kind kind;
} numbers[] = {
#define NUMBER(field, kind)                                                                        \
    {                                                                                              \
#field, offsetof(struct pg_distil_head, field), kind                                       \
    }
    NUMBER(seed, ASKED),      NUMBER(decides, ASKED),       NUMBER(level, ASKED),
    NUMBER(n_embd, ASKED),    NUMBER(n_expert, ASKED),      NUMBER(n_used, ASKED),
    NUMBER(n_moe, ASKED),     NUMBER(n_hidden, ASKED),      NUMBER(n_ctx, ASKED),
    NUMBER(n_pieces, ASKED),  NUMBER(n_held_pieces, ASKED), NUMBER(n_train, FOLLOWED),
    NUMBER(n_held, FOLLOWED), NUMBER(n_rounds, FOLLOWED),   NUMBER(n_passes, FOLLOWED),
    NUMBER(round, PLACE),     NUMBER(pass, PLACE),          NUMBER(minibatch, PLACE),
#undef NUMBER
};

enum { HEAD_BYTES = sizeof(magic) + 2 * 16 + PG_COUNT(numbers) * sizeof(uint64_t) };

static uint64_t *number_at(struct pg_distil_head *h, size_t i)
{
    return (void *)((char *)h + numbers[i].at);
}

/* What is kept of a gate besides its arrays. */
struct gate_numbers {
    double first_loss, best_loss, best_score, recall, mass, set_right, precision[16];
    uint64_t n_steps, n_since, stopped, n_tokens, block;
};

static uint64_t file_bytes(const struct pg_fit *f)
{
    uint64_t gate = sizeof(struct gate_numbers) + 4 * (uint64_t)f->n_values * sizeof(float);
    return HEAD_BYTES + (uint64_t)f->n_gate * gate + sizeof(uint64_t);
}

/* ------------------------------------------------------------------ writing ----------------- */

struct sink {
    struct pg_outfile file;
    uint64_t hash;
};

static int put(struct sink *s, const void *data, size_t n, struct pg_err *err)
{
    s->hash = pg_hash_bytes(s->hash, data, n);
    return pg_outfile_write(&s->file, data, n, err);
}

static int put_head(struct sink *s, const struct pg_distil_head *head, struct pg_err *err)
{
    struct pg_distil_head h = *head;
    PG_TRY(put(s, magic, sizeof(magic), err));
    PG_TRY(put(s, h.model, 16, err));
    PG_TRY(put(s, h.text, 16, err));
    for (size_t i = 0; i < PG_COUNT(numbers); i++)
        PG_TRY(put(s, number_at(&h, i), sizeof(uint64_t), err));
    return 0;
}

static int put_gate(struct sink *s, const struct pg_fit *f, const struct pg_fit_gate *g,
                    struct pg_err *err)
{
    const float *arrays[] = {g->w, g->m, g->v, g->best};
    struct gate_numbers n = {
        .first_loss = g->first_loss,
        .best_loss = g->best_loss,
        .best_score = g->best_score,
        .recall = g->before.recall,
        .mass = g->before.mass,
        .set_right = g->before.set_right,
        .n_steps = g->n_steps,
        .n_since = g->n_since,
        .stopped = g->stopped,
        .n_tokens = g->before.n_tokens,
        .block = (uint64_t)g->before.block,
    };
    memcpy(n.precision, g->before.precision, sizeof(n.precision));
    PG_TRY(put(s, &n, sizeof(n), err));
    for (size_t i = 0; i < PG_COUNT(arrays); i++)
        PG_TRY(put(s, arrays[i], f->n_values * sizeof(float), err));
    return 0;
}

static int put_all(struct sink *s, const struct pg_distil_head *head, const struct pg_fit *f,
                   struct pg_err *err)
{
    PG_TRY(put_head(s, head, err));
    for (int i = 0; i < f->n_gate; i++)
        PG_TRY(put_gate(s, f, &f->gate[i], err));
    return pg_outfile_write(&s->file, &s->hash, sizeof(s->hash), err);
}

int pg_distil_save(const char *path, const struct pg_distil_head *head, const struct pg_fit *f,
                   struct pg_err *err)
{
    struct sink s = {.hash = PG_HASH_START};
    PG_TRY(pg_outfile_open(&s.file, path, err));
    int rc = put_all(&s, head, f, err);
    rc = rc ? rc : pg_outfile_commit(&s.file, err);
    pg_outfile_abandon(&s.file);
    return rc;
}

/* ------------------------------------------------------------------ reading ----------------- */

struct source {
    FILE *file;
    uint64_t hash;
};

static int get(struct source *s, void *data, size_t n, struct pg_err *err)
{
    if (fread(data, 1, n, s->file) != n) {
        return ferror(s->file)
                   ? pg_fail_os(err, PG_EIO, errno, "reading %zu bytes", n)
                   : pg_fail(err, PG_EFORMAT, "the file ends where %zu bytes are wanted", n);
    }
    s->hash = pg_hash_bytes(s->hash, data, n);
    return 0;
}

static int get_head(struct source *s, struct pg_distil_head *h, struct pg_err *err)
{
    char found[sizeof(magic)];
    *h = (struct pg_distil_head){0};
    PG_TRY(get(s, found, sizeof(found), err));
    if (memcmp(found, magic, sizeof(magic)) != 0) {
        return pg_fail(err, PG_EFORMAT, "'%s' found, '%.8s' wanted: this is no checkpoint of tune",
                       pg_quote(found, sizeof(found)).s, magic);
    }
    PG_TRY(get(s, h->model, 16, err));
    PG_TRY(get(s, h->text, 16, err));
    for (size_t i = 0; i < PG_COUNT(numbers); i++)
        PG_TRY(get(s, number_at(h, i), sizeof(uint64_t), err));
    return 0;
}

static bool is_finite(const float *x, size_t n)
{
    float sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += x[i] - x[i];
    return sum == 0;
}

static int get_gate(struct source *s, const struct pg_fit *f, int i, struct pg_err *err)
{
    struct pg_fit_gate *g = &f->gate[i];
    float *arrays[] = {g->w, g->m, g->v, g->best};
    struct gate_numbers n;
    PG_TRY(get(s, &n, sizeof(n), err));
    if (n.n_steps > UINT32_MAX || n.n_since > UINT32_MAX || n.stopped > 1 ||
        n.block != (uint64_t)(pg_fit_place(&f->opt, i).moe + f->opt.level))
        return pg_fail(err, PG_EFORMAT, "pre-gate %d: numbers that no run writes", i);
    g->first_loss = n.first_loss;
    g->best_loss = n.best_loss;
    g->best_score = n.best_score;
    g->n_steps = (uint32_t)n.n_steps;
    g->n_since = (uint32_t)n.n_since;
    g->stopped = n.stopped;
    g->before = (struct pg_agree_block){.block = (int)n.block,
                                        .n_tokens = n.n_tokens,
                                        .recall = n.recall,
                                        .mass = n.mass,
                                        .set_right = n.set_right};
    memcpy(g->before.precision, n.precision, sizeof(n.precision));
    for (size_t j = 0; j < PG_COUNT(arrays); j++)
        PG_TRY(get(s, arrays[j], f->n_values * sizeof(float), err));
    if (!is_finite(g->best, f->n_values))
        return pg_fail(err, PG_EFORMAT, "pre-gate %d: a weight is not finite", i);
    return 0;
}

/* The numbers up to a kind, and the text, are those of this run. */
static int compare(struct pg_distil_head *found, const struct pg_distil_head *want, enum kind most,
                   struct pg_err *err)
{
    struct pg_distil_head w = *want;
    if (memcmp(found->text, w.text, 16) != 0) {
        return pg_fail(err, PG_EARG,
                       "text '%s' found, '%s' wanted: it belongs to another text, or part of one",
                       pg_quote(found->text, 16).s, w.text);
    }
    for (size_t i = 0; i < PG_COUNT(numbers); i++) {
        uint64_t a = *number_at(found, i), b = *number_at(&w, i);
        if (numbers[i].kind <= most && a != b) {
            return pg_fail(err, PG_EARG, "%s: %llu found, %llu wanted: it belongs to another run",
                           numbers[i].name, (unsigned long long)a, (unsigned long long)b);
        }
    }
    return 0;
}

/* Where it was must be somewhere. */
static int check_position(const struct pg_distil_head *h, struct pg_err *err)
{
    uint64_t n_batches = (h->n_train + PG_MINIBATCH - 1) / PG_MINIBATCH;
    if (h->round > h->n_rounds || h->pass >= h->n_passes || h->minibatch > n_batches) {
        return pg_fail(err, PG_EFORMAT,
                       "round %llu, pass %llu, minibatch %llu found, at most %llu, "
                       "%llu and %llu wanted",
                       (unsigned long long)h->round, (unsigned long long)h->pass,
                       (unsigned long long)h->minibatch, (unsigned long long)h->n_rounds,
                       (unsigned long long)h->n_passes, (unsigned long long)n_batches);
    }
    return 0;
}

static int get_all(struct source *s, const struct pg_distil_head *want, struct pg_fit *f,
                   struct pg_err *err)
{
    struct pg_distil_head h;
    struct stat st;
    uint64_t sum, found;
    PG_TRY(get_head(s, &h, err));
    if (memcmp(h.model, want->model, 16) != 0) {
        return pg_fail(err, PG_EARG, "model '%s' found, '%s' wanted: it belongs to another model",
                       pg_quote(h.model, 16).s, want->model);
    }
    PG_TRY(compare(&h, want, FOLLOWED, err));
    PG_TRY(check_position(&h, err));
    if (fstat(fileno(s->file), &st) || (uint64_t)st.st_size != file_bytes(f)) {
        return pg_fail(err, PG_EFORMAT, "%lld bytes found, %llu wanted", (long long)st.st_size,
                       (unsigned long long)file_bytes(f));
    }
    for (int i = 0; i < f->n_gate; i++)
        PG_TRY(get_gate(s, f, i, err));
    sum = s->hash;
    PG_TRY(get(s, &found, sizeof(found), err));
    if (found != sum) {
        return pg_fail(err, PG_EFORMAT, "checksum %016llx found, %016llx wanted: it is damaged",
                       (unsigned long long)found, (unsigned long long)sum);
    }
    f->round = (int)h.round;
    f->pass = (int)h.pass;
    f->minibatch = (int)h.minibatch;
    return 0;
}

/* The sizes of the buffers, which must be able to hold the pieces. */
static int peek(struct source *s, struct pg_distil_head *want, const struct pg_distil_text *text,
                struct pg_err *err)
{
    struct pg_distil_head h;
    uint64_t longest = (uint64_t)text->stack[text->most].longest;
    PG_TRY(get_head(s, &h, err));
    PG_TRY(compare(&h, want, ASKED, err));
    if (h.n_train > text->n_train_tokens || h.n_train < PG_MIN(longest, text->n_train_tokens) ||
        h.n_held > text->n_held_tokens || h.n_held < PG_MIN(longest, text->n_held_tokens)) {
        return pg_fail(err, PG_EFORMAT,
                       "buffers of %llu and %llu tokens found, at most %llu and "
                       "%llu wanted and room for the longest piece of %d",
                       (unsigned long long)h.n_train, (unsigned long long)h.n_held,
                       (unsigned long long)text->n_train_tokens,
                       (unsigned long long)text->n_held_tokens, (int)longest);
    }
    want->n_train = h.n_train;
    want->n_held = h.n_held;
    return 0;
}

int pg_distil_peek(const char *path, struct pg_distil_head *want, const struct pg_distil_text *text,
                   bool *found, struct pg_err *err)
{
    struct source s = {fopen(path, "rb"), PG_HASH_START};
    *found = s.file != NULL;
    if (!s.file)
        return errno == ENOENT ? 0 : pg_fail_os(err, PG_EIO, errno, "%s", path);
    int rc = peek(&s, want, text, err);
    fclose(s.file);
    return rc ? pg_fail_in(err, rc, path) : 0;
}

int pg_distil_load(const char *path, const struct pg_distil_head *want, struct pg_fit *f,
                   struct pg_err *err)
{
    struct source s = {fopen(path, "rb"), PG_HASH_START};
    if (!s.file)
        return pg_fail_os(err, PG_EIO, errno, "%s", path);
    int rc = get_all(&s, want, f, err);
    fclose(s.file);
    return rc ? pg_fail_in(err, rc, path) : 0;
}
