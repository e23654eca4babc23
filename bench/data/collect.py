#!/usr/bin/python3
"""Makes the files of this folder from the published ones, whose names and origins SOURCES.md has.

    collect.py FOLDER        with qa/ and summarization/ in it

Keeps of each example only what is used, a JSON object a line.
"""
import json
import lzma
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent


def write(name, objects):
    text = "".join(json.dumps(o, ensure_ascii=False, separators=(",", ":")) + "\n" for o in objects).encode()
    path = HERE / f"{name}.jsonl.xz"
    path.write_bytes(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME))
    print(f"{path.name}: {len(text)} bytes, {path.stat().st_size} packed")


def summaries(path):
    for line in path.read_text().splitlines():
        o = json.loads(line)
        yield {"source": " ".join(o["source"]), "target": o["target"]}


def questions(path):
    for o in json.loads(path.read_text()):
        yield {"question": o["qText"], "answers": o["answers"]}


def titles(path):
    return [article["title"] for article in json.loads(path.read_text())["data"]]


def passages(path, without=()):
    """Questions that have an answer, by passage; of an answer its text and its place."""
    for article in json.loads(path.read_text())["data"]:
        for p in article["paragraphs"] if article["title"] not in without else []:
            qas = [{"question": q["question"], "answers": [[a["answer_start"], a["text"]] for a in q["answers"]]}
                   for q in p["qas"] if not q.get("is_impossible")]
            if qas:
                yield {"title": article["title"], "context": p["context"], "qas": qas}


def main():
    qa, summarization = (pathlib.Path(sys.argv[1]) / part for part in ("qa", "summarization"))
    for part in ("train", "dev", "test"):
        write(f"scitldr.{part}", summaries(summarization / f"scitldr-a.{part}.jsonl"))
    for part, name in (("train", "trainmodel"), ("dev", "val"), ("test", "test")):
        write(f"webquestions.{part}", questions(qa / f"webquestions.{name}.json"))
    half = qa / "squad-dev-v2.0-cs224n-half.json"
    write("squad", passages(half))
    write("xquad", passages(qa / "xquad.en.json", titles(half)))


if __name__ == "__main__":
    main()
