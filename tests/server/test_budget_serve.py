#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A server keeps its budget with many clients: nobody is killed, and no request is lost.

    test_budget_serve.py PREGATE PEAK_OF [--clients=N] [--rounds=N] [--spare=MIB] [--sanitize=NAMES]

In a memory cgroup of exactly --memory, which is the minimum that the program names and 4 MiB to spare, N (64) clients ask
at once, N (1) times each, with prompts up to the context, some with beginnings in common, while contexts are kept in memory
and on disk. With --spare=0 nearly every expert is read for every token, which takes a minute. Where no cgroup can be made
the peak of the process is held against the budget alone. Exit 77 = skipped, with the reason.
"""
import http.client
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading

HERE = os.path.dirname(os.path.abspath(__file__))
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(HERE, "..", "e2e"))
from budget import MIB, Cgroup, option  # noqa: E402

MODEL = os.path.join(HERE, "..", "..", "models", "tinystories-moe.gguf")
N_CTX, PARALLEL = 256, 4


def prompts(n, seed):
    """Lists of token ids. Some fill the context but for an answer of 8, some are one token, most are short; half of them go
    on from one of four beginnings."""
    r = random.Random(seed)
    roots = [[260 + (i * k) % 250 for i in range(100)] for k in (3, 7, 11, 13)]
    found = []
    for i in range(n):
        size = r.choice([1, N_CTX - 8, r.randrange(1, N_CTX - 7)] + 5 * [r.randrange(1, 24)])
        ids = (roots[seed % 4] if (seed + i) % 2 else []) + [r.randrange(260, 512) for _ in range(size)]
        found.append(ids[:size])
    return found


def ask(port, ids, stream, wrong):
    """One request; what is wrong with its answer goes to the list."""
    body = {"prompt": ids, "max_tokens": 8, "temperature": 0, "ignore_eos": True, "stream": stream}
    try:
        c = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        c.request("POST", "/v1/completions", json.dumps(body))
        answer = c.getresponse()
        data = answer.read()
        c.close()
        if answer.status != 200 or (stream and not data.endswith(b"data: [DONE]\n\n")):
            wrong.append(f"{answer.status} {data[-300:]}")
    except OSError as error:
        wrong.append(f"{type(error).__name__} {error}")


def ask_all(port, n_clients, n_rounds):
    wrong = []

    def client(number):
        for i, ids in enumerate(prompts(n_rounds, number)):
            ask(port, ids, (number + i) % 3 == 0, wrong)
    threads = [threading.Thread(target=client, args=(i,)) for i in range(n_clients)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return wrong


def metrics(port):
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    c.request("GET", "/metrics")
    text = c.getresponse().read().decode()
    c.close()
    return {k: float(v) for k, v in re.findall(r"^pregate_(\S+) (\S+)$", text, re.M)}


def status_of(pid, name):
    with open(f"/proc/{pid}/status", encoding="ascii") as f:
        return 1024 * int(re.search(rf"^{name}:\s+(\d+)", f.read(), re.M)[1])


def minimum_of(command):
    """The least budget. Part of it is the server's own and grows with the budget, so what is named first may grow, too."""
    budget = 1.0
    for _ in range(6):
        with subprocess.Popen([*command, "--memory", f"{budget:.2f}M"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as p:
            if p.stdout.readline():
                p.terminate()
                return budget
            text = p.stderr.read()
        found = re.search(r"the minimum is ([\d.]+) MiB", text)
        if not found or float(found[1]) <= budget:
            sys.exit(f"with --memory {budget:.2f}M: {text}")
        budget = float(found[1])
    sys.exit(f"--memory {budget:.2f}M is refused, too: {text}")


def check(programs, command, budget, group, folder):
    """Starts the server under the budget, and asks. Its process is started by something small: peaks survive exec."""
    into = ["--into", str(group.procs)] if group else []
    shown = f"--memory {budget}{' in a cgroup of that' if group else ''}"
    with subprocess.Popen([programs[1], f"{folder}/peak", *into, *command, "--memory", budget], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True) as p:
        found = re.fullmatch(r"listening on http://.*:(\d+)\n", p.stdout.readline())
        if not found:
            sys.exit(f"{shown}: {p.stderr.read()}")
        port = int(found[1])
        log = threading.Thread(target=p.stderr.read)
        log.start()
        with open(f"/proc/{p.pid}/task/{p.pid}/children", encoding="ascii") as f:
            server = int(f.read())
        wrong = ask_all(port, option("clients", 64), option("rounds", 1))
        m = {} if group and group.events() else metrics(port)
        peak = status_of(server, "VmHWM") if m else 0
        os.kill(server, signal.SIGTERM)
        code = p.wait(60)
        log.join()
    bound = round(float(budget[:-1]) * MIB)
    if group and group.events():
        sys.exit(f"{shown}: killed")
    print(f"{shown}: VmHWM {peak / MIB:.2f} of {m['memory_budget_bytes'] / MIB:.2f} MiB, of which {m['cache_bytes'] / MIB:.2f} are "
          f"{m['expert_slots']:.0f} slots and {m['server_bytes_most'] / MIB:.2f} the server's own; {m['requests_done_total']:.0f} requests, "
          f"{m['prompt_tokens_reused_total']:.0f} of {m['prompt_tokens_total']:.0f} tokens found", flush=True)
    if wrong or code or peak > bound:
        sys.exit(f"{shown}: {len(wrong)} requests failed, exit code {code}, {peak - bound} bytes over\n" + "\n".join(wrong[:5]))


def main():
    programs = [os.path.abspath(a) for a in sys.argv[1:3]]
    if any(a.startswith("--sanitize=") and a != "--sanitize=" for a in sys.argv):
        print("SKIPPED: budget: a sanitizer's own memory is not in the plan")
        sys.exit(77)
    group = Cgroup.make(MIB)
    if group:
        group.close()
    else:
        print("SKIPPED: budget: no memory cgroup can be made here, the peak alone is looked at")
    folder = tempfile.mkdtemp(prefix="pregate-budget-")
    command = [programs[0], "serve", MODEL, "--port", "0", "-c", str(N_CTX), "--parallel", str(PARALLEL), "--threads", "2",
               "--prompt-cache", f"{folder}/cache", "--prompt-cache-size", "2M"]
    try:
        budget = f"{minimum_of(command) + option('spare', 4):.2f}M"
        limited = Cgroup.make(round(float(budget[:-1]) * MIB)) if group else None
        try:
            check(programs, command, budget, limited, folder)
        finally:
            if limited:
                limited.close()
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
