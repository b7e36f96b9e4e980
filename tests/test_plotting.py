"""The figure style and the moving picture's page."""

import base64
import io
import json
import re

import matplotlib.pyplot as plt
import pytest
import torch
from PIL import Image

from companion import plotting

ALT = "A bar that grows from the left to the right."


def grow(size=(2, 2), frames=3, alt=ALT):
    figure, ax = plt.subplots(figsize=size, dpi=50)
    return plotting.moving_picture(figure, lambda i: ax.barh(0, i + 1, color="C0"), frames, alt).data


def pictures(page):
    return json.loads(re.search(r'type="application/json">(.*?)</script>', page)[1])


def pixels(picture):
    return Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB")


def test_every_frame_is_drawn_and_the_last_one_shown():
    page = grow()
    first, second, last = pictures(page)
    assert len({first, second, last}) == 3
    assert f'<img alt="{ALT}" src="data:image/png;base64,{last}">' in page
    assert 'min="0" max="2" value="2"' in page
    assert all(pixels(frame).size == (100, 100) for frame in (first, second, last))


def test_the_page_is_the_same_twice_and_leaves_no_figure_open():
    plt.close("all")
    assert grow() == grow()
    assert plt.get_fignums() == []


def test_it_needs_nothing_from_outside_and_no_unique_ids():
    page = grow()
    assert not re.search(r"https?:|\bid=|<link", page)


def test_alt_text_is_escaped_and_required():
    assert 'alt="a &quot;quote&quot; &lt;here&gt;"' in grow(alt='a "quote" <here>')
    with pytest.raises(ValueError, match="alt: expected a sentence"):
        grow(alt="  ")


def test_a_picture_too_large_for_a_page_is_refused():
    figure = plt.figure(figsize=(8, 8), dpi=200)
    noise = torch.rand(1600, 1600, generator=torch.Generator().manual_seed(0)).numpy()
    figure.add_axes([0, 0, 1, 1]).imshow(noise)
    with pytest.raises(ValueError, match=r"frames: .* KB, expected at most 600"):
        plotting.moving_picture(figure, lambda i: None, 2, ALT)


def test_arrows_point_along_the_field_and_fit_the_grid():
    figure, ax = plt.subplots()
    plotting.plot_field(ax, lambda p: torch.stack([-p[1], p[0]]), limit=2.0, arrows=5)
    (quiver,) = ax.collections
    x, y = quiver.XY.T
    assert quiver.N == 25
    torch.testing.assert_close(torch.as_tensor(quiver.U * x + quiver.V * y), torch.zeros(25, dtype=torch.float64))
    longest = (torch.as_tensor(quiver.U) ** 2 + torch.as_tensor(quiver.V) ** 2).sqrt().max()
    assert 0.9 < longest <= 1.0  # one cell of the grid is 4 / (5 − 1) wide
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("x", "y")
    plt.close(figure)


def luminance(color):
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_the_first_three_colours_stand_out_from_the_page():
    """The ratio 3 : 1 that WCAG asks of graphics, for the lines drawn first, against white."""
    cycle = [entry["color"] for entry in plotting.STYLE["axes.prop_cycle"]][:3]
    assert cycle == [plotting.BLUE, plotting.ORANGE, plotting.GREEN]
    assert all(1.05 / (luminance(color) + 0.05) > 3 for color in cycle)


def test_style_is_applied():
    with plt.rc_context():
        plotting.use_style()
        assert plt.rcParams["font.size"] == 11
        assert plt.rcParams["figure.figsize"] == [5.0, 3.4]
