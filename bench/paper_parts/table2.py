#!/usr/bin/python3
"""Table II and figure 13 on what can be trained here: a small Switch from scratch, three tasks, routers and pre-gates.

    bench/paper_parts/table2.py [--out DIR] [--quick] [--only TASK,...] [--page]

All work is done by build/pregate, as many commands of one thread side by side as there are processors. Each result is a
JSON file in DIR/table2 (build/paper/table2) and is not computed again when it is there, so the whole may be interrupted
and go on. What it found is DIR/table2/table2.md (--page: only that), which bench/paper has on its page, and beside it
table2.jsonl, the runs that it stands on; what is missing says so. Needs Python 3 and nothing else.
"""
import argparse
import concurrent.futures
import os
import pathlib
import sys

sys.dont_write_bytecode = True
sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)  # not this folder, whose numbers.py hides Python's
from paper_parts import table2_arms as arms, table2_page as page  # noqa: E402
from paper_parts.table2_data import TASKS, write_all  # noqa: E402
from quality_parts.lab import ROOT, Lab, write  # noqa: E402

FULL = {
    "seeds": [1, 2, 3], "levels": [1, 2, 3],
    "shape": {"embd": 128, "ff": 256, "blocks": 8, "heads": 4, "head": 32, "experts": 8, "buckets": 32, "context": 512},
    "pieces": 2048, "characters": {"books": 2500000, "stories": 1500000}, "most_texts": 0, "gaps": 32000,
    # Of pre-training: pieces of text of which noise has left a part; then questions that text asks by itself.
    "mending": {"batch": "8x128x128", "steps": 900, "lr": "1e-3"}, "asking": {"batch": "8x256x24", "steps": 1400, "lr": "1e-3"},
    # Of fine-tuning, of which each way chooses; of marks: tokens of a source, of a target and of an answer at most.
    "rates": ["2e-3", "1e-3", "3e-4"],
    "tasks": {"scitldr": {"batch": "8x128x64", "steps": [125, 250], "source": 128, "ctx": 128, "answer": 64},
              "webquestions": {"batch": "4x128x48", "steps": [190, 380], "source": 64, "ctx": 64, "answer": 16},
              "squad": {"batch": "4x256x32", "steps": [110, 220], "source": 256, "ctx": 64, "answer": 24}},
    "most_valid": 300, "most_test": 0,
}
QUICK = {**FULL, "seeds": [1, 2], "levels": [1, 3],
         "shape": {"embd": 32, "ff": 32, "blocks": 8, "heads": 2, "head": 16, "experts": 4, "buckets": 32, "context": 512},
         "pieces": 320, "characters": {"books": 60000, "stories": 60000}, "most_texts": 40, "gaps": 200,
         "mending": {"batch": "4x64x64", "steps": 10, "lr": "1e-3"}, "asking": {"batch": "4x128x24", "steps": 5, "lr": "1e-3"},
         "tasks": {name: {**task, "batch": "2x64x32", "steps": [2, 4], "answer": 4} for name, task in FULL["tasks"].items()},
         "most_valid": 10, "most_test": 10}


def lab_of(pregate, out, quick):
    return Lab(pregate, out / "table2", QUICK if quick else FULL, "bench/paper: table2", ())


def run_all(tasks, n_jobs):
    with concurrent.futures.ThreadPoolExecutor(n_jobs) as pool:
        for done in concurrent.futures.as_completed([pool.submit(task) for task in tasks]):
            done.result()


def measure(pregate, out, quick=False, only=tuple(TASKS), n_jobs=None):
    """All choose, then all are measured."""
    lab, plan = lab_of(pregate, out, quick), QUICK if quick else FULL
    arms.base(lab, plan)
    write_all(lab.out, [TASKS[name] for name in only])
    jobs = [job for name in only for job in arms.of_task(lab, plan, TASKS[name])]
    for tasks in ([job.choose for job in jobs], [task for job in jobs for task in job.tasks()]):
        run_all(tasks, n_jobs or os.cpu_count())
        write_section(lab, plan)


def write_section(lab, plan):
    write(lab.out / "table2.md", "\n".join(["# Table II and figure 13", "", *page.section(lab, plan)]) + "\n")
    lab.write_results("table2")


def section(pregate, out, quick=False):
    """Of what is there: lines of Markdown, and the series of figure 13."""
    if not (out / "table2").exists():
        return [], {}
    lab, plan = lab_of(pregate, out, quick), QUICK if quick else FULL
    write_section(lab, plan)
    return page.section(lab, plan), page.series(lab, plan)


def parse():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", type=pathlib.Path, help="where results are kept (build/paper; with --quick build/paper-quick)")
    p.add_argument("--quick", action="store_true", help="a tiny model, few steps, few examples: to see that all of it works")
    p.add_argument("--only", type=lambda s: s.split(","), default=list(TASKS), metavar="TASK,...", help=f"of {', '.join(TASKS)}")
    p.add_argument("--page", action="store_true", help="only write the page of what is there")
    p.add_argument("--jobs", type=int, default=os.cpu_count(), help="commands side by side (processors)")
    p.add_argument("--pregate", type=pathlib.Path, default=ROOT / "build/pregate", help="the program")
    return p.parse_args()


def main():
    args = parse()
    out = args.out or ROOT / ("build/paper-quick" if args.quick else "build/paper")
    unknown = set(args.only) - set(TASKS)
    if unknown:
        sys.exit(f"table2: no task {', '.join(sorted(unknown))}; there are {', '.join(TASKS)}")
    if not args.pregate.exists():
        sys.exit(f"table2: {args.pregate} is not there; `make` builds it")
    if args.page:
        section(args.pregate, out, args.quick)
    else:
        measure(args.pregate, out, args.quick, args.only, args.jobs)
    print(out / "table2/table2.md")


if __name__ == "__main__":
    main()
