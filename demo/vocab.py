#!/usr/bin/env python3
"""The demo model's vocabulary: 256 bytes, merges of its own, and the added tokens of Qwen3. Writes and reads merges.txt.

    vocab.py [--conversations N]   trains the merges on generated conversations and writes merges.txt (needs `tokenizers`)

Ids as in Qwen's vocabulary: bytes in the order of their stand-in letters, then merge results in merge order, then added tokens.
"""

import argparse
import random
import sys
from pathlib import Path

FILE = Path(__file__).resolve().parent / "merges.txt"
SIZE = 2048
# text, GGUF token type: 3 control, 4 user-defined
ADDED = [
    ("<|endoftext|>", 3),
    ("<|im_start|>", 3),
    ("<|im_end|>", 3),
    ("<|object_ref_start|>", 3),
    ("<|object_ref_end|>", 3),
    ("<|box_start|>", 3),
    ("<|box_end|>", 3),
    ("<|quad_start|>", 3),
    ("<|quad_end|>", 3),
    ("<|vision_start|>", 3),
    ("<|vision_end|>", 3),
    ("<|vision_pad|>", 3),
    ("<|image_pad|>", 3),
    ("<|video_pad|>", 3),
    ("<tool_call>", 4),
    ("</tool_call>", 4),
    ("<|fim_prefix|>", 3),
    ("<|fim_middle|>", 3),
    ("<|fim_suffix|>", 3),
    ("<|fim_pad|>", 3),
    ("<|repo_name|>", 3),
    ("<|file_sep|>", 3),
    ("<tool_response>", 4),
    ("</tool_response>", 4),
    ("<think>", 4),
    ("</think>", 4),
]
N_MERGES = SIZE - 256 - len(ADDED)
SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def stand_ins():
    """The letter of each byte, by byte: printable Latin-1 stands for itself, the other 68 for U+0100 and up."""
    plain = set([*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)])
    rest = [b for b in range(256) if b not in plain]
    return [chr(b) if b in plain else chr(256 + rest.index(b)) for b in range(256)]


def read_merges():
    lines = FILE.read_text(encoding="utf-8").split("\n")[:-1]
    assert len(lines) == N_MERGES, f"{FILE}: {len(lines)} merges, not {N_MERGES}"
    return [tuple(line.split(" ")) for line in lines]


def tokens_and_types(merges):
    tokens = sorted(stand_ins()) + [a + b for a, b in merges] + [t for t, _ in ADDED]
    return tokens, [1] * (len(tokens) - len(ADDED)) + [kind for _, kind in ADDED]


def blank(merges=()):
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    tokens, _ = tokens_and_types(merges)
    plain = tokens[: -len(ADDED)]
    t = Tokenizer(models.BPE(vocab={s: i for i, s in enumerate(plain)}, merges=list(merges)))
    t.normalizer = normalizers.NFC()
    t.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(SPLIT), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    t.decoder = decoders.ByteLevel()
    t.add_special_tokens([AddedToken(s, normalized=False, special=True) for s, _ in ADDED])
    return t


def load():
    """A tokenizers.Tokenizer with the ids of the model's file."""
    t = blank(read_merges())
    assert t.token_to_id("<|im_end|>") == SIZE - len(ADDED) + 2 and t.get_vocab_size() == SIZE
    return t


def conversations(n):
    import chat
    from corpus import Maker

    maker = Maker(random.Random("vocabulary"))
    added = [t for t, _ in ADDED]
    for _ in range(n):
        for text, _ in chat.render(*maker.conversation()):
            for token in added:
                text = text.replace(token, "\n")
            yield text


def main():
    from tokenizers import trainers
    from tokenizers.pre_tokenizers import ByteLevel

    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--conversations", type=int, default=20000)
    a = p.parse_args()
    t = blank()
    trainer = trainers.BpeTrainer(
        vocab_size=256 + N_MERGES, initial_alphabet=ByteLevel.alphabet(), show_progress=False, special_tokens=[]
    )
    t.train_from_iterator(conversations(a.conversations), trainer)
    import json

    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in json.loads(t.to_str())["model"]["merges"]]
    assert len(merges) == N_MERGES, f"{len(merges)} merges: too little text"
    FILE.write_text("".join(f"{x} {y}\n" for x, y in merges), encoding="utf-8")
    print(f"{FILE}: {len(merges)} merges, the last ones {merges[-3:]}")


if __name__ == "__main__":
    sys.exit(main())
