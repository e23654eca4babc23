/* SPDX-License-Identifier: MIT
 * The checkpoint of a run by the loss of the language model, OUT.lm.checkpoint:
 *
 *   "pgtulm 1", struct pg_lm_head, then w, m, v and best
 *   8 bytes: a checksum of all that is before it
 *
 * The file is as long as the head says it must be, or it is refused; numbers are those of the
 * machine that wrote it.
 */
#include "base/hash.h"
#include "distil/lm.h"

#include <errno.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char magic[8] = {'p', 'g', 't', 'u', 'l', 'm', ' ', '1'};

char *pg_lm_checkpoint(const struct pg_tune_options *opt)
{
    char *path;
    return asprintf(&path, "%s.lm.checkpoint", opt->out) < 0 ? NULL : path;
}

bool pg_lm_is_begun(const struct pg_tune_options *opt)
{
    char *path = pg_lm_checkpoint(opt);
    bool there = path && access(path, F_OK) == 0;
    free(path);
    return there;
}

/* The parts of the file between its magic and its sum. */
struct part {
    void *data;
    size_t n;
};
enum { N_PARTS = 5 };

static void list_parts(const struct pg_lm *t, struct pg_lm_head *head, struct part out[N_PARTS])
{
    size_t n = t->params->n_values * sizeof(float);
    const struct part all[N_PARTS] = {
        {head, sizeof(*head)}, {t->s.w, n}, {t->s.m, n}, {t->s.v, n}, {t->best, n}};
    memcpy(out, all, sizeof(all));
}

/* ------------------------------------------------------------------ save -------------------- */

static int write_all(struct pg_outfile *f, const struct pg_lm *t, struct pg_err *err)
{
    struct pg_lm_head head = t->head;
    struct part part[N_PARTS];
    uint64_t sum = pg_hash_bytes(PG_HASH_START, magic, sizeof(magic));
    list_parts(t, &head, part);
    PG_TRY(pg_outfile_write(f, magic, sizeof(magic), err));
    for (int i = 0; i < N_PARTS; i++) {
        sum = pg_hash_bytes(sum, part[i].data, part[i].n);
        PG_TRY(pg_outfile_write(f, part[i].data, part[i].n, err));
    }
    return pg_outfile_write(f, &sum, sizeof(sum), err);
}

int pg_lm_save(const struct pg_lm *t, struct pg_err *err)
{
    struct pg_outfile f;
    PG_TRY(pg_outfile_open(&f, t->checkpoint, err));
    int rc = write_all(&f, t, err);
    rc = rc ? rc : pg_outfile_commit(&f, err);
    pg_outfile_abandon(&f);
    return rc;
}

/* ------------------------------------------------------------------ load -------------------- */

/* What must be the same in the run that wrote it. */
static const struct {
    const char *name;
    size_t at;
    enum { TEXT, COUNT, REAL } kind;
} same[] = {
#define SAME(field, kind)                                                                          \
    {                                                                                              \
#field, offsetof(struct pg_lm_head, field), kind                                           \
    }
    SAME(model, TEXT),       SAME(text, TEXT),          SAME(start, TEXT),
    SAME(seed, COUNT),       SAME(level, COUNT),        SAME(n_hidden, COUNT),
    SAME(n_steps, COUNT),    SAME(n_seq, COUNT),        SAME(seq_len, COUNT),
    SAME(n_held, COUNT),     SAME(eval_every, COUNT),   SAME(lr, REAL),
    SAME(cache_form, COUNT), SAME(bias, TEXT),          SAME(kl, REAL),
    SAME(sticky, REAL),      SAME(sticky_cache, COUNT), SAME(n_runners_up, COUNT),
    SAME(weigher, COUNT),    SAME(imitate, REAL),
#undef SAME
};

static int compare(const struct pg_lm_head *found, const struct pg_lm_head *want,
                   struct pg_err *err)
{
    for (size_t i = 0; i < PG_COUNT(same); i++) {
        const char *a = (const char *)found + same[i].at, *b = (const char *)want + same[i].at;
        uint64_t n[2];
        double x[2];
        memcpy(&n[0], a, sizeof(n[0]));
        memcpy(&n[1], b, sizeof(n[1]));
        memcpy(x, n, sizeof(x));
        if (same[i].kind == TEXT && strncmp(a, b, 17) != 0)
            return pg_fail(err, PG_EARG, "%s: %.16s found, %.16s wanted", same[i].name, a, b);
        if (same[i].kind == COUNT && n[0] != n[1])
            return pg_fail(err, PG_EARG, "%s: %llu found, %llu wanted", same[i].name,
                           (unsigned long long)n[0], (unsigned long long)n[1]);
        if (same[i].kind == REAL && n[0] != n[1])
            return pg_fail(err, PG_EARG, "%s: %.9g found, %.9g wanted", same[i].name, x[0], x[1]);
    }
    return 0;
}

static int check_place(const struct pg_lm_head *h, struct pg_err *err)
{
    bool numbers = isfinite(h->first_nll) && isfinite(h->best_nll) && isfinite(h->first_loss) &&
                   isfinite(h->best_loss) && isfinite(h->seconds) && h->seconds >= 0;
    if (h->step > h->n_steps || h->best_step > h->step || h->n_measured > h->n_steps + 1 ||
        !numbers) {
        return pg_fail(err, PG_EFORMAT,
                       "step %llu, best %llu, %llu measurements found: no place of a run of %llu "
                       "steps",
                       (unsigned long long)h->step, (unsigned long long)h->best_step,
                       (unsigned long long)h->n_measured, (unsigned long long)h->n_steps);
    }
    return 0;
}

static int get(FILE *f, void *data, size_t n, struct pg_err *err)
{
    return fread(data, 1, n, f) == n
               ? 0
               : pg_fail(err, ferror(f) ? PG_EIO : PG_EFORMAT, "the file ends too early");
}

static int read_all(FILE *f, struct pg_lm *t, struct pg_err *err)
{
    struct pg_lm_head head;
    struct part part[N_PARTS];
    char begin[sizeof(magic)], more;
    uint64_t sum = pg_hash_bytes(PG_HASH_START, magic, sizeof(magic)), found;
    list_parts(t, &head, part);
    PG_TRY(get(f, begin, sizeof(begin), err));
    if (memcmp(begin, magic, sizeof(magic)) != 0)
        return pg_fail(err, PG_EFORMAT, "this is no checkpoint of tuning by the loss");
    for (int i = 0; i < N_PARTS; i++) {
        PG_TRY(get(f, part[i].data, part[i].n, err));
        if (i == 0)
            PG_TRY(compare(&head, &t->head, err));
        sum = pg_hash_bytes(sum, part[i].data, part[i].n);
        for (size_t k = 0; i > 0 && k < t->params->n_values; k++)
            if (!isfinite(((float *)part[i].data)[k]))
                return pg_fail(err, PG_EFORMAT, "value %zu is not finite", k);
    }
    PG_TRY(get(f, &found, sizeof(found), err));
    if (fread(&more, 1, 1, f) != 0)
        return pg_fail(err, PG_EFORMAT, "there are bytes behind its end: it is damaged");
    if (found != sum)
        return pg_fail(err, PG_EFORMAT, "checksum %016llx found, %016llx wanted: it is damaged",
                       (unsigned long long)found, (unsigned long long)sum);
    PG_TRY(check_place(&head, err));
    t->head = head;
    return 0;
}

int pg_lm_load(struct pg_lm *t, bool *found, struct pg_err *err)
{
    FILE *f = fopen(t->checkpoint, "rb");
    *found = f != NULL;
    if (!f)
        return errno == ENOENT ? 0 : pg_fail_os(err, PG_EIO, errno, "%s", t->checkpoint);
    int rc = read_all(f, t, err);
    fclose(f);
    return rc ? pg_fail_in(err, rc, t->checkpoint) : 0;
}
