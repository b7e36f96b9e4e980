# make book · test · lab · notebooks · bench · mutants · clean — each makes .venv and installs the pinned requirements on first use

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
# Beside each other, in as many processes as there are cores, four at most; each takes up to a gigabyte.
SHARED := $(BIN)/pytest -n logical --maxprocesses 4 --dist

.PHONY: book test lab notebooks bench mutants clean

book: $(READY)
	$(BIN)/jupyter-book build book --path-output . -W -n --all --keep-going
	@echo "Read the course: file://$(CURDIR)/_build/html/index.html"

# In the order in which a mistake is cheapest to find; each line stops the run.
test: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(SHARED) worksteal --ignore=tests/test_exercises.py --ignore=tests/test_equations.py --ignore=tests/test_book.py \
		--ignore=tests/test_figures.py
	$(SHARED) worksteal tests/test_exercises.py
	$(SHARED) loadfile --nbval --nbval-cell-timeout=120 book
	$(BIN)/pytest tests/test_equations.py
	$(SHARED) worksteal tests/test_book.py tests/test_figures.py

lab: $(READY)
	$(BIN)/jupyter lab book

notebooks: $(READY)
	$(BIN)/python book/execute.py

bench: $(READY)
	$(BIN)/pip install --disable-pip-version-check -r tests/bench-requirements.txt
	$(BIN)/python tests/bench.py

mutants: $(READY)
	$(BIN)/python tests/mutants.py

clean:
	rm -rf _build .venv .pytest_cache .ruff_cache book/.ruff_cache .hypothesis companion.egg-info
	find . -name __pycache__ -o -name .ipynb_checkpoints | xargs rm -rf

$(READY): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else "Python 3.11, 3.12 or 3.13 is needed, this is %d.%d; try: make PYTHON=python3.12" % v)'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --disable-pip-version-check -r requirements.txt
	@touch $(READY)
