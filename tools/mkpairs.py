"""Writes tests/data/first20/pairs.jsonl: pairs of texts to train a model with an encoder on.

    mkpairs.py SCITLDR-A.train.jsonl > tests/data/first20/pairs.jsonl

Papers in the order of the file, each with its first summary. Short ones answer to the first sentence of the abstract,
so that several pairs share a row, and every fourth pair has a whole abstract, which is longer than a row of the test.
"""
import json
import sys

BYTES = 20000  # few enough that 20 steps come round to an epoch's end
SOURCE, TARGET = 110, 80  # characters of a short pair


def pairs(papers):
    short, whole = [], []
    for paper in papers:
        source, target = paper["source"], paper["target"][0]
        if len(source[0]) <= SOURCE and len(target) <= TARGET:
            short.append((source[0], target))
        elif len(target) > TARGET:
            whole.append((" ".join(source), target))
    while True:
        for _ in range(3):
            yield short.pop(0)
        yield whole.pop(0)


def main():
    with open(sys.argv[1], encoding="utf-8") as f:
        papers = [json.loads(line) for line in f]
    n = 0
    for source, target in pairs(papers):
        line = json.dumps({"source": source, "target": target}, ensure_ascii=False) + "\n"
        n += len(line.encode())
        if n > BYTES:
            break
        sys.stdout.write(line)


if __name__ == "__main__":
    main()
