#!/usr/bin/env python3
"""Exact logits of a qwen3moe GGUF: a plain numpy forward pass in float64.

The oracle that kernels and whole engines are measured against. It decodes every weight with gguf.quants
(F32, F16, BF16, Q8_0, Q4_0, Q4_K, Q5_K, Q6_K and whatever else that package decodes) and does every
operation after that in float64, one layer at a time, with no KV cache and nothing quantised on the way.

    exact_forward.py model.gguf tokens.i32 -o logits.f32 [--ctx N]

The token file is raw little-endian int32 (.i32) or text: ids separated by anything that is not a digit,
so a JSON list works too. The output is float32, tokens x vocabulary, row t = the logits after token t.
With --ctx N the tokens are cut into independent runs of N, each starting at position 0, which is how
perplexity chunks a text. Shards: give the first one.

Needs numpy and gguf. Memory: one dense layer plus one expert at a time, in float64.
"""
import argparse
import re
import sys

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize


class Model:
    """The metadata and tensors of one GGUF file or of all its shards."""

    def __init__(self, path):
        first = GGUFReader(path)
        self.fields = first.fields
        self.readers = [first]
        count = self.get("split.count", 1)
        if count > 1:
            stem = re.fullmatch(r"(.*)-00001-of-\d{5}\.gguf", str(path))
            if not stem:
                sys.exit(f"{path}: a model in {count} shards is opened by its first one")
            self.readers += [GGUFReader(f"{stem[1]}-{i:05d}-of-{count:05d}.gguf") for i in range(2, count + 1)]
        self.tensors = {t.name: t for r in self.readers for t in r.tensors}
        arch = self.get("general.architecture")
        if arch != "qwen3moe":
            sys.exit(f"{path}: architecture is {arch}, not qwen3moe")

        self.layers = self.param("block_count")
        self.embed = self.param("embedding_length")
        self.heads = self.param("attention.head_count")
        self.kv_heads = self.param("attention.head_count_kv", self.heads)
        self.head_dim = self.param("attention.key_length", self.embed // self.heads)
        self.eps = self.param("attention.layer_norm_rms_epsilon")
        self.experts = self.param("expert_count")
        self.used = self.param("expert_used_count")
        self.has_output = "output.weight" in self.tensors

    def get(self, key, default=None):
        field = self.fields.get(key)
        return default if field is None else field.contents()

    def param(self, key, default=None):
        value = self.get("qwen3moe." + key, default)
        if value is None:
            sys.exit(f"metadata key qwen3moe.{key} is missing")
        return value

    def has(self, name):
        return name in self.tensors

    def rows(self, name, part=slice(None)):
        """Tensor `name`, or the slice `part` of its slowest dimension, decoded and widened to float64."""
        t = self.tensors[name]
        return np.asarray(dequantize(t.data[part], t.tensor_type), dtype=np.float64)

    def rope_angles(self, n_pos):
        """cos and sin, each n_pos x head_dim/2, with linear or YaRN scaling if the file asks for it."""
        n = self.head_dim
        pair = np.arange(n // 2, dtype=np.float64)
        base = float(self.param("rope.freq_base", 10000.0))
        freq = base ** (-2.0 * pair / n)
        factor = float(self.param("rope.scaling.factor", 0.0)) or 1.0
        gain = 1.0
        if self.param("rope.scaling.type", "linear") == "yarn":
            length = self.param("rope.scaling.original_context_length", self.param("context_length"))
            turn = lambda beta: n * np.log(length / (2 * np.pi * beta)) / (2 * np.log(base))
            low, high = max(0.0, np.floor(turn(32.0))), min(n - 1.0, np.ceil(turn(1.0)))
            keep = 1.0 - np.clip((pair - low) / max(0.001, high - low), 0.0, 1.0)
            freq = freq / factor * (1.0 - keep) + freq * keep
            gain = float(self.param("rope.scaling.attn_factor", 1.0)) * (1.0 + 0.1 * np.log(factor))
        else:
            freq = freq / factor
        angle = np.arange(n_pos, dtype=np.float64)[:, None] * freq
        return gain * np.cos(angle), gain * np.sin(angle)


def rms_norm(x, gain, eps):
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * gain


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def rotate(x, cos, sin):
    """Rotates element r with element r + head_dim/2; x is tokens x heads x head_dim."""
    half = x.shape[-1] // 2
    a, b = x[..., :half], x[..., half:]
    c, s = cos[:, None, :], sin[:, None, :]
    return np.concatenate([a * c - b * s, a * s + b * c], axis=-1)


def attention(m, layer, x, cos, sin):
    """Causal self-attention of one run of tokens, without the output projection."""
    w = lambda name: m.rows(f"blk.{layer}.attn_{name}.weight")
    n = len(x)
    q = (x @ w("q").T).reshape(n, m.heads, m.head_dim)
    k = (x @ w("k").T).reshape(n, m.kv_heads, m.head_dim)
    v = (x @ w("v").T).reshape(n, m.kv_heads, -1)
    q = rotate(rms_norm(q, w("q_norm"), m.eps), cos, sin)
    k = rotate(rms_norm(k, w("k_norm"), m.eps), cos, sin)
    future = np.triu(np.ones((n, n), dtype=bool), 1)
    out = []
    for h in range(m.heads):
        g = h // (m.heads // m.kv_heads)
        score = q[:, h] @ k[:, g].T / np.sqrt(m.head_dim)
        out.append(softmax(np.where(future, -np.inf, score)) @ v[:, g])
    return np.concatenate(out, axis=-1)


def route(m, layer, x):
    """For each token the chosen experts and their weights; also how clear the choice was.

    The margin is the router logit of the last chosen expert minus that of the first one left out; a run
    whose smallest margin is near zero is a bad test, for rounding alone may change who is chosen."""
    z = x @ m.rows(f"blk.{layer}.ffn_gate_inp.weight").T
    order = np.argsort(-z, axis=-1, kind="stable")
    chosen = order[:, : m.used]
    p = np.take_along_axis(softmax(z), chosen, axis=-1)
    margin = np.inf
    if m.used < m.experts:
        edge = np.take_along_axis(z, order[:, m.used - 1 : m.used + 1], axis=-1)
        margin = float((edge[:, 0] - edge[:, 1]).min())
    return chosen, p / p.sum(axis=-1, keepdims=True), margin


def expert(m, layer, e, x):
    name = lambda part: f"blk.{layer}.ffn_{part}_exps.weight"
    if m.has(name("gate_up")):
        both = m.rows(name("gate_up"), e)
        gate, up = both[: len(both) // 2], both[len(both) // 2 :]
    else:
        gate, up = m.rows(name("gate"), e), m.rows(name("up"), e)
    u = x @ gate.T
    return (u / (1.0 + np.exp(-u)) * (x @ up.T)) @ m.rows(name("down"), e).T


def forward(m, tokens, ctx=None, note=None):
    """Logits (float64, tokens x vocabulary). `note`, a dict, receives the smallest router margin."""
    tokens = np.asarray(tokens)
    ctx = ctx or len(tokens)
    runs = [slice(i, min(i + ctx, len(tokens))) for i in range(0, len(tokens), ctx)]
    cos, sin = m.rope_angles(min(ctx, len(tokens)))
    x = m.rows("token_embd.weight", tokens)
    margin = np.inf
    for layer in range(m.layers):
        w = lambda name: m.rows(f"blk.{layer}.{name}.weight")
        a = rms_norm(x, w("attn_norm"), m.eps)
        o = [attention(m, layer, a[r], cos[: r.stop - r.start], sin[: r.stop - r.start]) for r in runs]
        x = x + np.concatenate(o) @ w("attn_output").T
        b = rms_norm(x, w("ffn_norm"), m.eps)
        chosen, weight, clear = route(m, layer, b)
        margin = min(margin, clear)
        y = np.zeros_like(x)
        for e in np.unique(chosen):
            t, slot = np.nonzero(chosen == e)
            y[t] += weight[t, slot, None] * expert(m, layer, e, b[t])
        x = x + y
    if note is not None:
        note["router_margin"] = margin
    x = rms_norm(x, m.rows("output_norm.weight"), m.eps)
    head = "output.weight" if m.has_output else "token_embd.weight"
    step = 8192  # head rows decoded at a time: a real vocabulary in float64 is 2.5 GB
    total = len(m.tensors[head].data)
    return np.concatenate([x @ m.rows(head, slice(i, i + step)).T for i in range(0, total, step)], axis=-1)


def read_tokens(path):
    if str(path).endswith(".i32"):
        return np.fromfile(path, dtype="<i4")
    with open(path, encoding="utf-8") as f:
        return np.array([int(n) for n in re.findall(r"\d+", f.read())], dtype=np.int32)


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("model")
    p.add_argument("tokens")
    p.add_argument("-o", "--output", required=True)
    p.add_argument("--ctx", type=int, help="independent runs of this many tokens")
    a = p.parse_args()
    note = {}
    logits = forward(Model(a.model), read_tokens(a.tokens), a.ctx, note)
    logits.astype("<f4").tofile(a.output)
    print(f"{a.output}: {logits.shape[0]} x {logits.shape[1]}, rms {np.sqrt(np.mean(logits**2)):.4g}, "
          f"smallest router margin {note['router_margin']:.3g}", file=sys.stderr)


if __name__ == "__main__":
    main()
