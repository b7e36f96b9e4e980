"""The flows whose weights the pages load: as good as the pages say, and what `book/train.py` makes."""

import math
import sys
from dataclasses import replace

import pytest
import torch
from conftest import BOOK

from companion.continuous_flows import ContinuousFlow, VelocityNetwork
from companion.densities import banana, galaxy, ring
from companion.flows import realnvp

sys.path.insert(0, str(BOOK))
import train

DENSITIES = {density.name: density for density in (ring(), banana(), galaxy())}
SEEDS = range(3)


def stored(name):
    return torch.load(BOOK / "data" / f"{name}.pt", weights_only=True)


def flow(name, seed):
    made = realnvp(features=2)
    made.load_state_dict(stored("flows")[name][seed]["weights"])
    return made.requires_grad_(False)


def continuous(name):
    field = VelocityNetwork(features=2, hidden=(64, 64, 64))
    field.load_state_dict(stored("continuous_flows")[name][0]["weights"])
    return ContinuousFlow(field.double().requires_grad_(False), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", train.TRAININGS)
def test_every_training_is_stored_with_its_time(name):
    kept = stored(name)
    assert {model: len(runs) for model, runs in kept.items()} == {m: len(r) for m, r in train.TRAININGS[name].items()}
    for runs in kept.values():
        assert all(run["seconds"] > 0 for run in runs)
        weights = [torch.cat([w.flatten() for w in run["weights"].values()]) for run in runs]
        assert all(w.isfinite().all() for w in weights)
        assert len({w.sum().item() for w in weights}) == len(runs), "one training stands for several"


@pytest.mark.parametrize(("name", "most"), [("ring", 0.12), ("banana", 0.005), ("galaxy", 0.05)])
def test_the_mean_gap_of_three_seeds(name, most):
    gaps = [DENSITIES[name].kl(flow(name, seed).double().log_prob, 300) for seed in SEEDS]
    assert 0 < sum(gaps) / 3 <= most
    if name != "galaxy":
        assert all(run["seconds"] <= 15 for run in stored("flows")[name])


@pytest.mark.parametrize("name", DENSITIES)
def test_a_trained_density_integrates_to_one(name):
    density, made = DENSITIES[name], flow(name, seed=0).double()
    low, high = torch.tensor([density.lower, density.upper])
    x, area = replace(density, lower=tuple((low - 4).tolist()), upper=tuple((high + 4).tolist())).grid(600)
    mass = sum(made.log_prob(part).exp().sum() for part in x.reshape(-1, 2).split(5000)) * area
    assert abs(mass - 1) < 1e-3


@pytest.mark.parametrize("name", ["ring", "banana"])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_trained_flow_goes_there_and_back_in_float32_out_to_six_sigma(name, seed):
    made, density = flow(name, seed), DENSITIES[name]
    angle = torch.linspace(0, 2 * math.pi, 361)
    z = torch.stack([angle.cos(), angle.sin()], -1) * torch.linspace(0, 6, 25)[:, None, None]
    assert (made(made.inverse(z)[0])[0] - z).abs().max() <= 1e-4
    x = density.grid(200)[0]
    log_p = density.log_prob(x)
    x = x[log_p > log_p.max() - 6**2 / 2].float()
    assert (made.inverse(made(x)[0])[0] - x).abs().max() <= 1e-4


@pytest.mark.parametrize("name", ["matching", "likelihood"])
def test_continuous_flows_come_within_a_twentieth_of_a_nat_by_the_exact_trace(name):
    made = continuous(name)
    assert made.trace == "exact"
    assert 0 < DENSITIES["ring"].kl(made.log_prob, 100) <= 0.05


def test_training_again_is_as_good():
    make, density, seed = train.TRAININGS["flows"]["banana"][0]
    assert 0 < density.kl(make(density, seed).double().log_prob, 300) <= 0.005


def test_steps_are_those_that_the_page_tells(monkeypatch):
    asked = []
    monkeypatch.setattr(train, "fit", lambda loss, parameters, batches, **kwargs: asked.append((batches, kwargs)))
    for runs in train.TRAININGS.values():
        for make, density, seed in next(iter(runs.values()))[:1]:
            make(density, seed)
    (points, plan), (more, longer) = asked
    assert (plan["steps"], points(torch.Generator()).shape) == (2000, (512, 2))
    assert (longer["steps"], more(torch.Generator()).shape) == (8000, (2048, 2))
