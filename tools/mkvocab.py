#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Writes a vocabulary-only GGUF file from a published tokenizer.

    mkvocab.py --bpe MERGES.txt [--vocab VOCAB.json] [--added ADDED.json] --pre LABEL -o OUT.gguf
    mkvocab.py --hf TOKENIZER.json --pre LABEL -o OUT.gguf
    mkvocab.py --tiktoken RANKS.tiktoken [--added SPECIAL.json] --pre LABEL -o OUT.gguf
    mkvocab.py --spm MODEL -o OUT.gguf
    mkvocab.py --excerpt VOCAB.gguf --inp TESTS.inp --out TESTS.out -o OUT.gguf

--bpe without --vocab takes the order that most such vocabularies have: the 256 bytes in the gpt2
alphabet's order, then what each merge makes. --excerpt keeps of a vocabulary only what tokenizing
the given tests can look at, numbers it anew, and writes the renumbered answers to OUT.out.
"""
import argparse
import base64
import json
import struct
import sys

NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
SEPARATOR = "\n__ggml_vocab_test__\n"


def alphabet():
    """byte -> the character that spells it; in the order in which vocabularies number them."""
    prints = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [b for b in range(256) if b not in prints]
    return {b: chr(b) for b in prints} | {b: chr(0x100 + i) for i, b in enumerate(rest)}


SPELL = alphabet()


# ---- GGUF ----

def string(s):
    data = s if isinstance(s, bytes) else s.encode()
    return struct.pack("<Q", len(data)) + data


class Bytes(bytes):
    """An array of uint8, not a string."""


def value(v):
    if isinstance(v, Bytes):
        return struct.pack("<IIQ", 9, 0, len(v)) + v
    if isinstance(v, bool):
        return struct.pack("<I?", 7, v)
    if isinstance(v, int):
        return struct.pack("<II", 4, v)
    if isinstance(v, (str, bytes)):
        return struct.pack("<I", 8) + string(v)
    if isinstance(v[0], int):
        return struct.pack(f"<IIQ{len(v)}i", 9, 5, len(v), *v)
    if isinstance(v[0], float):
        return struct.pack(f"<IIQ{len(v)}f", 9, 6, len(v), *v)
    return struct.pack("<IIQ", 9, 8, len(v)) + b"".join(map(string, v))


def write_gguf(path, keys):
    keys = {"general.architecture": "llama"} | {f"tokenizer.ggml.{k}": v for k, v in keys.items()}
    with open(path, "wb") as f:
        f.write(struct.pack("<4sIQQ", b"GGUF", 3, 0, len(keys)))
        for name, v in keys.items():
            f.write(string(name) + value(v))


def read_value(f, kind):
    if kind == 8:
        return f.read(struct.unpack("<Q", f.read(8))[0])
    if kind == 9:
        kind, n = struct.unpack("<IQ", f.read(12))
        return [read_value(f, kind) for _ in range(n)]
    code = "<" + {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q",
                  11: "q", 12: "d"}[kind]
    return struct.unpack(code, f.read(struct.calcsize(code)))[0]


def read_gguf(path):
    """The tokenizer.ggml. keys of a file."""
    keys = {}
    with open(path, "rb") as f:
        _, _, _, n = struct.unpack("<4sIQQ", f.read(24))
        for _ in range(n):
            name = read_value(f, 8).decode()
            v = read_value(f, struct.unpack("<I", f.read(4))[0])
            if name.startswith("tokenizer.ggml."):
                keys[name.removeprefix("tokenizer.ggml.")] = v
    return keys


# ---- sources ----

def gpt2(tokens, types, merges, pre):
    return {"model": "gpt2", "pre": pre, "tokens": tokens, "token_type": types, "merges": merges}


def find_ids(tokens, bos, eos):
    """Keys for the first of the wanted texts that is a token."""
    out = {}
    for key, names in (("bos_token_id", bos), ("eos_token_id", eos)):
        for name in names:
            if name in tokens:
                out[key] = tokens.index(name)
                break
    return out


def add_tokens(tokens, types, added, special):
    """Puts {text: id} in, filling gaps with unused tokens."""
    for text, number in sorted(added.items(), key=lambda item: item[1]):
        while len(tokens) <= number:
            tokens.append(f"[PAD{len(tokens)}]")
            types.append(UNUSED)
        tokens[number] = text
        types[number] = CONTROL if special(text) else USER


def from_bpe(merges_path, vocab_path, added_path, pre):
    with open(merges_path, encoding="utf-8") as f:
        merges = [line for line in f.read().split("\n") if line and not line.startswith("#version")]
    if vocab_path:
        with open(vocab_path, encoding="utf-8") as f:
            vocab = json.load(f)
        tokens = sorted(vocab, key=vocab.get)
        if [vocab[t] for t in tokens] != list(range(len(tokens))):
            sys.exit(f"{vocab_path}: the ids are not 0, 1, 2, ...")
    else:
        tokens = list(SPELL.values()) + [m.replace(" ", "") for m in merges]
    types = [NORMAL] * len(tokens)
    if added_path:
        with open(added_path, encoding="utf-8") as f:
            added = json.load(f)
        plain = ("<|fim", "<|repo", "<|file", "<tool", "</tool", "<think", "</think")
        add_tokens(tokens, types, added, lambda text: not text.startswith(plain))
    if "<|endoftext|>" in tokens:
        types[tokens.index("<|endoftext|>")] = CONTROL
    keys = gpt2(tokens, types, merges, pre)
    keys |= find_ids(tokens, ["<|endoftext|>"], ["<|im_end|>", "<|endoftext|>"])
    return keys | {"add_bos_token": False}


def from_hf(path, pre):
    with open(path, encoding="utf-8") as f:
        data = json.load(f)
    vocab = data["model"]["vocab"]
    tokens = sorted(vocab, key=vocab.get)
    types = [NORMAL] * len(tokens)
    special = {t["content"] for t in data["added_tokens"] if t["special"]}
    add_tokens(tokens, types, {t["content"]: t["id"] for t in data["added_tokens"]},
               special.__contains__)
    keys = gpt2(tokens, types, data["model"]["merges"], pre)
    return keys | find_ids(tokens, [], ["<|endoftext|>"]) | {"add_bos_token": False}


def last_join(token, ranks):
    """The two parts that byte-pair encoding has left before it makes the token itself."""
    parts = [token[i:i + 1] for i in range(len(token))]
    limit = ranks[token]
    while len(parts) > 2:
        best, at = limit, -1
        for i in range(len(parts) - 1):
            rank = ranks.get(parts[i] + parts[i + 1], limit)
            if rank < best:
                best, at = rank, i
        if at < 0:
            return None
        parts[at:at + 2] = [parts[at] + parts[at + 1]]
    return parts


def from_tiktoken(path, added_path, pre):
    ranks = {}
    with open(path, "rb") as f:
        for line in f:
            token, rank = line.split()
            ranks[base64.b64decode(token)] = int(rank)

    def spell(raw):
        return "".join(SPELL[b] for b in raw)

    tokens, merges = [], []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        while len(tokens) < rank:
            tokens.append(f"[PAD{len(tokens)}]")
        tokens.append(spell(token))
        parts = last_join(token, ranks) if len(token) > 1 else None
        if parts:
            merges.append(spell(parts[0]) + " " + spell(parts[1]))
    types = [UNUSED if t.startswith("[PAD") else NORMAL for t in tokens]
    if added_path:
        with open(added_path, encoding="utf-8") as f:
            add_tokens(tokens, types, json.load(f)["special"], lambda text: True)
    keys = gpt2(tokens, types, merges, pre)
    return keys | find_ids(tokens, ["<|startoftext|>"], ["<|return|>", "<|endoftext|>"])


def fields(data):
    """(number, value) of each field of a protobuf message."""
    at = 0

    def varint():
        nonlocal at
        out = shift = 0
        while True:
            byte = data[at]
            at += 1
            out |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return out

    while at < len(data):
        tag = varint()
        if tag & 7 == 0:
            yield tag >> 3, varint()
            continue
        size = varint() if tag & 7 == 2 else {1: 8, 5: 4}[tag & 7]
        yield tag >> 3, data[at:at + size]
        at += size


def from_spm(path):
    with open(path, "rb") as f:
        message = list(fields(f.read()))
    tokens, scores, types = [], [], []
    for number, data in message:
        if number == 1:
            piece = {1: b"", 2: b"\0\0\0\0", 3: NORMAL} | dict(fields(data))
            tokens.append(piece[1])
            scores.append(struct.unpack("<f", piece[2])[0])
            types.append(piece[3])
    parts = {number: dict(fields(data)) for number, data in message if number in (2, 3)}
    unigram = parts[2].get(3, 1) == 1
    keys = {"model": "t5" if unigram else "llama", "pre": "default", "tokens": tokens,
            "scores": scores, "token_type": types, "eos_token_id": parts[2].get(42, 2),
            "unknown_token_id": parts[2].get(40, 0), "add_eos_token": unigram,
            "add_bos_token": not unigram, "add_space_prefix": bool(parts[3].get(3, 1)),
            "remove_extra_whitespaces": bool(parts[3].get(4, 1))}
    if not unigram:
        return keys | {"bos_token_id": parts[2].get(41, 1)}
    return keys | {"precompiled_charsmap": Bytes(parts[3].get(2, b""))}


def excerpt(vocab_path, inp_path, out_path, target):
    """Keeps tokens and merges whose every part occurs in the tests: no other can be looked up."""
    keys = read_gguf(vocab_path)
    with open(inp_path, "rb") as f:
        text = "".join(SPELL[b] for b in f.read())
    single = set(SPELL.values())
    tokens = [t.decode() for t in keys["tokens"]]
    merges = [m.decode() for m in keys["merges"]]
    merges = [m for m in merges if m.replace(" ", "") in text]
    kept = single | {part for m in merges for part in (*m.split(" "), m.replace(" ", ""))}
    ids = [i for i, t in enumerate(tokens) if t in kept or keys["token_type"][i] == USER]
    renumber = {old: new for new, old in enumerate(ids)}
    with open(out_path, encoding="utf-8") as f, open(target + ".out", "w", encoding="utf-8") as g:
        for line in f:
            g.write(" ".join(str(renumber[int(i)]) for i in line.split()) + "\n")
    return gpt2([tokens[i] for i in ids], [keys["token_type"][i] for i in ids], merges, keys["pre"])


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for source in ("bpe", "hf", "tiktoken", "spm", "excerpt"):
        p.add_argument("--" + source, metavar="FILE")
    for option in ("vocab", "added", "inp", "out"):
        p.add_argument("--" + option, metavar="FILE")
    p.add_argument("--pre", default="default", metavar="LABEL")
    p.add_argument("-o", dest="output", required=True, metavar="OUT.gguf")
    a = p.parse_args()
    if a.bpe:
        keys = from_bpe(a.bpe, a.vocab, a.added, a.pre)
    elif a.hf:
        keys = from_hf(a.hf, a.pre)
    elif a.tiktoken:
        keys = from_tiktoken(a.tiktoken, a.added, a.pre)
    elif a.spm:
        keys = from_spm(a.spm)
    elif a.excerpt:
        keys = excerpt(a.excerpt, a.inp, a.out, a.output)
    else:
        p.error("one of --bpe, --hf, --tiktoken, --spm, --excerpt is needed")
    write_gguf(a.output, keys)


if __name__ == "__main__":
    main()
