#!/usr/bin/env python3
"""Coldstream beside a llama.cpp-style peer, on one machine, in one run.

    bench/compare.py -m MODEL.gguf --peer /path/to/llama-bench [-t 2] [-p 512] [-n 32] [-r 5]

Runs both programs' `bench` in turn (A B A B ...), r times each, and prints the median prefill and decode rates, the ratios
taken pair by pair (so that a machine whose speed drifts does not decide), the read bandwidth measured between the pairs, and
decode as a share of it: bytes of weights a token must read, over bandwidth. Needs nothing but Python and the built programs.
"""
import argparse
import csv
import io
import json
import re
import statistics
import subprocess
import sys


def run(command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit {done.returncode}\n{done.stderr.strip()[-800:]}")
    return done.stdout


def rates(csv_text):
    """(prefill, decode) tokens a second from llama-bench's CSV."""
    prefill = decode = None
    for row in csv.DictReader(io.StringIO(csv_text)):
        if int(row["n_gen"]) == 0:
            prefill = float(row["avg_ts"])
        elif int(row["n_prompt"]) == 0:
            decode = float(row["avg_ts"])
    return prefill, decode


def active_bytes(program, model):
    """Bytes of weights one decode step reads: everything but the embedding table, experts by their share in use."""
    info = json.loads(run([program, "inspect", model, "--json"]))
    used, total = info["shape"]["n_experts_used"], info["shape"]["n_experts"]
    tied = not any(t["name"] == "output.weight" for t in info["tensors"])
    whole = 0.0
    for t in info["tensors"]:
        if t["name"] == "token_embd.weight" and not tied:
            continue
        whole += t["bytes"] * (used / total if "_exps" in t["name"] else 1)
    return whole


def bandwidth(program, threads):
    text = run([program, str(threads), "2048", "5"])
    return float(re.findall(r": ([0-9.]+) GB/s", text)[-1])


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("-m", "--model", required=True)
    p.add_argument("--peer", help="a llama-bench program; without it only our own figures are printed")
    p.add_argument("--peer-flags", default="", help="further flags for it, in one word")
    p.add_argument("--ours", default="build/release/coldstream")
    p.add_argument("--membw", default="build/release/bench/membw")
    p.add_argument("-t", type=int, default=2, help="threads")
    p.add_argument("-p", type=int, default=512, help="prompt tokens")
    p.add_argument("-n", type=int, default=32, help="generated tokens")
    p.add_argument("-r", type=int, default=5, help="pairs of runs")
    p.add_argument("--isa", help="force our instruction set")
    a = p.parse_args()

    flags = ["-m", a.model, "-t", str(a.t), "-p", str(a.p), "-n", str(a.n), "-r", "1", "-o", "csv"]
    ours = [a.ours, "bench"] + flags + (["--isa", a.isa] if a.isa else [])
    peer = [a.peer] + flags + a.peer_flags.split() if a.peer else None
    pairs, limits = [], []
    for i in range(a.r):
        limits.append(bandwidth(a.membw, a.t))
        pairs.append((rates(run(ours)), rates(run(peer)) if peer else (None, None)))
        print(f"pair {i + 1}: ours {pairs[-1][0]}, peer {pairs[-1][1]}, read {limits[-1]} GB/s", file=sys.stderr)

    def median(which, side):
        return statistics.median(x[side][which] for x in pairs)

    per_token, limit = active_bytes(a.ours, a.model), statistics.median(limits)
    print(f"| {a.t} threads, medians of {a.r} | ours | peer | ratio (median of pairs) |\n|---|---|---|---|")
    for which, name in ((0, f"prefill {a.p}, tok/s"), (1, f"decode {a.n}, tok/s")):
        mine = median(which, 0)
        if peer:
            ratio = statistics.median(x[0][which] / x[1][which] for x in pairs)
            print(f"| {name} | {mine:.2f} | {median(which, 1):.2f} | {ratio:.2f} |")
        else:
            print(f"| {name} | {mine:.2f} | | |")
    decode = median(1, 0)
    print(f"\nread bandwidth {limit:.1f} GB/s; {per_token / 1e6:.0f} MB of weights a token; decode reads {decode * per_token / 1e9:.1f} GB/s = "
          f"{100 * decode * per_token / 1e9 / limit:.0f} % of it")


if __name__ == "__main__":
    main()
