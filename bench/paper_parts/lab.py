"""Makes models, runs pregate and keeps what it printed: each result is a file, and is not computed again when it is there."""
import json
import pathlib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


def write(path, text):
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    part.replace(path)


def shown(word):
    return str(word).replace(str(ROOT) + "/", "")


class Lab:
    """Names are those of files in `out`: NAME.json. Models lie in `models` while they are used."""

    def __init__(self, pregate, out, models, plan):
        self.pregate, self.out, self.models, self.plan = pregate, out, models, plan
        out.mkdir(parents=True, exist_ok=True)
        models.mkdir(parents=True, exist_ok=True)
        kept, recipe = out / "recipe.json", json.dumps(plan, indent=1) + "\n"
        if not kept.exists():
            write(kept, recipe)
        elif kept.read_text() != recipe:
            sys.exit(f"bench/paper: {out} has results of another recipe (recipe.json there); choose another folder with "
                     "--out, or remove it")

    def run(self, name, args):
        command = [str(self.pregate), *map(str, args)]
        print(f"{time.strftime('%H:%M:%S')} {name}: {' '.join(map(shown, command))}", file=sys.stderr, flush=True)
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)

    def result(self, name):
        path = self.out / f"{name}.json"
        return json.loads(path.read_text()) if path.exists() else None

    def json(self, name, args):
        """What `pregate ARGS` says in JSON, with the command that it was. Where all that was asked for is refused (no
        room), that is a result, too: its rows say so."""
        if not self.result(name):
            begin = time.time()
            done = self.run(name, args)
            try:
                found = json.loads(done.stdout)
            except ValueError:
                raise SystemExit(f"bench/paper: {name}: pregate ended with code {done.returncode}: "
                                 f"{done.stderr.strip().splitlines()[-1:]}") from None
            found["command"] = " ".join(map(shown, args))
            found["wall_seconds"] = round(time.time() - begin, 1)
            write(self.out / f"{name}.json", json.dumps(found) + "\n")
        return self.result(name)

    def path_of(self, name):
        return self.models / f"{name}.gguf"

    def model(self, name, shape, how=()):
        """The model and pre-gates beside it, made of its own routers: who decides what costs no time of its own, and the
        text of random weights is worth nothing in any mode."""
        path = self.path_of(name)
        side = path.with_name(f"{name}.pregate.gguf")
        for file, args in ((path, ["synth", shape, *how, "-o", path]), (side, ["sidecar", path, "-o", side])):
            if not file.exists():
                done = self.run(f"model {name}", args)
                if done.returncode:
                    raise SystemExit(f"bench/paper: {name}: {done.stderr.strip()}")
        return path

    def drop(self, name):
        for file in (self.path_of(name), self.path_of(name).with_name(f"{name}.pregate.gguf")):
            file.unlink(missing_ok=True)

    def write_results(self):
        """What the page stands on, a run a line."""
        lines = []
        for path in sorted(self.out.glob("*.json")):
            found = json.loads(path.read_text())
            if "command" in found:
                lines.append(json.dumps({"name": path.stem, **found}).replace(f"{ROOT}/", "") + "\n")
        more = self.out / "table2/table2.jsonl"  # of what was trained
        write(self.out / "paper.jsonl", "".join(lines) + (more.read_text() if more.exists() else ""))
        return sum(json.loads(line)["wall_seconds"] for line in lines)
