/* SPDX-License-Identifier: MIT
 * The packed layout (docs/decisions/018-packed.md): the tensors of one expert side by side, each
 * from a page on. GGUF has no strides, so an expert is a tensor of each kind, named as files from
 * before merged experts have it, blk.3.ffn_up.5.weight, which the loader reads.
 */
#include "make/flow.h"

#include "base/os.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCKS = 1024, STACKS = 3, KINDS = 3, MERGED = -1, EXPERTS_MAX = 4096 };

static const char *const prefixes[STACKS] = {"", "enc.", "dec."};
static const char *const kinds[KINDS] = {"gate", "up", "down"}; /* as they lie in a record */

/* Whose matrix it is. */
struct expert {
    int stack, il, kind;
    int e; /* MERGED: all of them */
};

static bool parse(const char *name, struct expert *x)
{
    char kind[8];
    int end = 0;
    for (x->stack = STACKS - 1; x->stack > 0; x->stack--)
        if (!strncmp(name, prefixes[x->stack], strlen(prefixes[x->stack])))
            break;
    name += strlen(prefixes[x->stack]);
    x->e = MERGED;
    if (sscanf(name, "blk.%4d.ffn_%4[a-z]_exps.weight%n", &x->il, kind, &end) != 2 || !end) {
        if (sscanf(name, "blk.%4d.ffn_%4[a-z].%4d.weight%n", &x->il, kind, &x->e, &end) != 3 ||
            !end || x->e < 0)
            return false;
    }
    for (x->kind = 0; x->kind < KINDS && strcmp(kind, kinds[x->kind]) != 0; x->kind++)
        ;
    return !name[end] && x->kind < KINDS && x->il >= 0 && x->il < BLOCKS && x->e < EXPERTS_MAX;
}

bool pg_is_expert(const char *name)
{
    struct expert x;
    return parse(name, &x);
}

static void name_of(const struct expert *x, struct pg_flow_tensor *t)
{
    char e[16] = "_exps";
    if (x->e != MERGED)
        snprintf(e, sizeof(e), ".%d", x->e);
    snprintf(t->name, sizeof(t->name), "%sblk.%d.ffn_%s%s.weight", prefixes[x->stack], x->il,
             kinds[x->kind], e);
}

/* All experts' tensors of a block go where the first of them was. */
static int place_all(struct pg_flow *f, struct pg_err *err)
{
    int *first = pg_calloc((size_t)STACKS * BLOCKS, sizeof(*first));
    struct expert x;
    if (!first)
        return pg_fail(err, PG_ENOMEM, "out of memory");
    for (size_t i = 0; i < f->n_tensors; i++) {
        struct pg_flow_tensor *t = &f->tensor[i];
        t->place = (int)i + 1;
        if (!parse(t->name, &x))
            continue;
        int *place = &first[x.stack * BLOCKS + x.il];
        *place = *place ? *place : t->place;
        t->place = *place;
    }
    free(first);
    return 0;
}

/* In a place, of one block: expert by expert (merged: one), and of each gate, up, down. */
static int by_record(const void *a, const void *b)
{
    const struct pg_flow_tensor *t = a, *u = b;
    struct expert x = {0}, y = {0};
    if (t->place != u->place)
        return t->place < u->place ? -1 : 1;
    parse(t->name, &x);
    parse(u->name, &y);
    return x.e != y.e ? (x.e < y.e ? -1 : 1) : x.kind - y.kind;
}

static int order(struct pg_flow *f, struct pg_err *err)
{
    PG_TRY(place_all(f, err));
    qsort(f->tensor, f->n_tensors, sizeof(*f->tensor), by_record);
    return 0;
}

/* ------------------------------------------------------------------ one tensor an expert ---- */

/* Rows [first, first + n) of tensor t become the rows of the new flow's last tensor. */
static int cut_rows(const struct pg_flow *f, const struct pg_flow_tensor *t, int64_t first,
                    int64_t n, struct pg_flow *to, struct pg_err *err)
{
    for (int i = t->rows; i < t->rows + t->n_rows && n; i++) {
        struct pg_flow_rows r = f->rows[i];
        const int64_t skip = PG_MIN(first, r.n);
        first -= skip;
        r.offset += pg_type_bytes(r.type, t->ne[0] * skip);
        r.first += skip;
        r.n = PG_MIN(r.n - skip, n);
        n -= r.n;
        if (r.n)
            PG_TRY(pg_flow_rows(to, r, err));
    }
    PG_ASSERT(!n);
    return 0;
}

static int split_tensor(const struct pg_flow *f, const struct pg_flow_tensor *t, struct expert x,
                        struct pg_flow *to, struct pg_err *err)
{
    for (x.e = 0; x.e < t->ne[2]; x.e++) {
        struct pg_flow_tensor one = *t;
        one.n_dims = 2;
        one.ne[2] = 1;
        name_of(&x, &one);
        PG_TRY(pg_flow_tensor(to, one, err));
        PG_TRY(cut_rows(f, t, x.e * t->ne[1], t->ne[1], to, err));
    }
    return 0;
}

static int check_merged(const struct pg_flow_tensor *t, const char *model, struct pg_err *err)
{
    return t->n_dims == 3 && t->ne[2] <= EXPERTS_MAX && t->ne[3] == 1
               ? 0
               : pg_fail(err, PG_EFORMAT,
                         "%s: tensor %s: %d dimensions and %lld experts found, 3 and at most %d "
                         "wanted",
                         model, t->name, t->n_dims, (long long)t->ne[2], EXPERTS_MAX);
}

static int copy_tensor(const struct pg_flow *f, const struct pg_flow_tensor *t, struct pg_flow *to,
                       struct pg_err *err)
{
    PG_TRY(pg_flow_tensor(to, *t, err));
    for (int i = 0; i < t->n_rows; i++)
        PG_TRY(pg_flow_rows(to, f->rows[t->rows + i], err));
    return 0;
}

/* The lists of `made` instead of those of f. */
static int take_lists(struct pg_flow *f, struct pg_flow *made, int rc)
{
    struct pg_flow *out = rc ? made : f;
    free(out->tensor);
    free(out->rows);
    if (rc)
        return rc;
    f->tensor = made->tensor;
    f->rows = made->rows;
    f->n_tensors = made->n_tensors;
    f->n_rows = made->n_rows;
    f->cap_tensors = made->cap_tensors;
    f->cap_rows = made->cap_rows;
    return 0;
}

static int split_all(const struct pg_flow *f, const char *model, struct pg_flow *to, int *n_split,
                     struct pg_err *err)
{
    struct expert x;
    for (size_t i = 0; i < f->n_tensors; i++) {
        const struct pg_flow_tensor *t = &f->tensor[i];
        const bool merged = parse(t->name, &x) && x.e == MERGED;
        if (!merged && strstr(t->name, "_exps"))
            return pg_fail(err, PG_ENOTSUP,
                           "%s: tensor %s: a part of experts that has no place in a record (those "
                           "of gate, up and down have)",
                           model, t->name);
        if (merged)
            PG_TRY(check_merged(t, model, err));
        PG_TRY(merged ? split_tensor(f, t, x, to, err) : copy_tensor(f, t, to, err));
        *n_split += merged;
    }
    return 0;
}

static int n_of_experts(const struct pg_flow *f)
{
    int n = 0;
    for (size_t i = 0; i < f->n_tensors; i++)
        n += pg_is_expert(f->tensor[i].name);
    return n;
}

static bool is_in_order(const struct pg_flow *f)
{
    for (size_t i = 1; i < f->n_tensors; i++)
        if (by_record(&f->tensor[i - 1], &f->tensor[i]) > 0)
            return false;
    return true;
}

int pg_flow_pack(struct pg_flow *f, const char *model, struct pg_err *err)
{
    struct pg_flow made = {0};
    int n_split = 0;
    if (!n_of_experts(f))
        return pg_fail(err, PG_EARG, "%s: no experts in it, so there is nothing to pack", model);
    PG_TRY(take_lists(f, &made, split_all(f, model, &made, &n_split, err)));
    PG_TRY(place_all(f, err));
    if (!n_split && f->packed && is_in_order(f))
        return pg_fail(err, PG_EARG, "%s: is packed already", model);
    f->packed = true;
    return order(f, err);
}

/* ------------------------------------------------------------------ merged again ------------ */

/* Tensors [i, i + n) are one block's, in the order of records: those of one kind become one. */
static int merge_kind(const struct pg_flow *f, size_t i, size_t n, int kind, struct pg_flow *to,
                      struct pg_err *err)
{
    const struct pg_flow_tensor *first = NULL;
    struct expert x;
    for (size_t k = i; k < i + n; k++) {
        const struct pg_flow_tensor *t = &f->tensor[k];
        parse(t->name, &x);
        if (x.kind != kind)
            continue;
        struct pg_flow_tensor all = *t;
        const int e = first ? (int)to->tensor[to->n_tensors - 1].ne[2] : 0;
        if (x.e != e || t->n_dims != 2 ||
            (first && (t->type != first->type || memcmp(t->ne, first->ne, sizeof(t->ne)) != 0)))
            return pg_fail(err, PG_EFORMAT,
                           "tensor %s: is not expert %d, of the shape and type of the others",
                           t->name, e);
        x.e = MERGED;
        name_of(&x, &all);
        all.n_dims = 3;
        if (!first)
            PG_TRY(pg_flow_tensor(to, all, err));
        first = first ? first : t;
        to->tensor[to->n_tensors - 1].ne[2] = e + 1;
        PG_TRY(cut_rows(f, t, 0, t->ne[1], to, err));
    }
    return 0;
}

static bool is_single(const struct pg_flow_tensor *t)
{
    struct expert x;
    return parse(t->name, &x) && x.e != MERGED;
}

static int merge_all(const struct pg_flow *f, const char *model, struct pg_flow *to,
                     struct pg_err *err)
{
    for (size_t i = 0, n; i < f->n_tensors; i += n) {
        const struct pg_flow_tensor *t = &f->tensor[i];
        n = 1;
        if (!is_single(t)) {
            PG_TRY(copy_tensor(f, t, to, err));
            continue;
        }
        while (i + n < f->n_tensors && f->tensor[i + n].place == t->place)
            n++;
        int rc = 0;
        for (int kind = 0; kind < KINDS && !rc; kind++)
            rc = merge_kind(f, i, n, kind, to, err);
        if (rc)
            return pg_fail_in(err, rc, model);
    }
    return 0;
}

int pg_flow_merge(struct pg_flow *f, const char *model, struct pg_err *err)
{
    struct pg_flow made = {0};
    int n_single = 0;
    for (size_t i = 0; i < f->n_tensors; i++)
        n_single += is_single(&f->tensor[i]);
    if (!n_single)
        return pg_fail(err, PG_EARG,
                       "%s: has no experts of a tensor each, so nothing is packed in it", model);
    PG_TRY(order(f, err));
    f->packed = false;
    return take_lists(f, &made, merge_all(f, model, &made, err));
}
