"""The exercises of the divergence chapter, from a hand calculation to the density along a particle's path.

After each reference solution come its hints, its check, other correct solutions and the mistakes people make.  The
checks draw random fields whose derivatives are known in closed form, so that what is expected never comes from the
code under test.
"""

import math

import torch

from companion.divergence import divergence
from companion.exercises import Case, Exercise
from companion.exercises import _inputs as inputs

# 1 ------------------------------------------------------------------------------------------------------------------


def divergence_by_hand(x, y):
    """The divergence of v(x, y) = (x³y, y² sin x), worked out on paper.

    Differentiate with pencil and paper, then write the result as a formula in x and y,
    without autograd.

    x, y: tensors of one and the same shape.  Returns ∂P/∂x + ∂Q/∂y, a tensor of that
    shape.
    """
    return 3 * x**2 * y + 2 * y * torch.sin(x)


exercise = Exercise(
    divergence_by_hand,
    hints=[
        "The field has two components, P = x³y and Q = y² sin x. Each is differentiated once, by its own coordinate.",
        "In ∂P/∂x the letter y is a constant; in ∂Q/∂y the letter x is, and with it all of sin x.",
        "∂P/∂x = 3x²y. For ∂Q/∂y take the derivative of y² and keep the factor torch.sin(x). Add the two.",
    ],
)


@exercise.check
def _(attempt, generator):
    jacobian = torch.func.jacrev(lambda p: torch.stack([p[0] ** 3 * p[1], p[1] ** 2 * torch.sin(p[0])]))
    for shape, dtype in ((), torch.float64), ((5,), torch.float64), ((2, 3), torch.float64), ((4,), torch.float32):
        x, y = inputs.tenth(-2, 2, 2, *shape, generator=generator)
        want = inputs.trace(inputs.at_points(jacobian, torch.stack([x, y], -1)))
        where = f"x and y of shape {shape}" if shape else f"x = {x:.1f}, y = {y:.1f}"
        yield inputs.case(f"divergence_by_hand for {where}", dtype, attempt(x.to(dtype), y.to(dtype)), want)


@exercise.alternative
def factored(x, y):
    return y * (3 * x * x + 2 * x.sin())


@exercise.mistake(
    "Your second term is ∂Q/∂x = y² cos x. Each component is differentiated by its own coordinate, and the second "
    "coordinate is y: look at the small box again, where Q carries fluid through the top and bottom edges."
)
def second_by_x(x, y):
    return 3 * x**2 * y + y**2 * torch.cos(x)


@exercise.mistake(
    "You have ∂P/∂x, and it is right, but it is only half of the balance: what leaves through the top and bottom "
    "edges, ∂Q/∂y, has to be added."
)
def first_term_only(x, y):
    return 3 * x**2 * y


@exercise.mistake(
    "Both derivatives are right, but you multiplied them. The box's losses through its edges add up: use +."
)
def terms_multiplied(x, y):
    return 3 * x**2 * y * 2 * y * torch.sin(x)


@exercise.mistake(
    "Both terms are right, and you returned them side by side. The divergence is one number at each point: add them."
)
def terms_as_vector(x, y):
    return torch.stack([3 * x**2 * y, 2 * y * torch.sin(x)], -1)


@exercise.mistake(
    "You took ∂P/∂y + ∂Q/∂x, each component by the other coordinate. Those derivatives describe shear and rotation; "
    "divergence needs the diagonal of the Jacobian, ∂P/∂x and ∂Q/∂y."
)
def crossed(x, y):
    return x**3 + y**2 * torch.cos(x)


@exercise.mistake("You computed ∂Q/∂x − ∂P/∂y. That is the curl, the local rotation; the divergence is ∂P/∂x + ∂Q/∂y.")
def curl_by_hand(x, y):
    return y**2 * torch.cos(x) - x**3


@exercise.mistake(
    "Your ∂Q/∂y holds a cos x, so sin x was differentiated too. While y moves, x stands still: sin x is a constant "
    "factor there."
)
def sine_differentiated(x, y):
    return 3 * x**2 * y + 2 * y * torch.cos(x)


@exercise.mistake("Your ∂P/∂x lacks a factor 3: the power comes down when x³ is differentiated, and gives 3x².")
def power_left_up(x, y):
    return x**2 * y + 2 * y * torch.sin(x)


@exercise.mistake("Both derivatives are right, but you subtracted the second. The divergence is their sum.")
def terms_subtracted(x, y):
    return 3 * x**2 * y - 2 * y * torch.sin(x)


@exercise.mistake(
    "You used the product rule on y² sin x, as if x changed along with y. In ∂Q/∂y only y moves; sin x is a constant "
    "factor, and the term y² cos x has no place."
)
def product_rule_too_many(x, y):
    return 3 * x**2 * y + 2 * y * torch.sin(x) + y**2 * torch.cos(x)


# 2 ------------------------------------------------------------------------------------------------------------------


def box_outflow(field, centre, h):
    """The net outflow per area of a small square box of the plane, from the middle of
    each edge.

    The box has side h and the given centre (x, y), so its edges lie half a side away.
    With the field v = (P, Q) taken at the middle of each edge, the outflow through it
    is v·n times h, and

        outflow / area = (P(right) − P(left) + Q(top) − Q(bottom)) / h

    field: maps ONE point, shape (2,), to v there, shape (2,).  centre: shape (2,).  h:
    a number. Returns a tensor of shape () and of centre's dtype.
    """
    right, top = h / 2 * torch.eye(2, dtype=centre.dtype)
    across = field(centre + right)[0] - field(centre - right)[0]
    upward = field(centre + top)[1] - field(centre - top)[1]
    return (across + upward) / h


exercise = Exercise(
    box_outflow,
    hints=[
        "Sketch the box and mark the middle of each edge. Which component of v crosses the right edge, which the top?",
        "The middle of the right edge is centre + [h/2, 0], that of the top edge centre + [0, h/2]; left and bottom "
        "lie opposite. The step to the right is torch.tensor([h / 2, 0], dtype=centre.dtype).",
        "What flows out sideways is field(right)[0] − field(left)[0], and upward field(top)[1] − field(bottom)[1]. Add "
        "both and divide by h.",
    ],
)


def _cubic(generator):
    """A cubic field of the plane with one-decimal coefficients, its formula, and the outflow of a box by hand."""
    a, b, c, e = inputs.tenth(-3, 3, 4, generator=generator).tolist()

    def field(p):
        x, y = p
        return torch.stack([a * x**3 + b * x * y**2, c * y**3 + e * x**2 * y])

    def outflow(x, y, h):  # ((x + h/2)³ − (x − h/2)³)/h = 3x² + h²/4, and a linear term leaves its factor
        return a * (3 * x**2 + h**2 / 4) + b * y**2 + c * (3 * y**2 + h**2 / 4) + e * x**2

    return inputs.one_point(field, 2), f"({a:.1f}x³ + {b:.1f}xy², {c:.1f}y³ + {e:.1f}x²y)", outflow


@exercise.check
def _(attempt, generator):
    for dtype in (torch.float64, torch.float64, torch.float64, torch.float32):
        field, formula, outflow = _cubic(generator)
        centre = inputs.tenth(0.5, 2, 2, generator=generator)
        h = inputs.tenth(0.3, 1.5, generator=generator).item()
        where = f"around ({centre[0]:.1f}, {centre[1]:.1f}) with h = {h:.1f}"
        got, want = attempt(field, centre.to(dtype), h), outflow(*centre, h)
        yield inputs.case(f"box_outflow of v = {formula} {where}", dtype, got, want)


@exercise.alternative
def edge_by_edge(field, centre, h):
    total = centre.new_zeros(())
    for normal in ([1, 0], [-1, 0], [0, 1], [0, -1]):
        n = centre.new_tensor(normal)
        total = total + field(centre + h / 2 * n) @ n * h
    return total / h**2


@exercise.mistake(
    "Your numbers are right up to the sign: you counted what flows in. Outflow is positive where the fluid leaves: "
    "right minus left, top minus bottom."
)
def inflow(field, centre, h):
    return -box_outflow(field, centre, h)


@exercise.mistake(
    "You returned the differences P(right) − P(left) + Q(top) − Q(bottom) themselves. They shrink with the box; per "
    "area, one factor h stays in the denominator."
)
def not_divided(field, centre, h):
    return box_outflow(field, centre, h) * h


@exercise.mistake(
    "You divided by the area h², but left out the length h of the edges that the fluid flows through. h/h² leaves 1/h."
)
def edge_length_forgotten(field, centre, h):
    return box_outflow(field, centre, h) / h


@exercise.mistake("This is the whole outflow of the box. Divide it by the area h² to get the outflow per area.")
def whole_outflow(field, centre, h):
    return box_outflow(field, centre, h) * h**2


@exercise.mistake(
    "You stepped a whole side h from the centre and still divided by h. The edges of a box of side h lie h/2 from its "
    "centre."
)
def whole_step(field, centre, h):
    return 2 * box_outflow(field, centre, 2 * h)


@exercise.mistake("Your box reaches h to each side of the centre, so its side is 2h. The exercise's box has side h.")
def twice_the_side(field, centre, h):
    return box_outflow(field, centre, 2 * h)


@exercise.mistake(
    "You have the right and the top edge only. What comes in through the left and bottom edges has to be subtracted; "
    "it is the difference that counts."
)
def lower_edges_forgotten(field, centre, h):
    right, top = h / 2 * torch.eye(2, dtype=centre.dtype)
    return (field(centre + right)[0] + field(centre + top)[1]) / h


@exercise.mistake(
    "You used `centre` as the lower left corner or as an edge: your box reaches from the point to the point + h. "
    "Centre the box: go h/2 to each side."
)
def one_sided(field, centre, h):
    right, top = h * torch.eye(2, dtype=centre.dtype)
    return (field(centre + right)[0] + field(centre + top)[1] - field(centre).sum()) / h


@exercise.mistake(
    "You took Q at the right and left edges and P at the top and bottom. That flow runs along the edges; only the "
    "component along the normal crosses them: P on the right and left, Q at the top and bottom."
)
def along_the_edges(field, centre, h):
    right, top = h / 2 * torch.eye(2, dtype=centre.dtype)
    across = field(centre + right)[1] - field(centre - right)[1]
    return (across + field(centre + top)[0] - field(centre - top)[0]) / h


@exercise.mistake(
    "That is the divergence at the centre, the limit h → 0. Here the box keeps its size: take the field at the middle "
    "of its four edges."
)
def limit_already(field, centre, h):
    return divergence(field, centre)


@exercise.mistake(
    "You subtracted the flow through top and bottom from the flow through right and left. Both are outflow: add them."
)
def upward_subtracted(field, centre, h):
    right, top = h / 2 * torch.eye(2, dtype=centre.dtype)
    across = field(centre + right)[0] - field(centre - right)[0]
    return (across - field(centre + top)[1] + field(centre - top)[1]) / h


# 3 ------------------------------------------------------------------------------------------------------------------


def v_dot_grad(field, f, x):
    """The operator v·∇ applied to a scalar function: how fast f changes for one who
    drifts with v.

        (v·∇) f = Σᵢ vᵢ ∂f/∂xᵢ

    field: maps ONE point, shape (d,), to v there, shape (d,).  f: maps ONE point to a
    scalar, shape ().  x: points, shape (*batch, d), in any number of dimensions and
    with any batch axes.  Returns shape (*batch).

    One way: x.reshape(-1, d) puts the points below each other, torch.vmap(g) carries a
    function g of one point over them, and .reshape(x.shape[:-1]) brings the batch axes
    back.
    """
    points = x.reshape(-1, x.shape[-1])
    drift = torch.vmap(lambda p: field(p) @ torch.func.grad(f)(p))(points)
    return drift.reshape(x.shape[:-1])


exercise = Exercise(
    v_dot_grad,
    hints=[
        "The operator v·∇ differentiates f, and only f. The field says how much of each ∂f/∂xᵢ to take.",
        "Solve it at one point first: torch.func.grad(f)(p) is the gradient of f at p. What do you do with field(p)?",
        "At one point p it is field(p) @ torch.func.grad(f)(p). Write that as a function g of p; then "
        "torch.vmap(g)(x.reshape(-1, x.shape[-1])).reshape(x.shape[:-1]) takes care of the batch.",
    ],
)


@exercise.check
def _(attempt, generator):
    for d, batch, dtype in inputs.SHAPES:
        (field, _), (f, gradient, _) = inputs.wave(d, generator), inputs.bump(d, generator)
        x = inputs.normal(*batch, d, generator=generator).to(dtype)
        want = (inputs.at_points(field, x.double()) * gradient(x.double())).sum(-1)
        yield inputs.case(f"v_dot_grad(field, f, x) for x of shape {tuple(x.shape)}", dtype, attempt(field, f, x), want)


@exercise.alternative
def drift_by_forward_mode(field, f, x):
    return inputs.at_points(lambda p: torch.func.jvp(f, (p,), (field(p),))[1], x)


@exercise.alternative
def drift_by_autograd(field, f, x):
    points = x.detach().reshape(-1, x.shape[-1]).requires_grad_()
    (gradient,) = torch.autograd.grad(torch.vmap(f)(points).sum(), points)
    return (torch.vmap(field)(points) * gradient).sum(-1).reshape(x.shape[:-1]).detach()


@exercise.mistake(
    "You computed f ∇·v: the field was differentiated and f only multiplied. In (v·∇)f the ∇ stands to the right of "
    "v and acts on f. The order matters: see the section “∇· is an operator”."
)
def divergence_times_f(field, f, x):
    return inputs.at_points(f, x) * divergence(field, x)


@exercise.mistake(
    "You computed ∇·(f v), the divergence of the product. By the product rule that is f ∇·v + v·∇f; here only the "
    "second part is asked for."
)
def divergence_of_product(field, f, x):
    return divergence(lambda p: f(p) * field(p), x)


@exercise.mistake(
    "You summed the derivatives ∂f/∂xᵢ without their weights. Multiply each by the component vᵢ before summing."
)
def gradient_summed(field, f, x):
    return inputs.at_points(torch.func.grad(f), x).sum(-1)


@exercise.mistake(
    "You divided v by its length. That gives the slope of f per unit of length; (v·∇)f is per unit of time, and a "
    "faster flow changes f faster: leave v as it is."
)
def unit_speed(field, f, x):
    v = inputs.at_points(field, x)
    return v_dot_grad(field, f, x) / v.norm(dim=-1)


@exercise.mistake("The products vᵢ ∂f/∂xᵢ are right. Now sum them over the coordinates, the last axis.")
def products_not_summed(field, f, x):
    return inputs.at_points(field, x) * inputs.at_points(torch.func.grad(f), x)


@exercise.mistake(
    "You took the mean of the products vᵢ ∂f/∂xᵢ. A dot product is their sum: your answer is too small by the factor d."
)
def products_averaged(field, f, x):
    return v_dot_grad(field, f, x) / x.shape[-1]


@exercise.mistake("You computed v f, the field times the function: nothing has been differentiated yet.")
def nothing_differentiated(field, f, x):
    return inputs.at_points(lambda p: f(p) * field(p), x)


@exercise.mistake(
    "You multiplied the gradient of f by the Jacobian of the field. The field itself is what f drifts with, so it "
    "enters undifferentiated: field(p) @ gradient."
)
def jacobian_times_gradient(field, f, x):
    return inputs.at_points(lambda p: (torch.func.jacrev(field)(p) @ torch.func.grad(f)(p)).sum(), x)


# 4 ------------------------------------------------------------------------------------------------------------------


def polar_divergence(v_r, v_theta, r, theta):
    """The divergence of a field of the plane whose components are given along e_r and
    e_θ.

        ∇·v = (1/r) ∂(r v_r)/∂r + (1/r) ∂v_θ/∂θ

    v_r, v_theta: functions of (r, theta) that work elementwise on tensors.  r, theta:
    tensors of one and the same shape (one axis or more), r > 0.  Returns a tensor of
    that shape.  Let autograd differentiate; each entry of the result depends on its own
    r and theta only.
    """
    by_r = torch.func.grad(lambda s: (s * v_r(s, theta)).sum())(r)
    by_theta = torch.func.grad(lambda a: v_theta(r, a).sum())(theta)
    return (by_r + by_theta) / r


exercise = Exercise(
    polar_divergence,
    hints=[
        "Why is the plain sum ∂v_r/∂r + ∂v_θ/∂θ not enough? A ring grows with r, and an angle is not a length.",
        "The functions work elementwise, so the gradient of v_r(r, theta).sum() by r holds every entry's own "
        "derivative. torch.func.grad takes it.",
        "Differentiate the product: torch.func.grad(lambda s: (s * v_r(s, theta)).sum())(r). Do the same for v_theta "
        "by theta, without a factor; add both and divide by r.",
    ],
)


def _polar_clothes(generator):
    """The polar components of a random Cartesian field (P, Q), and its divergence ∂P/∂x + ∂Q/∂y by hand."""
    a, b, c, e = inputs.normal(4, generator=generator).tolist()

    def cartesian(r, theta):
        x, y = r * torch.cos(theta), r * torch.sin(theta)
        return a * x**2 + b * x * y + torch.sin(y), c * y**2 + e * x * y + torch.cos(x)

    def v_r(r, theta):
        P, Q = cartesian(r, theta)
        return torch.cos(theta) * P + torch.sin(theta) * Q

    def v_theta(r, theta):
        P, Q = cartesian(r, theta)
        return -torch.sin(theta) * P + torch.cos(theta) * Q

    def want(r, theta):
        x, y = r * torch.cos(theta), r * torch.sin(theta)
        return 2 * a * x + b * y + 2 * c * y + e * x

    return v_r, v_theta, want


@exercise.check
def _(attempt, generator):
    k, m = inputs.tenth(1, 3, 2, generator=generator).tolist()
    r, theta = inputs.uniform(0.5, 2.5, 5, generator=generator), inputs.uniform(-3, 3, 5, generator=generator)
    got = attempt(lambda r, theta: k * r**2, lambda r, theta: m * r * torch.sin(theta), r, theta)
    yield Case(f"polar_divergence for v_r = {k:.1f}r², v_θ = {m:.1f}r sin θ", got, 3 * k * r + m * torch.cos(theta))
    for shape, dtype in ((5,), torch.float64), ((2, 3), torch.float64), ((4,), torch.float32):
        r = inputs.uniform(0.5, 2.5, *shape, generator=generator).to(dtype)
        theta = inputs.uniform(-3, 3, *shape, generator=generator).to(dtype)
        v_r, v_theta, want = _polar_clothes(generator)
        what = f"polar_divergence of a Cartesian field, rewritten in polar components, for r of shape {shape}"
        yield inputs.case(what, dtype, attempt(v_r, v_theta, r, theta), want(r.double(), theta.double()))


@exercise.alternative
def product_rule_done(v_r, v_theta, r, theta):
    r, theta = r.detach().requires_grad_(), theta.detach().requires_grad_()
    radial = v_r(r, theta)
    (by_r,) = torch.autograd.grad(radial.sum(), r, retain_graph=True)
    (by_theta,) = torch.autograd.grad(v_theta(r, theta).sum(), theta)
    return (by_r + radial / r + by_theta / r).detach()


@exercise.alternative
def polar_by_forward_mode(v_r, v_theta, r, theta):
    by_r = torch.func.jvp(lambda s: s * v_r(s, theta), (r,), (torch.ones_like(r),))[1]
    by_theta = torch.func.jvp(lambda a: v_theta(r, a), (theta,), (torch.ones_like(theta),))[1]
    return by_r / r + by_theta / r


def _slope(fn, t):
    return torch.func.grad(lambda s: fn(s).sum())(t)


@exercise.mistake(
    "You added the plain derivatives ∂v_r/∂r + ∂v_θ/∂θ. That sum is right in Cartesian coordinates only; here the "
    "basis turns and rings grow: see the section “Curved coordinates”."
)
def naive_sum(v_r, v_theta, r, theta):
    return _slope(lambda s: v_r(s, theta), r) + _slope(lambda a: v_theta(r, a), theta)


@exercise.mistake(
    "The radial term is right. In the other one the factor 1/r is missing: turning by dθ moves you by r dθ, so the "
    "derivative per length is (1/r) ∂v_θ/∂θ."
)
def angle_as_length(v_r, v_theta, r, theta):
    return _slope(lambda s: s * v_r(s, theta), r) / r + _slope(lambda a: v_theta(r, a), theta)


@exercise.mistake(
    "Your radial term is (1/r) ∂v_r/∂r: the factor r inside the derivative is missing. It stands for the ring's "
    "length and has to be differentiated along: (1/r) ∂(r v_r)/∂r."
)
def factor_not_inside(v_r, v_theta, r, theta):
    return (_slope(lambda s: v_r(s, theta), r) + _slope(lambda a: v_theta(r, a), theta)) / r


@exercise.mistake(
    "You pulled r out of the derivative and lost v_r/r on the way: by the product rule (1/r) ∂(r v_r)/∂r is "
    "∂v_r/∂r + v_r/r. Even a constant radial flow spreads."
)
def spreading_forgotten(v_r, v_theta, r, theta):
    return _slope(lambda s: v_r(s, theta), r) + _slope(lambda a: v_theta(r, a), theta) / r


@exercise.mistake("Your radial term is ∂(r v_r)/∂r. It still has to be divided by r.")
def radial_not_divided(v_r, v_theta, r, theta):
    return _slope(lambda s: s * v_r(s, theta), r) + _slope(lambda a: v_theta(r, a), theta) / r


@exercise.mistake(
    "Your radial term is (1/r²) ∂(r² v_r)/∂r, that of a sphere, whose surface grows with r². A circle grows with r."
)
def spherical_formula(v_r, v_theta, r, theta):
    return _slope(lambda s: s**2 * v_r(s, theta), r) / r**2 + _slope(lambda a: v_theta(r, a), theta) / r


@exercise.mistake(
    "Each backward pass leaves gradients in r.grad and in theta.grad, and the second adds to both: your answer holds "
    "∂v_θ/∂r and ∂(r v_r)/∂θ as well. Take each derivative by itself, with torch.func.grad or torch.autograd.grad."
)
def gradients_of_both(v_r, v_theta, r, theta):
    def both(r, theta):
        return (r * v_r(r, theta) + v_theta(r, theta)).sum()

    return sum(torch.func.grad(both, argnums=(0, 1))(r, theta)) / r


@exercise.mistake("The radial term is right. The second, (1/r) ∂v_θ/∂θ, is missing.")
def radial_only(v_r, v_theta, r, theta):
    return _slope(lambda s: s * v_r(s, theta), r) / r


@exercise.mistake(
    "Your second term is r ∂v_θ/∂θ. A turn by dθ moves you by r dθ, so a derivative per length divides by r."
)
def multiplied_by_r(v_r, v_theta, r, theta):
    return _slope(lambda s: s * v_r(s, theta), r) / r + _slope(lambda a: v_theta(r, a), theta) * r


# 5 ------------------------------------------------------------------------------------------------------------------


def trace_divergence(field, x):
    """The divergence in any number of dimensions: the trace of the Jacobian.

        ∇·v = Σᵢ ∂vᵢ/∂xᵢ = tr J,   J_ij = ∂vᵢ/∂x_j

    Write it yourself, from what torch.func or torch.autograd gives: d reverse passes, d
    forward passes or a whole Jacobian, as you like.  (The check cannot tell whether you
    called the companion's divergence.  You can.)

    field: maps ONE point, shape (d,), to v there, shape (d,).  x: shape (*batch, d).
    Returns shape (*batch), and can be differentiated again: a loss on a divergence has
    to reach x.
    """

    def at(p):
        _, vjp = torch.func.vjp(field, p)
        basis = torch.eye(len(p), dtype=p.dtype, device=p.device)
        return sum(vjp(e)[0][i] for i, e in enumerate(basis))

    points = x.reshape(-1, x.shape[-1])
    return torch.vmap(at)(points).reshape(x.shape[:-1])


exercise = Exercise(
    trace_divergence,
    hints=[
        "Forget the batch: solve it for ONE point p of shape (d,), then carry it over all points with torch.vmap, as "
        "in v_dot_grad.",
        "The Jacobian at p, shape (d, d), is torch.func.jacrev(field)(p). Which of its entries enter the divergence?",
        "At one point: torch.func.jacrev(field)(p).diagonal().sum(). With torch.autograd.grad instead, "
        "create_graph=True keeps the result differentiable.",
    ],
)


@exercise.check
def _(attempt, generator):
    for d, batch, dtype in inputs.SHAPES:
        field, jacobian = inputs.wave(d, generator)
        x = inputs.normal(*batch, d, generator=generator).to(dtype)
        yield inputs.case(
            f"trace_divergence(field, x) for x of shape {tuple(x.shape)}",
            dtype,
            attempt(field, x),
            inputs.trace(jacobian(x)),
        )
    C = inputs.normal(3, 3, generator=generator)
    x = inputs.normal(4, 3, generator=generator).requires_grad_()
    answer = attempt(inputs.one_point(lambda p: torch.sin(C @ p), 3), x)
    # ∇·v = Σᵢ C_ii cos(Cx)ᵢ, so its gradient is −Σᵢ C_ii sin(Cx)ᵢ C_i·
    want = -((torch.sin(x.detach() @ C.T) * C.diagonal()) @ C)
    what = "the gradient by x of trace_divergence(field, x).sum()"
    yield Case(what, inputs.gradient(answer, x), want, alike=math.inf)


@exercise.alternative
def trace_of_jacrev(field, x):
    return torch.einsum("...ii->...", inputs.at_points(torch.func.jacrev(field), x))


@exercise.alternative
def forward_passes(field, x):
    basis = torch.eye(x.shape[-1], dtype=x.dtype)
    return inputs.at_points(lambda p: sum(torch.func.jvp(field, (p,), (e,))[1] @ e for e in basis), x)


@exercise.alternative
def classical_autograd(field, x):
    points = (x if x.requires_grad else x.detach().requires_grad_()).reshape(-1, x.shape[-1])
    columns = torch.vmap(field)(points).unbind(-1)
    rows = [torch.autograd.grad(v.sum(), points, create_graph=True)[0] for v in columns]
    return sum(row[:, i] for i, row in enumerate(rows)).reshape(x.shape[:-1])


@exercise.mistake(
    "One backward pass with ones adds up ALL entries of the Jacobian, ∂vᵢ/∂x_j for every i and j. The divergence needs "
    "the diagonal only, one pass for each i: see “Calling backward on the sum” where things go wrong."
)
def backward_with_ones(field, x):
    return inputs.at_points(torch.func.jacrev(field), x).sum((-2, -1))


@exercise.mistake(
    "You have the right diagonal, ∂vᵢ/∂xᵢ for each i. The divergence is one number at each point: sum over the last "
    "axis."
)
def diagonal_not_summed(field, x):
    return inputs.at_points(torch.func.jacrev(field), x).diagonal(dim1=-2, dim2=-1)


@exercise.mistake(
    "The values are right, but the result is cut off from x, so no loss on a divergence can be trained. Look for a "
    ".detach(), a .item() or a torch.autograd.grad without create_graph=True; or use torch.func."
)
def cut_off(field, x):
    return trace_divergence(field, x).detach()


@exercise.mistake(
    "You averaged the diagonal. The trace is its sum: your answer is too small by the factor d. (A .mean() for .sum()?)"
)
def trace_averaged(field, x):
    return trace_divergence(field, x) / x.shape[-1]


@exercise.mistake(
    "One backward pass with ones gives the column sums Σᵢ ∂vᵢ/∂x_j, one for each j. They mix all components; the "
    "divergence needs ∂vᵢ/∂xᵢ, a pass for each component."
)
def column_sums(field, x):
    return inputs.at_points(torch.func.jacrev(field), x).sum(-2)


@exercise.mistake(
    "You computed the determinant of the Jacobian: how a finite map changes volume. Its infinitesimal sister, the "
    "divergence, is the trace."
)
def determinant(field, x):
    return torch.linalg.det(inputs.at_points(torch.func.jacrev(field), x))


@exercise.mistake(
    "You summed over the batch as well. Every point has a divergence of its own: the result has the shape (*batch)."
)
def summed_over_batch(field, x):
    return trace_divergence(field, x).sum()


@exercise.mistake(
    "The gradients pile up: each backward pass adds to x.grad, so component i brings along the derivatives of those "
    "before it. Clear x.grad between the passes, or use torch.autograd.grad, which returns fresh gradients."
)
def gradients_pile_up(field, x):
    return inputs.at_points(torch.func.jacrev(field), x).triu().sum((-2, -1))


# 6 ------------------------------------------------------------------------------------------------------------------


def laplacian_by_gradient(f, x):
    """The Laplacian of a scalar function: the divergence of its gradient.

        Δf = ∇·(∇f) = Σᵢ ∂²f/∂xᵢ²

    f: maps ONE point, shape (d,), to a scalar, shape ().  x: shape (*batch, d).
    Returns shape (*batch).  The gradient of f, torch.func.grad(f), is itself a field:
    it maps one point to a vector.
    """
    gradient = torch.func.grad(f)
    points = x.reshape(-1, x.shape[-1])
    curvatures = torch.vmap(lambda p: torch.func.jacfwd(gradient)(p).diagonal())(points)
    return curvatures.sum(-1).reshape(x.shape[:-1])


exercise = Exercise(
    laplacian_by_gradient,
    hints=[
        "Read the name aloud: the divergence of the gradient. You know how to make each of the two.",
        "The gradient, torch.func.grad(f), is a field. Its Jacobian is the matrix of second derivatives, the Hessian; "
        "the divergence is its trace.",
        "At one point p it is torch.func.jacfwd(torch.func.grad(f))(p).diagonal().sum(); or take trace_divergence of "
        "the gradient.",
    ],
)


@exercise.check
def _(attempt, generator):
    for d, batch, dtype in inputs.SHAPES:
        f, _, laplacian = inputs.bump(d, generator)
        x = inputs.normal(*batch, d, generator=generator).to(dtype)
        yield inputs.case(
            f"laplacian_by_gradient(f, x) for x of shape {tuple(x.shape)}", dtype, attempt(f, x), laplacian(x.double())
        )


@exercise.alternative
def divergence_of_gradient(f, x):
    return divergence(torch.func.grad(f), x)


@exercise.alternative
def straight_lines(f, x):
    """The second derivative along each axis, by two forward passes."""

    def second(p, e):
        def along(q):
            return torch.func.jvp(f, (q,), (e,))[1]

        return torch.func.jvp(along, (p,), (e,))[1]

    basis = torch.eye(x.shape[-1], dtype=x.dtype)
    return inputs.at_points(lambda p: sum(second(p, e) for e in basis), x)


@exercise.mistake(
    "You added up all entries of the Hessian, the mixed derivatives ∂²f/∂xᵢ∂x_j among them. That is what "
    "differentiating the summed gradient gives; the Laplacian takes the diagonal, ∂²f/∂xᵢ², only."
)
def whole_hessian(f, x):
    return inputs.at_points(torch.func.hessian(f), x).sum((-2, -1))


@exercise.mistake(
    "You computed |∇f|², the gradient dotted with itself: first derivatives squared. ∇ is an operator: in ∇·(∇f) the "
    "left one differentiates what the right one made."
)
def gradient_squared(f, x):
    return inputs.at_points(torch.func.grad(f), x).square().sum(-1)


@exercise.mistake(
    "You averaged the second derivatives over the coordinates. The Laplacian is their sum: your answer is too small by "
    "the factor d."
)
def curvature_averaged(f, x):
    return laplacian_by_gradient(f, x) / x.shape[-1]


@exercise.mistake("You have ∂²f/∂x₁² alone. Every coordinate contributes its own second derivative: sum over all d.")
def first_coordinate_only(f, x):
    return inputs.at_points(torch.func.hessian(f), x)[..., 0, 0]


@exercise.mistake(
    "You summed the first derivatives ∂f/∂xᵢ. Each has to be differentiated once more, by the same coordinate."
)
def differentiated_once(f, x):
    return inputs.at_points(torch.func.grad(f), x).sum(-1)


@exercise.mistake("The second derivatives are right. Sum them over the last axis: the Laplacian is one number a point.")
def curvatures_not_summed(f, x):
    return inputs.at_points(torch.func.hessian(f), x).diagonal(dim1=-2, dim2=-1)


@exercise.mistake(
    "Only the sign differs. Some books give this name to −∇²; here it is +Σᵢ ∂²f/∂xᵢ², positive at the bottom of a "
    "valley."
)
def negative_laplacian(f, x):
    return -laplacian_by_gradient(f, x)


# 7 ------------------------------------------------------------------------------------------------------------------


def rademacher_estimate(field, x, probes, generator):
    """An estimate of the divergence from random signs, Hutchinson's trick.

        tr J ≈ (1/k) Σₘ εₘᵀ J εₘ,   each entry of each εₘ is +1 or −1 with probability ½

    One probe εₘ costs one reverse pass, whatever d is.  torch.randint(2, shape,
    generator=generator) draws zeros and ones.

    field: maps ONE point, shape (d,), to v there, shape (d,).  x: shape (*batch, d);
    every point gets probes of its own.  probes: their number k.  generator: a
    torch.Generator; all random numbers come from it.  Returns shape (*batch) and x's
    dtype.
    """
    points = x.reshape(-1, x.shape[-1])
    _, vjp = torch.func.vjp(torch.vmap(field), points)
    total = 0
    for _ in range(probes):
        signs = torch.randint(2, points.shape, generator=generator).to(x.dtype) * 2 - 1
        total = total + (vjp(signs)[0] * signs).sum(-1)
    return (total / probes).reshape(x.shape[:-1])


exercise = Exercise(
    rademacher_estimate,
    hints=[
        "Flatten the batch to points of shape (n, d) and draw the signs for all of them at once, outside torch.vmap. "
        "How do zeros and ones become −1 and +1?",
        "Let _, vjp = torch.func.vjp(torch.vmap(field), points). Then vjp(signs)[0] holds εᵀJ for each of the points.",
        "One probe's estimate is (vjp(signs)[0] * signs).sum(-1). Add up `probes` of them, each with fresh signs, and "
        "divide by their number.",
    ],
)

COPIES, PROBES = 4000, 4  # how many estimates at one and the same point are measured, of how many probes each


def _statistics(name, estimate, generator, trace, var):
    """The mean and the variance of many estimates at one point, and whether the generator decides them."""
    seed = inputs.seed(generator)
    given = torch.Generator().manual_seed(seed)
    estimates, more, again = estimate(given), estimate(given), estimate(torch.Generator().manual_seed(seed))
    what = f"{name}, {COPIES} estimates of {PROBES} probes each at one point"
    spread, size = math.sqrt(var / PROBES), max(1.0, abs(trace.item()))
    # five standard errors; an estimate that averages 4 quadratic forms of signs has a kurtosis of at most about 6
    mean_tol, var_tol = 5 * spread / math.sqrt(COPIES) / size, 5 * math.sqrt((6 - 1) / COPIES)
    yield Case(f"the mean of {what},", estimates.mean(), trace, mean_tol, alike=3 * spread / size)
    yield Case(f"the variance of {what},", estimates.var(correction=0), var / PROBES, var_tol, alike=0.3)
    changed, stale = (again != estimates).double().mean(), (more == estimates).double().mean()
    what = "the share of estimates that change when the call is repeated with the generator in the same state"
    yield Case(what, changed, torch.zeros_like(changed), alike=0.1)
    what = "the share of estimates that do not change when the call is repeated with the generator gone on"
    yield Case(what, stale, torch.zeros_like(stale), 0.5, alike=0.2)  # few signs, some coincidences


@exercise.check
def _(attempt, generator):
    for d, batch, dtype in inputs.SHAPES:  # signs estimate a diagonal Jacobian without error, for ε² = 1
        c, x = inputs.uniform(1, 2, d, generator=generator), inputs.normal(*batch, d, generator=generator).to(dtype)
        got = attempt(
            inputs.one_point(lambda p, c=c: torch.sin(c.to(p.dtype) * p), d),
            x,
            3,
            torch.Generator().manual_seed(inputs.seed(generator)),
        )
        want = (c * torch.cos(c * x.double())).sum(-1)
        what = f"rademacher_estimate of v = (sin c₁x₁, sin c₂x₂, …) for x of shape {tuple(x.shape)}"
        yield inputs.case(what, dtype, got, want)._replace(alike=math.inf)
    M = inputs.uniform(0.5, 1.5, 4, 4, generator=generator) + 4 * torch.eye(4, dtype=torch.float64)
    x = inputs.normal(4, generator=generator)
    field, J = inputs.one_point(lambda p: M @ p + torch.sin(p), 4), M + torch.cos(x).diag()
    yield from _statistics(
        "rademacher_estimate",
        lambda generator: attempt(field, x.repeat(COPIES, 1), PROBES, generator),
        generator,
        inputs.trace(J),
        _sign_variance(J),
    )


def _sign_variance(J):
    """2 Σ_{i≠j} S_ij² with S = ½(J + Jᵀ), the variance of εᵀJε for random signs ε."""
    S = (J + J.T) / 2
    return 2 * (S.square().sum() - S.diagonal().square().sum())


def _quadratic(field, x, probe):
    """εᵀJε at every point, for a probe of the shape of x."""
    return (torch.func.vjp(lambda x: inputs.at_points(field, x), x)[1](probe)[0] * probe).sum(-1)


@exercise.alternative
def signs_by_forward_mode(field, x, probes, generator):
    signs = torch.rand((probes, *x.shape), generator=generator, dtype=x.dtype).sub(0.5).sign()
    forward = [torch.func.jvp(lambda x: inputs.at_points(field, x), (x,), (e,))[1] for e in signs]
    return (torch.stack(forward) * signs).sum(-1).mean(0)


@exercise.alternative
def signs_and_jacobian(field, x, probes, generator):
    J = inputs.at_points(torch.func.jacrev(field), x)
    signs = inputs.signs((*x.shape, probes), generator, x.dtype)
    return torch.einsum("...ik,...ij,...jk->...k", signs, J, signs).mean(-1)


@exercise.mistake(
    "Your probes are drawn from [0, 1): their mean is not zero, so the off-diagonal entries of J do not cancel. Draw "
    "signs, +1 or −1."
)
def probes_from_zero_to_one(field, x, probes, generator):
    draws = [torch.rand(x.shape, generator=generator, dtype=x.dtype) for _ in range(probes)]
    return sum(_quadratic(field, x, e) for e in draws) / probes


@exercise.mistake(
    "Your probes are uniform on [−1, 1]: their variance is 1/3, and so your estimate is a third of the trace. The "
    "derivation needs E[εεᵀ] = I: draw signs."
)
def probes_from_minus_one_to_one(field, x, probes, generator):
    draws = [torch.rand(x.shape, generator=generator, dtype=x.dtype) * 2 - 1 for _ in range(probes)]
    return sum(_quadratic(field, x, e) for e in draws) / probes


@exercise.mistake(
    "Your probes are normal. The estimate is right on average but noisier than with signs: its variance is 2 Σ S_ij² "
    "over all i, j, where signs spare you the diagonal, since ε² is always 1."
)
def normal_probes(field, x, probes, generator):
    draws = [torch.randn(x.shape, generator=generator, dtype=x.dtype) for _ in range(probes)]
    return sum(_quadratic(field, x, e) for e in draws) / probes


@exercise.mistake(
    "Your probes are the zeros and ones of torch.randint as they come. Turn them into signs: 2 · draw − 1 is −1 or +1."
)
def zeros_and_ones(field, x, probes, generator):
    draws = [(inputs.signs(x.shape, generator, x.dtype) + 1) / 2 for _ in range(probes)]
    return sum(_quadratic(field, x, e) for e in draws) / probes


@exercise.mistake(
    "A third of your probes' entries are zero: torch.randint(-1, 2, …) draws −1, 0 and 1. Draw zeros and ones, and "
    "turn them into signs by 2 · draw − 1."
)
def zeros_among_the_signs(field, x, probes, generator):
    draws = [torch.randint(-1, 2, x.shape, generator=generator).to(x.dtype) for _ in range(probes)]
    return sum(_quadratic(field, x, e) for e in draws) / probes


@exercise.mistake("You added up the probes' estimates. Each of them estimates the trace already: take their mean.")
def probes_summed(field, x, probes, generator):
    return rademacher_estimate(field, x, probes, generator) * probes


@exercise.mistake(
    "All points of the batch share one probe, so their errors are the same and do not average out over the batch. Draw "
    "the signs in the shape of x."
)
def one_probe_for_all(field, x, probes, generator):
    draws = [inputs.signs(x.shape[-1:], generator, x.dtype).expand(x.shape) for _ in range(probes)]
    return sum(_quadratic(field, x, e) for e in draws) / probes


@exercise.mistake(
    "All coordinates of a point share one sign, so εᵀJε adds up all entries of J, every time. The entries of ε have to "
    "be independent: draw the signs in the shape of x."
)
def one_sign_a_point(field, x, probes, generator):
    draws = [inputs.signs((*x.shape[:-1], 1), generator, x.dtype).expand(x.shape) for _ in range(probes)]
    return sum(_quadratic(field, x, e) for e in draws) / probes


@exercise.mistake(
    "The variance does not fall with the number of probes. Draw fresh signs for each of the `probes` passes, and "
    "average."
)
def single_probe(field, x, probes, generator):
    return rademacher_estimate(field, x, 1, generator)


@exercise.mistake(
    "You have the products εᵢ (εᵀJ)ᵢ, coordinate by coordinate. Sum them over the last axis: εᵀJε is one number a "
    "point."
)
def products_kept_apart(field, x, probes, generator):
    _, vjp = torch.func.vjp(lambda x: inputs.at_points(field, x), x)
    draws = [inputs.signs(x.shape, generator, x.dtype) for _ in range(probes)]
    return sum(vjp(e)[0] * e for e in draws) / probes


@exercise.mistake(
    "You averaged εᵢ (εᵀJ)ᵢ over the coordinates. The mean belongs to the probes; over the coordinates it is a sum."
)
def coordinates_averaged(field, x, probes, generator):
    return rademacher_estimate(field, x, probes, generator) / x.shape[-1]


@exercise.mistake(
    "The probe has to stand on both sides, εᵀJε, and it has to be the same one. With two independent probes, or with "
    "one side missing, even the diagonal averages out to zero."
)
def two_different_probes(field, x, probes, generator):
    _, vjp = torch.func.vjp(lambda x: inputs.at_points(field, x), x)
    draws = [inputs.signs((2, *x.shape), generator, x.dtype) for _ in range(probes)]
    return sum((vjp(e)[0] * other).sum(-1) for e, other in draws) / probes


@exercise.mistake(
    "The estimate is right, but its random numbers do not come from `generator`, so nobody can repeat it. Pass "
    "generator=generator where you draw."
)
def generator_ignored(field, x, probes, generator):
    return rademacher_estimate(field, x, probes, None)


@exercise.mistake(
    "Your probes are the same at every call, as if the generator were seeded inside. Leave its state alone: whoever "
    "calls decides where it starts."
)
def generator_reset(field, x, probes, generator):
    return rademacher_estimate(field, x, probes, generator.manual_seed(0))


@exercise.mistake(
    "That is the exact divergence, at the price of d passes, and no estimate. Here each probe may cost one pass only: "
    "draw signs ε and take εᵀJε."
)
def exact_instead(field, x, probes, generator):
    return divergence(field, x)


# 8 ------------------------------------------------------------------------------------------------------------------


def with_control_variate(field, A, x, probes, generator):
    """A quieter estimate of the divergence, where v(x) = A x + g(x) and the matrix A is
    known.

        tr J ≈ tr A + (1/k) Σₘ εₘᵀ (J − A) εₘ,   entries of εₖ random signs

    Only J − A, the part that is not known, is left to chance.  εᵀAε is called a control
    variate: a random number whose mean, tr A, is known exactly.

    field: maps ONE point, shape (d,), to v there, A x included.  A: shape (d, d).  x:
    shape (*batch, d); every point gets probes of its own.  probes: their number k.
    generator: a torch.Generator; all random numbers come from it.  Returns shape
    (*batch) and x's dtype.
    """
    points = x.reshape(-1, x.shape[-1])
    _, vjp = torch.func.vjp(torch.vmap(field), points)
    total = 0
    for _ in range(probes):
        signs = torch.randint(2, points.shape, generator=generator).to(x.dtype) * 2 - 1
        total = total + ((vjp(signs)[0] - signs @ A) * signs).sum(-1)
    return (A.trace() + total / probes).reshape(x.shape[:-1])


exercise = Exercise(
    with_control_variate,
    hints=[
        "Start from rademacher_estimate. Two things change: εᵀAε is subtracted for each probe, and its mean is added "
        "back at the end.",
        "(J − A) acts on the same signs as before: vjp(signs)[0] is εᵀJ, and signs @ A is εᵀA, for a whole batch at "
        "once.",
        "One probe gives ((vjp(signs)[0] - signs @ A) * signs).sum(-1). Average over the probes, then add A.trace().",
    ],
)


@exercise.check
def _(attempt, generator):
    for d, batch, dtype in inputs.SHAPES:  # here J − A is diagonal, and signs make no error
        c, A = inputs.uniform(1, 2, d, generator=generator), inputs.normal(d, d, generator=generator)
        x = inputs.normal(*batch, d, generator=generator).to(dtype)
        field = inputs.one_point(lambda p, A=A, c=c: A.to(p.dtype) @ p + torch.sin(c.to(p.dtype) * p), d)
        want = A.trace() + (c * torch.cos(c * x.double())).sum(-1)
        got = attempt(field, A.to(dtype), x, 3, torch.Generator().manual_seed(inputs.seed(generator)))
        what = f"with_control_variate of v = A x + (sin c₁x₁, sin c₂x₂, …) for x of shape {tuple(x.shape)}"
        yield inputs.case(what, dtype, got, want)._replace(alike=math.inf)
    A, G = inputs.uniform(2, 4, 4, 4, generator=generator), inputs.uniform(0.5, 1.5, 4, 4, generator=generator)
    x = inputs.uniform(-0.5, 0.5, 4, generator=generator)
    rest = G * torch.cos(x)
    yield from _statistics(
        "with_control_variate",
        lambda generator: attempt(
            inputs.one_point(lambda p: A @ p + G @ torch.sin(p), 4), A, x.repeat(COPIES, 1), PROBES, generator
        ),
        generator,
        inputs.trace(A + rest),
        _sign_variance(rest),
    )


@exercise.alternative
def field_without_its_linear_part(field, A, x, probes, generator):
    return A.trace() + rademacher_estimate(lambda p: field(p) - A @ p, x, probes, generator)


@exercise.alternative
def transposed_in_forward_mode(field, A, x, probes, generator):
    """εᵀAε = εᵀAᵀε: it does not matter from which side A is multiplied."""
    signs = [inputs.signs(x.shape, generator, x.dtype) for _ in range(probes)]
    terms = [
        ((torch.func.jvp(lambda x: inputs.at_points(field, x), (x,), (e,))[1] - e @ A.T) * e).sum(-1) for e in signs
    ]
    return A.diagonal().sum() + sum(terms) / probes


@exercise.mistake(
    "You estimate the trace of J − A, and the known part is missing: add its exact trace, tr A, at the end."
)
def trace_not_added_back(field, A, x, probes, generator):
    return with_control_variate(field, A, x, probes, generator) - A.trace()


@exercise.mistake(
    "You added tr A but left εᵀAε inside the estimate: the linear part is counted twice. Subtract εᵀAε for each probe."
)
def linear_part_twice(field, A, x, probes, generator):
    return A.trace() + rademacher_estimate(field, x, probes, generator)


@exercise.mistake(
    "That is the plain estimate, right on average and as noisy as before: A is not used. Subtract εᵀAε, add tr A."
)
def no_control(field, A, x, probes, generator):
    return rademacher_estimate(field, x, probes, generator)


@exercise.mistake(
    "Right on average, but noisier than without A: εᵀJε and εᵀAε were drawn with different probes, so their errors do "
    "not cancel. Use the same ε in both."
)
def fresh_probes_for_the_control(field, A, x, probes, generator):
    control = rademacher_estimate(lambda p: A @ p, x, probes, generator)
    return A.trace() + rademacher_estimate(field, x, probes, generator) - control


@exercise.mistake(
    "The signs are flipped: you add εᵀAε and subtract tr A. The mean is right all the same, but the noise has grown "
    "instead of shrunk."
)
def signs_flipped(field, A, x, probes, generator):
    return rademacher_estimate(lambda p: field(p) + A @ p, x, probes, generator) - A.trace()


@exercise.mistake(
    "Your probes are normal, so the diagonal of J − A makes noise as well. With random signs ε² = 1, and it does not."
)
def control_with_normal_probes(field, A, x, probes, generator):
    draws = [torch.randn(x.shape, generator=generator, dtype=x.dtype) for _ in range(probes)]
    return A.trace() + sum(_quadratic(lambda p: field(p) - A @ p, x, e) for e in draws) / probes


@exercise.mistake("You added up the probes' corrections. Average them, as in the plain estimate; tr A stays as it is.")
def corrections_summed(field, A, x, probes, generator):
    return A.trace() + probes * (with_control_variate(field, A, x, probes, generator) - A.trace())


@exercise.mistake(
    "Here the sum of all entries of A was taken for its trace. The trace is the sum of the diagonal: A.trace()."
)
def all_of_A_added_back(field, A, x, probes, generator):
    return with_control_variate(field, A, x, probes, generator) - A.trace() + A.sum()


@exercise.mistake(
    "That is the exact divergence, at the price of d passes. The exercise wants an estimate that is right on average, "
    "from k probes of J − A."
)
def exact_without_probes(field, A, x, probes, generator):
    return divergence(field, x)


# 9 ------------------------------------------------------------------------------------------------------------------


def log_density_along(field, x0, log_density0, t, steps):
    """The log-density that a drifting particle sees at time t, when it starts at x0.

        dx/dt = v(x),   d log ρ/dt = −∇·v(x)

    Step both at once with the classical fourth-order Runge–Kutta method: `steps` steps
    of size dt = t/steps, where y stands for the pair (x, log ρ) and F(y) for its two
    rates,

        k₁ = F(y),  k₂ = F(y + dt/2 k₁),  k₃ = F(y + dt/2 k₂),  k₄ = F(y + dt k₃)
        y ← y + dt/6 (k₁ + 2k₂ + 2k₃ + k₄)

    field: maps ONE point, shape (d,), to v there, shape (d,).  x0: shape (*batch, d).
    log_density0: log ρ at x0 and time 0, shape (*batch).  t: a number.  steps: a whole
    number. Returns log ρ at the particle's place at time t, shape (*batch).  You may
    use divergence(field, x) of the chapter; torch.vmap(field) takes many points, shape
    (n, d), at once.
    """

    def velocity(x):
        return torch.vmap(field)(x.reshape(-1, x.shape[-1])).reshape(x.shape)

    x, log_density, dt = x0, log_density0, t / steps
    for _ in range(steps):
        v1, r1 = velocity(x), -divergence(field, x)
        x2 = x + dt / 2 * v1
        v2, r2 = velocity(x2), -divergence(field, x2)
        x3 = x + dt / 2 * v2
        v3, r3 = velocity(x3), -divergence(field, x3)
        x4 = x + dt * v3
        v4, r4 = velocity(x4), -divergence(field, x4)
        x = x + dt / 6 * (v1 + 2 * v2 + 2 * v3 + v4)
        log_density = log_density + dt / 6 * (r1 + 2 * r2 + 2 * r3 + r4)
    return log_density


exercise = Exercise(
    log_density_along,
    hints=[
        "Where the flow spreads, ∇·v > 0, the particle's surroundings thin out: log ρ falls. And it falls by the "
        "divergence at the place where the particle is now, not where it began.",
        "The rate of log ρ does not depend on log ρ. So each of the four stages needs one place only: compute the "
        "velocity and the divergence there, then move from x, the beginning of the step, to the next stage's place.",
        "Stage places: x, x + dt/2 v₁, x + dt/2 v₂, x + dt v₃. Rates: rᵢ = −divergence(field, place). At the end "
        "x = x + dt/6 (v₁ + 2v₂ + 2v₃ + v₄), and log ρ the same way with the rᵢ.",
    ],
)


def _linear_flow(d, t, x0, generator):
    """A linear field v = A x, which carries N(0, I) into N(0, M Mᵀ) with M = exp(tA) and x0 to M x0."""
    A = inputs.normal(d, d, generator=generator) / 2
    M = torch.linalg.matrix_exp(t * A)
    zero, one = torch.zeros(d, dtype=torch.float64), torch.eye(d, dtype=torch.float64)
    before = torch.distributions.MultivariateNormal(zero, one).log_prob(x0)
    after = torch.distributions.MultivariateNormal(zero, M @ M.T).log_prob(x0 @ M.T)
    return inputs.one_point(lambda p: A.to(p.dtype) @ p, d), before, after


def _cubic_sink(d, t, x0, generator):
    """The field −c u³ in turned coordinates u = U x: u(t) = u₀/√s and ∂u(t)/∂u₀ = s^(−3/2), with s = 1 + 2ctu₀²."""
    U, c = torch.linalg.qr(inputs.normal(d, d, generator=generator)).Q, inputs.uniform(0.2, 0.6, d, generator=generator)
    before = inputs.normal(*x0.shape[:-1], generator=generator)
    after = before + 1.5 * torch.log(1 + 2 * c * t * (x0 @ U.T) ** 2).sum(-1)
    return inputs.one_point(lambda p: -U.T.to(p.dtype) @ (c.to(p.dtype) * (U.to(p.dtype) @ p) ** 3), d), before, after


def _chain(x0, generator):
    """The field (1, u₁, u₂, u₃u₄) in turned coordinates: u₃, its divergence, is a cubic in t, and log ρ of degree 4."""
    U = torch.linalg.qr(inputs.normal(4, 4, generator=generator)).Q
    before, (a, b, c, _) = inputs.normal(len(x0), generator=generator), (x0 @ U.T).unbind(-1)

    def field(p):
        u = U @ p
        return U.T @ torch.stack([torch.ones_like(u[0]), u[0], u[1], u[2] * u[3]])

    return inputs.one_point(field, 4), before, before - (c + b / 2 + a / 6 + 1 / 24)


@exercise.check
def _(attempt, generator):
    for (d, batch, dtype), make in zip(inputs.SHAPES, (_cubic_sink, _linear_flow, _cubic_sink, _cubic_sink)):
        t, x0 = (
            inputs.tenth(0.4, 0.6, generator=generator).item(),
            inputs.uniform(-1, 1, *batch, d, generator=generator),
        )
        field, before, after = make(d, t, x0, generator)
        what = f"log_density_along(field, x0, log_density0, {t:.1f}, 6) for x0 of shape {tuple(x0.shape)}"
        yield inputs.case(what, dtype, attempt(field, x0.to(dtype), before.to(dtype), t, 6), after, tol=3e-5)
    x0 = inputs.uniform(-1, 1, 5, 4, generator=generator)
    field, before, after = _chain(x0, generator)
    what = (
        "log_density_along(field, x0, log_density0, 1.0, 10) of a chain that Runge–Kutta of fourth order solves exactly"
    )
    yield Case(what, attempt(field, x0, before, 1.0, 10), after, tol=1.5e-5)


def _pair(field):
    """The rate of (x, log ρ) as one tensor, the log-density behind the coordinates."""
    return lambda y: torch.cat([inputs.at_points(field, y[..., :-1]), -divergence(field, y[..., :-1])[..., None]], -1)


def _walk(rate, x0, log_density0, t, steps, step):
    y, h = torch.cat([x0, log_density0[..., None]], -1), t / steps
    for _ in range(steps):
        y = y + h * step(rate, y, h)
    return y[..., -1]


def _runge_kutta(rate, y, h):
    k1 = rate(y)
    k2 = rate(y + h / 2 * k1)
    k3 = rate(y + h / 2 * k2)
    k4 = rate(y + h * k3)
    return (k1 + 2 * k2 + 2 * k3 + k4) / 6


@exercise.alternative
def one_tensor(field, x0, log_density0, t, steps):
    return _walk(_pair(field), x0, log_density0, t, steps, _runge_kutta)


@exercise.alternative
def volume_of_the_flow_map(field, x0, log_density0, t, steps):
    """The same number from the whole flow map φ at once: log ρ(φ(x0)) = log ρ(x0) − log |det ∂φ/∂x0|."""

    def flow(p):
        for _ in range(steps):
            p = p + t / steps * _runge_kutta(field, p, t / steps)
        return p

    return log_density0 - torch.linalg.slogdet(inputs.at_points(torch.func.jacfwd(flow), x0)).logabsdet


@exercise.mistake(
    "The sign is wrong: your density grows where the flow spreads. Spreading thins: d log ρ/dt = −∇·v, as the section "
    "on densities that move derives."
)
def density_grows_with_spreading(field, x0, log_density0, t, steps):
    return 2 * log_density0 - log_density_along(field, x0, log_density0, t, steps)


@exercise.mistake(
    "The divergence is taken at x0 all the time. The particle moves, and the divergence it sees changes on its way: "
    "evaluate it where the particle is now."
)
def divergence_at_the_start(field, x0, log_density0, t, steps):
    return log_density0 - t * divergence(field, x0)


@exercise.mistake(
    "The step size is missing: every step adds the whole rate. A rate has to be multiplied by the time it lasts, "
    "dt = t/steps."
)
def step_size_forgotten(field, x0, log_density0, t, steps):
    change = log_density_along(field, x0, log_density0, t, steps) - log_density0
    return log_density0 + change * steps / t


@exercise.mistake(
    "You returned the density, or stepped it: the exercise wants its logarithm, and it is log ρ whose rate is −∇·v "
    "(that of ρ itself is −ρ ∇·v)."
)
def density_returned(field, x0, log_density0, t, steps):
    return log_density_along(field, x0, log_density0, t, steps).exp()


@exercise.mistake(
    "Your rate is −ρ ∇·v, that of the density ρ along the path. Its logarithm has the rate −∇·v, without ρ."
)
def rate_of_the_density(field, x0, log_density0, t, steps):
    def rate(y):
        x, log_density = y[..., :-1], y[..., -1:]
        return torch.cat([inputs.at_points(field, x), -log_density.exp() * divergence(field, x)[..., None]], -1)

    return _walk(rate, x0, log_density0, t, steps, _runge_kutta)


@exercise.mistake(
    "You take Euler steps, one rate a step. Their error only halves when the steps double; the exercise's four-stage "
    "Runge–Kutta step makes it sixteen times smaller."
)
def euler(field, x0, log_density0, t, steps):
    return _walk(_pair(field), x0, log_density0, t, steps, lambda rate, y, h: rate(y))


@exercise.mistake(
    "You move x first and take the divergence at its new place. Both rates belong to the same place: compute them "
    "before you overwrite x, in each of the four stages."
)
def moved_too_early(field, x0, log_density0, t, steps):
    x, log_density, h = x0, log_density0, t / steps
    for _ in range(steps):
        x = x + h * inputs.at_points(field, x)
        log_density = log_density - h * divergence(field, x)
    return log_density


@exercise.mistake(
    "You take midpoint steps, two rates a step. They are sound but not accurate enough here: the exercise asks for the "
    "four stages of Runge–Kutta."
)
def midpoint(field, x0, log_density0, t, steps):
    return _walk(_pair(field), x0, log_density0, t, steps, lambda rate, y, h: rate(y + h / 2 * rate(y)))


@exercise.mistake(
    "Your four rates count alike. Runge–Kutta weighs the two in the middle of the step twice: (k₁ + 2k₂ + 2k₃ + k₄)/6."
)
def equal_weights(field, x0, log_density0, t, steps):
    def average(rate, y, h):
        k1 = rate(y)
        k2 = rate(y + h / 2 * k1)
        k3 = rate(y + h / 2 * k2)
        return (k1 + k2 + k3 + rate(y + h * k3)) / 4

    return _walk(_pair(field), x0, log_density0, t, steps, average)


@exercise.mistake(
    "Your particle moves by Runge–Kutta, but its log-density by the divergence at the beginning of each step only. "
    "Take the divergence at all four stages, with the weights 1, 2, 2, 1."
)
def divergence_once_a_step(field, x0, log_density0, t, steps):
    x, log_density, h = x0, log_density0, t / steps
    for _ in range(steps):
        log_density = log_density - h * divergence(field, x)
        x = x + h * _runge_kutta(lambda x: inputs.at_points(field, x), x, h)
    return log_density


@exercise.mistake(
    "You returned the change of the log-density alone. Start from log_density0: the particle had a density before."
)
def start_forgotten(field, x0, log_density0, t, steps):
    return log_density_along(field, x0, log_density0, t, steps) - log_density0


@exercise.mistake("Your particle runs against the flow. It drifts with +v, while its log-density changes by −∇·v.")
def against_the_flow(field, x0, log_density0, t, steps):
    def rate(y):
        x = y[..., :-1]
        return torch.cat([-inputs.at_points(field, x), -divergence(field, x)[..., None]], -1)

    return _walk(rate, x0, log_density0, t, steps, _runge_kutta)
