"""The exercise engine: `check`, `hint` and `solution` for the exercises in this folder, one file a chapter.

An `Exercise` holds together what belongs together: the reference solution (its signature and docstring are the
statement), hints, a check, alternative solutions and named mistakes.  A check is mathematics: a generator function
that calls the attempt on random inputs and yields a `Case` for each answer, with what it should have been.
When an answer fails, the same check is run on every named mistake; the one whose answers come closest, and close
enough, names what went wrong.
"""

import ast
import html
import inspect
import math
import pkgutil
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch import Tensor

SEED = 20_240_229


class Case(NamedTuple):
    """One answer: what was asked, what the attempt gave, what it should be, and how far it may be off.

    A named mistake that comes as close as `alike` gave the same answer; where answers are random, that is wider
    than `tol`, which is used where nothing else is said.
    """

    what: str
    got: Any
    want: Tensor
    tol: float = 1e-8
    alike: float | None = None


class InputChanged(Exception):
    """An attempt wrote into a tensor that it was given."""


@dataclass(frozen=True)
class Report:
    """The result of a check: 'passed', 'failed' or 'not attempted', and a sentence for the learner."""

    exercise: str
    status: str
    message: str
    mistake: str | None = None
    hints: tuple[str, ...] = ()

    def __str__(self) -> str:
        mark = {"passed": "✓", "failed": "✗", "not attempted": "○"}[self.status]
        return f"{mark} {self.exercise}: {self.message}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """The same sentence, and below it the hints, each behind its own fold."""
        folds = "".join(
            f"<details><summary>Hint {i}</summary>{html.escape(hint)}</details>" for i, hint in enumerate(self.hints, 1)
        )
        line = html.escape(str(self)).replace("\n", "<br>")
        return f'<div class="report {self.status.replace(" ", "-")}"><p>{line}</p>{folds}</div>'


@dataclass(frozen=True)
class Mistake:
    """A wrong solution that people write, and what a tutor would say to it."""

    solution: Callable
    sentence: str


class Exercise:
    """One exercise, built around its reference solution; see the module's docstring.

    >>> def double(x):
    ...     '''Twice x.'''
    ...     return 2 * x
    >>> exercise = Exercise(double, hints=["Add x to something.", "Add x to itself."], register=False)
    >>> @exercise.check
    ... def _(attempt, generator):
    ...     x = torch.randn(3, generator=generator, dtype=torch.float64)
    ...     yield Case("double(x)", attempt(x), x + x)
    >>> @exercise.mistake("You squared x.")
    ... def squared(x):
    ...     return x**2
    >>> exercise.run(double), exercise.run(lambda x: x * x)
    (✓ double: passed, ✗ double: You squared x.)
    """

    def __init__(self, reference: Callable, hints: Iterable[str], register: bool = True):
        self.reference, self.hints = reference, tuple(hints)
        self.name, self.chapter = reference.__name__, reference.__module__.rpartition(".")[2]
        self.cases: Callable | None = None
        self.alternatives: list[Callable] = []
        self.mistakes: dict[str, Mistake] = {}
        if register:
            if self.name in EXERCISES:
                raise ValueError(f"there are two exercises named {self.name}")
            EXERCISES[self.name] = self

    def check(self, cases: Callable) -> Callable:
        """Decorator: `cases(attempt, generator)` yields the cases that decide."""
        self.cases = cases
        return cases

    def alternative(self, solution: Callable) -> Callable:
        """Decorator: a correct solution that goes another way; the check has to let it pass."""
        self.alternatives.append(solution)
        return solution

    def mistake(self, sentence: str) -> Callable:
        """Decorator: a wrong solution, with the sentence for a learner whose answer behaves like it."""

        def add(solution: Callable) -> Callable:
            self.mistakes[solution.__name__] = Mistake(solution, sentence)
            return solution

        return add

    def stub(self) -> str:
        """What the learner starts from: signature and docstring, and nothing done yet."""
        source = inspect.getsource(self.reference)
        docstring = ast.parse(source).body[0].body[0]
        return "\n".join(source.splitlines()[: docstring.end_lineno]) + "\n    raise NotImplementedError\n"

    def run(self, attempt: Callable, seed: int = SEED) -> Report:
        """The report on an attempt; the same attempt always gets the same report."""
        arguments = inspect.signature(attempt)
        try:
            arguments.bind(*inspect.signature(self.reference).parameters)
        except TypeError:
            return self._report(
                "failed", f"expected the arguments {inspect.signature(self.reference)}, got {arguments}"
            )
        with torch.random.fork_rng(devices=[]):  # the learner's own random numbers stay as they were
            cases, error = [], None
            try:
                for case in self._answers(attempt, seed):
                    cases.append(case)
            except Exception as raised:  # a learner's code may raise anything, and all of it is reported
                error = raised
            wrong = next(filter(None, map(_problem, cases)), None)
            if wrong is not None:
                name = self._diagnose(cases, seed)
                return self._report("failed", self.mistakes[name].sentence if name else wrong, name)
        if error is None:
            return self._report("passed", "passed")
        if _is_untouched(error, attempt):
            return self._report("not attempted", "not attempted yet")
        return self._report("failed", _explain(error, attempt))

    def _answers(self, attempt: Callable, seed: int) -> Iterator[Case]:
        torch.default_generator.manual_seed(seed)  # for an attempt that forgets the generator it is given
        return self.cases(self._watched(attempt), torch.Generator().manual_seed(seed))

    def _watched(self, attempt: Callable) -> Callable:
        """The attempt, made to raise InputChanged if it writes into an argument."""
        names = list(inspect.signature(self.reference).parameters)

        def call(*args):
            before = [getattr(arg, "_version", None) for arg in args]
            answer = attempt(*args)
            for name, arg, version in zip(names, args, before):
                if getattr(arg, "_version", None) != version:
                    raise InputChanged(f"your code changes its argument {name}; work on a copy, {name}.clone()")
            return answer

        return call

    def _diagnose(self, cases: list[Case], seed: int) -> str | None:
        """The name of the mistake that gives the same answers; of several, the one that comes closest."""
        distance = {}
        for name, mistake in self.mistakes.items():
            far = 0.0
            for case, other in zip(cases, self._answers(mistake.solution, seed)):
                far = max(far, _distance(case, other))
                if far > 1:  # in units of `alike`
                    break
            else:
                distance[name] = far
        return min(distance, key=distance.get, default=None)

    def _report(self, status: str, message: str, mistake: str | None = None) -> Report:
        return Report(self.name, status, message, mistake, () if status == "passed" else self.hints)


def _code(attempt: Callable) -> Any:
    return getattr(inspect.unwrap(attempt), "__code__", None)


def _is_untouched(error: Exception, attempt: Callable) -> bool:
    """Whether the stub's own `raise NotImplementedError` was reached, and not one inside a library."""
    *_, (last, _) = traceback.walk_tb(error.__traceback__)
    return isinstance(error, NotImplementedError) and not error.args and last.f_code is _code(attempt)


def _explain(error: Exception, attempt: Callable) -> str:
    """What the learner's code raised, with the last line of theirs that was reached."""
    if isinstance(error, InputChanged):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename == getattr(_code(attempt), "co_filename", None)]
    where = f"\nin line {own[-1].lineno}: {own[-1].line}" if own else ""
    return f"your code raised {type(error).__name__}: {error}{where}"


def _error(got: Tensor, want: Tensor) -> Tensor:
    return (got - want).detach().abs() / want.detach().abs().clamp(min=1)


def _problem(case: Case) -> str | None:
    """A sentence on what is wrong with an answer, or None."""
    what, got, want, tol, _ = case
    if got is None:
        return f"{what} returned None; is the `return` missing?"
    if isinstance(got, int | float):
        return f"{what} returned the plain number {got:.6g}; keep it a torch.Tensor, without float() or .item()"
    if not isinstance(got, Tensor):
        return f"{what} returned {type(got).__name__}, expected a torch.Tensor of shape {tuple(want.shape)}"
    if got.shape != want.shape:
        return f"{what} has shape {tuple(got.shape)}, expected {tuple(want.shape)}"
    if got.dtype != want.dtype:
        return f"{what} is {got.dtype}, expected {want.dtype}: the dtype should follow the input"
    right = _error(got, want) <= tol  # false for NaN
    if right.all():
        return None
    first = tuple((~right).nonzero()[0].tolist())
    at = f" at {list(first)}" if first else ""
    a, b = got[first].item(), want[first].item()
    digits = next((n for n in (6, 9, 12) if f"{a:.{n}g}" != f"{b:.{n}g}"), 17)
    return f"{what}{at} is {a:.{digits}g}, expected {b:.{digits}g}"


def _distance(a: Case, b: Case) -> float:
    """How far apart two answers to the same question are, in units of what counts as the same."""
    if not (isinstance(a.got, Tensor) and isinstance(b.got, Tensor)):
        return math.inf
    if a.got.shape != b.got.shape or a.got.dtype != b.got.dtype:
        return math.inf
    same = (a.got == b.got) | (a.got.isnan() & b.got.isnan())
    error = _error(a.got, b.got).masked_fill(same, 0.0).nan_to_num(math.inf)
    return error.max().item() / (a.tol if a.alike is None else a.alike)


def one_point(fn: Callable, d: int, name: str = "field") -> Callable:
    """`fn`, for use in a check: it insists on ONE point of shape (d,) and says what to do with a batch."""

    def checked(p: Tensor) -> Tensor:
        if p.shape != (d,):
            raise ValueError(
                f"{name} takes ONE point of shape ({d},), got {tuple(p.shape)}: torch.vmap({name}) takes (n, {d})"
            )
        return fn(p)

    return checked


EXERCISES: dict[str, Exercise] = {}
_hints_shown: dict[str, int] = {}


def find(exercise: Callable | str) -> Exercise:
    """The exercise of a function or a name."""
    if not (isinstance(exercise, str) or callable(exercise)):
        raise TypeError(f"expected the function itself, without calling it, got {type(exercise).__name__}")
    name = exercise if isinstance(exercise, str) else getattr(exercise, "__name__", repr(exercise))
    if name not in EXERCISES:
        near = get_close_matches(name, EXERCISES) or sorted(EXERCISES)
        raise ValueError(f"there is no exercise {name!r}; did you mean {', '.join(near)}?")
    return EXERCISES[name]


def check(attempt: Callable) -> Report:
    """Check an attempt; it is matched to its exercise by the function's name."""
    exercise = find(attempt)
    if isinstance(attempt, str):
        raise TypeError(f"expected the function itself: check({attempt}), without the quotes")
    return exercise.run(attempt)


def hint(exercise: Callable | str) -> None:
    """Print the next hint; each call goes one hint further, and the last one stays."""
    exercise = find(exercise)
    shown = _hints_shown.get(exercise.name, 0)
    number = min(shown + 1, len(exercise.hints))
    _hints_shown[exercise.name] = number
    print(f"Hint {number} of {len(exercise.hints)}: {exercise.hints[number - 1]}")


def solution(exercise: Callable | str) -> None:
    """Print the reference solution."""
    print(inspect.getsource(find(exercise).reference))


for _module in pkgutil.iter_modules(__path__):  # a chapter's file registers its exercises by being imported
    import_module(f"{__name__}.{_module.name}")
