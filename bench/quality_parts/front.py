"""Bytes read a token against perplexity: gates that are kind to the cache.

All rows read the same documents, one token a step, with the same number of slots. A way to a gate gives a curve, its
points being values of --cache-bias or --cache-margin; curves are judged where they cross half of the bytes of the model before, and at
the perplexity that the untrained router has with the bias that halves its bytes.
"""
import functools
import math

from .arms import LEARNING, Arm, Conventional, Distilled, Pregated, Ready, base, tag

BIAS, MARGIN = "bias", "margin"  # --cache-bias, --cache-margin


def measure(lab, name, ready, part, plan, knob=BIAS, value="0", *more):
    """Bytes and perplexity of one point."""
    preference = [f"--cache-{knob}", value] if value != "0" else []
    return lab.json(name, [*ready.args(), "--data", lab.text[part], "--slots", plan["slots"], "--batch", 1, "--max",
                           plan["docs"], *preference, *more])


def point(result):
    return result["bytes_read_per_token"], result["ppl"]


def crossing(points, at, of=0):
    """The other coordinate where the curve has `at` of coordinate `of`; between two points a straight line in the
    logarithms; None where the curve does not come there."""
    other = 1 - of
    points = sorted(points, key=lambda p: p[of])
    for p, q in zip(points, points[1:]):
        if p[of] <= at <= q[of]:
            part = 0 if p[of] == q[of] else math.log(at / p[of]) / math.log(q[of] / p[of])
            return math.exp(math.log(p[other]) + part * math.log(q[other] / p[other]))
    return None


class Curve:
    """A model with its points on the test text."""

    def __init__(self, lab, plan, name, label, knob=MARGIN):
        self.lab, self.plan, self.name, self.label, self.knob = lab, plan, name, label, knob

    def choose(self):
        pass

    def measured(self, ready, part, what, values):
        return [measure(self.lab, f"{part}-front-{self.name}-{self.knob}{v}{what}", ready, part, self.plan, self.knob, v)
                for v in values]

    def values(self):
        return self.plan["margins"]

    def curves(self, seeds):
        """By seed, what is there of the test text's points: (value, bytes, perplexity)."""
        found = {}
        for seed in seeds:
            results = [(v, self.lab.result(f"test-front-{self.name}-{self.knob}{v}-seed{seed}")) for v in self.values()]
            found[seed] = [(v, *point(r)) for v, r in results if r]
        return {s: points for s, points in found.items() if points}


class Untrained(Curve):
    """The router as it is, with more points, and with other policies of eviction. It has no seeds."""

    def __init__(self, lab, plan, knob=BIAS, evict="cycle"):
        super().__init__(lab, plan, f"untrained-{evict}", "the router as it is" + ("" if evict == "cycle" else f", `--evict {evict}`"),
                         knob)
        self.evict = evict

    def values(self):
        return self.plan["margins"] if self.knob == MARGIN else self.plan["policies"][self.evict]

    def tasks(self):
        return [self.run]

    def run(self):
        ready = Ready(base(self.lab, "demo", self.plan), "ondemand")
        for part in ("test", "valid") if self.evict == "cycle" else ("test",):
            for v in self.values():
                measure(self.lab, f"{part}-front-{self.name}-{self.knob}{v}", ready, part, self.plan, self.knob, v, "--evict",
                        self.evict)

    def points(self, part="test"):
        results = [(v, self.lab.result(f"{part}-front-{self.name}-{self.knob}{v}")) for v in self.values()]
        return [(v, *point(r)) for v, r in results if r]


class Tuned(Curve):
    """What an arm of the other tables has chosen for itself, without a thought of the cache."""

    def __init__(self, lab, plan, arm, label):
        super().__init__(lab, plan, arm.name, label)
        self.arm = arm

    def tasks(self):
        return [functools.partial(self.run, seed) for seed in self.plan["seeds"]]

    def run(self, seed):
        ready = self.arm.make(self.arm.chosen(), seed)
        if ready.mode == "resident":
            ready = Ready(ready.gguf, "ondemand")
        self.measured(ready, "test", f"-seed{seed}", self.values())


class InLoop(Curve, Arm):
    """Trained with the cache in the loop: the model meets the routes that it will get. Chooses by the perplexity at half
    of the bytes, on the validation text."""

    def __init__(self, lab, plan, name, label, gate, choices, *more):
        Curve.__init__(self, lab, plan, name, label)
        self.gate, self.choices, self.steps, self.more = gate, choices, "front_steps", more
        self.size, self.level = "demo", 1

    def make(self, setting, seed):
        if self.gate == "router":
            return Ready(self.train(setting, seed, "--gate", "router", *self.more), "ondemand")
        first = Distilled(self.lab, self.plan)
        model = self.train(setting, seed, "--gate", "pregate", "--from", first.sidecar(first.chosen(), seed), *self.more)
        return Ready(model, "pregate", model.with_name(f"{model.stem}.pregate.gguf"))

    def valid(self, setting):
        half = point(measure(self.lab, "valid-front-untrained", Ready(self.base(), "ondemand"), "valid", self.plan))[0] / 2
        points = [point(r) for r in self.measured(self.make(setting, self.plan["seeds"][0]), "valid", f"-{tag(setting)}",
                                                  self.plan["few_margins"])]
        least = min(points)  # a curve that never comes so far is judged by where it ends
        return crossing(points, half) or least[1] * (1 + max(0, math.log(least[0] / half)))

    choose, tasks = Arm.choose, Arm.tasks

    def run(self, seed):
        self.measured(self.make(self.chosen(), seed), "test", f"-seed{seed}", self.values())


def baselines(lab, plan):
    return [Untrained(lab, plan), Untrained(lab, plan, MARGIN), Untrained(lab, plan, BIAS, "lru"),
            Untrained(lab, plan, BIAS, "random")]


def trained(lab, plan):
    loop = ["--cache-margin", plan["trained_margin"], "--sticky-cache", 8]
    gates_alone = ["--freeze", "token_embd*,output*,*attn*,*norm*,*exps*"]
    sticky = {"lr": ["1e-3"], "sticky": ["0.3", "0.6"]}
    return [Tuned(lab, plan, Conventional(lab, plan), "conventional, fine-tuned"),
            Tuned(lab, plan, Pregated(lab, plan), "pre-gated, fine-tuned"),
            InLoop(lab, plan, "gates-sticky", "routers alone learn, cache in the loop, sticky", "router", sticky, *loop, *gates_alone,
                   "--runners-up", 2),
            InLoop(lab, plan, "loop-sticky", "all learn, cache in the loop, sticky", "router", {**sticky, "kl": ["1"]}, *loop),
            InLoop(lab, plan, "loop-pregate", "pre-gated, all learn, cache in the loop, sticky", "pregate", {**sticky, "kl": ["4"]},
                   *loop, *LEARNING)]
