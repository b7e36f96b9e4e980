"""The course's figure style: one look, readable on a phone, in light and dark, and without colour vision.

Figures are drawn with dark ink on white; in dark mode the book's style sheet turns the lightness around and keeps
the hues.  The colours are those of Okabe and Ito, chosen to stay apart for every kind of colour vision.
"""

import base64
import html
import io
import json
from collections.abc import Callable

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import HTML
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

BLUE, ORANGE, GREEN, PURPLE, SKY, YELLOW, BLACK = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000",
)  # fmt: skip

STYLE = {
    "figure.figsize": (5.0, 3.4),
    "figure.dpi": 144,
    "figure.constrained_layout.use": True,
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.labelsize": 11,
    "axes.prop_cycle": plt.cycler(color=[BLUE, ORANGE, GREEN, PURPLE, SKY, YELLOW, BLACK]),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "lines.linewidth": 2,
    "legend.frameon": False,
    "image.cmap": "viridis",
}

PLAYER = """
for (const player of document.querySelectorAll(".moving-picture:not([data-ready])")) {
  player.dataset.ready = "yes";
  const frames = JSON.parse(player.querySelector("[type='application/json']").textContent);
  const [image, button, slider] = ["img", "button", "input"].map((name) => player.querySelector(name));
  let timer = null;
  const show = (i) => { slider.value = i; image.src = "data:image/png;base64," + frames[i]; };
  const stop = () => { clearInterval(timer); timer = null; button.textContent = "▶ Play"; };
  const step = () => { if (+slider.value + 1 < frames.length) show(+slider.value + 1); else stop(); };
  button.onclick = () => {
    if (timer) return stop();
    if (+slider.value + 1 >= frames.length) show(0);
    button.textContent = "❚❚ Pause";
    timer = setInterval(step, 120);
  };
  slider.oninput = () => { stop(); show(+slider.value); };
}
"""


def use_style() -> None:
    """Switch matplotlib to the course's style; every notebook calls this once."""
    plt.rcParams.update(STYLE)


def plot_field(ax: Axes, field: Callable[[Tensor], Tensor], limit: float = 2.0, arrows: int = 11, **style) -> None:
    """Draw a plane vector field as arrows on a square of half-width `limit` around the origin.

    `field` maps one point `(2,)` to `(2,)`.  Arrow lengths are scaled so that the longest spans one grid cell.
    """
    grid = torch.linspace(-limit, limit, arrows, dtype=torch.float64)
    x = torch.cartesian_prod(grid, grid)
    v = torch.vmap(field)(x).detach()
    longest = v.norm(dim=-1).max().clamp(min=1e-12)
    v = v / longest * (2 * limit / (arrows - 1)) * 0.95
    options = {"color": "0.45", "angles": "xy", "scale_units": "xy", "scale": 1, "width": 0.006, "pivot": "mid"}
    ax.quiver(*x.T.numpy(), *v.T.numpy(), **options | style)
    ax.set(xlim=(-1.1 * limit, 1.1 * limit), ylim=(-1.1 * limit, 1.1 * limit), aspect="equal", xlabel="x", ylabel="y")


def moving_picture(figure: Figure, update: Callable[[int], object], frames: int, alt: str) -> HTML:
    """Frames of a figure as a small player that needs neither a kernel nor the network.

    `update(i)` draws frame i into `figure`.  The player rests on the last frame, never starts by itself and never
    loops; without JavaScript and in print that last frame is what remains.  Raises ValueError without an `alt`
    text or over 600 KB, which is a page's worth.
    """
    if not alt.strip():
        raise ValueError("alt: expected a sentence that says what the moving picture shows, got none")
    drawn = []
    for i in range(frames):
        update(i)
        figure.canvas.draw()
        drawn.append(Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("RGB"))
    # One palette for all, or a thin line changes its colour from frame to frame.
    samples = np.concatenate([np.asarray(drawn[i]) for i in (0, frames // 2, -1)])
    palette = Image.fromarray(samples).quantize(32, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    pictures = []
    for frame in drawn:
        buffer = io.BytesIO()
        frame.quantize(palette=palette, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
        pictures.append(base64.b64encode(buffer.getvalue()).decode())
    plt.close(figure)
    page = (
        f'<div class="moving-picture"><img alt="{html.escape(alt)}" src="data:image/png;base64,{pictures[-1]}">'
        f'<div class="controls"><button type="button">▶ Play</button>'
        f'<input type="range" aria-label="Frame" min="0" max="{frames - 1}" value="{frames - 1}"></div>'
        f'<script type="application/json">{json.dumps(pictures)}</script><script>{PLAYER}</script></div>'
    )
    if len(page) > 600_000:
        raise ValueError(f"frames: the moving picture takes {len(page) // 1000} KB, expected at most 600; draw fewer")
    return HTML(page)
