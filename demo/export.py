#!/usr/bin/env python3
"""A checkpoint of train.py as a GGUF file of binary32 weights; `coldstream quantize` then makes the file that ships.

export.py CHECKPOINT.pt OUT.gguf        needs torch; then:  sh demo/ship.sh OUT.gguf demo.gguf"""

import sys

import gguf_file
import template
import vocab

NAMES = {
    "layers.{}.attention_norm": "attn_norm",
    "layers.{}.q": "attn_q",
    "layers.{}.k": "attn_k",
    "layers.{}.v": "attn_v",
    "layers.{}.o": "attn_output",
    "layers.{}.q_norm": "attn_q_norm",
    "layers.{}.k_norm": "attn_k_norm",
    "layers.{}.mixture_norm": "ffn_norm",
    "layers.{}.router": "ffn_gate_inp",
    "layers.{}.gate_up": ("ffn_gate_exps", "ffn_up_exps"),
    "layers.{}.down": "ffn_down_exps",
}


def metadata(shape, merges, steps):
    tokens, types = vocab.tokens_and_types(merges)
    first_added = len(tokens) - len(vocab.ADDED)
    a = "qwen3moe."
    return {
        "general.architecture": "qwen3moe",
        "general.type": "model",
        "general.name": "Coldstream demo",
        "general.license": "apache-2.0",
        "general.description": (
            f"A tiny model trained from scratch on generated text ({steps} steps): questions about Coldstream and small tasks."
            " Not for anything else."
        ),
        "general.file_type": 0,
        "general.quantization_version": 2,
        a + "block_count": shape["layers"],
        a + "context_length": shape["context"],
        a + "embedding_length": shape["hidden"],
        a + "feed_forward_length": shape["inner"] * shape["used"],
        a + "attention.head_count": shape["heads"],
        a + "attention.head_count_kv": shape["kv_heads"],
        a + "attention.key_length": shape["head_dim"],
        a + "attention.value_length": shape["head_dim"],
        a + "attention.layer_norm_rms_epsilon": float(shape["eps"]),
        a + "rope.freq_base": float(shape["rope_base"]),
        a + "expert_count": shape["experts"],
        a + "expert_used_count": shape["used"],
        a + "expert_feed_forward_length": shape["inner"],
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": [f"{x} {y}" for x, y in merges],
        "tokenizer.ggml.bos_token_id": first_added,
        "tokenizer.ggml.eos_token_id": first_added + 2,
        "tokenizer.ggml.padding_token_id": first_added,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": template.TEMPLATE,
    }


def tensors(shape, weights):
    """weights: {name in model.py: (extents, slowest first, as PyTorch has them; bytes of binary32)}"""

    def one(name, source):
        extents, data = source
        return f"{name}.weight", list(reversed(extents)), gguf_file.F32, data

    out = [one("token_embd", weights["embedding"]), one("output_norm", weights["final_norm"])]
    for i in range(shape["layers"]):
        for ours, theirs in NAMES.items():
            source = weights[ours.format(i)]
            if isinstance(theirs, str):
                out.append(one(f"blk.{i}.{theirs}", source))
                continue
            (experts, rows, columns), data = source  # gate and up of an expert follow each other
            half = rows // 2 * columns * 4
            for part, name in enumerate(theirs):
                halves = [data[(2 * e + part) * half : (2 * e + part + 1) * half] for e in range(experts)]
                out.append(one(f"blk.{i}.{name}", ([experts, rows // 2, columns], b"".join(halves))))
    return out


def write(path, shape, weights, merges, steps):
    gguf_file.write(path, metadata(shape, merges, steps), tensors(shape, weights))


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    import torch

    state = torch.load(sys.argv[1], weights_only=True, map_location="cpu")
    weights = {k: (list(v.shape), v.float().contiguous().numpy().tobytes()) for k, v in state["model"].items()}
    write(sys.argv[2], state["shape"], weights, vocab.read_merges(), state["step"])


if __name__ == "__main__":
    main()
