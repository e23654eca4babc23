/* SPDX-License-Identifier: MIT
 * The patterns are those of the models' own tokenizer files, written for PCRE2: white space is
 * Unicode's White_Space (PCRE2's \s has U+180E besides), and a repetition is possessive where what
 * follows it could not match anything that it gives back, so that long runs cost linear time.
 */
#include "text/pretok_rules.h"

#include "base/err.h"

#define WS       "\\t-\\r\\x{85}\\p{Z}" /* inside a class */
#define SPACE    "[" WS "]"
#define NO_SPACE "[^" WS "]"
#define SUFFIX   "(?i:'s|'t|'re|'ve|'m|'ll|'d)"

/* White space before a word leaves its last character to the word. */
#define BEFORE_WORD SPACE "+(?!" NO_SPACE ")|" SPACE "+"
#define LINES       SPACE "*[\\r\\n]+"

#define GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}++| ?\\p{N}++| ?[^" WS "\\p{L}\\p{N}]++|" BEFORE_WORD

/* The pattern of GPT-4's tokenizer and its descendants, with what they differ in. */
#define GPT4(word, digits, other)                                                                  \
    SUFFIX "|[^\\r\\n\\p{L}\\p{N}]?" word "|" digits "|" other "|" LINES "|" BEFORE_WORD
#define OTHER " ?[^" WS "\\p{L}\\p{N}]++[\\r\\n]*+"

/* Words by case: what does not begin with a capital, and what does. */
#define UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define BY_CASE(suffix, digits)                                                                    \
    "[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "++" suffix "|[^\\r\\n\\p{L}\\p{N}]?" UPPER           \
    "++" LOWER "*+" suffix "|" digits "| ?[^" WS "\\p{L}\\p{N}]++[\\r\\n/]*+|" LINES               \
    "|" BEFORE_WORD

/* DeepSeek: cased letters as of some Unicode version before 12, CJK as three ranges. */
#define CASED                                                                                      \
    "A-Za-z\\x{B5}\\x{C0}-\\x{D6}\\x{D8}-\\x{F6}\\x{F8}-\\x{1BA}\\x{1BC}-\\x{1BF}\\x{1C4}-"        \
    "\\x{293}\\x{295}-\\x{2AF}\\x{370}-\\x{373}\\x{376}\\x{377}\\x{37B}-\\x{37D}\\x{37F}"          \
    "\\x{386}\\x{388}-\\x{38A}\\x{38C}\\x{38E}-\\x{3A1}\\x{3A3}-\\x{3F5}\\x{3F7}-\\x{481}"         \
    "\\x{48A}-\\x{52F}\\x{531}-\\x{556}\\x{10A0}-\\x{10C5}\\x{13A0}-\\x{13F5}\\x{13F8}-"           \
    "\\x{13FD}\\x{1C90}-\\x{1CBA}\\x{1CBD}-\\x{1CBF}\\x{1D00}-\\x{1D2B}\\x{1D6B}-\\x{1D77}"        \
    "\\x{1D79}-\\x{1D9A}\\x{1E00}-\\x{1F15}\\x{1F18}-\\x{1F1D}\\x{1F20}-\\x{1F45}\\x{1F48}-"       \
    "\\x{1F4D}\\x{1F50}-\\x{1F57}\\x{1F59}\\x{1F5B}\\x{1F5D}\\x{1F5F}-\\x{1F7D}\\x{1F80}-"         \
    "\\x{1FB4}\\x{1FB6}-\\x{1FBC}\\x{1FBE}\\x{1FC2}-\\x{1FC4}\\x{1FC6}-\\x{1FCC}\\x{1FD0}-"        \
    "\\x{1FD3}\\x{1FD6}-\\x{1FDB}\\x{1FE0}-\\x{1FEC}\\x{1FF2}-\\x{1FF4}\\x{1FF6}-\\x{1FFC}"        \
    "\\x{2102}\\x{2107}\\x{210A}-\\x{2113}\\x{2115}\\x{2119}-\\x{211D}\\x{2124}\\x{2126}"          \
    "\\x{2128}\\x{212A}-\\x{212D}\\x{212F}-\\x{2134}\\x{2139}\\x{213C}-\\x{213F}\\x{2145}-"        \
    "\\x{2149}\\x{214E}\\x{2183}\\x{2184}\\x{2C00}-\\x{2C7B}\\x{2C7E}-\\x{2CE4}\\x{2CEB}-"         \
    "\\x{2CEE}\\x{2CF2}\\x{2CF3}\\x{A640}-\\x{A66D}\\x{A680}-\\x{A69B}\\x{A722}-\\x{A76F}"         \
    "\\x{A771}-\\x{A787}\\x{A78B}-\\x{A78E}\\x{AB70}-\\x{ABBF}\\x{FB00}-\\x{FB06}\\x{FB13}-"       \
    "\\x{FB17}\\x{FF21}-\\x{FF3A}\\x{FF41}-\\x{FF5A}\\x{10400}-\\x{1044F}\\x{104B0}-"              \
    "\\x{104D3}\\x{104D8}-\\x{104FB}\\x{10C80}-\\x{10CB2}\\x{10CC0}-\\x{10CF2}\\x{118A0}-"         \
    "\\x{118DF}\\x{1E900}-\\x{1E943}"
#define PUNCT "!-/:-~\\x{FF01}-\\x{FF0F}\\x{FF1A}-\\x{FF5E}\\x{2018}-\\x{201F}\\x{3000}-\\x{3002}"
#define CJK   "[\\x{4E00}-\\x{9FA5}\\x{800}-\\x{4E00}\\x{AC00}-\\x{D7FF}]++"

static const struct pg_pretok_rule default_rule = {
    .pattern = {"[\\p{P}$+<=>^~|]++", GPT2, "\\p{N}++", "[0-9][0-9][0-9]"}};
static const struct pg_pretok_rule gpt2 = {.pattern = {GPT2}};
static const struct pg_pretok_rule gpt2_nfc = {.pattern = {GPT2}, .nfc = true};
static const struct pg_pretok_rule gpt2_digits = {.pattern = {"\\p{N}", GPT2}};
static const struct pg_pretok_rule falcon = {
    .pattern = {"[\\p{P}$+<=>^~|`]++", GPT2, "[0-9][0-9][0-9]"}};
static const struct pg_pretok_rule llama3 = {
    .pattern = {GPT4("\\p{L}++", "\\p{N}{1,3}", OTHER)}, .whole_words = true, .add_bos = true};
static const struct pg_pretok_rule gpt4 = {.pattern = {GPT4("\\p{L}++", "\\p{N}{1,3}", OTHER)}};
static const struct pg_pretok_rule qwen2 = {.pattern = {GPT4("\\p{L}++", "\\p{N}", OTHER)},
                                            .nfc = true};
static const struct pg_pretok_rule digits = {.pattern = {GPT4("\\p{L}++", "\\p{N}", OTHER)}};
static const struct pg_pretok_rule qwen35 = {
    .pattern = {GPT4("[\\p{L}\\p{M}]++", "\\p{N}", " ?[^" WS "\\p{L}\\p{M}\\p{N}]++[\\r\\n]*+")}};
static const struct pg_pretok_rule seed_coder = {
    .pattern = {GPT4("\\p{L}++", "\\p{N}", " ?[^" WS "\\p{L}\\p{N}\\r\\n]++")}};
static const struct pg_pretok_rule bailing = {
    .pattern = {"'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}++|\\p{N}|" OTHER "|" SPACE
                "*[\\r\\n]|" BEFORE_WORD}};
static const struct pg_pretok_rule gpt4o = {.pattern = {BY_CASE(SUFFIX "?", "\\p{N}{1,3}")}};
static const struct pg_pretok_rule tekken = {
    .pattern = {BY_CASE("", "\\p{N}")}, .whole_words = true, .add_bos = true};
static const struct pg_pretok_rule deepseek_llm = {
    .pattern = {"[\\r\\n]", SPACE "?[" CASED "]++", SPACE "?[" PUNCT "]++",
                "(?<!" SPACE ")" SPACE "++\\z", CJK, "\\p{N}"}};
static const struct pg_pretok_rule deepseek_coder = {
    .pattern = {"[\\r\\n]", SPACE "?\\p{L}++", SPACE "?\\p{P}++", CJK, "\\p{N}"}};
static const struct pg_pretok_rule deepseek_v3 = {
    .pattern = {"\\p{N}{1,3}", "[\\x{4E00}-\\x{9FA5}\\x{3040}-\\x{309F}\\x{30A0}-\\x{30FF}]++",
                "[!-/:-@\\[-`{-~][A-Za-z]++|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]++| "
                "?[\\p{P}\\p{S}]++[\\r\\n]*+|" LINES "|" BEFORE_WORD}};

const struct pg_pretok_label pg_pretok_labels[] = {
    {"default", &default_rule},
    {"gpt-2", &gpt2},
    {"phi-2", &gpt2},
    {"mpt", &gpt2_nfc},
    {"olmo", &gpt2_nfc},
    {"starcoder", &gpt2_digits},
    {"refact", &gpt2_digits},
    {"command-r", &gpt2_digits},
    {"smollm", &gpt2_digits},
    {"codeshell", &gpt2_digits},
    {"falcon", &falcon},
    {"llama3", &llama3},
    {"llama-v3", &llama3},
    {"llama-bpe", &llama3},
    {"dbrx", &gpt4},
    {"smaug-bpe", &gpt4},
    {"chatglm-bpe", &gpt4},
    {"glm4", &gpt4},
    {"qwen2", &qwen2},
    {"deepseek-r1-qwen", &qwen2},
    {"qwen35", &qwen35},
    {"stablelm2", &digits},
    {"hunyuan", &digits},
    {"grok-2", &digits},
    {"seed-coder", &seed_coder},
    {"bailingmoe", &bailing},
    {"bailingmoe2", &bailing},
    {"llada-moe", &bailing},
    {"gpt-4o", &gpt4o},
    {"llama4", &gpt4o},
    {"tekken", &tekken},
    {"deepseek-llm", &deepseek_llm},
    {"deepseek-coder", &deepseek_coder},
    {"deepseek-v3", &deepseek_v3},
};
const int pg_pretok_n_labels = PG_COUNT(pg_pretok_labels);
