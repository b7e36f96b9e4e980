"""The exercise engine, the gate that every exercise has to pass, and the notebooks' side of it."""

import itertools
import json
import linecache
import re
import runpy
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
import torch

from companion import exercises
from companion.exercises import EXERCISES, SEED, Case, Exercise, check, hint, solution

BOOK = Path(__file__).parents[1] / "book"
LEARNERS = {path.stem: runpy.run_path(str(path)) for path in sorted(Path(__file__).with_name("attempts").glob("*.py"))}
_files = itertools.count()


def define(source: str, **names):
    """The function that `source` defines, as if it had been typed into a notebook's cell of its own."""
    filename = f"<cell {next(_files)}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    namespace = {"torch": torch, **names}
    exec(compile(source, filename, "exec"), namespace)
    return namespace[re.search(r"^def (\w+)", source, re.MULTILINE)[1]]


def own(exercise):
    """The functions that an exercise brings along."""
    return [exercise.reference, *exercise.alternatives, *(m.solution for m in exercise.mistakes.values())]


answers_afresh = Exercise._answers


@pytest.fixture(autouse=True, scope="module")
def gate():
    """Checks run as on a learner's machine, where no signatures are checked, but need not repeat themselves.

    Every report compares with all mistakes of an exercise, and what these answer depends on the seed alone: here the
    course's own functions answer once for each seed.  An attempt is asked whenever it is run.
    """
    known, ours = {}, {f for exercise in EXERCISES.values() for f in own(exercise)}

    def recorded(answers):
        cases = []
        try:
            cases.extend(answers)
        except Exception as error:
            return cases, error
        return cases, None

    def replayed(cases, error):
        yield from cases
        if error:
            raise error

    def answers(exercise, attempt, seed):
        if attempt not in ours:
            return answers_afresh(exercise, attempt, seed)
        if (attempt, seed) not in known:
            known[attempt, seed] = recorded(answers_afresh(exercise, attempt, seed))
        return replayed(*known[attempt, seed])

    jaxtyping.config.update("jaxtyping_disable", True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Exercise, "_answers", answers)
        # a function within a function would get its signature wrapped anew at each call, checked or not
        patch.setattr(jaxtyping, "jaxtyped", lambda typechecker: lambda function: function)
        yield
    jaxtyping.config.update("jaxtyping_disable", False)


# The engine ---------------------------------------------------------------------------------------------------------


def halve(x, y):
    """Half of x + y."""
    return (x + y) / 2


@pytest.fixture
def exercise():
    """A small exercise that no chapter knows."""
    exercise = Exercise(halve, hints=["Add first.", "Then divide by 2."], register=False)

    @exercise.check
    def _(attempt, generator):
        for dtype in torch.float64, torch.float32:
            x, y = torch.randn(2, 3, generator=generator, dtype=torch.float64).to(dtype)
            yield Case("halve(x, y)", attempt(x, y), x + (y - x) / 2, 1e-8 if dtype == torch.float64 else 1e-5)

    @exercise.mistake("Divide the sum.")
    def divides_one(x, y):
        return x + y / 2

    return exercise


def run(exercise, body, signature="halve(x, y)"):
    return exercise.run(define(f"def {signature}:\n    {body}\n", np=np))


def test_stub_keeps_signature_and_docstring(exercise):
    assert exercise.stub() == 'def halve(x, y):\n    """Half of x + y."""\n    raise NotImplementedError\n'


def test_untouched_stub_is_not_attempted(exercise):
    report = exercise.run(define(exercise.stub()))
    assert (report.status, str(report)) == ("not attempted", "○ halve: not attempted yet")
    assert report.hints == exercise.hints


def test_renamed_stub_is_not_attempted(exercise):
    assert exercise.run(define(exercise.stub().replace("halve", "mine"))).status == "not attempted"


def test_right_answer_passes_and_shows_no_hints(exercise):
    report = run(exercise, "return x / 2 + y / 2")
    assert (str(report), report.mistake, report.hints) == ("✓ halve: passed", None, ())


def test_mistake_is_named(exercise):
    report = run(exercise, "return y / 2 + x")
    assert (report.status, report.mistake, report.message) == ("failed", "divides_one", "Divide the sum.")


def test_mistake_that_is_not_a_number_is_named(exercise):
    @exercise.mistake("Half a sum needs no logarithm.")
    def logarithm(x, y):
        return (x - x.abs() - 1).log() + y  # NaN wherever x is

    assert run(exercise, "return y + (x - 1 - x.abs()).log()").mistake == "logarithm"
    assert run(exercise, "return torch.where(x > 0, x.log() * float('nan'), y)").mistake is None


def test_mistake_that_stumbles_later_is_still_named(exercise):
    assert run(exercise, "return y.mul(torch.full((3,), 0.5).double()).add(x).to(x.dtype)").mistake == "divides_one"
    assert run(exercise, "return x @ torch.eye(3).double() + y / 2").mistake == "divides_one"


def test_a_wrong_answer_comes_before_a_later_exception(exercise):
    message = run(exercise, "return x @ torch.eye(3).double() + y").message
    assert re.fullmatch(r"halve\(x, y\) at \[0\] is \S+, expected \S+", message)


def test_exception_is_reported_with_its_line(exercise):
    report = run(exercise, "z = x + y\n    return z @ torch.ones(4).double()")
    assert report.status == "failed"
    assert "your code raised RuntimeError: " in report.message
    assert report.message.endswith("\nin line 3: return z @ torch.ones(4).double()")


def test_exception_in_a_library_shows_the_learners_line(exercise):
    report = run(exercise, "return torch.stack([x, y[:2]]).mean(0)")
    assert report.message.endswith("\nin line 2: return torch.stack([x, y[:2]]).mean(0)")
    report = run(exercise, "return torch.vmap(lambda a: a.item())(x)")
    assert report.message.endswith("\nin line 2: return torch.vmap(lambda a: a.item())(x)")


@pytest.mark.parametrize(
    "body",
    [
        "return helper(x)",  # raised elsewhere, without a message
        "return torch.func.grad(helper)(x)",
        "raise NotImplementedError('no idea')",
    ],
)
def test_not_implemented_elsewhere_is_an_attempt(exercise, body):
    def helper(x):
        raise NotImplementedError

    report = exercise.run(define(f"def halve(x, y):\n    {body}\n", helper=helper))
    assert report.status == "failed"
    assert report.message.startswith("your code raised NotImplementedError")
    assert report.message.endswith(f"\nin line 2: {body}")


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("z = x + y", "halve(x, y) returned None; is the `return` missing?"),
        ("return 0.5", "returned the plain number 0.5; keep it a torch.Tensor, without float() or .item()"),
        ("return True", "returned the plain number 1;"),
        ("return x.numpy()", "returned ndarray, expected a torch.Tensor of shape (3,)"),
        ("return (x, y)", "returned tuple, expected a torch.Tensor of shape (3,)"),
        ("return 'half'", "returned str, expected a torch.Tensor of shape (3,)"),
        ("return np.float32(1)", "returned float32, expected a torch.Tensor of shape (3,)"),
        ("yield x", "returned generator, expected a torch.Tensor of shape (3,)"),
        ("return (x + y).sum() / 2", "halve(x, y) has shape (), expected (3,)"),
        ("return ((x + y) / 2)[None]", "halve(x, y) has shape (1, 3), expected (3,)"),
        ("return ((x + y) / 2).float()", "is torch.float32, expected torch.float64: the dtype should follow the input"),
        ("return ((x + y) / 2).double()", "is torch.float64, expected torch.float32: the dtype should follow the"),
        ("return (x + y).long()", "is torch.int64, expected torch.float64"),
        ("return (x + y) / 2 + 0j", "is torch.complex128, expected torch.float64"),
        ("return x * float('nan')", "halve(x, y) at [0] is nan, expected"),
        ("return x / 0", "expected"),
        ("return x.mul_(0.5) + y / 2", "the argument x was changed in place; work on a copy, x.clone()"),
        ("y[0] = 0\n    return (x + y) / 2", "the argument y was changed in place; work on a copy, y.clone()"),
        ("return halve(x, y)", "your code raised RecursionError"),
        ("assert False, 'why'", "your code raised AssertionError: why"),
        ("raise SystemExit(0)", "your code raised SystemExit: 0"),
    ],
)
def test_wrong_kind_of_answer_gets_a_sentence(exercise, body, sentence):
    report = run(exercise, body)
    assert report.status == "failed"
    assert report.mistake is None
    assert sentence in report.message
    assert report.hints


def test_wrong_number_shows_where_and_by_how_much(exercise):
    assert re.fullmatch(r"halve\(x, y\) at \[0\] is -?[\d.]+, expected -?[\d.]+", run(exercise, "return x").message)
    message = run(exercise, "return (x + y) / 2 * (1 + 3e-8)").message
    got, want = re.search(r"is (\S+), expected (\S+)", message).groups()
    assert got != want
    late = run(exercise, "z = (x + y) / 2\n    return torch.cat([z[:2], z[2:] + 1])")
    assert "at [2] is" in late.message


def test_nearly_right_numbers_get_a_question(exercise):
    assert run(exercise, "return (x + y) / 2 + 1e-6").message.endswith(
        "is there a float32 number or a finite difference in it?"
    )
    assert "so near" not in run(exercise, "return (x + y) / 2 + 1e-3").message


@pytest.mark.parametrize("signature", ["halve(x)", "halve()", "halve(x, y, z)", "halve(x, *, y)"])
def test_wrong_arguments_are_named(exercise, signature):
    got = signature.removeprefix("halve")
    assert run(exercise, "return x", signature).message == f"expected the arguments (x, y), got {got}"


@pytest.mark.parametrize("signature", ["halve(a, b)", "halve(x, y=None)", "halve(*args)", "halve(x, y, how='mean')"])
def test_arguments_may_have_other_names_and_defaults(exercise, signature):
    names = "args[0] + args[1]" if "*" in signature else "a + b" if "a," in signature else "x + y"
    assert run(exercise, f"return ({names}) / 2", signature).status == "passed"


def test_anything_callable_can_be_checked(exercise):
    class Half:
        def __call__(self, x, y):
            return x.undefined

    assert exercise.run(lambda x, y: (x + y) / 2).status == "passed"
    assert "your code raised AttributeError" in exercise.run(Half()).message
    assert "your code raised RuntimeError" in exercise.run(torch.vmap(lambda x, y: x @ y)).message


def test_same_attempt_same_report_and_no_trace_in_the_learners_random_numbers(exercise):
    attempt = define("def halve(x, y):\n    return x * torch.rand(3)\n")
    reports = []
    for seed in 1, 2:
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        reports.append(exercise.run(attempt))
        assert torch.equal(torch.get_rng_state(), before)
    assert reports[0] == reports[1]
    exercise.run(define("def halve(x, y):\n    raise ValueError(torch.rand(1))\n"))
    assert torch.equal(torch.get_rng_state(), before)


def test_prints_of_an_attempt_stay_visible(exercise, capsys):
    assert run(exercise, "print('shape', tuple(x.shape))\n    return (x + y) / 2").status == "passed"
    assert capsys.readouterr().out == "shape (3,)\n" * 2


def test_answers_that_can_be_differentiated_are_compared(exercise):
    report = run(exercise, "x = x.clone().requires_grad_()\n    return x + y / 2")
    assert report.mistake == "divides_one"
    assert run(exercise, "x.requires_grad_()\n    return (x + y) / 2").status == "passed"


def noisy(x, generator):
    """Every entry of x plus noise of mean 0 and variance 1."""
    return x + torch.randn(x.shape, generator=generator, dtype=x.dtype)


@pytest.fixture
def noisy_exercise():
    exercise = Exercise(noisy, hints=["Draw.", "Add."], register=False)

    @exercise.check
    def _(attempt, generator):
        x = torch.randn((), generator=generator, dtype=torch.float64)
        answer = attempt(x.expand(5000), generator)
        yield Case("the mean", answer.mean(), x, 0.1, alike=0.2)
        yield Case("the variance", answer.var(), torch.ones_like(x), 0.1, alike=0.2)

    @exercise.mistake("The variance is a third.")
    def flat(x, generator):
        return x - 1 + 2 * torch.rand(x.shape, generator=generator, dtype=x.dtype)

    @exercise.mistake("The variance is a quarter.")
    def half_as_wide(x, generator):
        return x + torch.randn(x.shape, generator=generator, dtype=x.dtype) / 2

    return exercise


def test_of_two_mistakes_that_are_close_the_closest_is_named(noisy_exercise):
    for scale, name in (0.5, "half_as_wide"), (3**-0.5, "flat"), (2, None):
        body = f"return x + {scale} * torch.randn(2, *x.shape, generator=generator, dtype=x.dtype)[1]"
        report = noisy_exercise.run(define(f"def noisy(x, generator):\n    {body}\n"))
        assert (report.status, report.mistake) == ("failed", name)


def test_a_check_that_trips_over_an_answer_reports_the_answer(noisy_exercise):
    report = noisy_exercise.run(define("def noisy(x, generator):\n    return [x]\n"))
    assert report.status == "failed"
    assert "'list' object has no attribute 'mean'" in report.message


def test_two_exercises_of_one_name_are_refused():
    name, there = next(iter(EXERCISES.items()))
    again = define(f"def {name}():\n    '''Again.'''\n", __name__="elsewhere")
    with pytest.raises(ValueError, match=f"there are two exercises named {name}"):
        Exercise(again, hints=[])
    assert EXERCISES[name] is there


def test_check_finds_the_exercise_by_name():
    assert check(define(EXERCISES["trace_divergence"].stub())).exercise == "trace_divergence"


def test_unknown_names_are_suggested():
    with pytest.raises(ValueError, match=r"no exercise 'trace_divergnce'; did you mean .*trace_divergence"):
        check(define("def trace_divergnce(field, x):\n    return x\n"))
    with pytest.raises(ValueError, match=re.escape(f"did you mean {', '.join(sorted(EXERCISES))}?")):
        hint("qqq")


@pytest.mark.parametrize("result", [torch.ones(3), 3.0, None])
def test_checking_a_result_instead_of_a_function_is_explained(result):
    with pytest.raises(TypeError, match="expected the function itself, without calling it"):
        check(result)


def test_hints_go_one_further_each_time(monkeypatch, capsys):
    monkeypatch.setattr(exercises, "_hints_shown", {})
    exercise = EXERCISES["box_outflow"]
    for _ in range(len(exercise.hints) + 1):
        hint(exercise.reference)
    lines = capsys.readouterr().out.splitlines()
    total = len(exercise.hints)
    assert lines == [f"Hint {i} of {total}: {exercise.hints[i - 1]}" for i in [*range(1, total + 1), total]]


def test_solution_prints_the_reference(capsys):
    solution("box_outflow")
    printed = capsys.readouterr().out
    assert printed.startswith(EXERCISES["box_outflow"].stub().removesuffix("    raise NotImplementedError\n"))
    assert "return (across + upward) / h" in printed


def test_report_in_html_folds_the_hints_and_escapes_the_rest(exercise):
    page = run(exercise, "raise ValueError('<b>')")._repr_html_()
    assert page.startswith('<div class="report failed"><p>✗ halve: your code raised ValueError: &lt;b&gt;<br>in line 2')
    assert page.count("<details><summary>Hint") == 2
    assert "<details>" not in run(exercise, "return (x + y) / 2")._repr_html_()


# The gate -----------------------------------------------------------------------------------------------------------

ALL = [pytest.param(exercise, id=name) for name, exercise in EXERCISES.items()]
# The scope makes pytest run all tests of an exercise together, so a process that runs a part of them answers less.
each_exercise = pytest.mark.parametrize("exercise", ALL, scope="module")
SEEDS = [SEED, *range(5)]
WRONG = {
    "zero": lambda answer: answer * 0,
    "negative": lambda answer: -answer,
    "a thousandth too large": lambda answer: answer * 1.001,
    "a thousandth too small": lambda answer: answer * 0.999,
    "nan": lambda answer: answer * float("nan"),
    "single precision": lambda answer: answer.float(),
    "double precision": lambda answer: answer.double(),
    "an axis more": lambda answer: answer[..., None],
    "an axis in front": lambda answer: answer[None],
    "one number": lambda answer: answer.mean() / 2,
    "constant": lambda answer: torch.ones_like(answer),
    "a list": lambda answer: answer.tolist(),
    "nothing": lambda answer: None,
}


def cases(exercise, seed=SEED):
    return list(exercise._answers(exercise.reference, seed))


@each_exercise
def test_stub_is_not_attempted(exercise):
    report = exercise.run(define(exercise.stub()))
    assert (report.status, report.message) == ("not attempted", "not attempted yet")


@each_exercise
@pytest.mark.parametrize("seed", SEEDS)
def test_reference_passes(exercise, seed):
    assert str(exercise.run(exercise.reference, seed)) == f"✓ {exercise.name}: passed"


@each_exercise
@pytest.mark.parametrize("seed", SEEDS)
def test_alternatives_pass(exercise, seed):
    assert exercise.alternatives
    for alternative in exercise.alternatives:
        assert (alternative.__name__, exercise.run(alternative, seed).message) == (alternative.__name__, "passed")


@each_exercise
@pytest.mark.parametrize("seed", SEEDS[:2])
def test_every_mistake_fails_with_its_own_sentence(exercise, seed):
    assert len(exercise.mistakes) >= 4
    for name, mistake in exercise.mistakes.items():
        report = exercise.run(mistake.solution, seed)
        assert (report.status, report.mistake, report.message) == ("failed", name, mistake.sentence)


@each_exercise
def test_sentences_and_hints_are_worth_reading(exercise):
    sentences = [mistake.sentence for mistake in exercise.mistakes.values()]
    for texts in sentences, exercise.hints:
        assert len(texts) >= 2
        assert len({text.lower() for text in texts}) == len(texts)
        for text in texts:
            assert len(text.split()) >= 8, text
            assert text[0].isupper() or not text[0].isalpha(), text
            assert text[-1] in ".?)]", text
            assert not {"\\", "$"} & set(text), text  # plain text, no TeX


@each_exercise
def test_statement_says_what_to_return(exercise):
    docstring = exercise.reference.__doc__
    first = docstring.split("\n\n")[0]
    assert len(first) > 20
    assert first.endswith(".")
    assert "Returns" in docstring
    for argument in exercise.signature.parameters:
        assert re.search(rf"\b{argument}\b[^.]*:", docstring), f"the docstring does not explain {argument}"
    assert max(map(len, exercise.stub().splitlines())) <= 88  # so wide is a page's cell on a laptop
    assert "raise NotImplementedError" not in docstring


@each_exercise
@pytest.mark.parametrize("name", WRONG)
def test_generic_wrong_answers_fail(exercise, name):
    """Where an answer is a pair, either half alone is wrong."""
    halves = {0}

    def spoiled(*args):
        answer = exercise.reference(*args)
        if isinstance(answer, torch.Tensor):
            return WRONG[name](answer)
        halves.add(1)
        return tuple(WRONG[name](part) if i == half else part for i, part in enumerate(answer))

    for half in (0, 1):
        if half in halves:
            assert exercise.run(spoiled).status == "failed"


@each_exercise
def test_check_asks_enough(exercise):
    asked = cases(exercise)
    assert len(asked) >= 2
    assert {case.want.dtype for case in asked} == {torch.float64, torch.float32}
    assert len({case.want.shape for case in asked}) >= 2 or exercise.name == "box_outflow"
    assert len({case.what for case in asked}) == len(asked)
    telling = [case for case in asked if case.want.count_nonzero()]
    assert len(telling) >= 2
    assert len({case.want.flatten()[0].item() for case in telling}) == len(telling)
    for case in asked:
        assert case.want.isfinite().all()
        assert not case.want.requires_grad
        assert case.want.numel() == 1 or case.want.unique().numel() > 1, f"{case.what} wants a constant"


@each_exercise
def test_check_draws_its_questions(exercise):
    """Another seed, other numbers: only a property, such as a share of 0, is known beforehand."""
    for one, other in zip(cases(exercise), cases(exercise, 1), strict=True):
        if one.want.count_nonzero():
            assert not torch.equal(one.want, other.want), one.what


@each_exercise
def test_questions_do_not_depend_on_the_answers(exercise):
    """Else a learner and a mistake that draw differently would be asked different things, and could not be compared."""
    for mistake in exercise.mistakes.values():
        for case, other in zip(cases(exercise), exercise._answers(mistake.solution, SEED), strict=True):
            assert torch.equal(case.want, other.want)


@each_exercise
def test_same_seed_same_answers(exercise):
    for function in own(exercise):
        for one, other in zip(exercise._answers(function, SEED), answers_afresh(exercise, function, SEED), strict=True):
            assert torch.allclose(one.got, other.got, rtol=0, atol=0, equal_nan=True), (function.__name__, one.what)


@each_exercise
def test_exercise_is_asked_with_the_names_of_its_chapter(exercise):
    assert exercise.reference.__module__ == f"companion.exercises.{exercise.chapter}"
    assert len({f.__name__ for f in own(exercise)}) == len(own(exercise))


# What learners write: the same mistakes in other words, and right answers that look different -----------------------

ATTEMPTS = [(chapter, *attempt) for chapter, module in LEARNERS.items() for attempt in module["ATTEMPTS"]]


@pytest.mark.parametrize(("chapter", "signature", "body", "verdict"), ATTEMPTS)
def test_learners_are_understood(chapter, signature, body, verdict):
    report = check(define(f"def {signature}:\n    {body}\n", **LEARNERS[chapter].get("NAMES", {})))
    assert (report.mistake or report.status) == (verdict or "failed"), report


@each_exercise
def test_learners_have_tried_it(exercise):
    tried = [attempt for attempt in ATTEMPTS if attempt[1].partition("(")[0] == exercise.name]
    assert {chapter for chapter, *_ in tried} == {exercise.chapter}
    verdicts = {verdict for *_, verdict in tried}
    assert "passed" in verdicts
    assert verdicts & set(exercise.mistakes)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            "field(x)",
            r"field takes ONE point of shape \(3,\), got \(4, 3\): torch.vmap\(field\) takes many, of shape \(n, 3\)",
        ),
        ("torch.vmap(field)(x.T)", r"field takes ONE point of shape \(3,\), got \(4,\)"),
        ("field(*x)", r"field takes ONE tensor of shape \(2,\), such as torch.stack\(\[x, y\]\), not 2 numbers"),
    ],
)
def test_a_field_that_is_called_wrongly_says_how_it_is_called(call, sentence):
    answer = "torch.vmap(torch.func.jacrev(field))(x.reshape(-1, x.shape[-1])).diagonal(dim1=1, dim2=2).sum(1)"
    batch = "x.ndim == 1" if "*" in call else "x.ndim == 2"
    body = f"if {batch}:\n        return {call}\n    return {answer}.reshape(x.shape[:-1])"
    report = check(define(f"def trace_divergence(field, x):\n    {body}\n"))
    assert re.search(f"your code raised ValueError: {sentence}", report.message)
    assert report.message.endswith(f"\nin line 3: return {call}")


# The notebook -------------------------------------------------------------------------------------------------------

DIRECTIVE = re.compile(
    r"^(?P<fence>`{3,}|:{3,})\{(?P<kind>exercise|solution)\} *(?P<argument>[^\n]*)\n"
    r"(?P<options>(?::[\w-]+:[^\n]*\n)*)(?P<body>.*?)^(?P=fence) *$",
    re.MULTILINE | re.DOTALL,
)


def read(notebook: Path) -> list[tuple[str, str, str]]:
    """The cells of a notebook: type, source, and what its outputs show as text."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    text = [["".join(o.get("data", {}).get("text/plain", "")) for o in c.get("outputs", [])] for c in cells]
    return [(c["cell_type"], "".join(c["source"]), "\n".join(t)) for c, t in zip(cells, text)]


def directives(source: str) -> list[tuple[str, str, dict[str, str], str]]:
    """The exercises and solutions of a markdown cell: kind, argument, options, body."""
    found = []
    for match in DIRECTIVE.finditer(source):
        options = dict(re.findall(r"^:([\w-]+): *(.*)$", match["options"], re.MULTILINE))
        found.append((match["kind"], match["argument"].strip(), options, match["body"]))
    return found


def problems(notebook: Path, chapter: dict[str, Exercise]) -> list[str]:
    """What keeps a notebook from showing the exercises of its chapter, each whole and in order."""
    if not notebook.exists():
        return [f"{notebook.name} is missing, and with it {len(chapter)} exercises"]
    cells = read(notebook)
    found, places = [], []
    marks = [(i, d) for i, (kind, source, _) in enumerate(cells) if kind == "markdown" for d in directives(source)]
    code = [(i, source.strip("\n"), text) for i, (kind, source, text) in enumerate(cells) if kind == "code"]
    for name, exercise in chapter.items():
        label = f"ex-{name.replace('_', '-')}"
        include = f"{{literalinclude}} ../companion/exercises/{exercise.chapter}.py\n"
        wanted = {
            f"{{exercise}} with the label {label}": [
                i for i, (kind, _, options, _) in marks if kind == "exercise" and options.get("label") == label
            ],
            "stub": [i for i, source, _ in code if source == exercise.stub().strip("\n")],
            f"cell check({name}) that says 'not attempted yet'": [
                i for i, source, text in code if source == f"check({name})" and text == f"○ {name}: not attempted yet"
            ],
            f"{{solution}} of {label}, a dropdown that includes {name} from its source": [
                i
                for i, (kind, argument, options, body) in marks
                if kind == "solution"
                and argument == label
                and "dropdown" in options.get("class", "").split()
                and include in body
                and re.search(rf"^:pyobject: {name}$", body, re.MULTILINE)
            ],
        }
        found += [f"{name}: {len(at)} times {what}, expected once" for what, at in wanted.items() if len(at) != 1]
        places += [at[0] for at in wanted.values() if at]
    if places != sorted(places):
        found.append("the exercises' cells are not in the order statement, stub, check, solution of the chapter's file")
    known = {f"ex-{name.replace('_', '-')}" for name in chapter}
    for _, (kind, argument, options, _) in marks:
        label = options.get("label", "without label") if kind == "exercise" else argument
        if label not in known:
            found.append(f"the {kind} {label} is not one of the chapter's exercises")
    for _, source, _ in code:
        for name in re.findall(r"^check\((\w+)\)", source, re.MULTILINE):
            if name not in chapter:
                found.append(f"check({name}) is not one of the chapter's exercises")
        stub = re.match(r"def (\w+)\(", source)
        if stub and source.endswith("raise NotImplementedError") and stub[1] not in chapter:
            found.append(f"the stub {stub[1]} is not one of the chapter's exercises")
    return found


CHAPTERS = sorted({exercise.chapter for exercise in EXERCISES.values()})


def of_chapter(chapter):
    return {name: exercise for name, exercise in EXERCISES.items() if exercise.chapter == chapter}


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_notebook_shows_every_exercise(chapter):
    found = problems(BOOK / f"{chapter}.ipynb", of_chapter(chapter))
    assert not found, "\n".join(found)


def test_no_notebook_has_exercises_of_its_own():
    for notebook in BOOK.glob("*.ipynb"):
        if notebook.stem not in CHAPTERS:
            assert problems(notebook, {}) == [], notebook.name


def written(exercise) -> list[dict]:
    """The cells that a notebook should hold for an exercise."""
    label = f"ex-{exercise.name.replace('_', '-')}"
    result = {"data": {"text/plain": [f"○ {exercise.name}: not attempted yet"]}, "output_type": "execute_result"}
    return [
        {"cell_type": "markdown", "source": f"```{{exercise}} A title\n:label: {label}\n\nSolve it.\n```"},
        {"cell_type": "code", "source": exercise.stub().rstrip().splitlines(keepends=True), "outputs": []},
        {"cell_type": "code", "source": f"check({exercise.name})", "outputs": [result]},
        {
            "cell_type": "markdown",
            "source": f"````{{solution}} {label}\n:class: dropdown\n\n```{{literalinclude}} ../companion/exercises/"
            f"{exercise.chapter}.py\n:pyobject: {exercise.name}\n```\n````",
        },
    ]


def replace(cells, i, old, new):
    source = "".join(cells[i]["source"])
    assert old in source
    cells[i]["source"] = source.replace(old, new)


def swap(cells, i, j):
    cells[i], cells[j] = cells[j], cells[i]


BREAKS = {
    "nothing": (lambda cells: None, None),
    "no statement": (lambda cells: cells.pop(0), "0 times {exercise} with the label"),
    "no stub": (lambda cells: cells.pop(1), "0 times stub"),
    "no check": (lambda cells: cells.pop(2), "0 times cell check("),
    "no solution": (lambda cells: cells.pop(3), "0 times {solution}"),
    "another label": (lambda cells: replace(cells, 0, "ex-", "ex-other-"), "is not one of the chapter's exercises"),
    "an edited stub": (lambda cells: replace(cells, 1, "raise NotImplementedError", "pass"), "0 times stub"),
    "an edited docstring": (lambda cells: replace(cells, 1, '"""', '"""Well. '), "0 times stub"),
    "never run": (lambda cells: cells[2]["outputs"].clear(), "0 times cell check("),
    "attempted": (
        lambda cells: cells[2]["outputs"][0]["data"].update({"text/plain": "✓ passed"}),
        "0 times cell check(",
    ),
    "another solution": (lambda cells: replace(cells, 3, ":pyobject: ", ":pyobject: un"), "0 times {solution}"),
    "an open solution": (lambda cells: replace(cells, 3, ":class: dropdown\n", ""), "0 times {solution}"),
    "a pasted solution": (lambda cells: replace(cells, 3, "{literalinclude} ../", "python\n"), "0 times {solution}"),
    "check before stub": (lambda cells: swap(cells, 1, 2), "not in the order"),
    "exercises swapped": (lambda cells: cells.extend([cells.pop(0) for _ in range(4)]), "not in the order"),
    "twice": (lambda cells: cells.append(cells[1]), "2 times stub"),
    "a stranger": (
        lambda cells: cells.append({"cell_type": "code", "source": "check(unheard_of)", "outputs": []}),
        "check(unheard_of) is not one",
    ),
    "a strange stub": (
        lambda cells: cells.append(
            {"cell_type": "code", "source": "def unheard_of(x):\n    raise NotImplementedError", "outputs": []}
        ),
        "the stub unheard_of is not one",
    ),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_notebook_is_noticed(name, tmp_path):
    chapter = of_chapter(CHAPTERS[0])
    cells = [cell for exercise in chapter.values() for cell in written(exercise)]
    break_it, complaint = BREAKS[name]
    break_it(cells)
    notebook = tmp_path / "chapter.ipynb"
    notebook.write_text(json.dumps({"cells": cells}), encoding="utf-8")
    found = problems(notebook, chapter)
    if complaint is None:
        assert found == []
    else:
        assert any(complaint in problem for problem in found), found


def test_a_missing_notebook_is_noticed(tmp_path):
    assert problems(tmp_path / "chapter.ipynb", {}) == ["chapter.ipynb is missing, and with it 0 exercises"]
