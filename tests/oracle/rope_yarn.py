#!/usr/bin/env python3
"""Makes tests/golden/rope: what Hugging Face transformers makes of YaRN, as frequencies and as logits.

    rope_yarn.py [DIR]          needs torch, transformers, safetensors, numpy

yarn.json holds frequencies and magnitudes of several configurations, computed by transformers' own function with its float32
widened to float64 (the float32 it publishes is compared with that and the difference recorded). logits_<name>.f32 are those
of the model hf_tiny (see hf_tiny.py) with scaled positions, evaluated in float64. The cases "ext" have no counterpart in
transformers: they are llama.cpp's ramp with a weight, written down from its definition.
"""
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

import hf_tiny

DEFAULT_DIR = Path(__file__).resolve().parent.parent / "golden" / "rope"

# head size, base, rope parameters
CONFIGS = {
    "qwen3_2507_1m": (128, 1e7, dict(factor=4.0, original_max_position_embeddings=262144)),
    "qwen3_131k": (128, 1e6, dict(factor=4.0, original_max_position_embeddings=32768)),
    "odd_factor": (128, 1e6, dict(factor=2.5, original_max_position_embeddings=40960)),
    "betas": (64, 1e4, dict(factor=8.0, original_max_position_embeddings=4096, beta_fast=16.0, beta_slow=2.0)),
    "attention_given": (128, 1e6, dict(factor=4.0, original_max_position_embeddings=32768, attention_factor=1.0)),
    "attention_given_too": (128, 1e6, dict(factor=4.0, original_max_position_embeddings=32768, attention_factor=1.25)),
    "no_stretch": (128, 1e6, dict(factor=1.0, original_max_position_embeddings=32768)),
    "all_interpolated": (64, 1e6, dict(factor=16.0, original_max_position_embeddings=8)),
    "ramp_past_the_end": (128, 1e4, dict(factor=4.0, original_max_position_embeddings=1 << 30)),
    "tiny": (16, 1e6, dict(factor=4.0, original_max_position_embeddings=64)),
}
LOGITS = {
    "yarn": dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=64),
    "yarn_betas": dict(rope_type="yarn", factor=8.0, original_max_position_embeddings=64, beta_fast=4.0, beta_slow=0.5,
                       attention_factor=1.05),
    "linear": dict(rope_type="linear", factor=4.0),
}
EXT = [(128, 1e7, 4.0, 262144, 0.5, 1.0), (128, 1e6, 4.0, 32768, 0.0, 1.0), (64, 1e4, 8.0, 4096, 0.25, 0.75)]


def config_of(head_dim, base, parameters, **more):
    from transformers import Qwen3MoeConfig

    return Qwen3MoeConfig(**{**hf_tiny.COMMON, "head_dim": head_dim, **more},
                          rope_parameters=dict(rope_theta=base, rope_type="yarn", **parameters))


def frequencies(config, wide):
    """transformers' function as it is, or with float32 meaning float64."""
    import torch
    from transformers import modeling_rope_utils as code

    try:
        code.torch = hf_tiny.WideTorch(torch) if wide else torch
        inv_freq, attention = code.ROPE_INIT_FUNCTIONS["yarn"](config, device=torch.device("cpu"))
    finally:
        code.torch = torch
    return inv_freq.double().numpy(), float(attention)


def yarn_cases():
    out = []
    for name, (head_dim, base, p) in CONFIGS.items():
        config = config_of(head_dim, base, p)
        wide, magnitude = frequencies(config, True)
        published, _ = frequencies(config, False)
        out.append(dict(name=name, head_dim=head_dim, base=base, factor=p["factor"], original=p["original_max_position_embeddings"],
                        beta_fast=p.get("beta_fast", 32.0), beta_slow=p.get("beta_slow", 1.0), ext=1.0,
                        attention=p.get("attention_factor"), magnitude=magnitude, frequency=wide.tolist(),
                        float32_off_by=float(np.abs(published / wide - 1).max())))
    return out


def ext_cases():
    """theta * (mix + (1 - mix) / factor) with mix = ramp * ext; magnitude attn * (1 + 0.1 ln factor) unless ext is 0."""
    out = []
    for head_dim, base, factor, original, ext, attn in EXT:
        r = np.arange(head_dim // 2, dtype=np.float64)
        turn = lambda beta: head_dim * np.log(original / (beta * 2 * np.pi)) / (2 * np.log(base))
        low, high = max(0.0, np.floor(turn(32.0))), min(head_dim - 1.0, np.ceil(turn(1.0)))
        mix = (1 - np.clip((r - low) / max(0.001, high - low), 0, 1)) * ext
        theta = base ** (-2 * r / head_dim)
        out.append(dict(name=f"ext_{ext}", head_dim=head_dim, base=base, factor=factor, original=original, beta_fast=32.0, beta_slow=1.0,
                        ext=ext, attention=None, attn_factor=attn, magnitude=attn * (1 + 0.1 * float(np.log(factor)) if ext else 1),
                        frequency=(theta * (mix + (1 - mix) / factor)).tolist()))
    return out


def logits(parameters, weights, tokens):
    """hf_tiny's model in float64 with these rope parameters."""
    import os

    import torch
    from safetensors.numpy import save_file
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM
    from transformers import modeling_rope_utils as rope
    from transformers.models.qwen3_moe import modeling_qwen3_moe as code

    v = {k: x for k, x in hf_tiny.VARIANTS["hf_tiny"].items() if k != "seed"}
    base = v.pop("rope_theta")
    config = Qwen3MoeConfig(**hf_tiny.COMMON, **v, rope_parameters=dict(rope_theta=base, **parameters))
    config.architectures = ["Qwen3MoeForCausalLM"]
    ids = torch.tensor(tokens.astype(np.int64))[None]
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        save_file(weights, os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
        model = Qwen3MoeForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager",
                                                    experts_implementation="eager")
        try:
            rope.torch = code.torch = hf_tiny.WideTorch(torch)
            init = rope.ROPE_INIT_FUNCTIONS[parameters["rope_type"]]
            inv_freq, scaling = init(model.config, device=torch.device("cpu"))
            rotary = model.model.rotary_emb
            assert inv_freq.dtype == torch.float64 and abs(float(rotary.attention_scaling) - float(scaling)) < 1e-12
            rotary.inv_freq = inv_freq
            with torch.no_grad():
                return model.eval()(ids, use_cache=False).logits[0].numpy()
        finally:
            rope.torch = code.torch = torch


README = """# Scaled rotary positions, from Hugging Face transformers

| file | content |
|---|---|
| `yarn.json` | frequencies (radians a position) and the factor on cos and sin of {n} configurations: transformers' YaRN in float64, and the cases `ext_*` from llama.cpp's definition |
| `logits_<name>.f32` | float32, the tokens of `../hf_tiny/tokens.i32` x {vocab}: the model `../hf_tiny/hf_tiny.gguf` with scaled positions, transformers in float64 |

{table}

transformers keeps frequencies in float32, which is up to {worst:.1e} of a frequency from the float64 here: at position 1,048,576 up to
{radians:.2g} radians.

Made by `python tests/oracle/rope_yarn.py` with {versions}.
"""


def main():
    from importlib.metadata import version

    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_DIR
    folder.mkdir(parents=True, exist_ok=True)
    cases = yarn_cases()
    worst = max(c["float32_off_by"] for c in cases)
    radians = max(float(np.abs(np.array(c["frequency"])).max()) * c["float32_off_by"] * (1 << 20) for c in cases)
    cases += ext_cases()
    (folder / "yarn.json").write_text(json.dumps({"cases": cases}, indent=0) + "\n", encoding="utf-8")
    tokens, weights = hf_tiny.make_tokens(), hf_tiny.make_weights(hf_tiny.VARIANTS["hf_tiny"])
    plain = np.fromfile(hf_tiny.DEFAULT_DIR / "logits_hf_tiny.f32", "<f4").reshape(len(tokens), -1)
    table = ["| name | rope parameters | largest change of a logit, of the largest one |", "|---|---|---|"]
    for name, parameters in LOGITS.items():
        out = logits(parameters, weights, tokens)
        out.astype("<f4").tofile(folder / f"logits_{name}.f32")
        table.append(f"| `{name}` | `{json.dumps(parameters)}` | {hf_tiny.difference(out, plain.astype(np.float64)):.2g} |")
    names = ("torch", "transformers", "numpy")
    versions = ", ".join([f"Python {sys.version.split()[0]}"] + [f"{n} {version(n)}" for n in names])
    (folder / "README.md").write_text(README.format(n=len(cases), vocab=hf_tiny.VOCAB, table="\n".join(table), worst=worst, radians=radians,
                                                    versions=versions), encoding="utf-8")
    print((folder / "README.md").read_text())


if __name__ == "__main__":
    main()
