"""What the tests of several chapters compare with: random functions, their exact values, and a count of bytes.

A function is built twice from the same random coefficients, once as sympy expressions and once as plain torch code,
so that neither `torchify` nor the code under test has a part in the reference.
"""

import itertools

import mpmath
import sympy as sp
import torch


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def points(*shape, seed=0, dtype=torch.float64):
    return (2 * torch.rand(shape, generator=seeded(seed), dtype=torch.float64) - 1).to(dtype)


class RandomField:
    """m components in d variables, Σ c·xᵉ + Σ a·sin(w·x + φ) with small whole numbers c, e, a, w, φ."""

    def __init__(self, seed, d, m=None, trigonometric=True):
        m, generator = m or d, seeded(seed)

        def draw(low, high, *shape):
            return torch.randint(low, high + 1, shape, generator=generator)

        self.c, self.e = draw(-3, 3, m, 4), draw(0, 2, m, 4, d)
        self.a, self.w, self.phase = draw(-3, 3, m, 2) * trigonometric, draw(-2, 2, m, 2, d), draw(0, 3, m, 2)
        self.symbols = sp.symbols(f"x1:{d + 1}")

    def __call__(self, p):
        waves = torch.sin((self.w.to(p.dtype) * p).sum(-1) + self.phase)
        return (self.c * (p**self.e).prod(-1)).sum(-1) + (self.a * waves).sum(-1)

    @property
    def expressions(self):
        x, component = self.symbols, []
        for c, e, a, w, phase in zip(*(t.tolist() for t in (self.c, self.e, self.a, self.w, self.phase)), strict=True):
            powers = [ck * sp.prod(s**k for s, k in zip(x, ek)) for ck, ek in zip(c, e)]
            waves = [ak * sp.sin(sum(k * s for s, k in zip(x, wk)) + f) for ak, wk, f in zip(a, w, phase)]
            component.append(sum(powers) + sum(waves))
        return component


def evaluate(expressions, symbols, x):
    """Sympy expressions at the points of x by mpmath: shape (*batch, number of expressions)."""
    f = sp.lambdify(symbols, expressions, modules="mpmath")
    with mpmath.workdps(25):
        values = [[float(v) for v in f(*map(mpmath.mpf, p))] for p in x.reshape(-1, x.shape[-1]).tolist()]
    return torch.tensor(values, dtype=torch.float64).reshape(*x.shape[:-1], len(expressions))


def assert_close(got, want, tol=1e-10):
    want = torch.as_tensor(want, dtype=got.dtype)
    assert got.shape == want.shape, f"shape {tuple(got.shape)} is not {tuple(want.shape)}"
    assert ((got - want).abs() <= tol * want.abs().clamp(min=1)).all(), f"{got} is not {want}"


def peak_memory(run):
    """The most bytes that were allocated at once while `run` ran, above those at its start."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    return max(itertools.accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())))


# What no function takes for points: by name, with the error and words of its message.
BAD_POINTS = {
    "a list": ([1.0, 2.0], TypeError, ["expected a torch.Tensor", "got list"]),
    "a number": (2.0, TypeError, ["expected a torch.Tensor", "got float"]),
    "whole numbers": (torch.tensor([1, 2]), TypeError, ["floating-point tensor", "got torch.int64"]),
    "booleans": (torch.tensor([True, False]), TypeError, ["floating-point tensor", "got torch.bool"]),
    "no point axis": (torch.tensor(1.0), ValueError, ["(*batch, d)", "d ≥ 1", "got ()"]),
    "no coordinates": (torch.ones(3, 0), ValueError, ["(*batch, d)", "d ≥ 1", "got (3, 0)"]),
}
