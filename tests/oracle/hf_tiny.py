#!/usr/bin/env python3
"""Makes (and checks) the tiny Qwen3-MoE models whose logits Hugging Face transformers computed.

    hf_tiny.py [DIR]            make everything in DIR (needs torch, transformers, safetensors, gguf, numpy)
    hf_tiny.py --check [DIR]    compare the files in DIR with the float64 numpy forward (needs gguf, numpy)

DIR defaults to tests/golden/hf_tiny. Random weights are written as an ordinary checkpoint (config.json and
model.safetensors with the names a published Qwen3-MoE has), loaded by transformers' own from_pretrained,
and evaluated in float32 and in float64. The same arrays go into a GGUF file. Nothing here computes the
model a second time except --check, which knows only the GGUF file.
"""
import argparse
import os
import sys
import tempfile
from pathlib import Path

import numpy as np

import exact_forward

DEFAULT_DIR = Path(__file__).resolve().parent.parent / "golden" / "hf_tiny"
TOLERANCE = 1e-4
N_TOKENS = 40
VOCAB = 272
CONTEXT = 256

# head_dim * heads (64) differs from hidden (32) on purpose: a reader that derives one from the other fails.
COMMON = dict(
    vocab_size=VOCAB, hidden_size=32, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
    norm_topk_prob=True, decoder_sparse_step=1, mlp_only_layers=[], hidden_act="silu",
    max_position_embeddings=CONTEXT, attention_bias=False, use_sliding_window=False,
)
# The tied model's epsilon and RoPE base are unusual, and its epsilon large enough to be seen in the logits.
VARIANTS = {
    "hf_tiny": dict(seed=20, num_hidden_layers=2, num_experts=8, num_experts_per_tok=3, moe_intermediate_size=32,
                    rms_norm_eps=1e-6, rope_theta=1e6, tie_word_embeddings=False),
    "hf_tiny_tied": dict(seed=21, num_hidden_layers=2, num_experts=6, num_experts_per_tok=2, moe_intermediate_size=16,
                         rms_norm_eps=2**-10, rope_theta=2e4, tie_word_embeddings=True),
}


# ---- the model's weights, under their checkpoint names -------------------------------------------------

def make_weights(v):
    """RandomState rather than default_rng: numpy promises that its stream never changes."""
    rng = np.random.RandomState(v["seed"])
    normal = lambda std, *shape: (std * rng.standard_normal(shape)).astype(np.float32)
    around = lambda mean, n: (mean + 0.3 * rng.standard_normal(n)).astype(np.float32)
    hidden, dim, inner = COMMON["hidden_size"], COMMON["head_dim"], v["moe_intermediate_size"]
    q, kv = COMMON["num_attention_heads"] * dim, COMMON["num_key_value_heads"] * dim

    w = {"model.embed_tokens.weight": normal(0.7, VOCAB, hidden)}
    for i in range(v["num_hidden_layers"]):
        p = f"model.layers.{i}."
        w[p + "input_layernorm.weight"] = around(1.0, hidden)
        w[p + "self_attn.q_proj.weight"] = normal(0.2, q, hidden)
        w[p + "self_attn.k_proj.weight"] = normal(0.2, kv, hidden)
        w[p + "self_attn.v_proj.weight"] = normal(0.2, kv, hidden)
        w[p + "self_attn.o_proj.weight"] = normal(0.15, hidden, q)
        w[p + "self_attn.q_norm.weight"] = around(1.4, dim)
        w[p + "self_attn.k_norm.weight"] = around(1.4, dim)
        w[p + "post_attention_layernorm.weight"] = around(1.0, hidden)
        w[p + "mlp.gate.weight"] = normal(0.3, v["num_experts"], hidden)
        for e in range(v["num_experts"]):
            w[p + f"mlp.experts.{e}.gate_proj.weight"] = normal(0.25, inner, hidden)
            w[p + f"mlp.experts.{e}.up_proj.weight"] = normal(0.25, inner, hidden)
            w[p + f"mlp.experts.{e}.down_proj.weight"] = normal(0.25, hidden, inner)
    w["model.norm.weight"] = around(1.0, hidden)
    if not v["tie_word_embeddings"]:
        w["lm_head.weight"] = normal(0.4, VOCAB, hidden)
    return w


def make_tokens():
    """Random ids with a run of one id, a repeated phrase and the control tokens among them."""
    ids = np.random.RandomState(22).randint(0, VOCAB, N_TOKENS)
    ids[5:8] = ids[4]
    ids[30:36] = ids[10:16]
    ids[0], ids[20], ids[-1] = VOCAB - 2, VOCAB - 1, VOCAB - 3
    return ids.astype("<i4")


# ---- transformers ----------------------------------------------------------------------------------------

class WideTorch:
    """Stands in for the torch module inside the model's code, with float32 meaning float64: the code
    converts to float32 by name in its norms, softmaxes and rotary embedding, whatever the model's type."""

    def __init__(self, torch):
        self._torch = torch

    def __getattr__(self, name):
        return self._torch.float64 if name in ("float32", "float") else getattr(self._torch, name)


def hf_logits(v, weights, tokens, folder):
    """Logits of transformers in float32 and in float64."""
    import torch
    from safetensors.numpy import save_file
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM
    from transformers.models.qwen3_moe import modeling_qwen3_moe as code

    config = Qwen3MoeConfig(**COMMON, **{k: x for k, x in v.items() if k != "seed"})
    config.architectures = ["Qwen3MoeForCausalLM"]
    config.save_pretrained(folder)
    save_file(weights, os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
    ids = torch.tensor(tokens.astype(np.int64))[None]
    result = []
    for dtype in (torch.float32, torch.float64):
        model, report = Qwen3MoeForCausalLM.from_pretrained(
            folder, dtype=dtype, attn_implementation="eager", experts_implementation="eager", output_loading_info=True)
        left = {k: x for k, x in report.items() if x}
        if left:
            sys.exit(f"from_pretrained did not take the checkpoint as it is: {left}")
        try:
            if dtype == torch.float64:
                code.torch = WideTorch(torch)
                step = torch.arange(0, COMMON["head_dim"], 2, dtype=dtype) / COMMON["head_dim"]
                model.model.rotary_emb.inv_freq = v["rope_theta"] ** -step
            with torch.no_grad():
                out = model.eval()(ids, use_cache=False).logits[0]
        finally:
            code.torch = torch
        assert out.dtype == dtype
        result.append(out.numpy())
    return result


# ---- GGUF ----------------------------------------------------------------------------------------------

def make_vocab():
    """All 256 byte tokens in the order Qwen's vocabulary has them, a few merges, three control tokens."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [b for b in range(256) if b not in plain]
    tokens = [chr(b) for b in plain] + [chr(256 + i) for i in range(len(rest))]
    space, newline = (chr(256 + rest.index(b)) for b in (0x20, 0x0A))
    merges = [(space, space), (space, "t"), ("h", "e"), ("i", "n"), (space, "a"), ("e", "r"), ("o", "n"),
              (space + "t", "he"), ("r", "e"), ("n", "d"), (space + "a", "nd"), (newline, newline), ("in", "g")]
    tokens += [a + b for a, b in merges]
    types = [1] * len(tokens) + [3] * 3
    tokens += ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    assert len(tokens) == len(set(tokens)) == VOCAB
    return tokens, types, [f"{a} {b}" for a, b in merges]


def write_gguf(path, v, w):
    from gguf import GGUFWriter

    out = GGUFWriter(path, "qwen3moe")
    out.add_type("model")
    out.add_name(path.stem)
    out.add_file_type(0)
    out.add_quantization_version(2)
    out.add_block_count(v["num_hidden_layers"])
    out.add_context_length(CONTEXT)
    out.add_embedding_length(COMMON["hidden_size"])
    out.add_feed_forward_length(v["moe_intermediate_size"] * v["num_experts_per_tok"])
    out.add_head_count(COMMON["num_attention_heads"])
    out.add_head_count_kv(COMMON["num_key_value_heads"])
    out.add_key_length(COMMON["head_dim"])
    out.add_value_length(COMMON["head_dim"])
    out.add_layer_norm_rms_eps(v["rms_norm_eps"])
    out.add_rope_freq_base(v["rope_theta"])
    out.add_expert_count(v["num_experts"])
    out.add_expert_used_count(v["num_experts_per_tok"])
    out.add_expert_feed_forward_length(v["moe_intermediate_size"])

    tokens, types, merges = make_vocab()
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("qwen2")
    out.add_token_list(tokens)
    out.add_token_types(types)
    out.add_token_merges(merges)
    out.add_bos_token_id(VOCAB - 3)
    out.add_eos_token_id(VOCAB - 1)
    out.add_pad_token_id(VOCAB - 3)
    out.add_add_bos_token(False)

    out.add_tensor("token_embd.weight", w["model.embed_tokens.weight"])
    out.add_tensor("output_norm.weight", w["model.norm.weight"])
    if "lm_head.weight" in w:
        out.add_tensor("output.weight", w["lm_head.weight"])
    names = {
        "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm",
        "attn_k_norm": "self_attn.k_norm", "ffn_norm": "post_attention_layernorm", "ffn_gate_inp": "mlp.gate",
    }
    for i in range(v["num_hidden_layers"]):
        for ours, theirs in names.items():
            out.add_tensor(f"blk.{i}.{ours}.weight", w[f"model.layers.{i}.{theirs}.weight"])
        for part in ("gate", "up", "down"):
            stack = [w[f"model.layers.{i}.mlp.experts.{e}.{part}_proj.weight"] for e in range(v["num_experts"])]
            out.add_tensor(f"blk.{i}.ffn_{part}_exps.weight", np.stack(stack))
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


# ---- putting it together ---------------------------------------------------------------------------------

def difference(a, ref):
    """Largest difference, relative to the largest reference logit."""
    return float(np.abs(a.astype(np.float64) - ref).max() / np.abs(ref).max())


def check(folder):
    """The float64 forward of the GGUF files alone against the stored logits. True if all agree."""
    tokens = exact_forward.read_tokens(folder / "tokens.i32")
    good = True
    for name in VARIANTS:
        note = {}
        mine = exact_forward.forward(exact_forward.Model(str(folder / f"{name}.gguf")), tokens, note=note)
        ref = np.fromfile(folder / f"logits_{name}.f32", "<f4").reshape(len(tokens), -1)
        d = difference(mine, ref)
        good &= d < 1e-6
        print(f"{name}: numpy float64 against stored logits {d:.2e}, router margin {note['router_margin']:.3g}")
    return good


README = """# Tiny Qwen3-MoE models with logits from Hugging Face transformers

An oracle independent of every GGUF runtime: random weights, evaluated by `Qwen3MoeForCausalLM`.

| file | content |
|---|---|
| `hf_tiny.gguf` | all F32: {hf_tiny} |
| `hf_tiny_tied.gguf` | all F32, tied: no `output.weight`, the head is `token_embd.weight`: {hf_tiny_tied} |
| `tokens.i32` | the {n} token ids that were evaluated from position 0, int32 |
| `logits_<model>.f32` | float32, {n} tokens x {vocab}: transformers in **float64**, rounded at the end |

Both: hidden 32, 4 query and 2 key/value heads of 16 (so heads x head size is 64, not the hidden size), top-k weights
renormalised. The vocabulary is Qwen-like and small: 256 byte tokens, 13 merges,
`<|endoftext|>` {eot}, `<|im_start|>` {start}, `<|im_end|>` {end}; a file can be given text.

**Tolerance.** max |logit - reference| / max |reference| <= {tol:g} for a runtime that works in F32 (KV cache in F32).
What float32 alone costs, measured as transformers in float32 against float64:

| model | largest logit | transformers f32 against f64 | GGUF in numpy f64 against transformers f64 | router margin |
|---|---|---|---|---|
{table}

The router margin is the least distance between the router logits of the last chosen and the first rejected expert,
over all tokens and layers; an error of that size would change who is chosen.

Made by `python tests/oracle/hf_tiny.py` with
{versions}.
"float64" is all of it: where the model's code names float32 (norms, softmaxes, rotary angles), that was widened too.
The weights come from numpy's `RandomState`, so the command gives the same models again.
`python tests/oracle/hf_tiny.py --check` compares the files with `tests/oracle/exact_forward.py`, which needs neither
torch nor transformers.
"""


def make(folder):
    import gguf  # noqa: F401  (only for a clear error before the work starts)
    from importlib.metadata import version

    folder.mkdir(parents=True, exist_ok=True)
    tokens = make_tokens()
    tokens.tofile(folder / "tokens.i32")
    table, words = [], {}
    for name, v in VARIANTS.items():
        weights = make_weights(v)
        path = folder / f"{name}.gguf"
        write_gguf(path, v, weights)
        with tempfile.TemporaryDirectory() as tmp:
            f32, f64 = hf_logits(v, weights, tokens, tmp)
        f64.astype("<f4").tofile(folder / f"logits_{name}.f32")
        note = {}
        mine = exact_forward.forward(exact_forward.Model(str(path)), tokens, note=note)
        table.append(f"| `{name}` | {np.abs(f64).max():.2f} | {difference(f32, f64):.1e} | {difference(mine, f64):.1e} "
                     f"| {note['router_margin']:.3g} |")
        words[name] = (f"{v['num_hidden_layers']} layers, {v['num_experts']} experts of {v['moe_intermediate_size']}, "
                       f"top {v['num_experts_per_tok']}, epsilon {v['rms_norm_eps']:.9g}, RoPE base {v['rope_theta']:g}")
        print(table[-1])
    names = ("torch", "transformers", "safetensors", "gguf", "numpy")
    versions = ", ".join([f"Python {sys.version.split()[0]}"] + [f"{n} {version(n)}" for n in names])
    text = README.format(n=N_TOKENS, vocab=VOCAB, eot=VOCAB - 3, start=VOCAB - 2, end=VOCAB - 1, tol=TOLERANCE,
                         table="\n".join(table), versions=versions, **words)
    (folder / "README.md").write_text(text, encoding="utf-8")


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("folder", nargs="?", type=Path, default=DEFAULT_DIR)
    p.add_argument("--check", action="store_true", help="only compare the files that are there")
    a = p.parse_args()
    if not a.check:
        make(a.folder)
    sys.exit(0 if check(a.folder) else 1)


if __name__ == "__main__":
    main()
