"""How fast the companion's flow is beside other libraries: `make bench`.

Every library builds the same model, eight affine couplings of which each has one network with hidden layers of 64 and
64, in the way its own documentation shows.  They take turns, call by call, so that a busy machine slows all of them.
No test depends on a time: what the companion claims is printed at the end, with what was measured.
Then the flows of the chapter are trained again and held against the densities that they learn.
"""

import gc
import math
import random
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch
from torch import Tensor, nn

from companion.flows import realnvp

ROOT = Path(__file__).parents[1]
REQUIREMENTS = "tests/bench-requirements.txt"
LAYERS, HIDDEN, BATCH, SIZES, SECONDS = 8, (64, 64), 1024, (2, 64), 60
STEPS = ("log_prob", "log_prob + backward", "sample")


@dataclass
class Model:
    """One library's flow: its parameters, log p(x), and n samples."""

    module: nn.Module
    log_prob: Callable[[Tensor], Tensor]
    sample: Callable[[int], Tensor]


class MLP(nn.Sequential):
    """The network for the libraries that leave it to their user, written as in their examples.

    With ReLU(inplace=True), as in the companion, FrEIA and the companion take the same time at d = 2, up to noise.
    """

    def __init__(self, inputs: int, outputs: int):
        a, b = HIDDEN
        super().__init__(nn.Linear(inputs, a), nn.ReLU(), nn.Linear(a, b), nn.ReLU(), nn.Linear(b, outputs))

    def forward(self, x: Tensor, context: None = None) -> Tensor:  # nflows passes a context as well
        return super().forward(x)


def companion(d: int) -> Model:
    flow = realnvp(d, LAYERS, HIDDEN)
    return Model(flow, flow.log_prob, lambda n: flow.sample((n,)))


def zuko(d: int) -> Model:
    from zuko.flows import RealNVP

    flow = RealNVP(d, transforms=LAYERS, hidden_features=HIDDEN)
    return Model(flow, lambda x: flow().log_prob(x), lambda n: flow().sample((n,)))


def nflows(d: int) -> Model:
    from nflows.distributions import StandardNormal
    from nflows.flows import Flow
    from nflows.transforms import AffineCouplingTransform, CompositeTransform

    mask = torch.ones(d)
    mask[::2] = -1
    couplings = [AffineCouplingTransform(mask * (-1) ** i, MLP) for i in range(LAYERS)]
    flow = Flow(CompositeTransform(couplings), StandardNormal([d]))
    return Model(flow, flow.log_prob, flow.sample)


def normflows(d: int) -> Model:
    import normflows as nf

    steps = []
    for _ in range(LAYERS):
        network = nf.nets.MLP([d // 2, *HIDDEN, d], init_zeros=True)
        steps += [nf.flows.AffineCouplingBlock(network), nf.flows.Permute(d, mode="swap")]
    flow = nf.NormalizingFlow(nf.distributions.DiagGaussian(d, trainable=False), steps)
    return Model(flow, flow.log_prob, lambda n: flow.sample(n)[0])


def freia(d: int) -> Model:
    from FrEIA.framework import SequenceINN
    from FrEIA.modules import GLOWCouplingBlock

    flow = SequenceINN(d)
    for _ in range(LAYERS // 2):  # a block is a coupling of each half
        flow.append(GLOWCouplingBlock, subnet_constructor=MLP)

    def log_prob(x: Tensor) -> Tensor:
        z, log_det = flow(x)
        return log_det - (z**2).sum(-1) / 2 - d * math.log(2 * math.pi) / 2

    return Model(flow, log_prob, lambda n: flow(torch.randn(n, d), rev=True)[0])


BUILD = {"companion": companion, "zuko": zuko, "nflows": nflows, "normflows": normflows, "FrEIA": freia}


def installed() -> dict[str, str]:
    """The version of each library that is there; says how to install the others."""
    versions = {}
    for name in BUILD:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            print(f"{name} is not installed and not measured; pip install -r {REQUIREMENTS}")
    return versions


def build(name: str, d: int) -> Model:
    """The model with small random weights throughout; refuses one that is not the model of the comparison."""
    torch.manual_seed(0)
    model = BUILD[name](d)
    for parameter in model.module.parameters():
        nn.init.normal_(parameter, std=0.1)
    size, expected = (sum(p.numel() for p in m.module.parameters()) for m in (model, companion(d)))
    if size != expected:
        raise ValueError(f"{name}: expected {expected} parameters like the companion, got {size}")
    shapes = model.log_prob(torch.randn(BATCH, d)).shape, model.sample(BATCH).shape
    if shapes != ((BATCH,), (BATCH, d)):
        raise ValueError(f"{name}: expected shapes {(BATCH,)} and {(BATCH, d)}, got {shapes}")
    if d == 2 and not abs((mass := total_mass(model)) - 1) < 1e-3:
        raise ValueError(f"{name}: expected a density, got one that integrates to {mass:.4f}")
    return model


@torch.no_grad()
def total_mass(model: Model, reach: float = 12.0, points: int = 401) -> float:
    """∫ p(x) dx over a square, by the trapezoidal rule."""
    axis = torch.linspace(-reach, reach, points)
    return (
        model.log_prob(torch.cartesian_prod(axis, axis)).double().exp().sum().item() * (axis[1] - axis[0]).item() ** 2
    )


def run(model: Model, step: str, x: Tensor) -> float:
    """The seconds that one step takes."""
    model.module.zero_grad()
    with torch.set_grad_enabled(step == "log_prob + backward"):
        start = time.perf_counter()
        if step == "sample":
            model.sample(len(x))
        else:
            log_prob = model.log_prob(x)
            if step == "log_prob + backward":
                (-log_prob.mean()).backward()
        return time.perf_counter() - start


def measure(names: list[str], seconds: float = SECONDS) -> dict[tuple[int, str, str], float]:
    """The median milliseconds of each (d, step, library)."""
    models = {(d, name): build(name, d) for d in SIZES for name in names}
    data = {d: torch.randn(BATCH, d) for d in SIZES}
    times = {(d, step, name): [] for d in SIZES for step in STEPS for name in names}
    gc.collect()
    gc.disable()
    cases, draw, end = list(times), random.Random(0), time.perf_counter() + seconds
    while time.perf_counter() < end:
        draw.shuffle(cases)  # a call leaves its traces in the caches, so none always follows the same other
        for d, step, name in cases:
            times[d, step, name].append(run(models[d, name], step, data[d]))
    gc.enable()
    return {key: 1000 * statistics.median(taken) for key, taken in times.items()}


def print_speed(versions: dict[str, str], times: dict[tuple[int, str, str], float]) -> None:
    print(
        f"Milliseconds a step, and how many times the companion's: {LAYERS} affine couplings, hidden layers {HIDDEN},"
    )
    print(f"batch {BATCH}, float32, one thread, torch {torch.__version__}\n")
    print(" " * 28 + "".join(f"{f'{name} {version}':>18}" for name, version in versions.items()))
    for d in SIZES:
        for step in STEPS:
            ours = times[d, step, "companion"]
            cells = [times[d, step, name] for name in versions]
            row = "".join(f"{f'{cell:.2f}  {cell / ours:.2f}×':>18}" for cell in cells)
            print(f"{f'd = {d}':8}{step:20}{row}")


def speed_claims(times: dict[tuple[int, str, str], float]) -> list[tuple[str, float, float]]:
    """Each claim in words, the ratio that it needs, and the ratio measured."""
    claims = []
    for d, least in zip(SIZES, (1.25, 1.8)):
        key = d, "log_prob + backward"
        ratio = times.get((*key, "zuko"), math.nan) / times[*key, "companion"]
        claims.append((f"log_prob + backward, d = {d}: faster than zuko", least, ratio))
    for d in SIZES:
        peers = {name: times[d, "log_prob + backward", name] for name in BUILD if (d, "sample", name) in times}
        ours = peers.pop("companion")
        if peers:
            fastest = min(peers, key=peers.get)
            words = f"log_prob + backward, d = {d}: no slower than the fastest, {fastest}"
            claims.append((words, 1.0, peers[fastest] / ours))
    return claims


def print_claims(claims: list[tuple[str, float, float]]) -> None:
    for words, least, ratio in claims:
        verdict = "not measured" if math.isnan(ratio) else "holds" if round(ratio, 2) >= least else "does not hold"
        print(f"{words:66} ≥ {least:.2f}×  measured {ratio:.2f}×  {verdict}")


def speed() -> None:
    versions = installed()
    times = measure(list(versions))
    print_speed(versions, times)
    print("\nClaims")
    print_claims(speed_claims(times))


def gaps() -> None:
    """Train the chapter's flows again and measure them: this is what the table of the page is made of."""
    sys.path.insert(0, str(ROOT / "book"))
    from train import TRAININGS

    print("\nKL(truth ‖ flow) in nats after 2000 steps of 512 points, and the CPU-seconds of each training")
    for name, runs in TRAININGS["flows"].items():
        measured = []
        for make, density, seed in runs:
            start = time.process_time()
            trained = make(density, seed)
            measured.append((density.kl(trained.double().log_prob), time.process_time() - start))
        mean = statistics.mean(kl for kl, _ in measured)
        each = "   ".join(f"{kl:.4f} in {seconds:.1f} s" for kl, seconds in measured)
        print(f"{name:8}mean {mean:.4f}:   {each}")


def main() -> None:
    torch.set_num_threads(1)
    speed()
    gaps()


if __name__ == "__main__":
    main()
