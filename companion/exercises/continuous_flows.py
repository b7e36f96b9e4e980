"""The exercises of the continuous_flows section, from a divergence at one time to a flow that is solved on paper.

After each reference solution come its hints, its check, other correct solutions and the mistakes people make.  What an
answer is compared with takes another road than the solution: derivatives worked out on paper, point after point in
plain numbers, the determinant of a Jacobian, or the series of an exponential.
"""

import math

import numpy as np
import torch
from torch.distributions import Independent, Normal

from companion.continuous_flows import ContinuousFlow
from companion.exercises import Case, Exercise
from companion.exercises import _inputs as inputs

APART = 100  # gradients this far apart are alike: of mistakes with the same values, the closest gradient decides


def _values(what, dtype, got, want):
    """A case of values beside which gradients are compared: rounding in float32 may not decide between mistakes."""
    return inputs.case(what, dtype, got, want)._replace(alike=1e-3 if dtype == torch.float32 else None)


def _field(velocity, d):
    """`velocity(t, x)` as a field of points (*batch, d), t one number or one for each point; it insists on these."""

    def field(t, x):
        if x.shape[-1:] != (d,):
            raise ValueError(f"field(t, x) takes points of shape (*batch, {d}), got x of shape {tuple(x.shape)}")
        t = t.to(x.dtype) if torch.is_tensor(t) else torch.tensor(t, dtype=x.dtype)
        if t.shape not in ((), x.shape[:-1]):
            raise ValueError(f"field(t, x) takes one time t, of shape (), got {tuple(t.shape)}")
        return velocity(t[..., None], x)

    return field


def _wind(d, generator):
    """The field v(x, t) = B tanh(Cx + ct), and at one time and point v and ∇·v, worked out on paper."""
    (B, C), c = inputs.normal(2, d, d, generator=generator) / d**0.5, inputs.normal(d, generator=generator)

    def on_paper(t, x):
        u = np.tanh(C.numpy() @ x + c.numpy() * t)
        return B.numpy() @ u, sum((1 - u[h] ** 2) * (B[:, h] @ C[h]).item() for h in range(d))

    return _field(lambda t, x: torch.tanh(x @ C.T.to(x) + t * c.to(x)) @ B.T.to(x), d), on_paper


# 1 ------------------------------------------------------------------------------------------------------------------


def divergence_along(field, t, x):
    """The divergence of a field at one time, at every point of a batch.

        ∇·v(x, t) = Σᵢ ∂vᵢ/∂xᵢ,   the trace of J_ij = ∂vᵢ/∂x_j

    field: field(t, x) takes the time and the whole batch of points, and returns their
    velocities, shape (*batch, d).  The velocity of a point depends on t and on that
    point, not on its neighbours.  t: one time for all, shape ().  x: points, shape
    (*batch, d), with any batch axes.

    Returns the exact divergence at each point, shape (*batch).  It can be
    differentiated again: training has to reach x and the parameters of the field.
    """
    v, pull_back = torch.func.vjp(lambda y: field(t, y), x)
    basis = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    return sum(pull_back(e.expand_as(v))[0][..., i] for i, e in enumerate(basis))


exercise = Exercise(
    divergence_along,
    hints=[
        "The time stands still: lambda y: field(t, y) is a field as in the chapter on divergence, except that it takes "
        "all points at once.",
        "As no point looks at its neighbours, the gradient of v[..., i].sum() by x holds ∂vᵢ/∂x_j of every point at "
        "that point's own place. Of these you need the entry j = i, for each i from 0 to d − 1.",
        "With x tracked by autograd and v = field(t, x), torch.autograd.grad(v[..., i].sum(), x, create_graph=True)[0]"
        "[..., i] is ∂vᵢ/∂xᵢ; add these up over i. Or take torch.vmap of "
        "torch.func.jacrev(lambda p: field(t, p)) over x.reshape(-1, d), then the trace.",
    ],
)


@exercise.check
def _(attempt, generator):
    (a, b), t = inputs.tenth(0.5, 3, 2, generator=generator), inputs.tenth(0.1, 0.4, generator=generator)
    p = inputs.tenth(0.5, 2, 2, generator=generator)

    def velocity(t, p):
        x, y = p[..., :1], p[..., 1:]
        return torch.cat([a * x * y + b * t * x, t * y**2 + x], -1)

    what = f"divergence_along of v = ({a:.1f} xy + {b:.1f} tx, ty² + x) at {inputs.numbers(p)}, t = {t:.1f}"
    yield Case(what, attempt(_field(velocity, 2), t, p), a * p[1] + b * t + 2 * t * p[1])
    for d, batch, dtype in inputs.SHAPES:
        field, on_paper = _wind(d, generator)
        t = inputs.uniform(0.1, 0.4, generator=generator)
        x = inputs.normal(*batch, d, generator=generator)
        want = [on_paper(t.item(), p)[1] for p in x.reshape(-1, d).numpy()]
        got = attempt(field, t.to(dtype), x.to(dtype))
        what = f"divergence_along(field, t, x) for x of shape {tuple(x.shape)}"
        yield _values(what, dtype, got, torch.tensor(want, dtype=torch.float64).reshape(batch))
    # v = sin(Cx + ct) has ∇·v = Σᵢ C_ii cos uᵢ with u = Cx + ct, and that by x_j is −Σᵢ C_ii sin(uᵢ) C_ij
    (C, x), c = inputs.normal(2, 3, 3, generator=generator), inputs.normal(3, generator=generator)
    u, by_x, by_C = x @ C.T + c * t, x.clone().requires_grad_(), C.clone().requires_grad_()
    weighted = C.diagonal() * u.sin()
    answer = attempt(_field(lambda t, x: torch.sin(x @ C.T + c * t), 3), t, by_x)
    what = "the gradient by x of divergence_along(field, t, x).sum()"
    yield Case(what, inputs.gradient(answer, by_x), -weighted @ C, alike=APART)
    answer = attempt(_field(lambda t, x: torch.sin(x @ by_C.T + c * t), 3), t, x)
    what = "the gradient by the field's parameters of divergence_along(field, t, x).sum()"
    yield Case(what, inputs.gradient(answer, by_C), u.cos().sum(0).diag() - weighted.T @ x, alike=APART)


@exercise.alternative
def coordinate_by_coordinate(field, t, x):
    x = x if x.requires_grad else x.detach().clone().requires_grad_()
    components = field(t, x).unbind(-1)
    rows = [torch.autograd.grad(v.sum(), x, create_graph=True)[0] for v in components]
    return torch.stack([row[..., i] for i, row in enumerate(rows)], -1).sum(-1)


@exercise.alternative
def trace_at_each_point(field, t, x):
    return inputs.trace(_jacobian(field, t, x))


@exercise.alternative
def all_points_moved_at_once(field, t, x):
    basis = torch.eye(x.shape[-1], dtype=x.dtype)
    return sum(torch.func.jvp(lambda y: field(t, y), (x,), (e.expand_as(x),))[1] @ e for e in basis)


def _jacobian(field, t, x):
    """∂vᵢ/∂x_j at each point, shape (*batch, d, d)."""
    return inputs.at_points(torch.func.jacrev(lambda p: field(t, p)), x)


@exercise.mistake(
    "You added up ALL entries of the Jacobian, ∂vᵢ/∂x_j for every i and j: one backward pass with ones, then a sum. "
    "The divergence needs the diagonal alone: one pass for each component, and of that pass one entry."
)
def whole_jacobian_added(field, t, x):
    return _jacobian(field, t, x).sum((-2, -1))


@exercise.mistake(
    "The gradient of v.sum() holds the column sums Σᵢ ∂vᵢ/∂x_j, one for each j. They mix all components: differentiate "
    "v[..., i].sum() for one i at a time, and keep entry i."
)
def gradient_of_the_sum(field, t, x):
    return _jacobian(field, t, x).sum(-2)


@exercise.mistake(
    "You have the right diagonal, ∂vᵢ/∂xᵢ for each i. The divergence is one number at each point: sum over the last "
    "axis."
)
def diagonal_not_added(field, t, x):
    return _jacobian(field, t, x).diagonal(dim1=-2, dim2=-1)


@exercise.mistake(
    "You averaged the diagonal. The trace is its sum, and your answer is too small by the factor d. (A .mean() for a "
    ".sum()?)"
)
def diagonal_averaged(field, t, x):
    return divergence_along(field, t, x) / x.shape[-1]


@exercise.mistake("You have ∂v₁/∂x₁ alone. Each coordinate i brings its own ∂vᵢ/∂xᵢ: add them up over all d.")
def first_coordinate_alone(field, t, x):
    return _jacobian(field, t, x)[..., 0, 0]


@exercise.mistake("You have ∂v_d/∂x_d alone, from the last pass. Keep a running sum: total = total + …, for every i.")
def last_coordinate_alone(field, t, x):
    return _jacobian(field, t, x)[..., -1, -1]


@exercise.mistake(
    "You kept entry 0 of each pass, ∂vᵢ/∂x₁: the first column of the Jacobian. Of the pass for vᵢ keep entry i."
)
def first_column_added(field, t, x):
    return _jacobian(field, t, x)[..., 0].sum(-1)


@exercise.mistake(
    "You differentiated the first component by all coordinates and added that up: the first row of the Jacobian. Each "
    "component is differentiated by its own coordinate."
)
def first_row_added(field, t, x):
    return _jacobian(field, t, x)[..., 0, :].sum(-1)


@exercise.mistake(
    "You summed over the batch as well. Every point has a divergence of its own, and its own change of density: the "
    "result has the shape (*batch)."
)
def points_summed(field, t, x):
    return divergence_along(field, t, x).sum()


@exercise.mistake("You averaged over the batch. Every point has a divergence of its own: keep the shape (*batch).")
def points_averaged(field, t, x):
    return divergence_along(field, t, x).mean()


@exercise.mistake(
    "You took the Jacobian of the whole batch, and of it every pair of points. A point's velocity does not depend on "
    "its neighbours, so all these entries are 0; torch.vmap over single points leaves them out."
)
def points_in_pairs(field, t, x):
    values = divergence_along(field, t, x)
    return values.flatten().diag().reshape(values.shape * 2) if values.ndim else values


@exercise.mistake(
    "The numbers are right, but the batch axes are gone: your points stand in one long row. .reshape(x.shape[:-1]) "
    "brings the axes back."
)
def batch_left_flat(field, t, x):
    return divergence_along(field, t, x).flatten()


@exercise.mistake("You took the field at t = 0. It changes with time: hand the time you are given to field(t, x).")
def divergence_at_the_start(field, t, x):
    return divergence_along(field, 0 * t, x)


@exercise.mistake("You took the field at t = 1. It changes with time: hand the time you are given to field(t, x).")
def divergence_at_the_end(field, t, x):
    return divergence_along(field, 0 * t + 1, x)


@exercise.mistake(
    "You took the field at 1 − t. Here time runs from the latent, t = 0, to the data, t = 1, and so does the field's: "
    "hand on t as it is."
)
def time_turned_around(field, t, x):
    return divergence_along(field, 1 - t, x)


@exercise.mistake(
    "You differentiated the velocity by t. The time stands still while the divergence is taken: only the coordinates "
    "of the point move, each vᵢ by its own xᵢ."
)
def differentiated_by_time(field, t, x):
    return torch.func.jvp(lambda s: field(s, x), (t,), (torch.ones_like(t),))[1].sum(-1)


@exercise.mistake(
    "Your sign is turned around: you have −∇·v, the rate of log p. The divergence itself is asked for; the minus comes "
    "later."
)
def rate_of_the_log_density(field, t, x):
    return -divergence_along(field, t, x)


@exercise.mistake(
    "You computed the determinant of the Jacobian of the velocity. The determinant belongs to a finite map; to a "
    "velocity belongs the trace."
)
def determinant_of_the_velocity(field, t, x):
    return torch.linalg.det(_jacobian(field, t, x))


@exercise.mistake("You added up the velocities themselves. Nothing has been differentiated yet: it is Σᵢ ∂vᵢ/∂xᵢ.")
def velocities_added(field, t, x):
    return field(t, x).sum(-1)


@exercise.mistake(
    "The gradients pile up: each backward pass adds to x.grad, so that pass i brings along the derivatives of the "
    "components before it. Clear x.grad between passes, or take torch.autograd.grad, which returns fresh gradients."
)
def passes_pile_up(field, t, x):
    return _jacobian(field, t, x).triu().sum((-2, -1))


@exercise.mistake(
    "The values are right, but they are cut off from what they were made of, so no flow can be trained on them. Look "
    "for a .detach(), a .backward() or a torch.autograd.grad without create_graph=True; or take torch.func.vjp."
)
def divergence_cut_off(field, t, x):
    return divergence_along(field, t, x).detach()


@exercise.mistake(
    "The values are right and reach the parameters of the field, but they are cut off from x: look for an x.detach(). "
    "Along a path x has been made by the field itself, so training has to pass through it. Where x.requires_grad is "
    "already true, take x as it is."
)
def points_cut_off(field, t, x):
    return divergence_along(field, t, x.detach())


# 2 ------------------------------------------------------------------------------------------------------------------


def euler_log_prob(field, x, steps):
    """The log-density of data under a continuous flow, by Euler steps from the data
    back to the noise.

        log p(x) = log N(z; 0, I) − ∫₀¹ ∇·v(x(t), t) dt,   dx/dt = v(x, t)

    The flow carries N(0, I) at t = 0 to the data at t = 1.  Start at the data, at
    t = 1, and go back by equal steps of h = 1/steps.  The step from t to t − h takes v
    and ∇·v once, at the place and the time where it begins:

        integral ← integral + h ∇·v(x, t),   x ← x − h v(x, t),   t = 1, 1 − h, …, h

    At t = 0 the point has become z.

    field: field(t, x) takes a time, a number or a tensor of shape (), and a batch of
    points, each by itself; it returns velocities, shape (*batch, d).  x: data, shape
    (*batch, d).  steps: a whole number ≥ 1.  Take ∇·v from your divergence_along, or
    from divergence(lambda p: field(t, p), x).

    Returns log p at each point of x, shape (*batch), in nats and with all constants.
    It can be differentiated by the parameters of the field.
    """
    h, integral = 1 / steps, 0
    for k in range(steps):
        t = x.new_tensor(1 - k * h)
        integral = integral + h * divergence_along(field, t, x)
        x = x - h * field(t, x)
    return -(x**2).sum(-1) / 2 - x.shape[-1] * math.log(2 * math.pi) / 2 - integral


exercise = Exercise(
    euler_log_prob,
    hints=[
        "Keep two things up to date: where the points are, and how much divergence they have met so far. What is the "
        "time when the first step begins, and what when the last one does?",
        "With h = 1 / steps, step k of 0, 1, …, steps − 1 begins at t = 1 - k * h. Take v and ∇·v there, both before x "
        "moves: integral = integral + h * ∇·v, then x = x - h * v.",
        "In the end x is z. Its log-density is -(x**2).sum(-1) / 2 - d / 2 * math.log(2 * math.pi), and from that the "
        "integral is subtracted.",
    ],
)


@exercise.check
def _(attempt, generator):
    def want(on_paper, x, steps):  # one point after another, in plain numbers
        values = []
        for p in x.reshape(-1, x.shape[-1]).numpy():
            log_p = 0.0
            for k in range(steps, 0, -1):
                v, rate = on_paper(k / steps, p)
                p, log_p = p - v / steps, log_p - rate / steps
            values.append(log_p + sum(-(z**2) / 2 - math.log(math.tau) / 2 for z in p.tolist()))
        return torch.tensor(values, dtype=torch.float64).reshape(x.shape[:-1])

    a, b = inputs.tenth(0.3, 0.9, 2, generator=generator).tolist()
    x = inputs.tenth(0.5, 2, 2, generator=generator)
    what = f"euler_log_prob of v = ({a:.1f} + {b:.1f} t) x at {inputs.numbers(x)}, in 2 steps"
    got = attempt(_field(lambda t, x: (a + b * t) * x, 2), x, 2)
    yield Case(what, got, want(lambda t, x: ((a + b * t) * x, 2 * (a + b * t)), x, 2))
    for (d, batch, dtype), steps in zip(inputs.SHAPES, (1, 4, 3, 5)):
        field, on_paper = _wind(d, generator)
        x = inputs.normal(*batch, d, generator=generator)
        what = f"euler_log_prob for x of shape {tuple(x.shape)} and {steps} step{'s' * (steps > 1)}"
        yield _values(what, dtype, attempt(field, x.to(dtype), steps), want(on_paper, x, steps))
    # v = st x gives z = Π (1 − hst) x and ∫ ∇·v dt = Σ hstd, and both can be differentiated by s on paper
    x, s = inputs.normal(3, 2, generator=generator), inputs.uniform(0.3, 0.9, generator=generator).requires_grad_()
    answer = attempt(_field(lambda t, x: s * t * x, 2), x, 3)
    times, r = [3 / 3, 2 / 3, 1 / 3], s.item()
    square = math.prod((1 - r * t / 3) ** 2 for t in times) * (x**2).sum()
    by_s = square * sum((t / 3) / (1 - r * t / 3) for t in times) - len(x) * 2 * sum(times) / 3
    what = "the gradient by the field's parameter of euler_log_prob(field, x, 3).sum()"
    yield Case(what, inputs.gradient(answer, s), by_s, alike=APART)


@exercise.alternative
def path_before_density(field, x, steps):
    path, h = [x], 1 / steps
    times = torch.linspace(1, 0, steps + 1, dtype=x.dtype)[:-1]
    for t in times:
        path.append(path[-1] - field(t, path[-1]) / steps)
    normal = Independent(Normal(torch.zeros_like(x), torch.ones_like(x)), 1)
    return normal.log_prob(path[-1]) - h * torch.stack([divergence_along(field, *at) for at in zip(times, path)]).sum(0)


@exercise.alternative
def density_and_points_in_one_state(field, x, steps):
    state = torch.cat([x, torch.zeros_like(x[..., :1])], -1)  # log p(x(t)) − log p(x) rides along as a coordinate
    for k in range(steps, 0, -1):
        t, y = x.new_tensor(k / steps), state[..., :-1]
        state = state - torch.cat([field(t, y), -trace_at_each_point(field, t, y)[..., None]], -1) / steps
    return Normal(0.0, 1.0).log_prob(state[..., :-1]).sum(-1) - state[..., -1]


@exercise.alternative
def companion_with_the_euler_method(field, x, steps):
    return ContinuousFlow(field, x.shape[-1], method="euler", options={"step_size": 1 / steps}).log_prob(x)


def _times(steps):
    """The times at which the steps begin, 1, 1 − h, …, h."""
    return [1 - k / steps for k in range(steps)]


def _walk(field, x, times, h, way=-1):
    """Where the points are after a step from each of the times, and the divergences where these steps begin."""
    met = []
    for t in times:
        t = x.new_tensor(t)
        met.append(divergence_along(field, t, x))
        x = x + way * h * field(t, x)
    return x, met


def _log_normal(z):
    """log N(z; 0, I)."""
    return -(z**2).sum(-1) / 2 - z.shape[-1] * math.log(2 * math.pi) / 2


def _by_steps(field, x, steps, times, way=-1):
    """The log-density from steps of 1/steps at these times."""
    z, met = _walk(field, x, times, 1 / steps, way)
    return _log_normal(z) - sum(met) / steps


@exercise.mistake(
    "The integral of the divergence has the wrong sign. Where ∇·v > 0 the flow thins out what it carries, so that the "
    "data are less dense than the noise they come from: log N(z; 0, I) minus the integral."
)
def divergences_added(field, x, steps):
    z, met = _walk(field, x, _times(steps), 1 / steps)
    return _log_normal(z) + sum(met) / steps


@exercise.mistake(
    "You looked up the noise's density at z and stopped there. The flow changes volumes on the way: subtract the "
    "integral of ∇·v."
)
def divergences_forgotten(field, x, steps):
    return _log_normal(_walk(field, x, _times(steps), 1 / steps)[0])


@exercise.mistake(
    "You went forwards in time, from t = 0 to 1. The points you are given are the data, where t = 1 already: go back, "
    "x ← x − h v, at t = 1, 1 − h, …, h."
)
def forwards_from_the_data(field, x, steps):
    return _by_steps(field, x, steps, [k / steps for k in range(steps)], way=1)


@exercise.mistake(
    "You took x for noise: its density under N(0, I), then the way forwards. That is the density at the point where x "
    "would end. Here x is the end: go back from t = 1, and take N(0, I) at the point z where that leads."
)
def data_taken_for_noise(field, x, steps):
    return _log_normal(x) - sum(_walk(field, x, [k / steps for k in range(steps)], 1 / steps, way=1)[1]) / steps


@exercise.mistake(
    "Your time runs backwards, but your points run forwards: on the way back a step is x ← x − h v. The integral of "
    "∇·v keeps its own sign."
)
def steps_of_the_wrong_sign(field, x, steps):
    return _by_steps(field, x, steps, _times(steps), way=1)


@exercise.mistake(
    "Your points run backwards, but your time runs forwards, t = 0, h, …, 1 − h. At the data, where you start, it is "
    "t = 1: step k begins at 1 − kh."
)
def times_upwards(field, x, steps):
    return _by_steps(field, x, steps, [k / steps for k in range(steps)])


@exercise.mistake(
    "Your times are one step late: 1 − h, …, 0, the ends of the steps. The first step begins at the data, so it takes "
    "v and ∇·v at t = 1, and the last one at t = h."
)
def times_at_the_ends(field, x, steps):
    return _by_steps(field, x, steps, [1 - (k + 1) / steps for k in range(steps)])


@exercise.mistake(
    "You took v and ∇·v at the time in the middle of each step. That belongs to another method; Euler's takes them at "
    "the time when the step begins."
)
def times_in_the_middle(field, x, steps):
    return _by_steps(field, x, steps, [1 - (k + 0.5) / steps for k in range(steps)])


@exercise.mistake(
    "Your time stands still at t = 1. The field changes with time: after each step set t ← t − h, along with x."
)
def time_stands_still(field, x, steps):
    return _by_steps(field, x, steps, [1.0] * steps)


@exercise.mistake(
    "Your times lie too far apart: torch.linspace(1, 0, steps) has steps numbers, but only steps − 1 gaps between "
    "them. With linspace(1, 0, steps + 1) the gaps are h = 1/steps; leave out the last number, t = 0."
)
def gaps_too_wide(field, x, steps):
    return _by_steps(field, x, steps, torch.linspace(1, 0, steps, dtype=torch.float64).tolist())


@exercise.mistake(
    "You took one step less: between the numbers of torch.linspace(1, 0, steps) there are only steps − 1 gaps. Take "
    "linspace(1, 0, steps + 1); its gaps are h = 1/steps, and a step begins at each number but the last."
)
def one_step_too_few(field, x, steps):
    if steps == 1:
        return _log_normal(x)
    return _by_steps(field, x, steps - 1, _times(steps - 1))


@exercise.mistake(
    "You took one step too many, the last one from t = 0 onwards. Of steps + 1 times the last is where you arrive: no "
    "step begins there."
)
def one_step_too_many(field, x, steps):
    return _by_steps(field, x, steps, [1 - k / steps for k in range(steps + 1)])


@exercise.mistake(
    "You moved x first and then took the divergence, at the new place. Both v and ∇·v belong to the place where the "
    "step begins: take the divergence before x moves."
)
def moved_before_the_divergence(field, x, steps):
    z, integral = x, 0
    for t in map(x.new_tensor, _times(steps)):
        z = z - field(t, z) / steps
        integral = integral + divergence_along(field, t, z) / steps
    return _log_normal(z) - integral


@exercise.mistake(
    "You took the divergence where and when a step ends, and v where it begins. Take both where it begins: the first "
    "divergence is that of the data, at t = 1."
)
def divergence_one_step_late(field, x, steps):
    z, integral = x, 0
    for t in _times(steps):
        z = z - field(x.new_tensor(t), z) / steps
        integral = integral + divergence_along(field, x.new_tensor(t - 1 / steps), z) / steps
    return _log_normal(z) - integral


@exercise.mistake(
    "You took all divergences where the data are. The integral runs along the path: each ∇·v belongs to the place that "
    "the point has reached by then."
)
def divergence_off_the_path(field, x, steps):
    z, _ = _walk(field, x, _times(steps), 1 / steps)
    return _log_normal(z) - sum(divergence_along(field, x.new_tensor(t), x) for t in _times(steps)) / steps


@exercise.mistake(
    "Your integral holds the last step alone. Add to what was there before: integral = integral + h ∇·v, at each step."
)
def last_step_alone(field, x, steps):
    z, met = _walk(field, x, _times(steps), 1 / steps)
    return _log_normal(z) - met[-1] / steps


@exercise.mistake(
    "Your divergences are added up without the factor h. An integral adds up rate times time, and each step takes the "
    "time h = 1/steps: else more steps would mean more change."
)
def integral_without_h(field, x, steps):
    z, met = _walk(field, x, _times(steps), 1 / steps)
    return _log_normal(z) - sum(met)


@exercise.mistake(
    "Your points move by v where they should move by h v: a step takes the time h = 1/steps, not a whole unit of time."
)
def points_without_h(field, x, steps):
    z, met = _walk(field, x, _times(steps), 1)
    return _log_normal(z) - sum(met) / steps


@exercise.mistake(
    "The factor h is missing in both lines, in the integral and in the step of the points. Each step takes the time "
    "h = 1/steps."
)
def all_without_h(field, x, steps):
    return _by_steps(field, x, 1, _times(steps))


@exercise.mistake(
    "You evaluated N(0, I) at the data. It is the density of the noise, where the way back ends: take it at z, after "
    "the last step."
)
def noise_density_at_the_data(field, x, steps):
    return _log_normal(x) - sum(_walk(field, x, _times(steps), 1 / steps)[1]) / steps


@exercise.mistake(
    "The constant of the normal density is missing, −d/2 · log 2π. It does not change with x, but models can only be "
    "compared where it is there."
)
def two_pi_left_out(field, x, steps):
    return euler_log_prob(field, x, steps) + x.shape[-1] * math.log(2 * math.pi) / 2


@exercise.mistake(
    "Your constant −½ log 2π is that of one dimension. Each of the d coordinates brings one: −d/2 · log 2π."
)
def two_pi_of_one_dimension(field, x, steps):
    return euler_log_prob(field, x, steps) + (x.shape[-1] - 1) * math.log(2 * math.pi) / 2


@exercise.mistake("The ½ before |z|² is missing: log N(z; 0, I) is −|z|²/2 − d/2 · log 2π.")
def square_of_z_not_halved(field, x, steps):
    z, _ = _walk(field, x, _times(steps), 1 / steps)
    return euler_log_prob(field, x, steps) - (z**2).sum(-1) / 2


@exercise.mistake(
    "Normal(0, 1).log_prob(z) gives one number for each coordinate, and you kept them apart. Sum them over the last "
    "axis, before the integral is subtracted."
)
def coordinates_kept_apart(field, x, steps):
    z, met = _walk(field, x, _times(steps), 1 / steps)
    return -(z**2) / 2 - math.log(2 * math.pi) / 2 - (sum(met) / steps)[..., None]


@exercise.mistake(
    "You averaged log N over the coordinates of z. The coordinates are independent, so their densities multiply, and "
    "the logarithms add up: .sum(-1)."
)
def coordinates_of_z_averaged(field, x, steps):
    z, met = _walk(field, x, _times(steps), 1 / steps)
    return _log_normal(z) / x.shape[-1] - sum(met) / steps


@exercise.mistake(
    "Each point got the divergence of the whole batch, summed over all points. Every point has a divergence of its "
    "own, shape (*batch)."
)
def divergence_of_the_batch(field, x, steps):
    z, met = _walk(field, x, _times(steps), 1 / steps)
    return _log_normal(z) - sum(rate.sum() for rate in met) / steps


@exercise.mistake(
    "You took log|det(I − hJ)| of each step, the exact change of volume of the Euler map. A continuous flow asks for "
    "the trace alone, and for no determinant: h ∇·v. For small h the two agree to first order."
)
def determinant_of_each_step(field, x, steps):
    z, log_p = x, 0
    for t in map(x.new_tensor, _times(steps)):
        step = torch.eye(x.shape[-1], dtype=x.dtype) - _jacobian(field, t, z) / steps
        log_p = log_p + torch.linalg.slogdet(step).logabsdet
        z = z - field(t, z) / steps
    return _log_normal(z) + log_p


@exercise.mistake("You returned the density itself. Its logarithm is asked for: leave out the .exp() at the end.")
def density_returned(field, x, steps):
    return euler_log_prob(field, x, steps).exp()


@exercise.mistake("Your sign is that of a loss, −log p(x). The log-density itself is asked for.")
def loss_returned(field, x, steps):
    return -euler_log_prob(field, x, steps)


@exercise.mistake("You returned the change of log p alone, −∫ ∇·v dt. Add the log-density of the noise at z.")
def change_alone(field, x, steps):
    return -sum(_walk(field, x, _times(steps), 1 / steps)[1]) / steps


@exercise.mistake(
    "You added up the log-densities of all points. Each point has its own: the result has shape (*batch)."
)
def all_points_added(field, x, steps):
    return euler_log_prob(field, x, steps).sum()


@exercise.mistake(
    "You averaged over the points. Each point has a log-density of its own: the result has shape (*batch)."
)
def all_points_averaged(field, x, steps):
    return euler_log_prob(field, x, steps).mean()


@exercise.mistake(
    "The values are right, but they are cut off from the parameters of the field, so nothing can be trained by them. "
    "Look for a torch.no_grad(), a .detach() or a .item()."
)
def log_prob_cut_off(field, x, steps):
    return euler_log_prob(field, x, steps).detach()


def _cut(field, x, steps, points, divergences):
    """The log-density with the points, the divergences or both cut off from the steps before."""
    z, integral = x, 0
    for t in map(x.new_tensor, _times(steps)):
        z = z.detach() if points else z
        rate = divergence_along(field, t, z)
        integral = integral + (rate.detach() if divergences else rate) / steps
        z = z - field(t, z) / steps
    return _log_normal(z) - integral


@exercise.mistake(
    "The values are right, but the gradient passes by the divergence: to it the integral is a constant. Does it come "
    "from a torch.autograd.grad without create_graph=True, or from a .detach()?"
)
def integral_cut_off(field, x, steps):
    return _cut(field, x, steps, points=False, divergences=True)


@exercise.mistake(
    "The values are right, but the gradient ends after one step back: look for an x.detach() in your loop. Where a "
    "point is depends on all the steps that brought it there."
)
def path_cut_off(field, x, steps):
    return _cut(field, x, steps, points=True, divergences=False)


@exercise.mistake(
    "The values are right, but the gradient sees the last step alone and no divergence at all. In your loop there is "
    "an x.detach() that cuts the path, and a torch.autograd.grad without create_graph=True or a second .detach()."
)
def path_and_integral_cut_off(field, x, steps):
    return _cut(field, x, steps, points=True, divergences=True)


# 3 ------------------------------------------------------------------------------------------------------------------


def matching_pair(x0, x1, t):
    """What flow matching trains a field on: a point of the straight path from noise to
    data, and the velocity there.

        x_t = (1 − t) x₀ + t x₁,   target = dx_t/dt

    The path starts in the noise x₀ at t = 0 and arrives at the data x₁ at t = 1.

    x0, x1: noise and data, shape (*batch, d), with any batch axes.  t: times between 0
    and 1, one for each path, shape (*batch).  Returns the pair (x_t, target), each of
    shape (*batch, d).
    """
    velocity = x1 - x0
    return x0 + t[..., None] * velocity, velocity


exercise = Exercise(
    matching_pair,
    hints=[
        "Differentiate (1 − t) x₀ + t x₁ by t, with x₀ and x₁ as constants. Does t stay in the result?",
        "All coordinates of a point share its time. t has shape (*batch), the points (*batch, d): which axis does t "
        "need, so that the product pairs them rightly?",
        "With t[..., None], of shape (*batch, 1), the point is (1 - t[..., None]) * x0 + t[..., None] * x1, and the "
        "velocity of a straight path is the same at all times: x1 - x0.",
    ],
)


@exercise.check
def _(attempt, generator):
    def want(x0, x1, t):  # number by number; the velocity from two places of the path, as it is straight
        def at(s):
            rows = zip(
                x0.reshape(-1, x0.shape[-1]).tolist(), x1.reshape(-1, x0.shape[-1]).tolist(), s.flatten().tolist()
            )
            return torch.tensor([[a + (b - a) * u for a, b in zip(p, q)] for p, q, u in rows], dtype=x0.dtype)

        return at(t).reshape(x0.shape), ((at(t + 2) - at(t - 2)) / 4).reshape(x0.shape)

    parts = "x_t", "target"
    (x0, x1), t = inputs.tenth(-2, 2, 2, 2, generator=generator), inputs.tenth(0.1, 0.4, generator=generator)
    what = f"for x0 = {inputs.numbers(x0)}, x1 = {inputs.numbers(x1)}, t = {t:.1f}"
    yield from inputs.pair("matching_pair", what, parts, torch.float64, attempt(x0, x1, t), want(x0, x1, t))
    # the second question has as many points as coordinates: times along the wrong axis give numbers there, no error
    for d, batch, dtype in (2, (), torch.float64), (4, (4,), torch.float64), *inputs.SHAPES[2:]:
        x0, x1 = inputs.normal(2, *batch, d, generator=generator)
        t = inputs.uniform(0.05, 0.95, *batch, generator=generator)
        what = f"for points of shape {tuple(x0.shape)} and times of shape {batch}"
        answer = attempt(x0.to(dtype), x1.to(dtype), t.to(dtype))
        yield from inputs.pair("matching_pair", what, parts, dtype, answer, want(x0, x1, t))


@exercise.alternative
def by_lerp(x0, x1, t):
    return torch.lerp(x0, x1, t[..., None]), x1 - x0


@exercise.alternative
def by_differentiating_the_path(x0, x1, t):
    return torch.func.jvp(lambda s: torch.einsum("...,...d->...d", 1 - s, x0) + s[..., None] * x1, (t,), (t**0,))


@exercise.alternative
def what_is_left_over_the_time_left(x0, x1, t):
    x_t = ((1 - t) * x0.movedim(-1, 0) + t * x1.movedim(-1, 0)).movedim(0, -1)
    return x_t, (x1 - x_t) / (1 - t[..., None])


@exercise.mistake(
    "Your path runs from the data to the noise: at t = 0 it has to be x₀, and at t = 1 it has to be x₁. Exchange t and "
    "1 − t; the target is right."
)
def path_turned_around(x0, x1, t):
    return matching_pair(x0, x1, 1 - t)


@exercise.mistake(
    "Your target has the wrong sign. The path runs from x₀ to x₁, and a velocity is where it goes minus where it comes "
    "from: x₁ − x₀."
)
def target_turned_around(x0, x1, t):
    x_t, velocity = matching_pair(x0, x1, t)
    return x_t, -velocity


@exercise.mistake(
    "Your path starts in the data and ends in the noise, and your target fits it. Other books count time that way; "
    "here t = 0 is the noise and t = 1 the data: exchange t and 1 − t, and turn the target around."
)
def all_turned_around(x0, x1, t):
    return matching_pair(x1, x0, t)


@exercise.mistake(
    "Your target is x₁ − x_t, what is left of the way. It shrinks as t grows; the velocity stays the same along the "
    "path: x₁ − x₀."
)
def rest_of_the_way(x0, x1, t):
    x_t, _ = matching_pair(x0, x1, t)
    return x_t, x1 - x_t


@exercise.mistake(
    "Your target is x_t − x₀, the way covered so far. The velocity is the way per unit of time: x₁ − x₀, at any t."
)
def way_so_far(x0, x1, t):
    x_t, _ = matching_pair(x0, x1, t)
    return x_t, x_t - x0


@exercise.mistake(
    "You divided x₁ − x₀ by 1 − t. It is the rest of the way, x₁ − x_t, that has to be divided by the time left; "
    "x₁ − x₀ is the whole way, in a time of 1."
)
def whole_way_over_the_time_left(x0, x1, t):
    x_t, velocity = matching_pair(x0, x1, t)
    return x_t, velocity / (1 - t[..., None])


@exercise.mistake(
    "You divided x₁ − x₀ by t. The whole way takes a time of 1, wherever on the path you look: leave it as it is."
)
def whole_way_over_the_time_so_far(x0, x1, t):
    x_t, velocity = matching_pair(x0, x1, t)
    return x_t, velocity / t[..., None]


@exercise.mistake(
    "Your target is the data, x₁. A network that predicts x₁ is another method; a field predicts a velocity: x₁ − x₀."
)
def data_as_target(x0, x1, t):
    return matching_pair(x0, x1, t)[0], x1 + 0


@exercise.mistake("Your target is the noise, x₀, as in a diffusion model. A field predicts a velocity: x₁ − x₀.")
def noise_as_target(x0, x1, t):
    return matching_pair(x0, x1, t)[0], x0 + 0


@exercise.mistake("Your target is the point x_t itself. The field is to learn the velocity there: x₁ − x₀.")
def point_as_target(x0, x1, t):
    x_t, _ = matching_pair(x0, x1, t)
    return x_t, x_t + 0


@exercise.mistake(
    "You gave the target the length 1. Points far apart have to go fast to arrive in the same time: leave x₁ − x₀ as "
    "it is."
)
def direction_as_target(x0, x1, t):
    x_t, velocity = matching_pair(x0, x1, t)
    return x_t, velocity / velocity.norm(dim=-1, keepdim=True)


@exercise.mistake(
    "You multiplied the target by t. The velocity is the derivative of x_t by t, and t is gone from it: x₁ − x₀."
)
def target_times_t(x0, x1, t):
    x_t, velocity = matching_pair(x0, x1, t)
    return x_t, velocity * t[..., None]


def _along_the_last_axis(x0, x1, t):
    """x_t with t broadcast as it is, which pairs it with the coordinates; the right one where that would not go."""
    t = t if t.shape in ((), x0.shape[-1:]) else t[..., None]
    return (1 - t) * x0 + t * x1


@exercise.mistake(
    "Your t runs along the coordinates. With as many points as coordinates no error shows, and with other numbers "
    "there is one. All coordinates of a point share its time: t[..., None]."
)
def times_along_the_coordinates(x0, x1, t):
    return _along_the_last_axis(x0, x1, t), x1 - x0


@exercise.mistake(
    "Two things. Your t runs along the coordinates, where each point should have one time for all of them: "
    "t[..., None]. And your target has the wrong sign: x₁ − x₀."
)
def times_along_the_coordinates_and_target_turned(x0, x1, t):
    return _along_the_last_axis(x0, x1, t), x0 - x1


@exercise.mistake(
    "Two things. Your t runs along the coordinates, where each point should have one time for all of them: "
    "t[..., None]. And t and 1 − t have changed places: at t = 0 the path is in x₀."
)
def times_along_the_coordinates_and_turned(x0, x1, t):
    return _along_the_last_axis(x1, x0, t), x1 - x0


@exercise.mistake(
    "You used the first time for all points. Each point has a time of its own, so that a batch covers the whole of "
    "the path: t[..., None]."
)
def one_time_for_all(x0, x1, t):
    return matching_pair(x0, x1, t.flatten()[0].expand(t.shape))


@exercise.mistake("You used the mean of the times for all points. Each point has a time of its own: t[..., None].")
def mean_time_for_all(x0, x1, t):
    return matching_pair(x0, x1, t.mean().expand(t.shape))


@exercise.mistake(
    "Your x₀ is there with all its weight, at every t: x₀ + t x₁. It has to fade as x₁ comes in, with the factor 1 − t."
)
def noise_does_not_fade(x0, x1, t):
    return x0 + t[..., None] * x1, x1 - x0


@exercise.mistake(
    "Your path is x₀ + t x₁, and your target its velocity, x₁. It ends in x₀ + x₁, in data with noise added: let x₀ "
    "fade with the factor 1 − t, and the target becomes x₁ − x₀."
)
def noise_does_not_fade_in_either(x0, x1, t):
    return x0 + t[..., None] * x1, x1 + 0


@exercise.mistake(
    "Your x₁ is there with all its weight, at every t: (1 − t) x₀ + x₁. It has to come in with the factor t."
)
def data_from_the_start(x0, x1, t):
    return (1 - t[..., None]) * x0 + x1, x1 - x0


@exercise.mistake("You went from x₁ onwards, x₁ + t (x₁ − x₀). The path starts in the noise: x₀ + t (x₁ − x₀).")
def beyond_the_data(x0, x1, t):
    return x1 + t[..., None] * (x1 - x0), x1 - x0


@exercise.mistake(
    "Your weights √(1 − t) and √t keep the variance, as in a diffusion model, and your path is curved. The straight "
    "path has the weights 1 − t and t."
)
def weights_of_a_diffusion(x0, x1, t):
    t = t[..., None]
    return (1 - t).sqrt() * x0 + t.sqrt() * x1, x1 - x0


@exercise.mistake("Both tensors are right, but they have changed places: first the point x_t, then the target.")
def pair_turned_around(x0, x1, t):
    return matching_pair(x0, x1, t)[::-1]


@exercise.mistake(
    "You averaged the points and the velocities over the batch. Each point is an example of its own, and the mean is "
    "taken of the loss: keep (*batch, d)."
)
def examples_averaged(x0, x1, t):
    return tuple(a.reshape(-1, a.shape[-1]).mean(0) for a in matching_pair(x0, x1, t))


@exercise.mistake(
    "The point is right. You took the length of the velocity, one number a point; the target is the velocity itself, "
    "with its d coordinates."
)
def speed_as_target(x0, x1, t):
    x_t, velocity = matching_pair(x0, x1, t)
    return x_t, velocity.norm(dim=-1)


# 4 ------------------------------------------------------------------------------------------------------------------


def linear_flow(A, x):
    """A flow with a solution in closed form: where the field v(x) = A x carries a point
    in a unit of time, and the change of volume on the way.

        dx/dt = A x,   x(1) = e^A x(0),   e^A = I + A + A²/2! + A³/3! + …

    A: shape (*batch, d, d), with a matrix for each point.  x: the points at t = 0,
    shape (*batch, d).  Any batch axes.  Returns the pair (y, log_det): y = x(1), shape
    (*batch, d), and log|det ∂y/∂x| at each point, shape (*batch).
    """
    y = (torch.linalg.matrix_exp(A) @ x[..., None])[..., 0]
    return y, A.diagonal(dim1=-2, dim2=-1).sum(-1)


exercise = Exercise(
    linear_flow,
    hints=[
        "The exponential of a matrix is that series of matrix products, and not e to the power of each entry. It is "
        "among the functions of torch.linalg.",
        "The divergence of A x is the same at all places and times. What is its integral from 0 to 1?",
        "With E = torch.linalg.matrix_exp(A), (E @ x[..., None])[..., 0] multiplies each point by its own matrix. "
        "The logarithm is the trace, A.diagonal(dim1=-2, dim2=-1).sum(-1).",
    ],
)


def _series(A, X):
    """e^A X, term by term, X + A X + A (A X)/2 + …"""
    total = term = X
    for k in range(1, 80):
        term = A @ term / k
        total = total + term
    return total


@exercise.check
def _(attempt, generator):
    def want(A, x):
        columns = _series(A, torch.eye(A.shape[-1], dtype=A.dtype).expand_as(A))  # where the unit vectors go
        return _series(A, x[..., None])[..., 0], torch.linalg.slogdet(columns).logabsdet

    parts = "y", "log_det"
    A, x = inputs.tenth(-1, 1, 2, 2, generator=generator), inputs.tenth(0.5, 2, 2, generator=generator)
    what = f"for A = ({inputs.numbers(A[0])}, {inputs.numbers(A[1])}) and x = {inputs.numbers(x)}"
    yield from inputs.pair("linear_flow", what, parts, torch.float64, attempt(A, x), want(A, x))
    for d, batch, dtype in inputs.SHAPES:
        A = 0.7 * inputs.normal(*batch, d, d, generator=generator)
        x = inputs.normal(*batch, d, generator=generator)
        what = f"for A of shape {tuple(A.shape)} and x of shape {tuple(x.shape)}"
        answer = attempt(A.to(dtype), x.to(dtype))
        yield from inputs.pair("linear_flow", what, parts, dtype, answer, want(A, x))


@exercise.alternative
def by_eigenvalues(A, x):
    values, vectors = torch.linalg.eig(A.double())
    y = vectors @ (values.exp()[..., None] * torch.linalg.solve(vectors, x[..., None].to(vectors)))
    return y[..., 0].real.to(x), values.sum(-1).real.to(x)


@exercise.alternative
def many_short_steps(A, x):
    """e^A = (e^(A/2ᵏ))^(2ᵏ), and so near the identity a few terms of the series are enough."""
    one, small = torch.eye(A.shape[-1], dtype=torch.float64), A.double() / 2**10
    E = one + small @ (one + small / 2 @ (one + small / 3 @ (one + small / 4)))
    for _ in range(10):
        E = E @ E
    return torch.einsum("...ij,...j->...i", E, x.double()).to(x), torch.einsum("...ii", A)


@exercise.alternative
def volume_by_determinant(A, x):
    E = A.matrix_exp()
    return torch.linalg.vecdot(E, x[..., None, :]), torch.linalg.slogdet(E).logabsdet


def _times_point(E, x):
    return (E @ x[..., None])[..., 0]


def _eye(A):
    return torch.eye(A.shape[-1], dtype=A.dtype)


@exercise.mistake(
    "You took e to the power of each entry. The exponential of a matrix is the series I + A + A²/2! + …, with matrix "
    "products: torch.linalg.matrix_exp(A). For A = 0 it is I; e to the power of each entry is all ones."
)
def exponential_of_each_entry(A, x):
    return _times_point(A.exp(), x), inputs.trace(A)


@exercise.mistake(
    "You took e to the power of each entry, and the determinant of that. The exponential of a matrix is the series "
    "I + A + A²/2! + …, torch.linalg.matrix_exp(A), and log|det e^A| is tr A."
)
def determinant_of_the_wrong_exponential(A, x):
    return _times_point(A.exp(), x), torch.linalg.slogdet(A.exp()).logabsdet


@exercise.mistake(
    "You multiplied from the wrong side: x e^A is (e^A)ᵀ x. The matrix stands before the column of coordinates, "
    "(E @ x[..., None])[..., 0]."
)
def exponential_transposed(A, x):
    return _times_point(torch.linalg.matrix_exp(A).mT, x), inputs.trace(A)


@exercise.mistake(
    "You stopped the series after I + A: that is one Euler step, x + A x. The whole series is "
    "torch.linalg.matrix_exp(A)."
)
def one_euler_step(A, x):
    return x + _times_point(A, x), inputs.trace(A)


@exercise.mistake(
    "You took one Euler step, x + A x, and its exact change of volume, log|det(I + A)|. The flow itself is the limit "
    "of ever shorter steps: e^A x and tr A."
)
def one_euler_step_and_its_volume(A, x):
    return x + _times_point(A, x), torch.linalg.slogdet(_eye(A) + A).logabsdet


@exercise.mistake(
    "You stopped the series at A²/2. Near A = 0 that is close, but the higher terms count: torch.linalg.matrix_exp(A) "
    "has them all."
)
def two_terms_of_the_series(A, x):
    return _times_point(_eye(A) + A + A @ A / 2, x), inputs.trace(A)


@exercise.mistake("You returned A x, the velocity at the start. The place after a unit of time is e^A x.")
def velocity_for_place(A, x):
    return _times_point(A, x), inputs.trace(A)


@exercise.mistake(
    "You multiplied each coordinate by e to the power of its own diagonal entry. That solves the flow only where A is "
    "diagonal; else the coordinates move each other: e^A x."
)
def diagonal_exponents(A, x):
    return x * A.diagonal(dim1=-2, dim2=-1).exp(), inputs.trace(A)


@exercise.mistake(
    "You went backwards in time, e^(−A) x with −tr A, from data to latent. Here x is the point at t = 0, and it is "
    "carried on to t = 1."
)
def backwards_to_the_latent(A, x):
    return linear_flow(-A, x)


@exercise.mistake("Your point goes backwards in time: e^(−A) x is where it was one unit of time before. It is e^A x.")
def point_goes_backwards(A, x):
    return linear_flow(-A, x)[0], inputs.trace(A)


@exercise.mistake(
    "Your log_det has the wrong sign. Along the path log p changes by −tr A; the logarithm of the volume changes by "
    "+tr A. Where the trace is positive, volumes grow."
)
def log_det_of_the_density(A, x):
    return linear_flow(A, x)[0], -inputs.trace(A)


@exercise.mistake("You took the trace of e^A. It is A whose trace is the divergence; log|det e^A| is tr A.")
def trace_of_the_exponential(A, x):
    return linear_flow(A, x)[0], inputs.trace(torch.linalg.matrix_exp(A))


@exercise.mistake(
    "You took the logarithm of the trace of e^A, the sum of its diagonal. It is the logarithm of the determinant, the "
    "product of the eigenvalues, that becomes the sum tr A."
)
def log_of_the_trace_of_the_exponential(A, x):
    return linear_flow(A, x)[0], inputs.trace(torch.linalg.matrix_exp(A)).log()


@exercise.mistake(
    "You took the logarithm of tr A. The trace already is a logarithm: det e^A = e^(tr A), and so log|det e^A| = tr A, "
    "of any sign."
)
def log_of_the_trace(A, x):
    return linear_flow(A, x)[0], inputs.trace(A).abs().log()


@exercise.mistake(
    "You took log tr A, which is NaN where the trace is negative. The trace already is a logarithm: "
    "det e^A = e^(tr A), and so log|det e^A| = tr A, of any sign."
)
def log_of_a_negative_trace(A, x):
    return linear_flow(A, x)[0], inputs.trace(A).log()


@exercise.mistake(
    "You returned the determinant of e^A, which is e^(tr A). Its logarithm is asked for, and no exponential is needed: "
    "tr A."
)
def determinant_of_the_exponential(A, x):
    return linear_flow(A, x)[0], inputs.trace(A).exp()


@exercise.mistake(
    "You took log|det A|. A is the matrix of the velocity; the map from x to y has the Jacobian e^A, and log|det e^A| "
    "is tr A."
)
def log_det_of_the_velocity(A, x):
    return linear_flow(A, x)[0], torch.linalg.slogdet(A).logabsdet


@exercise.mistake(
    "You took det A. A is the matrix of the velocity; the map from x to y has the Jacobian e^A, and log|det e^A| is "
    "tr A."
)
def determinant_for_trace(A, x):
    return linear_flow(A, x)[0], torch.linalg.det(A)


@exercise.mistake("You added up all entries of A. The divergence of A x is the trace, the sum of the diagonal alone.")
def all_entries_of_the_matrix(A, x):
    return linear_flow(A, x)[0], A.sum((-2, -1))


@exercise.mistake("You averaged the diagonal of A. The trace is its sum: your log_det is too small by the factor d.")
def trace_over_d(A, x):
    return linear_flow(A, x)[0], inputs.trace(A) / A.shape[-1]


@exercise.mistake("The diagonal is right, but the trace is its sum: one number for each point, .sum(-1).")
def trace_not_summed(A, x):
    return linear_flow(A, x)[0], A.diagonal(dim1=-2, dim2=-1) + 0


@exercise.mistake("You added up the traces of the batch. Each point has a matrix and a log_det of its own: (*batch).")
def traces_of_the_batch_added(A, x):
    return linear_flow(A, x)[0], inputs.trace(A).sum()


@exercise.mistake("Your log_det is 0, as for a flow that keeps volumes. It is so only where tr A = 0; else it is tr A.")
def volumes_kept(A, x):
    return linear_flow(A, x)[0], 0 * inputs.trace(A)


@exercise.mistake("Both tensors are right, but they have changed places: first the points y, then log_det.")
def log_det_before_the_points(A, x):
    return linear_flow(A, x)[::-1]
