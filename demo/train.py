#!/usr/bin/env python3
"""Trains the demo model on a CPU, on conversations made as they are needed; goes on from the newest checkpoint in its folder.

    train.py --dir RUN --steps 9000 --decay 2500            the learning rate stays constant, then falls to 0 over the last 2500 steps
    train.py --dir RUN2 --start RUN/step-6500.pt --steps 9000 --decay 2500     the same from a kept checkpoint
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
import torch.nn.functional as F

import chat
import corpus
import vocab
from model import Model, Shape
from optimizer import Muon

os.environ["TOKENIZERS_PARALLELISM"] = "false" # a conversation is too short for threads

OTHERS_WEIGHT = 0.1 # of a token the model does not write itself, against one it does


# ---- data ------------------------------------------------------------------------------------------------------------------

class Reader:
    """Batches of rows filled with whole conversations."""

    def __init__(self, tokenizer, seed, rows, length):
        self.tokenizer, self.seed, self.rows, self.length = tokenizer, seed, rows, length

    def conversation(self, maker):
        """ids and weights of a conversation."""
        pieces = chat.render(*maker.conversation())
        ids, weights = [], []
        for encoded, (_, own) in zip(self.tokenizer.encode_batch([t for t, _ in pieces], add_special_tokens=False), pieces):
            ids += encoded.ids
            weights += [1.0 if own else OTHERS_WEIGHT] * len(encoded.ids)
        return ids, weights

    def batch(self, step):
        """ids, next ids, weights, document numbers [rows, length]."""
        maker = corpus.Maker(random.Random(f"train {self.seed} {step}"))
        rows = [([], [], []) for _ in range(self.rows)]
        missed = document = 0
        while missed < 12:
            ids, weights = self.conversation(maker)
            if len(ids) > self.length:
                continue
            for row in rows: # a token is lost at the end of each: it has no next one
                if len(row[0]) + len(ids) <= self.length + 1:
                    row[0].extend(ids)
                    row[1].extend([0.0] + weights[1:])
                    row[2].extend([document] * len(ids))
                    document += 1
                    break
            else:
                missed += 1
        shape = (self.rows, self.length + 1)
        ids, weights, documents = torch.zeros(shape, dtype=torch.long), torch.zeros(shape), torch.full(shape, -1)
        for i, row in enumerate(rows):
            n = len(row[0])
            ids[i, :n], weights[i, :n], documents[i, :n] = torch.tensor(row[0]), torch.tensor(row[1]), torch.tensor(row[2])
        return ids[:, :-1], ids[:, 1:], weights[:, 1:], documents[:, :-1]


# ---- the test ----------------------------------------------------------------------------------------------------------------

class Test:
    """Held-out questions. An answer counts when every token of it, and the end, is the likeliest after the right ones before it: which
    is when greedy generation writes exactly that answer."""

    def __init__(self, tokenizer, seed, each, length):
        self.items = []
        for line in corpus.held_out(seed, each):
            prompt = tokenizer.encode(chat.prompt(line.get("family", "qwen3-2507"), line["messages"], line.get("tools")), add_special_tokens=False).ids
            answer = tokenizer.encode(line["answer"] + "<|im_end|>", add_special_tokens=False).ids
            if len(prompt) + len(answer) <= length + 1:
                self.items.append((line["kind"], prompt, answer))
        self.items.sort(key=lambda i: len(i[1]) + len(i[2]))
        self.length = length

    @torch.no_grad()
    def run(self, model, pause):
        right, total = {}, {}
        for start in range(0, len(self.items), 32):
            pause()
            part = self.items[start:start + 32]
            n = -(-max(len(p) + len(a) for _, p, a in part) // 64) * 64
            ids, documents = torch.zeros(len(part), n, dtype=torch.long), torch.full((len(part), n), -1)
            for i, (_, p, a) in enumerate(part):
                ids[i, :len(p) + len(a)] = torch.tensor(p + a)
                documents[i, :len(p) + len(a)] = i
            hidden = model(ids, documents)[0].view(len(part), n, -1)
            for i, (kind, p, a) in enumerate(part):
                best = model.logits(hidden[i, len(p) - 1:len(p) + len(a) - 1]).argmax(1)
                total[kind] = total.get(kind, 0) + 1
                right[kind] = right.get(kind, 0) + int(best.tolist() == a)
        return {k: (right[k], total[k]) for k in total}


def summary(result):
    good, all_ = sum(r for r, _ in result.values()), sum(t for _, t in result.values())
    weak = sorted((r / t, k) for k, (r, t) in result.items() if r < t)
    return f"{good}/{all_} = {good / all_:.3f}; " + " ".join(f"{k} {x:.2f}" for x, k in weak[:14])


# ---- training -----------------------------------------------------------------------------------------------------------------

class Training:
    def __init__(self, a):
        self.a, self.step, self.tokens = a, 0, 0
        torch.manual_seed(a.seed)
        self.model = Model(Shape())
        m = self.model
        matrices = [p for x in m.attention for p in (x.q, x.k, x.v, x.o)] + [p for x in m.mixture for p in (x.gate_up, x.down)]
        self.muon = Muon(matrices, halves=[x.gate_up for x in m.mixture])
        taken = {id(p) for p in matrices}
        rest = [p for p in m.parameters() if id(p) not in taken]
        self.adam = torch.optim.AdamW([{"params": [p for p in rest if p.dim() > 1], "weight_decay": 0.01}, {"params": [p for p in rest if p.dim() == 1], "weight_decay": 0.0}],
                                      lr=1.0, betas=(0.9, 0.98), eps=1e-10)

    def rate(self):
        """Of the peak: rises over the first steps, stays, falls linearly over the last ones."""
        a = self.a
        return min(1.0, (self.step + 1) / a.warmup, (a.steps - self.step) / max(1, a.decay))

    def save(self, path):
        state = {"step": self.step, "tokens": self.tokens, "shape": self.model.shape.as_dict(), "model": self.model.state_dict(), "muon": self.muon.state_dict(), "adam": self.adam.state_dict()}
        torch.save(state, str(path) + ".new")
        os.replace(str(path) + ".new", path)

    def load(self, path):
        state = torch.load(path, weights_only=True, map_location=self.a.device)
        self.model.load_state_dict(state["model"])
        self.muon.load_state_dict(state["muon"])
        self.adam.load_state_dict(state["adam"])
        self.step, self.tokens = state["step"], state["tokens"]

    def learn(self, batch):
        """One step. Returns loss and accuracy of the model's own tokens, the balance loss, the counts."""
        a, m = self.a, self.model
        parts = [[t[i:i + a.rows_at_once] for t in batch] for i in range(0, a.rows, a.rows_at_once)]
        whole = sum(float(p[2].sum()) for p in parts)
        own_loss = own_right = own = balance_sum = 0
        counts = torch.zeros(m.shape.layers, m.shape.experts)
        for ids, after, weights, documents in parts:
            hidden, balance, count = m(ids, documents)
            used = (weights > 0).view(-1).nonzero().squeeze(1)
            w, target = weights.reshape(-1)[used], after.reshape(-1)[used]
            logits = m.logits(hidden[used])
            losses = F.cross_entropy(logits, target, reduction="none")
            ((losses * w).sum() / whole + a.balance * balance / len(parts)).backward()
            mine = w == 1
            own_loss += float(losses.detach()[mine].sum())
            own_right += int((logits.detach()[mine].argmax(1) == target[mine]).sum())
            own += int(mine.sum())
            balance_sum += float(balance.detach()) / len(parts)
            counts += count
        torch.nn.utils.clip_grad_norm_(m.parameters(), 1.0)
        rate = self.rate()
        self.muon.step(a.rate * rate)
        for group in self.adam.param_groups:
            group["lr"] = a.adam_rate * rate
        self.adam.step()
        m.zero_grad(set_to_none=True)
        self.step += 1
        self.tokens += int((batch[3] >= 0).sum())
        return own_loss / own, own_right / own, balance_sum, counts


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
    reader, test = Reader(tokenizer, a.seed, a.rows, a.length), Test(tokenizer, 1, a.each, a.length)
    if a.check:
        result = test.run(t.model, pause)
        for kind, (right, total) in sorted(result.items(), key=lambda x: x[1][0] / x[1][1]):
            print(f"{kind:24} {right:4} of {total}")
        print(f"step {t.step}, {t.tokens / 1e6:.1f} M tokens: {summary(result)}")
        return
    saved = logged = time.time()
    spent, seen, sums, counts, n = 0.0, 0, [0.0] * 3, 0, 0
    while t.step < a.steps:
        pause()
        start, before = time.time(), t.tokens
        *values, count = t.learn(reader.batch(t.step))
        spent += time.time() - start
        seen += t.tokens - before
        sums, counts, n = [x + y for x, y in zip(sums, values)], counts + count, n + 1
        if not all(map(math.isfinite, values)):
            sys.exit(f"step {t.step}: the loss is no number")
        if t.step % a.log_every == 0 or t.step == a.steps:
            share = counts / counts.sum(1, keepdim=True) * t.model.shape.experts
            log(f"step {t.step} {t.tokens / 1e6:.2f} M tokens, loss {sums[0] / n:.4f}, right {sums[1] / n:.4f}, balance {sums[2] / n:.3f}, busiest expert {share.max():.1f}, idlest "
                f"{share.min():.2f} of even, rate {t.rate():.2f}, {seen / spent:.0f} tokens/s")
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
    p.add_argument("--rows", type=int, default=16)
    p.add_argument("--rows-at-once", type=int, default=16)
    p.add_argument("--length", type=int, default=512)
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
    torch.set_default_device(a.device)
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
