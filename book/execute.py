"""Run the course's notebooks in place: `python book/execute.py [notebook …]`, all of them by default.

Nothing that differs between two runs is written (no times, no versions), so running twice gives the same bytes.
"""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def execute(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(path.parent)}}
    options = {"record_timing": False, "coalesce_streams": True, "timeout": 120}
    NotebookClient(
        notebook, kernel_name="python3", resources=resources, **options
    ).execute()
    notebook.metadata = {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    nbformat.write(notebook, path)
    print(f"ran {path}")


if __name__ == "__main__":
    here = Path(__file__).parent
    # checks.ipynb reads the outputs of the others, so it comes last.
    everything = sorted(
        here.glob("*.ipynb"), key=lambda path: (path.stem == "checks", path.stem)
    )
    for path in map(Path, sys.argv[1:] or everything):
        execute(path)
