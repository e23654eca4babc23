#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Normalisation, exact match and F1 beside Python's own str.lower(), str.split() and re, which SQuAD's scripts use:

    check_scores.py SCORE_LINES [SEED]

Every code point, alone and where it matters what stands beside it; random texts; and both rules for texts of which
nothing is left. Code points that this Python or utf8proc does not know are left out and counted.
"""
import collections
import random
import re
import string
import subprocess
import sys
import unicodedata

PROGRAM = sys.argv[1]
SEED = int(sys.argv[2]) if len(sys.argv) > 2 else 1


def ask(what, texts):
    data = b"".join(t.encode() + b"\0" for t in texts)
    return subprocess.run([PROGRAM, what], input=data, stdout=subprocess.PIPE, check=True).stdout


def normalised(text):
    """SQuAD's four steps, in their order."""
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(?:a|an|the)\b", " ", text).split())


def marks(answer, truth):
    """Exact match, F1 as v1.1 and F1 as v2.0 define it."""
    a, b = normalised(answer).split(), normalised(truth).split()
    common = sum((collections.Counter(a) & collections.Counter(b)).values())
    f1 = 2 * common / (len(a) + len(b)) if common else 0.0
    return float(normalised(answer) == normalised(truth)), f1, float(a == b) if not a or not b else f1


def known():
    """Code points that both know, and how many only one does."""
    other = set()
    for line in ask("unassigned", []).decode().split("\n")[:-1]:
        first, last = map(int, line.split())
        other.update(range(first, last + 1))
    mine = {c for c in range(0x110000) if unicodedata.category(chr(c)) == "Cn"}
    points = [c for c in range(1, 0x110000) if c not in mine and c not in other and not 0xD800 <= c < 0xE000]
    print(f"Unicode {unicodedata.unidata_version} here: {len(points)} code points compared, {len(mine - other)} known to "
          f"utf8proc alone, {len(other - mine)} to Python alone")
    return [chr(c) for c in points]


def compare(texts):
    found = ask("normalise", texts).split(b"\0")[:-1]
    assert len(found) == len(texts), (len(found), len(texts))
    bad = [(t, f.decode(), normalised(t)) for t, f in zip(texts, found) if f.decode() != normalised(t)]
    for text, got, wanted in bad[:10]:
        print(f"{ascii(text)}: {ascii(got)} found, {ascii(wanted)} wanted")
    return len(bad)


def random_text(r, chars, special):
    return "".join(r.choice(special) if r.random() < 0.7 else r.choice(chars) for _ in range(r.randrange(1, 25)))


def main():
    chars = known()
    n_bad = 0
    # alone; articles and white space beside it; what makes a sigma the last of its word
    for form in "{}", "x {}the{} y", "the{}a {}an", "A{}\u03a3", "{}\u03a3", "A\u03a3{}A", "A\u03a3{}":
        n_bad += compare([form.format(*2 * (c,)) for c in chars])
    r = random.Random(SEED)
    special = list("aAnNtThHeE  \t.,'-_\u03a3\u03a3\u03c3\u0130\u0301\u00ad\u2019\u00aa\u02b0\u2003\u0085\x1c")
    texts = [random_text(r, chars, special) for _ in range(100000)]
    n_bad += compare(texts)
    short = ["", "the", "A", "...", " ", "cat", "a cat", "cat cat dog", "the dog", "\u00c9t\u00e9"] + texts[:60]
    pairs = [(a, b) for a in short for b in short]
    lines = ask("marks", [t for p in pairs for t in p]).decode().split("\n")[:-1]
    assert len(lines) == len(pairs)
    for (a, b), line in zip(pairs, lines):
        wrong = [abs(float(x) - y) > 1e-12 for x, y in zip(line.split(), marks(a, b))]
        n_bad += any(wrong)
        if any(wrong) and n_bad < 20:
            print(f"{ascii(a)}, {ascii(b)}: {line} found, {marks(a, b)} wanted")
    print(f"{n_bad} differences")
    sys.exit(n_bad > 0)


main()
