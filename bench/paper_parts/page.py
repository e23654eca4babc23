"""The page: every figure is computed here from the results; a sentence that a number could change is made from it."""
import json
import statistics
import textwrap

from . import draw, reported
from .lab import write
from .numbers import Shape, rows
from .simulated import MACHINES, SHAPES, TITLES, bars, rows_of

MISSING = "not measured"
MODES = ["resident", "pregate", "ondemand", "prefetch-all"]
MIB = 1 << 20


def fill(text):
    return textwrap.fill(" ".join(text.split()), 119, break_on_hyphens=False, break_long_words=False)


def table(head, lines):
    return ["| " + " | ".join(head) + " |", "|" + "|".join("---" if i == 0 else "---:" for i in range(len(head))) + "|",
            *("| " + " | ".join(map(str, line)) + " |" for line in lines)]


def ms(v, sd=None):
    text = f"{v:.3g}" if v < 1000 else f"{v:.0f}"
    return text + (f" ± {sd:.2g}" if sd else "")


def times(v, digits=2):
    return f"{v:.{digits}f}×" if v < 100 else f"{v:.0f}×"


def span(values, digits=2):
    low, high = times(min(values), digits), times(max(values), digits)
    return low if low == high else f"{low} to {high}"


def percents(values):
    return " to ".join(dict.fromkeys(f"{100 * v:.0f}" for v in values)) + " %"


def short(shape):
    return shape.replace("switch-", "")


def spread(values, digits=2):
    """The ratio of medians is said elsewhere; this is how the repetitions' ratios are apart."""
    return f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""


def paper_of(values, large, shape, mode):
    """What the paper says of this ratio: an average over its shapes, of Large its own, of Base-256 nothing."""
    if mode not in values or "256" in shape:
        return "-"
    if "large" in shape:
        return times(large[mode], 1) if large[mode] else "does not fit"
    mean = values[mode]
    return "avg " + (f"{mean:.2f}×" if mean < 1 else f"{mean:g}×")


class Page:
    def __init__(self, lab):
        self.lab, self.plan = lab, lab.plan
        found = [Shape(lab, name) for name in self.plan["shapes"]] + [Shape(lab, self.plan["one_thread"], threads=1)]
        self.shapes = [s for s in found if s.there]
        self.pictures = {}

    def picture(self, name, content):
        write(self.lab.out / f"paper-{name}.svg", content)
        return [f"![{name}](paper-{name}.svg)", ""]

    def shape(self, name):
        return next((s for s in self.shapes if s.shape == name), None)

    # ------------------------------------------------------------ figures 10 to 12

    def times_table(self):
        lines = [[s.label, f"{s.expert / MIB:.2f}", f"{s.disk / 1e9:.2f}", ms(s.read), ms(s.moe), ms(s.window),
                  "yes" if s.read <= s.window else f"no: {times(s.read / s.window)}"] for s in self.shapes]
        return table(["", "expert, MiB", "disk's roof, GB/s", "reading one, ms", "a block's computing, ms", "window, ms", "fits the window"], lines)

    def latency_table(self):
        lines = []
        for s in self.shapes:
            mine = s.rows["pregate"].block()
            for mode in MODES:
                row = s.get(mode)
                if not row and mode not in s.rows:
                    continue
                if not row:
                    lines.append([f"{s.label} `{mode}`", s.word(mode), "", "", "", "", "",
                                  paper_of(reported.LATENCY, reported.LATENCY_LARGE, s.shape, mode)])
                    continue
                floor = s.floor(mode)
                lines.append([f"{s.label} `{mode}`", ms(row.block(), row.block_sd()), ms(row.first()), ms(row.later()), ms(floor),
                              times(row.block() / mine) + ("" if mode == "pregate" else spread(row.block_to(s.rows["pregate"]))), times(floor / s.floor("pregate")),
                              paper_of(reported.LATENCY, reported.LATENCY_LARGE, s.shape, mode)])
        return table(["", "a block, ms", "the first", "later ones", "floor", "to `pregate`", "floors' ratio", "the paper's"], lines)

    def latency(self):
        cells = {(s.label, mode): (s.get(mode).block(), s.get(mode).block_sd(), s.floor(mode)) if s.get(mode) else s.word(mode)
                 for s in self.shapes for mode in MODES}
        picture = self.picture("latency", draw.bars([s.label for s in self.shapes], MODES, cells, "ms a block with experts, log", True))
        return picture + self.latency_table()

    def throughput(self):
        lines, cells = [], {}
        for s in self.shapes:
            for mode in MODES:
                row = s.get(mode)
                key = (s.label, mode)
                if not row:
                    cells[key] = s.word(mode)
                    continue
                tps = 256 / s.request(mode)
                floor = 256 / (row.encode() * 1e-3 + 256 * s.floor_step(mode) * 1e-3)
                cells[key] = (tps, None, floor)
                lines.append([f"{s.label} `{mode}`", f"{tps:.1f}", f"{row.tps():.1f} ± {row.tps() * row.step_sd() / row.step():.1f}",
                              f"{1e3 / s.floor_step(mode):.1f}", percents(s.of_floor(mode)),
                              f"{100 * s.simple_floor_step(mode) / row.step():.0f} %", times(s.request(mode) / s.request("pregate")),
                              paper_of(reported.THROUGHPUT, reported.THROUGHPUT_LARGE, s.shape, mode),
                              f"{100 * row.encode() * 1e-3 / s.request(mode):.0f} %"])
        picture = self.picture("throughput", draw.bars([s.label for s in self.shapes], MODES, cells, "tokens/s, encoder included, log", True))
        return picture + table(["", "tokens/s, 256 in, 256 out", "decoding alone", "its floor", "of the floor", "of max(computing, reading)",
                                "`pregate` to it", "the paper's", "encoder's share"], lines)

    def memory(self):
        lines, cells = [], {}
        for s in self.shapes:
            resident = s.get("resident")
            for mode in MODES:
                row = s.get(mode)
                if not row:
                    cells[s.label, mode] = s.word(mode)
                    continue
                cells[s.label, mode] = (row.peak() / MIB,)
                lines.append([f"{s.label} `{mode}`", f"{row.peak() / MIB:.0f}", row.n_slots,
                              f"{100 * row.peak() / resident.peak():.1f} %" if resident else "-",
                              f"{100 * (row.peak() / s.rows['ondemand'].peak() - 1):+.1f} %",
                              f"{100 * reported.PEAK[mode]:.0f} %" if mode in reported.PEAK else "-"])
        picture = self.picture("memory", draw.bars([s.label for s in self.shapes], MODES, cells, "VmHWM, MiB, log", True))
        return picture + table(["", "VmHWM, MiB", "slots", "of `resident`", "to `ondemand`", "the paper's, of `resident`"], lines)

    def budget(self):
        lines = []
        for s in self.shapes:
            for mode in ("pregate", "ondemand"):
                row, other = s.budget.get(mode), s.rows[mode]
                if row and row.there:
                    lines.append([f"{s.label} `{mode}`", f"{row.memory / MIB:.0f}", row.n_slots, f"{row.tps():.1f}", f"{other.tps():.1f}",
                                  f"{row.encode() / 1e3:.2f}", f"{other.encode() / 1e3:.2f}"])
                elif row:
                    lines.append([f"{s.label} `{mode}`", "too little: the weights that are always there are more", "", "", "", "", ""])
        return table(["", "budget, MiB", "slots", "tokens/s", "without a cache", "encoder, s", "without a cache"], lines)

    # ------------------------------------------------------------ figure 14

    def active(self):
        reps, lines, series = self.plan["few_reps"], [], {}
        for n in self.plan["active"]:
            found = {mode: rows(self.lab, f"active-{n}-{mode}", reps).get(mode) for mode in MODES[:4]}
            if not all(row and row.there for row in found.values()):
                continue
            base = found["resident"].block()
            part = 100 * n / int(self.plan["active_shape"].rsplit("-", 1)[1])
            for mode in MODES[1:4]:
                series.setdefault(mode, []).append((round(part, 2), found[mode].block() / base))
            lines.append([f"{n} ({part:.2f} %)", *(ms(found[m].block(), found[m].block_sd()) for m in MODES[:4]),
                          *(times(found[m].block() / base) for m in MODES[1:4]), times(found["ondemand"].block() / found["pregate"].block())])
        if not lines:
            return [MISSING]
        return self.picture("active", draw.lines(series, "block latency, to resident, log", "active experts, %", log=True)) + table(
            ["active experts", *(f"`{m}`, ms" for m in MODES[:4]), *(f"`{m}` to `resident`" for m in MODES[1:4]), "`ondemand` to `pregate`"], lines)

    def routing(self):
        row = rows(self.lab, "routing-of-random-weights", 1).get("ondemand")
        path = next(iter(sorted(self.lab.out.glob("top-1-of-*.jsonl"))), None)
        said = []
        if row and row.there:
            said.append(f"random weights: {row.count('missed') / len(row.moe):.1f} distinct experts a block in {row.n} tokens")
        if path:
            tokens = [json.loads(line)["layers"] for line in path.read_text().splitlines()]
            tokens = tokens[:self.plan["n_cache"]]
            blocks = range(len(tokens[0]) // 2, len(tokens[0]))
            distinct = statistics.mean(len({t[b][0] for t in tokens}) for b in blocks)
            again = statistics.mean(statistics.mean(x[b] == y[b] for x, y in zip(tokens, tokens[1:])) for b in blocks)
            said.append(f"the forced trace: {distinct:.1f} in {len(tokens)}, the one before again in {100 * again:.0f} % of the cases")
        return "; ".join(said)

    # ------------------------------------------------------------ figure 15

    def cache(self):
        reps = self.plan["cache_reps"]
        none = rows(self.lab, "cache-none", reps)
        if not all(m in none and none[m].there for m in ("pregate", "ondemand")):
            return [MISSING]
        base = none["pregate"].block()
        lines = [["none", "-", *self.cache_cells(none, base)]]
        cells = {("none", "pregate"): (1,), ("none", "ondemand"): (base / none["ondemand"].block(),)}
        for part in self.plan["cache"]:
            for evict in self.plan["policies"]:
                found = rows(self.lab, f"cache-{part}", reps, evict)
                if all(m in found and found[m].there for m in ("pregate", "ondemand")):
                    lines.append([f"{part} %, {found['pregate'].n_slots} slots", f"`{evict}`", *self.cache_cells(found, base)])
                    for mode in ("pregate", "ondemand"):
                        cells[f"{part} % {evict}", mode] = (base / found[mode].block(),)
        groups = list(dict.fromkeys(group for group, _ in cells))
        picture = self.picture("cache", draw.bars(groups, ["pregate", "ondemand"], cells, "speed of a block, to pregate without a cache"))
        return picture + table(["cache", "policy", "`pregate`: hits", "MiB a token", "block, ms", "speed to `pregate` without",
                                "`ondemand`: hits", "MiB a token", "block, ms", "speed to `pregate` without"], lines)

    @staticmethod
    def cache_cells(found, base):
        out = []
        for mode in ("pregate", "ondemand"):
            row = found[mode]
            wanted = row.count("expert_requests")
            read = row.count("expert_bytes_read") / row.n / MIB
            out += [f"{100 * row.count('hits') / wanted:.1f} %", f"{read:.1f}", ms(row.block()), times(base / row.block())]
        return out

    # ------------------------------------------------------------ figure 16

    def ssd(self):
        s = Shape(self.lab, self.plan["ssd"]["shape"], "ssd")
        everything = [(x.label, x) for x in self.shapes] + ([(f"{s.label}, {self.plan['ssd']['layers']} layers", s)] if s.there else [])
        lines, cells = [], {}
        if not everything:
            return [MISSING]
        for name, x in everything:
            for mode in MODES[:4]:
                row = x.get(mode)
                cells[name, mode] = (x.request("pregate") / x.request(mode),) if row else x.word(mode)
                lines.append([f"{name} `{mode}`", *([ms(row.block(), row.block_sd()), ms(x.floor(mode)), f"{row.tps():.2f}",
                                                    times(x.request("pregate") / x.request(mode))] if row else [x.word(mode), "", "", ""])])
        picture = self.picture("ssd", draw.bars([n for n, _ in everything], MODES[:4], cells, "throughput, to pregate"))
        return picture + table(["", "a block, ms", "floor", "decoding, tokens/s", "throughput to `pregate`"], lines)

    # ------------------------------------------------------------ batches

    def batches(self):
        s, reps, lines, series = self.shape(self.plan["batch_shape"]), self.plan["few_reps"], [], {}
        same = []
        for n in self.plan["batches"]:
            found = {**rows(self.lab, f"batch-{n}-needed", reps), **rows(self.lab, f"batch-{n}-resident", reps)}
            gates = rows(self.lab, f"batch-{n}-same-gates", 1).get("pregate")
            if not s or not gates or not all(m in found and found[m].there for m in MODES[:3]):
                continue
            pre, demand, resident = found["pregate"], found["ondemand"], found["resident"]
            same.append(pre.hashes() == gates.hashes() and demand.hashes() == resident.hashes())
            read = demand.read_of_block() / s.disk * 1e3 * len(demand.moe)
            own = pre.read_of_block() / s.disk * 1e3 * len(pre.moe)
            bound = (resident.step() + read) / max(resident.step(), own)
            gains = [d / p for d, p in zip(demand.steps(), pre.steps())]
            gain = demand.step() / pre.step()
            for name, v in (("measured", gain), ("bound", bound)):
                series.setdefault(name, []).append((n, v))
            other = reported.OTHER_BATCHES.get(n)
            lines.append([n, f"{demand.wanted():.1f}, {pre.wanted():.1f}", f"{demand.read_of_block() / s.expert:.1f}, {pre.read_of_block() / s.expert:.1f}", f"{pre.tps():.1f}", f"{demand.tps():.1f}", f"{resident.tps():.1f}", ms(resident.step()),
                          ms(read), times(gain) + spread(gains), times(bound), times(other[0] / other[1]) if other else "-", "yes" if same[-1] else "NO"])
        if not lines:
            return [MISSING], None
        picture = self.picture("batch", draw.lines(series, "ondemand's step to pregate's", "texts side by side"))
        return picture + table(["texts", "distinct experts a block, `ondemand`'s and `pregate`'s", "of them read", "`pregate`, tokens/s", "`ondemand`", "`resident`",
                                "computing a step, ms", "reading a step, ms", "gain", "(c + r) / max(c, r')", "third party's gain", "tokens equal"], lines), all(same)

    # ------------------------------------------------------------ verdicts

    def bars_of_issue(self, equal):
        base, lines = self.shape("switch-base-128") or (self.shapes[0] if self.shapes else None), []
        if base:
            name, mine = base.label, base.rows["pregate"].block()
            for mode, wanted in (("ondemand", 1.7), ("prefetch-all", 42)):
                row = base.get(mode)
                if row:
                    ratio, most = row.block() / mine, base.floor(mode) / base.floor("pregate")
                    by_rep = spread(row.block_to(base.rows["pregate"]))
                    lines.append([f"block latency of `{mode}` to `pregate`, {name}, batch 1", f"≥ {wanted:g}× where times allow", times(ratio) + by_rep,
                                  f"floors' ratio {times(most)}", self.verdict(ratio >= wanted, most < wanted)])
        for s in self.shapes:
            row, resident = s.rows["pregate"], s.get("resident")
            of_floor, of_least = s.of_floor("pregate")
            if resident:
                ratio, most, fits = resident.step() / row.step(), s.compute / s.floor_step("pregate"), s.read <= s.window
                lines.append([f"throughput of `pregate` to `resident`, {s.label}", "≥ 81 % where the read fits the window",
                              f"{100 * ratio:.0f} %", f"floor {100 * most:.0f} %; reading takes {100 * s.read / s.window:.0f} % of the window",
                              self.verdict(ratio >= 0.81, not fits)])
            lines.append([f"`pregate` to its floor, {s.label}", "≥ 90 %", f"{100 * of_floor:.0f} %",
                          f"{100 * of_least:.0f} % at the least bandwidth seen; of max(computing, reading) {100 * s.simple_floor_step('pregate') / row.step():.0f} %", self.verdict(of_floor >= 0.9, False)])
        if base and base.get("resident"):
            part = base.rows["pregate"].peak() / base.get("resident").peak()
            lines.append([f"peak memory of `pregate` to `resident`, {base.label}", "≤ 23 %", f"{100 * part:.1f} %", "", self.verdict(part <= 0.23, False)])
        if equal is not None:
            lines.append([f"tokens of `pregate` with few slots and with all, {self.plan['batches'][0]} to {self.plan['batches'][-1]} texts", "equal",
                          "equal" if equal else "they differ", "", self.verdict(equal, False)])
        off = [abs(ours / theirs - 1) for _, _, theirs, ours in bars(self.lab)]
        if off:
            lines.append([f"simulated RTX 4090 D, {len(off)} bars", "each within 10 %", f"largest {100 * max(off):.1f} %", "", self.verdict(max(off) <= 0.1, False)])
        return table(["", "bar", "found", "beside it", ""], lines) if lines else [MISSING]

    @staticmethod
    def verdict(met, bounded):
        return "met" if met else "the times here do not allow it" if bounded else "**missed**"

    # ------------------------------------------------------------ simulated machines

    def third_party(self):
        lines = [[short(shape), f"`{mode}`", f"{theirs:g}", f"{ours:.3g}", f"{100 * (ours / theirs - 1):+.1f} %"] for shape, mode, theirs, ours in bars(self.lab)]
        return table(["", "mode", "measured there, ms a block", "simulated", "off by"], lines) if lines else [MISSING]

    def machines(self):
        out = []
        for machine in MACHINES:
            lines = []
            for shape in SHAPES:
                found = rows_of(self.lab, machine, shape)
                if not found:
                    continue
                pre, res, dem, every = (found[m] for m in ("pregate", "resident", "ondemand", "prefetch-all"))
                lines.append([short(shape), *(ms(found[m]["block_seconds"] * 1e3) + ("" if found[m]["fits"] else " (does not fit)") for m in MODES[:4]),
                              times(dem["block_seconds"] / pre["block_seconds"]), times(every["block_seconds"] / pre["block_seconds"]),
                              times(pre["block_seconds"] / res["block_seconds"]), f"{100 * pre['tps'] / res['tps']:.0f} %",
                              f"{100 * pre['peak_bytes'] / res['peak_bytes']:.1f} %", f"{pre['window_seconds'] * 1e3:.2f}", f"{1e3 * self.copy_of(machine, shape) / (pre['window_seconds'] * 1e3):.2f}",
                              f"{100 * pre['encode_share']:.0f} %"])
            if lines:
                out += [f"### {TITLES[machine]}", "", *table(
                    ["", *(f"`{m}`, ms a block" for m in MODES[:4]), "`ondemand` to `pregate`", "`prefetch-all` to it", "it to `resident`",
                     "throughput of `resident`", "peak of `resident`", "window, ms", "copy / window", "encoder's share"], lines), ""]
        return out or [MISSING, ""]

    def copy_of(self, machine, shape):
        return self.lab.result(f"simulated-{machine}-{shape}")["copy_seconds"]

    def claims(self):
        """Each claim on each machine, as found."""
        lines = []
        quoted = [("`ondemand` to `pregate`, block, Base", "1.7×", lambda f: f["ondemand"]["block_seconds"] / f["pregate"]["block_seconds"], 1.7, True),
                  ("`prefetch-all` to `pregate`, block, Base", "42×", lambda f: f["prefetch-all"]["block_seconds"] / f["pregate"]["block_seconds"], 42, True),
                  ("`pregate` to `resident`, block, Base", "1.19×", lambda f: f["pregate"]["block_seconds"] / f["resident"]["block_seconds"], 1.19, False),
                  ("throughput of `pregate` to `ondemand`, Base", "1.5×", lambda f: f["pregate"]["tps"] / f["ondemand"]["tps"], 1.5, True),
                  ("throughput of `pregate` to `resident`, Base", "0.81×", lambda f: f["pregate"]["tps"] / f["resident"]["tps"], 0.81, True),
                  ("peak of `pregate` to `resident`, Base", "0.23×", lambda f: f["pregate"]["peak_bytes"] / f["resident"]["peak_bytes"], 0.23, False)]
        for label, said, value, bar, at_least in quoted:
            cells = []
            for machine in MACHINES:
                found = [rows_of(self.lab, machine, shape) for shape in SHAPES if "base" in shape and ("peak" in label or "256" not in shape)]
                found = [value(f) for f in found if f]
                if not found:
                    return [MISSING]
                mean = statistics.mean(found)
                # To two digits, as the paper has it.
                held = mean >= 0.95 * bar if at_least else mean <= 1.05 * bar
                cells.append(f"{mean:.3g} ({min(found):.3g} to {max(found):.3g}): {'holds' if held else 'does not hold'}")
            lines.append([label, said, *cells])
        return table(["mean over the Base shapes, 256 experts for the peak only", "the paper", *(TITLES[m] for m in MACHINES)], lines)

    def simulated_batches(self):
        lines = []
        for n, active in reported.ACTIVE.items():
            found = [rows_of(self.lab, machine, f"batch-{n}") for machine in MACHINES]
            if all(found):
                other = reported.OTHER_BATCHES[n]
                lines.append([n, active, *(times(f["pregate"]["tps"] / f["ondemand"]["tps"]) for f in found), times(other[0] / other[1])])
        return table(["texts", "distinct experts a block (logged)", *(TITLES[m] for m in MACHINES), "measured on the RTX 4090 D"], lines) if lines else [MISSING]

    # ------------------------------------------------------------ quality

    def quality(self, lines, series):
        picture = self.picture("quality", draw.lines(series, "loss above routers', %", "activation level")) if series else []
        return picture + (lines or [MISSING])


def machine_of(lab, plan):
    page = next((lab.result(f"modes-{shape}-needed-rep0") for shape in plan["shapes"] if lab.result(f"modes-{shape}-needed-rep0")), None)
    if not page:
        return MISSING
    m = page["machine"]
    return (f"{m['cpu_model']}, {m['n_cpu']} processors, {m['cpu_level']}, {m['memory_total'] / 2**30:.0f} GiB; experts are read "
            f"past the page cache ({page['rows'][0]['io_path']}); matrices are {plan['type']}, of XXL {plan['ssd']['type']}")


def write_page(lab, quality):
    """`quality`: lines for figure 13 and Table II, and figure 13's series (table2.section)."""
    page, plan = Page(lab), lab.plan
    seconds = lab.write_results()
    batches, equal = page.batches()
    has = bool(page.shapes)
    words = WORDS
    out = ["# The paper's figures, re-made", "", fill(words["head"].format(machine=machine_of(lab, plan), minutes=seconds / 60, reps=plan["reps"], few=plan["few_reps"])), "",
           "## In short", "", *page.bars_of_issue(equal), "", *(fill(p) for p in summary(page, equal)), "",
           "## What a block waits for", "", fill(words["times"]), "", *(page.times_table() if has else [MISSING]), "",
           "## Figure 10: block latency", "", fill(words["latency"].format(n=plan["n_decode"], n_all=plan["n_all"])), "",
           *(page.latency() if has else [MISSING]), "",
           "## Figure 11: throughput", "", fill(words["throughput"]), "", *(page.throughput() if has else [MISSING]), "",
           "## Figure 12: peak memory", "", fill(words["memory"]), "", *(page.memory() if has else [MISSING]), "",
           "### With a budget instead of a number of slots", "", fill(words["budget"]), "", *(page.budget() if has else [MISSING]), "",
           "## Figure 13 and Table II: quality", "", *page.quality(*quality), "",
           f"## Figure 14: active experts, {short(plan['active_shape'])}", "", fill(words["active"]), "", *page.active(), "",
           f"## Figure 15: caches, {short(plan['cache_shape'])}", "", fill(words["cache"] + " Routing: " + (page.routing() or MISSING) + "."), "", *page.cache(), "",
           "## Figure 16: experts on SSD", "", fill(words["ssd"].format(**plan["ssd"])), "", *page.ssd(), "",
           f"## Batches, {short(plan['batch_shape'])}", "", fill(words["batch"]), "", *batches, "",
           "## On other machines, simulated", "", fill(words["simulated"]), "", *page.claims(), "", *page.machines(),
           "### The third party's bars", "", *page.third_party(), "", "### Batches there, switch-base-128", "", *page.simulated_batches(), "",
           "## How to make this page", "", *HOW, ""]
    write(lab.out / "paper.md", "\n".join(out))


HOW = ["```", "make && bench/paper                     # half an hour on a quiet machine, then two hours of training",
       "cp build/paper/paper.md build/paper/paper-*.svg build/paper/paper.jsonl docs/", "bench/paper --quick                     # the smallest shapes, few steps",
       "```", "", "Each run is a line of [paper.jsonl](paper.jsonl), with its command."]

WORDS = {
    "head": """Written by `bench/paper`: what Pre-gated MoE (Hwang et al., ISCA 2024) shows of Switch Transformers, measured here with
random weights of the same shapes, the paper's value beside ours. {machine}. There is no GPU here: what the paper has in
the memory of a GPU is in DRAM, and what it has in DRAM is on the disk. Values are medians of {reps} repetitions (of {few} in
figures 14 and 16 and in batches; figure 15 has one), all modes and rows of a shape once before any is repeated; ± is their
standard deviation, of a ratio that of the repetitions' ratios. In a run `pregate` comes before `ondemand`. {minutes:.0f} minutes of
runs. The paper's bars are in no text, so what stands beside ours are the ratios that it quotes: averages over its shapes ("avg"),
which are no shape's own; of Large its own; Base-256 is only in its figure 12.""",
    "times": """A block with experts wants one expert a token. Reading it takes its bytes at the disk's roof (the best bandwidth that
random reads of 1 MiB, 16 under way, reached between the modes of a run, median over the repetitions). The window is the time from one gate to the next, as `resident` takes
it: what a pre-gate gives to hide the read in. With one thread computing takes longer and
reading does not, so that the two can be seen where they are nearer to each other. Where there is no `resident`, computing is what `ondemand` did not wait.""",
    "latency": """Wall time of the decoder's blocks with experts, self-attention, cross attention and feed-forward, waiting included,
mean over the blocks and {n} steps; it is a counter of the engine, and `--trace` shows the same blocks. There is no cache:
each mode has the slots that it needs at once, 2, or for `prefetch-all` two blocks' experts ({n_all} steps), and routes are
forced (even draws, never the expert of the token before), so that each block reads what it uses. An encoder's tokens draw
from 44 experts, which is what a third party logged. As in the
paper `prefetch-all` waits for all of the next block's experts (`--steady`). The first block of a step has nothing before
it that could name its experts. The floor is computing, and of reading what no schedule of that mode can hide: all of
`ondemand`; the first block's, and of the later ones what is longer than the window (which `prefetch-all` has no use for: it waits before it computes). The disk
moves from run to run, so that floors are good to a tenth.""",
    "throughput": """Tokens a second of a request with a source of 256 tokens and 256 to write, the encoder included; the step's time is
measured over fewer steps, as above. "Of the floor" is of decoding alone, at the disk's
roof and at the least bandwidth that it showed between the modes of the same runs; the second is no floor, it says how much of the
distance may be the disk's. The bars above compare decoding alone, which is stricter than the paper's 81 % with the encoder. The encoder reads up to 44 experts a block for such
a source, through the same few slots, which is what its share is made of.""",
    "memory": """The most memory that the process ever had (VmHWM), program, buffers and KV included, and not a formula over weights as
in the paper and its artifact. 23 % and 51 % are averages over shapes; the part falls with the number of experts. `resident` has
the encoder's experts, too.""",
    "budget": """A user gives a budget: here 23 % of the file, the paper's peak. What is left of it is a cache (`cycle`) for both modes, also
while the encoder runs. Routing is the same even one, so a cache finds little more than its part of all experts. Where it has gigabytes, as for
Base-256 and Large, the request is too short to pay for touching that memory for the first time (figure 15), and is slower with a
cache than without.""",
    "active": """As the artifact does it, the gate's top-k is N (`--experts N`): a token uses N experts of a block, and has N times the
computing. Routes are forced as above. Slots are what N take: N for `ondemand`, 2 N for `pregate`, two blocks'
for `prefetch-all`. The paper says that all
offloading gets worse with N, that the distance of `prefetch-all` shrinks, and that `pregate` stays the best.""",
    "cache": """Slots for a part of all experts, encoder's included, which while a text is written are nearly all the decoder's. The paper
has LIFO, LFU and LRU; `cycle` is ours. Random weights would route without memory, so a recorded routing is forced: of Kimi's
top-8 of 256 (`tests/data/traces`) one of the eight is drawn a token and block, and neighbours are taken as one expert. Counts
come first: they do not depend on the machine. Hits are wanted experts that were in memory before anybody asked or hinted. Times
do depend on it: a slot's memory is touched for the first time when the slot is filled for the first time, for which a virtual
machine that has to ask its host for memory takes long ([decision 020](decisions/020-huge-pages.md)). Where
there are as many slots as fills, as at 20 %, the times are of that and not of the policy. No policy is the best everywhere.""",
    "ssd": """Here all experts are on SSD in any case, so the shapes of figure 10 stand here as well. Beside them is {shape} with {layers}
layers a stack instead of 24, as much as the disk carries: its blocks are the real ones, there are fewer. So few that the two
blocks which `prefetch-all` has slots for are all of the decoder's: it is a cache there, which reads one expert a step. The paper gives no value but
that `pregate` keeps the lead, and that its advantage shrinks, since reading overwhelms the rest.""",
    "batch": """N texts side by side, a token of each in a step, with a source of 8 tokens each; both modes have 2 N slots, whose
least recently used leaves. Routing is that of the random weights, since a forced one would be the same for all texts: few experts
come again and again, so that 2 N slots are a cache from 16 texts on; and `pregate` decides by gates of its own, which choose
fewer distinct ones than `ondemand`'s routers and so read less. Both stand beside, and the gain has both in it. The paper has
batch 1 only; a third party found the gain gone at 16 to 32. (c + r) / max(c, r') is what overlap can bring at most, with c the
time of `resident`'s step, r and r' those of reading what `ondemand` and `pregate` read at the disk's roof; measured gains are
above it where `ondemand` takes longer than c + r. It falls to 1 where computing is nearly all, as with 64 texts. "Tokens equal":
`pregate` with few slots decodes what it decodes with all experts in memory, and `ondemand` what `resident` does.""",
    "simulated": """`pregate plan --simulate`: the engine's store, gates and order of blocks in virtual time; copies and computing take what the
files in `bench/machines` say ([decision 019](decisions/019-simulated-machines.md)). float32, no cache, batch 1, 256 in, as in the
paper. Distinct experts of the encoder's blocks are those that a third party logged for Base-128, and taken for the other
shapes, too. The RTX 4090 D has two constants that were fitted to the eleven bars below, the A100 one that was fitted to the
paper's 137 tokens a second; the H200 is its data sheet. A claim "holds" where the mean is within 5 % of it, or is on its better
side, however far. One number
decides, the copy of an expert over the window: below 1 it hides, above the rest of it shows, and at 1 the gain over
`ondemand` is largest; decision 019 has the bounds of each claim in it.""",
}


def summary(page, equal):
    out = []
    fit = [s for s in page.shapes if s.read <= s.window]
    if page.shapes:
        gains = [s.rows["ondemand"].block() / s.rows["pregate"].block() for s in page.shapes]
        most = [s.floor("ondemand") / s.floor("pregate") for s in page.shapes]
        ahead = "In all shapes" if min(gains) > 1 else "Not in all shapes"
        out.append(f"**{ahead} a block of `pregate` is faster than one of `ondemand`**: {span(gains)}, where the times of "
                   f"this machine allow about {span(most)}; the paper has 1.7× on average. Reading an expert fits the window "
                   f"{'in ' + ', '.join(s.label for s in fit) if fit else 'of no shape here'}.")
        every = [s for s in page.shapes if s.get("prefetch-all")]
        if every:
            ratios = [s.rows["prefetch-all"].block() / s.rows["pregate"].block() for s in every]
            out.append(f"**A block of `prefetch-all` as the paper has it takes {span(ratios)} the time** (the paper: 42× on average, 125× at most): the ratio is "
                       "about that of all experts of a block to one, so it says how many experts the shape has.")
            ours = [s.ours_all.block() / s.rows["pregate"].block() for s in every if s.ours_all and s.ours_all.there]
            if ours:
                out.append(f"With our store, in which demand overtakes hints, the same mode takes {span(ours)}: a block does not wait "
                           "for what it does not use.")
        low = [s for s in page.shapes if s.of_floor("pregate")[0] < 0.9]
        if low:
            out.append("**Below 90 % of its floor** is `pregate` with " + ", ".join(f"{s.label} ({percents(s.of_floor('pregate'))})" for s in low)
                       + ": the first value at the disk's roof, the second at the least bandwidth that it showed between the same runs, which is no floor.")
    if equal is not None:
        out.append("**Tokens are the same for all numbers of texts**, whatever the slots." if equal else "**Tokens differ between numbers of slots.**")
    return [line for p in out for line in (p, "")][:-1] if out else [MISSING]
