# SPDX-License-Identifier: MIT
"""Runs the tests of all clients, or those whose names have one of the words of the command line. Called by run."""
import sys
import unittest

sys.dont_write_bytecode = True
MODULES = ("try_openai", "try_responses", "try_anthropic", "try_ollama", "try_docs")


def tests_of(suite):
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from tests_of(test)
        else:
            yield test


def main():
    words = sys.argv[1:]
    found = list(tests_of(unittest.defaultTestLoader.loadTestsFromNames(MODULES)))
    wanted = [t for t in found if not words or any(w in t.id() for w in words)]
    result = unittest.TextTestRunner(stream=sys.stdout, verbosity=2).run(unittest.TestSuite(wanted))
    bad = len(result.failures) + len(result.errors)
    print(f"{result.testsRun - bad - len(result.skipped)} passed, {bad} failed")
    sys.exit(bad > 0 or not wanted)


if __name__ == "__main__":
    main()
