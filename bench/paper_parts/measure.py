"""What is measured, model after model. A job is a part of the page, a name, and the options of `pregate bench`."""
import json
import random

from .lab import ROOT, write
from .reported import ACTIVE_SOURCE_ELSE

TRACE = ROOT / "tests/data/traces/trace_kimi_300.jsonl"
LAYERS = {"base": 12, "large": 24}  # of a stack


class Model:
    """A file that is made for some jobs, which are repeated `reps` times, all of them before any is repeated, so that a
    slow minute of the machine falls on all."""

    def __init__(self, name, shape, how, jobs):
        self.name, self.shape, self.how, self.jobs = name, shape, how, jobs

    def missing(self, lab, parts):
        return [job for job in self.jobs if job.part in parts and not lab.result(job.name)]

    def measure(self, lab, parts, keep):
        if not self.missing(lab, parts):
            return
        path = lab.model(self.name, self.shape, self.how)
        for rep in range(max(job.rep for job in self.jobs) + 1):
            for job in self.missing(lab, parts):
                if job.rep == rep:
                    lab.json(job.name, ["bench", path, *job.args(lab), "-r", 1, "--hints", "on", "-o", "json"])
        if not keep:
            lab.drop(self.name)


class Job:
    def __init__(self, part, name, rep, args):
        self.part, self.name, self.rep, self.given = part, f"{name}-rep{rep}", rep, args

    def args(self, lab):
        """Paths are of things that are made when they are needed."""
        words = self.given(lab) if callable(self.given) else self.given
        return [w for word in words for w in (word.args(lab) if isinstance(word, Even) else [word])]


def n_expert(shape):
    return int(shape.rsplit("-", 1)[1])


def layers(shape):
    return LAYERS["base" if "base" in shape else "large"]


class Even:
    """A routing without a cache in mind, which random weights of few layers are far from: N experts a token and block, drawn
    evenly, none of them of the token before. An encoder's tokens draw from 44 experts, as logged for Switch-Base-128."""

    def __init__(self, n_layer, n_expert_, n_used=1):
        self.n_moe, self.n_expert, self.n_used = n_layer // 2, n_expert_, n_used

    def path(self, lab):
        path, draw = lab.out / f"even-{2 * self.n_moe}x{self.n_used}-of-{self.n_expert}.jsonl", random.Random(1)
        few = min(self.n_expert, max(ACTIVE_SOURCE_ELSE, self.n_used))
        before, lines = [[]] * self.n_moe, []
        for token in range(0 if path.exists() else 256):
            before = [self.draw(draw, block) for block in before]
            source = [draw.sample(range(few), self.n_used) for _ in range(self.n_moe)]
            lines.append(json.dumps({"tok": token, "layers": source + before}) + "\n")
        if lines:
            write(path, "".join(lines))
        return path

    def draw(self, draw, before):
        new = [e for e in range(self.n_expert) if e not in before]
        found = draw.sample(new, min(self.n_used, len(new)))
        return found + draw.sample(before, self.n_used - len(found))

    def args(self, lab):
        """A slot is taken from who has not been used for longest, so that nothing is kept for later."""
        return ["--routes", self.path(lab), "--evict", "lru"]


def share_of(path, share):
    return f"{int(path.stat().st_size * share) >> 20}M"


def modes_jobs(plan, shape):
    """Figures 10, 11 and 12: without a cache, as in the paper, each mode with the slots that it needs at once. And with
    23 % of the file as a budget, where what is left is a cache."""
    p = ["-p", plan["n_source"], "--source", plan["n_source"], Even(layers(shape), n_expert(shape))]
    few, many = ["-n", plan["n_decode"]], ["-n", plan["n_all"]]
    both = ["--slots", 2 * n_expert(shape), "--modes", "prefetch-all", "--no-measure", *many, *p]
    rows = {
        "needed": ["--slots", 2, "--modes", "pregate,ondemand", *few, *p],
        "resident": ["--modes", "resident", "--no-measure", *few, *p],
        "all": ["--steady", *both],
        "all-ours": both,
        "budget": lambda lab: ["--memory", share_of(lab.path_of(shape), 0.23), "--modes", "pregate,ondemand", "--no-measure", *few,
                               "-p", plan["n_source"], "--source", plan["n_source"], "--routes", Even(layers(shape), n_expert(shape)).path(lab)],
    }
    if shape == plan["one_thread"]:  # computing takes longer, reading does not
        rows["needed-1"] = ["--slots", 2, "--modes", "pregate,ondemand", "-t", 1, *few, *p]
        rows["resident-1"] = ["--modes", "resident", "-t", 1, "--no-measure", *few, *p]
    return [Job("modes", f"modes-{shape}-{row}", rep, args) for rep in range(plan["reps"]) for row, args in rows.items()]


def active_jobs(plan, shape):
    """Figure 14. The artifact forces a number of experts by the gate's top-k, and so does --experts: one token, which uses
    N of them; the slots are those that N take."""
    jobs = []
    p = ["-p", 8, "--source", 8, "-n", plan["n_active"], "--no-measure"]
    for rep in range(plan["few_reps"]):
        for n in plan["active"]:
            rows = {"pregate": ["--slots", max(2, 2 * n)], "ondemand": ["--slots", max(2, n)], "resident": [],
                    "prefetch-all": ["--steady", "--slots", 2 * n_expert(shape)]}
            even = Even(layers(plan["active_shape"]), n_expert(shape), n)
            jobs += [Job("active", f"active-{n}-{mode}", rep, ["--modes", mode, "--experts", n, *slots, *p, even])
                     for mode, slots in rows.items()]
    # How random weights route: with room for all, what a block misses are its distinct experts.
    jobs.append(Job("active", "routing-of-random-weights", 0, ["--modes", "ondemand", "--slots", 12 * n_expert(shape), "-p", 8, "--source",
                                                               8, "-n", plan["n_cache"], "--no-measure"]))
    return jobs


def top_1_trace(lab, n_block, n_expert_):
    """Of a recorded top-8 routing over 256 experts in 26 blocks: of each token and block one of the eight is drawn, and
    256 / n_expert neighbours count as one, so that what comes again does so as in a trained model."""
    path, draw = lab.out / f"top-1-of-{n_expert_}.jsonl", random.Random(1)
    if not path.exists():
        lines = []
        for line in TRACE.read_text().splitlines():
            token = json.loads(line)
            ids = [[draw.choice(block) * n_expert_ // 256] for block in token["layers"]]
            lines.append(json.dumps({"tok": token["tok"], "layers": (ids * 2)[:n_block]}) + "\n")
        write(path, "".join(lines))
    return path


def cache_jobs(plan, shape):
    n_block = layers(shape)  # with experts, of both stacks
    total = n_block * n_expert(shape)
    jobs = []
    p = ["-p", 16, "--source", 16, "-n", plan["n_cache"], "--modes", "pregate,ondemand", "--no-measure"]

    def with_routes(*args):
        return lambda lab: [*args, "--routes", top_1_trace(lab, n_block, n_expert(shape)), *p]
    for rep in range(plan["cache_reps"]):
        jobs.append(Job("cache", "cache-none", rep, with_routes("--slots", 2, "--evict", "lru")))
        jobs += [Job("cache", f"cache-{part}", rep, with_routes("--slots", max(2, round(total * part / 100)), "--evict", ",".join(plan["policies"])))
                 for part in plan["cache"]]
    return jobs


def batch_jobs(plan, shape):
    total = 12 * n_expert(shape)
    jobs = []
    for rep in range(plan["few_reps"]):
        for n in plan["batches"]:
            p = ["--parallel", n, "-b", max(64, n), "-p", 8, "--source", 8, "-n", plan["n_batch"], "--no-measure"]
            jobs.append(Job("batch", f"batch-{n}-needed", rep, ["--slots", 2 * min(n, n_expert(shape)), "--evict", "lru", "--modes", "pregate,ondemand", *p]))
            jobs.append(Job("batch", f"batch-{n}-resident", rep, ["--modes", "resident", *p]))
            if rep == 0:  # the same gates with all experts in memory
                jobs.append(Job("batch", f"batch-{n}-same-gates", rep, ["--slots", total, "--modes", "pregate", *p]))
    return jobs


def ssd_jobs(plan, shape):
    p = ["-p", 32, "--source", 32, Even(plan["ssd"]["layers"], n_expert(shape))]
    rows = {"needed": ["--slots", 2, "--modes", "pregate,ondemand", "-n", plan["n_ssd"], *p],
            "resident": ["--modes", "resident", "-n", plan["n_ssd"], "--no-measure", *p],
            "all": ["--steady", "--slots", 2 * n_expert(shape), "--modes", "prefetch-all", "-n", 2, "--no-measure", *p]}
    return [Job("ssd", f"ssd-{row}", rep, args) for rep in range(plan["few_reps"]) for row, args in rows.items()]


def models(plan):
    """In the order of size."""
    kind, found = ["--type", plan["type"]], []
    shapes = list(dict.fromkeys([*plan["shapes"], plan["active_shape"], plan["batch_shape"], plan["cache_shape"]]))
    for shape in shapes:
        jobs = modes_jobs(plan, shape) if shape in plan["shapes"] else []
        jobs += active_jobs(plan, shape) if shape == plan["active_shape"] else []
        jobs += batch_jobs(plan, shape) if shape == plan["batch_shape"] else []
        jobs += cache_jobs(plan, shape) if shape == plan["cache_shape"] else []
        found.append(Model(shape, shape, kind, jobs))
    ssd = plan["ssd"]
    found.append(Model(f"{ssd['shape']}-of-{ssd['layers']}-layers", ssd["shape"],
                       ["--type", ssd["type"], "--layers", ssd["layers"]], ssd_jobs(plan, ssd["shape"])))
    return found
