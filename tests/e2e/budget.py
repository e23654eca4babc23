#!/usr/bin/python3
"""The memory budget is kept, measured from outside.

    budget.py PREGATE rss       peak resident size (VmHWM, by wait4) of the process <= --memory
    budget.py PREGATE cgroup    the same inside a memory cgroup of exactly that size, where going
                                over it would mean swapping or the OOM killer

A model several times larger than the smallest budget is made with `pregate synth`; its logits must be
the same bytes under every budget. Exit 77 = skipped, with the reason on the last line.
"""
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

SHAPE, TYPE = "qwen3-t", "Q8_0"
TOKENS = ",".join(str((i * 37) % 500) for i in range(24))
MIB = 1 << 20


def run(command, before=None):
    """Exit code, output, peak resident bytes of one process."""
    with tempfile.TemporaryFile() as out:
        child = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                                 preexec_fn=before)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        return child.returncode, out.read().decode(errors="replace"), usage.ru_maxrss * 1024


def must(command, before=None):
    code, text, peak = run(command, before)
    if code:
        sys.exit(f"{' '.join(map(str, command))}: exit code {code}\n{text}")
    return text, peak


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


def plan(pregate, model, budget, mode):
    text, _ = must([pregate, "plan", model, "--memory", str(budget), "--mode", mode, "--no-measure",
                    "-c", "64", "--kv", "f32", "--json"])
    found = json.loads(text[text.index("{"):])
    return found.get("plan", found)


def logits(pregate, model, out, budget, mode, before=None):
    command = [pregate, "logits", model, "--tokens", TOKENS, "-c", "64", "--memory", str(budget),
               "--mode", mode, "-t", "2", "-o", out]
    _, peak = must(command, before)
    if peak > budget:
        sys.exit(f"--memory {budget}: peak resident size {peak}, {peak - budget} over\n{command}")
    print(f"{mode:>13} --memory {budget / MIB:7.1f} MiB: peak {peak / MIB:7.1f} MiB")
    return pathlib.Path(out).read_bytes()


def check(pregate, model, folder, in_cgroup):
    size = os.path.getsize(model)
    whole = plan(pregate, model, 1 << 40, "ondemand")
    least = whole["minimum"]
    if size < 1.5 * least:
        sys.exit(f"the model ({size} bytes) is not much larger than the least budget ({least})")
    want = None
    for mode in ("ondemand", "lookahead", "prefetch-all"):
        for budget in (least, least + (size - least) // 4, least + (size - least) // 2, 2 * size):
            group = Cgroup.make(budget) if in_cgroup else None
            if in_cgroup and not group:
                print("skipped: no memory cgroup can be made here")
                sys.exit(77)
            try:
                got = logits(pregate, model, f"{folder}/out.npy", budget, mode,
                             group.enter if group else None)
                if group and group.events():
                    sys.exit(f"--memory {budget}: the kernel killed in the cgroup of that size")
            finally:
                if group:
                    group.close()
            want = want or got
            if got != want:
                sys.exit(f"--mode {mode} --memory {budget}: other logits")
    code, text, _ = run([pregate, "logits", model, "--tokens", "1", "-c", "64", "--memory",
                         str(least // 4), "--mode", "ondemand", "-o", f"{folder}/none.npy"])
    if code != 1 or os.path.exists(f"{folder}/none.npy"):
        sys.exit(f"a quarter of the least budget: exit code {code}, wanted 1\n{text}")


def main():
    pregate, what = sys.argv[1:3]
    folder = tempfile.mkdtemp(prefix="pregate-budget-")
    try:
        model = f"{folder}/model.gguf"
        must([pregate, "synth", SHAPE, "--type", TYPE, "--seed", "1", "-o", model])
        check(pregate, model, folder, what == "cgroup")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
