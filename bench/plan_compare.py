#!/usr/bin/env python3
"""What `coldstream plan` promises beside what decode measures, for several budgets.

    bench/plan_compare.py -m MODEL [-m MODEL2 ...] [--profile FILE ...] [--ram-budget GIB,GIB...] [-t THREADS,...] [-r 8]

Probes the machine once. For each model, budget and number of threads: R short stretches of decoding between looks at the drive
(`bench/decode --drive`), then the plan for the same machine with its drive scaled to the rate seen meanwhile, since drives of virtual machines
drift by half within a minute; everything else is the probe's. --profile, one for each model, as `coldstream profile` writes them.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile

BUILD = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "build", "release")
POOL_MIB = 1024


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def measure(model, gib, threads, repeats):
    """Tokens a second, and the drive's rate meanwhile in bytes a second."""
    out = run(f"{BUILD}/bench/decode", "-m", model, "--ram-budget", str(gib * 1024), "--fill", "-p", "1", "-w", "64", "-n", "6", "-r",
              str(repeats), "-t", str(threads), "--drive", str(POOL_MIB))
    lines = [line.split() for line in out.splitlines()]
    speeds = [float(words[3]) for words in lines if words[0] == "decode"]
    rates = [float(words[0]) for words in lines if words[1:3] == ["GB/s", "alone:"]]
    return statistics.harmonic_mean(speeds), 1e9 * statistics.harmonic_mean(rates)


def predict(model, gib, threads, profile, facts, rate):
    facts = json.loads(json.dumps(facts))
    reads = facts["drives"][0]["reads"]
    factor = rate / max(r["bytes_per_s"] for r in reads)
    for r in reads:
        r["bytes_per_s"] *= factor
        r["latency_s"] /= factor
    with tempfile.NamedTemporaryFile("w", suffix=".json") as f:
        json.dump(facts, f)
        f.flush()
        flags = ["--profile", profile] if profile else []
        plan = json.loads(run(f"{BUILD}/coldstream", "plan", "-m", model, "-c", "512", "--ram-budget", f"{gib}G", "-t", str(threads),
                              "--machine", f.name, "--json", *flags))
    return plan["predictions"]["decode"]["tokens_per_s"]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("-m", action="append", required=True)
    p.add_argument("--profile", action="append", default=[])
    p.add_argument("--ram-budget", default="5,8,12", help="GiB")
    p.add_argument("-t", default="2")
    p.add_argument("-r", type=int, default=8)
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run(f"{BUILD}/coldstream", "probe", "-m", a.m[0], "-o", f"{folder}/facts.json")
        with open(f"{folder}/facts.json") as f:
            facts = json.load(f)
    print("| model | GiB | threads | drive GB/s | measured tok/s | predicted | off by |\n|---|---|---|---|---|---|---|")
    for i, model in enumerate(a.m):
        for gib in map(int, a.ram_budget.split(",")):
            for threads in map(int, a.t.split(",")):
                speed, rate = measure(model, gib, threads, a.r)
                promised = predict(model, gib, threads, a.profile[i] if i < len(a.profile) else None, facts, rate)
                print(f"| {os.path.basename(model)} | {gib} | {threads} | {1e-9 * rate:.2f} | {speed:.2f} | {promised:.2f} | "
                      f"{100 * (promised / speed - 1):+.0f} % |", flush=True)


if __name__ == "__main__":
    main()
