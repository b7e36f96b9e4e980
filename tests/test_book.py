"""The built book as a reader meets it, from disk and without a network; its figures beside the companion."""

import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import pytest
import torch
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect, sync_playwright

from companion.divergence import divergence, flux

BOOK = Path(__file__).parents[1] / "book"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-sync"]  # beside those playwright sets itself
PAGES = [*re.findall(r"(?:root|file): (\S+)", (BOOK / "_toc.yml").read_text(encoding="utf-8")), "genindex", "search"]


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


@contextmanager
def reading(browser, file: Path, query: str = "", block: str = "^(http|ws)s?:", **options):
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


@pytest.fixture(scope="module", params=PAGES)
def opened(request, browser, book):
    with reading(browser, book / f"{request.param}.html") as page_and_problems:
        yield page_and_problems


@pytest.fixture
def page(opened):
    return opened[0]


def test_every_page_of_the_contents_is_built(book):
    assert [name for name in PAGES if not (book / f"{name}.html").is_file()] == []


def test_page_opens_from_disk_without_error_or_request(opened):
    assert opened[1] == []


def test_every_formula_is_rendered(page):
    broken = page.evaluate(
        """() => [...document.querySelectorAll(".math")].filter((math) =>
            !math.querySelector("mjx-container") || math.querySelector("mjx-merror, [data-mjx-error]") ||
            [...math.querySelectorAll("mjx-mtext")].some((text) => getComputedStyle(text).color === "rgb(255, 0, 0)")
        ).map((math) => math.textContent.trim().slice(0, 100))"""
    )
    assert broken == []


def test_no_tex_is_left_in_the_text(page):
    """A forgotten dollar sign turns a formula into text, or text into a formula; the build does not notice."""
    words = page.evaluate(
        """() => {
            const words = document.querySelector("main").cloneNode(true);
            for (const other of words.querySelectorAll("pre, code, script, .math")) other.remove();
            return words.textContent;
        }"""
    )
    assert re.findall(r".{0,20}(?:\$|\\[A-Za-z(\[]).{0,20}", words) == []


def test_every_image_says_what_it_shows(page):
    images = page.evaluate("[...document.images].map((image) => [image.src.slice(0, 80), image.alt])")
    assert [source for source, alt in images if not alt.strip() or alt.startswith("_images/")] == []


@cache
def anchors(file: Path) -> set[str]:
    return set(re.findall(r'\bid="([^"]+)"', file.read_text(encoding="utf-8")))


def test_every_link_within_the_book_leads_somewhere(page, book):
    def is_dead(link: str) -> bool:
        address, anchor = map(unquote, urldefrag(link))
        target = (book / (address or Path(page.url).name)).resolve()
        return not target.is_file() or (anchor != "" and anchor not in anchors(target))

    links = page.eval_on_selector_all("a[href]", "all => all.map((a) => a.getAttribute('href'))")
    assert [link for link in links if not urlsplit(link).scheme and is_dead(link)] == []


def test_moving_pictures_move(page):
    for player in page.locator(".moving-picture").all():
        image, last = player.locator("img"), player.locator("img").get_attribute("src")
        player.locator("input").fill("0")
        first = image.get_attribute("src")
        assert first != last
        player.locator("button").click()
        expect(image).not_to_have_attribute("src", first)
        player.locator("button").click()


def test_figure_library_is_loaded_where_it_is_needed_and_only_there(page):
    figures = page.locator("figure[id^='live-']").count()
    assert page.evaluate("[...document.scripts].some((s) => s.src.includes('jsxgraph'))") == (figures > 0)
    assert page.locator("figure[data-live=on] .live").count() == figures


def switch(page, theme: str) -> None:
    page.evaluate("(theme) => (document.documentElement.dataset.theme = theme)", theme)


ONE_TOKEN_OF_A_KIND = """() => {  // axe would take minutes over the thousands of coloured words in a chapter's code
    const kinds = new Set();
    for (const token of document.querySelectorAll("pre span")) {
        const kind = `${token.closest(".cell_input, .cell_output, .admonition, main").className}: ${token.className}`;
        if (kinds.has(kind) && !token.children.length) token.replaceWith(token.textContent);
        kinds.add(kind);
    }
}"""


@pytest.mark.parametrize(("theme", "width"), [("light", 1280), ("dark", 390)])
def test_page_is_accessible(page, theme, width):
    page.set_viewport_size({"width": width, "height": 900})
    switch(page, theme)
    page.evaluate(ONE_TOKEN_OF_A_KIND)
    options = {"resultTypes": ["violations"], "preload": False}  # a disk does not serve style sheets to scripts
    found = Axe().run(page, options=options)
    assert found.violations_count == 0, found.generate_report()


@pytest.mark.parametrize("width", [390, 768, 1100])
def test_page_does_not_scroll_sideways(page, width):
    page.set_viewport_size({"width": width, "height": 844})
    wide = "all => all.filter((e) => e.getBoundingClientRect().right > innerWidth).map((e) => e.outerHTML.slice(0, 80))"
    size = page.evaluate("[document.scrollingElement.scrollWidth, document.scrollingElement.clientWidth]")
    assert size[0] <= size[1], page.eval_on_selector_all("main *", wide)


def test_search_finds_from_disk(browser, book):
    with reading(browser, book / "search.html", query="?q=Hutchinson") as (page, problems):
        expect(page.locator("#search-results li a").first).to_contain_text("Divergence")
        page.wait_for_load_state("networkidle")
        assert problems == []


# ---- The interactive figure of the divergence chapter ----

FIGURE = "#live-divergence-box"
FIELDS = {
    "source": lambda p: torch.stack([p[0], p[1]]),
    "rotation": lambda p: torch.stack([-p[1], p[0]]),
    "shear": lambda p: torch.stack([p[1], 0 * p[0]]),
    "saddle": lambda p: torch.stack([p[0], -p[1]]),
    "polynomial": lambda p: torch.stack([p[0] ** 2 * p[1], p[0] * p[1] ** 3]),
    "waves": lambda p: torch.stack([p[0].sin() * p[1].cos(), p[0].cos() * p[1].sin()]),
}
BOXES = [(0.0, 0.0, 1.0, 1.0), (1.0, 2.0, 0.05, 0.05), (-1.2, 0.7, 2.0, 1.1), (-2.0, -0.3, 0.9, 3.2)]


@pytest.fixture(scope="module")
def chapter(browser, book):
    with reading(browser, book / "divergence.html", has_touch=True) as (page, _):
        yield page


@pytest.fixture
def figure(chapter):
    chapter.locator(FIGURE).scroll_into_view_if_needed()
    put(chapter, field="polynomial", x=0.5, y=0.4, width=1.0, height=0.8)  # here every change shows in the numbers
    return chapter


def put(page, **state) -> None:
    page.evaluate("(state) => courseFigures['divergence-box'].set(state)", state)


def values(page) -> dict:
    return page.evaluate("courseFigures['divergence-box'].values()")


def grip(page, name: str) -> tuple[float, float]:
    box = page.locator(f"{FIGURE} [aria-label^='{name}']").bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


@pytest.mark.parametrize("field", FIELDS)
def test_figure_computes_what_the_companion_computes(figure, field):
    assert figure.eval_on_selector_all(f"{FIGURE} option", "all => all.map((o) => o.value)") == list(FIELDS)
    for x, y, width, height in BOXES:
        put(figure, field=field, x=x, y=y, width=width, height=height)
        centre, half = torch.tensor([x, y]).double(), torch.tensor([width, height]).double() / 2
        want = {"flux": flux(FIELDS[field], centre - half, centre + half).item(), "area": width * height}
        want["density"] = want["flux"] / want["area"]
        want["divergence"] = divergence(FIELDS[field], centre).item()
        assert values(figure) == pytest.approx(want, rel=0, abs=1e-6)
        shown = [float(text.replace("−", "-")) for text in figure.locator(f"{FIGURE} dd").all_inner_texts()]
        assert shown == pytest.approx([*want.values(), want["density"] - want["divergence"]], rel=0, abs=6e-5)


@pytest.mark.parametrize("by", ["mouse", "finger"])
@pytest.mark.parametrize(("name", "changes"), [("Centre", "divergence"), ("Corner", "area")])
def test_figure_follows_mouse_and_finger(figure, by, name, changes):
    before, (x, y), scrolled = values(figure), grip(figure, name), figure.evaluate("scrollY")
    if by == "mouse":
        figure.mouse.move(x, y)
        figure.mouse.down()
        figure.mouse.move(x + 30, y - 40, steps=4)
        figure.mouse.up()
        figure.mouse.move(x + 38, y - 34)  # over the handle, but let go
    else:
        touch = figure.context.new_cdp_session(figure)
        path = [{"x": x + 6 * step, "y": y - 8 * step} for step in range(6)]
        for kind, points in [("Start", path[:1]), *(("Move", [point]) for point in path[1:]), ("End", [])]:
            touch.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": points})
    assert values(figure)[changes] > before[changes] + 0.1
    assert grip(figure, name) == pytest.approx((x + 30, y - 40), abs=1.5)
    assert figure.evaluate("scrollY") == scrolled


def test_figure_follows_the_arrow_keys(figure):
    figure.locator(f"{FIGURE} [aria-label^='Centre']").focus()
    for key in ("ArrowRight", "ArrowUp", "Shift+ArrowUp"):
        figure.keyboard.press(key)
    x, y = 0.6, 0.51
    assert values(figure)["divergence"] == pytest.approx(2 * x * y + 3 * x * y**2)
    figure.locator(f"{FIGURE} [aria-label^='Corner']").focus()
    for key in ("ArrowLeft", "ArrowUp"):
        figure.keyboard.press(key)
    assert values(figure)["area"] == pytest.approx(0.8 * 1.0)
    expect(figure.locator(f"{FIGURE} [aria-live=polite]")).to_contain_text("Area: 0.8000")


def test_shrinking_box_shows_the_limit(figure):
    """At once with reduced motion, else step by step."""
    button = figure.get_by_role("button", name="Shrink the box")
    button.click()
    assert values(figure)["area"] == pytest.approx(0.05 * 0.05)
    assert values(figure)["density"] == pytest.approx(values(figure)["divergence"], abs=2e-3)
    figure.emulate_media(reduced_motion="no-preference")
    put(figure, width=1.0, height=1.0)
    button.click()
    assert values(figure)["area"] > 0.5
    figure.wait_for_function("courseFigures['divergence-box'].values().area < 0.0026")
    figure.emulate_media(reduced_motion="reduce")


def test_figure_follows_light_and_dark(figure):
    colours = set()
    for theme in ("light", "dark"):
        switch(figure, theme)
        out = figure.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--out').trim()")
        expect(figure.locator(f"{FIGURE} path[stroke='{out}']")).to_have_count(1)
        colours.add(out)
    assert len(colours) == 2


def test_image_is_what_gets_printed_in_light(figure):
    switch(figure, "dark")
    figure.emulate_media(media="print")
    expect(figure.locator(f"{FIGURE} img")).to_be_visible()
    expect(figure.locator(f"{FIGURE} .live")).to_be_hidden()
    expect(figure.locator("html")).to_have_attribute("data-theme", "light")
    figure.emulate_media(media="screen")
    expect(figure.locator("html")).to_have_attribute("data-theme", "dark")


@pytest.mark.parametrize("without", ["script", "library"])
def test_image_stays_without_script_or_library(browser, book, without):
    options = {"java_script_enabled": False} if without == "script" else {"block": "jsxgraphcore.js$"}
    with reading(browser, book / "divergence.html", **options) as (page, _):
        expect(page.locator(f"{FIGURE} img")).to_be_visible()
        assert page.locator(f"{FIGURE} .live").count() == 0
