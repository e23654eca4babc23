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


def setting_of(lab, name, seeds):
    path = lab.out / f"chosen-{name}.json"
    if not path.exists():
        return ""
    words = [f"{k} {v}" for k, v in json.loads(path.read_text()).items() if v != "0"]
    like = name.replace("-by-loss", "") if "as-the-paper" in name else name.replace("by-loss", "distilled")
    mine, first = (test_ppl(lab, n, seeds)[0] for n in (name, like))
    kept = sum(first.get(s) == v for s, v in mine.items()) if "by-loss-" in name else 0
    return ", ".join(words + ([f"{kept} of {len(mine)} seeds kept the distilled gates"] if kept else []))


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
            f"{difference(mine, tuned) if 'conventional' not in name else '-'} | {difference(mine, own) if 'conventional' not in name else '-'} | {setting_of(lab, name, seeds)} |")


QUALITY_HEAD = ["| | perplexity | each seed | to the model before, % | to the best conventional fine-tuning, % | "
                "to the own routers on these weights, % | chosen on validation |", "|---|---:|---|---|---|---|---|"]
KINDS = [("next", "next router, unmodified"), ("as-the-paper", "gates alone, distilled, weighing as well"),
         ("as-the-paper-by-loss", "gates alone, by the loss, weighing as well"),
         ("distilled-less", "gates alone, distilled from less"), ("distilled", "gates alone, distilled"),
         ("by-loss", "gates alone, by the loss"), ("pregated", "pre-gated, fine-tuned")]


def quality_table(lab, plan, size):
    prefix = "" if size == "demo" else f"{size}-"
    lines = QUALITY_HEAD + [quality_row(lab, plan["seeds"], "the model before", f"{prefix}before", size),
                            quality_row(lab, plan["seeds"], "conventional, fine-tuned", f"{prefix}conventional", size)]
    for level in plan["levels"][size]:
        for kind, label in KINDS:
            if kind in ("distilled-less", "as-the-paper-by-loss") and (size, level) != ("demo", 1):
                continue
            lines.append(quality_row(lab, plan["seeds"], f"{label}, level {level}", f"{prefix}{kind}-level{level}", size))
    return lines


# ---------------------------------------------------------------- the front


def per_cent(a, b):
    return 100 * (a / b - 1)


class Front:
    """Curves beside the untrained router's with --cache-bias and with --cache-margin (the first two of the baselines),
    and beside what fine-tuning alone brings (the first of the trained)."""

    def __init__(self, lab, plan, baselines, trained, part="test"):
        self.lab, self.plan = lab, plan
        self.fixed = [(c, {None: c.points(part)}) for c in baselines if c.points(part)]
        self.trained = [(c, c.curves(plan["seeds"])) for c in trained]
        _, self.bytes0, self.ppl0 = self.fixed[0][1][None][0]
        self.half = self.bytes0 / 2
        self.tuned = self.at_half(self.trained[0][1]) if trained else {}

    @staticmethod
    def crossings(curves, at, of=0):
        """By seed, of the curves that come there."""
        found = {seed: crossing([p[1:] for p in points], at, of) for seed, points in curves.items()}
        return {seed: v for seed, v in found.items() if v}

    def at_half(self, curves):
        return self.crossings(curves, self.half)

    def bytes_cell(self, curves, ppl):
        """Per cent of half of the bytes at that perplexity. A curve that ends before it, better than it, would come there
        with fewer bytes than it ends with: its end counts."""
        there = self.crossings(curves, ppl, of=1)
        ends = {seed: min(p[1] for p in points) for seed, points in curves.items()
                if seed not in there and max(p[2] for p in points) < ppl}
        text = self.cell([per_cent(v, self.half) for v in {**there, **ends}.values()], len(curves))
        return text + (f" or fewer: {len(ends)} of {len(curves)} end there" if ends else "")

    def row(self, curve, curves):
        label = f"| {curve.label} | `--cache-{curve.knob}`"
        if not curves:
            return f"{label} | {MISSING} | | | | | | |"
        mine, n = self.at_half(curves), len(curves)
        references = [self.at_half(points)[None] for _, points in self.fixed[:2]]
        cells = [self.cell([per_cent(v, self.ppl0) for v in mine.values()], n, False)]
        cells += [self.cell([per_cent(v, ppl) for v in mine.values()], n) for ppl in references]
        cells += [self.cell(paired(mine, self.tuned), n) if set(mine) & set(self.tuned) and mine != self.tuned else ""]
        cells += [self.bytes_cell(curves, ppl) for ppl in references]
        return f"{label} | " + " | ".join(cells) + f" | {n} |"

    @staticmethod
    def cell(values, n_curves, beside_zero=True):
        """Of the curves that come there."""
        if not values:
            return "does not come there"
        few = f" ({len(values)} of {n_curves} come there)" if len(values) < n_curves else ""
        estimate = Estimate(values)
        return (estimate.beside_zero() if beside_zero else estimate.text("{:+.2f}")) + few

    def table(self):
        lines = ["| | preference | at half of the bytes, %: to the model before | to the first row | to the second row | "
                 "to conventional fine-tuning | bytes, %, at the perplexity of the first row at half | of the second row | curves |",
                 "|---|---|---|---|---|---|---|---|---:|"]
        return lines + [self.row(c, curves) for c, curves in self.fixed + self.trained]

    def points_table(self):
        lines = ["| | preference | slots | KiB read a token | of the model before | perplexity | to the model before, % |",
                 "|---|---|---:|---:|---:|---:|---:|"]
        named = [(c.label, c.knob, curves[None]) for c, curves in self.fixed]
        named += [(f"{c.label}, seed {seed}", c.knob, points) for c, curves in self.trained for seed, points in curves.items()]
        for label, knob, points in named:
            lines += [f"| {label} | `--cache-{knob} {v}` | {self.plan['slots']} | {n / 1024:.0f} | {n / self.bytes0:.3f} | {ppl:.4f} | "
                      f"{per_cent(ppl, self.ppl0):+.2f} |" for v, n, ppl in points]
        return lines

    def series(self):
        colours = iter(["#2ca02c", "#1f77b4", "#bcbd22", "#7f7f7f", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#17becf", "#ff7f0e"] * 2)
        named = [(f"{c.label}, --cache-{c.knob}", curves[None]) for c, curves in self.fixed]
        named += [(c.label, next(iter(curves.values()))) for c, curves in self.trained if curves]
        return [(name.replace("`", ""), next(colours), [(v, n / 1024, ppl) for v, n, ppl in points]) for name, points in named if points]


def front_section(lab, plan, baselines, trained):
    def halves(part):
        points = [[p[1:] for p in c.points(part)] for c in baselines[:2]]
        return all(p and crossing(p, points[0][0][0] / 2) for p in points)

    if not halves("test"):
        return [MISSING]
    front = Front(lab, plan, baselines, trained)
    write(lab.out / "quality-curve.svg", draw.svg(front.series()))
    blind = Front(lab, plan, baselines[:2], [], "valid").table() if halves("valid") else [MISSING]
    return ["![Bytes read against perplexity](quality-curve.svg)", "", *front.table(), "",
            "The first two rows on the validation text, where the form of `--cache-margin` was not sought:", "", *blind, "",
            "All points:", "", *front.points_table()]


def head(lab, plan):
    seeds = ", ".join(map(str, plan["seeds"]))
    texts = "; ".join(f"{part}: `{lab.text[part].name}`" for part in ("train", "valid", "test"))
    seconds, n_resumed = lab.seconds()
    part = f", {n_resumed} of them interrupted and counted with their last part" if n_resumed else ""
    words = f"""Written by `bench/quality`. Texts share no story: {texts}. Each way to a gate chooses its rate and its steps on
the validation text, with the first seed; the test text is then measured once, with seeds {seeds}. Differences are taken
seed by seed; ± is the half of a 95 % interval (Student's t). "No difference shown" stands where that interval has zero in
it, and it is of training seeds alone: one model, one text. The form of `--cache-margin` and the loss of hints had been
found on the test text, with an earlier model (decisions 013 and 014); all else was not chosen by it. Perplexity is of the
first 256 tokens of each story. {len(seconds)} runs, {sum(seconds) / 3600:.1f} hours on one
thread each{part}."""
    return ["# Quality of pre-gates", "", textwrap.fill(" ".join(words.split()), 119, break_on_hyphens=False),
            "", "## Perplexity, letting each decide"]
