"""The exercise engine: `check`, `hint` and `solution` for the exercises in this folder, one file a chapter.

An `Exercise` holds together what belongs together: the reference solution (its signature and docstring are the
statement), hints, a check, alternative solutions and named mistakes.  A check is mathematics: a generator function
that calls the attempt on random inputs and yields a `Case` for each answer, with what it should have been.
When an answer fails, the same check is run on every named mistake: the one that answers alike says what went wrong.
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

    Answers as close as `alike` are wrong in the same way; that is `tol` unless given, and wider for random answers.
    """

    what: str
    got: Any
    want: Tensor
    tol: float = 1e-8
    alike: float | None = None


class Mistake(NamedTuple):
    """A wrong solution that people write, and what a tutor would say to it."""

    solution: Callable
    sentence: str


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
        hints = enumerate(map(html.escape, self.hints), 1)
        folds = "".join(f"<details><summary>Hint {i}</summary>{hint}</details>" for i, hint in hints)
        line = html.escape(str(self)).replace("\n", "<br>")
        return f'<div class="report {self.status.replace(" ", "-")}"><p>{line}</p>{folds}</div>'


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
        self.signature = inspect.signature(reference)
        self.cases: Callable | None = None
        self.alternatives: list[Callable] = []
        self.mistakes: dict[str, Mistake] = {}
        if register and EXERCISES.setdefault(self.name, self) is not self:
            raise ValueError(f"there are two exercises named {self.name}")

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
        try:
            inspect.signature(attempt).bind(*self.signature.parameters)
        except TypeError:
            return self._failed(f"expected the arguments {self.signature}, got {inspect.signature(attempt)}")
        cases, error = [], None
        with torch.random.fork_rng(devices=[]):  # the learner's own random numbers stay as they were
            try:
                for case in self._answers(attempt, seed):
                    cases.append(case)
            except (Exception, SystemExit) as raised:  # a learner's code may raise anything; all is reported
                error = raised
            wrong = next(filter(None, map(_problem, cases)), None)
            if wrong and (name := self._diagnose(cases, seed)):
                return self._failed(self.mistakes[name].sentence, name)
        if wrong or error:
            return self._failed(wrong) if wrong else self._raised(error, attempt)
        return Report(self.name, "passed", "passed")

    def _answers(self, attempt: Callable, seed: int) -> Iterator[Case]:
        """The attempt's answers to the check's questions; it may not write into what it is given."""

        def watched(*args):
            tensors = [(n, arg, arg.clone()) for n, arg in zip(self.signature.parameters, args) if torch.is_tensor(arg)]
            answer = attempt(*args)
            for name, arg, copy in tensors:
                if not torch.equal(arg, copy):
                    raise ValueError(f"the argument {name} was changed in place; work on a copy, {name}.clone()")
            return answer

        torch.default_generator.manual_seed(seed)  # for an attempt that forgets the generator it is given
        return self.cases(watched, torch.Generator().manual_seed(seed))

    def _diagnose(self, cases: list[Case], seed: int) -> str | None:
        """The name of the mistake that gives the same answers; of several, the one that comes closest."""
        distances = {}
        for name, mistake in self.mistakes.items():
            pairs, distance = zip(cases, self._answers(mistake.solution, seed)), 0.0
            while distance <= 1 and (pair := next(pairs, None)):  # once they differ, the rest is of no interest
                distance = max(distance, _distance(*pair))
            distances[name] = distance
        return min((name for name in distances if distances[name] <= 1), key=distances.get, default=None)

    def _raised(self, error: BaseException, attempt: Callable) -> Report:
        """The report on an attempt that raised: with the last line of the learner's that was reached."""
        code = getattr(inspect.unwrap(attempt), "__code__", None)
        *_, (last, _) = traceback.walk_tb(error.__traceback__)
        if isinstance(error, NotImplementedError) and not error.args and last.f_code is code:  # no library's
            return Report(self.name, "not attempted", "not attempted yet", hints=self.hints)
        own = [f for f in traceback.extract_tb(error.__traceback__) if code and f.filename == code.co_filename]
        where = f"\nin line {own[-1].lineno}: {own[-1].line}" if own else ""
        return self._failed(f"your code raised {type(error).__name__}: {error}{where}")

    def _failed(self, message: str, mistake: str | None = None) -> Report:
        return Report(self.name, "failed", message, mistake, self.hints)


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
    error = _error(got, want)
    if (error <= tol).all():  # false for NaN
        return None
    first = tuple((~(error <= tol)).nonzero()[0].tolist())
    a, b = got[first].item(), want[first].item()
    digits = next((n for n in (6, 9, 12) if f"{a:.{n}g}" != f"{b:.{n}g}"), 17)
    near = "; so near, is there a float32 number or a finite difference in it?" if error.max() < 1e-5 else ""
    return f"{what}{f' at {list(first)}' if first else ''} is {a:.{digits}g}, expected {b:.{digits}g}{near}"


def _distance(a: Case, b: Case) -> float:
    """How far apart two answers to the same question are, in units of what counts as alike."""
    if not (isinstance(a.got, Tensor) and isinstance(b.got, Tensor) and a.got.shape == b.got.shape):
        return math.inf
    same = (a.got == b.got) | (a.got.isnan() & b.got.isnan())  # ∞ − ∞ is NaN, and NaN is not equal to itself
    error = _error(a.got, b.got).masked_fill(same, 0.0).double().nan_to_num(1e300)  # finite, as alike may be infinite
    return error.max().item() / (a.alike or a.tol)


EXERCISES: dict[str, Exercise] = {}
_hints_shown: dict[str, int] = {}


def find(exercise: Callable | str) -> Exercise:
    """The exercise of a function or a name."""
    name = exercise if isinstance(exercise, str) else getattr(exercise, "__name__", None)
    if name is None:
        raise TypeError(f"expected the function itself, without calling it, got {type(exercise).__name__}")
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
    _hints_shown[exercise.name] = number = min(_hints_shown.get(exercise.name, 0) + 1, len(exercise.hints))
    print(f"Hint {number} of {len(exercise.hints)}: {exercise.hints[number - 1]}")


def solution(exercise: Callable | str) -> None:
    """Print the reference solution."""
    print(inspect.getsource(find(exercise).reference))


for _module in pkgutil.iter_modules(__path__):  # a chapter's file registers its exercises by being imported
    import_module(f"{__name__}.{_module.name}")
