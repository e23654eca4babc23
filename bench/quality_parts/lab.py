"""Runs pregate and keeps what it printed: each result is a file, and is not computed again when it is there."""
import json
import lzma
import pathlib
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
DATA = ROOT / "models/data"
PARTS = {"books": "books.txt.xz", "train": "stories.train.txt.xz", "valid": "stories.valid.txt",
         "test": "tinystories.heldout.txt"}


def write(path, text):
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    part.replace(path)


def shown(word):
    return str(word).replace(str(ROOT) + "/", "")


class Lab:
    """Names are those of files in `out`: NAME.json, NAME.gguf. May be used by several threads. `tool` is whose results
    they are."""

    def __init__(self, pregate, out, recipe, tool="bench/quality", parts=tuple(PARTS)):
        self.pregate, self.out, self.tool = pregate, out, tool
        self.guard, self.locks = threading.Lock(), {}
        out.mkdir(parents=True, exist_ok=True)
        self.check_recipe(recipe)
        self.text = {part: self.unpacked(part) for part in parts}

    def check_recipe(self, recipe):
        """Results of one folder belong to one recipe."""
        kept, recipe = self.out / "recipe.json", json.dumps(recipe, indent=1) + "\n"
        if not kept.exists():
            write(kept, recipe)
        elif kept.read_text() != recipe:
            sys.exit(f"{self.tool}: {self.out} has results of another recipe (recipe.json there); choose another folder "
                     "with --out, or remove it")

    def unpacked(self, part):
        packed = DATA / PARTS[part]
        if packed.suffix != ".xz":
            return packed
        path = self.out / packed.stem
        if not path.exists():
            write(path, lzma.decompress(packed.read_bytes()).decode())
        return path

    def lock(self, name):
        with self.guard:
            return self.locks.setdefault(name, threading.Lock())

    def run(self, name, args):
        """Standard output of `pregate ARGS`, on one thread unless they say more: as many commands run side by side as there
        are processors."""
        threads = [] if args[0] == "sidecar" or "-t" in args else ["-t", "1"]
        command = [str(self.pregate), *map(str, args), *threads]
        print(f"{time.strftime('%H:%M:%S')} {name}: {' '.join(map(shown, command))}", file=sys.stderr, flush=True)
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            raise SystemExit(f"{self.tool}: {name}: pregate ended with code {done.returncode}: "
                             f"{done.stderr.strip().splitlines()[-1:]}")
        return done.stdout

    def result(self, name):
        path = self.out / f"{name}.json"
        return json.loads(path.read_text()) if path.exists() else None

    def json(self, name, args):
        """What `pregate ARGS --json` says, with the command that it was."""
        with self.lock(name):
            if not self.result(name):
                begin = time.time()
                found = json.loads(self.run(name, [*args, "--json"]))
                found["command"] = " ".join(map(shown, args))
                found["wall_seconds"] = round(time.time() - begin, 1)
                write(self.out / f"{name}.json", json.dumps(found) + "\n")
        return self.result(name)

    def seconds(self):
        """Of each run, on its one thread; and how many have the seconds of their last part only."""
        found = [json.loads(path.read_text()) for path in self.out.glob("*.json")]
        found = [r for r in found if "wall_seconds" in r]
        return [r["wall_seconds"] for r in found], sum("resumed" in r for r in found)

    def write_results(self, name="quality"):
        """NAME.jsonl: what the page stands on, a run a line: name, command, and what it found."""
        lines = []
        for path in sorted(self.out.glob("*.json")):
            found = json.loads(path.read_text())
            if "command" in found:
                kept = {k: v for k, v in found.items() if k not in ("stats", "plan", "model")}
                lines.append(json.dumps({"name": path.stem, **kept}).replace(f"{ROOT}/", "") + "\n")
        write(self.out / f"{name}.jsonl", "".join(lines))

    def file(self, name, args):
        """The path of NAME.gguf, which `pregate ARGS -o NAME.gguf` makes."""
        path = self.out / f"{name}.gguf"
        with self.lock(name):
            if not path.exists():
                resume = ["--resume"] if pathlib.Path(f"{path}.checkpoint").exists() else []
                begin = time.time()
                self.run(name, [*args, "-o", path, *resume])
                made = {"command": " ".join(map(shown, [*args, "-o", path])), "wall_seconds": round(time.time() - begin, 1)}
                made.update({"resumed": True} if resume else {})  # and the seconds are those of the last part
                write(self.out / f"made-{name}.json", json.dumps(made) + "\n")
        return path
