#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Writes tests/data/scores/pairs.json: texts and the marks that others give them.

    mkscores.py SCITLDR.jsonl [rouge-score's folder] > tests/data/scores/pairs.json

ROUGE is what the package rouge-score (google-research, `pip install rouge-score`) says without
stemming. Exact match and F1 follow the description of SQuAD's evaluation: small letters, no ASCII
punctuation, no articles, single spaces; F1 over the multisets of words. Real summaries are targets
and sentences of SciTLDR (allenai/scitldr, Apache-2.0); the rest is written here.
"""
import collections
import json
import re
import string
import sys

ANSWERS = [
    ("Denver Broncos", "The Denver Broncos"), ("the Denver Broncos!", "denver broncos"),
    ("308", "308 points"), ("gave up 308 points", "308"), ("", ""), ("", "answer"), ("answer", ""),
    ("the", "a"), ("an", "word"), ("a a a b", "b a the b"), ("b b c", "b c c"), ("x y z", "z y x"),
    ("a the an", "..."), ("O'Brien", "OBrien"), ("well-known", "well known"),
    ("U.S. Army", "us army"), ("  many   spaces\t\n here ", "many spaces here"),
    ("line one\r\nline two", "line one line two"), ("theater", "the ater"), ("Athens", "thens"),
    ("ÉCOLE NORMALE", "école normale"), ("ŁÓDŹ, Poland", "Łódź (Poland)"),
    ("МОСКВА", "москва"), ("Ёлка", "ёлка"), ("ΑΘΗΝΑ", "αθηνα"), ("Straße", "STRASSE"),
    ("STRAẞE", "straße"), ("İstanbul", "istanbul"), ("日本 東京", "東京"), ("café", "cafe"),
    ("naïve approach", "the naïve approach"), ("“the end”", "“end”"), ("—the end", "— end"),
    ("a–b", "b"), ("théâtre", "the atre"), ("éa", "é"), ("the\u00a0end", "end"),
    ("the\u2003end\u3000now", "end now"), ("6½ sacks", "6½"), ("€5 a day", "€5 day"),
    ("the_end", "theend"), ("50%", "50 %"), ("a", "A"), ("Năm 1945", "năm 1945"), ("ՀԱՅ", "հայ"),
    ("cafe\u0301 a\u0301", "cafe\u0301 \u0301"), ("🙂the🙂", "🙂 🙂"), ("k K", "K k"),
    ("one two three four five six seven eight", "eight six four two one nine"),
]

SUMMARIES = [
    ("", ""), ("", "a word"), ("a word", ""), ("word", "word"), ("word", "other"), ("...", "word"),
    ("the the the the", "the cat the dog"), ("the cat sat on the mat", "the cat is on the mat"),
    ("police killed the gunman", "police kill the gunman"),
    ("the gunman kill police", "police kill the gunman"), ("a b a b a b", "b a b a"),
    ("one", "one two three"), ("one two three", "one"), ("ONE, Two; three!", "one two three"),
    ("state-of-the-art", "state of the art"), ("3.14 is pi", "3 14 is pi"), ("don't", "don t"),
    ("snake_case", "snake case"), ("naïve café", "na ve caf"), ("日本語 text", "text"),
    ("K is kelvin", "k is kelvin"), ("İstanbul", "i stanbul"), ("Åb", "b"), ("ＡＢＣ abc", "abc"),
    ("x" * 500, "x" * 500), (" ".join("ab"[i * i % 7 % 2] for i in range(300)), "a b " * 90),
    (" ".join(str(i % 37) for i in range(400)), " ".join(str(i * 5 % 41) for i in range(350))),
]


def words_of(answer):
    small = "".join(c for c in answer.lower() if c not in string.punctuation)
    return re.sub(r"\b(?:the|an|a)\b", " ", small).split()


def marks(answer, truth):
    a, t = words_of(answer), words_of(truth)
    if not a or not t:
        return float(a == t), float(a == t)
    common = sum((collections.Counter(a) & collections.Counter(t)).values())
    precision, recall = common / len(a), common / len(t)
    f1 = 2 * precision * recall / (precision + recall) if common else 0.0
    return float(a == t), f1


def scitldr(path, n):
    """Each target beside the first sentence of its source, the whole source, and another target."""
    with open(path, encoding="utf-8") as f:
        rows = [json.loads(line) for _, line in zip(range(n), f)]
    for i, row in enumerate(rows):
        target, source = row["target"][0], row["source"]
        yield source[0], target
        yield " ".join(source), target
        yield (row["target"] + rows[i - 1]["target"])[1], target


def main():
    sys.path[:0] = sys.argv[2:3]
    from rouge_score import rouge_scorer
    names = ["rouge1", "rouge2", "rougeL"]
    scorer = rouge_scorer.RougeScorer(names, use_stemmer=False)
    summaries = []
    for summary, reference in SUMMARIES + list(scitldr(sys.argv[1], 12)):
        s = scorer.score(reference, summary)
        summaries.append({"summary": summary, "reference": reference,
                          **{k: [s[k].precision, s[k].recall, s[k].fmeasure] for k in names}})
    answers = []
    for answer, truth in ANSWERS:
        em, f1 = marks(answer, truth)
        answers.append({"answer": answer, "truth": truth, "exact_match": em, "f1": f1})
    json.dump({"answers": answers, "summaries": summaries}, sys.stdout, ensure_ascii=False, indent=0)
    print()


if __name__ == "__main__":
    main()
