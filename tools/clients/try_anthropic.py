# SPDX-License-Identifier: MIT
"""The anthropic SDK against POST /v1/messages."""
import asyncio
import os
import tempfile

import anthropic

from common import HELLO, KEY, SCHEMA, Case, Server, thinking_model
from try_openai import Trip

TOOL = {"name": "get_weather", "description": "Weather", "input_schema": SCHEMA}
THINKS = {"thinking": {"type": "enabled", "budget_tokens": 1024}}


def client_of(server, kind=anthropic.Anthropic, **more):
    options = {"api_key": KEY, "max_retries": 0, "timeout": 120, "_strict_response_validation": True, **more}
    return kind(base_url=server.url, **options)


class Base(Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.client = client_of(cls.server)
        cls.addClassCleanup(cls.client.close)

    @staticmethod
    def fields(**more):
        """This version of the client has no temperature and the like any more; they go beside its own fields."""
        beside = {"temperature": 0, **{k: more.pop(k) for k in ("temperature", "top_k", "top_p", "ignore_eos") if k in more}}
        return {"model": "demo", "max_tokens": 16, "messages": HELLO, "extra_body": beside, **more}

    def ask(self, client=None, **more):
        return (client or self.client).messages.create(**self.fields(**more))


class Messages(Base):
    def test_create(self):
        a = self.ask()
        self.assertEqual((a.type, a.role, a.model, a.stop_reason, a.stop_sequence), ("message", "assistant", "demo", "max_tokens", None))
        self.assertEqual([b.type for b in a.content], ["text"])
        self.assertEqual(a.usage.output_tokens, 16)
        again = self.ask()
        self.assertEqual(again.content, a.content)
        self.assertGreater(again.usage.cache_read_input_tokens, 0)
        self.assertEqual(again.usage.input_tokens + again.usage.cache_read_input_tokens,
                         a.usage.input_tokens + a.usage.cache_read_input_tokens)

    def test_stream_helper(self):
        whole = self.ask(max_tokens=30)
        with self.client.messages.stream(**self.fields(max_tokens=30)) as stream:
            text = "".join(stream.text_stream)
            final = stream.get_final_message()
        self.assertEqual((text, final.content[0].text), (whole.content[0].text, whole.content[0].text))
        self.assertEqual((final.stop_reason, final.usage.output_tokens), ("max_tokens", 30))
        self.assertEqual(final.usage.cache_read_input_tokens + final.usage.input_tokens,
                         whole.usage.cache_read_input_tokens + whole.usage.input_tokens)

    def test_raw_stream(self):
        with self.ask(stream=True) as stream:
            kinds = [event.type for event in stream]
        self.assertEqual([k for k in kinds if k != "content_block_delta"],
                         ["message_start", "content_block_start", "content_block_stop", "message_delta", "message_stop"])

    def test_stop(self):
        whole = self.ask(max_tokens=40).content[0].text
        a = self.ask(max_tokens=40, stop_sequences=["never", whole[12:17]])
        self.assertEqual((a.stop_reason, a.stop_sequence, a.content[0].text),
                         ("stop_sequence", whole[12:17], whole[:whole.index(whole[12:17])]))
        with self.client.messages.stream(**self.fields(max_tokens=40, stop_sequences=[whole[12:17]])) as stream:
            final = stream.get_final_message()
        self.assertEqual((final.stop_reason, final.stop_sequence, final.content[0].text),
                         (a.stop_reason, a.stop_sequence, a.content[0].text))

    def test_conversation(self):
        cached = {"cache_control": {"type": "ephemeral"}}
        a = self.ask(system=[{"type": "text", "text": "Be kind", **cached}], metadata={"user_id": "me"}, top_k=1, top_p=0.9, messages=[
            {"role": "user", "content": [{"type": "text", "text": "Hello", **cached}]}, {"role": "assistant", "content": "Hi"},
            {"role": "user", "content": "Once"}])
        self.assertTrue(a.content)
        goes_on = self.ask(messages=HELLO + [{"role": "assistant", "content": "there was"}])
        self.assertTrue(goes_on.content[0].text)

    def test_count(self):
        fields = {"model": "demo", "messages": HELLO, "system": "Be kind", "tools": [TOOL]}
        n = self.client.messages.count_tokens(**fields).input_tokens
        a = self.ask(**fields).usage
        self.assertEqual(n, a.input_tokens + a.cache_read_input_tokens)

    def test_models(self):
        models = anthropic.Anthropic(base_url=self.server.url, api_key=KEY, max_retries=0).models
        self.assertEqual([m.id for m in models.list()], ["demo"])
        self.assertEqual(models.retrieve("demo").id, "demo")

    def test_tool(self):
        choice = {"type": "tool", "name": "get_weather", "disable_parallel_tool_use": True}
        a = self.ask(tools=[TOOL], tool_choice=choice, max_tokens=400)
        self.assertEqual((a.stop_reason, [b.type for b in a.content]), ("tool_use", ["tool_use"]))
        call = a.content[0]
        self.assertIn(call.input["city"], ("Paris", "Rome"))
        kinds = []
        with self.client.messages.stream(**self.fields(tools=[TOOL], tool_choice={**choice, "type": "any"}, max_tokens=400)) as stream:
            for event in stream:
                kinds.append(event.type)
            final = stream.get_final_message()
        self.assertEqual((final.stop_reason, final.content[0].input, final.content[0].name), ("tool_use", call.input, "get_weather"))
        self.assertIn("input_json", kinds)
        talk = HELLO + [{"role": "assistant", "content": [b.model_dump(exclude_none=True) for b in a.content]},
                        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "It rains"}]}]
        b = self.ask(tools=[TOOL], messages=talk)
        self.assertEqual([c.type for c in b.content], ["text"])
        self.assertGreater(b.usage.cache_read_input_tokens, 100)
        error = talk[:-1] + [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "is_error": True,
                                                           "content": [{"type": "text", "text": "no"}]}]}]
        self.assertTrue(self.ask(tools=[TOOL], messages=error).content)

    def test_parse(self):
        a = self.client.messages.parse(**self.fields(max_tokens=200, output_format=Trip))
        self.assertIsInstance(a.parsed_output, Trip)


class Thinking(Base):
    @classmethod
    def setUpClass(cls):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "thinks.gguf")
            thinking_model(path)
            cls.server = Server(model=path)
        cls.addClassCleanup(cls.server.stop)
        cls.client = client_of(cls.server)
        cls.addClassCleanup(cls.client.close)

    def test_thinking(self):
        fields = self.fields(max_tokens=60, **THINKS)
        a = self.client.messages.create(**fields)
        self.assertEqual([b.type for b in a.content], ["thinking", "text"])
        kinds = []
        with self.client.messages.stream(**fields) as stream:
            for event in stream:
                kinds.append(event.type)
            final = stream.get_final_message()
        self.assertEqual([(b.type, getattr(b, "thinking", None) or b.text) for b in final.content],
                         [("thinking", a.content[0].thinking), ("text", a.content[1].text)])
        self.assertIn("thinking", kinds)
        talk = HELLO + [{"role": "assistant", "content": [b.model_dump(exclude_none=True) for b in a.content]},
                        {"role": "user", "content": "And then?"}]
        self.assertTrue(self.client.messages.create(**{**fields, "messages": talk}).content)

    def test_kinds(self):
        for thinking in ({"type": "disabled"}, {"type": "adaptive"}, {"type": "between_tools"}):
            self.assertTrue(self.ask(thinking=thinking).content, thinking)
        self.assertEqual([b.type for b in self.ask(thinking={"type": "disabled"}).content], ["text"])

    def test_forms_end_reasoning(self):
        a = self.ask(tools=[TOOL], tool_choice={"type": "any", "disable_parallel_tool_use": True}, **{**THINKS, "max_tokens": 500})
        self.assertEqual((a.stop_reason, [b.type for b in a.content]), ("tool_use", ["tool_use"]))
        a = self.client.messages.parse(**self.fields(max_tokens=300, output_format=Trip, **THINKS))
        self.assertIsInstance(a.parsed_output, Trip)


class Errors(Base):
    def test_400(self):
        for fields in ({"temperature": -1}, {"max_tokens": -1}, {"messages": []}, {"messages": [{"role": "boss", "content": "a"}]}):
            with self.assertRaises(anthropic.BadRequestError) as caught:
                self.ask(**fields)
            self.assertEqual((caught.exception.type, caught.exception.body["type"]), ("invalid_request_error", "error"))
        with self.assertRaises(anthropic.BadRequestError):
            self.ask(messages=[{"role": "user", "content": "word " * 3000}])
        with self.assertRaises(anthropic.BadRequestError):
            with self.client.messages.stream(**self.fields(temperature=-1)):
                pass

    def test_401(self):
        with client_of(self.server, api_key="wrong") as client, self.assertRaises(anthropic.AuthenticationError) as caught:
            self.ask(client)
        self.assertEqual(caught.exception.body["error"]["type"], "authentication_error")
        with client_of(self.server, api_key=None, auth_token=KEY) as client:
            self.assertTrue(self.ask(client).content)

    def test_404(self):
        with self.assertRaises(anthropic.NotFoundError):
            self.client.get("/v1/nothing", cast_to=object)

    def test_413(self):
        with self.assertRaises(anthropic.APIStatusError) as caught:
            self.ask(messages=[{"role": "user", "content": "word " * 400000}])
        self.assertEqual((caught.exception.status_code, caught.exception.body["error"]["type"]), (413, "request_too_large"))

    def test_timeout_and_cancel(self):
        gone = self.cancels()
        with self.assertRaises(anthropic.APITimeoutError):
            self.ask(max_tokens=900, timeout=0.3, ignore_eos=True)
        gone()
        gone = self.cancels()
        with self.client.messages.stream(**self.fields(max_tokens=900, ignore_eos=True)) as stream:
            next(iter(stream.text_stream))
        gone()

    def test_shutdown(self):
        """A stream that is cut is an exception, with the kind of error that Anthropic has for it."""
        server = Server("--drain-timeout", "0")
        with client_of(server) as client, self.assertRaises(anthropic.APIStatusError) as caught:
            with client.messages.stream(**self.fields(max_tokens=900, ignore_eos=True)) as stream:
                for i, _ in enumerate(stream):
                    if i == 8:
                        server.process.terminate()
        self.assertEqual(caught.exception.body["error"]["type"], "overloaded_error")
        server.stop(0)


class Async(Base):
    def test_async(self):
        async def ask():
            async with client_of(self.server, anthropic.AsyncAnthropic) as client:
                whole = await client.messages.create(**self.fields())
                async with client.messages.stream(**self.fields()) as stream:
                    text = "".join([t async for t in stream.text_stream])
                return whole.content[0].text, text
        whole, text = asyncio.run(ask())
        self.assertEqual(whole, text)
