/* SPDX-License-Identifier: MIT
 * A reply, token by token: what is a mark and what is text, what goes out and what is held back.
 *
 * A mark for which the vocabulary has a token is that token and nothing else: spelled with other
 * tokens it is text. A mark without a token is told by its bytes, and only where it may stand;
 * bytes that may still become one are held in `pending`.
 */
#include "text/reply_impl.h"

#include "base/ranges.h"
#include "text/utf8.h"
#include "text/vocab_impl.h"

#include <stdlib.h>
#include <string.h>

#define BIT(mark) (1u << PG_MARK_##mark)

/* ---- parts ---- */

/* Bytes of s[0..n) before a character that is not whole at its end. */
static size_t whole_characters(const char *s, size_t n)
{
    for (size_t back = 1; back < 4 && back <= n; back++) {
        if (((unsigned char)s[n - back] & 0xC0) == 0x80)
            continue;
        return pg_utf8_scan(s + n - back, back) ? n : n - back;
    }
    return n;
}

static void give(pg_reply *r, const char *s, size_t n)
{
    const bool of_call = r->out_kind == PG_REPLY_CALL || r->out_kind == PG_REPLY_ARGUMENTS;
    struct pg_reply_part part = {r->out_kind, of_call ? r->n_calls - 1 : 0, s, n};
    if (n)
        r->part(r->user, &part);
}

/* What is there goes out; half a character stays, unless nothing of its kind follows. */
static void flush(pg_reply *r, bool last)
{
    size_t n = whole_characters(r->out, r->n_out);
    if (last && n < r->n_out) {
        memcpy(r->out + n, "\xEF\xBF\xBD", 3);
        r->n_out = n += 3;
    }
    give(r, r->out, n);
    r->n_out -= n;
    memmove(r->out, r->out + n, r->n_out);
}

void pg_reply_out(pg_reply *r, enum pg_reply_kind kind, const char *s, size_t n)
{
    if (kind != r->out_kind || kind == PG_REPLY_CALL)
        flush(r, true);
    r->out_kind = kind;
    while (n) {
        const size_t step = PG_MIN(n, PG_REPLY_OUT - r->n_out);
        memcpy(r->out + r->n_out, s, step);
        r->n_out += step;
        s += step;
        n -= step;
        if (r->n_out == PG_REPLY_OUT)
            flush(r, false);
    }
}

/* White space waits where a mark that swallows it may follow. */
static bool holds_space(const pg_reply *r)
{
    if (r->state == PG_AT_THINK && !r->inlined)
        return true;
    return (r->has_tools && r->form.calls) || (!r->begun && r->form.mark[PG_MARK_THINK]);
}

static void space_out(pg_reply *r, enum pg_reply_kind kind)
{
    pg_reply_out(r, kind, r->space, (size_t)r->n_space);
    r->n_space = 0;
}

static void say_one(pg_reply *r, enum pg_reply_kind kind, char c)
{
    if (pg_reply_is_space(c)) {
        if (r->skips)
            return;
        if (r->n_space == PG_REPLY_SPACE)
            space_out(r, kind);
        if (holds_space(r)) {
            r->space[r->n_space++] = c;
            return;
        }
    } else {
        r->skips = false;
        r->begun |= r->state != PG_AT_THINK;
    }
    space_out(r, kind);
    pg_reply_out(r, kind, &c, 1);
}

void pg_reply_say(pg_reply *r, enum pg_reply_kind kind, const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        say_one(r, kind, s[i]);
}

void pg_reply_say_mark(pg_reply *r, enum pg_mark m)
{
    space_out(r, PG_REPLY_TEXT);
    pg_reply_out(r, PG_REPLY_TEXT, r->form.mark[m], strlen(r->form.mark[m]));
}

/* ---- text and reasoning ---- */

void pg_reply_think(pg_reply *r)
{
    if (r->inlined || r->begun)
        space_out(r, PG_REPLY_TEXT);
    r->n_space = 0;
    r->skips = !r->inlined;
    r->reasoned = true;
    r->state = PG_AT_THINK;
}

void pg_reply_think_end(pg_reply *r)
{
    if (r->inlined)
        space_out(r, PG_REPLY_TEXT);
    r->n_space = 0;
    r->skips = !r->inlined;
    r->reasoned = true;
    r->state = PG_AT_TEXT;
}

static bool text_take(pg_reply *r, char c)
{
    const bool bare = r->form.calls == PG_CALLS_LLAMA || r->form.calls == PG_CALLS_PLAIN;
    if (bare && r->has_tools && !r->begun && (c == '{' || c == '[')) {
        pg_reply_hold(r, PG_AT_OPEN, PG_MARKS);
        return false;
    }
    pg_reply_say(r, PG_REPLY_TEXT, &c, 1);
    return true;
}

static bool think_take(pg_reply *r, char c)
{
    pg_reply_say(r, r->inlined ? PG_REPLY_TEXT : PG_REPLY_REASONING, &c, 1);
    return true;
}

static bool think_mark(pg_reply *r, enum pg_mark m)
{
    if (r->form.calls == PG_CALLS_HARMONY)
        return pg_reply_message_mark(r, m);
    if (r->inlined)
        pg_reply_say_mark(r, m);
    pg_reply_think_end(r);
    return true;
}

/* ---- marks ---- */

/* Marks around a message. */
static uint32_t of_messages(const pg_reply *r)
{
    const uint32_t all = BIT(START) | BIT(CHANNEL) | BIT(MESSAGE_END) | BIT(RETURN) | BIT(CALL_END);
    return r->form.calls == PG_CALLS_HARMONY ? all : 0;
}

/* What the state has a use for. */
static uint32_t known(const pg_reply *r)
{
    const uint32_t messages = of_messages(r), ends = BIT(CALL_END) | BIT(ONE_END);
    const bool fenced = r->form.calls == PG_CALLS_PLAIN && r->begun;
    const uint32_t begins = BIT(THINK) | (r->reasoned ? 0 : BIT(THINK_END)) |
                            (fenced ? 0 : BIT(CALL)) | BIT(FUNCTION) | messages;
    switch (r->state) {
    case PG_AT_TEXT:
        return begins | (r->open ? ends : 0);
    case PG_AT_AFTER:
        return begins | (r->open ? ends | BIT(ONE) | BIT(FENCE_END) : 0);
    case PG_AT_THINK:
        return BIT(THINK_END) | messages;
    case PG_AT_OPEN:
        return BIT(FUNCTION) | BIT(ONE);
    case PG_AT_NAME:
        return BIT(ARGS) | BIT(ID);
    case PG_AT_ID:
        return BIT(ARGS);
    case PG_AT_OPEN_ARGS:
        return BIT(FENCE) | messages;
    case PG_AT_ARGS:
        return r->in_string ? 0 : ends | messages;
    case PG_AT_HEADER:
        return BIT(MESSAGE) | BIT(CONSTRAIN) | messages;
    case PG_AT_XML_BETWEEN:
        return BIT(PARAMETER) | BIT(FUNCTION_END) | BIT(CALL_END);
    case PG_AT_XML_VALUE:
        return BIT(PARAMETER_END);
    default:
        return 0;
    }
}

/* The same of marks that came as tokens: those of calls end whatever call is under way. */
static uint32_t known_token(const pg_reply *r)
{
    const uint32_t calls = BIT(CALL) | BIT(CALL_END) | BIT(ONE) | BIT(ONE_END) | of_messages(r);
    const bool in_call =
        r->state != PG_AT_TEXT && r->state != PG_AT_THINK && r->state != PG_AT_AFTER;
    return known(r) | (in_call ? calls : 0);
}

/* And as bytes: without those that have a token. Reasoning begins a reply, or is a word in it. */
static uint32_t known_text(const pg_reply *r)
{
    uint32_t set = known(r) & ~(r->begun ? BIT(THINK) : 0);
    for (int m = 0; m < PG_MARKS; m++)
        if (!r->form.mark[m] || r->id[m] >= 0)
            set &= ~(1u << m);
    return set;
}

/* ---- bytes ---- */

static bool take(pg_reply *r, char c)
{
    static pg_reply_take *const of_state[PG_AT_STATES] = {
        [PG_AT_TEXT] = text_take,
        [PG_AT_THINK] = think_take,
        [PG_AT_OPEN] = pg_reply_open_take,
        [PG_AT_NAME] = pg_reply_name_take,
        [PG_AT_ID] = pg_reply_id_take,
        [PG_AT_OPEN_ARGS] = pg_reply_open_args_take,
        [PG_AT_JSON] = pg_reply_json_take,
        [PG_AT_ARGS] = pg_reply_args_take,
        [PG_AT_AFTER] = pg_reply_after_take,
        [PG_AT_HEADER] = pg_reply_header_take,
        [PG_AT_XML_NAME] = pg_reply_xml_take,
        [PG_AT_XML_BETWEEN] = pg_reply_xml_take,
        [PG_AT_XML_KEY] = pg_reply_xml_take,
        [PG_AT_XML_VALUE] = pg_reply_xml_take,
    };
    return of_state[r->state](r, c);
}

static bool mark(pg_reply *r, enum pg_mark m)
{
    static pg_reply_mark *const of_state[PG_AT_STATES] = {
        [PG_AT_TEXT] = pg_reply_after_mark,   [PG_AT_THINK] = think_mark,
        [PG_AT_OPEN] = pg_reply_open_mark,    [PG_AT_NAME] = pg_reply_open_mark,
        [PG_AT_ID] = pg_reply_open_mark,      [PG_AT_OPEN_ARGS] = pg_reply_open_mark,
        [PG_AT_JSON] = pg_reply_call_mark,    [PG_AT_ARGS] = pg_reply_call_mark,
        [PG_AT_AFTER] = pg_reply_after_mark,  [PG_AT_HEADER] = pg_reply_header_mark,
        [PG_AT_XML_NAME] = pg_reply_xml_mark, [PG_AT_XML_BETWEEN] = pg_reply_xml_mark,
        [PG_AT_XML_KEY] = pg_reply_xml_mark,  [PG_AT_XML_VALUE] = pg_reply_xml_mark,
    };
    return of_state[r->state](r, m);
}

/* The mark that `pending` is (PG_MARKS: none), and whether it may become one. */
static enum pg_mark pending_mark(const pg_reply *r, bool *may)
{
    const uint32_t set = known_text(r);
    const size_t n = (size_t)r->n_pending;
    *may = false;
    for (int m = 0; m < PG_MARKS; m++) {
        if (!(set >> m & 1) || strncmp(r->form.mark[m], r->pending, n))
            continue;
        if (!r->form.mark[m][n])
            return (enum pg_mark)m;
        *may = true;
    }
    return PG_MARKS;
}

/* The first of the pending bytes is no mark's beginning. */
static void pending_step(pg_reply *r)
{
    if (take(r, r->pending[0]))
        memmove(r->pending, r->pending + 1, (size_t)--r->n_pending);
}

static void put_byte(pg_reply *r, char c)
{
    r->pending[r->n_pending++] = c;
    while (r->n_pending) {
        bool may;
        const enum pg_mark m = pending_mark(r, &may);
        if (m < PG_MARKS && mark(r, m))
            r->n_pending = 0;
        else if (m == PG_MARKS && may)
            return;
        else if (m == PG_MARKS)
            pending_step(r);
    }
}

static void put_bytes(pg_reply *r, const char *s, size_t n)
{
    if (r->raw)
        pg_reply_out(r, PG_REPLY_TEXT, s, n);
    else
        for (size_t i = 0; i < n; i++)
            put_byte(r, s[i]);
}

/* Nothing follows that could make marks of them. */
static void pending_settle(pg_reply *r)
{
    while (r->n_pending)
        pending_step(r);
}

/* ---- tokens ---- */

/* Whether the mark means something where the reply is. */
static bool put_mark(pg_reply *r, enum pg_mark m)
{
    char rest[PG_PIECE_MAX];
    put_bytes(r, rest, pg_detokenize(&r->detok, -1, rest));
    pending_settle(r);
    while (known_token(r) >> m & 1) {
        if (mark(r, m)) {
            r->detok.not_first = true;
            return true;
        }
    }
    return false;
}

static enum pg_mark mark_of(const pg_reply *r, int32_t id)
{
    int m = 0;
    while (m < PG_MARKS && r->id[m] != id)
        m++;
    return (enum pg_mark)m;
}

static int check_put(const pg_reply *r, struct pg_err *err)
{
    if (r->ended)
        return pg_fail(err, PG_EARG, "reply: it has ended, nothing may be put behind that");
    return 0;
}

static int finish_put(pg_reply *r, struct pg_err *err)
{
    flush(r, r->ended);
    return r->failed ? pg_fail(err, r->failed, "reply: out of memory") : 0;
}

int pg_reply_put(pg_reply *r, int32_t id, struct pg_err *err)
{
    char piece[PG_PIECE_MAX];
    PG_TRY(check_put(r, err));
    if (id < 0 || id >= pg_vocab_n(r->vocab))
        return pg_fail(err, PG_EARG, "reply: token id %d found, 0 to %d wanted", id,
                       pg_vocab_n(r->vocab) - 1);
    const enum pg_mark m = mark_of(r, id);
    if (m < PG_MARKS && !r->raw && put_mark(r, m))
        return finish_put(r, err);
    if (m == PG_MARKS && pg_vocab_is_end(r->vocab, id))
        return 0;
    const size_t n = pg_detokenize(&r->detok, id, piece);
    put_bytes(r, piece, n);
    if (m < PG_MARKS && r->raw && !n)
        pg_reply_say_mark(r, m);
    return finish_put(r, err);
}

int pg_reply_text(pg_reply *r, const char *text, size_t n, struct pg_err *err)
{
    PG_TRY(check_put(r, err));
    put_bytes(r, text, n);
    return finish_put(r, err);
}

int pg_reply_end(pg_reply *r, struct pg_err *err)
{
    char rest[PG_PIECE_MAX];
    PG_TRY(check_put(r, err));
    if (r->vocab)
        put_bytes(r, rest, pg_detokenize(&r->detok, -1, rest));
    pending_settle(r);
    pg_reply_call_end(r);
    space_out(r, r->state == PG_AT_THINK && !r->inlined ? PG_REPLY_REASONING : PG_REPLY_TEXT);
    r->ended = true;
    return finish_put(r, err);
}

int pg_reply_n_calls(const pg_reply *r)
{
    return r->n_calls;
}

/* ---- opening and closing ---- */

/* Whether the prompt ends with the word, white space behind it not counted. */
static bool ends_with(const char *s, size_t n, const char *word)
{
    const size_t n_word = strlen(word);
    while (n && pg_reply_is_space(s[n - 1]))
        n--;
    return n >= n_word && !memcmp(s + n - n_word, word, n_word);
}

/* Marks that will not be looked for are none. */
static void choose_marks(pg_reply *r)
{
    for (int m = 0; m < PG_MARKS; m++) {
        const bool thinks = m == PG_MARK_THINK || m == PG_MARK_THINK_END;
        if (!r->has_tools && !thinks && r->form.calls != PG_CALLS_HARMONY)
            r->form.mark[m] = NULL;
        const char *text = r->form.mark[m];
        PG_ASSERT(!text || strlen(text) < PG_MARK_MAX);
        r->id[m] = text && r->vocab ? pg_vocab_special(r->vocab, text) : -1;
    }
}

static void begin(pg_reply *r, const char *prompt, size_t n)
{
    const char *think = r->form.mark[PG_MARK_THINK];
    n = prompt ? n : 0;
    if (r->raw)
        return;
    if (think && ends_with(prompt, n, think))
        pg_reply_think(r);
    else if (r->form.calls == PG_CALLS_HARMONY && ends_with(prompt, n, "<|start|>assistant"))
        pg_reply_hold(r, PG_AT_HEADER, PG_MARKS);
}

int pg_reply_open_form(pg_reply **out, const struct pg_reply_options *opt,
                       const struct pg_reply_form *form, struct pg_err *err)
{
    struct pg_reply_options o;
    *out = NULL;
    PG_TRY(pg_options_take(PG_OPTIONS_REPLY, &o, opt, err));
    pg_reply *r = calloc(1, sizeof(*r));
    if (r)
        r->held = malloc(PG_REPLY_HELD);
    if (!r || !r->held) {
        pg_reply_close(r);
        return pg_fail(err, PG_ENOMEM, "reply: out of memory");
    }
    r->form = *form;
    r->vocab = o.vocab;
    r->detok.vocab = o.vocab;
    r->has_tools = o.has_tools;
    r->inlined = o.inline_reasoning;
    r->raw = o.inline_reasoning && !o.has_tools;
    r->part = o.part;
    r->user = o.user;
    choose_marks(r);
    begin(r, o.prompt, o.n_prompt);
    *out = r;
    return 0;
}

void pg_reply_close(pg_reply *r)
{
    if (!r)
        return;
    free(r->held);
    free(r);
}
