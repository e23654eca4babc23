#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""JSON schemas as grammars: random walks over what a grammar allows always write JSON that keeps to the schema, texts
that keep to it in the usual spelling are taken, and what cannot be said exactly is refused by name.

    test_grammar.py WALK SOURCE_DIR     WALK is built from grammar_walk.c
"""
import json
import os
import random
import re
import subprocess
import sys
import unittest

WALK, SOURCE = sys.argv[1:3]
VOCABS = [os.path.join(SOURCE, "tests", "data", "vocab", name)
          for name in ("phi-3.gguf", "deepseek-llm.excerpt.gguf")]


def walk(vocab, what, *fields):
    """The answers to fields, each of which is a text or a schema."""
    texts = [f if isinstance(f, str) else json.dumps(f, ensure_ascii=False) for f in fields]
    done = subprocess.run([WALK, vocab, *what], input="".join(t + "\0" for t in texts).encode(), check=True,
                          stdout=subprocess.PIPE)
    return done.stdout.decode().split("\0")[:-1]


# ---------------------------------------------------------------- a checker of its own

TYPES = {"null": lambda v: v is None, "boolean": lambda v: isinstance(v, bool), "object": lambda v: isinstance(v, dict),
         "array": lambda v: isinstance(v, list), "string": lambda v: isinstance(v, str),
         "integer": lambda v: not isinstance(v, bool) and (isinstance(v, int) or isinstance(v, float) and v % 1 == 0),
         "number": lambda v: not isinstance(v, bool) and isinstance(v, (int, float))}
FORMATS = {
    "date": r"\d{4}-\d\d-\d\d", "time": r"\d\d:\d\d:\d\d(\.\d+)?(Z|[-+]\d\d:\d\d)",
    "date-time": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[-+]\d\d:\d\d)",
    "uuid": "[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"}


def follow(root, ref):
    at = root
    for step in ref.lstrip("#").split("/")[1:]:
        step = step.replace("~1", "/").replace("~0", "~")
        at = at[int(step)] if isinstance(at, list) else at[step]
    return at


def real_day(text):
    year, month, day = map(int, text[:10].split("-"))
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    return 1 <= month <= 12 and 1 <= day <= [31, 29 if leap else 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31][month - 1]


def same(a, b):
    """Equal as JSON: a truth value is no number."""
    return a == b and isinstance(a, bool) == isinstance(b, bool)


def string_holds(s, v):
    if not s.get("minLength", 0) <= len(v) <= s.get("maxLength", 1 << 30):
        return False
    if "pattern" in s and not re.search(s["pattern"], v, re.ASCII):
        return False
    if s.get("format") in FORMATS and not re.fullmatch(FORMATS[s["format"]], v):
        return False
    return s.get("format") not in ("date", "date-time") or real_day(v)


def number_holds(s, v):
    return (v >= s.get("minimum", v) and v <= s.get("maximum", v)
            and ("exclusiveMinimum" not in s or v > s["exclusiveMinimum"])
            and ("exclusiveMaximum" not in s or v < s["exclusiveMaximum"]))


def array_holds(root, s, v):
    first = s.get("prefixItems", [])
    if not s.get("minItems", 0) <= len(v) <= s.get("maxItems", 1 << 30):
        return False
    return all(holds(root, first[i] if i < len(first) else s.get("items", True), x) for i, x in enumerate(v))


def object_holds(root, s, v):
    known = s.get("properties", {})
    return (all(name in v for name in s.get("required", []))
            and all(holds(root, known[k] if k in known else s.get("additionalProperties", True), x)
                    for k, x in v.items()))


def holds(root, s, v):
    if isinstance(s, bool):
        return s
    if s.get("nullable") and v is None:
        return True
    types = s.get("type", list(TYPES))
    parts = [any(TYPES[t](v) for t in ([types] if isinstance(types, str) else types)),
             "enum" not in s or any(same(v, e) for e in s["enum"]), "const" not in s or same(v, s["const"]),
             "$ref" not in s or holds(root, follow(root, s["$ref"]), v),
             all(holds(root, x, v) for x in s.get("allOf", [])),
             "anyOf" not in s or any(holds(root, x, v) for x in s["anyOf"]),
             "oneOf" not in s or sum(holds(root, x, v) for x in s["oneOf"]) == 1]
    if not all(parts):
        return False
    if isinstance(v, str):
        return string_holds(s, v)
    if isinstance(v, list):
        return array_holds(root, s, v)
    if isinstance(v, dict):
        return object_holds(root, s, v)
    return isinstance(v, bool) or v is None or number_holds(s, v)


# ---------------------------------------------------------------- schemas

PERSON = {
    "type": "object", "title": "Person", "properties": {
        "name": {"type": "string", "minLength": 1, "description": "of a \"person\""},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "mood": {"enum": ["good", "b\u00e4d", None, 3, 1.5, True, {"a": [1, "x"]}]},
        "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 3},
        "friends": {"type": "array", "items": {"$ref": "#"}, "minItems": 1, "maxItems": 2},
        "odd \"name\"\n": {"type": ["null", "number"]}},
    "required": ["name", "age"], "additionalProperties": False}
LIST = {"$ref": "#/definitions/a~1b", "definitions": {
    "a/b": {"type": "object", "properties": {"value": {"type": "boolean"}, "next": {"anyOf": [
        {"$ref": "#/definitions/a~1b"}, {"type": "null"}]}}, "required": ["next"]}}}
SCHEMAS = [
    {}, {"type": "object"}, {"type": ["string", "null", "integer"]}, {"type": "array"}, {"type": "boolean"},
    PERSON, LIST,
    {"properties": {"a": {"type": "integer"}, "b": {"type": "integer"}, "c": {"type": "null"}}},
    {"type": "object", "properties": {"ab": {"const": 1}, "abc": {"const": 2}, "\u00e9": {"const": 3}},
     "additionalProperties": {"type": "string"}},
    {"type": "object", "additionalProperties": {"type": "integer"}, "required": ["z"]},
    {"type": "object", "properties": {"a": {"type": "null"}, "gone": False}, "additionalProperties": True},
    {"type": "object", "additionalProperties": False},
    {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "boolean"}], "items": {"type": "null"},
     "minItems": 3, "maxItems": 5},
    {"type": "array", "items": {"type": "integer"}, "minItems": 2}, {"type": "array", "maxItems": 0},
    {"type": "string", "minLength": 2, "maxLength": 5}, {"type": "string", "maxLength": 0},
    {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{4}$"}, {"type": "string", "pattern": "b+"},
    {"type": "string", "pattern": "^(a|b\\\\|\"c\")*?$"}, {"type": "string", "pattern": "^\\d+(\\.\\w{1,2})?$|^x"},
    {"type": "string", "pattern": "^[^a-y\\s]{3}[\\n\\t\\-\\]]?.$"}, {"type": "string", "pattern": "^\\S\\W\\D(?:\u00e9|)$"},
    {"type": "string", "format": "date"}, {"type": "string", "format": "time"}, {"type": "string", "format": "uuid"},
    {"type": "string", "format": "date-time"}, {"type": "string", "format": "email"},
    {"type": "integer", "minimum": -5, "maximum": 12}, {"type": "integer", "exclusiveMinimum": 99},
    {"type": "integer", "maximum": -7}, {"type": "integer", "minimum": 1.5, "exclusiveMaximum": 1234567},
    {"type": "integer", "minimum": 9223372036854775800}, {"type": "integer", "maximum": -9223372036854775000},
    {"type": "number", "minimum": 0, "maximum": 1}, {"type": "number", "exclusiveMinimum": 0},
    {"type": "number", "exclusiveMinimum": -3, "exclusiveMaximum": -2}, {"type": "number", "maximum": 0},
    {"type": "number", "exclusiveMinimum": -1, "maximum": 0}, {"type": "number", "minimum": -12, "exclusiveMaximum": 345},
    {"anyOf": [{"type": "integer"}, {"type": "string", "maxLength": 2}]}, {"const": {"x": [None, "\u2028\"\\"]}},
    {"oneOf": [{"type": "object", "properties": {"kind": {"const": "a"}, "x": {"type": "integer"}},
                "required": ["kind", "x"]},
               {"type": "object", "properties": {"kind": {"enum": ["b", "c"]}, "y": {"type": "null"}},
                "required": ["kind"]}]},
    {"allOf": [{"type": "object", "properties": {"a": {"type": "number", "minimum": 1}}, "required": ["a"]},
               {"$ref": "#/$defs/more"}, {"properties": {"a": {"maximum": 3, "type": "integer"}}}],
     "$defs": {"more": {"type": "object", "properties": {"b": {"type": "boolean"}}, "required": ["b"]}}},
    {"type": "string", "enum": ["a", "b", 1]}, {"type": "string", "nullable": True, "maxLength": 1},
    {"minLength": 1, "anyOf": [{"type": "string", "maxLength": 3}, {"type": "null"}]},
    {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"],
     "anyOf": [{"properties": {"b": {"type": "null"}}, "required": ["b"]}, {"required": ["a"]}]},
]
REFUSED = [
    ({"not": {}}, "#: 'not' is not supported"), ({"if": {}, "then": {}}, "'if' is not supported"),
    ({"properties": {"a": {"multipleOf": 2}}}, "#/a: 'multipleOf' is not supported"),
    ({"patternProperties": {"a": {}}}, "patternProperties"), ({"dependentSchemas": {}}, "dependentSchemas"),
    ({"type": "array", "uniqueItems": True}, "uniqueItems"), ({"contains": {}}, "contains"),
    ({"requierd": ["a"]}, "'requierd' is not supported"), ({"propertyNames": {}}, "propertyNames"),
    ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}, "leads back to itself"),
    ({"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}, {"type": "null"}]}}}, "leads back to itself"),
    ({"$ref": "#"}, "leads back to itself"), ({"allOf": [{"$ref": "#"}]}, ""),
    ({"$ref": "#/nothing"}, "leads to nothing"), ({"$ref": "http://x/y"}, "leads out of the schema"),
    ({"type": "strin"}, "a type that there is not"), ({"type": []}, "'type' is empty"),
    ({"type": "string", "pattern": "a(?=b)"}, "a group of this kind"), ({"type": "string", "pattern": "\\bx"}, "escape"),
    ({"type": "string", "pattern": "a^b"}, "in the middle"), ({"type": "string", "pattern": "(a"}, "')' is missing"),
    ({"type": "string", "pattern": "a", "minLength": 3}, "at once"), ({"type": "string", "pattern": "a{9999999}"}, ""),
    ({"type": "string", "pattern": "(a{3000}){3000}"}, "positions"), ({"type": "string", "pattern": "[z-a]"}, ""),
    ({"type": "string", "minLength": 1000000000}, "65536"), ({"type": "string", "minLength": -1}, "no whole number"),
    ({"type": "array", "maxItems": 1e9}, "65536"), ({"type": "number", "minimum": 0.5}, "has to be a whole number"),
    ({"type": "integer", "minimum": 5, "maximum": 4}, "no number lies between"),
    ({"type": "number", "exclusiveMinimum": 4, "maximum": 4}, "no number lies between"),
    ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "might keep to both 0 and 1"),
    ({"oneOf": [{"type": "string"}, {"properties": {}}]}, "might keep to both"),
    ({"allOf": [{"type": "string"}, {"type": "null"}]}, "no 'type' keeps to both"),
    ({"allOf": [{"properties": {"a": {}}, "additionalProperties": False}, {"properties": {"b": {}}}]}, "'b' is in one"),
    ({"allOf": [{"pattern": "a"}, {"pattern": "b"}]}, "'pattern' in two schemas"),
    ({"allOf": [{"type": "string", "nullable": True}, {"type": "string"}]}, "nullable"),
    ({"enum": [], "type": "string"}, "no value"), ({"enum": [1], "minimum": 2}, "beside other restrictions"),
    ({"properties": {"a": {}}, "minProperties": 1}, "minProperties"), (False, ""), ("[", "no JSON"),
    ("{\"type\":\"string\",\"type\":\"null\"}", "duplicate"), ("[" * 60000, "levels"),
    ("{\"items\":" * 300 + "{}" + "}" * 300, "schemas inside each other"),
    ({"type": "object", "properties": {"a": {}}, "required": ["b"], "additionalProperties": False}, "'b' is required"),
]
# Texts that must be taken, and texts that must not.
TEXTS = [
    (PERSON, ['{"name": "A", "age": 3}', '{"name":"\\u00e9","age":150,"mood":{"a":[1,"x"]}}', '{ "name" : "A" , "age" : 0 }',
              '{\n  "name": "A",\n  "age": 7,\n  "tags": [],\n  "friends": [{"name": "B", "age": 1}]\n}'],
     ['{"age": 3, "name": "A"}', '{"name": "", "age": 3}', '{"name": "A", "age": 151}', '{"name": "A"}',
      '{"name": "A", "age": 3,}', '{"name": "A", "age": 03}', '{"name": "A", "age": 3, "x": 1}', '{"name": "\\ud800", "age": 1}']),
    ({"properties": {"a": {"const": 1}, "b": {"const": 2}, "c": {"const": 3}}},
     ["{}", '{"a":1}', '{"c":3}', '{"a":1,"c":3}', '{"b":2,"c":3}', '{"a":1,"b":2,"c":3}'],
     ['{"b":2,"a":1}', '{,"a":1}', '{"a":1,}', '{"a":1 "b":2}', '{"d":1}']),
    ({"type": "object", "properties": {"age": {"type": "integer"}}, "additionalProperties": {"type": "string"}},
     ['{"age":1,"b":"x"}', '{"ag":"x"}', '{"agee":"x"}', '{"":"x"}', '{"\u00e9":"x"}'],
     ['{"age":"x"}', '{"b":"x","age":"y"}', '{"\\u0061ge":"x"}', '{"b":1}']),
    ({"type": "integer", "minimum": -5, "maximum": 12}, [str(i) for i in range(-5, 13)], ["-6", "13", "-10", "20", "01", "120", "-0"]),
    ({"type": "number", "minimum": 0, "maximum": 1}, ["0", "1", "0.5", "1.0", "0.0"], ["1.5", "-0.5", "2", "1e3", "1.01"]),
    ({"type": "string", "pattern": "^a+$"}, ['"a"', '"aaa"'], ['"b"', '""', '"aab"']),
    ({"type": "string", "pattern": "b"}, ['"b"', '"abc"', '"\\nb"'], ['"a"', '""']),
    ({"type": "array", "prefixItems": [{"const": 1}, {"const": 2}]}, ["[1,2]", "[ 1, 2 ]"], ["[]", "[1]", "[1,2,3]", "[2,1]"]),
    ({"type": "string", "format": "date"}, ['"2024-02-29"', '"2000-02-29"', '"1999-12-31"'],
     ['"2023-02-29"', '"1900-02-29"', '"2023-04-31"', '"2023-13-01"', '"2023-1-01"']),
    ("", ["{}", '{"a": [1, {"b": null}], "c": "x"}'], ["[]", "1", '{"a"}']),
]


def random_schema(r, depth):
    kind = r.choice(["string", "integer", "number", "boolean", "null", "enum"] + ["object", "array", "any"] * (depth < 3))
    if kind == "object":
        names = r.sample(["a", "b", "ab", "\u00e9t\u00e9", "x y", "q\"", "", "type"], r.randint(0, 4))
        s = {"type": "object", "properties": {n: random_schema(r, depth + 1) for n in names},
             "required": r.sample(names, r.randint(0, len(names)))}
        if r.random() < 0.5:
            s["additionalProperties"] = r.choice([False, True, random_schema(r, depth + 1)])
        return s
    if kind == "array":
        low = r.randint(0, 2)
        return {"type": "array", "items": random_schema(r, depth + 1), "minItems": low, "maxItems": low + r.randint(0, 2)}
    if kind == "any":
        return {"anyOf": [random_schema(r, depth + 1) for _ in range(r.randint(1, 3))]}
    if kind == "enum":
        return {"enum": r.sample([1, 2.5, "x", "y\\", None, False, [], {"k": 1}], r.randint(1, 4))}
    if kind == "integer":
        low = r.randint(-200, 2000)
        return {"type": kind, r.choice(["minimum", "exclusiveMinimum"]): low, "maximum": low + r.randint(1, 3000)}
    if kind == "number":
        low = r.randint(-20, 20)
        return {"type": kind, "minimum": low, r.choice(["maximum", "exclusiveMaximum"]): low + r.randint(1, 30)}
    return {"type": kind, "minLength": r.randint(0, 3), "maxLength": r.randint(3, 9)} if kind == "string" else {"type": kind}


class Grammar(unittest.TestCase):
    def check_texts(self, vocab, schemas, n, seed):
        texts = walk(vocab, ("texts", str(n), str(seed)), *schemas)
        self.assertEqual(len(texts), n * len(schemas), [t for t in texts if t.startswith("!")])
        for i, text in enumerate(texts):
            schema = schemas[i // n]
            with self.subTest(schema=schema, text=text):
                self.assertTrue(holds(schema, schema, json.loads(text)))

    def test_walks(self):
        for seed, vocab in enumerate(VOCABS):
            self.check_texts(vocab, SCHEMAS, 6, seed)

    def test_random_schemas(self):
        r = random.Random(5)
        self.check_texts(VOCABS[0], [random_schema(r, 0) for _ in range(60)], 3, 1)

    def test_texts(self):
        for vocab in VOCABS:
            for schema, good, bad in TEXTS:
                fields = [f for text in good + bad for f in (schema if schema != "" else {"type": "object"}, text)]
                found = walk(vocab, ("takes",), *fields)
                self.assertEqual(dict(zip(good + bad, found)),
                                 {**{t: "1" for t in good}, **{t: "0" for t in bad}}, schema)

    def test_refused(self):
        found = walk(VOCABS[0], ("gbnf",), *(schema for schema, _ in REFUSED))
        self.assertEqual(len(found), len(REFUSED))
        for (schema, words), said in zip(REFUSED, found):
            self.assertTrue(said.startswith("!") and words in said, f"{str(schema)[:100]}: {said[:300]}")

    def test_the_checker(self):
        """Finds what is wrong in what is known."""
        for schema, good, bad in TEXTS[1:4]:
            self.assertTrue(all(holds(schema, schema, json.loads(t)) for t in good))
        for schema, value in ((PERSON, {"name": "", "age": 1}), (PERSON, {"name": "a"}), ({"type": "integer"}, True),
                              ({"type": "string", "format": "date"}, "2023-02-29"), ({"enum": [1]}, True),
                              ({"oneOf": [{}, {}]}, 1), ({"type": "array", "maxItems": 1}, [1, 2])):
            self.assertFalse(holds(schema, schema, value), (schema, value))


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1] + sys.argv[3:])
