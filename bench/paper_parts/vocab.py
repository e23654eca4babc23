"""Trains a vocabulary: byte-level BPE, as a gpt2 vocabulary of the engine. The same texts give the same pieces."""
import collections
import re

# The pieces of pre-tokenizer gpt-2, of text whose letters and digits are what Python takes for such.
PIECE = re.compile(r"'(?:s|t|re|ve|m|ll|d)| ?[^\W\d_]+| ?\d+| ?(?:_|[^\s\w])+|\s+(?!\S)|\s+")
NORMAL, CONTROL = 1, 3
PAD, END = 0, 1  # what a timeline begins with; what ends a source and a target
SPECIAL = ["<pad>", "</s>"]


def alphabet():
    """By byte the character that spells it."""
    prints = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [b for b in range(256) if b not in prints]
    return {**{b: chr(b) for b in prints}, **{b: chr(0x100 + i) for i, b in enumerate(rest)}}


def count_words(texts):
    counts = collections.Counter()
    for text in texts:
        counts.update(PIECE.findall(text))
    return counts


class Pairs:
    """How often which two symbols stand side by side, and in which words."""

    def __init__(self, words, counts):
        self.words, self.counts = words, counts
        self.n, self.where = collections.Counter(), collections.defaultdict(set)
        for i in range(len(words)):
            self.add(i, 1)

    def add(self, i, sign):
        word = self.words[i]
        for pair in zip(word, word[1:]):
            self.n[pair] += sign * self.counts[i]
            self.where[pair].add(i)

    def most(self):
        """Of those as frequent the first by the alphabet."""
        return min(self.n, key=lambda pair: (-self.n[pair], pair))

    def join(self, pair):
        for i in sorted(self.where.pop(pair)):
            self.add(i, -1)
            word, out, at = self.words[i], [], 0
            while at < len(word):
                both = tuple(word[at:at + 2]) == pair
                out.append(word[at] + word[at + 1] if both else word[at])
                at += 2 if both else 1
            self.words[i] = out
            self.add(i, 1)
        del self.n[pair]


def train(texts, n):
    """(pieces, merges), n pieces in all; words that are met once say nothing of what is frequent."""
    spell = alphabet()
    counts = sorted((w, c) for w, c in count_words(texts).items() if c > 1)
    pairs = Pairs([[spell[b] for b in word.encode()] for word, _ in counts], [c for _, c in counts])
    pieces, merges = SPECIAL + list(spell.values()), []
    while len(pieces) < n:
        pair = pairs.most()
        pairs.join(pair)
        merges.append(" ".join(pair))
        pieces.append("".join(pair))
    return pieces, merges


def keys(texts, n):
    """The keys of a GGUF file, without "tokenizer.ggml."."""
    pieces, merges = train(texts, n)
    types = [CONTROL] * len(SPECIAL) + [NORMAL] * (len(pieces) - len(SPECIAL))
    return {"model": "gpt2", "pre": "gpt-2", "tokens": pieces, "token_type": types, "merges": merges, "padding_token_id": PAD,
            "eos_token_id": END, "add_bos_token": False, "add_eos_token": True}
