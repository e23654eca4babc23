# SPDX-License-Identifier: MIT
"""openai-python against pregate serve: chat, completions, models."""
import asyncio
import socket
import threading
import time
from typing import Literal

import openai
import pydantic

from common import HELLO, KEY, SCHEMA, Case, Server

TOOL = {"type": "function", "function": {"name": "get_weather", "description": "Weather", "parameters": SCHEMA}}
STRICT = {**TOOL, "function": {**TOOL["function"], "strict": True}}
FORCED = {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "get_weather"}}}


class Trip(pydantic.BaseModel):
    city: Literal["Paris", "Rome"]
    days: Literal[1, 2, 3]


def client_of(server, kind=openai.OpenAI, **more):
    """One that checks what comes against the types of the client, and does not try again."""
    options = {"api_key": KEY, "max_retries": 0, "timeout": 120, "_strict_response_validation": True, **more}
    return kind(base_url=server.url + "/v1", **options)


class Base(Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.client = client_of(cls.server)
        cls.addClassCleanup(cls.client.close)

    def chat(self, client=None, **fields):
        fields = {"model": "demo", "messages": HELLO, "temperature": 0, "max_completion_tokens": 16, **fields}
        return (client or self.client).chat.completions.create(**fields)


class Chat(Base):
    def test_chat(self):
        a = self.chat()
        self.assertEqual((a.object, a.model, a.choices[0].message.role, a.choices[0].finish_reason),
                         ("chat.completion", "demo", "assistant", "length"))
        self.assertTrue(a.id.startswith("chatcmpl-") and a.choices[0].message.content)
        self.assertEqual((a.usage.completion_tokens, a.usage.total_tokens), (16, 16 + a.usage.prompt_tokens))
        self.assertLess(abs(a.created - time.time()), 60)
        again = self.chat()
        self.assertEqual(again.choices[0].message.content, a.choices[0].message.content)
        self.assertGreater(again.usage.prompt_tokens_details.cached_tokens, 0)
        self.assertNotEqual(again.id, a.id)

    def test_stream(self):
        whole = self.chat(max_completion_tokens=40).choices[0].message.content
        with self.chat(max_completion_tokens=40, stream=True, stream_options={"include_usage": True}) as stream:
            chunks = list(stream)
        self.assertEqual(len({c.id for c in chunks}), 1)
        self.assertEqual(chunks[0].choices[0].delta.role, "assistant")
        self.assertFalse([c for c in chunks[1:-1] if c.choices[0].delta.role])
        self.assertEqual("".join(c.choices[0].delta.content or "" for c in chunks[:-1]), whole)
        self.assertEqual([c.choices[0].finish_reason for c in chunks[:-1]], [None] * (len(chunks) - 2) + ["length"])
        self.assertEqual((chunks[-1].choices, chunks[-1].usage.completion_tokens), ([], 40))
        self.assertFalse([c for c in chunks[:-1] if c.usage])

    def test_stream_helper(self):
        fields = {"model": "demo", "messages": HELLO, "temperature": 0, "max_tokens": 200, "stop": "."}
        with self.client.chat.completions.stream(**fields) as stream:
            kinds = [event.type for event in stream]
            final = stream.get_final_completion()
        whole = self.client.chat.completions.create(**fields)
        self.assertEqual((final.choices[0].message.content, final.choices[0].finish_reason),
                         (whole.choices[0].message.content, "stop"))
        self.assertIn("content.delta", kinds)
        self.assertIn("content.done", kinds)

    def test_conversation(self):
        """Roles, parts, a name and fields that change nothing are taken."""
        messages = [{"role": "developer", "content": "Be kind"}, {"role": "user", "content": [{"type": "text", "text": "Hello"}]},
                    {"role": "assistant", "content": "Hi"}, {"role": "user", "name": "Tom", "content": "Once"}]
        a = self.chat(messages=messages, user="me", metadata={"a": "b"}, store=False, service_tier="auto", verbosity="low",
                      prompt_cache_key="k", safety_identifier="s", seed=1, extra_body={"top_k": 1, "min_p": 0.1})
        self.assertTrue(a.choices[0].message.content)

    def test_logprobs(self):
        a = self.chat(logprobs=True, top_logprobs=3, max_completion_tokens=6)
        tokens = a.choices[0].logprobs.content
        self.assertEqual([len(t.top_logprobs) for t in tokens], [3] * 6)
        self.assertEqual([t.token for t in tokens], [t.top_logprobs[0].token for t in tokens])
        self.assertTrue(all(t.logprob <= 0 for t in tokens))
        self.assertEqual(b"".join(bytes(t.bytes) for t in tokens).decode(), a.choices[0].message.content)
        with self.chat(logprobs=True, top_logprobs=3, max_completion_tokens=6, stream=True) as stream:
            streamed = [t for c in stream for t in (c.choices[0].logprobs.content if c.choices[0].logprobs else [])]
        self.assertEqual(streamed, tokens)

    def test_stop(self):
        whole = self.chat(max_completion_tokens=40).choices[0].message.content
        stop = whole[12:17]
        a = self.chat(max_completion_tokens=40, stop=[stop, "never"])
        self.assertEqual((a.choices[0].message.content, a.choices[0].finish_reason), (whole[:whole.index(stop)], "stop"))
        a = self.chat(max_completion_tokens=40, stop=stop)
        self.assertEqual(a.choices[0].message.content, whole[:whole.index(stop)])

    def test_seed(self):
        hot = {"temperature": 1.3, "max_completion_tokens": 24}
        texts = [self.chat(seed=seed, **hot).choices[0].message.content for seed in (7, 7, 8)]
        self.assertEqual(texts[0], texts[1])
        self.assertNotEqual(texts[0], texts[2])
        self.assertEqual(self.chat(seed=7).system_fingerprint, self.chat(seed=8).system_fingerprint)

    def test_many(self):
        a = self.chat(n=2, temperature=1.3, seed=3)
        self.assertEqual([c.index for c in a.choices], [0, 1])
        self.assertNotEqual(a.choices[0].message.content, a.choices[1].message.content)
        self.assertEqual(a.usage.completion_tokens, 32)
        texts = ["", ""]
        with self.chat(n=2, temperature=1.3, seed=3, stream=True) as stream:
            for chunk in stream:
                texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
        self.assertEqual(texts, [c.message.content for c in a.choices])

    def test_max_tokens(self):
        for name in ("max_tokens", "max_completion_tokens"):
            a = self.client.chat.completions.create(model="demo", messages=HELLO, **{name: 5})
            self.assertEqual((a.usage.completion_tokens, a.choices[0].finish_reason), (5, "length"))

    def test_bias_and_penalties(self):
        banned = self.chat(logprobs=True, max_completion_tokens=1).choices[0].logprobs.content[0]
        ids = self.client.post("../tokenize", cast_to=object, body={"content": banned.token})["tokens"]
        a = self.chat(logit_bias={str(i): -100 for i in ids}, logprobs=True, max_completion_tokens=1)
        self.assertNotEqual(a.choices[0].logprobs.content[0].token, banned.token)
        self.chat(presence_penalty=0.5, frequency_penalty=0.5, top_p=0.9)


class Forms(Base):
    """Answers in a form: schemas, and calls of tools."""

    def test_parse(self):
        a = self.client.chat.completions.parse(model="demo", messages=HELLO, response_format=Trip, temperature=0,
                                               max_completion_tokens=200)
        self.assertIsInstance(a.choices[0].message.parsed, Trip)

    def test_parse_stream(self):
        with self.client.chat.completions.stream(model="demo", messages=HELLO, response_format=Trip, temperature=0,
                                                 max_completion_tokens=200) as stream:
            for _ in stream:
                pass
            final = stream.get_final_completion()
        self.assertIsInstance(final.choices[0].message.parsed, Trip)

    def test_json_object(self):
        a = self.chat(response_format={"type": "json_object"}, max_completion_tokens=400, seed=1)
        self.assertTrue(a.choices[0].message.content.lstrip().startswith("{"))
        self.assertTrue(self.chat(response_format={"type": "text"}).choices[0].message.content)

    def check_trip(self, arguments):
        self.assertIn(pydantic.TypeAdapter(dict).validate_json(arguments)["city"], ("Paris", "Rome"))

    def test_call(self):
        a = self.chat(max_completion_tokens=400, parallel_tool_calls=False, **FORCED)
        call, = a.choices[0].message.tool_calls
        self.assertEqual((a.choices[0].finish_reason, call.type, call.function.name, a.choices[0].message.content),
                         ("tool_calls", "function", "get_weather", None))
        self.check_trip(call.function.arguments)
        # The result goes back, and an answer comes.
        talk = HELLO + [a.choices[0].message.model_dump(exclude_none=True),
                        {"role": "tool", "tool_call_id": call.id, "content": "It rains"}]
        b = self.chat(messages=talk, tools=[TOOL])
        self.assertEqual((b.choices[0].finish_reason, b.choices[0].message.tool_calls), ("length", None))
        self.assertGreater(b.usage.prompt_tokens_details.cached_tokens, a.usage.prompt_tokens - 20)

    def test_call_stream(self):
        whole = self.chat(max_completion_tokens=400, parallel_tool_calls=False, **FORCED).choices[0].message.tool_calls[0]
        fields = {"model": "demo", "messages": HELLO, "temperature": 0, "max_completion_tokens": 400, "parallel_tool_calls": False}
        with self.client.chat.completions.stream(tools=[STRICT], tool_choice="required", **fields) as stream:
            kinds = [event.type for event in stream]
            final = stream.get_final_completion()
        call, = final.choices[0].message.tool_calls
        self.assertEqual((final.choices[0].finish_reason, call.function.name, call.function.arguments),
                         ("tool_calls", "get_weather", whole.function.arguments))
        self.assertIsInstance(call.function.parsed_arguments, dict)
        self.assertIn("tool_calls.function.arguments.done", kinds)

    def test_pydantic_tool(self):
        a = self.client.chat.completions.parse(model="demo", messages=HELLO, temperature=0, max_completion_tokens=400,
                                               tools=[openai.pydantic_function_tool(Trip)], tool_choice="required",
                                               parallel_tool_calls=False)
        self.assertIsInstance(a.choices[0].message.tool_calls[0].function.parsed_arguments, Trip)

    def test_no_call(self):
        a = self.chat(tools=[TOOL], tool_choice="none")
        self.assertEqual((a.choices[0].message.tool_calls, a.choices[0].finish_reason), (None, "length"))
        self.assertTrue(self.chat(tools=[TOOL], tool_choice="auto").choices)

    def test_length_is_an_exception(self):
        with self.assertRaises(openai.LengthFinishReasonError):
            self.client.chat.completions.parse(model="demo", messages=HELLO, response_format=Trip, temperature=0, max_tokens=3)

    def test_forms_end_reasoning(self):
        """A form and a forced call are of the answer, not of reasoning that the prompt has opened."""
        thinks = {"chat_template_kwargs": {"enable_thinking": True}}
        a = self.chat(extra_body=thinks, max_completion_tokens=400, parallel_tool_calls=False, **FORCED)
        self.assertEqual(a.choices[0].finish_reason, "tool_calls", a)
        a = self.client.chat.completions.parse(model="demo", messages=HELLO, response_format=Trip, temperature=0,
                                               max_completion_tokens=400, extra_body=thinks)
        self.assertIsInstance(a.choices[0].message.parsed, Trip)


class Rest(Base):
    def test_completions(self):
        fields = {"model": "demo", "prompt": "once upon a time", "temperature": 0}
        a = self.client.completions.create(**fields)
        self.assertEqual((a.object, a.usage.completion_tokens), ("text_completion", 16))
        # Its types want a finish_reason in each chunk, which OpenAI itself does not send.
        with client_of(self.server, _strict_response_validation=False) as client:
            chunks = list(client.completions.create(stream=True, stream_options={"include_usage": True}, **fields))
        self.assertEqual("".join(c.choices[0].text for c in chunks if c.choices), a.choices[0].text)
        self.assertEqual(chunks[-1].usage.completion_tokens, 16)
        b = self.client.completions.create(**{**fields, "prompt": [fields["prompt"], "the dog"]}, n=2, logprobs=2, max_tokens=4)
        self.assertEqual([c.index for c in b.choices], [0, 1, 2, 3])
        self.assertTrue(a.choices[0].text.startswith(b.choices[0].text))
        self.assertEqual("".join(b.choices[0].logprobs.tokens), b.choices[0].text)
        self.assertEqual([len(t) for t in b.choices[0].logprobs.top_logprobs], [2] * 4)
        c = self.client.completions.create(echo=True, **fields)
        self.assertEqual(c.choices[0].text, "once upon a time" + a.choices[0].text)

    def test_models(self):
        models = list(self.client.models.list())
        self.assertEqual([m.id for m in models], ["demo"])
        self.assertEqual(self.client.models.retrieve("demo").object, "model")

    def test_raw_and_extra(self):
        raw = self.client.chat.completions.with_raw_response.create(model="demo", messages=HELLO, max_tokens=2,
                                                                    extra_headers={"X-Other": "1"}, extra_query={"a": "b"})
        self.assertEqual((raw.status_code, raw.parse().usage.completion_tokens), (200, 2))


class Errors(Base):
    def test_400(self):
        for fields in ({"temperature": -1}, {"max_completion_tokens": 100000}, {"n": 100}, {"messages": []}):
            with self.assertRaises(openai.BadRequestError) as caught:
                self.chat(**fields)
            error = caught.exception
            self.assertEqual((error.status_code, error.type), (400, "invalid_request_error"))
            self.assertTrue(error.param and error.message, fields)
        with self.assertRaises(openai.BadRequestError) as caught:
            self.chat(max_completion_tokens=100000)
        self.assertEqual(caught.exception.code, "context_length_exceeded")
        with self.assertRaises(openai.BadRequestError):
            self.chat(temperature=-1, stream=True)

    def test_401(self):
        with client_of(self.server, api_key="wrong") as client, self.assertRaises(openai.AuthenticationError) as caught:
            self.chat(client)
        self.assertEqual(caught.exception.code, "invalid_api_key")

    def test_404(self):
        with self.assertRaises(openai.NotFoundError):
            self.client.models.retrieve("another")
        with self.assertRaises(openai.NotFoundError):
            self.client.get("/nothing", cast_to=object)

    def test_413(self):
        with self.assertRaises(openai.APIStatusError) as caught:
            self.chat(messages=[{"role": "user", "content": "word " * 400000}])
        self.assertEqual(caught.exception.status_code, 413)

    def test_501(self):
        with self.assertRaises(openai.InternalServerError) as caught:
            self.client.embeddings.create(model="demo", input="a")
        self.assertEqual(caught.exception.status_code, 501)

    def test_429(self):
        """The queue is full: that is an error at once, and with retries the client waits as long as it is told."""
        fillers = [self.server.begin("/v1/completions", {"prompt": "once", "max_tokens": 900, "n": 8, "ignore_eos": True})
                   for _ in range(8)]
        end = time.monotonic() + 30
        while self.server.metric("requests_waiting") < 60 and time.monotonic() < end:
            time.sleep(0.02)
        with self.assertRaises(openai.RateLimitError) as caught:
            self.chat(n=8)
        self.assertEqual((caught.exception.response.headers["retry-after"], caught.exception.code), ("1", "queue_full"))
        leave = threading.Timer(0.5, lambda: [f.close() for f in fillers])
        leave.start()
        start = time.monotonic()
        with client_of(self.server, max_retries=4) as patient:
            raw = patient.chat.completions.with_raw_response.create(model="demo", messages=HELLO, n=8, max_tokens=4)
        self.assertEqual((raw.status_code, raw.retries_taken), (200, 1))
        self.assertGreater(time.monotonic() - start, 0.99)
        leave.join()
        self.server.idle()

    def test_timeout(self):
        gone = self.cancels()
        with self.assertRaises(openai.APITimeoutError):
            self.client.with_options(timeout=0.3).completions.create(model="demo", prompt="once", max_tokens=900, n=8,
                                                                     extra_body={"ignore_eos": True})
        gone()

    def test_cancel(self):
        gone = self.cancels()
        with self.chat(stream=True, n=8, max_completion_tokens=900, extra_body={"ignore_eos": True}) as stream:
            next(iter(stream))
        gone()
        self.assertTrue(self.chat().choices)

    def test_no_server(self):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{s.getsockname()[1]}/v1"
        with openai.OpenAI(base_url=url, api_key="x", max_retries=0) as client, self.assertRaises(openai.APIConnectionError):
            client.models.list()

    def test_shutdown(self):
        """A stream that is cut at the end of the server is an exception of the client's, not a short answer."""
        server = Server("--drain-timeout", "0")
        with client_of(server) as client, self.assertRaises(openai.APIError):
            with self.chat(client, stream=True, n=8, max_completion_tokens=900, extra_body={"ignore_eos": True}) as stream:
                for i, _ in enumerate(stream):
                    if i == 8:
                        server.process.terminate()
        server.stop(0)


class Async(Base):
    def test_async(self):
        asyncio.run(self.all())

    async def all(self):
        async with client_of(self.server, openai.AsyncOpenAI) as client:
            fields = {"model": "demo", "messages": HELLO, "temperature": 0, "max_completion_tokens": 12}
            alone = await client.chat.completions.create(**fields)
            many = await asyncio.gather(*(client.chat.completions.create(**fields) for _ in range(6)))
            self.assertEqual({m.choices[0].message.content for m in many}, {alone.choices[0].message.content})
            text = ""
            async with await client.chat.completions.create(stream=True, **fields) as stream:
                async for chunk in stream:
                    text += chunk.choices[0].delta.content or ""
            self.assertEqual(text, alone.choices[0].message.content)
            gone = self.cancels()
            task = asyncio.create_task(client.chat.completions.create(
                **{**fields, "max_completion_tokens": 900}, n=8, extra_body={"ignore_eos": True}))
            await asyncio.sleep(0.3)
            task.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await task
            await asyncio.to_thread(gone)
