#!/usr/bin/env python3
"""Coldstream beside a llama.cpp-style peer with too little memory for the model: both in the same memory cgroup, cold.

    sudo bench/stream_compare.py -m MODEL.gguf --peer /path/to/llama-bench [--limit 8192,5120] [-n 32] [-p 512] [-r 3]

The peer maps the file (its default), page cache included in the limit; Coldstream streams experts under the same limit. In turn
(A B A B ...), for each limit: n decoded random tokens from a cold start and n more, a prompt of p tokens from a cold start and another,
and the time from process start to the first token of a one-token prompt. Before each run the file's pages are dropped from the page
cache; the drive's read-ahead is set to --read-ahead KiB (128, the usual default; put back at the end). Before each pair the drive's
rate is measured with a destination the size of a pool (bench/stream), so that decode and the first token can be put beside what they
read at that rate. In front of this and of first tokens, free memory is written once: a virtual machine's host may have taken it back,
and getting it again can be slower than the drive. Prints medians and the ratios taken pair by pair. Needs root, Python, and the built programs.
"""
import argparse
import csv
import glob
import io
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import time


POOL_MIB = 3072
FIRST_MIB = 3072  # what a first token touches, and more


class Cgroup:
    """A memory limit (page cache included) for one command; version 1 or 2 of the interface."""

    def __init__(self, mib):
        unified = not os.path.isdir("/sys/fs/cgroup/memory")
        self.path = f"/sys/fs/cgroup{'' if unified else '/memory'}/coldstream-{os.getpid()}"
        os.mkdir(self.path)
        limit = "memory.max" if unified else "memory.limit_in_bytes"
        self.peak_file = "memory.peak" if unified else "memory.max_usage_in_bytes"
        self.write(limit, str(mib << 20))

    def write(self, name, value):
        with open(f"{self.path}/{name}", "w") as f:
            f.write(value)

    def run(self, command):
        begin = time.monotonic()
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/tmp",
                              preexec_fn=lambda: self.write("cgroup.procs", str(os.getpid())))
        seconds = time.monotonic() - begin
        if done.returncode != 0:
            sys.exit(f"{' '.join(command)}: exit {done.returncode}\n{done.stderr.strip()[-800:]}")
        return done.stdout, seconds

    def peak_mib(self):
        with open(f"{self.path}/{self.peak_file}") as f:
            return int(f.read()) >> 20

    def close(self):
        for _ in range(50):
            try:
                os.rmdir(self.path)
                return
            except OSError:
                time.sleep(0.1)


def in_cgroup(mib, command):
    group = Cgroup(mib)
    try:
        out, seconds = group.run(command)
        return out, seconds, group.peak_mib()
    finally:
        group.close()


def drop_pages(path):
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def settle(mib):
    """Writes free memory once, so that in a virtual machine the host has given it: else the run pays for that, now more, now less."""
    subprocess.run([sys.executable, "-c", f"b'\\1' * ({mib} << 20)"], check=True)


def read_ahead_file(path):
    device = os.stat(path).st_dev
    found = os.path.realpath(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")
    return next(iter(glob.glob(f"{found}/queue/read_ahead_kb") + glob.glob(f"{found}/../queue/read_ahead_kb")), None)


def ours(o, limit, prompt, n, repeats):
    drop_pages(o.model)
    command = [o.decode, "-m", os.path.abspath(o.model), "-t", str(o.threads), "-p", str(prompt), "--prompts", "1" if n else str(repeats),
               "-n", str(n), "-r", str(repeats if n else 0), "--csv"]
    out, seconds, peak = in_cgroup(limit, command)
    return list(csv.DictReader(io.StringIO(out))), peak


def peer(o, limit, prompt, n, repeats):
    drop_pages(o.model)
    command = [o.peer, "-m", os.path.abspath(o.model), "-t", str(o.threads), "-p", str(prompt), "-n", str(n), "-r", str(repeats),
               "-w", "0", "-o", "json"] + o.peer_flags.split()
    out, seconds, peak = in_cgroup(limit, command)
    tests = json.loads(out[out.index("["):])
    return [1e9 * (prompt or n) / ns for ns in tests[-1]["samples_ns"]], peak


def drive_rate(o):
    settle(POOL_MIB)
    out = subprocess.run([o.stream, os.path.abspath(o.model), str(POOL_MIB), "60", "1"], stdout=subprocess.PIPE, text=True).stdout
    return float(re.search(r"io_uring\s+8\s+([0-9.]+)", out).group(1))


def first_token(o, limit):
    drop_pages(o.model)
    settle(FIRST_MIB)
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_inblock
    _, mine, _ = in_cgroup(limit, [o.program, "run", "-m", os.path.abspath(o.model), "--prompt-ids", "9707", "-n", "1", "--temp", "0",
                                   "--ids", "-c", "512", "-t", str(o.threads)])
    gb = (resource.getrusage(resource.RUSAGE_CHILDREN).ru_inblock - before) * 512e-9
    drop_pages(o.model)
    settle(FIRST_MIB)
    _, theirs, _ = in_cgroup(limit, [o.peer_cli, "-m", os.path.abspath(o.model), "-p", "Hello", "-n", "1", "--temp", "0", "-c", "512",
                                     "-t", str(o.threads)] + o.peer_cli_flags.split())
    return mine, theirs, gb


def median(values):
    return statistics.median(values)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("-m", "--model", required=True)
    p.add_argument("--peer", required=True, help="a llama-bench program")
    p.add_argument("--peer-flags", default="")
    p.add_argument("--peer-cli", help="a llama-cli program, for the first token; without it that part is left out")
    p.add_argument("--peer-cli-flags", default="--no-warmup")
    p.add_argument("--build", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "build", "release"))
    p.add_argument("--limit", default="8192", help="MiB, several with commas")
    p.add_argument("--read-ahead", default="128", help="KiB of the block device")
    p.add_argument("-t", "--threads", type=int, default=2)
    p.add_argument("-p", "--prompt", type=int, default=512, help="0: leave prefill out")
    p.add_argument("-n", type=int, default=32)
    p.add_argument("-r", "--repeats", type=int, default=3)
    o = p.parse_args()
    o.decode, o.stream, o.program = (os.path.join(o.build, name) for name in ("bench/decode", "bench/stream", "coldstream"))

    knob = read_ahead_file(o.model)
    before = None
    if knob:
        with open(knob) as f:
            before = f.read()
        with open(knob, "w") as f:
            f.write(o.read_ahead)
    try:
        for limit in (int(x) for x in o.limit.split(",")):
            compare(o, limit)
    finally:
        if before:
            with open(knob, "w") as f:
                f.write(before)


def compare(o, limit):
    rows = {"decode, cold": [], "decode": [], "prompt, cold": [], "prompt": [], "first token": []}
    bound = []
    for r in range(o.repeats):
        rate = drive_rate(o)
        mine, peak = ours(o, limit, 1, o.n, 2)
        decode = [x for x in mine if x["what"] == "decode"]
        theirs, their_peak = peer(o, limit, 0, o.n, 2)
        for k, kind in enumerate(("decode, cold", "decode")):
            rows[kind].append((float(decode[k]["tok_s"]), theirs[k]))
        read_s = (float(decode[1]["needed_mb"]) + float(decode[1]["ahead_mb"])) * 1e-3 / rate
        bound.append((float(decode[1]["tok_s"]) * read_s, rate, float(decode[1]["busy_gb_s"]), float(decode[1]["hits"])))
        print(f"  pair {r + 1}: drive {rate:.2f} GB/s; ours cold {decode[0]['tok_s']} then {decode[1]['tok_s']} tok/s (hits "
              f"{decode[1]['hits']}, {decode[1]['needed_mb']}+{decode[1]['ahead_mb']} MB/token, drive busy {decode[1]['busy']}, peak {peak} MiB); "
              f"peer {theirs[0]:.2f} then {theirs[1]:.2f} (peak {their_peak} MiB)", flush=True)
        if o.prompt:
            mine, peak = ours(o, limit, o.prompt, 0, 2)
            theirs, their_peak = peer(o, limit, o.prompt, 0, 2)
            for k, kind in enumerate(("prompt, cold", "prompt")):
                rows[kind].append((float(mine[k]["tok_s"]), theirs[k]))
            print(f"          prompt {mine[0]['tok_s']} then {mine[1]['tok_s']} tok/s ({mine[1]['needed_mb']}+{mine[1]['ahead_mb']} MB/token, "
                  f"peak {peak} MiB); peer {theirs[0]:.2f} then {theirs[1]:.2f}", flush=True)
        if o.peer_cli:
            mine, theirs, gb = first_token(o, limit)
            rows["first token"].append((mine, theirs))
            print(f"          first token {mine:.2f} s, {mine * rate / gb:.2f} x the {gb:.2f} GB it read at the drive's rate; peer {theirs:.2f} s",
                  flush=True)
    print(f"{os.path.basename(o.model)}, {limit} MiB:")
    for kind, unit in (("decode, cold", "tok/s"), ("decode", "tok/s"), ("prompt, cold", "tok/s"), ("prompt", "tok/s"), ("first token", "s")):
        if rows[kind]:
            ratio = median([a / b for a, b in rows[kind]])
            print(f"  {kind:12} ours {median([a for a, _ in rows[kind]]):7.2f} {unit}, peer {median([b for _, b in rows[kind]]):7.2f}, ratio {ratio:.2f}")
    print(f"  decode is {100 * median([b[0] for b in bound]):.0f} % of its bytes at the drive's rate ({median([b[1] for b in bound]):.2f} GB/s measured "
          f"idle, {median([b[2] for b in bound]):.2f} while decoding), hit rate {median([b[3] for b in bound]):.3f}", flush=True)


if __name__ == "__main__":
    main()
