"""What the checks of all chapters draw from: random numbers, points, fields whose derivatives are known by hand."""

import torch

from companion.exercises import Case

SHAPES = (  # d, batch axes, dtype: what every exercise on `(*batch, d)` is asked
    (2, (), torch.float64),
    (3, (4,), torch.float64),
    (5, (2, 3), torch.float64),
    (3, (4,), torch.float32),
)


def normal(*shape, generator):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def uniform(low, high, *shape, generator):
    return low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float64)


def seed(generator):
    """The seed of a generator for the attempt: how much it draws has to leave the next questions as they are."""
    return torch.randint(2**40, (), generator=generator).item()


def signs(shape, generator, dtype=torch.float64):
    return torch.randint(2, shape, generator=generator).to(dtype) * 2 - 1


def tenth(*args, **kwargs):
    """A few random numbers with one decimal, so that a sentence can quote them and a learner can use them."""
    return (10 * uniform(*args, **kwargs)).round() / 10


def one_point(fn, d, name="field"):
    """`fn`, made to insist on ONE point of shape (d,) and to say what to do with a batch."""

    def checked(p, *others):
        if others:
            raise ValueError(f"{name} takes ONE tensor of shape ({d},), such as torch.stack([x, y]), not {d} numbers")
        if p.shape != (d,):
            raise ValueError(
                f"{name} takes ONE point of shape ({d},), got {tuple(p.shape)}: "
                f"torch.vmap({name}) takes many, of shape (n, {d}), such as x.reshape(-1, {d})"
            )
        return fn(p)

    return checked


def at_points(fn, x):
    """`fn` of one point, at every point of x, shape (*batch, d)."""
    value = torch.vmap(fn)(x.reshape(-1, x.shape[-1]))
    return value.reshape(x.shape[:-1] + value.shape[1:])


def trace(matrix):
    return matrix.diagonal(dim1=-2, dim2=-1).sum(-1)


def wave(d, generator):
    """The field v(p) = B tanh(C p), and its Jacobian B diag(1 − tanh²(C p)) C by the chain rule."""
    B, C = normal(2, d, d, generator=generator)
    field = one_point(lambda p: B.to(p.dtype) @ torch.tanh(C.to(p.dtype) @ p), d)
    return field, lambda x: torch.einsum("ih,...h,hj->...ij", B, 1 - torch.tanh(x.double() @ C.T) ** 2, C)


def bump(d, generator):
    """The function f(p) = sin(a·p) + |p|⁴/4 + b·p, its gradient and its Laplacian by hand."""
    a, b = normal(2, d, generator=generator)

    def f(p):
        square = (p * p).sum()
        return torch.sin(a.to(p.dtype) @ p) + square * square / 4 + b.to(p.dtype) @ p

    def gradient(x):
        return torch.cos(x @ a)[..., None] * a + (x * x).sum(-1, keepdim=True) * x + b

    def laplacian(x):
        return -(a @ a) * torch.sin(x @ a) + (d + 2) * (x * x).sum(-1)

    return one_point(f, d, "f"), gradient, laplacian


def gradient(value, x):
    """The gradient of value.sum() by x, zero where value has been cut off from x."""
    if not value.requires_grad:
        return torch.zeros_like(x)
    (gradient,) = torch.autograd.grad(value.sum(), x, allow_unused=True)
    return torch.zeros_like(x) if gradient is None else gradient


def case(what, dtype, got, want, tol=1e-8):
    """One answer, with the wanted value rounded to float32 where that was asked, and a tolerance to match."""
    if dtype == torch.float32:
        return Case(f"{what}, in float32", got, want.float(), max(tol, 1e-4))
    return Case(what, got, want, tol)


def pair(name, what, names, dtype, answer, wants, parts=None):
    """Two cases, one for each of the two tensors that an answer holds; what is no pair gets a sentence.

    `names` are those of the learner's `return`, `parts` what the cases are called, where that is something else.
    """
    answer = (None, None) if answer is None else answer
    if not isinstance(answer, tuple | list) or len(answer) != 2:
        got = f"one of shape {tuple(answer.shape)}" if torch.is_tensor(answer) else f"a {type(answer).__name__}"
        got += f" of {len(answer)}" if isinstance(answer, tuple | list) else ""
        raise ValueError(f"{name} should return two tensors, `return {', '.join(names)}`, got {got}")
    for part, got, want in zip(parts or names, answer, wants):
        yield case(f"{part} of {name} {what}", dtype, got, want)


def numbers(x):
    """A row of numbers with one decimal, as a sentence quotes it."""
    return "(" + ", ".join(f"{value:.1f}" for value in x.tolist()) + ")"
