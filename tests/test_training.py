"""companion.training: the schedule, the seeds, interruptions, several processes, and what is refused."""

import math
import subprocess
import sys

import pytest
import torch
from reference import assert_close
from torch import nn

from companion.training import _share, fit

QUIET = {"progress": False}


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, 1)).double()


def draw(generator):
    x = torch.randn(12, 3, generator=generator, dtype=torch.float64)
    return x, x.prod(-1, keepdim=True)


def squared(net):
    return lambda batch: ((net(batch[0]) - batch[1]) ** 2).mean()


def trained(net, steps=40, **options):
    losses = fit(squared(net), net.parameters(), draw, steps, 0.01, **QUIET | options)
    return losses, [p.detach().clone() for p in net.parameters()]


def same(a, b):
    return all(torch.equal(p, q) for p, q in zip(a, b, strict=True))


def by_hand(w, gradients, lr):
    """Adam with its cosine, written out; `gradients` are those of all steps, known beforehand."""
    m, v = torch.zeros_like(w), torch.zeros_like(w)
    for t, g in enumerate(gradients):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        step = lr * (1 + math.cos(math.pi * t / len(gradients))) / 2
        w = w - step * (m / (1 - 0.9 ** (t + 1))) / ((v / (1 - 0.999 ** (t + 1))).sqrt() + 1e-8)
    return w


def test_it_is_adam_with_a_cosine():
    """A linear loss has the gradients that are drawn."""
    gradients = []

    def draw(generator):
        gradients.append(torch.randn(4, generator=generator, dtype=torch.float64))
        return gradients[-1]

    w = torch.ones(4, dtype=torch.float64, requires_grad=True)
    losses = fit(lambda g: g @ w, [w], draw, steps=30, lr=0.1, **QUIET)
    assert_close(w.detach(), by_hand(torch.ones(4, dtype=torch.float64), gradients, 0.1))
    assert losses.shape == (30,)
    assert_close(losses[0], gradients[0].sum().item())


def test_clip_bounds_the_gradient():
    seen = []

    def draw(generator):
        seen.append(100 * torch.randn(4, generator=generator, dtype=torch.float64))
        return seen[-1]

    w = torch.ones(4, dtype=torch.float64, requires_grad=True)
    fit(lambda g: g @ w, [w], draw, steps=20, lr=0.1, clip=1.0, **QUIET)
    clipped = [g / g.norm() for g in seen]
    assert_close(w.detach(), by_hand(torch.ones(4, dtype=torch.float64), clipped, 0.1), tol=1e-6)


def test_it_finds_a_minimum_that_is_known():
    w = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    losses = fit(lambda x: ((x - w) ** 2).mean(), [w], lambda g: target.expand(8, 3), steps=400, lr=0.1, **QUIET)
    assert_close(w.detach(), target, tol=1e-3)
    assert losses[-1] < 1e-6 < losses[0]


def test_same_seed_same_weights_whatever_the_global_state():
    runs = []
    for state, seed in ((1, 0), (2, 0), (1, 5)):
        net = network()
        torch.manual_seed(state)  # the dropout inside the loss has its numbers from the seed of `fit`
        before = torch.get_rng_state()
        runs.append(trained(net, seed=seed)[1])
        assert torch.equal(torch.get_rng_state(), before)
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])


def test_no_two_steps_have_the_same_numbers():
    seen = []
    w = torch.zeros(1, requires_grad=True)

    def loss(x):
        seen.append((x.sum().item(), torch.rand(()).item()))
        return (w * x.mean()).sum()

    fit(loss, [w], lambda g: torch.randn(5, generator=g), steps=50, lr=0.1, **QUIET)
    assert len(set(seen)) == len({a for a, _ in seen}) == len({b for _, b in seen}) == 50


class Stopped(Exception):
    pass


@pytest.mark.parametrize("stop", [1, 17, 20, 39])
def test_a_resumed_training_ends_at_the_same_weights(tmp_path, stop):
    whole, want = trained(network())
    net, calls = network(), iter(range(100))

    def interrupted(batch):
        if next(calls) == stop:
            raise Stopped
        return squared(net)(batch)

    options = {"checkpoint": tmp_path / "state.pt", "every": 1}
    with pytest.raises(Stopped):
        fit(interrupted, net.parameters(), draw, 40, 0.01, **QUIET, **options)
    fresh = network(seed=9)  # another start: all comes from the file
    losses, got = trained(fresh, resume=True, **options)
    assert same(got, want)
    assert torch.equal(losses, whole)


def test_checkpoints_are_written_when_they_are_due(tmp_path):
    file, steps = tmp_path / "state.pt", []
    net = network()

    def loss(batch):
        steps.append(torch.load(file, weights_only=True)["step"] if file.exists() else None)
        return squared(net)(batch)

    fit(loss, net.parameters(), draw, 10, 0.01, checkpoint=file, every=4, **QUIET)
    assert steps == [None] * 4 + [4] * 4 + [8] * 2
    assert torch.load(file, weights_only=True)["step"] == 10
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]


def test_a_finished_training_stays_as_it_is(tmp_path):
    net = network()
    losses, want = trained(net, checkpoint=tmp_path / "state.pt")
    again, got = trained(net, checkpoint=tmp_path / "state.pt", resume=True)
    assert same(got, want)
    assert torch.equal(again, losses)


BAD = {
    "neither is a number": lambda w: (w * math.nan).sum(),
    "the loss is infinite": lambda w: w.sum() + math.inf,
    "the gradient is no number": lambda w: (w - w.detach()).abs().sqrt().sum(),
}


@pytest.mark.parametrize("bad", BAD)
def test_the_last_good_weights_come_back(bad):
    """The loss is finite at steps 0 to 6; the weights of step 6 were the last at which it was."""
    w = torch.ones(2, dtype=torch.float64, requires_grad=True)
    seen = []

    def loss(x):
        seen.append(w.detach().clone())
        return (w * x).sum() if len(seen) < 8 else BAD[bad](w)

    with pytest.raises(FloatingPointError, match=r"expected finite numbers, got .* at step 7; .* those of step 6"):
        fit(loss, [w], lambda g: torch.randn(2, generator=g, dtype=torch.float64), 20, 0.1, **QUIET)
    assert torch.equal(w.detach(), seen[6])
    assert not torch.equal(seen[6], seen[7])


def test_a_progress_bar_shows_the_loss(capsys):
    trained(network(), steps=5, progress=True)
    shown = capsys.readouterr().err
    assert "5/5" in shown
    assert "loss=" in shown
    trained(network(), steps=5)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"steps": 0}, ValueError, ["steps:", "at least 1", "got 0"]),
        ({"parameters": [torch.ones(2)]}, ValueError, ["parameters:", "requires gradients", "got none"]),
        ({"loss": lambda x: x.sum(-1)}, ValueError, ["loss:", "expected a scalar", "got shape (12,)"]),
        ({"resume": True}, FileNotFoundError, ["checkpoint:", "got None"]),
        ({"resume": True, "checkpoint": "nowhere.pt"}, FileNotFoundError, ["checkpoint:", "got nowhere.pt"]),
    ],
    ids=["steps", "parameters", "loss", "no checkpoint", "missing checkpoint"],
)
def test_bad_input_is_refused(change, error, words, own_errors, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    w = torch.ones(3, requires_grad=True)
    arguments = {"parameters": [w], "loss": lambda x: (x * w).mean(), "steps": 3, "lr": 0.1} | QUIET | change
    with pytest.raises(error) as caught:
        fit(batches=lambda g: torch.randn(12, 3, generator=g).requires_grad_(), **arguments)
    assert all(word in str(caught.value) for word in words), caught.value


def test_no_checkpoint_is_overwritten_or_mixed_up(tmp_path):
    options = {"checkpoint": tmp_path / "state.pt"}
    trained(network(), **options)
    before = (tmp_path / "state.pt").read_bytes()
    with pytest.raises(FileExistsError, match="pass resume=True"):
        trained(network(), **options)
    for other in {"seed": 1}, {"steps": 50}, {"clip": 2.0}:
        with pytest.raises(ValueError, match="of another training"):
            trained(network(), resume=True, **options, **other)
    assert (tmp_path / "state.pt").read_bytes() == before


SCRIPT = """
import os
import sys

import torch
from companion.training import fit

rank = os.environ.get("RANK", "alone")
torch.manual_seed(rank == "1")  # the processes start at different weights; those of the first count
net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)).double()


def draw(generator):
    x = torch.randn(12, 3, generator=generator, dtype=torch.float64)
    return x, x.prod(-1, keepdim=True)


losses = fit(lambda b: ((net(b[0]) - b[1]) ** 2).mean(), net.parameters(), draw, steps=30, lr=0.01, progress=False)
found = [losses, *(p.grad for p in net.parameters()), *(p.detach() for p in net.parameters())]
torch.save(found, sys.argv[1] + rank)
"""


def test_two_processes_have_the_gradients_of_one(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    for way in [], torchrun:
        run = subprocess.run([sys.executable, *way, script, tmp_path / "of_"], capture_output=True, text=True)
        assert run.returncode == 0, run.stderr[-3000:]
    alone, first, second = (torch.load(tmp_path / f"of_{who}") for who in ("alone", "0", "1"))
    for one, a, b in zip(alone, first, second, strict=True):
        assert torch.equal(a, b)
        assert_close(a, one, tol=1e-12)


def test_a_batch_is_shared_equally_or_not_at_all():
    batch = torch.arange(6)
    assert _share(batch, 1, 3).tolist() == [1, 4]
    assert [part.tolist() for part in _share((batch, batch + 10), 0, 2)] == [[0, 2, 4], [10, 12, 14]]
    with pytest.raises(ValueError, match="that 4 processes can share, got 6"):
        _share(batch, 0, 4)
