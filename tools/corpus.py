"""Text files to documents of token ids, as the trainer and the evaluator see them, through `pregate tokenize`."""
import hashlib
import json
import lzma
import pathlib
import subprocess

BOS = 1


def documents(path):
    """Separated by a line <|endoftext|>, without blank lines at the ends; nothing is no document."""
    docs, lines = [], []
    read = lzma.open(path, "rt").read if str(path).endswith(".xz") else pathlib.Path(path).read_text
    for line in read().split("\n") + ["<|endoftext|>"]:
        if line.rstrip("\r") != "<|endoftext|>":
            lines.append(line)
            continue
        while lines and not lines[0].strip():
            lines.pop(0)
        text = "\n".join(lines).rstrip(" \t\r\n")
        if text:
            docs.append(text)
        lines = []
    return docs


def ids(pregate, model, text):
    out = subprocess.run([pregate, "tokenize", model, "-f", "-"], input=text.encode(), capture_output=True, check=True)
    return [int(i) for i in out.stdout.split()]


def tokenize(pregate, model, text):
    return [BOS] + ids(pregate, model, text)


def token_pairs(pregate, model, path):
    """(ids of the source, ids of the target) of each line {"source": text, "target": text}."""
    with open(path, encoding="utf-8") as f:
        lines = [json.loads(line) for line in f if line.strip()]
    return [tuple(ids(pregate, model, line[part]) for part in ("source", "target")) for line in lines]


def token_documents(pregate, model, path, cache, n_max=None):
    """Ids of each document, beginning-of-text first; kept in the folder `cache`, since it takes a while."""
    docs = documents(path)[:n_max]
    digest = hashlib.sha256(("\0".join(docs)).encode()).hexdigest()[:16]
    kept = pathlib.Path(cache) / f"tokens-{digest}.json"
    if kept.exists():
        return json.loads(kept.read_text())
    tokens = [tokenize(pregate, model, d) for d in docs]
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(tokens))
    return tokens
