#!/usr/bin/env python3
"""Compares two sets of logits: mean and largest KL divergence, top-1 agreement, perplexity.

    kl.py base other [--vocab N] [--tokens FILE]

KL is taken from `base` (the distribution p) to `other` (q): sum p * (ln p - ln q), in nats, one value a
row. Each argument is one of two kinds, told apart by the first eight bytes:

* raw float32 logits, rows x vocabulary, as written by exact_forward.py; the vocabulary comes from --vocab
  or from the other argument;
* a log-probability file of llama-perplexity (--kl-divergence-base), described below.

When one is raw and the other is not, the raw file must hold a row for every token of every chunk, and
only the rows that the log-probability file scores are compared.

The log-probability file, little-endian, no padding:

    8 bytes   the text "_logits_"
    i32       n_ctx      tokens in a chunk
    i32       n_vocab
    i32       n_chunk
    i32       tokens     n_chunk * n_ctx ids of the text, as tokenised (when the evaluation puts a BOS
                         in the first place of a chunk, that is not shown here)
    rows      n_chunk * (n_ctx - 1 - n_ctx/2) records, chunk after chunk

Record j of a chunk holds what the model says after the token at index n_ctx/2 + j, so the token it is
scored on is index n_ctx/2 + j + 1: the first half of a chunk is context only, and the last token of a
chunk has nothing to predict. A record is

    f32       scale      (largest logit - floor) / 65535
    f32       low        ln p at the floor
    u16       code       one per vocabulary entry, plus one unused if n_vocab is odd

and ln p(i) = low + scale * code(i). The floor is the smallest logit of the row, or the largest minus 24
if that is higher; everything below the floor gets code 0. A step is thus at most 24/65535 = 3.7e-4 and an
error half of that. The decoded p sum to 1 only within that error; they are renormalised here, which leaves a
KL near 1e-9 between raw logits and their own codes. --llama sums as llama-perplexity does instead: base codes
as they are, terms with ln p <= -16 left out, which can come out at -1e-5 or so for equal models.
"""
import argparse
import os
import sys

import numpy as np

MAGIC = b"_logits_"


def log_softmax(x):
    x = x - x.max()
    return x - np.log(np.exp(x).sum())


class LogProbFile:
    """A file of llama-perplexity, read row by row."""

    def __init__(self, path):
        with open(path, "rb") as f:
            if f.read(8) != MAGIC:
                sys.exit(f"{path}: no {MAGIC.decode()} at the start")
            head = np.fromfile(f, "<i4", 3)
            if len(head) != 3 or (head <= 0).any():
                sys.exit(f"{path}: bad header")
            self.ctx, self.vocab, self.chunks = (int(n) for n in head)
            self.tokens = np.fromfile(f, "<i4", self.ctx * self.chunks)
            start = f.tell()
        self.scored = self.ctx - 1 - self.ctx // 2
        self.count = self.chunks * self.scored
        self.words = 4 + self.vocab + self.vocab % 2
        need = start + 2 * self.words * self.count
        if os.path.getsize(path) != need:
            sys.exit(f"{path}: {os.path.getsize(path)} bytes, its header asks for {need}")
        self.data = np.memmap(path, "<u2", "r", start, (self.count, self.words))

    def log_probs(self, i, as_stored=False):
        scale, low = self.data[i, :4].view("<f4")
        lp = float(low) + float(scale) * self.data[i, 4 : 4 + self.vocab].astype(np.float64)
        return lp if as_stored else log_softmax(lp)

    def index(self):
        """For each record, the index of the token it follows in the whole text."""
        inside = self.ctx // 2 + np.arange(self.scored)
        return (np.arange(self.chunks)[:, None] * self.ctx + inside).ravel()


class RawFile:
    def __init__(self, path, vocab):
        size = os.path.getsize(path)
        if not vocab or size % (4 * vocab):
            sys.exit(f"{path}: {size} bytes is no whole number of rows of {vocab} logits (see --vocab)")
        self.vocab, self.count = vocab, size // (4 * vocab)
        self.data = np.memmap(path, "<f4", "r", shape=(self.count, vocab))
        self.pick = np.arange(self.count)

    def log_probs(self, i, as_stored=False):
        return log_softmax(self.data[self.pick[i]].astype(np.float64))


def is_log_prob_file(path):
    with open(path, "rb") as f:
        return f.read(8) == MAGIC


def open_pair(paths, vocab):
    files = [LogProbFile(p) if is_log_prob_file(p) else None for p in paths]
    known = [f for f in files if f]
    vocab = known[0].vocab if known else vocab
    for i, path in enumerate(paths):
        if files[i] is None:
            files[i] = RawFile(path, vocab)
            if known:
                if files[i].count < known[0].ctx * known[0].chunks:
                    sys.exit(f"{path}: {files[i].count} rows, {known[0].ctx * known[0].chunks} tokens were evaluated")
                files[i].pick = known[0].index()
                files[i].count = known[0].count
    base, other = files
    if base.vocab != other.vocab or base.count != other.count:
        sys.exit(f"{base.count} x {base.vocab} against {other.count} x {other.vocab}")
    if len(known) == 2 and not np.array_equal(base.tokens, other.tokens):
        sys.exit("the two files were made from different tokens")
    return base, other


def targets_of(base, other, tokens):
    """The token each row is scored on, or None where there is none."""
    for f in (base, other):
        if isinstance(f, LogProbFile):
            return f.tokens[f.index() + 1]
    if tokens is None:
        return None
    ids = np.fromfile(tokens, "<i4")
    if len(ids) != base.count:
        sys.exit(f"{tokens}: {len(ids)} tokens for {base.count} rows")
    return ids[1:]


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("base")
    p.add_argument("other")
    p.add_argument("--vocab", type=int, help="row length of raw logits")
    p.add_argument("--tokens", help="int32 token file of two raw files, for the perplexities")
    p.add_argument("--llama", action="store_true", help="sum as llama-perplexity does")
    a = p.parse_args()
    base, other = open_pair([a.base, a.other], a.vocab)
    targets = targets_of(base, other, a.tokens)

    kl = np.empty(base.count)
    same = 0
    nll = np.zeros(2)
    for i in range(base.count):
        lp, lq = base.log_probs(i, a.llama), other.log_probs(i, a.llama)
        term = np.exp(lp) * (lp - lq)
        kl[i] = term[lp > -16].sum() if a.llama else term.sum()
        same += int(lp.argmax() == lq.argmax())
        if targets is not None and i < len(targets):
            nll -= lp[targets[i]], lq[targets[i]]
    print(f"rows            {base.count}")
    print(f"mean KL         {kl.mean():.4e}")
    print(f"max KL          {kl.max():.4e}  (row {kl.argmax()})")
    print(f"top-1 agreement {100.0 * same / base.count:.3f} %")
    if targets is not None:
        ppl = np.exp(nll / min(base.count, len(targets)))
        print(f"perplexity      {ppl[0]:.4f} base, {ppl[1]:.4f} other")


if __name__ == "__main__":
    main()
