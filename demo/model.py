"""The demo model in PyTorch: qwen3moe as the engine computes it, small. What is learned is kept in binary32 and multiplied in
bfloat16.

Made to train on a CPU. A batch is a flat list of tokens of whole conversations, without padding; attention alone sees them as
conversations, grouped by length. Tokens are sorted by expert and each expert takes its rows in one product, padded to whole
blocks so that the matrix library meets few different shapes. What is not a product would cost more than the products and is
compiled (torch.compile) where it can be. """

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
    inner: int = 128  # width of an expert
    context: int = 2048
    rope_base: float = 10000.0
    eps: float = 1e-6

    def as_dict(self):
        return asdict(self)


# ---- which tokens meet which ----------------------------------------------------------------------------------------------

GROUPS = (32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048)  # lengths that conversations are filled up to


class Layout:
    """Where the tokens of a flat batch lie when conversations (`lengths`, one after the other) are grouped by length."""

    def __init__(self, lengths):
        total, starts = sum(lengths), [0]
        for n in lengths:
            starts.append(starts[-1] + n)
        gather, place, self.groups, at = [], torch.empty(total, dtype=torch.long), [], 0
        for room in GROUPS:
            members = [i for i, n in enumerate(lengths) if n <= room and not any(n <= g for g in GROUPS if g < room)]
            if not members:
                continue
            index = torch.zeros(
                len(members), room, dtype=torch.long
            )  # what fills up is behind every token of its row: never seen
            for row, i in enumerate(members):
                index[row, : lengths[i]] = torch.arange(starts[i], starts[i] + lengths[i])
                place[starts[i] : starts[i] + lengths[i]] = torch.arange(at + row * room, at + row * room + lengths[i])
            gather.append(index.flatten())
            self.groups.append((at, len(members), room))
            at += index.numel()
        self.gather, self.place = torch.cat(gather), place
        self.position = torch.cat([torch.arange(n) for n in lengths])
        self.filler = torch.ones(at, dtype=torch.bool)
        self.filler[place] = False
        self.filler = self.filler.nonzero().squeeze(1)

    def to(self, device):
        for name in ("gather", "place", "position", "filler"):
            setattr(self, name, getattr(self, name).to(device))
        return self


class Move(torch.autograd.Function):
    """Rows `index` of x. `back` says where each row of x went, `filler` which rows of the result are nobody's."""

    @staticmethod
    def forward(ctx, x, index, back, filler):
        ctx.save_for_backward(back, filler)
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx, g):
        back, _ = ctx.saved_tensors
        return g.index_select(0, back), None, None, None


class Return(torch.autograd.Function):
    """The way back from Move: rows `back` of y; filler gets no gradient."""

    @staticmethod
    def forward(ctx, y, index, back, filler):
        ctx.save_for_backward(index, filler)
        return y.index_select(0, back)

    @staticmethod
    def backward(ctx, g):
        index, filler = ctx.saved_tensors
        g = g.index_select(0, index)
        g[filler] = 0
        return g, None, None, None


# ---- attention -------------------------------------------------------------------------------------------------------------


def causal_softmax(scores, scale):
    """scores [N, group * L, L]: the queries of `group` heads one after the other."""
    length = scores.shape[2]
    row, column = torch.arange(scores.shape[1], device=scores.device) % length, torch.arange(length, device=scores.device)
    return (scores.float() * scale).masked_fill(column > row.unsqueeze(1), -torch.inf).softmax(2).to(scores.dtype)


def causal_softmax_back(p, g, scale):
    p, g = p.float(), g.float()
    return (p * (g - (p * g).sum(2, keepdim=True)) * scale).to(LOW)


class Attend(torch.autograd.Function):
    """q [N, group * L, D], k and v [N, L, D] -> [N, group * L, D]. Three times as fast, there and back, as PyTorch's own on a
    CPU in bfloat16 at these lengths."""

    @staticmethod
    def forward(ctx, q, k, v):
        p = COMPILED["causal_softmax"](q @ k.transpose(1, 2), q.shape[2] ** -0.5)
        ctx.save_for_backward(q, k, v, p)
        return p @ v

    @staticmethod
    def backward(ctx, g):
        q, k, v, p = ctx.saved_tensors
        s = COMPILED["causal_softmax_back"](p, g @ v.transpose(1, 2), q.shape[2] ** -0.5)
        return s @ k, s.transpose(1, 2) @ q, p.transpose(1, 2) @ g


# ---- experts ---------------------------------------------------------------------------------------------------------------

BLOCK = 128  # rows an expert's share is padded to


class Routes:
    """chosen [T, K] -> rows in the order of experts: expert e's are bounds[e] to bounds[e + 1]."""

    def __init__(self, chosen, n_experts):
        flat = chosen.reshape(-1)
        self.counts = torch.bincount(flat, minlength=n_experts)
        padded = (self.counts + BLOCK - 1) // BLOCK * BLOCK
        ends = padded.cumsum(0)
        order = flat.argsort(stable=True)  # (token, choice) numbers, by expert
        shift = (ends - padded) - (self.counts.cumsum(0) - self.counts)
        where = torch.arange(flat.numel(), device=flat.device) + shift[flat[order]]
        self.place = torch.empty_like(flat)
        self.place[order] = where
        self.bounds = [0] + ends.tolist()
        self.choice = flat.new_zeros(self.bounds[-1])
        self.choice[where] = order
        filler = torch.ones(self.bounds[-1], dtype=torch.bool, device=flat.device)
        filler[where] = False
        self.filler = filler.nonzero().squeeze(1)
        self.token = self.choice // chosen.shape[1]


class Spread(torch.autograd.Function):
    """Rows of x [T, H], each as often as it has choices, in the order of experts."""

    @staticmethod
    def forward(ctx, x, token, place, used):
        ctx.save_for_backward(place)
        ctx.used = used
        return x.index_select(0, token)

    @staticmethod
    def backward(ctx, g):
        (place,) = ctx.saved_tensors
        g = g.index_select(0, place)
        return g.view(-1, ctx.used, g.shape[1]).sum(1), None, None, None


def activate(both):
    gate, up = both.float().chunk(2, 1)
    return (F.silu(gate) * up).to(both.dtype)


def activate_back(both, g):
    gate, up = both.float().chunk(2, 1)
    g, s = g.float(), torch.sigmoid(gate)
    silu = gate * s
    return torch.cat((g * up * (s + silu * (1 - s)), g * silu), 1).to(both.dtype)


class Experts(torch.autograd.Function):
    """x [N, H], expert e's rows from bounds[e] to bounds[e + 1]; gate_up [E, 2F, H]; down [E, H, F]."""

    @staticmethod
    def forward(ctx, x, gate_up, down, bounds):
        both, y = x.new_empty(x.shape[0], gate_up.shape[1]), x.new_empty(x.shape[0], down.shape[1])
        spans = [(e, a, b) for e, (a, b) in enumerate(zip(bounds, bounds[1:])) if a < b]
        for e, a, b in spans:
            torch.mm(x[a:b], gate_up[e].t(), out=both[a:b])
        act = COMPILED["activate"](both)
        for e, a, b in spans:
            torch.mm(act[a:b], down[e].t(), out=y[a:b])
        ctx.save_for_backward(x, gate_up, down, both, act)
        ctx.spans = spans
        return y

    @staticmethod
    def backward(ctx, gy):
        x, gate_up, down, both, act = ctx.saved_tensors
        g_act, g_down = torch.empty_like(act), torch.zeros_like(down)
        for e, a, b in ctx.spans:
            torch.mm(gy[a:b], down[e], out=g_act[a:b])
            torch.mm(gy[a:b].t(), act[a:b], out=g_down[e])
        g_both = COMPILED["activate_back"](both, g_act)
        gx, g_gate_up = torch.empty_like(x), torch.zeros_like(gate_up)
        for e, a, b in ctx.spans:
            torch.mm(g_both[a:b], gate_up[e], out=gx[a:b])
            torch.mm(g_both[a:b].t(), x[a:b], out=g_gate_up[e])
        return gx, g_gate_up, g_down, None


# ---- a layer ---------------------------------------------------------------------------------------------------------------


def norm(x, weight, eps):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight


def rotate(x, cos, sin):
    """NeoX pairs: element r with r + head_dim / 2. x [T, heads, head_dim]; cos, sin [T, 1, head_dim / 2]."""
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), -1)


def before_attention(x, norm_weight, qkv, q_norm, k_norm, cos, sin, heads, kv_heads, eps):
    """[T, H] -> [T, (heads + 2 kv_heads) * head_dim] in bfloat16: queries and keys normed and rotated, and values."""
    dim = q_norm.shape[0]
    y = F.linear(norm(x, norm_weight, eps).to(LOW), qkv)
    q = rotate(norm(y[:, : heads * dim].float().view(-1, heads, dim), q_norm, eps), cos, sin)
    k = rotate(norm(y[:, heads * dim : (heads + kv_heads) * dim].float().view(-1, kv_heads, dim), k_norm, eps), cos, sin)
    return torch.cat((q.flatten(1).to(LOW), k.flatten(1).to(LOW), y[:, (heads + kv_heads) * dim :]), 1)


def after_attention(x, y, o, norm_weight, router, eps):
    """The stream behind attention, its normed form for the experts, the router's scores and the mean of their softmax."""
    x = x + F.linear(y, o).float()
    h = norm(x, norm_weight, eps)
    scores = F.linear(h, router)
    return x, h.to(LOW), scores, scores.softmax(1).mean(0)


def combine(x, y, best):
    """y [T, K, H], weighted by the softmax of the best scores [T, K]: softmax over all, normed over the chosen, is the same."""
    return x + (y.float() * best.softmax(1).unsqueeze(2)).sum(1)


def judge(x, norm_weight, embedding, target, eps):
    """Loss of each token, and whether the right one was the likeliest."""
    logits = F.linear(norm(x, norm_weight, eps).to(LOW), embedding).float()
    return F.cross_entropy(logits, target, reduction="none"), logits.argmax(1) == target


COMPILED = {
    f.__name__: f
    for f in (causal_softmax, causal_softmax_back, activate, activate_back, before_attention, after_attention, combine, judge)
}


def compile_all():
    for name, f in COMPILED.items():
        COMPILED[name] = torch.compile(f, dynamic=name.startswith(("activate", "causal")))  # the others always see as many rows


class Layer(nn.Module):
    def __init__(self, s):
        super().__init__()
        self.s = s
        width, kv = s.heads * s.head_dim, s.kv_heads * s.head_dim
        matrix = lambda deviation, *extents: nn.Parameter(torch.randn(*extents) * deviation)
        self.q, self.k, self.v = (
            matrix(s.hidden**-0.5, width, s.hidden),
            matrix(s.hidden**-0.5, kv, s.hidden),
            matrix(s.hidden**-0.5, kv, s.hidden),
        )
        self.o = matrix((2 * s.layers * width) ** -0.5, s.hidden, width)
        self.q_norm, self.k_norm = nn.Parameter(torch.ones(s.head_dim)), nn.Parameter(torch.ones(s.head_dim))
        self.attention_norm, self.mixture_norm = nn.Parameter(torch.ones(s.hidden)), nn.Parameter(torch.ones(s.hidden))
        self.router = matrix(s.hidden**-0.5, s.experts, s.hidden)
        self.gate_up = matrix(s.hidden**-0.5, s.experts, 2 * s.inner, s.hidden)
        self.down = matrix((2 * s.inner * s.layers) ** -0.5, s.experts, s.hidden, s.inner)

    def attend(self, x, layout, cos, sin):
        s, dim = self.s, self.s.head_dim
        moves = (layout.gather, layout.place, layout.filler)
        qkv = COMPILED["before_attention"](
            x,
            self.attention_norm,
            torch.cat((self.q, self.k, self.v)).to(LOW),
            self.q_norm,
            self.k_norm,
            cos,
            sin,
            s.heads,
            s.kv_heads,
            s.eps,
        )
        qkv, out = Move.apply(qkv, *moves), []
        for (_, n, room), part in zip(layout.groups, qkv.split([n * room for _, n, room in layout.groups])):
            q, k, v = part.view(n, room, -1, dim).transpose(1, 2).split((s.heads, s.kv_heads, s.kv_heads), 1)
            y = Attend.apply(q.reshape(n * s.kv_heads, -1, dim), *(t.reshape(n * s.kv_heads, room, dim) for t in (k, v)))
            out.append(y.view(n, s.heads, room, dim).transpose(1, 2).reshape(n * room, -1))
        return Return.apply(torch.cat(out), *moves)

    def forward(self, x, layout, cos, sin):
        s = self.s
        y = self.attend(x, layout, cos, sin)
        x, h, scores, mean = COMPILED["after_attention"](x, y, self.o.to(LOW), self.mixture_norm, self.router, s.eps)
        best, chosen = scores.topk(s.used, dim=1)
        r = Routes(chosen, s.experts)
        y = Experts.apply(Spread.apply(h, r.token, r.place, s.used), self.gate_up.to(LOW), self.down.to(LOW), r.bounds)
        y = Return.apply(y, r.choice, r.place, r.filler).view(-1, s.used, s.hidden)
        share = r.counts / r.counts.sum()
        return COMPILED["combine"](x, y, best), s.experts * (share * mean).sum(), r.counts


class Model(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.shape = s = shape
        self.embedding = nn.Parameter(torch.randn(s.vocab, s.hidden) * 0.05)
        self.layers = nn.ModuleList(Layer(s) for _ in range(s.layers))
        self.final_norm = nn.Parameter(torch.ones(s.hidden))

    def forward(self, ids, target, layout):
        """ids, target [T]. Returns the loss of each token, whether it was right, the mean balance loss (1: even), and how
        often each expert was chosen [layers, E]."""
        s = self.shape
        angle = layout.position.unsqueeze(1) * s.rope_base ** (-torch.arange(0, s.head_dim, 2, device=ids.device) / s.head_dim)
        cos, sin = angle.cos().unsqueeze(1), angle.sin().unsqueeze(1)
        x = F.embedding(ids, self.embedding)
        balance, counts = 0, []
        for layer in self.layers:
            x, loss, count = layer(x, layout, cos, sin)
            balance = balance + loss / s.layers
            counts.append(count)
        return *COMPILED["judge"](x, self.final_norm, self.embedding.to(LOW), target, s.eps), balance, torch.stack(counts)
