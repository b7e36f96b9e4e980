"""companion.points: what is refused at the door, and functions of one point carried over batches."""

import jaxtyping
import pytest
import torch

from companion.points import check_points, check_value, on_batch

F32, F64 = torch.float32, torch.float64
BATCHES = [(), (4,), (2, 3), (1, 2, 1), (0,), (2, 0)]


@pytest.mark.parametrize("shape", [(1,), (3,), (5, 2), (2, 3, 4), (0, 2)])
@pytest.mark.parametrize("dtype", [torch.float16, F32, F64])
def test_good_points_pass_untouched(shape, dtype):
    x = torch.ones(shape, dtype=dtype)
    assert check_points(x) is x


@pytest.mark.parametrize(
    ("x", "error", "words"),
    [
        ([1.0, 2.0], TypeError, ["x:", "expected a torch.Tensor", "got list"]),
        (1.0, TypeError, ["x:", "expected a torch.Tensor", "got float"]),
        (None, TypeError, ["x:", "expected a torch.Tensor", "got NoneType"]),
        (torch.tensor([1, 2]), TypeError, ["x:", "floating-point", "got torch.int64", "1.0"]),
        (torch.tensor([True]), TypeError, ["x:", "floating-point", "got torch.bool"]),
        (torch.tensor([1j]), TypeError, ["x:", "floating-point", "got torch.complex64"]),
        (torch.tensor(1.0), ValueError, ["x:", "expected shape (*batch, d)", "d ≥ 1", "got ()"]),
        (torch.ones(3, 0), ValueError, ["x:", "expected shape (*batch, d)", "d ≥ 1", "got (3, 0)"]),
    ],
    ids=str,
)
def test_bad_points_are_refused_with_a_reason(x, error, words, own_errors):
    with pytest.raises(error) as caught:
        check_points(x)
    assert all(word in str(caught.value) for word in words)


def test_the_reason_carries_the_arguments_name(own_errors):
    with pytest.raises(TypeError, match=r"^lower: expected a torch\.Tensor, got list$"):
        check_points([0.0], "lower")


def test_a_good_value_passes_untouched():
    x, value = torch.ones(2), torch.ones(3, 2)
    assert check_value(value, x, (3, 2), "field") is value


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        ([1.0, 2.0], TypeError, ["field:", "expected a torch.Tensor at one point", "got list"]),
        (torch.ones(3), ValueError, ["field:", "expected shape (2,)", "ONE point of shape (2,)", "got (3,)"]),
        (torch.ones(1, 2), ValueError, ["field:", "expected shape (2,)", "got (1, 2)", "batch axes are added for you"]),
        (torch.tensor(1.0), ValueError, ["field:", "expected shape (2,)", "got ()"]),
        (torch.ones(2, dtype=F32), TypeError, ["field:", "expected torch.float64", "got torch.float32"]),
    ],
    ids=str,
)
def test_a_bad_value_is_refused_with_a_reason(value, error, words, own_errors):
    with pytest.raises(error) as caught:
        check_value(value, torch.ones(2, dtype=F64), (2,), "field")
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize(
    "fn",
    [
        lambda p: p.sin().sum(),
        lambda p: torch.stack([p[0] * p[1], p[2].exp()]),
        lambda p: p.sin() * p.sum(),  # cannot be mapped over no points at all
        lambda p: torch.outer(p, p.cos()),
    ],
    ids=["scalar", "vector", "vector by scalar", "matrix"],
)
def test_on_batch_is_the_loop_over_points(fn, batch):
    x = torch.randn(*batch, 3, dtype=F64, generator=torch.Generator().manual_seed(1))
    shape = fn(torch.ones(3, dtype=F64)).shape
    want = torch.stack([*map(fn, x.reshape(-1, 3))]) if x.numel() else x.new_zeros(0)
    got = on_batch(fn)(x)
    assert got.shape == (*batch, *shape)
    assert got.dtype == F64
    assert torch.allclose(got, want.reshape((*batch, *shape)), rtol=1e-14)


def test_on_batch_can_be_differentiated_and_mapped():
    x = torch.randn(4, 3, dtype=F64)
    f = on_batch(lambda p: (p**3).sum())
    assert torch.allclose(torch.func.grad(lambda p: f(p).sum())(x), 3 * x**2)
    assert torch.equal(torch.vmap(f)(x), f(x))


def test_signatures_are_checked_in_these_tests():
    from companion.divergence import divergence

    with pytest.raises(jaxtyping.TypeCheckError):
        divergence(lambda p: p, torch.tensor([1, 2]))
