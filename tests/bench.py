"""How fast the companion is beside other ways to the same end: `make bench`.

`python tests/bench.py flows` and `python tests/bench.py deep_kalman` run one part alone.  All that is compared takes
turns, call by call, so that a busy machine slows all of it.  No test depends on a time: what the companion claims is
printed at the end of a part, with what was measured.

flows        Every library builds the same model, eight affine couplings of which each has one network with hidden
             layers of 64 and 64, in the way its own documentation shows.  Then the flows of the chapter are trained
             again and held against the densities that they learn.
deep_kalman  A training step of the deep Kalman filter, against the plain double loop of the source article on the same
             networks and the same noise, and against the deep Markov model of Pyro, which is of the same size.
"""

import gc
import math
import random
import statistics
import sys
import time
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path

import torch
from torch import Tensor, nn

from companion.deep_kalman import Config, DeepKalmanFilter
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


def installed(names: Iterable[str]) -> dict[str, str]:
    """The version of each library that is there; says how to install the others."""
    versions = {}
    for name in names:
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


def take_turns(cases: dict[Hashable, Callable[[], float]], seconds: float, rounds: int = 7) -> dict[Hashable, float]:
    """The median milliseconds of each case, which gives the seconds of one run when called; `rounds` runs at least."""
    times = {key: [] for key in cases}
    gc.collect()
    gc.disable()
    keys, draw, end = list(cases), random.Random(0), time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[keys[0]]) < rounds:
        draw.shuffle(keys)  # a call leaves its traces in the caches, so none always follows the same other
        for key in keys:
            times[key].append(cases[key]())
    gc.enable()
    return {key: 1000 * statistics.median(taken) for key, taken in times.items()}


def measure(names: list[str], seconds: float = SECONDS) -> dict[tuple[int, str, str], float]:
    """The median milliseconds of each (d, step, library)."""
    models = {(d, name): build(name, d) for d in SIZES for name in names}
    data = {d: torch.randn(BATCH, d) for d in SIZES}
    keys = [(d, step, name) for d in SIZES for step in STEPS for name in names]
    return take_turns(
        {(d, step, name): partial(run, models[d, name], step, data[d]) for d, step, name in keys}, seconds
    )


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
    versions = installed(BUILD)
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


# --- deep Kalman filter -----------------------------------------------------------------------------------------------

T, SEQUENCES, Z_DIM, OBS_DIM, WIDTH = 50, 64, 8, 4, 64
SETTINGS = {(1, 1): 2.0, (1, 5): 3.0, (8, 1): 4.5, (8, 5): 5.0}  # (samples, horizon): how much faster than the loop
DMM = 2.4  # how much faster than Pyro


def kl_div(loc0: Tensor, scale0: Tensor, loc1: Tensor, scale1: Tensor) -> Tensor:
    return ((scale1 / scale0).log() + (scale0**2 + (loc0 - loc1) ** 2) / (2 * scale1**2) - 0.5).sum()


def article_loop(model: DeepKalmanFilter, obs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """`model.loss` in the plain way of the source article, not tuned: sample after sample, and time after time.

    Row j of `carried` is drawn from the prior of j + 1 steps, and one call moves the rows that go on.  It draws for the
    longest one, too, which does not go on: `noise` has one level more than `loss` needs.
    """
    levels, times, samples, batch, z_dim = noise.shape
    horizon, variance = levels - 1, model.emit_log_sigma.exp()
    reconstruction, kl = obs.new_zeros(()), obs.new_zeros(())
    for s in range(samples):
        z, carried = model.z_q_0.expand(batch, z_dim), obs.new_zeros(0, batch, z_dim)
        for t in range(times):
            trans_loc, trans_scale = model.transition(z)
            further_loc, further_scale = model.transition(carried[: horizon - 1])
            over_loc = torch.cat([trans_loc[None], further_loc])
            over_scale = torch.cat([trans_scale[None], further_scale])
            carried = over_loc + noise[1 : len(over_loc) + 1, t, s] * over_scale
            loc, scale = model.posterior(trans_loc, trans_scale, obs[:, t])
            z = loc + noise[0, t, s] * scale
            error = (model.emitter(z) - obs[:, t]).pow(2).sum(0)
            reconstruction += (error / 2 / variance + model.emit_log_sigma * batch / 2).sum()
            kl += kl_div(loc, scale, over_loc, over_scale) / min(t + 1, horizon)
    return reconstruction / samples, kl / samples


def deep_kalman(samples: int, levels: int, smoothing: bool = False) -> tuple[DeepKalmanFilter, Tensor, Tensor]:
    """The model with small random weights throughout, observations, and noise for `article_loop`."""
    torch.manual_seed(0)
    config = Config(Z_DIM, OBS_DIM, WIDTH, WIDTH, WIDTH, sampling_num=samples, overshooting=levels, smoothing=smoothing)
    model = DeepKalmanFilter(config)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    return model, torch.randn(SEQUENCES, T, OBS_DIM), torch.randn(levels + 1, T, samples, SEQUENCES, Z_DIM)


def loss(model: DeepKalmanFilter, obs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    return model.loss(obs, noise=noise[:-1])


WAYS = {"companion": loss, "article's loop": article_loop}


def difference(samples: int, levels: int) -> float:
    """The largest one between the two ways, in the loss and the gradient by any parameter, relative, in float64."""
    found = []
    model, obs, noise = deep_kalman(samples, levels)
    model, obs, noise = model.double(), obs.double(), noise.double()
    for way in WAYS.values():
        terms = way(model, obs, noise)
        found.append([*terms, *torch.autograd.grad(sum(terms), list(model.parameters()))])
    return max(((a - b).abs().max() / b.abs().max()).item() for a, b in zip(*found))


def deep_markov_model(obs: Tensor) -> tuple[nn.Module, Callable[[], float]]:
    """Pyro's example of a deep Markov model and its training step.

    As in the example: a gated transition, an emitter, a recurrent network that reads from the end, and a combiner that
    makes the guide of it; a mask holds the times that a sequence has, here all, as in the companion.  But the
    observations are normal.
    """
    import pyro
    from pyro.distributions import Normal
    from torch.nn.functional import softplus

    def two_layers(inputs: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(nn.Linear(inputs, WIDTH), nn.ReLU(), nn.Linear(WIDTH, outputs))

    class GatedTransition(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate, self.proposal = two_layers(Z_DIM, Z_DIM), two_layers(Z_DIM, Z_DIM)
            self.linear, self.raw_scale = nn.Linear(Z_DIM, Z_DIM), nn.Linear(Z_DIM, Z_DIM)

        def forward(self, z: Tensor) -> Normal:
            gate, proposal = self.gate(z).sigmoid(), self.proposal(z)
            return Normal((1 - gate) * self.linear(z) + gate * proposal, softplus(self.raw_scale(proposal.relu())))

    class Combiner(nn.Module):
        def __init__(self):
            super().__init__()
            self.from_z = nn.Linear(Z_DIM, WIDTH)
            self.loc, self.raw_scale = nn.Linear(WIDTH, Z_DIM), nn.Linear(WIDTH, Z_DIM)

        def forward(self, z: Tensor, read: Tensor) -> Normal:
            both = (self.from_z(z).tanh() + read) / 2
            return Normal(self.loc(both), softplus(self.raw_scale(both)))

    class DMM(nn.Module):
        def __init__(self):
            super().__init__()
            self.transition, self.combiner = GatedTransition(), Combiner()
            self.emitter = nn.Sequential(two_layers(Z_DIM, WIDTH), nn.ReLU(), nn.Linear(WIDTH, OBS_DIM))
            self.reader = nn.RNN(OBS_DIM, WIDTH, nonlinearity="relu", batch_first=True)
            self.z_0, self.z_q_0 = nn.Parameter(torch.zeros(Z_DIM)), nn.Parameter(torch.zeros(Z_DIM))
            self.h_0, self.log_scale = nn.Parameter(torch.zeros(1, 1, WIDTH)), nn.Parameter(torch.zeros(OBS_DIM))

        def model(self, obs: Tensor) -> None:
            pyro.module("dmm", self)
            z, scale, mask = self.z_0.expand(len(obs), -1), self.log_scale.exp(), obs.new_ones(obs.shape[:-1]).bool()
            with pyro.plate("sequences", len(obs)):
                for t in pyro.markov(range(obs.shape[1])):
                    there = mask[:, t, None]
                    z = pyro.sample(f"z_{t}", self.transition(z).mask(there).to_event(1))
                    pyro.sample(f"x_{t}", Normal(self.emitter(z), scale).mask(there).to_event(1), obs=obs[:, t])

        def guide(self, obs: Tensor) -> None:
            pyro.module("dmm", self)
            read, _ = self.reader(obs.flip(1), self.h_0.expand(-1, len(obs), -1).contiguous())
            read, z, mask = read.flip(1), self.z_q_0.expand(len(obs), -1), obs.new_ones(obs.shape[:-1]).bool()
            with pyro.plate("sequences", len(obs)):
                for t in pyro.markov(range(obs.shape[1])):
                    z = pyro.sample(f"z_{t}", self.combiner(z, read[:, t]).mask(mask[:, t, None]).to_event(1))

    dmm, elbo = DMM(), pyro.infer.Trace_ELBO()
    return dmm, partial(elbo.loss_and_grads, dmm.model, dmm.guide, obs)


def seconds_of(module: nn.Module, step: Callable[[], object]) -> float:
    """The seconds on the clock that a training step takes, with as many threads as torch takes by itself."""
    module.zero_grad()
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def measure_deep_kalman(pyro: bool, seconds: float = 50) -> dict[Hashable, float]:
    """The median milliseconds of a training step, forward and backward, for each way and setting."""
    cases = {}

    def add(key: Hashable, way: Callable, model: DeepKalmanFilter, obs: Tensor, noise: Tensor) -> None:
        cases[key] = partial(seconds_of, model, lambda: sum(way(model, obs, noise)).backward())

    for setting in SETTINGS:
        for name, way in WAYS.items():
            add((setting, name), way, *deep_kalman(*setting))
    model, obs, noise = deep_kalman(1, 1, smoothing=True)
    add("companion", loss, model, obs, noise)
    if pyro:
        cases["pyro"] = partial(seconds_of, *deep_markov_model(obs))
    for case in cases.values():
        case()  # the first run of each is slower
    return take_turns(cases, seconds)


def speed_deep_kalman() -> None:
    versions = installed(["pyro-ppl"])
    times = measure_deep_kalman(bool(versions))
    print("Milliseconds of a training step by the clock, forward and backward:")
    print(f"T = {T}, batch {SEQUENCES}, z {Z_DIM}, obs {OBS_DIM}, hidden {WIDTH}, float32, torch {torch.__version__}")
    print(f"with its default number of threads, {torch.get_num_threads()}\n")
    print(f"{'':26}" + "".join(f"{name:>16}" for name in WAYS) + f"{'ratio':>10}")
    claims = []
    for (samples, levels), least in SETTINGS.items():
        ours, theirs = (times[(samples, levels), name] for name in WAYS)
        setting = f"samples {samples}, horizon {levels}"
        print(f"{setting:26}{ours:16.1f}{theirs:16.1f}{theirs / ours:9.2f}×")
        claims.append((f"{setting}: faster than the article's loop", least, theirs / ours))
    theirs = times.get("pyro", math.nan)
    claims.append(("smoothing: faster than Pyro's deep Markov model", DMM, theirs / times["companion"]))
    if versions:
        print(f"\n{'':26}{'companion':>16}{'pyro ' + versions['pyro-ppl']:>16}{'ratio':>10}")
        print(f"{'smoothing':26}{times['companion']:16.1f}{theirs:16.1f}{claims[-1][-1]:9.2f}×")
    print("\nClaims")
    print_claims(claims)
    for samples, levels in SETTINGS:
        words = f"samples {samples}, horizon {levels}: the loop's loss and gradients"
        apart = difference(samples, levels)
        print(f"{words:66} to 1e-12  measured {apart:.0e}  {'holds' if apart <= 1e-12 else 'does not hold'}")


def flows() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    speed()
    gaps()
    torch.set_num_threads(threads)


PARTS = {"flows": flows, "deep_kalman": speed_deep_kalman}


def main() -> None:
    names = sys.argv[1:] or list(PARTS)
    if unknown := set(names) - set(PARTS):
        sys.exit(f"expected parts among {list(PARTS)}, got {sorted(unknown)}")
    for i, name in enumerate(names):
        if i:
            print()
        PARTS[name]()


if __name__ == "__main__":
    main()
