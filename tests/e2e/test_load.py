#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""`pregate load` against a server that writes at known times, and against ones that go wrong in every way. What it
reports is computed again from the requests it wrote down, by other code."""
import json
import math
import signal
import socket
import subprocess
import time
import xml.etree.ElementTree

from common import PROGRAM, Case, main
from stub_server import WRONG, Stub

MASK = (1 << 64) - 1


def splitmix(state):
    """The documented generator of --seed: 64 bits each time."""
    while True:
        state = (state + 0x9E3779B97F4A7C15) & MASK
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        yield z ^ (z >> 31)


def nearest_rank(values, percent):
    return sorted(values)[max(math.ceil(len(values) * percent / 100), 1) - 1]


def fnv(text):
    h = 0xCBF29CE484222325
    for byte in text.encode():
        h = ((h ^ byte) * 0x100000001B3) & MASK
    return f"{h:016x}"


class Load(Case):
    def load(self, stub, *args, code=0):
        """The report, and the requests of all rows."""
        out = self.path("requests.jsonl")
        r = self.call("load", stub if isinstance(stub, str) else stub.url, *args, "--json", "--out", out)
        self.assertEqual(r.returncode, code, r.stderr.decode())
        with open(out, encoding="utf-8") as f:
            return json.loads(r.stdout), [json.loads(line) for line in f], r.stderr.decode()

    def same(self, summary, values):
        """That a summary in the report is the one of these nanoseconds."""
        values = [v / 1e9 for v in values]
        self.assertEqual(summary["n"], len(values))
        for percent in (5, 50, 90, 95, 99):
            self.assertAlmostEqual(summary[f"p{percent}"], nearest_rank(values, percent), delta=1e-8)
        mean = sum(values) / len(values)
        self.assertAlmostEqual(summary["mean"], mean, delta=1e-8)
        self.assertAlmostEqual(summary["max"], max(values), delta=1e-8)
        self.assertAlmostEqual(summary["min"], min(values), delta=1e-8)
        sd = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))
        self.assertAlmostEqual(summary["sd"], sd, delta=1e-8)

    def recount(self, row, requests):
        """A row of the report, from what was written of its requests."""
        done = [r for r in requests if r["cause"] == "done"]
        self.assertEqual((row["sent"], row["done"]), (len(requests), len(done)))
        self.same(row["first_token_seconds"], [r["first_ns"] - r["due_ns"] for r in done])
        self.same(row["gap_seconds"], [b - a for r in done for a, b in zip(r["piece_ns"], r["piece_ns"][1:])])
        self.same(row["request_seconds"], [r["end_ns"] - r["due_ns"] for r in done])
        self.assertEqual(row["tokens"], sum(r["tokens"] for r in done))
        self.assertEqual(row["pieces"], sum(len(r["piece_ns"]) for r in done))
        self.assertEqual(row["prompt_tokens"], sum(r["prompt_tokens"] for r in done))
        self.assertEqual(row["cached_tokens"], sum(r["cached_tokens"] for r in done))
        rates = [(r["tokens"] - 1) * 1e9 / (r["piece_ns"][-1] - r["first_ns"]) for r in done]
        for percent in (5, 50, 99):
            self.assertAlmostEqual(row["reply_tps"][f"p{percent}"] / nearest_rank(rates, percent), 1, delta=1e-7)
        for r in done:
            self.assertEqual(r["first_ns"], r["piece_ns"][0])
            self.assertTrue(0 <= r["due_ns"] <= r["sent_ns"] <= r["first_ns"] <= r["piece_ns"][-1] <= r["end_ns"])
            self.assertEqual(r["piece_ns"], sorted(r["piece_ns"]))

    def test_closed_loop(self):
        prompts = self.put("p.txt", "write 6 20 4\n\n   \nwrite 9 10 3\r\n")
        with Stub() as stub:
            report, requests, said = self.load(stub, "--prompts", prompts, "--clients", "3,1", "--requests", "10",
                                               "--metrics", "stub_bytes_total,stub_none_total", "-n", "8",
                                               "--warmup", "3", "--svg", self.path("x.svg"))
            self.assertEqual(len(stub.requests), 23)
            self.assertEqual(stub.most_busy, 3)
            self.assertLessEqual(stub.connections, 3 + 6)  # those of clients, and of files
        self.assertEqual([r["row"] for r in requests], 10 * [0] + 10 * [1])
        for i, row in enumerate(report["rows"]):
            mine = [r for r in requests if r["row"] == i]
            self.recount(row, mine)
            self.assertEqual(sorted(r["request"] for r in mine), list(range(10)))
            self.assertEqual(row["tokens"], 5 * 6 + 5 * 8)
            self.assertAlmostEqual(row["seconds"], max(r["end_ns"] for r in mine) / 1e9, delta=1e-8)
            self.assertAlmostEqual(row["tps"] * row["seconds"], 70, delta=1e-4)
            self.assertEqual(row["counters"]["stub_bytes_total"], {"difference": 700, "per_token": 10})
            self.assertIsNone(row["counters"]["stub_none_total"])
        self.assertIn("stub_none_total", said)
        for r in requests:  # a server that sleeps cannot be overtaken
            first, gap = ((20, 4), (10, 3))[r["prompt"]]
            n = len(r["piece_ns"])
            self.assertEqual(n, (6, 8)[r["prompt"]])
            self.assertGreater(r["end_ns"] - r["sent_ns"], 0.9e6 * (first + (n - 1) * gap))
            self.assertEqual(r["text_hash"], fnv("".join(f"t{i} " for i in range(n))))
        self.assertEqual(xml.etree.ElementTree.parse(self.path("x.svg")).getroot().tag[-3:], "svg")

    def test_open_loop(self):
        with Stub() as stub:
            report, requests, _ = self.load(stub, "-p", "write 2 300 30", "--rate", "90", "--duration", "0.5",
                                            "--seed", "5")
            self.assertGreater(stub.most_busy, 5)  # replies take longer than one arrival waits for the next
        due, at = [], 0.0
        for bits in splitmix(5):
            at -= math.log1p(-(bits >> 11) * 2.0 ** -53) / 90
            if at >= 0.5:
                break
            due.append(at)
        requests.sort(key=lambda r: r["request"])
        self.assertGreater(len(due), 20)
        self.assertEqual(len(due), len(requests))
        for want, r in zip(due, requests):
            self.assertAlmostEqual(r["due_ns"] / 1e9, want, delta=1e-8)
        row = report["rows"][0]
        self.recount(row, requests)
        self.assertEqual((row["rate"], row["seconds"]), (90, 0.5))
        self.assertEqual(row["late_seconds"]["n"], len(due))
        in_time = sum(r["tokens"] * sum(t < 5e8 for t in r["piece_ns"]) / len(r["piece_ns"]) for r in requests)
        self.assertAlmostEqual(row["tokens_in_time"], in_time, delta=1e-6)
        self.assertAlmostEqual(row["requests_per_second"], sum(r["end_ns"] < 5e8 for r in requests) / 0.5, delta=1e-6)
        self.assertLess(in_time, row["tokens"])

    def test_no_arrival(self):
        with Stub() as stub:
            report, requests, _ = self.load(stub, "-p", "x", "--rate", "0.001", "--duration", "0.1")
            self.assertEqual((stub.requests, requests), ([], []))
        row = report["rows"][0]
        self.assertEqual((row["sent"], row["request_seconds"], row["seconds"]), (0, {"n": 0}, 0.1))

    def test_requests_as_asked(self):
        lines = [{"prompt": "write 1 0 0", "max_tokens": 5, "other": 1},
                 {"messages": [{"role": "system", "content": "Be."}, {"role": "user", "content": "write 1 1 1"}]}]
        prompts = self.put("p.jsonl", "\n" + "\n".join(map(json.dumps, lines)))
        key = self.put("key", "s3cret\nnot this\n")
        with Stub() as stub:
            self.load(stub.url + "/a/v1/", "--prompts", prompts, "--requests", "2", "--api-key", key)
            self.load(stub, "-p", "write 1 0 0", "--requests", "1", "--completions", "--temp", "0.5", "--seed", "9",
                      "--ignore-eos", "--model", "big", "-n", "3")
            (path, headers, one), (_, _, two), (path3, headers3, three) = stub.requests
        self.assertEqual((path, path3), ("/a/v1/chat/completions", "/v1/completions"))
        self.assertEqual((headers["authorization"], headers3.get("authorization")), ("Bearer s3cret", None))
        self.assertEqual(headers["host"], stub.url[7:])
        streamed = {"stream": True, "stream_options": {"include_usage": True}}
        self.assertEqual(one, {"model": "stub-model", "max_tokens": 5, **streamed,
                               "messages": [{"role": "user", "content": "write 1 0 0"}]})
        self.assertEqual(two, {"model": "stub-model", "max_tokens": 128, **streamed, "messages": lines[1]["messages"]})
        self.assertEqual(three, {"model": "big", "max_tokens": 3, "prompt": "write 1 0 0", "temperature": 0.5,
                                 "seed": 9, "ignore_eos": True, **streamed})

    def test_order_of_prompts(self):
        prompts = self.put("p.txt", "".join(f"write 1 0 0 no{i}\n" for i in range(12)))
        orders = []
        with Stub() as stub:
            for args in ([], ["--shuffle"], ["--shuffle", "--seed", "1"], ["--shuffle", "--seed", "2"]):
                _, requests, _ = self.load(stub, "--prompts", prompts, "--requests", "24", *args)
                orders.append([r["prompt"] for r in requests])
        plain, first, again, other = orders
        self.assertEqual(plain, 2 * list(range(12)))
        self.assertEqual(first, again)
        for order in (first, other):
            self.assertEqual((sorted(order[:12]), sorted(order[12:])), 2 * (list(range(12)),))
        self.assertEqual(len({str(o) for o in (plain[:12], first[:12], first[12:], other[:12])}), 4)

    def test_kinds_of_replies(self):
        with Stub() as stub:
            report, requests, _ = self.load(stub, "-p", "write 4 1 1 pairs", "--requests", "2")
            self.recount(report["rows"][0], requests)
            self.assertEqual((report["rows"][0]["tokens"], report["rows"][0]["pieces"]), (16, 8))
            report, _, _ = self.load(stub, "-p", "write 4 1 1 no-usage", "--requests", "2")
            self.assertEqual((report["rows"][0]["tokens"], report["rows"][0]["without_usage"]), (8, 2))
            self.assertIsNone(report["rows"][0]["cached_tokens"])
            report, _, _ = self.load(stub, "-p", "write 0 0 0", "--requests", "2")
            self.assertEqual((report["rows"][0]["done"], report["rows"][0]["without_text"]), (2, 2))
            before = stub.connections
            self.load(stub, "-p", "write 1 0 0 hang-up", "--requests", "5")
            self.load(stub, "-p", "write 1 0 0 until-close", "--requests", "5")
            # [DONE] is the end; the client then waits a moment for that of the HTTP reply.
            _, (one, two), _ = self.load(stub, "-p", "write 1 0 0 no-end", "--requests", "2")
            self.assertGreater(two["sent_ns"] - one["end_ns"], 0.24e9)
            self.assertGreaterEqual(stub.connections - before, 12)
            text = self.good("load", stub.url, "-p", "write 4 1 1 pairs", "--requests", "2").stdout.decode()
        self.assertIn("16 tokens came in 8 pieces", text)
        self.assertIn("2 requests were sent of 1 prompts", text)

    CAUSES = {"cut": "cut", "no-done": "cut", "cut-chunk": "cut", "gone": "cut", "not-json": "sse", "not-chunk": "sse",
              "bad-usage": "sse", "huge-usage": "sse", "no-stream": "sse", "huge-event": "sse", "deep": "sse",
              "error-event": "error", "busy": "status", "plain-500": "status", "long-500": "status"}
    ENDLESS = ["silence", "slow-death", "endless"]

    def test_failures(self):
        """Each way to go wrong once; all other requests are as good as ever."""
        names = [name for name in WRONG if name not in self.ENDLESS]
        prompts = self.put("p.txt", "".join(f"{name}\nwrite 3 1 1\n" for name in names))
        n = len(names)
        with Stub() as stub:
            report, requests, said = self.load(stub, "--prompts", prompts, "--requests", 2 * n, "--clients", n,
                                               "--svg", self.path("x.svg"), code=1)
        row = report["rows"][0]
        self.assertEqual((row["sent"], row["done"], row["failed"]), (2 * n, n, n))
        want = {}
        for r in requests:
            name = names[r["prompt"] // 2]
            cause = "done" if r["prompt"] % 2 else self.CAUSES.get(name, "http")
            self.assertEqual(r["cause"], cause, (name, r))
            want[cause] = want.get(cause, 0) + 1
            if cause != "done":
                self.assertTrue(r["said"], name)
        want.pop("done")
        self.assertEqual({k: v["n"] for k, v in row["failures"].items()}, want)
        self.assertEqual((row["failures"]["status"]["503"], row["failures"]["status"]["500"]), (1, 2))
        self.assertIn("disk  [31mon fire", row["failures"]["error"]["first"])
        self.assertIn(f"{n} of {2 * n} requests FAILED", said)
        self.assertIn("some requests failed", self.bytes_of("x.svg").decode())
        self.assertEqual(row["request_seconds"]["n"], n)

    def test_timeouts(self):
        prompts = self.put("p.txt", "\n".join(self.ENDLESS))
        with Stub() as stub:
            report, requests, _ = self.load(stub, "--prompts", prompts, "--requests", "3", "--clients", "3",
                                            "--timeout", "0.4", code=1)
        self.assertEqual(report["rows"][0]["failures"], {"timeout": {"n": 3, "first": "no end within 0.4 s"}})
        for r in requests:
            self.assertGreater(r["end_ns"] - r["sent_ns"], 0.39e9)
            self.assertEqual(len(r["piece_ns"]), r["prompt"] == 1)

    def test_server_that_goes(self):
        with Stub() as stub:
            url = stub.url
            self.refused(self.call("load", url, "-p", "busy", "--warmup", "2", "--requests", "1"), 1,
                         ["warm-up failed", "too many waiting"])
        self.refused(self.call("load", url, "-p", "x", "--requests", "1"), 1, ["no connection"])
        with socket.create_server(("127.0.0.1", 0)) as s:  # takes one connection, and is gone
            args = ["load", f"http://127.0.0.1:{s.getsockname()[1]}", "-p", "x", "--model", "m", "--clients", "2",
                    "--duration", "0.3", "--json", "--timeout", "1"]
            with subprocess.Popen([PROGRAM, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as p:
                s.accept()[0].close()
                s.close()
                row = json.loads(p.communicate()[0])["rows"][0]
        self.assertEqual(p.returncode, 1)
        self.assertGreaterEqual(row["failed"], 2)
        self.assertLess(row["failed"], 30)  # it was not hammered

    def test_interrupted(self):
        with Stub() as stub:
            args = ["load", stub.url, "-p", "write 100 1 20", "--clients", "2,4", "--json"]
            with subprocess.Popen([PROGRAM, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as p:
                while stub.busy < 2:
                    time.sleep(0.01)
                p.send_signal(signal.SIGINT)
                out, _ = p.communicate()
        self.assertEqual(p.returncode, 130)
        rows = json.loads(out)["rows"]
        self.assertEqual(len(rows), 1)
        self.assertEqual((rows[0]["interrupted"], rows[0]["cancelled"], rows[0]["failed"]), (True, 2, 0))

    def test_usage(self):
        good = ["load", "http://127.0.0.1:1", "-p", "x"]
        for words, *args in [
                (["TLS", "proxy"], "load", "https://example.org", "-p", "x"),
                (["http://"], "load", "ftp://example.org", "-p", "x"),
                (["host"], "load", "http://:80", "-p", "x"), (["port"], "load", "http://a:b", "-p", "x"),
                (["port"], "load", "http://a:70000", "-p", "x"), (["user"], "load", "http://u:p@a", "-p", "x"),
                (["blank"], "load", "http://a/\r\nX: y", "-p", "x"), (["?"], "load", "http://a/?q", "-p", "x"),
                (["["], "load", "http://[::1", "-p", "x"), (["-p"], "load", "http://a"),
                (["-p"], *good, "--prompts", "f"), (["clients", "rate"], *good, "--clients", "1", "--rate", "1"),
                (["clients", "0"], *good, "--clients", "0"), (["clients"], *good, "--clients", "1,,2"),
                (["clients"], *good, "--clients", "1.5"), (["rate"], *good, "--rate", "0"),
                (["rate", "nan"], *good, "--rate", "nan"), (["duration"], *good, "--duration", "1", "--requests", "1"),
                (["chat"], *good, "--chat", "--completions"), (["metrics"], *good, "--metrics", "a,,b"),
                (["out"], *good, "--out", "-")]:
            self.refused(self.call(*args), 2, words)
        for content, words in [("", ["no prompt"]), (" \n\t\n", ["no prompt"]), ('{"prompt": 1}', [":1:"]),
                               ('{"prompt": "a"}\n{"prompt": "b", "messages": []}', [":2:"]),
                               ('{"prompt": "a"}\nb', [":2:"]),
                               ('{"prompt": "a", "max_tokens": 0}', [":1:", "max_tokens"]), (b"\xff\xfe", ["UTF-8"]),
                               (b'{"prompt": "a\xff"}', [":1:"])]:
            with self.subTest(content), Stub() as stub:
                self.refused(self.call("load", stub.url, "--prompts", self.put("p", content)), 1, words)
                self.assertEqual(stub.requests, [])
        with Stub() as stub:
            for key in ("", "a b", "x\x01", 600 * "k"):
                self.refused(self.call("load", stub.url, "-p", "x", "--api-key", self.put("k", key)), 1, ["key"])
            same = self.put("p", "write 1 0 0")
            self.refused(self.call("load", stub.url, "--prompts", same, "--out", same), 1, ["input"])


if __name__ == "__main__":
    main()
