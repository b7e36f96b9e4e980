"""Kullback–Leibler divergence: the price, in nats, of taking one distribution for another.

Every divergence here is a sum of terms `_gap`, which are never negative and are computed without cancellation, so that
it is right to the last digits also where the two distributions nearly agree.  Results keep the dtype and device of the
arguments and can be differentiated again; values are checked, so nothing here can stand inside `torch.vmap`.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution
from torch.linalg import solve_triangular

from companion.points import check_alike, check_covariance, check_points, require

Numbers = float | Float[Tensor, "..."]


def _gap(p: Numbers, q: Tensor, x: Tensor, log: Tensor) -> Tensor:
    """q − p − p log(q/p) ≥ 0: from x = q/p − 1 where p and q are close, else from log = log(q/p).

    With T = x/(2 + x), log(1 + x) = 2(T + T³/3 + T⁵/5 + …) and x = 2T + T x, so that
    x − log(1 + x) = T x − 2T³(1/3 + T²/5 + T⁴/7 + …).  For |T| < 1/3, 17 terms are enough in float64.
    """
    near = (x > -0.5) & (x < 1)
    x = torch.where(near, x, 0.0)
    T = x / (2 + x)
    tail = torch.zeros_like(T)
    for k in range(16, -1, -1):
        tail = tail * T**2 + 1 / (2 * k + 3)
    return torch.where(near, p * (T * x - 2 * T**3 * tail), q - p - p * log)


def _log_ratio(a: Tensor, b: Tensor) -> Tensor:
    """log(a/b), also where a/b is too large or too small for a float."""
    ratio, logs = (a / b).detach(), a.log() - b.log()
    fits = (ratio > torch.finfo(a.dtype).tiny) & (ratio < torch.inf)
    return torch.where(fits, logs + (ratio.log() - logs).detach(), logs)  # the quotient's derivatives may overflow


def _gap_of_probabilities(p: Tensor, q: Tensor, difference: Tensor) -> Tensor:
    """`_gap` from p, q and q − p, with 0 log 0 = 0: q where p = 0, and +∞ where q = 0 < p."""
    some = p > 0
    p, at = torch.where(some, p, 1.0), torch.where(some, q, 1.0)
    close = difference < p
    x = torch.where(close, difference, 1.0) / torch.where(close, p, 1.0)  # the quotient may be too large for a float
    return torch.where(some, _gap(p, at, x, _log_ratio(at, p)), q)


def kl_categorical(
    p: Float[Tensor, "*batch n"], q: Float[Tensor, "*batch n"], *, logits: bool = False
) -> Float[Tensor, "*batch"]:
    """The mean, under the probabilities p, of how much more the outcome surprises whoever believes in q.

        KL(p‖q) = Σ_i p_i log(p_i/q_i) = Σ_i (q_i − p_i − p_i log(q_i/p_i)),   as Σ p_i = Σ q_i

    With `logits`, p and q hold log-probabilities up to a constant, −∞ for probability 0.  The result is +∞ where
    some q_i = 0 < p_i.  The derivative by a p_i = 0, which is −∞, is given as 0.

    Raises TypeError where p and q are not floating-point tensors of one dtype; ValueError where their shapes differ,
    probabilities are negative or do not sum to 1 (to 10⁻⁶), or logits are NaN, +∞ or −∞ throughout.
    Source: Cover and Thomas, *Elements of Information Theory*, §2.3.

    >>> kl_categorical(torch.tensor([0.1, 0.9]), torch.tensor([0.5, 0.5]))
    tensor(0.3681)
    """
    check_alike(p=check_points(p, "p"), q=check_points(q, "q"))
    for name, a in ("p", p), ("q", q):
        if logits:
            require(name, a, (a < torch.inf) & (a > -torch.inf).any(-1, keepdim=True), "logits < ∞, not −∞ throughout")
        else:
            require(name, a, a >= 0, "probabilities ≥ 0")
            require(name, a.sum(-1), (a.sum(-1) - 1).abs() <= max(1e-6, torch.finfo(a.dtype).eps), "the sum 1")
    return _kl_from_logits(p, q) if logits else _gap_of_probabilities(p, q, q - p).sum(-1)


def _kl_from_logits(a: Tensor, b: Tensor) -> Tensor:
    """log Σ p exp(d), where d is b − a less its mean under p; and that is log(1 + Σ p (eᵈ − 1 − d))."""
    some = a > -torch.inf
    hole = some & (b == -torch.inf)
    b, top = torch.where(hole, 0.0, b), a.argmax(-1, keepdim=True)
    p = a.softmax(-1)
    d, rest = torch.where(some, b - a, 0.0), _rounded_off(b, a, some)
    d = d - d.gather(-1, top) + (rest - rest.gather(-1, top))  # the likeliest class has 0, and the mean is small
    mean = (p * d).sum(-1, keepdim=True)
    log_q = b - b.gather(-1, top) + a.log_softmax(-1).gather(-1, top) - mean  # with KL on top
    d = torch.where(some, d - mean, 100.0)
    kl = log_q.logsumexp(-1)  # right where it is large
    small = kl < 80  # so that no exponential overflows
    close = some & (d < -log_q)  # of the two ways to q the one with the smaller exponent, which rounds less
    q = torch.where(close, p * torch.where(close, d, 0.0).exp(), torch.where(small[..., None], log_q, 0.0).exp())
    gaps = _gap(p, q, d.clamp(max=1.0).expm1(), d)
    return torch.where(hole.any(-1), torch.inf, torch.where(small, gaps.sum(-1).log1p(), kl))


def _rounded_off(b: Tensor, a: Tensor, where: Tensor) -> Tensor:
    """What b - a lacks of b − a (Knuth)."""
    a, b = torch.where(where, a, 0.0).detach(), torch.where(where, b, 0.0).detach()
    d = b - a
    v = d - b
    return (b - (d - v)) - (a + v)


def kl_bernoulli(p: Numbers, q: Numbers, *, logits: bool = False) -> Float[Tensor, "..."]:
    """The same for a yes or no, entry by entry: p and q are probabilities of a yes.

        KL(p‖q) = p log(p/q) + (1 − p) log((1 − p)/(1 − q))

    With `logits`, p and q hold log-odds log(p/(1 − p)), which keep digits that probabilities near 1 lose.
    The arguments are numbers or tensors of one shape.  The result is +∞ where q is 0 or 1 and p is not.

    Raises TypeError where the arguments are not floating-point tensors of one dtype or numbers; ValueError where
    shapes differ, a probability is outside [0, 1] or log-odds are not finite.  Source: as for `kl_categorical`.

    >>> kl_bernoulli(torch.tensor([0.1, 0.5]), torch.tensor([0.5, 0.1]))
    tensor([0.3681, 0.5108])
    """
    p, q = check_alike(numbers=True, p=p, q=q)
    for name, a in ("p", p), ("q", q):
        within, expected = (a.isfinite(), "finite log-odds") if logits else ((a >= 0) & (a <= 1), "numbers in [0, 1]")
        require(name, a, within, expected)
    if logits:
        return _kl_from_logits(*(torch.stack([a, torch.zeros_like(a)], -1) for a in torch.broadcast_tensors(p, q)))
    return _gap_of_probabilities(p, q, q - p) + _gap_of_probabilities(1 - p, 1 - q, p - q)


def kl_normal(loc0: Numbers, scale0: Numbers, loc1: Numbers, scale1: Numbers) -> Float[Tensor, "..."]:
    """KL from one normal density to another, entry by entry.

        KL(N₀‖N₁) = ½(K² + z²) + K − log(1 + K),   K = (σ₀ − σ₁)/σ₁,   z = (μ₀ − μ₁)/σ₁

    That is log(σ₁/σ₀) + (σ₀² + (μ₀ − μ₁)²)/(2σ₁²) − ½ without cancellation: its relative error stays below 10⁻⁶ in
    float32 and 10⁻¹² in float64, for any pair whose KL is neither too large nor too small for the dtype.
    A `scale` is a standard deviation.  The arguments are numbers or tensors of one shape.

    Raises TypeError where the arguments are not floating-point tensors of one dtype or numbers; ValueError where
    shapes differ, a scale is not positive or something is not finite.
    Source: Kullback, *Information Theory and Statistics*, chapter 9.

    >>> kl_normal(torch.tensor([0.5, 0.0]), 0.4, torch.tensor([-0.2, 0.0]), torch.tensor([0.9, 0.4]))
    tensor([0.7122, 0.0000])
    """
    loc0, scale0, loc1, scale1 = check_alike(numbers=True, loc0=loc0, scale0=scale0, loc1=loc1, scale1=scale1)
    for i, loc, scale in (0, loc0, scale0), (1, loc1, scale1):
        require(f"loc{i}", loc, loc.isfinite(), "finite numbers")
        require(f"scale{i}", scale, (scale > 0) & scale.isfinite(), "finite standard deviations > 0")
    K, z = (scale0 - scale1) / scale1, (loc0 - loc1) / scale1
    return (K**2 + z**2) / 2 + _gap(1.0, scale0 / scale1, K, _log_ratio(scale0, scale1))


def kl_multivariate_normal(
    loc0: Float[Tensor, "*batch d"],
    cov0: Float[Tensor, "*batch d d"],
    loc1: Float[Tensor, "*batch d"],
    cov1: Float[Tensor, "*batch d d"],
) -> Float[Tensor, "*batch"]:
    """KL from one normal density in d dimensions to another, from the Cholesky factors of Σ = L Lᵀ.

        KL(N₀‖N₁) = ½(|K|² + |z|²) + Σ_i (K_ii − log(1 + K_ii)),   K = L₁⁻¹(L₀ − L₁),   z = L₁⁻¹(μ₀ − μ₁)

    That is ½[tr(Σ₁⁻¹Σ₀) − d + |z|² + log(det Σ₁/det Σ₀)] without cancellation; |K|² sums the squares of all entries.
    Derivatives by a covariance are symmetric: each entry of an off-diagonal pair has half of what moving both does.

    Raises TypeError where the arguments are not floating-point tensors of one dtype; ValueError where shapes do not
    fit, something is not finite or a covariance is not symmetric and positive definite.  Source: as for `kl_normal`.

    >>> kl_multivariate_normal(torch.ones(2), torch.eye(2), torch.zeros(2), torch.eye(2))
    tensor(1.)
    """
    check_alike(loc0=check_points(loc0, "loc0"), loc1=check_points(loc1, "loc1"))
    for name, loc in ("loc0", loc0), ("loc1", loc1):
        require(name, loc, loc.isfinite(), "finite numbers")
    cov0, L0 = check_covariance(cov0, loc0, "cov0")
    cov1, L1 = check_covariance(cov1, loc0, "cov1")
    # The factors carry rounding errors of their own.  One Newton step fits their difference to that of the covariances,
    # which has none where the two are close.
    D = L0 - L1
    miss = cov0 - cov1 - D @ L0.mT - L1 @ D.mT
    miss = solve_triangular(L0, solve_triangular(L0, miss, upper=False).mT, upper=False)
    D = D + L0 @ (miss.tril() - miss.diagonal(dim1=-2, dim2=-1).diag_embed() / 2)
    K = solve_triangular(L1, D, upper=False)
    z = solve_triangular(L1, (loc0 - loc1)[..., None], upper=False)
    l0, l1, k = (M.diagonal(dim1=-2, dim2=-1) for M in (L0, L1, K))
    return ((K**2).sum((-2, -1)) + (z**2).sum((-2, -1))) / 2 + _gap(1.0, l0 / l1, k, _log_ratio(l0, l1)).sum(-1)


def kl_monte_carlo(
    p: Distribution, q: Distribution, samples: int, estimator: str = "k3", generator: torch.Generator | None = None
) -> Float[Tensor, "*batch"]:
    """An estimate of KL(p‖q) for any two distributions of torch: the mean over samples x of p of

        k1 = −ℓ,   k2 = ½ℓ²   or   k3 = eˡ − 1 − ℓ,   where ℓ = log q(x) − log p(x)

    k1 is unbiased, k2 is biased, k3 is never negative, and unbiased if p > 0 wherever q > 0.  The result is +∞ where
    a sample lies outside q's support (but torch's Categorical turns a probability of 0 into one of 10⁻⁷ or 10⁻¹⁶).
    Derivatives go through the samples if p has `rsample`, else by p's score.  Torch's distributions draw from its
    global generator: a `generator` of yours seeds that one for the moment.

    Raises TypeError where p or q is no distribution; ValueError where one is discrete and the other is not, event or
    batch shapes differ (one batch shape may be ()), `samples` < 1, or `estimator` is none of the three.
    Source: Schulman, *Approximating KL divergence*.

    >>> p, q = torch.distributions.Normal(0.0, 1.0), torch.distributions.Normal(0.1, 1.0)  # KL = 0.005
    >>> kl_monte_carlo(p, q, samples=100_000, generator=torch.Generator().manual_seed(0))
    tensor(0.0050)
    """
    for name, distribution in ("p", p), ("q", q):
        if not isinstance(distribution, Distribution):
            raise TypeError(f"{name}: expected a distribution of torch, got {type(distribution).__name__}")
    batch, kind = p.batch_shape or q.batch_shape, "discrete" if p.support.is_discrete else "continuous"
    for holds, complaint in (
        (q.support.is_discrete == p.support.is_discrete, f"q: expected a {kind} distribution like p, got {q}"),
        (q.event_shape == p.event_shape, f"q: expected event shape {[*p.event_shape]}, got {[*q.event_shape]}"),
        (q.batch_shape in ((), batch), f"q: expected batch shape {[*batch]} or [], got {[*q.batch_shape]}"),
        (samples >= 1, f"samples: expected at least 1, got {samples}"),
        (estimator in ("k1", "k2", "k3"), f"estimator: expected 'k1', 'k2' or 'k3', got {estimator!r}"),
    ):
        if not holds:
            raise ValueError(complaint)
    p, q = p.expand(batch), q.expand(batch)
    with torch.random.fork_rng(enabled=generator is not None):
        if generator is not None:
            torch.manual_seed(torch.randint(2**62, (), generator=generator, device=generator.device).item())
        x = p.rsample((samples,)) if p.has_rsample else p.sample((samples,))
        inside = q.support.check(x)
        whole = inside.reshape(inside.shape + (1,) * len(p.event_shape))
        allowed = x if inside.all() else torch.where(whole, x, q.sample((samples,)))
    log_p = p.log_prob(x)
    log = torch.where(inside, q.log_prob(allowed), -torch.inf) - log_p
    if estimator == "k3":
        value = _gap(1.0, log.exp(), log.clamp(max=1.0).expm1(), log)
    else:
        value = -log if estimator == "k1" else log**2 / 2
    score = 1.0 if p.has_rsample else (log_p - log_p.detach()).exp()  # 1, with the score as its derivative
    return (value * score).mean(0)


def sparsity_penalty(activations: Float[Tensor, "*batch units"], target: float) -> Float[Tensor, ""]:
    """What keeps the units of a layer quiet: KL from the wanted to the measured share of activity, summed over units.

        Σ_j KL(Bernoulli(target)‖Bernoulli(ā_j)),   ā_j the mean activation of unit j over the batch

    Raises TypeError where `activations` is not a floating-point tensor; ValueError where it is empty, has no batch
    axis or leaves [0, 1], or `target` is not inside (0, 1).  +∞ where a mean is 0 or 1.
    Source: Ng, *Sparse autoencoder*.

    >>> sparsity_penalty(torch.tensor([[0.05, 0.5], [0.15, 0.5]]), target=0.1)
    tensor(0.3681)
    """
    if check_points(activations, "activations").ndim < 2 or activations.numel() == 0:
        raise ValueError(f"activations: expected shape (*batch, units), none of them 0, got {tuple(activations.shape)}")
    require("activations", activations, (activations >= 0) & (activations <= 1), "numbers in [0, 1]")
    if not 0 < target < 1:
        raise ValueError(f"target: expected a number inside (0, 1), got {target}")
    return kl_bernoulli(target, activations.flatten(0, -2).mean(0)).sum()


def ppo_clip(log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, epsilon: float) -> Float[Tensor, "*batch"]:
    """The clipped objective of PPO, to be maximised: no gain from moving the ratio eˡ further than ε from 1.

        min(eˡ A, clip(eˡ, 1 − ε, 1 + ε) A),   ℓ = log π(a|s) − log π_old(a|s),   A the advantage

    A value for each action, whose log-probability is already summed over the action's dimensions.  No derivative
    reaches `old_log_prob` and `advantage`.  Raises TypeError or ValueError where the tensors differ in dtype or shape,
    ValueError where `epsilon` is not positive.  Source: Schulman et al., *Proximal policy optimization*, §3.

    >>> ppo_clip(torch.tensor([1.5, 0.5]).log(), torch.zeros(2), torch.tensor([2.0, 2.0]), epsilon=0.2)
    tensor([2.4000, 1.0000])
    """
    check_alike(log_prob=log_prob, old_log_prob=old_log_prob, advantage=advantage)
    if not epsilon > 0:
        raise ValueError(f"epsilon: expected a number > 0, got {epsilon}")
    ratio, advantage = (log_prob - old_log_prob.detach()).exp(), advantage.detach()
    return torch.minimum(ratio * advantage, ratio.clamp(1 - epsilon, 1 + epsilon) * advantage)


def ppo_kl_penalty(
    log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, kl: Tensor, coefficient: float
) -> Float[Tensor, "*batch"]:
    """The penalised objective of PPO, to be maximised: each nat between the old policy and the new has its price λ.

        eˡ A − λ KL(π_old‖π),   ℓ = log π(a|s) − log π_old(a|s)

    As for `ppo_clip`; `kl` is summed over the action's dimensions too, and λ is the `coefficient` ≥ 0.  Source: §4.

    >>> ppo_kl_penalty(torch.tensor([1.5]).log(), torch.zeros(1), torch.tensor([2.0]), torch.tensor([0.1]), 5.0)
    tensor([2.5000])
    """
    check_alike(log_prob=log_prob, old_log_prob=old_log_prob, advantage=advantage, kl=kl)
    if not coefficient >= 0:
        raise ValueError(f"coefficient: expected a number ≥ 0, got {coefficient}")
    return (log_prob - old_log_prob.detach()).exp() * advantage.detach() - coefficient * kl


def adapt_kl_coefficient(coefficient: float, kl: float, target: float) -> float:
    """The price of a nat for PPO's next round: halved where the policy moved too little, doubled where too far.

        λ/2 if KL < target/1.5,   2λ if KL > 1.5 target,   else λ;   kept between 10⁻⁴ and 10

    Raises ValueError where `coefficient` or `target` is not positive, or `kl` is negative.  Source: §4, without bounds.

    >>> adapt_kl_coefficient(1.0, kl=0.005, target=0.01), adapt_kl_coefficient(1.0, kl=0.02, target=0.01)
    (0.5, 2.0)
    """
    if not (coefficient > 0 and target > 0 and kl >= 0):
        got = f"{coefficient}, {target}, {kl}"
        raise ValueError(f"coefficient, target, kl: expected coefficient > 0, target > 0 and kl ≥ 0, got {got}")
    factor = 0.5 if kl < target / 1.5 else 2.0 if kl > 1.5 * target else 1.0
    return min(max(coefficient * factor, 1e-4), 10.0)
