"""The exercises of the gradients chapter, from a hand calculation to a ball that rolls downhill.

After each reference solution come its hints, its check, other correct solutions and the mistakes people make.  The
checks draw random functions whose derivatives are known in closed form, so that what is expected never comes from
the code under test.
"""

import math

import torch

from companion.exercises import Exercise
from companion.exercises import _inputs as inputs
from companion.gradients import directional_derivative, gradient, gradient_descent, hessian

# 1 ------------------------------------------------------------------------------------------------------------------


def gradient_by_hand(x, y):
    """The gradient of f(x, y) = x² y + sin(x y), worked out on paper.

    Differentiate with pencil and paper, then write the result as a formula in x and y,
    without autograd.

    x, y: tensors of one and the same shape.  Returns (∂f/∂x, ∂f/∂y) along a new last
    axis, shape (*shape, 2).
    """
    by_x = 2 * x * y + y * torch.cos(x * y)
    by_y = x**2 + x * torch.cos(x * y)
    return torch.stack([by_x, by_y], -1)


exercise = Exercise(
    gradient_by_hand,
    hints=[
        "Two derivatives are asked for. In ∂f/∂x the letter y is a constant, in ∂f/∂y the letter x is.",
        "The sine needs the chain rule: cos(x y), times the derivative of what stands inside, x y. That is y for ∂/∂x. "
        "What is it for ∂/∂y?",
        "∂f/∂x = 2 x y + y cos(x y). Work out ∂f/∂y in the same way, and put both side by side with "
        "torch.stack([by_x, by_y], -1).",
    ],
)


@exercise.check
def _(attempt, generator):
    slope = torch.func.grad(lambda p: p[0] ** 2 * p[1] + torch.sin(p[0] * p[1]))
    for shape, dtype in ((), torch.float64), ((5,), torch.float64), ((2, 3), torch.float64), ((4,), torch.float32):
        x, y = inputs.tenth(-2, 2, 2, *shape, generator=generator)
        want = inputs.at_points(slope, torch.stack([x, y], -1))
        where = f"x and y of shape {shape}" if shape else f"x = {x:.1f}, y = {y:.1f}"
        yield inputs.case(f"gradient_by_hand for {where}", dtype, attempt(x.to(dtype), y.to(dtype)), want)


@exercise.alternative
def gradient_factored(x, y):
    common = (x * y).cos()
    return torch.cat([(y * (2 * x + common))[..., None], (x * (x + common))[..., None]], -1)


@exercise.mistake(
    "Both derivatives are right, but they have changed places. The gradient's entries follow the order of the "
    "coordinates: ∂f/∂x first, then ∂f/∂y."
)
def components_swapped(x, y):
    return gradient_by_hand(x, y).flip(-1)


@exercise.mistake(
    "You differentiated the sine and left its inside as it is. The chain rule asks for the inner derivative too: x y "
    "by x is y, and x y by y is x."
)
def inner_derivative_forgotten(x, y):
    return torch.stack([2 * x * y + torch.cos(x * y), x**2 + torch.cos(x * y)], -1)


@exercise.mistake(
    "The two inner derivatives have changed places: x y differentiated by x leaves y, and by y it leaves x."
)
def inner_derivatives_swapped(x, y):
    return torch.stack([2 * x * y + x * torch.cos(x * y), x**2 + y * torch.cos(x * y)], -1)


@exercise.mistake("The derivative of the sine is the cosine, with a plus. It is the cosine that changes the sign.")
def minus_cosine(x, y):
    return torch.stack([2 * x * y - y * torch.cos(x * y), x**2 - x * torch.cos(x * y)], -1)


@exercise.mistake(
    "Your sine is still a sine. Differentiating it makes a cosine of the same inside, times the inner derivative."
)
def sine_kept(x, y):
    return torch.stack([2 * x * y + y * torch.sin(x * y), x**2 + x * torch.sin(x * y)], -1)


@exercise.mistake(
    "You have the derivatives of x² y alone. A sum is differentiated term by term: those of sin(x y) have to be added."
)
def sine_left_out(x, y):
    return torch.stack([2 * x * y, x**2], -1)


@exercise.mistake(
    "You let x and y move together, and so both entries hold both derivatives. In a partial derivative one letter "
    "moves and the other stands still."
)
def both_letters_moved(x, y):
    together = gradient_by_hand(x, y).sum(-1)
    return torch.stack([together, together], -1)


@exercise.mistake(
    "Both derivatives are right, but you added them up. The gradient keeps them apart, one entry for each coordinate: "
    "use torch.stack."
)
def entries_added(x, y):
    return gradient_by_hand(x, y).sum(-1)


@exercise.mistake(
    "The numbers are right, but you stacked them along the first axis. A point's coordinates lie along the last one, "
    "and so does its gradient: torch.stack([…, …], -1)."
)
def stacked_in_front(x, y):
    return gradient_by_hand(x, y).movedim(-1, 0)


@exercise.mistake("Your ∂f/∂x lacks a factor 2: the power comes down when x² is differentiated, and gives 2x.")
def square_without_factor(x, y):
    return torch.stack([x * y + y * torch.cos(x * y), x**2 + x * torch.cos(x * y)], -1)


# 2 ------------------------------------------------------------------------------------------------------------------


def central_difference(f, x, h):
    """The gradient of a function at ONE point, estimated from values a step h away on
    both sides.

        ∂f/∂xᵢ ≈ (f(x + h eᵢ) − f(x − h eᵢ)) / (2h),   eᵢ the i-th unit vector

    f: maps ONE point, shape (d,), to a scalar, shape ().  x: shape (d,).  h: a number,
    and not a small one here: the check knows the quotient itself, with its error.
    Returns the d quotients, shape (d,).
    """
    steps = h * torch.eye(len(x), dtype=x.dtype)
    return torch.stack([(f(x + step) - f(x - step)) / (2 * h) for step in steps])


exercise = Exercise(
    central_difference,
    hints=[
        "You need 2d values of f. For each coordinate, two points: one a step h ahead, one a step h behind, and all "
        "other coordinates as they were.",
        "The rows of torch.eye(d, dtype=x.dtype) are the unit vectors. Add h times a row to x, subtract it from x.",
        "One entry is (f(x + h * e) - f(x - h * e)) / (2 * h), with the brackets around 2 * h. Collect the entries in "
        "a list and torch.stack them.",
    ],
)


def _cubic(d, generator):
    """The cubic f(p) = (a·p)³ + (a·p)(b·p) + c·p, and its central differences by hand."""
    a, b, c = inputs.uniform(-1, 1, 3, d, generator=generator)

    def f(p):
        s = a.to(p.dtype) @ p
        return s**3 + s * (b.to(p.dtype) @ p) + c.to(p.dtype) @ p

    def quotients(x, h):  # ((s + ah)³ − (s − ah)³)/(2h) = 3as² + a³h², and products of two linear terms leave no error
        return 3 * a * (a @ x) ** 2 + a**3 * h**2 + a * (b @ x) + b * (a @ x) + c

    return inputs.one_point(f, d, "f"), quotients


@exercise.check
def _(attempt, generator):
    for d, dtype in (2, torch.float64), (3, torch.float64), (5, torch.float64), (3, torch.float32):
        f, quotients = _cubic(d, generator)
        x, h = inputs.uniform(-1, 1, d, generator=generator), inputs.tenth(0.3, 1.5, generator=generator).item()
        what = f"central_difference(f, x, {h:.1f}) for a cubic f and x of shape {tuple(x.shape)}"
        # an answer with a tiny step of its own has the exact gradient up to rounding, which is rough in float32
        alike = 1e-6 if dtype == torch.float64 else math.inf
        yield inputs.case(what, dtype, attempt(f, x.to(dtype), h), quotients(x, h))._replace(alike=alike)


@exercise.alternative
def all_steps_at_once(f, x, h):
    step = h * torch.eye(x.numel()).to(x)
    values = torch.vmap(f)(torch.cat([x + step, x - step]))
    ahead, behind = values.chunk(2)
    return (ahead - behind) / (2 * h)


@exercise.alternative
def mean_of_both_sides(f, x, h):
    quotient = torch.zeros_like(x)
    for i in range(len(x)):
        for side in (h, -h):
            moved = x.clone()
            moved[i] += side
            quotient[i] += (f(moved) - f(x)) / side / 2
    return quotient


def _quotients(f, x, ahead, behind, divisor):
    """Quotients of values at x + ahead·eᵢ and x + behind·eᵢ."""
    return torch.stack([(f(x + ahead * e) - f(x + behind * e)) / divisor for e in torch.eye(len(x), dtype=x.dtype)])


@exercise.mistake(
    "You took forward differences, (f(x + h eᵢ) − f(x)) / h. Their error falls like h, that of the central difference "
    "like h²: step to both sides."
)
def forward_difference(f, x, h):
    return _quotients(f, x, h, 0, h)


@exercise.mistake(
    "You took backward differences, (f(x) − f(x − h eᵢ)) / h. The central difference also looks a step ahead, and its "
    "error falls like h² instead of h."
)
def backward_difference(f, x, h):
    return _quotients(f, x, 0, -h, h)


@exercise.mistake("Your quotients are twice too large: from x − h eᵢ to x + h eᵢ it is a way of 2h, so divide by 2h.")
def divided_by_one_step(f, x, h):
    return _quotients(f, x, h, -h, h)


@exercise.mistake(
    "Python reads / 2 * h from left to right: divided by 2, then multiplied by h. Put brackets around the divisor: "
    "/ (2 * h)."
)
def brackets_forgotten(f, x, h):
    return _quotients(f, x, h, -h, 2 / h)


@exercise.mistake(
    "These are the differences f(x + h eᵢ) − f(x − h eᵢ) themselves. A slope is a change per length: divide by 2h."
)
def differences_not_divided(f, x, h):
    return _quotients(f, x, h, -h, 1)


@exercise.mistake("The sign is flipped: take the value ahead minus the value behind, f(x + h eᵢ) − f(x − h eᵢ).")
def behind_minus_ahead(f, x, h):
    return _quotients(f, x, -h, h, 2 * h)


@exercise.mistake(
    "Here x + h moves all coordinates at once, so every entry is one and the same quotient. Move one coordinate at a "
    "time, by h times a unit vector."
)
def all_coordinates_moved(f, x, h):
    return ((f(x + h) - f(x - h)) / (2 * h)).expand(len(x))


@exercise.mistake(
    "You returned one quotient, with all coordinates moved at once by x + h. The gradient has d entries: move one "
    "coordinate at a time."
)
def one_quotient(f, x, h):
    return (f(x + h) - f(x - h)) / (2 * h)


@exercise.mistake(
    "Your steps pile up: coordinate 1 is still moved when coordinate 2 has its turn. Start from a fresh x.clone() for "
    "each coordinate."
)
def steps_pile_up(f, x, h):
    steps = h * torch.ones(len(x), len(x), dtype=x.dtype).tril()
    return torch.stack([(f(x + step) - f(x - step)) / (2 * h) for step in steps])


@exercise.mistake(
    "That is the exact gradient, or you took a tiny step of your own. The exercise wants the estimate from values of f "
    "a step h away, error included: that is what one has where nothing can be differentiated."
)
def exact_gradient(f, x, h):
    return gradient(f, x)


@exercise.mistake(
    "You went half a step to each side, h/2. The exercise goes a whole step h to each side and divides by the way "
    "between, 2h."
)
def half_steps(f, x, h):
    return _quotients(f, x, h / 2, -h / 2, h)


@exercise.mistake(
    "You went h/2 to each side and divided by 2h. Between the two points lies a way of h only; go a whole step h to "
    "each side."
)
def half_steps_whole_divisor(f, x, h):
    return _quotients(f, x, h / 2, -h / 2, 2 * h)


@exercise.mistake(
    "The step is added to the value, f(x) + h, and not to the point. Move the point first and call f there: "
    "f(x + h eᵢ)."
)
def step_added_to_the_value(f, x, h):
    return torch.stack([((f(x) + h) - (f(x) - h)) / (2 * h)] * len(x))


# 3 ------------------------------------------------------------------------------------------------------------------


def slope_along(f, x, direction):
    """The slope of a function along a direction of any length: its change per unit of
    length.

        D_e f = ∇f · e,   e = direction / |direction|

    f: maps ONE point, shape (d,), to a scalar, shape ().  x: points, shape (*batch, d).
    direction: one for all points, shape (d,), of any length but 0.  Returns shape
    (*batch).  You may use gradient(f, x) of the chapter.
    """
    return gradient(f, x) @ (direction / direction.norm())


exercise = Exercise(
    slope_along,
    hints=[
        "Somebody walks from x towards `direction`. The slope is what f gains over the first metre, if it went on like "
        "that. Does it matter how long the arrow on the map is?",
        "Make the direction one unit long: divide it by its length, direction.norm(). Then take the dot product with "
        "the gradient.",
        "The gradients are gradient(f, x), shape (*batch, d). Multiply them by the unit vector, entry by entry, and "
        "sum over the last axis; or write gradient(f, x) @ unit.",
    ],
)


@exercise.check
def _(attempt, generator):
    for d, batch, dtype in inputs.SHAPES:
        f, slopes, _ = inputs.bump(d, generator)
        x, way = inputs.normal(*batch, d, generator=generator).to(dtype), inputs.normal(d, generator=generator)
        length = inputs.tenth(1.5, 4, generator=generator)
        direction = (length * way / way.norm()).to(dtype)
        want = slopes(x.double()) @ direction.double() / length
        what = f"slope_along(f, x, direction) for x of shape {tuple(x.shape)} and a direction of length {length:.1f}"
        yield inputs.case(what, dtype, attempt(f, x, direction), want)


@exercise.alternative
def slope_by_directional_derivative(f, x, direction):
    return directional_derivative(f, x, torch.nn.functional.normalize(direction, dim=0))


@exercise.alternative
def slope_by_forward_mode(f, x, direction):
    """One forward pass a point carries the direction along; the length is divided out at the end."""
    return inputs.at_points(lambda p: torch.func.jvp(f, (p,), (direction,))[1], x) / direction.square().sum().sqrt()


@exercise.mistake(
    "You took ∇f · direction, and that grows with the length of the arrow. A slope is per unit of length: divide the "
    "direction by its norm()."
)
def not_normalised(f, x, direction):
    return gradient(f, x) @ direction


@exercise.mistake(
    "You divided by the square of the length. Once is enough: e = direction / |direction| has length 1. (A "
    "direction @ direction without its square root, or a division too many?)"
)
def divided_by_square(f, x, direction):
    return gradient(f, x) @ direction / direction.square().sum()


@exercise.mistake(
    "You divided by the sum of the absolute values, |x₁| + … + |x_d|. The length is the square root of the sum of the "
    "squares: direction.norm()."
)
def divided_by_one_norm(f, x, direction):
    return gradient(f, x) @ direction / direction.abs().sum()


@exercise.mistake(
    "You divided the direction by the sum of its entries. That makes the entries add up to 1, as for probabilities; "
    "the length is direction.norm()."
)
def divided_by_sum(f, x, direction):
    return gradient(f, x) @ direction / direction.sum()


@exercise.mistake(
    "You divided by |∇f| as well, and so got the cosine of the angle between gradient and direction. Divide by the "
    "length of the direction only."
)
def cosine(f, x, direction):
    return slope_along(f, x, direction) / gradient(f, x).norm(dim=-1)


@exercise.mistake(
    "You made the gradient a unit vector, but not the direction. It is the other way round: the gradient's length is "
    "the steepness, and the direction's length means nothing."
)
def gradient_normalised(f, x, direction):
    slopes = gradient(f, x)
    return slopes @ direction / slopes.norm(dim=-1)


@exercise.mistake("That is |∇f|, the slope along the steepest way up. Along another direction it is less: ∇f · e.")
def steepest_slope(f, x, direction):
    return gradient(f, x).norm(dim=-1)


@exercise.mistake("The products ∂f/∂xᵢ eᵢ are right. Now sum them over the coordinates, the last axis.")
def slope_products_not_summed(f, x, direction):
    return gradient(f, x) * direction / direction.norm()


@exercise.mistake(
    "You returned a vector, (∇f · e) e, the part of the gradient that points along the direction. The slope is the "
    "number in the brackets."
)
def projected_gradient(f, x, direction):
    return slope_along(f, x, direction)[..., None] * direction / direction.norm()


@exercise.mistake(
    "You took the mean of the products ∂f/∂xᵢ eᵢ. A dot product is their sum: your answer is too small by the factor d."
)
def slope_products_averaged(f, x, direction):
    return slope_along(f, x, direction) / x.shape[-1]


@exercise.mistake("The sign is flipped: that is the slope for one who walks the other way, along −direction.")
def walked_backwards(f, x, direction):
    return -slope_along(f, x, direction)


# 4 ------------------------------------------------------------------------------------------------------------------


def taylor2(f, x0, x):
    """The second-order Taylor polynomial of a function around x0, evaluated at x.

        T(x) = f(x0) + ∇f(x0) · s + ½ sᵀ H(x0) s,   s = x − x0

    f: maps ONE point, shape (d,), to a scalar, shape ().  x0, x: points, both of shape
    (*batch, d); each x has an x0 of its own.  Returns shape (*batch).  You may use
    gradient(f, x) and hessian(f, x) of the chapter; torch.vmap(f) takes many points,
    shape (n, d), at once.
    """
    step = x - x0
    value = torch.vmap(f)(x0.reshape(-1, x0.shape[-1])).reshape(x0.shape[:-1])
    slope = (gradient(f, x0) * step).sum(-1)
    curvature = torch.einsum("...i,...ij,...j->...", step, hessian(f, x0), step)
    return value + slope + curvature / 2


exercise = Exercise(
    taylor2,
    hints=[
        "Three terms: the height at x0, what the slope adds on the way to x, and what the curvature adds. At which "
        "point is each of f, ∇f and H taken?",
        "Everything is taken at x0; x enters through the step s = x − x0 only. The shapes are (*batch) for f, "
        "(*batch, d) for the gradient and (*batch, d, d) for the Hessian.",
        "The slope term is (gradient(f, x0) * step).sum(-1). The curvature term is half of "
        'torch.einsum("...i,...ij,...j->...", step, hessian(f, x0), step).',
    ],
)


def _ridges(d, generator):
    """The function f(p) = w · sin(A p), and its Taylor polynomial, that of the sine along each row of A."""
    A, w = inputs.normal(d + 1, d, generator=generator), inputs.normal(d + 1, generator=generator)

    def taylor(x0, x):
        s0, step = x0 @ A.T, (x - x0) @ A.T
        return (torch.sin(s0) + torch.cos(s0) * step - torch.sin(s0) * step**2 / 2) @ w

    return inputs.one_point(lambda p: w.to(p.dtype) @ torch.sin(A.to(p.dtype) @ p), d, "f"), taylor


@exercise.check
def _(attempt, generator):
    for d, batch, dtype in inputs.SHAPES:
        f, taylor = _ridges(d, generator)
        x0, x = inputs.uniform(-1, 1, 2, *batch, d, generator=generator).to(dtype)
        what = f"taylor2(f, x0, x) for x0 and x of shape {tuple(x.shape)}"
        yield inputs.case(what, dtype, attempt(f, x0, x), taylor(x0.double(), x.double()))


@exercise.alternative
def along_the_line(f, x0, x):
    """The ordinary Taylor polynomial of g(s) = f(x0 + s (x − x0)) around s = 0, at s = 1."""

    def at(line):
        p, q = line

        def g(s):
            return f(p + s * (q - p))

        zero = torch.zeros((), dtype=p.dtype)
        return g(zero) + torch.func.grad(g)(zero) + torch.func.grad(torch.func.grad(g))(zero) / 2

    lines = torch.stack([x0, x], -2)
    return torch.vmap(at)(lines.reshape(-1, *lines.shape[-2:])).reshape(x.shape[:-1])


@exercise.alternative
def slope_of_the_slope(f, x0, x):
    """∇f(x0) + ½ H s is the mean of the slopes at both ends of the step; the polynomial follows it."""
    step = x - x0
    half = (hessian(f, x0) @ step[..., None]).squeeze(-1) / 2
    return inputs.at_points(f, x0) + torch.linalg.vecdot(gradient(f, x0) + half, step)


def _terms(f, x0, step):
    """Value, slope and sᵀHs at x0."""
    curvature = torch.einsum("...i,...ij,...j->...", step, hessian(f, x0), step)
    return inputs.at_points(f, x0), (gradient(f, x0) * step).sum(-1), curvature


@exercise.mistake(
    "The ½ of the curvature term is missing. Test yourself with f = x²: its second derivative is 2, and only "
    "½ · 2 · s² brings s² back."
)
def half_missing(f, x0, x):
    return sum(_terms(f, x0, x - x0))


@exercise.mistake(
    "That is the tangent plane, the first-order polynomial. The second order adds ½ sᵀ H s, how much the surface bends "
    "away from the plane."
)
def first_order_only(f, x0, x):
    value, slope, _ = _terms(f, x0, x - x0)
    return value + slope


@exercise.mistake(
    "You expanded around x and evaluated at x0. It is the other way round: f, ∇f and H are known at x0, and x is where "
    "you want to know the height."
)
def expanded_around_x(f, x0, x):
    return taylor2(f, x, x0)


@exercise.mistake(
    "Your step points from x to x0, so the slope term has the wrong sign (the curvature term has s twice and does not "
    "notice). Take s = x − x0."
)
def step_reversed(f, x0, x):
    return taylor2(f, x0, 2 * x0 - x)


@exercise.mistake(
    "You used the diagonal of the Hessian only. The mixed derivatives ∂²f/∂xᵢ∂x_j belong to sᵀ H s as well, each with "
    "sᵢ s_j."
)
def diagonal_only(f, x0, x):
    value, slope, _ = _terms(f, x0, x - x0)
    return value + slope + (hessian(f, x0).diagonal(dim1=-2, dim2=-1) * (x - x0) ** 2).sum(-1) / 2


@exercise.mistake(
    "Your Hessian is taken at x, where the polynomial is evaluated. A Taylor polynomial knows f at x0 only: all "
    "derivatives are taken there."
)
def hessian_at_x(f, x0, x):
    value, slope, _ = _terms(f, x0, x - x0)
    return value + slope + _terms(f, x, x - x0)[2] / 2


@exercise.mistake(
    "Gradient and Hessian are taken at x, and the value at x0. A Taylor polynomial knows f at x0 only: all three are "
    "taken there."
)
def derivatives_at_x(f, x0, x):
    _, slope, curvature = _terms(f, x, x - x0)
    return inputs.at_points(f, x0) + slope + curvature / 2


@exercise.mistake(
    "You squared the slope term, (∇f · s)², where the second derivatives belong. The curvature is another derivative "
    "of the gradient, and not its square: sᵀ H s."
)
def slope_squared(f, x0, x):
    value, slope, _ = _terms(f, x0, x - x0)
    return value + slope + slope**2 / 2


@exercise.mistake(
    "The value f(x0) is missing: your polynomial is zero at x0. It has to start at the height where you stand."
)
def value_forgotten(f, x0, x):
    return taylor2(f, x0, x) - inputs.at_points(f, x0)


@exercise.mistake(
    "The step enters the curvature term once, in H s, whose entries you added up. It stands on both sides, sᵀ H s: "
    "multiply by the step again before you sum."
)
def step_only_once(f, x0, x):
    value, slope, _ = _terms(f, x0, x - x0)
    return value + slope + (hessian(f, x0) @ (x - x0)[..., None]).sum((-2, -1)) / 2


@exercise.mistake("That is f(x) itself. The polynomial is an estimate of it that uses f, ∇f and H at x0 only.")
def function_itself(f, x0, x):
    return inputs.at_points(f, x)


# 5 ------------------------------------------------------------------------------------------------------------------


def neuron_backward(w, b, x, t):
    """The gradient of a neuron's squared error by its weights and bias, by hand,
    without autograd.

        z = w·x + b,   a = tanh z,   y = (a − t)²

    Compute z and a on the way forward.  Then walk back: ∂y/∂a, from it ∂y/∂z, and from
    that ∂y/∂w and ∂y/∂b.  (The check cannot tell whether you called autograd.  You
    can.)

    w, x: the weights and the input, shape (d,).  b, t: the bias and the target, shape
    (). Returns ∂y/∂w₁, …, ∂y/∂w_d and last ∂y/∂b in one tensor of shape (d + 1,).
    """
    a = torch.tanh(w @ x + b)
    by_a = 2 * (a - t)
    by_z = by_a * (1 - a**2)
    by_w, by_b = by_z * x, by_z
    return torch.cat([by_w, by_b[None]])


exercise = Exercise(
    neuron_backward,
    hints=[
        "Draw the graph: w·x + b makes z, tanh makes a, the squared error makes y. The way back multiplies one local "
        "derivative at each node.",
        "The local derivatives are ∂y/∂a = 2(a − t) and ∂a/∂z = 1 − tanh² z = 1 − a². What are ∂z/∂wᵢ and ∂z/∂b?",
        "With by_z = 2 * (a - t) * (1 - a**2) the answer is by_z * x for w and by_z * 1 for b. A number joins a vector "
        "by torch.cat([by_w, by_b[None]]).",
    ],
)


def _squared_error(w, b, x, t):
    return (torch.tanh(w @ x + b) - t) ** 2


@exercise.check
def _(attempt, generator):
    for d, dtype in (2, torch.float64), (3, torch.float64), (5, torch.float64), (4, torch.float32):
        w, x = inputs.uniform(-1, 1, 2, d, generator=generator)
        b, t = inputs.uniform(-1, 1, 2, generator=generator)
        by_w, by_b = torch.func.grad(_squared_error, (0, 1))(w, b, x, t)
        got = attempt(*(argument.to(dtype) for argument in (w, b, x, t)))
        yield inputs.case(f"neuron_backward with {d} weights", dtype, got, torch.cat([by_w, by_b[None]]))


@exercise.alternative
def neuron_by_exponentials(w, b, x, t):
    """tanh' z = 1/cosh² z, and the bias as the weight of an input that is always 1."""
    x1, w1 = torch.cat([x, torch.ones_like(b)[None]]), torch.cat([w, b[None]])
    z = (w1 * x1).sum()
    return 2 * (torch.tanh(z) - t) / torch.cosh(z) ** 2 * x1


@exercise.alternative
def neuron_by_autograd(w, b, x, t):
    leaf = torch.cat([w, b.reshape(1)]).detach().requires_grad_()
    _squared_error(leaf[:-1], leaf[-1], x, t).backward()
    return leaf.grad


def _backward(w, b, x, t, by_a=lambda a, t, z: 2 * (a - t), by_z=lambda a, z: 1 - a**2):
    """∂y/∂z with one of the two local derivatives exchanged for a wrong one."""
    z = w @ x + b
    a = torch.tanh(z)
    return by_a(a, t, z) * by_z(a, z)


def _joined(by_z, x):
    return torch.cat([by_z * x, by_z[None]])


@exercise.mistake(
    "The factor 2 is lost: the derivative of (a − t)² by a is 2(a − t). Your gradient is half the right one."
)
def factor_two_lost(w, b, x, t):
    return neuron_backward(w, b, x, t) / 2


@exercise.mistake(
    "The slope of tanh is 1 − tanh² z, with a minus. It is 1 at z = 0 and goes to 0 where tanh flattens out."
)
def tanh_slope_with_plus(w, b, x, t):
    return _joined(_backward(w, b, x, t, by_z=lambda a, z: 1 + a**2), x)


@exercise.mistake(
    "You applied tanh twice: the slope is 1 − tanh² z, and a is tanh z already. So it is 1 − a², without another tanh."
)
def tanh_twice(w, b, x, t):
    return _joined(_backward(w, b, x, t, by_z=lambda a, z: 1 - torch.tanh(a) ** 2), x)


@exercise.mistake(
    "You put z into 1 − a², where a = tanh z belongs. The slope of tanh is written most briefly with its own value: "
    "1 − tanh² z."
)
def tanh_slope_of_z(w, b, x, t):
    return _joined(_backward(w, b, x, t, by_z=lambda a, z: 1 - z**2), x)


@exercise.mistake(
    "The node tanh is missing on your way back: ∂y/∂z = ∂y/∂a · (1 − a²). Every node on the path multiplies by its own "
    "slope."
)
def tanh_slope_forgotten(w, b, x, t):
    return _joined(_backward(w, b, x, t, by_z=lambda a, z: 1), x)


@exercise.mistake(
    "You multiplied by w, and so got the gradient by the input x. In w·x the derivative by wᵢ is xᵢ: each factor gets "
    "the other one."
)
def gradient_by_the_input(w, b, x, t):
    by_z = _backward(w, b, x, t)
    return torch.cat([by_z * w, by_z[None]])


@exercise.mistake(
    "The sign is flipped: ∂y/∂a = 2(a − t). The error y grows when a moves away from t. (Descent subtracts the "
    "gradient later; do not do it here.)"
)
def target_minus_output(w, b, x, t):
    return -neuron_backward(w, b, x, t)


@exercise.mistake(
    "The gradient by b is multiplied by b. The bias stands alone in z = w·x + b, so ∂z/∂b = 1, and ∂y/∂b = ∂y/∂z."
)
def bias_times_itself(w, b, x, t):
    by_z = _backward(w, b, x, t)
    return torch.cat([by_z * x, (by_z * b)[None]])


@exercise.mistake(
    "All numbers are right, but the bias comes first in your answer. It comes last: torch.cat([by_w, by_b[None]])."
)
def bias_first(w, b, x, t):
    return neuron_backward(w, b, x, t).roll(1)


@exercise.mistake(
    "The gradient by w is right, and the one by b is missing. It is ∂y/∂z · 1: append it as the last entry."
)
def bias_forgotten(w, b, x, t):
    return neuron_backward(w, b, x, t)[:-1]


@exercise.mistake(
    "You multiplied by (a − t)² instead of its derivative. The way back multiplies local derivatives, not values: "
    "2(a − t)."
)
def square_not_differentiated(w, b, x, t):
    return _joined(_backward(w, b, x, t, by_a=lambda a, t, z: (a - t) ** 2), x)


@exercise.mistake(
    "Your first factor is 2(z − t): the square was differentiated as if tanh were not there. It sees the value a that "
    "arrives at it, so it is 2(a − t)."
)
def square_of_z(w, b, x, t):
    return _joined(_backward(w, b, x, t, by_a=lambda a, t, z: 2 * (z - t)), x)


# 6 ------------------------------------------------------------------------------------------------------------------


def normal_score(x, loc, cov):
    """The score of a normal distribution: the gradient of its log-density by the point.

        ∇ₓ log N(x; loc, cov) = −cov⁻¹ (x − loc)

    x: points, shape (*batch, d).  loc: the mean, shape (d,).  cov: the covariance
    matrix, symmetric and positive definite, shape (d, d).  Returns shape (*batch, d).
    No autograd is needed; torch.linalg.solve(cov, columns) is cov⁻¹ times columns of
    shape (*batch, d, 1).
    """
    columns = (x - loc)[..., None]
    return -torch.linalg.solve(cov, columns)[..., 0]


exercise = Exercise(
    normal_score,
    hints=[
        "Which way does the log-density grow? Towards the mean, and the more slowly the wider the cloud is in that "
        "direction.",
        "The difference x − loc has shape (*batch, d). As columns, (x - loc)[..., None], it can stand to the right of "
        "a matrix.",
        "Take -torch.linalg.solve(cov, (x - loc)[..., None]) and drop the last axis again with [..., 0].",
    ],
)


def _covariance(d, generator):
    """A covariance matrix with known axes and variances, and its inverse from the same axes."""
    U = torch.linalg.qr(inputs.normal(d, d, generator=generator)).Q
    variances = inputs.uniform(0.3, 3, d, generator=generator)
    return (U * variances) @ U.T, (U / variances) @ U.T


@exercise.check
def _(attempt, generator):
    for d, batch, dtype in inputs.SHAPES:
        cov, inverse = _covariance(d, generator)
        loc, x = inputs.normal(d, generator=generator), inputs.normal(*batch, d, generator=generator)
        got = attempt(x.to(dtype), loc.to(dtype), cov.to(dtype))
        yield inputs.case(
            f"normal_score(x, loc, cov) for x of shape {tuple(x.shape)}", dtype, got, -(x - loc) @ inverse
        )


@exercise.alternative
def score_by_inverse(x, loc, cov):
    return (loc - x) @ torch.linalg.inv(cov)


@exercise.alternative
def score_by_cholesky(x, loc, cov):
    flat = (x - loc).reshape(-1, x.shape[-1])
    return torch.cholesky_solve(-flat.T, torch.linalg.cholesky(cov)).T.reshape(x.shape)


@exercise.alternative
def score_by_autograd(x, loc, cov):
    normal = torch.distributions.MultivariateNormal(loc, cov)
    return torch.func.grad(lambda x: normal.log_prob(x).sum())(x)


@exercise.mistake(
    "The sign is flipped: yours points away from the mean. Either the minus of the exponent is lost, or you "
    "differentiated by loc: both give +cov⁻¹(x − loc)."
)
def away_from_the_mean(x, loc, cov):
    return -normal_score(x, loc, cov)


@exercise.mistake(
    "You multiplied by cov instead of its inverse. Where the cloud is wide the density falls slowly, so a large "
    "variance makes a small score: use torch.linalg.solve."
)
def multiplied_by_cov(x, loc, cov):
    return (loc - x) @ cov


@exercise.mistake(
    "You divided by the variances on the diagonal, entry by entry. That is right for a diagonal cov only; correlations "
    "need the inverse of the whole matrix."
)
def divided_by_diagonal(x, loc, cov):
    return (loc - x) / cov.diagonal()


@exercise.mistake(
    "You divided by the standard deviations, √ of the diagonal. The exponent holds cov⁻¹: variances, not their roots, "
    "and the whole matrix, not its diagonal."
)
def divided_by_scales(x, loc, cov):
    return (loc - x) / cov.diagonal().sqrt()


@exercise.mistake(
    "You took one over each entry of cov. The inverse of a matrix is another thing, with cov⁻¹ cov = I: use "
    "torch.linalg.solve or torch.linalg.inv."
)
def entrywise_inverse(x, loc, cov):
    return (loc - x) @ (1 / cov)


@exercise.mistake(
    "That is the gradient of the density itself, N times the score. The logarithm divides by N again: ∇ log N = ∇N / N."
)
def gradient_of_the_density(x, loc, cov):
    density = torch.distributions.MultivariateNormal(loc, cov).log_prob(x).exp()
    return density[..., None] * normal_score(x, loc, cov)


@exercise.mistake(
    "You applied cov⁻¹ twice. The quadratic form (x − loc)ᵀ cov⁻¹ (x − loc) holds it once, and so does its gradient."
)
def inverse_twice(x, loc, cov):
    return normal_score(x, loc, cov) @ torch.linalg.inv(cov)


@exercise.mistake(
    "You solved with the Cholesky factor L once. Since cov = L Lᵀ, its inverse takes two solves, with L and then with "
    "Lᵀ."
)
def half_whitened(x, loc, cov):
    L = torch.linalg.cholesky(cov)
    return torch.linalg.solve_triangular(L, (loc - x)[..., None], upper=False)[..., 0]


@exercise.mistake(
    "The mean is missing: you took cov⁻¹ x. The density is highest at loc, and the score has to be zero there."
)
def mean_forgotten(x, loc, cov):
    return normal_score(x, torch.zeros_like(loc), cov)


@exercise.mistake(
    "You took loc − x as it is. That is the score for the covariance I; here the cloud is stretched and tilted, so "
    "cov⁻¹ has to act on it."
)
def covariance_ignored(x, loc, cov):
    return loc - x


@exercise.mistake(
    "A factor ½ is left over. The exponent is −½ (x − loc)ᵀ cov⁻¹ (x − loc), and its derivative brings down a 2, as "
    "that of ½x² does."
)
def half_left_over(x, loc, cov):
    return normal_score(x, loc, cov) / 2


@exercise.mistake(
    "That is the log-density, one number a point. The score is its gradient by x, with d entries a point."
)
def log_density_returned(x, loc, cov):
    return torch.distributions.MultivariateNormal(loc, cov).log_prob(x)


# 7 ------------------------------------------------------------------------------------------------------------------


def gradients_one_by_one(f, xs):
    """The gradients of a function at n points, each by a .backward() of its own on one
    leaf.

    Make ONE leaf tensor of shape (d,) with requires_grad.  For each point: write the
    point into the leaf under torch.no_grad(), call f(leaf).backward(), note leaf.grad,
    and clear it before the next point.  (The check sees the result only.)

    f: maps ONE point, shape (d,), to a scalar, shape ().  xs: n points, shape (n, d).
    Returns the n gradients, shape (n, d).
    """
    leaf = torch.zeros_like(xs[0]).requires_grad_()
    rows = []
    for point in xs:
        with torch.no_grad():
            leaf.copy_(point)
        f(leaf).backward()
        rows.append(leaf.grad.clone())
        leaf.grad.zero_()
    return torch.stack(rows)


exercise = Exercise(
    gradients_one_by_one,
    hints=[
        "What does .backward() do with a .grad that is already there? It adds to it. When is the right moment to clear "
        "it?",
        "The tensor leaf.grad is one that every pass writes into. A list of n times leaf.grad is a list of n times "
        "the same tensor: note a .clone() of it.",
        "In the loop: with torch.no_grad(): leaf.copy_(point). Then f(leaf).backward(), "
        "rows.append(leaf.grad.clone()), leaf.grad.zero_(). At the end torch.stack(rows).",
    ],
)


@exercise.check
def _(attempt, generator):
    for (d, _, dtype), n in zip(inputs.SHAPES, (5, 4, 3, 4)):
        f, slopes, _ = inputs.bump(d, generator)
        xs = inputs.normal(n, d, generator=generator).to(dtype)
        what = f"gradients_one_by_one(f, xs) for xs of shape {tuple(xs.shape)}"
        yield inputs.case(what, dtype, attempt(f, xs), slopes(xs.double()))


@exercise.alternative
def a_fresh_leaf_each(f, xs):
    rows = []
    for point in xs:
        leaf = point.detach().clone().requires_grad_()
        f(leaf).backward()
        rows.append(leaf.grad)
    return torch.stack(rows)


@exercise.alternative
def grad_set_to_none(f, xs):
    leaf, rows = xs[0].clone().requires_grad_(), torch.empty_like(xs)
    for i in range(len(xs)):
        leaf.grad = None
        leaf.data = xs[i].clone()
        f(leaf).backward()
        rows[i] = leaf.grad
    return rows


@exercise.alternative
def all_in_one_pass(f, xs):
    """Each term of the sum depends on one point, so the gradient of the sum holds all gradients side by side."""
    leaves = xs.detach().clone().requires_grad_()
    torch.vmap(f)(leaves).sum().backward()
    return leaves.grad


@exercise.mistake(
    "Row i holds the sum of the first i gradients: .backward() adds to the .grad that is there. Clear it after each "
    "point, leaf.grad.zero_() or leaf.grad = None."
)
def never_zeroed(f, xs):
    return gradient(f, xs).cumsum(0)


@exercise.mistake(
    "Every row is the gradient at the last point. You noted leaf.grad itself n times, and it is one tensor, which each "
    "pass overwrites: note leaf.grad.clone()."
)
def last_gradient_everywhere(f, xs):
    return gradient(f, xs[-1:]).expand_as(xs)


@exercise.mistake(
    "Every row is the sum of all gradients. Two things are missing: clear leaf.grad after each point, and note a "
    ".clone() of it, since leaf.grad is one tensor that grows on."
)
def total_everywhere(f, xs):
    return gradient(f, xs).sum(0).expand_as(xs)


@exercise.mistake(
    "All rows are zero. If you noted leaf.grad and cleared it by zero_(), you cleared what you had noted: it is one "
    "and the same tensor. Note leaf.grad.clone()."
)
def cleared_after_noting(f, xs):
    return torch.zeros_like(xs)


@exercise.mistake(
    "You returned the sum of the gradients, which is what .grad holds when nobody clears it. Keep them apart: one row "
    "for each point."
)
def gradients_added_up(f, xs):
    return gradient(f, xs).sum(0)


@exercise.mistake(
    "Your gradients are too small by the factor n: those of the mean over the points. Each point has a gradient of its "
    "own; with .sum() instead of .mean(), or one by one, they come out right."
)
def gradients_of_the_mean(f, xs):
    return gradient(f, xs) / len(xs)


@exercise.mistake(
    "You changed the point between f(leaf) and .backward(), through .data, so autograd did not notice. The way back "
    "then uses values of two different points. First write the point, then compute f, then go back."
)
def changed_before_backward(f, xs):
    leaf, rows = xs[0].detach().clone().requires_grad_(), []
    for point in xs:
        value = f(leaf)
        leaf.data.copy_(point)
        leaf.grad = None
        value.backward()
        rows.append(leaf.grad)
    return torch.stack(rows)


@exercise.mistake(
    "Your rows are one point behind: each point is written into the leaf only after the pass it was meant for. Write "
    "first, then call f(leaf).backward()."
)
def one_point_behind(f, xs):
    return gradient(f, torch.cat([xs[:1], xs[:-1]]))


@exercise.mistake(
    "Every row is the gradient at the first point: the leaf still holds it. Write each point into the leaf, "
    "leaf.copy_(point) under torch.no_grad()."
)
def leaf_never_overwritten(f, xs):
    return gradient(f, xs[:1]).expand_as(xs)


@exercise.mistake(
    "The gradients are right, but they stand in columns. Stack them along the first axis, torch.stack(rows)."
)
def points_in_columns(f, xs):
    return gradient(f, xs).T


@exercise.mistake(
    "You returned the values f(x), one number a point. Their gradients are wanted: leaf.grad after each backward."
)
def values_returned(f, xs):
    return torch.vmap(f)(xs)


# 8 ------------------------------------------------------------------------------------------------------------------


def contraction(A, lr):
    """The factor by which one step of gradient descent shrinks the error of a
    quadratic, at worst.

        f(x) = ½ xᵀ A x,   x ← x − lr A x = (I − lr A) x,   at worst maxᵢ |1 − lr λᵢ|

    The λᵢ are the eigenvalues of A, and the error is the distance from the minimum,
    |x|.  A factor above 1 means that the walk runs away.

    A: symmetric positive definite matrices, shape (*batch, d, d).  lr: the learning
    rate, a number. Returns shape (*batch).
    """
    eigenvalues = torch.linalg.eigvalsh(A)
    return (1 - lr * eigenvalues).abs().amax(-1)


exercise = Exercise(
    contraction,
    hints=[
        "Along each eigenvector of A the error is multiplied by a factor of its own, 1 − lr λᵢ. Which of them decides "
        "in the long run?",
        "The eigenvalues of symmetric matrices, along the last axis, are torch.linalg.eigvalsh(A). A factor of −2 is "
        "as bad as one of 2: what counts is its absolute value.",
        "Take (1 - lr * eigenvalues).abs(), and of that the largest along the last axis, .amax(-1).",
    ],
)


def _bowls(d, batch, generator):
    """Symmetric matrices with known eigenvalues, flat along one axis and steep along another."""
    U = torch.linalg.qr(inputs.normal(*batch, d, d, generator=generator)).Q
    flat, steep = (inputs.uniform(*ends, *batch, 1, generator=generator) for ends in ((0.2, 0.5), (3.5, 5)))
    eigenvalues = torch.cat([flat, steep, inputs.uniform(0.5, 3.5, *batch, d - 2, generator=generator)], -1)
    A = (U * eigenvalues[..., None, :]) @ U.mT
    return (A + A.mT) / 2, eigenvalues


@exercise.check
def _(attempt, generator):
    # small rates: the flattest axis decides; large ones: the steepest; from 6 on every factor is negative
    rates = (0.1, 0.2), (0.6, 1.0), (0.3, 0.5), (0.6, 1.0), (6, 8)
    for (d, batch, dtype), ends in zip((*inputs.SHAPES, (4, (3,), torch.float64)), rates):
        A, eigenvalues = _bowls(d, batch, generator)
        lr = inputs.tenth(*ends, generator=generator).item()
        want = (1 - lr * eigenvalues).abs().amax(-1)
        yield inputs.case(
            f"contraction(A, {lr:.1f}) for A of shape {tuple(A.shape)}", dtype, attempt(A.to(dtype), lr), want
        )


@exercise.alternative
def norm_of_the_step(A, lr):
    """The largest singular value of I − lr A, the most that it can stretch any vector."""
    return torch.linalg.matrix_norm(torch.eye(A.shape[-1], dtype=A.dtype) - lr * A, ord=2)


@exercise.alternative
def both_ends(A, lr):
    """|1 − lr λ| is largest at the smallest or at the largest eigenvalue."""
    eigenvalues = torch.linalg.svdvals(A)
    flat, steep = 1 - lr * eigenvalues[..., -1], lr * eigenvalues[..., 0] - 1
    return torch.maximum(flat, steep)


def _factors(A, lr):
    return 1 - lr * torch.linalg.eigvalsh(A)


@exercise.mistake(
    "The absolute value is missing. A factor of −2 throws x to the other side, twice as far: take .abs() before the "
    "maximum."
)
def without_absolute_value(A, lr):
    return _factors(A, lr).amax(-1)


@exercise.mistake(
    "You looked at the smallest eigenvalue only, the flattest direction. With a large learning rate it is the steepest "
    "one that decides: take the maximum over all."
)
def smallest_only(A, lr):
    return _factors(A, lr)[..., 0].abs()


@exercise.mistake(
    "You looked at the largest eigenvalue only, the steepest direction. With a small learning rate the flattest one "
    "shrinks slowest: take the maximum over all."
)
def largest_only(A, lr):
    return _factors(A, lr)[..., -1].abs()


@exercise.mistake(
    "You took the smallest of the factors, the direction in which all goes best. The slowest direction is asked for: "
    "the maximum."
)
def best_direction(A, lr):
    return _factors(A, lr).abs().amin(-1)


@exercise.mistake(
    "You computed 1 − lr κ with the condition number κ = λ_max/λ_min. The factor along an eigenvector holds its own "
    "eigenvalue, 1 − lr λᵢ, and no ratio."
)
def condition_number(A, lr):
    return (1 - lr * torch.linalg.cond(A)).abs()


@exercise.mistake(
    "That is (κ − 1)/(κ + 1), the factor at the best of all learning rates. Here lr is given, and your answer does not "
    "use it."
)
def best_learning_rate(A, lr):
    eigenvalues = torch.linalg.eigvalsh(A)
    steep, flat = eigenvalues[..., -1], eigenvalues[..., 0]
    return (steep - flat) / (steep + flat)


@exercise.mistake(
    "That is lr λ_max, how much of x a step takes away along the steepest direction. What is left of it is 1 − lr λ, "
    "and the other directions count too."
)
def what_is_taken_away(A, lr):
    return lr * torch.linalg.eigvalsh(A)[..., -1]


@exercise.mistake(
    "That is the largest eigenvalue of A, its spectral norm. One step multiplies by I − lr A, so the factors are "
    "1 − lr λᵢ."
)
def norm_of_A(A, lr):
    return torch.linalg.matrix_norm(A, ord=2)


@exercise.mistake(
    "You squared the factor. That is how f shrinks, since f is quadratic in x; the error |x| itself shrinks by the "
    "factor |1 − lr λ|."
)
def factor_of_the_height(A, lr):
    return contraction(A, lr) ** 2


@exercise.mistake(
    "You multiplied the factors of all directions: that is the determinant of I − lr A, what happens to a volume. The "
    "error at worst follows the largest factor alone."
)
def product_of_factors(A, lr):
    return _factors(A, lr).abs().prod(-1)


@exercise.mistake(
    "You took the Frobenius norm of I − lr A, the root of the sum of all squared factors. At worst a vector is "
    "stretched by the largest of them: ord=2, or the eigenvalues."
)
def frobenius_norm(A, lr):
    return _factors(A, lr).square().sum(-1).sqrt()


@exercise.mistake(
    "You have the factor of every direction. The worst is asked for: take the largest along the last axis."
)
def factors_not_reduced(A, lr):
    return _factors(A, lr).abs()


@exercise.mistake(
    "Your factors are 1 + lr λᵢ: that walks uphill. Descent subtracts lr times the gradient, so it is 1 − lr λᵢ."
)
def uphill_factor(A, lr):
    return (1 + lr * torch.linalg.eigvalsh(A)).amax(-1)


# 9 ------------------------------------------------------------------------------------------------------------------


def momentum_descent(f, x0, lr, momentum, steps):
    """The end point of gradient descent with momentum, the heavy ball.

        G ← momentum · G + ∇f(x),   x ← x − lr · G,   from G = 0 and x = x0

    f: maps ONE point, shape (d,), to a scalar, shape ().  x0: where the walks start,
    shape (*batch, d); each point walks alone.  lr, momentum: numbers.  steps: a whole
    number of steps. Returns the points after the last step, shape (*batch, d).  You may
    use gradient(f, x) of the chapter.
    """
    x, G = x0, torch.zeros_like(x0)
    for _ in range(steps):
        G = momentum * G + gradient(f, x)
        x = x - lr * G
    return x


exercise = Exercise(
    momentum_descent,
    hints=[
        "Two things are carried from step to step: the place x and the gathered gradients G. Which of them is "
        "updated first?",
        "At the start G is torch.zeros_like(x0). In each step it keeps a part of itself and takes up the gradient at "
        "the present x, in full.",
        "In the loop: G = momentum * G + gradient(f, x), then x = x - lr * G. Both lines make new tensors, so x0 stays "
        "as it was.",
    ],
)


def _valley(d, generator):
    """A quadratic f around a centre, with known axes and eigenvalues, and where the heavy ball ends in it."""
    U = torch.linalg.qr(inputs.normal(d, d, generator=generator)).Q
    eigenvalues, centre = inputs.uniform(0.5, 3, d, generator=generator), inputs.normal(d, generator=generator)
    A = (U * eigenvalues) @ U.T

    def f(p):
        away = p - centre.to(p.dtype)
        return away @ A.to(p.dtype) @ away / 2

    def end(x0, lr, momentum, steps):
        # along each axis (x, G) is multiplied by one 2 × 2 matrix a step
        one = torch.ones_like(eigenvalues)
        first = torch.stack([1 - lr * eigenvalues, -lr * momentum * one], -1)
        step = torch.stack([first, torch.stack([eigenvalues, momentum * one], -1)], -2)
        left = torch.linalg.matrix_power(step, steps)[:, 0, 0]
        return centre + ((x0 - centre) @ U * left) @ U.T

    return inputs.one_point(f, d, "f"), end


@exercise.check
def _(attempt, generator):
    for (d, batch, dtype), steps in zip(inputs.SHAPES, (3, 10, 6, 8)):
        f, end = _valley(d, generator)
        x0 = inputs.normal(*batch, d, generator=generator).to(dtype)
        lr, momentum = (inputs.tenth(*ends, generator=generator).item() for ends in ((0.1, 0.4), (0.3, 0.8)))
        got, want = attempt(f, x0, lr, momentum, steps), end(x0.double(), lr, momentum, steps)
        what = f"momentum_descent(f, x0, {lr:.1f}, {momentum:.1f}, {steps}) for x0 of shape {tuple(x0.shape)}"
        yield inputs.case(what, dtype, got, want)


@exercise.alternative
def end_of_the_path(f, x0, lr, momentum, steps):
    return gradient_descent(f, x0, lr, steps, momentum)[-1]


@exercise.alternative
def two_places(f, x0, lr, momentum, steps):
    """lr · G is the last move, so the two latest places say as much as x and G."""
    before = x = x0
    for _ in range(steps):
        before, x = x, x + momentum * (x - before) - lr * gradient(f, x)
    return x


@exercise.alternative
def by_an_optimizer(f, x0, lr, momentum, steps):
    x = x0.detach().reshape(-1, x0.shape[-1]).clone().requires_grad_()
    optimizer = torch.optim.SGD([x], lr=lr, momentum=momentum)
    for _ in range(steps):
        optimizer.zero_grad()
        torch.vmap(f)(x).sum().backward()
        optimizer.step()
    return x.detach().reshape(x0.shape)


def _roll(x0, steps, move):
    """The end of a walk whose (x, G) moves by `move`, from G = 0."""
    x, G = x0, torch.zeros_like(x0)
    for _ in range(steps):
        x, G = move(x, G)
    return x


@exercise.mistake(
    "Your ball has no memory: that is plain gradient descent. Keep G from one step to the next, outside the loop, and "
    "start each update from momentum · G."
)
def no_momentum(f, x0, lr, momentum, steps):
    return momentum_descent(f, x0, lr, 0, steps)


@exercise.mistake(
    "You took the gradient a little ahead, at x − lr · momentum · G. That is Nesterov's method, a good one, but the "
    "heavy ball takes the gradient where it is, at x."
)
def nesterov(f, x0, lr, momentum, steps):
    def move(x, G):
        G = momentum * G + gradient(f, x - lr * momentum * G)
        return x - lr * G, G

    return _roll(x0, steps, move)


@exercise.mistake(
    "You weighted the gradient with 1 − momentum, a running mean. The heavy ball takes the gradient in full, "
    "G ← momentum · G + ∇f(x); yours makes smaller steps."
)
def running_mean(f, x0, lr, momentum, steps):
    return momentum_descent(f, x0, lr * (1 - momentum), momentum, steps)


@exercise.mistake(
    "You computed the gradient once, before the loop, and used it in every step. The slope changes on the way: compute "
    "it at the present x in each step."
)
def gradient_once(f, x0, lr, momentum, steps):
    slope = gradient(f, x0)

    def move(x, G):
        G = momentum * G + slope
        return x - lr * G, G

    return _roll(x0, steps, move)


@exercise.mistake("Your ball rolls uphill: the gradient points to where f grows. Subtract, x ← x − lr · G.")
def uphill(f, x0, lr, momentum, steps):
    return momentum_descent(f, x0, -lr, momentum, steps)


@exercise.mistake(
    "You are one step short. Either the loop ends too early, or x moves before G takes up the gradient, so that the "
    "first step, with G = 0, goes nowhere."
)
def one_step_too_few(f, x0, lr, momentum, steps):
    return momentum_descent(f, x0, lr, momentum, steps - 1)


@exercise.mistake("You made one step too many. `steps` counts the moves of x: use range(steps).")
def one_step_too_many(f, x0, lr, momentum, steps):
    return momentum_descent(f, x0, lr, momentum, steps + 1)


@exercise.mistake(
    "The learning rate is applied twice, once in G and once in the step. It belongs to one of the two: G takes up the "
    "gradient as it is, and x moves by lr · G."
)
def learning_rate_twice(f, x0, lr, momentum, steps):
    return momentum_descent(f, x0, lr**2, momentum, steps)


@exercise.mistake(
    "You moved x with the G of the step before. Update G with the gradient first, then move x with the new G."
)
def moved_with_the_old_G(f, x0, lr, momentum, steps):
    return _roll(x0, steps, lambda x, G: (x - lr * G, momentum * G + gradient(f, x)))


@exercise.mistake(
    "Your G starts as the gradient at x0, and the first step then adds that gradient again. Start from rest, G = 0."
)
def not_from_rest(f, x0, lr, momentum, steps):
    x, G = x0, gradient(f, x0)
    for _ in range(steps):
        G = momentum * G + gradient(f, x)
        x = x - lr * G
    return x


@exercise.mistake(
    "The factor `momentum` is on the wrong term: it damps the old G, not the gradient. Yours never forgets, and the "
    "ball keeps swinging."
)
def momentum_on_the_gradient(f, x0, lr, momentum, steps):
    def move(x, G):
        G = G + momentum * gradient(f, x)
        return x - lr * G, G

    return _roll(x0, steps, move)


@exercise.mistake("You returned the whole path. The exercise wants where it ends: the last point alone, path[-1].")
def whole_path(f, x0, lr, momentum, steps):
    return gradient_descent(f, x0, lr, steps, momentum)
