/* SPDX-License-Identifier: MIT
 * The pre-gates of an engine: a sidecar that is named or lies beside the model, or, in lookahead
 * mode, tables made in memory of the next routers, so that a sidecar made of those routers hints
 * the same, bit for bit.
 */
#include "engine/engine.h"

#include "base/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool needs_sidecar(enum pg_mode m)
{
    return m == PG_MODE_HINT || m == PG_MODE_PREGATE;
}

/* ------------------------------------------------------------------ finding ----------------- */

static bool try_path(struct pg_engine *e, const char *dir_and_stem, int n, const char *rest)
{
    size_t size = sizeof(e->sidecar_path);
    if (snprintf(e->sidecar_path, size, "%.*s%s", n, dir_and_stem, rest) >= (int)size ||
        access(e->sidecar_path, R_OK) != 0) {
        e->sidecar_path[0] = 0;
        return false;
    }
    return true;
}

/* MODEL.pregate.gguf, or pregate-MODEL.gguf, in the model's folder. */
static bool find_beside(struct pg_engine *e)
{
    char rest[512];
    const char *path = e->opt.model, *base = strrchr(path, '/');
    size_t n = strlen(path);
    int stem = n > 5 && strcmp(path + n - 5, ".gguf") == 0 ? (int)n - 5 : (int)n;
    base = base ? base + 1 : path;
    return try_path(e, path, stem, ".pregate.gguf") ||
           (snprintf(rest, sizeof(rest), "pregate-%s", base) < (int)sizeof(rest) &&
            try_path(e, path, (int)(base - path), rest));
}

static void use_head(struct pg_engine *e)
{
    e->level = e->head.level;
    e->trained_to_decide = e->head.decides;
    e->form = e->head.form;
    e->weigher = e->head.weigher;
}

static int check_level(const struct pg_engine *e, struct pg_err *err)
{
    if (e->opt.lookahead && e->opt.lookahead != e->head.level) {
        return pg_fail(err, PG_EARG, "%s: pregate.level: %d found, --lookahead %d wanted",
                       e->sidecar_path, e->head.level, e->opt.lookahead);
    }
    return 0;
}

static int take_named(struct pg_engine *e, struct pg_err *err)
{
    size_t n = strlen(e->opt.sidecar);
    if (n >= sizeof(e->sidecar_path)) {
        return pg_fail(err, PG_EARG, "the path of the sidecar has %zu bytes, %zu are the most", n,
                       sizeof(e->sidecar_path) - 1);
    }
    memcpy(e->sidecar_path, e->opt.sidecar, n + 1);
    return 0;
}

/* What lies beside a model and is no sidecar of its shape is none of mode auto's business. */
static void find_for_auto(struct pg_engine *e)
{
    if (find_beside(e) && pg_sidecar_peek(&e->model, e->sidecar_path, &e->head, NULL))
        e->sidecar_path[0] = 0;
    e->sidecar_found = e->sidecar_path[0];
}

/* One that is named must be a sidecar for this model, even where the mode does not use it. */
int pg_sidecar_find(struct pg_engine *e, struct pg_err *err)
{
    bool used = needs_sidecar(e->opt.mode);
    if (e->opt.sidecar) {
        PG_TRY(take_named(e, err));
    } else if (e->opt.mode == PG_MODE_AUTO) {
        find_for_auto(e);
        return 0;
    } else if (!used) {
        return 0;
    } else if (!find_beside(e)) {
        return pg_fail(err, PG_EARG,
                       "mode %s needs pre-gates, and there is no sidecar beside %s; name one, or "
                       "make one with `pregate sidecar MODEL -o FILE`",
                       pg_mode_name(e->opt.mode), e->opt.model);
    }
    PG_TRY(pg_sidecar_peek(&e->model, e->sidecar_path, &e->head, err));
    if (!used)
        return 0;
    PG_TRY(check_level(e, err));
    use_head(e);
    return 0;
}

bool pg_sidecar_may_hint(const struct pg_engine *e)
{
    return e->sidecar_path[0] && !e->head.decides && !check_level(e, NULL);
}

void pg_sidecar_settle(struct pg_engine *e)
{
    if (e->opt.mode == PG_MODE_HINT) {
        use_head(e);
        return;
    }
    e->level = e->opt.lookahead ? e->opt.lookahead : 1;
    e->trained_to_decide = false;
    e->form = (struct pg_pregate_form){0};
}

/* ------------------------------------------------------------------ tables ------------------ */

static int n_tables(const struct pg_engine *e)
{
    bool any = e->opt.mode == PG_MODE_LOOKAHEAD || needs_sidecar(e->opt.mode);
    return any ? pg_n_pregates(&e->model, e->level) : 0;
}

size_t pg_tables_bytes(const struct pg_engine *e)
{
    struct pg_pregate shape;
    size_t each = pg_pregate_place(&e->model, &e->form, NULL, &shape);
    return (size_t)n_tables(e) * each * sizeof(float);
}

/* Mode auto has taken what lies beside the model for its sidecar, and it is another's. */
static int do_without(struct pg_engine *e, struct pg_err *err)
{
    pg_say(PG_LOG_OF(&e->opt), PG_LOG_WARN, "%s", err ? err->text : "the sidecar cannot be used");
    e->sidecar_path[0] = 0;
    e->sidecar_found = false;
    e->opt.mode = e->plan.mode = PG_MODE_LOOKAHEAD;
    pg_sidecar_settle(e);
    return pg_tables_fill(e, err);
}

int pg_tables_fill(struct pg_engine *e, struct pg_err *err)
{
    char hash[17];
    float *at = e->tables.base;
    for (int moe = 0; n_tables(e) && moe < e->model.n_moe; moe++) {
        if (pg_moe_ahead(&e->model, moe, e->level) < 0)
            continue;
        if (e->opt.mode == PG_MODE_LOOKAHEAD)
            pg_pregate_fold(&e->model, moe, e->level, at);
        at += pg_pregate_place(&e->model, &e->form, at, &e->pregates[moe]);
    }
    if (!e->sidecar_path[0])
        return 0;
    pg_model_hash(&e->model, e->routers, hash);
    const struct pg_sidecar s = {.model = &e->model,
                                 .hash = hash,
                                 .level = e->level,
                                 .gates = needs_sidecar(e->opt.mode) ? e->pregates : NULL};
    int rc = pg_sidecar_load(&s, e->sidecar_path, err);
    return rc && e->sidecar_found ? do_without(e, err) : rc;
}

/* ------------------------------------------------------------------ making ------------------ */

/* The untrained pre-gates of a loaded model. */
static int write_folded(const struct pg_engine *e, const char *out, int level, struct pg_err *err)
{
    const struct pg_model *m = &e->model;
    char hash[17];
    size_t n = (size_t)m->n_moe, each = (size_t)m->h.n_expert * (size_t)m->h.n_embd;
    struct pg_pregate *gates = pg_calloc(n, sizeof(*gates));
    float *table = pg_calloc(n, each * sizeof(float));
    int rc = PG_ENOMEM;
    if (gates && table) {
        for (size_t i = 0; i < n; i++) {
            if (pg_moe_ahead(m, (int)i, level) < 0)
                continue;
            gates[i].inp =
                (struct pg_weight){PG_TYPE_F32, m->h.n_embd, m->h.n_expert, table + i * each};
            pg_pregate_fold(m, (int)i, level, table + i * each);
        }
        pg_model_hash(m, e->routers, hash);
        struct pg_sidecar s = {
            .model = m, .hash = hash, .level = level, .weigher = PG_GATE_ROUTER, .gates = gates};
        rc = pg_sidecar_save(&s, out, err);
    } else {
        pg_fail(err, rc, "out of memory");
    }
    free(table);
    free(gates);
    return rc;
}

int pg_sidecar_write(const char *model, const char *out, int level, struct pg_err *err)
{
    pg_engine *e;
    struct pg_options opt = {PG_OPTIONS_INIT, .model = model, .mode = PG_MODE_ONDEMAND, .n_ctx = 1,
                             .n_threads = 1};
    level = level ? level : 1;
    if (pg_same_file(model, out)) {
        return pg_fail(err, PG_EARG, "%s is the model itself; the sidecar needs a file of its own",
                       out);
    }
    PG_TRY(pg_engine_open(&e, &opt, err));
    int rc;
    if (pg_n_pregates(&e->model, 1) == 0) {
        rc = pg_fail(err, PG_EARG,
                     "%s: %d blocks with experts found, 2 wanted at least: a pre-gate is made of a "
                     "later block's router",
                     model, e->model.n_moe);
    } else if (level < 1 || level > pg_most_level(&e->model)) {
        rc = pg_fail(err, PG_EARG,
                     "level %d: the model has %d blocks with experts, so 1 to %d is possible",
                     level, e->model.n_moe, pg_most_level(&e->model));
    } else {
        rc = write_folded(e, out, level, err);
    }
    pg_engine_close(e);
    return rc;
}
