"""One loop for every training of the course, and the plain network that most of them train.

The loop is Adam with a cosine schedule, seeded, resumable, in one process or several.
Under `torchrun --nproc-per-node=2 script.py` the same script trains in two processes, with the gradients of one.
"""

import atexit
import math
import os
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from tqdm import tqdm


def mlp(inputs: int, outputs: int, hidden: Sequence[int], activation: Callable = nn.ReLU) -> nn.Sequential:
    """Linear layers with an activation between them; the last one starts at 0, and so does what the network gives.

    The activation works in place (`inplace=True`), which spares a small network a tenth of its time.

    >>> mlp(2, 3, hidden=(8,))(torch.ones(4, 2)).abs().sum()
    tensor(0., grad_fn=<SumBackward0>)
    """
    sizes = [inputs, *hidden]
    layers = [module for a, b in pairwise(sizes) for module in (nn.Linear(a, b), activation(inplace=True))]
    last = nn.Linear(sizes[-1], outputs)
    nn.init.zeros_(last.weight), nn.init.zeros_(last.bias)
    return nn.Sequential(*layers, last)


def fit(
    loss: Callable[[Any], Tensor],
    parameters: Iterable[Tensor],
    batches: Callable[[torch.Generator], Any],
    steps: int,
    lr: float,
    *,
    seed: int = 0,
    clip: float = math.inf,
    checkpoint: str | Path | None = None,
    every: int = 1000,
    resume: bool = False,
    progress: bool = True,
) -> Tensor:
    """Minimise a loss by Adam, in place, and return its value at each step, shape `(steps,)`.

        learning rate at step t = ½ lr (1 + cos(π t/steps)),   t = 0, …, steps − 1

    `batches(generator)` draws a batch: a tensor, or several in a tuple, with the examples along the first axis.
    `loss(batch)` is the *mean* loss of its examples, a scalar.  `clip` bounds the norm of the gradient.

    Each step has its own random numbers, made from `seed` and the step: those of the generator, and those of torch's
    global one while `loss` runs, which is put back at the end.  So a training that was interrupted and resumed ends at
    the same weights.  The state is written to the file `checkpoint` after each `every` steps and at the end.

    In several processes each takes its share of every batch; gradients and losses are averages over all.

    Raises ValueError for steps < 1, no parameters that want gradients, a loss that is no scalar, a batch that cannot be
    shared equally or a checkpoint of another training; FileExistsError where the checkpoint exists and `resume` is
    False, FileNotFoundError where it does not and `resume` is True; FloatingPointError where loss or gradient is not
    finite: the weights are then those of the last step at which both were.

    >>> w = torch.zeros(2, requires_grad=True)
    >>> draw = lambda generator: 3 + torch.randn(64, 2, generator=generator)
    >>> losses = fit(lambda x: ((x - w) ** 2).mean(), [w], draw, steps=200, lr=0.1, progress=False)
    >>> losses.shape, bool((w - 3).abs().max() < 0.1)
    (torch.Size([200]), True)
    """
    parameters = [p for p in parameters if p.requires_grad]
    if not parameters:
        raise ValueError("parameters: expected at least one tensor that requires gradients, got none")
    if steps < 1:
        raise ValueError(f"steps: expected at least 1, got {steps}")
    path, rank, world = checkpoint and Path(checkpoint), *_processes()
    if path and path.exists() and not resume:
        raise FileExistsError(f"checkpoint: {path} exists; pass resume=True to go on from it, or remove it")
    optimizer = torch.optim.Adam(parameters, lr=lr)
    plan = {"steps": steps, "lr": lr, "seed": seed, "clip": clip, "shapes": [tuple(p.shape) for p in parameters]}
    losses, start = torch.zeros(steps, dtype=torch.float64), 0
    if resume:
        start = _load(path, plan, parameters, optimizer, losses)
    if world > 1:
        for p in parameters:
            dist.broadcast(p.data, 0)
    good = [p.detach().clone() for p in parameters]
    generator, cuda = torch.Generator(), [p.device for p in parameters[:1] if p.device.type == "cuda"]
    with torch.random.fork_rng(devices=cuda), tqdm(total=steps, initial=start, disable=not progress or rank > 0) as bar:
        for step in range(start, steps):
            batch = _share(batches(generator.manual_seed(_seed(seed, step))), rank, world)
            torch.manual_seed(_seed(seed, step, 1 + rank))
            optimizer.zero_grad()
            value = loss(batch)
            if value.shape != ():
                raise ValueError(f"loss: expected a scalar, the mean over the batch, got shape {tuple(value.shape)}")
            value.backward()
            losses[step], norm = _average(value, parameters, world), clip_grad_norm_(parameters, clip)
            if not (losses[step].isfinite() and norm.isfinite()):
                _put(parameters, good)
                raise FloatingPointError(
                    f"loss: expected finite numbers, got {losses[step]:g} and a gradient of length {norm:g} "
                    f"at step {step}; the weights are those of step {max(step - 1, start)}"
                )
            _put(good, parameters)
            optimizer.param_groups[0]["lr"] = lr * (1 + math.cos(math.pi * step / steps)) / 2
            optimizer.step()
            bar.update()
            bar.set_postfix(loss=f"{losses[step]:.4f}", refresh=False)
            if path and rank == 0 and ((step + 1) % every == 0 or step + 1 == steps):
                _save(path, plan, step + 1, parameters, optimizer, losses)
    return losses


def _seed(*numbers: int) -> int:
    """One seed from several numbers, other for others."""
    total = 0
    for number in numbers:
        total = (total * 1_000_003 + number + 1) % 2**63
    return total


def _put(into: list[Tensor], values: Iterable[Tensor]) -> None:
    with torch.no_grad():
        for p, value in zip(into, values):
            p.copy_(value)


def _processes() -> tuple[int, int]:
    """Which process this is, and of how many; the first call under torchrun makes them know each other."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not dist.is_initialized():
        dist.init_process_group("gloo")
        atexit.register(dist.destroy_process_group)
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def _share(batch: Any, rank: int, world: int) -> Any:
    """This process's part of a batch."""
    if world == 1:
        return batch
    if isinstance(batch, tuple | list):
        return type(batch)(_share(part, rank, world) for part in batch)
    if len(batch) % world:
        raise ValueError(f"batches: expected a number of examples that {world} processes can share, got {len(batch)}")
    return batch[rank::world]


def _average(value: Tensor, parameters: list[Tensor], world: int) -> Tensor:
    """The loss and, in place, the gradients, averaged over all processes."""
    value = value.detach().clone()
    if world > 1:
        for tensor in (value, *(p.grad for p in parameters if p.grad is not None)):
            dist.all_reduce(tensor)
            tensor /= world
    return value


def _save(path: Path, plan: dict, step: int, parameters: list[Tensor], optimizer, losses: Tensor) -> None:
    """Write the state beside the file and then put it in its place, so that the file is never half written."""
    state = {"plan": plan, "step": step, "losses": losses[:step], "optimizer": optimizer.state_dict()}
    beside = path.with_name(path.name + ".part")
    torch.save(state | {"parameters": [p.detach() for p in parameters]}, beside)
    beside.replace(path)


def _load(path: Path | None, plan: dict, parameters: list[Tensor], optimizer, losses: Tensor) -> int:
    """Put back what `_save` wrote; returns the step that comes next."""
    if path is None or not path.exists():
        raise FileNotFoundError(f"checkpoint: expected a file to resume from, got {path}")
    state = torch.load(path, weights_only=True)
    if state["plan"] != plan:
        raise ValueError(f"checkpoint: {path} is of another training: expected {plan}, got {state['plan']}")
    _put(parameters, state["parameters"])
    optimizer.load_state_dict(state["optimizer"])
    losses[: state["step"]] = state["losses"]
    return state["step"]
