"""The course's promise: every labelled equation is checked by `prove` or `agree`, and the ledger says so."""

import ast
import json
import re
from html import escape
from pathlib import Path

import pytest

from companion.symbolic import equations, ledger

BOOK = Path(__file__).parents[1] / "book"
CHAPTERS = [path for path in sorted(BOOK.glob("*.ipynb")) if path.stem != "checks"]


def cells(notebook: Path, kind: str) -> list[dict]:
    return [cell for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == kind]


def code(notebook: Path) -> ast.Module:
    return ast.parse("\n".join("".join(cell["source"]) for cell in cells(notebook, "code")))


def checks(notebook: Path) -> list[ast.Call]:
    """The calls of `prove` and `agree` in a notebook's cells."""
    calls = (node for node in ast.walk(code(notebook)) if isinstance(node, ast.Call))
    return [call for call in calls if isinstance(call.func, ast.Name) and call.func.id in ("prove", "agree")]


def label(call: ast.Call) -> str:
    """The label that a check names; it has to stand there as a plain string."""
    (value,) = [keyword.value for keyword in call.keywords if keyword.arg == "label"]
    return ast.literal_eval(value)


@pytest.mark.parametrize("notebook", CHAPTERS, ids=lambda path: path.stem)
class TestChapter:
    def test_every_equation_has_a_check_and_every_check_an_equation(self, notebook):
        assert set(equations(notebook)) == {label(call) for call in checks(notebook)} != set()

    def test_every_check_has_left_its_line(self, notebook):
        """What the cells name is what their stored outputs say, as often; nbval runs them again."""
        assert sorted(name for name, _ in ledger(notebook)) == sorted(label(call) for call in checks(notebook))

    def test_labels_are_defined_once_and_carry_the_chapter(self, notebook):
        """Any label is an `eq-` that is listed or a `def-`, whatever syntax it was written in."""
        prose = "\n".join("".join(cell["source"]) for cell in cells(notebook, "markdown"))
        labels = re.findall(r"^:label: *(\S+)|\$\$ *\((\S+)\)|\\label\{(\S+)\}", prose, re.MULTILINE)
        names = [a or b or c for a, b, c in labels if not (a or b or c).startswith(("ex-", "solution-"))]
        assert sorted(names) == sorted(set(names))
        definitions = {name for name in names if name.startswith("def-")}
        assert set(names) - definitions == set(equations(notebook))
        chapter = notebook.stem.replace("_", "-")
        assert all(name.startswith((f"eq-{chapter}-", f"def-{chapter}-")) for name in names)

    def test_the_verbs_are_the_companions_own(self, notebook):
        """`prove` and `agree` come from the companion and are not redefined on the way."""
        imported, rebound = set(), set()
        for node in ast.walk(code(notebook)):
            if isinstance(node, ast.ImportFrom) and node.module == "companion.symbolic":
                imported |= {name.name for name in node.names if name.asname is None}
            elif isinstance(node, ast.FunctionDef | ast.ClassDef):
                rebound.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                rebound.add(node.id)
            elif isinstance(node, ast.Import | ast.ImportFrom):
                rebound |= {name.asname or name.name for name in node.names}
        assert {call.func.id for call in checks(notebook)} <= imported
        assert not {"prove", "agree"} & rebound

    def test_no_check_compares_a_thing_with_itself(self, notebook):
        for call in checks(notebook):
            left, right = (ast.dump(argument) for argument in call.args[:2])
            assert left != right, f"{label(call)} compares an expression with itself"


def test_the_ledger_page_lists_every_check():
    """Each label with its link, each way in which it was checked, and the right count."""
    outputs = [output for cell in cells(BOOK / "checks.ipynb", "code") for output in cell["outputs"]]
    (page,) = ["".join(output["data"]["text/html"]) for output in outputs if "data" in output]
    sections = dict(re.findall(r'<section><a href="[^"]*#equation-(eq-[^"]+)">(.*?)</section>', page, re.DOTALL))
    for chapter in CHAPTERS:
        assert set(equations(chapter)) <= set(sections)
        for name, how in ledger(chapter):
            assert f"✓ {escape(how)}</div>" in sections[name]
    assert set(sections) == {name for chapter in CHAPTERS for name in equations(chapter)}
    assert "NOT CHECKED" not in page
    (counts,) = ["".join(output["text"]) for output in outputs if output["output_type"] == "stream"]
    assert counts == f"{len(sections)} equations, {sum(len(ledger(chapter)) for chapter in CHAPTERS)} checks\n"
