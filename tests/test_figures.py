"""The interactive figures: their numbers beside the companion's, and everything that mouse, finger and keys can do."""

import math
import re
from base64 import b64decode
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from playwright.sync_api import expect
from torch.distributions import Normal

from companion.deep_kalman import Config, DeepKalmanFilter
from companion.divergence import divergence, flux
from companion.flows import realnvp
from companion.gradients import directional_derivative, gradient
from companion.jacobians import jacobian, log_abs_det
from companion.kalman import LinearGaussianModel
from companion.kl import kl_normal

BOOK = Path(__file__).parents[1] / "book"
NUMBERS = {"rel": 0, "abs": 1e-6}
SHOWN = {"rel": 0, "abs": 6e-5}  # four decimals


def point(x: float, y: float) -> torch.Tensor:
    return torch.tensor([x, y], dtype=torch.float64)


# ---- What each figure draws, written once more in torch; and its numbers, from the companion ----

FIELDS = {
    "source": lambda p: torch.stack([p[0], p[1]]),
    "rotation": lambda p: torch.stack([-p[1], p[0]]),
    "shear": lambda p: torch.stack([p[1], 0 * p[0]]),
    "saddle": lambda p: torch.stack([p[0], -p[1]]),
    "polynomial": lambda p: torch.stack([p[0] ** 2 * p[1], p[0] * p[1] ** 3]),
    "waves": lambda p: torch.stack([p[0].sin() * p[1].cos(), p[0].cos() * p[1].sin()]),
}


def box(field: str, x: float, y: float, width: float, height: float) -> tuple[dict, list]:
    """The values of the box in a vector field, and what is shown of them."""
    centre, half = point(x, y), point(width, height) / 2
    total, area = flux(FIELDS[field], centre - half, centre + half).item(), width * height
    at_centre = divergence(FIELDS[field], centre).item()
    want = {"flux": total, "area": area, "density": total / area, "divergence": at_centre}
    return want, [*want.values(), total / area - at_centre]


SURFACES = {
    "hills": lambda p: (
        1.5 * (-((p - point(0.9, 0.5)) ** 2).sum()).exp()
        + 0.9 * (-((p - point(-1.1, -0.6)) ** 2 * point(1, 2)).sum()).exp()
    ),
    "plane": lambda p: 0.3 * p[0] - 0.4 * p[1],
    "bowl": lambda p: (p[0] ** 2 + 3 * p[1] ** 2) / 6,
    "saddle": lambda p: (p[0] ** 2 - p[1] ** 2) / 4,
    "bend": lambda p: ((1 - p[0]) ** 2 + 5 * (p[1] - p[0] ** 2) ** 2) / 20,
}


def slope(surface: str, x: float, y: float, angle: float) -> tuple[dict, list]:
    """The values of the hiker on a contour map, and what is shown of them."""
    f, at = SURFACES[surface], point(x, y)
    direction = point(math.cos(math.radians(angle)), math.sin(math.radians(angle)))
    grad = gradient(f, at)
    along, length = directional_derivative(f, at, direction).item(), grad.norm().item()
    across = torch.linalg.det(torch.stack([grad, direction])).abs().item()
    between = math.degrees(math.atan2(across, along)) if length else math.nan
    want = {"height": f(at).item(), "slope": along, "length": length, "dx": grad[0].item(), "dy": grad[1].item()}
    shown = [want["height"], along, length, between, along / length if length else math.nan]
    return want | {"angle": between}, shown


def whirl(p):
    turn = (p**2).sum() / 3
    return torch.stack([turn.cos() * p[0] - turn.sin() * p[1], turn.sin() * p[0] + turn.cos() * p[1]])


MAPS = {
    "waves": lambda p: p + 0.4 * (2 * p.flip(0)).sin(),
    "linear": lambda p: torch.stack([p[0] + 0.6 * p[1], 0.2 * p[0] + 0.9 * p[1]]),
    "mirror": lambda p: p.flip(0),
    "whirl": whirl,
    "squares": lambda p: torch.stack([(p[0] ** 2 - p[1] ** 2) / 2, p[0] * p[1]]),
    "pond": lambda p: p + 0.3 * FIELDS["waves"](p),
    "article": lambda p: torch.stack([p[0] ** 2 + 2 * p[1], 3 * p[0] + 4 * p[1] ** 2]),
}
NODES, WEIGHTS = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(40))


def square(map: str, x: float, y: float, side: float) -> tuple[dict, list]:
    """The values of the square on the sheet, and what is shown of them; the area from det J over the whole square."""
    J = jacobian(MAPS[map], point(x, y))
    all_J = jacobian(MAPS[map], point(x, y) + side / 2 * torch.cartesian_prod(NODES, NODES))
    ratio = (torch.linalg.det(all_J) * torch.outer(WEIGHTS, WEIGHTS).flatten()).sum().item() / 4
    entries, det, trace = J.flatten().tolist(), torch.linalg.det(J).item(), J.trace().item()
    want = dict(zip(("j11", "j12", "j21", "j22"), entries)) | {"det": det, "trace": trace, "ratio": ratio}
    return want, [*entries, trace, side, det, ratio, ratio - det]


PAIRS = {
    "gap": lambda p, q, log: p * log - p + q,
    "textbook": lambda p, q, log: p * log,
}
LINE = torch.linspace(-20, 20, 100_001, dtype=torch.float64)


def normal(loc: float, scale: float) -> Normal:
    return Normal(*torch.tensor([loc, scale], dtype=torch.float64))


def integrand(pair: str, p: Normal, q: Normal, x: torch.Tensor) -> torch.Tensor:
    log_p, log_q = p.log_prob(x), q.log_prob(x)
    return PAIRS[pair](log_p.exp(), log_q.exp(), log_p - log_q)


def normals(pair: str, loc0: float, scale0: float, loc1: float, scale1: float) -> tuple[dict, list]:
    """The values of the two normal densities, and what is shown of them; the symmetric ones by quadrature."""
    p, q = normal(loc0, scale0), normal(loc1, scale1)
    want = {"loc0": loc0, "scale0": scale0, "loc1": loc1, "scale1": scale1}
    want["forward"], want["reverse"] = (kl_normal(a.loc, a.scale, b.loc, b.scale).item() for a, b in ((p, q), (q, p)))
    log_p, log_q = p.log_prob(LINE), q.log_prob(LINE)
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    js = (log_p.exp() * (log_p - log_m) + log_q.exp() * (log_q - log_m)) / 2
    want["js"] = torch.trapezoid(js, LINE).item()
    want["tv"] = torch.trapezoid((log_p.exp() - log_q.exp()).abs(), LINE).item() / 2
    return want, [*want.values()]


STORED = torch.load(BOOK / "data" / "flows.pt")["ring"][0]["weights"]
RING = realnvp(features=2)
RING.load_state_dict(STORED)
RING.double().requires_grad_(False)


def after(layers: float, z: torch.Tensor) -> torch.Tensor:
    """Latent points with so many layers undone; the last one perhaps in part, and then on their straight way."""
    for k, transform in enumerate(reversed(RING.transforms)):
        share = min(1, max(0, layers - k))
        z = (1 - share) * z + share * transform.inverse(z)[0]
    return z


def grain(layers: float, z1: float, z2: float) -> tuple[dict, list]:
    """The values of a grain in a flow, and what is shown of them; the log-determinant from the Jacobian of the map."""
    z = point(z1, z2)
    x1, x2 = after(layers, z).tolist()
    latent = Normal(point(0, 0), 1).log_prob(z).sum().item()
    log_det = log_abs_det(lambda z: after(layers, z), z).item()
    want = {"z1": z1, "z2": z2, "x1": x1, "x2": x2, "latent": latent, "logDet": log_det, "logProb": latent - log_det}
    return want | {"layers": layers}, [*want.values()]


YEARS, FLOWS = np.genfromtxt(BOOK / "data" / "nile.csv", delimiter=",", skip_header=1).T


def local_level(Q: float, R: float, first: int, last: int) -> tuple[LinearGaussianModel, torch.Tensor]:
    """A model of the Nile, and what it sees of the flows: those from the year `first` to `last` are hidden."""
    one = torch.eye(1, dtype=torch.float64)
    model = LinearGaussianModel(A=one, C=one, Q=Q * one, R=R * one, m0=1000 * one[0], P0=1e6 * one)
    hidden = (first <= YEARS) & (last >= YEARS)
    return model, torch.tensor(np.where(hidden, np.nan, FLOWS))[:, None]


def levels(known: str, Q: float, R: float, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
    """The level in every year and its standard deviation, by the filter or by the smoother."""
    model, obs = local_level(Q, R, first, last)
    mean, cov = model.smooth(obs) if known == "smoother" else model.filter(obs).updated
    return mean[:, 0].numpy(), cov[:, 0, 0].sqrt().numpy()


def nile(known: str, Q: float, R: float, first: int, last: int, year: int) -> tuple[dict, list]:
    """The values of a year in the local-level model, and what is shown of them."""
    model, obs = local_level(Q, R, first, last)
    t = year - 1871
    predicted, updated, log_likelihood = model.filter(obs)
    m, P = predicted.mean[t].item(), predicted.cov[t].item()
    hidden = first <= year <= last
    mean, cov = model.smooth(obs) if known == "smoother" else updated
    found = {
        "expected": m,
        "innovation": math.nan if hidden else FLOWS[t] - m,
        "gain": 0 if hidden else P / (P + R),
        "level": mean[t].item(),
        "scale": cov[t].sqrt().item(),
        "logLikelihood": log_likelihood.sum().item(),
    }
    return {"Q": Q, "R": R, "first": first, "last": last, "year": year} | found, [*found.values()]


class Stay(torch.nn.Module):
    """The transition of a random walk whose steps have variance 1."""

    def forward(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return z, torch.ones_like(z)


class Chosen(torch.nn.Module):
    """q(z₁) = N(k x₁ + g x₂, s²), and q(z₂ | z₁) = N((z₁ + x₂)/2, ½): a mean, the weight of the prior's, a scale."""

    def __init__(self, k: float, g: float, s: float):
        super().__init__()
        self.k, self.g, self.s = k, g, s

    def look(self, obs: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x1, x2 = obs[0, :, 0].tolist()
        steps = [[self.k * x1 + self.g * x2, 0, self.s], [x2 / 2, 0.5, math.sqrt(0.5)]]
        return torch.tensor([steps], dtype=obs.dtype)

    def combine(self, prior_loc: torch.Tensor, prior_scale: torch.Tensor, seen: torch.Tensor) -> tuple:
        loc, weight, scale = (part.expand_as(prior_loc) for part in seen.split(1, -1))
        return loc + weight * prior_loc, scale


ONE = torch.eye(1, dtype=torch.float64)
WALK = LinearGaussianModel(A=ONE, C=ONE, Q=ONE, R=ONE, m0=0 * ONE[0], P0=ONE)
KINDS = {
    "filter": {"k": 0.5, "g": 0.0, "s": math.sqrt(0.5)},
    "smoother": {"k": 0.4, "g": 0.2, "s": math.sqrt(0.4)},
    "own": {},
}


def bound(L: int, k: float, g: float, s: float, obs: torch.Tensor) -> float:
    """The two terms of the loss with overshooting, as a bound with all constants: the ELBO for L = 1.

    All is quadratic in the noise, so the mean over its signs is the expectation.
    """
    model = DeepKalmanFilter(Config(z_dim=1, obs_dim=1, overshooting=L)).double()
    model.emitter, model.transition, model.posterior = torch.nn.Identity(), Stay(), Chosen(k, g, s)
    noise = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * (2 * L)).mT
    terms = model.loss(obs[None], noise=noise.reshape(L, 2, -1, 1, 1))
    return -sum(terms).item() - math.log(2 * math.pi)


def exact(x1: float, x2: float) -> Normal:
    """p(z₁ | x₁, x₂), from the smoother."""
    mean, cov = WALK.smooth(point(x1, x2)[:, None])
    return Normal(mean[0, 0], cov[0, 0, 0].sqrt())


def two_steps(kind: str, k: float, g: float, s: float, x1: float, x2: float) -> tuple[dict, list]:
    """The values of a posterior of the random walk of two steps, and what is shown of them."""
    q = {"k": k, "g": g, "s": s} | KINDS[kind]
    obs, p = point(x1, x2)[:, None], exact(x1, x2)
    loc, scale = point(q["k"] * x1 + q["g"] * x2, q["s"])
    log_p, elbo = WALK.log_likelihood(obs).item(), bound(1, **q, obs=obs)
    found = {
        "logP": log_p,
        "elbo": elbo,
        "gap": log_p - elbo,
        "kl": kl_normal(loc, scale, p.loc, p.scale).item(),
        "overshooting": bound(2, **q, obs=obs),
    }
    return q | {"x1": x1, "x2": x2} | found, [*found.values()]


# ---- What each figure can do ----


@dataclass
class Handle:
    name: str
    changes: str  # the value that a drag to the upper right makes larger
    lands: Callable  # where it comes to lie after such a drag, from its place, the pointer's and that of its pivot
    keys: list[str]
    leads: dict  # the settings that the keys lead to
    says: str  # what a screen reader hears then
    pivot: str = ""  # the handle that it turns or stretches about


@dataclass
class Spec:
    page: str
    choice: str  # the setting that the select box, or the slider, changes
    options: Iterable  # what the box offers, or where the slider has marks
    numbers: Callable  # from the settings to the values and to the numbers shown
    states: list[dict]
    start: dict
    rest: dict  # settings where every change shows in the numbers
    handles: list[Handle]
    edges: list[tuple[dict, dict]]  # settings far outside, and where it comes to lie when it is sent there
    orange: int  # how many curves are drawn in the colour "out"


def at_the_pointer(place, pointer, pivot):
    return pointer


def along_the_diagonal(place, pointer, pivot):
    along = ((pointer[0] - place[0]) - (pointer[1] - place[1])) / 2  # on a screen y grows downwards
    return place[0] + along, place[1] - along


def on_the_circle(place, pointer, pivot):
    scale = math.dist(place, pivot) / math.dist(pointer, pivot)
    return tuple(m + scale * (p - m) for m, p in zip(pivot, pointer))


def sideways(place, pointer, pivot):
    return pointer[0], place[1]


def upright(place, pointer, pivot):
    return place[0], pointer[1]


def one_width_from_the_peak(place, pointer, pivot):
    """On the curve of a normal density, which gets lower as it gets wider."""
    fall = 1 - math.exp(-1 / 2)  # from the peak to there, as a share of the peak's height
    floor = pivot[1] + (place[1] - pivot[1]) / fall
    lower = (place[0] - pivot[0]) / (pointer[0] - pivot[0])
    return pointer[0], floor - lower * (floor - place[1])


def whole_years(place, pointer, pivot):
    """An end of the hidden years moves by whole years; here they are 15, and the pivot is their other end."""
    year = abs(pivot[0] - place[0]) / 15
    return place[0] + year * round((pointer[0] - place[0]) / year), place[1]


def along_the_level(place, pointer, pivot):
    """By whole years, too; the pivot is the first end of the hidden years, which lies at a flow of 360."""
    rest = SPECS["kalman-nile"].rest
    level, _ = levels(*(rest[name] for name in ("known", "Q", "R", "first", "last")))
    start = rest["year"] - 1871
    year = (pivot[0] - place[0]) / (rest["first"] - 0.5 - rest["year"])
    later = round((pointer[0] - place[0]) / year)
    rise = (level[start + later] - level[start]) / (level[start] - 360)
    return place[0] + year * later, place[1] - rise * (pivot[1] - place[1])


SPECS = {
    "divergence-box": Spec(
        page="divergence",
        choice="field",
        options=FIELDS,
        numbers=box,
        states=[
            {"x": x, "y": y, "width": width, "height": height}
            for x, y, width, height in [(0, 0, 1, 1), (1, 2, 0.05, 0.05), (-1.2, 0.7, 2, 1.1), (-2, -0.3, 0.9, 3.2)]
        ],
        start={"field": "waves", "x": 1.3, "y": -0.1, "width": 1.6, "height": 1.6},
        rest={"field": "polynomial", "x": 0.5, "y": 0.4, "width": 1.0, "height": 0.8},
        handles=[
            Handle(
                "Centre",
                changes="divergence",
                lands=at_the_pointer,
                keys=["ArrowRight", "ArrowUp", "Shift+ArrowUp"],
                leads={"x": 0.6, "y": 0.51},
                says="Divergence at centre: 1.0802",
            ),
            Handle(
                "Corner",
                changes="area",
                lands=at_the_pointer,
                keys=["ArrowLeft", "ArrowUp"],
                leads={"width": 0.8, "height": 1.0},
                says="Area: 0.8000",
            ),
        ],
        edges=[({"x": 9, "y": -9}, {"x": 2.0, "y": -2.1})],
        orange=1,
    ),
    "gradients-slope": Spec(
        page="gradients",
        choice="surface",
        options=SURFACES,
        numbers=slope,
        states=[
            {"x": x, "y": y, "angle": angle}
            for x, y, angle in [(0, 0, 0), (1, 1, 123), (-2.2, 1.7, 200.5), (0.9, -2.2, 301), (2.1, 2.2, 45)]
        ],
        start={"surface": "hills", "x": 0.2, "y": -0.4, "angle": 10},
        rest={"surface": "bowl", "x": 0.5, "y": -0.6, "angle": -30},
        handles=[
            Handle(
                "Hiker",
                changes="dy",
                lands=at_the_pointer,
                keys=["ArrowRight", "ArrowUp", "Shift+ArrowDown"],
                leads={"x": 0.6, "y": -0.51},
                says="Length of the gradient: 0.5478",
            ),
            Handle(
                "Direction",
                changes="angle",
                pivot="Hiker",
                lands=on_the_circle,
                keys=["ArrowUp", "ArrowLeft", "ArrowLeft", "Shift+ArrowDown", "Shift+ArrowRight", "ArrowRight"],
                leads={"angle": -22},
                says="Slope along the direction: 0.3793",
            ),
        ],
        edges=[({"x": 9, "y": -9}, {"x": 2.2, "y": -2.2})],
        orange=2,
    ),
    "jacobians-square": Spec(
        page="jacobians",
        choice="map",
        options=MAPS,
        numbers=square,
        states=[
            {"x": x, "y": y, "side": side}
            for x, y, side in [(0, 0, 2), (0.6, 0.4, 0.8), (2, -1.9, 0.05), (-1.4, 1.1, 0.7), (1.5, -1.2, 2)]
        ],
        start={"map": "waves", "x": 0.6, "y": 0.4, "side": 0.8},
        rest={"map": "squares", "x": 0.5, "y": 0.4, "side": 0.6},
        handles=[
            Handle(
                "Centre",
                changes="det",
                lands=at_the_pointer,
                keys=["ArrowRight", "ArrowUp", "Shift+ArrowUp"],
                leads={"x": 0.6, "y": 0.51},
                says="det J: 0.6201",
            ),
            Handle(
                "Corner",
                changes="ratio",
                lands=along_the_diagonal,
                keys=["ArrowUp", "ArrowRight", "Shift+ArrowLeft"],
                leads={"side": 0.79},
                says="Side of the square: 0.7900",
            ),
        ],
        edges=[({"x": 9, "y": -9}, {"x": 2.2, "y": -2.2})],
        orange=2,
    ),
    "kl-normals": Spec(
        page="kl",
        choice="pair",
        options=PAIRS,
        numbers=normals,
        states=[
            {"loc0": loc0, "scale0": scale0, "loc1": loc1, "scale1": scale1}
            for loc0, scale0, loc1, scale1 in [
                *product([-3, 0.4], [0.2, 1.7], [0.4, 3], [0.2, 2]),
                *[(0.4, 0.7, 0.4, 0.70001), (-1.2, 0.9, -1.3, 0.9), (1, 1.9, 1.5, 1.0), (0, 0.5, -0.1, 1.01)],
            ]
        ],
        start={"pair": "gap", "loc0": -0.6, "scale0": 0.6, "loc1": 0.5, "scale1": 1.1},
        rest={"pair": "gap", "loc0": -1.0, "scale0": 0.9, "loc1": 0.7, "scale1": 0.8},
        handles=[
            Handle(
                "Mean of P",
                changes="loc0",
                lands=sideways,
                keys=["ArrowRight", "ArrowUp", "Shift+ArrowLeft"],
                leads={"loc0": -0.81},
                says="Mean of P: −0.8100",
            ),
            Handle(
                "Width of P",
                pivot="Mean of P",
                changes="scale0",
                lands=one_width_from_the_peak,
                keys=["ArrowLeft", "Shift+ArrowRight", "ArrowUp"],
                leads={"scale0": 0.91},
                says="KL(P‖Q): 2.2759",
            ),
            Handle(
                "Mean of Q",
                changes="loc1",
                lands=sideways,
                keys=["ArrowLeft", "Shift+ArrowUp", "ArrowDown"],
                leads={"loc1": 0.51},
                says="Mean of Q: 0.5100",
            ),
            Handle(
                "Width of Q",
                pivot="Mean of Q",
                changes="scale1",
                lands=one_width_from_the_peak,
                keys=["ArrowRight", "Shift+ArrowDown", "ArrowUp"],
                leads={"scale1": 0.99},
                says="KL(Q‖P): 1.7936",
            ),
        ],
        edges=[
            ({"loc0": 9, "scale0": 9, "loc1": -9, "scale1": -9}, {"loc0": 3, "scale0": 2, "loc1": -3, "scale1": 0.2}),
            ({"loc0": -9, "scale0": 0, "loc1": 9, "scale1": 9}, {"loc0": -3, "scale0": 0.2, "loc1": 3, "scale1": 2}),
        ],
        orange=3,
    ),
    "flows-layers": Spec(
        page="flows",
        choice="layers",
        options=range(9),
        numbers=grain,
        states=[
            {"z1": z1, "z2": z2}
            for z1, z2 in [(0, 0), (0.6, 0.8), (-1.3, 0.45), (0.9, -2.1), (-0.2, -0.7), (2.5, 2.5), (-2.5, 1.9)]
        ],
        start={"layers": 8, "z1": 0.6, "z2": 0.8},
        rest={"layers": 5, "z1": 0.5, "z2": -0.6},
        handles=[
            Handle(
                "Grain",
                changes="z1",
                lands=at_the_pointer,
                keys=["ArrowRight", "ArrowUp", "Shift+ArrowUp"],
                leads={"z1": 0.6, "z2": -0.49},
                says="Latent log-density at z: −2.1379",
            ),
        ],
        edges=[
            ({"layers": 12, "z1": 9, "z2": -9}, {"layers": 8, "z1": 2.5, "z2": -2.5}),
            ({"layers": -3, "z1": -9, "z2": 9}, {"layers": 0, "z1": -2.5, "z2": 2.5}),
        ],
        orange=2,
    ),
    "kalman-nile": Spec(
        page="kalman",
        choice="known",
        options=("filter", "smoother"),
        numbers=nile,
        states=[
            {"Q": Q, "R": R, "first": first, "last": last, "year": year}
            for Q, R, (first, last, year) in [
                *product([10, 1469, 1e5], [1e3, 1e5], [(1871, 1870, 1898), (1891, 1910, 1911)]),
                *[(1469, 15099, hidden) for hidden in [(1871, 1871, 1871), (1871, 1890, 1891), (1971, 1970, 1970)]],
                *[(700, 4e4, hidden) for hidden in [(1913, 1913, 1914), (1950, 1970, 1970), (1871, 1970, 1900)]],
                *[(25, 30000, hidden) for hidden in [(1891, 1910, 1890), (1891, 1910, 1891), (1891, 1910, 1910)]],
            ]
        ],
        start={"known": "filter", "Q": 1469, "R": 15099, "first": 1891, "last": 1910, "year": 1911},
        rest={"known": "filter", "Q": 2000, "R": 12000, "first": 1891, "last": 1905, "year": 1880},
        handles=[
            Handle(
                "Year",
                changes="year",
                pivot="First hidden year",
                lands=along_the_level,
                keys=["ArrowRight", "ArrowUp", "Shift+ArrowUp", "Shift+ArrowRight", "ArrowLeft", "Shift+ArrowDown"],
                leads={"year": 1886},
                says="Innovation: −77.6028",
            ),
            Handle(
                "First hidden year",
                changes="first",
                pivot="Last hidden year",
                lands=whole_years,
                keys=["ArrowRight", "Shift+ArrowLeft", "Shift+ArrowDown", "ArrowDown"],
                leads={"first": 1889},
                says="Log-likelihood of all years seen: −532.3408",
            ),
            Handle(
                "Last hidden year",
                changes="last",
                pivot="First hidden year",
                lands=whole_years,
                keys=["ArrowLeft", "ArrowUp", "ArrowUp", "Shift+ArrowRight"],
                leads={"last": 1911},
                says="Log-likelihood of all years seen: −505.6799",
            ),
        ],
        edges=[
            ({"first": 1899.6, "last": 1888.4, "year": 1885.4}, {"first": 1900, "last": 1899, "year": 1885}),
            ({"first": 1880.4, "last": 1890.4, "year": 1900.6}, {"first": 1880, "last": 1890, "year": 1901}),
            (
                {"Q": 1, "R": 1e9, "first": 1800, "last": 1800, "year": 1800},
                {"Q": 10, "R": 1e5, "first": 1871, "last": 1870, "year": 1871},
            ),
            (
                {"Q": 1e9, "R": 1, "first": 2000, "last": 2000, "year": 2000},
                {"Q": 1e5, "R": 1e3, "first": 1971, "last": 1970, "year": 1970},
            ),
        ],
        orange=1,
    ),
    "deep-kalman-gap": Spec(
        page="deep_kalman",
        choice="kind",
        options=KINDS,
        numbers=two_steps,
        states=[
            {"k": k, "g": g, "s": s, "x1": x1, "x2": x2}
            for (k, g, s), (x1, x2) in product(
                [(0, -0.2, 0.2), (1, 0.6, 1.5), (0.5, 0, math.sqrt(0.5)), (0.33, 0.17, 0.9)],
                [(0, 0), (10, -10), (-10, -10), (10, 10), (1, 0.5), (-3.7, 6.2)],
            )
        ],
        start={"kind": "filter", **KINDS["filter"], "x1": 1, "x2": 0.5},
        rest={"kind": "own", "k": 0.7, "g": 0.1, "s": 0.9, "x1": 2, "x2": -3},
        handles=[
            Handle(
                "Observation x₁",
                changes="x1",
                lands=upright,
                keys=["ArrowUp", "ArrowRight", "ArrowUp", "Shift+ArrowDown", "ArrowLeft"],
                leads={"x1": 2.9},
                says="Gap: 1.8708",
            ),
            Handle(
                "Observation x₂",
                changes="x2",
                lands=upright,
                keys=["ArrowDown", "Shift+ArrowRight", "Shift+ArrowUp"],
                leads={"x2": -3.3},
                says="Overshooting, L = 2: −7.9487",
            ),
        ],
        edges=[
            ({"k": 9, "g": 9, "s": 9, "x1": 99, "x2": -99}, {"k": 1, "g": 0.6, "s": 1.5, "x1": 10, "x2": -10}),
            ({"k": -9, "g": -9, "s": -9, "x1": -99, "x2": 99}, {"k": 0, "g": -0.2, "s": 0.2, "x1": -10, "x2": 10}),
        ],
        orange=1,
    ),
}


class Figure:
    """A figure on an open page, as a hand and an eye meet it."""

    def __init__(self, page, name: str):
        self.page, self.name, self.spec = page, name, SPECS[name]
        self.root = page.locator(f"#live-{name}")
        self.control = self.root.locator("select, input").first
        self.first, self.chosen = self.values(), self.control.input_value()

    def put(self, **settings) -> None:
        self.page.evaluate("([name, settings]) => courseFigures[name].set(settings)", [self.name, settings])

    def choose(self, option) -> None:
        """What a hand does with the select box, or with the slider."""
        slider = self.control.get_attribute("type") == "range"
        self.control.fill(str(option)) if slider else self.control.select_option(option)

    def values(self) -> dict:
        return self.page.evaluate("(name) => courseFigures[name].values()", self.name)

    def shown(self) -> list[float]:
        texts = self.root.locator("dd").all_inner_texts()
        return [math.nan if text == "–" else float(text.replace("−", "-")) for text in texts]

    def numbers(self, **changes) -> dict:
        return self.spec.numbers(**self.spec.rest | changes)[0]

    def wait_for(self, value: str, start: float, end: float) -> None:
        """Waits until a value is on its way from start to end, and then until it has arrived."""
        off = "([name, value, number]) => Math.abs(courseFigures[name].values()[value] - number)"
        on_its_way = f"([name, value, start, end]) => [start, end].every((n) => ({off})([name, value, n]) > 1e-9)"
        self.page.wait_for_function(on_its_way, arg=[self.name, value, start, end])
        self.page.wait_for_function(f"(arg) => ({off})(arg) < 1e-9", arg=[self.name, value, end])

    def colour(self, name: str) -> str:
        value = "(name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim()"
        return self.page.evaluate(value, f"--{name}")

    def path(self, colour: str) -> str:
        """The curves drawn in a colour of the style sheet, as a selector."""
        return f"path[stroke='{self.colour(colour)}']"

    def drawn(self, selector) -> dict:
        """The frame about an element's shape, in the pixels of its board."""
        shape = self.root.locator(selector) if isinstance(selector, str) else selector
        return shape.evaluate("(e) => (({ x, y, width, height }) => ({ x, y, width, height }))(e.getBBox())")

    def axis(self, board: int, letter: str) -> tuple[list[float], np.poly1d]:
        """The numbers beside an axis of a flat board, and the line that takes pixels of the board to numbers."""
        anchor = {"x": "middle", "y": "end"}[letter]
        texts = self.root.locator(".flat").nth(board).locator(f"text[text-anchor={anchor}]")
        marks = texts.evaluate_all(f"all => all.map((e) => [e.textContent, parseFloat(e.getAttribute('{letter}'))])")
        read = [(float(text.replace("−", "-")), place) for text, place in marks if re.fullmatch(r"[−\d.]+", text)]
        numbers, places = zip(*read)
        line = np.poly1d(np.polyfit(places, numbers, 1))
        assert line(places) == pytest.approx(numbers)
        return [*numbers], line

    def curve(self, board: int, colour: str) -> tuple[np.ndarray, np.ndarray]:
        """The curve in a colour on a flat board, in the numbers beside its axes."""
        path = self.root.locator(".flat").nth(board).locator(f"{self.path(colour)}[stroke-width^='2.2']")
        places = np.array(re.findall(r"([-\d.e]+) ([-\d.e]+)", path.get_attribute("d")), dtype=float)
        return tuple(self.axis(board, letter)[1](place) for letter, place in zip("xy", places.T))

    def drag(self, name: str, right: float, up: float = 0) -> None:
        """Takes a handle with the mouse, and lets it go so many pixels away."""
        x, y = self.place(name)
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        self.page.mouse.move(x + right, y - up, steps=4)
        self.page.mouse.up()

    def handle(self, name: str):
        return self.root.locator(f"[aria-label^='{name}']")

    def place(self, name: str) -> tuple[float, float]:
        box = self.handle(name).bounding_box()
        return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


@pytest.fixture(scope="module")
def figures(reading, book):
    """Opens the page of a figure at its first use and keeps it open for all of its tests."""
    with ExitStack() as pages:

        def opened(name: str) -> Figure:
            page, _ = pages.enter_context(reading(book / f"{SPECS[name].page}.html", has_touch=True))
            return Figure(page, name)

        yield cache(opened)


@pytest.fixture(params=SPECS)
def opened(request, figures):
    return figures(request.param)


@pytest.fixture
def figure(opened):
    opened.root.scroll_into_view_if_needed()
    opened.put(**opened.spec.rest)
    return opened


def each(of: Callable) -> pytest.MarkDecorator:
    """A test for each figure and each of what `of` gives for it."""
    cases = [(name, item) for name, spec in SPECS.items() for item in of(spec)]
    ids = [f"{name}-{item.name if isinstance(item, Handle) else item}" for name, item in cases]
    return pytest.mark.parametrize(("opened", "item"), cases, ids=ids, indirect=["opened"])


def only(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("opened", names, indirect=True)


# ---- What all of them do ----


def test_figure_begins_where_the_image_stands(opened):
    assert opened.first == pytest.approx(opened.spec.numbers(**opened.spec.start)[0], **NUMBERS)
    assert opened.chosen == str(opened.spec.start[opened.spec.choice])


@each(lambda spec: spec.options)
def test_figure_computes_what_the_companion_computes(figure, item):
    options = figure.root.locator("option").evaluate_all("all => all.map((option) => option.value)")
    assert options == [*map(str, figure.spec.options)]
    for state in figure.spec.states:
        settings = {figure.spec.choice: item} | state
        figure.put(**settings)
        want, shown = figure.spec.numbers(**settings)
        assert figure.values() == pytest.approx(want, **NUMBERS, nan_ok=True)
        assert figure.shown() == pytest.approx(shown, **SHOWN, nan_ok=True)


@each(lambda spec: spec.options)
def test_select_box_or_slider_changes_the_figure(figure, item):
    figure.choose(item)
    want = figure.numbers(**{figure.spec.choice: item})
    assert figure.values() == pytest.approx(want, **NUMBERS)


def test_figure_keeps_within_its_bounds(figure):
    for away, edge in figure.spec.edges:
        figure.put(**away)
        assert figure.values() == pytest.approx(figure.numbers(**edge), **NUMBERS)


@pytest.mark.parametrize("by", ["mouse", "finger"])
@each(lambda spec: spec.handles)
def test_figure_follows_mouse_and_finger(figure, item, by):
    figure.handle(item.name).scroll_into_view_if_needed()
    page, before, scrolled = figure.page, figure.values(), figure.page.evaluate("scrollY")
    x, y = figure.place(item.name)
    there = item.lands((x, y), (x + 30, y - 40), figure.place(item.pivot or item.name))
    if by == "mouse":
        figure.drag(item.name, right=30, up=40)
        page.mouse.move(there[0] + 8, there[1] - 6)  # over the handle, but let go
    else:
        touch = page.context.new_cdp_session(page)
        path = [{"x": x + 6 * step, "y": y - 8 * step} for step in range(6)]
        for kind, points in [("Start", path[:1]), *(("Move", [point]) for point in path[1:]), ("End", [])]:
            touch.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": points})
    assert figure.values()[item.changes] > before[item.changes] + 0.1
    assert figure.place(item.name) == pytest.approx(there, abs=1.5)
    assert page.evaluate("scrollY") == scrolled


@each(lambda spec: spec.handles)
def test_figure_follows_the_arrow_keys(figure, item):
    figure.handle(item.name).focus()
    for key in item.keys:
        figure.page.keyboard.press(key)
    assert figure.values() == pytest.approx(figure.numbers(**item.leads), **NUMBERS)
    expect(figure.root.locator("[aria-live=polite]")).to_contain_text(item.says)


def test_figure_follows_light_and_dark(figure, switch):
    colours = set()
    for theme in ("light", "dark"):
        switch(figure.page, theme)
        expect(figure.root.locator(figure.path("out"))).to_have_count(figure.spec.orange)
        colours.add(figure.path("out"))
    assert len(colours) == 2


def test_image_is_what_gets_printed_in_light(figure, switch):
    page = figure.page
    switch(page, "dark")
    page.emulate_media(media="print")
    expect(figure.root.locator("img")).to_be_visible()
    expect(figure.root.locator(".live")).to_be_hidden()
    expect(page.locator("html")).to_have_attribute("data-theme", "light")
    page.emulate_media(media="screen")
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")


@pytest.mark.parametrize("without", ["script", "library"])
@pytest.mark.parametrize("name", SPECS)
def test_image_stays_without_script_or_library(reading, book, name, without):
    options = {"java_script_enabled": False} if without == "script" else {"block": "jsxgraphcore.js$"}
    with reading(book / f"{SPECS[name].page}.html", **options) as (page, _):
        expect(page.locator(f"#live-{name} img")).to_be_visible()
        assert page.locator(f"#live-{name} .live").count() == 0


# ---- What one or two of them do ----


@pytest.fixture
def in_motion(figure):
    """The figure for a reader who wants motion."""
    figure.page.emulate_media(reduced_motion="no-preference")
    yield figure
    figure.page.emulate_media(reduced_motion="reduce")


SHRINKING = {  # the button, the smallest size, the mean and what it tends to
    "divergence-box": ("Shrink the box", {"width": 0.05, "height": 0.05}, "density", "divergence"),
    "jacobians-square": ("Shrink the square", {"side": 0.05}, "ratio", "det"),
}


@only(*SHRINKING)
def test_shrinking_shows_the_limit(figure):
    button, smallest, mean, limit = SHRINKING[figure.name]
    before = figure.values()
    assert abs(before[mean] - before[limit]) > 0.05
    figure.root.get_by_role("button", name=button).click()
    after = figure.values()
    assert after == pytest.approx(figure.numbers(**smallest), **NUMBERS)
    assert after[mean] == pytest.approx(after[limit], abs=2e-3)


@only(*SHRINKING)
def test_shrinking_takes_its_time(in_motion):
    figure, (button, smallest, mean, _) = in_motion, SHRINKING[in_motion.name]
    before, end = figure.values()[mean], figure.numbers(**smallest)[mean]
    figure.root.get_by_role("button", name=button).click()
    figure.wait_for(mean, before, end)


@only("gradients-slope")
def test_uphill_the_slope_is_the_length_of_the_gradient(figure):
    figure.put(angle=100)
    assert figure.values()["slope"] < 0
    figure.root.get_by_role("button", name="Turn uphill").click()
    values = figure.values()
    assert values["length"] == pytest.approx(math.hypot(0.5 / 3, -0.6))
    assert values["slope"] == pytest.approx(values["length"], abs=1e-12)
    assert figure.shown()[3:] == pytest.approx([0, 1], abs=1e-9)


@only("gradients-slope")
def test_turning_uphill_takes_its_time(in_motion):
    in_motion.put(angle=100)
    before = in_motion.values()["slope"]
    in_motion.root.get_by_role("button", name="Turn uphill").click()
    in_motion.wait_for("slope", before, math.hypot(0.5 / 3, -0.6))


@only("gradients-slope")
def test_on_the_flat_no_way_is_uphill(figure):
    figure.put(x=0, y=0)
    before = figure.handle("Direction").get_attribute("aria-label")
    figure.root.get_by_role("button", name="Turn uphill").click()
    assert figure.handle("Direction").get_attribute("aria-label") == before
    assert figure.shown() == pytest.approx([0, 0, 0, math.nan, math.nan], nan_ok=True)


@only("gradients-slope")
def test_slope_is_drawn_between_its_bounds(figure):
    """The marker lies on the upper one uphill, on the lower one downhill, and halfway along a contour."""
    uphill = math.degrees(math.atan2(-0.6, 0.5 / 3))
    bounds = figure.drawn(".flat path[stroke-dasharray]")
    assert bounds["height"] > 50
    for turn, share in [(0, 0), (90, 0.5), (180, 1)]:
        figure.put(angle=uphill + turn)
        marker = figure.drawn(".flat ellipse")
        height = marker["y"] + marker["height"] / 2
        assert height == pytest.approx(bounds["y"] + share * bounds["height"], abs=0.6)


@only("gradients-slope")
def test_gradient_is_drawn_from_the_hiker(figure):
    figure.put(surface="plane")  # where it is (0.3, −0.4)
    hiker, arrow = figure.drawn("[aria-label^=Hiker]"), figure.drawn(f".jxgbox:not(.flat) {figure.path('out')}")
    assert arrow["x"] == pytest.approx(hiker["x"] + hiker["width"] / 2, abs=0.6)
    assert arrow["y"] == pytest.approx(hiker["y"] + hiker["height"] / 2, abs=0.6)
    assert arrow["width"] > 10
    assert arrow["height"] / arrow["width"] == pytest.approx(4 / 3, rel=0.05)


@only("jacobians-square")
@pytest.mark.parametrize(("map", "same"), [("linear", True), ("mirror", True), ("waves", False), ("article", False)])
def test_parallelogram_is_the_image_of_a_linear_map(figure, map, same):
    figure.put(map=map, side=2)
    stretched = figure.root.locator(".jxgbox").nth(1)
    true, linear = (figure.drawn(stretched.locator(figure.path(colour)).first) for colour in ("out", "in"))
    off = max(abs(true[side] - linear[side]) for side in true)
    assert off < 0.6 if same else off > 5


TWO = {  # two normal densities: the colours of P and of Q, and whose number is which
    "in": ("P", "loc0", "scale0"),
    "out": ("Q", "loc1", "scale1"),
}


@only("kl-normals")
@pytest.mark.parametrize("wide", [0.8, 0.25, 1.9])
def test_densities_are_drawn_with_their_handles(figure, wide):
    settings = figure.spec.rest | {"scale0": wide}
    figure.put(**settings)
    (_, to_x), (levels, to_y) = figure.axis(0, "x"), figure.axis(0, "y")
    for colour, (name, loc, scale) in TWO.items():
        at = normal(settings[loc], settings[scale])
        x, y = figure.curve(0, colour)
        assert x[[0, -1]] == pytest.approx([-7.5, 7.5], abs=0.01)
        assert x[y.argmax()] == pytest.approx(settings[loc], abs=0.011)
        assert y == pytest.approx(at.log_prob(torch.tensor(x)).exp().numpy(), abs=0.003 * max(levels))
        for handle, place in (f"Mean of {name}", at.loc), (f"Width of {name}", at.loc + at.scale):
            dot, height = figure.drawn(f"[aria-label^='{handle}']"), at.log_prob(place).exp().item()
            assert to_x(dot["x"] + dot["width"] / 2) == pytest.approx(place.item(), abs=0.02)
            assert to_y(dot["y"] + dot["height"] / 2) == pytest.approx(height, abs=0.01 * max(levels))
            assert figure.handle(handle).get_attribute("fill") in figure.path(colour)


@only("kl-normals")
@pytest.mark.parametrize("pair", PAIRS)
def test_areas_below_are_the_divergences(figure, pair):
    """And in one pair of integrands no part of them is negative."""
    p, q = (normal(figure.spec.rest[loc], figure.spec.rest[scale]) for _, loc, scale in TWO.values())
    figure.root.locator("select").select_option(pair)
    top = max(figure.axis(1, "y")[0])
    for colour, (a, b), kl in [("in", (p, q), "forward"), ("out", (q, p), "reverse")]:
        x, y = figure.curve(1, colour)
        assert y == pytest.approx(integrand(pair, a, b, torch.tensor(x)).numpy(), abs=0.005 * top)
        assert np.trapezoid(y, x) == pytest.approx(figure.values()[kl], rel=0.005)
        assert y.min() > -1e-9 if pair == "gap" else y.min() < -0.02 * top
        board, line = figure.root.locator(".flat").nth(1), figure.path(colour)
        filled = board.locator(line.replace("stroke", "fill"))
        assert figure.drawn(filled) == pytest.approx(figure.drawn(board.locator(line)), abs=0.6)


@only("kl-normals")
def test_curves_differ_by_more_than_their_colour(figure):
    for board in figure.root.locator(".flat").all():
        dashed = [
            board.locator(f"{figure.path(c)}[stroke-width^='2.2'][stroke-dasharray]").count() for c in ("in", "out")
        ]
        assert dashed == [0, 1]


@only("kl-normals")
def test_divergences_are_integrals(figure):
    for state in figure.spec.states:
        figure.put(**state)
        p, q = (normal(state[loc], state[scale]) for _, loc, scale in TWO.values())
        for a, b, kl in (p, q, "forward"), (q, p, "reverse"):
            area = torch.trapezoid(integrand("textbook", a, b, LINE), LINE).item()
            assert figure.values()[kl] == pytest.approx(area, **NUMBERS)


@only("kl-normals")
@pytest.mark.parametrize("apart", [1e-8, 1e-3, 0.97])
def test_divergences_keep_their_digits(figure, apart):
    """Where the widths nearly agree, and where the series is longest."""
    near = {"loc0": 0.0, "scale0": 1.0, "loc1": 0.0, "scale1": 1.0 + apart}
    figure.put(**near)
    for kl in ("forward", "reverse"):
        assert figure.values()[kl] == pytest.approx(figure.numbers(**near)[kl], rel=1e-12, abs=0)


@only("kl-normals")
def test_equal_densities_do_not_diverge(figure):
    figure.put(loc1=-1.0, scale1=0.9)
    assert figure.shown()[4:] == [0, 0, 0, 0]


@only("kl-normals")
def test_swapping_turns_the_divergence_around(figure):
    before = figure.values()
    figure.root.get_by_role("button", name="Swap P and Q").click()
    other = {"loc0": "loc1", "scale0": "scale1", "loc1": "loc0", "scale1": "scale0"}
    other |= {"forward": "reverse", "reverse": "forward", "js": "js", "tv": "tv"}
    assert figure.values() == pytest.approx({name: before[same] for name, same in other.items()}, abs=1e-12)
    assert before["forward"] > before["reverse"] + 0.1


@only("kl-normals")
@pytest.mark.parametrize("pair", PAIRS)
def test_scale_below_follows_the_integrands(figure, pair):
    """What is drawn lies between the outermost lines, and fills nearly half of the room between them, or more."""
    figure.put(pair=pair)
    tops = set()
    for state in figure.spec.states:
        figure.put(**state)
        bottom, *_, top = sorted(figure.axis(1, "y")[0])
        heights = np.concatenate([figure.curve(1, colour)[1] for colour in TWO])
        assert bottom == -top / 2
        assert bottom - 1e-9 <= heights.min() <= heights.max() <= top + 1e-9
        assert max(heights.max(), -2 * heights.min()) > 0.45 * top or top == 0.01
        tops.add(top)
    assert min(tops) == 0.01
    assert max(tops) == 1000


@only("kl-normals")
@pytest.mark.parametrize(
    ("handle", "across", "leads"),
    [
        ("Mean of P", -900, {"loc0": -3}),
        ("Mean of Q", 900, {"loc1": 3}),
        ("Width of P", -900, {"scale0": 0.2}),
        ("Width of Q", 900, {"scale1": 2}),
    ],
)
def test_hand_keeps_within_bounds(figure, handle, across, leads):
    figure.handle(handle).scroll_into_view_if_needed()
    figure.drag(handle, across)
    assert figure.values() == pytest.approx(figure.numbers(**leads), **NUMBERS)


@only("kl-normals")
@pytest.mark.parametrize(("handle", "moves"), [("Width of P", "scale0"), ("Mean of Q", "loc1")])
def test_hand_takes_the_nearest_of_two_handles(figure, handle, moves):
    figure.put(loc0=-0.5, scale0=0.8, loc1=0.4, scale1=1.3)  # one dot lies on the halo of the other
    figure.handle(handle).scroll_into_view_if_needed()
    assert math.dist(figure.place("Width of P"), figure.place("Mean of Q")) < 15
    before = figure.values()
    figure.drag(handle, 30)
    changed = [name for name, value in figure.values().items() if value != before[name]]
    assert changed == [moves, "forward", "reverse", "js", "tv"]
    expect(figure.handle(handle)).to_be_focused()


@pytest.fixture
def on_a_phone(figure):
    """The figure as wide as a phone."""
    drawing = figure.root.locator(".flat svg").last.element_handle()
    figure.page.set_viewport_size({"width": 390, "height": 844})
    figure.page.wait_for_function("(svg) => svg.getBoundingClientRect().width < 390", arg=drawing)
    yield figure
    figure.page.set_viewport_size({"width": 1280, "height": 900})
    figure.page.wait_for_function("(svg) => svg.getBoundingClientRect().width > 390", arg=drawing)


LONGEST = {  # settings with the longest numbers beside the axes
    "kl-normals": {"loc1": -1.0, "scale1": 0.9},
    "kalman-nile": {},
    "deep-kalman-gap": {"x1": -9.99, "x2": -9.99},
}


@only(*LONGEST)
def test_numbers_beside_the_axes_stay_on_a_phone(on_a_phone):
    on_a_phone.put(**LONGEST[on_a_phone.name])
    outside = """(all) => all.filter((text) => {
        const [a, b] = [text, text.closest(".flat")].map((e) => e.getBoundingClientRect());
        return a.left < b.left || a.right > b.right || a.top < b.top || a.bottom > b.bottom;
    }).map((text) => text.textContent)"""
    assert on_a_phone.root.locator(".flat text").evaluate_all(outside) == []


# ---- The layers of a flow ----


@only("flows-layers")
@pytest.mark.parametrize("layers", [0.05, 2.25, 3.5, 6.9, 7.95])
def test_part_of_a_layer_is_a_map_of_its_own(figure, layers):
    for state in figure.spec.states:
        figure.put(layers=layers, **state)
        want, shown = grain(layers, **state)
        assert figure.values() == pytest.approx(want, **NUMBERS)
        assert figure.shown() == pytest.approx(shown, **SHOWN)


@only("flows-layers")
def test_in_the_end_it_is_the_density_of_the_flow(figure):
    for state in figure.spec.states:
        figure.put(layers=8, **state)
        x, log_det = RING.inverse(point(state["z1"], state["z2"]))
        want = {"x1": x[0].item(), "x2": x[1].item(), "logDet": log_det.item(), "logProb": RING.log_prob(x).item()}
        values = figure.values()
        assert {name: values[name] for name in want} == pytest.approx(want, **NUMBERS)


def in_figure(name: str) -> torch.Tensor:
    text = (BOOK / "assets" / "figures" / "flows-layers-weights.js").read_text(encoding="utf-8")
    encoded = re.search(rf'{name}: "(.*)"', text)[1]
    return torch.from_numpy(np.frombuffer(b64decode(encoded), dtype="<f4").copy())


GRAINS = torch.randn(300, 2, generator=torch.Generator().manual_seed(3))  # as in the still picture


def test_figure_has_the_weights_that_are_stored():
    """After another training `python book/train.py export` brings them."""
    assert torch.equal(in_figure("weights"), torch.cat([tensor.flatten() for tensor in STORED.values()]))
    assert torch.equal(in_figure("grains"), GRAINS.flatten())


def test_weights_are_loaded_where_they_are_needed_and_only_there(figures):
    for name in SPECS:
        sources = figures(name).page.evaluate("[...document.scripts].map((script) => script.src)")
        assert any("weights" in source for source in sources) == (name == "flows-layers")


def test_image_stays_without_weights(reading, book):
    with reading(book / "flows.html", block="weights.js$") as (page, _):
        expect(page.locator("#live-flows-layers img")).to_be_visible()
        assert page.locator("#live-flows-layers .live").count() == 0


def units(board) -> Callable:
    """What takes pixels to places on a square board, 8 units wide with 0 in the middle."""
    width = board.locator("svg").evaluate("(svg) => svg.getBoundingClientRect().width")
    return lambda pixels: (np.array(pixels, dtype=float) / width - 0.5) * [8, -8]


def on_board(figure, board: int, path: str) -> list[np.ndarray]:
    """The lines of a curve on a square board, each by its points."""
    box = figure.root.locator(".jxgbox").nth(board)
    lines = box.locator(path).first.get_attribute("d").split("M")[1:]
    to_units = units(box)
    return [to_units(re.findall(r"([-\d.e]+) ([-\d.e]+)", line)) for line in lines]


ON_BOARD = {"rel": 0, "abs": 0.012}  # half a pixel
BOARDS = [(0, 0), (1, 1), (1, 4.25), (1, 8)]  # and how many layers are undone there


@only("flows-layers")
@pytest.mark.parametrize(("board", "undone"), BOARDS)
def test_grains_are_drawn_where_the_layers_take_them(figure, board, undone):
    figure.put(layers=undone or 5)  # the latent board shows the heap at all times
    dots = on_board(figure, board, figure.path("out"))
    assert np.array([dot[0] for dot in dots]) == pytest.approx(after(undone, GRAINS.double()).numpy(), **ON_BOARD)


def distance(points: np.ndarray, line: np.ndarray) -> float:
    """How far the farthest of the points is from the line through the corners `line`."""
    a, along = line[:-1], line[1:] - line[:-1]
    share = ((points[:, None] - a) * along).sum(-1) / np.maximum((along**2).sum(-1), 1e-12)
    nearest = a + share.clip(0, 1)[..., None] * along
    return np.linalg.norm(points[:, None] - nearest, axis=-1).min(1).max()


@only("flows-layers")
@pytest.mark.parametrize(("board", "undone"), BOARDS)
def test_threads_are_drawn_where_the_layers_take_them(figure, board, undone):
    figure.put(layers=undone or 5)
    ticks, fine = (torch.linspace(-2.5, 2.5, n, dtype=torch.float64) for n in (11, 1001))
    pairs = [(tick.expand(1001), fine) for tick in ticks]
    sheet = torch.stack([torch.stack(pair[::way], -1) for pair in pairs for way in (1, -1)])
    drawn = on_board(figure, board, figure.path("in"))
    assert len(drawn) == len(sheet)
    for line, thread in zip(drawn, after(undone, sheet).numpy()):
        assert distance(thread, line) < 0.1  # four pixels


@only("flows-layers")
@pytest.mark.parametrize("undone", [1, 4, 8])
def test_threads_that_are_drawn_lead_back_to_the_sheet(figure, undone):
    figure.put(layers=undone)
    for i, line in enumerate(on_board(figure, 1, figure.path("in"))):
        z = torch.tensor(line)
        for transform in RING.transforms[8 - undone :]:
            z = transform(z)[0]
        assert z[:, i % 2].numpy() == pytest.approx(-2.5 + 0.5 * (i // 2), **ON_BOARD)
        assert (z[:, 1 - i % 2].diff() > 0).all()


@only("flows-layers")
@pytest.mark.parametrize("undone", [0, 3, 6.5])
def test_grain_in_hand_is_drawn_on_its_way(figure, undone):
    figure.put(layers=undone)
    z = point(figure.spec.rest["z1"], figure.spec.rest["z2"])
    [way] = on_board(figure, 1, figure.path("ink"))
    stops = [*range(math.ceil(undone)), undone]
    assert way == pytest.approx(np.array([after(k, z).numpy() for k in stops]), **ON_BOARD)
    board = figure.root.locator(".jxgbox").nth(1)
    dot = figure.drawn(board.locator("ellipse[stroke-width='0px']"))
    middle = dot["x"] + dot["width"] / 2, dot["y"] + dot["height"] / 2
    assert units(board)(middle) == pytest.approx(way[-1], **ON_BOARD)


@only("flows-layers")
def test_slider_follows_the_arrow_keys(figure):
    figure.control.focus()
    led = []
    keys = ["ArrowRight", "Shift+ArrowLeft", "ArrowUp", "Shift+ArrowUp", "ArrowDown", "ArrowLeft", "Shift+ArrowDown"]
    for key in keys:
        figure.page.keyboard.press(key)
        led.append(figure.values()["layers"])
    assert led == [6, 5.95, 6, 6.05, 6, 5, 4.95]
    assert figure.control.input_value() == "4.95"
    expect(figure.control).to_have_attribute("aria-valuetext", "4.95 of 8 layers undone")
    expect(figure.root).to_contain_text("4.95 of 8 layers undone:")


@only("flows-layers")
def test_slider_follows_the_hand(figure):
    box = figure.control.bounding_box()
    figure.page.mouse.click(box["x"] + 0.3 * box["width"], box["y"] + box["height"] / 2)
    layers = figure.values()["layers"]
    assert layers == pytest.approx(2.4, abs=0.3)
    assert figure.values() == pytest.approx(figure.numbers(layers=layers), **NUMBERS)


@only("flows-layers")
def test_button_undoes_layer_after_layer(figure):
    led = []
    for start in (5.3, 8):
        figure.put(layers=start)
        for _ in range(3):
            figure.root.get_by_role("button", name="Undo the next layer" if start < 8 else "Back to the heap").click()
            led.append(start := figure.values()["layers"])
    assert led == [6, 7, 8, 0, 1, 2]


@only("flows-layers")
def test_undoing_takes_its_time(in_motion):
    for start, name, end in [(5, "Undo the next layer", 6), (8, "Back to the heap", 0)]:
        in_motion.put(layers=start)
        in_motion.root.get_by_role("button", name=name).click()
        in_motion.wait_for("layers", start, end)


@only("flows-layers")
def test_hand_stops_the_layers(in_motion):
    """The slider stays where it is put; a hurried second press of the button skips the rest of what the first began."""
    figure = in_motion
    figure.put(layers=8)
    figure.root.get_by_role("button", name="Back to the heap").click()
    figure.choose(3)
    figure.page.wait_for_timeout(100)
    assert figure.values()["layers"] == 3
    for _ in range(2):
        figure.root.get_by_role("button", name="Undo the next layer").click()
    figure.wait_for("layers", 3, 5)


# ---- The flow of the Nile ----


def test_figure_has_the_flows_that_are_stored():
    text = (BOOK / "assets" / "figures" / "kalman-nile.js").read_text(encoding="utf-8")
    flows = re.search(r"FLOWS = \[[^\n]*\n([^\]]*)\]", text)[1]
    assert [int(number) for number in re.findall(r"\d+", flows)] == FLOWS.tolist()
    assert YEARS.tolist() == [*range(1871, 1971)]


def in_years(figure, path: str) -> np.ndarray:
    """The corners of what is drawn as a path on the board of the Nile, in years and flows, line after line."""
    drawn = figure.root.locator(f".flat path{path}").get_attribute("d")
    corners = re.findall(r"([-\d.e]+) ([-\d.e]+)", drawn if "L" in drawn else "")  # one corner alone is not drawn
    x, y = np.array(corners, dtype=float).reshape(-1, 2).T
    return np.stack([figure.axis(0, "x")[1](x), figure.axis(0, "y")[1](y)], -1)


IN_YEARS = {"rel": 0, "abs": 0.01}
NILE_LINES = {"filter": ("out", "in"), "smoother": ("in", "out")}  # the colours of the level and of the other one


def of_the_nile(figure, known: str, **changes) -> tuple[np.ndarray, np.ndarray]:
    settings = figure.spec.rest | changes
    return levels(known, *(settings[name] for name in ("Q", "R", "first", "last")))


@only("kalman-nile")
@pytest.mark.parametrize("known", NILE_LINES)
@pytest.mark.parametrize(
    "changes", [{}, {"Q": 50}, {"first": 1871, "last": 1870}, {"first": 1881, "last": 1960, "Q": 1e5}]
)
def test_level_is_drawn_with_its_band(figure, known, changes):
    """The band covers 90 %, and is cut where the board ends; the level that was not chosen is dashed."""
    figure.put(known=known, **changes)
    expect(figure.control).to_have_value(known)
    mine, theirs = NILE_LINES[known]
    mean, scale = of_the_nile(figure, known, **changes)
    line = in_years(figure, f"[stroke='{figure.colour(mine)}'][stroke-width='2.2px']:not([stroke-dasharray])")
    assert line == pytest.approx(np.stack([YEARS, mean], -1), **IN_YEARS)
    other = in_years(figure, f"[stroke='{figure.colour(theirs)}'][stroke-width='1.4px'][stroke-dasharray]")
    unchosen, _ = of_the_nile(figure, next(name for name in NILE_LINES if name != known), **changes)
    assert other == pytest.approx(np.stack([YEARS, unchosen], -1), **IN_YEARS)
    band = in_years(figure, f"[fill='{figure.colour(mine)}']")
    half = Normal(0.0, 1.0).icdf(torch.tensor(0.95)).item() * scale
    upper, lower = (np.clip(mean + sign * half, 300, 1500) for sign in (1, -1))
    want = np.concatenate([np.stack([YEARS, upper], -1), np.stack([YEARS, lower], -1)[::-1]])
    assert band == pytest.approx(want, rel=0, abs=0.25)  # 1.645 is not quite the quantile


@only("kalman-nile")
@pytest.mark.parametrize("known", NILE_LINES)
def test_dots_say_what_the_level_rests_on(figure, known):
    """Strong ones are seen, pale ones come too late for the filter, and rings are hidden."""
    figure.put(known=known, year=1908)
    hidden, later = (YEARS >= 1891) & (YEARS <= 1905), (YEARS > 1908) & (known == "filter")
    ink, paper = figure.colour("ink"), figure.colour("pst-color-background")
    kinds = {
        f"[stroke='{ink}'][stroke-width='4.8px'][stroke-opacity='1']": ~hidden & ~later,
        f"[stroke='{ink}'][stroke-width='4.8px'][stroke-opacity='0.3']": later,
        f"[stroke='{figure.colour('faint')}'][stroke-width='6px']": hidden,
        f"[stroke='{paper}'][stroke-width='3.4px']": hidden,
    }
    for path, which in kinds.items():
        dots = np.stack([YEARS, FLOWS], -1)[which]
        assert in_years(figure, path) == pytest.approx(dots.repeat(2, 0), **IN_YEARS)


@only("kalman-nile")
@pytest.mark.parametrize("known", NILE_LINES)
@pytest.mark.parametrize(("first", "last"), [(1891, 1905), (1871, 1871), (1950, 1970), (1900, 1899)])
def test_handles_lie_at_the_year_and_beside_the_hidden_years(figure, known, first, last):
    figure.put(known=known, first=first, last=last, year=1902)
    to_x, to_y = (figure.axis(0, letter)[1] for letter in "xy")
    mean, scale = (of[1902 - 1871] for of in of_the_nile(figure, known, first=first, last=last))
    for name, place in [("Year", (1902, mean)), ("First", (first - 0.5, 360)), ("Last", (last + 0.5, 1440))]:
        dot = figure.drawn(f"[aria-label^={name}]")
        middle = to_x(dot["x"] + dot["width"] / 2), to_y(dot["y"] + dot["height"] / 2)
        assert middle == pytest.approx(place, **IN_YEARS)
    interval = in_years(figure, f"[stroke='{figure.colour('ink')}'][stroke-width='1.6px']")
    assert interval == pytest.approx(np.array([[1902, mean - 1.645 * scale], [1902, mean + 1.645 * scale]]), **IN_YEARS)
    shade = in_years(figure, f"[fill='{figure.colour('faint')}']")
    corners = [(first - 0.5, 300), (first - 0.5, 1500), (last + 0.5, 1500), (last + 0.5, 300)]
    assert shade == pytest.approx(np.array(corners), **IN_YEARS)
    sides = in_years(figure, f"[stroke='{figure.colour('faint')}'][stroke-dasharray]")
    assert sides == pytest.approx(np.array(corners)[[0, 1, 3, 2]], **IN_YEARS)


@only("kalman-nile")
@pytest.mark.parametrize(
    ("first", "last", "hidden", "ends"),
    [
        (1891, 1910, "1891–1910", ("1891", "1910")),
        (1900, 1900, "1900", ("1900", "1900")),
        (9, 9, "none", ("none", "none")),
    ],
)
def test_words_name_the_hidden_years(figure, first, last, hidden, ends):
    figure.put(first=first, last=last, year=1900)
    expect(figure.root.locator(".boards .hint")).to_have_text(f"Nile in 10⁸ m³; hidden: {hidden}; chosen: 1900.")
    for name, end in zip(("First", "Last"), ends):
        text = f"{name} hidden year, {end}; move it with the arrow keys"
        expect(figure.handle(name)).to_have_attribute("aria-label", text)
    text = "Year 1900; move" if hidden == "none" else "Year 1900, hidden; move"
    expect(figure.handle("Year")).to_have_attribute("aria-label", f"{text} it with the arrow keys")


@only("kalman-nile")
@pytest.mark.parametrize(
    ("handle", "across", "leads"),
    [
        ("Year", -900, {"year": 1871}),
        ("Year", 900, {"year": 1970}),
        ("First", -900, {"first": 1871}),
        ("First", 900, {"first": 1906}),
        ("Last", -900, {"last": 1890}),
        ("Last", 900, {"last": 1970}),
    ],
)
def test_ends_of_the_hidden_years_do_not_pass_each_other(figure, handle, across, leads):
    figure.handle(handle).scroll_into_view_if_needed()
    figure.drag(handle, across)
    assert figure.values() == pytest.approx(figure.numbers(**leads), **NUMBERS, nan_ok=True)


VARIANCES = {"Q": (1, 5), "R": (3, 5)}  # and the powers of 10 between which they lie


@only("kalman-nile")
@pytest.mark.parametrize(("name", "powers"), VARIANCES.items())
def test_variances_follow_their_sliders(figure, name, powers):
    slider = figure.root.locator("input").nth([*VARIANCES].index(name))
    assert figure.root.get_by_label(re.compile(f"^{name}, variance of")).get_attribute("type") == "range"
    for power, value in [(powers[0], 10 ** powers[0]), (powers[1], 1e5), (4.18, 15140), (3.17, 1479)]:
        slider.fill(str(power))
        assert figure.values() == pytest.approx(figure.numbers(**{name: value}), **NUMBERS)
        expect(slider).to_have_attribute("aria-valuetext", f"{value:.0f}")
        expect(slider.locator("xpath=following-sibling::span")).to_have_text(f"{value:.0f}")
    figure.put(**{name: 15099})
    expect(slider).to_have_attribute("aria-valuetext", "15099")
    assert slider.input_value() == "4.18"
    box = slider.bounding_box()
    figure.page.mouse.click(box["x"] + 0.3 * box["width"], box["y"] + box["height"] / 2)
    power = math.log10(figure.values()[name])
    assert power == pytest.approx(powers[0] + 0.3 * (powers[1] - powers[0]), abs=0.1)


@only("kalman-nile")
@pytest.mark.parametrize("name", VARIANCES)
def test_variances_follow_the_arrow_keys(figure, name):
    figure.put(**{name: 10000})
    figure.root.locator("input").nth([*VARIANCES].index(name)).focus()
    led = []
    keys = ["ArrowRight", "Shift+ArrowLeft", "ArrowUp", "Shift+ArrowUp", "ArrowDown", "ArrowLeft", "Shift+ArrowDown"]
    for key in keys:
        figure.page.keyboard.press(key)
        led.append(figure.values()[name])
    assert led == [12590, 12300, 15480, 15840, 12580, 9993, 9766]
    assert figure.values() == pytest.approx(figure.numbers(**{name: led[-1]}), **NUMBERS)


@only("kalman-nile")
def test_button_hides_and_shows_years(figure):
    figure.root.get_by_role("button", name="Hide no year").click()
    assert figure.values() == pytest.approx(figure.numbers(first=1871, last=1870), **NUMBERS)
    figure.root.get_by_role("button", name="Hide 1891–1910").click()
    assert figure.values() == pytest.approx(figure.numbers(first=1891, last=1910), **NUMBERS)


@only("kalman-nile")
def test_years_pass_to_the_last_one(figure):
    figure.root.get_by_role("button", name="Let the years pass").click()
    assert figure.values() == pytest.approx(figure.numbers(year=1970), **NUMBERS)


@only("kalman-nile")
def test_years_take_their_time_and_begin_anew(in_motion):
    for start, begin in [(1960, 1960), (1970, 1871)]:
        in_motion.put(year=start)
        in_motion.root.get_by_role("button", name="Let the years pass").click()
        on_the_way = f"(({begin} + 1 < year) && (year < {begin} + 9))"
        in_motion.page.wait_for_function(f"(({{ year }}) => {on_the_way})(courseFigures['kalman-nile'].values())")
        if begin == 1960:
            in_motion.page.wait_for_function("courseFigures['kalman-nile'].values().year === 1970")
    in_motion.handle("Year").press("ArrowRight")  # stops them


@only("kalman-nile")
@pytest.mark.parametrize("by", ["key", "slider", "box", "button"])
def test_hand_stops_the_years(in_motion, by):
    figure = in_motion
    figure.put(year=1890)
    figure.root.get_by_role("button", name="Let the years pass").click()
    figure.page.wait_for_function("courseFigures['kalman-nile'].values().year > 1891")
    if by == "key":
        figure.handle("Last").press("ArrowRight")
    elif by == "slider":
        figure.root.locator("input").first.fill("2")
    elif by == "box":
        figure.control.select_option("smoother")
    else:
        figure.root.get_by_role("button", name="Hide no year").click()
    stopped = figure.values()
    figure.page.wait_for_timeout(300)
    assert figure.values() == pytest.approx(stopped, nan_ok=True)


# ---- The gap of a filter ----


@only("deep-kalman-gap")
@pytest.mark.parametrize(
    ("x1", "x2", "log_p", "elbo", "overshooting"),
    [(10, -10, -72.6425960226, -83.906024247, -71.656024247), (1, 0.5, -2.892596, -2.906024, -3.218524)],
)
def test_filter_has_the_numbers_of_the_ledger(figure, x1, x2, log_p, elbo, overshooting):
    figure.put(kind="filter", x1=x1, x2=x2)
    values = figure.values()
    got = [values[name] for name in ("logP", "elbo", "overshooting")]
    assert got == pytest.approx([log_p, elbo, overshooting], **NUMBERS)


@only("deep-kalman-gap")
@pytest.mark.parametrize("kind", KINDS)
def test_gap_is_a_divergence(figure, kind):
    """Computed in two ways, it is the same, and 0 for the smoother only."""
    for state in figure.spec.states:
        figure.put(**state | {"kind": kind})
        values = figure.values()
        assert values["gap"] == pytest.approx(values["kl"], rel=0, abs=1e-10)
        assert values["kl"] < 1e-12 if kind == "smoother" else values["kl"] > 0.01
        log_p, elbo, gap, kl, _ = figure.shown()
        assert gap == kl == pytest.approx(log_p - elbo, abs=2e-4)


@only("deep-kalman-gap")
def test_words_say_when_overshooting_is_no_bound(figure):
    words, said = figure.root.get_by_role("status"), set()
    for kind, state in product(KINDS, figure.spec.states):
        figure.put(**state | {"kind": kind})
        want, _ = two_steps(**state | {"kind": kind})
        above, closed = want["overshooting"] > want["logP"], want["kl"] < 5e-5
        where = "above log p(x): no bound" if above else "below log p(x) here, but need not be"
        text = f"{'q is exact: no gap. ' if closed else ''}Overshooting is {where}."
        assert words.inner_text() == text
        assert (words.get_attribute("class") == "main") == above
        said.add((above, closed))
    assert len(said) == 4


@only("deep-kalman-gap")
def test_three_densities_are_drawn_on_an_axis_that_follows(figure):
    tops, spacings = set(), set()
    for state in figure.spec.states:
        figure.put(**state)
        x1, x2 = state["x1"], state["x2"]
        q, p, prior = normal(state["k"] * x1 + state["g"] * x2, state["s"]), exact(x1, x2), normal(0, 1)
        (marks, to_x), (levels, to_y) = figure.axis(1, "x"), figure.axis(1, "y")
        low, high = min(n.loc - 3 * n.scale for n in (q, p, prior)), max(n.loc + 3 * n.scale for n in (q, p, prior))
        spacing = marks[1] - marks[0]
        assert marks == [*np.arange(marks[0], marks[-1] + 1, spacing)]
        assert 4 <= len(marks) <= 8
        assert marks[0] <= low < marks[0] + spacing
        assert marks[-1] - spacing < high <= marks[-1]
        assert levels == [0, max(levels) / 2, max(levels)]
        for density, colour, width in [(q, "out", "2.2"), (p, "in", "2.2"), (prior, "faint", "1.6")]:
            path = figure.root.locator(".flat").nth(1).locator(f"{figure.path(colour)}[stroke-width='{width}px']")
            corners = np.array(re.findall(r"([-\d.e]+) ([-\d.e]+)", path.get_attribute("d")), dtype=float)
            x, y = to_x(corners[:, 0]), to_y(corners[:, 1])
            assert x[[0, -1]] == pytest.approx([marks[0], marks[-1]], abs=0.01)
            assert y == pytest.approx(density.log_prob(torch.tensor(x)).exp().numpy(), abs=0.012 * max(levels))
            assert (path.get_attribute("stroke-dasharray") is not None) == (colour == "in")
        filled = figure.drawn(f"path[fill='{figure.colour('out')}']")
        line = figure.drawn(f".flat {figure.path('out')}[stroke-width='2.2px']")
        assert filled == pytest.approx(line, abs=0.6)
        peak = max(n.log_prob(n.loc).exp().item() for n in (q, p))
        assert 0.65 * max(levels) < peak <= max(levels)
        tops.add(max(levels)), spacings.add(spacing)
    assert len(tops) > 1
    assert spacings == {1, 2, 4}


@only("deep-kalman-gap")
def test_observations_are_drawn_and_named(figure):
    for x1, x2, names in [(2, -3, ("2", "−3")), (-9.37, 0.5, ("−9.37", "0.5")), (10, -10, ("10", "−10"))]:
        figure.put(x1=x1, x2=x2)
        data = figure.root.locator(".flat").nth(0)
        assert data.locator("text[text-anchor=middle]").all_text_contents() == ["x₁", names[0], "x₂", names[1]]
        levels, to_y = figure.axis(0, "y")
        assert sorted(levels) == [-10, -5, 0, 5, 10]
        for x, name, digit in zip((x1, x2), names, "₁₂"):
            text = f"Observation x{digit} = {name}; move it with the arrow keys"
            expect(figure.handle(f"Observation x{digit}")).to_have_attribute("aria-label", text)
            dot = figure.drawn(f"[aria-label^='Observation x{digit}']")
            assert to_y(dot["y"] + dot["height"] / 2) == pytest.approx(x, abs=0.03)
            for text in (f"x{digit}", name):
                below = data.locator("text[text-anchor=middle]").get_by_text(text, exact=True)
                assert float(below.get_attribute("x").removesuffix("px")) == pytest.approx(
                    dot["x"] + dot["width"] / 2, abs=0.6
                )


@only("deep-kalman-gap")
@pytest.mark.parametrize(
    ("handle", "up", "leads"),
    [("x₁", 900, {"x1": 10}), ("x₁", -900, {"x1": -10}), ("x₂", 900, {"x2": 10}), ("x₂", -900, {"x2": -10})],
)
def test_observations_keep_within_bounds(figure, handle, up, leads):
    figure.handle(f"Observation {handle}").scroll_into_view_if_needed()
    figure.drag(f"Observation {handle}", 0, up)
    assert figure.values() == pytest.approx(figure.numbers(**leads), **NUMBERS)


@only("deep-kalman-gap")
def test_hand_sets_no_more_decimals_than_are_shown(figure):
    figure.handle("Observation x₁").scroll_into_view_if_needed()
    for up in (7, 13, -31):
        figure.drag("Observation x₁", 3, up)
        x1 = figure.values()["x1"]
        assert x1 == round(x1, 2)
        shown = figure.root.locator(".flat").nth(0).locator("text[text-anchor=middle]").nth(1).text_content()
        assert float(shown.replace("−", "-")) == x1


POSTERIOR = {  # what its sliders are called, their bounds, and where an arrow key leads from the filter's
    "k": ("k, weight of x₁", (0, 1), [0.55, 0.54, 0.59, 0.60, 0.55, 0.50, 0.49]),
    "g": ("g, weight of x₂, which comes later", (-0.2, 0.6), [0.05, 0.04, 0.09, 0.10, 0.05, 0, -0.01]),
    "s": ("s, standard deviation of q(z₁)", (0.2, 1.5), [0.76, 0.75, 0.80, 0.81, 0.76, 0.71, 0.70]),
}


@only("deep-kalman-gap")
@pytest.mark.parametrize("name", POSTERIOR)
def test_posterior_follows_its_sliders(figure, name):
    """And becomes the reader's own, with what else the filter had."""
    label, bounds, _ = POSTERIOR[name]
    slider = figure.root.get_by_label(label)
    for value in (*bounds, 0.37):
        figure.put(kind="filter")
        expect(figure.control).to_have_value("filter")
        slider.fill(str(value))
        assert figure.values() == pytest.approx(figure.numbers(**KINDS["filter"] | {name: value}), **NUMBERS)
        expect(figure.control).to_have_value("own")
        text = f"{value}".replace("-", "−")
        expect(slider).to_have_attribute("aria-valuetext", text)
        expect(slider.locator("xpath=following-sibling::span")).to_have_text(text)
    box = slider.bounding_box()
    figure.page.mouse.click(box["x"] + 0.3 * box["width"], box["y"] + box["height"] / 2)
    assert figure.values()[name] == pytest.approx(bounds[0] + 0.3 * (bounds[1] - bounds[0]), abs=0.05)
    assert [float(slider.get_attribute(end)) for end in ("min", "max")] == [*bounds]


@only("deep-kalman-gap")
@pytest.mark.parametrize("name", POSTERIOR)
def test_posterior_follows_the_arrow_keys(figure, name):
    label, _, want = POSTERIOR[name]
    figure.put(kind="filter")
    figure.root.get_by_label(label).focus()
    led = []
    keys = ["ArrowRight", "Shift+ArrowLeft", "ArrowUp", "Shift+ArrowUp", "ArrowDown", "ArrowLeft", "Shift+ArrowDown"]
    for key in keys:
        figure.page.keyboard.press(key)
        led.append(figure.values()[name])
    assert led == pytest.approx(want, abs=1e-12)


@only("deep-kalman-gap")
@pytest.mark.parametrize(
    ("kind", "shown"), [("filter", ("0.5", "0", "0.7071")), ("smoother", ("0.4", "0.2", "0.6325"))]
)
def test_sliders_follow_the_kind(figure, kind, shown):
    figure.choose(kind)
    for (label, *_), text, value in zip(POSTERIOR.values(), shown, KINDS[kind].values()):
        slider = figure.root.get_by_label(label)
        expect(slider).to_have_attribute("aria-valuetext", text)
        assert float(slider.input_value()) == pytest.approx(value, abs=0.0051)
    figure.put(x1=5)  # it stays what it is
    expect(figure.control).to_have_value(kind)
    figure.choose("own")
    assert figure.values() == pytest.approx(figure.numbers(kind=kind, x1=5), **NUMBERS)


@only("deep-kalman-gap")
def test_button_leads_to_where_overshooting_is_no_bound(figure):
    figure.put(kind="filter")
    figure.root.get_by_role("button", name="Try x = (10, −10)").click()
    assert figure.values() == pytest.approx(figure.numbers(kind="filter", x1=10, x2=-10), **NUMBERS)
    figure.root.get_by_role("button", name="Back to x = (1, 0.5)").click()
    assert figure.values() == pytest.approx(figure.numbers(kind="filter", x1=1, x2=0.5), **NUMBERS)


@only("deep-kalman-gap")
def test_texts_do_not_meet_on_a_phone(on_a_phone):
    meet = """(all) => {
        const said = all.filter((text) => text.textContent);
        const boxes = said.map((text) => text.getBoundingClientRect());
        const apart = (a, b) => a.right < b.left || b.right < a.left || a.bottom <= b.top || b.bottom <= a.top;
        return boxes.flatMap((a, i) => boxes.slice(0, i).flatMap((b, j) =>
            apart(a, b) ? [] : [[said[i].textContent, said[j].textContent]]));
    }"""
    for x1, x2 in [(-9.99, -9.99), (10, -10), (10, 10)]:
        on_a_phone.put(k=1, x1=x1, x2=x2)
        assert on_a_phone.root.locator(".flat text").evaluate_all(meet) == []
