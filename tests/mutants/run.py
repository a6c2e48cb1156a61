#!/usr/bin/env python3
"""Plants bugs, one at a time, and asks the tests whether they notice. Not part of any test run: minutes a bug in kernels.

    tests/mutants/run.py [--build DIR] [--match REGEX] [--list] [-j N] [--report FILE] [--trust SECONDS] [LISTS.txt]

Lists: tests/mutants/*.txt. A bug is

    @ FILE [| only OBJECT...] | TEST...       tests by their names in ctest
    = what is wrong
    -the text                                 as often as there are lines of it; stands in FILE exactly once
    +what takes its place

The tree is copied to DIR (build/mutants by default) and built in DIR/build/release; nothing else is touched. "only": FILE is a header of
many; just these objects (of gpu/*.cu) are compiled with the bug. A bug is caught when a test fails, runs too long, or no longer
builds; tests that fail without a bug end the run. Exit status: 1 when fewer than 95 % were caught."""
import argparse
import concurrent.futures
import glob
import json
import os
import re
import shutil
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
ENOUGH = 0.95


class Mutant:
    def __init__(self, head, where):
        parts = [p.split() for p in head.split("|")]
        self.file, self.where, self.title, self.old, self.new = parts[0][0], where, "", [], []
        self.only = parts[1][1:] if len(parts) > 2 and parts[1][0] == "only" else []
        self.tests = parts[-1]


def read_list(path):
    mutants = []
    for number, line in enumerate(open(path, encoding="utf-8").read().split("\n"), 1):
        if line.startswith("@"):
            mutants.append(Mutant(line[1:], f"{os.path.basename(path)}:{number}"))
        elif line.startswith("="):
            mutants[-1].title = line[1:].strip()
        elif line.startswith("-"):
            mutants[-1].old.append(line[1:])
        elif line.startswith("+"):
            mutants[-1].new.append(line[1:])
        elif line and not line.startswith("#"):
            sys.exit(f"{path}:{number}: no such line: {line}")
    return mutants


def mutated(mutant, text):
    old, new = "\n".join(mutant.old), "\n".join(mutant.new)
    if text.count(old) != 1:
        sys.exit(f"{mutant.where}: the text stands {text.count(old)} times in {mutant.file}:\n{old}")
    return text.replace(old, new)


class Tree:
    def __init__(self, folder, jobs):
        self.source, self.build, self.jobs, self.tests = folder, f"{folder}/build/release", jobs, {}
        os.makedirs(self.source, exist_ok=True)
        files = subprocess.run(["git", "-C", ROOT, "ls-files", "-co", "--exclude-standard"], capture_output=True, text=True, check=True).stdout
        for name in files.splitlines():
            there, here = f"{self.source}/{name}", f"{ROOT}/{name}"
            if not os.path.exists(here) or (os.path.exists(there) and open(here, "rb").read() == open(there, "rb").read()):
                continue
            os.makedirs(os.path.dirname(there), exist_ok=True)
            shutil.copy(here, there)
        launcher = [f"-DCMAKE_{l}_COMPILER_LAUNCHER=ccache" for l in ("C", "CXX") if shutil.which("ccache")]
        self.run(["cmake", "-S", self.source, "-B", self.build, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=RelWithDebInfo", *launcher])
        shown = self.run(["ctest", "--test-dir", self.build, "--show-only=json-v1"])
        for test in json.loads(shown[shown.index("{"):])["tests"]: # a program that is not built yet is not named there
            self.tests[test["name"]] = re.sub(r"_[0-9]+$", "", test["name"])

    def run(self, command):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{' '.join(command)}\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
        return done.stdout

    def make(self, targets):
        done = subprocess.run(["nice", "ninja", "-C", self.build, "-j", str(self.jobs), *sorted(set(targets))], capture_output=True, text=True)
        return "" if done.returncode == 0 else done.stdout

    def objects(self, names, targets):
        """{object file: the command that makes it} of gpu/<name>.cu, as far as the targets are built from it."""
        listed = self.run(["ninja", "-C", self.build, "-t", "commands", *targets])
        found = {}
        for line in listed.splitlines():
            at = re.search(r" -o (\S+/gpu/(\w+)\.cu\.o) ", line)
            if at and at[2] in names:
                found[at[1]] = line
        return found

    def relink(self, kept):
        """Objects that changed behind ninja's back: by their times they have not, and what is made of them is gone."""
        for at, (_, time_ns) in kept.items():
            os.utime(at, ns=(time_ns, time_ns))
        for archive in glob.glob(f"{self.build}/tests/cuda_host/libcs_gpu_host*.a") if kept else []:
            os.remove(archive)

    def caught(self, tests, limit):
        """The first test that fails, and how; None: all pass."""
        for test in tests:
            done = subprocess.run(["ctest", "--test-dir", self.build, "-R", f"^{test}$", "--timeout", str(limit[test]), "--output-on-failure"],
                                  capture_output=True, text=True)
            if done.returncode:
                return f"{test}{' (too long)' if 'Timeout' in done.stdout else ''}"
        return None


def try_mutant(tree, m, limit):
    path = f"{tree.source}/{m.file}"
    text, stat = open(path, encoding="utf-8").read(), os.stat(path)
    targets = [tree.tests[t] for t in m.tests]
    objects = tree.objects(m.only, targets) if m.only else {}
    if m.only and not objects:
        sys.exit(f"{m.where}: no object of {m.only} in {targets}")
    kept = {}
    try:
        with open(path, "w", encoding="utf-8") as f:
            f.write(mutated(m, text))
        if not objects:
            return tree.caught(m.tests, limit) if not tree.make(targets) else "the compiler"
        for name in objects:
            at = f"{tree.build}/{name}"
            kept[at] = (open(at, "rb").read(), os.stat(at).st_mtime_ns)
        with concurrent.futures.ThreadPoolExecutor(tree.jobs) as pool:
            codes = list(pool.map(lambda c: subprocess.run(["nice", "sh", "-c", c], cwd=tree.build, capture_output=True).returncode, objects.values()))
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        tree.relink(kept)
        return "the compiler" if any(codes) or tree.make(targets) else tree.caught(m.tests, limit)
    finally:
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
        if objects:
            os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        for at, (data, _) in kept.items():
            with open(at, "wb") as f:
                f.write(data)
        tree.relink(kept)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default=f"{ROOT}/build/mutants")
    parser.add_argument("--match", default="")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--report")
    parser.add_argument("--trust", type=int, metavar="SECONDS", help="the tests pass without a bug, each in less than that")
    parser.add_argument("-j", "--jobs", type=int, default=os.cpu_count())
    parser.add_argument("lists", nargs="*")
    args = parser.parse_args()
    mutants = [m for path in args.lists or sorted(glob.glob(f"{ROOT}/tests/mutants/*.txt")) for m in read_list(path)
               if re.search(args.match, f"{m.file} {m.title}")]
    for m in mutants: # before anything is built
        mutated(m, open(f"{ROOT}/{m.file}", encoding="utf-8").read())
        if args.list:
            print(f"{m.file}: {m.title}")
    if args.list or not mutants:
        return 0
    tree = Tree(os.path.abspath(args.build), args.jobs)
    tests = sorted({t for m in mutants for t in m.tests})
    if unknown := [t for t in tests if t not in tree.tests]:
        sys.exit(f"no such tests: {' '.join(unknown)}")
    if failed := tree.make([tree.tests[t] for t in tests]):
        sys.exit(f"the tests do not build:\n{failed[-4000:]}")
    limit = {}
    for t in tests: # without a bug
        if args.trust:
            limit[t] = args.trust
            continue
        begin = time.monotonic()
        if tree.caught([t], {t: 600}):
            sys.exit(f"{t} fails without any bug")
        limit[t] = int(30 + 4 * (time.monotonic() - begin))
    rows = []
    for m in mutants:
        by = try_mutant(tree, m, limit)
        rows.append(f"{'-' if by is None else by:32} {m.file:28} {m.title}")
        print(rows[-1], flush=True)
    caught = sum(not r.startswith("- ") for r in rows)
    last = f"{caught} of {len(rows)} caught"
    print(last)
    if args.report:
        with open(args.report, "w", encoding="utf-8") as f:
            f.write("\n".join([f"{'caught by':32} {'file':28} what is wrong", *rows, last]) + "\n")
    return 0 if caught >= ENOUGH * len(rows) else 1


if __name__ == "__main__":
    sys.exit(main())
