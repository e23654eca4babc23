#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Models with an encoder, and beam search, from outside."""
import json
import math
import os
import struct

import tiny_model
from common import MIB, SOURCE, TRAINED, Case, main

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
                (1, ["routes"], ("run", self.tiny, "-p", "a", "-n", "1", "--routes-out", out)),
                (1, ["encoder"], ("eval", self.tiny, "--data", os.path.join(SOURCE, "README.md"))),
                (1, ["encoder"], ("tune", self.tiny, "--data", os.path.join(SOURCE, "README.md"), "-o", out)),
                (1, ["encoder"], ("train", self.tiny, "--data", os.path.join(SOURCE, "README.md"), "-o", out))):
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

    def test_bench_in_all_modes(self):
        sidecar = self.path("s.gguf")
        self.good("sidecar", self.tiny, "-o", sidecar)
        found = json.loads(self.good("bench", self.tiny, "-p", "24", "-n", "6", "-r", "1", "--memory", f"{96 * MIB}",
                                     "--pregate", sidecar, "-o", "json").stdout)
        self.assertEqual(len(found["rows"]), 6)
        for row in found["rows"]:
            self.assertNotIn("error", row)
            self.assertGreater(row["expert_requests"], 0)

    def bench_rows(self, *more):
        rows = json.loads(self.good("bench", self.tiny, "-p", "24", "-n", "6", "-r", "1", "--source", "24", "-b", "64", "--no-measure",
                                    "-o", "json", *more).stdout)["rows"]
        for row in rows:
            self.assertNotIn("error", row)
        return rows

    def test_texts_side_by_side_are_the_same_in_all_exact_modes_and_slots(self):
        sidecar = self.path("s.gguf")
        self.good("sidecar", self.tiny, "-o", sidecar)
        seen = set()
        for n in (1, 8, 64):
            def hashes(slots, modes, n=n):
                return {row["repetitions"][0]["tokens_hash"]
                        for row in self.bench_rows("--pregate", sidecar, "--parallel", n, "--slots", slots, "--modes", modes)}
            routers = hashes(3, "ondemand,prefetch-all,lookahead") | hashes(32, "resident,ondemand")
            gates = hashes(2, "pregate") | hashes(32, "pregate")
            self.assertEqual((len(routers), len(gates)), (1, 1), n)
            seen |= routers | gates
        self.assertEqual(len(seen), 6)  # other texts, and gates that decide otherwise: the number can differ

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
