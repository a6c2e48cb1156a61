"""The demo model in PyTorch: qwen3moe as the engine computes it, small. What is learned is kept in binary32 and multiplied in bfloat16.

On a CPU the experts are the cost. Tokens are sorted by expert and each expert takes its rows in one product; rows of an expert are padded
to whole blocks, so that the matrix library meets few different shapes."""
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import nn

LOW = torch.bfloat16


@dataclass
class Shape:
    vocab: int = 2048
    hidden: int = 256
    layers: int = 8
    heads: int = 8
    kv_heads: int = 2
    head_dim: int = 32
    experts: int = 16
    used: int = 4
    inner: int = 128 # width of an expert
    context: int = 2048
    rope_base: float = 10000.0
    eps: float = 1e-6

    def as_dict(self):
        return asdict(self)


# ---- experts ---------------------------------------------------------------------------------------------------------------

BLOCK = 128 # rows an expert's share is padded to


class Spread(torch.autograd.Function):
    """Rows of x [T, H] in the order of `source` [N]; `place` [T * K] says where each (token, choice) went."""

    @staticmethod
    def forward(ctx, x, source, place, used):
        ctx.save_for_backward(place)
        ctx.used = used
        return x.index_select(0, source)

    @staticmethod
    def backward(ctx, g):
        place, = ctx.saved_tensors
        g = g.index_select(0, place)
        return g.view(-1, ctx.used, g.shape[1]).sum(1), None, None, None


class Collect(torch.autograd.Function):
    """The way back: y [N, H] to [T * K, H]. Padding gets no gradient."""

    @staticmethod
    def forward(ctx, y, place, choice, padding):
        ctx.save_for_backward(choice, padding)
        return y.index_select(0, place)

    @staticmethod
    def backward(ctx, g):
        choice, padding = ctx.saved_tensors
        g = g.index_select(0, choice)
        g[padding] = 0
        return g, None, None, None


class Experts(torch.autograd.Function):
    """x [N, H], expert e's rows from bounds[e] to bounds[e + 1]; gate_up [E, 2F, H]; down [E, H, F]."""

    @staticmethod
    def forward(ctx, x, gate_up, down, bounds):
        n, inner = x.shape[0], down.shape[2]
        both = x.new_empty(n, 2 * inner)
        for e, (a, b) in enumerate(zip(bounds, bounds[1:])):
            if a < b:
                torch.mm(x[a:b], gate_up[e].t(), out=both[a:b])
        gate, up = both.split(inner, 1)
        act = F.silu(gate).mul_(up)
        y = x.new_empty(n, down.shape[1])
        for e, (a, b) in enumerate(zip(bounds, bounds[1:])):
            if a < b:
                torch.mm(act[a:b], down[e].t(), out=y[a:b])
        ctx.save_for_backward(x, gate_up, down, both, act)
        ctx.bounds = bounds
        return y

    @staticmethod
    def backward(ctx, gy):
        x, gate_up, down, both, act = ctx.saved_tensors
        inner = down.shape[2]
        g_act, g_down = torch.empty_like(act), torch.zeros_like(down)
        for e, (a, b) in enumerate(zip(ctx.bounds, ctx.bounds[1:])):
            if a < b:
                torch.mm(gy[a:b], down[e], out=g_act[a:b])
                g_down[e] = gy[a:b].t() @ act[a:b]
        gate, up = both.split(inner, 1)
        g_both, s = torch.empty_like(both), torch.sigmoid(gate)
        silu = gate * s
        torch.mul(g_act, silu, out=g_both[:, inner:])
        g_act.mul_(up)
        torch.mul(g_act, s + silu * (1 - s), out=g_both[:, :inner])
        gx, g_gate_up = torch.empty_like(x), torch.zeros_like(gate_up)
        for e, (a, b) in enumerate(zip(ctx.bounds, ctx.bounds[1:])):
            if a < b:
                torch.mm(g_both[a:b], gate_up[e], out=gx[a:b])
                g_gate_up[e] = g_both[a:b].t() @ x[a:b]
        return gx, g_gate_up, g_down, None


def sort_by_expert(chosen, n_experts):
    """chosen [T, K] -> source, place, choice, padding, bounds: see above."""
    flat = chosen.reshape(-1)
    counts = torch.bincount(flat, minlength=n_experts)
    padded = (counts + BLOCK - 1) // BLOCK * BLOCK
    ends = padded.cumsum(0)
    order = flat.argsort(stable=True) # (token, choice) numbers, by expert
    shift = (ends - padded) - (counts.cumsum(0) - counts)
    where = torch.arange(flat.numel()) + shift[flat[order]]
    place = torch.empty_like(flat)
    place[order] = where
    n = int(ends[-1])
    choice = torch.zeros(n, dtype=torch.long)
    choice[where] = order
    real = torch.zeros(n, dtype=torch.bool)
    real[where] = True
    return choice // chosen.shape[1], place, choice, (~real).nonzero().squeeze(1), [0] + ends.tolist()


class Mixture(nn.Module):
    def __init__(self, s):
        super().__init__()
        self.s = s
        self.router = nn.Parameter(torch.randn(s.experts, s.hidden) * s.hidden ** -0.5)
        self.gate_up = nn.Parameter(torch.randn(s.experts, 2 * s.inner, s.hidden) * s.hidden ** -0.5)
        self.down = nn.Parameter(torch.randn(s.experts, s.hidden, s.inner) * (2 * s.inner * s.layers) ** -0.5)

    def forward(self, x, real):
        """x [T, H] normed, binary32; real [T] 1 or 0. Returns [T, H], the balance loss, and how often each expert was chosen."""
        s = self.s
        scores = F.linear(x, self.router)
        best, chosen = scores.topk(s.used, dim=1)
        weight = best.softmax(1) # softmax over all, then normalized over the chosen ones, is this
        source, place, choice, padding, bounds = sort_by_expert(chosen, s.experts)
        y = Experts.apply(Spread.apply(x.to(LOW), source, place, s.used), self.gate_up.to(LOW), self.down.to(LOW), bounds)
        y = Collect.apply(y, place, choice, padding).view(-1, s.used, s.hidden)
        out = (y * weight.to(LOW).unsqueeze(2)).sum(1, dtype=torch.float32)
        counts = torch.bincount(chosen.reshape(-1), real.repeat_interleave(s.used), minlength=s.experts).float()
        mean = (scores.softmax(1) * real.unsqueeze(1)).sum(0) / real.sum()
        return out, s.experts * (counts / counts.sum() * mean).sum(), counts


# ---- the rest --------------------------------------------------------------------------------------------------------------

def norm(x, weight, eps):
    return F.rms_norm(x, (x.shape[-1],), weight, eps)


class Attention(nn.Module):
    def __init__(self, s):
        super().__init__()
        self.s = s
        kv = s.kv_heads * s.head_dim
        self.q = nn.Parameter(torch.randn(s.heads * s.head_dim, s.hidden) * s.hidden ** -0.5)
        self.k = nn.Parameter(torch.randn(kv, s.hidden) * s.hidden ** -0.5)
        self.v = nn.Parameter(torch.randn(kv, s.hidden) * s.hidden ** -0.5)
        self.o = nn.Parameter(torch.randn(s.hidden, s.heads * s.head_dim) * (2 * s.layers * s.heads * s.head_dim) ** -0.5)
        self.q_norm, self.k_norm = nn.Parameter(torch.ones(s.head_dim)), nn.Parameter(torch.ones(s.head_dim))

    def forward(self, x, mask, cos, sin):
        """x [B, L, H] normed; mask [B, 1, L, L]."""
        s, (b, n, _) = self.s, x.shape
        qkv = F.linear(x.to(LOW), torch.cat((self.q, self.k, self.v)).to(LOW))
        q, k, v = qkv.split((s.heads * s.head_dim, s.kv_heads * s.head_dim, s.kv_heads * s.head_dim), 2)
        q = rotate(norm(q.float().view(b, n, s.heads, s.head_dim), self.q_norm, s.eps), cos, sin).to(LOW).transpose(1, 2)
        k = rotate(norm(k.float().view(b, n, s.kv_heads, s.head_dim), self.k_norm, s.eps), cos, sin).to(LOW).transpose(1, 2)
        v = v.view(b, n, s.kv_heads, s.head_dim).transpose(1, 2)
        group = s.heads // s.kv_heads
        k, v = (t.unsqueeze(2).expand(b, s.kv_heads, group, n, s.head_dim).reshape(b, s.heads, n, s.head_dim) for t in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return F.linear(y.transpose(1, 2).reshape(b, n, -1), self.o.to(LOW)).float()


def rotate(x, cos, sin):
    """NeoX pairs: element r with r + head_dim / 2. x [B, L, heads, head_dim]; cos, sin [L, 1, head_dim / 2]."""
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), -1)


class Model(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.shape = s = shape
        self.embedding = nn.Parameter(torch.randn(s.vocab, s.hidden) * 0.05)
        self.attention = nn.ModuleList(Attention(s) for _ in range(s.layers))
        self.mixture = nn.ModuleList(Mixture(s) for _ in range(s.layers))
        self.attention_norm = nn.ParameterList(torch.ones(s.hidden) for _ in range(s.layers))
        self.mixture_norm = nn.ParameterList(torch.ones(s.hidden) for _ in range(s.layers))
        self.final_norm = nn.Parameter(torch.ones(s.hidden))

    def forward(self, ids, document):
        """ids, document [B, L]: tokens see earlier ones of their own document only; -1 is padding. Returns hidden states [B * L, H]
        normed for the head, the mean balance loss and the experts' counts [layers, E]."""
        s, (b, n) = self.shape, ids.shape
        angle = torch.arange(n).unsqueeze(1) * s.rope_base ** (-torch.arange(0, s.head_dim, 2) / s.head_dim)
        cos, sin = angle.cos().unsqueeze(1), angle.sin().unsqueeze(1)
        mask = (document.unsqueeze(1) == document.unsqueeze(2)).tril().unsqueeze(1)
        real = (document >= 0).reshape(-1).float()
        x = self.embedding[ids]
        balance, counts = 0, []
        for i in range(s.layers):
            x = x + self.attention[i](norm(x, self.attention_norm[i], s.eps), mask, cos, sin)
            y, loss, count = self.mixture[i](norm(x, self.mixture_norm[i], s.eps).view(b * n, -1), real)
            x = x + y.view(b, n, -1)
            balance = balance + loss / s.layers
            counts.append(count)
        return norm(x, self.final_norm, s.eps).view(b * n, -1), balance, torch.stack(counts)

    def logits(self, hidden):
        return F.linear(hidden.to(LOW), self.embedding.to(LOW)).float()
