# SPDX-License-Identifier: MIT
"""ollama-python against /api/…."""
import asyncio
import json

import ollama

from common import HELLO, KEY, SCHEMA, Case
from try_openai import Trip

TOOL = {"type": "function", "function": {"name": "get_weather", "description": "Weather", "parameters": SCHEMA}}
OPTIONS = {"temperature": 0, "num_predict": 16, "repeat_penalty": 1.0}


class Ollama(Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.options = {"host": cls.server.url, "headers": {"Authorization": f"Bearer {KEY}"}, "timeout": 120}
        cls.client = ollama.Client(**cls.options)

    def test_chat(self):
        a = self.client.chat(model="demo", messages=HELLO, options=OPTIONS)
        self.assertEqual((a.model, a.done, a.done_reason, a.eval_count, a.message.role), ("demo", True, "length", 16, "assistant"))
        self.assertTrue(a.message.content and a.prompt_eval_count)
        self.assertGreater(a.total_duration, a.eval_duration)
        parts = list(self.client.chat(model="demo", messages=HELLO, options=OPTIONS, stream=True))
        self.assertEqual("".join(p.message.content or "" for p in parts), a.message.content)
        self.assertEqual([p.done for p in parts], [False] * (len(parts) - 1) + [True])
        self.assertEqual(parts[-1].eval_count, 16)

    def test_generate(self):
        a = self.client.generate(model="demo", prompt="once upon a time", raw=True, options=OPTIONS)
        parts = list(self.client.generate(model="demo", prompt="once upon a time", raw=True, options=OPTIONS, stream=True))
        self.assertEqual(("".join(p.response for p in parts), a.done_reason), (a.response, "length"))
        b = self.client.generate(model="demo", prompt="Once upon a time", options=OPTIONS, keep_alive="5m")
        self.assertEqual(b.response, self.client.chat(model="demo", messages=HELLO, options=OPTIONS).message.content)
        self.assertTrue(self.client.generate(model="demo", prompt="Once", system="Be kind", options=OPTIONS).response)

    def test_load(self):
        """An empty prompt loads the model."""
        a = self.client.generate(model="demo", prompt="")
        self.assertEqual((a.done, a.done_reason, a.response), (True, "load", ""))

    def test_options(self):
        hot = {**OPTIONS, "temperature": 1.3, "seed": 5, "top_k": 40, "top_p": 0.9, "num_ctx": 512, "repeat_last_n": 64}
        texts = [self.client.chat(model="demo", messages=HELLO, options={**hot, "seed": s}).message.content for s in (5, 5, 6)]
        self.assertEqual(texts[0], texts[1])
        self.assertNotEqual(texts[0], texts[2])
        whole = self.client.chat(model="demo", messages=HELLO, options=OPTIONS).message.content
        a = self.client.chat(model="demo", messages=HELLO, options={**OPTIONS, "stop": [whole[8:11]]})
        self.assertEqual((a.message.content, a.done_reason), (whole[:whole.index(whole[8:11])], "stop"))

    def test_format(self):
        options = {**OPTIONS, "num_predict": 400}
        a = self.client.chat(model="demo", messages=HELLO, format=Trip.model_json_schema(), options=options)
        self.assertIsInstance(Trip.model_validate_json(a.message.content), Trip)
        a = self.client.generate(model="demo", prompt="once", format=Trip.model_json_schema(), options=options)
        self.assertIsInstance(Trip.model_validate_json(a.response), Trip)
        a = self.client.chat(model="demo", messages=HELLO, format="json", options=options)
        self.assertTrue(a.message.content.lstrip().startswith(("{", "[")))

    def test_tools(self):
        """Ollama has no forced calls: tools are described, and a conversation with calls goes on."""
        a = self.client.chat(model="demo", messages=HELLO, tools=[TOOL], options=OPTIONS)
        self.assertTrue(a.message.content)

        def get_weather(city: str) -> str:
            """Weather of a city.

            Args:
              city: its name
            """
            return city
        self.assertTrue(self.client.chat(model="demo", messages=HELLO, tools=[get_weather], options=OPTIONS).message)
        talk = HELLO + [{"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "get_weather", "arguments": {"city": "Rome"}}}]},
                        {"role": "tool", "tool_name": "get_weather", "content": "It rains"}]
        self.assertTrue(self.client.chat(model="demo", messages=talk, tools=[TOOL], options=OPTIONS).message.content)

    def test_lists(self):
        self.assertEqual([m.model for m in self.client.list().models], ["demo"])
        self.assertGreater(self.client.list().models[0].size, 10_000_000)
        show = self.client.show("demo")
        self.assertLessEqual({"completion", "tools"}, set(show.capabilities))
        self.assertEqual((show.details.format, show.modelinfo["general.architecture"]), ("gguf", "qwen3moe"))
        self.assertRegex(show.details.parameter_size, r"^5\.\d+M$")
        ps = self.client.ps().models
        self.assertEqual([(m.model, m.context_length) for m in ps], [("demo", 1024)])

    def test_errors(self):
        for call, status in ((lambda: self.client.chat(model="demo", messages=HELLO, options={"temperature": -1}), 400),
                             (lambda: self.client.chat(model="demo", messages=[{"role": "boss", "content": "a"}]), 400),
                             (lambda: self.client.embed(model="demo", input="a"), 404),
                             (lambda: ollama.Client(host=self.server.url, headers={"Authorization": "Bearer x"}).list(), 401),
                             (lambda: list(self.client.chat(model="demo", messages=[{"role": "user", "content": "a" * 2_000_000}],
                                                            stream=True)), 413)):
            with self.assertRaises(ollama.ResponseError) as caught:
                call()
            self.assertEqual(caught.exception.status_code, status)
            self.assertNotIn("{", caught.exception.error)

    def test_cancel(self):
        gone = self.cancels()
        stream = self.client.generate(model="demo", prompt="once", raw=True, stream=True, options={"num_predict": 900, "temperature": 1.5})
        next(stream)
        stream.close()
        gone()

    def test_async(self):
        async def ask():
            client = ollama.AsyncClient(**self.options)
            whole = await client.chat(model="demo", messages=HELLO, options=OPTIONS)
            text = ""
            async for part in await client.chat(model="demo", messages=HELLO, options=OPTIONS, stream=True):
                text += part.message.content or ""
            return whole.message.content, text
        whole, text = asyncio.run(ask())
        self.assertEqual(whole, text)

    def test_json_of_calls(self):
        """What is shown of a model is JSON that other clients read, too."""
        self.assertEqual(json.loads(self.server.get("/api/tags"))["models"][0]["model"], "demo")
