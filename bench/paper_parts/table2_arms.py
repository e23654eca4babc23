"""The base model, and what is fine-tuned from it. A way to a model is measured on a task by the loss of a target's token
and by the task's own marks."""
import functools
import json

from quality_parts.arms import Ready, options, tag
from quality_parts.lab import write

from . import table2_data as data, table2_shape, vocab

TUNING = ["--schedule", "linear", "--warmup", "10", "--weight-decay", "0.1"]


def base(lab, plan):
    """Before any task: pieces of text from what noise left of them, then the questions that text asks by itself, beside
    abstracts. Nothing else runs meanwhile."""
    shape, files = lab.out / "shape.gguf", data.text_files(lab.out, plan)
    with lab.lock(shape):
        if not shape.exists():
            texts = [files[name].read_text() for name in data.RUNNING]
            part = shape.with_name("shape.part")
            part.write_bytes(table2_shape.gguf(plan["shape"], vocab.keys([*texts, *data.of_tasks()], plan["pieces"]), 1))
            part.replace(shape)

    def made(name, like, texts, how, *schedule):
        return lab.file(name, ["train", like, "--data", *texts, "--batch", how["batch"], "--steps", how["steps"], "--lr", how["lr"],
                               *schedule, "--weight-decay", "0.1", "--seed", 1, "-t", 2])
    mended = made("mended", shape, [files["noise"]], plan["mending"], "--warmup", "30")
    return made("base", mended, [files["gaps"], files["abstracts"]], plan["asking"], "--schedule", "cosine", "--lr-end", "0.1",
                "--warmup", "20")


class Arm:
    """What is in `more` is given to `train`. With `like` settings are those that another arm has chosen, as the paper
    fine-tunes all in one way."""
    more = []

    def __init__(self, lab, plan, task, level=0, like=None):
        self.lab, self.plan, self.task, self.level, self.like = lab, plan, task, level, like
        self.how = plan["tasks"][task.name]
        self.name = f"{task.name}-{self.kind}{level or ''}"

    def base(self):
        return base(self.lab, self.plan)

    def train(self, setting, seed, *more):
        return self.lab.file(f"{self.name}-{tag(setting)}-seed{seed}",
                             ["train", self.base(), "--data", data.pairs_of(self.lab.out, self.task, "train"), "--batch",
                              self.how["batch"], *TUNING, "--seed", seed, *options(setting), *more])

    def room(self):
        return ["--source", self.how["source"], "-c", self.how["ctx"]]

    def loss(self, name, ready, part):
        """Of a token of the first answer; on the validation text of some examples."""
        most = self.plan[f"most_{part}"]
        return self.lab.json(name, [*ready.args(), "--data", data.pairs_of(self.lab.out, self.task, part), *self.room(),
                                    *(["--max", most] if most else [])])["nll_per_token"]

    def valid(self, setting):
        seed = self.plan["seeds"][0]
        return self.loss(f"valid-{self.name}-{tag(setting)}-seed{seed}", self.make(setting, seed), "valid")

    def chosen(self):
        """The rate with the fewest steps, then the steps."""
        if self.like:
            return self.like.chosen()
        best = {"lr": None, "steps": self.how["steps"][0]}
        for name, values in (("lr", self.plan["rates"]), ("steps", self.how["steps"])):
            best = min(({**best, name: value} for value in values), key=self.valid)
        return best

    def choose(self):
        write(self.lab.out / f"chosen-{self.name}.json", json.dumps(self.chosen()) + "\n")

    def tasks(self):
        return [functools.partial(self.run, seed) for seed in self.plan["seeds"]]

    def run(self, seed):
        """The test text, once, with what was chosen; and routers on the same weights."""
        ready = self.make(self.chosen(), seed)
        self.test(f"{self.name}-seed{seed}", ready)
        if ready.mode == "pregate":
            self.test(f"{self.name}-routers-seed{seed}", Ready(ready.gguf, "resident"))

    def test(self, name, ready):
        self.loss(f"test-{name}", ready, "test")
        most = self.plan["most_test"]
        self.lab.json(f"marks-{name}", [*ready.args(), "--task", self.task.kind, "--data", data.marked_of(self.lab.out, self.task, "test"),
                                        *self.room(), "-n", self.how["answer"], *(["--max", most] if most else [])])


class Before(Arm):
    """The model before it learns the task."""
    kind = "before"

    def choose(self):
        pass

    def tasks(self):
        return [lambda: self.test(self.name, Ready(self.base(), "resident"))]


class Conventional(Arm):
    """Its routers decide."""
    kind = "conventional"

    def make(self, setting, seed):
        return Ready(self.train(setting, seed, "--gate", "router"), "resident")


class AsThePaper(Arm):
    """Pre-gates decide and weigh. They begin as the later routers with the gains of norms folded in."""
    kind, more = "paper", ["--weigher", "pregate"]

    def make(self, setting, seed):
        model = self.train(setting, seed, "--gate", "pregate", "--level", self.level, *self.more)
        return Ready(model, "pregate", model.with_name(f"{model.stem}.pregate.gguf"))


class Weighed(AsThePaper):
    """Pre-gates decide, the routers weigh: the form of this project."""
    kind, more = "weighed", ["--weigher", "router", "--runners-up", 1]


def of_task(lab, plan, task):
    """Those that choose first. Further levels and the other form take what level 1 has chosen."""
    first = AsThePaper(lab, plan, task, plan["levels"][0])
    further = [AsThePaper(lab, plan, task, level, first) for level in plan["levels"][1:]]
    return [Conventional(lab, plan, task), first, Before(lab, plan, task), *further, Weighed(lab, plan, task, 1, first)]
