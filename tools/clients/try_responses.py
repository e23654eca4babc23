# SPDX-License-Identifier: MIT
"""openai-python against POST /v1/responses: whole answers, every event of a stream, calls, schemas."""
import asyncio
import os
import tempfile
import unittest

import openai

from common import HELLO, SCHEMA, Case, Server, thinking_model
from try_openai import Base, Trip, client_of

TOOL = {"type": "function", "name": "get_weather", "description": "Weather", "parameters": SCHEMA, "strict": True}
BEGIN = ["response.created", "response.in_progress"]


def check_order(test, events):
    """That events are numbered, and that each item is opened, filled and closed before the next is."""
    test.assertEqual([e.sequence_number for e in events], list(range(len(events))))
    test.assertEqual([e.type for e in events[:2]], BEGIN)
    index, opened = -1, None
    for e in events[2:-1]:
        if e.type == "response.output_item.added":
            test.assertIsNone(opened)
            index, opened = index + 1, e.item.id
        else:
            test.assertIsNotNone(opened, e)
            test.assertEqual(getattr(e, "item_id", opened), opened)
        test.assertEqual(e.output_index, index)
        if e.type == "response.output_item.done":
            test.assertEqual(e.item.id, opened)
            opened = None
    test.assertIsNone(opened)
    test.assertEqual(len(events[-1].response.output), index + 1)


class Responses(Base):
    def ask(self, **fields):
        return self.client.responses.create(**{"model": "demo", "input": "Once upon a time", "temperature": 0,
                                               "max_output_tokens": 16, **fields})

    def test_create(self):
        a = self.ask()
        self.assertEqual((a.object, a.status, a.incomplete_details.reason), ("response", "incomplete", "max_output_tokens"))
        self.assertEqual((a.usage.output_tokens, a.usage.total_tokens), (16, 16 + a.usage.input_tokens))
        self.assertEqual((a.output[0].type, a.output[0].role), ("message", "assistant"))
        chat = self.chat().choices[0].message.content
        self.assertEqual(a.output_text, chat)
        b = self.ask(input=[{"role": "user", "content": [{"type": "input_text", "text": "Once upon a time"}]}], instructions="")
        self.assertEqual(b.output_text, chat)
        whole = self.ask(max_output_tokens=None, text={"format": {"type": "text"}})
        self.assertIn(whole.status, ("completed", "incomplete"))

    def test_stream(self):
        with self.ask(stream=True) as stream:
            events = list(stream)
        check_order(self, events)
        kinds = [e.type for e in events if e.type != "response.output_text.delta"]
        self.assertEqual(kinds, BEGIN + ["response.output_item.added", "response.content_part.added", "response.output_text.done",
                                         "response.content_part.done", "response.output_item.done", "response.incomplete"])
        text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
        self.assertEqual((text, events[-1].response.output_text), (self.ask().output_text, text))
        self.assertEqual(events[-1].response.usage.output_tokens, 16)

    def test_stream_helper(self):
        with self.client.responses.stream(model="demo", input="Once upon a time", temperature=0, tools=[TOOL],
                                          tool_choice="required", parallel_tool_calls=False) as stream:
            events = list(stream)
            final = stream.get_final_response()
        self.assertEqual(final.status, "completed")
        self.assertEqual([o.type for o in final.output], ["function_call"])
        self.assertIn(final.output[0].parsed_arguments["city"], ("Paris", "Rome"))
        check_order(self, events)

    def test_call(self):
        a = self.ask(tools=[TOOL], tool_choice={"type": "function", "name": "get_weather"}, parallel_tool_calls=False,
                     max_output_tokens=400)
        call, = a.output
        self.assertEqual((a.status, call.type, call.name, call.status), ("completed", "function_call", "get_weather", "completed"))
        talk = [{"role": "user", "content": "Once upon a time"}, call.model_dump(exclude_none=True),
                {"type": "function_call_output", "call_id": call.call_id, "output": "It rains"}]
        b = self.ask(input=talk, tools=[TOOL])
        self.assertEqual([o.type for o in b.output], ["message"])
        self.assertGreater(b.usage.input_tokens_details.cached_tokens, 100)

    def test_parse(self):
        a = self.client.responses.parse(model="demo", input="Once upon a time", text_format=Trip, temperature=0)
        self.assertIsInstance(a.output_parsed, Trip)
        with self.client.responses.stream(model="demo", input="Once upon a time", text_format=Trip, temperature=0) as stream:
            for _ in stream:
                pass
            self.assertEqual(stream.get_final_response().output_parsed, a.output_parsed)

    def test_talk_goes_on(self):
        """What an answer put out is put in again, as clients without a memory on the server do."""
        a = self.ask()
        talk = [{"role": "user", "content": "Once upon a time"}] + [o.model_dump(exclude_none=True) for o in a.output]
        b = self.ask(input=talk + [{"role": "user", "content": "And then?"}], store=False, include=["reasoning.encrypted_content"])
        self.assertTrue(b.output_text)
        self.assertGreater(b.usage.input_tokens_details.cached_tokens, a.usage.input_tokens)

    def test_errors(self):
        for fields in ({"temperature": -1}, {"previous_response_id": "resp_1"}, {"max_output_tokens": 0}, {"background": True}):
            with self.assertRaises(openai.BadRequestError) as caught:
                self.ask(**fields)
            self.assertEqual(caught.exception.param, next(iter(fields)))
        with client_of(self.server, api_key="wrong") as client, self.assertRaises(openai.AuthenticationError):
            client.responses.create(model="demo", input="a")
        with self.assertRaises(openai.NotFoundError):
            self.client.responses.retrieve("resp_1")

    def test_cancel(self):
        gone = self.cancels()
        with self.ask(stream=True, max_output_tokens=900, extra_body={"ignore_eos": True}) as stream:
            for event in stream:
                if event.type == "response.output_text.delta":
                    break
        gone()

    def test_shutdown(self):
        """A stream that is cut ends with an error of the interface."""
        server = Server("--drain-timeout", "0")
        kinds = []
        with client_of(server) as client:
            try:
                with client.responses.create(model="demo", input="Once", stream=True, extra_body={"ignore_eos": True}) as stream:
                    for i, event in enumerate(stream):
                        kinds.append(event.type)
                        if i == 8:
                            server.process.terminate()
            except openai.APIError:
                kinds.append("error")
        self.assertIn(kinds[-1], ("error", "response.failed"))
        server.stop(0)

    def test_async(self):
        async def ask():
            async with client_of(self.server, openai.AsyncOpenAI) as client:
                fields = {"model": "demo", "input": "Once upon a time", "temperature": 0, "max_output_tokens": 16}
                whole = await client.responses.create(**fields)
                text = ""
                async for event in await client.responses.create(stream=True, **fields):
                    text += event.delta if event.type == "response.output_text.delta" else ""
                return whole.output_text, text
        whole, text = asyncio.run(ask())
        self.assertEqual(whole, text)


class Thinking(Case):
    """A model that thinks for a sentence, in OpenAI's two interfaces."""

    @classmethod
    def setUpClass(cls):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "thinks.gguf")
            thinking_model(path)
            cls.server = Server(model=path)
        cls.addClassCleanup(cls.server.stop)
        cls.client = client_of(cls.server)
        cls.addClassCleanup(cls.client.close)
        cls.fields = {"extra_body": {"chat_template_kwargs": {"enable_thinking": True}}, "temperature": 0, "model": "demo"}

    def test_responses(self):
        fields = {**self.fields, "input": "Once upon a time", "max_output_tokens": 60}
        whole = self.client.responses.create(**fields)
        self.assertEqual([o.type for o in whole.output], ["reasoning", "message"])
        with self.client.responses.create(stream=True, **fields) as stream:
            events = list(stream)
        check_order(self, events)
        self.assertEqual("".join(e.delta for e in events if e.type == "response.reasoning_text.delta"), whole.output[0].content[0].text)
        self.assertEqual("".join(e.delta for e in events if e.type == "response.output_text.delta"), whole.output_text)
        talk = [*HELLO, *(o.model_dump(exclude_none=True) for o in whole.output), {"role": "user", "content": "And?"}]
        self.assertTrue(self.client.responses.create(**{**fields, "input": talk}).output)

    def test_chat(self):
        fields = {**self.fields, "messages": HELLO, "max_completion_tokens": 60}
        whole = self.client.chat.completions.create(**fields).choices[0].message
        self.assertTrue(whole.reasoning_content and whole.content)
        with self.client.chat.completions.create(stream=True, **fields) as stream:
            deltas = [c.choices[0].delta for c in stream]
        self.assertEqual("".join(getattr(d, "reasoning_content", None) or "" for d in deltas), whole.reasoning_content)
        self.assertEqual("".join(d.content or "" for d in deltas), whole.content)
