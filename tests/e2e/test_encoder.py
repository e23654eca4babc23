#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Models with an encoder, and beam search, from outside."""
import json
import math
import os
import re
import struct

import tiny_model
from common import MIB, PROGRAM, SANITIZED, SOURCE, TRAINED, Case, main, stories

DATA = os.path.join(SOURCE, "tests", "data", "gen_moe")
SWITCH = os.path.join(DATA, "switch.gguf")


def reference(name):
    with open(os.path.join(DATA, f"{name}.ref.json"), encoding="utf-8") as f:
        return json.load(f)


def words(ids):
    return ",".join(map(str, ids))


class Encoder(Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.tiny = os.path.join(cls.folder, "switch-tiny.gguf")
        cls.good("synth", "switch-tiny", "--type", "F32", "-o", cls.tiny)

    def logits(self, model, tokens, *more):
        """Rows of the logits that the program writes."""
        out = self.path("logits.npy")
        self.good("logits", model, "--tokens", words(tokens), "-o", out, *more)
        data = self.bytes_of(out)
        head = 10 + struct.unpack("<H", data[8:10])[0]
        rows, columns = eval(data[10:head].decode())["shape"]
        values = struct.unpack(f"<{rows * columns}f", data[head:])
        return [values[i * columns:(i + 1) * columns] for i in range(rows)]

    def run_json(self, model, *args):
        return json.loads(self.good("run", model, *args, "--json").stdout)

    # ------------------------------------------------------------ logits

    def test_logits_are_those_of_the_reference(self):
        for name in ("switch", "t5dense"):
            ref, model = reference(name), os.path.join(DATA, f"{name}.gguf")
            rows = self.logits(model, ref["input_ids"], "--decoder-tokens", words(ref["decoder_input_ids"]))
            found = [v for row in rows for v in row]
            self.assertEqual(len(found), len(ref["logits_f64"]))
            self.assertLess(max(abs(a - b) for a, b in zip(found, ref["logits_f64"])), 1e-4)

    def test_what_does_not_go_together(self):
        out = self.path("x.npy")
        for code, said, args in (
                (1, ["--decoder-tokens", "beginning with 0"], ("logits", SWITCH, "--tokens", "1,2")),
                (1, ["no encoder"], ("logits", TRAINED, "--tokens", "1,2", "--decoder-tokens", "0")),
                (2, ["--decoder-tokens", "x"], ("logits", SWITCH, "--tokens", "1,2", "--decoder-tokens", "x")),
                (1, ["--decoder-tokens: 64", "64"], ("logits", SWITCH, "--tokens", "1", "--decoder-tokens", "64")),
                (1, ["--tokens: 99", "64"], ("logits", SWITCH, "--tokens", "99", "--decoder-tokens", "0"))):
            self.refused(self.call(*args, "-o", out), code, said)
            self.assertFalse(os.path.exists(out), args)
        for code, said, args in (
                (1, ["capacity", "no experts"], ("logits", os.path.join(DATA, "t5dense.gguf"), "--tokens", "1", "--decoder-tokens", "0",
                                                 "-o", out, "--capacity", "4")),
                (1, ["capacity", "no encoder"], ("run", TRAINED, "-p", "a", "-n", "1", "--capacity", "4")),
                (1, ["source", "no encoder"], ("run", TRAINED, "-p", "a", "-n", "1", "--source", "4")),
                (1, ["batch", "one step"], ("run", self.tiny, "-p", "a", "-n", "1", "-b", "8")),
                (1, ["source of", "at most"], ("run", self.tiny, "-p", "a b c d e f", "-n", "1", "--source", "3")),
                (1, ["level 2", "1 to 1"], ("tune", self.tiny, "--data", os.path.join(SOURCE, "README.md"), "-o", out, "--level", "2")),
                (1, ["2 wanted at least"], ("tune", os.path.join(DATA, "t5dense.gguf"), "--data", os.path.join(SOURCE, "README.md"), "-o", out)),
                (1, ["vocabulary"], ("tune", SWITCH, "--data", os.path.join(SOURCE, "README.md"), "-o", out))):
            self.refused(self.call(*args), code, said)

    # ------------------------------------------------------------ run, bench, plan

    def source_of(self, text):
        """As `run` makes it: the text's tokens and the one that ends a text."""
        return [int(w) for w in self.good("tokenize", self.tiny, "-p", text).stdout.split()] + [1]

    def test_run_is_greedy_over_the_logits(self):
        text = "once upon a time there was a house"
        source, ids = self.source_of(text), [0]
        for _ in range(6):
            row = self.logits(self.tiny, source, "--decoder-tokens", words(ids))[-1]
            ids.append(max(range(len(row)), key=lambda i: row[i]))
        for more in ([], ["--mode", "ondemand", "--slots", "3"], ["--mode", "lookahead", "--slots", "9", "-t", "1"]):
            found = self.run_json(self.tiny, "-p", text, "-n", "6", "--temp", "0", "--kv", "f32", "--ignore-eos", *more)
            self.assertEqual(found["tokens"], ids[1:])
            self.assertEqual(found["n_prompt"], len(source))

    def test_capacity(self):
        """A capacity that no expert reaches changes nothing; a small one does."""
        source = [1 + i * 7 % 60 for i in range(24)]
        rows = {c: self.logits(SWITCH, source, "--decoder-tokens", "0,5", *(["--capacity", c] if c else []))
                for c in ("", "24", "2", "1")}
        self.assertEqual(rows[""], rows["24"])
        self.assertNotEqual(rows[""], rows["2"])
        self.assertNotEqual(rows["2"], rows["1"])
        again = self.logits(SWITCH, source, "--decoder-tokens", "0,5", "--capacity", "2", "--mode", "ondemand", "--slots", "2")
        self.assertEqual(rows["2"], again)

    def test_plan(self):
        """A token of the text shares the slots with the decoder's experts alone."""
        plan = json.loads(self.good("plan", self.tiny, "--slots", "4", "--source", "48", "-c", "16", "--no-measure", "--json").stdout)
        self.assertEqual((plan["n_expert_total"], plan["n_expert_token"], plan["n_source"]), (32, 16, 48))
        self.assertEqual(plan["n_batch"], 48)
        modes = {m["mode"]: m for m in plan["modes"]}
        self.assertAlmostEqual(modes["ondemand"]["expected_bytes_per_token"], plan["token_expert_bytes"] * (1 - 4 / 16))
        self.assertAlmostEqual(modes["prefetch-all"]["expected_bytes_per_token"], plan["expert_bytes"] / 2 * (1 - 4 / 16))
        less = json.loads(self.good("plan", self.tiny, "--slots", "4", "--source", "16", "-c", "16", "--no-measure", "--json").stdout)
        self.assertLess((less["kv"], less["scratch"]), (plan["kv"], plan["scratch"]))
        self.assertIn("a source of up to 48", self.good("plan", self.tiny, "--source", "48", "--no-measure", text=True).stdout)
        decoder = json.loads(self.good("plan", TRAINED, "--no-measure", "--json").stdout)
        self.assertEqual((decoder["n_expert_token"], decoder["n_source"]), (decoder["n_expert_total"], 0))

    def test_bench_makes_room_for_its_source(self):
        """As much as it uses, so that a longer source than the default runs, and a short one in a small batch."""
        for p, more, said in ((600, [], None), (20, ["-b", "20"], None), (20, ["-b", "19"], "one step"), (20, ["-c", "4", "--source", "20"], "context")):
            found = json.loads(self.call("bench", self.tiny, "-p", p, "-n", "4", "-r", "1", "--modes", "ondemand", "--slots", "6", "-o", "json",
                                         "--no-measure", *more).stdout)
            row = found["rows"][0]
            if said:
                self.assertIn(said, row["error"])
            else:
                self.assertNotIn("error", row)
                self.assertGreater(row["prefill_tps"], 0)

    def test_bench_in_all_modes(self):
        sidecar = self.path("s.gguf")
        self.good("sidecar", self.tiny, "-o", sidecar)
        found = json.loads(self.good("bench", self.tiny, "-p", "24", "-n", "6", "-r", "1", "--memory", f"{96 * MIB}",
                                     "--pregate", sidecar, "-o", "json").stdout)
        self.assertEqual(len(found["rows"]), 6)
        for row in found["rows"]:
            self.assertNotIn("error", row)
            self.assertGreater(row["expert_requests"], 0)

    # ------------------------------------------------------------ routes and traces

    def routes(self, text, *more, n=7):
        """What a run writes: a list of the lists of each line."""
        out = self.path("routes.jsonl")
        self.good("run", self.tiny, "-p", text, "-n", n, "--temp", "0", "--ignore-eos", "--routes-out", out, *more)
        lines = [json.loads(line) for line in self.bytes_of(out).splitlines()]
        self.assertEqual([line["tok"] for line in lines], list(range(len(lines))))
        return [line["layers"] for line in lines]

    def test_routes_of_both_stacks(self):
        """A line a token of the source, with lists of the encoder's blocks, then one a token of the text."""
        text, other = "once upon a time there was a house", "what could you see there"
        n = len(self.source_of(text))
        lines = self.routes(text)
        self.assertEqual([[len(ids) for ids in line] for line in lines], n * [[1, 1, 0, 0]] + 7 * [[0, 0, 1, 1]])
        for more in (["--mode", "ondemand", "--slots", "2"], ["--mode", "lookahead", "--slots", "9", "-t", "1"]):
            self.assertEqual(self.routes(text, *more), lines)
        trace, m = self.put("a.jsonl", "".join(json.dumps({"layers": line}) + "\n" for line in lines)), len(self.source_of(other))
        self.assertNotEqual(self.routes(other)[:m], [lines[i % n] for i in range(m)])
        forced = self.routes(other, "--routes", trace, "--mode", "ondemand", "--slots", "5", n=10)
        self.assertEqual(forced, [lines[i % n] for i in range(m)] + [lines[n + i % 7] for i in range(10)])
        sidecar = self.path("s.gguf")
        self.good("sidecar", self.tiny, "-o", sidecar)
        self.assertEqual(self.routes(other, "--routes", trace, "--mode", "pregate", "--pregate", sidecar, n=10), forced)

    def test_routes_refused(self):
        some = self.put("some.jsonl", '{"layers": [[], [], [1], [2]]}\n')
        self.refused(self.call("run", self.tiny, "-p", "a", "-n", "1", "--routes", some), 1, ["no token that goes through block 0"])
        gap = self.put("gap.jsonl", '{"layers": [[1], [], [1], [2]]}\n')
        self.refused(self.call("replay", gap), 1, ["gap.jsonl:1", "block 1 is empty between"])

    def test_routes_of_a_whole_trace(self):
        """Lines without empty lists are forced on both stacks."""
        whole = self.put("whole.jsonl", "".join(json.dumps({"layers": [[i], [7 - i], [i], [i]]}) + "\n" for i in range(8)))
        lines = self.routes("once upon a time there was", "--routes", whole)
        n = len(lines) - 7
        self.assertEqual(lines, [[[i % 8], [7 - i % 8], [], []] for i in range(n)] + [[[], [], [i], [i]] for i in range(7)])

    def test_replay_counts_what_is_there(self):
        trace = self.put("a.jsonl", "".join(json.dumps({"layers": line}) + "\n" for line in self.routes("once upon a time there was")))
        found = json.loads(self.good("replay", trace, "--ratio", "1,2,16", "-o", "json").stdout)
        self.assertEqual((found["n_tokens"], found["n_blocks"], found["working_set"]), (len(self.bytes_of(trace).splitlines()), 4, 2))
        lines = [json.loads(line)["layers"] for line in self.bytes_of(trace).splitlines()]
        keys = {(b, ids[0]) for line in lines for b, ids in enumerate(line) if ids}
        for row in found["rows"]:
            self.assertEqual(row["requests"], 2 * len(lines))
            self.assertLessEqual(row["hits"], row["requests"] - len(keys))
            if row["n_slots"] == 32:
                self.assertEqual(row["hits"], row["requests"] - len(keys))

    def test_routes_of_eval(self):
        """As many lines as tokens went through each stack, one text at a time as many at once."""
        data, counts = self.put_pairs(), []
        for more in (["--slots", "4"], ["-c", "32", "--source", "32", "-b", "32", "--memory", f"{96 * MIB}"]):
            out = self.path("routes.jsonl")
            found = self.eval_json("--data", data, "--task", "agree", "--routes-out", out, *more)
            lines = [json.loads(line)["layers"] for line in self.bytes_of(out).splitlines()]
            self.assertEqual(len(lines), found["tokens"])
            counts.append(sorted(map(str, lines)))
        self.assertEqual(counts[0], counts[1])

    def test_trace_has_both_stacks(self):
        trace = self.path("t.json")
        self.good("run", self.tiny, "-p", "what was there", "-n", "3", "--ignore-eos", "--mode", "ondemand", "--slots", "4", "--trace", trace)
        with open(trace, encoding="utf-8") as f:
            events = json.load(f)["traceEvents"]
        self.assertEqual({e["args"]["block"] for e in events if e["name"] == "attention"}, set(range(8)))
        self.assertEqual({e["args"]["block"] for e in events if e["name"] == "experts"}, {1, 3, 5, 7})
        order = [e["args"]["block"] for e in sorted((e for e in events if e["name"] == "attention"), key=lambda e: e["ts"])]
        self.assertEqual(order, [0, 1, 2, 3] + 3 * [4, 5, 6, 7])

    # ------------------------------------------------------------ eval

    PAIRS = (("the day was very happy and she saw that", "they wanted one big time"), ("what", ""), ("", "like"),
             ("could there were you", ["the little day", "then"]))

    def put_pairs(self, name="pairs.jsonl", pairs=PAIRS):
        return self.put(name, "".join(json.dumps({"source": a, "target": b, "more": 1}) + "\n" for a, b in pairs))

    def ids_of(self, text):
        return [int(w) for w in self.good("tokenize", self.tiny, "-p", text).stdout.split()] if text else []

    def nll(self, source, target):
        """Of the target's tokens, by the definition."""
        rows = self.logits(self.tiny, source, "--decoder-tokens", words([0] + target[:-1]))
        return [math.log(sum(math.exp(v) for v in row)) - row[i] for row, i in zip(rows, target)]

    def eval_json(self, *args, model=None):
        return json.loads(self.good("eval", model or self.tiny, *args, "--json").stdout)

    ANYWHERE = ([], ["--mode", "ondemand", "--slots", "2", "-b", "64", "-c", "64", "--source", "64"],
                ["--mode", "lookahead", "--slots", "20", "-t", "1", "-c", "128"], ["--mode", "prefetch-all", "--slots", "9", "--source", "100"])

    def test_ppl_of_pairs(self):
        nll = [x for a, b in self.PAIRS for x in self.nll(self.source_of(a) if a else [1], self.ids_of(b if isinstance(b, str) else b[0]) + [1])]
        found = [self.eval_json("--data", self.put_pairs(), *more) for more in self.ANYWHERE]
        self.assertEqual(found[0]["tokens"], len(nll))
        self.assertEqual((found[0]["docs"], found[0]["cut"]), (len(self.PAIRS), 0))
        self.assertAlmostEqual(found[0]["nll_per_token"], sum(nll) / len(nll), places=5)
        for one in found:
            self.assertEqual(one["ppl"], found[0]["ppl"])

    def test_ppl_of_cut_pairs(self):
        """A source keeps its end token, a target that is cut has none."""
        a, b = self.PAIRS[0]
        nll = self.nll(self.source_of(a)[:6] + [1], self.ids_of(b)[:4])
        found = self.eval_json("--data", self.put_pairs(pairs=self.PAIRS[:1]), "--source", "7", "-c", "5")
        self.assertEqual((found["tokens"], found["cut"]), (4, 1))
        self.assertAlmostEqual(found["nll_per_token"], sum(nll) / len(nll), places=5)

    def test_ppl_of_text(self):
        """Prefix language modelling: pieces of 7 tokens of a source, its end token, and 9 of a target."""
        text = "the day was very happy and she saw that they wanted one big time; could you play with her, like the little"
        ids, nll = self.ids_of(text), []
        self.assertGreater(len(ids), 20)
        for at in range(0, len(ids) - 1, 16):
            piece = ids[at:at + 16]
            ends = at + 16 >= len(ids) and len(piece) < 16
            first = max(1, min((len(piece) + ends) * 7 // 16, len(piece) - 1))
            nll += self.nll(piece[:first] + [1], piece[first:] + [1] * ends)
        data = self.put("a.txt", text)
        whole = self.eval_json("--data", data, "--source", "8", "-c", "10", "--windows")
        self.assertEqual(whole["tokens"], len(nll))
        self.assertAlmostEqual(whole["nll_per_token"], sum(nll) / len(nll), places=5)
        first = self.eval_json("--data", data, "--source", "8", "-c", "10")
        self.assertEqual((first["tokens"], first["cut"]), (9, 1))
        self.assertAlmostEqual(first["nll_per_token"], sum(nll[:9]) / 9, places=5)

    def test_agree(self):
        """Blocks of both stacks but each one's first, on the tokens that went through it."""
        sidecar = self.path("s.gguf")
        self.good("sidecar", self.tiny, "-o", sidecar)
        data = self.put_pairs()
        found = self.eval_json("--task", "agree", "--data", data)
        n_source = sum(len(self.ids_of(a)) + 1 for a, _ in self.PAIRS)
        n_target = self.eval_json("--data", data)["tokens"]
        self.assertEqual([(b["block"], b["tokens"]) for b in found["blocks"]], [(1, n_source), (3, n_target)])
        self.assertEqual(found["tokens"], n_source + n_target)
        for more in (["--slots", "3"], ["--slots", "12", "--mode", "lookahead", "-t", "1", "-c", "32"]):
            self.assertEqual(self.eval_json("--task", "agree", "--data", data, *more)["blocks"], found["blocks"])
        hint = self.eval_json("--task", "agree", "--data", data, "--mode", "hint", "--pregate", sidecar)
        self.assertEqual(hint["blocks"], found["blocks"])
        self.refused(self.call("eval", self.tiny, "--task", "agree", "--data", data, "--lookahead", "2"), 1, ["lookahead", "0 to 1"])

    def answers(self, task, data, *more):
        out = self.path("said.jsonl")
        found = self.eval_json("--task", task, "--data", data, "--predictions", out, *more)
        return found, [json.loads(line)["answer"] for line in self.bytes_of(out).decode().splitlines()]

    def test_answers_are_those_of_run(self):
        """In T5's own form, without a line's end as the answer's."""
        story, ask = "the day was very happy and she saw that they wanted one big time", ["what was the day", "could you play", "who"]
        qas = [{"id": str(i), "question": q, "answers": [{"text": "happy"}]} for i, q in enumerate(ask)]
        squad = self.put("squad.json", json.dumps({"version": "1.1", "data": [{"paragraphs": [{"context": story, "qas": qas}]}]}))
        lines = self.put("sums.jsonl", "".join(json.dumps({"source": s, "target": "a"}) + "\n" for s in (story, "she was happy")))
        for task, data, prompts, n in (("qa", squad, [f"question: {q} context: {story}" for q in ask], 12),
                                       ("summarize", lines, [f"summarize: {story}", "summarize: she was happy"], 20)):
            said = [self.run_json(self.tiny, "-p", p, "-n", n, "--temp", "0", "--kv", "f32")["text"].lstrip() for p in prompts]
            for more in self.ANYWHERE:
                found, texts = self.answers(task, data, "-n", n, *more)
                self.assertEqual(texts, said)
                self.assertEqual((found["docs"], found["cut"]), (len(prompts), 0))

    def test_answers_end(self):
        """At the end token, and what is too long for a source loses its end."""
        text = "the day was very happy and she saw that they wanted one big time"
        data = self.put("sums.jsonl", json.dumps({"source": text, "target": "a"}) + "\n")
        ids = self.run_json(self.tiny, "-p", f"summarize: {text}", "-n", "6", "--temp", "0", "--kv", "f32", "--ignore-eos")["tokens"]
        keys, tensors = tiny_model.read(self.tiny)
        model = self.path("ends.gguf")
        tiny_model.write(model, {**keys, "tokenizer.ggml.eot_token_id": tiny_model.u32(ids[3])}, tensors)
        out = json.loads(self.good("eval", model, "--task", "summarize", "--data", data, "--json", "-n", "6").stdout)
        self.assertEqual(out["tokens"], ids.index(ids[3]))
        prompt = f"summarize: {text}"
        short = next(t for t in (prompt[:i] for i in range(len(prompt))) if self.ids_of(t) == self.ids_of(prompt)[:11])
        cut, texts = self.answers("summarize", data, "--source", "12", "-n", "4")
        self.assertEqual(cut["cut"], 1)
        self.assertEqual(texts, [self.run_json(self.tiny, "-p", short, "-n", "4", "--temp", "0", "--kv", "f32")["text"].lstrip()])

    def test_eval_refused(self):
        pairs, text = self.put_pairs(), self.put("a.txt", "the day was happy")
        bad = self.put("bad.jsonl", '{"source": "a", "target": "b"}\n{"source": "a", "target": 7}\n')
        for said, args in ((["windows", "running text"], ("--data", pairs, "--windows")),
                           (["bad.jsonl: line 2: target: a number", "a text or a list of texts wanted"], ("--data", bad)),
                           (["2 at least"], ("--data", pairs, "--source", "1")),
                           (["2 at least"], ("--data", text, "-c", "2")),
                           (["no room for its first token"], ("--data", pairs, "--task", "summarize", "-c", "8", "-n", "8"))):
            self.refused(self.call("eval", self.tiny, *args), 1, said)
        self.refused(self.call("eval", SWITCH, "--data", text), 1, ["vocabulary"])
        self.refused(self.call("eval", TRAINED, "--data", text, "--source", "8"), 1, ["source", "no encoder"])

    # ------------------------------------------------------------ tune

    def put_stories(self):
        """Pairs of the first part of a story and its rest, shorter than they are."""
        texts = [" ".join(t.split()) for t in stories(16000).split("<|endoftext|>") if t.strip()]
        return self.put_pairs("stories.jsonl", [(t[:150], [t[150:200], "x"]) for t in texts[:60]])

    def tune(self, *args, code=0):
        return self.refused(self.call("tune", self.tiny, *args, text=True), code, [])

    def test_tune(self):
        """Gates of both stacks learn, each from the tokens that go through its own."""
        if SANITIZED:  # what runs here runs in the next test, too
            return
        data, text, sidecar = self.put_stories(), self.put("a.txt", stories(9000)), self.path("s.gguf")
        for how in (["--data", data, "-c", "64"], ["--data", text, "-c", "24", "--for", "decide"]):
            found = json.loads(self.tune(*how, "--hidden", "8", "-o", sidecar, "--json").stdout)
            self.assertEqual([b["block"] for b in found["after"]], [1, 3])
            self.assertGreater(found["tokens"], 3 * found["tokens_held_out"])
            for before, after in zip(found["before"], found["after"]):
                self.assertGreater(after["recall"], before["recall"] + 0.1, how)
            unseen = self.put("unseen.txt", stories(14000)[9000:])
            recall = [[b["recall"] for b in self.eval_json("--task", "agree", "--data", unseen, "-c", "64", "--source", "64", "--max", "8",
                                                           "--mode", mode, *more)["blocks"]]
                      for mode, *more in (("lookahead",), ("hint", "--pregate", sidecar))]
            for before, after in zip(*recall):
                self.assertGreater(after, before + 0.1, how)
        nll = {mode: self.eval_json("--data", unseen, "-c", "64", "--source", "64", "--max", "8", "--mode", mode, "--pregate",
                                    sidecar)["nll_per_token"] for mode in ("ondemand", "pregate")}
        self.assertNotEqual(nll["ondemand"], nll["pregate"])

    def test_tune_to_the_same_bits(self):
        """Whatever the memory, the threads and the engine's batch; and after Ctrl-C."""
        data = self.put_stories()
        how = ["--data", data, "-c", "48", "--hidden", "4", "--tokens", "3000", "-o"]
        self.tune(*how, self.path("a"))
        self.tune(*how, self.path("b"), "-t", "1", "--memory", f"{400 * MIB if SANITIZED else 48 * MIB}")
        self.assertEqual(self.bytes_of("a"), self.bytes_of("b"))
        if SANITIZED:  # test_tune.py is interrupted there
            return
        for n in range(20):  # until one was not faster than the signal
            code, said = self.signalled([PROGRAM, "tune", self.tiny, *how, self.path(f"c{n}")], "of the text")
            self.assertIn(code, (0, 130), said)
            if code == 130:
                self.assertIn("gone on with", self.tune(*how, self.path(f"c{n}"), "--resume").stderr)
            self.assertEqual(self.bytes_of("a"), self.bytes_of(f"c{n}"))
            if code == 130:
                return
        self.fail("no run was interrupted")

    def test_tune_in_rounds(self):
        """With little memory the text is taken in rounds, and the budget is kept."""
        if not self.measures():
            return
        how = ["--data", self.put("a.txt", stories(20000)), "-c", "32", "--hidden", "0", "--tokens", "9000", "-t", "1", "-o", self.path("s")]
        least = float(re.search(r"the minimum is ([\d.]+) MiB", self.tune(*how, "--memory", "1M", code=1).stderr).group(1))
        said = self.tune(*how, "--memory", f"{int((least + 1) * 1024)}K").stderr
        self.assertGreater(int(re.search(r"round \d+ of (\d+):", said).group(1)), 1, said)
        self.assertLess(float(re.search(r"peak ([\d.]+) MiB", said).group(1)), least + 1)

    # ------------------------------------------------------------ texts side by side

    def bench_rows(self, *more, n_predict=6):
        rows = json.loads(self.good("bench", self.tiny, "-p", "24", "-n", n_predict, "-r", "1", "--source", "24", "-b", "64", "--no-measure",
                                    "-o", "json", *more).stdout)["rows"]
        for row in rows:
            self.assertNotIn("error", row)
        return rows

    def test_texts_side_by_side_are_the_same_in_all_exact_modes_and_slots(self):
        sidecar = self.path("s.gguf")
        self.good("sidecar", self.tiny, "-o", sidecar)
        seen = set()
        for n in (1, 3) if SANITIZED else (1, 64):
            def hashes(slots, modes, n=n):
                return {row["repetitions"][0]["tokens_hash"] for row in self.bench_rows(
                    "--pregate", sidecar, "--parallel", n, "--slots", slots, "--modes", modes, n_predict=3)}
            routers = hashes(3, "ondemand,prefetch-all,lookahead" if n < 64 else "ondemand") | hashes(32, "resident")
            gates = hashes(2, "pregate") | hashes(32, "pregate")
            self.assertEqual((len(routers), len(gates)), (1, 1), n)
            seen |= routers | gates
        self.assertEqual(len(seen), 4)  # other texts, and gates that decide otherwise: the number can differ

    def test_bench_counts_all_texts(self):
        one, four = (self.bench_rows("--modes", "resident", "--parallel", n)[0] for n in (1, 4))
        for row, n in ((one, 1), (four, 4)):
            self.assertAlmostEqual(row["decode_tps"] * row["decode_seconds"], 6 * n, delta=1e-6)
            blocks = row["repetitions"][0]["block_seconds"]
            self.assertEqual([b > 0 for b in blocks], [False] * 4 + [True] * 4)  # decoding is the decoder's
            self.assertLess(sum(blocks), row["decode_seconds"])
        refused = self.call("bench", TRAINED, "-p", "4", "-n", "2", "-r", "1", "-b", "8", "--parallel", "9", "--modes", "ondemand", "-o", "json")
        self.assertIn("-b 9", json.loads(refused.stdout)["rows"][0]["error"])
        self.refused(refused, 1, ["no row"])

    def test_steady_waits_for_all_that_is_hinted(self):
        """So what is read is the same whatever reads it, and all experts of the second block in each step but those
        that had a slot: with 8 slots at most 7, less the one that the first block has at that time."""
        each = 2 * 4 * 256 * 512  # bytes of an expert: two matrices of float32
        found = {self.bench_rows("--modes", "prefetch-all", "--steady", "--slots", "8", "--io", io, "-t", t)[0]["expert_bytes_read"]
                 for io in ("pread", "auto") for t in (1, 2)}
        self.assertEqual(len(found), 1)
        self.assertGreaterEqual(found.pop(), 6 * each)

    def test_slots_are_whole_huge_pages(self):
        """Where they are more than two of them, and there is room: experts of 1 MiB and a page."""
        def plan(*more):
            return json.loads(self.good("plan", self.tiny, "--mode", "ondemand", "--source", "24", "--json", "--no-measure", *more).stdout)
        for n in (2, 3, 5, 9):
            given = plan("--slots", n)
            exact = n * given["slot_bytes"]
            self.assertEqual(given["slots"], -(-exact // (2 * MIB)) * 2 * MIB if exact > 4 * MIB else exact)
            self.assertLessEqual(sum(given[part] for part in ("dense", "kv", "scratch", "overhead", "caller", "slots")), given["budget"])
        few = plan("--slots", 5)
        least = few["budget"] - few["slots"] + 5 * few["slot_bytes"]
        self.assertEqual(plan("--slots", 5, "--memory", least + MIB // 4)["n_slots"], 5)

    def test_experts_a_token(self):
        """As a file that says so itself; and where nothing is said, as before."""
        data = self.bytes_of(self.tiny)
        key = b"switch.expert_used_count" + struct.pack("<II", 4, 1)
        self.assertEqual(data.count(key), 1)
        three = self.put("three.gguf", data.replace(key, key[:-4] + struct.pack("<I", 3)))
        args = ([5, 9, 33, 1], "--decoder-tokens", "0,4")
        own, wanted = self.logits(self.tiny, *args), self.logits(three, *args)
        self.assertNotEqual(own, wanted)
        self.assertEqual(self.logits(self.tiny, *args, "--experts", "3"), wanted)
        self.assertEqual(self.logits(self.tiny, *args, "--experts", "3", "--mode", "lookahead", "--slots", "2"), wanted)
        self.assertEqual(self.logits(three, *args, "--experts", "1"), own)
        sidecar = self.path("s.gguf")  # the model is the same one, whatever number is used
        self.good("sidecar", self.tiny, "-o", sidecar)
        self.bench_rows("--pregate", sidecar, "--experts", "8", "--modes", "pregate", "--slots", "16")
        self.refused(self.call("logits", self.tiny, "--tokens", "1", "-o", self.path("x"), "--experts", "9"), 1, ["9 found", "model's 8"])
        self.refused(self.call("logits", os.path.join(DATA, "t5dense.gguf"), "--tokens", "1", "-o", self.path("x"), "--experts", "1"), 1, ["no experts"])

    def test_forced_routes_of_more_experts(self):
        routes = self.put("routes.jsonl", '{"tok": 0, "layers": [[0, 5], [1, 4], [2, 3], [7, 6]]}\n')
        self.refused(self.call("run", self.tiny, "--routes", routes, "-n", "2", "-p", "a"), 1, ["with 2 of", "with 1 of 8"])
        row, = self.bench_rows("--routes", routes, "--experts", "2", "--modes", "ondemand", "--slots", "8")
        self.assertEqual((row["expert_requests"], row["missed"]), (6 * 2 * 2, 0))

    # ------------------------------------------------------------ beams

    def beams(self, rows_of, n_beams, n, is_end):
        """Beam search by its definition, over the logits of whole texts: the best ended or, where too few have, going."""
        going, ended = [([], 0.0)], []
        for length in range(1, n + 1):
            all_next = []
            for ids, total in going:
                row = rows_of(ids)
                most = max(row)
                z = most + math.log(sum(math.exp(v - most) for v in row))
                all_next += [(total + v - z, ids + [i]) for i, v in enumerate(row)]
            all_next.sort(key=lambda c: -c[0])
            going = []
            for rank, (total, ids) in enumerate(all_next[:2 * n_beams]):
                if is_end(ids[-1]):
                    if rank < n_beams:
                        ended = sorted(ended + [(ids, total)], key=lambda e: -e[1] / len(e[0]))[:n_beams]
                elif len(going) < n_beams:
                    going.append((ids, total))
            if len(ended) == n_beams and going[0][1] / length <= ended[-1][1] / len(ended[-1][0]):
                break
        found = ended + (going if len(ended) < n_beams else [])
        ids, total = max(found, key=lambda e: e[1] / len(e[0]))
        return ids[:-1] if is_end(ids[-1]) else ids, total / len(ids)

    def test_beams_by_definition(self):
        prompt = [1] + [int(w) for w in self.good("tokenize", TRAINED, "-p", "one day, a dog").stdout.split()]
        for n_beams in (1, 3):
            ids, score = self.beams(lambda ids: self.logits(TRAINED, prompt + ids)[-1], n_beams, 5, lambda i: False)
            found = self.run_json(TRAINED, "-p", "one day, a dog", "-n", "5", "--beams", n_beams, "--kv", "f32", "--ignore-eos")
            self.assertEqual(found["tokens"], ids)
            self.assertAlmostEqual(found["score"], score, places=4)

    def test_beams_end(self):
        """Texts that end, since their end is a token that is likely."""
        prompt = [1] + [int(w) for w in self.good("tokenize", TRAINED, "-p", "one day, a dog").stdout.split()]
        keys, tensors = tiny_model.read(TRAINED)
        ends = 0
        for end in (284, 412):  # the second and the third of the greedy text's
            model = self.path("ends.gguf")
            tiny_model.write(model, {**keys, "tokenizer.ggml.eos_token_id": tiny_model.u32(end)}, tensors)
            for n_beams in (2, 3):
                ids, score = self.beams(lambda ids: self.logits(TRAINED, prompt + ids)[-1], n_beams, 4, lambda i, end=end: i == end)
                found = self.run_json(model, "-p", "one day, a dog", "-n", "4", "--beams", n_beams, "--kv", "f32")
                self.assertEqual(found["tokens"], ids)
                self.assertAlmostEqual(found["score"], score, places=4)
                ends += found["stop"] == "end"
        self.assertGreater(ends, 0)

    def test_beams_full_context(self):
        found = self.run_json(TRAINED, "-p", "a", "-c", "6", "-n", "30", "--beams", "2", "--ignore-eos")
        self.assertEqual(found["stop"], "context")

    def test_beams_anywhere(self):
        """The same text under any budget and in any exact mode."""
        first = None
        for more in ([], ["--mode", "ondemand", "--slots", "4"], ["--mode", "lookahead", "--slots", "12", "-t", "1"]):
            found = self.run_json(self.tiny, "-p", "it was a dark night", "-n", "8", "--beams", "4", *more)
            first = first or found["tokens"]
            self.assertEqual(found["tokens"], first)

    def test_beams_refused(self):
        self.refused(self.call("run", TRAINED, "-p", "a", "--beams", "2", "--temp", "1"), 2, ["--temp", "sampling"])
        self.refused(self.call("run", TRAINED, "-p", "a", "--beams", "2", "-n", "-1"), 2, ["-n N"])


if __name__ == "__main__":
    main()
