"""Notebook hygiene, and proof that the comparison in book/conftest.py lets nothing stale through."""

import base64
import importlib.util
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image

BOOK = Path(__file__).parents[1] / "book"
NOTEBOOKS = sorted(BOOK.glob("*.ipynb"))
FILLER = r"\b(simply|obviously|clearly|of course|easy to see|it is easy|note that|needless|trivial(ly)?)\b"


def load_comparison():
    spec = importlib.util.spec_from_file_location("comparison", BOOK / "conftest.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
class TestNotebook:
    @pytest.fixture
    def notebook(self, path):
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        return notebook

    @pytest.fixture
    def code(self, notebook):
        return [cell for cell in notebook.cells if cell.cell_type == "code"]

    def test_every_cell_was_run_from_top_to_bottom(self, code):
        assert [cell.execution_count for cell in code] == [*range(1, len(code) + 1)]
        assert all(cell.source.strip() for cell in code)

    def test_it_ran_without_errors_and_warnings(self, code):
        for cell in code:
            for output in cell.outputs:
                assert output.output_type != "error" or "raises-exception" in cell.metadata.get("tags", [])
                assert output.get("name") != "stderr", output.text

    def test_no_comparison_is_switched_off(self, code):
        for cell in code:
            assert not re.search(r"#\s*(NBVAL|PYTEST_VALIDATE)_", cell.source)
            assert not [tag for tag in cell.metadata.get("tags", []) if tag.startswith("nbval")]

    def test_metadata_holds_nothing_of_the_machine(self, path, notebook):
        kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
        assert notebook.metadata == {"kernelspec": kernel, "language_info": {"name": "python"}}
        for cell in notebook.cells:
            assert set(cell.metadata) <= {"tags", "mystnb", "jupyter"}
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"/(home|root|tmp|usr|Users)/\w", text)
        assert text == nbformat.writes(notebook) + "\n", "written by something else than nbformat"

    def test_what_the_page_folds_is_folded_in_jupyterlab_too(self, code):
        for cell in code:
            folded = "hide-input" in cell.metadata.get("tags", [])
            assert cell.metadata.get("jupyter", {}) == ({"source_hidden": True} if folded else {})

    def test_every_figure_says_what_it_shows(self, code):
        for cell in code:
            for output in cell.outputs:
                data = output.get("data", {})
                if "image/png" in data:
                    described = cell.metadata.mystnb
                    assert len(described.image.alt) > 40, "alt text: a sentence that says what the figure shows"
                    assert re.match(r"(fig|live)-", described.figure.name)
                    assert len(described.figure.caption) > 40, "caption: what to notice"
                for image in re.findall(r"<img [^>]*>", "".join(data.get("text/html", ""))):
                    assert re.search(r'alt="[^"]{40,}"', image)
                assert not {"image/svg+xml", "image/jpeg"} & set(data), "PNG only: SVG changes with every run"

    def test_the_prose_has_no_filler(self, notebook):
        prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
        assert not (found := re.search(FILLER, prose, re.IGNORECASE)), found and found.group()

    def test_it_has_a_place_in_the_book(self, path):
        assert f"file: {path.stem}\n" in (BOOK / "_toc.yml").read_text(encoding="utf-8")


def picture(shift: int = 0, size: int = 64) -> str:
    """A white square with a dark line, as a base64 PNG."""
    pixels = np.full((size, size), 255, dtype=np.uint8)
    pixels[10 + shift, 5:-5] = 0
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.mark.parametrize(
    ("new", "stored"),
    [
        ("loss 0.12345", "loss 0.12345"),
        ("loss 0.12345", "loss 0.12346"),  # one unit in the last digit: another machine's rounding
        ("tensor([1.0000, 2.0000])", "tensor([1.0000, 2.0001])"),
        ("3.14159265358979", "3.14159265358234"),
        (picture(), picture()),
        (f'<img src="data:image/png;base64,{picture()}">', f'<img src="data:image/png;base64,{picture()}">'),
    ],
)
def test_what_counts_as_the_same(new, stored):
    assert load_comparison().same(new, stored)


@pytest.mark.parametrize(
    ("new", "stored"),
    [
        ("loss 0.12345", "loss 0.12347"),
        ("loss 0.12345", "loss -0.12345"),
        ("divergence 16", "divergence 17"),  # whole numbers are exact
        ("divergence 16", "divergence 16.0"),
        ("divergence 12000000", "divergence 12000001"),
        ("1.0 2.0", "1.0"),
        ("passed", "failed"),
        ("max error < 1e-12", "max error < 1e-11"),
        ("<script>0.5", "<script>0.9"),
        (picture(), picture(shift=1)),
        (picture(), picture(size=65)),
        (f'<img src="data:image/png;base64,{picture()}">', f'<img src="data:image/png;base64,{picture(1)}">'),
        (f'["{picture()}", "{picture()}"]', f'["{picture()}"]'),
    ],
)
def test_what_does_not(new, stored):
    assert not load_comparison().same(new, stored)


SOURCE = """
import matplotlib.pyplot as plt
fig, ax = plt.subplots(figsize=(2, 2))
ax.plot([0, 1], [0, {slope}])
plt.show()
print("slope {slope}")
{slope} + 1;
"""


def test_nbval_catches_each_edit(tmp_path):
    """A small notebook passes as it was stored, and fails with an edited number, text, picture or output."""
    shutil.copy(BOOK / "conftest.py", tmp_path)
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    stored = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(SOURCE.format(slope=1.5))], metadata=kernel)
    nbformat.write(stored, tmp_path / "same.ipynb")
    other = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(SOURCE.format(slope=1.2))], metadata=kernel)
    nbformat.write(other, tmp_path / "other.ipynb")
    subprocess.run([sys.executable, BOOK / "execute.py", *tmp_path.glob("*.ipynb")], check=True, capture_output=True)

    stored, other = (json.loads((tmp_path / f"{name}.ipynb").read_text(encoding="utf-8")) for name in ("same", "other"))

    def edited(name: str, change) -> None:
        notebook = json.loads(json.dumps(stored))
        change(notebook["cells"][0])
        (tmp_path / f"{name}.ipynb").write_text(json.dumps(notebook), encoding="utf-8")

    pictures = [i for i, output in enumerate(stored["cells"][0]["outputs"]) if "image/png" in output.get("data", {})]
    texts = [i for i, output in enumerate(stored["cells"][0]["outputs"]) if output["output_type"] == "stream"]
    edited("number", lambda cell: cell["outputs"][texts[0]].update(text="slope 1.7\n"))
    edited("text", lambda cell: cell["outputs"][texts[0]].update(text="slopes 1.5\n"))
    edited("missing", lambda cell: cell["outputs"].pop(texts[0]))
    edited("picture", lambda cell: cell["outputs"].__setitem__(pictures[0], other["cells"][0]["outputs"][pictures[0]]))
    (tmp_path / "other.ipynb").unlink()
    command = [sys.executable, "-m", "pytest", "-q", "-rA", "--nbval", "-p", "no:cacheprovider", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path).stdout
    assert sorted(re.findall(r"^PASSED (\S+?)\.ipynb", result, re.MULTILINE)) == ["same"], result
    failed = sorted(re.findall(r"^FAILED (\S+?)\.ipynb", result, re.MULTILINE))
    assert failed == ["missing", "number", "picture", "text"], result
