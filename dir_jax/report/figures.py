"""Pictures of a run: how training went, and what the network retrieves."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dir_jax.runtime.files import replacing

# They differ in lightness as well as in hue, for those who cannot tell red from green.
_FRAMES = {
    "query": (38, 84, 164), "relevant": (22, 160, 88), "wrong": (200, 30, 45),
    "junk": (168, 168, 168),
}  # fmt: skip
_CURVES = ("#2654a4", "#16a058", "#d97706", "#c81e2d")
_INK, _PAPER = (34, 34, 34), (255, 255, 255)
_CELL, _FRAME, _GAP, _CAPTION, _MARGIN, _HEADER = 168, 6, 12, 24, 28, 64  # pixels


class RankedRow(NamedTuple):
    """A query image, and (image, verdict, score) of each of its first results, best first."""

    query: Image.Image
    results: Sequence[tuple[Image.Image, str, float]]  # 'relevant', 'wrong' or 'junk'
    ap: float | None = None  # the query's average precision in [0, 1], if it is known


def save_ranked_results(path: str | os.PathLike[str], rows: Sequence[RankedRow]) -> None:
    """Draws a row for each query: the query image, then its results.

    The colour of a result's frame is its verdict; below it are its rank and its score. The rank is
    the place in the row, so that junk has one too. Each image keeps its aspect.

    Args:
      path: the picture to write, whole or not at all; its suffix determines the format.
      rows: the queries to draw.

    Raises:
      UserError: `path` cannot be written.
    """
    columns = max((len(row.results) for row in rows), default=0)
    step, row_height = _CELL + _GAP, _CELL + _CAPTION + _GAP
    separator = 2 * _GAP  # between the query and the results
    width = max(2 * _MARGIN + step * (1 + columns) - _GAP + separator, 5 * _CELL)
    height = _HEADER + row_height * len(rows) + _MARGIN - _GAP
    canvas = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(canvas)
    title, font = "Queries and their first results", ImageFont.load_default(22)
    draw.text((_MARGIN, _HEADER / 2), title, _INK, font, anchor="lm")
    _draw_legend(draw, width - _MARGIN)
    for r, row in enumerate(rows):
        top = _HEADER + r * row_height
        label = "query" if row.ap is None else f"query · AP {row.ap:.3f}"
        _draw_cell(canvas, (_MARGIN, top), row.query, "query", label)
        for c, (image, verdict, score) in enumerate(row.results):
            left = _MARGIN + step * (c + 1) + separator
            _draw_cell(canvas, (left, top), image, verdict, f"{c + 1} · {score:.3f}")
    with replacing(path) as scratch:
        canvas.save(scratch)


def save_training_curves(
    path: str | os.PathLike[str], history: Sequence[Mapping[str, Any]]
) -> None:
    """Draws the loss and the mAP over the steps, and notes the mAP before and after training.

    Args:
      path: the picture to write, whole or not at all; its suffix determines the format.
      history: the rows of metrics.jsonl. Each has 'step'; some have 'loss', and some have 'eval', a
        dict of which every entry whose name begins with 'mAP' is drawn.

    Raises:
      UserError: `path` cannot be written.
    """
    # Imported here, because it takes as long as everything else that a command imports; and without
    # pyplot, which keeps global state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1, wspace=0.04)
    figure = Figure(figsize=(11, 4.2), layout=layout)
    FigureCanvasAgg(figure)
    loss_axes, map_axes = figure.subplots(1, 2)
    _plot_loss(loss_axes, history)
    loss_axes.set_ylim(bottom=0)  # so that a fall looks as large as it is
    _plot_map(map_axes, history)
    last = max((row["step"] for row in history), default=0)
    for axes in (loss_axes, map_axes):
        axes.set_xlabel("step")
        axes.set_xlim(-0.03 * max(last, 1), 1.03 * max(last, 1))
        axes.grid(color="0.9", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color("0.6")
        axes.tick_params(color="0.6", labelcolor="0.25")
    with replacing(path) as scratch:
        figure.savefig(scratch, dpi=150)


def _plot_loss(axes: Any, history: Sequence[Mapping[str, Any]]) -> None:
    axes.set_title("Training loss", loc="left", fontweight="bold", pad=10)
    rows = [row for row in history if "loss" in row]
    steps = np.array([row["step"] for row in rows])
    loss = np.array([row["loss"] for row in rows], np.float64)
    if len(loss) < 30:
        axes.plot(steps, loss, color=_CURVES[0], linewidth=1.8, marker="o", markersize=3)
        return
    axes.plot(steps, loss, color=_CURVES[0], linewidth=0.8, alpha=0.35, label="as logged")
    window = max(len(loss) // 20, 3) | 1
    sums, counts = (np.convolve(x, np.ones(window), "same") for x in (loss, np.ones(len(loss))))
    smooth = sums / counts
    axes.plot(steps, smooth, color=_CURVES[0], linewidth=2, label=f"mean of {window}")
    axes.legend(frameon=False)


def _plot_map(axes: Any, history: Sequence[Mapping[str, Any]]) -> None:
    axes.set_title("Mean average precision", loc="left", fontweight="bold", pad=10)
    axes.set_ylim(0, 1.02)
    rows = [row for row in history if row.get("eval")]
    names = dict.fromkeys(name for row in rows for name in row["eval"] if name.startswith("mAP"))
    for name, color in zip(names, itertools.cycle(_CURVES)):
        here = [row for row in rows if name in row["eval"]]
        steps, values = [r["step"] for r in here], [r["eval"][name] for r in here]
        before, after = values[0], values[-1]
        label = f"{name}  {before:.3f} → {after:.3f}"
        axes.plot(steps, values, color=color, linewidth=2, marker="o", markersize=4, label=label)
        for step, value, fill in ((steps[0], before, "white"), (steps[-1], after, color)):
            axes.plot(step, value, "o", color=color, markerfacecolor=fill, markersize=8, zorder=3)
    if names:
        legend = axes.legend(title="○ before → ● after", framealpha=0.9, edgecolor="0.9")
        legend.set_alignment("left")


def _draw_legend(draw: ImageDraw.ImageDraw, right: int) -> None:
    font = ImageFont.load_default(16)
    for name, color in reversed(_FRAMES.items()):
        right -= round(draw.textlength(name, font))
        draw.text((right, _HEADER / 2), name, _INK, font, anchor="lm")
        box = (right - 24, _HEADER / 2 - 8, right - 8, _HEADER / 2 + 8)
        draw.rectangle(box, outline=color, width=4)
        right -= 44


def _draw_cell(
    canvas: Image.Image, corner: tuple[int, int], image: Image.Image, verdict: str, caption: str
) -> None:
    """Draws an image in its frame at the bottom centre of a cell, and a caption below it."""
    inner = _CELL - 2 * _FRAME
    scale = inner / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    thumbnail = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    left, bottom = corner[0] + (_CELL - size[0]) // 2, corner[1] + _CELL - _FRAME
    top, right = bottom - size[1], left + size[0]
    draw = ImageDraw.Draw(canvas)
    frame = (left - _FRAME, top - _FRAME, right + _FRAME - 1, bottom + _FRAME - 1)
    draw.rectangle(frame, fill=_FRAMES[verdict])
    canvas.paste(thumbnail, (left, top))
    middle = (corner[0] + _CELL / 2, corner[1] + _CELL + _CAPTION / 2)
    draw.text(middle, caption, _INK, ImageFont.load_default(15), anchor="mm")
