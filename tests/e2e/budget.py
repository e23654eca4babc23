#!/usr/bin/python3
"""The memory budget is kept, measured from outside.

    budget.py PREGATE PEAK_OF rss       peak resident size of the process <= --memory
    budget.py PREGATE PEAK_OF cgroup    the same inside a memory cgroup of exactly that size, where
                                        going over it would mean swapping or the OOM killer
    budget.py PREGATE PEAK_OF random [--runs=N] [--seed=S]
                                        N (12) random command lines: command, model, threads, context, cache, way to
                                        read, and a budget from the minimum that the command itself names upwards; each
                                        in a cgroup of that size where one can be made. None may be over, killed or
                                        refused

A model several times larger than the smallest budget is made with `pregate synth`; its logits must be
the same bytes under every budget. PEAK_OF is built from peak_of.c. Exit 77 = skipped, with the reason on a line "SKIPPED: ..."; so it is with a last argument
--sanitize=NAMES that names a sanitizer.
"""
import json
import os
import pathlib
import random
import re
import resource
import shutil
import subprocess
import sys
import tempfile

SHAPE, TYPE = "qwen3-tiny", "F32"
TOKENS = ",".join(str((i * 37) % 500) for i in range(24))
MIB = 1 << 20


def run(command, before=None):
    """Exit code and output of a process."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          stdin=subprocess.DEVNULL, preexec_fn=before, check=False)
    return done.returncode, done.stdout.decode(errors="replace")


def must(command, before=None):
    code, text = run(command, before)
    if code:
        sys.exit(f"{' '.join(map(str, command))}: exit code {code}\n{text}")


class Cgroup:
    """A memory cgroup of one size, v1 or v2; None from make() where we may not."""

    def __init__(self, path, limit_file, procs):
        self.path, self.limit_file, self.procs = path, limit_file, procs

    @staticmethod
    def make(limit):
        name = f"pregate-test-{os.getpid()}"
        for root, limit_file in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
                                 ("/sys/fs/cgroup", "memory.max")):
            path = pathlib.Path(root, name)
            try:
                path.mkdir()
            except OSError:
                continue
            group = Cgroup(path, path / limit_file, path / "cgroup.procs")
            try:
                group.limit_file.write_text(str(limit))
                # Whether a process can be moved there shows only when one is.
                probe = subprocess.run(["true"], preexec_fn=group.enter, check=True)
                if probe.returncode == 0:
                    return group
            except (OSError, subprocess.SubprocessError):
                pass
            group.close()
        return None

    def enter(self):
        self.procs.write_text(str(os.getpid()))

    def events(self):
        """How often the kernel killed in this group."""
        for name, key in (("memory.oom_control", "oom_kill"), ("memory.events", "oom_kill")):
            try:
                for line in (self.path / name).read_text().splitlines():
                    if line.split()[0] == key:
                        return int(line.split()[1])
            except OSError:
                continue
        return 0

    def close(self):
        try:
            self.path.rmdir()
        except OSError:
            pass


def minimum_of(command):
    """The budget that a refused command names, as it would be typed, in MiB."""
    text = "".join(run(command + ["--memory", "1M"])[1] for _ in range(2))
    found = re.findall(r"the minimum is ([\d.]+) MiB", text)
    if len(found) < 2 or len(set(found)) > 1:
        sys.exit(f"{' '.join(map(str, command))}: one minimum is wanted, the same each time\n{text}")
    return float(found[0])


def measured(programs, command, budget, group, out, before=None):
    """Runs the command under the budget, in the group if there is one. What went wrong, or None; and the peak."""
    into = ["--into", str(group.procs)] if group else []
    text = run([programs[1], out, *into, programs[0], *command, "--memory", budget], before)
    bound, peak = round(float(budget[:-1]) * MIB), int(pathlib.Path(out).read_text())
    if group and group.events():
        return f"killed in a cgroup of {bound} bytes", peak
    if text[0]:
        return f"exit code {text[0]}\n{text[1]}", peak
    return f"{peak - bound} bytes over" if peak > bound else None, peak


def must_fit(programs, command, budget, in_cgroup, out):
    """Returns the peak."""
    group = Cgroup.make(round(float(budget[:-1]) * MIB)) if in_cgroup else None
    if in_cgroup and not group:
        print("SKIPPED: budget.py: no memory cgroup can be made here")
        sys.exit(77)
    try:
        wrong, peak = measured(programs, command, budget, group, out)
    finally:
        if group:
            group.close()
    if wrong:
        sys.exit(f"pregate {' '.join(command)} --memory {budget}: {wrong}")
    return peak


def check(programs, model, folder, in_cgroup):
    size = os.path.getsize(model) / MIB
    out, want = f"{folder}/out.npy", None
    for mode in ("ondemand", "lookahead", "prefetch-all"):
        command = ["logits", model, "--tokens", TOKENS, "-c", "64", "--mode", mode, "-t", "2", "-o", out]
        least = minimum_of([programs[0], *command])
        if size < 1.5 * least:
            sys.exit(f"the model ({size} MiB) is not much larger than the least budget ({least} MiB)")
        for budget in (least, least + size / 4, least + size / 2, 2 * size):
            peak = must_fit(programs, command, f"{budget:.2f}M", in_cgroup, out + ".peak")
            print(f"{mode:>13} --memory {budget:7.2f} MiB: peak {peak / MIB:7.2f} MiB")
            got = pathlib.Path(out).read_bytes()
            want = want or got
            if got != want:
                sys.exit(f"--mode {mode} --memory {budget}: other logits")
        os.remove(out)
        code, text = run([programs[0], *command, "--memory", f"{least / 4:.2f}M"])
        if code != 1 or os.path.exists(out):
            sys.exit(f"a quarter of the least budget: exit code {code}, wanted 1\n{text}")


SHAPES = ("olmoe-tiny", "qwen2moe-tiny", "qwen3-tiny", "mixtral-tiny", "llama-dense-tiny")
DATA = pathlib.Path(__file__).resolve().parents[1] / "data"
TRAINED = DATA.parents[1] / "models" / "tinystories-moe.gguf"
WITHOUT_WORDS = [DATA / "gguf_moe" / "split_qwen-00001-of-00003.gguf", DATA / "gguf_moe" / "full_mixtral.gguf",
                 DATA / "gen_moe" / "olmoe.gguf"]
TEXT = DATA / "first20" / "stories.txt"


def random_command(pick, models, folder):
    """A command line without its budget, and the file of its model."""
    name = pick.choice(["run", "logits", "eval", "tune", "bench"])
    model = str(pick.choice(models + (WITHOUT_WORDS if name in ("logits", "bench") else [])))
    if name == "tune" and "dense" in model:
        model = str(TRAINED)
    n_ctx, n = pick.choice([32, 64, 200]), pick.randint(1, 30)
    more = {
        "run": ["-p", "Once upon a time", "-n", str(n), "--ignore-eos", "-s", "1", *pick.choice([[], ["--json"]])],
        "logits": ["--tokens", ",".join(str(pick.randint(3, 47)) for _ in range(n)), "-o", f"{folder}/out"],
        "eval": ["--data", str(TEXT), "--max", str(n)],
        "tune": ["--data", str(TEXT), "--tokens", str(40 * n_ctx), "--hidden", "8", "-o", f"{folder}/out"],
        "bench": ["-p", str(n), "-n", "2", "-r", "1", "--modes", "ondemand"],
    }[name]
    if name != "tune":
        more += ["--kv", pick.choice(["f16", "f32"]), "--io", pick.choice(["uring", "pread"])]
    if name not in ("tune", "bench"):
        more += ["--mode", pick.choice(["auto", "ondemand", "lookahead", "prefetch-all"])]
    return [name, model, "-c", str(n_ctx), "-t", str(pick.randint(1, 8)), *more], model


def check_blind(programs, folder):
    """Where no further file can be opened the process cannot read what it takes; it keeps the budget all the same."""
    command = ["run", str(TRAINED), "-p", "Once", "-n", "4", "-c", "64", "-t", "8", "--io", "pread", "--mode", "ondemand"]
    budget = f"{minimum_of([programs[0], *command]):.2f}M"
    few = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (5, 5))
    wrong, peak = measured(programs, command, budget, None, f"{folder}/peak", few)
    text = run([programs[0], *command, "--memory", budget], few)[1]
    if wrong or not re.search(r"peak [1-9]", text):
        sys.exit(f"with five files: {wrong}, peak {peak}\n{text}")


def check_random(programs, folder, n_runs, seed):
    pick, models, wrong = random.Random(seed), [TRAINED], []
    for shape in SHAPES:
        models.append(f"{folder}/{shape}.gguf")
        must([programs[0], "synth", shape, "--type", pick.choice(["Q4_K", "Q8_0", "F32"]), "-o", models[-1]])
    group = Cgroup.make(MIB)
    if group:
        group.close()
    for i in range(n_runs):
        command, model = random_command(pick, models, folder)
        least = minimum_of([programs[0], *command])
        more = pick.choice([0, 0, 0.25, 1, pick.uniform(0, 1.2 * os.path.getsize(model) / MIB)])
        budget = f"{least + more:.2f}M"
        limited = Cgroup.make(round(float(budget[:-1]) * MIB)) if group else None
        try:
            why, peak = measured(programs, command, budget, limited, f"{folder}/peak")
        finally:
            if limited:
                limited.close()
        line = f"{i}: pregate {' '.join(command)} --memory {budget} (least {least:.2f}): peak {peak / MIB:.2f}"
        print(line if not why else f"{line}: {why}", flush=True)
        wrong += [line] if why else []
    print(f"{n_runs} runs, seed {seed}, {'each in a cgroup of its budget' if group else 'no cgroup can be made here'}: "
          f"{len(wrong)} over, killed or refused")
    sys.exit(bool(wrong))


def option(name, default):
    return next((int(a.split("=")[1]) for a in sys.argv if a.startswith(f"--{name}=")), default)


def main():
    pregate, peak_of, what = sys.argv[1:4]
    if any(a.startswith("--sanitize=") and a != "--sanitize=" for a in sys.argv):
        print("SKIPPED: budget.py: a sanitizer's own memory is not in the plan")
        sys.exit(77)
    folder = tempfile.mkdtemp(prefix="pregate-budget-")
    try:
        if what == "random":
            check_random((pregate, peak_of), folder, option("runs", 12), option("seed", 1))
        model = f"{folder}/model.gguf"
        must([pregate, "synth", SHAPE, "--type", TYPE, "--seed", "1", "-o", model])
        check((pregate, peak_of), model, folder, what == "cgroup")
        if what == "rss":
            check_blind((pregate, peak_of), folder)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
