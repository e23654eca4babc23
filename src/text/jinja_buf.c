/* SPDX-License-Identifier: MIT
 * The memory of a template and of its renderings: blocks that go together, up to a limit.
 */
#include "text/jinja_impl.h"

#include <stdlib.h>
#include <string.h>

struct pg_jinja_block {
    struct pg_jinja_block *next;
    size_t n, used; /* of the bytes that follow this head */
};

enum { HEAD = (sizeof(struct pg_jinja_block) + 15) & ~15, BLOCK = 64 << 10 };

/* What is large gets a block of its own behind the first, which goes on to be filled. */
static struct pg_jinja_block *add_block(struct pg_jinja_pile *p, size_t n)
{
    bool large = p->block && n > BLOCK / 4;
    size_t size = large ? n : PG_MAX(n, (size_t)BLOCK - HEAD);
    struct pg_jinja_block *b = NULL;
    p->exhausted = size > p->limit - HEAD || size + HEAD > p->limit - p->used;
    if (!p->exhausted)
        b = malloc(HEAD + size);
    if (!b)
        return NULL;
    p->used += size + HEAD;
    b->n = size;
    b->used = 0;
    struct pg_jinja_block **before = large ? &p->block->next : &p->block;
    b->next = *before;
    *before = b;
    return b;
}

void *pg_jinja_take(struct pg_jinja_pile *p, size_t n)
{
    struct pg_jinja_block *b = p->block;
    if (n > p->limit) {
        p->exhausted = true;
        return NULL;
    }
    n = (n + 15) & ~(size_t)15;
    if (!b || b->n - b->used < n)
        b = add_block(p, n);
    if (!b)
        return NULL;
    b->used += n;
    return (char *)b + HEAD + b->used - n;
}

void pg_jinja_drop(struct pg_jinja_pile *p)
{
    while (p->block) {
        struct pg_jinja_block *b = p->block;
        p->block = b->next;
        free(b);
    }
}

/* ---- texts that grow ---- */

static void grow(struct pg_buf *b, size_t n)
{
    size_t cap = PG_MAX(2 * b->cap, b->n + n);
    cap = PG_MAX(cap, 64u);
    char *s = cap > UINT32_MAX ? NULL : pg_jinja_take(&b->run->pile, cap);
    uint8_t *mark = s ? pg_jinja_take(&b->run->pile, cap) : NULL;
    if (!mark) {
        b->rc = pg_jinja_full(b->run);
        return;
    }
    if (b->n) {
        memcpy(s, b->s, b->n);
        memcpy(mark, b->mark, b->n);
    }
    b->s = s;
    b->mark = mark;
    b->cap = cap;
}

void pg_buf_put(struct pg_buf *b, const char *s, size_t n, bool content)
{
    if (!b->rc && n > b->cap - b->n)
        grow(b, n);
    if (b->rc || !n)
        return;
    memcpy(b->s + b->n, s, n);
    memset(b->mark + b->n, content, n);
    b->n += n;
}

void pg_buf_put_str(struct pg_buf *b, const struct pg_value *s)
{
    size_t at = b->n;
    pg_buf_put(b, s->s, s->n, s->content);
    if (!b->rc && s->mark && s->n)
        memcpy(b->mark + at, s->mark, s->n);
}

int pg_buf_end(struct pg_buf *b, struct pg_value *out)
{
    bool content = b->n && b->mark[0];
    bool mixed = b->n && memchr(b->mark, !content, b->n);
    *out = (struct pg_value){
        .kind = PG_V_STR, .content = content, .n = (uint32_t)b->n, .mark = mixed ? b->mark : NULL};
    out->s = b->n ? b->s : "";
    return b->rc;
}
