"""Muon for the matrices, Adam for the rest.

Muon (Jordan et al., 2024) makes the momentum of a matrix nearly orthogonal by a Newton-Schulz iteration; matrices of one
shape, the experts above all, go through it as one batch. Steps are scaled so that their root mean square is that of Adam's
usual ones (Liu et al., 2025: 0.2 * sqrt(largest side))."""

import torch

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of x (x x^T)^i, from Jordan et al.: steepest at 0, 0.7 to 1.2 at the end


def orthogonal(g, steps=5):
    """g [N, rows, columns] -> about U V^T of each, in bfloat16."""
    x = g.to(torch.bfloat16)
    wide = x.shape[1] <= x.shape[2]
    if not wide:
        x = x.transpose(1, 2)
    x = x / (x.float().square().sum((1, 2), keepdim=True).sqrt() + 1e-7).to(x.dtype)
    a, b, c = COEFFICIENTS
    for _ in range(steps):
        s = x @ x.transpose(1, 2)
        x = a * x + (b * s + c * (s @ s)) @ x
    return x if wide else x.transpose(1, 2)


class Muon:
    """Parameters [rows, columns] or stacks of such [..., rows, columns]; `halves` names those that are two matrices on top of
    each other."""

    def __init__(self, params, halves=(), momentum=0.95, decay=0.05):
        self.params, self.halves = list(params), {id(p) for p in halves}
        self.momentum, self.decay = momentum, decay
        self.average = [torch.zeros_like(p) for p in self.params]

    def matrices(self, i, t):
        p = self.params[i]
        rows = p.shape[-2] // 2 if id(p) in self.halves else p.shape[-2]
        return t.reshape(-1, rows, p.shape[-1])

    @torch.no_grad()
    def step(self, lr):
        batches = {}
        for i, p in enumerate(self.params):
            if p.grad is None:
                continue
            self.average[i].lerp_(p.grad, 1 - self.momentum)
            g = self.matrices(i, p.grad.lerp(self.average[i], self.momentum))
            batches.setdefault(tuple(sorted(g.shape[1:])), []).append((i, g))
        for shape, items in batches.items():
            upright = [g if g.shape[1] <= g.shape[2] else g.transpose(1, 2) for _, g in items]
            steps = orthogonal(torch.cat(upright)).split([g.shape[0] for g in upright])
            for (i, g), u in zip(items, steps):
                p = self.params[i]
                u = u if g.shape[1] <= g.shape[2] else u.transpose(1, 2)
                p.mul_(1 - lr * self.decay).add_(u.reshape(p.shape).to(p.dtype), alpha=-0.2 * lr * max(shape) ** 0.5)

    def state_dict(self):
        return {"average": self.average}

    def load_state_dict(self, state):
        for mine, saved in zip(self.average, state["average"]):
            mine.copy_(saved)
