"""Texts and tasks for a small Switch: what it is pre-trained on, and three tasks to learn, to choose by and to be tested on.

All is in small letters, as the books and stories of the repository are; what marks answers takes no notice of letters'
size. Nothing is learned from that the sets have in their validation or test parts (SciTLDR has some abstracts in two parts).
"""
import collections
import json
import lzma
import random
import re

from quality_parts.lab import ROOT, write

DATA, STORIES = ROOT / "bench/data", ROOT / "models/data"
VALID_ARTICLES = {"Normans", "Packet_switching", "1973_oil_crisis"}  # of the 16 in squad.jsonl.xz
SENTENCE = re.compile(r"(?<=[.!?])[\"')\]]*\s+")
WORD = re.compile(r"[^\W\d_]+|\d+")
END_OF_TEXT = "\n<|endoftext|>\n"
RUNNING = ("books", "stories", "abstracts", "passages")


def unpacked(path):
    return lzma.decompress(path.read_bytes()).decode() if path.suffix == ".xz" else path.read_text()


def objects(name):
    return [json.loads(line) for line in unpacked(DATA / f"{name}.jsonl.xz").splitlines()]


def plain(text):
    """Small letters, one space between words."""
    return " ".join(text.lower().split())


def pair_lines(pairs):
    return "".join(json.dumps({"source": s, "target": t}, ensure_ascii=False) + "\n" for s, t in pairs)


# ---------------------------------------------------------------- the tasks


class Task:
    """Examples (prompt's parts, answers) of train, valid and test; the form of a prompt is the one that `pregate eval` makes
    of a question or of what is to be summed up."""

    def pairs(self, part):
        return pair_lines((self.prompt(*example), answers[0]) for *example, answers in self.examples(part))


class Questions(Task):
    kind = "qa"

    @staticmethod
    def prompt(question, context):
        return f"question: {question} context: {context}"

    def marked(self, part):
        """As SQuAD's JSON."""
        found = [{"context": c, "qas": [{"question": q, "answers": [{"text": a} for a in answers]}]} for q, c, answers in self.examples(part)]
        return json.dumps({"version": "1.1", "data": [{"paragraphs": found}]}, ensure_ascii=False) + "\n"


class WebQuestions(Questions):
    """Of memory alone: there is no passage."""
    name = "webquestions"

    def examples(self, part):
        for o in objects(f"webquestions.{'dev' if part == 'valid' else part}"):
            yield plain(o["question"]), "", [plain(a) for a in o["answers"]]


class Squad(Questions):
    """The passage is the sentence that the answer is in: what is left of the task is to find the words in it."""
    name = "squad"

    def examples(self, part):
        for o in objects("xquad" if part == "test" else "squad"):
            if part == "test" or (o["title"] in VALID_ARTICLES) == (part == "valid"):
                for q in o["qas"]:
                    yield plain(q["question"]), plain(sentence_of(o["context"], *q["answers"][0])), [plain(a) for _, a in q["answers"]]


class Summaries(Task):
    name, kind = "scitldr", "summarize"

    @staticmethod
    def prompt(source):
        return f"summarize: {source}"

    def examples(self, part):
        for o in objects(f"scitldr.{'dev' if part == 'valid' else part}"):
            yield plain(o["source"]), [plain(t) for t in o["target"]]

    def marked(self, part):
        return "".join(json.dumps({"source": s, "target": t}, ensure_ascii=False) + "\n" for s, t in self.examples(part))


TASKS = {task.name: task for task in (Summaries(), WebQuestions(), Squad())}


def sentences(text):
    """(begin, end) of each."""
    ends = [m.end() for m in SENTENCE.finditer(text)] + [len(text)]
    return list(zip([0, *ends], ends))


def sentence_of(context, at, answer):
    """The sentence with those words, or the sentences where they are of more than one."""
    touched = [(b, e) for b, e in sentences(context) if b < at + len(answer) and at < e]
    return context[touched[0][0]:touched[-1][1]]


def pairs_of(out, task, part):
    """A file of pairs: a prompt and the first of its answers."""
    return kept(out / f"{task.name}.{part}.jsonl", lambda: task.pairs(part))


def marked_of(out, task, part):
    """A file that answers are marked by."""
    return kept(out / f"{task.name}.{part}-marked.{'json' if task.kind == 'qa' else 'jsonl'}", lambda: task.marked(part))


def write_all(out, tasks):
    """So that threads find them."""
    for task in tasks:
        for part in ("train", "valid", "test"):
            pairs_of(out, task, part)
        marked_of(out, task, "test")


def kept(path, text):
    """For one thread at a time."""
    if not path.exists():
        write(path, text())
    return path


# ---------------------------------------------------------------- what is pre-trained on


def documents(path, most):
    """The first of them, up to so many characters."""
    found, n = [], 0
    for doc in unpacked(path).split(END_OF_TEXT):
        if n + len(doc) > most:
            break
        found.append(doc.strip())
        n += len(doc)
    return found


def texts(plan):
    """By name, all that is learned from and is running text."""
    most = plan["most_texts"] or None
    passages = [plain(o["context"]) for o in objects("squad") if o["title"] not in VALID_ARTICLES]
    return {"books": documents(STORIES / "books.txt.xz", plan["characters"]["books"]),
            "stories": documents(STORIES / "stories.train.txt.xz", plan["characters"]["stories"]),
            "abstracts": [plain(o["source"]) for o in objects("scitldr.train")][:most], "passages": passages[:most]}


def of_tasks():
    """Questions, answers and summaries to learn from: for the vocabulary."""
    for task in TASKS.values():
        for *prompt, answers in task.examples("train"):
            yield prompt[0]
            yield from answers


class Gaps:
    """Questions that a text asks by itself: a sentence in which words are missing that stand in a sentence nearby.
    The words come twice, and are not among those that come often in all texts."""

    def __init__(self, docs, seed):
        counts = collections.Counter(w for doc in docs for w in WORD.findall(doc))
        self.often = {w for w, _ in counts.most_common(400)}
        self.docs, self.random = docs, random.Random(seed)

    def spans(self, sentence):
        """By words: the places of up to four words that begin and end with one that is not frequent."""
        at, found = [(m.start(), m.end(), m.group()) for m in WORD.finditer(sentence)], {}
        for i, (begin, _, first) in enumerate(at):
            for _, end, last in at[i:i + 4]:
                if first not in self.often and last not in self.often:
                    found.setdefault(sentence[begin:end], (begin, end))
        return found

    def of(self, doc):
        """One for each two neighbouring sentences, at most three sentences apart, that have such words in common."""
        parts = [doc[b:e].strip() for b, e in sentences(doc)]
        parts = [p for p in parts if 40 <= len(p) <= 240]
        spans = [self.spans(p) for p in parts]
        for i, asked in enumerate(spans):
            near = [j for j in range(max(0, i - 3), min(len(parts), i + 4)) if j != i and any(s in asked for s in spans[j])]
            if near:
                j = self.random.choice(near)
                words = max((s for s in spans[j] if s in asked), key=lambda s: (len(s), s))
                begin, end = asked[words]
                yield Questions.prompt(f"{parts[i][:begin]}what{parts[i][end:]}", parts[j]), words

    def all(self):
        return [pair for doc in self.docs for pair in self.of(doc)]


def pieces(doc):
    """Of whole sentences, a few hundred characters long; what is one sentence too long is left out."""
    found = [""]
    for b, e in sentences(doc):
        if found[-1] and len(found[-1]) + e - b > 340:
            found.append("")
        found[-1] += doc[b:e]
    return [" ".join(p.split()) for p in found if 60 <= len(p) <= 420]


def noise_lines(found, seed):
    """Pieces, and what they are to be made of again: some of their words are missing, of others only a mark is left (as in
    Lewis et al., "BART", 2020). Most of an answer is in its source, which is what a model learns to look into there."""
    draw = random.Random(seed)
    parts = [piece for docs in found.values() for doc in docs for piece in pieces(doc)]
    draw.shuffle(parts)

    def noise(piece):
        kept_words = [(draw.random(), word) for word in piece.split(" ")]
        return " ".join("_" if at < 0.2 else word for at, word in kept_words if at >= 0.08)
    return pair_lines((noise(piece), piece) for piece in parts)


def gap_lines(found, most):
    pairs = Gaps([doc for docs in found.values() for doc in docs], 1).all()
    random.Random(2).shuffle(pairs)
    return pair_lines(pairs[:most])


def text_files(out, plan):
    """Of running text by name; of its pieces with noise, and of the questions that it asks by itself."""
    files = {**{name: out / f"{name}.txt" for name in RUNNING}, "noise": out / "noise.jsonl", "gaps": out / "gaps.jsonl"}
    if not all(path.exists() for path in files.values()):
        found = texts(plan)
        for name in RUNNING:
            write(files[name], END_OF_TEXT.join(found[name]))
        write(files["noise"], noise_lines(found, 3))
        write(files["gaps"], gap_lines(found, plan["gaps"]))
    return files
