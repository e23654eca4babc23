#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Writes the vocabularies that tests/unit/test_vocab.c opens: make_vocabs.py DATA OUT

DATA is tests/data/vocab, which holds the tokenizers in their published, smaller form."""
import os
import pathlib
import subprocess
import sys

MKVOCAB = pathlib.Path(__file__).parents[2] / "tools" / "mkvocab.py"

RECIPES = {
    "gpt-2": ["--bpe", "gpt-2.merges.txt", "--added", "gpt-2.added.json", "--pre", "gpt-2"],
    "qwen2": ["--bpe", "qwen3.merges.txt", "--added", "qwen3.added.json", "--pre", "qwen2"],
    "qwen35": ["--bpe", "qwen3.merges.txt", "--added", "qwen3.added.json", "--pre", "qwen35"],
    "olmoe": ["--hf", "olmoe.tokenizer.json", "--pre", "olmo"],
    "mixtral": ["--spm", "mixtral.model"],
    "t5": ["--spm", "t5.model"],
}


def main():
    data, out = map(os.path.abspath, sys.argv[1:])
    os.makedirs(out, exist_ok=True)
    for name, recipe in RECIPES.items():
        target = os.path.join(out, name + ".gguf")
        subprocess.run([sys.executable, MKVOCAB, *recipe, "-o", target], cwd=data, check=True)


if __name__ == "__main__":
    main()
