"""companion.points: what is refused at the door, and functions of one point carried over batches."""

import jaxtyping
import pytest
import torch
from reference import assert_close, points, seeded

import companion.points
from companion.points import check_points, check_value, on_batch, pull_back

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


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3), (4, 1, 2)])
def test_without_a_shape_any_will_do_that_holds_a_number(shape):
    value = torch.ones(shape)
    assert check_value(value, torch.ones(2), None, "f") is value


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (torch.ones(0), ValueError, "f: expected at least one number at a point, got shape (0,)"),
        (torch.ones(3, 0), ValueError, "f: expected at least one number at a point, got shape (3, 0)"),
        (3.0, TypeError, "f: expected a torch.Tensor at one point, got float"),
        (torch.ones(3, dtype=F64), TypeError, "f: expected torch.float32 like the point, got torch.float64"),
        (torch.ones(3, dtype=torch.int64), TypeError, "f: expected torch.float32 like the point, got torch.int64"),
    ],
    ids=str,
)
def test_without_a_shape_the_rest_is_still_checked(value, error, message, own_errors):
    with pytest.raises(error) as caught:
        check_value(value, torch.ones(2), None, "f")
    assert str(caught.value) == message


def test_a_shape_of_no_numbers_is_as_good_as_any_where_it_is_expected():
    value = torch.ones(0)
    assert check_value(value, torch.ones(2), (0,), "f") is value


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("at_once", [None, 1, 2, 5, 100])
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
def test_on_batch_is_the_loop_over_points(fn, at_once, batch):
    x = torch.randn(*batch, 3, dtype=F64, generator=torch.Generator().manual_seed(1))
    shape = fn(torch.ones(3, dtype=F64)).shape
    want = torch.stack([*map(fn, x.reshape(-1, 3))]) if x.numel() else x.new_zeros(0)
    got = on_batch(fn, at_once)(x)
    assert got.shape == (*batch, *shape)
    assert got.dtype == F64
    assert torch.allclose(got, want.reshape((*batch, *shape)), rtol=1e-14)


def test_on_batch_can_be_differentiated_and_mapped():
    x = torch.randn(4, 3, dtype=F64)
    f = on_batch(lambda p: (p**3).sum())
    assert torch.allclose(torch.func.grad(lambda p: f(p).sum())(x), 3 * x**2)
    assert torch.equal(torch.vmap(f)(x), f(x))


@pytest.mark.parametrize(("at_once", "calls"), [(None, 1), (1, 10), (3, 4), (4, 3), (5, 2), (9, 2), (10, 1), (11, 1)])
def test_at_once_is_the_most_points_that_fn_sees(at_once, calls):
    seen = []

    def fn(p):
        seen.append(p)
        return p.sum()

    on_batch(fn, at_once)(torch.ones(2, 5, 3))
    assert len(seen) == calls


@pytest.mark.parametrize("at_once", [None, 1, 4])
def test_one_point_bears_functions_that_cannot_be_mapped(at_once):
    def branching(p):
        return p**2 if p.sum() > 0 else -p

    f = on_batch(branching, at_once)
    assert f(torch.tensor([1.0, 2.0])).tolist() == [1, 4]
    assert f(torch.tensor([1.0, -2.0])).tolist() == [-1, 2]
    with pytest.raises(RuntimeError, match="data-dependent control flow"):
        f(torch.ones(2, 2))


@pytest.mark.parametrize("at_once", [1, 3])
def test_some_at_a_time_can_be_differentiated_and_mapped(at_once):
    x = points(7, 3, seed=1)
    f = on_batch(lambda p: (p**3).sum(), at_once)
    assert_close(torch.func.grad(lambda x: f(x).sum())(x), 3 * x**2, tol=1e-14)
    assert_close(torch.vmap(f)(x.reshape(7, 1, 3)), (x**3).sum(-1, keepdim=True), tol=1e-14)


# --- reverse passes ---------------------------------------------------------------------------------------------


def wave(p):
    """Two outputs in three variables."""
    return torch.stack([p[0] * p[1], (p[1] * p[2]).sin()])


OUTPUTS = {
    "scalar": (lambda p: wave(p).prod(), ()),
    "vector": (wave, (2,)),
    "long vector": (lambda p: torch.cat([wave(p), p, p.exp()]), (8,)),
    "matrix": (lambda p: torch.outer(wave(p), p), (2, 3)),
    "cannot be mapped over nothing": (lambda p: p.sin() * p.sum(), (3,)),
}


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("name", OUTPUTS)
def test_rows_are_weighted_sums_of_gradients(name, batch):
    fn, out = OUTPUTS[name]
    x = points(*batch, 3, seed=2)
    value, rows, _ = pull_back(fn, x)
    some = x.reshape(-1, 3)
    n = len(some)
    assert value.shape == (n, *out)
    assert_close(value, torch.stack([fn(p) for p in some]) if n else torch.zeros(0, *out), tol=1e-14)
    u = torch.randn(4, n, *out, generator=seeded(3), dtype=F64)
    want = torch.zeros(4, n, 3, dtype=F64)
    for k in range(4):
        for i in range(n):
            want[k, i] = torch.func.grad(lambda p, weights=u[k, i]: (weights * fn(p)).sum())(some[i])
    assert_close(rows(u), want, tol=1e-13)
    assert rows(u[:1]).shape == (1, n, 3)


def test_one_run_of_fn_serves_all_passes():
    seen = []

    def fn(p):
        seen.append(p)
        return wave(p)

    _, rows, _ = pull_back(fn, points(5, 3))
    rows(torch.ones(7, 5, 2, dtype=F64))
    rows(torch.ones(3, 5, 2, dtype=F64))
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("block", "name", "dtype", "passes"),
    [
        # 5 points: 15 coordinates against 5, 10 and 40 numbers of fn, the larger count times 8 or 4 bytes
        (1200, "scalar", F64, 10),
        (1200, "vector", F64, 10),
        (1199, "vector", F64, 9),
        (1200, "vector", F32, 20),
        (1200, "long vector", F64, 3),
        (1280, "long vector", F64, 4),
        (1279, "long vector", F32, 7),
        (1, "vector", F64, 1),
    ],
)
def test_as_many_passes_as_fit_a_block(block, name, dtype, passes, monkeypatch):
    monkeypatch.setattr(companion.points, "BLOCK", block)
    assert pull_back(OUTPUTS[name][0], points(5, 3, dtype=dtype))[2] == passes
    assert pull_back(OUTPUTS[name][0], points(1, 5, 3, dtype=dtype))[2] == passes


def test_a_block_is_a_megabyte_and_no_points_fit_as_often_as_one_number():
    assert companion.points.BLOCK == 2**20
    assert pull_back(wave, points(5, 3))[2] == 2**20 // (15 * 8)
    assert pull_back(wave, points(0, 3))[2] == 2**20 // 8


@pytest.mark.parametrize("dtype", [torch.float16, F32, F64])
def test_value_and_rows_keep_the_dtype(dtype):
    value, rows, _ = pull_back(wave, points(5, 3, dtype=dtype))
    assert value.dtype == dtype
    assert rows(torch.ones(2, 5, 2, dtype=dtype)).dtype == dtype


def test_value_and_rows_can_be_differentiated_again():
    """By the points, by a parameter and by the weights."""
    W = points(2, 3, seed=4).requires_grad_()
    x, u = points(2, 3, seed=5).requires_grad_(), points(4, 2, 2, seed=6).requires_grad_()

    def pulled(x, W):
        return pull_back(lambda p: torch.tanh(W @ p) * p.sum(), x)

    # one check each: gradcheck passes over an output without a graph beside one that has it
    assert pulled(x, W)[0].requires_grad
    assert torch.autograd.gradcheck(lambda x, W: pulled(x, W)[0], (x, W))
    assert torch.autograd.gradcheck(lambda x, W, u: pulled(x, W)[1](u), (x, W, u))


def test_signatures_are_checked_in_these_tests():
    from companion.divergence import divergence

    with pytest.raises(jaxtyping.TypeCheckError):
        divergence(lambda p: p, torch.tensor([1, 2]))
