"""Table II and figure 13: every figure is computed here from the results, and says how many seeds it stands on."""
import json
import textwrap

from quality_parts.page import MISSING, Estimate

from . import table2_shape
from .table2_data import TASKS

MARKS = {"qa": ("exact_match", "f1"), "summarize": ("rouge1", "rouge2")}
NAMES = {"exact_match": "EM", "f1": "F1", "rouge1": "ROUGE-1", "rouge2": "ROUGE-2"}
TITLES = {"scitldr": "SciTLDR-A", "webquestions": "WebQuestions", "squad": "SQuAD's form"}
# Hwang et al., ISCA 2024, Table II: Xsum ROUGE-1 and -2, closed-book WebQuestions EM and F1, SQuAD EM and F1.
PAPER = [("Switch-Base-8", 34.6, 13.0, 26.0, 30.9, 77.4, 85.8), ("Switch-Base-8, pre-gated", 34.7, 13.0, 28.2, 32.6, 78.2, 86.0),
         ("Switch-Base-128", 38.1, 16.6, 27.4, 33.1, 81.7, 89.2), ("Switch-Base-128, pre-gated", 38.0, 16.5, 25.8, 32.2, 82.2, 89.4),
         ("Switch-Large-128", 40.2, 18.8, 31.0, 36.5, 82.4, 90.1), ("Switch-Large-128, pre-gated", 40.1, 18.6, 30.5, 36.2, 81.9, 90.2)]
# Figure 13, SQuAD with Switch-Base-8: EM and F1 of levels 0 and 1 are in Table II; of 2 and 3 the text only says that they
# fall from level to level.
PAPER_LEVELS = {0: (77.4, 85.8), 1: (78.2, 86.0)}


def by_seed(lab, plan, kind, name, key):
    """{seed: value}; a model without seeds has its one value for each."""
    alone = lab.result(f"{kind}-{name}")
    found = {s: alone or lab.result(f"{kind}-{name}-seed{s}") for s in plan["seeds"]}
    return {s: r[key] for s, r in found.items() if r}


def loss(lab, plan, name):
    return by_seed(lab, plan, "test", name, "nll_per_token")


def mark(lab, plan, name, key):
    return by_seed(lab, plan, "marks", name, key)


def mean(values, form):
    values = list(values.values())
    if not values:
        return MISSING
    return form.format(values[0]) if len(set(values)) == 1 else Estimate(values).text(form)


def difference(mine, to, form):
    """Seed by seed."""
    both = [mine[s] - to[s] for s in mine if s in to]
    if not both:
        return MISSING
    found = Estimate(both)
    return found.text(form) + ("" if found.half is None or found.excludes_zero() else " (no difference shown)")


def rows(plan):
    """(label, name without the task's)."""
    return [("before fine-tuning", "before"), ("conventional, fine-tuned", "conventional"),
            *((f"pre-gated as in the paper, level {level}", f"paper{level}") for level in plan["levels"]),
            ("pre-gated, the router weighs, level 1", "weighed1")]


def setting_of(lab, name):
    path = lab.out / f"chosen-{name}.json"
    return ", ".join(f"{k} {v}" for k, v in json.loads(path.read_text()).items()) if path.exists() else ""


def task_row(lab, plan, task, label, arm):
    name, conventional, routers = f"{task.name}-{arm}", f"{task.name}-conventional", f"{task.name}-{arm}-routers"
    cells = [mean(loss(lab, plan, name), "{:.4f}")]
    cells += ["" if arm == "conventional" else difference(loss(lab, plan, name), loss(lab, plan, conventional), "{:+.4f}")]
    cells += ["" if arm in ("before", "conventional") else difference(loss(lab, plan, name), loss(lab, plan, routers), "{:+.4f}")]
    for key in MARKS[task.kind]:
        mine = mark(lab, plan, name, key)
        cells += [mean(mine, "{:.2f}"), "" if arm in ("before", "conventional") else
                  difference(mine, mark(lab, plan, conventional, key), "{:+.2f}")]
    return f"| {label} | " + " | ".join([*cells, setting_of(lab, name)]) + " |"


def routers_row(lab, plan, task, label, arm):
    name = f"{task.name}-{arm}-routers"
    cells = [mean(loss(lab, plan, name), "{:.4f}"), "", ""]
    for key in MARKS[task.kind]:
        cells += [mean(mark(lab, plan, name, key), "{:.2f}"), ""]
    return f"| {label}, own routers | " + " | ".join(cells) + " | |"


def task_table(lab, plan, task):
    a, b = (NAMES[key] for key in MARKS[task.kind])
    lines = [f"| | loss | to conventional | to the own routers | {a} | to conventional | {b} | to conventional | chosen |",
             "|---|---|---|---|---|---|---|---|---|"]
    for label, arm in rows(plan):
        lines.append(task_row(lab, plan, task, label, arm))
        if arm not in ("before", "conventional"):
            lines.append(routers_row(lab, plan, task, label, arm))
    return lines


def table_2(lab, plan):
    lines = ["| | Xsum ROUGE-1 | ROUGE-2 | WebQuestions EM | F1 | SQuAD EM | F1 |", "|---|---|---|---|---|---|---|"]
    lines += [f"| the paper: {label} | " + " | ".join(f"{v:.1f}" for v in values) + " |" for label, *values in PAPER]
    lines.append("| | **SciTLDR-A ROUGE-1** | **ROUGE-2** | **WebQuestions EM** | **F1** | **SQuAD's form EM** | **F1** |")
    for label, arm in rows(plan):
        cells = [mean(mark(lab, plan, f"{task.name}-{arm}", key), "{:.1f}") for task in TASKS.values() for key in MARKS[task.kind]]
        lines.append(f"| ours: {label} | " + " | ".join(cells) + " |")
    return lines


def levels(lab, plan, task):
    """Figure 13's points: {level: name of its results}, level 0 being the conventional model."""
    return {0: f"{task.name}-conventional", **{level: f"{task.name}-paper{level}" for level in plan["levels"]}}


def figure_13(lab, plan):
    lines = ["| activation level | the paper, SQuAD: EM | F1 | ours, SQuAD's form: EM | F1 | "
             + " | ".join(f"loss, {TITLES[name]}" for name in TASKS) + " |", "|---|---|---|---|---|" + "---|" * len(TASKS)]
    squad = TASKS["squad"]
    for level, name in levels(lab, plan, squad).items():
        paper = PAPER_LEVELS.get(level, ("falls", "falls"))
        cells = [*map(str, paper), *(mean(mark(lab, plan, name, key), "{:.2f}") for key in MARKS["qa"])]
        cells += [mean(loss(lab, plan, levels(lab, plan, task)[level]), "{:.4f}") for task in TASKS.values()]
        lines.append(f"| {level} | " + " | ".join(cells) + " |")
    return lines


def series(lab, plan):
    """For a picture: by task, points of level and per cent of loss above the conventional model's, the mean over seeds."""
    found = {}
    for task in TASKS.values():
        losses = {level: loss(lab, plan, name) for level, name in levels(lab, plan, task).items()}
        above = {level: [100 * (v[s] / losses[0][s] - 1) for s in v if s in losses[0]] for level, v in losses.items()}
        found[TITLES[task.name]] = [(level, sum(v) / len(v)) for level, v in above.items() if v]
    return {name: points for name, points in found.items() if points}


def paragraph(words):
    return textwrap.fill(" ".join(words.split()), 119, break_on_hyphens=False, break_long_words=False)


def head(lab, plan):
    shape = plan["shape"]
    n = table2_shape.n_parameters(shape, plan["pieces"]) / 1e6
    seeds = ", ".join(map(str, plan["seeds"]))
    seconds, _ = lab.seconds()
    return [paragraph(f"""A Switch of {n:.1f} million parameters ({shape['blocks']} + {shape['blocks']} blocks, experts in every
        second, {shape['experts']} of width {shape['ff']}, one a token; state {shape['embd']}, {plan['pieces']} pieces of byte-level
        BPE), made by `bench/paper_parts/table2.py` from nothing: in {plan['mending']['steps']} steps it learns to
        mend pieces of books, stories, abstracts and passages in which words are missing, in {plan['asking']['steps']} to answer
        questions that these texts ask by themselves (a sentence without words that stand in one nearby). Then it is fine-tuned on each task, all weights, conventionally and
        with pre-gates deciding in both stacks. Conventional fine-tuning and level 1 choose on the first {plan['most_valid']}
        validation examples, with the first seed, by the loss: the rate ({', '.join(plan['rates'])}) with the fewest steps, then the
        steps, of which all took the most that there are, so that none is at its best; further levels and the other form take what level 1 has chosen, since the paper
        fine-tunes all in one way. The test text is measured once, with seeds {seeds}, paired; ± is the half of a 95 % interval
        (Student's t). {len(seconds)} runs, {sum(seconds) / 3600:.1f} hours of the clock.""")]


PROTOCOL = """All texts are in small letters. **SciTLDR-A** stands for Xsum, of which no licensed text is at hand: abstract to one
sentence, train, dev and test as given; sources end after 128 tokens, which nearly all are longer than. The set itself has two of
the 618 abstracts of its test in its train part, and near duplicates of six more, the same for all ways. **WebQuestions** is closed-book, 2,834, 755 and 2,032
questions. **SQuAD's form**: 2,604 answerable questions of 13 articles of SQuAD 2.0's development set to learn from, of 306 of three
others the first 300 to choose by, 838 of XQuAD's other 32 articles to be tested on; the passage is the sentence that the answer is in, the
easiest form in which such a model gets anything right, so its EM and F1 are not those of SQuAD. The loss is in nats a token of the
first answer, its end included. "Own routers" are the routers on the same weights, which were trained with pre-gates deciding: in
the paper's form the routers of later blocks learn nothing meanwhile, so this says what the training did to the rest."""

MEANS = """What a model of this size can show is whether choosing experts one, two or three MoE blocks early costs anything where all
else is equal: the loss of a target's token tells differences of a hundredth. What it cannot show is what the paper's marks are of,
knowledge and reading: it has read a few million tokens, most of its answers are wrong, and one question more or less is 0.05 to
0.12 points. Nor can it show what becomes of 128 experts. Where two ways have chosen other rates (last column), a difference is of
both."""


def section(lab, plan):
    lines = [*head(lab, plan), "", paragraph(PROTOCOL), "", paragraph(MEANS), "",
             *table_2(lab, plan), "", "### Figure 13: how far ahead", "", *figure_13(lab, plan)]
    for task in TASKS.values():
        lines += ["", f"### {TITLES[task.name]}, with losses", "", *task_table(lab, plan, task)]
    return lines
