#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""`pregate eval` from outside: its JSON, its table, its budget, and what it refuses."""
import hashlib
import json
import math
import os
import struct

from common import SANITIZED, SOURCE, STORIES, TRAINED, Case, main


class Eval(Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.model, cls.text = TRAINED, STORIES
        cls.sidecar = os.path.join(cls.folder, "gates.gguf")
        cls.call("sidecar", cls.model, "-o", cls.sidecar)
        with open(cls.text, encoding="utf-8") as f:
            cls.docs = f.read().split("<|endoftext|>\n")

    def run_json(self, *args):
        result = self.call("eval", self.model, "--json", *args)
        self.assertEqual(result.returncode, 0, result.stderr.decode())
        self.assertEqual(result.stderr, b"")
        return json.loads(result.stdout)

    def bad(self, code, words, *args):
        result = self.refused(self.call("eval", *args), code, words)
        self.assertEqual((result.stdout, result.stderr[:9]), (b"", b"pregate: "), args)

    # ------------------------------------------------------------ perplexity

    def likelihood(self, story):
        """Of a story's first 256 tokens: their number, and the sum that the logits give."""
        ids = self.call("tokenize", self.model, "-p", story.strip()).stdout.split()
        ids = [1] + [int(i) for i in ids][:255]
        npy = self.call("logits", self.model, "--tokens", ",".join(map(str, ids))).stdout
        data = npy[10 + struct.unpack("<H", npy[8:10])[0]:]
        n_vocab = len(data) // 4 // len(ids)
        total = 0
        for at, target in enumerate(ids[1:]):
            row = struct.unpack(f"<{n_vocab}f", data[4 * n_vocab * at:4 * n_vocab * (at + 1)])
            total += math.log(math.fsum(math.exp(x - row[target]) for x in row))
        return len(ids) - 1, total

    def test_first_stories(self):
        """What `pregate logits` says of the same tokens, summed here."""
        found = self.run_json("--data", self.text, "--max", "3")
        n_tokens, total = map(sum, zip(*map(self.likelihood, self.docs[:3])))
        self.assertEqual((found["task"], found["docs"], found["tokens"]), ("ppl", 3, n_tokens))
        self.assertAlmostEqual(found["nll_per_token"], total / n_tokens, delta=1e-6)
        self.assertAlmostEqual(found["ppl"], math.exp(found["nll_per_token"]), delta=1e-6)
        with open(self.text, "rb") as f:
            digest = hashlib.sha256(f.read()).hexdigest()
        self.assertEqual(found["data"], {"file": self.text, "sha256": digest})
        for key in ("mode", "seconds", "tps", "bytes_read_per_token", "hit_rate", "stall_seconds",
                    "memory_bytes", "peak_rss_bytes", "stats", "plan", "model", "cut"):
            self.assertIn(key, found)

    def test_budget_is_kept_and_changes_nothing(self):
        words = ("--data", self.put("two.txt", "<|endoftext|>\n".join(self.docs[:2])), "-c", "64")
        free = self.run_json(*words, "--mode", "resident")
        small = self.run_json(*words, "--mode", "ondemand", "--memory", "60M" if SANITIZED else "10M",
                              "-b", "16", "-t", "1", "--kv", "f32")
        self.assertEqual(small["nll_per_token"], free["nll_per_token"])
        if self.measures():
            self.assertGreater(small["bytes_read_per_token"], 0)
            self.assertLessEqual(small["peak_rss_bytes"], small["memory_bytes"])
            self.assertEqual(small["memory_bytes"], 10 << 20)

    def test_windows(self):
        one = self.put("one.txt", self.docs[1])
        cut = self.run_json("--data", one, "-c", "64")
        whole = self.run_json("--data", one, "-c", "64", "--windows")
        self.assertEqual((cut["tokens"], cut["cut"], whole["cut"]), (63, 1, 1))
        ids = self.call("tokenize", self.model, "-p", self.docs[1].strip()).stdout.split()
        self.assertEqual(whole["tokens"], len(ids))

    def test_table(self):
        result = self.call("eval", self.model, "--data", self.text, "--max", "2")
        self.assertEqual((result.returncode, result.stderr), (0, b""))
        for word in ("perplexity", "nll per token", "tokens", "documents", "memory"):
            self.assertIn("\n" + word if word != "perplexity" else word, result.stdout.decode())

    def same_with_slots(self, model, *words):
        """Threads, how experts are read and the budget: the same bytes, the same answer."""
        found = []
        for more in (("-t", "1", "--io", "uring"), ("-t", "3", "--io", "pread"), ("-t", "2", "--memory", "300M")):
            result = self.good("eval", model, "--data", self.text, "--max", "2", "-c", "96", "--slots", "24", "--json",
                               *words, *more)
            found.append(json.loads(result.stdout))
        counts = [[f["ppl"], f["n_slots"], f["plan"]["n_batch"]] +
                  [f["stats"][k] for k in ("expert_bytes_read", "hits", "hinted_in_time", "missed", "hinted_unused")]
                  for f in found]
        self.assertEqual(counts[0][1], 24)
        self.assertEqual(counts[1:], 2 * counts[:1], words)
        return found[0]

    def test_same_slots_same_bytes(self):
        pregated = os.path.join(SOURCE, "models", "tinystories-moe-pregated.gguf")
        one = ("-b", "1")
        plain = self.same_with_slots(self.model, "--mode", "ondemand", *one)
        biased = self.same_with_slots(self.model, "--mode", "ondemand", "--cache-bias", "0.1", *one)
        self.assertLess(biased["bytes_read_per_token"], plain["bytes_read_per_token"])
        self.same_with_slots(self.model, "--mode", "ondemand")  # wider than the slots
        self.same_with_slots(self.model, "--mode", "lookahead", "--cache-bias", "0.1", *one)
        self.same_with_slots(self.model, "--mode", "ondemand", "--evict", "random", *one)
        self.same_with_slots(pregated, "--mode", "pregate", "--cache-bias", "0.1", *one)
        self.same_with_slots(pregated, "--mode", "pregate", "--cache-bias", "0.1")

    def test_routes_out(self):
        """A text at a time: its routes in its order, whatever is read with."""
        two = self.put("two.txt", "<|endoftext|>\n".join(self.docs[:2]))
        for name, more in (("a", ("-t", "1")), ("b", ("-t", "2", "--io", "pread")), ("c", ("-b", "8"))):
            found = self.run_json("--data", two, "-c", "40", "--slots", "24", "--mode", "ondemand", "-b", "1", *more,
                                  "--routes-out", self.path(name))
        self.assertEqual(self.bytes_of("a"), self.bytes_of("b"))
        lines = [[json.loads(x)["layers"] for x in self.bytes_of(n).splitlines()] for n in "ac"]
        self.assertEqual(len(lines[0]), found["tokens"])
        self.assertEqual(sorted(lines[0]), sorted(lines[1]))  # the same tokens, side by side

    # ------------------------------------------------------------ the other tasks

    def test_agree(self):
        words = ("--task", "agree", "--data", self.text, "--max", "3")
        early = self.run_json(*words)
        hint = self.run_json(*words, "--pregate", self.sidecar)
        self.assertEqual((early["mode"], hint["mode"]), ("lookahead", "hint"))
        self.assertEqual(early["blocks"], hint["blocks"])
        self.assertEqual([b["block"] for b in early["blocks"]], [1, 2, 3, 4, 5])
        for b in early["blocks"]:
            self.assertAlmostEqual(sum(b["precision"]) / 2, b["recall"], delta=1e-8)
            # Of two the whole set is right at least where neither could have been wrong.
            self.assertTrue(2 * b["recall"] - 1 <= b["set_right"] <= min(b["precision"]))
        mean = sum(b["recall"] for b in early["blocks"]) / 5
        self.assertAlmostEqual(early["mean"]["recall"], mean, delta=1e-8)
        mean = sum(b["set_right"] for b in early["blocks"]) / 5
        self.assertAlmostEqual(early["mean"]["set_right"], mean, delta=1e-8)
        far = self.run_json(*words, "--lookahead", "3")
        self.assertEqual([b["block"] for b in far["blocks"]], [3, 4, 5])

    def test_agree_extra(self):
        """Two more named: each rank that was there is as right as before, and more is found."""
        words = ("--task", "agree", "--data", self.text, "--max", "3")
        two, four = self.run_json(*words), self.run_json(*words, "--extra", "2")
        self.assertEqual((two["n_named"], four["n_named"], four["n_used"]), (2, 4, 2))
        for a, b in zip(two["blocks"], four["blocks"]):
            self.assertEqual(a["precision"], b["precision"][:2])
            self.assertAlmostEqual(sum(b["precision"]) / 2, b["recall"], delta=1e-8)
            self.assertGreater(b["set_right"], a["set_right"])
        table = self.call("eval", self.model, *words, "--extra", "1").stdout.decode().splitlines()
        self.assertIn("set right", table[0])
        self.assertEqual(len(table[1].split()), 4 + 3)

    def test_qa(self):
        qas = [{"question": "who?", "answers": [{"text": "a cat"}]},
               {"question": "why?", "answers": [], "is_impossible": True}]
        path = self.put("squad.json", json.dumps(
            {"data": [{"paragraphs": [{"context": "there was a cat.", "qas": qas}]}]}))
        found = self.run_json("--task", "qa", "--data", path)
        self.assertEqual((found["docs"], found["skipped"], found["cut"]), (1, 1, 0))
        self.assertTrue(0 <= found["exact_match"] <= found["f1"] <= 100)
        self.assertTrue(1 <= found["tokens"] <= 32)

    def predictions(self, task, text, *more):
        data = self.put("data", text)
        found = self.run_json("--task", task, "--data", data, "--predictions", self.path("said"), *more)
        return found, [json.loads(x) for x in self.bytes_of("said").splitlines()]

    def test_predictions(self):
        qas = [{"id": f"q{i}", "question": f"who is {i}?", "answers": [{"text": "a cat"}, {"text": t}]}
               for i, t in enumerate(("dog", "the", "\u00e9t\u00e9"))]
        data = {"data": [{"paragraphs": [{"context": "there was a cat.", "qas": qas}]}]}
        found, said = self.predictions("qa", json.dumps(data))
        self.assertEqual([(x["id"], x["question"], x["gold"]) for x in said],
                         [(q["id"], q["question"], [a["text"] for a in q["answers"]]) for q in qas])
        for key in "exact_match", "f1":
            self.assertAlmostEqual(100 * sum(x[key] for x in said) / 3, found[key], delta=1e-6)
        self.assertTrue(all(isinstance(x["answer"], str) for x in said))
        pairs = [{"source": f"a cat and {w}.", "target": ["cat", w]} for w in ("a dog", "a bird", "a tree", "a house")]
        found, said = self.predictions("summarize", "\n".join(map(json.dumps, pairs)), "-n", "9")
        self.assertEqual([(x["document"], x["gold"]) for x in said], [(p["source"], p["target"]) for p in pairs])
        for key in "rouge1", "rouge2", "rougeL":
            self.assertAlmostEqual(100 * sum(x[key] for x in said) / 4, found[key], delta=1e-6)
        self.bad(2, ["qa and summarize"], self.model, "--data", self.text, "--predictions", self.path("no"))
        self.assertFalse(os.path.exists(self.path("no")))
        self.bad(1, ["would be written"], self.model, "--task", "qa", "--data", self.path("data"), "--predictions",
                 self.path("data"))
        self.bad(1, ["written twice"], self.model, "--data", self.text, "--predictions", self.path("x"), "--routes-out",
                 self.path("x"))

    def test_what_would_do_nothing(self):
        for given in (["--n-predict", 5], ["--task", "qa", "--windows"], ["--mode", "ondemand", "--extra", 2],
                      ["--mode", "pregate", "--extra", 1], ["--mode", "hint", "--lookahead", 2]):
            self.bad(2, ["would do nothing"], self.model, "--data", self.text, *given)

    def test_where_output_goes(self):
        """A result does not replace the file that standard output is; nor /dev/stdout, which leads there."""
        os.symlink("/proc/self/fd/1", self.path("stdout"))
        for name in "said", "stdout":
            with open(self.path("said"), "wb") as said:
                done = self.call("eval", self.model, "--data", self.text, "--max", "1", "--routes-out", self.path(name), stdout=said)
            self.refused(done, 1, ["standard output goes there"])
        self.assertTrue(os.path.islink(self.path("stdout")))

    def test_nothing_left(self):
        """Gold and answer of which normalisation leaves nothing, by the rule of the data's version."""
        for version, f1 in (("1.1", 0), ("v2.0", 100), (None, 0)):
            qas = [{"question": "?", "answers": [{"text": "The"}]}]
            data = {"data": [{"paragraphs": [{"context": "The", "qas": qas}]}]}
            if version:
                data["version"] = version
            found, said = self.predictions("qa", json.dumps(data), "-n", "1")
            if said[0]["exact_match"] == 1:
                self.assertEqual(found["f1"], f1, version)

    def test_summarize(self):
        path = self.put("sum.jsonl", '{"source": ["a cat.", "a dog."], "target": ["cat and dog"]}\n')
        found = self.run_json("--task", "summarize", "--data", path, "-n", "9")
        self.assertTrue(0 <= found["rouge2"] <= found["rouge1"] <= 100)
        self.assertTrue(1 <= found["tokens"] <= 9)

    # ------------------------------------------------------------ refusals

    def test_pregated_model_is_as_good(self):
        """The two models of the repository, on stories that neither has learned from."""
        pregated = os.path.join(SOURCE, "models", "tinystories-moe-pregated.gguf")
        usual = self.run_json("--data", self.text, "--max", 40)
        result = self.call("eval", pregated, "--mode", "pregate", "--data", self.text, "--max", 40,
                           "--json")
        early = json.loads(result.stdout)
        self.assertEqual(early["mode"], "pregate")
        self.assertEqual(early["tokens"], usual["tokens"])
        self.assertLess(early["ppl"], 1.01 * usual["ppl"])

    def test_only_the_first_block_waits(self):
        """Where pre-gates decide, no expert is read on demand but those of the first block.
        (In the prompt's one step a block wants more than can be under way before it begins.)"""
        pregated = os.path.join(SOURCE, "models", "tinystories-moe-pregated.gguf")
        trace = os.path.join(self.dir, "trace.json")
        plan = self.call("plan", pregated, "--mode", "pregate", "-c", 256, "--memory", "400M",
                         "--no-measure", "--json")
        plan = json.loads(plan.stdout)
        run = self.call("run", pregated, "--mode", "pregate", "--memory", plan["minimum"] + 30 * plan["slot_bytes"],
                        "-c", 256, "-n", 64, "-p", "once upon a time", "--temp", 0, "--ignore-eos", "--json",
                        "--trace", trace)
        self.assertEqual(run.returncode, 0, run.stderr.decode())
        with open(trace, encoding="utf-8") as f:
            events = [e for e in json.load(f)["traceEvents"] if e["ph"] == "X"]
        steps = [e["ts"] for e in events if e["name"] == "attention" and e["args"]["block"] == 0]
        self.assertEqual(len(steps), 64)  # the prompt, and all tokens but the last
        of = {name: [e["args"]["block"] for e in events if e["name"] == name and e["ts"] > steps[1]]
              for name in ("demand", "hint")}
        self.assertEqual(set(of["demand"]), {0})
        self.assertEqual(set(of["hint"]), {1, 2, 3, 4, 5})

    def test_refusals(self):
        self.bad(2, ["--data"], self.model)
        self.bad(2, ["prl", "did you mean ppl?"], self.model, "--data", self.text, "--task", "prl")
        self.bad(1, ["none.txt"], self.model, "--data", "none.txt")
        self.bad(1, ["empty", "no text"], self.model, "--data", self.put("empty", ""))
        os.mkfifo(self.path("pipe"))
        for data, what in ("/dev/zero", "a device"), (self.dir, "a folder"), (self.path("pipe"), "a pipe"):
            for task in "ppl", "qa", "summarize":
                self.bad(1, [f"{data}: is {what}; a file is wanted"], self.model, "--task", task, "--data", data)
        self.bad(1, ["README.md", "JSON"], self.model, "--task", "qa", "--data",
                 os.path.join(SOURCE, "README.md"))
        self.bad(1, ["line[2]", "no target"], self.model, "--task", "summarize", "--data",
                 self.put("half", '{"source": "a", "target": "b"}\n{"source": "a"}\n'))
        self.bad(1, ["sidecar"], self.model, "--data", self.text, "--mode", "pregate")
        self.bad(1, ["lookahead", "ondemand"], self.model, "--data", self.text, "--task", "agree",
                 "--mode", "ondemand")
        unused = self.call("eval", self.model, "--data", self.text, "--max", "1", "--pregate",
                           self.sidecar)
        self.assertEqual(unused.returncode, 0)
        self.assertIn(b"does not use the pre-gates", unused.stderr)
        self.bad(1, ["minimum"], self.model, "--data", self.text, "--memory", "3M")


if __name__ == "__main__":
    main()
