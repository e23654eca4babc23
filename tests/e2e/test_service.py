#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What lies around the program: manual pages, completion, unit file and Dockerfile say what the program and
tools/packages.sh say. Called with the unit file that CMake made as the third file."""
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading

from common import PEAK_OF as UNIT, PROGRAM, SOURCE, Case, main

DIST = os.path.join(SOURCE, "dist")
DOCKERFILE = os.path.join(DIST, "Dockerfile")


def read(path):
    with open(path, encoding="utf-8") as f:
        return f.read()


def run(*command, **more):
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
                          timeout=60, **more)


def owner(path):
    """The Debian package that a file is of, or None. dpkg may know it without the /usr that it lies in by now."""
    path = os.path.realpath(path)
    for name in (path, path.removeprefix("/usr")):
        found = run("dpkg", "-S", name) if shutil.which("dpkg") else None
        if found and found.returncode == 0:
            return found.stdout.split(":")[0]
    return None


def tool(name, *args):
    """One of tools/*.py, which leave nothing beside themselves."""
    return run(sys.executable, "-B", os.path.join(SOURCE, "tools", name), PROGRAM, *args)


class Service(Case):
    def test_generated_files(self):
        for name in ("man.py", "completion.py"):
            result = tool(name, "--check")
            self.assertEqual(result.returncode, 0, result.stdout)

    def test_manual(self):
        folder = os.path.join(SOURCE, "docs", "man")
        overview = self.good("--help", text=True).stdout.split("\n\n")[2]
        commands = re.findall(r"^  (\S+) +\S", overview, re.M)
        self.assertEqual({f"pregate-{name}.1" for name in commands} | {"pregate.1"}, set(os.listdir(folder)))
        if not shutil.which("groff"):
            self.skipTest("there is no groff")
        for name in os.listdir(folder):
            result = run("groff", "-man", "-ww", "-Tascii", os.path.join(folder, name))
            self.assertNotIn("warning", result.stdout, name)
            self.assertNotIn("error:", result.stdout, name)
        page = run("groff", "-man", "-Tascii", os.path.join(folder, "pregate-run.1")).stdout
        page = re.sub(r".\x08|\x1b\[[0-9;]*m", "", page)
        for words in ("-n, --n-predict N", "One of auto, uring, pread.", 'pregate run model.gguf -p "Once upon'):
            self.assertIn(words, page)

    def complete(self, *words):
        """What bash offers after these words; the last is the one under the cursor."""
        script = (". \"$1\"; shift; COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); _pregate 2>&1; "
                  "printf '%s\\n' \"${COMPREPLY[@]}\"")
        result = run("bash", "--norc", "-c", script, "-", os.path.join(DIST, "pregate.bash"), "pregate", *words,
                     cwd=self.dir)
        self.assertEqual(result.returncode, 0, result.stdout)
        return result.stdout.split()

    def test_completion(self):
        os.mkdir(self.path("models"))
        self.put("model.gguf", "")
        self.assertEqual(self.complete("be"), ["bench"])
        self.assertIn("replay", self.complete(""))
        self.assertEqual(self.complete("help", "tok"), ["tokenize"])
        self.assertEqual(self.complete("run", "--look"), ["--lookahead"])
        self.assertEqual(self.complete("inspect", "--look"), [])
        self.assertEqual(self.complete("run", "x", "--mode", "p"), ["prefetch-all", "pregate"])
        self.assertEqual(self.complete("run", "x", "--io", "=", "ur"), ["uring"])
        self.assertEqual(self.complete("run", "x", "--io", "="), ["auto", "uring", "pread"])
        self.assertEqual(sorted(self.complete("run", "mo")), ["model.gguf", "models"])
        self.assertEqual(self.complete("run", "-f", "model."), ["model.gguf"])
        self.assertEqual(self.complete("run", "-p", "mo"), [])
        self.assertEqual(self.complete("load", "mo"), [])
        self.assertEqual(self.complete("nonsense", "mo"), [])
        # The registered function is the one that was tried.
        result = run("bash", "--norc", "-c", f". {DIST}/pregate.bash && complete -p pregate")
        self.assertEqual(result.stdout, "complete -F _pregate pregate\n")
        for name in ("run", "train", "load"):
            page = self.good(name, "--help", text=True).stdout
            names = re.findall(r"^  .{4}(--[a-z0-9-]+)", page, re.M)
            self.assertEqual(sorted(self.complete(name, "--")), sorted(names))

    # ------------------------------------------------------------ unit

    def test_unit(self):
        unit = read(UNIT)
        values = dict(re.findall(r"^(\w+)=(.*)$", unit, re.M))
        self.assertNotIn("@CMAKE", unit)
        self.assertEqual((values["Type"], values["KillSignal"], values["DynamicUser"], values["ProtectSystem"],
                          values["NoNewPrivileges"]), ("notify", "SIGTERM", "yes", "strict", "yes"))
        names = set(re.findall(r"\$\{?(\w+)", values["ExecStart"]))
        self.assertEqual(names, set(re.findall(r"^(\w+)=", read(os.path.join(DIST, "pregate.env")), re.M)))
        self.check_serve(set(re.findall(r"--[a-z-]+", values["ExecStart"])))

    def check_serve(self, options):
        """That `serve` has these options; a program without it cannot say."""
        page = self.call("serve", "--help", text=True)
        if page.returncode:
            self.skipTest("this program has no command serve")
        for option in options:
            self.assertIn(f"{option} ", page.stdout)

    def test_unit_as_systemd_reads_it(self):
        if not shutil.which("systemd-analyze"):
            self.skipTest("there is no systemd-analyze")
        program = re.sub(r"(?m)^ExecStart=\S+", f"ExecStart={PROGRAM}", read(UNIT))
        result = run("systemd-analyze", "verify", "--man=no", self.put("pregate.service", program))
        self.assertEqual((result.returncode, result.stdout), (0, ""))

    # ------------------------------------------------------------ container

    def packages(self):
        """Those that the two stages install."""
        stages = re.findall(r"--no-install-recommends \\\n(.*?)&&", read(DOCKERFILE), re.S)
        return [set(stage.replace("\\", " ").split()) for stage in stages]

    def test_packages_to_build(self):
        build, _ = self.packages()
        demo = re.search(r"^need (.*?[^\\])$", read(os.path.join(SOURCE, "demo")), re.M | re.S).group(1)
        needed = set(demo.replace("\\", " ").split()) - {"libopenblas0-pthread"}  # training's
        self.assertEqual(build, needed)
        known = re.findall(r"^    (lib\S+-dev)\)", read(os.path.join(SOURCE, "tools", "packages.sh")), re.M)
        self.assertEqual({p for p in build if p.startswith("lib")}, set(known) - {"libcmocka-dev", "libclang-rt-dev"})

    def test_packages_to_run(self):
        """Each library that this program is linked to comes from a package of the list, and none is idle."""
        _, there = self.packages()
        if "VERSION_CODENAME=bookworm\n" not in read("/etc/os-release"):
            self.skipTest("the names are those of Debian 12")
        owners = set()
        direct = set(re.findall(r"\(NEEDED\).*\[(\S+)\]", run("readelf", "-dW", PROGRAM).stdout))
        for line in run("ldd", PROGRAM).stdout.splitlines():
            library = re.search(r"=> (/\S+)", line)
            if not library or os.path.basename(line.split()[0]) not in direct:
                continue
            package = owner(library.group(1))
            if not package:
                self.skipTest(f"no package of this machine owns {library.group(1)}")
            owners.add(package)
        self.assertEqual(owners - {"libc6", "libgcc-s1"}, there)

    def test_what_goes_into_the_build(self):
        """The context has each file that CMakeLists.txt reads."""
        ignore = read(os.path.join(DIST, "Dockerfile.dockerignore")).splitlines()
        kept = [line[1:] for line in ignore if line.startswith("!")]
        patterns = [re.compile(re.escape(k).replace(r"\*", "[^/]*") + r"(/.*)?") for k in kept]
        wanted = re.findall(r"\b(?:src|apps|include|examples|bench|dist|tools)/[\w./-]*\w\.\w+",
                            read(os.path.join(SOURCE, "CMakeLists.txt")))
        self.assertGreater(len(wanted), 100)
        for name in wanted:
            self.assertTrue(any(p.fullmatch(name) for p in patterns), name)

    def test_health_check(self):
        """The command of the image, against a server that is well, is not, and is not there."""
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            status = 200

            def do_GET(self):
                self.send_response(self.status if self.path == "/health" else 404)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass
        command = json.loads(re.search(r"HEALTHCHECK .*?CMD (\[.*?\])$", read(DOCKERFILE), re.S | re.M).group(1))
        self.assertEqual(command[0], "bash")
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            command[2] = command[2].replace("8080", str(server.server_port))
            threading.Thread(target=server.serve_forever, daemon=True).start()
            self.assertEqual(run(*command).returncode, 0)
            Handler.status = 503
            self.assertNotEqual(run(*command).returncode, 0)
            server.shutdown()
        self.assertNotEqual(run(*command).returncode, 0)

    def test_dockerfile(self):
        text = read(DOCKERFILE)
        self.assertEqual(re.findall(r"^FROM (\S+)", text, re.M), 2 * ["debian:12-slim"])
        last = text[text.rindex("\nFROM "):]
        self.assertRegex(last, r"\nUSER [1-9]\d*\n")
        start = json.loads(re.search(r"\nCMD (\[.*\])", last).group(1))
        self.assertEqual(start[0], "serve")
        self.check_serve({word for word in start if word.startswith("--")})


if __name__ == "__main__":
    main()
