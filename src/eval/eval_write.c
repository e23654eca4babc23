/* SPDX-License-Identifier: MIT
 * Greedy answers to many prompts at a time, and their marks.
 *
 * Marks are kept by item and summed in their order, so that what runs side by side changes no bit
 * of the result.
 *
 * A prompt that is longer than the context, less what may be written, loses tokens: of a question
 * the beginning of the passage, of a document its end.
 *
 * Of a model with an encoder the prompt is the source, in the form that T5 was trained with, and
 * what is too long for a source loses its end; the answer ends where the model ends it.
 */
#include "data/text.h"
#include "engine/lanes.h"
#include "eval/eval.h"
#include "eval/predictions.h"
#include "eval/score.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define ASK_BEFORE "\n\nQuestion: "
#define ASK_AFTER  "\nAnswer:"
#define SUM_UP     "\n\nSummary:"

#define SOURCE_ASKS    "question: "
#define SOURCE_PASSAGE " context: "
#define SOURCE_SUMS_UP "summarize: "

enum { N_MARKS = 3, ANSWER_TOKENS = 32, SUMMARY_TOKENS = 128 };

struct marks {
    double of[N_MARKS]; /* exact match and F1; or ROUGE-1, -2 and -L */
};

/* What a lane has written. */
struct answer {
    struct pg_detok detok;
    char *text;
    size_t n_text, cap;
    int n_tokens;
};

struct writing {
    struct pg_evaluation *v;
    struct pg_items items;
    struct marks *marks; /* [items.n] */
    char **said;         /* [items.n] the answers, for the file of predictions; NULL: none */
    struct pg_outfile predictions; /* while `said` is there */
    struct answer *answer;         /* [n_lanes] */
    struct pg_lanes lanes;
    struct pg_tokens prompt; /* of the item at hand */
    bool encodes;            /* the prompt is a source */
    int next;                /* item that no lane has taken */
    int room;                /* tokens of a prompt at most */
    int n_tail;              /* tokens of SUM_UP */
    uint64_t n_cut, n_tokens;
};

/* ------------------------------------------------------------------ prompts ----------------- */

static void put_parts(const struct writing *w, const struct pg_item *item, const char *part[4])
{
    const char *ask = item->question ? item->question : "";
    if (w->encodes) {
        part[0] = item->question ? SOURCE_ASKS : SOURCE_SUMS_UP;
        part[1] = ask;
        part[2] = item->question ? SOURCE_PASSAGE : "";
        part[3] = item->passage;
    } else {
        part[0] = item->passage;
        part[1] = item->question ? ASK_BEFORE : SUM_UP;
        part[2] = ask;
        part[3] = item->question ? ASK_AFTER : "";
    }
}

/* For free(). */
static char *prompt_text(const struct writing *w, const struct pg_item *item)
{
    const char *part[4];
    size_t n = 1, at = 0;
    put_parts(w, item, part);
    for (size_t i = 0; i < PG_COUNT(part); i++)
        n += strlen(part[i]);
    char *s = malloc(n);
    for (size_t i = 0; s && i < PG_COUNT(part); i++) {
        size_t length = strlen(part[i]);
        memcpy(s + at, part[i], length);
        at += length;
    }
    if (s)
        s[at] = '\0';
    return s;
}

/* The text as w->prompt, which is only looked at until the next. */
static int make_tokens(struct writing *w, const char *text, struct pg_err *err)
{
    w->prompt.n = 0;
    return pg_tokens_add(&w->prompt, w->v->engine->vocab, (struct pg_str){text, strlen(text)},
                         w->encodes ? 0 : PG_TOKENIZE_BOS, err);
}

/* The tokens as the sequence's source, of which the end goes that is too much. */
static void fit_source(struct writing *w, struct pg_sequence *s)
{
    size_t most = (size_t)w->room - 1, n = PG_MIN(w->prompt.n, most);
    w->n_cut += w->prompt.n > most;
    memcpy(s->source, w->prompt.id, n * sizeof(*s->source));
    s->source[n] = pg_vocab_eos(w->v->engine->vocab);
    s->n_source = (int)n + 1;
    s->n = 1;
}

/* The tokens into the sequence, without those in the middle that are too many. */
static void fit_prompt(struct writing *w, struct pg_sequence *s)
{
    int32_t bos = pg_vocab_bos(w->v->engine->vocab);
    const int32_t *ids = w->prompt.id;
    size_t n = w->prompt.n;
    size_t room = (size_t)w->room, opened = n > 0 && bos >= 0 && ids[0] == bos;
    size_t extra = n > room ? n - room : 0, head = n;
    if (extra) {
        bool question = w->items.item[s->tag].question != NULL;
        head = question || w->n_tail >= w->room ? opened : room - (size_t)w->n_tail;
        w->n_cut++;
    }
    memcpy(s->token, ids, PG_MIN(head, n) * sizeof(*ids));
    if (extra)
        memcpy(s->token + head, ids + head + extra, (room - head) * sizeof(*ids));
    s->n = (int)(n - extra);
}

/* Tagged with the number of the item. */
static int take_item(void *user, struct pg_sequence *s, struct pg_err *err)
{
    static const struct pg_sampling greedy = {PG_SAMPLING_INIT, .temp = 0};
    struct writing *w = user;
    struct answer *a = &w->answer[s->lane];
    if (w->next == w->items.n)
        return 0;
    a->detok = (struct pg_detok){.vocab = w->v->engine->vocab, .not_first = true};
    a->n_text = 0;
    a->n_tokens = 0;
    s->how = &greedy;
    s->tag = (uint64_t)w->next++;
    char *text = prompt_text(w, &w->items.item[s->tag]);
    if (!text)
        return pg_fail(err, PG_ENOMEM, "out of memory");
    int rc = make_tokens(w, text, err);
    free(text);
    PG_TRY(rc);
    if (w->encodes)
        fit_source(w, s);
    else
        fit_prompt(w, s);
    return 1;
}

/* How many tokens the end of a summary's prompt has. */
static int measure_tail(struct writing *w, struct pg_err *err)
{
    const char *text[] = {"a" SUM_UP, "a"};
    size_t n[2];
    for (int i = 0; i < 2; i++) {
        PG_TRY(make_tokens(w, text[i], err));
        n[i] = w->prompt.n;
    }
    w->n_tail = n[0] > n[1] ? (int)(n[0] - n[1]) : 0;
    return 0;
}

/* ------------------------------------------------------------------ answers ----------------- */

/* The first line that has more than white space, or all lines from there on; whether the end has
 * come. */
static bool find_line(const struct answer *l, bool all, size_t *from, size_t *end)
{
    for (*from = 0; *from < l->n_text && memchr(" \t\r\n", l->text[*from], 4); (*from)++) {
    }
    const char *stop = all ? NULL : memchr(l->text + *from, '\n', l->n_text - *from);
    *end = stop ? (size_t)(stop - l->text) : l->n_text;
    return stop != NULL;
}

/* Whether one of the answers is more than articles and punctuation: by the rules of v2.0 those that
 * are not do not count then. */
static bool has_words(const struct pg_item *item)
{
    for (int i = 0; i < item->n_answers; i++)
        if (!pg_score_is_empty(item->answer[i]))
            return true;
    return false;
}

/* The best of the right answers counts, for each mark by itself. */
static int mark_answer(struct marks *m, const struct writing *w, uint64_t tag, const char *text,
                       struct pg_err *err)
{
    const struct pg_item *item = &w->items.item[tag];
    bool drop = item->question && w->items.v2 && has_words(item);
    for (int i = 0; i < item->n_answers; i++) {
        const char *right = item->answer[i];
        struct marks one = {{0}};
        if (drop && pg_score_is_empty(right))
            continue;
        if (item->question) {
            one.of[0] = pg_exact_match(text, right);
            one.of[1] = pg_score_f1(text, right, w->items.v2);
        } else {
            one.of[0] = pg_rouge_n(text, right, 1).f1;
            one.of[1] = pg_rouge_n(text, right, 2).f1;
            one.of[2] = pg_rouge_l(text, right).f1;
        }
        for (int k = 0; k < N_MARKS; k++) {
            if (isnan(one.of[k]))
                return pg_fail(err, PG_ENOMEM, "out of memory: marks of a long text");
            m->of[k] = PG_MAX(m->of[k], one.of[k]);
        }
    }
    return 0;
}

/* Appends the text of a token, or with -1 what is held of one. */
static int append(struct answer *l, int32_t token, struct pg_err *err)
{
    if (pg_reserve(&l->text, &l->cap, l->n_text + PG_PIECE_MAX + 1, 1))
        return pg_fail(err, PG_ENOMEM, "out of memory: an answer of %zu bytes", l->n_text);
    l->n_text += pg_detokenize(&l->detok, token, l->text + l->n_text);
    return 0;
}

static int end_item(void *user, const struct pg_sequence *s, struct pg_err *err)
{
    struct writing *w = user;
    struct answer *a = &w->answer[s->lane];
    size_t from, end;
    PG_TRY(append(a, -1, err));
    find_line(a, w->encodes, &from, &end);
    a->text[end] = '\0';
    w->n_tokens += (uint64_t)a->n_tokens;
    if (w->said && !(w->said[s->tag] = strdup(a->text + from)))
        return pg_fail(err, PG_ENOMEM, "out of memory: an answer of %zu bytes", end - from);
    return mark_answer(&w->marks[s->tag], w, s->tag, a->text + from, err);
}

/* The answer ends with the first line that says something, if nothing else ends it. */
static int write_token(void *user, const struct pg_sequence *s, int32_t token, struct pg_err *err)
{
    struct writing *w = user;
    struct answer *a = &w->answer[s->lane];
    size_t from, end;
    if (pg_vocab_is_end(w->v->engine->vocab, token))
        return 0;
    if (token < pg_vocab_n(w->v->engine->vocab)) /* a model may have more rows than pieces */
        PG_TRY(append(a, token, err));
    a->n_tokens++;
    bool ended = a->n_text > 0 && find_line(a, w->encodes, &from, &end);
    return !ended && a->n_tokens < w->v->opt.n_predict;
}

/* ------------------------------------------------------------------ the task ---------------- */

static int open_lanes(struct writing *w, struct pg_err *err)
{
    struct pg_lanes_options o = {
        .engine = w->v->engine,
        .n_most = w->items.n,
        .take = take_item,
        .token = write_token,
        .end = end_item,
        .user = w,
        .progress = w->v->opt.progress,
        .progress_user = w->v->opt.user,
        .what = "answers",
        .total = (uint64_t)w->items.n,
        .count_sequences = true,
    };
    PG_TRY(pg_lanes_open(&w->lanes, &o, err));
    w->answer = pg_calloc((size_t)w->lanes.n_lanes, sizeof(*w->answer));
    w->marks = pg_calloc((size_t)w->items.n, sizeof(*w->marks));
    return w->answer && w->marks ? 0 : pg_fail(err, PG_ENOMEM, "out of memory");
}

/* Before the work, not after it. */
static int open_predictions(struct writing *w, struct pg_err *err)
{
    if (!w->v->opt.predictions)
        return 0;
    PG_TRY(pg_outfile_open(&w->predictions, w->v->opt.predictions, err));
    w->said = pg_calloc((size_t)w->items.n, sizeof(*w->said));
    if (w->said)
        return 0;
    pg_outfile_abandon(&w->predictions);
    return pg_fail(err, PG_ENOMEM, "out of memory");
}

static int write_predictions(struct writing *w, struct pg_err *err)
{
    for (int i = 0; w->said && i < w->items.n; i++)
        PG_TRY(pg_prediction_write(&w->predictions, &w->items.item[i], w->said[i], w->marks[i].of,
                                   err));
    return w->said ? pg_outfile_commit(&w->predictions, err) : 0;
}

/* Tokens of a prompt at most, or of a source. */
static int find_room(struct writing *w, struct pg_err *err)
{
    const struct pg_engine *e = w->v->engine;
    const int least = w->encodes ? 1 : 2, left = e->opt.n_ctx - w->v->opt.n_predict;
    w->room = w->encodes ? e->opt.n_source : left;
    if (left < least) {
        return pg_fail(err, PG_ECONTEXT,
                       "a context of %d tokens has no room for %s beside %d tokens of an answer",
                       e->opt.n_ctx, w->encodes ? "its first token" : "a prompt",
                       w->v->opt.n_predict);
    }
    if (w->encodes && pg_vocab_n(e->vocab) > 0 && pg_vocab_eos(e->vocab) < 0)
        return pg_fail(err, PG_ENOTSUP, "the vocabulary has no end token, which sources end with");
    return 0;
}

static int open_writing(struct writing *w, struct pg_err *err)
{
    struct pg_eval_options *o = &w->v->opt;
    bool questions = o->task == PG_EVAL_QA;
    o->n_predict = o->n_predict ? o->n_predict : questions ? ANSWER_TOKENS : SUMMARY_TOKENS;
    PG_TRY(find_room(w, err));
    PG_TRY(pg_items_open(&w->items, o->data, questions, o->n_max, err));
    PG_TRY(measure_tail(w, err));
    PG_TRY(open_predictions(w, err));
    return open_lanes(w, err);
}

static void report(const struct writing *w)
{
    struct pg_eval_report *r = w->v->report;
    struct marks sum = {{0}};
    for (int i = 0; i < w->items.n; i++)
        for (int k = 0; k < N_MARKS; k++)
            sum.of[k] += w->marks[i].of[k];
    double part = 100.0 / w->items.n;
    r->n_docs = (uint64_t)w->items.n;
    r->n_cut = w->n_cut;
    r->n_skipped = w->items.n_skipped;
    r->n_tokens = w->n_tokens;
    if (w->v->opt.task == PG_EVAL_QA) {
        r->exact_match = sum.of[0] * part;
        r->f1 = sum.of[1] * part;
    } else {
        r->rouge1 = sum.of[0] * part;
        r->rouge2 = sum.of[1] * part;
        r->rougeL = sum.of[2] * part;
    }
}

static void close_writing(struct writing *w)
{
    for (int i = 0; w->answer && i < w->lanes.n_lanes; i++)
        free(w->answer[i].text);
    free(w->answer);
    free(w->marks);
    for (int i = 0; w->said && i < w->items.n; i++)
        free(w->said[i]);
    if (w->said)
        pg_outfile_abandon(&w->predictions);
    free(w->said);
    free(w->prompt.id);
    pg_lanes_close(&w->lanes);
    pg_items_close(&w->items);
}

int pg_eval_write(struct pg_evaluation *v, struct pg_err *err)
{
    struct writing w = {.v = v, .encodes = v->engine->model.h.n_stack > 1};
    int rc = open_writing(&w, err);
    rc = rc ? rc : pg_lanes_run(&w.lanes, err);
    rc = rc ? rc : write_predictions(&w, err);
    if (!rc)
        report(&w);
    close_writing(&w);
    return rc;
}
