"""What tests share: fresh examples at each run, the companion's own error messages, the built book in a browser."""

import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import jaxtyping
import pytest
from hypothesis import settings
from playwright.sync_api import expect, sync_playwright

BOOK = Path(__file__).parents[1] / "book"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-sync"]  # beside those playwright sets itself

# The tensors are small: several threads would wait for each other.  Set before torch loads, for what tests start too.
os.environ.setdefault("OMP_NUM_THREADS", "1")
settings.register_profile("course", deadline=None, max_examples=25, print_blob=True)
settings.load_profile("course")
expect.set_options(timeout=10_000)  # like everything else in a page, see `reading`


@pytest.fixture
def own_errors():
    """Switches the checking of signatures off, which a reader does not have and which would speak up first."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def book(tmp_path_factory):
    """The folder of the built book; a warning fails the build."""
    out = tmp_path_factory.mktemp("book")
    program = Path(sys.executable).with_name("jupyter-book")
    command = [program, "build", BOOK, "--path-output", out, "-W", "-n", "--all", "--keep-going"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, f"the book does not build:\n{run.stdout[-2000:]}\n{run.stderr[-4000:]}"
    return out / "_build" / "html"


@pytest.fixture(scope="session")
def browser():
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        message = "no browser found to read the book with; install one, for example by `apt install chromium`"
        pytest.fail(message) if os.environ.get("REQUIRE_BROWSER") == "1" else pytest.skip(message)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def reading(browser):
    """Opens a page as a context: `with reading(file) as (page, problems)`."""
    return partial(_reading, browser)


@contextmanager
def _reading(browser, file: Path, query: str = "", block: str = "^(http|ws)s?:", **options):
    """An opened page, and the list of everything that went wrong on it so far."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce", **options)
    context.set_default_timeout(10_000)
    page, problems = context.new_page(), []
    context.route(re.compile(block), lambda route: route.abort())
    page.on("console", lambda m: m.type in ("error", "warning") and problems.append(f"{m.type}: {m.text}"))
    page.on("pageerror", lambda error: problems.append(f"error: {error}"))
    page.on("requestfailed", lambda request: problems.append(f"failed: {request.url}"))
    page.goto(file.as_uri() + query)
    if options.get("java_script_enabled", True):
        page.add_style_tag(content="* { transition: none !important }")
        page.evaluate("window.MathJax?.startup?.promise")
        page.wait_for_selector("figure[id^='live-']:not([data-live])", state="detached")
    yield page, problems
    context.close()


@pytest.fixture(scope="session")
def switch():
    """Gives a page a theme: `switch(page, "dark")`."""
    return lambda page, theme: page.evaluate("(theme) => (document.documentElement.dataset.theme = theme)", theme)
