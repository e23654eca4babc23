/* SPDX-License-Identifier: MIT */
#include "text/merge.h"
#include "base/os.h"

#include <stdlib.h>

static int no_room(const struct pg_joiner *j, struct pg_err *err)
{
    return pg_fail(err, PG_ENOMEM, "out of memory for joining %zu symbols", j->n_sym + 1);
}

static int push(struct pg_joiner *j, uint64_t key, struct pg_err *err)
{
    if (pg_reserve(&j->heap, &j->cap_heap, j->n_heap + 1, sizeof(*j->heap)))
        return no_room(j, err);
    size_t i = j->n_heap++;
    while (i > 0 && j->heap[(i - 1) / 2] > key) {
        j->heap[i] = j->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    j->heap[i] = key;
    return 0;
}

static uint64_t pop(struct pg_joiner *j)
{
    uint64_t top = j->heap[0], last = j->heap[--j->n_heap];
    size_t i = 0, child;
    while ((child = 2 * i + 1) < j->n_heap) {
        if (child + 1 < j->n_heap && j->heap[child + 1] < j->heap[child])
            child++;
        if (j->heap[child] >= last)
            break;
        j->heap[i] = j->heap[child];
        i = child;
    }
    j->heap[i] = last;
    return top;
}

/* Finds what symbol i and its next make, and queues it. */
static int look(struct pg_joiner *j, int32_t i, struct pg_err *err)
{
    struct pg_sym *s = &j->sym[i];
    s->pair = -1;
    if (s->next < 0)
        return 0;
    j->look(j, s, &j->sym[s->next]);
    if (s->pair < 0)
        return 0;
    return push(j, (uint64_t)s->priority << 32 | (uint32_t)i, err);
}

void pg_joiner_start(struct pg_joiner *j, const char *text)
{
    j->text = text;
    j->n_sym = 0;
    j->n_heap = 0;
}

int pg_joiner_add(struct pg_joiner *j, uint32_t at, uint32_t n, int32_t id, struct pg_err *err)
{
    if (pg_reserve(&j->sym, &j->cap_sym, j->n_sym + 1, sizeof(*j->sym)))
        return no_room(j, err);
    int32_t i = (int32_t)j->n_sym++;
    j->sym[i] = (struct pg_sym){.at = at, .n = n, .prev = i - 1, .next = -1, .id = id, .pair = -1};
    if (i > 0)
        j->sym[i - 1].next = i;
    return 0;
}

int pg_joiner_run(struct pg_joiner *j, struct pg_err *err)
{
    for (size_t i = 0; i + 1 < j->n_sym; i++)
        PG_TRY(look(j, (int32_t)i, err));
    while (j->n_heap) {
        uint64_t key = pop(j);
        int32_t at = (int32_t)(uint32_t)key;
        struct pg_sym *left = &j->sym[at];
        if (left->pair < 0 || left->priority != key >> 32)
            continue;
        struct pg_sym *right = &j->sym[left->next];
        left->id = left->pair;
        left->n += right->n;
        left->next = right->next;
        right->pair = -1;
        if (left->next >= 0)
            j->sym[left->next].prev = at;
        if (left->prev >= 0)
            PG_TRY(look(j, left->prev, err));
        PG_TRY(look(j, at, err));
    }
    return 0;
}

void pg_joiner_fini(struct pg_joiner *j)
{
    free(j->sym);
    free(j->heap);
    j->sym = NULL;
    j->heap = NULL;
}
