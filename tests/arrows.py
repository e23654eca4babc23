#!/usr/bin/python3
"""The rules of the house that a compiler does not check.

1. Arrows: a file of src/LAYER includes only headers of its own layer and of those in MAY_USE;
   apps/ and examples/ include pregate.h (and headers beside them) and nothing of src/.
2. A quoted include of src/ is the path from src/ of a file that is there; pregate.h is for all.
3. Base names of source files are unique in the whole tree.
4. src/ never reads the environment, ends the process or prints.
5. src/ forks by whole files: no #if but header guards, save where machines differ (MAY_FORK).

Prints file:line for each breach and exits 1 if there is one. Before that it looks at a small tree of
known breaches, so that a rule that has stopped finding anything is noticed.
"""
import pathlib
import re
import sys
import tempfile

MAY_USE = {
    "base": (),
    "quant": ("base",),
    "format": ("base", "quant"),
    "text": ("base", "format"),
    "cpu": ("base", "quant"),
    "io": ("base",),
    "store": ("base", "io"),
    "gate": ("base", "cpu", "store"),
    "model": ("base", "quant", "format", "cpu", "io", "store", "gate"),
    "engine": ("base", "quant", "format", "text", "cpu", "io", "store", "gate", "model"),
    "make": ("base", "quant", "format", "io"),
    "sim": ("base", "quant", "format", "cpu", "io", "store", "gate", "model", "make"),
    "data": ("base", "format", "text"),
    "net/rows": ("base", "cpu"),
    "net": ("base", "quant", "store", "gate", "model", "net/rows"),
    "train": ("base", "quant", "format", "text", "model", "data", "net", "net/rows"),
    "serve": ("base", "cpu", "store", "model", "engine"),
    "distil": ("base", "cpu", "store", "gate", "model", "engine", "data", "net", "net/rows"),
    "eval": ("base", "format", "text", "gate", "model", "engine", "data"),
}
FORBIDDEN = re.compile(
    r"\b(getenv|secure_getenv|setenv|putenv|exit|_exit|_Exit|quick_exit|abort|printf|vprintf|puts|"
    r"putchar|perror|psignal)\s*\(|\b(stdout|stderr)\b|\b(dprintf|write)\s*\(\s*(STD(OUT|ERR)_FILENO|[12])\b")
# An assertion that fails must end the process and say where: that is its purpose.
MAY_END = {"src/base/err.c"}
MAY_FORK = ("src/cpu/", "src/base/os.", "src/net/rows/real.h")
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


def layer_of(name):
    """A path from src/: its folder, or the room in a folder that has a line of its own."""
    parts = name.split("/")
    room = "/".join(parts[:2])
    return room if room in MAY_USE else parts[0]


def check_src(root, path, text, report):
    name = path.relative_to(root).as_posix()
    layer = layer_of(name[len("src/"):])
    if name.count("/") < 2 or layer not in MAY_USE:
        report(name, 1, "is in no layer of docs/design.md")
        return
    for number, target in includes(text):
        first = layer_of(target)
        if target == "pregate.h":
            continue
        if "/" not in target or first not in MAY_USE:
            report(name, number, f'includes "{target}"; write the path from src/')
        elif first != layer and first not in MAY_USE[layer]:
            report(name, number, f"{layer} -> {first} is not an arrow of docs/design.md")
        if not (root / "src" / target).is_file():
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


# A file of each breach, and a word of the sentence that must be said about it.
BREACHES = {
    "src/cpu/a.c": ('#include "store/s.h"\n', "arrow"),
    "src/store/b.c": ('#include "s.h"\n', "path from src/"),
    "src/io/c.c": ('#include "io/none.h"\n', "not there"),
    "src/io/d.c": ("int f(void)\n{\n    exit(1);\n}\n", "never exits"),
    "src/io/e.c": ("void g(void)\n{\n    fputs(0, stderr);\n}\n", "never exits"),
    "src/gate/f.c": ("#ifdef FAST\n#endif\n", "whole file"),
    "src/attic/g.c": ("int g;\n", "no layer"),
    "apps/cli/h.c": ('#include "store/s.h"\n', "pregate.h alone"),
    "tests/unit/a.c": ("int a;\n", "base name"),
}
INNOCENT = {
    "src/store/s.h": "#include <pregate.h>\n",
    "src/io/i.c": '/* exit(1) */ #include "io/i.h"\nconst char *s = "printf(";\n',
    "src/io/i.h": "#ifndef PG_IO_I_H\n#define PG_IO_I_H\nint on_exit_code(int exit_code);\n#endif\n",
}


def self_check():
    """What the rules miss or wrongly find in a tree that is known."""
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        for name, text in {**{k: v[0] for k, v in BREACHES.items()}, **INNOCENT}.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        _, found = check(root)
    wrong = [f"self-check: {name} is found guilty" for name in INNOCENT
             if any(line.startswith(name + ":") for line in found)]
    rooms = list(MAY_USE) # each uses earlier ones only, so there is no upward arrow and no circle
    wrong += [f"MAY_USE: {room} -> {used} points up" for room in rooms for used in MAY_USE[room]
              if rooms.index(used) >= rooms.index(room)]
    return wrong + [f"self-check: the breach in {name} is not found" for name, (_, what) in BREACHES.items()
                    if not any(line.startswith(name + ":") and what in line for line in found)]


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else __file__).resolve()
    root = root if len(sys.argv) > 1 else root.parent.parent
    files, breaches = check(root)
    breaches += self_check()
    print("\n".join(breaches) or f"arrows: {len(files)} files keep the rules")
    return 1 if breaches or not files else 0


if __name__ == "__main__":
    sys.exit(main())
