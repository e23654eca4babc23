#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Chat templates beside Python's Jinja, set up as Hugging Face sets it up:

    test_jinja.py CHAT_LINES ROOT [--seed=N] [TEMPLATE …]

Some 1,000 made conversations (tools, thoughts, system messages, all kinds of characters, special tokens in content)
through the templates of tests/data/templates and that of phi-3's file, and expressions one by one. What Python renders
must be the same bytes, what it refuses must be refused, with the template's own sentence where it has one. And no byte
of content may be called markup: all content has a character that no template has.
"""
import datetime
import json
import pathlib
import random
import subprocess
import sys

try:
    import jinja2
    import jinja2.ext
    import jinja2.sandbox
except ImportError:
    print("SKIPPED: jinja: Python's jinja2 is not installed")
    sys.exit(77)

ARGS = [a for a in sys.argv[1:] if not a.startswith("--seed=")]
SEED = int(([a[7:] for a in sys.argv[1:] if a.startswith("--seed=")] or ["10"])[0])
PROGRAM, ROOT = ARGS[0], pathlib.Path(ARGS[1])
CANARY = "\u00a4"
NOW = "2025-03-09"


class Generation(jinja2.ext.Extension):
    """Hugging Face's tag for what a model has said."""
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("said"), [], [], body).set_lineno(line)

    @staticmethod
    def said(caller):
        return caller()


class Refused(Exception):
    pass


def refuse(message):
    raise Refused(message)


def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def environment():
    env = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", Generation])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = refuse
    env.globals["strftime_now"] = datetime.datetime.fromisoformat(NOW).strftime
    return env


ENV = environment()


def ask(lines):
    data = "".join(json.dumps(line) + "\n" for line in lines).encode()
    out = subprocess.run([PROGRAM], input=data, stdout=subprocess.PIPE, check=True).stdout
    answers = [json.loads(line) for line in out.decode().split("\n")[:-1]]
    assert len(answers) == len(lines), (len(answers), len(lines))
    return answers


# ---------------------------------------------------------------------- what a request becomes

class Arguments(dict):
    """Notices when a template writes it as Python spells it."""
    printed = False

    def __repr__(self):
        Arguments.printed = True
        return super().__repr__()

    __str__ = __repr__


def shaped(request, nulls, objects):
    request = json.loads(json.dumps(request))
    for message in request["messages"]:
        if "content" in message and message["content"] is None and not nulls:
            message["content"] = ""
        for call in message.get("tool_calls", []):
            if objects:
                call["function"]["arguments"] = Arguments(json.loads(call["function"]["arguments"]))
    return request


def variables(request, bos, eos):
    fixed = {"tools": None, "documents": None, "add_generation_prompt": True, "bos_token": bos, "eos_token": eos}
    fixed.update(request)
    fixed["tools"] = fixed["tools"] or None
    return fixed


def attempt(template, request, tokens):
    try:
        Arguments.printed = False
        return template.render(**variables(request, *tokens)), None
    except Exception as why: # whatever a template stumbles over is a refusal
        return None, why


def takes_parts(template, tokens):
    probe = {"messages": [{"role": "user", "content": [{"type": "text", "text": "pgprobe"}]}]}
    text, _ = attempt(template, probe, tokens)
    return text is not None and "pgprobe" in text and "'type'" not in text and '"type"' not in text


def rendered(template, request, tokens):
    """The forms are tried in the same order as there; that a null was written is seen by comparing."""
    request = json.loads(json.dumps(request))
    if not takes_parts(template, tokens):
        for message in request["messages"]:
            if isinstance(message.get("content"), list):
                message["content"] = "\n".join(p["text"] for p in message["content"])
    has_nulls = any("content" in m and m["content"] is None for m in request["messages"])
    has_arguments = any("tool_calls" in m for m in request["messages"])
    first = None
    for objects in (True, False):
        for nulls in (True, False):
            if (not nulls and not has_nulls) or (not objects and not has_arguments):
                continue
            text, why = attempt(template, shaped(request, nulls, objects), tokens)
            printed = objects and has_arguments and Arguments.printed
            if text is not None and has_nulls and nulls:
                other, _ = attempt(template, shaped(request, False, objects), tokens)
                printed = printed or text.count("None") > (other or "").count("None")
            if text is not None and not printed:
                return text, None
            if first is None or (first[0] is None and text is not None):
                first = text, why
    return first[0], first[1]


# ---------------------------------------------------------------------- conversations

WORDS = ["Hello", "what", "is", "the", "weather", "\u5317\u4eac", "caf\u00e9", "\U0001f600", "<|im_end|>", "<|im_start|>system",
         "[INST]", "</s>", "{{ 7 * 7 }}", "{% if x %}", "\"quoted\"", "it's", "back\\slash", "a\tb", "\u2028", "\u00a0",
         "<tool_call>", "<think>x</think>", "&amp;", "<b>", "e\u0301", "\u0130", "1e5", "none", "\x7f"]


def text_of(r, lead=True):
    words = [r.choice(WORDS) for _ in range(r.randrange(1, 9))] + [CANARY]
    text = r.choice([" ", " ", "\n"]).join(words)
    return r.choice(["", "", "", " ", "\n", "\n\n"]) * lead + text + r.choice(["", "", "", "\n", "  "])


def value_of(r, depth=0):
    kind = r.randrange(8 if depth < 3 else 6)
    return [lambda: r.randrange(-5, 1000), lambda: r.choice([0.5, 1e20, -2.25, 1e-7, 3.0, 100000.0, 1.1]), lambda: None,
            lambda: r.random() < 0.5, lambda: text_of(r), lambda: "plain",
            lambda: [value_of(r, depth + 1) for _ in range(r.randrange(3))],
            lambda: {r.choice("abcdef") * r.randrange(1, 3): value_of(r, depth + 1) for _ in range(r.randrange(4))}][kind]()


def schema_of(r, depth=0):
    kind = r.choice(["string", "integer", "number", "boolean", "array", "object", "enum", "union", "any"])
    if kind in ("array", "object") and depth > 2:
        kind = "string"
    spec = {"type": kind}
    if kind == "array":
        spec["items"] = schema_of(r, depth + 1)
    elif kind == "object":
        spec["properties"] = {f"p{i}": schema_of(r, depth + 1) for i in range(r.randrange(3))}
        spec["required"] = list(spec["properties"])[:1]
    elif kind == "enum":
        spec = {"type": "string", "enum": [text_of(r), "b"]}
    elif kind == "union":
        spec = {"type": ["string", "integer", "number"]}
    elif kind == "any":
        spec = {"anyOf": [{"type": "string"}, {"type": "integer"}], "nullable": True}
    if r.random() < 0.5:
        spec["description"] = text_of(r)
    return spec


def tool_of(r, i):
    function = {"name": f"tool_{i}", "description": text_of(r),
                "parameters": {"type": "object", "properties": {f"arg{k}": schema_of(r) for k in range(r.randrange(4))},
                               "required": ["arg0"]}}
    if r.random() < 0.2:
        function["strict"] = True
    return {"type": "function", "function": function}


def call_of(r):
    arguments = {f"arg{k}": value_of(r) for k in range(r.randrange(4))}
    return {"id": "".join(r.choice("abcXYZ019") for _ in range(9 if r.random() < 0.95 else 5)), "type": "function",
            "function": {"name": f"tool_{r.randrange(3)}", "arguments": json.dumps(arguments, ensure_ascii=r.random() < 0.5)}}


def content_of(r):
    if r.random() < 0.1:
        return [{"type": "text", "text": text_of(r)} for _ in range(r.randrange(1, 3))]
    return text_of(r) if r.random() < 0.97 else ""


def use_of_tools(r):
    message = {"role": "assistant", "content": r.choice([None, "", text_of(r)]),
               "tool_calls": [call_of(r) for _ in range(r.choice([1, 1, 1, 2]))]}
    if r.random() < 0.1:
        del message["content"]
    if r.random() < 0.3:
        message["reasoning_content"] = text_of(r)
    return [message] + [{"role": "tool", "content": text_of(r), "tool_call_id": c["id"], "name": c["function"]["name"]}
                        for c in message["tool_calls"]]


def conversation(r):
    messages = [{"role": "system", "content": content_of(r)}] if r.random() < 0.4 else []
    with_tools = r.random() < 0.4
    for i in range(r.randrange(1, 4)):
        messages.append({"role": "user", "content": content_of(r)})
        if with_tools and r.random() < 0.7:
            messages += use_of_tools(r)
        if i or r.random() < 0.7:
            answer = {"role": "assistant", "content": content_of(r)}
            if r.random() < 0.2:
                answer["reasoning_content"] = text_of(r)
            if r.random() < 0.2:
                answer["content"] = "<think>\n" + text_of(r) + "\n</think>\n\n" + text_of(r)
            messages.append(answer)
    if messages[-1]["role"] == "assistant" and r.random() < 0.8:
        messages.append({"role": "user", "content": content_of(r)})
    if r.random() < 0.05:
        r.shuffle(messages)
    if r.random() < 0.03:
        messages[0]["role"] = r.choice(["developer", "tool", "critic" + CANARY])
    request = {"messages": messages, "now": NOW}
    if with_tools:
        request["tools"] = [tool_of(r, i) for i in range(r.randrange(1, 3))]
    for name, values in {"add_generation_prompt": [True, False], "enable_thinking": [True, False], "tools": [[], None],
                         "reasoning_effort": ["high", ""], "date_string": ["1 Jan 2024"], "tools_in_user_message": [False],
                         "builtin_tools": [["tool_0", "code_interpreter"]]}.items():
        if r.random() < 0.2 and name not in request:
            request[name] = r.choice(values)
    return request


# ---------------------------------------------------------------------- comparing

class Count:
    same = refused = bad = 0


def report(what, request, found, wanted):
    Count.bad += 1
    if Count.bad > 5:
        return
    print(f"{what}: {json.dumps(request)[:1500]}\n  found  {ascii(found)[:1500]}\n  wanted {ascii(wanted)[:1500]}")
    if isinstance(found, str) and isinstance(wanted, str):
        i = next((i for i, (a, b) in enumerate(zip(found, wanted)) if a != b), min(len(found), len(wanted)))
        print(f"  at {i}: {ascii(found[max(i - 40, 0):i + 40])} / {ascii(wanted[max(i - 40, 0):i + 40])}")


def compare(what, request, answer, text, why):
    if isinstance(why, Refused):
        Count.refused += 1
        if answer.get("code") != -5 or answer["error"].strip() != str(why).replace("\n", " ").replace("\x7f", " ")[:440].strip():
            report(what, request, answer, f"refused: {why}")
    elif text is None:
        Count.refused += 1
        if "error" not in answer:
            report(what, request, answer["text"], repr(why))
    elif answer.get("text") != text:
        report(what, request, answer.get("text", answer), text)
    else:
        Count.same += 1
        data = text.encode()
        assert len(answer["marks"]) == len(data)
        canary = CANARY.encode()
        at = data.find(canary)
        while at >= 0:
            if answer["marks"][at:at + len(canary)] != "cc":
                report(what + ": content as markup", request, answer["marks"], text)
                return
            at = data.find(canary, at + 1)


def check_template(name, source, n, r):
    lines = [{"template": source}]
    requests = [conversation(r) for _ in range(n)]
    answers = ask(lines + [{"request": q} for q in requests])
    if "error" in answers[0]:
        Count.bad += 1
        print(f"{name}: {answers[0]}")
        return
    template = ENV.from_string(source)
    for request, answer in zip(requests, answers[1:]):
        text, why = rendered(template, request, ("", ""))
        compare(name, request, answer, text, why)


def phi3_template():
    """Out of the file's directory, whose strings have their length before them."""
    data = (ROOT / "tests/data/vocab/phi-3.gguf").read_bytes()
    at = data.index(b"tokenizer.chat_template") + len("tokenizer.chat_template") + 4
    n = int.from_bytes(data[at:at + 8], "little")
    return data[at + 8:at + 8 + n].decode()


SNIPPETS = ROOT / "tests/data/templates/snippets.txt"


def check_snippets():
    """One template a line; what they see is fixed."""
    seen = {"messages": [{"role": "user", "content": "hi"}], "now": NOW, "s": "Hello, W\u00f6rld", "e": "", "n": 7, "f": 2.5,
            "neg": -3, "t": True, "l": [3, 1, 2], "w": ["b", "A", "c", "a"], "d": {"b": 1, "a": [1, 2], "items": 5},
            "people": [{"name": "Bo", "age": 3}, {"name": "al", "age": 20}, {"name": "Cy"}], "nested": {"x": {"y": ["z"]}},
            "none_": None, "big": 2 ** 53, "html": "<a href=\"x\">'&'</a>", "lines": "a\n\nb\r\nc\n", "sp": "  x y  z "}
    lines = [line for line in SNIPPETS.read_text("utf-8").split("\n") if line and not line.startswith("##")]
    sources = [line.replace("\u21b5", "\n") for line in lines]
    pairs = [{"template": s} if k == 0 else {"request": seen} for s in sources for k in range(2)]
    answers = ask(pairs)
    for i, source in enumerate(sources):
        answer = answers[2 * i] if "error" in answers[2 * i] else answers[2 * i + 1]
        text = why = None
        try:
            text, why = attempt(ENV.from_string(source), seen, ("", ""))
        except (jinja2.TemplateSyntaxError, SyntaxError) as syntax:
            why = syntax
        compare(f"snippet {source!r}", {}, answer, text, why)
    return len(lines)


def main():
    r = random.Random(SEED)
    if ARGS[2:]:
        found = [(p, pathlib.Path(p).read_text("utf-8")) for p in ARGS[2:]]
    else:
        found = [(p.name, p.read_text("utf-8")) for p in sorted((ROOT / "tests/data/templates").glob("*.jinja"))]
        found.append(("phi-3.gguf", phi3_template()))
    assert len(found) >= 12 or ARGS[2:]
    n = check_snippets()
    assert n > 200
    for name, source in found:
        before = Count.same, Count.refused, Count.bad
        check_template(name, source, 80, r)
        same, refused, bad = (a - b for a, b in zip((Count.same, Count.refused, Count.bad), before))
        print(f"{name}: {same} the same, {refused} refused, {bad} differences")
        assert same >= 10 or bad or ARGS[2:]
    print(f"{len(found)} templates, {n} expressions: {Count.same} renderings the same, {Count.refused} refused by both, "
          f"{Count.bad} differences")
    sys.exit(Count.bad > 0)


main()
