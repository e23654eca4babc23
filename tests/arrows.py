#!/usr/bin/python3
"""The rules of the house that a compiler does not check.

1. Arrows: a file of src/LAYER includes only headers of its own layer and of those in MAY_USE;
   apps/ and examples/ include pregate.h (and headers beside them) and nothing of src/.
2. pregate.h comes in through base/err.h: inside src/ only that file names it.
3. Base names of source files are unique in the whole tree.
4. src/ never reads the environment, ends the process or prints.
5. src/ forks by whole files: no #if but header guards, save where machines differ (MAY_FORK).

Prints file:line for each breach and exits 1 if there is one.
"""
import pathlib
import re
import sys

ALL = ("base", "quant", "format", "text", "cpu", "io", "store", "gate", "model", "engine")
MAY_USE = {
    "base": (),
    "quant": ("base",),
    "format": ("base", "quant"),
    "text": ("base", "format"),
    "cpu": ("base", "quant"),
    "io": ("base",),
    "store": ("base", "io"),
    "gate": ("base", "cpu", "store"),
    "model": ALL[:ALL.index("model")],
    "engine": ALL[:ALL.index("engine")],
}
FORBIDDEN = re.compile(
    r"\b(getenv|secure_getenv|setenv|putenv|exit|_exit|_Exit|quick_exit|abort|printf|vprintf|puts|"
    r"putchar|perror|psignal)\s*\(|\b(stdout|stderr)\b|\b(dprintf|write)\s*\(\s*(STD(OUT|ERR)_FILENO|[12])\b")
# An assertion that fails must end the process and say where: that is its purpose.
MAY_END = {"src/base/err.c"}
MAY_FORK = ("src/cpu/", "src/base/os.")
INCLUDE = re.compile(r'^\s*#\s*include\s+(?:"([^"]+)"|<(pregate\.h)>)')
CONDITION = re.compile(r"^\s*#\s*(if|ifdef|ifndef|elif)\b")


def strip_comments(text):
    """Comments and string contents blanked, line numbers kept."""
    def blank(m):
        found = m.group(0)
        if found.startswith("/"):
            return re.sub(r"[^\n]", " ", found)
        return found[0] + " " * (len(found) - 2) + found[-1]
    pattern = r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\''
    return re.sub(pattern, blank, text, flags=re.S)


def includes(text):
    """Line numbers and names of quoted includes; comments may not hide or fake one."""
    uncommented = re.sub(r"/\*.*?\*/", lambda m: re.sub(r"[^\n]", " ", m.group(0)), text, flags=re.S)
    for number, line in enumerate(uncommented.splitlines(), 1):
        found = INCLUDE.match(line)
        if found:
            yield number, found.group(1) or found.group(2)


def check_src(root, path, text, report):
    name = path.relative_to(root).as_posix()
    parts = path.relative_to(root).parts
    if len(parts) < 3 or parts[1] not in MAY_USE:
        report(name, 1, "is in no layer of docs/design.md")
        return
    layer = parts[1]
    for number, target in includes(text):
        first = target.split("/")[0]
        if target == "pregate.h":
            if name != "src/base/err.h":
                report(name, number, "includes pregate.h; it comes through base/err.h")
        elif "/" not in target or first not in MAY_USE:
            report(name, number, f'includes "{target}"; write the path from src/')
        elif first != layer and first not in MAY_USE[layer]:
            report(name, number, f"{layer} -> {first} is not an arrow of docs/design.md")
        if target != "pregate.h" and not (root / "src" / target).is_file():
            report(name, number, f'includes "{target}", which is not there')
    guard = re.search(r"^#ifndef (PG_\w+_H)\n#define \1$", text, re.M)
    for number, line in enumerate(strip_comments(text).splitlines(), 1):
        if name not in MAY_END and FORBIDDEN.search(line):
            report(name, number, f"{line.strip()}: the library reads no environment, prints nothing "
                                 "and never exits")
        is_guard = guard and line.strip() == f"#ifndef {guard.group(1)}"
        if CONDITION.match(line) and not is_guard and not name.startswith(MAY_FORK):
            report(name, number, f"{line.strip()}: a fork point is a whole file")


def check_top(root, path, text, report):
    name = path.relative_to(root).as_posix()
    for number, target in includes(text):
        if target != "pregate.h" and not (path.parent / target).is_file():
            report(name, number, f'includes "{target}"; programs see pregate.h alone')


def check(root):
    breaches, seen = [], {}

    def report(name, number, what):
        breaches.append(f"{name}:{number}: {what}")

    files = sorted(p for top in ("include", "src", "apps", "examples", "bench", "tests")
                   for p in (root / top).rglob("*") if p.suffix in (".c", ".h"))
    for path in files:
        text = path.read_text(encoding="utf-8")
        name = path.relative_to(root).as_posix()
        if path.name in seen:
            report(name, 1, f"has the base name of {seen[path.name]}")
        seen[path.name] = name
        if name.startswith("src/"):
            check_src(root, path, text, report)
        elif name.startswith(("apps/", "examples/")):
            check_top(root, path, text, report)
    return files, breaches


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else __file__).resolve()
    root = root if len(sys.argv) > 1 else root.parent.parent
    files, breaches = check(root)
    print("\n".join(breaches) or f"arrows: {len(files)} files keep the rules")
    return 1 if breaches or not files else 0


if __name__ == "__main__":
    sys.exit(main())
