"""What is compared: each arm is a way to a model, with settings that it chooses on the validation text."""
import functools
import json
from typing import NamedTuple, Optional

from .lab import ROOT, write
from .shape import write_shape, write_with_text

DEMO = ROOT / "models/tinystories-moe.gguf"
DEMO_PREGATED = ROOT / "models/tinystories-moe-pregated.gguf"

# About a third of the demo model's parameters, the demo model's, and three times as many.
SHAPES = {
    "small": {"block_count": 4, "embedding_length": 96, "feed_forward_length": 80, "expert_feed_forward_length": 80,
              "attention.head_count": 3, "attention.head_count_kv": 1},
    "demo": None,
    "large": {"block_count": 8, "embedding_length": 192, "feed_forward_length": 192, "expert_feed_forward_length": 192,
              "attention.head_count": 6, "attention.head_count_kv": 2},
}
LEARNING = ["--runners-up", 2, "--imitate", 10]  # where pre-gates learn beside a router that weighs
TUNING = ["--batch", "8x256", "--schedule", "linear", "--weight-decay", "0.1"]  # of all fine-tuning


class Ready(NamedTuple):
    """A model that can be run: file, who decides, and the sidecar of pre-gates."""
    gguf: object
    mode: str
    sidecar: Optional[object] = None

    def args(self):
        return ["eval", self.gguf, "--mode", self.mode] + (["--pregate", self.sidecar] if self.sidecar else [])


def base(lab, size, plan):
    """The model that fine-tuning begins with: the one in models/, or one of another size, made in as many steps as that
    one was, of half as many tokens."""
    if size == "demo":
        return DEMO
    shape = lab.out / f"{size}-shape.gguf"
    with lab.lock(shape):
        if not shape.exists():
            write_shape(DEMO, shape, SHAPES[size])
    books = lab.file(f"{size}-books", ["train", shape, "--from", "scratch", "--data", lab.text["books"], "--steps",
                                       plan["base_steps"][0], "--batch", "8x256", "--lr", "3e-3", "--warmup", "100",
                                       "--weight-decay", "0.1", "--seed", 1])
    return lab.file(f"{size}-base", ["train", books, "--data", lab.text["train"], "--steps", plan["base_steps"][1],
                                     "--batch", "8x256", "--lr", "3e-3", "--schedule", "cosine", "--lr-end", "0.02",
                                     "--warmup", "50", "--weight-decay", "0.1", "--seed", 1])


def asked(setting):
    """All but what is 0, and so not asked for."""
    return {name: value for name, value in setting.items() if value != "0"}


def tag(setting):
    return "-".join(f"{k}{v}" for k, v in sorted(asked(setting).items()))


def options(setting):
    return [word for name, value in asked(setting).items() for word in (f"--{name}", value)]


class Arm:
    """A way to a model. What it chooses from: the options of `choices`, the numbers of steps in `plan[steps]` of its size,
    and with as many steps the options of `with_steps`."""
    choices, steps, with_steps = {}, "steps", {}

    def __init__(self, lab, plan, size="demo", level=1):
        self.lab, self.plan, self.size, self.level = lab, plan, size, level
        self.name = f"{self.kind}-level{level}" if level else self.kind
        self.name = self.name if size == "demo" else f"{size}-{self.name}"

    def base(self):
        return base(self.lab, self.size, self.plan)

    def made(self, setting, seed, what, args):
        return self.lab.file(f"{self.name}-{tag(setting)}-seed{seed}{what}", args)

    def train(self, setting, seed, *more):
        return self.made(setting, seed, "", ["train", self.base(), "--data", self.lab.text["train"], *TUNING, "--seed",
                                             seed, *options(setting), *more])

    def valid(self, setting):
        seed = self.plan["seeds"][0]
        return self.lab.json(f"valid-{self.name}-{tag(setting)}-seed{seed}",
                             [*self.make(setting, seed).args(), "--data", self.lab.text["valid"], *self.most()])["ppl"]

    def most(self):
        return ["--max", self.plan["most"]] if self.plan["most"] else []

    def chosen(self):
        """One option after the other, beside the best of those before and the first of those after."""
        choices = {**self.choices, "steps": self.plan[self.steps][self.size], **self.with_steps}
        best = {name: values[0] for name, values in choices.items()}
        for name, values in choices.items():
            best = min(({**best, name: value} for value in values), key=self.valid)
        return best

    def choose(self):
        write(self.lab.out / f"chosen-{self.name}.json", json.dumps(self.chosen()) + "\n")

    def tasks(self):
        return [functools.partial(self.run, seed) for seed in self.plan["seeds"]]

    def run(self, seed):
        """The test text, once, with what was chosen; and the routers on the same weights."""
        ready = self.make(self.chosen(), seed)
        self.lab.json(f"test-{self.name}-seed{seed}", [*ready.args(), "--data", self.lab.text["test"], *self.most()])
        if ready.mode == "pregate" and ready.gguf != self.base():
            self.lab.json(f"test-{self.name}-routers-seed{seed}",
                          ["eval", ready.gguf, "--mode", "resident", "--data", self.lab.text["test"], *self.most()])


class Fixed(Arm):
    """Nothing is chosen, and there are no seeds."""

    def choose(self):
        pass

    def tasks(self):
        return [self.run]


class Before(Fixed):
    """The model before any of it."""
    kind = "before"

    def __init__(self, lab, plan, size="demo"):
        super().__init__(lab, plan, size, 0)

    def choose(self):
        self.base()

    def run(self):
        for part in ("valid", "test"):
            self.lab.json(f"{part}-{self.name}", ["eval", self.base(), "--mode", "resident", "--data", self.lab.text[part],
                                                  *self.most()])


class Conventional(Arm):
    """Fine-tuned, its routers deciding."""
    kind, choices, with_steps = "conventional", {"kl": ["4", "0"], "lr": ["3e-4", "1e-3"]}, {"runners-up": ["0", "2"]}

    def __init__(self, lab, plan, size="demo"):
        super().__init__(lab, plan, size, 0)

    def make(self, setting, seed):
        return Ready(self.train(setting, seed, "--gate", "router"), "resident")


class Next(Fixed):
    """The router of a later block, unmodified."""
    kind = "next"

    def run(self):
        sidecar = self.lab.file(f"{self.name}", ["sidecar", self.base(), "--level", self.level])
        for part in ("valid", "test"):
            self.lab.json(f"{part}-{self.name}", [*Ready(self.base(), "pregate", sidecar).args(), "--data", self.lab.text[part],
                                                  *self.most()])


class Distilled(Arm):
    """Pre-gates that imitate the router, the model as it is. What it chooses is how much text they see and how wide they
    are."""
    kind = "distilled"

    def chosen(self):
        return min(self.forms(), key=self.valid)

    def forms(self):
        return [{"tokens": tokens, "hidden": hidden} for tokens, hidden in self.plan["gates"][self.size]]

    def sidecar(self, setting, seed):
        return self.made(setting, seed, "", ["tune", self.base(), "--data", self.lab.text["train"], "--for", "decide",
                                             "--level", self.level, "--tokens", setting["tokens"], "--hidden",
                                             setting["hidden"], "--seed", seed])

    def make(self, setting, seed):
        return Ready(self.base(), "pregate", self.sidecar(setting, seed))


class DistilledLess(Arm):
    """The least of those pre-gates, so that sizes of model have a row with the same gates."""
    kind = "distilled-less"

    def __init__(self, lab, plan, size="demo", level=1):
        super().__init__(lab, plan, size, level)
        self.like = Distilled(lab, plan, size, level)

    def chosen(self):
        return self.like.forms()[0]

    def make(self, setting, seed):
        return self.like.make(setting, seed)


class AsThePaper(Arm):
    """The same pre-gates, whose own probabilities weigh what they have chosen."""
    kind = "as-the-paper"

    def chosen(self):
        return Distilled(self.lab, self.plan, self.size, self.level).chosen()

    def make(self, setting, seed):
        like = Distilled(self.lab, self.plan, self.size, self.level).sidecar(setting, seed)
        path = self.lab.out / f"{self.name}-{tag(setting)}-seed{seed}.gguf"
        write_with_text(like, path, "pregate.weigher", "pregate")
        return Ready(self.base(), "pregate", path)


class ByLoss(Arm):
    """Pre-gates by the loss of the language model, the model as it is; from distilled ones."""
    kind, choices, steps = "by-loss", {"lr": ["1e-4", "3e-4"], "kl": ["4"]}, "tune_steps"
    first, learning = Distilled, LEARNING

    def make(self, setting, seed):
        first = self.first(self.lab, self.plan, self.size, self.level)
        start = first.make(first.chosen(), seed).sidecar
        return Ready(self.base(), "pregate",
                     self.made(setting, seed, "", ["tune", self.base(), "--data", self.lab.text["train"], "--for", "decide",
                                                   "--loss", "lm", "--level", self.level, "--from", start, "--batch", "8x256",
                                                   *options(setting), *self.learning, "--seed", seed]))


class ByLossAsThePaper(ByLoss):
    """The same for pre-gates that weigh what they have chosen."""
    kind, choices = "as-the-paper-by-loss", {"lr": ["3e-4", "1e-3"], "kl": ["4"]}
    first, learning = AsThePaper, ["--weigher", "pregate", "--runners-up", 2]


class Pregated(Arm):
    """Fine-tuned with pre-gates deciding, from distilled ones."""
    kind, choices = "pregated", {"kl": ["4"], "lr": ["3e-4", "1e-3"]}

    def make(self, setting, seed):
        first = Distilled(self.lab, self.plan, self.size, self.level)
        model = self.train(setting, seed, "--gate", "pregate", "--level", self.level, *LEARNING, "--from",
                           first.sidecar(first.chosen(), seed))
        return Ready(model, "pregate", model.with_name(f"{model.stem}.pregate.gguf"))
