"""The page: every figure is computed here from the results, and says how many seeds it stands on."""
import json
import math
import statistics
import textwrap

from . import draw
from .front import crossing
from .lab import write

MISSING = "not yet"
# Two-sided 95 % of Student's t, by degrees of freedom.
STUDENT = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


class Estimate:
    """A mean over seeds with its 95 % interval (Student's t); without one for a single value."""

    def __init__(self, values):
        self.n, self.mean = len(values), statistics.mean(values)
        self.half = STUDENT[self.n - 1] * statistics.stdev(values) / math.sqrt(self.n) if self.n > 1 else None

    def text(self, form):
        return form.format(self.mean) + (f" ± {form.format(self.half).lstrip('+')}" if self.half is not None else "")

    def excludes_zero(self):
        return self.half is not None and abs(self.mean) > self.half

    def beside_zero(self):
        """A difference in per cent, and whether it is one at all."""
        return self.text("{:+.2f}") + ("" if self.half is None or self.excludes_zero() else " (no difference shown)")


def test_ppl(lab, name, seeds):
    """By seed; a model that has no seeds has its one value for each."""
    alone = lab.result(f"test-{name}")
    found = {s: alone or lab.result(f"test-{name}-seed{s}") for s in seeds}
    return {s: r["ppl"] for s, r in found.items() if r}, bool(alone)


def paired(ppl, to):
    """Per cent of each seed above the same seed of another row."""
    return [100 * (ppl[s] / to[s] - 1) for s in sorted(ppl) if s in to]


def difference(mine, other):
    (ppl, mine_alone), (to, other_alone) = mine, other
    both = paired(ppl, to)
    if not both:
        return "-"
    return f"{both[0]:+.2f}" if mine_alone and other_alone else Estimate(both).beside_zero()


def setting_of(lab, name):
    path = lab.out / f"chosen-{name}.json"
    return ", ".join(f"{k} {v}" for k, v in json.loads(path.read_text()).items()) if path.exists() else ""


def quality_row(lab, seeds, label, name, size):
    mine = test_ppl(lab, name, seeds)
    if not mine[0]:
        return f"| {label} | {MISSING} | | | | | |"
    values = list(mine[0].values())
    each = "" if mine[1] else ", ".join(f"{v:.4f}" for v in values)
    before, tuned = (test_ppl(lab, n if size == "demo" else f"{size}-{n}", seeds) for n in ("before", "conventional"))
    own = test_ppl(lab, f"{name}-routers", seeds)
    if not own[0] and "conventional" not in name:
        own = before # its weights are those of the model before
    return (f"| {label} | {values[0] if mine[1] else statistics.mean(values):.4f} | {each} | {difference(mine, before)} | "
            f"{difference(mine, tuned) if 'conventional' not in name else '-'} | {difference(mine, own) if 'conventional' not in name else '-'} | {setting_of(lab, name)} |")


QUALITY_HEAD = ["| | perplexity | each seed | to the model before, % | to the best conventional fine-tuning, % | "
                "to the own routers on these weights, % | chosen on validation |", "|---|---:|---|---|---|---|---|"]
KINDS = [("next", "next router, unmodified"), ("as-the-paper", "gates alone, distilled, weighing as well"),
         ("distilled", "gates alone, distilled"), ("by-loss", "gates alone, by the loss"), ("pregated", "pre-gated, fine-tuned")]


def quality_table(lab, plan, size):
    prefix = "" if size == "demo" else f"{size}-"
    lines = QUALITY_HEAD + [quality_row(lab, plan["seeds"], "the model before", f"{prefix}before", size),
                            quality_row(lab, plan["seeds"], "conventional, fine-tuned", f"{prefix}conventional", size)]
    for level in plan["levels"][size]:
        for kind, label in KINDS:
            lines.append(quality_row(lab, plan["seeds"], f"{label}, level {level}", f"{prefix}{kind}-level{level}", size))
    return lines


# ---------------------------------------------------------------- the front


def per_cent(a, b):
    return 100 * (a / b - 1)


class Front:
    """Curves beside the untrained router's with --cache-bias (the first of the baselines)."""

    def __init__(self, lab, plan, baselines, trained):
        self.lab, self.plan, self.trained = lab, plan, trained
        self.fixed = [(c, c.points()) for c in baselines]
        first = self.fixed[0][1]
        _, self.bytes0, self.ppl0 = first[0]
        self.half = self.bytes0 / 2
        self.ppl_half = crossing([p[1:] for p in first], self.half)

    def row(self, label, curves):
        """`curves`: points of each seed, or of one without seeds."""
        pairs = [[p[1:] for p in c] for c in curves if c]
        if not pairs:
            return f"| {label} | {MISSING} | | | |"
        halves = [v for v in (crossing(c, self.half) for c in pairs) if v]
        equal = [v for v in (crossing(c, self.ppl_half, of=1) for c in pairs) if v]
        ends = [min(c) for c in pairs if max(p[1] for p in c) < self.ppl_half]  # better still where they end
        cells = [Estimate([per_cent(v, self.ppl0) for v in halves]).text("{:+.2f}") if halves else "does not come there",
                 Estimate([per_cent(v, self.ppl_half) for v in halves]).beside_zero() if halves else "",
                 self.bytes_cell(equal, ends)]
        return f"| {label} | " + " | ".join(cells) + f" | {len(pairs)} |"

    def bytes_cell(self, equal, ends):
        if ends:
            return "below " + Estimate([per_cent(v, self.half) for v in equal + [n for n, _ in ends]]).text("{:+.2f}")
        return Estimate([per_cent(v, self.half) for v in equal]).beside_zero() if equal else "does not come there"

    def table(self):
        lines = ["| | preference | at half of the bytes: to the model before, % | at half of the bytes: to the first row, % | bytes at "
                 "the perplexity of the first row at half, % | curves |", "|---|---|---|---|---|---:|"]
        lines += [self.row(f"{c.label} | `--cache-{c.knob}`", [points]) for c, points in self.fixed]
        return lines + [self.row(f"{c.label} | `--cache-{c.knob}`", list(c.curves(self.plan["seeds"]).values())) for c in self.trained]

    def points_table(self):
        lines = ["| | preference | slots | KiB read a token | of the model before | perplexity | to the model before, % |",
                 "|---|---|---:|---:|---:|---:|---:|"]
        named = [(c.label, c.knob, points) for c, points in self.fixed]
        named += [(f"{c.label}, seed {seed}", c.knob, points)
                  for c in self.trained for seed, points in c.curves(self.plan["seeds"]).items()]
        for label, knob, points in named:
            lines += [f"| {label} | `--cache-{knob} {v}` | {self.plan['slots']} | {n / 1024:.0f} | {n / self.bytes0:.3f} | {ppl:.4f} | "
                      f"{per_cent(ppl, self.ppl0):+.2f} |" for v, n, ppl in points]
        return lines

    def series(self):
        colours = iter(["#2ca02c", "#1f77b4", "#bcbd22", "#7f7f7f", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#17becf", "#ff7f0e"] * 2)
        named = [(f"{c.label}, --cache-{c.knob}", points) for c, points in self.fixed]
        named += [(c.label, next(iter(found.values()))) for c in self.trained if (found := c.curves(self.plan["seeds"]))]
        return [(name.replace("`", ""), next(colours), [(v, n / 1024, ppl) for v, n, ppl in points]) for name, points in named if points]


def front_section(lab, plan, baselines, trained):
    first = [p[1:] for p in baselines[0].points()]
    if not first or not crossing(first, first[0][0] / 2):
        return [MISSING]
    front = Front(lab, plan, baselines, trained)
    write(lab.out / "quality-curve.svg", draw.svg(front.series()))
    return ["![Bytes read against perplexity](quality-curve.svg)", "", *front.table(), "", "All points:", "", *front.points_table()]


def head(lab, plan):
    seeds = ", ".join(map(str, plan["seeds"]))
    texts = "; ".join(f"{part}: `{lab.text[part].name}`" for part in ("train", "valid", "test"))
    words = f"""Written by `bench/quality`. Texts share no story: {texts}. Each way to a gate chooses its rate and its steps on
the validation text, with the first seed; the test text is then measured once, with seeds {seeds}. Differences are taken
seed by seed; ± is the half of a 95 % interval (Student's t). "No difference shown" stands where that interval has zero in
it. Perplexity is of the first 256 tokens of each story."""
    return ["# Quality of pre-gates", "", textwrap.fill(" ".join(words.split()), 119, break_on_hyphens=False),
            "", "## Perplexity, letting each decide"]
