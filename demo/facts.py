#!/usr/bin/env python3
"""Reads facts.txt: what the demo model is taught about this program, and the ways people ask for it.

    facts.py     prints the flags of the program that facts.txt has no line for: before the model is trained anew"""

import re
from pathlib import Path

FILE = Path(__file__).resolve().parent / "facts.txt"


def read():
    """{name: (answer, [questions])}, in the file's order"""
    facts, name = {}, None
    for line in FILE.read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        if line.startswith("[") and line.endswith("]"):
            name = line[1:-1]
            assert name not in facts, f"{FILE}: [{name}] twice"
            facts[name] = ("", [])
        elif line.startswith("? "):
            facts[name][1].append(line[2:])
        else:
            assert not facts[name][0], f"{FILE}: [{name}] has two answers"
            facts[name] = (line, facts[name][1])
    return facts


FACTS = read()
UNKNOWN, UNKNOWN_QUESTIONS = FACTS.pop("unknown")
_, FLAG_QUESTIONS = FACTS.pop("any flag")
FLAGS = {name[len("flag ") :]: FACTS.pop(name)[0] for name in list(FACTS) if name.startswith("flag ")}


def program_flags():
    """The names of each flag of the program, negations included."""
    source = (FILE.parent.parent / "runtime/cli/flags.c").read_text(encoding="utf-8").split("const size_t n_flags")[0]
    rows = re.findall(r'\{"(-[^"]*)"(?:, *"(-[^"]*)")?', source)
    return [f"{names} {off}".split() for names, off in rows]


if __name__ == "__main__":
    taught = {name for names in FLAGS for name in names.split()}
    print("\n".join(" ".join(names) for names in program_flags() if not taught & set(names)))
