"""The interactive figures: their numbers beside the companion's, and everything that mouse, finger and keys can do."""

import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import torch
from playwright.sync_api import expect

from companion.divergence import divergence, flux
from companion.gradients import directional_derivative, gradient
from companion.jacobians import jacobian

NUMBERS = {"rel": 0, "abs": 1e-6}
SHOWN = {"rel": 0, "abs": 6e-5}  # four decimals


def point(x: float, y: float) -> torch.Tensor:
    return torch.tensor([x, y], dtype=torch.float64)


# ---- What each figure draws, written once more in torch; and its numbers, from the companion ----

FIELDS = {
    "source": lambda p: torch.stack([p[0], p[1]]),
    "rotation": lambda p: torch.stack([-p[1], p[0]]),
    "shear": lambda p: torch.stack([p[1], 0 * p[0]]),
    "saddle": lambda p: torch.stack([p[0], -p[1]]),
    "polynomial": lambda p: torch.stack([p[0] ** 2 * p[1], p[0] * p[1] ** 3]),
    "waves": lambda p: torch.stack([p[0].sin() * p[1].cos(), p[0].cos() * p[1].sin()]),
}


def box(field: str, x: float, y: float, width: float, height: float) -> tuple[dict, list]:
    """The values of the box in a vector field, and what is shown of them."""
    centre, half = point(x, y), point(width, height) / 2
    total, area = flux(FIELDS[field], centre - half, centre + half).item(), width * height
    at_centre = divergence(FIELDS[field], centre).item()
    want = {"flux": total, "area": area, "density": total / area, "divergence": at_centre}
    return want, [*want.values(), total / area - at_centre]


SURFACES = {
    "hills": lambda p: (
        1.5 * (-((p - point(0.9, 0.5)) ** 2).sum()).exp()
        + 0.9 * (-((p - point(-1.1, -0.6)) ** 2 * point(1, 2)).sum()).exp()
    ),
    "plane": lambda p: 0.3 * p[0] - 0.4 * p[1],
    "bowl": lambda p: (p[0] ** 2 + 3 * p[1] ** 2) / 6,
    "saddle": lambda p: (p[0] ** 2 - p[1] ** 2) / 4,
    "bend": lambda p: ((1 - p[0]) ** 2 + 5 * (p[1] - p[0] ** 2) ** 2) / 20,
}


def slope(surface: str, x: float, y: float, angle: float) -> tuple[dict, list]:
    """The values of the hiker on a contour map, and what is shown of them."""
    f, at = SURFACES[surface], point(x, y)
    direction = point(math.cos(math.radians(angle)), math.sin(math.radians(angle)))
    grad = gradient(f, at)
    along, length = directional_derivative(f, at, direction).item(), grad.norm().item()
    across = torch.linalg.det(torch.stack([grad, direction])).abs().item()
    between = math.degrees(math.atan2(across, along)) if length else math.nan
    want = {"height": f(at).item(), "slope": along, "length": length, "dx": grad[0].item(), "dy": grad[1].item()}
    shown = [want["height"], along, length, between, along / length if length else math.nan]
    return want | {"angle": between}, shown


def whirl(p):
    turn = (p**2).sum() / 3
    return torch.stack([turn.cos() * p[0] - turn.sin() * p[1], turn.sin() * p[0] + turn.cos() * p[1]])


MAPS = {
    "waves": lambda p: p + 0.4 * (2 * p.flip(0)).sin(),
    "linear": lambda p: torch.stack([p[0] + 0.6 * p[1], 0.2 * p[0] + 0.9 * p[1]]),
    "mirror": lambda p: p.flip(0),
    "whirl": whirl,
    "squares": lambda p: torch.stack([(p[0] ** 2 - p[1] ** 2) / 2, p[0] * p[1]]),
    "pond": lambda p: p + 0.3 * FIELDS["waves"](p),
    "article": lambda p: torch.stack([p[0] ** 2 + 2 * p[1], 3 * p[0] + 4 * p[1] ** 2]),
}
NODES, WEIGHTS = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(40))


def square(map: str, x: float, y: float, side: float) -> tuple[dict, list]:
    """The values of the square on the sheet, and what is shown of them; the area from det J over the whole square."""
    J = jacobian(MAPS[map], point(x, y))
    all_J = jacobian(MAPS[map], point(x, y) + side / 2 * torch.cartesian_prod(NODES, NODES))
    ratio = (torch.linalg.det(all_J) * torch.outer(WEIGHTS, WEIGHTS).flatten()).sum().item() / 4
    entries, det, trace = J.flatten().tolist(), torch.linalg.det(J).item(), J.trace().item()
    want = dict(zip(("j11", "j12", "j21", "j22"), entries)) | {"det": det, "trace": trace, "ratio": ratio}
    return want, [*entries, trace, side, det, ratio, ratio - det]


# ---- What each figure can do ----


@dataclass
class Handle:
    name: str
    changes: str  # the value that a drag to the upper right makes larger
    lands: Callable  # where it comes to lie after such a drag, from its place, the pointer's and that of the middle
    keys: list[str]
    leads: dict  # the settings that the keys lead to
    says: str  # what a screen reader hears then


@dataclass
class Spec:
    page: str
    choice: str  # the setting that the select box changes
    options: dict
    numbers: Callable  # from the settings to the values and to the numbers shown
    states: list[dict]
    start: dict
    rest: dict  # settings where every change shows in the numbers
    handles: list[Handle]
    edge: dict  # where it comes to lie when it is sent far away to the lower right
    orange: int  # how many curves are drawn in the colour "out"


def at_the_pointer(place, pointer, middle):
    return pointer


def along_the_diagonal(place, pointer, middle):
    along = ((pointer[0] - place[0]) - (pointer[1] - place[1])) / 2  # on a screen y grows downwards
    return place[0] + along, place[1] - along


def on_the_circle(place, pointer, middle):
    scale = math.dist(place, middle) / math.dist(pointer, middle)
    return tuple(m + scale * (p - m) for m, p in zip(middle, pointer))


SPECS = {
    "divergence-box": Spec(
        page="divergence",
        choice="field",
        options=FIELDS,
        numbers=box,
        states=[
            {"x": x, "y": y, "width": width, "height": height}
            for x, y, width, height in [(0, 0, 1, 1), (1, 2, 0.05, 0.05), (-1.2, 0.7, 2, 1.1), (-2, -0.3, 0.9, 3.2)]
        ],
        start={"field": "waves", "x": 1.3, "y": -0.1, "width": 1.6, "height": 1.6},
        rest={"field": "polynomial", "x": 0.5, "y": 0.4, "width": 1.0, "height": 0.8},
        handles=[
            Handle(
                "Centre",
                changes="divergence",
                lands=at_the_pointer,
                keys=["ArrowRight", "ArrowUp", "Shift+ArrowUp"],
                leads={"x": 0.6, "y": 0.51},
                says="Divergence at centre: 1.0802",
            ),
            Handle(
                "Corner",
                changes="area",
                lands=at_the_pointer,
                keys=["ArrowLeft", "ArrowUp"],
                leads={"width": 0.8, "height": 1.0},
                says="Area: 0.8000",
            ),
        ],
        edge={"x": 2.0, "y": -2.1},
        orange=1,
    ),
    "gradients-slope": Spec(
        page="gradients",
        choice="surface",
        options=SURFACES,
        numbers=slope,
        states=[
            {"x": x, "y": y, "angle": angle}
            for x, y, angle in [(0, 0, 0), (1, 1, 123), (-2.2, 1.7, 200.5), (0.9, -2.2, 301), (2.1, 2.2, 45)]
        ],
        start={"surface": "hills", "x": 0.2, "y": -0.4, "angle": 10},
        rest={"surface": "bowl", "x": 0.5, "y": -0.6, "angle": -30},
        handles=[
            Handle(
                "Hiker",
                changes="dy",
                lands=at_the_pointer,
                keys=["ArrowRight", "ArrowUp", "Shift+ArrowDown"],
                leads={"x": 0.6, "y": -0.51},
                says="Length of the gradient: 0.5478",
            ),
            Handle(
                "Direction",
                changes="angle",
                lands=on_the_circle,
                keys=["ArrowUp", "ArrowLeft", "ArrowLeft", "Shift+ArrowDown", "Shift+ArrowRight", "ArrowRight"],
                leads={"angle": -22},
                says="Slope along the direction: 0.3793",
            ),
        ],
        edge={"x": 2.2, "y": -2.2},
        orange=2,
    ),
    "jacobians-square": Spec(
        page="jacobians",
        choice="map",
        options=MAPS,
        numbers=square,
        states=[
            {"x": x, "y": y, "side": side}
            for x, y, side in [(0, 0, 2), (0.6, 0.4, 0.8), (2, -1.9, 0.05), (-1.4, 1.1, 0.7), (1.5, -1.2, 2)]
        ],
        start={"map": "waves", "x": 0.6, "y": 0.4, "side": 0.8},
        rest={"map": "squares", "x": 0.5, "y": 0.4, "side": 0.6},
        handles=[
            Handle(
                "Centre",
                changes="det",
                lands=at_the_pointer,
                keys=["ArrowRight", "ArrowUp", "Shift+ArrowUp"],
                leads={"x": 0.6, "y": 0.51},
                says="det J: 0.6201",
            ),
            Handle(
                "Corner",
                changes="ratio",
                lands=along_the_diagonal,
                keys=["ArrowUp", "ArrowRight", "Shift+ArrowLeft"],
                leads={"side": 0.79},
                says="Side of the square: 0.7900",
            ),
        ],
        edge={"x": 2.2, "y": -2.2},
        orange=2,
    ),
}


class Figure:
    """A figure on an open page, as a hand and an eye meet it."""

    def __init__(self, page, name: str):
        self.page, self.name, self.spec = page, name, SPECS[name]
        self.root = page.locator(f"#live-{name}")
        self.first = self.values()

    def put(self, **settings) -> None:
        self.page.evaluate("([name, settings]) => courseFigures[name].set(settings)", [self.name, settings])

    def values(self) -> dict:
        return self.page.evaluate("(name) => courseFigures[name].values()", self.name)

    def shown(self) -> list[float]:
        texts = self.root.locator("dd").all_inner_texts()
        return [math.nan if text == "–" else float(text.replace("−", "-")) for text in texts]

    def numbers(self, **changes) -> dict:
        return self.spec.numbers(**self.spec.rest | changes)[0]

    def wait_for(self, value: str, start: float, end: float) -> None:
        """Waits until a value is on its way from start to end, and then until it has arrived."""
        off = "([name, value, number]) => Math.abs(courseFigures[name].values()[value] - number)"
        on_its_way = f"([name, value, start, end]) => [start, end].every((n) => ({off})([name, value, n]) > 1e-9)"
        self.page.wait_for_function(on_its_way, arg=[self.name, value, start, end])
        self.page.wait_for_function(f"(arg) => ({off})(arg) < 1e-9", arg=[self.name, value, end])

    def path(self, colour: str) -> str:
        """The curves drawn in a colour of the style sheet, as a selector."""
        value = "(name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim()"
        return f"path[stroke='{self.page.evaluate(value, f'--{colour}')}']"

    def drawn(self, selector) -> dict:
        """The frame about an element's shape, in the pixels of its board."""
        shape = self.root.locator(selector) if isinstance(selector, str) else selector
        return shape.evaluate("(e) => (({ x, y, width, height }) => ({ x, y, width, height }))(e.getBBox())")

    def handle(self, name: str):
        return self.root.locator(f"[aria-label^='{name}']")

    def place(self, name: str) -> tuple[float, float]:
        box = self.handle(name).bounding_box()
        return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


@pytest.fixture(scope="module")
def figures(reading, book):
    """Opens the page of a figure at its first use and keeps it open for all of its tests."""
    with ExitStack() as pages:

        def opened(name: str) -> Figure:
            page, _ = pages.enter_context(reading(book / f"{SPECS[name].page}.html", has_touch=True))
            return Figure(page, name)

        yield cache(opened)


@pytest.fixture(params=SPECS)
def opened(request, figures):
    return figures(request.param)


@pytest.fixture
def figure(opened):
    opened.root.scroll_into_view_if_needed()
    opened.put(**opened.spec.rest)
    return opened


def each(of: Callable) -> pytest.MarkDecorator:
    """A test for each figure and each of what `of` gives for it."""
    cases = [(name, item) for name, spec in SPECS.items() for item in of(spec)]
    ids = [f"{name}-{item.name if isinstance(item, Handle) else item}" for name, item in cases]
    return pytest.mark.parametrize(("opened", "item"), cases, ids=ids, indirect=["opened"])


def only(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("opened", names, indirect=True)


# ---- What all of them do ----


def test_figure_begins_where_the_image_stands(opened):
    assert opened.first == pytest.approx(opened.spec.numbers(**opened.spec.start)[0], **NUMBERS)


@each(lambda spec: spec.options)
def test_figure_computes_what_the_companion_computes(figure, item):
    options = figure.root.locator("option").evaluate_all("all => all.map((option) => option.value)")
    assert options == list(figure.spec.options)
    for state in figure.spec.states:
        settings = {figure.spec.choice: item} | state
        figure.put(**settings)
        want, shown = figure.spec.numbers(**settings)
        assert figure.values() == pytest.approx(want, **NUMBERS, nan_ok=True)
        assert figure.shown() == pytest.approx(shown, **SHOWN, nan_ok=True)


@each(lambda spec: spec.options)
def test_select_box_changes_the_figure(figure, item):
    figure.root.locator("select").select_option(item)
    want = figure.numbers(**{figure.spec.choice: item})
    assert figure.values() == pytest.approx(want, **NUMBERS)


def test_figure_keeps_within_its_bounds(figure):
    figure.put(x=9, y=-9)
    assert figure.values() == pytest.approx(figure.numbers(**figure.spec.edge), **NUMBERS)


@pytest.mark.parametrize("by", ["mouse", "finger"])
@each(lambda spec: spec.handles)
def test_figure_follows_mouse_and_finger(figure, item, by):
    page, before, scrolled = figure.page, figure.values(), figure.page.evaluate("scrollY")
    x, y = figure.place(item.name)
    middle = figure.place(figure.spec.handles[0].name)
    if by == "mouse":
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x + 30, y - 40, steps=4)
        page.mouse.up()
        page.mouse.move(x + 38, y - 34)  # over the handle, but let go
    else:
        touch = page.context.new_cdp_session(page)
        path = [{"x": x + 6 * step, "y": y - 8 * step} for step in range(6)]
        for kind, points in [("Start", path[:1]), *(("Move", [point]) for point in path[1:]), ("End", [])]:
            touch.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": points})
    assert figure.values()[item.changes] > before[item.changes] + 0.1
    assert figure.place(item.name) == pytest.approx(item.lands((x, y), (x + 30, y - 40), middle), abs=1.5)
    assert page.evaluate("scrollY") == scrolled


@each(lambda spec: spec.handles)
def test_figure_follows_the_arrow_keys(figure, item):
    figure.handle(item.name).focus()
    for key in item.keys:
        figure.page.keyboard.press(key)
    assert figure.values() == pytest.approx(figure.numbers(**item.leads), **NUMBERS)
    expect(figure.root.locator("[aria-live=polite]")).to_contain_text(item.says)


def test_figure_follows_light_and_dark(figure, switch):
    colours = set()
    for theme in ("light", "dark"):
        switch(figure.page, theme)
        expect(figure.root.locator(figure.path("out"))).to_have_count(figure.spec.orange)
        colours.add(figure.path("out"))
    assert len(colours) == 2


def test_image_is_what_gets_printed_in_light(figure, switch):
    page = figure.page
    switch(page, "dark")
    page.emulate_media(media="print")
    expect(figure.root.locator("img")).to_be_visible()
    expect(figure.root.locator(".live")).to_be_hidden()
    expect(page.locator("html")).to_have_attribute("data-theme", "light")
    page.emulate_media(media="screen")
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")


@pytest.mark.parametrize("without", ["script", "library"])
@pytest.mark.parametrize("name", SPECS)
def test_image_stays_without_script_or_library(reading, book, name, without):
    options = {"java_script_enabled": False} if without == "script" else {"block": "jsxgraphcore.js$"}
    with reading(book / f"{SPECS[name].page}.html", **options) as (page, _):
        expect(page.locator(f"#live-{name} img")).to_be_visible()
        assert page.locator(f"#live-{name} .live").count() == 0


# ---- What one or two of them do ----


@pytest.fixture
def in_motion(figure):
    """The figure for a reader who wants motion."""
    figure.page.emulate_media(reduced_motion="no-preference")
    yield figure
    figure.page.emulate_media(reduced_motion="reduce")


SHRINKING = {  # the button, the smallest size, the mean and what it tends to
    "divergence-box": ("Shrink the box", {"width": 0.05, "height": 0.05}, "density", "divergence"),
    "jacobians-square": ("Shrink the square", {"side": 0.05}, "ratio", "det"),
}


@only(*SHRINKING)
def test_shrinking_shows_the_limit(figure):
    button, smallest, mean, limit = SHRINKING[figure.name]
    before = figure.values()
    assert abs(before[mean] - before[limit]) > 0.05
    figure.root.get_by_role("button", name=button).click()
    after = figure.values()
    assert after == pytest.approx(figure.numbers(**smallest), **NUMBERS)
    assert after[mean] == pytest.approx(after[limit], abs=2e-3)


@only(*SHRINKING)
def test_shrinking_takes_its_time(in_motion):
    figure, (button, smallest, mean, _) = in_motion, SHRINKING[in_motion.name]
    before, end = figure.values()[mean], figure.numbers(**smallest)[mean]
    figure.root.get_by_role("button", name=button).click()
    figure.wait_for(mean, before, end)


@only("gradients-slope")
def test_uphill_the_slope_is_the_length_of_the_gradient(figure):
    figure.put(angle=100)
    assert figure.values()["slope"] < 0
    figure.root.get_by_role("button", name="Turn uphill").click()
    values = figure.values()
    assert values["length"] == pytest.approx(math.hypot(0.5 / 3, -0.6))
    assert values["slope"] == pytest.approx(values["length"], abs=1e-12)
    assert figure.shown()[3:] == pytest.approx([0, 1], abs=1e-9)


@only("gradients-slope")
def test_turning_uphill_takes_its_time(in_motion):
    in_motion.put(angle=100)
    before = in_motion.values()["slope"]
    in_motion.root.get_by_role("button", name="Turn uphill").click()
    in_motion.wait_for("slope", before, math.hypot(0.5 / 3, -0.6))


@only("gradients-slope")
def test_on_the_flat_no_way_is_uphill(figure):
    figure.put(x=0, y=0)
    before = figure.handle("Direction").get_attribute("aria-label")
    figure.root.get_by_role("button", name="Turn uphill").click()
    assert figure.handle("Direction").get_attribute("aria-label") == before
    assert figure.shown() == pytest.approx([0, 0, 0, math.nan, math.nan], nan_ok=True)


@only("gradients-slope")
def test_slope_is_drawn_between_its_bounds(figure):
    """The marker lies on the upper one uphill, on the lower one downhill, and halfway along a contour."""
    uphill = math.degrees(math.atan2(-0.6, 0.5 / 3))
    bounds = figure.drawn(".flat path[stroke-dasharray]")
    assert bounds["height"] > 50
    for turn, share in [(0, 0), (90, 0.5), (180, 1)]:
        figure.put(angle=uphill + turn)
        marker = figure.drawn(".flat ellipse")
        height = marker["y"] + marker["height"] / 2
        assert height == pytest.approx(bounds["y"] + share * bounds["height"], abs=0.6)


@only("gradients-slope")
def test_gradient_is_drawn_from_the_hiker(figure):
    figure.put(surface="plane")  # where it is (0.3, −0.4)
    hiker, arrow = figure.drawn("[aria-label^=Hiker]"), figure.drawn(f".jxgbox:not(.flat) {figure.path('out')}")
    assert arrow["x"] == pytest.approx(hiker["x"] + hiker["width"] / 2, abs=0.6)
    assert arrow["y"] == pytest.approx(hiker["y"] + hiker["height"] / 2, abs=0.6)
    assert arrow["width"] > 10
    assert arrow["height"] / arrow["width"] == pytest.approx(4 / 3, rel=0.05)


@only("jacobians-square")
@pytest.mark.parametrize(("map", "same"), [("linear", True), ("mirror", True), ("waves", False), ("article", False)])
def test_parallelogram_is_the_image_of_a_linear_map(figure, map, same):
    figure.put(map=map, side=2)
    stretched = figure.root.locator(".jxgbox").nth(1)
    true, linear = (figure.drawn(stretched.locator(figure.path(colour)).first) for colour in ("out", "in"))
    off = max(abs(true[side] - linear[side]) for side in true)
    assert off < 0.6 if same else off > 5
