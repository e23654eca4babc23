"""The same claims on machines that are not here: `pregate plan --simulate`, in virtual time. Nothing of this machine is in it."""
from .lab import ROOT
from .measure import n_expert
from .reported import ACTIVE, ACTIVE_SOURCE, ACTIVE_SOURCE_ELSE, OTHER_BLOCK_MS

MACHINES = ["rtx4090d", "a100", "h200"]
SHAPES = ["switch-base-8", "switch-base-64", "switch-base-128", "switch-base-256", "switch-large-128"]
MODES = "resident,pregate,ondemand,prefetch-all"
TITLES = {"rtx4090d": "RTX 4090 D, PCIe 4 (third party)", "a100": "A100 80 GB, PCIe 4 (the paper's)", "h200": "H200, PCIe 5"}


def simulate(lab, name, shape, machine, *more):
    lab.json(f"simulated-{machine}-{name}", ["plan", shape, "--simulate", ROOT / f"bench/machines/{machine}.json", "--modes", MODES,
                                             "--active-source", min(n_expert(shape), ACTIVE_SOURCE.get(shape, ACTIVE_SOURCE_ELSE)),
                                             "--json", *more])


def measure(lab):
    for machine in MACHINES:
        for shape in SHAPES:
            simulate(lab, shape, shape, machine, "--steps", 256)
        for batch, active in ACTIVE.items():
            simulate(lab, f"batch-{batch}", "switch-base-128", machine, "--steps", 128, "--batches", batch, "--active", active)


def rows_of(lab, machine, name):
    found = lab.result(f"simulated-{machine}-{name}")
    return {row["mode"]: row for row in found["rows"]} if found else {}


def bars(lab):
    """Of each bar of the third party's table: shape, mode, theirs and ours in ms."""
    for shape, measured in OTHER_BLOCK_MS.items():
        rows = rows_of(lab, "rtx4090d", shape)
        for mode, ms in measured.items():
            if ms and mode in rows:
                yield shape, mode, ms, rows[mode]["block_seconds"] * 1e3
