#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""pregate serve from outside: what clients of each interface get, and what those get who mean harm.

The cases C and F of hostile input: bodies, heads and JSON of every broken kind, slow and vanishing clients, keys, pages,
signals.
"""
import json
import os
import random
import re
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import unittest

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from http_client import HELLO, TEMPLATE, Answer, Server, read_all  # noqa: E402
from common import SANITIZED, TRAINED, Case, main  # noqa: E402


def text_of(answer):
    return answer.json["choices"][0]["message"]["content"]


def joined(chunks, key="content"):
    return "".join(c["choices"][0]["delta"].get(key) or "" for c in chunks if c["choices"])


class Slow:
    """A server that waits from the beginning of all tests for heads that do not end; looked at last."""

    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix="pregate-test-")
        self.server = Server(self.folder)
        self.since = time.monotonic()
        self.clients = []
        for data in (b"", b"GET /health HTTP/1.1\r\nHost: 127", self.server.head("GET", "/health")[:-2]):
            self.clients.append(self.server.connect(30))
            self.clients[-1].sendall(data)

    def close(self):
        code = self.server.stop()
        shutil.rmtree(self.folder)
        assert code == 0, code


def setUpModule():
    global slow
    slow = Slow()
    unittest.addModuleCleanup(slow.close)


class Shared(Case):
    """Tests that leave the server as it was share one."""
    OPTIONS = ()

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.server = Server(cls.folder, *cls.OPTIONS)
        cls.addClassCleanup(cls.stop_server)

    @classmethod
    def stop_server(cls):
        code = cls.server.stop()
        assert code == 0, (code, cls.server.log())

    def alive(self):
        self.assertEqual(self.server.get("/health").status, 200)


class OpenAI(Shared):
    def test_models_and_state(self):
        s = self.server
        models = s.get("/v1/models").json["data"]
        self.assertEqual([m["id"] for m in models], ["tinystories-moe"])
        self.assertEqual(s.get("/v1/models/tinystories-moe").json["id"], "tinystories-moe")
        self.assertEqual(s.get("/v1/models/another").status, 404)
        self.assertEqual(s.get("/health").json, {"status": "ok"})
        self.assertEqual(s.get("/v1/health").json, {"status": "ok"})
        props = s.get("/props").json
        self.assertEqual((props["total_slots"], props["default_generation_settings"]["n_ctx"]), (4, 256))
        self.assertIn("im_start", props["chat_template"])
        self.assertEqual(len(s.get("/slots").json), 4)
        self.assertEqual(s.post("/v1/embeddings", {"input": "a"}).status, 501)
        e = s.get("/experts").json
        self.assertRegex(e["state"], rf"^[0-7]{{{e['n_layer'] * e['n_expert']}}}$")
        self.assertEqual(e["memory"]["budget"], s.metric("memory_budget_bytes"))

    def test_chat(self):
        a = self.server.chat()
        j = a.json
        self.assertEqual((a.status, j["object"], j["choices"][0]["finish_reason"]), (200, "chat.completion", "length"))
        self.assertEqual(set(j["choices"][0]), {"index", "message", "logprobs", "finish_reason"})
        self.assertEqual(j["choices"][0]["message"]["role"], "assistant")
        self.assertEqual(j["usage"]["completion_tokens"], 12)
        self.assertEqual(j["usage"]["total_tokens"], 12 + j["usage"]["prompt_tokens"])
        self.assertLessEqual({"cache_n", "prompt_n", "prompt_ms", "predicted_n", "predicted_per_second"}, set(j["timings"]))
        again = self.server.chat().json
        self.assertEqual(again["choices"], j["choices"])
        self.assertGreater(again["usage"]["prompt_tokens_details"]["cached_tokens"], 0)
        fresh = self.server.chat(cache_prompt=False).json
        self.assertEqual((fresh["choices"], fresh["usage"]["prompt_tokens_details"]["cached_tokens"]), (j["choices"], 0))

    def test_chat_stream(self):
        whole = text_of(self.server.chat(max_tokens=40))
        a = self.server.chat(max_tokens=40, stream=True, stream_options={"include_usage": True})
        self.assertTrue(a.headers["content-type"].startswith("text/event-stream") and a.whole)
        self.assertEqual(a.events()[-1][1], "[DONE]")
        chunks = a.chunks()
        self.assertEqual(joined(chunks), whole)
        self.assertEqual(len({c["id"] for c in chunks}), 1)
        self.assertEqual(chunks[0]["choices"][0]["delta"]["role"], "assistant")
        self.assertFalse(any("role" in c["choices"][0]["delta"] for c in chunks[1:-1]))
        self.assertEqual([c["choices"][0]["finish_reason"] for c in chunks[:-1]], [None] * (len(chunks) - 2) + ["length"])
        self.assertEqual((chunks[-1]["choices"], chunks[-1]["usage"]["completion_tokens"]), ([], 40))
        self.assertFalse(any("usage" in c for c in self.server.chat(stream=True).chunks()))

    def test_stream_extras(self):
        chunks = self.server.chat(stream=True, return_progress=True, timings_per_token=True, cache_prompt=False).chunks()
        progress = [c["prompt_progress"] for c in chunks if "prompt_progress" in c]
        self.assertEqual(set(progress[0]), {"total", "cache", "processed", "time_ms"})
        self.assertEqual(progress[-1]["processed"], progress[-1]["total"])
        self.assertTrue(all("timings" in c for c in chunks if joined([c])))

    def test_choices(self):
        j = self.server.chat(n=3).json
        self.assertEqual([c["index"] for c in j["choices"]], [0, 1, 2])
        self.assertEqual(len({c["message"]["content"] for c in j["choices"]}), 1)
        self.assertEqual(j["usage"]["completion_tokens"], 36)
        hot = self.server.chat(n=4, temperature=1.5, seed=7, max_tokens=20).json["choices"]
        self.assertGreater(len({c["message"]["content"] for c in hot}), 1)
        self.assertEqual(hot, self.server.chat(n=4, temperature=1.5, seed=7, max_tokens=20).json["choices"])
        by_index = {}
        for c in self.server.chat(n=2, stream=True).chunks():
            by_index.setdefault(c["choices"][0]["index"], []).append(c)
        self.assertEqual(joined(by_index[0]), joined(by_index[1]))

    def test_logprobs(self):
        j = self.server.chat(logprobs=True, top_logprobs=3, max_tokens=5).json["choices"][0]
        tokens = j["logprobs"]["content"]
        self.assertEqual(len(tokens), 5)
        for t in tokens:
            self.assertEqual(len(t["top_logprobs"]), 3)
            self.assertAlmostEqual(t["logprob"], t["top_logprobs"][0]["logprob"], 5)
            if t["bytes"] is not None:
                self.assertEqual(bytes(t["bytes"]).decode("utf-8", "replace"), t["token"])
        streamed = [t for c in self.server.chat(logprobs=True, top_logprobs=3, max_tokens=5, stream=True).chunks()
                    for t in (c["choices"][0]["logprobs"] or {}).get("content", [])]
        self.assertEqual(streamed, tokens)
        old = self.server.complete(logprobs=2, max_tokens=4).json["choices"][0]
        self.assertEqual("".join(old["logprobs"]["tokens"]), old["text"])
        self.assertEqual(len(old["logprobs"]["top_logprobs"][0]), 2)

    def test_completions(self):
        s = self.server
        text = s.complete().json["choices"][0]["text"]
        ids = s.post("/tokenize", {"content": "Once upon a time", "add_special": True}).json["tokens"]
        self.assertEqual(s.complete(ids).json["choices"][0]["text"], text)
        two = s.complete(["Once upon a time", "The dog"]).json["choices"]
        self.assertEqual((two[0]["text"], [c["index"] for c in two]), (text, [0, 1]))
        self.assertEqual(s.complete([ids, ids], n=2).json["choices"][3]["text"], text)
        self.assertEqual(s.complete(echo=True).json["choices"][0]["text"], "Once upon a time" + text)
        self.assertEqual("".join(c["choices"][0]["text"] for c in s.complete(echo=True, stream=True).chunks()),
                         "Once upon a time" + text)
        self.assertEqual(s.post("/v1/completions", {"prompt": "Once"}).json["usage"]["completion_tokens"], 16)
        native = s.post("/completion", {"prompt": "Once upon a time", "n_predict": 12, "temperature": 0}).json
        self.assertEqual((native["content"], native["stop_type"], native["tokens_predicted"]), (text, "limit", 12))

    def test_text_and_tokens(self):
        s = self.server
        text = "Hello é€😀 world"
        pieces = s.post("/tokenize", {"content": text, "with_pieces": True}).json["tokens"]
        ids = [p["id"] for p in pieces]
        self.assertEqual(s.post("/tokenize", {"content": text}).json["tokens"], ids)
        self.assertEqual(s.post("/detokenize", {"tokens": ids}).json["content"].strip(), text)
        prompt = s.post("/apply-template", {"messages": HELLO}).json["prompt"]
        self.assertEqual(prompt, "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n")

    def test_stop_strings(self):
        """Cut anywhere in the text, also in the middle of tokens and across them; nothing of it is seen, in pieces
        or whole."""
        s, r = self.server, random.Random(5)
        whole = s.complete(max_tokens=60).json["choices"][0]["text"]
        for _ in range(12):
            at = r.randrange(1, len(whole) - 12)
            stop = whole[at:at + r.randrange(1, 12)]
            want = whole[:whole.index(stop)]
            j = s.complete(max_tokens=60, stop=["never there", stop]).json["choices"][0]
            self.assertEqual((j["text"], j["finish_reason"]), (want, "stop"), stop)
            chunks = s.complete(max_tokens=60, stop=stop, stream=True).chunks()
            self.assertEqual("".join(c["choices"][0]["text"] for c in chunks), want)
        near = s.complete(max_tokens=20, stop=[whole[:5] + "?", whole[40:44] + "?"]).json["choices"][0]
        self.assertEqual(near["text"], s.complete(max_tokens=20).json["choices"][0]["text"])
        native = s.post("/completion", {"prompt": "Once upon a time", "n_predict": 60, "temperature": 0, "stop": [whole[20:24]]})
        self.assertEqual((native.json["stop_type"], native.json["stopping_word"]), ("word", whole[20:24]))
        for stop in ("", [], ["", ""]):
            self.assertEqual(s.complete(max_tokens=20, stop=stop).json["choices"][0]["text"], near["text"], stop)
        self.assertEqual(s.complete(max_tokens=60, stop=["", whole[20:24]]).json["choices"][0]["finish_reason"], "stop")

    def test_grammars(self):
        """Answers keep to their form, and no chunk ends inside of a character."""
        s = self.server
        for stream in (False, True):
            a = s.complete(grammar="root ::= \"é€😀\"+", max_tokens=30, ignore_eos=True, stream=stream)
            pieces = [c["choices"][0]["text"] for c in (a.chunks() if stream else [a.json])]
            text = "".join(pieces)
            self.assertTrue("é€😀" * 9 == text[:27] or ("é€😀" * 9).startswith(text.rstrip("\ufffd")), text)
        schema = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"enum": ["x", "y"]}}, "required": ["a", "b"],
                  "additionalProperties": False}
        form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
        found = json.loads(text_of(s.chat(response_format=form, max_tokens=150)))
        self.assertTrue(isinstance(found["a"], int) and found["b"] in ("x", "y"), found)
        same = s.post("/api/chat", {"messages": HELLO, "stream": False, "format": schema, "options": {"num_predict": 150}})
        self.assertIn(json.loads(same.json["message"]["content"])["b"], ("x", "y"))
        for wrong in ({"grammar": "root ::= ("}, {"grammar": "a ::= \"b\""}, {"json_schema": {"type": "nonsense"}},
                      {"grammar": "root ::= \"a\"", "json_schema": schema}, {"grammar": "x" * 300000},
                      {"grammar": "root ::= " + "(" * 60000 + "\"a\"" + ")" * 60000}):
            self.assertEqual(s.chat(**wrong).status, 400, str(wrong)[:80])
        self.alive()

    def test_bias(self):
        s = self.server
        first = s.complete(logprobs=1, max_tokens=1).json["choices"][0]["text"]
        token = s.post("/tokenize", {"content": "a" + first}).json["tokens"][-1]
        other = s.complete(logit_bias={str(token): -100}, max_tokens=1).json["choices"][0]["text"]
        self.assertNotEqual(first, other)
        self.assertEqual(s.complete(logit_bias=[[token, False]], max_tokens=1).json["choices"][0]["text"], other)
        forced = s.post("/tokenize", {"content": "a b"}).json["tokens"][-1]
        self.assertEqual(len(set(s.complete(logit_bias={str(forced): 100}, max_tokens=5).json["choices"][0]["text"].split())), 1)

    def test_nothing_may_come(self):
        """A request that leaves no token to choose ends alone."""
        s = self.server
        alone = s.complete(max_tokens=60).json["choices"]
        beside = s.begin("/v1/completions", {"prompt": "Once upon a time", "temperature": 0, "max_tokens": 60})
        a = s.complete(logit_bias=[[i, False] for i in range(512)])
        self.assertGreaterEqual(a.status, 400, a.body)
        self.assertEqual(Answer(read_all(beside)).json["choices"], alone)
        beside.close()
        self.alive()

    def test_calls(self):
        """A call that is insisted on comes, in each interface, whole and in pieces."""
        s = self.server
        parameters = {"type": "object", "properties": {"city": {"enum": ["Rome", "Oslo"]}}, "required": ["city"],
                      "additionalProperties": False}
        tools = [{"type": "function", "function": {"name": n, "parameters": parameters}} for n in ("weather", "time")]
        named = {"type": "function", "function": {"name": "time"}}
        for choice in ("required", named):
            j = s.chat(tools=tools, tool_choice=choice, max_tokens=180).json["choices"][0]
            call = j["message"]["tool_calls"][0]
            self.assertEqual((j["finish_reason"], j["message"]["content"], call["type"]), ("tool_calls", None, "function"))
            self.assertIn(call["function"]["name"], ("weather", "time") if choice == "required" else ("time",))
            self.assertIn(json.loads(call["function"]["arguments"])["city"], ("Rome", "Oslo"))
            deltas = [c["choices"][0]["delta"]["tool_calls"][0]
                      for c in s.chat(tools=tools, tool_choice=choice, max_tokens=180, stream=True).chunks()
                      if c["choices"][0]["delta"].get("tool_calls")]
            self.assertEqual([d["function"]["name"] for d in deltas if "name" in d["function"]], [call["function"]["name"]])
            self.assertTrue(deltas[0]["id"] and not any("id" in d for d in deltas[1:]))
            self.assertEqual("".join(d["function"]["arguments"] for d in deltas), call["function"]["arguments"])
        mine = [{"name": "time", "input_schema": parameters}]
        body = {"messages": HELLO, "max_tokens": 180, "temperature": 0, "tools": mine, "tool_choice": {"type": "any"}}
        j = s.post("/v1/messages", body).json
        self.assertEqual((j["stop_reason"], j["content"][0]["type"], j["content"][0]["name"]), ("tool_use", "tool_use", "time"))
        events = s.post("/v1/messages", {**body, "stream": True}).events()
        part = "".join(d["delta"]["partial_json"] for n, d in events if n == "content_block_delta")
        self.assertEqual(json.loads(part), j["content"][0]["input"])
        flat = [{"type": "function", "name": "time", "parameters": parameters}]
        body = {"input": "Hello", "max_output_tokens": 180, "temperature": 0, "tools": flat, "tool_choice": "required"}
        item = s.post("/v1/responses", body).json["output"][0]
        self.assertEqual((item["type"], item["name"]), ("function_call", "time"))
        events = s.post("/v1/responses", {**body, "stream": True}).events()
        names = [n for n, _ in events]
        self.assertEqual(names[-3:], ["response.function_call_arguments.done", "response.output_item.done", "response.completed"])
        self.assertEqual("".join(d["delta"] for n, d in events if n == "response.function_call_arguments.delta"), item["arguments"])

    def test_messages(self):
        """What may stand in a conversation, and what prompt comes of it."""
        def prompt(messages, **more):
            a = self.server.post("/apply-template", {"messages": messages, **more})
            return a.json["prompt"] if a.status == 200 else a.error["param"]
        turn = "<|im_start|>{}\n{}<|im_end|>\n".format
        end = "<|im_start|>assistant\n"
        user = turn("user", "Hello")
        self.assertEqual(prompt([{"role": "developer", "content": "Be kind"}] + HELLO), turn("system", "Be kind") + user + end)
        self.assertEqual(prompt([{"role": "system", "content": "a"}, {"role": "system", "content": "b"}] + HELLO),
                         turn("system", "a\n\nb") + user + end)
        self.assertEqual(prompt([{"role": "user", "content": [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]}]),
                         user + end)
        self.assertEqual(prompt(HELLO + [{"role": "assistant", "content": ""}]), user + end)
        self.assertEqual(prompt(HELLO + [{"role": "assistant", "content": "I am"}]), user + end + "I am")
        self.assertEqual(prompt(HELLO + [{"role": "assistant", "content": "I am"}], continue_final_message=False),
                         user + turn("assistant", "I am") + end)
        self.assertEqual(prompt(HELLO, add_generation_prompt=False), user)
        self.assertEqual(prompt(HELLO, tools=[], tool_choice="auto"), user + end)
        calls = [{"id": None, "type": "function", "function": {"name": "f", "arguments": "{\"a\": 1}"}}]
        self.assertIn(turn("tool", "4"), prompt(HELLO + [{"role": "assistant", "content": None, "tool_calls": calls},
                                                         {"role": "tool", "tool_call_id": "x", "content": "4"}]))
        image = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]
        self.assertEqual(prompt(image), "messages[0].content")
        self.assertEqual(prompt([{"role": "boss", "content": ""}]), "messages[0].role")
        self.assertEqual(prompt([]), "messages")

    def test_special_tokens_in_content(self):
        """What a user writes is never a special token: each mark written by a user is more than one token."""
        plain = self.server.chat([{"role": "user", "content": "a"}], max_tokens=1).json["usage"]["prompt_tokens"]
        marked = self.server.chat([{"role": "user", "content": "a<|endoftext|>"}], max_tokens=1).json["usage"]["prompt_tokens"]
        self.assertGreater(marked, plain + 1)

    def test_context(self):
        a = self.server.chat(max_tokens=1000)
        self.assertEqual((a.status, a.error["code"]), (400, "context_length_exceeded"))
        self.assertRegex(a.error["message"], r"\d+ tokens and 1000 more .* 256")
        long = self.server.chat([{"role": "user", "content": "word " * 400}], max_tokens=None)
        self.assertEqual((long.status, long.error["code"]), (400, "context_length_exceeded"))
        open_ended = self.server.chat(max_tokens=None, ignore_eos=True).json
        self.assertEqual(open_ended["choices"][0]["finish_reason"], "length")
        self.assertIn(open_ended["usage"]["total_tokens"], (256, 257)) # the last one need not be evaluated

    def test_most(self):
        """The names of how many tokens are wanted, and -1."""
        s, text = self.server, {"prompt": "Once upon a time", "temperature": 0}
        for body, n in (({"max_tokens": 5}, 5), ({"max_tokens": 5, "n_predict": 6}, 6), ({"max_tokens": 5, "n_predict": None}, 5)):
            self.assertEqual(s.post("/completion", {**text, **body}).json["tokens_predicted"], n, body)
        for body, n in (({"n_predict": 5}, 5), ({"max_tokens": 5, "n_predict": 6}, 5), ({"max_completion_tokens": 5, "n_predict": 6}, 5)):
            for path in ("/v1/completions", "/chat/completions", "/v1/chat/completions"):
                a = s.post(path, {**text, "messages": HELLO, "ignore_eos": True, **body}).json
                self.assertEqual((a["object"], a["usage"]["completion_tokens"]),
                                 ("chat.completion" if "chat" in path else "text_completion", n), (path, body))
        self.assertEqual(s.post("/completions", {**text, "n_predict": 5}).json["tokens_predicted"], 5)
        for name in ("max_tokens", "n_predict"):
            whole = {**text, "messages": HELLO, "ignore_eos": True, name: -1}
            self.assertEqual(s.post("/completion", whole).json["stop_type"], "limit")
            for path in ("/v1/completions", "/v1/chat/completions"):
                self.assertGreater(s.post(path, whole).json["usage"]["total_tokens"], 250, (path, name))

    def test_page(self):
        a = self.server.get("/")
        self.assertEqual((a.status, a.headers["content-type"]), (200, "text/html; charset=utf-8"))
        self.assertIn("default-src 'none'", a.headers["content-security-policy"])
        self.assertNotIn("unsafe", a.headers["content-security-policy"])
        for path in ("/page/none.html", "/page/", "/page/../index.html"):
            self.assertEqual(self.server.get(path).status, 404, path)

    def test_experts_stream(self):
        with self.server.connect() as s:
            s.sendall(self.server.head("GET", "/experts/stream"))
            data, start = b"", time.monotonic()
            while data.count(b"data: ") < 3:
                data += s.recv(65536)
            self.assertGreater(time.monotonic() - start, 0.3)
        lookers = [self.server.connect() for _ in range(17)]
        for s in lookers:
            s.sendall(self.server.head("GET", "/experts/stream"))
        codes = [Answer(s.recv(4096)).status for s in lookers]
        for s in lookers:
            s.close()
        self.assertEqual((codes.count(200), codes.count(503)), (16, 1))


class Others(Shared):
    """The interfaces of others."""

    def test_anthropic(self):
        s = self.server
        body = {"messages": HELLO, "max_tokens": 8, "temperature": 0}
        j = s.post("/v1/messages", body).json
        self.assertEqual((j["type"], j["role"], j["stop_reason"]), ("message", "assistant", "max_tokens"))
        self.assertEqual([b["type"] for b in j["content"]], ["text"])
        events = s.post("/v1/messages", {**body, "stream": True}).events()
        names = [n for n, _ in events]
        self.assertEqual([names[0], names[1], names[2]] + names[-3:],
                         ["message_start", "ping", "content_block_start", "content_block_stop", "message_delta", "message_stop"])
        self.assertTrue(all(n == d["type"] for n, d in events))
        self.assertEqual("".join(d["delta"]["text"] for n, d in events if n == "content_block_delta"), j["content"][0]["text"])
        count = s.post("/v1/messages/count_tokens", {"messages": HELLO}).json["input_tokens"]
        self.assertEqual(count, j["usage"]["input_tokens"] + j["usage"]["cache_read_input_tokens"])
        huge = s.post("/v1/messages", {**body, "max_tokens": 32000}).json
        self.assertIn(huge["stop_reason"], ("model_context_window_exceeded", "end_turn"))
        for kind in ("disabled", "enabled", "adaptive", "between_tools"):
            self.assertEqual(s.post("/v1/messages", {**body, "thinking": {"type": kind}}).status, 200, kind)
        wrong = s.post("/v1/messages", {"messages": HELLO})
        self.assertEqual((wrong.status, wrong.json["type"], wrong.error["type"]), (400, "error", "invalid_request_error"))
        self.assertIn("max_tokens", wrong.error["message"])

    def test_anthropic_prefix(self):
        """A line that changes with each request does not keep the rest from being found again."""
        story = "Tell stories of dogs. " * 4
        reads = []
        for n in range(2):
            system = [{"type": "text", "text": f"x-anthropic-billing-header: cc={n}{n};"}, {"type": "text", "text": story}]
            j = self.server.post("/v1/messages", {"messages": HELLO, "max_tokens": 2, "system": system}).json
            reads.append(j["usage"]["cache_read_input_tokens"])
        self.assertGreater(reads[1], 40)

    def test_anthropic_blocks(self):
        messages = [{"role": "user", "content": [{"type": "text", "text": "go"}]},
                    {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm", "signature": ""},
                                                      {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}}]},
                    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1",
                                                  "content": [{"type": "text", "text": "4"}]}]}]
        tools = [{"name": "f", "description": "d", "input_schema": {"type": "object"}}]
        a = self.server.post("/v1/messages", {"messages": messages, "tools": tools, "max_tokens": 2})
        self.assertEqual(a.status, 200, a.body)
        web = self.server.post("/v1/messages", {"messages": HELLO, "max_tokens": 2,
                                                "tools": [{"type": "web_search_20250305", "name": "web_search"}]})
        self.assertEqual(web.status, 400)

    def test_responses(self):
        s = self.server
        body = {"input": "Hello", "max_output_tokens": 8, "temperature": 0}
        j = s.post("/v1/responses", body).json
        self.assertEqual((j["object"], j["status"], j["incomplete_details"]), ("response", "incomplete", {"reason": "max_output_tokens"}))
        text = j["output"][0]["content"][0]["text"]
        self.assertEqual([i["status"] for i in j["output"]], ["incomplete"])
        events = s.post("/v1/responses", {**body, "stream": True}).events()
        self.assertEqual([d["sequence_number"] for _, d in events], list(range(len(events))))
        names = [n for n, _ in events]
        self.assertEqual(names[:4], ["response.created", "response.in_progress", "response.output_item.added",
                                     "response.content_part.added"])
        self.assertEqual(names[-4:], ["response.output_text.done", "response.content_part.done", "response.output_item.done",
                                      "response.incomplete"])
        self.assertEqual("".join(d["delta"] for n, d in events if n == "response.output_text.delta"), text)
        last = events[-1][1]["response"]
        self.assertEqual((events[-2][1]["item"]["status"], last["output"][0]["status"]), ("incomplete", "incomplete"))
        whole = s.post("/v1/responses", {**body, "max_output_tokens": 150, "text": {"format": {"type": "json_schema", "schema": Reasoning.SCHEMA}}}).json
        self.assertEqual((whole["status"], whole["output"][0]["status"]), ("completed", "completed"))
        self.assertEqual((last["output"][0]["content"][0]["text"], last["usage"]["output_tokens"]), (text, 8))
        self.assertEqual(set(j["usage"]["input_tokens_details"]), {"cached_tokens", "cache_write_tokens"})
        items = [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "go"}]},
                 {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
                 {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
                 {"type": "function_call_output", "call_id": "c", "output": "4"}]
        tools = [{"type": "function", "name": "f", "parameters": {"type": "object"}}, {"type": "web_search"}]
        a = s.post("/v1/responses", {**body, "input": items, "tools": tools, "instructions": "Be kind", "store": False})
        self.assertEqual(a.status, 200, a.body)
        self.assertEqual(s.post("/v1/responses", {**body, "previous_response_id": "resp_1"}).error["param"], "previous_response_id")
        for field, value in (("top_logprobs", 2), ("include", ["message.output_text.logprobs"])):
            a = s.post("/v1/responses", {**body, field: value})
            self.assertEqual((a.status, a.error["param"]), (400, field))
            self.assertIn("not supported", a.error["message"])
        self.assertEqual(s.post("/v1/responses", {**body, "top_logprobs": 0, "include": ["reasoning.encrypted_content"]}).status, 200)

    def test_ollama(self):
        s = self.server
        options = {"num_predict": 8, "temperature": 0, "repeat_penalty": 1}
        whole = s.post("/api/chat", {"model": "any", "messages": HELLO, "stream": False, "options": options}).json
        self.assertEqual((whole["done"], whole["done_reason"], whole["eval_count"]), (True, "length", 8))
        a = s.post("/api/chat", {"messages": HELLO, "options": options})
        self.assertEqual(a.headers["content-type"], "application/x-ndjson")
        lines = [json.loads(line) for line in a.body.decode().splitlines()]
        self.assertEqual("".join(line["message"]["content"] for line in lines), whole["message"]["content"])
        self.assertEqual([line["done"] for line in lines], [False] * (len(lines) - 1) + [True])
        raw = s.post("/api/generate", {"prompt": "Once upon a time", "raw": True, "stream": False, "options": options}).json
        self.assertEqual(raw["response"], s.complete(max_tokens=8).json["choices"][0]["text"])
        self.assertEqual(s.get("/api/tags").json["models"][0]["name"], "tinystories-moe")
        self.assertEqual(s.get("/api/ps").json["models"][0]["context_length"], 256)
        self.assertIn("version", s.get("/api/version").json)
        show = s.post("/api/show", {"model": "x"}).json
        self.assertIn("completion", show["capabilities"])
        self.assertEqual(show["details"]["parameter_size"], "5.2M")
        for body in ({"prompt": ""}, {"model": "x"}, {"prompt": None, "keep_alive": "5m"}):
            load = s.post("/api/generate", body).json
            self.assertEqual((load["done"], load["done_reason"], load["response"]), (True, "load", ""), body)
        load = s.post("/api/chat", {"messages": []}).json
        self.assertEqual((load["done_reason"], load["message"]), ("load", {"role": "assistant", "content": ""}))
        for body in ({"prompt": 5}, {"prompt": {}}, {"prompt": [1]}):
            self.assertEqual(s.post("/api/generate", body).status, 400, body)
        for n, status in ((256, 200), (2048, 400)):
            a = s.post("/api/chat", {"messages": HELLO, "stream": False, "options": {**options, "num_ctx": n}})
            self.assertEqual(a.status, status)
        self.assertRegex(a.json["error"], "options.num_ctx: 2048 .* 256")
        self.assertIn("options.temperature", s.post("/api/chat", {"messages": HELLO, "options": {"temperature": "hot"}}).json["error"])


class Reasoning(Case):
    THINKS = {"chat_template_kwargs": {"enable_thinking": True}}
    SCHEMA = {"type": "object", "properties": {"b": {"enum": ["x", "y"]}}, "required": ["b"], "additionalProperties": False}

    def test_forms(self):
        """Where the prompt opens reasoning, a schema is of the answer and not of that, in each interface."""
        self.put("template.jinja", TEMPLATE.replace("assistant\n", "assistant\n{{ '<think>' if enable_thinking }}"))
        s = Server(self.dir)
        self.addCleanup(s.stop)
        free = {"temperature": 0, **self.THINKS}
        formed = {"type": "json_schema", "name": "n", "schema": self.SCHEMA}
        message = s.chat(**free).json["choices"][0]["message"]
        self.assertTrue(message["reasoning_content"] and not message["content"])
        item = s.post("/v1/responses", {"input": "Hello", "max_output_tokens": 8, **free}).json["output"][0]
        self.assertEqual((item["type"], item["content"][0]["type"], item["status"]), ("reasoning", "reasoning_text", "incomplete"))
        message = s.chat(response_format={"type": "json_schema", "json_schema": formed}, max_tokens=150, **free).json["choices"][0]["message"]
        texts = [message["content"]]
        self.assertNotIn("reasoning_content", message)
        a = s.post("/v1/responses", {"input": "Hello", "text": {"format": formed}, **free}).json
        texts.append(a["output"][0]["content"][0]["text"])
        a = s.post("/v1/messages", {"messages": HELLO, "max_tokens": 150, "temperature": 0, "thinking": {"type": "enabled"},
                                    "output_config": {"format": formed}}).json
        texts.append(a["content"][0]["text"])
        a = s.post("/api/chat", {"messages": HELLO, "stream": False, "think": True, "format": self.SCHEMA}).json
        texts.append(a["message"]["content"])
        for text in texts:
            self.assertIn(json.loads(text)["b"], ("x", "y"))


class Hostile(Shared):
    """Bytes, heads, bodies and JSON of every broken kind."""

    # Of each field, values of wrong types and out of its range.
    FIELDS = {
        "temperature": ["a", -1, 1e9, [], {}, True], "top_p": ["a", -0.1, 1.1, {}], "top_k": ["a", -5, 1.5, []],
        "min_p": [-1, 2, "a"], "typical_p": [-1, 2, "a"], "repeat_penalty": [-1, 1000, "a"], "presence_penalty": [-3, 3, "a"],
        "frequency_penalty": [-3, 3, []], "repeat_last_n": [-2, "a", 1.5], "seed": ["a", 1.5, []], "n": [0, -1, 9, "a", 1.5],
        "max_tokens": [0, -2, 2**31, "a", 1.5, {}], "max_completion_tokens": [0, -2, "a"],
        "stop": [["a"] * 5, 5, {}, [1], "x" * 300], "stream": ["yes", 1, []], "stream_options": ["a", []],
        "logprobs": ["a", 1], "top_logprobs": [21, -1, "a", 5], "ignore_eos": [1, "a"], "cache_prompt": [1, "a"],
        "logit_bias": ["a", {"x": 1}, {"5": "a"}, {"5": 101}, {"512": 1}, {"-1": 1}, [[1]], [[5, 200]], {"5" * 30: 1}],
        "response_format": ["a", {"type": "xml"}, {"type": "json_schema"}, {}, {"type": "json_schema", "json_schema": {"schema": 5}}],
        "messages": [None, "a", {}, [], [1], ["a"], [{}], [{"role": 5}], [{"role": "user", "content": 5}]],
        "tools": ["a", {}, [1], [{"type": "function"}], [{"type": "x", "function": {"name": "f"}}],
                  [{"type": "function", "function": {"name": ""}}], [{"type": "function", "function": {"name": "f", "parameters": 5}}]],
        "tool_choice": ["maybe", 5, {"type": "function"}, "required", {"type": "function", "function": {"name": "none"}}],
        "parallel_tool_calls": ["a"], "chat_template_kwargs": ["a", {"messages": []}], "reasoning_format": ["x", 5],
        "reasoning_effort": [5], "modalities": [["text", "audio"], "text"], "audio": [{"voice": "x"}], "functions": [[{"name": "f"}]],
        "mirostat": [1], "dry_multiplier": [0.8], "xtc_probability": [0.5], "samplers": [["top_k"]], "min_tokens": [5],
        "grammar": [5, []], "json_schema": ["a", 5], "return_progress": ["a"], "timings_per_token": [1],
        "continue_final_message": ["a"], "add_generation_prompt": [1], "web_search_options": [{"a": 1}],
    }

    def test_every_field(self):
        for field, values in self.FIELDS.items():
            for value in values:
                a = self.server.post("/v1/chat/completions", {"messages": HELLO, "max_tokens": 1, field: value})
                self.assertEqual(a.status, 400, (field, value, a.body))
                self.assertEqual(set(a.error), {"message", "type", "param", "code"})
                self.assertEqual(a.error["type"], "invalid_request_error")
                self.assertIn(field.split("_")[0], str(a.error["param"]), (field, value, a.body))
        inert = {"user": "me", "metadata": {"a": "b"}, "store": True, "service_tier": "auto", "verbosity": "low", "id_slot": 0,
                 "mirostat": 0, "xtc_probability": 0.0, "nonsense": [1], "functions": [], "safety_identifier": "x", "n_keep": 1}
        self.assertEqual(self.server.chat(**inert).status, 200)
        self.assertEqual(self.server.chat(**{k: None for k in self.FIELDS if k != "messages"}).status, 200)

    def test_completion_fields(self):
        fields = {"prompt": [None, 5, {}, [], [1.5], ["a", 1], [[]], [[600]], [-1], ["a"] * 9], "suffix": ["a"], "best_of": [2, 0, "a"],
                  "echo": ["a"], "logprobs": [6, -1, "a"]}
        for field, values in fields.items():
            for value in values:
                a = self.server.post("/v1/completions", {"prompt": "a", "max_tokens": 1, field: value})
                self.assertEqual((a.status, a.error["param"]), (400, field), (field, value, a.body))
        for path, body in (("/completion", {"prompt": "a", "n_predict": 0}), ("/completion", {"prompt": "a", "n_probs": 10**9}),
                           ("/completion", {"prompt": "a", "post_sampling_probs": True}),
                           ("/completion", {"prompt": "a", "return_tokens": True}), ("/completion", {"prompt": "a", "max_tokens": 0}),
                           ("/tokenize", {}), ("/tokenize", {"content": 5}), ("/detokenize", {"tokens": [10**6]}),
                           ("/detokenize", {}), ("/apply-template", {})):
            self.assertEqual(self.server.post(path, body).status, 400, (path, body))

    def test_json(self):
        deep = b'{"messages": ' + b"[" * 100000 + b"]" * 100000 + b"}"
        bad = [b"", b"{", b'{"messages": [', b"[]", b"5", b"null", deep, b'{"a": 1, "a": 2}', b'{"a": "\xff"}', b'{"a": "\\u0000"}',
               b'\xef\xbb\xbf{"messages": []}', b'{"a": 1e999}', b'{"a": 123456789012345678901234567890}', b'{"a": 01}',
               b'{"a": "\x01"}', b'{"a": NaN}', b"{'a': 1}", b'{"a": 1}x', b'{"a": "\\ud800"}', b"\x00" * 100]
        for body in bad:
            a = self.server.post("/v1/chat/completions", body)
            self.assertEqual((a.status, a.error["type"]), (400, "invalid_request_error"), body[:50])
        many = json.dumps({"messages": HELLO * 5000}).encode()
        self.assertEqual(self.server.post("/v1/chat/completions", many).error["param"], "messages")
        # Small as a text, large in memory: refused by what it would take, before it is read.
        wide = b'{"messages": [' + b"{}," * 1000000 + b"{}]}"
        self.assertEqual(self.server.post("/v1/chat/completions", wide).status, 413)
        self.alive()

    def test_heads(self):
        s = self.server
        host = b"Host: 127.0.0.1\r\n"
        get = b"GET /health HTTP/1.1\r\n"
        cases = [
            (get + b"\r\n", 400), (get + host + host + b"\r\n", 400), (get + b"Host: evil.example\r\n\r\n", 403),
            (get + b"Host: 127.0.0.1.evil.example\r\n\r\n", 403), (get + b"Host: \r\n\r\n", 403), (get + b"Host: a b\r\n\r\n", 403),
            (get + b"Host : 127.0.0.1\r\n\r\n", 400), (get + host + b"A: b\r\n c\r\n\r\n", 400), (get + host + b"A\r\n\r\n", 400),
            (get + host + b"A: \x01\r\n\r\n", 400), (get + host + b"A: b\nC: d\r\n\r\n", 400), (get + host + b"\x80: b\r\n\r\n", 400),
            (b"GET /health HTTP/2.0\r\n" + host + b"\r\n", 505), (b"GET /health\r\n\r\n", 400), (b"GET  /health HTTP/1.1\r\n\r\n", 400),
            (b"GET health HTTP/1.1\r\n" + host + b"\r\n", 400), (b"GET http://127.0.0.1/health HTTP/1.1\r\n" + host + b"\r\n", 400),
            (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", 400), (b"G\x00T / HTTP/1.1\r\n" + host + b"\r\n", 400),
            (b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\n" + host + b"\r\n", 414),
            (get + host + b"".join(b"A%d: b\r\n" % i for i in range(5000)) + b"\r\n", 431),
            (get + host + b"".join(b"A%d: b\r\n" % i for i in range(80)) + b"\r\n", 431),
            (get + host + b"A: " + b"b" * 100000 + b"\r\n\r\n", 431),
            (get + host + b"Expect: the-worst\r\n\r\n", 417),
        ]
        for data, status in cases:
            self.assertEqual(s.raw(data).status, status, data[:100])
        for name in ("127.0.0.1", "localhost", "LOCALHOST:1", "[::1]:5", "10.0.0.1", f"127.0.0.1:{s.port}"):
            self.assertEqual(s.get("/health", {"Host": name}).status, 200, name)
        old = s.raw(b"GET /health HTTP/1.0\r\n\r\n")
        self.assertEqual((old.status, old.json), (200, {"status": "ok"}))
        self.alive()

    def test_bodies(self):
        s = self.server
        good = json.dumps({"prompt": "Once", "max_tokens": 1}).encode()
        post = b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        chunked = post + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
        half = len(good) // 2
        pieces = b"%x\r\n%s\r\n%x;a=b\r\n%s\r\n0\r\nTrailer: x\r\n\r\n" % (half, good[:half], len(good) - half, good[half:])
        cases = [
            (post + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
            (post + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n", 400), (post + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\n", 400),
            (post + b"Content-Length: -1\r\n\r\n", 400), (post + b"Content-Length: 0x10\r\n\r\n", 400), (post + b"Content-Length: 5, 5\r\n\r\n", 400),
            (post + b"Content-Length: 99999999999999999999\r\n\r\n", 400), (post + b"Content-Length: 1000000000\r\n\r\n", 413),
            (post + b"Transfer-Encoding: gzip\r\n\r\n", 501), (post + b"Transfer-Encoding: chunked, chunked\r\n\r\n", 501),
            (chunked + pieces, 200), (chunked + b"-1\r\n", 400), (chunked + b"fffffffff\r\n", 400), (chunked + b"\r\n", 400),
            (chunked + b"5\r\nabcdeX\r\n", 400), (chunked + b"5 \nabc", 400), (chunked + b"5;" + b"a" * 1000, 400), (chunked + b"0\r\n" + b"A: b\r\n" * 2000, 400),
            (post + b"\r\n", 400), (post + b"Connection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(good), good), 200),
        ]
        for data, status in cases:
            self.assertEqual(s.raw(data).status, status, data[:150])
        endless = b"8000\r\n" + b"a" * 0x8000 + b"\r\n"
        self.assertEqual(s.raw(chunked + endless * 400).status, 413)
        with s.connect() as c:
            c.sendall(s.head("POST", "/v1/completions", {"Expect": "100-continue"}, good))
            self.assertIn(b"100 Continue", c.recv(100))
            c.sendall(good)
            self.assertEqual(Answer(read_all(c)).status, 200)
        self.alive()

    def test_paths(self):
        s = self.server
        for path in ("/../../etc/passwd", "/v1/../health", "//health", "/health/", "/health%00", "/%68ealth", "/v1/models/../x",
                     "/v1/models/a/b", "/etc/passwd", "/page/..%2f", "/v1/chat/completions/", "/" + "a/" * 1500):
            self.assertEqual(s.get(path).status, 404, path)
        a = s.get("/v1/chat/completions")
        self.assertEqual((a.status, a.headers["allow"]), (405, "POST, OPTIONS"))
        self.assertEqual(s.ask("DELETE", "/health").status, 405)
        self.assertEqual(s.ask("BREW", "/health").status, 405)
        self.assertEqual(s.get("/health?a=b").status, 200)
        with s.connect() as c:
            c.sendall(s.head("HEAD", "/health"))
            head = Answer(read_all(c))
        self.assertEqual((head.status, head.body, head.headers["content-length"]), (200, b"", "15"))

    def test_pipeline(self):
        """Requests one behind the other on a connection, and one that breaks it."""
        s = self.server
        body = json.dumps({"prompt": "Once", "max_tokens": 2, "temperature": 0}).encode()
        keep = s.head("POST", "/v1/completions", {"Connection": "keep-alive"}, body) + body
        data = keep * 3 + b"\r\n" + s.head("GET", "/health")
        with s.connect() as c:
            c.sendall(data)
            raw = read_all(c)
        self.assertEqual(raw.count(b"HTTP/1.1 200 OK"), 4)
        stream = json.dumps({"prompt": "Once", "max_tokens": 2, "stream": True}).encode()
        with s.connect() as c:
            c.sendall(s.head("POST", "/v1/completions", {"Connection": "keep-alive"}, stream) + stream + keep + b"rubbish\r\n\r\n")
            raw = read_all(c)
        self.assertEqual((raw.count(b"HTTP/1.1 200 OK"), raw.count(b"HTTP/1.1 400")), (2, 1))

    def test_canary(self):
        """No prompt, no reply, no path and no line of a client's own making in the log or in errors."""
        s = self.server
        s.chat([{"role": "user", "content": "canary-7361"}])
        s.complete("canary-7361", max_tokens=3)
        s.post("/v1/chat/completions", {"messages": HELLO, "temperature": "canary-7361\r\nlevel=error"})
        s.raw(b"GET /\x1b[31mcanary-7361 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        s.get("/v1/models/x", {"X-A": "canary-7361"})
        log = s.log()
        self.assertNotIn("canary-7361", log)
        self.assertNotIn("\x1b", log)
        for line in log.splitlines():
            self.assertRegex(line, r"^time=\S+ level=\w+ ")
        for path in ("/props", "/v1/models", "/experts", "/metrics"):
            self.assertNotIn(os.path.dirname(self.folder).encode() + b"/", s.get(path).body)
            self.assertNotIn(b"/models/tiny", s.get(path).body)


class Leaving(Shared):
    """Clients that go, are slow, or are many."""
    OPTIONS = ("--parallel", "2")

    def test_gone(self):
        s = self.server
        before = s.metric("requests_cancelled_total")
        for i in range(20):
            c = s.begin("/v1/completions", {"prompt": "Once", "stream": i % 2 == 0, "ignore_eos": True, "max_tokens": 250, "n": 4})
            if i % 4 == 0:
                c.recv(100)
            c.close()
        self.assertTrue(s.waits_for(lambda: s.metric("requests_running") == 0 and s.metric("requests_waiting") == 0))
        self.assertGreater(s.metric("requests_cancelled_total"), before)
        ended = sum(s.metric(f"requests_{how}_total") for how in ("done", "cancelled", "failed"))
        self.assertEqual(s.metric("requests_total"), ended)
        with s.connect() as c: # in the middle of a body
            c.sendall(s.head("POST", "/v1/completions", body=b"x" * 100) + b"{")
        self.assertEqual(s.complete().status, 200)

    def test_queue(self):
        s = self.server
        many = [s.begin("/v1/completions", {"prompt": "Once", "ignore_eos": True, "max_tokens": 250, "n": 8}) for _ in range(12)]
        codes = []
        for c in many[::-1]:
            c.settimeout(0.2)
            try:
                codes.append(Answer(c.recv(4096)))
            except TimeoutError:
                pass
        refused = [a for a in codes if a.status == 429]
        self.assertTrue(refused, [a.status for a in codes])
        self.assertEqual((refused[0].headers["retry-after"], refused[0].error["code"]), ("1", "queue_full"))
        for c in many:
            c.close()
        self.assertTrue(s.waits_for(lambda: s.metric("requests_running") == 0 and s.metric("requests_waiting") == 0))
        self.assertEqual(s.complete().status, 200)

    def test_not_read(self):
        """Who does not read its stream keeps nobody else waiting, and what it is owed is bounded."""
        s = self.server
        c = s.connect(receive=4096)
        body = json.dumps({"messages": HELLO, "stream": True, "logprobs": True, "top_logprobs": 20, "n": 8, "ignore_eos": True,
                           "max_tokens": 200}).encode()
        c.sendall(s.head("POST", "/v1/chat/completions", body=body) + body)
        time.sleep(0.3)
        self.assertEqual(s.complete().status, 200)
        self.assertLess(s.metric("server_bytes"), s.metric("server_bytes_most"))
        c.close()

    def test_same_side_by_side(self):
        """A text is the same beside others as alone."""
        s = self.server
        prompts = [f"Once upon a time, {name}" for name in ("Tom", "Lily", "a dog", "the cat", "Ben", "Mia")]
        alone = [s.complete(p, max_tokens=30).json["choices"][0]["text"] for p in prompts]
        found = [None] * len(prompts)

        def ask(i):
            found[i] = s.complete(prompts[i], max_tokens=30, cache_prompt=i % 2 == 0).json["choices"][0]["text"]
        threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(prompts))]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.assertEqual(found, alone)

    def test_nothing_is_left(self):
        s = self.server
        folder = f"/proc/{s.process.pid}/fd"
        self.assertTrue(s.waits_for(lambda: s.metric("connections") <= 1))
        before = len(os.listdir(folder))
        for _ in range(100):
            s.get("/health")
            s.raw(b"rubbish\r\n\r\n")
        self.assertTrue(s.waits_for(lambda: len(os.listdir(folder)) <= before + 1))


class Guarded(Case):
    def serve(self, *args, **more):
        s = Server(self.dir, *args, **more)
        self.addCleanup(s.stop)
        return s

    def test_keys(self):
        keys = self.put("keys", "# mine\nsecret-one\n\nsecret-two  \n")
        s = self.serve("--api-key", keys)
        for key in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer secret-on"}, {"Authorization": "Bearer secret-one2"},
                    {"Authorization": "Basic secret-one"}, {"X-Api-Key": ""}, {"Authorization": "Bearer "}):
            for path in ("/v1/models", "/metrics", "/slots", "/props", "/experts", "/api/tags", "/none"):
                self.assertEqual(s.get(path, key).status, 401, (path, key))
        a = s.post("/v1/chat/completions", {"messages": HELLO})
        self.assertEqual((a.status, a.error["type"], a.error["code"]), (401, "authentication_error", "invalid_api_key"))
        self.assertEqual(s.post("/v1/messages", {}).json["type"], "error")
        for path in ("/health", "/v1/health", "/"):
            self.assertEqual(s.get(path).status, 200)
        for key in ({"Authorization": "Bearer secret-two"}, {"X-Api-Key": "secret-one"}, {"authorization": "bearer secret-one"}):
            self.assertEqual(s.get("/v1/models", key).status, 200)
        self.put("keys", "secret-three\n")
        s.process.send_signal(signal.SIGHUP)
        self.assertTrue(s.waits_for(lambda: s.get("/v1/models", {"X-Api-Key": "secret-three"}).status == 200))
        self.assertEqual(s.get("/v1/models", {"X-Api-Key": "secret-one"}).status, 401)
        self.assertNotIn("secret", s.log())

    def test_pages(self):
        s = self.serve("--cors-origins", "https://a.example,http://b.example:8000", "--no-webui", "--names", "box.example", "--alias", "né")
        self.assertEqual(s.get("/").status, 404)
        with s.connect() as c:
            c.sendall(s.head("HEAD", "/"))
            self.assertEqual(Answer(read_all(c)).status, 200)
        self.assertEqual(s.get("/v1/models").json["data"][0]["id"], "né")
        plain = s.get("/health")
        self.assertFalse([h for h in plain.headers if h.startswith("access-control")])
        mine = s.get("/v1/models", {"Origin": "https://a.example"})
        self.assertEqual((mine.status, mine.headers["access-control-allow-origin"], mine.headers["vary"]), (200, "https://a.example", "Origin"))
        for origin in ("null", "https://evil.example", "https://a.example.evil", "http://a.example", "https://a.example:443"):
            for a in (s.get("/v1/models", {"Origin": origin}), s.get("/health", {"Origin": origin}),
                      s.ask("OPTIONS", "/v1/models", headers={"Origin": origin})):
                self.assertEqual((a.status, "access-control-allow-origin" in a.headers), (403, False), origin)
        same = f"http://127.0.0.1:{s.port}"
        self.assertEqual(s.get("/v1/models", {"Origin": same}).status, 200)
        flight = s.ask("OPTIONS", "/v1/chat/completions", headers={"Origin": "https://a.example", "Access-Control-Request-Method": "POST",
                                                                   "Access-Control-Request-Headers": "authorization, x-stainless-os"})
        self.assertEqual((flight.status, flight.headers["access-control-allow-methods"], flight.headers["access-control-allow-headers"]),
                         (204, "POST, OPTIONS", "authorization, x-stainless-os"))
        self.assertEqual(s.get("/health", {"Host": "box.example"}).status, 200)
        self.assertEqual(s.get("/health", {"Host": "other.example"}).status, 403)

    def with_spare(self, mib, *args):
        """A server whose budget is so much more than the least that opens, which a sanitizer makes larger."""
        few = Server(self.dir, "--memory", "1M", *args, ready=False)
        few.process.wait(60)
        few.process.stdout.close()
        least = re.search(r"the minimum is ([0-9.]+) MiB", few.log())[1]
        return self.serve("--memory", f"{float(least) + mib:.2f}M", *args)

    def test_small_budget(self):
        """With a small budget the server's own part, and so the largest body, is small."""
        s = self.with_spare(52, "--parallel", "1")
        most = int(s.metric("server_bytes_most"))
        self.assertGreater(most, 2 << 20)
        self.assertLess(most, 4 << 20)  # a part of what is beyond the least
        a = s.post("/v1/chat/completions", b" " * (most // 12 + 1))
        self.assertEqual(a.status, 413)
        self.assertEqual(s.chat().status, 200)
        a = s.chat(response_format={"type": "json_object"}) # would be refused for ever
        self.assertEqual(a.status, 400)
        self.assertRegex(a.error["message"], "grammar takes .* --memory")
        if self.measures():
            self.assertLess(s.metric("memory_peak_bytes"), s.metric("memory_budget_bytes"))

    def test_arguments_that_weigh(self):
        """JSON inside of a text counts like the body's own: refused by what it would take, before it is read."""
        s = self.with_spare(5.5)
        call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"a":[' + "{}," * 24000 + "0]}"}}
        messages = [*HELLO, {"role": "assistant", "content": "", "tool_calls": [call]}, *HELLO]
        self.assertIn(s.chat(messages, max_tokens=2).status, (413, 503))
        call["function"]["arguments"] = '{"a":[{},0]}'
        self.assertEqual(s.chat(messages, max_tokens=2).status, 200)
        if self.measures():
            self.assertLess(s.metric("memory_peak_bytes"), s.metric("memory_budget_bytes"))

    def test_stream_of_logprobs(self):
        """What a stream has sent of logprobs takes no memory any longer."""
        s = self.with_spare(12.5, "--parallel", "1")
        many = {"max_tokens": 200, "ignore_eos": True, "stream": True}
        n = sum(len((c["choices"][0]["logprobs"] or {}).get("content", [])) for c in s.chat(logprobs=True, top_logprobs=20, **many).chunks())
        self.assertEqual(n, 200)
        n = sum(len((c["choices"][0]["logprobs"] or {}).get("tokens", [])) for c in s.complete(logprobs=5, **many).chunks())
        self.assertEqual(n, 200)
        chunks = s.post("/completion", {"prompt": "a", "n_predict": 200, "n_probs": 20, "ignore_eos": True, "stream": True}).chunks()
        self.assertEqual(sum(len(c.get("completion_probabilities", [])) for c in chunks), 200)
        a = s.chat(logprobs=True, top_logprobs=20, **{**many, "stream": False}) # kept whole
        self.assertEqual((a.status, a.error["message"]), (503, "there is no memory for more logprobs"))

    def test_idle_connections(self):
        """Who holds connections without a request keeps nobody out; of those at work none is closed."""
        s = self.with_spare(5, "--parallel", "2")
        busy = s.connect()
        busy.sendall(s.head("POST", "/v1/completions", {"Connection": "keep-alive"}, b"x" * 100) + b"x" * 50)
        held = []
        for _ in range(60):
            c = s.connect(5)
            c.sendall(s.head("GET", "/health", {"Connection": "keep-alive"}))
            self.assertEqual(c.recv(15), b"HTTP/1.1 200 OK")
            held.append(c)
        self.assertLess(s.metric("connections"), 30)
        self.assertEqual(s.complete().status, 200)
        busy.sendall(b"x" * 50)
        self.assertEqual(busy.recv(12), b"HTTP/1.1 400")
        for c in (*held, busy):
            c.close()

    def test_broken_model(self):
        """A model that is cut off fails requests, and what clients are told has no path of this machine."""
        model = self.path("secret.gguf")
        shutil.copy(TRAINED, model)
        s = self.serve("--slots", "3", "--io", "pread", model=model)
        self.assertEqual(s.complete().status, 200)
        os.truncate(model, 1 << 20)
        for a in (s.complete(), s.complete(stream=True), s.chat(), s.post("/v1/messages", {"messages": HELLO, "max_tokens": 5})):
            text = a.body.decode()
            self.assertTrue(a.status == 503 or '"error"' in text.rsplit("data: ", 1)[-1], text)
            self.assertIn("cannot be read", text)
            self.assertNotIn("secret", text)
        self.assertIn("secret.gguf: read of", s.log())
        self.assertEqual(s.get("/health").status, 200)

    def test_v6_and_ports(self):
        if socket.has_ipv6:
            try:
                with socket.socket(socket.AF_INET6) as probe:
                    probe.bind(("::1", 0))
            except OSError:
                self.skipTest("there is no IPv6 here")
            self.assertEqual(self.serve(host="::1").get("/health").status, 200)

    def test_refused_starts(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = str(taken.getsockname()[1])
            self.refused(self.call("serve", "no.gguf", "--port", port, "--drain-timeout", "1"), 1, [port, "in use", "--port N"])
        self.refused(self.call("serve", "no.gguf", "--port", "0"), 1, ["no.gguf"])
        self.refused(self.call("serve", "no.gguf", "--port", "0", "--host", "no.such.host.invalid"), 1, ["no.such.host.invalid"])
        self.refused(self.call("serve", "no.gguf", "--port", "0", "--api-key", "none"), 1, ["keys"])
        self.refused(self.call("serve", "no.gguf", "--port", "0", "--api-key", self.put("empty", "# none\n")), 1, ["no key"])
        self.refused(self.call("serve", "no.gguf", "--cors-origins", "a.example"), 1, ["a.example"])
        self.refused(self.call("serve", "no.gguf", "--port", "65536"), 2, ["65535"])
        self.refused(self.call("serve", "no.gguf", "--prompt-cache-size", "1G"), 2, ["--prompt-cache"])


class Signals(Case):
    LONG = {"messages": HELLO, "stream": True, "ignore_eos": True, "max_tokens": 200, "n": 8, "temperature": 0}

    def streaming(self, *args):
        """A server, and a stream that has begun."""
        s = Server(self.dir, *args)
        c = s.begin("/v1/chat/completions", self.LONG)
        self.addCleanup(c.close)
        return s, c, c.recv(200)

    def test_drain(self):
        s, c, data = self.streaming("--drain-timeout", "50")
        other = s.connect()
        other.sendall(s.head("GET", "/health", {"Connection": "keep-alive"}))
        other.recv(4096)
        s.process.send_signal(signal.SIGTERM)
        self.assertTrue(s.waits_for(lambda: "draining" in s.log()))
        health, work = s.get("/health"), s.chat()
        done = read_all(c)
        if health.status: # unless the stream was over before it could be asked
            self.assertEqual((health.status, health.error["code"]), (503, 503))
        if work.status:
            self.assertEqual((work.status, work.error["type"]), (503, "unavailable_error"))
        answer = Answer(data + done)
        self.assertEqual(answer.events()[-1][1], "[DONE]")
        self.assertTrue(answer.whole)
        self.assertEqual(s.stop(0), 0)
        other.close()

    def test_drain_timeout(self):
        s, c, data = self.streaming("--drain-timeout", "0")
        s.process.send_signal(signal.SIGINT)
        answer = Answer(data + read_all(c))
        last = answer.chunks()[-1]
        self.assertEqual((last["error"]["code"], answer.whole), ("shutting_down", True))
        self.assertNotIn("[DONE]", answer.body.decode())
        self.assertEqual(s.stop(0), 0)

    def test_twice(self):
        s, c, _ = self.streaming("--drain-timeout", "50", "--threads", "1")
        s.process.send_signal(signal.SIGTERM)
        self.assertTrue(s.waits_for(lambda: "draining" in s.log()))
        self.assertIn(s.stop(), (143, 0)) # 0: the stream was over before the second came
        read_all(c)

    def test_others(self):
        s, c, data = self.streaming()
        for number in (signal.SIGUSR1, signal.SIGPIPE, signal.SIGWINCH):
            s.process.send_signal(number)
        self.assertEqual(Answer(data + read_all(c)).events()[-1][1], "[DONE]")
        self.assertEqual(s.stop(signal.SIGHUP), 0)

    def test_slow_reader_at_the_end(self):
        """A stream that nobody reads does not keep the server from ending."""
        s = Server(self.dir, "--drain-timeout", "0.5")
        c = s.connect(receive=4096)
        body = json.dumps({**self.LONG, "logprobs": True, "top_logprobs": 20}).encode()
        c.sendall(s.head("POST", "/v1/chat/completions", body=body) + body)
        time.sleep(0.3)
        start = time.monotonic()
        self.assertEqual(s.stop(), 0)
        self.assertLess(time.monotonic() - start, 20 if SANITIZED else 8)
        c.close()

    def test_notify(self):
        path = self.path("notify")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as n:
            n.bind(path)
            n.settimeout(30)
            s = Server(self.dir, prefix=("env", f"NOTIFY_SOCKET={path}"))
            self.assertEqual(n.recv(100), b"READY=1")
            self.assertEqual(s.stop(), 0)
            self.assertEqual(n.recv(100), b"STOPPING=1")


class Waiting(Case):
    def test_slow_heads(self):
        c = slow.clients[1]
        try: # bytes that drip in do not put the end off
            c.sendall(b".")
        except OSError:
            pass
        for c in slow.clients:
            data = read_all(c)
            self.assertTrue(not data or Answer(data).status == 408, data)
            c.close()
        self.assertGreater(time.monotonic() - slow.since, 9)


if __name__ == "__main__":
    main()
