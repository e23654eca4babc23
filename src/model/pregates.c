/* SPDX-License-Identifier: MIT */
#include "model/pregates.h"

#include <stdio.h>
#include <string.h>

enum { MAX_HIDDEN = 1 << 16 };

/* ------------------------------------------------------------------ parts ------------------- */

static struct pg_tensor_name name_of(const struct pg_model *m, int moe, enum pg_block_part part)
{
    return pg_part_name(m, pg_block_of_moe(m, moe), part);
}

static size_t n_values(const struct pg_weight *w)
{
    return (size_t)w->n_in * (size_t)w->n_out;
}

size_t pg_pregate_place(const struct pg_model *m, const struct pg_pregate_form *form, float *at,
                        struct pg_pregate *out)
{
    int n_embd = m->h.n_embd, n_expert = m->h.n_expert;
    size_t n = 0;
    *out = (struct pg_pregate){
        .inp = {PG_TYPE_F32, n_embd, n_expert, NULL},
        .bias = {PG_TYPE_F32, n_expert, form->bias, NULL},
        .down = {PG_TYPE_F32, n_embd, form->n_hidden, NULL},
        .down_bias = {PG_TYPE_F32, form->n_hidden, 1, NULL},
        .up = {PG_TYPE_F32, form->n_hidden, n_expert, NULL},
    };
    for (enum pg_block_part part = PG_PART_PREGATE; part < PG_N_PARTS; part++) {
        struct pg_weight *w = pg_pregate_part(out, part);
        w->data = at && n_values(w) ? at + n : NULL;
        n += n_values(w);
    }
    return n;
}

void pg_pregate_fold(const struct pg_model *m, int moe, int level, float *out)
{
    const struct pg_block *from = &m->block[pg_block_of_moe(m, moe)];
    const struct pg_block *to = &m->block[pg_block_of_moe(m, pg_moe_ahead(m, moe, level))];
    pg_gate_fold(&to->ffn_gate_inp, from->ffn_norm.data, to->ffn_norm.data, out);
}

/* ------------------------------------------------------------------ reading ----------------- */

static bool str_is(const struct pg_str *s, const char *text)
{
    return s->n == strlen(text) && memcmp(s->s, text, s->n) == 0;
}

static int read_purpose(const struct pg_gguf *g, bool *decides, struct pg_err *err)
{
    struct pg_str purpose = {"hint", 4};
    PG_TRY(pg_gguf_get_str(g, "pregate.trained_for", PG_GGUF_OPTIONAL, &purpose, err));
    *decides = str_is(&purpose, "decide");
    if (!*decides && !str_is(&purpose, "hint")) {
        return pg_fail(err, PG_EFORMAT,
                       "pregate.trained_for: '%s' found, 'hint' or 'decide' wanted",
                       pg_quote(purpose.s, purpose.n).s);
    }
    return 0;
}

static int read_weigher(const struct pg_gguf *g, enum pg_gate_kind *weigher, struct pg_err *err)
{
    struct pg_str who = {"pregate", 7};
    PG_TRY(pg_gguf_get_str(g, "pregate.weigher", PG_GGUF_OPTIONAL, &who, err));
    *weigher = str_is(&who, "router") ? PG_GATE_ROUTER : PG_GATE_PREGATE;
    if (*weigher == PG_GATE_PREGATE && !str_is(&who, "pregate")) {
        return pg_fail(err, PG_EFORMAT, "pregate.weigher: '%s' found, 'router' or 'pregate' wanted",
                       pg_quote(who.s, who.n).s);
    }
    return 0;
}

void pg_sidecar_say_weigher(struct pg_log log, const char *path, const struct pg_sidecar_head *head,
                            enum pg_gate_kind weigher)
{
    static const char *const words[] = {[PG_GATE_ROUTER] = "routers", [PG_GATE_PREGATE] = "they"};
    if (head->decides && head->weigher != weigher)
        pg_say(log, PG_LOG_WARN, "%s: its pre-gates choose and %s weigh; from here on %s weigh",
               path, words[head->weigher], words[weigher]);
}

/* The first MoE block that has a pre-gate. */
static int first_gate(const struct pg_model *m, int level)
{
    int moe = 0;
    while (pg_moe_ahead(m, moe, level) < 0)
        moe++;
    return moe;
}

/* Which parts the pre-gates have: those of the first. */
static int read_form(const struct pg_gguf *g, const struct pg_model *m, int level,
                     struct pg_pregate_form *form, struct pg_err *err)
{
    const int moe = first_gate(m, level);
    struct pg_tensor_name down = name_of(m, moe, PG_PART_PREGATE_DOWN);
    const struct pg_gguf_tensor *t = pg_gguf_find_tensor(g, down.s);
    form->bias = pg_gguf_find_tensor(g, name_of(m, moe, PG_PART_PREGATE_BIAS).s) != NULL;
    if (t && (t->n_dims != 2 || t->ne[1] > MAX_HIDDEN)) {
        return pg_fail(err, PG_EFORMAT,
                       "%s: %d dimensions and %lld rows found, 2 and at most %d wanted", down.s,
                       t->n_dims, (long long)t->ne[1], MAX_HIDDEN);
    }
    form->n_hidden = t ? (int)t->ne[1] : 0;
    return 0;
}

static int read_head(const struct pg_gguf *g, const struct pg_model *m, struct pg_sidecar_head *out,
                     struct pg_err *err)
{
    struct pg_str type;
    int64_t level;
    PG_TRY(pg_gguf_get_str(g, "general.type", PG_GGUF_REQUIRED, &type, err));
    if (!str_is(&type, "pregate")) {
        return pg_fail(err, PG_EFORMAT, "general.type: '%s' found, 'pregate' wanted",
                       pg_quote(type.s, type.n).s);
    }
    if (pg_n_pregates(m, 1) == 0) {
        return pg_fail(err, PG_EARG,
                       "the model has %d blocks with experts; pre-gates are for 2 at least",
                       m->n_moe);
    }
    if (pg_gguf_n_parts(g) != 1) {
        return pg_fail(err, PG_ENOTSUP, "pre-gates: a set of %d files found, one file wanted",
                       pg_gguf_n_parts(g));
    }
    PG_TRY(pg_gguf_get_int(g, "pregate.level", PG_GGUF_REQUIRED, (int64_t[]){1, pg_most_level(m)},
                           &level, err));
    out->level = (int)level;
    PG_TRY(read_purpose(g, &out->decides, err));
    PG_TRY(read_weigher(g, &out->weigher, err));
    return read_form(g, m, out->level, &out->form, err);
}

/* The parts of one pre-gate must be there with these shapes; values are read where they have a
 * place. */
static int read_gate(const struct pg_gguf *g, const struct pg_model *m, int moe,
                     const struct pg_pregate *gate, struct pg_err *err)
{
    struct pg_pregate p = *gate;
    for (enum pg_block_part part = PG_PART_PREGATE; part < PG_N_PARTS; part++) {
        const struct pg_weight *w = pg_pregate_part(&p, part);
        const struct pg_gguf_tensor *t;
        if (!n_values(w))
            continue;
        PG_TRY(pg_gguf_get_tensor(g, name_of(m, moe, part).s, PG_GGUF_REQUIRED,
                                  (int64_t[4]){w->n_in, pg_parts[part].is_matrix ? w->n_out : 0},
                                  &t, err));
        if (t->type != PG_TYPE_F32 && t->type != PG_TYPE_F16 && t->type != PG_TYPE_BF16) {
            return pg_fail(err, PG_ENOTSUP, "%s: type %s found, F32, F16 or BF16 wanted", t->name,
                           pg_type_traits((uint32_t)t->type)->name);
        }
        if (w->data)
            PG_TRY(pg_gguf_read_f32(g, t, (float *)(uintptr_t)w->data, err));
    }
    return 0;
}

/* No more tensors than n_gates pre-gates like this one have. */
static int check_count(const struct pg_gguf *g, int n_gates, const struct pg_pregate *like,
                       struct pg_err *err)
{
    struct pg_pregate p = *like;
    int n = 0;
    for (enum pg_block_part part = PG_PART_PREGATE; part < PG_N_PARTS; part++)
        n += n_values(pg_pregate_part(&p, part)) > 0;
    if (pg_gguf_n_tensors(g) == n_gates * n)
        return 0;
    return pg_fail(err, PG_EFORMAT, "%d tensors found, %d pre-gates wanted (of %d each)",
                   pg_gguf_n_tensors(g), n_gates, n);
}

static int peek(const struct pg_gguf *g, const struct pg_model *m, struct pg_sidecar_head *out,
                struct pg_err *err)
{
    struct pg_pregate shape;
    PG_TRY(read_head(g, m, out, err));
    pg_pregate_place(m, &out->form, NULL, &shape);
    for (int moe = 0; moe < m->n_moe; moe++)
        if (pg_moe_ahead(m, moe, out->level) >= 0)
            PG_TRY(read_gate(g, m, moe, &shape, err));
    return check_count(g, pg_n_pregates(m, out->level), &shape, err);
}

int pg_sidecar_peek(const struct pg_model *m, const char *path, struct pg_sidecar_head *out,
                    struct pg_err *err)
{
    struct pg_gguf *g;
    PG_TRY(pg_gguf_open(&g, path, err));
    int rc = peek(g, m, out, err);
    pg_gguf_close(g);
    return rc ? pg_fail_in(err, rc, path) : 0;
}

static int load(const struct pg_gguf *g, const struct pg_sidecar *s, struct pg_err *err)
{
    struct pg_sidecar_head head;
    struct pg_str hash;
    PG_TRY(read_head(g, s->model, &head, err));
    PG_TRY(pg_gguf_get_str(g, "pregate.base.hash", PG_GGUF_REQUIRED, &hash, err));
    if (!str_is(&hash, s->hash)) {
        return pg_fail(err, PG_EFORMAT,
                       "pregate.base.hash: '%s' found, '%s' wanted: these pre-gates belong to "
                       "another model",
                       pg_quote(hash.s, hash.n).s, s->hash);
    }
    if (!s->gates)
        return 0;
    if (head.level != s->level)
        return pg_fail(err, PG_EARG, "pregate.level: %d found, %d wanted", head.level, s->level);
    for (int moe = 0; moe < s->model->n_moe; moe++)
        if (pg_moe_ahead(s->model, moe, s->level) >= 0)
            PG_TRY(read_gate(g, s->model, moe, &s->gates[moe], err));
    return check_count(g, pg_n_pregates(s->model, s->level),
                       &s->gates[first_gate(s->model, s->level)], err);
}

int pg_sidecar_load(const struct pg_sidecar *s, const char *path, struct pg_err *err)
{
    struct pg_gguf *g;
    PG_TRY(pg_gguf_open(&g, path, err));
    int rc = load(g, s, err);
    pg_gguf_close(g);
    return rc ? pg_fail_in(err, rc, path) : 0;
}

/* ------------------------------------------------------------------ writing ----------------- */

static int write_keys(struct pg_gguf_writer *w, const struct pg_sidecar *s, struct pg_err *err)
{
    const char *purpose = s->decides ? "decide" : "hint";
    const char *weigher = s->weigher == PG_GATE_ROUTER ? "router" : "pregate";
    PG_TRY(pg_gguf_writer_str(w, "general.architecture", "pregate", err));
    PG_TRY(pg_gguf_writer_str(w, "general.type", "pregate", err));
    PG_TRY(pg_gguf_writer_str(w, "general.name", s->model->name, err));
    PG_TRY(pg_gguf_writer_str(w, "pregate.base.hash", s->hash, err));
    PG_TRY(pg_gguf_writer_str(w, "pregate.base.architecture", s->model->arch, err));
    PG_TRY(pg_gguf_writer_u32(w, "pregate.level", (uint32_t)s->level, err));
    PG_TRY(pg_gguf_writer_str(w, "pregate.trained_for", purpose, err));
    return pg_gguf_writer_str(w, "pregate.weigher", weigher, err);
}

/* The names and shapes of all parts, or their values: once each, in the order of the file. */
static int write_parts(struct pg_gguf_writer *w, const struct pg_sidecar *s, bool values,
                       struct pg_err *err)
{
    for (int moe = 0; moe < s->model->n_moe; moe++) {
        if (pg_moe_ahead(s->model, moe, s->level) < 0)
            continue;
        struct pg_pregate gate = s->gates[moe];
        for (enum pg_block_part part = PG_PART_PREGATE; part < PG_N_PARTS; part++) {
            const struct pg_weight *of = pg_pregate_part(&gate, part);
            struct pg_tensor_name name = name_of(s->model, moe, part);
            if (of->data && values)
                PG_TRY(pg_gguf_writer_data(w, of->data, n_values(of) * sizeof(float), err));
            else if (of->data)
                PG_TRY(pg_gguf_writer_tensor(w, name.s, PG_TYPE_F32,
                                             pg_parts[part].is_matrix ? 2 : 1,
                                             (int64_t[]){of->n_in, of->n_out}, err));
        }
    }
    return 0;
}

int pg_sidecar_save(const struct pg_sidecar *s, const char *path, struct pg_err *err)
{
    struct pg_gguf_writer *w;
    PG_TRY(pg_gguf_writer_open(&w, path, err));
    int rc = write_keys(w, s, err);
    rc = rc ? rc : write_parts(w, s, false, err);
    rc = rc ? rc : write_parts(w, s, true, err);
    return pg_gguf_writer_end(w, rc, err);
}
