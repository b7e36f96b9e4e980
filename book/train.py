"""Train the flows that the pages show: `python book/train.py [name …]`, all of them by default (about six minutes).

A notebook has a minute, and a page that is built twice has to look the same; so the long trainings run here, and
`book/data/NAME.pt` keeps their weights, with the CPU-seconds that each took.  The pages measure what is stored.
What an interactive figure needs of it follows the training, or is written alone: `python book/train.py export`.
"""

import sys
import time
from base64 import b64encode
from pathlib import Path

import torch

from companion.continuous_flows import (
    ContinuousFlow,
    VelocityNetwork,
    flow_matching_loss,
)
from companion.densities import Density, banana, galaxy, ring
from companion.flows import AffineCoupling, realnvp
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
    fit(
        lambda x: -model.log_prob(x).mean(),
        model.parameters(),
        points(density, 512),
        steps=2000,
        lr=5e-3,
        seed=seed,
        clip=5.0,
    )
    return model


def by_matching(density: Density, seed: int):
    """A velocity field by flow matching: 8000 steps with 2048 points each."""
    torch.manual_seed(seed)
    field = VelocityNetwork(features=2, hidden=(64, 64, 64))
    fit(
        lambda x: flow_matching_loss(field, x),
        field.parameters(),
        points(density, 2048),
        steps=8000,
        lr=5e-3,
        seed=seed,
    )
    return field


def by_likelihood(density: Density, seed: int):
    """The same field by maximum likelihood (FFJORD): 1000 steps with 512 points each."""
    torch.manual_seed(seed)
    field = VelocityNetwork(features=2, hidden=(64, 64, 64))
    model = ContinuousFlow(
        field, trace="hutchinson", method="rk4", options={"step_size": 1 / 6}
    )
    fit(
        lambda x: -model.log_prob(x).mean(),
        field.parameters(),
        points(density, 512),
        steps=1000,
        lr=1e-2,
        seed=seed,
    )
    return field


TRAININGS = {
    "flows": {
        density.name: [(flow, density, seed) for seed in range(3)]
        for density in (ring(), banana(), galaxy())
    },
    "continuous_flows": {
        "matching": [(by_matching, ring(), 0)],
        "likelihood": [(by_likelihood, ring(), 0)],
    },
}


def train(name: str) -> None:
    kept = {}
    for model, runs in TRAININGS[name].items():
        for make, density, seed in runs:
            start = time.process_time()
            trained = make(density, seed)
            seconds = time.process_time() - start
            kept.setdefault(model, []).append(
                {"weights": trained.state_dict(), "seconds": seconds}
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
