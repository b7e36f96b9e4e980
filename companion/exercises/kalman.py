"""The exercises of the kalman section, from two Gaussian numbers to one step of the smoother.

After each reference solution come its hints, its check, other correct solutions and the mistakes people make.  What an
answer is compared with takes another road than the solution: precisions instead of covariances, points that are carried
along, or one large Gaussian of all observations.
"""

import math

import numpy as np
import torch
from torch.distributions import MultivariateNormal

from companion.exercises import Exercise
from companion.exercises import _inputs as inputs
from companion.kalman import predict, update


def _cov(*shape, generator):
    """Random covariances, shape (*batch, d, d): no eigenvalue is near 0, and no coordinate is on its own."""
    root = inputs.normal(*shape, shape[-1], generator=generator)
    return root @ root.mT / shape[-1] + 0.4 * torch.eye(shape[-1], dtype=torch.float64)


def _steady(rows, columns, generator):
    """A random matrix near the identity, so that dividing by it or by its square loses few digits."""
    return torch.eye(rows, columns, dtype=torch.float64) + 0.4 * inputs.normal(rows, columns, generator=generator)


def _to(dtype, *tensors):
    return [tensor.to(dtype) for tensor in tensors]


def _times(M, v):
    """M v, for any batch axes of either."""
    return (M @ v[..., None])[..., 0]


def _between(M, P):
    """M P Mᵀ."""
    return M @ P @ M.mT


def _divided(M, S):
    """M S⁻¹."""
    return torch.linalg.solve(S, M, left=False)


def _one(P):
    return torch.eye(P.shape[-1], dtype=P.dtype)


# 1 ------------------------------------------------------------------------------------------------------------------


def condition(mean, cov, x, k):
    """What is known of z once x has been seen, where z and x together are Gaussian.

        (z, x) ~ N(mean, cov),   z | x ~ N(m, P)

    The first k numbers belong to z, the other p belong to x:

        mean = (m_z, m_x),   cov = ( P_zz  P_zx )
                                   ( P_xz  P_xx )

    mean: shape (*batch, k + p), with any batch axes.  cov: the covariance of all
    k + p numbers, positive definite, shape (*batch, k + p, k + p).  x: what has been
    seen, shape (*batch, p).  k: how many numbers z has, at least 1.  Returns the pair
    (m, P): the mean of z given x, shape (*batch, k), and its covariance, shape
    (*batch, k, k).
    """
    m_z, m_x = mean[..., :k], mean[..., k:]
    P_zz, P_zx, P_xx = cov[..., :k, :k], cov[..., :k, k:], cov[..., k:, k:]
    K = torch.linalg.solve(P_xx, P_zx.mT).mT
    return m_z + (K @ (x - m_x)[..., None])[..., 0], P_zz - K @ P_zx.mT


exercise = Exercise(
    condition,
    hints=[
        "Begin with two numbers, k = p = 1. The line through the mean with the slope P_zx/P_xx is the best guess of z "
        "for each x. How much of the variance of z does the guess explain?",
        "With several numbers the slope becomes the gain K = P_zx P_xx⁻¹, of shape (k, p). The mean moves by K times "
        "the surprise x − m_x, and the covariance shrinks by K P_xz.",
        "Cut out the blocks: P_zx = cov[..., :k, k:] and so on. With K = P_zx @ torch.linalg.inv(P_xx), the mean is "
        "m_z + (K @ (x - m_x)[..., None])[..., 0] and the covariance is P_zz - K @ P_zx.mT.",
    ],
)


@exercise.check
def _(attempt, generator):
    def want(mean, cov, x, k):  # of the precision, the block of z is that of z given x
        mean, x, precision = mean.numpy(), x.numpy(), np.linalg.inv(cov.numpy())
        P = np.linalg.inv(precision[..., :k, :k])
        pull = np.einsum("...ij,...j->...i", precision[..., :k, k:], x - mean[..., k:])
        return torch.from_numpy(mean[..., :k] - np.einsum("...ij,...j->...i", P, pull)), torch.from_numpy(P)

    mean, x = inputs.tenth(0.5, 2, 2, generator=generator), inputs.tenth(2.5, 4, 1, generator=generator)
    a, b = inputs.tenth(1.2, 3, 2, generator=generator).tolist()
    r = inputs.tenth(0.3, 0.9, generator=generator).item()
    cov = torch.tensor([[a, r], [r, b]], dtype=torch.float64)
    what = (
        f"for the mean {inputs.numbers(mean)}, the cov ({a:.1f} {r:.1f}; {r:.1f} {b:.1f}), x = {x.item():.1f} and k = 1"
    )
    yield from inputs.pair(
        "condition", what, ("mean", "cov"), torch.float64, attempt(mean, cov, x, 1), want(mean, cov, x, 1)
    )
    for k, p, batch, dtype in (
        (2, 2, (), torch.float64),
        (3, 3, (3,), torch.float64),  # all alike: what fits here by accident is seen to be wrong
        (3, 2, (), torch.float64),
        (2, 4, (2, 3), torch.float64),
        (2, 2, (4,), torch.float32),
    ):
        mean, x = (inputs.normal(*batch, n, generator=generator) for n in (k + p, p))
        cov = _cov(*batch, k + p, generator=generator)
        what = f"for z of {k} and x of shape {tuple(x.shape)}"
        answer = attempt(*_to(dtype, mean, cov, x), k)
        yield from inputs.pair("condition", what, ("mean", "cov"), dtype, answer, want(mean, cov, x, k))


@exercise.alternative
def by_precision(mean, cov, x, k):
    precision = torch.linalg.inv(cov)
    P = torch.linalg.inv(precision[..., :k, :k])
    return mean[..., :k] - _times(P @ precision[..., :k, k:], x - mean[..., k:]), P


@exercise.alternative
def one_number_after_another(mean, cov, x, k):
    """A Gaussian given its last number is Gaussian again, one number shorter: no matrix has to be inverted."""
    for i in reversed(range(x.shape[-1])):
        gain = cov[..., :-1, -1] / cov[..., -1:, -1]
        mean, last = mean[..., :-1] + gain * (x[..., i] - mean[..., -1])[..., None], cov[..., -1, :-1]
        cov = cov[..., :-1, :-1] - gain[..., :, None] * last[..., None, :]
    return mean, cov


@exercise.alternative
def by_cholesky_factor(mean, cov, x, k):
    """With x in front, the factor's last block is that of z given x."""
    order = [*range(k, mean.shape[-1]), *range(k)]
    L, p = torch.linalg.cholesky(cov[..., order, :][..., order]), x.shape[-1]
    white = torch.linalg.solve_triangular(L[..., :p, :p], (x - mean[..., k:])[..., None], upper=False)
    return mean[..., :k] + (L[..., p:, :p] @ white)[..., 0], _between(L[..., p:, p:], _one(L[..., p:, p:]))


def _blocks(mean, cov, k):
    return mean[..., :k], mean[..., k:], cov[..., :k, :k], cov[..., :k, k:], cov[..., k:, k:]


def _conditioned(mean, cov, x, k, gain):
    """m_z + K (x − m_x) and P_zz − K P_xz with another gain K."""
    m_z, m_x, P_zz, P_zx, _ = _blocks(mean, cov, k)
    return m_z + _times(gain, x - m_x), P_zz - gain @ P_zx.mT


def _gain(cov, k):
    return _divided(cov[..., :k, k:], cov[..., k:, k:])


def _alike(cov, k):
    """Whether z and x have the same number of entries: else what mixes them up does not fit together."""
    return cov.shape[-1] == 2 * k


@exercise.mistake(
    "Your gain is transposed: P_xx⁻¹ P_xz has the shape (p, k). The gain carries numbers of x to numbers of z, so it "
    "has the shape (k, p): P_zx P_xx⁻¹."
)
def gain_transposed(mean, cov, x, k):
    return _conditioned(mean, cov, x, k, _gain(cov, k).mT) if _alike(cov, k) else condition(mean, cov, x, k)


@exercise.mistake(
    "Your covariance is right, but in the mean the gain is transposed: x − m_x is multiplied by P_zx P_xx⁻¹, of the "
    "shape (k, p)."
)
def gain_of_the_mean_transposed(mean, cov, x, k):
    m, P = condition(mean, cov, x, k)
    return (mean[..., :k] + _times(_gain(cov, k).mT, x - mean[..., k:]) if _alike(cov, k) else m), P


@exercise.mistake(
    "The gain divides by the wrong block: you took P_zz⁻¹. It is x that has been seen, so its own covariance P_xx says "
    "how much a surprise of that size means."
)
def inverse_of_the_wrong_block(mean, cov, x, k):
    if not _alike(cov, k):
        return condition(mean, cov, x, k)
    return _conditioned(mean, cov, x, k, _divided(cov[..., :k, k:], cov[..., :k, :k]))


@exercise.mistake(
    "You took P_zx P_xx, where it should be P_zx P_xx⁻¹: divide by the covariance of x. The more x scatters by itself, "
    "the less a surprise says."
)
def multiplied_by_the_covariance_of_x(mean, cov, x, k):
    return _conditioned(mean, cov, x, k, cov[..., :k, k:] @ cov[..., k:, k:])


@exercise.mistake(
    "You took P_zx itself for the gain. Divide by the covariance of x: K = P_zx P_xx⁻¹, so that K (x − m_x) has the "
    "units of z."
)
def covariance_for_gain(mean, cov, x, k):
    return _conditioned(mean, cov, x, k, cov[..., :k, k:])


@exercise.mistake(
    "You divided by the variances of x alone, as if its numbers were independent. Take the inverse of the whole block: "
    "K = P_zx P_xx⁻¹."
)
def variances_of_x_alone(mean, cov, x, k):
    variances = cov[..., k:, k:].diagonal(dim1=-2, dim2=-1)
    return _conditioned(mean, cov, x, k, cov[..., :k, k:] / variances[..., None, :])


@exercise.mistake(
    "Your mean is right, but your covariance grew: the sign of K P_xz is minus. To see x never makes a Gaussian z less "
    "certain."
)
def covariance_grows(mean, cov, x, k):
    m, P = condition(mean, cov, x, k)
    return m, 2 * cov[..., :k, :k] - P


@exercise.mistake("Your covariance is right, but your mean is still m_z. It moves by the gain: m_z + K (x − m_x).")
def mean_not_moved(mean, cov, x, k):
    return mean[..., :k], condition(mean, cov, x, k)[1]


@exercise.mistake(
    "Your mean is right, but your covariance is still P_zz, that of z before x was seen. What x tells is taken away: "
    "P_zz − K P_xz."
)
def covariance_not_reduced(mean, cov, x, k):
    return condition(mean, cov, x, k)[0], cov[..., :k, :k]


@exercise.mistake(
    "You left z as it was. That leaves the correlation with x unused: where P_zx is not 0, x tells something about z."
)
def x_ignored(mean, cov, x, k):
    return mean[..., :k], cov[..., :k, :k]


@exercise.mistake(
    "Your x is not centred: the gain takes the surprise x − m_x. An x that is as expected must leave the mean at m_z."
)
def x_not_centred(mean, cov, x, k):
    return mean[..., :k] + _times(_gain(cov, k), x), condition(mean, cov, x, k)[1]


@exercise.mistake(
    "The surprise has the wrong sign: it is x − m_x. An x above its mean pulls z up where the two rise together."
)
def surprise_of_the_wrong_sign(mean, cov, x, k):
    m, P = condition(mean, cov, x, k)
    return 2 * mean[..., :k] - m, P


@exercise.mistake("Your covariance is right, but m_z is missing in the mean: m_z + K (x − m_x).")
def mean_of_z_missing(mean, cov, x, k):
    m, P = condition(mean, cov, x, k)
    return m - mean[..., :k], P


@exercise.mistake("Your mean is right, but your covariance is that of x given z. Of z given x it is P_zz − K P_xz.")
def covariance_of_x_given_z(mean, cov, x, k):
    m, P = condition(mean, cov, x, k)
    turned = cov.roll((k, k), (-2, -1))
    return m, (turned[..., :k, :k] - _gain(turned, k) @ turned[..., k:, :k] if _alike(cov, k) else P)


@exercise.mistake(
    "You exchanged the two parts: yours is what is known of the numbers behind, had those in front been seen. z stands "
    "in front, mean[..., :k], and x behind, mean[..., k:]; x has been seen."
)
def z_taken_from_the_end(mean, cov, x, k):
    p = x.shape[-1]
    order = [*range(p, p + k), *range(p)]
    return condition(mean[..., order], cov[..., order, :][..., order], x, k)


@exercise.mistake(
    "Your mean is right, but for the covariance you returned a block of the precision. Invert it once more: the "
    "inverse of the block (cov⁻¹)_zz is P_zz − P_zx P_xx⁻¹ P_xz."
)
def precision_for_covariance(mean, cov, x, k):
    return condition(mean, cov, x, k)[0], torch.linalg.inv(cov)[..., :k, :k]


@exercise.mistake(
    "Your mean is right, but you subtracted K Kᵀ. What the guess K (x − m_x) explains is its covariance, K P_xx Kᵀ, "
    "and that is K P_xz."
)
def gain_times_gain_subtracted(mean, cov, x, k):
    K = _gain(cov, k)
    return condition(mean, cov, x, k)[0], cov[..., :k, :k] - K @ K.mT


@exercise.mistake(
    "Your mean is right, but you subtracted P_zx P_xz, without the division by P_xx. It is P_zz − P_zx P_xx⁻¹ P_xz."
)
def reduced_without_division(mean, cov, x, k):
    P_zx = cov[..., :k, k:]
    return condition(mean, cov, x, k)[0], cov[..., :k, :k] - P_zx @ P_zx.mT


@exercise.mistake(
    "Your covariance depends on x: you subtracted the square of K (x − m_x) where its average belongs. How certain z "
    "becomes does not depend on what is seen: P_zz − K P_xz."
)
def covariance_depends_on_x(mean, cov, x, k):
    m, _ = condition(mean, cov, x, k)
    move = m - mean[..., :k]
    return m, cov[..., :k, :k] - move[..., :, None] * move[..., None, :]


@exercise.mistake(
    "In a batch, K @ (x − m_x) takes the points for the columns of a matrix. Give each point its own column and take "
    "it away again: (K @ (x - m_x)[..., None])[..., 0]."
)
def points_taken_for_columns(mean, cov, x, k):
    m, P = condition(mean, cov, x, k)
    if x.ndim == 2 and x.shape[0] == x.shape[1]:
        m = mean[..., :k] + _gain(cov, k) @ (x - mean[..., k:])
    return m, P


@exercise.mistake("The pair is in the wrong order: return the mean first, then the covariance.")
def covariance_in_front(mean, cov, x, k):
    return condition(mean, cov, x, k)[::-1]


# 2 ------------------------------------------------------------------------------------------------------------------


def predict_step(mean, cov, A, Q):
    """What is known of the next state, from what is known of this one.

        z ~ N(mean, cov),   z_next = A z + w,   w ~ N(0, Q)

    The noise w is independent of z.

    mean: shape (*batch, d), with any batch axes.  cov: the covariance of z, shape
    (*batch, d, d).  A: a matrix of shape (d, d), any matrix: it need not be symmetric.
    Q: the covariance of the noise, not its standard deviation, shape (d, d).  Returns
    the pair (m, P): mean and covariance of z_next, shapes (*batch, d) and
    (*batch, d, d).
    """
    return mean @ A.mT, A @ cov @ A.mT + Q


exercise = Exercise(
    predict_step,
    hints=[
        "The mean of a sum is the sum of the means. For independent numbers the variances add up as well. What does a "
        "number a do to the variance of z when it multiplies z?",
        "A number a turns the variance v into a² v. For a matrix, the covariance is the mean of (A e)(A e)ᵀ with "
        "e = z − mean: A comes out on the left, and its transpose on the right.",
        "The pair is (A @ mean[..., None])[..., 0], which for rows is mean @ A.mT, and A @ cov @ A.mT + Q.",
    ],
)


@exercise.check
def _(attempt, generator):
    def want(mean, cov, A, Q):
        """2d points that have this mean and this covariance, and are carried along one by one."""
        mean, A, root = mean.numpy(), A.numpy(), np.linalg.cholesky(cov.numpy())
        d = len(A)
        spread = math.sqrt(d) * np.concatenate([root, -root], -1).swapaxes(-1, -2)
        moved = np.tensordot(mean[..., None, :] + spread, A, axes=(-1, 1))
        middle = moved.mean(-2)
        errors = moved - middle[..., None, :]
        scatter = (errors[..., :, None] * errors[..., None, :]).mean(-3)
        return torch.from_numpy(middle), torch.from_numpy(scatter) + Q

    a, b, u, v, q, r = inputs.tenth(0.3, 1.8, 6, generator=generator).tolist()
    A, Q, cov = (
        torch.tensor(rows, dtype=torch.float64) for rows in ([[1, a], [0, b]], [[q, 0], [0, r]], [[u, 0], [0, v]])
    )
    mean = inputs.tenth(0.5, 2, 2, generator=generator)
    what = (
        f"for the mean {inputs.numbers(mean)}, the cov ({u:.1f} 0; 0 {v:.1f}), A = (1 {a:.1f}; 0 {b:.1f}) and "
        f"Q = ({q:.1f} 0; 0 {r:.1f})"
    )
    yield from inputs.pair(
        "predict_step", what, ("mean", "cov"), torch.float64, attempt(mean, cov, A, Q), want(mean, cov, A, Q)
    )
    for d, batch, dtype in (
        (3, (3,), torch.float64),  # as many points as coordinates: here A @ mean goes unnoticed
        (1, (), torch.float64),
        (5, (2, 3), torch.float64),
        (3, (4,), torch.float32),
    ):
        mean, cov = inputs.normal(*batch, d, generator=generator), _cov(*batch, d, generator=generator)
        A, Q = _steady(d, d, generator), _cov(d, generator=generator)
        what = f"for the mean of shape {tuple(mean.shape)}"
        answer = attempt(*_to(dtype, mean, cov, A, Q))
        yield from inputs.pair("predict_step", what, ("mean", "cov"), dtype, answer, want(mean, cov, A, Q))


@exercise.alternative
def moments_of_the_companion(mean, cov, A, Q):
    return predict(mean, cov, A, Q)


@exercise.alternative
def index_by_index(mean, cov, A, Q):
    return torch.einsum("ij,...j->...i", A, mean), torch.einsum("ij,...jk,lk->...il", A, cov, A) + Q


@exercise.alternative
def by_roots(mean, cov, A, Q):
    """A root of cov beside one of Q, multiplied by itself: no covariance made so can have a negative eigenvalue."""
    roots = [A @ torch.linalg.cholesky(cov), torch.linalg.cholesky(Q).expand_as(cov)]
    both = torch.cat(roots, -1)
    return torch.nn.functional.linear(mean, A), both @ both.mT


def _ahead(mean, A):
    return mean @ A.mT


@exercise.mistake(
    "Your mean is right, but A P A lacks the transpose. The covariance is the mean of (A e)(A e)ᵀ, and that turns the "
    "second A over: A P Aᵀ + Q."
)
def second_A_not_transposed(mean, cov, A, Q):
    return _ahead(mean, A), A @ cov @ A + Q


@exercise.mistake(
    "Your mean is right, but the transpose stands on the wrong side: it is A P Aᵀ + Q. A stands on the left, where it "
    "acts on z."
)
def first_A_transposed(mean, cov, A, Q):
    return _ahead(mean, A), A.mT @ cov @ A + Q


@exercise.mistake(
    "Your mean is right, but A stands on one side of P alone. A covariance is quadratic in z, so A comes in twice: "
    "A P Aᵀ + Q."
)
def A_on_the_left_alone(mean, cov, A, Q):
    return _ahead(mean, A), A @ cov + Q


@exercise.mistake(
    "Your mean is right, but only Aᵀ stands beside P. A covariance is quadratic in z, so A comes in twice: A P Aᵀ + Q."
)
def A_on_the_right_alone(mean, cov, A, Q):
    return _ahead(mean, A), cov @ A.mT + Q


@exercise.mistake(
    "Your mean is right, but your covariance is P + Q, as for a state that stands still. A stretches and turns the "
    "errors too: A P Aᵀ + Q."
)
def covariance_stands_still(mean, cov, A, Q):
    return _ahead(mean, A), cov + Q


@exercise.mistake(
    "Your mean is right, but * multiplies entry by entry. The product of matrices is @: A @ cov @ A.mT + Q."
)
def covariance_entry_by_entry(mean, cov, A, Q):
    return _ahead(mean, A), A * cov * A.mT + Q


@exercise.mistake(
    "Your mean is right, but you squared A and multiplied once, A A P. One A belongs on each side of P: A P Aᵀ + Q."
)
def A_squared_on_the_left(mean, cov, A, Q):
    return _ahead(mean, A), A @ A @ cov + Q


@exercise.mistake("The noise is missing in your covariance: it adds its own, A P Aᵀ + Q. It leaves the mean alone.")
def noise_forgotten(mean, cov, A, Q):
    return _ahead(mean, A), _between(A, cov)


@exercise.mistake("You subtracted Q. The noise makes the next state less certain: A P Aᵀ + Q.")
def noise_subtracted(mean, cov, A, Q):
    return _ahead(mean, A), _between(A, cov) - Q


@exercise.mistake("You added Q Qᵀ, as for a standard deviation. Q is a covariance already: A P Aᵀ + Q.")
def Q_taken_for_a_scale(mean, cov, A, Q):
    return _ahead(mean, A), _between(A, cov) + Q @ Q.mT


@exercise.mistake(
    "You squared each entry of Q, as for a standard deviation. Q is a covariance already: A P Aᵀ + Q as it stands."
)
def entries_of_Q_squared(mean, cov, A, Q):
    return _ahead(mean, A), _between(A, cov) + Q**2


@exercise.mistake(
    "You took a root of Q. Covariances of independent parts add up as they are, standard deviations do not: A P Aᵀ + Q."
)
def root_of_Q(mean, cov, A, Q):
    return _ahead(mean, A), _between(A, cov) + torch.linalg.cholesky(Q)


@exercise.mistake(
    "You added the diagonal of Q alone. The noise may be correlated from one coordinate to another: add the whole "
    "matrix."
)
def diagonal_of_Q_alone(mean, cov, A, Q):
    return _ahead(mean, A), _between(A, cov) + Q.diagonal().diag()


@exercise.mistake(
    "You added the noise before the step: A (P + Q) Aᵀ. It comes in after A has moved the state, so A does not act on "
    "it: A P Aᵀ + Q."
)
def noise_before_the_step(mean, cov, A, Q):
    return _ahead(mean, A), _between(A, cov + Q)


@exercise.mistake(
    "You kept the diagonal of P alone. The coordinates' errors go together, and A mixes them: A P Aᵀ + Q with the "
    "whole of P."
)
def diagonal_of_P_alone(mean, cov, A, Q):
    return _ahead(mean, A), _between(A, cov.diagonal(dim1=-2, dim2=-1).diag_embed()) + Q


@exercise.mistake("You returned the diagonal of the covariance as a matrix. A mixes the coordinates: keep all entries.")
def diagonal_of_the_answer_alone(mean, cov, A, Q):
    return _ahead(mean, A), (_between(A, cov) + Q).diagonal(dim1=-2, dim2=-1).diag_embed()


@exercise.mistake("Your covariance is right, but your mean has not moved: that of A z is A times the mean of z.")
def mean_stands_still(mean, cov, A, Q):
    return mean, _between(A, cov) + Q


@exercise.mistake(
    "You added A times the mean to the mean, as if A were a velocity. Here A z is the next state itself: the mean is "
    "A mean."
)
def mean_plus_its_step(mean, cov, A, Q):
    return mean + _ahead(mean, A), _between(A, cov) + Q


@exercise.mistake(
    "Your mean is Aᵀ mean: for rows, mean @ A multiplies by the transpose. Take mean @ A.mT, or "
    "(A @ mean[..., None])[..., 0]."
)
def mean_times_A_transposed(mean, cov, A, Q):
    return mean @ A, _between(A, cov) + Q


@exercise.mistake(
    "Both halves are those of Aᵀ z. For rows, A z is mean @ A.mT; and its covariance has A on the left, A P Aᵀ + Q."
)
def moved_by_A_transposed(mean, cov, A, Q):
    return mean @ A, _between(A.mT, cov) + Q


@exercise.mistake(
    "You multiplied A by the whole batch, as if its first axis held coordinates. That fits by accident where there are "
    "as many points as coordinates. Points are rows: mean @ A.mT."
)
def A_times_the_batch(mean, cov, A, Q):
    rows = mean.ndim == 2 and len(mean) == len(A)
    return (A @ mean if rows else _ahead(mean, A)), _between(A, cov) + Q


@exercise.mistake("You took two steps: A has been applied twice, and so has the noise. One call is one step.")
def two_steps_at_once(mean, cov, A, Q):
    return predict(*predict(mean, cov, A, Q), A, Q)


@exercise.mistake("Your covariance is right, but your mean is two steps ahead: A mean, not A A mean.")
def mean_two_steps_ahead(mean, cov, A, Q):
    return _ahead(_ahead(mean, A), A), _between(A, cov) + Q


@exercise.mistake(
    "You added the square of the mean. That is the second moment, the mean of z zᵀ; a covariance is about the errors "
    "around the mean: A P Aᵀ + Q."
)
def second_moment_for_covariance(mean, cov, A, Q):
    m = _ahead(mean, A)
    return m, _between(A, cov) + Q + m[..., :, None] * m[..., None, :]


@exercise.mistake("You divided by A, which leads one step back in time. The next state is A z: multiply.")
def one_step_back(mean, cov, A, Q):
    back = torch.linalg.inv(A)
    return _ahead(mean, back), _between(back, cov) + Q


@exercise.mistake("The pair is in the wrong order: first the mean of the next state, then its covariance.")
def spread_before_mean(mean, cov, A, Q):
    return predict_step(mean, cov, A, Q)[::-1]


# 3 ------------------------------------------------------------------------------------------------------------------


def update_step(mean, cov, x, C, R):
    """What is known of the state, once it has been seen through noise.

        z ~ N(mean, cov),   x = C z + v,   v ~ N(0, R)

    The noise v is independent of z.  The answer is that of condition, for z and x
    together; but here their covariance has to be made from C and R first.

    mean: what was expected of z, shape (*batch, d), with any batch axes.  cov: its
    covariance, shape (*batch, d, d).  x: what has been seen, shape (*batch, p).
    C: a matrix of shape (p, d).  R: the covariance of the noise, not its standard
    deviation, shape (p, p).  Returns the pair (m, P): mean and covariance of z given
    x, shapes (*batch, d) and (*batch, d, d).
    """
    S = C @ cov @ C.mT + R
    K = torch.linalg.solve(S, C @ cov).mT
    return mean + (K @ (x - mean @ C.mT)[..., None])[..., 0], cov - K @ C @ cov


exercise = Exercise(
    update_step,
    hints=[
        "What would you expect to see, and how uncertain would you be of it? The surprise is x − C mean. Its "
        "covariance S holds what is not known of z, seen through C, and the noise.",
        "S = C P Cᵀ + R, and the covariance of z with x is P Cᵀ. So the gain is K = P Cᵀ S⁻¹, of shape (d, p). It "
        "carries the surprise into the mean.",
        "With K = cov @ C.mT @ torch.linalg.inv(S), the mean is mean + (K @ (x - mean @ C.mT)[..., None])[..., 0] and "
        "the covariance is cov - K @ C @ cov.",
    ],
)


@exercise.check
def _(attempt, generator):
    def want(mean, cov, x, C, R):
        """In precisions, to see is to add: P⁻¹ + Cᵀ R⁻¹ C, and the means are added with these as weights."""
        mean, cov, x, C, R = (t.numpy() for t in (mean, cov, x, C, R))
        before, seen = np.linalg.inv(cov), C.T @ np.linalg.inv(R)
        P = np.linalg.inv(before + seen @ C)
        weighted = np.einsum("...ij,...j->...i", before, mean) + np.einsum("ij,...j->...i", seen, x)
        return torch.from_numpy(np.einsum("...ij,...j->...i", P, weighted)), torch.from_numpy(P)

    mean, c = inputs.tenth(0.5, 2, 1, generator=generator), inputs.tenth(1.2, 1.9, generator=generator)
    p, x, r = inputs.tenth(1.2, 3, generator=generator), *inputs.tenth(2.5, 4, 2, generator=generator)
    given = mean, p[None, None], x[None], c[None, None], r[None, None]
    what = f"for the mean {mean.item():.1f}, the cov {p:.1f}, x = {x:.1f}, C = {c:.1f} and R = {r:.1f}"
    yield from inputs.pair("update_step", what, ("mean", "cov"), torch.float64, attempt(*given), want(*given))
    for d, p, batch, dtype in (
        (2, 2, (), torch.float64),
        (3, 3, (3,), torch.float64),  # all alike: what fits here by accident is seen to be wrong
        (3, 2, (), torch.float64),
        (4, 2, (2, 3), torch.float64),
        (2, 2, (4,), torch.float32),
    ):
        mean, x = (inputs.normal(*batch, n, generator=generator) for n in (d, p))
        cov, C, R = _cov(*batch, d, generator=generator), _steady(p, d, generator), _cov(p, generator=generator)
        what = f"for a state of {d} and x of shape {tuple(x.shape)}"
        answer = attempt(*_to(dtype, mean, cov, x, C, R))
        yield from inputs.pair("update_step", what, ("mean", "cov"), dtype, answer, want(mean, cov, x, C, R))


@exercise.alternative
def update_of_the_companion(mean, cov, x, C, R):
    known, _ = update(mean, cov, x, C, R)
    return known


@exercise.alternative
def by_condition(mean, cov, x, C, R):
    both = torch.cat([torch.eye(C.shape[1], dtype=C.dtype), C])  # takes z to (z, C z)
    joint = _between(both, cov)
    joint[..., C.shape[1] :, C.shape[1] :] += R
    return condition(mean @ both.mT, joint, x, C.shape[1])


@exercise.alternative
def by_adding_precisions(mean, cov, x, C, R):
    seen = torch.linalg.solve(R, C).mT
    P = torch.linalg.inv(torch.linalg.inv(cov) + seen @ C)
    return _times(P, torch.linalg.solve(cov, mean) + _times(seen, x)), P


@exercise.alternative
def noise_made_independent(mean, cov, x, C, R):
    """Divided by a root of R, the numbers of x have independent noise and can be taken one after another."""
    root = torch.linalg.cholesky(R)
    C, x = torch.linalg.solve(root, C), torch.linalg.solve(root, x[..., None])[..., 0]
    for c, number in zip(C, x.unbind(-1)):
        with_z = cov @ c
        s = (with_z @ c + 1)[..., None]
        mean = mean + with_z * (number - mean @ c)[..., None] / s
        cov = cov - with_z[..., :, None] * with_z[..., None, :] / s[..., None]
    return mean, cov


def _updated(mean, cov, x, C, K, innovation=None):
    """m + K (x − C m) and (I − K C) P, with another gain or another innovation."""
    innovation = x - mean @ C.mT if innovation is None else innovation
    return mean + _times(K, innovation), cov - K @ C @ cov


def _S(cov, C, R):
    return _between(C, cov) + R


def _kalman_gain(cov, C, R):
    return _divided(cov @ C.mT, _S(cov, C, R))


def _square(C):
    """Whether z and x have the same number of entries: else what mixes them up does not fit together."""
    return C.shape[0] == C.shape[1]


def _spread(mean, cov, x, C, R, P):
    """The right mean, with another covariance."""
    return update_step(mean, cov, x, C, R)[0], P


@exercise.mistake(
    "R is missing in your gain: S = C P Cᵀ + R. Without it x is believed as if it had been seen without noise."
)
def gain_without_noise(mean, cov, x, C, R):
    return _updated(mean, cov, x, C, _divided(cov @ C.mT, _between(C, cov)))


@exercise.mistake(
    "Your gain divides by R alone, where it should divide by S = C P Cᵀ + R. P Cᵀ R⁻¹ is the gain with the covariance "
    "of z after x has been seen, not with that before."
)
def gain_divided_by_noise_alone(mean, cov, x, C, R):
    return _updated(mean, cov, x, C, _divided(cov @ C.mT, R))


@exercise.mistake(
    "You subtracted R: S = C P Cᵀ + R. The noise makes what is seen less certain, so its covariance adds."
)
def noise_taken_away(mean, cov, x, C, R):
    return _updated(mean, cov, x, C, _kalman_gain(cov, C, -R))


@exercise.mistake("You took R Rᵀ for the noise, as if R were a standard deviation. R is a covariance: S = C P Cᵀ + R.")
def R_taken_for_a_scale(mean, cov, x, C, R):
    return _updated(mean, cov, x, C, _kalman_gain(cov, C, R @ R.mT))


@exercise.mistake("You squared the entries of R, as for a standard deviation. R is a covariance: S = C P Cᵀ + R.")
def entries_of_R_squared(mean, cov, x, C, R):
    return _updated(mean, cov, x, C, _kalman_gain(cov, C, R**2))


@exercise.mistake(
    "You added the diagonal of R alone. The noise may be correlated from one sensor to another: S = C P Cᵀ + R with "
    "the whole matrix."
)
def diagonal_of_R_alone(mean, cov, x, C, R):
    return _updated(mean, cov, x, C, _kalman_gain(cov, C, R.diagonal().diag()))


@exercise.mistake(
    "You multiplied by S where you should divide: K = P Cᵀ S⁻¹. The less certain x is, the less it may move the mean."
)
def multiplied_by_S(mean, cov, x, C, R):
    return _updated(mean, cov, x, C, cov @ C.mT @ (_S(cov, C, R)))


@exercise.mistake(
    "P is missing in your gain: K = P Cᵀ S⁻¹. A state that was known well has to be moved less than one that was not."
)
def gain_without_P(mean, cov, x, C, R):
    return _updated(mean, cov, x, C, _divided(C.mT.expand(*cov.shape[:-2], -1, -1), _S(cov, C, R)))


@exercise.mistake("Cᵀ is missing in your gain: the covariance of z with x is P Cᵀ, and the gain is K = P Cᵀ S⁻¹.")
def gain_without_C(mean, cov, x, C, R):
    return _updated(mean, cov, x, C, _divided(cov, _S(cov, C, R)) if _square(C) else _kalman_gain(cov, C, R))


@exercise.mistake("C is not transposed in your gain: the covariance of z with x is P Cᵀ, so that K = P Cᵀ S⁻¹.")
def gain_with_C_not_transposed(mean, cov, x, C, R):
    return _updated(mean, cov, x, C, _divided(cov @ C, _S(cov, C, R)) if _square(C) else _kalman_gain(cov, C, R))


@exercise.mistake(
    "Your gain is transposed: S⁻¹ C P has the shape (p, d). The gain carries numbers of x to numbers of z: P Cᵀ S⁻¹, "
    "of shape (d, p)."
)
def kalman_gain_transposed(mean, cov, x, C, R):
    K = _kalman_gain(cov, C, R)
    return _updated(mean, cov, x, C, K.mT if _square(C) else K)


@exercise.mistake(
    "Your gain is S⁻¹ P Cᵀ: the factors are in the wrong order. S belongs to x, so S⁻¹ stands on the side of x: "
    "K = P Cᵀ S⁻¹."
)
def gain_factors_in_the_wrong_order(mean, cov, x, C, R):
    K = torch.linalg.solve(_S(cov, C, R), cov @ C.mT) if _square(C) else _kalman_gain(cov, C, R)
    return _updated(mean, cov, x, C, K)


@exercise.mistake(
    "Your S takes P without C: the covariance of what is seen is C P Cᵀ + R. C says which part of z can be seen, and "
    "in what units."
)
def S_without_C(mean, cov, x, C, R):
    return _updated(mean, cov, x, C, _divided(cov @ C.mT, cov + R) if _square(C) else _kalman_gain(cov, C, R))


@exercise.mistake("The transpose in S stands on the wrong side: S = C P Cᵀ + R, as for the covariance of C z.")
def S_with_the_transpose_in_front(mean, cov, x, C, R):
    K = _divided(cov @ C.mT, C.mT @ cov @ C + R) if _square(C) else _kalman_gain(cov, C, R)
    return _updated(mean, cov, x, C, K)


@exercise.mistake(
    "The innovation has the wrong sign: it is x − C mean, what was seen minus what was expected. Yours moves the mean "
    "away from x."
)
def innovation_of_the_wrong_sign(mean, cov, x, C, R):
    return _updated(mean, cov, x, C, _kalman_gain(cov, C, R), mean @ C.mT - x)


@exercise.mistake(
    "You compared x with the state. It has to be compared with what one would expect to see, and that is C mean: the "
    "innovation is x − C mean."
)
def innovation_without_C(mean, cov, x, C, R):
    return _updated(mean, cov, x, C, _kalman_gain(cov, C, R), x - mean if _square(C) else None)


@exercise.mistake(
    "The gain acts on x itself in your mean. It takes the innovation x − C mean: an x that is as expected must leave "
    "the mean where it was."
)
def gain_times_x(mean, cov, x, C, R):
    return _updated(mean, cov, x, C, _kalman_gain(cov, C, R), x)


@exercise.mistake("Your innovation has Cᵀ for C: for rows, C mean is mean @ C.mT, and mean @ C is Cᵀ mean.")
def innovation_with_C_transposed(mean, cov, x, C, R):
    return _updated(mean, cov, x, C, _kalman_gain(cov, C, R), x - mean @ C if _square(C) else None)


@exercise.mistake(
    "You multiplied C by the whole batch, as if its first axis held coordinates. That fits by accident where there are "
    "as many points as coordinates. Points are rows: mean @ C.mT."
)
def C_times_the_batch(mean, cov, x, C, R):
    rows = mean.ndim == 2 and len(mean) == C.shape[1] and mean.shape[0] == x.shape[1]
    return _updated(mean, cov, x, C, _kalman_gain(cov, C, R), x - C @ mean if rows else None)


@exercise.mistake(
    "In a batch, K @ (x − C mean) takes the points for the columns of a matrix. Give each point its own column and "
    "take it away again: (K @ innovation[..., None])[..., 0]."
)
def innovations_taken_for_columns(mean, cov, x, C, R):
    m, P = update_step(mean, cov, x, C, R)
    if x.ndim == 2 and x.shape[0] == x.shape[1]:
        m = mean + _kalman_gain(cov, C, R) @ (x - mean @ C.mT)
    return m, P


@exercise.mistake(
    "Your mean is K (x − C mean) alone. That is how far it moves, and it moves from where it was: add mean."
)
def correction_alone(mean, cov, x, C, R):
    m, P = update_step(mean, cov, x, C, R)
    return m - mean, P


@exercise.mistake("Your covariance is right, but the mean has not been updated: mean + K (x − C mean).")
def state_not_moved(mean, cov, x, C, R):
    return mean, update_step(mean, cov, x, C, R)[1]


@exercise.mistake(
    "Your mean is right, but the covariance has not been updated. To see x makes z more certain: (I − K C) P."
)
def spread_not_updated(mean, cov, x, C, R):
    return _spread(mean, cov, x, C, R, cov)


@exercise.mistake(
    "Your mean is right, but your covariance grew, (I + K C) P. To see x makes z more certain: (I − K C) P."
)
def spread_grows(mean, cov, x, C, R):
    return _spread(mean, cov, x, C, R, cov + _kalman_gain(cov, C, R) @ C @ cov)


@exercise.mistake(
    "Your mean is right, but 1 − K C takes each entry of K C from 1. The identity has ones on its diagonal alone: "
    "torch.eye(d) - K @ C, or leave it out: cov - K @ C @ cov."
)
def ones_for_identity(mean, cov, x, C, R):
    return _spread(mean, cov, x, C, R, (1 - _kalman_gain(cov, C, R) @ C) @ cov)


@exercise.mistake(
    "Your mean is right, but P (I − K C) has the factor on the wrong side, and is not symmetric. It is (I − K C) P."
)
def factor_behind_P(mean, cov, x, C, R):
    return _spread(mean, cov, x, C, R, cov - cov @ _kalman_gain(cov, C, R) @ C)


@exercise.mistake("Your mean is right, but P is missing in the covariance: I − K C is the share of P that is left.")
def share_for_covariance(mean, cov, x, C, R):
    return _spread(mean, cov, x, C, R, _one(cov) - _kalman_gain(cov, C, R) @ C)


@exercise.mistake("Your mean is right, but you subtracted K C from P. That is a share; the covariance is P − K C P.")
def share_subtracted(mean, cov, x, C, R):
    return _spread(mean, cov, x, C, R, cov - _kalman_gain(cov, C, R) @ C)


@exercise.mistake(
    "Your mean is right, but (I − K C) P (I − K C)ᵀ is one half of Joseph's form. The noise that came in with x is "
    "missing: + K R Kᵀ."
)
def joseph_without_noise(mean, cov, x, C, R):
    return _spread(mean, cov, x, C, R, _between(_one(cov) - _kalman_gain(cov, C, R) @ C, cov))


@exercise.mistake(
    "Your mean is right, but you mixed two forms: (I − K C) P is all already. K R Kᵀ is added to "
    "(I − K C) P (I − K C)ᵀ, in Joseph's form."
)
def noise_added_to_the_short_form(mean, cov, x, C, R):
    m, P = update_step(mean, cov, x, C, R)
    return m, P + _between(_kalman_gain(cov, C, R), R)


@exercise.mistake("Your mean is right, but you subtracted K R Kᵀ. What has been learnt is K S Kᵀ, and that is K C P.")
def gain_around_R_subtracted(mean, cov, x, C, R):
    return _spread(mean, cov, x, C, R, cov - _between(_kalman_gain(cov, C, R), R))


@exercise.mistake("Your mean is right, but you subtracted K Kᵀ. What has been learnt is K S Kᵀ, and that is K C P.")
def gain_around_nothing_subtracted(mean, cov, x, C, R):
    K = _kalman_gain(cov, C, R)
    return _spread(mean, cov, x, C, R, cov - K @ K.mT)


@exercise.mistake(
    "Your mean is right, but your covariance is a precision: P⁻¹ + Cᵀ R⁻¹ C. Invert it, or take (I − K C) P."
)
def precision_returned(mean, cov, x, C, R):
    return _spread(mean, cov, x, C, R, torch.linalg.inv(cov) + C.mT @ torch.linalg.solve(R, C))


@exercise.mistake("The pair is in the wrong order: first the updated mean, then the updated covariance.")
def spread_before_state(mean, cov, x, C, R):
    return update_step(mean, cov, x, C, R)[::-1]


# 4 ------------------------------------------------------------------------------------------------------------------


def innovation_log_likelihood(innovations, covs):
    """The log-likelihood of a series, from the surprises that a filter met on its way.

        log p(x₁, …, x_T) = Σₜ log p(xₜ | x₁, …, xₜ₋₁) = Σₜ log N(eₜ; 0, Sₜ)

    The innovation eₜ is xₜ minus what the filter expected, and Sₜ is its covariance.

    innovations: all eₜ, shape (*batch, T, p), with any batch axes.  covs: all Sₜ,
    positive definite, shape (*batch, T, p, p).  Returns log p(x₁, …, x_T) for each
    series, shape (*batch), in nats and with all constants.
    """
    white = torch.linalg.solve(covs, innovations[..., None])[..., 0]
    square, p = (innovations * white).sum(-1), innovations.shape[-1]
    return -(square + torch.logdet(covs) + p * math.log(2 * math.pi)).sum(-1) / 2


exercise = Exercise(
    innovation_log_likelihood,
    hints=[
        "Each eₜ is Gaussian with mean 0 and covariance Sₜ, and independent of those before. Write down the "
        "log-density of one of them. What happens to the logarithms of densities that are multiplied?",
        "For one time, log N(e; 0, S) = −½ (eᵀ S⁻¹ e + log det S + p log 2π). The constant comes in at each time: p "
        "numbers are seen at each.",
        "With e and S for all times at once, eᵀ S⁻¹ e is (e * torch.linalg.solve(S, e[..., None])[..., 0]).sum(-1), "
        "log det S is torch.logdet(S), and the sum over time is .sum(-1). Or let "
        "MultivariateNormal(torch.zeros_like(e), S).log_prob(e) do all but the last.",
    ],
)


def _surprises(T, p, batch, generator):
    """Innovations and their covariances of T·p numbers with one large covariance, and its density of these numbers.

    With Σ = L Lᵀ and x = L w, the block of row t on the diagonal of L gives Sₜ = L_tt L_ttᵀ and eₜ = L_tt wₜ.
    """
    cov = _cov(*batch, T * p, generator=generator).numpy()
    x = inputs.normal(*batch, T * p, generator=generator).numpy()
    square = (x * np.linalg.solve(cov, x[..., None])[..., 0]).sum(-1)
    log_p = -(square + np.linalg.slogdet(cov).logabsdet + T * p * math.log(math.tau)) / 2
    L = np.linalg.cholesky(cov)
    white = np.linalg.solve(L, x[..., None]).reshape(*batch, T, p, 1)
    rows = [L[..., t * p : (t + 1) * p, t * p : (t + 1) * p] for t in range(T)]
    roots = torch.from_numpy(np.stack(rows, -3))
    return (roots @ torch.from_numpy(white))[..., 0], roots @ roots.mT, torch.as_tensor(log_p, dtype=torch.float64)


@exercise.check
def _(attempt, generator):
    e, S = inputs.tenth(0.5, 2, 2, generator=generator), inputs.tenth(1.2, 3, 2, generator=generator)
    log_ps = [-value / 2 for value in (e**2 / S + (math.tau * S).log()).tolist()]
    what = f"innovation_log_likelihood for e = {inputs.numbers(e)} and S = {inputs.numbers(S)}, T = 2, p = 1"
    got = attempt(e[:, None], S[:, None, None])
    yield inputs.case(what, torch.float64, got, torch.tensor(sum(log_ps), dtype=torch.float64))
    for T, p, batch, dtype in (
        (3, 2, (), torch.float64),
        (4, 3, (4,), torch.float64),  # as many series as times: a sum over the wrong axis goes unnoticed
        (3, 2, (2, 3), torch.float64),
        (1, 3, (2,), torch.float64),
        (3, 2, (4,), torch.float32),
    ):
        e, S, want = _surprises(T, p, batch, generator)
        what = f"innovation_log_likelihood for innovations of shape {tuple(e.shape)}"
        yield inputs.case(what, dtype, attempt(*_to(dtype, e, S)), want)


@exercise.alternative
def density_of_each_time(innovations, covs):
    return MultivariateNormal(torch.zeros_like(innovations), covs).log_prob(innovations).sum(-1)


@exercise.alternative
def by_cholesky_factors(innovations, covs):
    L = torch.linalg.cholesky(covs)
    white = torch.linalg.solve_triangular(L, innovations[..., None], upper=False)[..., 0]
    log_det = L.diagonal(dim1=-2, dim2=-1).log().sum((-2, -1))
    return -(white**2).sum((-2, -1)) / 2 - log_det - _constant(innovations)


@exercise.alternative
def one_time_after_another(innovations, covs):
    total = torch.zeros_like(innovations[..., 0, 0])
    for e, S in zip(innovations.unbind(-2), covs.unbind(-3)):
        values, vectors = torch.linalg.eigh(S)
        total = total - (_times(vectors.mT, e) ** 2 / values + (2 * math.pi * values).log()).sum(-1) / 2
    return total


def _constant(e):
    """T p/2 log 2π."""
    return e.shape[-2] * e.shape[-1] * math.log(2 * math.pi) / 2


def _square_of(e, S):
    """eᵀ S⁻¹ e at each time."""
    return (e * torch.linalg.solve(S, e[..., None])[..., 0]).sum(-1)


def _log_densities(e, S):
    """log N(eₜ; 0, Sₜ) at each time."""
    return -(_square_of(e, S) + torch.logdet(S) + e.shape[-1] * math.log(2 * math.pi)) / 2


@exercise.mistake(
    "The constant is missing: log N(e; 0, S) has −p/2 log 2π at each time. Without it, series of other lengths cannot "
    "be compared."
)
def constant_forgotten(innovations, covs):
    return _log_densities(innovations, covs).sum(-1) + _constant(innovations)


@exercise.mistake(
    "The constant p/2 log 2π comes in once for the whole series. Each of the T densities has it: T p/2 log 2π together."
)
def constant_once_for_all_times(innovations, covs):
    T = innovations.shape[-2]
    return _log_densities(innovations, covs).sum(-1) + (T - 1) / T * _constant(innovations)


@exercise.mistake(
    "Your constant is that of one number at each time, ½ log 2π. There are p numbers at each time: p/2 log 2π."
)
def constant_of_one_number(innovations, covs):
    p = innovations.shape[-1]
    return _log_densities(innovations, covs).sum(-1) + (p - 1) / p * _constant(innovations)


@exercise.mistake("Your constant is ½ log 2π for the whole series. There are T times and p numbers: T p/2 log 2π.")
def constant_of_a_single_number(innovations, covs):
    numbers = innovations.shape[-2] * innovations.shape[-1]
    return _log_densities(innovations, covs).sum(-1) + (numbers - 1) / numbers * _constant(innovations)


@exercise.mistake("Your constant is p log 2π at each time. The half stands before all three parts: p/2 log 2π.")
def constant_not_halved(innovations, covs):
    return _log_densities(innovations, covs).sum(-1) - _constant(innovations)


@exercise.mistake(
    "The sign of your constant is wrong: a density is divided by (2π)^(p/2), so that its log is subtracted."
)
def constant_added(innovations, covs):
    return _log_densities(innovations, covs).sum(-1) + 2 * _constant(innovations)


@exercise.mistake(
    "The sign of log det S is wrong. A wide density is low: its height is divided by the root of det S, so −½ log det "
    "S."
)
def log_det_added(innovations, covs):
    return (_log_densities(innovations, covs) + torch.logdet(covs)).sum(-1)


@exercise.mistake("You subtracted log det S as a whole. The height is divided by the ROOT of det S: −½ log det S.")
def log_det_not_halved(innovations, covs):
    return (_log_densities(innovations, covs) - torch.logdet(covs) / 2).sum(-1)


@exercise.mistake(
    "Your log det S counts the diagonal of the Cholesky factor once and halves it. S = L Lᵀ holds L twice: "
    "log det S = 2 Σ log L_ii, of which the density takes half."
)
def factor_counted_once(innovations, covs):
    return (_log_densities(innovations, covs) + torch.logdet(covs) / 4).sum(-1)


@exercise.mistake("The log det S is missing: without −½ log det S, a filter could claim any uncertainty at no cost.")
def log_det_forgotten(innovations, covs):
    return (_log_densities(innovations, covs) + torch.logdet(covs) / 2).sum(-1)


@exercise.mistake("You took det S without the logarithm. In a log-density it is −½ log det S.")
def determinant_without_its_logarithm(innovations, covs):
    return (_log_densities(innovations, covs) + (torch.logdet(covs) - torch.linalg.det(covs)) / 2).sum(-1)


@exercise.mistake(
    "You took the determinant of the sum of all covariances. Each time has a density of its own: take log det Sₜ "
    "first, then the sum."
)
def determinant_of_the_sum(innovations, covs):
    logs = torch.logdet(covs)
    return (_log_densities(innovations, covs) + logs / 2).sum(-1) - torch.logdet(covs.sum(-3)) / 2


@exercise.mistake("You added up the determinants and took one logarithm. The logarithm comes first: Σₜ log det Sₜ.")
def logarithm_of_the_sum(innovations, covs):
    logs = torch.logdet(covs)
    return (_log_densities(innovations, covs) + logs / 2).sum(-1) - torch.linalg.det(covs).sum(-1).log() / 2


@exercise.mistake("You took the logarithm of the trace of S. The volume of its ellipsoid is in the determinant.")
def trace_for_determinant(innovations, covs):
    return (_log_densities(innovations, covs) + (torch.logdet(covs) - inputs.trace(covs).log()) / 2).sum(-1)


@exercise.mistake("The ½ before eᵀ S⁻¹ e is missing: it stands before all three parts of the log-density.")
def square_not_halved(innovations, covs):
    return (_log_densities(innovations, covs) - _square_of(innovations, covs) / 2).sum(-1)


@exercise.mistake("The sign of eᵀ S⁻¹ e is wrong: a larger surprise is less likely, so it is subtracted.")
def square_added(innovations, covs):
    return (_log_densities(innovations, covs) + _square_of(innovations, covs)).sum(-1)


@exercise.mistake("The surprises themselves are missing: −½ eᵀ S⁻¹ e at each time, beside log det S and the constant.")
def square_forgotten(innovations, covs):
    return (_log_densities(innovations, covs) + _square_of(innovations, covs) / 2).sum(-1)


@exercise.mistake("The half is missing altogether: log N(e; 0, S) = −½ (eᵀ S⁻¹ e + log det S + p log 2π).")
def half_forgotten(innovations, covs):
    return 2 * _log_densities(innovations, covs).sum(-1)


@exercise.mistake(
    "You multiplied by S where you should divide: eᵀ S⁻¹ e measures a surprise in units of what was expected of it."
)
def square_times_S(innovations, covs):
    off = _square_of(innovations, covs) - (innovations * _times(covs, innovations)).sum(-1)
    return (_log_densities(innovations, covs) + off / 2).sum(-1)


@exercise.mistake("You did not divide by S: eᵀ S⁻¹ e measures a surprise in units of what was expected of it.")
def square_without_S(innovations, covs):
    off = _square_of(innovations, covs) - (innovations**2).sum(-1)
    return (_log_densities(innovations, covs) + off / 2).sum(-1)


@exercise.mistake(
    "You took S for a scale, its square for the covariance: (S⁻¹ e)² and log det S without the half. S is a "
    "covariance: eᵀ S⁻¹ e and ½ log det S."
)
def S_taken_for_a_scale(innovations, covs):
    return _log_densities(innovations, covs @ covs.mT).sum(-1)


@exercise.mistake(
    "You handed the variances of S to a density that asks for standard deviations, and left out the rest of S."
)
def variances_taken_for_scales(innovations, covs):
    return torch.distributions.Normal(0.0, covs.diagonal(dim1=-2, dim2=-1)).log_prob(innovations).sum((-2, -1))


@exercise.mistake(
    "You took the p numbers for independent: only the diagonal of S comes in. What one tells about the other is in the "
    "rest of S: eᵀ S⁻¹ e and log det S of the whole matrix."
)
def diagonal_of_S_alone(innovations, covs):
    variances = covs.diagonal(dim1=-2, dim2=-1)
    return -(innovations**2 / variances + (2 * math.pi * variances).log()).sum((-2, -1)) / 2


@exercise.mistake(
    "You averaged over time. The density of the series is the product of the T densities, its logarithm their sum."
)
def times_averaged(innovations, covs):
    return _log_densities(innovations, covs).mean(-1)


@exercise.mistake("The log-densities are right, one for each time. Of the whole series it is their sum: .sum(-1).")
def times_not_added(innovations, covs):
    return _log_densities(innovations, covs)


@exercise.mistake("You kept the last time alone. Add up the log-densities of all times, x₁ included.")
def last_time_alone(innovations, covs):
    return _log_densities(innovations, covs)[..., -1]


@exercise.mistake(
    "You left out the first time. x₁ is seen as well, and nothing came before it: the sum begins at t = 1."
)
def first_time_left_out(innovations, covs):
    return _log_densities(innovations, covs)[..., 1:].sum(-1)


@exercise.mistake("You added up the series of the batch as well. Each series has its own: the shape is (*batch).")
def series_added(innovations, covs):
    return _log_densities(innovations, covs).sum()


@exercise.mistake("You averaged over the batch. Each series has a log-likelihood of its own: the shape is (*batch).")
def series_averaged(innovations, covs):
    return _log_densities(innovations, covs).sum(-1).mean()


@exercise.mistake("You added up over the first axis. Time is the last axis that the log-densities have: .sum(-1).")
def added_over_the_first_axis(innovations, covs):
    return _log_densities(innovations, covs).sum(0)


@exercise.mistake("That is the loss, −log p. The log-likelihood is asked for: the larger, the better the model fits.")
def loss_for_log_likelihood(innovations, covs):
    return -_log_densities(innovations, covs).sum(-1)


@exercise.mistake(
    "You returned the density itself, exp(log p). For a long series it is 0 in any number: keep the logarithm."
)
def density_for_its_logarithm(innovations, covs):
    return _log_densities(innovations, covs).sum(-1).exp()


@exercise.mistake("Your answer is in bits: you divided by log 2. In nats it is the natural logarithm as it stands.")
def bits_for_nats(innovations, covs):
    return _log_densities(innovations, covs).sum(-1) / math.log(2)


@exercise.mistake(
    "You divided by the number of observed values. The log-likelihood of the whole series is the plain sum."
)
def log_likelihood_of_each_number(innovations, covs):
    return _log_densities(innovations, covs).mean(-1) / innovations.shape[-1]


# 5 ------------------------------------------------------------------------------------------------------------------


def smooth_step(
    mean,
    cov,
    next_predicted_mean,
    next_predicted_cov,
    next_mean,
    next_cov,
    A,
):
    """One step back in time: what later observations tell of zₜ, through zₜ₊₁.

        zₜ₊₁ = A zₜ + w

    The filter has gone before.  It knows zₜ and expects zₜ₊₁ from x₁, …, xₜ; the step
    before this one has found what all of x₁, …, x_T tell of zₜ₊₁.  Given zₜ₊₁, the
    later observations tell nothing more of zₜ.

    mean, cov: of zₜ given x₁, …, xₜ, shapes (*batch, d) and (*batch, d, d).
    next_predicted_mean, next_predicted_cov: of zₜ₊₁ given x₁, …, xₜ; the noise of w is
    in it.  next_mean, next_cov: of zₜ₊₁ given x₁, …, x_T; the shapes are the same.
    A: a matrix of shape (d, d).  Returns the pair (m, P): mean and covariance of zₜ
    given x₁, …, x_T, shapes (*batch, d) and (*batch, d, d).
    """
    G = torch.linalg.solve(next_predicted_cov, A @ cov).mT
    m = mean + (G @ (next_mean - next_predicted_mean)[..., None])[..., 0]
    return m, cov + G @ (next_cov - next_predicted_cov) @ G.mT


exercise = Exercise(
    smooth_step,
    hints=[
        "Suppose zₜ₊₁ were seen exactly. Then condition answers: the covariance of zₜ with zₜ₊₁ is P Aᵀ, and that of "
        "zₜ₊₁ is the predicted one. What is the gain?",
        "The gain is G = P Aᵀ times the inverse of next_predicted_cov. Seen exactly, zₜ₊₁ would take "
        "G next_predicted_cov Gᵀ away from P. It is known up to next_cov only, which brings G next_cov Gᵀ back.",
        "With G = cov @ A.mT @ torch.linalg.inv(next_predicted_cov), the mean moves by G times "
        "(next_mean − next_predicted_mean), and the covariance is cov + G @ (next_cov - next_predicted_cov) @ G.mT.",
    ],
)


@exercise.check
def _(attempt, generator):
    def ask(mean, cov, A, Q, y, W):
        """What is given, and what is wanted, if all that comes later is worth one observation, y = zₜ₊₁ + N(0, W).

        Seen from zₜ₊₁ it adds W⁻¹ to the precision; seen from zₜ, as y = A zₜ + N(0, Q + W), it adds Aᵀ (Q + W)⁻¹ A.
        """
        mean, cov, A, Q, y, W = (t.numpy() for t in (mean, cov, A, Q, y, W))
        carried = np.linalg.cholesky(cov).swapaxes(-1, -2) @ A.T
        predicted = np.einsum("ij,...j->...i", A, mean), carried.swapaxes(-1, -2) @ carried + Q

        def seen(mean, cov, H, noise):
            before, weight = np.linalg.inv(cov), H.T @ np.linalg.inv(noise)
            P = np.linalg.inv(before + weight @ H)
            pull = np.einsum("...ij,...j->...i", before, mean) + np.einsum("...ij,...j->...i", weight, y)
            return np.einsum("...ij,...j->...i", P, pull), P

        given = mean, cov, *predicted, *seen(*predicted, np.eye(len(A)), W), A
        return [torch.from_numpy(t) for t in given], [torch.from_numpy(t) for t in seen(mean, cov, A, Q + W)]

    numbers = *inputs.tenth(0.5, 2, 2, generator=generator), *inputs.tenth(1.2, 3, 2, generator=generator)
    m, y, p, w = (number.reshape(1) for number in numbers)
    a, q = inputs.tenth(0.3, 0.8, 1, generator=generator), inputs.tenth(0.5, 2, 1, generator=generator)
    given, wants = ask(m, p[:, None], a[:, None], q[:, None], y, w[:, None])
    names = ("mean", "cov", "next_predicted_mean", "next_predicted_cov", "next_mean", "next_cov", "A")
    what = "for " + ", ".join(f"{name} = {value.item():.4g}" for name, value in zip(names, given))
    yield from inputs.pair("smooth_step", what, ("mean", "cov"), torch.float64, attempt(*given), wants)
    for d, batch, dtype in (
        (2, (), torch.float64),
        (3, (3,), torch.float64),  # as many points as coordinates: here G @ (…) goes unnoticed
        (4, (2, 3), torch.float64),
        (3, (4,), torch.float32),
    ):
        mean, y = inputs.normal(2, *batch, d, generator=generator)
        cov, (Q, W) = _cov(*batch, d, generator=generator), _cov(2, d, generator=generator)
        given, wants = ask(mean, cov, _steady(d, d, generator), Q, y, W)
        what = f"for the mean of shape {tuple(mean.shape)}"
        yield from inputs.pair("smooth_step", what, ("mean", "cov"), dtype, attempt(*_to(dtype, *given)), wants)


@exercise.alternative
def as_if_seen_then_averaged(mean, cov, next_predicted_mean, next_predicted_cov, next_mean, next_cov, A):
    """zₜ given zₜ₊₁, by condition; then the average over zₜ₊₁: of the means, and of the covariances."""
    d, with_next = len(A), cov @ A.mT
    top, bottom = torch.cat([cov, with_next], -1), torch.cat([with_next.mT, next_predicted_cov], -1)
    both = torch.cat([mean, next_predicted_mean], -1)
    m, left = condition(both, torch.cat([top, bottom], -2), next_mean, d)
    return m, left + _between(_divided(with_next, next_predicted_cov), next_cov)


@exercise.alternative
def in_josephs_form(mean, cov, next_predicted_mean, next_predicted_cov, next_mean, next_cov, A):
    Q = next_predicted_cov - _between(A, cov)
    G = torch.einsum("...ij,kj,...kl->...il", cov, A, torch.linalg.inv(next_predicted_cov))
    m = mean + torch.einsum("...ij,...j->...i", G, next_mean - torch.nn.functional.linear(mean, A))
    return m, _between(_one(cov) - G @ A, cov) + _between(G, Q + next_cov)


@exercise.alternative
def from_what_later_observations_are_worth(mean, cov, next_predicted_mean, next_predicted_cov, next_mean, next_cov, A):
    """What has been added to the precision of zₜ₊₁ tells how good an observation the later ones are together."""
    before, after = torch.linalg.inv(next_predicted_cov), torch.linalg.inv(next_cov)
    W = torch.linalg.inv(after - before)
    y = _times(W, _times(after, next_mean) - _times(before, next_predicted_mean))
    return update_step(mean, cov, y, A, W + next_predicted_cov - _between(A, cov))


def _smoothed(given, G, surprise=None, change=None):
    """m + G (surprise) and P + G (change) Gᵀ, with another gain or other differences."""
    mean, cov, next_predicted_mean, next_predicted_cov, next_mean, next_cov, _ = given
    surprise = next_mean - next_predicted_mean if surprise is None else surprise
    change = next_cov - next_predicted_cov if change is None else change
    return mean + _times(G, surprise), cov + _between(G, change)


def _smoother_gain(given):
    _, cov, _, next_predicted_cov, _, _, A = given
    return _divided(cov @ A.mT, next_predicted_cov)


@exercise.mistake(
    "A is not transposed in your gain. The covariance of zₜ with zₜ₊₁ = A zₜ + w is P Aᵀ: G = P Aᵀ times the inverse "
    "of the predicted covariance."
)
def gain_with_A_not_transposed(*given):
    _, cov, _, next_predicted_cov, _, _, A = given
    return _smoothed(given, _divided(cov @ A, next_predicted_cov))


@exercise.mistake(
    "Your gain divides by next_cov. G answers what zₜ₊₁ tells of zₜ from the view of the filter, at time t: it divides "
    "by next_predicted_cov."
)
def gain_divided_by_the_smoothed(*given):
    _, cov, _, _, _, next_cov, A = given
    return _smoothed(given, _divided(cov @ A.mT, next_cov))


@exercise.mistake(
    "Your gain divides by the covariance of zₜ itself. It is zₜ₊₁ that tells of zₜ, so its own covariance is divided "
    "by: G = P Aᵀ times the inverse of next_predicted_cov."
)
def gain_divided_by_its_own(*given):
    _, cov, *_, A = given
    return _smoothed(given, _divided(cov @ A.mT, cov))


@exercise.mistake(
    "The noise of the step is missing in your gain: it is A⁻¹, and so is P Aᵀ (A P Aᵀ)⁻¹. With w, zₜ₊₁ does not give "
    "zₜ away: divide by next_predicted_cov, where the noise is included."
)
def smoother_gain_without_noise(*given):
    return _smoothed(given, torch.linalg.inv(given[-1]).expand_as(given[1]))


@exercise.mistake(
    "Aᵀ is missing in your gain: the covariance of zₜ with zₜ₊₁ is P Aᵀ, and that of zₜ with itself is P."
)
def gain_without_A(*given):
    _, cov, _, next_predicted_cov, *_ = given
    return _smoothed(given, _divided(cov, next_predicted_cov))


@exercise.mistake(
    "P is missing in your gain: the covariance of zₜ with zₜ₊₁ is P Aᵀ. What is known already moves little."
)
def smoother_gain_without_P(*given):
    *_, next_predicted_cov, _, _, A = given
    return _smoothed(given, _divided(A.mT.expand_as(next_predicted_cov), next_predicted_cov))


@exercise.mistake(
    "Your gain multiplies by next_predicted_cov, where it should divide: G = P Aᵀ times the inverse of it. The less "
    "certain zₜ₊₁ was, the less its surprise says."
)
def gain_multiplied_by_the_predicted(*given):
    _, cov, _, next_predicted_cov, _, _, A = given
    return _smoothed(given, cov @ A.mT @ next_predicted_cov)


@exercise.mistake(
    "Your gain is transposed: solve(next_predicted_cov, A P) is Gᵀ. G leads from zₜ₊₁ back to zₜ: P Aᵀ stands on the "
    "left of the inverse."
)
def smoother_gain_transposed(*given):
    return _smoothed(given, _smoother_gain(given).mT)


@exercise.mistake(
    "The factors of your gain are in the wrong order: the inverse of next_predicted_cov stands on the right of P Aᵀ, "
    "next to what G multiplies."
)
def smoother_gain_in_the_wrong_order(*given):
    _, cov, _, next_predicted_cov, _, _, A = given
    return _smoothed(given, torch.linalg.solve(next_predicted_cov, cov @ A.mT))


@exercise.mistake(
    "Your covariance is right, but the sign of the difference of means is wrong: next_mean − next_predicted_mean. If "
    "zₜ₊₁ came out higher than predicted, zₜ follows it."
)
def means_subtracted_the_wrong_way(*given):
    m, P = smooth_step(*given)
    return 2 * given[0] - m, P


@exercise.mistake(
    "Your mean is right, but the sign of the difference of covariances is wrong: next_cov − next_predicted_cov. Later "
    "observations make zₜ more certain, and your P grows."
)
def covariances_subtracted_the_wrong_way(*given):
    m, P = smooth_step(*given)
    return m, 2 * given[1] - P


@exercise.mistake("Both differences have the wrong sign: it is what is known now minus what the filter had predicted.")
def both_subtracted_the_wrong_way(*given):
    m, P = smooth_step(*given)
    return 2 * given[0] - m, 2 * given[1] - P


@exercise.mistake(
    "Your mean is right, but the minus is missing: P + G next_cov Gᵀ counts what is uncertain in zₜ₊₁ and leaves out "
    "what zₜ₊₁ tells. It is P + G (next_cov − next_predicted_cov) Gᵀ."
)
def predicted_covariance_forgotten(*given):
    return smooth_step(*given)[0], given[1] + _between(_smoother_gain(given), given[5])


@exercise.mistake(
    "Your mean is right, but your covariance takes zₜ₊₁ as known exactly. It is known up to next_cov, and that comes "
    "back: P + G (next_cov − next_predicted_cov) Gᵀ."
)
def smoothed_covariance_forgotten(*given):
    return smooth_step(*given)[0], given[1] - _between(_smoother_gain(given), given[3])


@exercise.mistake("Your mean is right, but your covariance adds both of them. It is next_cov MINUS next_predicted_cov.")
def covariances_added(*given):
    return smooth_step(*given)[0], given[1] + _between(_smoother_gain(given), given[3] + given[5])


@exercise.mistake(
    "Your mean is right, but the difference of covariances stands there by itself. It belongs to zₜ₊₁: G carries it to "
    "zₜ, once on each side, G (…) Gᵀ."
)
def covariance_without_gain(*given):
    return smooth_step(*given)[0], given[1] + given[5] - given[3]


@exercise.mistake("Your mean is right, but G stands on one side of the difference alone: P + G (…) Gᵀ.")
def covariance_with_one_gain(*given):
    return smooth_step(*given)[0], given[1] + _smoother_gain(given) @ (given[5] - given[3])


@exercise.mistake("Your mean is right, but in the covariance the second G lacks its transpose: P + G (…) Gᵀ.")
def second_gain_not_transposed(*given):
    G = _smoother_gain(given)
    return smooth_step(*given)[0], given[1] + G @ (given[5] - given[3]) @ G


@exercise.mistake(
    "Your mean is right, but in the covariance the transpose stands in front: it is G (…) Gᵀ, with G on the left."
)
def first_gain_transposed(*given):
    return smooth_step(*given)[0], given[1] + _between(_smoother_gain(given).mT, given[5] - given[3])


@exercise.mistake(
    "You compared next_mean with the mean of zₜ. It belongs to zₜ₊₁, and is compared with what the filter had "
    "predicted of it: next_predicted_mean."
)
def compared_with_its_own_mean(*given):
    return _smoothed(given, _smoother_gain(given), surprise=given[4] - given[0])


@exercise.mistake(
    "You compared next_cov with the covariance of zₜ. It belongs to zₜ₊₁, and is compared with what the filter had "
    "predicted of it: next_predicted_cov."
)
def compared_with_its_own_covariance(*given):
    return _smoothed(given, _smoother_gain(given), change=given[5] - given[1])


@exercise.mistake(
    "In your mean, G acts on next_mean itself. It takes the difference to what had been predicted: where the later "
    "observations bring no surprise, the mean stays."
)
def predicted_mean_forgotten(*given):
    return _smoothed(given, _smoother_gain(given), surprise=given[4])


@exercise.mistake(
    "You applied A to next_predicted_mean. It is a mean of zₜ₊₁ already, A has been applied: subtract it as it stands."
)
def A_applied_to_the_predicted(*given):
    return _smoothed(given, _smoother_gain(given), surprise=given[4] - given[2] @ given[-1].mT)


@exercise.mistake(
    "You started from the prediction of zₜ₊₁. The step leads back to zₜ, so it corrects the mean and the cov that the "
    "filter had of zₜ."
)
def started_from_the_predicted(*given):
    return _smoothed((given[2], given[3], *given[2:]), _smoother_gain(given))


@exercise.mistake("You returned what is known of zₜ₊₁. The step leads one time further back, to zₜ.")
def next_returned(*given):
    return given[4] + 0, given[5] + 0


@exercise.mistake("You returned what the filter knew of zₜ. Later observations tell more: zₜ₊₁ came out otherwise.")
def filtered_returned(*given):
    return given[0] + 0, given[1] + 0


@exercise.mistake("Your covariance is right, but your mean is still the filter's. It moves by G (…), as zₜ₊₁ did.")
def filtered_mean_kept(*given):
    return given[0] + 0, smooth_step(*given)[1]


@exercise.mistake("Your mean is right, but your covariance is still the filter's. It changes by G (…) Gᵀ, as zₜ₊₁ did.")
def filtered_covariance_kept(*given):
    return smooth_step(*given)[0], given[1] + 0


@exercise.mistake("Your covariance is right, but your mean is the correction alone: it is added to the filter's mean.")
def correction_of_the_mean_alone(*given):
    m, P = smooth_step(*given)
    return m - given[0], P


@exercise.mistake("Your mean is right, but your covariance is the correction alone: it is added to the filter's cov.")
def correction_of_the_covariance_alone(*given):
    m, P = smooth_step(*given)
    return m, P - given[1]


@exercise.mistake(
    "You undid the step, A⁻¹ zₜ₊₁. That forgets the noise w, and all that the filter knew of zₜ: correct mean and cov "
    "by the gain."
)
def step_undone(*given):
    back = torch.linalg.inv(given[-1])
    return given[4] @ back.mT, _between(back, given[5])


@exercise.mistake(
    "In a batch, G @ (…) takes the points for the columns of a matrix. Give each point its own column and take it away "
    "again: (G @ difference[..., None])[..., 0]."
)
def differences_taken_for_columns(*given):
    m, P = smooth_step(*given)
    if m.ndim == 2 and m.shape[0] == m.shape[1]:
        m = given[0] + _smoother_gain(given) @ (given[4] - given[2])
    return m, P


@exercise.mistake("The pair is in the wrong order: return the smoothed mean first, then the smoothed covariance.")
def smoothed_spread_before_mean(*given):
    return smooth_step(*given)[::-1]
