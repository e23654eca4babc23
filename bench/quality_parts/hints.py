"""Hints: what was named of what the router chose, and what the names cost. The model as it is; no answer changes."""
import statistics

from .arms import DEMO, Ready
from .page import MISSING, Estimate

EXTRA = [0, 1, 2]
WORDS = """How many of the experts that the router chose were named one block and more before, and how often all of them were.
`lookahead` runs the router early; `hint` has pre-gates made by `pregate tune --for hint`. `--extra N` names N more than
a token uses."""
COST_WORDS = """What the names cost, one token a step, the same `--memory` for all: the tables of the gates take slots away. Stalls
are one run each and vary with the machine."""


class Hints:
    def __init__(self, lab, plan, level):
        self.lab, self.plan, self.level = lab, plan, level

    def sidecar(self, seed):
        return self.lab.file(f"hint-level{self.level}-seed{seed}",
                             ["tune", DEMO, "--data", self.lab.text["train"], "--for", "hint", "--level", self.level,
                              "--tokens", self.plan["gates"]["demo"][0][0], "--seed", seed])

    def agree(self, name, extra, *more):
        self.lab.json(f"agree-{name}-extra{extra}", ["eval", DEMO, "--task", "agree", "--data", self.lab.text["test"],
                                                     "--extra", extra, *more])

    def cost(self, name, ready, memory, *more):
        """Bytes and waiting under a budget, out of which the gates' own tables are paid."""
        self.lab.json(f"cost-{name}-memory{memory}", [*ready.args(), "--data", self.lab.text["test"], "--memory", memory,
                                                      "--batch", 1, "--max", self.plan["hint_docs"], *more])

    def choose(self):
        pass

    def tasks(self):
        return [self.run]

    def run(self):
        for extra in EXTRA if self.level == 1 else [0]:
            self.agree(f"lookahead-level{self.level}", extra, "--mode", "lookahead", "--lookahead", self.level)
            for seed in self.plan["seeds"]:
                self.agree(f"hint-level{self.level}-seed{seed}", extra, "--mode", "hint", "--pregate", self.sidecar(seed))
        if self.level > 1:
            return
        first = self.plan["seeds"][0]
        for memory in self.plan["memory"]:
            self.cost("ondemand", Ready(DEMO, "ondemand"), memory)
            self.cost("lookahead", Ready(DEMO, "lookahead"), memory, "--hints", "on")
            self.cost("hint", Ready(DEMO, "hint", self.sidecar(first)), memory, "--hints", "on")


def agree_row(label, results):
    blocks = {}
    for r in results:
        for b in r["blocks"]:
            blocks.setdefault(b["block"], []).append(b["recall"])
    cells = " | ".join(f"{statistics.mean(blocks[b]):.3f}" if b in blocks else "" for b in range(1, 6))
    recall, whole = (Estimate([r["mean"][key] for r in results]).text("{:.3f}") for key in ("recall", "set_right"))
    return f"| {label} | {cells} | {recall} | {whole} |"


def agree_table(lab, plan):
    lines = ["| | block 1 | block 2 | block 3 | block 4 | block 5 | recall, mean | whole set right |", "|---|---|---|---|---|---|---|---|"]
    for level in plan["levels"]["demo"]:
        for extra in EXTRA if level == 1 else [0]:
            more = f", `--extra {extra}`" if extra else ""
            alone = lab.result(f"agree-lookahead-level{level}-extra{extra}")
            seeds = [r for r in (lab.result(f"agree-hint-level{level}-seed{s}-extra{extra}") for s in plan["seeds"]) if r]
            if alone:
                lines.append(agree_row(f"`lookahead`, level {level}{more}", [alone]))
            if seeds:
                lines.append(agree_row(f"`hint`, level {level}{more}", seeds))
    return lines


def cost_table(lab, plan):
    lines = ["| `--memory` | mode | slots | KiB read a token | stall a token, µs |", "|---|---|---:|---:|---:|"]
    for memory in plan["memory"]:
        for mode in ("ondemand", "lookahead", "hint"):
            r = lab.result(f"cost-{mode}-memory{memory}")
            cells = (f"{r['n_slots']} | {r['bytes_read_per_token'] / 1024:.0f} | {1e6 * r['stall_seconds'] / r['tokens']:.0f}"
                     if r else f"{MISSING} | |")
            lines.append(f"| {memory} | `{mode}` | {cells} |")
    return lines
