"""companion.points: what is refused at the door, and functions of one point carried over batches."""

import jaxtyping
import pytest
import torch
from reference import assert_close, points, seeded

import companion.points
from companion.points import (
    check_alike,
    check_covariance,
    check_points,
    check_sequences,
    check_value,
    check_whole,
    on_batch,
    pull_back,
    require,
    require_finite,
)

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


# --- values -----------------------------------------------------------------------------------------------------------


def test_what_holds_is_let_pass():
    require("x", torch.ones(3), torch.ones(3) > 0, "numbers > 0")
    require("x", torch.ones(0), torch.ones(0) > 0, "numbers > 0")


@pytest.mark.parametrize(
    ("value", "holds", "got"),
    [
        (torch.tensor(-2.0), torch.tensor(False), "-2"),
        (torch.tensor([1.0, -2.0, 3.0, -4.0]), torch.tensor([True, False, True, False]), "-2"),
        (torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[True], [False]]), "3"),
        (torch.tensor([0.1234567891], dtype=F64), torch.tensor([False]), "0.123456789"),
        (torch.tensor([1.0, float("nan")]), torch.tensor([True, False]), "nan"),
    ],
    ids=str,
)
def test_the_first_number_that_fails_is_shown(value, holds, got):
    with pytest.raises(ValueError, match=rf"^scale: expected numbers > 0, got {got}$"):
        require("scale", value, holds, "numbers > 0")


@pytest.mark.parametrize("start", [1, 4])
def test_the_first_time_that_is_not_finite_is_named(start):
    good = torch.ones(5, 3, 2)
    for values in (good, good[:, 0, 0], good[:0]):
        require_finite("a state", values, start)
    for bad in (float("nan"), float("inf"), -float("inf")):
        for t in range(5):
            values = good.clone()
            values[t:, 1, 0], values[4, 2, 1] = bad, bad
            message = rf"^a state is no longer finite at time {start + t}; use smaller weights or observations$"
            with pytest.raises(ValueError, match=message):
                require_finite("a state", values, start)
            with pytest.raises(ValueError, match=message):
                require_finite("a state", values[:, 1, 0], start)
    with pytest.raises(ValueError, match="at time 2;"):
        require_finite("a state", torch.tensor([1.0, float("nan")]))


@pytest.mark.parametrize("least", [-2, 0, 1, 5])
def test_whole_numbers_from_the_least_on(least):
    for value in (least, least + 1, 10**30):
        check_whole(value, "steps", least)
    for value in (least - 1, -(10**30), float(least), float(least + 1), True, False, "1", None, [1], torch.tensor(7)):
        with pytest.raises(ValueError, match=r"^steps: ") as caught:
            check_whole(value, "steps", least)
        assert str(caught.value) == f"steps: expected a whole number ≥ {least}, got {value!r}"


def test_the_least_whole_number_is_1_unless_another_is_named():
    check_whole(1, "probes")
    with pytest.raises(ValueError, match=r"^probes: expected a whole number ≥ 1, got 0$"):
        check_whole(0, "probes")


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("batch", [(4,), (2, 2), (2, 1, 2)])
def test_sequences_come_back_side_by_side_and_0_after_their_end(batch, dtype):
    obs, like = points(*batch, 3, 2, seed=1, dtype=dtype).requires_grad_(), torch.ones(2, dtype=dtype)
    lengths = [3, 1, 2, 3]
    ends = torch.arange(3) < torch.tensor(lengths)[:, None]
    got, mask = check_sequences(
        torch.where(ends.reshape(*batch, 3, 1), obs, float("nan")), ends.reshape(*batch, 3), like
    )
    assert torch.equal(mask, ends)
    assert got.dtype == dtype
    for x, want, n in zip(got, obs.reshape(4, 3, 2), lengths):
        assert torch.equal(x[:n], want[:n])
        assert (x[n:] == 0).all()
    (slope,) = torch.autograd.grad(got.sum(), obs)
    assert torch.equal(slope.reshape(4, 3, 2), ends[..., None].expand(4, 3, 2).to(dtype))
    got, mask = check_sequences(obs, None, like)
    assert torch.equal(got, obs.reshape(4, 3, 2))
    assert torch.equal(mask, torch.ones(4, 3, dtype=torch.bool))


@pytest.mark.parametrize("dtype", [torch.float16, F32, F64])
def test_values_alike_come_back_in_order(dtype, own_errors):
    a, b = torch.ones(2, 3, dtype=dtype), torch.zeros(2, 3, dtype=dtype)
    got = check_alike(a=a, b=b)
    assert got[0] is a
    assert got[1] is b
    got = check_alike(numbers=True, a=2, b=0.5, c=a, d=torch.tensor(3.0, dtype=dtype))
    assert [t.dtype for t in got] == [dtype] * 4
    assert [t.shape for t in got] == [(), (), (2, 3), ()]
    assert [t.sum().item() for t in got] == [2.0, 0.5, 6.0, 3.0]


def test_numbers_alone_have_the_default_dtype(own_errors):
    assert [t.dtype for t in check_alike(numbers=True, a=1, b=2.5)] == [torch.get_default_dtype()] * 2


@pytest.mark.parametrize(
    ("numbers", "values", "error", "message"),
    [
        (False, {"a": 1.0, "b": torch.ones(2)}, TypeError, "a: expected a torch.Tensor, got float"),
        (True, {"a": "1", "b": 1.0}, TypeError, "a: expected a torch.Tensor or a number, got str"),
        (True, {"a": 1.0, "b": 1j}, TypeError, "b: expected a torch.Tensor or a number, got complex"),
        (
            True,
            {"a": torch.tensor(1)},
            TypeError,
            "a: expected a floating-point tensor, got torch.int64; write 1.0, or call .double()",
        ),
        (False, {"a": torch.ones(2), "b": torch.ones(3)}, ValueError, "b: expected shape (2,) like a, got (3,)"),
        (False, {"a": torch.ones(2), "b": torch.tensor(1.0)}, ValueError, "b: expected shape (2,) like a, got ()"),
        (True, {"a": torch.ones(2), "b": torch.ones(1)}, ValueError, "b: expected shape (2,) like a, got (1,)"),
        (
            True,
            {"a": torch.tensor(1.0), "b": torch.ones(2), "c": torch.ones(3)},
            ValueError,
            "c: expected shape (2,) like b, got (3,)",
        ),
        (
            True,
            {"a": torch.ones(2), "b": torch.tensor(1.0, dtype=F64)},
            TypeError,
            "b: expected torch.float32 like a, got torch.float64",
        ),
        (
            True,
            {"a": torch.tensor(1.0), "b": torch.ones(2, dtype=F64)},
            TypeError,
            "a: expected torch.float64 like b, got torch.float32",
        ),
        (
            False,
            {"a": torch.ones(2), "b": torch.ones(3, dtype=F64)},
            TypeError,
            "b: expected torch.float32 like a, got torch.float64",
        ),
    ],
    ids=str,
)
def test_values_that_differ_are_refused(numbers, values, error, message, own_errors):
    with pytest.raises(error) as caught:
        check_alike(numbers=numbers, **values)
    assert str(caught.value) == message


@pytest.mark.parametrize("batch", [(), (4,), (2, 3), (0,)])
@pytest.mark.parametrize("dtype", [F32, F64])
def test_a_covariance_comes_back_with_its_factor(dtype, batch):
    M = torch.randn(*batch, 3, 5, dtype=dtype, generator=seeded(1))
    S = M @ M.mT / 5 + torch.eye(3, dtype=dtype)
    given = S + 10 * torch.finfo(dtype).eps * torch.randn(S.shape, dtype=dtype, generator=seeded(2)).tril(-1)
    before = given.clone()
    cov, L = check_covariance(given, torch.zeros(*batch, 3, dtype=dtype), "cov")
    assert cov.dtype == L.dtype == dtype
    assert torch.equal(given, before)
    assert torch.equal(cov, cov.mT)
    assert torch.equal(L, L.tril())
    assert_close(cov, S, tol=100 * torch.finfo(dtype).eps)
    assert_close(L @ L.mT, cov, tol=10 * torch.finfo(dtype).eps)


def test_slopes_by_a_covariance_are_symmetric():
    cov = (torch.eye(3, dtype=F64) + 0.2).requires_grad_()
    weights = points(3, 3, seed=3)
    for part in check_covariance(cov, torch.zeros(3, dtype=F64), "cov"):
        (slope,) = torch.autograd.grad((weights * part).sum(), cov, retain_graph=True)
        assert torch.equal(slope, slope.mT)
        assert slope.abs().min() > 0


GOOD = torch.tensor([[2.0, 0.5], [0.5, 1.0]])


@pytest.mark.parametrize(
    ("cov", "error", "message"),
    [
        ([[1.0]], TypeError, "cov: expected a torch.Tensor, got list"),
        (GOOD.long(), TypeError, "cov: expected a floating-point tensor, got torch.int64"),
        (GOOD.double(), TypeError, "cov: expected torch.float32 like the mean, got torch.float64"),
        (GOOD[0], ValueError, "cov: expected shape (2, 2) beside a mean of (2,), got (2,)"),
        (GOOD[:1], ValueError, "cov: expected shape (2, 2) beside a mean of (2,), got (1, 2)"),
        (GOOD.expand(3, 2, 2), ValueError, "cov: expected shape (2, 2) beside a mean of (2,), got (3, 2, 2)"),
        (GOOD * float("nan"), ValueError, "cov: expected finite numbers, got nan"),
        (GOOD / 0, ValueError, "cov: expected finite numbers, got inf"),
        (GOOD.tril(), ValueError, "cov: expected a symmetric matrix, |Σ − Σᵀ| = 0 but for rounding, got 0.5"),
        (GOOD + 3e-4 * GOOD.tril(-1), ValueError, "cov: expected a symmetric matrix"),
        (-GOOD, ValueError, "cov: expected a positive definite matrix, its smallest eigenvalue > 0, got -2.2"),
        (torch.ones(2, 2), ValueError, "cov: expected a positive definite matrix"),
        (0 * GOOD, ValueError, "cov: expected a positive definite matrix, its smallest eigenvalue > 0, got 0"),
    ],
    ids=str,
)
def test_no_covariances(cov, error, message, own_errors):
    with pytest.raises(error) as caught:
        check_covariance(cov, torch.zeros(2), "cov")
    assert str(caught.value).startswith(message)


def test_the_first_of_a_batch_that_is_no_covariance_is_shown(own_errors):
    for bad, got in ([GOOD, GOOD.tril(), 4 * GOOD.tril()], "0.5"), ([GOOD, -torch.eye(2), -3 * torch.eye(2)], "-1"):
        with pytest.raises(ValueError, match=rf", got {got}$"):
            check_covariance(torch.stack(bad), torch.zeros(3, 2), "cov")
    tiny = 1e-12 * GOOD  # how far from symmetric is a matter of its size
    check_covariance(tiny, torch.zeros(2), "cov")
    with pytest.raises(ValueError, match="a symmetric matrix"):
        check_covariance(torch.stack([1e9 * GOOD, tiny.tril()]), torch.zeros(2, 2), "cov")


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
