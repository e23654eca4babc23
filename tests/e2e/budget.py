#!/usr/bin/python3
"""The memory budget is kept, measured from outside.

    budget.py PREGATE PEAK_OF rss       peak resident size of the process <= --memory
    budget.py PREGATE PEAK_OF cgroup    the same inside a memory cgroup of exactly that size, where
                                        going over it would mean swapping or the OOM killer

A model several times larger than the smallest budget is made with `pregate synth`; its logits must be
the same bytes under every budget. PEAK_OF is built from
peak_of.c. Exit 77 = skipped, with the reason on a line "SKIPPED: ..."; so it is with a last argument
--sanitize=NAMES that names a sanitizer.
"""
import json
import os
import pathlib
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


def least_budget(pregate, model, mode):
    """The smallest budget that a plan accepts, and a megabyte for the rows that `logits` holds and for
    what a process needs more of in one run than in another."""
    budget = 1 * MIB
    for _ in range(8):
        _, text = run([pregate, "plan", model, "--memory", str(budget), "--mode", mode,
                       "--no-measure", "-c", "64", "--kv", "f32", "-t", "2", "--json"])
        found = json.loads(text[text.index("{"):text.rindex("}") + 1])
        if found["fits"]:
            return (budget // MIB + 2) * MIB
        budget = found["minimum"]
    sys.exit(f"no plan accepts the minimum it names; the last:\n{text}")


def logits(programs, model, out, budget, mode, before=None):
    pregate, peak_of = programs
    command = [peak_of, out + ".peak", pregate, "logits", model, "--tokens", TOKENS, "-c", "64", "--memory", str(budget),
               "--mode", mode, "-t", "2", "-o", out]
    must(command, before)
    peak = int(pathlib.Path(out + ".peak").read_text())
    if peak > budget:
        sys.exit(f"--memory {budget}: peak resident size {peak}, {peak - budget} over\n{command}")
    print(f"{mode:>13} --memory {budget / MIB:7.1f} MiB: peak {peak / MIB:7.1f} MiB")
    return pathlib.Path(out).read_bytes()


def check(programs, model, folder, in_cgroup):
    pregate = programs[0]
    size = os.path.getsize(model)
    least = least_budget(pregate, model, "prefetch-all")
    if size < 1.5 * least:
        sys.exit(f"the model ({size} bytes) is not much larger than the least budget ({least})")
    want = None
    for mode in ("ondemand", "lookahead", "prefetch-all"):
        for budget in (least, least + size // 4 // MIB * MIB, least + size // 2 // MIB * MIB,
                       2 * (size // MIB) * MIB):
            group = Cgroup.make(budget) if in_cgroup else None
            if in_cgroup and not group:
                print("SKIPPED: budget.py: no memory cgroup can be made here")
                sys.exit(77)
            try:
                got = logits(programs, model, f"{folder}/out.npy", budget, mode,
                             group.enter if group else None)
                if group and group.events():
                    sys.exit(f"--memory {budget}: the kernel killed in the cgroup of that size")
            finally:
                if group:
                    group.close()
            want = want or got
            if got != want:
                sys.exit(f"--mode {mode} --memory {budget}: other logits")
    code, text = run([pregate, "logits", model, "--tokens", "1", "-c", "64", "--memory",
                         str(least // 4), "--mode", "ondemand", "-o", f"{folder}/none.npy"])
    if code != 1 or os.path.exists(f"{folder}/none.npy"):
        sys.exit(f"a quarter of the least budget: exit code {code}, wanted 1\n{text}")


def main():
    pregate, peak_of, what = sys.argv[1:4]
    if any(a.startswith("--sanitize=") and a != "--sanitize=" for a in sys.argv):
        print("SKIPPED: budget.py: a sanitizer's own memory is not in the plan")
        sys.exit(77)
    folder = tempfile.mkdtemp(prefix="pregate-budget-")
    try:
        model = f"{folder}/model.gguf"
        must([pregate, "synth", SHAPE, "--type", TYPE, "--seed", "1", "-o", model])
        check((pregate, peak_of), model, folder, what == "cgroup")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
