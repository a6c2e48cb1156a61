#!/usr/bin/env python3
"""Trains the demo model on a CPU, on conversations made as they are needed; goes on from the newest checkpoint in its folder.

    train.py --dir RUN --steps 9000 --decay 2500            the learning rate stays constant, then falls to 0 over the last
    2500 steps train.py --dir RUN2 --start RUN/step-6500.pt --steps 9000 --decay 2500     the same from a kept checkpoint
    train.py --dir RUN --check                              how the newest checkpoint does on the test, task by task

Step i reads the same conversations however often training was interrupted. Needs torch and tokenizers; two cores are enough."""

import argparse
import json
import math
import os
import random
import sys
import time
from pathlib import Path

import torch

import chat
import corpus
import vocab
import model
from model import Layout, Model, Shape
from optimizer import Muon

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # a conversation is too short for threads

OTHERS_WEIGHT = 0.1  # of a token the model does not write itself, against one it does


# ---- data ------------------------------------------------------------------------------------------------------------------


class Batch:
    """Whole conversations one after the other, `size` tokens; what is left at the end is filled up with a conversation that
    counts nothing."""

    def __init__(self, conversations, size, device):
        lengths = [len(ids) for ids, _ in conversations]
        left = size - sum(lengths)
        if left:
            conversations, lengths = conversations + [([0] * left, [0.0] * left)], lengths + [left]
        self.tokens = size - left
        self.ids = torch.tensor([i for ids, _ in conversations for i in ids], device=device)
        self.target = torch.tensor([i for ids, _ in conversations for i in ids[1:] + ids[:1]], device=device)
        self.weight = torch.tensor([w for _, ws in conversations for w in ws[1:] + [0.0]], device=device)  # of the next token
        self.layout = Layout(lengths).to(device)


class Reader:
    """Batches of training conversations; the batch of a step is always the same."""

    def __init__(self, tokenizer, a):
        self.tokenizer, self.a = tokenizer, a

    def conversation(self, maker):
        """ids and weights of a conversation."""
        pieces = chat.render(*maker.conversation())
        ids, weights = [], []
        for encoded, (_, own) in zip(self.tokenizer.encode_batch([t for t, _ in pieces], add_special_tokens=False), pieces):
            ids += encoded.ids
            weights += [1.0 if own else OTHERS_WEIGHT] * len(encoded.ids)
        return ids, weights

    def batch(self, step, part=0):
        maker, left, missed, taken = corpus.Maker(random.Random(f"train {self.a.seed} {step} {part}")), self.a.batch, 0, []
        while left and missed < 6:  # the last places are for whoever is short enough
            ids, weights = self.conversation(maker)
            if len(ids) > min(left, self.a.longest):
                missed += left < self.a.longest
                continue
            taken.append((ids, weights))
            left -= len(ids)
        return Batch(taken, self.a.batch, self.a.device)


# ---- the test ----------------------------------------------------------------------------------------------------------------


class Test:
    """Held-out questions. An answer counts when every token of it, and the end, is the likeliest after the right ones before
    it: which is when greedy generation writes exactly that answer."""

    def __init__(self, tokenizer, a):
        self.a, self.kinds, items = a, [], []
        for line in corpus.held_out(1, a.each):
            prompt = tokenizer.encode(
                chat.prompt(line.get("family", "qwen3-2507"), line["messages"], line.get("tools")), add_special_tokens=False
            ).ids
            answer = tokenizer.encode(line["answer"] + "<|im_end|>", add_special_tokens=False).ids
            if len(prompt) + len(answer) <= a.batch:
                items.append((line["kind"], prompt + answer, [0.0] * len(prompt) + [1.0] * len(answer)))
        self.batches, start, size = [], 0, 0
        for i, (_, ids, _) in enumerate(items + [(None, [0] * a.batch, None)]):
            if size + len(ids) > a.batch:
                self.batches.append(items[start:i])
                start, size = i, 0
            size += len(ids)

    @torch.no_grad()
    def run(self, model, pause):
        right, total = {}, {}
        for items in self.batches:
            pause()
            batch = Batch([(ids, weights) for _, ids, weights in items], self.a.batch, self.a.device)
            good = model(batch.ids, batch.target, batch.layout)[1] | (batch.weight == 0)
            for (kind, _, _), fine in zip(items, good.split([len(ids) for _, ids, _ in items] + [self.a.batch - batch.tokens])):
                total[kind] = total.get(kind, 0) + 1
                right[kind] = right.get(kind, 0) + bool(fine.all())
        return {k: (right[k], total[k]) for k in total}


def summary(result):
    good, all_ = sum(r for r, _ in result.values()), sum(t for _, t in result.values())
    weak = sorted((r / t, k) for k, (r, t) in result.items() if r < t)
    return f"{good}/{all_} = {good / all_:.3f}; " + " ".join(f"{k} {x:.2f}" for x, k in weak[:14])


# ---- training --------------------------------------------------------------------------------------------------------


class Training:
    def __init__(self, a):
        self.a, self.step, self.tokens = a, 0, 0
        torch.manual_seed(a.seed)
        self.model = Model(Shape())
        self.model.to(a.device)
        matrices = [p for x in self.model.layers for p in (x.q, x.k, x.v, x.o, x.gate_up, x.down)]
        self.muon = Muon(matrices, halves=[x.gate_up for x in self.model.layers])
        taken = {id(p) for p in matrices}
        rest = [p for p in self.model.parameters() if id(p) not in taken]
        self.adam = torch.optim.AdamW(
            [
                {"params": [p for p in rest if p.dim() > 1], "weight_decay": 0.01},
                {"params": [p for p in rest if p.dim() == 1], "weight_decay": 0.0},
            ],
            lr=1.0,
            betas=(0.9, 0.98),
            eps=1e-10,
        )

    def rate(self):
        """Of the peak: rises over the first steps, stays, falls linearly over the last ones."""
        a = self.a
        return min(1.0, (self.step + 1) / a.warmup, (a.steps - self.step) / max(1, a.decay))

    def save(self, path):
        state = {
            "step": self.step,
            "tokens": self.tokens,
            "shape": self.model.shape.as_dict(),
            "model": self.model.state_dict(),
            "muon": self.muon.state_dict(),
            "adam": self.adam.state_dict(),
        }
        torch.save(state, str(path) + ".new")
        os.replace(str(path) + ".new", path)

    def load(self, path):
        state = torch.load(path, weights_only=True, map_location=self.a.device)
        self.model.load_state_dict(state["model"])
        self.muon.load_state_dict(state["muon"])
        self.adam.load_state_dict(state["adam"])
        self.step, self.tokens = state["step"], state["tokens"]

    def learn(self, batches):
        """One step. Returns loss and accuracy of the model's own tokens, the balance loss, the experts' counts."""
        a, m = self.a, self.model
        whole = sum(float(b.weight.sum()) for b in batches)
        own_loss = own_right = own = balance_sum = counts = 0
        for b in batches:
            losses, right, balance, count = m(b.ids, b.target, b.layout)
            ((losses * b.weight).sum() / whole + a.balance * balance / len(batches)).backward()
            mine = b.weight == 1
            own_loss += float(losses.detach()[mine].sum())
            own_right += int(right[mine].sum())
            own += int(mine.sum())
            balance_sum += float(balance.detach()) / len(batches)
            counts = counts + count
            self.tokens += b.tokens
        torch.nn.utils.clip_grad_norm_(m.parameters(), 1.0)
        rate = self.rate()
        self.muon.step(a.rate * rate)
        for group in self.adam.param_groups:
            group["lr"] = a.adam_rate * rate
        self.adam.step()
        m.zero_grad(set_to_none=True)
        self.step += 1
        return own_loss / own, own_right / own, balance_sum, counts.float()


def pauser(path):
    def pause():
        while path and os.path.exists(path):
            time.sleep(3)

    return pause


def newest(folder):
    found = sorted(folder.glob("*.pt"), key=lambda p: p.stat().st_mtime)
    return found[-1] if found else None


def run(a, t, log):
    folder, pause = Path(a.dir), pauser(a.pause_while)
    tokenizer = vocab.load()
    reader, test = Reader(tokenizer, a), Test(tokenizer, a)
    if a.check:
        result = test.run(t.model, pause)
        for kind, (right, total) in sorted(result.items(), key=lambda x: x[1][0] / x[1][1]):
            print(f"{kind:24} {right:4} of {total}")
        print(f"step {t.step}, {t.tokens / 1e6:.1f} M tokens: {summary(result)}")
        return
    saved = time.time()
    spent, seen, sums, counts, n = 0.0, 0, [0.0] * 3, 0, 0
    while t.step < a.steps:
        pause()
        start, before = time.time(), t.tokens
        *values, count = t.learn([reader.batch(t.step, part) for part in range(a.passes)])
        spent += time.time() - start
        seen += t.tokens - before
        sums, counts, n = [x + y for x, y in zip(sums, values)], counts + count, n + 1
        if not all(map(math.isfinite, values)):
            sys.exit(f"step {t.step}: the loss is no number")
        if t.step % a.log_every == 0 or t.step == a.steps:
            share = counts / counts.sum(1, keepdim=True) * t.model.shape.experts
            log(
                f"step {t.step} {t.tokens / 1e6:.2f} M tokens, loss {sums[0] / n:.4f}, right {sums[1] / n:.4f}, balance"
                f" {sums[2] / n:.3f}, busiest expert {share.max():.1f}, idlest {share.min():.2f} of even, rate {t.rate():.2f},"
                f" {seen / spent:.0f} tokens/s"
            )
            spent, seen, sums, counts, n = 0.0, 0, [0.0] * 3, 0, 0
        if t.step % a.test_every == 0 or t.step == a.steps:
            log(f"step {t.step} test {summary(test.run(t.model, pause))}")
        if t.step % a.keep_every == 0 or t.step == a.steps:
            t.save(folder / f"step-{t.step}.pt")
        if time.time() - saved > a.save_seconds:
            t.save(folder / "newest.pt")
            saved = time.time()
    log(f"step {t.step}: done")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--dir", required=True)
    p.add_argument("--start", help="begin with this checkpoint when the folder has none")
    p.add_argument("--check", action="store_true")
    p.add_argument("--steps", type=int, default=9000)
    p.add_argument("--warmup", type=int, default=100)
    p.add_argument("--decay", type=int, default=2500)
    p.add_argument("--rate", type=float, default=4e-3, help="Muon's peak")
    p.add_argument("--adam-rate", type=float, default=4e-3)
    p.add_argument("--balance", type=float, default=3e-3, help="weight of the balance loss")
    p.add_argument("--batch", type=int, default=8192, help="tokens computed together")
    p.add_argument("--passes", type=int, default=1, help="such batches a step")
    p.add_argument("--longest", type=int, default=640, help="tokens of a conversation; longer ones are left out")
    p.add_argument("--compile", action="store_true", help="by torch.compile: faster, needs a C++ compiler")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--device", default="cpu", help="cuda works, too")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--each", type=int, default=12, help="test questions a kind")
    p.add_argument("--log-every", type=int, default=20)
    p.add_argument("--test-every", type=int, default=500)
    p.add_argument("--keep-every", type=int, default=1000)
    p.add_argument("--save-seconds", type=int, default=240)
    p.add_argument("--pause-while", metavar="FILE", help="wait between steps while this file exists")
    a = p.parse_args()
    folder = Path(a.dir)
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(a.threads)
    if a.compile:
        model.compile_all()
    pauser(a.pause_while)()
    t = Training(a)
    found = newest(folder) or a.start
    if found:
        t.load(found)
    out = open(folder / "log", "a", encoding="utf-8")

    def log(line):
        print(line, flush=True)
        out.write(time.strftime("%H:%M:%S ", time.gmtime()) + line + "\n")
        out.flush()

    if not a.check:
        log(f"from {found or 'nothing'}: {sum(x.numel() for x in t.model.parameters())} weights, {json.dumps(vars(a))}")
    run(a, t, log)


if __name__ == "__main__":
    sys.exit(main())
