"""The exercises of the jacobians chapter, from a matrix worked out on paper to Newton's method.

After each reference solution come its hints, its check, other correct solutions and the mistakes people make.  The
maps that the checks draw lead from d numbers to m ≠ d wherever that is possible: there a transposed matrix shows.
"""

import math

import torch

from companion.exercises import Case, Exercise
from companion.exercises import _inputs as inputs


def _wave(d, m, generator, name="f"):
    """The map f(p) = B tanh(C p) of d numbers to m, and its Jacobian B diag(1 − tanh²(C p)) C by the chain rule."""
    B, C = inputs.normal(m, 4, generator=generator), inputs.normal(4, d, generator=generator)
    f = inputs.one_point(lambda p: B.to(p.dtype) @ torch.tanh(C.to(p.dtype) @ p), d, name)
    return f, lambda x: torch.einsum("ih,...h,hj->...ij", B, 1 - torch.tanh(x.double() @ C.T) ** 2, C)


def _jacobian(f, x):
    return inputs.at_points(torch.func.jacrev(f), x)


# 1 ------------------------------------------------------------------------------------------------------------------


def jacobian_by_hand(x, y):
    """The Jacobian of f(x, y) = (x²y, x + eʸ, sin(xy)), worked out on paper.

    Three outputs and two inputs make a matrix of 3 rows and 2 columns.  Differentiate
    with pencil and paper, then write each entry as a formula in x and y, without
    autograd.

    x, y: tensors of one and the same shape.  Returns shape (*shape, 3, 2): at each
    point J_ij = ∂fᵢ/∂x_j, row i = output, column j = input.
    """
    first = torch.stack([2 * x * y, x**2], -1)
    second = torch.stack([torch.ones_like(x), torch.exp(y)], -1)
    third = torch.stack([y * torch.cos(x * y), x * torch.cos(x * y)], -1)
    return torch.stack([first, second, third], -2)


exercise = Exercise(
    jacobian_by_hand,
    hints=[
        "Go row by row. A row belongs to one output: its derivative by x, then its derivative by y.",
        "The rows are (2xy, x²), (1, eʸ) and one for sin(xy). In that one the chain rule brings down the inner "
        "derivative: y in the first column, x in the second.",
        "A row of shape (*shape, 2) is torch.stack([2 * x * y, x**2], -1), and torch.ones_like(x) gives the 1 its "
        "shape. Stack the three rows along axis -2.",
    ],
)


def _by_paper(p):
    x, y = p
    return torch.stack([x**2 * y, x + torch.exp(y), torch.sin(x * y)])


@exercise.check
def _(attempt, generator):
    for shape, dtype in ((), torch.float64), ((5,), torch.float64), ((2, 4), torch.float64), ((4,), torch.float32):
        x, y = inputs.tenth(-2, 2, 2, *shape, generator=generator)
        want = inputs.at_points(torch.func.jacfwd(_by_paper), torch.stack([x, y], -1))
        where = f"x and y of shape {shape}" if shape else f"x = {x:.1f}, y = {y:.1f}"
        yield inputs.case(f"jacobian_by_hand for {where}", dtype, attempt(x.to(dtype), y.to(dtype)), want)


@exercise.alternative
def entry_by_entry(x, y):
    J = x.new_empty(*x.shape, 3, 2)
    J[..., 0, 0], J[..., 0, 1] = 2 * x * y, x * x
    J[..., 1, 0], J[..., 1, 1] = 1, y.exp()
    J[..., 2, 0], J[..., 2, 1] = y * (x * y).cos(), x * (x * y).cos()
    return J


@exercise.alternative
def column_by_column(x, y):
    by_x = torch.stack([2 * x * y, x**0, y * torch.cos(x * y)], -1)
    by_y = torch.stack([x**2, y.exp(), x * torch.cos(x * y)], -1)
    return torch.stack([by_x, by_y], -1)


@exercise.mistake(
    "Your matrix is the transpose: 2 rows and 3 columns. Row = output, column = input, so each of the three outputs "
    "has a row with two entries."
)
def by_hand_transposed(x, y):
    return jacobian_by_hand(x, y).mT


@exercise.mistake(
    "The two columns have changed places: column 1 holds the derivatives by x, the first input, column 2 those by y."
)
def by_hand_columns_swapped(x, y):
    return jacobian_by_hand(x, y).flip(-1)


@exercise.mistake(
    "In the third row the chain rule's inner derivative is missing: sin(xy) by x is cos(xy) times ∂(xy)/∂x = y, and "
    "by y it is cos(xy) times x."
)
def inner_derivative_lost(x, y):
    J = jacobian_by_hand(x, y)
    J[..., 2, :] = torch.cos(x * y)[..., None]
    return J


@exercise.mistake(
    "In the third row the factors x and y have changed places: the inner derivative ∂(xy)/∂x is y, and ∂(xy)/∂y is x."
)
def inner_derivatives_swapped(x, y):
    J = jacobian_by_hand(x, y)
    J[..., 2, :] = J[..., 2, :].flip(-1)
    return J


@exercise.mistake(
    "You added up the rows. That is what one backward pass with ones gives, the column sums; the Jacobian keeps the "
    "three outputs apart."
)
def by_hand_rows_added(x, y):
    return jacobian_by_hand(x, y).sum(-2)


@exercise.mistake(
    "You added up each row: how the outputs change when x and y grow together. The Jacobian keeps the two inputs apart."
)
def by_hand_columns_added(x, y):
    return jacobian_by_hand(x, y).sum(-1)


@exercise.mistake(
    "The entries are right, but the axes are not: your matrix stands in front, shape (3, 2, *shape). torch.stack makes "
    "its new axis in front unless told otherwise; put the rows and columns last, with the dim argument."
)
def matrix_in_front(x, y):
    return jacobian_by_hand(x, y).movedim((-2, -1), (0, 1))


@exercise.mistake(
    "The rows are right, but you stacked them along the first axis: shape (3, *shape, 2). With torch.stack(rows, -2) "
    "every point gets a matrix of its own."
)
def rows_in_front(x, y):
    return jacobian_by_hand(x, y).movedim(-2, 0)


@exercise.mistake(
    "You differentiated eʸ by the rule for powers, y eʸ⁻¹. Here y stands in the exponent: eʸ is its own derivative."
)
def exponential_as_a_power(x, y):
    J = jacobian_by_hand(x, y)
    J[..., 1, 1] = y * torch.exp(y - 1)
    return J


@exercise.mistake(
    "In ∂(x + eʸ)/∂y the x stayed behind. It is a term, and while y moves it is a constant: its derivative is 0."
)
def constant_term_kept(x, y):
    J = jacobian_by_hand(x, y)
    J[..., 1, 1] = x + torch.exp(y)
    return J


@exercise.mistake(
    "The third row has the wrong sign: the derivative of sin is +cos. It is cos whose derivative is −sin."
)
def sine_gives_minus_cosine(x, y):
    return jacobian_by_hand(x, y) * x.new_tensor([[1], [1], [-1]])


# 2 ------------------------------------------------------------------------------------------------------------------


def rows_by_vjp(f, x):
    """The Jacobian at one point, one row for each reverse pass.

        row i of J = eᵢᵀ J,   eᵢ = (0, …, 1, …, 0) with the 1 in place i

    The weights eᵢ pick the output fᵢ, and the pass differentiates it by all inputs at
    once.  Take torch.func.vjp or torch.autograd.grad for a pass, and leave jacrev and
    its like alone.  (The check cannot tell which you called.  You can.)

    f: maps ONE point, shape (d,), to shape (m,).  x: ONE point, shape (d,).  Returns
    shape (m, d), and can be differentiated again.
    """
    y, vjp = torch.func.vjp(f, x)
    weights = torch.eye(len(y), dtype=y.dtype, device=y.device)
    return torch.stack([vjp(u)[0] for u in weights])


exercise = Exercise(
    rows_by_vjp,
    hints=[
        "How many passes does it take: as many as f has inputs, or as many as it has outputs? One pass gives one row.",
        "The weights of a pass have the shape of f(x), not that of x. torch.eye(m) holds all the weights you need, one "
        "set in each row.",
        "Run f once: y, vjp = torch.func.vjp(f, x). Then vjp(u)[0] is uᵀJ, shape (d,); take it for each u in "
        "torch.eye(len(y), dtype=y.dtype) and stack the rows. With torch.autograd.grad, create_graph=True keeps the "
        "result differentiable.",
    ],
)


@exercise.check
def _(attempt, generator):
    for d, m, dtype in (2, 4, torch.float64), (3, 3, torch.float64), (5, 2, torch.float64), (3, 2, torch.float32):
        f, jacobian = _wave(d, m, generator)
        x = inputs.normal(d, generator=generator).to(dtype)
        try:
            got = attempt(f, x)
        except RuntimeError as error:  # weights of the shape of x: torch says what, and here comes why
            if "ismatch" in str(error):
                error.args = (f"{error} The weights need the shape of f(x), here ({m},); x has the shape ({d},).",)
            raise
        yield inputs.case(f"rows_by_vjp(f, x) for {m} outputs of {d} inputs", dtype, got, jacobian(x))
    C = inputs.normal(2, 3, generator=generator)
    x = inputs.normal(3, generator=generator).requires_grad_()
    answer = attempt(inputs.one_point(lambda p: torch.sin(C @ p), 3, "f"), x)
    # J_ij = cos(Cx)ᵢ C_ij, so the gradient of the sum of all entries is −Σᵢ sin(Cx)ᵢ (Σ_j C_ij) Cᵢ·
    want = -(torch.sin(C @ x.detach()) * C.sum(1)) @ C
    yield Case("the gradient by x of rows_by_vjp(f, x).sum()", inputs.gradient(answer, x), want, alike=math.inf)


@exercise.alternative
def one_autograd_a_row(f, x):
    x = x if x.requires_grad else x.clone().requires_grad_()
    return torch.stack([torch.autograd.grad(value, x, create_graph=True)[0] for value in f(x)])


@exercise.alternative
def all_weights_at_once(f, x):
    y, vjp = torch.func.vjp(f, x)
    return torch.vmap(vjp)(torch.eye(len(y), dtype=y.dtype))[0]


@exercise.alternative
def gradient_of_each_output(f, x):
    return torch.stack([torch.func.grad(lambda p, i=i: f(p)[i])(x) for i in range(len(f(x)))])


@exercise.mistake(
    "Every row of yours is the sum of all rows. Either the weights are ones in each pass, where one-hot weights pick a "
    "row; or all your rows are one and the same x.grad, which gathers every pass: keep a .clone() and clear it."
)
def ones_in_every_pass(f, x):
    return _jacobian(f, x).sum(0, keepdim=True).expand(len(f(x)), -1)


@exercise.mistake(
    "One pass with ones gives the sum of all rows, d numbers. Which output they come from is lost: take one pass for "
    "each output, with one-hot weights."
)
def one_pass_with_ones(f, x):
    return _jacobian(f, x).sum(0)


@exercise.mistake(
    "Your matrix is the transpose, (d, m) instead of (m, d). Each reverse pass gives a row of J: stack the results "
    "along the first axis."
)
def rows_stacked_as_columns(f, x):
    return _jacobian(f, x).T


@exercise.mistake(
    "Your row i is the sum of the rows up to i. Either x.grad keeps what earlier passes left in it: clear it, or use "
    "torch.autograd.grad; or the 1 of the last pass is still in the weights: start each pass from zeros."
)
def earlier_rows_kept(f, x):
    return _jacobian(f, x).cumsum(0)


@exercise.mistake(
    "All your rows are the last one. Are they one and the same tensor, written anew in each pass, such as x.grad? Keep "
    "a .clone() of each row. Or does every pass pick the same output?"
)
def last_row_everywhere(f, x):
    return _jacobian(f, x)[-1:].expand(len(f(x)), -1)


@exercise.mistake(
    "All your rows are 0. If you keep x.grad as a row and then clear it with .zero_(), you clear the row as well: they "
    "are one tensor. Keep a .clone()."
)
def rows_wiped_out(f, x):
    return torch.zeros_like(_jacobian(f, x))


@exercise.mistake(
    "You took a pass for each input, d of them. A reverse pass belongs to an output: it takes m passes, len(f(x))."
)
def one_row_an_input(f, x):
    return _jacobian(f, x)[: len(x)]


@exercise.mistake(
    "You joined the rows to one long vector. torch.cat puts them end to end; torch.stack puts them below each other."
)
def rows_end_to_end(f, x):
    return _jacobian(f, x).flatten()


@exercise.mistake(
    "Row i is multiplied by fᵢ(x): that is the derivative of ½ fᵢ². The weight of the picked output is 1, whatever its "
    "value."
)
def values_as_row_weights(f, x):
    return f(x)[:, None] * _jacobian(f, x)


@exercise.mistake(
    "The values are right, but the result is cut off from x, so it cannot be differentiated again. Look for a "
    ".detach(), a .backward() or a torch.autograd.grad without create_graph=True; or use torch.func.vjp."
)
def rows_cut_off(f, x):
    return _jacobian(f, x).detach()


# 3 ------------------------------------------------------------------------------------------------------------------


def columns_by_jvp(f, x):
    """The Jacobian at one point, one column for each forward pass.

        column j of J = J e_j,   e_j = (0, …, 1, …, 0) with the 1 in place j

    The direction e_j moves the input x_j alone, and the pass says how all outputs
    follow.  Take torch.func.jvp for a pass, and leave jacfwd and its like alone.

    f: maps ONE point, shape (d,), to shape (m,).  x: ONE point, shape (d,).  Returns
    shape (m, d).
    """
    directions = torch.eye(len(x), dtype=x.dtype, device=x.device)
    return torch.stack([torch.func.jvp(f, (x,), (w,))[1] for w in directions], -1)


exercise = Exercise(
    columns_by_jvp,
    hints=[
        "A direction is a step of the input: it has the shape of x, and there are d of them to go through.",
        "One pass is torch.func.jvp(f, (x,), (w,)). It returns two things: f(x), and how that changes along w.",
        "Take torch.func.jvp(f, (x,), (w,))[1] for each w in torch.eye(len(x), dtype=x.dtype). Each is a column: stack "
        "them along axis -1.",
    ],
)


@exercise.check
def _(attempt, generator):
    for d, m, dtype in (4, 2, torch.float64), (3, 3, torch.float64), (2, 5, torch.float64), (2, 3, torch.float32):
        f, jacobian = _wave(d, m, generator)
        x = inputs.normal(d, generator=generator).to(dtype)
        yield inputs.case(f"columns_by_jvp(f, x) for {m} outputs of {d} inputs", dtype, attempt(f, x), jacobian(x))


@exercise.alternative
def all_directions_at_once(f, x):
    return torch.vmap(lambda w: torch.func.jvp(f, (x,), (w,))[1], out_dims=-1)(torch.eye(len(x), dtype=x.dtype))


@exercise.alternative
def dual_numbers(f, x):
    columns = []
    with torch.autograd.forward_ad.dual_level():
        for w in torch.eye(len(x), dtype=x.dtype):
            columns.append(torch.autograd.forward_ad.unpack_dual(f(torch.autograd.forward_ad.make_dual(x, w))).tangent)
    return torch.stack(columns, 1)


@exercise.alternative
def along_straight_lines(f, x):
    zero = x.new_zeros(())
    directions = torch.eye(len(x), dtype=x.dtype)
    return torch.stack([torch.func.jacfwd(lambda t, w=w: f(x + t * w))(zero) for w in directions], 1)


@exercise.mistake(
    "Your matrix is the transpose, (d, m) instead of (m, d). Each forward pass gives a column of J: stack them along "
    "the last axis, torch.stack(columns, -1)."
)
def columns_stacked_as_rows(f, x):
    return _jacobian(f, x).T


@exercise.mistake(
    "Every column of yours is the sum of all columns: the direction is ones in each pass. Move one input at a time, "
    "with a one-hot direction."
)
def ones_in_every_direction(f, x):
    return _jacobian(f, x).sum(1, keepdim=True).expand(-1, len(x))


@exercise.mistake(
    "One pass along ones gives the sum of all columns, m numbers: all inputs move together. Take one pass for each "
    "input, with a one-hot direction."
)
def one_pass_along_ones(f, x):
    return _jacobian(f, x).sum(1)


@exercise.mistake(
    "Every column of yours is f(x). torch.func.jvp returns a pair, the value and then its change along the direction; "
    "you kept the first of the two."
)
def values_kept(f, x):
    return f(x)[:, None].expand(-1, len(x))


@exercise.mistake(
    "Your column j is the sum of the columns up to j: the 1 of the last pass is still in the direction. Start each "
    "pass from zeros, or take the rows of torch.eye."
)
def direction_not_cleared(f, x):
    return _jacobian(f, x).cumsum(1)


@exercise.mistake(
    "You took a pass for each output, m of them. A forward pass belongs to an input: it takes d passes, len(x)."
)
def one_column_an_output(f, x):
    return _jacobian(f, x)[:, : len(f(x))]


@exercise.mistake(
    "Your columns are f(x + e_j) − f(x), the change over a step of length 1. A derivative is the limit of short steps: "
    "torch.func.jvp takes it exactly."
)
def whole_unit_step(f, x):
    return torch.stack([f(x + w) - f(x) for w in torch.eye(len(x), dtype=x.dtype)], 1)


@exercise.mistake(
    "You joined the columns to one long vector. torch.cat puts them end to end; torch.stack(columns, -1) puts them "
    "side by side."
)
def columns_end_to_end(f, x):
    return _jacobian(f, x).T.flatten()


@exercise.mistake(
    "You put the columns end to end and reshaped them to (m, d). A reshape fills row after row, so a column comes out "
    "lying down and cut in the wrong places. Stack them side by side: torch.stack(columns, -1)."
)
def reshaped_for_transposed(f, x):
    J = _jacobian(f, x)
    return J.T.reshape(J.shape)


@exercise.mistake(
    "Column j is multiplied by x_j: your direction has x_j in place j. A one-hot direction has a 1 there; the point "
    "enters as the first argument only."
)
def point_as_direction(f, x):
    return _jacobian(f, x) * x


# 4 ------------------------------------------------------------------------------------------------------------------


def chain_vjp(f, g, x, u):
    """A weighted gradient through two functions, f first and then g, without any
    Jacobian matrix.

        uᵀ J = (uᵀ J_g(f(x))) J_f(x),   J the Jacobian of x ↦ g(f(x))

    Start from the left: a vector times a matrix is a vector again, by one reverse pass
    through g and one through f.  This is backpropagation through two layers.

    f: maps ONE point, shape (d,), to shape (k,).  g: maps ONE point, shape (k,), to
    shape (m,). x: ONE point, shape (d,).  u: a weight for each output of g, shape (m,).
    Returns shape (d,).
    """
    y, back_through_f = torch.func.vjp(f, x)
    _, back_through_g = torch.func.vjp(g, y)
    return back_through_f(back_through_g(u)[0])[0]


exercise = Exercise(
    chain_vjp,
    hints=[
        "Run forwards first: x, then y = f(x), then g(y). At which of these points does each of the two functions have "
        "to be differentiated?",
        "Run backwards: the weights u belong to the outputs of g. The pass through g turns them into weights for y, "
        "and the pass through f turns those into the gradient by x.",
        "Let y, back_through_f = torch.func.vjp(f, x), and do the same for g at y. Then back_through_g(u)[0] has the "
        "shape (k,); hand it to back_through_f.",
    ],
)


@exercise.check
def _(attempt, generator):
    sizes = (3, 3, 3, torch.float64), (2, 4, 3, torch.float64), (5, 2, 4, torch.float64), (3, 4, 2, torch.float32)
    for d, k, m, dtype in sizes:  # the square one first: there each wrong order has shapes that fit
        (f, inner), (g, outer) = _wave(d, k, generator), _wave(k, m, generator, "g")
        x, u = inputs.normal(d, generator=generator).to(dtype), inputs.normal(m, generator=generator).to(dtype)
        what = f"chain_vjp(f, g, x, u) where x, f(x), g(f(x)) have {d}, {k}, {m} entries"
        want = u.double() @ outer(f(x.double())) @ inner(x)
        yield inputs.case(what, dtype, attempt(f, g, x, u), want)


@exercise.alternative
def gradient_of_the_weighted_sum(f, g, x, u):
    return torch.func.grad(lambda p: u @ g(f(p)))(x)


@exercise.alternative
def one_graph_for_both(f, g, x, u):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(g(f(x)), x, u)[0]


@exercise.alternative
def with_a_cut_in_the_middle(f, g, x, u):
    x = x.clone().requires_grad_()
    y = f(x)
    cut = y.detach().requires_grad_()
    g(cut).backward(u)
    y.backward(cut.grad)
    return x.grad


def _where_it_fits(x, product):
    """A product of matrices in the wrong order.  Where the shapes refuse it, the square case has told already."""
    try:
        return product()
    except (RuntimeError, ValueError):
        return torch.zeros_like(x)


@exercise.mistake(
    "You differentiated g at x. The second function never sees x: it is applied to y = f(x), and there its Jacobian "
    "has to be taken."
)
def outer_at_x(f, g, x, u):
    return _where_it_fits(x, lambda: u @ _jacobian(g, x) @ _jacobian(f, x))


@exercise.mistake(
    "You went through f first and then through g. Backwards the last function comes first: u belongs to the outputs of "
    "g. Matrices do not commute, and unless all sizes are equal the shapes do not even fit."
)
def passes_swapped(f, g, x, u):
    return _where_it_fits(x, lambda: u @ _jacobian(f, x) @ _jacobian(g, f(x)))


@exercise.mistake(
    "You carried u forwards, J_g J_f u: how g(f(x)) changes when x moves along u. Here u holds weights of the outputs: "
    "start at the end and go backwards, by two reverse passes."
)
def carried_forwards(f, g, x, u):
    return _where_it_fits(x, lambda: _jacobian(g, f(x)) @ (_jacobian(f, x) @ u))


@exercise.mistake(
    "Your weights are ones, and u is not used. That is the gradient of the plain sum of the outputs; give u to the "
    "first pass."
)
def ones_for_u(f, g, x, u):
    return _jacobian(g, f(x)).sum(0) @ _jacobian(f, x)


@exercise.mistake(
    "You stopped half way: this is the gradient by the middle value y = f(x). Hand it on as the weights of a second "
    "pass, through f."
)
def stopped_in_the_middle(f, g, x, u):
    return u @ _jacobian(g, f(x))


@exercise.mistake(
    "You took u as weights for the outputs of f, and J_g is missing. The pass through g comes first and turns u into "
    "the weights for f."
)
def outer_left_out(f, g, x, u):
    return _where_it_fits(x, lambda: u @ _jacobian(f, x))


@exercise.mistake(
    "Your pass through f has ones as weights. What comes out of the pass through g is the weights of the pass through "
    "f: hand it on."
)
def middle_weights_lost(f, g, x, u):
    return _jacobian(f, x).sum(0)


@exercise.mistake(
    "You multiplied the two results, uᵀJ_g and a pass through f with ones, entry by entry. The chain rule feeds the "
    "first into the second: uᵀJ_g holds the weights of the pass through f."
)
def results_multiplied(f, g, x, u):
    return _where_it_fits(x, lambda: u @ _jacobian(g, f(x)) * _jacobian(f, x).sum(0))


@exercise.mistake(
    "You differentiated f at f(x). Each function is differentiated where it was applied: f at x, g at y = f(x)."
)
def inner_at_y(f, g, x, u):
    return _where_it_fits(x, lambda: u @ _jacobian(g, f(x)) @ _jacobian(f, f(x)))


@exercise.mistake(
    "That is the whole Jacobian of the chain, m rows, and u is not used. Only the sum of its rows with the weights u "
    "is asked for, and it costs one pass through each function."
)
def whole_matrix(f, g, x, u):
    return _jacobian(g, f(x)) @ _jacobian(f, x)


# 5 ------------------------------------------------------------------------------------------------------------------


def log_volume(f, x):
    """The logarithm of the factor by which a map changes volume.

        log |det J|

    f may mirror space, where det J is negative, and it may have so many dimensions that
    det J is too small or too large for a float64.

    f: maps ONE point, shape (d,), to shape (d,).  x: points, shape (*batch, d), with
    any batch axes.  Returns shape (*batch).  The Jacobian at one point p is
    torch.func.jacrev(f)(p), or what you wrote yourself.
    """
    points = x.reshape(-1, x.shape[-1])
    J = torch.vmap(torch.func.jacrev(f))(points)
    return torch.linalg.slogdet(J).logabsdet.reshape(x.shape[:-1])


exercise = Exercise(
    log_volume,
    hints=[
        "In 200 dimensions a map that shrinks every length to a thousandth has det J = 10⁻⁶⁰⁰. What does a float64 "
        "make of that, and what is its logarithm on paper?",
        "The determinant is a product; the logarithm turns it into a sum that stays of moderate size. torch.linalg has "
        "a function that never forms the product.",
        "The matrices are J = torch.vmap(torch.func.jacrev(f))(x.reshape(-1, x.shape[-1])). torch.linalg.slogdet(J) "
        "returns (sign, logabsdet): take the second, and bring the batch axes back.",
    ],
)


def _turned_triangle(d, scale, mirrors, generator):
    """The map Q t(p), tᵢ = aᵢ sinh pᵢ + Σ_{j<i} L_ij sin p_j, and its log |det J| = Σᵢ log(aᵢ cosh pᵢ).

    Q is a product of `mirrors` reflections and aᵢ > 0, so the sign of det J is (−1)^mirrors.
    """
    Q = torch.eye(d, dtype=torch.float64)
    for h in inputs.normal(mirrors, d, generator=generator):
        Q = Q - 2 * torch.outer(h, h @ Q) / (h @ h)
    a = scale * inputs.uniform(0.5, 2, d, generator=generator)
    L = scale * inputs.normal(d, d, generator=generator).tril(-1) / d**0.5  # small, or t would be close to singular

    def f(p):
        return Q.to(p.dtype) @ (a.to(p.dtype) * torch.sinh(p) + L.to(p.dtype) @ torch.sin(p))

    return inputs.one_point(f, d, "f"), lambda x: (a.log() + torch.cosh(x.double()).log()).sum(-1)


@exercise.check
def _(attempt, generator):
    for d, batch, dtype in inputs.SHAPES:
        f, log_det = _turned_triangle(d, 1, 2, generator)
        x = inputs.normal(*batch, d, generator=generator).to(dtype)
        yield inputs.case(f"log_volume(f, x) for x of shape {tuple(x.shape)}", dtype, attempt(f, x), log_det(x))
    f, log_det = _turned_triangle(3, 1, 1, generator)
    x = inputs.normal(6, 3, generator=generator)
    answer, zero = attempt(f, x), torch.zeros((), dtype=torch.float64)
    # NaN is unlike everything, NaN included: counted apart, it can be recognised
    what = "the share of NaN among log_volume's answers for a map that mirrors space"
    yield Case(what, answer.isnan().double().mean(), zero)
    what = "log_volume's answer for a map that mirrors space"
    yield Case(what, answer.where(~answer.isnan(), zero.to(answer.dtype)), log_det(x))
    for scale, size in (1e-3, "below 10⁻⁵⁰⁰"), (1e2, "above 10⁴⁰⁰"):
        f, log_det = _turned_triangle(200, scale, 2, generator)
        x = inputs.normal(2, 200, generator=generator)
        what = f"log_volume(f, x) in 200 dimensions, where det J is {size},"
        yield Case(what, attempt(f, x), log_det(x))


@exercise.alternative
def from_singular_values(f, x):
    return torch.linalg.svdvals(_jacobian(f, x)).log().sum(-1)


@exercise.alternative
def from_the_triangle_of_qr(f, x):
    R = torch.linalg.qr(_jacobian(f, x)).R
    return R.diagonal(dim1=-2, dim2=-1).abs().log().sum(-1)


@exercise.alternative
def moduli_of_eigenvalues(f, x):
    return torch.linalg.eigvals(_jacobian(f, x)).abs().log().sum(-1)


@exercise.mistake(
    "Where the map mirrors space, det J is negative and its logarithm NaN. Volume is stretched by |det J|: "
    "torch.linalg.slogdet(J) gives sign and logarithm apart."
)
def logdet_without_abs(f, x):
    return torch.logdet(_jacobian(f, x))


@exercise.mistake(
    "Two things go wrong: where the map mirrors space, det J is negative and its logarithm NaN; and in 200 dimensions "
    "det J leaves the range of float64, and the logarithm is infinite. torch.linalg.slogdet cures both."
)
def log_of_det(f, x):
    return torch.linalg.det(_jacobian(f, x)).log()


@exercise.mistake(
    "Right for few dimensions. In 200 of them det J itself is smaller or larger than any float64, so that you take the "
    "logarithm of 0 or of ∞. torch.linalg.slogdet never forms the product."
)
def log_of_abs_det(f, x):
    return torch.linalg.det(_jacobian(f, x)).abs().log()


@exercise.mistake(
    "You returned det J itself. Its logarithm is asked for, and det J would not fit into a float64: see "
    "torch.linalg.slogdet."
)
def determinant_itself(f, x):
    return torch.linalg.det(_jacobian(f, x))


@exercise.mistake("You returned |det J| itself. Its logarithm is asked for: see torch.linalg.slogdet.")
def absolute_determinant(f, x):
    return torch.linalg.det(_jacobian(f, x)).abs()


@exercise.mistake(
    "You returned the sign of the determinant. torch.linalg.slogdet returns two tensors, sign and logabsdet: the "
    "second is the logarithm."
)
def sign_only(f, x):
    return torch.linalg.slogdet(_jacobian(f, x)).sign


@exercise.mistake(
    "Where the map mirrors space, your answer has the wrong sign: you multiplied the logarithm by the sign of det J. "
    "The sign belongs to det J; log |det J| does without it."
)
def sign_times_log(f, x):
    sign, log = torch.linalg.slogdet(_jacobian(f, x))
    return sign * log


@exercise.mistake(
    "Your numbers are right up to the sign: −log |det J| belongs to the inverse map, back from f(x) to x."
)
def inverse_map(f, x):
    return -log_volume(f, x)


@exercise.mistake(
    "You added the logarithms of the diagonal entries. That is right for a triangular J; in general the other entries "
    "count as well."
)
def log_of_the_diagonal(f, x):
    return _jacobian(f, x).diagonal(dim1=-2, dim2=-1).abs().log().sum(-1)


@exercise.mistake(
    "You took the logarithm of the trace. The trace adds up the diagonal; the change of volume is the determinant."
)
def log_of_the_trace(f, x):
    return inputs.trace(_jacobian(f, x)).abs().log()


@exercise.mistake(
    "You returned the trace of J, the divergence: the rate at which a flow changes volume. A whole map changes it by "
    "the determinant."
)
def trace_for_log_det(f, x):
    return inputs.trace(_jacobian(f, x))


@exercise.mistake("Your logarithm has the base 10. The course's logarithms are natural, as torch.log is.")
def base_ten(f, x):
    return log_volume(f, x) / math.log(10)


@exercise.mistake(
    "You added up the whole batch. Every point has its own Jacobian and its own change of volume: shape (*batch)."
)
def volumes_of_the_batch_added(f, x):
    return log_volume(f, x).sum()


# 6 ------------------------------------------------------------------------------------------------------------------


def determinant_rate(X, dX):
    """How fast a determinant changes while its matrix moves: Jacobi's formula.

        (d/dt) det(X + t dX) at t = 0   is   det X · tr(X⁻¹ dX)

    X, dX: matrices, shape (*batch, n, n), with any batch axes; each X has an inverse.
    Returns shape (*batch).
    """
    trace = torch.linalg.solve(X, dX).diagonal(dim1=-2, dim2=-1).sum(-1)
    return torch.linalg.det(X) * trace


exercise = Exercise(
    determinant_rate,
    hints=[
        "For 2 × 2 write det X = x₁₁x₂₂ − x₁₂x₂₁ and use the product rule on both terms. The formula says the same for "
        "every size.",
        "X⁻¹ dX is a product of matrices: torch.linalg.solve(X, dX), or torch.linalg.inv(X) @ dX. Both take a batch.",
        "Each matrix of a batch has the trace .diagonal(dim1=-2, dim2=-1).sum(-1). Multiply by torch.linalg.det(X).",
    ],
)


def _column_by_column(X, dX):
    """Σₖ det(X, its column k exchanged for that of dX): the determinant is linear in each of its columns."""
    columns = range(X.shape[-1])
    return sum(torch.linalg.det(torch.where(torch.arange(X.shape[-1]) == k, dX, X)) for k in columns)


def _safe_matrix(n, batch, generator):
    """A matrix with a determinant of either sign that is far from 0."""
    diagonal = 2 * inputs.signs((*batch, n), generator).diag_embed()
    return diagonal + inputs.normal(*batch, n, n, generator=generator) / (2 * n**0.5)


@exercise.check
def _(attempt, generator):
    (a, d), (b, c) = inputs.tenth(1, 2, 2, generator=generator), inputs.tenth(-0.9, 0.9, 2, generator=generator)
    X, dX = torch.stack([a, b, c, d]).view(2, 2), inputs.tenth(-2, 2, 2, 2, generator=generator)
    want = dX[0, 0] * d + a * dX[1, 1] - dX[0, 1] * c - b * dX[1, 0]
    numbers = [[[round(entry, 1) for entry in row] for row in matrix.tolist()] for matrix in (X, dX)]
    yield Case(f"determinant_rate for X = {numbers[0]}, dX = {numbers[1]}", attempt(X, dX), want)
    for n, batch, dtype in inputs.SHAPES:
        X, dX = _safe_matrix(n, batch, generator).to(dtype), inputs.normal(*batch, n, n, generator=generator).to(dtype)
        what = f"determinant_rate(X, dX) for matrices of shape {tuple(X.shape)}"
        yield inputs.case(what, dtype, attempt(X, dX), _column_by_column(X.double(), dX.double()))


@exercise.alternative
def rate_by_forward_mode(X, dX):
    return torch.func.jvp(torch.linalg.det, (X,), (dX,))[1]


@exercise.alternative
def gradient_of_det_times_direction(X, dX):
    return (torch.linalg.det(X)[..., None, None] * torch.linalg.inv(X).mT * dX).sum((-2, -1))


@exercise.alternative
def trace_by_einsum(X, dX):
    return torch.linalg.det(X) * torch.einsum("...ij,...ji->...", torch.linalg.inv(X), dX)


@exercise.mistake(
    "Your answer is det X · tr dX: X⁻¹ is missing. What counts is the step relative to where the matrix is, X⁻¹ dX; "
    "only at X = I is that dX itself."
)
def inverse_left_out(X, dX):
    return torch.linalg.det(X) * inputs.trace(dX)


@exercise.mistake("Your answer is det X · tr(X dX). The formula has the inverse: tr(X⁻¹ dX).")
def not_inverted(X, dX):
    return torch.linalg.det(X) * inputs.trace(X @ dX)


@exercise.mistake(
    "Your answer is tr(X⁻¹ dX), the rate of log |det X|. For the rate of det X itself, multiply by det X."
)
def rate_of_the_logarithm(X, dX):
    return inputs.trace(torch.linalg.solve(X, dX))


@exercise.mistake("You took the determinant of dX. The determinant is not linear: the rate along dX depends on X too.")
def det_of_the_step(X, dX):
    return torch.linalg.det(dX)


@exercise.mistake(
    "Your answer is det(X + dX) − det X, the change over a whole step. The rate is the limit of short steps, and "
    "linear in dX."
)
def change_over_a_whole_step(X, dX):
    return torch.linalg.det(X + dX) - torch.linalg.det(X)


@exercise.mistake(
    "You multiplied X⁻¹ and dX entry by entry and added up. tr(X⁻¹ dX) is Σ (X⁻¹)_ij dX_ji: one of the two has to be "
    "transposed first, or take the matrix product."
)
def entries_multiplied(X, dX):
    return torch.linalg.det(X) * (torch.linalg.inv(X) * dX).sum((-2, -1))


@exercise.mistake("You have the matrix det X · X⁻¹ dX. The rate is one number for each matrix: take the trace.")
def trace_not_taken(X, dX):
    return torch.linalg.det(X)[..., None, None] * torch.linalg.solve(X, dX)


@exercise.mistake(
    "That is the gradient of the determinant, det X · X⁻ᵀ, a matrix, and dX is not used. The rate along dX is the sum "
    "of its entries times those of dX."
)
def gradient_without_direction(X, dX):
    return torch.linalg.det(X)[..., None, None] * torch.linalg.inv(X).mT


@exercise.mistake(
    "You inverted dX instead of X. The step may be anything, even 0; it is X that has an inverse: torch.linalg.inv(X) "
    "@ dX, or torch.linalg.solve(X, dX) with X first."
)
def step_inverted(X, dX):
    return torch.linalg.det(X) * inputs.trace(torch.linalg.solve(dX, X))


@exercise.mistake(
    "You divided by det X instead of multiplying by it. tr(X⁻¹ dX) is already the rate relative to det X."
)
def divided_by_det(X, dX):
    return inputs.trace(torch.linalg.solve(X, dX)) / torch.linalg.det(X)


@exercise.mistake(
    "Where det X is negative, your answer has the wrong sign. The rate of det X itself is asked for, not that of its "
    "absolute value: leave out the abs, or multiply by the sign of slogdet."
)
def sign_of_det_lost(X, dX):
    return torch.linalg.det(X).abs() * inputs.trace(torch.linalg.solve(X, dX))


# 7 ------------------------------------------------------------------------------------------------------------------


def matrix_square_gradient(x, weights):
    """The gradient of a weighted sum of the entries of y = x @ x, worked out on paper.

        Σ_ij weights_ij y_ij,   y_ij = Σₘ x_im x_mj

    This is what y.backward(weights) leaves in x.grad.  Write it with matrix products,
    without autograd.

    x: one matrix, shape (n, n).  weights: shape (n, n).  Returns shape (n, n): entry
    (k, l) is the derivative by x_kl.
    """
    return weights @ x.T + x.T @ weights


exercise = Exercise(
    matrix_square_gradient,
    hints=[
        "In the product x stands twice. By the product rule a small change dx makes dy = dx x + x dx: two terms.",
        "The factors of a matrix product cannot change places, so write the weighted sum of dy with indices: "
        "Σ w_ij (dx_im x_mj + x_im dx_mj), over i, j and m. Which products does one entry of dx, say dx_kl, take part "
        "in?",
        "From the first term it is Σ_j w_kj x_lj, the entry (k, l) of weights @ x.T. The second term gives x.T @ "
        "weights. Add the two.",
    ],
)


@exercise.check
def _(attempt, generator):
    for n, dtype in (2, torch.float64), (3, torch.float64), (5, torch.float64), (3, torch.float32):
        x, weights = inputs.normal(2, n, n, generator=generator).to(dtype)
        X = x.double().clone().requires_grad_()
        (want,) = torch.autograd.grad(X @ X, X, weights.double())
        what = f"matrix_square_gradient(x, weights) for {n} × {n} matrices"
        yield inputs.case(what, dtype, attempt(x, weights), want)


@exercise.alternative
def with_indices(x, weights):
    return torch.einsum("kj,lj->kl", weights, x) + torch.einsum("ik,il->kl", x, weights)


@exercise.alternative
def entry_after_entry(x, weights):
    gradient = torch.empty_like(x)
    for k in range(len(x)):
        for n in range(len(x)):
            gradient[k, n] = weights[k] @ x[n] + x[:, k] @ weights[:, n]
    return gradient


@exercise.alternative
def as_one_transpose(x, weights):
    return (x @ weights.T + weights.T @ x).T


@exercise.mistake(
    "You used the rule for numbers, 2x times the weights, with matrix products. Matrices do not commute: the product "
    "rule gives two different terms, with x transposed in each."
)
def twice_x_times_weights(x, weights):
    return 2 * x @ weights


@exercise.mistake(
    "Both terms are there, but x is not transposed in them. Look at the indices: in Σ_j w_kj x_lj both run along "
    "rows, and a matrix product needs x.T for that."
)
def transposes_forgotten(x, weights):
    return weights @ x + x @ weights


@exercise.mistake(
    "You have weights @ x.T, from the first factor of x @ x. The second factor is x too: its term, x.T @ weights, is "
    "missing."
)
def first_factor_only(x, weights):
    return weights @ x.T


@exercise.mistake(
    "You have x.T @ weights, from the second factor of x @ x. The first factor is x too: its term, weights @ x.T, is "
    "missing."
)
def second_factor_only(x, weights):
    return x.T @ weights


@exercise.mistake(
    "You doubled one of the two terms, 2 x.T @ weights, as if both were equal. The other one is weights @ x.T, in the "
    "other order."
)
def second_term_twice(x, weights):
    return 2 * x.T @ weights


@exercise.mistake(
    "You doubled one of the two terms, 2 weights @ x.T, as if both were equal. The other one is x.T @ weights, in the "
    "other order."
)
def first_term_twice(x, weights):
    return 2 * weights @ x.T


@exercise.mistake(
    "That is the gradient for x * x, each entry squared by itself. In x @ x every entry of x takes part in a whole row "
    "and a whole column of y."
)
def entries_squared(x, weights):
    return 2 * weights * x


@exercise.mistake(
    "You have the transpose of the gradient. Entry (k, l) has to be the derivative by x_kl: it is x that is "
    "transposed, and weights that is not."
)
def gradient_transposed(x, weights):
    return (weights @ x.T + x.T @ weights).T


@exercise.mistake(
    "Both terms are right but for the product: * multiplies entry by entry. A matrix product is written @."
)
def star_for_at(x, weights):
    return weights * x.T + x.T * weights


@exercise.mistake(
    "That is the gradient with all weights equal to one, and your weights are not used. Every entry y_ij enters with "
    "its own weights_ij."
)
def weights_ignored(x, weights):
    return matrix_square_gradient(x, torch.ones_like(weights))


@exercise.mistake(
    "You transposed the weights along with x. Only x is transposed: the first term is weights @ x.T, with rows of "
    "weights and rows of x."
)
def all_transposed(x, weights):
    return weights.T @ x.T + x.T @ weights.T


# 8 ------------------------------------------------------------------------------------------------------------------


def viscous_stress(L, viscosity):
    """The friction in a Newtonian fluid, from its velocity gradient.

        τ = 2 η D,   D = ½ (L + Lᵀ),   L_ij = ∂vᵢ/∂x_j

    This is the law of a fluid that keeps its volume.  Apply it as it stands, without a
    term for the trace, to an L with a trace as well.  A fluid that only turns, with an
    antisymmetric L, has no friction.

    L: velocity gradients, shape (*batch, d, d), with any batch axes.  viscosity: a
    number η ≥ 0. Returns shape (*batch, d, d).
    """
    D = (L + L.mT) / 2
    return 2 * viscosity * D


exercise = Exercise(
    viscous_stress,
    hints=[
        "Split L into a symmetric part, which stretches, and an antisymmetric part, which turns. Only one of them "
        "makes friction.",
        "L.mT transposes each matrix of a batch; L.T would turn the batch axes over as well.",
        "D = (L + L.mT) / 2, and the stress is 2 * viscosity * D. In a simple shear, L₁₂ alone, both τ₁₂ and τ₂₁ are "
        "then viscosity times L₁₂.",
    ],
)


@exercise.check
def _(attempt, generator):
    shear, viscosity = inputs.tenth(0.5, 3, 2, generator=generator)
    L, want = torch.zeros(2, 2, 2, dtype=torch.float64)
    L[0, 1] = shear
    want[0, 1] = want[1, 0] = viscosity * shear  # τ = η γ̇
    what = f"viscous_stress of the simple shear L = [[0, {shear:.1f}], [0, 0]] with the viscosity {viscosity:.1f}"
    yield Case(what, attempt(L, viscosity.item()), want)
    for d, batch, dtype, keeps_volume in (
        (2, (4,), torch.float64, True),
        (3, (2, 3), torch.float64, True),
        (3, (5,), torch.float64, False),
        (3, (), torch.float32, False),
    ):
        D, W = inputs.normal(2, *batch, d, d, generator=generator)
        D, W = D.tril() + D.tril(-1).mT, W.tril(-1) - W.tril(-1).mT
        if keeps_volume:
            D[..., -1, -1] -= inputs.trace(D)
        viscosity = inputs.uniform(0.5, 3, generator=generator).item()
        L, trace = (D + W).to(dtype), "zero" if keeps_volume else "any"
        what = f"viscous_stress for L of shape {tuple(L.shape)} with {trace} trace"
        yield inputs.case(what, dtype, attempt(L, viscosity), 2 * viscosity * D)


@exercise.alternative
def halves_cancelled(L, viscosity):
    return viscosity * (L + L.transpose(-1, -2))


@exercise.alternative
def twice_without_the_turning(L, viscosity):
    W = 0.5 * (L - L.mT)
    return 2 * viscosity * (L - W)


@exercise.mistake(
    "Your stress is η D, half of the right one. In a simple shear D₁₂ is only half of the shear rate; the 2 in 2 η D "
    "makes up for it."
)
def half_the_stress(L, viscosity):
    return viscosity * (L + L.mT) / 2


@exercise.mistake(
    "You multiplied L itself by the viscosity. L also turns the fluid, and turning makes no friction: take the "
    "symmetric part D, and 2 η of it."
)
def whole_gradient(L, viscosity):
    return viscosity * L


@exercise.mistake(
    "You took 2 η L. The factor 2 belongs to the symmetric part D = ½(L + Lᵀ); L also turns the fluid, and turning "
    "makes no friction."
)
def twice_the_whole_gradient(L, viscosity):
    return 2 * viscosity * L


@exercise.mistake(
    "You took the antisymmetric part, with a minus sign in L − Lᵀ. That one turns the fluid; the part that stretches "
    "it has a plus sign."
)
def turning_part(L, viscosity):
    return viscosity * (L - L.mT)


@exercise.mistake("Your stress is twice the right one: the ½ in D = ½(L + Lᵀ) is missing.")
def half_forgotten(L, viscosity):
    return 2 * viscosity * (L + L.mT)


@exercise.mistake(
    "You took the trace out of D, 2 η (D − ⅓ (tr D) I). That is the law for a fluid whose volume changes; here the law "
    "has no term for the trace."
)
def trace_taken_out(L, viscosity):
    identity = torch.eye(L.shape[-1], dtype=L.dtype)
    return viscosity * (L + L.mT - 2 / 3 * inputs.trace(L)[..., None, None] * identity)


@exercise.mistake(
    "You kept the entries off the diagonal only. Stretching along an axis makes friction too: the diagonal of 2 η D "
    "belongs to the stress."
)
def shear_only(L, viscosity):
    stress = viscosity * (L + L.mT)
    return stress - stress.diagonal(dim1=-2, dim2=-1).diag_embed()


@exercise.mistake(
    "You have one number for each L, viscosity times a shear rate. The stress is a matrix: it has an entry for each "
    "direction of the force and each direction of the surface."
)
def one_shear_rate(L, viscosity):
    return viscosity * ((L + L.mT).square().sum((-2, -1)) / 2).sqrt()


@exercise.mistake(
    "You multiplied L and Lᵀ where they have to be added. The stress is linear in L: a flow twice as fast has twice "
    "the friction."
)
def transposes_multiplied(L, viscosity):
    return viscosity * L @ L.mT


# 9 ------------------------------------------------------------------------------------------------------------------


def newton_solve(f, x0, steps):
    """Newton's method for a system of equations f(x) = 0.

        x ← x − J(x)⁻¹ f(x)

    Near x the function is almost f(x) + J(x) s.  Each step jumps along the s that makes
    this zero.

    f: maps ONE point, shape (d,), to shape (d,).  x0: ONE point to start from, shape
    (d,).  steps: how many steps to take.  Returns the last point, shape (d,).  The
    Jacobian at x is torch.func.jacrev(f)(x), or what you wrote yourself; J is square
    and has an inverse.
    """
    x = x0
    for _ in range(steps):
        J = torch.func.jacrev(f)(x)
        x = x - torch.linalg.solve(J, f(x))
    return x


exercise = Exercise(
    newton_solve,
    hints=[
        "Write one step first: the value f(x), the Jacobian J(x), and the step s with f(x) + J(x) s = 0.",
        "J⁻¹ f is the solution s of the linear system J s = f(x), torch.linalg.solve(J, f(x)). Dividing "
        "entry by entry is something else.",
        "In a loop over range(steps): x = x - torch.linalg.solve(torch.func.jacrev(f)(x), f(x)). Both J and f are "
        "taken anew at each x; return after the loop.",
    ],
)


def _circle_and_line(generator):
    """x² + y² = a on the line y = bx, its formula, and Newton's steps by hand: the line is met in one step."""
    a, b, x, y = (inputs.tenth(low, high, generator=generator) for low, high in ((3, 9), (1.2, 2), (1.5, 2.5), (1, 3)))

    def f(p):
        return torch.stack([p @ p - a, p[1] - b * p[0]])

    def point(steps):
        at = x, y
        for _ in range(steps):  # 2x(x' − x) + 2y(y' − y) = a − x² − y² with y' = bx'
            new = (a + at[0] ** 2 + at[1] ** 2) / (2 * (at[0] + b * at[1]))
            at = new, b * new
        return torch.stack(at)

    formula = f"f(x, y) = (x² + y² − {a:.1f}, y − {b:.1f}x)"
    return inputs.one_point(f, 2, "f"), formula, torch.stack([x, y]), point


def _mixed_roots(d, generator):
    """f(x) = A ((Bx)² − r²), squared entry by entry; Newton's k-th point is B⁻¹ r coth(2ᵏ arcoth(z₀/r)), z₀ = Bx₀.

    For one number z² = r² Newton's step is z ← (z + r²/z)/2, and coth obeys coth 2u = (coth u + 1/coth u)/2.
    """
    A, B = torch.eye(d, dtype=torch.float64) + inputs.normal(2, d, d, generator=generator) / (3 * d**0.5)
    r = inputs.uniform(0.8, 1.5, d, generator=generator)
    z0 = r * inputs.uniform(1.3, 2.5, d, generator=generator)
    x0 = torch.linalg.solve(B, z0)

    def f(p):
        return A.to(p.dtype) @ ((B.to(p.dtype) @ p) ** 2 - r.to(p.dtype) ** 2)

    def point(steps):
        return torch.linalg.solve(B, r / torch.tanh(2**steps * torch.atanh(r / z0)))

    return inputs.one_point(f, d, "f"), x0, point


@exercise.check
def _(attempt, generator):
    f, formula, x0, point = _circle_and_line(generator)
    for steps in 1, 2:
        what = f"newton_solve of {formula} from ({x0[0]:.1f}, {x0[1]:.1f}) with steps = {steps}"
        yield Case(what, attempt(f, x0, steps), point(steps))
    for d, steps, dtype in (3, 1, torch.float64), (5, 3, torch.float64), (4, 2, torch.float32):
        f, x0, point = _mixed_roots(d, generator)
        what = f"newton_solve of {d} equations in {d} unknowns with steps = {steps}"
        yield inputs.case(what, dtype, attempt(f, x0.to(dtype), steps), point(steps))


@exercise.alternative
def with_the_inverse(f, x0, steps):
    x = x0.clone()
    for _ in range(steps):
        x -= torch.linalg.inv(torch.func.jacfwd(f)(x)) @ f(x)
    return x


@exercise.alternative
def step_as_a_recursion(f, x0, steps):
    if steps == 0:
        return x0
    J, value = torch.autograd.functional.jacobian(f, x0), f(x0)
    return step_as_a_recursion(f, torch.linalg.solve(J, J @ x0 - value), steps - 1)


def _iterate(step, x0, steps):
    x = x0
    for _ in range(steps):
        x = x + step(x)
    return x


@exercise.mistake(
    "Your Jacobian is the transpose: row = equation, column = unknown. Only where J is symmetric does the difference "
    "not show."
)
def newton_transposed(f, x0, steps):
    return _iterate(lambda x: -torch.linalg.solve(_jacobian(f, x).T, f(x)), x0, steps)


@exercise.mistake(
    "Your step has the wrong sign: you move away from the zero. f + J s = 0 gives s = −J⁻¹ f, so subtract."
)
def newton_uphill(f, x0, steps):
    return _iterate(lambda x: torch.linalg.solve(_jacobian(f, x), f(x)), x0, steps)


@exercise.mistake(
    "You divided f by the diagonal of J, each equation by the slope in its own unknown. Each equation holds several "
    "unknowns: solve the linear system with the whole matrix."
)
def divided_by_the_diagonal(f, x0, steps):
    return _iterate(lambda x: -f(x) / _jacobian(f, x).diagonal(), x0, steps)


@exercise.mistake(
    "The first step is right, but the later ones still use the Jacobian at x0. Newton's method takes it anew at each "
    "point: move that line into the loop."
)
def jacobian_frozen(f, x0, steps):
    J = _jacobian(f, x0)
    return _iterate(lambda x: -torch.linalg.solve(J, f(x)), x0, steps)


@exercise.mistake(
    "You subtracted Jᵀ f, a step of gradient descent on ½|f|². Newton's step is the solution s of J s = f."
)
def gradient_step(f, x0, steps):
    return _iterate(lambda x: -f(x) @ _jacobian(f, x), x0, steps)


@exercise.mistake("You multiplied f by J. Newton's step divides by the slope, J⁻¹ f: solve the linear system J s = f.")
def multiplied_by_the_jacobian(f, x0, steps):
    return _iterate(lambda x: -_jacobian(f, x) @ f(x), x0, steps)


@exercise.mistake(
    "You took one step too few. Does the loop start at 1, or do you return the point from before the last step?"
)
def one_step_too_few(f, x0, steps):
    return newton_solve(f, x0, steps - 1)


@exercise.mistake("You took one step too many: range(steps) already runs `steps` times.")
def one_step_too_many(f, x0, steps):
    return newton_solve(f, x0, steps + 1)


@exercise.mistake(
    "You took one step, however many were asked for. Is the `return` inside the loop, or does each step start from x0 "
    "again?"
)
def returned_in_the_loop(f, x0, steps):
    return newton_solve(f, x0, 1)


@exercise.mistake("You returned the last step −J⁻¹ f, which goes to zero. The point is asked for: add the step to x.")
def step_for_point(f, x0, steps):
    x = newton_solve(f, x0, steps - 1)
    return -torch.linalg.solve(_jacobian(f, x), f(x))


@exercise.mistake(
    "You divided f by the column sums of J, what one backward pass on f(x).sum() leaves in x.grad. They mix all "
    "equations: take the whole Jacobian and solve."
)
def divided_by_column_sums(f, x0, steps):
    return _iterate(lambda x: -f(x) / _jacobian(f, x).sum(0), x0, steps)


@exercise.mistake("You returned f at the last point, which should come close to zero. The point itself is asked for.")
def value_for_point(f, x0, steps):
    return f(newton_solve(f, x0, steps))
