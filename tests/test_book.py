"""The pages of the built book as a reader meets them, from disk and without a network."""

import re
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

BOOK = Path(__file__).parents[1] / "book"
PAGES = [*re.findall(r"(?:root|file): (\S+)", (BOOK / "_toc.yml").read_text(encoding="utf-8")), "genindex", "search"]


@pytest.fixture(scope="module", params=PAGES)
def opened(request, reading, book):
    with reading(book / f"{request.param}.html") as page_and_problems:
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


ONE_TOKEN_OF_A_KIND = """() => {  // axe would take minutes over the thousands of coloured words in a chapter's code
    const kinds = new Set();
    for (const token of document.querySelectorAll("pre span")) {
        const kind = `${token.closest(".cell_input, .cell_output, .admonition, main").className}: ${token.className}`;
        if (kinds.has(kind) && !token.children.length) token.replaceWith(token.textContent);
        kinds.add(kind);
    }
}"""


@pytest.mark.parametrize(("theme", "width"), [("light", 1280), ("dark", 390)])
def test_page_is_accessible(page, switch, theme, width):
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


def test_search_finds_from_disk(reading, book):
    with reading(book / "search.html", query="?q=Hutchinson") as (page, problems):
        expect(page.locator("#search-results li a").first).to_contain_text("Divergence")
        page.wait_for_load_state("networkidle")
        assert problems == []
