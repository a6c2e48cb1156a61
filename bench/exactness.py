#!/usr/bin/env python3
"""How far from exact? Mean KL from the float64 forward of the decoded weights to what a runtime prints, ours and a peer's.

    bench/exactness.py --peer /path/to/llama-perplexity [--types f32 f16 ... q4_k_m iq4_k iq3_xxs] [--ctx 128] [--chunks 12]

For each mix of bench/synth, or weight type, and seed `bench/synth` writes a small random model; both programs evaluate the same text
on it and write their log-probabilities (llama-perplexity's file format); tests/oracle/exact_forward.py computes the exact logits of
the same weights, which `coldstream quantize` writes as F32 for it (decoding is tested bit for bit elsewhere); tests/oracle/kl.py
compares. Lower is closer. A single near-tie of the router can decide a model's mean, hence several models a type. Needs Python with
numpy and gguf. The peer runs with its exact attention (--peer-flags), both with a binary16 KV cache, and with the same batch so that
both use their prompt kernels.
"""
import argparse
import os
import struct
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
ORACLE = os.path.join(ROOT, "tests", "oracle")
MIXES = ["f32", "f16", "bf16", "q8_0", "q4_0", "q4_k", "q5_k", "q6_k", "q4_k_m", "q5_k_m", "asym2", "mix-iq4_k"]


def run(*command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout[-800:]}")
    return done.stdout


def tokens_of(base_file):
    with open(base_file, "rb") as f:
        assert f.read(8) == b"_logits_"
        n_ctx, _, n_chunk = struct.unpack("<3i", f.read(12))
        return n_ctx, f.read(4 * n_ctx * n_chunk)


def mean_kl(exact, other):
    for line in run(sys.executable, os.path.join(ORACLE, "kl.py"), exact, other).splitlines():
        if "mean KL" in line:
            return float(line.split("mean KL")[1].replace(":", " ").split()[0])
    sys.exit("kl.py printed no mean KL")


def distances(a, kind, seed):
    """(ours, peer): mean KL from exact, for one random model in the current folder."""
    mix = ["--mix", kind.removeprefix("mix-")] if kind in MIXES else ["--mix", "f32", "--type", f"token_embd|output|attn|exps={kind}"]
    run(os.path.join(a.build, "bench", "synth"), "--preset", "exactness", *mix, "--seed", str(seed), "--out", "model.gguf")
    run(os.path.join(a.build, "coldstream"), "quantize", "model.gguf", "decoded.gguf", "F32", "--allow-requantize")
    both = ["-m", "model.gguf", "-f", "text", "-c", str(a.ctx), "--chunks", str(a.chunks), "-b", "512"]
    run(os.path.join(a.build, "coldstream"), "perplexity", *both, "--kl-divergence-base", "ours.kld")
    run(a.peer, *both, *a.peer_flags.split(), "--kl-divergence-base", "peer.kld")
    n_ctx, tokens = tokens_of("ours.kld")
    if tokens_of("peer.kld") != (n_ctx, tokens):
        sys.exit(f"{kind}: the two programs tokenized the text differently")
    open("tokens.i32", "wb").write(tokens)
    run(sys.executable, os.path.join(ORACLE, "exact_forward.py"), "decoded.gguf", "tokens.i32", "-o", "exact.f32", "--ctx", str(n_ctx))
    return mean_kl("exact.f32", "ours.kld"), mean_kl("exact.f32", "peer.kld")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--peer", required=True)
    p.add_argument("--peer-flags", default="-no-fa -t 2")
    p.add_argument("--types", nargs="+", default=MIXES)
    p.add_argument("--ctx", type=int, default=128)
    p.add_argument("--chunks", type=int, default=12)
    p.add_argument("--seeds", type=int, nargs="+", default=list(range(1, 9)), help="one random model each; rows are pooled")
    p.add_argument("--build", default=os.path.join(ROOT, "build", "release"))
    a = p.parse_args()
    print("| weights | ours | peer | ours/peer | models where ours is closer |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        with open("text", "w") as f:
            f.write(open(os.path.join(ROOT, "README.md"), errors="replace").read() * 3)
        for kind in a.types:
            pairs = [distances(a, kind, seed) for seed in a.seeds]
            ours, peer = (sum(p[i] for p in pairs) / len(pairs) for i in (0, 1))
            closer = sum(p[0] < p[1] for p in pairs)
            print(f"| {kind} | {ours:.3g} | {peer:.3g} | {ours / peer:.2f} | {closer} of {len(pairs)} |", flush=True)


if __name__ == "__main__":
    main()
