"""The exercise engine: `check`, `hint` and `solution` for the exercises in this folder, one file a chapter.

An `Exercise` holds together what belongs together: the reference solution (its signature and docstring are the
statement), hints, a check, alternative solutions and named mistakes.  A check is mathematics: a generator function
that calls the attempt on random inputs and yields a `Case` for each answer, with what it should have been.
When an answer fails, the same check is run on every named mistake; the one that gives the same answers names
what went wrong.
"""

import ast
import html
import inspect
import pkgutil
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch import Tensor

SEED = 20_240_229


class Case(NamedTuple):
    """One answer: what was asked, what the attempt gave, what it should be, and how far it may be off."""

    what: str
    got: Any
    want: Tensor
    tol: float = 1e-8


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

    def run(self, attempt: Callable) -> Report:
        """The report on an attempt; the same attempt always gets the same report."""
        expected, given = (list(inspect.signature(f).parameters) for f in (self.reference, attempt))
        if len(expected) != len(given):
            return self._report("failed", f"expected the arguments ({', '.join(expected)}), got ({', '.join(given)})")
        try:
            cases = self._answers(attempt)
        except Exception as error:  # a learner's code may raise anything, and all of it is reported
            if _is_untouched(error, attempt):
                return self._report("not attempted", "not attempted yet")
            return self._report("failed", _explain(error, attempt))
        wrong = next(filter(None, map(_problem, cases)), None)
        if wrong is None:
            return self._report("passed", "passed")
        for name, mistake in self.mistakes.items():
            if all(map(_same, cases, self._answers(mistake.solution))):
                return self._report("failed", mistake.sentence, name)
        return self._report("failed", wrong)

    def _answers(self, attempt: Callable) -> list[Case]:
        with torch.random.fork_rng(devices=[]):  # the learner's own random numbers stay as they were
            torch.manual_seed(SEED)
            return list(self.cases(attempt, torch.Generator().manual_seed(SEED)))

    def _report(self, status: str, message: str, mistake: str | None = None) -> Report:
        return Report(self.name, status, message, mistake, () if status == "passed" else self.hints)


def _is_untouched(error: Exception, attempt: Callable) -> bool:
    """Whether the stub's own `raise NotImplementedError` was reached, and not one inside a library."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return isinstance(error, NotImplementedError) and not error.args and last.name == attempt.__name__


def _explain(error: Exception, attempt: Callable) -> str:
    """What the learner's code raised, with the last line of theirs that was reached."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename == attempt.__code__.co_filename]
    where = f"\nin line {own[-1].lineno}: {own[-1].line}" if own else ""
    return f"your code raised {type(error).__name__}: {error}{where}"


def _problem(case: Case) -> str | None:
    """A sentence on what is wrong with an answer, or None."""
    what, got, want, tol = case
    if got is None:
        return f"{what} returned None; is the `return` missing?"
    if isinstance(got, int | float) and want.shape == ():
        got = torch.tensor(got, dtype=want.dtype)
    if not isinstance(got, Tensor):
        return f"{what} returned {type(got).__name__}, expected a torch.Tensor of shape {tuple(want.shape)}"
    if got.shape != want.shape:
        return f"{what} has shape {tuple(got.shape)}, expected {tuple(want.shape)}"
    if got.dtype != want.dtype:
        return f"{what} is {got.dtype}, expected {want.dtype}: the dtype should follow the input"
    error = (got - want).abs() / want.abs().clamp(min=1)
    if (error <= tol).all():  # false for NaN
        return None
    first = tuple((~(error <= tol)).nonzero()[0].tolist())
    at = f" at {list(first)}" if first else ""
    return f"{what}{at} is {got[first].item():.6g}, expected {want[first].item():.6g}"


def _same(a: Case, b: Case) -> bool:
    """Whether two answers to the same question are the same, up to the question's own tolerance."""
    if not (isinstance(a.got, Tensor) and isinstance(b.got, Tensor)):
        return type(a.got) is type(b.got) and a.got == b.got
    return a.got.shape == b.got.shape and torch.allclose(a.got, b.got.to(a.got.dtype), a.tol, a.tol, equal_nan=True)


EXERCISES: dict[str, Exercise] = {}
_hints_shown: dict[str, int] = {}


def find(exercise: Callable | str) -> Exercise:
    """The exercise of a function or a name."""
    name = exercise if isinstance(exercise, str) else exercise.__name__
    if name not in EXERCISES:
        near = get_close_matches(name, EXERCISES) or sorted(EXERCISES)
        raise ValueError(f"there is no exercise {name!r}; did you mean {', '.join(near)}?")
    return EXERCISES[name]


def check(attempt: Callable) -> Report:
    """Check an attempt; it is matched to its exercise by the function's name."""
    return find(attempt).run(attempt)


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
