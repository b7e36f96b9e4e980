"""Train what the pages show: `python book/train.py [name …]`, all of it by default (about half an hour).

A notebook has a minute, and a page that is built twice has to look the same; so the long trainings run here, and
`book/data/NAME.pt` keeps their weights, with the CPU-seconds that each took.  The pages measure what is stored.
What an interactive figure needs of it follows the training, or is written alone: `python book/train.py export`.
"""

import math
import sys
import time
from base64 import b64encode
from pathlib import Path

import numpy as np
import torch

from companion.continuous_flows import (
    ContinuousFlow,
    VelocityNetwork,
    flow_matching_loss,
)
from companion.deep_kalman import MIN_SCALE, Config, DeepKalmanFilter
from companion.densities import Density, banana, galaxy, ring
from companion.flows import AffineCoupling, realnvp
from companion.kl import kl_normal
from companion.training import fit

DATA = Path(__file__).parent / "data"
FIGURES = Path(__file__).parent / "assets" / "figures"


def points(density: Density, n: int):
    """Batches of n points of a density, in float32."""
    return lambda generator: density.sample(n, generator).float()


def flow(density: Density, seed: int):
    """RealNVP by maximum likelihood: 2000 steps with 512 points each."""
    torch.manual_seed(seed)
    model = realnvp(features=2)
    losses = fit(
        lambda x: -model.log_prob(x).mean(),
        model.parameters(),
        points(density, 512),
        steps=2000,
        lr=5e-3,
        seed=seed,
        clip=5.0,
    )
    return model, {"losses": losses}


def by_matching(density: Density, seed: int):
    """A velocity field by flow matching: 8000 steps with 2048 points each."""
    torch.manual_seed(seed)
    field = VelocityNetwork(features=2, hidden=(64, 64, 64))
    losses = fit(
        lambda x: flow_matching_loss(field, x),
        field.parameters(),
        points(density, 2048),
        steps=8000,
        lr=5e-3,
        seed=seed,
    )
    return field, {"losses": losses}


def by_likelihood(density: Density, seed: int):
    """The same field by maximum likelihood (FFJORD): 1000 steps with 512 points each."""
    torch.manual_seed(seed)
    field = VelocityNetwork(features=2, hidden=(64, 64, 64))
    model = ContinuousFlow(
        field, trace="hutchinson", method="rk4", options={"step_size": 1 / 6}
    )
    losses = fit(
        lambda x: -model.log_prob(x).mean(),
        field.parameters(),
        points(density, 512),
        steps=1000,
        lr=1e-2,
        seed=seed,
    )
    return field, {"losses": losses}


def linear_filter(step, Q, C, R, smoothing=False):
    """A deep Kalman filter that starts at 0 and is linear: zₜ = zₜ₋₁ + step + N(0, Q), xₜ = C zₜ + N(0, R)."""
    sizes = {"emit_hidden_dim": 1, "trans_hidden_dim": 1, "post_hidden_dim": 32}
    config = Config(1, 1, emit_log_sigma=math.log(R), smoothing=smoothing, **sizes)
    model = DeepKalmanFilter(config)
    raw = math.log(math.expm1(math.sqrt(Q) - MIN_SCALE))  # softplus makes √Q of it
    with torch.no_grad():
        model.emitter.linear.weight.fill_(C)
        model.emitter.linear.bias.zero_()
        model.transition.net[-1].bias.copy_(torch.tensor([step, raw]))
    return model


def long_walks(n, generator):
    """25 observations each of n walks with steps of 0.05 + N(0, 10), halved and seen with N(0, 20)."""
    noise = torch.randn(2, n, 25, 1, dtype=torch.float64, generator=generator)
    return (0.05 + math.sqrt(10) * noise[0]).cumsum(1) / 2 + math.sqrt(20) * noise[
        1
    ]


def posterior(smoothing: bool, seed: int):
    """The posterior alone, of a linear model that is known: 1500 steps with 64 walks each."""
    torch.manual_seed(seed)
    model = linear_filter(0.05, 10.0, 0.5, 20.0, smoothing).double()
    losses = fit(
        lambda x: -model.elbo(x).mean() / x.shape[1],
        model.posterior.parameters(),
        lambda generator: long_walks(64, generator),
        steps=1500,
        lr=1e-2,
        seed=seed,
        clip=1.0,
    )
    return model.posterior, {"losses": losses}


def swing(n, steps, generator):
    """n pendulums in gusty wind, every 0.1 s: angle and angular velocity, and the horizontal position in fog."""
    dt, pull, kick, blur = 0.1, 4.0, 0.3, 0.1
    like = {"dtype": torch.float64, "generator": generator}
    angle, velocity, states = torch.zeros(n).double(), torch.zeros(n).double(), []
    for _ in range(steps):
        # Half a push, a whole move, half a push (Störmer and Verlet); then a random kick.
        velocity = velocity - dt / 2 * pull * angle.sin()
        angle = angle + dt * velocity
        velocity = velocity - dt / 2 * pull * angle.sin()
        velocity = velocity + kick * torch.randn(n, **like)
        states.append(torch.stack([angle, velocity], -1))
    states = torch.stack(states, 1)
    position = states[..., :1].sin()
    return states, position + blur * torch.randn(position.shape, **like)


def kl_by_dimension(model, obs):
    """What each number of the state learns from the observations, in nats a step: the mean KL(q ‖ prior)."""
    seen = model.posterior.look(obs, torch.ones(obs.shape[:2], dtype=torch.bool))
    z, total = model.z_q_0.expand(len(obs), -1), 0
    for now in seen.unbind(1):
        prior = model.transition(z)
        q = model.posterior.combine(*prior, now)
        total = total + kl_normal(*q, *prior).mean(0)
        z = q[0] + q[1] * torch.randn_like(q[1])
    return total / obs.shape[1]


def pendulum(options: dict, seed: int):
    """A deep Kalman filter of pendulums, each batch 32 new ones; the KL counts more and more while it is annealed."""
    options = {"steps": 4000, "anneal": 300, "log_var": -3.0, "z_dim": 2} | options
    torch.manual_seed(seed)
    model = DeepKalmanFilter(
        Config(
            z_dim=options["z_dim"],
            obs_dim=1,
            smoothing=True,
            emit_log_sigma=options["log_var"],
            overshooting=options.get("overshooting", 1),
            stop_gradient=options.get("stop_gradient", False),
        )
    )
    step, learned = 0, []

    def loss(obs):
        nonlocal step
        if step % 25 == 0:
            with torch.no_grad():
                learned.append(kl_by_dimension(model, obs))
        step += 1
        reconstruction, kl = model.loss(obs)
        share = min(1.0, step / options["anneal"])
        return (reconstruction + share * kl) / obs.shape[:2].numel()

    losses = fit(
        loss,
        model.parameters(),
        lambda generator: swing(32, 60, generator)[1].float(),
        steps=options["steps"],
        lr=5e-3,
        seed=seed,
        clip=5.0,
    )
    return model, {"losses": losses, "kl": torch.stack(learned)}


def sunspot_windows():
    """Yearly sunspot numbers, in hundreds: every 33 years in a row of 1700–1876, and four times 33 years after that."""
    table = np.loadtxt(DATA / "sunspots.csv", delimiter=",", skiprows=1)
    numbers = torch.as_tensor(table[:, 1]) / 100
    return numbers[:177].unfold(0, 33, 1)[..., None], numbers[177:].reshape(
        4, 33, 1
    )


def sunspots(steps: int, seed: int):
    """A small deep Kalman filter of the windows before 1877, in batches of 32."""
    torch.manual_seed(seed)
    sizes = {f"{part}_hidden_dim": 16 for part in ("emit", "trans", "post")}
    config = Config(2, 1, emit_log_sigma=-4.0, smoothing=True, **sizes)
    model, (windows, _), step = (
        DeepKalmanFilter(config).double(),
        sunspot_windows(),
        0,
    )

    def loss(obs):
        nonlocal step
        step += 1
        reconstruction, kl = model.loss(obs)
        return (reconstruction + min(1.0, 2 * step / steps) * kl) / obs.shape[
            :2
        ].numel()

    losses = fit(
        loss,
        model.parameters(),
        lambda generator: windows[
            torch.randint(len(windows), (32,), generator=generator)
        ],
        steps=steps,
        lr=1e-2,
        seed=seed,
        clip=5.0,
    )
    return model, {"losses": losses}


ROUGH = {"z_dim": 4, "steps": 1000, "log_var": 0.0}
TRAININGS = {
    "flows": {
        density.name: [(flow, density, seed) for seed in range(3)]
        for density in (ring(), banana(), galaxy())
    },
    "continuous_flows": {
        "matching": [(by_matching, ring(), 0)],
        "likelihood": [(by_likelihood, ring(), 0)],
    },
    "deep_kalman": {
        "filter": [(posterior, False, 0)],
        "smoother": [(posterior, True, 0)],
        "pendulum": [(pendulum, {}, 0)],
        "overshooting": [
            (pendulum, {"overshooting": 3, "stop_gradient": stop}, 0)
            for stop in (False, True)
        ],
        "annealed": [(pendulum, ROUGH | {"anneal": 500}, 0)],
        "collapsed": [(pendulum, ROUGH | {"anneal": 1}, 0)],
        "sunspots": [(sunspots, steps, 0) for steps in (200, 400, 800)],
    },
}


def train(name: str) -> None:
    kept = {}
    for model, runs in TRAININGS[name].items():
        for make, what, seed in runs:
            start = time.process_time()
            trained, record = make(what, seed)
            seconds = time.process_time() - start
            kept.setdefault(model, []).append(
                {"weights": trained.state_dict(), "seconds": seconds} | record
            )
            print(f"{name}: {model}, seed {seed}, {seconds:.1f} CPU-seconds")
    DATA.mkdir(exist_ok=True)
    torch.save(kept, DATA / f"{name}.pt")


def export() -> None:
    """The ring's first flow and the grains of its picture for the figure on the page, float32 in base64."""
    weights = torch.load(DATA / "flows.pt")["ring"][0]["weights"]
    grains = torch.randn(300, 2, generator=torch.Generator().manual_seed(3))
    lines = [
        "/* Written by `python book/train.py export`. */",
        "window.flowsLayers = {",
        f"  bound: {AffineCoupling.bound},",
    ]
    for name, tensors in {"weights": weights.values(), "grains": [grains]}.items():
        numbers = torch.cat([tensor.flatten() for tensor in tensors]).numpy()
        text = b64encode(numbers.astype("<f4").tobytes()).decode()
        lines.append(f'  {name}: "{text}",')
    script = "\n".join([*lines, "};", ""])
    (FIGURES / "flows-layers-weights.js").write_text(script, encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for chosen in sys.argv[1:] or TRAININGS:
        if chosen != "export":
            train(chosen)
        if chosen in ("flows", "export"):
            export()
