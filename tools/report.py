#!/usr/bin/python3
"""Sizes of the project: lines, comments and asserts a folder, long functions, functions of many parameters.

A report, not a gate: it always exits 0. Functions come from universal-ctags where it is there, else
from a scan that relies on the formatting of .clang-format (a function's braces stand in column 0).
"""
import json
import os
import pathlib
import re
import shutil
import subprocess

ROOT = pathlib.Path(__file__).resolve().parent.parent
TOPS = ("include", "src", "apps", "examples", "bench", "tests", "tools")
SUFFIXES = {".c", ".h", ".py", ".sh"}
SHOWN, MOST_PARAMETERS = 12, 6
ASSERT = re.compile(r"\b(?:PG_ASSERT|static_assert|_Static_assert|assert|assert_\w+)\s*\(")


def sources():
    return sorted(p for top in TOPS for p in (ROOT / top).rglob("*")
                  if p.suffix in SUFFIXES and p.relative_to(ROOT).parts[:2] != ("tests", "data"))


def count(path):
    """Lines with code, lines with a comment (both may be true of one), blank lines."""
    text = path.read_text(encoding="utf-8")
    if path.suffix in (".c", ".h"):
        bare = re.sub(r'"(?:\\.|[^"\\\n])*"', '""', text)
        bare = re.sub(r"/\*.*?\*/", lambda m: re.sub(r"[^\n]", "\x01", m.group(0)), bare, flags=re.S)
        bare = re.sub(r"//[^\n]*", lambda m: "\x01" * len(m.group(0)), bare)
    else:
        bare = re.sub(r"(?m)^\s*#.*$", lambda m: "\x01" * len(m.group(0)), text)
    code = comment = blank = 0
    for line in bare.splitlines():
        stripped = line.replace("\x01", "").strip()
        code += bool(stripped)
        comment += "\x01" in line
        blank += not stripped and "\x01" not in line
    return code, comment, blank


def parameters(signature):
    depth, n = 0, 1
    for c in signature:
        depth += (c == "(") - (c == ")")
        n += c == "," and depth == 1
    return 0 if re.fullmatch(r"\(\s*(void)?\s*\)", signature.strip()) else n


def functions_by_ctags(files):
    run = subprocess.run(["ctags", "--output-format=json", "--fields=+neS", "--kinds-C=f",
                          "--languages=C", "--langmap=C:.c.h", "-f", "-", "-L", "-"],
                         input="\n".join(map(str, files)), capture_output=True, text=True, check=True)
    for tag in map(json.loads, run.stdout.splitlines()):
        if "end" in tag:
            yield (pathlib.Path(tag["path"]), tag["line"], tag["name"],
                   tag["end"] - tag["line"] + 1, parameters(tag.get("signature", "()")))


def functions_by_scan(files):
    head = re.compile(r"^(?!typedef|struct \w+\s*\{|enum|union)[A-Za-z_][^;={}]*?(\w+)(\([^;{}]*\))\n\{\n", re.M)
    for path in files:
        text = path.read_text(encoding="utf-8")
        for found in head.finditer(text):
            end = text.find("\n}", found.end() - 1)
            first = text.count("\n", 0, found.start()) + 1
            if end >= 0:
                yield (path, first, found.group(1),
                       text.count("\n", found.start(), end + 1) + 1, parameters(found.group(2)))


def functions(files):
    if shutil.which("ctags"):
        try:
            return list(functions_by_ctags(files))
        except (subprocess.CalledProcessError, ValueError, KeyError):
            pass  # another ctags
    return list(functions_by_scan(files))


def folder_table(files):
    folders = {}
    for path in files:
        parts = path.relative_to(ROOT).parts
        key = "/".join(parts[:2]) if len(parts) > 2 else parts[0]
        sums = folders.setdefault(key, [0, 0, 0, 0, 0])
        asserts = len(ASSERT.findall(path.read_text(encoding="utf-8"))) if path.suffix in (".c", ".h") else 0
        for i, n in enumerate((1,) + count(path) + (asserts,)):
            sums[i] += n
    print(f"{'folder':<16}{'files':>6}{'code':>8}{'comment':>9}{'blank':>7}{'share':>7}{'asserts a kloc':>16}")
    total = [sum(column) for column in zip(*folders.values())]
    for key, (n, code, comment, blank, asserts) in sorted(folders.items()) + [("all", total)]:
        share = 100 * comment / max(code + comment, 1)
        print(f"{key:<16}{n:>6}{code:>8}{comment:>9}{blank:>7}{share:>6.0f}%{1000 * asserts / max(code, 1):>16.1f}")


def show_functions(found, title, column):
    print(f"\n{title}")
    for f in found:
        print(f"{f[column]:>5}  {f[0].relative_to(ROOT)}:{f[1]} {f[2]}")


def main():
    files = sources()
    lines = {p: len(p.read_text(encoding="utf-8").splitlines()) for p in files}
    folder_table(files)
    counted = sum(n for p, n in lines.items() if p.relative_to(ROOT).parts[0] in ("src", "apps"))
    print(f"\nsrc and apps: {counted} lines")
    found = functions([p for p in files if p.suffix in (".c", ".h")])
    longest = sorted(found, key=lambda f: (-f[3], str(f[0])))[:SHOWN]
    many = sorted((f for f in found if f[4] > MOST_PARAMETERS), key=lambda f: (-f[4], str(f[0])))
    show_functions(longest, "longest functions (lines)", 3)
    show_functions(many, f"functions of more than {MOST_PARAMETERS} parameters: {len(many)}", 4)
    print("\nlongest files (lines)")
    for n, p in sorted(((n, p) for p, n in lines.items()), reverse=True)[:SHOWN]:
        print(f"{n:>5}  {p.relative_to(ROOT)}")


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:  # the reader has seen enough
        os._exit(0)
